"""The overlay: what it adds, what it never touches, and which parts train."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from jaxlv.config import LoraConfig, OptimizerConfig
from jaxlv.errors import JaxlvError
from jaxlv.lora import overlay
from jaxlv.lora.overlay import PROJECTIONS
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import Linear, Qwen2
from jaxlv.model.weights import abstract_params, count_params, unflatten
from jaxlv.steps import train
from jaxlv.text.tokens import Windows

IDS_BT = np.random.default_rng(0).integers(0, 61, (2, 7))

QWEN_05B = Qwen2(
    ModelConfig(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        head_dim=64,
        rope_theta=1e6,
        tie_word_embeddings=True,
    )
)


@pytest.fixture(scope="module")
def tiny(random_model) -> tuple[Qwen2, dict[str, Any], Callable[..., jax.Array]]:
    """Returns (model, params, logits of IDS_BT as a function of variables and, for dropout, a key)."""
    model, params = random_model()

    @jax.jit
    def logits(variables, key=None):
        return model.apply(variables, IDS_BT, rngs=None if key is None else {"dropout": key})

    return model, params, logits


def flat(tree: Any) -> dict[str, Any]:
    return traverse_util.flatten_dict(tree, sep=".")


# What it adds


def test_a_fresh_overlay_is_the_base_bit_for_bit(tiny):
    _, params, logits = tiny
    lora = overlay.init_lora(jax.random.key(0), params, LoraConfig(rank=3, targets=PROJECTIONS))
    np.testing.assert_array_equal(logits({"params": params, "lora": lora}), logits({"params": params}))


@pytest.mark.parametrize("targets", [("q_proj",), ("v", "down"), ("k_proj", "o_proj", "gate_proj", "up_proj"), PROJECTIONS])
def test_any_subset_of_the_projections_and_its_merge(tiny, random_lora, targets):
    """W + s B A gives the overlay's logits to float32's rounding."""
    _, params, logits = tiny
    lora = random_lora(params, targets=targets, rank=3, alpha=6.0, head="frozen")
    adapted = {path.split(".")[-2] for path in flat(lora) if path.endswith(".A")}
    assert adapted == set(overlay.normalise_targets(targets))
    laid_over = logits({"params": params, "lora": lora})
    assert np.abs(laid_over - logits({"params": params})).max() > 0.05
    merged = overlay.merge(params, lora)
    np.testing.assert_allclose(logits({"params": merged}), laid_over, rtol=0, atol=2e-5)
    unchanged = [path for path in flat(params) if path.split(".")[-2] not in adapted or path.endswith("bias")]
    assert unchanged and all(flat(merged)[path] is flat(params)[path] for path in unchanged)


def test_merge_rounds_once_to_the_type_of_the_base(random_model, random_lora):
    _, params = random_model(dtype="bfloat16")
    lora = random_lora(params, head="frozen")
    path = "model.layers.0.self_attn.q_proj."
    exact = flat(params)[path + "weight"].astype(jnp.float32) + flat(lora)[path + "B"] @ flat(lora)[path + "A"]
    merged = flat(overlay.merge(params, lora))[path + "weight"]
    assert merged.dtype == jnp.bfloat16
    np.testing.assert_array_equal(merged, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize("head", ["bias", "full"])
def test_a_trained_head_cannot_be_merged(tiny, head):
    lora = overlay.init_lora(jax.random.key(0), tiny[1], LoraConfig(head=head))
    with pytest.raises(JaxlvError, match="head"):
        overlay.merge(tiny[1], lora)


def test_a_bias_stays_beside_a_merged_base(tiny, random_lora):
    """Decoding with merged adapters gives the overlay's own logits; a trained head, or rounding, prevents merging."""
    _, params, logits = tiny
    lora = random_lora(params, rank=3, head="bias")
    found = overlay.merged({"params": params, "lora": lora})
    assert found is not None and set(found["lora"]) == {"lm_head"} and "lm_head" in lora
    np.testing.assert_allclose(logits(found), logits({"params": params, "lora": lora}), rtol=0, atol=2e-5)
    assert overlay.merged({"params": params, "lora": random_lora(params, rank=3, head="full")}) is None
    lora = random_lora(params, rank=3, head="frozen")
    assert set(overlay.merged({"params": params, "lora": lora}) or {}) == {"params"}
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    assert overlay.merged({"params": narrow, "lora": lora}) is None


