"""Figures of the analyses of a tuned model itself, from their dictionaries (jaxlv.analysis.anatomy, jaxlv.analysis.logits).

Axes: T time steps, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from jaxlv.report.figures.analyses import model_colours
from jaxlv.report.figures.axes import (
    ABOVE,
    DASHED,
    WIDTH,
    canvas,
    log_ticks,
    numbers,
    plain_number,
    plain_ticks,
    positive,
    shortened,
    ticks,
)
from jaxlv.report.figures.evaluation import MODEL, curve
from jaxlv.report.figures.svg import INK, MUTED, PALETTE, styled

Tree = Mapping[str, Any]
MARKS = {".": "point", ",": "comma", ";": "semicolon"}  # too small to tell apart without their names


# ---------------------------------------------------------------------------------------------- training


@styled
def norm_figure(training: Tree) -> Figure:
    """Gradient norm before and after clipping by step, logarithmic, and the ratio of the two."""
    records = training["records"]
    figure = canvas(WIDTH, 300)
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1.0])
    steps, before = curve(records, "gradient_norm")
    _, after = curve(records, "clipped_norm")
    top.plot(steps, positive(before), color=MUTED, linewidth=1.2, label="before clipping")
    top.plot(steps, positive(after), color=MODEL, linewidth=1.8, label="after clipping")
    top.set_yscale("log")
    low, high = top.get_ylim()
    top.set_ylim(low / 1.1, high * 1.1)
    log_ticks(top.yaxis, *top.get_ylim())
    top.set_ylabel("gradient norm")
    if training.get("clip_norm"):
        top.axhline(training["clip_norm"], color=MUTED, linewidth=0.8, linestyle=DASHED, label="clip norm")
    below.plot(steps, np.divide(after, before, out=np.ones_like(after), where=before > 0), color=MODEL, linewidth=1.5)
    below.set_ylim(0, 1.05)
    below.yaxis.set_major_locator(ticks(2))
    below.set_ylabel("ratio")
    below.set_xlabel("training step")
    below.xaxis.set_major_locator(ticks(6, integer=True))
    for ax in (top, below):
        ax.grid(False, axis="x")
    figure.align_ylabels([top, below])
    figure.legend(*top.get_legend_handles_labels(), ncols=3, **ABOVE)
    return figure


# ------------------------------------------------------------------------------------------ costs of tokens


@styled
def kind_figure(tokens: Tree) -> Figure:
    """Nats per token of each kind over the 13 symbols, a bar for each model."""
    kinds = list(next(iter(tokens.values()))["by_kind"])
    colours = model_colours(tokens)
    figure = canvas(WIDTH, 70 + (14 * len(colours) + 12) * len(kinds))
    ax = figure.subplots()
    height = 0.8 / len(colours)
    for place, (name, colour) in enumerate(colours.items()):
        values = numbers(tokens[name]["by_kind"][kind]["symbols"]["nats"] for kind in kinds)
        rows = np.arange(len(kinds)) + (place - (len(colours) - 1) / 2) * height
        ax.barh(rows, values, height=0.9 * height, color=colour, label=name)
        for row, value in zip(rows, values, strict=True):
            text = plain_number(float(f"{value:.2g}")) if value >= 5e-4 else "< 0.0005"
            ax.annotate(text, (value, row), (4, 0), textcoords="offset points", va="center", fontsize=9, color=INK)
    ax.set_yticks(range(len(kinds)), kinds)
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.grid(False, axis="y")
    ax.xaxis.set_major_locator(ticks(5))
    ax.set_xlabel("nats per token")
    figure.legend(*ax.get_legend_handles_labels(), ncols=len(colours), **ABOVE)
    return figure


@styled
def token_step_figure(tokens: Tree) -> Figure:
    """Nats per token by time step over the 13 symbols, logarithmic: median over series of each model, and 10-90 % of the
    first.
    """
    figure = canvas(WIDTH, 280)
    ax = figure.subplots()
    for name, colour in reversed(model_colours(tokens).items()):
        by_step = tokens[name]["by_step"]
        steps = np.array(by_step["step"]) + 1
        if name == next(iter(tokens)):
            low_T, high_T = positive(by_step["p10"]), positive(by_step["p90"])
            ax.fill_between(steps, low_T, high_T, color=colour, alpha=0.16, linewidth=0)
        ax.plot(steps, positive(by_step["median"]), color=colour, linewidth=1.8 if name == "tuned" else 1.4, label=name)
    context = next(iter(tokens.values()))["context"]
    ax.axvline(context + 0.5, color=MUTED, linewidth=0.8, linestyle=DASHED)
    ax.annotate(
        "scale fitted up to here", (context + 0.5, 1), (-4, -2), xycoords=("data", "axes fraction"),
        textcoords="offset points", ha="right", va="top", fontsize=9, color=MUTED,
    )  # fmt: skip
    ax.set_yscale("log")
    log_ticks(ax.yaxis, *ax.get_ylim())
    ax.set_xlim(1, max(len(tokens[name]["by_step"]["step"]) for name in tokens))
    ax.xaxis.set_major_locator(ticks(6, integer=True))
    ax.set_xlabel("time step of the series")
    ax.set_ylabel("nats per token")
    ax.grid(False, axis="x")
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], ncols=len(labels), **ABOVE)
    return figure


# ----------------------------------------------------------------------------------------------- the head


def token_words(entry: Tree) -> str:
    """A token as a label: its text where it is printable ASCII, escaped, else its id."""
    text = str(entry["text"])
    if not text:
        return f"id {entry['id']} (no text)"
    return repr(text) if text.isascii() else f"id {entry['id']}"


@styled
def largest_figure(head: Tree) -> Figure:
    """The largest entries with their tokens' text; those of the 13 symbols in colour."""
    entries = head["largest"]
    figure = canvas(WIDTH, 56 + 16 * len(entries))
    ax = figure.subplots()
    values = numbers(entry["value"] for entry in entries)
    known = {one["id"] for one in head["symbols"].values()}
    ax.barh(range(len(entries)), values, color=[MODEL if entry["id"] in known else MUTED for entry in entries], height=0.72)
    ax.axvline(0, color=INK, linewidth=0.8)
    labels = [shortened(" ".join(filter(None, (MARKS.get(entry["text"]), token_words(entry)))), 20) for entry in entries]
    ax.set_yticks(range(len(entries)), labels, fontsize=9, va="center_baseline")
    ax.invert_yaxis()
    ax.margins(y=0.01)
    ax.grid(False, axis="y")
    plain_ticks(ax.xaxis, 5)
    ax.set_xlabel("bias (natural log of odds)" if head["kind"] == "bias" else "norm of the row's change")
    handles = [Patch(color=MODEL), Patch(color=MUTED)]
    figure.legend(handles, ["one of the 13 symbols", "another token"], ncols=2, **ABOVE)
    return figure


