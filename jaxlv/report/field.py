"""The page and the tables of `jaxlv field`: records of the field, every method on each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from jaxlv.report import terminal
from jaxlv.report.charts import Axis, Chart, Series, rows_of, single
from jaxlv.report.figures.evaluation import forecast_figure, row_styles
from jaxlv.report.format import number, percent
from jaxlv.report.page import Block, Figure, Page, Pairs, Section, figure
from jaxlv.report.table import NAME, Table, count, words
from jaxlv.report.theme import MUTED
from jaxlv.results.field import Field, FieldRecord, FieldScore, Relative
from jaxlv.results.panels import ForecastPanel

SHOWN = FieldScore.columns("mae", "mase", "crps", "crps_scaled", "crps_scaled_ci95")
BANDS = FieldScore.columns("coverage/50", "coverage/80", "coverage/95")
OVERALL = Relative.columns("crps_relative", "coverage_80", "least_coverage_80")


def counted(number: int, noun: str) -> str:
    """Returns a number of things in words: "1 window", "2 windows"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def record_table(name: str, record: FieldRecord) -> Table:
    """Returns every method's scores on a record."""
    caption = (
        f"{counted(record.windows, 'window')} of {record.series} series: {record.context} steps of context. Errors in the"
        " units of the record; scaled CRPS relative to the context's mean absolute value. Windows overlap, so intervals over"
        " them are narrower than they should be. Bold: the best."
    )
    return Table(f"Record {name}", caption, record.rows, [NAME, *SHOWN, *BANDS])


def overall_table(result: Field) -> Table:
    """Returns every method over all records."""
    caption = (
        f"Scaled CRPS relative to {result.best_baseline}, the best single baseline chosen afterwards: geometric mean over"
        " records. A method without samples has its absolute error for CRPS."
    )
    return Table("All records", caption, result.summary, [NAME, *OVERALL])


def record_figure(record: FieldRecord) -> Chart:
    """Draws the scaled CRPS of every method on a record, with its interval over windows, the best on top."""
    held = sorted((row for row in record.rows if row.crps_scaled), key=lambda row: row.crps_scaled or 0)
    styles, series = row_styles(row.name for row in record.rows), []
    for place, row in enumerate(held):
        ends = ([end] for end in row.crps_scaled_ci95 or (None, None))
        series.append(Series("mean", [place], [row.crps_scaled], *ends, colour=styles[row.name].colour, size=7))
    keys = [Series("mean and 95 % interval over windows", low=(), colour=MUTED, size=7)]
    axis = Axis("scaled CRPS", scale="log", tail=", logarithmic")
    return single("dots", series, axis, rows_of([row.name for row in held]), 84 + 24 * max(len(held), 1), keys=keys)


def overall_figure(result: Field) -> Chart:
    """Draws the scaled CRPS of every method relative to the best single baseline: a dot for each record, and the geometric
    mean, the best on top.
    """
    best = result.best_baseline or ""
    held = sorted((row for row in result.summary if row.crps_relative), key=lambda row: row.crps_relative or 0)
    names, series = [row.name for row in held], []
    for record in result.records.values():
        below = (one.crps_scaled if (one := record.row(best)) else None) or math.nan
        rows = [record.row(name) for name in names]
        values = [row.crps_scaled / below if row and row.crps_scaled else None for row in rows]
        series.append(Series("a record", range(len(names)), values, colour=MUTED, marker="o", size=5, open=True))
    means = [row.crps_relative for row in held]
    series.append(Series("geometric mean", range(len(names)), means, marker="D", size=7))
    keys = [replace(series[0], low=None), series[-1]]
    axis = Axis(f"scaled CRPS relative to {best}", scale="log", tail=", logarithmic")
    return single("dots", series, axis, rows_of(names), 84 + 26 * max(len(names), 1), keys=keys)


