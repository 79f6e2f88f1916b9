"""What the programs share: a function as a verb, its result as text or JSON, errors as one line, and progress."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from jaxlv import processes
from jaxlv.activity import heard_by
from jaxlv.errors import WHOLE, JaxlvError, printable
from jaxlv.runs import endings
from jaxlv.storage import streams
from jaxlv.studies.progress import Bar, Lines, Teller
from jaxlv.tools.bounds import whole

if TYPE_CHECKING:
    from jaxlv.results.quantities import Quantity


@dataclass(frozen=True)
class Result:
    """What a verb has made or measured: `text` for a terminal, and `tree` for --json, with units in its keys or values.

    If the result itself is bad news, `fault` ends the program after the result is printed.
    """

    text: str
    tree: Mapping[str, object]
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
REPORT = "report.html"
COMMON = {
    "json": "print the result as JSON, and nothing else, on standard output",
    "quiet": "print nothing except errors",
    "debug": "show the traceback of an error",
}


def _shown_default(value: Any) -> str | None:
    """Returns how the help shows a default; None if it is not shown."""
    if value is None or value is False or value in ((), ""):
        return None
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


GROUP: Mapping[str, Any] = {
    "coordinator": Annotated[
        str | None, Parameter(help="host:port of process 0; SLURM, Open MPI and Kubernetes say it themselves")
    ],
    "processes": Annotated[int | None, whole(help="how many processes run this command")],
    "process": Annotated[int | None, whole(0, help="which of them this is, from 0")],
}
WRITTEN = ("out", "config", "run", "run_or_model", "folder")  # options and arguments whose folders a verb may write to

# If an option is repeated the last one counts, as programs that wrap others expect.
OPTION = Parameter(negative=(), allow_repeating=True, show_default=_shown_default)


def say(text: str = "") -> None:
    """Prints a line about what a verb does, unless --quiet is set; with --json on standard error."""
    if not CALL.quiet:
        TELLER.say(text)


def shown(rows: Sequence[Any], *columns: Quantity) -> str:
    """Returns rows as a table for a terminal, every name in full."""
    from jaxlv.report import terminal
    from jaxlv.report.table import Table

    return terminal.table(Table("", "", rows, columns), width=WHOLE, units=False, longest=WHOLE)


def made(folder: Path, lines: Sequence[str], tree: Mapping[str, object], **files: str) -> Result:
    """Returns the result of what lies in a folder: lines that are not empty, then where its files are, by what they hold."""
    places = {name: str(folder / file) for name, file in files.items()}
    ends = [f"{name + ':':<8} {place}" for name, place in places.items()]
    return Result("\n".join([*filter(None, lines), *ends]), {"folder": str(folder), **places, **tree})


def pairs(facts: Mapping[str, str]) -> str:
    """Returns facts, a line each: the name and the words."""
    return "\n".join(f"{name:<18} {words}" for name, words in facts.items())


# -------------------------------------------------------------------------------------------------------- programs


def verb(function: Callable[..., Result], prints: bool = False) -> App:
    """Returns the program of a function: its signature and docstring define the options. All have --json, --quiet, --debug.

    A verb that only `prints` fails if standard output cannot be written; others have their results in files. If the
    function's module is the program that Python runs, the program starts.
    """
    return _started(_app(function.__name__.replace("_", "-"), function, prints), function)


def group(name: str, help: str, *functions: Callable[..., Result], default: Callable[..., Result] | None = None) -> App:
    """Returns a program of several commands that only print; `default` runs if none is named, and has the help then."""
    app = _app(name, default, True, help and f"{help}\n\nEach command has --json, --quiet and --debug.")
    for function in functions:
        app.command(_app(function.__name__, function, True), name=function.__name__)
    return _started(app, functions[0])


def _app(name: str, function: Callable[..., Result] | None, prints: bool, help: str = "") -> App:
    told = help or _help((function and function.__doc__) or "")
    app = App(name=name, help=told, help_format="plaintext", default_parameter=OPTION)
    if function:
        app.default(_run(function, prints))
    return app


def _started(app: App, function: Callable[..., Result]) -> App:
    if function.__module__ == "__main__":
        start(app)
    return app


def _run(function: Callable[..., Result], prints: bool) -> Callable[..., None]:
    """Returns the function with the common options, which prints its result."""
    signature, kind = inspect.signature(function, eval_str=True), inspect.Parameter.KEYWORD_ONLY
    switches = {name: Annotated[bool, Parameter(help=help, group="Of every verb")] for name, help in COMMON.items()}
    common = [inspect.Parameter(name, kind, default=False, annotation=switch) for name, switch in switches.items()]
    for name, typed in GROUP.items():
        option: Any = Annotated[typed, Parameter(group="Of several processes")]
        common.append(inspect.Parameter(name, kind, default=None, annotation=option))

    @functools.wraps(function)
    def run(*arguments: Any, **named: Any) -> None:
        chosen = {name: named.pop(name, False) for name in COMMON}
        group = {name: named.pop(name, None) for name in GROUP}
        bound = signature.bind(*arguments, **named)
        bound.apply_defaults()
        purpose, way_on = purpose_of(function.__name__, bound.arguments), functools.partial(_way_on, bound.arguments)
        vars(CALL).update(chosen, purpose=purpose, way_on=way_on)
        endings.shorten_others()
        processes.join(**group)
        if processes.index():
            CALL.quiet, CALL.json = True, False
            arguments, named = _own(bound)
        processes.ready()
        with nullcontext() if CALL.quiet else TELLER("loading JAX", sys.stderr.isatty()):
            from jaxlv.runs import devices

        devices.compute_with_care()
        devices.keep_compiled_programs()
        with heard_by(None if CALL.quiet else TELLER):
            found = function(*arguments, **named)
        print(json.dumps(found.tree, indent=1)) if CALL.json else say(found.text)
        streams.check_printed(prints or CALL.json)
        if found.fault is not None:
            raise found.fault

    own = [*signature.parameters.values(), *common]
    run.__signature__ = signature.replace(parameters=own, return_annotation=None)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in own}
    return run


def _own(bound: inspect.BoundArguments) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the arguments of a verb in a process that is not the first: folders of results and of runs are copies."""
    for name, value in bound.arguments.items():
        if name in WRITTEN and value is not None and (name == "out" or Path(str(value)).is_dir()):
            bound.arguments[name] = type(value)(processes.own(Path(value)))
    return bound.args, bound.kwargs


