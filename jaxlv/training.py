"""Training of runs, one or several that share a program: batches, validations, checkpoints, and what pays for each step."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlv import adapters, metrics, series
from jaxlv import lora as overlay
from jaxlv.checkpoint import Checkpoints
from jaxlv.config import RunConfig, TrainConfig, config_tree, to_toml
from jaxlv.errors import JaxlvError
from jaxlv.files import hub_revision, new_folder, only_process, remove_unfinished, seal
from jaxlv.interrupts import Interrupted, Interrupts
from jaxlv.ledger import BudgetExceeded, Entry, Event, Ledger, Meter
from jaxlv.model import Qwen2
from jaxlv.records import MetricsLog
from jaxlv.run import (
    ADAPTER,
    CHECKPOINTS,
    CONFIG,
    DATA,
    LOCK,
    MANIFEST,
    METRICS,
    NONFINITE,
    SAVE,
    SPLIT,
    Inputs,
    check_budget,
    check_folder,
    check_intact,
    check_manifest,
    event_of,
    ledger_of,
    ledger_path,
    manifest,
    name_in_ledger,
    split_marks,
)  # fmt: skip
from jaxlv.sinks import Sink, package_of
from jaxlv.stack import Stack, memory_of
from jaxlv.tokens import Windows, make_windows
from jaxlv.train import Batches, TrainState, fit, make_validation_step

LOOK_EVERY = 0.5  # seconds between two looks for a file `save`
NO_METER: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
VALIDATION_SEED = 1_000_000_007  # beside train.seed, so that validation windows are never an epoch's


@dataclass(frozen=True)
class Watch:
    """Who is told what while runs train; of several that train together, `on_step` hears the mean of the figures."""

    on_step: Callable[[int, dict[str, float]], None] = lambda step, figures: None
    note: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Job:
    """A run to be trained: its config, its folder, and what the config names."""

    config: RunConfig
    folder: Path
    inputs: Inputs


def train(
    config: RunConfig,
    folder: Path,
    inputs: Inputs,
    *,
    resume: bool = False,
    watch: Watch | None = None,
    versions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Train an overlay as `config` says, in `folder`; the best overlay.

    A new run's folder is made once everything is ready to begin, so that a fault of the inputs leaves nothing behind.
    With `resume` the run goes on from its newest intact checkpoint, and its losses and adapters are those of an
    uninterrupted run, bit for bit on one machine. A file named `save` in its folder asks for a checkpoint at the next step.
    SIGINT, SIGTERM and SIGUSR1 save and raise Interrupted. JaxlvError where the data, the base or the config are not those
    of the run, where another process trains in its folder, where a file of it is damaged, where the memory does not do, and
    where the loss is not finite: the checkpoints before it stay.
    """
    return train_together([Job(config, folder, inputs)], resume=resume, watch=watch, versions=versions)[0]


def train_together(
    jobs: Sequence[Job],
    *,
    resume: bool = False,
    watch: Watch | None = None,
    versions: Mapping[str, str] | None = None,
    memory: int = 0,
    at_once: int = 0,
) -> list[dict[str, Any]]:
    """Train runs that share a program (jaxlv.stack) as one; the best overlay of each.

    Each gets its own folder, batches, checkpoints and entries in the ledger, as if it had been trained alone. `at_once` of
    them are computed side by side (0 = all), or fewer where that is more than `memory` bytes hold (0 = not looked at). With
    `resume`, those whose folder is there go on from the newest step that all of them have. Where the budget does not hold
    the next step of all, all of them stop.
    """
    watch = watch or Watch()
    for job in jobs:
        check_budget(job.config, job.inputs.model)
    begun = [resume and (len(jobs) == 1 or (job.folder / CONFIG).is_file()) for job in jobs]
    for job, goes_on in zip(jobs, begun, strict=True):
        check_folder(job.config, job.folder, goes_on)
        if goes_on:
            check_manifest(job.folder, manifest(job.config, job.inputs, versions or {}))
        for sink in job.config.train.sinks:
            package_of(sink)
    training = _Training(jobs, watch, memory, at_once)
    for job, goes_on in zip(jobs, begun, strict=True):
        if not goes_on:
            _make_folder(job, versions or {})
    with contextlib.ExitStack() as opened:
        for job in jobs:
            opened.enter_context(only_process(job.folder / LOCK))
            remove_unfinished(job.folder)
            check_intact(job.folder)
        asked = opened.enter_context(Interrupts(watch.note))
        while True:
            try:
                return training.run(resume, asked)
            except _OutOfMemory as fault:
                jobs, resume = _halved(jobs, fault, watch), True
            training = _Training(jobs, watch, memory, at_once)


