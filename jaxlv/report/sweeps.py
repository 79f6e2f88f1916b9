"""A sweep as people read it: a table of its runs, what each setting does, the losses, and error against FLOPs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlv.report.charts import WIDTH, Axis, Chart, Series, single
from jaxlv.report.figures import evaluation as figures
from jaxlv.report.page import (
    MISSING,
    Block,
    Cell,
    Figure,
    Group,
    Page,
    Pairs,
    Section,
    Table,
    align,
    number,
    plain,
    svg,
)  # fmt: skip
from jaxlv.report.theme import MODEL, MUTED, PALETTE

Tree = Mapping[str, Any]
RULES = {"validation_loss": "validation loss (nats per token)", "forecast_mae": "validation MAE (raw units)"}
"""What a run may be chosen by, with its unit."""
GROUPS = [PALETTE[name][0] for name in ("row-tuned", "species-1", "species-2", "row-untuned", "row-1", "row-2")]
"""Colours of groups of runs."""


@dataclass(frozen=True)
class Column:
    """A figure of a run: its key, its headings on the page and in a terminal, and its unit."""

    key: str
    words: str
    short: str
    unit: str = ""

    def of(self, one: Tree) -> float | None:
        """The figure; FLOPs under the ledger's own convention."""
        value = one.get(self.key)
        return next(iter(value.values()), None) if isinstance(value, Mapping) else value

    def text(self, one: Tree) -> str:
        """The figure as text."""
        value = self.of(one)
        if value is None:
            return MISSING
        return f"{value:,}" if isinstance(value, int) and value < 1e9 else number(value)


NARROW = 1.05  # costs that differ by less are no axis
FLOPS = Column("flops", "FLOPs", "FLOPs")
COLUMNS = (
    Column("steps", "steps", "steps"),
    Column("tokens", "tokens", "tokens"),
    Column("train_loss", "training loss", "train", "nats per token"),
    Column("validation_loss", "validation loss", "valid.", "nats per token"),
    Column("validation_perplexity", "perplexity", "perpl."),
    Column("forecast_mae", "validation MAE", "MAE", "raw units"),
    Column("best_step", "best step", "best"),
    Column("reported", "the report's", "report"),
    FLOPS,
    Column("seconds", "seconds", "s"),
)


def _plainly(name: str) -> str:
    """ "learning rate" of "optimizer.learning_rate"."""
    return name.rpartition(".")[2].replace("_", " ")


def setting(value: Any) -> str:
    """A setting's value in a table."""
    return MISSING if value is None else plain(value)


def axes_of(runs: Sequence[Tree]) -> dict[str, list[Any]]:
    """{setting: its values in order of appearance} of the settings that vary."""
    names = list(dict.fromkeys(name for one in runs for name in one["settings"]))
    found = {
        name: list({repr(one["settings"].get(name)): one["settings"].get(name) for one in runs}.values()) for name in names
    }
    varied = {name: values for name, values in found.items() if len(values) > 1}
    kept: dict[tuple[int, ...], str] = {}
    for name, values in varied.items():  # settings that go together, such as rank and alpha, are one axis
        places = [repr(value) for value in values]
        kept.setdefault(tuple(places.index(repr(one["settings"].get(name))) for one in runs), name)
    return {name: varied[name] for name in kept.values()}


