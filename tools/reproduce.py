"""`jaxlv reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from jaxlv.errors import JaxlvError
from jaxlv.tools.console import Progress, Result, columns, say, start, verb
from jaxlv.tools.options import Settings, whole

if TYPE_CHECKING:
    from jaxlv.results.papers import Plan
    from jaxlv.studies.papers import Reproduction


def reproduce(
    system: Literal["xu", "rai", "mao", "liu"],
    /,
    *,
    data: Path | None = None,
    out: Path | None = None,
    model: str = "embedded",
    scale: Literal["small", "full"] = "small",
    stage: str = "",
    set: Settings = (),
    plan: bool = False,
    benchmark: Path | None = None,
    at_once: Annotated[int, whole(0)] = 0,
    resume: bool = False,
) -> Result:
    """Run one of the four published systems again, from data to final tables, on one FLOP ledger.

        jaxlv reproduce xu --data FILE --out DIR
        jaxlv reproduce mao --scale full --model Qwen/Qwen2.5-0.5B-Instruct --data FILE --out DIR
        jaxlv reproduce rai --scale full --model qwen2.5-0.5b --plan

    The first form takes the embedded base and 5 % of the steps, on two cores; the second the real model, on one GPU; the
    third prints steps, FLOPs and hours, and runs nothing.

    The settings of a system are the configs NAME/STAGE. The stages follow one another: the untrained model (baseline), the
    first LoRA run, the grid, the context study, the final run. The best of the grid, by the paper's own rule, is what the
    context study trains, and the best of both is the final run's. Each run is an ordinary run folder in DIR/runs.
    DIR/ledger.jsonl is the ledger of all, with an envelope for each stage; DIR/parts has the forecasts of the untrained,
    first and final models by the paper's own measure. What the paper did wrong is done beside it, on a ledger of its own
    (DIR/beside.jsonl), and the difference measured; so are the analyses of the final run (DIR/analyses).
    DIR/reproduce.json holds every figure, DIR/report.html shows them.

    Parameters
    ----------
    system
        which
    data
        the course's data set (HDF5)
    out
        folder for the runs, the figures and the page
    model
        a Hugging Face folder, a hub id, or embedded
    scale
        of the steps; small: 5 %
    stage
        some of baseline,first,grid,context,final; all if not given
    plan
        print what it will cost, and run nothing
    benchmark
        result of benchmarks.train_step on your device, for the hours
    at_once
        runs computed side by side; 0: as many as the memory holds
    resume
        go on in DIR
    """
    from jaxlv.published.systems import STAGES
    from jaxlv.report import reproduced
    from jaxlv.studies import reproduce as study
    from jaxlv.studies.papers import open_paper, plan_of

    stages = [part.strip() for part in stage.split(",")] if stage else STAGES
    study.check_stages(stages)
    work = open_paper(system, scale, model, data=data, out=out, settings=set, begin=Progress, say=say)
    planned = plan_of(work, benchmark)
    if plan:
        return Result(plan_text(work, planned), planned.tree())
    say(plan_text(work, planned))
    if data is None or out is None:
        missing = "--data" if data is None else "--out"
        raise JaxlvError("is needed", where=missing, hint="or --plan, to see what it will cost")
    result = study.reproduce(work, data, planned, stages=stages, at_once=at_once, resume=resume)
    places = f"figures: {out / study.RESULT}\nreport:  {out / 'report.html'}"
    return Result(f"\n{reproduced.format_text(result)}\n{places}", {"folder": str(out), **result.tree()})


def plan_text(work: Reproduction, plan: Plan) -> str:
    """Returns the plan, and how it stands to the allowance."""
    from jaxlv.results.papers import PlanRow

    keys = ("runs", "steps", "flops", "training", "exact", "hours")
    together = PlanRow("together", **{key: sum(getattr(row, key) or 0 for row in plan.rows) for key in keys})
    table = [["stage", "runs", "steps", "training", f"FLOPs ({plan.convention})", "of all", "exact", "hours"]]
    for row in [*plan.rows, together]:
        counts = (f"{count:,}" if count else "" for count in (row.runs, row.steps))
        prices = (f"{price:.4g}" if price else "" for price in (row.training, row.flops))
        hours = f"{row.hours:.2f}" if row.hours else ""
        table.append([row.stage, *counts, *prices, f"{(row.flops or 0) / plan.total:.1%}", f"{row.exact:.4g}", hours])
    theirs, share = plan.reported, plan.total / plan.allowance
    over = f": {share - 1:.1%} MORE than allowed" if share > 1 else ""
    of = f"{plan.allowance:.4g}, which is to this series what 1e17 is to the paper's"
    more, again = plan.budget / plan.total - 1, f"{plan.margin:.0%} for repeats after interruptions"
    rest = ", the rest for a choice of longer windows" if work.scale == "small" else ""
    return "\n".join(
        [
            f"{work.system.name}, scale {work.scale}, model {work.model_name}",
            columns(table, right=range(1, 8)),
            f"the paper spent {theirs.flops:.4g} FLOPs ({theirs.words}), {theirs.of_allowance:.1%} of 1e17",
            f"this series: {plan.total:.4g} FLOPs, {share:.1%} of {of}{over}",
            f"the ledger holds {more:.0%} more: {again}{rest}; repeats that take more are billed beyond it",
            f"hours: {plan.hours}",
        ]
    )


app = verb(reproduce)

if __name__ == "__main__":
    start(app)
