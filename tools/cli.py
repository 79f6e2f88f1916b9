"""`jaxlv VERB ...`: the programs of this folder under one name."""

from __future__ import annotations

import importlib
import sys

from jaxlv.errors import printable
from jaxlv.tools import streams
from jaxlv.tools.console import one_line

VERBS = {
    "demo": "tune the embedded base, forecast, evaluate, and write a report page, in minutes",
    "simulate": "write simulated predator-prey series to a file",
    "explore": "look at a set of series: quality, periods, regimes, and what it is as text",
    "train": "tune a model by LoRA as a config says",
    "sweep": "train many runs of one config together, by a grid or a search, and compare them",
    "forecast": "forecast series with a run",
    "evaluate": "measure a run or a model beside the baselines, on the same series",
    "analyse": "look into a run: training, costs of tokens, errors, the scale's top, LM head, adapters, padding",
    "stress": "measure a run again under noise, gaps, short contexts, other amplitudes and systems",
    "compare": "run the protocols of four reports, and put their figures beside ours and the baselines'",
    "probe": "ask a run, before and after tuning, what has nothing to do with forecasts",
    "reproduce": "run one of the four reported systems again, stage by stage, on one FLOP ledger",
    "export": "write a run's adapter in PEFT's format, or merged into a Hugging Face checkpoint",
    "merge": "add adapters, and write the sum as a checkpoint or an adapter",
    "report": "write one page of a run, sweep, reproduction or evaluation, or of several side by side",
    "flops": "count FLOPs by formula under every convention, and audit them against the compiled programs",
    "ledger": "show what a FLOP budget was spent on, and verify it",
    "doctor": "print versions, devices and memory, and whether a config fits",
}


def usage() -> str:
    """The list of verbs."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {line}" for verb, line in VERBS.items()]
    return "\n".join(["usage: jaxlv VERB [options]", "", *lines, "", "jaxlv VERB --help tells the options of a verb."])


def main(argv: list[str] | None = None) -> None:
    """Run the verb that the arguments name."""
    streams.protect()
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    verb, *rest = arguments
    if verb not in VERBS:
        print(f"jaxlv: no verb '{printable(verb)}'; expected one of {', '.join(VERBS)}", file=sys.stderr)
        raise SystemExit(2)
    with one_line():
        module = importlib.import_module(f"jaxlv.tools.{verb}")
    module.main(rest)


if __name__ == "__main__":
    main()
