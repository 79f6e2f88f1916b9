"""The cost of one equation of a jaxpr, by its primitive.

A rule returns a Tally, or a Tally and a doubt: what it could not know, in words. A primitive that is not listed here has no
rule, and the caller must raise an error: nothing counts as 0 because it is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxlv.flops.counting import costs, decompositions, windows
from jaxlv.flops.counting.operations import BYTES, PRODUCT, SHEET_PRODUCT, Tally, by_formula, product


@dataclass(frozen=True)
class Equation:
    """An equation of a jaxpr: the primitive's name and parameters, and the abstract values that go in and come out."""

    name: str
    params: Mapping[str, Any]
    ins: tuple[Any, ...]
    outs: tuple[Any, ...]
    axes: Mapping[str, int]  # sizes of the mesh axes that a shard_map around it has made manual
    loops_once: bool = False
    rolled: bool = True  # the rounds of random bits are a loop, as JAX writes them only for a CPU

    def shapes(self, which: str = "ins") -> list[tuple[int, ...]]:
        """Returns the shapes of the operands or results."""
        return [tuple(getattr(aval, "shape", ())) for aval in getattr(self, which)]

    def size(self, operand: int) -> int:
        """Returns the number of elements of an operand."""
        return math.prod(self.ins[operand].shape)

    @property
    def out(self) -> int:
        """The number of elements of the first result."""
        return size(self.outs[0]) if self.outs else 0

    @property
    def is_complex(self) -> bool:
        """Tells whether any operand or result is complex."""
        return any(_complex(aval) for aval in (*self.ins, *self.outs))


Answer = Tally | tuple[Tally, str]


def rule(equation: Equation) -> Answer | None:
    """Returns the operations of an equation with the bytes that it reads and writes, or None if its primitive has no
    rule.
    """
    name = equation.name
    if name in costs.ELEMENTWISE or name in costs.COMPLEX:
        found: Answer | None = _elementwise(equation)
    elif name in costs.VIEWS or name in costs.MOVES or name in costs.PARTS or name in costs.INTO or name in costs.SENT:
        found = Tally()
    elif name in costs.REDUCTIONS:
        found = _combined(equation, {costs.REDUCTIONS[name]: 1}, equation.size(0) - equation.out)
    elif name in decompositions.RULES:
        found = _decomposition(equation)
    elif name in RULES:
        found = RULES[name](equation)
    else:
        return None
    if found is None:
        return None
    tally, doubt = found if isinstance(found, tuple) else (found, "")
    if BYTES not in tally:
        tally = Tally({**tally, BYTES: _bytes(equation)})
    return (tally, doubt) if doubt else tally


def size(aval: Any) -> int:
    """Returns the number of elements of an abstract value; a token has none."""
    return math.prod(aval.shape) if hasattr(aval, "shape") else 0


def nbytes(aval: Any) -> int:
    """Returns the bytes of an abstract value; for a random key, those of its words."""
    dtype = getattr(aval, "dtype", None)
    each = getattr(dtype, "itemsize", 0)
    if (generator := getattr(dtype, "_impl", None)) is not None:
        each = 4 * math.prod(generator.key_shape)
    return size(aval) * each


def _complex(aval: Any) -> bool:
    return getattr(getattr(aval, "dtype", None), "kind", "") == "c"


def _bytes(equation: Equation) -> int:
    if equation.name in costs.VIEWS:
        return 0
    written = sum(nbytes(aval) for aval in equation.outs)
    if equation.name in costs.PARTS:
        return 2 * written + sum(nbytes(aval) for aval in equation.ins[1:])
    if equation.name in costs.INTO:
        return 2 * nbytes(equation.ins[costs.INTO[equation.name]])
    if equation.name.startswith("scatter"):
        return 3 * nbytes(equation.ins[2]) + nbytes(equation.ins[1])  # read, and read and written
    return written + sum(nbytes(aval) for aval in equation.ins)


