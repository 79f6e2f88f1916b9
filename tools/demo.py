"""The main job on an embedded default: tune the base shipped here by LoRA, forecast held-out series, measure, draw.

    jaxlv demo [--out runs/demo]

Reads the course's data set where JAXLV_SHARED or ../shared has it, and simulates series otherwise. About five minutes on
two cores; --out gets the run folder, metrics.json and report.html.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path

import jaxlv_configs
from jaxlv.config import config_tree, load_config
from jaxlv.errors import JaxlvError
from jaxlv.runs import run, sources
from jaxlv_tools.console import describe, program
from jaxlv_tools.evaluate import evaluate_to, show
from jaxlv_tools.train import train

MARK = ".demo"  # in the folder of a demo, so that the next one may take its place
DATA = Path("data") / "lotka_volterra_data.h5"


def arguments() -> argparse.ArgumentParser:
    parser = describe("demo", __doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="run folder (default runs/demo)")
    parser.add_argument("--data", type=Path, help="series file (default: the course's file if it is there, else simulated)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="override a setting of configs/demo.toml"
    )
    return parser


def course_file() -> Path | None:
    """The course's data set, where this machine has it."""
    places = [Path(os.environ[name]) for name in ("JAXLV_SHARED",) if os.environ.get(name)] + [Path("../shared")]
    return next((place / DATA for place in places if (place / DATA).is_file()), None)


@program(arguments)
def main(options: argparse.Namespace) -> None:
    began = time.monotonic()
    data = options.data or course_file()
    overrides = [f"data.path={str(data)!r}", *options.set] if data else options.set
    config = load_config(Path(jaxlv_configs.__path__[0]) / "demo.toml", overrides)
    print(f"data: {data or f'{config.data.simulate} series simulated by preset {config.data.preset}'}")
    _check_place(options.out)
    inputs = sources.load_inputs(config)  # what is wrong with them shows before an old demo goes
    shutil.rmtree(options.out, ignore_errors=True)
    try:
        train(config, options.out, inputs=inputs)
    finally:
        if options.out.is_dir():
            (options.out / MARK).touch()
    finished = run.load_run(options.out)
    series_set = sources.load_series(config, options.out)
    chosen = series_set.select(sources.split_series(config, series_set).test[: config.evaluate.series or None])
    with finished.metered() as forecasters:
        measured = evaluate_to(
            options.out,
            forecasters,
            chosen,
            config.evaluate,
            finished=finished,
            title="jaxlv demo",
            settings=config_tree(config),
        )
    show(measured, options.out)
    print(f"took {time.monotonic() - began:.0f} s")


def _check_place(out: Path) -> None:
    """JaxlvError where `out` is neither free, empty, nor an earlier demo."""
    if out.exists() and not (out / MARK).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise JaxlvError("exists and is not an earlier demo", where=out, hint="move it away, or choose another --out")


if __name__ == "__main__":
    main()
