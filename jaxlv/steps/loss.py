"""Token cross-entropy that never holds the logits of a whole batch.

The logits are formed in chunks along time, each with all rows, so that a batch whose rows are on several devices is never
gathered. Chunks are never padded: if they cannot be equal, the last is shorter.

Axes: B rows, T tokens of a row, L tokens of a row in a chunk, D model width, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlv.model.qwen2 import Head, project
from jaxlv.text.tokens import IGNORED

CHUNK_LOGITS = 2**26  # logits held at once: 256 MiB in float32


class Chunks(NamedTuple):
    """How T tokens of each row are cut: `whole` chunks of `size` tokens and one of `rest`, unless that is 0."""

    size: int
    whole: int
    rest: int

    @property
    def number(self) -> int:
        """The number of all chunks."""
        return self.whole + (self.rest > 0)


def chunks_of(batch: int, length: int, vocabulary: int, logits: int = 0) -> Chunks:
    """Cuts rows of `length` tokens into chunks of at most so many `logits` (0: CHUNK_LOGITS), or of one token of each row.

    The chunks are equal if the length has a divisor within a factor of two of the most tokens that a chunk may have.
    Otherwise there are as few as possible, and the last is shorter.
    """
    most = min(length, max(1, (logits or CHUNK_LOGITS) // (batch * vocabulary)))
    size = next((size for size in range(most, most // 2, -1) if length % size == 0), -(-length // -(-length // most)))
    return Chunks(size, *divmod(length, size))


@jax.named_scope("loss")
def cross_entropy(
    x_BTD: jax.Array, head: Head, labels_BT: jax.Array, logits: int = 0, narrow: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Returns (sum of -log p(label) in nats, number of real tokens), both float32 scalars; labels of -1 do not count.

    The pair adds up over batches, accumulation and devices; a mean of means would weight tokens by their batch. At most so
    many `logits` are held at once (0: CHUNK_LOGITS); if `narrow`, rounded to bfloat16.
    """
    total = _nll(x_BTD, head.weight_VD, head.bias_V, labels_BT, logits, narrow)
    return total, jnp.sum(labels_BT != IGNORED).astype(jnp.float32)


@jax.named_scope("loss")
def restrict(head: Head, labels_BT: jax.Array, alphabet_A: jax.Array) -> tuple[Head, jax.Array]:
    """Returns the head's rows of an alphabet of token ids, and the labels as indices into it; other labels are ignored.

    With these, `cross_entropy` is the likelihood under decoding constrained to the alphabet, at A / V of the head's cost.
    """
    match_BTA = labels_BT[..., None] == alphabet_A
    index_BT = jnp.where(match_BTA.any(-1), match_BTA.argmax(-1), IGNORED)
    return head.rows(alphabet_A), index_BT


@jax.named_scope("loss")
def token_cross_entropy(x_BTD: jax.Array, head: Head, labels_BT: jax.Array) -> jax.Array:
    """Returns -log p(label) of each token in nats: float32 (B, T), 0 if the label is -1."""

    def of_chunk(_: None, x_BLD: jax.Array, labels_BL: jax.Array) -> tuple[None, jax.Array]:
        return None, _chunk_losses(x_BLD, head, labels_BL).loss_BL

    return _by_chunk(of_chunk, None, x_BTD, labels_BT, head)[1]


class Scores(NamedTuple):
    """Of each token: -log p(label) in nats, and whether the label is the likeliest token."""

    loss_BT: jax.Array
    likeliest_BT: jax.Array


@jax.named_scope("loss")
def token_scores(x_BTD: jax.Array, head: Head, labels_BT: jax.Array) -> Scores:
    """Returns the scores of each token by the softmax over the vocabulary; 0 and False if the label is -1."""

    def of_chunk(_: None, x_BLD: jax.Array, labels_BL: jax.Array) -> tuple[None, tuple[jax.Array, jax.Array]]:
        losses = _chunk_losses(x_BLD, head, labels_BL)
        return None, (losses.loss_BL, losses.logits_BLV.argmax(-1) == labels_BL)

    return Scores(*_by_chunk(of_chunk, None, x_BTD, labels_BT, head)[1])


