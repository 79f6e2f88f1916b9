"""What a base reads: series simulated for it, and training windows of them."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jaxlv.data import dynamics, kinds
from jaxlv.errors import JaxlvError
from jaxlv.storage.door import is_there
from jaxlv.storage.files import new_file, read_text, write_text
from jaxlv.studies.base_settings import BaseConfig, Phase, Simulated
from jaxlv.studies.progress import Say, unsaid
from jaxlv.text.codec import Codec
from jaxlv.text.tokens import Alphabet, Windows, stack, window, without_gaps

AHEAD = 4  # batches that each worker makes before they are asked for
HELD_OUT = 2048  # simulated series for validation, shared by the systems and kinds
VALIDATION_BATCHES = 16  # of 16 windows
LEVELS = (3.0, 3000.0)  # mean of a variable that is counted
TREND, JUMP = 0.02, 1.0  # greatest change of the logarithm in a step, and at once

Series = Mapping[str, np.ndarray]  # by system or kind, values (N, T, V) float32


def simulate(config: Simulated, system: str, seed: int) -> np.ndarray:
    """Returns values (N, T, V) float32 of series in which no population dies out, late, to `least` of its peak."""
    number = math.ceil(config.shares[system] * config.number)
    if system not in dynamics.SYSTEMS:
        return kinds.draw(system, number, config.steps, seed, config.least)
    wanted = (*dynamics.SYSTEMS[system].parameters, "x0", "y0")
    bounds = {name: config.ranges[name] for name in wanted}
    ranges = {name: dynamics.Range(low, high, log=True, peaked=config.peaked) for name, (low, high) in bounds.items()}
    preset = dynamics.Preset(f"base/{system}", system, ranges, stop=config.steps - 1.0, steps=config.steps)
    solver = dynamics.Solver(method="Tsit5", rtol=1e-6, atol=1e-6)
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
    """Windows as a function of the step: series, stretch, scale and number format are drawn anew for each.

    `shares` of the windows are of each system or kind, by default those of the config.
    """

    def __init__(
        self, config: BaseConfig, series: Series, alphabet: Alphabet, seed: int, shares: Mapping[str, float] | None = None
    ):
        self.config, self.series, self.alphabet, self.seed = config, series, alphabet, seed
        self.shares = shares or config.series.shares

    def __call__(self, step: int) -> Windows:
        """Returns the batch (1, B, L) of a step."""
        phase = next(phase for phase in self.config.phases if step < phase.until)
        random = np.random.default_rng([self.seed, step])
        rows = [self.one(random, phase.length) for _ in range(phase.batch_size)]
        return Windows(*(array[None] for array in tuple(stack(rows, phase.length, "right"))))

    def one(self, random: np.random.Generator, length: int) -> Any:
        """Returns one window of a random series."""
        config, text = self.config.series, self.config.text
        name = random.choice(list(self.shares), p=list(self.shares.values()))
        series_TV = self.series[name][random.integers(len(self.series[name]))].astype(float)
        if _chance(random, config.part) and series_TV.shape[1] > 1:
            series_TV = series_TV[:, random.permutation(series_TV.shape[1])[: random.integers(1, series_TV.shape[1] + 1)]]
        decimals = int(random.choice(text.decimals))
        steps = length // (series_TV.shape[1] * (decimals + 3)) + 2
        values_TV = self._observed(random, self._stretch(random, name, series_TV, steps))
        given_TV = _with_gaps(random, values_TV, config.marked_gaps) if _chance(random, config.marked) else values_TV
        least, most = text.context_steps
        cut = int(random.integers(least, most + 1))
        codec = Codec("context", random.uniform(text.headroom[0], text.headroom[-1]), decimals)
        alpha_V = np.fmax.reduce(given_TV[:cut], axis=0) / codec.top
        alpha_V = np.where(alpha_V > 0, alpha_V, np.maximum(values_TV.max(axis=0), 1e-9))  # of what is 0 in the context
        scaled = np.minimum(given_TV / alpha_V, 9999.0)
        ids = self.alphabet.encode(codec.encode(scaled, np.ones(len(alpha_V)), gaps=True))
        return without_gaps(window(ids, length), self.alphabet)

    def _stretch(self, random: np.random.Generator, name: str, series_TV: np.ndarray, steps: int) -> np.ndarray:
        config = self.config.series
        stride = 1 if name in kinds.MAPS else int(random.choice(config.strides))
        latest = max(0, len(series_TV) - steps * stride)
        start = 0 if random.random() < config.from_start else int(random.integers(latest + 1))
        values_TV = series_TV[start::stride]
        if _chance(random, config.gappy):
            values_TV = values_TV[random.random(len(values_TV)) >= random.uniform(0, config.gaps)]
        return values_TV[:steps]

    def _observed(self, random: np.random.Generator, values_TV: np.ndarray) -> np.ndarray:
        config = self.config.series
        if _chance(random, config.moved):
            values_TV = values_TV * np.exp(_drift(random, values_TV.shape))
        if _chance(random, config.noisy):
            values_TV = values_TV * np.exp(_deviation(random, config) * random.standard_normal(values_TV.shape))
        return _counts(random, values_TV) if _chance(random, config.counted) else values_TV


def _chance(random: np.random.Generator, share: float) -> bool:
    """Returns true in that share of all calls; a share of 0 draws nothing."""
    return share > 0 and bool(random.random() < share)


def _deviation(random: np.random.Generator, config: Simulated) -> float:
    """Returns the standard deviation of a window's noise, on logarithms."""
    if config.noise_least:
        return float(np.exp(random.uniform(math.log(config.noise_least), math.log(config.noise))))
    return float(random.uniform(0, config.noise))


