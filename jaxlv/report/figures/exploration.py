"""Charts of an exploration: regimes, tokens, rounding errors and windows; and all its charts together.

Axes: N series, K clusters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxlv.analysis.clusters import CLUSTERS, Clusters, plane
from jaxlv.analysis.exploration import Cycles
from jaxlv.data.series import SeriesSet
from jaxlv.report.charts import WIDTH, Axis, Chart, Panel, Series, rows_of, single
from jaxlv.report.figures import series as own
from jaxlv.report.figures.series import Rows, thinned
from jaxlv.report.theme import HUES, MUTED

# --------------------------------------------------------------------------------------------------- regimes


def plane_figure(place_N2: np.ndarray, label_N: np.ndarray, variance: Iterable[float]) -> Chart:
    """The series in the first two principal components of their features, by cluster."""
    held_N, series = np.isin(np.arange(len(label_N)), thinned(len(label_N))), []
    for k in range(label_N.max() + 1):
        look: dict[str, Any] = {"dash": "none", "marker": "os^Dv<>P"[k % 8], "size": 4, "alpha": 0.6}
        places = place_N2[held_N & (label_N == k)].T
        series.append(Series(f"cluster {k + 1}", *places, colour=HUES[k % len(HUES)], **look))
    tails = [f" ({100 * share:.0f} % of the variance)" for share in variance]
    x, y = (Axis(f"{word} component", tail=tail) for word, tail in zip(("first", "second"), tails, strict=True))
    return single("scatter", series, x, y, 320)


def silhouette_figure(rows: Rows, used: int) -> Chart:
    """Mean silhouette by the number of clusters, the one that is used filled."""
    count_K, value_K = (np.array([row[key] for row in rows], float) for key in ("clusters", "silhouette"))
    held_K, look = count_K == used, dict[str, Any](colour=HUES[1], marker="o")
    series = [
        Series("", count_K, value_K, width=1.6, open=True, **look),
        Series("used", count_K[held_K], value_K[held_K], dash="none", size=7, keyed=False, **look),
    ]
    y = Axis("mean silhouette", limits=(0, max(1.15 * float(np.nanmax(value_K, initial=0.1)), 0.1)))
    return single("lines", series, Axis("clusters", ticks={k: f"{k:g}" for k in count_K}), y, 220)


# ------------------------------------------------------------------------------------------------------ text


def _ranges(rows: Rows, name: str, keys: Sequence[str], **look: Any) -> Series:
    """A dot for each scheme, at the first of the keys, and a bar between the others if there are any."""
    return Series(name, range(len(rows)), *([row[key] for row in rows] for key in keys), **look)


def token_figure(rows: Rows) -> Chart:
    """Tokens per series in each scheme: least, median and most."""
    ranges = _ranges(rows, "", ("tokens median", "tokens min", "tokens max"), colour=HUES[0], size=7)
    x = Axis("tokens per series", tail=": least, median (dot), most")
    return single("ranges", [ranges], x, rows_of([str(row["scheme"]) for row in rows]), 62 + 25 * len(rows))


def round_trip_figure(rows: Rows) -> Chart:
    """Mean absolute error of each scheme's text, its range over series, and the largest single error; logarithmic."""
    series = [
        _ranges(rows, "mean, and its range over series", ("mae", "mae min", "mae max"), colour=HUES[1], size=7),
        _ranges(rows, "largest single error", ("max error",), colour=MUTED, marker="D", size=5, open=True),
    ]
    x = Axis("absolute error", "raw units", scale="log", tail=", logarithmic")
    return single("ranges", series, x, rows_of([str(row["scheme"]) for row in rows]), 84 + 25 * len(rows))


def window_figure(rows: Rows) -> Chart:
    """Per scheme and window length: the share of positions that is padding, or of tokens that no window holds."""
    parts, lengths = list(dict.fromkeys(row["part"] for row in rows)), sorted({row["length"] for row in rows})
    schemes, width, panels = list(dict.fromkeys(row["scheme"] for row in rows)), 0.8 / len(lengths), []
    x = Axis(ticks={i: name.replace(" decimals", "") for i, name in enumerate(schemes)}, turned=50)
    for key, of in (("padding", "% of positions"), ("tokens left out", "% of all")):
        for part in parts:
            series = []
            for j, length in enumerate(lengths):
                shares = {row["scheme"]: row[key] for row in rows if row["part"] == part and row["length"] == length}
                place = np.arange(len(schemes)) + (j - (len(lengths) - 1) / 2) * width
                heights = [100 * (shares.get(name) or 0.0) for name in schemes]
                series.append(Series(f"{length} tokens", place, heights, colour=HUES[j % len(HUES)], width=width))
            panels.append(Panel(series, x, Axis(f"{key}\n", of, ticks=4), title=part if key == "padding" else ""))
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
    marks = {f"{p:g} %": tables["values"][0][f"p{p:g}"] for p in (95, 99, 99.7)}
    drawn["values"] = own.values_figure(values_NTV, names, marks), "Distribution of all values"
    drawn["mean"] = own.mean_figure(tables["mean"], names), "Mean trajectory, its deviation and the 10-90 % band"
    if np.isfinite(found.period_NV).any():
        drawn["periods"] = own.period_figure(found.period_NV, names, step), "Distribution of periods"
    if pair and np.isfinite(found.lag_N).any():
        drawn["lags"] = own.lag_figure(found.lag_N, found.share_N), f"Lags of {names[1]} behind {names[0]}"
    if pair:
        drawn["states"] = own.states_figure(values_NTV[:, 0], values_NTV[:, -1], names), "First and last step"
    if regimes:
        drawn |= dict(_regime_drawings(data, regimes))
    if written := [row for row in tables["tokens"] if row["series"]]:
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
