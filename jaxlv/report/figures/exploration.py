"""Charts of an exploration: regimes, tokens, rounding errors and windows; and all its charts together.

Axes: N series, K clusters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxlv.analysis.clusters import CLUSTERS, Clusters, plane
from jaxlv.analysis.exploration import Cycles
from jaxlv.data.series import SeriesSet
from jaxlv.report.charts import WIDTH, Axis, Chart, Panel, Series, rows_of
from jaxlv.report.figures import series as own
from jaxlv.report.figures.series import Rows, thinned
from jaxlv.report.theme import HUES, MUTED

# --------------------------------------------------------------------------------------------------- regimes


def plane_figure(place_N2: np.ndarray, label_N: np.ndarray, variance: Sequence[float]) -> Chart:
    """The series in the first two principal components of their features, by cluster."""
    held_N, series = np.isin(np.arange(len(label_N)), thinned(len(label_N))), []
    for k in range(label_N.max() + 1):
        look: dict[str, Any] = {"dash": "none", "marker": "os^Dv<>P"[k % 8], "size": 4, "alpha": 0.6}
        places = place_N2[held_N & (label_N == k)].T
        series.append(Series(f"cluster {k + 1}", *places, colour=HUES[k % len(HUES)], **look))
    axes = (
        Axis(f"{word} component", tail=f" ({100 * share:.0f} % of the variance)")
        for share, word in zip(variance, ("first", "second"), strict=True)
    )
    return Chart("scatter", [Panel(series, *axes)], (WIDTH, 320))


def silhouette_figure(rows: Rows, used: int) -> Chart:
    """Mean silhouette by the number of clusters, the one that is used filled."""
    count_K, value_K = (np.array([row[key] for row in rows], float) for key in ("clusters", "silhouette"))
    look: dict[str, Any] = {"colour": HUES[1], "marker": "o"}
    series = [
        Series("", count_K, value_K, width=1.6, open=True, **look),
        Series("used", count_K[count_K == used], value_K[count_K == used], dash="none", size=7, keyed=False, **look),
    ]
    y = Axis("mean silhouette", limits=(0, max(1.15 * float(np.nanmax(value_K, initial=0.1)), 0.1)))
    return Chart("lines", [Panel(series, Axis("clusters", ticks={k: f"{k:g}" for k in count_K}), y)], (WIDTH, 220))


# ------------------------------------------------------------------------------------------------------ text


def token_figure(rows: Rows) -> Chart:
    """Tokens per series in each scheme: least, median and most."""
    low, middle, high = ([row[f"tokens {key}"] for row in rows] for key in ("min", "median", "max"))
    ranges = Series("", range(len(rows)), middle, low, high, colour=HUES[0], size=7)
    x = Axis("tokens per series", tail=": least, median (dot), most")
    return Chart("ranges", [Panel([ranges], x, _schemes(rows))], (WIDTH, 62 + 25 * len(rows)))


def _schemes(rows: Rows) -> Axis:
    return rows_of([str(row["scheme"]) for row in rows])


def round_trip_figure(rows: Rows) -> Chart:
    """Mean absolute error of each scheme's text, its range over series, and the largest single error; logarithmic."""
    low, mean, high, most = ([row[key] for row in rows] for key in ("mae min", "mae", "mae max", "max error"))
    places = range(len(rows))
    series = [
        Series("mean, and its range over series", places, mean, low, high, colour=HUES[1], size=7),
        Series("largest single error", places, most, colour=MUTED, marker="D", size=5, open=True),
    ]
    x = Axis("absolute error", "raw units", "log", tail=", logarithmic")
    return Chart("ranges", [Panel(series, x, _schemes(rows))], (WIDTH, 84 + 25 * len(rows)))


