"""The arrays in a file of series (HDF5, CSV or NumPy), with what is no such file refused before it is read.

Axes: N series, T time steps, V variables.
"""

from __future__ import annotations

import contextlib
import csv
import math
import zipfile
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxlv.data import hdf5
from jaxlv.data.arrays import VARIABLES, check_dtype, check_size, keys_of
from jaxlv.errors import JaxlvError

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
            return hdf5.read(path, memory_cap)
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


def _read_npy(stream: BinaryIO, where: Any, memory_cap: int) -> np.ndarray:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise JaxlvError("unknown version of npy", where=where, expected="1.0 or 2.0", found=version)
    form = np.lib.format
    read_header = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if dtype.kind != "U":
        check_dtype(dtype, where)
    check_size([shape], memory_cap, where)
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def _read_npz(path: Path, memory_cap: int) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        for key in ("trajectories", "time"):
            if key not in members:
                raise JaxlvError(f"has no array {key}", where=path, found=keys_of(members))
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
