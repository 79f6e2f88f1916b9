"""A run in training, alone or beside others: what it writes, what it has reached, and what pays for its steps."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxlv import processes
from jaxlv.config import RunConfig, config_tree
from jaxlv.errors import JaxlvError
from jaxlv.flops.ledger import Entry, Event, Ledger, Meter
from jaxlv.results.runs import Facts, Mark
from jaxlv.runs.billing import event_of, head_in, ledger_of, ledger_path, name_in_ledger
from jaxlv.runs.checkpoint import Checkpoints
from jaxlv.runs.records import MetricsLog
from jaxlv.runs.run import CHECKPOINTS, METRICS, NONFINITE
from jaxlv.runs.sinks import Sink
from jaxlv.runs.sources import Inputs
from jaxlv.steps.train import TrainState
from jaxlv.storage.files import make_folder, new_file
from jaxlv.text.tokens import Windows


@dataclass(frozen=True)
class Job:
    """A run to be trained: its config, its folder, and what the config names."""

    config: RunConfig
    folder: Path
    inputs: Inputs


def is_finite(figures: Mapping[str, float]) -> bool:
    """Tells whether a step's loss and gradient are finite."""
    return math.isfinite(figures["loss"]) and math.isfinite(figures["gradient_norm"])


class Member:
    """A run in progress. `note(text)` is called with what its user should know."""

    def __init__(self, job: Job, note: Callable[[str], None]):
        self.config, self.folder, self.inputs, self.note = job.config, job.folder, job.inputs, note
        self.log = MetricsLog(self.folder / METRICS)
        self.total_tokens, self.total_seconds, self.skipped = 0.0, 0.0, 0.0
        self.best: Mark | None = None  # the mark of the best state so far
        self.checkpoints: Checkpoints  # open while it trains
        self.meter: Meter | None = None
        self.blocks: list[Entry] = []  # of steps, reserved and not yet committed: the one that runs, and the next one
        self.unlogged: Mapping[str, float] | None = None  # the record of the last step, if it was not to be logged

    def open(self, opened: contextlib.ExitStack) -> None:
        """Opens what it writes to, until `opened` closes."""
        config = config_tree(self.config)
        sinks = self.config.train.sinks if processes.index() == 0 else ()
        self.log.sinks = [Sink(name, self.folder, config, self.note) for name in sinks]
        for sink in self.log.sinks:
            opened.callback(sink.close)
        opened.callback(self.log.close)
        make_folder(self.folder / CHECKPOINTS)
        self.checkpoints = opened.enter_context(Checkpoints(self.folder / CHECKPOINTS))
        self.checkpoints.remove_unfinished()
        if self.checkpoints.damaged:
            self.note(f"{self.folder.name}: {self.checkpoints.told()}")

    def resume_at(self, step: int) -> None:
        """Drops what was logged after a step, and takes over what was known there."""
        self.log.keep(step)
        if not step:
            return
        if left := self.checkpoints.tidy(step):
            self.note(f"{self.folder.name}: older checkpoints cannot be removed: steps {', '.join(map(str, left))}")
        facts = self.checkpoints.facts(step)
        self.total_tokens, self.total_seconds, self.skipped = facts.tokens, facts.seconds, facts.skipped
        if facts.best and facts.best.step in self.checkpoints.steps():
            self.best = facts.best
        elif facts.best:
            lost = f"the best checkpoint, of step {facts.best.step}, is lost"
            self.note(f"{self.folder.name}: {lost}: the next one counts as best")

    # ------------------------------------------------------------------------------------- after each step

    def log_step(self, step: int, figures: Mapping[str, float], logged: bool) -> None:
        """Counts a step's tokens and seconds. Writes its figures if they are to be `logged`, or if the step was skipped."""
        self.total_tokens += figures["tokens"]
        self.total_seconds += figures["seconds"]
        known = dict(figures)
        if not is_finite(figures):
            known = {name: value for name, value in figures.items() if math.isfinite(value)} | {"skipped": 1}
        self.unlogged = {"step": step, **known, "total_tokens": self.total_tokens, "total_seconds": self.total_seconds}
        if logged or "skipped" in known:
            self.log_last()

    def log_last(self) -> None:
        """Writes the figures of the last step, if they are not written yet."""
        if self.unlogged:
            self.log.add(self.unlogged)
        self.unlogged = None

    def skip(self, step: int, figures: Mapping[str, float], batch: Windows) -> None:
        """Keeps the batch of a step that is not finite (loss or gradient). Raises JaxlvError if it may not be skipped."""
        most, path = self.config.train.skip_nonfinite, self.folder / NONFINITE / f"step_{step}.npz"
        make_folder(path.parent)
        with new_file(path) as place:
            np.savez(place, **batch._asdict())
        self.skipped += 1
        found = f"loss {figures['loss']}, gradient norm {figures['gradient_norm']}"
        kept = f"its batch is in {NONFINITE}/{path.name}"
        if self.skipped > most:
            again = f", after {most} that were skipped" if most else ""
            raise JaxlvError(
                f"the loss or the gradient is not finite at step {step}{again}",
                where=self.folder,
                found=found,
                hint=f"lower optimizer.learning_rate or set optimizer.clip_norm; earlier checkpoints are intact, {kept}",
            )
        self.note(f"{self.folder.name}: step {step} is skipped ({found}); {kept}")

    def mark(self, step: int, record: Mapping[str, float]) -> bool:
        """Logs the measures of a state, and marks it if it is the best so far. Returns whether it is."""
        self.log.add({"step": step, **record})
        select = self.config.train.select
        value = record["forecast_mae" if select == "forecast" else "validation_loss"]
        best = math.isfinite(value) and (self.best is None or value < self.best.value)
        if best:
            self.best = Mark(step, value, select)
        return best

    def save(self, step: int, state: TrainState) -> None:
        """Saves a state as a checkpoint."""
        self.checkpoints.save(step, state, Facts(self.total_tokens, self.total_seconds, self.skipped, self.best))

    def is_paid(self, step: int) -> bool:
        """Tells whether a step is reserved."""
        return any(step <= _last(block) for block in self.blocks)

    def commit(self, step: int, ended: bool = False) -> None:
        """Commits the blocks whose steps have run, up to `step`; if training has `ended`, the last one as far as it went."""
        while self.meter is not None and self.blocks and (ended or _last(self.blocks[0]) <= step):
            block = self.blocks.pop(0)
            event = block.event
            self.meter.ledger.commit(block, replace(event, count=max(0, min(step, _last(block)) - event.step)))


