"""Reads tables that are text: any delimiter, encoding and decimal mark, comment lines, quoted cells.

A file is read many lines at a time. Lines without quotes, comments and gaps are split at once, and cells that are numbers
as Python writes them are read at once; all others are looked at one by one. If a column turns out to be one of texts after
numbers in it were read, the file is read again.
"""

from __future__ import annotations

import contextlib
import csv
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxlv.data.forms import Form, form_of, is_data, numeric
from jaxlv.data.frames import Origin, not_a_number
from jaxlv.data.limits import Room, clean_name
from jaxlv.data.lines import LINE, Ahead, Text, cells_of, lines_of
from jaxlv.data.moments import are_moments
from jaxlv.data.words import KINDS, is_adorned, is_missing, is_of_ids, key_of, loses
from jaxlv.errors import JaxlvError

TEXT = 64  # bytes that a cell of text takes
NUMERIC = 12  # bytes that a number takes, half of the time beside its copy
ROW = 32  # bytes that a row takes in addition: its line, its place among the times
MOST_COLUMNS = 2000
MOST_HELD = 10_000  # texts that are kept once each; more, as dates, hardly repeat
TEXTS = ("text", "adorned")
PLAIN = frozenset("0123456789.+-eE")
BLANKS = " \t\r\x0b\x0c\x1c\x1d\x1e\x1f"  # what `strip` takes from text in ASCII
CAREFULLY = ('"', "\0", "#", "%", "!", "//", "\x1a")  # what quoted cells, comments and ends of files are told by


@dataclass
class _Column:
    """What a column holds: numbers, missing values, and texts; and its values so far, if they can be kept as they come."""

    name: str
    as_ids: bool  # whether it may hold texts beside numbers
    known_text: bool = False  # read before: it is one of texts
    numbers: int = 0
    missing: int = 0
    texts: int = 0
    adorned: int = 0  # texts that are numbers with marks beside them
    apart: bool = False  # digits that a number would lose, as 007
    first: tuple[str, str] = ("", "")  # where the first text stands, and the cell
    values: Any = field(default_factory=lambda: array("d"))
    late: bool = False  # its first text came when the numbers before it were no texts any more

    @property
    def is_text(self) -> bool:
        """Whether the column is one of texts."""
        return self.known_text or self.texts > 0 or (self.as_ids and self.apart)

    def take(self, cells: Sequence[str], lines: Sequence[int], path: Path, form: Form, held: dict[str, str]) -> None:
        """Takes the cells of some rows, which stand in these lines; `held` are texts that are kept once."""
        before = self.is_text
        plain = None if form.thousands else _plain(cells)
        if plain is not None:
            self.numbers += len(cells)
            self.apart |= self.as_ids and any(loses(self.name, cell) for cell in {*cells})
        else:
            of_kind = {cell: _kind(cell, form) for cell in {*cells}}
            self.apart |= self.as_ids and any(loses(self.name, one) for one, kind in of_kind.items() if kind == "number")
            self._count(Counter(map(of_kind.__getitem__, cells)))
            if not before and self.texts:
                number, cell = next(one for one in zip(lines, cells, strict=True) if of_kind[one[1]] in TEXTS)
                self.first = f"{path}:{number}", cell
        if self.is_text and not before:
            self.late = len(self.values) > 0
            self.values = []
        if self.is_text:
            kept = {cell: None if is_missing(cell) else _once(cell, held) for cell in {*cells}}
            self.values += map(kept.__getitem__, cells)
        else:
            self.values.extend((_as_number(cell, form) for cell in cells) if plain is None else plain)

    def _count(self, seen: Mapping[str, int]) -> None:
        self.missing += seen.get("missing", 0)
        self.numbers += seen.get("number", 0)
        self.texts += sum(seen.get(kind, 0) for kind in TEXTS)
        self.adorned += seen.get("adorned", 0)


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
    taken = room.taken
    header, columns, lines = _read(path, form, room, packed, ids)
    for name, column in zip(header, columns, strict=True):
        _check_column(name, column)
    if any(column.late for column in columns):
        room.taken = taken
        header, columns, lines = _read(path, form, room, packed, ids, [column.is_text for column in columns])
    for name, column in zip(header, columns, strict=True):
        _check_marks(name, column)
    kept = [place for place, column in enumerate(columns) if header[place] or column.missing < len(lines)]
    frame = pd.DataFrame({place: _series(columns[place]) for place in kept})
    return Table(frame.set_axis([header[place] for place in kept], axis=1), Origin(path, room, lines), notes)


class _Read(NamedTuple):
    """The names of the columns, what they hold, and the lines in which the rows stand."""

    header: list[str]
    columns: list[_Column]
    lines: array