def _halved(jobs: Sequence[Job], fault: _OutOfMemory, watch: Watch) -> list[Job]:
    """The same runs with half the micro-batch, accumulated twice as often: the same sums; or the fault, where that is not
    wanted or not to be had.
    """
    t = jobs[0].config.train
    if not t.halve_on_oom or t.batch_size % 2:
        raise fault
    watch.note(f"out of memory: {t.batch_size // 2} windows at a time from here on, {2 * t.accumulate} times a step")
    batch, times = t.batch_size // 2, 2 * t.accumulate
    halved = [replace(job.config.train, batch_size=batch, accumulate=times) for job in jobs]
    return [replace(job, config=replace(job.config, train=own)) for job, own in zip(jobs, halved, strict=True)]


class _OutOfMemory(JaxlvError):
    """The train step does not fit into the device's memory."""


def _make_folder(job: Job, versions: Mapping[str, str]) -> None:
    """The folder of a new run, whole or not at all."""
    config, inputs = job.config, job.inputs
    with new_folder(job.folder) as folder:
        if not config.data.path:
            series.save(folder / DATA, inputs.series)
            inputs = replace(
                inputs, series=series.load(folder / DATA)
            )  # the same values, and the hash that a resume will see
        made_of = manifest(config, inputs, versions)
        (folder / MANIFEST).write_text(json.dumps(made_of, indent=1) + "\n", encoding="utf-8")
        shares = (f'"{name}": {json.dumps(marked)}' for name, marked in split_marks(inputs).items())
        (folder / SPLIT).write_text("{\n" + ",\n".join(shares) + "\n}\n", encoding="utf-8")
        (folder / CONFIG).write_text(to_toml(config), encoding="utf-8")
        seal(folder)


class _Texts:
    """The windows that a run trains on and is validated on, made when they are asked for."""

    def __init__(self, job: Job):
        self.config, self.inputs = job.config, job.inputs

    @staticmethod
    def key(job: Job) -> Any:
        """What runs with the same windows have in common."""
        c = job.config
        return c.data, c.codec, c.windows, c.train.seed, job.inputs.codec

    @functools.cached_property
    def batches(self) -> Batches:
        """The batch of any step."""
        t = self.config.train
        train_NTV = self.inputs.series.select(self.inputs.split.train).values_NTV
        return Batches(lambda epoch: self._windows(train_NTV, (t.seed, epoch)), t.batch_size, t.accumulate, t.seed)

    @functools.cached_property
    def validation_windows(self) -> Windows:
        """At most train.validation_windows windows of the validation series, without overlap, spread evenly."""
        config = self.config
        values_NTV = self.inputs.series.select(self.inputs.split.validation).values_NTV
        windows = self._windows(values_NTV, (config.train.seed, VALIDATION_SEED), config.windows.length)
        count = min(windows.number, config.train.validation_windows)
        return windows.rows(np.linspace(0, windows.number - 1, count).astype(int))

    def _windows(self, values_NTV: np.ndarray, seed: tuple[int, int], stride: int | None = None) -> Windows:
        return make_windows(values_NTV, self.inputs.codec, self.inputs.alphabet, self.config.windows, stride, seed)


