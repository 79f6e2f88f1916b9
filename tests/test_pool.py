"""The pool of methods, samples stretched by rolling origins within the context, and these origins."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import jaxlv
from jaxlv.data.series import SeriesSet, from_arrays
from jaxlv.errors import JaxlvError
from jaxlv.forecasting import metrics, pool, stretching
from jaxlv.forecasting.baselines import BASELINES
from jaxlv.forecasting.origins import within
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
