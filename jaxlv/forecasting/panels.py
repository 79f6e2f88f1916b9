"""Forecasts series by series, with what is known of each: what charts of a forecast show.

Axes: C context steps, H forecast steps, T = C + H, S samples, V variables.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlv.data.clock import moment
from jaxlv.data.series import SeriesSet
from jaxlv.forecasting import metrics
from jaxlv.forecasting.forecaster import Forecast, filled

TICKS = 5  # of a time axis of dates
BANDS = (0.95, 0.80, 0.50)  # central shares of the samples, widest first


@dataclass(frozen=True)
class ForecastPanel:
    """One series and the samples that continue it, in raw units; NaN where a sample is invalid or cut."""

    series_id: Any
    variables: tuple[str, ...]
    time_T: np.ndarray
    context_CV: np.ndarray
    truth_HV: np.ndarray | None  # None: the future is unknown
    samples_SHV: np.ndarray
    top: tuple[str, float] | None = None  # a level to be drawn, in words and raw units
    last_V: np.ndarray | None = None  # where samples without a complete step stay; None: at the end of the context
    time_label: str = "time"
    ticks: Mapping[float, str] | None = None  # of the time axis, if times are dates: steps and what they are called

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
    known = data.select(forecast.ids_N)
    values_NTV = known.values_NTV - known.shift_NV[:, None]
    horizon, C = len(forecast.time_H), forecast.start
    result = []
    for i, (series_id, first) in enumerate(zip(forecast.ids_N.tolist(), known.first_N.tolist(), strict=True)):
        known_HV = values_NTV[i, C : C + horizon]
        time_T, ticks = _times(known, i, first, C, horizon, forecast.time_H)
        result.append(
            ForecastPanel(
                series_id=series_id,
                variables=forecast.variables,
                time_T=time_T,
                context_CV=values_NTV[i, first:C],
                truth_HV=known_HV if len(known_HV) == horizon else None,
                samples_SHV=forecast.raw_NSHV[i],
                last_V=forecast.last_NV[i] - forecast.shift_NV[i],
                time_label=known.layout.time or "time",
                ticks=ticks,
            )
        )
    return result


def _times(
    known: SeriesSet, row: int, first: int, context: int, horizon: int, time_H: np.ndarray
) -> tuple[np.ndarray, Mapping[float, str]]:
    """Returns the places of a series' steps on a time axis, and the labels of some if its times are dates."""
    steps_T = np.arange(first, context + horizon)
    if not known.clock.is_calendar:
        if not known.first_N.any() and len(set(known.clock.origin_N.tolist())) == 1:
            return np.concatenate([known.time_T[:context], time_H]), {}
        return known.clock.labels(row, steps_T).astype(float), {}
    chosen = np.unique(np.linspace(0, len(steps_T) - 1, TICKS).astype(int))
    labels = known.clock.labels(row, steps_T[chosen])
    return np.arange(len(steps_T), dtype=float), {float(i): moment(one) for i, one in zip(chosen, labels, strict=True)}
