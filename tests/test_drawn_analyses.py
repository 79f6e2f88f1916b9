"""Figures of the analyses of a run, read back from records whose numbers all differ."""

from __future__ import annotations

import numpy as np
import pytest
import records
from drawn import (
    bands,
    bars,
    colour,
    coloured,
    drawn,
    from_top,
    legend,
    lines,
    named,
    seen,
    stairs,
    strokes,
    text_of,
    texts,
    ticks,
)

from jaxlv.report.figures import analyses as figures
from jaxlv.report.format import plain
from jaxlv.report.theme import INK, MUTED, species
from jaxlv.results.analyses import Analyses

MODELS = list(records.MODELS)
FOUND = records.read(Analyses, records.everything())

# ------------------------------------------------------------------------------------------------------ text and back


def test_the_coarsest_scale_is_drawn_step_by_step_with_its_own_bound():
    trip = records.round_trip()
    variant = trip["variants"][1]  # 60 % of head-room
    figure = seen(figures.round_trip_figure(FOUND.round_trip))
    for v, ax in enumerate(figure.axes):
        assert text_of(ax.yaxis) == (records.VARIABLES[v], species(v))
        ((hue, parts),) = strokes(ax).items()
        assert hue == species(v)
        np.testing.assert_allclose(parts, [[(step, 0), (step, row[v])] for step, row in enumerate(variant["difference"], 1)])
        (bound,) = (one.y for one in drawn(ax) if one.name == "half a unit of the last decimal")
        assert set(bound) == {variant["half_unit"][v]}
    assert list(legend(figure)) == ["half a unit of the last decimal", "difference (raw units)"]


# ---------------------------------------------------------------------------------------------------- errors by step


def test_medians_of_models_and_of_the_best_fair_baseline_are_named():
    growth = records.growth()
    (ax,) = seen(figures.growth_figure(FOUND.growth, MODELS)).axes
    found = lines(ax)
    assert set(found) == {"tuned", "untuned", "analog"}  # the oracle errs less, and knows the equations
    for name, (x, y) in found.items():
        np.testing.assert_array_equal(x, growth["step"])
        np.testing.assert_allclose(y, growth["methods"][name]["median"])
    hues = {one.colour: one.name for one in drawn(ax)}
    areas = {hues[band.colour]: band for band in bands(ax)}
    assert set(areas) == {"tuned", "analog"}
    for name, band in areas.items():
        method = growth["methods"][name]
        np.testing.assert_allclose([band.x, band.low, band.high], [growth["step"], method["p10"], method["p90"]])
    assert (text_of(ax.xaxis)[0], text_of(ax.yaxis)[0]) == ("step ahead", "absolute error (raw units)")


def test_the_share_of_errors_below_each_size():
    errors = records.errors()
    (ax,) = seen(figures.cumulative_figure(FOUND.errors)).axes
    found = lines(ax)
    assert list(found) == list(errors["methods"])
    for name, (x, y) in found.items():
        np.testing.assert_allclose(x, errors["methods"][name]["absolute_quantiles"])
        np.testing.assert_allclose(y, [0, 50, 75, 90, 100])
    assert text_of(ax.yaxis)[0] == "errors below (%)" and ax.get_xscale() == "log"


def test_histograms_of_signed_errors_stand_in_the_panel_of_their_variable():
    errors = records.errors()
    figure = seen(figures.histogram_figure(FOUND.errors))
    hues = {name: colour(handle) for name, handle in legend(figure).items()}
    assert list(hues) == MODELS
    for variable, ax in zip(records.VARIABLES, figure.axes, strict=True):
        assert text_of(ax.yaxis)[0] == f"{variable} (%)"
        found = {hue: (heights, edges) for hue, heights, edges in stairs(ax)}
        for name in MODELS:
            heights, edges = found[hues[name]]
            np.testing.assert_allclose(heights, 100 * np.array(errors["histograms"][name][variable]))
            np.testing.assert_allclose(edges, errors["edges"])
    assert text_of(figure.axes[-1].xaxis)[0] == "forecast − truth (raw units)"


