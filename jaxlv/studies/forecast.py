"""Forecasts of chosen series: a table of samples, the settings, and figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from jaxlv.config import EvaluateConfig, config_tree
from jaxlv.data.series import SeriesSet
from jaxlv.forecasting.forecaster import Forecast, Forecaster
from jaxlv.forecasting.panels import panels
from jaxlv.forecasting.request import Request
from jaxlv.report.figures import evaluation as figures
from jaxlv.report.figures import svg
from jaxlv.results.forecasts import ForecastSettings, TextFormat
from jaxlv.storage.files import new_folder, write_json
from jaxlv.studies.progress import Begin, Say, Silent, unsaid
from jaxlv.studies.subjects import Asked, data_name, open_subject
from jaxlv.versions import versions

TABLE, SETTINGS = "forecast.csv", "settings.json"
MOST = 4  # series, if none are named


class Forecasts(NamedTuple):
    """Forecasts that were written: how they were made, and the names of the files of figures."""

    settings: ForecastSettings
    figures: list[str]


def forecast(asked: Asked, out: Path, reach: int | None = None, begin: Begin = Silent, say: Say = unsaid) -> Forecasts:
    """Forecasts series, and writes forecast.csv, settings.json and figures into the new folder `out`.

    With `reach`, that many steps are forecast at a time, and each sample goes on from its own last context. Raises
    JaxlvError if the subject, the series or the settings do not fit, or if `out` exists.
    """
    subject = open_subject(asked, say)
    chosen = subject.chosen(asked.series, MOST)
    protocol = replace(subject.config.evaluate, **asked.protocol)
    with subject.paying(asked.purpose) as models, new_folder(out) as work:
        model = models.get("tuned", models["untuned"]).with_sampling(**asked.sampling)
        say("sampling: " + ", ".join(f"{key} {value}" for key, value in config_tree(model.sampling).items()))
        forecast = _drawn(model, chosen, protocol, reach, begin)
        forecast.write_csv(work / TABLE)
        settings = _settings(model, chosen, protocol, reach, forecast)
        write_json(work / SETTINGS, settings.tree())
        return Forecasts(settings, _draw_figures(forecast, chosen, work))


def _drawn(model: Forecaster, chosen: SeriesSet, protocol: EvaluateConfig, reach: int | None, begin: Begin) -> Forecast:
    request = Request.of(protocol, batch=min(8, len(chosen)))
    with begin("forecast", len(chosen)) as bar:
        if reach:
            return model.rolling(chosen, request, reach, on_batch=bar.update)
        return model(chosen, request, on_batch=bar.update)


def _settings(
    model: Forecaster, chosen: SeriesSet, protocol: EvaluateConfig, reach: int | None, forecast: Forecast
) -> ForecastSettings:
    return ForecastSettings(
        data=data_name(chosen),
        data_sha256=chosen.source.get("sha256"),
        series=tuple(forecast.ids_N),
        context=protocol.context,
        horizon=protocol.horizon,
        samples=protocol.samples,
        reach=reach,
        seed=protocol.seed,
        codec=TextFormat(model.codec.scale, model.codec.decimals),
        sampling=config_tree(model.sampling),
        valid_share=forecast.valid_share,
        stops=forecast.stops,
        versions=versions(),
    )


def _draw_figures(forecast: Forecast, chosen: SeriesSet, work: Path) -> list[str]:
    """Writes two figures of each series, and returns the names of the files."""
    names = []
    for panel in panels(forecast, chosen):
        for drawing, kind in ((figures.forecast_figure, ""), (figures.phase_figure, "_phase")):
            names.append(f"series_{panel.series_id}{kind}.png")
            svg.save_png(drawing(panel), work / names[-1])
    return names
