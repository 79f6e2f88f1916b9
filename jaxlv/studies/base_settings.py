"""The settings of a base: what it is, what it reads, and how it trains."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass
from typing import Literal

from jaxlv.config import COUNT, ROOM, SHARE, LoraConfig, OptimizerConfig
from jaxlv.data import dynamics, kinds
from jaxlv.errors import JaxlvError
from jaxlv.lora.overlay import ALL_LINEAR
from jaxlv.model.bases import BASE
from jaxlv.settings import AXIS, PATH, SEEDS, Between, Entries, Items, Settings, setting

SIZE, POSITIVE = Between(1, 2**20), Between(0, 1e9, above=True)


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
    shares: dict[str, float] = setting(MISSING, "of the windows, by system or kind", Entries(SHARE))
    strides: tuple[int, ...] = setting(MISSING, "a window takes every k-th step; of maps every step", Items(COUNT, 1))
    from_start: float = setting(MISSING, "share of windows that begin at the initial state", SHARE)
    noisy: float = setting(MISSING, "share of windows with log-normal observation noise", SHARE)
    noise: float = setting(MISSING, "of at most this standard deviation", Between(0, 100))
    gappy: float = setting(MISSING, "share of windows from which steps are left out unmarked", SHARE)
    gaps: float = setting(MISSING, "at most this share of their steps", SHARE)
    peaked: bool = setting(MISSING, "the middle of a range is drawn more often than its ends")
    ranges: dict[str, tuple[float, ...]] = setting(MISSING, "[low, high] of parameters", Entries(Items(POSITIVE, 2, 2)))
    noise_least: float = setting(0.0, "and at least this, drawn uniformly in the logarithm; 0 = uniformly", Between(0, 100))
    counted: float = setting(0.0, "share of windows that are counts, Poisson's or negative binomial", SHARE)
    moved: float = setting(0.0, "share of windows with a trend or a shift of level", SHARE)
    marked: float = setting(0.0, "share of windows with missing values that the text marks", SHARE)
    marked_gaps: float = setting(0.3, "at most this share of their values", SHARE)
    part: float = setting(0.0, "share of windows that show a part of the variables, in any order", SHARE)
    unseen: float = setting(0.0, "share of the validation windows that are of kinds kept from training", SHARE)

    def agree(self) -> None:
        known = (*dynamics.SYSTEMS, *kinds.TRAINED)
        if not math.isclose(sum(self.shares.values()), 1, abs_tol=1e-9) or not set(self.shares) <= set(known):
            expected = f"shares of {', '.join(known)} that add up to 1"
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
    start: str = setting("", 'a base of this architecture to go on from, "embedded" or a folder; "" = new weights', PATH)
    rank: int = setting(0, "of adapters that train in place of the weights of `start`; 0 = these train", Between(0, 256))
    alpha: float = setting(16.0, "of these adapters, of all projections: alpha / rank times B A is added", POSITIVE)

    @property
    def lora(self) -> LoraConfig | None:
        """The adapters; None if all weights train."""
        return LoraConfig(self.rank, self.alpha, (ALL_LINEAR,), head="frozen") if self.rank else None

    def agree(self) -> None:
        if self.rank and self.start != BASE:
            hint = "or set rank = 0, so that all weights train"
            raise JaxlvError("adapters of another base", where="start", expected=BASE, found=self.start or '""', hint=hint)
        if self.phases[-1].until < self.steps:
            raise JaxlvError("end before the last step", where="phases", expected=self.steps, found=self.phases[-1].until)