def test_head_bias_is_added_to_the_logits(tiny, random_lora):
    _, params, logits = tiny
    lora = {"lm_head": random_lora(params)["lm_head"]}
    expected = logits({"params": params}) + lora["lm_head"]["bias"]
    np.testing.assert_allclose(logits({"params": params, "lora": lora}), expected, rtol=0, atol=1e-6)


def test_a_full_head_unties_the_embedding(tiny):
    _, params, logits = tiny
    lora = overlay.init_lora(jax.random.key(0), params, LoraConfig(head="full"))
    np.testing.assert_array_equal(logits({"params": params, "lora": lora}), logits({"params": params}))
    lora["lm_head"]["weight"] *= 2
    np.testing.assert_allclose(logits({"params": params, "lora": lora}), 2 * logits({"params": params}), rtol=1e-5)


def test_adapters_with_a_leading_axis_map_over_one_base(tiny, random_lora):
    model, params, logits = tiny
    loras = [random_lora(params, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *loras)
    together = jax.jit(jax.vmap(lambda lora: model.apply({"params": params, "lora": lora}, IDS_BT)))(stacked)
    one_by_one = jnp.stack([logits({"params": params, "lora": lora}) for lora in loras])
    np.testing.assert_allclose(together, one_by_one, rtol=0, atol=2e-5)


def test_dropout_acts_only_under_a_key(tiny, random_lora):
    _, params, logits = tiny
    plain, dropped = ({"params": params, "lora": random_lora(params, dropout=p)} for p in (0.0, 0.5))
    first, again, other = (logits(dropped, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(logits(dropped), logits(plain))
    np.testing.assert_array_equal(logits(plain, jax.random.key(0)), logits(plain))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


P, COUNT = 0.3, (4, 25, 60)  # the share that is dropped; rows, tokens and elements


@pytest.fixture(scope="module")
def dropped() -> Callable[[int], np.ndarray]:
    """Returns seed -> ones after dropout, read through a projection whose weight is zero and whose A and B are the
    identity.
    """
    unit = jnp.eye(COUNT[-1])
    lora = {"A": unit, "B": unit, "scale": jnp.float32(1), "dropout": jnp.float32(P)}
    variables = {"params": {"weight": jnp.zeros_like(unit)}, "lora": lora}
    layer = Linear(COUNT[-1], False, jnp.float32)
    apply = jax.jit(lambda key: layer.apply(variables, jnp.ones(COUNT), rngs={"dropout": key}))
    return lambda seed: np.asarray(apply(jax.random.key(seed)))


def test_dropout_drops_or_scales_each_element(dropped):
    """What is kept is divided by 1 - p, so that the mean stays; the share that is dropped is p."""
    found = dropped(0)
    kept = found != 0
    np.testing.assert_allclose(found[kept], 1 / (1 - P), rtol=1e-6)
    error = (P * (1 - P) / found.size) ** 0.5
    assert abs((~kept).mean() - P) < 5 * error


def test_dropout_decides_for_each_element_by_itself(dropped):
    """The kept shares of rows, tokens and elements vary as those of independent draws. If one decision served several
    elements, they would vary more; if all tokens had the same draws, places would.
    """
    kept = dropped(1) != 0
    rows, tokens, places = COUNT
    for axes, size in (((0, 1), rows * tokens), ((0, 2), rows * places), ((2,), places), ((1,), tokens), ((0,), rows)):
        spread = kept.mean(axis=axes).var()
        expected = P * (1 - P) / size
        assert 0.4 * expected < spread < 1.9 * expected, axes


def test_dropout_is_another_under_each_key(dropped):
    agree = (dropped(0) == dropped(1)).mean()
    assert abs(agree - (P**2 + (1 - P) ** 2)) < 0.05
    np.testing.assert_array_equal(dropped(2), dropped(2))


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_trains_begins_at_the_base_s_own(random_model, tied):
    _, params = random_model(tie_word_embeddings=tied)
    lora = overlay.init_lora(jax.random.key(0), params, LoraConfig(head="full"))
    own = params["model.embed_tokens" if tied else "lm_head"]["weight"]
    np.testing.assert_array_equal(lora["lm_head"]["weight"], own)


def test_a_is_normal_with_the_std_of_a_linear_unit(random_model):
    _, params = random_model(hidden_size=96, intermediate_size=400, num_hidden_layers=1)
    lora = overlay.init_lora(jax.random.key(0), params, LoraConfig(rank=64, targets=PROJECTIONS))
    for path, leaf in flat(lora).items():
        if path.endswith(".A"):
            fan_in = leaf.shape[1]
            np.testing.assert_allclose(leaf.std() * fan_in**0.5, 1.0, atol=4 / leaf.size**0.5)
        elif path.endswith((".B", ".bias")):
            assert not leaf.any()
        assert leaf.dtype == jnp.float32
    drawn = [leaf.ravel()[:50] for path, leaf in flat(lora).items() if path.endswith(".A")]
    assert len(np.unique(np.concatenate(drawn))) == 50 * len(drawn)  # each projection from a key of its own


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"rank": 8}, 1.0),
        ({"rank": 8, "alpha": 16.0}, 2.0),
        ({"rank": 4, "alpha": 16.0, "rslora": True}, 8.0),
        ({"rank": 16, "rslora": True}, 4.0),
    ],
    ids=str,
)
def test_scale_is_alpha_over_r_or_over_its_root(tiny, settings, scale):
    config = LoraConfig(**settings)
    lora = overlay.init_lora(jax.random.key(0), tiny[1], config)
    assert config.scaling == scale
    assert {float(leaf) for path, leaf in flat(lora).items() if path.endswith(".scale")} == {scale}