def _read(
    path: Path, form: Form, room: Room, packed: bool, ids: str | None = None, texts: Sequence[bool] | None = None
) -> _Read:
    """Reads all rows, many at a time; `texts` says which columns are ones of texts, if that is known."""
    lines, held = array("I"), dict[str, str]()
    with Text(path, form.encoding, room, packed) as stream:
        ahead = Ahead(stream)
        header = _header(_rows(ahead, path, form), path, form)
        for _ in range(form.below):
            next(_rows(ahead, path, form, 0))
        columns = [_Column(name, is_of_ids(name) or key_of(name) in (*KINDS, key_of(ids))) for name in header]
        for column, known in zip(columns, texts or (), strict=False):
            column.known_text, column.values = known, [] if known else column.values
        for numbers, block in _blocks(ahead, path, form, header):
            room.take(ROW * len(numbers))
            for column, cells in zip(columns, block, strict=True):
                column.take(cells, numbers, path, form, held)
                room.take(len(numbers) * (TEXT if column.is_text else NUMERIC))
            lines.extend(numbers)
    if not lines:
        raise JaxlvError("has no rows", where=path)
    return _Read(header, columns, lines)


def _series(column: _Column) -> pd.Series:
    if column.is_text:
        return pd.Series(column.values, dtype=object)
    values = np.asarray(column.values)
    whole = not column.missing and len(values) and bool((values == np.round(values)).all()) and np.abs(values).max() < 2**53
    return pd.Series(values.astype(np.int64) if whole else values)


# ------------------------------------------------------------------------------------------------------ lines


def _rows(ahead: Ahead, path: Path, form: Form, above: int | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of the line, cells) for the header, if it is not a comment, and every row."""
    above = form.above if above is None else above
    for place, (number, line) in enumerate(lines_of(ahead, path, form.delimiter, number=ahead.number)):
        if place >= above:
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


def _blocks(
    ahead: Ahead, path: Path, form: Form, header: Sequence[str]
) -> Iterator[tuple[Sequence[int], Sequence[Sequence[str]]]]:
    """Yields the numbers of the lines of many rows, and their cells, column after column."""
    while lines := ahead.many():
        first = ahead.number + 1
        columns = _split(lines, form.delimiter, len(header))
        if columns is not None:
            ahead.skip()
            yield range(first, first + len(lines)), columns
            continue
        rows = _even(_rows(ahead, path, form, 0), header, path)
        found = []
        while ahead.number < first + len(lines) - 1 and (row := next(rows, None)) is not None:
            found.append(row)
        if found:
            yield [number for number, _ in found], list(zip(*(cells for _, cells in found), strict=True))


def _split(lines: Sequence[str], delimiter: str, width: int) -> list[Sequence[str]] | None:
    """Returns the cells of lines, column after column; None if anything in them needs a look at each line: quotes, comments,
    empty lines, rows of other lengths.
    """
    text = "".join(lines)
    if delimiter == " " or any(mark in text for mark in CAREFULLY) or max(map(len, lines)) >= LINE:
        return None
    rows = [line.split(delimiter) for line in text.removesuffix("\n").split("\n")]
    if {*map(len, rows)} != {width}:
        return None
    columns: list[Sequence[str]] = list(zip(*rows, strict=True))
    if not text.isascii() or any(blank in text for blank in BLANKS):
        columns = [[cell.strip() for cell in cells] for cells in columns]
    return None if all("" in cells for cells in columns) else columns  # there may be a row without any cell


# ------------------------------------------------------------------------------------------------------ cells


def _plain(cells: Sequence[str]) -> array | None:
    """Returns the numbers in cells if all have one, of nothing but digits, points, signs and exponents, which Python reads
    as `forms.numeric` does.
    """
    if PLAIN.issuperset("".join(cells)):
        with contextlib.suppress(ValueError):
            return array("d", map(float, cells))
    return None


def _once(cell: str, held: dict[str, str]) -> str:
    """Returns the text that is equal to a cell, if it is among the first of the file: each of these is kept once."""
    return held.setdefault(cell, cell) if len(held) < MOST_HELD else held.get(cell, cell)


def _kind(cell: str, form: Form) -> str:
    """Returns what a cell is: missing, a number, a text, or one that is a number with marks beside it ("adorned")."""
    if is_missing(cell):
        return "missing"
    if numeric(cell, form) is not None:
        return "number"
    return "adorned" if is_adorned(cell) else "text"


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


def _as_number(cell: str, form: Form) -> float:
    if not (form.comma or form.thousands):
        with contextlib.suppress(ValueError):
            return float(cell)
    return float("nan") if is_missing(cell) else float(numeric(cell, form) or "nan")
