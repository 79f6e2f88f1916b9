"""Charts of forecasts, errors and training.

Axes: C context steps, H forecast steps, T = C + H, S samples, V variables.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from jaxlv.report import charts
from jaxlv.report.charts import WIDTH, Axis, Chart, Note, Panel, Series, numbers, rows_of, shortened, single
from jaxlv.report.format import number
from jaxlv.report.theme import MODEL, MUTED, PALETTE, species
from jaxlv.results.panels import ForecastPanel
from jaxlv.results.quantities import RAW
from jaxlv.results.scores import Levels, Score
from jaxlv.results.stress import ConditionScores
from jaxlv.results.sweeps import LOSS, Logged

# ------------------------------------------------------------------------------------------- style

OWN = "tuned"
_SHADES = {0.95: 0.18, 0.80: 0.24, 0.50: 0.34}  # they add up, as the bands are nested


class RowStyle(NamedTuple):
    """How a method looks in every chart; the dash tells methods apart if colours do not."""

    colour: str
    dash: Any
    width: float


_KNOWN_ROWS = {
    "tuned": ("row-tuned", "solid", 2.2),
    "untuned": ("row-untuned", "solid", 1.5),
    "VAR(3) on logs": ("row-1", (0, (6, 2)), 1.5),
    "seasonal naive": ("row-2", (0, (6, 2, 1.5, 2)), 1.5),
    "context mean": ("row-3", (0, (3, 2)), 1.5),
    "last value": ("row-4", (0, (1.2, 1.8)), 1.5),
}
_OTHER_ROWS = ("row-5", "row-6", "row-7", "row-1", "row-2")
_OTHER_DASHES = ((0, (8, 2, 2, 2)), (0, (4, 1.5)), (0, (2, 1.5)))


def row_styles(names: Iterable[str]) -> dict[str, RowStyle]:
    """Returns the style of each method: fixed for names that every evaluation has, else by order of appearance."""
    others = ((colour, dash, 1.5) for dash in itertools.cycle(_OTHER_DASHES) for colour in _OTHER_ROWS)
    found = {name: _KNOWN_ROWS.get(name) or next(others) for name in dict.fromkeys(names)}
    return {name: RowStyle(PALETTE[colour][0], dash, width) for name, (colour, dash, width) in found.items()}


def _own_last(rows: Iterable[Score]) -> list[Score]:
    """Returns the rows, the tuned model last, so that it is drawn on top."""
    return sorted(rows, key=lambda row: row.name == OWN)


# ---------------------------------------------------------------------------------------- forecasts

TOP_DASH = (0, (6, 2))


def forecast_figure(panel: ForecastPanel) -> Chart:
    """Draws context, truth, median and 50/80/95 % bands of one series, one panel per species."""
    panels = [_forecast_panel(panel, v) for v in range(len(panel.variables))]
    return Chart("forecast", panels, (WIDTH, 60 + 124 * len(panels)), keys=_forecast_keys(panel, panels))


def _forecast_keys(panel: ForecastPanel, panels: Sequence[Panel]) -> list[Series]:
    """Returns entries of the legend. Bands lie on one another: each has the shade that all together show."""
    found: dict[str, list[Series]] = {}
    for one in (one for own in panels for one in own.series if one.name and one.keyed):
        found.setdefault(one.name, []).append(replace(one, marker="." if one.name == "truth" else "", size=4.5))
    names, light = list(map(_band_name, panel.bands)), 1.0
    for name, shares in zip(names, panel.bands, strict=True):
        light *= 1 - _SHADES[shares[-1]]
        found[name] = [replace(one, shade=1 - light) for one in found.get(name, ())]
    order = ["context", "truth", "median", *reversed(names), *found]
    return [one for name in dict.fromkeys(order) for one in found.get(name, ())]


def _band_name(shares: tuple[float, ...]) -> str:
    return " and ".join(f"{100 * share:.0f}" for share in sorted(shares)) + " %"


def _forecast_panel(panel: ForecastPanel, v: int) -> Panel:
    colour, time_H = species(v), panel.time_H
    ends = {shares: (low_HV[:, v], high_HV[:, v]) for shares, (low_HV, high_HV) in panel.bands.items()}
    series = [
        Series(_band_name(shares), time_H, None, low_H, high_H, colour=colour, shade=_SHADES[shares[-1]])
        for shares, (low_H, high_H) in ends.items()
        if np.isfinite(high_H).any()
    ]
    if panel.truth_HV is not None:
        series.append(Series("truth", panel.time_T, panel.observed_TV[:, v], width=0.9, told=False))
        series.append(Series("truth", time_H, panel.truth_HV[:, v], dash="none", marker=".", size=3.4, over=3, keyed=False))
    series.append(Series("context", panel.time_T[: len(panel.context_CV)], panel.context_CV[:, v]))
    if np.isfinite(panel.median_HV).any():
        low_H, high_H = (end_HV[:, v] for end_HV in panel.band(0.80))
        notes = [f"80 %: {number(low)} – {number(high)}" for low, high in zip(low_H, high_H, strict=True)]
        series.append(Series("median", time_H, panel.median_HV[:, v], colour=colour, width=1.8, notes=notes))
    if panel.top:
        series.append(Series(panel.top[0], y=[panel.top[1]], mark="across", colour=MUTED, width=1.0, dash=TOP_DASH))
    if 0 < len(panel.context_CV) < len(panel.time_T):
        border = panel.time_T[len(panel.context_CV) - 1 :][:2].mean()
        series.append(Series("", [border], mark="down", colour=MUTED, width=0.8, dash=charts.SHORT))
    top = np.nanmax([*panel.observed_TV[:, v], *(high for _, high_H in ends.values() for high in high_H)])
    least = np.nanmin([*panel.observed_TV[:, v], *(low for low_H, _ in ends.values() for low in low_H)])
    low, high = min(0.0, least), 1.06 * min(top, panel.ceiling_V[v]) or 1.0
    y = Axis(shortened(panel.variables[v], 20), limits=(low, high), ticks=4, colour=colour)
    return Panel(series, Axis(panel.time_label, limits=(panel.time_T[0], panel.time_T[-1]), ticks=panel.ticks or 0), y)


def phase_figure(panel: ForecastPanel, *, samples: int = 5) -> Chart:
    """Draws the first two variables against each other: context, truth, median, the first complete `samples`."""
    complete_SHV = panel.samples_SHV[np.isfinite(panel.samples_SHV).all(axis=(1, 2))][:samples]
    thin: dict[str, Any] = {"colour": MODEL, "alpha": 0.45, "width": 0.8, "told": False}
    series = [Series("samples", *sample_HV[:, :2].T, **thin) for sample_HV in complete_SHV]
    series.append(Series("context", *panel.context_CV[:, :2].T, colour=MUTED, width=1.1, dash=(0, (3, 1.5))))
    if panel.truth_HV is not None:
        series.append(Series("truth", *panel.truth_HV[:, :2].T, width=1.2))
    if np.isfinite(panel.median_HV).any():
        series.append(Series("median", *panel.median_HV[:, :2].T, colour=MODEL, width=2.0))
    series.append(Series("start", *panel.context_CV[-1:, :2].T, dash="none", marker="o", size=4.5))
    high_V = np.nanmax(np.stack([*panel.observed_TV, *complete_SHV.reshape(-1, len(panel.variables))]), axis=0)
    ends = 1.05 * np.minimum(high_V, panel.ceiling_V)
    x, y = (Axis(shortened(panel.variables[v], 24), limits=(0, ends[v] or 1.0), ticks=5, colour=species(v)) for v in (0, 1))
    return single("plane", series, x, y, 308, width=400)


# ------------------------------------------------------------------------------------------- errors


def _error(unit: str, **options: Any) -> Axis:
    return Axis("MAE", shortened(unit, 24), scale="log", **options)


def step_error_figure(rows: Sequence[Score], *, unit: str = RAW) -> Chart:
    """Draws MAE per step ahead of every row that has `mae_by_step`, logarithmic, each line named at its end."""
    styles = row_styles(row.name for row in rows)
    series = [
        Series(row.name, range(1, len(row.mae_by_step) + 1), row.mae_by_step, **styles[row.name]._asdict())
        for row in _own_last(rows)
    ]
    x = Axis("step ahead", limits=(1, max((len(row.mae_by_step) for row in rows), default=0) or 2), whole=True)
    return single("lines", series, x, _error(unit), 280, names="ends")


def interval_figure(rows: Sequence[Score], *, unit: str = RAW) -> Chart:
    """Draws mean MAE with its 95 % bootstrap interval and the median over series, a line per row, the best on top."""
    held = sorted((row for row in rows if row.mae and row.mae > 0), key=lambda row: row.mae or 0)
    styles, series = row_styles(row.name for row in rows), []
    for place, row in enumerate(held):
        ends, colour = ([end] for end in row.mae_ci95 or (None, None)), styles[row.name].colour
        series.append(Series("mean", [place], [row.mae], *ends, colour=colour, size=7))
        series.append(Series("median", [place], [row.mae_median], colour=colour, marker="D", size=5, open=True))
    keys = [
        Series("mean and 95 % interval", low=(), colour=MUTED, size=7),
        Series("median over series", colour=MUTED, marker="D", size=5, open=True),
    ]
    names, height = rows_of([row.name for row in held]), 84 + 26 * max(len(held), 1)
    return single("dots", series, _error(unit, tail=", logarithmic"), names, height, keys=keys)


def level_figure(entries: Sequence[ConditionScores], words: str, *, unit: str = RAW) -> Chart:
    """Draws MAE of every method at each level of a condition, logarithmic, named at its end."""
    styles = row_styles(row.name for entry in entries for row in entry.rows)
    places, series = [entry.value for entry in entries], []
    for name in sorted(styles, key=lambda name: name == OWN):
        errors = [row.mae if (row := entry.row(name)) else None for entry in entries]
        series.append(Series(name, places, errors, marker=".", **styles[name]._asdict()))
    low, high = min(places), max(places)
    ticks = {entry.value: entry.level for entry in entries}
    x = Axis(words, limits=(low, high if high > low else low + 1), ticks=ticks)
    return single("lines", series, x, _error(unit), 280, names="ends")


# -------------------------------------------------------------------------------------- calibration


def _shares(found: Levels | None) -> tuple[list[float], np.ndarray]:
    """Returns levels and what was observed at them, both in percent."""
    held = {float(level): share for level, share in (found or {}).items() if share is not None}
    return list(held), 100 * numbers(held.values())


def calibration_figure(rows: Sequence[Score]) -> Chart:
    """Draws observed coverage against the nominal level of rows that have `calibration`, with its 95 % interval.

    The diagonal is what a calibrated forecast gives; a dotted line marks the most that the samples can cover. Rows with
    `calibration_as_intervals` get a dashed line, those with `coverage_conformal` open diamonds: their adjusted bands.
    """
    styles, held = row_styles(row.name for row in rows), [row for row in rows if row.calibration]
    series = [Series("calibrated", [0, 100], [0, 100], colour=MUTED, width=1.0, dash=charts.DASHED, told=False)]
    anew = Series("as intervals", colour=MUTED, width=1.2, dash=(0, (2, 1.5)))
    after = Series("adjusted", colour=MUTED, dash="none", marker="D", size=6.5, open=True, over=4)
    extra: dict[str, Series] = {}
    for row in _own_last(held):
        name, colour, observed = shortened(row.name, 18), styles[row.name].colour, row.calibration or {}
        ends = [(row.calibration_ci95 or {}).get(level) or (None, None) for level in observed]
        low, high = (100 * numbers(end[side] for end in ends) for side in (0, 1))
        look: dict[str, Any] = {"colour": colour, "width": styles[row.name].width, "marker": ".", "size": 7, "shade": 0.14}
        levels = [float(level) for level in observed]
        series.append(Series(name, levels, 100 * numbers(observed.values()), low, high, **look))
        for kind, found in ((anew, row.calibration_as_intervals), (after, row.coverage_conformal)):
            x, y = _shares(found)
            if x:
                series.append(replace(kind, name=f"{name}, {kind.name}", x=x, y=y, colour=colour, keyed=False))
                extra[kind.name] = kind
    keys = [*series, *(kind for kind in (anew, after) if kind.name in extra)]
    ceilings = sorted({round(100 * row.calibration_ceiling, 1) for row in held if row.calibration_ceiling is not None})
    series.append(Series("", y=ceilings, mark="across", colour=MUTED, width=1.0, dash=(0, (1, 2))))
    words = "most that the samples can cover"
    notes = [Note(f"{words}: {charts.plain_number(ceiling)} %", 2, ceiling, (0, -3)) for ceiling in ceilings]
    across, up = (Axis(text, "%", limits=(0, 100), ticks=5) for text in ("nominal share of the band", "true values inside"))
    return single("calibration", series, across, up, 380, notes=notes, keys=keys, equal=True)


# ----------------------------------------------------------------------------------------- training

TRAINING_STEP = Axis("training step", limits=(0, None), whole=True)
TRAINING_LOSS = Axis("loss", LOSS)


def curve(history: Sequence[Logged], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (steps, values) of the records of `history` that hold a finite `key`."""
    pairs = [(r["step"], r[key]) for r in history if r.get(key) is not None and "step" in r]
    points = np.array(pairs, dtype=float).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    return points[:, 0], points[:, 1]


