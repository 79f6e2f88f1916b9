"""Every verb that writes leaves all or nothing, whatever ends it: a full disk, a signal, a panic, a reader that leaves."""

from __future__ import annotations

import errno
import logging
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxlv.errors import JaxlvError, JaxlvWarning
from jaxlv.flops import ledger
from jaxlv.runs import devices, endings, interrupts, run
from jaxlv.storage.files import SUFFIX
from jaxlv.tools import console
from tests.faults.child import Child
from tests.faults.conftest import fill
from tests.programs import PROTOCOL, Work, content, full_disk, jaxlv

# Each with what it leaves last.
VERBS: dict[str, tuple[list[str], str]] = {
    "simulate": (["simulate", "--series", "2", "--steps", "20", "--out", "OUT.h5"], ""),
    "forecast": (["forecast", "RUN", "--series", "3", *PROTOCOL, "--out", "OUT"], "series_3_phase.png"),
    "evaluate": (
        ["evaluate", "RUN", "--series", "0,1", *PROTOCOL, "--unmasked-samples", "0", "--out", "OUT"],
        "report.html",
    ),
    "explore": (["explore", "DATA", "--series", "3", "--out", "OUT"], "report.html"),
    "analyse": (["analyse", "RUN", "--series", "0,1", *PROTOCOL, "--out", "OUT"], "report.html"),
    "stress": (
        ["stress", "RUN", "--groups", "noise", "--max-series", "1", *PROTOCOL, "--out", "OUT"],
        "report.html",
    ),
    "export": (["export", "RUN", "--to", "peft", "--out", "OUT"], "codec.json"),
    "merge": (["merge", "RUN/adapter", "--model", "BASE", "--side-head", "--out", "OUT"], "model.safetensors"),
    "report": (["report", "RUN", "--out", "OUT.html"], ""),
}


def command(verb: str, work: Work, out: Path) -> tuple[list[str], Path]:
    """The arguments of a verb, and the file that it writes last."""
    places = {"RUN/adapter": work.run / "adapter", "RUN": work.run, "DATA": work.data, "BASE": work.base}
    arguments, last = VERBS[verb]
    given = [str(places.get(one, one)).replace("OUT", str(out)) for one in arguments]
    return given, Path(given[-1]) / last


@pytest.mark.parametrize("verb", VERBS)
def test_31_what_cannot_be_flushed_is_one_line_and_nothing_and_the_same_command_works_again(verb, work, tmp_path):
    arguments, last = command(verb, work, tmp_path / "new" / "out")
    (tmp_path / "new").mkdir()
    before = content(work.folder)
    with full_disk():
        said = jaxlv(*arguments)
    assert said.code == 2 and said.err.startswith("jaxlv: ") and said.err.count("\n") == 1
    assert "No space left on device" in said.err and str(tmp_path / "new" / "out") in said.err
    assert not list((tmp_path / "new").iterdir()) and content(work.folder) == before
    said = jaxlv(*arguments)
    assert (said.code, said.err) == (0, "") and last.is_file()
    assert not list((tmp_path / "new").glob(f".*{SUFFIX}"))


@pytest.mark.parametrize("verb", ["simulate", "evaluate", "explore", "report"])
def test_31_a_full_disk_under_a_verb(verb, work, disk):
    arguments, last = command(verb, work, disk / "out")
    filler = fill(disk, 6000)
    said = jaxlv(*arguments)
    assert said.code == 2 and said.err.count("\n") == 1 and "o space left on device" in said.err
    assert {path.name for path in disk.iterdir()} == {"filler"}
    filler.unlink()
    said = jaxlv(*arguments)
    assert (said.code, said.err) == (0, "") and last.is_file()


def test_31_an_older_page_stays_when_a_new_one_cannot_be_written(work, tmp_path):
    folder = Path(shutil.copytree(work.run, tmp_path / "run"))
    assert jaxlv("report", folder).code == 0
    before = content(folder)
    with full_disk():
        assert jaxlv("report", folder).code == 2
    assert content(folder) == before


def test_a_file_that_cannot_be_explored_leaves_its_checks_and_does_not_block_the_next_try(work, tmp_path):
    out = tmp_path / "out"
    np.save(tmp_path / "series.npy", np.full((3, 20, 2), np.nan))
    for _ in range(2):
        said = jaxlv("explore", tmp_path / "series.npy", "--out", out)
        assert (
            said.code == 2 and "the checks are in" in said.err and [path.name for path in out.iterdir()] == ["quality.csv"]
        )
    shutil.copy(work.data, tmp_path / "series.h5")
    assert jaxlv("explore", tmp_path / "series.h5", "--out", out).code == 0 and (out / "report.html").is_file()


# ----------------------------------------------------------------------------------------------- 30 signals


def slow(work: Work, folder: Path, **named: Any) -> Child:
    """A forecast that goes on for long, in pieces after each of which a signal is answered."""
    more = ["--series", "0,1,2,3", *PROTOCOL, "--horizon", 4_000, "--reach", 4, "--samples", 20, "--out", folder / "out"]
    child = Child("forecast", work.run, *more, out=folder / "said", cache=folder / "cache", **named)
    child.wait_for("sampling:")
    return child