def _help(text: str) -> str:
    """Returns what a docstring says before its arguments: each paragraph as one line, to fit any width, and examples below a
    heading.
    """
    told = inspect.cleandoc(text).partition("\n\nArgs:\n")[0]
    told = re.sub(r"(?<=[^\n])\n(?=\S)", " ", told)
    return re.sub(r"\n\n(?= )", "\n\nFor example:\n\n", told, count=1)


def one_line() -> AbstractContextManager[None]:
    """Turns whatever ends the body into one line and SystemExit; --debug lets it through."""
    return endings.one_line(lambda: CALL.debug, lambda: CALL.way_on())


def start(app: App, argv: Sequence[str] | None = None) -> None:
    """Runs a program with the arguments of the process, or others; whatever ends it is one line and a SystemExit."""
    streams.protect()
    endings.shorten_ignored()
    arguments = sys.argv[1:] if argv is None else list(argv)
    vars(CALL).update(vars(Call(debug="--debug" in arguments)))
    app.suppress_keyboard_interrupt = False  # a signal, too, is told in one line
    with _leaving(), one_line():
        try:
            app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        except CycloptsError as fault:
            chain = " ".join(("jaxlv", *(fault.command_chain or ())))
            text = printable(str(fault).removesuffix("."), WHOLE)
            print(f"{chain}: {text}; {chain} --help tells the options", file=sys.stderr)
            raise SystemExit(2) from None


