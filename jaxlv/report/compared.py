"""Runs of several folders side by side: a table, their losses, error against FLOPs, and what a budget buys."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from jaxlv.report import evaluation, sweeps
from jaxlv.report.charts import WIDTH, Axis, Chart, Series, shortened, single
from jaxlv.report.figures import evaluation as figures
from jaxlv.report.folders import Evaluation, Run
from jaxlv.report.page import Block, Figure, Section, Table, number, svg
from jaxlv.report.tables.columns import Column, count, table_of, words

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
COLOURS = len(sweeps.GROUPS)  # runs up to which each has a colour of its own
SETTINGS, PAPER = 6, 9  # columns of settings that a table of runs holds beside its figures, and without them
Row = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A run under the name that it has on a page of several."""

    name: str
    run: Run

    @property
    def folder(self) -> str:
        """The folder's part of the name."""
        return self.name.removesuffix(f"/{self.run.name}")

    @property
    def priced(self) -> Mapping[str, int]:
        """FLOPs of the training by convention; empty where nothing was trained or counted."""
        return (self.run.figures.get("flops") or {}) if self.run.figures.get("steps") else {}

    def get(self, key: str) -> Any:
        """A figure of the run, None where it has none."""
        return self.run.figures.get(key)


# ---------------------------------------------------------------------------------------------- settings


def differing(entries: Sequence[Entry]) -> list[str]:
    """The settings, "section.key", that not all entries share, of those that have settings."""
    held = [entry.run.settings for entry in entries if entry.run.settings]
    names = dict.fromkeys(name for settings in held for name in settings)
    return [
        name
        for name in names
        if not name.startswith(SILENT) and len({repr(setting(name, settings.get(name))) for settings in held}) > 1
    ]


def setting(name: str, value: Any) -> Any:
    """A setting as a cell has it: numbers as they are, a file by its name, a long list by its length and a mark."""
    if isinstance(value, (list, tuple)) and len(value) > 8:
        return f"{len(value)} ({hashlib.sha256(repr(value).encode()).hexdigest()[:4]})"
    if name.endswith(".path") and isinstance(value, str):
        return value.rstrip("/").rpartition("/")[2]
    number_like = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if number_like or value is None else sweeps.setting(value)


def setting_columns(names: Sequence[str], rows: Sequence[Row]) -> list[Column]:
    """A column for each setting, under its section; long words wrap."""
    sections = list(dict.fromkeys(name.partition(".")[0] for name in names))
    columns = []
    for name in sorted(names, key=lambda name: sections.index(name.partition(".")[0])):
        section, _, key = name.partition(".")
        long = any(len(str(row.get(name))) > 16 for row in rows)
        columns.append(Column(name, key.replace("_", " "), section, form="text" if long else "literal"))
    return columns


# --------------------------------------------------------------------------------------------- the table


class Protocol(NamedTuple):
    """What makes two test errors comparable."""

    data: Any
    ids: Any
    context: Any
    horizon: Any


def protocol_of(measured: Evaluation) -> Protocol:
    """Returns what an evaluation was measured under."""
    protocol = measured.metrics["protocol"]
    series = protocol.get("series") or ()
    ids = tuple(sorted(series)) if isinstance(series, list) else series
    return Protocol(protocol.get("data_sha256"), ids, protocol.get("context"), protocol.get("horizon"))


def _count(ids: Any) -> int:
    """How many series a protocol names, by their ids or their number."""
    return ids if isinstance(ids, int) else len(ids)


def shared_protocol(entries: Sequence[Entry]) -> Protocol | None:
    """The protocol that most entries were measured under, the first of equals; None where none was measured."""
    found = [key for entry in entries for key in dict.fromkeys(protocol_of(one) for one in entry.run.evaluations)]
    return max(found, key=found.count) if found else None


def tested(entry: Entry, shared: Protocol | None) -> Row:
    """A run's error on test series and what these are: under the shared protocol where it was, else its first evaluation."""
    held = sorted(entry.run.evaluations, key=lambda one: protocol_of(one) != shared)
    if not held:
        return {}
    row, (_, ids, context, horizon) = evaluation.subject(held[0].metrics) or {}, protocol_of(held[0])
    return {"test_mae": row.get("mae"), "tested_on": f"{_count(ids)} series, {context} + {horizon}"}


