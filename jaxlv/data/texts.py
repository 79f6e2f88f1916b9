"""Reads tables that are text: any delimiter, encoding and decimal mark, comment lines, quoted cells.

A file is read line by line, twice: first to see what each column holds, then to fill the columns, whose size is then known.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pandas as pd

from jaxlv.data.columns import MISSING
from jaxlv.data.limits import Room, clean_name
from jaxlv.errors import JaxlvError
from jaxlv.storage.door import opened

LINE = 1 << 16  # characters in a line
DELIMITERS = (",", ";", "\t", "|", " ")
COMMENTS = ("#", "%", "//", "!")
SAMPLE = 100  # lines that the form of a file is told by
MOST_COLUMNS = 2000
TEXT = 64  # bytes that a cell of text takes
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
COMMA_NUMBER = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+")
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class Form(NamedTuple):
    """How a file is written: its encoding, delimiter and decimal mark, and the number of lines above the header."""

    encoding: str
    delimiter: str
    comma: bool  # whether the decimal mark is a comma
    above: int


@dataclass
class _Column:
    """What a column holds: numbers, missing values, and texts."""

    numbers: int = 0
    missing: int = 0
    texts: int = 0
    written_apart: bool = False  # digits that a number would lose, as 007
    first_text: tuple[str, str] = ("", "")  # where it stands, and the cell
    values: Any = field(default_factory=list)

    @property
    def is_text(self) -> bool:
        """Whether the column is one of texts: no numbers, or more texts than numbers."""
        return self.texts > self.numbers or self.written_apart


def read_table(path: Path, room: Room, packed: bool) -> tuple[pd.DataFrame, list[str]]:
    """Returns the table in a file of text, and notes on lines that were skipped; `packed` if it is in gzip.

    Raises JaxlvError, with the line, if the file has no header, rows of other lengths or cells that are no numbers in a
    column of numbers; and if it would take too much memory.
    """
    form, notes = _form(path, room, packed)
    with _text(path, form.encoding, room, packed) as stream:
        rows = _rows(stream, path, form)
        header = _header(rows, path, form)
        columns = [_Column() for _ in header]
        count = sum(_seen(columns, cells, where, form) for where, cells in _even(rows, header))
    if not count:
        raise JaxlvError("has no rows", where=path)
    for name, column in zip(header, columns, strict=True):
        _check_column(name, column, path, form)
        room.take(count * (TEXT if column.is_text else 8))
        column.values = [] if column.is_text else array("d")
    with _text(path, form.encoding, room, packed) as stream:
        rows = _rows(stream, path, form)
        next(rows)
        for _, cells in _even(rows, header):
            for column, cell in zip(columns, cells, strict=True):
                column.values.append(_cell(cell, column.is_text, form.comma))
    frame = pd.DataFrame({place: _series(column) for place, column in enumerate(columns)})
    return frame.set_axis(header, axis=1), notes


def _series(column: _Column) -> pd.Series:
    if column.is_text:
        return pd.Series(column.values, dtype=object)
    values = np.asarray(column.values)
    whole = not column.missing and len(values) and bool((values == np.round(values)).all()) and np.abs(values).max() < 2**53
    return pd.Series(values.astype(np.int64) if whole else values)


# ------------------------------------------------------------------------------------------------------ lines


class _Bounded(io.RawIOBase):
    """A stream of which at most so many bytes can be read: gzip unpacks to any size."""

    def __init__(self, stream: BinaryIO, room: Room):
        self.stream, self.room, self.taken = stream, room, 0

    def readable(self) -> bool:
        """Says that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer; raises JaxlvError if more is read than the memory holds."""
        block = self.stream.read(len(buffer))
        self.taken += len(block)
        if self.taken > self.room.most:
            expected = f"at most {self.room.most} bytes when unpacked"
            raise JaxlvError("declares too much data", where=self.room.where, expected=expected)
        buffer[: len(block)] = block
        return len(block)


class _text:
    """Opens a file as text; closes all that was opened."""

    def __init__(self, path: Path, encoding: str, room: Room, packed: bool):
        self.path, self.encoding, self.room, self.packed = path, encoding, room, packed

    def __enter__(self) -> io.TextIOWrapper:
        """Returns the text."""
        self.file = opened(self.path)
        binary: Any = self.file.__enter__()
        if self.packed:
            binary = io.BufferedReader(_Bounded(gzip.GzipFile(fileobj=binary, mode="rb"), self.room))  # type: ignore[arg-type]
        return io.TextIOWrapper(binary, encoding=self.encoding, newline=None)

    def __exit__(self, *fault: Any) -> None:
        """Closes the file."""
        self.file.__exit__(*fault)


def _lines(stream: Any, path: Path) -> Iterator[tuple[int, str]]:
    """Yields (number, line) for every line that is not empty and no comment."""
    number = 0
    while line := stream.readline(LINE):
        number += 1
        if len(line) == LINE:
            raise JaxlvError("the line is too long", where=f"{path}:{number}", expected=f"fewer than {LINE} characters")
        if "\0" in line:
            raise JaxlvError("is not what its name says", where=path, expected="text", found="unknown binary data")
        line = line.rstrip("\n")
        if line.strip() and not line.lstrip().startswith(COMMENTS) and line.strip(",;\t ") != "":
            yield number, line


def _rows(stream: Any, path: Path, form: Form) -> Iterator[tuple[str, list[str]]]:
    """Yields (where it stands, cells) for the header and every row."""
    for place, (number, line) in enumerate(_lines(stream, path)):
        if place >= form.above:
            yield f"{path}:{number}", _cells(line, form.delimiter)


def _cells(line: str, delimiter: str) -> list[str]:
    # Each line is parsed alone: a quoted cell that spans lines could become a row of any size.
    blank = delimiter == " "
    cells = next(csv.reader((line.strip() if blank else line,), delimiter=delimiter, skipinitialspace=True, strict=True), [])
    return [cell.strip() for cell in cells if cell or not blank]


def _header(rows: Iterator[tuple[str, list[str]]], path: Path, form: Form) -> list[str]:
    where, header = next(rows, ("", []))
    if not header:
        raise JaxlvError("has no rows", where=path)
    if len(header) > MOST_COLUMNS:
        raise JaxlvError("too many columns", where=where, expected=f"at most {MOST_COLUMNS}", found=len(header))
    if all(_is_number(cell, form.comma) or not cell for cell in header):
        hint = "write names into the first line, such as year,hare,lynx"
        raise JaxlvError("has no header", where=where, expected="names of columns", found=",".join(header), hint=hint)
    while header and not header[-1]:
        header.pop()
    return [clean_name(cell, where, "name of a column") if cell else "" for cell in header]


def _even(rows: Iterator[tuple[str, list[str]]], header: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields rows of as many cells as the header has; raises JaxlvError for others."""
    for where, cells in rows:
        while len(cells) > len(header) and not cells[-1]:
            cells.pop()
        if len(cells) == len(header) + 1 and header[0]:
            raise JaxlvError(
                "row and header differ in their number of cells", where=where, expected=len(header), found=len(cells),
                hint="a comma within a number or a name is quoted; row numbers have a name, too",
            )  # fmt: skip
        if len(cells) != len(header):
            raise JaxlvError(
                "row and header differ in their number of cells", where=where, expected=len(header), found=len(cells)
            )
        yield where, cells


