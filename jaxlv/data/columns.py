"""What the columns of a table are: ids, times, variables; and the series in them.

Every file of columns and every frame passes here, so that the same content gives the same series whatever it came as.

Axes: R rows, T steps, V variables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxlv.data.arrays import VARIABLES
from jaxlv.data.clock import Clock, Repeated, is_time, read_clock
from jaxlv.data.limits import check_count, clean_name, clean_names
from jaxlv.data.observations import Observations
from jaxlv.data.series import Layout
from jaxlv.errors import JaxlvError

TIMES = (
    "time", "ds", "date", "datetime", "timestamp", "year", "years", "yr", "month", "months", "quarter", "week", "weeks",
    "day", "days", "hour", "t", "step", "steps", "generation", "datum", "zeit", "jahr", "monat", "tag", "annee", "année",
    "mois", "jour", "anno", "año", "fecha",
)  # fmt: skip
"""Names of columns of times, the likeliest first."""
IDS = (
    "unique_id", "series", "series_id", "id", "ids", "uid", "item_id", "site", "station", "plot", "location", "region",
    "population", "replicate", "run", "group", "instance", "instances",
)  # fmt: skip
KINDS = ("variable", "species", "taxon", "feature", "variable_name")
VALUES = ("value", "values", "y", "count", "counts", "abundance", "n", "density", "number")
ROW_NUMBERS = ("", "unnamed: 0", "index", "rownames", "row_names", "row", "rowid", "row_number", "x1", "...1")
MISSING = frozenset(
    ["", "na", "n/a", "nan", "null", "none", "-", "--", ".", "?", "missing", "#n/a", "<na>", "nd", "n.d.", "-nan", "nil"]
)
"""Cells without a value, in lower case."""
PREDATORS = re.compile(
    r"\b(predators?|lynx(es)?|fox(es)?|wol(f|ves)|weasels?|stoats?|owls?|hawks?|coyotes?|martens?|minks?|lions?|pumas?|pike)\b"
)
"""Of two variables the one that is named so comes second, as the predator does in what the base was trained on."""


@dataclass(frozen=True)
class Choice:
    """What a caller says of the columns: names, which are compared without regard to case; None if jaxlv finds out.

    With `separate`, each variable becomes a series of its own, with the variable's name as its id.
    """

    id: str | None = None
    time: str | None = None
    columns: Sequence[str] | None = None
    separate: bool = False


class Roles(NamedTuple):
    """What the columns of a table are, by their names; `kind` and `value` those of a long table."""

    id: str | None
    time: str | None
    variables: list[str]
    kind: str | None = None
    value: str | None = None


AUTO = Choice()


def observed(frame: pd.DataFrame, where: Any, choice: Choice = AUTO, source: dict[str, Any] | None = None) -> Observations:
    """Returns the series of a table: wide (a column for each variable), long (series, time, variable, value), or in
    Nixtla's form (unique_id, ds, y); with notes on what was left out, sorted or missing.

    Raises JaxlvError, with the choices, if it is not clear what a column is, and if a cell is not a number, a row is there
    twice, or steps are not equal.
    """
    notes: list[str] = []
    table = _named(frame, where)
    table = _without_row_numbers(table, choice, notes)
    table = _dated(table, choice, notes)
    roles = _roles(table, choice, where, notes)
    if roles.kind is not None:
        table, roles = _widened(table, roles, where)
    return _built(table, roles, choice, where, source or {}, notes)


# ------------------------------------------------------------------------------------------------------- names


def key_of(name: Any) -> str:
    """Returns a name as it is compared: in lower case, with "_" for spaces and hyphens."""
    return re.sub(r"[\s\-_]+", "_", str(name).strip().casefold())


def _named(frame: pd.DataFrame, where: Any) -> pd.DataFrame:
    """Returns the table with its index as columns, if that says something, and clean names, each of which is there once."""
    if not len(frame) or not len(frame.columns):
        raise JaxlvError("has no rows" if len(frame.columns) else "has no columns", where=where)
    index = frame.index
    if isinstance(index, pd.MultiIndex):
        names = [
            name or ("time" if i == index.nlevels - 1 else f"id_{i}" if i else "series")
            for i, name in enumerate(index.names)
        ]
        frame = frame.set_axis(index.set_names(names), axis=0).reset_index()
    elif index.name is not None or isinstance(index, (pd.DatetimeIndex, pd.PeriodIndex)):
        frame = frame.rename_axis(index.name or "time").reset_index()
    elif not isinstance(index, pd.RangeIndex) and _counts_on(index):
        frame = frame.rename_axis("time").reset_index()
    if isinstance(frame.columns, pd.MultiIndex):
        raise JaxlvError("a frame with columns of several levels", where=where, hint="join the names of the levels")
    names = [
        "" if key_of(name) in ROW_NUMBERS[:2] else clean_name(name, where, "name of a column") for name in frame.columns
    ]
    keys = [key_of(name) for name in names]
    double = next((name for i, name in enumerate(names) if keys[i] in keys[:i]), None)
    if double is not None:
        raise JaxlvError("two columns have one name", where=where, found=double or "no name")
    return frame.set_axis(names, axis=1).reset_index(drop=True)


def _counts_on(index: pd.Index) -> bool:
    """Tells whether an unnamed index is years or the like: numbers that grow in equal steps, and not from 0 in rows of 1."""
    if not pd.api.types.is_numeric_dtype(index.dtype) or len(index) < 2:
        return False
    steps = np.diff(index.to_numpy(float))
    return bool((steps == steps[0]).all() and steps[0] > 0 and (index[0] not in (0, 1) or steps[0] != 1))


def _without_row_numbers(table: pd.DataFrame, choice: Choice, notes: list[str]) -> pd.DataFrame:
    """Returns the table without a column that numbers its rows, from 0 or 1, and without columns in which nothing stands."""
    told = {key_of(name) for name in (choice.id, choice.time, *(choice.columns or ())) if name is not None}
    for name in list(table.columns):
        column = table[name]
        if column.isna().all() and key_of(name) not in told:
            notes.append(f"column {name or 'without a name'} is empty and ignored")
            table = table.drop(columns=name)
        elif key_of(name) in ROW_NUMBERS and key_of(name) not in told:
            values = pd.to_numeric(column, errors="coerce").to_numpy(float)
            if any(np.array_equal(values, np.arange(first, first + len(table))) for first in (0, 1)):
                notes.append(f"column {name or 'without a name'} (row numbers) is ignored")
                table = table.drop(columns=name)
    return table


def _dated(table: pd.DataFrame, choice: Choice, notes: list[str]) -> pd.DataFrame:
    """Returns the table with one column `date` in place of the columns year and month (and day), or year and quarter."""
    by_key = {key_of(name): name for name in table.columns}
    if choice.time is not None or "year" not in by_key or not {"month", "quarter"} & by_key.keys():
        return table
    part = "month" if "month" in by_key else "quarter"
    parts = [by_key["year"], by_key[part], *([by_key["day"]] if part == "month" and "day" in by_key else [])]
    numbers = [pd.to_numeric(table[name], errors="coerce") for name in parts]
    tops = (9999, 12 if part == "month" else 4, 31)
    if any(one.isna().any() or not one.between(1, top).all() for one, top in zip(numbers, tops, strict=False)):
        return table
    month = numbers[1] if part == "month" else 3 * numbers[1] - 2
    day = numbers[2] if len(numbers) == 3 else 1
    moments = pd.to_datetime({"year": numbers[0], "month": month, "day": day}, errors="coerce")
    if moments.isna().any() or len(moments.unique()) <= numbers[0].nunique():
        return table
    text = "%Y-%m-%d" if len(parts) == 3 else "%Y-%m"
    notes.append(f"{' and '.join(parts)} are read as one date")
    rest = table.drop(columns=parts)
    rest.insert(0, "date", moments.dt.strftime(text))
    return rest


# ------------------------------------------------------------------------------------------------------- roles


def _roles(table: pd.DataFrame, choice: Choice, where: Any, notes: list[str]) -> Roles:
    keys = {key_of(name): name for name in table.columns}
    wanted = None if choice.columns is None else [_wanted(one, keys, "columns", where) for one in choice.columns]
    id_name = None if choice.id is None else _wanted(choice.id, keys, "id", where)
    time = None if choice.time is None else _wanted(choice.time, keys, "time", where)
    kind, value = _long(table, keys, {id_name, time}, wanted)
    free = [name for name in table.columns if name not in {id_name, time, kind, value, *(wanted or ())}]
    if id_name is None:
        id_name = _id(table, free, bool(wanted or kind), where)
        free = [name for name in free if name != id_name]
    if time is None:
        time = _time(table, id_name, kind, free, wanted is not None, where)
        free = [name for name in free if name != time and not _same_steps(table, name, time, id_name, kind)]
    if kind is not None:
        _tell_ignored(free, notes)
        return Roles(id_name, time, [], kind, value)
    if wanted is not None:
        _tell_ignored(free, notes)
        return Roles(id_name, time, wanted)
    numeric = [name for name in free if _is_numeric(table[name])]
    _tell_ignored([name for name in free if name not in numeric], notes)
    if not numeric:
        found = ", ".join(map(str, table.columns)) or "none"
        raise JaxlvError("no column of numbers to forecast", where=where, expected="a variable", found=f"columns {found}")
    if time is None:
        _refuse_counter(table, numeric, where)
    return Roles(id_name, time, numeric)


def _wanted(name: str, keys: dict[str, str], option: str, where: Any) -> str:
    if key_of(name) in keys:
        return keys[key_of(name)]
    raise JaxlvError(f"no column {name}", where=where, expected=", ".join(keys.values()), hint=f"see --{option} ({option}=)")


def _tell_ignored(names: Iterable[str], notes: list[str]) -> None:
    names = list(names)
    if names:
        notes.append(f"column{'s' * (len(names) > 1)} {', '.join(map(str, names))} ignored")


def _is_numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)


def _is_text(column: pd.Series) -> bool:
    return (
        not _is_numeric(column)
        and not pd.api.types.is_datetime64_any_dtype(column.dtype)
        and (not isinstance(column.dtype, pd.PeriodDtype))
    )


def _long(table: pd.DataFrame, keys: dict[str, str], taken: set[Any], wanted: Any) -> tuple[str | None, str | None]:
    """Returns the columns of the variable's name and of its value, if the table is long."""
    if wanted is not None:
        return None, None
    kind = next((keys[key] for key in KINDS if key in keys and keys[key] not in taken and _is_text(table[keys[key]])), None)
    if kind is None:
        return None, None
    numeric = [name for name in table.columns if _is_numeric(table[name]) and name not in taken]
    value = next((keys[key] for key in VALUES if keys.get(key) in numeric), None)
    if value is None:
        rest = [name for name in numeric if key_of(name) not in (*TIMES, *IDS)]
        value = rest[0] if len(rest) == 1 else None
    return (kind, value) if value is not None else (None, None)


