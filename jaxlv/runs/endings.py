"""What ends a program, or is logged or warned of while it works, as one line on standard error."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jaxlv.errors import JaxlvError, JaxlvWarning, printable
from jaxlv.runs.interrupts import Interrupted, Stopped, Stops

HINTS = {errno.ENOSPC: "free some space", errno.EROFS: "choose another folder", errno.EACCES: "check its permissions"}


class Ending(NamedTuple):
    """The exit code of a program (2: its user can mend the fault; 1: it should not have happened), and its last line."""

    code: int
    line: str


@contextlib.contextmanager
def one_line(debug: Callable[[], bool] = lambda: False, way_on: Callable[[], str] = str) -> Iterator[None]:
    """Turns whatever ends the body (an error, a signal, a panic of an extension) into one line and SystemExit, and each
    JaxlvWarning into one line.

    Errors pass unchanged if `debug()` is true. `way_on()` says what to do after a signal.
    """
    try:
        with Stops(), warnings.catch_warnings(), _plain_warnings():
            yield
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as fault:
        ending = ending_of(fault, way_on)
        if debug() and ending.code in (1, 2):
            raise
        print(f"jaxlv: {ending.line}", file=sys.stderr)
        raise SystemExit(ending.code) from None


def ending_of(fault: BaseException, way_on: Callable[[], str] = str) -> Ending:
    """Returns how a program ends that raises `fault`."""
    if isinstance(fault, Interrupted):
        return Ending(fault.code, str(fault))
    if isinstance(fault, KeyboardInterrupt):
        stop = fault if isinstance(fault, Stopped) else Stopped()
        return Ending(stop.code, f"{stop}: stopped; nothing half done is left{way_on()}")
    if isinstance(fault, JaxlvError):
        return Ending(2, str(fault))
    if isinstance(fault, OSError):
        return Ending(2, _of_the_system(fault))
    if isinstance(fault, MemoryError) or any(words in str(fault) for words in ("RESOURCE_EXHAUSTED", "bad_alloc")):
        hint = "take fewer series, samples or tokens at a time, or a shorter type"
        return Ending(2, f"out of memory ({printable(fault) or 'no more is to be had'}); {hint}")
    unforeseen = f"unforeseen {type(fault).__name__}: {printable(fault)}"
    return Ending(1, _no_device() or f"{unforeseen}; please report it with the traceback that --debug shows")


def shorten_ignored() -> None:
    """Makes one line of each error that nobody can catch, such as XLA's at exit. Call it before anything else that takes
    such errors (`sys.unraisablehook`): what comes later passes on the others to it, or gives it its place back.
    """

    def ignored(fault: Any) -> None:
        kind = fault.exc_type.__name__
        print(f"jaxlv: note: ignored {kind}: {printable(fault.exc_value or fault.err_msg or kind)}", file=sys.stderr)

    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = ignored


def shorten_others() -> None:
    """Makes one line of each log entry of a library."""
    for handler in [one for one in logging.root.handlers if _is_a_library_s(one)]:
        logging.root.removeHandler(handler)
    if not logging.root.handlers:  # otherwise a library that calls `logging.error` installs one of its own
        logging.root.addHandler(_LogLine(logging.WARNING))


def _is_a_library_s(handler: logging.Handler) -> bool:
    """Tells whether a handler was installed by `logging.basicConfig` without arguments, as absl and `logging.error` do."""
    plain = handler.formatter is not None and handler.formatter._fmt == logging.BASIC_FORMAT
    return type(handler) is logging.StreamHandler and plain


class _LogLine(logging.Handler):
    """Prints log entries for which no other handler is set."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"jaxlv: note: {record.name}: {printable(record.getMessage())}", file=sys.stderr)


def _of_the_system(fault: OSError) -> str:
    """Returns an error of the operating system as a line: the file, the reason, and what to do."""
    reason = printable(fault.strerror or fault) or type(fault).__name__
    hint = f"; {HINTS[fault.errno]}" if fault.errno in HINTS else ""
    return f"{printable(fault.filename) + ': ' if fault.filename else ''}{reason}{hint}"


def _no_device() -> str:
    """Returns a line if the platform in JAX_PLATFORMS has no device, else "". No other platform is taken in its place."""
    import jax

    wanted = os.environ.get("JAX_PLATFORMS")
    try:
        jax.devices()
    except Exception:  # a RuntimeError, or an assertion of JAX's own
        extra = 'pip install "jaxlv[cuda12]" or "jaxlv[cuda13]", or ' if wanted and "cuda" in wanted else ""
        return printable(f"no device of JAX_PLATFORMS={wanted}; {extra}unset JAX_PLATFORMS")
    return ""


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Prints each warning as one line: a JaxlvWarning as a note, any other with the name of its kind."""
    others, formatted = warnings.showwarning, warnings.formatwarning

    def show(message: Any, category: type[Warning], *more: Any, **named: Any) -> None:
        if issubclass(category, JaxlvWarning):
            print(f"jaxlv: note: {message}", file=sys.stderr)
        else:
            others(message, category, *more, **named)

    def line(message: Any, category: type[Warning], *_: Any, **__: Any) -> str:
        return f"jaxlv: {category.__name__}: {printable(message)}\n"

    warnings.simplefilter("always", JaxlvWarning)
    warnings.showwarning, warnings.formatwarning = show, line
    try:
        yield
    finally:
        warnings.formatwarning = formatted
