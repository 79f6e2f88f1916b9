"""Forecasts that any model must beat. Each takes a context (N, C, V) and a horizon H, and returns (N, H, V) in raw units.

Axes: N series, C context steps, H steps ahead, V variables, L candidate lags, F features of the regression.

With these definitions the figures that were quoted for the course's data (50 steps from 50, the 150 test series of the
paper xu) are reproduced to within 2 %; `tests/test_baselines.py` checks them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from jaxlv.activity import doing
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.forecasting import odefit

Baseline = Callable[[np.ndarray, int], np.ndarray]
ORACLE = " (oracle)"  # added to the name of the equations that made the data


def last_value(context_NCV: np.ndarray, horizon: int) -> np.ndarray:
    """Repeats the last value of the context at every step."""
    context_NCV = _checked(context_NCV, horizon)
    return np.repeat(context_NCV[:, -1:], horizon, axis=1)


def context_mean(context_NCV: np.ndarray, horizon: int) -> np.ndarray:
    """Repeats the mean of the context at every step."""
    context_NCV = _checked(context_NCV, horizon)
    return np.repeat(context_NCV.mean(axis=1, keepdims=True), horizon, axis=1)


def seasonal_naive(context_NCV: np.ndarray, horizon: int, shortest_lag: int = 5) -> np.ndarray:
    """Repeats the last cycle of the context; a cycle is the lag at which the context resembles itself best.

    Each series has one lag for all its variables: the one with the least mean squared difference between the context and
    its lagged self, each variable standardised within the context. Lags shorter than `shortest_lag` are not tried, because
    smoothness alone looks like a cycle there, nor lags above two thirds of the context, so that at least a third is
    compared. Contexts of fewer than eight steps have only their longest lag. The forecast is x[C - lag + (step mod lag)].
    """
    context_NCV = _checked(context_NCV, horizon)
    lag_N1 = _cycle(context_NCV, shortest_lag)[:, None]
    index_NH = context_NCV.shape[1] - lag_N1 + np.arange(horizon) % lag_N1
    return np.take_along_axis(context_NCV, index_NH[..., None], axis=1)


def analog(context_NCV: np.ndarray, horizon: int, window: int = 5) -> np.ndarray:
    """Continues each series as its own past went on when it last looked like this; it searches anew for every step.

    The last `window` steps are compared with every earlier run of the same length in the context that has a successor.
    They are compared as logarithms, each variable divided by its deviation within the context, but not shifted, because
    levels count. The next step is the mean, in logarithms, of the successors of the V + 1 nearest runs, weighted by
    exp(-distance / the nearest distance) (Sugihara and May 1990, Nature 344, 734-741; analogs: Lorenz 1969, J. Atmos. Sci.
    26, 636-646). It is appended, and the search is repeated, so forecasts stay within the context's range. Contexts of fewer
    than ten steps compare half of their steps, and contexts with fewer runs than V + 1 use all their runs. The window was
    chosen among 1 to 12 on series outside the test set; from 4 on the error hardly depends on it.

    Zeros are raised as in `var_on_logs`. Raises JaxlvError if a value is negative.
    """
    logs_NCV = _logs(_checked(context_NCV, horizon), "analog on logs")
    steps, variables = logs_NCV.shape[1:]
    window = min(window, steps // 2)
    scale_N1V = logs_NCV.std(axis=1, keepdims=True)
    scale_N1V = np.where(scale_N1V > 0, scale_N1V, 1)
    runs_NRVW = np.lib.stride_tricks.sliding_window_view(logs_NCV[:, :-1] / scale_N1V, window, axis=1)
    taken = min(variables + 1, runs_NRVW.shape[1])
    path_NTV = logs_NCV
    for _ in range(horizon):
        recent_NVW = (path_NTV[:, -window:] / scale_N1V).mT
        distance_NR = np.sqrt(((runs_NRVW - recent_NVW[:, None]) ** 2).sum(axis=(2, 3)))
        nearest_NJ = np.argsort(distance_NR, axis=1, kind="stable")[:, :taken]
        distance_NJ = np.take_along_axis(distance_NR, nearest_NJ, axis=1)
        weight_NJ = np.exp(-distance_NJ / np.maximum(distance_NJ[:, :1], 1e-12))
        weight_NJ /= weight_NJ.sum(axis=1, keepdims=True)
        after_NJV = np.take_along_axis(logs_NCV, (nearest_NJ + window)[..., None], axis=1)
        path_NTV = np.concatenate([path_NTV, np.einsum("NJ,NJV->NV", weight_NJ, after_NJV)[:, None]], axis=1)
    return np.exp(path_NTV[:, steps:])


def var_on_logs(context_NCV: np.ndarray, horizon: int, order: int = 3, ridge: float = 1e-3) -> np.ndarray:
    """Fits a vector autoregression to the logarithms of each context by ridge regression, and iterates it.

    With z the logarithms minus their mean over the context: z[t] = sum_k A_k z[t - k], k = 1..order, without an
    intercept; the A_k minimise the squared residuals plus `ridge` times the sum of the squares of their elements (Lütkepohl
    2005, New Introduction to Multiple Time Series Analysis, ch. 3).

    A fitted system may be unstable. Before the next step is taken, each forecast logarithm is therefore limited to the
    context's range, widened by that range on either side. Zeros have no logarithm: each is taken as half of the variable's
    least value above zero in the context, as values below a limit of detection are (Hornung and Reed 1990, Appl. Occup.
    Environ. Hyg. 5, 46). A far smaller floor would widen the range, and with it the limits, by orders of magnitude.

    Raises JaxlvError if a value is negative, or if the context has at most `order` steps.
    """
    context_NCV = _checked(context_NCV, horizon)
    steps = context_NCV.shape[1]
    if steps <= order:
        raise JaxlvError(f"context too short for VAR({order})", expected=f"more than {order} steps", found=steps)
    logs_NCV = _logs(context_NCV, "VAR on logs")
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


def auto_ets(context_NCV: np.ndarray, horizon: int) -> np.ndarray:
    """Smooths each variable by itself exponentially; AICc chooses the form (Hyndman and Khandakar 2008).

    This is statsforecast's AutoETS on raw values (on logarithms it was worse, on series outside the test set), with the lag
    of `seasonal_naive` as the length of a season; AICc decides whether there is a season and a trend. A forecast below 0 is
    raised to 0 unless the variable was negative in the context. If AutoETS gives up a variable, as it does if the context
    has four steps, the last value is kept. It takes about a third of a second per series of 50 steps, and needs the extra
    `stats`.
    """
    return _by_statsforecast("AutoETS", context_NCV, horizon)


def auto_arima(context_NCV: np.ndarray, horizon: int) -> np.ndarray:
    """Fits an ARIMA to each variable by itself, its orders chosen by AICc (Hyndman and Khandakar 2008, J. Statistical
    Software 27, 3): statsforecast's AutoARIMA on raw values, as `auto_ets` else. It may take seconds per series.
    """
    return _by_statsforecast("AutoARIMA", context_NCV, horizon)


def theta(context_NCV: np.ndarray, horizon: int) -> np.ndarray:
    """Takes each variable by itself as the mean of a line and an exponentially smoothed curve (Assimakopoulos and
    Nikolopoulos 2000, Int. J. Forecasting 16, 521-530): statsforecast's AutoTheta on raw values, as `auto_ets` else.
    """
    return _by_statsforecast("AutoTheta", context_NCV, horizon)


def _by_statsforecast(name: str, context_NCV: np.ndarray, horizon: int) -> np.ndarray:
    from statsforecast import models

    context_NCV = _checked(context_NCV, horizon)
    forecast_NHV = last_value(context_NCV, horizon)
    for n, lag in enumerate(_cycle(context_NCV).tolist()):
        for v in range(context_NCV.shape[2]):
            values_C = context_NCV[n, :, v]
            try:
                forecast_H = getattr(models, name)(season_length=lag).forecast(y=values_C.copy(), h=horizon)["mean"]
            except Exception:  # it raises plain Exceptions: for few values, and if no form could be fitted
                continue
            if np.isfinite(forecast_H).all():
                forecast_NHV[n, :, v] = np.maximum(forecast_H, 0 if values_C.min() >= 0 else -np.inf)
    return forecast_NHV


def fitted(equations: str) -> Baseline:
    """Returns the baseline that runs `jaxlv.forecasting.odefit.forecast` with the equations of that name."""

    def forecast(context_NCV: np.ndarray, horizon: int) -> np.ndarray:
        return odefit.forecast(odefit.EQUATIONS[equations], _checked(context_NCV, horizon), horizon)

    return forecast


_HAS_STATSFORECAST = importlib.util.find_spec("statsforecast") is not None
_OPTIONAL: dict[str, Baseline] = {"AutoETS": auto_ets} if _HAS_STATSFORECAST else {}
SLOW: dict[str, Baseline] = {"AutoARIMA": auto_arima, "Theta": theta} if _HAS_STATSFORECAST else {}
"""More baselines by their names in tables, for single records; none without statsforecast."""
_FITTED = {
    "Lotka-Volterra, fitted": "lotka-volterra",
    "LV + logistic, fitted": "lotka-volterra-logistic",
    "RM, fitted": "rosenzweig-macarthur",
}
BASELINES: dict[str, Baseline] = {
    "last value": last_value,
    "context mean": context_mean,
    "seasonal naive": seasonal_naive,
    "analog": analog,
    "VAR(3) on logs": var_on_logs,
    **_OPTIONAL,
    **{name: fitted(equations) for name, equations in _FITTED.items()},
}
"""The baselines by their names in tables; figures cut names after 22 characters. AutoETS is included if statsforecast is
installed. Three sets of equations are fitted: Lotka and Volterra's (LV), the same with logistic prey, and Rosenzweig and
MacArthur's (RM)."""