def table_of(result: Tree) -> Table:
    """The runs, a row each; of several the one that was chosen in bold."""
    runs = result["runs"]
    several = len(runs) > 1
    names = list(dict.fromkeys(name for one in runs for name in one["settings"]))
    columns = [column for column in COLUMNS if any(column.of(one) is not None for one in runs)]
    texts = {column.key: align([column.text(one) for one in runs]) for column in columns}
    rows = []
    for place, one in enumerate(runs):
        chosen = several and one["name"] == result["best"]
        cells = [Cell(one["name"])]
        for name in names:
            value = one["settings"].get(name)
            cells.append(Cell(setting(value), value if isinstance(value, (int, float)) else None))
        for column in columns:
            cells.append(Cell(texts[column.key][place], column.of(one), chosen and column.key == result["rule"]))
        rows.append(cells)
    groups = [Group("", "", 1), *([Group("settings", "", len(names))] if names else [])]
    groups += [Group("", column.unit, 1) for column in columns]
    heads = ["", *(_plainly(name) for name in names), *(column.words for column in columns)]
    caption = "Validation figures are those of a run's best checkpoint."
    if several:
        caption = f"Every run. Bold: the least {RULES[result['rule']]}, by which the best is chosen. {caption}"
    return Table("Runs", caption, groups, heads, rows)


