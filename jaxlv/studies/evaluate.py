"""An evaluation: a run or a bare model beside the baselines, on the same series, in a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from jaxlv.activity import doing
from jaxlv.config import EvaluateConfig, config_tree
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.forecasting.conformal import Bands
from jaxlv.forecasting.evaluate import LEVELS, check_fits, choose_temperature, fit_conformal, truth_of
from jaxlv.forecasting.evaluate import evaluate as measure
from jaxlv.forecasting.forecast import Forecast
from jaxlv.forecasting.origins import Origins
from jaxlv.forecasting.panels import panels
from jaxlv.forecasting.sampler import Sampler
from jaxlv.memory import peak_memory
from jaxlv.report import page
from jaxlv.report.runs import page_of_evaluation
from jaxlv.results.folders import Measured
from jaxlv.results.record import id_of
from jaxlv.results.runs import RunCost
from jaxlv.results.scores import Adjusted, ChosenTemperature, Evaluation
from jaxlv.runs import billing, run, sources
from jaxlv.storage.files import Watched, check_free, new_folder, write_json
from jaxlv.studies import given
from jaxlv.studies.details import curves_of
from jaxlv.studies.progress import Bar, Begin, Say, Silent, unsaid
from jaxlv.studies.subjects import Asked, Models, Subject, data_name, open_subject
from jaxlv.versions import versions

METRICS, REPORT = "metrics.json", "report.html"


@dataclass(frozen=True)
class Fit:
    """Says what is settled on validation series: a temperature of these, if there are any, and conformal bands."""

    temperatures: tuple[float, ...] = ()
    conformal: bool = False
    most: int = 24  # series for either purpose

    def __bool__(self) -> bool:
        return bool(self.temperatures) or self.conformal


NOTHING = Fit()


@dataclass(frozen=True)
class Fitted:
    """Forecasters with what validation series settled: their temperatures and bands, and how the protocol tells it."""

    forecasters: Models
    bands: dict[str, Bands] = field(default_factory=dict)
    temperature: ChosenTemperature | None = None
    conformal: Adjusted | None = None
    origins: Mapping[str, int] = field(default_factory=dict)  # how many, and steps between them, if series have windows
    pooled: bool = False  # whether the pool is a row
    base: str | None = None  # which of jaxlv's bases is measured


class Evaluated(NamedTuple):
    """An evaluation that was written: the content of metrics.json, and what the run's ledger has repeated."""

    metrics: Evaluation
    repeats: str  # in words; "" if there were none


def evaluate(
    asked: Asked, out: Path, fit: Fit = NOTHING, begin: Begin = Silent, say: Say = unsaid, *, overwrite: bool = False
) -> Evaluated:
    """Measures a run or a bare model, and writes metrics.json, report.html and the forecasts into the new folder `out`.

    Raises JaxlvError if the subject, the series or the settings do not fit, or if `out` exists (with
    `overwrite`, if it is not such a folder).
    """
    check_free(out, overwrite, METRICS)
    if fit.temperatures and "temperature" in asked.sampling:
        raise JaxlvError("a temperature is given or chosen, not both", where="--temperature, --choose-temperature")
    subject = open_subject(asked, say)
    protocol = replace(subject.config.evaluate, **asked.protocol)
    rolls = _rolls(subject, asked, protocol)
    if rolls and fit:
        raise JaxlvError(
            "bands and temperatures are fitted from one step of all series", where="evaluate", hint="name --context"
        )
    with subject.paying(asked.purpose) as models, new_folder(out, replace=overwrite, made_by=METRICS) as work:
        drawn = {name: model.with_sampling(**asked.sampling) for name, model in models.items()}
        fitted = Fitted(drawn, pooled=asked.pooled)
        if rolls:
            chosen, protocol = _windows(subject, asked, next(iter(fitted.forecasters.values())), protocol, say)
            told = {"origins": asked.origins or 1, "every": asked.every or protocol.horizon}
            fitted = replace(fitted, origins=told)
        else:
            ids = asked.series
            if ids is None and fit and subject.run is None:  # the validation series of a bare model are not measured, too
                ids = _measured(subject, asked.most or protocol.series)
            chosen = subject.chosen(ids, asked.most or protocol.series)
            truth_of(chosen, protocol.context, protocol.horizon)  # raises if the series are too short
        reading = subject.reads(fitted.forecasters, chosen, protocol.context)
        fitted = replace(fitted, forecasters=reading.models, base=reading.reader.name)
        if reading.reader.told:
            say(f"model: {reading.reader.told}")
        for note in given.unmarked(chosen, reading.reader.sampler):
            say(f"note: {note}")
        validation = validation_series(subject, chosen) if fit else None
        check_fits(fitted.forecasters.values(), chosen, protocol)
        if validation is not None:
            settled = fit_on_validation(fitted.forecasters, validation, protocol, fit, begin)
            fitted = replace(settled, pooled=asked.pooled, base=fitted.base)
        metrics = evaluate_to(work, subject, chosen, protocol, fitted, title=f"Evaluation of {subject.name}", begin=begin)
    repeats = billing.repeats_of(subject.config, subject.run.folder) if subject.run else ""
    return Evaluated(metrics, repeats)


