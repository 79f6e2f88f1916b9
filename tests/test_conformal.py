"""Conformal bands: the quantile by hand, nominal coverage whatever the samples are worth, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlv.errors import JaxlvError
from jaxlv.forecasting import metrics
from jaxlv.forecasting.conformal import fit_bands, levels_within, needed

LEVELS = (50, 80, 95)


def forecasts(count: int, seed: int, spread: float = 1.0, shift: float = 0.0, samples: int = 20):
    """Samples and truths of two steps and two variables far from zero; each series has a level and a noise of its own."""
    random = np.random.default_rng(seed)
    noise = np.exp(random.normal(size=(count, 1, 1)))
    level = random.uniform(200, 300, (count, 1, 1))
    truth = level + noise * random.normal(size=(count, 2, 2))
    draws = spread * random.standard_t(5, size=(count, samples, 2, 2)) + shift
    return (level[:, None] + noise[:, None] * draws), truth, np.full((count, 2), 1e-6)


@pytest.mark.parametrize("changes", [{"spread": 0.3}, {"spread": 3.0}, {"shift": 1.0}, {"samples": 2}])
def test_coverage_becomes_nominal(changes):
    """It does on average over calibration sets of 39 series, with which no level falls between two ranks."""
    raw, adjusted = [], []
    for seed in range(60):
        calibration, test = forecasts(39, 2 * seed, **changes), forecasts(100, 2 * seed + 1, **changes)
        bands = fit_bands(*calibration[:2], LEVELS, calibration[2])
        for level in LEVELS:
            raw.append(metrics.coverage(*test[:2], level / 100).mean())
            adjusted.append(metrics.covered(*bands.interval(test[0], level, test[2]), test[1]).mean())
    raw, adjusted = (np.reshape(values, (60, 3)).mean(axis=0) for values in (raw, adjusted))
    np.testing.assert_allclose(adjusted, [0.5, 0.8, 0.95], atol=0.015)
    assert np.abs(raw - [0.5, 0.8, 0.95]).max() > 0.1


def test_the_factor_by_hand():
    """Samples 1, 2, 3 in each of four series; truths 1, 3 and 5 halves above the median and 2 below it."""
    samples = np.tile(np.array([9.0, 10, 11])[None, :, None, None], (4, 1, 1, 1))
    truth = 10 + np.array([0.5, 1.5, 2.5, -2]).reshape(4, 1, 1)
    bands = fit_bands(samples, truth, (50, 80), np.full((4, 1), 1e-9))
    assert {level: factor.item() for level, factor in bands.factors.items()} == {50: 2.0, 80: 2.5}
    low, high = bands.interval(samples[:1], 80, np.full((1, 1), 1e-9))
    assert (low.item(), high.item()) == (7.5, 12.5)


def test_a_truth_on_either_side_is_measured_by_the_half_that_it_lies_in():
    samples = np.tile(np.array([9.0, 10, 14])[None, :, None, None], (2, 1, 1, 1))
    for truth, factor in ((12, 0.5), (9.5, 0.5), (8, 2.0), (10, 0.0)):
        bands = fit_bands(samples, np.full((2, 1, 1), truth), [50], np.full((2, 1), 1e-9))
        assert bands.factors[50].item() == factor


def test_samples_that_are_all_alike_stand_for_an_interval():
    samples, least = np.full((3, 4, 1, 1), 5.0), np.full((3, 1), 0.5)
    truth = np.array([5.0, 5.5, 7.0]).reshape(3, 1, 1)
    bands = fit_bands(samples, truth, [50], least)
    assert bands.factors[50].item() == 1.0
    assert [end.item() for end in bands.interval(samples[:1], 50, least[:1])] == [4.5, 5.5]


def test_no_band_reaches_below_zero():
    samples = np.tile(np.array([0.0, 1, 2])[None, :, None, None], (4, 1, 1, 1))
    bands = fit_bands(samples, np.full((4, 1, 1), 9.0), [50], np.full((4, 1), 0.1))
    low, high = bands.interval(samples, 50, np.full((4, 1), 0.1))
    assert (low == 0).all() and (high == 9).all()


def test_a_level_needs_enough_series():
    assert [needed(level) for level in LEVELS] == [1, 4, 19]
    assert levels_within(LEVELS, 18) == [50, 80] and levels_within(LEVELS, 19) == [50, 80, 95]
    samples, truth, least = forecasts(4, 0)
    assert set(fit_bands(samples, truth, LEVELS, least).factors) == {50, 80}
    with pytest.raises(JaxlvError, match="too few series to adjust a band; expected at least 4 for 80 %; found 3"):
        fit_bands(samples[:3], truth[:3], (80, 95), least[:3])
    with pytest.raises(JaxlvError, match="wrong level"):
        needed(100)