@contextlib.contextmanager
def _leaving() -> Iterator[None]:
    """Ends a process that fails at once if others wait for it."""
    try:
        yield
    except SystemExit as end:
        if end.code:
            processes.leave(end.code if isinstance(end.code, int) else 1)
        raise


def purpose_of(name: str, bound: Mapping[str, object]) -> str:
    """Returns what a verb's result is in a ledger: its name and a hash of the options that its figures depend on."""
    told = sorted((key, str(value)) for key, value in bound.items() if key not in ("out", "resume", "overwrite"))
    return f"{name} {hashlib.sha256(repr(told).encode()).hexdigest()[:12]}"


def _way_on(bound: Mapping[str, Any]) -> str:
    out = bound.get("out")
    begun = "resume" in bound and not bound.get("overwrite") and out is not None and out.is_dir() and any(out.iterdir())
    return "; go on with --resume" if begun else ""


# -------------------------------------------------------------------------------------------------------- progress


def _print(text: str) -> None:
    print(text, file=sys.stderr if CALL.json else sys.stdout, flush=True)


class Activity(Teller):
    """Tells what is being done: on a terminal in a line on standard error that is rewritten each second, or beside the bar;
    elsewhere in plain lines.
    """

    bar: Any = None  # the open Progress that has a bar
    shown = False

    def say(self, text: str) -> None:
        """Prints a line; the one that is rewritten makes room."""
        self._clear()
        super().say(text)

    def tell(self, words: str, soon: bool, ended: threading.Event) -> None:
        """Tells `words` until `ended` is set."""
        if not sys.stderr.isatty():
            return super().tell(words, soon, ended)
        began = time.monotonic()
        while soon and not ended.wait(1.0):
            text = f"{printable(words)} {time.monotonic() - began:.0f} s"
            if self.bar:
                self.bar.fact(text)
            else:
                self.shown = True
                _redraw(text[: shutil.get_terminal_size().columns - 1])
        self._clear()

    def _clear(self) -> None:
        if self.shown:
            self.shown = False
            _redraw("")


def _redraw(text: str) -> None:
    streams.Bare(sys.stderr).write(f"\r\x1b[2K{text}")
    sys.stderr.flush()


TELLER = Activity(_print)


class Progress(Lines):
    """A progress bar with loss, tokens/s and time on standard error; plain lines if that is not a terminal."""

    _bar: Any = None

    def __init__(self, label: str, total: int):
        super().__init__(label, total, say)

    def __enter__(self) -> Bar:
        if sys.stderr.isatty() and not (CALL.quiet or CALL.json):
            from rich import progress
            from rich.console import Console

            shape = ("{task.description}", progress.BarColumn(), "{task.completed:.0f}/{task.total:.0f}")
            facts = (
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.fields[facts]}"),
            )
            bare: Any = streams.Bare(sys.stderr)
            shared = sys.stdout.isatty()  # else what is printed meanwhile belongs to a file or another program
            self._bar = progress.Progress(*shape, *facts, console=Console(file=bare), redirect_stdout=shared)
            self._task = self._bar.add_task(self.label, total=self.total, facts="")
            self._bar.start()
            TELLER.bar = self
            return self
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        if self._bar:
            TELLER.bar = None
            self._bar.stop()
        super().__exit__()

    def update(self, done: int, facts: str = "") -> None:
        """Shows that `done` of `total` are done."""
        if self._bar:
            self._bar.update(self._task, completed=done, facts=facts)
        else:
            super().update(done, facts)

    def note(self, text: str) -> None:
        """Shows a line that stays."""
        if self._bar and sys.stdout.isatty():
            self._bar.console.print(text)
        else:
            super().note(text)

    def fact(self, text: str) -> None:
        """Shows beside the bar what is being done."""
        self._bar.update(self._task, facts=text)
