"""Whether a ledger adds up, and agrees with the folders of the runs that it paid for."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from jaxlv.config import RunConfig
from jaxlv.errors import JaxlvError
from jaxlv.flops import ledger
from jaxlv.flops.ledger import FINAL, Book, Entry, Event
from jaxlv.runs import billing
from jaxlv.runs.records import (
    CHECKPOINTS,
    CONFIG,
    METRICS,
    RUNS,
    Logged,
    read_config,
    read_manifest,
    read_metrics,
    saved_steps,
)
from jaxlv.storage.door import is_there
from jaxlv.storage.lines import without_collection

MOST_NAMED = 20  # entries of a run that are named
# What whoever asks for a forecast or an evaluation chooses; the rest of an event is of the run's model.
ASKED = (
    "batch",
    "length",
    "count",
    "step",
    "samples",
    "new_tokens",
    "slots",
    "stage",
    "cached",
    "head",
    "loss",
    "drawing",
    "causal",
    "narrow",
    "ahead",
    "known",
    "nested",
)
# What an event of a version before 4 may lack.
NEWER = ("dtype", "dropout", "update", "stack_rank", "loss", "drawing")


@dataclass(frozen=True)
class Verified:
    """What a ledger says, what disagrees, and what could not be compared, one line each."""

    path: Path
    book: Book
    problems: list[str]
    notes: list[str]

    @property
    def fault(self) -> JaxlvError | None:
        """The error of a ledger with which something disagrees; None if nothing does."""
        return JaxlvError(f"{len(self.problems)} figures disagree", where=self.path) if self.problems else None

    def told(self) -> list[str]:
        """Returns what disagrees, notes, and what was spent, a line each; "" for one that does not apply."""
        terms, account = self.book.terms, self.book.account
        of = f"{account.totals().executed:,} of {terms.budget:,} FLOPs ({terms.convention}) spent"
        notes = (f"note: {note}" for note in self.notes)
        return [*self.problems, *notes, f"{len(self.book.entries)} entries, {of}", account.told_repeats()]

    def tree(self) -> dict[str, object]:
        """Returns it as JSON."""
        found = {"ok": not self.problems, "problems": self.problems, "notes": self.notes}
        return {**found, "entries": len(self.book.entries), "totals": asdict(self.book.account.totals())}


@dataclass(frozen=True)
class Paid:
    """A run folder that a ledger paid for."""

    folder: Path
    config: RunConfig

    @property
    def name(self) -> str:
        """Returns its name in the ledger."""
        return billing.name_in_ledger(self.config, self.folder)


def find(place: Path) -> tuple[Path, list[Paid]]:
    """Returns the ledger of a run folder, of a folder of runs, or itself, and the run folders beside it that it paid for.

    Raises JaxlvError if a run has no budget.
    """
    if is_there(place / CONFIG):
        one = Paid(place, read_config(place))
        billing.check_none(one.config, one.folder)
        if one.config.budget.flops is None:
            raise JaxlvError("the run has no budget, and so no ledger", where=place)
        return billing.ledger_path(one.config, place), [one]
    path = place / billing.LEDGER if place.is_dir() else place
    folders = [path.parent, *sorted((path.parent / RUNS).glob("*"))]
    found = [Paid(folder, read_config(folder)) for folder in folders if is_there(folder / CONFIG)]
    return path, [one for one in found if billing.ledger_path(one.config, one.folder).resolve() == path.resolve()]


def read(path: Path, runs: Iterable[Paid]) -> Book:
    """Returns what a ledger says. Raises JaxlvError if it is gone or damaged, or lacks lines that a head of these runs
    knows of.
    """
    heads: list[Path] = []
    for one in runs:
        billing.check_there(one.config, one.folder)
        heads += filter(None, [billing.head_in(one.config, one.folder)])
    return ledger.read_book(path, heads)


@without_collection()
def verify(place: Path) -> Verified:
    """Recomputes a ledger from its shapes, and compares it with the config, the manifest, the records and the checkpoints
    of each run folder that `find` finds. The file is read once. Raises JaxlvError as `find` and `read` do.
    """
    path, runs = find(place)
    book = read(path, runs)
    problems, notes = ledger.checked(book), ledger.noted(book)
    by_name: dict[str, list[Entry]] = {}
    for entry in book.entries:
        by_name.setdefault(entry.run, []).append(entry)
    for one in runs:
        label = f"{one.folder.name}: " if len(runs) > 1 else ""
        problems += [f"{label}{line}" for line in _of_run(one, book, by_name)]
        notes += [f"{label}{line}" for line in _not_compared(one, by_name)]
    return Verified(path, book, problems, notes)


def _not_compared(one: Paid, by_name: Mapping[str, Sequence[Entry]]) -> Iterator[str]:
    if read_manifest(one.folder).model is None:
        yield "the model's sizes are not compared: the manifest is of an older version"
    if one.name not in by_name and not billing.first_name(one.folder):
        yield f"nothing in the ledger is of a run named {one.name}: an older run that was renamed cannot be compared"


def _of_run(one: Paid, book: Book, by_name: Mapping[str, Sequence[Entry]]) -> list[str]:
    """Returns what disagrees between a ledger and a run folder."""
    found = [*_of_terms(one, book)]
    if not one.config.budget.ledger:
        if book.lacks and billing.first_name(one.folder):
            found.append("its lines are not chained, as those of this run were from the first")
        found += [f"the ledger is this run's alone, and has a run {name!r}" for name in by_name if name != one.name]
    if one.name in by_name or billing.first_name(one.folder) or not one.config.budget.ledger:
        own = by_name.get(one.name, [])
        found += [*_first(_of_entries(one.config, own, book)), *_of_steps(one, own)]
    return found


def _of_terms(one: Paid, book: Book) -> Iterator[str]:
    terms, model = book.terms, read_manifest(one.folder).model
    expected = billing.terms_of(one.config, terms.model)
    for name in ("budget", "convention", "held_back", "envelopes", "repeats"):
        if (there := getattr(terms, name)) != (right := getattr(expected, name)):
            yield f"{name} of the ledger: {there}, {CONFIG} has {right}"
    for name, right in (model or {}).items():
        if (there := getattr(terms.model, name, None)) != right:
            yield f"{name} of the ledger's model: {there}, the manifest has {right}"


def _first(lines: Iterator[str]) -> Iterator[str]:
    more = 0
    for number, line in enumerate(lines):
        if number < MOST_NAMED:
            yield line
        else:
            more += 1
    if more:
        yield f"and {more} more"


def _of_entries(config: RunConfig, entries: Sequence[Entry], book: Book) -> Iterator[str]:
    """Yields entries that a run of this config cannot have made."""
    ranks = {entry.reserved.rank for entry in book.entries} if config.budget.ledger else set()  # of what it trained with
    known: dict[tuple[bool, tuple], str] = {}  # by shape: there are few
    for entry in entries:
        if misplaced := _misplaced(config, entry):
            yield f"entry {entry.number}: {misplaced}"
        # Whoever asks a run whose training is of the phase "evaluation" for forecasts says no purpose, either.
        in_training = _is_of_phase(config, entry) and (entry.reserved.kind == "train_step" or entry.phase != FINAL)
        key = in_training, entry.reserved.shape
        if key not in known:
            event = Event.of_shape(entry.reserved.shape)
            right = list(_possible(config, in_training, event, ranks))
            if book.version < 4 and event.loss == "flat":
                right = [replace(one, **{name: getattr(event, name) for name in NEWER}) for one in right]
            right += [replace(one, causal=False) for one in right if one.causal]  # the mask was once an operand
            known[key] = "" if event in right else _differing(event, right[0])
        if known[key]:
            yield f"entry {entry.number}: {known[key]}"


def _is_of_phase(config: RunConfig, entry: Entry) -> bool:
    """Tells whether an entry belongs to the training's phase, and to no result of its own."""
    return entry.phase == config.budget.phase and not entry.purpose


