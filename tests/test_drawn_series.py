"""Figures of series and of an exploration, read back from values that all differ."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from drawn import bands, bars, colour, drawn, from_top, legend, lines, named, seen, stairs, text_of, texts, ticks
from matplotlib.figure import Figure
from records import unlike

from jaxlv.analysis import drawn as measured
from jaxlv.analysis.clusters import Clusters
from jaxlv.analysis.exploration import Cycles, cycle_rows, state_rows, value_rows
from jaxlv.data.series import SeriesSet, from_arrays
from jaxlv.report.figures import exploration
from jaxlv.report.figures.svg import to_svg
from jaxlv.report.theme import PALETTE, species
from jaxlv.results.exploration import (
    Centre,
    Dots,
    Example,
    Exploration,
    MeanStep,
    Plane,
    RoundTrip,
    Silhouette,
    Tables,
    Tokens,
    Trace,
    Windows,
)

NAMES = ("hare", "lynx")
N, T = 12, 7
TIME = 1.0 + 0.5 * np.arange(T)


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    """(12, 7, 2), skewed: means differ from medians, and lynxes lie above hares."""
    return np.random.default_rng(3).lognormal(size=(N, T, 2)) * np.array([1.0, 5.0])


def trace(values_TV: np.ndarray, low: Any = None, high: Any = None) -> Trace:
    """Series 5, with a band if its ends are given."""
    by_name = [{} if one is None else dict(zip(NAMES, one.T, strict=True)) for one in (values_TV, low, high)]
    return Trace(5, *by_name)


def hues(figure: Figure) -> dict[str, str]:
    """{name: colour} of the entries of the legends."""
    return {name: colour(handle) for name, handle in legend(figure).items()}


# ---------------------------------------------------------------------------------------------------------- one series


def test_variables_have_the_colours_of_their_places_in_turn():
    assert [species(v) for v in range(4)] == [PALETTE[f"species-{n}"][0] for n in (1, 2, 3, 1)]


def test_each_variable_of_a_trajectory_is_in_its_own_colour(values):
    figure = seen(exploration.trajectory_figure(TIME, trace(values[0]), "series 5: collapse"))
    (ax,) = figure.axes
    assert next(iter(hues(figure))) == "series 5: collapse" and hues(figure)["lynx"] == species(1)
    found = {one.colour: (one.x, one.y) for one in drawn(ax)}
    for v, name in enumerate(NAMES):
        np.testing.assert_array_equal(found[hues(figure)[name]], (TIME, values[0, :, v]))
    assert text_of(ax.xaxis)[0] == "time (time units)"


def test_a_typical_series_lies_in_its_band(values):
    low, high = np.percentile(values, [10, 90], axis=0)
    figure = seen(exploration.trajectory_figure(TIME, trace(values[4], low, high), "cluster 2"))
    (ax,) = figure.axes
    found, areas = {one.colour: one.y for one in drawn(ax)}, {band.colour: band for band in bands(ax)}
    for v, name in enumerate(NAMES):
        hue = hues(figure)[name]
        np.testing.assert_array_equal(found[hue], values[4, :, v])
        np.testing.assert_allclose([areas[hue].x, areas[hue].low, areas[hue].high], [TIME, low[:, v], high[:, v]])


def test_the_phase_plane_of_a_series_begins_at_the_filled_dot(values):
    (ax,) = seen(exploration.phase_plane_figure(trace(values[0]), "a title")).axes
    assert (text_of(ax.xaxis), text_of(ax.yaxis)) == (("hare", species(0)), ("lynx", species(1)))
    path, *dots = ax.lines
    np.testing.assert_array_equal(path.get_data(), values[0].T)
    place = {dot.get_markerfacecolor() == "none": np.ravel(dot.get_data()).tolist() for dot in dots}
    assert place == {False: values[0, 0].tolist(), True: values[0, -1].tolist()}


# ----------------------------------------------------------------------------------------------------------- all series


def mean_rows() -> list[MeanStep]:
    """Rows whose columns all differ, the variables in turns."""
    numbers = iter(unlike(5, 2 * T * 3))
    rows = []
    for t in range(T):
        for name in NAMES:
            mean, sd, spread = 5 + next(numbers), next(numbers), next(numbers)
            low, high = mean - 2 * spread, mean + 3 * spread
            rows.append(MeanStep(t, TIME[t], name, mean, sd, low, mean + 0.3, high))
    return rows


def test_means_deviations_and_bands_of_each_variable():
    figure = seen(exploration.mean_figure(mean_rows(), NAMES))
    assert list(legend(figure)) == ["mean", "10–90 % of series", "mean ± 1 standard deviation"]
    for v, (name, ax) in enumerate(zip(NAMES, figure.axes, strict=True)):
        rows = [vars(row) for row in mean_rows() if row.variable == name]
        own = {key: np.array([row[key] for row in rows]) for key in rows[0]}
        assert text_of(ax.yaxis) == (name, species(v))
        (mean,) = [(one.x, one.y) for one in drawn(ax) if one.colour == species(v)]
        np.testing.assert_array_equal(mean, (TIME, own["mean"]))
        sides = [y for _, y in named(ax)["mean ± 1 standard deviation"]]
        np.testing.assert_allclose(sorted(sides, key=sum), [own["mean"] - own["sd"], own["mean"] + own["sd"]])
        (band,) = bands(ax)
        np.testing.assert_allclose([band.low, band.high], [own["p10"], own["p90"]])


def test_the_first_step_and_the_last_with_the_range_of_the_first(values):
    began = state_rows(from_arrays(values, TIME, NAMES))[:2]
    figure = seen(exploration.states_figure(Dots(*values[:, 0].T), Dots(*values[:, -1].T), began))
    for ax, step, title in zip(figure.axes, (0, -1), ("first step", "last step"), strict=True):
        assert ax.get_title(loc="left") == title and text_of(ax.xaxis) == ("hare", species(0))
        np.testing.assert_array_equal(ax.lines[0].get_data(), values[:, step].T)
    assert text_of(figure.axes[0].yaxis) == ("lynx", species(1))
    frame = np.array(figure.axes[1].lines[1].get_data())
    np.testing.assert_allclose([frame.min(axis=1), frame.max(axis=1)], [values[:, 0].min(axis=0), values[:, 0].max(axis=0)])
    assert frame.shape == (2, 5) and texts(figure.axes[1]) == ["the range of the first step"]


def shares(ax: Any, figure: Figure) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{name: (heights, edges)} of the histograms, by the legend's colours."""
    names = {hue: name for name, hue in hues(figure).items()}
    return {names[hue]: (heights, edges) for hue, heights, edges in stairs(ax)}


