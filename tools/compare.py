"""`jaxlv compare`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from jaxlv.errors import JaxlvError
from jaxlv.tools.bounds import whole
from jaxlv.tools.console import CALL, REPORT, Progress, Result, made, say, verb
from jaxlv.tools.options import ConfigOrNone, Settings, idle


def compare(
    run: Path | None = None,
    /,
    *,
    data: Path,
    out: Path,
    config: ConfigOrNone = None,
    set: Settings = (),
    protocols: str = "xu,rai,mao,liu",
    max_series: Annotated[int | None, whole()] = None,
    tuned_only: bool = False,
    pool: bool = False,
    resume: bool = False,
    overwrite: bool = False,
) -> Result:
    """Run the protocols of the four papers on their data set, and put their figures beside ours and the baselines'.

        jaxlv compare --data FILE --out DIR
        jaxlv compare RUN --data FILE --out DIR
        jaxlv compare --data FILE --out DIR --resume

    The first form tunes the embedded base on each paper's training split; the second scores a run of your own, if it has not
    seen the test series; the third continues an interrupted comparison.

    DIR gets a CSV of forecasts and a figure for each part of a protocol (mao-768.csv, rai.csv, xu.csv, liu.csv, ...; the
    untuned model's end in -untuned), compare.json with every figure, its unit and its series, compare.txt, report.html, and
    under runs/ the tuned adapters with their ledgers: each has a budget of 1 % of the papers' 1e17 FLOPs. Takes about an
    hour on two cores.

    Args:
        run: run folder; if not given, the embedded base is tuned for each protocol
        data: the course's data set (HDF5)
        out: folder for the figures, forecasts and runs
        config: how the base is tuned: TOML file, or the name of a config that comes with jaxlv; compare if not given
        protocols: some of these, separated by commas
        max_series: at most so many series of each part, for a quick look
        tuned_only: leave the untuned model out, which halves the work of forecasting
        pool: measure the pool of the tuned model, VAR, analogs and fitted equations, too
        resume: go on in DIR: finished runs and parts are kept
        overwrite: replace an older folder of this verb, once the new one is complete; if interrupted, it begins anew
    """
    if run is not None:
        idle("a run keeps its own settings", config=config, set=set)
    from jaxlv.config import built_in, load_config
    from jaxlv.report import papers
    from jaxlv.studies import compare as study

    settings = load_config(config or built_in()["compare"], [f"data.path={str(data)!r}", *set])
    names = [name.strip() for name in protocols.split(",")]
    asked = study.Request(data, settings, names, run, max_series, tuned_only, pool, CALL.purpose)
    result = study.compare(asked, out, resume=resume, overwrite=overwrite, begin=Progress, say=say)
    text = f"{papers.format_overview(result)}\n\n{papers.format_bill(result)}"
    fault = None
    if not result.parts:
        hint = "the run was trained on the papers' test series; name another run"
        fault = JaxlvError("nothing was scored", where=run or data, hint=hint)
    return replace(made(out, [text], result.tree(), figures=study.RESULT, report=REPORT), fault=fault)


app = verb(compare)
