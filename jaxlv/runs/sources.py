"""What a config names, loaded: the series and their split, the base, its alphabet, the overlay to begin from."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxlv.config import DataConfig, LoraConfig, MeshConfig, ModelSettings, RunConfig
from jaxlv.data import dynamics, loading, series, splits
from jaxlv.data.observations import Handling, Observations, Ready
from jaxlv.data.series import SeriesSet
from jaxlv.data.splits import Split
from jaxlv.errors import JaxlvError, JaxlvWarning, warn
from jaxlv.flops.ledger import Meter
from jaxlv.forecasting.sampler import Sampler
from jaxlv.lora import adapters, overlay
from jaxlv.model import placement
from jaxlv.model.bases import EMBEDDED
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import Qwen2
from jaxlv.model.weights import abstract_params, base_of, load_pretrained
from jaxlv.runs.devices import check_kernel, compute_deterministically, compute_with_care, keep_programs
from jaxlv.steps import needs
from jaxlv.storage.door import at_home, is_there
from jaxlv.text.codec import Codec
from jaxlv.text.tokens import Alphabet, load_alphabet

DATA = "data.h5"  # in a run folder, if its series were simulated
GIVEN = "series.csv"  # in a run folder, if its series came from Python


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
    start: overlay.Tree | None = None  # the overlay to begin from, if the config names one
    given: Observations | None = None  # series from Python, which a run folder keeps

    def forecaster(self, lora: Mapping[str, Any], config: RunConfig, meter: Meter | None = None) -> Sampler:
        """Returns the base with the overlay laid over it, as a forecaster."""
        return Sampler(
            self.model, {"params": self.params, "lora": dict(lora)}, self.alphabet, self.codec, config.sampling, meter,
            gaps=has_read_gaps(config),
        )  # fmt: skip


def has_read_gaps(config: RunConfig) -> bool | None:
    """Tells whether a run's training marks what is missing; None if it does not: then its base decides."""
    return True if config.data.missing == "mark" else None


def load_series(config: RunConfig, folder: Path | None = None, whole: bool = False) -> SeriesSet:
    """Returns the series of a config: its file, or a run folder's own, or new ones from the preset; without the steps that
    are held out, unless `whole`. What is noted of a file is a warning; of a run's own copy it was one when the run began.
    """
    found = observed(config, folder)
    if found is None:
        return dynamics.draw(config.data.preset, config.data.simulate, config.data.seed)
    return complete(config.data, found, whole) if config.data.path else prepared(config.data, found, whole)[0].series


def observed(config: RunConfig, folder: Path | None = None) -> Observations | None:
    """Returns the series of a config as they were read; None if they are still to be simulated."""
    data = config.data
    places = [data.path] if data.path else [folder / name for name in (GIVEN, DATA) if folder and is_there(folder / name)]
    if not places:
        return None
    how: dict[str, Any] = {"id": data.id or None, "time": data.time or None, "columns": data.columns or None}
    return loading.load_series(places[0], **how, separate=data.separate, check=data.bad_series != "drop")


def complete(data: DataConfig, found: Observations, whole: bool = False) -> SeriesSet:
    """Returns observed series as a config has them handled, without the steps that are held out, unless `whole`; what is
    noted of them is a warning.
    """
    return loading.told(*prepared(data, found, whole))


def prepared(data: DataConfig, found: Observations, whole: bool = False) -> tuple[Ready, Observations]:
    """Returns observed series as a config has them handled, and as they were observed, both without the steps that are held
    out, unless `whole`.
    """
    if data.bad_series == "drop":
        found = found.clean()
    if data.holdout and not whole:
        found = found.until(data.holdout)
    return found.ready(Handling(data.missing, data.negative)), found


def split_series(config: RunConfig, series_set: SeriesSet) -> Split:
    """Returns train, validation and test ids: as listed, within regimes, as a report has it, or by fraction. Raises
    JaxlvError if a series would be in two of them.
    """
    data, ids = config.data, series_set.ids_N
    if data.holdout:  # the same series, cut: a part of each is the test
        return Split(ids, ids[:0], ids[:0])
    listed = ("train_ids", "validation_ids", "test_ids")
    where = ", ".join(f"data.{name}" for name in listed if getattr(data, name))
    if data.train_ids or data.validation_ids or data.test_ids:
        split = splits.split_ids(ids, data.train_ids, data.validation_ids, data.test_ids, where)
    elif data.stratify:
        split = splits.split_stratified(ids, series.regimes(series_set), data.fractions, data.seed, "data.fractions")
    elif data.split != "fractions":
        split = splits.REPORTED_SPLITS[data.split](ids)
    else:
        split = splits.split_fraction(ids, data.fractions, data.seed, "data.fractions")
    splits.check_disjoint(series_set, split)
    if data.train_share == 1:
        return split
    return replace(split, train=split.train[: max(1, round(data.train_share * len(split.train)))])


