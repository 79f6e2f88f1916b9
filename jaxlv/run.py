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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlv import adapters, dynamics, metrics, series
from jaxlv import lora as overlay
from jaxlv.checkpoint import Checkpoints
from jaxlv.codec import Codec
from jaxlv.config import RunConfig, config_tree, load_config, to_toml
from jaxlv.errors import JaxlvError
from jaxlv.forecast import Forecaster
from jaxlv.ledger import FINAL, BudgetExceeded, Entry, Event, Ledger, Meter, Terms
from jaxlv.model import Qwen2
from jaxlv.series import SeriesSet, Split
from jaxlv.tokens import Alphabet, Windows, load_alphabet, make_windows
from jaxlv.train import Batches, TrainState, fit, init_state, make_optimizer, make_train_step, make_validation_step
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
    """Train, validation and test ids: as listed, within regimes, or by fraction; a series never stands in two of them."""
    data, ids = config.data, series_set.ids_N
    if data.train_ids or data.validation_ids or data.test_ids:
        split = series.split_ids(ids, data.train_ids, data.validation_ids, data.test_ids)
    elif data.stratify:
        split = series.split_stratified(ids, series.regimes(series_set), data.fractions, data.seed)
    else:
        split = series.split_fraction(ids, data.fractions, data.seed)
    series.check_disjoint(series_set, split)
    return split


def load_inputs(config: RunConfig, folder: Path | None = None) -> Inputs:
    """Everything that `config` names; each fault is one JaxlvError that says which part it is in."""
    series_set = load_series(config, folder)
    split = split_series(config, series_set)
    _check_validation(config, series_set, split)
    return Inputs(series_set, split, *load_base(config), Codec.for_data(config.codec, series_set.values_NTV))


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
    path = Path(b.ledger) if b.ledger else folder / LEDGER
    return Ledger(path, terms, folder.name, writes=jax.process_index() == 0)


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


class MetricsLog:
    """metrics.jsonl, one record a line; `keep` cuts what lies behind a step, for a run that resumes there."""

    def __init__(self, path: Path, tensorboard: bool = False):
        self.path, self._board = path, None
        if tensorboard:
            self._board = _tensorboard(path.parent / "tensorboard")

    def keep(self, last_step: int) -> None:
        """Drop records of steps after `last_step`, and a torn last line."""
        records = [r for r in read_metrics(self.path) if r["step"] <= last_step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        os.replace(temporary, self.path)

    def add(self, record: Mapping[str, float]) -> None:
        """Append a record; `step` is one of its keys."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(record)) + "\n")
        if self._board:
            for name, value in record.items():
                self._board.add_scalar(name, value, int(record["step"]))


def _tensorboard(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise JaxlvError(
            "TensorBoard is not installed", where="train.tensorboard", hint='pip install "jaxlv[tensorboard]"'
        ) from None
    return SummaryWriter(str(folder))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, up to a torn line."""
    records: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


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
    """Who is told what while a run trains."""

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
) -> dict[str, Any]:
    """Train an overlay as `config` says, in `folder`; the best overlay.

    A new run's folder is made once everything is ready to begin, so that a fault of the inputs leaves nothing behind.
    With `resume` the run goes on from its newest checkpoint, and its losses and adapters are those of an uninterrupted
    run, bit for bit on one machine. JaxlvError where the data, the base or the config are not those of the run, and where
    the loss is not finite: the checkpoints before it stay.
    """
    check_folder(config, folder, resume)
    check_budget(config, inputs.model)
    if resume:
        _check_manifest(folder, manifest(config, inputs, versions or {}))
    training = _Training(config, folder, inputs, watch or Watch())
    if not resume:
        _make_folder(config, folder, inputs, versions or {})
    return training.run(resume)


def _make_folder(config: RunConfig, folder: Path, inputs: Inputs, versions: Mapping[str, str]) -> None:
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