# ------------------------------------------------------------------------------------------------------ cells


def _is_number(cell: str, comma: bool) -> bool:
    return bool((COMMA_NUMBER if comma and "," in cell else NUMBER).fullmatch(cell))


def _seen(columns: Sequence[_Column], cells: Sequence[str], where: str, form: Form) -> int:
    for column, cell in zip(columns, cells, strict=True):
        if cell.casefold() in MISSING:
            column.missing += 1
        elif _is_number(cell, form.comma) or cell.casefold().strip("+-") in ("inf", "infinity"):
            column.numbers += 1
            column.written_apart |= len(cell) > 1 and cell[0] == "0" and cell[1].isdigit()
        else:
            column.first_text = column.first_text if column.texts else (where, cell)
            column.texts += 1
    return 1


def _check_column(name: str, column: _Column, path: Path, form: Form) -> None:
    """Raises JaxlvError if a column of numbers has a cell that is none."""
    if column.texts and column.numbers > column.texts:
        where, cell = column.first_text
        hint = None
        if THOUSANDS.fullmatch(cell):
            hint = "write numbers without separators of thousands, and with a point"
        raise JaxlvError(f"{name or 'a column without a name'} is not a number", where=where, found=repr(cell), hint=hint)


def _cell(cell: str, text: bool, comma: bool) -> Any:
    if text:
        return None if cell.casefold() in MISSING else cell
    if cell.casefold() in MISSING:
        return float("nan")
    return float(cell.replace(",", ".") if comma else cell)


# ------------------------------------------------------------------------------------------------------- form


