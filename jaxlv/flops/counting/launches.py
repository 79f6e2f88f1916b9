"""What a CUDA device launches to run a compiled module: its kernels one by one, each with its FLOPs and bytes, and the
groups of them that are launched together as a CUDA graph.

A kernel is an instruction of the module that runs by itself: a fusion, a call of a library, a copy, a sort. What only names
a value (parameters, tuples and their parts, bitcasts, constants) is not launched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jaxlv.flops.counting.hlo import NOTHING, Walk, walk
from jaxlv.flops.counting.hlo_text import Instruction
from jaxlv.flops.counting.hlo_values import Executed, Trace
from jaxlv.flops.counting.opcodes import names
from jaxlv.flops.counting.operations import PRODUCT, Tally
from jaxlv.flops.counting.scopes import Scope, of_instruction

SKIPPED = "dot skipped by mask"
NARROW = ("bf16", "f16", "f8e4m3fn", "f8e5m2")
THUNK = re.compile(r"^( *)\d+: (k\w+)")
LAUNCHED = names(
    """
    kKernel kCustomKernel kCustomCall kGemm kCublasLtMatmul kConvolution kCuDnn kCopy kMemset32BitValue kMemzero kCubSort
    kTriangularSolve kCholesky kFft kNorm
    """
)


class Kernel(NamedTuple):
    """One kernel: it runs `times` times, within loops (by number), each time with so many FLOPs of matrix products and so
    many bytes of operands and results. `wide` are those of its FLOPs whose operands are float32.
    """

    name: str
    kind: str  # product, attention, fusion, copy, or the opcode
    scope: Scope
    times: int
    loops: tuple[int, ...]
    flops: int
    wide: int
    bytes: int


class Launches(NamedTuple):
    """The kernels of a module in their order; the numbers of its outermost loops in their order, and of all loops whose
    length the compiler does not know; and doubts, one line each.
    """

    kernels: list[Kernel]
    outermost: list[int]
    unknown: list[int]
    doubts: list[str]


def launches(text: str, trips: int | Mapping[str, int] | None = None) -> Launches:
    """Returns the kernels of a compiled module, from `compiled.as_text()`; `trips` as in `count_hlo`.

    Of a conditional's branches the one with most bytes counts. Raises JaxlvError if the text is not HLO.
    """
    seen = walk(text, trips)
    kernels = list(_kernels(seen, seen.values.trace))
    loops = seen.values.loops
    outermost = [number for number, loop in enumerate(loops) if not loop.around]
    unknown = [number for number, loop in enumerate(loops) if loop.instruction in seen.open_loops]
    seen.loops()  # a loop of unknown length is a doubt
    return Launches(kernels, outermost, unknown, sorted(seen.doubts))


def _kernels(seen: Walk, trace: Trace) -> Iterator[Kernel]:
    inner: list[tuple[Tally, bool, Executed]] = []  # what the fusion that follows contains
    for item in trace:
        if not isinstance(item, Executed):
            branches = [list(_kernels(seen, branch)) for branch in item.branches]
            yield from max(branches, key=lambda branch: sum(one.bytes * one.times for one in branch), default=[])
            continue
        tally, _ = seen.operations(item)
        inner.append((tally, _is_wide(item), item))
        if item.top:
            if item.one.opcode not in NOTHING:
                yield _kernel(seen, item, inner)
            inner = []


def _kernel(seen: Walk, item: Executed, inner: Sequence[tuple[Tally, bool, Executed]]) -> Kernel:
    flops = [(tally[PRODUCT] - tally[SKIPPED], wide, part) for tally, wide, part in inner]
    largest = max(flops, key=lambda one: one[0])
    _, name = seen.operations(largest[2] if largest[0] else item)
    wide = sum(number for number, is_wide, _ in flops if is_wide)
    total = sum(number for number, _, _ in flops)
    kind = _kind(item.one, total > 0)
    return Kernel(item.one.name, kind, of_instruction(name), item.times, item.loops, total, wide, seen.bytes(item))


def _is_wide(item: Executed) -> bool:
    """Tells whether the first operand of an instruction is of a type wider than 16 bits."""
    arrays = item.home[item.one.operands[0]].arrays if item.one.operands else ()
    return bool(arrays) and arrays[0].dtype not in NARROW


def _kind(one: Instruction, product: bool) -> str:
    if "fmha" in one.target:
        return "attention"
    return "product" if product else one.opcode


# ------------------------------------------------------------------------------------------------ graphs


class Graphs(NamedTuple):
    """How a program is launched: CUDA graphs, the kernels in them, and the kernels that are launched one by one."""

    graphs: int
    captured: int
    alone: int


def graphs(thunks: str) -> tuple[Graphs, list[Graphs]]:
    """Reads what XLA writes as NAME.thunk_sequence_after_thunk_passes.txt (`xla_dump_to`): all of a program, and the bodies
    of its outermost loops with their conditions. What a loop launches is counted once.
    """
    whole, loops = _Count(), list[_Count]()
    loop_at, graph_at = -1, -1  # indents of the loop and of the graph that the line is in; -1 outside
    for line in thunks.splitlines():
        if not (found := THUNK.match(line)):
            continue
        indent, kind = len(found[1]), found[2]
        loop_at = -1 if indent <= loop_at else loop_at
        graph_at = -1 if indent <= graph_at else graph_at
        into = [whole, *([loops[-1]] if loop_at >= 0 else [])]
        for count in into:
            count.add(kind, graph_at >= 0)
        if kind == "kCommandBuffer" and graph_at < 0:
            graph_at = indent
        if kind == "kWhile" and loop_at < 0:
            loops.append(_Count())
            loop_at = indent
    return whole.made(), [loop.made() for loop in loops]


class _Count:
    def __init__(self) -> None:
        self.graphs = self.captured = self.alone = 0

    def add(self, kind: str, inside: bool) -> None:
        """Counts a thunk, which may be in a graph."""
        self.graphs += kind == "kCommandBuffer" and not inside
        self.captured += kind in LAUNCHED and inside
        self.alone += kind in LAUNCHED and not inside

    def made(self) -> Graphs:
        return Graphs(self.graphs, self.captured, self.alone)
