"""Reads the table or the arrays in a file; files that are something else than their names say are refused unread.

Axes: N series, T time steps, V variables.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from jaxlv.data import hdf5, texts
from jaxlv.data.arrays import check_dtype, check_fields, keys_of, of_records
from jaxlv.data.forms import above_header, is_of_units, told_of_units
from jaxlv.data.frames import Origin
from jaxlv.data.limits import MEMORY_CAP, Room, check_count, clean_name
from jaxlv.data.lines import encoding_of
from jaxlv.data.words import NUMBER
from jaxlv.errors import JaxlvError
from jaxlv.storage.door import is_there, opened

FORMATS = {
    ".h5": "HDF5", ".hdf5": "HDF5", ".csv": "text", ".npy": "npy", ".npz": "npz archive", ".tsv": "text", ".txt": "text",
    ".dat": "text", ".gz": "gzip", ".parquet": "parquet", ".pq": "parquet", ".xlsx": "spreadsheet", ".xlsm": "spreadsheet",
    ".xls": "spreadsheet", ".ods": "spreadsheet", ".nc": "HDF5", ".nc4": "HDF5", ".mat": "HDF5", ".he5": "HDF5",
}  # fmt: skip
SUFFIXES = tuple(FORMATS)
CONTENTS = {"npz archive": "zip archive", "spreadsheet": "zip archive"}
"""What the content of a kind of file is, if it is called otherwise."""
USER_BLOCKS = (512, 1024, 2048)  # bytes that may stand before the content of HDF5, as in MATLAB's files
HEADER = 10_000  # bytes in the header of an npy file: numpy's own limit, which it checks only after reading the header
DIRECTORY = 1 << 20  # bytes of a zip archive held at once, above all the list of its members
SHEET = re.compile(r"xl/worksheets/[^/]+\.xml")
UNCOMPUTED = re.compile(
    r'<c (?![^<>]{0,200}t="str")[^<>]{0,200}?r="(\w{1,10})"[^<>]{0,200}><f(?:[^<>]{0,200}/>|[^<>]{0,200}>[^<]{0,8192}</f>)'
    r"(?:<v ?/>|<v></v>|</c>)"
)
"""A cell with a formula and without a value, which texts may be; bounded, so that no file makes the search long."""
ENCRYPTED = 1  # the flag of a member of a zip archive
_SIGNATURES = (
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"\x93NUMPY", "npy"),
    (b"PK\x03\x04", "zip archive"),
    (b"version https://git-lfs", "a git-LFS pointer"),
    (b"\x1f\x8b", "gzip"),
    (b"PAR1", "parquet"),
    (b"CDF", "NetCDF 3"),
    (b"MATLAB 5.0", "a MATLAB file older than version 7.3"),
    (b"%PDF", "PDF"),
    (b"<", "HTML or XML"),
    (b"{", "JSON"),
)


def read(path: Path, memory_cap: int = MEMORY_CAP, ids: str | None = None) -> dict[str, Any]:
    """Returns the content of a file: a "frame" and its "origin", or "arrays" by name (of npy: "values"), "notes"
    and what is known of its "source"; `ids` is the column that tells series apart, if the caller named it.

    Raises JaxlvError as `loading.load_series` does; sizes are checked before anything is built (`limits.Room`).
    """
    kind = _checked_kind(path, memory_cap)
    with readable(path):
        if kind in ("text", "gzip"):
            return _read_text(path, Room(memory_cap, path), ids)
        return READERS[kind](path, Room(memory_cap, path))


def is_known(path: Path) -> bool:
    """Returns whether a path is a file with the suffix of a format that is read."""
    return path.suffix.lower() in FORMATS and path.is_file()


def _checked_kind(path: Path, memory_cap: int) -> str:
    suffix = path.suffix.lower()
    expected = FORMATS.get(suffix)
    if suffix == ".gz" and FORMATS.get(Path(path.stem).suffix.lower()) != "text":
        expected = None
    if not is_there(path):
        raise JaxlvError("no such file", where=path, expected="a file of series")
    if not path.name.isprintable():
        raise JaxlvError("the file's name has characters that do not print", where=path, hint="rename it")
    with readable(path), opened(path) as stream:
        head = stream.read(2048 + 8)
        size = stream.seek(0, io.SEEK_END)
    if expected is None:
        found_suffix = "".join(path.suffixes[-2:]) if suffix == ".gz" else path.suffix
        hint = "text that is packed is called .csv.gz, or .tsv.gz" if suffix == ".gz" else None
        raise JaxlvError(
            "unknown kind of file", where=path, expected=", ".join(FORMATS), found=found_suffix or "no suffix", hint=hint
        )
    found = _sniff(head)
    if found != CONTENTS.get(expected, expected) and suffix != ".xls":
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
    if any(head[place:].startswith(_SIGNATURES[0][0]) for place in USER_BLOCKS):
        return "HDF5"
    return "text" if encoding_of(head) else "unknown binary data"


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
        values = np.lib.format.read_array(stream, allow_pickle=False)
    return {"values": values, "arrays": {}} if values.dtype.names is None else {"frame": of_records(values)}


def _check_array(stream: BinaryIO, where: Any, room: Room, named: bool = False) -> None:
    """Counts the array that an npy file declares, or a member of an archive, which may hold texts and dates, too. Rewinds
    the stream.
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
    if dtype.names is not None:
        check_fields(dtype, where)
        room.array(shape, sum(max(dtype[name].itemsize, 8) for name in dtype.names))
    elif named and dtype.kind in "USM":
        room.array(shape, dtype.itemsize)
    else:
        check_dtype(dtype, where)
        room.trajectories(shape, dtype.itemsize)
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
            check_count(len(members), path, "array")
        for key, member in members.items():
            if member.flag_bits & ENCRYPTED:
                raise JaxlvError("is encrypted", where=f"{path}:{key}", hint="write it anew without a password")
            # Other methods unpack everything at once, or with tables of gigabytes; numpy only writes these two.
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise JaxlvError("unknown compression", where=f"{path}:{key}", expected="stored or deflated")
            with archive.open(member) as packed:
                _check_array(packed, f"{path}:{key}", room, named=True)  # type: ignore[arg-type]
        for key, member in members.items():
            with archive.open(member) as packed:
                arrays[clean_name(key, path, "name of an array")] = np.lib.format.read_array(packed, allow_pickle=False)
    records = [key for key, values in arrays.items() if values.dtype.names is not None]
    if records and len(arrays) > 1:
        raise JaxlvError("records beside other arrays", where=path, expected="one array of records", found=keys_of(arrays))
    return {"frame": of_records(arrays[records[0]])} if records else {"arrays": arrays}


