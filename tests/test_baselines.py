from __future__ import annotations

import numpy as np
import pytest

from jaxlv.data import loading, splits
from jaxlv.data.series import COURSE_SHA256, from_arrays
from jaxlv.errors import JaxlvError
from jaxlv.forecasting import metrics
from jaxlv.forecasting.baselines import (
    BASELINES,
    analog,
    auto_ets,
    baselines_for,
    context_mean,
    last_value,
    seasonal_naive,
    var_on_logs,
)

# 50 -> 50: MAE, its median over series, MSE, MASE, first-5 MAE; 76 -> 24: MAE, first 5; 80 -> 20: MAE.
QUOTED = {
    "last value": (0.4605, 0.398, 0.670, 3.55, 0.292, 0.422, 0.278, 0.427),
    "context mean": (0.3264, 0.284, 0.316, 2.57, 0.392, 0.313, 0.339, 0.309),
    "seasonal naive": (0.1931, 0.131, 0.175, 1.48, 0.115, 0.110, 0.107, 0.101),
    "VAR(3) on logs": (0.1533, 0.093, 0.225, 1.12, 0.0506, 0.0996, 0.0346, 0.0966),
    # Fits are iterative, and the quoted ones were made by another program.
    "Lotka-Volterra, fitted": (0.2692, 0.204, 0.297, 2.08, 0.165, 0.212, 0.184, 0.206),
    "LV + logistic, fitted": (0.0495, 0.0225, 0.031, 0.301, 0.049, 0.0402, 0.048, 0.0388),
    "RM, fitted": (0.0037, 0.0029, 5.3e-5, 0.036, 0.0018, 0.0031, 0.0025, 0.0030),
}
MEASURED = {  # baselines without quoted figures: as once measured, so that changes are noticed
    "analog": (0.1467, 0.1136, 0.0915, 1.165, 0.0803, 0.0787, 0.0600, 0.0715),
    "AutoETS": (0.3858, 0.2702, 0.629, 3.124, 0.2105, 0.3012, 0.1994, 0.2837),
}


@pytest.fixture(scope="module")
def test_values(shared) -> np.ndarray:
    real = loading.load(shared / "data" / "lotka_volterra_data.h5")
    return real.select(splits.split_fraction(real.ids_N).test).values_NTV


def figures_of(name: str, test_values: np.ndarray) -> list[float]:
    figures: list[float] = []
    for steps in (50, 76, 80):
        context, truth = test_values[:, :steps], test_values[:, steps:]
        forecast = BASELINES[name](context, truth.shape[1])
        mae = metrics.mae(forecast, truth)
        first_5 = metrics.mae(forecast[:, :5], truth[:, :5]).mean()
        if steps == 50:
            mase = metrics.mase(forecast, truth, context).mean()
            figures += [
                mae.mean(),
                np.median(mae.mean(axis=1)),
                metrics.mse(forecast, truth).mean(),
                mase,
                first_5,
            ]
        else:
            figures += [mae.mean(), first_5][: 1 if steps == 80 else 2]
    return figures


@pytest.mark.parametrize("name", QUOTED)
def test_quoted_figures_are_reproduced(name, test_values):
    figures = np.array(figures_of(name, test_values))
    if name == "RM, fitted":  # of errors so small, a better fit has smaller ones
        assert (figures <= 1.1 * np.array(QUOTED[name])).all(), figures
    else:
        np.testing.assert_allclose(figures, QUOTED[name], rtol=0.05 if "fitted" in name else 0.02)


@pytest.mark.parametrize("name", ["analog", pytest.param("AutoETS", marks=pytest.mark.slow)])
def test_measured_figures_stay(name, test_values):
    if name not in BASELINES:
        pytest.skip("AutoETS needs statsforecast: the extra `stats`")
    np.testing.assert_allclose(figures_of(name, test_values), MEASURED[name], rtol=0.02)


@pytest.mark.parametrize("name", BASELINES)
def test_forecasts_depend_on_their_own_series_alone(name):
    context = np.random.default_rng(0).uniform(0.1, 3, (5, 30, 2))
    forecast = BASELINES[name](context, 12)
    assert forecast.shape == (5, 12, 2) and np.isfinite(forecast).all() and (forecast >= 0).all()
    np.testing.assert_allclose(BASELINES[name](context[[3, 1]], 12), forecast[[3, 1]], rtol=1e-9)
    np.testing.assert_allclose(BASELINES[name](context, 5), forecast[:, :5], rtol=1e-12)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("level", [0.0, 2.5])
