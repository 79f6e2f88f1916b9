"""A base from scratch: series simulated for it, a small model trained on windows of them, and a Hugging Face folder."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import math
import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlv.config import COUNT, ROOM, SHARE, OptimizerConfig
from jaxlv.data import dynamics
from jaxlv.errors import JaxlvError, all_finite
from jaxlv.flops.table import count
from jaxlv.flops.work import Work
from jaxlv.lora import overlay
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import Qwen2
from jaxlv.model.weights import count_params, write_pretrained
from jaxlv.results.base import BaseTraining, CurvePoint
from jaxlv.runs.checkpoint import Checkpoints
from jaxlv.settings import AXIS, SEEDS, Between, Entries, Items, Settings, setting
from jaxlv.steps.train import Step, init_state, make_optimizer, make_train_step, make_validation_step, steps
from jaxlv.storage.door import is_there
from jaxlv.storage.files import new_file, new_folder, read_text, write_json, write_text
from jaxlv.studies.progress import Bar, Begin, Say, Silent, unsaid
from jaxlv.text.codec import SYMBOLS, Codec
from jaxlv.text.tokens import Alphabet, Windows, load_alphabet, stack, window
from jaxlv.versions import versions

MOST_WORKERS = 12
AHEAD = 4  # batches that each worker makes before they are asked for
HELD_OUT = 2048  # simulated series for validation
SIZE, POSITIVE = Between(1, 2**20), Between(0, 1e9, above=True)
SPECIAL = ("<|endoftext|>", "<|im_end|>", "<|unknown|>")


@dataclass(frozen=True)
class Architecture(Settings, section="architecture"):
    """The sizes of the model, by the names of Hugging Face's config.json."""

    hidden_size: int = setting(MISSING, "width", SIZE)
    intermediate_size: int = setting(MISSING, "width of the MLP", SIZE)
    num_hidden_layers: int = setting(MISSING, "layers", SIZE)
    num_attention_heads: int = setting(MISSING, "query heads", SIZE)
    num_key_value_heads: int = setting(MISSING, "key/value heads", SIZE)


@dataclass(frozen=True)
class Simulated(Settings, section="series"):
    """The series that windows are taken from, and what is done to a window."""

    number: int = setting(MISSING, "series simulated for a share of 1", COUNT)
    steps: int = setting(MISSING, "of 1 time unit", Between(4, AXIS))
    least: float = setting(MISSING, "a series in which a population falls below this share of its peak is left out", SHARE)
    shares: dict[str, float] = setting(MISSING, "of the series, by system", Entries(SHARE))
    strides: tuple[int, ...] = setting(MISSING, "a window takes every k-th step", Items(COUNT, 1))
    from_start: float = setting(MISSING, "share of windows that begin at the initial state", SHARE)
    noisy: float = setting(MISSING, "share of windows with log-normal observation noise", SHARE)
    noise: float = setting(MISSING, "of at most this standard deviation", Between(0, 100))
    gappy: float = setting(MISSING, "share of windows with missing steps", SHARE)
    gaps: float = setting(MISSING, "at most this share of them", SHARE)
    peaked: bool = setting(MISSING, "the middle of a range is drawn more often than its ends")
    ranges: dict[str, tuple[float, ...]] = setting(MISSING, "[low, high] of parameters", Entries(Items(POSITIVE, 2, 2)))

    def agree(self) -> None:
        if not math.isclose(sum(self.shares.values()), 1, abs_tol=1e-9) or not set(self.shares) <= set(dynamics.SYSTEMS):
            expected = f"shares of {', '.join(dynamics.SYSTEMS)} that add up to 1"
            raise JaxlvError("not shares", where="series.shares", expected=expected, found=self.shares)


@dataclass(frozen=True)
class Text(Settings, section="text"):
    """How a window is written, drawn anew for each."""

    decimals: tuple[int, ...] = setting(MISSING, "digits behind the point", Items(Between(1, 6), 1))
    headroom: tuple[float, ...] = setting(MISSING, "[least, most] head-room", Items(ROOM, 1, 2))
    context_steps: tuple[int, ...] = setting(MISSING, "[least, most] steps that the scale is fitted on", Items(COUNT, 2, 2))


@dataclass(frozen=True)
class Phase(Settings, section="phases"):
    """Steps with windows of one length."""

    until: int = setting(MISSING, "step", COUNT)
    length: int = setting(MISSING, "tokens of a window", Between(2, AXIS))
    batch_size: int = setting(MISSING, "windows of a step", COUNT)