class _Member:
    """One of the runs in progress: its log and checkpoints, and what it has come to."""

    def __init__(self, job: Job):
        self.config, self.folder, self.inputs = job.config, job.folder, job.inputs
        self.log = MetricsLog(self.folder / METRICS)
        self.total_tokens, self.total_seconds, self.skipped, self.best = 0.0, 0.0, 0.0, math.inf
        self.checkpoints: Checkpoints  # open while it trains
        self.meter: Meter | None = None
        self.block: Entry | None = None  # of steps, reserved and not yet committed

    def open(self, opened: contextlib.ExitStack, note: Callable[[str], None]) -> None:
        """Open what it writes to, until `opened` closes."""
        config = config_tree(self.config)
        self.log.sinks = [Sink(name, self.folder, config, note) for name in self.config.train.sinks]
        for sink in self.log.sinks:
            opened.callback(sink.close)
        self.checkpoints = opened.enter_context(Checkpoints(self.folder / CHECKPOINTS))
        self.checkpoints.remove_unfinished()
        if self.checkpoints.damaged:
            note(f"{self.folder.name}: {self.checkpoints.told()}")

    def resume_at(self, step: int, note: Callable[[str], None]) -> None:
        """Forget what lies behind a step."""
        self.log.keep(step)
        if step:
            facts = self.checkpoints.facts(step)
            self.total_tokens, self.total_seconds, self.skipped = (facts[name] for name in ("tokens", "seconds", "skipped"))
        marked = self.checkpoints.best()
        if marked and marked["step"] in self.checkpoints.steps():
            self.best = marked["value"]
        elif marked:
            note(f"{self.folder.name}: the best checkpoint, of step {marked['step']}, is lost: the next one counts as best")

    def save(self, step: int, state: TrainState, best: Mapping[str, Any] | None = None) -> None:
        """Save a state as a checkpoint."""
        facts = {"tokens": self.total_tokens, "seconds": self.total_seconds, "skipped": self.skipped}
        self.checkpoints.save(step, state, best, facts)

    def commit(self, step: int) -> None:
        """Of the block of steps that was reserved all up to `step` have run."""
        if self.meter is not None and self.block is not None:
            event = self.block.event
            self.meter.ledger.commit(self.block, replace(event, count=step - event.step))
            self.block = None


