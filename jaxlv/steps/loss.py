"""Token cross-entropy that never holds the logits of a whole batch.

Axes: M tokens (batch times length), D model width, V vocabulary, L tokens of a chunk.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxlv.model.qwen2 import Head, project
from jaxlv.text.tokens import IGNORED

CHUNK_LOGITS = 2**26  # logits held at once: 256 MiB in float32


def cross_entropy(x_BTD: jax.Array, head: Head, labels_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sum of -log p(label) in nats, number of real tokens), both float32 scalars; labels of -1 have no loss.

    The pair adds up over batches, accumulation and devices; a mean of means would weigh tokens by their batch.
    """
    D, V = head.weight_VD.shape[1], head.weight_VD.shape[0]
    total = _nll(x_BTD.reshape(-1, D), head.weight_VD, head.bias_V, labels_BT.reshape(-1), _chunk(labels_BT.size, V))
    return total, jnp.sum(labels_BT != IGNORED).astype(jnp.float32)


def restrict(head: Head, labels_BT: jax.Array, alphabet_A: jax.Array) -> tuple[Head, jax.Array]:
    """The head's rows of an alphabet of token ids, and the labels as indices into it; other labels are ignored.

    With it `cross_entropy` is the likelihood under decoding constrained to the alphabet, at A / V of the head's cost.
    """
    match_BTA = labels_BT[..., None] == alphabet_A
    index_BT = jnp.where(match_BTA.any(-1), match_BTA.argmax(-1), IGNORED)
    return head.rows(alphabet_A), index_BT


def token_losses(x_BTD: jax.Array, head: Head, labels_BT: jax.Array, alphabet_A: jax.Array) -> tuple[jax.Array, jax.Array]:
    """-log p(label) of each token in nats, by the softmax over the vocabulary and over an alphabet: float32 (B, T) each.

    0 where a label is -1; infinite by the alphabet where a label is none of its ids.
    """
    D, V = head.weight_VD.shape[1], head.weight_VD.shape[0]

    def of_chunk(inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
        x_LD, labels_L = inputs
        logits_LV = project(x_LD[None], head)[0]
        normaliser_2L = jnp.stack([jax.nn.logsumexp(part, axis=-1) for part in (logits_LV, logits_LV[:, alphabet_A])])
        loss_2L = normaliser_2L - jnp.take_along_axis(logits_LV, jnp.maximum(labels_L, 0)[:, None], axis=-1)[:, 0]
        loss_2L = loss_2L.at[1].set(jnp.where((labels_L[:, None] == alphabet_A).any(-1), loss_2L[1], jnp.inf))
        return jnp.where(labels_L != IGNORED, loss_2L, 0.0)

    chunks = _chunked(x_BTD.reshape(-1, D), labels_BT.reshape(-1), _chunk(labels_BT.size, V))
    loss_2M = jax.lax.map(of_chunk, chunks).swapaxes(0, 1).reshape(2, -1)[:, : labels_BT.size]
    by_vocabulary, by_alphabet = loss_2M.reshape(2, *labels_BT.shape)
    return by_vocabulary, by_alphabet


def chunks_of(tokens: int, vocabulary: int) -> tuple[int, int]:
    """(tokens of a chunk, chunks): the loss forms the logits of whole chunks, padding included."""
    chunk = _chunk(tokens, vocabulary)
    return chunk, -(-tokens // chunk)


def _chunk(tokens: int, vocabulary: int) -> int:
    """The largest power of two of tokens whose logits stay within CHUNK_LOGITS."""
    return min(tokens, 1 << max(0, (CHUNK_LOGITS // vocabulary).bit_length() - 1))


def _chunked(x_MD: jax.Array, labels_M: jax.Array, chunk: int) -> tuple[jax.Array, jax.Array]:
    pad = -len(labels_M) % chunk
    x_nLD = jnp.pad(x_MD, ((0, pad), (0, 0))).reshape(-1, chunk, x_MD.shape[-1])
    return x_nLD, jnp.pad(labels_M, (0, pad), constant_values=IGNORED).reshape(-1, chunk)


@jax.named_scope("loss")
def _chunk_loss(x_LD: jax.Array, head: Head, labels_L: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    logits_LV = project(x_LD[None], head)[0]
    logsumexp_L = jax.nn.logsumexp(logits_LV, axis=-1)
    label_logit_L = jnp.take_along_axis(logits_LV, jnp.maximum(labels_L, 0)[:, None], axis=-1)[:, 0]
    return jnp.sum(jnp.where(labels_L != IGNORED, logsumexp_L - label_logit_L, 0.0)), logits_LV, logsumexp_L


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _nll(x_MD, weight_VD, bias_V, labels_M, chunk):
    def add(total, inputs):
        return total + _chunk_loss(inputs[0], Head(weight_VD, bias_V), inputs[1])[0], None

    return jax.lax.scan(add, jnp.zeros(()), _chunked(x_MD, labels_M, chunk))[0]


def _nll_forward(x_MD, weight_VD, bias_V, labels_M, chunk):
    """The gradient is formed along with the loss, while a chunk's logits are there: d nll / d logits = p - onehot."""
    head = Head(weight_VD.value, None if bias_V is None else bias_V.value)
    want_weight, want_bias = weight_VD.perturbed, bias_V is not None and bias_V.perturbed

    def step(carry, inputs):
        (total, d_weight, d_bias), (x_LD, labels_L) = carry, inputs
        loss, logits_LV, logsumexp_L = _chunk_loss(x_LD, head, labels_L)
        with jax.named_scope("loss/backward"):
            p_LV = jnp.exp(logits_LV - logsumexp_L[:, None])
            error_LV = p_LV - (jnp.arange(p_LV.shape[1]) == labels_L[:, None])
            error_LV = jnp.where((labels_L != IGNORED)[:, None], error_LV, 0.0)
        with jax.named_scope("head/backward"):
            if want_bias:
                d_bias += error_LV.sum(0)
            error_LV = error_LV.astype(x_LD.dtype)
            if want_weight:
                d_weight += jnp.einsum("LV,LD->VD", error_LV, x_LD, preferred_element_type=jnp.float32)
            d_x_LD = jnp.einsum("LV,VD->LD", error_LV, head.weight_VD)
        return (total + loss, d_weight, d_bias), d_x_LD

    zeros = (
        jnp.zeros(()),
        jnp.zeros(head.weight_VD.shape) if want_weight else None,
        jnp.zeros(head.bias_V.shape) if want_bias and head.bias_V is not None else None,
    )
    (total, d_weight, d_bias), d_x_nLD = jax.lax.scan(step, zeros, _chunked(x_MD.value, labels_M.value, chunk))
    d_x_MD = d_x_nLD.reshape(-1, d_x_nLD.shape[-1])[: len(labels_M.value)]
    d_weight = None if d_weight is None else d_weight.astype(head.weight_VD.dtype)
    d_bias = None if d_bias is None or head.bias_V is None else d_bias.astype(head.bias_V.dtype)
    return total, (d_x_MD, d_weight, d_bias)


@jax.named_scope("loss/backward")
def _nll_backward(chunk, gradients, d_total):
    if isinstance(d_total, jax.custom_derivatives.SymbolicZero):
        return None, None, None, None
    d_x, d_weight, d_bias = (None if g is None else (g * d_total).astype(g.dtype) for g in gradients)
    return d_x, d_weight, d_bias, None


_nll.defvjp(_nll_forward, _nll_backward, symbolic_zeros=True)