def row_of(entry: Entry, names: Sequence[str], shared: Protocol | None) -> Row:
    """An entry as a row: settings, what it reached, what it cost."""
    flops = entry.run.figures.get("flops") or {}
    keys = ("steps", "tokens", "validation_loss", "validation_perplexity", "forecast_mae", "seconds")
    return {
        "name": entry.name,
        **{name: setting(name, entry.run.settings.get(name)) for name in names},
        **{key: entry.get(key) for key in keys},
        **tested(entry, shared),
        CONVENTION: flops.get(CONVENTION),
        EXACT: flops.get(EXACT),
    }


def rows_of(entries: Sequence[Entry]) -> list[Row]:
    """A row for each entry; those on the front of error against FLOPs are marked."""
    names, shared = differing(entries), shared_protocol(entries)
    held = [entry for entry in entries if entry.priced.get(CONVENTION) and entry.get(axis_of(entries))]
    groups = groups_of(held, axis_of(entries))
    fronts = fronts_of(held, axis_of(entries), CONVENTION)
    kept = [entry for name, front in fronts.items() if groups.count(name) > 1 for entry in front]
    return [{**row_of(entry, names, shared), "front": entry in kept} for entry in entries]


def table(entries: Sequence[Entry]) -> Table:
    """Every run, a row each: the settings that differ, errors, costs."""
    rows = rows_of(entries)
    measured = [
        count("steps", "steps", "training"),
        count("tokens", "tokens", "training"),
        Column("validation_loss", "loss", "validation", "nats per token"),
        Column("validation_perplexity", "perplexity"),
        Column("forecast_mae", "MAE", "validation", "raw units"),
        Column("test_mae", "MAE", "test", "raw units"),
        Column("tested_on", "tested on", form="literal"),
        Column(CONVENTION, CONVENTION, "training and validation", "FLOPs"),
        Column(EXACT, EXACT, "training and validation", "FLOPs"),
        Column("seconds", "time", "training", "s"),
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
    return table_of("Runs side by side", caption, rows, words("name", "run"), columns, bold="front")


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
        found.append(table_of(f"Settings that differ: {sections}", caption, rows, words("name", "run"), some))
    return found


def _tested_words(rows: Sequence[Row]) -> str:
    found = sorted({row["tested_on"] for row in rows if row.get("tested_on")})
    if len(found) == 1:
        return f" ({found[0]} steps of context and forecast)"
    return ", which are not the same for all (steps of context + forecast)" if found else ""


# --------------------------------------------------------------------------------- error against FLOPs


def axis_of(entries: Sequence[Entry]) -> str:
    """What runs are compared by: the forecasts' MAE in raw units where all that are priced have it, else validation loss."""
    priced = [entry for entry in entries if CONVENTION in entry.priced]
    return "forecast_mae" if priced and all(entry.get("forecast_mae") for entry in priced) else "validation_loss"


def mixed(entries: Sequence[Entry], key: str) -> dict[str, str]:
    """{setting: word} of those that differ and make an error of one run another thing than that of the next."""
    starts = LOSSES if key == "validation_loss" else FORECASTS
    found = {
        name: next((word for start, word in starts.items() if name.startswith(start)), "") for name in differing(entries)
    }
    return {name: word for name, word in found.items() if word}


def groups_of(entries: Sequence[Entry], key: str) -> list[str]:
    """For each entry the group in which its error compares, by a letter, its members and what tells it from others of them;
    "" where there is one group.
    """
    names = mixed(entries, key)
    keys = [tuple(repr(setting(name, entry.run.settings.get(name))) for name in names) for entry in entries]
    order = {own: [entry for entry, k in zip(entries, keys, strict=True) if k == own] for own in keys}
    if len(order) < 2:
        return [""] * len(entries)
    said = {own: f"{chr(65 + i % 26)}: {_members(held, entries, key)}" for i, (own, held) in enumerate(order.items())}
    return [said[own] for own in keys]


def _members(held: Sequence[Entry], entries: Sequence[Entry], key: str) -> str:
    """A group in words: its run, or the folders of its runs with what tells them from other runs of these."""
    if len(held) == 1:
        return shortened(held[0].name, 70)
    folders = list(dict.fromkeys(entry.folder for entry in held))
    names = mixed([entry for entry in entries if entry.folder in folders], key)
    values = {name: setting(name, held[0].run.settings.get(name)) for name in names}
    own = [f"{name.partition('.')[2].replace('_', ' ')} {sweeps.setting(value)}" for name, value in values.items()]
    return shortened(", ".join([*folders, *own]), 70)


def front_of(entries: Sequence[Entry], key: str, convention: str) -> list[Entry]:
    """The entries that no other beats in both error and FLOPs, cheapest first."""
    held = [entry for entry in entries if entry.priced.get(convention) and entry.get(key)]
    points = [(float(entry.priced[convention]), float(entry.get(key))) for entry in held]
    return [held[index] for index in sweeps.front(points)]


def fronts_of(entries: Sequence[Entry], key: str, convention: str) -> dict[str, list[Entry]]:
    """The front of each group of entries whose errors compare."""
    groups = groups_of(entries, key)
    return {
        name: front_of([entry for entry, group in zip(entries, groups, strict=True) if group == name], key, convention)
        for name in dict.fromkeys(groups)
    }


def budget_table(fronts: Mapping[str, Sequence[Entry]], key: str, convention: str) -> Table:
    """The runs of each front: what the least error is that a budget buys, and with which settings."""
    rows: list[Row] = []
    names = differing([entry for kept in fronts.values() for entry in kept])
    for group, kept in fronts.items():
        before: Row = {}
        for one in kept:
            row = {"place": len(rows) + 1, "group": group[:1], **row_of(one, names, None), **one.priced}
            if before:
                row["gain"] = 1 - row[key] / before[key]
            rows.append(row)
            before = row
    quantity, _, unit = sweeps.RULES[key].rstrip(")").partition(" (")
    columns = [
        Column("place", "no.", form="count"),
        *([Column("group", "group", form="literal")] if len(fronts) > 1 else []),
        *(
            Column(name, name, "a budget of", "FLOPs")
            for name in dict.fromkeys((convention, EXACT))
            if any(row.get(name) for row in rows)
        ),
        Column(key, "error", quantity, unit),
        Column("gain", "less by, %", form="percent"),
        count("steps"),
        count("tokens"),
        *(setting_columns(names, rows) if len(names) <= SETTINGS else []),
    ]
    caption = (
        f"What a budget buys: the run of least {quantity} that a budget of so many FLOPs holds, cheapest first. It goes for"
        " the next row where the budget reaches that; its error is less by so much. FLOPs are of training and validation."
    )
    return table_of("What a budget buys", caption, rows, words("name", "run"), columns)


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
        rule = sweeps.RULES[key]
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
        text.append(f"Left out, as they have no ledger or no {sweeps.RULES[key].partition(' (')[0]}: {shown}.")
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
        outcomes, layout = [{**entry.run.figures, "name": entry.name} for entry in held], "cell"
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
        found.append(f"The least {sweeps.RULES[key]} has {best.name}: {number(best.get(key))}.")
    elif len(held) > 1:
        found.append(f"By {sweeps.RULES[key]} they do not compare, as they differ in {_listed(differ)}.")
    shared = shared_protocol(entries)
    on_test = [
        (row["mae"], entry.name)
        for entry in entries
        for one in entry.run.evaluations
        if protocol_of(one) == shared and (row := evaluation.subject(one.metrics)) and row.get("mae")
    ]
    if len(on_test) > 1 and shared:
        error, name = min(on_test)
        series = _count(shared[1])
        found.append(
            f"On the same {series} test series, {shared[2]} steps of context and {shared[3]} of forecast, the least"
            f" mean absolute error has {name}: {number(error)} raw units."
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
