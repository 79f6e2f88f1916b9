"""Options that are numbers within bounds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from cyclopts import Parameter, Token

from jaxlv.errors import printable
from jaxlv.settings import AXIS, Between


def given(options: Any = None, **settings: Any) -> dict[str, Any]:
    """Returns the settings that were given, in a dataclass of options or by name: those that are not None."""
    found = {**(vars(options) if options else {}), **settings}
    return {name: value for name, value in found.items() if value is not None}


def read_number(kind: type, allowed: Between, text: str) -> Any:
    """Returns a number within bounds. Raises ValueError if the text is not one."""
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not allowed.holds(value):
        raise ValueError(f"{printable(repr(text), 80)} is not {allowed.words(kind)}")
    return value


def read_numbers(kind: type, allowed: Between, text: str) -> tuple[Any, ...]:
    """Returns numbers within bounds that commas separate. Raises ValueError if one of them is not."""
    return tuple(read_number(kind, allowed, one) for one in text.split(","))


def read_by(read: Callable[[str], Any], help: str | None = None, metavar: str | None = None) -> Parameter:
    """Returns the annotation of an option whose text `read` turns into its value; `read` raises ValueError."""
    convert = functools.partial(_converted, read)
    return Parameter(converter=convert, n_tokens=1, **given(help=help, metavar=metavar))  # help=None: the docstring says it


def _converted(read: Callable[[str], Any], _: Any, tokens: Sequence[Token]) -> Any:
    return read(tokens[-1].value)


def whole(least: int = 1, most: int = AXIS, help: str | None = None) -> Parameter:
    """Returns the annotation of an option that is a whole number."""
    return number(int, Between(least, most), help)


def number(kind: type, allowed: Between, help: str | None = None) -> Parameter:
    """Returns the annotation of an option that is a number."""
    return read_by(functools.partial(read_number, kind, allowed), help)
