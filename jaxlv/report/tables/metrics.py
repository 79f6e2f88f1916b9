"""The rows of metrics.json as tables: for a page, with the best of each column marked, and for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxlv.report.page import MISSING, Cell, Group, Table, align, number, percent

LEVELS = ("50", "80", "95")  # of the bands, in %


@dataclass(frozen=True)
class Measure:
    """A column: where its number stands in a row of metrics, its headings, and which value is best."""

    path: tuple[str, ...]
    group: str
    header: str
    short: str  # heading in a terminal
    unit: str = ""
    better: str | float = "min"  # "min", "max", the value to come nearest to, or "" for none
    rank: int = 0  # columns of the highest rank leave a narrow terminal first

    @property
    def is_interval(self) -> bool:
        """Is this a 95 % interval?"""
        return self.path[-1].endswith("_ci95")

    def of(self, row: Mapping[str, Any]) -> Any:
        """The row's number (or pair of numbers); None where it is missing or not finite."""
        return value_at(row, *self.path)

    def format(self, value: Any) -> str:
        """A value of it in words."""
        return percent(value) if self.unit == "%" else number(value, of_one=self.path[-1] == "r2")


def value_at(row: Mapping[str, Any], *path: str) -> Any:
    """The number, or pair of numbers, at nested keys of `row`; None where it is missing or not finite."""
    value: Any = row
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    if value is None or not np.isfinite(np.asarray(value, dtype=float)).all():
        return None
    return value


def measures(metrics: Mapping[str, Any]) -> list[Measure]:
    """The columns of the main table, with the protocol's units."""
    unit, squared = unit_of(metrics, "mae"), unit_of(metrics, "mse")
    return [
        Measure(("mae",), "Absolute error", "mean", "MAE", unit),
        Measure(("mae_ci95",), "Absolute error", "95 % interval", "95% interval", unit, rank=1),
        Measure(("mae_median",), "Absolute error", "median", "median", unit),
        Measure(("mae_first_5",), "Absolute error", "first 5", "first 5", unit, rank=2),
        Measure(("mse",), "Squared error", "mean", "MSE", squared, rank=6),
        Measure(("r2",), "Relative", "R²", "R2", "", "max", 3),
        Measure(("mase",), "Relative", "MASE", "MASE"),
        Measure(("crps",), "Bands", "CRPS", "CRPS", unit, rank=2),
        Measure(("coverage", "50"), "Coverage of bands", "50 %", "50%", "%", 0.50, 5),
        Measure(("coverage", "80"), "Coverage of bands", "80 %", "80%", "%", 0.80, 1),
        Measure(("coverage", "95"), "Coverage of bands", "95 %", "95%", "%", 0.95, 4),
        Measure(("valid_share",), "Valid samples", "masked", "valid", "%", "max", 1),
        Measure(("valid_share_unmasked",), "Valid samples", "free", "free", "%", "max", 2),
    ]


def sample_measures(metrics: Mapping[str, Any]) -> list[Measure]:
    """The columns of the table of sampled trajectories, without those that no row has."""
    unit, nats = unit_of(metrics, "mae"), unit_of(metrics, "nats_per_value").partition(",")[0]
    return _held(
        metrics,
        [
            Measure(("crps",), "Scores", "CRPS", "CRPS", unit),
            Measure(("energy_score",), "Scores", "energy", "energy", unit),
            Measure(("energy_score_ci95",), "Scores", "95 % interval", "95% interval", unit),
            *_bands("coverage", "Coverage of bands", "%"),
            *_bands("interval_width", "Width of bands", unit),
            Measure(("nats_per_value",), "Likelihood", "mean", "nats", nats),
            Measure(("nats_per_value_ci95",), "Likelihood", "95 % interval", "95% interval", nats),
        ],
    )


def conformal_measures(metrics: Mapping[str, Any]) -> list[Measure]:
    """The columns of the table of adjusted bands, without those that no row has."""
    unit = unit_of(metrics, "mae")
    return _held(
        metrics,
        [
            *_bands("coverage_conformal", "Coverage, adjusted", "%"),
            *_bands("interval_width_conformal", "Width, adjusted", unit),
        ],
    )


