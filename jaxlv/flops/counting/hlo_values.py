"""Follows the values of a compiled module through fusions, calls, loops and branches, in the order of execution.

Each value has a number that its opcode, its attributes and the numbers of its operands determine. So an instruction whose
number has been seen before recomputes a known value, as happens when several fusions repeat a small operation instead of
waiting for it. The same holds within a loop for values that depend on nothing that the loop changes: every iteration except
the first recomputes them.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from jaxlv.errors import JaxlvError
from jaxlv.flops.counting.hlo_text import Array, Computation, Instruction, Module, result
from jaxlv.flops.counting.opcodes import ELEMENTWISE, is_product, names

# One value under another name: a copy changes at most its layout.
SAME = names("copy opt-barrier add-dependency domain async-update async-done copy-start copy-done")
MOVES = SAME | names("bitcast reshape transpose convert broadcast reverse slice")  # the same numbers elsewhere
REGIONS = ("to_apply", "select", "scatter", "called_computations")  # computations that an instruction applies to elements
REGION = re.compile(r"\b(" + "|".join(REGIONS) + r")=(\{[^{}]*\}|%?[\w.\-]+)")
# Each execution of these may give another value, or change something outside.
UNIQUE = names("rng rng-get-and-update-state infeed outfeed send recv after-all partition-id replica-id")
ELIDED = "{...}"  # a constant too large to print
SMALL = 64  # numbers of such a constant that may be the same as another one: a table
REACH = 64  # how many values are searched for a name
LIMIT = 5_000_000  # executed lines: more than any program has, fewer than nested calls can make of a short text


@dataclass
class Node:
    """A value: what computes it, from which values, which values are computed from it, and the loops (by number) whose
    iterations give it different values.
    """

    one: Instruction
    operands: tuple[int, ...]
    op_name: str = ""
    users: list[int] = field(default_factory=list)
    varies: frozenset[int] = frozenset()


class Turns(NamedTuple):
    """A loop: its instruction, its name in the program, its trip count (None: unknown), how often it begins, and the numbers
    of the loops around it.
    """

    instruction: str
    op_name: str
    trips: int | None
    begun: int
    around: tuple[int, ...]


class Executed(NamedTuple):
    """An instruction that runs `times` times, within loops (by number). `outer` is the program's name for the fusion or call
    around it; `top` says that it reads and writes memory itself, outside a fusion; `repeated` in how many of these times its
    value was already known, and `seen` that another instruction had computed it.
    """

    one: Instruction
    node: int
    home: Computation
    outer: str
    times: int
    repeated: int
    seen: bool
    top: bool
    loops: tuple[int, ...]


class Fork(NamedTuple):
    """What each branch of a conditional executes."""

    branches: list[Trace]


Trace = list["Executed | Fork"]


@dataclass(frozen=True)
class _Frame:
    """Where a computation is executed from."""

    outer: str = ""
    times: int = 1
    top: bool = True
    silent: bool = False
    loops: tuple[int, ...] = ()
    turns: tuple[tuple[int, int], ...] = ()  # (number, iterations) of each loop around


class Values:
    """The values of a module, its loops, and `trace`, everything that is executed."""

    def __init__(self, module: Module, trips: Callable[[Instruction, str], int | None] = lambda one, op_name: one.trips):
        self.module, self.trips = module, trips
        self.nodes: list[Node] = []
        self.loops: list[Turns] = []
        self.trace: Trace = []
        self._numbers: dict[tuple, int] = {}
        self._seen: set[int] = set()
        self._regions: dict[str, int] = {}
        self._lines = 0
        self._begun = 0  # loops, including those within regions
        entry = module.computations[module.entry]
        arguments = [self._new(one, ()) for one in entry.values() if one.opcode == "parameter"]
        order = [int(self.nodes[node].one.inside) for node in arguments]
        self._run(module.entry, dict(zip(order, arguments, strict=True)), _Frame(), self.trace)
        for number, node in enumerate(self.nodes):
            for operand in dict.fromkeys(node.operands):
                self.nodes[operand].users.append(number)

    def operands(self, executed: Executed) -> list[Instruction]:
        """Returns the instructions whose results are the operands of an instruction."""
        return [executed.home[name] for name in executed.one.operands]

    def source(self, node: int, through: frozenset[str] = MOVES) -> Node:
        """Returns the value that others only move."""
        found = self.nodes[node]
        while found.one.opcode in through and found.operands:
            found = self.nodes[found.operands[0]]
        return found

    def nearest(self, node: int, through: frozenset[str] | None = None) -> str:
        """Returns the name of a value, or of the nearest one with a name that is computed from it; "" if there is none.

        With `through`, only by way of values that these opcodes compute, the named one included.
        """
        waiting, met = [node], {node}
        if self.nodes[node].op_name:
            return self.nodes[node].op_name
        for number in waiting:
            for user in self.nodes[number].users:
                found = self.nodes[user]
                if user in met or (through is not None and found.one.opcode not in through):
                    continue
                if found.op_name:
                    return found.op_name
                met.add(user)
                waiting.append(user)
            if len(met) > REACH:
                break
        return ""

    def users(self, node: int, through: frozenset[str]) -> list[Node]:
        """Returns the values that are computed from this one, skipping those that only move it."""
        found, waiting = [], [node]
        while waiting:
            for user in self.nodes[waiting.pop()].users:
                if self.nodes[user].one.opcode in through:
                    waiting.append(user)
                else:
                    found.append(self.nodes[user])
        return found

    # ------------------------------------------------------------------------------------------ execution

    def _run(self, name: str, arguments: dict[int, int], frame: _Frame, trace: Trace) -> int:
        """Executes a computation; returns the value of its root."""
        home = self.module.computations.get(name)
        if not home:
            raise JaxlvError("a computation is called that does not exist", where="HLO text", found=name)
        known: dict[str, int] = {}
        root, marked = -1, False
        for one in home.values():
            self._lines += 1
            if self._lines > LIMIT:
                raise JaxlvError("endlessly nested calls", where="HLO text", found=name)
            try:
                operands = tuple(known[operand] for operand in one.operands)
            except KeyError as fault:
                raise JaxlvError("an operand that is not defined", where=f"HLO text, {one.name}", found=str(fault)) from None
            if one.opcode == "parameter":
                given = arguments.get(int(one.inside), -1)
                known[one.name] = self._new(one, ()) if given < 0 else given
            else:
                known[one.name] = self._value(one, operands, home, frame, trace)
            if one.root or not marked:  # a text may omit the mark: then the last line is the root
                root, marked = known[one.name], one.root
        return root

    def _value(self, one: Instruction, operands: tuple[int, ...], home: Computation, frame: _Frame, trace: Trace) -> int:
        inner = replace(frame, outer=one.op_name or frame.outer)
        if one.opcode in ("fusion", "call", "async-start"):
            node = self._entered(one, operands, replace(inner, top=frame.top and one.opcode != "fusion"), trace)
        elif one.opcode == "while":
            return self._loop(one, operands, inner, trace)
        elif one.opcode == "conditional":
            return self._conditional(one, operands, inner, trace)
        else:
            node = self._number(one, operands, home)
            if one.opcode in UNIQUE:
                self.nodes[node].varies |= {loop for loop, _ in frame.turns}
        if not frame.silent and not one.opcode.endswith("-done"):
            entered = one.opcode in ("fusion", "call", "async-start")
            seen = not entered and node in self._seen
            repeated = frame.times - (0 if seen else self._different(node, frame))
            trace.append(Executed(one, node, home, frame.outer, frame.times, repeated, seen, frame.top, frame.loops))
            self._seen.add(node)
        return node

    def _different(self, node: int, frame: _Frame) -> int:
        """Returns how many different values, at most, an instruction gives in all iterations of the loops around it."""
        return math.prod(trips for loop, trips in frame.turns if loop in self.nodes[node].varies or not trips)

    def _entered(self, one: Instruction, operands: tuple[int, ...], frame: _Frame, trace: Trace) -> int:
        called = next(one.called("calls", "to_apply", "called_computations"), "")
        return self._run(called, dict(enumerate(operands)), frame, trace)

    def _loop(self, one: Instruction, operands: tuple[int, ...], frame: _Frame, trace: Trace) -> int:
        body, condition = next(one.called("body")), next(one.called("condition"))
        trips = self.trips(one, frame.outer)
        inside = frame
        if not frame.silent:
            self.loops.append(Turns(one.name, frame.outer, trips, frame.times, frame.loops))
            inside = replace(frame, loops=(*frame.loops, len(self.loops) - 1))
        turns = 1 if trips is None else trips
        self._begun += 1
        number = self._begun
        carried = self._carried(one, operands, frozenset({number}))
        for name, times in ((condition, turns + 1), (body, turns)):
            around = (*frame.turns, (number, times))
            self._run(name, {0: carried}, replace(inside, times=frame.times * times, turns=around), trace)
        return self._carried(one, operands, frozenset())

    def _carried(self, one: Instruction, operands: tuple[int, ...], loop: frozenset[int]) -> int:
        """Returns what a loop carries during its iterations or, without `loop`, leaves behind. What its body passes on
        unchanged keeps its number.
        """
        begun = self.nodes[operands[0]]
        if begun.one.opcode != "tuple":
            return self._new(one, operands, loop)
        fixed = _handed_on(self.module.computations[next(one.called("body"))])
        parts = [part if i in fixed else self._new(one, (part,), loop) for i, part in enumerate(begun.operands)]
        return self._new(begun.one, tuple(parts))

    def _conditional(self, one: Instruction, operands: tuple[int, ...], frame: _Frame, trace: Trace) -> int:
        names = list(one.called("branch_computations", "true_computation", "false_computation"))
        branches: list[Trace] = []
        before = self._seen
        for name, operand in zip(names, operands[1:], strict=False):
            self._seen = set(before)
            branches.append([])
            self._run(name, {0: operand}, frame, branches[-1])
        self._seen = before
        trace.append(Fork(branches))
        return self._new(one, operands)

    # -------------------------------------------------------------------------------------------- numbers

    def _new(self, one: Instruction, operands: tuple[int, ...], loop: frozenset[int] = frozenset()) -> int:
        varies = loop.union(*(self.nodes[operand].varies for operand in operands))
        self.nodes.append(Node(one, operands, one.op_name if one.opcode != "parameter" else "", varies=varies))
        return len(self.nodes) - 1

    def _number(self, one: Instruction, operands: tuple[int, ...], home: Computation) -> int:
        if one.opcode == "get-tuple-element" and self.nodes[operands[0]].one.opcode == "tuple":
            return self.nodes[operands[0]].operands[one.number("index")]
        if one.opcode in SAME or one.opcode.endswith("-done"):
            return self._moved(one, operands[0])
        elided = ELIDED in one.inside
        if one.opcode in UNIQUE or "has_side_effect=true" in one.attributes or (elided and one.elements > SMALL):
            return self._new(one, operands)
        before = [array for name in one.operands for array in home[name].arrays]
        if one.opcode in ("bitcast", "reshape") and _same_order(one.arrays, before):
            return self._moved(one, operands[0])
        if elided:
            key: tuple = (ELIDED, one.arrays, _place(one, home))
        elif one.opcode in ELEMENTWISE:  # elementwise results with equally many elements are not distinguished by shape
            key = (one.opcode, one.arrays[0].dtype, one.elements, one.settings, operands)
        elif one.opcode == "broadcast" and (runs := _runs(one)):
            key = (one.opcode, one.arrays[0].dtype, *runs, operands)
        else:
            mine = [*one.arrays, *before]
            types = mine if one.opcode == "bitcast" else [array[:2] for array in mine]  # layouts matter only there
            key = (self._key(one), *types, operands)
        if key not in self._numbers:
            self._numbers[key] = self._new(one, operands)
        node = self._numbers[key]
        self.nodes[node].op_name = self.nodes[node].op_name or one.op_name
        return node

    def _moved(self, one: Instruction, node: int) -> int:
        """Returns a value under another shape. What moves a product has the product's name, which the product itself may
        lack.
        """
        if is_product(one.op_name):
            self.nodes[node].op_name = self.nodes[node].op_name or one.op_name
        return node

    def _key(self, one: Instruction) -> str:
        """Returns opcode and settings, with what its regions compute in place of their names."""
        text = f"{one.opcode} {one.settings}"
        if one.opcode == "custom-call":
            text += str(one.config)
        names = list(one.called(*REGIONS))
        if not names:
            return text
        return REGION.sub("", text) + str([self._region(name) for name in names])

    def _region(self, name: str) -> int:
        """Returns a number for what a computation does to its parameters."""
        if name not in self._regions:
            parameters = [one for one in self.module.computations.get(name, {}).values() if one.opcode == "parameter"]
            arguments: dict[int, int] = {}
            for one in parameters:
                key = ("parameter of a region", one.inside, one.arrays)
                if key not in self._numbers:
                    self._numbers[key] = self._new(one, ())
                arguments[int(one.inside)] = self._numbers[key]
            self._regions[name] = self._run(name, arguments, _Frame(silent=True), [])
        return self._regions[name]


def flat(trace: Sequence[Executed | Fork]) -> Iterator[Executed]:
    """Yields everything that may be executed, every branch included."""
    for item in trace:
        if isinstance(item, Fork):
            for branch in item.branches:
                yield from flat(branch)
        else:
            yield item


def _place(one: Instruction, home: Computation) -> int:
    """Returns the place of a constant among those of its type and shape in its computation that are too large to print.

    A compiler copies a constant into each loop that reads it, and its text does not show that the copies are equal. So a
    table is taken for the one at the same place of another computation.
    """
    alike = [other.name for other in home.values() if ELIDED in other.inside and other.arrays == one.arrays]
    return alike.index(one.name)


def _same_order(made: Sequence[Array], before: Sequence[Array]) -> bool:
    """Tells whether two arrays have the same numbers in the same order, whatever their shapes."""
    return len(made) == len(before) == 1 and (made[0] == before[0] or all(one.in_order for one in (*made, *before)))


def _runs(one: Instruction) -> tuple[tuple[bool, int], ...]:
    """Returns what a broadcast does, whatever the shapes: runs of so many numbers that are kept, or repeated; () if it
    reorders them.
    """
    kept = one.numbers("dimensions")
    if list(kept) != sorted(kept):
        return ()
    sizes = [(i in kept, size) for i, size in enumerate(one.shape) if size != 1]
    runs = itertools.groupby(sizes, key=lambda pair: pair[0])
    return tuple((stays, math.prod(size for _, size in run)) for stays, run in runs) or ((True, 1),)


def _handed_on(body: Computation) -> set[int]:
    """Returns the parts of what a loop carries that its body passes on unchanged."""
    last, found = result(body), set()
    for i, name in enumerate(last.operands if last.opcode == "tuple" else ()):
        one = body[name]
        while one.opcode in ("copy", "bitcast") and one.shape == body[one.operands[0]].shape:
            one = body[one.operands[0]]
        if one.opcode == "get-tuple-element" and body[one.operands[0]].opcode == "parameter" and one.number("index") == i:
            found.add(i)
    return found
