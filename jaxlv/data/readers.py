"""Reads the arrays in a file of series (HDF5, CSV or NumPy); files that are something else are refused before they are read.

Axes: N series, T time steps, V variables.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import struct
import zipfile
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxlv.data import hdf5
from jaxlv.data.arrays import VARIABLES, check_dtype, keys_of
from jaxlv.data.limits import MEMORY_CAP, PER_SERIES, Room, check_count, clean_name, clean_names
from jaxlv.errors import JaxlvError
from jaxlv.storage.door import is_there, opened

_TIDY = ("series", "step", "time", "variable", "value")
_WIDE = ("series", "time", *VARIABLES)
FORMATS = {".h5": "HDF5", ".hdf5": "HDF5", ".csv": "text", ".npy": "npy", ".npz": "zip archive"}
LINE = 1 << 16  # characters in a line of CSV
HEADER = 10_000  # bytes in the header of an npy file: numpy's own limit, which it checks only after reading the header
DIRECTORY = 1 << 20  # bytes of a zip archive held at once, above all the list of its members
ENCRYPTED = 1  # the flag of a member of a zip archive
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


def read(path: Path, memory_cap: int = MEMORY_CAP) -> dict[str, Any]:
    """Returns the content of a file as arguments of `series.from_arrays`; formats and errors as in `series.load`.

    For every format, names of variables are cleaned (`limits.clean_names`), and sizes are checked before anything is built
    (`limits.Room`).
    """
    kind = _checked_kind(path, memory_cap)
    with readable(path):
        arrays = READERS[kind](path, Room(memory_cap, path))
    if "variables" in arrays:
        arrays["variables"] = clean_names(arrays["variables"], path)
    return arrays


def _checked_kind(path: Path, memory_cap: int) -> str:
    expected = FORMATS.get(path.suffix.lower())
    if not is_there(path):
        raise JaxlvError("no such file", where=path, expected="a file of series")
    if not path.name.isprintable():
        raise JaxlvError("the file's name has characters that do not print", where=path, hint="rename it")
    with readable(path), opened(path) as stream:
        head = stream.read(512)
        size = stream.seek(0, io.SEEK_END)
    if expected is None:
        raise JaxlvError("unknown kind of file", where=path, expected=", ".join(FORMATS), found=path.suffix or "no suffix")
    found = _sniff(head)
    if found != expected:
        hint = "run `git lfs pull` to get the file itself" if "git-LFS" in found else None
        raise JaxlvError(f"is not what {path.suffix} says", where=path, expected=expected, found=found, hint=hint)
    if size > memory_cap:
        raise JaxlvError("too large", where=path, expected=f"a file of at most {memory_cap} bytes", found=size)
    return expected


def _sniff(head: bytes) -> str:
    if not head:
        return "an empty file"
    for signature, name in _SIGNATURES:
        if head.lstrip().startswith(signature):
            return name
    try:
        # A multi-byte character may be cut at the end of the block.
        head[:-3].decode() if len(head) == 512 else head.decode()
    except UnicodeDecodeError:
        return "unknown binary data"
    return "unknown binary data" if b"\0" in head else "text"


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns whatever the reading libraries raise about a bad file into one JaxlvError."""
    try:
        yield
    except PermissionError as error:
        raise JaxlvError("cannot be read: permission denied", where=path) from error
    except (JaxlvError, MemoryError):
        raise
    except Exception as error:  # the libraries pass on whatever lower layers raise: SyntaxError, TokenError, ...
        raise JaxlvError(f"damaged or truncated ({error})", where=path, hint="fetch it again") from error


# ------------------------------------------------------------------------------------------------------ NumPy


def _read_npy(path: Path, room: Room) -> dict[str, Any]:
    with opened(path) as stream:
        _check_array(stream, path, room)
        return {"values": np.lib.format.read_array(stream, allow_pickle=False)}


