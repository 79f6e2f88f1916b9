"""What columns are called, and how numbers, missing values and answers are written in cells."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

TIMES = (
    "time", "ds", "date", "datetime", "timestamp", "year", "years", "yr", "season", "month", "months", "quarter", "week",
    "weeks", "day", "days", "hour", "t", "step", "steps", "generation", "datum", "zeit", "jahr", "monat", "tag", "annee",
    "année", "mois", "jour", "anno", "año", "ano", "fecha", "data",
)  # fmt: skip
"""Names of columns of times, the likeliest first."""
PERHAPS_TIMES = ("season", "month", "months", "quarter", "week", "weeks", "day", "days", "hour", "t", "step", "steps",
                 "generation", "data", "monat", "tag", "mois", "jour")  # fmt: skip
"""Of these names, those that a variable may have: the month of a sample, a temperature."""
PARTS_OF_TIMES = frozenset(("time", "date", "datetime", "timestamp", "year", "yr"))
"""Words that make the name of a column of times out of several words, as in `obs_date` or `time (s)`."""
IDS = (
    "unique_id", "series", "series_id", "id", "ids", "uid", "item_id", "site", "station", "plot", "location", "region",
    "population", "replicate", "run", "group", "instance", "instances",
)  # fmt: skip
PERHAPS_IDS = ("population", "run", "group")
"""Of these names, those that a count may have: of columns of numbers only those are ids without which times repeat."""
KINDS = (
    "variable", "species", "taxon", "feature", "variable_name", "species_name", "common_name", "scientific_name",
    "indicator", "metric", "parameter",
)  # fmt: skip
VALUES = ("value", "values", "y", "count", "counts", "abundance", "n", "density", "number")
PLACES = (
    "lat",
    "latitude",
    "lon",
    "long",
    "lng",
    "longitude",
    "elevation",
    "altitude",
    "depth",
    "easting",
    "northing",
    "area",
)
"""Names of columns that say where a series is from, if they do not change within it."""
CALENDAR = {
    "year": "year", "yr": "year", "jahr": "year", "month": "month", "monat": "month", "day": "day", "hour": "hour",
    "minute": "minute", "quarter": "quarter", "weekday": "day_of_week", "day_of_week": "day_of_week",
    "dayofweek": "day_of_week", "day_of_year": "day_of_year", "dayofyear": "day_of_year", "doy": "day_of_year",
    "yday": "day_of_year", "week": "week", "week_of_year": "week",
}  # fmt: skip
"""Names of columns that repeat a part of a date, with pandas' name of that part."""
MONTHS = frozenset(
    ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
     "december", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec")
)  # fmt: skip
QUARTERS = frozenset(("q1", "q2", "q3", "q4"))
ROW_NUMBERS = ("", "unnamed:_0", "index", "rownames", "row_names", "row", "rowid", "row_number", "x1", "...1", "obs")
MISSING = frozenset(
    ["", "na", "n/a", "nan", "null", "none", "-", "--", ".", "..", "?", "missing", "#n/a", "<na>", "nd", "n.d.", "-nan",
     "nil", "nat", "#value!", "#div/0!", "#ref!", "#num!", "–", "—", "…"]
)  # fmt: skip
"""Cells without a value, in lower case."""
ANSWERS = frozenset(("true", "false", "yes", "no", "t", "f", "y", "n", "ja", "nein", "x", "ok"))
"""Texts of a column of marks, which tells no series apart, in lower case."""
PREDATORS = re.compile(
    r"\b(predators?|lynx(es)?|fox(es)?|wol(f|ves)|weasels?|stoats?|owls?|hawks?|coyotes?|martens?|minks?|lions?|pumas?|pike)\b"
)
"""Of two variables the one that is named so comes second, as the predator does in what the base was trained on."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
INFINITE = re.compile(r"[+-]?(inf|infinity)", re.IGNORECASE)
KEPT = re.compile(r"-?(0|[1-9]\d{0,14})(\.0|\.\d*[1-9])?")
"""Ids that are the same as numbers, or without the 0 behind a point; others are not, as 007, 1.10, 1E5 and many digits."""
LEADING = re.compile(r"0\d.*")
FORTRAN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[dD][+-]?\d+")
GROUPED = re.compile(r"[+-]?\d{1,3}(?:([ \u00a0\u202f\u2009'’_])\d{3})(?:\1\d{3})*(?:[.,]\d+)?")
"""A number whose thousands stand apart by a blank or an apostrophe."""
ADORNED = re.compile(
    r"[<>≤≥~≈=±(\[$€£¥]*\s*[+-]?(\d[\d., ]*|\.\d+)([eE][+-]?\d+)?\s*[%‰*†‡?!#)\]$€£¥°+]*(\s?\([a-z0-9,* ]{0,4}\))?",
    re.IGNORECASE,
)
"""A number with a mark beside it, or with separators: it may be one, but which is not clear."""


def key_of(name: Any) -> str:
    """Returns a name as it is compared: in lower case, with "_" for spaces and hyphens."""
    return re.sub(r"[\s\-_]+", "_", str(name).strip().casefold())


def is_called(name: Any, known: Collection[str]) -> bool:
    """Tells whether a name is one of those, with or without a unit in brackets behind it."""
    key = key_of(name)
    return key in known or re.sub(r"_?[(\[].*[)\]]$", "", key) in known


def is_of_time(name: Any) -> bool:
    """Tells whether a name is that of times, or has such a word among others, as `obs_date` has."""
    words = re.findall(r"[^\W\d_]?[^\W\d_A-Z]+|[A-Z]+", str(name))  # SampleYear, obs_date, TIME
    return is_called(name, TIMES) or bool(PARTS_OF_TIMES & {word.casefold() for word in words})


def is_of_ids(name: Any) -> bool:
    """Tells whether a name is that of ids, or ends as one: `plot_id`, `site_code`."""
    return is_called(name, IDS) or key_of(name).endswith(("_id", "_code"))


def loses(name: Any, cell: str) -> bool:
    """Tells whether a number in a column of ids would not be the same id as a number; of a name that a count may have, too,
    only leading zeros tell that.
    """
    return bool(LEADING.fullmatch(cell)) if is_called(name, PERHAPS_IDS) else not KEPT.fullmatch(cell)


def plain(cell: str) -> str:
    """Returns a cell with a number as Python reads it: a hyphen for a minus sign, e for Fortran's d, no blanks between
    thousands.
    """
    cell = cell.replace("\u2212", "-") if cell.startswith("\u2212") else cell
    if cell[-1:].isalpha() or cell[:1].isalpha():
        return cell
    if FORTRAN.fullmatch(cell):
        return re.sub("[dD]", "e", cell)
    return re.sub("[ \u00a0\u202f\u2009'’_]", "", cell) if GROUPED.fullmatch(cell) else cell


def is_missing(cell: str) -> bool:
    """Tells whether a cell stands for a value that is not there."""
    return not cell[:1].isdigit() and cell.casefold() in MISSING


def is_adorned(cell: str) -> bool:
    """Tells whether a cell is a number with marks or separators that leave its value unclear."""
    return bool(ADORNED.fullmatch(cell)) and not NUMBER.fullmatch(cell)
