"""Operations by primitive, as data: what each costs per element, what only moves data, and what is reduced.

Complex numbers are counted as the real operations that they stand for: a product of matrices 4 times, an addition twice, a
multiplication 6 times.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxlv.flops.counting.operations import Tally

# --------------------------------------------------------------------------------------- one operation an element


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _by_name(*groups: tuple[str, Mapping[str, int]]) -> dict[str, Mapping[str, int]]:
    return {name: operations for names, operations in groups for name in names.split()}


# Operations on each element of the result.
ELEMENTWISE = _by_name(
    ("add add_any sub neg", {"add": 1}),
    ("mul square sign mulhi", {"mul": 1}),
    ("div rem reciprocal", {"div": 1}),
    ("max min abs select_n", {"compare": 1}),
    ("clamp", {"compare": 2}),
    ("exp exp2 expm1 tanh erf erf_inv erfc sinh cosh", {"exp": 1}),
    ("log log2 log1p lgamma digamma asinh acosh atanh", {"log": 1}),
    ("sqrt cbrt", {"sqrt": 1}),
    ("rsqrt", {"rsqrt": 1}),
    ("sin cos tan atan2 asin acos atan", {"sin": 1}),
    ("logistic", {"add": 2, "exp": 1, "div": 1}),  # 1 / (1 + exp(-x))
    ("one_minus_square", {"add": 2, "mul": 1}),  # (1 + x) (1 - x)
    ("pow", {"pow": 1}),
    ("eq ne ge gt le lt eq_to le_to lt_to and or not xor is_finite", {"integer": 1}),
    ("floor ceil round nextafter population_count clz _copysign", {"integer": 1}),
    ("shift_left shift_right_logical shift_right_arithmetic", {"integer": 1}),
    ("convert_element_type reduce_precision", {"convert": 1}),
)
# The same for complex numbers, in real operations; z = a + b i.
COMPLEX = _by_name(
    ("add add_any sub neg", {"add": 2}),
    ("conj", {"add": 1}),
    ("mul square", {"mul": 4, "add": 2}),
    ("div", {"mul": 6, "add": 3, "div": 2}),
    ("abs", {"mul": 2, "add": 1, "sqrt": 1}),
    ("sign", {"mul": 2, "add": 1, "sqrt": 1, "div": 2}),
    ("exp", {"exp": 1, "sin": 2, "mul": 2}),  # e^a (cos b + i sin b)
    ("expm1", {"exp": 1, "sin": 2, "mul": 2, "add": 1}),
    ("log", {"mul": 2, "add": 1, "sqrt": 1, "log": 1, "sin": 1}),  # log |z| and the angle
    ("log2", {"mul": 4, "add": 1, "sqrt": 1, "log": 1, "sin": 1}),
    ("log1p", {"mul": 2, "add": 2, "sqrt": 1, "log": 1, "sin": 1}),
    ("one_minus_square", {"add": 6, "mul": 4}),
    ("sin cos sinh cosh", {"sin": 2, "exp": 2, "mul": 2}),
    ("tan tanh", {"sin": 4, "exp": 4, "mul": 10, "add": 3, "div": 2}),  # a quotient of two of the above
    ("sqrt", {"mul": 3, "add": 2, "div": 1, "sqrt": 2}),
    ("rsqrt", {"mul": 9, "add": 5, "div": 3, "sqrt": 2}),
    ("logistic", {"exp": 1, "sin": 2, "mul": 8, "add": 6, "div": 2}),
    ("pow", {"mul": 8, "add": 3, "sqrt": 1, "log": 1, "sin": 3, "exp": 1}),  # exp(w log z)
    ("eq ne", {"integer": 3}),
    ("is_finite", {"integer": 3}),
    ("select_n", {"compare": 2}),
    ("convert_element_type", {"convert": 2}),
)
# Series and continued fractions whose length depends on the numbers: counted as one transcendental, with a doubt.
SPECIAL = _names(
    "igamma igammac igamma_grad_a random_gamma_grad regularized_incomplete_beta zeta polygamma bessel_i0e bessel_i1e"
)

# ------------------------------------------------------------------------------------------------- what moves

# Moves no bytes: the same values under another shape or name, or nothing at all at run time.
VIEWS = _names(
    """
    reshape squeeze expand_dims stop_gradient bitcast_convert_type copy_p name optimization_barrier sharding_constraint
    layout_constraint pvary pcast mesh_cast reshard reduced_vary_cast_p vary_unreduced_cast_p
    reduced_vary_cast vary_unreduced_cast preduced create_token after_all
    random_wrap random_unwrap random_clone new_ref free_ref empty_ref freeze shard_alike axis_index platform_index
    with_memory_space_constraint remove_memory_space optimization_hint add_dependency assert_consumed_value consume
    xla_metadata_value inspect_sharding dce_sink pin unpin to_edtype from_edtype dimension_size dim_as_value shape_assertion
    debug_barrier_p tie host_local_array_to_global_array global_array_to_host_local_array
    """
)
# Read completely and written completely.
MOVES = _names(
    """
    broadcast_in_dim broadcast_to broadcast transpose concatenate pad iota copy rev stack unstack split tile real imag
    complex device_put relayout empty empty2 zeros_like roll create_linear lu_pivots_to_permutation iota_2x32_shape
    """
)
# A part is read, or written into existing data.
PARTS = _names("slice dynamic_slice gather get")
INTO = {"dynamic_update_slice": 1, "swap": 1}  # by the operand that is written
# Between devices: no operation on an element.
SENT = _names(
    """
    all_gather all_gather_invariant all_gather_reduced all_to_all ragged_all_to_all ppermute pbroadcast psend precv pgather
    pbroadcast_dynamic all_gather_start all_gather_reduced_start all_to_all_start ppermute_start pbroadcast_start
    all_gather_done all_gather_reduced_done all_to_all_done ppermute_done pbroadcast_done psum_done reduce_scatter_done
    unreduced_psum_done unreduced_reduce_scatter_done
    """
)
HOST = _names("debug_callback debug_print io_callback pure_callback buffer_callback check")

# --------------------------------------------------------------------------------------------- what is reduced

REDUCTIONS = {
    "reduce_sum": "add", "reduce_max": "compare", "reduce_min": "compare", "reduce_prod": "mul", "argmax": "compare",
    "argmin": "compare", "reduce_and": "integer", "reduce_or": "integer", "reduce_xor": "integer",
}  # fmt: skip
CUMULATIVE: Mapping[str, Mapping[str, int]] = {
    "cumsum": {"add": 1}, "cumprod": {"mul": 1}, "cummax": {"compare": 1}, "cummin": {"compare": 1},
    "cumlogsumexp": {"compare": 2, "add": 3, "exp": 1, "log": 1},  # max + log1p(exp(-|a - b|))
}  # fmt: skip
POOLS = {"reduce_window_sum": "add", "reduce_window_max": "compare", "reduce_window_min": "compare"}
SCATTERS = {
    "scatter-add": "add", "scatter_add": "add", "scatter-sub": "add", "scatter_sub": "add", "scatter-mul": "mul",
    "scatter_mul": "mul", "scatter-min": "compare", "scatter_min": "compare", "scatter-max": "compare",
    "scatter_max": "compare",
}  # fmt: skip
COLLECTIVES = {
    **dict.fromkeys(("psum", "psum2", "psum_invariant", "unreduced_psum", "psum_start", "psum_invariant_start"), "add"),
    **dict.fromkeys(("reduce_scatter", "unreduced_reduce_scatter", "reduce_scatter_start"), "add"),
    **dict.fromkeys(("unreduced_psum_start", "unreduced_reduce_scatter_start"), "add"),
    **dict.fromkeys(("pmax", "pmin", "unreduced_pmax", "unreduced_pmin"), "compare"),
}
FUSED_ATTENTION = {  # matrix products: forward 2; backward 5, as the scores are formed again (Dao et al. 2022)
    f"dot_product_attention_{kind}{direction}{wrapper}": products
    for kind in ("", "fp8_")
    for direction, products in (("fwd", 2), ("bwd", 5))
    for wrapper in ("", "_wrapper")
}

# ------------------------------------------------------------------------------------------------ random bits

# One block of a counter-based generator (Salmon et al. 2011), as jax.random writes it. Threefry-2x32: 20 rounds of an
# addition, a rotation (two shifts and an or) and an exclusive or; the key and a number are added five times, the key once
# more before.
THREEFRY = "threefry2x32"
BLOCKS = {
    THREEFRY: Tally(integer=80, add=37), "threefry4x32": Tally(integer=160, add=69),
    "philox2x32": Tally(mul=20, integer=20), "philox4x32": Tally(mul=40, integer=40),
}  # fmt: skip
BLOCK_ONCE = Tally(integer=16, add=9)  # XLA's lowering for a CPU has a loop of five iterations, whose body it counts once
INDEX = Tally(integer=3)  # the number that is encrypted, a counter of 64 bits in two words
