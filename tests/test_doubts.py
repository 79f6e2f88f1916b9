"""Tables that would be read wrongly without a word are refused, with what to do, as frames and as files alike."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from jaxlv.data.forms import is_of_units
from jaxlv.data.loading import load_series
from jaxlv.errors import JaxlvError

DRAWN = np.random.default_rng(0).uniform(1, 90, (2, 12)).round(2)
WIDE = pd.DataFrame(DRAWN)
SHORT = pd.DataFrame({"hare": DRAWN[0], "lynx": DRAWN[1]})
PANEL = pd.concat([SHORT.assign(site="b"), SHORT.assign(site="a")], ignore_index=True)
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
DAYS = pd.date_range("2020-01-05", periods=12)


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (WIDE.set_axis(range(1900, 1912), axis=1).assign(site=["a", "b"]), "its columns are years"),
        (WIDE.set_axis([f"{year} [YR{year}]" for year in range(1990, 2002)], axis=1), "its columns are years"),
        (WIDE.set_axis(DAYS, axis=1), "its columns are dates"),
        (WIDE.set_axis(DAYS.strftime("%Y-%m-%d"), axis=1), "its columns are dates"),
        (WIDE.set_axis([f"{day.month}/{day.day}/{day:%y}" for day in DAYS], axis=1).assign(Lat=1.5, Long=2.5), "are dates"),
        (WIDE.set_axis(DAYS.strftime("%Y%m%d"), axis=1).assign(site=["a", "b"]), "its columns are dates"),
        (WIDE.set_axis([f"{2001 + i // 4}Q{i % 4 + 1}" for i in range(12)], axis=1), "its columns are dates"),
        (WIDE.set_axis(MONTHS, axis=1).assign(Year=[1950, 1951]), "its columns are months"),
        (WIDE.iloc[:, :4].set_axis(["Q1", "Q2", "Q3", "Q4"], axis=1).assign(year=[1950, 1951]), "its columns are quarters"),
        (SHORT.assign(age=range(1200, 0, -100)), "age falls in equal steps: is it the time"),
        (SHORT.assign(when=range(3, 15)), "when grows in equal steps: is it the time"),
        (PANEL.assign(visit=[*range(3, 15)] * 2), "visit grows in equal steps: is it the time"),
        (PANEL.assign(visit=[*range(3, 15), *range(7, 19)]), "visit grows in equal steps"),
        (PANEL.assign(visit=[*range(3, 15)] * 2).sort_values("visit", kind="stable"), "visit grows in equal steps"),
    ],
)
def test_tables_on_their_side_and_times_of_another_name_are_refused(frame, said, as_file, tmp_path):
    given = frame
    if as_file:
        given = tmp_path / "x.csv"
        frame.to_csv(given, index=False)
    with pytest.raises(JaxlvError) as caught:
        load_series(given)
    assert said in str(caught.value)


def test_a_choice_reads_them_all_the_same():
    assert load_series(PANEL.assign(visit=[*range(3, 15)] * 2), time="visit").clock.labels(1, [12])[0] == 15
    assert len(load_series(WIDE.set_axis(MONTHS, axis=1), columns=MONTHS).variables) == 12
    stacked = WIDE.set_axis(MONTHS, axis=1).assign(Year=[1950, 1951]).melt("Year", var_name="month")
    assert load_series(stacked).told == "1 series, variable value, monthly 1950-01 to 1951-12, 24 steps"
    np.testing.assert_array_equal(load_series(stacked).values[0][:, 0], DRAWN.ravel())


@pytest.mark.parametrize(
    "frame",
    [
        SHORT.rename(columns={"hare": "may", "lynx": "june"}),
        pd.DataFrame(DRAWN.T[:, [0, 1, 0, 1]] + [0, 0, 1, 1], columns=["PM10", "PM25", "NO2", "O3"]),
        pd.DataFrame(DRAWN.T[:, [0, 1, 0]] + [0, 0, 1], columns=["x1", "x2", "x3"]),
        WIDE.T[[0, 1]],
        PANEL.assign(cover=np.repeat([3.0, 4.0], 12)),
        PANEL.assign(total=np.arange(24) ** 2),
        PANEL.assign(visit=[*range(3, 15), *range(3, 27, 2)]),
    ],
)
def test_what_only_looks_a_little_like_it_is_read(frame):
    numbers = [name for name in frame.columns if name != "site"]
    assert len(load_series(frame).variables) == len(numbers)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("year,hare\n1900,many\n1901,3\n1902,4\n1903,5\n", ":2: hare is not a number; found 'many'"),
        ("site,hare\na,many\na,3\na,4\n", ":2: hare is not a number; found 'many'"),
        ("date,hare\n2001-01-01,many\n2001-01-02,3\n2001-01-03,4\n", ":2: hare is not a number; found 'many'"),
        ("year,hare\n-,kg\n1901,3\n", ":2: year is missing"),
        ("year,hare\n-,kg\n-,wet\n1901,3\n1902,3\n", ":2: year is missing"),
    ],
)
def test_a_first_row_that_may_be_data_is_not_taken_as_units(text, said, tmp_path):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(JaxlvError) as caught:
        load_series(tmp_path / "x.csv")
    assert said in str(caught.value)


def test_units_are_told_and_lines_are_still_those_of_the_file(tmp_path):
    (tmp_path / "x.csv").write_text("year,hare\n-,kg\n1900,3\n1901,4\n1902,5\n")
    found = load_series(tmp_path / "x.csv")
    assert found.notes == ("the row below the header is taken as units and skipped: -, kg",)
    (tmp_path / "x.csv").write_text("year,hare\n-,kg\n1900,3\n1901,4\n1901,5\n")
    with pytest.raises(JaxlvError, match=r"x\.csv:5: two rows with one year"):
        load_series(tmp_path / "x.csv")


def test_two_rows_of_numbers_tell_that_the_row_above_has_units():
    rows = [["", "kg"], ["1900", "3"], ["1901", "4"]]
    assert is_of_units(rows, str.isdigit) and not is_of_units(rows[:2], str.isdigit) and not is_of_units([], str.isdigit)
    assert not is_of_units([["", ""], *rows[1:]], str.isdigit)  # nothing is said
    assert not is_of_units([["1899", "kg"], *rows[1:]], str.isdigit)  # a number is there
