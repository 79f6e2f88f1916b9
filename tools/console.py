"""What the programs share: a function as a verb, errors as one line and exit code 2, and progress."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import inspect
import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from jaxlv.errors import WHOLE, JaxlvError, JaxlvWarning, printable
from jaxlv.runs.interrupts import Interrupted, Stopped, Stops
from jaxlv.tools import streams


@dataclass(frozen=True)
class Result:
    """What a verb has made or measured: `text` for a terminal, and `tree` for --json, with units in its keys or values.

    A result that is itself bad news has a `fault`, which ends the program after the result is printed.
    """

    text: str
    tree: Mapping[str, Any]
    fault: JaxlvError | None = None


@dataclass
class Call:
    """The verb that this process runs: what it may print, and what its result is in a ledger."""

    json: bool = False
    quiet: bool = False
    debug: bool = False
    purpose: str = ""  # the verb and a hash of every option that the figures depend on
    way_on: Callable[[], str] = str  # what to do if it is stopped


CALL = Call()
COMMON = {
    "json": "print the result as JSON, and nothing else, on standard output",
    "quiet": "print nothing except errors",
    "debug": "show the traceback of an error",
}


def _shown_default(value: Any) -> str | None:
    """Returns how a default stands in the help; None if it goes without saying."""
    if value is None or value is False or value in ((), ""):
        return None
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


# Of an option that is repeated the last one counts, as programs that wrap others expect.
OPTION = Parameter(negative=(), allow_repeating=True, show_default=_shown_default)


def say(text: str = "") -> None:
    """Prints a line about what a verb does, unless --quiet; with --json on standard error."""
    if not CALL.quiet:
        print(text, file=sys.stderr if CALL.json else sys.stdout, flush=True)


def verb(function: Callable[..., Result | None], prints: bool = False) -> App:
    """Returns the program of a function: its signature and docstring say the options. All have --json, --quiet, --debug.

    A verb that only `prints` fails if standard output cannot be written; others have their results in files.
    """
    signature = inspect.signature(function, eval_str=True)
    own = [*signature.parameters.values()]
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotated(help))
        for name, help in COMMON.items()
    ]

    @functools.wraps(function)
    def run(*arguments: Any, **named: Any) -> None:
        shown = {name: named.pop(name, False) for name in COMMON}
        bound = signature.bind(*arguments, **named)
        bound.apply_defaults()
        vars(CALL).update(
            shown, purpose=purpose_of(function.__name__, bound.arguments), way_on=functools.partial(_way_on, bound.arguments)
        )
        _shorten_others()
        from jaxlv.runs.devices import compute_with_care  # loads JAX

        compute_with_care()
        keep_compiled_programs()
        found = function(*arguments, **named)
        if found is not None:
            print(json.dumps(found.tree, indent=1)) if CALL.json else say(found.text)
        _check_printed(prints or CALL.json)
        if found is not None and found.fault is not None:
            raise found.fault

    run.__signature__ = signature.replace(parameters=[*own, *common], return_annotation=None)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in (*own, *common)}
    name, help = function.__name__.replace("_", "-"), _help(function.__doc__ or "")
    app = App(name=name, help=help, help_format="plaintext", default_parameter=OPTION)
    app.default(run)
    return app


def _help(text: str) -> str:
    """Returns what a docstring says before its parameters: paragraphs as one line each, to fit any width, and examples below
    a heading.
    """
    told = inspect.cleandoc(text).partition("\n\nParameters\n")[0]
    told = re.sub(r"(?<=[^\n])\n(?=\S)", " ", told)
    return re.sub(r"\n\n(?= )", "\n\nFor example:\n\n", told, count=1)


def annotated(help: str) -> Any:
    """Returns the type of a switch that every verb has."""
    return Annotated[bool, Parameter(help=help, group="Of every verb")]


def start(app: App, argv: Sequence[str] | None = None) -> None:
    """Runs a program with the arguments of the process, or others; whatever ends it is one line and a SystemExit."""
    streams.protect()
    arguments = sys.argv[1:] if argv is None else list(argv)
    vars(CALL).update(vars(Call(debug="--debug" in arguments)))
    app.suppress_keyboard_interrupt = False  # a signal, too, is told in one line
    with one_line():
        try:
            app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        except CycloptsError as fault:
            chain = " ".join(("jaxlv", *(fault.command_chain or ())))
            text = printable(str(fault).removesuffix("."), WHOLE)
            print(f"{chain}: {text}; {chain} --help tells the options", file=sys.stderr)
            raise SystemExit(2) from None


def purpose_of(name: str, bound: Mapping[str, Any]) -> str:
    """Returns what a verb's result is in a ledger: its name and a hash of the options that its figures depend on."""
    told = sorted((key, str(value)) for key, value in bound.items() if key not in ("out", "resume"))
    return f"{name} {hashlib.sha256(repr(told).encode()).hexdigest()[:12]}"


