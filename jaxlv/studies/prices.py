"""What work will cost before it is done: the plan of a run, and the programs that an audit compiles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from jaxlv.config import MeshConfig, RunConfig, load_config
from jaxlv.errors import JaxlvError
from jaxlv.flops import plan as plans
from jaxlv.flops.audit import EQUAL, AuditRow, EveryRow, ProgramAudit, audit, explain, remarks
from jaxlv.flops.conventions import CONVENTIONS
from jaxlv.flops.counting import named
from jaxlv.flops.counting.count import count as count_function
from jaxlv.flops.counting.result import Result
from jaxlv.flops.family import architecture
from jaxlv.flops.groups import costs_of
from jaxlv.flops.subjects import Subject, of_work
from jaxlv.flops.table import Table, count
from jaxlv.flops.targets import Target, cpu, cuda, devices_of
from jaxlv.flops.traffic import Spread
from jaxlv.flops.work import Work
from jaxlv.model import placement
from jaxlv.results.quantities import Quantity
from jaxlv.runs import audited, billing, sources
from jaxlv.runs.records import CONFIG, read_config
from jaxlv.storage.door import is_there
from jaxlv.storage.files import make_folder, new_file
from jaxlv.studies.progress import Say, unsaid

DEFAULT_BUDGET = 1e17  # FLOPs, of the assignment


def _words(*keys: str) -> list[Quantity]:
    return [Quantity(key, form="words") for key in keys]


def _whole(**named: str) -> list[Quantity]:
    return [Quantity(key, words, form="whole") for key, words in named.items()]


# What tables show: a convention's rows and totals, and an audit's matrix products and other operations.
ROWS = [*_words("component", "phase"), *_whole(count="FLOPs"), *_words("formula")]
_EXACT = Quantity("of_exact", "of exact", form="precise")
TOTALS = [*_words("convention"), *_whole(forward="forward", train_step="train step"), _EXACT]
_BOTH = [*_words("program", "component", "phase"), *_whole(analytic="formula", jaxpr="jaxpr")]
_BEYOND = Quantity("difference", "HLO - formula", form="change")
PRODUCTS = [*_BOTH, *_whole(hlo="HLO"), _BEYOND, *_words("verdict")]
OPERATIONS = [*_BOTH, *_words("verdict")]
_FOUND = _whole(executed="HLO")
SPREAD = [
    *_words("component", "phase"), *_whole(asked="one device", repeated="repeated, by formula"), *_FOUND, *_words("verdict"),
]  # fmt: skip
TRAFFIC = [*_words("what"), *_whole(formula="formula"), *_FOUND, *_words("verdict")]


def counted(
    function: str, arguments: str, *, grad: bool = False, trips: str | None = None, backend: str | None = None
) -> Result:
    """Returns the counts of a function that is named "module:function", on arguments such as "f32[8,512],i32[8]".

    With `grad` the gradient of the sum of its results is counted. Raises JaxlvError if the function cannot be loaded, does
    not take the arguments, or has a loop of unknown length that `trips` says nothing of.
    """
    found, shapes = named.function_of(function), named.shapes(arguments)
    if grad:
        found = named.gradient(found, shapes)
    turns = None if trips is None else named.trips_of(trips)
    try:
        return count_function(found, *shapes, trips=turns, backend=backend)
    except (TypeError, ValueError) as fault:  # what JAX says of arguments that do not fit
        raise JaxlvError(f"the function does not take these arguments: {fault}", where=function) from fault


class Total(NamedTuple):
    """FLOPs of a forward pass and of a train step under a convention, the latter also as a share of the exact one's."""

    convention: str
    forward: int
    train_step: int
    of_exact: float


def tables(work: Work, convention: str) -> dict[str, Table]:
    """Returns {convention: its rows for some work} of "all" conventions or of those named, commas between.

    Raises JaxlvError if there is no such convention.
    """
    return {name: count(work, name) for name in (CONVENTIONS if convention == "all" else convention.split(","))}


def totals(work: Work, found: Mapping[str, Table]) -> list[Total]:
    """Returns the totals of tables beside the FLOPs of an exact train step."""
    exact = count(work, "exact").total_train_step
    return [
        Total(name, one.total_forward, one.total_train_step, one.total_train_step / exact) for name, one in found.items()
    ]


class PlannedUnder(NamedTuple):
    """What a run will cost under one convention; `share` is of the budget, None if that is 0."""

    convention: str
    phases: Mapping[str, int]
    total: int
    share: float | None
    train_step: int
    steps_bought: int


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
    def told_hours(self) -> str:
        """Says how long the training takes at the pace of the benchmark; "" without one."""
        if self.pace is None:
            return ""
        rate, origin = self.pace
        hours = next(iter(self.phases.values()))["exact"] / rate / 3600
        return f"training takes {hours:.2f} hours at {rate:.3g} FLOP/s (exact), measured on {origin}"

    def tree(self) -> dict[str, object]:
        """Returns it as JSON."""
        told = {name: getattr(self, name) for name in ("budget", "phases", "total", "steps_bought")}
        return {**told, "train_step": self.train_step[self.conventions[0]]}

    @property
    def columns(self) -> list[Quantity]:
        """Returns what is told of each convention."""
        return [
            Quantity("convention", "phase"),
            *(Quantity(phase, form="precise", path=("phases", phase)) for phase in self.phases),
            Quantity("total", "total, with cache", form="precise"),
            Quantity("share", f"share of {self.budget:.3g} FLOPs", form="share"),
            Quantity("train_step", "one train step", form="precise"),
            Quantity("steps_bought", "train steps that it buys", form="count"),
        ]

    def refused(self, where: Any) -> JaxlvError | None:
        """Returns the error of a plan that does not fit its budget; None if it fits."""
        first = self.conventions[0]
        if self.total[first] <= self.budget:
            return None
        return JaxlvError(
            "the plan does not fit the budget",
            where=where,
            expected=f"at most {self.budget:.4g} FLOPs ({first})",
            found=f"{self.total[first]:.4g}",
            hint="lower train.steps",
        )

    @property
    def rows(self) -> list[PlannedUnder]:
        """Returns the plan under each convention."""
        return [
            PlannedUnder(
                name,
                {phase: cost[name] for phase, cost in self.phases.items()},
                self.total[name],
                self.total[name] / self.budget if self.budget else None,
                self.train_step[name],
                self.steps_bought[name],
            )
            for name in self.conventions
        ]