def test_constant_series_stay_constant(name, level):
    forecast = BASELINES[name](np.full((2, 20, 2), level), 10)
    np.testing.assert_allclose(forecast, level, rtol=1e-9, atol=1e-300)


def test_every_name_stands_for_its_own_baseline():
    expected = {"last value": last_value, "context mean": context_mean, "seasonal naive": seasonal_naive, "analog": analog,
                "VAR(3) on logs": var_on_logs}  # fmt: skip
    assert {name: BASELINES[name] for name in expected} == expected


def test_last_value_and_mean():
    context = np.array([[[1.0, 5.0], [2.0, 7.0], [6.0, 9.0]]])
    np.testing.assert_array_equal(last_value(context, 2), [[[6, 9], [6, 9]]])
    np.testing.assert_array_equal(context_mean(context, 2), [[[3, 7], [3, 7]]])


def test_seasonal_naive_finds_each_series_period():
    t = np.arange(90)
    waves = np.stack([np.stack([2 + np.sin(2 * np.pi * t / p), 3 + np.cos(2 * np.pi * t / p)], 1) for p in (7, 13, 20)])
    np.testing.assert_allclose(seasonal_naive(waves[:, :50], 40), waves[:, 50:], atol=1e-12)


def test_seasonal_naive_by_hand():
    """Twelve steps that repeat after six, in a scale that counts for nothing; the forecast goes round the last six twice."""
    cycle, other = [1.0, 4, 9, 6, 2, 5], [30.0, 10, 20, 50, 40, 60]
    context = np.stack([[*cycle, *cycle], [*other, *other]], axis=1)[None]
    expected = np.stack([[*cycle, *cycle, *cycle[:1]], [*other, *other, *other[:1]]], axis=1)[None]
    np.testing.assert_array_equal(seasonal_naive(context, 13), expected)


def test_the_cycle_is_the_lag_of_least_mean_difference_over_both_variables():
    """Lags of 5 to 10 of 15 steps, tried one by one; each variable counts by its own deviation."""
    context = np.random.default_rng(2).lognormal(size=(40, 15, 2)) * np.array([1.0, 50.0])
    found, chosen = seasonal_naive(context, 23), set()
    for values, forecast in zip(context, found, strict=True):
        unit = values / values.std(axis=0)
        cost = {lag: np.mean([(unit[t] - unit[t - lag]) ** 2 for t in range(lag, 15)]) for lag in range(5, 11)}
        lag = min(cost, key=cost.get)
        np.testing.assert_array_equal(forecast, [values[15 - lag + h % lag] for h in range(23)])
        chosen.add(lag)
    assert chosen == set(range(5, 11))


def test_seasonal_naive_does_not_depend_on_units():
    context = np.random.default_rng(0).uniform(0.1, 3, (4, 40, 2))
    scale = np.array([1000.0, 0.01])
    np.testing.assert_allclose(seasonal_naive(context * scale, 30), seasonal_naive(context, 30) * scale)


def test_analog_repeats_a_cycle_that_it_has_seen():
    t = np.arange(90)
    waves = np.stack([np.stack([2 + np.sin(2 * np.pi * t / p), 3 + np.cos(2 * np.pi * t / p)], 1) for p in (7, 13, 20)])
    np.testing.assert_allclose(analog(waves[:, :50], 40), waves[:, 50:], atol=1e-6)


def test_analog_by_hand():
    """Two runs of one step have a successor, both at the same distance: the forecast is their successors' mean."""
    context = np.exp(np.array([0.0, 2, 1]))[None, :, None]
    np.testing.assert_allclose(np.log(analog(context, 1, window=1)), [[[1.5]]])


