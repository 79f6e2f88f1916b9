"""`jaxlv VERB ...`: the programs of this folder under one name."""

from __future__ import annotations

import difflib
import functools
import sys
from collections.abc import Sequence
from importlib import metadata

from cyclopts import App

from jaxlv.errors import JaxlvError
from jaxlv.storage import streams
from jaxlv.tools.console import OPTION, one_line, start

VERBS = {
    "demo": "tune the embedded base, forecast, evaluate, and write a report page, in minutes",
    "init": "write a config that fits a file of series, and say what its training costs",
    "simulate": "write simulated predator-prey series to a file",
    "explore": "look at a set of series: quality, periods, regimes, and what it is as text",
    "train": "tune a model by LoRA as a config says",
    "sweep": "train many runs of one config together, by a grid or a search, and compare them",
    "forecast": "forecast what comes next in the series of a file, with a run or a model",
    "evaluate": "measure a run or a model beside the baselines, on the same series",
    "analyse": "look into a run: training, costs of tokens, errors, the scale's top, LM head, adapters, padding",
    "stress": "measure a run again under noise, gaps, short contexts, other amplitudes and systems",
    "field": "measure a model, a pool of methods and the baselines on records of the field",
    "compare": "run the protocols of four reports, and put their figures beside ours and the baselines'",
    "probe": "ask a run, before and after tuning, what has nothing to do with forecasts",
    "reproduce": "run one of the four reported systems again, stage by stage, on one FLOP ledger",
    "export": "write a run's adapter in PEFT's format, or merged into a Hugging Face checkpoint",
    "merge": "add adapters, and write the sum as a checkpoint or an adapter",
    "report": "write one page of a run, sweep, reproduction or evaluation, or of several side by side",
    "flops": "count FLOPs by formula under every convention, and audit them against the compiled programs",
    "ledger": "show what a FLOP budget was spent on, and verify it",
    "configs": "list the configs that come with jaxlv, or copy one",
    "doctor": "print versions, devices and memory, and whether a config fits",
}


OPTIONS = ("--help", "-h", "--version", "--install-completion")


def app_of(arguments: Sequence[str]) -> App:
    """Returns the program; its verbs are imported when they are used, and not at all to list them."""
    listed = not arguments or arguments[0].startswith("-")
    app = App(
        name="jaxlv",
        help="Qwen2.5 in JAX, tuned by LoRA to forecast series written as text.",
        version=functools.partial(metadata.version, "jaxlv"),
        help_format="plaintext",
        default_parameter=OPTION,
    )
    for name, line in VERBS.items():
        app.command(f"jaxlv.tools.{name}:app", name=name, help=line if listed else None, sort_key=list(VERBS).index(name))
    app.register_install_completion_command()
    return app


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the verb that the arguments name."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    streams.protect()
    with one_line():
        _check_first(arguments[0] if arguments else "--help")
    start(app_of(arguments), arguments)


def _check_first(word: str) -> None:
    """Raises JaxlvError if a word is neither a verb nor an option of the program. (Cyclopts would import all verbs.)"""
    known = (*VERBS, *OPTIONS)
    if word in known:
        return
    near = difflib.get_close_matches(word, known, 1)
    hint = f"did you mean {near[0]}?" if near else "jaxlv --help lists them"
    raise JaxlvError(f"no {'option' if word.startswith('-') else 'verb'} {word!r}", hint=hint)


if __name__ == "__main__":
    main()
