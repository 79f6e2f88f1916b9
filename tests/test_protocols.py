"""The four papers' protocols: their splits, units and measures, and that their printed figures are the papers' own."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jaxlv.config import EvaluateConfig
from jaxlv.data import series
from jaxlv.errors import JaxlvError
from jaxlv.forecasting.forecast import Forecast
from jaxlv.published import protocols, systems
from jaxlv.published.protocols import MAO_UNITS, PROTOCOLS, Measure, figure, score
from jaxlv.results.papers import Statistic
from jaxlv.studies import scoring

IDS = np.arange(1000)
PARTS = [(protocol, part) for protocol in PROTOCOLS.values() for part in protocol.parts]


@pytest.fixture(scope="module")
def data() -> series.SeriesSet:
    """1000 series of 100 steps in which nothing is alike."""
    values = np.random.default_rng(0).uniform(0.1, 3, (1000, 100, 2))
    return series.from_arrays(values, np.linspace(0, 200, 100))


@pytest.mark.parametrize(
    ("name", "counts"),
    [("xu", (700, 150, 150)), ("rai", (700, 200, 100)), ("mao", (800, 100, 100)), ("liu", (720, 180, 100))],
)
def test_a_split_has_the_reports_shares_and_no_series_twice(name, counts):
    parts = PROTOCOLS[name].split(IDS).parts()
    assert tuple(map(len, parts.values())) == counts
    np.testing.assert_array_equal(np.sort(np.concatenate(list(parts.values()))), IDS)


def test_the_test_shares_are_those_of_the_reports():
    order = np.random.RandomState(42).permutation(1000)
    np.testing.assert_array_equal(PROTOCOLS["mao"].split(IDS).test, order[900:])
    np.testing.assert_array_equal(PROTOCOLS["xu"].split(IDS).test, order[850:])
    np.testing.assert_array_equal(PROTOCOLS["rai"].split(IDS).test, IDS[900:])
    np.testing.assert_array_equal(PROTOCOLS["liu"].split(IDS).test, IDS[:100])


def test_every_share_is_that_of_the_report():
    """xu's and mao's series are shuffled by NumPy's generator of seed 42, rai's stand in order."""
    order = np.random.RandomState(42).permutation(1000)
    assert order[:5].tolist() == [521, 737, 740, 660, 411]
    for name, cuts, ids in (("xu", (700, 850), order), ("mao", (800, 900), order), ("rai", (700, 900), IDS)):
        split = PROTOCOLS[name].split(IDS)
        for found, expected in zip((split.train, split.validation, split.test), np.split(ids, cuts), strict=True):
            np.testing.assert_array_equal(found, expected)


PARTS_OF = {  # part: context, characters shown, horizon, samples, steps at a time, scale
    "mao-128": (12, 0, 20, 20, 0, ""), "mao-512": (51, 0, 20, 20, 0, ""), "mao-768": (76, 0, 20, 20, 0, ""),
    "mao-128-cut": (12, 8, 5, 20, 0, ""), "mao-512-cut": (51, 2, 5, 20, 0, ""), "mao-768-cut": (76, 8, 5, 20, 0, ""),
    "mao-200": (50, 0, 200, 8, 50, ""), "mao-200-preset": (50, 0, 200, 8, 50, "mao"), "rai": (50, 0, 50, 20, 0, ""),
    "rai-972": (50, 0, 50, 20, 0, ""), "xu": (50, 0, 50, 20, 0, ""), "liu": (80, 0, 20, 10, 0, ""),
}  # fmt: skip


def test_each_part_is_measured_as_its_report_measured():
    """mao's windows have 128, 512 and 768 tokens of ten a step; of their next steps five are scored."""
    found = {p.name: (p.context, p.shown, p.horizon, p.samples, p.reach, p.scale) for _, p in PARTS}
    assert found == PARTS_OF
    series_of = {part.name: part.series for _, part in PARTS if part.series}
    assert series_of == {"rai": tuple(range(990, 1000)), "rai-972": (972,)}
    assert {p.name: p.flops for p in PROTOCOLS.values()} == {
        "mao": 9.579e16,
        "rai": 9.866e16,
        "xu": 1.0303e17,
        "liu": 4.6e17,
    }
    scored = {part.name: {measure.steps for measure in part.measures} for _, part in PARTS}
    of_five = {name for name in PARTS_OF if name[:4] == "mao-"} - {"mao-200", "mao-200-preset"}
    assert scored == {name: {5 if name in of_five else 0} for name in PARTS_OF}
    for measure in (measure for _, part in PARTS for measure in part.measures):
        assert measure.key.startswith({"valid": "success"}.get(measure.kind, measure.kind)), measure


