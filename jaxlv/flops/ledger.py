"""A FLOP budget that is enforced: every piece of work is reserved before it runs and committed after it has.

The ledger is a file of JSON lines, each on disk before the work that it announces begins. Its first line fixes the budget,
the convention in which it is counted, the model, what is held back for the final evaluation and the envelopes of phases;
the others are reservations and commits of events with their shapes, so that any convention can be recomputed later. Totals
are never stored: they are the replay of the file. Work that was reserved but never committed, because the process died, is
counted as spent and shown as uncertain.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jaxlv.config import build_config
from jaxlv.errors import JaxlvError
from jaxlv.flops.table import count, find, generation
from jaxlv.flops.work import HeadKind, Train, Work
from jaxlv.model.config import ModelConfig
from jaxlv.storage import lines
from jaxlv.storage.files import is_at

FINAL = "evaluation"  # the phase that what is held back belongs to
VERSION = 2
MOST_FLOPS = 10**30  # of a budget
MOST_SIZE, MOST_COUNT = 1 << 40, 10**6  # of what an event may say: batch, length, ..., and how often
Kind = Literal["train_step", "validation", "generation"]


class BudgetExceeded(JaxlvError):
    """The next piece of work does not fit into what is left."""


@dataclass(frozen=True)
class Event:
    """Work with its shapes: `count` train steps of `accumulate` micro-batches, validation batches, or generations.

    A generation reads `batch` prompts of `length` tokens and makes `new_tokens` tokens in `samples` continuations of each,
    by as many iterations of a loop that attends to `slots` slots, reached in stages of `stage`. `step` is the first step,
    or the step at which it ran.
    """

    kind: Kind
    batch: int
    length: int
    count: int = 1
    step: int = 0
    rank: int = 0
    targets: tuple[str, ...] = ()
    head: HeadKind = "frozen"
    train: Train = "adapters"
    kernel: str = "xla"
    accumulate: int = 1
    samples: int = 1
    new_tokens: int = 0
    slots: int = 0
    stage: int = 0
    cached: bool = True

    def work(self, model: ModelConfig) -> Work:
        """One batch of it."""
        return Work(model, self.batch, self.length, self.rank, self.targets, self.head, self.train, self.kernel)

    def flops(self, model: ModelConfig, convention: str) -> int:
        """Its price."""
        return self.count * _price_of_one(replace(self, count=1, step=0), model, convention)

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Event:
        """An event as the file has it; JaxlvError where it can be none."""
        event: Event = build_config(cls, tree, where="event")
        sizes = [value for value in vars(event).values() if isinstance(value, int)]
        if not all(0 <= size <= MOST_SIZE for size in sizes) or event.count > MOST_COUNT:
            raise JaxlvError("sizes of an event that cannot be", where="event", found=str(tree)[:80])
        return event


@functools.lru_cache(maxsize=1024)
def _price_of_one(event: Event, model: ModelConfig, convention: str) -> int:
    work = event.work(model)
    if event.kind == "train_step":
        return event.accumulate * count(work, convention).total_train_step
    if event.kind == "validation":
        return sum(row.count for row in count(work, convention).rows if row.phase == "forward")
    return generation(
        work,
        event.new_tokens,
        convention,
        cached=event.cached,
        slots=event.slots if event.cached else None,
        stage=event.stage,
        samples=event.samples,
    )


@dataclass(frozen=True)
class Terms:
    """What is fixed when a ledger begins. `held_back` FLOPs are for the phase "evaluation" alone."""

    budget: int
    convention: str
    model: ModelConfig
    held_back: int = 0
    envelopes: dict = field(default_factory=dict)  # FLOPs by phase

    def __post_init__(self) -> None:
        find(self.convention)
        for name, value in self.envelopes.items():
            if not isinstance(name, str) or type(value) is not int or not 0 <= value <= MOST_FLOPS:
                raise JaxlvError("must be a number of FLOPs", where=f"budget.phases.{name}", found=repr(value)[:80])
        if not 1 <= self.budget <= MOST_FLOPS:
            raise JaxlvError("must be positive", where="budget.flops", found=self.budget)
        if not 0 <= self.held_back <= self.budget:
            raise JaxlvError("must be within the budget", where="budget.held_back", found=self.held_back)
        if sum(self.envelopes.values()) > self.budget:
            raise JaxlvError(
                "the phases together exceed the budget",
                where="budget.phases",
                expected=f"at most {self.budget:.4g}",
                found=f"{sum(self.envelopes.values()):.4g}",
            )


@dataclass
class Entry:
    """A reservation, and its commit once there is one."""

    number: int
    run: str
    attempt: int
    phase: str
    event: Event
    flops: int
    committed: bool = False


@dataclass(frozen=True)
class Totals:
    """FLOPs: `executed` counts every attempt and what is uncertain, `effective` the surviving lineage alone."""

    executed: int
    effective: int
    uncertain: int


class Ledger:
    """The ledger in a file, open for writing by one process at a time; use it with `with`."""

    def __init__(self, path: Path, terms: Terms | None = None, run: str = "run", *, writes: bool = True):
        """Begin a ledger with `terms`, or go on with the one in `path`, whose terms then hold.

        JaxlvError where another process has it open, where it is damaged before its last line, and where `terms` are not
        those that it began with. With `writes` False (processes other than the first) nothing is written.
        """
        self.path, self.run, self.writes = Path(path), run, writes
        self._file: Any = None
        if not writes:
            self.terms, self.entries = read(self.path)
        else:
            self._open(terms)
        if terms is not None and terms != self.terms:
            self.close()
            raise JaxlvError("the budget is not the one that the ledger began with", where=self.path, hint="begin a new one")
        self._spent: Counter[str] = Counter()
        for entry in self.entries:
            self._spent[entry.phase] += entry.flops
        self._before: Counter[str] = Counter()  # attempts of each run before this one
        for entry in self.entries:
            self._before[entry.run] = max(self._before[entry.run], entry.attempt)

    def _open(self, terms: Terms | None) -> None:
        if terms is None and not self.path.is_file():
            raise JaxlvError("no ledger", where=self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise JaxlvError("another process writes this ledger", where=self.path, hint="wait for it to end") from None
        try:
            records = lines.mend(self._file, self.path)
            if records:
                self.terms, self.entries = _read(records, self.path)
        except JaxlvError:
            self.close()
            raise
        if not records:
            assert terms is not None
            self.terms, self.entries = terms, []
            self._write(_header(terms))

    # ------------------------------------------------------------------------------- reserve, run, commit

    def reserve(self, event: Event, phase: str, run: str = "") -> Entry:
        """Announce work of a run, by default the ledger's own, before it runs; BudgetExceeded where it does not fit."""
        flops = event.flops(self.terms.model, self.terms.convention)
        left = self.left(phase)
        if flops > left:
            raise BudgetExceeded(
                f"the budget does not hold {_describe(event)}",
                where=self.path,
                expected=f"at most {left:.6g} FLOPs left for {phase} ({self.terms.convention})",
                found=f"{flops:.6g}",
                hint=self.bought(),
            )
        run = run or self.run
        entry = Entry(len(self.entries), run, self._before[run] + 1, phase, event, flops)
        self._write(
            {"reserve": entry.number, "run": entry.run, "attempt": entry.attempt, "phase": phase, "event": _tree(event),
             "flops": flops}
        )  # fmt: skip
        self.entries.append(entry)
        self._spent[phase] += flops
        return entry

    def commit(self, entry: Entry, measured: Event | None = None) -> None:
        """Say that reserved work has run, as reserved or as `measured`, which must not cost more."""
        event = measured or entry.event
        flops = event.flops(self.terms.model, self.terms.convention)
        if flops > entry.flops:
            raise JaxlvError("more was done than reserved", where=self.path, expected=f"{entry.flops:,}", found=f"{flops:,}")
        self._write({"commit": entry.number, "event": _tree(event), "flops": flops})
        self._spent[entry.phase] += flops - entry.flops
        entry.event, entry.flops, entry.committed = event, flops, True

    def left(self, phase: str) -> int:
        """FLOPs that may still be spent in a phase."""
        left = self.terms.budget - self._spent.total()
        if phase != FINAL:  # what is held back and not yet spent stays so
            left -= max(0, self.terms.held_back - self._spent[FINAL])
        if phase in self.terms.envelopes:
            left = min(left, self.terms.envelopes[phase] - self._spent[phase])
        return max(0, left)

    def fitting(self, events: Sequence[Event], phase: str) -> int:
        """How many times (their common `count`, at most) all the events fit together."""
        once = sum(replace(event, count=1).flops(self.terms.model, self.terms.convention) for event in events)
        return min(events[0].count, self.left(phase) // once) if once else events[0].count

    def totals(self) -> Totals:
        """What has been spent, in the budget's convention."""
        return totals(self.entries)

    def bought(self) -> str:
        """What the budget has bought, in words."""
        steps = sum(entry.event.count for entry in self.entries if entry.event.kind == "train_step")
        spent = self.totals().executed
        return f"spent so far: {spent:.4g} of {self.terms.budget:.4g} ({spent / self.terms.budget:.1%}), {steps} train steps"

    # ------------------------------------------------------------------------------------------ the file

    def _write(self, record: Mapping[str, Any]) -> None:
        if self.writes:
            if not is_at(self.path, self._file.fileno()):
                raise JaxlvError("the ledger was removed, renamed or replaced while a process wrote it", where=self.path)
            self._file.write(lines.encode(record))
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


@dataclass(frozen=True)
class Meter:
    """A ledger as the code that does the work sees it: of one run and phase, with the model's adapters filled in."""

    ledger: Ledger
    phase: str
    template: Event
    run: str = ""  # "" = the ledger's own

    def event(self, kind: Kind, **shape: Any) -> Event:
        """An event of this meter's model."""
        return replace(self.template, kind=kind, **shape)

    @contextlib.contextmanager
    def spend(self, kind: Kind, **shape: Any) -> Iterator[dict[str, Any]]:
        """Reserve work, run it in the body, commit it; what the body puts into the dictionary replaces the shape."""
        entry = self.ledger.reserve(self.event(kind, **shape), self.phase, self.run)
        measured: dict[str, Any] = {}
        yield measured
        self.ledger.commit(entry, replace(entry.event, **measured))


# ------------------------------------------------------------------------------------------------- reading


def read(path: Path) -> tuple[Terms, list[Entry]]:
    """The terms and entries of a ledger, up to a torn last line; JaxlvError where a line before it is damaged."""
    if not Path(path).is_file():
        raise JaxlvError("no readable ledger (no such file)", where=path)
    return _read(lines.read(path), path)


def _read(records: Sequence[Mapping[str, Any]], path: Path) -> tuple[Terms, list[Entry]]:
    terms: Terms | None = None
    entries: list[Entry] = []
    for number, record in enumerate(records, 1):
        try:
            if terms is None:
                terms = _terms(record)
            elif "reserve" in record:
                entries.append(
                    Entry(
                        record["reserve"], record["run"], record["attempt"], record["phase"],
                        Event.from_tree(record["event"]), int(record["flops"]),
                    )
                )  # fmt: skip
                _check(entries[-1])
                if entries[-1].number != len(entries) - 1:
                    raise ValueError("reservations are not in order")
            else:
                entry = entries[record["commit"]]
                if entry.committed:
                    raise ValueError("a reservation is committed twice")
                entry.event, entry.flops, entry.committed = Event.from_tree(record["event"]), int(record["flops"]), True
        except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError, JaxlvError) as fault:
            raise JaxlvError(
                f"damaged line ({type(fault).__name__}: {str(fault)[:200]})", where=f"{path}, line {number}"
            ) from None
    if terms is None:
        raise JaxlvError("an empty ledger", where=path)
    return terms, entries


