"""What the columns of a table are: ids, times, variables; and the series in them.

Every file of columns and every frame passes here, so that the same content gives the same series whatever it came as.

Axes: R rows, T steps, V variables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxlv.data.arrays import VARIABLES
from jaxlv.data.clock import Clock, Repeated, is_time, read_clock
from jaxlv.data.doubts import refuse_counter, refuse_sideways
from jaxlv.data.frames import Choice, Origin, is_numeric, is_text, name_of, not_a_number, take, tidy
from jaxlv.data.limits import MOST_SEPARATE, MOST_VARIABLES, PER_SERIES, check_count, clean_name, clean_names
from jaxlv.data.moments import are_moments, at_row, parsed
from jaxlv.data.observations import Observations
from jaxlv.data.series import Layout
from jaxlv.data.words import (
    ANSWERS,
    CALENDAR,
    IDS,
    KINDS,
    PERHAPS_IDS,
    PERHAPS_TIMES,
    PLACES,
    PREDATORS,
    TIMES,
    VALUES,
    is_called,
    is_of_ids,
    is_of_time,
    key_of,
)
from jaxlv.errors import JaxlvError


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
    table, choice = tidy(frame, where, choice, notes)
    roles, table = _roles(table, choice, where, notes)
    if roles.kind is not None:
        table, roles = _widened(table, roles, choice, where)
        where = replace(where, lines=None) if isinstance(where, Origin) else where  # rows are no lines any more
    return _built(table, roles, choice, where, source or {}, notes)


# ------------------------------------------------------------------------------------------------------- roles


def _roles(table: pd.DataFrame, choice: Choice, where: Any, notes: list[str]) -> tuple[Roles, pd.DataFrame]:
    """Returns what the columns are, and the table, which has a further column if two tell the series apart together."""
    keys = {key_of(name): name for name in table.columns}
    wanted = None if choice.columns is None else [_wanted(one, keys, "columns", where) for one in choice.columns]
    if wanted is not None and not wanted:
        raise JaxlvError("no columns are chosen", where=where, expected="one or more of " + ", ".join(keys.values()))
    id_name = None if choice.id is None else _wanted(choice.id, keys, "id", where)
    time = None if choice.time is None else _wanted(choice.time, keys, "time", where)
    kind, value = _long(table, keys, {id_name, time}, wanted)
    free = [name for name in table.columns if name not in {id_name, time, kind, value, *(wanted or ())}]
    if id_name is None:
        id_name, table = _id(table, free, time, kind, where, notes)
        free = [name for name in free if name != id_name and name in table.columns]
    if id_name is not None:
        _check_ids(table[id_name], id_name, where)
    if time is None:
        time = _time(table, id_name, kind, free, wanted is not None, where)
        free = [name for name in free if name != time]
    beside = _beside(table, free, Roles(id_name, time, [], kind), where) if wanted is None else []
    numeric = [] if wanted is not None or kind is not None else [n for n in free if is_numeric(table[n]) and n not in beside]
    _tell_ignored(
        [name for name in free if name not in numeric and not _counts_steps(table, name, time, id_name, kind)], notes
    )
    if kind is not None:
        return Roles(id_name, time, [], kind, value), table
    if wanted is None and not numeric:
        found = ", ".join(map(str, table.columns)) or "none"
        text = next((name for name in free if is_text(table[name]) and not is_of_time(name)), None)
        hint = None if text is None else f"{name_of(text)} holds texts such as {str(table[text].dropna().iloc[0])!r}"
        raise JaxlvError(
            "no column of numbers to forecast", where=where, expected="a variable", found=f"columns {found}", hint=hint
        )
    if wanted is None:
        refuse_sideways(numeric, where)
    if wanted is None and time is None:
        refuse_counter(table, numeric, _rows_of(table, id_name), where)
    return Roles(id_name, time, numeric if wanted is None else wanted), table


def _wanted(name: str, keys: dict[str, str], option: str, where: Any) -> str:
    if key_of(name) in keys:
        return keys[key_of(name)]
    raise JaxlvError(f"no column {name}", where=where, expected=", ".join(keys.values()), hint=f"see --{option} ({option}=)")


def _tell_ignored(names: Iterable[str], notes: list[str]) -> None:
    names = list(names)
    if names:
        notes.append(f"column{'s' * (len(names) > 1)} {', '.join(map(name_of, names))} ignored")


def _long(table: pd.DataFrame, keys: dict[str, str], taken: set[Any], wanted: Any) -> tuple[str | None, str | None]:
    """Returns the columns of the variable's name and of its value, if the table is long."""
    if wanted is not None:
        return None, None
    kind = next((keys[key] for key in KINDS if key in keys and keys[key] not in taken and is_text(table[keys[key]])), None)
    if kind is None:
        return None, None
    numeric = [name for name in table.columns if is_numeric(table[name]) and name not in taken]
    value = next((keys[key] for key in VALUES if keys.get(key) in numeric), None)
    if value is None:
        rest = [name for name in numeric if key_of(name) not in (*TIMES, *IDS)]
        value = rest[0] if len(rest) == 1 else None
    return (kind, value) if value is not None else (None, None)


