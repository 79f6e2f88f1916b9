"""Puts a table in order before its columns are told apart: its index, names and types, and times that stand in several
columns.
"""

from __future__ import annotations

import numbers
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from jaxlv.data.clock import is_time
from jaxlv.data.forms import SAMPLE, is_of_units, told_of_units
from jaxlv.data.limits import Room, clean_name
from jaxlv.data.moments import are_moments, at_row
from jaxlv.data.words import (
    KINDS,
    NUMBER,
    PERHAPS_IDS,
    ROW_NUMBERS,
    is_adorned,
    is_called,
    is_missing,
    is_of_ids,
    is_of_time,
    key_of,
    loses,
    plain,
)
from jaxlv.errors import JaxlvError


@dataclass(frozen=True)
class Choice:
    """What a caller says of the columns: names, which are compared without regard to case; None if jaxlv finds out.

    With `separate`, each variable becomes a series of its own, with the variable's name as its id.
    """

    id: str | None = None
    time: str | None = None
    columns: Sequence[str] | None = None
    separate: bool = False

    @property
    def told(self) -> set[str]:
        """The columns that the caller named, as they are compared."""
        return {key_of(name) for name in (self.id, self.time, *(self.columns or ())) if name is not None}


@dataclass(frozen=True)
class Origin:
    """The file that a table is from, what may be built of it, and the line of each of its rows if it has lines."""

    path: Any
    room: Room
    lines: Sequence[Any] | None = None

    def __str__(self) -> str:
        return str(self.path)

    def row(self, row: int) -> str:
        """Returns where a row is."""
        return f"{self.path}, row {row + 1}" if self.lines is None else f"{self.path}:{self.lines[row]}"


def take(where: Any, size: int) -> None:
    """Counts bytes that are built of a table; raises JaxlvError if they are too many for what a file may take."""
    if isinstance(where, Origin):
        where.room.take(size)


def tidy(frame: pd.DataFrame, where: Any, choice: Choice, notes: list[str]) -> tuple[pd.DataFrame, Choice]:
    """Returns a table whose columns have clean names, each once, and hold numbers, dates or texts; and the choice, to which
    an index of several levels may add. Adds to `notes` what is left out.

    Raises JaxlvError if it has no rows, and if a column is of numbers except for some cells.
    """
    if not len(frame) or not len(frame.columns):
        raise JaxlvError("has no rows" if len(frame.columns) else "has no columns", where=where)
    if isinstance(frame.columns, pd.MultiIndex):
        raise JaxlvError("a frame with columns of several levels", where=where, hint="join the names of the levels")
    if not frame.columns.is_unique:
        double = frame.columns[frame.columns.duplicated()][0]
        raise JaxlvError("two columns have one name", where=where, found=str(double) or "no name")
    frame, choice = _with_index(_without_units(frame, notes), choice, notes)
    table = _typed(_named(frame, where), choice, where, notes)
    return _joined(_without_row_numbers(table, choice, notes), choice, notes), choice


def name_of(column: Any) -> str:
    """Returns the name of a column in words."""
    return str(column) or "without a name"


def is_numeric(column: pd.Series) -> bool:
    """Tells whether a column holds numbers."""
    return pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)


def is_text(column: pd.Series) -> bool:
    """Tells whether a column holds texts."""
    return pd.api.types.is_object_dtype(column.dtype) or pd.api.types.is_string_dtype(column.dtype)


# ------------------------------------------------------------------------------------------------------- names


def _with_index(frame: pd.DataFrame, choice: Choice, notes: list[str]) -> tuple[pd.DataFrame, Choice]:
    """Returns the frame with its index as columns, if that says something."""
    index = frame.index
    if isinstance(index, pd.MultiIndex):
        return _with_levels(frame, index, choice, notes)
    if index.name is not None and key_of(index.name) in map(key_of, frame.columns):
        return frame.reset_index(drop=True), choice
    if isinstance(index, pd.TimedeltaIndex):
        frame = frame.set_axis(pd.Index(index.total_seconds(), name=index.name or "time (s)"), axis=0)
        return frame.reset_index(), choice
    if index.name is not None or isinstance(index, (pd.DatetimeIndex, pd.PeriodIndex)):
        return frame.rename_axis(index.name if index.name is not None else "time").reset_index(), choice
    has_time = any(is_of_time(name) or pd.api.types.is_datetime64_any_dtype(frame[name].dtype) for name in frame.columns)
    if not has_time and choice.time is None and _tells_times(index):
        return frame.rename_axis("time").reset_index(), choice
    return frame.reset_index(drop=True), choice


