"""The program that makes the embedded base: `python tools/make_base.py`, or `python -m jaxlv.tools.make_base`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from jaxlv.config import build_config, override, read_tree
from jaxlv.errors import JaxlvError
from jaxlv.tools.bounds import whole
from jaxlv.tools.console import Progress, Result, say, verb
from jaxlv.tools.options import Config, Settings


def make_base(
    config: Config,
    /,
    *,
    out: Path | None = None,
    set: Settings = (),
    series: Path | None = None,
    workers: Annotated[int | None, whole(0, 256)] = None,
    resume: bool = False,
    limits: bool = False,
) -> Result:
    """Train a base on simulated series, and save it as a Hugging Face folder: new weights, those of another base, or
    adapters of the embedded one.

        python tools/make_base.py configs/base.toml --out DIR
        python tools/make_base.py configs/base.toml --series FOLDER

    DIR gets config.json, model.safetensors, the tokenizer files, and training.json: the settings, the seed, the learning
    curve, the cost and the versions. DIR.work holds the simulated series and the checkpoints. The second form only
    simulates.

    Args:
        config: settings, such as configs/base.toml
        out: folder to write; it must not exist
        series: folder of the simulated series, made if it is not there; DIR.work/series if not given
        workers: processes that make the windows, 0: none of their own; as many as the cores allow if not given
        resume: go on from the newest checkpoint in DIR.work
        limits: train nothing; measure what is familiar to the base in DIR, which is there, for its training.json
    """
    from jaxlv.studies import from_scratch

    tree = override(read_tree(config), set)
    settings = build_config(from_scratch.BaseConfig, tree, where=config)
    if limits:
        if not (out and series):
            raise JaxlvError("nothing to measure", expected="--out DIR, the folder of a base, and --series FOLDER")
        record = from_scratch.add_limits(settings, out, series)
        return Result(
            f"{out}: familiar up to {record.familiar} nats per written value", {"folder": str(out), **record.tree()}
        )
    if out:
        record = from_scratch.make_base(settings, tree, out, series, workers=workers, resume=resume, begin=Progress)
        nats = record.curve[-1].validation_nats_per_token
        text = f"saved {out}: {record.parameters:,} parameters, {nats} nats per token"
        return Result(text, {"folder": str(out), **record.tree()})
    if not series:
        raise JaxlvError("nothing to do", expected="--out DIR, or --series FOLDER to simulate only")
    from_scratch.make_series(settings, series, say)
    return Result(f"series: {series}", {"series": str(series)})


app = verb(make_base)
