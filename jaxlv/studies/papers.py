"""A paper's system that is run again at some scale: its stages, what is kept of them in a folder, and what they cost."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jaxlv.config import BudgetConfig, built_in, laid_over, override
from jaxlv.data.series import SeriesSet
from jaxlv.flops.family import architecture
from jaxlv.flops.plan import Pace, measured_rate
from jaxlv.model.config import ModelConfig
from jaxlv.published import reproduction
from jaxlv.published.protocols import PROTOCOLS, Part, test_series
from jaxlv.published.reproduction import Stage
from jaxlv.published.systems import ALLOWANCE, SYSTEMS, System
from jaxlv.results.papers import PaperCost, Plan, PlanRow, StageResult
from jaxlv.runs import billing, sweep
from jaxlv.storage.door import is_there
from jaxlv.storage.files import read_json
from jaxlv.studies.progress import Begin, Say, Silent, unsaid

CONFIGS = built_in()["full"].parent
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"  # of a checkout
BENCHMARKS = {"small": "train_step-cpu.json", "full": "train_step-cuda-bfloat16.json"}
STAGE_FILES = "stages"  # the folder of what came of each stage
Scale = Literal["small", "full"]  # of the steps; small: 5 %


@dataclass(frozen=True)
class Reproduction:
    """One system at one scale, on one model and data set, in one folder. Its work is shown by `begin` and `say`."""

    system: System
    scale: Scale
    model_name: str
    stages: list[Stage]
    full: list[Stage]  # with the paper's own number of steps and windows
    out: Path
    begin: Begin = Silent
    say: Say = unsaid

    @functools.cached_property
    def model(self) -> ModelConfig:
        """Returns the architecture; no weights are read."""
        return architecture(self.model_name)

    @functools.cached_property
    def parts(self) -> list[Part]:
        """Returns the parts that are measured, with as many samples as the paper drew."""
        samples = self.stages[-1].config.evaluate.samples
        return [replace(part, samples=samples) for part in reproduction.parts_of(self.system.name)]

    def counted(self, stages: Sequence[Stage]) -> list[tuple[Part, int]]:
        """Returns the parts with the number of series that each is measured on."""
        most = stages[-1].config.evaluate.series or reproduction.test_share(self.system.name)
        return [(part, min(most, len(part.series) or most)) for part in self.parts]

    @functools.cached_property
    def planned(self) -> list[reproduction.StagePlan]:
        """Returns the plan at this scale."""
        return reproduction.plan(self.stages, self.counted(self.stages))

    @functools.cached_property
    def budget(self) -> BudgetConfig:
        """Returns the [budget] that all runs share. At the small scale, which promises its steps, every stage may take the
        dearest settings that those before can choose; at the full one it is what the paper spent, and a dearer choice ends
        sooner.
        """
        rows = self.planned
        if self.scale == "small":
            priced = [stage for stage in self.stages if stage.name in reproduction.HANDS_ON]
            dearest = {stage.name: self.dearest(stage) for stage in priced}
            rows = [dearest.get(row.stage, row) for row in rows]
        return reproduction.budget_of(rows, self.model, self.system.convention)

    @functools.cached_property
    def beside(self) -> BudgetConfig:
        """Returns the [budget] of what stands beside the paper's own work."""
        rows = reproduction.beside(self.system, self.stages, self.counted(self.stages)[0], self.model)
        return reproduction.budget_of(rows, self.model, self.system.convention)

    def dearest(self, stage: Stage) -> reproduction.StagePlan:
        """Returns the plan of a stage at its dearest."""
        before = [self.stage(name) for name in reproduction.HANDS_ON[stage.name]]
        return reproduction.at_dearest(stage, before, self.model, self.system.convention)

    @functools.cached_property
    def allowance(self) -> float:
        """Returns the assignment's FLOPs, in proportion to the work at this scale."""
        full = reproduction.plan(self.full, self.counted(self.full))
        return reproduction.allowance(self.planned, full, self.model, self.system.convention)

    def stage(self, name: str) -> Stage:
        """Returns a stage by name."""
        return next(stage for stage in self.stages if stage.name == name)

    def series_of(self, part: Part, data: SeriesSet) -> SeriesSet:
        """Returns the test series of a part, as many as the config takes. Raises JaxlvError if they are not the paper's."""
        chosen = test_series(PROTOCOLS[self.system.name], part, data)
        return chosen.select(chosen.ids_N[: self.stages[-1].config.evaluate.series or None])

    @property
    def name(self) -> str:
        """Returns what is run: the system, the scale and the model."""
        return f"{self.system.name}, scale {self.scale}, model {self.model_name}"

    def told(self, plan: Plan) -> list[str]:
        """Returns lines that say how a plan stands to the allowance."""
        theirs, share = plan.reported, plan.total / plan.allowance
        over = f": {share - 1:.1%} MORE than allowed" if share > 1 else ""
        of = f"{plan.allowance:.4g}, which is to this series what 1e17 is to the paper's"
        more, again = plan.budget / plan.total - 1, f"{plan.margin:.0%} for repeats after interruptions"
        rest = ", the rest for a choice of longer windows" if self.scale == "small" else ""
        return [
            f"the paper spent {theirs.flops:.4g} FLOPs ({theirs.words}), {theirs.of_allowance:.1%} of 1e17",
            f"this series: {plan.total:.4g} FLOPs, {share:.1%} of {of}{over}",
            f"the ledger holds {more:.0%} more: {again}{rest}; repeats that take more are billed beyond it",
            f"hours: {plan.hours}",
        ]

    def ended(self, stage: str) -> StageResult | None:
        """Returns what came of a stage; None if it has not run. Raises JaxlvError if its file is not what was written."""
        tree = self.result(stage)
        return None if tree is None else StageResult.read(tree, self.out / STAGE_FILES / f"{stage}.json")

    def result(self, name: str) -> Any:
        """Returns what was kept under a name; None if nothing was."""
        path = self.out / STAGE_FILES / f"{name}.json"
        return read_json(path) if is_there(path) else None

    def keep(self, name: str, result: Any) -> None:
        """Writes what came of a stage."""
        sweep.write_result(self.out / STAGE_FILES / f"{name}.json", result)