def _misplaced(config: RunConfig, entry: Entry) -> str:
    """Says that no run of this config does such work in this phase; "" if one may. Other programs may share the ledger of
    runs.
    """
    words = f"a {entry.reserved.kind.replace('_', ' ')} in the phase {entry.phase!r}"
    if entry.phase != config.budget.phase and (entry.phase != FINAL or entry.reserved.kind == "train_step"):
        return f"{words}, {CONFIG} has {config.budget.phase!r}"
    if entry.purpose and entry.phase != FINAL and not config.budget.ledger:
        return f"{words} for a result that is paid in {FINAL!r}"
    return ""


def _possible(config: RunConfig, in_training: bool, event: Event, ranks: Collection[int]) -> Iterator[Event]:
    """Yields what a run of this config may have done of the kind of an event, with what was asked for it."""
    step = billing.event_of(config, stack_rank=event.stack_rank if event.stack_rank in ranks else 0)
    asked: dict[str, Any] = {name: getattr(event, name) for name in ASKED}
    if event.kind == "train_step":
        yield from _halved(step, config)
    elif event.kind == "validation" and in_training:
        yield from (one.of_kind("validation", causal=step.causal, narrow=step.narrow) for one in _halved(step, config))
    elif in_training:  # a forecast of some validation series
        asked |= {"samples": 1, "batch": min(event.batch, config.train.forecast_series)}
        yield step.of_kind("generation", **asked)
    else:
        for held in get_args(billing.Held):
            yield billing.event_of(config, held).of_kind(event.kind, **asked)