def load_inputs(config: RunConfig, folder: Path | None = None, given: Observations | None = None) -> Inputs:
    """Loads everything that `config` names, with `given` in place of its series if there are any. Raises JaxlvError, which
    names the faulty part.
    """
    if config.model.deterministic:
        compute_deterministically()
    series_set = complete(config.data, given) if given else load_series(config, folder)
    return replace(_inputs(config, series_set, lambda: load_base(config)), given=given)


def load_inputs_of(configs: Sequence[RunConfig]) -> list[Inputs]:
    """Loads the inputs of several configs; series and a base that several of them name are loaded once."""
    if any(config.model.deterministic for config in configs):
        compute_deterministically()
    series_of = functools.lru_cache(lambda data: load_series(replace(RunConfig(), data=data)))

    @functools.lru_cache
    def base_of(model: ModelSettings, mesh: MeshConfig, batch: int) -> Base:
        plain = RunConfig()
        return load_base(replace(plain, model=model, mesh=mesh, train=replace(plain.train, batch_size=batch)))

    def source(data: DataConfig) -> DataConfig:
        kept = (
            "path",
            "preset",
            "simulate",
            "seed",
            "bad_series",
            "id",
            "time",
            "columns",
            "separate",
            "missing",
            "negative",
            "holdout",
        )
        return DataConfig(**{name: getattr(data, name) for name in kept})

    return [
        _inputs(
            config,
            series_of(source(config.data)),
            functools.partial(base_of, config.model, config.mesh, config.train.batch_size),
        )
        for config in configs
    ]


def _inputs(config: RunConfig, series_set: SeriesSet, base: Callable[[], Base]) -> Inputs:
    split = _with_scale(split_series(config, series_set), series_set)
    _check_validation(config, series_set, split)
    _tell_short(config, series_set, split)
    folder, model, params, alphabet = base()
    codec = Codec.for_data(config.codec, series_set.values_NTV)
    return Inputs(series_set, split, folder, model, params, alphabet, codec, load_start(config, model))


def load_start(config: RunConfig, model: Qwen2) -> overlay.Tree | None:
    """Returns the overlay that a config begins from, None for a fresh one. Raises JaxlvError if it does not have the
    config's shape.
    """
    if not config.lora.init:
        return None
    lora = adapters.load_adapter(config.lora.init, model, config.model.path)
    layers = model.config.num_hidden_layers
    theirs = _taken_over(config.lora, adapters.lora_config(Path(config.lora.init), lora, layers))
    for name in ("rank", "scaling", "targets", "head"):
        ours, own = (getattr(one, name) for one in (config.lora, theirs))
        if (overlay.normalise_targets(ours) != own) if name == "targets" else ours != own:
            raise JaxlvError(
                f"lora.{name} is not the adapter's", where=config.lora.init, expected=own, found=ours,
                hint="--init-adapter takes rank, alpha, targets and head over",
            )  # fmt: skip
    return lora


def begun_from(config: RunConfig, adapter: Path) -> RunConfig:
    """Returns the config that begins from an adapter in PEFT's format, and has its rank, alpha, targets and trained head."""
    base = base_of(config.model)
    model = Qwen2(ModelConfig.from_folder(base), folder=str(base))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", JaxlvWarning)  # said when the run begins
        lora = adapters.load_adapter(adapter, model)
    theirs = adapters.lora_config(adapter, lora, model.config.num_hidden_layers)
    return replace(config, lora=replace(_taken_over(config.lora, theirs), init=str(adapter)))


def _taken_over(own: LoraConfig, theirs: LoraConfig) -> LoraConfig:
    """Returns the adapter's settings, with the run's own dropout, and with the run's own head if the adapter has none."""
    head = own.head if theirs.head == "frozen" else theirs.head
    return replace(theirs, head=head, dropout=own.dropout)


def _with_scale(split: Split, series_set: SeriesSet) -> Split:
    """Returns a split without the training and validation series that have no scale; a warning names each."""
    without = without_scale(split, series_set)
    for line in without.values():
        warn(line)

    def kept(ids: np.ndarray) -> np.ndarray:
        return ids[np.array([one not in without for one in ids.tolist()], bool)]

    return Split(kept(split.train), kept(split.validation), split.test) if without else split


def without_scale(split: Split, series_set: SeriesSet) -> dict[Any, str]:
    """Returns the training and validation series of which a variable is 0 throughout, with a line about each."""
    zero_of = {
        one: [name for name, values_T in zip(series_set.variables, values_TV.T, strict=True) if not values_T.any()]
        for one, values_TV in zip(series_set.ids_N.tolist(), series_set.each, strict=True)
    }
    return {
        one: f"series {one} is left out of the training: {zero_of[one][0]} is 0 throughout"
        for ids in (split.train, split.validation)
        for one in ids.tolist()
        if zero_of[one]
    }


