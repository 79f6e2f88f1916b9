"""Series in named arrays, as NumPy archives, HDF5 files and dictionaries hold them, and in arrays without names.

Axes: N series, T steps, V variables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxlv.data.arrays import VARIABLES, as_float64, check_dtype, check_shape, shortened
from jaxlv.data.clock import Clock, read_clock
from jaxlv.data.columns import AUTO, in_order, observed
from jaxlv.data.frames import Choice, Origin
from jaxlv.data.limits import MOST_SEPARATE, MOST_VARIABLES, clean_name, clean_names
from jaxlv.data.observations import Observations
from jaxlv.data.series import NO_COLUMNS, Layout
from jaxlv.data.words import IDS, TIMES, is_of_time, key_of
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
        one = _times_of(held)
        lies = one is not None and held[one].shape == values.shape[1:] != values.shape[:1]  # (series, steps)
        values = values[..., None] if lies else values[None]
    if values.ndim != 3:
        raise JaxlvError(
            f"{name} has {values.ndim} axes", where=where, expected="(series, steps, variables)", found=values.shape
        )
    rest = {other: array for other, array in held.items() if other != name}
    names, ids, time = _called(rest, NAMES), _called(rest, IDS, values.shape[0]), _times_of(rest)
    if names is not None and rest[names].dtype.kind not in "OSU":
        raise JaxlvError("wrong type", where=f"{where}:{names}", expected="text", found=rest[names].dtype)
    given = None if time is None else rest[time]
    odd = given is not None and given.ndim == 1 and len(given) != values.shape[1]
    check_shape(values.shape, None if given is None else given.shape, len(VARIABLES) if odd else values.shape[2], where)
    found = of_arrays(
        values, given, None if names is None else rest[names], None if ids is None else rest[ids], where,
        choice=choice, source=source, layout=Layout(ids, time),
    )  # fmt: skip
    return _without(found, rest, names, ids, time)


def _without(found: Observations, rest: Mapping[str, np.ndarray], *used: str | None) -> Observations:
    """Returns series with a note on the arrays that were not used."""
    left = [name for name in rest if name not in used]
    return found.noted(f"arrays ignored: {shortened(left)}") if left else found


def _called(held: Mapping[str, np.ndarray], known: Sequence[str], length: int | None = None) -> str | None:
    """Returns the name of the array that is called as one of `known`: if there are several, of one with that length."""
    found = [name for key in known for name in held if key_of(name) == key]
    fit = [name for name in found if length is None or held[name].shape == (length,)]
    return next(iter(fit or found), None)


def _times_of(held: Mapping[str, np.ndarray]) -> str | None:
    """Returns the name of the array of times: one that is called so, else the only one with such a word in its name."""
    others = [name for name, array in held.items() if is_of_time(name) and array.ndim == 1]
    return _called(held, TIMES) or (others[0] if len(others) == 1 else None)


def _of_planes(
    planes: Sequence[str], held: Mapping[str, np.ndarray], where: Any, choice: Choice, source: dict[str, Any] | None
) -> Observations:
    """Returns the series in matrices: one (T, V), or one (N, T) or (T, N) for each variable, as the times' length tells."""
    shapes = {held[name].shape for name in planes}
    rest = {name: array for name, array in held.items() if name not in planes}
    time = _times_of({name: array for name, array in rest.items() if array.ndim == 1})
    given = None if time is None else rest[time]
    steps = None if given is None else len(given)
    if len(shapes) > 1:
        raise JaxlvError("matrices of several shapes", where=where, expected="one for each variable", found=_shapes(held))
    rows, columns = shapes.pop()
    if steps not in (None, rows, columns):
        raise JaxlvError("no matrix fits the times", where=where, expected=f"{steps} steps", found=_shapes(held))
    names = _called(rest, NAMES, columns)
    of_series = [one for count in (rows, columns) if (one := _called(rest, IDS, count)) and rest[one].shape == (count,)]
    ids = next(iter(of_series), None)
    if len(planes) == 1 and steps != columns and (names is not None or ids is None or len(rest[ids]) != columns):
        labels = None if names is None else rest[names]
        found = of_arrays(held[planes[0]][None], given, labels, None, where, choice, source, Layout(None, time))
        return _without(found, rest, names, time)
    lies = steps == columns if rows != columns else True  # (series, steps), as of trajectories
    if (steps is None and ids is None) or (steps is not None and rows == columns):
        hint = "add an array `time` of one axis" if steps is None else "put them into one array trajectories (N, T, V)"
        raise JaxlvError("which axis of the matrices is time", where=where, found=_shapes(held), hint=hint)
    if steps is None:
        lies = len(rest[str(ids)]) == rows
    values_NTV = np.ma.stack([held[name] if lies else held[name].T for name in planes], axis=-1)
    ids = ids if ids is not None and len(rest[ids]) == len(values_NTV) else None
    labels = None if ids is None else rest[ids]
    own = np.array(list(planes), object)
    return _without(of_arrays(values_NTV, given, own, labels, where, choice, source, Layout(ids, time)), rest, time, ids)


