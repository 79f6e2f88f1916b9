"""Counts what remains to be executed after compilation, in the text of a compiled module.

Fusions, calls, loops and their conditions are entered; of a conditional's branches the most expensive counts, for each kind
of work. What is executed can be more than what was asked for: a product's sides are padded to what a kernel takes, fusions
repeat small operations instead of waiting for one another, a quotient becomes a product with a reciprocal, and a primitive
that only moves numbers may compute its indices. All of this is marked ("dot padded", "add repeated", "div added"), so that
excess can be distinguished from error. What the text does not tell becomes a doubt: a loop's trip count, an opcode or a
called function without a rule.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from jaxlv.errors import JaxlvError
from jaxlv.flops.counting import costs, custom_calls, opcodes
from jaxlv.flops.counting.found import Loop, Trips
from jaxlv.flops.counting.hlo_text import Computation, Instruction, Module, parse, result
from jaxlv.flops.counting.hlo_values import MOVES, Executed, Fork, Trace, Values
from jaxlv.flops.counting.operations import (
    ADDED,
    BYTES,
    KINDS,
    PADDED,
    PRIMITIVES,
    PRODUCT,
    REPEATED,
    SHEET_PRODUCT,
    Tally,
    total,
)
from jaxlv.flops.counting.scopes import Scope, of_instruction

SUMS = ("reduce", "reduce-window")
FACTORS = ("multiply", "select")
NAMING = frozenset({*MOVES, *SUMS, "add"} - {"broadcast"})  # opcodes allowed between a product and the line that names it
RESHAPES = frozenset({"bitcast", "reshape", "copy"})
FILLING = MOVES - {"broadcast", "slice"}  # opcodes allowed between a product and the padding of a side
NOTHING = opcodes.names("parameter tuple get-tuple-element bitcast constant while conditional call after-all iota")
PARTS = opcodes.names("slice dynamic-slice gather")  # read no more than they return
# Primitives without operations on elements: what is computed under their names are indices, partial sums of a product that
# is split among many processors, and what a library does to a product before it writes it.
BESIDE = costs.MOVES | costs.VIEWS | costs.PARTS | {*costs.INTO, *opcodes.PRODUCT_NAMES}

T = TypeVar("T")


@dataclass
class HloCount:
    """What each device executes: tallies by scope; loops; how many devices run the module at once; and doubts, one line
    each, which say what the tallies do not contain.
    """

    tallies: dict[Scope, Tally] = field(default_factory=dict)
    loops: list[Loop] = field(default_factory=list)
    devices: int = 1
    doubts: list[str] = field(default_factory=list)

    def total(self) -> Tally:
        """Returns the sum over all scopes, for one device."""
        return total(self.tallies.values())


def count_hlo(text: str, trips: int | Mapping[str, int] | None = None) -> HloCount:
    """Counts a compiled module, from `compiled.as_text()`.

    `trips` says how often loops run whose trip count the compiler did not find: a number for all, or a mapping by place
    ("model.py:12"), scope name or instruction. Raises JaxlvError if the text is not HLO.
    """
    seen = walk(text, trips)
    tallies = _followed(
        lambda: {scope: tally for scope, tally in seen.tallies(seen.values.trace).items() if any(tally.values())}
    )
    return HloCount(tallies, seen.loops(), seen.module.devices, sorted(seen.doubts))


def walk(text: str, trips: int | Mapping[str, int] | None = None) -> Walk:
    """Returns a walk through a compiled module; arguments and errors as those of `count_hlo`."""
    known, unknown = Trips(trips), set[str]()

    def turns(one: Instruction, op_name: str) -> int | None:
        if one.trips is not None:
            return one.trips
        unknown.add(one.name)
        return known.of(of_instruction(op_name), [one.name, *module.places(one)])

    module = _followed(lambda: parse(text))
    return Walk(module, _followed(lambda: Values(module, turns)), unknown)


def _followed(read: Callable[[], T]) -> T:
    try:
        return read()
    except (LookupError, ValueError, TypeError, StopIteration, RecursionError) as fault:  # what a text can lack or repeat
        raise JaxlvError(
            "HLO text that cannot be followed", where="HLO text", expected="the text of a compiled module",
            found=f"{type(fault).__name__}: {fault}", hint="another version of XLA may write it in another way",
        ) from fault  # fmt: skip


class Walk:
    """What a module executes, instruction by instruction: operations, names, bytes. `open_loops` are the loops (by
    instruction) whose trip count the compiler did not find.
    """

    def __init__(self, module: Module, values: Values, open_loops: set[str]):
        self.module, self.values, self.open_loops = module, values, open_loops
        self.doubts: set[str] = set()
        self.products: set[int] = set()  # values that are products, or parts of their sums, although no dot computes them
        self.within: list[Tally] = [Tally() for _ in values.loops]  # operations of all iterations of a loop

    def tallies(self, trace: Trace) -> dict[Scope, Tally]:
        """Returns the tallies of everything that is executed, by scope."""
        found: dict[Scope, Tally] = {}
        for item in trace:
            if isinstance(item, Fork):
                _add(found, self.dearest(item))
                continue
            tally, scope = self.executed(item)
            if tally:
                found.setdefault(scope, Tally()).update(tally)
                for loop in item.loops:
                    self.within[loop].update(tally)
        return found

    def loops(self) -> list[Loop]:
        """Returns the loops, outermost first; an unknown trip count is a doubt."""
        for loop in self.values.loops:
            if loop.trips is None:
                self.doubts.add(f"while {loop.instruction}: the trip count is not known; one iteration is counted")
        pairs = sorted(zip(self.values.loops, self.within, strict=True), key=lambda pair: len(pair[0].around))
        return [Loop(one.instruction, of_instruction(one.op_name), one.trips, one.begun, tally) for one, tally in pairs]

    def dearest(self, fork: Fork) -> dict[Scope, Tally]:
        """Returns, for each kind of work, the tallies of the branch that has most."""
        branches = [self.tallies(branch) for branch in fork.branches]
        sums = [total(branch.values()) for branch in branches]
        found: dict[Scope, Tally] = {}
        for kind, of in KINDS.items():
            chosen = branches[max(range(len(sums)), key=lambda i: of(sums[i]))] if branches else {}
            _add(found, {scope: part for scope, tally in chosen.items() if (part := tally.of_kind(kind))})
        if any(of(one) != of(sums[0]) for kind, of in KINDS.items() if kind != BYTES for one in sums):
            self.doubts.add(f"conditional: the dearest of {len(sums)} branches is counted, for each kind of work")
        return found

    def executed(self, item: Executed) -> tuple[Tally, Scope]:
        """Returns the tally of all executions of an instruction, with its marks, and its scope."""
        one, op_name = self.operations(item)
        tally, plain = one.times(item.times), Tally({name: one[name] for name in PRIMITIVES if one[name]})
        if item.seen and one[PRODUCT]:
            tally[PRODUCT + REPEATED] = one[PRODUCT] * item.times
        if item.repeated:
            tally.update({name + REPEATED: number * item.repeated for name, number in plain.items()})
        beside = _primitive(op_name) in BESIDE or self._reciprocal(item.node)
        added = plain if beside else self._in_place(item) or self._filled(item, plain)
        tally.update({name + ADDED: number * (item.times - item.repeated) for name, number in added.items()})
        if item.top and item.one.opcode not in NOTHING:
            tally[BYTES] += self.bytes(item) * item.times
        return tally, of_instruction(op_name)

    def operations(self, item: Executed) -> tuple[Tally, str]:
        """Returns the operations of an instruction, and its name in the program."""
        one = item.one
        if one.opcode in opcodes.FREE:
            return Tally(), one.op_name or item.outer
        if rewritten := self._rewritten(item):
            return rewritten
        operands = self.values.operands(item)
        tally = self.answered(
            one, custom_calls.rule(one, operands) if one.opcode == "custom-call" else self.rule(one, operands)
        )
        if not tally[PRODUCT]:
            return tally, one.op_name or self.values.nearest(item.node) or item.outer
        if any(self._padded(item.node, side) for side in range(min(2, len(operands)))):
            tally[PRODUCT + PADDED] = tally[PRODUCT]
        return tally, one.op_name or self._product_name(item.node) or item.outer

    def rule(self, one: Instruction, operands: Sequence[Instruction]) -> opcodes.Answer | None:
        """Returns the answer of the rule for an opcode, or for the function that a custom call names."""
        if one.opcode == "custom-call":
            return custom_calls.rule(one, operands)
        return opcodes.rule(one, operands, self.body)

    def answered(self, one: Instruction, answer: opcodes.Answer | None) -> Tally:
        """Returns the tally of an answer, whose doubt is noted; no answer is a doubt, too."""
        if answer is None:
            what = f"custom call {one.target or one.name}" if one.opcode == "custom-call" else f"opcode {one.opcode}"
            self.doubts.add(f"{what}: no rule")
            return Tally()
        tally, doubt = answer if isinstance(answer, tuple) else (answer, "")
        self.doubts.update([doubt] if doubt else [])
        return Tally(tally)

    @functools.cache  # noqa: B019 - a walk lives as long as one count
    def body(self, name: str) -> Tally:
        """Returns the cost of applying a computation to one element."""
        home = self.module.computations[name]
        return self._applied(home, home.values())

    def _applied(self, home: Computation, lines: Iterable[Instruction]) -> Tally:
        found = Tally()
        for one in lines:
            found.update(self.answered(one, self.rule(one, [home[operand] for operand in one.operands])))
            if one.opcode in ("fusion", "call"):
                found.update(self.body(next(one.called("calls", "to_apply"))))
        return found

    # ----------------------------------------------------------------------------- products and quotients in disguise

    def _rewritten(self, item: Executed) -> tuple[Tally, str] | None:
        """Returns the tally and name of a multiplication, or a sum, into which the compiler has turned a product."""
        one, node = item.one, item.node
        if one.opcode in FACTORS:
            factor = self._factor(one, node)
            if factor is None:
                return None
            self.products.add(node)
            return Tally({PRODUCT: 2 * one.elements, SHEET_PRODUCT: one.elements}), factor
        if one.opcode not in SUMS or not self._sums_product(node):
            return None
        name = one.op_name or self._product_name(node)
        if name and not opcodes.is_product(name):
            return None
        self.products.add(node)
        into = opcodes.first(self.values.nodes[self.values.nodes[node].operands[0]].one)
        return Tally({SHEET_PRODUCT: into.elements - one.elements}), name

    def _factor(self, one: Instruction, node: int) -> str | None:
        """Returns the name of the product that a multiplication is part of; "" if the name is lost, None if there is no
        product.
        """
        if one.opcode == "select":  # truth values select numbers of the other factor
            return one.op_name if opcodes.is_product(one.op_name) else None
        name = one.op_name or self._product_name(node)
        if opcodes.is_product(name):
            return name
        return None if name or not self._nameless_product(node) else ""

    def _product_name(self, node: int) -> str:
        """Returns the name of the product that a nameless value is part of; "" if there is none."""
        name = self.values.nearest(node, NAMING)
        return name if opcodes.is_product(name) else ""

    def _sums_product(self, node: int) -> bool:
        number = self.values.nodes[node].operands[0]
        while number not in self.products and self.values.nodes[number].one.opcode in MOVES:
            number = self.values.nodes[number].operands[0]
        return number in self.products

    def _nameless_product(self, node: int) -> bool:
        """Tells whether a multiplication whose name is lost stems from a product.

        The compiler loses the names of products of which a side has a dimension of one; then that side is broadcast along
        the other, or the result is summed. Divisors that it makes itself, a / b / c = a / (b c), are nameless too.
        """
        users = self.values.users(node, MOVES)
        if any(user.one.opcode == "divide" for user in users):
            return False
        if any(user.one.opcode in SUMS and not user.op_name for user in users):
            return True
        sides = [self.values.nodes[side] for side in self.values.nodes[node].operands]
        return any(side.one.opcode == "broadcast" and self.values.nodes[side.operands[0]].one.shape for side in sides)

    def _padded(self, node: int, side: int) -> bool:
        """Tells whether a side of a product has been padded with zeros."""
        return self.values.source(self.values.nodes[node].operands[side], FILLING).one.opcode == "pad"

    def _reciprocal(self, node: int) -> bool:
        """Tells whether this is a 1 / x that only multiplies other sides of quotients: each product is then the quotient."""
        found = self.values.nodes[node]
        if found.one.opcode != "divide" or _primitive(found.op_name) != "div":
            return False
        if self.values.source(found.operands[0]).one.inside != "1":
            return False
        users = self.values.users(node, MOVES)
        return bool(users) and all(user.one.opcode == "multiply" and _primitive(user.op_name) == "div" for user in users)

    def _in_place(self, item: Executed) -> Tally:
        """Returns what a sort executes only to leave equal numbers in their order.

        If a processor's sort is not stable by itself, XLA (stable-sort-expander) sorts positions with the numbers. It
        compares both ways round, and the positions if neither is first: select(equal(a < b, b < a), place a < place b, a <
        b).
        """
        one, sides = item.one, self.values.nodes[item.node].operands
        if one.opcode != "sort" or self.values.source(sides[-1]).one.opcode != "iota":
            return Tally()
        home = self.module.computations[next(one.called("to_apply"))]
        order = result(home)
        if order.opcode != "select" or order.operands[2] not in home[order.operands[0]].operands:
            return Tally()
        if {home[name].inside for name in home[order.operands[1]].operands} != {str(2 * len(sides) - i) for i in (1, 2)}:
            return Tally()
        asked = {order.operands[2]}
        for line in reversed(list(home.values())):
            asked.update(line.operands if line.name in asked else ())
        beside = self._applied(home, (line for line in home.values() if line.name not in asked))
        along = one.numbers("dimensions")[0]
        return beside.times(opcodes.comparisons(self.values.operands(item)[0].arrays[0], along))

    def _filled(self, item: Executed, plain: Tally) -> Tally:
        """Returns what a reduction executes only because its input was padded with its own initial value.

        On a GPU, XLA (tree-reduction-rewriter) reduces a long row in two stages; the product of their lengths is the row's
        or more.
        """
        one, sides = item.one, self.values.nodes[item.node].operands
        if one.opcode != "reduce" or len(sides) != 2:
            return Tally()
        pad = self.values.source(sides[0], RESHAPES)
        if pad.one.opcode != "pad" or _primitive(pad.op_name) == "pad":  # a pad of the program itself has its name
            return Tally()
        row, filling, start = (self.values.nodes[number].one for number in (*pad.operands, sides[1]))
        if not filling.inside or filling.inside != start.inside:
            return Tally()
        combined = self.values.nodes[sides[0]].one.elements - one.elements
        return Tally({name: number // combined * (pad.one.elements - row.elements) for name, number in plain.items()})

    # -------------------------------------------------------------------------------------------------- bytes

    def bytes(self, item: Executed) -> int:
        """Returns the bytes that a top-level instruction reads and writes; for an operand from which it takes parts, only
        those parts.
        """
        one, home = item.one, item.home
        if one.opcode in PARTS:
            return 2 * _size(one)
        if one.opcode == "dynamic-update-slice":
            return 2 * _size(home[one.operands[1]])
        if one.opcode != "fusion":
            return _size(one) - _scratch(one) + sum(_size(home[name]) for name in one.operands)
        inside = self.module.computations[next(one.called("calls"))]
        written = sum(_size(_written(root, inside)) for root in _roots(inside))
        return written + sum(_read(parameter, inside) for parameter in inside.values() if parameter.opcode == "parameter")


def _primitive(op_name: str) -> str:
    return op_name.rpartition("/")[2]


def _size(one: Instruction) -> int:
    return sum(array.bytes for array in one.arrays)


def _scratch(one: Instruction) -> int:
    """Returns the bytes that a library is given to work in, as the last part of its result: it need not touch them."""
    if one.opcode != "custom-call" or len(one.arrays) < 2 or not one.target.startswith(("__cublas$", "__cudnn$")):
        return 0
    return one.arrays[-1].bytes if one.arrays[-1].dtype in ("s8", "u8") else 0


def _roots(inside: Computation) -> list[Instruction]:
    """Returns what a fusion returns: its root, or the parts of a tuple."""
    found = result(inside)
    return [inside[name] for name in found.operands] if found.opcode == "tuple" else [found]


def _written(one: Instruction, inside: Computation) -> Instruction:
    """Returns what is written of a result: the part that goes into existing data, or everything."""
    found = one
    while found.opcode == "bitcast":
        found = inside[found.operands[0]]
    return inside[found.operands[1]] if found.opcode == "dynamic-update-slice" else one


def _read(parameter: Instruction, inside: Computation) -> int:
    """Returns the bytes that a fusion reads of an operand: all, or only the parts that it takes if nothing else uses it."""
    names, read = {parameter.name}, 0
    for one in inside.values():
        if names.isdisjoint(one.operands):
            continue
        if one.opcode == "bitcast":
            names.add(one.name)
        elif one.opcode in PARTS and names.isdisjoint(one.operands[1:]):
            read += _size(one)
        elif one.opcode != "dynamic-update-slice" or not names.isdisjoint(one.operands[1:]):
            return _size(parameter)
    return min(read, _size(parameter))


def _add(into: dict[Scope, Tally], more: Mapping[Scope, Tally]) -> None:
    for scope, tally in more.items():
        into.setdefault(scope, Tally()).update(tally)
