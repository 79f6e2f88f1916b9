"""metrics.jsonl: what a run logs, one record a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxlv.errors import JaxlvError
from jaxlv.runs.sinks import Sink
from jaxlv.storage import lines
from jaxlv.storage.files import to_disk, write_text


class MetricsLog:
    """metrics.jsonl, one record a line, and the sinks that get the same; `keep` cuts what lies behind a step, for a run that
    resumes there.
    """

    def __init__(self, path: Path, sinks: Sequence[Sink] = ()):
        self.path, self.sinks = path, sinks
        self._size = 0  # bytes written so far

    def keep(self, last_step: int) -> None:
        """Drop records of steps after `last_step`, and a torn last line."""
        records = [r for r in read_metrics(self.path) if r["step"] <= last_step]
        text = b"".join(map(lines.encode, records))
        write_text(self.path, text.decode())
        self._size = len(text)

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record; `step` is one of its keys. Raises JaxlvError if the file is not what was written."""
        found = self.path.stat().st_size if self.path.exists() else 0
        if found != self._size:
            raise JaxlvError("was removed or changed while a process wrote it", where=self.path)
        with self.path.open("ab") as file:
            self._size += file.write(lines.encode(record))
        values = {name: float(v) for name, v in record.items() if isinstance(v, (int, float)) and name != "step"}
        for sink in self.sinks:
            sink.add(int(record["step"]), values)

    def to_disk(self) -> None:
        """Flush what was added."""
        if self.path.exists():
            to_disk(self.path)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, up to a torn line; JaxlvError where one before it is damaged."""
    return lines.read(path)
