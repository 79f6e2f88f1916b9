"""Settings as data: each says in words what it is and what it may be, and one check applies all these statements.

What is allowed is always a closed statement: `low <= value <= high`, a choice, or a text of bounded length. So NaN, infinity
and values that nobody thought of are refused. Configs, command-line options and arguments of the library use the same check.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import typing
import unicodedata
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from jaxlv.errors import JaxlvError, represented

AXIS = 2**31 - 1  # XLA indexes an axis, and optax counts steps, with signed 32-bit integers
MOST_RUNS = 10_000  # runs of a sweep; each has a folder
SEEDS = 2**32 - 1  # jax.random.key uses 32 bits of a seed, and NumPy's RandomState accepts no more
TINY = float(np.finfo(np.float32).tiny)  # smaller numbers are flushed to 0 on most devices
Number = int | float  # keeps the type it was given; a setting of type float turns a whole number into a float
Name = int | str  # of a series: a number or a text, as it was given

# ------------------------------------------------------------------------------------------- what is allowed


@dataclass(frozen=True)
class Between:
    """A number from `low` to `high`, or one of `also`; `above` excludes `low` itself, `below` excludes `high`."""

    low: float
    high: float
    above: bool = False
    below: bool = False
    also: tuple[float, ...] = ()

    def holds(self, value: Any) -> bool:
        """Tells whether the number is allowed, both as it is and in float32, in which models compute; NaN never is."""
        if not self.holds_exactly(value):
            return False
        if not isinstance(value, float) or value in self.also:
            return True
        return bool(single(value)) == bool(value) and self._holds(single(value), single(self.low), single(self.high))

    def holds_exactly(self, value: Any) -> bool:
        """Tells whether the number is allowed as it is, before it is rounded to float32."""
        return self._holds(value, self.low, self.high)

    def _holds(self, value: Any, low: float, high: float) -> bool:
        over = low < value if self.above else low <= value
        under = value < high if self.below else value <= high
        return bool(over and under) or value in self.also

    def words(self, kind: Any) -> str:
        """Returns a phrase such as "a whole number from 1 to 6"."""
        low, high = f"{self.low:.10g}", f"{self.high:.10g}"
        over = f"above {low}" if self.above else f"of at least {low}"
        under = f"below {high}" if self.below else f"at most {high}"
        range_ = f"{over} and {under}" if self.above or self.below else f"from {low} to {high}"
        also = "".join(f"{value:g} or " for value in self.also)
        return f"{also}a {'whole ' if kind is int else ''}number {range_}"


def single(value: float) -> float:
    """Returns a number rounded to float32. As in XLA, numbers too small for its range become 0; too large ones become
    infinite.
    """
    with np.errstate(over="ignore", under="ignore"):
        found = float(np.float32(_float(value)))
    return found if abs(found) >= TINY else 0.0


@dataclass(frozen=True)
class Text:
    """A text of at most `longest` characters, each of which prints or is a space, so that a terminal can show it."""

    longest: int = 200

    def holds(self, value: str) -> bool:
        """Tells whether the text is allowed."""
        return len(value) <= self.longest and all(one.isprintable() or unicodedata.category(one) == "Zs" for one in value)

    def words(self, kind: Any) -> str:
        """Returns the phrase for errors."""
        return f"a text of at most {self.longest} characters that print"


@dataclass(frozen=True)
class Either:
    """A whole number or a text, each of which its own statement allows."""

    number: Between
    text: Text

    def holds(self, value: Any) -> bool:
        """Tells whether the value is allowed."""
        return self.text.holds(value) if isinstance(value, str) else self.number.holds(value)

    def words(self, kind: Any) -> str:
        """Returns the phrase for errors."""
        return f"{self.number.words(int)}, or {self.text.words(str)}"


PATH = Text(4096)  # the longest path that Linux allows


@dataclass(frozen=True)
class Items:
    """A list of `least` to `most` values; `each` says what each may be (None: its type says everything). A text in `alone`
    stands for the list of it.
    """

    each: Allowed | None = None
    least: int = 0
    most: int = 10**6
    alone: tuple[str, ...] = ()

    def holds(self, value: Any) -> bool:
        """Tells whether the length is allowed."""
        return self.least <= len(value) <= self.most

    def words(self, kind: Any) -> str:
        """Returns the phrase for errors."""
        alone = "".join(f'"{one}" or ' for one in self.alone)
        return f"{alone}a list of {self.least if self.least == self.most else f'{self.least} to {self.most}'} values"


@dataclass(frozen=True)
class Entries:
    """A table of at most `most` values by name; `each` says what each may be."""

    each: Allowed
    most: int = 1000

    def holds(self, value: Any) -> bool:
        """Tells whether the table is small enough and all of its names print."""
        return len(value) <= self.most and all(isinstance(name, str) and Text().holds(name) for name in value)

    def words(self, kind: Any) -> str:
        """Returns the phrase for errors."""
        return f"a table of at most {self.most} values by name"


Allowed = Between | Text | Either | Items | Entries

# ---------------------------------------------------------------------------------------------- the settings


def setting(default: Any, words: str, allowed: Allowed | None = None) -> Any:
    """Returns a field of a `Settings` class: its default (MISSING if it has none), what it is in words, and what it may be.

    `allowed` is not needed if the type says everything: for a bool, a Literal, or another Settings class, which is its own
    default.
    """
    metadata = {"words": words, "allowed": allowed}
    if default is MISSING:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Settings:
    """A section of a config: a frozen dataclass that checks its values and converts them to plain Python types when it is
    made.

    Errors give `section` as its name. `needs` names the one setting that the section requires; if that is None (its
    default), the whole section counts as left out.
    """

    section: ClassVar[str] = ""
    needs: ClassVar[str] = ""

    def __init_subclass__(cls, section: str = "", needs: str = "") -> None:
        cls.section, cls.needs = section, needs

    def __post_init__(self) -> None:
        values = {name: getattr(self, name) for name in statements(type(self))}  # type: ignore[arg-type]
        for name, value in checked(type(self), self.section, **values).items():
            object.__setattr__(self, name, value)
        if self.is_left_out and any(getattr(self, one.name) != _default(one) for one in dataclasses.fields(self)):  # type: ignore[arg-type]
            raise JaxlvError("is missing", where=f"{self.section}.{self.needs}", expected=statements(type(self))[self.needs])  # type: ignore[arg-type]
        self.agree()

    @property
    def is_left_out(self) -> bool:
        """Tells whether the config leaves this section out."""
        return bool(self.needs) and getattr(self, self.needs) is None

    def agree(self) -> None:
        """Raises JaxlvError if values that are allowed one by one contradict each other."""


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


class Statement(NamedTuple):
    """What is known of a setting: its type, what it is in words, and what it may be (also None if `can_lack`)."""

    kind: Any
    words: str = ""
    allowed: Allowed | None = None
    can_lack: bool = False

    def __str__(self) -> str:
        """Returns what it must be, such as "a whole number from 1 to 6 (digits behind the point)"."""
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", dict: "a table"}
        if self.allowed:
            must_be = self.allowed.words(self.kind)
        elif typing.get_origin(self.kind) is Literal:
            must_be = " or ".join(map(repr, typing.get_args(self.kind)))
        else:
            must_be = words.get(typing.get_origin(self.kind) or self.kind, "a list")
        return f"{must_be} ({self.words})" if self.words else must_be


@functools.cache
def statements(cls: type) -> dict[str, Statement]:
    """Returns what each field of a dataclass may be, by name; if it is not a `Settings` class, only the types are known."""
    hints, found = typing.get_type_hints(cls), {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        kind, words, allowed = hints[field.name], field.metadata.get("words", ""), field.metadata.get("allowed")
        if can_lack := type(None) in typing.get_args(kind):
            (kind,) = (one for one in typing.get_args(kind) if one is not type(None))
        says_all = kind is bool or typing.get_origin(kind) is Literal or dataclasses.is_dataclass(kind)
        if issubclass(cls, Settings) and not (words and (allowed or says_all)):
            raise TypeError(f"{cls.__name__}.{field.name}: a setting says its words and what is allowed")
        found[field.name] = Statement(kind, words, allowed, can_lack)
    return found


# ------------------------------------------------------------------------------------------------- the check


def checked(cls: type, section: str = "", /, **values: Any) -> dict[str, Any]:
    """Returns values of fields of `cls`, by name, in plain Python types; raises JaxlvError if one is not allowed.

    `section` comes before the name in an error; arguments of a function have no section.
    """
    known, prefix = statements(cls), f"{section}." if section else ""
    return {name: settled(value, known[name], prefix + name) for name, value in values.items()}


def argument(cls: type, field: str, value: Any, name: str) -> Any:
    """Returns the function argument called `name`, checked as the field `field` of `cls`; raises JaxlvError if it is not
    allowed.
    """
    return settled(value, statements(cls)[field], name)


def settled(value: Any, statement: Statement, name: str, file: Any = None) -> Any:
    """Returns a value in its setting's type; raises JaxlvError, with the setting's name and file, if it is not allowed."""
    kind, allowed = statement.kind, statement.allowed
    if value is None and statement.can_lack:
        return None
    if isinstance(allowed, Items) and isinstance(value, str) and value in allowed.alone:
        value = (value,)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else build_config(kind, value, file or "config", f"{name}.")
    plain, arguments = _plain(value, kind), typing.get_args(kind)
    if plain is None or (allowed and not allowed.holds(plain)):
        where = name if file is None else f"{file}, {name}"
        alone = isinstance(allowed, Between) and type(plain) is float and allowed.holds_exactly(plain)
        in_single = f", which is {single(plain):g} in float32" if alone else ""
        raise JaxlvError(f"must be {statement}", where=where, found=f"{represented(value)}{in_single}")
    each = allowed.each if isinstance(allowed, (Items, Entries)) else None
    if isinstance(plain, tuple):
        one = Statement(arguments[0], statement.words, each)
        return tuple(settled(item, one, f"{name}[{place}]", file) for place, item in enumerate(plain))
    if isinstance(plain, dict) and arguments:
        one = Statement(arguments[1], statement.words, each)
        return {key: settled(item, one, f"{name}.{key}", file) for key, item in plain.items()}
    return plain


def _plain(value: Any, kind: Any) -> Any:
    """Returns the value in the plain Python type; None if it is of another type. A bool is not a number."""
    origin = typing.get_origin(kind) or kind
    if origin is Literal:
        return value if isinstance(value, str) and value in typing.get_args(kind) else None
    if origin is tuple:
        return tuple(value) if isinstance(value, (list, tuple)) else None
    if origin is dict:
        return dict(value) if isinstance(value, Mapping) else None
    if origin is str:
        return os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if kind == Name and isinstance(value, str):
        return str(value)
    if isinstance(value, (bool, np.bool_)):
        return bool(value) if kind is bool else None
    if kind in (int, Number, Name) and isinstance(value, Integral):
        return int(value)
    return _float(value) if kind in (float, Number) and isinstance(value, Real) else None


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return float("inf") if value > 0 else -float("inf")


# ---------------------------------------------------------------------------------------------- from tables


def build_config(cls: type, tree: Mapping[str, Any], where: Any = "config", prefix: str = "") -> Any:
    """Builds a dataclass from nested tables; raises JaxlvError, with `where` and the key, if a key is unknown or missing or
    a value is not allowed.
    """
    if not isinstance(tree, Mapping):
        raise JaxlvError(f"[{prefix.rstrip('.')}] must be a section", where=where, found=represented(tree))
    known = statements(cls)
    for key in tree:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known keys: {', '.join(known)}"
            raise JaxlvError(f"unknown key {prefix}{key}", where=where, hint=hint)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        needed = (field.default is MISSING and field.default_factory is MISSING) or field.name == getattr(cls, "needs", "")
        if needed and field.name not in tree:
            expected = str(known[field.name])
            raise JaxlvError(f"the key {prefix}{field.name} is missing", where=where, expected=expected)
    values = {key: settled(value, known[key], prefix + key, where) for key, value in tree.items()}
    try:
        return cls(**values)
    except JaxlvError as fault:  # allowed one by one, but not together
        place = where if fault.where is None else f"{where}, {fault.where}"
        raise JaxlvError(fault.what, where=place, expected=fault.expected, found=fault.found, hint=fault.hint) from None
