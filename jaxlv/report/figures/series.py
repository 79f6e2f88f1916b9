"""Charts of series: over time, in the phase plane, first against last, and distributions of values, periods and lags.

Axes: N series, T time steps, V variables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlv.report.charts import SHORT, WIDTH, Axis, Chart, Note, Panel, Series, shortened, single
from jaxlv.report.format import number
from jaxlv.report.theme import HUES, MUTED, species

Rows = Sequence[Mapping[str, Any]]
PANEL = 300  # three of them lie side by side on a page, and one fits a phone
MOST = 2000  # dots of a chart


def thinned(count: int) -> np.ndarray:
    """Returns at most MOST of so many places, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST)).astype(int))


def _time(time_T: np.ndarray) -> Axis:
    return Axis("time", "time units", limits=(time_T[0], time_T[-1]), ticks=5)


def _own(names: Sequence[str], v: int, length: int, **options: Any) -> Axis:
    """The axis of a variable, in its colour."""
    return Axis(shortened(names[v], length), colour=species(v), **options)


# ---------------------------------------------------------------------------------------------- trajectories


def trajectory_figure(time_T: np.ndarray, values_TV: np.ndarray, names: Sequence[str], title: str) -> Chart:
    """The variables of one series over time."""
    series = [Series(name, time_T, values_TV[:, v], colour=species(v), width=1.4) for v, name in enumerate(names)]
    return _over_time(time_T, series, title)


def band_figure(
    time_T: np.ndarray, values_NTV: np.ndarray, typical_TV: np.ndarray, names: Sequence[str], title: str
) -> Chart:
    """A typical series in the 10-90 % band of those that it stands for."""
    ends_2TV = np.percentile(values_NTV, (10, 90), axis=0)
    columns = [(name, typical_TV[:, v], *ends_2TV[:, :, v]) for v, name in enumerate(names)]
    series = [Series(name, time_T, *own, colour=species(v), shade=0.2) for v, (name, *own) in enumerate(columns)]
    return _over_time(time_T, series, title)


def _over_time(time_T: np.ndarray, series: Sequence[Series], title: str) -> Chart:
    y = Axis("population", limits=(0, None), ticks=4)
    return single("lines", series, _time(time_T), y, 176, width=PANEL, title=title, names="beside the title")


def phase_plane_figure(values_TV: np.ndarray, names: Sequence[str], title: str) -> Chart:
    """The first two variables of one series against each other, from a dot on."""
    ends: dict[str, Any] = {"dash": "none", "marker": "o", "size": 5.0}
    series = [
        Series("", *values_TV[:, :2].T, width=1.0),
        Series("first step", *values_TV[:1, :2].T, **ends),
        Series("last step", *values_TV[-1:, :2].T, open=True, **ends),
    ]
    x, y = (_own(names, v, 24, limits=_limits(values_TV[:, v]), ticks=5) for v in (0, 1))
    return single("plane", series, x, y, 232, width=PANEL, title=title, names="none")


def _limits(values_T: np.ndarray) -> tuple[float, float]:
    """From zero if the values come near it, else around them."""
    low, high = float(values_T.min()), float(values_T.max())
    if low < 0.5 * high:
        return 0.0, 1.05 * high
    margin = 0.08 * (high - low) or 0.1 * high or 1.0
    return max(0.0, low - margin), high + margin


def mean_figure(rows: Rows, names: Sequence[str]) -> Chart:
    """Mean over series with its standard deviation and the 10-90 % band, one panel per variable."""
    panels = []
    for v, name in enumerate(names):
        own = [row for row in rows if row["variable"] == name]
        time_T, mean_T, sd_T, low_T, high_T = (
            np.array([row[k] for row in own]) for k in ("time", "mean", "sd", "p10", "p90")
        )
        notes = [f"10–90 %: {number(low)} – {number(high)}" for low, high in zip(low_T, high_T, strict=True)]
        side = Series("mean ± 1 standard deviation", time_T, colour=MUTED, width=0.9, dash=SHORT, told=False)
        series = [
            Series("mean", time_T, mean_T, colour=species(v), width=1.9, notes=notes),
            Series("10–90 % of series", time_T, None, low_T, high_T, colour=species(v), shade=0.2),
            *(replace(side, y=mean_T + sign * sd_T) for sign in (-1, 1)),
        ]
        y = _own(names, v, 20, limits=(min(0.0, float((mean_T - sd_T).min())), None), ticks=4)
        panels.append(Panel(series, _time(time_T), y))
    return Chart("lines", panels, (WIDTH, 50 + 118 * len(names)))


