"""Measures what a set of series is like: the file's quality, ranges, cycles by peak detection, rest, first and last states.

Axes: N series, T time steps, V variables, P peaks of one series.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import find_peaks

from jaxlv.data.limits import MEMORY_CAP
from jaxlv.data.loading import load_series
from jaxlv.data.observations import Observations
from jaxlv.data.series import FAULTS, REST, SeriesSet, at_rest, first_place
from jaxlv.data.splits import digest
from jaxlv.errors import JaxlvError
from jaxlv.results.exploration import Check, Cycle, MeanStep, PeakCount, PeakRule, RestRule, Spread, State, Values
from jaxlv.results.record import Id
from jaxlv.storage.door import is_there
from jaxlv.storage.files import sha256

PERCENTILES = (50, 90, 95, 99, 99.7, 99.9)
PROMINENCE = 0.05  # least height of a peak above the valleys beside it, as a share of the series' maximum
PROMINENCES = (0.0, 0.01, 0.02, 0.05, 0.10)
RESTS = (0.005, 0.01, 0.02, 0.05, 0.10)
WINDOW = 20  # last steps in which a series may be at rest
DEFINITIONS = {
    "peaks": f"A peak stands at least {100 * PROMINENCE:g} % of its series' maximum above the higher of the valleys beside"
    " it (scipy's find_peaks); its place is the top of the parabola through its three values. A period is the mean distance"
    " of a series' neighbouring peaks, a lag the mean distance from a peak of the first variable to the second's next one"
    " before the first's next.",
    "rest": f"A series is at rest if every variable's standard deviation over the last {WINDOW} steps is at most"
    f" {100 * REST:g} % of its mean.",
    "regimes by rule": "collapse: a variable stays below 5 % of its maximum in the last steps; equilibrium: at rest;"
    " prey-dominant: two peaks of the first variable or more, whose mean is above 1.5 times the second's; oscillatory: two"
    " peaks or more; transient: anything else. The first of collapse, equilibrium, peaks that fits.",
    "standard deviation": "of the population: divided by the number of values",
}


# ------------------------------------------------------------------------------------------------ quality


def inspect(data: Any, *, memory_cap: int = MEMORY_CAP, **reading: Any) -> list[Check]:
    """Returns facts about series, and checks; `reading` is what `load_series` takes beside the data.

    Reads what `loading.load` refuses: counts values that are NaN, infinite or negative, and places the first. A check of a
    file that cannot be made is the last row. Raises JaxlvError only if the file does not exist, or if what is not a file is
    not understood.
    """
    path = Path(data) if isinstance(data, (str, os.PathLike)) else None
    try:
        found = load_series(data, memory_cap=memory_cap, check=False, **reading)
    except JaxlvError as fault:
        if path is None or not is_there(path):
            raise
        return [*_file_rows(path, memory_cap), Check("readable", f"no: {fault.what}", fault.expected or "", False)]
    return [*(_file_rows(path, memory_cap) if path else ()), *_series_rows(found)]


def failed(rows: Sequence[Check]) -> list[Check]:
    """Returns the checks that a file does not pass."""
    return [row for row in rows if row.ok is False]


def _check(name: str, found: Any, expected: str | None = "", ok: bool | None = None, first: str = "") -> Check:
    return Check(name, found, expected, ok, first)


def _file_rows(path: Path, memory_cap: int) -> Iterator[Check]:
    yield _check("file", path.name)
    yield _check("bytes", path.stat().st_size)
    try:
        if (size := path.stat().st_size) > memory_cap:
            raise JaxlvError("too large", where=path, expected=f"at most {memory_cap} bytes", found=size)
        yield _check("sha256", sha256(path))
    except JaxlvError as fault:
        yield _check("sha256", f"unknown: {fault.what}", fault.expected or "", ok=False)


def _series_rows(found: Observations) -> Iterator[Check]:
    values_NTV, names, ids_N = found.padded(), found.variables, np.array(found.ids, object)
    lengths = sorted({len(values_TV) for values_TV in found.values})
    shape = f"{values_NTV.shape}" if len(lengths) == 1 else f"{len(found)} series of {lengths[0]} to {lengths[-1]} steps"
    yield _check("shape", shape, "(series, steps, variables)", True)
    yield _check("variables", ", ".join(names))
    yield _check("time", found.told.split(", ", 2)[-1], "equal steps, increasing", True)
    inside_NTV = (
        np.arange(values_NTV.shape[1])[:, None]
        >= values_NTV.shape[1] - np.array(list(map(len, found.values)))[:, None, None]
    )
    for name, test in FAULTS.items():
        fault_NTV = test(values_NTV) & inside_NTV
        yield _check(f"{name} values", int(fault_NTV.sum()), "0", not fault_NTV.any(), _first(fault_NTV, names, ids_N))
    yield from _range_rows(values_NTV, names, ids_N)
    yield from _repeat_rows(values_NTV, names, ids_N)


def _first(fault_NTV: np.ndarray, names: Sequence[str], ids_N: np.ndarray) -> str:
    return first_place(fault_NTV, names, ids_N) if fault_NTV.any() else ""


def _range_rows(values_NTV: np.ndarray, names: Sequence[str], ids_N: np.ndarray) -> Iterator[Check]:
    held_NTV = np.isfinite(values_NTV)
    if held_NTV.any():
        least, greatest = values_NTV.min(where=held_NTV, initial=np.inf), values_NTV.max(where=held_NTV, initial=-np.inf)
        for word, extreme in (("minimum", least), ("maximum", greatest)):
            yield _check(word, float(extreme), first=_first(values_NTV == extreme, names, ids_N))
    zero_NTV = values_NTV == 0
    yield _check("zeros", int(zero_NTV.sum()), "allowed; they have no logarithm", None, _first(zero_NTV, names, ids_N))


def _repeat_rows(values_NTV: np.ndarray, names: Sequence[str], ids_N: np.ndarray) -> Iterator[Check]:
    seen: dict[bytes, int] = {}
    pairs = [(i, seen.setdefault(digest(values_TV), i)) for i, values_TV in zip(ids_N, values_NTV, strict=True)]
    twice = [(i, earlier) for i, earlier in pairs if i != earlier]
    place = f"series {twice[0][0]}, the same as {twice[0][1]}" if twice else ""
    yield _check("duplicate series", len(twice), "0", not twice, place)
    still_N1V = (values_NTV == values_NTV[:, :1]).all(axis=1, keepdims=True)
    words = "allowed; no scale if zero"
    yield _check("variables that never change", int(still_N1V.sum()), words, None, _first(still_N1V, names, ids_N))


# ------------------------------------------------------------------------------------------- distributions


def summary(values_N: np.ndarray) -> Spread:
    """Returns number, mean, standard deviation, extremes and 5/50/95 % points of the values that are not NaN."""
    held_N = values_N[np.isfinite(values_N)]
    if not len(held_N):
        return Spread(0)
    low, middle, high = np.percentile(held_N, (5, 50, 95))
    return Spread(len(held_N), held_N.mean(), held_N.std(), held_N.min(), low, middle, high, held_N.max())


def value_rows(data: SeriesSet) -> list[Values]:
    """Returns ranges, means, standard deviations and percentiles of all values, and of each variable's, in raw units."""
    parts = [("all", data.values_NTV), *((name, data.values_NTV[..., v]) for v, name in enumerate(data.variables))]
    return [
        Values(
            name, values.size, values.min(), values.max(), values.mean(), values.std(), *np.percentile(values, PERCENTILES)
        )
        for name, values in parts
    ]


