"""Forecasts against the truth: one row of measures per method, on the same series, in the same units.

Axes: N series, S samples, C context steps, H steps ahead, V variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxlv.config import EvaluateConfig, config_tree
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError, briefly, warn
from jaxlv.flops.ledger import BudgetExceeded
from jaxlv.forecasting import metrics
from jaxlv.forecasting.baselines import baselines_for, in_turn
from jaxlv.forecasting.conformal import Bands, fit_bands
from jaxlv.forecasting.forecast import Forecast
from jaxlv.forecasting.likelihood import nats_per_value
from jaxlv.forecasting.origins import by_length
from jaxlv.forecasting.pool import pool_of
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.sampler import Sampler
from jaxlv.results.record import Interval
from jaxlv.results.record import plain as plain
from jaxlv.results.scores import DEFINITIONS, POOL, UNITS, Errors, Evaluation, Protocol, Score

LEVELS = (50, 80, 95)
CALIBRATION_LEVELS = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95)
TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
FIRST = 5


def truth_of(series: SeriesSet, context: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (context_NCV, truth_NHV). Raises JaxlvError if the series are shorter than context + horizon."""
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
    forecasters: Mapping[str, Sampler],
    series: SeriesSet,
    config: EvaluateConfig,
    *,
    bands: Mapping[str, Bands] | None = None,
    pooled: bool = False,
    on_batch: Callable[[str, int], None] = lambda name, done: None,
) -> tuple[Evaluation, dict[str, Forecast]]:
    """Returns (scores, forecasts): a row for each forecaster and each baseline, and the forecasters' trajectories.

    If `pooled`, a row is the pool of the first forecaster and some baselines (see jaxlv.forecasting.pool). If `bands` has a
    forecaster's name, its row also has the measures of the adjusted intervals. If a budget is enough for the samples but not
    for the likelihood, the likelihood is left out. Calls `on_batch(name, series done)`.
    """
    context_NCV, truth_NHV = truth_of(series, config.context, config.horizon)
    check_fits(forecasters.values(), series, config)
    forecasts: dict[str, Forecast] = {}
    rows: list[Score] = []
    for name, forecaster in forecasters.items():

        def draw(forecaster: Sampler, samples: int, label: str) -> Forecast:
            request = Request.of(config, samples=samples)
            return forecaster(series, request, on_batch=lambda done: on_batch(label, done))

        forecast = forecasts[name] = draw(forecaster, config.samples, name)
        half_NV = half_unit(forecaster, series, config.context)
        row = replace(
            score(name, forecast.median(), truth_NHV, context_NCV, series, forecast.filled()),
            temperature=forecaster.sampling.temperature,
            calibration_as_intervals=as_intervals(forecast.filled(), truth_NHV, half_NV, config.seed),
        )
        if bands and name in bands:
            row = replace(row, **conformal_measures(bands[name], forecast.filled(), truth_NHV, half_NV))
        masked = forecaster.sampling.grammar
        share = forecast.valid_share
        row = replace(row, valid_share=share) if masked else replace(row, valid_share_unmasked=share)
        if masked and config.unmasked_samples:
            free = draw(forecaster.with_sampling(grammar=False), config.unmasked_samples, f"{name}, unmasked")
            row = replace(row, valid_share_unmasked=free.valid_share, stops_unmasked=free.stops)
        rows.append(row)
    for place, forecaster in enumerate(forecasters.values()):
        rows[place] = replace(rows[place], **likelihood_measures(forecaster, series, config))
    if pooled:
        name, forecaster = next(iter(forecasters.items()))
        mixed = pool_of(forecaster, forecasts[name], series, Request.of(config)).samples_NSHV
        rows.append(score(POOL, np.median(mixed, axis=1), truth_NHV, context_NCV, series, mixed))
    for name, baseline in in_turn(baselines_for(series)):
        try:
            point_NHV = by_length(baseline, context_NCV, series.first_N, config.horizon)
        except JaxlvError as fault:
            warn(f"{name} is left out: {briefly(fault)}")
            continue
        rows.append(score(name, point_NHV, truth_NHV, context_NCV, series))
    return Evaluation(protocol(series, config, next(iter(forecasters.values()), None)), tuple(rows)), forecasts


def check_fits(forecasters: Iterable[Sampler], series: SeriesSet, config: EvaluateConfig) -> None:
    """Raises JaxlvError if an evaluation's samples, with and without the grammar, do not fit in the memory."""
    for forecaster in forecasters:
        forecaster.check_fits(series, Request.of(config))
        if forecaster.sampling.grammar and config.unmasked_samples:
            free = forecaster.with_sampling(grammar=False)
            free.check_fits(series, Request.of(config, samples=config.unmasked_samples))


