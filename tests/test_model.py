"""The model against transformers.Qwen2ForCausalLM on the same random weights, and the properties of a causal decoder."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlv.errors import JaxlvError
from jaxlv.model import attention
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import MLP, Attention, Block, Norm, Qwen2, Segment, apply_rope, project, rope_angles

TOLERANCE = 2e-4  # max abs difference of logits in float32
PROMPT, STEPS = 12, 64  # tokens; the same in most tests, so that little is compiled

CASES: dict[str, dict[str, Any]] = {
    "one group per head, tied": {"num_key_value_heads": 4, "rope_theta": 1e6},
    "2 heads per group, untied": {
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "hidden_size": 48,
        "tie_word_embeddings": False,
    },
    "7 heads per group, tied": {
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "hidden_size": 56,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-5,
    },
    "odd sizes, 3 layers, untied": {
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "hidden_size": 42,
        "intermediate_size": 37,
        "vocab_size": 101,
        "num_hidden_layers": 3,
        "tie_word_embeddings": False,
        "rope_theta": 1e6,
    },
    "heads wider than the model": {"hidden_size": 20, "head_dim": 16, "num_hidden_layers": 1},
}


class Pair(NamedTuple):
    hf: Any
    model: Qwen2
    params: dict[str, Any]


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def pair(request, random_hf, through_disk) -> Pair:
    hf = random_hf(**request.param)
    return Pair(hf, *through_disk(hf))


@functools.partial(jax.jit, static_argnums=0)
def forward(model: Qwen2, params, ids_BT, positions_BT=None, past=()):
    """Returns (logits, segment) of new tokens after the segments `past`."""
    features = model.apply({"params": params}, ids_BT, positions_BT, past, method="features")
    return project(features.x_BTD, features.head), features.segment


def some_ids(model: Qwen2, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, model.config.vocab_size, shape)


def hf_logits(hf, ids_BT, **options) -> np.ndarray:
    torch = pytest.importorskip("torch")
    options = {name: torch.as_tensor(value) for name, value in options.items()}
    with torch.no_grad():
        return hf(torch.as_tensor(ids_BT), **options).logits.numpy()


def assert_close(ours, theirs, atol: float = TOLERANCE) -> None:
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=0, atol=atol)


# Parts against transformers


class Inputs(NamedTuple):
    """The same states, positions, rotation and causal mask for both sides."""

    x: np.ndarray
    positions: np.ndarray
    torch_x: Any
    torch_rope: Any
    torch_mask: Any
    rope: Any


@pytest.fixture
def inputs(pair) -> Inputs:
    torch = pytest.importorskip("torch")
    c = pair.model.config
    x_BTD = np.random.default_rng(0).normal(size=(2, 11, c.hidden_size)).astype(np.float32)
    positions_BT = np.stack([np.arange(11), 700 + np.arange(11)]).astype(np.int32)
    torch_x = torch.as_tensor(x_BTD)
    torch_rope = pair.hf.model.rotary_emb(torch_x, torch.as_tensor(positions_BT))
    mask = torch.full((11, 11), float("-inf")).triu(1)[None, None]
    return Inputs(x_BTD, positions_BT, torch_x, torch_rope, mask, rope_angles(positions_BT, c.head_dim, c.rope_theta))


def test_rms_norm(pair, inputs):
    norm = Norm(pair.model.config.rms_norm_eps, jnp.float32)
    ours = norm.apply({"params": pair.params["model.norm"]}, 5 * inputs.x)
    assert_close(ours, pair.hf.model.norm(5 * inputs.torch_x).detach(), 1e-5)


def test_rope(pair, inputs):
    torch = pytest.importorskip("torch")
    from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

    q_BTNH = np.random.default_rng(1).normal(size=(2, 11, 3, pair.model.config.head_dim)).astype(np.float32)
    theirs, _ = apply_rotary_pos_emb(*2 * [torch.as_tensor(q_BTNH).transpose(1, 2)], *inputs.torch_rope)
    assert_close(apply_rope(q_BTNH, *inputs.rope), theirs.transpose(1, 2))


def test_attention(pair, inputs):
    layer, c = pair.hf.model.layers[0].self_attn, pair.model.config
    params = {"params": pair.params["model.layers.0"]["self_attn"]}
    attention = Attention(c, jnp.float32, "xla")
    ours, _, _ = jax.jit(attention.apply)(params, inputs.x, inputs.positions, inputs.rope, ())
    theirs, _ = layer(inputs.torch_x, inputs.torch_rope, inputs.torch_mask)
    assert_close(ours, theirs.detach())


def test_mlp(pair, inputs):
    params = {"params": pair.params["model.layers.0"]["mlp"]}
    ours = MLP(pair.model.config, jnp.float32).apply(params, inputs.x)
    assert_close(ours, pair.hf.model.layers[0].mlp(inputs.torch_x).detach(), 2e-5)


def test_block(pair, inputs):
    params = {"params": pair.params["model.layers.0"]}
    block = Block(pair.model.config, jnp.float32, "xla")
    ours, _, _ = jax.jit(block.apply)(params, inputs.x, inputs.positions, inputs.rope, ())
    theirs = pair.hf.model.layers[0](inputs.torch_x, inputs.torch_mask, position_embeddings=inputs.torch_rope)
    assert_close(ours, theirs.detach())


# The whole model against transformers


def test_logits(pair):
    ids_BT = some_ids(pair.model, 2, 40)
    ours = jax.jit(pair.model.apply)({"params": pair.params}, ids_BT)
    theirs = hf_logits(pair.hf, ids_BT)
    assert theirs.std() > 0.1
    assert ours.dtype == jnp.float32
    assert_close(ours, theirs)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batch(pair, side):
    ids_BT, lengths = some_ids(pair.model, 3, PROMPT), [PROMPT, 7, 1]
    slot_BT = np.arange(PROMPT) - (PROMPT - np.array(lengths)[:, None] if side == "left" else 0)
    real_BT = (slot_BT >= 0) & (slot_BT < np.array(lengths)[:, None])
    positions_BT = np.where(real_BT, slot_BT, -1).astype(np.int32)
    ours, prompt = forward(pair.model, pair.params, ids_BT, positions_BT)
    theirs = hf_logits(
        pair.hf, ids_BT, attention_mask=real_BT.astype(np.int64), position_ids=np.maximum(positions_BT, 0).astype(np.int64)
    )
    assert np.isfinite(ours).all()
    assert_close(ours[real_BT], theirs[real_BT])

    next_B1 = some_ids(pair.model, 3, 1, seed=1)
    ours, _ = forward(pair.model, pair.params, next_B1, np.array(lengths, np.int32)[:, None], (prompt,))
    for row, real_T in enumerate(real_BT):
        alone = np.concatenate([ids_BT[row][real_T], next_B1[row]])[None]
        assert_close(ours[row], hf_logits(pair.hf, alone)[0, -1:])


@jax.jit
def write(slots: Segment, new: Segment, n) -> Segment:
    """Returns `slots` with the one token of `new` in slot n."""

    def at(axis: int):
        return lambda a, b: jax.lax.dynamic_update_slice_in_dim(a, b, n, axis)

    k, v = (jax.tree.map(at(axis), old, one) for axis, old, one in ((3, slots.k, new.k), (2, slots.v, new.v)))
    return Segment(k, v, at(1)(slots.positions_SC, new.positions_SC))


def decode(pair: Pair, prompt_BP: np.ndarray, choose) -> tuple[np.ndarray, np.ndarray]:
    """Returns (logits, tokens) of STEPS tokens after a prompt: prefill, then one token at a time over two cached segments.
    `choose(n, logits_BV)` gives token n. The second segment has a slot per token; empty slots have position -1.
    """
    B, P = prompt_BP.shape
    logits_BTV, prompt = forward(pair.model, pair.params, prompt_BP)
    keys = tuple(jnp.zeros((*a.shape[:3], STEPS)) for a in prompt.k)
    values = tuple(jnp.zeros((*a.shape[:2], STEPS, a.shape[3])) for a in prompt.v)
    slots = Segment(keys, values, jnp.full((B, STEPS), -1, jnp.int32))
    all_logits, tokens = [logits_BTV[:, -1]], [choose(0, logits_BTV[:, -1])]
    for n in range(STEPS - 1):
        positions_B1 = np.full((B, 1), P + n, np.int32)
        logits_B1V, new = forward(pair.model, pair.params, tokens[-1][:, None], positions_B1, (prompt, slots))
        slots = write(slots, new, n)
        all_logits.append(logits_B1V[:, 0])
        tokens.append(choose(n + 1, logits_B1V[:, 0]))
    return np.stack(all_logits, 1), np.stack(tokens, 1)


def test_cached_decoding(pair):
    ids_BT = some_ids(pair.model, 3, PROMPT + STEPS)
    ours, _ = decode(pair, ids_BT[:, :PROMPT], lambda n, _: ids_BT[:, PROMPT + n])
    assert_close(ours, hf_logits(pair.hf, ids_BT)[:, PROMPT - 1 : -1])


def test_greedy_tokens_over_64_steps(pair):
    torch = pytest.importorskip("torch")
    prompt_BP = some_ids(pair.model, 3, PROMPT, seed=2)
    _, ours = decode(pair, prompt_BP, lambda _, logits: np.asarray(logits).argmax(-1))
    theirs = pair.hf.generate(
        torch.as_tensor(prompt_BP),
        attention_mask=torch.ones(prompt_BP.shape),
        max_new_tokens=STEPS,
        do_sample=False,
        pad_token_id=0,
    )
    np.testing.assert_array_equal(ours, theirs.numpy()[:, PROMPT:])


@pytest.mark.parametrize("key", ["rope_theta", "rope_parameters"])
def test_both_spellings_of_theta(key, random_hf, through_disk, tmp_path):
    given = {"rope_theta": 3e5} if key == "rope_theta" else {"rope_parameters": {"rope_type": "default", "rope_theta": 3e5}}
    model, _ = through_disk(random_hf(**given))
    assert model.config.rope_theta == 3e5


# Properties


def test_rows_share_a_prefix(random_model):
    """Keys and values of 2 prefixes, held once, serve 3 rows each as repeated prefixes would."""
    model, params = random_model()
    prefix_ids, ids_BT = some_ids(model, 2, 8), some_ids(model, 6, 5, seed=1)
    _, prefix = forward(model, params, prefix_ids)
    ours, _ = forward(model, params, ids_BT, np.broadcast_to(8 + np.arange(5, dtype=np.int32), (6, 5)), (prefix,))
    repeated, _ = forward(model, params, np.concatenate([np.repeat(prefix_ids, 3, axis=0), ids_BT], axis=1))
    assert_close(ours, repeated[:, 8:], 1e-5)


def test_segments_may_be_cut_anywhere(random_model):
    model, params = random_model()
    ids_BT = some_ids(model, 2, 12)
    whole, _ = forward(model, params, ids_BT)
    past, parts = (), []
    for start, stop in [(0, 5), (5, 6), (6, 12)]:
        positions_BT = np.broadcast_to(np.arange(start, stop, dtype=np.int32), (2, stop - start))
        logits, segment = forward(model, params, ids_BT[:, start:stop], positions_BT, past)
        past, parts = (*past, segment), [*parts, logits]
    assert_close(np.concatenate(parts, axis=1), whole, 1e-5)


def test_blocked_attention_is_the_same_attention(random_model, monkeypatch):
    """Logits and gradients, with blocks of 4 queries that leave a rest, on rows padded left, right and not at all."""
    monkeypatch.setattr(attention, "QUERY_BLOCK", 4)
    model, params = random_model()
    ids_BT, slot_T = some_ids(model, 3, 10), np.arange(10)
    positions_BT = np.stack([slot_T, np.maximum(slot_T - 3, -1), np.where(slot_T < 6, slot_T, -1)]).astype(np.int32)
    real_BT = positions_BT >= 0

    def of(model):
        def total(params):
            logits_BTV = model.apply({"params": params}, ids_BT, positions_BT)
            return jnp.where(real_BT[..., None], logits_BTV, 0).std(), logits_BTV[real_BT]

        return jax.jit(jax.grad(total, has_aux=True))(params)

    chex.assert_trees_all_close(of(model.clone(attention="blocked")), of(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("side", "padding"), [("left", "any"), ("right", "any"), ("right", "right"), ("none", "right")])
def test_cudnn_attention_is_asked_for_the_same_attention(side, padding, monkeypatch):
    """Its kernel needs a GPU: here XLA's replaces it, with the same operands and mask. A token sees itself and all earlier
    tokens, but no padding. Without padding on the left there is no mask but the kernel's own.
    """
    B, T, N, K, H = 2, 7, 4, 2, 8
    generator = np.random.default_rng(0)
    q_BTNH, k_BKHT, v_BKTH = (
        jnp.asarray(generator.normal(size=shape), jnp.float32) for shape in ((B, T, N, H), (B, K, H, T), (B, K, T, H))
    )
    lengths = (T, 4 if side != "none" else T)
    positions_BT = np.full((B, T), -1)
    for row, length in enumerate(lengths):
        positions_BT[row, slice(T - length, T) if side == "left" else slice(0, length)] = np.arange(length)
    asked = []

    def by_xla(*operands, implementation, **masks):
        asked.append((implementation, {one.dtype for one in operands}, masks))
        return attend_by_xla(*operands, **masks)

    attend_by_xla = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    real = positions_BT >= 0

    def of(attend, *more):
        def attended(q_BTNH, k_BKHT, v_BKTH):
            out_BTNH = attend(q_BTNH, jnp.asarray(positions_BT), k_BKHT, v_BKTH, *more)
            return jnp.where(real[..., None, None], out_BTNH, 0)  # no loss behind padding

        out_BTNH, pull = jax.vjp(
            attended, *(array.astype(jnp.bfloat16).astype(jnp.float32) for array in (q_BTNH, k_BKHT, v_BKTH))
        )
        return out_BTNH, pull(jnp.cos(out_BTNH))

    ours, theirs = of(attention.attend_cudnn, padding), of(attention.attend_within)
    assert ours[0].dtype == jnp.float32
    chex.assert_trees_all_close(ours, theirs, rtol=0, atol=2e-2)
    ((implementation, types, masks),) = asked
    assert implementation == "cudnn" and types == {jnp.dtype("bfloat16")}  # the kernel does not take float32
    if padding == "right":
        assert masks == {"is_causal": True}
        return
    (mask,) = masks.values()
    seen = np.asarray(mask)[:, 0]
    expected = (positions_BT[:, None] >= 0) & (positions_BT[:, None] <= positions_BT[..., None])
    np.testing.assert_array_equal(seen, expected)
    assert all(seen[row, place, place] for row, place in np.argwhere(real))


def test_blocked_attention_scores_no_more_than_the_blocks_before_a_query():
    """For 300 queries: blocks of 128, 128 and 44, each with the keys up to its end."""
    assert attention.key_blocks(300, 300, "blocked") == [(128, 128), (128, 256), (44, 300)]
    assert attention.key_blocks(128, 128, "blocked") == attention.key_blocks(128, 128, "xla") == [(128, 128)]
    assert attention.key_blocks(1, 300, "blocked") == attention.key_blocks(1, 300, "xla") == [(1, 300)]  # after a cache


def test_causality_by_gradient(random_model):
    """d logit_t / d embedding_s is exactly 0 for s > t and not 0 for s <= t; each position has a token of its own."""
    model, params = random_model(tie_word_embeddings=False)
    T = 9
    direction_V = np.random.default_rng(0).normal(size=model.config.vocab_size)

    def logits_T(embedding_VD):
        variables = {"params": {**params, "model.embed_tokens": {"weight": embedding_VD}}}
        return model.apply(variables, jnp.arange(T)[None])[0] @ direction_V

    slope_TVD = jax.jit(jax.jacrev(logits_T))(params["model.embed_tokens"]["weight"])
    depends_TT = np.abs(slope_TVD).max(-1)[:, :T] > 0
    np.testing.assert_array_equal(depends_TT, np.tril(np.ones((T, T), bool)))


def test_padding_has_no_gradient(random_model):
    model, params = random_model()
    ids_BT, positions_BT = some_ids(model, 1, 6), np.array([[-1, -1, 0, 1, 2, -1]], np.int32)

    def total(params, ids_BT):
        return model.apply({"params": params}, ids_BT, positions_BT)[:, 2:5].sum()

    gradient, other = (jax.jit(jax.grad(total))(params, ids) for ids in (ids_BT, np.where(positions_BT < 0, 7, ids_BT)))
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(other), strict=True):
        assert np.isfinite(a).all()
        assert_close(a, b, 1e-6)


def test_bfloat16_is_near_float32(random_model):
    model, params = random_model()
    half = Qwen2(model.config, jnp.bfloat16)
    ids_BT = some_ids(model, 2, 32)
    exact, _ = forward(model, params, ids_BT)
    rounded, segment = forward(half, jax.tree.map(lambda a: a.astype(jnp.bfloat16), params), ids_BT)
    assert rounded.dtype == jnp.float32 and segment.k[0].dtype == jnp.bfloat16
    assert np.sqrt(np.mean((rounded - exact) ** 2)) < 0.02 * np.std(exact)


# config.json

QWEN = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "sliding_window": 32768,
    "use_sliding_window": False,
    "max_window_layers": 21,
    "rope_scaling": None,
}


def test_config_of_qwen():
    config = ModelConfig.from_hf(QWEN)
    assert (config.head_dim, config.rope_theta, config.tie_word_embeddings) == (64, 1e6, True)
    assert ModelConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize(
    ("keys", "theta"),
    [
        ({"rope_theta": 5e5}, 5e5),
        ({"rope_theta": None, "rope_parameters": {"rope_theta": 2e5, "rope_type": "default"}}, 2e5),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 2e5}}, 2e5),
        ({"rope_theta": 5e5, "rope_scaling": {"type": "default"}}, 5e5),
    ],
)
def test_theta(keys, theta):
    assert ModelConfig.from_hf({**QWEN, **keys}).rope_theta == theta


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"use_sliding_window": True}, "sliding-window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "linear"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e6}}, "dynamic"),
        ({"rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"model_type": "llama"}, "llama"),
        ({"model_type": "qwen2_moe"}, "qwen2_moe"),
        ({"model_type": None}, "model_type"),
        ({"architectures": ["Qwen2ForSequenceClassification"]}, "Qwen2ForSequenceClassification"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"head_dim": 63}, "head_dim"),
        ({"hidden_size": "wide"}, "wide"),
        ({"rope_scaling": "yarn"}, "yarn"),
        ({"architectures": "Qwen2ForCausalLM"}, "architecture"),
        ({"architectures": ["Qwen2ForCausalLM", "Other"]}, "Other"),
        ({"layer_types": "full_attention"}, "full_attention"),
        ({"use_sliding_window": 0}, "use_sliding_window"),
        ({"use_sliding_window": "false"}, "use_sliding_window"),
        ({"quantization_config": {}}, "quantization_config"),
        ({"partial_rotary_factor": True}, "partial_rotary_factor"),
        ({"hidden_size": "32"}, "hidden_size is not a whole number; found '32'"),
        ({"hidden_size": 32.9}, "hidden_size is not a whole number; found 32.9"),
        ({"hidden_size": 896.0}, "hidden_size is not a whole number"),
        ({"num_attention_heads": True}, "num_attention_heads is not a whole number; found True"),
        ({"num_key_value_heads": 0}, "num_key_value_heads is not a size"),
        ({"head_dim": 0}, "head_dim is not a size"),
        ({"vocab_size": [1]}, "vocab_size"),
        ({"vocab_size": 1 << 40}, "vocab_size"),
        ({"max_position_embeddings": 1 << 40}, "max_position_embeddings"),
        ({"max_position_embeddings": -1}, "max_position_embeddings"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is not true or false; found 'false'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"rms_norm_eps": -5}, "rms_norm_eps"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"rms_norm_eps": 1}, "rms_norm_eps"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps"),
        ({"rms_norm_eps": True}, "rms_norm_eps"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_theta": -1e4}, "rope_theta"),
        ({"rope_theta": float("nan")}, "rope_theta"),
        ({"rope_theta": float("inf")}, "rope_theta"),
        ({"rope_theta": 10**400}, "rope_theta"),
        ({"rope_theta": "1e6"}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": float("nan")}}, "rope_theta"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        ({"num_hidden_layers": 512, "hidden_size": 1 << 16, "intermediate_size": 1 << 19, "head_dim": 64}, "too large"),
    ],
    ids=str,
)
def test_unknown_features_are_refused_by_name(keys, named):
    with pytest.raises(JaxlvError) as caught:
        ModelConfig.from_hf({**QWEN, **keys}, where="config.json")
    assert named in str(caught.value) and "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"vocab_size": "61"}, {"rms_norm_eps": float("nan")}, {"rope_theta": 0.0}], ids=str)
def test_an_architecture_made_in_python_is_checked_too(changes):
    with pytest.raises(JaxlvError, match=f"model config: {next(iter(changes))}"):
        replace(ModelConfig.from_hf(QWEN), **changes)


def test_null_is_what_is_left_out():
    optional = ("num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "tie_word_embeddings", "rope_scaling")
    left_out = {name: value for name, value in QWEN.items() if name not in optional}
    assert ModelConfig.from_hf({**QWEN, **dict.fromkeys(optional)}) == ModelConfig.from_hf(left_out)


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"])
def test_missing_key_is_named(key):
    with pytest.raises(JaxlvError, match=key):
        ModelConfig.from_hf({name: value for name, value in QWEN.items() if name != key})
