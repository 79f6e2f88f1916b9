"""What a config names, loaded: the series and their split, the base, its alphabet, the overlay to begin from."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxlv.config import DataConfig, LoraConfig, ModelSettings, RunConfig
from jaxlv.data import dynamics, series
from jaxlv.data.series import SeriesSet, Split
from jaxlv.errors import JaxlvError
from jaxlv.flops.ledger import Meter
from jaxlv.forecasting.forecaster import Forecaster
from jaxlv.lora import adapters, overlay
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import Qwen2
from jaxlv.model.weights import base_of, load_pretrained
from jaxlv.runs.devices import check_kernel, compute_deterministically, compute_with_care
from jaxlv.steps import needs
from jaxlv.storage.door import at_home, is_there
from jaxlv.text.codec import Codec
from jaxlv.text.tokens import Alphabet, load_alphabet

DATA = "data.h5"  # in a run folder, if the series were simulated


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

    def forecaster(self, lora: Mapping[str, Any], config: RunConfig, meter: Meter | None = None) -> Forecaster:
        """Returns the base with the overlay laid over it, as a forecaster."""
        return Forecaster(
            self.model, {"params": self.params, "lora": dict(lora)}, self.alphabet, self.codec, config.sampling, meter
        )


def load_series(config: RunConfig, folder: Path | None = None) -> SeriesSet:
    """Returns the series of a config: its file, or a run folder's own simulated ones, or new ones from the preset."""
    if config.data.path:
        return series.load(config.data.path, drop=config.data.bad_series == "drop")
    if folder is not None and is_there(folder / DATA):
        return series.load(folder / DATA)
    return dynamics.draw(config.data.preset, config.data.simulate, config.data.seed)


def split_series(config: RunConfig, series_set: SeriesSet) -> Split:
    """Returns train, validation and test ids: as listed, within regimes, as a report has it, or by fraction. Raises
    JaxlvError if a series would be in two of them.
    """
    data, ids = config.data, series_set.ids_N
    listed = ("train_ids", "validation_ids", "test_ids")
    where = ", ".join(f"data.{name}" for name in listed if getattr(data, name))
    if data.train_ids or data.validation_ids or data.test_ids:
        split = series.split_ids(ids, data.train_ids, data.validation_ids, data.test_ids, where)
    elif data.stratify:
        split = series.split_stratified(ids, series.regimes(series_set), data.fractions, data.seed, "data.fractions")
    elif data.split != "fractions":
        split = series.REPORTED_SPLITS[data.split](ids)
    else:
        split = series.split_fraction(ids, data.fractions, data.seed, "data.fractions")
    series.check_disjoint(series_set, split)
    if data.train_share == 1:
        return split
    return replace(split, train=split.train[: max(1, round(data.train_share * len(split.train)))])


def load_inputs(config: RunConfig, folder: Path | None = None) -> Inputs:
    """Loads everything that `config` names. Raises JaxlvError, which names the faulty part."""
    if config.model.deterministic:
        compute_deterministically()
    return _inputs(config, load_series(config, folder), lambda: load_base(config))


def load_inputs_of(configs: Sequence[RunConfig]) -> list[Inputs]:
    """Loads the inputs of several configs; series and a base that several of them name are loaded once."""
    if any(config.model.deterministic for config in configs):
        compute_deterministically()
    series_of = functools.lru_cache(lambda data: load_series(replace(RunConfig(), data=data)))
    base_of = functools.lru_cache(lambda model: load_base(replace(RunConfig(), model=model)))

    def source(data: DataConfig) -> DataConfig:
        kept = ("path", "preset", "simulate", "seed", "bad_series")
        return DataConfig(**{name: getattr(data, name) for name in kept})

    return [_inputs(config, series_of(source(config.data)), functools.partial(base_of, config.model)) for config in configs]


def _inputs(config: RunConfig, series_set: SeriesSet, base: Callable[[], Base]) -> Inputs:
    split = split_series(config, series_set)
    _check_validation(config, series_set, split)
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
    """Returns the config that begins from an adapter in PEFT's format, and has its rank, alpha, targets and trained head."""
    model = Qwen2(ModelConfig.from_folder(base_of(config.model)))
    theirs = adapters.lora_config(adapter, adapters.load_adapter(adapter, model))
    return replace(config, lora=replace(_taken_over(config.lora, theirs), init=str(adapter)))


def _taken_over(own: LoraConfig, theirs: LoraConfig) -> LoraConfig:
    """Returns the adapter's settings, with the run's own dropout, and with the run's own head if the adapter has none."""
    head = own.head if theirs.head == "frozen" else theirs.head
    return replace(theirs, head=head, dropout=own.dropout)


def _check_validation(config: RunConfig, series_set: SeriesSet, split: Split) -> None:
    """Raises JaxlvError, before anything is written, if a validation of this training would be impossible."""
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


def check_fits(configs: Sequence[RunConfig]) -> None:
    """Raises JaxlvError if one of several runs cannot train in the memory, before a series or a weight is read.

    A base of the hub that is not a folder here is left out: its runs are checked when they begin.
    """
    for settings in {config.model for config in configs}:
        if settings.path == "embedded" or os.path.isdir(at_home(settings.path)):
            model = architecture_of(settings, base_of(settings))
            needs.check_training([config for config in configs if config.model == settings], model, loaded=False)


def architecture_of(settings: ModelSettings, base: Path) -> Qwen2:
    """Returns the model in a folder, computing as the settings say; no weights are read."""
    check_kernel(settings.attention)
    return Qwen2(ModelConfig.from_folder(base), jnp.dtype(settings.dtype), settings.attention)


class Base(NamedTuple):
    """A base that is loaded, and the folder that it came from."""

    folder: Path
    model: Qwen2
    params: dict[str, Any]
    alphabet: Alphabet


def load_base(config: RunConfig) -> Base:
    """Loads a config's base; raises JaxlvError if it does not fit in the memory."""
    check_kernel(config.model.attention)  # before a model is fetched
    compute_with_care()
    base = base_of(config.model)
    needs.check_weights(architecture_of(config.model, base), config.model.path)
    model, params = load_pretrained(base, config.model.dtype, config.model.attention)
    return Base(base, model, params, load_alphabet(base, model.config.vocab_size))
