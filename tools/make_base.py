"""Train the embedded base from scratch on simulated series, and save it as a Hugging Face folder.

    python tools/make_base.py configs/base.toml --out DIR [--resume]

DIR gets config.json, model.safetensors, the tokenizer files, and training.json: the settings, the seed, the learning
curve and the versions. About an hour on two cores; DIR.work holds the simulated series and the checkpoints.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlv import dynamics, lora
from jaxlv.checkpoint import Checkpoints
from jaxlv.codec import SYMBOLS, Codec
from jaxlv.config import ModelConfig, OptimizerConfig, build_config
from jaxlv.errors import JaxlvError
from jaxlv.flops import Work, count
from jaxlv.model import Qwen2
from jaxlv.tokens import Alphabet, Windows, load_alphabet, stack, window
from jaxlv.train import fit, init_state, make_optimizer, make_train_step, make_validation_step
from jaxlv.weights import count_params, save_pretrained
from jaxlv_tools.console import Progress, describe, program, versions

SPECIAL = ("<|endoftext|>", "<|im_end|>", "<|unknown|>")


@dataclass(frozen=True)
class Architecture:
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int


@dataclass(frozen=True)
class Simulated:
    number: int  # series simulated for a share of 1
    steps: int
    least: float
    shares: dict
    strides: tuple[int, ...]
    from_start: float
    noisy: float
    noise: float
    gappy: float
    gaps: float
    peaked: bool
    ranges: dict


@dataclass(frozen=True)
class Text:
    decimals: tuple[int, ...]
    headroom: tuple[float, ...]
    context_steps: tuple[int, ...]


@dataclass(frozen=True)
class Phase:
    until: int
    length: int
    batch_size: int


@dataclass(frozen=True)
class BaseConfig:
    seed: int
    steps: int
    validate_every: int
    architecture: Architecture
    series: Simulated
    text: Text
    optimizer: OptimizerConfig
    phases: tuple[Phase, ...]


# ------------------------------------------------------------------------------------------------ the series


def simulate(config: Simulated, seed: int) -> dict[str, np.ndarray]:
    """{system: values (N, T, 2) float32}, of series in which neither population dies out, late, to `least` of its peak."""
    ranges = {name: dynamics.Range(low, high, log=True, peaked=config.peaked) for name, (low, high) in config.ranges.items()}
    series = {}
    for name, share in config.shares.items():
        wanted = (*dynamics.SYSTEMS[name].parameters, "x0", "y0")
        chosen = {parameter: ranges[parameter] for parameter in wanted}
        preset = dynamics.Preset(f"base/{name}", name, chosen, stop=config.steps - 1.0, steps=config.steps)
        solver = dynamics.Solver(method="Tsit5", rtol=1e-6, atol=1e-6)
        values_NTV = dynamics.draw(preset, math.ceil(share * config.number), seed, solver, attempts=30).values_NTV
        late_NTV = values_NTV[:, config.steps // 2 :]
        alive = (late_NTV.min(axis=1) > config.least * values_NTV.max(axis=1)).all(axis=1)
        series[name] = values_NTV[alive].astype(np.float32)
    return series


class Stream:
    """Training windows as a function of the step: a series, a stretch of it, a scale, a number format, all drawn anew."""

    def __init__(self, config: BaseConfig, series: dict[str, np.ndarray], alphabet: Alphabet, seed: int):
        self.config, self.series, self.alphabet, self.seed = config, series, alphabet, seed

    def __call__(self, step: int) -> Windows:
        """The batch (1, B, L) of a step."""
        phase = next(phase for phase in self.config.phases if step < phase.until)
        random = np.random.default_rng([self.seed, step])
        rows = [self.one(random, phase.length) for _ in range(phase.batch_size)]
        return Windows(*(array[None] for array in tuple(stack(rows, phase.length))))

    def one(self, random: np.random.Generator, length: int) -> Any:
        """One window of a random series."""
        config, text = self.config.series, self.config.text
        name = random.choice(list(config.shares), p=list(config.shares.values()))
        series_TV = random.choice(self.series[name]).astype(float)
        decimals = int(random.choice(text.decimals))
        steps = length // (2 * (decimals + 3)) + 2
        stride = int(random.choice(config.strides))
        latest = max(0, len(series_TV) - steps * stride)
        start = 0 if random.random() < config.from_start else int(random.integers(latest + 1))
        values_TV = series_TV[start::stride]
        if random.random() < config.gappy:
            values_TV = values_TV[random.random(len(values_TV)) >= random.uniform(0, config.gaps)]
        values_TV = values_TV[:steps]
        if random.random() < config.noisy:
            values_TV = values_TV * np.exp(random.uniform(0, config.noise) * random.standard_normal(values_TV.shape))
        least, most = text.context_steps
        context_TV = values_TV[: random.integers(least, most + 1)]
        codec = Codec("context", random.uniform(text.headroom[0], text.headroom[-1]), decimals)
        scaled = np.minimum(values_TV / codec.fit(context_TV), 9999.0)
        return window(self.alphabet.encode(codec.encode(scaled, np.ones(2))), length)


# ------------------------------------------------------------------------------------------------ the files


def write_tokenizer(folder: Path) -> None:
    """Tokenizer files of the 13 symbols and three specials, one token per character, as transformers reads them."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {symbol: i for i, symbol in enumerate((*SYMBOLS, *SPECIAL))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[2]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIAL[1],
        "pad_token": SPECIAL[0],
        "unk_token": SPECIAL[2],
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def architecture(config: BaseConfig) -> ModelConfig:
    """The Qwen2.5 architecture of the config, its vocabulary the tokenizer's."""
    shape = dataclasses.asdict(config.architecture)
    return ModelConfig(
        **shape,
        vocab_size=len(SYMBOLS) + len(SPECIAL),
        head_dim=config.architecture.hidden_size // config.architecture.num_attention_heads,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
    )


