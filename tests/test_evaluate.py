"""Evaluation: figures worked out by hand, what the protocol says, and that everything fits into JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from known import Known, known

from jaxlv.config import EvaluateConfig, SamplingConfig
from jaxlv.data.series import from_arrays
from jaxlv.errors import JaxlvError
from jaxlv.flops.ledger import Event, Ledger, Meter, Terms
from jaxlv.forecasting import evaluate as evaluation
from jaxlv.forecasting import odefit
from jaxlv.forecasting.baselines import BASELINES, context_mean
from jaxlv.forecasting.conformal import Bands, fit_bands
from jaxlv.forecasting.evaluate import (
    LEVELS,
    as_intervals,
    choose_temperature,
    fit_conformal,
    half_unit,
    truth_of,
)
from jaxlv.forecasting.metrics import bootstrap_interval, coverage, covered, crps, energy_score, mae
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.sampler import Sampler
from jaxlv.model.weights import load_pretrained
from jaxlv.results.record import plain
from jaxlv.results.scores import UNITS
from jaxlv.text.codec import Codec
from jaxlv.text.tokens import load_alphabet

CONFIG = EvaluateConfig(context=8, horizon=6, samples=3, seed=5, batch_series=2)
NO_FIGURES = {"name", "per_variable", "stops_unmasked"}
NATS = np.random.default_rng(4).lognormal(size=(3, 6, 2))


def score(*arguments: Any) -> dict[str, Any]:
    """A score as JSON holds it."""
    return evaluation.score(*arguments).tree()


def evaluate(*arguments: Any, **named: Any) -> tuple[dict[str, Any], dict]:
    """An evaluation as JSON holds it, and its forecasts."""
    found, forecasts = evaluation.evaluate(*arguments, **named)
    return found.tree(), forecasts


@pytest.fixture(scope="module")
def series(waves):
    return replace(waves(3, 16), source={"path": "somewhere/waves.h5", "sha256": "ab" * 32})


@pytest.fixture
def forecaster() -> Known:
    return known()


@pytest.fixture(scope="module")
def real(tiny_base) -> Sampler:
    model, params = load_pretrained(tiny_base)
    return Sampler(model, {"params": params}, load_alphabet(tiny_base, 32), Codec(), SamplingConfig(temperature=1.3))


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Fitted equations take seconds: their rows are those of the context's mean."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(odefit, "forecast", lambda equations, context_NCV, horizon: context_mean(context_NCV, horizon))
        yield


@pytest.fixture(autouse=True)
def costs(monkeypatch, request):
    """A model that is known has no logits: what the truth costs it is NATS, times its temperature."""
    if "real" not in request.fixturenames:
        monkeypatch.setattr(
            evaluation, "nats_per_value", lambda asked, series, *_: asked.sampling.temperature * NATS[: len(series)]
        )


@pytest.fixture(scope="module")
def measured(series) -> tuple[dict[str, Any], dict, dict[str, Known]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "nats_per_value", lambda asked, *_: asked.sampling.temperature * NATS)
        forecasters = {"tuned": known(), "untuned": known(temperature=0.4)}
        found = evaluate(forecasters, series, replace(CONFIG, unmasked_samples=2))
    return *found, forecasters


def strict_json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


# ------------------------------------------------------------------------------------------------- by hand


@pytest.fixture(scope="module")
def by_hand() -> dict[str, Any]:
    """Two series of one variable, six steps ahead of three: errors 3 and 0 in turn in the first, 1 in the other."""
    series = from_arrays(np.ones((2, 9, 1)), variables=["prey"], ids=[4, 9])
    context = np.array([[1, 5, 1], [1.0, 2, 4]])[..., None]
    truth = np.array([[3, 0, 3, 0, 3, 0], [1.0, 2, 3, 4, 5, 6]])[..., None]
    point = np.array([[0, 0, 0, 0, 0, 0], [2.0, 3, 4, 5, 6, 7]])[..., None]
    samples = point[:, None] + np.array([-2.0, 0, 2])[:, None, None]
    return score("tuned", point, truth, context, series, samples)


@pytest.mark.parametrize(
    ("figure", "value"),
    {
        "mae": (1 + 1.5) / 2,
        "mae_median": (1 + 1.5) / 2,
        "mse": (1 + 4.5) / 2,
        "rmse": (5.5 / 2) ** 0.5,
        "mae_first_5": (1 + 9 / 5) / 2,
        "mase": (1 / 1.5 + 1.5 / 4) / 2,
        "r2": 1 - (6 + 27) / (17.5 + 13.5),
        "mae_by_step": [2, 0.5, 2, 0.5, 2, 0.5],
        "mae_by_series": {"4": 1.5, "9": 1},
        # Bands of three samples reach from the first to the last; 50 % ends at positions 1 and 3 of them too.
        "coverage": {"50": 9 / 12, "80": 9 / 12, "95": 9 / 12},
        "interval_width": {"50": 4, "80": 4, "95": 4},
        # Three samples cover half the steps at most; their bands end 0.4 from the middle one at 10 %, 1.2 at 30 %.
        "calibration_ceiling": 0.5,
        "calibration": {"10": 3 / 12, "20": 3 / 12, "30": 9 / 12, "40": 9 / 12, "50": 9 / 12},
        # mean |x - y| less half the mean distance of two different samples, 8 / 3: for errors of 1, 3 and 0.
        "crps": ((5 / 3 - 4 / 3) + ((3 - 4 / 3) + (4 / 3 - 4 / 3)) / 2) / 2,
    }.items(),
)
def test_figures_by_hand(by_hand, figure, value):
    assert by_hand[figure] == pytest.approx(value)


@pytest.fixture(scope="module")
def skew_by_hand() -> dict[str, Any]:
    """Three series of two variables whose means are no medians: errors of 1 and 2, 1 and 4, 7 and 9 at five steps, three
    times as large at the sixth. Samples lie 2 and 1 below the point and 1 and 7 above it, twice as far in the third series.
    """
    error_NV = np.array([[1.0, 2], [1, 4], [7, 9]])
    swing_NV, level_NV = np.array([[1.0, 2], [3, 1], [2, 5]]), np.array([[20.0, 30], [40, 50], [60, 70]])
    truth = level_NV[:, None] + swing_NV[:, None] * np.array([-1, 1, -1, 1, -1, 1])[:, None]
    point = truth + error_NV[:, None] * np.array([1, 1, 1, 1, 1, 3])[:, None]
    rises_NV = np.array([[2, 4], [1, 8], [0, 2]])  # the mean of rises of half, half and twice as much
    context = np.cumsum(np.array([0, 0.5, 0.5, 2])[:, None] * rises_NV[:, None], axis=1)
    offset_NS = np.array([-2.0, -1, 0, 1, 7]) * np.array([[1], [1], [2]])
    samples = point[:, None] + offset_NS[:, :, None, None]
    return score("tuned", point, truth, context, from_arrays(np.ones((3, 9, 2)), ids=[4, 9, 2]), samples)


SHARE = 10 / 36  # of the values, those of which the error is 1


@pytest.mark.parametrize(
    ("figure", "value"),
    {
        # Over steps an error of 1 is one of 4 / 3; over variables the series have 3 / 2, 5 / 2 and 8 of that.
        "mae": 16 / 3,
        "mae_median": 10 / 3,
        "mae_ci95": [2, 32 / 3],  # in one of 27 repeats all series are the first, in one all the last
        "mae_first_5": 4,
        "mse": (1 + 4 + 1 + 16 + 49 + 81) / 6 * 14 / 6,
        "rmse": ((1 + 4 + 1 + 16 + 49 + 81) / 6 * 14 / 6) ** 0.5,
        "r2": (1 - 14 * 51 / (6 * 14) + 1 - 14 * 101 / (6 * 30)) / 2,
        "mase": (1 / 2 + 2 / 4 + 1 / 1 + 4 / 8 + 9 / 2) / 5 * 4 / 3,  # without the variable that does not change
        "mae_by_step": [4, 4, 4, 4, 4, 12],
        "mae_by_step_per_variable": {"prey": [3, 3, 3, 3, 3, 9], "predator": [5, 5, 5, 5, 5, 15]},
        "mae_by_series": {"4": 2, "9": 10 / 3, "2": 32 / 3},
        # The band of 50 % reaches from 1.5 below the point to 4 above it, the others from 2 below it to 7 above.
        "coverage": {"50": SHARE, "80": 1.5 * SHARE, "95": 1.5 * SHARE},
        "interval_width": {"50": 22 / 3, "80": 12, "95": 12},
        "calibration": {"10": 0, "20": 0, "30": 0, "40": SHARE, "50": SHARE, "60": SHARE},
        "calibration_ceiling": 4 / 6,
        # Of the first two series 5 of 12 values, of the third none.
        "calibration_ci95": {str(level): [0, 0 if level < 40 else 5 / 12] for level in range(10, 70, 10)},
        # |x - y| less half the mean distance of two samples: .4 for an error of 1, else the error less 1, or 2 in the third.
        "crps": (5 * 0.4 + 2 + 5 * 1 + 5 + 5 * 0.4 + 2 + 5 * 3 + 11 + 5 * 5 + 19 + 5 * 7 + 25) / 36,
        "crps_ci95": [14 / 12, 104 / 12],
    }.items(),
)
def test_figures_of_skewed_series_by_hand(skew_by_hand, figure, value):
    found = skew_by_hand[figure]
    if isinstance(value, dict):
        assert list(found) == list(value)
        for key, expected in value.items():
            assert found[key] == pytest.approx(expected), key
    else:
        assert found == pytest.approx(value)


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("prey", {"mae": 4, "mae_median": 4 / 3, "mae_ci95": [4 / 3, 28 / 3], "mse": 17 * 14 / 6, "r2": 1 - 8.5, "mase": 1}),
        ("predator", {"mae": 20 / 3, "mae_median": 16 / 3, "mae_ci95": [8 / 3, 12], "mse": 101 / 3 * 14 / 6,
                      "r2": 1 - 14 * 101 / 180, "mase": 22 / 9}),
    ],
)  # fmt: skip
def test_figures_of_a_variable_by_hand(skew_by_hand, variable, expected):
    found = skew_by_hand["per_variable"][variable]
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value), key


@pytest.mark.parametrize("figure", ["mae_ci95", "crps_ci95", "energy_score_ci95"])
def test_intervals_are_over_series_not_over_values(figure):
    """Five series, in each of which all values are alike: over their 200 values an interval would be far narrower."""
    size_N111 = np.array([1.0, 2, 3, 4, 10])[:, None, None, None]
    truth = np.zeros((5, 20, 2))
    samples = size_N111 * np.array([0.9, 1, 1.2])[:, None, None] * np.ones((5, 3, 20, 2))
    row = score("x", samples[:, 1], truth, truth, from_arrays(np.ones((5, 9, 2))), samples)
    low, high = row[figure]
    measure = {"mae_ci95": mae(samples[:, 1], truth)[:, 0], "crps_ci95": crps(samples, truth)[:, 0],
               "energy_score_ci95": energy_score(samples, truth)}[figure]  # fmt: skip
    assert [low, high] == pytest.approx(bootstrap_interval(measure))
    assert high - low > measure.mean()


def test_figures_per_variable_are_those_of_the_variable_alone(by_hand):
    assert {k: by_hand[k] for k in ("mae", "mae_median", "mse", "r2", "mase", "mae_ci95")} == by_hand["per_variable"]["prey"]
    assert by_hand["mae_by_step_per_variable"]["prey"] == by_hand["mae_by_step"]


def test_the_interval_lies_around_the_mean_within_the_series_errors(by_hand):
    low, high = by_hand["mae_ci95"]
    assert 1 <= low <= by_hand["mae"] <= high <= 1.5


def test_a_perfect_forecast(series):
    context, truth = truth_of(series, 8, 6)
    row = score("tuned", truth, truth, context, series, np.repeat(truth[:, None], 5, axis=1))
    assert [row[k] for k in ("mae", "mse", "rmse", "mae_first_5", "mase", "crps", "energy_score")] == [0] * 7
    assert row["interval_width"] == {"50": 0, "80": 0, "95": 0} and set(row["calibration"].values()) == {1}
    assert row["r2"] == 1
    assert row["coverage"] == {"50": 1, "80": 1, "95": 1}
    assert row["mae_ci95"] == [0, 0]


def test_series_at_rest_give_no_r2_or_mase_but_an_error():
    rest = from_arrays(np.full((2, 9, 2), 3.0))
    context, truth = truth_of(rest, 4, 5)
    row = score("tuned", truth + 1, truth, context, rest)
    assert (row["r2"], row["mase"], row["mae"]) == (None, None, 1.0)
    strict_json(row)


def test_a_forecast_without_samples_has_no_measures_of_samples(series):
    context, truth = truth_of(series, 8, 6)
    row = score("last value", truth, truth, context, series)
    names = (
        "crps", "crps_ci95", "coverage", "valid_share", "valid_share_unmasked", "energy_score", "energy_score_ci95",
        "interval_width", "calibration", "calibration_ci95", "calibration_ceiling",
        "calibration_as_intervals", "nats_per_value", "temperature",
    )  # fmt: skip
    assert [row[name] for name in names] == [None] * len(names)


# ---------------------------------------------------------------------------------------------- an evaluation


def test_rows_are_the_forecasters_then_the_baselines(measured):
    assert [row["name"] for row in measured[0]["rows"]] == ["tuned", "untuned", *BASELINES]
    assert [name for name in BASELINES if name != "AutoETS"] == [
        "last value",
        "context mean",
        "seasonal naive",
        "analog",
        "VAR(3) on logs",
        "Lotka-Volterra, fitted",
        "LV + logistic, fitted",
        "RM, fitted",
    ]


def test_a_baseline_row_is_the_score_of_its_forecast(measured, series):
    context, truth = truth_of(series, 8, 6)
    last = next(row for row in measured[0]["rows"] if row["name"] == "last value")
    assert last["mae"] == pytest.approx(np.abs(context[:, -1:] - truth).mean())


def test_a_models_row_is_the_score_of_its_filled_samples(measured, series):
    context, truth = truth_of(series, 8, 6)
    forecast = measured[1]["tuned"]
    expected = score("tuned", forecast.median(), truth, context, series, forecast.filled())
    model_s = ("valid_share", "stops", "nats_per_value", "temperature", "calibration_as_intervals")
    same = {key for key in expected if not key.startswith(model_s)}
    assert {k: measured[0]["rows"][0][k] for k in same} == {k: expected[k] for k in same}


def test_the_energy_score_of_one_variable_is_its_crps(by_hand):
    assert by_hand["energy_score"] == pytest.approx(by_hand["crps"])


@pytest.mark.parametrize(("samples", "last"), [(1, None), (2, 30), (9, 80), (20, 90), (39, 95)])
def test_calibration_ends_at_what_the_samples_can_cover(series, samples, last):
    context, truth = truth_of(series, 8, 6)
    row = score("tuned", truth, truth, context, series, np.random.default_rng(0).uniform(0, 5, (3, samples, 6, 2)))
    assert row["calibration_ceiling"] == pytest.approx((samples - 1) / (samples + 1))
    assert list(row["calibration"])[-1:] == ([] if last is None else [str(last)])
    assert set(row["calibration_ci95"]) == set(row["calibration"])
    assert all(low <= row["calibration"][level] <= high for level, (low, high) in row["calibration_ci95"].items())


@pytest.mark.parametrize("spread", [0.2, 0.5, 3.0])
def test_rounded_samples_of_the_right_distribution_enclose_the_diagonal(spread):
    """As numbers they cover too little, as intervals too much; both are right if the rounding is fine enough."""
    random, levels = np.random.default_rng(0), np.arange(10, 100, 10) / 100
    middle = random.uniform(20, 50, (6000, 1, 1))
    truth = middle + random.normal(scale=spread, size=(6000, 1, 1))
    samples = np.round(middle[:, None] + random.normal(scale=spread, size=(6000, 19, 1, 1)))
    found = as_intervals(samples, truth, np.full((6000, 1), 0.5), seed=1)
    assert list(found) == [f"{100 * level:.0f}" for level in levels]
    assert found == as_intervals(samples, truth, np.full((6000, 1), 0.5), seed=1)
    low, high = [coverage(samples, truth, level).mean() for level in levels], list(found.values())
    if spread < 1:
        assert (low < levels - 0.01).all() and (high > levels + 0.01).all()
    else:
        np.testing.assert_allclose([low, high], [levels, levels], atol=0.025)


def test_a_models_row_has_its_samples_read_as_intervals(measured, series):
    _, truth = truth_of(series, 8, 6)
    for row, (name, asked) in zip(measured[0]["rows"], measured[2].items(), strict=False):
        expected = as_intervals(measured[1][name].filled(), truth, half_unit(asked, series, 8), CONFIG.seed)
        assert row["calibration_as_intervals"] == expected and set(expected) == set(row["calibration"]) != set()
    assert measured[0]["rows"][2]["calibration_as_intervals"] is None


def test_samples_read_as_intervals_reach_half_a_unit_to_either_side():
    """Around a written value, truths within half a unit are covered as evenly as they lie."""
    samples, half = np.full((2000, 99, 1, 1), 5.0), np.full((2000, 1), 0.5)
    for truth in (4.55, 5.0, 5.45):
        found = as_intervals(samples, np.full((2000, 1, 1), truth), half, 0)
        assert (found["80"] == 1) == (truth == 5.0) and (found["95"] > 0.9) and found["50"] == (truth == 5.0)


def test_zero_stands_for_an_interval_above_it():
    samples, truth, half = np.zeros((500, 9, 1, 1)), np.full((500, 1, 1), 0.25), np.full((500, 1), 0.5)
    assert as_intervals(samples, truth, half, 0)["80"] > 0.95
    assert as_intervals(samples, -truth, half, 0)["80"] == 0


def test_what_the_truth_costs_stands_in_the_row_of_its_model(measured):
    for row, temperature in zip(measured[0]["rows"], (1.3, 0.4), strict=False):
        nats = temperature * NATS
        assert row["nats_per_value"] == pytest.approx(nats.mean()) and row["temperature"] == temperature
        assert row["nats_per_value_per_variable"] == pytest.approx(
            {"prey": nats[..., 0].mean(), "predator": nats[..., 1].mean()}
        )
        assert row["nats_per_value_ci95"] == pytest.approx(bootstrap_interval(nats.mean(axis=(1, 2))))


def test_a_future_that_cannot_be_written_leaves_no_nats_but_the_other_figures(real, series):
    wild = replace(series, values_NTV=series.values_NTV * np.where(np.arange(16) == 9, 1e8, 1.0)[:, None])
    row = evaluate({"tuned": real}, wild, replace(CONFIG, unmasked_samples=0))[0]["rows"][0]
    assert row["nats_per_value"] is None and row["nats_per_value_ci95"] is None and row["mae"] > 0
    strict_json(row)


def test_a_budget_for_the_samples_alone_leaves_out_the_nats(real, series, tmp_path):
    """The samples are drawn first; what is left does not hold the likelihood."""

    def spend(path, budget: int):
        with Ledger(path, Terms(budget, "exact", real.model.config)) as ledger:
            metered = replace(real, meter=Meter(ledger, "evaluation", Event("train_step", 1, 1)))
            row = evaluate({"tuned": metered}, series, replace(CONFIG, unmasked_samples=0))[0]["rows"][0]
            return row, ledger.entries

    _, entries = spend(tmp_path / "plenty.jsonl", 10**12)
    assert [entry.event.kind for entry in entries] == ["generation"] * 2 + ["validation"] * 2
    row, entries = spend(tmp_path / "tight.jsonl", sum(entry.flops for entry in entries[:2]) + entries[2].flops - 1)
    assert [entry.event.kind for entry in entries] == ["generation"] * 2
    assert row["nats_per_value"] is None and row["crps"] > 0


# ------------------------------------------------------------------------------- what validation series settle


def test_the_temperature_is_that_of_the_least_crps(forecaster, series):
    """It is not the one with the least error of the median, nor the first or last one; all are drawn in the same way."""
    heard = []
    chosen, scores = choose_temperature(forecaster, series, CONFIG, [1.5, 0.2, 0.8, 0.2], heard.append)
    assert heard == [1, 2, 3] and list(scores) == ["0.2", "0.8", "1.5"]
    _, truth = truth_of(series, 8, 6)
    drawn = {t: forecaster.with_sampling(temperature=t)(series, Request(8, 6, 3, 5)) for t in (0.2, 0.8, 1.5)}
    expected = {t: crps(one.filled(), truth).mean() for t, one in drawn.items()}
    assert scores == pytest.approx({f"{t:g}": value for t, value in expected.items()})
    errors = {t: mae(one.median(), truth).mean() for t, one in drawn.items()}
    assert chosen == min(expected, key=expected.get) != min(errors, key=errors.get)
    for asked in forecaster.asked[:3]:
        assert asked.request == Request(8, 6, 3, 5, 2) and asked.series is series and asked.sampling.temperature in drawn


def test_of_equal_temperatures_the_smaller_is_chosen(forecaster, series):
    alike = replace(forecaster, variables={"draw": lambda _, *shape: np.ones((*shape, 2)), "asked": []})
    assert choose_temperature(alike, series, CONFIG, [1.0, 0.5, 0.7])[0] == 0.5


def test_no_temperatures_are_refused(forecaster, series):
    with pytest.raises(JaxlvError, match="no temperatures"):
        choose_temperature(forecaster, series, CONFIG, [])


def test_conformal_bands_are_fitted_to_the_samples_as_they_are_scored(forecaster, waves):
    calibration = waves(5, 16)
    bands = fit_conformal(forecaster, calibration, CONFIG)
    _, truth = truth_of(calibration, 8, 6)
    drawn, half = forecaster(calibration, Request(8, 6, 3, 5)), half_unit(forecaster, calibration, 8)
    assert np.isnan(drawn.samples_NSHV).any() and set(bands.factors) == {50, 80}
    expected = fit_bands(drawn.filled(), truth, LEVELS, half).factors
    for level, factor in bands.factors.items():
        np.testing.assert_array_equal(factor, expected[level])


def test_conformal_bands_stand_beside_the_raw_ones(forecaster, series):
    """Factors of 3 widen a band threefold; a level without a factor has no figures, nor has a model without bands."""
    bands = Bands({50: np.full((6, 2), 3.0), 80: np.full((6, 2), 0.5)}, 5)
    settings, two = replace(CONFIG, unmasked_samples=0), {"tuned": forecaster, "untuned": known(temperature=0.4)}
    found = evaluate(two, series, settings, bands={"tuned": bands})[0]["rows"]
    (_, truth), half = truth_of(series, 8, 6), half_unit(forecaster, series, 8)
    filled = forecaster(series, Request(8, 6, 3, 5)).filled()
    for level in (50, 80):
        low, high = bands.interval(filled, level, half)
        assert found[0]["coverage_conformal"][str(level)] == pytest.approx(covered(low, high, truth).mean())
        assert found[0]["interval_width_conformal"][str(level)] == pytest.approx((high - low).mean())
    assert found[0]["coverage_conformal"]["95"] is found[0]["interval_width_conformal"]["95"] is None
    assert set(found[0]["coverage"]) == {str(level) for level in LEVELS}
    assert found[1]["coverage_conformal"] is found[2]["interval_width_conformal"] is None
    strict_json(found)


def test_half_a_unit_of_the_last_decimal_is_in_raw_units(forecaster, series):
    alpha = series.values_NTV[:, :8].max(axis=1) / 5
    np.testing.assert_allclose(half_unit(forecaster, series, 8), alpha * 0.005)


def test_valid_samples_are_counted_with_the_grammar_and_without(measured):
    """One of nine samples breaks off; of two each without the grammar, one more of series 0, and all of series 1."""
    row, asked = measured[0]["rows"][0], measured[2]["tuned"].asked
    assert row["valid_share"] == pytest.approx(8 / 9) and row["valid_share_unmasked"] == pytest.approx(3 / 6)
    assert row["stops_unmasked"] == {"stop": 2}  # of the second call
    assert [(one.request.samples, one.sampling.grammar) for one in asked] == [(3, True), (2, False)]


def test_without_the_grammar_the_share_is_that_of_the_scored_samples(forecaster, series):
    free = forecaster.with_sampling(grammar=False)
    row = evaluate({"tuned": free}, series, replace(CONFIG, samples=2))[0]["rows"][0]
    assert row["valid_share"] is None and row["valid_share_unmasked"] == pytest.approx(3 / 6)
    assert row["mae"] > 0  # they count, as what a user would be left with


def test_the_truth_is_what_follows_the_context(series):
    """Behind them the series goes on, which is neither."""
    context, truth = truth_of(series, 5, 4)
    np.testing.assert_array_equal(context, series.values_NTV[:, :5])
    np.testing.assert_array_equal(truth, series.values_NTV[:, 5:9])


def test_the_protocol_holds_every_setting(measured):
    protocol = measured[0]["protocol"]
    expected = {
        "data": "waves.h5",
        "data_sha256": "ab" * 32,
        "series": [0, 1, 2],
        "variables": ["prey", "predator"],
        "context": 8,
        "horizon": 6,
        "samples": 3,
        "unmasked_samples": 2,
        "seed": 5,
        "scale": "context",
        "scale_peeks_at_future": False,
        "headroom": 0.5,
        "decimals": 2,
        "sampling": asdict(measured[2]["tuned"].sampling),
        "units": UNITS,
    }
    assert {key: protocol[key] for key in expected} == expected


@pytest.mark.parametrize("rule", ["xu", "rai"])
def test_the_protocol_says_when_the_scale_looks_at_the_future(rule, forecaster, series):
    peeking = replace(forecaster, codec=Codec(rule))
    protocol = evaluate({"tuned": peeking}, series, replace(CONFIG, unmasked_samples=0))[0]["protocol"]
    assert protocol["scale_peeks_at_future"] is True
    assert "forecast window" in protocol["scale_peeks_at"]


def test_every_figure_has_a_unit(measured):
    """`mae_median` has that of `mae`: the longest name that a figure's own begins with."""
    for row in measured[0]["rows"]:
        for figure in set(row) - NO_FIGURES:
            assert any(figure == name or figure.startswith(f"{name}_") for name in UNITS), figure
    assert set(UNITS) <= set(measured[0]["rows"][0])


