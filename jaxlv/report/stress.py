"""The page and the tables of `jaxlv stress`: errors of every method under each condition of a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jaxlv.report import terminal
from jaxlv.report.figures.evaluation import level_figure
from jaxlv.report.format import percent
from jaxlv.report.page import Block, Page, Section, figure
from jaxlv.report.table import NAME, Table, words
from jaxlv.results.quantities import Quantity
from jaxlv.results.scores import Score
from jaxlv.results.stress import AboveTop, ConditionScores, Stress, StressScore

WIDE = 4  # conditions of one table
AXES = {
    "noise": "standard deviation of log-normal noise on the context",
    "missing steps": "share of the context's steps that are missing",
    "marked gaps": "share of the context's steps that are missing, and marked as such",
    "context": "steps of context",
    "origin": "first step forecast",
    "amplitude": "factor on all populations",
}
"""The groups that are drawn, and what their axis shows."""
MEAN, MEDIAN, INTERVAL, COVERAGE = Score.columns("mae", "mae_median", "mae_ci95", "coverage/80")


def across(entries: Sequence[ConditionScores]) -> dict[str, dict[str, StressScore | None]]:
    """Returns the scores of each method by the conditions' levels."""
    names = dict.fromkeys(row.name for entry in entries for row in entry.rows)
    return {name: {entry.level: entry.row(name) for entry in entries} for name in names}


def error_tables(group: str, entries: Sequence[ConditionScores], *measures: Quantity) -> list[Table]:
    """Returns a group's tables, of a few conditions each: mean, median and interval of the methods' errors."""
    first = entries[0]
    counts = sorted({len(entry.series) for entry in entries})
    caption = (
        f"Mean absolute error in raw units over the next {first.horizon} steps: mean and median over"
        f" {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} series, 95 % bootstrap interval of the mean;"
        f" {first.samples} samples, their median scored. Bold: the best mean."
    )
    shown, found = measures or (MEAN, replace(MEDIAN, better=""), INTERVAL), []
    for start in range(0, len(entries), WIDE):
        some = entries[start : start + WIDE]
        columns = [one.within(entry.level, group=entry.level, unit="") for entry in some for one in shown]
        found.append(Table(f"Errors by {group}", caption, across(some), [words("name", group), *columns]))
    return found


def coverage_table(group: str, entries: Sequence[ConditionScores]) -> Table:
    """Returns the share of the truth inside the 80 % band of each model's samples."""
    S = entries[0].samples
    caption = (
        f"Share of the truth, in %, inside the 80 % band; {S} samples of a model can cover at most"
        f" {percent((S - 1) / (S + 1))} %."
    )
    inside = replace(COVERAGE, group="inside the 80 % band", better="")
    shown = [inside.within(one.level, words=one.level, head=one.level) for one in entries]
    rows = {name: row for name, row in across(entries).items() if any(column.of(row) is not None for column in shown)}
    return Table(f"Coverage by {group}", caption, rows, [words("name", group), *shown])


def ceiling_table(entries: Sequence[ConditionScores]) -> Table | None:
    """Returns shares of truth and forecast above the scale's top by amplitude; None if nothing lies above it."""
    rows = {f"{row.name}, {entry.level}": row.above_top for entry in entries for row in entry.rows if row.above_top}
    if not any(above.truth or above.forecast for above in rows.values()):
        return None
    caption = (
        "Share of values above the top of the written scale, of the truth and of the samples: a model that has learnt that"
        " nothing lies there cannot follow."
    )
    return Table("Above the scale's top", caption, rows, [NAME, *AboveTop.columns("truth", "forecast")])


def page_of(result: Stress) -> Page:
    """Returns the page of a stress test."""
    sections = []
    for group, entries in result.groups.items():
        blocks: list[Block] = []
        if group in AXES and len(entries) > 1:
            label = f"Mean absolute error against {group}"
            blocks.append(figure(level_figure(entries, AXES[group]), label, f"{label}; logarithmic, in raw units."))
        blocks += [*error_tables(group, entries), coverage_table(group, entries)]
        ceiling = ceiling_table(entries) if group == "amplitude" else None
        sections.append(Section(f"By {group}", [*blocks, *([ceiling] if ceiling else [])]))
    count = max((len(entry.series) for entry in result.conditions), default=0)
    summary = f"Forecasts of at most {count} series of {result.data}, measured again under harder conditions."
    return Page("Forecasts under stress", summary, (), sections)


def format_tables(result: Stress) -> str:
    """Writes mean and median errors of each group, and what the 80 % bands hold, for a terminal."""
    blocks: list[str] = []
    for group, entries in result.groups.items():
        blocks += map(terminal.table, error_tables(group, entries, MEAN, MEDIAN))
        covered = coverage_table(group, entries)
        blocks += ["Inside the 80 % band:", terminal.table(covered)] if covered.rows else []
    return "\n\n".join([*blocks, f"Mean and median of the absolute error over series, in {result.unit}."])