def window_figure(rows: Rows) -> Chart:
    """Per scheme and window length: the share of positions that is padding, or of tokens that no window holds."""
    parts, lengths = list(dict.fromkeys(row["part"] for row in rows)), sorted({row["length"] for row in rows})
    schemes = list(dict.fromkeys(row["scheme"] for row in rows))
    width = 0.8 / len(lengths)
    x = Axis(ticks={i: name.replace(" decimals", "") for i, name in enumerate(schemes)}, turned=50)
    panels = []
    for key, of in (("padding", "% of positions"), ("tokens left out", "% of all")):
        for part in parts:
            series = []
            for j, length in enumerate(lengths):
                shares = {row["scheme"]: row[key] for row in rows if row["part"] == part and row["length"] == length}
                place = np.arange(len(schemes)) + (j - (len(lengths) - 1) / 2) * width
                heights = [100 * (shares.get(name) or 0.0) for name in schemes]
                colour = HUES[j % len(HUES)]
                series.append(Series(f"{length} tokens", place, heights, colour=colour, width=width))
            panels.append(Panel(series, x, Axis(f"{key}\n", of, ticks=4), part if key == "padding" else ""))
    return Chart("bars", panels, (WIDTH, 330), columns=len(parts))


# ------------------------------------------------------------------------------------------------- together


def drawings(
    data: SeriesSet,
    shown: SeriesSet,
    rule_N: np.ndarray,
    found: Cycles,
    step: float,
    regimes: Mapping[str, Any] | None,
    tables: Mapping[str, Rows],
) -> dict[str, tuple[Chart, str]]:
    """Every chart of an exploration and its label, by the name of its file; `tables` are those of the exploration."""
    names, values_NTV, pair = data.variables, data.values_NTV, len(data.variables) > 1
    drawn: dict[str, tuple[Chart, str]] = {}
    rule_of = dict(zip(data.ids_N.tolist(), rule_N.tolist(), strict=True))
    for i, values_TV in zip(shown.ids_N.tolist(), shown.values_NTV, strict=True):
        title = f"series {i}: {rule_of[i]}"
        drawn[f"series_{i}"] = own.trajectory_figure(data.time_T, values_TV, names, title), f"{title}, over time"
        if pair:
            drawn[f"phase_{i}"] = own.phase_plane_figure(values_TV, names, title), f"{title}, {names[1]} against {names[0]}"
    overall = tables["values"][0]
    marks = {f"{p:g} %": overall[f"p{p:g}"] for p in (95, 99, 99.7)}
    drawn["values"] = own.values_figure(values_NTV, names, marks), "Distribution of all values"
    drawn["mean"] = (
        own.mean_figure(tables["mean"], names),
        "Mean trajectory, its deviation and the 10-90 % band",
    )
    if np.isfinite(found.period_NV).any():
        drawn["periods"] = own.period_figure(found.period_NV, names, step), "Distribution of periods"
    if pair and np.isfinite(found.lag_N).any():
        drawn["lags"] = (
            own.lag_figure(found.lag_N, found.share_N),
            f"Lags of {names[1]} behind {names[0]}",
        )
    if pair:
        drawn["states"] = (
            own.states_figure(values_NTV[:, 0], values_NTV[:, -1], names),
            "First and last step",
        )
    if regimes:
        drawn |= dict(_regime_drawings(data, regimes))
    written = [row for row in tables["tokens"] if row["series"]]
    if written:
        errors = [row for row in tables["round trip"] if row["series"]]
        drawn["tokens"] = token_figure(written), "Tokens per series in each scheme"
        drawn["round_trip"] = round_trip_figure(errors), "Rounding error of each scheme"
        drawn["windows"] = window_figure(tables["windows"]), "Padding and tokens left out by window length"
    return drawn


def _regime_drawings(data: SeriesSet, regimes: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Chart, str]]]:
    main: Clusters = regimes["main"]
    for k, share in enumerate(main.share_K):
        typical = main.typical(k)
        title = f"cluster {k + 1}: {100 * share:.1f} %"
        picture = own.band_figure(
            data.time_T, data.values_NTV[main.label_N == k], data.values_NTV[typical], data.variables, title
        )
        yield f"cluster_{k + 1}", (picture, f"{title}, series {data.ids_N[typical]} in its 10-90 % band")
    place_N2, variance = plane(main)
    yield "plane", (plane_figure(place_N2, main.label_N, variance), "Clusters in two principal components")
    yield "silhouette", (silhouette_figure(regimes["silhouettes"], CLUSTERS), "Silhouette by number of clusters")
