"""Runs side by side: which settings tell them apart, which of their errors compare, and what no other run beats."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from jaxlv.results.record import Id
from jaxlv.results.scores import Evaluation
from jaxlv.results.sweeps import Outcome, front

CONVENTION = "coursework"  # under which runs of several folders are priced: the assignment's
EXACT = "exact"
SILENT = ("budget.", "train.log_every", "train.checkpoint_every", "train.sinks", "evaluate.batch_series")
"""Settings that change nothing of what a run reaches, or are what is compared."""
LOSSES: Mapping[str, str] = {
    "codec.decimals": "decimals", "codec.": "scale of the text", "model.loss": "loss", "model.path": "base", "data.": "data",
    "windows.": "windows", "train.validation_windows": "validation windows", "train.mean": "mean of the loss",
}  # fmt: skip
"""Settings, by how they begin, that change what a validation loss per token is a loss of, in words."""
FORECASTS: Mapping[str, str] = {"data.": "data", "train.forecast_": "forecasts", "evaluate.context": "context",
                                "evaluate.horizon": "horizon"}  # fmt: skip
"""Settings that change which forecasts a validation MAE is the error of."""
LONGEST = 70  # characters of a group's name


@dataclass(frozen=True)
class Entry:
    """A run under the name that it has among several: "folder/run", or that of its folder."""

    name: str
    run: str
    settings: Mapping[str, object]
    figures: Outcome
    scores: Sequence[Evaluation] = ()

    @property
    def folder(self) -> str:
        """The folder's part of the name."""
        return self.name.removesuffix(f"/{self.run}")

    @property
    def priced(self) -> Mapping[str, float]:
        """FLOPs of the training by convention; empty if nothing was trained or counted."""
        return (self.figures.flops or {}) if self.figures.steps else {}

    def get(self, key: str) -> Any:
        """Returns a figure of the run, None if it has none."""
        return getattr(self.figures, key)


@dataclass(frozen=True)
class Tested:
    """An error on test series, and what these are, in words."""

    mae: float | None
    on: str


@dataclass(frozen=True)
class RunRow:
    """A run as tables of several have it: its settings as cells have them, and its place on a front."""

    name: str
    figures: Outcome
    settings: Mapping[str, object]
    tested: Tested | None = None
    front: bool = False
    place: int = 0  # among the runs of all fronts
    group: str = ""
    gain: float | None = None  # by how much the error is less than that of the run before


# ---------------------------------------------------------------------------------------------- settings


def differing(entries: Sequence[Entry]) -> list[str]:
    """Returns the settings, "section.key", that not all entries share, of those that have settings."""
    held = [entry.settings for entry in entries if entry.settings]
    names = dict.fromkeys(name for settings in held for name in settings)
    return [
        name
        for name in names
        if not name.startswith(SILENT) and len({repr(setting(name, settings.get(name))) for settings in held}) > 1
    ]


def setting(name: str, value: Any) -> Any:
    """Returns a setting as a cell has it: a file by its name, a long list by its length and a mark."""
    if isinstance(value, (list, tuple)) and len(value) > 8:
        return f"{len(value)} ({hashlib.sha256(repr(value).encode()).hexdigest()[:4]})"
    if name.endswith(".path") and isinstance(value, str):
        return value.rstrip("/").rpartition("/")[2]
    return value


# ------------------------------------------------------------------------------------------ errors on test series


class TestedOn(NamedTuple):
    """What makes two test errors comparable."""

    data_sha256: str | None
    series: tuple[Id, ...] | int
    context: int | None
    horizon: int | None

    @property
    def size(self) -> int:
        """How many series these are."""
        return self.series if isinstance(self.series, int) else len(self.series)


def protocol_of(measured: Evaluation) -> TestedOn:
    """Returns the data, the series, context and horizon of an evaluation."""
    protocol = measured.protocol
    ids = tuple(sorted(protocol.series)) if isinstance(protocol.series, tuple) else protocol.series or ()
    return TestedOn(protocol.data_sha256, ids, protocol.context, protocol.horizon)


def shared_protocol(entries: Sequence[Entry]) -> TestedOn | None:
    """Returns the protocol that most entries were measured under, the first of equals; None if none was measured."""
    found = [key for entry in entries for key in dict.fromkeys(protocol_of(one) for one in entry.scores)]
    return max(found, key=found.count) if found else None


def tested(entry: Entry, shared: TestedOn | None) -> Tested | None:
    """Returns a run's error on test series: under the shared protocol if it was measured so, else that of its first."""
    held = sorted(entry.scores, key=lambda one: protocol_of(one) != shared)
    if not held:
        return None
    subject, of = held[0].subject, protocol_of(held[0])
    return Tested(subject.mae if subject else None, f"{of.size} series, {of.context} + {of.horizon}")


def row_of(entry: Entry, names: Sequence[str]) -> RunRow:
    """Returns an entry as a row, with its settings of these names."""
    return RunRow(entry.name, entry.figures, {name: setting(name, entry.settings.get(name)) for name in names})


