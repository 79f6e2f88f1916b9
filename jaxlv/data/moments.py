"""Times as a column has them: read as numbers or as dates, and dates written again in the same form."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import date
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from jaxlv.data.words import NUMBER
from jaxlv.errors import JaxlvError

Unit = Literal["number", "month", "weekday", "nanosecond", "microsecond"]
DECIMALS = 6  # at most, of times that a file rounds
FORMATS = (
    "%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S.%f",
    "%Y-%m-%dT%H:%M:%S.%f", "%Y-%m", "%Y/%m/%d", "%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S", "%Y/%m", "%Y.%m.%d", "%d.%m.%Y",
    "%d.%m.%y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S", "%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d/%m/%y", "%m/%d/%Y %H:%M",
    "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %I:%M %p", "%m/%d/%Y %I:%M:%S %p", "%m/%Y",
    "%d-%m-%Y", "%m-%d-%Y", "%d-%b-%Y", "%d-%b-%y", "%b-%y", "%b-%Y", "%b %Y", "%B %Y", "%Y %b", "%Y %B", "%Y-%b",
    "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%d%b%Y", "%d%b%y", "%b%Y", "%Y%b", "%Y%m%d", "%YM%m", "%Ym%m",
    "%a %d %b %Y", "%a, %d %b %Y", "%A, %B %d, %Y", "%Y年%m月%d日", "%Y年%m月", "%Y-%j", "%Y%m%dT%H%M%S", "%Y%m%d%H%M",
)  # fmt: skip
"""Dates as text, tried in this order."""
PARTS = {
    "Y": r"\d{4}", "m": r"\d{1,2}", "d": r"\d{1,2}", "H": r"\d{1,2}", "I": r"\d{1,2}", "M": r"\d{1,2}", "S": r"\d{1,2}",
    "y": r"\d{2}", "j": r"\d{1,3}", "f": r"\d{1,9}", "p": r"[AaPp][Mm]",
}  # fmt: skip
SHAPES = {
    text: re.compile(
        re.sub(r"%([A-Za-z])", lambda part: PARTS.get(part[1], r"[^\W\d]+\.?"), re.sub(r"([.+(){}\[\]])", r"\\\1", text))
    )
    for text in FORMATS
}
"""What a cell in each format looks like: the quickest test of whether it may be written so."""
ZONE = re.compile(r"\s?(Z|[+-]\d{2}:?\d{2}|UTC|GMT)$")
QUARTER = re.compile(r"(\d{4})([ -]?[Qq])([1-4])")
QUARTER_FIRST = re.compile(r"([Qq])([1-4])([ -/]?)(\d{4})")
SEASON = re.compile(r"(\d{4})([/–-])(\d{4}|\d{2})")
WEEK = re.compile(r"(\d{4})(-?[Ww])(\d{1,2})")
CENTURY = (1969, 2030)  # years that two digits may mean without doubt
TRIED = 20  # cells that tell whether a format may fit the others
SPELLED = 1000  # cells that tell how dates are spelled
MONTH = 32 * 86_400  # places in a month of the unit "month": seconds, of which no month has more


class Form(NamedTuple):
    """How times are written: as what kind, and in which format if they are text, a period or have a time zone."""

    kind: Literal["integer", "number", "digits", "text", "datetime", "local", "period", "date", "quarter", "season"]
    format: str = ""
    decimals: int | None = None  # of numbers, if they are rounded
    month_end: bool = False
    upper: bool = False  # whether names of months are in capitals
    second: int = 0  # of the day, of weekdays


class Parsed(NamedTuple):
    """Times as numbers or as timestamps, and how they are written."""

    values: Any  # float64 numbers, or a DatetimeIndex without a time zone
    form: Form


def parsed(times: Any, where: Any, word: str) -> list[Parsed]:
    """Returns what a column of times can be read as, the likeliest first; more than one if day and month are unclear, and
    if numbers may be dates. Raises JaxlvError if they are not times.
    """
    column = pd.Series(times).reset_index(drop=True)
    if column.isna().any():
        line = int(np.argmax(column.isna()))
        raise JaxlvError(f"{word} is missing", where=at_row(where, line), expected="a time in every row")
    kind = column.dtype
    if isinstance(kind, pd.PeriodDtype):
        return [Parsed(pd.DatetimeIndex(column.dt.to_timestamp()), Form("period", str(kind)[len("period[") : -1]))]
    if pd.api.types.is_datetime64_any_dtype(kind):
        return _stamps(pd.DatetimeIndex(column))
    if pd.api.types.is_bool_dtype(kind) or pd.api.types.is_complex_dtype(kind):
        raise JaxlvError(f"{word} is not a time", where=where, expected="numbers or dates", found=str(kind))
    if pd.api.types.is_numeric_dtype(kind):
        return _numbers(column, where, word)
    if all(isinstance(one, date) for one in column):
        days = not any(hasattr(one, "hour") for one in column)
        moments = pd.DatetimeIndex(pd.to_datetime(column, utc=any(getattr(one, "tzinfo", None) for one in column)))
        return [Parsed(moments, Form("date"))] if days else _stamps(moments)
    codes, cells = pd.factorize(column.astype(str).str.strip())  # each text is read once
    _, rows = np.unique(codes, return_index=True)
    column = pd.Series(cells)
    found = _digits(column, where, word) if _all(NUMBER, column) else _texts(column, rows, where, word)
    return [one._replace(values=one.values[codes]) for one in found]


def are_moments(cells: Iterable[Any]) -> bool:
    """Tells whether cells are times, in whatever order and however often."""
    try:
        parsed(pd.Series(list(cells)).drop_duplicates(), "", "")
    except JaxlvError:
        return False
    return True


def _stamps(moments: pd.DatetimeIndex) -> list[Parsed]:
    """Returns timestamps; with a time zone, as its clocks show them and as they follow each other: days are 23 to 25 hours
    long there.
    """
    if moments.tz is None:
        return [Parsed(moments, Form("datetime"))]
    zone = str(moments.tz)
    local = Parsed(moments.tz_localize(None), Form("local", zone))
    exact = Parsed(moments.tz_convert("UTC").tz_localize(None), Form("datetime", zone))
    of_day = local.values.normalize()
    return [local, exact] if (local.values - of_day).nunique() == 1 else [exact]


def at_row(where: Any, row: int) -> Any:
    """Returns where a row of a table is, in words: its line if the table is a file of text."""
    return where.row(row) if hasattr(where, "row") else f"{where}, row {row + 1}"


def _numbers(column: pd.Series, where: Any, word: str) -> list[Parsed]:
    values = column.to_numpy(np.float64)
    if not np.isfinite(values).all() or np.abs(values).max(initial=0) > np.finfo(np.float32).max:
        row = int(np.argmax(~(np.abs(values) <= np.finfo(np.float32).max)))
        raise JaxlvError(f"{word} is not finite, or too large", where=at_row(where, row), found=f"{values[row]:g}")
    whole = bool((values == np.round(values)).all())
    if whole and pd.api.types.is_integer_dtype(column.dtype):
        return [*_dates_as_numbers(column), Parsed(values, Form("integer"))]
    fits = [d for d in range(DECIMALS + 1) if np.allclose(values, np.round(values, d), rtol=0, atol=1e-9)]
    return [Parsed(values, Form("number", decimals=fits[0] if fits else None))]


def _digits(column: pd.Series, where: Any, word: str) -> list[Parsed]:
    """Returns numbers that are texts, as dates or as numbers, with as many digits as they have."""
    if column.str.len().nunique() == 1 and (found := _formats(column)):
        return found
    (*_, one) = _numbers(pd.to_numeric(column), where, word)
    plain = column.str.fullmatch(r"-?\d+(\.\d+)?").all()
    digits = column.str.partition(".")[2].str.len()
    if not plain or digits.nunique() > 1:
        return [one]
    width = len(column.iloc[0]) if column.str.startswith("0").any() and column.str.len().nunique() == 1 else 0
    return [Parsed(one.values, Form("digits", str(width or ""), decimals=int(digits.iloc[0])))]


def _dates_as_numbers(column: pd.Series) -> list[Parsed]:
    """Returns whole numbers such as 20150131 or 201501 as dates, if they all are."""
    for text, low, high in (("%Y%m%d", 16_000_101, 22_991_231), ("%Y%m", 160_001, 229_912)):
        if column.between(low, high).all() and column.nunique() > 1:
            moments = pd.to_datetime(column.astype(str), format=text, errors="coerce")
            if not moments.isna().any():
                return [Parsed(pd.DatetimeIndex(moments), Form("integer", text))]
    return []


# ------------------------------------------------------------------------------------------------------- texts


def _texts(column: pd.Series, rows: np.ndarray, where: Any, word: str) -> list[Parsed]:
    for kind in (_quarters, _weeks, _seasons):
        if (special := kind(column)) is not None:
            return [special]
    found = []
    if ZONE.search(column.iloc[0]) and (zones := column.str.extract(ZONE.pattern)[0]).notna().all():
        bare = column.str.replace(ZONE.pattern, "", regex=True)
        if zones.nunique() == 1:  # the same all through: it is written again as it is
            tail = column[0][len(bare[0]) :]
            found = [one._replace(form=one.form._replace(format=one.form.format + tail)) for one in _formats(bare)]
        else:
            found = _shifted(bare, zones)
    found = found or _formats(column)
    if not found:
        numbers = list(map(NUMBER.fullmatch, column))
        row = next((row for row, one in enumerate(column) if not (numbers[row] or _formats(pd.Series([one])))), 0)
        expected = "numbers, or dates such as 2015-01-31, 2015-01 or 2015Q1"
        raise JaxlvError(
            f"{word} is not a time", where=at_row(where, int(rows[row])), expected=expected, found=repr(column[row])
        )
    _check_century(found, column, rows, where, word)
    return [one for i, one in enumerate(found) if not any(one.values.equals(other.values) for other in found[:i])]


def _all(shape: re.Pattern[str], column: pd.Series) -> bool:
    """Tells whether all texts have a shape."""
    return all(map(shape.fullmatch, column))  # ends at the first that has not


def _formats(column: pd.Series) -> list[Parsed]:
    """Returns texts as dates, in every format that fits all of them."""
    found, ends = [], (column.iloc[0], column.iloc[-1])
    for text, shape in SHAPES.items():
        if not all(map(shape.fullmatch, ends)):
            continue
        if pd.to_datetime(column[:TRIED], format=text, errors="coerce").isna().any():
            continue
        moments = pd.to_datetime(column, format=text, errors="coerce")
        if not moments.isna().any():
            found.append(Parsed(pd.DatetimeIndex(moments), _spelled(text, column, pd.DatetimeIndex(moments))))
    return found


def _spelled(text: str, column: pd.Series, moments: pd.DatetimeIndex) -> Form:
    """Returns the format with which dates are written as they were: with or without leading zeros, in capitals or not."""
    short = re.sub(r"%([dmHI])", r"%-\1", text)
    days = re.sub(r"%([dm])", r"%-\1", text)
    hours = re.sub(r"%([HI])", r"%-\1", text)
    texts = dict.fromkeys((text, days, hours, short))
    if "%f" in text:
        texts = dict.fromkeys((text.replace("%f", f"%{len(column[0].rpartition('.')[2])}f"), text))
    forms = [Form("text", one, upper=upper) for upper in (False, True) for one in texts]
    rows = np.unique(np.linspace(0, len(column) - 1, SPELLED).astype(int))
    for form in forms:
        if all(written_as(moments[row], form) == column.iloc[row] for row in rows):
            return form
    return forms[0]


def written_as(at: Any, form: Form) -> str:
    """Returns a moment as text."""
    text = re.sub(r"%-([dmHI])", lambda part: str(int(at.strftime(f"%{part[1]}"))), form.format)
    text = re.sub(r"%(\d)f", lambda part: f"{at.microsecond:06}"[: int(part[1])], text)
    found = at.strftime(text)
    return str(found.upper() if form.upper else found)


def _shifted(bare: pd.Series, zones: pd.Series) -> list[Parsed]:
    """Returns times of several distances from Greenwich as times in Greenwich."""
    plain = zones.replace({"Z": "+0000", "UTC": "+0000", "GMT": "+0000"}).str.replace(":", "")
    minutes = plain.str[1:3].astype(int) * 60 + plain.str[3:5].astype(int)
    ahead = pd.to_timedelta(np.where(plain.str[0] == "-", -minutes, minutes), unit="min")
    return [
        Parsed(pd.DatetimeIndex(one.values - ahead), one.form._replace(format=one.form.format + "+0000"))
        for one in _formats(bare)
    ]


def _check_century(found: list[Parsed], column: pd.Series, rows: np.ndarray, where: Any, word: str) -> None:
    """Raises JaxlvError if years have two digits that may be of this century or of the last."""
    for one in found:
        years = one.values.year
        off = (years < CENTURY[0]) | (years > CENTURY[1])
        if "%y" in one.form.format and off.any():
            row = int(np.argmax(off))
            found_year = f"{column[row]}, which may be {years[row]} or {years[row] - 100}"
            raise JaxlvError(
                f"{word} has years of two digits",
                where=at_row(where, int(rows[row])),
                found=found_year,
                hint="write them with four",
            )


def _months(years: Any, months: Any) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(
        pd.to_datetime({"year": years.astype(int), "month": months.astype(int), "day": 1}, errors="coerce")
    )


def _quarters(column: pd.Series) -> Parsed | None:
    """Returns quarters: 2015Q1, 2015-Q1, Q1 2015."""
    if _all(QUARTER, column):
        parts = column.str.extract(QUARTER.pattern)
        return Parsed(_months(parts[0], 3 * parts[2].astype(int) - 2), Form("quarter", "{year}" + parts[1][0] + "{quarter}"))
    if _all(QUARTER_FIRST, column):
        parts = column.str.extract(QUARTER_FIRST.pattern)
        text = parts[0][0] + "{quarter}" + parts[2][0] + "{year}"
        return Parsed(_months(parts[3], 3 * parts[1].astype(int) - 2), Form("quarter", text))
    return None


def _weeks(column: pd.Series) -> Parsed | None:
    """Returns weeks as ISO 8601 counts them, 2015-W04, by their Mondays."""
    if not _all(WEEK, column):
        return None
    parts = column.str.extract(WEEK.pattern)
    moments = pd.to_datetime(parts[0] + "-W" + parts[2].str.zfill(2) + "-1", format="%G-W%V-%u", errors="coerce")
    return None if moments.isna().any() else Parsed(pd.DatetimeIndex(moments), Form("text", f"%G{parts[1][0]}%V"))


def _seasons(column: pd.Series) -> Parsed | None:
    """Returns years that begin within a year, 1900/01, by the first; the second follows it."""
    if not _all(SEASON, column):
        return None
    parts = column.str.extract(SEASON.pattern)
    first, second = parts[0].astype(int), parts[2].astype(int)
    short = parts[2].str.len() == 2
    if not ((second == np.where(short, (first + 1) % 100, first + 1)).all() and (len(column) > 1 or not short.all())):
        return None
    text = "{year}" + parts[1][0] + ("{short}" if short.all() else "{next}")
    return Parsed(_months(first, pd.Series(1, first.index)), Form("season", text))


# ------------------------------------------------------------------------------------------------------ writing


def dates(place: np.ndarray, unit: Unit, form: Form) -> pd.DatetimeIndex:
    """Returns the dates at places of a clock."""
    if unit in ("nanosecond", "microsecond"):
        return pd.DatetimeIndex(place.view("datetime64[ns]" if unit == "nanosecond" else "datetime64[us]"))
    if unit == "weekday":
        weekdays = np.busday_offset("1970-01-01", place, roll="forward")
        return pd.DatetimeIndex(weekdays.astype("datetime64[s]") + np.timedelta64(form.second, "s"))
    month, within = np.divmod(place, MONTH)
    first = (month - 1970 * 12).astype("datetime64[M]")
    last = (first + 1).astype("datetime64[D]") - np.timedelta64(1, "D")
    day, second = np.divmod(within, 86_400)
    days = last if form.month_end else np.minimum(first.astype("datetime64[D]") + day, last)
    return pd.DatetimeIndex(days.astype("datetime64[s]") + second)


def written(at: pd.DatetimeIndex, form: Form) -> np.ndarray:
    """Returns dates as the column had them."""
    return WRITERS.get(form.kind, _stamped)(at, form)


def _listed(each: Callable[[Any, Form], Any]) -> Callable[[pd.DatetimeIndex, Form], np.ndarray]:
    def write(at: pd.DatetimeIndex, form: Form) -> np.ndarray:
        found = np.empty(len(at), object)
        found[:] = [each(one, form) for one in at]
        return found

    return write


def _in_words(one: Any, form: Form) -> str:
    later = one.year + 1
    return form.format.format(year=one.year, quarter=one.quarter, next=later, short=f"{later % 100:02}")


def _stamped(at: pd.DatetimeIndex, form: Form) -> np.ndarray:
    return np.array(at.tz_localize("UTC").tz_convert(form.format), object) if form.format else at.to_numpy()


def _local(at: pd.DatetimeIndex, form: Form) -> np.ndarray:
    first = np.ones(len(at), bool)  # of an hour that comes twice
    return np.array(at.tz_localize(form.format, ambiguous=first, nonexistent="shift_forward"), object)


WRITERS: dict[str, Callable[[pd.DatetimeIndex, Form], np.ndarray]] = {
    "period": lambda at, form: np.array(at.to_period(form.format), object),
    "date": lambda at, form: np.array(at.date, object),
    "quarter": _listed(_in_words),
    "season": _listed(_in_words),
    "text": _listed(written_as),
    "integer": lambda at, form: np.array([int(written_as(one, form)) for one in at]),
    "local": _local,
}