def train(config: BaseConfig, work: Path, resume: bool, progress: Progress) -> tuple[Qwen2, Any, list[dict]]:
    """(model, params, learning curve). Checkpoints and the simulated series lie in `work`."""
    tokenizer = work / "tokenizer"
    write_tokenizer(tokenizer)
    model = Qwen2(architecture(config), attention="blocked")
    alphabet = load_alphabet(tokenizer, model.config.vocab_size)
    held_out = simulate(dataclasses.replace(config.series, number=2048), config.seed + 1)
    stream = Stream(config, simulate(config.series, config.seed), alphabet, config.seed)
    validation = [Stream(config, held_out, alphabet, config.seed + 1)(config.steps - 1 - i) for i in range(16)]

    params = model.init(jax.random.key(config.seed), jnp.zeros((1, 1), jnp.int32))["params"]
    variables = {"params": params}
    optimizer = make_optimizer(config.optimizer, config.steps)
    state, frozen = init_state(variables, lora.trainable(variables, base=True), optimizer, config.seed)
    train_step = make_train_step(model, optimizer, config.optimizer, config.steps)
    validation_step = make_validation_step(model)
    curve_path = work / "curve.jsonl"
    curve: list[dict] = []

    with Checkpoints(work / "checkpoints") as checkpoints:
        if resume and checkpoints.steps():
            state = checkpoints.restore(checkpoints.steps()[-1], state)
            curve = [json.loads(line) for line in curve_path.read_text(encoding="utf-8").splitlines()]
            curve = [row for row in curve if row["step"] <= int(state.step)]

        def on_state(step, state):
            if step % config.validate_every and step != config.steps:
                return
            pairs = [validation_step(state.trained, frozen, jax.tree.map(lambda a: a[0], batch)) for batch in validation]
            nats = sum(float(a) for a, _ in pairs) / sum(float(b) for _, b in pairs)
            curve.append({"step": step, "validation_nats_per_token": round(nats, 5)})
            progress.note(f"step {step}: validation {nats:.4f} nats per token")
            checkpoints.save(step, state)
            curve_path.write_text("".join(json.dumps(row) + "\n" for row in curve), encoding="utf-8")

        state = fit(train_step, state, frozen, stream, config.steps, progress.step, on_state)
    return model, lora.join(state.trained, frozen)["params"], curve


def cost(config: BaseConfig) -> dict[str, Any]:
    """Tokens, and FLOPs of all train steps by two conventions."""
    tokens, flops, first = 0, {"exact": 0, "coursework": 0}, 0
    for phase in config.phases:
        steps = min(phase.until, config.steps) - first
        tokens += steps * phase.batch_size * phase.length
        work = Work(architecture(config), phase.batch_size, phase.length, rank=0, train="full", kernel="blocked")
        for name in flops:
            flops[name] += steps * count(work, name).total_train_step
        first += steps
    return {"tokens": tokens, "flops": flops}


def arguments() -> argparse.ArgumentParser:
    parser = describe("make_base", __doc__)
    parser.add_argument("config", type=Path, help="settings, such as configs/base.toml")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; it must not exist")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in OUT.work")
    return parser


@program(arguments)
def main(options: argparse.Namespace) -> None:
    if not options.config.is_file():
        raise JaxlvError("no such config file", where=options.config)
    if options.out.exists():
        raise JaxlvError("exists already", where=options.out, hint="choose another folder")
    tree = tomllib.loads(options.config.read_text(encoding="utf-8"))
    config = build_config(BaseConfig, tree, where=options.config)
    work = options.out.with_name(options.out.name + ".work")
    with Progress("base", config.steps) as progress:
        model, params, curve = train(config, work, options.resume, progress)
    save_pretrained(options.out, model, params, work / "tokenizer")
    record = {
        "parameters": count_params(model),
        **cost(config),
        "settings": tree,
        "curve": curve,
        "versions": versions(),
    }
    (options.out / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(
        f"saved {options.out}: {record['parameters']:,} parameters, {curve[-1]['validation_nats_per_token']} nats per token"
    )


if __name__ == "__main__":
    main()
