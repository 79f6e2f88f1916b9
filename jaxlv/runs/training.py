"""Training of runs, one or several that share a program: batches, validations, checkpoints, and what pays for each step."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlv import processes
from jaxlv.activity import compiling
from jaxlv.config import RunConfig
from jaxlv.errors import JaxlvError, NotFinite
from jaxlv.flops.ledger import BudgetExceeded
from jaxlv.lora import adapters, overlay
from jaxlv.memory import free as free_memory
from jaxlv.model import placement
from jaxlv.runs.billing import check_begins, check_budget, ledger_path
from jaxlv.runs.interrupts import Interrupted, Interrupts
from jaxlv.runs.member import Job, Member, is_finite, open_ledgers, reserve
from jaxlv.runs.run import ADAPTER, CONFIG, LOCK, SAVE, check_folder, check_intact, check_manifest, make_folder, manifest
from jaxlv.runs.sinks import package_of
from jaxlv.runs.sources import Inputs
from jaxlv.runs.validation import Texts, alphabet_of, measured
from jaxlv.steps import needs
from jaxlv.steps.stack import Stack, memory_of, room_of
from jaxlv.steps.train import Step, TrainState, steps
from jaxlv.storage.door import is_there
from jaxlv.storage.files import Watched, only_process, remove_unfinished
from jaxlv.storage.foreign import hub_revision
from jaxlv.text.tokens import Windows

LOOK_EVERY = 0.5  # seconds between two looks for a file `save`
BLOCKS = 100  # reservations of a run's steps, at least: a kill leaves at most two of them uncertain


@dataclass(frozen=True)
class Watch:
    """Callbacks while runs train. If several train together, `on_step(step, figures)` gets the mean of their figures."""

    on_step: Callable[[int, dict[str, float]], None] = lambda step, figures: None
    note: Callable[[str], None] = lambda text: None


def train(
    config: RunConfig,
    folder: Path,
    inputs: Inputs,
    *,
    resume: bool = False,
    watch: Watch | None = None,
    versions: Mapping[str, str] | None = None,
) -> overlay.Tree:
    """Trains an overlay as `config` says, in `folder`, and returns the best one.

    A new run's folder is made once everything is ready to begin, so that faulty inputs leave nothing behind. With `resume`
    the run goes on from its newest intact checkpoint, and its losses and adapters are those of an uninterrupted run, bit
    for bit on one machine. A file named `save` in its folder asks for a checkpoint at the next step. SIGHUP, SIGINT,
    SIGTERM and SIGUSR1 save and raise Interrupted. Raises JaxlvError if the data, the base or the config are not those of
    the run, if another process trains in its folder, if a file there is damaged or the folder is gone, if the run does not
    fit in memory, and if the loss is not finite; earlier checkpoints stay.
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
) -> list[overlay.Tree]:
    """Trains runs that share a program (jaxlv.steps.stack) as one, and returns the best overlay of each.

    Each gets its own folder, batches, checkpoints and entries in the ledger, as if it had been trained alone. `at_once` of
    them are computed side by side (0: all), or as many as `memory` bytes hold if that is fewer (0: not checked). With
    `resume`, those whose folder exists go on from the newest step that all of them have. If the budget does not hold the
    next step of all, all of them stop.
    """
    watch = watch or Watch()
    needs.check_training([job.config for job in jobs], jobs[0].inputs.model)
    for job in jobs:
        check_budget(job.config, job.inputs.model, max(one.config.lora.rank for one in jobs))
    begun = [resume and (len(jobs) == 1 or is_there(job.folder / CONFIG)) for job in jobs]
    for job, goes_on in zip(jobs, begun, strict=True):
        check_folder(job.config, job.folder, goes_on)
        if goes_on:
            check_manifest(job.folder, manifest(job.config, job.inputs, versions or {}))
        for sink in job.config.train.sinks:
            package_of(sink)
    training = _Training(jobs, watch, memory, at_once)
    new = [job for job, goes_on in zip(jobs, begun, strict=True) if not goes_on]
    for job in {ledger_path(job.config, job.folder): job for job in new}.values():
        check_begins(job.config, job.folder, job.inputs.model)
    for job, goes_on in zip(jobs, begun, strict=True):
        if not goes_on:
            make_folder(job.config, job.folder, job.inputs, versions or {})
    with contextlib.ExitStack() as opened:
        places = opened.enter_context(Watched())
        for job in jobs:
            places.add(job.folder)
            places.add(job.folder / LOCK, opened.enter_context(only_process(job.folder / LOCK)))
            remove_unfinished(job.folder.parent, job.folder.name)
            remove_unfinished(job.folder)
            check_intact(job.folder)
        # With several processes SIGTERM is JAX's, which has all of them stop after the same step.
        asked = opened.enter_context(Interrupts(watch.note, (signal.SIGTERM,) if processes.count() > 1 else ()))
        way_on = f"go on with --resume {jobs[0].folder.name}"
        opened.enter_context(processes.watched(jobs[0].config.mesh.patience, way_on))
        try:
            while True:
                try:
                    return training.run(resume, asked, places)
                except _OutOfMemory as fault:
                    jobs, resume = _halved(jobs, fault, watch), True
                training = _Training(jobs, watch, memory, at_once)
        except (JaxlvError, OSError):
            places.check()  # what is gone explains what could not be written
            raise


