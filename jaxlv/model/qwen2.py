"""Qwen2.5: embedding, blocks of grouped-query attention and SwiGLU with RMSNorm before each, one head.

A parameter's path, joined with dots, is its key in the safetensors file. LoRA is not a setting of the model: a projection
adds a low-rank path if the variable collection `lora` holds one for it (see jaxlv/lora/overlay.py).

Axes: B rows, T new tokens, C tokens attended to, D model width, F projected width, N query heads, K key/value heads, H head
size, V vocabulary, R rank, S sequences of a segment (B is a multiple of S).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import field
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxlv.model import quantised
from jaxlv.model.attention import KERNELS, Padding, attend, fuses
from jaxlv.model.bits import Scheme
from jaxlv.model.config import ModelConfig
from jaxlv.model.placement import whole_keys, whole_over_data

INIT = nn.initializers.normal(0.02)


class Segment(NamedTuple):
    """Keys (rotated) and values of one stretch of tokens, per layer; a slot of position -1 is empty."""

    k: tuple[jax.Array, ...]  # per layer (S, K, H, C): transposed, as the product with the queries needs them
    v: tuple[jax.Array, ...]  # per layer (S, K, C, H); of a past that a fused kernel reads both are (S, C, K, H)
    positions_SC: jax.Array  # int32


class Head(NamedTuple):
    """The output projection: the embedding if tied; the bias exists only as part of a LoRA overlay."""

    weight_VD: jax.Array
    bias_V: jax.Array | None

    @jax.named_scope("head")
    def rows(self, ids_A: jax.Array) -> Head:
        """Returns the head restricted to these token ids."""
        return Head(self.weight_VD[ids_A], None if self.bias_V is None else self.bias_V[ids_A])


class Features(NamedTuple):
    """What `Qwen2.features` returns: normalised states, the head to project them with, this call's keys and values."""

    x_BTD: jax.Array
    head: Head
    segment: Segment


# ------------------------------------------------------------------------------------------ the mathematics


def rms_norm(x_BTD: jax.Array, weight_D: jax.Array, eps: float) -> jax.Array:
    """Computes x / sqrt(mean(x^2) + eps) * weight, the mean in float32 (Zhang and Sennrich 2019, eq. 4).

    Returns NaN if the mean overflows: 1 / sqrt(inf) would give zeros, and nobody would notice. The remainder of a division
    by the largest number is that: NaN for infinity, and every other mean unchanged. A comparison and a choice would use the
    mean twice, and XLA would then not make one kernel of a norm on CUDA, but three.
    """
    x32_BTD = x_BTD.astype(jnp.float32)
    mean_BT1 = jnp.mean(jnp.square(x32_BTD), axis=-1, keepdims=True)
    finite_BT1 = jax.lax.rem(mean_BT1, jnp.finfo(jnp.float32).max)
    return weight_D * (x32_BTD * jax.lax.rsqrt(finite_BT1 + eps)).astype(x_BTD.dtype)


