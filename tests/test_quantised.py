"""A base in 8 and 4 bits: codes, scales and products; files; training over it; memory; what is exported."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.flax import load_file, save_file

import jaxlv
from jaxlv.config import LoraConfig, RunConfig, build_config
from jaxlv.data import series
from jaxlv.errors import JaxlvError
from jaxlv.flops import programs
from jaxlv.flops.work import Work
from jaxlv.lora import overlay
from jaxlv.model import quantised, weights
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import Qwen2
from jaxlv.runs import sources, training
from jaxlv.runs.billing import book_of, event_of
from jaxlv.runs.run import load_run
from jaxlv.steps import train
from jaxlv.steps.stack import memory_of
from jaxlv.studies import handover
from jaxlv.studies.evaluate import evaluate
from jaxlv.studies.subjects import Asked
from jaxlv.text.tokens import Windows
from tests.programs import done
from tests.programs import jaxlv as jaxlv_says

BITS = ("int8", "nf4")
DOWN = "model.layers.1.mlp.down_proj"


def drawn(*sizes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=sizes).astype(np.float32)


@pytest.fixture(scope="module")
def saved(random_model, tmp_path_factory) -> Path:
    """Returns a checkpoint of full weights that must not be changed."""
    model, params = random_model(tie_word_embeddings=False)
    folder = tmp_path_factory.mktemp("full") / "model"
    weights.save_pretrained(folder, model, params)
    return folder


@pytest.fixture(scope="module", params=BITS)
def packed(request, saved, tmp_path_factory) -> tuple[Path, Qwen2, dict[str, Any]]:
    """Returns (folder, model, params) of the same in 8 and in 4 bits."""
    model, params = jaxlv.load_pretrained(saved, weights=request.param)
    folder = tmp_path_factory.mktemp(request.param) / "model"
    weights.save_pretrained(folder, model, params)
    return folder, model, params


# ------------------------------------------------------------------------------------------------ numbers


def test_codes_of_8_bits_are_the_nearest_to_each_number():
    weight_FD = drawn(5, 48)
    weight_FD[3] = 0
    with np.errstate(invalid="raise", divide="raise"):  # a row of zeros has no scale to be divided by
        codes, scales = quantised.quantised("int8", weight_FD).values()
    np.testing.assert_allclose(scales, np.abs(weight_FD).max(axis=1) / 127, rtol=1e-6)
    assert codes[scales > 0].max() == 127 or codes.min() == -127
    assert (np.abs(quantised.restored("int8", codes, scales) - weight_FD) <= scales[:, None] * 0.5001).all()


def test_codes_of_4_bits_are_the_nearest_levels_of_their_group(monkeypatch):
    monkeypatch.setattr(quantised, "BLOCK", 300)  # rows of several blocks
    weight_FD = drawn(5, 128)
    weight_FD[3] = 0
    codes, scales = quantised.quantised("nf4", weight_FD).values()
    assert codes.shape == (5, 64) and scales.shape == (5, 2)
    np.testing.assert_array_equal(scales, np.abs(weight_FD.reshape(5, 2, 64)).max(axis=2).astype(jnp.bfloat16))
    within = np.abs(quantised.restored("nf4", codes, scales) - weight_FD)
    for f, d in np.ndindex(weight_FD.shape):
        levels = quantised.TABLE * np.float32(scales[f, d // 64])
        assert within[f, d] == pytest.approx(np.abs(levels - weight_FD[f, d]).min(), abs=1e-6)


def test_the_levels_are_the_quantiles_of_a_normal_distribution():
    """As in appendix E of Dettmers et al. 2023: 8 from below, 9 from above, the two zeros taken once."""
    from scipy.stats import norm

    offset = (1 - 1 / (2 * 15) + 1 - 1 / (2 * 16)) / 2
    above = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    below = norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    levels = np.sort(np.concatenate([above, -below, [0]]))
    np.testing.assert_allclose(quantised.TABLE, levels / levels.max(), atol=1e-6)


@pytest.mark.parametrize(("inputs", "group"), [(896, 64), (4864, 64), (24, 8), (40, 8), (6, 2), (7, 1)])
def test_a_group_has_64_numbers_or_as_many_as_divide_a_row(inputs, group):
    assert quantised.group_of(inputs) == group


@pytest.mark.parametrize("bits", BITS)
def test_what_a_weight_stands_for_is_rounded_once(bits):
    """The product with one input alone is the restored weight, in the type of the input."""
    made = quantised.quantised(bits, drawn(16, 64, seed=2))
    held = [jnp.asarray(value) for value in made.values()]
    found_TF = quantised.product(jnp.eye(64, dtype=jnp.bfloat16)[None], *held, bits)[0]
    np.testing.assert_array_equal(found_TF, jnp.asarray(quantised.restored(bits, **made).T, jnp.bfloat16))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("bits", BITS)
def test_the_product_and_its_gradient_are_those_of_the_restored_weights(bits, dtype):
    x_BTD, weight_FD = jnp.asarray(drawn(2, 3, 128), dtype), drawn(16, 128, seed=1)
    made = quantised.quantised(bits, weight_FD)
    full_FD = jnp.asarray(quantised.restored(bits, **made))
    held = {name: jnp.asarray(value) for name, value in made.items()}
    error = 2e-6 if dtype == jnp.float32 else 2e-2

    def ours(x):
        return (quantised.product(x, *held.values(), bits).astype(jnp.float32) ** 2).sum()

    def theirs(x):
        return (jnp.einsum("BTD,FD->BTF", x.astype(jnp.float32), full_FD) ** 2).sum()

    for found, expected in zip(jax.value_and_grad(ours)(x_BTD), jax.value_and_grad(theirs)(x_BTD), strict=True):
        np.testing.assert_allclose(found, expected, rtol=error, atol=error * float(jnp.abs(expected).max()))


@pytest.mark.parametrize(("bits", "remat"), [("int8", True), ("nf4", False)])
def test_adapters_train_as_over_the_restored_weights(saved, bits, remat):
    """The gradients of A and B in every projection; nothing of the base changes."""
    model, params = jaxlv.load_pretrained(saved, weights=bits)
    flat = traverse_util.flatten_dict(params)
    paths = [path[:-1] for path in flat if path[-1] == "codes"]
    full = {path: leaf for path, leaf in flat.items() if path[-1] not in quantised.LEAVES}
    full |= {
        (*path, "weight"): quantised.restored(bits, *(np.asarray(flat[(*path, name)]) for name in quantised.LEAVES))
        for path in paths
    }
    assert len(paths) == 14
    other = model.clone(weights="full")
    lora = overlay.init_lora(jax.random.key(0), params, LoraConfig(rank=2, targets=overlay.PROJECTIONS, head="frozen"))
    lora = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf + 0.1 if path[-1].key == "B" else leaf, lora)
    ids = jnp.arange(12).reshape(2, 6)
    batch = Windows(ids, jnp.broadcast_to(jnp.arange(6), (2, 6)), ids)

    def loss(lora, model, params):
        return train.window_loss(model, {"params": params, "lora": lora}, batch, how=train.How(remat=remat))[0]

    grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    ours, theirs = grad(lora, model, params), grad(lora, other, traverse_util.unflatten_dict(full))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), ours, theirs)


# -------------------------------------------------------------------------------------------------- files


def test_what_is_saved_is_read_back_bit_for_bit(packed):
    folder, model, params = packed
    again, read = jaxlv.load_pretrained(folder, weights=model.weights)
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, read, params)
    kinds = {name: leaf.dtype for name, leaf in load_file(folder / "model.safetensors").items() if DOWN in name}
    own = quantised.shapes(model.weights, 24, 40)
    assert kinds == {f"{DOWN}.codes": own["codes"].dtype, f"{DOWN}.scales": own["scales"].dtype}
    assert weights.count_params(model) == model.config.parameters
    assert weights.bytes_of(model) == sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def test_full_weights_of_a_folder_in_few_bits_are_the_restored_ones(packed):
    folder, model, params = packed
    full, read = jaxlv.load_pretrained(folder)
    assert full.weights == "full"
    place = traverse_util.flatten_dict(params)
    held = {path[-1]: np.asarray(leaf) for path, leaf in place.items() if ".".join(path[:-1]) == DOWN}
    found = traverse_util.flatten_dict(read, sep=".")[f"{DOWN}.weight"]
    np.testing.assert_array_equal(found, quantised.restored(model.weights, **held))
    narrow = traverse_util.flatten_dict(jaxlv.load_pretrained(folder, "bfloat16")[1], sep=".")[f"{DOWN}.weight"]
    np.testing.assert_array_equal(narrow, found.astype(jnp.bfloat16))
    assert narrow.dtype == jnp.bfloat16


def test_bits_are_not_rounded_to_other_bits(packed):
    folder, model, _ = packed
    other = next(bits for bits in BITS if bits != model.weights)
    with pytest.raises(JaxlvError, match=f"would be rounded again; .* or {other}; found {model.weights}; set model.weights"):
        jaxlv.load_pretrained(folder, weights=other)


def test_an_odd_number_of_inputs_in_4_bits_is_one_line(random_model, tmp_path):
    model, params = random_model(intermediate_size=39)
    weights.save_pretrained(tmp_path / "model", model, params)
    with pytest.raises(JaxlvError, match=r"model\.weights: 4 bits need an even number of inputs; found 39; int8 takes any"):
        jaxlv.load_pretrained(tmp_path / "model", weights="nf4")
    jaxlv.load_pretrained(tmp_path / "model", weights="int8")


def test_weights_of_another_kind_are_refused(saved):
    with pytest.raises(JaxlvError, match=r"unknown weights.*'int4'"):
        jaxlv.load_pretrained(saved, weights="int4")


def test_other_readers_refuse_few_bits_instead_of_misreading_them(packed):
    transformers = pytest.importorskip("transformers")
    config = json.loads((packed[0] / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "jaxlv", "weights": packed[1].weights, "group_size": 64}
    from transformers.quantizers import AutoQuantizationConfig

    with pytest.raises(ValueError, match="jaxlv"):
        AutoQuantizationConfig.from_dict(transformers.AutoConfig.from_pretrained(packed[0]).quantization_config)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (f"{DOWN}.codes", lambda a: a[:-1], "wrong shape"),
        (f"{DOWN}.codes", lambda a: a.astype(jnp.float32), "has the type F32; expected"),
        (f"{DOWN}.scales", lambda a: a.at[0].set(jnp.nan), "NaN or infinity"),
        (f"{DOWN}.scales", lambda a: None, "missing tensor"),
        (f"{DOWN}.weight", lambda a: jnp.zeros((24, 40)), "unexpected tensor"),
    ],
)
def test_a_damaged_folder_in_few_bits_is_one_line(packed, tmp_path, name, change, told):
    folder, model, _ = packed
    flat = load_file(folder / "model.safetensors")
    changed = {**flat, name: change(flat.get(name))}
    save_file({key: value for key, value in changed.items() if value is not None}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    for asked in ("full", model.weights):
        with pytest.raises(JaxlvError, match=told) as caught:
            jaxlv.load_pretrained(tmp_path, weights=asked)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"group_size": 32}, {"weights": "int4"}, {"weights": None}])
def test_other_settings_of_few_bits_are_refused_by_name(packed, tmp_path, change):
    config = json.loads((packed[0] / "config.json").read_text())
    config["quantization_config"] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(JaxlvError, match=f"jaxlv with {next(iter(change))}"):
        ModelConfig.from_folder(tmp_path)


@pytest.mark.parametrize("bits", BITS)
def test_codes_and_scales_go_where_they_are_placed(saved, bits):
    asked = []
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    _, params = jaxlv.load_pretrained(saved, weights=bits, place=lambda name: asked.append(name) or one)
    assert {f"{DOWN}.codes", f"{DOWN}.scales", "model.norm.weight"} <= set(asked) and f"{DOWN}.weight" not in asked
    jax.tree.map(np.testing.assert_array_equal, params, jaxlv.load_pretrained(saved, weights=bits)[1])


# -------------------------------------------------------------------------------------------- memory, overlays

WIDE = ModelConfig(64, 512, 2048, 3, 8, 2, 64, tie_word_embeddings=True)


def plan(kind: Any) -> int:
    """Returns the bytes of a train step in float32, by XLA's plan."""
    work = Work(WIDE, 1, 16, 2, ("q_proj", "down_proj"), weights=kind)
    program: Any = programs.train_program(work, Qwen2(WIDE, weights=kind))
    return memory_of(program.function.lower(*program.arguments).compile())


