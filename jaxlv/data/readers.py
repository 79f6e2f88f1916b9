"""The arrays in a file of series (HDF5, CSV or NumPy), with what is no such file refused before it is read.

Axes: N series, T time steps, V variables.
"""

from __future__ import annotations

import contextlib
import csv
import math
import os
import zipfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from jaxlv.errors import JaxlvError

VARIABLES = ("prey", "predator")
_LAYOUT = "(series, steps, variables)"
_AXES = ("series", "steps", "variables")
_TIDY = ("series", "step", "time", "variable", "value")
_WIDE = ("series", "time", *VARIABLES)
FORMATS = {".h5": "HDF5", ".hdf5": "HDF5", ".csv": "text", ".npy": "npy", ".npz": "zip archive"}
_SIGNATURES = (
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"\x93NUMPY", "npy"),
    (b"PK\x03\x04", "zip archive"),
    (b"version https://git-lfs", "a git-LFS pointer"),
    (b"\x1f\x8b", "gzip"),
    (b"%PDF", "PDF"),
    (b"<", "HTML or XML"),
    (b"{", "JSON"),
)


def read(path: Path, memory_cap: int) -> dict[str, Any]:
    """The content of a file as arguments of `series.from_arrays`; formats and errors as in `series.load`."""
    kind = _checked_kind(path)
    with _readable(path):
        if kind == "HDF5":
            return _read_hdf5(path, memory_cap)
        if kind == "text":
            return _read_csv(path, memory_cap)
        if kind == "npy":
            with path.open("rb") as stream:
                return {"values": _read_npy(stream, path, memory_cap)}
        return _read_npz(path, memory_cap)


def _checked_kind(path: Path) -> str:
    expected = FORMATS.get(path.suffix.lower())
    if path.is_dir():
        raise JaxlvError("is a directory", where=path, expected="a file of series")
    if not path.exists():
        raise JaxlvError("no such file", where=path, expected="a file of series")
    if not path.is_file():
        raise JaxlvError("is not a regular file", where=path, expected="a file of series")
    if expected is None:
        raise JaxlvError("unknown kind of file", where=path, expected=", ".join(FORMATS), found=path.suffix or "no suffix")
    with _readable(path), path.open("rb") as stream:
        found = _sniff(stream.read(512))
    if found != expected:
        hint = "run `git lfs pull` to get the file itself" if "git-LFS" in found else None
        raise JaxlvError(f"is not what {path.suffix} says", where=path, expected=expected, found=found, hint=hint)
    return expected