def _id(table: pd.DataFrame, free: list[str], known: bool, where: Any) -> str | None:
    """Returns the column of ids: by its name, else the only column of texts, if these are not dates."""
    named = [name for name in free if key_of(name) in IDS and (_is_text(table[name]) or _repeats(table[name]))]
    texts = [name for name in free if _is_text(table[name]) and key_of(name) not in TIMES and not _dates(table[name])]
    found = named or [name for name in texts if _repeats(table[name]) and table[name].nunique() > 1]
    if len(found) > 1:
        first = [name for name in found if key_of(name) in ("unique_id", "series")]
        if len(first) == 1:
            return first[0]
        hint = "name it by --id (id=)"
        raise JaxlvError("which column is the series", where=where, expected="one", found=", ".join(found), hint=hint)
    return found[0] if found else None


def _repeats(column: pd.Series) -> bool:
    """Tells whether a column has fewer values than rows, or whole numbers: it may be ids."""
    return column.nunique() < len(column) or len(column) == 1


def _dates(column: pd.Series) -> bool:
    return is_time(column.dropna().unique(), np.zeros(column.nunique(), int))


def _rows_of(table: pd.DataFrame, *names: str | None) -> np.ndarray:
    """Returns the number of the series of each row, if series are told apart by these columns."""
    given = [name for name in names if name is not None]
    return table.groupby(given, sort=False, dropna=False).ngroup().to_numpy() if given else np.zeros(len(table), int)


