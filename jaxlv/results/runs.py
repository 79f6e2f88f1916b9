"""What a run folder tells of its run, beside what it reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxlv.results.quantities import quantity
from jaxlv.results.record import Record


@dataclass(frozen=True)
class RunCost(Record):
    """What a run cost; what is unknown is None."""

    steps: int | None = quantity("Training steps", form="count")
    tokens: int | None = quantity("Tokens trained on", form="count")
    seconds: float | None = quantity("Training time", "s")
    trainable_parameters: int | None = quantity("Trainable parameters", form="count")
    device: str | None = quantity("Device", form="words")
    peak_memory_bytes: int | None = quantity("Peak memory", "bytes")


@dataclass(frozen=True)
class Priced(Record):
    """What some work cost in FLOPs, by convention."""

    work: str
    flops: Mapping[str, int]


@dataclass(frozen=True)
class RunDetails(Record):
    """What lies in a run folder: what it was made of, its series by share, its bill by work, and its curves."""

    manifest: Mapping[str, Any] = field(default_factory=dict)
    split: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # {share: {id: mark of its values}}
    steps: int = 0  # that are planned
    ended: bool = True
    cost: RunCost | None = None
    bill: tuple[Priced, ...] = ()  # the last row is of all together
    budget: float = 0.0  # FLOPs by the first convention of the bill
    curves: Mapping[str, Any] | None = None
