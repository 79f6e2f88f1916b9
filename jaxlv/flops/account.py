"""The balance of a FLOP budget after each event of a ledger: what was executed, what is charged for it, and what is left.

Work is counted in pieces: a train step, or one validation or generation, of a run, a phase and a purpose. A process that
dies loses pieces: those that it had reserved but not committed, and those after the checkpoint, or before the result, from
which the next attempt continues. That attempt does them again. A piece that an earlier attempt of the same run has paid for
is a repeat: it is executed and billed, but not charged again if its phase forgives repeats.

* The phase "evaluation" forgives them for work that names the result it is for (its purpose), until that result is kept.
* The other phases forgive them if the terms say `repeats = "beyond"`. Otherwise repeats count against the budget too.

A piece is charged at the price of its commit (the highest, if there are several), or at that of its reservation until an
attempt commits it. So, piece by piece, the balance of an interrupted run equals that of an uninterrupted one; what was
executed beyond what is charged is the excess.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from jaxlv.flops.events import FINAL, Event, Terms


@dataclass
class Entry:
    """A reservation and, once made, its commit: `event` and `flops` are then those of the commit."""

    number: int
    run: str
    attempt: int  # number of processes that have spent on the run, this one included
    phase: str
    event: Event
    flops: int
    committed: bool = False
    purpose: str = ""  # the result that the work is for
    kept: int = 0  # results of this purpose that were kept before
    reserved: Event = field(init=False)  # the event as it was announced; `asked` is its price
    asked: int = field(init=False)

    def __post_init__(self) -> None:
        self.reserved, self.asked = self.event, self.flops


@dataclass(frozen=True)
class Totals:
    """FLOPs: `executed` counts every attempt and what is uncertain, `effective` only the work that survives, `uncertain`
    what was reserved and never committed, `repeated` what was executed again after interruptions.
    """

    executed: int
    effective: int
    uncertain: int
    repeated: int = 0


class Piece(NamedTuple):
    """FLOPs of a piece of work: the largest reservation, what is charged, and the last commit, if any."""

    reserved: int = 0
    charged: int = 0
    committed: int | None = None

    def reserve(self, price: int) -> Piece:
        """Returns the piece with another reservation."""
        if price <= self.reserved:
            return self
        return Piece(price, max(self.charged, price), self.committed)

    def commit(self, reserved: int, price: int) -> Piece:
        """Returns the piece, as it was before a reservation of `reserved` FLOPs, with its commit."""
        charged = price if self.committed is None else max(self.charged, price)
        return Piece(max(self.reserved, reserved), charged, price)


EMPTY = Piece()


class Span(NamedTuple):
    """Steps `first` .. `end` - 1, whose pieces are equal."""

    first: int
    end: int
    piece: Piece


class Lane:
    """The pieces of one kind of work by step: spans in ascending order that do not overlap."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def part(self, first: int, end: int) -> list[Span]:
        """Returns the spans of steps `first` .. `end` - 1; a step without work has an empty piece."""
        if self._ends_before(first):
            return [Span(first, end, EMPTY)]
        if self._ends_with(first, end):
            return self.spans[-1:]
        return _part(self._from(first), first, end)

    def put(self, spans: Sequence[Span]) -> None:
        """Replaces the steps that adjoining spans cover."""
        if not spans:
            return
        first, end = spans[0].first, spans[-1].end
        if self._ends_with(first, end):
            self.spans.pop()
        if self._ends_before(first):  # the usual case
            _append(self.spans, spans)
            return
        low = max(0, bisect.bisect_left(self.spans, (first,)) - 1)  # the span before these, which may have the same piece
        high = bisect.bisect_left(self.spans, (end,), low)
        held = self.spans[low:high]
        kept = [Span(span.first, min(span.end, first), span.piece) for span in held if span.first < first]
        kept += [*spans, *(Span(max(span.first, end), span.end, span.piece) for span in held if span.end > end)]
        merged: list[Span] = []
        _append(merged, (span for span in kept if span.first < span.end))
        self.spans[low:high] = merged

    def _ends_before(self, step: int) -> bool:
        return not self.spans or self.spans[-1].end <= step

    def _ends_with(self, first: int, end: int) -> bool:
        return bool(self.spans) and self.spans[-1].first == first and self.spans[-1].end == end

    def _from(self, step: int) -> Iterator[Span]:
        place = self._before(step)
        while place < len(self.spans):
            yield self.spans[place]
            place += 1

    def _before(self, step: int) -> int:
        """Returns the place of the last span that begins at a step or before it."""
        return max(0, bisect.bisect_right(self.spans, (step, math.inf)) - 1)


