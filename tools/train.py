"""Tune a model by LoRA as a config says; the run folder holds everything that comes of it.

jaxlv train configs/demo.toml --out runs/mine --set train.steps=500 --set lora.rank=8
jaxlv train configs/demo.toml --out runs/mine --resume
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jaxlv.config import RunConfig, load_config
from jaxlv.lora.overlay import normalise_targets
from jaxlv.model.weights import count_params
from jaxlv.runs import billing, run, sources, training
from jaxlv.tools.console import Progress, describe, pinned_note, program
from jaxlv.versions import versions


def arguments() -> argparse.ArgumentParser:
    parser = describe("train", __doc__)
    parser.add_argument("config", type=Path, help="run as TOML (see configs/); missing keys have their defaults")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override one setting; may be repeated")
    words = "begin from an adapter in PEFT's format, with its rank, alpha, targets and head"
    parser.add_argument("--init-adapter", type=Path, metavar="DIR", help=words)
    parser.add_argument("--resume", action="store_true", help="go on from the run's newest checkpoint")
    return parser


def train(config: RunConfig, out: Path, resume: bool = False, inputs: sources.Inputs | None = None) -> None:
    """Train in `out` with progress on the terminal; `inputs` are loaded as the config says, unless they are given."""
    run.check_folder(config, out, resume)
    sources.check_fits([config])
    inputs = inputs or sources.load_inputs(config, out if resume else None)
    shares = ", ".join(f"{len(ids)} {share}" for share, ids in inputs.split.parts().items())
    print(f"series: {len(inputs.series)} ({shares})")
    parameters = f"{count_params(inputs.model):,} parameters"
    print(f"base: {config.model.path}, {parameters}, {config.model.dtype}; {inputs.alphabet.source}")
    pinned_note(config.model)
    targets = ", ".join(normalise_targets(config.lora.targets))
    begun = f"; begun from {config.lora.init}" if config.lora.init else ""
    print(f"LoRA: rank {config.lora.rank} on {targets}; head: {config.lora.head}{begun}")
    first_TV = inputs.series.select(inputs.split.train[:1]).values_NTV[0]
    alpha_V = inputs.codec.fit(first_TV[: config.evaluate.context], first_TV)
    text = inputs.codec.encode(first_TV[:4], alpha_V)
    print(f"text: {text} -> ids {inputs.alphabet.encode(text[:10]).tolist()} ...")
    with Progress("train", config.train.steps) as progress:
        watch = training.Watch(progress.step, progress.note)
        training.train(config, out, inputs, resume=resume, watch=watch, versions=versions())


@program(arguments)
def main(options: argparse.Namespace) -> None:
    config = load_config(options.config, options.set)
    if options.init_adapter:
        config = sources.begun_from(config, options.init_adapter)
    train(config, options.out, options.resume)
    print(f"run: {options.out} (adapter in {options.out / run.ADAPTER})")
    if repeated := billing.repeats_of(config, options.out):
        print(repeated)
    print(f"next: jaxlv evaluate {options.out} --out {options.out / 'evaluation'}")


if __name__ == "__main__":
    main()
