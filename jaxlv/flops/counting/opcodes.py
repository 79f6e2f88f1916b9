"""The cost of one HLO instruction, by its opcode.

A rule returns a Tally, or a Tally and a doubt; an opcode without a rule returns None, which the walk turns into a doubt.
Prices are those of the jaxpr's primitives (costs.py), so that both counts use the same operations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from jaxlv.errors import JaxlvError
from jaxlv.flops.counting import costs, decompositions, windows
from jaxlv.flops.counting.hlo_text import Array, Axis, Instruction
from jaxlv.flops.counting.operations import PRODUCT, SHEET_PRODUCT, Tally, by_formula, product


def names(text: str) -> frozenset[str]:
    """Returns the names in a text."""
    return frozenset(text.split())


# Opcodes of one operation on each element, and the equivalent primitives of jax.lax.
ELEMENTWISE: Mapping[str, str] = {
    **{same: same for same in names("add sign abs clamp tanh erf cosh sinh log sqrt cbrt rsqrt tan atan2 acos acosh asin")},
    **{same: same for same in names("asinh atanh logistic and or not xor floor ceil")},
    "subtract": "sub", "negate": "neg", "multiply": "mul", "divide": "div", "remainder": "rem", "maximum": "max",
    "minimum": "min", "select": "select_n", "exponential": "exp", "exponential-minus-one": "expm1", "log-plus-one": "log1p",
    "sine": "sin", "cosine": "cos", "power": "pow", "compare": "eq", "is-finite": "is_finite",
    "round-nearest-afz": "round", "round-nearest-even": "round", "popcnt": "population_count", "count-leading-zeros": "clz",
    "shift-left": "shift_left", "shift-right-logical": "shift_right_logical",
    "shift-right-arithmetic": "shift_right_arithmetic", "convert": "convert_element_type",
    "stochastic-convert": "convert_element_type", "reduce-precision": "reduce_precision",
}  # fmt: skip
FREE = names(
    """
    parameter constant iota broadcast reshape dynamic-reshape bitcast bitcast-convert copy transpose slice dynamic-slice
    dynamic-update-slice concatenate pad gather reverse tuple get-tuple-element after-all add-dependency opt-barrier domain
    partition-id replica-id infeed outfeed send recv all-gather all-to-all collective-permute collective-broadcast
    ragged-all-to-all copy-start copy-done get-dimension-size set-dimension-size real imag complex fusion call while
    conditional async-start async-update async-done rng-get-and-update-state
    """
)
PRODUCT_NAMES = ("dot_general", "conv_general_dilated", "ragged_dot_general", "scaled_dot")  # of primitives


def is_product(op_name: str) -> bool:
    """Tells whether an instruction's name in the program says that it is a product."""
    return op_name.rpartition("/")[2] in PRODUCT_NAMES


Dimensions = Mapping[str, tuple[int, ...]]
Answer = Tally | tuple[Tally, str]
Body = Callable[[str], Tally]  # the cost of applying a computation once


def rule(one: Instruction, operands: Sequence[Instruction], body: Body) -> Answer | None:
    """Returns the operations of one execution, or None without a rule. `operands` are the instructions that make its
    operands.
    """
    opcode = one.opcode.removesuffix("-start")
    if opcode in FREE or one.opcode in FREE or opcode.endswith("-done"):
        return Tally()
    sides = [first(operand) for operand in operands]
    if opcode in ELEMENTWISE:
        return _elementwise(ELEMENTWISE[opcode], first(one), sides)
    return RULES[opcode](one, sides, body) if opcode in RULES else None


def first(one: Instruction) -> Array:
    """Returns the type of an instruction's result, or of the first part of a tuple; a token has no elements."""
    return one.arrays[0] if one.arrays else Array("token", (0,))


def _elementwise(primitive: str, made: Array, sides: Sequence[Array]) -> Tally | None:
    is_complex = any(array.is_complex for array in (made, *sides))
    each = (costs.COMPLEX if is_complex else costs.ELEMENTWISE).get(primitive)
    return None if each is None else Tally(each).times(made.elements)


# ------------------------------------------------------------------------------------------------- products


