"""Causal grouped-query attention: over several segments of keys and values at once, and the kernels for one segment.

Axes: B rows, T queries, C keys, N query heads, K key/value heads, G = N / K query heads per key/value head, H head size, S
sequences of a segment, n = B / S rows of each, R = n G T.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

try:  # not public, but what is public rounds the logarithms that join segments
    from jax._src.cudnn import fused_attention_stablehlo as cudnn
except ImportError:
    cudnn = None  # type: ignore[assignment]

QUERY_BLOCK = 128  # queries in a block if attention is "blocked"
Padding = Literal["any", "right"]  # where rows may have slots of position -1: "right" is only behind all tokens

HIDDEN_SCORE = -1e30  # softmax turns this into exactly 0, without the NaN of a row of -inf


@jax.named_scope("softmax")
def attend(
    q_BTNH: jax.Array,
    positions_BT: jax.Array,
    segments: Sequence[tuple[jax.Array, jax.Array, jax.Array]],
    stored: Sequence[tuple[jax.Array, jax.Array, jax.Array]] = (),
) -> jax.Array:
    """Attends to the keys and values of several segments together: causal grouped-query attention.

    A segment is (k_SKHC, v_SKCH, positions_SC). Row b of q belongs to its sequence b // (B / S), so that rows with a common
    prompt share its keys without copies. A query sees the slots with 0 <= position <= its own. The softmax runs over all
    segments: each gives its sums relative to its own peak, in float32, and they are added relative to the highest (Dao et
    al. 2022, eq. 3). Those of `stored` segments, (k_SCKH, v_SCKH, positions_SC), are formed by cuDNN's fused kernel
    (`fuses`): only earlier tokens, without gaps between them. Returns (B, T, N, H).
    """
    parts = [_attend_to(q_BTNH, positions_BT, *segment) for segment in segments]
    parts += [_attend_fused(q_BTNH, *segment) for segment in stored]
    highest_BTN1 = functools.reduce(jnp.maximum, [peak_BTN1 for peak_BTN1, _, _ in parts])
    shares = []
    for peak_BTN1, weight_BTN1, part_BTNH in parts:
        factor_BTN1 = jnp.exp(peak_BTN1 - highest_BTN1)
        shares.append((factor_BTN1 * weight_BTN1, factor_BTN1 * part_BTNH))
    sum_BTN1, out_BTNH = functools.reduce(lambda a, b: (a[0] + b[0], a[1] + b[1]), shares)
    return (out_BTNH / sum_BTN1).astype(q_BTNH.dtype)


class _Share(NamedTuple):
    """Of one segment by row: the highest score, the sum of exp(score - peak), and the values weighted by that."""

    peak_BTN1: jax.Array
    weight_BTN1: jax.Array
    out_BTNH: jax.Array


def _attend_to(q_BTNH, positions_BT, k_SKHC, v_SKCH, keys_SC) -> _Share:
    """Returns the share of one segment.

    The queries that share a key/value head form the rows of one matrix, R = n G T, and the keys are stored transposed: so
    both products are plain batched ones, (R, H) x (H, C) and (R, C) x (C, H).
    """
    (B, T, N, H), (S, K, _, C) = q_BTNH.shape, k_SKHC.shape
    n, G = B // S, N // K
    with jax.named_scope("scores"):
        q_SKnGTH = (q_BTNH * H**-0.5).reshape(S, n, T, K, G, H).transpose(0, 3, 1, 4, 2, 5)
        q_SKRH = q_SKnGTH.reshape(S, K, n * G * T, H)
        score_SKRC = jnp.einsum("SKRH,SKHC->SKRC", q_SKRH, k_SKHC, preferred_element_type=jnp.float32)
    with jax.named_scope("mask"):
        score_SKnGTC = score_SKRC.reshape(S, K, n, G, T, C)
        key_S11C, query_SnT1 = keys_SC[:, None, None], positions_BT.reshape(S, n, T, 1)
        visible_SnTC = (key_S11C >= 0) & (key_S11C <= query_SnT1)
        score_SKnGTC = jnp.where(visible_SnTC[:, None, :, None], score_SKnGTC, HIDDEN_SCORE)
    peak_SKnGT1 = jax.lax.stop_gradient(score_SKnGTC.max(-1, keepdims=True))
    weight_SKnGTC = jnp.exp(score_SKnGTC - peak_SKnGT1)
    with jax.named_scope("weighted_sum"):
        weight_SKRC = weight_SKnGTC.astype(v_SKCH.dtype).reshape(S, K, n * G * T, C)
        out_SKRH = jnp.einsum("SKRC,SKCH->SKRH", weight_SKRC, v_SKCH)

    def by_row(a: jax.Array) -> jax.Array:
        return a.reshape(S, K, n, G, T, -1).transpose(0, 2, 4, 1, 3, 5).reshape(B, T, N, -1)

    return _Share(by_row(peak_SKnGT1), by_row(weight_SKnGTC.sum(-1, keepdims=True)), by_row(out_SKRH))


def fuses(kernel: str, dtype: jnp.dtype) -> bool:
    """Returns whether earlier tokens are attended to by cuDNN's fused kernel, which takes narrow types only."""
    return kernel == "cudnn" and jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16) and cudnn is not None


