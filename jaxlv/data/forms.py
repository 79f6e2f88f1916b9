"""How a file of text is written: what stands above its rows, its delimiter, and the marks in its numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxlv.data.arrays import shortened
from jaxlv.data.clock import is_time
from jaxlv.data.limits import Room
from jaxlv.data.lines import DELIMITERS, Text, encoding_within, lines_of, parted, width_of
from jaxlv.data.moments import are_moments
from jaxlv.data.words import INFINITE, NUMBER, is_missing, plain
from jaxlv.errors import JaxlvError

FEWEST = 2  # rows below one of units
PUNCTUATION = frozenset("\"'.,+-_()[]{}/%#!<>=$€£*?\\")  # of names, numbers and dates
SAMPLE = 100  # lines that the form of a file is told by
MOST_ABOVE = 50  # lines above the header
COMMA_NUMBER = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
THOUSANDS = {mark: re.compile(rf"[+-]?\d{{1,3}}({re.escape(mark)}\d{{3}})+") for mark in ",."}
"""Numbers whose thousands a mark may separate."""
SURELY = {
    mark: re.compile(rf"[+-]?\d{{1,3}}(({re.escape(mark)}\d{{3}}){{2,}}|({re.escape(mark)}\d{{3}})+{re.escape(other)}\d+)")
    for mark, other in ((",", "."), (".", ","))
}
"""Numbers whose thousands a mark does separate: it is there twice, or the other one is there, too."""
UNCLEAR = "write numbers without separators of thousands, and with a point"


class Form(NamedTuple):
    """How a file is written: its encoding, delimiter and decimal mark, and what stands above its rows."""

    encoding: str
    delimiter: str
    comma: bool  # whether the decimal mark is a comma
    thousands: str  # what separates thousands: "", "," or "."
    above: int  # lines above the header
    names: tuple[str, ...] = ()  # the header, if it is a comment
    below: int = 0  # lines of units below the header
    unnamed: bool = False  # whether the first column has no name, as R leaves it out


def form_of(path: Path, room: Room, packed: bool) -> tuple[Form, list[str]]:
    """Returns how a file is written, which its first lines tell, and notes on that. Raises JaxlvError if it has no rows, and
    if it is not clear what the commas in its numbers are.
    """
    notes: list[str] = []
    encoding = encoding_within(path, room, packed)
    comments: list[str] = []
    if encoding == "cp1252":
        notes.append("the file is not UTF-8 and is read as Windows-1252")
    with Text(path, encoding, room, packed) as stream:
        lines = [line for _, (_, line) in zip(range(SAMPLE), lines_of(stream, path, DELIMITERS, comments), strict=False)]
    if not lines:
        raise JaxlvError("has no rows", where=path)
    delimiter, width = _delimiter(lines)
    cells = [parted(line, delimiter) for line in lines]
    above = above_header(cells, width)
    comma, thousands = _marks(cells[above + 1 :], delimiter, path, notes)
    form = Form(encoding, delimiter, comma, thousands, above)
    names = _named_by(comments, cells[0], form) if not above else ()
    if above:
        notes.append(f"{above} line{'s' * (above > 1)} above the header skipped")
    if names:
        notes.append("the header is the comment above the rows")
    if not names and is_of_units(cells[above + 1 :], lambda cell: numeric(cell, form) is not None):
        notes.append(told_of_units(cells[above + 1]))
        form = form._replace(below=1)
    header = len(names or _filled(cells[above]))
    rows = [_filled(row) for row in (cells if names else cells[above + 1 :]) if row]
    unnamed = delimiter != "," and bool(rows) and all(len(row) == header + 1 for row in rows)
    return form._replace(names=names, unnamed=unnamed), notes


def _filled(cells: Sequence[str]) -> list[str]:
    """Returns cells without the empty ones at the end."""
    found = list(cells)
    while found and not found[-1]:
        found.pop()
    return found


def above_header(cells: Sequence[Sequence[str]], width: int) -> int:
    """Returns the number of lines above the header: titles, which have fewer cells than the rows.

    The header is the first line with as many cells as the rows, or, if that is a row, the line before it with one fewer.
    """
    filled = [len(_filled(row)) for row in cells[: MOST_ABOVE + 1]]
    first = next((i for i, count in enumerate(filled) if count >= width), 0)
    is_row = any(NUMBER.fullmatch(cell) for cell in cells[first])
    return first - 1 if first and is_row and filled[first - 1] == width - 1 else first if first < len(cells) - 1 else 0


def is_of_units(rows: Sequence[Sequence[str]], is_number: Callable[[str], bool]) -> bool:
    """Tells whether the first of rows has the units of the columns: no number in any column in which the others have nothing
    else, and nothing that stands below it, nor a date.
    """
    first, *others = rows or [()]
    said = 0
    for place, unit in enumerate(first if len(others) >= FEWEST else ()):
        below = [row[place] for row in others if place < len(row) and not is_missing(row[place])]
        if below and all(map(is_number, below)):
            if is_number(unit):
                return False
            said += not is_missing(unit)
        elif not is_missing(unit) and (unit in below or are_moments([unit])):
            return False
    return said > 0


def told_of_units(cells: Sequence[str]) -> str:
    """Returns the note on a row of units."""
    return f"the row below the header is taken as units and skipped: {shortened([cell for cell in cells if cell])}"


def _named_by(comments: Sequence[str], first: Sequence[str], form: Form) -> tuple[str, ...]:
    """Returns the header that is a comment above rows without one: as many names as the first row has cells."""
    if is_data(first, form):
        for comment in reversed(comments):
            names = _filled(parted(comment, form.delimiter))
            if len(names) == len(_filled(first)) and not any(numeric(name, form) for name in names):
                return tuple(names)
    return ()


def _delimiter(lines: Sequence[str]) -> tuple[str, int]:
    """Returns the delimiter that gives most lines one and the same number of cells above 1, and that number; if there is
    none, any mark in the first line that gives all lines the same number.
    """
    best: tuple[tuple[float, int], str, int] = ((0.0, 0), ",", 1)
    for place, delimiter in enumerate(DELIMITERS):
        widths = Counter(width_of(line, delimiter) for line in lines)
        width, count = max(((w, c) for w, c in widths.items() if w > 1), key=lambda pair: pair[1], default=(1, 0))
        share = count / len(lines)
        if delimiter == "," and _are_decimals(lines):
            share = 0.0
        if share > 0.5 and (share, -place) > best[0]:
            best = (share, -place), delimiter, width
    if best[2] == 1 and len(lines) > 1:
        for mark in dict.fromkeys(lines[0]):
            if not (mark.isalnum() or mark.isspace() or mark in PUNCTUATION):
                found = [width_of(line, mark) for line in lines]
                if min(found) == max(found) > 1:
                    return mark, found[0]
    return best[1], best[2]


def _are_decimals(lines: Sequence[str]) -> bool:
    """Tells whether the commas of lines that have another delimiter, too, stand within numbers."""
    others = [d for d in (";", "\t", "|") if all(d in line for line in lines)]
    return bool(others)


def _marks(rows: Sequence[Sequence[str]], delimiter: str, path: Path, notes: list[str]) -> tuple[bool, str]:
    """Returns whether numbers have decimal commas, and what separates their thousands; raises JaxlvError if that is
    unclear.
    """
    cells = [plain(cell) for row in rows for cell in row]
    commas = [cell for cell in cells if "," in cell and re.fullmatch(r"[+-]?[\d.,]+([eE][+-]?\d+)?", cell)]
    points = [
        cell for cell in cells if "." in cell and "," not in cell and re.fullmatch(r"[+-]?[\d.]+([eE][+-]?\d+)?", cell)
    ]
    for mark, comma in ((",", False), (".", True)):
        if any(SURELY[mark].fullmatch(cell) for cell in (*commas, *points)):
            return comma, _told_of(mark, notes)
    grouped = {
        mark: [c for c in held if THOUSANDS[mark].fullmatch(c) and c.lstrip("+-")[0] != "0"]
        for mark, held in ((",", commas), (".", points))
    }
    if not commas:
        if delimiter == ";" and points and grouped["."] == points:
            notes.append(f"numbers such as {points[0]} are read with a decimal point")
        return False, ""
    if grouped[","] == commas:
        if points:
            return False, _told_of(",", notes)
        whole = [cell for cell in cells if re.fullmatch(r"\d+", cell)]
        if whole or len(grouped[","]) == len([cell for cell in cells if "," in cell]):
            found = f"{commas[0]} may be {commas[0].replace(',', '')} or {commas[0].replace(',', '.')}"
            raise JaxlvError("commas in numbers are unclear", where=path, found=found, hint=UNCLEAR)
    if points and grouped["."] == points:
        return True, _told_of(".", notes)
    if [cell for cell in points if NUMBER.fullmatch(cell)]:
        raise JaxlvError(
            "numbers have commas and points", where=path, found=commas[0], hint="write all numbers with a point"
        )
    return True, ""


def _told_of(mark: str, notes: list[str]) -> str:
    notes.append(f"{'commas' if mark == ',' else 'points'} in numbers separate thousands")
    return mark


def numeric(cell: str, form: Form) -> str | None:
    """Returns a cell as Python reads it if it is a number, else None."""
    if NUMBER.fullmatch(cell) and not form.thousands:
        return cell
    if cell[:1].isalpha():
        return cell if INFINITE.fullmatch(cell) else None
    cell = plain(cell)
    if form.thousands and (THOUSANDS[form.thousands].fullmatch(cell) or SURELY[form.thousands].fullmatch(cell)):
        cell = cell.replace(form.thousands, "")
    if form.comma and COMMA_NUMBER.fullmatch(cell):
        cell = cell.replace(",", ".")
    return cell if NUMBER.fullmatch(cell) or INFINITE.fullmatch(cell) else None


def is_data(header: Sequence[str], form: Form) -> bool:
    """Tells whether the first line is a row: only numbers and dates, or numbers among others that do not count on as years
    do.
    """
    known = [cell for cell in header if cell]
    numbers = [float(text) for cell in known if (text := numeric(cell, form)) is not None]
    if not numbers:
        return False
    others = [cell for cell in known if numeric(cell, form) is None]
    steps = np.diff(numbers)
    counts = len(numbers) > 1 and bool((steps == steps[0]).all() and steps[0] > 0 and numbers[0] == int(numbers[0]))
    return all(is_time([cell], np.zeros(1, int)) for cell in others) or not counts
