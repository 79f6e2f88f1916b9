"""Forecasts that any model must beat: from a context (N, C, V) and a horizon H to (N, H, V), in raw units.

Axes: N series, C context steps, H steps ahead, V variables, L candidate lags, F features of the regression.

With these definitions the figures quoted for the course's data (50 steps from 50, the 150 test series of the
report xu) come out to within 2 %; `tests/test_baselines.py` holds them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxlv.errors import JaxlvError

Baseline = Callable[[np.ndarray, int], np.ndarray]


def last_value(context_NCV: np.ndarray, horizon: int) -> np.ndarray:
    """The last value of the context, at every step."""
    context_NCV = _checked(context_NCV, horizon)
    return np.repeat(context_NCV[:, -1:], horizon, axis=1)


def context_mean(context_NCV: np.ndarray, horizon: int) -> np.ndarray:
    """The mean of the context, at every step."""
    context_NCV = _checked(context_NCV, horizon)
    return np.repeat(context_NCV.mean(axis=1, keepdims=True), horizon, axis=1)


def seasonal_naive(context_NCV: np.ndarray, horizon: int, shortest_lag: int = 5) -> np.ndarray:
    """The last cycle of the context, repeated; a cycle is the lag at which the context resembles itself best.

    A series' lag, one for all its variables, has the least mean squared difference between the context and
    its lagged self, each variable standardised within the context. Lags run from `shortest_lag`, below which
    smoothness alone looks like a cycle, to two thirds of the context, so that at least a third of it is
    compared; contexts of fewer than eight steps have their longest lag only. The forecast is
    x[C - lag + (step mod lag)].
    """
    context_NCV = _checked(context_NCV, horizon)
    steps = context_NCV.shape[1]
    scale_N1V = context_NCV.std(axis=1, keepdims=True)
    standard_NCV = context_NCV / np.where(scale_N1V > 0, scale_N1V, 1)
    longest_lag = max(1, 2 * steps // 3)
    lags_L = np.arange(min(shortest_lag, longest_lag), longest_lag + 1)
    cost_LN = [((standard_NCV[:, lag:] - standard_NCV[:, :-lag]) ** 2).mean(axis=(1, 2)) for lag in lags_L]
    lag_N1 = lags_L[np.argmin(cost_LN, axis=0)][:, None]
    index_NH = steps - lag_N1 + np.arange(horizon) % lag_N1
    return np.take_along_axis(context_NCV, index_NH[..., None], axis=1)


def var_on_logs(context_NCV: np.ndarray, horizon: int, order: int = 3, ridge: float = 1e-3) -> np.ndarray:
    """A vector autoregression on the logarithms, fitted to each context by ridge regression, then iterated.

    With z the logarithms minus their mean over the context: z[t] = sum_k A_k z[t - k], k = 1..order, with no
    intercept; the A_k minimise the squared residuals plus `ridge` times the sum of their squares (Lütkepohl
    2005, New Introduction to Multiple Time Series Analysis, ch. 3).

    A fitted system may be unstable: each forecast logarithm is held within the context's range widened by
    that range on either side, before the next step is taken. Zeros have no logarithm: values are first raised
    to 1e-6 of the variable's mean in the context. JaxlvError for negative values, or a context of no more
    than `order` steps.
    """
    context_NCV = _checked(context_NCV, horizon)
    steps = context_NCV.shape[1]
    if steps <= order:
        raise JaxlvError(f"context too short for VAR({order})", expected=f"more than {order} steps", found=steps)
    if (context_NCV < 0).any():
        raise JaxlvError("VAR on logs needs values of at least 0", found=f"{context_NCV.min():g}")
    floor_N1V = np.maximum(1e-6 * context_NCV.mean(axis=1, keepdims=True), np.finfo(float).tiny)
    logs_NCV = np.log(np.maximum(context_NCV, floor_N1V))
    mean_N1V = logs_NCV.mean(axis=1, keepdims=True)
    centred_NCV = logs_NCV - mean_N1V

    lagged_NCF = np.concatenate([centred_NCV[:, order - k : steps - k] for k in range(1, order + 1)], axis=2)
    gram_NFF = lagged_NCF.mT @ lagged_NCF + ridge * np.eye(lagged_NCF.shape[2])
    weights_NFV = np.linalg.solve(gram_NFF, lagged_NCF.mT @ centred_NCV[:, order:])

    low_NV, high_NV = centred_NCV.min(axis=1), centred_NCV.max(axis=1)
    width_NV = high_NV - low_NV
    path_NTV = np.concatenate([centred_NCV[:, -order:], np.empty((len(logs_NCV), horizon, logs_NCV.shape[2]))], axis=1)
    for step in range(order, order + horizon):
        recent_NF = path_NTV[:, step - order : step][:, ::-1].reshape(len(path_NTV), -1)
        next_NV = np.einsum("NF,NFV->NV", recent_NF, weights_NFV)
        path_NTV[:, step] = np.clip(next_NV, low_NV - width_NV, high_NV + width_NV)
    return np.exp(path_NTV[:, order:] + mean_N1V)


BASELINES: dict[str, Baseline] = {
    "last value": last_value,
    "context mean": context_mean,
    "seasonal naive": seasonal_naive,
    "VAR(3) on logs": var_on_logs,
}


def _checked(context_NCV: np.ndarray, horizon: int) -> np.ndarray:
    context_NCV = np.asarray(context_NCV, dtype=np.float64)
    if context_NCV.ndim != 3 or context_NCV.shape[1] < 2 or horizon < 1:
        raise JaxlvError(
            "cannot forecast",
            expected="a context (series, two or more steps, variables) and a horizon of at least 1",
            found=f"shape {context_NCV.shape}, horizon {horizon}",
        )
    if not np.isfinite(context_NCV).all():
        raise JaxlvError("context is not finite", found=f"{(~np.isfinite(context_NCV)).sum()} NaN or infinite values")
    return context_NCV
