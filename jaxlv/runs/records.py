"""The records of a run folder: config.toml, manifest.json and split.json, which are written once, and metrics.jsonl, its
log.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from jaxlv.config import BudgetConfig, RunConfig, load_config
from jaxlv.errors import JaxlvError, briefly
from jaxlv.results.runs import Manifest
from jaxlv.runs.sinks import Sink
from jaxlv.storage import files, lines, shape
from jaxlv.storage.files import write_text

CONFIG, MANIFEST, SPLIT, METRICS = "config.toml", "manifest.json", "split.json", "metrics.jsonl"
CHECKPOINTS, STEP = "checkpoints", "step_"  # a folder, and what the names of those in it begin with
RUNS = "runs"  # the folder of several runs
SPLIT_SHAPE: shape.Shape = {share: {str: str} for share in ("train", "validation", "test?")}  # by series id
METRICS_SHAPE: shape.Shape = {"step": int, str: (float, None)}
T = TypeVar("T")


class Logged(dict[str, float]):
    """A line of metrics.jsonl: the step, and what was measured there, by name."""

    @property
    def step(self) -> int:
        """Returns the step."""
        return int(self["step"])


class MetricsLog:
    """Writes metrics.jsonl, one record a line, and gives the sinks the same records."""

    def __init__(self, path: Path, sinks: Sequence[Sink] = ()):
        self.path, self.sinks = path, sinks
        self._journal: lines.Journal | None = None  # once there is something to write

    def keep(self, last_step: int) -> None:
        """Drops records of steps after `last_step`, and a torn last line, for a run that resumes there."""
        self.close()
        records = [r for r in read_metrics(self.path) if r.step <= last_step]
        write_text(self.path, b"".join(map(lines.encode, records)).decode())
        self._journal = lines.Journal(self.path)

    def add(self, record: Mapping[str, float]) -> None:
        """Appends a record; `step` is one of its keys. Raises JaxlvError if the file is not what was written."""
        self._journal = self._journal or lines.Journal(self.path)
        self._journal.add(record)
        values = {name: float(value) for name, value in record.items() if name != "step"}
        for sink in self.sinks:
            sink.add(int(record["step"]), values)

    def close(self) -> None:
        """Closes the file."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None


def read_metrics(path: Path) -> list[Logged]:
    """Returns the records of a metrics.jsonl, up to a torn line; null is NaN. Raises JaxlvError if a line before that is
    damaged, or holds something else than numbers.
    """
    found = lines.read(path)
    for number, record in enumerate(found, 1):
        shape.check(record, METRICS_SHAPE, f"{path}, line {number}")
    return [Logged({name: math.nan if value is None else value for name, value in record.items()}) for record in found]


def read_config(folder: Path) -> RunConfig:
    """Returns the config of the run in a folder. A budget of 0 FLOPs buys no run: in older folders it means that the run
    has none.
    """
    config = load_config(folder / CONFIG)
    return config if config.budget.flops else replace(config, budget=BudgetConfig())


def saved_steps(folder: Path) -> list[int]:
    """Returns the steps of which a folder of checkpoints has something, complete or not."""
    names = (path.name.removeprefix(STEP) for path in folder.glob(f"{STEP}*"))
    return sorted(int(name) for name in names if name.isdigit())


def read_json(path: Path, made: Callable[[Any, Path], T]) -> T:
    """Returns what `made(tree, path)` makes of a JSON file of a run folder. Raises JaxlvError if the file is not readable,
    or if `made` does.
    """
    try:
        return made(files.read_json(path), path)
    except JaxlvError as fault:
        reason = f"not a run folder: no readable {path.name} ({briefly(fault)})"
        raise JaxlvError(reason, where=path.parent, expected=f"{CONFIG}, {MANIFEST}, {SPLIT}, checkpoints/") from None


def read_split(folder: Path) -> dict[str, dict[str, str]]:
    """Returns the series of the run in a folder: {share: {id: mark of its values}}."""
    return read_json(folder / SPLIT, lambda tree, path: shape.check(tree, SPLIT_SHAPE, path))


def read_manifest(folder: Path) -> Manifest:
    """Returns what the run in a folder was made of."""
    return read_json(folder / MANIFEST, Manifest.read)
