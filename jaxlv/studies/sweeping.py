"""A sweep from its settings to its page: runs by a grid or a search, trained, compared, and the best of them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from jaxlv.config import RunConfig, build_config, override, read_tree, sections
from jaxlv.errors import JaxlvError
from jaxlv.report import page, sweeps
from jaxlv.results.sweeps import RULES, Outcome, Sweep
from jaxlv.runs import run, search, sources, sweep, training
from jaxlv.runs.sweep import Cell
from jaxlv.storage.files import begun_folder
from jaxlv.storage.tables import write_csv
from jaxlv.studies.progress import Bar, Begin, Say, Silent, unsaid
from jaxlv.versions import versions

Rule = Literal["validation_loss", "forecast_mae"]  # a key of RULES


@dataclass(frozen=True)
class Grid:
    """Every combination of the axes' values ("section.key"), except those that one of `skip` is part of."""

    axes: Mapping[str, Sequence[Any]]
    skip: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Search:
    """Settings that a study of Optuna draws: `trials` runs, `together` at a time."""

    space: Sequence[search.Range]
    trials: int = 16
    together: int = 8
    storage: str | None = None  # of a study that several machines share; study.db in the sweep's folder if None
    study: str = "jaxlv"  # its name in the storage

    def ends(self) -> list[dict[str, Any]]:
        """Returns the settings at the two ends of all ranges."""
        return [{one.setting: one.ends[place] for one in self.space} for place in (0, 1)]


@dataclass(frozen=True)
class Request:
    """A sweep that is asked for: the config of all runs, what it is called, and how their own settings are found.

    `rule` says what the best is chosen by, as train.select does if it is None. `at_once` runs are computed side by side,
    as many as the memory holds if it is 0.
    """

    config: RunConfig
    name: str
    plan: Grid | Search
    rule: Rule | None = None
    at_once: int = 0

    @property
    def chosen_by(self) -> Rule:
        """Returns the rule."""
        return self.rule or ("forecast_mae" if self.config.train.select == "forecast" else "validation_loss")

    def cells(self) -> list[Cell]:
        """Returns the runs of a grid, or those at the two ends of all ranges of a search."""
        if isinstance(self.plan, Grid):
            return sweep.cells(self.config, list(sweep.grid(self.plan.axes, self.plan.skip)))
        return [cell for settings in self.plan.ends() for cell in sweep.cells(self.config, [settings])]

    def sharing(self, found: Sequence[Cell]) -> list[Cell]:
        """Returns the cells with one ledger for all, if the config has a budget."""
        return list(found) if self.config.budget.flops is None else sweep.with_ledger(found, f"../../{run.LEDGER}")


def asked_for(
    config: Path,
    overrides: Sequence[str],
    axes: Mapping[str, Sequence[Any]],
    drawn: Search | None = None,
    rule: Rule | None = None,
    at_once: int = 0,
) -> Request:
    """Returns the sweep of a config file with `overrides`: a search, or the grid of `axes` and of the file's section [grid].

    Raises JaxlvError if the config does not read, or if there are both a search and axes, or neither.
    """
    rest, own, stage = sections(override(read_tree(config), overrides), config)
    settings = build_config(RunConfig, rest, where=config)
    axes = {**({} if drawn else own), **axes}
    if bool(axes) == bool(drawn):
        found = f"{axes} and {drawn.space if drawn else []}"
        raise JaxlvError("a grid or a search, not both and not neither", where="--grid, --search", found=found)
    return Request(settings, config.name, drawn or Grid(axes, stage.skip), rule, at_once)


def run_sweep(asked: Request, out: Path, *, resume: bool = False, begin: Begin = Silent, say: Say = unsaid) -> Sweep:
    """Trains the runs of a sweep in `out`/runs, and writes sweep.json, sweep.csv and report.html. Returns sweep.json.

    With `resume` finished runs are kept. Raises JaxlvError if `out` exists and is not resumed, and if a run cannot be
    trained; nothing is written if that is known before.
    """
    found = asked.cells()
    sweep.check_rule([cell.config for cell in found], asked.chosen_by)
    sources.check_fits([cell.config for cell in found])  # before a folder is made
    begun = begun_folder(out, sweep.RUNS, resume)
    if isinstance(asked.plan, Grid):
        say(f"{len(found)} runs in {len(sweep.groups(found))} programs")
        outcomes = train(asked.sharing(found), out / sweep.RUNS, resume=begun, at_once=asked.at_once, begin=begin)
    else:
        outcomes = _searched(asked, asked.plan, out, begun, begin)
    best = sweep.choose(outcomes, asked.chosen_by).name
    result = Sweep(asked.chosen_by, best, tuple(outcomes), asked.name, versions())
    sweep.write_result(out / sweep.RESULT, result.tree())
    trees = [one.tree() for one in outcomes]
    flat = [{**one["settings"], **{k: v for k, v in one.items() if not isinstance(v, (dict, list))}} for one in trees]
    write_csv(out / "sweep.csv", pd.DataFrame(flat))
    page.write(out / "report.html", sweeps.page_of(result))
    return result


def _searched(asked: Request, plan: Search, out: Path, known: bool, begin: Begin) -> list[Outcome]:
    """Trains runs whose settings a study draws, some at a time, and tells the study what came of each."""
    folder = out / sweep.RUNS
    study = search.Study(plan.storage or out / "study.db", plan.study, plan.space, asked.config.train.seed)
    begun = study.known([path.name for path in folder.iterdir()]) if known else {}
    done: list[Outcome] = []
    while len(done) < plan.trials:
        drawn = dict(begun)
        if lacking := -len(begun) % plan.together if begun else plan.together:  # some at once, as if never interrupted
            drawn |= study.ask(max(0, min(lacking, plan.trials - len(done) - len(begun))))
        found = asked.sharing(sweep.named(drawn, sweep.cells(asked.config, list(drawn.values()))))
        for one in train(found, folder, resume=bool(begun), at_once=asked.at_once, begin=begin):
            study.tell(one.name, RULES[asked.chosen_by].of(sweep.choose([one], asked.chosen_by)))
            done.append(one)
        begun = {}
    return done


def train(
    found: Sequence[Cell], folder: Path, *, resume: bool = False, at_once: int = 0, begin: Begin = Silent
) -> list[Outcome]:
    """Trains cells in `folder`, those of one program together, a bar for each program. Returns what each reached."""
    with contextlib.ExitStack() as shown:

        def watch(group: Sequence[Cell]) -> training.Watch:
            shown.close()  # the bar of the group before
            label = group[0].name if len(group) == 1 else f"{len(group)} runs"
            bar: Bar = shown.enter_context(begin(label, group[0].config.train.steps))
            return training.Watch(bar.step, bar.note)

        sweep.train(found, folder, resume=resume, watch=watch, versions=versions(), at_once=at_once)
    return [sweep.outcome(cell, folder) for cell in found]