def open_paper(
    system: str,
    scale: Scale = "small",
    model: str = "embedded",
    *,
    data: Path | None = None,
    out: Path | None = None,
    settings: Sequence[str] = (),
    begin: Begin = Silent,
    say: Say = unsaid,
) -> Reproduction:
    """Returns a paper's system, by the configs that come with jaxlv; nothing is run.

    `settings` ("section.key=value") are laid over every run. Raises JaxlvError if they are not settings.
    """
    folder, small = CONFIGS / system, CONFIGS / system / "small.toml"
    of_model = {"model": {"path": model}}
    changes = laid_over({**of_model, "data": {"path": str(data or "")}}, override({}, settings))
    own = small if scale == "small" and small.is_file() else CONFIGS / f"{scale}.toml"
    stages = reproduction.read_stages(folder, own, changes)
    full = reproduction.read_stages(folder, CONFIGS / "full.toml", of_model)
    return Reproduction(SYSTEMS[system], scale, model, stages, full, out or Path(), begin, say)


def plan_of(work: Reproduction, benchmark: Path | None = None) -> Plan:
    """Returns the plan: runs, steps, FLOPs and hours by stage, the allowance, and what the paper spent.

    `benchmark` is a result of benchmarks.train_step; one that comes with a checkout if None.
    """
    rate, origin = rate_of(work, benchmark)
    rows = []
    for row in work.planned:
        flops, exact = (row.flops(work.model, name) for name in (work.system.convention, "exact"))
        training, hours = row.training(work.model, work.system.convention), exact / rate / 3600 if rate else None
        rows.append(PlanRow(row.stage, row.runs, row.steps, flops, training, exact, hours))
    theirs = PROTOCOLS[work.system.name]
    reported = PaperCost(words=theirs.flops_words, flops=theirs.flops, of_allowance=theirs.flops / ALLOWANCE)
    total, budget = sum(row.flops or 0 for row in rows), int(work.budget.flops or 0)
    convention, margin = work.system.convention, reproduction.MARGIN
    return Plan(tuple(rows), convention, work.allowance, origin, reported, total, budget, margin)


def rate_of(work: Reproduction, benchmark: Path | None) -> Pace:
    """Returns how fast train steps are; 0 if that was not measured. Its words stand behind "hours:"."""
    path = benchmark or RESULTS / BENCHMARKS[work.scale]
    if not is_there(path):
        return Pace(0.0, "not estimated; give --benchmark, a result of benchmarks.train_step on your device")
    config = work.stages[-1].config
    rate, origin = measured_rate(path, billing.event_of(config).flops(work.model, "exact"), config.model.loss == "alphabet")
    return Pace(rate, f"at {rate:.3g} FLOP/s (exact), the rate of a train step on {origin}")
