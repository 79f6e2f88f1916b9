"""Plain rows (one dict per line) as a table of a page, by columns that say how a value becomes text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxlv.report.page import MISSING, Cell, Group, Table, align, number, percent

Rows = Sequence[Mapping[str, Any]]
Form = Literal["number", "fine", "signed", "percent", "count", "text", "literal"]


@dataclass(frozen=True)
class Column:
    """A column: the key of its values, its heading, the heading over it with its unit, and how values become text.

    "text" is prose, which stands on the left and wraps; "literal" is text among numbers; "fine" has six decimals.
    """

    key: str
    head: str
    group: str = ""
    unit: str = ""
    form: Form = "number"

    def text(self, value: Any) -> str:
        """A value as text, MISSING where there is none."""
        if value is None or value != value:
            return MISSING
        if self.form in ("text", "literal"):
            return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
        if self.form == "count":
            return f"{value:,.0f}"
        if self.form == "percent":
            return percent(value)
        if self.form == "fine":
            return f"{value:.6f}"
        return ("+" if self.form == "signed" and value > 0 else "") + number(value)


def words(key: str, head: str = "") -> Column:
    """A column of prose, headed by its key."""
    return Column(key, head or key, form="text")


def count(key: str, head: str = "", group: str = "", unit: str = "") -> Column:
    """A column of whole numbers, headed by its key."""
    return Column(key, head or key, group, unit, "count")


def share(key: str, head: str, group: str, unit: str = "%") -> Column:
    """A column of shares in percent."""
    return Column(key, head, group, unit, "percent")


def of(columns: Sequence[tuple[str, str]], group: str, unit: str = "", form: Form = "number") -> list[Column]:
    """Neighbouring columns (key, heading) under one heading."""
    return [Column(key, head, group, unit, form) for key, head in columns]


def table_of(label: str, caption: str, rows: Rows, first: Column, columns: Sequence[Column], bold: str = "") -> Table:
    """Rows as a table, decimal points aligned; `first` names a row, and the rows that hold the key `bold` are bold."""
    lines: list[list[Cell]] = [[Cell(first.text(row[first.key]))] for row in rows]
    groups = [Group("", "", 1)]
    for column in columns:
        values = [row.get(column.key) for row in rows]
        texts = [column.text(value) for value in values]
        prose = column.form == "text"
        if not prose:
            texts = align(texts, "\N{FIGURE SPACE}", "\N{PUNCTUATION SPACE}")
        for line, row, value, text in zip(lines, rows, values, texts, strict=True):
            key = value if isinstance(value, (int, float)) and value == value else None
            line.append(Cell(text, key, bool(bold and row.get(bold)), prose))
        if len(groups) > 1 and (groups[-1].name, groups[-1].unit) == (column.group, column.unit):
            groups[-1] = Group(column.group, column.unit, groups[-1].span + 1)
        else:
            groups.append(Group(column.group, column.unit, 1))
    return Table(label, caption, groups, [first.head, *(column.head for column in columns)], lines)


def find(rows: Rows, **wanted: Any) -> Mapping[str, Any]:
    """The first row with these values; empty where there is none."""
    return next((row for row in rows if all(row.get(key) == value for key, value in wanted.items())), {})
