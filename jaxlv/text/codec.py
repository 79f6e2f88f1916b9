"""Numbers as text and back: "1.20,1.31;0.93,0.98;" - commas separate the variables of a time step, and ";" closes each step.

In a context a missing value is an empty field ("1.20,;"), and a step of which every value is missing is an empty step (";").

A value x is written as x / alpha with a fixed number of decimals, as LLMTIME does (Gruver et al. 2023). `alpha` comes from a
scale rule. Only the rule `context` and the constant of `liu` are honest in a forecast: the rules of the other papers look at
the values to be forecast, and are marked accordingly.

Axes: N series, T steps, C context steps, V variables.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from jaxlv.config import CodecConfig
from jaxlv.errors import JaxlvError
from jaxlv.settings import Between, Statement, checked, settled, statements

SYMBOLS = "0123456789.,;"
TOP = 10.0  # a scale rule maps its reference value to this; smaller values have one digit before the point
MAX_INTEGER_DIGITS = 6
# 0 is the factor of an all-zero data set, which `fit` refuses.
DATASET_ALPHA = Statement(float, "factor of the rule mao", Between(0, 3.4e38), can_lack=True)
NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")


# ------------------------------------------------------------------------------------------------- scale


def _context(context_CV, series_TV, codec):
    """Scales each variable so that the context's maximum becomes TOP * (1 - headroom); missing values, NaN, do not count."""
    return np.fmax.reduce(context_CV, axis=0) / codec.top


def _xu(context_CV, series_TV, codec):
    """Scales each series and variable so that the 99th percentile of the whole series becomes TOP."""
    return np.percentile(series_TV, 99, axis=0) / TOP


def _rai(context_CV, series_TV, codec):
    """Scales each series so that the larger of its variables' 95th percentiles, over the whole series, becomes TOP."""
    return np.full(series_TV.shape[1], np.percentile(series_TV, 95, axis=0).max() / TOP)


def _mao(context_CV, series_TV, codec):
    """Scales the whole data set by one factor, so that the 99.7th percentile of its values becomes TOP."""
    if codec.dataset_alpha is None:
        raise JaxlvError("needs the data set's own factor", where='codec.scale = "mao"', hint="use Codec.for_data")
    return np.full(context_CV.shape[1], codec.dataset_alpha)


def _liu(context_CV, series_TV, codec):
    """Scales by the constant 0.5."""
    return np.full(context_CV.shape[1], 0.5)


@dataclass(frozen=True)
class ScaleRule:
    """How alpha is found, and which values this looks at that a forecaster would not have."""

    fit: Callable[[np.ndarray, np.ndarray, Codec], np.ndarray]
    peeks_at: str = ""


SCALE_RULES = {
    "context": ScaleRule(_context),
    "xu": ScaleRule(_xu, peeks_at="the forecast window of the same series"),
    "rai": ScaleRule(_rai, peeks_at="the forecast window of the same series"),
    "mao": ScaleRule(_mao, peeks_at="the whole data set, test series included"),
    "liu": ScaleRule(_liu),
}


