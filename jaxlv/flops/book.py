"""What the file of a ledger says: read record by record, and verified."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxlv.config import build_config
from jaxlv.errors import JaxlvError
from jaxlv.flops import account
from jaxlv.flops.account import Account, Entry, Totals
from jaxlv.flops.events import FINAL, Event, Terms
from jaxlv.model.config import ModelConfig
from jaxlv.storage import chain
from jaxlv.storage.lines import Content

VERSION, READ = 4, (2, 3, 4)  # of the file: what is written, what is read
CHAINED = 4  # the first version in which all lines are chained
MOST_NAMED = 20  # reservations that a verification names


class Book:
    """What a ledger says: its terms, its entries, the balance after the last of them, and what was not covered."""

    def __init__(self, terms: Terms):
        self.terms, self.account = terms, Account(terms)
        self.entries: list[Entry] = []
        self.attempts: Counter[str] = Counter()  # by run
        self.kept: Counter[tuple[str, str, str]] = Counter()  # results, by run, phase and purpose
        self.uncovered: list[tuple[Entry, int]] = []  # reservations that exceeded the budget, and by how much
        self.version = VERSION
        self.lacks = ""  # what a ledger of an older version lacks, in words
        self.torn = ""  # what was dropped from its end, in words
        self.behind = ""  # in words, that its heads are older than the ledger

    def reserve(self, entry: Entry) -> None:
        """Adds a reservation."""
        lacking = self.account.need(entry, entry.flops) - self.account.left(entry.phase)
        if lacking > 0:
            self.uncovered.append((entry, lacking))
        self.account.reserve(entry, entry.flops)
        self.attempts[entry.run] = entry.attempt
        self.entries.append(entry)

    def commit(self, entry: Entry, event: Event, flops: int) -> None:
        """Adds the commit of a reservation."""
        self.account.commit(entry, event, flops)
        entry.event, entry.flops, entry.committed = event, flops, True

    def read(self, record: Mapping[str, Any]) -> None:
        """Adds a record of the file; raises ValueError, KeyError and the like if it says something impossible."""
        if "reserve" in record:
            self.reserve(self._entry(record))
        elif "keep" in record:
            self.kept[_text(record["run"]), _text(record["phase"]), _text(record["keep"])] += 1
        else:
            entry = self.entries[_whole(record["commit"])]
            event, flops = Event.from_tree(record["event"], entry.reserved), _whole(record["flops"])
            if entry.committed or entry.attempt != self.attempts[entry.run]:
                raise ValueError("a reservation is committed twice, or by another attempt")
            if flops > entry.flops or not is_part(event, entry.reserved):
                raise ValueError("more was done than reserved, or other work")
            self.commit(entry, event, flops)

    def _entry(self, record: Mapping[str, Any]) -> Entry:
        run, phase, purpose = _text(record["run"]), _text(record["phase"]), _text(record.get("purpose", ""))
        event, flops = Event.from_tree(record["event"]), _whole(record["flops"])
        number, attempt = _whole(record["reserve"]), _whole(record["attempt"])
        if number != len(self.entries):
            raise ValueError("reservations are not in order")
        if attempt not in (self.attempts[run] or 1, self.attempts[run] + 1):
            raise ValueError("attempts are not in order")
        if not event.count:
            raise ValueError("a reservation of no work")
        return Entry(number, run, attempt, phase, event, flops, purpose=purpose, kept=self.kept[run, phase, purpose])


def is_part(done: Event, reserved: Event) -> bool:
    """Tells whether `done` can be what was done of a reservation: training may end after fewer steps, a generation after
    fewer tokens.
    """
    if done is reserved or done == reserved:
        return True
    most = {"train_step": "count", "generation": "new_tokens"}.get(done.kind)
    if most is None or getattr(done, most) > getattr(reserved, most):
        return False
    return replace(done, **{most: getattr(reserved, most)}) == reserved


def read_book(path: Path, heads: Iterable[Path] = ()) -> Book:
    """Reads a ledger, up to a torn last line. Raises JaxlvError if an earlier line is damaged, if lines are missing that its
    head or one of the others in `heads` (jaxlv.storage.chain) knows of, or if there is no ledger.
    """
    found = begun(path, heads)
    if found is None:
        raise JaxlvError("an empty ledger" if Path(path).exists() else "no ledger", where=path)
    return found


def begun(path: Path, heads: Iterable[Path] = ()) -> Book | None:
    """Reads a ledger as `read_book` does; returns None if there never was one, or if the process that began it died before
    its first line was complete.
    """
    reader = Reader(Path(path))
    return reader.finished(chain.scan(Path(path), reader, heads))


def read(path: Path) -> tuple[Terms, list[Entry]]:
    """Returns the terms and entries of a ledger, as `read_book` reads them."""
    found = read_book(path)
    return found.terms, found.entries


class Reader:
    """Builds a book from records, the first of which holds the terms. Raises JaxlvError, with the line, for an impossible
    one.
    """

    def __init__(self, path: Path):
        self.path, self._line = path, 0
        self._marks = 0, 0  # the last two lines after which the head was written
        self.book: Book | None = None

    def __call__(self, record: Mapping[str, Any]) -> None:
        self._line += 1
        try:
            if self.book is None:
                self.book = Book(_terms(record))
                self.book.version = record["ledger"]
            else:
                self.book.read(record)
                if "reserve" not in record:
                    self._marks = self._marks[1], self._line
        except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError, JaxlvError) as fault:
            what = f"damaged line ({type(fault).__name__}: {str(fault)[:200]})"
            raise JaxlvError(what, where=f"{self.path}, line {self._line}") from None

    def finished(self, content: Content) -> Book | None:
        """Returns the book, with what the file lacks; None if there was no record. Raises JaxlvError if lines are not
        chained although the ledger's version chains them.
        """
        if self.book is not None:
            if content.unchained and self.book.version >= CHAINED:
                raise JaxlvError("damaged lines (not chained)", where=f"{self.path}, line 1", hint="restore the file")
            self.book.lacks = _lacking(content)
            self.book.torn = (
                f"{content.torn} bytes after the last line are not a line: torn off, or added" if content.torn else ""
            )
            self.book.behind = self._behind(content)
        return self.book

    def _behind(self, content: Content) -> str:
        """Returns in words that the head is too old, or "". The head is written after each commit, before anything else, so
        only the last line may lack it.
        """
        before, last = self._marks
        known = last if last < self._line else before
        if known <= max(content.reached, content.unchained):
            return ""
        return f"the head knows of line {content.reached}, but one was written after line {known}: it is an older copy"


def _lacking(content: Content) -> str:
    """Returns in words what a ledger lacks whose first lines were written before version 4."""
    if not content.unchained:
        return ""
    words = f"lines 1 to {content.unchained} were written before lines were chained: "
    if content.marked:
        return f"{words}changes made in them before the head knew of line {content.marked} are not detected"
    return f"{words}a line changed with its checksum is not detected, nor are lines cut off the end"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"not a text: {value!r}")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 80:
        raise ValueError(f"not a possible whole number: {value!r}")
    return value


def totals(entries: Iterable[Entry], model: ModelConfig | None = None, convention: str | None = None) -> Totals:
    """Returns the totals of entries as recorded, or recomputed under another convention."""
    if model is None or convention is None:
        return account.totals(entries, lambda event, flops: flops)
    return account.totals(entries, lambda event, flops: event.flops(model, convention))


def padding(entries: Iterable[Entry], model: ModelConfig, convention: str) -> int:
    """Returns the FLOPs of entries that are executed only because something is padded."""
    return sum(entry.event.padding(model, convention) for entry in entries)


def verify(path: Path) -> list[str]:
    """Returns what does not add up in a ledger, one line each; raises JaxlvError as `read_book` does."""
    return checked(read_book(path))


def noted(book: Book) -> list[str]:
    """Returns what to know about a ledger although it is not wrong, one line each: what was torn off its end, what an older
    version lacks.
    """
    return [*filter(None, [book.lacks, book.torn])]


def checked(book: Book) -> list[str]:
    """Returns what does not add up in a ledger, one line each: prices recomputed from shapes, reservations that exceeded the
    budget when they were made, sums, open reservations, heads that are too old. Repeats that the terms forgive are not an
    overrun.
    """
    terms, balance, found = book.terms, book.account, [*filter(None, [book.behind])]
    for entry in book.entries:
        told = [(entry.reserved, entry.asked), (entry.event, entry.flops)]
        as_reserved = entry.event is entry.reserved and entry.flops == entry.asked
        for event, recorded in told[:1] if as_reserved else told:
            if (flops := event.flops(terms.model, terms.convention)) != recorded:
                found.append(f"entry {entry.number}: {recorded:,} FLOPs recorded, {flops:,} by its shapes")
    for entry, lacking in book.uncovered[:MOST_NAMED]:
        found.append(f"overrun: entry {entry.number} takes {lacking:,} FLOPs more than were left for {entry.phase}")
    spent, free = balance.total(), terms.budget - terms.held_back
    limits = [("", spent, terms.budget), (" of what is not held back", spent - balance.spent(FINAL), free)]
    limits += [(f" in {phase}", balance.spent(phase), limit) for phase, limit in terms.envelopes.items()]
    found += [f"overrun{where}: {used:,} spent of {limit:,}" for where, used, limit in limits if used > limit]
    return found + [
        f"run {run}, attempt {attempt}: {len(left)} reservations without a commit, at most one can be, "
        "or two blocks of steps that adjoin"
        for (run, attempt), left in _left_open(book.entries).items()
        if len(left) > 1 and not (len(left) == 2 and _adjoin(left[0].event, left[1].event))
    ]


def _left_open(entries: Iterable[Entry]) -> dict[tuple[str, int], list[Entry]]:
    """Returns the reservations without a commit, by run and attempt."""
    found: dict[tuple[str, int], list[Entry]] = {}
    for entry in entries:
        if not entry.committed:
            found.setdefault((entry.run, entry.attempt), []).append(entry)
    return found


def _adjoin(first: Event, second: Event) -> bool:
    """Tells whether two events are a block of train steps and the block after it, which is reserved before the first one
    ends.
    """
    return first.kind == second.kind == "train_step" and second.step == first.step + first.count


def _terms(record: Mapping[str, Any]) -> Terms:
    if record["ledger"] not in READ:
        raise ValueError(f"version {record['ledger']}")
    return build_config(Terms, {key: value for key, value in record.items() if key != "ledger"}, where="terms")
