"""Causal grouped-query attention: over several segments of keys and values at once, and the kernels for one segment.

Axes: B rows, T queries, C keys, N query heads, K key/value heads, G = N / K query heads per key/value head, H head size,
S sequences of a segment, n = B / S rows of each.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

QUERY_BLOCK = 128  # queries of a block where attention is "blocked"
HIDDEN_SCORE = -1e30  # a score that softmax turns into exactly 0, without the NaN of a row of -inf


@jax.named_scope("softmax")
def attend(
    q_BTNH: jax.Array,
    positions_BT: jax.Array,
    segments: Sequence[tuple[jax.Array, jax.Array, jax.Array]],
) -> jax.Array:
    """Causal grouped-query attention over the keys and values of several segments together.

    A segment is (k_SKCH, v_SKCH, positions_SC). Row b of q belongs to sequence b // (B / S) of it, so that rows which
    share a prompt share its keys, unrepeated. A query sees the slots with 0 <= position <= its own. The softmax runs over
    all segments: each gives its sums relative to its own peak, in float32, and they are added relative to the highest
    (Dao et al. 2022, eq. 3). Returns (B, T, N, H).
    """
    parts = [_attend_to(q_BTNH, positions_BT, *segment) for segment in segments]
    highest_BTN1 = functools.reduce(jnp.maximum, [peak_BTN1 for peak_BTN1, _, _ in parts])
    shares = []
    for peak_BTN1, weight_BTN1, part_BTNH in parts:
        factor_BTN1 = jnp.exp(peak_BTN1 - highest_BTN1)
        shares.append((factor_BTN1 * weight_BTN1, factor_BTN1 * part_BTNH))
    sum_BTN1, out_BTNH = functools.reduce(lambda a, b: (a[0] + b[0], a[1] + b[1]), shares)
    return (out_BTNH / sum_BTN1).astype(q_BTNH.dtype)


def _attend_to(q_BTNH, positions_BT, k_SKCH, v_SKCH, keys_SC):
    """(peak, sum of exp(score - peak), values weighted by it) of one segment, each by row: (B, T, N, 1 or H)."""
    (B, T, N, H), (S, K, _, _) = q_BTNH.shape, k_SKCH.shape
    n, G = B // S, N // K
    with jax.named_scope("scores"):
        q_SnTKGH = (q_BTNH * H**-0.5).reshape(S, n, T, K, G, H)
        score_SKnGTC = jnp.einsum("SnTKGH,SKCH->SKnGTC", q_SnTKGH, k_SKCH, preferred_element_type=jnp.float32)
    with jax.named_scope("mask"):
        key_S111C, query_S1nT1 = keys_SC[:, None, None, None], positions_BT.reshape(S, 1, n, T, 1)
        visible_S1nTC = (key_S111C >= 0) & (key_S111C <= query_S1nT1)
        score_SKnGTC = jnp.where(visible_S1nTC[:, :, :, None], score_SKnGTC, HIDDEN_SCORE)
    peak_SKnGT1 = jax.lax.stop_gradient(score_SKnGTC.max(-1, keepdims=True))
    weight_SKnGTC = jnp.exp(score_SKnGTC - peak_SKnGT1)
    with jax.named_scope("weighted_sum"):
        out_SnTKGH = jnp.einsum("SKnGTC,SKCH->SnTKGH", weight_SKnGTC.astype(v_SKCH.dtype), v_SKCH)

    def by_row(a_SKnGT1: jax.Array) -> jax.Array:
        return jnp.moveaxis(a_SKnGT1, (2, 4), (1, 2)).reshape(B, T, N, 1)

    return by_row(peak_SKnGT1), by_row(weight_SKnGTC.sum(-1, keepdims=True)), out_SnTKGH.reshape(B, T, N, H)


def attend_within(q_BTNH: jax.Array, positions_BT: jax.Array, k_BKTH: jax.Array, v_BKTH: jax.Array) -> jax.Array:
    """The same attention within one segment, the rows' own."""
    return attend(q_BTNH, positions_BT, [(k_BKTH, v_BKTH, positions_BT)])


def attend_blocked(q_BTNH: jax.Array, positions_BT: jax.Array, k_BKTH: jax.Array, v_BKTH: jax.Array) -> jax.Array:
    """The same attention within one segment, without the keys that lie behind a block of queries: nearly half of them."""
    T, blocks = q_BTNH.shape[1], []
    for start in range(0, T, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, T)
        seen = (k_BKTH[:, :, :stop], v_BKTH[:, :, :stop], positions_BT[:, :stop])
        blocks.append(attend(q_BTNH[:, start:stop], positions_BT[:, start:stop], [seen]))
    return jnp.concatenate(blocks, axis=1)


def attend_cudnn(q_BTNH: jax.Array, positions_BT: jax.Array, k_BKCH: jax.Array, v_BKCH: jax.Array) -> jax.Array:
    """The same attention within one segment by cuDNN's fused kernel (fp16 or bf16, Ampere or newer)."""
    key_B1TC, query_B1TC = positions_BT[:, None, None, :], positions_BT[:, None, :, None]
    visible_B1TC = (key_B1TC >= 0) & (key_B1TC <= query_B1TC)
    k_BCKH, v_BCKH = k_BKCH.swapaxes(1, 2), v_BKCH.swapaxes(1, 2)
    return jax.nn.dot_product_attention(q_BTNH, k_BCKH, v_BCKH, mask=visible_B1TC, implementation="cudnn")


KERNELS = {"xla": attend_within, "blocked": attend_blocked, "cudnn": attend_cudnn}
