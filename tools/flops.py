"""`jaxlv flops`: FLOPs by formula, and as the compiled programs have them."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from jaxlv.config import BudgetConfig, Dtype, Kernel
from jaxlv.errors import JaxlvError
from jaxlv.tools.bounds import whole
from jaxlv.tools.console import Result, group, say, shown
from jaxlv.tools.options import Backend, Config, Settings, changed, idle, setting

if TYPE_CHECKING:
    from jaxlv.flops.work import Work

DEFAULT_CONVENTIONS = "coursework,xu,rai,mao,liu,exact"


@dataclass(frozen=True)
class Asked:
    """The work of a train step.

    Args:
        model: built-in name (qwen2.5-0.5b to -72b), folder with a config.json, hub id, or "embedded"; no weights are read
        batch: rows
        length: tokens of a row
        rank: rank of the adapters; 0: no adapters
        targets: adapted projections
        head: how the language model's head trains
    """

    model: str = "qwen2.5-0.5b"
    batch: Annotated[int, whole()] = 4
    length: Annotated[int, whole()] = 512
    rank: Annotated[int, whole(0)] = 8
    targets: str = "q,v"
    head: Literal["frozen", "trained", "alphabet"] = "frozen"

    def work(self) -> Work:
        """Returns the work, for the counters."""
        from jaxlv.flops.family import architecture
        from jaxlv.flops.work import Work

        targets = tuple(part for part in self.targets.split(",") if part)
        return Work(architecture(self.model), self.batch, self.length, self.rank, targets, self.head)


def table(
    *,
    asked: Annotated[Asked, Parameter(name="*")] = Asked(),
    convention: str = DEFAULT_CONVENTIONS,
    figures: Path | None = None,
) -> Result:
    """Print the rows and totals of each convention: component, phase, FLOPs, and the formula that they come from.

        jaxlv flops table --model qwen2.5-0.5b --batch 4 --length 512 --rank 8 --convention coursework,exact

    Args:
        convention: one or more conventions, separated by commas, or "all"
        figures: folder that gets them as figures too (PNG)
    """
    from jaxlv.studies import prices

    work = asked.work()
    tables = prices.tables(work, convention)
    for path in prices.draw(work, tables, figures) if figures else ():
        say(str(path))
    parts = [f"\n{name}: {one.source}\n{shown(one.counted, *prices.ROWS)}" for name, one in tables.items()]
    sums = shown(prices.totals(work, tables), *prices.TOTALS)
    symbols = "Symbols: jaxlv/flops/work.py; dot(m, n, p) is a matrix product (m, n) x (n, p) at the convention's price."
    told = {name: one.tree() for name, one in tables.items()}
    return Result("\n".join([*parts, "", sums, symbols]), {"work": dataclasses.asdict(asked), "conventions": told})


def plan(
    config: Config,
    /,
    *,
    set: Settings = (),
    budget: Annotated[float | None, setting(BudgetConfig, "flops")] = None,
    benchmark: Path | None = None,
) -> Result:
    """Price a run before it starts: training, validation, evaluation, and the steps that a budget buys.

        jaxlv flops plan demo --budget 1e15

    The exit code is 2 if the plan does not fit the budget.

    Args:
        config: run as TOML, or the name of a config that comes with jaxlv
        budget: FLOPs; the config's if not given, or 1e17
        benchmark: result of benchmarks.train_step on your device, for a time estimate
    """
    from jaxlv.config import load_config
    from jaxlv.report import table, terminal
    from jaxlv.studies import prices

    found = prices.plan(load_config(config, set), DEFAULT_CONVENTIONS.split(","), budget, benchmark)
    text = terminal.listed(table.Table("", "", found.rows, found.columns))
    return Result("\n".join(filter(None, [text, found.told_hours])), found.tree(), found.refused(config))


def audit(
    runs: tuple[Path, ...] = (),
    /,
    *,
    asked: Annotated[Asked, Parameter(name="*")] = Asked(),
    train: Literal["adapters", "head", "full"] = "adapters",
    backend: Backend = "cpu",
    dtype: Dtype = "float32",
    attention: Kernel = "xla",
    set: Settings = (),
) -> Result:
    """Compare the formulas with the compiled programs, component by component.

    Compiles the project's own programs from shapes alone: a forward pass, a train step and a decode step, or, with configs
    or run folders, every program of these runs, with their optimiser, types, dropout, accumulation, validations and
    generations; runs that share a train step are audited side by side. Compares matrix products and all other operations of
    formula, jaxpr and HLO. The step of a run on a mesh (mesh.data, mesh.model) is compiled for so many devices as well: what
    they repeat, and what they send each other. The exit code is 0 only if every gate holds. With --backend cuda the programs
    are compiled for the CUDA device, or, with the extra cuda-compiler, for an absent H100.

        jaxlv flops audit --model qwen2.5-0.5b --batch 4 --length 512 --rank 8
        jaxlv flops audit demo --backend cuda
        jaxlv flops audit runs/a runs/b

    Args:
        runs: configs or run folders, in place of --model and the other sizes
        train: what trains
        backend: what the programs are compiled for
        dtype: type of weights and activations
        attention: kernel; cudnn needs a CUDA device
    """
    from jaxlv.flops.audit import as_json
    from jaxlv.studies import prices

    sizes = {"train": train != "adapters", "dtype": dtype != "float32", "attention": attention != "xla"}
    if runs:
        idle("configs and runs say it themselves", **changed(asked, Asked()), **sizes)
    else:
        idle("settings are those of a config or a run folder, and none is named", set=set)
    began = time.monotonic()
    work = None if runs else replace(asked.work(), kernel=attention, train=train, dtype=dtype)
    found = prices.audit_programs(work, runs, set, backend, say)
    every = "\nEvery operation, products in FLOPs and the others as 1 each; rows that are equal are not shown:"
    lines = ["Matrix products, FLOPs:", shown(found.products, *prices.PRODUCTS), every]
    lines += [shown(found.operations, *prices.OPERATIONS), *found.remarks]
    for one in found.spreads:
        lines += [f"\nMatrix products on {one.devices} devices, FLOPs of all of them:", shown(one.rows, *prices.SPREAD)]
        lines += ["\nBytes of the results of collectives, of each device in a step:", shown(one.traffic, *prices.TRAFFIC)]
        lines.append(f"bytes that a device sends, in rings: {one.ring:,}")
    lines.append(f"{'all gates hold' if found.passed else 'the audit FAILS'}; {time.monotonic() - began:.0f} s")
    told = {**dataclasses.asdict(asked), "train": train, "backend": backend, "dtype": dtype, "attention": attention}
    fault = JaxlvError("a gate of the audit does not hold", where="flops audit", hint="see the rows above")
    told = as_json(found.programs, told) | {"meshes": [one.tree() for one in found.spreads]}
    return Result("\n".join(lines), told, None if found.passed else fault)


def count(
    function: str,
    /,
    *,
    args: str = "",
    grad: bool = False,
    trips: str | None = None,
    backend: Backend | None = None,
    depth: Annotated[int | None, whole(0)] = None,
) -> Result:
    """Count any JAX function on arrays of the given shapes, by four counters, as jaxlv.flops.count does (docs/counting.md).

        jaxlv flops count module:function --args "f32[8,512],i32[8]" --grad

    Args:
        function: module:function, from this folder or from what is installed
        args: its arguments, such as "f32[8,512],i32[8]"
        grad: count the gradient of the sum of its results
        trips: turns of loops of unknown length, such as "7" or "model.py:12=7,step=3"
        backend: what it is compiled for; this machine's default device if not given
        depth: levels of scopes to show; all if not given
    """
    from jaxlv.studies import prices

    found = prices.counted(function, args, grad=grad, trips=trips, backend=backend)
    return Result(f"{found.table(depth)}\n\n{found.explain()}", found.as_json())


TOLD = "Count FLOPs by formula under every convention, and audit them against the compiled programs."
app = group("flops", TOLD, table, plan, audit, count)
