"""The prefill: the program that reads prompts.

Axes: S prompts, U texts that are read, P tokens, D model width, V vocabulary (or the 13 symbols).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlv.model.qwen2 import Qwen2, Segment, features, project
from jaxlv.text.tokens import Array


class Nested(NamedTuple):
    """S prompts, each of which is the beginning of one of the U texts that are read: of which (S,), and its positions."""

    of_S: Array
    positions_SP: Array


@functools.partial(jax.jit, static_argnames=("model",))
def prefill(
    variables: dict[str, Any],
    ids_UP: Array,
    positions_UP: Array,
    asked: jax.Array | None,
    nested: Nested | None = None,
    *,
    model: Qwen2,
) -> tuple[jax.Array, Segment]:
    """Returns (logits (S, V) after the prompts, their keys and values); only the logits of the tokens `asked` if given.

    The prompts are those that are read, or those that lie within them as `nested` says.
    """
    x_UPD, head, segment = features(model, variables, jnp.asarray(ids_UP), jnp.asarray(positions_UP), padding="right")
    if nested is None:
        x_S1D = _last(x_UPD, segment.positions_SC)
    else:
        x_S1D, segment = _within(x_UPD, segment, nested)
    return project(x_S1D, head if asked is None else head.rows(asked))[:, 0], segment


@jax.named_scope("sampling")
def _last(x_BTD: jax.Array, positions_BT: jax.Array) -> jax.Array:
    """Returns the states of each row's last token (B, 1, D); behind it there may be padding."""
    last_B1 = positions_BT.max(axis=1, keepdims=True)
    return jnp.take_along_axis(x_BTD, last_B1[..., None], axis=1, mode="promise_in_bounds")


@jax.named_scope("sampling")
def _within(x_UPD: jax.Array, segment: Segment, nested: Nested) -> tuple[jax.Array, Segment]:
    """Returns the states of the last tokens (S, 1, D) of prompts within others, and their keys and values."""
    positions_SP = jnp.asarray(nested.positions_SP)
    k, v = (tuple(_at(a, nested.of_S) for a in part) for part in segment[:2])
    return _at(x_UPD, nested.of_S, positions_SP.max(axis=1))[:, None], Segment(k, v, positions_SP)


def _at(a: jax.Array, *places_S: Array) -> jax.Array:
    """Returns the entries at places along the first axes: (S, ...)."""
    axes = tuple(range(len(places_S)))
    inner = tuple(range(1, a.ndim - len(axes) + 1))
    numbers = jax.lax.GatherDimensionNumbers(offset_dims=inner, collapsed_slice_dims=axes, start_index_map=axes)
    sizes = (*(1 for _ in axes), *a.shape[len(axes) :])
    return jax.lax.gather(a, jnp.stack(places_S, axis=1), numbers, sizes, mode="promise_in_bounds")