def _tells_times(index: pd.Index) -> bool:
    """Tells whether an unnamed index is of times: numbers that grow, unless they only count the rows, or dates as text."""
    if len(index) < 2 or not index.is_unique or pd.api.types.is_bool_dtype(index.dtype):
        return False
    if pd.api.types.is_numeric_dtype(index.dtype):
        values = index.to_numpy(float)
        if not (np.diff(values) > 0).all() or any(np.array_equal(values, np.arange(n, n + len(values))) for n in (0, 1)):
            return False
    return is_time(index.to_series(), np.zeros(len(index), int))


def _with_levels(frame: pd.DataFrame, index: pd.MultiIndex, choice: Choice, notes: list[str]) -> tuple[pd.DataFrame, Choice]:
    """Returns a frame whose index has several levels with these as columns: times, and ids of the others that differ."""
    names = [
        name if name is not None else ("time" if i == index.nlevels - 1 else f"level_{i}_id" if i else "series")
        for i, name in enumerate(index.names)
    ]
    frame = frame.set_axis(index.set_names(names), axis=0).reset_index()
    if choice.id is not None or choice.time is not None:
        return frame, choice
    dated = [_holds_dates(level) for level in index.levels]
    called = [is_of_time(name) for name in names]
    time = dated.index(True) if sum(dated) == 1 else called.index(True) if sum(called) == 1 else len(names) - 1
    others = [name for i, name in enumerate(names) if i != time]
    still = [name for name in others if frame[name].nunique(dropna=False) == 1]
    others = [name for name in others if name not in still[: len(others) - 1]]
    frame = frame.drop(columns=[name for name in still if name not in others])
    if len(others) > 1:
        together = " ".join(map(str, others))
        notes.append(f"series are told apart by {' and '.join(map(str, others))}")
        joined = frame[others].astype(str).agg(" ".join, axis=1)
        frame, others = frame.drop(columns=others).assign(**{together: joined}), [together]
    return frame, replace(choice, id=str(others[0]), time=str(names[time]))


def _holds_dates(level: pd.Index) -> bool:
    return pd.api.types.is_datetime64_any_dtype(level.dtype) or isinstance(level.dtype, pd.PeriodDtype)


def _named(frame: pd.DataFrame, where: Any) -> pd.DataFrame:
    """Returns the frame with clean names, each of which is there once."""
    given = ["" if name is None or name != name else name for name in frame.columns]
    names = ["" if key_of(name) in ROW_NUMBERS[:2] else clean_name(name, where, "name of a column") for name in given]
    keys = [key_of(name) for name in names]
    double = next((name for i, name in enumerate(names) if keys[i] in keys[:i]), None)
    if double is not None:
        raise JaxlvError("two columns have one name", where=where, found=double or "no name")
    return frame.set_axis(names, axis=1)


