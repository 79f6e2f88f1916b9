"""Figures of series: over time, in the phase plane, first against last, and distributions of values, periods and lags.

Axes: N series, T time steps, V variables. A figure's unit is the CSS pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from jaxlv.report.figures.axes import ABOVE, WIDTH, canvas, log_ticks, shortened, species, ticks
from jaxlv.report.figures.svg import INK, MUTED, PALETTE, styled

Rows = Sequence[Mapping[str, Any]]
HUES = [PALETTE[name][0] for name in ("row-tuned", "row-2", "row-untuned", "row-1", "row-6", "row-5", "row-7", "row-3")]
PANEL = 300  # three of them lie side by side on a page, and one fits a phone


MOST = 2000  # dots of a figure


def thinned(count: int) -> np.ndarray:
    """At most MOST of so many places, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST)).astype(int))


def _titled(figure: Figure, title: str) -> None:
    """A title at the left edge of the figure, as a legend of which the layout keeps clear."""
    blank = Line2D([], [], linewidth=0)
    figure.legend([blank], [title], loc="outside upper left", borderpad=0, handlelength=0, handletextpad=0)


def _named(figure: Figure, title: str, names: Sequence[str]) -> None:
    """A title on the left, and the names of the variables in their colours on the right of the same line."""
    figure.legend(
        [Line2D([], [], linewidth=0)], [title], loc="outside upper left", borderpad=0, handlelength=0, handletextpad=0
    )
    handles = [Line2D([], [], color=species(v), linewidth=2) for v in range(len(names))]
    labels = [shortened(name, 10) for name in names]
    figure.legend(
        handles, labels, loc="outside upper right", ncols=len(names), borderpad=0, handlelength=0.9, columnspacing=0.8,
        handletextpad=0.4,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- trajectories


@styled
def trajectory_figure(time_T: np.ndarray, values_TV: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """The variables of one series over time."""
    figure = canvas(PANEL, 176)
    ax = figure.subplots()
    for v in range(values_TV.shape[1]):
        ax.plot(time_T, values_TV[:, v], color=species(v), linewidth=1.4)
    _time_axes(ax, time_T)
    _named(figure, title, names)
    return figure


@styled
def band_figure(
    time_T: np.ndarray, values_NTV: np.ndarray, typical_TV: np.ndarray, names: Sequence[str], title: str
) -> Figure:
    """A typical series in the 10-90 % band of those that it stands for."""
    figure = canvas(PANEL, 176)
    ax = figure.subplots()
    low_TV, high_TV = np.percentile(values_NTV, (10, 90), axis=0)
    for v in range(values_NTV.shape[2]):
        ax.fill_between(time_T, low_TV[:, v], high_TV[:, v], color=species(v), alpha=0.2, linewidth=0)
        ax.plot(time_T, typical_TV[:, v], color=species(v), linewidth=1.5)
    _time_axes(ax, time_T)
    _named(figure, title, names)
    return figure


def _time_axes(ax: Axes, time_T: np.ndarray) -> None:
    ax.set_xlim(time_T[0], time_T[-1])
    ax.set_ylim(bottom=0)
    ax.grid(False, axis="x")
    ax.xaxis.set_major_locator(ticks(5))
    ax.yaxis.set_major_locator(ticks(4))
    ax.set_xlabel("time (time units)")
    ax.set_ylabel("population")


@styled
def phase_plane_figure(values_TV: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """The first two variables of one series against each other, from a dot on."""
    figure = canvas(PANEL, 232)
    ax = figure.subplots()
    ax.plot(*values_TV[:, :2].T, color=INK, linewidth=1.0)
    ax.plot(*values_TV[0, :2], "o", color=INK, markersize=5, markeredgewidth=0)
    ax.plot(*values_TV[-1, :2], "o", color=INK, markersize=5, markerfacecolor="none", markeredgewidth=1.3, clip_on=False)
    ax.set_xlim(*_limits(values_TV[:, 0]))
    ax.set_ylim(*_limits(values_TV[:, 1]))
    ax.xaxis.set_major_locator(ticks(5))
    ax.yaxis.set_major_locator(ticks(5))
    ax.set_xlabel(shortened(names[0], 24), color=species(0))
    ax.set_ylabel(shortened(names[1], 24), color=species(1))
    figure.legend(
        [Line2D([], [], linewidth=0)], [title], loc="outside upper left", borderpad=0, handlelength=0, handletextpad=0
    )
    return figure


def _limits(values_T: np.ndarray) -> tuple[float, float]:
    """From zero where the values come near it, else around them."""
    low, high = float(values_T.min()), float(values_T.max())
    if low < 0.5 * high:
        return 0.0, 1.05 * high
    margin = 0.08 * (high - low) or 0.1 * high or 1.0
    return max(0.0, low - margin), high + margin


@styled
def mean_figure(rows: Rows, names: Sequence[str]) -> Figure:
    """Mean over series with its standard deviation and the 10-90 % band, one panel per variable."""
    figure = canvas(WIDTH, 50 + 118 * len(names))
    axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for v, (ax, name) in enumerate(zip(axes, names, strict=True)):
        own = [row for row in rows if row["variable"] == name]
        time_T, mean_T, sd_T, low_T, high_T = (
            np.array([row[key] for row in own]) for key in ("time", "mean", "sd", "p10", "p90")
        )
        ax.fill_between(time_T, low_T, high_T, color=species(v), alpha=0.2, linewidth=0)
        for side in (-1, 1):
            ax.plot(time_T, mean_T + side * sd_T, color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)))
        ax.plot(time_T, mean_T, color=species(v), linewidth=1.9)
        _time_axes(ax, time_T)
        ax.set_ylim(bottom=min(0.0, float((mean_T - sd_T).min())))
        ax.set_xlabel("")
        ax.set_ylabel(shortened(name, 20), color=species(v))
    axes[-1].set_xlabel("time (time units)")
    handles = [
        Line2D([], [], color=species(0), linewidth=1.9),
        Rectangle((0, 0), 1, 1, facecolor=species(0), alpha=0.3, linewidth=0),
        Line2D([], [], color=MUTED, linewidth=0.9, linestyle=(0, (3, 2))),
    ]
    figure.legend(handles, ["mean", "10–90 % of series", "mean ± 1 standard deviation"], ncols=3, **ABOVE)
    return figure


@styled
def states_figure(first_NV: np.ndarray, last_NV: np.ndarray, names: Sequence[str]) -> Figure:
    """The first two variables of every series at the first step and at the last, which frames where they began."""
    figure = canvas(WIDTH, 236)
    axes = figure.subplots(1, 2, gridspec_kw={"wspace": 0.08})
    low_V, high_V = first_NV.min(axis=0), first_NV.max(axis=0)
    for ax, values_NV, title in zip(axes, (first_NV, last_NV), ("first step", "last step"), strict=True):
        ax.plot(*values_NV[thinned(len(values_NV)), :2].T, ".", color=INK, markersize=3.2, markeredgewidth=0, alpha=0.4)
        ax.set_title(title, loc="left")
        ax.set_xlabel(shortened(names[0], 16), color=species(0))
        ax.xaxis.set_major_locator(ticks(4))
        ax.yaxis.set_major_locator(ticks(5))
    frame = Rectangle(
        low_V[:2], *(high_V - low_V)[:2], facecolor="none", edgecolor=PALETTE["row-untuned"][0], linewidth=1.4, zorder=3
    )
    axes[1].add_patch(frame)
    axes[1].annotate(
        "the range of the first step", high_V[:2], xytext=(4, 3), textcoords="offset points", fontsize=9,
        color=HUES[2],
    )  # fmt: skip
    axes[1].set_xlim(left=0)
    axes[1].set_ylim(bottom=0)
    axes[0].set_ylabel(shortened(names[1], 16), color=species(1))
    return figure


# --------------------------------------------------------------------------------------------- distributions


@styled
def values_figure(values_NTV: np.ndarray, names: Sequence[str], marks: Mapping[str, float]) -> Figure:
    """Distribution of the positive values of each variable on a logarithmic axis; `marks` are named places on it."""
    figure = canvas(WIDTH, 240)
    ax = figure.subplots()
    held = values_NTV[values_NTV > 0]
    low, high = (held.min(), held.max()) if len(held) else (0.1, 1.0)
    edges = np.geomspace(low, high * 1.0001, 61)
    for v in range(values_NTV.shape[2]):
        counts = np.histogram(values_NTV[..., v], edges)[0]
        _outline(ax, 100 * counts / max(values_NTV[..., v].size, 1), edges, species(v))
    for place in marks.values():
        ax.axvline(place, color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)))
    words = "\n".join(f"{name}: {place:.3g}" for name, place in marks.items())
    ax.annotate(words, (1, 1), xycoords="axes fraction", ha="right", va="top", fontsize=9, color=MUTED)
    ax.set_xscale("log")
    low = max(low, high / 1e5)
    ax.set_xlim(low, high * (high / low) ** 0.2 * 1.05)
    log_ticks(ax.xaxis, *ax.get_xlim())
    ax.set_ylim(bottom=0)
    ax.set_xlabel("population (raw units), logarithmic")
    ax.set_ylabel("values per bin (%)")
    _variables(figure, names)
    return figure


