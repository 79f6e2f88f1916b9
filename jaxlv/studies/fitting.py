"""A config that fits series: windows, batch and steps that suit their number and lengths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jaxlv.config import (
    CodecConfig,
    DataConfig,
    EvaluateConfig,
    LoraConfig,
    ModelSettings,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    WindowConfig,
)  # fmt: skip
from jaxlv.data.observations import Observations
from jaxlv.errors import JaxlvError
from jaxlv.model.bases import BASE, EMBEDDED
from jaxlv.studies.given import LONGEST, base_for
from jaxlv.studies.progress import Say, unsaid

SEVERAL = 10  # series from which on whole series are split; fewer are all trained on, without their last steps
SHARES, ALL_TRAIN = (0.7, 0.15, 0.15), (1.0, 0.0, 0.0)
HEADROOMS = (0.35, 0.45, 0.55, 0.65)
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def fitted(
    found: Observations,
    model: str | None = None,
    holdout: int | None = None,
    steps: int = 200,
    *,
    say: Say = unsaid,
    **data: Any,
) -> RunConfig:
    """Returns the config of a run on these series.

    With `holdout` the last steps of every series are kept for the test, and all series are trained on; if it is None, this
    is done for fewer than SEVERAL series, with a fifth of the shortest. Without it SEVERAL or more series are split, whole,
    and all of fewer are trained on. Without a `model`, or of "embedded", it is the base that knows the steps that are
    trained on better, and `say` is told why. Raises JaxlvError if the series are too short.
    """
    lengths, V = sorted(map(len, found.values)), len(found.variables)
    if holdout is None:
        holdout = 0 if len(found) >= SEVERAL else max(lengths[0] // 5, 1)
    rest = lengths[-1] - holdout
    if rest < 8:
        expected = f"at least 8 steps besides the {holdout} that are held out"
        raise JaxlvError("the series are too short to train on", where=found.where, expected=expected, found=lengths[-1])
    codec = CodecConfig(headrooms=HEADROOMS)
    step = V * (codec.decimals + 3)  # tokens of a step
    length = min(LONGEST, -(-rest * step // 16) * 16 + 16)
    inside = min(rest, length // step)
    horizon = holdout or max(inside // 2, 1)
    split = DataConfig(**{"fractions": SHARES if len(found) >= SEVERAL else ALL_TRAIN, **data}, holdout=holdout)
    if model in (None, BASE):
        model, why = base_for(found, split)
        say(f"base: {model}: {why}")
    embedded = model in EMBEDDED
    context = max(rest if holdout else inside - horizon, 1)
    return RunConfig(
        data=split,
        codec=codec,
        windows=WindowConfig(
            length=length, stride=max(length // 2, step), context_steps=(max(inside // 5, 4), max(4 * inside // 5, 5))
        ),
        model=ModelSettings(path=model, attention="blocked" if embedded else "xla", loss="alphabet"),
        lora=LoraConfig(rank=16 if embedded else 8, targets=ALL, head="frozen"),
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=5e-4 if embedded else 1e-4, schedule="cosine", warmup_steps=5, clip_norm=1.0
        ),
        train=TrainConfig(
            steps=steps, batch_size=min(4, max(len(found), 1)), validate_every=0 if holdout else max(steps // 4, 1),
            validation_windows=16, forecast_series=0, checkpoint_every=max(steps // 2, 1),
        ),
        evaluate=EvaluateConfig(context=context, horizon=horizon),
    )  # fmt: skip


def changed(config: RunConfig, **sections: Any) -> RunConfig:
    """Returns a config with some settings of its sections replaced."""
    return replace(config, **{name: replace(getattr(config, name), **values) for name, values in sections.items()})
