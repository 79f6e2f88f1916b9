"""Figures of an exploration: regimes, tokens, rounding errors and windows; and all its figures together.

Axes: N series, K clusters. A figure's unit is the CSS pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from jaxlv.analysis.clusters import CLUSTERS, Clusters, plane
from jaxlv.analysis.exploration import Cycles
from jaxlv.data.series import SeriesSet
from jaxlv.report.figures import series as own
from jaxlv.report.figures.axes import ABOVE, WIDTH, canvas, log_ticks, plain_number, ticks
from jaxlv.report.figures.series import HUES, Rows, thinned
from jaxlv.report.figures.svg import MUTED, styled

# --------------------------------------------------------------------------------------------------- regimes


@styled
def plane_figure(place_N2: np.ndarray, label_N: np.ndarray, variance: Sequence[float]) -> Figure:
    """The series in the first two principal components of their features, by cluster."""
    figure = canvas(WIDTH, 320)
    ax = figure.subplots()
    handles = []
    held_N = np.isin(np.arange(len(label_N)), thinned(len(label_N)))
    for k in range(label_N.max() + 1):
        colour, marker = HUES[k % len(HUES)], "os^Dv<>P"[k % 8]
        ax.plot(
            *place_N2[held_N & (label_N == k)].T,
            marker,
            color=colour,
            markersize=4,
            markeredgewidth=0,
            alpha=0.6,
            linewidth=0,
        )
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=6, markeredgewidth=0, linewidth=0))
    for axis, share, word in zip((ax.xaxis, ax.yaxis), variance, ("first", "second"), strict=True):
        axis.set_label_text(f"{word} component ({100 * share:.0f} % of the variance)")
        axis.set_major_locator(ticks(6))
    figure.legend(handles, [f"cluster {k + 1}" for k in range(len(handles))], ncols=4, **{**ABOVE, "handlelength": 0.8})
    return figure


@styled
def silhouette_figure(rows: Rows, used: int) -> Figure:
    """Mean silhouette by the number of clusters, the one that is used filled."""
    figure = canvas(WIDTH, 220)
    ax = figure.subplots()
    count_K, value_K = (np.array([row[key] for row in rows], float) for key in ("clusters", "silhouette"))
    ax.plot(count_K, value_K, "o-", color=HUES[1], linewidth=1.6, markersize=6, markerfacecolor="none", markeredgewidth=1.5)
    ax.plot(count_K[count_K == used], value_K[count_K == used], "o", color=HUES[1], markersize=7, markeredgewidth=0)
    ax.set_ylim(0, max(1.15 * float(np.nanmax(value_K, initial=0.1)), 0.1))
    ax.set_xticks(count_K)
    ax.grid(False, axis="x")
    ax.set_xlabel("clusters")
    ax.set_ylabel("mean silhouette")
    return figure


# ------------------------------------------------------------------------------------------------------ text


@styled
def token_figure(rows: Rows) -> Figure:
    """Tokens per series in each scheme: least, median and most."""
    figure = canvas(WIDTH, 62 + 25 * len(rows))
    ax = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        low, middle, high = (row[f"tokens {key}"] for key in ("min", "median", "max"))
        ax.plot([low, high], [place, place], color=HUES[0], linewidth=2.4, solid_capstyle="butt")
        ax.plot(middle, place, "o", color=HUES[0], markersize=7, markeredgewidth=0)
    _scheme_axis(ax, rows)
    ax.xaxis.set_major_locator(ticks(6))
    ax.set_xlabel("tokens per series: least, median (dot), most")
    return figure


def _scheme_axis(ax: Axes, rows: Rows) -> None:
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_yticks(range(len(rows)), [str(row["scheme"]) for row in reversed(rows)])
    ax.spines["left"].set_visible(False)


@styled
def round_trip_figure(rows: Rows) -> Figure:
    """Mean absolute error of each scheme's text, its range over series, and the largest single error; logarithmic."""
    figure = canvas(WIDTH, 84 + 25 * len(rows))
    ax = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        ax.plot([row["mae min"], row["mae max"]], [place, place], color=HUES[1], linewidth=2.4, solid_capstyle="butt")
        ax.plot(row["mae"], place, "o", color=HUES[1], markersize=7, markeredgewidth=0)
        ax.plot(row["max error"], place, "D", color=MUTED, markersize=5, markerfacecolor="none", markeredgewidth=1.4)
    ax.set_xscale("log")
    log_ticks(ax.xaxis, *ax.get_xlim())
    _scheme_axis(ax, rows)
    ax.set_xlabel("absolute error (raw units), logarithmic")
    handles = [
        Line2D([], [], color=HUES[1], marker="o", markersize=7, markeredgewidth=0, linewidth=2.4),
        Line2D([], [], color=MUTED, marker="D", markersize=5, markerfacecolor="none", markeredgewidth=1.4, linewidth=0),
    ]
    figure.legend(
        handles, ["mean, and its range over series", "largest single error"], ncols=2, **{**ABOVE, "handlelength": 2.2}
    )
    return figure