def _way_on(bound: Mapping[str, Any]) -> str:
    out = bound.get("out")
    begun = "resume" in bound and out is not None and out.is_dir() and any(out.iterdir())
    return "; go on with --resume" if begun else ""


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Whatever ends the body, be it an error, a signal, or a panic of an extension, becomes one line and SystemExit; --debug
    lets it through. JaxlvWarnings are one line each.
    """
    try:
        with Stops(), warnings.catch_warnings(), _plain_warnings():
            yield
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as fault:
        code, line = _told(fault)
        if CALL.debug and code in (1, 2):
            raise
        print(f"jaxlv: {line}", file=sys.stderr)
        raise SystemExit(code) from None


def _told(fault: BaseException) -> tuple[int, str]:
    """(exit code, line) of what ended a program: 2 for what its user can mend, 1 for what should not have happened."""
    if isinstance(fault, Interrupted):
        return fault.code, str(fault)
    if isinstance(fault, KeyboardInterrupt):
        stop = fault if isinstance(fault, Stopped) else Stopped()
        return stop.code, f"{stop}: stopped; nothing half done is left{CALL.way_on()}"
    if isinstance(fault, JaxlvError):
        return 2, str(fault)
    if isinstance(fault, OSError):
        return 2, _of_the_system(fault)
    if isinstance(fault, MemoryError) or any(words in str(fault) for words in ("RESOURCE_EXHAUSTED", "bad_alloc")):
        hint = "take fewer series, samples or tokens at a time, or a shorter type"
        return 2, f"out of memory ({printable(fault) or 'no more is to be had'}); {hint}"
    unforeseen = f"unforeseen {type(fault).__name__}: {printable(fault)}"
    return 1, _no_device() or f"{unforeseen}; please report it with the traceback that --debug shows"


def _shorten_others() -> None:
    """What libraries log, and errors that nobody can catch, such as XLA's when the process ends, become a line each."""

    def ignored(fault: Any) -> None:
        kind = fault.exc_type.__name__
        print(f"jaxlv: note: ignored {kind}: {printable(fault.exc_value or fault.err_msg or kind)}", file=sys.stderr)

    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = ignored
    if not logging.root.handlers:  # else a library that logs by `logging.error` gives it one of its own
        logging.root.addHandler(_LogLine(logging.WARNING))


class _LogLine(logging.Handler):
    """What is logged where nobody has said how."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"jaxlv: note: {record.name}: {printable(record.getMessage())}", file=sys.stderr)


def _of_the_system(fault: OSError) -> str:
    """An error of the operating system as a line: the file, and what to do."""
    reason = printable(fault.strerror or fault) or type(fault).__name__
    hints = {errno.ENOSPC: "free some space", errno.EROFS: "choose another folder", errno.EACCES: "check its permissions"}
    hint = f"; {hints[fault.errno]}" if fault.errno in hints else ""
    return f"{printable(fault.filename) + ': ' if fault.filename else ''}{reason}{hint}"


def _check_printed(needed: bool) -> None:
    """Raises OSError if what was `needed` could not be printed; says that it is lost otherwise."""
    fault = streams.lost()
    if fault is None:
        return
    if needed:
        raise OSError(fault.errno, fault.strerror, "standard output")
    print(f"jaxlv: note: what was printed is lost ({fault.strerror})", file=sys.stderr)


def _no_device() -> str:
    """If the platform that JAX_PLATFORMS asks for has no device, that in a line: no other one is taken in its place."""
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
    """Warnings as one line each: a JaxlvWarning as a note, any other one with the name of its kind."""
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


def keep_compiled_programs() -> None:
    """Let XLA keep compiled programs on disk, so that a second run starts faster; JAX_COMPILATION_CACHE_DIR moves them."""
    import jax

    if not jax.config.values["jax_compilation_cache_dir"]:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "jaxlv"))


class Progress:
    """A progress bar with loss, tokens/s and remaining time; plain lines, ten at most a minute, without a terminal."""

    def __init__(self, label: str, total: int, interval: float = 15.0):
        self.label, self.total, self.interval = label, total, interval
        self.started = self.printed = time.monotonic()
        self.first: int | None = None
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stdout.isatty() and not (CALL.quiet or CALL.json):
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = ("{task.description}", BarColumn(), "{task.completed:.0f}/{task.total:.0f}")
            console = Console(file=streams.Bare(sys.stdout))  # type: ignore[arg-type]
            self._bar = Bar(*columns, TextColumn("{task.fields[facts]}"), TimeRemainingColumn(), console=console)
            self._task = self._bar.add_task(self.label, total=self.total, facts="")
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar:
            self._bar.stop()

    def step(self, done: int, figures: dict[str, float]) -> None:
        """Show the figures of a training step."""
        self.update(done, f"loss {figures['loss']:.4f}  {figures['tokens_per_second']:,.0f} tokens/s")

    def update(self, done: int, facts: str = "") -> None:
        """`done` of `total` are done."""
        if self._bar:
            self._bar.update(self._task, completed=done, facts=facts)
            return
        now = time.monotonic()
        if self.first is None:
            self.first, self.started = done, now
        if done < self.total and now - self.printed < self.interval:
            return
        self.printed = now
        pace = (now - self.started) / max(done - self.first, 1)
        left = f"  {pace * (self.total - done):.0f} s left" if done > self.first and done < self.total else ""
        say(f"{self.label}: {done}/{self.total}  {facts}{left}")

    def note(self, text: str) -> None:
        """A line that stays."""
        if self._bar:
            self._bar.console.print(text)
        else:
            say(f"{self.label}: {text}")


def columns(rows: Sequence[Sequence[str]], right: Collection[int] = (2,)) -> str:
    """Returns rows as aligned columns, the first row above a line; the columns `right` are aligned on the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    rule = "-" * (sum(widths[:-1]) + 2 * len(widths) - 2 + min(widths[-1], 40))
    return "\n".join([lines[0], rule, *lines[1:]])
