"""What a forecast's page and terminal say of it in sentences."""

from __future__ import annotations

from dataclasses import replace

from jaxlv.report import forecasts
from jaxlv.results.forecasts import ForecastSettings, Next, TextFormat

ONE = ForecastSettings(
    data="lynx.csv", data_sha256=None, series=(0,), context=20, horizon=5, samples=4, reach=None, seed=0,
    codec=TextFormat("context", 2), sampling={}, valid_share=1.0, stops={}, versions={},
)  # fmt: skip
FIRST = "5 steps ahead of one series of lynx.csv, from at most 20 steps before."


def test_the_summary_says_what_is_known():
    assert forecasts.summary(ONE) == FIRST
    assert forecasts.summary(replace(ONE, series=(0, 1))).startswith("5 steps ahead of 2 series of")
    held = forecasts.summary(replace(ONE, holdout=5, mae=1.25))
    hidden = "The last 5 steps were not shown to the model."
    assert held == f"{FIRST} {hidden} The median is off by 1.25 on average, in the units of the data."
    assert forecasts.summary(replace(ONE, valid_share=0.5)) == f"{FIRST} Of the samples 50.0 % are complete."
    assert forecasts.summary(replace(ONE, valid_share=None)) == FIRST


def test_the_table_says_how_many_rows_it_leaves_out():
    rows = [Next(0, str(1900 + i), "lynx", float(i), (0.0, 9.0)) for i in range(forecasts.SHOWN + 2)]
    assert "... and 2 more in forecast.csv" in forecasts.format_table(rows, ONE)
    assert "more in" not in forecasts.format_table(rows[: forecasts.SHOWN], ONE)


def test_rows_of_several_series_say_which_and_the_page_says_how_many_are_not_drawn():
    rows, several = [Next(0, "1900", "lynx", 1.0, (0.0, 9.0))] * 5, replace(ONE, series=(0, 1, 2))
    names = [[one.key for one in forecasts.table_of(rows, settings).columns] for settings in (ONE, several)]
    assert names == [["time", "variable", "median", "band"], ["series", "time", "variable", "median", "band"]]
    (drawn, *_) = forecasts.page_of(several, rows, []).sections
    assert drawn.text == "3 more series are in forecast.csv."
