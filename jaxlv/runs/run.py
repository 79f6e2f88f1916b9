"""A run is a folder: what a config names is loaded, an overlay is trained, and all results lie in one place.

config.toml      the resolved settings            metrics.jsonl   losses, norms, speed, validation: append-only
manifest.json    versions, hashes, seeds, device  checkpoints/    adapters, optimiser, step, keys: never the base
split.json       ids and marks of the series      adapter/        the best adapter, in PEFT's format
data.h5          the series, if simulated         ledger.jsonl    what was spent, if a budget is set; *.head knows its end
SHA256SUMS       hashes of what is written once   nonfinite/      batches whose loss or gradient was not finite

Every file is sealed: what is written once by its hash, what grows by a checksum in each line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlv.config import RunConfig, config_tree, to_toml
from jaxlv.data import loading, series
from jaxlv.data.filling import lined
from jaxlv.data.observations import FILLED
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError, warn
from jaxlv.flops.ledger import FINAL, Meter
from jaxlv.forecasting.sampler import Sampler
from jaxlv.lora import adapters, overlay
from jaxlv.model.weights import fingerprint
from jaxlv.results.runs import Hashed, Manifest, RunCost
from jaxlv.runs.billing import LEDGER as LEDGER
from jaxlv.runs.billing import Held, check_ledger, event_of, ledger_of
from jaxlv.runs.checkpoint import Checkpoints
from jaxlv.runs.records import (
    CHECKPOINTS,
    CONFIG,
    MANIFEST,
    METRICS,
    SPLIT,
    Logged,
    read_config,
    read_manifest,
    read_metrics,
    read_split,
)
from jaxlv.runs.sources import DATA, GIVEN, Inputs, has_read_gaps, load_base, load_series
from jaxlv.storage import tables
from jaxlv.storage.door import is_there
from jaxlv.storage.files import ANEW, SEAL, broken, new_folder, seal, write_json, write_text
from jaxlv.storage.foreign import hub_revision
from jaxlv.text.codec import Codec

ADAPTER = "adapter"
LOCK, SAVE, NONFINITE = "lock", "save", "nonfinite"


# -------------------------------------------------------------------------------------------- the run folder


def check_folder(config: RunConfig, folder: Path, resume: bool) -> None:
    """Raises JaxlvError unless the folder is free for a new run, or holds the same run and `resume` is set."""
    if not resume:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise JaxlvError("exists already", where=folder, hint=ANEW)
        return
    if not is_there(folder / CONFIG):
        raise JaxlvError("no run to resume", where=folder, expected=f"a run folder with {CONFIG}")
    differences = _differences(config_tree(read_config(folder)), config_tree(config))
    if differences:
        raise JaxlvError(
            f"the config differs from the run's ({'; '.join(differences)})", where=folder, hint="train in a new folder"
        )


def make_folder(config: RunConfig, folder: Path, inputs: Inputs, versions: Mapping[str, str]) -> None:
    """Makes the folder of a new run, completely or not at all."""
    with new_folder(folder) as work:
        if inputs.given is not None:
            tables.write_csv(work / GIVEN, inputs.given.frame(), guard=False)
            inputs = replace(inputs, series=load_series(config, work))  # the hash that a resume will see
        elif not config.data.path:
            series.save(work / DATA, inputs.series)
            inputs = replace(inputs, series=loading.load(work / DATA))  # the same values, and that hash
        made_of = replace(manifest(config, inputs, versions), run=folder.resolve().name)
        write_json(work / MANIFEST, made_of.tree())
        shares = (f'"{name}": {json.dumps(marked)}' for name, marked in split_marks(inputs).items())
        write_text(work / SPLIT, "{\n" + ",\n".join(shares) + "\n}\n")
        write_text(work / CONFIG, to_toml(config))
        seal(work)


def extend(folder: Path, steps: int) -> RunConfig:
    """Changes the planned steps of a run to more, in its config, and returns that; a learning rate that falls over the run
    then falls more slowly from where it is. Raises JaxlvError if they are not more.
    """
    config = read_config(folder)
    if steps == config.train.steps:
        return config
    if steps < config.train.steps:
        raise JaxlvError("fewer steps than planned", where=folder, expected=f"at least {config.train.steps}", found=steps)
    config = replace(config, train=replace(config.train, steps=steps))
    check_intact(folder)
    write_text(folder / CONFIG, to_toml(config))
    seal(folder, [CONFIG, MANIFEST, SPLIT, DATA, GIVEN])
    return config


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    free = ("mesh", "budget.several")  # a run may go on on other devices, and beside other processes
    pairs = ((f"{section}.{key}", old[section][key], new[section][key]) for section in old for key in old[section])
    return [f"{name}: {a!r} then, {b!r} now" for name, a, b in pairs if a != b and not name.startswith(free)]


def manifest(config: RunConfig, inputs: Inputs, versions: Mapping[str, str]) -> Manifest:
    """Returns what a run is made of."""
    own = inputs.series
    return Manifest(
        data=Hashed(
            own.source["sha256"], series=len(own), variables=own.variables, lengths=tuple(sorted(set(map(len, own.each))))
        ),
        base=Hashed(fingerprint(inputs.base), config.model.path, hub_revision(inputs.base)),
        dataset_alpha=inputs.codec.dataset_alpha,
        versions=versions,
        model=dataclasses.asdict(inputs.model.config),
        start=Hashed(adapters.fingerprint(Path(config.lora.init))) if config.lora.init else None,
        tokens=inputs.alphabet.source,
        seeds={"data": config.data.seed, "train": config.train.seed, "evaluate": config.evaluate.seed},
    )


def check_intact(folder: Path) -> None:
    """Raises JaxlvError if a file of a run folder is not what was written. Checkpoints are checked where they are read."""
    faults = broken(folder)
    if faults:
        raise JaxlvError(
            f"damaged run folder: {'; '.join(faults)}", where=folder,
            hint=f"restore it from a copy; after a change of your own, `sha256sum` the files that {SEAL} lists into it",
        )  # fmt: skip
    if (folder / ADAPTER).is_dir() and (faults := broken(folder / ADAPTER)):
        raise JaxlvError(f"damaged adapter: {'; '.join(faults)}", where=folder / ADAPTER, hint="--resume writes it again")
    read_metrics(folder / METRICS)
    check_ledger(read_config(folder), folder)


def series_marks(series_set: SeriesSet) -> list[str]:
    """Returns a short hash of each series' values, by which it is recognised in another file."""
    return [mark(values_TV) for values_TV in series_set.raw_each]


