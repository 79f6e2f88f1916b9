"""`jaxlv forecast`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from jaxlv.tools.bounds import whole
from jaxlv.tools.console import Progress, Result, say, verb
from jaxlv.tools.options import Bare, Ids, Protocol, Reading, Sampling, asked


def forecast(
    run_or_model: str,
    /,
    *,
    out: Path,
    data: Path | None = None,
    series: Ids = None,
    holdout: Annotated[int | None, whole()] = None,
    reach: Annotated[int | None, whole()] = None,
    method: Literal["model", "pool"] = "model",
    calibrate: bool = False,
    overwrite: bool = False,
    protocol: Protocol | None = None,
    reading: Reading | None = None,
    sampling: Sampling | None = None,
    bare: Bare | None = None,
) -> Result:
    """Forecast what comes next in every series of a file, with a run, or with a model and an adapter.

        jaxlv forecast embedded --data lynx.csv --horizon 10 --out DIR
        jaxlv forecast runs/demo --data FILE --series 3,7 --context 50 --horizon 50 --samples 20 --seed 0 --out DIR
        jaxlv forecast MODEL --adapter ADAPTER --data FILE --holdout 10 --out DIR

    MODEL is a Hugging Face folder, a hub id, or a base of jaxlv: "embedded-cycles" for clean cycles of two variables,
    "embedded-field" for counts, noise and gaps, "embedded" for the one of these that knows the series better. FILE is CSV or
    other text, parquet, Excel, HDF5 or NumPy; one line tells how it was understood. DIR gets forecast.csv with the median,
    quantiles and samples under your names, figures, and a page. With --context the forecasts begin after so many steps from
    the start of each series, and what follows is drawn as the truth. In forecast.csv a text that a spreadsheet program would
    take as a formula (it begins with = + - or @) stands behind an apostrophe.

    Args:
        run_or_model: run folder, model folder, hub id, embedded, embedded-cycles, or embedded-field
        out: folder for forecast.csv, settings.json, report.html and the figures
        data: file of series; the run's own if not given, simulated for a bare model
        series: ids such as 3,7 or 990-999 or north,south; every series of FILE if not given
        holdout: last steps of every series that are not shown to the model, but drawn and scored
        reach: steps forecast at a time: each sample then goes on from its own last context; all at once if not given
        method: model, or pool: the model, VAR, analogs and fitted equations, weighted by how well each forecast the context
        calibrate: stretch the samples so that their bands hold their share at steps within the context; a pool's always are
        overwrite: replace an older folder of this verb, once the new one is complete
    """
    from jaxlv.report import forecasts as view
    from jaxlv.studies import forecast as study

    request = asked(run_or_model, data, series, protocol=protocol, sampling=sampling, bare=bare, reading=reading)
    how = "calibrated" if calibrate and method == "model" else method
    ahead = study.Ahead(holdout, reach, request.handling, overwrite, how)
    made = study.forecast(request, out, ahead, Progress, say)
    table, told = out / study.TABLE, made.settings
    text = f"{table}: {len(told.series)} series, {told.valid_share:.0%} of the samples complete"
    lines = [f"\n{view.format_table(made.next, told)}\n", "" if told.mae is None else view.summary(told), text]
    tree = {"folder": str(out), "table": str(table), "figures": made.figures, "settings": told.tree()}
    return Result("\n".join(filter(None, [*lines, f"page: {out / study.PAGE}"])), {**tree, "page": str(out / study.PAGE)})


app = verb(forecast)
