"""The shape of JSON that our programs wrote and somebody may have changed: its keys and their types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jaxlv.errors import JaxlvError, printable, represented

Shape = Any
"""A type; `object`, which is anything; None, which means null; {key: shape}; [shape], a list of any length; or a tuple of
alternatives. A key that ends in "?" may be missing, and the key `str` stands for all keys not named. float accepts whole
numbers too; bool is not a number.
"""
MOST = {int: 2**63 - 1, float: 10**300}  # the largest numbers: what arrays hold, and what converts to float
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", dict: "an object", list: "a list"}


def check(tree: Any, shape: Shape, where: Any) -> Any:
    """Returns a JSON value if it has the shape; otherwise raises JaxlvError, which says what differs."""
    for name, expected, found in wrong(tree, shape):
        raise JaxlvError(f"{name or 'its content'} is not what was written", where=where, expected=expected, found=found)
    return tree


class _Fault(NamedTuple):
    """A value that lacks its shape: its name, what is expected, and what is there."""

    name: str
    expected: str
    found: str


def wrong(value: Any, shape: Shape, name: str = "") -> Iterator[_Fault]:
    """Yields each part that lacks its shape."""
    if isinstance(shape, Mapping):
        if not isinstance(value, dict):
            yield _Fault(name, WORDS[dict], printable(represented(value), 80))
            return
        named = {key.removesuffix("?"): key for key in shape if key is not str}
        for key, full in named.items():
            if key in value:
                yield from wrong(value[key], shape[full], f"{name}.{key}".lstrip("."))
            elif full == key:
                yield _Fault(f"{name}.{key}".lstrip("."), "a value", "nothing")
        if str in shape:
            for key in value.keys() - named.keys():
                yield from wrong(value[key], shape[str], f"{name}.{key}".lstrip("."))
        return
    if isinstance(shape, list):
        if not isinstance(value, list):
            yield _Fault(name, WORDS[list], printable(represented(value), 80))
            return
        for place, one in enumerate(value):
            yield from wrong(one, shape[0], f"{name}.{place}".lstrip("."))
        return
    shapes = shape if isinstance(shape, tuple) else (shape,)
    inner = [one for one in shapes if isinstance(one, (Mapping, list)) and type(value) is _kind(one)]
    if len(inner) == 1:
        yield from wrong(value, inner[0], name)
        return
    if not any(_is(value, one) for one in shapes):
        words = ("null" if one is None else WORDS[_kind(one)] for one in shapes)
        yield _Fault(name, " or ".join(words), printable(represented(value), 80))


def _kind(shape: Shape) -> type:
    return dict if isinstance(shape, Mapping) else list if isinstance(shape, list) else shape


def _is(value: Any, shape: Shape) -> bool:
    if isinstance(shape, (Mapping, list)):
        return not any(wrong(value, shape, ""))
    if shape is object:
        return True
    if shape is None or value is None:
        return value is shape
    if type(value) is int and shape in MOST:
        return abs(value) <= MOST[shape]
    return type(value) is shape