def _check(entry: Entry) -> None:
    """ValueError for an entry whose values are of another kind."""
    for name, kind in (("number", int), ("attempt", int), ("flops", int), ("run", str), ("phase", str)):
        if type(getattr(entry, name)) is not kind or (kind is int and not 0 <= getattr(entry, name) < 1 << 80):
            raise ValueError(f"{name} is {getattr(entry, name)!r}")


def totals(entries: list[Entry], model: ModelConfig | None = None, convention: str | None = None) -> Totals:
    """The totals of entries as recorded, or recomputed under another convention."""

    def price(entry: Entry) -> int:
        return entry.flops if convention is None or model is None else entry.event.flops(model, convention)

    lineage: dict[tuple[str, str, str, int, int], int] = {}
    placed: Counter[tuple[str, int, str, str, int]] = Counter()  # pieces of work that an attempt did at one step
    for entry in entries:
        if entry.committed:
            event = entry.event
            key = entry.run, entry.attempt, entry.phase, event.kind, event.step
            # An evaluation is never resumed: a second one is more work, not the same again.
            place = entry.number if entry.phase == FINAL else placed[key]
            placed[key] += 1
            for step in range(event.step, event.step + event.count):
                lineage[entry.run, entry.phase, event.kind, step, place] = price(entry) // event.count
    prices = [price(entry) for entry in entries]
    uncertain = sum(flops for entry, flops in zip(entries, prices, strict=True) if not entry.committed)
    return Totals(sum(prices), sum(lineage.values()), uncertain)


