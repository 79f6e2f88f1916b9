"""Train many runs of one config, and compare them.

    jaxlv sweep CONFIG --grid lora.rank=2,4,8 --grid optimizer.learning_rate=1e-5,5e-5,1e-4 --out DIR [--resume]
    jaxlv sweep CONFIG --search lora.rank=2..16 --search optimizer.learning_rate=1e-5..1e-3:log --trials 24 --out DIR

Runs that differ in rank, alpha, dropout, learning rate, seed or text alone train together as one program, as many side by
side as the memory holds; others follow one another. --grid goes through every combination (a config's own [grid] section is
the default); --search lets Optuna draw settings (extra `search`), and with --storage several machines share one study, each
with a DIR of its own. DIR gets a run folder for each under runs/, sweep.json, sweep.csv and report.html; a ledger for all
where the config has a budget.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from jaxlv.config import RunConfig, build_config, override, read_tree, sections
from jaxlv.errors import JaxlvError
from jaxlv.report import page, sweeps
from jaxlv.runs import billing, run, search, sources, sweep, training
from jaxlv.storage.tables import write_csv
from jaxlv.tools.console import Progress, begun_folder, describe, print_columns, program, whole
from jaxlv.versions import versions


def arguments() -> argparse.ArgumentParser:
    parser = describe("sweep", __doc__)
    parser.add_argument("config", type=Path, help="run as TOML; its section [grid], if any, names values to go through")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the comparison")
    several: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("--grid", **several, metavar="A.B=V,V,...", help="values of a setting; may be repeated")
    parser.add_argument("--search", **several, metavar="A.B=LOW..HIGH[:log]", help="a range, or values, to draw from")
    runs = whole(1, sweep.MOST_RUNS)
    parser.add_argument("--trials", type=runs, default=16, help="runs of a search (default 16)")
    parser.add_argument("--together", type=runs, default=8, help="runs of a search that are drawn at once (default 8)")
    parser.add_argument("--storage", help="of an Optuna study that several machines share, such as sqlite:///study.db")
    parser.add_argument("--study", default="jaxlv", help="name of the study in the storage (default jaxlv)")
    parser.add_argument("--set", **several, metavar="A.B=C", help="override a setting of all runs")
    parser.add_argument("--choose", choices=list(sweep.RULES), help="what is best (default: as train.select says)")
    parser.add_argument(
        "--at-once", type=whole(0), default=0, help="runs computed side by side (default: what the memory holds)"
    )
    parser.add_argument("--resume", action="store_true", help="go on in DIR: finished runs are kept")
    return parser


def watch_of(group: Sequence[sweep.Cell], bars: list[Progress]) -> training.Watch:
    """Progress of the runs that train together; the bar of the group before ends."""
    while bars:
        bars.pop().__exit__()
    label = group[0].name if len(group) == 1 else f"{len(group)} runs"
    bar = Progress(label, group[0].config.train.steps).__enter__()
    bars.append(bar)
    return training.Watch(bar.step, bar.note)


def train(found: Sequence[sweep.Cell], folder: Path, resume: bool, at_once: int = 0) -> list[dict[str, Any]]:
    """Train the cells with progress on the terminal; what came of each."""
    bars: list[Progress] = []
    try:
        watch = lambda group: watch_of(group, bars)  # noqa: E731
        sweep.train(found, folder, resume=resume, watch=watch, versions=versions(), at_once=at_once)
    finally:
        while bars:
            bars.pop().__exit__()
    return [sweep.outcome(cell, folder) for cell in found]


def show(outcomes: Sequence[dict[str, Any]], best: str) -> None:
    """The runs as a table, the best marked."""
    names = list(dict.fromkeys(name for one in outcomes for name in one["settings"]))
    columns = [column for column in sweeps.COLUMNS if any(one.get(column.key) is not None for one in outcomes)]
    rows = [["", *(name.rpartition(".")[2] for name in names), *(column.short for column in columns)]]
    for one in outcomes:
        settings = [sweeps.setting(one["settings"].get(name)) for name in names]
        rows.append(["*" if one["name"] == best else "", *settings, *(column.text(one) for column in columns)])
    print_columns(rows, right=range(1, len(rows[0])))


@program(arguments)
def main(options: argparse.Namespace) -> None:
    tree = override(read_tree(options.config), options.set)
    rest, written, stage = sections(tree, options.config)
    config = build_config(RunConfig, rest, where=options.config)
    axes = {} if options.search else written
    axes |= dict(parse_values(text) for text in options.grid)
    space = [parse_range(text) for text in options.search]
    if bool(axes) == bool(space):
        raise JaxlvError(
            "a grid or a search, not both and not neither", where="--grid, --search", found=f"{axes} and {space}"
        )
    rule = options.choose or ("forecast_mae" if config.train.select == "forecast" else "validation_loss")
    found = sweep.cells(config, list(sweep.grid(axes, stage.skip))) if axes else []
    ends = [{one.setting: one.ends[place] for one in space} for place in range(2 if space else 0)]
    extreme = [cell for settings in ends for cell in sweep.cells(config, [settings])]
    sources.check_fits([cell.config for cell in [*found, *extreme]])  # before a folder is made
    out, known = options.out, begun_folder(options.out, sweep.RUNS, options.resume)
    if axes:
        if config.budget.flops is not None:
            found = sweep.with_ledger(found, f"../../{run.LEDGER}")
        print(f"{len(found)} runs in {len(sweep.groups(found))} programs")
        outcomes = train(found, out / sweep.RUNS, known, options.at_once)
    else:
        outcomes = searched(config, space, options, out, rule, known)
    best = sweep.choose(outcomes, rule)
    result = {"config": options.config.name, "rule": rule, "best": best["name"], "runs": outcomes, "versions": versions()}
    sweep.write_result(out / sweep.RESULT, result)
    flat = [{**one["settings"], **{k: v for k, v in one.items() if not isinstance(v, (dict, list))}} for one in outcomes]
    write_csv(out / "sweep.csv", pd.DataFrame(flat))
    page.write(out / "report.html", sweeps.page_of(result))
    show(outcomes, best["name"])
    print(f"best by {sweep.RULES[rule]}: {best['name']} ({best[rule]:.4g})")
    if repeated := billing.repeats_of(config, out):
        print(repeated)
    print(f"figures: {out / sweep.RESULT}\nreport:  {out / 'report.html'}")


def searched(
    config: RunConfig, space: Sequence[search.Range], options: argparse.Namespace, out: Path, rule: str, known: bool
) -> list[dict[str, Any]]:
    """Runs whose settings a study draws, some at a time, each told to the study when it has ended."""
    folder = out / sweep.RUNS
    study = search.Study(options.storage or out / "study.db", options.study, space, config.train.seed)
    begun = study.known([path.name for path in folder.iterdir()]) if known else {}
    done: list[dict[str, Any]] = []
    while len(done) < options.trials:
        drawn = dict(begun)
        if lacking := -len(begun) % options.together if begun else options.together:  # some at once, as if never interrupted
            drawn |= study.ask(max(0, min(lacking, options.trials - len(done) - len(begun))))
        found = sweep.named(drawn, sweep.cells(config, list(drawn.values())))
        if config.budget.flops is not None:
            found = sweep.with_ledger(found, f"../../{run.LEDGER}")
        for one in train(found, folder, bool(begun), options.at_once):
            study.tell(one["name"], sweep.choose([one], rule)[rule])
            done.append(one)
        begun = {}
    return done


def parse_values(text: str) -> tuple[str, list[Any]]:
    """("lora.rank", [2, 4, 8]) from "lora.rank=2,4,8"; values in TOML, bare words as strings."""
    name, separator, values = text.partition("=")
    if not separator or "." not in name or not values.strip():
        raise JaxlvError("not a list of values", where=f"--grid {text}", expected="section.key=value,value,...")
    try:
        return name.strip(), tomllib.loads(f"values = [{values}]")["values"]
    except (ValueError, RecursionError):
        return name.strip(), [value.strip() for value in values.split(",")]


def parse_range(text: str) -> search.Range:
    """A range from "optimizer.learning_rate=1e-5..1e-3:log", or values from "lora.rank=2,4,8"."""
    name, _, rest = text.partition("=")
    ends, _, scale = rest.partition(":")
    low, dots, high = ends.partition("..")
    if not dots:
        name, values = parse_values(text)
        return search.Range(name, values=tuple(tuple(v) if isinstance(v, list) else v for v in values))
    try:
        first, last = (tomllib.loads(f"value = {end}")["value"] for end in (low, high))
        if scale not in ("", "log") or not all(isinstance(end, (int, float)) for end in (first, last)):
            raise ValueError
    except (ValueError, RecursionError):
        raise JaxlvError(
            "not a range", where=f"--search {text}", expected="section.key=low..high or low..high:log"
        ) from None
    return search.Range(name.strip(), first, last, scale == "log")


if __name__ == "__main__":
    main()
