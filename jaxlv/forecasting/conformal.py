"""Bands that contain their share of the truth: central intervals stretched by split-conformal factors, which are found on
series set aside for calibration.

For each level, step ahead and variable, the two halves of the central interval (from the median to either end) are stretched
by one factor. Each of the n calibration series has a factor by which its interval would just have reached its truth; the
k-th smallest of these is taken, k = ceil((n + 1) level). This is the median version of conformalised quantile regression
(Romano, Patterson and Candes 2019, "Conformalized quantile regression"; Kivaranovic, Johnson and Leeb 2020, "Adaptive,
distribution-free prediction intervals for deep networks"). At each step, a new series that is drawn like these is inside its
interval with a probability of at least the level, however good or bad the samples are. This does not hold for one given
series, nor for all steps together. A factor below 1 narrows a band that was too wide.

Axes: N series, S samples, H steps ahead, V variables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxlv.errors import JaxlvError
from jaxlv.forecasting import metrics


@dataclass(frozen=True)
class Bands:
    """The factors of each level (in percent), each (H, V), and the number of calibration series that they come from."""

    factors: Mapping[int, np.ndarray]
    series: int

    def interval(self, samples_NSHV: np.ndarray, level: int, least_NV: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (low, high) of a level in percent, each (N, H, V); `low` is at least 0, as populations are."""
        middle_NHV, below_NHV, above_NHV = _halves(samples_NSHV, level / 100, least_NV)
        factor_HV = self.factors[level]
        return np.maximum(middle_NHV - factor_HV * below_NHV, 0), middle_NHV + factor_HV * above_NHV


def levels_within(levels: Sequence[int], series: int) -> list[int]:
    """Returns the levels (in percent) that so many calibration series can guarantee: ceil((n + 1) level) <= n."""
    return [level for level in levels if _rank(level, series) <= series]


def fit_bands(samples_NSHV: np.ndarray, truth_NHV: np.ndarray, levels: Sequence[int], least_NV: np.ndarray) -> Bands:
    """Finds the factors of those levels (in percent) for which there are enough series.

    `least_NV` > 0 is the smallest half-width in raw units, half a unit of the text's last decimal: even if all samples are
    the same number, they stand for an interval. Raises JaxlvError if there are too few series for every level.
    """
    count = len(truth_NHV)
    found = {}
    for level in levels_within(levels, count):
        middle_NHV, below_NHV, above_NHV = _halves(samples_NSHV, level / 100, least_NV)
        error_NHV = truth_NHV - middle_NHV
        needed_NHV = np.maximum(error_NHV / above_NHV, -error_NHV / below_NHV)
        found[level] = np.sort(needed_NHV, axis=0)[_rank(level, count) - 1]
    if not found:
        raise JaxlvError(
            "too few series to adjust a band", expected=f"at least {needed(min(levels))} for {min(levels)} %", found=count
        )
    return Bands(found, count)


def needed(level: int) -> int:
    """Returns the smallest number of calibration series that can guarantee a level (in percent)."""
    return next(count for count in range(1, 101) if _rank(level, count) <= count)


def _rank(level: int, series: int) -> int:
    """Returns ceil((n + 1) level), computed in whole numbers."""
    if not 0 < level < 100:
        raise JaxlvError("wrong level", expected="1 to 99 %", found=level)
    return -(-(series + 1) * level // 100)


class _Halves(NamedTuple):
    """The median of each step, and its distance to either end of an interval."""

    middle_NHV: np.ndarray
    below_NHV: np.ndarray
    above_NHV: np.ndarray


def _halves(samples_NSHV: np.ndarray, level: float, least_NV: np.ndarray) -> _Halves:
    """Returns the halves of the central interval, each at least `least_NV` wide."""
    low_NHV, high_NHV = metrics.central_interval(samples_NSHV, level)
    middle_NHV = metrics.quantiles(samples_NSHV, [0.5])[0]
    least_N1V = np.asarray(least_NV)[:, None]
    return _Halves(middle_NHV, np.maximum(middle_NHV - low_NHV, least_N1V), np.maximum(high_NHV - middle_NHV, least_N1V))
