"""`jaxlv train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from jaxlv.errors import JaxlvError
from jaxlv.tools.console import Progress, Result, say, verb
from jaxlv.tools.options import Reading, Settings, given, whole


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
        model: "embedded", model folder or hub id, in place of the config's
        steps: optimiser steps; with --resume, at least as many as were planned
        epochs: so many times every training window, in place of steps
        targets: projections that are adapted, such as q,v; all-linear for all of them
        init_adapter: folder of an adapter in PEFT's format to begin from, with its rank, alpha, targets and head
        resume: go on from the newest checkpoint of a run
    """
    from jaxlv.config import find_config, load_config, with_settings
    from jaxlv.runs import run, sources
    from jaxlv.studies import train as study

    if resume and config and is_run(Path(config)):
        more = {"--set": set, "--data": data, "--model": model, "--targets": targets, "--init-adapter": init_adapter}
        more |= {"--epochs": epochs, "--out": out, **{f"--{name}": value for name, value in given(reading).items()}}
        if refused := [name for name, value in more.items() if value]:
            raise JaxlvError("a run keeps its settings, except for more --steps", where=config, found=", ".join(refused))
        out, settings = Path(config), run.extend(Path(config), steps) if steps else run.read_config(Path(config))
        inputs = None
    else:
        named = load_config(find_config(config)) if config else None
        settings = study.planned(named, study.Wanted(data, given(reading), model, steps, epochs))
        settings = with_settings(settings, (*set, f"lora.targets={targets.split(',')}") if targets else set)
        if init_adapter and targets:
            raise JaxlvError("targets are the adapter's", where="--targets", hint="leave it out, or --init-adapter")
        if init_adapter:
            settings = sources.begun_from(settings, init_adapter)
        inputs = sources.load_inputs(settings) if epochs else None
        if inputs is not None and epochs:
            settings = study.for_epochs(settings, inputs, epochs)
    if out is None:
        raise JaxlvError("no run folder", where="train", expected="--out RUN, or --resume RUN")
    trained = study.train(settings, out, resume=resume, inputs=inputs, begin=Progress, say=say)
    adapter = out / run.ADAPTER
    lines = [f"run: {out} (adapter in {adapter})", trained.repeats, f"next: jaxlv evaluate {out} --out {out / 'evaluation'}"]
    tree = {"folder": str(out), "adapter": str(adapter), "figures": trained.figures, "repeats": trained.repeats}
    return Result("\n".join(filter(None, lines)), tree)


def is_run(folder: Path) -> bool:
    """Tells whether a folder is a run's."""
    return (folder / "config.toml").is_file()


app = verb(train)