# -------------------------------------------------------------------------------------------------- series by series


def test_bars_of_series_end_at_their_log_errors():
    errors = records.series_errors()
    figure = seen(figures.sorted_figure(FOUND.series, MODELS))
    assert list(legend(figure)) == list(records.VARIABLES)
    for name, ax in zip(MODELS, figure.axes, strict=True):
        method, found = errors["methods"][name], bars(ax)
        assert text_of(ax.yaxis)[0] == f"log10 MSE, {name}"
        assert [int(text) for text in ticks(ax.xaxis).values()] == method["series"]
        for v, variable in enumerate(records.VARIABLES):
            places, bottoms, tops = np.array(found[variable]).T
            assert np.round(places).tolist() == [0, 1, 2, 3] and len(set(bottoms)) == 1
            np.testing.assert_allclose(tops, method["log10_mse"][variable])
            assert colour(ax.containers[v].patches[0]) == colour(legend(figure)[variable]) == species(v)


def test_pairs_of_errors_have_the_first_variable_across():
    errors = records.series_errors()
    (ax,) = seen(figures.pair_figure(FOUND.series, MODELS)).axes
    found = lines(ax)
    assert list(legend(ax.figure)) == [*MODELS, "equal errors"]
    for name in MODELS:
        mse = errors["methods"][name]["mse"]
        np.testing.assert_allclose(found[name], (mse["hare"], mse["lynx"]))
    np.testing.assert_array_equal(*found["equal errors"])
    assert text_of(ax.xaxis)[0] == "MSE of hare (raw units²)" and text_of(ax.yaxis)[0] == "MSE of lynx (raw units²)"


def test_forecast_peaks_stand_over_true_ones_by_head_room():
    found = records.ceiling()["tuned"]
    (ax,) = seen(figures.ceiling_figure(FOUND.ceiling["tuned"])).axes
    points = named(ax)
    for headroom in (0.2, 0.6):
        own = [point for point in found["points"] if point["headroom"] == headroom]
        expected = [[point[key] for point in own] for key in ("true_over_top", "forecast_over_true")]
        np.testing.assert_allclose(points[f"{100 * headroom:g} % head-room"][0], expected)
    ((x, y),) = points["peak at the top"]
    np.testing.assert_allclose(x * y, 1)
    assert text_of(ax.xaxis)[0] == "true peak / top of the written scale"
    assert text_of(ax.yaxis)[0] == "forecast peak / true peak"


# ----------------------------------------------------------------------------------------------- training and tokens


def test_gradient_norms_before_and_after_clipping():
    above, below = seen(figures.norm_figure(FOUND.training)).axes
    found = lines(above)
    np.testing.assert_array_equal(found["before clipping"], ([1, 2, 5], [4.0, 0.9, 1.6]))
    np.testing.assert_array_equal(found["after clipping"], ([1, 2, 5], [1.0, 0.9, 1.0]))
    assert set(found["clip norm"][1]) == {1.25}
    ((_, ratio),) = [(one.x, one.y) for one in drawn(below)]
    np.testing.assert_allclose(ratio, [0.25, 1, 0.625])
    assert [text_of(ax.yaxis)[0] for ax in (above, below)] == ["gradient norm", "ratio"]


def test_costs_of_each_kind_of_token_by_model():
    tokens = records.tokens()
    (ax,) = seen(figures.kind_figure(FOUND.tokens)).axes
    kinds, found = ticks(ax.yaxis), bars(ax)
    assert list(kinds.values()) == list(tokens["tuned"]["by_kind"]) and list(found) == MODELS
    for name in MODELS:
        for (place, start, end), kind in zip(found[name], kinds.values(), strict=True):
            nats = tokens[name]["by_kind"][kind]["symbols"]["nats"]
            assert (start, end) == (0, pytest.approx(nats)) and kinds[float(round(place))] == kind
            assert plain(float(f"{nats:.2g}")) in texts(ax)
    assert from_top(ax) == list(kinds.values())