@jax.named_scope("loss")
def token_losses(x_BTD: jax.Array, head: Head, labels_BT: jax.Array, alphabet_A: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns -log p(label) of each token in nats, by the softmax over the vocabulary and over an alphabet: float32 (B, T)
    each.

    It is 0 if the label is -1; over the alphabet, infinite if the label is not one of its ids.
    """

    def of_chunk(_: None, x_BLD: jax.Array, labels_BL: jax.Array) -> tuple[None, tuple[jax.Array, jax.Array]]:
        losses = _chunk_losses(x_BLD, head, labels_BL)
        by_all = losses.loss_BL
        less_BL = losses.logsumexp_BL - jax.nn.logsumexp(losses.logits_BLV[..., alphabet_A], axis=-1)
        by_some = jnp.where((labels_BL[..., None] == alphabet_A).any(-1), by_all - less_BL, jnp.inf)
        return None, (by_all, jnp.where(labels_BL != IGNORED, by_some, 0.0))

    return _by_chunk(of_chunk, None, x_BTD, labels_BT, head)[1]


def _by_chunk(
    step: Callable, carry: Any, x_BTD: jax.Array, labels_BT: jax.Array, head: Head, logits: int = 0
) -> tuple[Any, Any]:
    """Returns (the last carry, the outputs (B, L, ...) joined along time) of `step(carry, x_BLD, labels_BL)` over the
    chunks.
    """
    B, T = labels_BT.shape
    size, whole, rest = chunks_of(B, T, len(head.weight_VD), logits)
    if size == T:
        return step(carry, x_BTD, labels_BT)

    def cut(a_BT: jax.Array) -> jax.Array:
        return a_BT[:, : whole * size].reshape(B, whole, size, *a_BT.shape[2:]).swapaxes(0, 1)

    def joined(a_nBL: jax.Array) -> jax.Array:
        return a_nBL.swapaxes(0, 1).reshape(B, whole * size, *a_nBL.shape[3:])

    carry, out = jax.lax.scan(lambda carry, part: step(carry, *part), carry, (cut(x_BTD), cut(labels_BT)))
    out = jax.tree.map(joined, out)
    if rest:
        carry, last = step(carry, x_BTD[:, -rest:], labels_BT[:, -rest:])
        out = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), out, last)
    return carry, out


class _Losses(NamedTuple):
    """-log p(label) of tokens, their logits, the logsumexp of the logits; exp(logits - the highest), and their sum; whether
    a token has a label, and the label, or else 0.
    """

    loss_BL: jax.Array
    logits_BLV: jax.Array
    logsumexp_BL: jax.Array
    weight_BLV: jax.Array
    sum_BL: jax.Array
    real_BL: jax.Array
    label_BL: jax.Array


def _chunk_losses(x_BLD: jax.Array, head: Head, labels_BL: jax.Array, narrow: bool = False) -> _Losses:
    logits_BLV = project(x_BLD, head, jnp.bfloat16 if narrow else jnp.float32)
    peak_BL1 = logits_BLV.max(-1, keepdims=True)
    weight_BLV = jnp.exp(logits_BLV - peak_BL1)
    sum_BL = weight_BLV.sum(-1)
    logsumexp_BL = jnp.log(sum_BL) + peak_BL1[..., 0]
    real_BL, label_BL = labels_BL != IGNORED, jnp.maximum(labels_BL, 0)
    logit_BL = jnp.take_along_axis(logits_BLV, label_BL[..., None], axis=-1)[..., 0]
    loss_BL = jnp.where(real_BL, logsumexp_BL - logit_BL, 0.0)
    return _Losses(loss_BL, logits_BLV, logsumexp_BL, weight_BLV, sum_BL, real_BL, label_BL)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _nll(x_BTD, weight_VD, bias_V, labels_BT, logits, narrow):
    head = Head(weight_VD, bias_V)

    def add(total, x_BLD, labels_BL):
        return total + jnp.sum(_chunk_losses(x_BLD, head, labels_BL, narrow).loss_BL), None

    return _by_chunk(add, jnp.zeros(()), x_BTD, labels_BT, head, logits)[0]


def _nll_forward(x_BTD, weight_VD, bias_V, labels_BT, logits, narrow):
    """Computes the gradient together with the loss, while a chunk's logits exist: d nll / d logits = p - onehot.

    If the head is frozen, so that only the states have a gradient, that is (weights W) / sum - W[label], with the weights
    that the loss has formed: neither another exponential nor the one-hot in the size of the logits.
    """
    head = Head(weight_VD.value, None if bias_V is None else bias_V.value)
    want_weight, want_bias = weight_VD.perturbed, bias_V is not None and bias_V.perturbed

    def frozen(carry, x_BLD, labels_BL):
        total, *none = carry
        found = _chunk_losses(x_BLD, head, labels_BL, narrow)
        with jax.named_scope("head"), jax.named_scope("backward"):
            weight_BLV = found.weight_BLV.astype(x_BLD.dtype)
            sum_BLD = jnp.einsum("BLV,VD->BLD", weight_BLV, head.weight_VD, preferred_element_type=jnp.float32)
            own_BLD = head.weight_VD.at[found.label_BL].get(mode="promise_in_bounds", wrap_negative_indices=False)
            d_x_BLD = jnp.where(found.real_BL[..., None], sum_BLD / found.sum_BL[..., None] - own_BLD, 0.0)
            d_x_BLD = d_x_BLD.astype(x_BLD.dtype)
        return (total + jnp.sum(found.loss_BL), *none), d_x_BLD

    def step(carry, x_BLD, labels_BL):
        total, d_weight, d_bias = carry
        found = _chunk_losses(x_BLD, head, labels_BL, narrow)
        with jax.named_scope("backward"):
            p_BLV = jnp.exp(found.logits_BLV - found.logsumexp_BL[..., None])
            error_BLV = p_BLV - (jnp.arange(p_BLV.shape[-1]) == labels_BL[..., None])
            error_BLV = jnp.where((labels_BL != IGNORED)[..., None], error_BLV, 0.0)
        with jax.named_scope("head"), jax.named_scope("backward"):
            if want_bias:
                d_bias += error_BLV.sum((0, 1))
            error_BLV = error_BLV.astype(x_BLD.dtype)
            if want_weight:
                d_weight += jnp.einsum("BLV,BLD->VD", error_BLV, x_BLD, preferred_element_type=jnp.float32)
            d_x_BLD = jnp.einsum("BLV,VD->BLD", error_BLV, head.weight_VD)
        return (total + jnp.sum(found.loss_BL), d_weight, d_bias), d_x_BLD

    zeros = (
        jnp.zeros(()),
        jnp.zeros(head.weight_VD.shape) if want_weight else None,
        jnp.zeros(head.bias_V.shape) if want_bias and head.bias_V is not None else None,
    )
    step = step if want_weight or want_bias else frozen
    (total, d_weight, d_bias), d_x_BTD = _by_chunk(step, zeros, x_BTD.value, labels_BT.value, head, logits)
    with jax.named_scope("backward"):
        d_weight = None if d_weight is None else d_weight.astype(head.weight_VD.dtype)
        d_bias = None if d_bias is None or head.bias_V is None else d_bias.astype(head.bias_V.dtype)
    return total, (d_x_BTD, d_weight, d_bias)


@jax.named_scope("loss")
def _nll_backward(logits, narrow, gradients, d_total):
    if isinstance(d_total, jax.custom_derivatives.SymbolicZero):
        return None, None, None, None
    d_x, d_weight, d_bias = (None if g is None else (g * d_total).astype(g.dtype) for g in gradients)
    return d_x, d_weight, d_bias, None


_nll.defvjp(_nll_forward, _nll_backward, symbolic_zeros=True)