# ----------------------------------------------------------------------------------------------------- tables


def _read_text(path: Path, room: Room, ids: str | None) -> dict[str, Any]:
    return texts.read_table(path, room, path.suffix.lower() == ".gz", ids)._asdict()


def _read_parquet(path: Path, room: Room) -> dict[str, Any]:
    parquet = _library("pyarrow.parquet", "pyarrow", path)
    with opened(path) as stream:
        held = parquet.ParquetFile(stream)
        room.array((held.metadata.num_rows, held.metadata.num_columns), texts.TEXT)
        return {"frame": held.read().to_pandas()}


def _read_excel(path: Path, room: Room) -> dict[str, Any]:
    engine = {".xlsx": "openpyxl", ".xlsm": "openpyxl", ".xls": "xlrd", ".ods": "odf"}[path.suffix.lower()]
    _library(engine, {"odf": "odfpy"}.get(engine, engine), path)
    with opened(path) as stream:
        if zipfile.is_zipfile(stream):
            pieces = _Pieces(stream.raw)  # held until the stream is closed, which it would close otherwise
            with zipfile.ZipFile(pieces) as archive:
                room.passing(sum(member.file_size for member in archive.infolist()) * 4)
                _check_formulas(archive, path)
    with opened(path) as stream:
        sheets = pd.read_excel(stream, sheet_name=None, header=None, dtype=object, engine=engine)  # type: ignore[call-overload]
    filled = {name: frame.dropna(how="all") for name, frame in sheets.items() if len(frame)}
    if len(filled) != 1:
        found = ", ".join(map(str, sheets)) or "none"
        raise JaxlvError("which sheet", where=path, expected="one sheet with rows", found=found, hint="save one as CSV")
    return _headed(next(iter(filled.values())), path, room)


def _check_formulas(archive: zipfile.ZipFile, path: Path) -> None:
    """Raises JaxlvError if a cell has a formula without its value, as programs write it that compute nothing."""
    for name in (one for one in archive.namelist() if SHEET.fullmatch(one)):
        if found := UNCOMPUTED.search(archive.read(name).decode("utf-8", "replace")):
            hint = "open it in a spreadsheet program and save it, or save it as CSV"
            raise JaxlvError("a formula has no value", where=path, found=f"cell {found[1]}", hint=hint)


def _headed(sheet: pd.DataFrame, path: Path, room: Room) -> dict[str, Any]:
    """Returns the cells of a sheet as a table: its first line with as many cells as most lines have is the header."""
    cells = [["" if one is None or one != one else str(one) for one in row] for row in sheet.to_numpy(object).tolist()]
    width = Counter(max((i + 1 for i, cell in enumerate(row) if cell), default=0) for row in cells).most_common(1)[0][0]
    above = above_header(cells, width)
    notes = [f"{above} line{'s' * (above > 1)} above the header skipped"] if above else []
    first = above + 1
    if is_of_units(cells[first:], lambda cell: NUMBER.fullmatch(cell) is not None):
        notes.append(told_of_units(cells[first]))
        first += 1
    frame = sheet.iloc[first:].set_axis(cells[above], axis=1)
    frame = frame.loc[:, [bool(name) or not column.isna().all() for name, column in frame.items()]]
    lines = [f"row {number + 1}" for number in frame.index]
    return {"frame": frame.reset_index(drop=True), "origin": Origin(path, room, lines), "notes": notes}


def _library(module: str, package: str, path: Path) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        hint = f"pip install {package}, or save it as CSV"
        raise JaxlvError(f"reading {path.suffix} needs {package}", where=path, hint=hint) from None


READERS = {
    "HDF5": lambda path, room: hdf5.read(path, room.most), "npy": _read_npy, "npz archive": _read_npz,
    "parquet": _read_parquet, "spreadsheet": _read_excel,
}  # fmt: skip
