"""`jaxlv ledger`: what a FLOP budget was spent on, and whether the ledger adds up."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from jaxlv.errors import JaxlvError
from jaxlv.tools.console import OPTION, Result, columns, start, verb

if TYPE_CHECKING:
    from jaxlv.studies.spending import Spending


def show(run: Path, /, *, convention: str = "") -> Result:
    """Print the work of each run and phase, and its share of the budget.

    FLOPs are in the budget's own convention, and in any others, recomputed from the shapes.

        jaxlv ledger show runs/mine --convention coursework,exact

    Parameters
    ----------
    run
        run folder, folder of runs that share a ledger, or ledger file
    convention
        recompute under these, too, commas between
    """
    from jaxlv.studies.spending import spending

    found = spending(run, [name for name in convention.split(",") if name])
    terms = found.book.terms
    tree = {
        "budget": terms.budget, "convention": terms.convention, "held_back": terms.held_back,
        "envelopes": dict(terms.envelopes), "rows": [dataclasses.asdict(row) for row in found.rows],
        "repeats": terms.repeats, "totals": dataclasses.asdict(found.totals), "padding": found.padding,
    }  # fmt: skip
    return Result(spending_text(found), tree)


def spending_text(found: Spending) -> str:
    """Returns the rows of a ledger, and what they add up to."""
    from jaxlv.flops.ledger import noted

    names, terms, spent = found.conventions, found.book.terms, found.totals
    lines = [["run", "phase", "work", "count", *(f"FLOPs ({name})" for name in names), "share", "repeated"]]
    for row in found.rows:
        priced = (f"{row.flops[name]:,}" for name in names)
        first = (row.run, row.phase, row.work.replace("_", " "), f"{row.count:,}")
        lines.append([*first, *priced, f"{row.share:.2%}", f"{row.repeated:,}" if row.repeated else ""])
    totals = (f"{found.flops[name]:,}" for name in names)
    lines.append(["all", "", "", "", *totals, f"{found.share:.2%}", f"{spent.repeated:,}"])
    if any(found.padding.values()):
        lines.append(["padding", "", "", "", *(f"{found.padding[name]:,}" for name in names), "", ""])
    said = [
        columns(lines, right=range(3, len(lines[0]))),
        f"budget {terms.budget:.6g} FLOPs ({terms.convention}), {terms.held_back:.6g} held back for the evaluation",
        f"effective {spent.effective:,}: what the surviving steps cost",
        f"uncertain {spent.uncertain:,}: reserved, and never committed",
        found.book.account.told_repeats(),
        *(f"note: {note}" for note in noted(found.book)),
    ]
    return "\n".join(filter(None, said))


def verify(run: Path, /) -> Result:
    """Recompute everything, and print what disagrees.

    Follows the chain of the lines to the heads that the folders keep, recomputes every figure, and compares budget, model,
    phases, shapes and steps with each run's config.toml, manifest.json, metrics.jsonl and checkpoints. The exit code is 0
    only if nothing disagrees.

        jaxlv ledger verify runs/mine

    Parameters
    ----------
    run
        run folder, folder of runs that share a ledger, or ledger file
    """
    from jaxlv.runs import verification

    found = verification.verify(run)
    entries, terms, spent = found.book.entries, found.book.terms, found.book.account.totals()
    tree = {
        "ok": not found.problems, "problems": found.problems, "notes": found.notes,
        "entries": len(entries), "totals": dataclasses.asdict(spent),
    }  # fmt: skip
    told = f"{len(entries)} entries, {spent.executed:,} of {terms.budget:,} FLOPs ({terms.convention}) spent"
    notes = (f"note: {note}" for note in found.notes)
    text = "\n".join(filter(None, [*found.problems, *notes, told, found.book.account.told_repeats()]))
    problems = len(found.problems)
    return Result(text, tree, JaxlvError(f"{problems} figures disagree", where=found.path) if problems else None)


app = App(
    name="ledger",
    help="Show what a FLOP budget was spent on, and verify it.\n\nEach command has --json, --quiet and --debug.",
    help_format="plaintext",
    default_parameter=OPTION,
)
app.command(verb(show, prints=True))
app.command(verb(verify, prints=True))

if __name__ == "__main__":
    start(app)
