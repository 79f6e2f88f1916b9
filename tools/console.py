"""What the programs share: errors as one line and exit code 2, progress, and options."""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import hashlib
import logging
import os
import re
import sys
import time
import typing
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from jaxlv.config import EvaluateConfig, SamplingConfig
from jaxlv.errors import WHOLE, JaxlvError, JaxlvWarning, printable
from jaxlv.runs.interrupts import Interrupted, Stopped, Stops
from jaxlv.settings import AXIS, Between, statements
from jaxlv.storage.files import new_folder, remove_unfinished
from jaxlv.tools import streams

NUMBERS_OF_SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty")


def program(arguments: Callable[[], argparse.ArgumentParser], prints: bool = False) -> Callable:
    """Turn `main(options)` into a program `main(argv=None)`: parses, runs, and prints an error as one line. One that only
    `prints` fails if standard output cannot be written; others have their results in files.
    """

    def decorate(main: Callable[[argparse.Namespace], Any]) -> Callable[[list[str] | None], Any]:
        @functools.wraps(main)
        def run(argv: list[str] | None = None) -> Any:
            streams.protect()
            parser = arguments()
            parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
            options = parser.parse_args(argv)
            options.purpose = _purpose(parser.prog, options)
            _shorten_others()
            with one_line(options):
                from jaxlv.runs.devices import compute_with_care  # loads JAX

                compute_with_care()
                keep_compiled_programs()
                found = main(options)
                _check_printed(prints)
                return found

        return run

    return decorate


def _purpose(verb: str, options: argparse.Namespace) -> str:
    """What a program's result is in a ledger: its verb and a hash of every option that the figures depend on."""
    told = {name: str(value) for name, value in vars(options).items() if name not in ("out", "resume", "debug")}
    return f"{verb} {hashlib.sha256(repr(sorted(told.items())).encode()).hexdigest()[:12]}"


@contextlib.contextmanager
def one_line(options: argparse.Namespace | None = None) -> Iterator[None]:
    """Whatever ends the body, be it an error, a signal, or a panic of an extension, becomes one line and SystemExit; --debug
    lets it through. JaxlvWarnings are one line each.
    """
    try:
        with Stops(), warnings.catch_warnings(), _plain_warnings():
            yield
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as fault:
        code, line = _told(fault, options)
        if getattr(options, "debug", False) and code in (1, 2):
            raise
        print(f"jaxlv: {line}", file=sys.stderr)
        raise SystemExit(code) from None


def _told(fault: BaseException, options: argparse.Namespace | None) -> tuple[int, str]:
    """(exit code, line) of what ended a program: 2 for what its user can mend, 1 for what should not have happened."""
    if isinstance(fault, Interrupted):
        return fault.code, str(fault)
    if isinstance(fault, KeyboardInterrupt):
        stop = fault if isinstance(fault, Stopped) else Stopped()
        return stop.code, f"{stop}: stopped; nothing half done is left{_way_on(options)}"
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
    logging.lastResort = _LogLine(logging.WARNING)


class _LogLine(logging.Handler):
    """What is logged where nobody has said how."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"jaxlv: note: {record.name}: {printable(record.getMessage())}", file=sys.stderr)


def _way_on(options: argparse.Namespace | None) -> str:
    """What to do after a program was stopped: what has --resume keeps what it had finished."""
    return "; go on with --resume" if options is not None and _begun(options) else ""


def _begun(options: argparse.Namespace) -> bool:
    out = getattr(options, "out", None)
    return hasattr(options, "resume") and out is not None and out.is_dir() and any(out.iterdir())


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
        if sys.stdout.isatty():
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
        print(f"{self.label}: {done}/{self.total}  {facts}{left}", flush=True)

    def note(self, text: str) -> None:
        """A line that stays."""
        if self._bar:
            self._bar.console.print(text)
        else:
            print(f"{self.label}: {text}", flush=True)


def print_columns(rows: Sequence[Sequence[str]], right: Collection[int] = (2,)) -> None:
    """Rows as columns, the first one above a line."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        print("  ".join(cells).rstrip())
        if not number:
            print("-" * (sum(widths[:-1]) + 2 * len(widths) - 2 + min(widths[-1], 40)))


# --------------------------------------------------------------------------------------- arguments in common


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as those of a JaxlvError."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with code 2."""
        self.exit(2, f"{self.prog}: {printable(message, WHOLE)}; {self.prog} --help tells the options\n")


