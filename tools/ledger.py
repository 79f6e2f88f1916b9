"""What a FLOP budget has been spent on, and whether the ledger adds up.

    jaxlv ledger show RUN [--convention coursework,exact] [--json]
    jaxlv ledger verify RUN [--json]

RUN is a run folder or a ledger file. show prints the work of each run and phase with its share of the budget, in the
budget's own convention and in any others, recomputed from the shapes. verify recomputes every figure, and compares the
steps with those of the run's own records; its exit code is 0 only if nothing disagrees.
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
from jaxlv.runs import billing, run
from jaxlv.runs.checkpoint import Checkpoints
from jaxlv_tools.console import describe, print_columns, program


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


def file_of(place: Path) -> Path:
    """The ledger of a run folder, or the file itself."""
    if (place / run.CONFIG).is_file():
        return billing.ledger_path(run.load_config(place / run.CONFIG), place)
    return place / run.LEDGER if place.is_dir() else place


@program(arguments, prints=True)
def main(options: argparse.Namespace) -> None:
    {"show": show, "verify": verify}[options.verb](options)


def show(options: argparse.Namespace) -> None:
    """Rows by run, phase and kind of work, and the totals."""
    book = ledger.read_book(file_of(options.run))
    terms, entries = book.terms, book.entries
    names = [terms.convention, *(name for name in options.convention.split(",") if name and name != terms.convention)]
    for name in names:
        find(name)
    groups: dict[tuple[str, str, str], list[ledger.Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.run, entry.phase, entry.event.kind), []).append(entry)

    def flops(chosen: list[ledger.Entry], name: str) -> int:
        return ledger.totals(chosen, terms.model, name).executed

    rows: list[dict[str, Any]] = [
        {
            "run": owner, "phase": phase, "work": kind, "count": sum(e.event.count for e in chosen),
            "flops": {name: flops(chosen, name) for name in names}, "share": flops(chosen, terms.convention) / terms.budget,
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
    lines.append(("all", "", "", "", *totals, f"{spent.executed / terms.budget:.2%}", f"{spent.repeated:,}"))
    if any(padding.values()):
        lines.append(("padding", "", "", "", *(f"{padding[name]:,}" for name in names), "", ""))
    print_columns(lines, right=range(3, len(lines[0])))
    print(f"budget {terms.budget:.6g} FLOPs ({terms.convention}), {terms.held_back:.6g} held back for the evaluation")
    print(f"effective {spent.effective:,}: what the surviving steps cost")
    print(f"uncertain {spent.uncertain:,}: reserved, and never committed")
    if repeated := book.account.told_repeats():
        print(repeated)


def verify(options: argparse.Namespace) -> None:
    """Everything that disagrees, one line each."""
    path = file_of(options.run)
    problems = ledger.verify(path) + steps_that_disagree(options.run, path)
    book = ledger.read_book(path)
    terms, entries, spent = book.terms, book.entries, book.account.totals()
    if options.json:
        totals = dataclasses.asdict(spent)
        found: dict[str, Any] = {"ok": not problems, "problems": problems, "entries": len(entries), "totals": totals}
        print(json.dumps(found, indent=1))
    else:
        for problem in problems:
            print(problem)
        print(f"{len(entries)} entries, {spent.executed:,} of {terms.budget:,} FLOPs ({terms.convention}) spent")
        if repeated := book.account.told_repeats():
            print(repeated)
    if problems:
        raise JaxlvError(f"{len(problems)} figures disagree", where=path)


def steps_that_disagree(place: Path, path: Path) -> list[str]:
    """Steps that a run's records or checkpoints have, and its ledger has not."""
    if not (place / run.CONFIG).is_file():
        return []
    own = path.parent == place  # else the ledger is shared, and runs in it go by their folders' names
    entries = [e for e in ledger.read(path)[1] if own or e.run == place.resolve().name]
    steps = [e.event for e in entries if e.event.kind == "train_step"]
    counted = max((event.step + event.count for event in steps), default=0)
    logged = max((record["step"] for record in run.read_metrics(place / run.METRICS)), default=0)
    with Checkpoints(place / "checkpoints") as checkpoints:
        saved = max(checkpoints.steps(), default=0)
    return [
        f"{name} has step {step}, the ledger ends at step {counted}"
        for name, step in ((run.METRICS, logged), ("checkpoints", saved))
        if step > counted
    ]


if __name__ == "__main__":
    main()