def _of_columns(held: Mapping[str, np.ndarray], where: Any, choice: Choice, source: dict[str, Any] | None) -> Observations:
    lengths = Counter(len(array) for array in held.values() if array.ndim == 1 and len(array) > 1)
    if not lengths:
        raise JaxlvError("has no series", where=where, expected="an array trajectories, or columns", found=_shapes(held))
    length = lengths.most_common(1)[0][0]
    columns = {name: array for name, array in held.items() if array.ndim == 1 and len(array) == length}
    left = [name for name in held if name not in columns]
    if any(held[name].dtype.kind in "iufO" and held[name].size > 1 for name in left) and len(columns) <= max(len(left), 1):
        hint = "a list of arrays, or a dict of frames, holds series of several lengths"
        raise JaxlvError("arrays of several lengths", where=where, expected="columns", found=_shapes(held), hint=hint)
    frame = pd.DataFrame({name: plain_column(array) for name, array in columns.items()})
    found = observed(frame, where, choice, source)
    return _without(found, held, *columns)


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

    The array of a file is not copied, as it is nobody else's. Without names one variable is called `value`, two prey and
    predator, and more `x1`, `x2`, ... Raises JaxlvError if the axes are probably exchanged, or if what comes with the array
    does not fit it.
    """
    array = numbers_of(values, where)
    axes = array.ndim
    check_dtype(array.dtype, f"{where}:{'trajectories' if axes == 3 else 'values'}")
    if axes < 3:
        array = array[None, :, None] if axes == 1 else array[None]
    N, T, V = _checked(array, axes, where)
    most = MOST_SEPARATE if choice.separate else MOST_VARIABLES
    names = clean_names(default_names(V) if variables is None else variables, where, most=most)
    if len(names) != V:
        raise JaxlvError("names do not fit the variables", where=where, expected=f"{V} names", found=", ".join(names))
    labels = list(range(N)) if ids is None else _labels(np.asarray(ids), N, where)
    values_NTV = (
        np.ma.filled(array.astype(np.float64), np.nan)
        if np.ma.is_masked(array)
        else as_float64(np.ma.getdata(array), where, own=isinstance(where, Origin))
    )
    clock, step_T = Clock.steps(N), np.arange(T)
    if time is not None:
        one = read_clock(plain_column(np.ma.asarray(time)), np.zeros(T, int), f"{where}:time", layout.time or "time")
        clock, step_T = replace(one.clock, origin_N=np.repeat(one.clock.origin_N, N)), one.step_R
    notes: list[str] = []
    in_steps = bool((step_T == np.arange(T)).all())
    if not in_steps:
        given_NTV, values_NTV = values_NTV, np.full((N, int(step_T.max()) + 1, V), np.nan)
        values_NTV[:, step_T] = given_NTV
        notes += ["steps are sorted by time"] if (np.diff(step_T) < 0).any() else []
    if choice.columns is not None:
        order = _chosen(choice.columns, names, where)
    else:
        order = [names.index(name) for name in in_order(names, names, notes)[0]]
    if order != list(range(V)):
        names, values_NTV = tuple(names[v] for v in order), values_NTV[..., order]
    plain = time is not None and not clock.is_calendar and in_steps and np.asarray(time).dtype.kind in "iuf"
    given_T = as_float64(np.asarray(time), f"{where}:time") if plain else None
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


def numbers_of(values: Any, where: Any) -> np.ndarray:
    """Returns an array of numbers, of which None is missing; raises JaxlvError for anything else."""
    expected = "a path, a frame, or numbers as an array (T,), (T, V) or (N, T, V) or a list of such arrays"
    try:
        array = np.ma.asarray(values)
        if array.ndim == 0:
            raise TypeError
        if array.dtype.kind != "O":
            return array
        return np.ma.array([np.nan if one is None else one for one in array.ravel()], dtype=float).reshape(array.shape)
    except (ValueError, TypeError):
        raise JaxlvError("wrong type", where=where, expected=expected, found=_kind(values)) from None


def _kind(values: Any) -> str:
    """Returns what something is, in words."""
    return f"{type(values).__name__} of {values.dtype}" if hasattr(values, "dtype") else type(values).__name__


class Axes(NamedTuple):
    """The lengths of the axes of an array of series."""

    N: int
    T: int
    V: int


def _checked(array: np.ndarray, axes: int, where: Any) -> Axes:
    if array.ndim != 3:
        expected = "(steps,), (steps, variables) or (series, steps, variables)"
        raise JaxlvError(f"an array of {array.ndim} axes", where=where, expected=expected, found=f"shape {array.shape}")
    N, T, V = array.shape
    if axes == 2 and V > T and (T < 2 or max(T, MOST_WIDE) < V):
        hint = "values.T if its rows are variables, values[..., None] if they are series"
        raise JaxlvError("fewer steps than variables", where=where, expected="(steps, variables)", found=(T, V), hint=hint)
    if not N or T < 2 or not V:
        raise JaxlvError("no series", where=where, expected="one or more of two or more steps", found=array.shape)
    if max(T, MOST_WIDE) < V:
        hint = "np.transpose(trajectories, (0, 2, 1)) would make axis 2 that of the variables"
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
    parts = [of_arrays(one, where=f"{where} {i}", choice=choice) for i, one in enumerate(given)]
    return joined(parts, list(range(len(parts))), where)


def joined(parts: Sequence[Observations], ids: Sequence[Any], where: Any) -> Observations:
    """Returns the series of several parts as one set; an id of each part goes before the ids in it if it has several.

    Raises JaxlvError, with the part, if it has other variables, or times in other units or steps.
    """
    first, found = parts[0], []
    for one, part in zip(ids, parts, strict=True):
        part = part.ordered(first.variables)
        if part.variables != first.variables:
            expected = f"{', '.join(first.variables)}, as of {ids[0]}"
            raise JaxlvError(
                f"series {one} has other variables", where=where, expected=expected, found=", ".join(part.variables)
            )
        if (part.clock.unit, part.clock.step) != (first.clock.unit, first.clock.step):
            expected = f"{first.clock.told}, as of {ids[0]}"
            raise JaxlvError(f"series {one} has other steps of time", where=where, expected=expected, found=part.clock.told)
        found.append(part)
    labels = [one if len(part) == 1 else f"{one} {own}" for one, part in zip(ids, found, strict=True) for own in part.ids]
    clock = replace(first.clock, origin_N=np.concatenate([part.clock.origin_N for part in found]))
    values = tuple(values_TV for part in found for values_TV in part.values)
    notes = tuple(dict.fromkeys(note for part in found for note in part.notes))
    checked = _labels(np.array(labels, object), len(values), where)
    return Observations(tuple(checked), first.variables, values, clock, first.layout, notes=notes, where=where)
