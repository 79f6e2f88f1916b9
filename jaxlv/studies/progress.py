"""How a study tells how far it is. It prints nothing itself: its caller passes `begin`, which opens a bar, and `say`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol


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

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

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


def figures_told(figures: Mapping[str, float]) -> str:
    """Returns the figures of a training step in words."""
    return f"loss {figures['loss']:.4f}  {figures['tokens_per_second']:,.0f} tokens/s"


def unsaid(text: str) -> None:
    """Shows nothing."""