def format_runs(runs: Sequence[Tree], best: str) -> str:
    """Returns the runs as a table for a terminal, the best marked."""
    names = list(dict.fromkeys(name for one in runs for name in one["settings"]))
    columns = [column for column in COLUMNS if any(one.get(column.key) is not None for one in runs)]
    rows = [["", *(name.rpartition(".")[2] for name in names), *(column.short for column in columns)]]
    for one in runs:
        settings = [setting(one["settings"].get(name)) for name in names]
        rows.append(["*" if one["name"] == best else "", *settings, *(column.text(one) for column in columns)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def effect_figure(runs: Sequence[Tree], name: str, values: Sequence[Any], rule: str) -> Chart:
    """The rule's figure at each value of a setting: a dot for each run, lines between runs that differ in it alone."""
    place = {repr(value): i for i, value in enumerate(values)}
    varied, lines = axes_of(runs), dict[str, list[tuple[int, float, str]]]()
    for one in runs:
        if one.get(rule) is not None:
            others = {key: one["settings"].get(key) for key in varied if key != name}
            point = place[repr(one["settings"].get(name))], one[rule], one.get("name", "")
            lines.setdefault(repr(others), []).append(point)
    series = []
    for points in lines.values():
        at, y, names = zip(*sorted(points), strict=True)
        series.append(Series("", at, y, colour=MUTED, width=0.9, marker="o", size=4, notes=names))
    means = [[y for points in lines.values() for x, y, _ in points if x == i] for i in range(len(values))]
    held = [i for i, found in enumerate(means) if found]
    if len(lines) > 1:
        mean = [np.mean(means[i]) for i in held]
        series.append(Series("mean", held, mean, colour=MODEL, width=2.2, marker="D"))
    ticks = {float(i): setting(value) for i, value in enumerate(values)}
    margin = 0.14 * max(len(values) - 1, 1)
    x = Axis(_plainly(name), ticks=ticks, limits=(-margin, len(values) - 1 + margin))
    return single("lines", series, x, _axis(RULES[rule]), 250)


def _axis(words: str, **options: Any) -> Axis:
    """The axis of "a figure (its unit)"."""
    label, _, unit = words.partition(" (")
    return Axis(label, unit.removesuffix(")"), **options)


def losses_figure(runs: Sequence[Tree], best: str) -> Chart:
    """Training loss (thin) and validation loss (dots) of every run by step, the best one on top."""
    series = []
    for one in sorted(runs, key=lambda one: one["name"] == best):
        name, chosen, history = one["name"], one["name"] == best, one.get("history") or []
        colour, width, alpha, size = (MODEL, 1.8, 1.0, 5.0) if chosen else (MUTED, 0.7, 0.55, 3.0)
        series.append(Series(name, *figures.curve(history, "loss"), colour=colour, width=width, alpha=alpha, keyed=chosen))
        dots = figures.curve(history, "validation_loss")
        series.append(Series(name, *dots, colour=colour, dash="none", marker="o", size=size, keyed=False))
    return single("lines", series, figures.TRAINING_STEP, Axis("loss", "nats per token"), 280)


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The indices of the points (cost, error) that no other beats in both, by cost."""
    kept: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if not kept or points[index][1] < points[kept[-1]][1]:
            kept.append(index)
    return kept


def pareto_figure(
    entries: Sequence[tuple[str, float, float]], cost: str, error: str, groups: Sequence[str] = (), width: int = WIDTH
) -> Chart:
    """Error against cost of named runs, both logarithmic; the front that nothing beats in both, numbered by cost.

    With a group for each run, every group has a colour and a front of its own, and the numbers go on from one to the next.
    """
    names, number_of = list(dict.fromkeys(groups)) or [""], itertools.count(1)
    dots, fronts = [], []
    for name, colour in zip(names, itertools.cycle(GROUPS), strict=False):
        own = [one for i, one in enumerate(entries) if not groups or groups[i] == name]
        runs, x, y = zip(*own, strict=True)
        kept = front([(x, y) for _, x, y in own])
        hue = MUTED if len(names) == 1 else colour
        look: dict[str, Any] = {"dash": "none", "marker": "o", "size": 5, "alpha": 0.7}
        dots.append(Series(name, x, y, colour=hue, keyed=False, notes=runs, **look))
        labels = [str(next(number_of)) for _ in kept]
        points = [x[i] for i in kept], [y[i] for i in kept]
        fronts.append(Series(name, *points, colour=colour, width=1.6, marker=".", stepped=True, labels=labels, told=False))
    height = 300 + 16 * (len(names) if len(names) > 1 else 0)
    return single("scatter", [*dots, *fronts], _axis(cost, scale="log"), _axis(error, scale="log"), height, width=width)


def sections(result: Tree) -> list[Section]:
    """A sweep's table and figures as parts of a page."""
    runs, rule = result["runs"], result["rule"]
    blocks: list[Block] = [table_of(result)]
    for name, values in axes_of(runs).items():
        words = _plainly(name)
        drawing = svg(effect_figure(runs, name, values, rule), f"{RULES[rule]} by {words}")
        caption = f"Effect of {words}: a dot for each run; grey lines join runs that differ in it alone."
        blocks.append(Figure([drawing], caption))
    if any(one.get("history") for one in runs):
        caption = "Training loss by step, and validation loss as dots"
        caption += "; the chosen run in colour." if len(runs) > 1 else "."
        blocks.append(Figure([svg(losses_figure(runs, result["best"]), "Losses of all runs by step")], caption))
    entries = [(one["name"], FLOPS.of(one), one.get(rule)) for one in runs]
    held = [(name, cost, error) for name, cost, error in entries if cost and error]
    costs = [cost for _, cost, _ in held]
    if costs and max(costs) > NARROW * min(costs):
        caption = "Error against FLOPs: each dot is a run, the line joins those that no other beats in both."
        blocks.append(
            Figure([svg(pareto_figure(held, "FLOPs", RULES[rule]), "Error against FLOPs with Pareto front")], caption)
        )
    return [Section("Runs", blocks)]


def page_of(result: Tree) -> Page:
    """The page of a sweep."""
    best = next(one for one in result["runs"] if one["name"] == result["best"])
    steps = sum(one["steps"] for one in result["runs"])
    words = ", ".join(f"{_plainly(name)} {setting(value)}" for name, value in best["settings"].items())
    least = f"Least {RULES[result['rule']]}: {number(best[result['rule']])}, with {words}."
    summary = f"{len(result['runs'])} runs, {steps:,} steps. {least}"
    seconds = sum(one["seconds"] or 0 for one in result["runs"])
    bill = [("runs", str(len(result["runs"]))), ("steps", f"{steps:,}"), ("training", f"{number(seconds)} s")]
    spent = [FLOPS.of(one) for one in result["runs"]]
    if all(spent):
        bill.append(("FLOPs", number(float(sum(value for value in spent if value)))))
    versions = result.get("versions") or {}
    settings = [Section("Settings", [Pairs("Versions", list(versions.items()))])] if versions else []
    return Page(f"Sweep of {result['config']}", summary, bill, [*sections(result), *settings])
