"""Series as somebody gives them, made ready for a model: in its order of variables, as long as it can read, with a scale.

Axes: N series, M windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlv.data.observations import Handling, Observations
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.forecasting.forecaster import Forecaster
from jaxlv.forecasting.origins import Rolling, rolling
from jaxlv.runs.run import FinishedRun
from jaxlv.studies.fitting import EMBEDDED, LONGEST


@dataclass(frozen=True)
class Given:
    """Series that a model can forecast, and what was noted on the way, a line each."""

    series: SeriesSet
    notes: tuple[str, ...]


def in_order(found: Observations, finished: FinishedRun | None) -> Observations:
    """Returns the variables in the order of those that a run was tuned on; with a note if they are called otherwise."""
    if finished is None or not finished.variables:
        return found
    ordered = found.ordered(finished.variables)
    if [name.casefold() for name in ordered.variables] == [name.casefold() for name in finished.variables]:
        return ordered
    names = " and ".join(finished.variables)
    return found.noted(f"the run was tuned on {names}, not on {' and '.join(found.variables)}")


def ready(found: Observations, forecaster: Forecaster, handling: Handling, steps: int | None = None) -> Given:
    """Returns at most the last `steps` steps of every series that has a scale; others are left out, with the reason.

    Raises JaxlvError if no series is left.
    """
    made = found.ready(handling)
    notes = [*found.notes, *filter(None, [found.gaps(), *found.flattened()]), *made.notes]
    notes += [f"series {one} is left out: {reason}" for one, reason in made.left_out.items()]
    kept, length = made.series, made.series.values_NTV.shape[1]
    if steps is not None and steps < length:
        kept = kept.steps(length - steps, length)
    bad = dict(_unusable(kept, forecaster))
    notes += [f"series {one} is left out: {reason}" for one, reason in bad.items()]
    rows = np.array([row for row, one in enumerate(kept.ids_N.tolist()) if one not in bad], int)
    if not len(rows):
        raise JaxlvError("no series can be forecast", where=found.where, found=next(iter(bad.values())))
    return Given(kept.rows(rows) if bad else kept, tuple(notes))


def _unusable(series: SeriesSet, forecaster: Forecaster) -> Iterator[tuple[Any, str]]:
    """Yields the ids of series that cannot be written as text, as one with a variable of zeros, and why."""
    for one, values_TV in zip(series.ids_N.tolist(), series.each, strict=True):
        zero = [name for name, values_T in zip(series.variables, values_TV.T, strict=True) if not values_T.any()]
        try:
            forecaster.codec.encode(values_TV, forecaster.codec.fit(values_TV, values_TV))
        except JaxlvError as fault:
            yield one, f"{zero[0]} is 0 throughout its context" if zero else str(fault)


def room(forecaster: Forecaster, name: Any, finished: FinishedRun | None, variables: int, horizon: int) -> int:
    """Returns how many steps of context a model has read texts for, besides `horizon` steps of forecast."""
    limit = forecaster.model.config.max_position_embeddings
    if finished is not None:
        limit = min(limit, max(finished.config.windows.length, LONGEST))
    elif name == EMBEDDED:
        limit = min(limit, LONGEST)
    return max(limit // (variables * (forecaster.codec.decimals + 3)) - horizon, 2)


@dataclass(frozen=True)
class Origins:
    """Says from where series are forecast: from `count` of their steps, `every` so many steps, `context` steps each (None:
    all), the last time `horizon` steps before their end.
    """

    horizon: int
    count: int = 1
    every: int | None = None
    context: int | None = None


def windows(given: Given, origins: Origins, finished: FinishedRun | None) -> tuple[Rolling, tuple[str, ...]]:
    """Returns the windows whose forecasts a run was not trained on, and the notes of `given` with one on the others.

    Raises JaxlvError if none is left.
    """
    found = rolling(given.series, origins.horizon, origins.count, origins.every, origins.context)
    if finished is None:
        return found, given.notes
    series = given.series
    seen_of = dict(zip(series.ids_N.tolist(), finished.seen_steps(series).tolist(), strict=True))
    first_of = dict(zip(series.ids_N.tolist(), _begins(series), strict=True))
    origin_M = found.windows.clock.origin_N + found.context * found.windows.clock.step
    step_M = [
        round((origin - first_of[one]) / series.clock.step)
        for origin, one in zip(origin_M, found.series_M.tolist(), strict=True)
    ]
    rows = np.array([row for row, one in enumerate(found.series_M.tolist()) if step_M[row] >= seen_of[one]], int)
    if not len(rows):
        hint = "evaluate on the steps that it held out, or on other series"
        raise JaxlvError("the run was trained on every step to be forecast", where=finished.folder, hint=hint)
    left = len(found.windows) - len(rows)
    if not left:
        return found, given.notes
    told = f"{left} of {len(found.windows)} windows are left out: the run was trained on their steps"
    return Rolling(found.windows.rows(rows), found.series_M[rows], found.context), (*given.notes, told)


def _begins(series: SeriesSet) -> list[Any]:
    """Returns the place on the clock at which each series begins."""
    return (series.clock.origin_N + series.first_N * series.clock.step).tolist()
