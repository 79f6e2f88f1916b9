"""A run is a folder: what a config names is loaded, an overlay is trained, and everything that came of it lies in one place.

config.toml      the resolved settings            metrics.jsonl   losses, norms, speed, validation: append-only
manifest.json    versions, hashes, seeds, device  checkpoints/    adapters, optimiser, step, keys: never the base
split.json       ids and marks of the series      adapter/        the best adapter, in PEFT's format
data.h5          the series, where simulated      ledger.jsonl    what was spent, where a budget is set
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlv import adapters, dynamics, metrics, series
from jaxlv import lora as overlay
from jaxlv.checkpoint import Checkpoints
from jaxlv.codec import Codec
from jaxlv.config import DataConfig, RunConfig, config_tree, load_config, to_toml
from jaxlv.errors import JaxlvError
from jaxlv.forecast import Forecaster
from jaxlv.ledger import FINAL, BudgetExceeded, Entry, Event, Ledger, Meter, Terms
from jaxlv.model import Qwen2
from jaxlv.records import MetricsLog, read_metrics
from jaxlv.series import SeriesSet, Split
from jaxlv.stack import Stack
from jaxlv.tokens import Alphabet, Windows, load_alphabet, make_windows
from jaxlv.train import Batches, TrainState, fit, init_state, make_optimizer, make_validation_step
from jaxlv.weights import fingerprint, hub_revision, load_pretrained, resolve

CONFIG, MANIFEST, SPLIT, METRICS = "config.toml", "manifest.json", "split.json", "metrics.jsonl"
DATA, ADAPTER, LEDGER = "data.h5", "adapter", "ledger.jsonl"
NO_METER: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
VALIDATION_SEED = 1_000_000_007  # beside train.seed, so that validation windows are never an epoch's


# ------------------------------------------------------------------------------------------------ inputs


@dataclass(frozen=True)
class Inputs:
    """What a config names, loaded: the series and their split, the base, its alphabet, and the codec."""

    series: SeriesSet
    split: Split
    base: Path
    model: Qwen2
    params: dict[str, Any]
    alphabet: Alphabet
    codec: Codec

    def forecaster(self, lora: Mapping[str, Any], config: RunConfig, meter: Meter | None = None) -> Forecaster:
        """The base with the overlay laid over it, as a forecaster."""
        return Forecaster(
            self.model, {"params": self.params, "lora": dict(lora)}, self.alphabet, self.codec, config.sampling, meter
        )


def load_series(config: RunConfig, folder: Path | None = None) -> SeriesSet:
    """The series of a config: its file, or a run folder's own simulated ones, or new ones from the preset."""
    if config.data.path:
        return series.load(config.data.path)
    if folder is not None and (folder / DATA).is_file():
        return series.load(folder / DATA)
    return dynamics.draw(config.data.preset, config.data.simulate, config.data.seed)


def split_series(config: RunConfig, series_set: SeriesSet) -> Split:
    """Train, validation and test ids: as listed, within regimes, as a report has it, or by fraction; a series never stands
    in two of them.
    """
    data, ids = config.data, series_set.ids_N
    if data.train_ids or data.validation_ids or data.test_ids:
        split = series.split_ids(ids, data.train_ids, data.validation_ids, data.test_ids)
    elif data.stratify:
        split = series.split_stratified(ids, series.regimes(series_set), data.fractions, data.seed)
    elif data.split != "fractions":
        split = series.REPORTED_SPLITS[data.split](ids)
    else:
        split = series.split_fraction(ids, data.fractions, data.seed)
    series.check_disjoint(series_set, split)
    if data.train_share == 1:
        return split
    return replace(split, train=split.train[: max(1, round(data.train_share * len(split.train)))])


def load_inputs(config: RunConfig, folder: Path | None = None) -> Inputs:
    """Everything that `config` names; each fault is one JaxlvError that says which part it is in."""
    return _inputs(config, load_series(config, folder), lambda: load_base(config))


def load_inputs_of(configs: Sequence[RunConfig]) -> list[Inputs]:
    """The inputs of several configs; series and a base that several of them name are loaded once."""
    series_of = functools.lru_cache(lambda data: load_series(replace(RunConfig(), data=data)))
    base_of = functools.lru_cache(lambda model: load_base(replace(RunConfig(), model=model)))

    def source(data: DataConfig) -> DataConfig:
        return replace(DataConfig(), path=data.path, preset=data.preset, simulate=data.simulate, seed=data.seed)

    return [_inputs(config, series_of(source(config.data)), functools.partial(base_of, config.model)) for config in configs]


