"""Series in named arrays, as NumPy archives, HDF5 files and dictionaries hold them, and in arrays without names.

Axes: N series, T steps, V variables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxlv.data.arrays import VARIABLES, as_float64, check_dtype, check_shape, shortened
from jaxlv.data.clock import Clock, read_clock
from jaxlv.data.columns import AUTO, IDS, TIMES, Choice, in_order, key_of, observed
from jaxlv.data.limits import clean_name, clean_names
from jaxlv.data.observations import Observations
from jaxlv.data.series import NO_COLUMNS, Layout
from jaxlv.errors import JaxlvError

BLOCKS = ("trajectories", "values", "data", "series", "x")
NAMES = ("variables", "names", "columns", "species")
MOST_WIDE = 4  # variables of a series that has fewer steps: else the axes are probably exchanged


def of_named(
    arrays: Mapping[str, Any], where: Any, choice: Choice = AUTO, source: dict[str, Any] | None = None
) -> Observations:
    """Returns the series in named arrays: one (N, T, V) or (T, V), several (N, T), one for each variable, or columns (T,);
    times, ids and names of variables are found by their names and lengths.

    Raises JaxlvError, with the names and shapes, if it is not clear which array is what.
    """
    held = {name: _squeezed(np.ma.asarray(array)) for name, array in arrays.items()}
    held = {name: array for name, array in held.items() if array.ndim and (array.size or array.ndim == 3)}
    numeric = {name: array for name, array in held.items() if array.dtype.kind in "iuf"}
    blocks = [name for name, array in numeric.items() if array.ndim == 3]
    chosen = next((name for key in BLOCKS for name in held if name.casefold() == key and held[name].ndim > 1), None)
    if chosen is None and len(blocks) > 1:
        raise JaxlvError("which array is the series", where=where, expected="one of three axes", found=_shapes(held))
    if chosen is not None or blocks:
        return _of_block(chosen or blocks[0], held, where, choice, source)
    planes = [name for name, array in numeric.items() if array.ndim == 2]
    if planes:
        return _of_planes(planes, held, where, choice, source)
    return _of_columns(held, where, choice, source)


def _shapes(held: Mapping[str, np.ndarray]) -> str:
    return shortened([f"{name} {array.shape}" for name, array in held.items()]) or "no arrays"


def _squeezed(array: np.ndarray) -> np.ndarray:
    """Returns a row or a column of a matrix as an array of one axis: MATLAB knows no other."""
    return array.reshape(-1) if array.ndim == 2 and 1 in array.shape else array


def _of_block(
    name: str, held: Mapping[str, np.ndarray], where: Any, choice: Choice, source: dict[str, Any] | None
) -> Observations:
    values = held[name]
    check_dtype(values.dtype, f"{where}:{name}")
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3:
        raise JaxlvError(
            f"{name} has {values.ndim} axes", where=where, expected="(series, steps, variables)", found=values.shape
        )
    rest = {other: array for other, array in held.items() if other != name}
    names = _found(rest, NAMES, values.shape[2], text=True)
    ids = _found(rest, IDS, values.shape[0], text=None)
    time = _found(rest, TIMES, None, text=None)
    given = None if time is None else rest[time]
    odd = given is not None and len(given) != values.shape[1]
    check_shape(values.shape, None if given is None else given.shape, len(VARIABLES) if odd else values.shape[2], where)
    return of_arrays(
        values, given, None if names is None else rest[names], None if ids is None else rest[ids], where,
        choice=choice, source=source, layout=Layout(ids, time),
    )  # fmt: skip


def _found(held: Mapping[str, np.ndarray], known: Sequence[str], length: int | None, text: bool | None) -> str | None:
    """Returns the name of the array of one axis, and of that length, that is called as one of `known`."""
    for key in known:
        for name, array in held.items():
            is_text = array.dtype.kind in "OSU"
            if key_of(name) == key and array.ndim == 1 and length in (None, len(array)) and text in (None, is_text):
                return name
    return None


def _of_planes(
    planes: Sequence[str], held: Mapping[str, np.ndarray], where: Any, choice: Choice, source: dict[str, Any] | None
) -> Observations:
    """Returns the series in matrices: one (T, V), or one (N, T) or (T, N) for each variable, as the times' length tells."""
    shapes = {held[name].shape for name in planes}
    rest = {name: array for name, array in held.items() if name not in planes}
    time = _found(rest, TIMES, None, text=None)
    steps = None if time is None else len(rest[time])
    if len(shapes) > 1:
        raise JaxlvError("matrices of several shapes", where=where, expected="one for each variable", found=_shapes(held))
    rows, columns = shapes.pop()
    if steps not in (None, rows, columns):
        raise JaxlvError("no matrix fits the times", where=where, expected=f"{steps} steps", found=_shapes(held))
    if len(planes) == 1 and steps != columns:
        values_NTV = held[planes[0]][None]
        names = _found(rest, NAMES, columns, text=True)
        labels = None if names is None else rest[names]
        return of_arrays(
            values_NTV, None if time is None else rest[time], labels, None, where, choice, source, Layout(None, time)
        )
    ids = next((one for count in (rows, columns) if (one := _found(rest, IDS, count, text=None))), None)
    lies = steps == columns if rows != columns else True  # (series, steps), as of trajectories
    if steps is None and ids is None:
        hint = "add an array `time` of one axis"
        raise JaxlvError("which axis of the matrices is time", where=where, found=_shapes(held), hint=hint)
    if steps is None:
        lies = len(rest[str(ids)]) == rows
    values_NTV = np.ma.stack([held[name] if lies else held[name].T for name in planes], axis=-1)
    labels = None if ids is None or len(rest[ids]) != len(values_NTV) else rest[ids]
    own = np.array(list(planes), object)
    return of_arrays(values_NTV, None if time is None else rest[time], own, labels, where, choice, source, Layout(ids, time))


