"""`jaxlv reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from jaxlv.errors import JaxlvError
from jaxlv.tools.console import REPORT, Progress, Result, made, say, shown, verb
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

    Args:
        system: which
        data: the course's data set (HDF5)
        out: folder for the runs, the figures and the page
        model: a Hugging Face folder, a hub id, or embedded
        scale: of the steps; small: 5 %
        stage: some of baseline,first,grid,context,final; all if not given
        plan: print what it will cost, and run nothing
        benchmark: result of benchmarks.train_step on your device, for the hours
        at_once: runs computed side by side; 0: as many as the memory holds
        resume: go on in DIR
    """
    from jaxlv.published.systems import STAGES
    from jaxlv.report import reproductions
    from jaxlv.studies import reproduce as study
    from jaxlv.studies.papers import open_paper, plan_of

    stages = [part.strip() for part in stage.split(",")] if stage else STAGES
    study.check_stages(stages)
    work = open_paper(system, scale, model, data=data, out=out, settings=set, begin=Progress, say=say)
    planned = plan_of(work, benchmark)
    text = plan_text(work, planned)
    if plan:
        return Result(text, planned.tree())
    say(text)
    if data is None or out is None:
        missing = "--data" if data is None else "--out"
        raise JaxlvError("is needed", where=missing, hint="or --plan, to see what it will cost")
    result = study.reproduce(work, data, planned, stages=stages, at_once=at_once, resume=resume)
    lines = [f"\n{reproductions.format_text(result)}"]
    return made(out, lines, result.tree(), figures=study.RESULT, report=REPORT)


def plan_text(work: Reproduction, plan: Plan) -> str:
    """Returns the plan, and how it stands to the allowance."""
    from jaxlv.report.table import column, count, share, words

    held = [{key: value or None for key, value in one.tree().items()} for one in (*plan.rows, plan.together)]
    rows = [{**one, "share": (one["flops"] or 0) / plan.total} for one in held]
    flops = column("flops", f"FLOPs ({plan.convention})", form="precise")
    counts = (count("runs"), count("steps"), column("training", form="precise"))
    rest = (share("share", "of all %", ""), column("exact", form="precise"), column("hours"))
    theirs, part = plan.reported, plan.total / plan.allowance
    over = f": {part - 1:.1%} MORE than allowed" if part > 1 else ""
    of = f"{plan.allowance:.4g}, which is to this series what 1e17 is to the report's"
    more, again = plan.budget / plan.total - 1, f"{plan.margin:.0%} for repeats after interruptions"
    longer = ", the rest for a choice of longer windows" if work.scale == "small" else ""
    lines = [
        f"{work.system.name}, scale {work.scale}, model {work.model_name}",
        shown(rows, words("stage"), *counts, flops, *rest),
        f"the report spent {theirs.flops:.4g} FLOPs ({theirs.words}), {theirs.of_allowance:.1%} of 1e17",
        f"this series: {plan.total:.4g} FLOPs, {part:.1%} of {of}{over}",
        f"the ledger holds {more:.0%} more: {again}{longer}; repeats that take more are billed beyond it",
        f"hours: {plan.hours}",
    ]
    return "\n".join(lines)


app = verb(reproduce)
