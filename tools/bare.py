"""Models that are no run: a base from a folder or the hub, with an adapter in PEFT's format laid over it or without."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path

from jaxlv.config import CodecConfig, ModelSettings, RunConfig
from jaxlv.data import series
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.forecasting.forecaster import Forecaster
from jaxlv.lora.adapters import load_adapter, read_codec
from jaxlv.model.weights import resolve
from jaxlv.runs import run, sources
from jaxlv.storage.door import is_there
from jaxlv.storage.foreign import hub_revision
from jaxlv.text.codec import Codec
from jaxlv.tools.console import option

TEXT = ("scale", "decimals")


def add_bare(parser: argparse.ArgumentParser) -> None:
    """--adapter, --scale, --decimals, --dtype and --revision, for a model that is no run."""
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="an adapter in PEFT's format, laid over a bare model")
    for name, words in (("scale", "scale rule (default: the adapter's, or context)"),
                        ("decimals", "decimals of the text (default: the adapter's, or 2)")):  # fmt: skip
        parser.add_argument(f"--{name}", **option(CodecConfig, name, f"of a bare model: {words}"))
    parser.add_argument("--dtype", default="float32", **option(ModelSettings, "dtype", "of a bare model"))
    parser.add_argument("--revision", default="", help="of a hub id: a commit, tag or branch")


def open_subject(options: argparse.Namespace) -> tuple[run.FinishedRun | None, RunConfig, SeriesSet]:
    """(the run, or None for a bare model; its config, or the defaults; the series) that options.subject and data name."""
    folder = Path(options.subject)
    finished = run.load_run(folder) if is_there(folder / run.CONFIG) else None
    if finished:
        _refuse_bare(options)
    else:
        resolve(options.subject, getattr(options, "revision", None) or None)  # before series are made for nothing
    config = finished.config if finished else RunConfig()
    data = series.load(options.data) if options.data else sources.load_series(config, finished.folder if finished else None)
    return finished, config, data


def _refuse_bare(options: argparse.Namespace) -> None:
    """JaxlvError where options of a bare model are given for a run."""
    if any(getattr(options, name, None) is not None for name in TEXT):
        raise JaxlvError("a run keeps the text format that it was trained with", where="--scale, --decimals")
    if getattr(options, "adapter", None):
        raise JaxlvError("a run has an adapter of its own", where="--adapter", hint="name the base that it was made for")


def bare_forecasters(
    config: RunConfig, subject: str, data: SeriesSet, options: argparse.Namespace | None = None
) -> tuple[RunConfig, dict[str, Forecaster]]:
    """(the config with the model's name and text format, its forecasters) of a folder or a hub id: the untuned model, and
    the tuned one where the options of `add_bare` name an adapter.
    """
    model_settings, text, adapter = replace(config.model, path=subject), config.codec, options and options.adapter
    below = read_codec(adapter) if adapter else None
    if below:
        text = CodecConfig(**{field.name: getattr(below, field.name) for field in fields(CodecConfig)})
    if options:
        model_settings = replace(model_settings, dtype=options.dtype, revision=options.revision)
        text = replace(text, **{name: value for name in TEXT if (value := getattr(options, name)) is not None})
    config = replace(config, model=model_settings, codec=text)
    base, model, params, alphabet = sources.load_base(config)
    as_trained = below is not None and below.scale == text.scale
    codec = Codec.of(text, below.dataset_alpha) if below and as_trained else Codec.for_data(text, data.values_NTV)
    untuned = Forecaster(model, {"params": params}, alphabet, codec, config.sampling)
    named = replace(config, model=replace(model_settings, path=model_name(subject, base)))
    if not adapter:
        return named, {"untuned": untuned}
    lora = load_adapter(adapter, model, subject)
    print("note: what the adapter was trained on is not in its files: whether it has seen these series cannot be told")
    return named, {"tuned": replace(untuned, variables={"params": params, "lora": lora}), "untuned": untuned}


def model_name(subject: str, base: Path) -> str:
    """The name of a model folder, or a hub id with its revision."""
    revision = hub_revision(base)
    return f"{subject}@{revision}" if revision else Path(subject).name
