"""What the programs share: errors as one line and exit code 2, progress, and the versions that a result was made with."""

from __future__ import annotations

import argparse
import functools
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

from jaxlv.errors import JaxlvError

PACKAGES = ("jaxlv", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "safetensors", "tokenizers", "diffrax")


def program(arguments: Callable[[], argparse.ArgumentParser]) -> Callable:
    """Turn `main(options)` into a program `main(argv=None)`: parses, runs, and prints an error as one line."""

    def decorate(main: Callable[[argparse.Namespace], Any]) -> Callable[[list[str] | None], Any]:
        @functools.wraps(main)
        def run(argv: list[str] | None = None) -> Any:
            parser = arguments()
            parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
            options = parser.parse_args(argv)
            try:
                return main(options)
            except JaxlvError as fault:
                if options.debug:
                    raise
                print(f"jaxlv: {fault}", file=sys.stderr)
                raise SystemExit(2) from None

        return run

    return decorate


def versions() -> dict[str, str]:
    """Versions of what made a result, and the kind of machine: no names of machines or users."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    import jax

    device = jax.devices()[0]
    return found | {"device": f"{device.platform}: {device.device_kind}", "cores": str(os.cpu_count())}


class Progress:
    """A progress bar with loss, tokens/s and remaining time; plain lines, ten at most a minute, without a terminal."""

    def __init__(self, label: str, total: int, interval: float = 15.0):
        self.label, self.total, self.interval = label, total, interval
        self.started = self.printed = time.monotonic()
        self.first: int | None = None
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stdout.isatty():
            from rich.progress import BarColumn, Progress as Bar, TextColumn, TimeRemainingColumn

            columns = ("{task.description}", BarColumn(), "{task.completed:.0f}/{task.total:.0f}")
            self._bar = Bar(*columns, TextColumn("{task.fields[facts]}"), TimeRemainingColumn())
            self._task = self._bar.add_task(self.label, total=self.total, facts="")
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar:
            self._bar.stop()

    def step(self, done: int, figures: dict[str, float]) -> None:
        """Show the figures of a training step."""
        self.update(done, f"loss {figures['loss']:.4f}  {figures['tokens_per_second']:,.0f} tokens/s")

    def update(self, done: int, facts: str = "") -> None:
        """`done` of `total` are done."""
        if self._bar:
            self._bar.update(self._task, completed=done, facts=facts)
            return
        now = time.monotonic()
        if self.first is None:
            self.first, self.started = done, now
        if done < self.total and now - self.printed < self.interval:
            return
        self.printed = now
        pace = (now - self.started) / max(done - self.first, 1)
        left = f"  {pace * (self.total - done):.0f} s left" if done > self.first and done < self.total else ""
        print(f"{self.label}: {done}/{self.total}  {facts}{left}", flush=True)

    def note(self, text: str) -> None:
        """A line that stays."""
        if self._bar:
            self._bar.console.print(text)
        else:
            print(f"{self.label}: {text}", flush=True)
