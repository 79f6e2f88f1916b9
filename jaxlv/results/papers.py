"""Papers' own measures on our runs: the parts of a protocol, a comparison with several papers, a system run again.

The JSON of a `Comparison` is compare.json, that of a `Reproduction` reproduce.json. A paper is called report in the keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from jaxlv.results.quantities import Form, Quantity, quantity
from jaxlv.results.record import Interval, Number, Record, keyed
from jaxlv.results.scores import Protocol, Score
from jaxlv.results.sweeps import Outcome, Point, points_of

OF_TRUTH = ("above_top", "peak")  # measures that the truth has too
LARGER = ("r2", "success")  # measures of which more is better


def best_of(key: str, found: Iterable[float]) -> float | None:
    """Returns the best of some values of a measure; None if there are none, or no value is better."""
    return None if key in OF_TRUTH else (max if key.startswith(LARGER) else min)(found, default=None)


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
        """Returns its mean, median and interval in rows that have a `Statistic` by key."""
        better: Any = "" if key in OF_TRUTH else "more" if key.startswith(LARGER) else "less"
        forms: dict[str, Form] = {"mean": "of one", "median": "of one", "ci95": "interval"}
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
class Line(Record):
    """A row of a part's table: the paper's, the truth's, or one of ours, which alone compete."""

    name: str
    figures: Mapping[str, Statistic]
    ours: bool = False
    is_rival: bool = False  # of a baseline that does not know the equations

    def mean(self, key: str) -> float | None:
        """Returns its mean of a measure, None if it has none."""
        return self.figures[key].mean if key in self.figures else None


@dataclass(frozen=True)
class Headline(Record):
    """A measure of a part: the paper's best figure, the models', the best baseline's, and that of the right equations."""

    what: str = quantity(" ", form="words")
    report: float | None = quantity("paper", form="of one")
    tuned: float | None = quantity("tuned", form="of one")
    interval: Interval | None = quantity("95 % interval", form="interval")
    median: float | None = quantity("median", form="of one")
    untuned: float | None = quantity("untuned", form="of one")
    best: float | None = quantity("best baseline", form="of one")
    rival: str | None = quantity("which", form="words")
    oracle: float | None = quantity("oracle", form="of one")


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

    def reported_means(self, key: str) -> list[float]:
        """Returns what the paper printed of a measure."""
        return [mean for own in self.reported.values() if (mean := own.get(key)) is not None]

    @property
    def lines(self) -> list[Line]:
        """The rows of its table: the paper's own figures first, then the truth's, the models' and the baselines'."""
        theirs = {name: {key: Statistic(mean=mean) for key, mean in own.items()} for name, own in self.reported.items()}
        truth = {key: one for key, one in self.truth.items() if key in OF_TRUTH}
        return [
            *(Line(f"paper: {name}", figures) for name, figures in theirs.items()),
            *([Line("truth", truth)] if truth else []),
            *(
                Line(row.name, {k: one for k, one in row.figures.items() if one.series}, True, row.is_rival)
                for row in self.rows
            ),
        ]

    def best(self, key: str) -> float | None:
        """Returns the best mean of our rows; None if no value is better, or one alone was measured."""
        means = [mean for line in self.lines if line.ours and (mean := line.mean(key)) is not None]
        return best_of(key, means) if len(means) > 1 else None

    def headline(self, key: str) -> Headline | None:
        """Returns the figures of a measure that matter most; None if the tuned model has none."""
        measure, means = self.measures[key], {line.name: mean for line in self.lines if (mean := line.mean(key)) is not None}
        tuned = next((row.figures[key] for row in self.rows if row.name == "tuned" and key in row.figures), None)
        if tuned is None or not tuned.series:
            return None
        rivals = {line.name: means[line.name] for line in self.lines if line.is_rival and line.name in means}
        best = best_of(key, rivals.values())
        return Headline(
            f"{self.part}: {measure.words}{f', {measure.unit}' if measure.unit.startswith('raw') else ''}",
            (max if key.startswith(LARGER) else min)(self.reported_means(key), default=None),
            tuned.mean,
            tuned.ci95,
            tuned.median,
            means.get("untuned"),
            best,
            next((name for name, mean in rivals.items() if mean == best), None),
            next((means[row.name] for row in self.rows if row.knows_the_equations and row.name in means), None),
        )


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
    versions: Mapping[str, str] | None = None

    @property
    def parts(self) -> list[PartResult]:
        """The parts of all protocols."""
        return [part for protocol in self.protocols.values() for part in protocol.parts.values()]

    @property
    def headlines(self) -> list[Headline]:
        """Every part and measure that the tuned model has."""
        return [found for part in self.parts for key in part.measures if (found := part.headline(key))]

    @property
    def conventions(self) -> list[str]:
        """The conventions that runs were billed under."""
        return sorted({protocol.flops.convention for protocol in self.protocols.values() if protocol.flops})


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

    @property
    def own(self) -> list[Outcome]:
        """Its runs that no other stage has trained."""
        return [one for one in self.runs if one.same_as is None]


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
class StageCost(Record):
    """What a stage was planned to cost, what it spent, also as executed, and its share of the allowance."""

    stage: str = quantity(form="words")
    runs: int | None = quantity(form="count")
    steps: int | None = quantity(form="count")
    planned: Number | None = quantity("planned", "FLOPs")
    spent: Number | None = quantity("spent", "FLOPs")
    repeated: Number | None = quantity("repeated", "FLOPs", group="of that, after interruptions")
    executed: Number | None = quantity("spent", "FLOPs", group="as executed")
    share: float | None = quantity("of the allowance", "%", form="share")


@dataclass(frozen=True)
class BothWays(Record):
    """What a paper did wrong or also tried, done both ways."""

    fault: str
    right: str
    measured: str
    unit: str
    reported_way: Number | None = quantity("its way")
    right_way: Number | None = quantity("the right way")
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
    faults: tuple[BothWays, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def trained(self) -> list[Outcome]:
        """Every run that was trained, each once."""
        return [one for stage in self.stages if stage.trains for one in stage.own]

    @property
    def points(self) -> list[Point]:
        """What every run that was trained cost, and the figure that it is chosen by."""
        return [one for stage in self.stages if stage.trains for one in points_of(stage.own, stage.rule)]

    @property
    def spending(self) -> list[StageCost]:
        """FLOPs by stage, all together, and what was done beside the paper's own work."""
        phases, rows = (self.bill or Bill()).phases, []
        for one in self.plan.rows:
            own = [phases[one.stage]] if one.stage in phases else []
            rows.append(self._cost(StageCost(one.stage, one.runs, one.steps, one.flops), own))
        sums: Any = {key: sum(getattr(row, key) or 0 for row in rows) for key in StageCost.quantities() if key != "stage"}
        rows.append(StageCost("together", **{**sums, "share": self._share(sums["spent"])}))
        if self.beside:
            rows.append(self._cost(StageCost("errors and analyses, beside it"), list(self.beside.phases.values())))
        return rows

    def _cost(self, planned: StageCost, phases: Sequence[Phase]) -> StageCost:
        """Returns a stage with what phases of a ledger spent."""
        if not phases:
            return planned
        spent = sum(one.flops for one in phases)
        repeated, executed = sum(one.repeated for one in phases), sum(one.exact for one in phases)
        return replace(planned, spent=spent, repeated=repeated, executed=executed, share=self._share(spent))

    def _share(self, spent: Number) -> float | None:
        return spent / self.plan.allowance if spent else None
