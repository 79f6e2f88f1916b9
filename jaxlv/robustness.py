"""Conditions under which forecasts are measured again: noise, gaps, context lengths, origins, amplitudes, other systems.

A condition changes what a forecaster is given, never the truth that it is measured by.

Axes: N series, C context steps, T steps, V variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from jaxlv import dynamics, series
from jaxlv.dynamics import Preset, Range
from jaxlv.series import SeriesSet

NOISES = (0.0, 0.01, 0.05, 0.10)  # standard deviation of log-normal noise on the context
GAPS = (0.0, 0.05, 0.10, 0.20)  # share of the context's steps that are missing
CONTEXTS = (10, 20, 30, 50, 70, 90)
ORIGINS = (20, 30, 40, 50, 60, 70, 80)
AMPLITUDES = (1.0, 1.5, 2.0, 4.0)  # factor on all populations
SHORT = 10  # steps ahead where contexts and origins are compared, so that all fit in a series


@dataclass(frozen=True)
class Condition:
    """Series as a forecaster is given them, and the truth behind the context."""

    group: str
    level: str  # in words, with its unit
    value: float  # its place on an axis
    given: SeriesSet
    context: int
    truth_NHV: np.ndarray

    @property
    def horizon(self) -> int:
        """Steps to forecast."""
        return self.truth_NHV.shape[1]


def _condition(group: str, level: str, value: float, chosen: SeriesSet, context: int, horizon: int) -> Condition:
    return Condition(group, level, value, chosen, context, chosen.values_NTV[:, context : context + horizon])


def noise(chosen: SeriesSet, context: int, horizon: int, seed: int) -> Iterator[Condition]:
    """The context observed as x exp(s z), z standard normal."""
    z_NCV = np.random.default_rng(seed).standard_normal(chosen.values_NTV[:, :context].shape)
    for s in NOISES:
        values_NTV = chosen.values_NTV.copy()
        values_NTV[:, :context] *= np.exp(s * z_NCV)
        clean = _condition("noise", f"{100 * s:g} %", s, chosen, context, horizon)
        yield replace(clean, given=replace(chosen, values_NTV=values_NTV))


def gaps(chosen: SeriesSet, context: int, horizon: int, seed: int) -> Iterator[Condition]:
    """Steps of the context left out, of each series others, never the last: nothing tells the forecaster where."""
    random, count = np.random.default_rng(seed), len(chosen)
    order_NC = np.argsort(random.random((count, context - 1)), axis=1)
    for share in GAPS:
        kept_NC = np.sort(order_NC[:, round(share * context) :], axis=1)
        rows_NT = np.concatenate(
            [
                kept_NC,
                np.broadcast_to(
                    np.arange(context - 1, chosen.values_NTV.shape[1]), (count, chosen.values_NTV.shape[1] - context + 1)
                ),
            ],
            axis=1,
        )
        values_NTV = np.take_along_axis(chosen.values_NTV, rows_NT[..., None], axis=1)
        given = replace(chosen, values_NTV=values_NTV, time_T=chosen.time_T[: rows_NT.shape[1]])
        whole = _condition("missing steps", f"{100 * share:g} %", share, chosen, context, horizon)
        yield replace(whole, given=given, context=kept_NC.shape[1] + 1)


def contexts(chosen: SeriesSet, context: int, horizon: int, seed: int) -> Iterator[Condition]:
    """The same steps forecast from the last so many before them."""
    steps = chosen.values_NTV.shape[1]
    start = min(max(CONTEXTS), steps - SHORT)
    for length in CONTEXTS:
        if length <= start:
            part = slice(start - length, start + SHORT)
            given = replace(chosen, values_NTV=chosen.values_NTV[:, part], time_T=chosen.time_T[part])
            yield _condition("context", f"{length} steps", length, given, length, SHORT)


def origins(chosen: SeriesSet, context: int, horizon: int, seed: int) -> Iterator[Condition]:
    """All steps up to an origin that rolls through the series, and the next ones."""
    for origin in ORIGINS:
        if origin + SHORT <= chosen.values_NTV.shape[1]:
            yield _condition("origin", f"step {origin}", origin, chosen, origin, SHORT)


def amplitudes(chosen: SeriesSet, context: int, horizon: int, seed: int) -> Iterator[Condition]:
    """All populations times a factor: nothing changes under a scale that is fitted on the context."""
    for factor in AMPLITUDES:
        given = replace(chosen, values_NTV=factor * chosen.values_NTV)
        yield _condition("amplitude", f"x {factor:g}", factor, given, context, horizon)


def _ranges(**changed: tuple[float, float]) -> dict[str, Range]:
    course = dynamics.PRESETS["course"].ranges
    return {name: Range(*changed[name]) if name in changed else limits for name, limits in course.items()}


BEYOND: Mapping[str, Preset] = MappingProxyType(
    {
        "as the course's": Preset("as the course's", "rosenzweig-macarthur", _ranges()),
        "faster prey": Preset("faster prey", "rosenzweig-macarthur", _ranges(r=(0.6, 0.8))),
        "larger capacity": Preset("larger capacity", "rosenzweig-macarthur", _ranges(K=(27.0, 40.0))),
        "slower predators": Preset("slower predators", "rosenzweig-macarthur", _ranges(m=(0.03, 0.045))),
        "longer handling": Preset("longer handling", "rosenzweig-macarthur", _ranges(h=(1.3, 1.8))),
    }
)
"""Simulated series: of the course's parameters, and with one of them beyond the ranges that the embedded base knows."""


def systems(chosen: SeriesSet, context: int, horizon: int, seed: int) -> Iterator[Condition]:
    """Simulated series of other systems and of parameters beyond the base's ranges, as many as there are real ones."""
    presets = {**BEYOND, **{name: preset for name, preset in dynamics.PRESETS.items() if name != "course"}}
    for place, (name, preset) in enumerate(presets.items()):
        drawn = dynamics.draw(preset, len(chosen), seed, attempts=30)
        yield _condition("simulated", name, place, drawn, context, horizon)


GROUPS: Mapping[str, Callable[[SeriesSet, int, int, int], Iterator[Condition]]] = MappingProxyType(
    {
        "noise": noise,
        "missing steps": gaps,
        "context": contexts,
        "origin": origins,
        "amplitude": amplitudes,
        "simulated": systems,
    }
)
"""By name: (series, context, horizon, seed) -> conditions, from the mildest on."""


def regimes_of(chosen: SeriesSet) -> dict[str, np.ndarray]:
    """{regime: rows} of the series, by `series.regimes`; regimes without a series are left out."""
    label_N = series.regimes(chosen)
    return {str(label): np.flatnonzero(label_N == label) for label in np.unique(label_N)}