def _bands(key: str, group: str, unit: str) -> list[Measure]:
    """A column for each band: coverage is best near its level, a width is good or bad only beside its coverage."""
    better = {level: float(level) / 100 if unit == "%" else "" for level in LEVELS}
    return [Measure((key, level), group, f"{level} %", f"{level}%", unit, better[level]) for level in LEVELS]


def _held(metrics: Mapping[str, Any], columns: Sequence[Measure]) -> list[Measure]:
    return [measure for measure in columns if any(measure.of(row) is not None for row in metrics["rows"])]


def variable_measures(metrics: Mapping[str, Any]) -> list[Measure]:
    """The columns of the table by variable, without those that no row has."""
    variables = dict.fromkeys(name for row in metrics["rows"] for name in row.get("per_variable") or {})
    kinds: tuple[tuple[str, str, str | float], ...] = (
        ("mae", "MAE", "min"),
        ("mse", "MSE", "min"),
        ("r2", "R²", "max"),
        ("mase", "MASE", "min"),
    )
    found = [Measure(("per_variable", v, key), v, head, head, better=good) for v in variables for key, head, good in kinds]
    return _held(metrics, found)


def unit_of(metrics: Mapping[str, Any], key: str) -> str:
    """The unit of a measure, as its protocol has it, else the usual one."""
    default = {"mse": "raw units²", "nats_per_value": "nats"}.get(key, "raw units")
    units = metrics.get("protocol", {}).get("units") or {}
    return str(units.get(key) or default) if isinstance(units, Mapping) else default


def best_of(measure: Measure, values: Sequence[Any]) -> list[bool]:
    """Which values are the column's best; none where fewer than two rows have one, or all are equal."""
    held = [value for value in values if value is not None]
    if len(held) < 2 or measure.is_interval or measure.better == "":
        return [False] * len(values)

    def distance(value: float) -> float:
        if isinstance(measure.better, float):
            return abs(value - measure.better)
        return -value if measure.better == "max" else value

    distances = [distance(value) for value in held]
    return [v is not None and min(distances) < max(distances) and distance(v) == min(distances) for v in values]


def column_texts(measure: Measure, values: Sequence[Any], digit: str = " ", point: str = " ") -> list[str]:
    """A column as text, decimal points aligned."""
    if not measure.is_interval:
        return align([measure.format(value) for value in values], digit, point)
    low, high = (align([number(v[side] if v else None) for v in values], digit, point) for side in (0, 1))
    return [f"{a.strip()} – {b.lstrip()}" if v else MISSING for a, b, v in zip(low, high, values, strict=True)]


def table(label: str, caption: str, metrics: Mapping[str, Any], columns: Sequence[Measure]) -> Table:
    """The rows of `metrics` in `columns`; neighbours with one group share a heading."""
    rows = metrics["rows"]
    lines: list[list[Cell]] = [[Cell(str(row["name"]))] for row in rows]
    groups = [Group("", "", 1)]
    for measure in columns:
        values = [measure.of(row) for row in rows]
        texts = column_texts(measure, values, digit="\N{FIGURE SPACE}", point="\N{PUNCTUATION SPACE}")
        for line, value, text, best in zip(lines, values, texts, best_of(measure, values), strict=True):
            line.append(Cell(text, value[0] if value and measure.is_interval else value, best))
        if groups[-1].name == measure.group:
            groups[-1] = replace(groups[-1], span=groups[-1].span + 1)
        else:
            groups.append(Group(measure.group, measure.unit, 1))
    return Table(label, caption, groups, ["", *(measure.header for measure in columns)], lines)


