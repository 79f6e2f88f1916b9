"""Forecasts series by series, with what is known of each: the panels that charts draw.

Axes: C context steps, H forecast steps, T = C + H, S samples, V variables.
"""

from __future__ import annotations

import numpy as np

from jaxlv.data.series import SeriesSet
from jaxlv.forecasting import metrics
from jaxlv.forecasting.forecaster import Forecast, filled
from jaxlv.results.panels import Band, ForecastPanel

BANDS = (0.95, 0.80, 0.50)  # central shares of the samples, widest first


def panel_of(
    series_id: int,
    variables: tuple[str, ...],
    time_T: np.ndarray,
    context_CV: np.ndarray,
    truth_HV: np.ndarray | None,
    samples_SHV: np.ndarray,
    last_V: np.ndarray | None = None,
) -> ForecastPanel:
    """Returns a series with the median and the bands of its samples, which coverage is measured of.

    A sample that broke off stays at its last complete step; one without a step stays at `last_V`, or at the end of the
    context if that is None.
    """
    end_V = context_CV[-1] if len(context_CV) else np.full(len(variables), np.nan)
    scored_NSHV = filled(samples_SHV[None], (end_V if last_V is None else last_V)[None])
    bands: dict[tuple[float, ...], Band] = {}
    for share in BANDS:
        band = Band(*(end_NHV[0] for end_NHV in metrics.central_interval(scored_NSHV, share)))
        same = next((known for known, other in bands.items() if np.array_equal(band, other, equal_nan=True)), ())
        bands.pop(same, None)
        bands[(*same, share)] = band
    median_HV = metrics.quantiles(scored_NSHV, [0.5])[0, 0]
    return ForecastPanel(series_id, variables, time_T, context_CV, truth_HV, samples_SHV, median_HV, bands)


def panels(forecast: Forecast, data: SeriesSet) -> list[ForecastPanel]:
    """Returns the panel of each series of a forecast; its truth is None if the file ends before the forecast does."""
    values_NTV, horizon, C = data.select(forecast.ids_N).values_NTV, len(forecast.time_H), forecast.start
    time_T, found = np.concatenate([data.time_T[:C], forecast.time_H]), []
    for i, series_id in enumerate(forecast.ids_N):
        truth_HV = values_NTV[i, C : C + horizon]
        known_HV = truth_HV if len(truth_HV) == horizon else None
        samples_SHV, last_V = forecast.samples_NSHV[i], forecast.last_NV[i]
        context_CV = values_NTV[i, :C]
        found.append(panel_of(int(series_id), forecast.variables, time_T, context_CV, known_HV, samples_SHV, last_V))
    return found