def _drift(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a trend of the logarithms, or a shift at one step, of each variable by itself: (T, V)."""
    steps, variables = shape
    if random.random() < 0.5:
        return np.arange(steps)[:, None] * random.uniform(-TREND, TREND, variables)
    return (np.arange(steps)[:, None] >= random.integers(1, steps)) * random.uniform(-JUMP, JUMP, variables)


def _counts(random: np.random.Generator, values_TV: np.ndarray) -> np.ndarray:
    """Returns counts whose expectations are proportional to the values: Poisson's, or, with extra variance, negative
    binomial ones.
    """
    low, high = np.log(LEVELS)
    mean_TV = values_TV / values_TV.mean(axis=0) * np.exp(random.uniform(low, high, values_TV.shape[1]))
    if random.random() < 0.5:
        shape = np.exp(random.uniform(np.log(2.0), np.log(50.0)))
        mean_TV = mean_TV * random.gamma(shape, 1 / shape, mean_TV.shape)
    return random.poisson(np.minimum(mean_TV, 1e9)).astype(float)


def _with_gaps(random: np.random.Generator, values_TV: np.ndarray, most: float) -> np.ndarray:
    """Returns the values with NaN at whole steps, at single values, or at a run of steps; never all of a variable."""
    share, kind = random.uniform(0, most), random.random()
    shape = values_TV.shape if kind < 0.3 else (len(values_TV), 1)
    gone = random.random(shape) < share
    if kind > 0.8:
        start = int(random.integers(1, max(2, len(values_TV))))
        gone = (np.arange(len(values_TV)) >= start)[:, None] & (np.arange(len(values_TV)) < start + 10 * share)[:, None]
    gone = np.broadcast_to(gone, values_TV.shape).copy()
    gone[: int(random.integers(1, 4))] = False
    return np.where(gone, np.nan, values_TV)


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


def make_series(config: BaseConfig, folder: Path, note: Say = unsaid) -> Series:
    """Returns the training series, simulated in `folder` if they are not there."""
    return simulated(config.series, config.seed, folder / "train", note)


def held_out(config: BaseConfig, folder: Path, note: Say = unsaid) -> Series:
    """Returns the validation series, simulated in `folder` if they are not there."""
    few = dataclasses.replace(config.series, number=HELD_OUT)
    return simulated(few, config.seed + 1, folder / "held_out", note)


def validation_windows(config: BaseConfig, series: Series, alphabet: Alphabet) -> dict[str, list[Windows]]:
    """Returns 256 windows of the last phase's length from series that the training has not seen, the same for all sizes.

    They are those of "seen" systems and kinds and, a share of them, of kinds that the training does not know, "unseen".
    """
    share = config.series.unseen
    parts: dict[str, tuple[Series, Mapping[str, float], float]] = {"seen": (series, config.series.shares, 1 - share)}
    if share:
        each, steps, least = HELD_OUT // len(kinds.UNSEEN), config.series.steps, config.series.least
        unseen = {name: kinds.draw(name, each, steps, config.seed + 2, least) for name in kinds.UNSEEN}
        parts["unseen"] = (unseen, dict.fromkeys(unseen, 1 / len(unseen)), share)
    found = {}
    for name, (own, shares, part) in parts.items():
        batches = round(VALIDATION_BATCHES * part)
        one = Phase(until=batches, length=config.phases[-1].length, batch_size=16)
        short = dataclasses.replace(config, phases=(one,), steps=batches)
        stream = Stream(short, own, alphabet, config.seed + 1, shares)
        found[name] = [stream(i) for i in range(batches)]
    return found
