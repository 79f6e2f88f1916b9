"""Figures: what is drawn, and SVG that is small, labelled, repeatable and safe to put into a page."""

from __future__ import annotations

import re
import warnings
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
from drawn import bands, legend, seen

from jaxlv.errors import JaxlvWarning
from jaxlv.forecasting.panels import panel_of
from jaxlv.report import charts
from jaxlv.report.figures import analyses as of_analyses
from jaxlv.report.figures import evaluation as figures
from jaxlv.report.figures import exploration as of_series
from jaxlv.report.figures import svg as svgs
from jaxlv.report.theme import PALETTE, css_variables
from jaxlv.results.analyses import MethodSeries, SeriesErrors
from jaxlv.results.anatomy import Projection, Spectra
from jaxlv.results.exploration import Histogram, Trace
from jaxlv.results.panels import ForecastPanel
from jaxlv.results.scores import Score

HOSTILE = '<script>alert("1")</script> $x_1$'
SVG = "{http://www.w3.org/2000/svg}"


def make_panel(series_id: int = 3, variables: tuple[str, ...] = ("prey", "predator"), samples: int = 20) -> ForecastPanel:
    """A noisy oscillation of 40 steps, half of it context; sample 1 is invalid and sample 2 incomplete."""
    generator = np.random.default_rng(series_id)
    time_T = np.linspace(0.0, 80.0, 40)
    phases_V = np.arange(len(variables)) * np.pi / 2
    values_TV = 2 + np.cos(0.25 * time_T[:, None] - phases_V) * np.exp(-0.01 * time_T[:, None])
    noise_SHV = generator.normal(scale=0.02, size=(samples, 20, len(variables))).cumsum(axis=1)
    samples_SHV = values_TV[20:] + noise_SHV
    if samples > 2:
        samples_SHV[1] = np.nan
        samples_SHV[2, 10:] = np.nan
    return panel_of(series_id, variables, time_T, values_TV[:20], values_TV[20:], samples_SHV)


def make_rows(
    names: tuple[str, ...] = ("tuned", "untuned", "last value", "context mean", "VAR(3) on logs"),
) -> list[Score]:
    rows = []
    for i, name in enumerate(names, start=1):
        mae = 0.03 * i
        by_step = tuple(mae * (0.2 + 0.05 * step) for step in range(20))
        rows.append(Score(name=name, mae=mae, mae_median=0.8 * mae, mae_ci95=(0.9 * mae, 1.2 * mae), mae_by_step=by_step))
    return rows


def sorted_errors(series: list[int], log10_mse: dict[str, tuple[float | None, ...]]) -> SeriesErrors:
    own = MethodSeries(tuple(series), log10_mse, log10_mse)
    return SeriesErrors(variables=tuple(log10_mse), methods={"tuned": own})


def again(panel: ForecastPanel) -> ForecastPanel:
    """The panel that is made of the samples as they are now."""
    return panel_of(panel.series_id, panel.variables, panel.time_T, panel.context_CV, panel.truth_HV, panel.samples_SHV)


def make_history() -> list[dict]:
    records: list[dict] = []
    for step in range(10, 201, 10):
        records.append({"step": step, "loss": 0.4 + 1 / step, "learning_rate": 1e-3 * (1 - step / 200)})
        if step % 50 == 0:
            records.append({"step": step, "validation_loss": 0.42 + 1 / step, "forecast_mae": 0.05 + 1 / step})
    return records


def make_calibrated() -> list[Score]:
    """Two rows with samples, one with adjusted bands, one without figures, and a baseline."""
    rows: list[dict] = [{"name": "last value", "calibration": None}, {"name": "empty", "calibration": {}}]
    for i, name in enumerate(("tuned", "untuned")):
        shares = {str(level): level / (110 + 60 * i) for level in range(10, 100, 10)}
        ends = {level: [0.8 * share, 1.1 * share] for level, share in shares.items()}
        rows.append({"name": name, "calibration": shares, "calibration_ci95": ends, "calibration_ceiling": 19 / 21})
    rows[2]["calibration_as_intervals"] = {str(level): level / 105 for level in range(10, 100, 10)}
    rows[2]["coverage_conformal"] = {"50": 0.52, "80": 0.78, "95": None}
    return [Score(**row) for row in rows]


