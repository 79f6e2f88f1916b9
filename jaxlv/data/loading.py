"""The door for series: whatever they come as, here they become `Observations`, and of these a `SeriesSet`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxlv.activity import doing
from jaxlv.data.arrays import check_fields, of_records
from jaxlv.data.clock import Clock
from jaxlv.data.columns import observed
from jaxlv.data.contents import joined, of_arrays, of_list, of_named
from jaxlv.data.frames import Choice, Origin
from jaxlv.data.limits import MEMORY_CAP, Room
from jaxlv.data.observations import USUAL, Handling, Observations, Ready
from jaxlv.data.readers import read, readable
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError, warn
from jaxlv.storage.files import sha256


def load_series(
    data: Any,
    *,
    id: str | None = None,
    time: str | None = None,
    columns: Sequence[str] | None = None,
    separate: bool = False,
    memory_cap: int = MEMORY_CAP,
    check: bool = True,
) -> Observations:
    """Reads series from a file, a frame or arrays.

    Args:
        data: the path of a file (CSV and other text, .gz of it, parquet, Excel, HDF5, NetCDF 4, MATLAB 7.3, npy, npz); a
            pandas or polars frame, wide (a column for each variable), long (series, time, variable, value) or in Nixtla's
            form (unique_id, ds, y); a pandas Series; an array (T,), (T, V) or (N, T, V), or one
            with named fields; a list of arrays of any lengths or
            of frames; or a mapping of names to arrays, or of ids to frames.
        id: the column that tells series apart; found by its name if not given.
        time: the column of times; found by its name if not given.
        columns: the variables, in this order; every other column of numbers if not given.
        separate: makes each variable a series of its own.
        memory_cap: bytes that the content of a file may take.
        check: refuses infinite values and those that float32 cannot hold.

    Returns:
        The series with the caller's ids, names and times, missing values as NaN, and notes; `lines()` tells what was read.

    Raises:
        JaxlvError: if something is not understood, with the choices.

    Example:
        >>> import jaxlv
        >>> pelts = jaxlv.load_series({"year": [1900, 1901, 1902], "hare": [30, 47.2, 70.2], "lynx": [4, 6.1, 9.8]})
        >>> pelts.told
        '1 series, variables hare and lynx, yearly 1900 to 1902, 3 steps'
    """
    columns = (columns,) if isinstance(columns, str) else columns
    found = _read(data, Choice(id, time, columns, separate), memory_cap).decoded()
    return found.checked() if check else found


def _read(data: Any, choice: Choice, memory_cap: int) -> Observations:
    """Returns series from whatever they came as."""
    if isinstance(data, Observations):
        return data
    if isinstance(data, SeriesSet):
        return _of_set(data)
    if isinstance(data, (str, os.PathLike)):
        with doing(f"reading {Path(data).name}"):
            return _of_file(Path(data), choice, memory_cap)
    frame = _frame(data)
    if frame is not None:
        return observed(frame, "frame", choice)
    if (several := _frames(data)) is not None:
        parts = [observed(one, f"frame {key}", choice) for key, one in several.items()]
        return joined(parts, list(several), "frames")
    if isinstance(data, Mapping):
        return of_named(data, "arrays", choice)
    if isinstance(data, np.ndarray) and data.dtype.kind == "O" and data.ndim == 1 and len(data):
        data = list(data) if all(_is_array(one) for one in data) else data
    if isinstance(data, (list, tuple)) and len(data) and all(_is_array(one) for one in data):
        return of_list(data, "series", choice)
    return of_arrays(data, choice=choice)


def _is_array(one: Any) -> bool:
    """Tells whether an item of a list is a series: an array of one or two axes, or a list of numbers."""
    return isinstance(one, (list, tuple)) or getattr(one, "ndim", 0) in (1, 2)


def _frame(data: Any) -> pd.DataFrame | None:
    """Returns a table as a frame of pandas: a frame or column of pandas, polars or Arrow, an array with named fields, or a
    list of rows as dicts; None for anything else.
    """
    if isinstance(data, pd.DataFrame):
        return data
    if isinstance(data, pd.Series):
        return data.to_frame(name=data.name if data.name is not None else "value")
    if isinstance(data, np.ndarray) and data.dtype.names is not None:
        check_fields(data.dtype, "array", objects=True)
        return of_records(data)
    if isinstance(data, (list, tuple)) and len(data) and all(isinstance(one, Mapping) for one in data):
        return pd.DataFrame(list(data))
    kind = type(data).__module__.partition(".")[0]
    if kind == "polars":
        held = data.collect() if hasattr(data, "collect") else data
        held = held.to_frame() if hasattr(held, "to_frame") else held
        return pd.DataFrame({name: pd.Series(values) for name, values in held.to_dict(as_series=False).items()})
    if kind == "pyarrow" and hasattr(data, "to_pydict"):
        return pd.DataFrame({name: pd.Series(values) for name, values in data.to_pydict().items()})
    return None


def _frames(data: Any) -> dict[Any, pd.DataFrame] | None:
    """Returns several frames by the ids of their series: those of a dict, or of a list, whose columns may have names; None
    if it is something else. A dict of columns with one index is one frame.
    """
    if not isinstance(data, (Mapping, list, tuple)) or not len(data):
        return None
    each = list(data.values()) if isinstance(data, Mapping) else list(data)
    if any(isinstance(one, (str, Mapping, list, tuple)) for one in each):
        return None
    frames = [_frame(one) for one in each]
    if any(frame is None for frame in frames):
        return None
    columns = [one for one in each if isinstance(one, pd.Series)]
    if isinstance(data, Mapping):
        if len(columns) < len(each):
            return dict(zip(data, frames, strict=True))  # type: ignore[arg-type]
        plain = all(one.index.equals(pd.RangeIndex(len(one))) for one in columns)
        return None if plain else {0: pd.DataFrame(dict(data))}
    names = [one.name for one in columns]
    apart = len(names) == len(each) == len(set(names)) and None not in names
    frames = [frame.set_axis(["value"], axis=1) if apart else frame for frame in frames]  # type: ignore[union-attr]
    return dict(zip(names if apart else range(len(each)), frames, strict=True))


def _of_file(path: Path, choice: Choice, memory_cap: int) -> Observations:
    content = read(path, memory_cap, choice.id)
    with readable(path):
        source = {"path": str(path), "sha256": sha256(path), **content.get("source", {})}
        origin = content.get("origin", Origin(path, Room(memory_cap, path)))
        if "frame" in content:
            found = observed(content["frame"], origin, choice, source)
        elif "values" in content:
            found = of_arrays(content["values"], where=origin, choice=choice, source=source)
        else:
            found = of_named(content["arrays"], origin, choice, source)
    return replace(found, where=path).noted(*content.get("notes", ()))


def _of_set(found: SeriesSet) -> Observations:
    clock: Clock = found.clock.moved(found.first_N)
    values = tuple(values_TV - shift_V for values_TV, shift_V in zip(found.each, found.shift_NV, strict=True))
    return Observations(
        tuple(found.ids_N.tolist()), found.variables, values, clock, found.layout, dict(found.source), shared_T=found.time_T
    )


def load(path: Any, *, handling: Handling = USUAL, memory_cap: int = MEMORY_CAP, drop: bool = False) -> SeriesSet:
    """Returns the series in a file as models take them; what is told of them are JaxlvWarnings.

    Missing and negative values are handled as `handling` says; with `drop`, series that have any are left out instead.
    Raises JaxlvError as `load_series` does, and if no series is left.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise JaxlvError("not a path", where="series", expected="the name of a file", found=type(path).__name__)
    found = load_series(path, memory_cap=memory_cap, check=not drop)
    if drop:
        found = found.clean()
    return told(found.ready(handling), found)


def told(ready: Ready, found: Observations) -> SeriesSet:
    """Returns series that are ready, and warns of what was noted while they were read and made ready."""
    for line in noted(ready, found):
        warn(f"{found.where}: {line}")
    return ready.series


def noted(ready: Ready, found: Observations) -> list[str]:
    """Returns a line for everything that was noted while series were read and made ready."""
    lines = [*found.notes, *filter(None, [found.gaps(), *found.flattened()]), *ready.notes]
    return lines + [f"series {one} is left out: {reason}" for one, reason in ready.left_out.items()]