def _part(spans: Iterable[Span], first: int, end: int) -> list[Span]:
    found = []
    for span in spans:
        if span.first >= end:
            break
        if span.end > first:
            if span.first > first:
                found.append(Span(first, span.first, EMPTY))
            found.append(Span(max(first, span.first), min(end, span.end), span.piece))
            first = found[-1].end
    return [*found, Span(first, end, EMPTY)] if first < end else found


def _append(found: list[Span], spans: Iterable[Span]) -> None:
    """Appends spans to others; two that adjoin and have equal pieces become one."""
    for span in spans:
        if found and found[-1].end == span.first and found[-1].piece == span.piece:
            span = Span(found.pop().first, span.end, span.piece)
        found.append(span)


class _Open(NamedTuple):
    """A reservation that is not committed: its work, its lane, its price and that of a step, and the spans before it."""

    work: tuple
    lane: Lane
    flops: int
    price: int
    before: list[Span]


class _Attempt:
    """What the present attempt of a run has reserved, by the kind of work."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.laps: Counter[tuple] = Counter()  # how often its steps began anew
        self.ends: dict[tuple, int] = {}  # the step after the last one reserved
        self.places: Counter[tuple] = Counter()  # validations and generations, by step


class Account:
    """The balance under `terms`, kept up to date event by event; without terms, only a count of what was done."""

    def __init__(self, terms: Terms | None = None):
        self.terms = terms
        self.executed: Counter[str] = Counter()  # by phase
        self.charged: Counter[str] = Counter()
        self.effective = self.uncertain = self._total = 0
        self._lanes: dict[_Place, Lane] = {}
        self._open: dict[int, _Open] = {}  # by the number of the entry
        self._attempts: dict[str, _Attempt] = {}  # by run

    def forgives(self, phase: str) -> bool:
        """Tells whether repeats are not charged to a phase."""
        return phase == FINAL or (self.terms is not None and self.terms.repeats == "beyond")

    def spent(self, phase: str) -> int:
        """Returns the FLOPs of a phase that count against the budget."""
        return self.charged[phase] if self.forgives(phase) else self.executed[phase]

    def total(self) -> int:
        """Returns the FLOPs of all phases that count against the budget."""
        return self._total

    def left(self, phase: str) -> int:
        """Returns the FLOPs that may still be spent in a phase."""
        assert self.terms is not None
        left = self.terms.budget - self.total()
        if phase != FINAL:  # what is held back and not yet spent stays reserved
            left -= max(0, self.terms.held_back - self.spent(FINAL))
        if phase in self.terms.envelopes:
            left = min(left, self.terms.envelopes[phase] - self.spent(phase))
        return max(0, left)

    def need(self, entry: Entry, flops: int) -> int:
        """Returns the FLOPs that a reservation takes from what is left: all, or those of pieces that are not paid for
        yet.
        """
        if not self.forgives(entry.phase):
            return flops
        (first, end), price = _steps(entry.reserved), _price(entry.reserved, flops)
        spans = self._lanes.get(self._lane(entry, _work(entry)), Lane()).part(first, end)
        return sum((span.end - span.first) * (span.piece.reserve(price).charged - span.piece.charged) for span in spans)

    def reserve(self, entry: Entry, flops: int) -> None:
        """Counts a reservation."""
        work = _work(entry)
        key = self._lane(entry, work)
        lane = self._lanes.get(key) or self._lanes.setdefault(key, Lane())
        self._advance(entry, work)
        (first, end), price = _steps(entry.reserved), _price(entry.reserved, flops)
        before = lane.part(first, end)
        self._put(lane, entry.phase, [Span(a, b, piece.reserve(price)) for a, b, piece in before], before)
        self._open[entry.number] = _Open(work, lane, flops, price, before)
        self._execute(entry.phase, flops)
        self.uncertain += flops

    def commit(self, entry: Entry, event: Event, flops: int) -> None:
        """Counts the commit of a reservation: steps after the last one done were not begun."""
        work, lane, reserved, price, before = self._open.pop(entry.number)
        (first, end), last, done = _steps(event), _steps(entry.reserved)[1], _price(event, flops)
        ran, rest = (_part(before, first, end), _part(before, end, last)) if end < last else (before, [])
        spans = [Span(a, b, piece.commit(price, done)) for a, b, piece in ran]
        self._put(lane, entry.phase, [*spans, *rest], lane.part(first, last))
        attempt = self._attempts[entry.run]
        if attempt.number == entry.attempt and event.kind == "train_step" and attempt.ends[work] == last:
            attempt.ends[work] = end  # unless the block after it is reserved already
        self._execute(entry.phase, flops - reserved)
        self.uncertain -= reserved

    def totals(self) -> Totals:
        """Returns what has been counted so far."""
        executed = self.executed.total()
        return Totals(executed, self.effective, self.uncertain, executed - self.charged.total())

    def told_repeats(self) -> str:
        """Returns in words what was executed again after interruptions; "" if nothing was."""
        counted, budget = self.totals(), self.terms.budget if self.terms else 0
        if not counted.repeated:
            return ""
        excess = counted.executed - budget
        beyond = f"; with them {excess:,} FLOPs more than the budget were executed" if self.terms and excess > 0 else ""
        return f"repeated after interruptions: {counted.repeated:,} FLOPs of {counted.executed:,}{beyond}"

    def _execute(self, phase: str, flops: int) -> None:
        self.executed[phase] += flops
        self._total += 0 if self.forgives(phase) else flops

    def _put(self, lane: Lane, phase: str, spans: list[Span], instead_of: list[Span]) -> None:
        charged = effective = 0
        for sign, some in ((-1, instead_of), (1, spans)):
            for first, end, piece in some:
                charged += sign * (end - first) * piece.charged
                effective += sign * (end - first) * (piece.committed or 0)
        self.charged[phase] += charged
        self._total += charged if self.forgives(phase) else 0
        self.effective += effective
        lane.put(spans)

    def _lane(self, entry: Entry, work: _Work) -> _Place:
        """Returns the lane of an entry not yet counted. What an attempt does again without an interruption is more work, not
        a repeat.
        """
        attempt = self._attempts.get(entry.run)
        if entry.phase == FINAL and not entry.purpose:
            return _Place(work, "entry", entry.number)  # a lane of its own: never a repeat
        if attempt is None or attempt.number != entry.attempt:
            return _Place(work, "place", 0)
        if entry.reserved.kind == "train_step":
            return _Place(work, "place", attempt.laps[work] + (entry.reserved.step < attempt.ends.get(work, 0)))
        return _Place(work, "place", attempt.places[work, entry.reserved.step])

    def _advance(self, entry: Entry, work: _Work) -> None:
        """Notes what the attempt of an entry has reserved with it."""
        attempt, event = self._attempts.get(entry.run), entry.reserved
        if attempt is None or attempt.number != entry.attempt:
            attempt = self._attempts[entry.run] = _Attempt(entry.attempt)
        if event.kind == "train_step":
            attempt.laps[work] += event.step < attempt.ends.get(work, 0)
            attempt.ends[work] = event.step + event.count
        else:
            attempt.places[work, event.step] += 1


class _Work(NamedTuple):
    """What entries that may be repeats of each other have in common."""

    run: str
    phase: str
    purpose: str
    kept: int
    kind: str


class _Place(NamedTuple):
    """Which lane of some work an entry lies in: its own, by its number, or the one of its place."""

    work: _Work
    by: Literal["entry", "place"]
    number: int


def _work(entry: Entry) -> _Work:
    return _Work(entry.run, entry.phase, entry.purpose, entry.kept, entry.reserved.kind)


def _steps(event: Event) -> tuple[int, int]:
    """Returns the first step of an event and the one after its last; a validation or a generation is one piece at its
    step.
    """
    return event.step, event.step + (event.count if event.kind == "train_step" else 1)


def _price(event: Event, flops: int) -> int:
    """Returns the FLOPs of a piece of an event: the steps of a block cost the same."""
    return flops // max(1, event.count) if event.kind == "train_step" else flops


def totals(entries: Iterable[Entry], price: Callable[[Event, int], int]) -> Totals:
    """Returns the totals of entries, in their order, given a price for each event and what is recorded for it."""
    account = Account()
    for entry in entries:
        account.reserve(entry, price(entry.reserved, entry.asked))
        if entry.committed:
            account.commit(entry, entry.event, price(entry.event, entry.flops))
    return account.totals()
