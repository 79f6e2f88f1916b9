"""Figures of forecasts, errors and training drawn with matplotlib; jaxlv.report.figures.svg writes them.

Axes: C context steps, H forecast steps, T = C + H, S samples, V variables. A figure's unit is the CSS pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from jaxlv.forecasting import metrics
from jaxlv.forecasting.forecaster import filled
from jaxlv.report.figures.axes import (
    ABOVE,
    DASHED,
    WIDTH,
    canvas,
    log_ticks,
    name_ends,
    numbers,
    plain_number,
    positive,
    shortened,
    species,
    ticks,
)
from jaxlv.report.figures.svg import INK, MUTED, PALETTE, styled

# ------------------------------------------------------------------------------------------- style

MODEL = PALETTE["row-tuned"][0]
BANDS = (0.95, 0.80, 0.50)  # central shares of the samples, widest first
_ALPHA = {0.95: 0.18, 0.80: 0.24, 0.50: 0.34}  # they add up, as the bands are nested


class RowStyle(NamedTuple):
    """How a method looks in every figure; the dash tells methods apart where colours do not."""

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
    """The style of each method: fixed for names that every evaluation has, else by order of appearance."""
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


# ---------------------------------------------------------------------------------------- forecasts


TOP_DASH = (0, (6, 2))
LEGEND = 6  # entries of one line


@dataclass(frozen=True)
class ForecastPanel:
    """One series and the samples that continue it, in raw units; NaN where a sample is invalid or cut."""

    series_id: int
    variables: tuple[str, ...]
    time_T: np.ndarray
    context_CV: np.ndarray
    truth_HV: np.ndarray | None  # None: the future is unknown
    samples_SHV: np.ndarray
    top: tuple[str, float] | None = None  # a level to be drawn, in words and raw units
    last_V: np.ndarray | None = None  # where samples without a complete step stay; None: at the end of the context

    @property
    def time_C(self) -> np.ndarray:
        """The times of the context."""
        return self.time_T[: len(self.context_CV)]

    @property
    def time_H(self) -> np.ndarray:
        """The times of the forecast."""
        return self.time_T[len(self.context_CV) :]

    @property
    def observed_TV(self) -> np.ndarray:
        """Context and truth in one array."""
        return self.context_CV if self.truth_HV is None else np.concatenate([self.context_CV, self.truth_HV])

    @property
    def ceiling_V(self) -> np.ndarray:
        """Where an axis ends at the latest, whatever samples do: three times the largest value observed."""
        return 3 * np.nanmax(np.abs(self.observed_TV), axis=0)

    @property
    def scored_NSHV(self) -> np.ndarray:
        """The samples as they are scored and written, of one series: one that broke off stays at its last complete step."""
        end_V = self.context_CV[-1] if len(self.context_CV) else np.full(len(self.variables), np.nan)
        return filled(self.samples_SHV[None], (end_V if self.last_V is None else self.last_V)[None])

    @property
    def median_HV(self) -> np.ndarray:
        """The point forecast; NaN without samples."""
        return metrics.quantiles(self.scored_NSHV, [0.5])[0, 0]

    def band(self, share: float) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) of the central band that coverage is measured of, each (H, V); NaN without samples."""
        low_NHV, high_NHV = metrics.central_interval(self.scored_NSHV, share)
        return low_NHV[0], high_NHV[0]

    @property
    def is_cut(self) -> bool:
        """Whether the widest band leaves the axes."""
        return bool(np.any(self.band(BANDS[0])[1] > self.ceiling_V))


