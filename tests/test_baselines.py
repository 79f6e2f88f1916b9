from __future__ import annotations

import numpy as np
import pytest

from jaxlv import metrics, series
from jaxlv.baselines import BASELINES, context_mean, last_value, seasonal_naive, var_on_logs
from jaxlv.errors import JaxlvError

# 50 -> 50: MAE, its median over series, MSE, MASE, first-5 MAE; 76 -> 24: MAE, first 5; 80 -> 20: MAE.
QUOTED = {
    "last value": (0.4605, 0.398, 0.670, 3.55, 0.292, 0.422, 0.278, 0.427),
    "context mean": (0.3264, 0.284, 0.316, 2.57, 0.392, 0.313, 0.339, 0.309),
    "seasonal naive": (0.1931, 0.131, 0.175, 1.48, 0.115, 0.110, 0.107, 0.101),
    "VAR(3) on logs": (0.1533, 0.093, 0.225, 1.12, 0.0506, 0.0996, 0.0346, 0.0966),
}


@pytest.fixture(scope="module")
def test_values(shared) -> np.ndarray:
    real = series.load(shared / "data" / "lotka_volterra_data.h5")
    return real.select(series.split_fraction(real.ids_N).test).values_NTV


@pytest.mark.parametrize("name", QUOTED)
def test_quoted_figures_are_reproduced(name, test_values):
    figures = []
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
    np.testing.assert_allclose(figures, QUOTED[name], rtol=0.02)


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


def test_last_value_and_mean():
    context = np.array([[[1.0, 5.0], [2.0, 7.0], [6.0, 9.0]]])
    np.testing.assert_array_equal(last_value(context, 2), [[[6, 9], [6, 9]]])
    np.testing.assert_array_equal(context_mean(context, 2), [[[3, 7], [3, 7]]])


def test_seasonal_naive_finds_each_series_period():
    t = np.arange(90)
    waves = np.stack([np.stack([2 + np.sin(2 * np.pi * t / p), 3 + np.cos(2 * np.pi * t / p)], 1) for p in (7, 13, 20)])
    np.testing.assert_allclose(seasonal_naive(waves[:, :50], 40), waves[:, 50:], atol=1e-12)


def test_seasonal_naive_does_not_depend_on_units():
    context = np.random.default_rng(0).uniform(0.1, 3, (4, 40, 2))
    scale = np.array([1000.0, 0.01])
    np.testing.assert_allclose(seasonal_naive(context * scale, 30), seasonal_naive(context, 30) * scale)


def test_var_continues_what_it_can_represent():
    """Logarithms that turn and shrink about a centre obey a linear recursion of order one."""
    t = np.arange(60)
    logs = np.stack([np.cos(0.5 * t), np.sin(0.5 * t)], axis=1)[None]
    np.testing.assert_allclose(np.log(var_on_logs(np.exp(logs[:, :50]), 10)), logs[:, 50:], atol=0.05)


def test_var_is_bounded_where_the_fit_explodes():
    context = np.exp(0.2 * np.arange(12.0))[None, :, None] ** np.array([1.0, 2.0])
    forecast = np.log(var_on_logs(context, 500))
    low, high = np.log(context).min(axis=1), np.log(context).max(axis=1)
    np.testing.assert_allclose(forecast.max(axis=1), 2 * high - low)
    assert (forecast >= 2 * low - high - 1e-9).all()


def test_var_takes_zeros_at_its_stated_floor():
    context = np.random.default_rng(0).uniform(0.5, 2, (1, 30, 2))
    floored = context.copy()
    context[0, 7, 0] = 0
    floored[0, 7, 0] = 1e-6 * context[0, :, 0].mean()
    np.testing.assert_allclose(var_on_logs(context, 9), var_on_logs(floored, 9), rtol=1e-5)


def test_faults_are_one_line():
    good = np.ones((1, 10, 2))
    cases = {
        "horizon of at least 1": lambda: last_value(good, 0),
        "shape (10, 2)": lambda: context_mean(good[0], 3),
        "1 NaN or infinite": lambda: seasonal_naive(np.where(np.arange(20).reshape(1, 10, 2) == 3, np.nan, good), 3),
        "more than 3 steps": lambda: var_on_logs(good[:, :3], 3),
        "at least 0": lambda: var_on_logs(-good, 3),
    }
    for part, action in cases.items():
        with pytest.raises(JaxlvError) as caught:
            action()
        assert part in str(caught.value) and "\n" not in str(caught.value)