def test_weights_in_few_bits_do_not_outlive_a_layer():
    """Beside the codes, a train step holds numbers of the MLP of a layer at most, and takes less than in bfloat16, which is
    half of float32 at least. (A CPU computes bfloat16 in float32, so its plans for that say nothing.)
    """
    full, mlp = plan("full"), 3 * 4 * WIDE.hidden_size * WIDE.intermediate_size
    for bits, share in (("int8", 1 / 4), ("nf4", 1 / 7)):
        found = plan(bits)
        assert found < full / 2 and found < full * share + mlp


def test_nothing_is_merged_into_few_bits(saved, random_lora):
    _, params = jaxlv.load_pretrained(saved, weights="int8")
    lora = overlay.init_lora(jax.random.key(0), params, LoraConfig(head="frozen"))
    assert overlay.merged({"params": params, "lora": lora}) is None
    with pytest.raises(JaxlvError, match="nothing is merged into weights of 8 or 4 bits"):
        overlay.merge(params, lora)


def test_an_overlay_begins_with_the_same_numbers_over_any_bits(saved):
    loras = [
        overlay.init_lora(jax.random.key(3), jaxlv.load_pretrained(saved, weights=kind)[1], LoraConfig(rank=2))
        for kind in ("full", *BITS)
    ]
    for lora in loras[1:]:
        jax.tree.map(np.testing.assert_array_equal, lora, loras[0])


