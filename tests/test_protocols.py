"""The four reports' protocols: their splits, units and measures, and that their printed figures are the reports' own."""

from __future__ import annotations

import re

import numpy as np
import pytest

from jaxlv.data import series
from jaxlv.errors import JaxlvError
from jaxlv.published import protocols
from jaxlv.published.protocols import PROTOCOLS, score

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
    text = (shared / "reports" / f"{name}.txt").read_text(encoding="utf-8")
    numbers = {float(n.replace(",", "")) for n in re.findall(r"\d[\d,]*\.?\d*", text)}
    for figures in part.reported.values():
        for key, value in figures.items():
            assert any(abs(abs(value) - n) <= 1e-9 + 5e-5 * abs(value) for n in numbers), (key, value)


def test_a_data_set_that_is_not_the_courses_is_refused(data):
    protocol = PROTOCOLS["xu"]
    with pytest.raises(JaxlvError, match="the reports' splits are defined on the course's data set"):
        protocols.test_series(protocol, protocol.parts[0], data.select(np.arange(999)))


def part_of(name: str) -> tuple[protocols.Protocol, protocols.Part]:
    return next((protocol, part) for protocol, part in PARTS if part.name == name)


def test_a_perfect_forecast_has_no_error(data_of):
    for protocol, part in PARTS:
        chosen = data_of(protocol, part)
        start = part.context + (part.shown > 0)
        figures = score(part, chosen.values_NTV[:, start : start + part.horizon], chosen)
        for measure in part.measures:
            if measure.kind not in ("above", "valid"):
                assert figures[measure.key]["mean"] == (1.0 if measure.kind in ("r2", "peak") else 0.0)


def test_rising_series_pass_the_top_of_maos_scale_behind_the_context_alone(rising):
    scaled_NTV = rising.values_NTV / protocols.MAO_ALPHA
    known_NTV, ahead_NTV = scaled_NTV[:, :50], scaled_NTV[:, 50:]
    assert len(rising) == 16 and scaled_NTV.shape == (16, 250, 2)
    np.testing.assert_allclose(known_NTV.max(axis=(1, 2)), 9)
    assert (ahead_NTV.max(axis=(1, 2)) > 10).all()
    np.testing.assert_array_equal(protocols.rising().values_NTV, rising.values_NTV)


def test_the_share_above_the_top_and_the_peak_are_of_the_samples(rising):
    _, part = part_of("mao-200")
    chosen = rising.select(rising.ids_N[:2])
    truth = chosen.values_NTV[:, 50:]
    capped = np.minimum(truth, 10 * protocols.MAO_ALPHA)
    figures = score(part, truth, chosen, np.stack([capped, truth, truth, truth], axis=1))
    share = (truth > 10 * protocols.MAO_ALPHA).mean()
    assert figures["above_top"]["mean"] == pytest.approx(0.75 * share) and share > 0
    assert figures["mae_raw"]["mean"] == 0
    peak = (0.25 * capped.max(axis=1) / truth.max(axis=1) + 0.75).mean()
    assert figures["peak"]["mean"] == pytest.approx(peak) and peak < 1


def test_maos_figures_are_of_five_steps_in_two_units(data):
    protocol, part = part_of("mao-768")
    chosen = protocols.test_series(protocol, part, data)
    point = chosen.values_NTV[:, 76:96].copy()
    point[:, :5] += 0.1
    point[:, 5:] += 100.0
    figures = score(part, point, chosen)
    assert figures["mae_raw"]["mean"] == pytest.approx(0.1)
    assert figures["mse_raw"]["mean"] == pytest.approx(0.01)
    assert figures["mae_scaled"]["mean"] == pytest.approx(0.1 / 0.79296956)
    assert figures["mse_scaled"]["mean"] == pytest.approx(0.01 / 0.79296956**2)
    assert figures["mae_raw"]["series"] == 100


def test_a_cut_context_is_scored_from_the_step_behind_the_cut(data):
    protocol, part = part_of("mao-128-cut")
    chosen = protocols.test_series(protocol, part, data)
    assert (part.context, part.shown, part.horizon) == (12, 8, 5)
    assert score(part, chosen.values_NTV[:, 13:18], chosen)["mae_raw"]["mean"] == 0


def test_xus_units_are_a_tenth_of_each_series_99th_percentile(data):
    protocol, part = part_of("xu")
    chosen = protocols.test_series(protocol, part, data).select(protocol.split(data.ids_N).test[:3])
    unit = np.percentile(chosen.values_NTV, 99, axis=1) / 10
    point = chosen.values_NTV[:, 50:] + unit[:, None]
    assert score(part, point, chosen)["mae_scaled"]["mean"] == pytest.approx(1.0)


def test_xus_success_is_the_share_of_complete_samples_which_point_forecasts_lack(data):
    protocol, part = part_of("xu")
    chosen = protocols.test_series(protocol, part, data).select(protocol.split(data.ids_N).test[:2])
    truth = chosen.values_NTV[:, 50:]
    samples = np.stack([truth, truth], axis=1)
    samples[1, 0, 30:] = np.nan
    assert score(part, truth, chosen, samples)["success"]["mean"] == 0.75
    assert score(part, truth, chosen)["success"]["series"] == 0


def test_lius_error_is_the_sum_over_both_species(data):
    protocol, part = part_of("liu")
    chosen = protocols.test_series(protocol, part, data)
    point = chosen.values_NTV[:, 80:].copy()
    point[1] += np.array([0.1, 0.2])
    figures = score(part, point, chosen)
    assert figures["mse_sum_series_1"]["mean"] == pytest.approx(0.01 + 0.04)
    assert figures["mse_sum_series_2"]["mean"] == 0
    assert figures["mse_sum_series_0_5"]["mean"] == pytest.approx(0.05 / 6)
    few = score(part, point[:1], chosen.select(chosen.ids_N[:1]))
    assert few["mse_sum_series_1"] == {"mean": None, "median": None, "ci95": None, "series": 0}


def test_rais_r2_is_of_each_series_and_species(data):
    protocol, part = part_of("rai")
    chosen = protocols.test_series(protocol, part, data)
    truth = chosen.values_NTV[:, 50:]
    figures = score(part, np.broadcast_to(truth.mean(axis=1, keepdims=True), truth.shape), chosen)
    assert figures["r2_prey"]["mean"] == pytest.approx(0, abs=1e-12) and figures["r2_predator"]["series"] == 10
