"""Records of the field: every file forecast from rolling origins by the model, the pool and all baselines, in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlv.data import readers
from jaxlv.data.loading import load_series
from jaxlv.data.observations import Observations
from jaxlv.errors import JaxlvError, briefly
from jaxlv.forecasting import metrics, pool, stretching
from jaxlv.forecasting.baselines import SLOW, baselines_for
from jaxlv.forecasting.evaluate import LEVELS
from jaxlv.forecasting.origins import LEAST, Origins, Rolling, by_length
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.sampler import Sampler
from jaxlv.report import page
from jaxlv.report.field import page_of
from jaxlv.results.field import DRAWN, Field, FieldProtocol, FieldRecord, FieldScore, summary
from jaxlv.results.scores import POOL
from jaxlv.storage.files import new_folder, write_json
from jaxlv.studies import given
from jaxlv.studies.progress import Begin, Say, Silent, unsaid
from jaxlv.studies.subjects import Asked, Subject, open_subject
from jaxlv.versions import versions

RESULT, REPORT = "field.json", "report.html"
MOST_VARIABLES = 4  # that a base has read together; of a record with more, each is a series of its own


@dataclass(frozen=True)
class Windows:
    """Says which windows of a record are measured."""

    context: int = 30
    horizon: int = 8
    every: int = 2
    samples: int = 20
    seed: int = 0
    batch: int = 8


def files_of(places: Sequence[Path]) -> list[Path]:
    """Returns the files of series among these and in folders among these, sorted; raises JaxlvError if there is none."""
    found: list[Path] = []
    for place in places:
        inside = sorted(one for one in place.iterdir() if readers.is_known(one)) if place.is_dir() else [place]
        found += [one for one in inside if one not in found]
    if not found:
        raise JaxlvError("no files of series", where=", ".join(map(str, places)), expected=", ".join(readers.SUFFIXES))
    return found


def field(
    places: Sequence[Path],
    out: Path,
    asked: Asked,
    how: Windows = Windows(),
    begin: Begin = Silent,
    say: Say = unsaid,
    *,
    overwrite: bool = False,
) -> Field:
    """Measures a model, the pool and the baselines on every file, and writes field.json and report.html into `out`.

    `asked.subject` is a run or a bare model. A file that cannot be measured is left out, with the reason. Raises JaxlvError
    if none is left, or if `out` exists and is not to be replaced.
    """
    files = files_of(places)
    stems = _stems(files)
    records: dict[str, FieldRecord] = {}
    left_out: dict[str, str] = {}
    subject = open_subject(replace(asked, data=files[0])) if asked.data is None else open_subject(asked)
    with subject.paying(asked.purpose) as models, new_folder(out, replace=overwrite, made_by=RESULT) as work:
        for path in files:
            say(f"{path.name}:")
            try:
                record = _Measured(subject, models, asked, how, begin, say).of(path)
            except JaxlvError as fault:
                left_out[path.name] = briefly(fault)
                say(f"note: {path.name} is left out: {left_out[path.name]}")
                continue
            records[stems[path]] = record
        if not records:
            name, reason = next(iter(left_out.items()))
            raise JaxlvError(f"no record can be measured: {reason}", where=name)
        best, relative = summary(records)
        codec = next(iter(models.values())).codec
        protocol = FieldProtocol(
            Path(asked.subject).name, how.context, how.horizon, how.every, how.samples, how.seed, asked.handling.missing,
            codec.scale, codec.headroom, codec.decimals, pool.SAMPLES,
            {key: one.meaning for key, one in FieldScore.quantities().items() if one.meaning},
        )  # fmt: skip
        result = Field(protocol, records, best, relative, left_out, versions())
        write_json(work / RESULT, result.tree())
        page.write(work / REPORT, page_of(result))
    return result


def _stems(files: Sequence[Path]) -> dict[Path, str]:
    """Returns the names of records: the stems of their files; of files of one stem the whole names."""
    stems = [path.stem for path in files]
    return {path: path.stem if stems.count(path.stem) == 1 else path.name for path in files}


class _Method(NamedTuple):
    """What a method says about all windows: points (M, H, V), and samples (M, S, H, V) if it has any."""

    name: str
    point_MHV: np.ndarray
    samples_MSHV: np.ndarray | None = None


@dataclass(frozen=True)
class _Measured:
    """The measurement of one file."""

    subject: Subject
    models: Mapping[str, Sampler]
    asked: Asked
    how: Windows
    begin: Begin
    say: Say

    def of(self, path: Path) -> FieldRecord:
        """Returns the record of a file; raises JaxlvError if it is not understood or too short."""
        found, notes = load_series(path, **self.asked.reading), []
        self.say(f"data: {found.told}")
        if len(found.variables) > MOST_VARIABLES:
            notes.append(f"{len(found.variables)} variables, each taken as a series of its own")
            found = found.separated()
        made = self._windows(found)
        notes += made.notes
        for note in notes:
            self.say(f"note: {note}")
        self.say(f"{len(made.windows)} windows of {made.context} steps, {self.how.horizon} steps ahead")
        raw_MTV = made.windows.values_NTV - made.windows.shift_NV[:, None]
        context_MCV, truth_MHV = raw_MTV[:, : made.context], raw_MTV[:, made.context : made.context + self.how.horizon]
        weights: dict[str, float] = {}
        methods = list(self._methods(made, weights))
        return FieldRecord(
            windows=len(made.windows),
            rows=tuple(_score(one, truth_MHV, context_MCV, made.windows.shift_NV) for one in methods),
            file=path.name,
            series=len(set(made.series_M.tolist())),
            variables=made.windows.variables,
            context=made.context,
            data_sha256=found.source.get("sha256"),
            weights=weights,
            notes=tuple(notes),
        )

    def _windows(self, found: Observations) -> Rolling:
        """Returns the windows of full contexts; of records that are too short for any, those of the longest context."""
        how, longest = self.how, max(map(len, found.values))
        context = min(how.context, longest - how.horizon)
        if context < LEAST:
            expected = f"at least {LEAST + how.horizon} steps"
            raise JaxlvError("no series is long enough", where=found.where, expected=expected, found=f"{longest} steps")
        count = 1 + (longest - how.horizon - context) // how.every
        origins = Origins(how.horizon, count, how.every, context, least=context)
        return given.windows(found, next(iter(self.models.values())), origins, self.asked.handling, self.subject.run)

    def _methods(self, made: Rolling, weights: dict[str, float]) -> Iterator[_Method]:
        """Yields every method; the pool's mean weights go into `weights`."""
        how, series = self.how, made.windows
        request = Request(made.context, how.horizon, how.samples, how.seed, min(how.batch, len(series)))
        for name, model in self.models.items():
            with self.begin(f"forecasts ({name})", len(series)) as bar:
                forecast = model(series, request, on_batch=bar.update)
            samples = forecast.filled()
            with self.begin(f"within contexts ({name})", len(series) * stretching.ORIGINS) as bar:
                pooled = pool.pool_of(model, forecast, series, request, bar.update)
            yield _Method(name, np.median(pooled.calibrated_NSHV, axis=1), pooled.calibrated_NSHV)
            yield _Method(f"{name}{DRAWN}", np.median(samples, axis=1), samples)
            if not weights:  # of a run, the pool is of the tuned model
                weights |= {
                    name if member == pool.MODEL else member: float(weight_N.mean())
                    for member, weight_N in pooled.weights.items()
                }
                yield _Method(POOL, np.median(pooled.samples_NSHV, axis=1), pooled.samples_NSHV)
        baselines = {**baselines_for(series), **SLOW}
        with self.begin("baselines", len(baselines)) as bar:
            for done, (name, baseline) in enumerate(baselines.items(), 1):
                try:
                    context_MCV = series.values_NTV[:, : made.context]
                    yield _Method(name, by_length(baseline, context_MCV, series.first_N, how.horizon))
                except JaxlvError as fault:
                    self.say(f"note: {name} is left out: {briefly(fault)}")
                bar.update(done, name)


