"""What a set of series is like: quality of the file, ranges, cycles by peak detection, rest, first and last states.

Every function gives plain rows, one dict per line of a table, with the unit in the key or in the column `unit`.

Axes: N series, T time steps, V variables, P peaks of one series.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import find_peaks

from jaxlv.data.limits import MEMORY_CAP
from jaxlv.data.loading import load_series
from jaxlv.data.observations import Observations
from jaxlv.data.series import FAULTS, REST, SeriesSet, at_rest, digest, first_place
from jaxlv.errors import JaxlvError
from jaxlv.storage.door import is_there
from jaxlv.storage.files import sha256

Row = dict[str, Any]
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
    "rest": f"A series is at rest where every variable's standard deviation over the last {WINDOW} steps is at most"
    f" {100 * REST:g} % of its mean.",
    "regimes by rule": "collapse: a variable stays below 5 % of its maximum in the last steps; equilibrium: at rest;"
    " prey-dominant: two peaks of the first variable or more, whose mean is above 1.5 times the second's; oscillatory: two"
    " peaks or more; transient: anything else. The first of collapse, equilibrium, peaks that fits.",
    "standard deviation": "of the population: divided by the number of values",
}


# ------------------------------------------------------------------------------------------------ quality


def inspect(path: Any, *, memory_cap: int = MEMORY_CAP) -> list[Row]:
    """Facts and checks of a file of series: `check`, `found`, `expected`, `ok` (None for a plain fact) and `first`.

    Reads what `loading.load` refuses: values that are NaN, infinite or negative are counted and the first is placed, and a
    check that cannot be made is the last row. JaxlvError only where there is no file.
    """
    path = Path(path)
    try:
        found = load_series(path, memory_cap=memory_cap, check=False)
    except JaxlvError as fault:
        if not is_there(path):
            raise
        return [*_file_rows(path, memory_cap), _check("readable", f"no: {fault.what}", fault.expected or "", False)]
    return [*_file_rows(path, memory_cap), *_series_rows(found)]


def failed(rows: Sequence[Row]) -> list[Row]:
    """The checks that a file does not pass."""
    return [row for row in rows if row["ok"] is False]


def _check(name: str, found: Any, expected: str = "", ok: bool | None = None, first: str = "") -> Row:
    return {"check": name, "found": found, "expected": expected, "ok": ok, "first": first}


def _file_rows(path: Path, memory_cap: int) -> Iterator[Row]:
    yield _check("file", path.name)
    yield _check("bytes", path.stat().st_size)
    try:
        if (size := path.stat().st_size) > memory_cap:
            raise JaxlvError("too large", where=path, expected=f"at most {memory_cap} bytes", found=size)
        yield _check("sha256", sha256(path))
    except JaxlvError as fault:
        yield _check("sha256", f"unknown: {fault.what}", fault.expected or "", ok=False)


def _series_rows(found: Observations) -> Iterator[Row]:
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


def _range_rows(values_NTV: np.ndarray, names: Sequence[str], ids_N: np.ndarray) -> Iterator[Row]:
    held_NTV = np.isfinite(values_NTV)
    if held_NTV.any():
        least, greatest = values_NTV.min(where=held_NTV, initial=np.inf), values_NTV.max(where=held_NTV, initial=-np.inf)
        for word, extreme in (("minimum", least), ("maximum", greatest)):
            yield _check(word, float(extreme), first=_first(values_NTV == extreme, names, ids_N))
    zero_NTV = values_NTV == 0
    yield _check("zeros", int(zero_NTV.sum()), "allowed; they have no logarithm", None, _first(zero_NTV, names, ids_N))


def _repeat_rows(values_NTV: np.ndarray, names: Sequence[str], ids_N: np.ndarray) -> Iterator[Row]:
    seen: dict[bytes, int] = {}
    pairs = [(i, seen.setdefault(digest(values_TV), i)) for i, values_TV in zip(ids_N, values_NTV, strict=True)]
    twice = [(i, earlier) for i, earlier in pairs if i != earlier]
    place = f"series {twice[0][0]}, the same as {twice[0][1]}" if twice else ""
    yield _check("duplicate series", len(twice), "0", not twice, place)
    still_N1V = (values_NTV == values_NTV[:, :1]).all(axis=1, keepdims=True)
    words = "allowed; no scale if zero"
    yield _check("variables that never change", int(still_N1V.sum()), words, None, _first(still_N1V, names, ids_N))


# ------------------------------------------------------------------------------------------- distributions


def summary(values_N: np.ndarray) -> Row:
    """Mean, standard deviation, extremes and 5/50/95 % points of the values that are no NaN, and their number."""
    held_N = values_N[np.isfinite(values_N)]
    names = ("mean", "sd", "min", "p5", "median", "p95", "max")
    if not len(held_N):
        return {"series": 0, **dict.fromkeys(names, math.nan)}
    low, middle, high = np.percentile(held_N, (5, 50, 95))
    figures = (held_N.mean(), held_N.std(), held_N.min(), low, middle, high, held_N.max())
    return {"series": len(held_N), **{name: float(figure) for name, figure in zip(names, figures, strict=True)}}


def value_rows(data: SeriesSet) -> list[Row]:
    """Ranges, means, standard deviations and percentiles of all values, and of each variable's, in raw units."""
    parts = [("all", data.values_NTV), *((name, data.values_NTV[..., v]) for v, name in enumerate(data.variables))]
    return [
        {
            "values of": name,
            "count": values.size,
            "min": values.min(),
            "max": values.max(),
            "mean": values.mean(),
            "sd": values.std(),
            **{f"p{p:g}": figure for p, figure in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)},
        }
        for name, values in parts
    ]