def test_analog_weighs_the_nearest_runs_by_their_distance():
    """Runs of two steps, written out: of one variable the two nearest count, by exp(-distance / the nearest distance)."""
    logs = np.array([0.0, 1, 3, 0.2, 1.4, 2.5, 0.1, 1.1])
    unit = logs.std()
    runs = [(np.hypot(logs[i] - logs[6], logs[i + 1] - logs[7]) / unit, logs[i + 2]) for i in range(6)]
    (near, first), (far, second) = sorted(runs)[:2]
    weight = np.exp(-far / near) / (np.exp(-1) + np.exp(-far / near))
    found = np.log(analog(np.exp(logs)[None, :, None], 1, window=2)).item()
    assert found == pytest.approx((1 - weight) * first + weight * second) and 0 < weight < 0.45


def test_analog_of_two_variables_takes_three_runs_of_five_steps():
    context = np.exp(np.random.default_rng(5).normal(size=(1, 14, 2)))
    logs = np.log(context[0])
    scaled = logs / logs.std(axis=0)
    distances = [np.sqrt(((scaled[i : i + 5] - scaled[-5:]) ** 2).sum()) for i in range(9)]
    nearest = np.argsort(distances)[:3]
    weights = np.exp(-np.array(distances)[nearest] / min(distances))
    expected = (weights[:, None] * logs[nearest + 5]).sum(axis=0) / weights.sum()
    np.testing.assert_allclose(np.log(analog(context, 1))[0, 0], expected)


def test_analog_stays_within_the_context_and_ignores_units():
    context = np.random.default_rng(0).uniform(0.1, 3, (4, 40, 2))
    scale, forecast = np.array([1000.0, 0.01]), analog(context, 30)
    assert (forecast <= context.max(axis=1, keepdims=True) * (1 + 1e-12)).all()
    assert (forecast >= context.min(axis=1, keepdims=True) * (1 - 1e-12)).all()
    np.testing.assert_allclose(analog(context * scale, 30), forecast * scale)


def test_other_than_two_variables_have_the_baselines_that_fit_no_equations():
    context = np.random.default_rng(0).uniform(0.1, 3, (2, 20, 3))
    applicable = baselines_for(from_arrays(context, variables=("a", "b", "c")))
    assert [name for name in BASELINES if name not in applicable] == [name for name in BASELINES if "fitted" in name]
    assert all(baseline(context, 4).shape == (2, 4, 3) for baseline in applicable.values())
    assert baselines_for(from_arrays(context[..., :2])) == BASELINES


@pytest.mark.parametrize(
    ("source", "oracle"),
    [
        ({}, None),
        ({"path": "a.h5", "sha256": "0" * 64}, None),
        ({"path": "renamed.h5", "sha256": COURSE_SHA256}, "RM, fitted"),
        ({"simulation": {"system": "rosenzweig-macarthur", "parameters": {}}}, "RM, fitted"),
        ({"simulation": {"system": "lotka-volterra", "parameters": {}}}, "Lotka-Volterra, fitted"),
        ({"simulation": {"system": "lotka-volterra-logistic", "parameters": {}}}, "LV + logistic, fitted"),
        ({"simulation": {"system": "holling-iii", "parameters": {}}}, None),
    ],
)
def test_the_equations_that_made_the_series_are_an_oracle_if_their_source_says_so(source, oracle):
    made = from_arrays(np.random.default_rng(0).uniform(0.1, 3, (2, 20, 2)), source=source)
    named = {name: f"{name} (oracle)" if name == oracle else name for name in BASELINES}
    assert list(baselines_for(made)) == list(named.values())
    assert all(baselines_for(made)[shown] is BASELINES[name] for name, shown in named.items())


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("steps", [4, 5, 9])
def test_short_contexts_have_finite_forecasts(name, steps):
    forecast = BASELINES[name](np.random.default_rng(steps).uniform(0.1, 3, (6, steps, 2)), 40)
    assert forecast.shape == (6, 40, 2) and np.isfinite(forecast).all() and (forecast >= 0).all()


def test_auto_ets_continues_a_season_and_keeps_what_it_gives_up():
    pytest.importorskip("statsforecast", reason="AutoETS needs statsforecast: the extra `stats`")
    t = np.arange(60)
    wave = np.stack([2 + np.sin(2 * np.pi * t / 12), 3 + np.cos(2 * np.pi * t / 12)], axis=1)[None]
    np.testing.assert_allclose(auto_ets(wave[:, :48], 12), wave[:, 48:], atol=0.1)
    np.testing.assert_array_equal(auto_ets(wave[:, :4], 3), last_value(wave[:, :4], 3))


