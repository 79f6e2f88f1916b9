"""Operations counted in a jaxpr: what JAX was asked to do, before any compiler.

Dead code is removed first, as every compiler would. A scan counts its body times its length, a conditional its dearest
branch, a while loop its body times a trip count that must be given. Whatever holds a jaxpr is entered; a primitive without
a rule is an error, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.interpreters import partial_eval

from jaxlv.errors import JaxlvError
from jaxlv.flops.tally import Tallies, Tally, place, total

# Operations on each element, by primitive: at the assignment's prices and, summed, as XLA counts them.
ELEMENTWISE: Mapping[str, Mapping[str, int]] = {
    name: operations
    for names, operations in (
        ("add add_any sub neg", {"add": 1}),
        ("mul square sign", {"mul": 1}),
        ("div rem", {"div": 1}),
        ("max min abs select_n", {"compare": 1}),
        ("clamp", {"compare": 2}),
        ("exp exp2 expm1 tanh erf erf_inv erfc sinh cosh", {"exp": 1}),
        ("log log1p lgamma digamma", {"log": 1}),
        ("sqrt cbrt", {"sqrt": 1}),
        ("rsqrt", {"rsqrt": 1}),
        ("sin cos tan atan2 asin acos atan", {"sin": 1}),
        ("logistic", {"add": 2, "exp": 1, "div": 1}),  # 1 / (1 + exp(-x))
        ("pow", {"pow": 1}),
        ("eq ne ge gt le lt eq_to le_to lt_to and or not xor is_finite", {"integer": 1}),
        ("floor ceil round nextafter population_count clz", {"integer": 1}),
        ("shift_left shift_right_logical shift_right_arithmetic", {"integer": 1}),
        ("convert_element_type reduce_precision", {"convert": 1}),
    )
    for name in names.split()
}
MOVES = """
    reshape broadcast_in_dim transpose slice dynamic_slice dynamic_update_slice gather concatenate pad squeeze expand_dims
    iota copy copy_p rev split stop_gradient bitcast_convert_type random_wrap random_unwrap random_seed optimization_barrier
    real imag device_put sharding_constraint pvary pcast broadcast empty create_token name mesh_cast unstack
    layout_constraint
"""
FREE = frozenset(MOVES.split())
REDUCTIONS = {
    "reduce_sum": "add", "reduce_max": "compare", "reduce_min": "compare", "reduce_prod": "mul", "argmax": "compare",
    "argmin": "compare", "reduce_and": "integer", "reduce_or": "integer", "reduce_xor": "integer",
}  # fmt: skip
CUMULATIVE = {"cumsum": "add", "cumprod": "mul", "cummax": "compare", "cummin": "compare", "cumlogsumexp": "exp"}
SCATTERS = {"scatter-add": "add", "scatter_add": "add", "scatter-mul": "mul", "scatter_mul": "mul"}
FUSED_ATTENTION = {  # matrix products: forward 2; backward 5, for the scores are formed again (Dao et al. 2022)
    "dot_product_attention_fwd_wrapper": 2,
    "dot_product_attention_bwd_wrapper": 5,
}
THREEFRY = 31  # integer operations for each 32-bit word of random bits, as XLA counts them


def count_jaxpr(function: Callable, *arguments: Any, trips: int | None = None) -> Tallies:
    """The tallies of `function` on arguments (arrays or jax.ShapeDtypeStruct); nothing is computed.

    `trips` is the number of iterations of its while loops. JaxlvError for a while loop without one, and for a primitive
    that has no rule.
    """
    return count_closed(jax.make_jaxpr(function)(*arguments), trips)


def count_closed(closed: Any, trips: int | None = None, loops_once: bool = False) -> Tallies:
    """The tallies of a closed jaxpr; `loops_once` counts the body of a loop once, which is what XLA's own analysis does."""
    jaxpr = _open(closed)
    live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _Walk(1 if loops_once else trips, loops_once).jaxpr(live, "")