@jax.named_scope("rope")
def rope_angles(positions_BT: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Returns cosine and sine, each (B, T, 1, H/2) float32, of position * theta^(-2i/H) (Su et al. 2021, eq. 15)."""
    frequency_h = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle_BT1h = positions_BT[..., None, None].astype(jnp.float32) * frequency_h
    return jnp.cos(angle_BT1h), jnp.sin(angle_BT1h)


@jax.named_scope("rope")
def apply_rope(x_BTNH: jax.Array, cos_BT1h: jax.Array, sin_BT1h: jax.Array) -> jax.Array:
    """Rotates each pair (x_i, x_{i + H/2}) by its angle, in float32: the half-split layout of Hugging Face's Qwen2."""
    a_BTNh, b_BTNh = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    turned = [a_BTNh * cos_BT1h - b_BTNh * sin_BT1h, b_BTNh * cos_BT1h + a_BTNh * sin_BT1h]
    return jnp.concatenate(turned, axis=-1).astype(x_BTNH.dtype)


@jax.checkpoint  # recomputed in the backward pass, at no cost in time: stored, it would be a layer's largest array
@jax.named_scope("swiglu")
def swiglu(gate_BTF: jax.Array, up_BTF: jax.Array) -> jax.Array:
    """Computes SiLU(gate) * up (Shazeer 2020, eq. 6)."""
    return jax.nn.silu(gate_BTF) * up_BTF


def low_rank(x_BTD: jax.Array, a_RD: jax.Array, b_FR: jax.Array, scale: jax.Array | None, early: bool = False) -> jax.Array:
    """Computes (scale * B) A x, with A and scale * B in x's type (Hu et al. 2021, eq. 3); None if B is scaled already.

    The scale is applied to B, where there are fewest numbers, before it is rounded. If A is wider than x although B is
    scaled, several devices sum their gradients, and that in A's type; `early` says that they do so at once (`product`).
    """
    if scale is None and (early or a_RD.dtype != x_BTD.dtype):
        with jax.named_scope("lora_A"):
            down_BTR = product(x_BTD, a_RD, early)
        with jax.named_scope("lora_B"):
            return product(down_BTR, b_FR, early)
    with jax.named_scope("lora_A"):
        down_BTR = jnp.einsum("BTD,RD->BTR", x_BTD, a_RD.astype(x_BTD.dtype))
    with jax.named_scope("lora_B"):
        scaled_FR = b_FR if scale is None else b_FR * scale
        return jnp.einsum("BTR,FR->BTF", down_BTR, scaled_FR.astype(x_BTD.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x_BTD: jax.Array, wide_FD: jax.Array, early: bool = False) -> jax.Array:
    """Computes x W^T in x's type; the gradient for W is summed, and returned, in W's own, wider type.

    XLA sums the gradients of all layers over devices at once, and holds x and y's gradient of every layer until then. If
    `early`, they are summed before the backward pass goes on, layer by layer.
    """
    return jnp.einsum("BTD,FD->BTF", x_BTD, wide_FD.astype(x_BTD.dtype))


def _product_forward(x_BTD, wide_FD, early):
    return product(x_BTD, wide_FD, early), (x_BTD, wide_FD)


def _product_backward(early, kept, dy_BTF):
    x_BTD, wide_FD = kept
    dx_BTD = jnp.einsum("BTF,FD->BTD", dy_BTF, wide_FD.astype(x_BTD.dtype))
    d_wide_FD = jnp.einsum("BTF,BTD->FD", dy_BTF, x_BTD, preferred_element_type=wide_FD.dtype)
    return jax.lax.optimization_barrier((dx_BTD, d_wide_FD)) if early else (dx_BTD, d_wide_FD)


product.defvjp(_product_forward, _product_backward)


def dropped(x_BTD: jax.Array, key: jax.Array, rate: jax.Array) -> jax.Array:
    """Sets a share `rate` of x's numbers to 0 and scales the others up to compensate (Srivastava et al. 2014, section 4)."""
    keep = 1.0 - rate
    kept_BTD = jax.random.bernoulli(key, keep, x_BTD.shape)
    return jnp.where(kept_BTD, x_BTD / keep.astype(x_BTD.dtype), 0)


@jax.named_scope("head")
def project(x_BTD: jax.Array, head: Head, rounded_to: Any = jnp.float32) -> jax.Array:
    """Returns logits (B, T, V) in float32; the product is held as `rounded_to`."""
    logits_BTV = jnp.einsum("BTD,VD->BTV", x_BTD, head.weight_VD, preferred_element_type=rounded_to).astype(jnp.float32)
    return logits_BTV if head.bias_V is None else logits_BTV + head.bias_V.astype(jnp.float32)


# ------------------------------------------------------------------------------------------- the architecture


class Linear(nn.Module):
    """x W^T + b, plus the low-rank path of the `lora` collection if it holds one for this projection.

    W is a parameter, or stands in codes and scales (jaxlv/model/quantised.py). If `early`, the gradients of that path are
    formed as soon as they can be (`product`).
    """

    features: int
    use_bias: bool
    dtype: jnp.dtype
    weights: Scheme = "full"
    early: bool = False

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        fans = self.features, x_BTD.shape[-1]
        if self.weights == "full":
            y_BTF = jnp.einsum("BTD,FD->BTF", x_BTD, self.param("weight", INIT, fans, self.dtype))
        else:
            shapes = quantised.shapes(self.weights, *fans)
            codes, scales = (
                self.param(name, nn.initializers.zeros, shapes[name].shape, shapes[name].dtype) for name in quantised.LEAVES
            )
            y_BTF = quantised.product(x_BTD, codes, scales, self.weights)
        if self.use_bias:
            y_BTF += self.param("bias", nn.initializers.zeros, (self.features,), self.dtype)
        if self.has_variable("lora", "A"):
            a_RD, b_FR = (cast(jax.Array, self.get_variable("lora", name)) for name in ("A", "B"))
            scale = cast(jax.Array, self.get_variable("lora", "scale")) if self.has_variable("lora", "scale") else None
            if self.has_rng("dropout") and self.has_variable("lora", "dropout"):
                with jax.named_scope("dropout"):
                    rate = jnp.asarray(self.get_variable("lora", "dropout"))
                    x_BTD = dropped(x_BTD, self.make_rng("dropout"), rate)
            y_BTF += low_rank(x_BTD, a_RD, b_FR, scale, self.early)
        return y_BTF


class Norm(nn.Module):
    """RMSNorm (Zhang and Sennrich 2019): x / sqrt(mean x² + eps), times a weight."""

    eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        weight_D = self.param("weight", nn.initializers.ones, (x_BTD.shape[-1],), self.dtype)
        return rms_norm(x_BTD, weight_D, self.eps)


class Layer(NamedTuple):
    """What comes out of a layer, or of its attention, with the keys and values of its tokens."""

    x_BTD: jax.Array
    k_BKHT: jax.Array
    v_BKTH: jax.Array


class Attention(nn.Module):
    """Grouped-query attention with rotary positions: fewer heads of keys and values than of queries."""

    config: ModelConfig
    dtype: jnp.dtype
    kernel: str
    weights: Scheme = "full"
    mesh: jax.sharding.Mesh | None = None
    early: bool = False

    @nn.compact
    def __call__(self, x_BTD, positions_BT, rope, past, padding: Padding = "any") -> Layer:
        c = self.config
        B, T, D = x_BTD.shape
        how = self.dtype, self.weights, self.early
        q_BTF = Linear(c.num_attention_heads * c.head_dim, True, *how, name="q_proj")(x_BTD)
        k_BTF = Linear(c.num_key_value_heads * c.head_dim, True, *how, name="k_proj")(x_BTD)
        v_BTF = Linear(c.num_key_value_heads * c.head_dim, True, *how, name="v_proj")(x_BTD)
        q_BTNH = apply_rope(q_BTF.reshape(B, T, -1, c.head_dim), *rope)
        k_BKHT = apply_rope(k_BTF.reshape(B, T, -1, c.head_dim), *rope).transpose(0, 2, 3, 1)
        v_BKTH = v_BTF.reshape(B, T, -1, c.head_dim).swapaxes(1, 2)
        k_BKHT, v_BKTH = whole_keys(c, self.mesh, k_BKHT, v_BKTH)
        if past:
            own = (k_BKHT, v_BKTH, positions_BT)
            before, stored = ([], past) if fuses(self.kernel, self.dtype) else (past, [])
            out_BTNH = attend(q_BTNH, positions_BT, [*before, own], stored)
        else:
            out_BTNH = KERNELS[self.kernel](q_BTNH, positions_BT, k_BKHT, v_BKTH, padding)
        out_BTD = Linear(D, False, *how, name="o_proj")(out_BTNH.reshape(B, T, -1))
        return Layer(out_BTD, k_BKHT, v_BKTH)


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020): down(silu(gate x) * up x)."""

    config: ModelConfig
    dtype: jnp.dtype
    weights: Scheme = "full"
    early: bool = False

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        how = self.dtype, self.weights, self.early
        gate_BTF = Linear(self.config.intermediate_size, False, *how, name="gate_proj")(x_BTD)
        up_BTF = Linear(self.config.intermediate_size, False, *how, name="up_proj")(x_BTD)
        return Linear(x_BTD.shape[-1], False, *how, name="down_proj")(swiglu(gate_BTF, up_BTF))


class Block(nn.Module):
    """A layer: attention and MLP, each after a norm, and each added to its input."""

    config: ModelConfig
    dtype: jnp.dtype
    kernel: str
    weights: Scheme = "full"
    mesh: jax.sharding.Mesh | None = None
    early: bool = False

    @nn.compact
    def __call__(self, x_BTD, positions_BT, rope, past, padding: Padding = "any") -> Layer:
        eps = self.config.rms_norm_eps
        normed_BTD = Norm(eps, self.dtype, name="input_layernorm")(x_BTD)
        attention = Attention(self.config, self.dtype, self.kernel, self.weights, self.mesh, self.early, name="self_attn")
        out_BTD, k_BKHT, v_BKTH = attention(normed_BTD, positions_BT, rope, past, padding)
        x_BTD = x_BTD + out_BTD
        normed_BTD = Norm(eps, self.dtype, name="post_attention_layernorm")(x_BTD)
        mlp = MLP(self.config, self.dtype, self.weights, self.early, name="mlp")
        return Layer(x_BTD + mlp(normed_BTD), k_BKHT, v_BKTH)


class Embedding(nn.Module):
    """The table of embeddings: one row for each token of the vocabulary."""

    config: ModelConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param("weight", INIT, (self.config.vocab_size, self.config.hidden_size), self.dtype)


class OutputHead(nn.Module):
    """The LM head: logits over the vocabulary; its weight is the embedding's if they are tied."""

    config: ModelConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tied_VD: jax.Array) -> Head:
        weight_VD = tied_VD if self.config.tie_word_embeddings else self.param("weight", INIT, tied_VD.shape, self.dtype)
        if self.has_variable("lora", "weight"):
            weight_VD = self.get_variable("lora", "weight").astype(self.dtype)
        return Head(weight_VD, self.get_variable("lora", "bias") if self.has_variable("lora", "bias") else None)


