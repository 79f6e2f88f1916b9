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
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from jaxlv.report.charts import Axis, Chart, Kind, Mark, Panel, Series, numbers, plain_number, shortened
from jaxlv.report.theme import INK, STYLE

OWN = "tuned"  # the method whose name is bold
NEAR = 14  # pixels between two numbers that can both be read
LINE = 18.5  # pixels from one name at the end of a line to the next
LABELS = 32  # of places on an axis: more would overlap
SUBS = {0.5: (), 0.8: (1, 2, 3, 4, 5, 6, 8), 1.2: (1, 2, 3, 5), 2: (1, 2, 5), 3: (1, 3)}
"""Ticks of a decade if an axis has fewer decades; none: at round distances, as on a linear axis."""
LETTER, KEY = 6.1, 33  # pixels of a letter of a legend on average, and of what stands beside a name


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
        places = [_panel(ax, panel, chart) for ax, panel in zip(grid_RC.flat, chart.panels, strict=False)]
        if chart.columns == 1 and len(grid_RC) > 1:
            figure.align_ylabels(grid_RC[:, 0])
        _names(figure, chart)
    return Drawing(figure, [of for panel in places for of in panel])


def _grid(figure: Figure, chart: Chart) -> np.ndarray:
    """Returns the axes of the panels, (rows, columns). Neighbours whose axes are the same share them."""
    panels, columns = chart.panels, chart.columns
    same_x = len(panels) > columns and all(panel.x == panels[0].x for panel in panels)
    same_y = columns > 1 and all(panel.y == panels[i - i % columns].y for i, panel in enumerate(panels))
    options: Any = {"sharex": same_x, "sharey": "row" if same_y else False, "squeeze": False}
    heights = [panel.height for panel in panels[::columns]]
    return figure.subplots(len(heights), columns, height_ratios=heights, **options)


def _panel(ax: Axes, panel: Panel, chart: Chart) -> list[list[Place]]:
    panel = replace(panel, series=[_cleaned(one, panel, chart.kind) for one in panel.series])
    for one in panel.series:
        MARKS[one.mark](ax, one, panel)  # type: ignore[index]
    share = panel.height / sum(other.height for other in chart.panels[:: chart.columns])
    _set_axis(ax, "x", panel.x, chart.size[0] / chart.columns / 62)
    _set_axis(ax, "y", panel.y, chart.size[1] * share / 36)
    _set_frame(ax, panel, chart)
    for note in panel.notes:
        at = 1 if note.x is None else note.x, 1 if note.y is None else note.y
        units: Any = tuple("axes fraction" if value is None else "data" for value in (note.x, note.y))
        look: dict[str, Any] = {"ha": note.side, "va": "bottom" if note.above else "top", "color": note.colour}
        ax.annotate(note.text, at, note.move, units, "offset points", fontsize=9, **look)
    for one in panel.series:
        if one.labels and one.mark == "line":
            _beside(ax, one)
    if chart.names == "ends":
        _name_ends(ax, panel.series, LINE / chart.size[1])
    return [_places(ax, one, panel, chart.kind) for one in panel.series if one.told]


# ---------------------------------------------------------------------------------------------------------- marks


def _cleaned(one: Series, panel: Panel, kind: Kind) -> Series:
    """Returns a series with the mark of its kind; values that its axes cannot show are NaN, such as 0 on a log axis."""

    def floats(values: Any, axis: Axis) -> np.ndarray:
        found = numbers(values)
        return np.where(np.isfinite(found) & ((found > 0) | (axis.scale != "log")), found, np.nan)

    across, up = (panel.y, panel.x) if panel.lies else (panel.x, panel.y)
    y, low, high = (None if values is None else floats(values, up) for values in (one.y, one.low, one.high))
    return replace(one, x=floats(one.x, across), y=y, low=low, high=high, mark=one.mark or FRAMES[kind].mark)


def _pen(one: Series) -> dict[str, Any]:
    """Returns how matplotlib draws a line and its markers."""
    return {
        "color": one.colour, "linewidth": one.width if one.dash != "none" else 0, "linestyle": one.dash,
        "marker": one.marker or None, "markersize": one.size, "markeredgewidth": 1.5 if one.open else 0, "alpha": one.alpha,
        "markerfacecolor": "none" if one.open else one.colour,
    }  # fmt: skip


def _line(ax: Axes, one: Series, panel: Panel) -> None:
    if one.low is not None and np.isfinite(one.low + one.high).any():
        ax.fill_between(one.x, one.low, one.high, color=one.colour, alpha=one.shade, linewidth=0)
    if one.y is not None and np.isfinite(one.y).any():
        step = "steps-post" if one.stepped else "default"
        ax.plot(one.x, one.y, **_pen(one), zorder=one.over, drawstyle=step, clip_on=not one.open)


