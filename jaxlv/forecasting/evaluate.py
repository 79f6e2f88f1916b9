"""Forecasts against the truth: one row of measures per method, on the same series, in the same units.

Axes: N series, S samples, C context steps, H steps ahead, V variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlv.config import EvaluateConfig, config_tree
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.flops.ledger import BudgetExceeded
from jaxlv.forecasting import metrics
from jaxlv.forecasting.baselines import baselines_for
from jaxlv.forecasting.conformal import Bands, fit_bands
from jaxlv.forecasting.forecaster import Forecast, Forecaster
from jaxlv.forecasting.likelihood import nats_per_value
from jaxlv.forecasting.request import Request

LEVELS = (50, 80, 95)
CALIBRATION_LEVELS = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95)
TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
FIRST = 5
UNITS = {
    "mae": "raw units",
    "mse": "raw units²",
    "rmse": "raw units",
    "mae_first_5": "raw units",
    "crps": "raw units",
    "energy_score": "raw units",
    "interval_width": "raw units",
    "nats_per_value": "nats, of a density per raw unit",
    "mase": "1",
    "r2": "1",
    "coverage": "share of steps",
    "calibration": "share of steps",
    "temperature": "1",
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
    "Rosenzweig-MacArthur (RM); an oracle if the source of the data says that these made them",
    "invalid samples": "stay at their last complete step",
    "coverage": "share of steps inside the central interval of the samples; S samples can cover at most (S - 1) / (S + 1)",
    "calibration": "coverage at the levels within calibration_ceiling, (S - 1) / (S + 1); calibration_ci95: percentile "
    "bootstrap over series",
    "calibration_as_intervals": "calibration of samples read as what their text stands for, an interval of one unit of the "
    "last decimal: a number drawn from it uniformly in the place of its middle",
    "energy_score": "of the variables together at each step, in raw units, fair; mean over steps, then over series",
    "interval_width": "mean width of the central interval of each level, over steps, variables and series",
    "nats_per_value": "-log of the density of each true value given all before it, at temperature 1, over the 13 symbols: "
    "-log p(its text) + log(scale * 10^-decimals); mean over steps and variables, then over series; may be negative",
    "coverage_conformal, interval_width_conformal": "of the intervals stretched about the median by split-conformal "
    "factors, found on validation series per step and variable",
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
    bands: Mapping[str, Bands] | None = None,
    on_batch: Callable[[str, int], None] = lambda name, done: None,
) -> tuple[dict[str, Any], dict[str, Forecast]]:
    """(metrics, forecasts): a row for each forecaster and each baseline, and the forecasters' trajectories.

    `metrics` is {"protocol": {...}, "rows": [...]}, plain numbers as json holds them. `bands` of a forecaster's name add
    the measures of its adjusted intervals. A budget that holds the samples but not the likelihood leaves that out.
    `on_batch(name, series done)`.
    """
    context_NCV, truth_NHV = truth_of(series, config.context, config.horizon)
    check_fits(forecasters.values(), series, config)
    forecasts: dict[str, Forecast] = {}
    rows: list[dict[str, Any]] = []
    for name, forecaster in forecasters.items():

        def draw(forecaster: Forecaster, samples: int, label: str) -> Forecast:
            request = Request.of(config, samples=samples)
            return forecaster(series, request, on_batch=lambda done: on_batch(label, done))

        forecast = forecasts[name] = draw(forecaster, config.samples, name)
        row = score(name, forecast.median(), truth_NHV, context_NCV, series, forecast.filled())
        row["temperature"] = forecaster.sampling.temperature
        half_NV = half_unit(forecaster, series, config.context)
        row["calibration_as_intervals"] = plain(as_intervals(forecast.filled(), truth_NHV, half_NV, config.seed))
        if bands and name in bands:
            row |= conformal_measures(bands[name], forecast.filled(), truth_NHV, half_NV)
        masked = forecaster.sampling.grammar
        row["valid_share"] = forecast.valid_share if masked else None
        row["valid_share_unmasked"] = None if masked else forecast.valid_share
        if masked and config.unmasked_samples:
            free = draw(forecaster.with_sampling(grammar=False), config.unmasked_samples, f"{name}, unmasked")
            row["valid_share_unmasked"] = free.valid_share
            row["stops_unmasked"] = free.stops
        rows.append(row)
    for row, forecaster in zip(rows, forecasters.values(), strict=True):
        row |= likelihood_measures(forecaster, series, config)
    for name, baseline in baselines_for(series).items():
        rows.append(score(name, baseline(context_NCV, config.horizon), truth_NHV, context_NCV, series))
    first = next(iter(forecasters.values()), None)
    return {"protocol": protocol(series, config, first), "rows": rows}, forecasts


def check_fits(forecasters: Iterable[Forecaster], series: SeriesSet, config: EvaluateConfig) -> None:
    """Raises JaxlvError if an evaluation's samples, with and without the grammar, do not fit in the memory."""
    for forecaster in forecasters:
        forecaster.check_fits(series, Request.of(config))
        if forecaster.sampling.grammar and config.unmasked_samples:
            free = forecaster.with_sampling(grammar=False)
            free.check_fits(series, Request.of(config, samples=config.unmasked_samples))