def dot(left: Array, right: Array, d: Dimensions) -> Tally:
    """Returns 2 x elements of the result x contracted length; the batch dimensions are part of the result.

    Raises JaxlvError if the contracted lengths differ.
    """
    batch = math.prod(left.sizes[i] for i in d["lhs_batch"])
    n = math.prod(left.sizes[i] for i in d["lhs_contracting"])
    if n != math.prod(right.sizes[i] for i in d["rhs_contracting"]):
        raise JaxlvError("a product's sides do not fit", where="HLO text", found=f"{left.sizes} x {right.sizes}, {dict(d)}")
    m, p = left.elements // (batch * n or 1), right.elements // (batch * n or 1)
    return real(product(batch, m, n, p), left, right)


def real(tally: Tally, *sides: Array) -> Tally:
    """Returns a product of complex sides in real FLOPs: 4 multiplications and 4 additions for each pair."""
    return tally.times(math.prod(2 for side in sides if side.is_complex))


def _dot(one: Instruction, sides: Sequence[Array], body: Body) -> Tally:
    return dot(sides[0], sides[1], one.dimensions())


def _scaled_dot(one: Instruction, sides: Sequence[Array], body: Body) -> Tally:
    """Counts a product whose sides have factors: each side is multiplied by its factors first."""
    found = dot(sides[0], sides[1], one.dimensions())
    found["mul"] += sum(side.elements for side, factors in zip(sides, sides[2:], strict=False) if factors.elements > 1)
    return found


def _ragged_dot(one: Instruction, sides: Sequence[Array], body: Body) -> Answer:
    left, right, d = sides[0], sides[1], one.dimensions()
    apart = (*d["rhs_contracting"], *d["rhs_batch"], *one.numbers("rhs_group_dims"))
    p = math.prod(size for i, size in enumerate(right.sizes) if i not in apart)
    flops = 2 * left.elements * p
    tally = real(Tally({PRODUCT: flops, SHEET_PRODUCT: flops - one.elements}), left, right)
    return tally, f"{one.name}: as if its groups covered every row; their sizes are known only at run time"


