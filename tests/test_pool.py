"""The pool of methods, samples stretched by rolling origins within the context, and these origins."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import jaxlv
from jaxlv.data.loading import load_series
from jaxlv.data.series import SeriesSet, from_arrays
from jaxlv.errors import JaxlvError
from jaxlv.forecasting import metrics, pool, stretching
from jaxlv.forecasting.baselines import BASELINES
from jaxlv.forecasting.origins import Within, within
from jaxlv.forecasting.request import Request
from jaxlv.studies import forecast as study
from jaxlv.studies.subjects import Asked

REQUEST = Request(30, 6, 20)


def waves(count: int = 3, noise: float = 0.05, steps: int = 36, variables: int = 1) -> SeriesSet:
    random, time_T = np.random.default_rng(0), np.arange(steps)[:, None]
    phase_NV = random.uniform(0, 6, (count, 1, variables))
    values = 5 + 2 * np.sin(2 * np.pi * time_T / 9 + phase_NV)
    return from_arrays(values * np.exp(noise * random.standard_normal(values.shape)), variables=list("abcd")[:variables])


def true_wave(series: SeriesSet, spread: float, bias: float = 0.0) -> stretching.Draw:
    """A model that knows the next value up to its own noise: it reads the value that stands there."""

    def draw(given: SeriesSet, request: Request) -> np.ndarray:
        truth_NHV = given.values_NTV[:, request.context : request.context + request.horizon]
        random = np.random.default_rng(request.seed)
        shape = (len(given), request.samples, *truth_NHV.shape[1:])
        return truth_NHV[:, None] * np.exp(bias + spread * random.standard_normal(shape))

    return draw


# Origins within a context


def test_windows_within_a_context_by_hand():
    series = from_arrays(np.arange(1.0, 21.0).reshape(1, 20, 1), variables=["lynx"])
    here = within(series, 16, 4, 3)
    assert (here.context, here.asked(REQUEST).horizon, here.series_M.tolist()) == (12, 4, [0, 0, 0])
    ends = [row[~np.isnan(row)].tolist() for row in here.windows.values_NTV[:, : here.context, 0]]
    assert ends == [[*range(1, 13)], [*range(1, 12)], [*range(1, 11)]]
    assert here.truth_MHV[:, :, 0].tolist() == [[13, 14, 15, 16], [12, 13, 14, 15], [11, 12, 13, 14]]
    assert here.windows.first_N.tolist() == [0, 1, 2]


def test_nothing_behind_the_context_is_in_a_window():
    series = waves()
    other = replace(series, values_NTV=np.concatenate([series.values_NTV[:, :30], 99 + series.values_NTV[:, 30:]], axis=1))
    one, two = (within(given, 30, 6, 4) for given in (series, other))
    np.testing.assert_array_equal(one.windows.values_NTV, two.windows.values_NTV)
    np.testing.assert_array_equal(one.truth_MHV, two.truth_MHV)


def test_a_missing_value_is_no_truth_within_a_context():
    series = waves(count=1)
    marked = replace(series, missing_NTV=(np.arange(36) == 28)[None, :, None])
    here = within(marked, 30, 6, 2)
    assert np.argwhere(np.isnan(here.truth_MHV[:, :, 0])).tolist() == [[0, 4], [1, 5]]
    assert here.windows.missing_NTV is not None


def test_short_contexts_have_short_horizons_or_no_window():
    assert within(waves(), 9, 6, 4).asked(REQUEST).horizon == 3
    assert within(waves(), 5, 6, 4) is None
    late = replace(waves(), first_N=np.array([0, 20, 0]))
    here = within(late, 30, 6, 4)
    assert here.asked(REQUEST) == Request(27, 3, 20) and (here.context - here.windows.first_N >= 5).all()
    assert np.bincount(here.series_M).tolist() == [4, 3, 4]


def test_a_window_needs_just_five_steps_before_its_origin():
    assert within(waves(), 8, 6, 4).asked(REQUEST) == Request(6, 2, 20)
    late = replace(waves(count=2), first_N=np.array([0, 9]))
    here = within(late, 20, 6, 4)  # horizon 3: origins at 17, 16, 15 and 14, of which the last has five steps behind 9
    assert here.series_M.tolist() == [0] * 4 + [1] * 4


def test_windows_within_a_context_keep_their_times():
    years = pd.DataFrame({"year": np.arange(1900, 1930), "lynx": 1.0 + np.arange(30)})
    here = within(load_series(years).ready().series, 24, 4, 3)
    for row, truth_H in enumerate(here.truth_MHV[:, :, 0]):
        steps = here.context + np.arange(4)
        assert here.windows.clock.labels(row, steps).tolist() == (1899 + truth_H).tolist()


# Stretching


@pytest.mark.parametrize("spread", [0.01, 0.05, 0.2])
def test_stretched_bands_hold_their_share(spread: float):
    """Whatever spread the model claims, its bands hold 80 % after stretching, as far as the limits of a factor go."""
    series = waves(count=200, noise=0.0)
    random = np.random.default_rng(3)
    noisy = replace(series, values_NTV=series.values_NTV * np.exp(0.1 * random.standard_normal(series.values_NTV.shape)))

    def model(given: SeriesSet, request: Request) -> np.ndarray:
        rows = given.ids_N if len(given) == 200 else np.repeat(np.arange(200), 4)[given.ids_N]
        back = np.zeros(len(given), int) if len(given) == 200 else given.first_N
        index_MH = request.context - back[:, None] + np.arange(request.horizon)
        clean = series.values_NTV[rows[:, None], index_MH]
        drawn = np.random.default_rng(1).standard_normal((len(given), request.samples, *clean.shape[1:]))
        return clean[:, None] * np.exp(spread * drawn)

    truth_NHV = noisy.values_NTV[:, 30:]
    before = metrics.coverage(model(noisy, REQUEST), truth_NHV, 0.8).mean()
    after = metrics.coverage(stretching.calibrated(noisy, REQUEST, model), truth_NHV, 0.8).mean()
    assert abs(after - 0.8) < 0.05 or (spread == 0.01 and before < after)


def test_each_step_ahead_has_a_factor_of_its_own():
    """A model that is as sure of the last step as of the first holds 80 % at each, and the steps beyond are as the last."""
    series = waves(count=100, noise=0.0)
    index_H, random = 30 + np.arange(6), np.random.default_rng(3)
    here = within(series, 30, 6, 4)
    widths_H1 = 0.05 * np.array([1, 1.5, 2, 2.5, 3, 4])[:, None]
    truth = here.truth_MHV * np.exp(widths_H1 * random.standard_normal(here.truth_MHV.shape))
    noisy = replace(here, truth_MHV=truth)
    drawn = here.truth_MHV[:, None] * np.exp(0.05 * random.standard_normal((len(truth), 20, *truth.shape[1:])))
    found = stretching.Stretching.fitted(drawn, noisy, series, 30)
    np.testing.assert_allclose(
        found.factor_NH.mean(axis=0) / found.factor_NH[:, :1].mean(), widths_H1[:, 0] / 0.05, rtol=0.25
    )
    ahead = series.values_NTV[:, index_H][:, None] * np.exp(0.05 * random.standard_normal((100, 20, 6, 1)))
    longer = np.concatenate([ahead, ahead[:, :, -1:]], axis=2)
    np.testing.assert_array_equal(found.ahead(longer)[:, :, -1], found.ahead(longer)[:, :, -2])


def test_stretching_by_hand():
    samples = np.array([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1)
    none = np.zeros((1, 1, 1))
    np.testing.assert_allclose(stretching.stretched(samples, np.array([[2.0]]), none).ravel(), [0.5, 2, 8])
    np.testing.assert_allclose(stretching.stretched(samples, np.array([[1.0]]), none), samples)
    pushed = stretching.stretched(samples, np.array([[40.0]]), np.full((1, 1, 1), 1.0)).ravel()
    assert pushed[0] == 0 and pushed[1] == pytest.approx(2)


def needing(factors_MHV: np.ndarray, series_M: np.ndarray) -> tuple[np.ndarray, Within]:
    """Samples of a model, and windows whose truth lies at so many times the end of its 80 % band (below it, if negative).

    The band reaches twice as far up as down.
    """
    logs_S = np.concatenate([np.linspace(-0.1, 0, 10), np.linspace(0, 0.2, 11)[1:]])
    low, high = metrics.central_interval(logs_S[None, :, None, None], 0.8)
    middle = np.median(logs_S)
    ends = np.where(factors_MHV > 0, high.item() - middle, middle - low.item())
    samples = np.exp(np.broadcast_to(logs_S[None, :, None, None], (len(factors_MHV), 20, *factors_MHV.shape[1:])))
    return samples, Within(waves(), series_M, 30, np.exp(middle + factors_MHV * ends))


def factors_of(factors_MHV: np.ndarray, series_M: np.ndarray, count: int) -> np.ndarray:
    samples, here = needing(factors_MHV, series_M)
    return stretching._factors(samples, here, np.zeros((len(factors_MHV), 1, 1)), count)


def test_factors_by_hand():
    """Two values: 80 % of them need 1 + .8 = 1.8; each series is drawn to its own by 1 of 25 parts."""
    found = factors_of(np.array([1.0, -2.0]).reshape(2, 1, 1), np.array([0, 1]), 2)
    together = stretching.OTHERS + 1
    expected = [1.8 * (own / 1.8) ** (1 / together) for own in (1.0, 2.0)]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)


def test_where_the_truth_is_missing_nothing_is_needed():
    known = np.array([[1.0, -2.0], [1.5, 1.5]])[..., None]
    gone = np.concatenate([known, np.full((1, 2, 1), np.nan)])
    found = factors_of(gone, np.array([0, 1, 1]), 3)
    np.testing.assert_allclose(found[:2], factors_of(known, np.array([0, 1]), 2))
    assert np.isfinite(found).all()


def test_a_factor_has_limits():
    """A series and a step that both need more than the others do not get both together."""
    needed = np.ones((10, 100, 10, 1))
    needed[9], needed[:, :, 9] = 3.9, 3.9
    found = factors_of(needed.reshape(1000, 10, 1), np.repeat(np.arange(10), 100), 10)
    assert found.max() == found[9, 9] == stretching.LIMITS[1] and found[0, 0] == pytest.approx(1)


def test_windows_are_stretched_as_their_series_are():
    samples = np.exp(np.linspace(-1, 1, 5))[None, :, None, None] * np.ones((3, 5, 1, 1))
    size_N1V, factor_NH = np.array([0.0, 2.0]).reshape(2, 1, 1), np.array([[1.0], [3.0]])
    here = Within(waves(), np.array([1, 0, 1]), 30, np.ones((3, 1, 1)))
    found = stretching.Stretching(factor_NH, size_N1V, samples).within(here)
    np.testing.assert_allclose(found[1], samples[1])
    np.testing.assert_allclose(found[[0, 2]], stretching.stretched(samples[:2], factor_NH[[1, 1]], size_N1V[[1, 1]]))


# The pool


def test_the_pool_prefers_who_forecast_the_context_best():
    series = waves(count=4)
    good, bad = (pool.pool(series, REQUEST, true_wave(series, 0.01, bias)) for bias in (0.0, 1.5))
    assert set(good.weights) == {"model", "analog", "VAR(3) on logs"}
    assert (good.weights["model"] > 0.6).all() and (bad.weights["model"] < 0.1).all()
    for one in (good, bad):
        np.testing.assert_allclose(sum(one.weights.values()), 1)
        assert one.samples_NSHV.shape == (4, pool.SAMPLES, 6, 1) and (one.samples_NSHV >= 0).all()


def test_the_pool_has_of_each_member_its_share():
    members = {"a": np.zeros((2, 5, 1, 1)), "b": np.ones((2, 3, 1, 1))}
    mixed = pool._mixed(members, {"a": np.array([0.25, 1.0]), "b": np.array([0.75, 0.0])}, seed=0)
    assert mixed.sum(axis=(1, 2, 3)).tolist() == [75, 0]


def test_weights_by_hand():
    scores = {"a": np.array([[1.0], [3.0]]), "b": np.array([[2.0], [6.0]])}
    weights = pool._weights(scores, np.array([0, 0]), 1)
    assert weights["a"] == pytest.approx([0.8]) and weights["b"] == pytest.approx([0.2])  # 1 to 1 / 4


def test_weights_are_those_of_each_series_and_no_variable_weighs_more_for_its_size():
    scores = {"a": np.array([[1.0, 100], [1, 100], [2, 100]]), "b": np.array([[1.0, 300], [1, 300], [1, 100]])}
    weights = pool._weights(scores, np.array([0, 0, 1]), 2)
    # By variable, of the mean of both: a has 1 and 1 / 2, b has 1 and 3 / 2; then a has 4 / 3 and 1, b has 2 / 3 and 1.
    first, second = (1.25 / 0.75) ** 2, ((5 / 6) / (7 / 6)) ** 2
    np.testing.assert_allclose(weights["a"], [first / (1 + first), second / (1 + second)])


def test_every_window_weighs_the_same():
    """A window in which everybody errs ten times as much does not decide alone."""
    scores = {"a": np.array([[1.0], [20.0]]), "b": np.array([[2.0], [10.0]])}
    assert pool._weights(scores, np.array([0, 0]), 1)["a"] == pytest.approx([0.5])


def test_the_crps_is_the_mean_over_the_steps_that_are_known():
    samples = np.array([[1.0, 5.0], [1.0, 5.0]]).reshape(1, 2, 2, 1)
    assert pool._crps(samples, np.array([np.nan, 8.0]).reshape(1, 2, 1)).tolist() == [[3.0]]


def test_nothing_behind_the_context_is_in_a_pool():
    """Series whose future is another get the same samples and weights from a model that does not look there."""
    series = waves()
    other = replace(series, values_NTV=np.concatenate([series.values_NTV[:, :30], 9 * series.values_NTV[:, 30:]], axis=1))

    def last(given: SeriesSet, request: Request) -> np.ndarray:
        spread_S = np.exp(np.linspace(-0.2, 0.2, request.samples))[:, None, None]
        return (given.values_NTV[:, None, request.context - 1, None] * spread_S).repeat(request.horizon, axis=2)

    one, two = (pool.pool(given, REQUEST, last) for given in (series, other))
    np.testing.assert_array_equal(one.samples_NSHV, two.samples_NSHV)
    for name, weight_N in one.weights.items():
        np.testing.assert_array_equal(weight_N, two.weights[name])


def test_a_model_is_weighted_with_its_samples_stretched(monkeypatch: pytest.MonkeyPatch):
    exact = {"within": lambda self, here: here.truth_MHV[:, None].repeat(20, axis=1)}
    series = waves()
    plain = pool.pool(series, REQUEST, true_wave(series, 0.3)).weights["model"]
    monkeypatch.setattr(stretching.Stretching, "within", exact["within"])
    assert (plain < 0.9).all() and (pool.pool(series, REQUEST, true_wave(series, 0.3)).weights["model"] > 0.99).all()


def test_samples_of_a_member_are_drawn_by_the_seed_and_each_but_once():
    members = {"a": np.arange(200.0).reshape(1, 200, 1, 1)}
    one, again, other = (pool._mixed(members, {"a": np.ones(1)}, seed).ravel() for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert len(set(one)) == pool.SAMPLES and one.max() > 150 and set(one) != set(other)


def test_a_series_is_spread_by_its_own_errors_and_beyond_their_horizon_by_the_last():
    errors = pool.Errors(np.log([[[1.0], [2.0]], [[3.0], [5.0]]]), np.array([0, 1]), np.zeros((2, 1, 1)))
    found = errors.ahead(np.ones((2, 3, 1)))
    for row, ends in enumerate([[1.0, 2.0, 2.0], [3.0, 5.0, 5.0]]):
        np.testing.assert_allclose(found[row, :, :, 0].max(axis=0), ends)
        np.testing.assert_allclose(found[row, :, :, 0].min(axis=0), 1 / np.array(ends))


def test_a_method_sees_no_step_before_a_series_begins():
    series = waves(count=2)
    late = replace(series, values_NTV=series.values_NTV.copy(), first_N=np.array([0, 10]))
    late.values_NTV[1, :10] = np.nan
    alone = replace(series.rows(np.array([1])), values_NTV=series.values_NTV[1:, 10:])
    found = pool._point(BASELINES["analog"], late, REQUEST)
    np.testing.assert_array_equal(found[1:], pool._point(BASELINES["analog"], alone, replace(REQUEST, context=20)))


def test_a_window_is_not_scored_by_its_own_error():
    series = waves(count=1)
    here = within(series, 30, 6, 2)
    past = here.truth_MHV * np.array([1.0, 2.0]).reshape(2, 1, 1)  # the first is exact, the second twice too large
    errors = pool.Errors.of(past, here, series, 30)
    samples = errors.within(past)
    assert (np.abs(samples[0] - here.truth_MHV[0]) > 0.5).all()  # spread by the error of the second
    np.testing.assert_allclose(samples[1], past[None, 1].repeat(pool.SAMPLES, axis=0))  # by that of the first: none


def test_errors_are_spread_both_ways_about_the_forecast():
    series = waves(count=1)
    here = within(series, 30, 6, 4)
    errors = pool.Errors.of(1.3 * here.truth_MHV, here, series, 30)
    point = np.full((1, 6, 1), 4.0)
    size = float(errors.size_N1V[0, 0, 0])
    low, high = (np.log(end + size) - np.log(4 + size) for end in (errors.ahead(point).min(), errors.ahead(point).max()))
    assert low == pytest.approx(-high) and high == pytest.approx(np.log(1.3), abs=0.02)


def test_without_room_the_model_is_the_pool():
    series = waves(steps=12)
    request = Request(5, 6, 20)
    found = pool.pool(series, request, true_wave(series, 0.1))
    np.testing.assert_array_equal(found.samples_NSHV, true_wave(series, 0.1)(series, request))
    assert list(found.weights) == ["model"]


def test_two_species_have_the_fitted_equations_too():
    series = waves(count=1, variables=2)
    assert set(pool.pool(series, REQUEST, true_wave(series, 0.1)).weights) == {"model", *pool.MEMBERS}
    assert set(pool.MEMBERS) <= set(BASELINES)


def test_a_step_that_is_shown_in_part_is_no_step_ahead():
    series = waves(count=1)
    shown, whole = replace(REQUEST, shown=2), replace(REQUEST, horizon=REQUEST.horizon + 1)
    later, both = (pool._point(BASELINES["VAR(3) on logs"], series, request) for request in (shown, whole))
    np.testing.assert_array_equal(later, both[:, 1:])


def test_an_oracle_is_no_member():
    series = replace(
        waves(count=1, variables=2), source={"simulation": {"system": "rosenzweig-macarthur", "parameters": {}}}
    )
    assert "RM, fitted" not in pool.pool(series, REQUEST, true_wave(series, 0.1)).weights


def test_an_unknown_method_is_refused():
    with pytest.raises(JaxlvError, match="unknown method"):
        pool.forecast("oracle", None, waves(), REQUEST)


@pytest.fixture(scope="module")
def measured() -> jaxlv.Scores:
    time_T = np.arange(24)
    wave = 5 + 2 * np.sin(time_T / 2) + 0.2 * np.cos(5 * time_T)
    return jaxlv.Forecaster("embedded", progress=False).evaluate(
        {"year": 1900 + time_T, "lynx": wave}, 4, samples=4, pool=True
    )


def test_the_pool_is_a_row_of_an_evaluation_and_no_rival(measured):
    row = measured.metrics.row("pool")
    assert row is not None and row.crps is not None and row.coverage is not None
    assert not row.is_rival and not row.is_model and row.name not in [one.name for one in measured.metrics.rivals]
    assert [one.name for one in measured.metrics.rows][:2] == ["untuned", "pool"]


def test_predict_by_the_pool_and_with_stretched_samples():
    forecaster, data = jaxlv.Forecaster("embedded", progress=False), 5 + 2 * np.sin(np.arange(24) / 2)[:, None]
    plain, wide, pooled = (
        forecaster.predict(data, 4, samples=5, **how) for how in ({}, {"calibrate": True}, {"method": "pool"})
    )
    assert plain.samples.shape[1] == wide.samples.shape[1] == 5 and pooled.samples.shape[1] == pool.SAMPLES
    np.testing.assert_allclose(np.median(wide.samples, axis=1), np.median(plain.samples, axis=1), rtol=1e-9)
    assert (wide.samples != plain.samples).any()


def test_the_program_forecasts_by_the_pool_and_says_so(tmp_path):
    time_T = np.arange(24)
    pd.DataFrame({"year": 1900 + time_T, "lynx": 5 + 2 * np.sin(time_T / 2)}).to_csv(tmp_path / "lynx.csv", index=False)
    asked = Asked("embedded", data=tmp_path / "lynx.csv", protocol={"horizon": 4, "samples": 5})
    found = study.forecast(asked, tmp_path / "out", study.Ahead(method="pool"))
    assert found.settings.method == "pool" and len(found.next) == 4
    samples = pd.read_csv(tmp_path / "out" / study.TABLE)["statistic"].str.startswith("sample_").sum()
    assert samples == 4 * pool.SAMPLES
    assert json.loads((tmp_path / "out" / study.SETTINGS).read_text())["method"] == "pool"
    with pytest.raises(JaxlvError, match="a model's alone"):
        study.forecast(asked, tmp_path / "other", study.Ahead(reach=2, method="calibrated"))
