"""Forecasts of series: a table of samples, the settings, figures and a page; and scores, if the last steps are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxlv.activity import doing
from jaxlv.config import EvaluateConfig, config_tree
from jaxlv.data.clock import moment
from jaxlv.data.observations import USUAL, Handling, Observations
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.forecasting import metrics, pool
from jaxlv.forecasting.forecast import Forecast
from jaxlv.forecasting.panels import panels
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.sampler import Sampler
from jaxlv.report import forecasts as view
from jaxlv.report.figures import evaluation as figures
from jaxlv.report.figures import svg
from jaxlv.results.forecasts import ForecastSettings, Next, TextFormat
from jaxlv.storage.files import check_free, new_folder, write_json
from jaxlv.studies import given
from jaxlv.studies.progress import Begin, Say, Silent, unsaid
from jaxlv.studies.subjects import Asked, Subject, data_name, open_subject
from jaxlv.versions import versions

TABLE, SETTINGS, PAGE = "forecast.csv", "settings.json", "report.html"
MOST = 4  # series of a run's own data, if none are named
DRAWN = 12  # series that figures are drawn of, at most


@dataclass(frozen=True)
class Ahead:
    """Says what is forecast. Without `context`: what follows the last step of every series, or its last `holdout` steps."""

    holdout: int | None = None
    reach: int | None = None  # steps forecast at a time: each sample then goes on from its own last context
    handling: Handling = USUAL
    overwrite: bool = False
    method: str = "model"  # one of jaxlv.forecasting.pool.METHODS


class Forecasts(NamedTuple):
    """Forecasts that were written: how they were made, the first steps, and the names of the files of figures."""

    settings: ForecastSettings
    next: tuple[Next, ...]
    figures: list[str]


AHEAD = Ahead()


def forecast(asked: Asked, out: Path, ahead: Ahead = AHEAD, begin: Begin = Silent, say: Say = unsaid) -> Forecasts:
    """Forecasts series, and writes forecast.csv, settings.json, figures and report.html into the new folder `out`.

    Raises JaxlvError if the subject, the series or the settings do not fit, or if `out` exists (with
    `ahead.overwrite`, if it is not such a folder).
    """
    check_free(out, ahead.overwrite, SETTINGS)
    subject = open_subject(asked, say)
    with subject.paying(asked.purpose) as models, new_folder(out, replace=ahead.overwrite, made_by=SETTINGS) as work:
        model = models.get("tuned", models["untuned"]).with_sampling(**asked.sampling)
        chosen, protocol, notes = _chosen(subject, model, asked, ahead)
        say(f"data: {subject.observed.told}")
        reader = subject.choice.reader(model, chosen, protocol.context)
        if reader.told:
            say(f"model: {reader.told}")
        notes = [*notes, *given.unfamiliar(chosen, reader, protocol.context, protocol.horizon)]
        model = reader.sampler
        for note in notes:
            say(f"note: {note}")
        say("sampling: " + ", ".join(f"{key} {value}" for key, value in config_tree(model.sampling).items()))
        made = _drawn(model, chosen, protocol, ahead, begin)
        made.write_csv(work / TABLE)
        settings = replace(_settings(model, chosen, protocol, ahead, made), base=reader.name)
        write_json(work / SETTINGS, settings.tree())
        with doing("drawing figures and the page"):
            names = _draw_figures(made, chosen, work)
            found = Forecasts(settings, tuple(_next(made)), names)
            view.write_page(work / PAGE, settings, found.next, panels(made, chosen)[:DRAWN], notes)
        return found


class _Chosen(NamedTuple):
    """Series with their steps up to the end of what is known, the protocol that forecasts them, and notes on them."""

    series: SeriesSet
    protocol: EvaluateConfig
    notes: Sequence[str]


def _chosen(subject: Subject, model: Sampler, asked: Asked, ahead: Ahead) -> _Chosen:
    protocol = replace(subject.config.evaluate, **asked.protocol)
    if "context" in asked.protocol or (asked.data is None and ahead.holdout is None):
        return _Chosen(subject.chosen(asked.series, MOST), protocol, ())  # so many steps from the start of each series
    found = _observed(subject, asked)
    if ahead.holdout is not None and "horizon" not in asked.protocol:
        protocol = replace(protocol, horizon=ahead.holdout)
    held = ahead.holdout or 0
    if held and protocol.horizon > held:
        where = "--holdout, --horizon"
        raise JaxlvError("the horizon is longer than what is held out", where=where, expected=held, found=protocol.horizon)
    room = given.room(
        model, asked.subject, subject.run.config if subject.run else None, len(found.variables), protocol.horizon
    )
    known = given.ready(found.longer_than(held), model, ahead.handling, room, held)
    longest, notes = max(map(len, found.values)) - held, list(known.notes)
    if room < longest:
        notes.append(f"the last {room} of {longest} steps are the context: the model has read no longer texts")
    return _Chosen(known.series, replace(protocol, context=known.series.values_NTV.shape[1] - held), notes)


def _observed(subject: Subject, asked: Asked) -> Observations:
    """Returns the series as they were read, those that are asked for."""
    found = subject.observed
    return found if asked.series is None else found.select(asked.series)


def _drawn(model: Sampler, chosen: SeriesSet, protocol: EvaluateConfig, ahead: Ahead, begin: Begin) -> Forecast:
    request = Request.of(protocol, batch=min(8, len(chosen)))
    with begin("forecast", len(chosen)) as bar:
        if ahead.reach and ahead.method != "model":
            raise JaxlvError(
                "forecasts that go on from themselves are a model's alone", where="--reach, --method, --calibrate"
            )
        if ahead.reach:
            return model.rolling(chosen, request, ahead.reach, on_batch=bar.update)
        return pool.forecast(ahead.method, model, chosen, request, bar.update)


def _settings(
    model: Sampler, chosen: SeriesSet, protocol: EvaluateConfig, ahead: Ahead, forecast: Forecast
) -> ForecastSettings:
    return ForecastSettings(
        data=data_name(chosen),
        data_sha256=chosen.source.get("sha256"),
        series=tuple(forecast.ids_N.tolist()),
        context=protocol.context,
        horizon=protocol.horizon,
        samples=protocol.samples,
        reach=ahead.reach,
        seed=protocol.seed,
        codec=TextFormat(model.codec.scale, model.codec.decimals),
        sampling=config_tree(model.sampling),
        valid_share=forecast.valid_share,
        stops=forecast.stops,
        versions=versions(),
        holdout=ahead.holdout,
        method=ahead.method,
        mae=_error(forecast, chosen),
    )


def _error(forecast: Forecast, chosen: SeriesSet) -> float | None:
    """Returns the mean absolute error of the median in raw units, over series; None if the future is not known."""
    start, horizon = forecast.start, forecast.samples_NSHV.shape[2]
    truth_NHV = chosen.values_NTV[:, start : start + horizon]
    if truth_NHV.shape[1] < horizon or np.isnan(truth_NHV).all():
        return None
    return float(np.nanmean(np.abs(forecast.median() - truth_NHV)))


def _next(forecast: Forecast) -> list[Next]:
    """Returns the steps that are forecast: the median and the 80 % band of each."""
    filled = forecast.raw_filled()
    low, high = metrics.central_interval(filled, 0.8)
    middle, labels = np.median(filled, axis=1), forecast.labels_NH
    N, H, V = middle.shape
    ids, names = forecast.ids_N.tolist(), forecast.variables
    return [
        Next(ids[n], moment(labels[n, h]), names[v], middle[n, h, v], (low[n, h, v], high[n, h, v]))
        for n in range(N)
        for h in range(H)
        for v in range(V)
    ]


def _draw_figures(forecast: Forecast, chosen: SeriesSet, work: Path) -> list[str]:
    """Writes a figure of each of the first series, and one of its phase plane if it has several variables; returns the
    names of the files.
    """
    names = []
    for place, panel in enumerate(panels(forecast, chosen)[:DRAWN]):
        kinds = {"": figures.forecast_figure, **({"_phase": figures.phase_figure} if len(panel.variables) > 1 else {})}
        for kind, drawing in kinds.items():
            own = panel.series_id if isinstance(panel.series_id, int) else place
            names.append(f"series_{own}{kind}.png")
            svg.save_png(drawing(panel), work / names[-1])
    return names