def test_values_are_counted_by_variable_in_percent_of_its_own(values):
    marked = {"95 %": 3.25, "99 %": 7.5}
    figure = seen(exploration.values_figure(measured.value_histogram(from_arrays(values, TIME, NAMES)), marked))
    (ax,) = figure.axes
    found = shares(ax, figure)
    for v, name in enumerate(NAMES):
        heights, edges = found[name]
        assert heights.sum() == pytest.approx(100)
        np.testing.assert_allclose(heights, 100 * np.histogram(values[..., v], edges)[0] / values[..., v].size)
    assert sorted(one.x[0] for one in drawn(ax)) == [3.25, 7.5] and texts(ax) == ["95 %: 3.25\n99 %: 7.5"]


def test_periods_are_counted_in_steps_and_read_in_time_units():
    period_NV = np.array([[10.2, 20.7], [11.5, np.nan], [11.7, 23.1], [14.9, 23.3]])
    figure = seen(exploration.period_figure(measured.counts(period_NV, 1.0, NAMES), 2.5))
    ax = figure.axes[0]
    found = shares(ax, figure)
    for name, counts in {"hare": {10: 1, 11: 2, 14: 1}, "lynx": {20: 1, 23: 2}}.items():
        heights, edges = found[name]
        assert {int(edge): int(height) for edge, height in zip(edges, heights, strict=False) if height} == counts
    (top,) = ax.child_axes
    forward, _ = top._functions
    assert text_of(top.xaxis)[0] == "period (time units)" and forward(10.0) == 25.0
    assert text_of(ax.xaxis)[0] == "period (steps)"


def test_lags_are_counted_in_steps_and_in_percent_of_the_period():
    lag_N, share_N = np.array([3.1, 3.2, 4.9, 9.9]), np.array([0.11, 0.13, 0.31, 0.97])
    found = Cycles(np.full((4, 2), 2), (lag_N / share_N)[:, None], lag_N)
    axes = seen(exploration.lag_figure(measured.lag_histograms(found))).axes
    for ax, values_N, unit in zip(axes, (lag_N, 100 * share_N), ("steps", "% of the period"), strict=True):
        assert text_of(ax.xaxis)[0] == f"lag ({unit})"
        ((_, heights, edges),) = stairs(ax)
        assert heights.tolist() == np.histogram(values_N, edges)[0].tolist() and heights.sum() == 4
        ((place, _),) = [(one.x, one.y) for one in drawn(ax)]
        assert place[0] == pytest.approx(values_N.mean()) and texts(ax) == [f"mean {values_N.mean():.3g}"]


# ------------------------------------------------------------------------------------------------- regimes and schemes