def _inputs(config: RunConfig, series_set: SeriesSet, base: Callable[[], tuple[Path, Qwen2, Any, Alphabet]]) -> Inputs:
    split = split_series(config, series_set)
    _check_validation(config, series_set, split)
    return Inputs(series_set, split, *base(), Codec.for_data(config.codec, series_set.values_NTV))


def _check_validation(config: RunConfig, series_set: SeriesSet, split: Split) -> None:
    """JaxlvError, before anything is written, where training would come to a validation that cannot be done."""
    t, steps = config.train, series_set.values_NTV.shape[1]
    if t.validate_every and not len(split.validation):
        raise JaxlvError("no validation series", where="data", hint="name some, or set train.validate_every = 0")
    if t.validate_every and t.forecast_series and config.evaluate.context >= steps:
        raise JaxlvError(
            "the context leaves nothing of the series to forecast",
            where="evaluate.context",
            expected=f"less than the series' {steps} steps",
            found=config.evaluate.context,
            hint="lower it, or set train.forecast_series = 0",
        )


def load_base(config: RunConfig) -> tuple[Path, Qwen2, dict[str, Any], Alphabet]:
    """(folder, model, params, alphabet) of a config's base."""
    base = resolve(config.model.path)
    model, params = load_pretrained(base, config.model.dtype, config.model.attention)
    return base, model, params, load_alphabet(base, model.config.vocab_size)


# ------------------------------------------------------------------------------------------------ the budget


def ledger_of(config: RunConfig, folder: Path, model: Qwen2) -> contextlib.AbstractContextManager[Ledger | None]:
    """The ledger of a config's budget, open for writing; None where there is no budget. Only process 0 writes."""
    b = config.budget
    if not b.flops:
        return contextlib.nullcontext()
    phases = {name: int(value) for name, value in b.phases.items()}
    terms = Terms(int(b.flops), b.convention, model.config, int(b.held_back), phases)
    return Ledger(ledger_path(config, folder), terms, folder.name, writes=jax.process_index() == 0)


def ledger_path(config: RunConfig, folder: Path) -> Path:
    """Where the ledger of a run lies: in its folder, or where its config says, seen from there."""
    return Path(os.path.normpath(folder / (config.budget.ledger or LEDGER)))


def event_of(config: RunConfig, adapted: bool = True) -> Event:
    """An event of a config's model, its shape to be filled in; without its adapters where not `adapted`."""
    alphabet = config.model.loss == "alphabet"
    return Event(
        "train_step",
        config.train.batch_size,
        config.windows.length,
        rank=config.lora.rank if adapted else 0,
        targets=overlay.normalise_targets(config.lora.targets) if adapted else (),
        head="alphabet" if alphabet else "frozen",
        train="head" if adapted and config.lora.head == "full" else "adapters",
        kernel=config.model.attention,
        accumulate=config.train.accumulate,
    )


def check_budget(config: RunConfig, model: Qwen2) -> None:
    """JaxlvError, before anything is written, for a budget that does not buy a single step."""
    b = config.budget
    if not b.flops:
        return
    step = event_of(config).flops(model.config, b.convention)
    most = min(b.flops - b.held_back, b.phases.get(b.phase, math.inf))
    if step > most:
        raise BudgetExceeded(
            "the budget does not buy one train step",
            where="budget",
            expected=f"at least {step:.4g} FLOPs ({b.convention})",
            found=f"{most:.4g}",
            hint="raise budget.flops, or lower train.batch_size or windows.length",
        )


# ---------------------------------------------------------------------------------------------- training


def check_folder(config: RunConfig, folder: Path, resume: bool) -> None:
    """JaxlvError unless the folder is free for a new run, or holds the same run, to be resumed."""
    if not resume:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise JaxlvError("exists already", where=folder, hint="choose another folder, or go on with --resume")
        return
    if not (folder / CONFIG).is_file():
        raise JaxlvError("no run to resume", where=folder, expected=f"a run folder with {CONFIG}")
    differences = _differences(config_tree(load_config(folder / CONFIG)), config_tree(config))
    if differences:
        raise JaxlvError(
            f"the config differs from the run's ({'; '.join(differences)})", where=folder, hint="train in a new folder"
        )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    pairs = ((f"{section}.{key}", old[section][key], new[section][key]) for section in old for key in old[section])
    return [f"{name}: {a!r} then, {b!r} now" for name, a, b in pairs if a != b]


