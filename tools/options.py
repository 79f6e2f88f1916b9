"""Types of options that verbs share: numbers within bounds, ids of series, configs, settings; and how their text is read."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token

from jaxlv.config import find_config
from jaxlv.errors import printable
from jaxlv.settings import AXIS, Between, statements

MOST_IDS = 1_000_000  # that an option may name


def parse_ids(text: str) -> list[int]:
    """Returns series ids from "3,7" or "990-999" or both. Raises ValueError if it is no such list or names too many."""
    ids: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not re.fullmatch("[0-9]{1,18}", first) or (dash and not re.fullmatch("[0-9]{1,18}", last)):
            raise ValueError(f"{printable(text, 60)!r} is not a list of ids such as 3,7 or 990-999")
        named = range(int(first), int(last or first) + 1)
        if not named:
            raise ValueError(f"{part!r} names no id; expected the lower one first")
        if len(ids) + len(named) > MOST_IDS:
            raise ValueError(f"{printable(text, 60)!r} names more than {MOST_IDS} ids")
        ids += named
    return ids


@dataclass(frozen=True)
class NumberType:
    """Reads a number within bounds, or if `several` a tuple of them separated by commas. Raises ValueError otherwise."""

    kind: type
    allowed: Between
    several: bool = False

    def __call__(self, text: str) -> Any:
        """Returns the number or the tuple."""
        return tuple(map(self.one, text.split(","))) if self.several else self.one(text)

    def one(self, text: str) -> Any:
        """Returns one number."""
        try:
            value = self.kind(text)
        except ValueError:
            value = None
        if value is None or not self.allowed.holds(value):
            raise ValueError(f"{printable(repr(text), 80)} is not {self.allowed.words(self.kind)}")
        return value


def given(options: Any = None, **settings: Any) -> dict[str, Any]:
    """Returns the settings that were given, in a dataclass of options or by name: those that are not None."""
    found = {**(vars(options) if options else {}), **settings}
    return {name: value for name, value in found.items() if value is not None}


def read_by(read: Callable[[str], Any], help: str | None = None, metavar: str | None = None) -> Parameter:
    """Returns the annotation of an option whose text `read` turns into its value; `read` raises ValueError."""
    convert = functools.partial(_converted, read)
    return Parameter(
        converter=convert, n_tokens=1, **given(help=help, metavar=metavar)
    )  # without help, the docstring says it


def _converted(read: Callable[[str], Any], _: Any, tokens: Sequence[Token]) -> Any:
    return read(tokens[-1].value)


def whole(least: int = 1, most: int = AXIS) -> Parameter:
    """Returns the annotation of an option that is a whole number."""
    return read_by(NumberType(int, Between(least, most)))


def number(kind: type, allowed: Between) -> Parameter:
    """Returns the annotation of an option that is a number."""
    return read_by(NumberType(kind, allowed))


def numbers(kind: type, low: float, high: float) -> Parameter:
    """Returns the annotation of an option that is a list of numbers separated by commas."""
    return read_by(NumberType(kind, Between(low, high), several=True))


def setting(cls: type, name: str, help: bool = False, several: bool = False) -> Parameter:
    """Returns the annotation of an option that is a number of a config, or `several` separated by commas, with its bounds
    and, if `help`, its words; without, the docstring of the verb says what it is.
    """
    statement = statements(cls)[name]
    assert isinstance(statement.allowed, Between)
    return read_by(NumberType(statement.kind, statement.allowed, several), statement.words if help else None)


Ids = Annotated[list[int] | None, read_by(parse_ids, metavar="IDS")]
Config = Annotated[Path, read_by(find_config)]
ConfigOrNone = Annotated[Path | None, read_by(find_config)]
Settings = Annotated[
    tuple[str, ...], Parameter(name="--set", metavar="A.B=C", help="override one setting, A.B=C; may be repeated")
]
Backend = Literal["cpu", "cuda"]