FIGURES = {  # of the papers' tables: part, model, measure
    ("mao-128", "untuned", "mae_raw"): 0.3427, ("mao-128", "first run", "mse_scaled"): 0.1356,
    ("mao-512", "first run", "mae_scaled"): 0.0834, ("mao-512-cut", "untuned", "mse_raw"): 0.1048,
    ("mao-768", "final", "mae_raw"): 0.0191, ("mao-768", "final", "mse_raw"): 0.0020,
    ("rai", "final", "mse_prey"): 0.1178, ("rai", "final", "mae_prey"): 0.1483, ("rai", "final", "r2_prey"): 0.8155,
    ("rai", "final", "mse_predator"): 0.0250, ("rai", "final", "mae_predator"): 0.0687,
    ("rai", "final", "r2_predator"): 0.7004,
    ("rai-972", "untuned", "r2_predator"): -1.6260, ("rai-972", "final", "mae_predator"): 0.0608,
    ("xu", "untuned", "mae_scaled"): 357.2, ("xu", "final", "mae_scaled"): 0.9742, ("xu", "final", "mse_scaled"): 2.7430,
    ("liu", "untuned", "mse_sum_series_1"): 0.3478, ("liu", "context 512", "mse_sum_series_2"): 0.0317,
}  # fmt: skip


def test_a_reported_figure_is_of_its_own_model_and_measure():
    reported = {
        (part.name, model, key): value
        for _, part in PARTS
        for model, own in part.reported.items()
        for key, value in own.items()
    }
    assert {place: reported.get(place) for place in FIGURES} == FIGURES


def test_lius_split_is_scikit_learns():
    selection = pytest.importorskip("sklearn.model_selection", reason="needs scikit-learn")
    train, validation = selection.train_test_split(IDS[100:], test_size=0.2, random_state=42)
    found = PROTOCOLS["liu"].split(IDS)
    np.testing.assert_array_equal(found.train, train)
    np.testing.assert_array_equal(found.validation, validation)


@pytest.fixture(scope="module")
def rising() -> series.SeriesSet:
    return protocols.rising()


@pytest.fixture(scope="module")
def data_of(data, rising):
    """A part's series; simulated ones are drawn once."""
    return lambda protocol, part: rising if part.drawn else protocols.test_series(protocol, part, data)


@pytest.mark.parametrize(("protocol", "part"), PARTS, ids=[part.name for _, part in PARTS])
def test_a_part_measures_test_series_within_their_length(protocol, part, data, data_of):
    chosen = data_of(protocol, part)
    assert part.drawn or np.isin(chosen.ids_N, protocol.split(data.ids_N).test).all()
    assert part.context + (part.shown > 0) + part.horizon <= chosen.values_NTV.shape[1]
    assert all(measure.steps <= part.horizon for measure in part.measures)
    for measure in part.measures:
        assert np.isin(measure.series, chosen.ids_N).all()


@pytest.mark.parametrize(("name", "part"), [(p.name, part) for p, part in PARTS], ids=[part.name for _, part in PARTS])
def test_the_reported_figures_stand_in_the_report(name, part, shared):
    for figures in part.reported.values():
        for key, value in figures.items():
            assert abs(value) in numbers_of(shared, name), (key, value)


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_the_reported_figures_of_validation_stand_in_the_report(name, shared):
    """liu prints six digits of what the table has four of."""
    printed = numbers_of(shared, systems.SYSTEMS[name].name)
    for one in systems.SYSTEMS[name].reported:
        assert one.value in printed | {round(number, 4) for number in printed}, one


