"""`jaxlv stress`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from jaxlv.tools.bounds import whole
from jaxlv.tools.console import Progress, Result, made, verb
from jaxlv.tools.options import Ids, Protocol, asked

GROUPS = "noise,missing steps,marked gaps,context,origin,amplitude,regime,simulated"


def stress(
    run_or_model: str,
    /,
    *,
    out: Path,
    data: Path | None = None,
    series: Ids = None,
    max_series: Annotated[int, whole()] = 32,
    groups: str = GROUPS,
    pool: bool = False,
    overwrite: bool = False,
    protocol: Protocol | None = None,
) -> Result:
    """Measure a run again under noise, missing steps, short contexts, other origins, amplitudes, regimes and systems.

        jaxlv stress RUN --data FILE --out DIR
        jaxlv stress embedded --data FILE --groups noise,context --max-series 16 --samples 4 --out DIR

    The series are the run's test series, as `jaxlv evaluate` takes them, or simulated ones. On two cores all groups take
    about half an hour. DIR is written at the end, as a whole: if interrupted, it begins anew. Eight samples are drawn if
    --samples is not given.

    Args:
        run_or_model: run folder, model folder, hub id, embedded, embedded-cycles, or embedded-field
        out: folder for stress.json (every row of every condition, and its series) and report.html
        data: series file; the run's own if not given, simulated for a bare model
        series: ids such as 3,7 or 850-999; the test series if not given
        max_series: at most so many of them, of each regime
        groups: some of them, separated by commas
        pool: measure the pool of the model, VAR, analogs and fitted equations, too; it takes about twice as long
        overwrite: replace an older folder of this verb, once the new one is complete
    """
    from jaxlv.report import stress as page
    from jaxlv.studies import stress as study

    names = [name.strip() for name in groups.split(",")]
    request = replace(asked(run_or_model, data, series, max_series, protocol=protocol), pooled=pool)
    result = study.stress(request, out, names, Progress, overwrite=overwrite)
    return made(out, [page.format_tables(result)], {"result": result.tree()}, figures=study.RESULT, report=study.REPORT)


app = verb(stress)
