"""Measures of a forecast against the truth, in the units of the series unless a docstring says otherwise.

Axes: N series, S samples, H steps ahead, V variables, C context steps, Q probabilities.

NaN rules. A sample value that is NaN is invalid: `quantiles`, `coverage`, `sharpness` and `crps` leave it out at that step
only, `energy_score` also leaves out the sample's other variables at that step, and all return NaN if a step has no valid
sample. Point measures return NaN if the forecast has NaN. Nothing else is dropped here: the caller decides which series
enter a mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxlv.errors import JaxlvError


def mae(forecast_NHV: np.ndarray, truth_NHV: np.ndarray) -> np.ndarray:
    """Returns the mean absolute error over the steps, mean_h |f - y|: (N, V)."""
    return np.abs(_error(forecast_NHV, truth_NHV)).mean(axis=1)


def mae_by_step(forecast_NHV: np.ndarray, truth_NHV: np.ndarray) -> np.ndarray:
    """Returns the mean absolute error over the series at each step ahead, mean_n |f - y|: (H, V)."""
    return np.abs(_error(forecast_NHV, truth_NHV)).mean(axis=0)


def mse(forecast_NHV: np.ndarray, truth_NHV: np.ndarray) -> np.ndarray:
    """Returns the mean squared error over the steps, mean_h (f - y)^2, in squared units: (N, V)."""
    return (_error(forecast_NHV, truth_NHV) ** 2).mean(axis=1)


def rmse(forecast_NHV: np.ndarray, truth_NHV: np.ndarray) -> np.ndarray:
    """Returns the root of the mean squared error over the steps: (N, V)."""
    return np.sqrt(mse(forecast_NHV, truth_NHV))


def r2(forecast_NHV: np.ndarray, truth_NHV: np.ndarray) -> np.ndarray:
    """Returns the coefficient of determination, 1 - sum_h (f - y)^2 / sum_h (y - mean_h y)^2, without unit: (N, V).

    It is NaN if the truth does not change, because there is nothing to explain then.
    """
    spread_NV = np.var(truth_NHV, axis=1)
    return 1 - _divide(mse(forecast_NHV, truth_NHV), spread_NV)


def mase(forecast_NHV: np.ndarray, truth_NHV: np.ndarray, context_NCV: np.ndarray) -> np.ndarray:
    """Returns the mean absolute scaled error, mae / mean |first difference of the context|, without unit: (N, V).

    NaN if the context does not change; steps of the context that are NaN, before a series begins, do not count. Hyndman and
    Koehler (2006), International Journal of Forecasting 22, 679-688.
    """
    return _divide(mae(forecast_NHV, truth_NHV), np.nanmean(np.abs(np.diff(context_NCV, axis=1)), axis=1))


def crps(samples_NSHV: np.ndarray, truth_NHV: np.ndarray, fair: bool = True) -> np.ndarray:
    """Returns `crps_by_step`, mean over the steps: (N, V)."""
    return crps_by_step(samples_NSHV, truth_NHV, fair).mean(axis=1)


def crps_by_step(samples_NSHV: np.ndarray, truth_NHV: np.ndarray, fair: bool = True) -> np.ndarray:
    """Returns the continuous ranked probability score of each step from samples: (N, H, V), smaller is better.

    With x the m valid samples of a step: mean_i |x_i - y| - sum_{i<j} |x_i - x_j| / (m d). If `fair`, d = m - 1, which makes
    the estimate unbiased in m (it may be slightly negative); otherwise d = m, the score of the empirical distribution. For
    one sample both are |x - y|. The pairs are summed over the sorted samples, in O(m log m). Gneiting and Raftery (2007),
    Journal of the American Statistical Association 102, 359-378, eq. 21; Ferro (2014), Quarterly Journal of the Royal
    Meteorological Society 140, 1917-1923.
    """
    _check_samples(samples_NSHV, truth_NHV)
    sorted_NSHV, count_NHV = _sorted(samples_NSHV)
    rank_S = np.arange(1, sorted_NSHV.shape[1] + 1)[:, None, None]
    weights_NSHV = 2 * rank_S - count_NHV[:, None] - 1
    pairs_NHV = np.nansum(weights_NSHV * sorted_NSHV, axis=1)
    distance_NHV = _divide(np.nansum(np.abs(sorted_NSHV - truth_NHV[:, None]), axis=1), count_NHV)
    others_NHV = np.maximum(count_NHV - 1, 1) if fair else np.maximum(count_NHV, 1)
    return distance_NHV - _divide(pairs_NHV, count_NHV * others_NHV)


def energy_score(samples_NSHV: np.ndarray, truth_NHV: np.ndarray, fair: bool = True) -> np.ndarray:
    """Returns the energy score of the variables together, mean over the steps: (N,), smaller is better.

    With x the m valid samples of a step and || || the Euclidean norm over the variables: mean_i ||x_i - y|| -
    sum_{i<j} ||x_i - x_j|| / (m d), d as in `crps`, to which it is equal for one variable. Unlike the CRPS of each variable,
    it depends on how the variables of a sample vary together. Variables count by their raw size. Gneiting and
    Raftery (2007), Journal of the American Statistical Association 102, 359-378, eq. 22.
    """
    _check_samples(samples_NSHV, truth_NHV)
    samples_NSHV = np.asarray(samples_NSHV, dtype=float)
    count_NH = (~np.isnan(samples_NSHV).any(axis=3)).sum(axis=1)
    distance_NH = np.nansum(np.linalg.norm(samples_NSHV - np.asarray(truth_NHV)[:, None], axis=3), axis=1)
    pairs_NH = np.zeros(count_NH.shape)
    for i in range(samples_NSHV.shape[1] - 1):  # all pairs at once would take S times the memory of the samples
        gap_NSHV = samples_NSHV[:, i + 1 :] - samples_NSHV[:, i : i + 1]
        pairs_NH += np.nansum(np.linalg.norm(gap_NSHV, axis=3), axis=1)
    others_NH = np.maximum(count_NH - 1, 1) if fair else np.maximum(count_NH, 1)
    return (_divide(distance_NH, count_NH) - _divide(pairs_NH, count_NH * others_NH)).mean(axis=1)


def quantiles(samples_NSHV: np.ndarray, probabilities: Sequence[float]) -> np.ndarray:
    """Returns the quantiles of the valid samples at each step: (Q, N, H, V).

    The quantile p of m samples lies at position p (m + 1) of the sorted samples, interpolated linearly and limited to their
    range: Weibull's definition, type 6 of Hyndman and Fan (1996), The American Statistician 50, 361-365. A new draw from the
    samples' distribution falls below it with probability p, as long as 1 <= p (m + 1) <= m. It is NaN if all samples of a
    step are invalid. Raises JaxlvError if a probability is not within 0 to 1.
    """
    if not all(0 <= p <= 1 for p in probabilities):
        raise JaxlvError("wrong probabilities", expected="0 to 1", found=list(probabilities))
    sorted_NSHV, count_NHV = _sorted(samples_NSHV)
    if not sorted_NSHV.shape[1]:
        return np.full((len(probabilities), *count_NHV.shape), np.nan)
    last_NHV = np.maximum(count_NHV - 1, 0)
    result = []
    for p in probabilities:
        position_NHV = np.clip(p * (count_NHV + 1) - 1, 0, last_NHV)
        below_NHV = np.floor(position_NHV).astype(int)
        low_NHV, high_NHV = (
            np.take_along_axis(sorted_NSHV, index_NHV[:, None], axis=1)[:, 0]
            for index_NHV in (below_NHV, np.minimum(below_NHV + 1, last_NHV))
        )
        result.append(low_NHV + (position_NHV - below_NHV) * (high_NHV - low_NHV))
    return np.stack(result)


def coverage(samples_NSHV: np.ndarray, truth_NHV: np.ndarray, level: float) -> np.ndarray:
    """Returns the share of the steps whose truth lies within the samples' `central_interval` of that level: (N, V).

    m samples of the right distribution cover at most `reach(m)` of the steps on average: the 95 % interval needs 39 samples,
    the 80 % interval 9.
    """
    _check_samples(samples_NSHV, truth_NHV)
    return covered(*central_interval(samples_NSHV, level), truth_NHV)


def sharpness(samples_NSHV: np.ndarray, level: float) -> np.ndarray:
    """Returns the mean width over the steps of the samples' central interval of that level, 0 < level < 1: (N, V).

    If two forecasts cover what they claim, the sharper one is better. Gneiting, Balabdaoui and Raftery (2007),
    Journal of the Royal Statistical Society B 69, 243-268.
    """
    low_NHV, high_NHV = central_interval(samples_NSHV, level)
    return (high_NHV - low_NHV).mean(axis=1)


def central_interval(samples_NSHV: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the `quantiles` (1 - level) / 2 and (1 + level) / 2 of each step, each (N, H, V)."""
    low_NHV, high_NHV = quantiles(samples_NSHV, [(1 - level) / 2, (1 + level) / 2])
    return low_NHV, high_NHV


