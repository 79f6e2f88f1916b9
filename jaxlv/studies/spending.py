"""What a FLOP budget has been spent on: the work of each run and phase in a ledger, priced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jaxlv.flops import ledger
from jaxlv.flops.ledger import Book, Entry, Totals
from jaxlv.flops.table import find
from jaxlv.results.quantities import Quantity
from jaxlv.runs import verification


@dataclass(frozen=True)
class Spent:
    """The work of one kind that a run did in a phase."""

    run: str
    phase: str
    work: str
    count: int | None
    flops: Mapping[str, int]  # by convention
    share: float | None  # of the budget, under its own convention
    repeated: int | None  # FLOPs of work done again after interruptions, under the budget's convention

    @property
    def words(self) -> str:
        """Returns the kind of work in words."""
        return self.work.replace("_", " ")


@dataclass(frozen=True)
class Spending:
    """A ledger's work by run, phase and kind, and its sums under each of `conventions`, the budget's own first."""

    book: Book
    conventions: Sequence[str]
    rows: Sequence[Spent]
    totals: Totals
    flops: Mapping[str, int]  # executed, by convention
    padding: Mapping[str, int]  # of these, what is executed only because something is padded
    share: float  # of the budget

    @property
    def sums(self) -> list[Spent]:
        """Returns the work of all runs together, and what of it is padding, if there is any."""
        whole = Spent("all", "", "", None, self.flops, self.share, self.totals.repeated)
        padding = Spent("padding", "", "", None, self.padding, None, None)
        return [whole, padding] if any(self.padding.values()) else [whole]

    @property
    def columns(self) -> list[Quantity]:
        """Returns what is told of each row."""
        named = {"run": "run", "phase": "phase", "words": "work"}
        return [
            *(Quantity(key, words, form="words") for key, words in named.items()),
            Quantity("count", form="count"),
            *(Quantity(name, f"FLOPs ({name})", form="whole", path=("flops", name)) for name in self.conventions),
            Quantity("share", "share %", form="share"),
            Quantity("repeated", form="whole"),
        ]

    def tree(self) -> dict[str, object]:
        """Returns it as JSON."""
        terms = self.book.terms
        return {
            "budget": terms.budget,
            "convention": terms.convention,
            "held_back": terms.held_back,
            "envelopes": dict(terms.envelopes),
            "rows": [asdict(row) for row in self.rows],
            "repeats": terms.repeats,
            "totals": asdict(self.totals),
            "padding": self.padding,
        }

    def told(self) -> list[str]:
        """Returns lines that say what the rows add up to; "" for one that does not apply."""
        terms, spent = self.book.terms, self.totals
        return [
            f"budget {terms.budget:.6g} FLOPs ({terms.convention}), {terms.held_back:.6g} held back for the evaluation",
            f"effective {spent.effective:,}: what the surviving steps cost",
            f"uncertain {spent.uncertain:,}: reserved, and never committed",
            self.book.account.told_repeats(),
            *(f"note: {note}" for note in ledger.noted(self.book)),
        ]


def spending(place: Path, conventions: Sequence[str] = ()) -> Spending:
    """Returns what the ledger of a run folder, of a folder of runs, or in a file was spent on.

    Work is also priced under `conventions`, recomputed from its shapes. Raises JaxlvError if a convention is unknown, or if
    no ledger can be read.
    """
    book = verification.read(*verification.find(place))
    terms, entries = book.terms, book.entries
    names = list(dict.fromkeys([terms.convention, *conventions]))
    for name in names:
        find(name)
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.run, entry.phase, entry.event.kind), []).append(entry)
    whole = terms.budget or 1  # of a budget of 0 nothing is spent

    def flops(chosen: Sequence[Entry]) -> dict[str, int]:
        return {name: ledger.totals(chosen, terms.model, name).executed for name in names}

    rows = []
    for owner, chosen in groups.items():
        priced, repeated = flops(chosen), ledger.totals(chosen).repeated
        count, share = sum(one.event.count for one in chosen), priced[terms.convention] / whole
        rows.append(Spent(*owner, count, priced, share, repeated))
    padding = {name: ledger.padding(entries, terms.model, name) for name in names}
    totals = ledger.totals(entries)
    return Spending(book, names, rows, totals, flops(entries), padding, totals.executed / whole)
