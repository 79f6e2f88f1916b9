"""How a base came about; the JSON of a `BaseTraining` is training.json in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxlv.results.record import Record


@dataclass(frozen=True)
class CurvePoint(Record):
    """What a base reached at a step."""

    step: int
    validation_nats_per_token: float
    groups: Mapping[str, float] = field(default_factory=dict)  # the same of "seen" and "unseen" kinds of series


@dataclass(frozen=True)
class BaseTraining(Record):
    """A base: its size, its cost, its settings as they were written, and its curve."""

    parameters: int
    tokens: int
    flops: Mapping[str, int]  # of all train steps, by convention
    settings: Mapping[str, object]
    curve: tuple[CurvePoint, ...]
    versions: Mapping[str, str]
    # nats per written value that 99 % of its validation windows stay below, by number of variables
    familiar: Mapping[str, float] = field(default_factory=dict)
    adapters: int = 0  # parameters that were trained over those of the embedded base; 0: the base itself was trained

    @property
    def has_read_gaps(self) -> bool:
        """Whether missing values were marked in its texts."""
        series = self.settings.get("series")
        return isinstance(series, Mapping) and bool(series.get("marked", 0))
