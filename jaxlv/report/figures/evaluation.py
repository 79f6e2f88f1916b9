"""Charts of forecasts, errors and training.

Axes: C context steps, H forecast steps, T = C + H, S samples, V variables.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from jaxlv.report.charts import (
    DASHED,
    SHORT,
    WIDTH,
    Axis,
    Chart,
    Note,
    Panel,
    Series,
    numbers,
    plain_number,
    rows_of,
    shortened,
    single,
)
from jaxlv.report.format import number
from jaxlv.report.theme import MODEL, MUTED, PALETTE, species
from jaxlv.results.panels import ForecastPanel

Row = Mapping[str, Any]

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
    styles: dict[str, RowStyle] = {}
    others = 0
    for name in names:
        if name in _KNOWN_ROWS:
            colour, dash, width = _KNOWN_ROWS[name]
        else:
            colour, width = _OTHER_ROWS[others % len(_OTHER_ROWS)], 1.5
            dash = _OTHER_DASHES[others // len(_OTHER_ROWS) % len(_OTHER_DASHES)]
            others += 1
        styles[name] = RowStyle(PALETTE[colour][0], dash, width)
    return styles


def _own_last(row: Row) -> bool:
    """Sorts rows so that the tuned model is drawn last, on top."""
    return row["name"] == OWN


# ---------------------------------------------------------------------------------------- forecasts

TOP_DASH = (0, (6, 2))


def forecast_figure(panel: ForecastPanel, *, time_label: str = "time") -> Chart:
    """Context, truth, median and 50/80/95 % bands of one series, one panel per species."""
    panels = [_forecast_panel(panel, v, time_label) for v in range(len(panel.variables))]
    return Chart("forecast", panels, (WIDTH, 60 + 124 * len(panels)), keys=_forecast_keys(panel, panels))


def _forecast_keys(panel: ForecastPanel, panels: Sequence[Panel]) -> list[Series]:
    """Entries of the legend. Bands lie on one another: each has the shade that all together show."""
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


def _forecast_panel(panel: ForecastPanel, v: int, time_label: str) -> Panel:
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
        series.append(Series("", [border], mark="down", colour=MUTED, width=0.8, dash=SHORT))
    top = np.nanmax([*panel.observed_TV[:, v], *(high for _, high_H in ends.values() for high in high_H)])
    low, high = min(0.0, np.nanmin(panel.observed_TV[:, v])), 1.06 * min(top, panel.ceiling_V[v]) or 1.0
    y = Axis(shortened(panel.variables[v], 20), limits=(low, high), ticks=4, colour=colour)
    return Panel(series, Axis(time_label, limits=(panel.time_T[0], panel.time_T[-1])), y)


def phase_figure(panel: ForecastPanel, *, samples: int = 5) -> Chart:
    """The first two variables against each other: context, truth, median, the first complete `samples`."""
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


def step_error_figure(rows: Sequence[Row], *, unit: str = "raw units") -> Chart:
    """MAE per step ahead of every row that has `mae_by_step`, logarithmic, each line named at its end."""
    styles = row_styles(str(row["name"]) for row in rows)
    errors = {str(row["name"]): row.get("mae_by_step") or [] for row in sorted(rows, key=_own_last)}
    series = [Series(name, range(1, len(mae_H) + 1), mae_H, **styles[name]._asdict()) for name, mae_H in errors.items()]
    x = Axis("step ahead", limits=(1, max(map(len, errors.values()), default=0) or 2), whole=True)
    return single("lines", series, x, _error(unit), 280, names="ends")


def interval_figure(rows: Sequence[Row], *, unit: str = "raw units") -> Chart:
    """Mean MAE with its 95 % bootstrap interval and the median over series, one line per row, best on top."""
    drawn = sorted((row for row in rows if 0 < (row.get("mae") or 0) < math.inf), key=lambda row: row["mae"])
    styles, series = row_styles(str(row["name"]) for row in rows), []
    for place, row in enumerate(drawn):
        ends, colour = ([end] for end in row.get("mae_ci95") or (None, None)), styles[str(row["name"])].colour
        series.append(Series("mean", [place], [row["mae"]], *ends, colour=colour, size=7))
        median = [row.get("mae_median")]
        series.append(Series("median", [place], median, colour=colour, marker="D", size=5, open=True))
    keys = [
        Series("mean and 95 % interval", low=(), colour=MUTED, size=7),
        Series("median over series", colour=MUTED, marker="D", size=5, open=True),
    ]
    names = rows_of([str(row["name"]) for row in drawn])
    return single("dots", series, _error(unit, tail=", logarithmic"), names, 84 + 26 * max(len(drawn), 1), keys=keys)


def level_figure(entries: Sequence[Row], words: str, *, unit: str = "raw units") -> Chart:
    """MAE of every method at each level of a condition (`value`, `level`, `rows`), logarithmic, named at its end."""
    styles = row_styles(dict.fromkeys(str(row["name"]) for entry in entries for row in entry["rows"]))
    places, series = [float(entry["value"]) for entry in entries], []
    for name in sorted(styles, key=lambda name: name == OWN):
        errors = [next((row["mae"] for row in entry["rows"] if row["name"] == name), None) for entry in entries]
        series.append(Series(name, places, errors, marker=".", **styles[name]._asdict()))
    low, high = min(places), max(places)
    ticks = {place: str(entry["level"]) for place, entry in zip(places, entries, strict=True)}
    x = Axis(words, limits=(low, high if high > low else low + 1), ticks=ticks)
    return single("lines", series, x, _error(unit), 280, names="ends")


# -------------------------------------------------------------------------------------- calibration


def _shares(found: Mapping[str, Any] | None) -> tuple[list[float], np.ndarray]:
    """Levels and what was observed at them, both in percent."""
    held = {float(level): share for level, share in (found or {}).items()}
    return list(held), 100 * numbers(held.values())


def calibration_figure(rows: Sequence[Row]) -> Chart:
    """Observed coverage against the nominal level of every row that has `calibration`, with its 95 % interval.

    The diagonal is what a calibrated forecast gives; a dotted line marks the most that the samples can cover. Rows with
    `calibration_as_intervals` get a dashed line, those with `coverage_conformal` open diamonds: their adjusted bands.
    """
    styles, ceilings = row_styles(str(row["name"]) for row in rows), set()
    series = [Series("calibrated", [0, 100], [0, 100], colour=MUTED, width=1.0, dash=DASHED, told=False)]
    anew = Series("as intervals", colour=MUTED, width=1.2, dash=(0, (2, 1.5)))
    after = Series("adjusted", colour=MUTED, dash="none", marker="D", size=6.5, open=True, over=4)
    extra: dict[str, Series] = {}
    for row in sorted((row for row in rows if row.get("calibration")), key=_own_last):
        name, (colour, _, width) = shortened(str(row["name"]), 18), styles[str(row["name"])]
        levels, observed = _shares(row["calibration"])
        ends = [(row.get("calibration_ci95") or {}).get(key) or (None, None) for key in row["calibration"]]
        low, high = (100 * numbers(end[side] for end in ends) for side in (0, 1))
        look: dict[str, Any] = {"colour": colour, "marker": ".", "size": 7, "shade": 0.14}
        series.append(Series(name, levels, observed, low, high, width=width, **look))
        for kind, found in ((anew, row.get("calibration_as_intervals")), (after, row.get("coverage_conformal"))):
            x, y = _shares({level: share for level, share in (found or {}).items() if share is not None})
            if x:
                series.append(replace(kind, name=f"{name}, {kind.name}", x=x, y=y, colour=colour, keyed=False))
                extra[kind.name] = kind
        ceilings |= {round(100 * row["calibration_ceiling"], 1)} if row.get("calibration_ceiling") is not None else set()
    keys = [*series, *(kind for kind in (anew, after) if kind.name in extra)]
    series.append(Series("", y=sorted(ceilings), mark="across", colour=MUTED, width=1.0, dash=(0, (1, 2))))
    words = "most that the samples can cover"
    notes = [Note(f"{words}: {plain_number(ceiling)} %", 2, ceiling, (0, -3)) for ceiling in sorted(ceilings)]
    across, up = (Axis(text, "%", limits=(0, 100), ticks=5) for text in ("nominal share of the band", "true values inside"))
    return single("calibration", series, across, up, 380, notes=notes, keys=keys, equal=True)


# ----------------------------------------------------------------------------------------- training


def curve(history: Sequence[Row], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the records of `history` that hold a finite `key`."""
    pairs = [(r["step"], r[key]) for r in history if r.get(key) is not None and "step" in r]
    points = np.array(pairs, dtype=float).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    return points[:, 0], points[:, 1]


