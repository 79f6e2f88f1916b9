"""Bands that hold their share: central intervals widened by split-conformal factors, found on series kept for that.

For each level, step ahead and variable, the two halves of the central interval, median to either end, are stretched by one
factor. With n calibration series it is the k-th smallest, k = ceil((n + 1) level), of the factors by which each of them
would just have reached its truth: the median version of conformalised quantile regression (Romano, Patterson and Candes
2019, "Conformalized quantile regression"; Kivaranovic, Johnson and Leeb 2020, "Adaptive, distribution-free prediction
intervals for deep networks"). A new series drawn like them is then inside with a probability of at least the level, step
by step, whatever the samples are worth; it says nothing of one series alone, nor of all the steps together. A factor below
1 narrows a band that was too wide.

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
    """Factors per level (in percent), each (H, V), from `series` calibration series."""

    factors: Mapping[int, np.ndarray]
    series: int

    def interval(self, samples_NSHV: np.ndarray, level: int, least_NV: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) of a level in percent, each (N, H, V); populations are not negative, and neither is `low`."""
        middle_NHV, below_NHV, above_NHV = _halves(samples_NSHV, level / 100, least_NV)
        factor_HV = self.factors[level]
        return np.maximum(middle_NHV - factor_HV * below_NHV, 0), middle_NHV + factor_HV * above_NHV


def levels_within(levels: Sequence[int], series: int) -> list[int]:
    """The levels (in percent) that so many calibration series can promise: ceil((n + 1) level) <= n."""
    return [level for level in levels if _rank(level, series) <= series]


def fit_bands(samples_NSHV: np.ndarray, truth_NHV: np.ndarray, levels: Sequence[int], least_NV: np.ndarray) -> Bands:
    """The factors of those levels (in percent) that the number of series is enough for.

    `least_NV` > 0 is the least half-width in raw units, half a unit of the text's last decimal: samples that are all the
    same number still stand for an interval. JaxlvError where no level is within reach.
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
    """The fewest calibration series that can promise a level (in percent)."""
    return next(count for count in range(1, 101) if _rank(level, count) <= count)


def _rank(level: int, series: int) -> int:
    """ceil((n + 1) level), in whole numbers."""
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
