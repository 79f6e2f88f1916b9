"""What `jaxlv.flops.count` returns: the figures of four counters, by scope, by loop, by device, and why they differ."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxlv.errors import JaxlvError
from jaxlv.flops.counting import words
from jaxlv.flops.counting.found import Loop
from jaxlv.flops.counting.operations import BYTES, Tally, total
from jaxlv.flops.counting.scopes import Scope

PHASES = ("forward", "recomputed", "backward")


@dataclass(frozen=True)
class Node:
    """A scope: its own work by phase, and the scopes inside it."""

    name: str
    path: str
    own: Mapping[str, Tally]  # by phase of differentiation: forward, recomputed, backward
    children: Mapping[str, Node]

    def tally(self, phase: str | None = None) -> Tally:
        """Returns operations by name, including scopes inside; of one phase, or of all."""
        own = [tally for one, tally in self.own.items() if phase in (None, one)]
        return total([*own, *(child.tally(phase) for child in self.children.values())])

    @property
    def products(self) -> int:
        """FLOPs of matrix products and convolutions."""
        return self.tally().products()

    @property
    def elementwise(self) -> int:
        """Elementwise operations, each counted as 1."""
        return self.tally().elementwise()

    @property
    def transcendental(self) -> int:
        """Transcendental operations, each counted as 1."""
        return self.tally().transcendental()

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return self.tally().bytes()

    def phases(self) -> list[str]:
        """Returns the phases in which there is work here or inside."""
        return [phase for phase in PHASES if any(self.tally(phase).values())]

    def walk(self, depth: int | None = None) -> Iterator[Node]:
        """Yields this scope and those inside it, `depth` levels deep, parents before children."""
        yield self
        if depth != 0:
            for child in self.children.values():
                yield from child.walk(None if depth is None else depth - 1)


@dataclass(frozen=True)
class Counts:
    """What one counter found, on all devices together.

    `products` are FLOPs of matrix products and convolutions, two for each pair that is multiplied and added. `elementwise`
    and `transcendental` are operations on elements, each counted as 1; `flops` is products and elementwise together, the
    only such figure that XLA gives. `bytes` are read and written: in a jaxpr by each equation, in HLO by each instruction. A
    figure is None if the counter does not know it. `doubts` say in words what the figures leave out or guess; without doubts
    they can be trusted.
    """

    counter: str
    products: int | None
    elementwise: int | None
    flops: int | None
    transcendental: int | None
    bytes: int | None
    doubts: tuple[str, ...] = ()
    devices: int = 1
    scopes: Mapping[Scope, Tally] = field(default_factory=dict, repr=False)
    loops: tuple[Loop, ...] = ()

    @property
    def everything(self) -> int | None:
        """Every operation: products in FLOPs, the others as 1 each."""
        return None if self.flops is None or self.transcendental is None else self.flops + self.transcendental

    @property
    def per_device(self) -> dict[str, float | None]:
        """The figures of one device: the totals divided by the number of devices. In HLO that is what one device executes; a
        jaxpr does not say how work is shared, so there it is each device's part if all have the same.
        """
        figures = {name: getattr(self, name) for name in ("products", "elementwise", "flops", "transcendental", "bytes")}
        return {name: None if said is None else _divided(said, self.devices) for name, said in figures.items()}

    @functools.cached_property
    def tree(self) -> Node:
        """The scopes of the program as the author named them, from the outermost in; for the jaxpr and the HLO."""
        return tree(self.scopes)

    def at(self, path: str) -> Node:
        """Returns the scope of a path such as "encoder/Dense_0". Raises JaxlvError if there is no such scope."""
        node = self.tree
        for name in path.split("/"):
            if name not in node.children:
                inside = ", ".join(node.children) or "no scope"
                raise JaxlvError("no such scope", where=path, expected=f"{inside} in {node.path or 'the function'}")
            node = node.children[name]
        return node


def counted(counter: str, tallies: Mapping[Scope, Tally], loops: Any, doubts: Any, devices: int = 1) -> Counts:
    """Returns the figures of a walk over a program."""
    t = total(tallies.values())
    flops = t.products() + t.elementwise()
    return Counts(
        counter, t.products(), t.elementwise(), flops, t.transcendental(), t.get(BYTES), tuple(doubts),
        devices, tallies, tuple(loops),
    )  # fmt: skip


def tree(scopes: Mapping[Scope, Tally]) -> Node:
    """Returns scopes as a tree, in the order in which they first have work."""

    def node(path: tuple[str, ...]) -> Node:
        inside = dict.fromkeys(scope.path[len(path)] for scope in scopes if scope.path[: len(path)] == path != scope.path)
        own: dict[str, Tally] = {scope.phase: tally for scope, tally in scopes.items() if scope.path == path}
        return Node(path[-1] if path else "", "/".join(path), own, {name: node((*path, name)) for name in inside})

    return node(())


def _divided(figure: int, devices: int) -> float:
    return figure // devices if figure % devices == 0 else figure / devices


@dataclass(frozen=True)
class Part:
    """A scope under a roofline: operations and bytes of one device, and the seconds that each needs at least."""

    scope: str
    operations: float
    bytes: float
    compute_seconds: float
    memory_seconds: float

    @property
    def seconds(self) -> float:
        """The longer of the two times, as computing and moving overlap."""
        return max(self.compute_seconds, self.memory_seconds)

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.operations / self.bytes if self.bytes else math.inf

    @property
    def bound(self) -> str:
        """What limits it: "compute" or "memory"."""
        return "compute" if self.compute_seconds >= self.memory_seconds else "memory"


@dataclass(frozen=True)
class Roofline:
    """The least time that a function takes on one device, in total (`whole`) and scope by scope (`parts`)."""

    counter: str
    flops_per_s: float
    bytes_per_s: float
    whole: Part
    parts: tuple[Part, ...]

    @property
    def seconds(self) -> float:
        """The seconds of the whole function, whose scopes may overlap."""
        return self.whole.seconds

    def table(self) -> str:
        """Returns the roofline as text."""
        return words.roofline(self)

    __str__ = table

    def _repr_html_(self) -> str:
        return words.html(self.table())


@dataclass(frozen=True)
class Result:
    """The counts of one function: as the jaxpr asks for them, as the compiler left them, and two by XLA."""

    function: str
    target: str  # what it was compiled for, in words
    devices: int
    jaxpr: Counts
    hlo: Counts
    xla_lowered: Counts
    xla_compiled: Counts
    once: Counts = field(repr=False)  # the jaxpr with the body of each loop counted once, as XLA counts it

    @property
    def counters(self) -> tuple[Counts, ...]:
        """The four counters' figures, in the order in which a program becomes executable."""
        return self.jaxpr, self.hlo, self.xla_lowered, self.xla_compiled

    @property
    def loops(self) -> tuple[Loop, ...]:
        """The loops of the jaxpr with their trip counts."""
        return self.jaxpr.loops

    def table(self, depth: int | None = None) -> str:
        """Returns the result as text: counters, scopes (`depth` levels), loops and doubts."""
        return words.table(self, depth)

    __str__ = table

    def _repr_html_(self) -> str:
        return words.html(self.table())

    def explain(self) -> str:
        """Returns what makes the counters differ, a line for each reason with its size."""
        return "\n".join(words.explain(self))

    def frame(self) -> Any:
        """Returns a pandas.DataFrame with a row for each counter, scope and phase, and the columns counter, scope, phase,
        products, elementwise, flops, transcendental, bytes. XLA's figures have no scope. Raises JaxlvError without pandas.
        """
        try:
            import pandas as pd
        except ImportError:
            raise JaxlvError(
                "frame() needs pandas", where="jaxlv.flops", hint="pip install pandas, or use table()"
            ) from None
        rows = [row for c in (self.jaxpr, self.hlo) for row in _rows(c)]
        for c in (self.xla_lowered, self.xla_compiled):
            rows.append(_Row(c.counter, "", "", c.products, c.elementwise, c.flops, c.transcendental, c.bytes))
        return pd.DataFrame(rows, columns=_Row._fields).astype(dict.fromkeys(_Row._fields[3:], "Int64"))

    def as_json(self) -> dict[str, Any]:
        """Returns the result as JSON: counters with their figures and doubts, scopes and loops of the jaxpr and the HLO."""
        return {"function": self.function, "target": self.target, "devices": self.devices} | {
            c.counter: _json(c) for c in self.counters
        }

    def roofline(self, flops_per_s: float, bytes_per_s: float) -> Roofline:
        """Returns the least time of the function on devices that each do `flops_per_s` operations and move `bytes_per_s`
        bytes a second.

        Operations are products, elementwise and transcendental ones together: those of the HLO if it was compiled, otherwise
        those of the jaxpr, whose bytes are an upper bound. Raises JaxlvError if a rate is not a positive number.
        """
        for name, rate in (("flops_per_s", flops_per_s), ("bytes_per_s", bytes_per_s)):
            if not (isinstance(rate, (int, float)) and 0 < rate < math.inf):
                raise JaxlvError(f"{name} is not a rate", where="roofline", expected="a positive number", found=rate)
        counts = self.hlo if self.hlo.products is not None and self.hlo.bytes else self.jaxpr

        def part(scope: str, tally: Tally) -> Part:
            operations, moved = tally.everything() / counts.devices, tally.bytes() / counts.devices
            return Part(scope, operations, moved, operations / flops_per_s, moved / bytes_per_s)

        nodes = [node for node in counts.tree.walk() if node.own]
        parts = tuple(part(node.path or "(no scope)", total(node.own.values())) for node in nodes)
        return Roofline(counts.counter, flops_per_s, bytes_per_s, part("all", counts.tree.tally()), parts)