def _elementwise(equation: Equation) -> Tally | None:
    if equation.name == "convert_element_type" and equation.ins[0].dtype == equation.outs[0].dtype:
        return Tally()  # the type only stops being weak
    one = (costs.COMPLEX if equation.is_complex else costs.ELEMENTWISE).get(equation.name)
    return None if one is None else Tally({operation: each * equation.out for operation, each in one.items()})


def _combined(equation: Equation, one: Mapping[str, int], times: int) -> Tally:
    """Returns the real operations of `times` combinations of two elements."""
    found = Tally()
    for operation, each in one.items():
        number = max(0, times) * each
        if not equation.is_complex or operation not in ("add", "mul"):
            found[operation] += number
        elif operation == "add":
            found["add"] += 2 * number
        else:
            found.update({"mul": 4 * number, "add": 2 * number})
    return found


def _decomposition(equation: Equation) -> Answer:
    factor = 4 if equation.is_complex and _complex(equation.ins[0]) and equation.name != "fft" else 1
    ins, outs = equation.shapes(), equation.shapes("outs")
    found = decompositions.estimate(equation.name, ins, outs, equation.params, factor)
    sizes = " x ".join(map(str, ins[0]))
    return by_formula(found.flops), f"{equation.name} of {sizes}: by a formula, {found.words}, not a count of operations"


# ------------------------------------------------------------------------------------------------- products


class DotSizes(NamedTuple):
    """Sizes of `batch` products (m, n) x (n, p)."""

    batch: int
    m: int
    n: int
    p: int


def dot_sizes(equation: Any) -> DotSizes:
    """Returns the sizes of a dot_general: n is contracted."""
    (left_n, right_n), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left, right = equation.shapes()[:2]
    batch, n = math.prod(left[i] for i in left_batch), math.prod(left[i] for i in left_n)
    m = math.prod(side for i, side in enumerate(left) if i not in (*left_n, *left_batch))
    p = math.prod(side for i, side in enumerate(right) if i not in (*right_n, *right_batch))
    return DotSizes(batch, m, n, p)


def _real(equation: Equation, tally: Tally) -> Tally:
    """Returns a product of complex matrices in real FLOPs: 4 multiplications and 4 additions for each pair."""
    return tally.times(math.prod(2 if _complex(aval) else 1 for aval in equation.ins[:2]))


def _dot(equation: Equation) -> Tally:
    return _real(equation, product(*dot_sizes(equation)))


def _scaled_dot(equation: Equation) -> Tally:
    found, (left, right, *scales) = _dot(equation), equation.ins
    return found + Tally(mul=sum(size(side) for side, scale in zip((left, right), scales, strict=False) if size(scale) > 1))


def _scaled_matmul(equation: Equation) -> Tally:
    (batch, m, n), (_, p, _) = equation.shapes()[:2]
    return product(batch, m, n, p) + Tally(mul=batch * (m + p) * n)


def _ragged_dot(equation: Equation) -> Answer:
    numbers = equation.params["ragged_dot_dimension_numbers"]
    ((_, right_n), (_, right_batch)), groups = numbers.dot_dimension_numbers, numbers.rhs_group_dimensions
    left, right = equation.shapes()[:2]
    p = math.prod(side for i, side in enumerate(right) if i not in (*right_n, *right_batch, *groups))
    flops = 2 * math.prod(left) * p
    tally = _real(equation, Tally({PRODUCT: flops, SHEET_PRODUCT: flops - math.prod(equation.shapes("outs")[0])}))
    return tally, f"{equation.name}: as if its groups covered every row; their sizes are known only at run time"


def _convolution(equation: Equation) -> Tally:
    left, right = equation.shapes()[:2]
    return _real(equation, windows.convolution(left, right, equation.shapes("outs")[0], dict(equation.params)))


def _attention(equation: Equation) -> Tally:
    query, key = equation.shapes()[:2]
    batch, queries, heads, width = query
    keys = key[1]
    if str(equation.params.get("layout", 0)).endswith(("1", "BNTH")):
        heads, queries, keys = queries, heads, key[2]
    return product(costs.FUSED_ATTENTION[equation.name] * batch * heads, queries, width, keys)


