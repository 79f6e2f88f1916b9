"""What a notebook needs: it opens a model by its name, and forecasts series as a frame or as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import pandas as pd

from jaxlv.config import CodecConfig, ModelSettings, SamplingConfig
from jaxlv.data.loading import load_series, told
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError, warn
from jaxlv.forecasting.forecast import Forecast
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.sampler import Sampler
from jaxlv.lora.adapters import load_adapter, read_codec
from jaxlv.model.bases import BASE, EMBEDDED_BASE, base_of_adapter
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import Qwen2
from jaxlv.runs import run, sources
from jaxlv.runs.billing import Purse
from jaxlv.storage.door import is_folder, is_there
from jaxlv.studies.choice import ONE, Choice
from jaxlv.studies.given import room
from jaxlv.text.codec import Codec
from jaxlv.text.tokens import QWEN_END, load_alphabet

PATHS = (str, Path)
OPENING = ("adapter", "codec", "tokenizer", "pays")  # keywords of `forecast` that are passed on to `open_model`
Model = Sampler | str | Path | Qwen2 | Sequence[Any]


def open_model(
    model: Model,
    adapter: str | Path | None = None,
    *,
    codec: Codec | None = None,
    settings: ModelSettings | None = None,
    tokenizer: str | Path | None = None,
    pays: bool = True,
) -> Sampler:
    """Opens a model as a `Sampler`: the model with everything that turns series into forecasts.

    "embedded" is opened as "embedded-cycles": which of jaxlv's bases knows series better is asked where there are series.
    A model without a folder has the alphabet of Qwen2.5 or of the embedded base, depending on the size of its vocabulary.
    If a run has a budget, its work is reserved in its ledger, in the phase "evaluation".

    Args:
        model: a run folder, a model folder, a hub id, "embedded" (with an adapter: the base that it was made for),
            "embedded-cycles", "embedded-field", what `load_pretrained` returned (with or without an overlay after it), or a
            model bound to its variables.
        adapter: a folder in PEFT's format, which is laid over the model.
        codec: how series are written; in the form that the run or the adapter was trained on if None.
        settings: how a named model computes.
        tokenizer: the folder that says which tokens are digits; the model's own if None.
        pays: if False, nothing is reserved of a run's budget, and a warning says so.

    Returns:
        A `Sampler`. Called with a set of N series and a `jaxlv.Request` it returns a `Forecast`, whose samples have the axes
        (N, S, H, V): samples, steps ahead, variables; in the units of the data.

    Raises:
        JaxlvError: if something is missing or does not fit; BudgetExceeded, which is one, if a budget is too small.

    Example:
        >>> import jaxlv
        >>> series = jaxlv.simulate(series=2, steps=20).ready().series
        >>> sampler = jaxlv.open_model("embedded")
        >>> sampler(series, jaxlv.Request(context=16, horizon=2, samples=3)).samples_NSHV.shape
        (2, 3, 2, 2)
    """
    for name, given, kinds in (("adapter", adapter, PATHS), ("tokenizer", tokenizer, PATHS), ("codec", codec, Codec)):
        if not isinstance(given, (type(None), kinds)):  # type: ignore[arg-type]
            expected = "a folder" if kinds is PATHS else "a Codec"
            raise JaxlvError("wrong type", where=name, expected=expected, found=type(given).__name__)
    if tokenizer is not None and not is_folder(tokenizer):
        raise JaxlvError("no such folder", where=tokenizer, expected="a folder with a tokenizer")
    model = getattr(model, "sampler", model)  # of a jaxlv.Forecaster
    if model == BASE and adapter is not None:
        model = base_of_adapter(Path(adapter))
    if isinstance(model, Sampler):
        found = model
    elif isinstance(model, PATHS):
        found = _named(str(model), settings or ModelSettings(), pays)
    else:
        found = _held(model, tokenizer)
    if tokenizer is not None and isinstance(model, (Sampler, str, Path)):
        found = replace(found, alphabet=load_alphabet(Path(tokenizer), found.model.config.vocab_size))
    if adapter is not None:
        if "lora" in found.variables:
            raise JaxlvError("the model has an adapter of its own", where=adapter, hint="name the base that it was made for")
        lora = load_adapter(adapter, found.model, model if isinstance(model, (str, Path)) else None)
        codec = codec or read_codec(Path(adapter))
        found = replace(found, variables={**found.variables, "lora": lora})
    return replace(found, codec=codec) if codec else found


def _named(name: str, settings: ModelSettings, pays: bool) -> Sampler:
    if is_there(Path(name) / run.CONFIG):
        finished = run.load_run(Path(name))
        if finished.config.budget.flops is None:
            return finished.tuned
        if pays:
            return replace(finished.tuned, meter=Purse(finished.config, finished.folder, finished.tuned.model))
        told = f"{name}: what is computed is not paid from the run's budget (pays=False)"
        warn(told)
        return finished.tuned
    return sources.open_base(replace(settings, path=name))


def _held(given: Qwen2 | Sequence[Any], tokenizer: str | Path | None) -> Sampler:
    """Returns the forecaster of a bound model, or of (model, params) with or without an overlay."""
    if isinstance(given, Qwen2):
        model, variables = given.clone(parent=None), dict(given.variables)
    elif isinstance(given, Sequence) and 2 <= len(given) <= 3 and isinstance(given[0], Qwen2):
        model, variables = given[0], dict(zip(("params", "lora"), given[1:], strict=False))
    else:
        expected = "a name, (model, params), or (model, params, lora)"
        raise JaxlvError("no model", expected=expected, found=type(given).__name__)
    if not variables.get("params"):
        raise JaxlvError("the model has no parameters", expected='(model, params), or model.bind({"params": params})')
    size = model.config.vocab_size
    if tokenizer is not None:
        alphabet = load_alphabet(Path(tokenizer), size)
    elif size == ModelConfig.from_folder(EMBEDDED_BASE).vocab_size:
        alphabet = load_alphabet(EMBEDDED_BASE, size)
    elif size > max(QWEN_END.values()):
        alphabet = load_alphabet(Path("-"), size)  # no folder: Qwen's own ids
    else:
        hint = "give tokenizer=FOLDER, or the model's name"
        raise JaxlvError("the meaning of its tokens is unknown", where=f"a model of {size} tokens", hint=hint)
    return Sampler(model, variables, alphabet, Codec.of(CodecConfig(), None), SamplingConfig())


class Options(TypedDict, total=False):
    """Keywords of `forecast`: some of `open_model`'s, and settings of the config's sections [sampling] and [evaluate]."""

    adapter: str | Path | None
    codec: Codec | None
    tokenizer: str | Path | None
    pays: bool
    batch_series: int
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    grammar: bool


def forecast(
    model: Model,
    series: SeriesSet | pd.DataFrame | np.ndarray | str | Path,
    horizon: int,
    samples: int = 20,
    *,
    context: int | None = None,
    seed: int = 0,
    arrays: bool = False,
    **settings: Unpack[Options],
) -> pd.DataFrame | Forecast:
    """Forecasts the steps after each series, in one call.

    Args:
        model: what `open_model` takes.
        series: what `load_series` takes: an array (T, V) of T steps and V variables, or (N, T, V) of N series, a frame, a
            file, ...
        horizon: steps ahead.
        samples: trajectories of each series.
        context: the last steps that the model is given; if None all, of a model by its name as far as it has
            read such long texts.
        seed: of the samples.
        arrays: whether the samples themselves are returned.
        **settings: `adapter`, `codec`, `tokenizer` and `pays` as in `open_model`; `batch_series`, the number of series
            decoded together, by default as many as the device's memory holds; temperature, top_k, top_p,
            repetition_penalty and grammar as in the config.

    Returns:
        A frame with a row for each series, step, time, variable and statistic (median, mean, quantiles, samples), with its
        value in the units of the data; `attrs["base"]` is the base that "embedded" stood for. With `arrays` a `Forecast`,
        whose `samples_NSHV` have the axes (N, S, H, V), NaN for steps that a sample did not complete.

    Raises:
        JaxlvError: if an argument is unknown or does not fit.

    Example:
        >>> import jaxlv, numpy as np
        >>> series = np.array([[30, 4], [47.2, 6.1], [70.2, 9.8], [77.4, 35.2]])
        >>> jaxlv.forecast("embedded", series, horizon=2, samples=3, arrays=True).samples_NSHV.shape
        (1, 3, 2, 2)
    """
    for name in settings:
        if name not in Options.__annotations__:
            raise JaxlvError(f"unknown setting {name}", where="forecast", expected=", ".join(Options.__annotations__))
    given: dict[str, Any] = dict(settings)
    opening = {name: given.pop(name) for name in OPENING if name in given}
    forecaster, known = open_model(model, **opening), as_series(series)
    steps = known.values_NTV.shape[1]
    if context is None and isinstance(model, PATHS):
        trained = run.read_config(Path(model)) if is_there(Path(model) / run.CONFIG) else None
        context = min(steps, room(forecaster, model, trained, len(known.variables), horizon))
        if context < steps:
            warn(f"the last {context} of {steps} steps are the context: the model has read no longer texts")
    request = Request(steps if context is None else context, horizon, samples, seed, given.pop("batch_series", 0))
    if request.context > steps:
        raise JaxlvError("the context does not fit the series", expected=steps, found=context)
    known = known.steps(steps - request.context, steps)
    request = replace(request, batch=min(request.batch, len(known)))
    forecaster = forecaster.with_sampling(**given)
    named = isinstance(model, PATHS) and opening.get("adapter") is None
    choice = Choice(ModelSettings(path=str(model))) if named else ONE
    reader = choice.reader(forecaster, known, request.context)
    found = reader.sampler(known, request)
    if arrays:
        return found
    frame = found.to_frame()
    frame.attrs.update({"base": reader.name} if reader.name else {})
    return frame


def as_series(series: Any) -> SeriesSet:
    """Returns series from what a notebook holds: see `jaxlv.load_series`. What is told of them are JaxlvWarnings."""
    if isinstance(series, SeriesSet):
        return series
    found = load_series(series)
    return told(found.ready(), found)
