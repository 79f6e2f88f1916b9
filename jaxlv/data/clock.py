"""Times of series: numbers or dates in equal steps, read from a column, and written again in the same form.

A `Clock` counts steps. Step k of series i stands at `origin_N[i] + k * step` in the clock's unit: a number, a place
among months, a count of days without weekends, or of nanoseconds (microseconds) since 1970. So months of unequal days are
regular, and so are decimal years that a file rounds.

Axes: N series.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxlv.data.moments import MONTH, Form, Parsed, Unit, at_row, dates, parsed, written
from jaxlv.errors import JaxlvError

TOLERANCE = 1e-3  # of a step, by which a time may be off its place
ROUNDED = 0.2  # of a step, at most, if a file rounds its times
NAMES = {1: "yearly", 4: "quarterly", 12: "monthly", 52: "weekly"}
UNITS = {"year": "yearly", "month": "monthly", "week": "weekly", "day": "daily", "hour": "hourly", "quarter": "quarterly",
         "jahr": "yearly", "monat": "monthly", "tag": "daily", "annee": "yearly", "année": "yearly", "mois": "monthly",
         "jour": "daily", "anno": "yearly", "año": "yearly"}  # fmt: skip
"""What steps of one are called, by the name of their column."""
SPANS = {604_800: "weekly", 86_400: "daily", 3600: "hourly", 60: "every minute", 1: "every second"}  # by seconds


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
        return written(dates(place.astype(np.int64), self.unit, self.form), self.form)

    def _numbers(self, place: np.ndarray) -> np.ndarray:
        if self.form.kind == "integer":
            return np.round(place).astype(np.int64)
        if self.form.decimals is None:
            return place
        rounded = np.round(np.round(place, self.form.decimals + 6), self.form.decimals)  # a half is one, in spite of 1 / 12
        if self.form.kind == "number":
            return rounded
        return np.array([f"{one:0{self.form.format}.{self.form.decimals}f}" for one in rounded.tolist()], object)

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
        if self.unit in ("nanosecond", "microsecond"):
            return _span(self.step / (1e9 if self.unit == "nanosecond" else 1e6))
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
    found = parsed(times, where, word)
    faults: list[JaxlvError] = []
    timed = []
    for one in found:
        try:
            timed.append(_regular(one, row_R, where, word))
        except JaxlvError as fault:
            faults.append(fault)
    if not timed:
        raise faults[0]
    if len(timed) > 1 and all(one.clock.form.kind == "text" for one in timed):
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
    unit: Unit = "nanosecond" if _in_nanoseconds(at) else "microsecond"
    found: list[Placed] = []
    same_clock = (at - at.normalize()).nunique() == 1
    day = int(at.day.max())
    if same_clock and (at.day == np.minimum(day, at.days_in_month)).all():
        ends = bool((at.day == at.days_in_month).all())
        form = one.form._replace(month_end=True) if ends else one.form
        place = np.asarray(at.year * 12 + at.month - 1, np.int64) * MONTH
        found.append(Placed("month", place + (0 if ends else (day - 1) * 86_400) + _second_of_day(at), form))
    found.append(Placed(unit, at.as_unit("ns" if unit == "nanosecond" else "us").asi8, one.form))
    days = np.busday_count("1970-01-01", at.values.astype("datetime64[D]"))
    apart = np.diff(np.unique(days))
    if same_clock and (at.day_of_week < 5).all() and len(apart) >= 5:  # more than a week
        form = one.form._replace(second=int(_second_of_day(at)[0]))
        found.insert(0 if apart.min() == 1 else len(found), Placed("weekday", days, form))
    return found


def _in_nanoseconds(at: pd.DatetimeIndex) -> bool:
    """Tells whether nanoseconds since 1970 fit into 64 bits, with room for what follows: years 1700 to 2200."""
    return bool(at.year.min() > 1700 and at.year.max() < 2200)


def _second_of_day(at: pd.DatetimeIndex) -> np.ndarray:
    return np.asarray(at.hour * 3600 + at.minute * 60 + at.second, np.int64)


class Sorted(NamedTuple):
    """Rows sorted by series and time: their order, places, series, the first row of each series, and steps from it."""

    order: np.ndarray
    place: np.ndarray
    row: np.ndarray
    starts: np.ndarray
    step: np.ndarray

    def of_rows(self, each_N: np.ndarray) -> np.ndarray:
        """Returns a number for each series as one for each row."""
        return np.repeat(each_N, np.diff(np.r_[self.starts, len(self.place)]))

    @property
    def ends(self) -> np.ndarray:
        """The last row of each series."""
        return np.r_[self.starts[1:], len(self.place)] - 1


def _on_grid(unit: Unit, place_R: np.ndarray, form: Form, row_R: np.ndarray, where: Any, word: str) -> Timed:
    """Returns the clock of times that are places in a unit; raises JaxlvError as `read_clock` does."""
    order = np.lexsort((place_R, row_R))
    place, row = place_R[order], row_R[order]
    inner = np.flatnonzero(np.diff(row) == 0)
    gap = np.diff(place)[inner]
    if (gap <= 0).any():
        first = int(inner[np.argmax(gap <= 0)])
        raise Repeated(where, word, _label(unit, place[first], form), sorted(order[first : first + 2].tolist()))
    if not len(gap):
        gap = np.array([{"month": 12 * MONTH, "nanosecond": 86_400 * 10**9, "microsecond": 86_400 * 10**6}.get(unit, 1)])
    step: float | int = _number_step(gap, form) if unit == "number" else _whole_step(gap)
    turns = np.zeros(len(place), np.int64)
    turns[inner + 1] = np.maximum(np.round(gap[: len(inner)] / step), 1)
    starts = np.flatnonzero(np.r_[True, np.diff(row) > 0])
    held = Sorted(order, place, row, starts, np.cumsum(turns) - np.repeat(np.cumsum(turns)[starts], _lengths(starts, place)))
    _check_dense(held, where, word)
    if unit == "number":
        step, origin_N, tolerance = _fitted(held, step, form)
    else:
        origin_N, tolerance = place[starts].astype(np.int64), 0.0
    _check_places(held, held.of_rows(origin_N) + held.step * step, tolerance, step, where, word)
    back = np.empty(len(place), np.int64)
    back[order] = held.step
    return Timed(Clock(unit, step, origin_N, form, word), back)


def _lengths(starts: np.ndarray, place: np.ndarray) -> np.ndarray:
    return np.diff(np.r_[starts, len(place)])


class Repeated(JaxlvError):
    """Two rows of one series at one time."""

    def __init__(self, where: Any, word: str, label: Any, rows: list[int]):
        self.rows = rows
        hint = "name the column of the series by --id (id=), or leave one row of each"
        place = at_row(where, rows[1])
        super().__init__(f"two rows with one {word}", where=place, found=f"{label}, as in row {rows[0] + 1}", hint=hint)


def _label(unit: Unit, place: Any, form: Form) -> Any:
    clock = Clock(unit, 1, np.array([place]), form)
    return clock.labels(0, [0])[0]


def _whole_step(gap: np.ndarray) -> int:
    """Returns the step of dates: the shortest gap, if all are multiples, else their greatest common divisor."""
    least = int(gap.min())
    return least if not (gap % least).any() else int(np.gcd.reduce(gap.astype(np.int64)))


def _half(form: Form) -> float:
    """Returns how far rounding may have moved a number."""
    return 0.5 * 10.0**-form.decimals if form.decimals else 0.0


def _number_step(gap: np.ndarray, form: Form) -> float:
    """Returns a first estimate of a step, from the gaps between numbers that are about as long as the shortest."""
    return float(gap[gap <= 1.5 * gap.min() + 2 * _half(form) * (_half(form) <= ROUNDED * gap.min())].mean())


class Fit(NamedTuple):
    """Regular times: their step, the first time of each series, and how far a time may be off its place."""

    step: float | int
    origin_N: np.ndarray
    tolerance: float


def _fitted(held: Sorted, step: float, form: Form) -> Fit:
    """Returns the step and the first times of numbers, and how far a time may be off its place.

    If a file rounds its times, these are the simplest with which rounding gives the times in it: a whole number, a short
    decimal, or a part of a year.
    """
    span, turns = held.place[held.ends] - held.place[held.starts], held.step[held.ends]
    step = float((span * turns).sum() / max((turns**2).sum(), 1)) or step
    half = _half(form) if _half(form) <= ROUNDED * step else 0.0
    origin_N = held.place[held.starts].astype(np.float64)
    exact = 1e-9 * max(step, np.abs(held.place).max(initial=0) * 1e-6) + 4 * np.spacing(np.abs(held.place).max(initial=1))
    short, parts = _simple(step, form)
    for simple, slack in [*((one, exact) for one in short), *((one, half + exact) for one in (*parts, *short))]:
        low_N, high_N = _origins(held, simple, slack)
        if (low_N <= high_N).all():
            return Fit(simple, origin_N if slack == exact else _simplest(low_N, high_N, simple), slack)
    low_N, high_N = _origins(held, step, half + exact)
    if half and (low_N <= high_N).all():
        return Fit(step, (low_N + high_N) / 2, half + exact)
    return Fit(step, origin_N, max(TOLERANCE * step, 2.02 * half))


def _simple(step: float, form: Form) -> tuple[list[float | int], list[float | int]]:
    """Returns short decimals and parts of a year, a week, or an hour near a step that may be meant by it, the simplest
    first.
    """

    def near(found: Iterable[float]) -> list[float | int]:
        return [int(one) if float(one).is_integer() else one for one in found if abs(one - step) < 0.1 * step and one > 0]

    if form.kind == "integer":
        return near([round(step)]), []
    short = near(round(step, digits) for digits in range((form.decimals or 0) + 1))
    return short, near(round(step * whole) / whole for whole in (12, 52, 24, 365.25, 365, 7, 60, 360, 366))


def _origins(held: Sorted, step: float, slack: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for each series, from where to where its first time may lie, if no time is off its place by more."""
    off = held.place - held.step * step
    return np.maximum.reduceat(off, held.starts) - slack, np.minimum.reduceat(off, held.starts) + slack


