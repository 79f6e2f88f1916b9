"""Children of a warm process, each in a copy of the tree: one test file recorded, or one mutant tried, by each.

The parent has imported what the library and its tests import, except the library itself, and has started no backend of JAX.
A child is forked from it, loads the library from its own copy, in which one file is changed, and runs pytest within itself.
"""

from __future__ import annotations

import ast
import compileall
import contextlib
import gc
import importlib
import json
import os
import py_compile
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OWN = {"jaxlv", "tests", "benchmarks", "conftest"}
PATIENCE = 60  # seconds of CPU for importing the tests, and for each of them beyond four times what it takes
LONGEST = 1200  # seconds of wall clock for the same, in which a busy machine may be slow, but what waits for ever ends
LEFT_OUT = {".git", ".venv", ".mutants", "runs", "build"}  # of the root
SITE = """import sys
sys.path[:0] = {paths!r}
"""


def warm(root: Path) -> None:
    """Import what the trees below `root` import of other packages, so that children find it there."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    names: set[str] = set()
    for folder in ("jaxlv", "tools", "tests"):
        for path in (root / folder).rglob("*.py"):
            names |= set(_imports(path))
    for name in sorted(names):
        if name.partition(".")[0] not in OWN | sys.stdlib_module_names:
            with contextlib.suppress(Exception):  # an attribute, or a package that is not installed
                importlib.import_module(name)
    assert not any(name.partition(".")[0] in OWN - {"tests"} for name in sys.modules), "the library is loaded already"
    gc.collect()
    gc.freeze()  # children look at none of this for garbage, which would copy its pages


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


class Copy:
    """A copy of the tree in a temporary folder, which a child works in."""

    def __init__(self, root: Path, folder: Path):
        self.root, self.folder = root, folder
        shutil.copytree(root, folder, ignore=self._left_out, symlinks=True)
        for part in ("tools", "configs"):  # an installation maps these names
            (folder / "jaxlv" / part).symlink_to(folder / part)
        shim = folder / ".shim"
        shim.mkdir()
        self.paths = [str(folder), str(shim)]
        (shim / "sitecustomize.py").write_text(SITE.format(paths=self.paths), encoding="utf-8")
        # Files change within a second and keep their size: what is compiled is told by the source's hash, not by its time.
        for part in ("jaxlv", "tools"):
            compileall.compile_dir(folder / part, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)

    def _left_out(self, folder: str, names: list[str]) -> set[str]:
        return {name for name in names if name == "__pycache__" or (name in LEFT_OUT and Path(folder) == self.root)}

    def enter(self) -> None:
        """Makes the child work here, with this library, in subprocesses too."""
        os.chdir(self.folder)
        for name in [name for name in sys.modules if name.partition(".")[0] in OWN]:
            del sys.modules[name]  # `tests` of the parent is another one
        own = (str(self.root), str(self.folder.parent))
        sys.path[:] = [*self.paths, *(path for path in sys.path if path not in ("", *own))]
        os.environ["PYTHONPATH"] = os.pathsep.join([self.paths[1], self.paths[0]])

    @contextlib.contextmanager
    def changed(self, file: str, text: str) -> Iterator[None]:
        """The copy with another text of a file."""
        path = self.folder / file
        before = path.read_bytes()
        path.write_text(text, encoding="utf-8")
        try:
            yield
        finally:
            path.write_bytes(before)


class Order:
    """A plugin of pytest that runs the given tests alone, in this order, and notes which one runs, and which failed first.

    `seconds` says what each test takes; one that takes far longer ends the process by a signal.
    """

    def __init__(self, seconds: Mapping[str, float], out: Path):
        self.seconds = seconds
        self.place = {name: i for i, name in enumerate(seconds)}
        self.ran, self.failed = 0, ""
        self.out = os.open(out, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self.write = os.write  # a test may put something else in its place, as in that of Path.open
        _end_after(PATIENCE)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.place), key=lambda item: self.place[item.nodeid])

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid
            self._note("")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        _end_after(PATIENCE + 4 * self.seconds[nodeid])
        self._note(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.ran += report.when == "call"
        if report.failed and not self.failed:
            self.failed = report.nodeid
        self._note(report.nodeid)

    def _note(self, at: str) -> None:
        self.write(self.out, json.dumps({"ran": self.ran, "failed": self.failed, "at": at}).encode() + b"\n")

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        sys.stdout.flush()
        os._exit(int(exitstatus))  # nobody needs what else pytest does at its end


def _end_after(seconds: float) -> None:
    """End this process by a signal after so many seconds of CPU, or LONGEST of wall clock, from now."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(LONGEST)


