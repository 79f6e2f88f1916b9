"""Logits, likelihoods and losses that are NaN or infinite end every program: nothing is forecast or scored from them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jaxlv as library
from jaxlv.analysis import logits
from jaxlv.config import EvaluateConfig, LoraConfig, RunConfig, SamplingConfig, build_config
from jaxlv.data import series
from jaxlv.errors import JaxlvError, NotFinite, all_finite
from jaxlv.forecasting.evaluate import evaluate
from jaxlv.forecasting.likelihood import nats_per_value
from jaxlv.forecasting.sampler import Sampler
from jaxlv.lora import adapters, export
from jaxlv.model.weights import load_pretrained, save_pretrained
from jaxlv.runs import sources, validation
from jaxlv.text.codec import Codec
from jaxlv.text.tokens import load_alphabet
from tests.programs import CONFIG, content, jaxlv


@pytest.fixture(scope="module")
def place(tiny_base, waves, tmp_path_factory) -> Path:
    """Makes series, a config, and a base with finite weights so large that its logits are not finite."""
    folder = tmp_path_factory.mktemp("overflow")
    model, params = load_pretrained(tiny_base)
    down = params["model.layers.0"]["mlp"]["down_proj"]
    down["weight"] = down["weight"] * 1e30  # its square is out of range: a norm that turned this into 0 would hide it
    save_pretrained(folder / "base", model, params)
    series.save(folder / "series.h5", waves(12, 24))
    (folder / "tiny.toml").write_text(CONFIG.format(data=folder / "series.h5", base=folder / "base"))
    return folder


@pytest.fixture(scope="module")
def broken(tiny_base, random_lora) -> Sampler:
    """Makes an adapter with one NaN over a sound base."""
    model, params = load_pretrained(tiny_base)
    lora = random_lora(params, rank=2)
    half = lora["model.layers.0"]["self_attn"]["q_proj"]
    half["B"] = half["B"].at[0, 1].set(jnp.nan)
    return Sampler(model, {"params": params, "lora": lora}, load_alphabet(tiny_base, 32), Codec(), SamplingConfig())


GIVEN = ["--data", "{data}", "--series", "1,4", "--context", "8", "--horizon", "2", "--samples", "1", "--out", "{new}"]
FIRST = "series 1, sample 0, token 1 (step 1): the model's logits are not finite"
VERBS = {
    "forecast": (["forecast", "{base}", *GIVEN], FIRST),
    "forecast: no grammar": (["forecast", "{base}", "--no-grammar", *GIVEN], FIRST),
    "evaluate": (["evaluate", "{base}", "--batch-series", "2", *GIVEN], FIRST),
    "stress": (["stress", "{base}", "--groups", "amplitude", *GIVEN], FIRST),
    "train": (["train", "{config}", "--out", "{new}"], "the loss or the gradient is not finite at step 1"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_model_that_overflows_ends_a_program(verb, place, tmp_path):
    arguments, words = VERBS[verb]
    places = {"base": place / "base", "data": place / "series.h5", "config": place / "tiny.toml", "new": tmp_path / "new"}
    outcome = jaxlv(*(argument.format(**places) for argument in arguments))
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1), outcome
    assert words in outcome.err and "nan" not in outcome.out
    assert not [name for name in content(tmp_path) if name.endswith((".csv", "report.html", "metrics.json", "stress.json"))]


def test_a_nan_in_an_adapter_ends_what_uses_it(broken, waves):
    data, config = waves(3, 24), EvaluateConfig(context=8, horizon=2, samples=1, batch_series=2)
    uses: dict[str, tuple[str, Any]] = {
        "forecast": ("logits", lambda: library.forecast(broken, data, 2, 1, context=8, batch_series=2)),
        "evaluate": ("logits", lambda: evaluate({"tuned": broken}, data, config)),
        "nats": ("likelihoods", lambda: nats_per_value(broken, data, 8, 2, 2)),
        "costs": ("likelihoods", lambda: logits.token_costs(broken, data, 8)),
        "padding": ("logits", lambda: logits.padding_sides(broken, data, 8)),
    }
    for name, (numbers, use) in uses.items():
        with pytest.raises(NotFinite) as caught:
            use()
        assert f"the model's {numbers} are not finite; its weights or adapters hold" in str(caught.value), name


def test_a_validation_that_is_not_finite_ends_a_run(place, tiny_base, broken):
    tree = {"data": {"path": str(place / "series.h5")}, "windows": {"length": 64, "context_steps": (8, 12)}}
    more = {"model": {"path": str(tiny_base)}, "train": {"batch_size": 2, "validation_windows": 2, "forecast_series": 0}}
    config = build_config(RunConfig, {**tree, **more})
    inputs = sources.load_inputs(config)
    with pytest.raises(NotFinite, match="validation: the losses are not finite"):
        validation.validated(config, inputs, broken.variables["lora"])
    assert math.isfinite(validation.validated(config, inputs)["validation_loss"])


def test_an_export_of_what_is_not_finite_leaves_nothing(broken, place, tmp_path):
    lora, config, origin = broken.variables["lora"], LoraConfig(2), adapters.Origin("base", None, broken.codec)
    sound = jax.tree.map(jnp.nan_to_num, lora)
    with pytest.raises(JaxlvError, match=r"q_proj\.lora_B\.weight holds NaN"):
        export.export_peft(tmp_path / "new", broken.model, broken.variables["params"], lora, config, origin)
    with pytest.raises(NotFinite, match="the model's logits are not finite"):
        export.export_peft(tmp_path / "new", *load_pretrained(place / "base"), sound, config, origin)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_is_enough(value):
    with pytest.raises(NotFinite, match=r"here: the losses are not finite"):
        all_finite(jnp.array([[0.0, value]]), "the losses", "here")
    assert all_finite(1e300, "the losses", "here") == 1e300