def _of_columns(held: Mapping[str, np.ndarray], where: Any, choice: Choice, source: dict[str, Any] | None) -> Observations:
    lengths = Counter(len(array) for array in held.values() if array.ndim == 1 and len(array) > 1)
    if not lengths:
        raise JaxlvError("has no series", where=where, expected="an array trajectories, or columns", found=_shapes(held))
    length = lengths.most_common(1)[0][0]
    columns = {name: array for name, array in held.items() if array.ndim == 1 and len(array) == length}
    left = [name for name in held if name not in columns]
    frame = pd.DataFrame({name: plain_column(array) for name, array in columns.items()})
    found = observed(frame, where, choice, source)
    return found.noted(f"arrays of other lengths ignored: {shortened(left)}") if left else found


def plain_column(array: np.ndarray) -> pd.Series:
    """Returns an array of one axis as a column: masked cells are missing, bytes are text."""
    mask = np.ma.getmaskarray(array)
    values = np.ma.getdata(array)
    if values.dtype.kind in "SO":
        texts = [one.decode("utf-8", "surrogateescape") if isinstance(one, bytes) else one for one in values.tolist()]
        return pd.Series(texts, dtype=object).mask(mask)
    if values.dtype.kind == "f":
        values = values.astype(np.float64)
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    column = pd.Series(values)
    return column.astype(float).mask(mask) if mask.any() and values.dtype.kind in "iuf" else column


def of_arrays(
    values: Any,
    time: Any = None,
    variables: Any = None,
    ids: Any = None,
    where: Any = "series",
    choice: Choice = AUTO,
    source: dict[str, Any] | None = None,
    layout: Layout = NO_COLUMNS,
) -> Observations:
    """Returns the series in an array (T,), (T, V) or (N, T, V); masked cells and NaN are missing.

    Without names one variable is called `value`, two prey and predator, and more `x1`, `x2`, ... Raises JaxlvError if the
    axes are probably exchanged, or if what comes with the array does not fit it.
    """
    array = np.ma.asarray(values)
    check_dtype(array.dtype, f"{where}:{'trajectories' if array.ndim == 3 else 'values'}")
    if array.ndim == 1:
        array = array[None, :, None]
    elif array.ndim == 2:
        array = array[None]
    N, T, V = _checked(array, where)
    names = clean_names(default_names(V) if variables is None else variables, where)
    if len(names) != V:
        raise JaxlvError("names do not fit the variables", where=where, expected=f"{V} names", found=", ".join(names))
    labels = list(range(N)) if ids is None else _labels(np.asarray(ids), N, where)
    rows = np.repeat(np.arange(N), T)
    if time is None:
        clock = Clock.steps(N)
    else:
        given = plain_column(np.ma.asarray(time))
        clock = read_clock(pd.concat([given] * N, ignore_index=True), rows, f"{where}:time", layout.time or "time").clock
    values_NTV = (
        np.ma.filled(array.astype(np.float64), np.nan) if np.ma.is_masked(array) else as_float64(np.ma.getdata(array), where)
    )
    notes: list[str] = []
    if choice.columns is not None:
        order = _chosen(choice.columns, names, where)
    else:
        order = [names.index(name) for name in in_order(names, names, notes)[0]]
    names, values_NTV = tuple(names[v] for v in order), values_NTV[..., order]
    given_T = None if time is None or clock.is_calendar else as_float64(np.asarray(time), f"{where}:time")
    found = Observations(
        tuple(labels),
        names,
        tuple(values_NTV),
        clock,
        layout,
        source or {},
        tuple(notes),
        where,
        given_T,
    )
    return found.separated() if choice.separate else found


