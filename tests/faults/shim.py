"""`jaxlv VERB ...` in processes whose n-th write, flush, rename or allocation fails, or whose every operation is logged.

shim.c is compiled and loaded before the C library of one process that imports everything and then forks one process a call:
a call takes about a second, and its imports are not counted.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import Any, NamedTuple

SOURCE = Path(__file__).with_name("shim.c")
ONCE, FULL, GONE = 0, 1, 2  # the n-th operation alone fails; from it on no room is left; from it on the disk is gone
LIMIT = 120.0  # seconds that a call may take


class Kind(IntFlag):
    """The operations that can fail."""

    WRITE, SYNC, RENAME, CREATE, MKDIR, TRUNCATE, REMOVE, READ, ALLOCATE = (1 << n for n in range(9))


CHANGES = Kind.WRITE | Kind.SYNC | Kind.RENAME | Kind.CREATE | Kind.MKDIR | Kind.TRUNCATE | Kind.REMOVE


class Failure(NamedTuple):
    """What is to fail below the root: the n-th operation of some kinds (0 = none), alone or with all behind it."""

    nth: int = 0
    kinds: Kind = CHANGES
    mode: int = ONCE
    least: int = 0  # bytes from which an allocation counts
    log: str = ""  # a file for every operation with its bytes


NONE = Failure()


@dataclass(frozen=True)
class Ended:
    """How a call ended: its exit status (a signal's is negative), what it printed, what was counted, what failed first."""

    code: int
    out: str
    err: str
    counted: int
    failed: int
    what: str  # "WRITE /path"


class Unavailable(Exception):
    """This machine cannot run the shim; why."""


class Shim:
    """A process that has imported everything and forks those that make the calls. Operations below `root` count; XLA's
    programs are kept in `cache`.
    """

    def __init__(self, folder: Path, root: Path, cache: Path):
        compiler, library = shutil.which("cc"), folder / "shim.so"
        if not sys.platform.startswith("linux") or compiler is None:
            raise Unavailable("failures on purpose need Linux and a C compiler")
        command = [compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise Unavailable(f"shim.c does not compile here: {made.stderr[:500]}")
        self.said = folder / "said"
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(root.resolve()), str(cache)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
            env={**os.environ, "LD_PRELOAD": str(library)},
        )  # fmt: skip

    def call(self, *arguments: object, failure: Failure = NONE, worker: str = "", configs: object = "") -> Ended:
        """Run a verb to its end, in a process of its own or in the one that serves all calls of a `worker`: that is four
        times as fast, as its programs stay traced. `configs` are those for tests.quick, by which the process stays changed.
        """
        given = [str(argument) for argument in arguments]
        request = {
            "arguments": given, "failure": failure, "said": str(self.said), "worker": worker, "quick": str(configs),
        }  # fmt: skip
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the process that forks has ended: {self._process.wait()}"
        reply = json.loads(line)
        return Ended(**reply, **{name: Path(f"{self.said}.{name}").read_text(errors="replace") for name in ("out", "err")})

    def close(self) -> None:
        """End the process and its workers."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


# ------------------------------------------------------------------------------------ within the forking process


class _Shared(ctypes.Structure):
    """`struct shared` of shim.c."""

    _fields_ = (
        ("counted", ctypes.c_long), ("failed", ctypes.c_long), ("kind", ctypes.c_int), ("path", ctypes.c_char * 512),
    )  # fmt: skip


class _Worker:
    """A forked process that makes calls, one after the other, until one of them ends it."""

    def __init__(self, call: Callable[[dict[str, Any]], int]):
        (theirs, ours), (answers, replies) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(ours)
            with os.fdopen(theirs) as requests:
                for line in requests:
                    os.write(replies, f"{call(json.loads(line))}\n".encode())
            os._exit(0)
        os.close(theirs)
        os.close(replies)
        self.requests, self.replies = ours, answers

    def call(self, line: str) -> tuple[int, bool]:
        """(The exit status of a call, whether the process goes on.)"""
        os.write(self.requests, line.encode())
        if not select.select([self.replies], [], [], LIMIT)[0]:
            os.kill(self.pid, signal.SIGKILL)
        if answer := os.read(self.replies, 20):
            return int(answer), True
        return self.end(), False

    def end(self) -> int:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)  # unless it has ended itself: its status stays
        os.close(self.requests)
        os.close(self.replies)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _serve(root: str, cache: str) -> None:
    import jax

    from jaxlv.tools import cli
    from tests import quick  # noqa: F401
    from tests.programs import import_all

    import_all()

    library = ctypes.CDLL(None)
    library.shim_shared.restype = ctypes.POINTER(_Shared)
    library.shim_arm.argtypes = (ctypes.c_char_p, *(ctypes.c_int,) * 2, *(ctypes.c_long,) * 2, ctypes.c_int)
    shared = library.shim_shared().contents
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    workers: dict[str, _Worker] = {}
    for line in sys.stdin:
        name = json.loads(line)["worker"]
        worker = workers.pop(name, None) or _Worker(lambda request: _work(library, root, cli.main, request))
        code, goes_on = worker.call(line)
        if goes_on:
            workers[name] = worker
        what = f"{Kind(shared.kind).name} {shared.path.decode(errors='replace')}" if shared.failed else ""
        reply = {"code": code, "counted": shared.counted, "failed": shared.failed, "what": what}
        print(json.dumps(reply), flush=True)
    for worker in workers.values():
        worker.end()


def _work(library: Any, root: str, main: Callable[[list[str]], Any], request: dict[str, Any]) -> int:
    """The exit status of a verb. Without a worker's name the process ends with it, as a program of its own would."""
    for handle, name in ((0, ""), (1, "out"), (2, "err")):
        opened = os.open(f"{request['said']}.{name}" if name else os.devnull, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, handle)
        os.close(opened)
    if request["quick"]:
        from tests import quick  # which itself imports this module

        quick.install(Path(request["quick"]))
    nth, kinds, mode, least, path = request["failure"]
    if kinds & Kind.ALLOCATE:  # a limit as when allocations can fail, but far above what the machine has
        resource.setrlimit(resource.RLIMIT_AS, (1 << 46, 1 << 46))
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o600) if path else -1
    library.shim_arm(root.encode(), kinds, mode, nth, least, log)
    code = 0
    try:
        main(request["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    if not request["worker"]:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if not request["worker"]:
        os._exit(code)
    gc.collect()
    library.shim_disarm()
    if log >= 0:
        os.close(log)
    return code


if __name__ == "__main__":
    _serve(*sys.argv[1:])