def manifest(config: RunConfig, inputs: Inputs, versions: Mapping[str, str]) -> dict[str, Any]:
    """What the run was made of, so that it can be made again: no names of machines or users."""
    return {
        "versions": dict(versions),
        "data": {"sha256": inputs.series.source["sha256"], "series": len(inputs.series)},
        "base": {"name": config.model.path, "sha256": fingerprint(inputs.base), "revision": hub_revision(inputs.base)},
        "tokens": inputs.alphabet.source,
        "dataset_alpha": inputs.codec.dataset_alpha,
        "seeds": {"data": config.data.seed, "train": config.train.seed, "evaluate": config.evaluate.seed},
    }


def series_marks(series_set: SeriesSet) -> list[str]:
    """A short hash of each series' values, by which it is known again in another file."""
    return [hashlib.sha256(v_TV.astype("<f4").tobytes()).hexdigest()[:16] for v_TV in series_set.values_NTV]


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
    With `resume` the run goes on from its newest checkpoint, and its losses and adapters are those of an uninterrupted
    run, bit for bit on one machine. JaxlvError where the data, the base or the config are not those of the run, and where
    the loss is not finite: the checkpoints before it stay.
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
    for job in jobs:
        check_budget(job.config, job.inputs.model)
    begun = [resume and (len(jobs) == 1 or (job.folder / CONFIG).is_file()) for job in jobs]
    for job, goes_on in zip(jobs, begun, strict=True):
        check_folder(job.config, job.folder, goes_on)
        if goes_on:
            _check_manifest(job.folder, manifest(job.config, job.inputs, versions or {}))
    training = _Training(jobs, watch or Watch(), memory, at_once)
    for job, goes_on in zip(jobs, begun, strict=True):
        if not goes_on:
            _make_folder(job, versions or {})
    return training.run(resume)


def _make_folder(job: Job, versions: Mapping[str, str]) -> None:
    config, folder, inputs = job.config, job.folder, job.inputs
    folder.mkdir(parents=True, exist_ok=True)
    if not config.data.path:
        series.save(folder / DATA, inputs.series)
        inputs = replace(inputs, series=series.load(folder / DATA))  # the same values, and the hash that a resume will see
    made_of = manifest(config, inputs, versions)
    (folder / MANIFEST).write_text(json.dumps(made_of, indent=1) + "\n", encoding="utf-8")
    shares = (f'"{name}": {json.dumps(marked)}' for name, marked in split_marks(inputs).items())
    (folder / SPLIT).write_text("{\n" + ",\n".join(shares) + "\n}\n", encoding="utf-8")
    (folder / CONFIG).write_text(to_toml(config), encoding="utf-8")


def split_marks(inputs: Inputs) -> dict[str, dict[str, str]]:
    """{share: {series id: mark of its values}}, for train, validation and test."""
    return {
        share: dict(zip(map(str, ids), series_marks(inputs.series.select(ids)), strict=True))
        for share, ids in inputs.split.parts().items()
    }


def _check_manifest(folder: Path, now: Mapping[str, Any]) -> None:
    then = read_manifest(folder)
    for part in ("data", "base"):
        if then[part]["sha256"] != now[part]["sha256"]:
            raise JaxlvError(
                f"the {part} is not what the run began with",
                where=folder,
                expected=f"sha256 {then[part]['sha256'][:12]}...",
                found=f"{now[part]['sha256'][:12]}...",
            )


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
        self.log = MetricsLog(self.folder / METRICS, job.config.train.tensorboard)
        self.total_tokens, self.total_seconds, self.best = 0.0, 0.0, math.inf
        self.checkpoints: Checkpoints  # open while it trains
        self.meter: Meter | None = None
        self.block: Entry | None = None  # of steps, reserved and not yet committed

    def resume_at(self, step: int) -> None:
        """Forget what lies behind a step."""
        self.best = (self.checkpoints.best() or {}).get("value", math.inf)
        self.log.keep(step)
        for record in [record for record in read_metrics(self.log.path) if "total_tokens" in record][-1:]:
            self.total_tokens, self.total_seconds = record["total_tokens"], record["total_seconds"]

    def commit(self) -> None:
        """The block of steps that was reserved has run."""
        if self.meter is not None and self.block is not None:
            self.meter.ledger.commit(self.block)
            self.block = None

    def forecast_error(self, lora: Mapping[str, Any], step: int) -> float:
        """MAE (raw units) of greedy forecasts of the first validation series, from the steps that the config names."""
        config, inputs, t = self.config, self.inputs, self.config.train
        chosen = inputs.series.select(inputs.split.validation[: t.forecast_series])
        context = t.forecast_context or config.evaluate.context
        horizon = min(t.forecast_horizon or config.evaluate.horizon, chosen.values_NTV.shape[1] - context)
        meter = self.meter and replace(self.meter, template=replace(self.meter.template, step=step, accumulate=1))
        greedy = inputs.forecaster(lora, config, meter).with_sampling(temperature=0.0)
        forecast = greedy(chosen, context, horizon, 1, batch_series=len(chosen))
        return float(metrics.mae(forecast.median(), chosen.values_NTV[:, context : context + horizon]).mean())


