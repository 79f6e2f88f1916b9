"""A run is a folder: what a config names is loaded, an overlay is trained, and everything that came of it lies in one place.

config.toml      the resolved settings            metrics.jsonl   losses, norms, speed, validation: append-only
manifest.json    versions, hashes, seeds, device  checkpoints/    adapters, optimiser, step, keys: never the base
split.json       ids and marks of the series      adapter/        the best adapter, in PEFT's format
data.h5          the series, where simulated      ledger.jsonl    what was spent, where a budget is set
SHA256SUMS       hashes of what is written once   nonfinite/      batches whose loss or gradient was not finite

Every file is sealed: by hashes those that are written once, by a checksum in each line those that grow.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlv import adapters, dynamics, series
from jaxlv import lora as overlay
from jaxlv.checkpoint import Checkpoints
from jaxlv.codec import Codec
from jaxlv.config import DataConfig, LoraConfig, ModelConfig, RunConfig, config_tree, load_config
from jaxlv.devices import check_kernel, compute_deterministically
from jaxlv.errors import JaxlvError, JaxlvWarning
from jaxlv.files import SEAL, broken, hub_revision, parse_json
from jaxlv.forecaster import Forecaster
from jaxlv.ledger import FINAL, BudgetExceeded, Event, Ledger, Meter, Terms
from jaxlv.ledger import read as read_ledger
from jaxlv.model import Qwen2
from jaxlv.records import read_metrics
from jaxlv.series import SeriesSet, Split
from jaxlv.tokens import Alphabet, load_alphabet
from jaxlv.train import init_state, make_optimizer
from jaxlv.weights import base_of, fingerprint, load_pretrained

CONFIG, MANIFEST, SPLIT, METRICS = "config.toml", "manifest.json", "split.json", "metrics.jsonl"
DATA, ADAPTER, LEDGER = "data.h5", "adapter", "ledger.jsonl"
CHECKPOINTS, LOCK, SAVE, NONFINITE = "checkpoints", "lock", "save", "nonfinite"


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
    start: overlay.Tree | None = None  # the overlay to begin from, where the config names one

    def forecaster(self, lora: Mapping[str, Any], config: RunConfig, meter: Meter | None = None) -> Forecaster:
        """The base with the overlay laid over it, as a forecaster."""
        return Forecaster(
            self.model, {"params": self.params, "lora": dict(lora)}, self.alphabet, self.codec, config.sampling, meter
        )


def load_series(config: RunConfig, folder: Path | None = None) -> SeriesSet:
    """The series of a config: its file, or a run folder's own simulated ones, or new ones from the preset."""
    if config.data.path:
        return series.load(config.data.path, drop=config.data.bad_series == "drop")
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
    if config.model.deterministic:
        compute_deterministically()
    return _inputs(config, load_series(config, folder), lambda: load_base(config))


def load_inputs_of(configs: Sequence[RunConfig]) -> list[Inputs]:
    """The inputs of several configs; series and a base that several of them name are loaded once."""
    if any(config.model.deterministic for config in configs):
        compute_deterministically()
    series_of = functools.lru_cache(lambda data: load_series(replace(RunConfig(), data=data)))
    base_of = functools.lru_cache(lambda model: load_base(replace(RunConfig(), model=model)))

    def source(data: DataConfig) -> DataConfig:
        kept = ("path", "preset", "simulate", "seed", "bad_series")
        return DataConfig(**{name: getattr(data, name) for name in kept})

    return [_inputs(config, series_of(source(config.data)), functools.partial(base_of, config.model)) for config in configs]


def _inputs(config: RunConfig, series_set: SeriesSet, base: Callable[[], tuple[Path, Qwen2, Any, Alphabet]]) -> Inputs:
    split = split_series(config, series_set)
    _check_validation(config, series_set, split)
    folder, model, params, alphabet = base()
    codec = Codec.for_data(config.codec, series_set.values_NTV)
    return Inputs(series_set, split, folder, model, params, alphabet, codec, load_start(config, model))


def load_start(config: RunConfig, model: Qwen2) -> overlay.Tree | None:
    """The overlay that a config begins from, None for a fresh one; JaxlvError where it is not of the config's shape."""
    if not config.lora.init:
        return None
    lora = adapters.load_adapter(config.lora.init, model, config.model.path)
    theirs = _taken_over(config.lora, adapters.lora_config(Path(config.lora.init), lora))
    for name in ("rank", "scaling", "targets", "head"):
        ours, own = (getattr(one, name) for one in (config.lora, theirs))
        if (overlay.normalise_targets(ours) != own) if name == "targets" else ours != own:
            raise JaxlvError(
                f"lora.{name} is not the adapter's", where=config.lora.init, expected=own, found=ours,
                hint="--init-adapter takes rank, alpha, targets and head over",
            )  # fmt: skip
    return lora


def begun_from(config: RunConfig, adapter: Path) -> RunConfig:
    """The config that begins from an adapter in PEFT's format, and has its rank, alpha, targets and trained head."""
    model = Qwen2(ModelConfig.from_folder(base_of(config.model)))
    theirs = adapters.lora_config(adapter, adapters.load_adapter(adapter, model))
    return replace(config, lora=replace(_taken_over(config.lora, theirs), init=str(adapter)))


def _taken_over(own: LoraConfig, theirs: LoraConfig) -> LoraConfig:
    """The adapter's settings; its head, where it has none, and dropout are the run's own affair."""
    head = own.head if theirs.head == "frozen" else theirs.head
    return replace(theirs, head=head, dropout=own.dropout)


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
    check_kernel(config.model.attention)
    base = base_of(config.model)
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
    return Ledger(ledger_path(config, folder), terms, name_in_ledger(config, folder), writes=jax.process_index() == 0)