def _time(
    table: pd.DataFrame, id_name: str | None, kind: str | None, free: list[str], chosen: bool, where: Any
) -> str | None:
    """Returns the column of times: one that is called so, or holds dates, and whose steps are equal in every series.

    Raises JaxlvError if there are several, or if the only one of that name is not regular.
    """
    row_R = _rows_of(table, id_name, kind)
    named = [name for key in TIMES for name in free if key_of(name) == key]
    named += [name for name in free if name not in named and not _is_numeric(table[name]) and _dates(table[name])]
    regular = [name for name in named if is_time(table[name], row_R)]
    if regular:
        return regular[0]
    for name in named:
        if key_of(name) not in ("t", "n", "step", "steps") or len(free) == len(named):
            try:
                read_clock(table[name], row_R, where, str(name))
            except Repeated as fault:
                raise _told_apart(table, free, row_R, name, fault, where) from None
    return None


def _told_apart(
    table: pd.DataFrame, free: list[str], row_R: np.ndarray, time: str, fault: Repeated, where: Any
) -> JaxlvError:
    """Returns the error for repeated times, with a column that may tell the series apart."""
    others = [
        name for name in free if name != time and _repeats(table[name]) and is_time(table[time], _rows_of(table, name))
    ]
    if not others:
        return fault
    hint = f"--id {others[0]} (id=) would tell the series apart"
    return JaxlvError(fault.what, where=where, found=fault.found, hint=hint)


