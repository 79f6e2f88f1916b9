"""Samples stretched about their median, so that bands hold their share at rolling origins within the contexts.

Axes: N series, M windows within contexts, S samples, H steps, V variables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jaxlv.data.series import SeriesSet
from jaxlv.forecasting import metrics
from jaxlv.forecasting.origins import Within, within
from jaxlv.forecasting.request import Request

LEVEL = 0.8  # of the band whose share the factors settle
ORIGINS = 4  # within a context, at most
OTHERS = 24  # values of all series and steps that weigh as much as those of one series, or of one step
LIMITS = (0.5, 4.0)  # of a factor
FLOOR = 0.05  # of the mean of a context, which is added before logarithms are taken
Draw = Callable[[SeriesSet, Request], np.ndarray]  # samples (N, S, H, V) without NaN


def sizes(series: SeriesSet, context: int) -> np.ndarray:
    """Returns what keeps values near 0 from being far apart as logarithms, (N, 1, V): FLOOR of a context's mean."""
    return FLOOR * np.nanmean(series.values_NTV[:, :context], axis=1, keepdims=True) + np.finfo(float).tiny


@dataclass(frozen=True)
class Stretching:
    """The factor of each series and step ahead, and the samples (M, S, H, V) within the contexts that it comes from."""

    factor_NH: np.ndarray
    size_N1V: np.ndarray
    samples_MSHV: np.ndarray

    @classmethod
    def fitted(cls, samples_MSHV: np.ndarray, here: Within, series: SeriesSet, context: int) -> Stretching:
        """Returns the factors by which the 80 % bands of samples within the contexts would have held 80 % of the truth: of
        each series, a geometric mean with that of all, and likewise of each step.
        """
        size_N1V = sizes(series, context)
        return cls(_factors(samples_MSHV, here, size_N1V[here.series_M], len(series)), size_N1V, samples_MSHV)

    def ahead(self, samples_NSHV: np.ndarray) -> np.ndarray:
        """Returns samples behind the contexts, stretched; beyond the windows' horizon by the factors of its last step."""
        missing = samples_NSHV.shape[2] - self.factor_NH.shape[1]
        longer_NH = np.pad(self.factor_NH, ((0, 0), (0, missing)), mode="edge")
        return stretched(samples_NSHV, longer_NH, self.size_N1V)

    def within(self, here: Within) -> np.ndarray:
        """Returns the samples within the contexts, stretched."""
        return stretched(self.samples_MSHV, self.factor_NH[here.series_M], self.size_N1V[here.series_M])


def calibrated(series: SeriesSet, request: Request, model: Draw) -> np.ndarray:
    """Returns the model's samples (N, S, H, V), those of each series and step stretched by a factor, in logarithms.

    The factors come from ORIGINS origins within the contexts. Without room for these the samples stay as they are.
    """
    samples_NSHV = model(series, request)
    here = within(series, request.context, request.horizon, ORIGINS)
    if here is None:
        return samples_NSHV
    return Stretching.fitted(model(here.windows, here.asked(request)), here, series, request.context).ahead(samples_NSHV)


def stretched(samples_NSHV: np.ndarray, factor_NH: np.ndarray, size_N1V: np.ndarray) -> np.ndarray:
    """Returns samples whose logarithms, of the value and `size_N1V`, lie `factor_NH` times as far from their median."""
    logs_NSHV = np.log(samples_NSHV + size_N1V[:, None])
    middle_N1HV = np.median(logs_NSHV, axis=1, keepdims=True)
    wide_NSHV = np.exp(middle_N1HV + factor_NH[:, None, :, None] * (logs_NSHV - middle_N1HV)) - size_N1V[:, None]
    return np.maximum(wide_NSHV, 0)


def _factors(samples_MSHV: np.ndarray, here: Within, size_M1V: np.ndarray, count: int) -> np.ndarray:
    """Returns the factor of each series and step, (N, H)."""
    logs_MSHV, truth_MHV = np.log(samples_MSHV + size_M1V[:, None]), np.log(here.truth_MHV + size_M1V)
    low_MHV, high_MHV = metrics.central_interval(logs_MSHV, LEVEL)
    middle_MHV = np.median(logs_MSHV, axis=1)
    error_MHV = truth_MHV - middle_MHV
    half_MHV = np.where(error_MHV > 0, high_MHV - middle_MHV, middle_MHV - low_MHV)
    needed_MHV = np.abs(error_MHV) / np.maximum(half_MHV, 1e-6)
    known_MHV = np.isfinite(needed_MHV)
    everyone = np.log(_quantile(needed_MHV[known_MHV]))

    def beyond(chosen: np.ndarray) -> float:
        """Returns the logarithm by which some values need more than all do, less of it the fewer they are."""
        own, size = np.log(_quantile(needed_MHV[chosen])), int(chosen.sum())
        return size * (own - everyone) / (size + OTHERS)

    series_N = [beyond(known_MHV & (here.series_M == row)[:, None, None]) for row in range(count)]
    steps_H = [beyond(known_MHV & (np.arange(known_MHV.shape[1]) == step)[:, None]) for step in range(known_MHV.shape[1])]
    return np.clip(np.exp(everyone + np.add.outer(series_N, steps_H)), *LIMITS)


def _quantile(needed: np.ndarray) -> float:
    """Returns the factor that LEVEL of the values need, within LIMITS; 1 without values."""
    return float(np.clip(np.quantile(needed, LEVEL), *LIMITS)) if needed.size else 1.0
