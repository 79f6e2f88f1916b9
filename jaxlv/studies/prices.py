"""What work will cost before it is done: the plan of a run, and the programs that an audit compiles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from jaxlv.config import RunConfig, load_config
from jaxlv.errors import JaxlvError
from jaxlv.flops import plan as plans
from jaxlv.flops.family import architecture
from jaxlv.flops.groups import costs_of
from jaxlv.flops.subjects import Subject, of_work
from jaxlv.flops.targets import Target
from jaxlv.flops.work import Work
from jaxlv.runs import audited, billing, sources
from jaxlv.runs.records import CONFIG, read_config
from jaxlv.storage.door import is_there
from jaxlv.storage.files import make_folder, new_file

DEFAULT_BUDGET = 1e17  # FLOPs, of the assignment


@dataclass(frozen=True)
class Plan:
    """What a run will cost: FLOPs of each phase by convention, and the train steps that a budget buys."""

    budget: float
    conventions: Sequence[str]  # the config's own first
    phases: Mapping[str, Mapping[str, int]]  # {phase: {convention: FLOPs}}
    total: Mapping[str, int]  # without the last phase, which is not run
    steps_bought: Mapping[str, int]
    train_step: Mapping[str, int]
    pace: plans.Pace | None  # None if no benchmark was given

    @property
    def hours(self) -> float:
        """Returns the hours that the training takes at the pace of the benchmark."""
        assert self.pace is not None
        return next(iter(self.phases.values()))["exact"] / self.pace.rate / 3600


def plan(config: RunConfig, conventions: Sequence[str], budget: float | None = None, benchmark: Path | None = None) -> Plan:
    """Returns what a run will cost under its own convention, the exact one and `conventions`.

    The budget is the config's if `budget` is None, or 1e17 FLOPs. `benchmark` is a result of benchmarks.train_step. Raises
    JaxlvError if the model or the data are not there, or the benchmark is not one.
    """
    model = architecture(config.model.path)
    held = next(flops for flops in (budget, config.budget.flops, DEFAULT_BUDGET) if flops is not None)
    names = list(dict.fromkeys([config.budget.convention, "exact", *conventions]))
    step, sizes = billing.event_of(config), sizes_of(config)
    planned = plans.phases(config, step, sizes.test_series, sizes.steps)
    phases = {phase.name: {name: phase.flops(model, name) for name in names} for phase in planned}
    total = {name: sum(cost[name] for cost in list(phases.values())[:-1]) for name in names}
    price = {name: step.flops(model, name) for name in names}
    alphabet = config.model.loss == "alphabet"
    pace = plans.measured_rate(benchmark, step.flops(model, "exact"), alphabet) if benchmark else None
    return Plan(held, names, phases, total, plans.steps_bought(step, model, names, held), price, pace)


class Sizes(NamedTuple):
    """How many test series are evaluated, and how many steps a series has."""

    test_series: int
    steps: int


def sizes_of(config: RunConfig) -> Sizes:
    """Returns the sizes of a run's evaluation, from its data file if it has one. Raises JaxlvError if that is not there."""
    if config.data.path and not is_there(Path(config.data.path)):
        raise JaxlvError("no such data file", where=config.data.path, hint="name yours with --set data.path=FILE")
    loaded = sources.load_series(replace(config, data=replace(config.data, simulate=min(config.data.simulate, 8))))
    count = len(loaded) if config.data.path else config.data.simulate
    test = len(sources.split_series(config, loaded).test) if config.data.path else round(count * config.data.fractions[-1])
    return Sizes(min(test, config.evaluate.series or test), loaded.values_NTV.shape[1])


def subjects(work: Work, target: Target) -> list[Subject]:
    """Returns the programs of one piece of work, to be audited. Raises JaxlvError if the target has not its kernel."""
    _check_kernel(work.kernel, work.dtype, target)
    return of_work(work)


def subjects_of_runs(runs: Iterable[Path], settings: Sequence[str], target: Target) -> list[Subject]:
    """Returns the programs of runs, each a config or a run folder, to be audited.

    `settings` ("section.key=value") are laid over the configs. Raises JaxlvError if the target has not their kernel, or if a
    run's ledger is not there.
    """
    configs = []
    for path in runs:
        if path.is_dir():
            billing.check_ledger(read_config(path), path)
        configs.append(load_config(path / CONFIG if path.is_dir() else path, settings))
    for config in configs:
        _check_kernel(config.model.attention, config.model.dtype, target)
    found: list[Subject] = []
    for group in audited.groups(configs):
        found += audited.of_runs(group, architecture(group[0].model.path), *sizes_of(group[0]))
    return found


def _check_kernel(kernel: str, dtype: str, target: Target) -> None:
    fused = target.platform == "cuda" and target.present and dtype == "bfloat16"
    if kernel == "cudnn" and not fused:
        what = "cuDNN attention runs in bfloat16 on a CUDA device"
        raise JaxlvError(what, where="attention cudnn", found=f"{dtype}, {target.words}")


def draw(work: Work, names: Sequence[str], folder: Path) -> list[Path]:
    """Draws what work costs as PNG: from exact to each convention, by component, against a budget, and against length."""
    from jaxlv.report.figures import costs, svg

    make_folder(folder)
    every = costs_of(work, ["exact", *names])
    doubled = [one for one in every if one.waterfall] or costs_of(work, ["coursework"])
    figures = {
        "waterfall": costs.waterfall_figure(doubled),
        "components": costs.components_figure(every),
        "budget": costs.budget_figure(every, DEFAULT_BUDGET),
        "length": costs.length_figure(every),
    }
    for name, figure in figures.items():
        with new_file(folder / f"{name}.png") as place:
            svg.save_png(figure, place)
    return [folder / f"{name}.png" for name in figures]
