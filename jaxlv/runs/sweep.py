"""Sweeps: many runs of one config, those of one program trained together, and what each reached.

DIR/runs/NAME is an ordinary run folder for each; DIR/sweep.json says which settings it has and what it reached.
"""

from __future__ import annotations

import itertools
import math
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from jaxlv import processes
from jaxlv.config import RunConfig, build_config, config_tree, laid_over
from jaxlv.errors import JaxlvError, represented
from jaxlv.flops import ledger
from jaxlv.memory import device_memory
from jaxlv.model.qwen2 import Qwen2
from jaxlv.results.sweeps import RULES, Outcome
from jaxlv.runs import billing, run, sources, training
from jaxlv.runs.member import Job
from jaxlv.runs.records import RUNS as RUNS
from jaxlv.runs.records import Logged, read_metrics
from jaxlv.settings import MOST_RUNS
from jaxlv.steps import needs
from jaxlv.steps.stack import program_of
from jaxlv.storage.door import is_there
from jaxlv.storage.files import remove_unfinished, write_json

RESULT = "sweep.json"
SHARE_OF_MEMORY = 0.8  # the rest is left to validation, forecasts and the host


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: its name, its own settings ({"lora.rank": 2, ...}), and its whole config."""

    name: str
    settings: Mapping[str, object]
    config: RunConfig


def grid(axes: Mapping[str, Sequence[Any]], skip: Sequence[Mapping[str, Any]] = ()) -> Iterator[dict[str, Any]]:
    """Yields every combination of the axes' values, except those that contain one of `skip`; the last axis changes fastest.

    An axis that names several settings, "lora.rank, lora.alpha", takes a list of values for each: [[2, 4.0], [4, 8.0]].
    """
    for name, values in axes.items():
        if not isinstance(values, (list, tuple)) or not values:
            raise JaxlvError("no values to go through", where=f"grid {name}", expected="a list", found=represented(values))
        if len({represented(value) for value in values}) != len(values):
            raise JaxlvError("a value is given twice", where=f"grid {name}", found=list(values))
    if (number := math.prod(map(len, axes.values()))) > MOST_RUNS:
        raise JaxlvError("too many runs", where="grid", expected=f"at most {MOST_RUNS:,}", found=f"{number:,}")
    points = [[_settings(name, value) for value in values] for name, values in axes.items()]
    for combination in itertools.product(*points):
        settings = {name: value for point in combination for name, value in point.items()}
        if not any(all(settings.get(name) == value for name, value in one.items()) for one in skip):
            yield settings


def _settings(name: str, value: Any) -> dict[str, Any]:
    """Returns the settings that one value of an axis stands for."""
    names = [part.strip() for part in name.split(",")]
    if len(names) == 1:
        return {name: value}
    if not isinstance(value, (list, tuple)) or len(value) != len(names):
        raise JaxlvError("not a value for each setting", where=f"grid {name}", expected=f"{len(names)} values", found=value)
    return dict(zip(names, value, strict=True))


def cells(config: RunConfig, combinations: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """Returns a cell for each combination of settings ("section.key"), laid over the config."""
    found = []
    for settings in combinations:
        tree = config_tree(config)
        for dotted, value in settings.items():
            section, _, key = dotted.partition(".")
            if not key:
                raise JaxlvError("not a setting", where=f"grid {dotted}", expected="section.key")
            tree = laid_over(tree, {section: {key: value}})
        built = build_config(RunConfig, tree, where="grid")
        found.append(Cell(name_of(settings), settings, built))
    if not found:
        raise JaxlvError("a sweep without runs", where="grid", hint="name settings to vary")
    if len({cell.name for cell in found}) != len(found):
        raise JaxlvError("two runs of a sweep have one name", where="grid", found=sorted(cell.name for cell in found))
    return found


def named(names: Iterable[str], found: Sequence[Cell]) -> list[Cell]:
    """Returns the cells under other names."""
    return [replace(cell, name=name) for name, cell in zip(names, found, strict=True)]


def name_of(settings: Mapping[str, object]) -> str:
    """Returns a folder's name made of settings: "rank-8_learning_rate-0.0001"."""
    parts = (f"{dotted.rpartition('.')[2]}-{_word(value)}" for dotted, value in settings.items())
    return re.sub(r"[^\w.+-]+", "-", "_".join(parts)) or "run"


