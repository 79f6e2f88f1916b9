"""Charts of a look into a tuned run.

Axes: H forecast steps, T time steps, N series, V variables, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxlv.report import charts
from jaxlv.report.charts import DASHED, WIDTH, Axis, Chart, Panel, Series, numbers, plain_number, rows_of, shortened, single
from jaxlv.report.figures.evaluation import OWN, curve, row_styles
from jaxlv.report.theme import MODEL, MUTED, PALETTE, species
from jaxlv.results.analyses import Ceiling, Errors, Growth, MethodGrowth, RoundTrip, SeriesErrors
from jaxlv.results.anatomy import Head, Spectra, StepCosts, TokenCosts, Training

MARKS = {".": "point", ",": "comma", ";": "semicolon"}  # too small to tell apart without their names
HUES = ("row-tuned", "species-1", "species-2", "row-2", "row-1", "row-untuned", "row-6")
FAINT: dict[str, Any] = {"colour": MUTED, "width": 0.8}  # lines to compare with
BOUND: dict[str, Any] = {"mark": "across", "dash": DASHED}


def _medians(found: Mapping[str, MethodGrowth | StepCosts], names: Sequence[str], steps: Any, banded: Any) -> list[Series]:
    """Returns medians over series by step, the first name on top, and 10-90 % of the methods `banded`."""
    ends = {name: (one.p10, one.p90) if name in banded else (None, None) for name, one in found.items()}
    styles = row_styles(found)
    return [Series(name, steps, found[name].median, *ends[name], **styles[name]._asdict()) for name in reversed(names)]


def _beside(count: int, place: int, among: int, width: float) -> np.ndarray:
    """Returns where the bars of one of several series stand at 0, 1, 2, ..."""
    return np.arange(count) + (place - (among - 1) / 2) * width


# -------------------------------------------------------------------------------------- text and back, and forecasts


def round_trip_figure(trip: RoundTrip) -> Chart:
    """Returns the difference of each step of one series after text and back in the coarsest scale, and half its unit."""
    one, panels = trip.coarsest, []
    steps = range(1, len(one.difference) + 1)
    for v, variable in enumerate(trip.variables):
        half = one.half_unit[v]
        bound = Series("half a unit of the last decimal", y=[half], width=0.9, **BOUND)
        sticks = Series("difference (raw units)", steps, [row[v] for row in one.difference], colour=species(v), width=1.6)
        y = Axis(shortened(variable, 16), limits=(0, 1.25 * half), ticks=3, colour=species(v))
        panels.append(Panel([bound, sticks], Axis("time step", limits=(0, len(steps) + 1)), y))
    return Chart("sticks", panels, (WIDTH, 60 + 96 * len(panels)))


def growth_figure(growth: Growth, models: Sequence[str]) -> Chart:
    """Returns median absolute errors by step ahead of the models and the best baseline, logarithmic."""
    baseline = growth.best_baseline(models)
    names = [*models, *([baseline] if baseline else [])]
    series = _medians(growth.methods, names, growth.step, (models[0], baseline))
    x = Axis("step ahead", limits=(1, max(growth.step[-1], 2)), whole=True)
    return single("lines", series, x, Axis("absolute error", "raw units", scale="log"), 280, names="ends")


def cumulative_figure(errors: Errors) -> Chart:
    """Returns the share of absolute errors below each size, of every method, logarithmic."""
    share = 100 * np.array(errors.probabilities)
    sizes = {name: numbers(method.absolute_quantiles) for name, method in errors.methods.items()}
    series = [Series(name, sizes[name], share, **look._asdict()) for name, look in row_styles(sizes).items()]
    widest = np.array([size[2:] for size in sizes.values()])
    held = widest[widest > 0]
    limits = (held.min(), held.max()) if len(held) else (None, None)
    x = Axis("absolute error", "raw units", scale="log", limits=limits, tail=", logarithmic")
    return single("lines", series, x, Axis("errors below", "%", limits=(0, 100), ticks=5), 320)


def histogram_figure(errors: Errors) -> Chart:
    """Returns the signed errors of the models, a panel for each variable."""
    styles, edges, panels = row_styles(errors.histograms), errors.edges, []
    x = Axis("forecast − truth", "raw units", limits=(edges[0], edges[-1]))
    for v, variable in enumerate(next(iter(errors.histograms.values()))):
        shares = {name: 100 * numbers(errors.histograms[name][variable]) for name in styles}
        series = [
            Series(name, edges, shares[name], colour=look.colour, shade=0.18, width=1.8 if name == OWN else 1.2)
            for name, look in reversed(styles.items())
        ]
        y = Axis(shortened(variable, 16), "%", ticks=3, colour=species(v))
        panels.append(Panel([*series, Series("", [0], mark="down", **FAINT)], x, y))
    keys = list(reversed(panels[0].series[:-1]))
    return Chart("stairs", panels, (WIDTH, 60 + 112 * len(panels)), keys=keys)


def sorted_figure(series: SeriesErrors, models: Sequence[str]) -> Chart:
    """Returns log10 of each series' squared error in ascending order, a bar for each variable, a panel for each model."""
    variables, panels = series.variables, []
    everything = numbers(v for name in models for own in series.methods[name].log10_mse.values() for v in own)
    held = everything[np.isfinite(everything)]
    floor = math.floor(held.min()) if len(held) else -1
    top = held.max() + 0.05 * (held.max() - floor) if len(held) and held.max() > floor else floor + 1
    width = 0.84 / len(variables)
    for name in models:
        method = series.methods[name]
        count, bars = len(method.series), []
        for v, variable in enumerate(variables):
            values, places = numbers(method.log10_mse[variable]), _beside(count, v, len(variables), width)
            bars.append(Series(variable, places, values - floor, base=floor, colour=species(v), width=width))
        words = "series, by the larger of their errors" if name == models[-1] else ""
        ticks = dict(enumerate(map(str, method.series)))
        x = Axis(words, limits=(-0.7, count - 0.3), ticks=ticks, turned=90, word="series")
        panels.append(Panel(bars, x, Axis(f"log10 MSE, {name}", limits=(floor, top), ticks=4, whole=True)))
    return Chart("bars", panels, (WIDTH, 44 + 150 * len(models)))


