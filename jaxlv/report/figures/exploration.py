"""Charts of an exploration: series over time and in the phase plane, distributions, clusters, and series as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxlv.report.charts import SHORT, WIDTH, Axis, Chart, Note, Panel, Series, numbers, rows_of, shortened, single
from jaxlv.report.format import number
from jaxlv.report.theme import HUES, MUTED, species
from jaxlv.results import exploration as found

PANEL = 300  # three of them lie side by side on a page, and one fits a phone
_PLACE: dict[str, Any] = {"mark": "down", "colour": MUTED, "width": 0.9, "dash": SHORT}  # on an axis


def _time(time: Sequence[float]) -> Axis:
    return Axis("time", "time units", limits=(time[0], time[-1]), ticks=5)


def _own(names: Sequence[str], v: int, length: int, **options: Any) -> Axis:
    """Returns the axis of a variable, in its colour."""
    return Axis(shortened(names[v], length), colour=species(v), **options)


def trajectory_figure(time: Sequence[float], one: found.Trace, title: str) -> Chart:
    """Shows the variables of a series over time, in the band of those that it stands for if it stands for others."""
    series = [
        Series(name, time, values, one.low.get(name), one.high.get(name), colour=species(v), shade=0.2)
        for v, (name, values) in enumerate(one.values.items())
    ]
    y = Axis("population", limits=(0, None), ticks=4)
    return single("lines", series, _time(time), y, 176, width=PANEL, title=title, names="beside the title")


def phase_plane_figure(one: found.Trace, title: str) -> Chart:
    """Shows the first two variables of one series against each other, from a filled dot to an open one."""
    ends: dict[str, Any] = {"dash": "none", "marker": "o", "size": 5.0}
    names, (x, y) = list(one.values)[:2], list(one.values.values())[:2]
    series = [
        Series("", x, y, width=1.0),
        Series("first step", x[:1], y[:1], **ends),
        Series("last step", x[-1:], y[-1:], open=True, **ends),
    ]
    across, up = (_own(names, v, 24, limits=_limits(values), ticks=5) for v, values in enumerate((x, y)))
    return single("plane", series, across, up, 232, width=PANEL, title=title, names="none")


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Returns limits from zero if the values come near it, otherwise around them."""
    low, high = min(values), max(values)
    if low < 0.5 * high:
        return 0.0, 1.05 * high
    margin = 0.08 * (high - low) or 0.1 * high or 1.0
    return max(0.0, low - margin), high + margin


def mean_figure(rows: Sequence[found.MeanStep], names: Sequence[str]) -> Chart:
    """Shows the mean over series with its standard deviation and the 10-90 % band, one panel per variable."""
    panels = []
    for v, name in enumerate(names):
        own = [row for row in rows if row.variable == name]
        time, mean, low, high = ([getattr(row, key) for row in own] for key in ("time", "mean", "p10", "p90"))
        below, above = ([row.mean + sign * row.sd for row in own] for sign in (-1, 1))
        notes = [f"10–90 %: {number(row.p10)} – {number(row.p90)}" for row in own]
        side: dict[str, Any] = {"colour": MUTED, "width": 0.9, "dash": SHORT, "told": False}
        series = [
            Series("mean", time, mean, colour=species(v), width=1.9, notes=notes),
            Series("10–90 % of series", time, None, low, high, colour=species(v), shade=0.2),
            *(Series("mean ± 1 standard deviation", time, values, **side) for values in (below, above)),
        ]
        panels.append(Panel(series, _time(time), _own(names, v, 20, limits=(min(0.0, *below), None), ticks=4)))
    return Chart("lines", panels, (WIDTH, 50 + 118 * len(names)))


def states_figure(first: found.Dots, last: found.Dots, began: Sequence[found.State]) -> Chart:
    """Shows the first two variables of series at the first step and at the last, framed by the ranges of where all began."""
    look: dict[str, Any] = {"dash": "none", "marker": ".", "size": 3.2, "alpha": 0.4}
    before, after = (Series("", dots.x, dots.y, **look) for dots in (first, last))
    names, ((left, right), (low, high)) = [row.variable for row in began], [(row.min, row.max) for row in began[:2]]
    frame = [left, right, right, left, left], [low, low, high, high, low]
    range_of = Series("", *frame, colour=HUES[2], width=1.4, over=3, told=False)
    note = Note("the range of the first step", right, high, (4, 3), above=True, colour=HUES[2])
    x, y, zero = _own(names, 0, 16, ticks=4), _own(names, 1, 16), Axis(limits=(0, None), word=shortened(names[1], 16))
    end = Panel([after, range_of], replace(x, limits=(0, None)), zero, title="last step", notes=[note])
    return Chart("scatter", [Panel([before], x, y, title="first step"), end], (WIDTH, 236), columns=2)


