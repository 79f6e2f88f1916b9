"""metrics.jsonl: what a run logs, one record a line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxlv.errors import JaxlvError


class MetricsLog:
    """metrics.jsonl, one record a line; `keep` cuts what lies behind a step, for a run that resumes there."""

    def __init__(self, path: Path, tensorboard: bool = False):
        self.path, self._board = path, None
        if tensorboard:
            self._board = _tensorboard(path.parent / "tensorboard")

    def keep(self, last_step: int) -> None:
        """Drop records of steps after `last_step`, and a torn last line."""
        records = [r for r in read_metrics(self.path) if r["step"] <= last_step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        os.replace(temporary, self.path)

    def add(self, record: Mapping[str, float]) -> None:
        """Append a record; `step` is one of its keys."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(record)) + "\n")
        if self._board:
            for name, value in record.items():
                self._board.add_scalar(name, value, int(record["step"]))


def _tensorboard(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise JaxlvError(
            "TensorBoard is not installed", where="train.tensorboard", hint='pip install "jaxlv[tensorboard]"'
        ) from None
    return SummaryWriter(str(folder))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, up to a torn line."""
    records: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
