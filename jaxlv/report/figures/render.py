"""Draws any chart with matplotlib, and says where each value of it stands."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from jaxlv.report.charts import Axis, Chart, Kind, Mark, Panel, Series, numbers, plain_number, shortened
from jaxlv.report.theme import INK, STYLE

OWN = "tuned"  # the method whose name is bold
NEAR = 14  # pixels between two numbers that can both be read
LABELS = 32  # of places on an axis: more would overlap
LETTER = 6.1  # pixels of a letter of a legend, on average


class Frame(NamedTuple):
    """What a kind of chart has: its marks, the axes that have grid lines, and whether the left axis has a line."""

    mark: Mark
    grid: str = "both"
    line: bool = True


FRAMES: Mapping[Kind, Frame] = {
    "lines": Frame("line", "y"), "forecast": Frame("line", "y"), "calibration": Frame("line"), "plane": Frame("line"),
    "scatter": Frame("line"), "dots": Frame("interval", line=False), "ranges": Frame("interval", line=False),
    "bars": Frame("bar", "value"), "waterfall": Frame("bar", "value"), "stairs": Frame("stairs"),
    "sticks": Frame("stick", "y"), "heatmap": Frame("cell", "none", line=False),
}  # fmt: skip


class Place(NamedTuple):
    """Where a value stands, two corners in the units of its axes, and what it is in words."""

    axes: Axes
    corners: tuple[tuple[float, float], tuple[float, float]]
    words: str


class Drawing(NamedTuple):
    """A chart as matplotlib has it, and the places of its values, series by series."""

    figure: Figure
    places: list[list[Place]]


@functools.lru_cache(maxsize=2)
def drawn(chart: Chart) -> Drawing:
    """Draws a chart under the theme's settings, which leave the process's own as they were."""
    with matplotlib.rc_context(STYLE):
        layout = ConstrainedLayoutEngine(w_pad=2 / 72, h_pad=3 / 72, hspace=0.03)
        figure = Figure(figsize=(chart.size[0] / 72, chart.size[1] / 72), layout=layout)
        grid_RC = _grid(figure, chart)
        places = []
        for ax, panel in zip(grid_RC.flat, chart.panels, strict=False):
            places += _panel(ax, panel, chart)
        if chart.columns == 1 and len(grid_RC) > 1:
            figure.align_ylabels(grid_RC[:, 0])
        _names(figure, chart)
    return Drawing(figure, [of for of in places if of])


def _grid(figure: Figure, chart: Chart) -> np.ndarray:
    """The axes of the panels, (rows, columns). Neighbours whose axes are the same share them."""
    panels, columns = chart.panels, chart.columns
    same_x = len(panels) > columns and all(panel.x == panels[0].x for panel in panels)
    same_y = columns > 1 and all(panel.y == panels[i - i % columns].y for i, panel in enumerate(panels))
    heights = [panel.height for panel in panels[::columns]]
    return figure.subplots(
        len(heights), columns, sharex=same_x, sharey="row" if same_y else False, squeeze=False, height_ratios=heights
    )


def _panel(ax: Axes, panel: Panel, chart: Chart) -> list[list[Place]]:
    frame, places = FRAMES[chart.kind], []
    panel = replace(panel, series=[_cleaned(one, panel) for one in panel.series])
    for one in panel.series:
        mark = one.mark or frame.mark
        MARKS[mark](ax, one, panel)
        places.append(_places(ax, one, mark, panel, chart.kind))
    room = (
        chart.size[0] / chart.columns,
        chart.size[1] * panel.height / sum(p.height for p in chart.panels[:: chart.columns]),
    )
    _set_axis(ax, "x", panel.x, room[0] / 55)
    _set_axis(ax, "y", panel.y, room[1] / 42)
    _set_frame(ax, panel, chart)
    for note in panel.notes:
        at = tuple(1 if value is None else value for value in (note.x, note.y))
        units: Any = tuple("axes fraction" if value is None else "data" for value in (note.x, note.y))
        ax.annotate(
            note.text, at, note.move, units, "offset points", ha=note.side, va="bottom" if note.above else "top", fontsize=9,
            color=note.colour,
        )  # fmt: skip
    for one in panel.series:
        if one.labels and (one.mark or frame.mark) == "line":
            _beside(ax, one)
    if chart.names == "ends":
        _name_ends(ax, panel.series, chart.size[1])
    return places


# ---------------------------------------------------------------------------------------------------------- marks


def _floats(values: Any, axis: Axis) -> np.ndarray:
    """The values as floats; NaN if they are missing, infinite, or not above zero on a logarithmic axis."""
    found = numbers(np.ravel(np.array(values, dtype=object)))
    return np.where(np.isfinite(found) & ((found > 0) | (axis.scale != "log")), found, np.nan)


def _cleaned(one: Series, panel: Panel) -> Series:
    """A series whose values are those that its axes can show."""
    across, up = (panel.y, panel.x) if panel.lies else (panel.x, panel.y)
    y, low, high = (None if values is None else _floats(values, up) for values in (one.y, one.low, one.high))
    return replace(one, x=_floats(one.x, across), y=y, low=low, high=high)


def _pen(one: Series) -> dict[str, Any]:
    """How matplotlib draws a line and its markers."""
    edge = (1.5 if one.size > 5.5 else 1.4) if one.open else 0
    return {
        "color": one.colour, "linewidth": one.width if one.dash != "none" else 0, "linestyle": one.dash,
        "marker": one.marker or None, "markersize": one.size, "markeredgewidth": edge, "alpha": one.alpha,
        "markerfacecolor": "none" if one.open else one.colour,
    }  # fmt: skip


def _line(ax: Axes, one: Series, panel: Panel) -> None:
    if one.low is not None and np.isfinite(one.low + one.high).any():
        ax.fill_between(one.x, one.low, one.high, color=one.colour, alpha=one.shade, linewidth=0)
    if one.y is not None and np.isfinite(one.y).any():
        x, y = (one.y, one.x) if panel.lies else (one.x, one.y)
        step = "steps-post" if one.stepped else "default"
        ax.plot(x, y, **_pen(one), zorder=one.over, drawstyle=step, clip_on=not one.open)


def _interval(ax: Axes, one: Series, panel: Panel) -> None:
    for i, place, y in one.points():
        if one.low is not None and one.low[i] < one.high[i]:
            ax.plot([one.low[i], one.high[i]], [place, place], color=one.colour, linewidth=2.4, solid_capstyle="butt")
        ax.plot(y, place, **_pen(one) | {"linewidth": 0, "linestyle": "none", "marker": one.marker or "o"})


def _bar(ax: Axes, one: Series, panel: Panel) -> None:
    x, y, base = one.x, one.y, np.broadcast_to(one.base, np.shape(one.x))
    if panel.lies:
        ax.barh(x, y, one.width, base, color=one.colour)
    else:
        ax.bar(x, y, one.width, base, color=one.colour)
    for text, place, end in zip(one.labels, x, np.maximum(base, base + y), strict=False):
        at, move = ((end, place), (4, 0)) if panel.lies else ((place, end), (0, 4))
        ax.annotate(text, at, move, textcoords="offset points", va="center", fontsize=9, color=INK)


def _stairs(ax: Axes, one: Series, panel: Panel) -> None:
    ax.stairs(one.y, one.x, color=one.colour, alpha=one.shade, fill=True, linewidth=0)
    if one.width:
        ax.stairs(one.y, one.x, color=one.colour, linewidth=one.width)


def _stick(ax: Axes, one: Series, panel: Panel) -> None:
    ax.vlines(one.x, 0, one.y, color=one.colour, linewidth=one.width)


def _cell(ax: Axes, one: Series, panel: Panel) -> None:
    greatest = max(one.high) or 1.0
    for x, y, high, text in zip(one.x, one.y, one.high, one.labels, strict=True):
        alpha = 0.6 * high / greatest
        ax.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=one.colour, alpha=alpha, linewidth=0))
        ax.text(x, y, text, ha="center", va="center", fontsize=9, color=INK)


def _across(ax: Axes, one: Series, panel: Panel) -> None:
    for y in np.atleast_1d(one.y):
        ax.axhline(y, color=one.colour, linewidth=one.width, linestyle=one.dash)


def _down(ax: Axes, one: Series, panel: Panel) -> None:
    for x in np.atleast_1d(one.x):
        ax.axvline(x, color=one.colour, linewidth=one.width, linestyle=one.dash)


MARKS: Mapping[Mark, Callable[[Axes, Series, Panel], None]] = {
    "line": _line, "interval": _interval, "bar": _bar, "stairs": _stairs, "stick": _stick, "cell": _cell, "across": _across,
    "down": _down,
}  # fmt: skip


def _places(ax: Axes, one: Series, mark: Mark, panel: Panel, kind: Kind) -> list[Place]:
    """The values of a series: of points where they are, of bars, bins and cells their corners."""
    if mark in ("across", "down") or not one.told:
        return []
    found = []
    half = {"bar": one.width / 2, "cell": 0.48, "stick": 0.4}.get(mark, 0.0)
    base = np.broadcast_to(one.base, np.shape(one.x))
    for i, x, y in one.points():
        low, high = (
            (y - 0.46, y + 0.46) if mark == "cell" else (y, y) if mark in ("line", "interval") else (base[i], base[i] + y)
        )
        if mark == "stairs" and not y:
            continue
        left, right = (x, one.x[i + 1]) if mark == "stairs" else (x - half, x + half)
        corners = ((low, left), (high, right)) if panel.lies else ((left, low), (right, high))
        at, value = (left + right) / 2, y + one.base if np.isscalar(one.base) else y
        found.append(Place(ax, corners, panel.words(one, i, at, value, kind)))
    return found


# ----------------------------------------------------------------------------------------------------------- axes


def _set_axis(ax: Axes, side: str, one: Axis, room: float) -> None:
    """Scale, limits, ticks and label; `room` is for how many ticks there is room."""
    axis = getattr(ax, f"{side}axis")
    if one.scale == "log":
        getattr(ax, f"set_{side}scale")("log")
    if one.limits != (None, None):
        getattr(ax, f"set_{side}lim")(*one.limits)
    low, high = sorted(getattr(ax, f"get_{side}lim")())
    axis.set_label_text(one.text, color=one.colour)
    if isinstance(one.ticks, Mapping):
        step = -(-len(one.ticks) // LABELS) if one.scale != "category" else 1
        shown = list(one.ticks.items())[::step]
        axis.set_ticks(*zip(*shown, strict=True), rotation=one.turned, **({"fontsize": 8} if one.turned == 90 else {}))
        axis.set_minor_locator(NullLocator())
    elif one.scale == "log":
        log_ticks(axis, low, high)
    else:
        count = one.ticks or min(max(round(room), 2), 8)
        axis.set_major_locator(MaxNLocator(count, steps=[1, 2, 2.5, 5, 10], integer=one.whole))
        if max(abs(low), abs(high)) < 0.01 or max(abs(low), abs(high)) >= 1e5:
            axis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(round(value, 12))))


def log_ticks(axis: Any, low: float, high: float) -> None:
    """Sets labels for a logarithmic axis from `low` to `high`: the fewer a decade, the more decades there are."""
    decades = math.log10(high / low) if low > 0 else 1.0
    subs = (1, 2, 3, 4, 5, 6, 8) if decades < 0.7 else (1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(value)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def _set_frame(ax: Axes, panel: Panel, chart: Chart) -> None:
    """Grid, border, title, and a second axis."""
    frame = FRAMES[chart.kind]
    grid = {"value": "x" if panel.lies else "y"}.get(frame.grid, frame.grid)
    if panel.x.scale == "log" and grid == "y":
        grid = "both"
    for side in "xy":
        ax.grid(grid in (side, "both"), axis=side)
    ax.spines["left"].set_visible(frame.line)
    if chart.kind == "heatmap":
        ax.spines["bottom"].set_visible(False)
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
    if chart.equal:
        ax.set_aspect("equal")
    if panel.title:
        ax.set_title(panel.title, loc="left")
    if not ax.get_subplotspec().is_last_row() and ax.get_shared_x_axes().get_siblings(ax)[1:]:
        ax.set_xlabel("")
    if not ax.get_subplotspec().is_first_col() and ax.get_shared_y_axes().get_siblings(ax)[1:]:
        ax.set_ylabel("")
    for tick in ax.get_yticklabels() if panel.lies else ():
        tick.set_fontweight("bold" if tick.get_text() == OWN else "normal")
    if panel.top:
        label, factor = panel.top
        top = ax.secondary_xaxis("top", functions=(lambda x: np.multiply(x, factor), lambda x: np.divide(x, factor)))
        top.set_xlabel(label)
        top.spines["top"].set_visible(True)


# ---------------------------------------------------------------------------------------------------------- names


def _names(figure: Figure, chart: Chart) -> None:
    """Title and legend in lines above the axes; a series that is drawn in several looks has them side by side."""
    above: dict[str, Any] = {"loc": "outside upper left", "borderpad": 0, "handletextpad": 0.5}
    if chart.title:
        title = above | {"handlelength": 0, "handletextpad": 0}
        figure.legend([Line2D([], [], linewidth=0)], [chart.title], **title)
    looks: dict[str, dict[str, Any]] = {}
    for one, mark in _keyed(chart) if chart.names in ("above", "beside the title") else ():
        handle = _handle(one, mark)
        looks.setdefault(one.name, {}).setdefault(repr((mark, one.colour, one.dash, one.width)), handle)
    if not looks:
        return
    length = 10 if chart.names == "beside the title" else 40
    handles = [tuple(found.values()) if len(found) > 1 else next(iter(found.values())) for found in looks.values()]
    labels = [shortened(name, length) for name in looks]
    if chart.names == "beside the title":
        above |= {"loc": "outside upper right", "handlelength": 0.9, "columnspacing": 0.8, "ncols": len(labels)}
    else:
        above |= {"handlelength": 1.7, "columnspacing": 1.1, "ncols": _columns(labels, chart.size[0])}
    figure.legend(handles, labels, **above, handler_map={tuple: HandlerTuple(ndivide=None, pad=0.15)})


def _keyed(chart: Chart) -> list[tuple[Series, Mark]]:
    """The series that have an entry in the legend, and their marks."""
    mark = FRAMES[chart.kind].mark
    every = chart.keys if chart.keys is not None else [one for panel in chart.panels for one in panel.series]
    return [(one, one.mark or mark) for one in every if one.name and one.keyed]


def _handle(one: Series, mark: Mark) -> Any:
    """What stands beside a name in a legend."""
    if mark == "line" and one.y is None and one.low is not None:
        return Patch(facecolor=one.colour, alpha=one.shade, linewidth=0)
    if mark == "bar":
        return Patch(facecolor=one.colour, linewidth=0)
    pen = _pen(one)
    if mark == "interval":
        pen |= {"linewidth": 2.4 if one.low is not None else 0, "linestyle": "solid", "marker": one.marker or "o"}
    if mark == "stairs":
        pen |= {"linewidth": 2}
    if one.dash == "none":
        pen |= {"alpha": 1, "markersize": max(one.size, 5)}
    return Line2D([], [], **pen)


def _columns(labels: Sequence[str], width: float) -> int:
    """The most columns of a legend that fit a width, filled column by column."""
    for count in range(len(labels), 1, -1):
        rows = -(-len(labels) // count)
        columns = [labels[i : i + rows] for i in range(0, len(labels), rows)]
        if sum(33 + LETTER * max(map(len, column)) for column in columns) <= width + 11:
            return count
    return 1


def _name_ends(ax: Axes, every: Sequence[Series], height: float) -> None:
    """Names beside the last points, moved apart by a line of text at least."""
    found = [(points[-1], one) for one in every if one.name and one.keyed and (points := one.points())]
    at = ax.transData + ax.transAxes.inverted()
    ends = sorted([(float(at.transform(point[1:])[1]), one.name, one.colour) for point, one in found])
    spacing, places = 18.5 / height, [place for place, _, _ in ends]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + spacing)
    for i in reversed(range(len(places))):
        places[i] = min(places[i], 1.0 if i == len(places) - 1 else places[i + 1] - spacing)
    for place, (_, name, colour) in zip(places, ends, strict=True):
        ax.annotate(
            shortened(name, 22), (1, place), (6, 0), "axes fraction", "offset points", color=colour, fontsize=10, va="center",
            fontweight="bold" if name == OWN else "normal", annotation_clip=False,
        )  # fmt: skip


def _beside(ax: Axes, one: Series) -> None:
    """Labels beside points; one for neighbours that would stand on one another: "1-3"."""
    together: list[list[tuple[str, tuple[float, float]]]] = []
    for i, x, y in one.points():
        last = together[-1][-1][1] if together else None
        near = last and np.hypot(*(ax.transData.transform((x, y)) - ax.transData.transform(last))) < NEAR
        together[-1].append((one.labels[i], (x, y))) if near else together.append([(one.labels[i], (x, y))])
    for group in together:
        (first, _), (last_label, point) = group[0], group[-1]
        words = first if first == last_label else f"{first}-{last_label}"
        ax.annotate(words, point, (4, 4), textcoords="offset points", color=one.colour, fontsize=10)
