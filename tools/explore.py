"""`jaxlv explore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from jaxlv.settings import AXIS, Between
from jaxlv.tools.console import Progress, Result, verb
from jaxlv.tools.options import Ids, numbers


def explore(
    data: Path,
    /,
    *,
    out: Path,
    series: Ids = None,
    tokenizer: str | None = None,
    context_lengths: Annotated[tuple[int, ...], numbers(int, Between(2, AXIS))] = (128, 512, 768),
    overwrite: bool = False,
) -> Result:
    """Look at a set of series: quality of the file, trajectories, periods and lags, regimes, and what it is as text.

    The folder gets a CSV file of every table, figures/ (SVG and PNG), report.html, and exploration.json with every number.
    Of a file that cannot be used, quality.csv says what is wrong with it. Takes less than a minute for 1000 series.

        jaxlv explore series.h5 --out exploration
        jaxlv explore series.h5 --series 3,7 --tokenizer embedded --context-lengths 128,512,768 --out exploration

    Args:
        data: series file: HDF5, CSV or NumPy
        out: folder for tables, figures, report.html and exploration.json
        series: ids such as 3,7 of series to show; the first two, and the first of every other regime, if not given
        tokenizer: Hugging Face folder, or embedded; Qwen2.5's ids of the 13 symbols, without a tokenizer, if not given
        context_lengths: lengths of windows, in tokens
        overwrite: replace an older folder of this verb, once the new one is complete
    """
    from jaxlv.report.exploration import format_facts
    from jaxlv.studies import explore as study

    look = study.Look(series, tokenizer, context_lengths)
    result = study.explore(data, out, look, begin=Progress, overwrite=overwrite)
    places = f"tables, figures: {out}\nreport:          {out / 'report.html'}"
    return Result(f"\n{format_facts(result)}\n\n{places}", {"folder": str(out), **result.tree()})


app = verb(explore)