def test_all_linear_is_every_projection(tiny):
    """As a text alone, as PEFT has it, in a config, on a command line and in Python; in a list too."""
    for given in ("all-linear", ["all-linear"], ["q", "all-linear"]):
        config = LoraConfig(targets=given)
        assert overlay.normalise_targets(config.targets) == PROJECTIONS
        assert set(flat(overlay.init_lora(jax.random.key(0), tiny[1], config))) == set(
            flat(overlay.init_lora(jax.random.key(0), tiny[1], LoraConfig(targets=PROJECTIONS)))
        )
    assert LoraConfig(targets="all-linear").targets == ("all-linear",)
    for other in ("q_proj", "all_linear", ""):
        with pytest.raises(JaxlvError, match=r'lora\.targets: must be "all-linear" or a list of 0 to 100 values'):
            LoraConfig(targets=other)


@pytest.mark.parametrize("target", ["lm_head", "query", "q_proj ", "Q", ""])
def test_unknown_targets_are_named(tiny, target):
    with pytest.raises(JaxlvError, match="unknown projection") as caught:
        overlay.init_lora(jax.random.key(0), tiny[1], LoraConfig(targets=("q_proj", target)))
    assert "lora.targets" in str(caught.value) and "down_proj" in str(caught.value)


@pytest.mark.parametrize("settings", [{"rank": 0}, {"rank": -1}, {"dropout": 1.0}, {"dropout": -0.1}], ids=str)
def test_settings_out_of_range_are_named(settings):
    with pytest.raises(JaxlvError, match=f"lora.{next(iter(settings))}"):
        LoraConfig(**settings)


# Numbers of parameters, at the true shape, without allocating one


def trained_at_true_shape(**settings: Any) -> int:
    params = unflatten(abstract_params(QWEN_05B), QWEN_05B)
    make = lambda params: overlay.init_lora(jax.random.key(0), params, LoraConfig(**settings))  # noqa: E731
    variables = {"params": params, "lora": jax.eval_shape(make, params)}
    return overlay.count_trained(variables, overlay.trainable(variables))


def test_parameter_counts_of_the_0_5b_model():
    sizes = {name: int(np.prod(leaf.shape)) for name, leaf in abstract_params(QWEN_05B).items()}
    assert count_params(QWEN_05B) == sum(sizes.values()) == 494_032_768
    assert sizes["model.embed_tokens.weight"] == 136_134_656 and "lm_head.weight" not in sizes


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"rank": 1, "head": "frozen"}, 67_584),
        ({"rank": 8, "head": "frozen"}, 540_672),
        ({"rank": 8, "head": "bias"}, 540_672 + 151_936),
        ({"rank": 8, "targets": ("q_proj",), "head": "frozen"}, 344_064),
        ({"rank": 1, "head": "full"}, 67_584 + 136_134_656),
    ],
    ids=str,
)
def test_trained_parameters_of_the_0_5b_model(settings, count):
    assert trained_at_true_shape(**settings) == count