def _weighed(q_SRKH: jax.Array, k_SCKH: jax.Array, v_SCKH: jax.Array, length_S: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the weighted means (S, R, K, H) over the first `length_S` keys and, in float32, the logarithms of the sums of
    exp(score) (S, K, R), by cuDNN. (jax.nn.dot_product_attention rounds the logarithms to the queries' type.)
    """
    every_S = jnp.full_like(length_S, q_SRKH.shape[1])
    kernel: Any = functools.partial(cudnn.dot_product_attention, scale=q_SRKH.shape[-1] ** -0.5, return_residual=True)
    return kernel(q_SRKH, k_SCKH, v_SCKH, q_seqlen=every_S, kv_seqlen=length_S, mask_type=cudnn.MaskType.PADDING)


@jax.named_scope("fused_attention")
def _attend_fused(q_BTNH, k_SCKH, v_SCKH, keys_SC) -> _Share:
    """Returns the share of a segment whose tokens all come before the queries, and before its empty slots.

    The queries that share a key/value head are queries of one sequence, R = n G T. The kernel returns the logarithm of the
    sum of exp(score) and the weighted mean: a share with that peak and a sum of 1. It holds no scores in memory.
    """
    (B, T, N, H), (S, _, K, _) = q_BTNH.shape, k_SCKH.shape
    n, G = B // S, N // K
    length_S = (keys_SC >= 0).sum(axis=1, dtype=jnp.int32)
    q_SnTKGH = q_BTNH.reshape(S, n, T, K, G, H)
    q_SRKH = q_SnTKGH.transpose(0, 1, 4, 2, 3, 5).reshape(S, n * G * T, K, H)
    mean_SRKH, peak_SKR = _weighed(q_SRKH, k_SCKH, v_SCKH, length_S)
    some_S111 = (length_S > 0)[:, None, None, None]  # of no token the kernel makes no numbers

    def by_row(a_SRKx: jax.Array) -> jax.Array:
        return a_SRKx.reshape(S, n, G, T, K, -1).transpose(0, 1, 3, 4, 2, 5).reshape(B, T, N, -1)

    peak_BTN1 = by_row(jnp.where(some_S111, peak_SKR.swapaxes(1, 2)[..., None], HIDDEN_SCORE))
    return _Share(peak_BTN1, jnp.ones_like(peak_BTN1), by_row(jnp.where(some_S111, mean_SRKH, 0)))


def attend_within(
    q_BTNH: jax.Array, positions_BT: jax.Array, k_BKHT: jax.Array, v_BKTH: jax.Array, padding: Padding = "any"
) -> jax.Array:
    """Attends as `attend` does within one segment, the rows' own, whatever their padding."""
    return attend(q_BTNH, positions_BT, [(k_BKHT, v_BKTH, positions_BT)])


@jax.named_scope("softmax")
def attend_blocked(
    q_BTNH: jax.Array, positions_BT: jax.Array, k_BKHT: jax.Array, v_BKTH: jax.Array, padding: Padding = "any"
) -> jax.Array:
    """Attends as `attend_within` does, but skips the keys that come after a block of queries: nearly half of them."""
    T, blocks = q_BTNH.shape[1], []
    for start in range(0, T, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, T)
        seen = (k_BKHT[..., :stop], v_BKTH[:, :, :stop], positions_BT[:, :stop])
        blocks.append(attend(q_BTNH[:, start:stop], positions_BT[:, start:stop], [seen]))
    return jnp.concatenate(blocks, axis=1)


@jax.named_scope("fused_attention")
def attend_cudnn(
    q_BTNH: jax.Array, positions_BT: jax.Array, k_BKHC: jax.Array, v_BKCH: jax.Array, padding: Padding = "any"
) -> jax.Array:
    """Attends as `attend_within` does, by cuDNN's fused kernel (Ampere or newer), for which float32 is rounded to
    bfloat16.

    With padding on the right alone, slots are in the order of their positions. Then the kernel's own causal mask is exact
    for all tokens: what is behind a token, padding included, it does not see, and the kernel skips it. (A slot of padding
    sees the tokens before it, and no token sees that slot.) With other padding the mask is an operand, which costs a bias
    in memory, and its gradient.
    """
    dtype = q_BTNH.dtype
    if dtype == jnp.float32:
        q_BTNH, k_BKHC, v_BKCH = (array.astype(jnp.bfloat16) for array in (q_BTNH, k_BKHC, v_BKCH))
    k_BCKH, v_BCKH = k_BKHC.transpose(0, 3, 1, 2), v_BKCH.swapaxes(1, 2)
    attend_fused = functools.partial(jax.nn.dot_product_attention, q_BTNH, k_BCKH, v_BCKH, implementation="cudnn")
    if padding == "right":
        return attend_fused(is_causal=True).astype(dtype)
    key_B1TC, query_B1TC = positions_BT[:, None, None, :], positions_BT[:, None, :, None]
    return attend_fused(mask=(key_B1TC >= 0) & (key_B1TC <= query_B1TC)).astype(dtype)


KERNELS = {"xla": attend_within, "blocked": attend_blocked, "cudnn": attend_cudnn}


def key_blocks(queries: int, keys: int, kernel: str) -> list[tuple[int, int]]:
    """Returns (queries, keys) of each block of scores that a kernel forms; one block if queries and keys differ in
    number.
    """
    if kernel != "blocked" or keys != queries:
        return [(queries, keys)]
    stops = [min(start + QUERY_BLOCK, queries) for start in range(0, queries, QUERY_BLOCK)]
    return [(stop - start, stop) for start, stop in zip([0, *stops], stops, strict=False)]