def _same_steps(table: pd.DataFrame, name: str, time: str | None, id_name: str | None, kind: str | None) -> bool:
    """Tells whether a column counts the same steps as that of the times, as `step` does beside `time`."""
    if time is None or key_of(name) not in TIMES or not _is_numeric(table[name]):
        return False
    row_R = _rows_of(table, id_name, kind)
    try:
        return bool((read_clock(table[name], row_R, "").step_R == read_clock(table[time], row_R, "").step_R).all())
    except JaxlvError:
        return False


def _refuse_counter(table: pd.DataFrame, numeric: list[str], where: Any) -> None:
    """Raises JaxlvError if the first of several columns may be times, though it is not called so."""
    values = table[numeric[0]].to_numpy(float)
    steps = np.diff(values)
    if len(numeric) > 1 and len(steps) > 2 and (steps > 0).all() and np.allclose(steps, steps[0], rtol=1e-6):
        name = numeric[0]
        hint = f"--time {name} (time=), or --columns {','.join(numeric)} (columns=) if it is a variable"
        raise JaxlvError(
            f"{name} grows in equal steps: is it the time", where=where, expected="a name such as year", hint=hint
        )


# ------------------------------------------------------------------------------------------------------ series


def _widened(table: pd.DataFrame, roles: Roles, where: Any) -> tuple[pd.DataFrame, Roles]:
    """Returns a long table as a wide one: a row for each series and time, a column for each variable."""
    assert roles.kind is not None and roles.value is not None
    keys = [name for name in (roles.id, roles.time) if name is not None]
    if roles.time is None:
        table = table.assign(**{"step ": table.groupby([*keys, roles.kind], sort=False).cumcount()})
        keys.append("step ")
    names = list(dict.fromkeys(table[roles.kind].astype(str)))
    check_count(len(names), where)
    if table.duplicated([*keys, roles.kind]).any():
        double = table[table.duplicated([*keys, roles.kind])].iloc[0]
        found = ", ".join(f"{name} {double[name]}" for name in (*keys, roles.kind))
        raise JaxlvError("two rows for one value", where=where, found=found, hint="leave one of them")
    place = table.groupby(keys, sort=False).ngroup().to_numpy()
    wide = table.drop_duplicates(keys)[keys].reset_index(drop=True)
    for name in names:
        held = (table[roles.kind].astype(str) == name).to_numpy()
        column = np.full(len(wide), np.nan)
        column[place[held]] = table.loc[held, roles.value].to_numpy(float)
        wide[name] = column
    return wide, Roles(roles.id, roles.time, names, roles.kind, roles.value)


