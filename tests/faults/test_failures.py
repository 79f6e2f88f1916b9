"""Programs whose n-th write, flush, rename, new file, removal, reading or allocation fails. They survive it or end in one
line, and the next command has the same result as if nothing had failed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jaxlv.errors import WHOLE
from jaxlv.flops import ledger
from jaxlv.runs import run, sweep
from jaxlv.runs.checkpoint import Checkpoints
from jaxlv.storage.files import broken
from tests import quick
from tests.faults.conftest import CLOCK, LONG
from tests.faults.disk import is_unfinished
from tests.faults.shim import CHANGES, FULL, GONE, ONCE, Ended, Failure, Kind, Shim
from tests.test_compare import data  # noqa: F401

MODES = {ONCE: "once", FULL: "full", GONE: "gone"}
STRIDE = int(os.environ.get("JAXLV_FAULTS_STRIDE", 1))  # the long mode fails one of so many operations
MOST = {FULL: 60, GONE: 60} if LONG else {ONCE: 2, FULL: 1, GONE: 1}  # failures of each program in a mode; ONCE: all


class Verb(NamedTuple):
    """A program to be failed, in a folder of its own. What it writes there is `out`, unless its arguments say otherwise."""

    arguments: Callable[[Path], Sequence[object]]  # from that folder
    result: Callable[[Path], Any]  # what must be the same in the end, from that folder
    again: Callable[[Path], Sequence[object] | None] = lambda place: []  # what the next command adds; None = no next command
    prepare: Callable[[Path], Any] = lambda place: None  # before
    check: Callable[[Path, int], None] = lambda place, mode: None  # after a failure in some mode
    kinds: Kind = CHANGES
    least: int = 0  # bytes from which an allocation counts
    fresh: bool = False  # each call in a process of its own
    configs: object = ""  # those of tests.quick, if that makes the program a quick one

    def call(
        self, shim: Shim, place: Path, worker: str, failure: Failure | None = None, more: Sequence[object] = ()
    ) -> Ended:
        """Run it in a folder."""
        failure = failure or Failure(kinds=self.kinds, least=self.least)
        worker = "" if self.fresh else f"{worker if LONG else 'one'} {self.configs}"  # one compiles half as much as two
        return shim.call(*self.arguments(place), *more, failure=failure, worker=worker, configs=self.configs)


def lines_of(ended: Ended) -> list[str]:
    """Returns the lines that were printed as errors: neither notes nor warnings (such as that XLA's cache could not be
    read), nor what XLA logs by itself ("E1129 20:50:45.317573 ...").
    """
    told = [line for line in ended.err.splitlines() if not re.match(r"[EW]\d{4} \d\d:\d\d:", line)]
    return [line for line in told if not line.startswith(("jaxlv: note: ", "jaxlv: UserWarning: "))]


def assert_one_line(ended: Ended, place: Path) -> None:
    """A failure is survived in silence, or ends with one line of bounded length that names a file or folder of the user's.

    Memory that XLA lacks in a thread of its own ends the process by a signal, which no program can turn into a line.
    """
    lines, memory = lines_of(ended), ended.what.startswith("ALLOCATE")
    if memory and -ended.code in (signal.SIGABRT, signal.SIGSEGV):
        return
    if not ended.code:
        assert not lines, lines
        return
    assert ended.code == 2 and len(lines) == 1, (ended.code, ended.err)
    (line,) = lines
    assert line.startswith("jaxlv: ") and line.isprintable() and len(line) < WHOLE + 20, line
    assert "unforeseen" not in line and ".tmp" not in line, line
    assert str(place) in line or memory, line


def unfinished(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if is_unfinished(path.name)]


def remove_left(folder: Path) -> None:
    for path in unfinished(folder):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def fail(shim: Shim, verb: Verb, place: Path, whole: Any, failure: Failure) -> Ended:
    """Let an operation of a program fail, then run the next command."""
    place.mkdir()
    verb.prepare(place)
    ended = verb.call(shim, place, "fails", failure)
    assert_one_line(ended, place)
    if ended.code:
        verb.check(place, failure.mode)
        if (more := verb.again(place)) is not None:
            again = verb.call(shim, place, "goes on", more=more)
            assert again.code == 0 and not lines_of(again), (ended, again)
        elif failure.mode == GONE:  # the result is whole; what could not be removed goes with the next command
            remove_left(place)
    elif ended.what.startswith(CLEARING):  # what could not be removed goes with the next command
        remove_left(place)
    assert not unfinished(place), (ended, unfinished(place))
    found = verb.result(place)
    if not ended.code and ended.what.startswith(CLEARING) and "kept" in found and found != whole:
        assert set(found["kept"][0]) > set(whole["kept"][0]), ended  # an older checkpoint is still there
        again = verb.call(shim, place, "goes on", more=["--resume"])
        assert again.code == 0 and not lines_of(again), (ended, again)
        found = verb.result(place)
    assert found == whole, ended
    shutil.rmtree(place)
    return ended


# An older checkpoint is found, renamed and removed. A failure there is survived, and the next command does it.
CLEARING = tuple(kind.name for kind in (Kind.REMOVE, Kind.RENAME, Kind.READ))


def spread(count: int, mode: int) -> list[int]:
    """Returns the operations that fail: all, or some at equal distances."""
    most = max(1, min(count, MOST.get(mode, count)) // (STRIDE if LONG else 1))
    return sorted({1 + int((i + 0.5) * count / most) for i in range(most)})


def fail_at_each(shim: Shim, name: str, verb: Verb, root: Path, modes: Sequence[int] = (ONCE, FULL, GONE)) -> Path:
    """Fails every operation of a program in the long mode, otherwise some; returns the folder of an undisturbed run."""
    place = root / f"{name}-whole"
    place.mkdir()
    verb.prepare(place)
    undisturbed = verb.call(shim, place, "fails")
    assert undisturbed.code == 0, undisturbed
    whole, done, wrong = verb.result(place), Counter[str](), []
    for mode in modes:
        kinds = verb.kinds & ~Kind.REMOVE if mode == FULL else verb.kinds  # a full disk lets files go
        for nth in spread(undisturbed.counted, mode):
            try:
                ended = fail(shim, verb, root / f"{name}-{MODES[mode]}-{nth}", whole, Failure(nth, kinds, mode, verb.least))
            except Exception as fault:  # all are reported at the end
                wrong.append(f"{MODES[mode]}, {nth}: {str(fault)[:2000]}")
            else:
                done[f"{MODES[mode]}: {how(ended)}"] += bool(ended.failed)
    print(f"\n{name}: {undisturbed.counted} operations, {done.total() + len(wrong)} failures: {dict(sorted(done.items()))}")
    print(f"    that lost something, ended in other than one line, or stopped the next command: {len(wrong)}", flush=True)
    assert not wrong, "\n\n".join(wrong)
    return place


def how(ended: Ended) -> str:
    """Says what failed, and whether that ended the program."""
    how = {0: ", survived", 2: ""}.get(ended.code, ", ended by a signal")
    return f"{ended.what.split()[0].lower()}{how}" if ended.failed else "none"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_clock(tree: Any) -> Any:
    """A result without what a clock or the machine's memory has measured."""
    if isinstance(tree, dict):
        return {key: without_clock(value) for key, value in tree.items() if key not in CLOCK}
    return [without_clock(value) for value in tree] if isinstance(tree, list) else tree