def verify(path: Path) -> list[str]:
    """What does not add up in a ledger, one line each: prices recomputed from shapes, sums, overruns, open reservations."""
    terms, entries = read(path)
    found = []
    for entry in entries:
        flops = entry.event.flops(terms.model, terms.convention)
        if flops != entry.flops:
            found.append(f"entry {entry.number}: {entry.flops:,} FLOPs recorded, {flops:,} by its shapes")
    spent = sum(entry.flops for entry in entries)
    if spent > terms.budget:
        found.append(f"overrun: {spent:,} spent of {terms.budget:,}")
    for phase, limit in terms.envelopes.items():
        used = sum(entry.flops for entry in entries if entry.phase == phase)
        if used > limit:
            found.append(f"overrun in {phase}: {used:,} of {limit:,}")
    open_entries: dict[tuple[str, int], int] = {}
    for entry in entries:
        if not entry.committed:
            key = entry.run, entry.attempt
            open_entries[key] = open_entries.get(key, 0) + 1
    found += [
        f"run {run}, attempt {attempt}: {number} reservations without a commit, at most one can be"
        for (run, attempt), number in open_entries.items()
        if number > 1
    ]
    return found


def _header(terms: Terms) -> dict[str, Any]:
    return {"ledger": VERSION, **dataclasses.asdict(terms)}


def _terms(record: Mapping[str, Any]) -> Terms:
    if record["ledger"] != VERSION:
        raise ValueError(f"version {record['ledger']}")
    return build_config(Terms, {key: value for key, value in record.items() if key != "ledger"}, where="terms")


def _tree(event: Event) -> dict[str, Any]:
    defaults = {f.name: f.default for f in dataclasses.fields(Event)}
    return {name: value for name, value in dataclasses.asdict(event).items() if value != defaults[name]}


def _describe(event: Event) -> str:
    name = event.kind.replace("_", " ")
    return f"{event.count} {name}{'s' if event.count > 1 else ''} of {event.batch} x {event.length} tokens"