@styled
def forecast_figure(panel: ForecastPanel, *, time_label: str = "time") -> Figure:
    """Context, truth, median and 50/80/95 % bands of one series, one panel per species."""
    count = len(panel.variables)
    figure = canvas(WIDTH, 60 + 124 * count)
    axes = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    median_HV, bands = panel.median_HV, {share: panel.band(share) for share in BANDS}
    for v, ax in enumerate(axes):
        colour = species(v)
        top = np.nanmax(panel.observed_TV[:, v])
        for share, (low_HV, high_HV) in bands.items():
            low_H, high_H = low_HV[:, v], high_HV[:, v]
            if np.isfinite(high_H).any():
                top = max(top, np.nanmax(high_H))
                ax.fill_between(panel.time_H, low_H, high_H, color=colour, alpha=_ALPHA[share], linewidth=0)
        if panel.truth_HV is not None:
            ax.plot(panel.time_T, panel.observed_TV[:, v], color=INK, linewidth=0.9)
            ax.plot(
                panel.time_H,
                panel.truth_HV[:, v],
                ".",
                color=INK,
                markersize=3.4,
                markeredgewidth=0,
                zorder=3,
            )
        ax.plot(panel.time_C, panel.context_CV[:, v], color=INK, linewidth=1.5)
        ax.plot(panel.time_H, median_HV[:, v], color=colour, linewidth=1.8)
        if panel.top:
            ax.axhline(panel.top[1], color=MUTED, linewidth=1.0, linestyle=TOP_DASH)
        if len(panel.time_C) and len(panel.time_H):
            ax.axvline((panel.time_C[-1] + panel.time_H[0]) / 2, color=MUTED, linewidth=0.8, linestyle=(0, (3, 2)))
        ax.set_ylim(min(0.0, np.nanmin(panel.observed_TV[:, v])), 1.06 * min(top, panel.ceiling_V[v]) or 1.0)
        ax.set_ylabel(shortened(panel.variables[v], 20), color=colour)
        ax.grid(False, axis="x")
        ax.yaxis.set_major_locator(ticks(4))
    axes[-1].set_xlabel(time_label)
    axes[-1].set_xlim(panel.time_T[0], panel.time_T[-1])
    _forecast_legend(figure, panel)
    return figure


def _forecast_legend(figure: Figure, panel: ForecastPanel) -> None:
    colours = [species(v) for v in range(len(panel.variables))]
    entries: list[tuple[Any, str]] = [(Line2D([], [], color=INK, linewidth=1.5), "context")]
    if panel.truth_HV is not None:
        entries.append((Line2D([], [], color=INK, linewidth=0.9, marker=".", markersize=4.5, markeredgewidth=0), "truth"))
    if np.isfinite(panel.median_HV).any():
        entries.append((tuple(Line2D([], [], color=c, linewidth=1.8) for c in colours), "median"))
        for i, share in enumerate(reversed(BANDS)):
            layers = BANDS[: len(BANDS) - i]
            opacity = 1 - math.prod(1 - _ALPHA[layer] for layer in layers)
            patches = tuple(Patch(facecolor=c, alpha=opacity, linewidth=0) for c in colours)
            entries.append((patches, f"{100 * share:.0f} %"))
    if panel.top:
        entries.append((Line2D([], [], color=MUTED, linewidth=1.0, linestyle=TOP_DASH), panel.top[0]))
    handles, labels = zip(*entries, strict=True)
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=len(labels) if len(labels) <= LEGEND else -(-len(labels) // 2),
        handlelength=1.7,
        columnspacing=1.1,
        handletextpad=0.5,
        borderpad=0,
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.15)},
    )


@styled
def phase_figure(panel: ForecastPanel, *, samples: int = 5) -> Figure:
    """The first two variables against each other: context, truth, median, the first complete `samples`."""
    figure = canvas(400, 308)
    ax = figure.subplots()
    complete_SHV = panel.samples_SHV[np.isfinite(panel.samples_SHV).all(axis=(1, 2))][:samples]
    median_HV = panel.median_HV
    for i, sample_HV in enumerate(complete_SHV):
        ax.plot(*sample_HV[:, :2].T, color=MODEL, alpha=0.45, linewidth=0.8, label="" if i else "samples")
    ax.plot(*panel.context_CV[:, :2].T, color=MUTED, linewidth=1.1, linestyle=(0, (3, 1.5)), label="context")
    if panel.truth_HV is not None:
        ax.plot(*panel.truth_HV[:, :2].T, color=INK, linewidth=1.2, label="truth")
    if np.isfinite(median_HV).any():
        ax.plot(*median_HV[:, :2].T, color=MODEL, linewidth=2.0, label="median")
    ax.plot(*panel.context_CV[-1, :2], "o", color=INK, markersize=4.5, markeredgewidth=0, label="start")
    high_V = np.nanmax(np.stack([*panel.observed_TV, *complete_SHV.reshape(-1, len(panel.variables))]), axis=0)
    high_V = np.minimum(high_V, panel.ceiling_V)
    ax.set_xlim(0, 1.05 * high_V[0] or 1.0)
    ax.set_ylim(0, 1.05 * high_V[1] or 1.0)
    for axis, v in ((ax.xaxis, 0), (ax.yaxis, 1)):
        axis.set_major_locator(ticks(5))
        axis.set_label_text(shortened(panel.variables[v], 24), color=species(v))
    figure.legend(loc="outside upper left", ncols=5, handlelength=1.3, columnspacing=0.9, handletextpad=0.4, borderpad=0)
    return figure


