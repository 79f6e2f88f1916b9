"""A sweep as people read it: a table of its runs, what each setting does, the losses, and error against FLOPs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from jaxlv.report import terminal
from jaxlv.report.charts import WIDTH, Axis, Chart, Series, single
from jaxlv.report.figures.evaluation import TRAINING_LOSS, TRAINING_STEP, curve
from jaxlv.report.format import number, plain
from jaxlv.report.page import Block, Page, Pairs, Section, figure
from jaxlv.report.table import NAME, Row, Table, held
from jaxlv.report.theme import MODEL, MUTED, PALETTE
from jaxlv.results.quantities import Form, Quantity
from jaxlv.results.sweeps import RULES, Effect, Outcome, Point, Sweep, effects_of, front, names_of, points_of, rule_words

GROUPS = [PALETTE[name][0] for name in ("row-tuned", "species-1", "species-2", "row-untuned", "row-1", "row-2")]
"""Colours of groups of runs."""
NARROW = 1.05  # costs that differ by less are no axis
MEASURES = Outcome.columns(
    "steps", "tokens", "train_loss", "validation_loss", "validation_perplexity", "forecast_mae", "best_step", "reported",
    "flops", "seconds",
)  # fmt: skip
COST = Quantity("cost", "FLOPs", form="count")  # FLOPs under the ledger's own convention


def _plainly(name: str) -> str:
    """Returns "learning rate" of "optimizer.learning_rate"."""
    return name.rpartition(".")[2].replace("_", " ")


def setting_column(name: str, group: str = "settings", form: Form = "literal") -> Quantity:
    """Returns the column of a setting, "section.key"."""
    return Quantity(name, _plainly(name), group=group, form=form, path=("settings", name))


def settings_words(one: Outcome) -> str:
    """Returns a run's own settings: "rank 2, alpha 4"."""
    return ", ".join(f"{_plainly(name)} {plain(value)}" for name, value in one.settings.items())


def table_of(runs: Sequence[Outcome], rule: str, best: str) -> Table:
    """Returns the runs, a row each; of several the one that was chosen in bold."""
    several = len(runs) > 1
    measures = held([COST if one.key == "flops" else one for one in MEASURES], runs)
    caption = "Validation figures are those of a run's best checkpoint."
    if several and rule:
        caption = f"Every run. Bold: the least {rule_words(rule)}, by which the best is chosen. {caption}"
    chosen = lambda one, column: several and one.name == best and column.key == rule  # noqa: E731
    return Table("Runs", caption, runs, [NAME, *map(setting_column, names_of(runs)), *measures], chosen)


def format_runs(runs: Sequence[Outcome], best: str) -> str:
    """Writes the runs for a terminal, the best marked."""
    rows = [Row("*" if one.name == best else " ", one) for one in runs]
    shown = [one.within("of") for one in table_of(runs, "", best).columns[1:]]
    return terminal.table(Table("", "", rows, [NAME, *shown]), width=1000)


# -------------------------------------------------------------------------------------------------- figures


def effect_figure(name: str, effect: Effect, rule: str) -> Chart:
    """Draws the rule's figure at each value of a setting: a dot a run, lines between runs that differ in it alone."""
    look: dict[str, Any] = {"colour": MUTED, "width": 0.9, "marker": "o", "size": 4}
    series = [
        Series("", [one.place for one in own], [one.error for one in own], notes=[one.run for one in own], **look)
        for own in effect.joined
    ]
    if effect.mean:
        series.append(Series("mean", *zip(*effect.mean, strict=True), colour=MODEL, width=2.2, marker="D"))
    last = len(effect.values) - 1
    margin = 0.14 * max(last, 1)
    ticks = {float(i): plain(value) for i, value in enumerate(effect.values)}
    x = Axis(_plainly(name), ticks=ticks, limits=(-margin, last + margin))
    return single("lines", series, x, _axis(rule_words(rule)), 250)


def _axis(words: str, **options: Any) -> Axis:
    """Returns the axis of "a figure (its unit)"."""
    label, _, unit = words.partition(" (")
    return Axis(label, unit.removesuffix(")"), **options)


def _losses(one: Outcome, name: str, size: float, keyed: bool = True, **look: Any) -> list[Series]:
    """Returns training loss of a run as a line, and validation loss as dots that tell whose they are."""
    dots = curve(one.history, "validation_loss")
    marks: dict[str, Any] = {"dash": "none", "marker": "o", "size": size, "notes": [one.name] * len(dots[0])}
    line = Series(name, *curve(one.history, "loss"), keyed=keyed, **look)
    return [line, Series(name, *dots, colour=look["colour"], keyed=False, **marks)]