FIGURES = {
    "calibration": lambda: figures.calibration_figure(make_calibrated()),
    "forecast": lambda: figures.forecast_figure(make_panel()),
    "phase": lambda: figures.phase_figure(make_panel()),
    "step error": lambda: figures.step_error_figure(make_rows()),
    "interval": lambda: figures.interval_figure(make_rows()),
    "loss": lambda: figures.loss_figure(make_history()),
}


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ET.fromstring(svg).iter(f"{SVG}text")]


LABEL = 'a "label" & more'


@pytest.fixture(scope="module", params=FIGURES)
def drawing(request) -> tuple[str, str]:
    """(name, SVG) of each figure, drawn once for all tests."""
    return request.param, svgs.to_svg(FIGURES[request.param](), LABEL)


def test_svg_is_sized_labelled_and_small(drawing):
    svg = drawing[1]
    root = ET.fromstring(svg)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert root.attrib["viewBox"].split() == ["0", "0", root.attrib["width"], root.attrib["height"]]
    assert 200 < width <= 480 and 100 < height <= 480
    assert root.attrib["role"] == "img" and root.attrib["aria-label"] == LABEL
    assert len(svg) < 40_000 and texts(svg)
    assert not re.search(r"\bnan\b|\binf\b", svg, re.IGNORECASE)


def test_svg_refers_to_nothing_outside_and_to_every_id_inside(drawing):
    svg = drawing[1]
    assert re.findall(r"https?://[^\"'<> ]+", svg) == ["http://www.w3.org/2000/svg"]
    identifiers = re.findall(r' id="([^"]+)"', svg)
    referred = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg))
    assert len(identifiers) == len(set(identifiers))
    assert {a or b for a, b in referred} == set(identifiers)


def test_same_input_gives_the_same_bytes(drawing):
    name, svg = drawing
    assert svgs.to_svg(FIGURES[name](), LABEL) == svg


def test_svg_has_each_point_where_the_figure_has_it():
    """To a tenth of a pixel, from the top left."""
    rows = [Score(name="tuned", mae_by_step=(0.1, 0.31, 0.23, 0.77, 0.5))]
    chart = figures.step_error_figure(rows)
    svg, figure = svgs.to_svg(chart, "x"), seen(chart)
    height = float(ET.fromstring(svg).attrib["height"])
    (line,) = figure.axes[0].lines
    x, y = figure.axes[0].transData.transform(np.transpose(line.get_data())).T
    paths = [node for node in ET.fromstring(svg).iter(f"{SVG}path") if "row-tuned" in node.get("style", "")]
    points = np.array(re.findall(r"[ML] ?(-?[\d.]+) (-?[\d.]+)", paths[0].attrib["d"]), float)
    np.testing.assert_allclose(points, np.transpose([x, height - y]), atol=0.06)


def test_ids_of_two_figures_on_a_page_differ():
    one, two = (svgs.to_svg(figures.forecast_figure(make_panel(i)), f"series {i}") for i in (3, 4))
    assert not set(re.findall(r' id="([^"]+)"', one)) & set(re.findall(r' id="([^"]+)"', two))


def test_every_colour_follows_the_page(drawing):
    svg = drawing[1]
    plain = re.sub(r"var\(--[\w-]+,#[0-9a-f]{6}\)", "", svg)
    assert not re.findall(r"#[0-9a-f]{6}\b(?![\w-])", plain)
    used = set(re.findall(r"var\(--([\w-]+),", svg))
    assert used and all(f"--{name}:" in css_variables(dark=True) for name in used)


def test_palette_is_legible_on_white_and_on_dark():
    def luminance(colour: str) -> float:
        channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for name, (light, dark) in PALETTE.items():
        if name == "rule":
            continue
        assert 1.05 / (luminance(light) + 0.05) >= 4.5, name
        assert (luminance(dark) + 0.05) / (luminance("#15181b") + 0.05) >= 4.5, name
    assert len({light for light, _ in PALETTE.values()}) == len(PALETTE)


