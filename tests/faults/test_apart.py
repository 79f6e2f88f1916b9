"""The process that reads files of others: whatever happens to it is told in a few words, and it sees nothing of ours."""

from __future__ import annotations

import builtins
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jaxlv.errors import JaxlvError
from jaxlv.storage import apart
from jaxlv.storage.apart import Apart, Failure, Limits, call

ROOT = Path(__file__).parents[2]
BRIEF = Limits(computing=1, seconds=20, memory=1 << 28, answer=1000)
QUICK = Limits(computing=5, seconds=1)


def python(source: str, limits: Limits = BRIEF) -> Any:
    """The value of an expression in another process."""
    return call(builtins.eval, source, limits=limits)


def test_arguments_go_there_and_the_answer_comes_back():
    assert call(math.gcd, 12, 18) == 6
    assert call(builtins.len, b"\xff\x00 bytes") == 8
    assert call(builtins.sorted, "é\ud800\n") == ["\n", "é", "\ud800"]
    large = "x" * (1 << 20)  # more than a pipe holds, both ways
    assert python(f"'{large}' + 'y'", Limits()) == large + "y"


def test_an_object_stays_there_and_is_asked_by_its_methods():
    worker = Apart(builtins.list, [3, 1, 2])
    assert worker.ask("count", 1) == 1 and worker.ask("append", 1) is None and worker.ask("count", 1) == 2
    with pytest.raises(Failure, match=r"^IndexError: pop index out of range$"):
        worker.ask("pop", 99)
    assert worker.ask("pop") == 1  # a request that failed by an exception has ended nothing
    worker.close()
    with pytest.raises(Failure, match="the other process has ended"):
        worker.ask("pop")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("any(iter(int, 1))", "no end after 1 s of computing"),
        ("b'1' * (1 << 29)", "MemoryError"),
        ("'x' * 2000", "an answer of more than"),
        ("__import__('ctypes').string_at(0)", "SIGSEGV"),
        ("__import__('os').abort()", "SIGABRT: a crash, or more memory than 256 MiB"),
        ("__import__('os')._exit(3)", "exit status 3"),
        ("__import__('sys').exit(3)", "SystemExit: 3"),
        ("object()", "TypeError: Object of type object is not JSON serializable"),
        ("1 /", "SyntaxError"),
        ("(lambda f: f(f))(lambda f: f(f))", "RecursionError"),
        ("(_ for _ in ()).throw(type('Panic', (BaseException,), {})('in\\x1b\\n Rust'))", r"^Panic: in\\x1b Rust$"),
        ("open('/dev/full', 'w').write('x' * 9999)", "OSError"),
    ],
)
def test_whatever_becomes_of_the_work_is_a_few_words(source, told):
    with pytest.raises(Failure, match=told) as caught:
        python(source)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_waiting_ends_too():
    began = time.monotonic()
    with pytest.raises(Failure, match="no end after 1 s"):
        python("__import__('time').sleep(60)", QUICK)
    assert time.monotonic() - began < 20


def test_what_is_printed_is_no_answer():
    assert python("[print('x' * 100000), __import__('os').write(1, b'{}'), 5][2]") == 5


def test_nothing_of_the_environment_is_there_and_no_file_grows(monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET_TOKEN", "1234")
    monkeypatch.setenv("HOME", str(tmp_path))
    seen = python("dict(__import__('os').environ)", Limits())
    assert set(seen) <= {*apart.ALONE, *apart.PASSED_ON, "LC_CTYPE"}
    with pytest.raises(Failure, match="File too large"):
        python(f"open({str(tmp_path / 'x')!r}, 'w', buffering=1).write('line\\n')")
    assert not (tmp_path / "x").exists() or (tmp_path / "x").stat().st_size == 0


def test_larger_requests_have_larger_limits():
    """A text of 2 MiB may take 20 s and 1 GiB more; the next, small one may not."""
    worker = Apart(builtins.dict, limits=BRIEF)
    size = 2 << 20
    assert BRIEF.grown(size, 0).memory == BRIEF.memory + (1 << 30)
    assert BRIEF.grown(0, size).memory == BRIEF.memory
    assert worker.ask("get", "x" * size, "x" * size) == "x" * size
    with pytest.raises(Failure, match="an answer of more than"):
        worker.ask("setdefault", "y", ["x"] * 300)
        worker.ask("__repr__")


ASKING = """
import builtins, threading, time
from jaxlv.storage.apart import Apart, call
idle = Apart(builtins.dict)
threading.Thread(target=call, args=(builtins.eval, "any(iter(int, 1))"), daemon=True).start()
print("ready", flush=True)
time.sleep(60)
"""


def test_it_ends_with_the_process_that_asked():
    """Idle or in the middle of its work, and by SIGKILL, which no process can notice beforehand."""
    with subprocess.Popen([sys.executable, "-c", ASKING], stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        pids = wait_until(lambda: found if len(found := children(process.pid)) == 2 else None)
        wait_until(lambda: any(seconds(pid) > 0.3 for pid in pids))  # one of them is at work
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(map(running, pids)))


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(one) for task in tasks for one in (task / "children").read_text().split()]


def stat_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def seconds(pid: int) -> float:
    """Returns the seconds that a process has computed."""
    return int(stat_of(pid)[11]) / os.sysconf("SC_CLK_TCK")


def running(pid: int) -> bool:
    try:
        return stat_of(pid)[0] not in "ZX"
    except OSError:
        return False


def wait_until(asked: Any, seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := asked()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


def test_it_ends_when_nobody_holds_it_any_more():
    worker = Apart(builtins.dict)
    pid = worker._process.pid
    assert running(pid)
    del worker
    assert not running(pid)


FORKED = """
import builtins, os
from jaxlv.storage.apart import Apart
worker = Apart(builtins.list, [7])
if os.fork() == 0:
    worker.close()
    raise SystemExit(0)
os.wait()
print(worker.ask("count", 7))
"""


def test_a_fork_of_the_process_that_asked_ends_nothing():
    told = subprocess.run([sys.executable, "-c", FORKED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "1\n" and told.stderr == ""


@pytest.mark.parametrize(("name", "value"), [("executable", ""), ("executable", None), ("frozen", True)])
def test_without_a_python_nothing_is_read_unguarded(monkeypatch, name, value):
    monkeypatch.setattr(sys, name, value, raising=False)
    with pytest.raises(JaxlvError, match="no Python for it is known; set it to the path of a Python that has jaxlv"):
        call(math.gcd, 2, 4)


@pytest.mark.parametrize(("program", "told"), [("/no/such/python", "no other process"), ("/bin/true", "exit status 0 of")])
def test_what_is_no_python_is_said(monkeypatch, program, told):
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(Failure, match=told):
        call(math.gcd, 2, 4)