def _built(
    table: pd.DataFrame, roles: Roles, choice: Choice, where: Any, source: dict[str, Any], notes: list[str]
) -> Observations:
    names: Sequence[str] = clean_names(roles.variables, where)
    if choice.columns is None:
        names, variables = in_order(names, roles.variables, notes)
    else:
        variables = roles.variables
    values_RV = np.stack([_floats(table[name], name, where) for name in variables], axis=1)
    codes, ids = (np.zeros(len(table), int), [0]) if roles.id is None else _ids(table[roles.id], roles.id, where)
    if roles.time is None:
        step_R = pd.Series(codes).groupby(codes).cumcount().to_numpy()
        clock = Clock.steps(len(ids))
    else:
        clock, step_R = read_clock(table[roles.time], codes, where, str(roles.time))
        if any((np.diff(step_R[codes == i]) < 0).any() for i in range(len(ids))):
            notes.append(f"rows are sorted by {roles.time}")
    values = []
    for i in range(len(ids)):
        mine = codes == i
        series_TV = np.full((int(step_R[mine].max()) + 1, len(names)), np.nan)
        series_TV[step_R[mine]] = values_RV[mine]
        values.append(series_TV)
    layout = Layout(roles.id, roles.time, roles.kind, roles.value)
    found = Observations(tuple(ids), tuple(names), tuple(values), clock, layout, source, tuple(notes), where)
    return found.separated() if choice.separate else found


def in_order(names: Sequence[str], columns: Sequence[str], notes: list[str]) -> tuple[list[str], list[str]]:
    """Returns names and columns with the prey before the predator, if there are two and their names say so."""
    if len(names) == 2:
        hunts = [PREDATORS.search(name.casefold().replace("_", " ")) is not None for name in names]
        plain = [name.casefold() for name in names]
        if hunts == [True, False] or plain == [*reversed(VARIABLES)]:
            if plain != [*reversed(VARIABLES)]:
                notes.append(f"{names[1]} is taken as prey and {names[0]} as its predator (columns= keeps an order)")
            return list(reversed(names)), list(reversed(columns))
    return list(names), list(columns)


def _floats(column: pd.Series, name: str, where: Any) -> np.ndarray:
    """Returns a column as numbers, NaN if missing; raises JaxlvError for text."""
    if _is_numeric(column):
        if pd.api.types.is_complex_dtype(column.dtype):
            raise JaxlvError(f"{name} is complex", where=where, expected="real numbers")
        return column.to_numpy(np.float64, na_value=np.nan)
    found = pd.to_numeric(column, errors="coerce")
    bad = found.isna() & ~column.isna()
    if bad.any():
        row = int(np.argmax(bad))
        raise JaxlvError(f"{name} is not a number", where=where, found=f"{column.iloc[row]!r} in row {row + 1}")
    return found.to_numpy(float)


def _ids(column: pd.Series, name: str, where: Any) -> tuple[np.ndarray, list[Any]]:
    """Returns the number of each row's series, and the ids: whole numbers or texts, in ascending order if numbers."""
    if column.isna().any():
        row = int(np.argmax(column.isna()))
        raise JaxlvError(f"{name} is missing", where=where, found=f"row {row + 1} first", hint="every row names its series")
    values = column
    if _is_numeric(column):
        numbers = column.to_numpy(float)
        whole = bool((numbers == np.round(numbers)).all() and (np.abs(numbers) < 2**53).all())
        values = column.astype(np.int64) if whole else column.astype(str)
        codes, ids = pd.factorize(values, sort=whole)
        return codes, ids.tolist()
    codes, ids = pd.factorize(values.astype(str).str.strip())
    return codes, [clean_name(one, where, "id of a series") for one in ids]
