"""Rolling origins: the same series forecast from several of its steps, each time from the steps before.

Axes: N series, M windows, C context steps, H steps ahead, V variables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from jaxlv.config import COUNT
from jaxlv.data.observations import FILLED, MOST_MISSING, USUAL, Handling, shifts
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.forecasting.request import Request
from jaxlv.settings import Statement, settled

LEAST = 5  # steps of the shortest context: VAR(3) needs more than three, and a model some


@dataclass(frozen=True)
class Rolling:
    """Windows of series, a row each, which series each is of, and notes. The forecasts begin at step `context` of all."""

    windows: SeriesSet
    series_M: np.ndarray
    context: int
    notes: tuple[str, ...] = ()


WORDS = {
    "horizon": "steps ahead", "origins": "forecasts of each series", "every": "steps between origins",
    "context": "steps before an origin",
}  # fmt: skip


@dataclass(frozen=True)
class Origins:
    """Says from where series are forecast: from `count` of their steps, `every` so many steps (by default `horizon`), from
    the `context` steps before (by default all), the last time `horizon` steps before their end. A context has at least
    `least` steps.
    """

    horizon: int
    count: int = 1
    every: int | None = None
    context: int | None = None
    least: int = LEAST

    def __post_init__(self) -> None:
        """Raises JaxlvError if a number is not allowed."""
        for name, word in (("horizon", "horizon"), ("count", "origins"), ("every", "every"), ("context", "context")):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, settled(given, Statement(int, WORDS[word], COUNT), word))


def rolling(series: SeriesSet, origins: Origins, handling: Handling = USUAL) -> Rolling:
    """Returns the windows of series of which values may be missing.

    A context has its own missing values handled, and is shifted above zero, by itself alone. Left out, with a note, are
    windows in whose future a value is missing, and those with fewer than `origins.least` steps before their origin or of
    which more than half are missing. Raises JaxlvError if no window is left.
    """
    steps, every = series.values_NTV.shape[1], origins.every or origins.horizon
    found: list[_Window] = []
    gaps = short = 0
    for row, first in enumerate(series.first_N.tolist()):
        for turn in reversed(range(origins.count)):
            origin = steps - origins.horizon - turn * every
            start = first if origins.context is None else max(first, origin - origins.context)
            future_HV = series.values_NTV[row, origin : origin + origins.horizon] if origin >= start else np.zeros((0, 1))
            if np.isnan(future_HV).any():
                gaps += 1
            elif (one := _window(series, row, start, origin, handling, origins.least)) is None:
                short += 1
            else:
                found.append(one._replace(future_HV=future_HV))
    if not found:
        longest, where = steps - int(series.first_N.min()), series.source.get("path")
        expected = f"{origins.least} steps of context and {origins.horizon} of forecast, without a gap"
        raise JaxlvError("no series is long enough", where=where, expected=expected, found=f"{longest} steps")
    reasons = {
        "a value to be forecast is missing": gaps,
        f"fewer than {origins.least} steps, or too few known ones, stand before them": short,
    }
    notes = tuple(f"{count} windows are left out: {reason}" for reason, count in reasons.items() if count)
    return replace(_together(series, found), notes=notes)


class _Window(NamedTuple):
    """A context, complete, and the steps behind it; `origin` counts in the steps of the set."""

    row: int
    origin: int
    context_CV: np.ndarray
    future_HV: np.ndarray
    missing_CV: np.ndarray | None  # of the context's values that were filled in, and are marked in the text


def _window(series: SeriesSet, row: int, start: int, origin: int, handling: Handling, least: int) -> _Window | None:
    """Returns a window without its future; None if its context has too few steps, or most of them are missing."""
    if origin - start < least:
        return None
    given_CV = series.values_NTV[row, start:origin]
    if np.isnan(given_CV).all(axis=1).mean() > MOST_MISSING:
        return None
    try:
        context_CV, _ = FILLED[handling.missing](given_CV)
    except ValueError:
        return None
    if handling.missing == "error" and np.isnan(context_CV).any():
        raise JaxlvError("a value is missing", where=series.source.get("path"), hint='missing = "interpolate" or "drop"')
    missing_CV = np.isnan(given_CV) if handling.missing == "mark" else None
    return _Window(row, origin, context_CV, context_CV, missing_CV) if len(context_CV) >= LEAST else None


def _together(series: SeriesSet, found: list[_Window]) -> Rolling:
    longest, horizon = max(len(one.context_CV) for one in found), len(found[0].future_HV)
    rows = np.array([one.row for one in found])
    values_MTV = np.full((len(found), longest + horizon, len(series.variables)), np.nan)
    missing_MTV = np.zeros(values_MTV.shape, bool)
    for place, one in enumerate(found):
        values_MTV[place, longest - len(one.context_CV) :] = np.concatenate([one.context_CV, one.future_HV])
        if one.missing_CV is not None:
            missing_MTV[place, longest - len(one.context_CV) : longest] = one.missing_CV
    shift_MV = shifts(values_MTV[:, :longest])
    clock = series.clock.select(rows).moved(np.array([one.origin - longest for one in found]))
    first_M = np.array([longest - len(one.context_CV) for one in found])
    windows = SeriesSet.observed(
        values_MTV + shift_MV[:, None], clock, series.variables, [_name(series, one.row, one.origin) for one in found],
        source=series.rows(rows).source, layout=series.layout, first_N=first_M, shift_NV=shift_MV,
        missing_NTV=missing_MTV if missing_MTV.any() else None,
    )  # fmt: skip
    return Rolling(windows, series.ids_N[rows], longest)


def _name(series: SeriesSet, row: int, origin: int) -> str:
    """Returns the id of a window: its series, and the first time that is forecast."""
    label = series.clock.labels(row, [origin])[0]
    label = f"{label:.10g}" if isinstance(label, (float, np.floating)) else str(label).removesuffix("T00:00:00.000000000")
    return f"{series.ids_N[row]} from {label}" if len(series) > 1 else f"from {label}"


@dataclass(frozen=True)
class Within:
    """Windows within contexts: their series, which of the contexts each is of, and the truth behind each (M, H, V), with NaN
    where it was missing. The forecasts begin at step `context` of the windows.
    """

    windows: SeriesSet
    series_M: np.ndarray
    context: int
    truth_MHV: np.ndarray

    def asked(self, request: Request) -> Request:
        """Returns what forecasts of the windows are asked for, given what is asked behind the contexts."""
        return replace(request, context=self.context, horizon=self.truth_MHV.shape[1], shown=0)


def within(series: SeriesSet, context: int, horizon: int, count: int) -> Within | None:
    """Returns at most `count` windows of each context, the last of which ends with it; None if a context has no room.

    The horizon is a third of the shortest context at most. The steps between origins are a quarter of it. A window has at
    least LEAST steps before its origin.
    """
    horizon = min(horizon, (context - int(series.first_N.max())) // 3)
    every, last = max(1, horizon // 4), context - horizon
    back_K = np.arange(count) * every
    room_NK = last - back_K - series.first_N[:, None] >= LEAST
    if horizon < 1 or not room_NK[:, 0].all():
        return None
    rows_M, turn_M = np.nonzero(room_NK)
    back_M = back_K[turn_M]
    index_MT = np.arange(context) - back_M[:, None]
    at, outside_MT1 = (rows_M[:, None], np.maximum(index_MT, 0)), (index_MT < 0)[..., None]
    values_MTV = np.where(outside_MT1, np.nan, series.values_NTV[at])
    missing_MTV = np.zeros(values_MTV.shape, bool) if series.missing_NTV is None else series.missing_NTV[at] & ~outside_MT1
    chosen = series.rows(rows_M, np.arange(len(rows_M)))
    windows = replace(
        chosen, values_NTV=values_MTV, time_T=series.time_T[:context], first_N=series.first_N[rows_M] + back_M,
        clock=chosen.clock.moved(-back_M), missing_NTV=missing_MTV if missing_MTV.any() else None,
    )  # fmt: skip
    return Within(windows, rows_M, last, np.where(missing_MTV, np.nan, values_MTV)[:, last:])


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
