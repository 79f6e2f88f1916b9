"""Which tests run which lines of the library: recorded once by coverage.py, one process for each test file."""

from __future__ import annotations

import ast
import difflib
import functools
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Test:
    """A test: its seconds of CPU, the lines of the library that it runs itself, and the fixtures of a wider scope that it
    uses, with the seconds that each takes.
    """

    name: str
    seconds: float
    lines: int = 0
    fixtures: dict[str, float] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """Its test file."""
        return self.name.partition("::")[0]


class Recorder:
    """A plugin of pytest that notes for each passed test what it takes and which lines of the library it runs.

    Lines that run while a fixture of a wider scope is made count for every test that uses it. JAX traces a function once:
    lines in it count for the first test of each file alone, which is why `Map.plan` also takes the others.
    """

    def __init__(self, root: Path, out: Path):
        import coverage

        self.root, self.out = root, out
        self.coverage = coverage.Coverage(data_file=None, config_file=False, source=[str(root / "jaxlv")])
        self.tests: dict[str, dict[str, Any]] = {}
        self.fixtures: dict[str, float] = {}
        self._contexts = [""]
        self._inner, self._wide = [0.0], 0.0  # seconds within fixtures of a wider scope

    def pytest_sessionstart(self) -> None:
        self.coverage.start()

    def _enter(self, name: str) -> None:
        self._contexts.append(name)
        self.coverage.switch_context(name)

    def _leave(self) -> None:
        self._contexts.pop()
        self.coverage.switch_context(self._contexts[-1])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._wide = 0.0
        self.tests[item.nodeid] = {"seconds": 0.0, "passed": True}
        self._enter(item.nodeid)
        began = worked()
        try:
            return (yield)
        finally:
            self._leave()
            own = self.tests[item.nodeid]
            names = getattr(item, "fixturenames", ())
            own["fixtures"] = sorted(one for one in self.fixtures if one.split("|")[0] in names)
            own["seconds"] = max(0.0, worked() - began - self._wide)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[Any]:
        if fixturedef.scope == "function":
            return (yield)
        name = f"{fixturedef.argname}|{fixturedef.baseid}|{request.param_index if hasattr(request, 'param') else ''}"
        self._enter(name)
        self._inner.append(0.0)
        began = worked()
        try:
            return (yield)
        finally:
            took = worked() - began
            own = took - self._inner.pop()
            self._inner[-1] += took
            self.fixtures[name] = max(own, self.fixtures.get(name, 0.0))
            if len(self._inner) == 1:
                self._wide += took
            self._leave()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.tests[report.nodeid]["passed"] &= report.passed

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        data = self.coverage.get_data()
        lines: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for file in data.measured_files():
            name = Path(file).relative_to(self.root).as_posix()
            for line, contexts in data.contexts_by_lineno(file).items():
                for context in contexts:
                    if context:
                        lines[context][name].append(line)
        record = {"tests": self.tests, "fixtures": self.fixtures, "lines": lines}
        self.out.write_text(json.dumps(record), encoding="utf-8")


def worked() -> float:
    """Returns the CPU seconds of this process and those that it has waited for; a busy machine does not change them."""
    return sum(os.times()[:4])


def stamp(root: Path, test_file: str) -> str:
    """Returns what a record of a test file depends on."""
    return hashlib.sha256((root / test_file).read_bytes()).hexdigest()[:16]


# Not asked: what is about the mutants themselves, and what takes long and judges by time and memory, which a busy machine
# changes as a mutant would.
NOT_ASKED = {
    f"tests/{name}.py" for name in ("test_mutants", "faults/test_kills", "faults/test_kills_of_verbs", "faults/test_peak")
}


def test_files(root: Path) -> list[str]:
    """The test files that take part."""
    found = (path.relative_to(root).as_posix() for path in (root / "tests").rglob("test_*.py"))
    return sorted(name for name in found if name not in NOT_ASKED)


FAR = 2  # the distance of a test file that imports nothing of a module's package


