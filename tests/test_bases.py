"""A base that is kept as adapters of the embedded one reads as one model: W + scale B A, whatever asks for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxlv
from jaxlv.config import LoraConfig
from jaxlv.errors import JaxlvError, JaxlvWarning
from jaxlv.lora import overlay
from jaxlv.model import bases
from jaxlv.model.bases import EMBEDDED_BASE
from jaxlv.model.quantised import quantised
from jaxlv.model.weights import fingerprint, load_pretrained, save_pretrained, stored
from jaxlv.studies import from_scratch

RANK, ALPHA = 2, 6.0
PROJECTION = "model.layers.3.self_attn.v_proj"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of rank 2 at random, so that they change the base."""
    _, params = load_pretrained("embedded")
    config = LoraConfig(RANK, ALPHA, ("all-linear",), head="frozen")
    lora, random = overlay.init_lora(jax.random.key(0), params, config), np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.Array) -> jax.Array:
        return leaf if path[-1].key == "scale" else jnp.asarray(random.normal(size=leaf.shape) * 0.1, jnp.float32)

    folder = tmp_path_factory.mktemp("adapted") / "base"
    folder.mkdir()
    from_scratch.write_adapters(folder, jax.tree_util.tree_map_with_path(draw, lora), config)
    return folder


def flat(params: dict) -> dict[str, np.ndarray]:
    return {
        ".".join(key.key for key in path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def test_projections_are_the_sum_and_all_else_is_the_embedded_base(folder: Path):
    own, base = flat(load_pretrained(folder)[1]), flat(load_pretrained("embedded")[1])
    low = load_file(folder / bases.TENSORS)
    assert own.keys() == base.keys()
    for name, weight in own.items():
        module = name.removesuffix(".weight")
        expected = base[name]
        if name.endswith("_proj.weight"):
            A, B = (low[f"base_model.model.{module}.lora_{side}.weight"].astype(float) for side in "AB")
            assert A.shape[0] == RANK and np.abs(B @ A).max() > 0.01
            expected = base[name] + ALPHA / RANK * (B @ A)
        np.testing.assert_array_equal(weight, expected.astype(np.float32), err_msg=name)


def test_a_tensor_by_its_name_has_what_is_added_to_it(folder: Path):
    own = flat(load_pretrained(folder)[1])
    for name in (f"{PROJECTION}.weight", f"{PROJECTION}.bias", "model.norm.weight"):
        np.testing.assert_array_equal(stored(folder, name), own[name])


def test_it_is_what_the_overlay_makes_of_the_base(folder: Path):
    model, params = load_pretrained("embedded")
    lora, ids = jaxlv.load_adapter(folder, model), np.array([[1, 5, 11, 2, 7]])
    with_overlay = model.apply({"params": params, "lora": lora}, ids)
    own, merged = load_pretrained(folder)
    np.testing.assert_allclose(own.apply({"params": merged}, ids), with_overlay, atol=2e-4)
    assert float(jnp.abs(with_overlay - model.apply({"params": params}, ids)).max()) > 0.5
    assert own.folder == str(folder)


def test_codes_are_those_of_the_sum(folder: Path):
    whole, codes = (flat(load_pretrained(folder, weights=weights)[1]) for weights in ("full", "int8"))
    made = quantised("int8", whole[f"{PROJECTION}.weight"])
    np.testing.assert_array_equal(codes[f"{PROJECTION}.codes"], made["codes"])
    np.testing.assert_array_equal(codes[f"{PROJECTION}.scales"], made["scales"])


def test_a_narrow_model_rounds_the_sum_once(folder: Path):
    whole, narrow = (flat(load_pretrained(folder, dtype)[1]) for dtype in ("float32", "bfloat16"))
    name = f"{PROJECTION}.weight"
    np.testing.assert_array_equal(narrow[name], np.asarray(jnp.asarray(whole[name], jnp.bfloat16)))


def test_a_checkpoint_made_from_it_holds_the_sum(folder: Path, tmp_path: Path):
    model, params = load_pretrained(folder)
    save_pretrained(tmp_path / "whole", model, params, folder)
    again = flat(load_pretrained(tmp_path / "whole")[1])
    for name, weight in flat(params).items():
        np.testing.assert_array_equal(again[name], weight)
    assert not (tmp_path / "whole" / bases.TENSORS).exists()


def test_the_fingerprint_is_of_base_and_adapters(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(folder, tmp_path / "other")
    tensors = load_file(tmp_path / "other" / bases.TENSORS)
    tensors[f"base_model.model.{PROJECTION}.lora_B.weight"][0, 0] += 1
    save_file(tensors, tmp_path / "other" / bases.TENSORS)
    before = fingerprint(folder)
    assert fingerprint(tmp_path / "other") != before == fingerprint(folder)
    shutil.copytree(EMBEDDED_BASE, tmp_path / "embedded")
    tensors = load_file(tmp_path / "embedded/model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, tmp_path / "embedded/model.safetensors")
    monkeypatch.setitem(bases.EMBEDDED, "embedded", tmp_path / "embedded")
    assert fingerprint(folder) != before


def changed_settings(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / bases.CONFIG
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def changed_tensors(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / bases.TENSORS)
        change(tensors)
        save_file(tensors, folder / bases.TENSORS)

    return apply


A_NAME, B_NAME = (f"base_model.model.{PROJECTION}.lora_{side}.weight" for side in "AB")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed_settings(base_model_name_or_path="another"), "no weights"),
        (changed_settings(use_rslora=True), "plain LoRA alone.*use_rslora"),
        (changed_settings(alpha_pattern={"q_proj": 2}), "plain LoRA alone.*alpha_pattern"),
        (changed_settings(lora_alpha=-1.0), "no rank or alpha"),
        (changed_settings(r=-2), "no rank or alpha"),
        (changed_tensors(lambda held: held.update({A_NAME: held[A_NAME] * 1e38, B_NAME: held[B_NAME] * 1e4})), "not finite"),
        (changed_settings(r=0), "no rank or alpha"),
        (changed_settings(r="2"), "r is not a whole number"),
        (changed_settings(lora_alpha=None), "no rank or alpha"),
        (changed_settings(r=3), "shape"),
        (changed_tensors(lambda held: held.pop(A_NAME)), f"missing tensor {A_NAME}"),
        (changed_tensors(lambda held: held.update(more=np.zeros(1, np.float32))), "unexpected tensor more"),
        (changed_tensors(lambda held: held.update({A_NAME: held[A_NAME] * np.float32(np.nan)})), "NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path, change: Callable[[Path], None], said: str):
    shutil.copytree(folder, tmp_path / "base")
    change(tmp_path / "base")
    with pytest.raises(JaxlvError, match=said):
        load_pretrained(tmp_path / "base")


def test_weights_of_its_own_count_and_adapters_beside_them_are_told(folder: Path, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "base")
    shutil.copy(EMBEDDED_BASE / "model.safetensors", tmp_path / "base")
    with pytest.warns(JaxlvWarning, match=bases.TENSORS):
        own = flat(load_pretrained(tmp_path / "base")[1])
    np.testing.assert_array_equal(own[f"{PROJECTION}.weight"], flat(load_pretrained("embedded")[1])[f"{PROJECTION}.weight"])


@pytest.mark.parametrize(
    ("name", "base"),
    [("embedded-field", "embedded-field"), ("embedded", "embedded"), ("owner/other", "embedded"), (3, "embedded")],
)
def test_an_adapter_names_one_of_the_bases_or_is_of_the_first(tmp_path: Path, name: object, base: str):
    (tmp_path / bases.CONFIG).write_text(json.dumps({"base_model_name_or_path": name}))
    assert bases.base_of_adapter(tmp_path) == base
    (tmp_path / bases.CONFIG).write_text("{}")
    assert bases.base_of_adapter(tmp_path) == "embedded"


def test_the_greatest_rank_is_read_and_one_more_is_refused(tmp_path: Path):
    for rank in (bases.MOST_RANK, bases.MOST_RANK + 1):
        (tmp_path / bases.CONFIG).write_text(json.dumps({"r": rank, "lora_alpha": 2.0 * rank}))
        if rank > bases.MOST_RANK:
            with pytest.raises(JaxlvError, match="no rank or alpha; expected r of 1 to 256"):
                bases.added_to(PROJECTION, tmp_path / bases.TENSORS)
        else:
            found = bases.added_to(PROJECTION, tmp_path / bases.TENSORS)
            assert (found.module, found.rank, found.scale) == (PROJECTION, 256, 2.0)