def mean_rows(data: SeriesSet) -> list[MeanStep]:
    """Returns mean, standard deviation and 10, 50 and 90 % points over series, by step and variable, in raw units."""
    values_NTV = data.values_NTV
    ends_3TV = np.percentile(values_NTV, (10, 50, 90), axis=0)
    figures_5TV = np.stack([values_NTV.mean(axis=0), values_NTV.std(axis=0), *ends_3TV])
    return [
        MeanStep(t, time, name, *figures_5TV[:, t, v])
        for v, name in enumerate(data.variables)
        for t, time in enumerate(data.time_T)
    ]


def state_rows(data: SeriesSet) -> list[State]:
    """Returns the distribution over series of each variable at the first and at the last step, in raw units."""
    return [
        State(state=state, variable=name, **vars(summary(data.values_NTV[:, step, v])))
        for state, step in (("initial", 0), ("final", -1))
        for v, name in enumerate(data.variables)
    ]


def rest_rows(values_NTV: np.ndarray, window: int = WINDOW) -> list[RestRule]:
    """Counts the series at rest in their last `window` steps, by the largest deviation that counts as rest.

    Rest is `series.at_rest`; the row `used` is the rule of `series.regimes`.
    """
    rest = [(limit, at_rest(values_NTV, window, limit)) for limit in RESTS]
    return [RestRule(limit, limit == REST, rest_N.sum(), rest_N.mean()) for limit, rest_N in rest]


# -------------------------------------------------------------------------------------------------- cycles


@dataclass(frozen=True)
class Cycles:
    """Peaks of a set of series, in steps; NaN if a series has too few of them."""

    peaks_NV: np.ndarray  # their number
    period_NV: np.ndarray  # mean distance of neighbouring peaks; needs two
    lag_N: np.ndarray  # mean distance from a peak of the first variable to the second's next one; NaN for one variable

    @property
    def share_N(self) -> np.ndarray:
        """The lag as a share of the first variable's period."""
        return self.lag_N / self.period_NV[:, 0]