def loss_figure(history: Sequence[Logged], *, unit: str = RAW) -> Chart:
    """Draws training and validation loss, forecast error and learning rate by step; a panel without data is absent."""
    losses = [Series("training", *curve(history, "loss"), colour=MUTED, width=1.0)]
    held_out = Series("validation", *curve(history, "validation_loss"), colour=MODEL, width=2.0, marker=".")
    errors = Series("", *curve(history, "forecast_mae"), colour=MODEL, marker=".", size=5)
    rate = Series("", *curve(history, "learning_rate"), colour=MUTED)
    panels = []
    if len(losses[0].x):
        losses += [held_out] if len(held_out.x) else []
        panels.append(Panel(losses, TRAINING_STEP, TRAINING_LOSS, height=2.2))
    if len(errors.x):
        y = Axis("forecast MAE\n", shortened(unit, 16), limits=(0, None), ticks=3)
        panels.append(Panel([errors], TRAINING_STEP, y))
    if len(rate.x) and (np.ptp(rate.y) or not panels):
        panels.append(Panel([rate], TRAINING_STEP, Axis("learning rate", limits=(0, None), ticks=3)))
    panels = panels or [Panel([], TRAINING_STEP)]
    return Chart("lines", panels, (WIDTH, 44 + 82 * sum(panel.height for panel in panels)))
