"""Standard input and output that cannot end a program: closed ones lead nowhere, and so do those that break while it works.
What is printed there shows as it is: characters that would do something to a terminal are written as their escapes.

A reader that goes away (`jaxlv train | head -1`), a terminal that closes, a full disk under `> log`: the work goes on, and
its results are in its files. What could not be printed is lost; `lost` says why.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import Any

from jaxlv.errors import escaped

GONE = (errno.EPIPE, errno.EIO)  # the reader has left, or the terminal: nobody waits for what is printed


class _Output(io.FileIO):
    """An open file that takes everything: once something cannot be written, it leads nowhere."""

    fault: OSError | None = None
    closed_before: OSError | None = None  # set if the stream was closed when the program began

    def write(self, content: Any) -> int:
        """Write what fits, waiting for a reader that is slow."""
        self.fault = self.fault or self.closed_before
        while True:
            try:
                written = super().write(content)
            except OSError as fault:
                self.fault = self.fault or fault
                with contextlib.suppress(OSError):
                    nowhere = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(nowhere, self.fileno())
                    os.close(nowhere)
                return len(content)
            if written is not None:
                return written
            select.select([], [self], [])  # it does not block


class _Text(io.TextIOWrapper):
    """A stream of text in which names and texts of files of others cannot change what a terminal shows."""

    def write(self, text: str, /) -> int:
        """Write a text, each character that does not print as its escape."""
        super().write(escaped(text, but="\n\t"))
        return len(text)


class Bare:
    """A stream that writes escapes of a terminal as they are, for a progress bar of our own."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text as it is."""
        return io.TextIOWrapper.write(self._stream, text) if isinstance(self._stream, _Text) else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def protect() -> None:
    """Give the process standard streams that cannot fail. Called before anything is opened, so that no file gets one of the
    numbers 0 to 2: what is printed would go there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest free number, this one
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # it was closed when the program began
            setattr(sys, name, _closed(number))
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):  # else a caller put it there
            setattr(sys, name, _protected(stream))


def _closed(number: int) -> io.TextIOWrapper:
    """A stream that leads nowhere, and knows that it was not meant to."""
    raw = _Output(number, "w", closefd=False)
    raw.closed_before = OSError(errno.EBADF, os.strerror(errno.EBADF))
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace")


def _protected(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    with contextlib.suppress(OSError):
        stream.flush()
    kind = _Text if stream is sys.stdout else io.TextIOWrapper  # on the other one libraries draw bars of their own
    return kind(
        io.BufferedWriter(_Output(stream.fileno(), "w", closefd=False)),
        stream.encoding,
        "backslashreplace",  # a character that the terminal does not know is no reason to stop
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def lost() -> OSError | None:
    """Why standard output could not be written, if somebody may be waiting for it."""
    sys.stdout.flush()
    fault = getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "fault", None)
    return fault if fault is not None and fault.errno not in GONE else None