def _sniff(head: bytes) -> str:
    if not head:
        return "an empty file"
    for signature, name in _SIGNATURES:
        if head.lstrip().startswith(signature):
            return name
    try:
        # A multi-byte character may be cut at the end of what was read.
        head[:-3].decode() if len(head) == 512 else head.decode()
    except UnicodeDecodeError:
        return "unknown binary data"
    return "unknown binary data" if b"\0" in head else "text"


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the reading libraries raise about a bad file into one line."""
    try:
        yield
    except PermissionError as error:
        raise JaxlvError("cannot be read: permission denied", where=path) from error
    except (JaxlvError, MemoryError):
        raise
    except Exception as error:  # the libraries raise whatever the layer below raised: SyntaxError, TokenError, ...
        raise JaxlvError(f"damaged or truncated ({error})", where=path, hint="fetch it again") from error


def _read_hdf5(path: Path, memory_cap: int) -> dict[str, Any]:
    with h5py.File(path, "r") as file:
        for key in ("trajectories", "time"):
            if not _has_link(file, key):
                raise JaxlvError(f"has no dataset {key}", where=path, found=_keys(file))
        values, time = (_own_dataset(file, key, path) for key in ("trajectories", "time"))
        names = values.attrs.get("variables")
        variables = VARIABLES if names is None else tuple(str(name) for name in np.atleast_1d(names))
        # A chunk is unpacked whole, however little of it the shape shows.
        _check_size([values.shape, time.shape, values.chunks or (), time.chunks or ()], memory_cap, path)
        check_shape(values.shape, time.shape, len(variables), path)
        arrays: dict[str, Any] = {"values": values[()], "time": time[()], "variables": variables}
        if _has_link(file, "simulation"):
            arrays["source"] = {"simulation": _read_simulation(file, values.shape[0], path)}
    return arrays


def _has_link(group: h5py.Group, key: str) -> bool:
    # Unlike `key in group`, this does not follow the link, perhaps into another file.
    return group.id.links.exists(os.fsencode(key))


def _check_link(group: h5py.Group, key: str, where: Any) -> None:
    if group.id.links.get_info(os.fsencode(key)).type != h5py.h5l.TYPE_HARD:
        raise JaxlvError("is a soft or external link", where=where, expected="data inside the file")


def _own_dataset(group: h5py.Group, key: str, path: Path) -> h5py.Dataset:
    """The dataset, if its bytes lie in this very file."""
    where = f"{path}:{key}"
    _check_link(group, key, where)
    dataset = group[key]
    if not isinstance(dataset, h5py.Dataset):
        raise JaxlvError("is a group", where=where, expected="a dataset")
    if dataset.is_virtual or dataset.external:
        reach = "a virtual dataset" if dataset.is_virtual else "in external storage"
        raise JaxlvError(f"is {reach}", where=where, expected="data inside the file")
    if dataset.shape is None:
        raise JaxlvError("holds no data", where=where)
    check_dtype(dataset.dtype, where)
    return dataset


def _read_simulation(file: h5py.File, count: int, path: Path) -> dict[str, Any]:
    where = f"{path}:simulation"
    _check_link(file, "simulation", where)
    group = file["simulation"]
    if not isinstance(group, h5py.Group):
        raise JaxlvError("is a dataset", where=where, expected="a group with a dataset per parameter")
    parameters = {}
    for name in group:
        dataset = _own_dataset(group, name, path)
        if dataset.shape != (count,):
            raise JaxlvError(f"{name} has a wrong shape", where=where, expected=(count,), found=dataset.shape)
        parameters[name] = dataset[()].astype(np.float64)
    settings = {name: getattr(value, "tolist", lambda v=value: v)() for name, value in group.attrs.items()}
    return {**settings, "parameters": parameters}


def _read_npy(stream: BinaryIO, where: Any, memory_cap: int) -> np.ndarray:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise JaxlvError("unknown version of npy", where=where, expected="1.0 or 2.0", found=version)
    form = np.lib.format
    read_header = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if dtype.kind != "U":
        check_dtype(dtype, where)
    _check_size([shape], memory_cap, where)
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def _read_npz(path: Path, memory_cap: int) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        for key in ("trajectories", "time"):
            if key not in members:
                raise JaxlvError(f"has no array {key}", where=path, found=_keys(members))
        for key, argument in (("trajectories", "values"), ("time", "time"), ("variables", "variables")):
            if key in members:
                with archive.open(members[key]) as stream:
                    arrays[argument] = _read_npy(stream, f"{path}:{key}", memory_cap)  # type: ignore[arg-type]
    return arrays


def _read_csv(path: Path, memory_cap: int) -> dict[str, Any]:
    size = path.stat().st_size
    if size > memory_cap:
        raise JaxlvError("too large", where=path, expected=f"at most {memory_cap} bytes", found=size)
    series, step, time, value = (array("d") for _ in range(4))
    variable = array("l")
    names: dict[str, int] = {}
    rows_of: Counter[float] = Counter()
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream, strict=True)
        tidy = _is_tidy(tuple(reader.fieldnames or ()), path)
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row or None in row.values():
                raise JaxlvError("row has another number of cells than the header", where=where)
            index = _number(row, "series", where, whole=True)
            cells = [(row["variable"], "value")] if tidy else [(name, name) for name in VARIABLES]
            for name, column in cells:
                series.append(index)
                step.append(_number(row, "step", where, whole=True) if tidy else rows_of[index])
                time.append(_number(row, "time", where))
                variable.append(names.setdefault(name, len(names)))
                value.append(_number(row, column, where))
            rows_of[index] += 1
    columns = {"series": series, "step": step, "time": time, "variable": variable, "value": value}
    return _from_columns({name: np.asarray(column) for name, column in columns.items()}, tuple(names), path)


def _is_tidy(header: tuple[str, ...], path: Path) -> bool:
    columns = _TIDY if {"step", "variable", "value"} & set(header) else _WIDE
    if sorted(header) != sorted(columns):
        raise JaxlvError(
            "wrong CSV columns",
            where=path,
            expected=f"{','.join(_TIDY)} or {','.join(_WIDE)}",
            found=",".join(header) or "none",
            hint="missing: " + (", ".join(c for c in columns if c not in header) or "none"),
        )
    return columns is _TIDY


def _number(row: dict[str, str], column: str, where: str, whole: bool = False) -> float:
    """The number in a cell; an empty one is NaN, which `from_arrays` then counts."""
    try:
        number = float(row[column] or "nan")
    except ValueError:
        raise JaxlvError(f"{column} is no number", where=where, found=repr(row[column])) from None
    if whole and not (number.is_integer() and 0 <= number < 2**53):
        raise JaxlvError(f"{column} is no whole number", where=where, found=repr(row[column]))
    return number


def _from_columns(columns: dict[str, np.ndarray], names: tuple[str, ...], path: Path) -> dict[str, Any]:
    value = columns["value"]
    if not len(value):
        raise JaxlvError("has no rows", where=path)
    ids, row = np.unique(columns["series"].astype(np.int64), return_inverse=True)
    step = columns["step"].astype(np.int64)
    shape = (len(ids), int(step.max()) + 1, len(names))
    cell = (row * shape[1] + step) * shape[2] + columns["variable"]
    if not len(np.unique(cell)) == len(cell) == math.prod(shape):
        raise JaxlvError(
            "series are not complete",
            where=path,
            expected=f"one value for each of {shape[0]} series, {shape[1]} steps and {', '.join(names)}",
            found=f"{len(cell)} values, {len(np.unique(cell))} of them for different cells",
        )
    order = np.argsort(cell)
    time_NTV, values_NTV = columns["time"][order].reshape(shape), value[order].reshape(shape)
    if not (time_NTV == time_NTV[:1, :, :1]).all():
        raise JaxlvError("series differ in their times", where=path, expected="one time grid for all series")
    if set(names) == set(VARIABLES):
        values_NTV, names = values_NTV[..., [names.index(name) for name in VARIABLES]], VARIABLES
    return {"values": values_NTV, "time": time_NTV[0, :, 0], "variables": names, "ids": ids}


def check_dtype(dtype: np.dtype, where: Any) -> None:
    """Raise JaxlvError unless the type is integer, or a float no wider than float64."""
    if dtype.kind not in "iuf" or not np.can_cast(dtype, np.float64, "safe"):
        raise JaxlvError("wrong type", where=where, expected="integers or floats of up to 64 bits", found=dtype)


def as_float64(values: np.ndarray, where: Any) -> np.ndarray:
    """A float64 copy that equals the integers or floats given; JaxlvError for what float64 cannot hold."""
    check_dtype(values.dtype, where)
    if values.dtype.kind in "iu" and values.size and max(int(values.max()), -int(values.min())) > 2**53:
        raise JaxlvError("integers too large", where=where, expected="at most 2**53, exact in float64")
    return np.array(values, dtype=np.float64, order="C")


def _check_size(shapes: Sequence[tuple[int, ...]], memory_cap: int, where: Any) -> None:
    size = 8 * sum(math.prod(shape) for shape in shapes)
    if size > memory_cap:
        raise JaxlvError("declares too much data", where=where, expected=f"at most {memory_cap} bytes", found=size)


def check_shape(shape: tuple[int, ...], time_shape: tuple[int, ...] | None, variables: int, where: Any) -> None:
    """Raise JaxlvError, naming the axis, unless trajectories is (N, T, variables) and time (T,) or absent."""
    if len(shape) != 3:
        raise JaxlvError(f"trajectories has {len(shape)} axes", where=where, expected=_LAYOUT, found=f"shape {shape}")
    if time_shape is not None and len(time_shape) != 1:
        raise JaxlvError(f"time has {len(time_shape)} axes", where=where, expected="(steps,)", found=f"shape {time_shape}")
    wanted = (None, time_shape[0] if time_shape else None, variables)

    def fits(order: tuple[int, ...]) -> bool:
        return all(size in (None, shape[axis]) for size, axis in zip(wanted, order, strict=True))

    if not fits((0, 1, 2)):
        axis = next(axis for axis in range(3) if wanted[axis] not in (None, shape[axis]))
        orders = [order for order in permutations(range(3)) if fits(order)]
        raise JaxlvError(
            f"axis {axis} of trajectories, {_AXES[axis]}, has length {shape[axis]}",
            where=where,
            expected=f"{wanted[axis]}, as in {_LAYOUT}" + (" and time" if axis == 1 else ""),
            found=f"shape {shape}",
            hint=f"np.transpose(trajectories, {orders[0]}) would fit" if orders else None,
        )
    if shape[0] < 1 or shape[1] < 2:
        raise JaxlvError("no series", where=where, expected="one or more of two or more steps", found=shape)


def _keys(group: Any) -> str:
    return shortened(sorted(group, key=str)) if len(group) else "no keys"


def shortened(items: Sequence[Any], limit: int = 10) -> str:
    """The first items in one line, and how many more there are."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(str(item) for item in items[:limit]) + more
