"""Forecasts against the truth: one row of measures per method, on the same series, in the same units.

Axes: N series, S samples, C context steps, H steps ahead, V variables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxlv import metrics
from jaxlv.baselines import baselines_for
from jaxlv.config import EvaluateConfig, config_tree
from jaxlv.errors import JaxlvError
from jaxlv.forecast import Forecast, Forecaster
from jaxlv.series import SeriesSet

LEVELS = (50, 80, 95)
FIRST = 5
UNITS = {
    "mae": "raw units",
    "mse": "raw units²",
    "rmse": "raw units",
    "mae_first_5": "raw units",
    "crps": "raw units",
    "mase": "1",
    "r2": "1",
    "coverage": "share of steps",
    "valid_share": "share of samples",
}
DEFINITIONS = {
    "point forecast": "median of the samples at each step",
    "mae, mse, crps": "mean over steps and variables of a series, then mean (or median) over series",
    "mae_ci95": "percentile bootstrap of the mean over series",
    "r2": "1 - sum of squared errors / sum of squared deviations from each series' own mean, over all series; "
    "mean over variables",
    "mase": "MAE / mean |first difference| of the context, per series and variable; mean over both",
    "fitted": "equations fitted to each context and solved beyond it: Lotka-Volterra (LV), the same with logistic prey, "
    "Rosenzweig-MacArthur (RM); an oracle where these made the data, as they made the course's",
    "invalid samples": "stay at their last complete step",
    "coverage": "share of steps inside the central interval of the samples; S samples can cover at most (S - 1) / (S + 1)",
}


def truth_of(series: SeriesSet, context: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """(context_NCV, truth_NHV); JaxlvError where the series are shorter than context + horizon."""
    T = series.values_NTV.shape[1]
    if context + horizon > T:
        raise JaxlvError(
            "context and horizon are longer than the series",
            where=series.source.get("path", "series"),
            expected=f"at most {T} steps",
            found=f"{context} + {horizon}",
        )
    return series.values_NTV[:, :context], series.values_NTV[:, context : context + horizon]


def evaluate(
    forecasters: Mapping[str, Forecaster],
    series: SeriesSet,
    config: EvaluateConfig,
    *,
    on_batch: Callable[[str, int], None] = lambda name, done: None,
) -> tuple[dict[str, Any], dict[str, Forecast]]:
    """(metrics, forecasts): a row for each forecaster and each baseline, and the forecasters' trajectories.

    `metrics` is {"protocol": {...}, "rows": [...]}, plain numbers as json holds them. `on_batch(name, series done)`.
    """
    context_NCV, truth_NHV = truth_of(series, config.context, config.horizon)
    forecasts, rows = {}, []
    for name, forecaster in forecasters.items():

        def draw(forecaster: Forecaster, samples: int, label: str) -> Forecast:
            return forecaster(
                series,
                config.context,
                config.horizon,
                samples,
                config.seed,
                config.batch_series,
                lambda done: on_batch(label, done),
            )

        forecast = forecasts[name] = draw(forecaster, config.samples, name)
        row = score(name, forecast.median(), truth_NHV, context_NCV, series, forecast.filled())
        masked = forecaster.sampling.grammar
        row["valid_share"] = forecast.valid_share if masked else None
        row["valid_share_unmasked"] = None if masked else forecast.valid_share
        if masked and config.unmasked_samples:
            free = draw(forecaster.with_sampling(grammar=False), config.unmasked_samples, f"{name}, unmasked")
            row["valid_share_unmasked"] = free.valid_share
            row["stops_unmasked"] = free.stops
        rows.append(row)
    for name, baseline in baselines_for(len(series.variables)).items():
        rows.append(score(name, baseline(context_NCV, config.horizon), truth_NHV, context_NCV, series))
    first = next(iter(forecasters.values()), None)
    return {"protocol": protocol(series, config, first), "rows": rows}, forecasts


def score(
    name: str,
    point_NHV: np.ndarray,
    truth_NHV: np.ndarray,
    context_NCV: np.ndarray,
    series: SeriesSet,
    samples_NSHV: np.ndarray | None = None,
) -> dict[str, Any]:
    """One row: the measures of a point forecast, and of its samples where there are any (see UNITS and DEFINITIONS)."""
    mae_NV, mse_NV = metrics.mae(point_NHV, truth_NHV), metrics.mse(point_NHV, truth_NHV)
    mase_NV = metrics.mase(point_NHV, truth_NHV, context_NCV)
    r2_V = _pooled_r2(point_NHV, truth_NHV)
    mae_N = mae_NV.mean(axis=1)
    crps_NV = None if samples_NSHV is None else metrics.crps(samples_NSHV, truth_NHV)
    row: dict[str, Any] = {
        "name": name,
        "mae": mae_N.mean(),
        "mae_median": np.median(mae_N),
        "mae_ci95": list(metrics.bootstrap_interval(mae_N)),
        "mse": mse_NV.mean(),
        "rmse": np.sqrt(mse_NV.mean()),
        "mae_first_5": metrics.mae(point_NHV[:, :FIRST], truth_NHV[:, :FIRST]).mean(),
        "r2": r2_V.mean(),
        "mase": _mean(mase_NV),
        "crps": None if crps_NV is None else crps_NV.mean(),
        "crps_ci95": None if crps_NV is None else list(metrics.bootstrap_interval(crps_NV.mean(axis=1))),
        "coverage": None,
        "valid_share": None,
        "valid_share_unmasked": None,
    }
    if samples_NSHV is not None:
        shares = {level: metrics.coverage(samples_NSHV, truth_NHV, level / 100) for level in LEVELS}
        row["coverage"] = {str(level): share_NV.mean() for level, share_NV in shares.items()}
    row["per_variable"] = {
        variable: {
            "mae": mae_NV[:, v].mean(),
            "mae_median": np.median(mae_NV[:, v]),
            "mae_ci95": list(metrics.bootstrap_interval(mae_NV[:, v])),
            "mse": mse_NV[:, v].mean(),
            "r2": r2_V[v],
            "mase": _mean(mase_NV[:, v]),
        }
        for v, variable in enumerate(series.variables)
    }
    row["mae_by_step"] = metrics.mae_by_step(point_NHV, truth_NHV).mean(axis=1)
    row["mae_by_step_per_variable"] = {
        variable: metrics.mae_by_step(point_NHV, truth_NHV)[:, v] for v, variable in enumerate(series.variables)
    }
    row["mae_by_series"] = {str(i): value for i, value in zip(series.ids_N, mae_N, strict=True)}
    return plain(row)


def _mean(values: np.ndarray) -> float:
    """The mean of the values that are not NaN; NaN where none is left."""
    held = values[~np.isnan(values)]
    return float(held.mean()) if held.size else float("nan")


def _pooled_r2(point_NHV: np.ndarray, truth_NHV: np.ndarray) -> np.ndarray:
    """R² over all series, each with its own mean: (V,). A series at rest adds errors but explains nothing by itself."""
    error_V = ((point_NHV - truth_NHV) ** 2).sum(axis=(0, 1))
    spread_V = ((truth_NHV - truth_NHV.mean(axis=1, keepdims=True)) ** 2).sum(axis=(0, 1))
    return 1 - error_V / np.where(spread_V > 0, spread_V, np.nan)


def protocol(series: SeriesSet, config: EvaluateConfig, forecaster: Forecaster | None) -> dict[str, Any]:
    """Every setting that the figures depend on, with units and definitions."""
    settings: dict[str, Any] = {
        "data": Path(series.source["path"]).name if "path" in series.source else "simulated series",
        "data_sha256": series.source.get("sha256"),
        "series": series.ids_N.tolist(),
        "variables": list(series.variables),
        "context": config.context,
        "horizon": config.horizon,
        "samples": config.samples,
        "unmasked_samples": config.unmasked_samples,
        "seed": config.seed,
    }
    if forecaster is not None:
        codec = forecaster.codec
        settings |= {
            "scale": codec.scale,
            "scale_peeks_at_future": bool(codec.rule.peeks_at),
            "scale_peeks_at": codec.rule.peeks_at or None,
            "headroom": codec.headroom if codec.scale == "context" else None,
            "decimals": codec.decimals,
            "sampling": config_tree(forecaster.sampling),
        }
    return plain({**settings, "units": UNITS, "definitions": DEFINITIONS})


def plain(value: Any) -> Any:
    """`value` in the types that json holds: numpy scalars and arrays converted, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
