"""A chart as data: a kind, panels of series, and axes. jaxlv.report.figures.render draws any; sizes are in CSS pixels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxlv.report.format import number
from jaxlv.report.theme import INK, MUTED

Kind = Literal[
    "lines", "forecast", "calibration", "plane", "scatter", "dots", "ranges", "bars", "waterfall", "stairs", "sticks",
    "heatmap",
]  # fmt: skip
Mark = Literal["line", "interval", "bar", "stairs", "stick", "cell", "across", "down"]
Values = Any  # numbers, or None if missing, in an array or a list
DASHED, SHORT = (0, (4, 3)), (0, (3, 2))  # dashes
WIDTH = 440  # half a page, and near the width of a phone
BOTH: tuple[Kind, ...] = ("plane", "scatter")  # kinds whose two axes are both measured


def numbers(values: Iterable[Any]) -> np.ndarray:
    """Returns `values` as floats, NaN if missing."""
    return np.array([math.nan if value is None else value for value in values], dtype=float)


def plain_number(value: float) -> str:
    """Returns a number without trailing zeros, as an axis has it: 0.002, 3e-5, 20."""
    mantissa, e, exponent = f"{value:g}".partition("e")
    return mantissa.replace("-", "−") + e + re.sub(r"^[+]?(-?)0*", r"\1", exponent)


def shortened(text: str, length: int) -> str:
    """Returns `text`, cut to that many characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


@dataclass(frozen=True)
class Axis:
    """An axis: what it shows, in which unit, and how."""

    label: str = ""
    unit: str = ""
    _: KW_ONLY
    scale: Literal["linear", "log", "category"] = "linear"
    limits: tuple[float | None, float | None] = (None, None)  # None: as the data have it
    ticks: int | Mapping[Any, str] = 0  # at most so many, 0: as there is room for; or places and their labels
    whole: bool = False  # ticks at whole numbers only
    colour: str = INK
    tail: str = ""  # of the label, behind its unit
    turned: float = 0.0  # degrees by which the labels of ticks are turned
    word: str = ""  # what the axis is called under the pointer, if not by its label

    @property
    def text(self) -> str:
        """The label with its unit."""
        unit = f"({self.unit})" if self.label and self.unit else self.unit
        return f"{self.label} {unit}".strip(" ").replace("\n ", "\n") + self.tail

    def place(self, value: float) -> str:
        """Says a place on the axis: the label of the tick that it is at, or a number, without its unit."""
        ticks = self.ticks if isinstance(self.ticks, Mapping) else {}
        near = min(ticks, key=lambda at: abs(at - value), default=math.inf)
        at = ticks[near] if abs(near - value) < 0.5 else plain_number(float(f"{value:.4g}"))
        return f"{self.word or self.label} {at}".strip()

    def value(self, value: float, named: bool = False) -> str:
        """Says a value with its unit; under the axis's label if it has no unit, or `named`."""
        label = "" if self.unit and not named else self.word or self.label
        text = f"{value:,.0f}".replace("-", "−") if value == round(value) and abs(value) < 1e5 else number(value)
        return " ".join(filter(None, (label, text, self.unit))).replace("\n", "")


def rows_of(names: Sequence[str], length: int = 28) -> Axis:
    """Returns the axis of rows that have names, at 0, 1, 2, ... from the top: bars and intervals then lie."""
    ticks = {i: shortened(name, length) for i, name in enumerate(names)}
    return Axis(scale="category", ticks=ticks, limits=(max(len(names), 1) - 0.4, -0.6))


class Point(NamedTuple):
    """A point of a series, and its place among all of them."""

    place: int
    x: float
    y: float


