"""`jaxlv demo`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from jaxlv.tools.console import Progress, Result, say, verb
from jaxlv.tools.evaluate import shown
from jaxlv.tools.options import Settings


def demo(*, out: Path = Path("runs/demo"), data: Path | None = None, set: Settings = ()) -> Result:
    """Do the main job on embedded defaults: tune the base shipped here by LoRA, forecast held-out series, measure, draw.

        jaxlv demo
        jaxlv demo --out runs/demo

    Reads the course's data set if JAXLV_SHARED or ../shared has it. Otherwise it simulates series that the base cannot
    forecast well until it is tuned on others like them. Two to five minutes on two cores; the run folder also gets
    metrics.json and report.html. It is written at the end, as a whole: an earlier demo stays until then, and an interrupted
    one begins anew.

    Args:
        out: run folder
        data: series file; the course's file if it is there, else simulated
    """
    from jaxlv.studies import demo as study

    began = time.monotonic()
    result = shown(study.demo(out, data, set, Progress, say), out)
    seconds = time.monotonic() - began
    return replace(result, text=f"{result.text}\ntook {seconds:.0f} s", tree={**result.tree, "seconds": seconds})


app = verb(demo)
