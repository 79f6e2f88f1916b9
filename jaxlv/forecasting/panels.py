"""Forecasts series by series, with what is known of each: what charts of a forecast show.

Axes: C context steps, H forecast steps, T = C + H, S samples, V variables.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from jaxlv.data.series import SeriesSet
from jaxlv.forecasting import metrics
from jaxlv.forecasting.forecaster import Forecast, filled

BANDS = (0.95, 0.80, 0.50)  # central shares of the samples, widest first


@dataclass(frozen=True)
class ForecastPanel:
    """One series and the samples that continue it, in raw units; NaN where a sample is invalid or cut."""

    series_id: int
    variables: tuple[str, ...]
    time_T: np.ndarray
    context_CV: np.ndarray
    truth_HV: np.ndarray | None  # None: the future is unknown
    samples_SHV: np.ndarray
    top: tuple[str, float] | None = None  # a level to be drawn, in words and raw units
    last_V: np.ndarray | None = None  # where samples without a complete step stay; None: at the end of the context

    @property
    def time_H(self) -> np.ndarray:
        """The times of the forecast."""
        return self.time_T[len(self.context_CV) :]

    @property
    def observed_TV(self) -> np.ndarray:
        """Context and truth in one array."""
        return self.context_CV if self.truth_HV is None else np.concatenate([self.context_CV, self.truth_HV])

    @property
    def ceiling_V(self) -> np.ndarray:
        """Where an axis ends at the latest, whatever samples do: three times the largest value observed."""
        return 3 * np.nanmax(np.abs(self.observed_TV), axis=0)

    @property
    def scored_NSHV(self) -> np.ndarray:
        """The samples as they are scored and written, of one series: one that broke off stays at its last complete step."""
        end_V = self.context_CV[-1] if len(self.context_CV) else np.full(len(self.variables), np.nan)
        return filled(self.samples_SHV[None], (end_V if self.last_V is None else self.last_V)[None])

    @property
    def median_HV(self) -> np.ndarray:
        """The point forecast; NaN without samples."""
        return metrics.quantiles(self.scored_NSHV, [0.5])[0, 0]

    def band(self, share: float) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) of the central band that coverage is measured of, each (H, V); NaN without samples."""
        low_NHV, high_NHV = metrics.central_interval(self.scored_NSHV, share)
        return low_NHV[0], high_NHV[0]

    @functools.cached_property
    def bands(self) -> dict[tuple[float, ...], tuple[np.ndarray, np.ndarray]]:
        """{shares: (low, high)}, widest first; shares whose bands are equal, as of few samples, have one together."""
        found: dict[tuple[float, ...], tuple[np.ndarray, np.ndarray]] = {}
        for share in BANDS:
            ends = self.band(share)
            same = next((known for known, other in found.items() if np.array_equal(ends, other, equal_nan=True)), ())
            found.pop(same, None)
            found[(*same, share)] = ends
        return found

    @property
    def is_cut(self) -> bool:
        """Whether the widest band leaves the axes."""
        return bool(np.any(self.band(BANDS[0])[1] > self.ceiling_V))


def panels(forecast: Forecast, data: SeriesSet) -> list[ForecastPanel]:
    """Returns the panel of each series of a forecast; its truth is None if the file ends before the forecast does."""
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