def _check_array(stream: BinaryIO, where: Any, room: Room, names: bool = False) -> None:
    """Counts the array that an npy file, or a member of an archive, declares: numbers, or names if `names`. Rewinds the
    stream.
    """
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise JaxlvError("unknown version of npy", where=where, expected="1.0 or 2.0", found=version)
    # The header's length takes 2 or 4 bytes; numpy would read that many bytes before it checks its own limit.
    form, width = ("<H", 2) if version == (1, 0) else ("<I", 4)
    (length,) = struct.unpack(form, stream.read(width))
    if length > HEADER:
        raise JaxlvError("the header is too long", where=where, expected=f"at most {HEADER} bytes", found=length)
    stream.seek(stream.tell() - width)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if not names:
        check_dtype(dtype, where)
        room.trajectories(shape, dtype.itemsize)
    elif dtype.kind not in "US":
        raise JaxlvError("wrong type", where=where, expected="text", found=dtype)
    else:
        check_count(math.prod(shape), where)
        room.array(shape, dtype.itemsize)
    stream.seek(0)


class _Pieces(io.BufferedReader):
    """A file that gives at most DIRECTORY bytes per read: zipfile would read a list of members of any length."""

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(DIRECTORY + 1 if size is None or size < 0 else min(size, DIRECTORY + 1))
        if len(found) > DIRECTORY:
            raise zipfile.BadZipFile(f"the list of its members is longer than {DIRECTORY} bytes")
        return found


def _read_npz(path: Path, room: Room) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    with opened(path) as stream, zipfile.ZipFile(_Pieces(stream.raw)) as archive:
        members: dict[str, zipfile.ZipInfo] = {}
        for member in archive.infolist():
            key = member.filename.removesuffix(".npy")
            if key in members:
                raise JaxlvError("holds two arrays of one name", where=path, found=key)
            members[key] = member
        for key in ("trajectories", "time"):
            if key not in members:
                raise JaxlvError(f"has no array {key}", where=path, found=keys_of(sorted(members)))
        held = {key: members[key] for key in ("trajectories", "time", "variables") if key in members}
        for key, member in held.items():
            if member.flag_bits & ENCRYPTED:
                raise JaxlvError("is encrypted", where=f"{path}:{key}", hint="write it anew without a password")
            # Other methods unpack everything at once, or with tables of gigabytes; numpy only writes these two.
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise JaxlvError("unknown compression", where=f"{path}:{key}", expected="stored or deflated")
            with archive.open(member) as packed:
                _check_array(packed, f"{path}:{key}", room, names=key == "variables")  # type: ignore[arg-type]
        for key, member in held.items():
            with archive.open(member) as packed:
                arrays[key] = np.lib.format.read_array(packed, allow_pickle=False)
    return {"values" if key == "trajectories" else key: array for key, array in arrays.items()}


# -------------------------------------------------------------------------------------------------------- CSV


class _Columns:
    """The values of a CSV file while it is read: five numbers for each value, one in each column."""

    def __init__(self, room: Room):
        self.room = room
        self.series, self.step, self.time, self.value = (array("d") for _ in range(4))
        self.variable = array("q")
        self.names: dict[str, int] = {}
        self.rows_of: dict[float, int] = {}
        self.size = sum(column.itemsize for column in (self.series, self.step, self.time, self.value, self.variable))

    def rows(self, series: float) -> int:
        """Counts a row of a series; returns how many were there before."""
        count = self.rows_of.get(series)
        if count is None:
            self.room.take(PER_SERIES)
            count = 0
        self.rows_of[series] = count + 1
        return count

    def number(self, name: str, where: str) -> int:
        """Returns the number of a variable. Raises JaxlvError if its name is not allowed, or there are too many."""
        if name not in self.names:
            clean_name(name, where, "name of a variable")
            check_count(len(self.names) + 1, where)
            self.names[name] = len(self.names)
        return self.names[name]

    def add(self, series: float, step: float, time: float, values: Mapping[int, float]) -> None:
        """Adds the values of a row, given by the numbers of their variables."""
        for variable, value in values.items():
            self.series.append(series)
            self.step.append(step)
            self.time.append(time)
            self.variable.append(variable)
            self.value.append(value)


def _lines(stream: BinaryIO) -> int:
    """Counts the lines that are not empty, with only one block of the file in memory."""
    count, ended = 0, True
    while block := stream.read(1 << 20):
        codes = np.frombuffer(block, np.uint8)
        breaks = (codes == ord("\n")) | (codes == ord("\r"))
        count += int(np.count_nonzero(~breaks[1:] & breaks[:-1])) + int(ended and not breaks[0])
        ended = bool(breaks[-1])
    return count


