"""The shape of JSON that a program of ours wrote and somebody may have changed: which keys it has, and of which types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlv.errors import JaxlvError, printable

Shape = Any
"""A type; a tuple of types, among which None stands for null; or {key: shape}. A key with "?" at its end may be missing,
and the key `str` stands for all that are not named. float takes whole numbers too, bool is no number, and numbers are
at most MOST in size.
"""
MOST = 2**63 - 1  # of whole numbers: more could not become a float, nor be printed
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", dict: "an object", list: "a list"}


def check(tree: Any, shape: Shape, where: Any) -> Any:
    """Returns a JSON value that has a shape; raises JaxlvError, which says what is not as it should be, if it has not."""
    for name, expected, found in _wrong(tree, shape, ""):
        raise JaxlvError(f"{name or 'its content'} is not what was written", where=where, expected=expected, found=found)
    return tree


def _wrong(value: Any, shape: Shape, name: str) -> Any:
    """Yields (name, what is expected, what is there) of what has not its shape."""
    if isinstance(shape, Mapping):
        if not isinstance(value, dict):
            yield name, WORDS[dict], _shown(value)
            return
        named = {key.removesuffix("?"): key for key in shape if key is not str}
        for key, full in named.items():
            if key in value:
                yield from _wrong(value[key], shape[full], f"{name}.{key}".lstrip("."))
            elif full == key:
                yield f"{name}.{key}".lstrip("."), "a value", "nothing"
        if str in shape:
            for key in value.keys() - named.keys():
                yield from _wrong(value[key], shape[str], f"{name}.{key}".lstrip("."))
        return
    kinds = shape if isinstance(shape, tuple) else (shape,)
    if not any(_is(value, kind) for kind in kinds):
        yield name, " or ".join("null" if kind is None else WORDS[kind] for kind in kinds), _shown(value)


def _is(value: Any, kind: Any) -> bool:
    if kind is None or value is None:
        return value is kind
    if kind is float and type(value) is int:
        return abs(value) <= MOST
    return type(value) is kind and (kind is not int or abs(value) <= MOST)


def _shown(value: Any) -> str:
    try:
        return printable(repr(value), 80)
    except ValueError:  # a number of too many digits
        return type(value).__name__
