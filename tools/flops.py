"""FLOPs of a forward pass and a training step: by formula under every convention, and as the compiled programs have them.

    jaxlv flops table --model qwen2.5-0.5b --batch 4 --length 512 --rank 8 --convention coursework,exact [--json]
    jaxlv flops audit --model qwen2.5-0.5b --batch 4 --length 512 --rank 8 [--train adapters|head|full] [--json]

table prints the rows of each convention: component, phase, FLOPs and the formula that they come from. audit compiles the
project's own forward pass, train step and decode step from shapes alone, and compares the matrix products of formula,
jaxpr and HLO, component by component; its exit code is 0 only if every gate holds. MODEL is a built-in name (qwen2.5-0.5b
to qwen2.5-72b), a folder with a config.json, a hub id, or "embedded"; no weights are read.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from jaxlv.errors import JaxlvError
from jaxlv.flops import CONVENTIONS, Work, count
from jaxlv.flops.family import architecture
from jaxlv_tools.console import describe, positive, program

DEFAULT_CONVENTIONS = "coursework,xu,rai,mao,liu,exact"


def arguments() -> argparse.ArgumentParser:
    parser = describe("flops", __doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="table|audit")
    table = verbs.add_parser("table", help="rows and totals by formula")
    table.add_argument("--convention", default=DEFAULT_CONVENTIONS, help=f"one or more of {', '.join(CONVENTIONS)}, or all")
    audit = verbs.add_parser("audit", help="formula against jaxpr, HLO and XLA's own figures")
    audit.add_argument("--train", choices=("adapters", "head", "full"), default="adapters", help="what trains")
    audit.add_argument("--backend", choices=("cpu", "cuda"), default="cpu", help="what the programs are compiled for")
    audit.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    audit.add_argument("--attention", choices=("xla", "cudnn"), default="xla", help="cudnn: bfloat16 on cuda")
    for sub in (table, audit):
        sub.add_argument("--model", default="qwen2.5-0.5b", help="name, folder, hub id or embedded (default qwen2.5-0.5b)")
        sub.add_argument("--batch", type=positive, default=4, help="rows (default 4)")
        sub.add_argument("--length", type=positive, default=512, help="tokens of a row (default 512)")
        sub.add_argument("--rank", type=int, default=8, help="of the adapters; 0 = none (default 8)")
        sub.add_argument("--targets", default="q,v", help="adapted projections (default q,v)")
        sub.add_argument("--head", choices=("frozen", "trained", "alphabet"), default="frozen", help="of the language model")
        sub.add_argument("--json", action="store_true", help="print JSON")
    return parser


def work_of(options: argparse.Namespace) -> Work:
    """The work that the arguments name."""
    targets = tuple(part for part in options.targets.split(",") if part)
    train = getattr(options, "train", "adapters")
    return Work(
        architecture(options.model), options.batch, options.length, options.rank, targets, options.head, train
    )  # fmt: skip


@program(arguments)
def main(options: argparse.Namespace) -> None:
    {"table": show_table, "audit": show_audit}[options.verb](options)


# -------------------------------------------------------------------------------------------------- table


def show_table(options: argparse.Namespace) -> None:
    """Rows and totals of each convention."""
    work = work_of(options)
    names = list(CONVENTIONS) if options.convention == "all" else options.convention.split(",")
    tables = {name: count(work, name) for name in names}
    if options.json:
        found = {
            name: {
                "source": CONVENTIONS[name].source,
                "total_forward": table.total_forward,
                "total_train_step": table.total_train_step,
                "rows": [row._asdict() for row in table.rows],
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


def describe_work(options: argparse.Namespace) -> dict[str, object]:
    """The arguments, for the record."""
    names = ("model", "batch", "length", "rank", "targets", "head", "train", "backend", "dtype", "attention")
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def print_columns(rows: Sequence[Sequence[str]], right: Sequence[int] = (2,)) -> None:
    """Rows as columns, the first one above a line."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        print("  ".join(cells).rstrip())
        if not number:
            print("-" * (sum(widths[:-1]) + 2 * len(widths) - 2 + min(widths[-1], 40)))


# -------------------------------------------------------------------------------------------------- audit


def show_audit(options: argparse.Namespace) -> None:
    """The audit's rows, totals, what explains the differences, and the verdict."""
    import jax

    from jaxlv.flops import audit as audits

    began = time.monotonic()
    work = work_of(options)
    device = audits.cuda_device() if options.backend == "cuda" else jax.devices("cpu")[0]

    def watch(text: str) -> None:
        print(f"audit: {text}", file=sys.stderr, flush=True)

    found = audits.audit(work, dtype=options.dtype, attention=options.attention, device=device, watch=watch)
    passed = all(one.passed for one in found)
    if options.json:
        print(json.dumps(audits.as_json(found, describe_work(options)), indent=1))
    else:
        rows = [("program", "component", "phase", "formula", "jaxpr", "HLO", "HLO - formula", "verdict")]
        for one in found:
            for r in one.rows:
                numbers = (f"{r.analytic:,}", f"{r.jaxpr:,}", f"{r.hlo:,}", f"{r.hlo - r.analytic:+,}")
                rows.append((r.program, r.component, r.phase, *numbers, r.verdict))
            t = one.totals
            numbers = (f"{t['analytic']:,}", f"{t['jaxpr']:,}", f"{t['hlo']:,}", f"{t['hlo'] - t['analytic']:+,}")
            rows.append((one.name, "total", "", *numbers, "equal" if len({*list(t.values())[:3]}) == 1 else "differs"))
        print_columns(rows, right=(3, 4, 5, 6))
        print()
        for one in found:
            for line in audits.xla_lines(one):
                print(line)
        print()
        for line in audits.explain(work):
            print(line)
        print()
        for one in found:
            for gate, held in one.gates.items():
                print(f"{'holds' if held else 'FAILS'}  {one.name}: {gate}")
            for doubt in one.doubts:
                print(f"doubt  {one.name}: {doubt}")
        print(f"{'all gates hold' if passed else 'the audit FAILS'}; {time.monotonic() - began:.0f} s")
    if not passed:
        raise JaxlvError("a gate of the audit does not hold", where="flops audit", hint="see the rows above")


if __name__ == "__main__":
    main()
