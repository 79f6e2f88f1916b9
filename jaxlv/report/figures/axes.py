"""What figures share: an empty figure, colours of variables, ticks and labels, numbers for an axis, names at line ends."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from jaxlv.report.figures.svg import PALETTE

WIDTH = 440  # half a page, and near the width of a phone
ABOVE: dict[str, Any] = {  # a legend in lines above the axes
    "loc": "outside upper left", "borderpad": 0, "handlelength": 1.6, "columnspacing": 1.1, "handletextpad": 0.5,
}  # fmt: skip
DASHED = (0, (4, 3))
SPECIES = [colours[0] for name, colours in PALETTE.items() if name.startswith("species")]


def canvas(width: float, height: float) -> Figure:
    """An empty figure of that size in CSS pixels, laid out to hold its labels."""
    layout = ConstrainedLayoutEngine(w_pad=2 / 72, h_pad=3 / 72, hspace=0.03)
    return Figure(figsize=(width / 72, height / 72), layout=layout)


def species(v: int) -> str:
    """The colour of variable `v`."""
    return SPECIES[v % len(SPECIES)]


def numbers(values: Iterable[Any]) -> np.ndarray:
    """`values` as floats, NaN where missing."""
    return np.array([math.nan if value is None else value for value in values], dtype=float)


def positive(values: Iterable[Any]) -> np.ndarray:
    """`values` as floats for a logarithmic axis: NaN where missing, infinite, or not above zero."""
    array = numbers(values)
    return np.where(np.isfinite(array) & (array > 0), array, np.nan)


def plain_number(value: float) -> str:
    """A tick label without mathtext: 0.002, 3e-5, 20."""
    text = f"{value:g}"
    return re.sub(r"e([+-])0*", lambda match: "e" + match[1].replace("+", ""), text)


def ticks(count: int, integer: bool = False) -> MaxNLocator:
    """At most `count` intervals between round numbers."""
    return MaxNLocator(count, steps=[1, 2, 2.5, 5, 10], integer=integer)


def plain_ticks(axis: Any, count: int) -> None:
    """Few ticks with plain labels, also below zero."""
    axis.set_major_locator(ticks(count))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(round(value, 12)).replace("-", "−")))


def log_ticks(axis: Any, low: float, high: float) -> None:
    """Labels for a logarithmic axis from `low` to `high`: the fewer a decade, the more decades there are."""
    decades = math.log10(high / low) if low > 0 else 1.0
    subs = (1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(value)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def shortened(text: str, length: int) -> str:
    """`text`, cut to that many characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def name_ends(ax: Axes, ends: list[tuple[float, str, str]], spacing: float) -> None:
    """Names beside the last points, moved apart to at least `spacing` (a share of the axis height)."""
    low, high = np.log(ax.get_ylim())
    ends = sorted(ends)
    places = [(math.log(value) - low) / (high - low) for value, _, _ in ends]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + spacing)
    for i in reversed(range(len(places))):
        limit = 1.0 if i == len(places) - 1 else places[i + 1] - spacing
        places[i] = min(places[i], limit)
    for place, (_, name, colour) in zip(places, ends, strict=True):
        weight = "bold" if name == "tuned" else "normal"
        ax.annotate(
            shortened(name, 22),
            (1, place),
            xytext=(6, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            color=colour,
            fontweight=weight,
            fontsize=10,
            va="center",
            annotation_clip=False,
        )