def mark(values_TV: np.ndarray) -> str:
    """Returns a short hash of values in raw units."""
    return hashlib.sha256(np.ascontiguousarray(values_TV).astype("<f4").tobytes()).hexdigest()[:16]


def split_marks(inputs: Inputs) -> dict[str, dict[str, str]]:
    """Returns {share: {series id: mark of its values}} for train, validation and test."""
    return {
        share: dict(zip(map(str, ids), series_marks(inputs.series.select(ids)), strict=True)) if len(ids) else {}
        for share, ids in inputs.split.parts().items()
    }


def check_manifest(folder: Path, now: Manifest) -> None:
    """Raises JaxlvError if the data, the base, or the adapter to begin from are not those that a run began with."""
    then = read_manifest(folder)
    parts = {"data": (then.data, now.data), "base": (then.base, now.base), "adapter in lora.init": (then.start, now.start)}
    for name, (old, new) in parts.items():
        if new and (old is None or old.sha256 != new.sha256):
            raise JaxlvError(
                f"the {name} is not what the run began with",
                where=folder,
                expected=f"sha256 {old.sha256[:12] if old else 'none'}...",
                found=f"{new.sha256[:12]}...",
            )


# -------------------------------------------------------------------------------------------- a finished run


@dataclass(frozen=True)
class FinishedRun:
    """A run folder as forecasts need it: its config, its tuned and untuned forecasters, and what it was made of."""

    folder: Path
    config: RunConfig
    tuned: Sampler
    untuned: Sampler
    manifest: Manifest
    split: dict[str, dict[str, str]]  # as `split_marks` gives it

    def seen(self, series_set: SeriesSet) -> np.ndarray:
        """Returns the ids of those series that the run trained on or was validated on, recognised by their values."""
        known = {*self.split["train"].values(), *self.split["validation"].values()}
        return series_set.ids_N[[mark in known for mark in series_marks(series_set)]]

    def seen_steps(self, values_TV: np.ndarray) -> int:
        """Returns how many of the first steps of a series, in raw units and with NaN for what is missing, the run trained on
        or was validated on, by their values; the last steps of a series may have been held out.
        """
        known = {*self.split["train"].values(), *self.split["validation"].values()}
        lengths = sorted({len(values_TV), *(self.manifest.data.lengths or ())}, reverse=True)
        for steps in (one for one in lengths if one <= len(values_TV)):
            try:  # older versions bridged every gap by lines
                filled = FILLED[self.config.data.missing](values_TV[:steps])[0], lined(values_TV[:steps])
            except ValueError:  # a gap that cannot be filled: the run has not read it either
                continue
            if known & set(map(mark, filled)):
                return steps
        return 0

    @property
    def variables(self) -> tuple[str, ...]:
        """The names of the variables that it was trained on; none if an older version wrote the run."""
        return self.manifest.data.variables or ()

    def models(self) -> tuple[dict[str, Sampler], dict[str, Held]]:
        """Returns the forecasters "tuned" and "untuned", and what each holds of its overlay.

        If it loses nothing, the adapters are merged into the weights. Then both are one program: the untuned model has a
        bias of zero if the tuned one has a bias.
        """
        tuned, held = decoder(self.tuned)
        untuned: tuple[Sampler, Held] = self.untuned, "nothing"
        if held != "adapters":
            rest = {key: tree for key, tree in tuned.variables.items() if key != "params"}
            variables = {**self.untuned.variables, **jax.tree.map(jnp.zeros_like, rest)}
            untuned = replace(self.untuned, variables=variables), held
        return {"tuned": tuned, "untuned": untuned[0]}, {"tuned": held, "untuned": untuned[1]}

    @contextlib.contextmanager
    def metered(self, purpose: str = "") -> Iterator[dict[str, Sampler]]:
        """Yields `models`, which spend from the run's budget, if it has one, in the phase "evaluation".

        `purpose` names the result and everything that tells it from others. The body must leave the result on disk: until a
        body has ended without an error, work for the same purpose is a repeat, which is billed but never refused.
        """
        found, held = self.models()
        with ledger_of(self.config, self.folder, self.tuned.model) as book:
            if book is not None:
                for name, forecaster in found.items():
                    meter = Meter(book, FINAL, event_of(self.config, held[name]), purpose=purpose)
                    found[name] = replace(forecaster, meter=meter)
            yield found
            if book is not None and purpose:
                book.keep(FINAL, purpose)

    def bill(self) -> RunCost:
        """Returns what the training cost: steps, tokens, seconds, and how many parameters trained."""
        steps = [record for record in read_metrics(self.folder / METRICS) if "total_tokens" in record]
        last = steps[-1] if steps else Logged(step=0)
        trained = overlay.count_trained(self.tuned.variables, overlay.trainable(self.tuned.variables))
        return RunCost(last.step, int(last.get("total_tokens", 0)), last.get("total_seconds", 0.0), trained)