TRAINING_STEP = Axis("training step", limits=(0, None), whole=True)


def loss_figure(history: Sequence[Row], *, unit: str = "raw units") -> Chart:
    """Training and validation loss, forecast error and learning rate by step; a panel without data is absent.

    Records are those of metrics.jsonl: `step` and any of loss, validation_loss, forecast_mae, learning_rate.
    """
    losses = [Series("training", *curve(history, "loss"), colour=MUTED, width=1.0)]
    held_out = Series("validation", *curve(history, "validation_loss"), colour=MODEL, width=2.0, marker=".")
    errors = Series("", *curve(history, "forecast_mae"), colour=MODEL, marker=".", size=5)
    rate = Series("", *curve(history, "learning_rate"), colour=MUTED)
    panels = []
    if len(losses[0].x):
        losses += [held_out] if len(held_out.x) else []
        panels.append(Panel(losses, TRAINING_STEP, Axis("loss", "nats per token"), height=2.2))
    if len(errors.x):
        y = Axis("forecast MAE\n", shortened(unit, 16), limits=(0, None), ticks=3)
        panels.append(Panel([errors], TRAINING_STEP, y))
    if len(rate.x) and (np.ptp(rate.y) or not panels):
        panels.append(Panel([rate], TRAINING_STEP, Axis("learning rate", limits=(0, None), ticks=3)))
    panels = panels or [Panel([], TRAINING_STEP)]
    return Chart("lines", panels, (WIDTH, 44 + 82 * sum(panel.height for panel in panels)))
