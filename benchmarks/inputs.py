"""Functions of every kind, each with its count worked out by hand, for `benchmarks.counters`.

Each count is a formula over the sizes written beside it. `by_hand` are the FLOPs of matrix products and convolutions: two
for each pair that is multiplied and added, only taps on data; if `all_operations`, it is every operation, each as 1. Import
this module after XLA_FLAGS has asked for eight devices.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffrax
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.experimental import io_callback
from jax.experimental import pallas as pl

P = jax.sharding.PartitionSpec


@dataclass(frozen=True)
class Input:
    """A function, its arguments, and what it costs."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    by_hand: int
    executed: int | None = None  # what a CPU executes if that differs, by hand, and why
    why: str = ""
    all_operations: bool = False
    trips: Any = None
    report: str = ""  # the public bug report that the function comes from
    module: nn.Module | None = None  # Flax's module, for its tabulate
    tabulated: int | None = None  # FLOPs of the gradient that tabulate takes, which includes the inputs'
    grad: bool = False  # whether module and twin are asked for the gradient
    twin: str = ""  # the same network in benchmarks.twins


def shape(*sizes: int, dtype: Any = jnp.float32, sharding: Any = None) -> jax.ShapeDtypeStruct:
    """Returns an array without values."""
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)


def grad(f: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Returns the gradient of the sum of the squares of what `f` returns, which needs the whole forward pass."""
    return jax.grad(lambda *a: (f(*a) ** 2).sum(), **options)


B, D, F, C = 32, 64, 128, 8  # rows, width, inner width, classes
ONE = 2 * B * D * D  # a product of a batch and a square matrix
X, W, FLAG, WHOLE = shape(B, D), shape(D, D), shape(dtype=bool), shape(dtype=jnp.int32)
N = 8  # width of the small arrays
SQUARE, VECTOR = shape(N, N), shape(N)
CUBE = 2 * N**3


# ------------------------------------------------------------------------------------------------ modules of Flax


class MLP(nn.Module):
    """Two layers."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(C)(nn.relu(nn.Dense(F)(x)))


class Step(nn.Module):
    """One layer of a scan."""

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return jnp.tanh(nn.Dense(x.shape[-1], use_bias=False)(x)), None


class Scanned(nn.Module):
    """Twelve layers by nn.scan."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layers = nn.scan(Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=12)
        return layers()(x, None)[0]


class Layer(nn.Module):
    """One layer of a remat_scan."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.sin(nn.Dense(x.shape[-1], use_bias=False)(x))


class Remat(nn.Module):
    """Twenty-four layers by nn.remat_scan, 4 times 6."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.remat_scan(Layer, lengths=(4, 6))()(x)


class CNN(nn.Module):
    """Two convolutions, two pools, a layer."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.avg_pool(nn.relu(nn.Conv(4, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.max_pool(nn.relu(nn.Conv(6, (3, 3))(x)), (2, 2), (2, 2))
        return nn.Dense(10)(x.reshape(len(x), -1))


def of_module(name: str, module: nn.Module, x: Any, by_hand: int, **more: Any) -> Input:
    """Returns a module's forward pass, or the gradient of its parameters."""
    variables = jax.eval_shape(module.init, jax.random.key(0), x)

    def forward(variables: Any, x: jax.Array) -> Any:
        return module.apply(variables, x)

    function = grad(forward) if more.get("grad") else forward
    return Input(name, function, (variables, x), by_hand, module=module, **more)


LAYERS = 2 * B * (D * F + F * C)
DEEP = 2 * 4 * 40 * 40  # a layer of the remat_scan, 4 rows of width 40; the backward pass computes each once more


# ------------------------------------------------------------------------------------------------ convolutions


def taps(size: int, out: int, window: int, stride: int = 1, low: int = 0, base: int = 1, dilation: int = 1) -> int:
    """Returns the taps of a window along one axis that are on data: not on padding or the zeros between dilated numbers."""
    at = [o * stride - low + t * dilation for o in range(out) for t in range(window)]
    return sum(0 <= place <= (size - 1) * base and place % base == 0 for place in at)


def conv(**options: Any) -> Callable[..., jax.Array]:
    """Returns a convolution of images, channels last."""
    spec = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "window_strides": (1, 1), "padding": "VALID"}
    return lambda x, k: lax.conv_general_dilated(x, k, **{**spec, **options})


