"""Rows under named columns, as a CSV file has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jaxlv.results.record import Record

Cell = str | float | bool | None
Line = Mapping[str, Cell]


@dataclass(frozen=True)
class Sheet:
    """Rows under named columns; what a row lacks is None."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Sheet:
        """Returns rows, each {column: value}, with their columns in order of appearance."""
        lines = list(lines)
        columns = tuple(dict.fromkeys(name for line in lines for name in line))
        return cls(columns, tuple(tuple(line.get(name) for name in columns) for line in lines))

    @classmethod
    def joined(cls, key: str, parts: Mapping[str, Sheet]) -> Sheet:
        """Returns the rows of several, the first column of which says whose they are."""
        return cls.of({key: name, **line} for name, part in parts.items() for line in part.lines)

    @property
    def lines(self) -> list[Line]:
        """The rows, each {column: value}."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def columns(found: Mapping[str, tuple[Cell, ...]]) -> Sheet:
    """Returns a sheet of columns of one length."""
    return Sheet(tuple(found), tuple(zip(*found.values(), strict=True)))


def records(found: Iterable[Record]) -> Sheet:
    """Returns a row for each record."""
    return Sheet.of(one.tree() for one in found)