def describe(verb: str, text: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the program's own docstring."""
    return Parser(prog=f"jaxlv {verb}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter)


MOST_IDS = 1_000_000  # that an option may name


def parse_ids(text: str) -> list[int]:
    """Series ids from "3,7" or "990-999" or both, at most MOST_IDS of them."""
    ids: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not re.fullmatch("[0-9]{1,18}", first) or (dash and not re.fullmatch("[0-9]{1,18}", last)):
            raise argparse.ArgumentTypeError(f"{printable(text, 60)!r} is not a list of ids such as 3,7 or 990-999")
        named = range(int(first), int(last or first) + 1)
        if not named:
            raise argparse.ArgumentTypeError(f"{part!r} names no id; expected the lower one first")
        if len(ids) + len(named) > MOST_IDS:
            raise argparse.ArgumentTypeError(f"{printable(text, 60)!r} names more than {MOST_IDS} ids")
        ids += named
    return ids


def option(cls: type, name: str, words: str = "") -> dict[str, Any]:
    """What `add_argument` takes for a setting: a type that refuses what the setting does, or its choices, and its words."""
    statement = statements(cls)[name]
    words = (words or statement.words).replace("%", "%%")
    if typing.get_origin(statement.kind) is Literal:
        return {"choices": typing.get_args(statement.kind), "help": words}
    assert isinstance(statement.allowed, Between)
    return {"type": NumberType(statement.kind, statement.allowed), "help": words}


def whole(least: int = 1, most: int = AXIS) -> NumberType:
    """The type of an option that is a whole number."""
    return NumberType(int, Between(least, most))


@dataclass(frozen=True)
class NumberType:
    """The type of an option that is a number, or with `several` a list of them with commas between."""

    kind: type
    allowed: Between
    several: bool = False

    def __call__(self, text: str) -> Any:
        """The number, or a tuple of them; argparse prints the error as one line."""
        if self.several:
            return tuple(map(self.one, text.split(",")))
        return self.one(text)

    def one(self, text: str) -> Any:
        """One number."""
        try:
            value = self.kind(text)
        except ValueError:
            value = None
        if value is None or not self.allowed.holds(value):
            raise argparse.ArgumentTypeError(f"{printable(repr(text), 80)} is not {self.allowed.words(self.kind)}")
        return value


def add_protocol(parser: argparse.ArgumentParser) -> None:
    """--context, --horizon, --samples and --seed; unset, the run's own evaluation settings hold."""
    for name in ("context", "horizon", "samples", "seed"):
        parser.add_argument(f"--{name}", **option(EvaluateConfig, name))


def add_sampling(parser: argparse.ArgumentParser, grammar: bool = True) -> None:
    """The sampling settings, with or without that of the number grammar; unset, the run's own hold."""
    for name in NUMBERS_OF_SAMPLING:
        parser.add_argument(f"--{name.replace('_', '-')}", **option(SamplingConfig, name))
    if grammar:
        parser.add_argument("--no-grammar", action="store_true", help="do not mask the logits by the number grammar")


def sampling_of(options: argparse.Namespace) -> dict[str, Any]:
    """The sampling settings that the arguments name."""
    given = {name: getattr(options, name) for name in NUMBERS_OF_SAMPLING if getattr(options, name) is not None}
    return given | ({"grammar": False} if getattr(options, "no_grammar", False) else {})


def begun_folder(path: Path, part: str, resume: bool) -> bool:
    """Whether `path` was begun before, and goes on because of `resume`: then what killed processes left in it is removed.

    Else it is made, with an empty folder `part`, by which it is known again. Raises JaxlvError if it is there.
    """
    if resume and (path / part).is_dir():
        remove_unfinished(path)
        remove_unfinished(path / part)
        return True
    if not resume and (path / part).is_dir():
        raise JaxlvError("exists already", where=path, hint="choose another folder with --out, or go on with --resume")
    with new_folder(path) as work:
        (work / part).mkdir()
    return False


def held_series(finished: Any, data: Any) -> Any:
    """The ids of the series that a run may be measured on: its test series in its own file, unseen ones in another."""
    from jaxlv.runs import sources

    if data.source.get("sha256") == finished.manifest["data"]["sha256"]:
        return sources.split_series(finished.config, data).test
    unseen = sorted(set(data.ids_N.tolist()) - set(finished.seen(data).tolist()))
    if not unseen:
        raise JaxlvError("the run has seen every series", where=data.source.get("path"), hint="name ids with --series")
    return unseen


def pinned_note(settings: Any) -> None:
    """Say where a model of the hub may be another one tomorrow."""
    from jaxlv.model.weights import base_of
    from jaxlv.storage.foreign import hub_revision

    commit = hub_revision(base_of(settings))
    if commit and settings.revision != commit:
        print(f"note: {settings.path} is taken at commit {commit}; model.revision = {commit!r} would keep it there")


def peak_memory() -> int:
    """The most memory that this process has held so far, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
