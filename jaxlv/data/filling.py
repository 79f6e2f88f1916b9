"""What stands in place of missing values: a curve over short gaps of smooth series, else straight lines.

Axes: T steps, V variables.
"""

from __future__ import annotations

import numpy as np

BRIDGED, SMOOTH = 3, 8  # steps in a row that a curve bridges at most, and values through which it is drawn at least
CLEARLY = 0.8  # error of the curve over that of lines, of values left out, below which it is drawn


def interpolated(values_TV: np.ndarray) -> np.ndarray:
    """Returns values without gaps: interpolated between those around a gap, beyond the ends the nearest. Raises ValueError
    if a variable has no value.

    Gaps of at most BRIDGED steps in a row are bridged by a cubic spline, of logarithms if all values are above zero, where
    that tells every third known value from the others clearly better than straight lines do; else by straight lines.
    """
    if not np.isnan(values_TV).any():
        return values_TV
    filled_TV = lined(values_TV)
    for v, values_T in enumerate(values_TV.T):
        known, steps = np.flatnonzero(np.isfinite(values_T)), np.arange(len(values_T))
        short = np.diff(known, prepend=known[0])[np.minimum(np.searchsorted(known, steps), len(known) - 1)] <= BRIDGED + 1
        bridged = steps[np.isnan(values_T) & short & (known[0] < steps) & (steps < known[-1])]
        if len(bridged) and _is_smooth(known, values_T[known]):
            filled_TV[bridged, v] = _curve(known, values_T[known], bridged)
    return filled_TV


def lined(values_TV: np.ndarray) -> np.ndarray:
    """Returns values with straight lines over all gaps, beyond the ends the nearest. Raises ValueError as above."""
    filled_TV = values_TV.copy()
    for v, values_T in enumerate(values_TV.T):
        known = np.flatnonzero(np.isfinite(values_T))
        if not len(known):
            raise ValueError("a variable without any value")
        filled_TV[:, v] = np.interp(np.arange(len(values_T)), known, values_T[known])
    return filled_TV


def _is_smooth(known: np.ndarray, values: np.ndarray) -> bool:
    """Tells whether a curve tells values that are left out, every third in turn, clearly better than straight lines."""
    if len(known) < SMOOTH:
        return False
    curve, line = [], []
    for turn in range(1, 4):
        out = np.arange(turn, len(known) - 1, 3)
        rest = np.setdiff1d(np.arange(len(known)), out)
        curve.append(np.abs(_curve(known[rest], values[rest], known[out]) - values[out]))
        line.append(np.abs(np.interp(known[out], known[rest], values[rest]) - values[out]))
    return float(np.concatenate(curve).mean()) < CLEARLY * float(np.concatenate(line).mean())


def _curve(known: np.ndarray, values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Returns a cubic spline through known values, at most half of their range outside of it, and below zero only if one of
    them is.
    """
    from scipy.interpolate import CubicSpline  # here, as few series have gaps and it takes a while to import

    low, high = values.min(), values.max()
    least, most = low - (high - low) / 2, high + (high - low) / 2
    if low > 0:
        return np.exp(np.clip(CubicSpline(known, np.log(values))(steps), np.log(max(least, low / 2)), np.log(most)))
    return np.clip(CubicSpline(known, values)(steps), least if low < 0 else 0, most)
