"""Times of any regular step, with gaps and in any order, are read exactly, come back as they were, and go on."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given

from jaxlv.data.clock import read_clock
from jaxlv.errors import JaxlvError

LATER = 5  # steps that are looked at behind the last


@st.composite
def kept(draw: st.DrawFn) -> tuple[int, list[int]]:
    """The number of steps, and those that are there, in any order: the ends, two neighbours, and most of the others."""
    count = draw(st.integers(8, 40))
    gone = draw(st.sets(st.integers(2, count - 2), max_size=count // 3))
    there = [step for step in range(count) if step not in gone]
    return count, draw(st.permutations(there))


def check(every: Any, count: int, there: list[int], same: Any = None) -> None:
    """`every` are the times of all steps and of those behind; they are told apart if they are not equal by `same`."""
    times = [every[step] for step in there]
    given = times if isinstance(every, list) else pd.Series(times) if isinstance(every, pd.Index) else np.array(times)
    clock, step_R = read_clock(given, np.zeros(len(there), int), "x")
    assert step_R.tolist() == there
    found, wanted = clock.labels(0, np.arange(count + LATER)), list(every[: count + LATER])
    if same is not None:
        np.testing.assert_allclose(found, wanted, rtol=0, atol=same)
    else:
        assert [pd.Timestamp(one) if isinstance(one, np.datetime64) else one for one in found] == wanted


@given(kept(), st.integers(-5000, 5000), st.integers(1, 500))
def test_whole_numbers(steps, first, step):
    count, there = steps
    check(first + step * np.arange(count + LATER), count, there, 0)


@given(kept(), st.integers(0, 4), st.integers(-(10**6), 10**6), st.integers(1, 10**5))
def test_short_decimals(steps, digits, first, step):
    count, there = steps
    check(np.round((first + step * np.arange(count + LATER)) / 10**digits, digits), count, there, 1e-9)


@given(kept(), st.floats(-1e4, 1e4), st.floats(1e-3, 1e4))
def test_any_step(steps, first, step):
    count, there = steps
    check(first + step * np.arange(count + LATER), count, there, 1e-9 * (abs(first) + step * count))


@given(kept(), st.floats(0, 1e3, width=32), st.floats(0.125, 100, width=32))
def test_any_step_in_single_precision(steps, first, step):
    count, there = steps
    every = (first + step * np.arange(count + LATER)).astype(np.float32)
    check(every, count, there, 1e-4 * step + 1e-6 * float(every.max()))


@given(
    kept(),
    st.integers(1700, 2100),
    st.integers(0, 11),
    st.sampled_from([0, 0.5]),
    st.integers(2, 6),
    st.sampled_from([1, 2, 3]),
)
def test_months_as_decimal_years(steps, year, month, middle, digits, every):
    count, there = steps
    months = year * 12 + month + middle + every * np.arange(count + LATER)
    check(np.array([round(one / 12, digits) for one in months]), count, there, 1e-9)


@given(kept(), st.integers(1700, 2100), st.integers(0, 51), st.integers(3, 6))
def test_weeks_as_decimal_years(steps, year, week, digits):
    count, there = steps
    weeks = year * 52 + week + np.arange(count + LATER)
    check(np.array([round(one / 52, digits) for one in weeks]), count, there, 1e-9)


MOMENTS = st.datetimes(pd.Timestamp("1700-02-01").to_pydatetime(), pd.Timestamp("2150-01-01").to_pydatetime())
SPANS = ("YS", "YE", "QS", "QE", "MS", "ME", "2MS", "5ME", "W", "2W", "D", "3D", "B", "h", "6h", "15min", "s")


@given(kept(), MOMENTS, st.sampled_from(SPANS))
def test_dates(steps, first, span):
    count, there = steps
    start = pd.Timestamp(first).normalize() + pd.Timedelta(hours=first.hour)
    check(pd.date_range(start, periods=count + LATER, freq=span), count, there)


@given(kept(), MOMENTS, st.integers(1, 31), st.sampled_from([1, 2, 3, 12]))
def test_the_same_day_of_every_month_or_its_last(steps, first, day, months):
    count, there = steps
    start = pd.Timestamp(first).normalize().replace(day=1)
    firsts = [start + pd.DateOffset(months=months * step) for step in range(count + LATER)]
    every = pd.DatetimeIndex([one + pd.Timedelta(days=min(day, one.days_in_month) - 1) for one in firsts])
    if not all(one.day == one.days_in_month for one in every[there]) or day == 31:  # else it may be the last day
        check(every, count, there)


FORMATS = ("%Y-%m-%d", "%d.%m.%Y", "%Y/%m/%d", "%d-%b-%Y", "%B %d, %Y", "%Y%m%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ",
           "%Y-%m-%dT%H:%M:%S+05:30", "%d%b%Y", "%A, %B %d, %Y")  # fmt: skip


@given(kept(), MOMENTS, st.sampled_from(["YS", "MS", "ME", "W", "D"]), st.sampled_from(FORMATS))
def test_dates_as_text(steps, first, span, form):
    count, there = steps
    every = pd.date_range(pd.Timestamp(first).normalize(), periods=count + LATER, freq=span)
    check(list(every.strftime(form)), count, there)


@given(kept(), st.integers(1500, 2500), st.sampled_from(["{0}Q{1}", "{0}-Q{1}", "Q{1} {0}"]))
def test_quarters_as_text(steps, year, form):
    count, there = steps
    check([form.format(year + i // 4, i % 4 + 1) for i in range(count + LATER)], count, there)


@given(kept(), MOMENTS)
def test_weeks_as_text(steps, first):
    count, there = steps
    check(
        list(pd.date_range(pd.Timestamp(first).normalize(), periods=count + LATER, freq="W").strftime("%G-W%V")),
        count,
        there,
    )


@given(kept(), st.integers(1500, 2500), st.sampled_from(["/", "-"]), st.booleans())
def test_years_that_begin_within_a_year(steps, year, mark, short):
    if short and mark == "-":
        return  # 1999-00 and 2011-12 may be months
    count, there = steps
    ends = [f"{(year + i + 1) % 100:02}" if short else str(year + i + 1) for i in range(count + LATER)]
    check([f"{year + i}{mark}{end}" for i, end in enumerate(ends)], count, there)


@given(
    kept(),
    MOMENTS,
    st.sampled_from(["D", "MS", "W", "h", "6h"]),
    st.sampled_from(["Europe/Berlin", "America/New_York", "UTC"]),
)
def test_dates_with_a_time_zone(steps, first, span, zone):
    """Days and months go by the clock on the wall, hours by what passes."""
    count, there = steps
    start = pd.Timestamp(max(first.year, 1980), first.month, min(first.day, 28))
    check(pd.date_range(start, periods=count + LATER, freq=span, tz=zone), count, there)


@given(kept(), MOMENTS, st.sampled_from(["M", "Q", "Y", "D", "W"]))
def test_periods(steps, first, span):
    count, there = steps
    check(pd.period_range(pd.Timestamp(first), periods=count + LATER, freq=span), count, there)


@given(kept(), st.integers(1850, 2100), st.integers(1, 12), st.sampled_from(["%Y%m", "%Y%m%d"]))
def test_dates_as_whole_numbers(steps, year, month, form):
    count, there = steps
    every = pd.date_range(f"{year}-{month}-01", periods=count + LATER, freq="MS")
    check([int(one) for one in every.strftime(form)], count, there)


# ------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([0, 1, 2, 2, 3], "two rows with one time; found 2, as in row 3"),
        ([0, 1, 2.5, 3.7, 5], "time grid is irregular"),
        ([0, 1, 2.05, 3, 4], "x, row 3: time grid is irregular"),
        ([1900, 1950, 1951], "3 rows for 52 steps"),
        (["2020-01-01", "2020-01-02", "2020-01-17", "2020-03-01"], "rows for 61 steps"),
        (["01/02/2020", "01/03/2020", "01/04/2020"], "which is the day and which the month"),
        (["1/1/60", "1/1/61", "1/1/62"], "years of two digits; found 1/1/60, which may be 2060 or 1960"),
        (["2020-01-01", "soon"], "x, row 2: time is not a time"),
        ([1.0, np.nan, 3.0], "x, row 2: time is missing"),
        ([1.0, np.inf, 3.0], "x, row 2: time is not finite"),
        ([True, False, True], "time is not a time"),
    ],
)
def test_what_is_no_regular_time_is_refused(times, said):
    with pytest.raises(JaxlvError) as caught:
        read_clock(times, np.zeros(len(times), int), "x")
    assert said in str(caught.value)


def test_as_many_steps_may_be_missing_as_are_there():
    found = read_clock([0, 1, 2, 7], np.zeros(4, int), "x")
    assert found.step_R.tolist() == [0, 1, 2, 7]
    with pytest.raises(JaxlvError, match="4 rows for 9 steps"):
        read_clock([0, 1, 2, 8], np.zeros(4, int), "x")


def test_dates_that_are_several_days_apart_count_in_the_longest_step_that_meets_all():
    found = read_clock(["2020-01-01", "2020-01-03", "2020-01-06", "2020-01-08"], np.zeros(4, int), "x")
    assert found.step_R.tolist() == [0, 2, 5, 7] and found.clock.told == "daily"


def test_a_series_may_begin_before_the_end_of_another():
    found = read_clock([1900, 1901, 1902, 1900, 1901, 1890, 1892], np.array([0, 0, 0, 1, 1, 2, 2]), "x")
    assert found.step_R.tolist() == [0, 1, 2, 0, 1, 0, 2] and found.clock.origin_N.tolist() == [1900, 1900, 1890]


def test_series_have_one_step_and_starts_of_their_own():
    times = ["2020-03", "2020-01", "2020-02", "1999-12", "2000-02", "2000-03"]
    clock, step_R = read_clock(times, np.array([1, 1, 1, 0, 0, 0]), "x")
    assert step_R.tolist() == [2, 0, 1, 0, 2, 3]
    assert clock.labels(0, [1, 4]).tolist() == ["2000-01", "2000-04"] and clock.labels(1, [3]).tolist() == ["2020-04"]
    assert clock.told == "monthly" and clock.is_calendar