def choose_temperature(
    forecaster: Sampler,
    validation: SeriesSet,
    config: EvaluateConfig,
    temperatures: Sequence[float] = TEMPERATURES,
    on_temperature: Callable[[int], None] = lambda done: None,
) -> tuple[float, dict[str, float]]:
    """Returns (temperature, mean CRPS of each): the temperature with the least CRPS on validation series, the lowest if
    several are equal.

    Forecasts are drawn under `config`, with the same random keys at each temperature. Calls `on_temperature(how many are
    done)`.
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
    forecaster: Sampler,
    validation: SeriesSet,
    config: EvaluateConfig,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Bands:
    """Fits the conformal bands of a forecaster's samples on validation series (see jaxlv.forecasting.conformal)."""
    _, truth_NHV = truth_of(validation, config.context, config.horizon)
    drawn = forecaster(validation, Request.of(config), on_batch=on_batch)
    return fit_bands(drawn.filled(), truth_NHV, LEVELS, half_unit(forecaster, validation, config.context))


def half_unit(forecaster: Sampler, series: SeriesSet, context: int) -> np.ndarray:
    """Returns half a unit of the text's last decimal, in raw units: (N, V)."""
    return forecaster.scales(series, context) * 10.0**-forecaster.codec.decimals / 2


def likelihood_measures(forecaster: Sampler, series: SeriesSet, config: EvaluateConfig) -> dict[str, Any]:
    """Returns what the truth costs the model (see jaxlv.forecasting.likelihood); {} if its budget is too small."""
    try:
        nats_NHV = nats_per_value(forecaster, series, config.context, config.horizon, config.read_together)
    except BudgetExceeded:
        return {}
    nats_NV = nats_NHV.mean(axis=1)
    return {
        "nats_per_value": nats_NV.mean(),
        "nats_per_value_ci95": _interval(nats_NV.mean(axis=1)) if np.isfinite(nats_NV).all() else None,
        "nats_per_value_per_variable": dict(zip(series.variables, nats_NV.mean(axis=0), strict=True)),
    }


def as_intervals(samples_NSHV: np.ndarray, truth_NHV: np.ndarray, half_NV: np.ndarray, seed: int) -> dict[str, float]:
    """Returns the calibration of samples redrawn within `half_NV` (raw units) of the value in their text, never below zero.

    If a model is about as certain as the last decimal is fine, many samples are the same number, and their bands miss a
    truth that is written as this very number. Read as intervals, in contrast, the samples are wider than the model means
    them. So a calibrated model covers too little in the first reading and too much in the second. If it covers too little in
    both, or too much in both, the text format is not the cause.
    """
    shift_NSHV = np.random.default_rng(seed).uniform(-1, 1, samples_NSHV.shape) * half_NV[:, None, None]
    drawn_NSHV = np.abs(samples_NSHV + shift_NSHV)
    return {
        str(level): metrics.coverage(drawn_NSHV, truth_NHV, level / 100).mean() for level in _levels_within(samples_NSHV)
    }


def conformal_measures(
    bands: Bands, samples_NSHV: np.ndarray, truth_NHV: np.ndarray, least_NV: np.ndarray
) -> dict[str, Any]:
    """Returns coverage and width of the adjusted intervals; None for a level that had too few calibration series."""
    coverage: dict[str, Any] = {str(level): None for level in LEVELS}
    width = dict(coverage)
    for level in bands.factors:
        low_NHV, high_NHV = bands.interval(samples_NSHV, level, least_NV)
        coverage[str(level)] = metrics.covered(low_NHV, high_NHV, truth_NHV).mean()
        width[str(level)] = (high_NHV - low_NHV).mean()
    return {"coverage_conformal": coverage, "interval_width_conformal": width}