def losses_figure(runs: Sequence[Outcome], best: str) -> Chart:
    """Draws training loss (thin) and validation loss (dots) of every run by step, the best in colour and on top."""
    series = []
    for one in sorted(runs, key=lambda one: one.name == best):
        if one.name == best:
            series += _losses(one, one.name, 5, colour=MODEL, width=1.8)
        else:
            series += _losses(one, one.name, 3, keyed=False, colour=MUTED, width=0.7, alpha=0.55)
    return single("lines", series, TRAINING_STEP, TRAINING_LOSS, 280)


def grouped_losses_figure(runs: Sequence[Outcome], names: Sequence[str]) -> Chart:
    """Draws the same with a colour for each of the names, which runs of a group share."""
    colours = dict(zip(dict.fromkeys(names), GROUPS, strict=False))
    series = []
    for one, name in zip(runs, names, strict=True):
        series += _losses(one, name, 5, colour=colours[name], width=0.8, alpha=0.6)
    keys = [Series(name, y=(), colour=colour, width=2.2) for name, colour in colours.items()]
    return single("lines", series, TRAINING_STEP, TRAINING_LOSS, 320, width=2 * WIDTH, keys=keys)


def pareto_figure(points: Sequence[Point], cost: str, error: str, groups: Sequence[str] = (), width: int = WIDTH) -> Chart:
    """Draws error against cost of named runs, both logarithmic, and the front that nothing beats in both, numbered by cost.

    With a group for each run, every group has a colour and a front of its own, and the numbers go on from one to the next.
    """
    names, number_of = list(dict.fromkeys(groups)) or [""], itertools.count(1)
    dots, fronts = [], []
    for name, colour in zip(names, itertools.cycle(GROUPS), strict=False):
        own = [one for i, one in enumerate(points) if not groups or groups[i] == name]
        runs, x, y = zip(*own, strict=True)
        kept = front([(x, y) for _, x, y in own])
        hue = MUTED if len(names) == 1 else colour
        look: dict[str, Any] = {"dash": "none", "marker": "o", "size": 5, "alpha": 0.7}
        dots.append(Series(name, x, y, colour=hue, keyed=False, notes=runs, **look))
        labels = [str(next(number_of)) for _ in kept]
        at = [x[i] for i in kept], [y[i] for i in kept]
        fronts.append(Series(name, *at, colour=colour, width=1.6, marker=".", stepped=True, labels=labels, told=False))
    height = 300 + 16 * (len(names) if len(names) > 1 else 0)
    return single("scatter", [*dots, *fronts], _axis(cost, scale="log"), _axis(error, scale="log"), height, width=width)


# ------------------------------------------------------------------------------------------------- the page


def sections(runs: Sequence[Outcome], rule: str, best: str) -> list[Section]:
    """Returns a sweep's figures and its table as parts of a page."""
    blocks: list[Block] = []
    for name, effect in effects_of(runs, rule).items():
        caption = f"Effect of {_plainly(name)}: a dot for each run; grey lines join runs that differ in it alone."
        blocks.append(figure(effect_figure(name, effect, rule), f"{rule_words(rule)} by {_plainly(name)}", caption))
    if any(one.history for one in runs):
        caption = "Training loss by step, and validation loss as dots"
        caption += "; the chosen run in colour." if len(runs) > 1 else "."
        blocks.append(figure(losses_figure(runs, best), "Losses of all runs by step", caption))
    points = points_of(runs, rule)
    costs = [one.cost for one in points]
    if costs and max(costs) > NARROW * min(costs):
        caption = "Error against FLOPs: each dot is a run, the line joins those that no other beats in both."
        drawing = pareto_figure(points, "FLOPs", rule_words(rule))
        blocks.append(figure(drawing, "Error against FLOPs with Pareto front", caption))
    return [Section("Runs", [*blocks, table_of(runs, rule, best)])]


def page_of(result: Sweep) -> Page:
    """Returns the page of a sweep."""
    best, runs = result.chosen, result.runs
    steps, seconds = (sum(getattr(one, key) or 0 for one in runs) for key in ("steps", "seconds"))
    least = f"Least {rule_words(result.rule)}: {number(RULES[result.rule].of(best))}, with {settings_words(best)}."
    bill = [("runs", str(len(runs))), ("steps", f"{steps:,}"), ("training", f"{number(seconds)} s")]
    if all(one.cost for one in runs):
        bill.append(("FLOPs", number(float(sum(one.cost or 0 for one in runs)))))
    closing = [Section("Settings", [Pairs("Versions", list(result.versions.items()))])] if result.versions else []
    found = sections(runs, result.rule, result.best)
    return Page(f"Sweep of {result.config}", f"{len(runs)} runs, {steps:,} steps. {least}", bill, [*found, *closing])
