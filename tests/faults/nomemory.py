"""Storage that finds no memory: the n-th object that Python asks for is refused, for every n, or every STRIDE-th.

    python -m tests.faults.nomemory FOLDER STRIDE

test_failures.py runs it in a process of its own, because the interpreter itself may end without memory.
"""

from __future__ import annotations

import _testcapi
import json
import sys
from collections.abc import Callable
from pathlib import Path

from jaxlv.storage import chain, lines
from jaxlv.storage.files import broken, new_folder, seal, write_json
from tests.faults.disk import is_unfinished

MOST = 10**5
QUIET = 40  # actions in a row that found all they asked for: the last one is behind


def refuse_each(
    act: Callable[[int], None], found: Callable[[], list[int]], stride: int, begin: Callable[[], None] = lambda: None
) -> int:
    """Returns how often an action was refused an object. `act` stores a number; `found` returns the stored numbers, each
    whole: the last one, or that and the one before.
    """
    number = refused = quiet = 0
    while quiet < QUIET:
        number += 1
        assert number < MOST, "each action takes more than the one before"
        begin()
        before = found()
        _testcapi.set_nomemory(number * stride, number * stride + 1)
        try:
            act(number)
            quiet += 1
        except Exception:  # of any kind: the interpreter does not always remember why
            refused, quiet = refused + 1, 0
        finally:
            _testcapi.remove_mem_hooks()
        after = found()
        assert after[-1:] == [number] or (after == before and not quiet), (number, before, after)
    return refused


def main(folder: Path, stride: int) -> None:
    """Print how often each kind of storage was refused an object."""
    file, whole, log, linked = (folder / name for name in ("file.json", "folder", "log.jsonl", "chain.jsonl"))

    def replace_folder(number: int) -> None:
        with new_folder(whole, replace=True) as work:
            write_json(work / "number.json", number)
            seal(work)

    def in_folder() -> list[int]:
        assert not whole.exists() or not broken(whole)
        return [json.loads((whole / "number.json").read_text())] if whole.exists() else []

    def shorten() -> None:
        """A longer log would take more each time."""
        if log.exists() and log.stat().st_size > 300:
            log.unlink()

    def append(number: int) -> None:
        journal = lines.Journal(log)
        try:
            journal.add({"number": number})
        finally:
            journal.close()

    def chain_up(number: int) -> None:
        journal = chain.Chain(linked)
        try:
            journal.add({"number": number})
            journal.mark(chain.head_of(linked))
        finally:
            journal.close()

    def in_chain() -> list[int]:
        found: list[int] = []
        chain.scan(linked, lambda record: found.append(record["number"]))
        return found

    def shorten_chain() -> None:
        if linked.exists() and linked.stat().st_size > 1000:
            linked.unlink()
            chain.head_of(linked).unlink()

    counts = {
        "files": refuse_each(
            lambda n: write_json(file, n), lambda: json.loads(f"[{file.read_text()}]") if file.exists() else [], stride
        ),
        "folders": refuse_each(replace_folder, in_folder, stride),
        "journals": refuse_each(append, lambda: [one["number"] for one in lines.read(log)], stride, shorten),
        "chains": refuse_each(chain_up, in_chain, stride, shorten_chain),
    }
    assert not [path for path in folder.iterdir() if is_unfinished(path.name)]
    print(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
