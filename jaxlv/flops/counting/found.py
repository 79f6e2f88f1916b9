"""What a walk through a program finds: operations by scope, its loops, and what it could not know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jaxlv.errors import JaxlvError
from jaxlv.flops.counting.operations import Tally, total
from jaxlv.flops.counting.scopes import Scope


class Loop(NamedTuple):
    """A loop of the program.

    `place` is "file.py:12" in a jaxpr and an instruction's name in HLO. `trips` is how often the body runs each time the
    loop begins, None if unknown (then it is counted once); `begun` is how often the loop begins. `tally` holds the
    operations of all its iterations, including those of loops inside it.
    """

    place: str
    scope: Scope
    trips: int | None
    begun: int
    tally: Tally


class Found(NamedTuple):
    """Operations by scope; loops, outermost first; doubts, one line each."""

    tallies: dict[Scope, Tally]
    loops: list[Loop]
    doubts: list[str]

    def add(self, more: Found) -> None:
        """Adds what was found elsewhere; each doubt is kept once."""
        for scope, tally in more.tallies.items():
            self.tallies.setdefault(scope, Tally()).update(tally)
        self.loops.extend(more.loops)
        self.doubts.extend(doubt for doubt in more.doubts if doubt not in self.doubts)

    def times(self, count: int) -> Found:
        """Returns what `count` repetitions find."""
        loops = [loop._replace(begun=count * loop.begun, tally=loop.tally.times(count)) for loop in self.loops]
        return Found({scope: tally.times(count) for scope, tally in self.tallies.items()}, loops, list(self.doubts))

    def total(self) -> Tally:
        """Returns the sum over all scopes."""
        return total(self.tallies.values())


def nothing() -> Found:
    """Returns an empty result, to be added to."""
    return Found({}, [], [])


class Trips:
    """How often loops of unknown length run: one number for all, or a number by scope name or place.

    A key names a loop if it is its place ("file.py:12"), its scope ("decoder/step") or the end of its scope ("step"); a
    place has priority over a scope, a long name over a short one. Raises JaxlvError if a number is not a whole number of at
    least 0.
    """

    def __init__(self, given: int | Mapping[str, int] | None):
        self.everywhere = given if isinstance(given, int) else None
        self.by_name = dict(given) if isinstance(given, Mapping) else {}
        self.used: set[str] = set()
        wrong = given is not None and not isinstance(given, (int, Mapping))
        for trips in (*self.by_name.values(), *([given] if isinstance(given, int) else [])):
            wrong = wrong or isinstance(trips, bool) or not isinstance(trips, int) or trips < 0
        if wrong:
            raise JaxlvError(
                "the trip count of a loop", where="trips", expected="an int of at least 0, or a mapping of such by loop",
                found=repr(given),
            )  # fmt: skip

    def of(self, scope: Scope, places: Iterable[str]) -> int | None:
        """Returns the trip count of a loop in a scope, at any of some places; None if none was given."""
        found = self.named(scope, places)
        return self.everywhere if found is None else found

    def named(self, scope: Scope, places: Iterable[str]) -> int | None:
        """Returns the trip count that was given for a loop by its name; None if none was given."""
        names = [*places, *("/".join(scope.path[start:]) for start in range(len(scope.path)))]
        for name in names:
            if name in self.by_name:
                self.used.add(name)
                return self.by_name[name]
        return None

    def unused(self) -> list[str]:
        """Returns the keys that did not name any loop."""
        return sorted(self.by_name.keys() - self.used)
