"""`jaxlv ledger`: what a FLOP budget was spent on, and whether the ledger adds up."""

from __future__ import annotations

from pathlib import Path

from jaxlv.tools.console import Result, group, shown


def show(run: Path, /, *, convention: str = "") -> Result:
    """Print the work of each run and phase, and its share of the budget.

    FLOPs are in the budget's own convention, and in any others that are named, recomputed from the shapes.

        jaxlv ledger show runs/mine --convention coursework,exact

    Args:
        run: run folder, folder of runs that share a ledger, or ledger file
        convention: other conventions to recompute FLOPs under, separated by commas
    """
    from jaxlv.studies.spending import spending

    found = spending(run, [name for name in convention.split(",") if name])
    rows = shown([*found.rows, *found.sums], *found.columns)
    return Result("\n".join(filter(None, [rows, *found.told()])), found.tree())


def verify(run: Path, /) -> Result:
    """Recompute everything, and print what disagrees.

    Follows the chain of lines to the heads that the folders keep, recomputes every figure, and compares budget, model,
    phases, shapes and steps with each run's config.toml, manifest.json, metrics.jsonl and checkpoints. The exit code is 0
    only if nothing disagrees.

        jaxlv ledger verify runs/mine

    Args:
        run: run folder, folder of runs that share a ledger, or ledger file
    """
    from jaxlv.runs import verification

    found = verification.verify(run)
    return Result("\n".join(filter(None, found.told())), found.tree(), found.fault)


app = group("ledger", "Show what a FLOP budget was spent on, and verify it.", show, verify)
