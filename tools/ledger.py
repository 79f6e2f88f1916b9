"""What a FLOP budget has been spent on, and whether the ledger adds up.

    jaxlv ledger show RUN [--convention coursework,exact] [--json]
    jaxlv ledger verify RUN [--json]

RUN is a run folder, a folder of runs that share a ledger, or a ledger file. show prints the work of each run and phase with
its share of the budget, in the budget's own convention and in any others, recomputed from the shapes. verify follows the
chain of the lines to the heads that the folders keep, recomputes every figure, and compares budget, model, phases, shapes
and steps with each run's config.toml, manifest.json, metrics.jsonl and checkpoints; its exit code is 0 only if nothing
disagrees.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from jaxlv.errors import JaxlvError
from jaxlv.flops import ledger
from jaxlv.flops.table import find
from jaxlv.runs import verification
from jaxlv.tools.console import describe, print_columns, program


def arguments() -> argparse.ArgumentParser:
    parser = describe("ledger", __doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="show|verify")
    show = verbs.add_parser("show", help="the work of each run and phase, and its share of the budget")
    show.add_argument("--convention", default="", help="recompute under these too, commas between")
    verify = verbs.add_parser("verify", help="recompute everything")
    for sub in (show, verify):
        sub.add_argument("run", type=Path, help="run folder or ledger file")
        sub.add_argument("--json", action="store_true", help="print JSON")
    return parser


@program(arguments, prints=True)
def main(options: argparse.Namespace) -> None:
    {"show": show, "verify": verify}[options.verb](options)


def show(options: argparse.Namespace) -> None:
    """Rows by run, phase and kind of work, and the totals."""
    book = verification.read(*verification.find(options.run))
    terms, entries = book.terms, book.entries
    names = [terms.convention, *(name for name in options.convention.split(",") if name and name != terms.convention)]
    for name in names:
        find(name)
    groups: dict[tuple[str, str, str], list[ledger.Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.run, entry.phase, entry.event.kind), []).append(entry)

    def flops(chosen: list[ledger.Entry], name: str) -> int:
        return ledger.totals(chosen, terms.model, name).executed

    whole = terms.budget or 1  # of 0 nothing is spent
    rows: list[dict[str, Any]] = [
        {
            "run": owner, "phase": phase, "work": kind, "count": sum(e.event.count for e in chosen),
            "flops": {name: flops(chosen, name) for name in names}, "share": flops(chosen, terms.convention) / whole,
            "repeated": ledger.totals(chosen).repeated,
        }
        for (owner, phase, kind), chosen in groups.items()
    ]  # fmt: skip
    spent, padding = ledger.totals(entries), {name: ledger.padding(entries, terms.model, name) for name in names}
    found = {
        "budget": terms.budget, "convention": terms.convention, "held_back": terms.held_back,
        "envelopes": dict(terms.envelopes), "rows": rows,
        "repeats": terms.repeats, "totals": dataclasses.asdict(spent), "padding": padding,
    }  # fmt: skip
    if options.json:
        print(json.dumps(found, indent=1))
        return
    lines: list[tuple[str, ...]] = [
        ("run", "phase", "work", "count", *(f"FLOPs ({name})" for name in names), "share", "repeated")
    ]
    for row in rows:
        priced = (f"{row['flops'][name]:,}" for name in names)
        first = (row["run"], row["phase"], row["work"].replace("_", " "), f"{row['count']:,}")
        lines.append((*first, *priced, f"{row['share']:.2%}", f"{row['repeated']:,}" if row["repeated"] else ""))
    totals = (f"{flops(entries, name):,}" for name in names)
    lines.append(("all", "", "", "", *totals, f"{spent.executed / whole:.2%}", f"{spent.repeated:,}"))
    if any(padding.values()):
        lines.append(("padding", "", "", "", *(f"{padding[name]:,}" for name in names), "", ""))
    print_columns(lines, right=range(3, len(lines[0])))
    print(f"budget {terms.budget:.6g} FLOPs ({terms.convention}), {terms.held_back:.6g} held back for the evaluation")
    print(f"effective {spent.effective:,}: what the surviving steps cost")
    print(f"uncertain {spent.uncertain:,}: reserved, and never committed")
    if repeated := book.account.told_repeats():
        print(repeated)
    for note in ledger.noted(book):
        print(f"note: {note}")


def verify(options: argparse.Namespace) -> None:
    """Everything that disagrees, one line each."""
    found = verification.verify(options.run)
    entries, terms, spent = found.book.entries, found.book.terms, found.book.account.totals()
    if options.json:
        told: dict[str, Any] = {"ok": not found.problems, "problems": found.problems, "notes": found.notes}
        print(json.dumps({**told, "entries": len(entries), "totals": dataclasses.asdict(spent)}, indent=1))
    else:
        for line in [*found.problems, *(f"note: {note}" for note in found.notes)]:
            print(line)
        print(f"{len(entries)} entries, {spent.executed:,} of {terms.budget:,} FLOPs ({terms.convention}) spent")
        if repeated := found.book.account.told_repeats():
            print(repeated)
    if found.problems:
        raise JaxlvError(f"{len(found.problems)} figures disagree", where=found.path)


if __name__ == "__main__":
    main()
