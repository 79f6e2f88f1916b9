"""What runs reached, one by one and side by side; the JSON of a `Sweep` is sweep.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from jaxlv.results.quantities import RAW, Quantity, quantity
from jaxlv.results.record import Number, Record, rare

LOSS = "nats per token"
Logged = Mapping[str, Number | None]
"""A line of metrics.jsonl: numbers by their names, of a step or a validation."""


@dataclass(frozen=True)
class Outcome(Record):
    """What a run reached, by its best checkpoint, and what it cost; what was not measured is None."""

    name: str
    settings: Mapping[str, object]  # its own, "section.key"
    steps: int | None = quantity("steps", form="count")
    tokens: int | None = quantity("tokens", form="count")
    seconds: float | None = quantity("s", "s", "of training", head="time")
    train_loss: float | None = quantity("train", LOSS, "cross-entropy of the last batch", head="training loss")
    validation_loss: float | None = quantity("valid.", LOSS, "cross-entropy of held-out windows", head="validation loss")
    validation_perplexity: float | None = quantity("perpl.", "", "e to the power of that loss", head="perplexity")
    forecast_mae: float | None = quantity("MAE", RAW, "of forecasts of validation series", head="validation MAE")
    best_step: int | None = quantity("best", form="count", head="best step")
    reported: float | None = quantity("paper", "", "the figure that the paper printed", head="the paper's")
    flops: Mapping[str, Number] | None = quantity("FLOPs", "", "by convention, the ledger's own first")
    history: tuple[Logged, ...] = ()
    same_as: str | None = rare()  # the run that it is, trained once

    @property
    def cost(self) -> float | None:
        """FLOPs under the ledger's own convention."""
        return next(iter((self.flops or {}).values()), None)


RULES: Mapping[str, Quantity] = {key: Outcome.quantities()[key] for key in ("validation_loss", "forecast_mae")}
"""What a run may be chosen by."""


class Point(NamedTuple):
    """A run, what it cost, and its error."""

    run: str
    cost: float
    error: float


def points_of(runs: Sequence[Outcome], rule: str) -> list[Point]:
    """Returns FLOPs under the ledgers' own convention, and the error by a rule, of the runs that have both."""
    found = ((one.name, one.cost, RULES[rule].of(one)) for one in runs)
    return [Point(name, float(cost), float(error)) for name, cost, error in found if cost and error]


def rule_words(rule: str) -> str:
    """Returns a rule with its unit: "validation loss (nats per token)"."""
    return f"{RULES[rule].head} ({RULES[rule].unit})"


@dataclass(frozen=True)
class Sweep(Record):
    """Runs that differ in some settings, and the one that a rule chose."""

    rule: str
    best: str
    runs: tuple[Outcome, ...]
    config: str = ""
    versions: Mapping[str, str] | None = None

    @property
    def chosen(self) -> Outcome:
        """The best run."""
        return next(one for one in self.runs if one.name == self.best)


def names_of(runs: Sequence[Outcome]) -> list[str]:
    """Returns the settings that some run has of its own."""
    return list(dict.fromkeys(name for one in runs for name in one.settings))


def axes_of(runs: Sequence[Outcome]) -> dict[str, list[Any]]:
    """Returns {setting: its values in order of appearance} of the settings that vary.

    Of settings that go together, such as rank and alpha, it has the first.
    """
    found = {name: {repr(one.settings.get(name)): one.settings.get(name) for one in runs} for name in names_of(runs)}
    kept: dict[tuple[int, ...], str] = {}
    for name, values in found.items():
        if len(values) > 1:
            places = list(values)
            kept.setdefault(tuple(places.index(repr(one.settings.get(name))) for one in runs), name)
    return {name: list(found[name].values()) for name in kept.values()}


class Placed(NamedTuple):
    """A run's error at the place of its value of a setting."""

    place: int
    error: float
    run: str


class Effect(NamedTuple):
    """What a setting does: its values, errors of runs that differ in it alone, and means if these are several groups."""

    values: list[Any]
    joined: list[list[Placed]]
    mean: list[tuple[int, float]]  # places and errors


def effects_of(runs: Sequence[Outcome], rule: str) -> dict[str, Effect]:
    """Returns what each setting that varies does to the error by a rule."""
    found, axes = {}, axes_of(runs)
    for name, values in axes.items():
        place, joined = {repr(value): i for i, value in enumerate(values)}, dict[str, list[Placed]]()
        for one in runs:
            if (error := RULES[rule].of(one)) is not None:
                others = repr([one.settings.get(key) for key in axes if key != name])
                joined.setdefault(others, []).append(Placed(place[repr(one.settings.get(name))], error, one.name))
        at = {i: [p.error for own in joined.values() for p in own if p.place == i] for i in range(len(values))}
        mean = [(i, fmean(own)) for i, own in at.items() if own] if len(joined) > 1 else []
        found[name] = Effect(values, [sorted(own) for own in joined.values()], mean)
    return found


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Returns the indices of the points (cost, error) that no other beats in both, by cost."""
    kept: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if not kept or points[index][1] < points[kept[-1]][1]:
            kept.append(index)
    return kept
