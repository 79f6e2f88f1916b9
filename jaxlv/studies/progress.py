"""How a study tells how far it is. It prints nothing itself: its caller passes `begin`, which opens a bar, and `say`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from jaxlv.activity import doing


class Bar(Protocol):
    """Shows how much of one piece of work is done."""

    def update(self, done: int, facts: str = "") -> None:
        """Shows that `done` pieces are done, with some words about the last one."""

    def step(self, done: int, figures: Mapping[str, float]) -> None:
        """Shows the figures of a training step."""

    def note(self, text: str) -> None:
        """Shows a line that stays."""


Begin = Callable[[str, int], AbstractContextManager[Bar]]  # (label, how many pieces) -> a bar that ends with the block
Say = Callable[[str], None]  # shows a line that belongs to no bar


class Silent:
    """A bar that shows nothing."""

    def __init__(self, label: str, total: int):
        pass

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, done: int, facts: str = "") -> None:
        """Shows nothing."""

    def step(self, done: int, figures: Mapping[str, float]) -> None:
        """Shows nothing."""

    def note(self, text: str) -> None:
        """Shows nothing."""


class Lines:
    """Shows how far a piece of work is in plain lines: at most one each `interval` seconds, and one at the end."""

    def __init__(self, label: str, total: int, say: Say, interval: float = 15.0):
        self.label, self.total, self.say, self.interval = label, total, say, interval
        self.started = self.told = time.monotonic()
        self.first: int | None = None
        self._going = contextlib.ExitStack()

    def __enter__(self) -> Bar:
        self._going.enter_context(doing(self.label, soon=False))
        return self

    def __exit__(self, *_: object) -> None:
        self._going.close()

    def update(self, done: int, facts: str = "") -> None:
        """Shows that `done` of `total` pieces are done, and how long the rest will take."""
        now = time.monotonic()
        if self.first is None:
            self.first, self.started = done, now
        if done < self.total and now - self.told < self.interval:
            return
        self.told = now
        pace = (now - self.started) / max(done - self.first, 1)
        left = f"  {pace * (self.total - done):.0f} s left" if done > self.first and done < self.total else ""
        self.say(f"{self.label}: {done}/{self.total}  {facts}{left}")

    def step(self, done: int, figures: Mapping[str, float]) -> None:
        """Shows the figures of a training step."""
        self.update(done, figures_told(figures))

    def note(self, text: str) -> None:
        """Shows a line that stays."""
        self.say(f"{self.label}: {text}")


class Teller:
    """Listens to `activity.doing`, and tells it in plain lines: what has taken a second, and again after each half minute in
    which nothing else was said.
    """

    def __init__(self, print_line: Say, first: float = 1.0, every: float = 30.0):
        self.print_line, self.first, self.every, self.told = print_line, first, every, time.monotonic()

    def say(self, text: str) -> None:
        """Prints a line."""
        self.told = time.monotonic()
        self.print_line(text)

    @contextlib.contextmanager
    def __call__(self, words: str, soon: bool = True) -> Iterator[None]:
        """Tells `words` while the body works."""
        ended = threading.Event()
        thread = threading.Thread(target=self.tell, args=(words, soon, ended), name="activity", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def tell(self, words: str, soon: bool, ended: threading.Event) -> None:
        """Tells `words` until `ended` is set; runs in a thread of its own."""
        began = time.monotonic()
        if soon and not ended.wait(self.first):
            self.say(f"{words} ...")
        while not ended.wait(max(self.told + self.every - time.monotonic(), self.every / 100)):
            if time.monotonic() - self.told >= self.every:
                self.say(f"{words}: {time.monotonic() - began:.0f} s so far")


def figures_told(figures: Mapping[str, float]) -> str:
    """Returns the figures of a training step in words."""
    return f"loss {figures['loss']:.4f}  {figures['tokens_per_second']:,.0f} tokens/s"


def unsaid(text: str) -> None:
    """Shows nothing."""
