"""The main job on an embedded default: tune the base shipped here by LoRA, forecast held-out series, measure, draw.

    jaxlv demo [--out runs/demo]

Reads the course's data set if JAXLV_SHARED or ../shared has it, and simulates series otherwise. About five minutes on
two cores; --out gets the run folder, metrics.json and report.html, as a whole: an earlier demo stays until then, and one
that is interrupted begins anew.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxlv.configs
from jaxlv.config import RunConfig, config_tree, load_config
from jaxlv.errors import JaxlvError
from jaxlv.runs import run, sources
from jaxlv.runs.interrupts import Interrupted, Stopped
from jaxlv.storage.files import new_folder
from jaxlv.tools.console import describe, program
from jaxlv.tools.evaluate import evaluate_to, show
from jaxlv.tools.train import train

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
    config = load_config(Path(jaxlv.configs.__path__[0]) / "demo.toml", overrides)
    print(f"data: {data or f'{config.data.simulate} series simulated by preset {config.data.preset}'}")
    _check_place(options.out)
    inputs = sources.load_inputs(config)
    with new_folder(options.out, replace=True) as work, _without_resume():
        train(config, work, inputs=inputs)
        (work / MARK).touch()
        measured = measure(config, work)
    show(measured, options.out)
    print(f"took {time.monotonic() - began:.0f} s")


def measure(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Evaluate the run in a folder on its test series, and leave metrics.json, report.html and the forecasts there."""
    finished, series_set = run.load_run(folder), sources.load_series(config, folder)
    chosen = series_set.select(sources.split_series(config, series_set).test[: config.evaluate.series or None])
    named = {"title": "jaxlv demo", "settings": config_tree(config)}
    with finished.metered() as forecasters:
        return evaluate_to(folder, forecasters, chosen, config.evaluate, finished=finished, **named)


@contextlib.contextmanager
def _without_resume() -> Iterator[None]:
    """A demo that is asked to end keeps nothing to go on from."""
    try:
        yield
    except Interrupted as stop:
        raise Stopped(stop.number) from None


def _check_place(out: Path) -> None:
    """JaxlvError where `out` is neither free, empty, nor an earlier demo."""
    if out.exists() and not (out / MARK).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise JaxlvError("exists and is not an earlier demo", where=out, hint="move it away, or choose another --out")


if __name__ == "__main__":
    main()
