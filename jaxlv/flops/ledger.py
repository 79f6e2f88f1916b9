"""A FLOP budget that is enforced: every piece of work is reserved before it runs and committed afterwards.

The ledger is a file of JSON lines, each on disk before the work that it announces begins. Its first line fixes the budget,
the convention in which it is counted, the model, what is held back for the final evaluation, the envelopes of phases, and
whether repeats after interruptions are paid within the budget or beyond it. The others are reservations and commits of
events with their shapes, so that any convention can be recomputed later, and results that were kept. Totals are never
stored: they are computed by replaying the file (jaxlv.flops.account). Work that was reserved and never committed, because
the process died, is counted as executed and shown as uncertain.

Lines are chained by hash. With each commit and each kept result the head of the chain is written to a file beside the ledger
and, if the ledger is in another folder, to one in the folder of the run (jaxlv.storage.chain).
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from jaxlv import processes
from jaxlv.errors import JaxlvError
from jaxlv.flops.account import Entry, Totals
from jaxlv.flops.book import VERSION, Book, Reader, begun, checked, is_part, noted, padding, read, read_book, totals, verify
from jaxlv.flops.events import FINAL, Event, Kind, Terms
from jaxlv.storage.chain import Chain, head_of
from jaxlv.storage.door import is_there
from jaxlv.storage.lines import Busy

TURN = 0.02  # seconds between two looks whether a shared ledger is free

__all__ = [
    "FINAL", "Book", "BudgetExceeded", "Entry", "Event", "Kind", "Ledger", "Meter", "Payer", "SharedLedger", "Terms",
    "Totals", "begun", "checked", "noted", "other_terms", "padding", "read", "read_book", "totals", "verify",
]  # fmt: skip


class BudgetExceeded(JaxlvError):
    """The next piece of work does not fit into what is left."""


def other_terms(path: Path) -> JaxlvError:
    """Returns the error for a ledger that began with other terms."""
    return JaxlvError("the budget is not the one that the ledger began with", where=path, hint="begin a new one")


class Ledger:
    """The ledger in a file, open for writing by one process at a time; use it in a `with` statement."""

    def __init__(self, path: Path, terms: Terms | None = None, run: str = "run", *, head: Path | None = None):
        """Begins a ledger with `terms`, or continues the one in `path`, whose terms then hold. `head` is the run's own head
        file, in addition to the ledger's.

        Raises JaxlvError if another process has it open, if it is damaged before its last line, if lines are missing that a
        head knows of (all of them, if it was deleted), or if it began with other terms than `terms`.
        """
        self.path, self.run = Path(path), run
        self._chain: Chain | None = None
        self._heads: dict[str, Path] = {}  # of runs, in addition to the ledger's
        self.book = self._open(terms, head)
        try:
            if terms is not None and terms != self.terms:
                raise other_terms(self.path)
            self.follow(run, head)
        except BaseException:
            self.close()
            raise
        self._before = Counter(self.book.attempts)  # attempts of each run before this one

    def follow(self, run: str, head: Path | None) -> None:
        """Keeps the head in a run's own file, too. Raises JaxlvError if the ledger lacks lines that this file knows of."""
        if self._chain is not None:
            if head is not None and head != head_of(self.path):
                self._chain.expect(head)
                self._heads[run] = head
            self._mark(run)

    @property
    def terms(self) -> Terms:
        """What was fixed when the ledger began."""
        return self.book.terms

    @property
    def entries(self) -> list[Entry]:
        """Every reservation so far."""
        return self.book.entries

    def _open(self, terms: Terms | None, head: Path | None) -> Book:
        if terms is None and not is_there(self.path):
            return read_book(self.path)  # raises: there is nothing to continue
        reader = Reader(self.path)
        self._chain = Chain(self.path, reader, filter(None, [head]))
        try:
            if book := reader.finished(self._chain.found):
                return book
            if terms is None:
                raise JaxlvError("an empty ledger", where=self.path)
            self._write(_header(terms))
        except BaseException:
            self.close()
            raise
        return Book(terms)

    def turn(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context in which nobody else writes; nobody ever does to a ledger that is open."""
        return contextlib.nullcontext()

    # ------------------------------------------------------------------------------- reserve, run, commit

    def reserve(self, event: Event, phase: str, run: str = "", purpose: str = "") -> Entry:
        """Announces work of a run (by default the ledger's own) before it runs; raises BudgetExceeded if it does not fit.

        `purpose` names the result that it is for. What an earlier attempt has paid for is a repeat (jaxlv.flops.account).
        """
        if event.count < 1:
            raise JaxlvError("a reservation of no work", where=self.path, found=event.kind)
        flops = event.flops(self.terms.model, self.terms.convention)
        entry = self._entry(event, flops, phase, run, purpose)
        left = self.left(phase)
        need = self.book.account.need(entry, flops)
        if not processes.agreed(need <= left):
            raise BudgetExceeded(
                f"the budget does not hold {_describe(event)}",
                where=self.path,
                expected=f"at most {left:.6g} FLOPs left for {phase} ({self.terms.convention})",
                found=f"{need:.6g}",
                hint=self.bought(),
            )
        told = {"purpose": purpose} if purpose else {}
        self._write(
            {"reserve": entry.number, "run": entry.run, "attempt": entry.attempt, "phase": phase, **told,
             "event": event.tree(), "flops": flops}
        )  # fmt: skip
        self.book.reserve(entry)
        return entry

    def _entry(self, event: Event, flops: int, phase: str, run: str = "", purpose: str = "") -> Entry:
        run = run or self.run
        kept = self.book.kept[run, phase, purpose]
        return Entry(len(self.entries), run, self._before[run] + 1, phase, event, flops, purpose=purpose, kept=kept)

    def commit(self, entry: Entry, measured: Event | None = None) -> None:
        """Records that reserved work has run, as reserved or as `measured`, which must not cost more."""
        event = measured or entry.event
        flops = event.flops(self.terms.model, self.terms.convention)
        if flops > entry.flops or not is_part(event, entry.reserved):
            what = "more was done than reserved, or other work"
            raise JaxlvError(what, where=self.path, expected=f"{entry.flops:,} FLOPs", found=f"{flops:,}")
        self._write({"commit": entry.number, "event": event.tree(), "flops": flops})
        self.book.commit(entry, event, flops)
        self._mark(entry.run)

    def keep(self, phase: str, purpose: str, run: str = "") -> None:
        """Records that the result of a purpose is on disk: from here on, the same work is more work, not a repeat."""
        run = run or self.run
        self._write({"keep": purpose, "run": run, "phase": phase})
        self.book.kept[run, phase, purpose] += 1
        self._mark(run)

    def left(self, phase: str) -> int:
        """Returns the FLOPs that may still be spent in a phase."""
        return self.book.account.left(phase)

    def fitting(self, events: Sequence[Event], phase: str, runs: Sequence[str] = ()) -> int:
        """Returns how many times, up to their common `count`, all the events fit together. Each belongs to one of `runs`, by
        default to the ledger's own.
        """
        runs, most, left = runs or [""] * len(events), events[0].count, self.left(phase)

        def need(count: int) -> int:
            some = [replace(event, count=count) for event in events]
            prices = [event.flops(self.terms.model, self.terms.convention) for event in some]
            entries = (self._entry(*one[:2], phase, one[2]) for one in zip(some, prices, runs, strict=True))
            return sum(map(self.book.account.need, entries, prices))

        # More repetitions need more FLOPs, so the first number that does not fit is found by bisection.
        return processes.agreed(bisect.bisect_right(range(1, most + 1), left, key=need))

    def totals(self) -> Totals:
        """Returns what has been spent, in the budget's convention."""
        return self.book.account.totals()

    def bought(self) -> str:
        """Returns in words what the budget has bought."""
        steps = sum(entry.event.count for entry in self.entries if entry.event.kind == "train_step")
        spent, budget = self.totals().executed, self.terms.budget
        share = f" ({spent / budget:.1%})" if budget else ""
        return f"spent so far: {spent:.4g} of {budget:.4g}{share}, {steps} train steps"

    # ------------------------------------------------------------------------------------------ the file

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._chain is not None:
            self._chain.add(record)

    def _mark(self, run: str) -> None:
        """Writes the head beside the ledger, and the one in a run's folder."""
        if self._chain is not None:
            for place in filter(None, (head_of(self.path), self._heads.get(run))):
                self._chain.mark(place)

    def close(self) -> None:
        """Closes the files."""
        if self._chain is not None:
            self._chain.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class SharedLedger(Ledger):
    """A ledger that several processes write to: each has it open for one operation at a time, and waits for its turn."""

    def __init__(self, path: Path, terms: Terms | None = None, run: str = "run", *, head: Path | None = None):
        self._patiently(lambda: super(SharedLedger, self).__init__(path, terms, run, head=head))
        self.close()

    @staticmethod
    def _patiently(do: Callable[[], Any]) -> Any:
        while True:
            try:
                return do()
            except Busy:
                time.sleep(TURN)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Keeps the file open until the body ends, and reads first what others have written."""
        if self._chain is not None:
            yield
            return
        self.book = self._patiently(lambda: self._open(None, None))
        try:
            yield
        finally:
            self.close()

    def close(self) -> None:
        """Closes the files."""
        super().close()
        self._chain = None

    def follow(self, run: str, head: Path | None) -> None:
        """As `Ledger.follow`."""
        with self.turn():
            super().follow(run, head)

    def reserve(self, event: Event, phase: str, run: str = "", purpose: str = "") -> Entry:
        """As `Ledger.reserve`."""
        with self.turn():
            return super().reserve(event, phase, run, purpose)

    def commit(self, entry: Entry, measured: Event | None = None) -> None:
        """As `Ledger.commit`."""
        with self.turn():
            super().commit(self.book.entries[entry.number], measured)

    def keep(self, phase: str, purpose: str, run: str = "") -> None:
        """As `Ledger.keep`."""
        with self.turn():
            super().keep(phase, purpose, run)

    def fitting(self, events: Sequence[Event], phase: str, runs: Sequence[str] = ()) -> int:
        """As `Ledger.fitting`; what fits may be gone unless both are within one `turn`."""
        with self.turn():
            return super().fitting(events, phase, runs)


class Payer(Protocol):
    """What pays for work."""

    def spend(self, kind: Kind, **shape: Any) -> contextlib.AbstractContextManager[dict[str, Any]]:
        """Reserves work, runs it in the body, commits it; what the body puts into the dictionary replaces the shape."""


@dataclass(frozen=True)
class Meter:
    """A ledger as the code that does the work sees it: for one run and phase, with the model's adapters filled in."""

    ledger: Ledger
    phase: str
    template: Event
    run: str = ""  # "" means the ledger's own
    purpose: str = ""  # the result that the work is for

    def event(self, kind: Kind, **shape: Any) -> Event:
        """Returns an event of this meter's model."""
        return self.template.of_kind(kind, **shape)

    @contextlib.contextmanager
    def spend(self, kind: Kind, **shape: Any) -> Iterator[dict[str, Any]]:
        """Reserves work, runs it in the body, commits it; what the body puts into the dictionary replaces the shape."""
        entry = self.ledger.reserve(self.event(kind, **shape), self.phase, self.run, self.purpose)
        measured: dict[str, Any] = {}
        yield measured
        self.ledger.commit(entry, replace(entry.event, **measured))


def _header(terms: Terms) -> dict[str, Any]:
    return {"ledger": VERSION, **dataclasses.asdict(terms)}


def _describe(event: Event) -> str:
    name = event.kind.replace("_", " ")
    return f"{event.count} {name}{'s' if event.count > 1 else ''} of {event.batch} x {event.length} tokens"