# --------------------------------------------------------------------------------------------------------- train


def trained(folder: Path) -> dict[str, Any]:
    """Returns the result of a run: adapter, losses, the best step, its checkpoints, and what its ledger counts."""
    assert not broken(folder) and ledger.verify(folder / run.LEDGER) == []
    records = {(r["step"], "loss" in r): without_clock(r) for r in run.read_metrics(folder / run.METRICS)}
    with Checkpoints(folder / run.CHECKPOINTS) as checkpoints:
        assert not checkpoints.damaged
        kept = checkpoints.steps(), checkpoints.best()
    effective = ledger.totals(ledger.read(folder / run.LEDGER)[1]).effective
    return {"adapter": content(folder / run.ADAPTER), "records": records, "kept": kept, "effective": effective}


def resumed(place: Path) -> list[str]:
    return ["--resume"] if (place / "out").exists() else []


def check_run(place: Path, mode: int) -> None:
    """Asserts that no saved checkpoint is lost: once steps go on after a save, the checkpoint before it is still there."""
    book = place / "out" / run.LEDGER
    found = ledger.begun(book) if book.is_file() else None
    begun = max((one.event.step for one in found.entries if one.event.kind == "train_step"), default=0) if found else 0
    with Checkpoints(place / "out" / run.CHECKPOINTS) as checkpoints:
        assert begun < 8 or checkpoints.steps()[-1] >= begun // 4 * 4 - 4, (begun, checkpoints.steps())