def test_names_from_data_stay_text():
    panel = make_panel(variables=(HOSTILE, "b"))
    drawn = [
        svgs.to_svg(figures.forecast_figure(panel), HOSTILE),
        svgs.to_svg(figures.phase_figure(panel), HOSTILE),
        svgs.to_svg(figures.interval_figure(make_rows((HOSTILE, "$"))), HOSTILE),
        svgs.to_svg(figures.step_error_figure(make_rows((HOSTILE, "$")), unit=HOSTILE), HOSTILE),
    ]
    for svg in drawn:
        assert "<script" not in svg
        assert any(text.startswith("<script>alert") for text in texts(svg))


@pytest.mark.parametrize("name", ["$\\frac{", "a_b^c", "_x", "{}%s\\n", "<b>&</b>", "名前", "שם"])
def test_a_name_is_drawn_as_it_is(name):
    """Also where an underscore would hide it from a legend, and where the font of the layout lacks its characters."""
    names, trace = (name, "b"), Trace(0, {name: np.arange(1.0, 31), "b": np.arange(2.0, 32)})
    errors = sorted_errors([0, 1], {name: (0.1, 0.2), "b": (0.3, 0.4)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in (
            figures.forecast_figure(make_panel(variables=names)), figures.phase_figure(make_panel(variables=names)),
            of_series.trajectory_figure(np.arange(30), trace, "t"),
            of_series.values_figure(Histogram((1, 2, 3), {name: (40, 60), "b": (70, 30)}), {}),
            of_analyses.sorted_figure(errors, ["tuned"]),
        ):  # fmt: skip
            assert name in texts(svgs.to_svg(figure, name))


def test_what_xml_cannot_hold_is_replaced():
    assert "a\ufffdb" in texts(svgs.to_svg(figures.forecast_figure(make_panel(variables=("a\x0bb", "c"))), "x"))


# ------------------------------------------------------------------------------------------ under the pointer


def told(svg: str) -> dict[str, tuple[float, float]]:
    """{words: (x, y)} of the places that say a value under the pointer, by their centre."""
    places = {}
    for node in ET.fromstring(svg).iterfind(f"{SVG}g[@class='values']/*"):
        x, y, w, h = (float(node.get(name, 0)) for name in ("x", "y", "width", "height"))
        at = (x + w / 2, y + h / 2) if node.tag == f"{SVG}rect" else (float(node.attrib["cx"]), float(node.attrib["cy"]))
        places["".join(node.itertext())] = at
    return places


def test_a_point_says_its_series_place_value_and_unit_where_it_is_drawn():
    rows = [Score(name="tuned", mae_by_step=(0.1, 0.31, None)), Score(name="last value", mae_by_step=(0.5, 0.6, 0.62))]
    chart = figures.step_error_figure(rows, unit="hares")
    svg = svgs.to_svg(chart, "x")
    found, ax, height = told(svg), seen(chart).axes[0], float(ET.fromstring(svg).attrib["height"])
    expected = {
        "tuned, step ahead 1: 0.100 hares": (1, 0.1), "tuned, step ahead 2: 0.310 hares": (2, 0.31),
        "last value, step ahead 1: 0.500 hares": (1, 0.5), "last value, step ahead 3: 0.620 hares": (3, 0.62),
    }  # fmt: skip
    assert set(expected) <= set(found) and not [words for words in found if words.startswith("tuned, step ahead 3")]
    for words, place in expected.items():
        x, y = ax.transData.transform(place)
        np.testing.assert_allclose(found[words], (x, height - y), atol=0.06)


def test_bars_cells_bins_and_intervals_say_their_values():
    rows = [
        Score(name="tuned", mae=0.2, mae_median=0.15, mae_ci95=(0.17, 0.26)),
        Score(name="one series", mae=0.4, mae_median=0.4, mae_ci95=(0.4, 0.4)),
    ]
    errors = sorted_errors([8, 3], {"hare": (-2.5, -1.25), "lynx": (-3, None)})
    changes = [Projection(layer, "q_proj", 1, 1, 1, 1, norm, 1, norm, (norm,)) for layer, norm in ((2, 0.125), (5, 2))]
    spectra = Spectra(rank=1, projections=tuple(changes), sentence="")
    plane = {"dash": "none", "marker": "o"}
    near = charts.single("scatter", [charts.Series("a", [1.0], [2.0], notes=["series 4"], **plane)],
                         charts.Axis("hares", "t"), charts.Axis("lynxes"), 200)  # fmt: skip
    drawn = {
        "dots": (figures.interval_figure(rows),
                 {"mean, tuned: 0.200 raw units (0.170 – 0.260)", "median, tuned: 0.150 raw units",
                  "mean, one series: 0.400 raw units"}),
        "bars": (of_analyses.sorted_figure(errors, ["tuned"]),
                 {"hare, series 8: log10 MSE, tuned −2.50", "hare, series 3: log10 MSE, tuned −1.25",
                  "lynx, series 8: log10 MSE, tuned −3"}),
        "cells": (of_analyses.heatmap_figure(spectra, "norm"), {"layer 2, q: 0.12", "layer 5, q: 2.00"}),
        "bins": (of_series.lag_figure([Histogram((1, 1.5, 2), {"": (2, 1)}, 1.3), Histogram((10, 12), {"": (3,)}, 11)]),
                 {"lag 1.25: series per bin 2", "lag 1.75: series per bin 1"}),
        "points": (near, {"a, hares 1 t, lynxes 2 (series 4)"}),
    }  # fmt: skip
    for kind, (chart, expected) in drawn.items():
        assert expected <= set(told(svgs.to_svg(chart, "x"))), kind


def test_what_is_under_the_pointer_is_text_that_needs_no_script_and_a_third_of_the_figure_at_most(drawing):
    svg = drawing[1]
    begin = svg.index('<g class="values"')
    assert 0 < len(svg) - begin <= begin / 3 + 80 and not re.search(r"<script|\bon\w+=", svg)
    assert all(words.strip() and "nan" not in words for words in told(svg))


def test_long_lines_say_their_ends_and_every_so_many_points():
    history = [{"step": step, "loss": 1 + 1 / step} for step in range(1, 2001)]
    found = told(svgs.to_svg(figures.loss_figure(history), "x"))
    assert {"training, training step 1: 2 nats per token", "training, training step 2000: 1.00 nats per token"} <= set(found)
    assert 4 < len(found) < 100


def test_names_under_the_pointer_stay_text():
    svg = svgs.to_svg(figures.step_error_figure(make_rows((HOSTILE, "a\x0bb"))), "x")
    assert any(words.startswith(HOSTILE) for words in told(svg)) and any("a\ufffdb" in words for words in told(svg))


def test_bands_that_few_samples_make_equal_are_drawn_once():
    few, many = make_panel(samples=5), make_panel(samples=60)
    few.samples_SHV[1:3] = few.samples_SHV[3:4]
    few = again(few)
    assert np.array_equal(few.band(0.8), few.band(0.95)) and not np.array_equal(few.band(0.5), few.band(0.8))
    counts = []
    for panel, names in ((few, ["50 %", "80 and 95 %"]), (many, ["50 %", "80 %", "95 %"])):
        figure = seen(figures.forecast_figure(panel))
        assert [name for name in legend(figure) if name.endswith("%")] == names
        counts.append([len(bands(ax)) for ax in figure.axes])
    assert counts == [[2, 2], [3, 3]]


# ------------------------------------------------------------------------------------------ what is not there


def test_a_font_without_a_character_is_told_once(tmp_path):
    figure = figures.forecast_figure(make_panel(variables=("名前", "b")))
    svgs._warn_of_boxes.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in ("a", "b"):
            svgs.save_png(figure, tmp_path / f"{name}.png")
    assert [one.category for one in caught] == [JaxlvWarning] and "DejaVu Sans" in str(caught[0].message)


def test_calibration_shows_samples_alone_with_what_they_reach():
    figure = figures.calibration_figure(make_calibrated())
    words, figure = texts(svgs.to_svg(figure, "x")), seen(figure)
    assert {"tuned", "untuned", "calibrated", "as intervals", "adjusted"} <= set(words)
    assert not {"last value", "empty"} & set(words)
    assert "most that the samples can cover: 90.5 %" in words
    curves = [line for line in figure.axes[0].lines if line.get_marker() == "."]
    assert [line.get_ydata()[-1] for line in curves] == pytest.approx([90 / 170 * 100, 90 / 110 * 100])  # tuned on top
    bare = figures.calibration_figure([Score(name="tuned", calibration={"50": None, "90": 0.5})])
    assert not {"adjusted", "as intervals"} & set(texts(svgs.to_svg(bare, "x")))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("samples", [0, 1, 20])
def test_forecast_without_valid_samples_or_truth_is_drawn(samples):
    panel = make_panel(samples=samples)
    empty = panel_of(1, panel.variables, panel.time_T, panel.context_CV, None, np.full_like(panel.samples_SHV, np.nan))
    for draw in (figures.forecast_figure, figures.phase_figure):
        svg = svgs.to_svg(draw(empty), "x")
        assert "context" in texts(svg) and "truth" not in texts(svg)
        assert ("median" in texts(svg)) == (samples > 0)  # samples that all broke off are scored as the last value
        assert "truth" in texts(svgs.to_svg(draw(panel), "x"))


def test_a_wild_sample_does_not_flatten_the_rest():
    panel = make_panel()
    panel.samples_SHV[3:] *= 1e6
    panel = again(panel)
    assert panel.is_cut and not make_panel().is_cut
    for ax in seen(figures.forecast_figure(panel)).axes:
        assert ax.get_ylim()[1] < 20


def test_a_method_looks_the_same_whatever_stands_beside_it():
    alone, among = (
        figures.row_styles(["tuned", "new"]),
        figures.row_styles(["last value", "new", "tuned", "other"]),
    )
    assert alone["tuned"] == among["tuned"] and alone["new"] == among["new"]
    many = figures.row_styles([*make_history()[0], *(f"method {i}" for i in range(12))])
    assert len({(style.colour, style.dash) for style in many.values()}) == len(many)


@pytest.mark.filterwarnings("error")
def test_rows_without_figures_are_left_out():
    rows = [
        *make_rows(("tuned",)),
        Score(name="broken", mae=float("nan"), mae_by_step=(None, float("inf"))),
        Score(name="zero", mae=0.0),
    ]
    interval, steps = (texts(svgs.to_svg(f(rows), "x")) for f in (figures.interval_figure, figures.step_error_figure))
    assert "tuned" in interval and "tuned" in steps
    assert not {"broken", "zero"} & {*interval, *steps}


def test_names_at_line_ends_stand_apart():
    names = tuple(f"method {i}" for i in range(9))
    rows = [Score(name=name, mae_by_step=(1.0, 1.0 + 1e-3 * i)) for i, name in enumerate(names)]
    svg = svgs.to_svg(figures.step_error_figure(rows), "x")
    heights = [float(t.attrib["y"]) for t in ET.fromstring(svg).iter(f"{SVG}text") if (t.text or "").startswith("method")]
    assert len(heights) == 9 and np.diff(sorted(heights)).min() >= 11


def test_loss_figure_has_a_panel_for_what_was_logged():
    assert len(seen(figures.loss_figure(make_history())).axes) == 3
    constant = [{"step": step, "loss": 1 / step, "learning_rate": 1e-5} for step in (1, 2, 3)]
    assert len(seen(figures.loss_figure(constant)).axes) == 1


def test_matplotlib_settings_are_left_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    figure = figures.loss_figure(make_history())
    svgs.to_svg(figure, "x")
    svgs.save_png(figure, tmp_path / "loss.png", dpi=72)
    assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