def _interval(ax: Axes, one: Series, panel: Panel) -> None:
    for i, place, y in one.points():
        if one.low is not None and one.low[i] < one.high[i]:
            ax.plot([one.low[i], one.high[i]], [place, place], color=one.colour, linewidth=2.4, solid_capstyle="butt")
        ax.plot(y, place, **_pen(replace(one, dash="none", marker=one.marker or "o")))


def _bar(ax: Axes, one: Series, panel: Panel) -> None:
    base = np.broadcast_to(one.base, np.shape(one.x))
    (ax.barh if panel.lies else ax.bar)(one.x, one.y, one.width, base, color=one.colour)
    for text, place, end in zip(one.labels, one.x, np.maximum(base, base + one.y), strict=False):
        ax.annotate(text, (end, place), (4, 0), textcoords="offset points", va="center", fontsize=9, color=INK)


def _stairs(ax: Axes, one: Series, panel: Panel) -> None:
    ax.stairs(one.y, one.x, color=one.colour, alpha=one.shade, fill=True, linewidth=0)
    if one.width:
        ax.stairs(one.y, one.x, color=one.colour, linewidth=one.width)


def _cell(ax: Axes, one: Series, panel: Panel) -> None:
    greatest = max(one.high) or 1.0
    for x, y, high, text in zip(one.x, one.y, one.high, one.labels, strict=True):
        look = {"facecolor": one.colour, "alpha": 0.6 * high / greatest, "linewidth": 0}
        ax.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, **look))
        ax.text(x, y, text, ha="center", va="center", fontsize=9, color=INK)


MARKS: Mapping[Mark, Callable[[Axes, Series, Panel], Any]] = {
    "line": _line, "interval": _interval, "bar": _bar, "stairs": _stairs, "cell": _cell,
    "stick": lambda ax, one, _: ax.vlines(one.x, 0, one.y, color=one.colour, linewidth=one.width),
    "across": lambda ax, one, _: [ax.axhline(y, **_pen(one)) for y in one.y],
    "down": lambda ax, one, _: [ax.axvline(x, **_pen(one)) for x in one.x],
}  # fmt: skip
HALF = {"bar": 0.5, "cell": 0.48, "stick": 0.4}  # of the width of what stands at a place


def _places(ax: Axes, one: Series, panel: Panel, kind: Kind) -> list[Place]:
    """Returns the values of a series: points, or the corners of bars, bins and cells."""
    if one.mark in ("across", "down"):
        return []
    found, base = [], np.broadcast_to(one.base, np.shape(one.x))
    half = HALF.get(str(one.mark), 0.0) * (one.width if one.mark == "bar" else 1)
    for i, x, y in one.points():
        left, right = (x, one.x[i + 1]) if one.mark == "stairs" else (x - half, x + half)
        low, high = (y, y) if one.mark in ("line", "interval") else (base[i], base[i] + y)
        if one.mark == "cell":
            low, high = y - half, y + half
        corners = ((low, left), (high, right)) if panel.lies else ((left, low), (right, high))
        value = y if np.ndim(one.base) else y + float(one.base)
        if y or one.mark != "stairs":
            found.append(Place(ax, corners, panel.words(one, i, (left + right) / 2, value, kind)))
    return found


# ----------------------------------------------------------------------------------------------------------- axes


def _set_axis(ax: Axes, side: str, one: Axis, room: float) -> None:
    """Sets scale, limits, ticks and label; there is room for so many ticks."""
    axis = getattr(ax, f"{side}axis")
    if one.scale == "log":
        getattr(ax, f"set_{side}scale")("log")
    if one.limits != (None, None):
        getattr(ax, f"set_{side}lim")(*one.limits)
    low, high = sorted(getattr(ax, f"get_{side}lim")())
    axis.set_label_text(one.text, color=one.colour)
    count = one.ticks if isinstance(one.ticks, int) and one.ticks else min(max(round(room), 2), 8)
    places: Any = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10], integer=one.whole)
    if isinstance(one.ticks, Mapping):
        step = -(-len(one.ticks) // LABELS) if one.scale != "category" else 1
        size = {"fontsize": 8} if one.turned == 90 else {}
        axis.set_ticks(list(one.ticks)[::step], list(one.ticks.values())[::step], rotation=one.turned, **size)
    elif one.scale == "log":
        decades = math.log10(high / low) if low > 0 else 1.0
        subs = next((subs for most, subs in SUBS.items() if decades < most), (1,))
        axis.set_major_locator(LogLocator(subs=subs, numticks=12) if subs else places)
        axis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(value)))
    else:
        axis.set_major_locator(places)
        if not 0.01 <= max(abs(low), abs(high)) < 1e5:
            axis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(round(value, 12))))
    axis.set_minor_locator(NullLocator())


