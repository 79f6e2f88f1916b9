"""`jaxlv analyse`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from jaxlv.config import CodecConfig
from jaxlv.tools.bounds import whole
from jaxlv.tools.console import Progress, Result, made, say, verb
from jaxlv.tools.options import Ids, Protocol, asked, setting


def analyse(
    run: Path,
    /,
    *,
    data: Path | None = None,
    series: Ids = None,
    max_series: Annotated[int, whole()] = 16,
    headroom: Annotated[float | None, setting(CodecConfig, "headroom")] = None,
    out: Path | None = None,
    overwrite: bool = False,
    protocol: Protocol | None = None,
) -> Result:
    """Look into a tuned run: training, costs of tokens, text format, errors of forecasts, LM head, adapters, padding.

        jaxlv analyse RUN --data FILE
        jaxlv analyse RUN --data FILE --series 850-865 --samples 8 --out DIR

    DIR gets analyses.json with every number, its units and definitions, tables as CSV, figures as SVG and PNG, and
    report.html. The series are the run's test series, as `jaxlv evaluate` takes them. One set of forecasts serves every
    analysis of forecasts; 16 series and a small model take about two minutes on two cores. With --headroom 0 many true
    values lie above the top of the scale: then the analysis of the top shows whether forecasts are held below it.

    Args:
        run: run folder
        data: series file; the run's own if not given
        series: ids such as 3,7 or 850-999; the test series if not given
        max_series: at most so many of the default series
        headroom: of the scale that series are written in; 0 puts its top at the context's maximum
        out: folder for analyses.json, the tables, figures and report.html; RUN/analyses if not given
        overwrite: replace an older folder of this verb, once the new one is complete
    """
    from jaxlv.report import analyses as report
    from jaxlv.studies import analyse as study

    out = out or run / "analyses"
    request = asked(str(run), data, series, max_series, protocol=protocol)
    result = study.analyse(request, out, headroom, Progress, say, overwrite=overwrite)
    seen = (result.protocol and result.protocol.seen_in_training) or ()
    warning = f"warning: the run trained or was validated on {len(seen)} of these series: their errors are no test"
    lines = [f"\n{report.summary(result)}", warning if seen else ""]
    return made(out, lines, {"result": result.tree()}, numbers=study.RESULT, report=study.REPORT)


app = verb(analyse)