# ------------------------------------------------------------------------------------------- errors


@styled
def step_error_figure(rows: Sequence[Mapping[str, Any]], *, unit: str = "raw units") -> Figure:
    """MAE per step ahead of every row that has `mae_by_step`, logarithmic, each line named at its end."""
    figure = canvas(WIDTH, 280)
    ax = figure.subplots()
    styles = row_styles(str(row["name"]) for row in rows)
    ends: list[tuple[float, str, str]] = []
    # The tuned model is drawn last, on top.
    for row in sorted(rows, key=lambda row: row["name"] == "tuned"):
        mae_H = positive(row.get("mae_by_step") or [])
        if not np.isfinite(mae_H).any():
            continue
        colour, dash, width = styles[str(row["name"])]
        ax.plot(np.arange(1, len(mae_H) + 1), mae_H, color=colour, linestyle=dash, linewidth=width)
        ends.append((float(mae_H[np.isfinite(mae_H)][-1]), str(row["name"]), colour))
    ax.set_yscale("log")
    log_ticks(ax.yaxis, *ax.get_ylim())
    ax.set_xlim(1, max((len(row.get("mae_by_step") or []) for row in rows), default=0) or 2)
    ax.xaxis.set_major_locator(ticks(6, integer=True))
    ax.set_xlabel("step ahead")
    ax.set_ylabel(f"MAE ({shortened(unit, 24)})")
    ax.grid(False, axis="x")
    name_ends(ax, ends, spacing=0.066)
    return figure


@styled
def interval_figure(rows: Sequence[Mapping[str, Any]], *, unit: str = "raw units") -> Figure:
    """Mean MAE with its 95 % bootstrap interval and the median over series, one line per row, best on top."""
    drawn = [row for row in rows if np.isfinite(positive([row.get("mae")])[0])]
    drawn.sort(key=lambda row: row["mae"], reverse=True)
    figure = canvas(WIDTH, 84 + 26 * max(len(drawn), 1))
    ax = figure.subplots()
    styles = row_styles(str(row["name"]) for row in rows)
    for place, row in enumerate(drawn):
        colour = styles[str(row["name"])].colour
        low, high = positive(row.get("mae_ci95") or [None, None])
        if np.isfinite([low, high]).all():
            ax.plot([low, high], [place, place], color=colour, linewidth=2.4, solid_capstyle="butt")
        ax.plot(row["mae"], place, "o", color=colour, markersize=7, markeredgewidth=0)
        median = positive([row.get("mae_median")])[0]
        if np.isfinite(median):
            ax.plot(median, place, "D", markerfacecolor="none", color=colour, markersize=5, markeredgewidth=1.4)
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ax.set_xlim(low / 1.1, high * 1.1)
    log_ticks(ax.xaxis, *ax.get_xlim())
    ax.set_ylim(-0.6, max(len(drawn), 1) - 0.4)
    ax.set_yticks(range(len(drawn)), [shortened(str(row["name"]), 28) for row in drawn])
    for tick, row in zip(ax.get_yticklabels(), drawn, strict=True):
        tick.set_fontweight("bold" if row["name"] == "tuned" else "normal")
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(f"MAE ({shortened(unit, 24)}), logarithmic")
    handles = [
        Line2D([], [], color=MUTED, marker="o", markersize=7, markeredgewidth=0, linewidth=2.4),
        Line2D(
            [],
            [],
            color=MUTED,
            marker="D",
            markersize=5,
            markerfacecolor="none",
            markeredgewidth=1.4,
            linewidth=0,
        ),
    ]
    labels = ["mean and 95 % interval", "median over series"]
    figure.legend(handles, labels, loc="outside upper left", ncols=2, borderpad=0, handlelength=2.6)
    return figure


