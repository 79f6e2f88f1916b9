from __future__ import annotations

import numpy as np
import pytest

from jaxlv.errors import JaxlvError
from jaxlv.forecasting import metrics


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_point_measures_by_hand():
    truth = np.array([[[1.0, 0], [2, 0], [6, 0]]])
    forecast = np.array([[[2.0, 0], [2, 3], [2, 0]]])
    context = np.array([[[0.0, 4], [1, 2], [3, 2]]])
    np.testing.assert_allclose(metrics.mae(forecast, truth), [[5 / 3, 1]])
    np.testing.assert_allclose(metrics.mse(forecast, truth), [[17 / 3, 3]])
    np.testing.assert_allclose(metrics.rmse(forecast, truth), np.sqrt([[17 / 3, 3]]))
    np.testing.assert_allclose(metrics.r2(forecast, truth), [[1 - 17 / 14, np.nan]])
    np.testing.assert_allclose(metrics.mase(forecast, truth, context), [[5 / 3 / 1.5, 1]])
    np.testing.assert_allclose(metrics.mae_by_step(forecast, truth), [[1, 0], [0, 3], [4, 0]])


def test_means_over_steps_and_series_are_no_medians():
    error = np.array([[1.0, 1, 7], [0, 5, 1], [8, 0, 1]])[..., None]  # (series, steps, 1)
    truth = np.array([[2.0, 5, 3], [9, 1, 4], [6, 2, 8]])[..., None]
    np.testing.assert_allclose(metrics.mae(truth + error, truth), [[3], [2], [3]])
    np.testing.assert_allclose(metrics.mse(truth + error, truth), [[17], [26 / 3], [65 / 3]])
    np.testing.assert_allclose(metrics.mae_by_step(truth - error, truth), [[3], [2], [3]])
    np.testing.assert_allclose(metrics.r2(truth + error, truth)[0], [1 - 51 / (14 / 3)])


def test_errors_are_scaled_by_the_mean_rise_or_fall_of_their_own_variable():
    """Rises of 0, 1 and 5 have a mean of 2 and a median of 1, and differ by 1 and 4; the second variable falls by 3."""
    context = np.array([[[4.0, 20], [4, 17], [5, 14], [10, 11]]])
    truth, forecast = np.zeros((1, 2, 2)), np.array([[[3.0, 3], [5, 9]]])
    np.testing.assert_allclose(metrics.mase(forecast, truth, context), [[4 / 2, 6 / 3]])


def test_scaled_measures_have_no_unit():
    truth, forecast, context = random(4, 9, 2), random(4, 9, 2, seed=1), random(4, 6, 2, seed=2)
    np.testing.assert_allclose(metrics.r2(7 * forecast, 7 * truth), metrics.r2(forecast, truth))
    scaled = metrics.mase(7 * forecast, 7 * truth, 7 * context)
    np.testing.assert_allclose(scaled, metrics.mase(forecast, truth, context))
    assert np.isnan(metrics.mase(forecast, truth, 0 * context)).all()
    np.testing.assert_array_equal(metrics.r2(truth, truth), 1)


def brute_force_crps(samples: np.ndarray, truth: float, fair: bool) -> float:
    x = samples[~np.isnan(samples)]
    pairs = np.abs(x[:, None] - x[None]).sum()
    others = max(len(x) - 1, 1) if fair else len(x)
    return np.abs(x - truth).mean() - pairs / (2 * len(x) * others)


@pytest.mark.parametrize("fair", [True, False])
def test_crps_is_its_definition_over_all_pairs(fair):
    samples, truth = random(3, 8, 5, 2), random(3, 5, 2, seed=1)
    samples[random(3, 8, 5, 2, seed=2) > 0.8] = np.nan
    expected = [
        [np.mean([brute_force_crps(samples[n, :, h, v], truth[n, h, v], fair) for h in range(5)]) for v in range(2)]
        for n in range(3)
    ]
    np.testing.assert_allclose(metrics.crps(samples, truth, fair), expected, rtol=1e-12)