def _id(
    table: pd.DataFrame, free: list[str], time: str | None, kind: str | None, where: Any, notes: list[str]
) -> tuple[str | None, pd.DataFrame]:
    """Returns the column of ids: by its name, else a column of texts without which times repeat, if these are not dates.

    If several are named so, it is the one within which the others do not change; if times repeat unless all are taken, it is
    a new column of them all. Raises JaxlvError, with the choices, if that does not decide.
    """
    named = [name for name in free if is_of_ids(name) and (is_text(table[name]) or _tells_apart(table, name, time, kind))]
    found = named or _texts_of_ids(table, free, time, kind)
    if len(found) <= 1:
        return (found[0] if found else None), table
    fine = [name for name in found if _holds(table, name, [one for one in found if one != name])]
    if fine:
        return fine[0], table
    times = [name for name in table.columns if (name == time if time is not None else is_of_time(name))][:1]
    rows = [*times, *([kind] if kind else [])]
    apart = [name for name in found if not table.duplicated([name, *rows]).any()]
    if times and not apart and not table.duplicated([*found, *rows]).any():
        together = " ".join(map(str, found))
        notes.append(f"series are told apart by {' and '.join(map(str, found))}")
        joined = table[found].astype(str).agg(" ".join, axis=1)
        return together, table.drop(columns=found).assign(**{together: joined})
    first = [name for name in found if key_of(name) in ("unique_id", "series")]
    if len(first) == 1:
        return first[0], table
    hint = "name it by --id (id=)"
    raise JaxlvError("which column is the series", where=where, expected="one", found=", ".join(found), hint=hint)


def _holds(table: pd.DataFrame, name: str, others: list[str]) -> bool:
    """Tells whether the other columns do not change among rows with one value of a column."""
    return bool((table.groupby(name, dropna=False)[others].nunique(dropna=False) <= 1).all(axis=None))


def _texts_of_ids(table: pd.DataFrame, free: list[str], time: str | None, kind: str | None) -> list[str]:
    """Returns the columns of texts that may be ids: they repeat, and without them times would, too."""
    times = [name for name in table.columns if (name == time if time is not None else is_of_time(name))]
    rows = [kind] if kind is not None else []
    if any(not table.duplicated([name, *rows]).any() for name in times):
        return []
    texts = [name for name in free if is_text(table[name]) and not is_of_time(name) and not _dates(table[name])]
    return [
        name for name in texts
        if _repeats(table[name]) and table[name].nunique() > 1 and not set(table[name].dropna().str.casefold()) <= ANSWERS
    ]  # fmt: skip


def _tells_apart(table: pd.DataFrame, name: str, time: str | None, kind: str | None) -> bool:
    """Tells whether a column of numbers that is called as ids are may be ids: it repeats, and, if a count may be called so,
    it holds whole numbers, in blocks of rows or each with times that other numbers have, too.
    """
    column = table[name]
    if not _repeats(column) or not is_called(name, PERHAPS_IDS):
        return _repeats(column)
    values = column.to_numpy(float, na_value=np.nan)
    if not (values == np.round(values)).all():
        return False
    times = [one for one in table.columns if (one == time if time is not None else is_of_time(one))][:1]
    rows = [*times, *([kind] if kind else [])]
    if times:
        return bool(table.duplicated(rows).any() and not table.duplicated([name, *rows]).any())
    return bool((np.diff(values) != 0).sum() == column.nunique() - 1 and column.value_counts().min() > 1)


def _repeats(column: pd.Series) -> bool:
    """Tells whether a column has fewer values than rows: it may be ids."""
    return column.nunique() < len(column) or len(column) == 1


def _dates(column: pd.Series) -> bool:
    return are_moments(column.dropna())


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
    named = [name for key in TIMES for name in free if is_called(name, (key,))]
    named += [name for name in free if name not in named and is_of_time(name)]
    named += [name for name in free if name not in named and not is_numeric(table[name]) and _dates(table[name])]
    regular = [name for name in named if is_time(table[name], row_R)]
    if regular:
        return regular[0]
    for name in named:
        if not is_called(name, PERHAPS_TIMES) or _is_first(table, name, row_R):
            try:
                read_clock(table[name], row_R, where, str(name))
            except Repeated as fault:
                raise _told_apart(table, free, row_R, name, fault) from None
    return None


