"""The one exception type that reaches a user, and the shape of its message."""

from __future__ import annotations

from typing import Any


class JaxlvWarning(UserWarning):
    """Something that a user should know, and that stops nothing; programs print it as one line."""


class JaxlvError(Exception):
    """A fault in what the user gave us: one line saying what, where, expected, found and what to do next.

    Programs print ``str(error)`` and exit with code 2; only ``--debug`` shows a traceback.
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
        parts = [f"{where}: {what}" if where is not None else what]
        if expected is not None:
            parts.append(f"expected {expected}")
        if found is not None:
            parts.append(f"found {found}")
        if hint:
            parts.append(hint)
        super().__init__("; ".join(" ".join(str(part).split()) for part in parts))
