"""FLOPs of a forward pass and a training step: by formula under every convention, and as the compiled programs have them.

    jaxlv flops table --model qwen2.5-0.5b --batch 4 --length 512 --rank 8 --convention coursework,exact [--json]
    jaxlv flops plan configs/qwen2.5-0.5b.toml [--set a.b=c ...] [--budget 1e17]
    jaxlv flops audit --model qwen2.5-0.5b --batch 4 --length 512 --rank 8 [--train adapters|head|full] [--json]
    jaxlv flops audit RUN.toml | RUN [RUN ...] [--backend cuda] [--json]
    jaxlv flops count module:function --args "f32[8,512],i32[8]" [--grad] [--trips 7] [--backend cuda] [--json]

table prints the rows of each convention: component, phase, FLOPs and the formula that they come from. plan prices a run
before it starts: training, validation, evaluation, and the steps that a budget buys under each convention. audit compiles
the project's own programs from shapes alone: a forward pass, a train step and a decode step, or, with configs or run
folders, every program of these runs, with their optimiser, types, dropout, accumulation, validations and generations; runs
that share a train step are audited side by side. It compares matrix products and all other operations of formula, jaxpr
and HLO, component by component; its exit code is 0 only if every gate holds. With --backend cuda they are compiled for the
CUDA device, or, with the extra cuda-compiler, for an H100 that is not there. MODEL is a built-in name (qwen2.5-0.5b to
qwen2.5-72b), a folder with a config.json, a hub id, or "embedded"; no weights are read. count takes any JAX function on
arrays of the given shapes, and counts it as jaxlv.flops.count does (docs/counting.md).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jaxlv.config import BudgetConfig, ModelSettings, RunConfig, load_config
from jaxlv.errors import JaxlvError, briefly
from jaxlv.flops import plan as plans
from jaxlv.flops.conventions import CONVENTIONS
from jaxlv.flops.family import architecture
from jaxlv.flops.table import count
from jaxlv.flops.work import Train, Work
from jaxlv.runs import billing, sources
from jaxlv.storage.door import is_there
from jaxlv.storage.files import new_file, read_json
from jaxlv.tools.console import describe, option, print_columns, program, whole

if TYPE_CHECKING:
    from jaxlv.flops.audit import ProgramAudit
    from jaxlv.flops.subjects import Subject
    from jaxlv.flops.targets import Target

DEFAULT_CONVENTIONS = "coursework,xu,rai,mao,liu,exact"


def arguments() -> argparse.ArgumentParser:
    parser = describe("flops", __doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="table|plan|audit|count")
    table = verbs.add_parser("table", help="rows and totals by formula")
    table.add_argument("--convention", default=DEFAULT_CONVENTIONS, help=f"one or more of {', '.join(CONVENTIONS)}, or all")
    table.add_argument("--figures", type=Path, metavar="DIR", help="draw them there as PNG too")
    plan = verbs.add_parser("plan", help="what a run's config will cost, and what a budget buys")
    plan.add_argument("config", type=Path, help="run as TOML")
    plan.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override one setting; may be repeated")
    plan.add_argument("--budget", **option(BudgetConfig, "flops", "FLOPs (default: the config's, or 1e17)"))
    plan.add_argument("--benchmark", type=Path, help="result of benchmarks.train_step on your device, for a time estimate")
    plan.add_argument("--json", action="store_true", help="print JSON")
    audit = verbs.add_parser("audit", help="formula against jaxpr, HLO and XLA's own figures")
    audit.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="configs (TOML) or run folders, in place of --model"
    )
    audit.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override one setting of the configs")
    audit.add_argument("--train", choices=("adapters", "head", "full"), default="adapters", help="what trains")
    audit.add_argument("--backend", choices=("cpu", "cuda"), default="cpu", help="what the programs are compiled for")
    audit.add_argument("--dtype", default="float32", **option(ModelSettings, "dtype"))
    audit.add_argument("--attention", default="xla", **option(ModelSettings, "attention", "cudnn: on a CUDA device"))
    any_function = verbs.add_parser("count", help="any function of JAX, by four counters")
    any_function.add_argument("function", help="module:function, from this folder or from what is installed")
    any_function.add_argument("--args", default="", help='its arguments, as "f32[8,512],i32[8]"')
    any_function.add_argument("--grad", action="store_true", help="count the gradient of the sum of its results")
    any_function.add_argument("--trips", help='of loops of unknown length: "7", or "model.py:12=7,step=3"')
    any_function.add_argument("--backend", choices=("cpu", "cuda"), default=None, help="what it is compiled for")
    any_function.add_argument("--depth", type=whole(0), help="levels of scopes to show (default: all)")
    any_function.add_argument("--json", action="store_true", help="print JSON")
    for sub in (table, audit):
        sub.add_argument("--model", default="qwen2.5-0.5b", help="name, folder, hub id or embedded (default qwen2.5-0.5b)")
        sub.add_argument("--batch", type=whole(), default=4, help="rows (default 4)")
        sub.add_argument("--length", type=whole(), default=512, help="tokens of a row (default 512)")
        sub.add_argument("--rank", type=whole(0), default=8, help="of the adapters; 0 = none (default 8)")
        sub.add_argument("--targets", default="q,v", help="adapted projections (default q,v)")
        sub.add_argument("--head", choices=("frozen", "trained", "alphabet"), default="frozen", help="of the language model")
        sub.add_argument("--json", action="store_true", help="print JSON")
    return parser


def work_of(options: argparse.Namespace) -> Work:
    """The work that the arguments name."""
    targets = tuple(part for part in options.targets.split(",") if part)
    train: Train = getattr(options, "train", "adapters")
    kernel = getattr(options, "attention", "xla")
    model = architecture(options.model)
    return Work(model, options.batch, options.length, options.rank, targets, options.head, train, kernel)


@program(arguments, prints=True)
def main(options: argparse.Namespace) -> None:
    {"table": show_table, "plan": show_plan, "audit": show_audit, "count": show_count}[options.verb](options)


# -------------------------------------------------------------------------------------------------- table


def show_table(options: argparse.Namespace) -> None:
    """Rows and totals of each convention."""
    work = work_of(options)
    names = list(CONVENTIONS) if options.convention == "all" else options.convention.split(",")
    tables = {name: count(work, name) for name in names}
    if options.figures:
        draw(work, [name for name in names if name != "exact"], options.figures)
    if options.json:
        found = {
            name: {
                "source": CONVENTIONS[name].source,
                "total_forward": table.total_forward,
                "total_train_step": table.total_train_step,
                "rows": [dataclasses.asdict(row) for row in table.rows],
            }
            for name, table in tables.items()
        }
        print(json.dumps({"work": describe_work(options), "conventions": found}, indent=1))
        return
    for name, table in tables.items():
        print(f"\n{name}: {CONVENTIONS[name].source}")
        shown = [row for row in table.rows if row.count]
        print_columns(
            [("component", "phase", "FLOPs", "formula")] + [(r.component, r.phase, f"{r.count:,}", r.formula) for r in shown]
        )
    print()
    print_columns(
        [("convention", "forward", "train step", "of exact")]
        + [
            (name, f"{t.total_forward:,}", f"{t.total_train_step:,}", f"{t.total_train_step / exact:.3f}")
            for exact in [count(work, "exact").total_train_step]
            for name, t in tables.items()
        ],
        right=(1, 2, 3),
    )
    print("Symbols: jaxlv/flops/work.py; dot(m, n, p) is a matrix product (m, n) x (n, p) at the convention's price.")


def draw(work: Work, names: list[str], folder: Path) -> None:
    """The figures: from exact to each convention, by component, against a budget of 1e17, against length."""
    from jaxlv.report.figures import costs, svg

    folder.mkdir(parents=True, exist_ok=True)
    every = ["exact", *names]
    doubled = [name for name in names if CONVENTIONS[name].backward == "twice"]
    figures = {
        "waterfall": costs.waterfall_figure(work, doubled or ["coursework"]),
        "components": costs.components_figure(work, every),
        "budget": costs.budget_figure(work, every, 1e17),
        "length": costs.length_figure(work, every),
    }
    for name, figure in figures.items():
        with new_file(folder / f"{name}.png") as place:
            svg.save_png(figure, place)
        print(folder / f"{name}.png", file=sys.stderr)


def describe_work(options: argparse.Namespace) -> dict[str, object]:
    """The arguments, for the record."""
    names = ("model", "batch", "length", "rank", "targets", "head", "train", "backend", "dtype", "attention")
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


# --------------------------------------------------------------------------------------------------- plan


def show_plan(options: argparse.Namespace) -> None:
    """What a run will cost, phase by phase, and the steps that the budget buys."""
    config = load_config(options.config, options.set)
    model = architecture(config.model.path)
    budget = next(flops for flops in (options.budget, config.budget.flops, 1e17) if flops is not None)
    names = list(dict.fromkeys([config.budget.convention, "exact", *DEFAULT_CONVENTIONS.split(",")]))
    step = billing.event_of(config)
    test, length = series_of(config)
    planned = plans.phases(config, step, test, length)
    bought = plans.steps_bought(step, model, names, budget)
    costs = {phase.name: {name: phase.flops(model, name) for name in names} for phase in planned}
    total = {name: sum(cost[name] for cost in list(costs.values())[:-1]) for name in names}
    first = names[0]
    if options.json:
        found = {
            "budget": budget,
            "phases": costs,
            "total": total,
            "steps_bought": bought,
            "train_step": step.flops(model, first),
        }
        print(json.dumps(found, indent=1))
    else:
        rows = [("phase", *names)]
        rows += [(name, *(f"{cost[n]:.4g}" for n in names)) for name, cost in costs.items()]
        rows.append(("total, with cache", *(f"{total[n]:.4g}" for n in names)))
        rows.append((f"share of {budget:.3g} FLOPs", *(f"{total[n] / budget:.3%}" if budget else "" for n in names)))
        rows.append(("one train step", *(f"{step.flops(model, n):.6g}" for n in names)))
        rows.append(("train steps that it buys", *(f"{bought[n]:,}" for n in names)))
        print_columns(rows, right=range(1, len(rows[0])))
        if options.benchmark:
            rate, origin = measured_rate(options.benchmark, step.flops(model, "exact"), config.model.loss == "alphabet")
            hours = costs[planned[0].name]["exact"] / rate / 3600
            print(f"training takes {hours:.2f} hours at {rate:.3g} FLOP/s (exact), measured on {origin}")
    if total[first] > budget:
        raise JaxlvError(
            "the plan does not fit the budget",
            where=options.config,
            expected=f"at most {budget:.4g} FLOPs ({first})",
            found=f"{total[first]:.4g}",
            hint="lower train.steps",
        )


def measured_rate(path: Path, flops: int, alphabet: bool) -> tuple[float, str]:
    """(FLOP/s, where it was measured) of the benchmarked train step that is nearest in size to one of `flops` FLOPs."""
    try:
        result = read_json(path)
        sides = [
            (f"{row['shape']} {row['work']}", side["flops"], statistics.median(side["seconds"]))
            for row in result["rows"]
            for name, side in row["sides"].items()
            if "flops" in side and ("symbols" in name) == alphabet
        ]
        case, size, seconds = min(sides, key=lambda side: abs(math.log(side[1] / flops)))
        machine, dtype = result["machine"], result["settings"]["dtype"]
        device = machine["cpu"] if result["settings"]["device"] == "cpu" else machine["accelerator"]
        if not 0 < size / seconds < math.inf:
            raise ValueError(f"a rate of {size / seconds} FLOP/s")
        return size / seconds, f"{device} ({case}, {dtype})"
    except (ArithmeticError, AttributeError, ValueError, KeyError, TypeError, JaxlvError) as fault:
        raise JaxlvError(
            f"no result of benchmarks.train_step ({briefly(fault)})",
            where=path,
            hint="make one with python -m benchmarks.train_step",
        ) from None


def series_of(config: RunConfig) -> tuple[int, int]:
    """(test series that are evaluated, steps of a series), from the data where they are there."""
    if config.data.path and not is_there(Path(config.data.path)):
        raise JaxlvError("no such data file", where=config.data.path, hint="name yours with --set data.path=FILE")
    loaded = sources.load_series(replace(config, data=replace(config.data, simulate=min(config.data.simulate, 8))))
    count = len(loaded) if config.data.path else config.data.simulate
    test = len(sources.split_series(config, loaded).test) if config.data.path else round(count * config.data.fractions[-1])
    return min(test, config.evaluate.series or test), loaded.values_NTV.shape[1]


# -------------------------------------------------------------------------------------------------- audit


def show_audit(options: argparse.Namespace) -> None:
    """The audit's rows, totals, what explains the differences, and the verdict."""
    from jaxlv.flops import audit as audits
    from jaxlv.flops import targets

    began = time.monotonic()
    target = targets.cuda() if options.backend == "cuda" else targets.cpu()
    subjects = subjects_of(options, target)

    def watch(text: str) -> None:
        print(f"audit: {text}", file=sys.stderr, flush=True)

    watch(f"compiled for {target.words}")
    found = audits.audit(subjects, target=target, watch=watch)
    passed = all(one.passed for one in found)
    if options.json:
        print(json.dumps(audits.as_json(found, describe_work(options)), indent=1))
    else:
        print_audit(found, [] if options.runs else audits.explain(work_of(options)))
        print(f"{'all gates hold' if passed else 'the audit FAILS'}; {time.monotonic() - began:.0f} s")
    if not passed:
        raise JaxlvError("a gate of the audit does not hold", where="flops audit", hint="see the rows above")