def covered(low_NHV: np.ndarray, high_NHV: np.ndarray, truth_NHV: np.ndarray) -> np.ndarray:
    """Returns the share of the steps whose truth lies in [low, high]: (N, V); NaN if an end of an interval is NaN."""
    inside_NHV = ((low_NHV <= truth_NHV) & (truth_NHV <= high_NHV)).astype(float)
    return np.where(np.isnan(low_NHV) | np.isnan(high_NHV), np.nan, inside_NHV).mean(axis=1)


def reach(samples: int) -> float:
    """Returns the most that a central interval of m samples covers on average, (m - 1) / (m + 1): from least to greatest."""
    return (samples - 1) / (samples + 1)


def bootstrap_interval(
    values_N: np.ndarray,
    statistic: Callable[..., Any] = np.mean,
    level: float = 0.95,
    repeats: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of a statistic over the series, which are drawn with replacement.

    `statistic` takes (repeats, N) and the keyword axis=1. The same seed gives the same interval. If a value is NaN, so are
    the ends. Efron and Tibshirani (1993), An Introduction to the Bootstrap, ch. 13.
    """
    values_N = np.asarray(values_N, dtype=float)
    if values_N.ndim != 1 or not len(values_N):
        raise JaxlvError("nothing to bootstrap", expected="one value per series", found=f"shape {values_N.shape}")
    rows = np.random.default_rng(seed).integers(len(values_N), size=(repeats, len(values_N)))
    low, high = np.quantile(statistic(values_N[rows], axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _error(forecast_NHV: np.ndarray, truth_NHV: np.ndarray) -> np.ndarray:
    if np.ndim(truth_NHV) != 3 or np.shape(forecast_NHV) != np.shape(truth_NHV):
        raise JaxlvError("forecast and truth differ in shape", expected=np.shape(truth_NHV), found=np.shape(forecast_NHV))
    return np.asarray(forecast_NHV) - np.asarray(truth_NHV)


def _check_samples(samples_NSHV: np.ndarray, truth_NHV: np.ndarray) -> None:
    count, *rest = np.shape(truth_NHV)
    expected = (count, np.shape(samples_NSHV)[1], *rest)
    if np.ndim(truth_NHV) != 3 or np.shape(samples_NSHV) != expected:
        raise JaxlvError("samples and truth differ in shape", expected=expected, found=np.shape(samples_NSHV))


def _sorted(samples_NSHV: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the samples in ascending order with NaN last, and the number of valid ones (N, H, V)."""
    return np.sort(samples_NSHV, axis=1), (~np.isnan(samples_NSHV)).sum(axis=1)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns the quotient; NaN if the denominator is 0."""
    return numerator / np.where(denominator == 0, np.nan, denominator)