def _outline(ax: Axes, heights: np.ndarray, edges: np.ndarray, colour: str) -> None:
    ax.stairs(heights, edges, color=colour, linewidth=1.6)
    ax.stairs(heights, edges, color=colour, alpha=0.16, fill=True)


def _variables(figure: Figure, names: Sequence[str]) -> None:
    handles = [Line2D([], [], color=species(v), linewidth=2) for v in range(len(names))]
    figure.legend(handles, [shortened(name, 16) for name in names], ncols=len(names), **ABOVE)


@styled
def period_figure(period_NV: np.ndarray, names: Sequence[str], step: float) -> Figure:
    """Distribution over series of each variable's period, in steps below and in time units above."""
    figure = canvas(WIDTH, 256)
    ax = figure.subplots()
    edges = _edges(period_NV, 1.0)
    for v in range(len(names)):
        _outline(ax, np.histogram(period_NV[:, v], edges)[0], edges, species(v))
    ax.set_xlim(edges[0], edges[-1])
    ax.set_xlabel("period (steps)")
    ax.set_ylabel("series per bin")
    top = ax.secondary_xaxis("top", functions=(lambda x: np.multiply(x, step), lambda x: np.divide(x, step)))
    top.set_xlabel("period (time units)")
    top.spines["top"].set_visible(True)
    _variables(figure, names)
    return figure


