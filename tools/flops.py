"""`jaxlv flops`: FLOPs by formula, and as the compiled programs have them."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from jaxlv.config import BudgetConfig, Dtype, Kernel
from jaxlv.errors import JaxlvError
from jaxlv.tools.console import OPTION, Result, columns, say, start, verb
from jaxlv.tools.options import Backend, Config, Settings, setting, whole

if TYPE_CHECKING:
    from jaxlv.flops.audit import ProgramAudit
    from jaxlv.flops.table import Table
    from jaxlv.flops.work import Work

DEFAULT_CONVENTIONS = "coursework,xu,rai,mao,liu,exact"


@dataclass(frozen=True)
class Asked:
    """The work of a train step.

    Parameters
    ----------
    model
        built-in name (qwen2.5-0.5b to qwen2.5-72b), folder with a config.json, hub id, or "embedded"; no weights are read
    batch
        rows
    length
        tokens of a row
    rank
        of the adapters; 0: there are none
    targets
        adapted projections
    head
        of the language model
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

    Parameters
    ----------
    convention
        one or more conventions, commas between, or "all"
    figures
        folder where they are drawn as PNG, too
    """
    from jaxlv.flops.conventions import CONVENTIONS
    from jaxlv.flops.table import count

    work = asked.work()
    names = list(CONVENTIONS) if convention == "all" else convention.split(",")
    tables = {name: count(work, name) for name in names}
    if figures:
        from jaxlv.studies.prices import draw

        for path in draw(work, [name for name in names if name != "exact"], figures):
            say(str(path))
    told = {
        name: {
            "source": CONVENTIONS[name].source,
            "total_forward": table.total_forward,
            "total_train_step": table.total_train_step,
            "rows": [dataclasses.asdict(row) for row in table.rows],
        }
        for name, table in tables.items()
    }
    text = table_text(tables, count(work, "exact").total_train_step)
    return Result(text, {"work": dataclasses.asdict(asked), "conventions": told})


def table_text(tables: dict[str, Table], exact: int) -> str:
    """Returns the rows of each convention, and the totals beside the FLOPs of an exact train step."""
    from jaxlv.flops.conventions import CONVENTIONS

    parts = []
    for name, one in tables.items():
        rows = [(r.component, r.phase, f"{r.count:,}", r.formula) for r in one.rows if r.count]
        parts.append(f"\n{name}: {CONVENTIONS[name].source}")
        parts.append(columns([("component", "phase", "FLOPs", "formula"), *rows]))
    totals = [("convention", "forward", "train step", "of exact")]
    for name, one in tables.items():
        step = one.total_train_step
        totals.append((name, f"{one.total_forward:,}", f"{step:,}", f"{step / exact:.3f}"))
    symbols = "Symbols: jaxlv/flops/work.py; dot(m, n, p) is a matrix product (m, n) x (n, p) at the convention's price."
    return "\n".join([*parts, "", columns(totals, right=(1, 2, 3)), symbols])


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

    Parameters
    ----------
    config
        run as TOML, or the name of a config that comes with jaxlv
    budget
        FLOPs; the config's if not given, or 1e17
    benchmark
        result of benchmarks.train_step on your device, for a time estimate
    """
    from jaxlv.config import load_config
    from jaxlv.studies import prices

    found = prices.plan(load_config(config, set), DEFAULT_CONVENTIONS.split(","), budget, benchmark)
    first = found.conventions[0]
    tree = {
        "budget": found.budget,
        "phases": found.phases,
        "total": found.total,
        "steps_bought": found.steps_bought,
        "train_step": found.train_step[first],
    }
    fault = None
    if found.total[first] > found.budget:
        fault = JaxlvError(
            "the plan does not fit the budget",
            where=config,
            expected=f"at most {found.budget:.4g} FLOPs ({first})",
            found=f"{found.total[first]:.4g}",
            hint="lower train.steps",
        )
    names, budget = found.conventions, found.budget
    rows = [["phase", *names]]
    rows += [[name, *(f"{cost[n]:.4g}" for n in names)] for name, cost in found.phases.items()]
    rows.append(["total, with cache", *(f"{found.total[n]:.4g}" for n in names)])
    rows.append([f"share of {budget:.3g} FLOPs", *(f"{found.total[n] / budget:.3%}" if budget else "" for n in names)])
    rows.append(["one train step", *(f"{found.train_step[n]:.6g}" for n in names)])
    rows.append(["train steps that it buys", *(f"{found.steps_bought[n]:,}" for n in names)])
    text = columns(rows, right=range(1, len(rows[0])))
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

    Parameters
    ----------
    runs
        configs or run folders, in place of --model and the other sizes
    train
        what trains
    backend
        what the programs are compiled for
    dtype
        of weights and activations
    attention
        the kernel; cudnn: on a CUDA device
    """
    from jaxlv.flops import audit as audits
    from jaxlv.flops import targets
    from jaxlv.studies import prices

    began = time.monotonic()
    target = targets.cuda() if backend == "cuda" else targets.cpu()
    more: dict[str, Any] = {"train": train, "dtype": dtype}
    work = None if runs else replace(asked.work(), kernel=attention, **more)
    subjects = prices.subjects(work, target) if work else prices.subjects_of_runs(runs, set, target)

    def watch(text: str) -> None:
        say(f"audit: {text}")

    watch(f"compiled for {target.words}")
    found = audits.audit(subjects, target=target, watch=watch)
    passed = all(one.passed for one in found)
    verdict = f"{'all gates hold' if passed else 'the audit FAILS'}; {time.monotonic() - began:.0f} s"
    told = {**dataclasses.asdict(asked), "train": train, "backend": backend, "dtype": dtype, "attention": attention}
    fault = None
    if not passed:
        fault = JaxlvError("a gate of the audit does not hold", where="flops audit", hint="see the rows above")
    text = "\n".join([*audit_lines(found, audits.explain(work) if work else []), verdict])
    return Result(text, audits.as_json(found, told), fault)


def audit_lines(found: list[ProgramAudit], explained: list[str]) -> list[str]:
    """Returns the rows of every program, what explains differences, and the gates."""
    from jaxlv.flops.audit import xla_lines

    lines = ["Matrix products, FLOPs:", columns(product_rows(found), right=(3, 4, 5, 6))]
    lines.append("\nEvery operation, products in FLOPs and the others as 1 each; rows that are equal are not shown:")
    lines.append(columns(operation_rows(found), right=(3, 4)))
    for one in found:
        for row in one.executed:
            if row.excess:
                lines.append(f"HLO, {one.name}: {row.place}, {row.kind}: {row.excess:,} operations on elements too many")
    lines += ["", *(line for one in found for line in xla_lines(one)), "", *explained]
    for one in found:
        lines += [f"{'holds' if held else 'FAILS'}  {one.name}: {gate}" for gate, held in one.gates.items()]
        lines += [f"note   {one.name}: {reason}" for reason in one.reasons]
        lines += [f"doubt  {one.name}: {doubt}" for doubt in one.doubts]
    return lines


def product_rows(found: list[ProgramAudit]) -> list[tuple[str, ...]]:
    """Returns the matrix products of every program as three counters have them."""
    from jaxlv.flops.audit import BEYOND

    def numbers(analytic: int, jaxpr: int, hlo: int) -> tuple[str, ...]:
        return f"{analytic:,}", f"{jaxpr:,}", f"{hlo:,}", f"{hlo - analytic:+,}"

    rows: list[tuple[str, ...]] = [("program", "component", "phase", "formula", "jaxpr", "HLO", "HLO - formula", "verdict")]
    for one in found:
        for r in one.rows:
            rows.append((r.program, r.component, r.phase, *numbers(r.analytic, r.jaxpr, r.hlo), r.verdict))
        t = one.totals
        beyond = sum(r.hlo for r in one.rows if r.verdict == BEYOND)
        same = t["analytic"] == t["jaxpr"] == t["hlo"] - beyond
        verdict = "differs" if not same else "equal, except for what the compiler adds" if beyond else "equal"
        rows.append((one.name, "total", "", *numbers(t["analytic"], t["jaxpr"], t["hlo"]), verdict))
    return rows


def operation_rows(found: list[ProgramAudit]) -> list[tuple[str, ...]]:
    """Returns the operations of which formula and jaxpr differ, and the totals of all."""
    rows: list[tuple[str, ...]] = [("program", "component", "phase", "formula", "jaxpr", "verdict")]
    for one in found:
        for r in one.every:
            if r.verdict != "equal":
                rows.append((r.program, r.component, r.phase, f"{r.analytic:,}", f"{r.jaxpr:,}", r.verdict))
        sums = (sum(r.analytic for r in one.every), one.everything)
        verdict = "equal" if len({*sums}) == 1 else "differs"
        rows.append((one.name, "total", f"{len(one.every)} rows", *(f"{total:,}" for total in sums), verdict))
    return rows


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

    Parameters
    ----------
    function
        module:function, from this folder or from what is installed
    args
        its arguments, such as "f32[8,512],i32[8]"
    grad
        count the gradient of the sum of its results
    trips
        turns of loops of unknown length, such as "7" or "model.py:12=7,step=3"
    backend
        what it is compiled for; this machine's default device if not given
    depth
        levels of scopes to show; all if not given
    """
    from jaxlv import flops
    from jaxlv.flops.counting import named

    counted, arguments = named.function_of(function), named.shapes(args)
    if grad:
        counted = named.gradient(counted, arguments)
    turns = None if trips is None else named.trips_of(trips)
    try:
        found = flops.count(counted, *arguments, trips=turns, backend=backend)
    except (TypeError, ValueError) as fault:  # what JAX says of arguments that do not fit
        raise JaxlvError(f"the function does not take these arguments: {fault}", where=function) from fault
    return Result(f"{found.table(depth)}\n\n{found.explain()}", found.as_json())


app = App(
    name="flops",
    help="Count FLOPs by formula under every convention, and audit them against the compiled programs.\n\n"
    "Each command has --json, --quiet and --debug.",
    help_format="plaintext",
    default_parameter=OPTION,
)
for function in (table, plan, audit, count):
    app.command(verb(function, prints=True), name=function.__name__)

if __name__ == "__main__":
    start(app)