def subjects_of(options: argparse.Namespace, target: Target) -> list[Subject]:
    """The programs to audit. Raises JaxlvError for an attention kernel that they cannot be compiled with."""
    from jaxlv.flops.subjects import of_work
    from jaxlv.runs import audited, billing
    from jaxlv.runs.records import read_config

    for folder in filter(Path.is_dir, options.runs):
        billing.check_ledger(read_config(folder), folder)
    configs = [load_config(path / "config.toml" if path.is_dir() else path, options.set) for path in options.runs]
    fused = target.platform == "cuda" and target.present
    asked = [(config.model.attention, config.model.dtype) for config in configs] or [(options.attention, options.dtype)]
    for kernel, dtype in asked:
        if kernel == "cudnn" and not (fused and dtype == "bfloat16"):
            raise JaxlvError(
                "cuDNN attention runs in bfloat16 on a CUDA device",
                where="attention cudnn",
                found=f"{dtype}, {target.words}",
            )
    if not configs:
        return of_work(replace(work_of(options), dtype=options.dtype))
    found: list[Subject] = []
    for group in audited.groups(configs):
        test, length = series_of(group[0])
        found += audited.of_runs(group, architecture(group[0].model.path), test, length)
    return found


def print_audit(found: list[ProgramAudit], explained: list[str]) -> None:
    """Print the rows of every program, what explains differences, and the gates."""
    from jaxlv.flops.audit import BEYOND, xla_lines

    rows = [("program", "component", "phase", "formula", "jaxpr", "HLO", "HLO - formula", "verdict")]
    for one in found:
        for r in one.rows:
            numbers = (f"{r.analytic:,}", f"{r.jaxpr:,}", f"{r.hlo:,}", f"{r.hlo - r.analytic:+,}")
            rows.append((r.program, r.component, r.phase, *numbers, r.verdict))
        t = one.totals
        numbers = (f"{t['analytic']:,}", f"{t['jaxpr']:,}", f"{t['hlo']:,}", f"{t['hlo'] - t['analytic']:+,}")
        beyond = sum(r.hlo for r in one.rows if r.verdict == BEYOND)
        same = t["analytic"] == t["jaxpr"] == t["hlo"] - beyond
        verdict = "differs" if not same else "equal, but for what the compiler adds" if beyond else "equal"
        rows.append((one.name, "total", "", *numbers, verdict))
    print("Matrix products, FLOPs:")
    print_columns(rows, right=(3, 4, 5, 6))
    print("\nEvery operation, products in FLOPs and the others as 1 each; rows that are equal are not shown:")
    every: list[tuple[str, ...]] = [("program", "component", "phase", "formula", "jaxpr", "verdict")]
    for one in found:
        every += [
            (r.program, r.component, r.phase, f"{r.analytic:,}", f"{r.jaxpr:,}", r.verdict)
            for r in one.every
            if r.verdict != "equal"
        ]
        named, sums = f"{len(one.every)} rows", (sum(r.analytic for r in one.every), one.everything)
        every.append(
            (one.name, "total", named, *(f"{total:,}" for total in sums), "equal" if len({*sums}) == 1 else "differs")
        )
    print_columns(every, right=(3, 4))
    for one in found:
        for row in one.executed:
            if row.excess:
                print(f"HLO, {one.name}: {row.place}, {row.kind}: {row.excess:,} operations on elements too many")
    print()
    for line in [*(line for one in found for line in xla_lines(one)), "", *explained]:
        print(line)
    for one in found:
        for gate, held in one.gates.items():
            print(f"{'holds' if held else 'FAILS'}  {one.name}: {gate}")
        for reason in one.reasons:
            print(f"note   {one.name}: {reason}")
        for doubt in one.doubts:
            print(f"doubt  {one.name}: {doubt}")


# --------------------------------------------------------------------------------------------------- count


def show_count(options: argparse.Namespace) -> None:
    """What four counters find in a function, and why they differ."""
    from jaxlv import flops
    from jaxlv.flops.counting import named

    function, arguments = named.function_of(options.function), named.shapes(options.args)
    if options.grad:
        function = named.gradient(function, arguments)
    trips = None if options.trips is None else named.trips_of(options.trips)
    try:
        found = flops.count(function, *arguments, trips=trips, backend=options.backend)
    except (TypeError, ValueError) as fault:  # what JAX says of arguments that do not fit
        raise JaxlvError(f"the function does not take these arguments: {fault}", where=options.function) from fault
    if options.json:
        print(json.dumps(found.as_json(), indent=1))
    else:
        print(found.table(options.depth), found.explain(), sep="\n\n")


if __name__ == "__main__":
    main()