def _edges(values: np.ndarray, width: float) -> np.ndarray:
    """Edges of bins of that width, wider where there would be more than a hundred of them."""
    held = values[np.isfinite(values)]
    if not len(held):
        return np.array([0.0, width])
    width *= max(1, int(np.ceil(np.ptp(held) / width / 100)))
    return np.arange(np.floor(held.min() / width), np.ceil(held.max() / width) + 1.5) * width


@styled
def lag_figure(lag_N: np.ndarray, share_N: np.ndarray) -> Figure:
    """Distribution over series of the second variable's lag, in steps and by the period, with its mean."""
    figure = canvas(WIDTH, 220)
    axes = figure.subplots(1, 2, sharey=False)
    panels = ((lag_N, 0.5, "steps"), (100 * share_N, 2.0, "% of the period"))
    for ax, (values_N, width, unit) in zip(axes, panels, strict=True):
        edges = _edges(values_N, width)
        _outline(ax, np.histogram(values_N, edges)[0], edges, PALETTE["row-2"][0])
        ax.set_ylim(top=1.14 * ax.get_ylim()[1])  # room for the words above the bars
        if np.isfinite(values_N).any():
            mean = float(np.nanmean(values_N))
            ax.axvline(mean, color=MUTED, linewidth=1.0, linestyle=(0, (3, 2)))
            ax.annotate(
                f"mean {mean:.3g}", (mean, 1), xycoords=("data", "axes fraction"), xytext=(4, -2), va="top",
                textcoords="offset points", fontsize=9, color=MUTED,
            )  # fmt: skip
        ax.set_xlabel(f"lag ({unit})")
        ax.xaxis.set_major_locator(ticks(5))
    axes[0].set_ylabel("series per bin")
    return figure