@styled
def head_histogram_figure(head: Tree) -> Figure:
    """How many entries have each size, logarithmic, with the median and the 13 symbols marked."""
    figure = canvas(WIDTH, 250)
    ax = figure.subplots()
    counts, edges = np.array(head["histogram"]["counts"]), np.array(head["histogram"]["edges"])
    ax.stairs(counts, edges, color=MUTED, fill=True, alpha=0.8)
    ax.set_yscale("log")
    ax.set_ylim(0.5, 3 * max(counts.max(), 1))
    log_ticks(ax.yaxis, *ax.get_ylim())
    ax.axvline(head["median"], color=INK, linewidth=1.0, linestyle=DASHED)
    if edges[0] < 0 < edges[-1]:
        ax.axvline(0, color=MUTED, linewidth=0.8)
    for one in head["symbols"].values():
        ax.plot([one["value"]] * 2, [0.5, 0.9], color=MODEL, linewidth=1.6)
    plain_ticks(ax.xaxis, 5)
    ax.set_xlabel("bias (natural log of odds)" if head["kind"] == "bias" else "norm of the row's change")
    ax.set_ylabel("entries")
    handles = [Line2D([], [], color=INK, linewidth=1.0, linestyle=DASHED), Line2D([], [], color=MODEL, linewidth=1.6)]
    figure.legend(handles, ["median", "the 13 symbols"], ncols=2, **ABOVE)
    return figure


