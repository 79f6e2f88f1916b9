"""`jaxlv train`."""

from __future__ import annotations

from pathlib import Path

from jaxlv.tools.console import Progress, Result, say, verb
from jaxlv.tools.options import Config, Settings


def train(
    config: Config, /, *, out: Path, set: Settings = (), init_adapter: Path | None = None, resume: bool = False
) -> Result:
    """Tune a model by LoRA as a config says; the run folder holds all results.

        jaxlv train demo --out runs/mine --set train.steps=500 --set lora.rank=8
        jaxlv train demo --out runs/mine --resume

    Args:
        config: TOML file, or the name of a config that comes with jaxlv (`jaxlv configs`); missing keys have their defaults
        out: run folder
        init_adapter: folder of an adapter in PEFT's format to begin from, with its rank, alpha, targets and head
        resume: go on from the run's newest checkpoint
    """
    from jaxlv.config import load_config
    from jaxlv.runs import run, sources
    from jaxlv.studies import train as study

    settings = load_config(config, set)
    if init_adapter:
        settings = sources.begun_from(settings, init_adapter)
    trained = study.train(settings, out, resume=resume, begin=Progress, say=say)
    adapter = out / run.ADAPTER
    lines = [f"run: {out} (adapter in {adapter})", trained.repeats, f"next: jaxlv evaluate {out} --out {out / 'evaluation'}"]
    tree = {"folder": str(out), "adapter": str(adapter), "figures": trained.figures, "repeats": trained.repeats}
    return Result("\n".join(filter(None, lines)), tree)


app = verb(train)
