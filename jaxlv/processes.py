"""Several processes as one program, over JAX's own service: who they are, what process 0 decides, and how they end.

All processes run the same program. What depends on one machine alone, such as a signal, a file or free memory, is decided
by process 0 and told to the others (`agreed`), so all of them launch the same programs in the same order. Process 0 alone
writes: the others work on copies of their own, which are removed (`own`).

With one process, which is the usual case, nothing here does anything.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxlv.errors import JaxlvError, printable

HEARTBEAT = 10  # seconds without a sign of life after which JAX ends the others
EXIT = 75  # of a process that gives up on the others: the same command may succeed (EX_TEMPFAIL of sysexits.h)
COPIES = "jaxlv-process-"  # begins the name of a process's folder of copies, before its number
KEPT = 1000  # decisions that stay to be read: a process is never that far behind
LEFT = "jaxlv/left"  # the key that process 0 sets when it leaves
TOGETHER = 30  # seconds within which all processes say that a step has failed, or it is not taken again
DETECTED: Mapping[str, tuple[str, str]] = {
    "SLURM": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "Kubernetes": ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"),
}
"""By which variables a launcher is known: one that says that there are several processes, and one that says which it is."""


class _Group:
    """The processes that this one belongs to."""

    client: Any = None  # of the service that all of them have joined
    scratch: Path | None = None  # the folder of this one's copies

    def __init__(self) -> None:
        self.count, self.index = 1, 0
        self.failures = 0  # after which all of them went on together
        self.together = False  # whether all of them are about to end
        self.numbers, self.copies, self.heard = itertools.count(), dict[Path, Path](), time.monotonic()


_group = _Group()


def detected(environment: Mapping[str, str] = os.environ) -> str:
    """Returns which launcher has started several processes; "" if none has."""
    for name, (several, which) in DETECTED.items():
        if environment.get(several, "1") != "1" and which in environment:
            return name
    return ""


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Joins the other processes: those that a launcher started, or `processes` of which this is number `process`, and of
    which process 0 listens at `coordinator` (host:port). Without either, or if `processes` is 1, this process stays alone.

    Raises JaxlvError if only some of the three are given, or if the others do not come.
    """
    if processes == 1:
        return
    given = (coordinator, processes, process)
    if any(one is not None for one in given) and None in given:
        raise JaxlvError("go together", where="--coordinator, --processes, --process", found="only some of them")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise JaxlvError("no such process", where="--process", expected=f"0 to {processes - 1}", found=process)
    if processes is None and not detected():
        return
    import jax
    from jax._src import distributed

    try:
        jax.distributed.initialize(coordinator, processes, process, heartbeat_timeout_seconds=HEARTBEAT)
    except Exception as fault:
        what = f"the processes did not come together ({printable(str(fault), 200)})"
        raise JaxlvError(what, where=coordinator or detected()) from None
    _group.count, _group.index = jax.process_count(), jax.process_index()
    _group.client = distributed.global_state.client


def count() -> int:
    """Returns how many processes there are."""
    return _group.count


def index() -> int:
    """Returns which of the processes this one is; process 0 writes, and decides."""
    return _group.index


def agreed(value: Any) -> Any:
    """Returns what process 0 has called it with, a value that JSON can hold. All processes call it, in the same order.

    A process that waits longer than `watched` allows ends.
    """
    if _group.count == 1:
        return value
    number = next(_group.numbers)
    _group.heard = time.monotonic()
    if _group.index == 0:
        _group.client.key_value_set(_key(number), json.dumps({"said": value}))
        if number >= KEPT:
            _group.client.key_value_delete(_key(number - KEPT))
        return value
    told = json.loads(_group.client.blocking_key_value_get(_key(number), 2**31 - 1))
    if "ended" in told:
        print(f"process {_group.index}: process 0 has ended: {told['ended']}", file=sys.stderr, flush=True)
        leave(told["code"])
    return told["said"]


def _key(number: int) -> str:
    return f"jaxlv/said/{_group.failures}/{number}"


def any_of(own: bool) -> bool:
    """Tells whether any process has called it with True, of what each has tried by itself. All processes call it, in the
    same order.
    """
    if _group.count == 1:
        return own
    place = f"jaxlv/tried/{_group.failures}/{next(_group.numbers)}"
    if _group.index:
        _group.client.key_value_set(f"{place}/{_group.index}", json.dumps(own))
        return bool(agreed(own))
    keys = [f"{place}/{index}" for index in range(1, _group.count)]
    told = [json.loads(_group.client.blocking_key_value_get(key, 2**31 - 1)) for key in keys]
    return bool(agreed(own or any(told)))