def _simplest(low_N: np.ndarray, high_N: np.ndarray, step: float) -> np.ndarray:
    """Returns a number between each two: a multiple of the step or of its half, else the middle."""
    found = (low_N + high_N) / 2
    for unit in (step / 2, step):
        near = np.round(found / unit) * unit
        found = np.where((low_N <= near) & (near <= high_N), near, found)
    return found


def _check_places(held: Sorted, expected: np.ndarray, tolerance: float, step: float, where: Any, word: str) -> None:
    off = np.abs(held.place - expected) > tolerance
    if off.any():
        first = int(np.argmax(off))
        raise JaxlvError(
            f"{word} grid is irregular", where=at_row(where, int(held.order[first])),
            expected=f"equal steps within {TOLERANCE:g} of their mean {step:.6g}",
            found=f"{off.sum()} others, the first {held.place[first]:.10g}", hint="resample the series on a regular grid",
        )  # fmt: skip


def _check_dense(held: Sorted, where: Any, word: str) -> None:
    """Raises JaxlvError if more than half of the steps are missing: then the shortest gap is not the step."""
    whole = int((held.step[held.ends] + 1).sum())
    if whole > 2 * len(held.step):
        found = f"{len(held.step)} rows for {whole} steps as long as the shortest"
        hint = "resample the series on a regular grid"
        raise JaxlvError(f"{word} grid is irregular", where=where, expected="equal steps", found=found, hint=hint)


def moment(label: Any) -> str:
    """Returns a time in words: a date without a time of day at midnight, a number without needless digits."""
    if isinstance(label, np.datetime64):
        label = str(label.astype("datetime64[s]")).removesuffix("T00:00:00").replace("T", " ")
    if isinstance(label, (float, np.floating)):
        return f"{label:.10g}"
    return str(label)