def name_in_ledger(config: RunConfig, folder: Path) -> str:
    """What a run goes by in its ledger: its folder's name where several share one; its own folder may be renamed."""
    return folder.name if config.budget.ledger else "run"


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


# -------------------------------------------------------------------------------------------- the run folder


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
        **({"start": {"sha256": adapters.fingerprint(Path(config.lora.init))}} if config.lora.init else {}),
        "tokens": inputs.alphabet.source,
        "dataset_alpha": inputs.codec.dataset_alpha,
        "seeds": {"data": config.data.seed, "train": config.train.seed, "evaluate": config.evaluate.seed},
    }


def check_intact(folder: Path) -> None:
    """JaxlvError where a file of a run folder is not what was written; checkpoints are looked at where they are read."""
    faults = broken(folder)
    if faults:
        raise JaxlvError(
            f"damaged run folder: {'; '.join(faults)}", where=folder,
            hint=f"restore it from a copy; after a change of your own, `sha256sum` the files that {SEAL} lists into it",
        )  # fmt: skip
    if (folder / ADAPTER).is_dir() and (faults := broken(folder / ADAPTER)):
        raise JaxlvError(f"damaged adapter: {'; '.join(faults)}", where=folder / ADAPTER, hint="--resume writes it again")
    read_metrics(folder / METRICS)
    if (folder / LEDGER).is_file():
        read_ledger(folder / LEDGER)


def series_marks(series_set: SeriesSet) -> list[str]:
    """A short hash of each series' values, by which it is known again in another file."""
    return [hashlib.sha256(v_TV.astype("<f4").tobytes()).hexdigest()[:16] for v_TV in series_set.values_NTV]


def split_marks(inputs: Inputs) -> dict[str, dict[str, str]]:
    """{share: {series id: mark of its values}}, for train, validation and test."""
    return {
        share: dict(zip(map(str, ids), series_marks(inputs.series.select(ids)), strict=True))
        for share, ids in inputs.split.parts().items()
    }


def check_manifest(folder: Path, now: Mapping[str, Any]) -> None:
    """JaxlvError where the data, the base, or the adapter that it began from, are not those that a run began with."""
    then, words = read_manifest(folder), {"start": "adapter in lora.init"}
    for part in (part for part in ("data", "base", "start") if part in now):
        if then.get(part, {"sha256": ""})["sha256"] != now[part]["sha256"]:
            raise JaxlvError(
                f"the {words.get(part, part)} is not what the run began with",
                where=folder,
                expected=f"sha256 {then.get(part, {'sha256': 'none'})['sha256'][:12]}...",
                found=f"{now[part]['sha256'][:12]}...",
            )


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

    def models(self) -> tuple[dict[str, Forecaster], bool]:
        """({"tuned", "untuned"}, whether adapters are left in the tuned one).

        Where it loses nothing the adapters are merged into the weights: both are then one program, as the untuned model has
        a bias of zero where the tuned one has a bias.
        """
        tuned, has_adapters = decoder(self.tuned)
        untuned = self.untuned
        if not has_adapters:
            rest = {key: tree for key, tree in tuned.variables.items() if key != "params"}
            untuned = replace(untuned, variables={**untuned.variables, **jax.tree.map(jnp.zeros_like, rest)})
        return {"tuned": tuned, "untuned": untuned}, has_adapters

    @contextlib.contextmanager
    def metered(self) -> Iterator[dict[str, Forecaster]]:
        """`models` as they spend from the run's budget, where it has one, in the phase "evaluation"."""
        found, has_adapters = self.models()
        adapted = {"tuned": has_adapters, "untuned": False}
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


def decoder(forecaster: Forecaster) -> tuple[Forecaster, bool]:
    """(the forecaster with its adapters merged into the weights where that loses nothing, whether adapters are left)."""
    merged = overlay.merged(forecaster.variables)
    return (forecaster, True) if merged is None else (replace(forecaster, variables=merged), False)


def load_run(folder: Path) -> FinishedRun:
    """The run in a folder, with its best overlay; its base must still be the one that it was trained on."""
    folder = Path(folder)
    made_of, config = read_manifest(folder), load_config(folder / CONFIG)
    check_intact(folder)
    split = read_json(folder / SPLIT, "train", "validation")
    base, model, params, alphabet = load_base(config)
    if made_of["base"]["sha256"] != fingerprint(base):
        raise JaxlvError("the base model is not the one that the run was trained on", where=config.model.path)
    lora = overlay.init_lora(jax.random.key(0), params, config.lora)
    variables = {"params": params, "lora": lora}
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    like, frozen = init_state(variables, overlay.trainable(variables), optimizer, config.train.seed)
    with Checkpoints(folder / CHECKPOINTS) as checkpoints:
        if not checkpoints.steps() and not checkpoints.damaged:
            raise JaxlvError("no checkpoint yet", where=folder, hint="train longer, or lower train.checkpoint_every")
        step, why_not_best = checkpoints.chosen()
        if why_not_best:
            warnings.warn(f"{folder}: {why_not_best}", JaxlvWarning, stacklevel=2)
        state = checkpoints.restore(step, like)
    codec = Codec.of(config.codec, made_of["dataset_alpha"])
    untuned = Forecaster(model, {"params": params}, alphabet, codec, config.sampling)
    tuned = replace(untuned, variables=overlay.join(state.trained, frozen))
    return FinishedRun(folder, config, tuned, untuned, made_of, split)


def read_json(path: Path, *needed: str) -> dict[str, Any]:
    """A JSON file of a run folder; JaxlvError where it is not readable, or lacks one of the dotted keys `needed`."""
    try:
        tree = parse_json(path.read_text(encoding="utf-8"))
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