def summary(result: Field) -> str:
    """Says how the model and the pool stand, in sentences."""
    rows = {row.name: row for row in result.summary}
    first = next((rows[name] for name in ("tuned", "untuned") if name in rows), None)
    windows = sum(one.windows for one in result.records.values())
    sentences = [f"{counted(len(result.records), 'record')}, {counted(windows, 'window')}."]
    for one in filter(None, (rows.get("pool"), first)):
        if one.crps_relative is not None:
            inside = f"; its 80 % bands hold {percent(one.coverage_80)} %" if one.coverage_80 is not None else ""
            sentences.append(
                f"The {one.name if one.name == 'pool' else one.name + ' model'}'s CRPS is {number(one.crps_relative)} times"
                f" that of {result.best_baseline}, the best single baseline{inside}."
            )
    return " ".join(sentences)


def page_of(result: Field, shown: Mapping[str, ForecastPanel] = MappingProxyType({})) -> Page:
    """Returns the page of records of the field; `shown` has a forecast of each, by its name."""
    p = result.protocol
    settings = [
        ("model", p.model),
        ("context", f"{p.context} steps"),
        ("horizon", f"{p.horizon} steps"),
        ("origins", f"every {p.every} steps"),
        ("samples", f"{p.samples}, of the pool {p.pool_samples}"),
        ("seed", str(p.seed)),
        ("missing values", p.missing),
    ]
    label = "Scaled CRPS of every method relative to the best single baseline"
    first = figure(overall_figure(result), label, f"{label}, chosen afterwards.")
    sections = [Section("All records", [first, overall_table(result), _windows_table(result.records)])]
    for name, record in result.records.items():
        label = f"Scaled CRPS on {name}"
        drawn = [_forecast(name, shown[name])] if name in shown else []
        scores = figure(record_figure(record), label, f"{label}, every method.")
        blocks: list[Block] = [*drawn, scores, record_table(name, record), _weights(record.weights)]
        sections.append(Section(name, blocks, text="; ".join(record.notes)))
    left = [f"{name}: {reason}" for name, reason in result.left_out.items()]
    sections.append(Section("Left out", [], text="; ".join(left)))
    sections.append(Section("Settings", [Pairs("Settings", settings)]))
    return Page("Forecasts of field records", summary(result), (), sections)


def _forecast(name: str, panel: ForecastPanel) -> Figure:
    label = f"{name}: forecast {panel.series_id}"
    caption = f"{label}, the last window of the first series: context and truth in ink, the median in colour with its bands."
    return figure(forecast_figure(panel), label, caption)


def _windows_table(records: Mapping[str, FieldRecord]) -> Table:
    rows = [
        {"name": name, "variables": ", ".join(one.variables), "series": one.series, "windows": one.windows,
         "context": one.context}
        for name, one in records.items()
    ]  # fmt: skip
    caption = "Records, their series and windows; of a file with more than four variables each is a series, called value."
    columns = [NAME, words("variables"), count("series"), count("windows"), count("context", unit="steps")]
    return Table(
        "What was measured",
        caption,
        rows,
        columns,
    )


def _weights(weights: Mapping[str, float]) -> Pairs:
    pairs = [(name, f"{percent(weight)} %") for name, weight in weights.items()]
    return Pairs("Weights of the pool, mean over windows", pairs)


def format_tables(result: Field) -> str:
    """Writes every record's scores, and all records together, for a terminal."""
    blocks = []
    for name, record in result.records.items():
        blocks.append(f"{name}: {counted(record.windows, 'window')}, {record.context} -> {result.protocol.horizon} steps")
        blocks.append(_terminal([NAME, *SHOWN[:-1], *BANDS], record.rows))
    blocks += ["All records:", _terminal([NAME, *OVERALL], result.summary), summary(result)]
    return "\n\n".join(blocks)


def _terminal(columns: Sequence, rows: Sequence) -> str:
    return terminal.table(Table("", "", rows, columns), give_up=("mase",), grouped=True)
