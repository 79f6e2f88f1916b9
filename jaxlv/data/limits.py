"""How much memory a file may fill, and which names it may contain: every reader checks this before it builds anything."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence, Sized
from typing import Any

import numpy as np

from jaxlv.errors import JaxlvError

MEMORY_CAP = 2**30  # bytes that the arrays of a file may take together
PER_SERIES = 512  # bytes that a series takes in addition to its values: its id in dicts, the hash of its values
LONGEST_NAME = 80  # characters
MOST_VARIABLES = 100  # figures have a panel for each
MOST_SEPARATE = 2000  # variables that become series of their own


class Room:
    """The memory that the content of one file may take; everything is counted here before it is built.

    most: bytes; where: the file, for errors.
    """

    def __init__(self, most: int, where: Any):
        self.most, self.where, self.taken = most, where, 0

    def take(self, size: int) -> None:
        """Counts `size` bytes more. Raises JaxlvError if the total exceeds the limit."""
        self.taken += size
        if self.taken > self.most:
            expected = f"at most {self.most} bytes in memory"
            raise JaxlvError("declares too much data", where=self.where, expected=expected, found=self.taken)

    def array(self, shape: Sequence[int], itemsize: int = 8) -> None:
        """Counts an array of this shape. Numbers will be float64, so an element takes at least 8 bytes."""
        if any(size < 0 for size in shape):
            raise JaxlvError("declares a shape below zero", where=self.where, found=tuple(shape))
        self.take(math.prod(shape) * max(itemsize, 8))

    def passing(self, size: int) -> None:
        """Raises JaxlvError if `size` bytes do not fit; they are not counted, as they are freed before more is built."""
        self.take(size)
        self.taken -= size

    def trajectories(self, shape: Sequence[int], itemsize: int = 8) -> None:
        """Counts an array whose first axis is series, and what each series takes in addition to its values."""
        self.array(shape, itemsize)
        self.take(PER_SERIES * (shape[0] if shape else 0))


# ------------------------------------------------------------------------------------------------------ names


def clean_name(name: Any, where: Any, what: str = "name") -> str:
    """Returns a name from a file or a caller as text, without spaces around it; bytes are read as UTF-8.

    Raises JaxlvError if it is empty, longer than LONGEST_NAME, or holds a character that does not print (control characters,
    changes of direction, broken UTF-8): such a name could rewrite a terminal, and is not valid XML in a figure.
    """
    if isinstance(name, bytes):
        name = name.decode("utf-8", "surrogateescape")  # invalid UTF-8 becomes surrogates, which do not print
    name = str(name)
    if len(name) > LONGEST_NAME:
        expected = f"at most {LONGEST_NAME} characters"
        raise JaxlvError(f"the {what} is too long", where=where, expected=expected, found=f"{len(name)}: {name[:200]}")
    if not name.isprintable():
        raise JaxlvError(f"the {what} has characters that do not print", where=where, found=ascii(name), hint="rename it")
    if not name.strip():
        raise JaxlvError(f"the {what} is empty", where=where)
    return name.strip()


def clean_names(names: Any, where: Any, what: str = "variable", most: int = MOST_VARIABLES) -> tuple[str, ...]:
    """Returns names of variables, each cleaned by `clean_name`; a single name gives a tuple of one.

    Raises JaxlvError as `clean_name` does, and if two are equal or there are more than `most`.
    """
    if isinstance(names, np.ndarray) and names.ndim > 1:
        raise JaxlvError(f"names of {what}s must be a list", where=where, found=f"shape {names.shape}")
    given: Iterable[Any] = np.atleast_1d(names) if isinstance(names, (str, bytes, np.ndarray)) else names
    if isinstance(given, Sized):
        check_count(len(given), where, what, most)
    cleaned: dict[str, int] = {}
    for place, name in enumerate(given):
        cleaned_name = clean_name(name, where, f"name of {what} {place}")
        if cleaned_name in cleaned:
            places = f"{what}s {cleaned[cleaned_name]} and {place}"
            raise JaxlvError(f"two {what}s have one name", where=where, found=f"{cleaned_name}, {places}")
        cleaned[cleaned_name] = place
        check_count(len(cleaned), where, what, most)
    return tuple(cleaned)


def check_count(count: int, where: Any, what: str = "variable", most: int = MOST_VARIABLES) -> None:
    """Raises JaxlvError if there are more than `most`."""
    if count > most:
        apart = "--separate (separate=) makes each a series of its own; --columns (columns=) chooses some"
        hint = apart if what == "variable" and most < MOST_SEPARATE else None
        raise JaxlvError(f"too many {what}s", where=where, expected=f"at most {most}", found=count, hint=hint)