def peak_places(values_T: np.ndarray, prominence: float = PROMINENCE, refined: bool = True) -> np.ndarray:
    """Returns the places of the peaks in steps, (P,), by scipy's find_peaks; the ends of a series are not peaks.

    A peak stands at least `prominence` times the series' maximum above the higher of the valleys beside it. `refined` puts
    it at the top of the parabola through its three values, as steps are coarse beside a lag of a few of them.
    """
    places_P, _ = find_peaks(values_T, prominence=prominence * values_T.max())
    if not refined:
        return places_P.astype(float)
    before_P, at_P, after_P = (values_T[places_P + shift] for shift in (-1, 0, 1))
    bend_P = before_P - 2 * at_P + after_P
    # A plateau of three has no parabola: its middle is its place.
    shift_P = np.divide(before_P - after_P, 2 * bend_P, out=np.zeros(len(places_P)), where=bend_P < 0)
    return places_P + shift_P


def cycles(values_NTV: np.ndarray, prominence: float = PROMINENCE, refined: bool = True) -> Cycles:
    """Finds number and distance of the peaks of every series, and the second variable's lag behind the first."""
    N, _, V = values_NTV.shape
    peaks_NV, period_NV, lag_N = np.zeros((N, V), int), np.full((N, V), np.nan), np.full(N, np.nan)
    for n, values_TV in enumerate(values_NTV):
        places = [peak_places(values_T, prominence, refined) for values_T in values_TV.T]
        for v, places_P in enumerate(places):
            peaks_NV[n, v] = len(places_P)
            if len(places_P) > 1:
                period_NV[n, v] = np.diff(places_P).mean()
        if V > 1 and len(places[0]) > 1:
            lag_N[n] = _lag(places[0], places[1], period_NV[n, 0])
    return Cycles(peaks_NV, period_NV, lag_N)


def _lag(first_P: np.ndarray, second_P: np.ndarray, period: float) -> float:
    """Returns the mean distance to the second variable's next peak before the first's next one; NaN if there are none."""
    end_P = np.append(first_P[1:], first_P[-1] + period)
    next_P = np.append(second_P, np.inf)[np.searchsorted(second_P, first_P)]
    inside_P = next_P < end_P
    return float((next_P - first_P)[inside_P].mean()) if inside_P.any() else math.nan


def cycle_rows(found: Cycles, variables: Sequence[str], step: float) -> list[Cycle]:
    """Returns the distribution over series of periods and lag: in steps, in time units, and the lag by the period.

    `step` is the time between two steps. A series' period is the mean of its own; series with fewer than two peaks have no
    period and are not counted.
    """
    steps = {f"period of {name}": found.period_NV[:, v] for v, name in enumerate(variables)}
    shares = {}
    if len(variables) > 1:
        lag = f"lag of {variables[1]} behind {variables[0]}"
        steps[lag], shares[lag] = found.lag_N, found.share_N
    units = (("steps", 1.0), ("time units", step))
    figures = [(name, unit, steps_N * size) for name, steps_N in steps.items() for unit, size in units]
    figures += [(name, f"share of the period of {variables[0]}", share_N) for name, share_N in shares.items()]
    return [Cycle(quantity=name, unit=unit, **vars(summary(values_N))) for name, unit, values_N in figures]


def peak_rows(found: Cycles, variables: Sequence[str]) -> list[PeakCount]:
    """Counts the series by the number of their peaks, for each variable."""
    most = int(found.peaks_NV.max())
    counts = {name: np.bincount(found.peaks_NV[:, v], minlength=most + 1) for v, name in enumerate(variables)}
    return [PeakCount(k, {name: count_K[k] for name, count_K in counts.items()}) for k in range(most + 1)]


def prominence_rows(values_NTV: np.ndarray) -> list[PeakRule]:
    """Measures the first variable's cycles by each rule of what counts as a peak; periods and lags are in steps."""
    rules = [(prominence, True) for prominence in PROMINENCES] + [(PROMINENCE, False)]
    return [_prominence_row(values_NTV, *rule) for rule in rules]


def _prominence_row(values_NTV: np.ndarray, prominence: float, refined: bool) -> PeakRule:
    found = cycles(values_NTV, prominence, refined)
    period, lag, share = (summary(values_N) for values_N in (found.period_NV[:, 0], found.lag_N, found.share_N))
    used, few = prominence == PROMINENCE and refined, (found.peaks_NV[:, 0] < 2).sum()
    places = "parabola" if refined else "whole steps"
    return PeakRule(prominence, places, used, few, period.mean, period.p5, period.p95, lag.mean, share.mean)


def example_ids(ids_N: np.ndarray, label_N: np.ndarray) -> list[Id]:
    """Returns the ids of the first two series, and of the first with every other label."""
    rows = list(range(min(2, len(ids_N))))
    for label in dict.fromkeys(label_N.tolist()):
        if label not in label_N[rows]:
            rows.append(int(np.flatnonzero(label_N == label)[0]))
    return list(ids_N[rows].tolist())
