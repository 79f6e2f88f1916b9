"""What stands in place of missing values: a curve where a series is smooth, else straight lines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from jaxlv.config import RunConfig
from jaxlv.data import filling
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


@pytest.mark.parametrize(
    ("values", "smooth"),
    [
        ((5, 9, 8, 7, 9, 8, 5, 4, 2, 1, 1, 3, 3, 4), False),  # though it is by the first third, and by two of them
        ((6, 5, 10, 10, 9, 11, 5, 2, 2, 1, 2, 2, 3, 5), False),  # by the last third
        ((4, 7, 11, 13, 10, 7, 4, 3, 3, 2, 2, 2, 3, 9), True),  # though it is not by the first third, nor by two
        ((5, 8, 8, 8, 11, 10, 5, 2, 1, 2, 2, 2, 3, 4), True),  # by the last third
        ((4, 7, 10, 13, 11, 7, 4, 2, 2, 1, 2, 2, 3, 5), False),  # though it is by the halves
    ],
)
def test_every_third_of_the_values_has_a_say(values, smooth):
    """The error of a curve of the others, over that of lines, is computed here without limits, which none of them meets."""
    steps, known_T, thirds = np.arange(len(values)), np.array(values, float), []
    for turn in (1, 2, 3):
        out = steps[turn:-1:3]
        rest = np.setdiff1d(steps, out)
        curve = np.exp(CubicSpline(rest, np.log(known_T[rest]))(out))
        thirds.append([np.abs(curve - known_T[out]), np.abs(np.interp(out, rest, known_T[rest]) - known_T[out])])

    def better(*some: Any) -> bool:
        curve, line = (np.concatenate(errors).mean() for errors in zip(*some, strict=True))
        return bool(curve < 0.8 * line)

    assert better(*thirds) is smooth is filling._is_smooth(steps, known_T)
    assert (better(thirds[0]) is better(*thirds[:2]) is not smooth) or better(thirds[2]) is not smooth


def test_a_curve_is_drawn_through_eight_values_and_no_fewer():
    for steps, curved in ((9, True), (8, False)):
        growing_T = 2.0 ** np.arange(steps)
        found = filled(without(growing_T, 3))[3]
        assert found == pytest.approx(8 if curved else 10)  # on a line of logarithms, or on one of values


def test_a_curve_ends_half_the_range_beyond_the_values_and_at_half_the_least():
    """A jump from 10 to 100 and back: the curve would rise above 145, and fall below 5."""
    jump = np.array([10.0, 10, 100, 100, 10, 10])
    known = np.array([0, 1, 2, 6, 7, 8])
    assert filling._curve(known, jump, np.array([4])).tolist() == pytest.approx([145])
    fall = np.array([100.0, 100, 10, 10, 100, 100])
    assert filling._curve(known, fall, np.array([4])).tolist() == pytest.approx([5])
    below = jump - 50
    assert filling._curve(known, below, np.array([4])).tolist() == [95] and filling._curve(known, -below, [4]) == [-95]


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