def test_costs_by_time_step():
    tokens = records.tokens()
    (ax,) = seen(figures.token_step_figure(FOUND.tokens)).axes
    found = lines(ax)
    steps = [1, 2, 3, 4, 5, 6]
    for name in MODELS:
        np.testing.assert_allclose(found[name], (steps, tokens[name]["by_step"]["median"]))
    (band,) = bands(ax)
    first = tokens["tuned"]["by_step"]
    np.testing.assert_allclose([band.x, band.low, band.high], [steps, first["p10"], first["p90"]])
    assert band.colour == next(one.colour for one in drawn(ax) if one.name == "tuned")
    assert any(set(one.x) == {4.5} for one in drawn(ax)) and texts(ax) == ["scale fitted up to here"]  # a context of 4


# ----------------------------------------------------------------------------------------------------------- the head


def test_the_largest_entries_of_the_head_and_which_are_symbols():
    figure = seen(figures.largest_figure(FOUND.head))
    (ax,) = figure.axes
    labels = ticks(ax.yaxis)
    found = {name: [(labels[place], end) for place, _, end in own] for name, own in bars(ax).items()}
    assert found == {
        "one of the 13 symbols": [("'3'", 0.07), ("point '.'", 0.03)], "another token": [("' fox'", 0.05), ("id 90", 0.02)],
    }  # fmt: skip
    assert list(labels.values()) == ["'3'", "' fox'", "point '.'", "id 90"]  # the largest on top
    assert from_top(ax) == list(labels.values())


def test_entries_of_the_head_by_size():
    head = records.head()
    (ax,) = seen(figures.head_histogram_figure(FOUND.head)).axes
    ((_, heights, edges),) = stairs(ax)
    assert heights.tolist() == [300, 95, 5] and edges.tolist() == head["histogram"]["edges"]
    found = named(ax)
    assert [set(x) for x, _ in found["median"]] == [{-0.011}]
    assert sorted(x[0] for x, _ in found["the 13 symbols"]) == [-0.04, 0.03, 0.07]


# ------------------------------------------------------------------------------------------------------- the adapters


@pytest.mark.parametrize(("key", "scale"), [("effective_rank", 1.0), ("relative_norm", 0.01)])
def test_each_cell_of_a_heatmap_is_its_layers_and_projections_number(key, scale):
    spectra = records.spectra()
    (ax,) = seen(figures.heatmap_figure(FOUND.spectra, key, scale)).axes
    columns, rows = ticks(ax.xaxis), ticks(ax.yaxis)
    found = {(rows[t.get_position()[1]], columns[t.get_position()[0]]): t.get_text() for t in ax.texts}
    shade = {(rows[round(p.get_y() + 0.4)], columns[round(p.get_x() + 0.4)]): p.get_alpha() for p in ax.patches}
    assert from_top(ax) == ["0", "3", "7"] and len(found) == 6
    entries = {(str(e["layer"]), e["projection"].removesuffix("_proj")): e[key] for e in spectra["projections"]}
    for place, value in entries.items():
        assert float(found[place]) == pytest.approx(value / scale, rel=0.1)
    assert sorted(entries, key=entries.get) == sorted(shade, key=shade.get)  # the darker the larger


def test_singular_values_by_the_first_and_their_median_over_layers():
    spectra = records.spectra()
    (ax,) = seen(figures.spectrum_figure(FOUND.spectra)).axes
    found = lines(ax)
    assert list(found) == ["q", "v"]
    for name, (x, y) in found.items():
        own = [e["singular_values"] for e in spectra["projections"] if e["projection"] == f"{name}_proj" and e["norm"]]
        shares = np.array([np.array(values) / values[0] for values in own])
        assert len(shares) == {"q": 3, "v": 2}[name]
        np.testing.assert_allclose((x, y), ([1, 2, 3], np.median(shares, axis=0)))
        hue = next(one.colour for one in drawn(ax) if one.name == name)
        np.testing.assert_allclose(sorted(y[-1] for _, y in coloured(ax, hue)[:-1]), sorted(shares[:, -1]))
    assert text_of(ax.yaxis)[0] == "singular value / the first" and {INK, MUTED}.isdisjoint(one.colour for one in drawn(ax))
