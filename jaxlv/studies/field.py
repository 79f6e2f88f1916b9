"""Records of the field: every file forecast from rolling origins by the model, the pool and all baselines, in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlv.data import readers
from jaxlv.data.loading import load_series
from jaxlv.data.observations import Observations
from jaxlv.errors import JaxlvError, briefly
from jaxlv.forecasting import metrics, pool, stretching
from jaxlv.forecasting.baselines import SLOW, baselines_for, in_turn
from jaxlv.forecasting.evaluate import LEVELS
from jaxlv.forecasting.forecast import Forecast
from jaxlv.forecasting.origins import LEAST, Origins, Rolling, by_length
from jaxlv.forecasting.panels import panels
from jaxlv.forecasting.pool import Pooled
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.sampler import Sampler
from jaxlv.report import page
from jaxlv.report.field import page_of
from jaxlv.results.field import DRAWN, Field, FieldProtocol, FieldRecord, FieldScore, summary
from jaxlv.results.panels import ForecastPanel
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
    stems, left_out, read = _stems(files), dict[str, str](), dict[Path, Observations]()

    def leave_out(path: Path, fault: JaxlvError) -> None:
        left_out[path.name] = briefly(fault)
        say(f"note: {path.name} is left out: {left_out[path.name]}")

    for path in files:
        try:
            read[path] = load_series(path, **asked.reading)
        except JaxlvError as fault:
            leave_out(path, fault)
    _check_any(read, left_out)
    subject = open_subject(replace(asked, data=next(iter(read.values()))), say)
    records, shown = dict[str, FieldRecord](), dict[str, ForecastPanel]()
    with subject.paying(asked.purpose) as opened, new_folder(out, replace=overwrite, made_by=RESULT) as work:
        models = {name: model.with_sampling(**asked.sampling) for name, model in opened.items()}
        for path, found in read.items():
            say(f"{path.name}: {found.told}")
            try:
                one = _Measured(subject, models, asked, how, begin, say).of(path, found)
            except JaxlvError as fault:
                leave_out(path, fault)
                continue
            records[stems[path]], shown[stems[path]] = one
        _check_any(records, left_out)
        best, relative = summary(records)
        codec = next(iter(models.values())).codec
        protocol = FieldProtocol(
            Path(asked.subject).name, how.context, how.horizon, how.every, how.samples, how.seed, asked.handling.missing,
            codec.scale, codec.headroom, codec.decimals, pool.SAMPLES,
            {key: one.meaning for key, one in FieldScore.quantities().items() if one.meaning},
        )  # fmt: skip
        result = Field(protocol, records, best, relative, left_out, versions())
        write_json(work / RESULT, result.tree())
        page.write(work / REPORT, page_of(result, shown))
    return result


def _check_any(left: Sized, left_out: Mapping[str, str]) -> None:
    """Raises JaxlvError, with the reason of the first file that was left out, if none is left."""
    if not left:
        name, reason = next(iter(left_out.items()))
        raise JaxlvError(f"no record can be measured: {reason}", where=name)


def _stems(files: Sequence[Path]) -> dict[Path, str]:
    """Returns the names of records: the stems of their files; of files of one stem the whole names."""
    stems = [path.stem for path in files]
    return {path: path.stem if stems.count(path.stem) == 1 else path.name for path in files}


class _Method(NamedTuple):
    """What a method says about all windows: points (M, H, V), and samples (M, S, H, V) if it has any."""

    name: str
    point_MHV: np.ndarray
    samples_MSHV: np.ndarray | None = None


def _sampled(name: str, samples_MSHV: np.ndarray) -> _Method:
    return _Method(name, np.median(samples_MSHV, axis=1), samples_MSHV)


class _Drawn(NamedTuple):
    """What a model forecasts, and the pool that it is part of."""

    name: str
    forecast: Forecast
    pooled: Pooled

    @property
    def weights(self) -> dict[str, float]:
        """The pool's mean weights over the windows, by member, the model under its own name."""
        return {self.name if name == pool.MODEL else name: float(w_M.mean()) for name, w_M in self.pooled.weights.items()}


class _Measurement(NamedTuple):
    """A record, and the forecast of the last window of its first series."""

    record: FieldRecord
    panel: ForecastPanel


@dataclass(frozen=True)
class _Measured:
    """The measurement of one file."""

    subject: Subject
    models: Mapping[str, Sampler]
    asked: Asked
    how: Windows
    begin: Begin
    say: Say

    def of(self, path: Path, found: Observations) -> _Measurement:
        """Returns the record of a file, and what its last window looks like; raises JaxlvError if it is too short."""
        notes: list[str] = []
        if not self.asked.reading.get("columns"):
            found = given.in_order(found, self.subject.run)
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
        models, reader = self.subject.reads(dict(self.models), made.windows, made.context)
        if reader.told:
            self.say(f"model: {reader.told}")
        drawn = [self._drawn(name, model, made) for name, model in models.items()]
        first = drawn[0]  # of a run, the pool is of the tuned model
        methods = [_sampled(POOL, first.pooled.samples_NSHV), *self._baselines(made)]
        for one in reversed(drawn):
            as_drawn = _sampled(f"{one.name}{DRAWN}", one.forecast.filled())
            methods = [_sampled(one.name, one.pooled.calibrated_NSHV), as_drawn, *methods]
        record = FieldRecord(
            windows=len(made.windows),
            rows=tuple(_score(one, truth_MHV, context_MCV, made.windows.shift_NV) for one in methods),
            file=path.name,
            series=len(set(made.series_M.tolist())),
            variables=made.windows.variables,
            context=made.context,
            data_sha256=found.source.get("sha256"),
            weights=first.weights,
            base=reader.name,
            notes=tuple(notes),
        )
        last = int(np.flatnonzero(made.series_M == made.series_M[0])[-1])
        shown = replace(first.forecast, samples_NSHV=first.pooled.calibrated_NSHV)
        return _Measurement(record, panels(shown, made.windows)[last])

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

    def _drawn(self, name: str, model: Sampler, made: Rolling) -> _Drawn:
        how, series = self.how, made.windows
        request = Request(made.context, how.horizon, how.samples, how.seed, min(how.batch, len(series)))
        with self.begin(f"forecasts ({name})", len(series)) as bar:
            forecast = model(series, request, on_batch=bar.update)
        with self.begin(f"within contexts ({name})", len(series) * stretching.ORIGINS) as bar:
            return _Drawn(name, forecast, pool.pool_of(model, forecast, series, request, bar.update))

    def _baselines(self, made: Rolling) -> Iterator[_Method]:
        """Yields every baseline that can forecast the windows, and tells which cannot."""
        series, context_MCV = made.windows, made.windows.values_NTV[:, : made.context]
        for name, baseline in in_turn({**baselines_for(series), **SLOW}):
            try:
                yield _Method(name, by_length(baseline, context_MCV, series.first_N, self.how.horizon))
            except JaxlvError as fault:
                self.say(f"note: {name} is left out: {briefly(fault)}")


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