def test_var_continues_what_it_can_represent():
    """Logarithms that turn and shrink about a centre obey a linear recursion of order one."""
    t = np.arange(60)
    logs = np.stack([np.cos(0.5 * t), np.sin(0.5 * t)], axis=1)[None]
    np.testing.assert_allclose(np.log(var_on_logs(np.exp(logs[:, :50]), 10)), logs[:, 50:], atol=0.05)


def test_var_by_hand():
    """Ridge regression on the last three steps, written out for one variable: no intercept, about the mean of the logs."""
    logs = np.array([0.1, 0.7, -0.2, 0.9, 0.3, -0.5, 0.8, 0.2, -0.1, 0.6])
    z = logs - logs.mean()
    past = np.array([[z[t - 1], z[t - 2], z[t - 3]] for t in range(3, 10)])
    weights = np.linalg.solve(past.T @ past + 1e-3 * np.eye(3), past.T @ z[3:])
    path = list(z)
    for _ in range(3):
        step = weights @ np.array(path[:-4:-1])
        path.append(np.clip(step, 2 * z.min() - z.max(), 2 * z.max() - z.min()))
    np.testing.assert_allclose(np.log(var_on_logs(np.exp(logs)[None, :, None], 3))[0, :, 0], logs.mean() + path[10:])
    assert np.abs(path[10:]).max() < max(z.max(), -z.min())  # the bounds play no part


def test_var_is_bounded_where_the_fit_explodes():
    context = np.exp(0.2 * np.arange(12.0))[None, :, None] ** np.array([1.0, 2.0])
    forecast = np.log(var_on_logs(context, 500))
    low, high = np.log(context).min(axis=1), np.log(context).max(axis=1)
    np.testing.assert_allclose(forecast.max(axis=1), 2 * high - low)
    assert (forecast >= 2 * low - high - 1e-9).all()


def test_var_takes_zeros_as_half_of_the_least_value_above():
    context = np.random.default_rng(0).poisson(3, (2, 30, 2)) * np.array([2.0, 5.0])
    context[0, 7, 0] = context[1, 3:9, 1] = 0
    raised = context.copy()
    for n in range(2):
        for v in range(2):
            raised[n, :, v][context[n, :, v] == 0] = (1.0, 2.5)[v]  # the least counts above zero are 2 and 5
    assert context[context > 0].reshape(-1).min() == 2 and (context == 0).any(axis=1).all()
    np.testing.assert_allclose(var_on_logs(context, 9), var_on_logs(raised, 9), rtol=1e-12)
    raised[0, 7, 0] *= 1.5
    assert np.abs(np.log(var_on_logs(context, 9) / var_on_logs(raised, 9))).max() > 1e-3


def test_counts_with_zeros_do_not_explode():
    """A forecast stays in the range of the logarithms, widened by itself: of counts from 1/2 to 40, below 80 times 40."""
    counts = np.random.default_rng(1).poisson(4, (50, 25, 2)).astype(float)
    counts[:, 3, 0] = 40
    forecast = var_on_logs(counts, 200)
    assert np.isfinite(forecast).all() and forecast.max() <= 40 * 80 * (1 + 1e-9)
    assert np.abs(forecast[:, :10].mean() - counts.mean()) < 0.5 * counts.mean()
    assert np.isfinite(var_on_logs(np.zeros((1, 12, 2)), 5)).all()


def test_faults_are_one_line():
    good = np.ones((1, 10, 2))
    cases = {
        "horizon of at least 1": lambda: last_value(good, 0),
        "shape (10, 2)": lambda: context_mean(good[0], 3),
        "1 NaN or infinite": lambda: seasonal_naive(np.where(np.arange(20).reshape(1, 10, 2) == 3, np.nan, good), 3),
        "more than 3 steps": lambda: var_on_logs(good[:, :3], 3),
        "VAR on logs needs values of at least 0": lambda: var_on_logs(-good, 3),
        "analog on logs needs values of at least 0": lambda: analog(-good, 3),
    }
    for part, action in cases.items():
        with pytest.raises(JaxlvError) as caught:
            action()
        assert part in str(caught.value) and "\n" not in str(caught.value)