# What trains


def test_split_and_join_are_inverse(tiny, random_lora):
    variables = {"params": tiny[1], "lora": random_lora(tiny[1], dropout=0.1)}
    mask = overlay.trainable(variables)
    trained, frozen = overlay.split(variables, mask)
    assert len(jax.tree.leaves(trained)) + len(jax.tree.leaves(frozen)) == len(jax.tree.leaves(variables))
    assert not jax.tree.leaves(trained["params"])
    joined = overlay.join(trained, frozen)
    assert jax.tree.structure(joined) == jax.tree.structure(variables)
    assert all(a is b for a, b in zip(jax.tree.leaves(joined), jax.tree.leaves(variables), strict=True))


def test_the_mask_names_every_leaf(tiny, random_lora):
    variables = {"params": tiny[1], "lora": random_lora(tiny[1], dropout=0.1)}
    mask = overlay.trainable(variables)
    assert jax.tree.structure(mask) == jax.tree.structure(variables)
    marked = {path.rsplit(".", 1)[1] for path, keep in flat(mask["lora"]).items() if keep}
    assert marked == {"A", "B", "bias"} and not any(jax.tree.leaves(mask["params"]))
    assert all(jax.tree.leaves(overlay.trainable({"params": tiny[1]}, base=True)))


def test_weight_decay_is_for_matrices(tiny, random_lora):
    marks = flat(overlay.decayed(random_lora(tiny[1])))
    assert {path.rsplit(".", 1)[1] for path, decayed in marks.items() if decayed} == {"A", "B"}


@pytest.mark.parametrize("how", ["multi_transform", "selective_transform"])
def test_freezing_through_optax_gives_the_same_adapters(tiny, random_lora, how):
    """Adam over the whole tree with the base frozen by optax, against the step that never differentiates the base."""
    model, params, _ = tiny
    config = OptimizerConfig(learning_rate=1e-2)
    variables = {"params": params, "lora": random_lora(params)}
    mask = overlay.trainable(variables)
    batch = Windows(IDS_BT, np.tile(np.arange(7), (2, 1)), np.roll(IDS_BT, -1, axis=1))

    if how == "multi_transform":
        labels = jax.tree.map(lambda keep: "train" if keep else "freeze", mask)
        freezing = optax.multi_transform({"train": optax.adam(1e-2), "freeze": optax.set_to_zero()}, labels)
    else:
        freezing = optax.transforms.selective_transform(optax.adam(1e-2), freeze_mask=jax.tree.map(lambda m: not m, mask))

    @jax.jit
    def whole_step(variables, state):
        def mean_loss(variables):
            total, tokens = train.window_loss(model, variables, batch)
            return total / tokens

        updates, state = freezing.update(jax.grad(mean_loss)(variables), state, variables)
        return optax.apply_updates(variables, updates), state

    whole, whole_state = variables, freezing.init(variables)
    optimizer = train.make_optimizer(config, 3)
    state, frozen = train.init_state(variables, mask, optimizer, 0)
    step = train.make_train_step(model, optimizer, config, 3)
    for _ in range(3):
        whole, whole_state = whole_step(whole, whole_state)
        state, _ = step(state, frozen, jax.tree.map(lambda a: a[None], batch))
    ours = overlay.join(state.trained, frozen)
    for path, leaf in flat(whole["params"]).items():
        np.testing.assert_array_equal(leaf, flat(params)[path])
        np.testing.assert_array_equal(leaf, flat(ours["params"])[path])
    for path, leaf in flat(whole["lora"]).items():
        np.testing.assert_allclose(leaf, flat(ours["lora"])[path], rtol=0, atol=1e-3 * config.learning_rate)


def test_the_base_alone_can_train(tiny):
    """The mask over a tree without an overlay serves training from scratch."""
    model, params, _ = tiny
    mask = overlay.trainable({"params": params}, base=True)
    assert overlay.count_trained({"params": params}, mask) == count_params(model)


def test_settings_are_hashable_and_frozen():
    config = LoraConfig()
    assert hash(config) == hash(LoraConfig())
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.rank = 2  # type: ignore[misc]
