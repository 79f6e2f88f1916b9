"""Memory by formula, against XLA's plans, in the docs, and as the doctor tells it."""

from __future__ import annotations

import importlib
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from jaxlv.config import RunConfig, build_config
from jaxlv.errors import JaxlvError
from jaxlv.flops.family import FAMILY
from jaxlv.model import placement
from jaxlv.model.qwen2 import Qwen2
from jaxlv.model.weights import bytes_of
from jaxlv.runs import sources
from jaxlv.steps import footprint
from jaxlv.studies import doctor
from tests.programs import done, jaxlv

ROOT = Path(__file__).resolve().parents[1]
SMALL = FAMILY["qwen2.5-0.5b"]


@pytest.fixture(scope="module")
def memory() -> Any:
    return importlib.import_module("benchmarks.memory")


def model_of(attention: Any = "cudnn", dtype: str = "bfloat16", **sizes: Any) -> Qwen2:
    return Qwen2(replace(SMALL, **sizes), jnp.dtype(dtype), attention)


def test_a_layer_holds_what_stands_in_the_documentation():
    """4F + 10D + 4KH + 8N bytes a token, and 6N more for each key that XLA's scores have."""
    assert footprint.layer_bytes(model_of()) == 4 * 4864 + 10 * 896 + 4 * 2 * 64 + 8 * 14 == 29_040
    assert footprint.scores_bytes(model_of(), 512) == 0
    assert footprint.scores_bytes(model_of("xla"), 512) == 6 * 14 * 512
    assert footprint.scores_bytes(model_of("xla", "float32"), 512) == 8 * 14 * 512
    assert footprint.scores_bytes(model_of("blocked"), 512) == 6 * 14 * 320  # (128 + 256 + 384 + 512) / 4


def plain(**sections: Any) -> RunConfig:
    made = {"windows": {"length": 64}, "train": {"batch_size": 2, "accumulate": 3}, **sections}
    return build_config(RunConfig, {"lora": {"targets": ("q_proj", "v_proj"), "head": "frozen"}, **made})


def test_what_a_step_and_a_forecast_hold_by_hand():
    """Of 64 tokens in a row, all of whose logits are held at once, and of 30 + 4 x 10 steps of ten tokens."""
    config = plain(evaluate={"context": 30, "horizon": 10, "samples": 4}, model={"dtype": "bfloat16"})
    found = footprint.footprint(config, model_of(), logits=2 * 64 * SMALL.vocab_size)
    assert found.batch == 3 * 4 * 3 * 2 * 64  # ids, places and labels of three micro-batches
    assert found.cache == 2 * 24 * 2 * 64 * 2 * 10 * (30 + 4 * 10)
    assert found.training == found.parameters + found.state + found.batch + found.activations
    wide = footprint.footprint(config, model_of(dtype="float32"), logits=64 * SMALL.vocab_size)
    assert (wide.cache, wide.parameters) == (2 * found.cache, 2 * found.parameters)


@pytest.mark.parametrize(("dtype", "times", "logit"), [("bfloat16", 1, 6), ("float32", 2, 8)])
def test_activations_by_hand(dtype, times, logit):
    """Beside logits in float32 stands their gradient, in the model's type; remat keeps one more state than layers."""
    L, F, D, layer, model = 24, 4864, 896, 29_040 * times, model_of(dtype=dtype)
    loss, every = 64 * SMALL.vocab_size * logit, 64 * SMALL.vocab_size
    assert footprint.activations(plain(), model, 1, every) == 64 * L * layer + loss
    remat = plain(model={"remat": True})
    assert footprint.activations(remat, model, 1, every) == 64 * (L + 1) * 2 * times * D + loss
    symbols = plain(model={"loss": "alphabet"})  # 13 outputs take less than the gradients of a layer
    assert footprint.activations(symbols, model, 1, every) == 64 * (L * layer + 6 * F * times)
    down = plain(model={"loss": "alphabet"}, lora={"targets": ("up_proj", "down_proj"), "head": "frozen"})
    more = (2 * F + 2 * D) * times
    assert footprint.activations(down, model, 1, every) == 64 * (L * (layer + more) + 4 * F * times)
    shared = 64 * (L * (layer + more + 2 * F * times) + 4 * F * times)
    assert footprint.activations(down, model, 1, every, several=True) == shared
    both = replace(down, model=replace(down.model, remat=True))
    assert footprint.activations(both, model, 1, every, several=True) == footprint.activations(both, model, 1, every)


def test_the_table_of_all_sizes_is_the_command_s(memory):
    assert memory.markdown() in (ROOT / "docs" / "scale.md").read_text()


