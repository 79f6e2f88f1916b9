"""Papers' own measures on our runs: the parts of a protocol, a comparison with several papers, a system run again.

The JSON of a `Comparison` is compare.json, that of a `Reproduction` reproduce.json. A paper is called report in the keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from jaxlv.results.quantities import Quantity, quantity
from jaxlv.results.record import Interval, Number, Record, keyed
from jaxlv.results.scores import Protocol, Score
from jaxlv.results.sweeps import Outcome

OF_TRUTH = ("above_top", "peak")  # measures that the truth has too
LARGER = ("r2", "success")  # measures of which more is better


@dataclass(frozen=True)
class Statistic(Record):
    """A measure over series; those without a value are left out and not counted."""

    mean: float | None = None
    median: float | None = None
    ci95: Interval | None = None
    series: int = 0


@dataclass(frozen=True)
class Measure(Record):
    """What a paper measured: its name, its unit, and the first so many steps if not all."""

    words: str
    unit: str
    first_steps: int = 0

    def statistics(self, key: str) -> list[Quantity]:
        """Returns mean, median and interval of it in rows that have a `Statistic` by key."""
        better: Any = "" if key in OF_TRUTH else "more" if key.startswith(LARGER) else "less"
        forms: dict[str, Any] = {"mean": "of one", "median": "of one", "ci95": "interval"}
        words = {"ci95": "95 % interval"}
        found = [
            Quantity(key, words.get(name, name), self.unit, form=form, group=self.words, path=("figures", key, name))
            for name, form in forms.items()
        ]
        return [replace(found[0], better=better), *found[1:]]


@dataclass(frozen=True)
class PartProtocol(Protocol):
    """How a part of a paper's protocol was measured."""

    words: str = ""
    shown_characters: int = 0
    simulated: bool = False
    steps_at_a_time: int | None = keyed("steps at a time")
    point_forecast: str | None = keyed("point forecast")
    measures: Mapping[str, Measure] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PartRow(Score):
    """A method's scores with the paper's own measures."""

    figures: Mapping[str, Statistic] = field(default_factory=dict)
    drawing: str | None = None


@dataclass(frozen=True)
class PartResult(Record):
    """A part of a protocol: what the paper printed, what the truth has, and our rows."""

    part: str
    protocol: PartProtocol
    rows: tuple[PartRow, ...]
    reported: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)  # by model and measure
    truth: Mapping[str, Statistic] = field(default_factory=dict)
    drawing: str = ""  # the series that is drawn, in words

    @property
    def measures(self) -> dict[str, Measure]:
        """The measures that some row has, or the paper."""
        held = {key for row in self.rows for key, one in row.figures.items() if one.series}
        held |= {key for own in self.reported.values() for key in own}
        held |= {key for key in self.truth if key in OF_TRUTH}
        return {key: one for key, one in self.protocol.measures.items() if key in held}

    def mean(self, name: str, key: str) -> float | None:
        """Returns a method's mean of a measure, None if it was not measured."""
        return next((row.figures[key].mean for row in self.rows if row.name == name and key in row.figures), None)


@dataclass(frozen=True)
class Spent(Record):
    """What runs spent by kind of work, from their ledgers."""

    tuning: Number
    validation: Number
    forecasts: Number
    total: Number
    budget: Number
    convention: str
    repeated: Number = 0


@dataclass(frozen=True)
class PaperCost(Record):
    """What a paper spent, and how that is known."""

    words: str = ""
    total: Number | None = None
    flops: Number | None = None
    of_allowance: Number | None = None


@dataclass(frozen=True)
class ProtocolResult(Record):
    """What came of a paper's protocol."""

    parts: Mapping[str, PartResult]
    reported_flops: PaperCost
    split: Mapping[str, int]
    flops: Spent | None = None
    run: str | None = None


@dataclass(frozen=True)
class BaseCost(Record):
    """What the base model cost, once."""

    flops: Mapping[str, Number] | Number
    tokens: Number
    parameters: Number


