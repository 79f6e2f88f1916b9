"""Figures of forecasts, errors and training, read back: numbers stand where their names say, bands are those measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from drawn import bands, colour, drawn, from_top, legend, lines, named, seen, text_of, texts, ticks

from jaxlv.data.series import from_arrays
from jaxlv.forecasting import metrics
from jaxlv.forecasting.forecast import QUANTILES, Forecast, read_csv
from jaxlv.forecasting.panels import panel_of, panels
from jaxlv.report.figures import evaluation as figures
from jaxlv.report.theme import INK, MUTED, species
from jaxlv.results.panels import ForecastPanel
from jaxlv.results.scores import Score
from jaxlv.results.stress import ConditionScores, StressScore

C, H, S = 5, 4, 20
NAMES = ("hare", "lynx")


@pytest.fixture(scope="module")
def data():
    """Three series of two variables, 5 steps of context and 4 that follow; no two values are alike, hares below lynxes."""
    random = np.random.default_rng(1)
    values_NTV = random.uniform(1, 2, (3, C + H + 2, 2)) * np.array([1.0, 10.0])
    return from_arrays(values_NTV, 3.0 + 0.7 * np.arange(C + H + 2), NAMES, ids=[7, 4, 9])


@pytest.fixture(scope="module")
def forecast(data) -> Forecast:
    """Samples skewed to one side, so that their mean is not their median; two of series 4 break off, one at once."""
    chosen = data.select([9, 4])
    skewed_NSHV = np.random.default_rng(2).lognormal(0.1, 0.6, (2, S, H, 2)) * np.array([1.0, 10.0])
    skewed_NSHV[1, 3, 1:], skewed_NSHV[1, 8] = np.nan, np.nan
    return Forecast.of(chosen, C, skewed_NSHV, {})


@pytest.fixture(scope="module", params=[0, 1], ids=["whole", "broken"])
def panel(request, forecast, data) -> ForecastPanel:
    return panels(forecast, data)[request.param]


# ------------------------------------------------------------------------------------------------------- forecasts


def test_a_panel_is_the_series_that_its_forecast_is_of(forecast, data):
    one, other = panels(forecast, data)
    assert (one.series_id, other.series_id, one.variables) == (9, 4, NAMES)
    for panel, row in ((one, 2), (other, 1)):
        np.testing.assert_array_equal(panel.observed_TV, data.values_NTV[row, : C + H])
        np.testing.assert_array_equal(panel.truth_HV, data.values_NTV[row, C : C + H])
        np.testing.assert_allclose(panel.time_T, data.time_T[: C + H], rtol=1e-14)
    np.testing.assert_array_equal(one.samples_SHV, forecast.samples_NSHV[0])
    beyond = replace(forecast, time_H=data.time_T[C] + 0.7 * np.arange(7), samples_NSHV=np.ones((2, S, 7, 2)))
    assert panels(beyond, data)[0].truth_HV is None  # the file ends before the forecast does


def lines_by_width(ax, hue: str) -> dict[float, tuple[np.ndarray, np.ndarray]]:
    return {one.width: (one.x, one.y) for one in drawn(ax) if one.colour == hue and len(one.x) > 2}


def test_context_truth_and_median_of_each_variable_stand_in_its_panel(panel, forecast):
    figure = seen(figures.forecast_figure(panel))
    assert list(legend(figure)) == ["context", "truth", "median", "50 %", "80 %", "95 %"]
    known, width = legend(figure), lambda name: legend(figure)[name].get_linewidth()
    assert [colour(known[name]) for name in ("context", "truth", "median")] == [INK, INK, species(0)]
    for v, ax in enumerate(figure.axes):
        assert text_of(ax.yaxis) == (NAMES[v], species(v))
        ink = lines_by_width(ax, INK)
        np.testing.assert_array_equal(ink[width("context")], (panel.time_T[:C], panel.context_CV[:, v]))
        np.testing.assert_array_equal(ink[width("truth")], (panel.time_T, panel.observed_TV[:, v]))
        (dots,) = (line for line in ax.lines if line.get_marker() == ".")
        np.testing.assert_array_equal(dots.get_data(), (panel.time_T[C:], panel.truth_HV[:, v]))
        ((time, median),) = lines_by_width(ax, species(v)).values()
        np.testing.assert_array_equal(time, panel.time_T[C:])
        np.testing.assert_allclose(median, forecast.median()[[9, 4].index(panel.series_id), :, v])
        (border,) = (one.x for one in drawn(ax) if len(one.x) == 2 and one.x[0] == one.x[1])
        assert panel.time_T[C - 1] < border[0] < panel.time_T[C]
        assert ax.get_xlim() == (panel.time_T[0], panel.time_T[-1])
    assert [text_of(ax.xaxis)[0] for ax in figure.axes] == ["", "time"]


def test_the_bands_drawn_are_those_that_coverage_and_width_are_measured_of(forecast, data):
    """Of all samples, those that broke off among them, as they are scored."""
    filled, truth_NHV = forecast.filled(), data.select([9, 4]).values_NTV[:, C : C + H]
    for share in (0.5, 0.8, 0.95):
        inside, width = np.zeros((2, H, 2)), np.zeros((2, H, 2))
        for n, panel in enumerate(panels(forecast, data)):
            for v, ax in enumerate(seen(figures.forecast_figure(panel)).axes):
                band = bands(ax)[[0.95, 0.8, 0.5].index(share)]
                assert band.colour == species(v)
                np.testing.assert_array_equal(band.x, panel.time_T[C:])
                inside[n, :, v] = (band.low <= panel.truth_HV[:, v]) & (panel.truth_HV[:, v] <= band.high)
                width[n, :, v] = band.high - band.low
        np.testing.assert_allclose(inside.mean(axis=1), metrics.coverage(filled, truth_NHV, share))
        np.testing.assert_allclose(width.mean(axis=1), metrics.sharpness(filled, share))


def test_the_bands_and_the_median_drawn_are_the_quantiles_of_the_csv(forecast, data, tmp_path):
    """Bands of 50 and 80 % end at q25 and q75, q10 and q90; drawn from what the file gives back, too."""
    forecast.write_csv(tmp_path / "forecast.csv")
    frame = forecast.to_frame()
    assert QUANTILES == (0.05, 0.10, 0.25, 0.75, 0.90, 0.95)
    for source in (forecast, read_csv(tmp_path / "forecast.csv", data)):
        for panel in panels(source, data):
            for v, name in enumerate(NAMES):
                rows = frame[(frame.series == panel.series_id) & (frame.variable == name)].groupby("statistic").value
                of = {statistic: values.to_numpy() for statistic, values in rows}
                np.testing.assert_allclose(panel.median_HV[:, v], of["median"], rtol=1e-5)
                for share, low, high in ((0.5, "q25", "q75"), (0.8, "q10", "q90")):
                    ends_HV = panel.band(share)
                    np.testing.assert_allclose([end_HV[:, v] for end_HV in ends_HV], [of[low], of[high]], rtol=1e-5)


def test_samples_of_a_cut_step_stay_where_their_forecast_has_them(forecast, data):
    """A forecast whose text showed a part of one step more begins behind that step, which a sample did not complete."""
    cut = replace(forecast, start=C + 1, time_H=data.time_T[C + 1 : C + 1 + H])
    for n, panel in enumerate(panels(cut, data)):
        np.testing.assert_allclose(panel.median_HV, cut.median()[n])


def test_the_80_percent_band_holds_80_percent_of_new_draws_from_ten_samples():
    """By the quantiles of the empirical distribution it would hold 66 %."""
    random, held = np.random.default_rng(0), []
    samples_SHV, new_HV = random.normal(size=(10, 20_000, 1)), random.normal(size=(20_000, 1))
    panel = panel_of(0, ("fox",), np.arange(20_001.0), np.zeros((1, 1)), None, samples_SHV)
    low_HV, high_HV = panel.band(0.8)
    held = ((low_HV <= new_HV) & (new_HV <= high_HV)).mean()
    assert held == pytest.approx(0.8, abs=0.015)


def test_the_shade_of_a_band_in_the_legend_is_that_in_the_panel(panel):
    """Bands lie on one another: within the 50 % band all three add up, between the 80 and the 95 % one alone shows."""
    figure = seen(figures.forecast_figure(panel))
    patches, drawn_bands = legend(figure), bands(figure.axes[0])
    widths = [float((band.high - band.low).sum()) for band in drawn_bands]
    assert widths == sorted(widths, reverse=True)
    for name, layers in (("95 %", 1), ("80 %", 2), ("50 %", 3)):
        assert patches[name].get_alpha() == pytest.approx(1 - np.prod([1 - band.alpha for band in drawn_bands[:layers]]))


def test_a_level_is_drawn_at_its_height_and_named(panel):
    figure = seen(figures.forecast_figure(replace(panel, top=("the scale's top", 1.75))))
    assert list(legend(figure))[-1] == "the scale's top"
    for ax in figure.axes:
        assert any(set(one.y) == {1.75} and one.colour == MUTED for one in drawn(ax))


def test_the_phase_plane_has_the_first_variable_across_and_the_second_up(forecast, data):
    for panel in panels(forecast, data):
        (ax,) = seen(figures.phase_figure(panel, samples=2)).axes
        assert (text_of(ax.xaxis), text_of(ax.yaxis)) == (("hare", species(0)), ("lynx", species(1)))
        found = named(ax)
        assert {name: len(own) for name, own in found.items()} == {
            "samples": 2, "context": 1, "truth": 1, "median": 1, "start": 1,
        }  # fmt: skip
        np.testing.assert_array_equal(found["samples"], panel.samples_SHV[:2].swapaxes(1, 2))
        np.testing.assert_array_equal(found["context"][0], panel.context_CV.T)
        np.testing.assert_array_equal(found["truth"][0], panel.truth_HV.T)
        np.testing.assert_allclose(found["median"][0], panel.median_HV.T)
        np.testing.assert_array_equal(np.ravel(found["start"]), panel.context_CV[-1])


# ---------------------------------------------------------------------------------------------------------- errors


def rows() -> list[Score]:
    """Methods whose figures all differ, not in order of their errors."""
    found = [
        {"name": "tuned", "mae": 0.2, "mae_median": 0.13, "mae_ci95": [0.17, 0.26], "mae_by_step": [0.05, 0.11, 0.3]},
        {"name": "other model", "mae": 0.5, "mae_median": 0.41, "mae_ci95": [0.45, 0.59], "mae_by_step": [0.4, 0.5, 0.55]},
        {"name": "last value", "mae": 0.3, "mae_median": 0.23, "mae_ci95": [0.27, 0.37], "mae_by_step": [0.09, 0.6, 0.21]},
    ]
    return [Score(**row) for row in found]


def test_errors_by_step_are_named_at_their_ends():
    (ax,) = seen(figures.step_error_figure(rows(), unit="hares")).axes
    found = lines(ax)
    assert set(found) == {row.name for row in rows()}
    for row in rows():
        np.testing.assert_array_equal(found[row.name], ([1, 2, 3], row.mae_by_step))
    assert (text_of(ax.xaxis)[0], text_of(ax.yaxis)[0]) == ("step ahead", "MAE (hares)")
    heights = {text.get_text(): text.xy[1] for text in ax.texts}
    assert sorted(heights, key=heights.get) == ["last value", "tuned", "other model"]  # as the lines end
    assert ax.get_yscale() == "log" and ax.get_xlim() == (1, 3)


def test_intervals_means_and_medians_stand_beside_their_methods():
    figure = seen(figures.interval_figure(rows(), unit="hares"))
    (ax,) = figure.axes
    names = ticks(ax.yaxis)
    assert from_top(ax) == ["tuned", "last value", "other model"]  # the best on top
    entries = {name: handle.get_marker() for name, handle in legend(figure).items()}
    marks = {mark: name for name, mark in entries.items()}
    assert list(entries) == ["mean and 95 % interval", "median over series"]
    for place, name in names.items():
        (row,) = (row for row in rows() if row.name == name)
        at = [line for line in ax.lines if set(np.atleast_1d(line.get_ydata())) == {place}]
        (mean,) = (line for line in at if marks.get(line.get_marker()) == "mean and 95 % interval")
        (median,) = (line for line in at if marks.get(line.get_marker()) == "median over series")
        (interval,) = (line for line in at if len(np.atleast_1d(line.get_xdata())) == 2)
        assert (mean.get_xdata()[0], median.get_xdata()[0]) == (row.mae, row.mae_median)
        assert tuple(interval.get_xdata()) == row.mae_ci95
        assert len({colour(line) for line in at}) == 1
    assert text_of(ax.xaxis)[0] == "MAE (hares), logarithmic" and ax.get_xscale() == "log"


def calibrated() -> list[Score]:
    found = [
        {
            "name": "tuned", "calibration": {"20": 0.15, "50": 0.41, "80": 0.66},
            "calibration_ci95": {"20": [0.12, 0.19], "50": [0.36, 0.47], "80": [0.61, 0.74]}, "calibration_ceiling": 0.9,
            "calibration_as_intervals": {"20": 0.23, "50": 0.52, "80": 0.84},
            "coverage_conformal": {"50": 0.53, "80": 0.78, "95": None},
        },
        {
            "name": "untuned", "calibration": {"20": 0.07, "50": 0.32, "80": 0.57},
            "calibration_ci95": {"20": [0.05, 0.09], "50": [0.3, 0.33], "80": [0.5, 0.6]}, "calibration_ceiling": 0.9,
        },
    ]  # fmt: skip
    return [Score(**row) for row in found]


def test_coverage_is_drawn_over_its_level():
    figure = seen(figures.calibration_figure(calibrated()))
    (ax,) = figure.axes
    assert text_of(ax.xaxis)[0] == "nominal share of the band (%)" and text_of(ax.yaxis)[0] == "true values inside (%)"
    entries = {name: colour(handle) for name, handle in legend(figure).items()}
    assert list(entries) == ["calibrated", "untuned", "tuned", "as intervals", "adjusted"]
    found = lines(ax)
    np.testing.assert_array_equal(found["calibrated"], ([0, 100], [0, 100]))
    for row in calibrated():
        np.testing.assert_allclose(found[row.name], ([20, 50, 80], 100 * np.array(list(row.calibration.values()))))
        (band,) = (one for one in bands(ax) if one.colour == entries[row.name])
        ends = 100 * np.array(list(row.calibration_ci95.values()))
        np.testing.assert_allclose([band.x, band.low, band.high], [[20, 50, 80], *ends.T])
    of_tuned = {
        line.get_marker(): line.get_data()
        for line in ax.lines
        if colour(line) == entries["tuned"] and line.get_marker() != "."
    }
    np.testing.assert_allclose(of_tuned["None"], ([20, 50, 80], [23, 52, 84]))
    np.testing.assert_allclose(of_tuned["D"], ([50, 80], [53, 78]))
    assert any(set(one.y) == {90.0} for one in drawn(ax)) and texts(ax) == ["most that the samples can cover: 90 %"]


def test_errors_stand_at_the_level_of_their_condition():
    def condition(level: str, value: float, **errors: float) -> ConditionScores:
        found = tuple(StressScore(name=name, mae=error, mae_median=error / 2) for name, error in errors.items())
        return ConditionScores("g", level, value, 3, (1, 2), 9, found)

    entries = [
        condition("none", 0.0, tuned=0.2, analog=0.5),
        condition("5 %", 0.05, tuned=0.7, analog=0.3),
        condition("20 %", 0.2, analog=0.9),
    ]
    (ax,) = seen(figures.level_figure(entries, "share that is missing")).axes
    found = lines(ax)
    np.testing.assert_allclose(found["tuned"], ([0, 0.05, 0.2], [0.2, 0.7, np.nan]))
    np.testing.assert_allclose(found["analog"], ([0, 0.05, 0.2], [0.5, 0.3, 0.9]))
    assert ticks(ax.xaxis) == {0.0: "none", 0.05: "5 %", 0.2: "20 %"}
    assert (text_of(ax.xaxis)[0], text_of(ax.yaxis)[0]) == ("share that is missing", "MAE (raw units)")


# -------------------------------------------------------------------------------------------------------- training


def test_training_and_validation_losses_are_under_their_own_names():
    history = [
        {"step": 1, "loss": 2.5, "learning_rate": 1e-3},
        {"step": 2, "loss": 2.1, "learning_rate": 5e-4},
        {"step": 2, "validation_loss": 2.4, "forecast_mae": 0.9},
        {"step": 3, "loss": 1.6, "learning_rate": 2e-4},
        {"step": 4, "validation_loss": 1.9, "forecast_mae": 0.7},
    ]
    figure = seen(figures.loss_figure(history, unit="hares"))
    losses, errors, rates = figure.axes
    assert list(legend(figure)) == ["training", "validation"]
    found = lines(losses)
    np.testing.assert_array_equal(found["training"], ([1, 2, 3], [2.5, 2.1, 1.6]))
    np.testing.assert_array_equal(found["validation"], ([2, 4], [2.4, 1.9]))
    ((x, y),) = [(one.x, one.y) for one in drawn(errors)]
    np.testing.assert_array_equal((x, y), ([2, 4], [0.9, 0.7]))
    ((x, y),) = [(one.x, one.y) for one in drawn(rates)]
    np.testing.assert_array_equal((x, y), ([1, 2, 3], [1e-3, 5e-4, 2e-4]))
    assert [text_of(ax.yaxis)[0] for ax in figure.axes] == [
        "loss (nats per token)", "forecast MAE\n(hares)", "learning rate",
    ]  # fmt: skip
    assert text_of(rates.xaxis)[0] == "training step"
