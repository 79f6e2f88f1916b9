"""Forecasts measured again under harder conditions; the JSON of a `Stress` is stress.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxlv.results.quantities import RAW, quantity
from jaxlv.results.record import Id, Record, rare
from jaxlv.results.scores import Score


@dataclass(frozen=True)
class AboveTop(Record):
    """How much lies above the top of the written scale."""

    truth: float | None = quantity("truth", "share of values", form="share", group="above the top")
    forecast: float | None = quantity("forecast", of="truth")


@dataclass(frozen=True, kw_only=True)
class StressScore(Score):
    """How one method's forecasts compare with the truth under a condition; `above_top` of a model alone."""

    above_top: AboveTop | None = None


@dataclass(frozen=True)
class ConditionScores(Record):
    """The scores of each method under one condition of a group, which `value` places on an axis."""

    group: str
    level: str  # in words, with its unit
    value: float
    horizon: int
    series: tuple[Id, ...]
    samples: int
    rows: tuple[StressScore, ...]
    context: int | None = None
    base: str | None = rare()  # which of jaxlv's bases was measured, if the model was "embedded"

    def __post_init__(self) -> None:
        """Makes every value plain; of a single series there are no intervals, whatever an older file says."""
        super().__post_init__()
        if len(self.series) == 1:
            object.__setattr__(self, "rows", tuple(row.without_intervals() for row in self.rows))

    def row(self, name: str) -> StressScore | None:
        """Returns the scores of a method, None if it was not measured."""
        return next((row for row in self.rows if row.name == name), None)


@dataclass(frozen=True)
class Stress(Record):
    """What stress.json holds."""

    conditions: tuple[ConditionScores, ...]
    data: str | None = None
    data_sha256: str | None = None
    seen_in_training: tuple[Id, ...] = ()
    units: Mapping[str, str] | None = None
    versions: Mapping[str, str] | None = None

    @property
    def groups(self) -> dict[str, list[ConditionScores]]:
        """The conditions by group, in their order."""
        found: dict[str, list[ConditionScores]] = {}
        for one in self.conditions:
            found.setdefault(one.group, []).append(one)
        return found

    @property
    def unit(self) -> str:
        """The unit of the errors."""
        return (self.units or {}).get("mae", RAW)