@functools.cache
def numbers_of(shared, name) -> set[float]:
    text = (shared / "reports" / f"{name}.txt").read_text(encoding="utf-8")
    return {float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*\.?\d*", text)}


def test_a_data_set_that_is_not_the_courses_is_refused(data):
    protocol = PROTOCOLS["xu"]
    with pytest.raises(JaxlvError, match="the papers' splits are defined on the course's data set"):
        protocols.test_series(protocol, protocol.parts[0], data.select(np.arange(999)))


def test_a_part_that_names_a_series_outside_the_test_share_is_refused(data):
    protocol = PROTOCOLS["mao"]
    split = protocol.split(data.ids_N)
    mixed = replace(protocol.parts[0], series=(int(split.test[0]), int(split.train[0])))
    with pytest.raises(JaxlvError, match="series outside the protocol's test share"):
        protocols.test_series(protocol, mixed, data)


def part_of(name: str) -> tuple[protocols.PaperProtocol, protocols.Part]:
    return next((protocol, part) for protocol, part in PARTS if part.name == name)


def test_a_figure_has_mean_median_and_the_interval_of_the_mean_over_series():
    """Of five series, one with an error: in 6 % of the repeats it is drawn three times or more, in .7 % four times."""
    found = figure(np.array([0.0, 0, np.nan, 0, 5, 0]))
    assert (found.mean, found.median, found.ci95, found.series) == (1.0, 0.0, (0, pytest.approx(3)), 5)
    assert figure(np.array([1.0, 3])) == Statistic(2.0, 2.0, (1, 3), 2)
    assert figure(np.array([4.0, np.inf])) == Statistic(4.0, 4.0, None, 1)
    many = np.random.default_rng(0).normal(size=400)
    low, high = figure(many).ci95
    assert (high - low) / 2 == pytest.approx(1.96 / 20, rel=0.12)


TRUTH = np.array([[[5.0, 8], [9, 12]], [[2, 3], [8, 9]]])
ERROR = np.array([[[2.0, 4], [4, 8]], [[1, 2], [1, 2]]])


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("mae", {}, [(3 + 6) / 2, (1 + 2) / 2]),
        ("mae", {"variable": "prey"}, [3, 1]),
        ("mae", {"variable": "predator"}, [6, 2]),
        ("mae", {"steps": 1}, [(2 + 4) / 2, (1 + 2) / 2]),
        ("mse", {}, [(10 + 40) / 2, (1 + 4) / 2]),
        ("mse", {"variable": "predator"}, [40, 4]),
        ("mse_sum", {}, [50, 5]),
        ("r2", {"variable": "prey"}, [1 - 10 / 4, 1 - 1 / 9]),
        ("r2", {}, [(1 - 10 / 4 + 1 - 40 / 4) / 2, (1 - 1 / 9 + 1 - 4 / 9) / 2]),
    ],
)  # fmt: skip
def test_measures_by_hand(kind, changes, expected):
    """In units of two, errors are half as large, their squares a quarter, and their shares of the deviation the same."""
    measure, point = Measure("x", "x", kind, **changes), TRUTH + ERROR
    np.testing.assert_allclose(measure.of(point, TRUTH, np.ones((2, 1, 2)), point[:, None]), expected)
    by = {"mae": 2, "mse": 4, "mse_sum": 4, "r2": 1}[kind]
    np.testing.assert_allclose(measure.of(point, TRUTH, np.full((2, 1, 2), 2), point[:, None]), np.array(expected) / by)


def test_measures_of_samples_by_hand():
    """Two samples of two steps; the second breaks off. A top of ten units of .8 prey or 1.5 predators."""
    samples = np.array([[[[9.0, 16], [7, 20]], [[3, 14], [np.nan, np.nan]]]])
    size, truth = np.array([[[0.8, 1.5]]]), np.array([[[4.0, 40], [6, 10]]])
    of = lambda kind: Measure("x", "x", kind).of(samples[:, 0], truth, size, samples).tolist()  # noqa: E731
    assert of("valid") == [0.5] and of("above") == [3 / 8]  # 9 prey; 16 and 20 predators
    assert of("peak") == [pytest.approx((9 / 6 + 3 / 6 + 20 / 40 + 14 / 40) / 4)]


def test_measures_have_the_unit_of_what_they_measure():
    words = {
        kind: Measure("x", "x", kind, MAO_UNITS).unit_words for kind in ("mae", "mse", "mse_sum", "r2", "peak", "above")
    }
    squared = f"{MAO_UNITS.words} squared"
    assert words == {
        "mae": MAO_UNITS.words, "mse": squared, "mse_sum": squared, "r2": "1", "peak": "1", "above": "share of values",
    }  # fmt: skip
    assert Measure("x", "x", "valid").unit_words == "share of samples"


