"""Signals that ask a program to end. After the first one a run ends at its next step, and saves; other work is given up,
and leaves nothing half done. A second one ends the process at once.

Signals that were ignored when the program began stay ignored: SIGHUP under nohup, SIGINT in a shell's background jobs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any, ClassVar

# Signals, and the exit status of a run that has saved.
SIGNALS = {signal.SIGHUP: 129, signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 0}


class Interrupted(Exception):
    """A run was asked to end, and has saved its state; `code` is the exit status that its program should give."""

    def __init__(self, number: int, done: str):
        self.number, self.code = number, SIGNALS[signal.Signals(number)]
        super().__init__(f"{signal.Signals(number).name}: {done}")


class Stopped(KeyboardInterrupt):
    """Work that cannot be saved was asked to end; `code` is the exit status that its program should give."""

    def __init__(self, number: int = signal.SIGINT):
        self.number, self.code = number, 128 + number
        super().__init__(signal.Signals(number).name)


@contextlib.contextmanager
def nothing_kept() -> Iterator[None]:
    """Turns a request to end into Stopped: work in a folder that is deleted if it is interrupted cannot be gone on with."""
    try:
        yield
    except Interrupted as stop:
        raise Stopped(stop.number) from None


class Signals:
    """While it is open, the first of SIGNALS sets `asked` instead of ending the process; the second ends it.

    A closing terminal sends SIGHUP more than once, and service managers send it beside SIGTERM: it never counts as a second
    one. If one is opened within another, the inner one gets all signals; the outer one gets those that came too late for
    it. Outside of the main thread, where Python allows no signal handlers, nothing is changed.
    """

    _open: ClassVar[list[Signals]] = []

    def __init__(self, others: Collection[int] = ()) -> None:
        """Leaves the signals in `others` to whoever handles them."""
        self.asked, self.answered, self._others = 0, False, others
        self._urgent, self._works = 0, False

    def hear(self, number: int) -> None:
        """Is called in a thread of its own the moment that the first signal comes, even if the main thread is within XLA."""

    def handle(self, number: int, _: Any) -> None:
        """Is called in the main thread, once it is back in Python, for each signal."""

    def __enter__(self) -> Any:
        self._works = threading.current_thread() is threading.main_thread()
        if self._works:
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            # The interpreter writes each signal's number here the moment it comes.
            self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            mine = (number for number in SIGNALS if number not in self._others)
            heard = [number for number in mine if signal.getsignal(number) is not signal.SIG_IGN]
            self._handlers = {number: signal.signal(number, self.handle) for number in heard}
            self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
            self._thread.start()
            self._open.append(self)
        return self

    def _watch(self) -> None:
        while byte := os.read(self._read, 1):
            number = byte[0]
            if number not in self._handlers:
                continue
            self._urgent += number != signal.SIGHUP
            if self._urgent > 1:
                os._exit(128 + number)
            if not self.asked:
                self.asked = number
                self.hear(number)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._works:
            self._open.remove(self)
            outer = self._open[-1] if self._open else None
            if outer and self.asked and kind:  # what ends this ends the outer one too
                outer.answered, outer._urgent = True, self._urgent
            for number, handler in self._handlers.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: JAX's own, for SIGTERM
            signal.set_wakeup_fd(self._before)
            os.close(self._write)
            self._thread.join()
            os.close(self._read)
            if outer and self.asked and not kind:  # it came too late for this one
                signal.raise_signal(self.asked)


class Interrupts(Signals):
    """Signals for a run, which looks at `asked` after each step."""

    def __init__(self, note: Callable[[str], None] = lambda text: None, others: Collection[int] = ()):
        super().__init__(others)
        self._note = note

    def hear(self, number: int) -> None:
        """Tells the user what will happen."""
        self._note(f"{signal.Signals(number).name}: saving after this step; a second signal ends at once")


class Stops(Signals):
    """Signals for work that cannot be saved: the first one raises Stopped in the main thread.

    At that moment Python may be within a destructor or a callback of the collector, which no exception can leave: it is
    reported (`sys.unraisablehook`), and the program goes on. So the signal is sent again, until it comes at a moment when
    it can end the work.
    """

    AGAIN = 0.02  # seconds, in which the callback ends

    def __enter__(self) -> Any:
        super().__enter__()
        if self._works:
            self._hook, sys.unraisablehook = sys.unraisablehook, self._ignored
        return self

    def __exit__(self, *fault: Any) -> None:
        if self._works and sys.unraisablehook == self._ignored:
            sys.unraisablehook = self._hook
        super().__exit__(*fault)

    def _ignored(self, told: Any) -> None:
        """Is called for an exception that nobody can catch."""
        if not isinstance(told.exc_value, Stopped) or self not in self._open:
            self._hook(told)
            return
        number = told.exc_value.number
        self.answered, self._urgent = False, self._urgent - (number != signal.SIGHUP)
        sent = threading.Timer(self.AGAIN, signal.pthread_kill, (threading.main_thread().ident, number))
        sent.daemon = True
        sent.start()

    def handle(self, number: int, _: Any) -> None:
        """Raises Stopped, once, so that the cleaning up is not interrupted itself."""
        if not self.answered:
            self.answered = True
            raise Stopped(number)
