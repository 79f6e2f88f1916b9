"""Conditions under which forecasts are measured again: noise, gaps, contexts, origins, amplitudes, regimes, other systems.

A condition changes what a forecaster is given, never the truth that it is measured against. Each group takes the first
`count` series that are held out; the group of regimes takes as many of each regime.

Axes: N series, C context steps, T steps, V variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from jaxlv.data import dynamics, series
from jaxlv.data.dynamics import Preset, Range
from jaxlv.data.filling import interpolated
from jaxlv.data.series import SeriesSet
from jaxlv.forecasting.request import Request

NOISES = (0.0, 0.01, 0.05, 0.10)  # standard deviation of log-normal noise on the context
GAPS = (0.0, 0.05, 0.10, 0.20)  # share of the context's steps that are missing
CONTEXTS = (10, 20, 30, 50, 70, 90)
ORIGINS = (20, 30, 40, 50, 60, 70, 80)
AMPLITUDES = (1.0, 1.5, 2.0, 4.0)  # factor on all populations
REGIMES = ("oscillatory", "prey-dominant", "equilibrium", "collapse", "transient")
DOMINANT = 1.5  # times as much prey as predators on average
SHORT = 10  # steps ahead when contexts and origins are compared, so that all fit in a series


@dataclass(frozen=True)
class Condition:
    """Series as a forecaster gets them, and the truth after the context."""

    group: str
    level: str  # in words, with its unit
    value: float  # its place on an axis
    given: SeriesSet
    request: Request
    truth_NHV: np.ndarray


def _condition(group: str, level: str, value: float, chosen: SeriesSet, request: Request) -> Condition:
    truth_NHV = chosen.values_NTV[:, request.start : request.start + request.horizon]
    return Condition(group, level, value, chosen, request, truth_NHV)


def _first(held: SeriesSet, count: int) -> SeriesSet:
    return held.select(held.ids_N[:count])


def noise(held: SeriesSet, count: int, request: Request) -> Iterator[Condition]:
    """Yields contexts observed as x exp(s z), z standard normal."""
    chosen, context = _first(held, count), request.context
    z_NCV = np.random.default_rng(request.seed).standard_normal(chosen.values_NTV[:, :context].shape)
    for s in NOISES:
        values_NTV = chosen.values_NTV.copy()
        values_NTV[:, :context] *= np.exp(s * z_NCV)
        clean = _condition("noise", f"{100 * s:g} %", s, chosen, request)
        yield replace(clean, given=replace(chosen, values_NTV=values_NTV))


def _order(chosen: SeriesSet, request: Request) -> np.ndarray:
    """Returns the steps of each context but the last, in the order in which they go missing: (N, C - 1)."""
    return np.argsort(np.random.default_rng(request.seed).random((len(chosen), request.context - 1)), axis=1)


def gaps(held: SeriesSet, count: int, request: Request) -> Iterator[Condition]:
    """Yields contexts from which steps are missing, other steps in each series, never the last; nothing marks the gaps."""
    chosen, context = _first(held, count), request.context
    order_NC = _order(chosen, request)
    rest_NR = np.tile(np.arange(context - 1, chosen.values_NTV.shape[1]), (len(chosen), 1))
    for share in GAPS:
        kept_NC = np.sort(order_NC[:, round(share * context) :], axis=1)
        rows_NT = np.concatenate([kept_NC, rest_NR], axis=1)
        values_NTV = np.take_along_axis(chosen.values_NTV, rows_NT[..., None], axis=1)
        given = replace(chosen, values_NTV=values_NTV, time_T=chosen.time_T[: rows_NT.shape[1]])
        whole = _condition("missing steps", f"{100 * share:g} %", share, chosen, request)
        yield replace(whole, given=given, request=replace(request, context=kept_NC.shape[1] + 1))


def marked(held: SeriesSet, count: int, request: Request) -> Iterator[Condition]:
    """Yields the same contexts with the missing steps marked in the text; methods that read no gaps get interpolated values
    there.
    """
    chosen, context = _first(held, count), request.context
    order_NC = _order(chosen, request)
    for share in GAPS:
        missing_NT = np.zeros(chosen.values_NTV.shape[:2], bool)
        np.put_along_axis(missing_NT, order_NC[:, : round(share * context)], True, axis=1)
        missing_NTV = np.broadcast_to(missing_NT[..., None], chosen.values_NTV.shape)
        known_NTV = np.where(missing_NTV, np.nan, chosen.values_NTV)
        values_NTV = chosen.values_NTV.copy()
        values_NTV[:, :context] = [interpolated(values_TV) for values_TV in known_NTV[:, :context]]
        given = replace(chosen, values_NTV=values_NTV, missing_NTV=missing_NTV if missing_NT.any() else None)
        whole = _condition("marked gaps", f"{100 * share:g} %", share, chosen, request)
        yield replace(whole, given=given)


def contexts(held: SeriesSet, count: int, request: Request) -> Iterator[Condition]:
    """Yields the same steps to forecast, after contexts of different lengths."""
    chosen = _first(held, count)
    steps = chosen.values_NTV.shape[1]
    start = min(max(CONTEXTS), steps - SHORT)
    for length in CONTEXTS:
        if length <= start:
            part = slice(start - length, start + SHORT)
            given = chosen.steps(part.start, part.stop)
            yield _condition("context", f"{length} steps", length, given, replace(request, context=length, horizon=SHORT))


def origins(held: SeriesSet, count: int, request: Request) -> Iterator[Condition]:
    """Yields all steps up to an origin that moves through the series, and the next steps to forecast."""
    chosen = _first(held, count)
    for origin in ORIGINS:
        if origin + SHORT <= chosen.values_NTV.shape[1]:
            yield _condition("origin", f"step {origin}", origin, chosen, replace(request, context=origin, horizon=SHORT))


def amplitudes(held: SeriesSet, count: int, request: Request) -> Iterator[Condition]:
    """Yields all populations times a factor: under a scale that is fitted on the context, the text stays the same."""
    chosen = _first(held, count)
    for factor in AMPLITUDES:
        given = replace(chosen, values_NTV=factor * chosen.values_NTV)
        yield _condition("amplitude", f"x {factor:g}", factor, given, request)


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
"""Simulated series: with the course's parameters, and with one parameter beyond the ranges that the embedded base knows."""