class Map:
    """Tests by the lines that they run, from the records in a folder; of a test file that has changed, from its last one."""

    def __init__(self, folder: Path, root: Path):
        self.root = root
        self.tests: dict[str, Test] = {}
        self.by_line: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.by_file: dict[str, set[str]] = defaultdict(set)
        self.killers: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.broken: set[str] = set()  # tests, or test files, that fail without a mutant, too
        self.imports: dict[str, set[str]] = {}  # of each test file: dotted names
        for test_file in test_files(root):
            own = record_of(folder, root, test_file)
            older = sorted(folder.glob(f"{own.name.split('.py.')[0]}.py.*.json"), key=lambda path: path.stat().st_mtime)
            for path in [own] if own.exists() else older[-1:]:
                self._add(json.loads(path.read_text(encoding="utf-8")), folder)
            self.imports[test_file] = _imports(root / test_file)

    def _add(self, record: dict[str, Any], folder: Path) -> None:
        moved = functools.cache(lambda file: _moved(folder / "sources" / record["sources"][file], self.root / file))
        for name, one in record["tests"].items():
            if not one["passed"]:
                continue
            fixtures = {fixture: record["fixtures"][fixture] for fixture in one["fixtures"]}
            lines = sum(map(len, record["lines"].get(name, {}).values()))
            self.tests[name] = Test(name, one["seconds"], lines, fixtures)
            for context in (name, *fixtures):
                for file, lines in record["lines"].get(context, {}).items():
                    self.by_file[file].add(name)
                    for line in lines:
                        if (now := moved(file).get(line)) is not None:
                            self.by_line[file][now].add(name)

    def killed(self, file: str, test: str) -> None:
        """Remember that a test noticed a bug in a file: it goes first for the next ones there."""
        self.killers[file][test] += 1

    def plan(self, file: str, lines: set[int], seconds: float, known: str = "") -> dict[str, float]:
        """The tests to run, with the seconds that each took when recorded: those that run the lines; those of the same test
        files, which may use what was traced by these; then those that run other lines of the same file, and those whose
        test file imports it, for lines that run when it is imported. Of each, former killers, then quick ones of a file that
        imports the module, then other quick ones, and those that run little else. Stops at the limit of `seconds`, except
        for the first.
        """
        sound = {name for name, test in self.tests.items() if not self.broken & {name, test.file}}
        hits = set().union({known}, *(self.by_line[file].get(line, set()) for line in lines)) & sound
        files = {self.tests[name].file for name in hits}
        beside = {name for name in sound if self.tests[name].file in files} - hits
        near = {name for name in sound if name in self.by_file[file] or self._distance(self.tests[name], file) < FAR}
        chosen: dict[str, float] = {}
        paid: set[str] = set()
        spent = 0.0
        for group in (hits, beside, near - hits - beside):
            for name in self._ordered(group, file, known):
                test = self.tests[name]
                cost = test.seconds + sum(took for fixture, took in test.fixtures.items() if fixture not in paid)
                if chosen and spent + cost > seconds:
                    continue
                chosen[name] = test.seconds + sum(test.fixtures.values())
                spent += cost
                paid |= set(test.fixtures)
        return chosen

    def _distance(self, test: Test, file: str) -> int:
        """Returns 0 if the test's file is named after a module or imports it, 1 if it imports the package, else FAR."""
        *package, module = file.removesuffix(".py").split("/")
        names = self.imports.get(test.file, set())
        if test.file.endswith(f"test_{module}.py") or ".".join([*package, module]) in names:
            return 0
        return 1 if len(package) > 1 and ".".join(package) in names else FAR

    def _ordered(self, group: set[str], file: str, known: str) -> list[str]:
        """Tests in the order of `plan`. Within a class those of one test file stay together, for they share fixtures."""

        def rank(name: str) -> tuple[Any, ...]:
            test = self.tests[name]
            cost = test.seconds + sum(test.fixtures.values())
            quick, distance = 0 if cost < 1 else 1 if cost < 5 else 2, self._distance(test, file)
            own = distance == 0 and test.seconds < 1  # what its file's fixtures take is shared
            return (name != known, -min(self.killers[file].get(name, 0), 3), not own, quick, distance)

        least: dict[tuple[Any, ...], int] = {}
        for name in group:
            key = (*rank(name), self.tests[name].file)
            least[key] = min(self.tests[name].lines, least.get(key, self.tests[name].lines))

        def key(name: str) -> tuple[Any, ...]:
            test = self.tests[name]
            return (*rank(name), least[(*rank(name), test.file)], test.file, test.lines, name)

        return sorted(group, key=key)


def record_of(folder: Path, root: Path, test_file: str) -> Path:
    """Returns the place of the record of a test file."""
    return folder / f"{test_file.replace('/', '.')}.{stamp(root, test_file)}.json"


def keep_sources(folder: Path, root: Path, record: Path) -> None:
    """Add to a record which sources its lines are of, and keep these sources: line numbers move as the code does."""
    tree = json.loads(record.read_text(encoding="utf-8"))
    (folder / "sources").mkdir(parents=True, exist_ok=True)
    tree["sources"] = {}
    for file in sorted({file for files in tree["lines"].values() for file in files}):
        content = (root / file).read_bytes()
        name = hashlib.sha256(content).hexdigest()[:16]
        (folder / "sources" / name).write_bytes(content)
        tree["sources"][file] = name
    record.write_text(json.dumps(tree), encoding="utf-8")


def _imports(path: Path) -> set[str]:
    """The dotted names of the modules that a test file imports, and of the packages that it takes names from."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def _moved(then: Path, now: Path) -> dict[int, int]:
    """Lines of a source as it was when recorded -> the same lines now."""
    if not now.exists():
        return {}
    before, after = then.read_text(encoding="utf-8").splitlines(), now.read_text(encoding="utf-8").splitlines()
    if before == after:
        return {line: line for line in range(1, len(before) + 1)}
    found = {}
    for a, b, size in difflib.SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks():
        found |= {a + i + 1: b + i + 1 for i in range(size)}
    return found