def baselines_for(series: SeriesSet) -> dict[str, Baseline]:
    """Returns the BASELINES that can forecast the series: the fitted equations need two variables.

    If the series' source says that some of these equations made them, the name of that baseline ends with " (oracle)".
    """
    found = {}
    for name, baseline in BASELINES.items():
        equations = _FITTED.get(name)
        if equations is None or len(series.variables) == 2:
            found[name + ORACLE * (equations is not None and equations == series.system)] = baseline
    return found


def in_turn(found: Mapping[str, Baseline]) -> Iterator[tuple[str, Baseline]]:
    """Yields the name and function of each baseline, and tells which one is computed until the next is asked for."""
    for number, (name, baseline) in enumerate(found.items(), 1):
        with doing(f"baselines: {number} of {len(found)}, {name}"):
            yield name, baseline


def _cycle(context_NCV: np.ndarray, shortest_lag: int = 5) -> np.ndarray:
    """Returns the lag (N,) at which each context resembles itself best; see `seasonal_naive`."""
    scale_N1V = context_NCV.std(axis=1, keepdims=True)
    standard_NCV = context_NCV / np.where(scale_N1V > 0, scale_N1V, 1)
    longest_lag = max(1, 2 * context_NCV.shape[1] // 3)
    lags_L = np.arange(min(shortest_lag, longest_lag), longest_lag + 1)
    cost_LN = [((standard_NCV[:, lag:] - standard_NCV[:, :-lag]) ** 2).mean(axis=(1, 2)) for lag in lags_L]
    return lags_L[np.argmin(cost_LN, axis=0)]


def _logs(context_NCV: np.ndarray, what: str) -> np.ndarray:
    if (context_NCV < 0).any():
        raise JaxlvError(f"{what} needs values of at least 0", found=f"{context_NCV.min():g}")
    least_N1V = np.where(context_NCV > 0, context_NCV, np.inf).min(axis=1, keepdims=True)
    floor_N1V = np.where(np.isfinite(least_N1V), least_N1V / 2, np.finfo(float).tiny)  # of zeros alone nothing is known
    return np.log(np.where(context_NCV > 0, context_NCV, floor_N1V))


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
