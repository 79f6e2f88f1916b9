"""Work on files of others in another process, whose time, memory and output have limits.

A library written in C or Rust may crash, go round for ever, or fill the memory with a file that was made for it, and nothing
within Python stops that. Here such work costs one line: the other process sees nothing of the environment, writes into no
file, and ends with the one that asked. Both speak through pipes, in JSON: what comes back is data, whatever is at the other
end.
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

SLOWEST_TEXT, SLOWEST_FILE = 1e5, 2e6  # bytes that are worked on in a second more
PER_BYTE = 512  # bytes of memory that each byte of a text may take more: a tokenizer notes much of each
PASSED_ON = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "TZ")  # what a Python may need to start, and the clock
ALONE = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
BLOCK = 1 << 16  # bytes that go through a pipe at once
HEAD = 8  # bytes that say how long a message is


class Failure(Exception):
    """Why work in another process came to nothing, in a few words."""

    def __init__(self, reason: str):
        super().__init__(printable(reason))


@dataclass(frozen=True)
class Limits:
    """What the work on one request may take: seconds of computing, seconds in all, bytes of memory, bytes of the answer."""

    computing: float = 20.0
    seconds: float = 60.0
    memory: int = 1 << 30
    answer: int = 1 << 20

    def grown(self, text: int, files: int) -> Limits:
        """Returns the limits for a request with so many bytes of text, and of files, which must do with the same memory."""
        more = text / SLOWEST_TEXT + files / SLOWEST_FILE
        answer = self.answer + 16 * text
        return Limits(self.computing + more, self.seconds + 3 * more, self.memory + PER_BYTE * text, answer)


def call(function: Callable[..., Any], *arguments: Any, limits: Limits = Limits()) -> Any:
    """Returns what a function of a module answers in another process; arguments are JSON or bytes, the answer is JSON.

    Raises Failure if it raises anything, crashes, or takes more than the limits.
    """
    worker = Apart(function, *arguments, limits=limits)
    worker.close()
    return worker.answer


class Apart:
    """An object in another process: made there by `target(*arguments)`, and asked by the names of its methods.

    It ends when `close` is called, when nobody holds it any more, when a request fails, and with the process that asked.
    """

    def __init__(self, target: Callable[..., Any], *arguments: Any, limits: Limits = Limits()):
        self.limits, self._lock = limits, threading.Lock()
        places = [os.path.abspath(place) for place in sys.path]
        command = [_python(), "-B", "-c", _PROGRAM.format(places), f"{target.__module__}:{target.__qualname__}"]
        held, ours = os.pipe()  # nothing goes through it: its end tells the other process that this one has ended
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
        """Returns what a method answers; raises Failure if it raises anything, crashes, or takes more than allowed."""
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
        """Sends a request and returns the answer, both as a whole and before the time is over."""
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
                    with contextlib.suppress(BrokenPipeError):  # how it ended is said when its answers end
                        rest = rest[os.write(to.fileno(), rest[:BLOCK]) :]
                        if rest:
                            continue
                    ready.unregister(to)
                if int.from_bytes(got[:HEAD], "little") > limits.answer:
                    raise Failure(f"an answer of more than {limits.answer} bytes")
        return bytes(got[HEAD:])

    def _fate(self, limits: Limits) -> str:
        """Says in words how the other process ended."""
        try:
            code = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            return "no answer"
        if code == -signal.SIGXCPU:
            return f"no end after {limits.computing:.0f} s of computing"
        if code == -signal.SIGABRT:  # how Rust and C++ end when they are given no more memory
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
            "files of others are read by another process, and no Python for it is known",
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
    """Makes an object and answers for it, in the other process, until nobody asks any more."""
    _end_with_the_one_that_asked(int(held))
    for what in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(what, (0, 0))
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):  # what a library prints is not an answer
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
        except BaseException as fault:  # what an extension raises when it panics is not an Exception
            content = json.dumps({"fault": _words(fault)}).encode()
        answers.write(_framed(content))
        answers.flush()


def _words(fault: BaseException) -> str:
    """Says a fault in words: its text, behind its type unless that says nothing."""
    try:
        text = printable(fault)
    except BaseException:
        text = ""
    return text if type(fault) in (Exception, ValueError) and text else f"{type(fault).__name__}: {text}".removesuffix(": ")


def limit(computing: float, memory: int) -> None:
    """Sets what this process may take from now on: seconds of computing, and bytes of memory in all.

    These are the soft limits: work that learns its size later may set them again.
    """
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    for name, most in ((resource.RLIMIT_CPU, math.ceil(used + computing)), (resource.RLIMIT_AS, memory)):
        hard = resource.getrlimit(name)[1]
        with contextlib.suppress(ValueError):  # some systems have no limit on memory; that on time stays
            resource.setrlimit(name, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _received(pipe: BinaryIO) -> bytes:
    """Returns the next message; nothing at the end of all."""
    return pipe.read(int.from_bytes(pipe.read(HEAD), "little"))


def _end_with_the_one_that_asked(held: int) -> None:
    """Lets the system end this process when the other end of a pipe is closed, which it is when its process is gone."""
    fcntl.fcntl(held, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(held, fcntl.F_SETFL, fcntl.fcntl(held, fcntl.F_GETFL) | os.O_ASYNC)
    os.set_blocking(held, False)
    with contextlib.suppress(BlockingIOError):
        if not os.read(held, 1):  # it was closed before
            sys.exit()
