"""`jaxlv reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from jaxlv.errors import JaxlvError
from jaxlv.tools.bounds import whole
from jaxlv.tools.console import REPORT, Progress, Result, made, say, shown, verb
from jaxlv.tools.options import Settings


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

    A DIR that exists is never replaced: go on with --resume, or remove the folder to begin anew.

    Args:
        system: which of the four
        data: the course's data set (HDF5)
        out: folder for the runs, the figures and the page
        model: a Hugging Face folder, a hub id, or embedded
        scale: number of steps; small: 5 % of the paper's
        stage: some of baseline,first,grid,context,final; all if not given
        plan: print what it will cost, and run nothing
        benchmark: result of benchmarks.train_step on your device, for the hours
        at_once: runs computed side by side; 0: as many as the memory holds
        resume: go on in DIR
    """
    from jaxlv.published.systems import STAGES
    from jaxlv.report import reproduced
    from jaxlv.studies import reproduce as study
    from jaxlv.studies.papers import open_paper, plan_of

    stages = [part.strip() for part in stage.split(",")] if stage else STAGES
    study.check_stages(stages)
    work = open_paper(system, scale, model, data=data, out=out, settings=set, begin=Progress, say=say)
    planned = plan_of(work, benchmark)
    told = [work.name, shown(planned.shares, *planned.of_shares), *work.told(planned)]
    if plan:
        return Result("\n".join(told), planned.tree())
    say("\n".join(told))
    if data is None or out is None:
        missing = "--data" if data is None else "--out"
        raise JaxlvError("is needed", where=missing, hint="or --plan, to see what it will cost")
    result = study.reproduce(work, data, planned, stages=stages, at_once=at_once, resume=resume)
    lines = [f"\n{reproduced.format_text(result)}"]
    return made(out, lines, result.tree(), figures=study.RESULT, report=REPORT)


app = verb(reproduce)
