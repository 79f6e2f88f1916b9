"""Reads tables that are text: any delimiter, encoding and decimal mark, comment lines, quoted cells.

A file is read line by line, twice: first to see what each column holds, then to fill the columns, whose size is then known.
"""

from __future__ import annotations

import contextlib
import csv
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxlv.data.forms import Form, form_of, is_data, numeric
from jaxlv.data.frames import Origin, not_a_number
from jaxlv.data.limits import Room, clean_name
from jaxlv.data.lines import Text, cells_of, lines_of
from jaxlv.data.moments import are_moments
from jaxlv.data.words import KINDS, is_adorned, is_missing, is_of_ids, key_of
from jaxlv.errors import JaxlvError

TEXT = 64  # bytes that a cell of text takes
NUMERIC = 12  # bytes that a number takes, half of the time beside its copy
ROW = 32  # bytes that a row takes in addition: its line, its place among the times
MOST_COLUMNS = 2000


@dataclass
class _Column:
    """What a column holds: numbers, missing values, and texts."""

    as_ids: bool  # whether it may hold texts beside numbers
    numbers: int = 0
    missing: int = 0
    texts: int = 0
    adorned: int = 0  # texts that are numbers with marks beside them
    apart: bool = False  # digits that a number would lose, as 007
    first: tuple[str, str] = ("", "")  # where the first text stands, and the cell
    values: Any = field(default_factory=list)

    @property
    def is_text(self) -> bool:
        """Whether the column is one of texts."""
        return self.texts > 0 or (self.as_ids and self.apart)


class Table(NamedTuple):
    """A table, where its rows stand, and notes on lines that were skipped."""

    frame: pd.DataFrame
    origin: Origin
    notes: list[str]


def read_table(path: Path, room: Room, packed: bool, ids: str | None = None) -> Table:
    """Returns the table in a file of text.

    `packed` if the file is in gzip; the column `ids` may hold texts. Raises JaxlvError, with the line, if the file has no
    header, rows of other lengths or cells that are not numbers in a column of numbers; and if it would take too much memory.
    """
    form, notes = form_of(path, room, packed)
    with Text(path, form.encoding, room, packed) as stream:
        rows = _rows(stream, path, form)
        header = _header(rows, path, form)
        columns = [_Column(is_of_ids(name) or key_of(name) in (*KINDS, key_of(ids))) for name in header]
        count = sum(_seen(columns, cells, f"{path}:{number}", form) for number, cells in _even(rows, header, path))
    if not count:
        raise JaxlvError("has no rows", where=path)
    room.take(ROW * count)
    lines = array("I")
    for name, column in zip(header, columns, strict=True):
        _check_column(name, column)
        room.take(count * (TEXT if column.is_text else NUMERIC))
        column.values = [] if column.is_text else array("d")
    held: dict[str, str] = {}  # texts, each of which is there once
    with Text(path, form.encoding, room, packed) as stream:
        rows = _rows(stream, path, form)
        _header(rows, path, form)
        for number, cells in _even(rows, header, path):
            lines.append(number)
            for column, cell in zip(columns, cells, strict=True):
                column.values.append(_as_text(cell, held) if column.is_text else _as_number(cell, form))
    for name, column in zip(header, columns, strict=True):
        _check_marks(name, column)
    frame = pd.DataFrame({place: _series(column) for place, column in enumerate(columns)})
    return Table(frame.set_axis(header, axis=1), Origin(path, room, lines), notes)


def _series(column: _Column) -> pd.Series:
    if column.is_text:
        return pd.Series(column.values, dtype=object)
    values = np.asarray(column.values)
    whole = not column.missing and len(values) and bool((values == np.round(values)).all()) and np.abs(values).max() < 2**53
    return pd.Series(values.astype(np.int64) if whole else values)


# ------------------------------------------------------------------------------------------------------ lines


def _rows(stream: Any, path: Path, form: Form) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of the line, cells) for the header, if it is not a comment, and every row."""
    for place, (number, line) in enumerate(lines_of(stream, path, form.delimiter)):
        if place >= form.above:
            try:
                yield number, cells_of(line, form.delimiter)
            except csv.Error as fault:
                hint = "a quote within a quoted cell is written twice"
                raise JaxlvError("quotes do not match", where=f"{path}:{number}", found=str(fault), hint=hint) from None


def _header(rows: Iterator[tuple[int, list[str]]], path: Path, form: Form) -> list[str]:
    number, header = (0, list(form.names)) if form.names else next(rows, (0, []))
    if not header:
        raise JaxlvError("has no rows", where=path)
    where = f"{path}:{number}" if number else path
    if len(header) > MOST_COLUMNS:
        raise JaxlvError("too many columns", where=where, expected=f"at most {MOST_COLUMNS}", found=len(header))
    if is_data(header, form):
        hint = "write names into the first line, such as year,hare,lynx"
        raise JaxlvError("has no header", where=where, expected="names of columns", found=",".join(header), hint=hint)
    while header and not header[-1]:
        header.pop()
    names = [clean_name(" ".join(cell.split()), where, "name of a column") if cell else "" for cell in header]
    return ["", *names] if form.unnamed else names


def _even(rows: Iterator[tuple[int, list[str]]], header: Sequence[str], path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields rows of as many cells as the header has; raises JaxlvError for others."""
    for number, cells in rows:
        while len(cells) > len(header) and not cells[-1]:
            cells.pop()
        if len(cells) != len(header):
            hint = "a comma within a number or a name is quoted; a line that is not a row begins with #"
            raise JaxlvError(
                "row and header differ in their number of cells", where=f"{path}:{number}", expected=len(header),
                found=len(cells), hint=hint,
            )  # fmt: skip
        yield number, cells


# ------------------------------------------------------------------------------------------------------ cells


def _seen(columns: Sequence[_Column], cells: Sequence[str], where: str, form: Form) -> int:
    for column, cell in zip(columns, cells, strict=True):
        if is_missing(cell):
            column.missing += 1
        elif numeric(cell, form) is not None:
            column.numbers += 1
            column.apart |= len(cell) > 1 and cell[0] == "0" and cell[1].isdigit()
        else:
            column.first = column.first if column.texts else (where, cell)
            column.texts += 1
            column.adorned += is_adorned(cell)
    return 1


def _check_column(name: str, column: _Column) -> None:
    """Raises JaxlvError if a column of numbers has a cell that is not one."""
    if column.numbers > column.texts > 0 and not column.as_ids:
        where, cell = column.first
        raise not_a_number(name, cell, where)


def _check_marks(name: str, column: _Column) -> None:
    """Raises JaxlvError if a column that is not one of dates holds nothing but numbers, some with marks beside them."""
    is_meant = column.adorned and column.adorned == column.texts and not column.as_ids
    if is_meant and not are_moments(cell for cell in column.values if cell is not None):
        where, cell = column.first
        raise not_a_number(name, cell, where)


def _as_text(cell: str, held: dict[str, str]) -> str | None:
    return None if is_missing(cell) else held.setdefault(cell, cell)


def _as_number(cell: str, form: Form) -> float:
    if not (form.comma or form.thousands):
        with contextlib.suppress(ValueError):
            return float(cell)
    return float("nan") if is_missing(cell) else float(numeric(cell, form) or "nan")