def _tell_short(config: RunConfig, series_set: SeriesSet, split: Split) -> None:
    """Warns if training series are shorter than the shortest context that the config asks for."""
    least, most = config.windows.context_steps
    lengths = [len(values_TV) for values_TV in series_set.select(split.train).each]
    short = sum(length < least for length in lengths)
    if short and config.codec.scale == "context":
        told = (
            f"windows.context_steps = [{least}, {most}]: {short} of {len(lengths)} training series have fewer than {least}"
        )
        warn(f"{told} steps, {min(lengths)} at least; their scale is fitted on all of them")


def _check_validation(config: RunConfig, series_set: SeriesSet, split: Split) -> None:
    """Raises JaxlvError, before anything is written, if a validation of this training would be impossible."""
    t, steps = config.train, series_set.values_NTV.shape[1]
    if not len(split.train):
        raise JaxlvError("no training series", where="data", hint="name some, or give them a share of data.fractions")
    if t.validate_every and len(split.validation) and t.forecast_series and config.evaluate.context >= steps:
        raise JaxlvError(
            "the context leaves nothing of the series to forecast",
            where="evaluate.context",
            expected=f"less than the series' {steps} steps",
            found=config.evaluate.context,
            hint="lower it, or set train.forecast_series = 0",
        )


def check_fits(configs: Sequence[RunConfig]) -> None:
    """Raises JaxlvError if one of several runs cannot train in the memory, before a series or a weight is read.

    A base of the hub that is not a folder here is left out: its runs are checked when they begin.
    """
    for settings in {config.model for config in configs}:
        if settings.path in EMBEDDED or os.path.isdir(at_home(settings.path)):
            model = architecture_of(settings, base_of(settings))
            needs.check_training([config for config in configs if config.model == settings], model, loaded=False)


def architecture_of(settings: ModelSettings, base: Path) -> Qwen2:
    """Returns the model in a folder, computing as the settings say; no weights are read."""
    check_kernel(settings.attention)
    dtype = jnp.dtype(settings.dtype)
    return Qwen2(ModelConfig.from_folder(base), dtype, settings.attention, weights=settings.weights)


class Base(NamedTuple):
    """A base that is loaded, and the folder that it came from."""

    folder: Path
    model: Qwen2
    params: dict[str, Any]
    alphabet: Alphabet


def load_base(config: RunConfig, *, trains: bool = True) -> Base:
    """Loads a config's base, each parameter straight onto the devices of its mesh; raises JaxlvError if it does not fit in
    the memory. What only forecasts spreads over all devices, whatever they divide.
    """
    check_kernel(config.model.attention)  # before a model is fetched
    compute_with_care()
    keep_programs()
    base = base_of(config.model)
    model = architecture_of(config.model, base)
    placement.check_attention(config.model.attention, model.config, config.mesh.model)
    needs.check_weights(model, config.model.path)
    settings, mesh = config.model, mesh_of(config, trains=trains)
    place = None if mesh is None else placement.places(abstract_params(model), model.config, mesh, config.mesh.fsdp)
    model, params = load_pretrained(base, settings.dtype, settings.attention, place=place, weights=settings.weights)
    model = model if mesh is None else model.clone(mesh=mesh, fsdp=config.mesh.fsdp)
    return Base(base, model, params, load_alphabet(base, model.config.vocab_size))


def open_base(settings: ModelSettings) -> Sampler:
    """Returns a model that no run has tuned, as a forecaster, with the text and sampling of a config that says nothing."""
    config = replace(RunConfig(), model=settings)
    _, model, params, alphabet = load_base(config, trains=False)
    return Sampler(model, {"params": params}, alphabet, Codec.of(config.codec, None), config.sampling)


def mesh_of(config: RunConfig, *, trains: bool = True) -> Mesh | None:
    """Returns the mesh of a config; None for one device. Raises JaxlvError if there are too few devices, or if one that
    `trains` has windows that the mesh does not divide.
    """
    batch = config.train.batch_size if trains else 0
    found = placement.mesh_of(config.mesh.data, config.mesh.model, len(jax.devices()), batch)
    used = 1 if found is None else found.size
    if jax.process_count() > 1 and used < len(jax.devices()):
        what = "the mesh leaves out devices, and so whole processes"
        hint = "train.batch_size must be a multiple of mesh.data"
        raise JaxlvError(what, where="mesh", expected=f"all {len(jax.devices())} devices", found=used, hint=hint)
    return found
