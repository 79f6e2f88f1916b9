"""A stress test: a run or a bare model measured again under harder conditions, in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.forecasting.baselines import baselines_for, in_turn
from jaxlv.forecasting.evaluate import score, truth_of
from jaxlv.forecasting.pool import pool_of
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.robustness import GROUPS, Condition
from jaxlv.forecasting.sampler import Forecast
from jaxlv.report import page
from jaxlv.report.stress import page_of
from jaxlv.results.quantities import RAW
from jaxlv.results.scores import POOL
from jaxlv.results.stress import AboveTop, ConditionScores, Stress, StressScore
from jaxlv.storage.files import check_free, new_folder, write_json
from jaxlv.studies.progress import Begin, Silent
from jaxlv.studies.subjects import Asked, Models, Subject, data_name, open_subject
from jaxlv.text.codec import TOP
from jaxlv.versions import versions

RESULT, REPORT = "stress.json", "report.html"
SAMPLES, SERIES = 8, 32


def stress(
    asked: Asked,
    out: Path,
    groups: Sequence[str] = tuple(GROUPS),
    begin: Begin = Silent,
    *,
    overwrite: bool = False,
) -> Stress:
    """Measures a run or a bare model under `groups` of conditions, and writes stress.json and report.html into `out`.

    At most `asked.most` series are taken, 32 if it is None, of each regime. Returns stress.json. Raises
    JaxlvError if a group is unknown or none has a condition for the series, if the subject, the series or the settings do
    not fit, or if `out` exists (with `overwrite`, if it is not such a folder).
    """
    check_free(out, overwrite, RESULT)
    for name in groups:
        if name not in GROUPS:
            raise JaxlvError("unknown group", where="--groups", expected=", ".join(GROUPS), found=name)
    subject = open_subject(asked)
    held = subject.chosen(asked.series)
    protocol = replace(subject.config.evaluate, **{"samples": SAMPLES, **asked.protocol})
    conditions = _conditions(subject, held, Request.of(protocol), groups, asked.most or SERIES)
    made = new_folder(out, replace=overwrite, made_by=RESULT)
    with subject.paying(asked.purpose) as models, made as work, begin("stress", len(conditions)) as bar:
        entries = []
        for done, condition in enumerate(conditions, 1):
            reading = subject.reads(models, condition.given, condition.request.context)
            entries.append(replace(measured(condition, reading.models, pooled=asked.pooled), base=reading.reader.name))
            bar.update(done, f"{condition.group} {condition.level}")
        source = subject.data.source.get("sha256")
        result = Stress(tuple(entries), data_name(subject.data), source, tuple(subject.seen(held)), {"mae": RAW}, versions())
        write_json(work / RESULT, result.tree())
        page.write(work / REPORT, page_of(result))
    return result


def _conditions(subject: Subject, held: SeriesSet, request: Request, groups: Sequence[str], most: int) -> list[Condition]:
    """Returns the conditions of some groups. Raises JaxlvError, before systems are simulated, if a forecast does not fit."""
    truth_of(held, request.context, request.horizon)  # raises if the series are too short
    model = subject.run.tuned if subject.run else subject.bare["untuned"]
    model.check_fits(held.select(held.ids_N[:1]), replace(request, batch=1))
    found = [one for name in groups for one in GROUPS[name](held, most, request)]
    if not found:
        raise JaxlvError("no condition of these groups fits the series", where="--groups", found=",".join(groups))
    return found


def measured(condition: Condition, forecasters: Models, *, pooled: bool = False) -> ConditionScores:
    """Returns the scores of each model and baseline under a condition; if `pooled`, of the pool of the first model, too."""
    given, request, rows = condition.given, condition.request, []
    made: dict[str, Forecast] = {}
    context_NCV = given.values_NTV[:, : request.context]
    for name, forecaster in forecasters.items():
        forecast = made[name] = forecaster(given, replace(request, batch=min(request.batch, len(given))))
        row = score(name, forecast.median(), condition.truth_NHV, context_NCV, given, forecast.filled())
        top_N1V = TOP * forecaster.scales(given, request.context)[:, None]
        above = AboveTop((condition.truth_NHV > top_N1V).mean(), (forecast.filled() > top_N1V[:, None]).mean())
        rows.append(StressScore(**vars(row), above_top=above))
    if pooled:
        first = next(iter(forecasters))
        mixed_NSHV = pool_of(forecasters[first], made[first], given, request).samples_NSHV
        mixed = score(POOL, np.median(mixed_NSHV, axis=1), condition.truth_NHV, context_NCV, given, mixed_NSHV)
        rows.append(StressScore(**vars(mixed)))
    for name, baseline in in_turn(baselines_for(given)):
        point_NHV = baseline(context_NCV, request.horizon)
        rows.append(StressScore(**vars(score(name, point_NHV, condition.truth_NHV, context_NCV, given))))
    return ConditionScores(
        group=condition.group,
        level=condition.level,
        value=condition.value,
        context=request.context,
        horizon=request.horizon,
        series=tuple(given.ids_N.tolist()),
        samples=request.samples,
        rows=tuple(rows),
    )