def _without_units(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Returns the frame without a first row that has the units of its columns."""
    if not any(is_text(frame.iloc[:, place]) for place in range(frame.shape[1])):
        return frame
    cells = [
        ["" if one is None or one is pd.NaT or one != one else str(one).strip() for one in row]
        for row in frame.iloc[:SAMPLE].astype(object).where(frame.iloc[:SAMPLE].notna(), None).to_numpy().tolist()
    ]
    if not is_of_units(cells, lambda cell: NUMBER.fullmatch(plain(cell)) is not None):
        return frame
    notes.append(told_of_units(cells[0]))
    return frame.iloc[1:]


# ------------------------------------------------------------------------------------------------------- types


def _typed(table: pd.DataFrame, choice: Choice, where: Any, notes: list[str]) -> pd.DataFrame:
    """Returns the table with columns of numbers, dates, or texts in which None is missing; others are left out."""
    found: dict[str, pd.Series] = {}
    for name in table.columns:
        column = table[name]
        if pd.api.types.is_complex_dtype(column.dtype):
            raise JaxlvError(f"{name_of(name)} is complex", where=where, expected="real numbers")
        if pd.api.types.is_timedelta64_dtype(column.dtype):
            column = column.dt.total_seconds()
        if isinstance(column.dtype, pd.CategoricalDtype):
            column = column.astype(column.cat.categories.dtype if is_numeric(pd.Series(column.cat.categories)) else object)
        if is_text(column):
            as_ids = is_of_ids(name) or is_of_time(name) or key_of(name) in (*KINDS, key_of(choice.id), key_of(choice.time))
            column = _of_objects(column, str(name), as_ids, where)
        if column is None:
            notes.append(f"column {name_of(name)} ignored: it holds neither numbers, dates nor texts")
        else:
            found[name] = column
    if not found:
        raise JaxlvError("no column of numbers to forecast", where=where, expected="a variable", found="other objects")
    return pd.DataFrame(found)


def _of_objects(column: pd.Series, name: str, as_ids: bool, where: Any) -> pd.Series | None:
    """Returns a column of objects as numbers, dates or texts; None if it has others."""
    cells, is_id = column.tolist(), as_ids and not is_of_time(name) and not is_called(name, PERHAPS_IDS)
    if all(one is None or type(one) is str for one in cells):  # each text is looked at once
        kept = {one: _cell(one, is_id) for one in {*cells}}
        cells = [kept[one] for one in cells]
    else:
        cells = [_cell(one, is_id) for one in cells]
    known = [one for one in cells if one is not None]
    if all(isinstance(one, bool) for one in known):
        return pd.Series([None if one is None else str(one) for one in cells], dtype=object)
    if all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in known):
        return _of_numbers(cells)
    if all(isinstance(one, date) for one in known):
        return pd.Series(cells, dtype=object)
    if not all(isinstance(one, (str, int, float)) for one in known):
        return None
    texts = [None if one is None else one if isinstance(one, str) else f"{one:.17g}" for one in cells]
    numeric = [one is None or bool(NUMBER.fullmatch(one)) for one in texts]
    if all(numeric):
        as_ids = as_ids and (not is_called(name, PERHAPS_IDS) or any(loses(name, one) for one in texts if one is not None))
        return (
            pd.Series(texts, dtype=object) if as_ids else _of_numbers([None if one is None else float(one) for one in texts])
        )
    if not as_ids:
        check_numbers(texts, name, where)
    return pd.Series(texts, dtype=object)


def _cell(one: Any, is_id: bool = False) -> Any:
    """Returns a cell as a number, date or text of Python; None if it is missing. A text that is an id stays as it is."""
    if isinstance(one, bytes):
        one = one.decode("utf-8", "surrogateescape")
    if isinstance(one, str):
        return None if is_missing(one.strip()) else one.strip() if is_id else plain(one.strip())
    if one is None or one is pd.NaT or one is pd.NA:
        return None
    if isinstance(one, (bool, np.bool_)):
        return bool(one)
    if isinstance(one, (numbers.Real, Decimal)):
        return None if one != one else int(one) if isinstance(one, numbers.Integral) else float(one)
    return one


def _of_numbers(cells: Sequence[Any]) -> pd.Series:
    values = np.array([np.nan if one is None else float(one) for one in cells])
    whole = len(values) and bool((values == np.round(values)).all()) and float(np.abs(values).max()) < 2**53
    return pd.Series(values.astype(np.int64) if whole else values)


def check_numbers(texts: Sequence[str | None], name: str, where: Any) -> None:
    """Raises JaxlvError if a column of texts seems meant as one of numbers: more numbers than other texts, or nothing but
    numbers with marks beside them.
    """
    known = [(row, one) for row, one in enumerate(texts) if one is not None]
    numeric = [row for row, one in known if NUMBER.fullmatch(one)]
    adorned = [row for row, one in known if is_adorned(one)]
    others = [row for row, one in known if not NUMBER.fullmatch(one)]
    meant = len(numeric) > len(others) or (adorned and len(numeric) + len(adorned) == len(known))
    if others and meant and not are_moments(one for _, one in known):
        raise not_a_number(name, texts[others[0]], at_row(where, others[0]))


def not_a_number(name: str, cell: Any, where: Any) -> JaxlvError:
    """Returns the error for a cell that is not a number in a column of numbers."""
    hint = (
        "write it as 1234.5, leave it empty if it is missing, begin a line that is not a row with #, or choose other columns"
        " by --columns (columns=)"
    )
    if is_adorned(str(cell)) and re.search(r"\d[.,]\d{3}([.,]|$)", str(cell)):
        hint = "write numbers without separators of thousands, and with a point"
    return JaxlvError(f"{name_of(name)} is not a number", where=where, found=repr(cell), hint=hint)


# ------------------------------------------------------------------------------------------- columns in place of others


def _without_row_numbers(table: pd.DataFrame, choice: Choice, notes: list[str]) -> pd.DataFrame:
    """Returns the table without a column that numbers its rows, from 0 or 1, and without columns in which nothing stands."""
    told, gone = choice.told, []
    for name in table.columns:
        column, key = table[name], key_of(name)
        if key in told:
            continue
        if column.isna().all():
            notes.append(f"column {name_of(name)} is empty and ignored")
            gone.append(name)
        elif key in ROW_NUMBERS and is_numeric(column):
            values = column.to_numpy(float, na_value=np.nan)
            if any(np.array_equal(values, np.arange(first, first + len(table))) for first in (0, 1)):
                notes.append(f"column {name_of(name)} (row numbers) is ignored")
                gone.append(name)
        elif key == "" and is_text(column):  # names of rows
            gone.append(name)
            notes.append("column without a name ignored")
    return table.drop(columns=gone)


def _joined(table: pd.DataFrame, choice: Choice, notes: list[str]) -> pd.DataFrame:
    """Returns the table with one column of times in place of year and month (and day), year and quarter, year and week, or
    date and time of day.
    """
    by_key = {key_of(name): name for name in table.columns}
    if choice.time is not None or set(by_key) & choice.told & {"year", "month", "quarter", "week", "day", "date", "time"}:
        return table
    whole = [name for key in ("date", "ds", "datetime", "timestamp") if (name := by_key.get(key)) is not None]
    if whole and not _is_day_of_hours(table, by_key):
        return table
    for parts, join in JOINS:
        if set(parts) <= by_key.keys():
            names = [by_key[part] for part in parts]
            joined = join(*(table[name] for name in names))
            if joined is not None and (parts[0] != "year" or _repeats_within(table, names)):
                notes.append(f"{' and '.join(names)} are read as one time")
                rest = table.drop(columns=names)
                rest.insert(0, "date", joined)
                return rest
    return table


def _is_day_of_hours(table: pd.DataFrame, by_key: dict[str, str]) -> bool:
    """Tells whether a column of dates has one of times of day beside it."""
    return {"date", "time"} <= by_key.keys() and _of_hours(table[by_key["date"]], table[by_key["time"]]) is not None


def _repeats_within(table: pd.DataFrame, parts: Sequence[str]) -> bool:
    """Tells whether a year, the first of the parts, has several rows in a series, whatever column tells these apart."""
    rest = table.drop(columns=list(parts[1:]))
    apart = [
        name for name in rest.columns if is_of_ids(name) or (is_text(table[name]) and table[name].nunique() < len(table))
    ]
    return bool(table.duplicated([parts[0], *apart]).any())


def _whole(column: pd.Series, low: int, high: int) -> pd.Series | None:
    """Returns a column as whole numbers, if it holds nothing else and they are in a range."""
    values = pd.to_numeric(column, errors="coerce").astype(float)
    if values.isna().any():
        return None
    return values.astype(int) if (values == values.round()).all() and values.between(low, high).all() else None


def _month(column: pd.Series) -> pd.Series | None:
    """Returns a column of months as numbers: 1 to 12, or their English names."""
    bare = pd.to_numeric(column, errors="coerce")
    if is_numeric(column) or not bare.isna().any():
        return _whole(bare, 1, 12)
    if column.isna().any():
        return None
    for text in ("%b", "%B"):
        found = pd.to_datetime(column.astype(str).str.strip(), format=text, errors="coerce")
        if not found.isna().any():
            return found.dt.month
    return None


def _of_months(year: pd.Series, month: pd.Series, day: pd.Series | None = None) -> pd.Series | None:
    years, months = _whole(year, 1000, 2999), _month(month)
    days = pd.Series(1, year.index) if day is None else _whole(day, 1, 31)
    if years is None or months is None or days is None or months.nunique() == 1:
        return None
    moments = pd.to_datetime({"year": years, "month": months, "day": days}, errors="coerce")
    return None if moments.isna().any() else moments.dt.strftime("%Y-%m" if day is None else "%Y-%m-%d")


def _of_quarters(year: pd.Series, quarter: pd.Series) -> pd.Series | None:
    bare = (
        quarter if is_numeric(quarter) else pd.to_numeric(quarter.astype(str).str.upper().str.lstrip("Q"), errors="coerce")
    )
    years, quarters = _whole(year, 1000, 2999), _whole(bare, 1, 4)
    if years is None or quarters is None or quarters.nunique() == 1:
        return None
    return years.astype(str) + "Q" + quarters.astype(str)


def _of_weeks(year: pd.Series, week: pd.Series) -> pd.Series | None:
    years, weeks = _whole(year, 1000, 2999), _whole(week, 1, 53)
    if years is None or weeks is None or weeks.nunique() == 1:
        return None
    return years.astype(str) + "-W" + weeks.astype(str).str.zfill(2)


def _of_hours(day: pd.Series, time: pd.Series) -> pd.Series | None:
    """Returns dates and times of day as one text."""
    if not is_text(day) or not is_text(time) or day.isna().any() or time.isna().any():
        return None
    texts = time.astype(str).str.strip()
    return day.astype(str).str.strip() + " " + texts if texts.str.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?").all() else None


JOINS = (
    (("year", "month", "day"), _of_months), (("year", "month"), _of_months), (("year", "quarter"), _of_quarters),
    (("year", "week"), _of_weeks), (("date", "time"), _of_hours), (("day", "time"), _of_hours),
)  # fmt: skip