def default_names(count: int) -> tuple[str, ...]:
    """Returns names for variables that have none."""
    return {1: ("value",), 2: VARIABLES}.get(count, tuple(f"x{v + 1}" for v in range(count)))


class Axes(NamedTuple):
    """The lengths of the axes of an array of series."""

    N: int
    T: int
    V: int


def _checked(array: np.ndarray, where: Any) -> Axes:
    if array.ndim != 3:
        expected = "(steps,), (steps, variables) or (series, steps, variables)"
        raise JaxlvError(f"an array of {array.ndim} axes", where=where, expected=expected, found=f"shape {array.shape}")
    N, T, V = array.shape
    if not N or T < 2 or not V:
        raise JaxlvError("no series", where=where, expected="one or more of two or more steps", found=array.shape)
    if max(T, MOST_WIDE) < V:
        hint = "np.swapaxes(values, -1, -2) would make the last axis that of the variables"
        raise JaxlvError(
            "fewer steps than variables", where=where, expected="(series, steps, variables)", found=array.shape, hint=hint
        )
    return Axes(N, T, V)


def _labels(ids: np.ndarray, count: int, where: Any) -> list[Any]:
    found = [one.decode("utf-8", "surrogateescape") if isinstance(one, bytes) else one for one in ids.tolist()]
    whole = all(isinstance(one, int) or (isinstance(one, float) and one.is_integer()) for one in found)
    labels = [int(one) for one in found] if whole else [clean_name(one, where, "id of a series") for one in found]
    if len(labels) != count or len(set(labels)) != count:
        expected, different = f"{count} different ids", f"{len(labels)} ids, {len(set(labels))} of them different"
        raise JaxlvError("series ids do not fit the series", where=where, expected=expected, found=different)
    return labels


def _chosen(wanted: Sequence[str], names: Sequence[str], where: Any) -> list[int]:
    keys = [key_of(name) for name in names]
    unknown = [name for name in wanted if key_of(name) not in keys]
    if unknown:
        raise JaxlvError(f"no variable {unknown[0]}", where=where, expected=", ".join(names))
    return [keys.index(key_of(name)) for name in wanted]


def of_list(given: Sequence[Any], where: Any, choice: Choice = AUTO) -> Observations:
    """Returns the series in a list of arrays, (T,) or (T, V) each, of any lengths. Raises JaxlvError if they differ in V."""
    parts = [of_arrays(one, where=f"{where} {i}", choice=choice) for i, one in enumerate(_arrays(given, where))]
    first = parts[0]
    other = next((i for i, one in enumerate(parts) if one.variables != first.variables), None)
    if other is not None:
        expected = f"{len(first.variables)} variables, as series 0"
        raise JaxlvError(
            f"series {other} has other variables", where=where, expected=expected, found=len(parts[other].variables)
        )
    return Observations(
        tuple(range(len(parts))),
        first.variables,
        tuple(one.values[0] for one in parts),
        Clock.steps(len(parts)),
        where=where,
    )


def _arrays(given: Sequence[Any], where: Any) -> Iterator[Any]:
    for i, one in enumerate(given):
        try:
            yield np.ma.asarray(one)
        except (ValueError, TypeError) as fault:
            raise JaxlvError(
                f"series {i} is not an array", where=where, expected="(T,) or (T, V)", found=f"{fault}"
            ) from None
