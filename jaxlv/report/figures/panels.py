"""What the figures of forecasts need, from the forecasts and the series that they belong to."""

from __future__ import annotations

import numpy as np

from jaxlv.data.series import SeriesSet
from jaxlv.forecasting.forecaster import Forecast
from jaxlv.report.figures.evaluation import ForecastPanel


def panels(forecast: Forecast, data: SeriesSet) -> list[ForecastPanel]:
    """What the figures of each series need; the truth as far as the file has it."""
    values_NTV = data.select(forecast.ids_N).values_NTV
    horizon, C = len(forecast.time_H), forecast.start
    result = []
    for i, series_id in enumerate(forecast.ids_N):
        known_HV = values_NTV[i, C : C + horizon]
        result.append(
            ForecastPanel(
                series_id=int(series_id),
                variables=forecast.variables,
                time_T=np.concatenate([data.time_T[:C], forecast.time_H]),
                context_CV=values_NTV[i, :C],
                truth_HV=known_HV if len(known_HV) == horizon else None,
                samples_SHV=forecast.samples_NSHV[i],
                last_V=forecast.last_NV[i],
            )
        )
    return result
