"""Draws the next token of each row from its logits.

Axes: B rows, V vocabulary (or the 13 symbols), n blocks of L tokens.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxlv.config import SamplingConfig

FORBIDDEN = -1e30
BLOCK = 512  # tokens in a block of the two-stage draw from a whole vocabulary


def draw(logits_BV: jax.Array, keys_B: jax.Array, sampling: SamplingConfig, seen_BV: jax.Array) -> jax.Array:
    """Draws one index per row: repetition penalty, temperature, top-k, top-p in transformers' order; at temperature 0 the
    most probable index.
    """
    if sampling.repetition_penalty != 1:
        penalised_BV = jnp.where(
            logits_BV < 0, logits_BV * sampling.repetition_penalty, logits_BV / sampling.repetition_penalty
        )
        logits_BV = jnp.where(seen_BV & (logits_BV > FORBIDDEN), penalised_BV, logits_BV)
    if sampling.temperature == 0:
        return logits_BV.argmax(-1).astype(jnp.int32)
    logits_BV = jnp.where(logits_BV > FORBIDDEN, logits_BV / sampling.temperature, FORBIDDEN)
    if 0 < sampling.top_k < logits_BV.shape[-1]:
        least_B1 = jax.lax.top_k(logits_BV, sampling.top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV < least_B1, FORBIDDEN, logits_BV)
    if sampling.top_p < 1:
        sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
        p_BV = jax.nn.softmax(sorted_BV, axis=-1)
        inside_BV = jnp.cumsum(p_BV, axis=-1) - p_BV < sampling.top_p
        least_B1 = jnp.min(jnp.where(inside_BV, sorted_BV, jnp.inf), axis=-1, keepdims=True)
        logits_BV = jnp.where(logits_BV < least_B1, FORBIDDEN, logits_BV)
    return jax.vmap(categorical)(keys_B, logits_BV).astype(jnp.int32)


def categorical(key: jax.Array, logits_V: jax.Array) -> jax.Array:
    """Draws an index with the probabilities softmax(logits_V).

    If the vocabulary is long, a block is drawn first, by its share of the probability, and then an index within the block.
    The distribution is the same, without a random number per token, which would cost more than the logits of a small model.
    """
    if len(logits_V) <= BLOCK:
        return jax.random.categorical(key, logits_V)
    logits_nL = jnp.pad(logits_V, (0, -len(logits_V) % BLOCK), constant_values=-jnp.inf).reshape(-1, BLOCK)
    block_key, key = jax.random.split(key)
    most_n = jnp.max(logits_nL, axis=-1)
    shift_n = jnp.where(jnp.isfinite(most_n), most_n, 0.0)  # a block may be forbidden as a whole
    mass_n = jnp.log(jnp.exp(logits_nL - shift_n[:, None]).sum(axis=-1)) + shift_n
    block = jax.random.categorical(block_key, mass_n)
    return block * BLOCK + jax.random.categorical(key, logits_nL[block])
