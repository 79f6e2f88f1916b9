"""A paper's system, run again: its stages from configs, what one hands on to the next, and what each will cost.

A stage is a config with two sections of its own: [grid], the values that its runs go through, and [stage]: `train` (false:
the untrained model is measured), `skip` (combinations that are left out), `share` (of the steps that are run).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxlv.config import BudgetConfig, RunConfig, build_config, laid_over, read_tree, sections
from jaxlv.errors import JaxlvError
from jaxlv.flops.family import architecture
from jaxlv.flops.ledger import FINAL, Event
from jaxlv.flops.plan import drawing, validation
from jaxlv.flops.plan import training as planned_training
from jaxlv.model.config import ModelConfig
from jaxlv.published.protocols import PROTOCOLS, SERIES, Part
from jaxlv.published.systems import ALLOWANCE, LENGTH, NONE, RANK, RATE, STAGES, Settings, System
from jaxlv.runs import billing, run, sweep
from jaxlv.runs.sweep import Cell
from jaxlv.steps.needs import planned
from jaxlv.steps.prompts import padded
from jaxlv.storage.door import is_there

MARGIN = 0.05  # of every envelope of a stage, for repeats after interruptions
REAL = "qwen2.5-0.5b"  # the papers' model
STEPS = 100  # time steps of a series
MODELS: Mapping[str, str] = {"baseline": "untuned", "first": "first run", "final": "final"}  # stages whose model forecasts
HANDS_ON: Mapping[str, tuple[str, ...]] = {"context": ("grid",), "final": ("grid", "context")}  # whose choices a stage takes
PARTS: Mapping[str, tuple[str, ...]] = {
    "xu": ("xu",),
    "rai": ("rai", "rai-972"),
    "mao": ("mao-128-cut", "mao-512-cut", "mao-768-cut", "mao-200"),
    "liu": ("liu",),
}
ANALYSED = 16, 4  # series and samples of each that the analyses draw
SHARED_LEDGER = f"../../{run.LEDGER}"  # seen from a run's folder


def parts_of(name: str) -> list[Part]:
    """Returns the parts of a paper's protocol that are measured; for rai, which scored 11 series, the others too."""
    parts = {part.name: part for part in PROTOCOLS[name].parts}
    found = [parts[part] for part in PARTS[name]]
    if name == "rai":
        words = found[0].words.replace("series 990-999", "the test series")
        found.insert(0, replace(found[0], name="rai-test", words=words, series=(), reported={}))
    return found


@dataclass(frozen=True)
class Stage:
    """A stage: its config without the runs' own settings, these, and whether anything is trained."""

    name: str
    config: RunConfig
    combinations: tuple[Settings, ...]
    trains: bool

    def cells(self, carried: Settings = NONE) -> list[Cell]:
        """Returns its runs, with settings that earlier stages chose below a run's own. The ledger is shared."""
        chosen = cells_of(self.config, [{**carried, **own} for own in self.combinations])
        own_names = [sweep.name_of(own) if own else "" for own in self.combinations]
        named = [replace(cell, settings=own) for cell, own in zip(chosen, self.combinations, strict=True)]
        return sweep.named(["-".join(filter(None, [self.name, name])) for name in own_names], named)


def test_share(name: str) -> int:
    """Returns the number of test series of a paper's split."""
    return len(PROTOCOLS[name].split(np.arange(SERIES)).test)


def label(stage: Stage, cell: Cell) -> str:
    """Returns what a stage's model is called in a table: of several, all but the first by their settings too."""
    first = all(cell.settings.get(name) == value for name, value in stage.combinations[0].items())
    own = [f"{name.rpartition('.')[2].replace('_', ' ')} {value}" for name, value in cell.settings.items()]
    return ", ".join([MODELS[stage.name], *([] if first else own)])


def cells_of(config: RunConfig, combinations: Sequence[Settings]) -> list[Cell]:
    """Does as `sweep.cells`; one run without settings of its own is allowed, and names need not differ."""
    return [sweep.cells(config, [settings])[0] for settings in combinations]


def read_stages(folder: Path, scale: Path | None = None, changes: Mapping[str, Any] = {}) -> list[Stage]:
    """Reads the stages in a folder, in order; laid over each: a scale's file, then `changes` (nested settings)."""
    above = laid_over(read_tree(scale) if scale else {}, changes)
    found = [
        _stage(name, laid_over(read_tree(folder / f"{name}.toml"), above), folder / f"{name}.toml")
        for name in STAGES
        if is_there(folder / f"{name}.toml")
    ]
    if not found:
        raise JaxlvError("no stages", where=folder, expected=", ".join(f"{name}.toml" for name in STAGES))
    return found


