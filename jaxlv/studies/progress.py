"""How a study tells how far it is. It prints nothing itself: its caller gives `begin`, which opens a bar, and `say`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol


class Bar(Protocol):
    """Shows how much of one piece of work is done."""

    def update(self, done: int, facts: str = "") -> None:
        """Shows that `done` pieces are done, with some words about the last one."""

    def step(self, done: int, figures: dict[str, float]) -> None:
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

    def step(self, done: int, figures: dict[str, float]) -> None:
        """Shows nothing."""

    def note(self, text: str) -> None:
        """Shows nothing."""


class Ticking(Silent):
    """A bar of tqdm, in a notebook or a terminal; nothing if the output is no terminal."""

    def __init__(self, label: str, total: int):
        from tqdm.auto import tqdm

        self.bar = tqdm(total=total, desc=label, leave=False, disable=None)

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, done: int, facts: str = "") -> None:
        """Shows how many pieces are done."""
        self.bar.update(done - self.bar.n)
        self.bar.set_postfix_str(facts)

    def step(self, done: int, figures: dict[str, float]) -> None:
        """Shows the loss of a training step."""
        self.update(done, f"loss {figures['loss']:.4f}")


def unsaid(text: str) -> None:
    """Shows nothing."""
