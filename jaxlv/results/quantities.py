"""What a number is: its name, unit and meaning, which value of it is better, and how it is written.

Everything that shows a number takes these from here: columns, captions, axes, terminals, CSV and the units in result files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

RAW = "raw units"
Written = Literal["number", "of one", "share", "count", "whole", "change", "signed", "fine", "precise"]
"""How a number is written: with three digits; the same, never rounded up to 1; in percent; as a whole number; with all
digits; the same with its sign; with three digits and its sign; with six decimals; with six digits.
"""
Form = Written | Literal["interval", "words", "literal"]
"""How a value is written: as a number; as two ends; as prose; as a name or setting among numbers."""


@dataclass(frozen=True)
class Quantity:
    """A number or text of a result: one definition for every place that shows it.

    A table has `words` in a terminal, and on a page `head` under `group`. `better` is what a column marks as its best:
    "less", "more", the value to come nearest to, "level" (of an object by levels in percent: the level itself), or "" if
    no value is better. `path` leads to the value in a row, through fields and keys; by itself it is `key`. `base` is the key
    of the quantity whose unit this one has: of an interval that of its mean.
    """

    key: str
    words: str = ""
    unit: str = ""
    meaning: str = ""
    better: Literal["less", "more", "level", ""] | float = ""
    form: Form = "number"
    group: str = ""
    head: str = ""
    base: str = ""
    path: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Fills in what follows from the rest."""
        rest = {"path": (self.key,), "words": self.key, "head": self.words or self.key, "base": self.key}
        for name, value in rest.items():
            object.__setattr__(self, name, getattr(self, name) or value)

    @property
    def shown_unit(self) -> str:
        """The unit as a heading has it: shares are written in percent, and 1 is not told."""
        return self.unit if self.unit.startswith("%") else "%" if self.form == "share" else self.unit.removeprefix("1")

    def of(self, row: Any) -> Any:
        """Returns its value in a row (a record or an object of JSON); None if there is none, or it is not finite."""
        for name in self.path:
            row = row.get(name) if isinstance(row, Mapping) else getattr(row, name, None)
        return None if row != row or (self.form == "interval" and row is not None and None in row) else row

    def at(self, level: str) -> Quantity:
        """Returns the quantity at a key of an object by levels in percent."""
        better = float(level) / 100 if self.better == "level" else self.better
        return replace(self, words=f"{level} %", head=f"{level} %", better=better, path=(*self.path, level))

    def named(self, name: str) -> Quantity:
        """Returns the quantity at a key of an object by names."""
        return replace(self, words=name, head=name, path=(*self.path, name))

    def within(self, *outer: str, **other: Any) -> Quantity:
        """Returns the quantity of what stands at a path of a row, with other words if some are given."""
        return replace(self, path=(*outer, *self.path), **other)


def quantity(words: str = "", unit: str = "", meaning: str = "", *, key: str = "", **more: Any) -> Any:
    """Declares a field of a record with its `Quantity`; None unless it is given.

    `of` names a field before it whose unit, group and form it has: quantity("median", of="mae"). `key` is its key in JSON if
    that is no name in Python.
    """
    told = {name: value for name, value in {"words": words, "unit": unit, "meaning": meaning, **more}.items() if value}
    return dataclasses.field(default=None, metadata={"quantity": told, "key": key})


def interval(of: str) -> Any:
    """Declares the field of a 95 % interval."""
    return quantity("95 % interval", of=of, form="interval", better="")


def quantities_of(record: type) -> dict[str, Quantity]:
    """Returns {key: quantity} of a record's fields."""
    found: dict[str, Quantity] = {}
    for field in dataclasses.fields(record):
        if "quantity" in field.metadata:
            told = dict(field.metadata["quantity"])
            base = found.get(told.pop("of", ""))
            if base is None:
                found[field.name] = Quantity(field.name, **told)
            else:
                better = "" if told.get("form") == "interval" else base.better
                shared = {"unit": base.unit, "group": base.group, "form": base.form, "better": better, "base": base.base}
                found[field.name] = Quantity(field.name, **{**shared, **told})
    return found
