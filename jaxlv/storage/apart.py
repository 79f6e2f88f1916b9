"""Work on untrusted files in another process with limits on its time, memory and output.

A library written in C or Rust may crash, loop for ever, or fill the memory on a file that was made for that, and nothing
within Python stops it. With this module such work is one call. The other process sees none of the environment, cannot write
files, and ends together with the process that asked. Both speak JSON through pipes: what comes back is only data, even if
the other process has been taken over.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import math
import os
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from jaxlv.errors import JaxlvError, printable

SLOWEST_TEXT, SLOWEST_FILE = 1e5, 2e6  # bytes per second of additional time that a request gets
PER_BYTE = 512  # additional bytes of memory per byte of text: a tokenizer stores much about each
PASSED_ON = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "TZ")  # what Python may need to start, and the time zone
ALONE = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
BLOCK = 1 << 16  # bytes that go through a pipe at once
HEAD = 8  # bytes that give the length of a message


class Failure(Exception):
    """Why work in another process failed, in a few words."""

    def __init__(self, reason: str):
        super().__init__(printable(reason))


@dataclass(frozen=True)
class Limits:
    """What the work on one request may take: seconds of CPU time, seconds in all, bytes of memory, bytes of the answer."""

    computing: float = 20.0
    seconds: float = 60.0
    memory: int = 1 << 30
    answer: int = 1 << 20

    def grown(self, text: int, files: int) -> Limits:
        """Returns the limits for a request with so many bytes of text and of files; files do not raise that on memory."""
        more = text / SLOWEST_TEXT + files / SLOWEST_FILE
        answer = self.answer + 16 * text
        return Limits(self.computing + more, self.seconds + 3 * more, self.memory + PER_BYTE * text, answer)


def call(function: Callable[..., Any], *arguments: Any, limits: Limits = Limits()) -> Any:
    """Returns the result of a module's function, called in another process; arguments are JSON or bytes, the result is JSON.

    Raises Failure if the function raises anything, crashes, or exceeds the limits.
    """
    worker = Apart(function, *arguments, limits=limits)
    worker.close()
    return worker.answer


class Apart:
    """An object in another process: made there by `target(*arguments)`; its methods are called by name.

    The process ends when `close` is called, when nothing refers to this object any more, when a request fails, and with the
    process that asked.
    """

    def __init__(self, target: Callable[..., Any], *arguments: Any, limits: Limits = Limits()):
        self.limits, self._lock = limits, threading.Lock()
        places = [os.path.abspath(place) for place in sys.path]
        command = [_python(), "-B", "-c", _PROGRAM.format(places), f"{target.__module__}:{target.__qualname__}"]
        held, ours = os.pipe()  # nothing is sent: that it closes tells the other process that this one has ended
        try:
            self._process = subprocess.Popen(
                [*command, str(held)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env=_environment(), pass_fds=(held,), process_group=0,
            )  # fmt: skip
        except OSError as fault:
            os.close(ours)
            raise Failure(f"no other process ({fault.strerror})") from None
        finally:
            os.close(held)
        self._end = weakref.finalize(self, _end, self._process, ours)
        self.answer = self.ask("", *arguments)

    def ask(self, method: str, *arguments: Any) -> Any:
        """Returns the result of a method; raises Failure if it raises anything, crashes, or exceeds the limits."""
        with self._lock:
            if not self.alive:
                raise Failure("the other process has ended")
            try:
                answer = self._exchange(method, arguments)
            except BaseException:
                self.close()
                raise
        if "fault" in answer:
            raise Failure(str(answer["fault"]))
        return answer.get("value")

    @property
    def alive(self) -> bool:
        """Tells whether the object can still be asked."""
        return self._end.alive

    def close(self) -> None:
        """Ends the other process."""
        self._end()

    def _exchange(self, method: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
        blobs = [one for one in arguments if isinstance(one, bytes)]
        plain = [None if isinstance(one, bytes) else one for one in arguments]
        text = sum(len(one) for one in plain if isinstance(one, (str, list)))
        limits = self.limits.grown(text, sum(map(len, blobs)))
        head = json.dumps([method, plain, [isinstance(one, bytes) for one in arguments], limits.computing, limits.memory])
        try:
            content = self._talk(b"".join(map(_framed, [head.encode(), *blobs])), limits)
            answer = json.loads(content)
        except (ValueError, RecursionError):
            raise Failure("no answer that can be read") from None
        if not isinstance(answer, dict):
            raise Failure("no answer that can be read")
        return answer

    def _talk(self, request: bytes, limits: Limits) -> bytes:
        """Sends a request and returns the answer; raises Failure if that takes too long, the answer is too large, or the
        process ends.
        """
        (to, back), rest, got = (self._process.stdin, self._process.stdout), memoryview(request), bytearray()
        assert to and back
        os.set_blocking(to.fileno(), False)
        end = time.monotonic() + limits.seconds
        with selectors.DefaultSelector() as ready:
            ready.register(back, selectors.EVENT_READ)
            ready.register(to, selectors.EVENT_WRITE)
            while len(got) < HEAD or len(got) < HEAD + int.from_bytes(got[:HEAD], "little"):
                found = ready.select(max(0.0, end - time.monotonic()))
                if not found:
                    raise Failure(f"no end after {limits.seconds:.0f} s")
                for key, _ in found:
                    if key.fileobj is back:
                        if not (block := os.read(back.fileno(), BLOCK)):
                            raise Failure(self._fate(limits))
                        got += block
                        continue
                    with contextlib.suppress(BrokenPipeError):  # `_fate` says how it ended once its answers stop
                        rest = rest[os.write(to.fileno(), rest[:BLOCK]) :]
                        if rest:
                            continue
                    ready.unregister(to)
                if int.from_bytes(got[:HEAD], "little") > limits.answer:
                    raise Failure(f"an answer of more than {limits.answer} bytes")
        return bytes(got[HEAD:])

    def _fate(self, limits: Limits) -> str:
        """Returns in words how the other process ended."""
        try:
            code = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            return "no answer"
        if code == -signal.SIGXCPU:
            return f"no end after {limits.computing:.0f} s of computing"
        if code == -signal.SIGABRT:  # how Rust and C++ end if they get no more memory
            return f"SIGABRT: a crash, or more memory than {limits.memory >> 20} MiB"
        return signal.Signals(-code).name if code < 0 else f"exit status {code} of {sys.executable}"


def _end(process: subprocess.Popen[bytes], ours: int) -> None:
    process.kill()  # does nothing in a fork of the process that asked
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            pipe.close()  # type: ignore[union-attr]
    os.close(ours)


def _python() -> str:
    """Returns the Python that runs this; raises JaxlvError if that is part of another program."""
    if not sys.executable or getattr(sys, "frozen", False):
        raise JaxlvError(
            "untrusted files are read in another process, and no Python for it is known",
            where="sys.executable",
            hint="set it to the path of a Python that has jaxlv",
        )
    return sys.executable


def _environment() -> dict[str, str]:
    return ALONE | {name: os.environ[name] for name in PASSED_ON if name in os.environ}


def _framed(content: bytes) -> bytes:
    return len(content).to_bytes(HEAD, "little") + content


# ------------------------------------------------------------------------------------------ the other process

_PROGRAM = "import sys; sys.path[:] = {!a}; from jaxlv.storage import apart; apart.serve(*sys.argv[1:])"


def serve(target: str, held: str) -> None:
    """Makes an object and answers requests for it, in the other process, until none come any more."""
    _end_with_the_one_that_asked(int(held))
    for what in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(what, (0, 0))
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):  # output of a library must not be mistaken for an answer
        os.dup2(nowhere, number)
    module, _, name = target.partition(":")
    made: Any = None
    while head := _received(requests):
        method, plain, raw, computing, memory = json.loads(head)
        arguments = [_received(requests) if is_raw else one for one, is_raw in zip(plain, raw, strict=True)]
        limit(computing, memory)
        try:
            if method:
                answer = {"value": getattr(made, method)(*arguments)}
            else:
                found = getattr(importlib.import_module(module), name)
                made = found(*arguments)
                answer = {"value": None if isinstance(found, type) else made}
            content = json.dumps(answer).encode()
        except BaseException as fault:  # a panic in an extension is not an Exception
            content = json.dumps({"fault": _words(fault)}).encode()
        answers.write(_framed(content))
        answers.flush()


def _words(fault: BaseException) -> str:
    """Returns an error in words: its text, after its type if that says something."""
    try:
        text = printable(fault)
    except BaseException:
        text = ""
    return text if type(fault) in (Exception, ValueError) and text else f"{type(fault).__name__}: {text}".removesuffix(": ")


def limit(computing: float, memory: int) -> None:
    """Limits what this process may take from now on: seconds of CPU time, and bytes of memory in all.

    These are soft limits: work that learns its size later may set them again.
    """
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    for name, most in ((resource.RLIMIT_CPU, math.ceil(used + computing)), (resource.RLIMIT_AS, memory)):
        hard = resource.getrlimit(name)[1]
        with contextlib.suppress(ValueError):  # some systems cannot limit memory; the limit on time still holds
            resource.setrlimit(name, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _received(pipe: BinaryIO) -> bytes:
    """Returns the next message; empty if the pipe has ended."""
    return pipe.read(int.from_bytes(pipe.read(HEAD), "little"))


def _end_with_the_one_that_asked(held: int) -> None:
    """Makes the system end this process when the other end of the pipe closes, as it does when the asking process ends."""
    fcntl.fcntl(held, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(held, fcntl.F_SETFL, fcntl.fcntl(held, fcntl.F_GETFL) | os.O_ASYNC)
    os.set_blocking(held, False)
    with contextlib.suppress(BlockingIOError):
        if not os.read(held, 1):  # already closed
            sys.exit()