def _stage(name: str, tree: dict[str, Any], where: Path) -> Stage:
    rest, axes, stage = sections(tree, where)
    config = shortened(build_config(RunConfig, rest, where=where), stage.share)
    return Stage(name, config, tuple(sweep.grid(axes, stage.skip)), stage.train)


def shortened(config: RunConfig, share: float) -> RunConfig:
    """Returns the config with a share of its steps, rounded up; validations, checkpoints, the warm-up in proportion."""
    t, o = config.train, config.optimizer

    def part(steps: int) -> int:
        return math.ceil(round(share * steps, 6))

    train = replace(t, steps=part(t.steps), validate_every=part(t.validate_every), checkpoint_every=part(t.checkpoint_every))
    return replace(config, train=train, optimizer=replace(o, warmup_steps=part(o.warmup_steps)))


def telling(config: RunConfig) -> Settings:
    """Returns the settings by which a paper's figures are told from each other."""
    return {RATE: config.optimizer.learning_rate, RANK: config.lora.rank, LENGTH: config.windows.length}


def twin(cell: Cell, others: Iterable[Cell]) -> Cell | None:
    """Returns a run among others that is the same except its name and what it is part of: it need not be trained again."""
    return next((one for one in others if same(one.config) == same(cell.config)), None)


def same(config: RunConfig) -> RunConfig:
    """Returns the config without what tells the parts of a series of runs from each other."""
    return replace(config, budget=RunConfig().budget)


# ------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class StagePlan:
    """A line of a plan: a stage (or the evaluation), its runs that are trained, their steps, and its events."""

    stage: str
    runs: int
    steps: int
    events: tuple[Event, ...]

    def flops(self, model: ModelConfig, convention: str) -> int:
        """Returns its price."""
        return sum(event.flops(model, convention) for event in self.events)

    def training(self, model: ModelConfig, convention: str) -> int:
        """Returns the price of its train steps alone."""
        return sum(event.flops(model, convention) for event in self.events if event.kind == "train_step")


def plan(stages: Sequence[Stage], parts: Sequence[tuple[Part, int]]) -> list[StagePlan]:
    """Returns what the stages cost, and the evaluation of `parts` (with the number of their series) by every model.

    A run that an earlier stage has trained is not trained again. What the grid will choose is taken as the configs have it.
    """
    known: list[Cell] = []
    rows = [_row(stage, {}, known) for stage in stages]
    drawn = [event for stage in stages if stage.name in MODELS for event in _evaluation(stage, parts)]
    return [*rows, StagePlan(FINAL, 0, 0, tuple(drawn))]


def _row(stage: Stage, carried: Settings, known: list[Cell]) -> StagePlan:
    """Returns a stage's line; the runs that it trains are added to those known."""
    cells = stage.cells(carried)
    if not stage.trains:
        read = [validation(cell.config, billing.event_of(cell.config, "nothing"), STEPS) for cell in cells]
        return StagePlan(stage.name, 0, 0, tuple(event for events in read for event in events))
    new: list[Cell] = []
    for cell in cells:
        if not twin(cell, [*known, *new]):
            new.append(cell)
    known += new
    events: list[Event] = []
    for group in sweep.groups(new):
        rank = max(cell.config.lora.rank for cell in group)
        for cell in group:
            step = billing.event_of(cell.config, stack_rank=rank)
            events += [e for planned in planned_training(cell.config, step, STEPS) for e in planned.events]
    return StagePlan(stage.name, len(new), sum(cell.config.train.steps for cell in new), tuple(events))


def beside(system: System, stages: Sequence[Stage], part: tuple[Part, int], model: ModelConfig) -> list[StagePlan]:
    """Returns what showing the paper's errors costs, measured on a part, and the analyses of the final run, whatever the
    stages before it choose: each at the settings that cost most.
    """
    by_name = {stage.name: stage for stage in stages}
    choices = _choices(by_name[name] for name in HANDS_ON["final"])
    rows = (_beside(system, by_name, part, carried) for carried in choices)
    return [max(each, key=lambda one: one.flops(model, system.convention)) for each in zip(*rows, strict=True)]


