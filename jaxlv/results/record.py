"""Frozen records that are JSON: what a program measured, as it stands in memory and in a file.

A record's fields say what its JSON holds. Numbers of numpy become Python's, lists become tuples, and a number that is not
finite becomes None, however a record is made. A file may lack fields that have a default, as older versions wrote none.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any, NamedTuple, Self, Union

import numpy as np

from jaxlv.results.quantities import Quantity, quantities_of
from jaxlv.storage import shape

Interval = tuple[float, float]
"""The two ends of an interval; a record has None in its place if one of them is not finite."""
Id = int | str
"""The id of a series: a whole number or a text."""
Number = int | float
"""A number that stays whole if it is, however large: FLOPs, which are counted."""


@dataclass(frozen=True)
class Record:
    """The base of all results: plain values in, JSON out and in."""

    def __post_init__(self) -> None:
        """Makes every value plain."""
        for name, hint in _hints(type(self)).items():
            object.__setattr__(self, name, _made(getattr(self, name), hint))

    @classmethod
    def read(cls, tree: Any, where: Any) -> Self:
        """Returns the record that JSON holds; raises JaxlvError, which names the place, if it is not as it was written."""
        return _made(shape.check(tree, _shape(cls), where), cls)

    def tree(self) -> dict[str, Any]:
        """Returns the record as JSON holds it, what has to be there first."""
        tree: dict[str, Any] = {}
        for field in sorted(dataclasses.fields(self), key=_optional):
            value = getattr(self, field.name)
            if _is_beside(field):
                tree |= {field.metadata["beside"].format(name): _tree(item) for name, item in value.items()}
            elif not ("rare" in field.metadata and value == field.default):
                tree[_key(field)] = _tree(value)
        return tree

    def known(self) -> dict[str, Any]:
        """Returns what JSON holds of it, without what is None: settings that may be shown as names and values."""
        return {key: value for key, value in self.tree().items() if value is not None}

    @classmethod
    def quantities(cls) -> Mapping[str, Quantity]:
        """Returns {key: quantity} of its fields."""
        return _quantities(cls)

    @classmethod
    def columns(cls, *paths: str) -> list[Quantity]:
        """Returns the quantities at "field", or at "field/level" of an object by levels."""
        found = []
        for path in paths:
            key, _, level = path.partition("/")
            found.append(_quantities(cls)[key].at(level) if level else _quantities(cls)[key])
        return found


def id_of(key: str) -> Id:
    """Returns the id of a series that is a key in JSON."""
    return int(key) if re.fullmatch(r"-?(0|[1-9]\d*)", key) else key


def plain(value: Any) -> Any:
    """Returns a value in the types that JSON holds: numpy's converted, NaN and infinity as None; records as they are."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# What a record's fields are, found once for each.
_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)
_quantities: Callable[[Any], dict[str, Quantity]] = functools.cache(quantities_of)


def keyed(key: str) -> Any:
    """Declares a field whose key in JSON is not a name in Python; None unless it is given."""
    return dataclasses.field(default=None, metadata={"key": key})


def rare(key: str = "", default: Any = None) -> Any:
    """Declares a field that JSON has only if it is given, under its name or another key."""
    return dataclasses.field(default=default, metadata={"rare": True, "key": key})


def beside(pattern: str, **told: Any) -> Any:
    """Declares an object whose entries stand beside the other fields in JSON, with keys such as "mae of {}"; `told` is their
    quantity.
    """
    return dataclasses.field(default_factory=dict, metadata={"beside": pattern, "quantity": told})


def _key(field: dataclasses.Field[Any]) -> str:
    return field.metadata.get("key") or field.name


def _is_beside(field: dataclasses.Field[Any]) -> bool:
    return "beside" in field.metadata


def _optional(field: dataclasses.Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


class _Kind(NamedTuple):
    """What a type hint is: Union, tuple, dict, Record or another type; and of what."""

    kind: Any
    of: Sequence[Any] = ()


def _parts(hint: Any) -> _Kind:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return _Kind(Union, typing.get_args(hint))
    if origin is not None:
        return _Kind(tuple if origin is tuple else dict, typing.get_args(hint))
    return _Kind(Record if isinstance(hint, type) and issubclass(hint, Record) else hint)


def _shape(hint: Any) -> shape.Shape:
    """Returns the shape of the JSON of a type."""
    kind, of = _parts(hint)
    if kind is Union:
        return tuple(None if one is types.NoneType else _shape(one) for one in of)
    if kind is tuple:
        return [(float, None) if hint == Interval else _shape(of[0])]
    if kind is dict:
        return {str: _shape(of[1])}
    if kind is Record:
        fields, hints = dataclasses.fields(hint), _hints(hint)
        loose = [one for field in fields if _is_beside(field) for one in _alternatives(_shape(hints[field.name])[str])]
        named = {f"{_key(f)}{'?' * _optional(f)}": _shape(hints[f.name]) for f in fields if not _is_beside(f)}
        return {**named, str: tuple(loose)} if loose else named
    return object if kind is Any else kind


def _made(value: Any, hint: Any) -> Any:
    """Returns a value as a field of that type has it."""
    kind, of = _parts(hint)
    if value is None or kind is Any:
        return plain(value)
    if kind is Union:
        return plain(value) if {int, float} <= set(of) else _made(value, _chosen(value, of))
    if kind is tuple:
        ends = tuple(_made(item, of[0]) for item in value)
        return None if hint == Interval and None in ends else ends
    if kind is dict:
        return {str(key): _made(item, of[1]) for key, item in value.items()}
    if kind is Record:
        if isinstance(value, Record):
            return value
        return hint(**_filled(hint, value))
    value = plain(value)
    return float(value) if hint is float and value is not None else value


def _filled(record: type[Record], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a record's fields in an object of JSON."""
    fields = dataclasses.fields(record)
    key_of = {field.name: _key(field) for field in fields if not _is_beside(field)}
    found = {name: tree[key] for name, key in key_of.items() if key in tree}
    loose = [field for field in fields if _is_beside(field)]
    left = [key for key in tree if key not in key_of.values()] if loose else []
    # The longest pattern first, as "{}" takes what the others leave.
    for field in sorted(loose, key=lambda field: -len(field.metadata["beside"])):
        before, after = field.metadata["beside"].split("{}")
        own = [key for key in left if key.startswith(before) and key.endswith(after)]
        found[field.name] = {key.removeprefix(before).removesuffix(after): tree[key] for key in own}
        left = [key for key in left if key not in own]
    return found


def _alternatives(kind: shape.Shape) -> tuple[shape.Shape, ...]:
    return kind if isinstance(kind, tuple) else (kind,)


def _chosen(value: Any, of: Sequence[Any]) -> Any:
    """Returns the first type of a union that a value has."""
    left = [one for one in of if one is not types.NoneType]
    if len(left) == 1:
        return left[0]
    return next((one for one in left if not any(shape.wrong(plain(value), _shape(one)))), Any)


def _tree(value: Any) -> Any:
    if isinstance(value, Record):
        return value.tree()
    if isinstance(value, Mapping):
        return {key: _tree(item) for key, item in value.items()}
    return [_tree(item) for item in value] if isinstance(value, tuple) else value