def convolution(one: Instruction, data: Array, kernel: Array, made: Array) -> Tally:
    """Returns two FLOPs for each tap on data, each feature of the kernel's input and each of the output.

    Raises JaxlvError without dim_labels.
    """
    labels = re.search(r"\bdim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    if not labels:
        raise JaxlvError("a convolution without dim_labels", where=f"HLO text, {one.name}")
    left, right, out = labels[1], labels[2], labels[3]
    space = sorted(label for label in out if label.isdigit())
    read, written = ([array.sizes[at.index(label)] for label in space] for array, at in ((data, left), (made, out)))
    taps, touched = _taps(read, written, one.window() or [Axis(1) for _ in space])
    each, into = made.sizes[out.index("b")] * made.sizes[out.index("f")], kernel.sizes[right.index("i")]
    flops = 2 * each * into * taps
    return real(Tally({PRODUCT: flops, SHEET_PRODUCT: flops - each * touched * (into > 0)}), data, kernel)


def _convolution(one: Instruction, sides: Sequence[Array], body: Body) -> Tally:
    return convolution(one, sides[0], sides[1], first(one))


def _taps(sizes: Sequence[int], made: Sequence[int], window: Sequence[Axis]) -> tuple[int, int]:
    """Returns (taps of a window on data, outputs with at least one such tap), over all dimensions."""
    return windows.over(
        [
            windows.Window(size, out, axis.size, axis.stride, axis.low, axis.lhs_dilation, axis.rhs_dilation)
            for size, out, axis in zip(sizes, made, window, strict=True)
        ]
    )


# ------------------------------------------------------------------------------------------- linear algebra


def estimated(what: str, matrix: Array, one: decompositions.Estimate) -> Answer:
    """Returns the FLOPs that a formula states for each matrix of a batch, with the doubt that says so."""
    batch = math.prod(matrix.sizes[:-2])
    words = f"{what} of {' x '.join(map(str, matrix.sizes))}: by a formula, {one.words}, not a count of operations"
    return by_formula(batch * one.flops * (4 if matrix.is_complex else 1)), words


def _cholesky(one: Instruction, sides: Sequence[Array], body: Body) -> Answer:
    return estimated("cholesky", sides[0], decompositions.cholesky(sides[0].sizes[-1]))


def _triangular_solve(one: Instruction, sides: Sequence[Array], body: Body) -> Answer:
    right = sides[1].sizes[-1 if "left_side=true" in one.attributes else -2]
    return estimated("triangular-solve", sides[0], decompositions.triangular(sides[0].sizes[-1], right))


def _fft(one: Instruction, sides: Sequence[Array], body: Body) -> Answer:
    lengths = one.numbers("fft_length")
    real = "RFFT" in one.attributes  # of real numbers, forwards (RFFT) or back (IRFFT)
    batch = math.prod(sides[0].sizes[: len(sides[0].sizes) - len(lengths)])
    found = decompositions.transform(lengths, real)
    words = f"fft of {' x '.join(map(str, lengths))}: by a formula, {found.words}, not a count of operations"
    return by_formula(batch * found.flops), words


# ----------------------------------------------------------------------------- computations on pairs of elements


def _reduce(one: Instruction, sides: Sequence[Array], body: Body) -> Tally:
    return _region(one, body).times(max(0, sides[0].elements - one.elements))


def _reduce_window(one: Instruction, sides: Sequence[Array], body: Body) -> Tally:
    taps, touched = _taps(sides[0].sizes, one.shape, one.window())
    return _region(one, body).times(taps - touched)


def _select_and_scatter(one: Instruction, sides: Sequence[Array], body: Body) -> Tally:
    """Counts how each window picks its element, to which the incoming value is added."""
    taps, touched = _taps(sides[0].sizes, sides[1].sizes, one.window())
    found = _region(one, body, "select").times(taps - touched)
    found.update(_region(one, body, "scatter").times(sides[1].elements))
    return found


def _scatter(one: Instruction, sides: Sequence[Array], body: Body) -> Tally:
    return _region(one, body).times(sides[-1].elements)


def _sort(one: Instruction, sides: Sequence[Array], body: Body) -> Tally:
    along = one.numbers("dimensions")
    return _region(one, body).times(comparisons(sides[0], along[0] if along else -1))


def comparisons(sorted_: Array, along: int = -1) -> int:
    """Returns the comparisons that sort an array along one dimension: ceil(log2(length)) for each element."""
    length = sorted_.sizes[along] if sorted_.sizes else 1
    return sorted_.elements * max(1, (length - 1).bit_length())


def _map(one: Instruction, sides: Sequence[Array], body: Body) -> Tally:
    return _region(one, body).times(one.elements)


def _topk(one: Instruction, sides: Sequence[Array], body: Body) -> Tally:
    return Tally(compare=comparisons(sides[0]))


def random_words(what: str, words: int) -> Answer:
    """Returns the tally of `words` 32-bit words of random bits."""
    return costs.BLOCKS[costs.THREEFRY].times(-(-words // 2)), f"{what}: counted as Threefry, though the device chooses"


def _random(one: Instruction, sides: Sequence[Array], body: Body) -> Answer:
    return random_words(one.opcode, -(-one.arrays[-1].bytes // 4))


def _collective(one: Instruction, sides: Sequence[Array], body: Body) -> Tally:
    """Counts a device's share: n values of one element take n - 1 sums, made by n devices together."""
    size = group_size(one.attributes)
    whole = sum(side.elements for side in sides)
    return _region(one, body).times(-(-whole * (size - 1) // size))


def group_size(attributes: str) -> int:
    """Returns how many devices a collective joins: replica_groups={{0,1},{2,3}}, [2,2]<=[4], or mesh['a'=2,'b'=2] {'b'}; 2
    if
    the text does not say.
    """
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(listed[1].split(","))
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=", attributes):
        return int(iota[1].split(",")[-1])
    if axes := re.search(r"replica_groups=mesh\[(.*?)\].*?\{(.*?)\}", attributes):
        sizes = dict(re.findall(r"('\w+')=(\d+)", axes[1]))
        return math.prod(int(sizes[name]) for name in axes[2].split(","))
    return 2


def _region(one: Instruction, body: Body, attribute: str = "to_apply") -> Tally:
    return Tally(body(next(one.called(attribute))))


RULES: Mapping[str, Callable[[Instruction, Sequence[Array], Body], Answer]] = {
    "dot": _dot, "scaled-dot": _scaled_dot, "ragged-dot": _ragged_dot, "convolution": _convolution,
    "triangular-solve": _triangular_solve, "cholesky": _cholesky, "fft": _fft,
    "reduce": _reduce, "reduce-window": _reduce_window, "select-and-scatter": _select_and_scatter, "scatter": _scatter,
    "sort": _sort, "map": _map, "topk": _topk, "rng-bit-generator": _random, "rng": _random,
    "all-reduce": _collective, "reduce-scatter": _collective,
}  # fmt: skip