def score(
    name: str,
    point_NHV: np.ndarray,
    truth_NHV: np.ndarray,
    context_NCV: np.ndarray,
    series: SeriesSet,
    samples_NSHV: np.ndarray | None = None,
) -> Score:
    """Returns the measures of a point forecast, and of its samples if there are any."""
    mae_NV, mse_NV = metrics.mae(point_NHV, truth_NHV), metrics.mse(point_NHV, truth_NHV)
    mase_NV = metrics.mase(point_NHV, truth_NHV, context_NCV)
    r2_V = _pooled_r2(point_NHV, truth_NHV)
    step_HV, variables = metrics.mae_by_step(point_NHV, truth_NHV), list(enumerate(series.variables))
    mae_N = mae_NV.mean(axis=1)
    measured = {} if samples_NSHV is None else _sample_measures(samples_NSHV, truth_NHV)
    return Score(
        name=name,
        mae=mae_N.mean(),
        mae_median=np.median(mae_N),
        mae_ci95=_interval(mae_N),
        mse=mse_NV.mean(),
        rmse=np.sqrt(mse_NV.mean()),
        mae_first_5=metrics.mae(point_NHV[:, :FIRST], truth_NHV[:, :FIRST]).mean(),
        r2=r2_V.mean(),
        mase=_mean(mase_NV),
        per_variable={
            variable: Errors(
                mae=mae_NV[:, v].mean(),
                mae_median=np.median(mae_NV[:, v]),
                mae_ci95=_interval(mae_NV[:, v]),
                mse=mse_NV[:, v].mean(),
                r2=r2_V[v],
                mase=_mean(mase_NV[:, v]),
            )
            for v, variable in variables
        },
        mae_by_step=step_HV.mean(axis=1),
        mae_by_step_per_variable={variable: tuple(step_HV[:, v]) for v, variable in variables},
        mae_by_series=dict(zip(series.ids_N, mae_N, strict=True)),
        **measured,
    )


def _interval(values_N: np.ndarray) -> Interval | None:
    """Returns the bootstrap interval of a mean over series; None for one series, which says nothing about others."""
    return metrics.bootstrap_interval(values_N) if len(values_N) > 1 else None


def _sample_measures(samples_NSHV: np.ndarray, truth_NHV: np.ndarray) -> dict[str, Any]:
    """Returns the fields of a `Score` that samples without NaN have: scores, coverage, calibration and sharpness."""
    crps_NV, energy_N = metrics.crps(samples_NSHV, truth_NHV), metrics.energy_score(samples_NSHV, truth_NHV)
    within = _levels_within(samples_NSHV)
    shares = {level: metrics.coverage(samples_NSHV, truth_NHV, level / 100) for level in {*LEVELS, *within}}
    return {
        "crps": crps_NV.mean(),
        "crps_ci95": _interval(crps_NV.mean(axis=1)),
        "coverage": {level: shares[level].mean() for level in LEVELS},
        "energy_score": energy_N.mean(),
        "energy_score_ci95": _interval(energy_N),
        "interval_width": {level: metrics.sharpness(samples_NSHV, level / 100).mean() for level in LEVELS},
        "calibration": {level: shares[level].mean() for level in within},
        "calibration_ci95": {level: _interval(shares[level].mean(axis=1)) for level in within},
        "calibration_ceiling": metrics.reach(samples_NSHV.shape[1]),
    }


def _levels_within(samples_NSHV: np.ndarray) -> list[int]:
    """Returns the calibration levels (in percent) that so many samples can cover."""
    return [level for level in CALIBRATION_LEVELS if level / 100 <= metrics.reach(samples_NSHV.shape[1])]


def _mean(values: np.ndarray) -> float:
    """Returns the mean of the values that are not NaN; NaN if all are."""
    held = values[~np.isnan(values)]
    return float(held.mean()) if held.size else float("nan")


def _pooled_r2(point_NHV: np.ndarray, truth_NHV: np.ndarray) -> np.ndarray:
    """Returns R² over all series, each with its own mean: (V,). A series at rest adds errors, but hardly any variance."""
    error_V = ((point_NHV - truth_NHV) ** 2).sum(axis=(0, 1))
    spread_V = ((truth_NHV - truth_NHV.mean(axis=1, keepdims=True)) ** 2).sum(axis=(0, 1))
    return 1 - error_V / np.where(spread_V > 0, spread_V, np.nan)


def protocol(series: SeriesSet, config: EvaluateConfig, forecaster: Sampler | None) -> Protocol:
    """Returns every setting that the figures depend on, with units and definitions."""
    found = Protocol(
        data=Path(series.source["path"]).name if "path" in series.source else "simulated series",
        data_sha256=series.source.get("sha256"),
        series=tuple(series.ids_N.tolist()),
        variables=series.variables,
        context=config.context,
        horizon=config.horizon,
        samples=config.samples,
        unmasked_samples=config.unmasked_samples,
        seed=config.seed,
        units=UNITS,
        definitions=DEFINITIONS,
    )
    if forecaster is None:
        return found
    codec, own = forecaster.codec, forecaster.codec.scale == "context"
    return replace(
        found,
        scale=codec.scale,
        scale_peeks_at_future=bool(codec.rule.peeks_at),
        scale_peeks_at=codec.rule.peeks_at or None,
        headroom=codec.headroom if own else None,
        headrooms=tuple(one.headroom for one in codec.variants) if own else None,
        decimals=codec.decimals,
        sampling=config_tree(forecaster.sampling),
    )
