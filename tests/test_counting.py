"""The counters on functions of every kind: each value is worked out here from shapes, or the function is refused by name."""

from __future__ import annotations

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import io_callback
from jax.experimental import pallas as pl

from jaxlv.errors import JaxlvError
from jaxlv.flops.counting import costs, primitives
from jaxlv.flops.counting.decompositions import RULES as DECOMPOSITIONS
from jaxlv.flops.counting.jaxpr import CALLS, COMBINING, NOT_CALLS, STRUCTURED, count_jaxpr, parts_of_scan
from jaxlv.flops.counting.scopes import Scope, of_instruction, of_stack


def shape(*sizes, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


N = 8
SQUARE, VECTOR, FLAG, WHOLE = shape(N, N), shape(N), shape(dtype=bool), shape(dtype=jnp.int32)
ONE = 2 * N**3  # FLOPs of a product of two square matrices


def taps(size: int, out: int, window: int, stride: int = 1, low: int = 0, base: int = 1, dilation: int = 1) -> int:
    """Counts taps of a window on data, one by one."""
    found = 0
    for o in range(out):
        for t in range(window):
            at = o * stride - low + t * dilation
            found += 0 <= at <= (size - 1) * base and at % base == 0
    return found


def conv(lhs, rhs, **options):
    spec = ("NHWC", "HWIO", "NHWC")
    return lambda x, k: lax.conv_general_dilated(x, k, dimension_numbers=spec, **{"window_strides": (1, 1)} | options)


IMAGE, KERNEL = shape(2, 6, 5, 3), shape(3, 3, 3, 4)
VALID = 2 * 2 * 3 * 4 * (4 * 3) * 9
SAME = 2 * 2 * 3 * 4 * taps(6, 6, 3, low=1) * taps(5, 5, 3, low=1)


def scanned(f, length):
    return lambda x: lax.scan(lambda c, _: (f(c), None), x, None, length=length)[0]


def solved(a, b):
    return lax.custom_linear_solve(
        lambda x: a @ x, b, lambda matvec, b: matvec(b), lambda vecmat, b: vecmat(b), symmetric=True
    )


def with_ref(x):
    ref = jax.new_ref(x)
    ref[...] = ref[...] @ x
    return ref[...]


def double(x_ref, o_ref):
    o_ref[...] = x_ref[...] * 2


ESTIMATE = pl.CostEstimate(flops=77, transcendentals=3, bytes_accessed=5)


def kernel(cost):
    return lambda x: pl.pallas_call(double, out_shape=shape(N, N), interpret=True, cost_estimate=cost, name="double")(x)


def printed(x):
    jax.debug.print("{}", x[0, 0])
    return x @ x


def grad(f, **options):
    return jax.grad(lambda *a: f(*a).sum(), **options)


def quantity(kind):
    return lambda f, *a, **k: getattr(count_jaxpr(f, *a, **k).total(), kind)()


products, elementwise, transcendental = (quantity(kind) for kind in ("products", "elementwise", "transcendental"))

PRODUCTS = {
    "a product": (lambda a: a @ a, (SQUARE,), ONE),
    "a dot of vectors": (jnp.vdot, (VECTOR, VECTOR), 2 * N),
    "integers": (lambda a: a @ a, (shape(N, N, dtype=jnp.int8),), ONE),
    "a product of complex matrices": (lambda a: a @ a, (shape(N, N, dtype=jnp.complex64),), 4 * ONE),
    "a scan": (scanned(lambda c: c @ c, 7), (SQUARE,), 7 * ONE),
    "a scan in a scan": (scanned(scanned(lambda c: c @ c, 3), 5), (SQUARE,), 15 * ONE),
    "an unrolled scan": (lambda x: lax.scan(lambda c, _: (c @ c, None), x, None, length=7, unroll=3)[0], (SQUARE,), 7 * ONE),
    "the gradient of a scan": (grad(scanned(lambda c: c @ c, 7)), (SQUARE,), 7 * 3 * ONE),
    "a map": (lambda a: lax.map(lambda x: x @ x, a), (shape(5, N, N),), 5 * ONE),
    "fori_loop with static bounds": (lambda a: lax.fori_loop(0, 6, lambda i, c: c @ c, a), (SQUARE,), 6 * ONE),
    "a branch": (lambda p, a: lax.cond(p, lambda: a @ a, lambda: a), (FLAG, SQUARE), ONE),
    "a branch with residuals": (
        lambda p, a: jax.grad(lambda a: lax.cond(p, lambda a: ((a @ a) ** 2).sum(), lambda a: jnp.sin(a).sum(), a))(a),
        (FLAG, SQUARE), 3 * ONE),
    "a branch that is dear elsewhere": (
        lambda p, a: lax.cond(p, lambda: a @ a, lambda: lax.fori_loop(0, 10**4, lambda i, c: c * 1.1, a)), (FLAG, SQUARE),
        ONE),
    "switch": (lambda i, a: lax.switch(i, [lambda a: a, lambda a: a @ a, lambda a: a @ a @ a], a), (WHOLE, SQUARE), 2 * ONE),
    "vmap": (jax.vmap(lambda a: a @ a), (shape(5, N, N),), 5 * ONE),
    "remat": (
        jax.value_and_grad(jax.checkpoint(lambda a: ((jnp.sin(a @ a) @ a) ** 2).sum())), (SQUARE,), 8 * ONE),  # both twice
    "conv": (conv(IMAGE, KERNEL, padding="VALID"), (IMAGE, KERNEL), VALID),
    "conv SAME": (conv(IMAGE, KERNEL, padding="SAME"), (IMAGE, KERNEL), SAME),
    "conv strided": (
        conv(IMAGE, KERNEL, padding="SAME", window_strides=(2, 2)), (IMAGE, KERNEL),
        2 * 2 * 3 * 4 * taps(6, 3, 3, 2, low=0) * taps(5, 3, 3, 2, low=1)),
    "conv of groups": (
        conv(IMAGE, KERNEL, padding="VALID", feature_group_count=3), (IMAGE, shape(3, 3, 1, 6)), 2 * 2 * 6 * 12 * 9),
    "conv of a dilated kernel": (
        conv(IMAGE, KERNEL, padding=((2, 2), (2, 2)), rhs_dilation=(2, 2)), (IMAGE, KERNEL),
        2 * 2 * 3 * 4 * taps(6, 6, 3, low=2, dilation=2) * taps(5, 5, 3, low=2, dilation=2)),
    "conv transposed": (
        lambda x, k: lax.conv_transpose(x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")),
        (shape(2, 4, 4, 3), shape(4, 4, 3, 5)), 2 * 2 * 3 * 5 * taps(4, 8, 4, low=2, base=2) ** 2),
    "conv of groups, its gradients": (
        grad(conv(IMAGE, KERNEL, padding="SAME", feature_group_count=3), argnums=(0, 1)), (IMAGE, shape(3, 3, 1, 6)),
        2 * (SAME // (3 * 4) * 6)),
    "conv in one dimension": (
        lambda x, k: jnp.convolve(x, k, mode="full"), (shape(10), shape(4)), 2 * 10 * 4),
    "the gradients of conv SAME": (grad(conv(IMAGE, KERNEL, padding="SAME"), argnums=(0, 1)), (IMAGE, KERNEL), 2 * SAME),
    "the gradients of conv and its value": (
        jax.value_and_grad(lambda x, k: (conv(IMAGE, KERNEL, padding="SAME")(x, k) ** 2).sum(), argnums=(0, 1)),
        (IMAGE, KERNEL), 3 * SAME),
    "custom_linear_solve": (solved, (SQUARE, VECTOR), 2 * N * N),
    "ragged_dot": (lambda a, b, g: lax.ragged_dot(a, b, g), (shape(32, N), shape(4, N, 6), shape(4, dtype=jnp.int32)),
        2 * 32 * N * 6),
    "ragged_dot, gradients": (
        grad(lambda a, b, g: lax.ragged_dot(a, b, g) ** 2, argnums=(0, 1)),
        (shape(32, N), shape(4, N, 6), shape(4, dtype=jnp.int32)), 3 * 2 * 32 * N * 6),
    "a hessian": (jax.hessian(lambda v: (jnp.sin(v) * v).sum()), (VECTOR,), 0),
    "references": (with_ref, (SQUARE,), ONE),
    "a print": (printed, (SQUARE,), ONE),
    "stack": (lambda a: jnp.stack([a, a]) @ a, (SQUARE,), 2 * ONE),
    "Pallas": (kernel(ESTIMATE), (SQUARE,), 77),
    "cholesky": (lax.linalg.cholesky, (SQUARE,), sum((2 * j + 1) * (N - j) for j in range(N))),
    "triangular solve": (lambda a, b: lax.linalg.triangular_solve(a, b, left_side=True), (SQUARE, shape(N, 3)), 3 * N * N),
    "solve": (jnp.linalg.solve, (SQUARE, VECTOR), sum((N - i) + 2 * (N - i) ** 2 for i in range(1, N + 1)) + 2 * N * N),
    "qr": (jnp.linalg.qr, (SQUARE,), 2 * (4 * N**3 // 3)),
    "eigh": (jnp.linalg.eigh, (SQUARE,), 9 * N**3),
    "svd": (lambda a: jnp.linalg.svd(a, full_matrices=False), (shape(2, 12, N),), 2 * (14 * 12 * N**2 + 8 * N**3)),
    "fft": (jnp.fft.fft, (shape(5, 16, dtype=jnp.complex64),), 5 * 5 * 16 * 4),
    "rfft": (jnp.fft.rfft, (shape(5, 16),), 5 * 5 * 16 * 4 // 2),
    "cumsum": (lambda a: jnp.cumsum(a, 0), (SQUARE,), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_those_worked_out_by_hand(name):
    function, arguments, by_hand = PRODUCTS[name]
    assert products(function, *arguments) == by_hand


POOL = shape(1, 6, 6, 1)
ELEMENTWISE = {
    "cumsum": (lambda a: jnp.cumsum(a, 0), (shape(9, 4),), 8 * 4),
    "cumsum of complex numbers": (lambda a: lax.cumsum(a), (shape(9, dtype=jnp.complex64),), 2 * 8),
    "a reduction": (lambda a: a.sum(), (shape(1000),), 999),
    "a reduction with a computation of its own": (
        lambda a: lax.reduce(a, 0.0, lambda x, y: x + y * 2, (0,)), (shape(1000),), 2 * 999),
    "a max pool": (lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"), (POOL,), 9 * 3),
    "an average pool SAME": (
        lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"), (POOL,),
        taps(6, 6, 3, low=1) ** 2 - 36),
    "a pool with a computation of its own": (
        lambda x: lax.reduce_window(x, 0.0, lambda a, b: a + b * b, (3,), (1,), "SAME"), (shape(10,),),
        2 * (taps(10, 10, 3, low=1) - 10)),
    "the gradient of a max pool": (
        jax.grad(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID").sum()), (POOL,),
        9 * 3 + 9),  # in each window the largest is found, and the gradient added there
    "a scatter with a computation of its own": (
        lambda a, i: a.at[i].apply(lambda x: x * 2 + 1), (shape(10), shape(3, dtype=jnp.int32)), None),
    "scatter-add": (lambda a, b: a.at[np.array([1, 2, 2])].add(b), (shape(10), shape(3)), None),
    "a sort": (lax.sort, (shape(3, 16),), 3 * 16 * 4),
    "complex numbers added": (lambda a: a + a, (shape(5, dtype=jnp.complex64),), 2 * 5),
    "complex numbers multiplied": (lambda a: a * a, (shape(5, dtype=jnp.complex64),), 6 * 5),
    "a dear branch": (
        lambda p, a: lax.cond(p, lambda: a @ a, lambda: lax.fori_loop(0, 600, lambda i, c: c * 1.1, a)), (FLAG, SQUARE),
        600 * N * N + 1),  # and the flag becomes a number
    "random bits": (lambda k: jax.random.bits(k, (10,)), (jax.eval_shape(lambda: jax.random.key(0)),), 10 * (117 + 3 + 1)),
    "callbacks": (lambda a: jax.pure_callback(np.sin, a, a), (SQUARE,), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_operations_on_elements_are_those_worked_out_by_hand(name):
    function, arguments, by_hand = ELEMENTWISE[name]
    found = elementwise(function, *arguments)
    assert found == by_hand if by_hand is not None else found > 0


C5 = shape(5, dtype=jnp.complex64)
BY_OPERATION = {  # per element: real operations by name, for floating-point and for complex numbers z = a + b i
    "negative": (jnp.negative, {"add": 1}, {"add": 2}),
    "difference": (lambda z: z - z, {"add": 1}, {"add": 2}),
    "quotient": (lambda z: z / z, {"div": 1}, {"mul": 6, "add": 3, "div": 2}),  # by the conjugate
    "length": (lax.abs, {"compare": 1}, {"mul": 2, "add": 1, "sqrt": 1}),
    "sign": (lax.sign, {"mul": 1}, {"mul": 2, "add": 1, "sqrt": 1, "div": 2}),
    "exp": (lax.exp, {"exp": 1}, {"exp": 1, "sin": 2, "mul": 2}),  # e^a (cos b + i sin b)
    "log": (lax.log, {"log": 1}, {"mul": 2, "add": 1, "sqrt": 1, "log": 1, "sin": 1}),  # log |z| and the angle
    "sine": (lax.sin, {"sin": 1}, {"sin": 2, "exp": 2, "mul": 2}),
    "logistic": (lax.logistic, {"add": 2, "exp": 1, "div": 1}, {"exp": 1, "sin": 2, "mul": 8, "add": 6, "div": 2}),
    "equal": (lambda z: z == z, {"integer": 1}, {"integer": 3}),  # two comparisons, and both
    "finite": (lax.is_finite, {"integer": 1}, None),
}
if hasattr(lax, "polynomial"):  # from jax 0.12 on
    BY_OPERATION |= {
        "one minus square": (lax.one_minus_square, {"add": 2, "mul": 1}, {"add": 6, "mul": 4}),  # (1 + z) (1 - z)
        "base two": (lax.log2, {"log": 1}, {"mul": 4, "add": 1, "sqrt": 1, "log": 1, "sin": 1}),
        "polynomial": (lambda z: lax.polynomial(z, [1, 5, 2, 3]), {"mul": 3, "add": 3}, {"mul": 12, "add": 12}),  # Horner's
    }


@pytest.mark.parametrize("name", BY_OPERATION)
def test_operations_of_one_element_by_hand(name):
    function, real, complex_ = BY_OPERATION[name]
    for by_hand, given in ((real, shape(5)), (complex_, C5)):
        if by_hand is not None:
            found = count_jaxpr(function, given).total()
            assert {key: number for key, number in found.items() if key != "bytes" and number} == {
                key: 5 * number for key, number in by_hand.items()
            }


def test_a_conjugate_is_one_negation():
    found = count_jaxpr(lax.conj, C5).total()
    assert found["add"] == 5


ROW, PLACE = shape(1, N), shape(dtype=jnp.uint32)  # a place that cannot be negative
DIMENSIONS = lax.GatherDimensionNumbers(offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0,))
ADDED = lax.ScatterDimensionNumbers((1,), (0,), (0,))


@pytest.mark.parametrize(
    ("function", "arguments", "by_hand"),
    [
        (lambda a: lax.slice(a, (0, 0), (2, N)), (SQUARE,), 2 * 2 * N * 4),  # what is taken is read and written
        (lambda a, i: lax.dynamic_slice(a, (i, i), (2, N)), (SQUARE, PLACE), 2 * 2 * N * 4 + 2 * 4),  # and the places
        (
            lambda a, i: lax.gather(a, i, DIMENSIONS, (1, N), mode="promise_in_bounds"),
            (SQUARE, shape(3, 1, dtype=jnp.int32)),
            2 * 3 * N * 4 + 3 * 4,
        ),
        (lambda a, b, i: lax.dynamic_update_slice(a, b, (i, i)), (SQUARE, ROW, PLACE), 2 * N * 4),  # the rest stays
        (
            lambda a, i, b: lax.scatter_add(a, i, b, ADDED, mode="promise_in_bounds"),
            (SQUARE, shape(3, 1, dtype=jnp.int32), shape(3, N)),
            3 * 3 * N * 4 + 3 * 4,  # what is added, and its target before and after
        ),
        (lambda a, b: a @ b, (SQUARE, SQUARE), 3 * N * N * 4),
        (lambda a: a.astype(jnp.bfloat16), (SQUARE,), N * N * (4 + 2)),
        (lambda a: a.T, (SQUARE,), 2 * N * N * 4),
    ],
    ids=["slice", "dynamic slice", "gather", "update", "scatter", "product", "cast", "transposed"],
)
def test_bytes_by_hand(function, arguments, by_hand):
    found = count_jaxpr(function, *arguments).total()
    assert found.bytes() == by_hand


def test_transcendental_operations_and_bytes():
    found = count_jaxpr(lambda a: jnp.exp(a) * lax.rsqrt(a), SQUARE).total()
    assert (found.transcendental(), found.elementwise()) == (2 * N * N, N * N)
    assert found.bytes() == 4 * N * N * (2 + 2 + 3)  # each equation reads its operands and writes its results
    assert count_jaxpr(lambda a: a.reshape(-1), SQUARE).total().bytes() == 0
    assert transcendental(jnp.exp, shape(5, dtype=jnp.complex64)) == 3 * 5  # e^a (cos b + i sin b)
    bits = count_jaxpr(lambda p, a: lax.cond(p, lambda: jnp.exp(a), lambda: a * 2), FLAG, SQUARE).total()
    assert (bits.transcendental(), bits.elementwise()) == (N * N, N * N + 1)  # the flag becomes a number


# ------------------------------------------------------------------------------------------------ many devices


def devices_of(body):
    """Returns a function of eight devices, each with a row; a count needs only the sizes of a mesh."""
    mesh = jax.sharding.AbstractMesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spec = jax.sharding.PartitionSpec(("a", "b"))
    return jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)


@pytest.mark.parametrize(
    ("body", "kind", "by_hand"),
    [
        (lambda x: x @ x.T, products, 8 * 2 * 2 * 2 * N),
        (lambda x: lax.psum(x, ("a", "b")), elementwise, 2 * N * 7),  # all numbers of eight devices added
        (lambda x: lax.psum(x, "b"), elementwise, 2 * (2 * N * 3)),  # two groups of four
        (lambda x: lax.pmax(x, "a"), elementwise, 4 * (2 * N * 1)),
        (lambda x: lax.psum_scatter(x, "a"), elementwise, 4 * (2 * N * 1)),
        (lambda x: lax.all_gather(x, "b").sum(0), elementwise, 8 * 2 * N * 3),  # each device adds four
        (lambda x: lax.ppermute(x, "a", [(0, 1), (1, 0)]), elementwise, 0),
        (scanned(lambda c: lax.psum(c, "b"), 5), elementwise, 5 * 2 * (2 * N * 3)),
    ],
)
def test_work_on_every_device_is_counted_in_all(body, kind, by_hand):
    assert kind(devices_of(body), shape(16, N)) == by_hand


def test_what_stands_behind_a_shard_map_is_counted_once():
    assert products(lambda x: devices_of(lambda x: x * 2)(x) @ x.T, shape(16, N)) == 2 * 16 * 16 * N


# ------------------------------------------------------------------------------------------- loops of unknown length


def two_loops(a, m, n):
    with jax.named_scope("outer"), jax.named_scope("first"):
        a = lax.fori_loop(0, m, lambda i, c: c @ c, a)
    with jax.named_scope("second"):
        return lax.fori_loop(0, n, lambda i, c: c @ c, a)


TWO = (SQUARE, WHOLE, WHOLE)
LINES = [two_loops.__code__.co_firstlineno + i for i in (2, 4)]
PLACES = [f"test_counting.py:{line}" for line in LINES]


@pytest.mark.parametrize(
    ("trips", "by_hand"),
    [
        (4, 8 * ONE),
        ({"first": 3, "second": 5}, 8 * ONE),
        ({"outer/first": 3, "second": 5}, 8 * ONE),
        ({PLACES[0]: 3, PLACES[1]: 5}, 8 * ONE),
        ({PLACES[0]: 0, "second": 1}, ONE),
    ],
)
def test_each_loop_of_unknown_length_takes_its_trips_by_name_or_place(trips, by_hand):
    assert products(two_loops, *TWO, trips=trips) == by_hand


def test_loops_without_trips_are_listed_with_their_places():
    with pytest.raises(JaxlvError) as error:
        count_jaxpr(two_loops, *TWO)
    assert f"{PLACES[0]} in outer/first; {PLACES[1]} in second: 2 loops of unknown length" in str(error.value)
    with pytest.raises(JaxlvError, match=f"{PLACES[1]} in second: a loop of unknown length"):
        count_jaxpr(two_loops, *TWO, trips={"first": 3})
    with pytest.raises(JaxlvError, match=f"trips names no loop.*{PLACES[0]} in outer/first.*found third"):
        count_jaxpr(two_loops, *TWO, trips={"first": 3, "second": 3, "third": 3})


@pytest.mark.parametrize("trips", [-1, 2.0, True, {"first": -1}, {"first": "3"}, "first", [3]])
def test_trips_are_whole_numbers(trips):
    with pytest.raises(JaxlvError, match="the trip count of a loop"):
        count_jaxpr(two_loops, *TWO, trips=trips)


@pytest.mark.parametrize(
    ("start", "goes_on", "step", "turns"),
    [
        (0, lambda i: i < 9, lambda i: i + 1, 9),
        (10, lambda i: i >= 2, lambda i: i - 3, 3),
        (1.0, lambda i: i * 2 != 64.0, lambda i: i * 2, 5),
        (0, lambda i: (i < 3) & (i != 2), lambda i: jnp.where(i > 5, i, i + 1), 2),
        (0, lambda i: i < 0, lambda i: i, 0),
    ],
)
def test_a_loop_whose_condition_needs_written_numbers_alone_says_its_trips(start, goes_on, step, turns):
    def run(a):
        return lax.while_loop(lambda s: goes_on(s[0]), lambda s: (step(s[0]), s[1] @ a), (start, a))[1]

    assert products(run, SQUARE) == turns * ONE
    assert products(run, SQUARE, trips=99) == turns * ONE  # what the program says has priority over what is given for all
    assert count_jaxpr(run, SQUARE).loops[0].trips == turns


def test_a_loop_that_needs_a_number_of_two_carried_ones_or_has_no_end():
    def fibonacci(a):
        return lax.while_loop(lambda s: s[0] < 50, lambda s: (s[1], s[0] + s[1], s[2] @ a), (0, 1, a))[2]

    assert products(fibonacci, SQUARE) == 10 * ONE  # 0 1 1 2 3 5 8 13 21 34
    with pytest.raises(JaxlvError, match="a loop of unknown length"):
        count_jaxpr(lambda a: lax.while_loop(lambda s: s[0] < 5, lambda s: (s[0] * 1, s[1] @ a), (0, a)), SQUARE)
    with pytest.raises(JaxlvError, match="a loop of unknown length"):
        count_jaxpr(lambda a, n: lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, s[1] @ a), (0, a)), SQUARE, WHOLE)


def test_the_condition_of_a_loop_is_looked_at_once_more_than_its_body():
    def run(a):
        return lax.while_loop(lambda c: (c @ c).sum() < 1, lambda c: c @ c @ c, a)

    assert products(run, SQUARE, trips=9) == (9 * 2 + 10) * ONE


def test_loops_are_listed_with_trips_and_work():
    def run(a):
        with jax.named_scope("outside"):
            return scanned(scanned(lambda c: c @ c, 3), 5)(a)

    outside, inside = count_jaxpr(run, SQUARE).loops
    assert (outside.trips, outside.begun, outside.tally.products()) == (5, 1, 15 * ONE)
    assert (inside.trips, inside.begun, inside.tally.products()) == (3, 5, 15 * ONE)
    assert outside.place.startswith("test_counting.py:") and str(outside.scope) == "outside"


def test_the_conjugate_gradients_of_scipy():
    """Ten iterations and the start each take a product with the matrix and two dot products of vectors."""
    cg = jax.scipy.sparse.linalg.cg
    assert products(lambda a, b: cg(lambda x: a @ x, b, maxiter=10)[0], SQUARE, VECTOR, trips=10) == 11 * (
        2 * N * N + 2 * 2 * N
    )


# -------------------------------------------------------------------------------------------- refused, or doubted


def foreign(x):
    return jax.ffi.ffi_call("nobody", x)(x)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (kernel(None), "the primitive pallas_call; give it a cost_estimate"),
        (foreign, "the primitive ffi_call; what a foreign function does"),
        (lambda x: jnp.arcsin(x.astype(jnp.complex64)), "the primitive asin of complex numbers"),
    ],
)
def test_what_cannot_be_counted_is_refused_by_primitive_and_place(function, words):
    def place(x):
        with jax.named_scope("here"):
            return function(x)

    with pytest.raises(JaxlvError, match=rf"^test_counting.py:\d+ in here(/double)?: no rule counts {words}"):
        count_jaxpr(place, SQUARE)


@pytest.mark.parametrize(
    ("function", "doubt"),
    [
        (printed, "debug_print: runs on the host, where nothing is counted"),
        (lambda a: io_callback(np.sin, a, a), "io_callback: runs on the host"),
        (
            kernel(pl.CostEstimate(flops=1, transcendentals=0, bytes_accessed=0)),
            "pallas_call double: what its cost_estimate says",
        ),
        (lambda a: lax.linalg.cholesky(a), f"cholesky of {N} x {N}: by a formula, n (n + 1) (2 n + 1) / 6 (LAWN 41)"),
        (lambda a: jnp.fft.fft(a), f"fft of {N} x {N}: by a formula, 5 N log2 N"),
        (lambda a: lax.cond(a[0, 0] > 0, lambda: a @ a, lambda: a), "cond: the dearest of 2 branches"),
        (lambda a: lax.igamma(a, a), "igamma: a series of unknown length"),
        (lambda a: lax.ragged_dot(a, a[None], jnp.array([N])), "as if its groups covered every row"),
    ],
)
def test_what_a_count_does_not_know_is_a_doubt_with_its_place(function, doubt):
    (found,) = count_jaxpr(function, SQUARE).doubts
    assert found.startswith(doubt) or doubt in found
    assert "test_counting.py:" in found


def test_plain_functions_are_not_doubted():
    both_alike = lambda p, a: lax.cond(p, lambda: a + 1, lambda: a - 1)  # noqa: E731
    assert not count_jaxpr(grad(lambda a: jnp.tanh(a @ a)), SQUARE).doubts
    assert not count_jaxpr(both_alike, FLAG, SQUARE).doubts


def test_a_primitive_of_somebody_else_is_counted_by_what_it_is_made_of():
    stranger = jax.extend.core.Primitive("stranger")
    stranger.def_impl(lambda x: x @ x)
    stranger.def_abstract_eval(lambda x: x)
    found = count_jaxpr(lambda a: stranger.bind(a), SQUARE)
    assert found.total().products() == ONE
    assert "stranger: no rule; counted by its implementation in JAX" in found.doubts[0]
    stranger.def_impl(lambda x: stranger.bind(x))
    with pytest.raises(JaxlvError, match="no rule counts the primitive stranger"):
        count_jaxpr(lambda a: stranger.bind(a), SQUARE)


# Primitives that occur only inside kernels, that JAX makes temporarily, or that are counted by their parts.
ELSEWHERE = {"run_scoped", "stage", "unreachable", "custom_lin", "random_gamma", "multiple_of", "max_contiguous"}


def test_every_primitive_of_jax_has_a_rule_or_stands_inside_of_kernels():
    from jax._src.interpreters import mlir

    known = {
        *costs.ELEMENTWISE, *costs.COMPLEX, *costs.VIEWS, *costs.MOVES, *costs.PARTS,
        *costs.INTO, *costs.SENT, *costs.REDUCTIONS, *primitives.RULES, *DECOMPOSITIONS,
        *CALLS, *COMBINING, *NOT_CALLS, *STRUCTURED,
    }  # fmt: skip
    lowered = {p for table in (mlir._lowerings, *mlir._platform_specific_lowerings.values()) for p in table}
    names = {p.name for p in lowered if getattr(p.impl, "func", p.impl).__module__.startswith("jax._src")}
    assert len(names) > 200 and names - known <= ELSEWHERE


@pytest.mark.parametrize(("name", "keys", "words"), [("threefry2x32", 2, 2), ("threefry4x32", 4, 4), ("philox2x32", 1, 2),
                                                     ("philox4x32", 2, 4)])  # fmt: skip
def test_a_block_of_random_bits_is_what_jax_writes(name, keys, words):
    module = importlib.import_module(f"jax._src.random.{name}")
    rolled = {"use_rolled_loops": False} if name == costs.THREEFRY else {}
    many = [shape(dtype=jnp.uint32)] * keys + [shape(1000, dtype=jnp.uint32)] * words
    found = count_jaxpr(lambda *a: getattr(module, f"_{name}_lowering")(*a, **rolled), *many).total()
    assert {k: n // 1000 for k, n in found.items() if k != "bytes" and n > 999} == dict(costs.BLOCKS[name])


# -------------------------------------------------------------------------------------------------------- scopes


@pytest.mark.parametrize(
    ("stack", "path", "phase"),
    [
        ("jvp(M)/Dense_0", "M/Dense_0", "forward"),
        ("transpose(jvp(M))/jvp(M)/CheckpointDense_0", "M/CheckpointDense_0", "backward"),
        ("transpose(jvp(block))/block/rematted_computation/cell", "block/block/cell", "recomputed"),
        ("transpose(jvp(block))/jvp(block)/block/cell", "block/block/cell", "backward"),
        ("transpose(jvp(X))/a/b/jvp(X)/a/b/rematted_computation/c", "X/a/b/c", "recomputed"),
        ("jvp(vmap(eqx.nn.MLP))/vmap()/head", "eqx.nn.MLP/head", "forward"),
        ("outer/jvp(inner)", "outer/inner", "forward"),
        ("", "", "forward"),
    ],
)
def test_scopes_are_the_author_s_own_names(stack, path, phase):
    assert of_stack(stack) == Scope(tuple(part for part in path.split("/") if part), phase)
    assert of_instruction(f"jit(f)/jit(main)/while/body/closed_call/{stack}/dot_general") == of_stack(stack)


def test_the_parts_of_a_scan_are_what_its_turns_share_and_what_they_carry():
    def body(carry, x):
        return (carry[0] + shared, carry[1] * x), x

    shared = jnp.float32(3)
    made = jax.make_jaxpr(lambda a, b, x: lax.scan(body, (a, b), x))(jnp.float32(1), jnp.float32(2), jnp.ones(3))
    (scan,) = [equation for equation in made.eqns if equation.primitive.name == "scan"]
    consts, carry = parts_of_scan(scan.params)
    assert carry == 2 and consts + carry + 1 == len(scan.invars)
