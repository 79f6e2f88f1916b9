"""Times of series: numbers or dates in equal steps, read from a column, and written again in the same form.

A `Clock` counts steps. Step k of series i stands at `origin_N[i] + k * step` in the clock's unit: a number, a place
among months, a count of days without weekends, or of nanoseconds since 1970. So months of unequal days are regular, and
so are decimal years that a file rounds.

Axes: N series.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from jaxlv.errors import JaxlvError

Unit = Literal["number", "month", "weekday", "nanosecond"]
TOLERANCE = 1e-3  # of a step, by which a time may be off its place
ROUNDED = 0.2  # of a step, at most, if a file rounds its times
DECIMALS = 6  # at most, of times that a file rounds
FORMATS = (
    "%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S.%f", "%Y-%m", "%Y/%m/%d", "%Y/%m/%d %H:%M", "%Y/%m", "%Y.%m.%d", "%d.%m.%Y",
    "%d.%m.%y", "%d.%m.%Y %H:%M", "%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d/%m/%y", "%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M",
    "%m/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d-%b-%Y", "%d-%b-%y", "%b-%y", "%b-%Y", "%b %Y", "%B %Y", "%Y %b", "%Y %B",
    "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%Y%m%d", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d %H:%M:%S%z",
)  # fmt: skip
"""Dates as text, tried in this order."""
QUARTER = re.compile(r"(\d{4})[ -]?[Qq]([1-4])")
NAMES = {1: "yearly", 4: "quarterly", 12: "monthly", 52: "weekly"}
UNITS = {"year": "yearly", "month": "monthly", "week": "weekly", "day": "daily", "hour": "hourly", "quarter": "quarterly"}
"""What steps of one are called, by the name of their column."""
SPANS = {604_800: "weekly", 86_400: "daily", 3600: "hourly", 60: "every minute", 1: "every second"}  # by seconds
MONTH = 32 * 86_400  # places in a month of the unit "month": seconds, of which no month has more


class Form(NamedTuple):
    """How times are written: as what kind, and in which format if they are text, a period or have a time zone."""

    kind: Literal["integer", "number", "text", "datetime", "period", "date", "quarter"]
    format: str = ""
    decimals: int | None = None  # of numbers, if they are rounded
    month_end: bool = False


@dataclass(frozen=True)
class Clock:
    """Regular times of N series; see above. `word` is the name of their column."""

    unit: Unit
    step: float | int
    origin_N: np.ndarray
    form: Form
    word: str = "time"

    @classmethod
    def steps(cls, count: int, word: str = "step") -> Clock:
        """Returns the clock of series without times: steps from 0."""
        return cls("number", 1, np.zeros(count), Form("integer"), word)

    def select(self, rows: Any) -> Clock:
        """Returns the clock of some series."""
        return replace(self, origin_N=self.origin_N[rows])

    def moved(self, by: Any) -> Clock:
        """Returns the clock of which step 0 is this one's step `by` (a number, or one for each series)."""
        return replace(self, origin_N=self.origin_N + np.asarray(by) * self.step)

    def labels(self, row: int, steps: Any) -> np.ndarray:
        """Returns the times of some steps of a series, as the file or the caller had them."""
        place = self.origin_N[row] + np.asarray(steps) * self.step
        if self.unit == "number":
            return self._numbers(place)
        return _written(_dates(place.astype(np.int64), self.unit, self.form.month_end), self.form)

    def _numbers(self, place: np.ndarray) -> np.ndarray:
        if self.form.kind == "integer":
            return np.round(place).astype(np.int64)
        return place if self.form.decimals is None else np.round(place, self.form.decimals)

    @property
    def is_calendar(self) -> bool:
        """Whether times are dates."""
        return self.unit != "number"

    @property
    def told(self) -> str:
        """The length of a step in words: "yearly", "every 10 minutes", "in steps of 0.4"."""
        if self.unit == "weekday":
            return "on weekdays" if self.step == 1 else f"every {self.step} weekdays"
        if self.unit == "month":
            months = int(self.step // MONTH)
            count = f"every {months // 12} years" if months % 12 == 0 else f"every {months} months"
            return {1: "monthly", 3: "quarterly", 12: "yearly"}.get(months, count)
        if self.unit == "nanosecond":
            return _span(self.step / 1e9)
        name = next((word for unit, word in UNITS.items() if self.word.casefold() in (unit, f"{unit}s", unit[:2])), "")
        per_year = next((m for m in (4, 12, 52) if abs(self.step * m - 1) < 1e-9), 0)
        if "year" in self.word.casefold() and per_year:
            return NAMES[per_year]
        return name if name and self.step == 1 else f"in steps of {self.step:.6g}"


def _span(seconds: float) -> str:
    if seconds in SPANS:
        return SPANS[int(seconds)]
    units = ((86_400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))
    size, word = next(((size, word) for size, word in units if seconds % size == 0), (1, "seconds"))
    return f"every {seconds / size:g} {word}"


class Timed(NamedTuple):
    """A column of times, read: the clock of the series, and the step of each row, from 0 in each series."""

    clock: Clock
    step_R: np.ndarray


def read_clock(times: Any, row_R: np.ndarray, where: Any, word: str = "time") -> Timed:
    """Reads the times of R rows, of which row r belongs to series `row_R[r]` (0 to N - 1, all there); in any order.

    Raises JaxlvError if they are not times, if two rows of a series have one time, or if steps are not equal. Missing steps
    are allowed: a step is then as long as the shortest.
    """
    found = _parsed(times, where, word)
    faults: list[JaxlvError] = []
    timed = []
    for one in found:
        try:
            timed.append(_regular(one, row_R, where, word))
        except JaxlvError as fault:
            faults.append(fault)
    if not timed:
        raise faults[0]
    if len(timed) > 1 and all(one.clock.is_calendar for one in timed):
        both = " and ".join(one.clock.form.format for one in timed)
        first = str(np.asarray(times, object)[0])
        hint = "write dates as 2015-01-31"
        raise JaxlvError(f"{word}: which is the day and which the month", where=where, expected=both, found=first, hint=hint)
    return timed[0]


def is_time(times: Any, row_R: np.ndarray) -> bool:
    """Tells whether `read_clock` takes a column."""
    try:
        read_clock(times, row_R, "")
    except JaxlvError:
        return False
    return True


# ---------------------------------------------------------------------------------------------------- parsing


class Parsed(NamedTuple):
    """Times as numbers or as timestamps, and how they are written."""

    values: Any  # float64 numbers, or a DatetimeIndex without a time zone
    form: Form


def _parsed(times: Any, where: Any, word: str) -> list[Parsed]:
    """Returns what a column of times can be read as, the likeliest first; more than one if day and month are unclear."""
    column = pd.Series(times).reset_index(drop=True)
    if column.isna().any():
        line = int(np.argmax(column.isna()))
        raise JaxlvError(f"{word} is missing in some rows", where=where, found=f"row {line + 1} first")
    kind = column.dtype
    if isinstance(kind, pd.PeriodDtype):
        return [Parsed(pd.DatetimeIndex(column.dt.to_timestamp()), Form("period", str(kind.freq.freqstr)))]
    if pd.api.types.is_datetime64_any_dtype(kind):
        zone = "" if getattr(kind, "tz", None) is None else str(kind.tz)
        moments = pd.DatetimeIndex(column)
        return [Parsed(moments.tz_convert("UTC").tz_localize(None) if zone else moments, Form("datetime", zone))]
    if pd.api.types.is_bool_dtype(kind) or pd.api.types.is_complex_dtype(kind):
        raise JaxlvError(f"{word} is not a time", where=where, expected="numbers or dates", found=str(kind))
    if pd.api.types.is_numeric_dtype(kind):
        return _numbers(column, where, word)
    if all(isinstance(one, date) for one in column):
        return [Parsed(pd.DatetimeIndex(pd.to_datetime(column)), Form("date" if _are_days(column) else "datetime"))]
    return _texts(column.astype(str).str.strip(), where, word)


def _are_days(column: pd.Series) -> bool:
    return not any(hasattr(one, "hour") for one in column)


def _numbers(column: pd.Series, where: Any, word: str) -> list[Parsed]:
    values = column.to_numpy(np.float64)
    if not np.isfinite(values).all() or np.abs(values).max(initial=0) > np.finfo(np.float32).max:
        raise JaxlvError(f"{word} is not finite, or too large", where=where, found=values[~np.isfinite(values)][:1])
    whole = bool((values == np.round(values)).all())
    if whole and pd.api.types.is_integer_dtype(column.dtype):
        as_days = _days_as_numbers(column)
        return [*as_days, Parsed(values, Form("integer"))]
    fits = [d for d in range(DECIMALS + 1) if np.allclose(values, np.round(values, d), rtol=0, atol=1e-9)]
    return [Parsed(values, Form("number", decimals=fits[0] if fits else None))]


def _days_as_numbers(column: pd.Series) -> list[Parsed]:
    """Returns whole numbers such as 20150131 as dates, if they all are."""
    if not column.between(18_000_101, 21_991_231).all():
        return []
    moments = pd.to_datetime(column.astype(str), format="%Y%m%d", errors="coerce")
    return [] if moments.isna().any() else [Parsed(pd.DatetimeIndex(moments), Form("text", "%Y%m%d"))]


def _texts(column: pd.Series, where: Any, word: str) -> list[Parsed]:
    quarters = column.str.extract(QUARTER.pattern)
    if column.str.fullmatch(QUARTER.pattern).all():
        moments = pd.to_datetime({"year": quarters[0].astype(int), "month": 3 * quarters[1].astype(int) - 2, "day": 1})
        return [Parsed(pd.DatetimeIndex(moments), Form("quarter", re.sub(r"\d+", "{}", column[0])))]
    found = []
    for text in FORMATS:
        moments = pd.to_datetime(column, format=text, errors="coerce", utc="%z" in text)
        if not moments.isna().any():
            index = pd.DatetimeIndex(moments)
            found.append(Parsed(index.tz_localize(None) if index.tz else index, Form("text", text)))
    if not found:
        shown = next((one for one in column if pd.isna(pd.to_datetime(one, errors="coerce"))), column.iloc[0])
        expected = "numbers, or dates such as 2015-01-31, 2015-01 or 2015Q1"
        raise JaxlvError(f"{word} is not a time", where=where, expected=expected, found=repr(shown))
    return [one for i, one in enumerate(found) if not any(one.values.equals(other.values) for other in found[:i])]


# --------------------------------------------------------------------------------------------------- regularity


def _regular(one: Parsed, row_R: np.ndarray, where: Any, word: str) -> Timed:
    """Returns the clock of parsed times; raises JaxlvError as `read_clock` does."""
    if not isinstance(one.values, pd.DatetimeIndex):
        return _on_grid("number", one.values, one.form, row_R, where, word)
    faults = []
    for unit, place_R, form in _calendars(one):
        try:
            return _on_grid(unit, place_R, form, row_R, where, word)
        except JaxlvError as fault:
            faults.append(fault)
    raise faults[0]


class Placed(NamedTuple):
    """Dates as places in a unit, and how they are written."""

    unit: Unit
    place_R: np.ndarray
    form: Form


def _calendars(one: Parsed) -> list[Placed]:
    """Returns dates as counts of months, of nanoseconds or of weekdays: whichever they can be, the likeliest first."""
    at = one.values
    place = at.as_unit("ns").asi8
    found: list[Placed] = []
    same_clock = len(set(zip(at.hour, at.minute, at.second, at.nanosecond, strict=True))) == 1
    month = np.asarray(at.year * 12 + at.month - 1, np.int64)
    if same_clock and len(set(at.day)) == 1:
        found.append(Placed("month", month * 32 * 86_400 + _within_month(at), one.form))
    elif same_clock and at.is_month_end.all():
        found.append(Placed("month", month * 32 * 86_400 + _within_month(at[:1]), one.form._replace(month_end=True)))
    found.append(Placed("nanosecond", place, one.form))
    if same_clock and (at.dayofweek < 5).all() and len(at) > 5:
        days = np.busday_count("1970-01-01", at.values.astype("datetime64[D]"))
        found.append(Placed("weekday", days, one.form))
    return found


def _within_month(at: pd.DatetimeIndex) -> np.ndarray:
    """Returns the seconds since the start of the month, of which a month has fewer than 32 days."""
    return np.asarray((at.day - 1) * 86_400 + at.hour * 3600 + at.minute * 60 + at.second, np.int64)


def _on_grid(unit: Unit, place_R: np.ndarray, form: Form, row_R: np.ndarray, where: Any, word: str) -> Timed:
    order = np.lexsort((place_R, row_R))
    place, row = place_R[order], row_R[order]
    gap = np.diff(place)[np.diff(row) == 0]
    if (gap <= 0).any():
        first = int(np.argmax((np.diff(place) <= 0) & (np.diff(row) == 0)))
        raise Repeated(where, word, _label(unit, place[first], form), int(row[first]))
    if not len(gap):
        gap = np.array([MONTH * 12 if unit == "month" else 1])
    if unit == "number":
        step, tolerance = _number_step(gap, form)
    else:
        step, tolerance = _whole_step(gap, unit), 0.0
    turns = np.maximum(np.round(gap / step), 1).astype(np.int64)
    step_R = np.zeros(len(place), np.int64)
    inner = np.flatnonzero(np.diff(row) == 0)
    starts = np.flatnonzero(np.r_[True, np.diff(row) > 0])
    jumps = np.zeros(len(place), np.int64)
    jumps[inner + 1] = turns
    step_R = np.cumsum(jumps) - np.repeat(np.cumsum(jumps)[starts], np.diff(np.r_[starts, len(place)]))
    if unit == "number" and len(inner):
        step = _snapped(float(_fitted(place, step_R, starts)), form)
    origin_N = place[starts].astype(np.float64 if unit == "number" else np.int64)
    _check_places(
        place, np.repeat(origin_N, np.diff(np.r_[starts, len(place)])) + step_R * step, tolerance, step, where, word
    )
    _check_dense(step_R, starts, where, word, turns)
    back = np.empty(len(place), np.int64)
    back[order] = step_R
    return Timed(Clock(unit, step, origin_N, form, word), back)


class Repeated(JaxlvError):
    """Two rows of one series at one time."""

    def __init__(self, where: Any, word: str, label: Any, row: int):
        self.row = row
        hint = "name the column of the series by --id (id=), or leave one row of each"
        super().__init__(f"two rows with one {word}", where=where, found=str(label), hint=hint)


def _label(unit: Unit, place: Any, form: Form) -> Any:
    clock = Clock(unit, 1, np.array([place]), form)
    return clock.labels(0, [0])[0]


def _number_step(gap: np.ndarray, form: Form) -> tuple[float, float]:
    """Returns a step from the gaps between numbers, and how far a number may be off its place."""
    half = 0.5 * 10.0**-form.decimals if form.decimals else 0.0
    near = gap[gap <= 1.5 * gap.min() + 2 * half]
    step = float(near.mean())
    return step, max(TOLERANCE * step, min(2.02 * half, ROUNDED * step))


def _whole_step(gap: np.ndarray, unit: Unit) -> int:
    """Returns the step of dates: the shortest gap, if all are multiples, else their greatest common divisor."""
    least = int(gap.min())
    return least if not (gap % least).any() else int(np.gcd.reduce(gap.astype(np.int64)))


def _fitted(place: np.ndarray, step_R: np.ndarray, starts: np.ndarray) -> float:
    """Returns the step that fits the first and last times of all series best."""
    ends = np.r_[starts[1:], len(place)] - 1
    span, turns = place[ends] - place[starts], step_R[ends] - step_R[starts]
    return float((span * turns).sum() / max((turns**2).sum(), 1)) or 1.0


def _snapped(step: float, form: Form) -> float:
    """Returns a rounded step as what was rounded: a whole number, a part of one, or a short decimal."""
    if form.kind == "integer" or (form.decimals == 0 and abs(step - round(step)) < TOLERANCE):
        return round(step) if abs(step - round(step)) < TOLERANCE else step
    if form.decimals:
        short = round(step, form.decimals)
        if short and abs(short - step) <= 1e-6 * step:
            return short
        parts = 1 / step
        if abs(parts - round(parts)) <= 5 * TOLERANCE * parts and round(parts) in NAMES:
            return 1 / round(parts)
    return step


def _check_places(place: np.ndarray, expected: np.ndarray, tolerance: float, step: float, where: Any, word: str) -> None:
    off = np.abs(place - expected) > tolerance
    if off.any():
        first = int(np.argmax(off))
        raise JaxlvError(
            f"{word} grid is irregular", where=where, expected=f"equal steps within {TOLERANCE:g} of their mean {step:.6g}",
            found=f"{off.sum()} others, the first {place[first]:.10g} at row {first + 1} of the sorted rows",
            hint="resample the series on a regular grid",
        )  # fmt: skip


def _check_dense(step_R: np.ndarray, starts: np.ndarray, where: Any, word: str, turns: np.ndarray) -> None:
    """Raises JaxlvError if more than half of the steps are missing: then the shortest gap is not the step."""
    ends = np.r_[starts[1:], len(step_R)] - 1
    whole = int((step_R[ends] - step_R[starts] + 1).sum())
    if whole > 2 * len(step_R):
        found = f"{len(step_R)} rows for {whole} steps as long as the shortest"
        hint = "resample the series on a regular grid"
        raise JaxlvError(f"{word} grid is irregular", where=where, expected="equal steps", found=found, hint=hint)


# ------------------------------------------------------------------------------------------------------ writing


def _dates(place: np.ndarray, unit: Unit, month_end: bool) -> pd.DatetimeIndex:
    if unit == "nanosecond":
        return pd.DatetimeIndex(place.view("datetime64[ns]"))
    if unit == "weekday":
        return pd.DatetimeIndex(np.busday_offset("1970-01-01", place, roll="forward").astype("datetime64[ns]"))
    month, within = np.divmod(place, MONTH)
    first = (month - 1970 * 12).astype("datetime64[M]")
    last = (first + 1).astype("datetime64[D]") - np.timedelta64(1, "D")
    day, second = np.divmod(within, 86_400)
    days = last if month_end else np.minimum(first.astype("datetime64[D]") + day, last)
    return pd.DatetimeIndex(days.astype("datetime64[s]") + second)


def _written(at: pd.DatetimeIndex, form: Form) -> np.ndarray:
    """Returns dates as the column had them."""
    if form.kind == "period":
        return np.array(at.to_period(form.format), object)
    if form.kind == "date":
        return np.array(at.date, object)
    if form.kind == "quarter":
        return np.array(
            [form.format.replace("{}", str(one.year), 1).replace("{}", str(one.quarter), 1) for one in at], object
        )
    if form.kind == "text":
        return np.array([one.strftime(form.format.replace("%z", "+0000")) for one in at], object)
    if form.format:
        return np.array(at.tz_localize("UTC").tz_convert(form.format), object)
    return at.to_numpy()


def moment(label: Any) -> str:
    """Returns a time in words: a date without a time of day at midnight, a number without needless digits."""
    if isinstance(label, np.datetime64):
        label = str(label.astype("datetime64[s]")).removesuffix("T00:00:00").replace("T", " ")
    if isinstance(label, (float, np.floating)):
        return f"{label:.10g}"
    return str(label)