def training(config: Path) -> Verb:
    return Verb(
        arguments=lambda place: ["train", config, "--out", place / "out"],
        result=lambda place: trained(place / "out"),
        again=resumed,
        check=check_run,
    )


def resuming(config: Path, interrupted: Path) -> Verb:
    """Returns the verb that resumes a run; its readings may fail, too."""
    return training(config)._replace(
        arguments=lambda place: ["train", config, "--out", place / "out", "--resume"],
        again=lambda place: [],
        prepare=lambda place: shutil.copytree(interrupted, place / "out"),
        kinds=CHANGES | Kind.READ,
    )


# ---------------------------------------------------------------------------------------- export, evaluate, sweep


def check_at_once(place: Path, mode: int) -> None:
    """Asserts that nothing is there, unless the disk was gone: then the last rename may stay, although its flush failed."""
    assert mode == GONE or not (place / "out").exists()


def unless_whole(place: Path) -> list[object] | None:
    return None if (place / "out").exists() else []


def exporting(done: Path, *to: str) -> Verb:
    return Verb(
        arguments=lambda place: ["export", done, "--to", *to, "--out", place / "out"],
        result=lambda place: content(place / "out"),
        check=check_at_once,
        again=unless_whole,
    )


def evaluated(place: Path) -> dict[str, Any]:
    """The figures, the forecasts, and the run in the same place: it is read, and its ledger written."""
    out = place / "out"
    measured = without_clock(json.loads((out / "metrics.json").read_text()))
    forecasts = {path.name: path.read_bytes() for path in out.glob("*.csv")}
    assert {"report.html", *forecasts} <= {path.name for path in out.iterdir()}
    effective = ledger.totals(ledger.read(place / "run" / run.LEDGER)[1]).effective
    return {"measured": measured, "forecasts": forecasts, "run": trained(place / "run"), "effective": effective}


def evaluating(done: Path) -> Verb:
    protocol = ["--context", 8, "--horizon", 3, "--samples", 2, "--unmasked-samples", 0, "--series", 3]
    return Verb(
        arguments=lambda place: ["evaluate", place / "run", *protocol, "--out", place / "out"],
        result=evaluated,
        prepare=lambda place: shutil.copytree(done, place / "run"),
        check=lambda place, mode: None,  # the result may be there: it is noted in the ledger, which may fail, too
        again=unless_whole,
        kinds=CHANGES | Kind.READ,
    )