# --------------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def run(tiny_base, waves, tmp_path_factory) -> Path:
    """Returns a run of two steps over a base in 8 bits, with a budget in every operation."""
    folder = tmp_path_factory.mktemp("runs")
    series.save(folder / "waves.h5", waves(12, 24))
    config = build_config(RunConfig, {
        "data": {"path": str(folder / "waves.h5"), "fractions": (0.5, 0.25, 0.25)},
        "windows": {"length": 64, "stride": 60, "context_steps": (6, 10)},
        "model": {"path": str(tiny_base), "weights": "int8"},
        "lora": {"head": "frozen"},
        "optimizer": {"learning_rate": 3e-2},
        "train": {"steps": 2, "batch_size": 2, "validate_every": 2, "validation_windows": 3, "forecast_series": 1},
        "evaluate": {"context": 6, "horizon": 2, "samples": 2, "unmasked_samples": 0},
        "budget": {"flops": 1e12, "convention": "exact-all", "held_back": 1e11},
    })  # fmt: skip
    training.train(config, folder / "run", sources.load_inputs(config))
    return folder / "run"


def test_a_run_is_evaluated_over_the_bits_that_it_was_trained_on(run, tmp_path):
    """By all that opens it; and the ledger pays for dequantisation."""
    finished = load_run(run)
    assert finished.tuned.model.weights == finished.untuned.model.weights == "int8"
    assert jaxlv.Forecaster(run, pays=False, progress=False).sampler.model.weights == "int8"
    event, sizes = event_of(finished.config), finished.tuned.model.config
    full = replace(event, weights="full")
    assert event.flops(sizes, "exact-all") > full.flops(sizes, "exact-all")
    assert event.tree()["weights"] == "int8" and "weights" not in full.tree()
    before = book_of(finished.config, run).account.totals().executed
    evaluate(Asked(str(run)), tmp_path / "evaluation")
    assert book_of(finished.config, run).account.totals().executed > before