def _word(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "+".join(map(_word, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def groups(found: Sequence[Cell]) -> list[list[Cell]]:
    """Returns the cells by program, in the order in which the programs appear."""
    by_program: dict[str, list[Cell]] = {}
    for cell in found:
        by_program.setdefault(program_of(cell.config), []).append(cell)
    return list(by_program.values())


def train(
    found: Sequence[Cell],
    folder: Path,
    *,
    resume: bool = False,
    watch: Callable[[Sequence[Cell]], training.Watch] = lambda group: training.Watch(),
    versions: Mapping[str, str] | None = None,
    at_once: int = 0,
    memory: int = 0,
) -> None:
    """Trains every cell in `folder`/NAME, those of one program together; with `resume`, finished ones are left alone.

    As many runs as `memory` bytes hold (0: a share of what the device has) are computed side by side. If even that is too
    much, the group is halved and goes on from its checkpoints. `watch(group)` is called once for each group.
    """
    for cell in found:
        place = folder / cell.name
        if resume and place.is_dir() and not is_there(place / run.CONFIG):
            shutil.rmtree(place)  # interrupted before it was ready to begin
        remove_unfinished(place)  # a finished run is not opened again
        run.check_folder(cell.config, place, resume and place.is_dir())
        billing.check_ledger(cell.config, place)
    sources.check_fits([cell.config for cell in found])
    left = [cell for cell in found if not (folder / cell.name / run.ADAPTER).is_dir()]
    limit = processes.agreed(memory or int(SHARE_OF_MEMORY * device_memory(jax.local_devices()[0])[0]))
    inputs = dict(zip((cell.name for cell in left), sources.load_inputs_of([cell.config for cell in left]), strict=True))
    waiting = [part for group in groups(left) for part in _held(group, inputs[group[0].name].model, limit)]
    while waiting:
        group = waiting.pop(0)
        jobs = [Job(cell.config, folder / cell.name, inputs[cell.name]) for cell in group]
        held, begun = limit if len(jobs) > 1 else 0, any(job.folder.is_dir() for job in jobs)
        try:
            training.train_together(jobs, resume=begun, watch=watch(group), versions=versions, memory=held, at_once=at_once)
        except jax.errors.JaxRuntimeError as fault:
            if "RESOURCE_EXHAUSTED" not in str(fault) or len(group) == 1 or not processes.all_failed():
                raise
            half = -(-len(group) // 2)
            waiting = [group[:half], group[half:], *waiting]


def _held(group: list[Cell], model: Qwen2, limit: int) -> list[list[Cell]]:
    """Returns the cells of a program in parts, each with overlays and moments that `limit` bytes hold."""
    most = max(1, limit // max(1, *(needs.state(cell.config, model) for cell in group)))
    return [group[first : first + most] for first in range(0, len(group), most)]


def outcome(cell: Cell, folder: Path, evaluations: bool = True) -> Outcome:
    """Returns what a finished run reached: its settings, and the figures of its best checkpoint by the run's own measure.

    Without `evaluations`, FLOPs are those of the training and its validations alone.
    """
    records = read_metrics(folder / cell.name / run.METRICS)
    steps = [record for record in records if "loss" in record]
    validations = [record for record in records if "validation_loss" in record]
    select = "forecast_mae" if cell.config.train.select == "forecast" else "validation_loss"
    best = min(validations, key=lambda record: record[select], default=Logged())
    last = steps[-1] if steps else Logged(step=0)
    return Outcome(
        name=cell.name,
        settings=cell.settings,
        steps=last.step,
        tokens=int(last.get("total_tokens", 0)),
        seconds=last.get("total_seconds"),
        train_loss=last.get("loss"),
        validation_loss=best.get("validation_loss"),
        validation_perplexity=best.get("validation_perplexity"),
        forecast_mae=best.get("forecast_mae"),
        best_step=best.step if best else None,
        flops=spent_by(cell.config, folder / cell.name, evaluations),
        history=tuple(records),
    )


def entries_of(config: RunConfig, folder: Path) -> tuple[ledger.Terms, list[ledger.Entry]] | None:
    """Returns the terms of a run's ledger and the entries under its name; None if there never was a ledger.

    A ledger in the run's own folder belongs to it alone, whatever the folder is called now.
    """
    book = billing.book_of(config, folder)
    if book is None:
        return None
    name = billing.name_in_ledger(config, folder)
    return book.terms, [entry for entry in book.entries if not config.budget.ledger or entry.run == name]


def priced(terms: ledger.Terms, entries: list[ledger.Entry], total: str = "executed") -> dict[str, int]:
    """Returns {convention: FLOPs} of entries: the ledger's own convention first, the assignment's, and what is executed.
    `total` is a field of the ledger's Totals.
    """
    names = dict.fromkeys((terms.convention, "coursework", "exact"))
    return {name: getattr(ledger.totals(entries, terms.model, name), total) for name in names}


def spent_by(config: RunConfig, folder: Path, evaluations: bool = True) -> dict[str, int] | None:
    """Returns {convention: FLOPs} that a run's ledger has under its name; None if there is no ledger."""
    found = entries_of(config, folder)
    if found is None:
        return None
    terms, own = found
    return priced(terms, [entry for entry in own if evaluations or entry.phase != ledger.FINAL])


def choose(outcomes: Sequence[Outcome], rule: str) -> Outcome:
    """Returns the run with the least figure under a rule (a key of RULES), the first of equals. Raises JaxlvError if no run
    has it.
    """
    held = [one for one in outcomes if RULES[rule].of(one) is not None]
    if not held:
        raise _no_figure(rule)
    return min(held, key=RULES[rule].of)


def check_rule(configs: Sequence[RunConfig], rule: str) -> None:
    """Raises JaxlvError, as `choose` would in the end, if no run of these configs will be validated."""
    if not any(one.train.validate_every and not one.data.holdout for one in configs):
        raise _no_figure(rule)


def _no_figure(rule: str) -> JaxlvError:
    hint = "set train.validate_every, data.holdout = 0, and train.forecast_series for a forecast's error"
    return JaxlvError("no run has the figure to choose by", where=rule, hint=hint)


def write_result(path: Path, tree: Mapping[str, object]) -> None:
    """Writes a result as JSON, completely or not at all."""
    write_json(path, tree)


def with_ledger(found: Sequence[Cell], path: str, several: bool = False) -> list[Cell]:
    """Returns the cells with one ledger for all of them, at a path relative to a run folder; `several` processes may write
    to it at once.
    """
    budgets = [replace(cell.config.budget, ledger=path, several=several) for cell in found]
    return [replace(c, config=replace(c.config, budget=own)) for c, own in zip(found, budgets, strict=True)]