def test_clusters_lie_in_the_plane_of_the_first_two_components():
    place_N2, label_N = np.array(unlike(7, 9, 2)), np.array([0, 1, 2, 0, 1, 0, 2, 2, 1])
    clusters = tuple(Dots(*place_N2[label_N == k].T) for k in range(3))
    figure = seen(exploration.plane_figure(Plane((0.62, 0.27), clusters)))
    (ax,) = figure.axes
    found = lines(ax)
    assert list(legend(figure)) == ["cluster 1", "cluster 2", "cluster 3"]
    for k in range(3):
        np.testing.assert_array_equal(found[f"cluster {k + 1}"], place_N2[label_N == k].T)
    assert text_of(ax.xaxis)[0] == "first component (62 % of the variance)"
    assert text_of(ax.yaxis)[0] == "second component (27 % of the variance)"


def test_silhouettes_by_the_number_of_clusters_and_the_one_that_is_used():
    rows = [Silhouette(k, value) for k, value in ((2, 0.41), (3, 0.52), (4, 0.33))]
    (ax,) = seen(exploration.silhouette_figure(rows)).axes
    every, used = ax.lines
    np.testing.assert_array_equal(every.get_data(), ([2, 3, 4], [0.41, 0.52, 0.33]))
    assert np.ravel(used.get_data()).tolist() == [4, 0.33] and used.get_markerfacecolor() != "none"
    assert (text_of(ax.xaxis)[0], text_of(ax.yaxis)[0]) == ("clusters", "mean silhouette")


SCHEMES = ("rai", "mao", "jaxlv")


def scheme_rows(kind: Any, *keys: str) -> list[Any]:
    """A row for each scheme, its columns ascending."""
    numbers = [sorted(unlike(20 + n, len(keys))) for n in range(len(SCHEMES))]
    return [kind(scheme=name, **dict(zip(keys, own, strict=True))) for name, own in zip(SCHEMES, numbers, strict=True)]


def at(ax: Any, place: float) -> list[Any]:
    return [line for line in ax.lines if set(np.atleast_1d(line.get_ydata())) == {place}]


def test_tokens_of_each_scheme():
    rows = scheme_rows(Tokens, "least", "median", "most")
    (ax,) = seen(exploration.token_figure(rows)).axes
    assert from_top(ax) == list(SCHEMES)
    for place, name in ticks(ax.yaxis).items():
        row = next(row for row in rows if row.scheme == name)
        span, dot = at(ax, place)
        assert list(span.get_xdata()) == [row.least, row.most]
        assert np.ravel(dot.get_xdata()).tolist() == [row.median]


def test_rounding_errors_of_each_scheme():
    rows = scheme_rows(RoundTrip, "least", "median", "mae", "most", "largest")
    figure = seen(exploration.round_trip_figure(rows))
    (ax,) = figure.axes
    marks = {handle.get_marker(): name for name, handle in legend(figure).items()}
    assert marks == {"o": "mean, and its range over series", "D": "largest single error"}
    for place, name in ticks(ax.yaxis).items():
        row = next(row for row in rows if row.scheme == name)
        found = {line.get_marker(): np.ravel(line.get_xdata()).tolist() for line in at(ax, place)}
        assert found == {"None": [row.least, row.most], "o": [row.mae], "D": [row.largest]}


def test_padding_and_what_is_left_out_by_part_scheme_and_length():
    numbers = iter(unlike(30, 24))
    rows = [
        Windows(scheme, part, length, 1, padding=next(numbers), left_out=next(numbers))
        for scheme in SCHEMES
        for part in ("training", "validation")
        for length in (64, 300)
    ]
    figure = seen(exploration.window_figure(rows))
    lengths = list(legend(figure).items())
    assert [name for name, _ in lengths] == ["64 tokens", "300 tokens"]
    top, bottom = figure.axes[:2], figure.axes[2:]
    assert [ax.get_title(loc="left") for ax in top] == ["training", "validation"]
    assert [text_of(line[0].yaxis)[0].split("\n")[0] for line in (top, bottom)] == ["padding", "tokens left out"]
    for line, key in ((top, "padding"), (bottom, "left_out")):
        for ax, part in zip(line, ("training", "validation"), strict=True):
            for group, (name, handle) in zip(ax.containers, lengths, strict=True):
                assert colour(group.patches[0]) == colour(handle)
                for bar, scheme in zip(group.patches, SCHEMES, strict=True):
                    wanted = (scheme, part, int(name.split()[0]))
                    (row,) = (row for row in rows if (row.scheme, row.part, row.length) == wanted)
                    assert bar.get_height() == pytest.approx(100 * getattr(row, key))
    assert list(ticks(bottom[0].xaxis).values()) == list(SCHEMES) and bars(bottom[0])