def rows_of(entries: Sequence[Entry]) -> list[RunRow]:
    """Returns a row for each entry; those on the front of error against FLOPs are marked."""
    names, shared, key = differing(entries), shared_protocol(entries), axis_of(entries)
    held = [entry for entry in entries if entry.priced.get(CONVENTION) and entry.get(key)]
    groups = groups_of(held, key)
    kept = [entry for name, front in fronts_of(held, key, CONVENTION).items() if groups.count(name) > 1 for entry in front]
    return [replace(row_of(entry, names), tested=tested(entry, shared), front=entry in kept) for entry in entries]


# --------------------------------------------------------------------------------- error against FLOPs


def axis_of(entries: Sequence[Entry]) -> str:
    """Returns what runs are compared by: the forecasts' MAE if all that are priced have it, else validation loss."""
    priced = [entry for entry in entries if CONVENTION in entry.priced]
    return "forecast_mae" if priced and all(entry.get("forecast_mae") for entry in priced) else "validation_loss"


def mixed(entries: Sequence[Entry], key: str) -> dict[str, str]:
    """Returns {setting: word} of those that differ and make errors of two runs different quantities."""
    starts = LOSSES if key == "validation_loss" else FORECASTS
    found = {
        name: next((word for start, word in starts.items() if name.startswith(start)), "") for name in differing(entries)
    }
    return {name: word for name, word in found.items() if word}


def mixed_words(entries: Sequence[Entry], key: str) -> str:
    """Says what makes errors of runs different quantities, each thing once; "" if they compare."""
    said = list(dict.fromkeys(mixed(entries, key).values()))
    return " and ".join(filter(None, [", ".join(said[:-1]), *said[-1:]]))


def groups_of(entries: Sequence[Entry], key: str) -> list[str]:
    """Returns the group of each entry, in which its error compares: a letter, its members and what tells it from the others.

    They are "" if there is one group.
    """
    names = mixed(entries, key)
    keys = [tuple(repr(setting(name, entry.settings.get(name))) for name in names) for entry in entries]
    order = {own: [entry for entry, k in zip(entries, keys, strict=True) if k == own] for own in keys}
    if len(order) < 2:
        return [""] * len(entries)
    said = {own: f"{chr(65 + i % 26)}: {_members(held, entries, key)}" for i, (own, held) in enumerate(order.items())}
    return [said[own] for own in keys]


def _members(held: Sequence[Entry], entries: Sequence[Entry], key: str) -> str:
    """Says what a group is: its run, or the folders of its runs with what tells them from other runs of these."""
    if len(held) == 1:
        return _shortened(held[0].name)
    folders = list(dict.fromkeys(entry.folder for entry in held))
    names = mixed([entry for entry in entries if entry.folder in folders], key)
    values = {name: setting(name, held[0].settings.get(name)) for name in names}
    own = [f"{name.partition('.')[2].replace('_', ' ')} {_word(value)}" for name, value in values.items()]
    return _shortened(", ".join([*folders, *own]))


def front_of(entries: Sequence[Entry], key: str, convention: str) -> list[Entry]:
    """Returns the entries that no other beats in both error and FLOPs, cheapest first."""
    held = [entry for entry in entries if entry.priced.get(convention) and entry.get(key)]
    points = [(float(entry.priced[convention]), float(entry.get(key))) for entry in held]
    return [held[index] for index in front(points)]


def fronts_of(entries: Sequence[Entry], key: str, convention: str) -> dict[str, list[Entry]]:
    """Returns the front of each group of entries whose errors compare."""
    groups = groups_of(entries, key)
    return {
        name: front_of([entry for entry, group in zip(entries, groups, strict=True) if group == name], key, convention)
        for name in dict.fromkeys(groups)
    }


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _word(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_word, value))
    return (
        {True: "yes", False: "no"}[value]
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def budget_rows(fronts: Mapping[str, Sequence[Entry]], key: str) -> list[RunRow]:
    """Returns the runs of each front, numbered, with their settings and by how much less they err than the one before."""
    rows: list[RunRow] = []
    names = differing([entry for kept in fronts.values() for entry in kept])
    for group, kept in fronts.items():
        for before, one in zip([None, *kept], kept, strict=False):
            gain = 1 - one.get(key) / before.get(key) if before else None
            rows.append(replace(row_of(one, names), place=len(rows) + 1, group=group[:1], gain=gain))
    return rows


class BestOnTest(NamedTuple):
    """The least error of runs that were tested on the same."""

    run: str
    error: float
    on: TestedOn


def best_on_test(entries: Sequence[Entry]) -> BestOnTest | None:
    """Returns the least error on the shared protocol; None if fewer than two runs have one."""
    shared = shared_protocol(entries)
    found = [
        (row.mae, entry.name)
        for entry in entries
        for one in entry.scores
        if protocol_of(one) == shared and (row := one.subject) and row.mae
    ]
    if len(found) < 2 or shared is None:
        return None
    error, name = min(found)
    return BestOnTest(name, error, shared)