def states_figure(first_NV: np.ndarray, last_NV: np.ndarray, names: Sequence[str]) -> Chart:
    """The first two variables of every series at the first step and at the last, which frames where they began."""
    look: dict[str, Any] = {"dash": "none", "marker": ".", "size": 3.2, "alpha": 0.4}
    before, after = (Series("", *all_NV[thinned(len(all_NV)), :2].T, **look) for all_NV in (first_NV, last_NV))
    (left, low), (right, high) = first_NV[:, :2].min(axis=0), first_NV[:, :2].max(axis=0)
    frame = [left, right, right, left, left], [low, low, high, high, low]
    note = Note("the range of the first step", right, high, (4, 3), above=True, colour=HUES[2])
    x, y, zero = _own(names, 0, 16, ticks=4), _own(names, 1, 16), Axis(limits=(0, None), word=shortened(names[1], 16))
    range_of = Series("", *frame, colour=HUES[2], width=1.4, over=3, told=False)
    last = Panel([after, range_of], replace(x, limits=(0, None)), zero, title="last step", notes=[note])
    return Chart("scatter", [Panel([before], x, y, title="first step"), last], (WIDTH, 236), columns=2)


# --------------------------------------------------------------------------------------------- distributions


def values_figure(values_NTV: np.ndarray, names: Sequence[str], marks: Mapping[str, float]) -> Chart:
    """Distribution of the positive values of each variable on a logarithmic axis; `marks` are named places on it."""
    held = values_NTV[values_NTV > 0]
    low, high = (held.min(), held.max()) if len(held) else (0.1, 1.0)
    edges = np.geomspace(low, high * 1.0001, 61)
    shares = [100 * np.histogram(all_NT, edges)[0] / max(all_NT.size, 1) for all_NT in np.moveaxis(values_NTV, 2, 0)]
    words = Note("\n".join(f"{name}: {place:.3g}" for name, place in marks.items()), side="right")
    low = max(low, high / 1e5)
    limits = (low, high * (high / low) ** 0.2 * 1.05)
    x = Axis("population", "raw units", scale="log", limits=limits, tail=", logarithmic")
    series = [*_outlines(edges, shares, names), Series("", list(marks.values()), mark="down", **MARK)]
    return single("stairs", series, x, Axis("values per bin", "%", limits=(0, None)), 240, notes=[words])


MARK: dict[str, Any] = {"colour": MUTED, "width": 0.9, "dash": SHORT}  # a place on the axis


def _outlines(edges: np.ndarray, heights: Sequence[np.ndarray], names: Sequence[str]) -> list[Series]:
    """The histogram of each variable, in its colour."""
    return [Series(name, edges, heights[v], colour=species(v), width=1.6) for v, name in enumerate(names)]


def period_figure(period_NV: np.ndarray, names: Sequence[str], step: float) -> Chart:
    """Distribution over series of each variable's period, in steps below and in time units above."""
    edges = _edges(period_NV, 1.0)
    series = _outlines(edges, [np.histogram(period_N, edges)[0] for period_N in period_NV.T], names)
    x, y = Axis("period", "steps", limits=(edges[0], edges[-1])), Axis("series per bin", limits=(0, None), whole=True)
    return Chart("stairs", [Panel(series, x, y, top=("period (time units)", step))], (WIDTH, 256))


def _edges(values: np.ndarray, width: float) -> np.ndarray:
    """Edges of bins of that width, wider if there would be more than a hundred of them."""
    held = values[np.isfinite(values)]
    if not len(held):
        return np.array([0.0, width])
    width *= max(1, int(np.ceil(np.ptp(held) / width / 100)))
    return np.arange(np.floor(held.min() / width), np.ceil(held.max() / width) + 1.5) * width


def lag_figure(lag_N: np.ndarray, share_N: np.ndarray) -> Chart:
    """Distribution over series of the second variable's lag, in steps and by the period, with its mean."""
    panels: list[Panel] = []
    for values_N, width, unit in ((lag_N, 0.5, "steps"), (100 * share_N, 2.0, "% of the period")):
        edges, mean = _edges(values_N, width), float(np.nanmean(values_N)) if np.isfinite(values_N).any() else None
        counts = np.histogram(values_N, edges)[0]
        series = [Series("", edges, counts, colour=HUES[1], width=1.6), Series("", [mean], mark="down", **MARK)]
        notes = [] if mean is None else [Note(f"mean {mean:.3g}", mean, None, (4, -2))]
        y = Axis(
            "" if panels else "series per bin", limits=(0, 1.2 * max(counts.max(), 1)), whole=True
        )  # room for the words
        panels.append(Panel(series, Axis("lag", unit, ticks=5), y, notes=notes))
    return Chart("stairs", panels, (WIDTH, 220), columns=2)