@dataclass(frozen=True)
class BaseConfig(Settings):
    """Everything that defines the base."""

    seed: int = setting(MISSING, "of the series, the windows and the weights", Between(0, SEEDS - 1))
    steps: int = setting(MISSING, "optimiser steps", COUNT)
    validate_every: int = setting(MISSING, "steps", COUNT)
    architecture: Architecture = setting(MISSING, "the model")
    dtype: Literal["float32", "float16"] = setting(
        MISSING, "of activations and products; parameters and the optimiser's state are float32"
    )
    attention: Literal["blocked", "cudnn"] = setting(MISSING, "the kernel")
    series: Simulated = setting(MISSING, "what it reads")
    text: Text = setting(MISSING, "how that is written")
    optimizer: OptimizerConfig = setting(MISSING, "how it trains")
    phases: tuple[Phase, ...] = setting(MISSING, "one behind the other", Items(None, 1, 1000))

    def agree(self) -> None:
        if self.phases[-1].until < self.steps:
            raise JaxlvError("end before the last step", where="phases", expected=self.steps, found=self.phases[-1].until)


# ------------------------------------------------------------------------------------------------ the series


Series = Mapping[str, np.ndarray]  # by system, values (N, T, 2) float32


def simulate(config: Simulated, system: str, seed: int) -> np.ndarray:
    """Returns values (N, T, 2) float32 of series in which neither population dies out, late, to `least` of its peak."""
    wanted = (*dynamics.SYSTEMS[system].parameters, "x0", "y0")
    bounds = {name: config.ranges[name] for name in wanted}
    ranges = {name: dynamics.Range(low, high, log=True, peaked=config.peaked) for name, (low, high) in bounds.items()}
    preset = dynamics.Preset(f"base/{system}", system, ranges, stop=config.steps - 1.0, steps=config.steps)
    solver = dynamics.Solver(method="Tsit5", rtol=1e-6, atol=1e-6)
    number = math.ceil(config.shares[system] * config.number)
    values_NTV = dynamics.draw(preset, number, seed, solver, attempts=30).values_NTV
    late_NTV = values_NTV[:, config.steps // 2 :]
    alive_N = (late_NTV.min(axis=1) > config.least * values_NTV.max(axis=1)).all(axis=1)
    return values_NTV[alive_N].astype(np.float32)


def simulated(config: Simulated, seed: int, folder: Path, note: Say) -> Series:
    """Returns the series of `simulate` from files in `folder`, read as they are needed; makes them if they are not there.

    Raises JaxlvError if the folder holds series of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings, record = folder / "settings.json", json.dumps(dataclasses.asdict(config) | {"seed": seed})
    if is_there(settings) and read_text(settings) != record:
        raise JaxlvError("holds series of other settings", where=folder, hint="choose another folder, or remove this one")
    if not is_there(settings):
        with ThreadPoolExecutor() as pool:
            parts = pool.map(lambda name: simulate(config, name, seed), config.shares)
            for name, values_NTV in zip(config.shares, parts, strict=True):
                note(f"simulated {len(values_NTV):,} series of {name}")
                with new_file(folder / f"{name}.npy") as place:
                    np.save(place, values_NTV)
        write_text(settings, record)
    return stored(config, folder)


def stored(config: Simulated, folder: Path) -> Series:
    """Returns the series in `folder`, mapped into memory."""
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in config.shares}


class Stream:
    """Training windows as a function of the step: series, stretch, scale and number format are drawn anew for each."""

    def __init__(self, config: BaseConfig, series: Series, alphabet: Alphabet, seed: int):
        self.config, self.series, self.alphabet, self.seed = config, series, alphabet, seed

    def __call__(self, step: int) -> Windows:
        """Returns the batch (1, B, L) of a step."""
        phase = next(phase for phase in self.config.phases if step < phase.until)
        random = np.random.default_rng([self.seed, step])
        rows = [self.one(random, phase.length) for _ in range(phase.batch_size)]
        return Windows(*(array[None] for array in tuple(stack(rows, phase.length))))

    def one(self, random: np.random.Generator, length: int) -> Any:
        """Returns one window of a random series."""
        config, text = self.config.series, self.config.text
        name = random.choice(list(config.shares), p=list(config.shares.values()))
        series_TV = self.series[name][random.integers(len(self.series[name]))].astype(float)
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


class Ahead:
    """The batches of a stream over the series in a folder, made ahead of their steps by `workers` processes."""

    def __init__(self, config: BaseConfig, folder: Path, alphabet: Alphabet, workers: int):
        self.steps, self.depth = config.steps, AHEAD * workers
        context = multiprocessing.get_context("spawn")  # a fork would copy the threads and the device of this process
        self.pool = ProcessPoolExecutor(workers, context, initializer=_open, initargs=(config, folder, alphabet))
        self.queue: collections.deque[tuple[int, Future]] = collections.deque()

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: Any) -> None:
        self.pool.shutdown(cancel_futures=True)

    def __call__(self, step: int) -> Windows:
        """Returns the batch of a step; quick if the steps follow one another."""
        if not self.queue or self.queue[0][0] != step:
            self.queue.clear()
        last = self.queue[-1][0] if self.queue else step - 1
        for ahead in range(last + 1, min(step + self.depth + 1, self.steps)):
            self.queue.append((ahead, self.pool.submit(_batch, ahead)))
        return self.queue.popleft()[1].result()


_stream: list[Stream] = []  # a worker's own


def _open(config: BaseConfig, folder: Path, alphabet: Alphabet) -> None:
    _stream.append(Stream(config, stored(config.series, folder), alphabet, config.seed))


def _batch(step: int) -> Windows:
    return _stream[0](step)


# ------------------------------------------------------------------------------------------------ the base


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
        model, params, curve = train(config, work, series or work / "series", count, resume, progress)
    paid = cost(config)
    record = BaseTraining(count_params(model), paid.tokens, paid.flops, settings, tuple(curve), versions())
    with new_folder(out) as folder:
        write_pretrained(folder, model, params, work / "tokenizer")
        write_json(folder / "training.json", record.tree())
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


def make_series(config: BaseConfig, folder: Path, note: Say = unsaid) -> tuple[Series, Series]:
    """Returns (training series, validation series), simulated in `folder` if they are not there."""
    few = dataclasses.replace(config.series, number=HELD_OUT)
    training = simulated(config.series, config.seed, folder / "train", note)
    return training, simulated(few, config.seed + 1, folder / "held_out", note)


class Trained(NamedTuple):
    """A model that is trained, and its learning curve."""

    model: Qwen2
    params: Any
    curve: list[CurvePoint]


def train(config: BaseConfig, work: Path, folder: Path, workers: int, resume: bool, progress: Bar) -> Trained:
    """Trains a base. Checkpoints lie in `work`, the simulated series in `folder`."""
    tokenizer = work / "tokenizer"
    write_tokenizer(tokenizer)
    model = Qwen2(architecture(config))
    trained_as = Qwen2(architecture(config), jnp.dtype(config.dtype), config.attention)
    alphabet = load_alphabet(tokenizer, model.config.vocab_size)
    training, held_out = make_series(config, folder, progress.note)
    validation = validation_windows(config, held_out, alphabet)

    params = model.init(jax.random.key(config.seed), jnp.zeros((1, 1), jnp.int32))["params"]
    variables = {"params": params}
    optimizer = make_optimizer(config.optimizer, config.steps)
    state, frozen = init_state(variables, overlay.trainable(variables, base=True), optimizer, config.seed)
    train_step = make_train_step(trained_as, optimizer, config.optimizer, config.steps)
    validation_step = make_validation_step(trained_as)
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
            pairs = [validation_step(state.trained, frozen, jax.tree.map(lambda a: a[0], batch)) for batch in validation]
            nats = sum(float(a) for a, _ in pairs) / sum(float(b) for _, b in pairs)
            all_finite(nats, "the losses", f"validation at step {step.number}")
            curve.append(CurvePoint(step.number, round(nats, 5)))
            progress.note(f"step {step.number}: validation {nats:.4f} nats per token")
            checkpoints.save(step.number, state)
            write_text(curve_path, "".join(json.dumps(point.tree()) + "\n" for point in curve))
        if running:
            progress.step(running.number, running.figures())
    return Trained(model, overlay.join(state.trained, frozen)["params"], curve)


def validation_windows(config: BaseConfig, series: Series, alphabet: Alphabet) -> list[Windows]:
    """Returns 256 windows of the last phase's length from series that the training has not seen, the same for all sizes."""
    batches = 16
    one = Phase(until=batches, length=config.phases[-1].length, batch_size=16)
    stream = Stream(dataclasses.replace(config, phases=(one,)), series, alphabet, config.seed + 1)
    return [stream(i) for i in range(batches)]


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
        work = Work(architecture(config), phase.batch_size, phase.length, rank=0, train="full", kernel=config.attention)
        for name in flops:
            flops[name] += steps * count(work, name).total_train_step
        first += steps
    return Cost(tokens, flops)
