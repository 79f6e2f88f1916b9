"""Checkpoints of GPTQ and AWQ: unpacked to the numbers that their tools mean, or refused by name.

The packers here are written after the formats, and share nothing with what reads them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

import jaxlv
from jaxlv.errors import JaxlvError
from jaxlv.model import packed, weights
from jaxlv.model.config import ModelConfig

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False, "sym": True, "damp_percent": 0.01}
AWQ = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": 16,
    "zero_point": True,
    "version": "gemm",
    "modules_to_not_convert": None,
}
UP = "model.layers.0.mlp.up_proj"


def packed_gptq(generator: Any, inputs: int, outputs: int, settings: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    """Returns (tensors, weight) of a projection of random numbers, with bit shifts of Python's own whole numbers."""
    bits, group = settings["bits"], settings["group_size"] if settings["group_size"] > 0 else inputs
    p, groups, top = 32 // bits, inputs // group, 2**bits
    number = generator.integers(0, top, (inputs, outputs))
    zero = generator.integers(1, top, (groups, outputs))
    scale = generator.uniform(0.01, 0.1, (groups, outputs)).astype(np.float16)
    of_input = np.arange(inputs) // group
    if settings["desc_act"]:
        of_input = generator.permutation(of_input)
    less = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1
    qweight, qzeros = np.zeros((inputs // p, outputs), object), np.zeros((groups, outputs // p), object)
    for d, f in np.ndindex(number.shape):
        qweight[d // p, f] |= int(number[d, f]) << (bits * (d % p))
    for g, f in np.ndindex(zero.shape):
        qzeros[g, f // p] |= int(zero[g, f] - less) << (bits * (f % p))
    weight = np.array([[float(scale[of_input[d], f]) * (number[d, f] - zero[of_input[d], f]) for d in range(inputs)]
                       for f in range(outputs)])  # fmt: skip
    held = {"qweight": words(qweight), "qzeros": words(qzeros), "scales": scale, "g_idx": of_input.astype(np.int32)}
    return held, weight


def packed_awq(generator: Any, inputs: int, outputs: int, settings: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    """The same in AWQ's order: the first four bits of a word are output 0, the next output 2, then 4, 6, 1, 3, 5, 7."""
    group = settings["group_size"] if settings["group_size"] > 0 else inputs
    number = generator.integers(0, 16, (inputs, outputs))
    zero = generator.integers(0, 16, (inputs // group, outputs))
    scale = generator.uniform(0.01, 0.1, zero.shape).astype(np.float16)
    found = []
    for array in (number, zero):
        word = np.zeros((len(array), outputs // 8), object)
        for row, column in np.ndindex(word.shape):
            for place, output in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
                word[row, column] |= int(array[row, 8 * column + output]) << (4 * place)
        found.append(words(word))
    group_D = np.arange(inputs) // group
    weight = (scale[group_D].astype(float) * (number - zero[group_D])).T
    return {"qweight": found[0], "qzeros": found[1], "scales": scale}, weight


def words(numbers: np.ndarray) -> np.ndarray:
    return numbers.astype(np.uint64).astype(np.uint32).view(np.int32)


@pytest.fixture
def made(random_model, tmp_path):
    """(settings) -> (folder with packed projections, {module: weight})."""
    model, params = random_model(vocab_size=40, **SIZES)

    def make(settings: dict[str, Any], zeros: bool = False) -> tuple[Path, dict[str, np.ndarray]]:
        weights.save_pretrained(tmp_path / "model", model, params)
        folder, generator = tmp_path / "model", np.random.default_rng(0)
        config = json.loads((folder / "config.json").read_text()) | {"quantization_config": settings}
        (folder / "config.json").write_text(json.dumps(config))
        flat, expected = dict(load_file(folder / "model.safetensors")), {}
        pack = packed_gptq if settings["quant_method"] == "gptq" else packed_awq
        for module, (outputs, inputs) in weights.projections(model).items():
            del flat[f"{module}.weight"]
            held, expected[module] = pack(generator, inputs, outputs, settings)
            flat |= {f"{module}.{name}": value for name, value in held.items()}
            if zeros:  # as AutoGPTQ writes them
                flat.setdefault(f"{module}.bias", np.zeros(outputs, np.float16))
        save_file(flat, folder / "model.safetensors")
        return folder, expected

    return make


@pytest.mark.parametrize(
    "settings",
    [
        GPTQ, GPTQ | {"bits": 8}, GPTQ | {"checkpoint_format": "gptq_v2"}, GPTQ | {"desc_act": True},
        GPTQ | {"bits": 8, "checkpoint_format": "gptq_v2", "desc_act": True, "group_size": 8}, GPTQ | {"group_size": -1},
        GPTQ | {"checkpoint_format": "gptq", "lm_head": False, "pack_dtype": "int32", "dynamic": None},
        AWQ, AWQ | {"group_size": 32}, AWQ | {"version": "GEMM", "modules_to_not_convert": ["lm_head"]},
    ],
    ids=["4 bits", "8 bits", "version 2", "permuted", "all at once", "one group", "said", "awq", "awq 32", "awq said"],
)  # fmt: skip
def test_packed_weights_are_what_their_tools_mean(made, settings, monkeypatch):
    monkeypatch.setattr(packed, "BLOCK", 300)  # several blocks of inputs
    folder, expected = made(settings)
    model, params = jaxlv.load_pretrained(folder)
    assert model.weights == "full" and ModelConfig.from_folder(folder) == model.config
    flat = traverse_util.flatten_dict(params, sep=".")
    assert len(expected) == 14
    for module, weight in expected.items():
        np.testing.assert_allclose(flat[f"{module}.weight"], weight, rtol=1e-6, atol=1e-7, err_msg=module)
    narrow = traverse_util.flatten_dict(jaxlv.load_pretrained(folder, "bfloat16")[1], sep=".")[f"{UP}.weight"]
    np.testing.assert_array_equal(narrow, jnp.asarray(expected[UP], jnp.float32).astype(jnp.bfloat16))


@pytest.mark.parametrize("settings", [GPTQ, AWQ])
def test_a_group_has_128_inputs_unless_that_is_said(settings):
    """As the tools' own settings begin."""
    found = packed.packing_of({name: value for name, value in settings.items() if name != "group_size"}, "config.json")
    assert isinstance(found, packed.Packing) and found.group == 128
    assert found.shapes(64, 256)["scales"] == (2, 64)


def test_unpacked_weights_go_where_they_are_placed(made):
    folder, _ = made(GPTQ)
    asked = []
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    jaxlv.load_pretrained(folder, place=lambda name: asked.append(name) or one)
    assert f"{UP}.weight" in asked and not any(name.endswith("qweight") for name in asked)


def test_biases_of_zeros_that_some_tools_write_are_left_out(made):
    folder, _ = made(GPTQ, zeros=True)
    jaxlv.load_pretrained(folder)
    flat = load_file(folder / "model.safetensors")
    flat[f"{UP}.bias"] = flat[f"{UP}.bias"] + 1
    save_file(flat, folder / "model.safetensors")
    with pytest.raises(JaxlvError, match=f"unexpected tensor {UP}.bias"):
        jaxlv.load_pretrained(folder)


def test_packed_weights_are_not_rounded_again(made):
    folder, _ = made(GPTQ)
    with pytest.raises(JaxlvError, match="would be rounded again; expected full weights, or int8; found gptq"):
        jaxlv.load_pretrained(folder, weights="int8")


def test_what_is_merged_into_a_packed_base_is_a_full_checkpoint(made, tmp_path):
    folder, _ = made(AWQ)
    model, params = jaxlv.load_pretrained(folder)
    weights.save_pretrained(tmp_path / "full", model, params, folder)
    assert "quantization_config" not in json.loads((tmp_path / "full" / "config.json").read_text())


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("qweight", lambda a: a[:-1], "wrong shape"),
        ("qweight", lambda a: a.astype(np.float32), "has the type F32; expected I32"),
        ("qzeros", lambda a: None, "missing tensor"),
        ("scales", lambda a: np.full_like(a, np.inf), "NaN or infinity"),
        ("g_idx", lambda a: a + 1, "in a group that does not exist"),  # one behind the last
        ("g_idx", lambda a: a - 1, "in a group that does not exist"),
        ("weight", lambda a: np.zeros((64, 32), np.float32), "unexpected tensor"),
    ],
)
def test_damaged_packed_weights_are_one_line(made, name, change, told):
    folder, _ = made(GPTQ)
    flat = dict(load_file(folder / "model.safetensors"))
    value = change(flat.pop(f"{UP}.{name}", None))
    save_file(flat if value is None else {**flat, f"{UP}.{name}": value}, folder / "model.safetensors")
    with pytest.raises(JaxlvError, match=told) as caught:
        jaxlv.load_pretrained(folder)
    assert "\n" not in str(caught.value) and UP in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes' are not implemented"),
        ({"load_in_8bit": True}, "'load_in_8bit' are not implemented"),
        ({"quant_method": "fp8"}, "'fp8' are not implemented"),
        ({"quant_method": "gguf"}, "'gguf' are not implemented"),
        ({"quant_method": "compressed-tensors"}, "'compressed-tensors' are not implemented"),
        ({}, "'no method' are not implemented"),
        ({"quant_method": 3}, "quant_method is not printable text"),
        ([], "quantization_config is not an object"),
        (GPTQ | {"bits": 3}, "gptq with bits 3 is not implemented"),
        (GPTQ | {"bits": True}, "gptq with bits True is not implemented"),
        (GPTQ | {"lm_head": True}, "gptq with lm_head True"),
        (GPTQ | {"checkpoint_format": "marlin"}, "gptq with checkpoint_format 'marlin'"),
        (GPTQ | {"dynamic": {"-:.*down.*": {}}}, "gptq with settings by module"),
        (GPTQ | {"group_size": 12}, "gptq in groups of 12"),
        (GPTQ | {"group_size": 0}, "gptq in groups of 0"),
        (AWQ | {"bits": 8}, "awq with bits 8"),
        (AWQ | {"version": "gemv"}, "awq with version 'gemv'"),
        (AWQ | {"zero_point": False}, "awq with zero_point False"),
        (AWQ | {"modules_to_not_convert": ["q_proj"]}, "awq with modules_to_not_convert "),
        ({"quant_method": "jaxlv", "weights": "int4", "group_size": 64}, "jaxlv with weights 'int4'"),
    ],
)  # fmt: skip
def test_everything_else_is_refused_by_its_name(settings, told):
    raw = {"model_type": "qwen2", "vocab_size": 32, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1}
    with pytest.raises(JaxlvError, match=told) as caught:
        ModelConfig.from_hf({**raw, "num_attention_heads": 4, "quantization_config": settings}, "config.json")
    assert "\n" not in str(caught.value) and "config.json" in str(caught.value)


def test_sizes_that_cannot_be_packed_are_one_line():
    for method, outputs, inputs in (("gptq", 64, 36), ("gptq", 36, 64), ("awq", 36, 64)):
        with pytest.raises(JaxlvError, match=f"{method} packs multiples of 8"):
            packed.check_sizes(packed.Packing(method, 4, 16), outputs, inputs, "here")
    packed.check_sizes(packed.Packing("awq", 4, 16), 64, 36, "here")
