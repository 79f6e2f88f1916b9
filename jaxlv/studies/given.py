"""Series as somebody gives them, made ready for a model: in its order of variables, as long as it can read, with a scale.

Axes: N series, M windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxlv.config import DataConfig, ModelSettings, RunConfig
from jaxlv.data.observations import Handling, Observations
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.forecasting import familiar
from jaxlv.forecasting.baselines import BASELINES
from jaxlv.forecasting.origins import Origins, Rolling, by_length, rolling
from jaxlv.forecasting.sampler import Sampler
from jaxlv.model.bases import BASE, EMBEDDED, EMBEDDED_BASE, FIELD, FIELD_BASE, limits_of
from jaxlv.runs import sources
from jaxlv.runs.run import FinishedRun
from jaxlv.studies.choice import Choice, Reader

LONGEST = 1008  # tokens of a window: 100 steps of two variables with two decimals, as jaxlv's bases know them
QUICK = ("last value", "context mean", "seasonal naive", "analog")  # baselines whose spread is told


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


def ready(found: Observations, forecaster: Sampler, handling: Handling, steps: int | None = None, held: int = 0) -> Given:
    """Returns every series that has a scale, others are left out, with the reason: at most the last `steps` steps before
    those that are `held` out, and these.

    Raises JaxlvError if no series is left.
    """
    made = found.ready(handling, held)
    notes = [*found.notes, *filter(None, [found.gaps(), *found.flattened()]), *made.notes]
    notes += [f"series {one} is left out: {reason}" for one, reason in made.left_out.items()]
    kept, length = made.series, made.series.values_NTV.shape[1]
    if steps is not None and steps < length - held:
        kept = kept.steps(length - held - steps, length)
    bad = dict(_unusable(kept, forecaster, kept.values_NTV.shape[1] - held))
    notes += [f"series {one} is left out: {reason}" for one, reason in bad.items()]
    rows = np.array([row for row, one in enumerate(kept.ids_N.tolist()) if one not in bad], int)
    if not len(rows):
        raise JaxlvError("no series can be forecast", where=found.where, found=next(iter(bad.values())))
    return Given(kept.rows(rows) if bad else kept, tuple(notes))


def _unusable(series: SeriesSet, forecaster: Sampler, context: int) -> Iterator[tuple[Any, str]]:
    """Yields the ids of series whose contexts cannot be written as text, as one with a variable of zeros, and why."""
    for one, whole_TV, first in zip(series.ids_N.tolist(), series.each, series.first_N.tolist(), strict=True):
        values_TV = whole_TV[: context - first]
        zero = [name for name, values_T in zip(series.variables, values_TV.T, strict=True) if not values_T.any()]
        try:
            forecaster.codec.encode(values_TV, forecaster.codec.fit(values_TV, values_TV))
        except JaxlvError as fault:
            others = "; columns = the other variables forecasts these" if zero and len(zero) < len(series.variables) else ""
            yield one, f"{zero[0]} is 0 throughout its context{others}" if zero else str(fault)


def unmarked(series: SeriesSet, forecaster: Sampler) -> Iterator[str]:
    """Yields a line if missing values were to be marked, and the model has read no marks."""
    if series.missing_NTV is not None and not forecaster.reads_gaps:
        yield "in the text, too, missing values are interpolated: the base that reads them has read no marks"


def unfamiliar(series: SeriesSet, reader: Reader, context: int, horizon: int) -> Iterator[str]:
    """Yields a line for each series whose context looks like nothing that a base has read: what it costs the base, beside
    the limit, and how far apart the baselines end. Of models that say no limit, and of tuned ones, nothing is known.
    """
    forecaster, nats_N = reader.sampler, reader.nats_N
    yield from unmarked(series, forecaster)
    folder = getattr(forecaster.model, "folder", None)
    V, limits = len(series.variables), limits_of(folder)
    if not limits or "lora" in forecaster.variables:
        return
    if str(V) not in limits:
        known = f"{min(limits)} to {max(limits)}" if len(limits) > 1 else min(limits)
        way = ": separate makes each variable a series of its own" if V > 1 and "1" in limits else ""
        field = folder == str(EMBEDDED_BASE) and not reader.name and str(V) in limits_of(str(FIELD_BASE))
        way = f"; {FIELD} has" if field else way
        yield f"the base has read series of {known} variables, not of {V}{way}"
        return
    limit = limits[str(V)]
    if nats_N is None:
        nats_N = familiar.nats_per_written_value(forecaster, series, context)
    rows = np.flatnonzero(nats_N > limit)
    if not len(rows):
        return
    chosen = series.rows(rows)
    context_NCV = chosen.values_NTV[:, :context]
    ends = [by_length(BASELINES[name], context_NCV, chosen.first_N, horizon)[:, -1] for name in QUICK]
    low_NV, high_NV = (extreme(ends, axis=0) - chosen.shift_NV for extreme in (np.min, np.max))
    for place, (one, nats) in enumerate(zip(chosen.ids_N.tolist(), nats_N[rows], strict=True)):
        spread = ", ".join(
            f"{name} {low_NV[place, v]:.3g} to {high_NV[place, v]:.3g}" for v, name in enumerate(chosen.variables)
        )
        yield (
            f"series {one} looks like nothing that the base has read: {nats:.3g} nats for each written value, of its"
            f" validation 99 % below {limit:.3g}; the baselines end at {spread}"
        )
    if folder == str(EMBEDDED_BASE) and not reader.name:
        yield f"{FIELD} has read noise, gaps, counts and more kinds of series"


class Start(NamedTuple):
    """A base to begin from: its name, as configs have it, and why it was taken."""

    name: str
    why: str


def base_for(found: Observations, data: DataConfig) -> Start:
    """Returns that one of jaxlv's bases which knows better what a run is trained on: not the steps that it holds out, nor
    its validation and test series.
    """
    V = len(found.variables)
    if str(V) not in limits_of(EMBEDDED_BASE):
        return Start(FIELD, f"{BASE} has not read series of {V} variable{'s' * (V > 1)}")
    choice, handling = Choice(ModelSettings(path=BASE)), Handling(data.missing, data.negative)
    sampler, found = choice.named(), found.until(data.holdout) if data.holdout else found
    known = ready(found, sampler, handling, room(sampler, BASE, None, V, 1)).series
    trained = set(sources.split_series(RunConfig(data=data), found.ready(handling).series).train.tolist())
    rows = np.flatnonzero([one in trained for one in known.ids_N.tolist()])
    if not len(rows):
        return Start(BASE, "no series that is trained on can be written")
    reader = choice.reader(sampler, known.rows(rows), known.values_NTV.shape[1])
    return Start(FIELD if reader.name == FIELD else BASE, reader.why)


def room(forecaster: Sampler, name: Any, trained: RunConfig | None, variables: int, horizon: int) -> int:
    """Returns how many steps of context a model has read texts for, besides `horizon` steps of forecast; of a run, by the
    config that it was `trained` by.
    """
    limit = forecaster.model.config.max_position_embeddings
    if trained is not None:
        limit = min(limit, max(trained.windows.length, LONGEST))
    elif str(name) in EMBEDDED:
        limit = min(limit, LONGEST)
    return max(limit // (variables * (forecaster.codec.decimals + 3)) - horizon, 2)


def windows(
    found: Observations, forecaster: Sampler, origins: Origins, handling: Handling, finished: FinishedRun | None
) -> Rolling:
    """Returns the windows whose forecasts a run was not trained on and whose contexts have a scale, and all notes.

    Raises JaxlvError if none is left.
    """
    series = found.aligned()
    made = rolling(series, origins, handling)
    notes = [*found.notes, *filter(None, [found.gaps(), *found.flattened()]), *made.notes]
    bad = dict(_unusable(made.windows, forecaster, made.context))
    notes += [f"{one} is left out: {reason}" for one, reason in bad.items()]
    kept = np.array([one not in bad for one in made.windows.ids_N.tolist()])
    if finished is not None:
        seen = _seen(series, made, finished)
        if count := int((seen & kept).sum()):
            notes.append(f"{count} of {len(kept)} windows are left out: the run was trained on their steps")
        kept &= ~seen
        if not kept.any() and seen.any():
            hint = "evaluate on the steps that it held out, or on other series"
            raise JaxlvError("the run was trained on every step to be forecast", where=finished.folder, hint=hint)
    rows = np.flatnonzero(kept)
    if not len(rows):
        raise JaxlvError("no series can be forecast", where=found.where, found=next(iter(bad.values())))
    return Rolling(made.windows.rows(rows), made.series_M[rows], made.context, tuple(notes))


def _seen(series: SeriesSet, made: Rolling, finished: FinishedRun) -> np.ndarray:
    """Returns (M,): whether a window's forecast begins among the steps that a run was trained on."""
    seen_of = {one: finished.seen_steps(v_TV) for one, v_TV in zip(series.ids_N.tolist(), series.each, strict=True)}
    begin_of = dict(
        zip(series.ids_N.tolist(), (series.clock.origin_N + series.first_N * series.clock.step).tolist(), strict=True)
    )
    origin_M = made.windows.clock.origin_N + made.context * made.windows.clock.step
    return np.array([
        round((origin - begin_of[one]) / series.clock.step) < seen_of[one]
        for origin, one in zip(origin_M, made.series_M.tolist(), strict=True)
    ])  # fmt: skip
