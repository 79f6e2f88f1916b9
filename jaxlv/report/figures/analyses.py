"""Charts of the analyses of forecasts and of the text format, from their dictionaries (jaxlv.analysis.analyses).

Axes: H forecast steps, T time steps, N series, V variables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxlv.report.charts import DASHED, WIDTH, Axis, Chart, Panel, Series, numbers, shortened, single
from jaxlv.report.figures.evaluation import OWN, row_styles
from jaxlv.report.theme import MUTED, PALETTE, species

Tree = Mapping[str, Any]

# -------------------------------------------------------------------------------------------- round trip


def round_trip_figure(trip: Tree) -> Chart:
    """Absolute difference of each step of one series after text and back, and the half unit that bounds it; the variant of
    the most head-room, whose unit is the largest.
    """
    variant = max(trip["variants"], key=lambda one: one["headroom"] or 0)
    difference_TV = np.array(variant["difference"], float)
    steps, panels = np.arange(1, len(difference_TV) + 1), []
    bound: dict[str, Any] = {"mark": "across", "width": 0.9, "dash": DASHED}
    for v, variable in enumerate(trip["variables"]):
        half = variant["half_unit"][v]
        series = [
            Series("half a unit of the last decimal", y=[half], **bound),
            Series("difference (raw units)", steps, difference_TV[:, v], colour=species(v), width=1.6),
        ]
        y = Axis(shortened(variable, 16), limits=(0, 1.25 * half), ticks=3, colour=species(v))
        panels.append(Panel(series, Axis("time step", limits=(0, len(steps) + 1)), y))
    return Chart("sticks", panels, (WIDTH, 60 + 96 * len(panels)))


# ----------------------------------------------------------------------------------------- errors of forecasts


def best_baseline(growth: Tree, models: Sequence[str]) -> str | None:
    """Returns the baseline with the least mean error; an oracle, which knows the equations, does not count."""
    errors = {n: np.mean(m["mean"]) for n, m in growth["methods"].items() if n not in models and "oracle" not in n}
    return min(errors, key=lambda name: errors[name]) if errors else None


def growth_figure(growth: Tree, models: Sequence[str]) -> Chart:
    """Median absolute error by step ahead of the models and the best baseline, logarithmic; 10-90 % over series of the
    first model and the baseline.
    """
    styles, series = row_styles(growth["methods"]), []
    baseline = best_baseline(growth, models)
    for name in filter(None, (baseline, *reversed(models))):
        method = growth["methods"][name]
        ends = [method[key] if name in (models[0], baseline) else None for key in ("p10", "p90")]
        series.append(Series(name, growth["step"], method["median"], *ends, **styles[name]._asdict()))
    x = Axis("step ahead", limits=(1, max(growth["step"][-1], 2)), whole=True)
    return single("lines", series, x, Axis("absolute error", "raw units", scale="log"), 280, names="ends")


def cumulative_figure(errors: Tree) -> Chart:
    """Share of absolute errors below each size, of every method, logarithmic."""
    share = 100 * np.array(errors["probabilities"])
    sizes = {name: numbers(method["absolute_quantiles"]) for name, method in errors["methods"].items()}
    series = [Series(name, sizes[name], share, **look._asdict()) for name, look in row_styles(sizes).items()]
    widest = np.array([size[2:] for size in sizes.values()])
    held = widest[widest > 0]
    limits = (held.min(), held.max()) if len(held) else (None, None)
    x = Axis("absolute error", "raw units", scale="log", limits=limits, tail=", logarithmic")
    return single("lines", series, x, Axis("errors below", "%", limits=(0, 100), ticks=5), 320)


def histogram_figure(errors: Tree, variables: Sequence[str]) -> Chart:
    """Signed errors of the models, a panel for each variable."""
    styles, edges = row_styles(errors["histograms"]), np.array(errors["edges"])
    x, panels = Axis("forecast − truth", "raw units", limits=(edges[0], edges[-1])), []
    for v, variable in enumerate(variables):
        shares = {name: 100 * np.array(errors["histograms"][name][variable]) for name in styles}
        series = [
            Series(name, edges, shares[name], colour=look.colour, shade=0.18, width=1.8 if name == OWN else 1.2)
            for name, look in reversed(styles.items())
        ]
        zero = Series("", [0], mark="down", colour=MUTED, width=0.8)
        panels.append(Panel([*series, zero], x, Axis(shortened(variable, 16), "%", ticks=3, colour=species(v))))
    keys = list(reversed(panels[0].series[:-1]))
    return Chart("stairs", panels, (WIDTH, 60 + 112 * len(panels)), keys=keys)


def sorted_figure(series: Tree, models: Sequence[str]) -> Chart:
    """log10 of each series' mean squared error in ascending order, a bar for each variable, a panel for each model."""
    variables, panels = series["variables"], []
    everything = numbers(v for name in models for own in series["methods"][name]["log10_mse"].values() for v in own)
    held = everything[np.isfinite(everything)]
    floor = math.floor(held.min()) if len(held) else -1
    top = held.max() + 0.05 * (held.max() - floor) if len(held) and held.max() > floor else floor + 1
    for name in models:
        method = series["methods"][name]
        count, width = len(method["series"]), 0.84 / len(variables)
        bars = []
        for v, variable in enumerate(variables):
            values = numbers(method["log10_mse"][variable])
            places = np.arange(count) + (v - (len(variables) - 1) / 2) * width
            bars.append(Series(variable, places, values - floor, base=floor, colour=species(v), width=width))
        words = "series, by the larger of their errors" if name == models[-1] else ""
        ticks = dict(enumerate(map(str, method["series"])))
        x = Axis(words, limits=(-0.7, count - 0.3), ticks=ticks, turned=90, word="series")
        panels.append(Panel(bars, x, Axis(f"log10 MSE, {name}", limits=(floor, top), ticks=4, whole=True)))
    return Chart("bars", panels, (WIDTH, 44 + 150 * len(models)))