def _halved(jobs: Sequence[Job], fault: _OutOfMemory, watch: Watch) -> list[Job]:
    """Returns the same runs with half the micro-batch, accumulated twice as often: the same sums. Raises the fault if that
    is not wanted, or not possible: each device of the axis "data" needs a window.
    """
    t, devices = jobs[0].config.train, placement.size(jobs[0].inputs.model.mesh)
    if not fault.everywhere or not t.halve_on_oom or t.batch_size % (2 * devices):
        raise fault
    watch.note(f"out of memory: {t.batch_size // 2} windows at a time from here on, {2 * t.accumulate} times a step")
    batch, times = t.batch_size // 2, 2 * t.accumulate
    halved = [replace(job.config.train, batch_size=batch, accumulate=times) for job in jobs]
    return [replace(job, config=replace(job.config, train=own)) for job, own in zip(jobs, halved, strict=True)]


class _OutOfMemory(JaxlvError):
    """The train step does not fit into the device's memory."""

    everywhere = True  # in every process, so that none waits for another one


class _Training:
    """Runs in progress, one or several as one program: the step, and what is due after each."""

    def __init__(self, jobs: Sequence[Job], watch: Watch, memory: int = 0, at_once: int = 0):
        self.members, self.watch = [Member(job, watch.note) for job in jobs], watch
        self.config, inputs = jobs[0].config, jobs[0].inputs  # what the runs have in common
        texts: dict[Any, Texts] = {}  # runs that read the same windows share them
        self.texts = [texts.setdefault(one.key, one) for one in (Texts(job.config, job.inputs) for job in jobs)]
        alphabet = alphabet_of(self.config, inputs)
        self.stack = Stack(
            inputs.model,
            inputs.params,
            [job.config for job in jobs],
            None if alphabet is None else np.array(alphabet),
            [job.inputs.start for job in jobs],
            needs.logits(self.config, inputs.model, len(jobs)),
        )
        first = self._batch(0)  # made now, so that series which give no window are refused before a folder is made
        self.at_once, self.fitted = at_once, self.stack.fitted(first, memory, at_once) if memory else None
        self.looked = time.monotonic()  # when the folders were, and a file `save`

    def run(self, resume: bool, asked: Interrupts, places: Watched) -> list[overlay.Tree]:
        """Trains to the last step, a signal or the end of the budget, and returns the best overlay of each run. Raises
        JaxlvError if one of `places` is no longer what it was.
        """
        self.asked, self.places = asked, places
        with contextlib.ExitStack() as opened:
            open_ledgers(self.members, opened)
            for member in self.members:
                member.open(opened)
                places.add(member.checkpoints.folder)
            state = self.stack.state
            alike = [_abstract(self.stack.member(state, i)) for i in range(len(self.stack))]
            if resume:
                state = self._restored(state, alike)
            shapes = _abstract((state, self.stack.frozen), self.stack.model.mesh is not None)
            try:
                if self._goes_on(int(state.step.min())):
                    state = self._train(state)
            except jax.errors.JaxRuntimeError as fault:
                if "RESOURCE_EXHAUSTED" not in str(fault):
                    raise
                everywhere = not self.config.train.halve_on_oom or processes.all_failed()
                raise self._out_of_memory(shapes, everywhere) from None
            if int(state.step.min()) < self.config.train.steps:
                self._stop_early(state)
            places.check()
            for member in self.members:  # before the first adapter: a run without one goes on from its last step, not before
                member.checkpoints.wait()
            finished = [self._finished(i, state, like) for i, like in enumerate(alike)]
            places.check()
            return finished

    def _train(self, state: TrainState) -> TrainState:
        """Takes step after step and does what is due after each, in this order; returns the state after the last one.

        The figures of a step are read while the next one runs, so that the host never holds up the device; but no state is
        validated or saved, and no block of steps committed, before its figures are known. The next block is reserved while
        the last step of this one runs.
        """
        running: Step | None = None  # whose figures have not been read
        with compiling("the train step", id(self.stack)):
            take = self._ready(state)
        for step in steps(take, state, self.stack.frozen, self._batch, self.config.train.steps):
            number, state = step.number, step.state
            if running:
                self._report(running)
            running, on_demand = step, self._is_save_asked()
            validates, saves = self._due(number, on_demand)
            if validates or saves:
                self._report(step)
                running = None
            if validates or saves:
                self.places.check()
            best = self._validate(number, state) if validates else set()
            for index, member in enumerate(self.members):
                if saves or index in best:
                    member.save(number, self.stack.member(state, index))
            if on_demand:
                for member in self.members:
                    member.checkpoints.wait()
                    (member.folder / SAVE).unlink(missing_ok=True)
                self.watch.note(f"saved at step {number}, as asked")
            if not self._goes_on(number):
                break
        if running:
            self._report(running)
        return state

    def _ready(self, state: TrainState) -> Any:
        """Returns the step of all. Several processes compile it here, and all of them raise JaxRuntimeError if one lacks the
        memory: none has launched it then, so none waits for another.
        """
        lacking, take = None, self.fitted
        try:
            take = take or self.stack.kept_step(state, self._batch(0), self.at_once)
            if processes.count() > 1 and room_of(take) > free_memory():
                lacking = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: by XLA's plan")
        except jax.errors.JaxRuntimeError as fault:
            if "RESOURCE_EXHAUSTED" not in str(fault):
                raise
            lacking = fault
        if processes.any_of(lacking is not None):
            raise lacking or jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: in another process")
        return take

    def _batch(self, step: int) -> Windows:
        return self.stack.batch([text.batches(step) for text in self.texts])

    def _out_of_memory(self, shapes: Any, everywhere: bool) -> _OutOfMemory:
        """Returns the error that says what a step needs, by XLA's own plan, and which settings lower that."""
        t, length = self.config.train, self.config.windows.length
        try:
            compiled = self.stack.step().lower(*shapes, self._batch(0)).compile()
            needed = f", about {memory_of(compiled) / 2**30:.2f} GiB by XLA's plan"
        except jax.errors.JaxRuntimeError:
            needed = ""
        runs = f"{len(self.members)} runs of " if len(self.members) > 1 else ""
        fault = _OutOfMemory(
            "out of memory in the train step" + ("" if everywhere else " of this process, while others were within it"),
            where=self.members[0].folder,
            found=f"{runs}{t.batch_size} windows of {length} tokens{needed}",
            hint="lower train.batch_size (raise train.accumulate) or windows.length, or set train.halve_on_oom = true or "
            'model.dtype = "bfloat16"; checkpoints are intact: go on with --resume',
        )
        fault.everywhere = everywhere
        return fault

    # ---------------------------------------------------------------------------------- where it begins and ends

    def _restored(self, state: TrainState, alike: Sequence[Any]) -> TrainState:
        """Returns the state of the newest step of which all members have a checkpoint; the first state if there is no such
        step.
        """
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
            member.resume_at(max(common, default=0))
        return state

    def _goes_on(self, step: int) -> bool:
        """Tells whether another step follows this one: nobody asked for the end, and the budgets hold it. A block of steps
        is reserved at once, up to the next one that is due or logged, and never more than a share of the run.
        """
        t, metered = self.config.train, [member for member in self.members if member.meter is not None]
        if self._is_end_asked(step) or step >= t.steps:
            return False
        if all(member.is_paid(step + 1) for member in metered):
            return True
        self.places.check()
        ends = (n for n in range(step + 1, t.steps + 1) if n % t.log_every == 0 or any(self._due(n)))
        return reserve(metered, step, min(next(ends) - step, max(1, t.steps // BLOCKS)))

    def _is_end_asked(self, step: int) -> bool:
        """Tells whether a process was sent a signal after which all of them end."""
        if processes.count() > 1:
            if self.asked.asked:
                processes.asked(self.asked.asked)
            preempted = signal.SIGTERM if processes.preempted(step) else 0
            self.asked.asked = processes.agreed(self.asked.asked or next(iter(processes.signals()), 0) or preempted)
        return bool(self.asked.asked)

    def _stop_early(self, state: TrainState) -> None:
        """Saves the states after a signal or the end of the budget, and says what was reached. Raises Interrupted after a
        signal.
        """
        step = int(state.step.min())
        for index, member in enumerate(self.members):
            if step:
                member.commit(step, ended=True)
                member.log_last()
                member.save(step, self.stack.member(state, index))
        if self.asked.asked:
            for member in self.members:
                member.checkpoints.wait()
            self.places.check()
            processes.end_together()
            done = f"saved at step {step} of {self.config.train.steps}" if step else "before the first step"
            raise Interrupted(self.asked.asked, f"{done}; go on with --resume")
        meter = next(member.meter for member in self.members if member.meter is not None)
        self.watch.note(f"stopped by the budget after step {step} of {self.config.train.steps}; {meter.ledger.bought()}")

    def _finished(self, index: int, state: TrainState, like: Any) -> overlay.Tree:
        """Returns the best overlay of a run, and writes it as an adapter."""
        member = self.members[index]
        marked = member.checkpoints.best()
        if marked is not None and marked.step not in member.checkpoints.steps():
            marked = None
        own = self.stack.member(state, index) if marked is None else member.checkpoints.restore(marked.step, like)
        lora = overlay.join(own.trained, self.stack.frozen_of(index))["lora"]
        origin = adapters.Origin(member.config.model.path, hub_revision(member.inputs.base), member.inputs.codec)
        adapters.save_peft(member.folder / ADAPTER, lora, member.config.lora, origin)
        return lora

    # ------------------------------------------------------------------------------------------ after each step

    def _due(self, step: int, on_demand: bool = False) -> tuple[bool, bool]:
        """Tells whether the state of this step is validated, and whether it is saved whatever the validation finds."""
        t, last = self.config.train, step == self.config.train.steps
        held = len(self.members[0].inputs.split.validation) > 0
        validates = held and t.validate_every > 0 and (step % t.validate_every == 0 or last)
        return validates, step % t.checkpoint_every == 0 or last or on_demand

    def _is_save_asked(self) -> bool:
        """Tells, each half second, whether a file asks for a checkpoint. Raises JaxlvError if a folder is gone."""
        now, found = time.monotonic(), False
        if now - self.looked > LOOK_EVERY:
            self.looked = now
            self.places.check()
            found = any((member.folder / SAVE).exists() for member in self.members)
        return processes.agreed(found)

    def _report(self, step: Step) -> None:
        """Waits for a step; tells and writes its figures, and commits the block of steps that it ends."""
        processes.beat()
        number, figures, count = step.number, step.figures(), len(self.members)
        logged = number % self.config.train.log_every == 0 or number == 1 or any(self._due(number))
        of_each = [{name: float(np.atleast_1d(value)[i]) for name, value in figures.items()} for i in range(count)]
        for index, own in enumerate(of_each):
            if not is_finite(own):
                self.members[index].skip(number, own, self.texts[index].batches(number - 1))
        mean = {name: float(np.mean(value)) for name, value in figures.items()}
        mean["tokens_per_second"] = float(np.sum(figures["tokens"]) / np.sum(figures["seconds"]))
        self.watch.on_step(number, mean)
        for member, own in zip(self.members, of_each, strict=True):
            member.commit(number)
            member.log_step(number, own, logged)

    def _validate(self, step: int, state: TrainState) -> set[int]:
        """Measures the state of each run, tells and logs it. Returns the places of the runs whose best state this is."""
        records = [self._measures(member, index, step, state) for index, member in enumerate(self.members)]
        self._tell(step, [record for record in records if record])
        marked = zip(self.members, records, strict=True)
        best = [index for index, (member, record) in enumerate(marked) if record and member.mark(step, record)]
        return set(processes.agreed(best))

    def _tell(self, step: int, records: Sequence[Mapping[str, float]]) -> None:
        """Tells what a validation has found; for several runs the least and the most."""
        values = {key: [record[key] for record in records] for key in records[0]} if records else {}
        shown = [
            f"{key.replace('_', ' ')} {min(of):.4g}" + (f" to {max(of):.4g}" if len(of) > 1 else "")
            for key, of in values.items()
        ]
        if shown:
            self.watch.note(f"step {step}: {', '.join(shown)}")

    def _measures(self, member: Member, index: int, step: int, state: TrainState) -> dict[str, float] | None:
        """Returns the measures of a state; None if the budget does not hold them. Raises NotFinite if one is not finite."""
        own, frozen = self.stack.member(state, index, padded=True), self.stack.frozen_of(index)
        meter = member.meter and replace(member.meter, template=replace(member.meter.template, step=step))
        try:
            return measured(self.texts[index], own.trained, frozen, meter)
        except NotFinite as fault:
            raise NotFinite(fault.numbers, f"{member.folder}, step {step}, {fault.where}") from None
        except BudgetExceeded as fault:
            name = f"{member.folder.name}, " if len(self.members) > 1 else ""
            self.watch.note(f"{name}step {step}: not validated; {fault}")
            return None


def _abstract(tree: Any, placed: bool = False) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding if placed else None), tree)
