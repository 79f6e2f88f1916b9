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
class Shard:
    """A part of a grid that one of `count` processes trains, the first of which has `index` 1."""

    index: int
    count: int

    @classmethod
    def of(cls, text: str) -> Shard:
        """Returns the shard of a text such as "2/4". Raises JaxlvError if there is no such shard."""
        index, _, count = text.partition("/")
        if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
            raise JaxlvError("not a shard", where="--shard", expected="I/N, I from 1 to N, such as 2/4", found=text)
        return cls(int(index), int(count))

    def cells(self, found: Sequence[Cell]) -> list[Cell]:
        """Returns the shard's cells: neighbours, so that those of one program still train together. Raises JaxlvError if
        there are fewer cells than shards.
        """
        if len(found) < self.count:
            raise JaxlvError("fewer runs than shards", where="--shard", expected=f"at most {len(found)}", found=self.count)
        ordered = [cell for group in sweep.groups(found) for cell in group] if self.count > 1 else list(found)
        first, last = (len(ordered) * place // self.count for place in (self.index - 1, self.index))
        return ordered[first:last]


WHOLE = Shard(1, 1)


@dataclass(frozen=True)
class Request:
    """A sweep that is asked for: the config of all runs, what it is called, and how their own settings are found.

    `rule` says what the best is chosen by, as train.select does if it is None. `at_once` runs are computed side by side,
    as many as the memory holds if it is 0. Several processes may train a `shard` of a grid each, in one folder.
    """

    config: RunConfig
    name: str
    plan: Grid | Search
    rule: Rule | None = None
    at_once: int = 0
    shard: Shard = WHOLE

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
        if self.config.budget.flops is None:
            return list(found)
        return sweep.with_ledger(found, f"../../{run.LEDGER}", several=self.shard != WHOLE)


def asked_for(
    config: Path,
    overrides: Sequence[str],
    axes: Mapping[str, Sequence[Any]],
    drawn: Search | None = None,
    rule: Rule | None = None,
    at_once: int = 0,
    shard: Shard = WHOLE,
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
    if drawn and shard != WHOLE:
        raise JaxlvError("a search has no shards", where="--shard", hint="share its study by --storage")
    return Request(settings, config.name, drawn or Grid(axes, stage.skip), rule, at_once, shard)


def run_sweep(asked: Request, out: Path, *, resume: bool = False, begin: Begin = Silent, say: Say = unsaid) -> Sweep:
    """Trains the runs of a sweep in `out`/runs, and writes sweep.json, sweep.csv and report.html. Returns sweep.json, or of
    a shard, as long as others train, what its own runs have reached.

    With `resume` finished runs are kept; of a shard they always are. Raises JaxlvError if `out` exists and is not resumed,
    and if a run cannot be trained; nothing is written if that is known before.
    """
    found = asked.cells()
    sweep.check_rule([cell.config for cell in found], asked.chosen_by)
    sources.check_fits([cell.config for cell in found])  # before a folder is made
    own = asked.sharing(asked.shard.cells(found))
    begun, folder = _begun(out, resume, asked.shard), out / sweep.RUNS
    if isinstance(asked.plan, Grid):
        say(f"{len(own)} runs in {len(sweep.groups(own))} programs")
        outcomes = train(own, folder, resume=begun, at_once=asked.at_once, begin=begin)
    else:
        outcomes = _searched(asked, asked.plan, out, begun, begin)
    if asked.shard != WHOLE:
        done = [cell for cell in asked.sharing(found) if (folder / cell.name / run.ADAPTER).is_dir()]
        if len(done) < len(found):
            say(f"{len(done)} of {len(found)} runs are done; the shard that ends last compares them")
            return _compared(asked, outcomes)
        outcomes = [sweep.outcome(cell, folder) for cell in done]
    result = _compared(asked, outcomes)
    sweep.write_result(out / sweep.RESULT, result.tree())
    trees = [one.tree() for one in outcomes]
    flat = [{**one["settings"], **{k: v for k, v in one.items() if not isinstance(v, (dict, list))}} for one in trees]
    write_csv(out / "sweep.csv", pd.DataFrame(flat))
    page.write(out / "report.html", sweeps.page_of(result))
    return result


def _compared(asked: Request, outcomes: Sequence[Outcome]) -> Sweep:
    best = sweep.choose(outcomes, asked.chosen_by).name
    return Sweep(asked.chosen_by, best, tuple(outcomes), asked.name, versions())


def _begun(out: Path, resume: bool, shard: Shard) -> bool:
    """Tells whether a sweep's folder was begun before, and makes it if not. Shards find it made by the first of them."""
    if shard == WHOLE:
        return begun_folder(out, sweep.RUNS, resume)
    while not (out / sweep.RUNS).is_dir():
        with contextlib.suppress(JaxlvError):  # another shard was first
            begun_folder(out, sweep.RUNS, resume=False)
    return True


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