def test_a_run_in_few_bits_is_merged_into_full_weights_and_says_so(run, tiny_base, tmp_path):
    tuned = load_run(run).tuned
    for to in ("merged", "peft"):
        found = handover.export_run(run, to, tmp_path / to)
        assert "trained over the base in int8" in found.notes[-1]
        assert ("of the largest logit" in found.notes[-1]) == (to == "merged")
    _, merged = jaxlv.load_pretrained(tmp_path / "merged")
    full = jaxlv.load_pretrained(tiny_base)[1]
    expected = overlay.merge(full, tuned.variables["lora"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), merged, expected)


@pytest.mark.parametrize(("bits", "dtype"), [("int8", "float32"), ("nf4", "bfloat16")])
def test_a_base_is_written_in_few_bits_as_loading_makes_them(saved, tmp_path, bits, dtype):
    """Of a model in float32, and in bfloat16, in which it then stays: the same logits to the last bit."""
    base = tmp_path / "base"
    weights.save_pretrained(base, *jaxlv.load_pretrained(saved, dtype))
    done("export", str(base), "--to", "base", "--weights", bits, "--out", str(tmp_path / "out"))
    kinds = {
        name.rpartition(".")[2]: str(leaf.dtype) for name, leaf in load_file(tmp_path / "out" / "model.safetensors").items()
    }
    scales = {"int8": "float32", "nf4": "bfloat16"}[bits]
    assert kinds == {"codes": {"int8": "int8", "nf4": "uint8"}[bits], "scales": scales, "weight": dtype, "bias": dtype}
    ids_BT = np.arange(12).reshape(2, 6)
    for asked in ("float32", "bfloat16"):
        both = [jaxlv.load_pretrained(folder, asked, weights=bits) for folder in (base, tmp_path / "out")]
        ours, theirs = (np.asarray(model.apply({"params": params}, ids_BT)) for model, params in both)
        np.testing.assert_array_equal(ours, theirs)
        full, params = jaxlv.load_pretrained(base, asked)
        assert (np.asarray(full.apply({"params": params}, ids_BT)) != ours).any()