def _form(path: Path, room: Room, packed: bool) -> tuple[Form, list[str]]:
    """Finds how a file is written from its first lines."""
    notes: list[str] = []
    encoding = _encoding(path, room, packed)
    if encoding == "cp1252":
        notes.append("the file is not UTF-8 and is read as Windows-1252")
    with _text(path, encoding, room, packed) as stream:
        lines = [line for _, (_, line) in zip(range(SAMPLE), _lines(stream, path), strict=False)]
    if not lines:
        raise JaxlvError("has no rows", where=path)
    delimiter, width = _delimiter(lines)
    above = 0
    while above < min(len(lines) - 1, 20) and len(_cells(lines[above], delimiter)) < width - 1:
        above += 1
    if above:
        notes.append(f"{above} line{'s' * (above > 1)} above the header skipped")
    rows = [_cells(line, delimiter) for line in lines[above + 1 :]]
    return Form(encoding, delimiter, _has_comma(rows, path), above), notes


def encoding_of(head: bytes) -> str:
    """Returns the encoding that the first bytes of a file tell: by its mark, UTF-16 if every other byte is 0; "utf-8" if
    they tell none, and "" if they are no text.
    """
    marked = next((name for mark, name in BOMS if head.startswith(mark)), None)
    zeros = np.frombuffer(head, np.uint8) == 0
    if marked or not zeros.any():
        return marked or "utf-8"
    if len(head) > 3 and zeros[1::2].mean() > 0.8 and not zeros[::2].any():
        return "utf-16-le"
    return "utf-16-be" if len(head) > 3 and zeros[::2].mean() > 0.8 and not zeros[1::2].any() else ""


def _encoding(path: Path, room: Room, packed: bool) -> str:
    """Returns the encoding of a file: what its first bytes tell, or Windows-1252 if it is not UTF-8 throughout."""
    with opened(path) as file:
        binary: Any = file
        if packed:
            binary = io.BufferedReader(_Bounded(gzip.GzipFile(fileobj=file, mode="rb"), room))  # type: ignore[arg-type]
        head = binary.read(4096)
        if not encoding_of(head):
            raise JaxlvError("is not what its name says", where=path, expected="text", found="unknown binary data")
        if (wide := encoding_of(head)) != "utf-8":
            return wide
        decoder = codecs.getincrementaldecoder("utf-8")()
        block = head
        while block:
            try:
                decoder.decode(block)
            except UnicodeDecodeError:
                return "cp1252"
            block = binary.read(1 << 20)
    return "utf-8"


def _delimiter(lines: Sequence[str]) -> tuple[str, int]:
    """Returns the delimiter that gives most lines one and the same number of cells above 1, and that number."""
    best: tuple[tuple[float, int], str, int] = ((0.0, 0), ",", 1)
    for place, delimiter in enumerate(DELIMITERS):
        widths = Counter(_width(line, delimiter) for line in lines)
        width, count = max(((w, c) for w, c in widths.items() if w > 1), key=lambda pair: pair[1], default=(1, 0))
        share = count / len(lines)
        if delimiter == "," and _are_decimals(lines):
            share = 0.0
        if share > 0.5 and (share, -place) > best[0]:
            best = (share, -place), delimiter, width
    return best[1], best[2]


def _width(line: str, delimiter: str) -> int:
    """Returns the number of cells of a line; 0 if its quotes say that the delimiter is another."""
    try:
        return len(_cells(line, delimiter))
    except csv.Error:
        return 0


def _are_decimals(lines: Sequence[str]) -> bool:
    """Tells whether the commas of lines that have another delimiter, too, stand within numbers."""
    others = [d for d in (";", "\t", "|") if all(d in line for line in lines)]
    return bool(others)


def _has_comma(rows: Sequence[Sequence[str]], path: Path) -> bool:
    """Tells whether numbers have decimal commas; raises JaxlvError if these may separate thousands."""
    cells = [cell for row in rows for cell in row if "," in cell]
    found = [cell for cell in cells if COMMA_NUMBER.fullmatch(cell)]
    if not found or len(found) < len(cells) / 2:
        return False
    if all(THOUSANDS.fullmatch(cell) for cell in found) and not any(cell.startswith("0,") for cell in found):
        whole = [cell for row in rows for cell in row if re.fullmatch(r"\d+", cell)]
        hint = "write numbers without separators of thousands, and with a point"
        found_words = f"{found[0]} may be {found[0].replace(',', '')} or {found[0].replace(',', '.')}"
        if whole or len(found) == len(cells):
            raise JaxlvError("commas in numbers are unclear", where=path, found=found_words, hint=hint)
    if any("." in cell and NUMBER.fullmatch(cell) for row in rows for cell in row):
        hint = "write all numbers with a point"
        raise JaxlvError("numbers have commas and points", where=path, found=found[0], hint=hint)
    return True