def _told_apart(table: pd.DataFrame, free: list[str], row_R: np.ndarray, time: str, fault: Repeated) -> JaxlvError:
    """Returns the error for repeated times, with a column that may tell the series apart."""
    others = [
        name for name in free if name != time and _repeats(table[name]) and is_time(table[time], _rows_of(table, name))
    ]
    if not others:
        return fault
    hint = f"--id {others[0]} (id=) would tell the series apart"
    return JaxlvError(fault.what, where=fault.where, found=fault.found, hint=hint)


def _is_first(table: pd.DataFrame, name: str, row_R: np.ndarray) -> bool:
    """Tells whether a column that may be one of times must be them: it holds texts, or is the first, or never falls."""
    if not is_numeric(table[name]):
        return True
    values = table[name].to_numpy(float, na_value=np.nan)
    return bool(name == table.columns[0] or (np.diff(values)[np.diff(row_R) == 0] >= 0).all())


def _counts_steps(table: pd.DataFrame, name: str, time: str | None, id_name: str | None, kind: str | None) -> bool:
    """Tells whether a column counts the same steps as that of the times, as `step` does beside `time`."""
    if time is None or not is_of_time(name) or not is_numeric(table[name]) or table[name].isna().any():
        return False
    row_R = _rows_of(table, id_name, kind)
    try:
        return bool((read_clock(table[name], row_R, "").step_R == read_clock(table[time], row_R, "").step_R).all())
    except JaxlvError:
        return False


def _beside(table: pd.DataFrame, free: list[str], roles: Roles, where: Any) -> list[str]:
    """Returns columns of numbers that only say again when or where: steps, parts of the date, places of a series."""
    id_name, time, kind = roles.id, roles.time, roles.kind
    row_R, found = _rows_of(table, id_name, kind), []
    moments = None if time is None else _moments(table[time], time, where)
    for name in (one for one in free if is_numeric(table[one])):
        part = CALENDAR.get(key_of(name))
        still = not (table[name].groupby(row_R).nunique(dropna=False) > 1).any() and len(table) > 1
        if (
            _counts_steps(table, name, time, id_name, kind)
            or (still and (part is not None or is_called(name, PLACES) or is_of_ids(name)))
            or (part is not None and moments is not None and _is_part(table[name], moments, part))
        ):
            found.append(name)
    return found


def _moments(times: pd.Series, time: str, where: Any) -> pd.DatetimeIndex:
    """Returns a column of times as dates; decimal years, and other numbers, as if they were years."""
    values = parsed(times, where, time)[0].values
    if isinstance(values, pd.DatetimeIndex):
        return values
    years = np.clip(np.floor(values), 1, 9999).astype(np.int64)
    months = np.clip(np.floor((values - np.floor(values)) * 12 + 1e-3), 0, 11).astype(np.int64)
    return pd.DatetimeIndex(((years - 1970) * 12 + months).astype("datetime64[M]").astype("datetime64[s]"))


def _is_part(column: pd.Series, moments: pd.DatetimeIndex, part: str) -> bool:
    """Tells whether a column is a part of the dates beside it, counted from whatever number."""
    own = moments.isocalendar().week.to_numpy(int) if part == "week" else np.asarray(getattr(moments, part))
    off = column.to_numpy(float, na_value=np.nan) - own
    return bool(np.isfinite(off).all() and (off == off[0]).all())


# ------------------------------------------------------------------------------------------------------ series


def _widened(table: pd.DataFrame, roles: Roles, choice: Choice, where: Any) -> tuple[pd.DataFrame, Roles]:
    """Returns a long table as a wide one: a row for each series and time, a column for each variable."""
    assert roles.kind is not None and roles.value is not None
    keys = [name for name in (roles.id, roles.time) if name is not None]
    if roles.time is None:
        table = table.assign(**{"step ": table.groupby([*keys, roles.kind], sort=False).cumcount()})
        keys.append("step ")
    codes, kinds = pd.factorize(table[roles.kind].astype(str))
    if len(kinds) > (most := _most(choice)):
        check_count(len(kinds), at_row(where, int(np.argmax(codes == most))), most=most)
    names = _cleaned(codes, kinds, where, "name of a variable")
    if table.duplicated([*keys, roles.kind]).any():
        double = table[table.duplicated([*keys, roles.kind])].iloc[0]
        found = ", ".join(f"{name} {double[name]}" for name in (*keys, roles.kind))
        raise JaxlvError("two rows for one value", where=where, found=found, hint="leave one of them")
    place = table.groupby(keys, sort=False).ngroup().to_numpy()
    take(where, 8 * len(names) * (int(place.max()) + 1))
    wide = table.drop_duplicates(keys)[keys].reset_index(drop=True)
    values_RV = np.full((len(wide), len(names)), np.nan)
    values_RV[place, codes] = table[roles.value].to_numpy(float, na_value=np.nan)
    wide = pd.concat([wide, pd.DataFrame(values_RV, columns=names)], axis=1)
    return wide, Roles(roles.id, roles.time, names, roles.kind, roles.value)