def _rows(stream: Any, path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yields ("path:line", cells) for every line that is not empty."""
    number = 0
    while line := stream.readline(LINE):
        number += 1
        where = f"{path}:{number}"
        if len(line) == LINE:
            raise JaxlvError("the line is too long", where=where, expected=f"fewer than {LINE} characters")
        # Each line is parsed alone: a quoted cell that spans lines could become a row of any size.
        if cells := next(csv.reader((line,), strict=True)):
            yield where, cells


def _read_csv(path: Path, room: Room) -> dict[str, Any]:
    columns = _Columns(room)
    with opened(path) as binary, io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as stream:
        lines = _lines(binary)
        binary.seek(0)
        rows = _rows(stream, path)
        _, header = next(rows, ("", [])) if lines else ("", [])
        tidy = _is_tidy(tuple(header), path)
        if lines < 2:  # all others are empty: there may be millions
            raise JaxlvError("has no rows", where=path)
        numeric = [(place, name) for place, name in enumerate(header) if name != "variable"]
        known = () if tidy else tuple(columns.number(name, str(path)) for name in VARIABLES)
        room.take(columns.size * (lines - 1) * (1 if tidy else len(known)))
        for where, cells in rows:
            if len(cells) != len(header):
                raise JaxlvError("row and header differ in their number of cells", where=where)
            row = {name: _number(cells[place], name, where) for place, name in numeric}
            series, counted = row["series"], columns.rows(row["series"])
            if tidy:
                name = cells[header.index("variable")]
                columns.add(series, row["step"], row["time"], {columns.number(name, where): row["value"]})
            else:
                columns.add(series, counted, row["time"], {v: row[VARIABLES[v]] for v in known})
    return _from_columns(columns, path)


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


def _number(cell: str, column: str, where: str) -> float:
    """Returns the number in a cell; NaN for an empty one, which `from_arrays` then reports."""
    try:
        number = float(cell or "nan")
    except ValueError:
        raise JaxlvError(f"{column} is not a number", where=where, found=repr(cell)) from None
    if column in ("series", "step") and not (number.is_integer() and 0 <= number < 2**53):
        raise JaxlvError(f"{column} is not a whole number", where=where, found=repr(cell))
    return number


def _from_columns(columns: _Columns, path: Path) -> dict[str, Any]:
    """Puts the values in order. At most, this takes about as much memory again as the columns."""
    value, names = np.asarray(columns.value), tuple(columns.names)
    if not len(value):
        raise JaxlvError("has no rows", where=path)
    ids, row = np.unique(np.asarray(columns.series).astype(np.int64), return_inverse=True)
    step = np.asarray(columns.step).astype(np.int64)
    shape = (len(ids), int(step.max()) + 1, len(names))
    whole = len(value) == math.prod(shape)  # if so, the numbers of cells are below 2**63
    seen = np.zeros(len(value) if whole else 0, bool)
    if whole:
        cell = (row * shape[1] + step) * shape[2] + np.asarray(columns.variable)
        seen[cell] = True
    if not whole or not seen.all():
        raise JaxlvError(
            "series are not complete",
            where=path,
            expected=f"one value for each of {shape[0]} series, {shape[1]} steps and {', '.join(names)}",
            found=f"{len(value)} values" + (f", {seen.sum()} of them for different cells" if whole else ""),
        )
    time_NTV, values_NTV = np.empty(shape), np.empty(shape)
    time_NTV.reshape(-1)[cell], values_NTV.reshape(-1)[cell] = columns.time, value
    if not (time_NTV == time_NTV[:1, :, :1]).all():
        raise JaxlvError("series differ in their times", where=path, expected="one time grid for all series")
    if set(names) == set(VARIABLES):
        values_NTV, names = values_NTV[..., [names.index(name) for name in VARIABLES]], VARIABLES
    return {"values": values_NTV, "time": time_NTV[0, :, 0].copy(), "variables": names, "ids": ids}


READERS = {
    "HDF5": lambda path, room: hdf5.read(path, room.most), "text": _read_csv, "npy": _read_npy, "zip archive": _read_npz,
}  # fmt: skip
