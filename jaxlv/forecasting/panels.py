"""Forecasts series by series, with what is known of each: the panels that charts draw.

Axes: C context steps, H forecast steps, T = C + H, S samples, V variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxlv.data.clock import moment
from jaxlv.data.series import SeriesSet
from jaxlv.forecasting import metrics
from jaxlv.forecasting.forecast import Forecast, filled
from jaxlv.results.panels import Band, ForecastPanel

TICKS = 5  # of a time axis of dates
BANDS = (0.95, 0.80, 0.50)  # central shares of the samples, widest first


def panel_of(
    series_id: int | str,
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
    known = data.select(forecast.ids_N)
    values_NTV = known.values_NTV - known.shift_NV[:, None]
    horizon, C, found = len(forecast.time_H), forecast.start, []
    for i, (series_id, first) in enumerate(zip(forecast.ids_N.tolist(), known.first_N.tolist(), strict=True)):
        truth_HV = values_NTV[i, C : C + horizon]
        known_HV = truth_HV if len(truth_HV) == horizon else None
        last_V = forecast.last_NV[i] - forecast.shift_NV[i]
        time_T, ticks = _times(known, i, first, C, horizon, forecast.time_H)
        own = (time_T, values_NTV[i, first:C], known_HV, forecast.raw_NSHV[i], last_V)
        panel = panel_of(series_id, forecast.variables, *own)
        found.append(replace(panel, time_label=known.layout.time or "time", ticks=ticks))
    return found


class _Times(NamedTuple):
    """Places on a time axis, and the labels of some of them, if others are shown than the places themselves."""

    time_T: np.ndarray
    ticks: Mapping[float, str]


def _times(known: SeriesSet, row: int, first: int, context: int, horizon: int, time_H: np.ndarray) -> _Times:
    """Returns the places of a series' steps on a time axis, with labels if its times are dates."""
    steps_T = np.arange(first, context + horizon)
    if not known.clock.is_calendar:
        if not known.first_N.any() and len(set(known.clock.origin_N.tolist())) == 1:
            return _Times(np.concatenate([known.time_T[:context], time_H]), {})
        return _Times(known.clock.labels(row, steps_T).astype(float), {})
    chosen = np.unique(np.linspace(0, len(steps_T) - 1, TICKS).astype(int))
    labels = known.clock.labels(row, steps_T[chosen])
    ticks = {float(i): moment(one) for i, one in zip(chosen, labels, strict=True)}
    return _Times(np.arange(len(steps_T), dtype=float), ticks)