@dataclass(frozen=True)
class Codec:
    """A scale rule and a number format."""

    scale: str = "context"
    headroom: float = 0.5  # share of [0, TOP] left free above the context's maximum
    decimals: int = 2
    dataset_alpha: float | None = None  # the factor of the rule `mao`
    headrooms: tuple[float, ...] = ()  # if not empty, the scales in which a series is written, one headroom each
    parsing: Literal["steps", "position"] = "steps"

    def __post_init__(self) -> None:
        shared = {name: getattr(self, name) for name in statements(CodecConfig)}
        for name, value in checked(CodecConfig, "codec", **shared).items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "dataset_alpha", settled(self.dataset_alpha, DATASET_ALPHA, "dataset_alpha"))

    @classmethod
    def for_data(cls, config: CodecConfig, values_NTV: np.ndarray) -> Codec:
        """Returns the codec of a config; the rule `mao` takes its factor from all the given values."""
        alpha = float(np.nanpercentile(values_NTV, 99.7)) / TOP if config.scale == "mao" else None
        return cls.of(config, alpha)

    @classmethod
    def of(cls, config: CodecConfig, dataset_alpha: float | None) -> Codec:
        """Returns the codec of a config whose data set's factor is already known (None if its rule has none)."""
        return cls(config.scale, config.headroom, config.decimals, dataset_alpha, config.headrooms, config.parsing)

    @property
    def variants(self) -> tuple[Codec, ...]:
        """A codec for each of `headrooms`; only this codec if `headrooms` is empty or the rule is not `context`."""
        if self.scale != "context" or not self.headrooms:
            return (self,)
        return tuple(replace(self, headroom=headroom, headrooms=()) for headroom in self.headrooms)

    @property
    def top(self) -> float:
        """What the rule `context` maps the context's maximum to: TOP without the headroom."""
        return TOP * (1.0 - self.headroom)

    @property
    def rule(self) -> ScaleRule:
        """The rule by which scales are fitted."""
        return SCALE_RULES[self.scale]

    def fit(self, context_CV: np.ndarray, series_TV: np.ndarray | None = None, where: str = "series") -> np.ndarray:
        """Returns alpha (V,), in raw units per written unit. `series_TV` is the whole series, for the rules that look at it.

        Raises JaxlvError if a variable is zero throughout, if every digit would be lost, or if a rule that needs the whole
        series does not get it.
        """
        if series_TV is None:
            if self.rule.peeks_at and self.scale != "mao":
                raise JaxlvError(f"the scale rule {self.scale} needs the whole series", where=where)
            series_TV = context_CV
        alpha_V = np.asarray(self.rule.fit(np.asarray(context_CV, float), np.asarray(series_TV, float), self))
        if not (np.isfinite(alpha_V) & (alpha_V > 0)).all():
            bad = int(np.argmin(np.isfinite(alpha_V) & (alpha_V > 0)))
            raise JaxlvError(
                f"variable {bad} gives no scale", where=where, expected="a positive value", found=f"alpha {alpha_V[bad]}"
            )
        most = float(np.fmax.reduce(np.asarray(context_CV, float) / alpha_V, axis=None))
        if 0 < most < 0.5 * 10.0**-self.decimals:  # zeros themselves are written exactly
            raise JaxlvError(
                f"every value would be written as {0:.{self.decimals}f}",
                where=where,
                found=f"{most:.3g} at most, after scaling",
                hint='use codec.scale = "context" or more codec.decimals',
            )
        return alpha_V

    # ------------------------------------------------------------------------------------------- text

    def encode(
        self, values_TV: np.ndarray, alpha_V: np.ndarray, closed: bool = True, where: str = "series", gaps: bool = False
    ) -> str:
        """Returns the text of `values_TV` (raw units); `closed` ends it with ";", as every prompt must end.

        With `gaps`, as in contexts, NaN is a missing value. Raises JaxlvError if any other value is negative or not finite,
        or needs more than six digits before the point.
        """
        scaled_TV = np.asarray(values_TV, float) / alpha_V + 0.0  # -0.0 becomes 0.0: it would be written with its sign
        missing_TV = np.isnan(scaled_TV) & gaps
        if not (np.isfinite(scaled_TV) | missing_TV).all() or (scaled_TV < 0).any():
            raise JaxlvError("the text format holds non-negative finite numbers only", where=where)
        if (scaled_TV >= 10**MAX_INTEGER_DIGITS).any():
            raise JaxlvError(
                f"a value needs more than {MAX_INTEGER_DIGITS} digits before the point",
                where=where,
                found=f"{np.nanmax(scaled_TV):.3g} after scaling",
                hint='use codec.scale = "context"',
            )
        steps, variables = scaled_TV.shape
        if missing_TV.any():
            text = ";".join(self._step(values) for values in scaled_TV.tolist())
            return text + ";" if closed else text
        form = ";".join([",".join([f"%.{self.decimals}f"] * variables)] * steps)
        return (form + ";" if closed else form) % tuple(scaled_TV.ravel().tolist())

    def _step(self, values: Sequence[float]) -> str:
        fields = ["" if math.isnan(value) else f"{value:.{self.decimals}f}" for value in values]
        return ",".join(fields) if any(fields) else ""

    def decode(self, text: str, alpha_V: np.ndarray, max_steps: int | None = None, gaps: bool = False) -> Decoded:
        """Reads the complete time steps at the start of `text`, in raw units, and says why reading stopped.

        A step is complete if it holds exactly V unsigned decimal numbers and is closed by ";". Reading ends at the first
        step that is not, so that a lost or doubled delimiter never shifts the values after it. With `gaps`, as in contexts,
        empty fields and empty steps are read as NaN. Parsing by position is different: it takes all numbers of the text in
        turn, as the paper xu did.
        """
        if self.parsing == "position":
            return self._decoded_by_position(text, alpha_V, max_steps)
        steps: list[list[float | None]] = []
        *closed_steps, rest = text.split(";")
        for step in closed_steps:
            if len(steps) == max_steps:
                break
            numbers = step.split(",") if step or not gaps else [""] * len(alpha_V)
            if len(numbers) != len(alpha_V):
                return self._decoded(steps, alpha_V, "wrong number of values", step)
            values = [math.nan if gaps and not number else _number(number) for number in numbers]
            if None in values:
                return self._decoded(steps, alpha_V, "not a number", step)
            steps.append(values)
        complete = max_steps is not None and len(steps) == max_steps
        return self._decoded(steps, alpha_V, "complete" if complete else "end of text", rest)

    def _decoded_by_position(self, text: str, alpha_V: np.ndarray, max_steps: int | None) -> Decoded:
        numbers = list(itertools.takewhile(math.isfinite, map(float, NUMBER.findall(text))))
        whole = len(numbers) // len(alpha_V) if max_steps is None else min(len(numbers) // len(alpha_V), max_steps)
        steps = [numbers[i * len(alpha_V) : (i + 1) * len(alpha_V)] for i in range(whole)]
        return self._decoded(steps, alpha_V, "complete" if whole == max_steps else "end of text", "")

    def _decoded(self, steps: Sequence[Sequence[float | None]], alpha_V: np.ndarray, stop: StopReason, at: str) -> Decoded:
        values_TV = np.array(steps, float).reshape(-1, len(alpha_V)) * alpha_V
        return Decoded(values_TV, stop, at[:40])


def _number(text: str) -> float | None:
    """Returns an unsigned decimal number; None if the text is not one, or too large."""
    value = float(text) if NUMBER.fullmatch(text) else math.inf
    return value if math.isfinite(value) else None


StopReason = Literal["complete", "end of text", "wrong number of values", "not a number"]


@dataclass(frozen=True)
class Decoded:
    """The values that were read from one sample: `values_TV` (raw units) of its complete steps, and what ended it."""

    values_TV: np.ndarray
    stop: StopReason
    at: str  # the text where reading stopped

    @property
    def steps(self) -> int:
        """The number of complete time steps."""
        return len(self.values_TV)
