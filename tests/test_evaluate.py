"""Evaluation: figures worked out by hand, what the protocol says, and that everything fits into JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from jaxlv.config import EvaluateConfig, SamplingConfig
from jaxlv.data.series import from_arrays
from jaxlv.errors import JaxlvError
from jaxlv.flops.ledger import Event, Ledger, Meter, Terms
from jaxlv.forecasting.baselines import BASELINES
from jaxlv.forecasting.evaluate import (
    LEVELS,
    UNITS,
    as_intervals,
    choose_temperature,
    evaluate,
    fit_conformal,
    half_unit,
    plain,
    score,
    truth_of,
)
from jaxlv.forecasting.forecaster import Forecaster
from jaxlv.forecasting.likelihood import nats_per_value
from jaxlv.forecasting.metrics import bootstrap_interval, coverage
from jaxlv.model.weights import load_pretrained
from jaxlv.text.codec import Codec
from jaxlv.text.tokens import load_alphabet

CONFIG = EvaluateConfig(context=8, horizon=6, samples=3, seed=5, batch_series=2)
NO_FIGURES = {"name", "per_variable", "stops_unmasked"}


@pytest.fixture(scope="module")
def series(waves):
    return replace(waves(3, 16), source={"path": "somewhere/waves.h5", "sha256": "ab" * 32})


@pytest.fixture(scope="module")
def forecaster(tiny_base) -> Forecaster:
    model, params = load_pretrained(tiny_base)
    return Forecaster(model, {"params": params}, load_alphabet(tiny_base, 32), Codec(), SamplingConfig(temperature=1.3))


@pytest.fixture(scope="module")
def measured(forecaster, series) -> tuple[dict[str, Any], dict]:
    return evaluate({"tuned": forecaster}, series, replace(CONFIG, unmasked_samples=2))


def strict_json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


# ------------------------------------------------------------------------------------------------- by hand


@pytest.fixture(scope="module")
def by_hand() -> dict[str, Any]:
    """Two series of one variable, six steps ahead of three: errors 1 in one, 3 and 0 in turn in the other."""
    series = from_arrays(np.ones((2, 9, 1)), variables=["prey"], ids=[4, 9])
    context = np.array([[1.0, 2, 4], [1, 5, 1]])[..., None]
    truth = np.array([[1.0, 2, 3, 4, 5, 6], [3, 0, 3, 0, 3, 0]])[..., None]
    point = np.array([[2.0, 3, 4, 5, 6, 7], [0, 0, 0, 0, 0, 0]])[..., None]
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
        "mae_by_series": {"4": 1, "9": 1.5},
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
    assert [row["name"] for row in measured[0]["rows"]] == ["tuned", *BASELINES]
    assert [name for name in BASELINES if name != "AutoETS"] == [
        "last value",
        "context mean",
        "seasonal naive",
        "analog",
        "VAR(3) on logs",
        "Lotka-Volterra, fitted",
        "LV + logistic, fitted",
        "RM, fitted (oracle)",
    ]


def test_a_baseline_row_is_the_score_of_its_forecast(measured, series):
    context, truth = truth_of(series, 8, 6)
    last = next(row for row in measured[0]["rows"] if row["name"] == "last value")
    assert last["mae"] == pytest.approx(np.abs(context[:, -1:] - truth).mean())


def test_a_models_row_is_the_score_of_its_filled_samples(measured, series):
    context, truth = truth_of(series, 8, 6)
    forecast = measured[1]["tuned"]
    expected = score("tuned", forecast.median(), truth, context, series, forecast.filled())
    model_s = ("valid_share", "nats_per_value", "temperature", "calibration_as_intervals")
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
    """As numbers they cover too little, as intervals too much; both are right where the rounding is fine enough."""
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


def test_a_models_row_has_its_samples_read_as_intervals(measured, forecaster, series):
    _, truth = truth_of(series, 8, 6)
    expected = as_intervals(measured[1]["tuned"].filled(), truth, half_unit(forecaster, series, 8), CONFIG.seed)
    row = measured[0]["rows"][0]
    assert row["calibration_as_intervals"] == expected and set(expected) == set(row["calibration"]) != set()
    assert measured[0]["rows"][1]["calibration_as_intervals"] is None


def test_zero_stands_for_an_interval_above_it():
    samples, truth, half = np.zeros((500, 9, 1, 1)), np.full((500, 1, 1), 0.25), np.full((500, 1), 0.5)
    assert as_intervals(samples, truth, half, 0)["80"] > 0.95
    assert as_intervals(samples, -truth, half, 0)["80"] == 0


def test_what_the_truth_costs_stands_in_the_row(measured, forecaster, series):
    nats = nats_per_value(forecaster, series, 8, 6)
    row = measured[0]["rows"][0]
    assert row["nats_per_value"] == pytest.approx(nats.mean())
    assert row["nats_per_value_per_variable"] == pytest.approx(
        {"prey": nats[..., 0].mean(), "predator": nats[..., 1].mean()}
    )
    assert row["nats_per_value_ci95"] == pytest.approx(bootstrap_interval(nats.mean(axis=(1, 2))))


def test_a_future_that_cannot_be_written_leaves_no_nats_but_the_other_figures(forecaster, series):
    wild = replace(series, values_NTV=series.values_NTV * np.where(np.arange(16) == 9, 1e8, 1.0)[:, None])
    row = evaluate({"tuned": forecaster}, wild, replace(CONFIG, unmasked_samples=0))[0]["rows"][0]
    assert row["nats_per_value"] is None and row["nats_per_value_ci95"] is None and row["mae"] > 0
    strict_json(row)


def test_a_budget_for_the_samples_alone_leaves_out_the_nats(forecaster, series, tmp_path):
    """The samples are drawn first; what is left does not hold the likelihood."""

    def spend(path, budget: int):
        with Ledger(path, Terms(budget, "exact", forecaster.model.config)) as ledger:
            metered = replace(forecaster, meter=Meter(ledger, "evaluation", Event("train_step", 1, 1)))
            row = evaluate({"tuned": metered}, series, replace(CONFIG, unmasked_samples=0))[0]["rows"][0]
            return row, ledger.entries

    _, entries = spend(tmp_path / "plenty.jsonl", 10**12)
    assert [entry.event.kind for entry in entries] == ["generation"] * 2 + ["validation"] * 2
    row, entries = spend(tmp_path / "tight.jsonl", sum(entry.flops for entry in entries[:2]) + entries[2].flops - 1)
    assert [entry.event.kind for entry in entries] == ["generation"] * 2
    assert row["nats_per_value"] is None and row["crps"] > 0


# ------------------------------------------------------------------------------- what validation series settle


def test_the_temperature_is_that_of_the_least_crps(forecaster, series):
    heard = []
    chosen, scores = choose_temperature(forecaster, series, CONFIG, [1.5, 0.2, 0.8, 0.2], heard.append)
    assert heard == [1, 2, 3] and list(scores) == ["0.2", "0.8", "1.5"]
    assert scores[f"{chosen:g}"] == min(scores.values())
    alone = evaluate({"tuned": forecaster.with_sampling(temperature=0.8)}, series, replace(CONFIG, unmasked_samples=0))
    assert scores["0.8"] == pytest.approx(alone[0]["rows"][0]["crps"])


def test_of_equal_temperatures_the_smaller_is_chosen(forecaster, series):
    """At top-k 1 all draw the same."""
    greedy = forecaster.with_sampling(top_k=1)
    assert choose_temperature(greedy, series, CONFIG, [1.0, 0.5, 0.7])[0] == 0.5


def test_no_temperatures_are_refused(forecaster, series):
    with pytest.raises(JaxlvError, match="no temperatures"):
        choose_temperature(forecaster, series, CONFIG, [])


def test_conformal_bands_stand_beside_the_raw_ones(forecaster, waves):
    """On the very series that they were fitted to, rank k of n makes the coverage at least k / n."""
    calibration = waves(5, 16)
    settings = replace(CONFIG, unmasked_samples=0)
    bands = fit_conformal(forecaster, calibration, settings)
    assert set(bands.factors) == {50, 80} and bands.factors[50].shape == (6, 2)
    # The truth of rank k lies on the very end of its band, on either side of it once the end is rounded.
    bands = replace(bands, factors={level: factor * (1 + 1e-9) for level, factor in bands.factors.items()})
    found = evaluate({"tuned": forecaster}, calibration, settings, bands={"tuned": bands})[0]["rows"]
    adjusted, width = found[0]["coverage_conformal"], found[0]["interval_width_conformal"]
    assert adjusted["50"] >= 0.6 and adjusted["80"] == 1 and adjusted["95"] is None
    assert width["50"] > 0 and width["95"] is None
    assert set(found[0]["coverage"]) == {str(level) for level in LEVELS}
    assert "coverage_conformal" not in found[1]
    strict_json(found)


def test_half_a_unit_of_the_last_decimal_is_in_raw_units(forecaster, series):
    alpha = series.values_NTV[:, :8].max(axis=1) / 5
    np.testing.assert_allclose(half_unit(forecaster, series, 8), alpha * 0.005)


def test_invalid_samples_are_counted(measured):
    """Under the grammar all are complete; without it this random model writes no numbers."""
    row = measured[0]["rows"][0]
    assert row["valid_share"] == 1
    assert row["valid_share_unmasked"] == 0
    assert sum(row["stops_unmasked"].values()) == 3 * 2
    assert "complete" not in row["stops_unmasked"]


def test_without_the_grammar_the_share_is_that_of_the_scored_samples(forecaster, series):
    free = forecaster.with_sampling(grammar=False)
    row = evaluate({"tuned": free}, series.select([0, 1]), replace(CONFIG, samples=2))[0]["rows"][0]
    assert (row["valid_share"], row["valid_share_unmasked"]) == (None, 0)
    assert row["mae"] > 0  # they count, as what a user would be left with


def test_the_protocol_holds_every_setting(measured, forecaster):
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
        "sampling": asdict(forecaster.sampling),
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