@pytest.mark.parametrize("fair", [True, False])
def test_crps_of_one_sample_is_the_absolute_error(fair):
    samples, truth = random(3, 1, 5, 2), random(3, 5, 2, seed=1)
    np.testing.assert_allclose(metrics.crps(samples, truth, fair), metrics.mae(samples[:, 0], truth))


def test_fair_crps_estimates_that_of_the_distribution_from_few_samples():
    """For a standard normal forecast and truth the expected score is 1 / sqrt(pi)."""
    few, truth = random(20_000, 3, 1, 1), random(20_000, 1, 1, seed=1)
    assert metrics.crps(few, truth).mean() == pytest.approx(np.pi**-0.5, abs=0.01)
    assert metrics.crps(few, truth, fair=False).mean() == pytest.approx(np.pi**-0.5 * (1 + 1 / 3), abs=0.01)


def brute_force_energy(samples: np.ndarray, truth: np.ndarray, fair: bool) -> float:
    x = samples[~np.isnan(samples).any(axis=1)]
    pairs = sum(np.sqrt(((a - b) ** 2).sum()) for a in x for b in x)
    others = max(len(x) - 1, 1) if fair else len(x)
    return np.mean([np.sqrt(((a - truth) ** 2).sum()) for a in x]) - pairs / (2 * len(x) * others)


@pytest.mark.parametrize("fair", [True, False])
def test_the_energy_score_is_its_definition_over_all_pairs(fair):
    samples, truth = random(3, 7, 4, 2), random(3, 4, 2, seed=1)
    samples[random(3, 7, 4, 2, seed=2) > 0.9] = np.nan
    expected = [np.mean([brute_force_energy(samples[n, :, h], truth[n, h], fair) for h in range(4)]) for n in range(3)]
    np.testing.assert_allclose(metrics.energy_score(samples, truth, fair), expected, rtol=1e-12)


@pytest.mark.parametrize("fair", [True, False])
def test_the_energy_score_of_one_variable_is_its_crps(fair):
    samples, truth = random(3, 8, 5, 1), random(3, 5, 1, seed=1)
    samples[random(3, 8, 5, 1, seed=2) > 0.8] = np.nan
    np.testing.assert_allclose(metrics.energy_score(samples, truth, fair), metrics.crps(samples, truth, fair)[:, 0])


def test_degenerate_energy_scores():
    samples, truth = random(3, 1, 5, 2), random(3, 5, 2, seed=1)
    distance = np.linalg.norm(samples[:, 0] - truth, axis=2).mean(axis=1)
    np.testing.assert_allclose(metrics.energy_score(samples, truth), distance)
    np.testing.assert_allclose(metrics.energy_score(np.repeat(samples, 6, axis=1), truth), distance)
    np.testing.assert_array_equal(metrics.energy_score(np.repeat(truth[:, None], 6, axis=1), truth), 0)
    samples[0, 0, 2, 1] = np.nan
    assert np.isnan(metrics.energy_score(samples, truth)).tolist() == [True, False, False]


