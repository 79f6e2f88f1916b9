"""What a forecaster gives back, by samples that are known: which number stands in which row under which head."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from jaxlv.data.loading import load_series
from jaxlv.forecasting.forecast import Forecast
from jaxlv.outcomes import Prediction, Scores
from jaxlv.report import runs
from jaxlv.report.page import Page
from jaxlv.results.scores import Evaluation, Protocol, Score

SITES = ("north", "south")


def predicted(*sites: str, columns: tuple[str, ...] = ("hare", "lynx")) -> Prediction:
    """Of site n, step h and variable v the samples 1000 n + 100 h + 10 v + 0, 1 and 5, whose median is not their mean."""
    frames = [
        pd.DataFrame(
            {"site": site, "year": range(1900 + 5 * n, 1906 + 5 * n)} | {name: np.arange(1.0, 7) for name in columns}
        )
        for n, site in enumerate(sites)
    ]
    series = load_series(pd.concat(frames)).ready().series
    n, h, v = np.indices((len(sites), 2, len(columns)))
    samples_NSHV = (1000 * n + 100 * h + 10 * v)[:, None] + np.array([0.0, 1, 5])[:, None, None]
    return Prediction(Forecast.of(series, 6, samples_NSHV, {}), series)


def test_the_point_forecast_is_the_median():
    made = predicted(*SITES)
    assert made.median.tolist() == [[[1, 11], [101, 111]], [[1001, 1011], [1101, 1111]]]
    assert made.frame["median"].tolist() == made.median.ravel().tolist()


def test_each_row_has_the_site_the_year_and_the_variable_of_its_numbers():
    found = predicted(*SITES).frame
    rows = [(site, 1906 + 5 * n + h, name) for n, site in enumerate(SITES) for h in (0, 1) for name in ("hare", "lynx")]
    assert list(found[["site", "year", "variable"]].itertuples(index=False, name=None)) == rows
    wide = predicted(*SITES).to_frame("wide")
    assert wide.columns.tolist() == ["site", "year", "hare", "lynx"]
    assert wide.values.tolist() == [
        ["north", 1906, 1, 11], ["north", 1907, 101, 111], ["south", 1911, 1001, 1011], ["south", 1912, 1101, 1111],
    ]  # fmt: skip


def test_quantiles_stand_under_their_own_probability_in_any_order():
    found = predicted("north", columns=("hare",)).quantiles([0.75, 0.25, 0.5])
    assert found.columns.tolist()[-3:] == ["0.75", "0.25", "0.5"]
    assert found[["0.75", "0.25", "0.5"]].iloc[0].tolist() == [5, 0, 1]


def test_nixtlas_columns_hold_their_own_ends_and_each_variable_is_a_series():
    found = predicted(*SITES).to_frame("nixtla")
    assert found.unique_id.tolist() == [f"{site}/{name}" for name in ("hare", "lynx") for site in SITES for _ in (0, 1)]
    assert found.ds.tolist() == [1906, 1907, 1911, 1912] * 2
    assert found.jaxlv.tolist() == [1, 101, 1001, 1101, 11, 111, 1011, 1111]
    low, high = predicted(*SITES).frame[["low_80", "high_80"]].to_numpy().T
    assert (low < high).all() and found["jaxlv-lo-80"].tolist() == [*low[::2], *low[1::2]]
    assert found["jaxlv-hi-80"].tolist() == [*high[::2], *high[1::2]]
    assert predicted("north", columns=("hare",)).to_frame("nixtla").unique_id.tolist() == ["north"] * 2


def test_one_series_has_its_id_if_the_caller_gave_one():
    assert predicted("north").frame.columns.tolist()[:3] == ["site", "year", "variable"]
    values = load_series(np.arange(1.0, 7)).ready().series
    alone = Prediction(Forecast.of(values, 6, np.ones((1, 1, 2, 1)), {}), values)
    assert "median" in alone.frame.columns[2:3] and alone.frame.shape == (2, 5)


@pytest.fixture
def scores() -> Any:
    """An untuned and a tuned model, in this order."""
    levels = {50: 0.51, 80: 0.82, 95: 0.93}
    row = Score(name="tuned", mae=1.0, mae_ci95=(0.5, 1.75), mase=0.25, crps=0.75, coverage=levels)
    untuned, tuned = predicted(*SITES), predicted(*SITES[::-1])
    evaluation = Evaluation(Protocol(series=SITES), (row, Score(name="last value", mae=2.0)))
    return Scores(evaluation, {"untuned": untuned.made, "tuned": tuned.made}, tuned.series)


def test_a_table_has_every_score_under_its_own_head(scores):
    found = scores.table()
    assert found.loc["tuned"].to_dict() == {
        "mae": 1.0, "mae_low": 0.5, "mae_high": 1.75, "mase": 0.25, "crps": 0.75, "inside_50": 0.51, "inside_80": 0.82,
        "inside_95": 0.93,
    }  # fmt: skip
    assert found.loc["last value"].dropna().to_dict() == {"mae": 2.0}


def test_the_page_draws_the_tuned_model(scores, monkeypatch, tmp_path):
    shown: list[Any] = []
    monkeypatch.setattr(runs, "page_of_evaluation", lambda one, title: shown.append(one) or Page(title, "", (), []))
    assert scores.page(tmp_path / "page.html") == tmp_path / "page.html"
    assert [panel.series_id for panel in shown[0].panels] == ["south", "north"]
