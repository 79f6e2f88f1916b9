"""`jaxlv sweep`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from jaxlv.config import RunConfig, build_config, override, read_tree, sections
from jaxlv.errors import JaxlvError
from jaxlv.settings import MOST_RUNS
from jaxlv.tools.console import Progress, Result, say, start, verb
from jaxlv.tools.options import Config, Settings, whole

if TYPE_CHECKING:
    from jaxlv.runs.search import Range
    from jaxlv.studies.sweeping import Grid, Search

Runs = Annotated[int, whole(1, MOST_RUNS)]


def sweep(
    config: Config,
    /,
    *,
    out: Path,
    grid: tuple[str, ...] = (),
    search: tuple[str, ...] = (),
    trials: Runs = 16,
    together: Runs = 8,
    storage: str | None = None,
    study: str = "jaxlv",
    set: Settings = (),
    choose: Literal["validation_loss", "forecast_mae"] | None = None,
    at_once: Annotated[int, whole(0)] = 0,
    resume: bool = False,
) -> Result:
    """Train many runs of one config, and compare them.

        jaxlv sweep CONFIG --grid lora.rank=2,4,8 --grid optimizer.learning_rate=1e-5,5e-5,1e-4 --out DIR
        jaxlv sweep CONFIG --search lora.rank=2..16 --search optimizer.learning_rate=1e-5..1e-3:log --trials 24 --out DIR

    Runs that differ in rank, alpha, dropout, learning rate, seed or text alone train together as one program, as many side
    by side as the memory holds; others follow one another. --grid goes through every combination; --search lets Optuna draw
    settings (extra `search`), and with --storage several machines share one study, each with a DIR of its own. DIR gets a
    run folder for each under runs/, sweep.json, sweep.csv and report.html; a ledger for all if the config has a budget.

    Parameters
    ----------
    config
        TOML file, or the name of a config that comes with jaxlv; its section [grid], if any, names values to go through
    out
        folder of the runs and the comparison
    grid
        values of a setting, A.B=V,V,...; may be repeated
    search
        a range, or values, to draw from, A.B=LOW..HIGH or A.B=LOW..HIGH:log; may be repeated
    trials
        runs of a search
    together
        runs of a search that are drawn at once
    storage
        of an Optuna study that several machines share, such as sqlite:///study.db
    study
        name of the study in the storage
    choose
        what is best; as train.select says if not given
    at_once
        runs computed side by side; 0: as many as the memory holds
    resume
        go on in DIR: finished runs are kept
    """
    from jaxlv.report.sweeps import format_runs
    from jaxlv.results.sweeps import RULES, rule_words
    from jaxlv.runs import billing
    from jaxlv.runs.sweep import RESULT
    from jaxlv.studies import sweeping

    rest, axes, stage = sections(override(read_tree(config), set), config)
    settings = build_config(RunConfig, rest, where=config)
    ranges = [parse_range(text) for text in search]
    axes = {**({} if ranges else axes), **dict(parse_values(text) for text in grid)}
    if bool(axes) == bool(ranges):
        found = f"{axes} and {ranges}"
        raise JaxlvError("a grid or a search, not both and not neither", where="--grid, --search", found=found)
    plan: Grid | Search = sweeping.Search(ranges, trials, together, storage, study)
    asked = sweeping.Request(settings, config.name, sweeping.Grid(axes, stage.skip) if axes else plan, choose, at_once)
    result = sweeping.run_sweep(asked, out, resume=resume, begin=Progress, say=say)
    lines = [
        format_runs(result.runs, result.best),
        f"best by {rule_words(result.rule)}: {result.best} ({RULES[result.rule].of(result.chosen):.4g})",
        billing.repeats_of(settings, out),
        f"figures: {out / RESULT}\nreport:  {out / 'report.html'}",
    ]
    return Result("\n".join(filter(None, lines)), {"folder": str(out), **result.tree()})


def parse_values(text: str) -> tuple[str, list[Any]]:
    """Returns ("lora.rank", [2, 4, 8]) of "lora.rank=2,4,8"; values are TOML, bare words strings."""
    name, separator, values = text.partition("=")
    if not separator or "." not in name or not values.strip():
        raise JaxlvError("not a list of values", where=f"--grid {text}", expected="section.key=value,value,...")
    try:
        return name.strip(), tomllib.loads(f"values = [{values}]")["values"]
    except (ValueError, RecursionError):
        return name.strip(), [value.strip() for value in values.split(",")]


def parse_range(text: str) -> Range:
    """Returns a range of "optimizer.learning_rate=1e-5..1e-3:log", or values of "lora.rank=2,4,8"."""
    from jaxlv.runs.search import Range

    name, _, rest = text.partition("=")
    ends, _, scale = rest.partition(":")
    low, dots, high = ends.partition("..")
    if not dots:
        name, values = parse_values(text)
        return Range(name, values=tuple(tuple(v) if isinstance(v, list) else v for v in values))
    try:
        first, last = (tomllib.loads(f"value = {end}")["value"] for end in (low, high))
        if scale not in ("", "log") or not all(isinstance(end, (int, float)) for end in (first, last)):
            raise ValueError
    except (ValueError, RecursionError):
        expected = "section.key=low..high or low..high:log"
        raise JaxlvError("not a range", where=f"--search {text}", expected=expected) from None
    return Range(name.strip(), first, last, scale == "log")


app = verb(sweep)

if __name__ == "__main__":
    start(app)