def _outlines(bins: found.Histogram) -> list[Series]:
    """Returns the histogram of each variable, in its colour."""
    heights = enumerate(bins.heights.items())
    return [Series(name, bins.edges, own, colour=species(v), width=1.6) for v, (name, own) in heights]


def values_figure(bins: found.Histogram, marks: Mapping[str, float]) -> Chart:
    """Shows the distribution of the positive values of each variable, logarithmic; `marks` are named places on the axis."""
    high = bins.edges[-1]
    low = max(bins.edges[0], high / 1e5)
    limits = (low, high * (high / low) ** 0.2 * 1.05)
    words = Note("\n".join(f"{name}: {place:.3g}" for name, place in marks.items()), side="right")
    x = Axis("population", "raw units", scale="log", limits=limits, tail=", logarithmic")
    series = [*_outlines(bins), Series("", list(marks.values()), **_PLACE)]
    return single("stairs", series, x, Axis("values per bin", "%", limits=(0, None)), 240, notes=[words])


def period_figure(bins: found.Histogram, step: float) -> Chart:
    """Shows the distribution over series of each variable's period, in steps below and in time units above."""
    x = Axis("period", "steps", limits=(bins.edges[0], bins.edges[-1]))
    y = Axis("series per bin", limits=(0, None), whole=True)
    return Chart("stairs", [Panel(_outlines(bins), x, y, top=("period (time units)", step))], (WIDTH, 256))


def lag_figure(lags: Sequence[found.Histogram]) -> Chart:
    """Shows the distribution over series of the second variable's lag, in steps and by the period, each with its mean."""
    panels: list[Panel] = []
    for bins, unit in zip(lags, ("steps", "% of the period"), strict=True):
        (counts,) = bins.heights.values()
        series = [Series("", bins.edges, counts, colour=HUES[1], width=1.6), Series("", [bins.mean], **_PLACE)]
        y = Axis("" if panels else "series per bin", limits=(0, 1.2 * max(counts)), whole=True)  # room for the words
        notes = [Note(f"mean {bins.mean:.3g}", bins.mean, None, (4, -2))]
        panels.append(Panel(series, Axis("lag", unit, ticks=5), y, notes=notes))
    return Chart("stairs", panels, (WIDTH, 220), columns=2)


def plane_figure(plane: found.Plane) -> Chart:
    """Shows the series in the first two principal components of their features, by cluster."""
    look: dict[str, Any] = {"dash": "none", "size": 4, "alpha": 0.6}
    series = [
        Series(f"cluster {k + 1}", dots.x, dots.y, colour=HUES[k % len(HUES)], marker="os^Dv<>P"[k % 8], **look)
        for k, dots in enumerate(plane.clusters)
    ]
    tails = [f" ({100 * share:.0f} % of the variance)" for share in plane.variance]
    x, y = (Axis(f"{word} component", tail=tail) for word, tail in zip(("first", "second"), tails, strict=True))
    return single("scatter", series, x, y, 320)


def silhouette_figure(rows: Sequence[found.Silhouette]) -> Chart:
    """Shows the mean silhouette by the number of clusters; the number that is used is filled."""
    look: dict[str, Any] = {"colour": HUES[1], "marker": "o"}
    score = {row.clusters: row.silhouette for row in rows}
    series = [
        Series("", list(score), list(score.values()), width=1.6, open=True, **look),
        Series("used", [found.CLUSTERS], [score.get(found.CLUSTERS)], dash="none", size=7, keyed=False, **look),
    ]
    y = Axis("mean silhouette", limits=(0, max(1.15 * max(score.values(), default=0.0), 0.1)))
    return single("lines", series, Axis("clusters", ticks={k: str(k) for k in score}), y, 220)


def token_figure(rows: Sequence[found.Tokens]) -> Chart:
    """Shows the tokens per series in each scheme: least, median and most."""
    x = Axis("tokens per series", tail=": least, median (dot), most")
    return _by_scheme(rows, x, 62, _dots(rows, "", "median", "least", "most", colour=HUES[0], size=7))


