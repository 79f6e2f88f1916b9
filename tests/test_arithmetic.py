"""Adapters as updates: operations on the factors give what the same operations on the products would."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlv.errors import JaxlvError
from jaxlv.lora import arithmetic
from jaxlv.lora.overlay import merge

IDS_BT = np.random.default_rng(0).integers(0, 61, (2, 7))


@pytest.fixture(scope="module")
def tiny(random_model):
    return random_model()


@pytest.fixture(scope="module")
def loras(tiny, random_lora):
    """Returns three adapters of different ranks, targets and scales."""
    return (
        random_lora(tiny[1], seed=1, rank=4, alpha=8.0),
        random_lora(tiny[1], seed=2, rank=2, alpha=1.0, targets=("q_proj", "down_proj")),
        random_lora(tiny[1], seed=3, rank=3, rslora=True, targets=("o_proj",), head="frozen"),
    )


def logits(tiny, lora):
    model, params = tiny
    return np.asarray(model.apply({"params": params, "lora": lora}, IDS_BT))


def products(lora) -> dict[str, np.ndarray]:
    found = arithmetic.updates(lora).items()
    return {".".join(path): scale * np.asarray(b, float) @ np.asarray(a, float) for path, (b, a, scale) in found}


@pytest.mark.parametrize("shape", [(20, 9), (2, 14), (9, 3)], ids=["wide", "narrow output", "narrow input"])
def test_a_decomposition_is_that_of_the_product(shape):
    random = np.random.default_rng(1)
    b_OR, a_RI = random.normal(size=(shape[0], 4)), random.normal(size=(4, shape[1]))
    u_OR, s_R, v_IR = arithmetic.decomposed(b_OR, a_RI, 0.5)
    np.testing.assert_allclose((u_OR * s_R) @ v_IR.T, 0.5 * b_OR @ a_RI, atol=1e-12)
    np.testing.assert_allclose(s_R, np.linalg.svd(0.5 * b_OR @ a_RI, compute_uv=False)[: len(s_R)], atol=1e-12)


def test_scaling_scales_every_update(tiny, loras):
    scaled = arithmetic.scale(loras[0], -0.5)
    for name, product in products(loras[0]).items():
        np.testing.assert_allclose(products(scaled)[name], -0.5 * product, rtol=1e-6)
    np.testing.assert_allclose(scaled["lm_head"]["bias"], -0.5 * loras[0]["lm_head"]["bias"])
    np.testing.assert_array_equal(logits(tiny, arithmetic.scale(loras[0], 0.0)), tiny[0].apply({"params": tiny[1]}, IDS_BT))


def test_a_sum_is_the_sum_of_the_updates(tiny, loras):
    total = arithmetic.add(loras, [1.0, -2.0, 0.5])
    expected: dict[str, np.ndarray] = {}
    for lora, weight in zip(loras, [1.0, -2.0, 0.5], strict=True):
        for name, product in products(lora).items():
            expected[name] = expected.get(name, 0.0) + weight * product
    found = products(total)
    assert set(found) == set(expected)
    for name, product in expected.items():
        np.testing.assert_allclose(found[name], product, atol=1e-6)
    assert {len(a) for _, a, _ in arithmetic.updates(total).values()} == {9}
    np.testing.assert_allclose(
        total["lm_head"]["bias"], loras[0]["lm_head"]["bias"] - 2 * loras[1]["lm_head"]["bias"], atol=1e-6
    )


def test_an_adapter_less_itself_is_the_base(tiny, loras):
    none = arithmetic.add([loras[0], loras[0]], [1.0, -1.0])
    np.testing.assert_allclose(logits(tiny, none), tiny[0].apply({"params": tiny[1]}, IDS_BT), atol=1e-4)


def test_two_adapters_merged_one_by_one_are_their_sum_merged(tiny, loras):
    bare = [{name: part for name, part in lora.items() if name != "lm_head"} for lora in loras]
    model, params = tiny
    one_by_one = merge(merge(params, bare[0]), bare[2])
    together = merge(params, arithmetic.add([bare[0], bare[2]]))
    np.testing.assert_allclose(
        model.apply({"params": one_by_one}, IDS_BT), model.apply({"params": together}, IDS_BT), atol=1e-4
    )


def test_a_comparison_with_itself_scaled(loras):
    table = arithmetic.compare(loras[0], arithmetic.scale(loras[0], -3.0))
    assert list(table["layer"]) == [0, 0, 1, 1] and list(table["projection"]) == ["q_proj", "v_proj"] * 2
    np.testing.assert_allclose(table["norm_b"], 3 * table["norm_a"], rtol=1e-6)
    np.testing.assert_allclose(table["cosine"], -1, rtol=1e-6)
    np.testing.assert_allclose(table[["outputs", "inputs"]], 1, rtol=1e-6)
    norms = [np.linalg.norm(product) for product in products(loras[0]).values()]
    np.testing.assert_allclose(table["norm_a"], norms, rtol=1e-6)


def test_a_comparison_is_that_of_the_products(loras):
    table = arithmetic.compare(loras[0], loras[1]).set_index(["layer", "projection"])
    assert set(table.index) == {(layer, name) for layer in (0, 1) for name in ("q_proj", "v_proj", "down_proj")}
    pair = [products(lora)["model.layers.0.self_attn.q_proj"] for lora in loras[:2]]
    row = table.loc[0, "q_proj"]
    assert row["cosine"] == pytest.approx(np.sum(pair[0] * pair[1]) / (row["norm_a"] * row["norm_b"]), rel=1e-6)
    (u_a, _, vt_a), (u_b, _, vt_b) = map(np.linalg.svd, pair)
    assert row["outputs"] == pytest.approx(np.sum((u_a[:, :4].T @ u_b[:, :2]) ** 2) / 2, rel=1e-6)
    assert row["inputs"] == pytest.approx(np.sum((vt_a[:4] @ vt_b[:2].T) ** 2) / 2, rel=1e-6)
    assert table.loc[0, "v_proj"]["norm_b"] == 0 and np.isnan(table.loc[0, "v_proj"]["cosine"])


def test_what_cannot_be_added_or_scaled_is_said(tiny, loras, random_lora, random_model):
    whole = random_lora(tiny[1], head="full")
    with pytest.raises(JaxlvError, match="not an update of the base"):
        arithmetic.scale(whole, 2.0)
    with pytest.raises(JaxlvError, match="not an update of the base"):
        arithmetic.add([loras[0], whole])
    with pytest.raises(JaxlvError, match="as many weights"):
        arithmetic.add(loras, [1.0])
    for weight in (float("nan"), float("inf")):
        with pytest.raises(JaxlvError, match="a weight that is not finite"):
            arithmetic.add(loras, [1.0, 1.0, weight])
    other = random_lora(random_model(hidden_size=32, head_dim=8)[1])
    for act in (lambda: arithmetic.add([loras[0], other]), lambda: arithmetic.compare(loras[0], other)):
        with pytest.raises(JaxlvError, match=r"different bases.*24 x 24 and 32 x 32"):
            act()