def _rolls(subject: Subject, asked: Asked, protocol: EvaluateConfig) -> bool:
    """Tells whether series are forecast from their own last steps: if that is asked for, of a run that held steps out, and
    of a bare model if the usual context does not fit.
    """
    if asked.origins is not None:
        return True
    if "context" in asked.protocol:
        return False
    if subject.run is not None:
        return asked.data is None and subject.config.data.holdout > 0
    return asked.data is not None and protocol.context + protocol.horizon > min(map(len, subject.observed.values))


class _Chosen(NamedTuple):
    """Series that are measured, and under which protocol."""

    series: SeriesSet
    protocol: EvaluateConfig


def _windows(subject: Subject, asked: Asked, model: Sampler, protocol: EvaluateConfig, say: Say) -> _Chosen:
    """Returns the windows of rolling origins. Raises JaxlvError if it is not said how many steps ahead."""
    horizon = asked.protocol.get("horizon") or subject.config.data.holdout
    if not horizon:
        raise JaxlvError("how many steps ahead", where="evaluate", expected="--horizon")
    found = subject.observed if asked.series is None else subject.observed.select(asked.series)
    context = asked.protocol.get("context")
    if context is None:
        context = given.room(
            model, asked.subject, subject.run.config if subject.run else None, len(found.variables), horizon
        )
    count = asked.origins or 1
    made = given.windows(found, model, Origins(horizon, count, asked.every, context), asked.handling, subject.run)
    say(f"data: {found.told}")
    windows = f"{len(made.windows)} window{'s' * (len(made.windows) > 1)}"
    say(f"{windows}: {count} of each series at most, {asked.every or horizon} steps apart")
    for note in made.notes:
        say(f"note: {note}")
    return _Chosen(made.windows, replace(protocol, context=made.context, horizon=horizon))


def _measured(subject: Subject, most: int) -> list[Any]:
    """Returns the ids of the series that a bare model is measured on beside a fit: at most so many that are not of the
    default split's validation.

    Raises JaxlvError if there are too few series for that.
    """
    try:
        kept = set(sources.split_series(subject.config, subject.data).validation.tolist())
    except JaxlvError:
        what, count = "too few series to fit on some and measure on others", len(subject.data)
        raise JaxlvError(what, where=data_name(subject.data), expected="6 or more", found=count) from None
    return [one for one in subject.held() if one not in kept][: most or None]


def validation_series(subject: Subject, measured: SeriesSet) -> SeriesSet:
    """Returns the validation series of a run, from its own data, or those of the default split for a bare model.

    A series that is measured, by its values, is left out; so is a test series of the run. Raises JaxlvError if none is left,
    or if the run's own data are not what they were.
    """
    kept_away, finished = set(run.series_marks(measured)), subject.run
    if finished is None:
        held = subject.data.select(sources.split_series(subject.config, subject.data).validation)
    else:
        marks = finished.split["validation"]
        if not marks:
            raise JaxlvError("the run has no validation series", where=finished.folder)
        held = sources.load_series(subject.config, finished.folder).select([id_of(i) for i in marks])
        if run.series_marks(held) != list(marks.values()):
            raise JaxlvError("the validation series are not those of the run", where=held.source.get("path"))
        kept_away |= set(finished.split.get("test", {}).values())
    free = held.ids_N[[mark not in kept_away for mark in run.series_marks(held)]]
    if not len(free):
        raise JaxlvError("every validation series is measured", hint="measure other series with --series")
    return held.select(free)


def fit_on_validation(
    forecasters: Models, validation: SeriesSet, config: EvaluateConfig, fit: Fit, begin: Begin = Silent
) -> Fitted:
    """Settles each forecaster's temperature, if there are some to choose from, and its conformal bands, if wanted.

    No series serves both purposes: a temperature chosen on the series that the bands are fitted to would make these look
    narrower than they are. Raises JaxlvError if there are too few.
    """
    share = len(validation) // 2 if fit.temperatures and fit.conformal else len(validation)
    if not share:
        raise JaxlvError("too few validation series", expected="at least 2", found=len(validation))
    fitted, ids = Fitted(dict(forecasters)), validation.ids_N.tolist()
    if fit.temperatures:
        used, ids = ids[: min(share, fit.most)], ids[min(share, fit.most) :]
        fitted = _with_temperatures(fitted, validation.select(used), config, fit.temperatures, begin)
    if fit.conformal:
        fitted = _with_bands(fitted, validation.select(ids[: fit.most]), config, begin)
    return fitted