@dataclass(frozen=True)
class Series:
    """What is drawn under one name and in one colour. In a panel whose y axis has categories, x and y change places.

    line:      through (x, y), with a marker at each point; a band from `low` to `high`, alone if `y` is None
    interval:  a dot at y and a bar from `low` to `high`, at each place x
    bar:       from `base` to `base` + y at each place x; `width` is its thickness, in units of the axis
    stairs:    heights y between edges x, one more
    stick:     from 0 to y at each x
    cell:      a square at (x, y), the darker the larger `high`
    across:    a line at each height y over the whole width; down: one at each x over the whole height
    """

    name: str = ""
    x: Values = ()
    y: Values = None
    low: Values = None
    high: Values = None
    _: KW_ONLY
    mark: Mark | None = None  # None: that of the chart's kind
    colour: str = INK
    width: float = 1.5
    dash: Any = "solid"  # "none": markers alone
    marker: str = ""
    size: float = 6.0
    open: bool = False  # markers are outlines
    alpha: float = 1.0
    shade: float = 0.16  # alpha of a band, and below stairs
    base: Values = 0.0
    stepped: bool = False  # a line that keeps its height up to the next point
    labels: Sequence[str] = ()  # beside each point or bar, and within each cell
    notes: Sequence[str] = ()  # what a reader is told of each point besides its value
    over: float = 2.0  # drawn above series with less
    keyed: bool = True  # whether its name stands in the legend or at its end
    told: bool = True  # whether its values are under the pointer

    def points(self) -> list[Point]:
        """Returns the points that are finite."""
        x, y = numbers(self.x), numbers(() if self.y is None else self.y)
        return [Point(i, a, b) for i, (a, b) in enumerate(zip(x, y, strict=False)) if math.isfinite(a) and math.isfinite(b)]


@dataclass(frozen=True)
class Note:
    """Words beside a place; None stands for the end of that axis, `move` is in pixels, up and to the right."""

    text: str
    x: float | None = None
    y: float | None = None
    move: tuple[float, float] = (0, 0)
    side: Literal["left", "center", "right"] = "left"
    above: bool = False  # the words stand above the place, else below
    colour: str = MUTED


@dataclass(frozen=True)
class Panel:
    """A pair of axes and what is drawn in them."""

    series: Sequence[Series]
    x: Axis = Axis()
    y: Axis = Axis()
    _: KW_ONLY
    title: str = ""
    notes: Sequence[Note] = ()
    height: float = 1.0  # a share, of those of all panels
    top: tuple[str, float] | None = None  # a second axis above: its label, and the factor from the first

    @property
    def lies(self) -> bool:
        """Whether places are on the y axis, and values on the x axis."""
        return self.y.scale == "category"

    def words(self, one: Series, i: int, x: float, y: float, kind: Kind) -> str:
        """Says what a reader is told of a point: the series, the place, the value with its unit, its interval, its note."""
        if kind == "heatmap":
            return f"{self.y.place(y)}, {self.x.place(x)}: {one.labels[i]}"
        across, up = (self.y, self.x) if self.lies else (self.x, self.y)
        said = f"{across.value(x, True)}, {up.value(y, True)}" if kind in BOTH else f"{across.place(x)}: {up.value(y)}"
        if one.low is not None and one.low[i] < one.high[i]:
            said += f" ({number(one.low[i])} – {number(one.high[i])})"
        note = f" ({one.notes[i]})" if one.notes and one.notes[i] != one.name else ""
        return (f"{one.name}, {said}" if one.name else said) + note


@dataclass(frozen=True, eq=False)
class Chart:
    """A whole figure: of what kind, its panels (in rows of `columns`), its size in pixels, and where names stand."""

    kind: Kind
    panels: Sequence[Panel]
    size: tuple[float, float]
    _: KW_ONLY
    title: str = ""
    names: Literal["above", "beside the title", "ends", "none"] = "above"
    keys: Sequence[Series] | None = None  # of the legend, if they are not the series that have names
    columns: int = 1
    equal: bool = False  # a unit is as long on both axes


def single(
    kind: Kind, series: Sequence[Series], x: Axis, y: Axis, height: float, *, width: float = WIDTH,
    notes: Sequence[Note] = (), **options: Any,
) -> Chart:  # fmt: skip
    """Returns a chart of one panel."""
    return Chart(kind, [Panel(series, x, y, notes=notes)], (width, height), **options)
