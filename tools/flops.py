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
from jaxlv.tools.console import Result, group, say, shown
from jaxlv.tools.options import Backend, Config, Settings, setting, whole

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
        rank: of the adapters; 0: there are none
        targets: adapted projections
        head: of the language model
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


# -------------------------------------------------------------------------------------------------- table


def table(
    *,
    asked: Annotated[Asked, Parameter(name="*")] = Asked(),
    convention: str = DEFAULT_CONVENTIONS,
    figures: Path | None = None,
) -> Result:
    """Print the rows and totals of each convention: component, phase, FLOPs, and the formula that they come from.

        jaxlv flops table --model qwen2.5-0.5b --batch 4 --length 512 --rank 8 --convention coursework,exact

    Args:
        convention: one or more conventions, commas between, or "all"
        figures: folder where they are drawn as PNG, too
    """
    from jaxlv.flops.conventions import CONVENTIONS
    from jaxlv.report.table import column, words
    from jaxlv.studies import prices

    work = asked.work()
    names = list(CONVENTIONS) if convention == "all" else convention.split(",")
    tables = prices.tables(work, names)
    for path in prices.draw(work, [name for name in names if name != "exact"], figures) if figures else ():
        say(str(path))
    told, parts = {}, []
    columns = (words("component"), words("phase"), column("count", "FLOPs", form="whole"), words("formula"))
    for name, one in tables.items():
        rows = [dataclasses.asdict(row) for row in one.rows]
        totals = {"total_forward": one.total_forward, "total_train_step": one.total_train_step}
        told[name] = {"source": CONVENTIONS[name].source, **totals, "rows": rows}
        parts.append(f"\n{name}: {CONVENTIONS[name].source}\n{shown([row for row in one.rows if row.count], *columns)}")
    flops = (column("forward", form="whole"), column("train_step", "train step", form="whole"))
    sums = shown(prices.totals(work, tables), words("convention"), *flops, column("of_exact", "of exact", form="precise"))
    symbols = "Symbols: jaxlv/flops/work.py; dot(m, n, p) is a matrix product (m, n) x (n, p) at the convention's price."
    return Result("\n".join([*parts, "", sums, symbols]), {"work": dataclasses.asdict(asked), "conventions": told})


# --------------------------------------------------------------------------------------------------- plan


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
    from jaxlv.report import terminal
    from jaxlv.report.table import Table, column, share
    from jaxlv.results.quantities import Quantity
    from jaxlv.studies import prices

    found = prices.plan(load_config(config, set), DEFAULT_CONVENTIONS.split(","), budget, benchmark)
    first, total = found.conventions[0], found.total[found.conventions[0]]
    tree = {
        "budget": found.budget, "phases": found.phases, "total": found.total, "steps_bought": found.steps_bought,
        "train_step": found.train_step[first],
    }  # fmt: skip
    fault = None
    if total > found.budget:
        fault = JaxlvError(
            "the plan does not fit the budget", where=config, expected=f"at most {found.budget:.4g} FLOPs ({first})",
            found=f"{total:.4g}", hint="lower train.steps",
        )  # fmt: skip
    columns = [
        column("convention", "phase"),
        *(Quantity(phase, form="precise", path=("phases", phase)) for phase in found.phases),
        column("total", "total, with cache", form="precise"),
        share("share", f"share of {found.budget:.3g} FLOPs", ""),
        column("train_step", "one train step", form="precise"),
        column("steps_bought", "train steps that it buys", form="count"),
    ]
    text = terminal.listed(Table("", "", found.rows, columns))
    if found.pace:
        rate, origin = found.pace
        text += f"\ntraining takes {found.hours:.2f} hours at {rate:.3g} FLOP/s (exact), measured on {origin}"
    return Result(text, tree, fault)


# -------------------------------------------------------------------------------------------------- audit


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
    formula, jaxpr and HLO. The exit code is 0 only if every gate holds. With --backend cuda the programs are compiled for
    the CUDA device, or, with the extra cuda-compiler, for an H100 that is not there.

        jaxlv flops audit --model qwen2.5-0.5b --batch 4 --length 512 --rank 8
        jaxlv flops audit demo --backend cuda
        jaxlv flops audit runs/a runs/b

    Args:
        runs: configs or run folders, in place of --model and the other sizes
        train: what trains
        backend: what the programs are compiled for
        dtype: of weights and activations
        attention: the kernel; cudnn: on a CUDA device
    """
    from jaxlv.flops import audit as audits
    from jaxlv.flops import targets
    from jaxlv.report.table import column, words
    from jaxlv.studies import prices

    began = time.monotonic()
    target = targets.cuda() if backend == "cuda" else targets.cpu()
    work = None if runs else replace(asked.work(), kernel=attention, train=train, dtype=dtype)
    subjects = prices.subjects(work, target) if work else prices.subjects_of_runs(runs, set, target)
    say(f"audit: compiled for {target.words}")
    found = audits.audit(subjects, target=target, watch=lambda text: say(f"audit: {text}"))
    passed = all(one.passed for one in found)
    where = (words("program"), words("component"), words("phase"))
    both = (column("analytic", "formula", form="whole"), column("jaxpr", form="whole"))
    hlo = (column("hlo", "HLO", form="whole"), column("difference", "HLO - formula", form="change"))
    products = [row for one in found for row in (*one.rows, one.product_total)]
    every = [row for one in found for row in (*(row for row in one.every if row.verdict != audits.EQUAL), one.every_total)]
    lines = ["Matrix products, FLOPs:", shown(products, *where, *both, *hlo, words("verdict"))]
    lines.append("\nEvery operation, products in FLOPs and the others as 1 each; rows that are equal are not shown:")
    lines += [shown(every, *where, *both, words("verdict")), *audits.remarks(found, audits.explain(work) if work else [])]
    lines.append(f"{'all gates hold' if passed else 'the audit FAILS'}; {time.monotonic() - began:.0f} s")
    told = {**dataclasses.asdict(asked), "train": train, "backend": backend, "dtype": dtype, "attention": attention}
    fault = JaxlvError("a gate of the audit does not hold", where="flops audit", hint="see the rows above")
    return Result("\n".join(lines), audits.as_json(found, told), None if passed else fault)


# --------------------------------------------------------------------------------------------------- count


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


app = group(
    "flops",
    "Count FLOPs by formula under every convention, and audit them against the compiled programs.",
    table,
    plan,
    audit,
    count,
)