def swept(out: Path) -> dict[str, Any]:
    found = without_clock(json.loads((out / sweep.RESULT).read_text()))
    assert (out / "sweep.csv").is_file() and (out / "report.html").is_file()
    assert ledger.verify(out / run.LEDGER) == []
    for one in found["runs"]:
        one.pop("flops")  # all that was executed
        one["history"] = {(r["step"], "loss" in r): r for r in one["history"]}
    adapters = {path.name: content(path / run.ADAPTER) for path in (out / sweep.RUNS).iterdir()}
    effective = ledger.totals(ledger.read(out / run.LEDGER)[1]).effective
    return {"result": found, "adapters": adapters, "effective": effective}


def sweeping(config: Path) -> Verb:
    """Two runs that train as one program, with one ledger."""
    grid = ["--grid", "optimizer.learning_rate=1e-3,1e-2"]
    return Verb(
        arguments=lambda place: ["sweep", config, *grid, "--out", place / "out"],
        result=lambda place: swept(place / "out"),
        again=resumed,
    )


PROGRAMS: dict[str, Callable[[Callable[[str], Any]], Verb]] = {
    "train": lambda ready: training(ready("short")),
    "resume": lambda ready: resuming(ready("short"), ready("interrupted")),
    "export, merged": lambda ready: exporting(ready("done"), "merged", "--side-head"),
    "export, peft": lambda ready: exporting(ready("done"), "peft"),
    "evaluate": lambda ready: evaluating(ready("done")),
    "sweep": lambda ready: sweeping(ready("short")),
}


@pytest.mark.parametrize("name", PROGRAMS if LONG else [name for name in PROGRAMS if name != "export, peft"])
def test_a_program_whose_operations_fail(shim, root, name, request):
    fail_at_each(shim, name, PROGRAMS[name](request.getfixturevalue), root)


def without_memory(verb: Verb) -> Verb:
    return verb._replace(kinds=Kind.ALLOCATE, least=1 << 16, fresh=True)


@pytest.mark.parametrize("name", PROGRAMS if LONG else ["train"])
def test_a_program_whose_allocations_fail(shim, root, name, request):
    """Allocations of 64 KiB and more. If a thread of XLA finds no memory, XLA ends the process; nothing else does."""
    verb = PROGRAMS[name](request.getfixturevalue)
    fail_at_each(shim, f"{name}, memory", without_memory(verb), root, [ONCE, FULL])


# ------------------------------------------------------------------------------------------------------ reproduce


def test_a_reproduction_whose_operations_fail(shim, root, data, random_model, tmp_path):  # noqa: F811
    """Each stage, beginning with the result of the stages before."""
    configs, base = quick.write_configs(tmp_path), quick.write_base(tmp_path / "base", random_model)
    given = ["reproduce", quick.SYSTEM, "--model", base, "--data", data, "--set", "lora.dropout=0.0", "--resume"]
    before = tmp_path / "before"  # the result of the stages so far
    before.mkdir()
    for stage in tuple(quick.STAGES)[1:] if LONG else ("baseline",):
        verb = Verb(
            arguments=lambda place, stage=stage: [*given, "--stage", stage, "--out", place / "out"],
            result=lambda place: quick.figures_of(place / "out"),
            prepare=lambda place: shutil.copytree(before, place, dirs_exist_ok=True),
            configs=configs,
        )
        whole = fail_at_each(shim, f"reproduce, {stage}", verb, root)
        if LONG:
            fail_at_each(shim, f"reproduce, {stage}, memory", without_memory(verb), root, [ONCE])
        shutil.rmtree(before)
        shutil.move(whole, before)


# ---------------------------------------------------------------------------------------------------- Python's own


def test_storage_that_finds_no_memory(tmp_path):
    """Files, folders and journals are the old or the new one, whichever object is refused."""
    pytest.importorskip("_testcapi", reason="needs CPython's own test module")
    command = [sys.executable, "-m", "tests.faults.nomemory", str(tmp_path), "1" if LONG else "20"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert ended.returncode == 0, ended.stderr
    counts = json.loads(ended.stdout)
    assert min(counts.values()) > 10
    print(f"storage: objects refused: {counts}, nothing lost")
