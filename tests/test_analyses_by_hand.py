"""Analyses of forecasts by hand: means that are no medians, variables that differ, errors of exactly zero."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from known import known

from jaxlv.analysis import analyses
from jaxlv.analysis.analyses import Drawn
from jaxlv.config import EvaluateConfig, SamplingConfig
from jaxlv.data.series import from_arrays
from jaxlv.forecasting.baselines import BASELINES
from jaxlv.forecasting.forecast import Forecast
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.sampler import Sampler
from jaxlv.results.analyses import Analyses
from jaxlv.text.codec import Codec
from jaxlv.text.tokens import load_alphabet

C = 4
ALPHABET = load_alphabet(Path("no such folder"), 151_936)


def drawn_of(error_NHV: np.ndarray, **others: np.ndarray) -> Drawn:
    """Forecasts of a model "tuned" with these errors, and of models or baselines ("..._baseline") with others."""
    N, H, _ = error_NHV.shape
    values_NTV = 50.0 + np.random.default_rng(0).integers(0, 99, (N, C + H, 2))  # whole, so that errors are exact
    series = from_arrays(values_NTV, 3.0 + np.arange(C + H), ids=70 + np.arange(N))
    truth_NHV = values_NTV[:, C:]
    points = {name: truth_NHV + error for name, error in {"tuned": error_NHV, **others}.items()}
    forecasts = {
        name: Forecast.of(series, C, point[:, None], {}) for name, point in points.items() if "baseline" not in name
    }
    return Drawn(series, C, truth_NHV, forecasts, points)


def test_the_points_are_the_medians_of_the_models_and_what_baselines_make_of_the_context(waves, monkeypatch):
    monkeypatch.setattr(analyses, "baselines_for", lambda _: {"last value": BASELINES["last value"]})
    series, tuned, untuned = waves(3, 16), known(), known(temperature=0.4)
    heard = []
    config = EvaluateConfig(context=8, horizon=6, samples=3, seed=5, batch_series=2)
    found = analyses.draw({"tuned": tuned, "untuned": untuned}, series, config, lambda *news: heard.append(news))
    assert found.subject == "tuned" and list(found.points) == ["tuned", "untuned", "last value"]
    for name in ("tuned", "untuned"):
        np.testing.assert_array_equal(found.points[name], np.median(found.forecasts[name].filled(), axis=1))
    np.testing.assert_array_equal(found.points["last value"], np.repeat(series.values_NTV[:, 7:8], 6, axis=1))
    np.testing.assert_array_equal(found.truth_NHV, series.values_NTV[:, 8:14])
    assert heard == [("tuned", 2), ("tuned", 3), ("untuned", 2), ("untuned", 3)]
    assert tuned.asked[0].request == Request(8, 6, 3, 5, 2)


def test_growth_by_hand():
    """Series err by 1, 2, 4, 8 and 30 of a size that has a mean of 2 over the first five steps and of 10 over the last."""
    size_N, size_H = np.array([1.0, 2, 4, 8, 30]), np.array([1.0, 1, 1, 1, 6, 3, 3, 5, 5, 5, 5, 30])
    error_NHV = -size_N[:, None, None] * size_H[:, None] * np.array([1.0, 0.5])
    tuned = analyses.error_growth(drawn_of(error_NHV)).tree()["methods"]["tuned"]
    np.testing.assert_allclose(tuned["mean"], 9 * 0.75 * size_H)
    np.testing.assert_allclose(tuned["median"], 4 * 0.75 * size_H)
    np.testing.assert_allclose(tuned["p10"], 1.4 * 0.75 * size_H)
    np.testing.assert_allclose(tuned["p90"], 21.2 * 0.75 * size_H)
    np.testing.assert_allclose(tuned["mean_by_variable"]["prey"], 9 * size_H)
    np.testing.assert_allclose(tuned["mean_by_variable"]["predator"], 4.5 * size_H)
    assert (tuned["first"], tuned["last"], tuned["growth"]) == pytest.approx((13.5, 67.5, 5))
    short = analyses.error_growth(drawn_of(error_NHV[:, :5])).tree()
    assert short["edge"] == 2  # of five steps, the first two and the last two
    assert short["methods"]["tuned"]["last"] == pytest.approx(9 * 0.75 * 3.5)


def test_signed_errors_by_hand():
    """An error of zero is not too high; a forecast of 4 too much errs by +4."""
    error_NHV = np.array([[[0.0, 2], [1, 3]], [[-1, -4], [4, 7]]])
    other_NHV = np.array([[[9.0, -9], [9, -9]], [[9, -9], [9, -9]]])
    found = analyses.error_distribution(drawn_of(error_NHV, untuned=other_NHV, a_baseline=3 * other_NHV), bins=3).tree()
    prey, predator = (found["methods"]["tuned"]["by_variable"][v] for v in ("prey", "predator"))
    assert prey == pytest.approx(
        {"mean": 1, "sd": 3.5**0.5, "share_above": 0.5, "p05": -0.85, "p25": -0.25, "p50": 0.5, "p75": 1.75, "p95": 3.55}
    )
    assert (predator["mean"], predator["share_above"], predator["p50"]) == pytest.approx((2, 0.75, 2.5))
    sizes = found["methods"]["tuned"]["absolute_quantiles"]
    assert sizes[0] == 0 and sizes[100] == pytest.approx(7) and sizes[50] == pytest.approx(2.5)
    # The worst model errs by 9: bins from there to 9, a third each; the baseline lies beyond and does not count.
    np.testing.assert_allclose(found["edges"], [-9, -3, 3, 9])
    assert found["histograms"] == {
        "tuned": {"prey": [0, 0.75, 0.25], "predator": [0.25, 0.25, 0.5]},  # an edge belongs to the bin on its right
        "untuned": {"prey": [0, 0, 1], "predator": [1, 0, 0]},
    }


# Mean squared errors of five series, whose larger ones and means are in other orders: 9 2 8 5 90, and 4.5 2 7.5 3 50.
MSE_NV = np.array([[9.0, 0.5], [2, 1.5], [7, 8], [1, 5], [10, 90]])


def test_series_by_series_by_hand():
    error_NHV = np.sqrt(MSE_NV)[:, None] * np.array([1.0, -1])[:, None]
    found = analyses.series_errors(drawn_of(error_NHV)).tree()["methods"]["tuned"]
    assert found["series"] == [71, 73, 72, 70, 74]
    order = [1, 3, 2, 0, 4]
    np.testing.assert_allclose(found["mse"]["prey"], MSE_NV[order, 0])
    np.testing.assert_allclose(found["mse"]["predator"], MSE_NV[order, 1])
    np.testing.assert_allclose(found["log10_mse"]["predator"], np.log10(MSE_NV[order, 1]))
    assert found["median_log10_mse"] == pytest.approx({"prey": np.log10(7), "predator": np.log10(5)})
    # Ranks 4 2 3 1 5 and 1 2 4 3 5: their differences' squares add up to 9 + 0 + 1 + 4 + 0.
    assert found["rank_correlation"] == pytest.approx(1 - 6 * 14 / (5 * 24))
    assert found["share_first_larger"] == pytest.approx(2 / 5)


def test_the_best_the_median_and_the_worst_series_are_by_the_larger_error():
    error_NHV = np.sqrt(MSE_NV)[:, None] * np.array([1.0, -1])[:, None]
    made = drawn_of(error_NHV, untuned=error_NHV[::-1])
    found = analyses.extremes(made).tree()
    assert [(one["which"], one["series"]) for one in found["picked"]] == [("best", 71), ("median", 72), ("worst", 74)]
    assert [one["mse"] for one in found["picked"]] == pytest.approx([2, 8, 90]) and found["model"] == "tuned"
    for one, row in zip(found["picked"], (1, 2, 4), strict=True):
        np.testing.assert_array_equal(one["context"], made.series.values_NTV[row, :C])
        np.testing.assert_array_equal(one["truth"], made.series.values_NTV[row, C:])
        np.testing.assert_array_equal(one["samples"], made.forecasts["tuned"].samples_NSHV[row])
        np.testing.assert_array_equal(one["time"], made.series.time_T)


def test_ids_that_are_texts_stay_texts_and_bands_that_an_older_file_lacks_are_found_again():
    made = drawn_of(np.sqrt(MSE_NV)[:, None] * np.array([1.0, -1])[:, None])
    names = np.array(["north", "south", "east", "west", "mid"])
    found = analyses.extremes(replace(made, series=replace(made.series, ids_N=names)))
    assert [one.series for one in found.picked] == ["south", "east", "mid"]
    whole = Analyses.read(Analyses(extremes=found).tree(), "analyses.json")
    assert whole.extremes == found and found.picked[0].bands
    tree = whole.tree()
    for one in tree["extremes"]["picked"]:
        del one["bands"], one["median"]
    assert analyses.with_bands(Analyses.read(tree, "analyses.json")) == whole
    panel, series = found.picked[1].panel(found.variables), made.series.values_NTV[2]
    np.testing.assert_array_equal(panel.median_HV, made.forecasts["tuned"].samples_NSHV[2, 0])
    np.testing.assert_array_equal(panel.observed_TV, series)


def test_the_top_of_the_scale_by_hand():
    """Three samples under each of two head-rooms, 0 and 60 %: the top is at 1 and 2.5 times the context's maximum, 8.

    Prey rise to 16: three samples had to pass 8, two of which did. Predators rise to 12: the same three.
    """
    values_NTV = np.full((1, C + 2, 2), 8.0)
    values_NTV[0, C:] = [[16, 12], [4, 5]]
    series = from_arrays(values_NTV, ids=[70])
    peaks_SV = np.array([[7.9, 6], [4, 9], [10, 20], [8, 21], [12, 8.1], [18, 6]])
    samples_NSHV = np.stack([peaks_SV, peaks_SV / 2], axis=1)[None]
    forecast = Forecast.of(series, C, samples_NSHV, {})
    made = Drawn(series, C, values_NTV[:, C:], {"tuned": forecast}, {})
    writer = Sampler(None, {}, ALPHABET, Codec(headrooms=(0.0, 0.6)), SamplingConfig())  # type: ignore[arg-type]
    found = analyses.ceiling(made, writer, "tuned").tree()
    # Samples 0, 2 and 4 end at a top of 8, the others at one of 20.
    points = {(point["variable"], point["headroom"]): point for point in found["points"]}
    assert {place: (p["true_over_top"], p["forecast_over_true"]) for place, p in points.items()} == {
        ("prey", 0.0): (2, pytest.approx(10 / 16)), ("prey", 0.6): (pytest.approx(0.8), pytest.approx(8 / 16)),
        ("predator", 0.0): (1.5, pytest.approx(8.1 / 12)), ("predator", 0.6): (pytest.approx(0.6), pytest.approx(9 / 12)),
    }  # fmt: skip
    assert {point["true_over_context"] for point in found["points"]} == {2, 1.5}
    ratios = [p / top for column in peaks_SV.T for p, top in zip(column, (8, 20) * 3, strict=True)]
    assert found["samples"] == 12 and found["near_top"] == sum(abs(ratio - 1) <= 0.02 for ratio in ratios) == 2
    assert found["above_top"] == sum(ratio > 1 for ratio in ratios) == 5  # prey 10 and 12; predators 20, 8.1 and 21
    assert (found["truth_above_top"], found["followed"]) == (6, 4)
    middle = np.median([10 / 16, 8 / 16, 8.1 / 12, 9 / 12])
    assert found["median_forecast_over_true"] == pytest.approx(middle)


def test_the_round_trip_by_hand():
    """In a scale of .5 raw units, two decimals: steps of .005, which rounding shifts by at most .0025."""
    values_NTV = np.full((2, 6, 2), 2.0)
    values_NTV[0, :3, 0] += [0.001, 0.002, 0.0024]
    values_NTV[0, 0, 1] += 0.0005
    values_NTV[1, 5, 1] += 0.00245
    found = analyses.round_trip(from_arrays(values_NTV, ids=[8, 9]), Codec(scale="liu"), ALPHABET, C, 8).tree()
    (one,) = found["variants"]
    assert one["half_unit"] == pytest.approx([0.0025, 0.0025]) and one["headroom"] is None and found["within"]
    np.testing.assert_allclose(np.array(one["difference"]).T[0], [0.001, 0.002, 0.0024, 0, 0, 0], atol=1e-12)
    assert one["mean"] == pytest.approx([0.0054 / 6, 0.0005 / 6]) and one["greatest"] == pytest.approx([0.0024, 0.0005])
    assert one["greatest_ratio"] == pytest.approx([0.96, 0.2]) and one["greatest_ratio_of_all"] == pytest.approx(0.98)
    assert one["mean_ratio_of_all"] == pytest.approx((0.0054 + 0.0005 + 0.00245) / 0.0025 / 24)
    assert one["text"].startswith("4.00,4.00;4.00,") and one["tokens"] == 60 and found["all_series"] == 2