@dataclass(frozen=True)
class Comparison(Record):
    """Runs measured as each paper measured its own."""

    protocols: Mapping[str, ProtocolResult]
    data: str | None = None
    data_sha256: str | None = None
    base: BaseCost | None = None
    versions: Mapping[str, Any] | None = None

    @property
    def parts(self) -> list[PartResult]:
        """The parts of all protocols."""
        return [part for protocol in self.protocols.values() for part in protocol.parts.values()]


# -------------------------------------------------------------------------------------------------- a system, run again


@dataclass(frozen=True)
class StageResult(Record):
    """The runs of a stage, and what it chose."""

    name: str
    runs: tuple[Outcome, ...]
    trains: bool = True
    rule: str = "validation_loss"
    best: str = ""
    carried: Mapping[str, Any] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PlanRow(Record):
    """What a stage was planned to take."""

    stage: str
    runs: int | None = quantity("runs", form="count")
    steps: int | None = quantity("steps", form="count")
    flops: Number | None = quantity("FLOPs", form="precise")
    training: Number | None = quantity("training", form="precise")
    exact: Number | None = quantity("exact", form="precise")
    hours: float | None = quantity("hours")

    def __add__(self, other: PlanRow) -> PlanRow:
        """Returns what both take."""
        sums: dict[str, Any] = {}
        for key in self.quantities():
            sums[key] = (getattr(self, key) or 0) + (getattr(other, key) or 0) or None
        return replace(self, **sums)


class PlanShare(NamedTuple):
    """A row of a plan, and its share of all FLOPs."""

    row: PlanRow
    share: float


@dataclass(frozen=True)
class Plan(Record):
    """What was planned, under a convention, beside the allowance and what the paper spent."""

    rows: tuple[PlanRow, ...]
    convention: str
    allowance: Number
    hours: str
    reported: PaperCost
    total: Number = 0
    budget: Number = 0
    margin: float = 0

    @property
    def shares(self) -> list[PlanShare]:
        """Returns what each stage takes, and what all take together."""
        together = sum(self.rows, PlanRow("together"))
        return [PlanShare(row, (row.flops or 0) / self.total) for row in (*self.rows, together)]

    @property
    def of_shares(self) -> list[Quantity]:
        """Returns what is told of each of `shares`."""
        held = {key: one.within("row") for key, one in PlanRow.quantities().items()}
        flops = replace(held["flops"], words=f"FLOPs ({self.convention})")
        stage, share = Quantity("stage", form="words", path=("row", "stage")), Quantity("share", "of all %", form="share")
        return [stage, held["runs"], held["steps"], held["training"], flops, share, held["exact"], held["hours"]]


@dataclass(frozen=True)
class Phase(Record):
    """What a phase of a ledger spent."""

    flops: Number = 0
    exact: Number = 0
    repeated: Number = 0


@dataclass(frozen=True)
class Bill(Record):
    """What a ledger says was spent, by phase."""

    phases: Mapping[str, Phase] = field(default_factory=dict)
    convention: str = ""
    budget: Number | None = None


@dataclass(frozen=True)
class Fault(Record):
    """What a paper did wrong or also tried, done both ways."""

    fault: str
    right: str
    measured: str
    unit: str
    reported_way: Number | None = None
    right_way: Number | None = None
    key: str = ""

    @property
    def ratio(self) -> float | None:
        """Its way over the right one."""
        return self.reported_way / self.right_way if self.right_way and self.reported_way is not None else None


@dataclass(frozen=True)
class Reproduction(Record):
    """A paper's system, run again."""

    system: str
    stages: tuple[StageResult, ...]
    parts: Mapping[str, PartResult]
    plan: Plan
    rule: str
    scale: str = ""
    model: str = ""
    figure: str = ""
    data: str | None = None
    data_sha256: str | None = None
    bill: Bill | None = None
    beside: Bill | None = None
    faults: tuple[Fault, ...] = ()
    versions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trained(self) -> list[Outcome]:
        """Every run that was trained, each once."""
        return [one for stage in self.stages if stage.trains for one in stage.runs if one.same_as is None]
