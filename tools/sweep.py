"""`jaxlv sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from jaxlv.settings import MOST_RUNS
from jaxlv.tools.bounds import whole
from jaxlv.tools.console import REPORT, Progress, Result, made, say, verb
from jaxlv.tools.options import Config, Settings

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
    shard: str = "1/1",
    resume: bool = False,
) -> Result:
    """Train many runs of one config, and compare them.

        jaxlv sweep CONFIG --grid lora.rank=2,4,8 --grid optimizer.learning_rate=1e-5,5e-5,1e-4 --out DIR
        jaxlv sweep CONFIG --search lora.rank=2..16 --search optimizer.learning_rate=1e-5..1e-3:log --trials 24 --out DIR

    Runs that differ in rank, alpha, dropout, learning rate, seed or text alone train together as one program, as many side
    by side as the memory holds; others follow one another. --grid goes through every combination; --search lets Optuna draw
    settings (extra `search`), and with --storage several machines share one study, each with a DIR of its own. DIR gets a
    run folder for each under runs/, sweep.json, sweep.csv and report.html; a ledger for all if the config has a budget.

    --shard 2/4 trains the second quarter of a grid: four such commands with one DIR share its ledger, and the one that ends
    last compares all runs. Each may be given again, after an interruption, as it was.

    A DIR that exists is never replaced: go on with --resume, or remove the folder to begin anew.

    Args:
        config: TOML file, or the name of a config that comes with jaxlv; a section [grid] in it names values to go through
        out: folder of the runs and the comparison
        grid: values of a setting, A.B=V,V,...; may be repeated
        search: a range, or values, to draw from, A.B=LOW..HIGH or A.B=LOW..HIGH:log; may be repeated
        trials: number of runs of a search
        together: runs of a search that are drawn at once
        storage: storage of an Optuna study that several machines share, such as sqlite:///study.db
        study: name of the study in the storage
        choose: what the best run is chosen by; as train.select says if not given
        at_once: runs computed side by side; 0: as many as the memory holds
        shard: the part of the grid that this command trains, of how many
        resume: go on in DIR: finished runs are kept
    """
    from jaxlv.report.sweeps import format_runs
    from jaxlv.results.sweeps import RULES, rule_words
    from jaxlv.runs import billing
    from jaxlv.runs.search import Range, values_of
    from jaxlv.runs.sweep import RESULT
    from jaxlv.studies import sweeping

    ranges = [Range.of(text) for text in search]
    drawn = sweeping.Search(ranges, trials, together, storage, study) if ranges else None
    axes = dict(values_of(text, "--grid") for text in grid)
    asked = sweeping.asked_for(config, set, axes, drawn, choose, at_once, sweeping.Shard.of(shard))
    result = sweeping.run_sweep(asked, out, resume=resume, begin=Progress, say=say)
    lines = [
        format_runs(result.runs, result.best),
        f"best by {rule_words(result.rule)}: {result.best} ({RULES[result.rule].of(result.chosen):.4g})",
        billing.repeats_of(asked.config, out),
    ]
    files = {"figures": RESULT, "report": REPORT} if (out / RESULT).is_file() else {}
    return made(out, lines, result.tree(), **files)


app = verb(sweep)
