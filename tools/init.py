"""`jaxlv init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from jaxlv.tools.bounds import whole
from jaxlv.tools.console import Result, verb
from jaxlv.tools.options import Reading


def init(
    data: Path,
    /,
    *,
    out: Path = Path("jaxlv.toml"),
    model: str | None = None,
    holdout: Annotated[int | None, whole(0)] = None,
    steps: Annotated[int, whole()] = 200,
    overwrite: bool = False,
    reading: Reading | None = None,
) -> Result:
    """Write a config that fits a file of series, each setting with its meaning, and say what the training will cost.

        jaxlv init lynx.csv --out lynx.toml
        jaxlv train lynx.toml --out runs/lynx

    Args:
        data: file of series
        out: TOML file to write
        model: model folder, hub id, embedded-cycles, or embedded-field; if not given, of the last two the one that knows the
            series better
        holdout: last steps of every series that are kept for the test; chosen by the number of series if not given
        steps: optimiser steps
        overwrite: replace an older file, once the new one is complete
    """
    from jaxlv.studies import init as study

    made = study.write(data, out, study.Wanted(model, holdout, steps), reading, overwrite)
    next_ = f"next: jaxlv train {out} --out runs/{out.stem}"
    text = "\n".join([*made.lines, f"config: {out}", next_])
    return Result(text, {"config": str(out), "series": made.told, "flops": made.flops, "seconds": made.seconds})


app = verb(init)
