"""The exceptions that reach a user, and the shape of their messages."""

from __future__ import annotations

import sys
import warnings
from typing import Any

LONGEST = 300  # characters of one part of a message
WHOLE = 800  # characters of the whole message


def printable(text: Any, longest: int = LONGEST) -> str:
    r"""Returns `text` as one line that a terminal can show: runs of white space become one space, the middle of a long text
    is cut out, and every character that does not print (control characters, changes of direction, broken UTF-8) is escaped,
    such as \x1b.
    """
    try:
        text = str(text)
    except ValueError:  # Python refuses to write whole numbers of more than 4,300 digits
        text = f"{type(text).__name__} of too many digits to be shown"
    if len(text) > 4 * longest:  # do not process megabytes to show a few hundred characters
        text = f"{text[: 2 * longest]} ... {text[-2 * longest :]}"
    line = escaped(" ".join(text.split()))
    if len(line) <= longest:
        return line
    tail = longest // 3
    return f"{line[: longest - tail - 5]} ... {line[-tail:]}"


def escaped(text: str, but: str = "") -> str:
    r"""Returns `text` with every character that does not print escaped, such as \x1b, except those in `but`."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in but else one.encode("unicode_escape").decode() for one in text)


class JaxlvWarning(UserWarning):
    """Something that a user should know but that stops nothing; programs print it as one line."""

    def __init__(self, message: Any):
        super().__init__(printable(message, WHOLE))


def warn(message: Any) -> None:
    """Warns with a `JaxlvWarning` that names the line by which this package was called."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("jaxlv", "contextlib"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, JaxlvWarning, stacklevel=level)


class JaxlvError(Exception):
    """A fault in what the user gave us: one line that says what, where, expected, found and what to do next.

    The line is printable and at most `WHOLE` characters long, whatever it is made of. Programs print ``str(error)`` and exit
    with code 2; only ``--debug`` shows a traceback.

    Args:
        what: what is wrong.
        where: the file, argument or setting.
        expected: what would be right.
        found: what is there.
        hint: what to do next.

    Example:
        >>> import jaxlv
        >>> try:
        ...     jaxlv.simulate(preset="rabbits")
        ... except jaxlv.JaxlvError as fault:
        ...     print(fault.what)
        unknown preset
    """

    def __init__(
        self,
        what: str,
        *,
        where: Any = None,
        expected: Any = None,
        found: Any = None,
        hint: str | None = None,
    ):
        self.what, self.where, self.expected, self.found, self.hint = what, where, expected, found, hint
        parts = [f"{printable(where) or repr(str(where))}: {printable(what)}" if where is not None else printable(what)]
        if expected is not None:
            parts.append(f"expected {printable(expected)}")
        if found is not None:
            parts.append(f"found {printable(found)}")
        if hint:
            parts.append(printable(hint))
        super().__init__(printable("; ".join(parts), WHOLE))

    def rename(self, temporary: Any, final: Any) -> None:
        """Names files by where they will be in place of where they are written: users do not know the temporary folder."""
        old, new = printable(temporary), printable(final)
        self.args = tuple(str(text).replace(old, new) for text in self.args)
        self.where = None if self.where is None else str(self.where).replace(str(temporary), str(final))


def represented(value: Any) -> str:
    """Returns the `repr` of a value; Python refuses that for whole numbers of more than 4,300 digits."""
    try:
        return repr(value)
    except (ValueError, RecursionError):
        return f"{type(value).__name__} that is too long to be shown"


def briefly(fault: Exception) -> str:
    """Returns an error in a few words for use inside another message: what is wrong and what was found, or its type and
    text.
    """
    if not isinstance(fault, JaxlvError):
        return f"{type(fault).__name__}: {fault}"
    return fault.what if fault.found is None else f"{fault.what}: {fault.found}"


class NotFinite(JaxlvError):
    """A model produced NaN or infinite numbers; the message says which numbers and where. It ends every program."""

    def __init__(self, numbers: str, where: Any):
        self.numbers = numbers
        hint = "its weights or adapters hold such values, or overflow: check them, or compute in float32"
        super().__init__(f"{numbers} are not finite", where=where, hint=hint)


def all_finite(values: Any, numbers: str, where: Any) -> Any:
    """Returns `values`, an array or a number; raises NotFinite if one of them is NaN or infinite."""
    import numpy as np  # imported here, so that a process that only reads untrusted files does not need NumPy

    if not np.isfinite(values).all():
        raise NotFinite(numbers, where)
    return values