def _with_temperatures(
    fitted: Fitted, chosen_on: SeriesSet, config: EvaluateConfig, temperatures: Sequence[float], begin: Begin
) -> Fitted:
    table: dict[str, dict[str, float]] = {}
    chosen: dict[str, float] = {}
    for name, forecaster in fitted.forecasters.items():
        with begin(f"temperature ({name})", len(set(temperatures))) as bar:
            chosen[name], table[name] = choose_temperature(forecaster, chosen_on, config, temperatures, bar.update)
    told = ChosenTemperature(tuple(chosen_on.ids_N.tolist()), table, chosen)
    forecasters = {name: one.with_sampling(temperature=chosen[name]) for name, one in fitted.forecasters.items()}
    return replace(fitted, forecasters=forecasters, temperature=told)


def _with_bands(fitted: Fitted, fitted_on: SeriesSet, config: EvaluateConfig, begin: Begin) -> Fitted:
    bands: dict[str, Bands] = {}
    for name, forecaster in fitted.forecasters.items():
        with begin(f"bands ({name})", len(fitted_on)) as bar:
            bands[name] = fit_conformal(forecaster, fitted_on, config, bar.update)
    factors = {
        name: {str(level): float(factor_HV.mean()) for level, factor_HV in band.factors.items()}
        for name, band in bands.items()
    }
    left_out = [level for level in LEVELS if str(level) not in next(iter(factors.values()))]
    told = Adjusted(tuple(fitted_on.ids_N.tolist()), factors, tuple(left_out))
    return replace(fitted, bands=bands, conformal=told)


def evaluate_to(
    out: Path,
    subject: Subject,
    chosen: SeriesSet,
    config: EvaluateConfig,
    fitted: Fitted,
    *,
    title: str,
    begin: Begin = Silent,
) -> Evaluation:
    """Measures what was fitted, and leaves metrics.json, report.html and the forecasts in `out`. Returns the metrics."""
    with Watched() as watched, _Bars(begin, len(chosen)) as bars:
        watched.add(out)

        def on_batch(name: str, done: int) -> None:
            watched.check()  # what was removed or renamed while it is filled is not found at the end alone
            bars.of(name).update(done)

        own: Any = {"bands": fitted.bands, "pooled": fitted.pooled}
        measured, forecasts = measure(fitted.forecasters, chosen, config, **own, on_batch=on_batch)
    settled: Any = {"temperature_chosen_on": fitted.temperature, "conformal": fitted.conformal, **fitted.origins}
    seen = tuple(subject.seen(chosen))
    measured = replace(measured, protocol=replace(measured.protocol, **settled, seen_in_training=seen, base=fitted.base))
    with doing("writing the forecasts and the page"):
        _write(out, subject, chosen, measured, forecasts, title)
    return measured


def _write(
    out: Path, subject: Subject, chosen: SeriesSet, measured: Evaluation, forecasts: Mapping[str, Forecast], title: str
) -> None:
    write_json(out / METRICS, measured.tree())
    for name, forecast in forecasts.items():
        forecast.write_csv(out / f"forecast_{name}.csv")
    shown = forecasts.get("tuned") or next(iter(forecasts.values()))
    picked = {one.series for one in measured.picked(shown.ids_N.tolist())}
    finished, found = subject.run, versions()
    known: Any = {"device": found["device"], "peak_memory_bytes": peak_memory()}
    cost = replace(finished.bill(), **known) if finished else RunCost()
    one = Measured(
        "",
        out,
        measured,
        [panel for panel in panels(shown, chosen) if panel.series_id in picked],
        settings=config_tree(subject.config),
        versions=found,
        cost=cost,
        curves=curves_of(finished.config, run.read_metrics(finished.folder / run.METRICS)) if finished else None,
    )
    page.write(out / REPORT, page_of_evaluation(one, title))


class _Bars(contextlib.ExitStack):
    """A bar for each model, of which one is open at a time."""

    def __init__(self, begin: Begin, series: int):
        super().__init__()
        self.begin, self.series, self.opened = begin, series, dict[str, Bar]()

    def of(self, name: str) -> Bar:
        """Returns the bar of a model; the one before is closed."""
        if name not in self.opened:
            self.close()
            self.opened[name] = self.enter_context(self.begin(f"forecast ({name})", self.series))
        return self.opened[name]