def decoder(forecaster: Sampler) -> tuple[Sampler, Held]:
    """Returns the forecaster, with its adapters merged if that loses nothing, and what it holds of its overlay."""
    merged = overlay.merged(forecaster.variables)
    if merged is None:
        return forecaster, "adapters"
    return replace(forecaster, variables=merged), "bias" if "lora" in merged else "nothing"


def load_run(folder: Path) -> FinishedRun:
    """Returns the run in a folder, with its best overlay. Raises JaxlvError if its base is not the one that it was trained
    on.
    """
    from jaxlv.steps.train import init_state, make_optimizer  # here, as optax takes a fifth of a second

    folder = Path(folder)
    made_of, config = read_manifest(folder), read_config(folder)
    check_intact(folder)
    split = read_split(folder)
    base, model, params, alphabet = load_base(config, trains=False)
    if made_of.base.sha256 != fingerprint(base):
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
            warn(f"{folder}: {why_not_best}")
        state = checkpoints.restore(step, like)
    codec = Codec.of(config.codec, made_of.dataset_alpha)
    untuned = Sampler(model, {"params": params}, alphabet, codec, config.sampling)
    tuned = replace(untuned, variables=overlay.join(state.trained, frozen), gaps=has_read_gaps(config))
    return FinishedRun(folder, config, tuned, untuned, made_of, split)
