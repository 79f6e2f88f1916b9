"""Charts of series: over time, in the phase plane, first against last, and distributions of values, periods and lags.

Axes: N series, T time steps, V variables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlv.report.charts import WIDTH, Axis, Chart, Note, Panel, Series, shortened
from jaxlv.report.format import number
from jaxlv.report.theme import HUES, INK, MUTED, species

Rows = Sequence[Mapping[str, Any]]
PANEL = 300  # three of them lie side by side on a page, and one fits a phone
MOST = 2000  # dots of a chart
SHORT_DASH = (0, (3, 2))


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
    low_TV, high_TV = np.percentile(values_NTV, (10, 90), axis=0)
    series = [
        Series(name, time_T, typical_TV[:, v], low_TV[:, v], high_TV[:, v], colour=species(v), shade=0.2)
        for v, name in enumerate(names)
    ]
    return _over_time(time_T, series, title)


def _over_time(time_T: np.ndarray, series: Sequence[Series], title: str) -> Chart:
    panel = Panel(series, _time(time_T), Axis("population", limits=(0, None), ticks=4))
    return Chart("lines", [panel], (PANEL, 176), title, "beside the title")


def phase_plane_figure(values_TV: np.ndarray, names: Sequence[str], title: str) -> Chart:
    """The first two variables of one series against each other, from a dot on."""
    x, y = values_TV[:, :2].T
    dot: dict[str, Any] = {"dash": "none", "marker": "o", "size": 5.0}
    series = [
        Series("", x, y, width=1.0),
        Series("first step", x[:1], y[:1], **dot),
        Series("last step", x[-1:], y[-1:], open=True, **dot),
    ]
    axes = (_own(names, v, 24, limits=_limits(values_TV[:, v]), ticks=5) for v in (0, 1))
    return Chart("plane", [Panel(series, *axes)], (PANEL, 232), title, "none")


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
            np.array([row[key] for row in own]) for key in ("time", "mean", "sd", "p10", "p90")
        )
        band = Series("10–90 % of series", time_T, None, low_T, high_T, colour=species(v), shade=0.2)
        side = Series("mean ± 1 standard deviation", time_T, colour=MUTED, width=0.9, dash=SHORT_DASH, told=False)
        sides = [replace(side, y=mean_T + sign * sd_T) for sign in (-1, 1)]
        notes = [f"10–90 %: {number(low)} – {number(high)}" for low, high in zip(low_T, high_T, strict=True)]
        mean = Series("mean", time_T, mean_T, colour=species(v), width=1.9, notes=notes)
        y = _own(names, v, 20, limits=(min(0.0, float((mean_T - sd_T).min())), None), ticks=4)
        panels.append(Panel([mean, band, *sides], _time(time_T), y))
    return Chart("lines", panels, (WIDTH, 50 + 118 * len(names)))


def states_figure(first_NV: np.ndarray, last_NV: np.ndarray, names: Sequence[str]) -> Chart:
    """The first two variables of every series at the first step and at the last, which frames where they began."""
    (low_x, high_x), (low_y, high_y) = ((first_NV[:, v].min(), first_NV[:, v].max()) for v in (0, 1))
    dots = [
        Series("", *values_NV[thinned(len(values_NV)), :2].T, dash="none", marker=".", size=3.2, alpha=0.4)
        for values_NV in (first_NV, last_NV)
    ]
    corners = [low_x, high_x, high_x, low_x, low_x], [low_y, low_y, high_y, high_y, low_y]
    frame = Series("", *corners, colour=HUES[2], width=1.4, over=3, told=False)
    x, y = _own(names, 0, 16, ticks=4), _own(names, 1, 16)
    note = Note("the range of the first step", high_x, high_y, (4, 3), above=True, colour=HUES[2])
    last = Panel([dots[1], frame], replace(x, limits=(0, None)), Axis(limits=(0, None), word=y.label), "last step", [note])
    return Chart("scatter", [Panel([dots[0]], x, y, "first step"), last], (WIDTH, 236), columns=2)


# --------------------------------------------------------------------------------------------- distributions


def values_figure(values_NTV: np.ndarray, names: Sequence[str], marks: Mapping[str, float]) -> Chart:
    """Distribution of the positive values of each variable on a logarithmic axis; `marks` are named places on it."""
    held = values_NTV[values_NTV > 0]
    low, high = (held.min(), held.max()) if len(held) else (0.1, 1.0)
    edges = np.geomspace(low, high * 1.0001, 61)
    series = []
    for v, name in enumerate(names):
        counts = np.histogram(values_NTV[..., v], edges)[0]
        shares = 100 * counts / max(values_NTV[..., v].size, 1)
        series.append(Series(name, edges, shares, colour=species(v), width=1.6))
    series += [Series("", [place], mark="down", colour=MUTED, width=0.9, dash=SHORT_DASH) for place in marks.values()]
    words = Note("\n".join(f"{name}: {place:.3g}" for name, place in marks.items()), side="right")
    low = max(low, high / 1e5)
    limits = (low, high * (high / low) ** 0.2 * 1.05)
    x = Axis("population", "raw units", "log", limits, tail=", logarithmic")
    panel = Panel(series, x, Axis("values per bin", "%", limits=(0, None)), notes=[words])
    return Chart("stairs", [panel], (WIDTH, 240))


def period_figure(period_NV: np.ndarray, names: Sequence[str], step: float) -> Chart:
    """Distribution over series of each variable's period, in steps below and in time units above."""
    edges = _edges(period_NV, 1.0)
    series = [
        Series(name, edges, np.histogram(period_NV[:, v], edges)[0], colour=species(v), width=1.6)
        for v, name in enumerate(names)
    ]
    x = Axis("period", "steps", limits=(edges[0], edges[-1]))
    panel = Panel(series, x, Axis("series per bin", limits=(0, None)), top=("period (time units)", step))
    return Chart("stairs", [panel], (WIDTH, 256))


def _edges(values: np.ndarray, width: float) -> np.ndarray:
    """Edges of bins of that width, wider if there would be more than a hundred of them."""
    held = values[np.isfinite(values)]
    if not len(held):
        return np.array([0.0, width])
    width *= max(1, int(np.ceil(np.ptp(held) / width / 100)))
    return np.arange(np.floor(held.min() / width), np.ceil(held.max() / width) + 1.5) * width


def lag_figure(lag_N: np.ndarray, share_N: np.ndarray) -> Chart:
    """Distribution over series of the second variable's lag, in steps and by the period, with its mean."""
    panels = []
    for values_N, width, unit in ((lag_N, 0.5, "steps"), (100 * share_N, 2.0, "% of the period")):
        edges = _edges(values_N, width)
        counts = np.histogram(values_N, edges)[0]
        series, notes = [Series("", edges, counts, colour=HUES[1], width=1.6)], []
        if np.isfinite(values_N).any():
            mean = float(np.nanmean(values_N))
            series.append(Series("", [mean], mark="down", colour=MUTED, width=1.0, dash=SHORT_DASH))
            notes.append(Note(f"mean {mean:.3g}", mean, None, (4, -2)))
        room = (0, 1.2 * max(counts.max(), 1))  # for the words above the bars
        y = Axis("" if panels else "series per bin", limits=room)
        panels.append(Panel(series, Axis("lag", unit), y, notes=notes))
    return Chart("stairs", panels, (WIDTH, 220), columns=2)