def all_failed() -> bool:
    """Tells whether a step has failed in every process, as each says by calling it, within TOGETHER seconds of the first. If
    so, none of them waits for another one, and all go on together from here.

    If not, others may wait for this process within the step, where no Python runs: it can only end, and they after it.
    """
    if _group.count == 1:
        return True
    import jax

    try:
        _group.client.wait_at_barrier(f"jaxlv/failed/{_group.failures}", TOGETHER * 1000)
    except jax.errors.JaxRuntimeError:
        return False
    _group.failures += 1
    _group.numbers, _group.heard = itertools.count(), time.monotonic()  # not all have agreed as often
    return True


def asked(number: int) -> None:
    """Tells process 0 that this process was sent a signal."""
    if _group.index:
        _group.client.key_value_set(f"jaxlv/asked/{_group.index}", str(number), allow_overwrite=True)


def signals() -> list[int]:
    """Returns the signals that other processes were sent, as process 0 has heard."""
    if _group.count == 1 or _group.index:
        return []
    return [int(number) for _, number in _group.client.key_value_dir_get("jaxlv/asked/")]


def preempted(step: int) -> bool:
    """Tells whether all processes are to stop after this step, as one of them got SIGTERM; each asks after each step."""
    if _group.count == 1:
        return False
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)


# ------------------------------------------------------------------------------------------------ files


def own(path: Path) -> Path:
    """Returns where this process writes what process 0 writes to `path`: that place, or, in another process, a copy of what
    is there in a folder that is removed in the end. `ready` must follow before process 0 writes.
    """
    if _group.index == 0:
        return path
    if _group.scratch is None:
        _remove_left()
        _group.scratch = Path(tempfile.mkdtemp(prefix=f"{COPIES}{os.getpid()}-"))
        atexit.register(shutil.rmtree, _group.scratch, ignore_errors=True)
    place = _group.scratch / str(len(_group.copies)) / path.resolve().name
    if path not in _group.copies:
        _group.copies[path] = place
        place.parent.mkdir()
        if path.is_dir():
            shutil.copytree(path, place, symlinks=True, ignore=shutil.ignore_patterns("lock", "save"))
        elif path.is_file():
            shutil.copy(path, place)
    return _group.copies[path]


def _remove_left() -> None:
    """Removes the copies of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{COPIES}*-*"):
        number = folder.name.removeprefix(COPIES).partition("-")[0]
        if number.isdigit() and not Path(f"/proc/{number}").exists() and Path("/proc/self").exists():
            shutil.rmtree(folder, ignore_errors=True)


def ready() -> None:
    """Waits until every process has the copies that it needs."""
    if _group.count > 1:
        _group.client.wait_at_barrier("jaxlv/ready", 10 * 60 * 1000)


# ------------------------------------------------------------------------------------------------ the end


def end_together() -> None:
    """Says that all processes are about to end, as they have agreed. Process 0 has more to write than the others, and JAX
    would end it if another one went long before: `leave` waits for it.
    """
    _group.together = True


def leave(code: int) -> None:
    """Ends this process at once, if it is one of several: the others could not follow an orderly end."""
    if _group.count > 1:
        if _group.index == 0:
            with contextlib.suppress(Exception):
                told = {"ended": "its last line says why", "code": code}
                _group.client.key_value_set(_key(next(_group.numbers)), json.dumps(told))
                _group.client.key_value_set(LEFT, "")
                time.sleep(1.0)  # those that wait for a decision, or for the end, read it
        elif _group.together:
            with contextlib.suppress(Exception):
                _group.client.blocking_key_value_get(LEFT, 2**31 - 1)
        if _group.scratch is not None:
            shutil.rmtree(_group.scratch, ignore_errors=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextlib.contextmanager
def watched(patience: float, way_on: str) -> Iterator[None]:
    """Ends this process with one line if none of its steps has ended for `patience` seconds (0: never); see `beat`.

    A process that has died can leave the others waiting within a collective operation, where no Python runs.
    """
    ended = threading.Event()
    if _group.count > 1 and patience:
        _group.heard = time.monotonic()
        threading.Thread(target=_watch, args=(ended, patience, way_on), name="patience", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def beat() -> None:
    """Says that a step has ended."""
    _group.heard = time.monotonic()


def _watch(ended: threading.Event, patience: float, way_on: str) -> None:
    while not ended.wait(min(1.0, patience / 4)):
        if time.monotonic() - _group.heard > patience:
            text = f"process {_group.index}: no step has ended for {patience:g} s; {way_on}"
            print(text, file=sys.stderr, flush=True)
            os._exit(EXIT)