def pair_figure(series: SeriesErrors, models: Sequence[str]) -> Chart:
    """Returns the squared error of the second variable against that of the first, a dot for each series and model."""
    first, second = series.variables[:2]
    dots = []
    for name, look in row_styles(models).items():
        method, marker = series.methods[name], {"marker": "o", "size": 6} if name == OWN else {"marker": "s", "size": 5}
        style: dict[str, Any] = {**marker, "dash": "none", "alpha": 0.8, "colour": look.colour, "over": 2 + (name == OWN)}
        notes = [f"series {one}" for one in method.series]
        dots.append(Series(name, method.mse[first], method.mse[second], notes=notes, **style))
    found = np.concatenate([numbers(values) for one in dots for values in (one.x, one.y)])
    found = found[np.isfinite(found) & (found > 0)]
    low, high = (found.min() / 1.4, found.max() * 1.4) if len(found) else (0.1, 1.0)
    equal = Series("equal errors", [low, high], [low, high], colour=MUTED, width=1.0, dash=DASHED, told=False)
    x, y = (Axis(f"MSE of {shortened(name, 24)}", "raw units²", scale="log", limits=(low, high)) for name in (first, second))
    return single("scatter", [*dots, equal], x, y, 390, equal=True)


def ceiling_figure(ceiling: Ceiling) -> Chart:
    """Returns forecast peaks over true ones against true peaks over the scale's top; on 1 / x a forecast ends at the top."""
    points, series = ceiling.points, []
    x, y = numbers(one.true_over_top for one in points), numbers(one.forecast_over_true for one in points)
    for place, headroom in enumerate(sorted({one.headroom or 0.0 for one in points})):
        own = np.array([(one.headroom or 0.0) == headroom for one in points])
        words = f"{100 * headroom:g} % head-room" if ceiling.headrooms else "scale's top"
        hue = PALETTE[("row-tuned", "row-1", "row-2", "row-untuned")[place % 4]][0]
        look: dict[str, Any] = {"dash": "none", "marker": "oDs^v<>"[place % 7], "size": 5.5, "alpha": 0.75, "colour": hue}
        series.append(Series(words, x[own], y[own], **look))
    right = max(1.15, 1.05 * np.nanmax(x))
    cap = np.linspace(min(0.3, 0.9 * np.nanmin(x)), right, 200)
    series.append(Series("peak at the top", cap, 1 / cap, width=1.0, dash=DASHED, told=False))
    series.append(Series("", [1], mark="down", dash=(0, (1, 2)), **FAINT))
    series.append(Series("", y=[1], mark="across", **FAINT))
    limits = (max(0, 0.95 * min(np.nanmin(y), 1 / right, 0.9)), max(1.15, 1.05 * np.nanmax(y)))
    x_axis = Axis("true peak / top of the written scale", limits=(cap[0], right))
    return single("scatter", series, x_axis, Axis("forecast peak / true peak", limits=limits), 300)


