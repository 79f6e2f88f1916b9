"""Runs of several folders side by side: a table, their losses, error against FLOPs, and what a budget buys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from jaxlv.report import sweeps
from jaxlv.report.charts import WIDTH
from jaxlv.report.figures import evaluation as figures
from jaxlv.report.format import number
from jaxlv.report.page import Block, Figure, Section, figure
from jaxlv.report.sweeps import setting_column
from jaxlv.report.table import Table, column, held, words
from jaxlv.results import side_by_side as results
from jaxlv.results.quantities import Quantity
from jaxlv.results.side_by_side import CONVENTION, EXACT, Entry, RunRow
from jaxlv.results.sweeps import RULES, Outcome, Point, rule_words

COLOURS = len(sweeps.GROUPS)  # runs up to which each has a colour of its own
SETTINGS, PAPER = 6, 9  # columns of settings that a table of runs holds beside its figures, and without them
NAME = words("name", "run")


def _of_run(key: str, head: str, group: str = "") -> Quantity:
    return Outcome.quantities()[key].within("figures", head=head, group=group)


def _flops(convention: str, group: str) -> Quantity:
    return Quantity(convention, unit="FLOPs", group=group, path=("figures", "flops", convention))


TESTED_ON = Quantity("on", "tested on", form="literal", path=("tested", "on"))
MEASURED = [
    _of_run("steps", "steps", "training"),
    _of_run("tokens", "tokens", "training"),
    _of_run("validation_loss", "loss", "validation"),
    _of_run("validation_perplexity", "perplexity"),
    _of_run("forecast_mae", "MAE", "validation"),
    Quantity("mae", "MAE", "raw units", group="test", path=("tested", "mae")),
    TESTED_ON,
    _flops(CONVENTION, "training and validation"),
    _flops(EXACT, "training and validation"),
    _of_run("seconds", "time", "training"),
]


def setting_columns(names: Sequence[str], rows: Sequence[RunRow]) -> list[Quantity]:
    """Returns a column for each setting, under its section; long words wrap."""
    sections = list(dict.fromkeys(name.partition(".")[0] for name in names))
    long = {name for name in names if any(len(str(row.settings[name])) > 16 for row in rows)}
    ordered = sorted(names, key=lambda name: sections.index(name.partition(".")[0]))
    return [setting_column(name, name.partition(".")[0], "words" if name in long else "literal") for name in ordered]


# --------------------------------------------------------------------------------------------- the tables


def table(entries: Sequence[Entry]) -> Table:
    """Returns every run, a row each: the settings that differ, errors, costs."""
    rows, names = results.rows_of(entries), results.differing(entries)
    tested = sorted({row.tested.on for row in rows if row.tested})
    caption = (
        "Every run; validation figures are those of a run's best checkpoint. Test: mean"
        f" absolute error over held-out series{_tested_words(tested)}. “–”: not measured, or not counted."
    )
    if any(row.front for row in rows):
        caption += " Bold: no run that compares has both less error and fewer FLOPs."
    measured = [one for one in held(MEASURED, rows) if one is not TESTED_ON or len(tested) > 1]
    columns = [*measured, *(setting_columns(names, rows) if len(names) <= SETTINGS else [])]
    return Table("Runs side by side", caption, rows, [NAME, *columns], lambda row, _: row.front)


def settings_tables(entries: Sequence[Entry]) -> list[Table]:
    """Returns tables of the settings that differ, some at a time, if they are too many for the table of the runs."""
    names = results.differing(entries)
    if len(names) <= SETTINGS:
        return []
    rows = [results.row_of(entry, names) for entry in entries]
    columns, found = setting_columns(names, rows), []
    for first in range(0, len(columns), PAPER):
        some = columns[first : first + PAPER]
        sections = ", ".join(dict.fromkeys(column.group for column in some))
        caption = f"The settings that differ: {sections}."
        if any(" (" in str(column.of(row)) for row in rows for column in some):
            caption += " Lists of series by their number and a mark of what is in them."
        found.append(Table(f"Settings that differ: {sections}", caption, rows, [NAME, *some]))
    return found


def _tested_words(found: Sequence[str]) -> str:
    if len(found) == 1:
        return f" ({found[0]} steps of context and forecast)"
    return ", which are not the same for all (steps of context + forecast)" if found else ""


def budget_table(fronts: Mapping[str, Sequence[Entry]], key: str, convention: str) -> Table:
    """Returns the runs of each front: what the least error is that a budget buys, and with which settings."""
    rows, names = results.budget_rows(fronts, key), results.differing([entry for kept in fronts.values() for entry in kept])
    quantity = RULES[key].head
    columns = [
        column("place", "no.", form="count"),
        *([column("group", form="literal")] if len(fronts) > 1 else []),
        *held([_flops(name, "a budget of") for name in dict.fromkeys((convention, EXACT))], rows),
        _of_run(key, "error", quantity),
        column("gain", "less by", form="share"),
        _of_run("steps", "steps"),
        _of_run("tokens", "tokens"),
        *(setting_columns(names, rows) if len(names) <= SETTINGS else []),
    ]
    caption = (
        f"Each row has the run of least {quantity} for budgets from its own FLOPs up to those of the next row, and by how"
        " much the error falls there. FLOPs are of training and validation."
    )
    return Table("What a budget buys", caption, rows, [NAME, *columns])


# ------------------------------------------------------------------------------------------- the sections


def budget_section(entries: Sequence[Entry], key: str, convention: str, drawn: bool = True) -> Section | None:
    """Returns error against FLOPs with its front, and what a budget buys; None if fewer than two runs are priced.

    If it is drawn here, runs whose errors do not compare have a front each; elsewhere one front has been drawn of all.
    """
    priced = [entry for entry in entries if entry.priced.get(convention) and entry.get(key)]
    if len(priced) < 2:
        return None
    fronts = results.fronts_of(priced, key, convention) if drawn else {"": results.front_of(priced, key, convention)}
    blocks: list[Block] = [front_block(priced, key, convention, len(fronts) > 1)] if drawn else []
    text = []
    if left_out := [entry.name for entry in entries if entry not in priced and entry.get("steps")]:
        shown = ", ".join(left_out[:5]) + (", …" if len(left_out) > 5 else "")
        text.append(f"Left out, as they have no ledger or no {RULES[key].head}: {shown}.")
    if differ := results.mixed_words(priced, key):
        what = "a loss per token" if key == "validation_loss" else "an error"
        text.append(
            f"Runs that differ in {differ} do not compare: {what} is not the same quantity for all of them."
            + (" Each group has a front of its own." if drawn else " The front holds only among runs that agree in these.")
        )
    return Section("What a budget buys", [*blocks, budget_table(fronts, key, convention)], " ".join(text))


def front_block(priced: Sequence[Entry], key: str, convention: str, wide: bool) -> Figure:
    """Returns error against FLOPs of runs; `wide` with a front for each group that compares."""
    points = [Point(entry.name, float(entry.priced[convention]), float(entry.get(key))) for entry in priced]
    groups, rule = results.groups_of(priced, key) if wide else (), rule_words(key)
    drawing = sweeps.pareto_figure(points, f"FLOPs ({convention})", rule, groups, 2 * WIDTH if wide else WIDTH)
    caption = (
        f"{rule[0].upper()}{rule[1:]} against FLOPs of {len(priced)} runs: a line joins those that no other"
        f"{' of its group' if wide else ''} beats in both, numbered as in the table of what a budget buys."
    )
    label = f"{rule} against FLOPs of {len(priced)} runs with the Pareto front"
    return figure(drawing, label, caption, "full" if wide else "cell")


def losses_block(entries: Sequence[Entry]) -> Figure | None:
    """Returns the losses of all runs in one figure; None if no run logged any."""
    logged = [entry for entry in entries if len(figures.curve(entry.figures.history, "loss")[0])]
    if not logged:
        return None
    groups, differ = results.groups_of(logged, "validation_loss"), results.mixed_words(logged, "validation_loss")
    plain_groups = [group.partition(": ")[2] for group in groups]  # letters are those of the figure above
    if len(set(plain_groups)) == len(set(groups)):
        groups = plain_groups
    runs = [replace(entry.figures, name=entry.name) for entry in logged]
    names = [entry.name for entry in logged] if len(logged) <= COLOURS else groups
    caption = "Training loss by step (lines), and validation loss as dots."
    several = 1 < len(set(names)) <= COLOURS or len(logged) == 1
    if several:
        drawing = sweeps.grouped_losses_figure(runs, names)
    else:
        best = min(logged, key=lambda entry: entry.get(results.axis_of(entries)) or float("inf"))
        drawing = sweeps.losses_figure(runs, best.name)
        caption += f" In colour: {best.name}."
    if differ:
        caption += f" The runs differ in {differ}: their losses per token are of different texts."
    label = f"Training and validation losses of {len(logged)} runs by step"
    return figure(drawing, label, caption, "full" if several else "cell")


def summary(entries: Sequence[Entry]) -> str:
    """Says which run is the best, by what, and what it cost."""
    trained = [entry for entry in entries if entry.get("steps")]
    key = "forecast_mae" if trained and all(entry.get("forecast_mae") for entry in trained) else "validation_loss"
    measured = [entry for entry in trained if entry.get(key)]
    found = [f"{len(entries)} run{'s' if len(entries) > 1 else ''}."]
    differ = results.mixed_words(measured, key)
    if len(measured) > 1 and not differ:
        best = min(measured, key=lambda entry: entry.get(key))
        found.append(f"{best.name} has the least {rule_words(key)}: {number(best.get(key))}.")
    elif len(measured) > 1:
        found.append(f"By {rule_words(key)} they do not compare, as they differ in {differ}.")
    if on_test := results.best_on_test(entries):
        name, error, shared = on_test
        found.append(
            f"On the same {shared.size} test series, {shared.context} steps of context and {shared.horizon} of forecast,"
            f" {name} has the least mean absolute error: {number(error)} raw units."
        )
    return " ".join(found)


def sections(entries: Sequence[Entry]) -> list[Section]:
    """Returns a figure and the table of all runs, what a budget buys, the losses, and the settings if they are many."""
    measured = [entry for entry in entries if entry.get("validation_loss") is not None]
    differ = results.mixed_words(measured, "validation_loss") if len(measured) > 1 else ""
    text = (
        f"Validation losses do not compare between runs that differ in {differ}: they are losses per token of"
        " different texts. Errors in raw units do, if they are of the same series and steps."
        if differ
        else ""
    )
    budget, losses = budget_section(entries, results.axis_of(entries), CONVENTION), losses_block(entries)
    first = [budget.blocks[0]] if budget else [losses] if losses else []
    found = [Section("All runs", [*first, table(entries)], text)]
    if budget:
        found.append(replace(budget, blocks=budget.blocks[1:]))
        found += [Section("Losses", [losses])] if losses else []
    return [*found, Section("Settings that differ", settings_tables(entries))]