class _Walk:
    def __init__(self, trips: int | None, loops_once: bool):
        self.trips, self.loops_once = trips, loops_once

    def jaxpr(self, jaxpr: Any, scope: str) -> Tallies:
        found: Tallies = {}
        for equation in jaxpr.eqns:
            own = str(equation.source_info.name_stack)
            _add(found, self.equation(equation, "/".join(part for part in (scope, own) if part)))
        return found

    def equation(self, equation: Any, scope: str) -> Tallies:
        name, parameters = equation.primitive.name, equation.params
        if name == "scan":
            return _times(self.jaxpr(_open(parameters["jaxpr"]), scope), 1 if self.loops_once else parameters["length"])
        if name == "while":
            return self._while(parameters, scope)
        if name in ("cond", "switch"):
            branches = [self.jaxpr(_open(branch), scope) for branch in parameters["branches"]]
            return max(branches, key=lambda branch: total(branch).everything())
        tally = _rule(equation)
        if tally is not None:
            return {place(scope): tally} if tally else {}
        inner = [jaxpr for value in parameters.values() for jaxpr in _jaxprs(value)]
        if not inner or name in ("pallas_call", "custom_partitioning"):
            raise JaxlvError(
                f"no rule counts the primitive {name}", where=scope or "jaxpr", hint="add it to jaxlv/flops/jaxpr.py"
            )
        found: Tallies = {}
        for jaxpr in inner:
            _add(found, self.jaxpr(jaxpr, scope))
        if name == "shard_map":
            found = _times(found, math.prod(parameters["mesh"].shape.values()))
        return found

    def _while(self, parameters: Mapping[str, Any], scope: str) -> Tallies:
        if self.trips is None:
            raise JaxlvError("a while loop without a trip count", where=scope or "jaxpr", hint="give trips=, as measured")
        found = _times(self.jaxpr(_open(parameters["body_jaxpr"]), scope), self.trips)
        _add(found, _times(self.jaxpr(_open(parameters["cond_jaxpr"]), scope), self.trips + 1))
        return found


def _rule(equation: Any) -> Tally | None:
    """The operations of an equation, or None if it has no rule of its own."""
    name, parameters = equation.primitive.name, equation.params
    if name in FREE:
        return Tally()
    out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
    if name in ELEMENTWISE:
        return Tally({operation: each * out for operation, each in ELEMENTWISE[name].items()})
    into = [math.prod(v.aval.shape) for v in equation.invars if hasattr(v.aval, "shape")]
    if name == "dot_general":
        return dot(*dot_sizes(equation))
    if name == "conv_general_dilated":
        kernel, features = equation.invars[1].aval.shape, parameters["dimension_numbers"].rhs_spec[0]
        return dot(1, out, math.prod(kernel) // kernel[features], 1)
    if name in FUSED_ATTENTION:
        (batch, queries, heads, size), keys = equation.invars[0].aval.shape, equation.invars[1].aval.shape[1]
        return dot(FUSED_ATTENTION[name] * batch * heads, queries, size, keys)
    if name == "integer_pow":
        power = abs(parameters["y"])
        multiplications = max(0, power.bit_length() - 1 + power.bit_count() - 1)
        return Tally(mul=multiplications * out, div=out * (parameters["y"] < 0))
    if name in REDUCTIONS:
        return Tally({REDUCTIONS[name]: into[0] - out})
    if name in CUMULATIVE:
        return Tally({CUMULATIVE[name]: into[0]})
    if name in SCATTERS:
        return Tally({SCATTERS[name]: into[2]})
    if name == "scatter":
        return Tally()
    if name in ("sort", "top_k", "approx_top_k"):
        length = equation.invars[0].aval.shape[-1]
        return Tally(compare=into[0] * max(1, (length - 1).bit_length()))
    if name in ("threefry2x32", "random_bits", "random_fold_in", "random_split", "random_gamma"):
        return Tally(integer=THREEFRY * sum(_words(v.aval) for v in equation.outvars))
    return None


def _words(aval: Any) -> int:
    """32-bit words of random bits: a key has two."""
    return math.prod(aval.shape) * (2 if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.prng_key) else 1)


def dot_sizes(equation: Any) -> tuple[int, int, int, int]:
    """(batch, m, n, p) of a dot_general: n is contracted."""
    (left_n, right_n), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left, right = (v.aval.shape for v in equation.invars[:2])
    batch, n = math.prod(left[i] for i in left_batch), math.prod(left[i] for i in left_n)
    m = math.prod(size for i, size in enumerate(left) if i not in (*left_n, *left_batch))
    p = math.prod(size for i, size in enumerate(right) if i not in (*right_n, *right_batch))
    return batch, m, n, p


def dot(batch: int, m: int, n: int, p: int) -> Tally:
    """The tally of `batch` products (m, n) x (n, p)."""
    return Tally({"dot": 2 * batch * m * n * p, "dot sheet": batch * m * p * (2 * n - 1)})


def _open(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)  # jax 0.12 has one class for open and closed jaxprs


def _jaxprs(value: Any) -> Iterator[Any]:
    if hasattr(_open(value), "eqns"):
        yield _open(value)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _jaxprs(part)


def _add(into: Tallies, more: Tallies) -> None:
    for where, tally in more.items():
        into.setdefault(where, Tally()).update(tally)


def _times(tallies: Tallies, count: int) -> Tallies:
    return {where: Tally({name: count * number for name, number in tally.items()}) for where, tally in tallies.items()}
