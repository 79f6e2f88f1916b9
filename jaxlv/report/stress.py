"""The page and the tables of `jaxlv stress`: errors of every method under each condition of a group, and by regime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxlv.report import figures
from jaxlv.report.page import MISSING, Block, Cell, Figure, Group, Page, Section, Table, align, number, percent, render, svg

Tree = Mapping[str, Any]


def groups_of(result: Tree) -> dict[str, list[Tree]]:
    """The conditions by group, in their order."""
    found: dict[str, list[Tree]] = {}
    for entry in result["conditions"]:
        found.setdefault(entry["group"], []).append(entry)
    return found


def methods_of(entries: Sequence[Tree]) -> list[str]:
    """The methods that were measured under the conditions."""
    return list(dict.fromkeys(row["name"] for entry in entries for row in entry["rows"]))


def _errors(entry: Tree) -> dict[str, tuple[float | None, float | None]]:
    return {row["name"]: (row["mae"], row["mae_median"]) for row in entry["rows"]}


def _table(
    label: str, caption: str, heads: Sequence[str], columns: Sequence[Mapping[str, tuple]], methods: Sequence[str]
) -> Table:
    """Methods by columns, mean and median each; the best mean of a column is marked."""
    rows: list[list[Cell]] = [[Cell(name)] for name in methods]
    for column in columns:
        means = [column.get(name, (None, None))[0] for name in methods]
        best = min((mean for mean in means if mean is not None), default=None)
        for row, name, mean in zip(rows, methods, means, strict=True):
            median = column.get(name, (None, None))[1]
            row.append(Cell(MISSING if mean is None else number(mean), mean, mean is not None and mean == best))
            row.append(Cell(MISSING if median is None else number(median), median))
    groups = [Group("", "", 1), *(Group(head, "", 2) for head in heads)]
    return Table(label, caption, groups, ["", *["mean", "median"] * len(heads)], rows)


def table_of(group: str, entries: Sequence[Tree]) -> Table:
    """A group's table."""
    first = entries[0]
    caption = (
        f"Mean absolute error in raw units, mean and median over {len(first['series'])} series;"
        f" {first['samples']} samples, their median scored. Bold: the best mean."
    )
    return _table(
        f"Errors by {group}", caption, [e["level"] for e in entries], [_errors(e) for e in entries], methods_of(entries)
    )


def regime_table(result: Tree) -> Table:
    """Errors of the clean forecasts by regime."""
    regimes = result["regimes"]
    heads = [f"{regime['regime']} ({len(regime['series'])})" for regime in regimes]
    columns = [{name: (value["mean"], value["median"]) for name, value in regime["mae"].items()} for regime in regimes]
    caption = "Mean absolute error in raw units of the undisturbed forecasts, by regime of the whole series (their number)."
    return _table("Errors by regime", caption, heads, columns, list(regimes[0]["mae"]))


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
        "Share of values above the top of the written scale: a model that has learnt that nothing lies there cannot follow."
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
        blocks: list[Block] = [table_of(group, entries)]
        if group != "simulated":
            picture = figures.level_figure(entries, group)
            blocks.append(
                Figure(
                    [svg(picture, f"Mean absolute error against {group}")],
                    f"Mean absolute error against {group}; logarithmic.",
                )
            )
        ceiling = ceiling_table(entries) if group == "amplitude" else None
        sections.append(Section(f"By {group}", [*blocks, *([ceiling] if ceiling else [])]))
    if result["regimes"]:
        sections.append(Section("By regime", [regime_table(result)]))
    count = len(result["conditions"][0]["series"]) if result["conditions"] else 0
    summary = f"Forecasts of {count} series of {result['data']}, measured again under harder conditions."
    return Page("Forecasts under stress", summary, (), sections)


def write_page(path: Path, result: Tree) -> None:
    """Write the page, whole or not at all."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(render(page_of(result)), encoding="utf-8")
    os.replace(unfinished, path)


def format_tables(result: Tree) -> str:
    """Mean errors of each group as plain text, and by regime."""
    blocks = [
        _format(group, [e["level"] for e in entries], [_errors(e) for e in entries])
        for group, entries in groups_of(result).items()
    ]
    if result["regimes"]:
        heads = [regime["regime"] for regime in result["regimes"]]
        columns = [{n: (v["mean"], v["median"]) for n, v in regime["mae"].items()} for regime in result["regimes"]]
        blocks.append(_format("regime", heads, columns))
    return "\n\n".join([*blocks, "Mean (median) of the absolute error over series, in raw units."])


def _format(group: str, heads: Sequence[str], columns: Sequence[Mapping[str, tuple]]) -> str:
    methods = list(dict.fromkeys(name for column in columns for name in column))
    texts = [[group, *methods]]
    for head, column in zip(heads, columns, strict=True):
        means = align([number(column[name][0]) for name in methods])
        medians = align([number(column[name][1]) for name in methods])
        texts.append([head, *(f"{mean} ({median.strip()})" for mean, median in zip(means, medians, strict=True))])
    widths = [max(map(len, column)) for column in texts]
    lines = [
        "  ".join(t.ljust(w) if i == 0 else t.rjust(w) for i, (t, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in zip(*texts, strict=True)
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]]).translate({ord("–"): "-", ord("−"): "-"})