def round_trip_figure(rows: Sequence[found.RoundTrip]) -> Chart:
    """Shows the mean absolute error of each scheme's text, its range over series, and the largest error; logarithmic."""
    mean = _dots(rows, "mean, and its range over series", "mae", "least", "most", colour=HUES[1], size=7)
    largest = _dots(rows, "largest single error", "largest", colour=MUTED, marker="D", size=5, open=True)
    return _by_scheme(rows, Axis("absolute error", "raw units", scale="log", tail=", logarithmic"), 84, mean, largest)


def _by_scheme(rows: Sequence[Any], x: Axis, height: int, *series: Series) -> Chart:
    return single("ranges", series, x, rows_of([row.scheme for row in rows]), height + 25 * len(rows))


def _dots(rows: Sequence[Any], name: str, *keys: str, **look: Any) -> Series:
    """Returns a dot for each row, at the first of the keys, and a bar between the others if there are any."""
    return Series(name, range(len(rows)), *([getattr(row, key) for row in rows] for key in keys), **look)


def window_figure(rows: Sequence[found.Windows]) -> Chart:
    """Shows by scheme and window length the shares of positions that are padding, and of tokens that no window holds."""
    parts, lengths = dict.fromkeys(row.part for row in rows), sorted({row.length for row in rows})
    schemes, width, panels = list(dict.fromkeys(row.scheme for row in rows)), 0.8 / len(lengths), []
    ticks = {i: name.replace(" decimals", "") for i, name in enumerate(schemes)}
    x = Axis(ticks=ticks, turned=50, limits=(-0.7, len(schemes) - 0.3))
    for key, name, of in (("padding", "padding", "% of positions"), ("left_out", "tokens left out", "% of all")):
        for part in parts:
            series = []
            for j, length in enumerate(lengths):
                own = {row.scheme: getattr(row, key) for row in rows if (row.part, row.length) == (part, length)}
                place = [i + (j - (len(lengths) - 1) / 2) * width for i in range(len(schemes))]
                heights = 100 * numbers(map(own.get, schemes))
                series.append(Series(f"{length} tokens", place, heights, colour=HUES[j % len(HUES)], width=width))
            panels.append(Panel(series, x, Axis(f"{name}\n", of, ticks=4), title=part if key == "padding" else ""))
    return Chart("bars", panels, (WIDTH, 330), columns=len(parts))


def drawings(result: found.Exploration) -> dict[str, tuple[Chart, str]]:
    """Returns every chart of an exploration and its label, by the name of its file."""
    drawn, t, (first, *others) = result.drawn, result.tables, result.variables
    made: dict[str, tuple[Chart, str]] = {}
    if t.mean:
        made["mean"] = mean_figure(t.mean, result.variables), "Mean trajectory, its deviation and the 10-90 % band"
    for place, (one, example) in enumerate(zip(drawn.shown, result.examples, strict=False)):
        title, stem = f"series {one.series}: {example.regime}", example.stem(place)
        made[f"series_{stem}"] = trajectory_figure(drawn.time, one, title), f"{title}, over time"
        if others:
            made[f"phase_{stem}"] = phase_plane_figure(one, title), f"{title}, {others[0]} against {first}"
    if drawn.values:
        marks = {column.words: column.of(t.values[0]) for column in found.Values.columns("p95", "p99", "p99_7")}
        made["values"] = values_figure(drawn.values, marks), "Distribution of all values"
    if drawn.periods:
        made["periods"] = period_figure(drawn.periods, result.step), "Distribution of periods"
    if drawn.lags:
        made["lags"] = lag_figure(drawn.lags), f"Lags of {others[0]} behind {first}"
    if drawn.first and drawn.last:
        began = [row for row in t.states if row.state == "initial"]
        made["states"] = states_figure(drawn.first, drawn.last, began), "First and last step"
    for one, row in zip(drawn.clusters, t.centres, strict=False):
        title = f"cluster {row.cluster}: {100 * row.share:.1f} %"
        label = f"{title}, series {one.series} in its 10-90 % band"
        made[f"cluster_{row.cluster}"] = trajectory_figure(drawn.time, one, title), label
    if drawn.plane:
        made["plane"] = plane_figure(drawn.plane), "Clusters in two principal components"
        made["silhouette"] = silhouette_figure(t.silhouettes), "Silhouette by number of clusters"
    if written := [row for row in t.tokens if row.series]:
        made["tokens"] = token_figure(written), "Tokens per series in each scheme"
        made["round_trip"] = round_trip_figure([row for row in t.round_trip if row.series]), "Rounding error of each scheme"
        made["windows"] = window_figure(t.windows), "Padding and tokens left out by window length"
    return made
