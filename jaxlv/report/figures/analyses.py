"""Figures of the analyses of forecasts and of the text format, from their dictionaries (jaxlv.analysis.analyses).

Axes: H forecast steps, T time steps, N series, V variables.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from jaxlv.report.figures.axes import (
    ABOVE,
    DASHED,
    WIDTH,
    canvas,
    log_ticks,
    name_ends,
    numbers,
    plain_ticks,
    positive,
    shortened,
    species,
    ticks,
)
from jaxlv.report.figures.evaluation import row_styles
from jaxlv.report.figures.svg import INK, MUTED, PALETTE, styled

Tree = Mapping[str, Any]


def model_colours(names: Iterable[str]) -> dict[str, str]:
    """The colour of each model."""
    return {name: style.colour for name, style in row_styles(names).items()}


# -------------------------------------------------------------------------------------------- round trip


@styled
def round_trip_figure(trip: Tree) -> Figure:
    """Absolute difference of each step of one series after text and back, and the half unit that bounds it; the variant of
    the most head-room, whose unit is the largest.
    """
    variant = max(trip["variants"], key=lambda one: one["headroom"] or 0)
    difference_TV = np.array(variant["difference"], float)
    variables = trip["variables"]
    figure = canvas(WIDTH, 60 + 96 * len(variables))
    axes = figure.subplots(len(variables), 1, sharex=True, squeeze=False)[:, 0]
    steps = np.arange(1, len(difference_TV) + 1)
    for v, ax in enumerate(axes):
        ax.vlines(steps, 0, difference_TV[:, v], color=species(v), linewidth=1.6)
        ax.axhline(variant["half_unit"][v], color=INK, linewidth=0.9, linestyle=DASHED)
        ax.set_ylim(0, 1.25 * variant["half_unit"][v])
        ax.set_ylabel(shortened(variables[v], 16), color=species(v))
        plain_ticks(ax.yaxis, 3)
        ax.grid(False, axis="x")
    axes[-1].set_xlim(0, len(steps) + 1)
    axes[-1].set_xlabel("time step")
    figure.align_ylabels(axes)
    handles = [Line2D([], [], color=INK, linewidth=0.9, linestyle=DASHED), Line2D([], [], color=MUTED, linewidth=1.6)]
    figure.legend(handles, ["half a unit of the last decimal", "difference (raw units)"], ncols=2, **ABOVE)
    return figure


# ----------------------------------------------------------------------------------------- errors of forecasts


def best_baseline(growth: Tree, models: Sequence[str]) -> str | None:
    """The baseline with the least mean error; an oracle, which knows the equations, is none."""
    errors = {n: np.mean(m["mean"]) for n, m in growth["methods"].items() if n not in models and "oracle" not in n}
    return min(errors, key=lambda name: errors[name]) if errors else None


@styled
def growth_figure(growth: Tree, models: Sequence[str]) -> Figure:
    """Median absolute error by step ahead of the models and the best baseline, logarithmic; 10-90 % over series of the
    first model and the baseline.
    """
    figure = canvas(WIDTH, 280)
    ax = figure.subplots()
    styles, ends = row_styles(growth["methods"]), []
    baseline = best_baseline(growth, models)
    for name in filter(None, (baseline, *reversed(models))):
        colour, dash, width = styles[name]
        method = growth["methods"][name]
        if name in (models[0], baseline):
            low_H, high_H = positive(method["p10"]), positive(method["p90"])
            ax.fill_between(growth["step"], low_H, high_H, color=colour, alpha=0.16, linewidth=0)
        median_H = positive(method["median"])
        ax.plot(growth["step"], median_H, color=colour, linestyle=dash, linewidth=width)
        if np.isfinite(median_H).any():
            ends.append((float(median_H[np.isfinite(median_H)][-1]), name, colour))
    ax.set_yscale("log")
    log_ticks(ax.yaxis, *ax.get_ylim())
    ax.set_xlim(1, max(growth["step"][-1], 2))
    ax.xaxis.set_major_locator(ticks(6, integer=True))
    ax.set_xlabel("step ahead")
    ax.set_ylabel("absolute error (raw units)")
    ax.grid(False, axis="x")
    name_ends(ax, ends, spacing=0.066)
    return figure


@styled
def cumulative_figure(errors: Tree) -> Figure:
    """Share of absolute errors below each size, of every method, logarithmic."""
    figure = canvas(WIDTH, 320)
    ax = figure.subplots()
    share = 100 * np.array(errors["probabilities"])
    for name, (colour, dash, width) in row_styles(errors["methods"]).items():
        sizes = positive(errors["methods"][name]["absolute_quantiles"])
        ax.plot(sizes, share, color=colour, linestyle=dash, linewidth=width, label=shortened(name, 22))
    ax.set_xscale("log")
    widest = np.array([positive(method["absolute_quantiles"])[2:] for method in errors["methods"].values()])
    ax.set_xlim(np.nanmin(widest), np.nanmax(widest))
    log_ticks(ax.xaxis, *ax.get_xlim())
    ax.set_ylim(0, 100)
    ax.yaxis.set_major_locator(ticks(5))
    ax.set_xlabel("absolute error (raw units), logarithmic")
    ax.set_ylabel("errors below (%)")
    figure.legend(*ax.get_legend_handles_labels(), ncols=3, **{**ABOVE, "handlelength": 2.2})
    return figure


@styled
def histogram_figure(errors: Tree, variables: Sequence[str]) -> Figure:
    """Signed errors of the models, a panel for each variable."""
    colours, edges = model_colours(errors["histograms"]), np.array(errors["edges"])
    figure = canvas(WIDTH, 60 + 112 * len(variables))
    axes = figure.subplots(len(variables), 1, sharex=True, squeeze=False)[:, 0]
    for v, (ax, variable) in enumerate(zip(axes, variables, strict=True)):
        for name, colour in reversed(colours.items()):
            shares = 100 * np.array(errors["histograms"][name][variable])
            ax.stairs(shares, edges, color=colour, alpha=0.18, fill=True, linewidth=0)
            ax.stairs(shares, edges, color=colour, linewidth=1.8 if name == "tuned" else 1.2)
        ax.axvline(0, color=MUTED, linewidth=0.8)
        ax.set_ylabel(f"{shortened(variable, 16)} (%)", color=species(v))
        ax.yaxis.set_major_locator(ticks(3))
        ax.grid(False, axis="x")
    axes[-1].set_xlim(edges[0], edges[-1])
    plain_ticks(axes[-1].xaxis, 6)
    axes[-1].set_xlabel("forecast − truth (raw units)")
    figure.align_ylabels(axes)
    figure.legend([Patch(color=c, alpha=0.7) for c in colours.values()], list(colours), ncols=len(colours), **ABOVE)
    return figure


@styled
def sorted_figure(series: Tree, models: Sequence[str]) -> Figure:
    """log10 of each series' mean squared error in ascending order, a bar for each variable, a panel for each model."""
    variables = series["variables"]
    figure = canvas(WIDTH, 44 + 150 * len(models))
    axes = figure.subplots(len(models), 1, sharey=True, squeeze=False)[:, 0]
    everything = [numbers(series["methods"][name]["log10_mse"][v]) for name in models for v in variables]
    floor = math.floor(min(np.nanmin(values) for values in everything)) if np.isfinite(everything).any() else -1
    for ax, name in zip(axes, models, strict=True):
        method = series["methods"][name]
        count, width = len(method["series"]), 0.84 / len(variables)
        for v, variable in enumerate(variables):
            values = numbers(method["log10_mse"][variable])
            places = np.arange(count) + (v - (len(variables) - 1) / 2) * width
            ax.bar(places, values - floor, width, bottom=floor, color=species(v), label=variable)
        ax.set_xlim(-0.7, count - 0.3)
        ax.set_ylim(floor, None)
        shown = np.unique(np.linspace(0, count - 1, min(count, 32)).astype(int))  # more labels would overlap
        ax.set_xticks(shown, [str(method["series"][i]) for i in shown], rotation=90, fontsize=8)
        ax.grid(False, axis="x")
        ax.yaxis.set_major_locator(ticks(4, integer=True))
        ax.set_ylabel(f"log10 MSE, {name}")
    axes[-1].set_xlabel("series, by the larger of their errors")
    # Named anew: matplotlib itself leaves out what begins with an underscore.
    figure.legend(axes[0].containers, [shortened(name, 16) for name in variables], ncols=len(variables), **ABOVE)
    return figure