# ---------------------------------------------------------------------------------------------- the tuned model itself


def norm_figure(training: Training) -> Chart:
    """Returns the gradient norm before and after clipping by step, logarithmic, and the ratio of the two."""
    history = [one.tree() for one in training.records]
    (steps, before), (_, after) = curve(history, "gradient_norm"), curve(history, "clipped_norm")
    series = [
        Series("before clipping", steps, before, colour=MUTED, width=1.2),
        Series("after clipping", steps, after, colour=MODEL, width=1.8),
    ]
    if training.clip_norm:
        series.append(Series("clip norm", y=[training.clip_norm], **FAINT, **BOUND))
    ratio = np.divide(after, before, out=np.ones_like(after), where=before > 0)
    x = Axis("training step", whole=True)
    below = Panel([Series("", steps, ratio, colour=MODEL)], x, Axis("ratio", limits=(0, 1.05), ticks=2))
    return Chart("lines", [Panel(series, x, Axis("gradient norm", scale="log"), height=2.2), below], (WIDTH, 300))


def kind_figure(tokens: Mapping[str, TokenCosts]) -> Chart:
    """Returns nats per token of each kind over the 13 symbols, a bar for each model."""
    kinds = list(next(iter(tokens.values())).by_kind)
    height, series = 0.8 / len(tokens), []
    for place, (name, look) in enumerate(row_styles(tokens).items()):
        values = numbers(tokens[name].by_kind[kind].symbols.nats for kind in kinds)
        labels = [plain_number(float(f"{value:.2g}")) if value >= 5e-4 else "< 0.0005" for value in values]
        rows = _beside(len(kinds), place, len(tokens), height)
        series.append(Series(name, rows, values, colour=look.colour, width=0.9 * height, labels=labels))
    greatest = max(float(np.nanmax(one.y, initial=0)) for one in series)
    x = Axis(unit="nats per token", limits=(0, 1.14 * greatest or 1.0))
    return single("bars", series, x, rows_of(kinds), 70 + (14 * len(tokens) + 12) * len(kinds))


def token_step_figure(tokens: Mapping[str, TokenCosts]) -> Chart:
    """Returns nats per token by time step over the 13 symbols, logarithmic, and where the steps end that fit the scale."""
    first, found = next(iter(tokens)), {name: one.by_step for name, one in tokens.items()}
    steps = np.arange(1, 1 + max(len(one.step) for one in found.values()))
    border = tokens[first].context + 0.5
    series = [*_medians(found, list(found), steps, (first,)), Series("", [border], mark="down", dash=DASHED, **FAINT)]
    note = charts.Note("scale fitted up to here", border, None, (-4, -2), "right")
    x, y = Axis("time step of the series", limits=(1, len(steps)), whole=True), Axis(unit="nats per token", scale="log")
    return single("lines", series, x, y, 280, notes=[note], keys=series[-2::-1])