def _beside(system: System, by_name: Mapping[str, Stage], part: tuple[Part, int], carried: Settings) -> list[StagePlan]:
    """Returns the same for one choice."""
    final, tried = by_name["final"].cells(carried)[0].config, by_name["grid"].cells()
    grid = next(cell.config for cell in tried if cell.settings.items() <= carried.items())
    event, events = billing.event_of(final), []
    for fault in system.faults:
        lengths = [cell.config for cell in by_name["context"].cells(carried)]
        for config in {"loss": [final], "lengths": lengths}.get(fault.kind, []):
            events += [replace(read, count=2 * read.count) for read in validation(config, billing.event_of(config), STEPS)]
        for config in {"training": [grid], "lengths": lengths}.get(fault.kind, []):
            events += [e for planned in planned_training(config, billing.event_of(config), STEPS) for e in planned.events]
        if fault.kind in ("forecast", "training"):
            for grammar in (final.sampling.grammar, bool(fault.settings.get("sampling.grammar", final.sampling.grammar))):
                way = replace(final, sampling=replace(final.sampling, grammar=grammar))
                events += _drawn(way, event, *part)
    e = final.evaluate
    horizon = min(e.horizon, STEPS - e.context)
    shown = replace(part[0], context=e.context, horizon=horizon, shown=0, reach=0, samples=ANALYSED[1])
    drawn, text = _drawn(final, event, shown, min(part[1], ANALYSED[0])), padded(STEPS * 2 * (final.codec.decimals + 3))
    read = drawn[0].of_kind("validation", count=4 * drawn[0].count, new_tokens=0, slots=0, stage=0, samples=1)
    return [
        StagePlan("faults", 0, 0, tuple(events)),
        StagePlan("analyses", 0, 0, (*drawn, *drawn, replace(read, length=text))),
    ]


def _evaluation(stage: Stage, parts: Sequence[tuple[Part, int]]) -> list[Event]:
    """Returns the forecasts of a stage's models for the parts."""
    found = []
    for cell in stage.cells():
        event = billing.event_of(cell.config, "adapters" if stage.trains else "bias")
        found += [one for part in parts for one in _drawn(cell.config, event, *part)]
    return found


def _drawn(config: RunConfig, event: Event, part: Part, series: int) -> list[Event]:
    """Returns the forecasts of a part by one model, at their longest."""
    request, pieces = part.request(), -(-part.horizon // part.reach) if part.reach else 1
    size, count = planned(series, min(config.evaluate.batch_series, series))
    steps = (part.reach or request.horizon) + request.skipped
    call = drawing(config, event, request.start, steps, request.samples, size)
    return [replace(call, count=pieces * count)]


def budget_of(rows: Sequence[StagePlan], model: ModelConfig, convention: str, margin: float = MARGIN) -> BudgetConfig:
    """Returns the [budget] of all runs: envelopes of the stages, what is held back for the evaluation, and their sum.

    Each has a margin for work that is done again after interruptions. A reproduction promises its steps: what interruptions
    take beyond the margin is executed beyond the budget, and shown.
    """
    envelopes = {row.stage: math.ceil((1 + margin) * row.flops(model, convention)) for row in rows}
    held_back = envelopes.pop(FINAL, 0)
    return BudgetConfig(
        flops=math.nextafter(sum(envelopes.values()) + held_back, math.inf),  # a float, which must not fall below the sum
        convention=convention,
        held_back=float(held_back),
        phases=dict(envelopes),
        repeats="beyond",
        ledger=SHARED_LEDGER,
    )


def allowance(rows: Sequence[StagePlan], full: Sequence[StagePlan], model: ModelConfig, convention: str) -> float:
    """Returns the assignment's FLOPs in proportion.

    `rows`, of a model, stand to it as the paper's `full` series, of the real model, stands to 1e17.
    """
    real = architecture(REAL)
    whole = sum(row.flops(real, convention) for row in full)
    return ALLOWANCE * sum(row.flops(model, convention) for row in rows) / whole


def with_budget(config: RunConfig, phase: str, budget: BudgetConfig) -> RunConfig:
    """Returns the config, paid from a shared budget as a phase of it."""
    return replace(config, budget=replace(budget, phase=phase))


def at_dearest(stage: Stage, before: Sequence[Stage], model: ModelConfig, convention: str) -> StagePlan:
    """Returns a stage's row, whatever the stages before it choose: at the settings that cost most."""

    def row(carried: Settings) -> StagePlan:
        known: list[Cell] = []
        return _row(stage, carried, known)

    return max(map(row, _choices(before)), key=lambda one: one.flops(model, convention))


def _choices(before: Iterable[Stage]) -> list[Settings]:
    """Returns the settings that stages can choose together."""
    each = itertools.product(*(one.combinations for one in before))
    return [{name: value for settings in choice for name, value in settings.items()} for choice in each]
