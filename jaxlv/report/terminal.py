"""Tables as plain ASCII for a terminal."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import replace

from jaxlv.report import format
from jaxlv.report.table import Table
from jaxlv.results.quantities import Quantity

WIDTH = 110
NAME = 28  # characters of a row's name
_ASCII = str.maketrans({"–": "-", "−": "-", "∞": "inf", "…": ".", "²": "^2", "“": '"', "”": '"', "×": "x"})


def ascii(text: str) -> str:
    """Returns `text` with what a terminal may lack written otherwise."""
    return text.translate(_ASCII)


def columns(rows: Sequence[Sequence[str]], left: Collection[int] = (0,), gap: int = 2) -> str:
    """Aligns rows of texts as columns, with a rule below the first row; the columns `left` begin at their left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        (" " * gap).join(t.ljust(w) if i in left else t.rjust(w) for i, (t, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    lines = [line.rstrip() for line in lines]
    return "\n".join([lines[0], "-" * min(WIDTH, max(map(len, lines))), *lines[1:]])


def table(
    table: Table,
    width: int = WIDTH,
    give_up: Sequence[str] = (),
    *,
    units: bool = True,
    longest: int = NAME,
    grouped: bool = False,
) -> str:
    """Writes a table of at most `width` columns, with its groups above if `grouped`, or if headings would be the same.

    Names of rows are cut to the `longest`. `units` stand below. While the table is too wide, the columns of `give_up` are
    left out, the first one first, and named below.
    """
    shown, left_out = list(table.columns), list[Quantity]()
    waiting = [column for path in give_up for column in shown if "/".join(column.path) == path]
    while True:
        text = _drawn(table, shown, 2, longest, grouped)
        if _width(text) > width:
            text = _drawn(table, shown, 1, longest, grouped)
        if _width(text) <= width or not waiting:
            break
        left_out.append(waiting.pop(0))
        shown.remove(left_out[-1])
    if grouped:
        shown, left_out = (
            [replace(one, words=f"{one.group} {one.words}".strip()) for one in own] for own in (shown, left_out)
        )
    lacking = f"Left out for width: {', '.join(one.words for one in left_out)}." if left_out else ""
    notes = [_units(shown) if units else "", lacking]
    return "\n".join([text, *textwrap.wrap(ascii(" ".join(filter(None, notes))), width)])


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))


def _drawn(table: Table, shown: Sequence[Quantity], gap: int, longest: int, grouped: bool) -> str:
    """Returns the columns with their headings and a rule."""
    texts = []
    for place, column in enumerate(shown):
        cells = format.column(column, [column.of(row) for row in table.rows])
        cells = [cell if place or len(cell) <= longest else f"{cell[: longest - 1]}…" for cell in cells]
        texts.append([ascii(cell.replace(" – ", "–")) for cell in (column.words.strip(), *cells)])
    heads, left = [text[0] for text in texts[1:]], [i for i, one in enumerate(shown) if not i or one.form == "words"]
    if len(set(heads)) == len(heads) and not grouped:
        return columns(list(zip(*texts, strict=True)), left, gap)
    line, place = " " * max(map(len, texts[0])), 1
    for name, own in itertools.groupby(shown[1:], key=lambda column: ascii(column.group)):
        span = texts[place : place + len(list(own))]
        width = sum(max(map(len, text)) for text in span) + gap * (len(span) - 1)
        if len(name) > width:  # the first of its columns is as much wider
            span[0][0] = span[0][0].rjust(max(map(len, span[0])) + len(name) - width)
        line += " " * gap + (f" {name} ".center(width, "-") if name and grouped else name.rjust(width))
        place += len(span)
    return f"{line.rstrip()}\n{columns(list(zip(*texts, strict=True)), left, gap)}"


def _units(shown: Sequence[Quantity]) -> str:
    """Returns the units of the columns, each with what is in it."""
    units: dict[str, dict[str, None]] = {}
    for column in shown[1:]:
        if column.shown_unit:
            units.setdefault(column.shown_unit, {})[column.words] = None
    if len(units) == 1 and len(shown) > 2 and all(column.shown_unit for column in shown[1:]):
        return f"All in {next(iter(units))}."
    told = [f"{', '.join(words)} in {unit}" for unit, words in units.items()]
    return f"{'; '.join(told)}." if told else ""


def listed(table: Table) -> str:
    """Writes a table turned: a column for each row, a line for each quantity; levels share a line, ends that of a mean."""
    lines = [["", *(ascii(str(table.columns[0].of(row))) for row in table.rows)]]
    for _, group in itertools.groupby(table.columns[1:], key=lambda column: f"{column.base}/{column.group}"):
        own = list(group)
        ends = [column for column in own if column.form == "interval"]
        own = [column for column in own if column not in ends]
        heads = " / ".join(column.words.removesuffix(" %") for column in own) + " %" * own[0].words.endswith("%")
        name = f"{own[0].group}, {heads}" if own[0].group and len(own[0].path) > 1 else heads
        cells = []
        for row in table.rows:
            text = " / ".join(format.text(column.of(row), column.form) for column in own)
            span = next((found for column in ends if (found := column.of(row))), None)
            cells.append(f"{text} ({format.number(span[0])} to {format.number(span[1])})" if span else text)
        lines.append([ascii(text) for text in (f"{name}{_in(own[0])}", *cells)])
    return columns(lines, range(len(lines[0])))


def _in(column: Quantity) -> str:
    return f" ({column.shown_unit})" if column.shown_unit else ""
