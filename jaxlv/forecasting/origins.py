"""Rolling origins: the same series forecast from several of its steps, each time from the steps before.

Axes: N series, M windows, C context steps, H steps ahead, V variables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jaxlv.data.observations import shifts
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError

LEAST = 5  # steps of the shortest context: VAR(3) needs more than three, and a model some


@dataclass(frozen=True)
class Rolling:
    """Windows of series, a row each, and which series each is of. The forecasts begin at step `context` of all."""

    windows: SeriesSet
    series_M: np.ndarray
    context: int


def rolling(series: SeriesSet, horizon: int, origins: int, every: int | None = None, context: int | None = None) -> Rolling:
    """Returns windows of the last `origins` origins of each series, `every` steps apart (by default `horizon`), so that the
    last window ends with its series; each has the `context` steps before its origin, or all.

    Values are shifted above zero by each context alone. A window with fewer than LEAST steps before its origin is left out.
    Raises JaxlvError if none is left.
    """
    every, steps = every or horizon, series.values_NTV.shape[1]
    found: list[tuple[int, int, int]] = []  # row, first step, origin
    for row, first in enumerate(series.first_N.tolist()):
        for turn in reversed(range(origins)):
            origin = steps - horizon - turn * every
            start = first if context is None else max(first, origin - context)
            if origin - start >= LEAST:
                found.append((row, start, origin))
    if not found:
        longest = steps - int(series.first_N.min())
        expected = f"more than {LEAST} steps of context and {horizon} of forecast"
        raise JaxlvError(
            "no series is long enough", where=series.source.get("path"), expected=expected, found=f"{longest} steps"
        )
    longest = max(origin - start for _, start, origin in found)
    rows = np.array([row for row, _, _ in found])
    raw_NTV = series.values_NTV - series.shift_NV[:, None]
    values_MTV = np.full((len(found), longest + horizon, len(series.variables)), np.nan)
    for place, (row, start, origin) in enumerate(found):
        values_MTV[place, longest - (origin - start) :] = raw_NTV[row, start : origin + horizon]
    shift_MV = shifts(values_MTV[:, :longest])
    clock = series.clock.select(rows).moved(np.array([origin - longest for _, _, origin in found]))
    ids = [_name(series, row, origin) for row, _, origin in found]
    windows = SeriesSet.observed(
        values_MTV + shift_MV[:, None], clock, series.variables, ids, source=series.rows(rows).source, layout=series.layout,
        first_N=np.array([longest - (origin - start) for _, start, origin in found]), shift_NV=shift_MV,
    )  # fmt: skip
    return Rolling(windows, series.ids_N[rows], longest)


def _name(series: SeriesSet, row: int, origin: int) -> str:
    """Returns the id of a window: its series, and the first time that is forecast."""
    label = series.clock.labels(row, [origin])[0]
    label = f"{label:.10g}" if isinstance(label, (float, np.floating)) else str(label).removesuffix("T00:00:00.000000000")
    return f"{series.ids_N[row]} from {label}" if len(series) > 1 else f"from {label}"


def by_length(
    baseline: Callable[[np.ndarray, int], np.ndarray], context_NCV: np.ndarray, first_N: np.ndarray, horizon: int
) -> np.ndarray:
    """Returns a baseline's forecasts (N, H, V) of contexts that begin at different steps: those of one length together."""
    if not first_N.any():
        return baseline(context_NCV, horizon)
    found_NHV = np.empty((len(context_NCV), horizon, context_NCV.shape[2]))
    for first in np.unique(first_N):
        mine_N = first_N == first
        found_NHV[mine_N] = baseline(context_NCV[mine_N, first:], horizon)
    return found_NHV