def _last(block: Entry) -> int:
    """Returns the last step of a block."""
    return block.event.step + block.event.count


# --------------------------------------------------------------------------------------------- the budget


def open_ledgers(members: Sequence[Member], opened: contextlib.ExitStack) -> None:
    """Gives each member with a budget its meter. Runs that share a ledger share the open file."""
    ledgers: dict[Path, Ledger] = {}
    rank = max(member.config.lora.rank for member in members)
    for member in members:
        config, path = member.config, ledger_path(member.config, member.folder)
        if config.budget.flops is None:
            continue
        if path not in ledgers:
            ledger = opened.enter_context(ledger_of(config, member.folder, member.inputs.model))
            assert ledger is not None
            ledgers[path] = ledger
        name = name_in_ledger(config, member.folder)
        ledgers[path].follow(name, head_in(config, member.folder))
        member.meter = Meter(ledgers[path], config.budget.phase, event_of(config, stack_rank=rank), name)


def reserve(members: Sequence[Member], step: int, count: int) -> bool:
    """Reserves up to `count` steps after `step` for all members, as many for each. Returns False if not a single one is
    left.
    """
    by_purse: dict[tuple[int, str], list[tuple[Member, Meter, Event]]] = {}
    for member in members:
        if (meter := member.meter) is not None:
            event = meter.event("train_step", step=step, count=count)
            by_purse.setdefault((id(meter.ledger), meter.phase), []).append((member, meter, event))
    with contextlib.ExitStack() as turns:  # between a look at what is left and the reservation nobody else takes it
        for ledger in {id(group[0][1].ledger): group[0][1].ledger for group in by_purse.values()}.values():
            turns.enter_context(ledger.turn())
        for group in by_purse.values():
            _, meter, _ = group[0]
            events, runs = [event for _, _, event in group], [meter.run for _, meter, _ in group]
            count = min(count, meter.ledger.fitting(events, meter.phase, runs))
        for member, meter, event in [one for group in by_purse.values() for one in group] if count else []:
            member.blocks.append(meter.ledger.reserve(replace(event, count=count), meter.phase, meter.run))
    return count > 0