@dataclass
class Job:
    """What a child does: pytest with these arguments and this plugin, in a copy with one file changed."""

    arguments: list[str]
    plugin: Callable[[Copy], Any]
    file: str = ""
    text: str = ""


def asked(seconds: Mapping[str, float], own: Path, file: str = "", text: str = "") -> Job:
    """The job of running tests, given with the seconds that each takes, up to the first that fails."""
    files = dict.fromkeys(name.partition("::")[0] for name in seconds) or ["tests/test_mutants.py"]  # of which none is asked
    return Job(["-x", *files], lambda copy: Order(seconds, own / "order"), file, text)


def order_of(own: Path) -> dict[str, Any]:
    """Returns what `Order` noted last: how many tests ran, which one failed (or whose file was not imported), which ran."""
    noted = own / "order"
    lines = noted.read_text(encoding="utf-8").splitlines() if noted.exists() else []
    return json.loads(lines[-1]) if lines else {"ran": 0, "failed": "", "at": ""}


@dataclass
class Ended:
    """How a child ended: pytest's exit code, below 0 if a signal ended it; `log` is the end of what it printed."""

    code: int
    seconds: float
    log: str


def run_all(
    jobs: deque[tuple[Any, Callable[[Path], Job]]], root: Path, cache: Path, workers: int, done: Callable[..., None]
) -> None:
    """Run jobs, given as (key, a function from the child's own folder to its job), so many at once, until none is left.

    `done(key, ended, folder)` is called after each; it may add jobs. The folder is deleted then.
    """
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        base = Path(name)
        free = [Copy(root, base / f"tree{i}" / "jaxlv") for i in range(workers)]
        running: dict[int, tuple[Any, Copy, contextlib.ExitStack, Path, float]] = {}
        try:
            while jobs or running:
                while jobs and free:
                    key, make = jobs.popleft()
                    copy, own = free.pop(), Path(tempfile.mkdtemp(dir=base))
                    job = make(own)
                    stack = contextlib.ExitStack()
                    if job.file:
                        stack.enter_context(copy.changed(job.file, job.text))
                    running[_fork(copy, job, own, cache)] = (key, copy, stack, own, time.monotonic())
                pid, status = os.waitpid(-1, 0)
                if pid not in running:
                    continue
                key, copy, stack, own, began = running.pop(pid)
                _end_group(pid)
                stack.close()
                free.append(copy)
                log = (own / "log").read_text(encoding="utf-8", errors="replace")[-3000:]
                done(key, Ended(os.waitstatus_to_exitcode(status), time.monotonic() - began, log), own)
                for folder in (own, temporary_of(own, cache)):
                    shutil.rmtree(folder, ignore_errors=True)
        finally:
            for pid in running:
                _end_group(pid)


def _end_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def temporary_of(own: Path, cache: Path) -> Path:
    """Returns the folder in which a child's tests write; compiled programs lie beside it, shared by all children."""
    return cache / "shared" / own.name


def _fork(copy: Copy, job: Job, own: Path, cache: Path) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return pid
    code = 3
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        log = os.open(own / "log", os.O_CREAT | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        copy.enter()
        # The suite's own fixture keeps compiled programs beside the folder of a worker of xdist: shared by all children.
        os.environ["PYTEST_XDIST_WORKER"] = "mutants"
        temporary = temporary_of(own, cache)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        import pytest

        fixed = ["-q", "-p", "no:cacheprovider", "--no-header", "--tb=line", f"--basetemp={temporary}"]
        code = int(pytest.main([*fixed, *job.arguments], plugins=[job.plugin(copy)]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return pid
