"""`jaxlv report`."""

from __future__ import annotations

from pathlib import Path

from jaxlv.tools.console import Result, verb


def report(
    folders: tuple[Path, ...], /, *, data: Path | None = None, out: Path | None = None, overwrite: bool = False
) -> Result:
    """Write one page, in one file, of any run, sweep, reproduction, comparison or evaluation; of several, side by side.

    The page needs nothing else and opens from disk: summary and bill first, then figures, tables that sort, settings and
    versions, and a paper's own figures beside ours if data, split, series, context and horizon are the same. Of several
    folders all runs stand in one table, with error against FLOPs and what a budget buys. A page that DIR has already is
    replaced.

        jaxlv report runs/demo
        jaxlv report runs/a runs/b sweeps/rank --out compared.html

    Args:
        folders: what verbs wrote: a run, a sweep, ...
        data: series file of the forecasts; the run's own, if it is still there, if not given
        out: the page; DIR/report.html if not given, and of several folders report.html where you are
        overwrite: replace an older file, once the new one is complete
    """
    from jaxlv.studies import pages

    written = pages.write(folders, data, out, overwrite)
    return Result(f"{written.summary}\nreport:  {written.path}", {"report": str(written.path), "summary": written.summary})


app = verb(report)
