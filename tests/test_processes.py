"""Several processes as one program: real ones on this machine, which train, are killed, and go on in other numbers."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jaxlv import processes
from jaxlv.errors import JaxlvError
from jaxlv.flops import ledger
from jaxlv.runs import run
from jaxlv.runs.records import read_metrics
from tests.programs import done

PROGRAM = [sys.executable, "-c", "from jaxlv.tools.cli import main; main()"]
SETTINGS = (
    "data.simulate=12", "windows.length=64", "windows.stride=200", "train.batch_size=4", "train.log_every=1",
    "train.validate_every=4", "train.validation_windows=4", "train.forecast_series=0", "train.checkpoint_every=2",
    "lora.rank=2", "optimizer.learning_rate=0.01", "budget.flops=1e14",
)  # fmt: skip


started: list[subprocess.Popen] = []


def options(base: Path, steps: int, *more: str) -> list[str]:
    settings = (f"model.path={str(base)!r}", f"train.steps={steps}", *SETTINGS, *more)
    return ["demo", *(part for one in settings for part in ("--set", one))]


def begun(
    number: int, *arguments: Any, temporary: Path | None = None, program: Sequence[str] = PROGRAM
) -> list[subprocess.Popen]:
    """Starts a command in so many processes, which have their copies in a folder of temporary files."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{found.getsockname()[1]}"
    group = ["--coordinator", place, "--processes", str(number), "--process"]
    told = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    if temporary is not None:
        told["TMPDIR"] = str(temporary)
    made = [
        subprocess.Popen(
            [*program, *map(str, arguments), *group, str(index)], env=told, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        for index in range(number)
    ]  # fmt: skip
    started.extend(made)
    return made


@pytest.fixture(autouse=True)
def none_is_left() -> Iterator[None]:
    """Ends what a test that failed has started: it would slow down those after it until they fail, too."""
    yield
    while started:
        one = started.pop()
        one.kill()
        one.wait()


def ended(group: Sequence[subprocess.Popen], seconds: float = 300) -> list[tuple[int, str]]:
    """Waits for processes: the exit status and what each said on standard error."""
    return [(one.wait(seconds), one.stderr.read() if one.stderr else "") for one in group]


def until(condition: Callable[[], bool], seconds: float = 600) -> None:  # a machine may be busy
    last = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < last, "it does not begin"
        time.sleep(0.02)


def losses(folder: Path) -> dict[int, float]:
    return {record.step: record["loss"] for record in read_metrics(folder / run.METRICS) if "loss" in record}


def same(folder: Path, whole: dict[int, float]) -> None:
    found = losses(folder)
    assert found.keys() == whole.keys()
    np.testing.assert_allclose([found[step] for step in whole], list(whole.values()), atol=5e-6, rtol=0)


@pytest.fixture(scope="module")
def undisturbed(tiny_base, tmp_path_factory) -> dict[int, float]:
    out = tmp_path_factory.mktemp("whole") / "run"
    done("train", *options(tiny_base, 8), "--out", out)
    return losses(out)


def test_two_processes_train_as_one_and_one_goes_on(tiny_base, undisturbed, tmp_path):
    """A signal to the second process ends both after the same step; a single process then takes the rest."""
    out, copies = tmp_path / "run", tmp_path / "copies"
    copies.mkdir()
    left = copies / f"{processes.COPIES}{2**22 + 1}-left"  # of a process that is gone: no number is so high
    left.mkdir()
    group = begun(2, "train", *options(tiny_base, 8), "--out", out, temporary=copies)
    until(lambda: (out / run.METRICS).is_file())
    group[1].send_signal(signal.SIGUSR1)
    for code, said in ended(group):
        assert code == 0, said
    assert 0 < max(losses(out)) <= 8
    done("train", "--resume", out)
    same(out, undisturbed)
    spent = ledger.begun(out / run.LEDGER)
    assert spent is not None and spent.account.totals().uncertain == 0
    steps = sum(entry.event.count for entry in spent.entries if entry.event.kind == "train_step")
    assert steps == 8 and not list(copies.glob(f"{processes.COPIES}*"))


SLOW = """
import time
from jaxlv import processes
from jaxlv.tools.cli import main

processes.HEARTBEAT, leave = 3, processes.leave

def late(code):
    time.sleep(0 if processes.index() else 9)
    leave(code)

processes.leave = late
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_all_wait_until_process_0_has_saved(tiny_base, number, tmp_path):
    """It takes longer than a process may be without a sign of life; the signal comes to the other one."""
    out = tmp_path / "run"
    group = begun(2, "train", *options(tiny_base, 10**4), "--out", out, program=[sys.executable, "-c", SLOW])
    until(lambda: (out / run.METRICS).is_file())
    group[1].send_signal(number)
    for code, said in ended(group):
        assert code == 128 + number, said
        assert f"{number.name}: saved at step" in said
    assert run.read_manifest(out) and max(losses(out)) > 0


def test_a_run_whose_writer_is_killed_goes_on_with_four(tiny_base, undisturbed, tmp_path):
    out = tmp_path / "run"
    group = begun(2, "train", *options(tiny_base, 8), "--out", out)
    until(lambda: (out / run.METRICS).is_file())
    group[0].kill()
    (killed, _), (other, _) = ended(group)
    assert killed == -signal.SIGKILL and other != 0
    again = begun(4, "train", "--resume", out)
    for code, said in ended(again):
        assert code == 0, said
    same(out, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(50))
def test_a_kill_at_any_instant_loses_nothing(turn, tiny_base, undisturbed, tmp_path):
    """Every second kill hits the writer; each run goes on in another number of processes."""
    draw, out, number = random.Random(turn), tmp_path / "run", (2, 4)[turn % 3 % 2]
    group = begun(number, "train", *options(tiny_base, 8), "--out", out)
    until(lambda: (out / run.LEDGER).is_file())
    time.sleep(draw.uniform(0, 8))
    group[0 if turn % 2 else draw.randrange(1, number)].kill()
    ended(group)
    again = ["--resume", out] if (out / run.CONFIG).is_file() else [*options(tiny_base, 8), "--out", out]
    for code, said in ended(begun((1, 2, 4)[turn % 3], "train", *again)):
        assert code == 0, said
    same(out, undisturbed)
    spent = ledger.begun(out / run.LEDGER)
    assert spent is not None and not ledger.checked(spent)
    taken = [entry for entry in spent.entries if entry.event.kind == "train_step"]
    price = taken[0].flops // taken[0].event.count
    assert sum(entry.flops for entry in taken) >= 8 * price and spent.account.totals().executed <= spent.terms.budget


STARVED = """
import sys
from types import SimpleNamespace
import jax
from jaxlv import processes
from jaxlv.steps.stack import Stack
from jaxlv.tools.cli import main

instant, most, spared, *starved = sys.argv.pop(1).split()  # which processes hold `most` windows, after so many steps
processes.TOGETHER, make, taken = 3, Stack.step, [0]

def check(at, batch):
    if at == instant and str(processes.index()) in starved and batch.ids_ML.shape[-2] > int(most):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes")

def step(self, at_once=0):
    made = make(self, at_once)

    def lower(state, frozen, batch):
        def compiled():
            check("compile", batch)
            return Program(made.lower(state, frozen, batch).compile())
        return SimpleNamespace(compile=compiled)

    return SimpleNamespace(lower=lower)

class Program:
    def __init__(self, compiled):
        self.compiled, self.memory_analysis = compiled, compiled.memory_analysis

    def __call__(self, state, frozen, batch):
        taken[0] += 1
        if taken[0] > int(spared):
            check("run", batch)
        return self.compiled(state, frozen, batch)

Stack.step = step
main()
"""


def starved(instant: str, most: int, spared: int, *which: int) -> list[str]:
    return [sys.executable, "-c", STARVED, " ".join(map(str, (instant, most, spared, *which)))]


@pytest.mark.parametrize(
    ("instant", "spared", "which", "saved"),
    [pytest.param("compile", 0, [1], 0, marks=pytest.mark.slow), ("run", 5, [0, 1], 4)],
)
def test_all_halve_the_batch_if_memory_runs_out_before_any_waits_for_another(
    instant, spared, which, saved, tiny_base, undisturbed, tmp_path
):
    """In one process when the step is compiled, in all of them when it begins; those then go on from a checkpoint."""
    out, asked = tmp_path / "run", options(tiny_base, 8, "train.halve_on_oom=true")
    for code, said in ended(begun(2, "train", *asked, "--out", out, program=starved(instant, 2, spared, *which))):
        assert code == 0, said
    same(out, undisturbed)
    spent = ledger.begun(out / run.LEDGER)
    assert spent is not None and not ledger.checked(spent)
    taken = [entry.event for entry in spent.entries if entry.committed and entry.event.kind == "train_step"]
    assert [(one.batch, one.accumulate) for one in taken] == [(4, 1)] * saved + [(2, 2)] * (8 - saved)


@pytest.mark.slow
def test_none_goes_on_if_memory_runs_out_in_one_process_while_another_waits_for_it(tiny_base, undisturbed, tmp_path):
    out, asked = tmp_path / "run", options(tiny_base, 8, "train.halve_on_oom=true")
    (first, _), (second, said) = ended(begun(2, "train", *asked, "--out", out, program=starved("run", 2, 5, 1)))
    assert first != 0 and second == 2
    assert "out of memory in the train step of this process, while others were within it" in said
    done("train", "--resume", out)
    same(out, undisturbed)


WAITS = """
import time
from jaxlv import processes
processes._group.count = 2
with processes.watched(0.3, "go on with --resume run"):
    for _ in range(4):
        time.sleep(0.1)
        processes.beat()
    print("still here", flush=True)
    time.sleep(60)
"""


def test_a_process_whose_steps_do_not_end_gives_up_with_one_line():
    done = subprocess.run([sys.executable, "-c", WAITS], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (processes.EXIT, "still here\n")
    assert done.stderr == "process 0: no step has ended for 0.3 s; go on with --resume run\n"


@pytest.mark.parametrize(
    "environment, name",
    [
        ({}, ""),
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, ""),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, "SLURM"),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}, "Open MPI"),
        ({"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, ""),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ""),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, "Kubernetes"),
    ],
)
def test_launchers_are_known_by_their_variables(environment, name):
    assert processes.detected(environment) == name


def test_a_single_process_decides_by_itself(tmp_path):
    assert processes.agreed({"steps": 3}) == {"steps": 3} and processes.own(tmp_path) == tmp_path
    assert not processes.signals() and not processes.preempted(1) and (processes.count(), processes.index()) == (1, 0)


@pytest.mark.parametrize("given", [("host:1", None, None), (None, 2, 0), ("host:1", 2, 2), ("host:1", 2, -1)])
def test_what_says_who_one_is_goes_together(given, monkeypatch):
    monkeypatch.setattr(processes, "detected", lambda: "Kubernetes")
    processes.join(processes=1)
    assert processes.count() == 1
    with pytest.raises(JaxlvError, match=r"go together|no such process"):
        processes.join(*given)


# ------------------------------------------------------------------------------------------------ what is said


class Service:
    """The service that processes share, in one of them: keys and values."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        assert allow_overwrite or key not in self.held
        self.held[key] = value

    def key_value_delete(self, key: str) -> None:
        del self.held[key]

    def blocking_key_value_get(self, key: str, milliseconds: int) -> str:
        return self.held[key]

    def key_value_dir_get(self, folder: str) -> list[tuple[str, str]]:
        return [(key, value) for key, value in self.held.items() if key.startswith(folder)]


@pytest.fixture
def as_process(monkeypatch):
    """(number) -> that process of three: this one goes on in its place."""
    service, groups = Service(), {}

    def go_on(number: int) -> Service:
        if number not in groups:
            groups[number] = processes._Group()
            groups[number].count, groups[number].index, groups[number].client = 3, number, service
        monkeypatch.setattr(processes, "_group", groups[number])
        return service

    return go_on


def test_all_processes_hear_what_process_0_decides_in_its_order(as_process, monkeypatch):
    monkeypatch.setattr(processes, "KEPT", 4)
    said = [{"steps": 3}, True, None, "a", 5, 6]
    for first, last in ((0, 4), (4, 6)):
        for number in (0, 1, 2):
            service = as_process(number)
            told = [processes.agreed(value if number == 0 else "its own") for value in said[first:last]]
            assert told == said[first:last]
    assert len(service.held) == 4  # those that a process may still have to read


def test_signals_reach_process_0_alone(as_process):
    for number in (2, 0, 1):
        as_process(number)
        processes.asked(10 + number)
    assert not processes.signals()
    as_process(0)
    assert sorted(processes.signals()) == [11, 12]


def test_others_end_as_process_0_has_ended(as_process, monkeypatch, capsys):
    def end(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(processes.os, "_exit", end)
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: None)
    for number, expected in ((0, "3"), (2, "3")):
        as_process(number)
        with pytest.raises(SystemExit, match=expected):
            processes.agreed(1) if number else processes.leave(3)
    assert capsys.readouterr().err == "process 2: process 0 has ended: its last line says why\n"


def test_patience_is_for_several_processes_and_ends_with_what_is_heard(as_process, monkeypatch):
    """Of 0 seconds there is no end; a decision is a sign of life."""
    watching: list[float] = []
    started = lambda target, args, **named: SimpleNamespace(start=lambda: watching.append(args[1]))  # noqa: E731
    monkeypatch.setattr(processes.threading, "Thread", started)
    for count, patience in ((1, 5.0), (3, 0.0), (3, 7.0)):
        as_process(0)
        processes._group.count = count
        with processes.watched(patience, "go on"):
            pass
    assert watching == [7.0]
    processes._group.heard = 0.0
    processes.agreed("a")
    assert processes._group.heard > 0


def test_a_process_that_leaves_takes_its_copies_with_it(as_process, monkeypatch, tmp_path):
    monkeypatch.setattr(processes.os, "_exit", lambda code: None)
    as_process(1)
    processes._group.scratch = tmp_path / "copies"
    (tmp_path / "copies" / "0").mkdir(parents=True)
    processes.leave(3)
    assert not (tmp_path / "copies").exists()


def test_who_ends_together_with_process_0_waits_for_it(as_process, monkeypatch):
    def end(code: int) -> None:
        raise SystemExit(code)

    waited = []
    monkeypatch.setattr(processes.os, "_exit", end)
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(Service, "blocking_key_value_get", lambda self, key, most: waited.append((key, key in self.held)))
    for number, agreed in ((1, False), (0, True), (2, True)):  # process 1 has failed by itself
        as_process(number)
        if agreed:
            processes.end_together()
        with pytest.raises(SystemExit, match="143"):
            processes.leave(143)
    assert waited == [(processes.LEFT, True)]


def test_each_process_but_the_first_writes_into_copies_of_its_own(as_process, tmp_path, monkeypatch):
    monkeypatch.setattr(processes.tempfile, "tempdir", str(tmp_path / "copies"))
    (tmp_path / "copies").mkdir()
    mine, gone = (tmp_path / "copies" / f"{processes.COPIES}{number}-x" for number in (os.getpid(), 2**22 + 1))
    folder = tmp_path / "run"
    for one in (mine, gone, folder):
        one.mkdir()
    for name in ("config.toml", "lock", "save"):
        (folder / name).write_text(name)
    as_process(0)
    assert processes.own(folder) == folder
    as_process(1)
    place, absent = processes.own(folder), processes.own(tmp_path / "none" / "run")
    assert place.name == absent.name == "run" and place != folder and not absent.exists()
    assert [path.name for path in place.iterdir()] == ["config.toml"]
    (place / "config.toml").write_text("changed")
    assert processes.own(folder) == place and (place / "config.toml").read_text() == "changed"
    assert (folder / "config.toml").read_text() == "config.toml"
    assert mine.exists() and not gone.exists()  # whose process is there, or not