H, CI, CO, IMAGES = 16, 8, 24, 4
IMAGE, KERNEL = shape(IMAGES, H, H, CI), shape(3, 3, CI, CO)
PAIRS = 2 * IMAGES * CI * CO  # FLOPs of one tap of all images and channels
SAME = PAIRS * taps(H, H, 3, low=1) ** 2
AVERAGED = 2 * 2 * (taps(12, 12, 3, low=1) ** 2 * 3 * 4 + taps(6, 6, 3, low=1) ** 2 * 4 * 6 + 3 * 3 * 6 * 10)

CONVOLUTIONS = [
    Input("conv 3x3 VALID", conv(), (IMAGE, KERNEL), PAIRS * (14 * 3) ** 2, twin="conv VALID"),
    Input("conv 3x3 SAME", conv(padding="SAME"), (IMAGE, KERNEL), SAME, twin="conv SAME"),
    Input("conv 3x3 SAME, gradients", grad(conv(padding="SAME"), argnums=(0, 1)), (IMAGE, KERNEL), 3 * SAME,
          twin="conv SAME, of the image too", grad=True),
    Input("conv 3x3, stride 2", conv(window_strides=(2, 2)), (IMAGE, KERNEL), PAIRS * (7 * 3) ** 2, twin="conv strided"),
    Input("conv 3x3, 4 groups", conv(feature_group_count=4), (IMAGE, shape(3, 3, CI // 4, CO)),
          PAIRS // 4 * (14 * 3) ** 2, twin="conv grouped"),
    Input("conv 3x3, depthwise", conv(feature_group_count=CI), (IMAGE, shape(3, 3, 1, CI)),
          2 * IMAGES * CI * (14 * 3) ** 2, twin="conv depthwise"),
    Input("conv 3x3, dilated", conv(rhs_dilation=(2, 2)), (IMAGE, KERNEL), PAIRS * (12 * 3) ** 2, twin="conv dilated"),
    Input("conv 1x1", conv(), (IMAGE, shape(1, 1, CI, CO)), PAIRS * H * H, twin="conv 1x1"),
    Input("conv transposed 4x4, stride 2",
          lambda x, k: lax.conv_transpose(x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")),
          (IMAGE, shape(4, 4, CI, CO)), PAIRS * taps(H, 2 * H, 4, low=2, base=2) ** 2, twin="conv transposed"),
    of_module("Flax CNN with pools", CNN(), shape(2, 12, 12, 3), AVERAGED, report="flax #4023", twin="CNN"),
    Input("max pool 2x2, gradient", jax.grad(lambda x: nn.max_pool(x, (2, 2), (2, 2)).sum()), (shape(1, 6, 6, 1),),
          9 * 3 + 9,  # of each window the largest is found, and the gradient added there
          9 * 3 * (3 + 3 + 5) + 9, "each comparison is 3 comparisons, 3 of logic, and 5 choices", all_operations=True),
]  # fmt: skip


# ------------------------------------------------------------------------------------------------ loops and branches


def rnn(w: jax.Array, u: jax.Array, xs: jax.Array) -> jax.Array:
    """Runs steps of two products each."""
    return lax.scan(lambda h, x: (jnp.tanh(x @ w + h @ u), None), jnp.zeros((B, D)), xs)[0]


def scanned(f: Callable[[Any], Any], length: int, **options: Any) -> Callable[[Any], Any]:
    """Returns a function that repeats `f`."""
    return lambda x: lax.scan(lambda c, _: (f(c), None), x, None, length=length, **options)[0]


def turned(x: jax.Array, w: jax.Array, n: jax.Array) -> jax.Array:
    """Runs a loop whose length is an argument."""
    return lax.fori_loop(0, n, lambda i, c: c @ w, x)


def two_loops(x: jax.Array, w: jax.Array, m: jax.Array, n: jax.Array) -> jax.Array:
    """Runs two loops whose lengths are arguments."""
    with jax.named_scope("first"):
        x = turned(x, w, m)
    with jax.named_scope("second"):
        return turned(x, w, n)


def until(x: jax.Array, w: jax.Array, v: jax.Array) -> jax.Array:
    """Runs a loop with a product in its condition."""
    return lax.while_loop(lambda c: jnp.sum(w @ c[0]) + jnp.sum(v) < 1.0, lambda c: c @ w, x)


def either(p: jax.Array, a: jax.Array) -> jax.Array:
    """Computes a product, or 600 operations on every element."""
    return lax.cond(p, lambda: a @ a, lambda: lax.fori_loop(0, 600, lambda i, c: c * 1.1, a))


def residual(p: jax.Array, a: jax.Array) -> jax.Array:
    """Computes the gradient of a branch that keeps what it needs."""
    return jax.grad(lambda a: lax.cond(p, lambda a: ((a @ a) ** 2).sum(), lambda a: jnp.sin(a).sum(), a))(a)


def solved(a: jax.Array, b: jax.Array) -> jax.Array:
    """Solves a linear system by a custom method: here one product."""
    return lax.custom_linear_solve(lambda x: a @ x, b, lambda _, b: a @ b, symmetric=True)


def euler(a: jax.Array, y: jax.Array) -> Any:
    """Solves a linear differential equation, with one product a step."""
    term = diffrax.ODETerm(lambda t, y, a: a @ y)
    return diffrax.diffeqsolve(term, diffrax.Euler(), 0.0, 1.0, 0.1, y, args=a).ys


LOOPS = [
    Input("RNN by scan, 5 steps", rnn, (W, W, shape(5, B, D)), 5 * 2 * ONE, twin="RNN"),
    Input("RNN by scan, gradients", grad(rnn, argnums=(0, 1)), (W, W, shape(5, B, D)), 5 * (2 + 2 + 1) * ONE,
          grad=True, twin="RNN"),
    Input("scan 4 in scan 3", lambda x, w: scanned(scanned(lambda c: c @ w, 4), 3)(x), (X, W), 3 * 4 * ONE),
    Input("fori_loop, 24 turns", lambda x, w: lax.fori_loop(0, 24, lambda i, c: c @ w, x), (X, W), 24 * ONE),
    Input("scan of 24, unroll 5", lambda x, w: scanned(lambda c: c @ w, 24, unroll=5)(x), (X, W), 24 * ONE),
    Input("lax.map over 8", lambda a: lax.map(lambda x: x @ x.T, a), (shape(8, N, D),), 8 * 2 * N * N * D),
    Input("fori_loop of unknown length, 7 turns", turned, (X, W, WHOLE), 7 * ONE, trips=7),
    Input("two loops of unknown length, 3 and 5", two_loops, (X, W, WHOLE, WHOLE), 8 * ONE,
          trips={"first": 3, "second": 5}),
    Input("while, a product in its condition, 9 turns", until, (X, W, VECTOR), 9 * ONE + 10 * 2 * D * D, trips=9),
    Input("cond: a product or 600 operations", either, (FLAG, shape(D, D)), 2 * D**3),
    Input("cond, gradient", residual, (FLAG, SQUARE), 3 * CUBE),
    Input("custom_linear_solve", solved, (W, shape(D)), 2 * D * D),
    Input("scipy's cg, 10 turns", lambda a, b: jax.scipy.sparse.linalg.cg(lambda x: a @ x, b, maxiter=10)[0], (W, shape(D)),
          11 * (2 * D * D + 2 * 2 * D), trips=10),  # ten turns and the start: a product with the matrix, two dots
    Input("vmap of a scan", jax.vmap(scanned(lambda c: c @ c, 7)), (shape(5, N, N),), 5 * 7 * CUBE),
    Input("associative_scan of 8 matrices", lambda a: lax.associative_scan(jnp.matmul, a), (shape(8, N, N),),
          (4 + 2 + 1 + 0 + 1 + 3) * CUBE),  # pairs, pairs of pairs, ...; and back
    Input("diffrax, Euler's 10 steps", euler, (SQUARE, VECTOR), 10 * 2 * N * N, trips=10),
    Input("checkpoint, gradient", jax.value_and_grad(jax.checkpoint(lambda a: ((jnp.sin(a @ a) @ a) ** 2).sum())), (SQUARE,),
          (2 + 2 + 4) * CUBE, (2 + 4) * CUBE, "what is made again is merged with the first", twin="checkpoint", grad=True),
]  # fmt: skip


# ------------------------------------------------------------------------------------------------ products and algebra


def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Computes grouped-query attention without a mask."""
    return jax.nn.dot_product_attention(q, k, v)


def tied(w: jax.Array, x: jax.Array) -> jax.Array:
    """Uses a layer twice."""
    return jnp.tanh(x @ w) @ w


def pallas(estimate: pl.CostEstimate | None) -> Callable[..., jax.Array]:
    """Returns a product in an interpreted kernel."""

    def kernel(x: Any, w: Any, o: Any) -> None:
        o[...] = x[...] @ w[...]

    return lambda x, w: pl.pallas_call(kernel, out_shape=shape(B, D), interpret=True, cost_estimate=estimate)(x, w)


def step(rule: optax.GradientTransformation) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Returns an optimiser's update of a matrix, and its arguments."""
    weights = {"w": shape(D, F)}
    state = jax.eval_shape(rule.init, weights)
    return lambda g, s, w: rule.update(g, s, w), (weights, state, weights)


T, HEADS, WIDE = 32, 8, 16
QUERIES, KEYS = shape(2, T, HEADS, WIDE), shape(2, T, 2, WIDE)
EXPERTS, GROUPS = shape(4, D, D), shape(4, dtype=jnp.int32)


def ragged(x: jax.Array, w: jax.Array, g: jax.Array) -> jax.Array:
    """Multiplies groups of rows, each by a matrix of its own."""
    return lax.ragged_dot(x, w, g)


ALGEBRA = [
    of_module("Flax MLP", MLP(), X, LAYERS, twin="MLP", report="jax #22249"),
    of_module("Flax MLP, gradient", MLP(), X, 2 * LAYERS + 2 * B * F * C, grad=True, twin="MLP",
              tabulated=3 * LAYERS),
    of_module("Flax nn.scan of 12", Scanned(), X, 12 * ONE),
    of_module("Flax nn.scan of 12, gradient", Scanned(), X, 3 * 12 * ONE, grad=True),
    of_module("Flax remat_scan 4 x 6, gradient", Remat(), shape(4, 40), 24 * (1 + 1 + 2) * DEEP, grad=True,
              report="jax #18672, flax #3492"),
    Input("Equinox MLP, vmapped", jax.vmap(eqx.nn.MLP(D, C, F, 1, key=jax.random.key(0))), (X,), LAYERS),
    Input("a weight used twice, gradient", grad(tied), (W, X), (2 + 2 + 1) * ONE, report="DeepSpeed #7256", grad=True,
          twin="tied"),
    Input("grouped-query attention", attention, (QUERIES, KEYS, KEYS), 2 * 2 * 2 * HEADS * T * T * WIDE,
          report="xformers #1404, pytorch #177188", twin="GQA"),
    Input("attention", attention, (QUERIES, QUERIES, QUERIES), 2 * 2 * 2 * HEADS * T * T * WIDE,
          report="pytorch #195460", twin="attention"),
    Input("batched product", lambda a, b: a @ b, (shape(5, B, D), shape(5, D, N)), 2 * 5 * B * D * N, twin="batched"),
    Input("einsum of three", lambda a, b, c: jnp.einsum("ij,jk,kl->il", a, b, c), (X, W, shape(D, N)),
          2 * (D * D * N + B * D * N), twin="einsum"),
    Input("vdot of 64", jnp.vdot, (shape(D), shape(D)), 2 * D, twin="vdot"),
    Input("int8 product", lambda x, w: x @ w, (shape(B, D, dtype=jnp.int8), shape(D, D, dtype=jnp.int8)), ONE),
    Input("bfloat16 product", lambda x, w: x @ w, (shape(B, D, dtype=jnp.bfloat16), shape(D, D, dtype=jnp.bfloat16)), ONE),
    Input("complex64 product", lambda x, w: x @ w, (shape(B, D, dtype=jnp.complex64), shape(D, D, dtype=jnp.complex64)),
          4 * ONE, twin="complex"),
    Input("hessian of x^T A x", lambda a, v: jax.hessian(lambda v: v @ (a @ v))(v), (SQUARE, VECTOR),
          2 * CUBE + 2 * 2 * N * N, 2 * CUBE, "products of one number, 1, are dropped"),
    Input("ragged_dot, 4 groups", ragged, (X, EXPERTS, GROUPS), ONE, 4 * ONE, "each row meets every matrix"),
    Input("ragged_dot, gradients", grad(lambda x, w, g: ragged(x, w, g) ** 2, argnums=(0, 1)), (X, EXPERTS, GROUPS), 3 * ONE,
          3 * 4 * ONE, "each row meets every matrix"),
    Input("cholesky", lax.linalg.cholesky, (SQUARE,), sum((2 * j + 1) * (N - j) for j in range(N)), twin="cholesky"),
    Input("triangular solve", lambda a, b: lax.linalg.triangular_solve(a, b, left_side=True), (SQUARE, shape(N, 3)),
          3 * N * N),
    Input("qr", jnp.linalg.qr, (SQUARE,), 2 * (4 * N**3 // 3)),
    Input("eigh", jnp.linalg.eigh, (SQUARE,), 9 * N**3),
    Input("svd", lambda a: jnp.linalg.svd(a, full_matrices=False), (shape(12, N),), 14 * 12 * N**2 + 8 * N**3),
    Input("solve", jnp.linalg.solve, (SQUARE, VECTOR), sum((N - i) + 2 * (N - i) ** 2 for i in range(1, N + 1)) + 2 * N * N),
    Input("fft of 5 x 16", jnp.fft.fft, (shape(5, 16, dtype=jnp.complex64),), 5 * 5 * 16 * 4, twin="fft"),
]  # fmt: skip


# ------------------------------------------------------------------------------------------------ the rest


def printed(x: jax.Array, w: jax.Array) -> jax.Array:
    """Computes a product, and prints a line."""
    jax.debug.print("{}", x[0, 0])
    return x @ w


def with_ref(x: jax.Array, w: jax.Array) -> jax.Array:
    """Writes a product into a reference."""
    ref = jax.new_ref(x)
    ref[...] = ref[...] @ w
    return ref[...]


def mesh() -> jax.sharding.Mesh:
    """Returns a mesh of eight devices in a row."""
    return jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))


@functools.cache
def spread() -> list[Input]:
    """Returns functions for eight devices."""
    row = jax.sharding.NamedSharding(mesh(), P("d"))
    whole = jax.sharding.NamedSharding(mesh(), P())

    def mapped(body: Callable[..., Any], *specs: Any) -> Callable[..., Any]:
        return jax.shard_map(body, mesh=mesh(), in_specs=specs[:-1], out_specs=specs[-1], check_vma=False)

    return [
        Input("pmap on 8", jax.pmap(lambda a: a @ a), (shape(8, D, D),), 8 * 2 * D**3),
        Input("shard_map on 8", mapped(lambda x, w: x @ w, P("d"), P(), P("d")), (X, W), ONE),
        Input("jit, sharded on 8", jax.jit(lambda x, w: x @ w),
              (shape(B, D, sharding=row), shape(D, D, sharding=whole)), ONE),
        Input("shard_map: product, psum", mapped(lambda x, w: lax.psum(x @ w, "d"), P(None, "d"), P("d"), P()), (X, W), ONE),
        Input("shard_map: all_gather, product",
              mapped(lambda x, w: x @ lax.all_gather(w, "d", tiled=True), P("d"), P("d"), P("d")), (X, W), ONE),
    ]  # fmt: skip


REST = [
    Input("Pallas with a cost estimate", pallas(pl.CostEstimate(flops=ONE, transcendentals=0, bytes_accessed=0)), (X, W),
          ONE),
    Input("Pallas without one", pallas(None), (X, W), ONE, report="jax #29463"),
    Input("debug.print and a product", printed, (X, W), ONE),
    Input("io_callback and a product", lambda x, w: io_callback(np.sin, x, x) @ w, (X, W), ONE),
    Input("a reference and a product", with_ref, (X, W), ONE),
    Input("jnp.stack and a product", lambda x, w: jnp.stack([x, x]) @ w, (X, W), 2 * ONE, twin="stack"),
    Input("lax.reduce with x + 2 y, 1000", lambda a: lax.reduce(a, 0.0, lambda x, y: x + y * 2, (0,)), (shape(1000),),
          2 * 999, all_operations=True),
    Input("cumsum of 64 x 8", lambda a: jnp.cumsum(a, 0), (shape(64, 8),), 63 * 8,
          8 * (4 * (taps(16, 16, 16, low=15) - 16) + taps(4, 4, 4, low=3) - 4 + 64),
          "windows of 16, sums of the 4 before, both added", all_operations=True, report="jax #19296"),
    Input("16 times x + y", lambda x, y: functools.reduce(lambda c, _: c + y, range(16), x), (VECTOR, VECTOR), 16 * N,
          all_operations=True, report="jax #13956"),
    Input("a sum of 1000", lambda a: a.sum(), (shape(1000),), 999, all_operations=True),
    Input("sort of 3 x 16", lax.sort, (shape(3, 16),), 3 * 16 * int(math.log2(16)),
          3 * 16 * int(math.log2(16)) * (2 * (4 + 3) + 1), "nan and -0 are put in order before each comparison",
          all_operations=True),
    Input("optax muon, 64 x 128", *step(optax.contrib.muon(0.1)), 5 * 2 * (2 * D * D * F + D**3)),
    Input("optax adamw, 64 x 128", *step(optax.adamw(0.1)), 16 * D * F + 7, 15 * D * F + 7 + 4,
          "+ 0 is dropped; 2 divisions by a number become products, their 2 reciprocals are made twice",
          all_operations=True),
]  # fmt: skip


def inputs() -> list[Input]:
    """Returns all functions."""
    return [*ALGEBRA, *CONVOLUTIONS, *LOOPS, *REST, *spread()]
