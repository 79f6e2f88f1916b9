"""A table: rows, and the quantities that its columns show. Pages, terminals and CSV files are written from the same one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from jaxlv.report import format
from jaxlv.results.quantities import Form, Quantity

Rows = Sequence[Any] | Mapping[str, Any]
"""What a table has its rows from: records, or objects of JSON; or some by what the rows are called."""


@dataclass(frozen=True)
class Cell:
    """One entry of a table: what is shown, what it sorts by, whether it is the best of its column, whether it is prose."""

    text: str
    value: float | None = None
    best: bool = False
    words: bool = False


@dataclass(frozen=True)
class Group:
    """A heading over `span` neighbouring columns."""

    name: str
    unit: str
    span: int


ACROSS, SHEET = 108, 30  # characters and rows that a sheet of paper holds
WORDS, GAP = 20, 2  # characters of a column of prose, which wraps, and between columns


@dataclass(frozen=True)
class Table:
    """Rows and quantities, the first of which names a row. A mapping's rows are named by its keys.

    The best value of each column is marked, as its quantity says which is better, or what `best(row, quantity)` says.
    """

    label: str
    caption: str
    given: Rows
    shown: Sequence[Quantity]
    best: Callable[[Any, Quantity], bool] | None = None
    kind: ClassVar[str] = "table"

    @cached_property
    def rows(self) -> Sequence[Any]:
        """The rows: a `Row` for each item of a mapping."""
        return [Row(*item) for item in self.given.items()] if isinstance(self.given, Mapping) else self.given

    @cached_property
    def columns(self) -> Sequence[Quantity]:
        """The quantities in a row."""
        first, *others = self.shown
        return [first, *(one.within("of") for one in others)] if isinstance(self.given, Mapping) else self.shown

    @property
    def heads(self) -> list[str]:
        """The headings of the columns."""
        return [column.head for column in self.columns]

    @cached_property
    def groups(self) -> list[Group]:
        """The headings over columns: neighbours of one group and unit share theirs."""
        found = [Group("", "", 1)]
        for column in self.columns[1:]:
            name, unit = column.group, column.shown_unit
            if len(found) > 1 and (found[-1].name, found[-1].unit) == (name, unit):
                found[-1] = replace(found[-1], span=found[-1].span + 1)
            else:
                found.append(Group(name, unit, 1))
        return found

    @cached_property
    def cells(self) -> list[list[Cell]]:
        """What stands in each row, decimal points aligned."""
        return [list(line) for line in zip(*map(self._column, self.columns), strict=True)]

    def _column(self, column: Quantity) -> list[Cell]:
        values = [column.of(row) for row in self.rows]
        if column is self.columns[0]:
            return [Cell(format.text(value, column.form)) for value in values]
        texts = format.column(column, values, digit="\N{FIGURE SPACE}", point="\N{PUNCTUATION SPACE}")
        marked = best_of(column, values) if self.best is None else [self.best(row, column) for row in self.rows]
        keys = [value[0] if column.form == "interval" and value else value for value in values]
        return [
            Cell(text, key if format.is_number(key) else None, best, column.form == "words")
            for text, key, best in zip(texts, keys, marked, strict=True)
        ]

    @property
    def marks(self) -> str:
        """Classes of the table: long names in its first column, small print on paper, several sheets."""
        long = any(len(row[0].text) > 24 for row in self.cells)
        widths = [[min(len(one.text), WORDS if one.words else ACROSS) + GAP for one in row] for row in self.cells]
        small, tall = sum(map(max, zip(*widths, strict=True))) > ACROSS, len(self.rows) > SHEET
        return f"{' long' * long}{' small' * small}{' tall' * tall}"


def best_of(quantity: Quantity, values: Sequence[Any]) -> list[bool]:
    """Says which values are a column's best: none if fewer than two rows have one, or all are equal."""
    better, held = quantity.better, [value for value in values if value is not None]
    if len(held) < 2 or better == "" or quantity.form == "interval":
        return [False] * len(values)

    def distance(value: float) -> float:
        return abs(value - better) if isinstance(better, float) else -value if better == "more" else value

    distances = [distance(value) for value in held]
    return [v is not None and min(distances) < max(distances) and distance(v) == min(distances) for v in values]


# ------------------------------------------------------------------------------------------ rows and columns of a page's own


class Row(NamedTuple):
    """An item of a mapping as a row: a record, or what else has values, under the name that the table gives it."""

    name: str
    of: Any


def column(key: str, head: str = "", group: str = "", unit: str = "", form: Form = "number") -> Quantity:
    """Returns a column by the key of its values, headed by that or by other words."""
    return Quantity(key, head, unit, form=form, group=group)


def words(key: str, head: str = "") -> Quantity:
    """Returns a column of prose."""
    return column(key, head, form="words")


NAME = words("name", " ")


def count(key: str, head: str = "", group: str = "", unit: str = "") -> Quantity:
    """Returns a column of whole numbers."""
    return column(key, head, group, unit, "count")


def of(columns: Sequence[tuple[str, str]], group: str, unit: str = "", form: Form = "number") -> list[Quantity]:
    """Returns neighbouring columns (key, heading) under one heading."""
    return [column(key, head, group, unit, form) for key, head in columns]


def marked(key: str) -> Callable[[Any, Quantity], bool]:
    """Returns what marks whole rows: those in which a key holds."""
    return lambda row, _: bool(Quantity(key).of(row))


def held(columns: Sequence[Quantity], rows: Sequence[Any]) -> list[Quantity]:
    """Returns the columns that some row has a value of."""
    return [column for column in columns if any(column.of(row) is not None for row in rows)]
