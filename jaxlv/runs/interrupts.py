"""Signals that ask a run to save and end: the first one is heard at the next step, a second one ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 0}  # and the exit status of a run that has saved


class Interrupted(Exception):
    """A run was asked to end, and has saved its state; `code` is the exit status that its program should give."""

    def __init__(self, number: int, done: str):
        self.code = SIGNALS[signal.Signals(number)]
        super().__init__(f"{signal.Signals(number).name}: {done}")


class Interrupts:
    """While it is open, SIGINT, SIGTERM and SIGUSR1 set `asked` instead of ending the process; see the module.

    Outside of the main thread, where Python lets nobody handle signals, it does nothing.
    """

    def __init__(self, hear: Callable[[str], None] = lambda text: None):
        self.asked = 0
        self._hear, self._works = hear, False

    def __enter__(self) -> Interrupts:
        self._works = threading.current_thread() is threading.main_thread()
        if self._works:
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            # The interpreter writes each signal's number here the moment it comes, though the main thread be within XLA.
            self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            self._handlers = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
            self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
            self._thread.start()
        return self

    def _watch(self) -> None:
        while byte := os.read(self._read, 1):
            number = byte[0]
            if number not in SIGNALS:
                continue
            if self.asked:
                os._exit(128 + number)
            self.asked = number
            self._hear(f"{signal.Signals(number).name}: saving after this step; a second signal ends at once")

    def __exit__(self, *_: object) -> None:
        if self._works:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._before)
            os.close(self._write)
            self._thread.join()
            os.close(self._read)
