"""Fitted equations: known parameters are found, noise explodes no fit, and what cannot be fitted is forecast sanely."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlv.data import loading, splits
from jaxlv.data.dynamics import SYSTEMS, Solver, simulate
from jaxlv.errors import JaxlvError
from jaxlv.forecasting import odefit
from jaxlv.forecasting.odefit import EQUATIONS, HEADROOM, PARAMETERS, fit, forecast

STEP = 2.0
TRUTH = {  # two series each; populations 0.9 and 1.1 at first
    "lotka-volterra": {"r": [0.2, 0.15], "a": [0.3, 0.35], "e": [0.5, 0.4], "m": [0.2, 0.15]},
    "lotka-volterra-logistic": {"r": [0.2, 0.3], "K": [6.0, 4.0], "a": [0.3, 0.4], "e": [0.5, 0.6], "m": [0.2, 0.3]},
    "rosenzweig-macarthur": {
        "r": [0.2, 0.22],
        "K": [8.5, 5.7],
        "a": [0.41, 0.34],
        "h": [0.43, 0.49],
        "e": [0.44, 0.35],
        "m": [0.15, 0.2],
    },
}
EXACT = 1e-3  # of the fixed-step solver, in logarithms


@pytest.fixture(scope="module")
def simulated() -> dict[str, np.ndarray]:
    """System -> exact solutions (2, 60, 2)."""
    exact = Solver("Tsit5", rtol=1e-8, atol=1e-8)

    def solve(name: str) -> np.ndarray:
        values_NP = np.stack([TRUTH[name][parameter] for parameter in SYSTEMS[name].parameters], axis=1)
        return simulate(SYSTEMS[name], values_NP, np.array([[0.9, 1.1]] * 2), STEP * np.arange(60), exact, chunk=2)

    return {name: solve(name) for name in TRUTH}


def in_units(name: str, unit_NV: np.ndarray) -> np.ndarray:
    """TRUTH as odefit.PARAMETERS (N, P): per step, populations in units of `unit_NV`."""
    p = {key: np.array(value) for key, value in TRUTH[name].items()}
    x, y = unit_NV.T
    nothing = 0 * x
    values = {
        "r": p["r"] * STEP,
        "b": p["r"] / p["K"] * x * STEP if "K" in p else nothing,
        "a": p["a"] * y * STEP,
        "u": p["a"] * p["h"] * x if "h" in p else nothing,
        "g": p["e"] * p["a"] * x * STEP,
        "m": p["m"] * STEP,
    }
    return np.stack([values[parameter] for parameter in PARAMETERS], axis=1)


@pytest.mark.parametrize("name", TRUTH)
def test_known_parameters_are_found_and_the_future_with_them(name, simulated):
    context, future = simulated[name][:, :40], simulated[name][:, 40:]
    found = fit(EQUATIONS[name], context)
    np.testing.assert_allclose(found.parameters_NP, in_units(name, found.unit_NV), rtol=0.01)
    assert (found.rms_N < EXACT).all()
    np.testing.assert_allclose(forecast(EQUATIONS[name], context, 20), future, rtol=0.01)


@pytest.mark.parametrize("name", TRUTH)
def test_the_solver_agrees_with_an_exact_one(name, simulated):
    unit_NV = np.array([[2.0, 0.5], [1.0, 3.0]])
    logs_TVN = odefit._solve(in_units(name, unit_NV).T, np.log(simulated[name][:, 0] / unit_NV).T, 60)
    np.testing.assert_allclose(np.moveaxis(logs_TVN, -1, 0), np.log(simulated[name] / unit_NV[:, None]), atol=EXACT)


def test_a_fit_tells_its_residuals_as_root_mean_square_of_all_logarithms(simulated):
    context = noisy(simulated["lotka-volterra"][:, :40], 0.1)
    found = fit(EQUATIONS["lotka-volterra"], context)
    path = np.moveaxis(odefit._solve(found.parameters_NP.T, found.logs_NV.T, 40), -1, 0)
    residuals = path - np.log(context / context.mean(axis=1, keepdims=True))
    np.testing.assert_allclose(found.rms_N, np.sqrt((residuals**2).mean(axis=(1, 2))), rtol=1e-6)
    np.testing.assert_allclose(found.unit_NV, context.mean(axis=1))


def test_all_equations_and_contexts_share_one_compilation(simulated):
    odefit._fit.clear_cache()
    for name in TRUTH:
        for steps in (12, 33, 60):
            forecast(EQUATIONS[name], simulated[name][:, :steps], steps)
    assert odefit._fit._cache_size() == 1


# ------------------------------------------------------------------------------------------------------------ noise


@pytest.fixture(scope="module")
def test_values(shared) -> np.ndarray:
    real = loading.load(shared / "data" / "lotka_volterra_data.h5")
    return real.select(splits.split_fraction(real.ids_N).test).values_NTV


def noisy(context_NCV: np.ndarray, noise: float) -> np.ndarray:
    return context_NCV * np.exp(noise * np.random.default_rng(0).standard_normal(context_NCV.shape))


@pytest.mark.parametrize(("noise", "median"), [(0.01, 0.0043), (0.05, 0.0145), (0.1, 0.0295)])
def test_noise_on_the_context_neither_spoils_nor_explodes_the_right_equations(noise, median, test_values):
    """The medians are quoted from fits to other noise of the same size: 15 % is for the draw, of 150 series."""
    error = np.abs(forecast(EQUATIONS["rosenzweig-macarthur"], noisy(test_values[:, :50], noise), 50) - test_values[:, 50:])
    assert np.median(error.mean(axis=(1, 2))) == pytest.approx(median, rel=0.15)
    assert (error.max(axis=1) < np.ptp(test_values, axis=1)).all()


@pytest.mark.parametrize("name", ["lotka-volterra", "lotka-volterra-logistic"])
def test_noise_leaves_the_wrong_equations_bounded(name, test_values):
    context = noisy(test_values[:, :50], 0.1)
    predicted = forecast(EQUATIONS[name], context, 50)
    assert np.isfinite(predicted).all() and (predicted >= 0).all()
    assert (predicted.max(axis=1) <= context.max(axis=1) + HEADROOM * np.ptp(context, axis=1) + 1e-9).all()
    # Nearly all are far from that bound: what the context shows, and as much again.
    assert (predicted.max(axis=1) <= context.max(axis=1) + np.ptp(context, axis=1)).all(axis=1).mean() > 0.97


def test_a_series_is_forecast_alike_wherever_it_stands(test_values):
    context, rows = test_values[:, :50], np.random.default_rng(0).permutation(150)[:40]
    for equations in EQUATIONS.values():
        np.testing.assert_allclose(forecast(equations, context[rows], 9), forecast(equations, context, 9)[rows], rtol=1e-9)


# ------------------------------------------------------------------------------------------------- what cannot be fitted


@pytest.mark.parametrize("name", TRUTH)
def test_a_series_that_the_equations_do_not_describe_keeps_its_mean(name):
    context = np.full((1, 20, 2), 0.7)
    context[0, ::2, 0] *= 3  # up and down at every step, under constant predators
    np.testing.assert_allclose(forecast(EQUATIONS[name], context, 9), np.broadcast_to(context.mean(axis=1), (1, 9, 2)))


def test_of_all_starts_that_of_least_loss_is_taken(simulated, monkeypatch):
    """Each start assumes another saturation: for the first series the second is best, for the other series the third."""
    loss_L = np.resize([3.0, 1.0, 2.0, 6.0, 5.0, 4.0], odefit.LANES)
    monkeypatch.setattr(odefit, "_fit", lambda start_QL, *_: (start_QL, loss_L))
    found = fit(EQUATIONS["rosenzweig-macarthur"], simulated["rosenzweig-macarthur"][:, :30])
    assert EQUATIONS["rosenzweig-macarthur"].saturations == (0.15, 0.5, 1.5)
    np.testing.assert_allclose(found.parameters_NP[:, PARAMETERS.index("u")], [0.5, 1.5])
    np.testing.assert_allclose(found.rms_N, np.sqrt(np.array([1, 4]) / 60))


@pytest.mark.parametrize("name", TRUTH)
def test_a_fit_that_fails_keeps_the_mean(name, simulated, monkeypatch):
    context = simulated[name][:, :30]

    def failing(start_QL, *_):
        return np.full(start_QL.shape, np.nan), np.full(start_QL.shape[1], np.inf)

    monkeypatch.setattr(odefit, "_fit", failing)
    np.testing.assert_allclose(forecast(EQUATIONS[name], context, 3), np.repeat(context.mean(axis=1)[:, None], 3, axis=1))


@pytest.mark.parametrize("name", TRUTH)
def test_extinct_predators_stay_extinct_and_the_prey_finite(name, simulated):
    context = simulated[name][:, :30].copy()
    context[..., 1] = 0
    predicted = forecast(EQUATIONS[name], context, 30)
    assert (predicted[..., 1] == 0).all() and np.isfinite(predicted).all()


@pytest.mark.parametrize("name", TRUTH)
@pytest.mark.parametrize(
    "make",
    [
        lambda random: np.exp(3 * random.standard_normal((8, 30, 2))),  # jumps over orders of magnitude
        lambda random: random.uniform(0, 1, (8, 25, 2)) * (random.uniform(size=(8, 25, 2)) > 0.5),  # every other value zero
        lambda random: np.exp(np.linspace(0, 30, 40))[None, :, None] * random.uniform(1, 2, (8, 1, 2)),  # growth without end
        lambda random: np.exp(-np.linspace(0, 200, 40))[None, :, None] * random.uniform(1, 2, (8, 1, 2)),  # and decay
        lambda random: 1e12 * random.uniform(0.5, 1, (8, 4, 2)),
        lambda random: 1e-12 * random.uniform(0.5, 1, (8, 70, 2)),
    ],
    ids=["jumps", "zeros", "growth", "decay", "large and short", "small and long"],
)
def test_odd_contexts_have_finite_bounded_forecasts(name, make):
    context = make(np.random.default_rng(1))
    predicted = forecast(EQUATIONS[name], context, 60)
    assert np.isfinite(predicted).all() and (predicted >= 0).all()
    assert (predicted.max(axis=1) <= (context.max(axis=1) + HEADROOM * np.ptp(context, axis=1)) * (1 + 1e-12)).all()


@pytest.mark.parametrize("name", TRUTH)
def test_forecasts_do_not_depend_on_units(name, simulated):
    context, scale = simulated[name][:, :30], np.array([1e3, 1e-3])
    found = forecast(EQUATIONS[name], context * scale, 30)
    np.testing.assert_allclose(found, forecast(EQUATIONS[name], context, 30) * scale, rtol=1e-4)


def test_faults_are_one_line():
    good = np.ones((1, 10, 2))
    cases = {"2 variables": good[..., :1], "at least 4 steps": good[:, :3], "at least 0": -good}
    for part, context in cases.items():
        with pytest.raises(JaxlvError) as caught:
            forecast(EQUATIONS["lotka-volterra"], context, 3)
        assert part in str(caught.value) and "\n" not in str(caught.value)