def format_table(metrics: Mapping[str, Any], width: int = 110) -> str:
    """The main table as plain ASCII of at most `width` columns; columns that do not fit are named below."""
    rows = metrics["rows"]
    columns = [measure for measure in measures(metrics) if any(measure.of(row) is not None for row in rows)]
    left_out: list[str] = []
    names = [_ascii(_cut(str(row["name"]), 28)) for row in rows]
    gap = 2
    while True:
        texts = [["", *names], *([m.short, *_narrow(m, rows)] for m in columns)]
        widths = [max(map(len, column)) for column in texts]
        total = sum(widths) + gap * len(columns)
        if total <= width or not columns:
            break
        if gap > 1:
            gap = 1
        else:
            columns.remove(last := max(columns, key=lambda m: m.rank))
            left_out.append(last.short)
    padded = [
        [t.rjust(w) if i else t.ljust(w) for t in column] for i, (column, w) in enumerate(zip(texts, widths, strict=True))
    ]
    lines = [(" " * gap).join(line).rstrip() for line in zip(*padded, strict=True)]
    notes = [
        f"MAE, interval, median, first 5 steps and CRPS in {unit_of(metrics, 'mae')}, MSE in {unit_of(metrics, 'mse')}."
    ]
    if any(m.unit == "%" for m in columns):
        notes.append(
            "50%, 80%, 95%: share of the truth inside that band. valid, free: % of samples with, without the grammar."
        )
    if left_out:
        notes.append(f"Left out for width: {', '.join(left_out)}.")
    return "\n".join([lines[0], "-" * total, *lines[1:], *textwrap.wrap(_ascii(" ".join(notes)), width)])


def format_samples(metrics: Mapping[str, Any]) -> str:
    """The measures of sampled trajectories as plain ASCII, a column for each model; empty where no row has samples."""
    rows = [row for row in metrics["rows"] if value_at(row, "crps") is not None]
    if not rows:
        return ""

    def levels(key: str, share: bool = False) -> list[str]:
        found = [[value_at(row, key, level) for level in LEVELS] for row in rows]
        return [" / ".join(percent(v) if share else number(v) for v in values) for values in found]

    def with_interval(key: str) -> list[str]:
        ends = [value_at(row, f"{key}_ci95") for row in rows]
        spans = [f" ({number(end[0])} to {number(end[1])})" if end else "" for end in ends]
        return [number(value_at(row, key)) + span for row, span in zip(rows, spans, strict=True)]

    unit, together = unit_of(metrics, "mae"), " / ".join(LEVELS)
    lines = {
        "": [str(row["name"]) for row in rows],
        "temperature": [number(value_at(row, "temperature")) for row in rows],
        f"CRPS, {unit}": [number(value_at(row, "crps")) for row in rows],
        f"energy score, {unit}": with_interval("energy_score"),
        f"inside {together} % bands, %": levels("coverage", share=True),
        f"width of these, {unit}": levels("interval_width"),
        "inside, adjusted (conformal), %": levels("coverage_conformal", share=True),
        f"width, adjusted, {unit}": levels("interval_width_conformal"),
        "nats per value": with_interval("nats_per_value"),
    }
    held = {name: cells for name, cells in lines.items() if not name or any(MISSING not in cell for cell in cells)}
    widths = [max(map(len, column)) for column in ([*held], *zip(*held.values(), strict=True))]
    texts = [
        "  ".join(t.ljust(w) for t, w in zip((name, *cells), widths, strict=True)).rstrip() for name, cells in held.items()
    ]
    return _ascii("\n".join([texts[0], "-" * (sum(widths) + 2 * len(rows)), *texts[1:]]))


def _narrow(measure: Measure, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A column for the terminal: coverage in whole percent, bounds without spaces around the dash."""
    values = [measure.of(row) for row in rows]
    if measure.path[0] == "coverage":
        return [_ascii(MISSING) if value is None else f"{100 * value:.0f}" for value in values]
    return [_ascii(text.replace(" – ", "–")) for text in column_texts(measure, values)]


def _ascii(text: str) -> str:
    return text.translate({ord("–"): "-", ord("−"): "-", ord("∞"): "inf", ord("…"): ".", ord("²"): "^2"})


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