def choose_temperature(
    forecaster: Forecaster,
    validation: SeriesSet,
    config: EvaluateConfig,
    temperatures: Sequence[float] = TEMPERATURES,
    on_temperature: Callable[[int], None] = lambda done: None,
) -> tuple[float, dict[str, float]]:
    """(temperature, mean CRPS of each): the one of the least CRPS on validation series, the smaller of equals.

    Each is drawn under `config` with the same random keys. `on_temperature(how many are done)`.
    """
    if not temperatures:
        raise JaxlvError("no temperatures to choose from", where="temperatures")
    _, truth_NHV = truth_of(validation, config.context, config.horizon)
    scores: dict[float, float] = {}
    for temperature in sorted(set(temperatures)):
        drawn = forecaster.with_sampling(temperature=temperature)(validation, Request.of(config))
        scores[temperature] = float(metrics.crps(drawn.filled(), truth_NHV).mean())
        on_temperature(len(scores))
    return min(scores, key=lambda t: (scores[t], t)), {f"{t:g}": value for t, value in scores.items()}


def fit_conformal(
    forecaster: Forecaster,
    validation: SeriesSet,
    config: EvaluateConfig,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Bands:
    """The conformal bands of a forecaster's samples, from validation series (see jaxlv.forecasting.conformal)."""
    _, truth_NHV = truth_of(validation, config.context, config.horizon)
    drawn = forecaster(validation, Request.of(config), on_batch=on_batch)
    return fit_bands(drawn.filled(), truth_NHV, LEVELS, half_unit(forecaster, validation, config.context))


def half_unit(forecaster: Forecaster, series: SeriesSet, context: int) -> np.ndarray:
    """Half a unit of the text's last decimal, in raw units: (N, V)."""
    return forecaster.scales(series, context) * 10.0**-forecaster.codec.decimals / 2


def likelihood_measures(forecaster: Forecaster, series: SeriesSet, config: EvaluateConfig) -> dict[str, Any]:
    """What the truth costs the model (see jaxlv.forecasting.likelihood); nothing where its budget does not hold that."""
    try:
        nats_NHV = nats_per_value(forecaster, series, config.context, config.horizon, config.batch_series)
    except BudgetExceeded:
        return {}
    nats_NV = nats_NHV.mean(axis=1)
    finite = np.isfinite(nats_NV).all()
    return plain(
        {
            "nats_per_value": nats_NV.mean(),
            "nats_per_value_ci95": list(metrics.bootstrap_interval(nats_NV.mean(axis=1))) if finite else None,
            "nats_per_value_per_variable": dict(zip(series.variables, nats_NV.mean(axis=0), strict=True)),
        }
    )


def as_intervals(samples_NSHV: np.ndarray, truth_NHV: np.ndarray, half_NV: np.ndarray, seed: int) -> dict[str, float]:
    """Calibration of samples that are drawn anew within `half_NV` (raw units) of their text's value, not below zero.

    Where a model is about as sure as the last decimal is fine, many samples are the same number, and their bands miss a
    truth that is written as that very number. Read as intervals they are wider than the model means them. A calibrated
    model covers too little in the one reading and too much in the other: where both miss on one side, it is not the text.
    """
    shift_NSHV = np.random.default_rng(seed).uniform(-1, 1, samples_NSHV.shape) * half_NV[:, None, None]
    drawn_NSHV = np.abs(samples_NSHV + shift_NSHV)
    return {
        str(level): metrics.coverage(drawn_NSHV, truth_NHV, level / 100).mean() for level in _levels_within(samples_NSHV)
    }


def conformal_measures(
    bands: Bands, samples_NSHV: np.ndarray, truth_NHV: np.ndarray, least_NV: np.ndarray
) -> dict[str, Any]:
    """Coverage and width of the adjusted intervals; None for a level that had too few calibration series."""
    coverage: dict[str, Any] = {str(level): None for level in LEVELS}
    width = dict(coverage)
    for level in bands.factors:
        low_NHV, high_NHV = bands.interval(samples_NSHV, level, least_NV)
        coverage[str(level)] = metrics.covered(low_NHV, high_NHV, truth_NHV).mean()
        width[str(level)] = (high_NHV - low_NHV).mean()
    return plain({"coverage_conformal": coverage, "interval_width_conformal": width})


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
        "energy_score": None,
        "energy_score_ci95": None,
        "interval_width": None,
        "calibration": None,
        "calibration_ci95": None,
        "calibration_ceiling": None,
        "calibration_as_intervals": None,
        "nats_per_value": None,
        "nats_per_value_ci95": None,
        "nats_per_value_per_variable": None,
        "temperature": None,
        "valid_share": None,
        "valid_share_unmasked": None,
    }
    if samples_NSHV is not None:
        row |= _sample_measures(samples_NSHV, truth_NHV)
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


def _sample_measures(samples_NSHV: np.ndarray, truth_NHV: np.ndarray) -> dict[str, Any]:
    """Energy score, coverage, calibration and sharpness of samples without NaN."""
    ceiling = metrics.reach(samples_NSHV.shape[1])
    energy_N = metrics.energy_score(samples_NSHV, truth_NHV)
    within = _levels_within(samples_NSHV)
    shares = {level: metrics.coverage(samples_NSHV, truth_NHV, level / 100) for level in {*LEVELS, *within}}
    return {
        "coverage": {str(level): shares[level].mean() for level in LEVELS},
        "energy_score": energy_N.mean(),
        "energy_score_ci95": list(metrics.bootstrap_interval(energy_N)),
        "interval_width": {str(level): metrics.sharpness(samples_NSHV, level / 100).mean() for level in LEVELS},
        "calibration": {str(level): shares[level].mean() for level in within},
        "calibration_ci95": {str(level): list(metrics.bootstrap_interval(shares[level].mean(axis=1))) for level in within},
        "calibration_ceiling": ceiling,
    }


def _levels_within(samples_NSHV: np.ndarray) -> list[int]:
    """The calibration levels (in percent) that so many samples can cover."""
    return [level for level in CALIBRATION_LEVELS if level / 100 <= metrics.reach(samples_NSHV.shape[1])]


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
            "headrooms": [one.headroom for one in codec.variants] if codec.scale == "context" else None,
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