class _Training:
    """Runs in progress, one or several as one program: the step, and what is due after each."""

    def __init__(self, jobs: Sequence[Job], watch: Watch, memory: int = 0, at_once: int = 0):
        self.members, self.watch = [_Member(job) for job in jobs], watch
        self.config, inputs = jobs[0].config, jobs[0].inputs  # what the runs have in common
        alphabet_A = inputs.alphabet.ids_A if self.config.model.loss == "alphabet" else None
        texts: dict[Any, _Texts] = {}  # runs that read the same windows share them
        self.texts = [texts.setdefault(_Texts.key(job), _Texts(job)) for job in jobs]
        self.stack = Stack(inputs.model, inputs.params, [job.config for job in jobs], alphabet_A)
        self.step = self.stack.fitted(self._batch(0), memory, at_once) if memory else self.stack.step(at_once)
        self.validation_step = make_validation_step(inputs.model, alphabet_A)

    def run(self, resume: bool) -> list[dict[str, Any]]:
        t = self.config.train
        with contextlib.ExitStack() as opened:
            self._open_ledgers(opened)
            for member in self.members:
                member.checkpoints = opened.enter_context(Checkpoints(member.folder / "checkpoints"))
            state, alike = (
                self.stack.state,
                [_abstract(self.stack.member(self.stack.state, i)) for i in range(len(self.stack))],
            )
            if resume:
                state = self._restored(state, alike)
            state = fit(
                self.step, state, self.stack.frozen, self._batch, t.steps, self._on_step, self._on_state,
                lambda step: self._due(step) or self._ends_block(step), self._admit,
            )  # fmt: skip
            if int(state.step.min()) < t.steps:
                self._stop_early(state)
            return [self._finished(i, state, like) for i, like in enumerate(alike)]

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
            member.meter = Meter(ledgers[path], config.budget.phase, event_of(config), member.folder.name)

    def _restored(self, state: TrainState, alike: Sequence[Any]) -> TrainState:
        """The state of the newest step that all members have a checkpoint of; the first one where there is none."""
        common = set.intersection(*(set(member.checkpoints.steps()) for member in self.members))
        if common:
            restored = (m.checkpoints.restore(max(common), like) for m, like in zip(self.members, alike, strict=True))
            state = self.stack.join(list(restored))
        for member in self.members:
            member.resume_at(max(common, default=0))
        return state

    def _finished(self, index: int, state: TrainState, like: Any) -> dict[str, Any]:
        """The best overlay of a run, which is written as an adapter too."""
        member = self.members[index]
        marked = member.checkpoints.best()
        own = self.stack.member(state, index) if marked is None else member.checkpoints.restore(marked["step"], like)
        lora = overlay.join(own.trained, self.stack.frozen_of(index))["lora"]
        base, revision = member.config.model.path, hub_revision(member.inputs.base)
        adapters.save_peft(member.folder / ADAPTER, lora, member.config.lora, base, revision)
        return lora

    def _batch(self, step: int) -> Windows:
        return self.stack.batch([text.batches(step) for text in self.texts])

    # ----------------------------------------------------------------------------------------- the budget

    def _admit(self, step: int) -> bool:
        """Do the budgets hold another step? A block of steps is reserved at once, up to the next that is due."""
        t, metered = self.config.train, [member for member in self.members if member.meter is not None]
        if not metered or metered[0].block is not None:
            return True
        ends = (n for n in range(step + 1, t.steps + 1) if n == step + t.log_every or self._due(n))
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
        """The budget is spent: keep the states, and say what it bought."""
        step = int(state.step.min())
        for index, member in enumerate(self.members):
            member.checkpoints.save(step, self.stack.member(state, index))
        meter = next(member.meter for member in self.members if member.meter is not None)
        self.watch.note(f"stopped by the budget after step {step} of {self.config.train.steps}; {meter.ledger.bought()}")

    # ------------------------------------------------------------------------------------- after each step

    def _due(self, step: int) -> bool:
        """Is the state of this step validated or saved?"""
        t = self.config.train
        return step == t.steps or step % t.checkpoint_every == 0 or (t.validate_every > 0 and step % t.validate_every == 0)

    def _on_step(self, step: int, figures: dict[str, Any]) -> None:
        ends_block = self._ends_block(step)
        logged = step % self.config.train.log_every == 0 or step == 1 or self._due(step) or ends_block
        of_each = [
            {name: float(np.atleast_1d(value)[i]) for name, value in figures.items()} for i in range(len(self.members))
        ]
        for member, own in zip(self.members, of_each, strict=True):
            if not math.isfinite(own["loss"]) or not math.isfinite(own["gradient_norm"]):
                raise JaxlvError(
                    f"the loss or the gradient is not finite at step {step}",
                    where=member.folder,
                    found=f"loss {own['loss']}, gradient norm {own['gradient_norm']}",
                    hint="lower optimizer.learning_rate or set optimizer.clip_norm; earlier checkpoints are intact",
                )
        for member, own in zip(self.members, of_each, strict=True):
            if ends_block:
                member.commit()
            member.total_tokens += own["tokens"]
            member.total_seconds += own["seconds"]
        mean = {name: float(np.mean(value)) for name, value in figures.items()}
        self.watch.on_step(step, mean | {"tokens_per_second": float(np.sum(figures["tokens"]) / np.sum(figures["seconds"]))})
        if logged:
            for member, own in zip(self.members, of_each, strict=True):
                totals = {"total_tokens": member.total_tokens, "total_seconds": member.total_seconds}
                member.log.add({"step": step, **own, **totals})

    def _on_state(self, step: int, state: TrainState) -> None:
        if not self._due(step):
            return
        t, last = self.config.train, step == self.config.train.steps
        validates = t.validate_every and (step % t.validate_every == 0 or last)
        for index, member in enumerate(self.members):
            best = self._validated(member, index, step, state) if validates else None
            if step % t.checkpoint_every == 0 or last or best:
                member.checkpoints.save(step, self.stack.member(state, index), best)

    def _validated(self, member: _Member, index: int, step: int, state: TrainState) -> dict[str, Any] | None:
        """Log the measures of a member's state; the mark of the best, where it is that."""
        select, name = self.config.train.select, f"{member.folder.name}, " if len(self.members) > 1 else ""
        record = self._measures(member, index, step, state, name)
        if record is None:
            return None
        member.log.add({"step": step, **record})
        shown = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in record.items())
        self.watch.note(f"{name}step {step}: {shown}")
        value = record["forecast_mae" if select == "forecast" else "validation_loss"]
        if value >= member.best:
            return None
        member.best = value
        return {"value": value, "measure": select}

    def _measures(self, member: _Member, index: int, step: int, state: TrainState, name: str) -> dict[str, float] | None:
        """The measures of a state; None where the budget does not hold them."""
        size, windows, meter = self.config.train.batch_size, self.texts[index].validation_windows, member.meter
        batches = -(-windows.number // size)
        own, frozen = self.stack.member(state, index, padded=True), self.stack.frozen_of(index)
        try:
            with meter.spend("validation", count=batches, step=step, accumulate=1) if meter else NO_METER:
                record = self._losses(own.trained, frozen, windows, size)
            if self.config.train.forecast_series:
                lora = overlay.join(own.trained, frozen)["lora"]
                record["forecast_mae"] = member.forecast_error(lora, step)
        except BudgetExceeded as fault:
            self.watch.note(f"{name}step {step}: not validated; {fault}")
            return None
        return record

    def _losses(self, trained: Any, frozen: Any, windows: Windows, size: int) -> dict[str, float]:
        total = tokens = means = 0.0
        for first in range(0, windows.number, size):
            rows = np.arange(first, min(first + size, windows.number))
            batch = windows.rows(np.resize(rows, size))
            batch.labels_ML[len(rows) :] = -1  # a short batch is filled, and the filling is not counted
            loss, count = map(float, self.validation_step(trained, frozen, batch))
            total, tokens, means = total + loss, tokens + count, means + loss / count
        mean = means / windows.number if self.config.train.mean == "examples" else total / tokens
        return {"validation_loss": mean, "validation_perplexity": math.exp(min(mean, 700.0))}


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


# -------------------------------------------------------------------------------------------- a finished run


@dataclass(frozen=True)
class FinishedRun:
    """A run folder as forecasts need it: its config, its tuned and untuned forecasters, and what it was made of."""

    folder: Path
    config: RunConfig
    tuned: Forecaster
    untuned: Forecaster
    manifest: dict[str, Any]
    split: dict[str, dict[str, str]]  # as `split_marks` gives it

    def seen(self, series_set: SeriesSet) -> np.ndarray:
        """The ids of those series that the run trained on or was validated on, by their values."""
        known = {*self.split["train"].values(), *self.split["validation"].values()}
        return series_set.ids_N[[mark in known for mark in series_marks(series_set)]]

    @contextlib.contextmanager
    def metered(self) -> Iterator[dict[str, Forecaster]]:
        """{"tuned", "untuned"}: forecasters that spend from the run's budget, where it has one, in the phase "evaluation".

        Where it loses nothing the adapters are merged into the weights: both are then one program, as the untuned model has
        a bias of zero where the tuned one has a bias.
        """
        merged, found = overlay.merged(self.tuned.variables), {"tuned": self.tuned, "untuned": self.untuned}
        adapted = {"tuned": merged is None, "untuned": False}
        if merged is not None:
            none = jax.tree.map(jnp.zeros_like, {key: merged[key] for key in merged if key != "params"})
            found["tuned"] = replace(self.tuned, variables=merged)
            found["untuned"] = replace(self.untuned, variables={**self.untuned.variables, **none})
        with ledger_of(self.config, self.folder, self.tuned.model) as ledger:
            if ledger is not None:
                for name, forecaster in found.items():
                    meter = Meter(ledger, FINAL, event_of(self.config, adapted[name]))
                    found[name] = replace(forecaster, meter=meter)
            yield found

    def bill(self) -> dict[str, Any]:
        """What the training cost: steps, tokens, seconds, and how many parameters trained."""
        steps = [record for record in read_metrics(self.folder / METRICS) if "total_tokens" in record]
        last = steps[-1] if steps else {}
        return {
            "steps": last.get("step", 0),
            "tokens": int(last.get("total_tokens", 0)),
            "seconds": last.get("total_seconds", 0.0),
            "trainable_parameters": overlay.count_trained(self.tuned.variables, overlay.trainable(self.tuned.variables)),
        }


def load_run(folder: Path) -> FinishedRun:
    """The run in a folder, with its best overlay; its base must still be the one that it was trained on."""
    folder = Path(folder)
    made_of, config = read_manifest(folder), load_config(folder / CONFIG)
    split = read_json(folder / SPLIT, "train", "validation")
    base, model, params, alphabet = load_base(config)
    if made_of["base"]["sha256"] != fingerprint(base):
        raise JaxlvError("the base model is not the one that the run was trained on", where=config.model.path)
    lora = overlay.init_lora(jax.random.key(0), params, config.lora)
    variables = {"params": params, "lora": lora}
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    like, frozen = init_state(variables, overlay.trainable(variables), optimizer, config.train.seed)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        marked, steps = checkpoints.best(), checkpoints.steps()
        if not steps:
            raise JaxlvError("no checkpoint yet", where=folder, hint="train longer, or lower train.checkpoint_every")
        state = checkpoints.restore(marked["step"] if marked else steps[-1], like)
    codec = Codec.of(config.codec, made_of["dataset_alpha"])
    untuned = Forecaster(model, {"params": params}, alphabet, codec, config.sampling)
    tuned = replace(untuned, variables=overlay.join(state.trained, frozen))
    return FinishedRun(folder, config, tuned, untuned, made_of, split)


def read_json(path: Path, *needed: str) -> dict[str, Any]:
    """A JSON file of a run folder; JaxlvError where it is not readable, or lacks one of the dotted keys `needed`."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        for name in needed:
            functools.reduce(lambda node, key: node[key], name.split("."), tree)
    except (OSError, ValueError, KeyError, TypeError) as fault:
        detail = fault.strerror if isinstance(fault, OSError) else f"{type(fault).__name__}: {fault}"
        reason = f"not a run folder: no readable {path.name} ({detail})"
        raise JaxlvError(reason, where=path.parent, expected=f"{CONFIG}, {MANIFEST}, {SPLIT}, checkpoints/") from None
    return tree


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the run in a folder was made of, as `manifest` wrote it."""
    return read_json(folder / MANIFEST, "data.sha256", "base.sha256", "dataset_alpha")
