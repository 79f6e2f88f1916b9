"""What stands in place of missing values: a curve where a series is smooth, else straight lines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jaxlv.config import RunConfig
from jaxlv.data.filling import interpolated
from jaxlv.data.series import from_arrays
from jaxlv.forecasting import robustness
from jaxlv.forecasting.request import Request
from jaxlv.runs import run

NAN = float("nan")
SMOOTH_T = np.exp(np.sin(np.arange(24) / 2))  # a period of 12.6 steps, values of 0.37 to 2.7


def without(values_T: np.ndarray, *missing: int) -> np.ndarray:
    gappy_T = values_T.copy()
    gappy_T[list(missing)] = NAN
    return gappy_T


def filled(values_T: np.ndarray) -> np.ndarray:
    return interpolated(values_T[:, None])[:, 0]


def lines(values_T: np.ndarray) -> np.ndarray:
    known = np.flatnonzero(np.isfinite(values_T))
    return np.interp(np.arange(len(values_T)), known, values_T[known])


@pytest.mark.parametrize("missing", [(3,), (9, 10), (14, 15, 16)])
def test_a_short_gap_of_a_smooth_series_is_bridged_by_a_curve(missing):
    gappy_T = without(SMOOTH_T, *missing)
    curve, line = (np.abs(way(gappy_T) - SMOOTH_T).max() for way in (filled, lines))
    assert curve < 0.2 * line
    np.testing.assert_array_equal(np.delete(filled(gappy_T), missing), np.delete(SMOOTH_T, missing))


def test_values_that_nothing_tells_are_bridged_by_lines():
    """So are long gaps, few values, and what lies beyond the ends."""
    random_T = np.random.default_rng(0).uniform(1, 9, 24)
    for gappy_T in (
        without(random_T, 3, 9, 10),
        without(SMOOTH_T, 9, 10, 11, 12),
        without(SMOOTH_T[:8], 3),
        without(SMOOTH_T, 0, 1, 23),
    ):
        np.testing.assert_array_equal(filled(gappy_T), lines(gappy_T))
    mixed_T = without(SMOOTH_T, 3, 9, 10, 11, 12)
    same = filled(mixed_T) == lines(mixed_T)
    assert np.flatnonzero(~same).tolist() == [3]


def test_each_variable_is_bridged_in_its_own_way():
    random_T = np.random.default_rng(0).uniform(1, 9, 24)
    both_TV = np.stack([without(SMOOTH_T, 3), without(random_T, 3)], axis=1)
    expected = [filled(both_TV[:, 0])[3], lines(both_TV[:, 1])[3]]
    assert interpolated(both_TV)[3].tolist() == expected


def test_a_curve_stays_near_the_known_values_and_above_zero():
    """A spline alone would fall below zero beside the zeros, and rise far above a narrow peak."""
    bell_T = np.maximum(0, 5 * np.exp(-0.5 * ((np.arange(30) - 15) / 1.7) ** 2) - 0.02)
    for place in range(8, 23):
        found_T = filled(without(bell_T, place, place + 1))
        assert found_T.min() >= 0 and found_T.max() <= 1.5 * bell_T.max()
    below_T = np.sin(np.arange(24) / 2)  # values below zero are bridged by the same way
    assert np.abs(filled(without(below_T, 3, 10)) - below_T).max() < 0.01


def test_a_series_without_gaps_is_itself_and_one_without_values_is_refused():
    whole_TV = SMOOTH_T[:, None]
    assert interpolated(whole_TV) is whole_TV
    with pytest.raises(ValueError, match="a variable without any value"):
        interpolated(np.full((4, 1), NAN))


def test_what_comes_after_a_context_changes_nothing_in_it():
    """A curve through the whole series would see what is to be forecast."""
    held = from_arrays(np.stack([np.stack([SMOOTH_T, SMOOTH_T[::-1]], axis=1)] * 2))
    other_NTV = held.values_NTV.copy()
    other_NTV[:, 20:] *= 3
    request = Request(20, 4, 2)
    for one, changed in zip(
        robustness.marked(held, 2, request), robustness.marked(replace(held, values_NTV=other_NTV), 2, request), strict=True
    ):
        np.testing.assert_array_equal(one.given.values_NTV[:, :20], changed.given.values_NTV[:, :20])


@pytest.mark.parametrize("way", [filled, lines])
def test_a_run_knows_the_steps_that_it_was_trained_on_by_curves_and_by_lines(way):
    """Older versions bridged every gap by straight lines."""
    gappy_T = without(SMOOTH_T, 3, 9)
    manifest: Any = SimpleNamespace(data=SimpleNamespace(lengths=(20,)))
    split = {"train": {"0": run.mark(way(gappy_T[:20])[:, None])}, "validation": {}}
    model: Any = None
    made = run.FinishedRun(Path(), RunConfig(), model, model, manifest, split)
    missing = replace(made, config=replace(made.config, data=replace(made.config.data, missing="interpolate")))
    assert missing.seen_steps(gappy_T[:, None]) == 20
    assert missing.seen_steps(without(SMOOTH_T * 1.01, 3, 9)[:, None]) == 0