def test_metrics_are_json(measured):
    assert json.loads(strict_json(measured[0])) == measured[0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.array([1.0, np.nan]), [1.0, None]),
        ({1: np.inf, "b": (np.bool_(True),)}, {"1": None, "b": [True]}),
        ("text", "text"),
        (None, None),
    ],
)
def test_plain_values(value, expected):
    assert plain(value) == expected
    strict_json(plain(value))


def test_progress_is_heard_for_each_kind_of_samples(forecaster, series):
    heard = []
    evaluate({"tuned": forecaster}, series, replace(CONFIG, unmasked_samples=2), on_batch=lambda *news: heard.append(news))
    assert heard == [("tuned", 2), ("tuned", 3), ("tuned, unmasked", 2), ("tuned, unmasked", 3)]


def test_series_shorter_than_context_and_horizon_are_refused(forecaster, series):
    with pytest.raises(JaxlvError, match=r"waves\.h5: .*expected at most 16 steps; found 8 \+ 9"):
        evaluate({"tuned": forecaster}, series, replace(CONFIG, horizon=9))


def test_one_series_has_errors_and_no_intervals(waves):
    context, truth = truth_of(waves(1, 16), 8, 6)
    row = score("tuned", truth + 1, truth, context, waves(1, 16), np.repeat(truth[:, None], 5, axis=1))
    assert row["mae"] == pytest.approx(1) and row["crps"] is not None
    ends = [row["mae_ci95"], row["crps_ci95"], row["energy_score_ci95"], row["per_variable"]["prey"]["mae_ci95"]]
    assert ends == [None] * 4 and set(row["calibration_ci95"].values()) == {None}