def test_a_share_that_is_not_defined_has_no_bar_and_no_words():
    rows = [Windows("rai", "training", 64, 32, padding=0.25, left_out=0.0), Windows("jaxlv", "training", 64, 32)]
    words = re.findall("<title>(.*?)</title>", to_svg(exploration.window_figure(rows), "x"))
    assert words == ["64 tokens, rai: 25 % of positions", "64 tokens, rai: 0 % of all"]


# -------------------------------------------------------------------------------------------------------- all together


def exploration_of(data: SeriesSet, found: Cycles, main: Clusters | None, shown: list[int]) -> Exploration:
    """Series with the tables that their charts need."""
    tables = Tables(
        values=value_rows(data),
        mean=[
            replace(row, variable=name)
            for old, name in zip(NAMES, data.variables, strict=False)
            for row in mean_rows()
            if row.variable == old
        ],
        states=state_rows(data),
        cycles=cycle_rows(found, data.variables, 0.5),
        centres=[Centre(k + 1, share=share) for k, share in enumerate(main.share_K)] if main else [],
        silhouettes=[Silhouette(2, 0.5)] if main else [],
        tokens=[Tokens("mao", series=0)],
    )
    return Exploration(
        data="x.h5", data_sha256="", course=False, series=len(data), steps=T, step=0.5, variables=data.variables, window=5,
        windowed=9, examples=[Example(i, f"rule {n}") for n, i in enumerate(data.ids_N) if i in shown], choice="",
        tokenizer="", definitions={}, regimes=None, tables=tables, versions={},
        drawn=measured.drawn(data, data.select(shown), found, main),
    )  # fmt: skip


@pytest.fixture(scope="module")
def explored(values) -> dict[str, tuple[Figure, str]]:
    data = from_arrays(values, TIME, NAMES, ids=np.arange(N) + 20)
    found = Cycles(np.full((N, 2), 2), np.array(unlike(40, N, 2, low=5, high=9)), np.array(unlike(41, N, low=1, high=2)))
    main = Clusters(("period", "ratio"), np.array(unlike(42, N, 2)), np.repeat([0, 1], [8, 4]))
    made = exploration.drawings(exploration_of(data, found, main, [22, 25]))
    return {name: (seen(chart), label) for name, (chart, label) in made.items()}


def test_every_figure_is_of_the_series_and_rows_that_it_is_named_after(explored, values):
    assert {"series_22", "phase_22", "series_25", "phase_25", "cluster_1", "cluster_2", "lags", "states"} <= set(explored)
    figure, label = explored["series_25"]
    assert label == "series 25: rule 5, over time" and "series 25: rule 5" in legend(figure)
    np.testing.assert_array_equal(drawn(figure.axes[0])[0].y, values[5, :, 0])
    figure, label = explored["phase_22"]
    assert label == "series 22: rule 2, lynx against hare"
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_data(), values[2].T)
    first, last = explored["states"][0].axes
    np.testing.assert_array_equal(first.lines[0].get_data(), values[:, 0].T)
    np.testing.assert_array_equal(last.lines[0].get_data(), values[:, -1].T)
    steps, share = explored["lags"][0].axes
    assert 1 <= drawn(steps)[0].x[0] <= 2 and 10 < drawn(share)[0].x[0] < 40  # in steps, and in % of a period of 5 to 9
    marks = np.percentile(values, (95, 99, 99.7))
    expected = "\n".join(f"{name} %: {mark:.3g}" for name, mark in zip(("95", "99", "99.7"), marks, strict=True))
    assert texts(explored["values"][0].axes[0]) == [expected]


def test_a_clusters_band_is_of_its_own_series_around_its_typical_one(explored, values):
    figure, label = explored["cluster_2"]
    (ax,) = figure.axes
    low, high = np.percentile(values[8:, :, 0], [10, 90], axis=0)
    band = next(band for band in bands(ax) if band.colour == species(0))
    np.testing.assert_allclose([band.low, band.high], [low, high])
    typical = int(label.split("series ")[1].split(" ")[0]) - 20
    assert "cluster 2: 33.3 %" in label and typical >= 8
    np.testing.assert_array_equal(next(one.y for one in drawn(ax) if one.colour == species(1)), values[typical, :, 1])


def test_figures_without_their_data_are_absent(values):
    alone = from_arrays(values[..., :1], TIME, ["fox"])
    none = Cycles(np.zeros((N, 1), int), np.full((N, 1), np.nan), np.full(N, np.nan))
    found = exploration.drawings(exploration_of(alone, none, None, [0]))
    assert set(found) == {"series_0", "values", "mean"}
