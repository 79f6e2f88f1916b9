"""Standard input and output that cannot end a program: a stream that is closed, or breaks while it works, leads nowhere.
Characters that would control a terminal are printed as escapes.

If a reader goes away (`jaxlv train | head -1`), a terminal closes, or the disk under `> log` is full, the work goes on: its
results are in its files. What could not be printed is lost; `lost` says why.
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
    """An open file that accepts everything: after a write has failed, it leads nowhere."""

    fault: OSError | None = None
    closed_before: OSError | None = None  # set if the stream was closed when the program began

    def write(self, content: Any) -> int:
        """Writes what fits; waits for a slow reader."""
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
    """A stream of text whose content, such as names from files of others, cannot control a terminal."""

    def write(self, text: str, /) -> int:
        """Writes a text, with an escape for every character that does not print."""
        super().write(escaped(text, but="\n\t"))
        return len(text)


class Bare:
    """A stream that writes escapes for a terminal unchanged; a progress bar of our own needs it."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes a text unchanged."""
        return io.TextIOWrapper.write(self._stream, text) if isinstance(self._stream, _Text) else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def protect() -> None:
    """Gives the process standard streams that cannot fail. Call it before anything is opened: otherwise a file could get one
    of the numbers 0 to 2, and what is printed would go there.
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
    """Returns a stream that leads nowhere and records that this is a fault."""
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
    """Returns why standard output could not be written, if somebody may be waiting for it."""
    sys.stdout.flush()
    fault = getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "fault", None)
    return fault if fault is not None and fault.errno not in GONE else None


def check_printed(needed: bool) -> None:
    """Raises OSError if what was printed is lost and `needed`; otherwise says on standard error that it is lost."""
    fault = lost()
    if fault is None:
        return
    if needed:
        raise OSError(fault.errno, fault.strerror, "standard output")
    print(f"jaxlv: note: what was printed is lost ({fault.strerror})", file=sys.stderr)
