"""How far the elementwise work of a compiled program may be from what was asked for: a rule without a tolerance.

XLA changes what it executes, but each change leaves a trace. In the compiled text: an operation that several fusions repeat,
a reciprocal that replaces many divisions, indices, partial sums (" repeated", " added": hlo.py). In the jaxpr: what is asked
for twice, or computed again in the backward pass, what constants decide (" again", " either", " folded": again.py), and what
JAX's lowering adds to a primitive (" lowered").
So

    executed - repeated - added  <=  asked - again + lowered            nothing is computed that nobody asked for
    executed  >=  asked - again - either - folded                       nothing that was asked for is missing

for each place and each kind of work, up to SCALARS operations on single numbers. Casts are left out if the compute type is
narrower than a processor's arithmetic: then XLA puts casts before and after every operation.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple

from jaxlv.flops.counting.operations import (
    ADDED,
    AGAIN,
    EITHER,
    FOLDED,
    LOWERED,
    PLAIN,
    REPEATED,
    TRANSCENDENTAL,
    Tally,
)
from jaxlv.flops.counting.scopes import Scope

SCALARS = 16  # operations on single numbers: a step's count, a norm, the bias correction of an optimiser
CAST = "convert"
KINDS: Mapping[str, tuple[str, ...]] = {
    "elementwise": tuple(name for name in PLAIN if name != CAST),
    "transcendental": TRANSCENDENTAL,
    "casts": (CAST,),
}


class Row(NamedTuple):
    """Operations of one kind in one place: asked for and executed, and which of both explain a difference."""

    place: Hashable
    kind: str
    asked: int
    again: int
    folded: int
    lowered: int
    executed: int
    repeated: int
    added: int
    either: int = 0

    @property
    def excess(self) -> int:
        """Operations that are executed without any explanation; 0 if all are explained."""
        found = self.executed - self.repeated - self.added - (self.asked - self.again + self.lowered)
        return found if found > SCALARS else 0

    @property
    def missing(self) -> int:
        """Operations that were asked for, are not executed, and could not be left out."""
        found = self.asked - self.again - self.either - self.folded - self.executed
        return found if found > SCALARS else 0

    @property
    def holds(self) -> bool:
        """Tells whether the rule holds here."""
        return not self.excess and not self.missing


def compared(
    asked: Mapping[Scope, Tally],
    spared: Mapping[Scope, Tally],
    executed: Mapping[Scope, Tally],
    place: Callable[[Scope], Hashable],
    casts: bool = True,
) -> list[Row]:
    """Compares counts of a jaxpr, of what it could be spared (again.py), and of the compiled text, by places of scopes.

    A compiler may execute a value that is asked for twice under either name, so a place should contain both what is
    recomputed and what it repeats. `casts` is False if the compute type is narrower than the processor's arithmetic.
    """
    three = [_placed(tallies, place) for tallies in (asked, spared, executed)]
    names = {kind: names for kind, names in KINDS.items() if casts or kind != "casts"}
    rows = []
    for where in dict.fromkeys(key for tallies in three for key in tallies):
        wanted, left, done = (tallies.get(where, Tally()) for tallies in three)
        for kind, of in names.items():
            numbers = (
                _sum(wanted, of), *(_sum(left, of, mark) for mark in (AGAIN, FOLDED, LOWERED)),
                *(_sum(done, of, mark) for mark in ("", REPEATED, ADDED)), _sum(left, of, EITHER),
            )  # fmt: skip
            if any(numbers):
                rows.append(Row(where, kind, *numbers))
    return rows


def _sum(tally: Tally, names: tuple[str, ...], mark: str = "") -> int:
    return sum(tally[name + mark] for name in names)


def _placed(tallies: Mapping[Scope, Tally], place: Callable[[Scope], Hashable]) -> dict[Hashable, Tally]:
    found: dict[Hashable, Tally] = {}
    for scope, tally in tallies.items():
        found.setdefault(place(scope), Tally()).update(tally)
    return found
