"""Conditions of the stress tests: what each changes, and that the truth is never touched."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

from jaxlv.data import dynamics, series
from jaxlv.forecasting import robustness
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.robustness import GROUPS, Condition

CONTEXT, HORIZON, COUNT = 50, 20, 6
REQUEST = Request(CONTEXT, HORIZON, 3, seed=7)
LEVELS = {
    "noise": {"0 %": 0.0, "1 %": 0.01, "5 %": 0.05, "10 %": 0.1},
    "missing steps": {"0 %": 0.0, "5 %": 0.05, "10 %": 0.1, "20 %": 0.2},
    "context": {f"{steps} steps": steps for steps in (10, 20, 30, 50, 70, 90)},
    "origin": {f"step {step}": step for step in (20, 30, 40, 50, 60, 70, 80)},
    "amplitude": {"x 1": 1.0, "x 1.5": 1.5, "x 2": 2.0, "x 4": 4.0},
}


@pytest.fixture(scope="module")
def held() -> series.SeriesSet:
    return dynamics.draw("course", 8, seed=4)


@pytest.fixture(scope="module", autouse=True)
def simulated(held):
    """What the simulated conditions ask to be drawn, in place of seconds of solving: they get the series held out."""
    asked = []

    def draw(preset, count, seed, solver=None, attempts=10):
        asked.append((preset, count, seed, solver))
        return held.select(held.ids_N[:count])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robustness.dynamics, "draw", draw)
        yield asked


@pytest.fixture(scope="module")
def conditions(held, simulated) -> dict[str, list[Condition]]:
    return {name: list(group(held, COUNT, REQUEST)) for name, group in GROUPS.items()}


@pytest.mark.parametrize("group", LEVELS)
def test_the_levels_of_a_group_are_the_documented_ones_from_the_mildest_on(group, conditions):
    assert {c.level: c.value for c in conditions[group]} == LEVELS[group]
    assert [c.level for c in conditions[group]] == list(LEVELS[group])


@pytest.mark.parametrize("group", [name for name in GROUPS if name not in ("regime", "simulated")])
def test_a_group_takes_the_first_series_held_out(group, conditions, held):
    for c in conditions[group]:
        assert c.given.ids_N.tolist() == held.ids_N[:COUNT].tolist()


def test_the_noise_of_a_level_is_that_of_another_times_their_ratio_for_each_value_by_itself(conditions, held):
    logs = {
        c.value: np.log(c.given.values_NTV[:, :CONTEXT] / held.values_NTV[:COUNT, :CONTEXT]) for c in conditions["noise"]
    }
    np.testing.assert_allclose(logs[0.1], 10 * logs[0.01], atol=1e-9)
    np.testing.assert_allclose(logs[0.05], 5 * logs[0.01], atol=1e-9)
    own = logs[0.1].transpose(0, 2, 1).reshape(2 * COUNT, CONTEXT)
    assert np.abs(np.corrcoef(own) - np.eye(2 * COUNT)).max() < 0.6  # neither series nor variables share it
    for c in conditions["noise"]:
        np.testing.assert_array_equal(c.given.values_NTV[:, CONTEXT:], held.values_NTV[:COUNT, CONTEXT:])
        assert (c.request.context, c.request.horizon) == (CONTEXT, HORIZON)


def test_each_series_misses_other_steps(conditions, held):
    hardest = conditions["missing steps"][-1]
    kept = [
        [t for t in range(CONTEXT) if (whole_TV[t] == given_TV[: hardest.request.context]).all(axis=1).any()]
        for given_TV, whole_TV in zip(hardest.given.values_NTV, held.values_NTV, strict=False)
    ]
    assert len({tuple(steps) for steps in kept}) == COUNT and {len(steps) for steps in kept} == {40}
    np.testing.assert_array_equal(hardest.given.values_NTV[:, hardest.request.context :], held.values_NTV[:COUNT, CONTEXT:])


def test_populations_are_larger_by_the_factor_with_their_truth(conditions, held):
    for c in conditions["amplitude"]:
        np.testing.assert_array_equal(c.given.values_NTV, c.value * held.values_NTV[:COUNT])
        np.testing.assert_array_equal(c.truth_NHV, c.value * held.values_NTV[:COUNT, CONTEXT : CONTEXT + HORIZON])


def test_a_context_is_the_last_steps_before_those_that_are_forecast(conditions, held):
    """All forecast steps 90 to 99."""
    for c in conditions["context"]:
        np.testing.assert_array_equal(c.given.values_NTV, held.values_NTV[:COUNT, 90 - c.request.context : 100])
        np.testing.assert_array_equal(c.given.time_T, held.time_T[90 - c.request.context : 100])
        assert c.request.horizon == 10


def test_behind_an_origin_the_next_ten_steps_are_forecast_from_all_before_it(conditions, held):
    for c in conditions["origin"]:
        np.testing.assert_array_equal(c.given.values_NTV, held.values_NTV[:COUNT])
        assert (c.request.context, c.request.horizon) == (c.value, 10)


def test_simulated_series_are_of_the_systems_and_the_solver_that_their_level_names(conditions, simulated):
    """The first call of each is that of `conditions`."""
    calls = dict(zip([c.level for c in conditions["simulated"]], simulated, strict=False))
    like = "as the course's"
    assert list(calls) == [
        like, robustness.COARSE, *list(robustness.BEYOND)[1:], "lotka-volterra-logistic", "lotka-volterra",
    ]  # fmt: skip
    for name, (preset, count, seed, solver) in calls.items():
        assert (count, seed) == (COUNT, 7)
        assert preset == (robustness.BEYOND[like] if name == robustness.COARSE else preset)
        assert (solver is not None) == (name == robustness.COARSE) and (solver is None or solver.rtol == solver.atol == 1e-3)
        if name in robustness.BEYOND or name in dynamics.PRESETS:
            assert preset == (robustness.BEYOND.get(name) or dynamics.PRESETS[name])


def test_each_system_beyond_the_course_has_one_range_of_its_own():
    course = dynamics.PRESETS["course"].ranges
    changed = {
        name: [key for key, limits in preset.ranges.items() if limits != course[key]]
        for name, preset in robustness.BEYOND.items()
    }
    assert changed == {
        "as the course's": [], "faster prey": ["r"], "larger capacity": ["K"], "slower predators": ["m"],
        "longer handling": ["h"],
    }  # fmt: skip


@pytest.mark.parametrize("group", GROUPS)
def test_every_condition_has_context_and_truth_that_fit(group, conditions, held):
    assert conditions[group] and len({c.level for c in conditions[group]}) == len(conditions[group])
    for c in conditions[group]:
        assert c.group == group and c.truth_NHV.shape == (len(c.given), c.request.horizon, 2)
        assert 1 <= len(c.given) <= COUNT and c.given.values_NTV.shape[1] >= c.request.context
        start = c.request.context
        np.testing.assert_array_equal(c.truth_NHV, c.given.values_NTV[:, start : start + c.request.horizon])


@pytest.mark.parametrize("group", GROUPS)
def test_conditions_are_the_same_again(group, conditions, held):
    for one, other in zip(conditions[group], GROUPS[group](held, COUNT, REQUEST), strict=True):
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
        assert c.request.context == CONTEXT - round(c.value * CONTEXT)
        for given_TV, whole_TV in zip(c.given.values_NTV[:, : c.request.context], held.values_NTV, strict=False):
            rows = [int(np.flatnonzero((whole_TV[:CONTEXT] == step_V).all(axis=1))[0]) for step_V in given_TV]
            assert rows == sorted(set(rows)) and rows[-1] == CONTEXT - 1


def test_contexts_of_every_length_forecast_the_same_steps(conditions):
    lengths = [c.request.context for c in conditions["context"]]
    assert lengths == [10, 20, 30, 50, 70, 90]
    for c in conditions["context"]:
        np.testing.assert_array_equal(c.truth_NHV, conditions["context"][0].truth_NHV)


def test_origins_roll_through_the_series(conditions, held):
    for c in conditions["origin"]:
        np.testing.assert_array_equal(c.truth_NHV, held.values_NTV[:COUNT, int(c.value) :][:, : c.request.horizon])


def test_regimes_are_labelled_and_sampled_apart(conditions, held):
    label_N = robustness.regimes_of(held)
    assert set(label_N) <= set(robustness.REGIMES)
    for c in conditions["regime"]:
        name = c.level.split(" (")[0]
        assert (robustness.regimes_of(c.given) == name).all() and f"({len(c.given)})" in c.level
    found = [c.given.ids_N.tolist() for c in conditions["regime"]]
    assert found == [held.ids_N[label_N == name][:COUNT].tolist() for name in robustness.REGIMES if name in label_N]
    few = list(robustness.regimes(held, 1, REQUEST))
    assert [c.given.ids_N.tolist() for c in few] == [ids[:1] for ids in found]


def test_prey_dominance_splits_the_oscillations_alone():
    time_T = np.arange(100.0)
    wave_T = 2 + np.sin(time_T / 3)
    values_NTV = np.stack([np.stack([k * wave_T, wave_T], axis=1) for k in (0.7, 1.0, 1.4, 1.6)])
    peaked_TV = np.stack([1.6 * (wave_T + 3 * (wave_T > 2.9)), wave_T], axis=1)  # seldom high: its mean is not its median
    low_TV = np.stack([1.4 * wave_T, wave_T - 0.9 * (wave_T < 2)], axis=1)
    found = robustness.regimes_of(series.from_arrays(np.concatenate([values_NTV, [peaked_TV, low_TV]]), time_T))
    assert list(found) == [*["oscillatory"] * 3, *["prey-dominant"] * 3]
    assert np.median(low_TV[:, 0]) < 1.5 * np.median(low_TV[:, 1])


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


def test_contexts_of_short_series_end_where_a_forecast_still_fits():
    held = series.from_arrays(np.random.default_rng(0).uniform(1, 2, (2, 60, 2)))
    found = list(robustness.contexts(held, 2, Request(50, 10, 2)))
    assert [one.request.context for one in found] == [10, 20, 30, 50]
    for one in found:
        np.testing.assert_array_equal(one.truth_NHV, held.values_NTV[:, 50:])