class Qwen2(nn.Module):
    """Qwen2.5 of any size; weights, activations and matrix products in `dtype`, norms, angles and softmax in float32."""

    config: ModelConfig
    dtype: jnp.dtype = jnp.float32
    attention: str = "xla"  # a key of jaxlv.model.attention.KERNELS
    folder: str | None = field(default=None, compare=False)  # that its weights were read from; it is no part of the model
    mesh: jax.sharding.Mesh | None = None  # that its weights and its batches lie on; None for one device
    fsdp: bool = False  # whether weights are cut over the mesh's axis "data", too, and gathered where a layer uses them
    weights: Scheme = "full"  # of the layers' projections

    def __call__(self, ids_BT: jax.Array, positions_BT: jax.Array | None = None) -> jax.Array:
        """Returns logits (B, T, V) float32 of token ids (B, T); see `features` for positions."""
        features = self.features(ids_BT, positions_BT)
        return project(features.x_BTD, features.head)

    @nn.compact
    def features(
        self,
        ids_BT: jax.Array,
        positions_BT: jax.Array | None = None,
        past: Sequence[Segment] = (),
        padding: Padding = "any",
        remat: bool = False,
    ) -> Features:
        """Returns the states after the last norm, with the head and the keys and values of these tokens.

        positions_BT (int32) default to 0..T-1; -1 marks padding, on either side, which no token sees. If there is padding
        only on the right (jaxlv.text.tokens.stack checks that), `padding` may say so: a kernel may then be faster. `past`
        holds the segments of earlier tokens; the caller decides what happens to the new segment. With `remat` a gradient
        keeps only the input of each layer, and forms the rest of it again in the backward pass.
        """
        c = self.config
        if positions_BT is None:
            positions_BT, padding = jnp.broadcast_to(jnp.arange(ids_BT.shape[1], dtype=jnp.int32), ids_BT.shape), "right"
        embedding_VD = Embedding(c, self.dtype, name="model.embed_tokens")()
        with jax.named_scope("embed"):
            x_BTD = embedding_VD[ids_BT]
        rope = rope_angles(positions_BT, c.head_dim, c.rope_theta)
        layer = nn.map_variables(Block, "params", whole_over_data(c, self.mesh)) if self.mesh and self.fsdp else Block
        layer = nn.remat(layer, static_argnums=(5,)) if remat else layer
        early = remat and self.mesh is not None
        ks, vs = [], []
        for i in range(c.num_hidden_layers):
            seen = [(segment.k[i], segment.v[i], segment.positions_SC) for segment in past]
            block = layer(c, self.dtype, self.attention, self.weights, self.mesh, early, name=f"model.layers.{i}")
            x_BTD, k_BKHT, v_BKTH = block(x_BTD, positions_BT, rope, seen, padding)
            ks.append(k_BKHT)
            vs.append(v_BKTH)
        x_BTD = Norm(c.rms_norm_eps, self.dtype, name="model.norm")(x_BTD)
        head = OutputHead(c, self.dtype, name="lm_head")(embedding_VD)
        return Features(x_BTD, head, Segment(tuple(ks), tuple(vs), positions_BT))


def features(
    model: Qwen2,
    variables: dict[str, Any],
    ids_BT: jax.Array,
    positions_BT: jax.Array | None = None,
    past: Sequence[Segment] = (),
    dropout_key: jax.Array | None = None,
    padding: Padding = "any",
    remat: bool = False,
) -> Features:
    """Applies `Qwen2.features` to {"params": ..., "lora": ...}; a key turns dropout on."""
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    return cast(Features, model.apply(variables, ids_BT, positions_BT, past, padding, remat, method="features", rngs=rngs))
