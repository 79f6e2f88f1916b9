"""metrics.jsonl: what a run logs, one record a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxlv.runs.sinks import Sink
from jaxlv.storage import lines
from jaxlv.storage.files import write_text


class MetricsLog:
    """metrics.jsonl, one record a line, and the sinks that get the same; `keep` cuts what lies behind a step, for a run that
    resumes there.
    """

    def __init__(self, path: Path, sinks: Sequence[Sink] = ()):
        self.path, self.sinks = path, sinks
        self._journal: lines.Journal | None = None  # once there is something to write

    def keep(self, last_step: int) -> None:
        """Drop records of steps after `last_step`, and a torn last line."""
        self.close()
        records = [r for r in read_metrics(self.path) if r["step"] <= last_step]
        write_text(self.path, b"".join(map(lines.encode, records)).decode())
        self._journal = lines.Journal(self.path)

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record; `step` is one of its keys. Raises JaxlvError if the file is not what was written."""
        self._journal = self._journal or lines.Journal(self.path)
        self._journal.add(record)
        values = {name: float(v) for name, v in record.items() if isinstance(v, (int, float)) and name != "step"}
        for sink in self.sinks:
            sink.add(int(record["step"]), values)

    def close(self) -> None:
        """Let go of the file."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, up to a torn line; JaxlvError where one before it is damaged."""
    return lines.read(path)
