"""`python -m tests.mutants`: tries mutants against the tests and writes the score by folder.

python -m tests.mutants                               every hand-made mutant
python -m tests.mutants --sample 400 --seed 0         an automatic sample
python -m tests.mutants --folder runs --folder text   those of some folders
python -m tests.mutants --file jaxlv/runs/sources.py  those of a file
python -m tests.mutants --id runs.split_seed          one
python -m tests.mutants --living                      those that lived in the last run
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import automatic, covering, running
from .mutant import Mutant, listed, misplaced

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results"
ALIVE, KILLED = "alive", "killed"
IMPORT = "the import of tests"  # in which a process died
NO_TESTS = 5  # pytest's exit code


def main(words: Sequence[str] | None = None) -> int:
    """Run the program; the exit code is 1 if a mutant cannot be put into its file."""
    options = _parser().parse_args(words)
    root = options.root.resolve()
    cache = (options.cache or root / ".mutants").resolve()
    cache.mkdir(exist_ok=True)
    if (root.parent / "shared").is_dir():
        os.environ.setdefault("JAXLV_SHARED", str(root.parent / "shared"))
    name = options.name or ("sample" if options.sample else "listed")
    results = Results(cache / "results" / f"{name}.json", options.results / f"{name}.md")
    every = _every(options, root)
    left_out = {one for one in every if options.fitting and misplaced([one], root)}
    every = [one for one in every if one not in left_out]
    mutants = [one for one in _chosen(every, options, results) if not one.equivalent]
    if faults := misplaced(mutants, root):
        print("\n".join(faults), file=sys.stderr)
        return 1
    if importlib.util.find_spec("coverage") is None:
        print("coverage is not installed; it comes with jaxlv[test]", file=sys.stderr)
        return 1
    running.warm(root)
    record(root, cache, options.workers, options.test)
    if not options.record:
        Trial(mutants, root, cache, options.seconds, results).run(options.workers)
        results.finish(every, _command(options), len(left_out))
        print(results.table(every))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, default=0, help="so many automatic mutants in place of the hand-made ones")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--folder", action="append", help="of the library; may be given several times, as the next two")
    parser.add_argument("--file", action="append", help="jaxlv/...")
    parser.add_argument("--id", action="append", help="of a mutant")
    parser.add_argument("--living", action="store_true", help="only those that lived in the last run")
    parser.add_argument("--new", action="store_true", help="only those that the last run did not try")
    parser.add_argument("--seconds", type=float, default=60, help="of tests for each mutant, at most, as recorded")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository to mutate, with its tests")
    parser.add_argument("--fitting", action="store_true", help="leave out those that do not fit ROOT, and say how many")
    parser.add_argument("--cache", type=Path, help="records, results, compiled programs (default: ROOT/.mutants)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the page of results")
    parser.add_argument("--name", help="of the results (default: listed or sample)")
    parser.add_argument("--record", action="store_true", help="record which tests run which lines, and stop")
    parser.add_argument("--test", action="append", help="test files to take (default: all)")
    return parser


def _every(options: argparse.Namespace, root: Path) -> list[Mutant]:
    """Returns all mutants of the list, or of the sample."""
    if options.sample:
        return automatic.sample(root, options.sample, options.seed)
    return listed()


def _command(options: argparse.Namespace) -> str:
    """Returns the command that gives the same results at once, even if they come from several runs."""
    words = ["python -m tests.mutants", f"--seconds {options.seconds:g}"]
    words += [f"--sample {options.sample} --seed {options.seed}"] if options.sample else []
    words += [f"--root {os.path.relpath(options.root)} --fitting"] if options.fitting else []
    return " ".join(words)


def _chosen(every: Sequence[Mutant], options: argparse.Namespace, results: Results) -> list[Mutant]:
    """Those to be tried now."""
    states = [ALIVE] if options.living else [""] if options.new else [ALIVE, KILLED, ""]

    def wanted(one: Mutant) -> bool:
        asked = ((options.folder, one.folder), (options.file, one.file), (options.id, one.id))
        return all(not names or own in names for names, own in asked)

    return [one for one in every if wanted(one) and results.state(one) in states]


# -------------------------------------------------------------------------------------------------- which tests


def record(root: Path, cache: Path, workers: int, files: Sequence[str] | None) -> None:
    """Record the test files that have changed since they were recorded."""
    places = {one: covering.record_of(cache, root, one) for one in files or covering.test_files(root)}
    missing = [one for one, place in places.items() if not place.exists()]

    def job(test_file: str) -> Callable[[Path], running.Job]:
        def make(own: Path) -> running.Job:
            return running.Job([test_file], lambda copy: covering.Recorder(copy.folder, own / "record"))

        return make

    def done(test_file: str, ended: running.Ended, own: Path) -> None:
        made = own / "record"
        print(f"recorded {test_file}: {ended.seconds:.0f} s, exit code {ended.code}", flush=True)
        if not made.exists():
            print(ended.log, flush=True)
            return
        if ended.code:
            print("\n".join(ended.log.splitlines()[-12:]), flush=True)
        if ended.code not in (0, 1, 5) or covering.record_of(cache, root, test_file) != places[test_file]:
            return  # it did not end, or the file has changed meanwhile
        covering.keep_sources(cache, root, made)
        places[test_file].write_bytes(made.read_bytes())

    if missing:
        print(f"recording which lines {len(missing)} test files run", flush=True)
        running.run_all(deque((one, job(one)) for one in missing), root, cache, workers, done)


# ---------------------------------------------------------------------------------------------------- the mutants


class Trial:
    """Tries mutants, and keeps each result at once.

    A test that notices one must pass without it: that is tried, too. A test that takes far longer than it should, or in
    which the process dies, has noticed a mutant if that happens a second time, with this test as the first to run.
    """

    def __init__(self, mutants: Sequence[Mutant], root: Path, cache: Path, seconds: float, results: Results):
        self.root, self.cache, self.seconds, self.results, self.count = root, cache, seconds, results, len(mutants)
        self.map = covering.Map(cache, root)
        for one in results.known.values():
            if one["state"] == KILLED:
                self.map.killed(one["file"], one["by"])
        self.jobs = deque((one, self._job(one)) for one in mutants)
        self.ended_in: dict[str, str] = {}  # the test in which the process died, by the id of the mutant
        self.sound: set[str] = set()  # tests, or test files, that pass without a mutant
        self.noticed: dict[str, list[tuple[Mutant, int, float]]] = {}  # by tests of which that is not known yet
        self.tried = 0

    def run(self, workers: int) -> None:
        """Try all."""
        running.run_all(self.jobs, self.root, self.cache, workers, self._done)

    def _job(self, mutant: Mutant) -> Callable[[Path], running.Job]:
        def make(own: Path) -> running.Job:
            return running.asked(self._plan(mutant), own, mutant.file, mutant.applied(self._text(mutant)))

        return make

    def _text(self, mutant: Mutant) -> str:
        return (self.root / mutant.file).read_text(encoding="utf-8")

    def _plan(self, mutant: Mutant) -> dict[str, float]:
        known = self.ended_in.get(mutant.id) or self.results.known.get(mutant.id, {}).get("by", "")
        return self.map.plan(mutant.file, mutant.lines(self._text(mutant)), self.seconds, known)

    def _done(self, key: Mutant | str, ended: running.Ended, own: Path) -> None:
        """A child has ended, which tried a mutant, or a test without one."""
        order = running.order_of(own)
        at, failed = order["at"], order["failed"]
        if isinstance(key, str):
            self._judge(key, ended.code in (0, NO_TESTS))
        elif ended.code in (0, NO_TESTS):
            self._add(key, ALIVE, "", order["ran"], ended.seconds)
        elif failed or self.ended_in.get(key.id) == at:
            self._notice(key, failed or at or f"{IMPORT} for {key.id}", order["ran"], ended.seconds)
        else:
            print(f"{key.id}: exit code {ended.code} in {at or IMPORT}: tried again", flush=True)
            self.ended_in[key.id] = at
            self.jobs.appendleft((key, self._job(key)))

    def _notice(self, mutant: Mutant, by: str, tests: int, seconds: float) -> None:
        """A test has noticed a mutant; does it pass without?"""
        self.noticed.setdefault(by, []).append((mutant, tests, seconds))
        if by in self.sound:
            self._judge(by, True)
        elif len(self.noticed[by]) == 1:
            asked = {by: self.map.tests[by].seconds if by in self.map.tests else 0.0}
            if by.startswith(IMPORT):  # the same test files, without a test
                asked = {test.partition("::")[0]: 0.0 for test in self._plan(mutant)}
            self.jobs.appendleft((by, lambda own: running.asked(asked, own)))

    def _judge(self, by: str, passes: bool) -> None:
        """A test, or the import of a test file, passes without a mutant, or does not."""
        (self.sound if passes else self.map.broken).add(by)
        if not passes:
            print(f"not asked any more, as it fails without a mutant: {by}", flush=True)
        for mutant, tests, seconds in self.noticed.pop(by):
            if passes:
                self._add(mutant, KILLED, by, tests, seconds)
            else:
                self.jobs.appendleft((mutant, self._job(mutant)))

    def _add(self, mutant: Mutant, state: str, by: str, tests: int, seconds: float) -> None:
        self.results.add(mutant, state, by, tests, seconds)
        self.tried += 1
        if state == KILLED:
            self.map.killed(mutant.file, by)
        words = f"{tests} tests; {mutant.words}" if state == ALIVE else f"by {by}"
        said = state.upper() if state == ALIVE else state
        print(f"{self.tried}/{self.count} {said} {seconds:5.1f} s  {mutant.id}  {words}", flush=True)


class Results:
    """What became of each mutant, in a file that is written as they are tried, and a page about all."""

    def __init__(self, path: Path, page: Path):
        self.path, self.page = path, page
        self.known: dict[str, dict[str, Any]] = {}
        if path.exists():
            self.known = json.loads(path.read_text(encoding="utf-8"))["mutants"]

    def state(self, mutant: Mutant) -> str:
        """alive, killed, or "" if the mutant, as it is, was not tried."""
        one = self.known.get(mutant.id, {})
        return one.get("state", "") if (one.get("old"), one.get("new")) == (mutant.old, mutant.new) else ""

    def add(self, mutant: Mutant, state: str, by: str, tests: int, seconds: float) -> None:
        """Note a result, and save."""
        self.known[mutant.id] = {
            "file": mutant.file, "words": mutant.words, "old": mutant.old, "new": mutant.new, "state": state, "by": by,
            "tests": tests, "seconds": round(seconds, 1),
        }  # fmt: skip
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"mutants": self.known}, indent=1, ensure_ascii=False)
        self.path.with_suffix(".tmp").write_text(text, encoding="utf-8")
        self.path.with_suffix(".tmp").replace(self.path)

    def finish(self, mutants: Sequence[Mutant], command: str, left_out: int) -> None:
        """Writes the page once all of these were tried: command, date, versions, kind of machine, and `table`."""
        if not all(self.state(one) or one.equivalent for one in mutants):
            return
        from benchmarks.tables import machine  # not before the children are forked

        packages = ("jax", "numpy", "pytest")
        versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
        facts = [time.strftime("%Y-%m-%d"), *(f"{name} {fact}" for name, fact in {**versions, **machine()}.items())]
        parts = ["# Mutants", f"`{command}`", ", ".join(facts)]
        parts += [f"{left_out} mutants are not counted: this state of the code lacks what they change."] if left_out else []
        self.page.parent.mkdir(parents=True, exist_ok=True)
        self.page.write_text("\n\n".join([*parts, self.table(mutants)]), encoding="utf-8")

    def table(self, mutants: Sequence[Mutant]) -> str:
        """Returns the score by folder of the mutants that were tried, the living ones in words, and those not counted."""
        tried = [one for one in mutants if not one.equivalent and self.state(one)]
        rows = ["| folder | mutants | killed | score |", "|---|---|---|---|"]
        for folder in [*sorted({one.folder for one in tried}), ""]:
            own = [self.state(one) for one in tried if folder in ("", one.folder)]
            killed = own.count(KILLED)
            rows.append(f"| {folder or 'all'} | {len(own)} | {killed} | {killed / max(1, len(own)):.1%} |")
        alive = [f"- `{one.id}` ({one.file}): {one.words}" for one in tried if self.state(one) == ALIVE]
        left = [f"- `{one.id}` ({one.file}): {one.words}: {one.equivalent}" for one in mutants if one.equivalent]
        parts = [*rows, "", "Alive:" if alive else "None is alive.", "", *alive]
        return "\n".join([*parts, *(["", "Not counted, as no test could tell them:", "", *left] if left else [])]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