@styled
def window_figure(rows: Rows) -> Figure:
    """Per scheme and window length: the share of positions that is padding, or of tokens that no window holds."""
    parts, lengths = list(dict.fromkeys(row["part"] for row in rows)), sorted({row["length"] for row in rows})
    figure = canvas(WIDTH, 330)
    axes = figure.subplots(2, len(parts), sharey="row", sharex=True, squeeze=False)
    schemes = list(dict.fromkeys(row["scheme"] for row in rows))
    width = 0.8 / len(lengths)
    for column, part in enumerate(parts):
        for line, key in enumerate(("padding", "tokens left out")):
            ax = axes[line, column]
            for j, length in enumerate(lengths):
                shares = {row["scheme"]: row[key] for row in rows if row["part"] == part and row["length"] == length}
                heights = [100 * (shares.get(name) or 0.0) for name in schemes]
                place = np.arange(len(schemes)) + (j - (len(lengths) - 1) / 2) * width
                ax.bar(place, heights, width, color=HUES[j % len(HUES)])
            ax.grid(False, axis="x")
            ax.yaxis.set_major_locator(ticks(4))
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(value)))
        axes[0, column].set_title(part, loc="left")
        axes[1, column].set_xticks(range(len(schemes)), [name.replace(" decimals", "") for name in schemes], rotation=50)
    axes[0, 0].set_ylabel("padding\n(% of positions)")
    axes[1, 0].set_ylabel("tokens left out\n(% of all)")
    handles = [Rectangle((0, 0), 1, 1, color=HUES[j % len(HUES)]) for j in range(len(lengths))]
    figure.legend(handles, [f"{length} tokens" for length in lengths], ncols=len(lengths), **ABOVE)
    return figure


# ------------------------------------------------------------------------------------------------- together


def drawings(
    data: SeriesSet,
    shown: SeriesSet,
    rule_N: np.ndarray,
    found: Cycles,
    step: float,
    regimes: Mapping[str, Any] | None,
    tables: Mapping[str, Rows],
) -> dict[str, tuple[Figure, str]]:
    """Every figure of an exploration and its label, by the name of its file; `tables` are those of the exploration."""
    names, values_NTV, pair = data.variables, data.values_NTV, len(data.variables) > 1
    drawn: dict[str, tuple[Figure, str]] = {}
    rule_of = dict(zip(data.ids_N.tolist(), rule_N.tolist(), strict=True))
    for i, values_TV in zip(shown.ids_N.tolist(), shown.values_NTV, strict=True):
        title = f"series {i}: {rule_of[i]}"
        drawn[f"series_{i}"] = own.trajectory_figure(data.time_T, values_TV, names, title), f"{title}, over time"
        if pair:
            drawn[f"phase_{i}"] = own.phase_plane_figure(values_TV, names, title), f"{title}, {names[1]} against {names[0]}"
    overall = tables["values"][0]
    marks = {f"{p:g} %": overall[f"p{p:g}"] for p in (95, 99, 99.7)}
    drawn["values"] = own.values_figure(values_NTV, names, marks), "Distribution of all values"
    drawn["mean"] = (
        own.mean_figure(tables["mean"], names),
        "Mean trajectory, its deviation and the 10-90 % band",
    )
    if np.isfinite(found.period_NV).any():
        drawn["periods"] = own.period_figure(found.period_NV, names, step), "Distribution of periods"
    if pair and np.isfinite(found.lag_N).any():
        drawn["lags"] = (
            own.lag_figure(found.lag_N, found.share_N),
            f"Lags of {names[1]} behind {names[0]}",
        )
    if pair:
        drawn["states"] = (
            own.states_figure(values_NTV[:, 0], values_NTV[:, -1], names),
            "First and last step",
        )
    if regimes:
        drawn |= dict(_regime_drawings(data, regimes))
    written = [row for row in tables["tokens"] if row["series"]]
    if written:
        errors = [row for row in tables["round trip"] if row["series"]]
        drawn["tokens"] = token_figure(written), "Tokens per series in each scheme"
        drawn["round_trip"] = round_trip_figure(errors), "Rounding error of each scheme"
        drawn["windows"] = window_figure(tables["windows"]), "Padding and tokens left out by window length"
    return drawn


def _regime_drawings(data: SeriesSet, regimes: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Figure, str]]]:
    main: Clusters = regimes["main"]
    for k, share in enumerate(main.share_K):
        typical = main.typical(k)
        title = f"cluster {k + 1}: {100 * share:.1f} %"
        picture = own.band_figure(
            data.time_T, data.values_NTV[main.label_N == k], data.values_NTV[typical], data.variables, title
        )
        yield f"cluster_{k + 1}", (picture, f"{title}, series {data.ids_N[typical]} in its 10-90 % band")
    place_N2, variance = plane(main)
    yield "plane", (plane_figure(place_N2, main.label_N, variance), "Clusters in two principal components")
    yield "silhouette", (silhouette_figure(regimes["silhouettes"], CLUSTERS), "Silhouette by number of clusters")