def _pallas(equation: Equation) -> Answer | None:
    said = equation.params.get("cost_estimate")
    if said is None:
        return None
    tally = by_formula(int(said.flops)) + Tally({"exp": int(said.transcendentals), BYTES: int(said.bytes_accessed)})
    return tally, f"pallas_call {_kernel(equation.params)}: what its cost_estimate says; the kernel itself is not counted"


def _kernel(params: Mapping[str, Any]) -> str:
    named = params.get("name") or getattr(params.get("name_and_src_info"), "name", "")
    debug = getattr(getattr(params.get("jaxpr"), "debug_info", None), "func_name", "")
    return str(named or debug or "kernel").partition(" ")[0]


# ------------------------------------------------------------------------------------------------- reductions


def _power(equation: Equation) -> Tally:
    power, out = abs(equation.params["y"]), equation.out
    multiplications = max(0, power.bit_length() - 1 + power.bit_count() - 1)
    if not equation.is_complex:
        return Tally(mul=multiplications * out, div=out * (equation.params["y"] < 0))
    found = _combined(equation, {"mul": 1}, multiplications * out)
    return found + Tally({name: n * out for name, n in costs.COMPLEX["div"].items()}) if equation.params["y"] < 0 else found


def _polynomial(equation: Equation) -> Tally:
    """Counts Horner's rule: a multiplication and an addition for each coefficient except the highest."""
    return _combined(equation, {"mul": 1, "add": 1}, (len(equation.ins) - 2) * equation.out)