@pytest.mark.parametrize("change", ["none", "train", "validation", "test", "series", "context", "horizon"])
def test_an_evaluation_matches_a_part_only_if_all_of_it_does(change):
    """Also the validation share, which a run may have chosen by."""
    split = {name: set(ids.tolist()) for name, ids in PROTOCOLS["rai"].split(IDS).parts().items()}
    series, context, horizon = set(range(990, 1000)), 50, 50
    if change in split:
        split[change] = split[change] - {min(split[change])}
    series = series - {990} if change == "series" else series
    context, horizon = context - (change == "context"), horizon + (change == "horizon")
    found = protocols.matching(split, series, context, horizon)
    assert [(protocol.name, part.name) for protocol, part in found] == [("rai", "rai")] * (change == "none")


def test_no_evaluation_matches_a_part_whose_context_ends_within_a_step():
    split = {name: set(ids.tolist()) for name, ids in PROTOCOLS["mao"].split(IDS).parts().items()}
    assert [part.name for _, part in protocols.matching(split, split["test"], 12, 20)] == ["mao-128"]
    assert protocols.matching(split, split["test"], 12, 5) == []


def test_a_perfect_forecast_has_no_error(data_of):
    for protocol, part in PARTS:
        chosen = data_of(protocol, part)
        start = part.context + (part.shown > 0)
        figures = score(part, chosen.values_NTV[:, start : start + part.horizon], chosen)
        for measure in part.measures:
            if measure.kind not in ("above", "valid"):
                assert figures[measure.key].mean == (1.0 if measure.kind in ("r2", "peak") else 0.0)


def test_rising_series_pass_the_top_of_maos_scale_behind_the_context_alone(rising):
    scaled_NTV = rising.values_NTV / protocols.MAO_ALPHA
    known_NTV, ahead_NTV = scaled_NTV[:, :50], scaled_NTV[:, 50:]
    assert len(rising) == 16 and scaled_NTV.shape == (16, 250, 2)
    np.testing.assert_allclose(known_NTV.max(axis=(1, 2)), 9)
    assert (ahead_NTV.max(axis=(1, 2)) > 10).all()
    assert (ahead_NTV.max(axis=1) > 1.25 * known_NTV.max(axis=1)).all()  # both populations rise


def test_the_share_above_the_top_and_the_peak_are_of_the_samples(rising):
    _, part = part_of("mao-200")
    chosen = rising.select(rising.ids_N[:2])
    truth = chosen.values_NTV[:, 50:]
    capped = np.minimum(truth, 10 * protocols.MAO_ALPHA)
    figures = score(part, truth, chosen, np.stack([capped, truth, truth, truth], axis=1))
    share = (truth > 10 * protocols.MAO_ALPHA).mean()
    assert figures["above_top"].mean == pytest.approx(0.75 * share) and share > 0
    assert figures["mae_raw"].mean == 0
    peak = (0.25 * capped.max(axis=1) / truth.max(axis=1) + 0.75).mean()
    assert figures["peak"].mean == pytest.approx(peak) and peak < 1


def test_maos_figures_are_of_five_steps_in_two_units(data):
    protocol, part = part_of("mao-768")
    chosen = protocols.test_series(protocol, part, data)
    point = chosen.values_NTV[:, 76:96].copy()
    point[:, :5] += 0.1
    point[:, 5:] += 100.0
    figures = score(part, point, chosen)
    assert figures["mae_raw"].mean == pytest.approx(0.1)
    assert figures["mse_raw"].mean == pytest.approx(0.01)
    assert figures["mae_scaled"].mean == pytest.approx(0.1 / 0.79296956)
    assert figures["mse_scaled"].mean == pytest.approx(0.01 / 0.79296956**2)
    assert figures["mae_raw"].series == 100


def test_a_cut_context_is_scored_from_the_step_behind_the_cut(data):
    protocol, part = part_of("mao-128-cut")
    chosen = protocols.test_series(protocol, part, data)
    assert (part.context, part.shown, part.horizon) == (12, 8, 5)
    assert score(part, chosen.values_NTV[:, 13:18], chosen)["mae_raw"].mean == 0


def test_xus_units_are_a_tenth_of_each_series_99th_percentile(data):
    protocol, part = part_of("xu")
    chosen = protocols.test_series(protocol, part, data).select(protocol.split(data.ids_N).test[:3])
    unit = np.percentile(chosen.values_NTV, 99, axis=1) / 10
    point = chosen.values_NTV[:, 50:] + unit[:, None]
    assert score(part, point, chosen)["mae_scaled"].mean == pytest.approx(1.0)