@styled
def pair_figure(series: Tree, models: Sequence[str]) -> Figure:
    """Mean squared error of the second variable against that of the first, a dot for each series and model."""
    figure = canvas(WIDTH, 390)
    ax = figure.subplots()
    first, second = series["variables"][:2]
    for name, colour in reversed(model_colours(models).items()):
        mse = series["methods"][name]["mse"]
        ax.plot(
            positive(mse[first]), positive(mse[second]), "o" if name == "tuned" else "s", color=colour, label=name,
            markersize=6 if name == "tuned" else 5, alpha=0.8, markeredgewidth=0,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    low, high = min(ax.get_xlim()[0], ax.get_ylim()[0]), max(ax.get_xlim()[1], ax.get_ylim()[1])
    ax.plot([low, high], [low, high], color=MUTED, linewidth=1.0, linestyle=DASHED)
    for axis in (ax.xaxis, ax.yaxis):
        log_ticks(axis, low, high)
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    ax.set_aspect("equal")
    ax.set_xlabel(f"MSE of {shortened(first, 24)} (raw units²)")
    ax.set_ylabel(f"MSE of {shortened(second, 24)} (raw units²)")
    handles, labels = ax.get_legend_handles_labels()
    handles = [*handles[::-1], Line2D([], [], color=MUTED, linewidth=1.0, linestyle=DASHED)]
    figure.legend(handles, [*labels[::-1], "equal errors"], ncols=3, **ABOVE)
    return figure


# ----------------------------------------------------------------------------------------------- the ceiling


@styled
def ceiling_figure(ceiling: Tree) -> Figure:
    """Forecast peak over true peak against true peak over the scale's top; on the curve 1 / x a forecast ends at the top."""
    points = ceiling["points"]
    figure = canvas(WIDTH, 300)
    ax = figure.subplots()
    x, y = (numbers(point[key] for point in points) for key in ("true_over_top", "forecast_over_true"))
    headrooms = sorted({point["headroom"] or 0.0 for point in points})
    for place, headroom in enumerate(headrooms):
        chosen = [(point["headroom"] or 0.0) == headroom for point in points]
        words = f"{100 * headroom:g} % head-room" if ceiling["headrooms"] else "scale's top"
        ax.plot(
            x[chosen], y[chosen], "oDs^v<>"[place % 7], markersize=5.5, markeredgewidth=0, alpha=0.75, label=words,
            color=PALETTE[("row-tuned", "row-1", "row-2", "row-untuned")[place % 4]][0],
        )  # fmt: skip
    right = max(1.15, 1.05 * np.nanmax(x))
    cap = np.linspace(min(0.3, 0.9 * np.nanmin(x)), right, 200)
    ax.plot(cap, 1 / cap, color=INK, linewidth=1.0, linestyle=DASHED)
    ax.axvline(1, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
    ax.axhline(1, color=MUTED, linewidth=0.8)
    ax.set_xlim(cap[0], right)
    ax.set_ylim(max(0, 0.95 * min(np.nanmin(y), 1 / right, 0.9)), max(1.15, 1.05 * np.nanmax(y)))
    ax.set_xlabel("true peak / top of the written scale")
    ax.set_ylabel("forecast peak / true peak")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(ticks(6))
    handles, labels = ax.get_legend_handles_labels()
    handles.append(Line2D([], [], color=INK, linewidth=1.0, linestyle=DASHED))
    figure.legend(handles, [*labels, "peak at the top"], ncols=3, **ABOVE)
    return figure