def _differing(event: Event, right: Event) -> str:
    differ = [name for name, value in vars(right).items() if value != getattr(event, name)]
    words = ", ".join(f"{name} {getattr(event, name)!r}, not {getattr(right, name)!r}" for name in differ)
    return f"not a {event.kind.replace('_', ' ')} of this run: {words}"


def _halved(step: Event, config: RunConfig) -> Iterator[Event]:
    """Yields a step, and, if out-of-memory errors may halve it, half the batch twice as often, and so on."""
    yield step
    while config.train.halve_on_oom and step.batch % 2 == 0:
        step = replace(step, batch=step.batch // 2, accumulate=2 * step.accumulate)
        yield step


def _of_steps(one: Paid, entries: Sequence[Entry]) -> Iterator[str]:
    """Yields steps and validations that a run's records or checkpoints have, and its ledger does not."""
    done = [entry.event for entry in entries if not entry.purpose and entry.event.kind == "train_step"]
    steps = sorted((event.step, event.step + event.count) for event in done if event.count)
    counted = 0
    for first, end in steps:
        if first > counted:
            yield f"the ledger lacks steps {counted + 1} to {first}"
        counted = max(counted, end)
    if counted > (most := one.config.train.steps):
        yield f"the ledger ends at step {counted}, {CONFIG} has train.steps {most}"
    records = read_metrics(one.folder / METRICS)
    logged = max((record.step for record in records), default=0)
    saved = max(saved_steps(one.folder / CHECKPOINTS), default=0)
    for name, step in ((METRICS, logged), (CHECKPOINTS, saved)):
        if step > counted:
            yield f"{name} has step {step}, the ledger ends at step {counted}"
    yield from _of_validations(one.config, [entry.reserved for entry in entries if _is_of_phase(one.config, entry)], records)


def _of_validations(config: RunConfig, events: Sequence[Event], records: Sequence[Logged]) -> Iterator[str]:
    """Yields validations that the records have and the ledger does not, that differ from the others, or that have too many
    windows.
    """
    paid: dict[int, set[tuple]] = {}  # what was reserved at each step
    for event in (event for event in events if event.kind != "train_step"):
        paid.setdefault(event.step, set()).add((event.kind, event.count, event.shape, event.ahead))
    alike: dict[frozenset, dict[frozenset, int]] = {}  # by guesses, which depend on the device: a step by what it reserved
    for record in (record for record in records if "validation_loss" in record):
        there = paid.get(record.step, set())
        lacking = {"validation", *["generation"] * ("forecast_mae" in record)} - {kind for kind, *_ in there}
        if lacking:
            words = " and no ".join(sorted(lacking))
            yield f"{METRICS} has a validation of step {record['step']}, the ledger no {words} there"
        else:
            alike.setdefault(frozenset(ahead for *_, ahead in there), {}).setdefault(frozenset(there), record.step)
    differ = sorted(step for steps in alike.values() if len(steps) > 1 for step in steps.values())
    if differ and not config.train.halve_on_oom:
        yield f"validations that are not alike: those of steps {', '.join(map(str, differ[:MOST_NAMED]))}"
    batch, most = config.train.batch_size, config.train.validation_windows
    for count in sorted({event.count * event.batch for event in events if event.kind == "validation"}):
        if count > math.ceil(most / batch) * batch:
            yield f"a validation of {count} windows, {CONFIG} has train.validation_windows {most}"
