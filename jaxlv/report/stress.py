"""The page and the tables of `jaxlv stress`: errors of every method under each condition of a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxlv.report.figures import evaluation as figures
from jaxlv.report.page import MISSING, Block, Cell, Figure, Group, Page, Section, Table, align, number, percent, svg, write

Tree = Mapping[str, Any]
WIDE = 4  # conditions of one table
AXES = {
    "noise": "standard deviation of log-normal noise on the context",
    "missing steps": "share of the context's steps that are missing",
    "context": "steps of context",
    "origin": "first step forecast",
    "amplitude": "factor on all populations",
}
"""The groups that are drawn, and what their axis shows."""


def groups_of(result: Tree) -> dict[str, list[Tree]]:
    """The conditions by group, in their order."""
    found: dict[str, list[Tree]] = {}
    for entry in result["conditions"]:
        found.setdefault(entry["group"], []).append(entry)
    return found


def methods_of(entries: Sequence[Tree]) -> list[str]:
    """The methods that were measured under the conditions."""
    return list(dict.fromkeys(row["name"] for entry in entries for row in entry["rows"]))


def _row(entry: Tree, method: str) -> Tree:
    return next((row for row in entry["rows"] if row["name"] == method), {})


def tables_of(group: str, entries: Sequence[Tree]) -> list[Table]:
    """A group's tables, of a few conditions each: mean, median and interval of the methods' errors."""
    return [_table(group, entries[start : start + WIDE]) for start in range(0, len(entries), WIDE)]


def _table(group: str, entries: Sequence[Tree]) -> Table:
    methods = methods_of(entries)
    rows: list[list[Cell]] = [[Cell(name)] for name in methods]
    for entry in entries:
        found = [_row(entry, name) for name in methods]
        means = [row.get("mae") for row in found]
        best = min((mean for mean in means if mean is not None), default=None)
        for cells, row, mean in zip(rows, found, means, strict=True):
            median, interval = row.get("mae_median"), row.get("mae_ci95")
            cells.append(Cell(MISSING if mean is None else number(mean), mean, mean is not None and mean == best))
            cells.append(Cell(MISSING if median is None else number(median), median))
            text = f"{number(interval[0])} – {number(interval[1])}" if interval else MISSING
            cells.append(Cell(text, interval[0] if interval else None))
    first = entries[0]
    caption = (
        f"Mean absolute error in raw units over the next {first['horizon']} steps: mean and median over"
        f" {_counts(entries)} series, 95 % bootstrap interval of the mean; {first['samples']} samples, their median scored."
        " Bold: the best mean."
    )
    groups = [Group("", "", 1), *(Group(entry["level"], "", 3) for entry in entries)]
    return Table(f"Errors by {group}", caption, groups, ["", *["mean", "median", "95 % interval"] * len(entries)], rows)


def coverage_table(group: str, entries: Sequence[Tree]) -> Table:
    """The share of the truth inside the 80 % band of each model's samples."""
    models = [name for name in methods_of(entries) if _row(entries[0], name).get("coverage")]
    rows = [
        [Cell(name), *(Cell(percent(share := _row(e, name)["coverage"]["80"]), share) for e in entries)] for name in models
    ]
    S = entries[0]["samples"]
    caption = (
        f"Share of the truth, in %, inside the 80 % band; {S} samples can cover at most {percent((S - 1) / (S + 1))} %."
    )
    groups = [Group("", "", 1), Group("inside the 80 % band", "%", len(entries))]
    return Table(f"Coverage by {group}", caption, groups, ["", *(entry["level"] for entry in entries)], rows)


def _counts(entries: Sequence[Tree]) -> str:
    counts = list(dict.fromkeys(len(entry["series"]) for entry in entries))
    return str(counts[0]) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def ceiling_table(entries: Sequence[Tree]) -> Table | None:
    """Shares of truth and forecast above the scale's top by amplitude; None where nothing lies above it."""
    rows = [[e["level"], row["name"], row["above_top"]] for e in entries for row in e["rows"] if row.get("above_top")]
    if not any(above["truth"] or above["forecast"] for *_, above in rows):
        return None
    cells = [
        [Cell(f"{name}, {level}"), *(Cell(percent(above[k]), above[k]) for k in ("truth", "forecast"))]
        for level, name, above in rows
    ]
    caption = (
        "Share of values above the top of the written scale, of the truth and of the samples: a model that has learnt that"
        " nothing lies there cannot follow."
    )
    return Table(
        "Above the scale's top",
        caption,
        [Group("", "", 1), Group("above the top", "%", 2)],
        ["", "truth", "forecast"],
        cells,
    )


def page_of(result: Tree) -> Page:
    """The page of a stress test."""
    sections = []
    for group, entries in groups_of(result).items():
        blocks: list[Block] = []
        if group in AXES:
            picture = figures.level_figure(entries, AXES[group])
            label = f"Mean absolute error against {group}"
            blocks.append(Figure([svg(picture, label)], f"{label}; logarithmic, in raw units."))
        blocks += [*tables_of(group, entries), coverage_table(group, entries)]
        ceiling = ceiling_table(entries) if group == "amplitude" else None
        sections.append(Section(f"By {group}", [*blocks, *([ceiling] if ceiling else [])]))
    count = max((len(entry["series"]) for entry in result["conditions"]), default=0)
    summary = f"Forecasts of at most {count} series of {result['data']}, measured again under harder conditions."
    return Page("Forecasts under stress", summary, (), sections)


def write_page(path: Path, result: Tree) -> None:
    """Write the page, whole or not at all."""
    write(path, page_of(result))


def format_tables(result: Tree) -> str:
    """Mean and median errors of each group as plain text."""
    blocks = [_format(group, entries) for group, entries in groups_of(result).items()]
    words = (
        "Mean (median) of the absolute error over series, in raw units; inside 80 %: share of the truth inside that band."
    )
    return "\n\n".join([*blocks, words])


def _format(group: str, entries: Sequence[Tree]) -> str:
    methods = methods_of(entries)
    models = [name for name in methods if _row(entries[0], name).get("coverage")]
    columns = [[group, *methods, *(f"{name}: inside 80 %" for name in models)]]
    for entry in entries:
        rows = [_row(entry, name) for name in methods]
        means, medians = (
            align([number(row[key]) if row else MISSING for row in rows]) for key in ("mae", "mae_median")
        )  # the equations that made the series of one condition are an oracle there, and not elsewhere
        inside = [f"{percent(_row(entry, name)['coverage']['80'])} %" for name in models]
        columns.append([entry["level"], *(f"{a} ({b.strip()})" for a, b in zip(means, medians, strict=True)), *inside])
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(t.ljust(w) if i == 0 else t.rjust(w) for i, (t, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in zip(*columns, strict=True)
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]]).translate({ord("–"): "-", ord("−"): "-"})