def _most(choice: Choice) -> int:
    return MOST_SEPARATE if choice.separate else MOST_VARIABLES


def _built(
    table: pd.DataFrame, roles: Roles, choice: Choice, where: Any, source: dict[str, Any], notes: list[str]
) -> Observations:
    names = clean_names(roles.variables, where, most=_most(choice))
    if choice.columns is None:
        ordered, variables = in_order(names, roles.variables, notes)
        names = tuple(ordered)
    else:
        variables = roles.variables
    values_RV = np.stack([_floats(table[name], name, where) for name in variables], axis=1)
    codes, ids = (np.zeros(len(table), int), [0]) if roles.id is None else _ids(table[roles.id], roles.id, where)
    if roles.time is None:
        step_R = pd.Series(codes).groupby(codes).cumcount().to_numpy()
        clock = Clock.steps(len(ids))
    else:
        clock, step_R = read_clock(table[roles.time], codes, where, str(roles.time))
        order = np.argsort(codes, kind="stable")
        if ((np.diff(step_R[order]) < 0) & (np.diff(codes[order]) == 0)).any():
            notes.append(f"rows are sorted by {roles.time}")
    take(where, PER_SERIES * len(ids))
    order = np.argsort(codes, kind="stable")
    values = []
    for rows in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        series_TV = np.full((int(step_R[rows].max()) + 1, len(names)), np.nan)
        series_TV[step_R[rows]] = values_RV[rows]
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
    """Returns a column as numbers, NaN if missing; raises JaxlvError for text, and for integers that float64 cannot hold."""
    if not is_numeric(column):
        found = pd.to_numeric(column, errors="coerce")
        bad = found.isna() & ~column.isna()
        if bad.any():
            row = int(np.argmax(bad))
            raise not_a_number(name, column.iloc[row], at_row(where, row))
        return found.to_numpy(float)
    values = column.to_numpy(np.float64, na_value=np.nan)
    if pd.api.types.is_integer_dtype(column.dtype) and np.abs(values).max(initial=0) > 2**53:
        row = int(np.nanargmax(np.abs(values)))
        raise JaxlvError("integers too large", where=at_row(where, row), expected="at most 2**53, exact in float64")
    return values + 0.0  # -0.0 becomes 0.0: the text format has no sign


def _check_ids(column: pd.Series, name: str, where: Any) -> None:
    """Raises JaxlvError if a row has no id."""
    if column.isna().any():
        row = int(np.argmax(column.isna()))
        expected, hint = "an id: every row names its series", "merged cells are written into each row"
        if row and column.isna().mean() < 0.5:
            hint = "name another column by --id (id=), or fill it in"
        raise JaxlvError(f"{name} is missing", where=at_row(where, row), expected=expected, hint=hint)


def _ids(column: pd.Series, name: str, where: Any) -> tuple[np.ndarray, list[Any]]:
    """Returns the number of each row's series, and the ids: whole numbers or texts, in ascending order if numbers."""
    values = column
    if is_numeric(column) and not (pd.api.types.is_integer_dtype(column.dtype) and int(column.abs().max()) >= 2**53):
        numbers = column.to_numpy(float)
        whole = bool((numbers == np.round(numbers)).all() and (np.abs(numbers) < 2**53).all())
        values = column.astype(np.int64) if whole else column.astype(str)
        codes, ids = pd.factorize(values, sort=whole)
        return codes, ids.tolist()
    codes, ids = pd.factorize(values.astype(str).str.strip())
    return codes, _cleaned(codes, ids, where, "id of a series")


def _cleaned(codes: np.ndarray, names: Iterable[Any], where: Any, what: str) -> list[str]:
    """Returns the names that stand in a column, of which row r has number `codes[r]`, as `clean_name` does; an error tells
    the row.
    """
    _, rows = np.unique(codes, return_index=True)
    return [clean_name(name, at_row(where, int(row)), what) for name, row in zip(names, rows, strict=True)]