def test_the_base_of_a_run_is_written_in_the_bits_that_it_was_trained_over(run, tiny_base, tmp_path):
    found = handover.export_base(str(run), tmp_path / "own")
    taken = {path.name for path in tiny_base.iterdir()} - {path.name for path in (tmp_path / "own").iterdir()}
    assert found.difference == 0 and not taken
    tuned = load_run(run).tuned
    _, params = jaxlv.load_pretrained(tmp_path / "own", weights="int8")
    jax.tree.map(np.testing.assert_array_equal, params, tuned.variables["params"])
    handover.export_base(str(run), tmp_path / "other", "nf4")
    assert jaxlv.load_pretrained(tmp_path / "other", weights="nf4")[0].weights == "nf4"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--to", "base"), "--weights: in how many bits; expected int8 or nf4"),
        (("--to", "base", "--weights", "nf4", "--side-head"), "--side-head: changes nothing here"),
        (
            ("--to", "merged", "--weights", "int8"),
            "--weights: changes nothing here; found adapters are merged into full weights",
        ),
        (("--to", "peft", "--weights", "int8"), "--weights: changes nothing here"),
        (("--to", "merged", "--base", "x"), "--base: changes nothing here"),
    ],
)
def test_few_bits_are_refused_where_they_make_no_sense(saved, tmp_path, options, told):
    assert told in jaxlv_says("export", str(saved), *options, "--out", str(tmp_path / "out")).err
    assert not (tmp_path / "out").exists()


def test_few_bits_are_not_written_in_other_bits(packed, tmp_path):
    for bits in BITS:
        with pytest.raises(JaxlvError, match=f"would be rounded again; expected full weights; found {packed[1].weights}"):
            handover.export_base(str(packed[0]), tmp_path / "out", bits)


def test_a_forecaster_opens_a_named_model_in_few_bits():
    found = jaxlv.Forecaster("embedded", weights="nf4", progress=False)
    assert found.sampler.model.weights == "nf4"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = found.predict({"hare": np.arange(1.0, 13)}, horizon=2, samples=2)
    assert made.samples.shape == (1, 2, 2, 1) and np.isfinite(made.samples).all()
