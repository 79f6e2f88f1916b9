"""Finds what a program asks for that a compiler need not execute, and what it executes without being asked.

Values are numbered as in hlo_values.py: by the primitive, its parameters and the numbers of its operands. An equation with
the number of an earlier one asks "again" (a common subexpression); so does one within a loop, in every iteration except the
first, if it depends on nothing that the loop changes. An operation on constants alone, one that leaves a number unchanged (x
+ 0, x * 1), and one of two consecutive scalings by constants are "folded". What is recomputed in the backward pass asks
again on purpose, and a compiler may do "either". Primitives that only move numbers may be "lowered" to operations on their
indices.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import Literal
from jax.interpreters import partial_eval

from jaxlv.flops.counting import costs, turns
from jaxlv.flops.counting.found import Trips
from jaxlv.flops.counting.jaxpr import CALLS, bodies, parts_of_scan
from jaxlv.flops.counting.lowerings import counter, lowering
from jaxlv.flops.counting.operations import AGAIN, EITHER, FOLDED, LOWERED, PRIMITIVES, Tally
from jaxlv.flops.counting.primitives import Equation, rule
from jaxlv.flops.counting.scopes import RECOMPUTED, Scope, of_stack

# The same value for the compiler. A value after a barrier is the same too, but may be computed once more.
SAME = ("stop_gradient", "copy", "copy_p", "name", "optimization_barrier", "sharding_constraint", "pvary")
SPREAD = ("broadcast_in_dim", "reshape", "squeeze", "convert_element_type", "expand_dims", "transpose")
# The same numbers in the same order if there are as many as before; a maximum of one number counts too.
RESHAPED = (
    "reshape", "squeeze", "expand_dims", "broadcast_in_dim", "pad", "slice", "reduce_max", "reduce_min", "reduce_sum",
)  # fmt: skip
NEUTRAL: Mapping[str, tuple[float, ...]] = {  # the number that changes nothing, on either side or only on the right
    "add": (0,), "add_any": (0,), "sub": (0,), "mul": (1,), "div": (1,), "max": (-np.inf,), "min": (np.inf,),
    "and": (True,), "or": (False,), "xor": (0,), "pow": (1,),
}  # fmt: skip
COMBINING = ("scatter", "reduce", "select_and_scatter")  # these hold a jaxpr on scalars
RIGHT = ("sub", "div", "pow")
SCALING = ("mul", "div")
EVALUATED: Mapping[str, Callable[..., Any]] = {  # on constants
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative, "square": np.square,
    "pow": np.power, "sqrt": np.sqrt, "exp": np.exp, "log": np.log, "max": np.maximum, "min": np.minimum, "abs": np.abs,
    "and": np.bitwise_and, "or": np.bitwise_or, "not": np.logical_not, "gt": np.greater, "ge": np.greater_equal,
    "lt": np.less, "le": np.less_equal, "eq": np.equal, "ne": np.not_equal,
}  # fmt: skip


def spared(closed: Any, trips: int | Mapping[str, int] | None = None, loops_once: bool = False) -> dict[Scope, Tally]:
    """Returns tallies of a closed jaxpr by scope, of marked operations only: "add again", "mul folded", "integer lowered".

    `loops_once` counts the body of a loop once, as in jaxpr.py.
    """
    jaxpr = _open(closed)
    live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    walk = _Walk(Trips(trips), loops_once)
    consts = [walk.constant(value) for value in getattr(closed, "consts", ())]
    walk.run(live, [walk.fresh() for _ in live.invars], consts, "", 1)
    return walk.found


class _Scaling(NamedTuple):
    """An equation that multiplies or divides by a constant."""

    equation: Any
    stack: str
    times: int


class _Walk:
    def __init__(self, trips: Trips, loops_once: bool):
        self.trips, self.loops_once = trips, loops_once
        self.found: dict[Scope, Tally] = {}
        self.numbers: dict[Any, int] = {}
        self.constants: dict[int, Any] = {}  # values without arguments; if all elements are one number, that number
        self.seen: set[int] = set()
        self.scaled: dict[int, _Scaling] = {}  # values with a constant factor, by the equation that gave it to them
        self.single: set[int] = (
            set()
        )  # results of reducing one number, and what follows from them: equal to it, but not every compiler knows
        self.empty: set[int] = set()  # results of scattering into zeros
        self.varies: dict[int, frozenset[int]] = {}  # the loops whose iterations give a value different numbers
        self.turns: list[tuple[int, int]] = []  # (number, iterations) of each loop around
        self.begun = 0
        self.last = -1

    def fresh(self, of: Sequence[int] = (), loop: int | None = None) -> int:
        """Returns a new number for a value of which only its operands are known, and a loop that changes it."""
        self.last += 1
        self.varies[self.last] = frozenset(() if loop is None else (loop,)).union(*(self.varies[number] for number in of))
        return self.last

    def number(self, key: Any, of: Sequence[int] = ()) -> int:
        """Returns the number of a value that a key determines, made from other values."""
        if key not in self.numbers:
            self.numbers[key] = self.fresh(of)
        return self.numbers[key]

    def constant(self, value: Any) -> int:
        """Returns the number of a constant."""
        one = None
        if np.size(value) == 1 and np.issubdtype(np.asarray(value).dtype.type, np.generic):
            plain = np.ravel(np.asarray(value))[0]
            one = (
                plain.item()
                if plain.dtype.kind in "biuf"
                else float(plain)
                if plain.dtype.name.startswith(("bf", "float"))
                else None
            )
        key = ("constant", str(getattr(value, "dtype", type(value))), id(value) if one is None else one, np.shape(value))
        number = self.number(key)
        self.constants[number] = one
        return number

    def run(self, jaxpr: Any, arguments: Sequence[int], consts: Sequence[int], stack: str, times: int) -> list[int]:
        """Walks a jaxpr; returns the numbers of its results."""
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

        def read(v: Any) -> int:
            return self.constant(v.val) if isinstance(v, Literal) else known[v]

        for equation in jaxpr.eqns:
            own = str(equation.source_info.name_stack)
            inner = f"{stack}/{own}" if stack and own else stack or own
            made = self.equation(equation, [read(v) for v in equation.invars], inner, times)
            known.update(zip(equation.outvars, made, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def inside(self, closed: Any, arguments: Sequence[int], stack: str, times: int) -> list[int]:
        """Walks a jaxpr that an equation holds."""
        consts = [self.constant(value) for value in getattr(closed, "consts", ())]
        return self.run(_open(closed), arguments, consts, stack, times)

    def equation(self, equation: Any, ins: list[int], stack: str, times: int) -> list[int]:
        """Walks an equation; returns the numbers of its results."""
        name, params = equation.primitive.name, equation.params
        if name in CALLS and CALLS[name] in params:
            return self.inside(params[CALLS[name]], ins, stack, times)
        if name == "scan":
            if params["length"] == 1:  # every compiler unrolls such a loop
                return self.inside(params["jaxpr"], ins, stack, times)
            return self.scan(params, ins, stack, times)
        elif name == "while":
            return self.loop(equation, ins, stack, times)
        elif name in ("cond", "switch"):
            before = self.seen
            for branch in params["branches"]:
                self.seen = set(before)
                self.inside(branch, ins[1:], stack, times)
            self.seen = before
        elif name in SAME and len(ins) == len(equation.outvars):
            return ins
        elif name.startswith(COMBINING) or not any(_holds_jaxpr(value) for value in params.values()):
            return self.plain(equation, ins, stack, times)
        return [self.fresh(ins) for _ in equation.outvars]

    def turn(self, closed: Any, ins: list[int], stack: str, times: int, trips: int, loop: int) -> None:
        """Walks a jaxpr that a loop runs in each iteration."""
        self.turns.append((loop, trips))
        self.inside(closed, ins, stack, times * trips)
        self.turns.pop()

    def carried(self, closed: Any, consts: int, ins: Sequence[int], loop: int | None) -> list[int]:
        """Returns the numbers of what a loop carries during its iterations or, if `loop` is None, leaves behind. What the
        body passes on unchanged keeps its number.
        """
        body = _open(closed)
        pairs = zip(ins, body.invars[consts:], body.outvars, strict=False)
        return [number if into is out else self.fresh([number], loop) for number, into, out in pairs]

    def scan(self, params: Mapping[str, Any], ins: list[int], stack: str, times: int) -> list[int]:
        """Walks a scan, which carries some operands and takes slices of others; returns the numbers of its results."""
        consts, carry = parts_of_scan(params)
        last = consts + carry
        closed, starts = params["jaxpr"], ins[consts:last]
        self.begun += 1
        loop = self.begun
        slices = [self.fresh([number], loop) for number in ins[last:]]
        inner = [*ins[:consts], *self.carried(closed, consts, starts, loop), *slices]
        trips = bodies(params) if self.loops_once else params["length"]
        self.turn(closed, inner, stack, times, trips, loop)
        counted = counter(trips, 1 if self.loops_once else trips + 1).times(times)
        self.found.setdefault(_scope(stack), Tally()).update({name + LOWERED: number for name, number in counted.items()})
        stacked = len(_open(closed).outvars) - len(starts)
        return [*self.carried(closed, consts, starts, None), *(self.fresh(ins) for _ in range(stacked))]

    def loop(self, equation: Any, ins: list[int], stack: str, times: int) -> list[int]:
        """Walks a while loop, its condition once more often than its body; returns the numbers of its results."""
        params, trips = equation.params, 1 if self.loops_once else self.trips.named(_scope(stack), ())
        if trips is None:
            trips = turns.written(equation)
        if trips is None:
            trips = self.trips.everywhere or 1
        asks, does = params["cond_nconsts"], params["body_nconsts"]
        self.begun += 1
        loop, starts, body = self.begun, ins[asks + does :], params["body_jaxpr"]
        carried = self.carried(body, does, starts, loop)
        self.turn(params["cond_jaxpr"], [*ins[:asks], *carried], stack, times, 1 if self.loops_once else trips + 1, loop)
        self.turn(body, [*ins[asks : asks + does], *carried], stack, times, trips, loop)
        return self.carried(body, does, starts, None)

    def plain(self, equation: Any, ins: list[int], stack: str, times: int) -> list[int]:
        """Numbers the results of an equation without a jaxpr, and notes which of its operations can be left out."""
        name = "integer_pow 2" if equation.primitive.name == "square" else equation.primitive.name
        if name == "integer_pow":
            if equation.params["y"] == 1:
                return ins
            name = f"integer_pow {equation.params['y']}"
        made = self.made(name, equation, ins)
        first = made[0] if made else -1
        if not self.single.isdisjoint(ins) or (first in ins and name.startswith("reduce")):
            self.single.update(made)
        if first in ins:
            return made
        fixed, neutral = all(number in self.constants for number in ins), self.neutral(name, ins)
        one = _Scaling(equation, stack, times)
        if first in self.seen:
            kept = RECOMPUTED not in stack
            self.note(FOLDED if first in self.single else AGAIN if kept else EITHER, one)
            if not kept:
                self.lowered(one)
        elif fixed or neutral is not None:
            self.note(FOLDED, one)
        else:
            different = math.prod(trips for loop, trips in self.turns if loop in self.varies[first] or not trips)
            if different < times:
                self.note(AGAIN, one._replace(times=times - different))
            one = one._replace(times=different)
            self.factors(one, ins, first)
            self.lowered(one)
            if name in ("scatter-add", "scatter_add") and self.constants.get(ins[0]) == 0:
                self.empty.add(first)
        self.seen.add(first)
        if fixed:
            self.constants.update(dict.fromkeys(made, self.evaluated(one, ins)))
        return made if neutral is None or fixed else [neutral]

    def made(self, name: str, equation: Any, ins: Sequence[int]) -> list[int]:
        """Returns the numbers of an equation's results. Elementwise results with equally many elements are not distinguished
        by shape.
        """
        out = [v.aval for v in equation.outvars]
        if name in RESHAPED and math.prod(equation.invars[0].aval.shape) == out[0].size:
            return list(ins[:1])
        if name == "transpose" and _in_order(equation.params["permutation"], equation.invars[0].aval.shape):
            return list(ins)
        if name in costs.ELEMENTWISE or name.startswith("integer_pow"):
            settings = str([(aval.size, str(aval.dtype)) for aval in out])
            settings += str(equation.params.get("new_dtype", ""))
        else:
            types = [v.aval for v in (*equation.invars, *equation.outvars)]
            settings = str(types) + str(sorted(equation.params.items(), key=lambda item: item[0]))
        return [self.number((name, settings, tuple(ins), i), ins) for i in range(len(out))]

    def evaluated(self, one: _Scaling, ins: Sequence[int]) -> Any:
        """Returns the one number that all elements of a result of constants have; None if it is not known."""
        name = one.equation.primitive.name
        values = [self.constants[number] for number in ins]
        if name == "iota":
            return 0 if one.equation.outvars[0].aval.size == 1 else None
        if not values or any(value is None for value in values):
            return None
        if name in SPREAD or name in RESHAPED:
            return values[0]
        with np.errstate(all="ignore"):
            return EVALUATED[name](*values).item() if name in EVALUATED else None

    def neutral(self, name: str, ins: Sequence[int]) -> int | None:
        """Returns the operand that an operation leaves unchanged; None if it changes both."""
        if name == "select_n" and isinstance(chosen := self.constants.get(ins[0]), (bool, int)):
            return ins[1 + int(chosen)]
        if name in ("add", "add_any") and not self.empty.isdisjoint(ins):  # a scatter into zeros goes into the other side
            return self.fresh()
        if name not in NEUTRAL or len(ins) != 2:
            return None
        for side in (1,) if name in RIGHT else (0, 1):
            if self.constants.get(ins[side]) in NEUTRAL[name]:
                return ins[1 - side]
        return None

    def factors(self, one: _Scaling, ins: Sequence[int], made: int) -> None:
        """Notes a scaling by a constant that can be merged with another one: the product of x * 2 and y / 3 needs
        only one.
        """
        name = one.equation.primitive.name
        have = [self.scaled[number] for number in ins if number in self.scaled]
        if name in SCALING and any(number in self.constants for number in ins):
            have.append(one)
        elif name not in (*SCALING, *SPREAD, "neg", "reduce_sum"):
            return
        while len(have) > 1:
            have.sort(key=lambda scaling: scaling.times * scaling.equation.outvars[0].aval.size)
            self.note(FOLDED, have.pop())
        if have:
            self.scaled[made] = have[0]

    def lowered(self, one: _Scaling) -> None:
        """Notes the operations that JAX's lowering of a primitive needs beyond its price."""
        tally = lowering(self.facts(one.equation))
        if tally:
            marked = {name + LOWERED: number * one.times for name, number in tally.items()}
            self.found.setdefault(_scope(one.stack), Tally()).update(marked)

    def facts(self, equation: Any) -> Equation:
        """Returns an equation as the rules see it."""
        ins, outs = (tuple(v.aval for v in side) for side in (equation.invars, equation.outvars))
        return Equation(equation.primitive.name, equation.params, ins, outs, {}, self.loops_once)

    def note(self, mark: str, one: _Scaling) -> None:
        """Adds an equation's operations under a mark."""
        answer = rule(self.facts(one.equation))
        tally = answer[0] if isinstance(answer, tuple) else answer or Tally()
        marked = Tally({name + mark: one.times * tally[name] for name in PRIMITIVES if tally[name]})
        if marked:
            self.found.setdefault(_scope(one.stack), Tally()).update(marked)


@functools.lru_cache(maxsize=65536)
def _scope(stack: str) -> Scope:
    return of_stack(stack)


def _open(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)  # jax 0.12 has one class for open and closed jaxprs


def _in_order(permutation: Sequence[int], shape: Sequence[int]) -> bool:
    """Tells whether a transposition moves only dimensions of one element."""
    moved = [axis for axis in permutation if shape[axis] > 1]
    return moved == sorted(moved)


def _holds_jaxpr(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_holds_jaxpr(part) for part in value)
    return hasattr(_open(value), "eqns")
