"""A base: a small model trained on windows of simulated series, from new weights or from those of another base, and saved
as a Hugging Face folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlv.config import LoraConfig
from jaxlv.errors import JaxlvError, all_finite
from jaxlv.flops.table import count
from jaxlv.flops.work import Work
from jaxlv.forecasting import familiar
from jaxlv.forecasting.likelihood import token_nll
from jaxlv.lora import overlay
from jaxlv.lora.adapters import Origin, write_peft
from jaxlv.model.bases import BASE, EMBEDDED, RECORD
from jaxlv.model.config import CONFIG, ModelConfig
from jaxlv.model.qwen2 import Qwen2
from jaxlv.model.weights import count_params, load_pretrained, write_pretrained
from jaxlv.results.base import BaseTraining, CurvePoint
from jaxlv.runs.checkpoint import Checkpoints
from jaxlv.steps.train import How, Step, init_state, make_optimizer, make_train_step, make_validation_step, steps
from jaxlv.storage import foreign
from jaxlv.storage.files import new_folder, read_json, read_text, write_json, write_text
from jaxlv.studies.base_settings import BaseConfig
from jaxlv.studies.base_windows import Ahead, Stream, held_out, make_series, validation_windows
from jaxlv.studies.progress import Bar, Begin, Silent
from jaxlv.text.codec import SYMBOLS
from jaxlv.text.tokens import Windows, load_alphabet
from jaxlv.versions import versions

MOST_WORKERS = 12
SPECIAL = ("<|endoftext|>", "<|im_end|>", "<|unknown|>")


def make_base(
    config: BaseConfig,
    settings: Mapping[str, Any],
    out: Path,
    series: Path | None = None,
    *,
    workers: int | None = None,
    resume: bool = False,
    begin: Begin = Silent,
) -> BaseTraining:
    """Trains a base, and saves it to a new folder `out`.

    `settings` are the config as it was written, for the record. Returns what training.json holds. `out`.work holds the
    checkpoints, by which training goes on with `resume`, and the simulated series unless `series` does. `workers` processes
    make the windows, as many as the cores allow if None. Raises JaxlvError if `out` exists, or if the loss is not finite.
    """
    if out.exists():
        raise JaxlvError("exists already", where=out, hint="choose another folder")
    work, count = out.with_name(out.name + ".work"), _workers() if workers is None else workers
    with begin("base", config.steps) as progress:
        model, variables, curve = train(config, work, series or work / "series", count, resume, progress)
    paid = cost(config)
    record = BaseTraining(count_params(model), paid.tokens, paid.flops, settings, tuple(curve), versions())
    record = dataclasses.replace(record, adapters=overlay.count_trained(variables, overlay.trainable(variables)))
    with new_folder(out) as folder:
        if config.lora:
            write_adapters(folder, variables["lora"], config.lora)
        else:
            write_pretrained(folder, model, variables["params"], work / "tokenizer")
        write_json(folder / RECORD, record.tree())
        return add_limits(config, folder, series or work / "series")


def write_adapters(folder: Path, lora: Any, config: LoraConfig) -> None:
    """Writes a base that is kept as adapters, in bfloat16, of the embedded one (jaxlv.model.bases)."""
    base = EMBEDDED[BASE]
    for name in (CONFIG, *foreign.companions(base)):
        foreign.copy(base, name, folder)
    write_peft(folder, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), lora), config, Origin(BASE))


def add_limits(config: BaseConfig, base: Path, series: Path) -> BaseTraining:
    """Measures what is familiar to the base in a folder (forecasting.familiar): what its validation windows, written in two
    decimals, cost it. Adds that to its training.json, and returns what this holds then. The validation series lie in
    `series`, or are simulated there.
    """
    path = base / RECORD
    record = BaseTraining.read(read_json(path), path)
    model, params = load_pretrained(str(base))
    alphabet = load_alphabet(base, model.config.vocab_size)
    two = dataclasses.replace(config, text=dataclasses.replace(config.text, decimals=(2,)))
    nats, variables = [], []
    for batch in itertools.chain.from_iterable(validation_windows(two, held_out(config, series), alphabet).values()):
        windows = familiar.later(Windows(*(np.asarray(array[0]) for array in batch)), alphabet)
        nll_ML = np.asarray(token_nll(model, {"params": params}, windows, alphabet.ids_A))
        nats.append(familiar.by_value(nll_ML, windows, alphabet))
        steps = [alphabet.decode(ids).split(";") for ids in windows.ids_ML]
        variables += [max(step.count(",") for step in one) + 1 for one in steps]
    record = dataclasses.replace(record, familiar=familiar.limits(np.concatenate(nats), np.array(variables)))
    write_json(path, record.tree())
    return record


def _workers() -> int:
    """Returns how many processes make windows: each takes a core; on a few cores windows cost little beside the steps."""
    return max(0, min(MOST_WORKERS, (os.cpu_count() or 1) - 3))


def write_tokenizer(folder: Path) -> None:
    """Writes tokenizer files of the 13 symbols and three specials, one token per character, as transformers reads them."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {symbol: i for i, symbol in enumerate((*SYMBOLS, *SPECIAL))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[2]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIAL[1],
        "pad_token": SPECIAL[0],
        "unk_token": SPECIAL[2],
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", settings, indent=2)


