"""What a run reads as text, in training and in validation, and what a validation measures."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxlv.activity import compiling
from jaxlv.config import CodecConfig, DataConfig, RunConfig, TrainConfig, WindowConfig
from jaxlv.errors import all_finite
from jaxlv.flops.ledger import Meter
from jaxlv.forecasting import metrics
from jaxlv.forecasting.request import Request
from jaxlv.lora import overlay
from jaxlv.model import placement
from jaxlv.model.qwen2 import Qwen2
from jaxlv.runs.sources import Inputs
from jaxlv.steps.stack import how_of
from jaxlv.steps.train import Batches, How, make_validation_step
from jaxlv.text.codec import Codec
from jaxlv.text.tokens import IGNORED, Windows, make_windows

NO_METER: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
VALIDATION_SEED = 1_000_000_007  # beside train.seed, so that validation windows are never an epoch's


class _Key(NamedTuple):
    """What windows depend on."""

    data: DataConfig
    codec: CodecConfig
    windows: WindowConfig
    seed: int
    fitted: Codec


class Texts:
    """The windows that a run trains on and is validated on, made when they are asked for."""

    def __init__(self, config: RunConfig, inputs: Inputs):
        self.config, self.inputs = config, inputs

    @property
    def key(self) -> Hashable:
        """Returns what runs with the same windows have in common."""
        c = self.config
        return _Key(c.data, c.codec, c.windows, c.train.seed, self.inputs.codec)

    @functools.cached_property
    def batches(self) -> Batches:
        """Returns the batches, by step."""
        t = self.config.train
        train = self.inputs.series.select(self.inputs.split.train).written
        return Batches(lambda epoch: self._windows(train, (t.seed, epoch)), t.batch_size, t.accumulate, t.seed)

    @functools.cached_property
    def validation_windows(self) -> Windows:
        """Returns at most train.validation_windows windows of the validation series, without overlap, spread evenly."""
        config = self.config
        held = self.inputs.series.select(self.inputs.split.validation).written
        windows = self._windows(held, (config.train.seed, VALIDATION_SEED), config.windows.length)
        count = min(windows.number, config.train.validation_windows)
        return windows.rows(np.linspace(0, windows.number - 1, count).astype(int))

    def _windows(self, each: Sequence[np.ndarray], seed: tuple[int, int], stride: int | None = None) -> Windows:
        return make_windows(each, self.inputs.codec, self.inputs.alphabet, self.config.windows, stride, seed)


def alphabet_of(config: RunConfig, inputs: Inputs) -> tuple[int, ...] | None:
    """Returns the ids over which the loss is normalised; None for the whole vocabulary."""
    return tuple(inputs.alphabet.ids_A.tolist()) if config.model.loss == "alphabet" else None


def validated(
    config: RunConfig, inputs: Inputs, lora: Mapping[str, Any] | None = None, meter: Meter | None = None
) -> dict[str, float]:
    """Validates an overlay under `config`, or the base alone, and returns what `measured` does."""
    return measured(Texts(config, inputs), None, {"params": inputs.params, "lora": dict(lora or {})}, meter)


def measured(texts: Texts, trained: Any, frozen: Any, meter: Meter | None = None) -> dict[str, float]:
    """Returns validation_loss (nats per token), validation_perplexity, and forecast_mae (raw units) if the config has some
    series forecast, of variables that are split in two. A meter pays first; raises BudgetExceeded if it cannot.
    """
    config, inputs, windows = texts.config, texts.inputs, texts.validation_windows
    step = _validation_step(inputs.model, alphabet_of(config, inputs), how_of(config))
    batches = -(-windows.number // config.train.batch_size)
    paid = meter.spend("validation", count=batches, causal=config.causal, narrow=config.narrow) if meter else NO_METER
    with paid, compiling("the validation", id(step), config.train.batch_size, windows.ids_ML.shape[1]):
        record = losses(step, trained, frozen, windows, config.train)
    if config.train.forecast_series:
        lora = frozen["lora"] if trained is None else overlay.join(trained, frozen)["lora"]
        record["forecast_mae"] = forecast_error(config, inputs, lora, meter)
    return record


@functools.lru_cache(maxsize=8)
def _validation_step(model: Qwen2, alphabet: tuple[int, ...] | None, how: How) -> Callable:
    """Returns `make_validation_step`, the same for every run of a model, so that what was compiled for a shape is reused."""
    step = make_validation_step(model, None if alphabet is None else np.array(alphabet), how)
    if model.mesh is None:
        return step
    return lambda trained, frozen, batch: step(trained, frozen, placement.rows(batch, model.mesh))


def losses(step: Callable, trained: Any, frozen: Any, windows: Windows, t: TrainConfig) -> dict[str, float]:
    """Returns cross-entropy (nats per token) and perplexity of windows, a batch at a time, by the step of
    make_validation_step.
    """
    total = tokens = means = 0.0
    for first in range(0, windows.number, t.batch_size):
        rows = np.arange(first, min(first + t.batch_size, windows.number))
        batch = windows.rows(np.resize(rows, t.batch_size))
        batch.labels_ML[len(rows) :] = IGNORED  # a short batch is filled, and the filling is not counted
        loss, count = map(float, step(trained, frozen, batch))
        total, tokens, means = total + loss, tokens + count, means + loss / count
    mean = all_finite(means / windows.number if t.mean == "examples" else total / tokens, "the losses", "validation")
    return {"validation_loss": mean, "validation_perplexity": math.exp(min(mean, 700.0))}


def forecast_error(config: RunConfig, inputs: Inputs, lora: Mapping[str, Any], meter: Meter | None) -> float:
    """Returns the MAE (raw units) of greedy forecasts of the first validation series, with the config's context."""
    t = config.train
    chosen = inputs.series.select(inputs.split.validation[: t.forecast_series])
    context = t.forecast_context or config.evaluate.context
    horizon = min(t.forecast_horizon or config.evaluate.horizon, chosen.values_NTV.shape[1] - context)
    greedy = inputs.forecaster(lora, config, meter).with_sampling(temperature=0.0)
    forecast = greedy(chosen, Request(context, horizon, 1, batch=len(chosen)))
    return float(metrics.mae(forecast.median(), chosen.values_NTV[:, context : context + horizon]).mean())
