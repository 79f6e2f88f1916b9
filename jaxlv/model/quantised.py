"""Projections in 8 and 4 bits: how weights become codes and scales, and the product with them.

A quantised projection has no weight W (F, D), but `codes` and `scales` at its path:

int8  codes int8 (F, D), scales float32 (F,): W = codes * scale, the scale such that a row's largest number has the code 127;
nf4   codes uint8 (F, D/2), scales bfloat16 (F, D/g): W = TABLE[code] * scale, the scale being the largest number of a group.
      A group is g = 64 numbers of a row, or the largest power of two that divides D. Of its bytes, byte i has number i in
      its low half, and number i + g/2 in its high half.

The table has the quantiles of a normal distribution (NormalFloat, Dettmers et al. 2023, appendix E).

Axes: F outputs and D inputs of a projection, G groups of a row, g numbers of a group; B rows, T tokens.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlv.model.bits import GROUP, Bits

LARGEST = 127  # of the codes in 8 bits; -128 is not used
TABLE = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
], np.float32)  # fmt: skip
LEAVES = ("codes", "scales")
BLOCK = 1 << 20  # numbers that are quantised at once


def group_of(inputs: int) -> int:
    """Returns how many numbers of a row share a scale in 4 bits; 1 if the row cannot be cut into pairs."""
    return math.gcd(inputs, GROUP)


def shapes(bits: Bits, outputs: int, inputs: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes and types of a projection's codes and scales."""
    of = jax.ShapeDtypeStruct
    if bits == "int8":
        return {"codes": of((outputs, inputs), jnp.int8), "scales": of((outputs,), jnp.float32)}
    groups = inputs // group_of(inputs)
    return {"codes": of((outputs, inputs // 2), jnp.uint8), "scales": of((outputs, groups), jnp.bfloat16)}


def rounded(params: Any, dtype: Any) -> Any:
    """Returns a tree of parameters in the type `dtype`, except codes and scales, which keep theirs."""

    def cast(path: Any, leaf: Any) -> Any:
        return leaf if getattr(path[-1], "key", None) in LEAVES else leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, params)


def fans(leaf: Any) -> tuple[int, int]:
    """Returns (outputs, inputs) of a projection from its weight or its codes."""
    outputs, inputs = leaf.shape
    return outputs, 2 * inputs if leaf.dtype == jnp.uint8 else inputs


# ------------------------------------------------------------------------------------------------------- on the host


def quantised(bits: Bits, weight_FD: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the codes and scales that are closest to a weight, row by row."""
    found = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in shapes(bits, *weight_FD.shape).items()}
    rows = max(1, BLOCK // weight_FD.shape[1])
    for first in range(0, len(weight_FD), rows):
        part = slice(first, first + rows)
        of_rows = _int8 if bits == "int8" else _nf4
        found["codes"][part], found["scales"][part] = of_rows(weight_FD[part].astype(np.float32))
    return found


def _int8(weight_FD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale_F = np.abs(weight_FD).max(axis=1) / np.float32(LARGEST)
    return np.rint(weight_FD / _divisor(scale_F)[:, None]).astype(np.int8), scale_F


def _nf4(weight_FD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    F, D = weight_FD.shape
    weight_FGg = weight_FD.reshape(F, -1, group_of(D))
    scale_FG = np.abs(weight_FGg).max(axis=2).astype(jnp.bfloat16)  # rounded first: codes make up for it
    between = (TABLE[1:] + TABLE[:-1]) / 2
    code_FGg = np.searchsorted(between, weight_FGg / _divisor(scale_FG)[..., None]).astype(np.uint8)
    low_FGh, high_FGh = np.split(code_FGg, 2, axis=2)
    return (low_FGh | high_FGh << 4).reshape(F, -1), scale_FG


def _divisor(scale: np.ndarray) -> np.ndarray:
    """Returns a scale in float32, and 1 for rows of zeros."""
    return np.where(scale == 0, np.float32(1), scale.astype(np.float32))


def restored(bits: Bits, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Returns the weight (F, D) in float32 that codes and scales stand for."""
    if bits == "int8":
        return codes * scales[:, None]
    code_FGh = codes.reshape(*scales.shape, -1)
    level_FGg = TABLE[np.concatenate([code_FGh & 15, code_FGh >> 4], axis=2)]
    return (level_FGg * scales[..., None].astype(np.float32)).reshape(len(codes), -1)


# ------------------------------------------------------------------------------------------------------- on the device


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def product(x_BTD: jax.Array, codes: jax.Array, scales: jax.Array, bits: Bits) -> jax.Array:
    """Computes x W^T in x's type from codes and scales.

    What the codes stand for is computed when x is there, and again when the gradient is there that it is multiplied by: a
    layer's weights are gone after their product. This holds nothing but codes in between; `jax.checkpoint` would hold x, or
    compute it again. In 8 bits the codes are multiplied, exactly, and the scales are applied to the result.
    """
    return _forward(x_BTD, codes, scales, bits)[0]


def _forward(x_BTD: jax.Array, codes: jax.Array, scales: jax.Array, bits: Bits) -> tuple[jax.Array, Any]:
    x_BTD, later = jax.lax.optimization_barrier((x_BTD, codes))
    y_BTF = jnp.einsum("BTD,FD->BTF", x_BTD, _factors(later, scales, bits, x_BTD.dtype))
    return _scaled(y_BTF, scales, bits), (codes, scales)


def _backward(bits: Bits, held: tuple[jax.Array, jax.Array], dy_BTF: jax.Array) -> tuple[jax.Array, None, None]:
    codes, scales = held
    dy_BTF, later = jax.lax.optimization_barrier((_scaled(dy_BTF, scales, bits), codes))
    with jax.named_scope("rematted_computation"):  # as JAX calls what it computes again on purpose
        factor_FD = _factors(later, scales, bits, dy_BTF.dtype)
    return jnp.einsum("BTF,FD->BTD", dy_BTF, factor_FD), None, None


product.defvjp(_forward, _backward)


@jax.named_scope("dequantised")
def _factors(codes: jax.Array, scales: jax.Array, bits: Bits, dtype: Any) -> jax.Array:
    """Returns what x is multiplied by (F, D)."""
    if bits == "int8":
        return codes.astype(dtype)
    code_FGh = codes.reshape(*scales.shape, -1)
    code_FGg = jnp.concatenate([code_FGh & 15, code_FGh >> 4], axis=2)
    level_FGg = jnp.asarray(TABLE).at[code_FGg].get(mode="promise_in_bounds")
    return (level_FGg * scales[..., None].astype(jnp.float32)).astype(dtype).reshape(len(codes), -1)


@jax.named_scope("dequantised")
def _scaled(y_BTF: jax.Array, scales: jax.Array, bits: Bits) -> jax.Array:
    """Returns outputs, or their gradient, times the scales of 8 bits."""
    return (y_BTF.astype(jnp.float32) * scales).astype(y_BTF.dtype) if bits == "int8" else y_BTF