def test_xus_success_is_the_share_of_complete_samples_which_point_forecasts_lack(data):
    protocol, part = part_of("xu")
    chosen = protocols.test_series(protocol, part, data).select(protocol.split(data.ids_N).test[:2])
    truth = chosen.values_NTV[:, 50:]
    samples = np.stack([truth, truth], axis=1)
    samples[1, 0, 30:] = np.nan
    assert score(part, truth, chosen, samples)["success"].mean == 0.75
    assert score(part, truth, chosen)["success"].series == 0


def test_lius_error_is_the_sum_over_both_species(data):
    protocol, part = part_of("liu")
    chosen = protocols.test_series(protocol, part, data)
    point = chosen.values_NTV[:, 80:].copy()
    point[1] += np.array([0.1, 0.2])
    figures = score(part, point, chosen)
    assert figures["mse_sum_series_1"].mean == pytest.approx(0.01 + 0.04)
    assert figures["mse_sum_series_2"].mean == 0
    assert figures["mse_sum_series_0_5"].mean == pytest.approx(0.05 / 6)
    few = score(part, point[:1], chosen.select(chosen.ids_N[:1]))
    assert few["mse_sum_series_1"] == Statistic()


def test_rais_r2_is_of_each_series_and_species(data):
    protocol, part = part_of("rai")
    chosen = protocols.test_series(protocol, part, data)
    truth = chosen.values_NTV[:, 50:]
    figures = score(part, np.broadcast_to(truth.mean(axis=1, keepdims=True), truth.shape), chosen)
    assert figures["r2_prey"].mean == pytest.approx(0, abs=1e-12) and figures["r2_predator"].series == 10


def drawn(part: protocols.Part, chosen: series.SeriesSet) -> Forecast:
    """Three samples: twice the truth, and once the truth and 3."""
    start = part.context + (part.shown > 0)
    truth_NHV = chosen.values_NTV[:, start : start + part.horizon]
    return Forecast.of(chosen, start, np.stack([truth_NHV, truth_NHV, truth_NHV + 3], axis=1), {})


@pytest.mark.parametrize(("point", "error"), [("median", 0.0), ("mean", 1.0)])
def test_the_median_or_the_mean_of_samples_is_scored(data, point, error):
    part = PROTOCOLS["xu"].parts[0]
    chosen = protocols.test_series(PROTOCOLS["xu"], part, data)
    model: Any = lambda series, request, on_batch: drawn(part, series)  # noqa: E731
    row = scoring.forecast_part(part, chosen, "tuned", model, EvaluateConfig(), point).row
    assert row.mae == pytest.approx(error, abs=1e-5)


def test_the_pools_median_is_scored(data, monkeypatch):
    part = PROTOCOLS["xu"].parts[0]
    chosen = protocols.test_series(PROTOCOLS["xu"], part, data)
    found = drawn(part, chosen)
    monkeypatch.setattr(scoring, "pool_of", lambda model, forecast, series, request: forecast)
    unasked: Any = None
    assert scoring.pool_row(part, chosen, unasked, found, EvaluateConfig()).mae == 0


def test_a_step_of_which_the_text_shows_a_part_is_neither_context_nor_truth():
    part = replace(PROTOCOLS["rai"].parts[0], context=4, horizon=2)
    data = series.from_arrays(np.arange(10.0)[None, :, None].repeat(2, axis=2))
    for shown, first in ((0, 4), (3, 5)):
        context, truth = scoring.spans(replace(part, shown=shown), data)
        assert context[0, :, 0].tolist() == [0, 1, 2, 3] and truth[0, :, 0].tolist() == [first, first + 1]


def test_the_steps_that_are_scored_are_those_of_the_measure_that_takes_most():
    part = replace(
        PROTOCOLS["rai"].parts[0],
        context=4,
        horizon=4,
        measures=tuple(Measure(f"m{n}", "w", "mae", steps=n) for n in (3, 2)),
    )
    data = series.from_arrays(np.arange(20.0).reshape(1, 10, 2) + 1)
    made = {"tuned": Forecast.of(data, 4, np.ones((1, 5, 4, 2)), {})}
    found = scoring.paper_figures(PROTOCOLS["rai"], part, made, data, "context")
    assert "4 of forecast, of which the first 3 are scored." in found.words and "this run drew 5 samples" in found.words
    assert found.part.protocol.samples == 5