def _set_frame(ax: Axes, panel: Panel, chart: Chart) -> None:
    """Sets grid, border, title, labels that neighbours share, and a second axis."""
    frame = FRAMES[chart.kind]
    grid = {"value": "x" if panel.lies else "y"}.get(frame.grid, frame.grid)
    if panel.x.scale == "log" and grid == "y":
        grid = "both"
    for side in ("x", "y"):
        ax.grid(grid in (side, "both"), axis=side)  # type: ignore[arg-type]
    ax.spines["left"].set_visible(frame.line)
    if chart.kind == "heatmap":
        ax.spines["bottom"].set_visible(False)
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
    if chart.equal:
        ax.set_aspect("equal")
    ax.set_title(panel.title, loc="left")
    place = ax.get_subplotspec()
    if place and not place.is_last_row() and len(ax.get_shared_x_axes().get_siblings(ax)) > 1:
        ax.set_xlabel("")
    if place and not place.is_first_col() and len(ax.get_shared_y_axes().get_siblings(ax)) > 1:
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
    """Writes title and legend above the axes; a series that is drawn in several looks has them side by side."""
    above: dict[str, Any] = {"borderpad": 0, "handletextpad": 0.5, "handler_map": {tuple: HandlerTuple(None, 0.15)}}
    if chart.title:
        title = above | {"handlelength": 0, "handletextpad": 0}
        figure.legend([Line2D([], [], linewidth=0)], [chart.title], loc="outside upper left", **title)
    every = chart.keys if chart.keys is not None else [one for panel in chart.panels for one in panel.series]
    looks: dict[str, dict[str, Any]] = {}
    for one in every if chart.names in ("above", "beside the title") else ():
        if one.name and one.keyed:
            handle = _handle(one, one.mark or FRAMES[chart.kind].mark)
            looks.setdefault(one.name, {}).setdefault(repr((one.mark, one.colour, one.dash, one.width)), handle)
    handles: list[Any] = [
        tuple(found.values()) if len(found) > 1 else next(iter(found.values())) for found in looks.values()
    ]
    if looks and chart.names == "beside the title":
        above |= {"loc": "outside upper right", "handlelength": 0.9, "columnspacing": 0.8}
        figure.legend(handles, [shortened(name, 10) for name in looks], ncols=len(looks), **above)
    elif looks:
        labels = [shortened(name, 40) for name in looks]
        above |= {"loc": "outside upper left", "handlelength": 1.7, "columnspacing": 1.1}
        figure.legend(handles, labels, ncols=_columns(labels, chart.size[0]), **above)


def _handle(one: Series, mark: Mark) -> Any:
    """Returns what stands beside a name in a legend."""
    if mark == "bar" or (mark == "line" and one.y is None and one.low is not None):
        return Patch(facecolor=one.colour, alpha=one.shade if mark == "line" else 1, linewidth=0)
    pen = _pen(one)
    if mark == "interval":
        pen |= {"linewidth": 2.4 if one.low is not None else 0, "linestyle": "solid", "marker": one.marker or "o"}
    if mark == "stairs":
        pen |= {"linewidth": 2}
    if one.dash == "none":
        pen |= {"alpha": 1, "markersize": max(one.size, 5)}
    return Line2D([], [], **pen)


def _columns(labels: Sequence[str], width: float) -> int:
    """Returns the most columns of a legend that fit a width, filled column by column."""
    for count in range(len(labels), 1, -1):
        rows = -(-len(labels) // count)
        columns = [labels[i : i + rows] for i in range(0, len(labels), rows)]
        if sum(KEY + LETTER * max(map(len, column)) for column in columns) <= width + 11:
            return count
    return 1


def _name_ends(ax: Axes, every: Sequence[Series], spacing: float) -> None:
    """Writes names beside the last points, moved apart by a line of text at least."""
    at = ax.transData + ax.transAxes.inverted()
    named = [(one, points[-1]) for one in every if one.name and (points := one.points())]
    ends = sorted((float(at.transform((x, y))[1]), one.name, one.colour) for one, (_, x, y) in named)
    places = [place for place, _, _ in ends]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + spacing)
    for i in reversed(range(len(places))):
        places[i] = min(places[i], 1.0 if i == len(places) - 1 else places[i + 1] - spacing)
    for place, (_, name, colour) in zip(places, ends, strict=True):
        look: dict[str, Any] = {"color": colour, "fontweight": "bold" if name == OWN else "normal", "fontsize": 10}
        ax.annotate(shortened(name, 22), (1, place), (6, 0), "axes fraction", "offset points", va="center", **look)


def _beside(ax: Axes, one: Series) -> None:
    """Writes labels beside points; one for neighbours that would stand on one another: "1-3"."""
    together: list[list[tuple[str, tuple[float, float]]]] = []
    for i, x, y in one.points():
        last = together[-1][-1][1] if together else (math.inf, math.inf)
        near = together and np.hypot(*(ax.transData.transform((x, y)) - ax.transData.transform(last))) < NEAR
        together[-1].append((one.labels[i], (x, y))) if near else together.append([(one.labels[i], (x, y))])
    for group in together:
        (first, _), (end, point) = group[0], group[-1]
        words = first if first == end else f"{first}-{end}"
        ax.annotate(words, point, (4, 4), textcoords="offset points", color=one.colour, fontsize=10)
