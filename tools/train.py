"""`jaxlv train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from jaxlv.tools.bounds import given, whole
from jaxlv.tools.console import Progress, Result, say, verb
from jaxlv.tools.options import Reading, Settings


def train(
    config: str | None = None,
    /,
    *,
    out: Path | None = None,
    data: Path | None = None,
    model: str | None = None,
    steps: Annotated[int | None, whole()] = None,
    epochs: Annotated[int | None, whole()] = None,
    set: Settings = (),
    targets: str | None = None,
    init_adapter: Path | None = None,
    resume: bool = False,
    reading: Reading | None = None,
) -> Result:
    """Tune a model by LoRA as a config says, or as fits a file of series; the run folder holds all results.

        jaxlv train demo --out runs/mine --set train.steps=500 --set lora.rank=8
        jaxlv train --data lynx.csv --out runs/lynx
        jaxlv train --resume runs/mine

    A run that exists is never replaced: go on with --resume, or remove the folder to begin anew.

    Args:
        config: TOML file, or the name of a config that comes with jaxlv (`jaxlv configs`), or a run folder to resume
        out: run folder
        data: file of series, in place of the config's; without a config, one is made that fits it
        model: "embedded-cycles", "embedded-field", model folder or hub id, in place of the config's
        steps: optimiser steps; with --resume, at least as many as were planned
        epochs: so many times every training window, in place of steps
        targets: projections that are adapted, such as q,v; all-linear for all of them
        init_adapter: folder of an adapter in PEFT's format to begin from, with its rank, alpha, targets and head
        resume: go on from the newest checkpoint of a run
    """
    from jaxlv.runs import run
    from jaxlv.studies import train as study

    projections = tuple(targets.split(",")) if targets else ()
    wanted = study.Wanted(data, given(reading), model, steps, epochs, set, projections, init_adapter)
    asked = study.asked_for(config, out, wanted, resume, say)
    trained = study.train(asked.config, asked.out, resume=resume, inputs=asked.inputs, begin=Progress, say=say)
    out = asked.out
    adapter = out / run.ADAPTER
    lines = [f"run: {out} (adapter in {adapter})", trained.repeats, f"next: jaxlv evaluate {out} --out {out / 'evaluation'}"]
    tree = {"folder": str(out), "adapter": str(adapter), "figures": trained.figures, "repeats": trained.repeats}
    return Result("\n".join(filter(None, lines)), tree)


app = verb(train)