def test_30_a_signal_ends_a_verb_and_leaves_nothing_but_those_that_were_ignored_do_not(work, tmp_path):
    """SIGHUP is ignored under nohup, SIGINT in the background of a shell."""
    before = content(work.run)
    child = slow(work, tmp_path, ignored=[signal.SIGHUP, signal.SIGINT])
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        child.send(number)
    assert child.end() == 128 + signal.SIGTERM, child.said
    assert child.said.splitlines()[-1] == "jaxlv: SIGTERM: stopped; nothing half done is left"
    assert {path.name for path in tmp_path.iterdir()} <= {"said", "cache"} and content(work.run) == before


def test_30_what_a_killed_verb_left_is_removed_by_the_next_one(work, tmp_path):
    slow(work, tmp_path).kill()
    assert not (tmp_path / "out").exists() and list(tmp_path.glob(f".out.*{SUFFIX}"))
    assert jaxlv("export", work.run, "--to", "peft", "--out", tmp_path / "out").code == 0
    assert not list(tmp_path.glob(f".out.*{SUFFIX}"))


def test_30_a_signal_is_answered_once_and_one_that_came_too_late_for_a_run_ends_what_follows():
    asked = interrupts.Interrupts()
    with pytest.raises(interrupts.Interrupted), interrupts.Stops():
        try:
            with asked:
                signal.raise_signal(signal.SIGHUP)
                wait_until(lambda: asked.asked)
                raise interrupts.Interrupted(signal.SIGHUP, "saved")
        finally:
            signal.raise_signal(signal.SIGHUP)  # again, while it ends
    late = interrupts.Interrupts()
    with interrupts.Stops(), pytest.raises(interrupts.Stopped, match="SIGTERM"), late:
        signal.raise_signal(signal.SIGTERM)
        wait_until(lambda: late.asked)


