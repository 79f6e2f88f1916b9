"""A power cut at every operation of a program, with whatever the disk may have lost by then: the next command goes on."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxlv.flops import ledger
from jaxlv.runs import run
from jaxlv.runs.checkpoint import Checkpoints
from tests.faults.conftest import LONG
from tests.faults.disk import History, Operation, State, read_log
from tests.faults.shim import Failure, Kind, Shim
from tests.faults.test_failures import lines_of, resumed, trained, unfinished

LOOKED_AT = 1 if LONG else 20  # one of so many states
MOST = 10**9 if LONG else 6  # states from which a program goes on


def different(history: History) -> list[tuple[int, State]]:
    """Every state that a power cut may leave, once, with the most operations that may stand before it."""
    found: dict[str, tuple[int, State]] = {}
    for cut in range(len(history.changes) + 1):
        for state in history.states(cut):
            found[state.mark()] = cut, state
    return list(found.values())


class Ledger:
    """What a ledger must tell of at least: what was reserved, less what is known to have cost less. A record is due once it
    was flushed, or another one follows, whichever is first: a program that does not flush owes it all the same.
    """

    def __init__(self, operations: Sequence[Operation], path: str):
        self.least: list[int] = []  # after so many operations
        written, flushed = 0, 0
        content = b"".join(one.data for one in operations if one.path == path)
        records = [(content.find(line) + len(line), json.loads(line)) for line in content.splitlines()]
        for one in operations:
            self.least.append(self._sum(records, written, flushed))
            if one.path == path:
                flushed = written
                written += len(one.data)
        self.least.append(self._sum(records, written, flushed))

    def _sum(self, records: Sequence[tuple[int, Any]], written: int, flushed: int) -> int:
        reserved = {one["reserve"]: one["flops"] for end, one in records if "reserve" in one and end <= flushed}
        committed = {one["commit"]: one["flops"] for end, one in records if "commit" in one and end <= written}
        return sum(committed.get(number, flops) for number, flops in reserved.items())


def newest_saved(operations: Sequence[Operation], folder: str) -> list[int]:
    """The newest step that must have a checkpoint, after so many operations; 0 = none. One that got its name is due once
    that was flushed, or something else is done in the folder, whichever is first.
    """
    due, named = [0], 0
    for one in operations:
        due.append(named if folder in (one.path, *map(str, Path(one.path).parents)) else due[-1])
        if one.kind == Kind.RENAME and one.other.startswith(f"{folder}/step_"):
            named = int(Path(one.other).name.removeprefix("step_"))
    return due


def logged(shim: Shim, arguments: Sequence[object], root: Path, log: Path) -> History:
    """Returns what a program does to the disk; if all of this is flushed, the result is what is there."""
    ended = shim.call(*arguments, failure=Failure(log=str(log)), worker="fails")
    assert ended.code == 0, ended
    history = History.of(root, read_log(log))
    there = {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}
    assert next(history.states(len(history.changes))).entries == there
    return history


def test_power_lost_while_training(shim, short, root, tmp_path):
    """The ledger has all that was reserved, a checkpoint that was saved stays, and a resume ends with the same bits."""
    first = root / "cut"
    first.mkdir()
    history = logged(shim, ["train", short, "--out", first / "out"], first, tmp_path / "log")
    whole = trained(first / "out")
    book, checkpoints = (str((first / "out").resolve() / name) for name in (run.LEDGER, run.CHECKPOINTS))
    least, saved = Ledger(history.operations, book).least, newest_saved(history.operations, checkpoints)
    states = different(history)
    chosen = set(random.Random(0).sample(range(len(states)), min(MOST, len(states))))
    for number, (cut, state) in enumerate(states):
        if number % LOOKED_AT:
            continue
        place = tmp_path / f"{number}"
        place.mkdir()
        state.write(place)
        out = place / "out"
        told = ledger.read(out / run.LEDGER)[1] if least[cut] else []
        assert sum(entry.flops for entry in told) >= least[cut]
        with Checkpoints(out / run.CHECKPOINTS) as kept:
            assert not saved[cut] or kept.steps()[-1] >= saved[cut]
        if number in chosen:
            ended = shim.call("train", short, *resumed(place), "--out", out, worker="goes on")
            assert ended.code == 0 and not lines_of(ended), ended
            assert trained(out) == whole
            assert not unfinished(place)
        shutil.rmtree(place)
    print(f"train: the power cut in {len(states)} ways, gone on from {len(chosen)}, nothing lost")
