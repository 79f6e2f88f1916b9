"""Frames, columns and arrays as notebooks hold them: what is taken as index, ids and times, and what is refused."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jaxlv.data.loading import load_series
from jaxlv.errors import JaxlvError

YEARS = [1900, 1901, 1902]
PELTS = pd.DataFrame({"year": YEARS, "hare": [30, 47.2, 70.2], "lynx": [4, 6.1, 9.8]})
VALUES_TV = PELTS[["hare", "lynx"]].to_numpy()
BARE = PELTS.set_index("year").rename_axis(None)
WEEK = pd.date_range("2020-01-01", periods=3)  # a Wednesday
PANEL = pd.DataFrame({"colony": [7] * 3 + [9] * 3, "year": YEARS * 2, "n": np.arange(6.0)})
ZONED = pd.date_range("2020-03-28", periods=3, tz="Europe/Berlin")  # a day of 23 hours


@pytest.mark.parametrize(
    ("frame", "later"),
    [
        (PELTS, 1903), (BARE, 1903), (BARE.set_axis(range(1900, 1903)), 1903),
        (BARE.set_axis(["1900", "1901", "1902"]), "1903"),
        (BARE.set_axis(["1900-01-31", "1900-02-28", "1900-03-31"]), "1900-04-30"), (PELTS.astype(object), 1903),
        (PELTS.astype(str), "1903"), (PELTS.map(lambda one: Decimal(str(one))), 1903), (PELTS.convert_dtypes(), 1903),
        (PELTS.assign(year=pd.Categorical(YEARS)), 1903), (PELTS.assign(sure=[True, False, True]), 1903),
        (PELTS.assign(who=["Bob", "Ann", "Bob"]), 1903), (PELTS.set_axis([7, 8, 9]), 1903),
        (PELTS.assign(year=pd.PeriodIndex(map(str, YEARS), freq="Y")), pd.Period("1903", "Y")),
        (BARE.set_axis(WEEK), np.datetime64("2020-01-04")), (BARE.set_axis(WEEK.date), WEEK.date[2] + pd.Timedelta(days=1)),
        (BARE.set_axis(ZONED), pd.Timestamp("2020-03-31", tz="Europe/Berlin")),
        (BARE.set_axis(pd.to_timedelta([1, 2, 3], unit="h")), 14400.0), (PELTS[["lynx", "year", "hare"]], 1903),
        (PELTS.to_records(index=False), 1903), (PELTS.to_dict("list"), 1903), (PELTS.to_dict("records"), 1903),
        (dict(BARE.items()), 1903), ({**PELTS}, 1903), (PELTS.iloc[[2, 0, 1]], 1903),
    ],
)  # fmt: skip
def test_one_series_in_many_frames(frame, later):
    found = load_series(frame)
    assert found.ids == (0,) and found.variables == ("hare", "lynx")
    np.testing.assert_array_equal(found.values[0], VALUES_TV)
    assert found.clock.labels(0, [3])[0] == later


@pytest.mark.parametrize(
    ("data", "ids"),
    [
        (PANEL.rename(columns={"colony": "plot_id"}), (7, 9)), (PANEL.assign(colony=list("aaabbb")), ("a", "b")),
        (PANEL.set_index(["colony", "year"]), (7, 9)),
        (PANEL.set_index(["year", "colony"]).rename_axis(["year", "x"]), (7, 9)),
        (PANEL.rename(columns={"colony": "unique_id", "year": "ds", "n": "y"}), (7, 9)),
        ({one: part[["year", "n"]] for one, part in PANEL.groupby("colony")}, (7, 9)),
        ([part[["year", "n"]] for _, part in PANEL.groupby("colony")], (0, 1)),
        ([pd.Series(range(i, i + 3), YEARS, name=name) for name, i in (("a", 0), ("b", 3))], ("a", "b")),
        (PANEL.assign(year=[f"0{i}.01.2020" for i in (1, 2, 3)] * 2, colony=list("aaabbb")), ("a", "b")),
        (PANEL.assign(year=list(WEEK) * 2, colony=list("aaabbb")), ("a", "b")),
        (PANEL.rename(columns={"colony": "site"}).assign(plot=PANEL["colony"] // 9), (7, 9)),
        (PANEL.assign(site="s", plot=PANEL["colony"], colony="c"), (7, 9)),
        (PANEL.rename(columns={"colony": "site"}).assign(lat=PANEL["colony"] / 2), (7, 9)),
    ],
)  # fmt: skip
def test_two_series_in_many_frames(data, ids):
    found = load_series(data)
    assert found.ids == ids and len(found.variables) == 1
    assert [values_TV[:, 0].tolist() for values_TV in found.values] == [[0, 1, 2], [3, 4, 5]]
    assert str(found.clock.labels(1, [3])[0])[:10] in ("1903", "04.01.2020", "2020-01-04")


def test_levels_beyond_two_tell_series_apart_together():
    index = pd.MultiIndex.from_product([["a", "b"], ["p", "q"], [0, 1]])
    found = load_series(pd.DataFrame({"x": np.arange(8.0)}, index))
    assert found.ids == ("a p", "a q", "b p", "b q") and found.values[3].tolist() == [[6], [7]]


def test_rows_that_were_dropped_are_missing_steps():
    found = load_series(pd.DataFrame({"x": [1.0, 2, 3, 4]}, index=[0, 1, 3, 4]))
    np.testing.assert_array_equal(found.values[0][:, 0], [1, 2, np.nan, 3, 4])


def test_the_largest_whole_number_is_read_exactly():
    found = load_series(PELTS.assign(hare=[2**53, 2, 3]))
    assert found.values[0][0, found.variables.index("hare")] == 2**53


def test_a_choice_overrules_what_names_say():
    assert load_series(PANEL, id="Colony").ids == (7, 9)
    assert load_series(PELTS, columns=["lynx", "hare"]).variables == ("lynx", "hare")
    assert load_series(PELTS, columns="lynx").variables == ("lynx",)
    assert load_series(PELTS.rename(columns={"year": "age ka"}), time="age_ka").clock.labels(0, [3])[0] == 1903
    apart = load_series(PANEL.rename(columns={"colony": "site"}).assign(m=[np.nan, 1, 2, 3, 4, np.nan]), separate=True)
    assert apart.ids == ("7 n", "7 m", "9 n", "9 m") and [len(one) for one in apart.values] == [3, 2, 3, 2]
    assert apart.clock.labels(1, [0])[0] == 1901
    assert load_series([VALUES_TV, VALUES_TV[:2]], separate=True).ids == ("0 prey", "0 predator", "1 prey", "1 predator")


def test_what_the_caller_holds_is_not_touched():
    given, frame = VALUES_TV.copy(), PELTS.copy()
    found, named = load_series(given), load_series({"trajectories": given[None], "time": np.arange(3)})
    load_series(frame)
    given[:] = 7
    assert found.values[0].tolist() == named.values[0].tolist() == VALUES_TV.tolist() and frame.equals(PELTS)


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        (PANEL, {}, "frame, row 4: two rows with one year; found 1900, as in row 1; --id colony (id=) would tell"),
        (pd.DataFrame({"owls": [3.0, 1, 2, 5], "day": [1, 1, 2, 3]}), {}, "row 2: two rows with one day"),
        (PELTS.rename(columns={"year": "when"}), {}, "when grows in equal steps: is it the time"),
        (PELTS[["hare", "year", "lynx"]].rename(columns={"year": "when"}), {}, "when grows in equal steps"),
        (PELTS.T.set_axis(["1900", "1901", "1902"], axis=1), {}, "its columns are years"),
        (PELTS, {"columns": []}, "no columns are chosen; expected one or more of year, hare, lynx"),
        (PELTS, {"columns": ["owl"]}, "no column owl; expected year, hare, lynx; see --columns (columns=)"),
        (PELTS, {"id": "site"}, "no column site"),
        (PELTS, {"columns": ["hare", "hare"]}, "two variables have one name"),
        (PELTS.assign(when=["a", "b", "c"]), {"time": "when"}, "frame, row 1: when is not a time"),
        (PELTS.assign(hare=[1, "<5", 3]), {}, "frame, row 2: hare is not a number; found '<5'"),
        (PELTS.assign(hare=[1j, 2, 3]), {}, "hare is complex"),
        (PELTS.assign(year=[1900, None, 1902]), {}, "row 2: year is missing"),
        (PELTS.assign(hare=[2**60, 2, 3]), {}, "integers too large"),
        (PELTS[:0], {}, "frame: has no rows"),
        (pd.concat({"a": PELTS}, axis=1), {}, "columns of several levels"),
        ({"a": [1.0, 2, 3], "b": [1.0, 2]}, {}, "arrays of several lengths"),
        ({"a": PELTS, "b": PELTS.assign(year=[1900, 1902, 1904])}, {}, "series b has other steps of time"),
        ({"a": PELTS, "b": PELTS[["year", "hare"]]}, {}, "series b has other variables"),
        (np.ones((3, 50)), {}, "values.T if its rows are variables, values[..., None] if they are series"),
        (None, {}, "found NoneType"),
        ({1, 2}, {}, "found set"),
        (np.array(["a", "b"]), {}, "wrong type"),
        (np.ones(5, bool), {}, "wrong type"),
        (np.float64(3), {}, "wrong type"),
        ([], {}, "no series"),
        ("gone.csv", {}, "no such file"),
    ],
)
def test_what_is_not_clear_is_refused_with_the_choices(data: Any, options, said):
    with pytest.raises(JaxlvError) as caught:
        load_series(data, **options)
    assert said in str(caught.value)


WIDE = pd.DataFrame(np.random.default_rng(0).uniform(1, 9, (400, 300)), columns=[f"s{i}" for i in range(300)])
WIDE_YEARS = WIDE.assign(year=range(1600, 2000))


@pytest.mark.parametrize("data", [WIDE_YEARS, WIDE_YEARS.melt("year"), WIDE.to_numpy()], ids=["wide", "long", "array"])
def test_hundreds_of_variables_are_read_as_series_of_their_own(data, recwarn):
    found = load_series(data, separate=True)
    np.testing.assert_array_equal(np.concatenate(found.values, axis=1), WIDE.to_numpy())
    with pytest.raises(JaxlvError, match="expected at most 100; found 300; --separate"):
        load_series(data)
    assert not recwarn.list


def test_levels_are_never_variables():
    panel = PANEL.assign(survey=1, site="s")
    for levels in (["survey", "colony", "year"], ["year", "survey", "colony"], ["colony", "survey", "site", "year"]):
        found = load_series(panel.drop(columns=[] if "site" in levels else ["site"]).set_index(levels))
        assert found.ids == (7, 9) and found.variables == ("n",) and found.layout.time == "year"
    numbered = PANEL.assign(plot=[1, 2, 3] * 2).set_index(["colony", "plot"]).drop(columns="year")
    assert load_series(pd.concat({k: numbered for k in (1900, 1901)}, names=["year"])).ids[:2] == ("7 1", "7 2")


def test_spans_of_time_are_seconds_in_a_column_as_in_an_index():
    spans = pd.to_timedelta([1, 2, 3], unit="h")
    for frame in (PELTS.assign(year=spans).rename(columns={"year": "time"}), BARE.set_axis(spans)):
        assert load_series(frame).clock.labels(0, [3])[0] == 14400.0


def test_an_array_of_arrays_is_a_list_of_them():
    ragged = np.array([np.arange(5.0), np.arange(3.0)], dtype=object)
    assert [len(one) for one in load_series(ragged).values] == [5, 3]


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (PELTS.assign(year=["1900", "1901", "Source: HBC"]), "row 3: year is not a time; expected numbers, or dates"),
        (PELTS.assign(year=["1900", "after", "1902"]), "row 2: year is not a time"),
        (
            PANEL.assign(colony=["a", None, None, "b", None, None]).rename(columns={"colony": "site"}),
            "row 2: site is missing",
        ),
    ],
)
def test_the_cell_that_is_wrong_is_named(frame, said):
    with pytest.raises(JaxlvError) as caught:
        load_series(frame)
    assert said in str(caught.value)


def test_columns_without_name_and_content_are_left_out(tmp_path):
    (tmp_path / "x.csv").write_text("year,,hare,,lynx,\n1900,,30,,4,\n1901,,47.2,,6.1,\n1902,,70.2,,9.8,\n")
    found = load_series(tmp_path / "x.csv")
    assert found.variables == ("hare", "lynx") and found.values[0].tolist() == VALUES_TV.tolist()
    (tmp_path / "x.csv").write_text("year,,hare,,lynx\n1900,,30,1,4\n1901,2,47.2,,6.1\n")
    with pytest.raises(JaxlvError, match="two columns have one name; found no name"):
        load_series(tmp_path / "x.csv")


def test_packed_text_without_its_kind_says_how_it_is_called(tmp_path):
    (tmp_path / "x.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(JaxlvError, match=r"text that is packed is called \.csv\.gz"):
        load_series(tmp_path / "x.gz")


@pytest.mark.parametrize("name", ["valid_time", "obs_date", "Time (s)", "sampleYear"])
@pytest.mark.parametrize("values", [VALUES_TV, VALUES_TV[None]])
def test_an_array_of_times_is_found_by_a_word_in_its_name_as_a_column_is(name, values):
    found = load_series({"x": values, name: np.array(YEARS)})
    assert found.ids == (0,) and found.clock.labels(0, [3])[0] == 1903 and not found.notes
    with pytest.raises(JaxlvError):  # no step of it is a time
        load_series({"t2m": np.ones((3, 4, 2)), name: np.array(YEARS)})


def test_a_formula_without_its_value_is_refused_in_place_of_an_empty_cell(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    for formula in (None, "=29+1"):
        book = openpyxl.Workbook()
        for row in (["year", "hare", "lynx"], [1900, formula or 30, 4], [1901, 47.2, 6.1], [1902, 70.2, 9.8]):
            book.active.append(row)
        book.save(tmp_path / "x.xlsx")
        if formula is None:
            assert load_series(tmp_path / "x.xlsx").values[0].tolist() == VALUES_TV.tolist()
    with pytest.raises(JaxlvError, match="a formula has no value; found cell B2; open it in a spreadsheet program"):
        load_series(tmp_path / "x.xlsx")
