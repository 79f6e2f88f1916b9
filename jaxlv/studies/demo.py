"""The main job on the embedded base: tune it by LoRA, forecast held-out series, measure, draw, in one folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from jaxlv.config import RunConfig, find_config, load_config
from jaxlv.errors import JaxlvError
from jaxlv.runs import interrupts, run, sources
from jaxlv.storage.files import new_folder
from jaxlv.studies.evaluate import Evaluated, Fitted, evaluate_to
from jaxlv.studies.progress import Begin, Say, Silent, unsaid
from jaxlv.studies.subjects import Subject
from jaxlv.studies.train import train

MARK = ".demo"  # in the folder of a demo, so that the next one may take its place
DATA = Path("data") / "lotka_volterra_data.h5"
WITH_DATA, WITHOUT = "demo", "demo-field"  # the configs
WHY = (
    "why these: counts of one pair of species in many places, with 20 % of noise, 10 steps of each known. The base has read"
    " noise of at most 10 %, and ten such counts do not tell how they go on; the other series, on which it is tuned, do"
)


def demo(
    out: Path, data: Path | None = None, overrides: Sequence[str] = (), begin: Begin = Silent, say: Say = unsaid
) -> Evaluated:
    """Tunes the embedded base as a config says with `overrides`, and measures it on its test series.

    `data` is a file of series. If it is None, the course's file is taken if this machine has it, and the config "demo".
    Otherwise series are simulated, which the base cannot forecast well, by the config "demo-field". An earlier demo in `out`
    is replaced at the end. Raises JaxlvError if `out` holds something else.
    """
    data = data or course_file()
    config = chosen(data, overrides)
    say(f"data: {data or f'{config.data.simulate} series simulated by preset {config.data.preset}'}")
    if not config.data.path:
        say(WHY)
    _check_place(out)
    inputs = sources.load_inputs(config)
    with new_folder(out, replace=True) as work, interrupts.nothing_kept():
        train(config, work, inputs=inputs, begin=begin, say=say)
        (work / MARK).touch()
        return _measured(config, work, begin)


def chosen(data: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Returns the config of a demo on a file, or of one without."""
    own = [f"data.path={str(data)!r}"] if data else []
    return load_config(find_config(WITH_DATA if data else WITHOUT), [*own, *overrides])


def course_file() -> Path | None:
    """Returns the course's data set, if this machine has it."""
    places = [Path(os.environ[name]) for name in ("JAXLV_SHARED",) if os.environ.get(name)] + [Path("../shared")]
    return next((place / DATA for place in places if (place / DATA).is_file()), None)


def _measured(config: RunConfig, folder: Path, begin: Begin) -> Evaluated:
    """Measures the run in a folder on its test series, and leaves metrics.json, report.html and the forecasts there."""
    finished, data = run.load_run(folder), sources.load_series(config, folder)
    subject = Subject("demo", finished, config, data)
    chosen = data.select(sources.split_series(config, data).test[: config.evaluate.series or None])
    with subject.paying() as models:
        fitted = Fitted(models)
        metrics = evaluate_to(folder, subject, chosen, config.evaluate, fitted, title="jaxlv demo", begin=begin)
    return Evaluated(metrics, "")


def _check_place(out: Path) -> None:
    if out.exists() and not (out / MARK).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise JaxlvError("exists and is not an earlier demo", where=out, hint="move it away, or choose another --out")