def _cumulative(equation: Equation) -> Tally:
    length = equation.ins[0].shape[equation.params["axis"]]
    return _combined(equation, costs.CUMULATIVE[equation.name], equation.out - equation.out // length if length else 0)


def _pool(equation: Equation) -> Tally:
    found = windows.combinations(equation.shapes()[0], equation.shapes("outs")[0], dict(equation.params))
    return _combined(equation, {costs.POOLS[equation.name]: 1}, found)


def _pool_gradient(equation: Equation) -> Tally:
    """Counts how each window picks its element, to which the gradient is added."""
    source, operand = equation.shapes()[:2]
    return Tally(compare=windows.combinations(operand, source, dict(equation.params)), add=math.prod(source))


def _pool_tangent(equation: Equation) -> Tally:
    return Tally(compare=windows.combinations(equation.shapes()[0], equation.shapes("outs")[0], dict(equation.params)))


def _sort(equation: Equation) -> Tally:
    shape = equation.ins[0].shape
    said = [equation.params[name] for name in ("dimension", "axis", "reduction_dimension") if name in equation.params]
    length = shape[said[0] if said else -1] if shape else 1
    return Tally(compare=equation.size(0) * max(1, (length - 1).bit_length()))


def _scatter(equation: Equation) -> Tally:
    return _combined(equation, {costs.SCATTERS[equation.name]: 1}, equation.size(2))


def _collective(equation: Equation) -> Answer | None:
    """Returns what all devices of a mesh do together, as a share for each: n - 1 combinations per element in a group of n.

    The walk multiplies by the number of devices; until then the mark GROUPED keeps the share a whole number.
    """
    names = equation.params.get("axes", equation.params.get("axis_name", ()))
    names = names if isinstance(names, (tuple, list)) else (names,)
    named = [name for name in names if not isinstance(name, int)]
    groups = equation.params.get("axis_index_groups")
    if not groups and any(name not in equation.axes for name in named):
        return None
    n = len(groups[0]) if groups else math.prod(equation.axes[name] for name in named)
    elements = sum(size(aval) for aval in equation.ins)
    found = _combined(equation, {costs.COLLECTIVES[equation.name]: 1}, elements * (n - 1))
    return Tally({f"{GROUPED} {n}:{name}": number for name, number in found.items()} | {BYTES: _bytes(equation)})


GROUPED = "of a group of"  # marks operations that a group of devices shares, until the walk resolves the mark


def shared(tally: Tally, copies: int) -> Tally:
    """Returns the tally of `copies` devices from that of one; what a group of n does together counts once per group."""
    found = Tally()
    for name, number in tally.items():
        if name.startswith(GROUPED):
            group, _, plain = name.removeprefix(GROUPED).partition(":")
            found[plain] += number * copies // int(group)
        else:
            found[name] += number * copies
    return found


def _special(equation: Equation) -> Answer:
    return Tally(exp=equation.out), f"{equation.name}: a series of unknown length, one operation an element is counted"


def _add_into(equation: Equation) -> Tally:
    return _combined(equation, {"add": 1}, equation.size(1))


# ------------------------------------------------------------------------------------------------ random bits


def _block(equation: Equation, name: str) -> Tally:
    return costs.BLOCK_ONCE if equation.loops_once and equation.rolled and name == costs.THREEFRY else costs.BLOCKS[name]


def _blocks(equation: Equation, more: Tally) -> Answer:
    """Returns a block of the key's generator for each element of the result, and `more` operations for each."""
    generator = getattr(getattr(equation.ins[0], "dtype", None), "_impl", None)
    name = getattr(generator, "name", costs.THREEFRY)
    if name in costs.BLOCKS:
        return (_block(equation, name) + more).times(equation.out)
    return (costs.BLOCKS[costs.THREEFRY] + more).times(equation.out), f"{equation.name} of {name}: counted as Threefry"


def _keys(equation: Equation) -> Answer:
    """Counts how keys are made from keys."""
    return _blocks(equation, costs.INDEX)


def _random_bits(equation: Equation) -> Answer:
    """Counts random bits: up to 32 join the words of a block by an exclusive or; for 64 both words are kept."""
    return _blocks(equation, costs.INDEX + Tally(integer=1 if equation.params.get("bit_width", 32) <= 32 else 2))


def _raw(equation: Equation) -> Tally:
    return _block(equation, equation.name).times(equation.out)


def _generator(equation: Equation) -> Answer:
    words = sum(nbytes(aval) // 4 for aval in equation.outs[-1:])
    tally = costs.BLOCKS[costs.THREEFRY].times((words + 1) // 2)
    return tally, f"{equation.name}: counted as Threefry, though the device chooses"


RULES: Mapping[str, Callable[[Equation], Answer | None]] = {
    "dot_general": _dot,
    "scaled_dot": _scaled_dot,
    "scaled_matmul": _scaled_matmul,
    "scaled_matmul_wrapper": _scaled_matmul,
    "ragged_dot_general": _ragged_dot,
    "conv_general_dilated": _convolution,
    "pallas_call": _pallas,
    "integer_pow": _power,
    "polynomial": _polynomial,
    "select_and_scatter_add": _pool_gradient,
    "select_and_gather_add": _pool_tangent,
    "addupdate": _add_into,
    "accum_grad_in_ref": _add_into,
    "random_bits": _random_bits,
    "random_split": _keys,
    "random_fold_in": _keys,
    "random_seed": lambda equation: Tally(integer=4 * equation.out),
    **dict.fromkeys(costs.BLOCKS, _raw),
    **dict.fromkeys(("rng_bit_generator", "rng_uniform"), _generator),
    **dict.fromkeys(("sort", "top_k", "approx_top_k"), _sort),
    **dict.fromkeys(costs.CUMULATIVE, _cumulative),
    **dict.fromkeys(costs.POOLS, _pool),
    **dict.fromkeys(costs.SCATTERS, _scatter),
    **dict.fromkeys(costs.COLLECTIVES, _collective),
    **dict.fromkeys(costs.FUSED_ATTENTION, _attention),
    **dict.fromkeys(costs.SPECIAL, _special),
    **dict.fromkeys(costs.HOST, lambda equation: (Tally(), f"{equation.name}: runs on the host, where nothing is counted")),
}