def plan(config: RunConfig, conventions: Sequence[str], budget: float | None = None, benchmark: Path | None = None) -> Plan:
    """Returns what a run will cost under its own convention, the exact one and `conventions`.

    The budget is the config's if `budget` is None, or 1e17 FLOPs. `benchmark` is a result of benchmarks.train_step. Raises
    JaxlvError if the model, the data or the benchmark cannot be read.
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
    """Returns the sizes of a run's evaluation, from its data file if it has one. Raises JaxlvError if that is missing."""
    if config.data.path and not is_there(Path(config.data.path)):
        raise JaxlvError("no such data file", where=config.data.path, hint="name yours with --set data.path=FILE")
    loaded = sources.load_series(replace(config, data=replace(config.data, simulate=min(config.data.simulate, 8))))
    number = len(loaded) if config.data.path else config.data.simulate
    test = len(sources.split_series(config, loaded).test) if config.data.path else round(number * config.data.fractions[-1])
    return Sizes(min(test, config.evaluate.series or test), loaded.values_NTV.shape[1])


class Audited(NamedTuple):
    """Audits of programs, and the lines that stand below their rows."""

    programs: list[ProgramAudit]
    remarks: list[str]
    spreads: list[Spread]  # of train steps on a mesh

    @property
    def products(self) -> list[AuditRow]:
        """Returns the matrix products of every program, and their totals."""
        return [row for one in self.programs for row in (*one.rows, one.product_total)]

    @property
    def operations(self) -> list[EveryRow]:
        """Returns the operations of which formula and jaxpr differ, and the totals of all."""
        kept = ([*(row for row in one.every if row.verdict != EQUAL), one.every_total] for one in self.programs)
        return [row for rows in kept for row in rows]

    @property
    def passed(self) -> bool:
        """Tells whether every gate of every program holds."""
        return all(one.passed for one in self.programs) and all(one.passed for one in self.spreads)


def audit_programs(
    work: Work | None, runs: Iterable[Path], settings: Sequence[str], backend: str, say: Say = unsaid
) -> Audited:
    """Compares formulas with compiled programs: those of `work`, or of runs (configs or run folders) if it is None.

    The train steps of runs on a mesh are audited on one device, and then on that of their config. Raises JaxlvError if there
    is no compiler for the `backend`, and as `subjects` and `subjects_of_runs` do.
    """
    configs = [] if work else configs_of(runs, settings)
    meshed = [config for config in configs if max(config.mesh.data, 1) * config.mesh.model > 1]
    if backend == "cpu" and meshed:  # of as many virtual devices
        jax.config.update("jax_num_cpu_devices", max(max(one.mesh.data, 1) * one.mesh.model for one in meshed))
    target = cuda() if backend == "cuda" else cpu()
    found = subjects(work, target) if work else subjects_of_runs(configs, target)
    say(f"audit: compiled for {target.words}")
    programs = audit(found, target=target, watch=lambda text: say(f"audit: {text}"))
    spreads = [_on_mesh(config, target, say) for config in meshed]
    return Audited(programs, remarks(programs, explain(work) if work else []), spreads)


def _on_mesh(config: RunConfig, target: Target, say: Say) -> Spread:
    data, model = max(config.mesh.data, 1), config.mesh.model
    say(f"audit: train_step on {data} x {model} devices")
    places = np.array(devices_of(target, data * model)).reshape(data, model)
    mesh = Mesh(places, (placement.DATA, placement.MODEL), axis_types=(AxisType.Auto,) * 2)
    return audited.on_mesh(config, architecture(config.model.path), mesh, target)


def subjects(work: Work, target: Target) -> list[Subject]:
    """Returns the programs of one piece of work, to be audited. Raises JaxlvError if the target lacks its kernel."""
    _check_kernel(work.kernel, work.dtype, target)
    return of_work(work)


def configs_of(runs: Iterable[Path], settings: Sequence[str]) -> list[RunConfig]:
    """Returns the configs of runs, each a config or a run folder, with `settings` ("section.key=value") laid over them.
    Raises JaxlvError if a run's ledger is missing.
    """
    configs = []
    for path in runs:
        if path.is_dir():
            billing.check_ledger(read_config(path), path)
        configs.append(load_config(path / CONFIG if path.is_dir() else path, settings))
    return configs


def subjects_of_runs(configs: Iterable[RunConfig], target: Target) -> list[Subject]:
    """Returns the programs of runs on one device, to be audited. Raises JaxlvError if the target lacks their kernel."""
    configs = [replace(config, mesh=MeshConfig(data=1)) for config in configs]
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


def draw(work: Work, conventions: Iterable[str], folder: Path) -> list[Path]:
    """Draws what work costs as PNG: from exact to each convention, by component, against a budget, and against length."""
    from jaxlv.report.figures import costs, svg

    names = [name for name in conventions if name != "exact"]
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