class Falls:
    """Takes a while to go, and notices signals only in its destructor."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)
        for _ in range(1000):
            time.sleep(0)


def test_30_a_signal_that_comes_in_a_destructor_is_heard_after_it():
    hook = sys.unraisablehook
    with pytest.raises(interrupts.Stopped, match="SIGTERM"), interrupts.Stops():
        one: Any = Falls()
        del one
        wait_until(lambda: False)
    assert sys.unraisablehook is hook


def wait_until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


# ------------------------------------------------------------------------------------------------- the streams

PRINT = "from jaxlv.storage import streams; streams.protect(); import os, sys; {}"


def printing(code: str, redirected: str = "") -> subprocess.CompletedProcess[str]:
    """A process without JAX that prints through `streams`, started by a shell with redirections."""
    shell = ["bash", "-c", f'"$@" {redirected}', "bash", sys.executable, "-c", PRINT.format(code)]
    return subprocess.run(shell, capture_output=True, text=True, timeout=60)


def test_streams_that_break_or_were_closed_are_led_nowhere():
    many = "print('x' * 100_000, flush=True); print('y'); print(streams.lost(), file=sys.stderr)"
    told = printing(many, "| head -c 1; exit ${PIPESTATUS[0]}")
    assert (told.returncode, told.stdout, told.stderr) == (0, "x", "None\n")  # the reader did not want more
    told = printing(many, ">/dev/full")
    assert told.returncode == 0 and "No space left on device" in told.stderr
    assert printing("print('x'); print('y', file=sys.stderr)", "2>/dev/full").returncode == 0
    first = "print('x'); fd = os.open('/dev/null', 0); print(fd, sys.stdout.isatty(), file=sys.stderr)"
    number, terminal = printing(first, "0<&- >&-").stderr.split()
    assert int(number) > 2 and terminal == "False"
    assert int(printing(f"{first}; print(fd)", "2>&-").stdout.splitlines()[1]) > 2
    assert printing("print('\\ud800\\u2013')", "| cat").stdout == "\\ud800–\n"


def test_a_bar_on_a_terminal_that_closes_goes_on():
    bar = "with Progress('x', 9) as bar: assert bar._bar; bar.update(1); os.close(master); bar.update(9); bar.note('end')"
    terminal = "import pty; master, slave = pty.openpty(); os.dup2(slave, 2); os.close(slave)"
    told = printing(f"{terminal}; from jaxlv.tools.console import Progress\n{bar}\nprint('y'); sys.stdout.flush()")
    assert (told.returncode, told.stdout) == (0, "x: end\ny\n")  # what stays goes to the output that is left


def test_a_run_whose_output_nobody_reads_ends_as_any_other(work, tmp_path):
    """Its reader leaves after a line, and the other streams are closed: the ledger must not become one of them."""
    place, settings = tmp_path / "run", ["--set", "train.steps=4", "--set", "budget.flops=1e12"]
    jaxlv_script = [sys.executable, "-c", "from jaxlv.tools.cli import main; main()", "train", str(work.config)]
    shell = ["bash", "-c", '"$@" 0<&- 2>&- | head -1; exit ${PIPESTATUS[0]}', "bash"]
    told = subprocess.run([*shell, *jaxlv_script, "--out", str(place), *settings], capture_output=True, text=True)
    assert (told.returncode, len(told.stdout.splitlines())) == (0, 1)
    assert (place / run.ADAPTER).is_dir() and ledger.verify(place / run.LEDGER) == []
    assert [record["step"] for record in run.read_metrics(place / run.METRICS)][-1] == 4


def test_what_only_prints_fails_if_it_cannot():
    told = subprocess.run(
        ["bash", "-c", '"$@" >/dev/full', "bash", sys.executable, "-c", "from jaxlv.tools.cli import main; main()", "flops",
         "table", "--json"], capture_output=True, text=True,
    )  # fmt: skip
    assert told.returncode == 2
    assert told.stderr == "jaxlv: standard output: No space left on device; free some space\n"


# ------------------------------------------------------------------------------------------ what ends a program


class PanicException(BaseException):
    """The exception that an extension written in Rust raises."""


def raising(fault: BaseException, *arguments: str) -> None:
    """A verb that ends so."""

    def test() -> None:
        raise fault

    console.start(console.verb(test), arguments)


@pytest.fixture(autouse=True)
def compiled_elsewhere(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(devices, "keep_compiled_programs", lambda: None)
    yield


@pytest.mark.parametrize(
    ("fault", "code", "line"),
    [
        (PanicException("`unwrap()`\non a \x1b[31m"), 1, r"unforeseen PanicException: `unwrap()` on a \x1b[31m;"),
        (ValueError("x" * 10_000), 1, "unforeseen ValueError: xxxx"),
        (MemoryError("Unable to allocate 7.45 GiB"), 2, "out of memory (Unable to allocate 7.45 GiB); take fewer series"),
        (MemoryError(), 2, "out of memory (no more is to be had); take fewer series"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), 2, "out of memory (RESOURCE_EXHAUSTED"),
        (JaxlvError("bad \x1b[31m"), 2, r"bad \x1b[31m"),
        (OSError(errno.ENOSPC, "No space", "a\x1b[31m.txt"), 2, r"a\x1b[31m.txt: No space; free some space"),
        (KeyboardInterrupt(), 130, "SIGINT: stopped; nothing half done is left"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)  # fmt: skip
def test_whatever_ends_a_program_is_one_printable_line(fault, code, line, capsys):
    with pytest.raises(SystemExit) as ended:
        raising(fault)
    told = capsys.readouterr().err
    assert ended.value.code == code and told.startswith(f"jaxlv: {line}")
    assert told.count("\n") == 1 and told[:-1].isprintable() and len(told) < 1000
    if code in (1, 2):
        with pytest.raises(type(fault)):
            raising(fault, "--debug")


def test_what_a_library_logs_is_a_line_whatever_handler_it_has_installed(capsys, monkeypatch):
    """absl and `logging.error` call `basicConfig` if nobody has set a handler; one that somebody has configured stays."""
    theirs = logging.StreamHandler()
    theirs.setFormatter(logging.Formatter("%(message)s"))
    for held, told in (([], "jaxlv: note: absl: a \\x1b[31m\n"), ([theirs], "a \x1b[31m\n")):
        monkeypatch.setattr(logging.root, "handlers", held)
        logging.basicConfig()  # does nothing if a handler is set
        endings.shorten_others()
        logging.getLogger("absl").error("a \x1b[31m")
        assert capsys.readouterr().err == told


def test_what_fails_at_exit_is_a_line_too():
    """JAX clears up when a process ends; that it cannot, for lack of memory, is no reason for a traceback."""
    code = "import atexit\natexit.register(lambda: 1 / 0)\nfrom jaxlv.tools.cli import main\nmain(['train', 'no.toml'])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    told = ended.stderr.splitlines()
    assert ended.returncode == 2 and len(told) == 2 and told[0].startswith("jaxlv: ") and "no.toml" in told[0]
    assert told[1] == "jaxlv: note: ignored ZeroDivisionError: division by zero"


def test_options_and_warnings_are_printable_too(capsys):
    with pytest.raises(SystemExit):
        raising(ValueError(), "--\x1b[31m")
    assert r"Unknown option: --\x1b[31m" in capsys.readouterr().err
    assert jaxlv("tr\x1b[31m").err.startswith(r"jaxlv: no verb 'tr\x1b[31m'")
    with console.one_line():
        warnings.warn("ours \x1b[31m", JaxlvWarning, stacklevel=1)
        foreign = warnings.formatwarning("two\nlines \x1b[31m", RuntimeWarning, "file.py", 1)
    assert capsys.readouterr().err == "jaxlv: note: ours \\x1b[31m\n"
    assert foreign == "jaxlv: RuntimeWarning: two lines \\x1b[31m\n"