# -------------------------------------------------------------------------------------- calibration


@styled
def calibration_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Observed coverage against the nominal level of every row that has `calibration`, with its 95 % interval.

    The diagonal is what a calibrated forecast gives; a dotted line marks the most that the samples can cover. Rows with
    `calibration_as_intervals` get a dashed line, those with `coverage_conformal` open diamonds: their adjusted bands.
    """
    drawn = [row for row in rows if row.get("calibration")]
    styles = row_styles(str(row["name"]) for row in rows)
    figure = canvas(WIDTH, 380)
    ax = figure.subplots()
    ax.plot([0, 100], [0, 100], color=MUTED, linewidth=1.0, linestyle=DASHED)
    handles: list[Any] = [Line2D([], [], color=MUTED, linewidth=1.0, linestyle=DASHED)]
    labels = ["calibrated"]
    adjusted = read_as_intervals = False
    for row in sorted(drawn, key=lambda row: row["name"] == "tuned"):
        colour, _, width = styles[str(row["name"])]
        levels = list(row["calibration"])
        nominal = np.array([float(level) for level in levels])
        observed = 100 * numbers(row["calibration"][level] for level in levels)
        ends = row.get("calibration_ci95") or {}
        low, high = (100 * numbers((ends.get(level) or (None, None))[side] for level in levels) for side in (0, 1))
        ax.fill_between(nominal, low, high, color=colour, alpha=0.14, linewidth=0)
        ax.plot(nominal, observed, ".-", color=colour, linewidth=width, markersize=7, markeredgewidth=0)
        handles.append(Line2D([], [], color=colour, linewidth=width, marker=".", markersize=7, markeredgewidth=0))
        labels.append(shortened(str(row["name"]), 18))
        drawn_anew = row.get("calibration_as_intervals")
        if drawn_anew:
            read_as_intervals = True
            shares = 100 * numbers(drawn_anew.values())
            ax.plot([float(level) for level in drawn_anew], shares, color=colour, linewidth=1.2, linestyle=(0, (2, 1.5)))
        after = {float(level): share for level, share in (row.get("coverage_conformal") or {}).items() if share is not None}
        if after:
            adjusted = True
            ax.plot(
                list(after), 100 * numbers(after.values()), "D", markerfacecolor="none", color=colour, markersize=6.5,
                markeredgewidth=1.5, zorder=4,
            )  # fmt: skip
    if read_as_intervals:
        handles.append(Line2D([], [], color=MUTED, linewidth=1.2, linestyle=(0, (2, 1.5))))
        labels.append("as intervals")
    if adjusted:
        handles.append(Line2D([], [], color=MUTED, marker="D", markerfacecolor="none", markersize=6.5, linewidth=0))
        labels.append("adjusted")
    ceilings = {round(100 * row["calibration_ceiling"], 1) for row in drawn if row.get("calibration_ceiling") is not None}
    for ceiling in sorted(ceilings):
        ax.axhline(ceiling, color=MUTED, linewidth=1.0, linestyle=(0, (1, 2)))
        ax.annotate(
            f"most that the samples can cover: {plain_number(ceiling)} %", (2, ceiling), xytext=(0, -3), fontsize=9,
            textcoords="offset points", color=MUTED, va="top",
        )  # fmt: skip
    ax.set_xlim(0, 100)
    ax.set_ylim(0, 100)
    ax.set_aspect("equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(ticks(5))
    ax.set_xlabel("nominal share of the band (%)")
    ax.set_ylabel("true values inside (%)")
    figure.legend(
        handles, labels, loc="outside upper left", ncols=5, borderpad=0, handlelength=1.8, columnspacing=1.1,
        handletextpad=0.5,
    )  # fmt: skip
    return figure


@styled
def level_figure(entries: Sequence[Mapping[str, Any]], words: str, *, unit: str = "raw units") -> Figure:
    """MAE of every method at each level of a condition (`value`, `level`, `rows`), logarithmic, named at its end."""
    figure = canvas(WIDTH, 280)
    ax = figure.subplots()
    names = list(dict.fromkeys(str(row["name"]) for entry in entries for row in entry["rows"]))
    styles = row_styles(names)
    place_L = np.array([entry["value"] for entry in entries], dtype=float)
    ends: list[tuple[float, str, str]] = []
    for name in sorted(names, key=lambda name: name == "tuned"):
        found = [next((row["mae"] for row in entry["rows"] if row["name"] == name), None) for entry in entries]
        mae_L = positive(found)
        if not np.isfinite(mae_L).any():
            continue
        colour, dash, width = styles[name]
        ax.plot(place_L, mae_L, ".", linestyle=dash, color=colour, linewidth=width, markersize=6, markeredgewidth=0)
        ends.append((float(mae_L[np.isfinite(mae_L)][-1]), name, colour))
    ax.set_yscale("log")
    log_ticks(ax.yaxis, *ax.get_ylim())
    ax.set_xlim(place_L.min(), place_L.max() if np.ptp(place_L) else place_L.min() + 1)
    ax.set_xticks(place_L, [str(entry["level"]) for entry in entries])
    ax.set_xlabel(words)
    ax.set_ylabel(f"MAE ({shortened(unit, 24)})")
    ax.grid(False, axis="x")
    name_ends(ax, ends, spacing=0.066)
    return figure


# ----------------------------------------------------------------------------------------- training

# key of metrics.jsonl -> label, on one panel each; training and validation loss share the first
_CURVES = {"loss": "loss", "forecast_mae": "forecast MAE", "learning_rate": "learning rate"}


def curve(history: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the records of `history` that hold a finite `key`."""
    pairs = [(r["step"], r[key]) for r in history if r.get(key) is not None and "step" in r]
    points = np.array(pairs, dtype=float).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    return points[:, 0], points[:, 1]


