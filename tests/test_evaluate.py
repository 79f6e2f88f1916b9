"""Evaluation: figures worked out by hand, what the protocol says, and that everything fits into JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from jaxlv.baselines import BASELINES
from jaxlv.codec import Codec
from jaxlv.config import EvaluateConfig, SamplingConfig
from jaxlv.errors import JaxlvError
from jaxlv.evaluate import UNITS, evaluate, plain, score, truth_of
from jaxlv.forecast import Forecaster
from jaxlv.series import from_arrays
from jaxlv.tokens import load_alphabet
from jaxlv.weights import load_pretrained

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
    assert [row[k] for k in ("mae", "mse", "rmse", "mae_first_5", "mase", "crps")] == [0] * 6
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
    names = ("crps", "crps_ci95", "coverage", "valid_share", "valid_share_unmasked")
    assert [row[name] for name in names] == [None] * 5


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
    same = set(expected) - {"valid_share", "valid_share_unmasked"}
    assert {k: measured[0]["rows"][0][k] for k in same} == {k: expected[k] for k in same}


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
