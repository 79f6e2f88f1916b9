"""`jaxlv forecast`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from jaxlv.tools.console import Progress, Result, say, verb
from jaxlv.tools.options import Bare, Ids, Protocol, Sampling, asked, whole


def forecast(
    run_or_model: str,
    /,
    *,
    out: Path,
    data: Path | None = None,
    series: Ids = None,
    reach: Annotated[int | None, whole()] = None,
    protocol: Protocol | None = None,
    sampling: Sampling | None = None,
    bare: Bare | None = None,
) -> Result:
    """Forecast series with a run, or with a model and an adapter: sampled trajectories as CSV, and a figure of each series.

        jaxlv forecast runs/demo --data FILE --series 3,7 --context 50 --horizon 50 --samples 20 --seed 0 --out DIR
        jaxlv forecast MODEL --adapter ADAPTER --data FILE --series 3,7 --out DIR

    MODEL is a Hugging Face folder, a hub id, or "embedded". In forecast.csv a text that a spreadsheet program would take as
    a formula (it begins with = + - or @) stands behind an apostrophe.

    Args:
        run_or_model: run folder, model folder, hub id, or embedded
        out: folder for forecast.csv, settings.json and the figures
        data: series file; the run's own if not given, simulated for a bare model
        series: ids such as 3,7 or 990-999; the first 4 test series if not given
        reach: steps forecast at a time: each sample then goes on from its own last context; all at once if not given
    """
    from jaxlv.studies import forecast as study

    request = asked(run_or_model, data, series, protocol=protocol, sampling=sampling, bare=bare)
    made = study.forecast(request, out, reach, Progress, say)
    table, told = out / study.TABLE, made.settings
    text = f"{table}: {len(told.series)} series, {told.valid_share:.0%} of the samples complete"
    return Result(text, {"folder": str(out), "table": str(table), "figures": made.figures, "settings": told.tree()})


app = verb(forecast)
