"""Conditions of the stress tests: what each changes, and that the truth is never touched."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

from jaxlv.data import dynamics, series
from jaxlv.forecasting import robustness
from jaxlv.forecasting.robustness import GROUPS, Condition

CONTEXT, HORIZON, COUNT = 50, 20, 6


@pytest.fixture(scope="module")
def held() -> series.SeriesSet:
    return dynamics.draw("course", 8, seed=4)


@pytest.fixture(scope="module")
def conditions(held) -> dict[str, list[Condition]]:
    return {name: list(group(held, COUNT, CONTEXT, HORIZON, 7)) for name, group in GROUPS.items()}


@pytest.mark.parametrize("group", GROUPS)
def test_every_condition_has_context_and_truth_that_fit(group, conditions, held):
    assert conditions[group] and len({c.level for c in conditions[group]}) == len(conditions[group])
    for c in conditions[group]:
        assert c.group == group and c.truth_NHV.shape == (len(c.given), c.horizon, 2)
        assert 1 <= len(c.given) <= COUNT and c.given.values_NTV.shape[1] >= c.context
        np.testing.assert_array_equal(c.truth_NHV, c.given.values_NTV[:, c.context : c.context + c.horizon])


@pytest.mark.parametrize("group", GROUPS)
def test_conditions_are_the_same_again(group, conditions, held):
    for one, other in zip(conditions[group], GROUPS[group](held, COUNT, CONTEXT, HORIZON, 7), strict=True):
        np.testing.assert_array_equal(one.given.values_NTV, other.given.values_NTV)


@pytest.mark.parametrize("group", ["noise", "missing steps"])
def test_the_context_is_disturbed_and_the_truth_is_not(group, conditions, held):
    mild, *harder = conditions[group]
    np.testing.assert_array_equal(mild.given.values_NTV, held.values_NTV[:COUNT])
    for c in harder:
        np.testing.assert_array_equal(c.truth_NHV, held.values_NTV[:COUNT, CONTEXT : CONTEXT + HORIZON])


def test_noise_is_log_normal_of_the_stated_deviation(conditions, held):
    for c in conditions["noise"][1:]:
        log = np.log(c.given.values_NTV[:, :CONTEXT] / held.values_NTV[:COUNT, :CONTEXT])
        assert log.std() == pytest.approx(c.value, rel=0.1) and abs(log.mean()) < 0.2 * c.value


def test_missing_steps_are_left_out_in_order_and_the_last_step_stays(conditions, held):
    for c in conditions["missing steps"]:
        assert c.context == CONTEXT - round(c.value * CONTEXT)
        for given_TV, whole_TV in zip(c.given.values_NTV[:, : c.context], held.values_NTV, strict=False):
            rows = [int(np.flatnonzero((whole_TV[:CONTEXT] == step_V).all(axis=1))[0]) for step_V in given_TV]
            assert rows == sorted(set(rows)) and rows[-1] == CONTEXT - 1


def test_contexts_of_every_length_forecast_the_same_steps(conditions):
    lengths = [c.context for c in conditions["context"]]
    assert lengths == [10, 20, 30, 50, 70, 90]
    for c in conditions["context"]:
        np.testing.assert_array_equal(c.truth_NHV, conditions["context"][0].truth_NHV)


def test_origins_roll_through_the_series(conditions, held):
    for c in conditions["origin"]:
        np.testing.assert_array_equal(c.truth_NHV, held.values_NTV[:COUNT, int(c.value) :][:, : c.horizon])


def test_regimes_are_labelled_and_sampled_apart(conditions, held):
    label_N = robustness.regimes_of(held)
    assert set(label_N) <= set(robustness.REGIMES)
    for c in conditions["regime"]:
        name = c.level.split(" (")[0]
        assert (robustness.regimes_of(c.given) == name).all() and f"({len(c.given)})" in c.level
    assert sum(len(c.given) for c in conditions["regime"]) >= COUNT


def test_prey_dominance_splits_the_oscillations_alone():
    time_T = np.arange(100.0)
    wave_T = 2 + np.sin(time_T / 3)
    values_NTV = np.stack([np.stack([k * wave_T, wave_T], axis=1) for k in (1.0, 1.4, 1.6)])
    assert list(robustness.regimes_of(series.from_arrays(values_NTV, time_T))) == [
        "oscillatory",
        "oscillatory",
        "prey-dominant",
    ]


def test_simulated_parameters_lie_beyond_the_bases_ranges():
    """Each preset but the first has one parameter that the embedded base never met."""

    known = tomllib.loads((Path(__file__).parents[1] / "configs/base.toml").read_text())["series"]["ranges"]
    inside = {
        name: [key for key, r in preset.ranges.items() if not (known[key][0] <= r.low and r.high <= known[key][1])]
        for name, preset in robustness.BEYOND.items()
    }
    assert [len(outside) for outside in inside.values()] == [0, 1, 1, 1, 1]
    for name, preset in robustness.BEYOND.items():
        for key in inside[name]:
            low, high = known[key]
            assert preset.ranges[key].high < low or preset.ranges[key].low > high