class _Training:
    """One run in progress: the step, the batches, and what is due after each step."""

    def __init__(self, config: RunConfig, folder: Path, inputs: Inputs, watch: Watch):
        self.config, self.folder, self.inputs, self.watch = config, folder, inputs, watch
        t = config.train
        alphabet_A = inputs.alphabet.ids_A if config.model.loss == "alphabet" else None
        lora = overlay.init_lora(jax.random.key(t.seed), inputs.params, config.lora)
        variables = {"params": inputs.params, "lora": lora}
        self.mask = overlay.trainable(variables)
        optimizer = make_optimizer(config.optimizer, t.steps)
        self.state, self.frozen = init_state(variables, self.mask, optimizer, t.seed)
        self.step = make_train_step(inputs.model, optimizer, config.optimizer, t.steps, alphabet_A)
        self.validation_step = make_validation_step(inputs.model, alphabet_A)
        train_NTV = inputs.series.select(inputs.split.train).values_NTV
        self.batches = Batches(
            lambda epoch: make_windows(train_NTV, inputs.codec, inputs.alphabet, config.windows, seed=(t.seed, epoch)),
            t.batch_size,
            t.accumulate,
            t.seed,
        )
        self.total_tokens, self.total_seconds = 0.0, 0.0
        self.meter: Meter | None = None
        self.block: Entry | None = None  # of steps, reserved and not yet committed

    def run(self, resume: bool) -> dict[str, Any]:
        t = self.config.train
        self.log = MetricsLog(self.folder / METRICS, t.tensorboard)
        with (
            ledger_of(self.config, self.folder, self.inputs.model) as ledger,
            Checkpoints(self.folder / "checkpoints") as self.checkpoints,
        ):
            if ledger is not None:
                self.meter = Meter(ledger, self.config.budget.phase, event_of(self.config))
            self.best = math.inf
            if resume:
                if self.checkpoints.steps():
                    self.state = self.checkpoints.restore(self.checkpoints.steps()[-1], self.state)
                    self.best = (self.checkpoints.best() or {}).get("value", math.inf)
                self.log.keep(int(self.state.step))
                totals = [record for record in read_metrics(self.log.path) if "total_tokens" in record][-1:]
                for record in totals:
                    self.total_tokens, self.total_seconds = record["total_tokens"], record["total_seconds"]
            like = self.state
            self.state = fit(
                self.step, self.state, self.frozen, self.batches, t.steps, self._on_step, self._on_state,
                lambda step: self._due(step) or self._ends_block(step), self._admit,
            )  # fmt: skip
            if int(self.state.step) < t.steps:
                self._stop_early()
            marked = self.checkpoints.best()
            state = self.state if marked is None else self.checkpoints.restore(marked["step"], self._fresh(like))
        lora = overlay.join(state.trained, self.frozen)["lora"]
        base, revision = self.config.model.path, hub_revision(self.inputs.base)
        adapters.save_peft(self.folder / ADAPTER, lora, self.config.lora, base, revision)
        return lora

    def _admit(self, step: int) -> bool:
        """Does the budget hold another step? A block of steps is reserved at once, up to the next that is due."""
        if self.meter is None or self.block is not None:
            return True
        t = self.config.train
        ends = (n for n in range(step + 1, t.steps + 1) if n == step + t.log_every or self._due(n))
        event = self.meter.event("train_step", step=step, count=next(ends) - step)
        fitting = self.meter.ledger.fitting(event, self.meter.phase)
        if fitting:
            self.block = self.meter.ledger.reserve(replace(event, count=fitting), self.meter.phase)
        return fitting > 0

    def _ends_block(self, step: int) -> bool:
        return self.block is not None and step == self.block.event.step + self.block.event.count

    def _stop_early(self) -> None:
        """The budget is spent: keep the state, and say what it bought."""
        assert self.meter is not None
        step = int(self.state.step)
        self.checkpoints.save(step, self.state)
        self.watch.note(
            f"stopped by the budget after step {step} of {self.config.train.steps}; {self.meter.ledger.bought()}"
        )

    def _due(self, step: int) -> bool:
        """Is the state of this step validated or saved?"""
        t = self.config.train
        return step == t.steps or step % t.checkpoint_every == 0 or (t.validate_every > 0 and step % t.validate_every == 0)

    def _fresh(self, like: TrainState) -> Any:
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), like)

    def _on_step(self, step: int, figures: dict[str, float]) -> None:
        if not math.isfinite(figures["loss"]) or not math.isfinite(figures["gradient_norm"]):
            raise JaxlvError(
                f"the loss or the gradient is not finite at step {step}",
                where=self.folder,
                found=f"loss {figures['loss']}, gradient norm {figures['gradient_norm']}",
                hint="lower optimizer.learning_rate or set optimizer.clip_norm; earlier checkpoints are intact",
            )
        ends_block = self._ends_block(step)
        if self.meter is not None and self.block is not None and ends_block:
            self.meter.ledger.commit(self.block)
            self.block = None
        self.total_tokens += figures["tokens"]
        self.total_seconds += figures["seconds"]
        self.watch.on_step(step, figures)
        if step % self.config.train.log_every == 0 or step == 1 or self._due(step) or ends_block:
            totals = {"total_tokens": self.total_tokens, "total_seconds": self.total_seconds}
            self.log.add({"step": step, **figures, **totals})

    def _on_state(self, step: int, state: TrainState) -> None:
        t = self.config.train
        last = step == t.steps
        best = None
        record = self._validate(step, state) if t.validate_every and (step % t.validate_every == 0 or last) else None
        if record is not None:
            self.log.add({"step": step, **record})
            shown = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in record.items())
            self.watch.note(f"step {step}: {shown}")
            value = record["forecast_mae" if t.select == "forecast" else "validation_loss"]
            if value < self.best:
                self.best = value
                best = {"value": value, "measure": t.select}
        if step % t.checkpoint_every == 0 or last or best:
            self.checkpoints.save(step, state, best)

    @functools.cached_property
    def validation_windows(self) -> Windows:
        """At most train.validation_windows windows of the validation series, without overlap, spread evenly."""
        config, inputs = self.config, self.inputs
        values_NTV = inputs.series.select(inputs.split.validation).values_NTV
        windows = make_windows(
            values_NTV, inputs.codec, inputs.alphabet, config.windows, config.windows.length,
            (config.train.seed, VALIDATION_SEED),
        )  # fmt: skip
        count = min(windows.number, config.train.validation_windows)
        return windows.rows(np.linspace(0, windows.number - 1, count).astype(int))

    def _validate(self, step: int, state: TrainState) -> dict[str, float] | None:
        """The measures of a state; None where the budget does not hold them."""
        config, size, windows = self.config, self.config.train.batch_size, self.validation_windows
        batches = -(-windows.number // size)
        try:
            with self.meter.spend("validation", count=batches, step=step, accumulate=1) if self.meter else NO_METER:
                record = self._losses(state, windows, size)
            if config.train.forecast_series:
                record["forecast_mae"] = self._forecast_error(overlay.join(state.trained, self.frozen)["lora"], step)
        except BudgetExceeded as fault:
            self.watch.note(f"step {step}: not validated; {fault}")
            return None
        return record

    def _losses(self, state: TrainState, windows: Windows, size: int) -> dict[str, float]:
        total = tokens = 0.0
        for first in range(0, windows.number, size):
            rows = np.arange(first, min(first + size, windows.number))
            batch = windows.rows(np.resize(rows, size))
            batch.labels_ML[len(rows) :] = -1  # a short batch is filled, and the filling is not counted
            loss, count = self.validation_step(state.trained, self.frozen, batch)
            total, tokens = total + float(loss), tokens + float(count)
        return {"validation_loss": total / tokens, "validation_perplexity": math.exp(min(total / tokens, 700.0))}

    def _forecast_error(self, lora: Mapping[str, Any], step: int) -> float:
        """MAE (raw units) of greedy forecasts of the first validation series, under the evaluation's protocol."""
        config, inputs = self.config, self.inputs
        chosen = inputs.series.select(inputs.split.validation[: config.train.forecast_series])
        context, horizon = config.evaluate.context, config.evaluate.horizon
        horizon = min(horizon, chosen.values_NTV.shape[1] - context)
        meter = self.meter and replace(self.meter, template=replace(self.meter.template, step=step, accumulate=1))
        greedy = inputs.forecaster(lora, config, meter).with_sampling(temperature=0.0)
        forecast = greedy(chosen, context, horizon, 1, batch_series=len(chosen))
        return float(metrics.mae(forecast.median(), chosen.values_NTV[:, context : context + horizon]).mean())


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

        Where it loses nothing the adapters are merged into the weights: decoding is then the base's own, for both.
        """
        merged = overlay.merged(self.tuned.variables)
        adapted = {"tuned": merged is None, "untuned": False}
        found = {"tuned": self.tuned if merged is None else replace(self.tuned, variables=merged), "untuned": self.untuned}
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
    stated = config.codec
    codec = Codec(stated.scale, stated.headroom, stated.decimals, made_of["dataset_alpha"], stated.headrooms)
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
