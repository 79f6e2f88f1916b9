"""One page, in one file, of any run, sweep, reproduction, comparison or evaluation; of several folders, side by side.

    jaxlv report runs/demo
    jaxlv report runs/a runs/b sweeps/rank --out compared.html

The page needs nothing else and opens from disk: summary and bill first, then figures, tables that sort, settings and
versions, and a report's own figures beside ours where data, split, series, context and horizon are the same. Of several
folders all runs stand in one table, with error against FLOPs and what a budget buys. A page that DIR has
already is replaced.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jaxlv.data import series
from jaxlv.errors import JaxlvError
from jaxlv.report import dossier, folders, page
from jaxlv.tools.console import describe, program

PAGE = "report.html"


def arguments() -> argparse.ArgumentParser:
    parser = describe("report", __doc__)
    parser.add_argument("folders", metavar="DIR", type=Path, nargs="+", help="what a verb wrote: a run, a sweep, ...")
    parser.add_argument("--data", type=Path, help="series file of the forecasts (default: the run's own, where it is there)")
    parser.add_argument("--out", type=Path, help=f"the page (default: DIR/{PAGE}; of several folders {PAGE} where you are)")
    return parser


@program(arguments)
def main(options: argparse.Namespace) -> None:
    given = series.load(options.data) if options.data else None
    found = [folders.read(path) for path in options.folders]
    made = dossier.page_of(found, [dossier.data_of(folder, given) for folder in found])
    out = options.out or (Path(PAGE) if len(found) > 1 else options.folders[0] / PAGE)
    if out.is_dir() or not out.parent.is_dir():
        raise JaxlvError("not a place for a page", where=out, expected="a file in a folder that is there")
    page.write(out, made)
    print(made.summary)
    print(f"report:  {out}")


if __name__ == "__main__":
    main()
