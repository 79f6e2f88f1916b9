"""What JAX and XLA add to the price of a primitive on any processor: operations that a jaxpr does not show.

They are taken from JAX's own definitions of the primitives and from XLA's passes, named at each rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from jaxlv.flops.counting import costs
from jaxlv.flops.counting.operations import Tally
from jaxlv.flops.counting.primitives import Equation

# For a comparison of two floating-point numbers that may be NaN or -0: for each side two tests, for zero and NaN, and two
# choices (jax.lax's canonical numbers of a sort); then both as integers in the same order (XLA's comparison-expander).
CANONICAL, TOTAL_ORDER = Tally(integer=4, compare=4), Tally(integer=4, compare=2)
NEXT_KEY = Tally(integer=4)  # for a sort: whether the previous keys are equal, two connectives, and its own comparison
WINDOW = 16  # a running sum over more numbers is made from running sums over this many (XLA's reduce-window-rewriter)
TURNS = 5  # iterations of JAX's loop for a block of Threefry, with four rounds in each


def lowering(equation: Equation) -> Tally:
    """Returns the operations that a primitive needs beyond its price; none for most."""
    name = equation.name
    if name.startswith(("gather", "scatter")):
        return _misses(equation) if "FILL" in str(equation.params.get("mode", "")) else Tally()
    return RULES[name](equation) if name in RULES else Tally()


def counter(turns: int, looks: int) -> Tally:
    """Returns the operations for the counter of a scan whose condition is checked `looks` times.

    The counter is increased, compared, and converted to an index, which could be negative.
    """
    return Tally(add=2 * turns, integer=turns + looks, compare=turns)


def running(length: int) -> int:
    """Returns how many combinations XLA executes for the running sums of `length` numbers.

    For up to 16 numbers each sum is computed by itself. More are split into blocks; the running sum of the blocks' last
    sums, up to the previous block, is added to each number of a block.
    """
    if length <= WINDOW:
        return length * (length - 1) // 2
    blocks = -(-length // WINDOW)
    return blocks * running(WINDOW) + running(blocks) + blocks * WINDOW


def _misses(equation: Equation) -> Tally:
    """Counts, for an index that may be out of range: two comparisons, joined, and a choice for each element."""
    moved = equation.out if equation.name == "gather" else equation.size(2)
    return Tally(integer=4 * equation.size(1), compare=equation.size(1) + moved)


def _place_of_most(equation: Equation) -> Tally:
    """Counts what finds the place of a maximum: 9 operations for two numbers, 7 on truth values and two choices."""
    pairs = equation.size(0) - equation.out
    return Tally(integer=7 * pairs, compare=pairs)


def _sort(equation: Equation) -> Tally:
    keys, each = equation.params["num_keys"], Tally()
    for aval in equation.ins[:keys]:
        if np.issubdtype(aval.dtype, np.floating) or aval.dtype.name == "bfloat16":
            each.update(CANONICAL + TOTAL_ORDER)
    return (each + NEXT_KEY.times(keys - 1)).times(_comparisons(equation, equation.params["dimension"]))


def _top_k(equation: Equation) -> Tally:
    floating = np.issubdtype(equation.ins[0].dtype, np.floating) or equation.ins[0].dtype.name == "bfloat16"
    return TOTAL_ORDER.times(_comparisons(equation, equation.params["axis"])) if floating else Tally()


def _comparisons(equation: Equation, along: int) -> int:
    return equation.size(0) * max(1, (equation.ins[0].shape[along] - 1).bit_length())


def _cumulative(equation: Equation) -> Tally:
    length = equation.ins[0].shape[equation.params["axis"]]
    rows, more = equation.out // max(1, length), running(length)
    found = Tally(costs.CUMULATIVE[equation.name]).times(rows * (more - length + 1))
    if equation.name == "cumlogsumexp":  # it also tests for a difference that is not a number
        found.update(Tally(add=1, integer=1, compare=1).times(rows * more))
    return found


def _random(equation: Equation) -> Tally:
    """Counts the loop's counter, what is added to a word, and the remainders of four shifts."""
    generator = getattr(getattr(equation.ins[0], "dtype", None), "_impl", None)
    if getattr(generator, "name", costs.THREEFRY) not in ("threefry2x32", "fry"):
        return Tally()
    if equation.loops_once:  # before XLA simplifies it: another sum, another comparison, and places in several dimensions
        shape = equation.params.get("shape", ())
        place = Tally(mul=1, add=1).times(max(0, len(shape) - 1))
        return Tally(convert=1, add=7, integer=2) + place.times(math.prod(shape))
    return Tally(convert=TURNS, add=6 * TURNS, integer=TURNS + 1)


def _same_bits(equation: Equation) -> Tally:
    """Counts nothing; with `loops_once` one operation per element, as XLA's analysis does."""
    return Tally(integer=equation.out) if equation.loops_once else Tally()


def _one_type(equation: Equation) -> Tally:
    """Counts casts in a product of two types: JAX casts a side that is not of the result's type (except two of 8 bits)."""
    types = [aval.dtype for aval in (*equation.ins[:2], equation.outs[0])]
    if types[0] == types[1]:
        return Tally()
    return Tally(convert=sum(equation.size(side) for side in (0, 1) if types[side] != types[2]))


def _base_two(equation: Equation) -> Tally:
    """Counts a product for each element: exp2 and log2 are exp and log with one product."""
    return Tally(mul=equation.out)


def _power(equation: Equation) -> Tally:
    """Counts the cast of an exponent of another type."""
    one, other = equation.ins
    return Tally(convert=equation.size(1)) if one.dtype != other.dtype else Tally()


RULES: Mapping[str, Callable[[Equation], Tally]] = {
    **dict.fromkeys(("argmax", "argmin"), _place_of_most),
    **dict.fromkeys(costs.CUMULATIVE, _cumulative),
    **dict.fromkeys(("random_bits", "random_split", "random_fold_in", costs.THREEFRY), _random),
    "bitcast_convert_type": _same_bits,
    "dot_general": _one_type,
    "exp2": _base_two,
    "log2": _base_two,
    "pow": _power,
    "sort": _sort,
    "top_k": _top_k,
}
