"""`jaxlv VERB ...` in processes of their own, which may be killed: forked from one that has imported everything."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from jaxlv.tools import cli
from tests.programs import import_all

import_all()

PRELOADED = ["tests.faults.child"]


def _work(arguments: list[str], out: str, cache: str, ignored: Sequence[int], setup: Callable[[], None] | None) -> None:
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    with open(out, "w", buffering=1) as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        if setup:
            setup()
        cli.main(arguments)


class Child:
    """A call of the program, begun with some signals ignored, after `setup` in its process; `said` is what it has printed so
    far.
    """

    def __init__(
        self,
        *arguments: object,
        out: Path,
        cache: Path,
        ignored: Sequence[int] = (),
        setup: Callable[[], None] | None = None,
    ):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.out = out
        given = [str(argument) for argument in arguments]
        self.process = context.Process(target=_work, args=(given, str(out), str(cache), ignored, setup), daemon=True)
        self.process.start()

    @property
    def said(self) -> str:
        return self.out.read_text(errors="replace") if self.out.exists() else ""

    def wait_for(self, text: str, timeout: float = 60.0) -> None:
        """Until it has printed a text."""
        end = time.monotonic() + timeout
        while text not in self.said:
            assert self.process.is_alive() and time.monotonic() < end, f"{text!r} is not in what it said: {self.said}"
            time.sleep(0.005)

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Ends the process as a power cut would."""
        self.send(signal.SIGKILL)
        self.process.join()

    def end(self, timeout: float = 120.0) -> int:
        """Its exit status; that of a signal is negative."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still running: {self.said}"
        return self.process.exitcode