def _size_of(head: Head) -> Axis:
    return Axis("bias (natural log of odds)" if head.kind == "bias" else "norm of the row's change")


def largest_figure(head: Head) -> Chart:
    """Returns the largest entries with their tokens' text; those of the 13 symbols in colour."""
    entries, known = head.largest, {one.id for one in head.symbols.values()}
    labels = [" ".join(filter(None, (MARKS.get(entry.text), entry.label))) for entry in entries]
    series = [Series("", [0], mark="down", width=0.8)]
    for name, colour, symbol in (("one of the 13 symbols", MODEL, True), ("another token", MUTED, False)):
        rows = [row for row, entry in enumerate(entries) if (entry.id in known) == symbol]
        series.append(Series(name, rows, [entries[row].value for row in rows], colour=colour, width=0.72))
    return single("bars", series, _size_of(head), rows_of(labels, 20), 56 + 16 * len(entries))


def head_histogram_figure(head: Head) -> Chart:
    """Returns how many entries have each size, logarithmic, with the median and the 13 symbols marked."""
    counts, edges = head.histogram.counts, head.histogram.edges
    series = [
        Series("", edges, counts, colour=MUTED, width=0, shade=0.8),
        Series("median", [head.median], mark="down", width=1.0, dash=DASHED),
    ]
    if edges[0] < 0 < edges[-1]:
        series.append(Series("", [0], mark="down", **FAINT))
    stroke: dict[str, Any] = {"mark": "line", "colour": MODEL, "width": 1.6, "told": False}
    series += [Series("the 13 symbols", [one.value] * 2, [0.5, 0.9], **stroke) for one in head.symbols.values()]
    y = Axis("entries", scale="log", limits=(0.5, 3 * max(*counts, 1)))
    return single("stairs", series, _size_of(head), y, 250)


def heatmap_figure(spectra: Spectra, key: str, scale: float = 1.0) -> Chart:
    """Returns a number of each adapted projection, layer by layer, the darker the larger; `scale` divides it."""
    entries, layers = spectra.projections, sorted({one.layer for one in spectra.projections})
    names = list(dict.fromkeys(one.projection for one in sorted(entries, key=lambda one: one.layer)))
    values = [getattr(one, key) / scale for one in entries]
    least = min((value for value in values if value), default=1.0)
    decimals = min(max(1 - math.floor(math.log10(least)), 0), 4)  # two digits of the least
    columns, rows = [names.index(one.projection) for one in entries], [layers.index(one.layer) for one in entries]
    cells = Series("", columns, rows, high=values, colour=MODEL, labels=[f"{value:.{decimals}f}" for value in values])
    x = Axis(limits=(-0.5, len(names) - 0.5), ticks={i: name.removesuffix("_proj") for i, name in enumerate(names)})
    y = Axis("layer", limits=(len(layers) - 0.5, -0.5), ticks={i: str(layer) for i, layer in enumerate(layers)})
    return single("heatmap", [cells], x, y, 44 + 17 * len(layers))


def spectrum_figure(spectra: Spectra) -> Chart:
    """Returns singular values over the first of each projection: every layer thin, their median thick, logarithmic."""
    series: list[Series] = []
    for (name, own), hue in zip(spectra.by_name.items(), HUES, strict=False):
        shares = np.array([np.array(one.singular_values) / one.singular_values[0] for one in own if one.norm])
        if not len(shares):
            continue
        colour, place = PALETTE[hue][0], np.arange(1, shares.shape[1] + 1)
        series += [Series("", place, share, colour=colour, width=0.5, alpha=0.35, told=False) for share in shares]
        middle = np.median(shares, axis=0)
        series.append(Series(name.removesuffix("_proj"), place, middle, colour=colour, width=2.0, marker="."))
    least = min((float(np.min(one.y)) for one in series), default=0.1)
    x = Axis("direction", limits=(0.8, spectra.rank + 0.2), ticks=min(spectra.rank, 8), whole=True)
    y = Axis("singular value / the first", scale="log", limits=(max(0.9 * least, 1e-6), 1.15))
    return single("lines", series, x, y, 290)