# ------------------------------------------------------------------------------------------ adapter spectra


@styled
def heatmap_figure(spectra: Tree, key: str, scale: float = 1.0) -> Figure:
    """A number of each adapted projection, layer by layer, the darker the larger; `scale` divides it."""
    entries = spectra["projections"]
    layers = sorted({entry["layer"] for entry in entries})
    names = list(dict.fromkeys(entry["projection"] for entry in sorted(entries, key=lambda e: (e["layer"], 0))))
    figure = canvas(WIDTH, 44 + 17 * len(layers))
    ax = figure.subplots()
    greatest = max(entry[key] for entry in entries) or 1.0
    least = min((entry[key] / scale for entry in entries if entry[key]), default=1.0)
    decimals = min(max(1 - math.floor(math.log10(least)), 0), 4)  # two digits of the least
    for entry in entries:
        x, y = names.index(entry["projection"]), layers.index(entry["layer"])
        ax.add_patch(Rectangle((x, y), 0.96, 0.92, facecolor=MODEL, alpha=0.6 * entry[key] / greatest, linewidth=0))
        text = f"{entry[key] / scale:.{decimals}f}"
        ax.text(x + 0.48, y + 0.48, text, ha="center", va="center", fontsize=9, color=INK)
    ax.set_xlim(0, len(names))
    ax.set_ylim(len(layers), 0)
    ax.set_xticks(np.arange(len(names)) + 0.48, [name.removesuffix("_proj") for name in names])
    ax.xaxis.tick_top()
    ax.set_yticks(np.arange(len(layers)) + 0.46, [str(layer) for layer in layers], fontsize=9)
    ax.set_ylabel("layer")
    ax.tick_params(length=0)
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return figure


@styled
def spectrum_figure(spectra: Tree) -> Figure:
    """Singular values over the first of each projection: every layer thin, their median thick, logarithmic."""
    figure = canvas(WIDTH, 290)
    ax = figure.subplots()
    names = list(dict.fromkeys(entry["projection"] for entry in spectra["projections"]))
    hues = ("row-tuned", "species-1", "species-2", "row-2", "row-1", "row-untuned", "row-6")
    for name, hue in zip(names, hues, strict=False):
        rows = [np.array(e["singular_values"]) for e in spectra["projections"] if e["projection"] == name and e["norm"]]
        if not rows:
            continue
        shares = np.array([positive(row / row[0]) for row in rows])
        place = np.arange(1, shares.shape[1] + 1)
        ax.plot(place, shares.T, color=PALETTE[hue][0], linewidth=0.5, alpha=0.35)
        label = name.removesuffix("_proj")
        ax.plot(place, np.nanmedian(shares, axis=0), ".-", color=PALETTE[hue][0], linewidth=2.0, markersize=6, label=label)
    ax.set_yscale("log")
    _spectrum_axes(ax, spectra["rank"])
    figure.legend(*ax.get_legend_handles_labels(), ncols=7, **{**ABOVE, "columnspacing": 0.9, "handlelength": 1.2})
    return figure


def _spectrum_axes(ax: Axes, rank: int) -> None:
    ax.set_ylim(max(ax.get_ylim()[0], 1e-6), 1.15)
    log_ticks(ax.yaxis, *ax.get_ylim())
    ax.set_xlim(0.8, rank + 0.2)
    ax.xaxis.set_major_locator(ticks(min(rank, 8), integer=True))
    ax.set_xlabel("direction")
    ax.set_ylabel("singular value / the first")
    ax.grid(False, axis="x")