def pair_figure(series: Tree, models: Sequence[str]) -> Chart:
    """Mean squared error of the second variable against that of the first, a dot for each series and model."""
    first, second = series["variables"][:2]
    dots = []
    for name, look in row_styles(models).items():
        method = series["methods"][name]
        marker, size = ("o", 6) if name == OWN else ("s", 5)
        notes = [f"series {one}" for one in method.get("series", ())]
        dots.append(
            Series(name, method["mse"][first], method["mse"][second], dash="none", marker=marker, size=size, alpha=0.8,
                   colour=look.colour, over=2 + (name == OWN), notes=notes)
        )  # fmt: skip
    found = np.concatenate([numbers(values) for one in dots for values in (one.x, one.y)])
    found = found[np.isfinite(found) & (found > 0)]
    low, high = (found.min() / 1.4, found.max() * 1.4) if len(found) else (0.1, 1.0)
    equal = Series("equal errors", [low, high], [low, high], colour=MUTED, width=1.0, dash=DASHED, told=False)
    x, y = (Axis(f"MSE of {shortened(name, 24)}", "raw units²", scale="log", limits=(low, high)) for name in (first, second))
    return single("scatter", [*dots, equal], x, y, 390, equal=True)


# ----------------------------------------------------------------------------------------------- the ceiling


def ceiling_figure(ceiling: Tree) -> Chart:
    """Forecast peak over true peak against true peak over the scale's top; on the curve 1 / x a forecast ends at the top."""
    points, series = ceiling["points"], []
    x, y = (numbers(point[key] for point in points) for key in ("true_over_top", "forecast_over_true"))
    for place, headroom in enumerate(sorted({point["headroom"] or 0.0 for point in points})):
        own = np.array([(point["headroom"] or 0.0) == headroom for point in points])
        words = f"{100 * headroom:g} % head-room" if ceiling["headrooms"] else "scale's top"
        hue = PALETTE[("row-tuned", "row-1", "row-2", "row-untuned")[place % 4]][0]
        look: dict[str, Any] = {"dash": "none", "marker": "oDs^v<>"[place % 7], "size": 5.5, "alpha": 0.75, "colour": hue}
        series.append(Series(words, x[own], y[own], **look))
    right = max(1.15, 1.05 * np.nanmax(x))
    cap = np.linspace(min(0.3, 0.9 * np.nanmin(x)), right, 200)
    series.append(Series("peak at the top", cap, 1 / cap, width=1.0, dash=DASHED, told=False))
    series.append(Series("", [1], mark="down", colour=MUTED, width=0.8, dash=(0, (1, 2))))
    series.append(Series("", y=[1], mark="across", colour=MUTED, width=0.8))
    limits = (max(0, 0.95 * min(np.nanmin(y), 1 / right, 0.9)), max(1.15, 1.05 * np.nanmax(y)))
    x_axis = Axis("true peak / top of the written scale", limits=(cap[0], right))
    return single("scatter", series, x_axis, Axis("forecast peak / true peak", limits=limits), 300)
