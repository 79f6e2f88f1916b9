"""What is being done is told: after a second, again in a long silence, and never under --quiet."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

import pytest

from jaxlv import activity, front
from jaxlv.data import loading
from jaxlv.forecasting.baselines import BASELINES, in_turn
from jaxlv.studies import progress
from jaxlv.studies.progress import Lines, Teller
from tests.programs import jaxlv


def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lets everything be heard at once, and returns what is."""
    words: list[str] = []

    def listen(_: Teller, text: str, soon: bool = True) -> contextlib.AbstractContextManager[None]:
        words.append(text if soon else f"({text})")
        return contextlib.nullcontext()

    monkeypatch.setattr(activity, "_compiled", set())
    monkeypatch.setattr(Teller, "__call__", listen)
    return words


class Waiting:
    """Stands for the event that ends some work at `end` seconds; meanwhile other lines are said at their times."""

    def __init__(self, end: float, lines: dict[float, str] | None = None):
        self.now, self.end, self.lines, self.teller = 0.0, end, dict(lines or {}), Teller(print)

    def wait(self, seconds: float) -> bool:
        until = min(self.now + seconds, self.end)
        for at in sorted(at for at in self.lines if at <= until):
            self.now = at
            self.teller.say(self.lines.pop(at))
        self.now = until
        return self.now >= self.end


def told(monkeypatch: pytest.MonkeyPatch, end: float, soon: bool = True, **lines: float) -> list[tuple[float, str]]:
    """Returns (second, line) of what is said while some work takes `end` seconds."""
    said: list[tuple[float, str]] = []
    ended = Waiting(end, {at: text for text, at in lines.items()})
    monkeypatch.setattr(progress.time, "monotonic", lambda: ended.now)
    ended.teller = Teller(lambda text: said.append((ended.now, text)))
    ended.teller.tell("work", soon, ended)  # type: ignore[arg-type]
    monkeypatch.undo()
    return said


def test_what_takes_a_second_is_told_and_again_each_half_minute_of_silence(monkeypatch):
    assert told(monkeypatch, 0.9) == [] == told(monkeypatch, 29, soon=False)
    assert told(monkeypatch, 20) == [(1, "work ...")]
    assert told(monkeypatch, 70) == [(1, "work ..."), (31, "work: 31 s so far"), (61, "work: 61 s so far")]
    spoken = told(monkeypatch, 80, soon=False, a=5, b=25, c=54)
    assert spoken[:3] == [(5, "a"), (25, "b"), (54, "c")] and len(spoken) == 3  # no half minute without a line
    assert told(monkeypatch, 90, soon=False, a=20) == [(20, "a"), (50, "work: 50 s so far"), (80, "work: 80 s so far")]


def test_the_words_are_told_while_the_work_goes_on():
    said: list[str] = []
    with Teller(said.append, first=0.0)("work"):
        until = time.monotonic() + 20
        while not said and time.monotonic() < until:
            time.sleep(0.01)
    assert said == ["work ..."]


def test_nobody_is_told_unless_somebody_listens(monkeypatch):
    words = heard(monkeypatch)
    with activity.doing("a"), activity.heard_by(front.TELLER), activity.doing("b"):
        with activity.heard_by(None), activity.doing("c"):
            pass
        with activity.doing("d", soon=False):
            pass
    assert words == ["b", "(d)"]


def test_a_program_is_compiled_once_for_each_shape(monkeypatch):
    words = heard(monkeypatch)
    with activity.heard_by(front.TELLER):
        for shape in ((2, 3), (2, 3), (2, 4)):
            with activity.compiling("x", shape):
                pass
        assert words == ["compiling x (once per shape, then cached)"] * 2
        with Lines("train", 3, words.append):
            assert words[2:] == ["(train)"]


def test_a_notebook_hears_what_is_read_loaded_compiled_and_compared(monkeypatch, tiny_base, tmp_path):
    words, path = heard(monkeypatch), tmp_path / "a.csv"
    path.write_text("year,hare,lynx\n" + "".join(f"{1900 + t},{3 + t % 4},{5 + t % 3}\n" for t in range(16)))
    forecaster = front.Forecaster(tiny_base)
    forecaster.evaluate(path, horizon=2, samples=2, context=12)
    compiled = "compiling {} (once per shape, then cached)".format
    assert words[:4] == ["loading the weights of tiny", "reading a.csv", "(forecasts)", compiled("the generation of texts")]
    assert words[4:] == [
        compiled("the likelihoods"),
        *(f"baselines: {n} of {len(BASELINES)}, {name}" for n, name in enumerate(BASELINES, 1)),
    ]
    words.clear()
    front.Forecaster(tiny_base, progress=False).read(path)
    assert not words


def test_the_next_baseline_ends_the_one_before(monkeypatch):
    words = heard(monkeypatch)
    with activity.heard_by(front.TELLER):
        assert [name for name, _ in in_turn({"a": max, "b": min})] == ["a", "b"]  # type: ignore[dict-item]
    assert words == ["baselines: 1 of 2, a", "baselines: 2 of 2, b"]


def test_programs_tell_it_unless_they_are_quiet(monkeypatch, tmp_path):
    words = heard(monkeypatch)
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n3,4\n")
    refused = jaxlv("explore", path, "--out", tmp_path / "x", "--tokenizer", ".")
    assert refused.code == 2 and words == ["(loading JAX)", "(explore)", "reading a.csv", "reading a.csv"]
    words.clear()
    jaxlv("explore", path, "--out", tmp_path / "x", "--tokenizer", ".", "--quiet")
    assert not words


ON_A_TERMINAL = """
import os, pty, sys, time
master, slave = pty.openpty(); os.dup2(slave, 2)
from jaxlv.storage import streams; streams.protect()
from jaxlv.activity import doing, heard_by
from jaxlv.tools import console
with heard_by(console.TELLER):
    with doing("reading a\\x1b[31m.csv"):
        time.sleep(1.3)
        console.say("a line")
    with console.Progress("train", 3) as bar, doing("compiling"):
        time.sleep(1.3)
sys.stderr.flush()
print(repr(os.read(master, 100_000).decode()))
"""


def test_on_a_terminal_one_line_is_rewritten_and_gone_in_the_end():
    done = subprocess.run([sys.executable, "-c", ON_A_TERMINAL], capture_output=True, text=True, timeout=60)
    first, shown = done.stdout.splitlines()
    status, clear = r"\r\x1b[2Kreading a\\x1b[31m.csv 1 s", r"\r\x1b[2K"
    assert first == "a line" and status + clear in shown and "compiling 1 s" in shown


def test_a_file_is_read_by_one_that_listens(tmp_path):
    words: list[str] = []
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3,4\n")
    with activity.heard_by(lambda text, soon: words.append(text) or contextlib.nullcontext()):
        loading.load_series(tmp_path / "a.csv")
    assert words == ["reading a.csv"]