class _Row(NamedTuple):
    """A row of a frame."""

    counter: str
    scope: str = ""
    phase: str = ""
    products: int | None = None
    elementwise: int | None = None
    flops: int | None = None
    transcendental: int | None = None
    bytes: int | None = None


def _rows(counts: Counts) -> Iterator[_Row]:
    if counts.products is None:
        yield _Row(counts.counter)
    for scope, t in counts.scopes.items():
        flops, moved = t.products() + t.elementwise(), t.bytes() if counts.bytes is not None else None
        of_each = (t.products(), t.elementwise(), flops, t.transcendental(), moved)
        yield _Row(counts.counter, str(scope), scope.phase, *of_each)


def _json(counts: Counts) -> dict[str, Any]:
    figures = {name: getattr(counts, name) for name in ("products", "elementwise", "flops", "transcendental", "bytes")}
    scopes = [
        {"scope": str(scope), "phase": scope.phase} | {name: number for name, number in sorted(tally.items()) if number}
        for scope, tally in counts.scopes.items()
    ]
    loops = [
        {"place": loop.place, "scope": str(loop.scope), "trips": loop.trips, "begun": loop.begun,
         "products": loop.tally.products(), "everything": loop.tally.everything()}
        for loop in counts.loops
    ]  # fmt: skip
    return figures | {"per_device": counts.per_device, "doubts": list(counts.doubts), "scopes": scopes, "loops": loops}