def architecture(config: BaseConfig) -> ModelConfig:
    """Returns the Qwen2.5 architecture of the config, its vocabulary the tokenizer's."""
    shape = dataclasses.asdict(config.architecture)
    return ModelConfig(
        **shape,
        vocab_size=len(SYMBOLS) + len(SPECIAL),
        head_dim=config.architecture.hidden_size // config.architecture.num_attention_heads,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
    )


class Trained(NamedTuple):
    """A model that is trained, its variables with the adapters that it may have, and its learning curve."""

    model: Qwen2
    variables: Any
    curve: list[CurvePoint]


def train(config: BaseConfig, work: Path, folder: Path, workers: int, resume: bool, progress: Bar) -> Trained:
    """Trains a base. Checkpoints lie in `work`, the simulated series in `folder`."""
    tokenizer = work / "tokenizer"
    write_tokenizer(tokenizer)
    model = Qwen2(architecture(config))
    trained_as = Qwen2(architecture(config), jnp.dtype(config.dtype), config.attention)
    alphabet = load_alphabet(tokenizer, model.config.vocab_size)
    training = make_series(config, folder, progress.note)
    validation = validation_windows(config, held_out(config, folder, progress.note), alphabet)

    variables = {"params": _start(config, model)}
    if config.lora:
        variables["lora"] = overlay.init_lora(jax.random.key(config.seed), variables["params"], config.lora)
    mask = overlay.trainable(variables, base=config.lora is None)
    optimizer = make_optimizer(config.optimizer, config.steps)
    state, frozen = init_state(variables, mask, optimizer, config.seed)
    train_step = make_train_step(trained_as, optimizer, config.optimizer, config.steps, how=How("right"))
    validation_step = make_validation_step(trained_as, how=How("right"))
    curve_path = work / "curve.jsonl"
    curve: list[CurvePoint] = []

    batches: Callable[[int], Windows]
    with contextlib.ExitStack() as stack, Checkpoints(work / "checkpoints") as checkpoints:
        if workers:
            batches = stack.enter_context(Ahead(config, folder / "train", alphabet, workers))
        else:
            batches = Stream(config, training, alphabet, config.seed)
        if resume and checkpoints.steps():
            state = checkpoints.restore(checkpoints.steps()[-1], state)
            held = [CurvePoint.read(json.loads(line), curve_path) for line in read_text(curve_path).splitlines()]
            curve = [point for point in held if point.step <= int(state.step)]

        running: Step | None = None  # whose figures have not been read
        for step in steps(train_step, state, frozen, batches, config.steps):
            if running:
                progress.step(running.number, running.figures())
            running, state = step, step.state
            if step.number % config.validate_every and step.number != config.steps:
                continue
            nats = _nats(validation_step, state.trained, frozen, validation)
            all_finite(nats["all"], "the losses", f"validation at step {step.number}")
            curve.append(CurvePoint(step.number, nats.pop("all"), nats))
            progress.note(f"step {step.number}: validation {curve[-1].validation_nats_per_token:.4f} nats per token, {nats}")
            checkpoints.save(step.number, state)
            write_text(curve_path, "".join(json.dumps(point.tree()) + "\n" for point in curve))
        if running:
            progress.step(running.number, running.figures())
    return Trained(model, overlay.join(state.trained, frozen), curve)


def _start(config: BaseConfig, model: Qwen2) -> Any:
    """Returns the weights that training begins with: new ones, or those of the base that the config names."""
    if not config.start:
        return model.init(jax.random.key(config.seed), jnp.zeros((1, 1), jnp.int32))["params"]
    other, params = load_pretrained(config.start)
    if other.config != model.config:
        raise JaxlvError("another architecture", where="start", expected=model.config, found=other.config)
    return params


def _nats(validation_step: Any, trained: Any, frozen: Any, windows: Mapping[str, Sequence[Windows]]) -> dict[str, float]:
    """Returns the nats per token of each group of windows, and of "all"."""
    sums = {}
    for name, batches in windows.items():
        pairs = [validation_step(trained, frozen, jax.tree.map(lambda a: a[0], batch)) for batch in batches]
        sums[name] = sum(float(a) for a, _ in pairs), sum(float(b) for _, b in pairs)
    sums["all"] = sum(a for a, _ in sums.values()), sum(b for _, b in sums.values())
    return {name: round(a / b, 5) for name, (a, b) in sums.items()}


class Cost(NamedTuple):
    """What the steps of a base cost: tokens, and FLOPs by convention."""

    tokens: int
    flops: dict[str, int]


def cost(config: BaseConfig) -> Cost:
    """Returns what all train steps cost, by two conventions."""
    tokens, flops, first = 0, {"exact": 0, "coursework": 0}, 0
    for phase in config.phases:
        steps = min(phase.until, config.steps) - first
        tokens += steps * phase.batch_size * phase.length
        trained: dict[str, Any] = {"rank": 0, "train": "full"}
        if config.lora:
            trained = {"rank": config.rank, "targets": overlay.normalise_targets(config.lora.targets)}
        work = Work(architecture(config), phase.batch_size, phase.length, kernel=config.attention, **trained)
        for name in flops:
            flops[name] += steps * count(work, name).total_train_step
        first += steps
    return Cost(tokens, flops)