class _Training:
    """Runs in progress, one or several as one program: the step, and what is due after each."""

    def __init__(self, jobs: Sequence[Job], watch: Watch, memory: int = 0, at_once: int = 0):
        self.members, self.watch = [_Member(job) for job in jobs], watch
        self.config, inputs = jobs[0].config, jobs[0].inputs  # what the runs have in common
        alphabet = _alphabet_of(self.config, inputs)
        texts: dict[Any, _Texts] = {}  # runs that read the same windows share them
        self.texts = [texts.setdefault(_Texts.key(job), _Texts(job)) for job in jobs]
        self.stack = Stack(
            inputs.model,
            inputs.params,
            [job.config for job in jobs],
            None if alphabet is None else np.array(alphabet),
            [job.inputs.start for job in jobs],
        )
        first = self._batch(0)  # made now, so that series which give no window are refused before a folder is made
        self.step = self.stack.fitted(first, memory, at_once) if memory else self.stack.step(at_once)
        self.validation_step = _validation_step(inputs.model, alphabet)
        self.asked = Interrupts()
        self.looked, self.on_demand = time.monotonic(), 0  # when a file `save` was looked for; the step that it asked for

    def run(self, resume: bool, asked: Interrupts) -> list[dict[str, Any]]:
        self.asked, t = asked, self.config.train
        with contextlib.ExitStack() as opened:
            self._open_ledgers(opened)
            for member in self.members:
                member.open(opened, self.watch.note)
            state, alike = (
                self.stack.state,
                [_abstract(self.stack.member(self.stack.state, i)) for i in range(len(self.stack))],
            )
            if resume:
                state = self._restored(state, alike)
            shapes = _abstract((state, self.stack.frozen))
            try:
                state = fit(
                    self.step, state, self.stack.frozen, self._batch, t.steps, self._on_step, self._on_state,
                    self._report_first, self._admit,
                )  # fmt: skip
            except jax.errors.JaxRuntimeError as fault:
                if "RESOURCE_EXHAUSTED" not in str(fault):
                    raise
                raise self._out_of_memory(shapes) from None
            if int(state.step.min()) < t.steps:
                self._stop_early(state)
            return [self._finished(i, state, like) for i, like in enumerate(alike)]

    def _out_of_memory(self, shapes: Any) -> _OutOfMemory:
        """What a step needs, by XLA's own plan of it, and the settings that make it less."""
        t, length = self.config.train, self.config.windows.length
        try:
            compiled = self.stack.step().lower(*shapes, self._batch(0)).compile()
            needed = f", about {memory_of(compiled) / 2**30:.2f} GiB by XLA's plan"
        except jax.errors.JaxRuntimeError:
            needed = ""
        runs = f"{len(self.members)} runs of " if len(self.members) > 1 else ""
        return _OutOfMemory(
            "out of memory in the train step",
            where=self.members[0].folder,
            found=f"{runs}{t.batch_size} windows of {length} tokens{needed}",
            hint="lower train.batch_size (raise train.accumulate) or windows.length, or set train.halve_on_oom = true or "
            'model.dtype = "bfloat16"; checkpoints are intact: go on with --resume',
        )

    def _open_ledgers(self, opened: contextlib.ExitStack) -> None:
        """Give each member with a budget its meter; runs that share a ledger share the open file."""
        ledgers: dict[Path, Ledger] = {}
        for member in self.members:
            config, path = member.config, ledger_path(member.config, member.folder)
            if not config.budget.flops:
                continue
            if path not in ledgers:
                ledger = opened.enter_context(ledger_of(config, member.folder, member.inputs.model))
                assert ledger is not None
                ledgers[path] = ledger
            member.meter = Meter(ledgers[path], config.budget.phase, event_of(config), name_in_ledger(config, member.folder))

    def _restored(self, state: TrainState, alike: Sequence[Any]) -> TrainState:
        """The state of the newest step that all members have a checkpoint of; the first one where there is none."""
        common = set.intersection(*(set(member.checkpoints.steps()) for member in self.members))
        damaged = [member for member in self.members if member.checkpoints.damaged]
        if damaged and not common:
            raise JaxlvError(
                "no intact checkpoint to go on from", where=damaged[0].folder, found=damaged[0].checkpoints.told(),
                hint="restore one, or delete checkpoints/ to begin at step 0",
            )  # fmt: skip
        if damaged:
            self.watch.note(f"going on from step {max(common)}")
        if common:
            restored = (m.checkpoints.restore(max(common), like) for m, like in zip(self.members, alike, strict=True))
            state = self.stack.join(list(restored))
        for member in self.members:
            member.resume_at(max(common, default=0), self.watch.note)
        return state

    def _finished(self, index: int, state: TrainState, like: Any) -> dict[str, Any]:
        """The best overlay of a run, which is written as an adapter too."""
        member = self.members[index]
        marked = member.checkpoints.best()
        if marked is not None and marked["step"] not in member.checkpoints.steps():
            marked = None
        own = self.stack.member(state, index) if marked is None else member.checkpoints.restore(marked["step"], like)
        lora = overlay.join(own.trained, self.stack.frozen_of(index))["lora"]
        origin = adapters.Origin(member.config.model.path, hub_revision(member.inputs.base), member.inputs.codec)
        adapters.save_peft(member.folder / ADAPTER, lora, member.config.lora, origin)
        return lora

    def _batch(self, step: int) -> Windows:
        return self.stack.batch([text.batches(step) for text in self.texts])

    # ----------------------------------------------------------------------------------------- the budget

    def _admit(self, step: int) -> bool:
        """Shall there be another step, and do the budgets hold it? A block of steps is reserved at once, up to the next that
        is due.
        """
        if self.asked.asked:
            return False
        t, metered = self.config.train, [member for member in self.members if member.meter is not None]
        if not metered or metered[0].block is not None:
            return True
        ends = (n for n in range(step + 1, t.steps + 1) if n % t.log_every == 0 or self._due(n))
        count = next(ends) - step
        blocks: dict[tuple[int, str], list[tuple[_Member, Event]]] = {}  # by what they are paid from
        for member in metered:
            assert member.meter is not None
            purse = id(member.meter.ledger), member.meter.phase
            blocks.setdefault(purse, []).append((member, member.meter.event("train_step", step=step, count=count)))
        for group in blocks.values():
            meter = group[0][0].meter
            assert meter is not None
            count = min(count, meter.ledger.fitting([event for _, event in group], meter.phase))
        for member, event in [pair for group in blocks.values() for pair in group] if count else []:
            assert member.meter is not None
            member.block = member.meter.ledger.reserve(replace(event, count=count), member.meter.phase, member.meter.run)
        return count > 0

    def _ends_block(self, step: int) -> bool:
        blocks = (member.block for member in self.members)
        return any(block is not None and step == block.event.step + block.event.count for block in blocks)

    def _stop_early(self, state: TrainState) -> None:
        """The budget is spent, or a signal came: keep the states, and say what has come of it. Raises Interrupted."""
        step = int(state.step.min())
        for index, member in enumerate(self.members):
            if step:
                member.commit(step)
                member.save(step, self.stack.member(state, index))
        if self.asked.asked:
            for member in self.members:
                member.checkpoints.wait()
            raise Interrupted(self.asked.asked, f"saved at step {step} of {self.config.train.steps}; go on with --resume")
        meter = next(member.meter for member in self.members if member.meter is not None)
        self.watch.note(f"stopped by the budget after step {step} of {self.config.train.steps}; {meter.ledger.bought()}")

    # ------------------------------------------------------------------------------------- after each step

    def _due(self, step: int) -> bool:
        """Is the state of this step validated or saved?"""
        t = self.config.train
        return step == t.steps or step % t.checkpoint_every == 0 or (t.validate_every > 0 and step % t.validate_every == 0)

    def _report_first(self, step: int) -> bool:
        """Must the figures of a step be known before its state is looked at?"""
        now = time.monotonic()
        if now - self.looked > LOOK_EVERY:
            self.looked = now
            if any((member.folder / SAVE).exists() for member in self.members):
                self.on_demand = step
        return self._due(step) or self._ends_block(step) or step == self.on_demand

    def _on_step(self, step: int, figures: dict[str, Any]) -> None:
        ends_block = self._ends_block(step)
        logged = step % self.config.train.log_every == 0 or step == 1 or self._due(step) or ends_block
        of_each = [
            {name: float(np.atleast_1d(value)[i]) for name, value in figures.items()} for i in range(len(self.members))
        ]
        finite = [math.isfinite(own["loss"]) and math.isfinite(own["gradient_norm"]) for own in of_each]
        for index, (own, fine) in enumerate(zip(of_each, finite, strict=True)):
            if not fine:
                self._not_finite(index, step, own)
        for member, own in zip(self.members, of_each, strict=True):
            if ends_block:
                member.commit(step)
            member.total_tokens += own["tokens"]
            member.total_seconds += own["seconds"]
        mean = {name: float(np.mean(value)) for name, value in figures.items()}
        self.watch.on_step(step, mean | {"tokens_per_second": float(np.sum(figures["tokens"]) / np.sum(figures["seconds"]))})
        for member, own, fine in zip(self.members, of_each, finite, strict=True):
            if logged or not fine:
                totals = {"total_tokens": member.total_tokens, "total_seconds": member.total_seconds}
                known = (
                    own if fine else {name: value for name, value in own.items() if math.isfinite(value)} | {"skipped": 1}
                )
                member.log.add({"step": step, **known, **totals})

    def _not_finite(self, index: int, step: int, own: Mapping[str, float]) -> None:
        """Keep the batch of a step whose loss or gradient is not finite; JaxlvError where it may not be skipped."""
        member, most = self.members[index], self.config.train.skip_nonfinite
        path = member.folder / NONFINITE / f"step_{step}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **self.texts[index].batches(step - 1)._asdict())
        member.skipped += 1
        found = f"loss {own['loss']}, gradient norm {own['gradient_norm']}"
        if member.skipped > most:
            again = f", after {most} that were skipped" if most else ""
            raise JaxlvError(
                f"the loss or the gradient is not finite at step {step}{again}",
                where=member.folder,
                found=found,
                hint="lower optimizer.learning_rate or set optimizer.clip_norm; earlier checkpoints are intact, "
                f"its batch is in {NONFINITE}/{path.name}",
            )
        self.watch.note(f"{member.folder.name}: step {step} is skipped ({found}); its batch is in {NONFINITE}/{path.name}")

    def _on_state(self, step: int, state: TrainState) -> None:
        if not self._due(step) and step != self.on_demand:
            return
        t, last = self.config.train, step == self.config.train.steps
        validates = t.validate_every and (step % t.validate_every == 0 or last)
        records: list[dict[str, float] | None] = [None] * len(self.members)
        if validates:
            records = [self._measures(member, index, step, state) for index, member in enumerate(self.members)]
            self._tell(step, [record for record in records if record])
        for index, (member, record) in enumerate(zip(self.members, records, strict=True)):
            best = self._mark(member, step, record) if record else None
            if step % t.checkpoint_every == 0 or last or best or step == self.on_demand:
                member.save(step, self.stack.member(state, index), best)
        if step == self.on_demand:
            for member in self.members:
                member.checkpoints.wait()
                (member.folder / SAVE).unlink(missing_ok=True)
            self.watch.note(f"saved at step {step}, as asked")

    def _tell(self, step: int, records: Sequence[Mapping[str, float]]) -> None:
        """Say what a validation has found: of several runs the least and the most."""
        values = {key: [record[key] for record in records] for key in records[0]} if records else {}
        shown = [
            f"{key.replace('_', ' ')} {min(of):.4g}" + (f" to {max(of):.4g}" if len(of) > 1 else "")
            for key, of in values.items()
        ]
        if shown:
            self.watch.note(f"step {step}: {', '.join(shown)}")

    def _mark(self, member: _Member, step: int, record: dict[str, float]) -> dict[str, Any] | None:
        """Log the measures of a member's state; the mark of the best, where it is that."""
        member.log.add({"step": step, **record})
        select = self.config.train.select
        value = record["forecast_mae" if select == "forecast" else "validation_loss"]
        if not value < member.best:  # nor what is not finite
            return None
        member.best = value
        return {"value": value, "measure": select}

    def _measures(self, member: _Member, index: int, step: int, state: TrainState) -> dict[str, float] | None:
        """The measures of a state; None where the budget does not hold them."""
        windows, meter = self.texts[index].validation_windows, member.meter
        batches = -(-windows.number // self.config.train.batch_size)
        own, frozen = self.stack.member(state, index, padded=True), self.stack.frozen_of(index)
        try:
            with meter.spend("validation", count=batches, step=step, accumulate=1) if meter else NO_METER:
                record = _losses(self.validation_step, own.trained, frozen, windows, self.config.train)
            if self.config.train.forecast_series:
                lora = overlay.join(own.trained, frozen)["lora"]
                own_meter = meter and replace(meter, template=replace(meter.template, step=step, accumulate=1))
                record["forecast_mae"] = _forecast_error(member.config, member.inputs, lora, own_meter)
        except BudgetExceeded as fault:
            name = f"{member.folder.name}, " if len(self.members) > 1 else ""
            self.watch.note(f"{name}step {step}: not validated; {fault}")
            return None
        return record


def _alphabet_of(config: RunConfig, inputs: Inputs) -> tuple[int, ...] | None:
    """The ids over which the loss is normalised; None = the whole vocabulary."""
    return tuple(inputs.alphabet.ids_A.tolist()) if config.model.loss == "alphabet" else None


@functools.lru_cache(maxsize=8)
def _validation_step(model: Qwen2, alphabet: tuple[int, ...] | None) -> Callable:
    """`make_validation_step`, one for a model: what was compiled for a shape serves every run of it."""
    return make_validation_step(model, None if alphabet is None else np.array(alphabet))


def _losses(step: Callable, trained: Any, frozen: Any, windows: Windows, t: TrainConfig) -> dict[str, float]:
    """Cross-entropy (nats per token) and perplexity of windows, a batch at a time, by the step of make_validation_step."""
    total = tokens = means = 0.0
    for first in range(0, windows.number, t.batch_size):
        rows = np.arange(first, min(first + t.batch_size, windows.number))
        batch = windows.rows(np.resize(rows, t.batch_size))
        batch.labels_ML[len(rows) :] = -1  # a short batch is filled, and the filling is not counted
        loss, count = map(float, step(trained, frozen, batch))
        total, tokens, means = total + loss, tokens + count, means + loss / count
    mean = means / windows.number if t.mean == "examples" else total / tokens
    return {"validation_loss": mean, "validation_perplexity": math.exp(min(mean, 700.0))}


def _forecast_error(config: RunConfig, inputs: Inputs, lora: Mapping[str, Any], meter: Meter | None) -> float:
    """MAE (raw units) of greedy forecasts of the first validation series, from the steps that the config names."""
    t = config.train
    chosen = inputs.series.select(inputs.split.validation[: t.forecast_series])
    context = t.forecast_context or config.evaluate.context
    horizon = min(t.forecast_horizon or config.evaluate.horizon, chosen.values_NTV.shape[1] - context)
    greedy = inputs.forecaster(lora, config, meter).with_sampling(temperature=0.0)
    forecast = greedy(chosen, context, horizon, 1, batch_series=len(chosen))
    return float(metrics.mae(forecast.median(), chosen.values_NTV[:, context : context + horizon]).mean())


def validated(
    config: RunConfig, inputs: Inputs, lora: Mapping[str, Any] | None = None, meter: Meter | None = None
) -> dict[str, float]:
    """What a validation under `config` says of an overlay, or of the base alone: loss (nats per token), perplexity, and the
    forecasts' MAE (raw units) where the config has some. A meter is asked first.
    """
    windows = _Texts(Job(config, Path(), inputs)).validation_windows
    frozen = {"params": inputs.params, "lora": dict(lora or {})}
    batches = -(-windows.number // config.train.batch_size)
    with meter.spend("validation", count=batches, accumulate=1) if meter else NO_METER:
        record = _losses(_validation_step(inputs.model, _alphabet_of(config, inputs)), None, frozen, windows, config.train)
    if config.train.forecast_series:
        own_meter = meter and replace(meter, template=replace(meter.template, accumulate=1))
        record["forecast_mae"] = _forecast_error(config, inputs, lora or {}, own_meter)
    return record


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)