@styled
def loss_figure(history: Sequence[Mapping[str, Any]], *, unit: str = "raw units") -> Figure:
    """Training and validation loss, forecast error and learning rate by step; a panel without data is absent.

    Records are those of metrics.jsonl: `step` and any of loss, validation_loss, forecast_mae, learning_rate.
    """
    keys = [key for key in _CURVES if len(curve(history, key)[0])]
    rate_S = curve(history, "learning_rate")[1]
    if len(rate_S) and np.ptp(rate_S) == 0 and len(keys) > 1:
        keys.remove("learning_rate")
    heights = [2.2 if key == "loss" else 1.0 for key in keys] or [1.0]
    figure = canvas(WIDTH, 44 + 82 * sum(heights))
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for ax, key in zip(axes, keys, strict=False):
        ax.grid(False, axis="x")
        ax.yaxis.set_major_locator(ticks(5 if key == "loss" else 3))
        if key == "loss":
            _loss_panel(ax, history)
        elif key == "forecast_mae":
            ax.plot(*curve(history, key), ".-", color=MODEL, markersize=5, markeredgewidth=0)
            ax.set_ylim(bottom=0)
            ax.set_ylabel(f"forecast MAE\n({shortened(unit, 16)})")
        else:
            ax.plot(*curve(history, key), color=MUTED)
            ax.set_ylim(bottom=0)
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(value)))
            ax.set_ylabel(_CURVES[key])
    axes[-1].set_xlabel("training step")
    axes[-1].set_xlim(left=0)
    axes[-1].xaxis.set_major_locator(ticks(6, integer=True))
    figure.align_ylabels(axes)
    if handles := axes[0].get_legend_handles_labels()[0]:
        figure.legend(handles=handles, ncols=2, **ABOVE)
    return figure


def _loss_panel(ax: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    ax.plot(*curve(history, "loss"), color=MUTED, linewidth=1.0, label="training")
    steps, losses = curve(history, "validation_loss")
    if len(steps):
        ax.plot(
            steps,
            losses,
            ".-",
            color=MODEL,
            linewidth=2.0,
            markersize=6,
            markeredgewidth=0,
            label="validation",
        )
    ax.set_ylabel("loss (nats per token)")