def test_eight_devices_hold_what_one_cannot(memory):
    """Of the largest size the parameters must be shared; halves of them, with a window or two for each device."""
    seven = memory.figures("qwen2.5-72b")
    assert seven[-2:] == ["4", "2"] and memory.figures("qwen2.5-0.5b")[-2:] == ["1", "1"]


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="needs jaxlv[cuda-compiler]")
@pytest.mark.parametrize("place", [3, 12, 17])
def test_formulas_are_within_three_percent_of_the_plans_for_cuda(memory, place, monkeypatch):
    """`python -m benchmarks.memory --plans` compares all cases."""
    monkeypatch.setenv("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    formula, plan = memory.compared(memory.CASES[place])
    assert abs(formula / plan - 1) < 0.03


@pytest.fixture
def config(tmp_path) -> RunConfig:
    """A config whose base has the sizes of Qwen2.5-7B, and no weights."""
    (tmp_path / "config.json").write_text(json.dumps(FAMILY["qwen2.5-7b"].to_hf()))
    model = {"path": str(tmp_path), "dtype": "bfloat16"}
    return build_config(RunConfig, {"model": model, "train": {"batch_size": 8}, "windows": {"length": 2048}})


def test_the_doctor_tells_what_every_way_of_sharing_takes(config):
    ways = {share.name: share for share in doctor.shares(config, 4, 80)}
    assert len(ways) == 3 * 2 * 2
    whole = bytes_of(Qwen2(FAMILY["qwen2.5-7b"], jnp.dtype("bfloat16")))
    norms = 2 * 3584 * (2 * 28 + 1)  # and the bias of outputs that no device has alone: none, as 28 and 4 heads divide
    held = [ways[f"{data} x {4 // data}, cudnn"].bytes.parameters for data in (4, 2, 1)]
    assert held == [whole, norms + (whole - norms) // 2, norms + (whole - norms) // 4]
    data, split = ways["4 x 1, cudnn"].bytes, ways["1 x 4, cudnn"].bytes
    assert split.activations > 3 * data.activations and split.state < data.state
    assert (data.repeated, split.repeated) == (0, norms)
    assert ways["4 x 1, cudnn, remat"].bytes.activations < data.activations < ways["4 x 1, xla"].bytes.activations
    assert ways["4 x 1, cudnn"].fits and not ways["1 x 4, xla"].fits
    few = {share.name: share for share in doctor.shares(replace(config, model=replace(config.model, weights="nf4")), 4, 80)}
    assert few["4 x 1, cudnn"].bytes.parameters < 0.4 * whole


def test_attention_that_heads_do_not_divide_is_whole_on_each_device():
    """Qwen2.5-0.5B, whose 14 heads four devices do not divide."""
    D, F, KH, L, V = 896, 4864, 128, 24, SMALL.vocab_size
    attention = 2 * D * D + 2 * D * KH + D + 2 * KH
    cut = V * D + L * 3 * D * F
    rest = L * attention + D * (2 * L + 1)
    config = plain(model={"dtype": "bfloat16"}, lora={"rank": 8, "targets": ("q_proj", "up_proj"), "head": "bias"})
    found = footprint.footprint(config, model_of(), split=4)
    assert (found.parameters, found.repeated) == (2 * (cut // 4 + rest), 2 * rest)
    a, b = L * 8 * (D + D), L * 8 * (D + F // 4)
    assert found.state == 3 * 4 * (a + b + V // 4)  # with two moments of each


def test_layers_over_data_are_told_as_cut(config):
    over = replace(config, mesh=replace(config.mesh, fsdp=True))
    whole, cut = (
        {share.name: share for share in doctor.shares(one, 4, 80)}["4 x 1, cudnn"].bytes.parameters for one in (config, over)
    )
    layers = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    assert whole - cut == 2 * layers * 3 // 4


def test_what_fits_leaves_room_for_what_the_formulas_do_not_tell(config):
    found = doctor.shares(config, 1, 80)[-1]
    need = found.bytes.training
    assert found.fits and not replace(found, memory=int(need * 1.02)).fits and replace(found, memory=int(need * 1.04)).fits


def test_cudnn_is_refused_where_devices_share_a_head_of_keys(config, tmp_path, monkeypatch):
    """Qwen2.5-3B, with 16 heads of queries and 2 of keys, on four devices."""
    (tmp_path / "config.json").write_text(json.dumps(FAMILY["qwen2.5-3b"].to_hf()))
    told = doctor.shares(config, 4, 80)
    assert {(share.split, share.attention) for share in told} == {
        (1, "xla"),
        (1, "cudnn"),
        (2, "xla"),
        (2, "cudnn"),
        (4, "xla"),
    }
    placement.check_attention("cudnn", FAMILY["qwen2.5-3b"], 2)
    placement.check_attention("xla", FAMILY["qwen2.5-3b"], 4)
    monkeypatch.setattr(sources, "check_kernel", lambda kernel: None)  # of this machine
    on_four = replace(config, mesh=replace(config.mesh, model=4), model=replace(config.model, attention="cudnn"))
    with pytest.raises(JaxlvError, match=r"mesh\.model: cuDNN cannot share a head of keys .* found 4 devices; 16 heads"):
        sources.load_base(on_four)


def test_windows_are_shared_by_devices_that_divide_them(config):
    six = replace(config, train=replace(config.train, batch_size=6))
    assert {(share.data, share.split) for share in doctor.shares(six, 4, 80)} == {(2, 2), (1, 4)}


def test_the_command_needs_no_device_and_no_weights(config):
    settings = [f"model.path={config.model.path}", "train.batch_size=8", "model.dtype=bfloat16"]
    words = [part for one in settings for part in ("--set", one)]
    found = json.loads(done("doctor", "demo", "--devices", "2", "--memory", "24", "--json", *words))
    assert len(found["shares"]) == 8 and found["shares"][0]["memory"] == 24e9
    assert "of which config" in jaxlv("doctor", "--devices", "2").err