COARSE = "as the course's, solved at rtol 1e-3"  # the course's file comes from a solver at this tolerance


def systems(held: SeriesSet, count: int, request: Request) -> Iterator[Condition]:
    """Yields simulated series of other systems, and of parameters beyond the base's ranges, as many as real ones."""
    like, *others = BEYOND
    presets = {like: BEYOND[like], COARSE: BEYOND[like], **{name: BEYOND[name] for name in others}}
    presets |= {name: preset for name, preset in dynamics.PRESETS.items() if preset.system != BEYOND[like].system}
    for place, (name, preset) in enumerate(presets.items()):
        solver = dynamics.Solver("Tsit5", rtol=1e-3, atol=1e-3) if name == COARSE else None
        drawn = dynamics.draw(preset, min(count, len(held)), request.seed, solver, attempts=30)
        yield _condition("simulated", name, place, drawn, request)


def regimes(held: SeriesSet, count: int, request: Request) -> Iterator[Condition]:
    """Yields the first series of each regime, judged by whole series; a rare regime may have few series or be missing."""
    label_N = regimes_of(held)
    for place, name in enumerate(REGIMES):
        rows = np.flatnonzero(label_N == name)[:count]
        if len(rows):
            yield _condition("regime", f"{name} ({len(rows)})", place, held.select(held.ids_N[rows]), request)


def regimes_of(chosen: SeriesSet, window: int = 20) -> np.ndarray:
    """Returns labels (N,) by `series.regimes`, but calls oscillations "prey-dominant" if the first variable's mean is above
    1.5 times the second's. (73 % of the course's series are; K-means in one paper finds 69 %.)
    """
    label_N = series.regimes(chosen, window).astype(object)
    mean_NV = chosen.values_NTV.mean(axis=1)
    if mean_NV.shape[1] > 1:
        label_N[(label_N == "oscillatory") & (mean_NV[:, 0] > DOMINANT * mean_NV[:, 1])] = "prey-dominant"
    return label_N


GROUPS: Mapping[str, Callable[[SeriesSet, int, Request], Iterator[Condition]]] = MappingProxyType(
    {
        "noise": noise,
        "missing steps": gaps,
        "marked gaps": marked,
        "context": contexts,
        "origin": origins,
        "amplitude": amplitudes,
        "regime": regimes,
        "simulated": systems,
    }
)
"""The groups by name: (series held out, how many to take, what to forecast) -> conditions, the mildest first."""
