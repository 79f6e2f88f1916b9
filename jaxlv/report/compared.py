"""Runs of several folders side by side: a table, their losses, error against FLOPs, and what a budget buys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from jaxlv.report import sweeps
from jaxlv.report.charts import WIDTH, Axis, Chart, Series, single
from jaxlv.report.figures import evaluation as figures
from jaxlv.report.format import number
from jaxlv.report.page import Block, Figure, Section, svg
from jaxlv.report.table import Table, column, count, marked, words
from jaxlv.results.quantities import Quantity
from jaxlv.results.side_by_side import (
    CONVENTION,
    EXACT,
    Entry,
    Row,
    axis_of,
    best_on_test,
    budget_rows,
    differing,
    front_of,
    fronts_of,
    groups_of,
    mixed,
    row_of,
    rows_of,
)  # fmt: skip
from jaxlv.results.sweeps import RULES, rule_words

COLOURS = len(sweeps.GROUPS)  # runs up to which each has a colour of its own
SETTINGS, PAPER = 6, 9  # columns of settings that a table of runs holds beside its figures, and without them
# ---------------------------------------------------------------------------------------------- settings


def setting_columns(names: Sequence[str], rows: Sequence[Row]) -> list[Quantity]:
    """A column for each setting, under its section; long words wrap."""
    sections = list(dict.fromkeys(name.partition(".")[0] for name in names))
    columns = []
    for name in sorted(names, key=lambda name: sections.index(name.partition(".")[0])):
        section, _, key = name.partition(".")
        long = any(len(str(row.get(name))) > 16 for row in rows)
        columns.append(column(name, key.replace("_", " "), section, form="words" if long else "literal"))
    return columns


# --------------------------------------------------------------------------------------------- the table


def table(entries: Sequence[Entry]) -> Table:
    """Every run, a row each: the settings that differ, errors, costs."""
    rows = rows_of(entries)
    measured = [
        count("steps", "steps", "training"),
        count("tokens", "tokens", "training"),
        column("validation_loss", "loss", "validation", "nats per token"),
        column("validation_perplexity", "perplexity"),
        column("forecast_mae", "MAE", "validation", "raw units"),
        column("test_mae", "MAE", "test", "raw units"),
        column("tested_on", "tested on", form="literal"),
        column(CONVENTION, CONVENTION, "training and validation", "FLOPs"),
        column(EXACT, EXACT, "training and validation", "FLOPs"),
        column("seconds", "time", "training", "s"),
    ]
    if len({row.get("tested_on") for row in rows if row.get("tested_on")}) < 2:
        measured = [column for column in measured if column.key != "tested_on"]
    held = [column for column in measured if any(row.get(column.key) is not None for row in rows)]
    caption = (
        "Every run; validation figures are those of a run's best checkpoint. Test: mean"
        f" absolute error over held-out series{_tested_words(rows)}. “–”: not measured, or not counted."
    )
    if any(row["front"] for row in rows):
        caption += " Bold: no run that compares has both less error and fewer FLOPs."
    names = differing(entries)
    columns = [*held, *(setting_columns(names, rows) if len(names) <= SETTINGS else [])]
    return Table("Runs side by side", caption, rows, [words("name", "run"), *columns], marked("front"))


def settings_tables(entries: Sequence[Entry]) -> list[Table]:
    """The settings that differ, where they are too many for the table of the runs: some at a time, by section."""
    names = differing(entries)
    if len(names) <= SETTINGS:
        return []
    rows = [row_of(entry, names, None) for entry in entries]
    columns, found = setting_columns(names, rows), []
    for first in range(0, len(columns), PAPER):
        some = columns[first : first + PAPER]
        sections = ", ".join(dict.fromkeys(column.group for column in some))
        caption = f"The settings that differ: {sections}."
        if any(" (" in str(row.get(column.key)) for row in rows for column in some):
            caption += " Lists of series by their number and a mark of what is in them."
        found.append(Table(f"Settings that differ: {sections}", caption, rows, [words("name", "run"), *some]))
    return found


def _tested_words(rows: Sequence[Row]) -> str:
    found = sorted({row["tested_on"] for row in rows if row.get("tested_on")})
    if len(found) == 1:
        return f" ({found[0]} steps of context and forecast)"
    return ", which are not the same for all (steps of context + forecast)" if found else ""


def budget_table(fronts: Mapping[str, Sequence[Entry]], key: str, convention: str) -> Table:
    """The runs of each front: what the least error is that a budget buys, and with which settings."""
    rows, names = budget_rows(fronts, key), differing([entry for kept in fronts.values() for entry in kept])
    quantity, unit = RULES[key].head, RULES[key].unit
    columns = [
        column("place", "no.", form="count"),
        *([column("group", "group", form="literal")] if len(fronts) > 1 else []),
        *(
            column(name, name, "a budget of", "FLOPs")
            for name in dict.fromkeys((convention, EXACT))
            if any(row.get(name) for row in rows)
        ),
        column(key, "error", quantity, unit),
        column("gain", "less by", form="share"),
        count("steps"),
        count("tokens"),
        *(setting_columns(names, rows) if len(names) <= SETTINGS else []),
    ]
    caption = (
        f"What a budget buys: the run of least {quantity} that a budget of so many FLOPs holds, cheapest first. It goes for"
        " the next row where the budget reaches that; its error is less by so much. FLOPs are of training and validation."
    )
    return Table("What a budget buys", caption, rows, [words("name", "run"), *columns])


def budget_section(entries: Sequence[Entry], key: str, convention: str, drawn: bool = True) -> Section | None:
    """Error against FLOPs with its front, and what a budget buys; None where fewer than two runs are priced.

    Where it is drawn here, runs whose errors do not compare have a front each; elsewhere one front has been drawn of all.
    """
    held = [entry for entry in entries if entry.priced.get(convention) and entry.get(key)]
    if len(held) < 2:
        return None
    blocks: list[Block] = []
    differ = mixed(held, key)
    fronts = fronts_of(held, key, convention) if drawn else {"": front_of(held, key, convention)}
    if drawn:
        points = [(entry.name, float(entry.priced[convention]), float(entry.get(key))) for entry in held]
        wide = len(fronts) > 1
        groups = groups_of(held, key) if wide else ()
        rule = rule_words(key)
        drawing = sweeps.pareto_figure(points, f"FLOPs ({convention})", rule, groups, 2 * WIDTH if wide else WIDTH)
        caption = (
            f"{rule[0].upper()}{rule[1:]} against FLOPs of {len(held)} runs: a line joins those that no other"
            f"{' of its group' if wide else ''} beats in both, with their numbers in the table."
        )
        label = f"{rule} against FLOPs of {len(held)} runs with the Pareto front"
        blocks.append(Figure([svg(drawing, label)], caption, "full" if wide else "cell"))
    blocks.append(budget_table(fronts, key, convention))
    text = []
    left_out = [entry.name for entry in entries if entry not in held and entry.get("steps")]
    if left_out:
        shown = ", ".join(left_out[:5]) + (", …" if len(left_out) > 5 else "")
        text.append(f"Left out, as they have no ledger or no {RULES[key].head}: {shown}.")
    if differ:
        what = "a loss per token" if key == "validation_loss" else "an error"
        text.append(
            f"Runs that differ in {_listed(differ)} do not compare: {what} is not the same quantity for all of them."
            + (" Each group has a front of its own." if drawn else " The front holds only among runs that agree in these.")
        )
    return Section("What a budget buys", blocks, " ".join(text))


def _listed(differ: Mapping[str, str]) -> str:
    """The words of `mixed`, each once."""
    said = list(dict.fromkeys(differ.values()))
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"


# -------------------------------------------------------------------------------------------- the losses


def losses_figure(entries: Sequence[Entry], names: Sequence[str]) -> Chart:
    """Training loss (thin) and validation loss (dots) of runs by step, a colour for each of their names."""
    colours = dict(zip(dict.fromkeys(names), sweeps.GROUPS, strict=False))
    series = []
    for entry, name in zip(entries, names, strict=True):
        history, colour = entry.get("history") or [], colours[name]
        series.append(Series(name, *figures.curve(history, "loss"), colour=colour, width=0.8, alpha=0.6))
        dots = figures.curve(history, "validation_loss")
        series.append(
            Series(
                name, *dots, colour=colour, dash="none", marker="o", size=5, keyed=False, notes=[entry.name] * len(dots[0])
            )
        )
    keys = [Series(name, y=(), colour=colour, width=2.2) for name, colour in colours.items()]
    y = Axis("loss", "nats per token")
    return single("lines", series, figures.TRAINING_STEP, y, 320, width=2 * WIDTH, keys=keys)


def losses_block(entries: Sequence[Entry]) -> Figure | None:
    """The losses of all runs in one figure; None where no run logged any."""
    held = [entry for entry in entries if len(figures.curve(entry.get("history") or [], "loss")[0])]
    if not held:
        return None
    groups, differ = groups_of(held, "validation_loss"), mixed(held, "validation_loss")
    plain_groups = [group.partition(": ")[2] for group in groups]  # letters are those of the figure above
    if len(set(plain_groups)) == len(set(groups)):
        groups = plain_groups
    own = [entry.name for entry in held] if len(held) <= COLOURS else groups
    layout: Literal["cell", "full"] = "full"
    caption = "Training loss by step (lines), and validation loss as dots."
    if 1 < len(set(own)) <= COLOURS or len(held) == 1:
        drawing = losses_figure(held, own)
    else:
        best = min(held, key=lambda entry: entry.get(axis_of(entries)) or float("inf"))
        outcomes, layout = [{**entry.figures.tree(), "name": entry.name} for entry in held], "cell"
        drawing = sweeps.losses_figure(outcomes, best.name)
        caption += f" In colour: {best.name}."
    if differ:
        caption += f" The runs differ in {_listed(differ)}: their losses per token are of different texts."
    return Figure([svg(drawing, f"Training and validation losses of {len(held)} runs by step")], caption, layout)


# ------------------------------------------------------------------------------------------- all of them


def summary(entries: Sequence[Entry]) -> str:
    """Which run is the best, by what, and what it cost."""
    trained = [entry for entry in entries if entry.get("steps")]
    key = "forecast_mae" if trained and all(entry.get("forecast_mae") for entry in trained) else "validation_loss"
    held = [entry for entry in trained if entry.get(key)]
    found = [f"{len(entries)} run{'s' if len(entries) > 1 else ''}."]
    differ = mixed(held, key)
    if len(held) > 1 and not differ:
        best = min(held, key=lambda entry: entry.get(key))
        found.append(f"The least {rule_words(key)} has {best.name}: {number(best.get(key))}.")
    elif len(held) > 1:
        found.append(f"By {rule_words(key)} they do not compare, as they differ in {_listed(differ)}.")
    if on_test := best_on_test(entries):
        name, error, shared = on_test
        found.append(
            f"On the same {shared.size} test series, {shared.context} steps of context and {shared.horizon} of forecast,"
            f" the least mean absolute error has {name}: {number(error)} raw units."
        )
    return " ".join(found)


def sections(entries: Sequence[Entry]) -> list[Section]:
    """The table, what a budget buys, the losses, and the settings where they are many."""
    key = axis_of(entries)
    held = [entry for entry in entries if entry.get("validation_loss") is not None]
    differ = mixed(held, "validation_loss") if len(held) > 1 else {}
    text = (
        f"Validation losses do not compare between runs that differ in {_listed(differ)}: they are losses per token of"
        " different texts. Errors in raw units do, where they are of the same series and steps."
        if differ
        else ""
    )
    found: list[Section | None] = [Section("All runs", [table(entries)], text), budget_section(entries, key, CONVENTION)]
    if losses := losses_block(entries):
        found.append(Section("Losses", [losses]))
    found.append(Section("Settings that differ", settings_tables(entries)))
    return [section for section in found if section]