def mean_rows(data: SeriesSet) -> list[Row]:
    """Per step and variable, over series, in raw units: mean, standard deviation, 10, 50 and 90 % points."""
    values_NTV = data.values_NTV
    low_TV, middle_TV, high_TV = np.percentile(values_NTV, (10, 50, 90), axis=0)
    mean_TV, sd_TV = values_NTV.mean(axis=0), values_NTV.std(axis=0)
    return [
        {
            "step": t, "time": time, "variable": name, "mean": mean_TV[t, v], "sd": sd_TV[t, v],
            "p10": low_TV[t, v], "median": middle_TV[t, v], "p90": high_TV[t, v],
        }
        for v, name in enumerate(data.variables)
        for t, time in enumerate(data.time_T)
    ]  # fmt: skip


def state_rows(data: SeriesSet) -> list[Row]:
    """Distribution over series of each variable at the first and at the last step, in raw units."""
    return [
        {"state": state, "variable": name, **summary(data.values_NTV[:, step, v])}
        for state, step in (("initial", 0), ("final", -1))
        for v, name in enumerate(data.variables)
    ]


def rest_rows(values_NTV: np.ndarray, window: int = WINDOW) -> list[Row]:
    """The number and share of series at rest in their last `window` steps, by the largest deviation that counts as rest.

    Rest is `series.at_rest`; the row `used` is the rule of `series.regimes`.
    """
    rows = []
    for limit in RESTS:
        rest_N = at_rest(values_NTV, window, limit)
        rows.append({"limit": limit, "used": limit == REST, "series": int(rest_N.sum()), "share": float(rest_N.mean())})
    return rows


# -------------------------------------------------------------------------------------------------- cycles


@dataclass(frozen=True)
class Cycles:
    """Peaks of a set of series, in steps; NaN where a series has too few of them."""

    peaks_NV: np.ndarray  # their number
    period_NV: np.ndarray  # mean distance of neighbouring peaks; needs two
    lag_N: np.ndarray  # mean distance from a peak of the first variable to the second's next one; NaN for one variable

    @property
    def share_N(self) -> np.ndarray:
        """The lag as a share of the first variable's period."""
        return self.lag_N / self.period_NV[:, 0]


def peak_places(values_T: np.ndarray, prominence: float = PROMINENCE, refined: bool = True) -> np.ndarray:
    """(P,) places of the peaks in steps, by scipy's find_peaks; the ends of a series are none.

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
    """Number and distance of the peaks of every series, and the second variable's lag behind the first."""
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
    """Mean distance to the next peak of the second variable, of those before the first's next one; NaN where none is."""
    end_P = np.append(first_P[1:], first_P[-1] + period)
    next_P = np.append(second_P, np.inf)[np.searchsorted(second_P, first_P)]
    inside_P = next_P < end_P
    return float((next_P - first_P)[inside_P].mean()) if inside_P.any() else math.nan


def cycle_rows(found: Cycles, variables: Sequence[str], step: float) -> list[Row]:
    """Distribution over series of periods and lag: in steps, in units of time (`step` is the time of one) and by the period.

    A series' period is the mean of its own; series with fewer than two peaks have none and are not counted.
    """
    quantities = [(f"period of {name}", found.period_NV[:, v]) for v, name in enumerate(variables)]
    lags = []
    if len(variables) > 1:
        words = f"lag of {variables[1]} behind {variables[0]}"
        quantities.append((words, found.lag_N))
        lags = [{"quantity": words, "unit": f"share of the period of {variables[0]}", **summary(found.share_N)}]
    rows = []
    for words, steps_N in quantities:
        rows.append({"quantity": words, "unit": "steps", **summary(steps_N)})
        rows.append({"quantity": words, "unit": "time units", **summary(steps_N * step)})
    return rows + lags


def peak_rows(found: Cycles, variables: Sequence[str]) -> list[Row]:
    """The number of series with so many peaks, per variable."""
    most = int(found.peaks_NV.max())
    counts = [np.bincount(found.peaks_NV[:, v], minlength=most + 1) for v in range(len(variables))]
    return [{"peaks": k, **{name: int(counts[v][k]) for v, name in enumerate(variables)}} for k in range(most + 1)]


def prominence_rows(values_NTV: np.ndarray) -> list[Row]:
    """How the facts about the first variable's cycles depend on what counts as a peak; periods and lags in steps."""
    rules = [(prominence, True) for prominence in PROMINENCES] + [(PROMINENCE, False)]
    rows = []
    for prominence, refined in rules:
        found = cycles(values_NTV, prominence, refined)
        period, lag, share = (summary(values_N) for values_N in (found.period_NV[:, 0], found.lag_N, found.share_N))
        rows.append(
            {
                "prominence": prominence, "places": "parabola" if refined else "whole steps",
                "used": prominence == PROMINENCE and refined,
                "fewer than two peaks": int((found.peaks_NV[:, 0] < 2).sum()),
                "period": period["mean"], "period_p5": period["p5"], "period_p95": period["p95"],
                "lag": lag["mean"], "lag_share": share["mean"],
            }
        )  # fmt: skip
    return rows


def example_ids(ids_N: np.ndarray, label_N: np.ndarray) -> list[int]:
    """The first two series, and the first of every label that these do not have."""
    rows = list(range(min(2, len(ids_N))))
    for label in dict.fromkeys(label_N.tolist()):
        if label not in label_N[rows]:
            rows.append(int(np.flatnonzero(label_N == label)[0]))
    return [int(ids_N[row]) for row in rows]