def correlated(count: int, samples: int, rho: float, scale: float = 1.0, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    """(count, samples, 1, 2) normal pairs of correlation rho."""
    a, b = random(2, count, samples, 1, seed=seed)
    return shift + scale * np.stack([a, rho * a + (1 - rho**2) ** 0.5 * b], axis=-1)


@pytest.mark.parametrize("wrong", [{"scale": 0.5}, {"scale": 2.0}, {"shift": 0.6}, {"rho": -0.9}, {"rho": 0.0}])
def test_the_energy_score_is_least_for_the_right_distribution(wrong):
    """It sees a wrong correlation too, which no measure of single variables does."""
    truth = correlated(8000, 1, 0.9, seed=1)[:, 0]
    right = metrics.energy_score(correlated(8000, 10, 0.9), truth)
    other = metrics.energy_score(correlated(8000, 10, **{"rho": 0.9, **wrong}), truth)
    assert (other - right).mean() > 4 * (other - right).std() / 8000**0.5


def test_quantiles_leave_out_invalid_samples():
    samples = random(2, 9, 3, 2)
    holes = np.concatenate([samples, np.full((2, 4, 3, 2), np.nan)], axis=1)[:, ::-1]
    levels = [0.0, 0.1, 0.33, 0.5, 1.0]
    np.testing.assert_allclose(metrics.quantiles(holes, levels), metrics.quantiles(samples, levels))
    np.testing.assert_allclose(metrics.quantiles(samples, levels), np.quantile(samples, levels, axis=1, method="weibull"))
    assert np.isnan(metrics.quantiles(samples * np.nan, [0.5])).all()


@pytest.mark.parametrize(
    ("probability", "value"),
    [(0, 10), (0.1, 10), (0.2, 10), (0.3, 15), (0.4, 20), (0.5, 25), (0.74, 37), (0.8, 40), (1, 40)],
)
def test_the_quantile_p_of_m_samples_lies_at_p_times_m_plus_1(probability, value):
    """Weibull's: the fifths of four samples are these; the empirical distribution's quantile .3 would be 19."""
    samples = np.array([30.0, 10, 40, 20]).reshape(1, 4, 1, 1)
    assert metrics.quantiles(samples, [probability]).item() == pytest.approx(value)


def test_a_central_interval_leaves_out_as_much_on_either_side():
    """With 19 samples the 80 % interval is from the second to the 18th, and the 50 % one from the fifth to the 15th."""
    samples = np.arange(1.0, 20).reshape(1, 19, 1, 1)
    for level, low, high in ((0.8, 2, 18), (0.5, 5, 15), (0.9, 1, 19)):
        assert [end.item() for end in metrics.central_interval(samples, level)] == pytest.approx([low, high])
        truth = np.array([low, high, low - 0.1, high + 0.1]).reshape(4, 1, 1)
        assert metrics.coverage(np.repeat(samples, 4, axis=0), truth, level).ravel().tolist() == [1, 1, 0, 0]  # ends belong
        assert metrics.sharpness(samples, level).item() == pytest.approx(high - low)


def test_no_samples_have_no_quantiles():
    assert np.isnan(metrics.quantiles(np.empty((2, 0, 3, 1)), [0.1, 0.5])).all()
    assert metrics.quantiles(np.empty((2, 0, 3, 1)), [0.1, 0.5]).shape == (2, 2, 3, 1)


def test_median_of_an_even_number_is_between_the_two():
    assert metrics.quantiles(np.array([4.0, 1, 3, 2]).reshape(1, 4, 1, 1), [0.5]).item() == 2.5


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_samples_of_the_right_distribution_cover_the_level(level):
    samples, truth = random(5000, 39, 1, 1), random(5000, 1, 1, seed=1)
    assert metrics.coverage(samples, truth, level).mean() == pytest.approx(level, abs=0.02)


def test_what_samples_cover_at_most_is_what_they_reach():
    samples, truth = random(20_000, 5, 1, 1), random(20_000, 1, 1, seed=1)
    assert metrics.coverage(samples, truth, 0.99).mean() == pytest.approx(metrics.reach(5), abs=0.01)
    assert metrics.reach(39) == pytest.approx(0.95) and metrics.reach(1) == 0


def test_sharpness_is_the_mean_width():
    samples = np.tile(np.arange(1.0, 40)[None, :, None, None], (2, 1, 3, 2)) * np.array([1.0, 10.0])
    np.testing.assert_allclose(metrics.sharpness(samples, 0.5), [[20, 200]] * 2)
    np.testing.assert_allclose(metrics.sharpness(samples, 0.95), [[38, 380]] * 2)
    samples[:, :, 1] = 7
    np.testing.assert_allclose(metrics.sharpness(samples, 0.5), [[40 / 3, 400 / 3]] * 2)
    samples[0, :, 1] = np.nan
    assert np.isnan(metrics.sharpness(samples, 0.5)).tolist() == [[True] * 2, [False] * 2]


def test_coverage_counts_steps_and_marks_those_without_samples():
    samples = np.tile(np.arange(1.0, 40)[None, :, None, None], (1, 1, 4, 1))
    truth = np.array([0.0, 20, 30, 31]).reshape(1, 4, 1)
    assert metrics.coverage(samples, truth, 0.5).item() == 0.5
    samples[:, :, 2] = np.nan
    assert np.isnan(metrics.coverage(samples, truth, 0.5)).all()


def test_invalid_forecasts_are_never_dropped_silently():
    truth, forecast = random(2, 4, 2), random(2, 4, 2, seed=1)
    forecast[0, 3, 1] = np.nan
    for measure in (metrics.mae, metrics.mse, metrics.rmse, metrics.r2):
        assert np.isnan(measure(forecast, truth)).tolist() == [[False, True], [False, False]]


def test_bootstrap_interval_is_seeded_and_covers_the_mean():
    values = random(100)
    assert metrics.bootstrap_interval(values) == metrics.bootstrap_interval(values)
    assert metrics.bootstrap_interval(values) != metrics.bootstrap_interval(values, seed=1)
    hits = 0
    for seed in range(200):
        low, high = metrics.bootstrap_interval(random(100, seed=seed), repeats=500)
        hits += low <= 0 <= high
    assert 180 <= hits <= 199
    low, high = metrics.bootstrap_interval(values, np.median)
    assert low <= np.median(values) <= high


def test_the_bootstrap_interval_is_as_wide_as_that_of_a_mean():
    """For many values of unit variance it is 1.96 / sqrt(N) to either side; for the median it is wider by sqrt(pi / 2)."""
    values = np.random.default_rng(3).normal(5, 1, 400)
    for statistic, width in ((np.mean, 1.96 / 20), (np.median, 1.96 / 20 * (np.pi / 2) ** 0.5)):
        low, high = metrics.bootstrap_interval(values, statistic)
        assert (high - low) / 2 == pytest.approx(width, rel=0.12)
        assert low < statistic(values) < high
    low, high = metrics.bootstrap_interval(values, level=0.5)
    assert (high - low) / 2 == pytest.approx(0.674 / 20, rel=0.12)


def test_the_bootstrap_of_two_values_by_hand():
    """The mean of two draws is either value in a quarter of the repeats, and in half of them lies between."""
    values = np.array([0.0, 1.0])
    assert metrics.bootstrap_interval(values) == (0, 1)
    assert metrics.bootstrap_interval(values, level=0.4) == (0.5, 0.5)
    assert metrics.bootstrap_interval(np.array([0.0, 0, 0, 0, 5])) == pytest.approx((0, 3), abs=0.01)


def test_shape_faults_are_one_line():
    cases = {
        "expected (2, 4, 2); found (4, 2)": lambda: metrics.mae(random(4, 2), random(2, 4, 2)),
        "found (4, 2)": lambda: metrics.mae(random(4, 2), random(4, 2)),
        "samples and truth": lambda: metrics.crps(random(2, 5, 3, 2), random(2, 4, 2)),
        "expected (2, 5, 4, 2)": lambda: metrics.energy_score(random(2, 5, 3, 2), random(2, 4, 2)),
        "0 to 1": lambda: metrics.quantiles(random(2, 5, 3, 2), [2.0]),
        "nothing to bootstrap": lambda: metrics.bootstrap_interval(np.array([])),
    }
    for part, action in cases.items():
        with pytest.raises(JaxlvError) as caught:
            action()
        assert part in str(caught.value) and "\n" not in str(caught.value)