def _score(method: _Method, truth_MHV: np.ndarray, context_MCV: np.ndarray, shift_MV: np.ndarray) -> FieldScore:
    """Returns a method's scores in the units of the record; its forecasts are shifted as the windows are."""
    point_MHV = method.point_MHV - shift_MV[:, None]
    mae_MV = metrics.mae(point_MHV, truth_MHV)
    samples = None if method.samples_MSHV is None else method.samples_MSHV - shift_MV[:, None, None]
    crps_MV = mae_MV if samples is None else metrics.crps(samples, truth_MHV)
    scaled_M = (crps_MV / np.nanmean(np.abs(context_MCV), axis=1)).mean(axis=1)
    mase_MV = metrics.mase(point_MHV, truth_MHV, context_MCV)
    inside: Any = None
    if samples is not None:
        inside = {level: float(metrics.coverage(samples, truth_MHV, level / 100).mean()) for level in LEVELS}
    return FieldScore(
        name=method.name,
        mae=mae_MV.mean(),
        mae_ci95=_interval(mae_MV.mean(axis=1)),
        mase=np.nanmean(mase_MV) if np.isfinite(mase_MV).any() else None,
        crps=crps_MV.mean(),
        crps_ci95=_interval(crps_MV.mean(axis=1)),
        crps_scaled=scaled_M.mean(),
        crps_scaled_ci95=_interval(scaled_M),
        coverage=inside,
    )


def _interval(values_M: np.ndarray) -> Any:
    return metrics.bootstrap_interval(values_M) if len(values_M) > 1 else None
