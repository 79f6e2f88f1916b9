"""Quality of files, cycles by peak detection, rest and distributions: known answers, and the facts of the course's data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxlv.analysis import exploration
from jaxlv.analysis.exploration import PROMINENCE, cycles, inspect, peak_places
from jaxlv.data import series
from jaxlv.errors import JaxlvError
from jaxlv.forecasting import robustness
from jaxlv.results.exploration import Check, Values

STEP = 200 / 99


@pytest.fixture(scope="module")
def real(shared: Path) -> series.SeriesSet:
    return series.load(shared / "data" / "lotka_volterra_data.h5")


def oscillations(period: float, lag: float, steps: int = 120, decay: float = 0.0) -> np.ndarray:
    """(steps, 2): a sine about 2 and another that comes `lag` steps later."""
    t = np.arange(steps)
    phases = np.stack([t, t - lag], axis=1) / period
    return 2 + np.exp(-decay * t)[:, None] * np.sin(2 * np.pi * phases)


def npz(path: Path, values: Any, **arrays: Any) -> Path:
    values = np.asarray(values)
    np.savez(path, **{"trajectories": values, "time": np.arange(values.shape[1]), **arrays})
    return path


def checks(path: Path) -> dict[str, Check]:
    return {row.check: row for row in inspect(path)}


# Quality


def test_a_good_file_passes_every_check(tmp_path, waves):
    data = waves(5, 30)
    path = npz(tmp_path / "good.npz", data.values_NTV, time=data.time_T)
    found = checks(path)
    assert not exploration.failed(list(found.values()))
    assert (found["file"].found, found["bytes"].found) == ("good.npz", path.stat().st_size)
    assert found["sha256"].found == series.load(path).source["sha256"]
    assert found["shape"].found == "(5, 30, 2)" and found["time"].found == "30 steps of 2 from 0 to 58"
    assert found["maximum"].found == data.values_NTV.max()


def test_faults_are_counted_and_placed(tmp_path, waves):
    values_NTV = waves(8, 30).values_NTV
    values_NTV[2, 5:7, 1], values_NTV[3, 9, 0], values_NTV[4, 11, 1], values_NTV[5, 0, 0] = np.nan, np.inf, -2.0, 0.0
    values_NTV[7] = values_NTV[6]
    path = npz(tmp_path / "bad.npz", values_NTV)
    found = checks(path)
    expected = {
        "NaN values": (2, False, "series 2, step 5, predator"),
        "infinite values": (1, False, "series 3, step 9, prey"),
        "negative values": (1, False, "series 4, step 11, predator"),
        "zeros": (1, None, "series 5, step 0, prey"),
        "duplicate series": (1, False, "series 7, the same as 6"),
        "minimum": (-2.0, None, "series 4, step 11, predator"),
    }
    for name, (count, ok, place) in expected.items():
        assert (found[name].found, found[name].ok, found[name].first) == (count, ok, place)
    with pytest.raises(JaxlvError):
        series.load(path)


def test_the_series_of_a_csv_file_are_named_by_their_ids(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("series,time,prey,predator\n41,0,1,1\n41,1,1,\n42,0,1,1\n42,1,2,1\n")
    assert checks(path)["NaN values"].first == "series 41, step 1, predator"
    with pytest.raises(JaxlvError, match="series 41"):
        series.load(path)


def test_a_variable_that_never_changes_is_told(tmp_path, waves):
    values_NTV = waves(4, 20).values_NTV
    values_NTV[1, :, 1] = 3.0
    row = checks(npz(tmp_path / "still.npz", values_NTV))["variables that never change"]
    assert (row.found, row.ok, row.first) == (1, None, "series 1, step 0, predator")


@pytest.mark.parametrize(
    ("values", "arrays", "check", "part"),
    [
        (np.ones((4, 5)), {}, "shape", "2 axes"),
        (np.ones((4, 5, 3)), {}, "shape", "length 3"),
        (np.ones((4, 5, 2)), {"time": np.array([0, 1, 2, 4, 5])}, "time", "irregular"),
        (np.ones((4, 5, 2)), {"time": np.array([0, 1, 2, 2, 3])}, "time", "does not increase"),
        (np.full((1, 2, 2), 2**60), {}, "type", "integers too large"),
    ],
)
def test_checks_that_fail_say_why(tmp_path, values, arrays, check, part):
    row = checks(npz(tmp_path / "x.npz", values, **arrays))[check]
    assert row.ok is False and part in row.found


def test_an_unreadable_file_has_its_size_and_hash_at_least(tmp_path):
    path = tmp_path / "x.h5"
    path.write_text("series\n")
    *facts, last = inspect(path)
    assert [row.check for row in facts] == ["file", "bytes", "sha256"]
    assert last.ok is False and "is not what .h5 says" in last.found
    with pytest.raises(JaxlvError, match="no such file"):
        inspect(tmp_path / "gone.h5")


def test_names_and_numbers_of_variables_are_free(tmp_path):
    values_NTV = np.random.default_rng(0).uniform(1, 2, (4, 9, 3))
    values_NTV[1, 2, 2] = -1
    path = npz(tmp_path / "three.npz", values_NTV, variables=np.array(["grass", "hare", "lynx"]))
    assert checks(path)["negative values"].first == "series 1, step 2, lynx"


# Cycles


@pytest.mark.parametrize(("period", "lag"), [(17.3, 3.4), (24.0, 5.5), (31.7, 0.9), (20.0, 16.0)])
def test_period_and_lag_of_sines(period, lag):
    found = cycles(oscillations(period, lag)[None])
    np.testing.assert_allclose(found.period_NV, period, rtol=2e-3)
    assert found.lag_N[0] == pytest.approx(lag, abs=0.05)
    assert found.share_N[0] == pytest.approx(lag / period, abs=0.003)


def test_whole_steps_are_coarser_than_parabolas():
    values_T = oscillations(17.3, 0)[:, 0]
    exact_P = 17.3 * (0.25 + np.arange(7))
    fine, coarse = (np.abs(peak_places(values_T, refined=r) - exact_P).max() for r in (True, False))
    assert fine < 0.01 < 0.3 < coarse


def test_the_ends_are_no_peaks_and_plateaus_have_their_middle():
    np.testing.assert_array_equal(peak_places(np.array([3.0, 2.0, 1.0, 2.0, 3.0])), [])
    np.testing.assert_array_equal(peak_places(np.array([1.0, 2.0, 2.0, 2.0, 1.0])), [2.0])
    np.testing.assert_array_equal(peak_places(np.full(9, 2.0)), [])
    np.testing.assert_array_equal(peak_places(np.zeros(9)), [])


def test_a_ripple_is_no_peak():
    values_T = np.array([1.0, 1.0 + 0.9 * PROMINENCE, 1.0, 1.0, 1.0 + 1.3 * PROMINENCE, 1.0])
    np.testing.assert_array_equal(peak_places(values_T, refined=False), [4.0])
    np.testing.assert_array_equal(peak_places(values_T, 0.0, refined=False), [1.0, 4.0])


def test_series_with_fewer_than_two_peaks_have_no_period():
    still, one = np.full((60, 2), 2.0), oscillations(50, 5, 60)
    found = cycles(np.stack([still, one, oscillations(12, 3, 60)]))
    np.testing.assert_array_equal(found.peaks_NV, [[0, 0], [1, 1], [5, 5]])
    assert np.isnan(found.period_NV[:2]).all() and np.isnan(found.lag_N[:2]).all()
    rows = exploration.cycle_rows(found, ("prey", "predator"), 2.0)
    assert {row.series for row in rows} == {1}
    by_unit = {(row.quantity, row.unit): row.mean for row in rows}
    assert (
        by_unit["period of prey", "time units"]
        == pytest.approx(2 * by_unit["period of prey", "steps"])
        == pytest.approx(24, rel=0.01)
    )
    assert by_unit["lag of predator behind prey", "share of the period of prey"] == pytest.approx(0.25, abs=0.01)
    assert exploration.peak_rows(found, ("prey", "predator"))[1].tree() == {"peaks": 1, "prey": 1, "predator": 1}


def test_a_peak_of_the_second_variable_belongs_to_the_cycle_that_it_falls_into():
    """Without its second peak, a cycle counts for no lag: the next one's is not taken in its place."""
    values_TV = oscillations(20, 5, 100)
    values_TV[20:40, 1] = values_TV[20, 1]
    assert cycles(values_TV[None]).lag_N[0] == pytest.approx(5, abs=0.05)


def spikes(places: list[int], steps: int = 90) -> np.ndarray:
    """(steps,) ones with a peak of 2 at each place."""
    return 1.0 + np.isin(np.arange(steps), places)


def test_periods_lags_and_shares_by_hand():
    """Prey peak after 10, 10 and 35 steps. Of lynxes the first three peaks follow 3, 3 and 8 steps behind one of the prey;
    the fourth comes a period or more behind the last, as does the second series' last. The third has one peak.
    """
    first = np.stack([spikes([5, 15, 25, 60]), spikes([8, 18, 33, 79])], axis=1)
    second, third = np.stack([spikes([20, 50]), spikes([26, 80])], axis=1), np.stack([spikes([40]), spikes([45])], axis=1)
    found = cycles(np.stack([first, second, third]))
    np.testing.assert_array_equal(found.peaks_NV, [[4, 4], [2, 2], [1, 1]])
    np.testing.assert_allclose(found.period_NV, [[55 / 3, 71 / 3], [30, 54], [np.nan, np.nan]])
    np.testing.assert_allclose(found.lag_N, [14 / 3, 6, np.nan])
    np.testing.assert_allclose(found.share_N, [14 / 55, 6 / 30, np.nan])
    assert exploration.peak_rows(found, ("prey", "predator"))[2].tree() == {"peaks": 2, "prey": 1, "predator": 1}
    row = next(row for row in exploration.prominence_rows(np.stack([first, second, third])) if row.used)
    period, lag, share = (exploration.summary(v) for v in (found.period_NV[:, 0], found.lag_N, found.share_N))
    assert row.few == 1
    assert [row.period, row.period_p5, row.period_p95] == [period.mean, period.p5, period.p95]
    assert [row.lag, row.lag_share] == [lag.mean, share.mean]
    rows = {(r.quantity, r.unit): r for r in exploration.cycle_rows(found, ("hare", "lynx"), 2.5)}
    assert rows["period of lynx", "time units"].mean == pytest.approx(2.5 * (71 / 3 + 54) / 2)
    assert rows["lag of lynx behind hare", "share of the period of hare"].mean == pytest.approx(share.mean)


def test_peaks_of_each_variable_are_counted_by_themselves():
    found = cycles(np.stack([spikes([5, 15]), spikes([8])], axis=1)[None])
    rows = exploration.peak_rows(found, ("hare", "lynx"))
    assert rows[1].series == {"hare": 0, "lynx": 1} and rows[2].tree() == {"peaks": 2, "hare": 1, "lynx": 0}


def test_one_variable_has_periods_and_no_lag():
    found = cycles(oscillations(15, 0)[None, :, :1])
    assert found.period_NV[0, 0] == pytest.approx(15, rel=2e-3) and np.isnan(found.lag_N).all()
    assert [row.unit for row in exploration.cycle_rows(found, ("fox",), 1.0)] == ["steps", "time units"]


def test_facts_depend_on_the_prominence_as_stated():
    small = oscillations(12, 3, 60, decay=0.08)
    rows = {(r.prominence, r.places): r for r in exploration.prominence_rows(np.stack([small, oscillations(12, 3, 60)]))}
    assert [r for r in rows.values() if r.used] == [rows[PROMINENCE, "parabola"]]
    assert rows[0.0, "parabola"].few == 0
    assert rows[0.0, "parabola"].period == pytest.approx(12, rel=0.02)


# Distributions


def test_summary_leaves_out_what_is_missing():
    assert exploration.summary(np.array([1.0, 2.0, 3.0, np.nan])).tree() == {
        "series": 3, "mean": 2.0, "sd": pytest.approx((2 / 3) ** 0.5), "min": 1.0, "p5": pytest.approx(1.1), "median": 2.0,
        "p95": pytest.approx(2.9), "max": 3.0,
    }  # fmt: skip
    assert exploration.summary(np.array([np.nan])).series == 0


def test_rows_of_values_means_and_states():
    values_NTV = np.arange(24.0).reshape(3, 4, 2)
    data = series.from_arrays(values_NTV)
    everything, prey, predator = exploration.value_rows(data)
    assert (everything.count, everything.min, everything.max, everything.mean) == (24, 0, 23, 11.5)
    assert (prey.mean, predator.mean, everything.p50) == (11, 12, 11.5)
    means = exploration.mean_rows(data)
    assert len(means) == 8 and means[5].variable == "predator" and means[5].mean == values_NTV[:, 1, 1].mean()
    assert means[0].p10 == pytest.approx(np.percentile(values_NTV[:, 0, 0], 10))
    assert everything.sd == pytest.approx(values_NTV.std()) and prey.sd == pytest.approx(values_NTV[..., 0].std())
    skewed = exploration.mean_rows(series.from_arrays(values_NTV**2))
    for row in skewed:
        own = values_NTV[:, row.step, ("prey", "predator").index(row.variable)] ** 2
        spread = [own.mean(), own.std(), *np.percentile(own, (10, 50, 90))]
        assert [row.mean, row.sd, row.p10, row.median, row.p90] == pytest.approx(spread)
    states = {(row.state, row.variable): row for row in exploration.state_rows(data)}
    assert states["initial", "prey"].mean == 8 and states["final", "predator"].max == 23


def test_rest_is_counted_by_its_limit():
    t = np.arange(40)
    series_of = {
        share: np.stack([2 + 2 * share * np.sqrt(2) * np.sin(np.pi * t / 5)] * 2, axis=1)
        for share in (0.008, 0.015, 0.04, 0.3)
    }
    rows = {row.limit: row for row in exploration.rest_rows(np.stack(list(series_of.values())))}
    assert [rows[limit].series for limit in exploration.RESTS] == [0, 1, 2, 3, 3]
    assert [limit for limit, row in rows.items() if row.used] == [0.02] and rows[0.02].share == 0.5
    assert list(rows) == [0.005, 0.01, 0.02, 0.05, 0.1]


def test_examples_are_the_first_two_and_one_of_every_other_label():
    ids, labels = np.array([10, 11, 12, 13, 14]), np.array(["a", "b", "a", "c", "c"])
    assert exploration.example_ids(ids, labels) == [10, 11, 13]
    assert exploration.example_ids(ids[:1], labels[:1]) == [10]


# The course's data set


def test_the_file_of_the_course(shared):
    found = checks(shared / "data" / "lotka_volterra_data.h5")
    assert not exploration.failed(list(found.values()))
    assert found["sha256"].found == "adaf44d863b4ace7dc2fce1451b937e80cd0ecb243eb72250d1df3045f2b5632"
    assert found["bytes"].found == 802_848 and found["shape"].found == "(1000, 100, 2)"
    assert found["type"].found == "float32, time float64"
    assert found["minimum"].found == pytest.approx(3.7355e-5, rel=1e-4)
    assert found["maximum"].found == pytest.approx(13.7401, rel=1e-5)
    assert [found[f"{name}"].found for name in ("NaN values", "negative values", "duplicate series", "zeros")] == [0] * 4
    assert found["time"].found == "100 steps of 2.0202 from 0 to 200"


def test_the_values_of_the_course(real):
    everything, prey, predator = exploration.value_rows(real)
    percentiles = [0.7781, 2.5284, 3.4738, 5.9579, 7.9297, 9.1515]
    assert [
        quantity.of(everything) for quantity in Values.columns("p50", "p90", "p95", "p99", "p99_7", "p99_9")
    ] == pytest.approx(percentiles, abs=6e-5)
    assert [prey.mean, predator.mean, prey.sd, predator.sd] == pytest.approx([1.6981, 0.5696, 1.4361, 0.3795], abs=6e-5)


def test_the_cycles_of_the_course(real):
    """Period 21.6 steps, 14.7 to 32 for 90 % of the series, 43.6 time units; 24 series with fewer than two prey peaks."""
    found = cycles(real.values_NTV)
    assert (found.peaks_NV[:, 0] < 2).sum() == 24
    rows = {(row.quantity, row.unit): row for row in exploration.cycle_rows(found, real.variables, STEP)}
    period = rows["period of prey", "steps"]
    assert round(period.mean, 1) == 21.6 and round(period.p5, 1) == 14.7 and round(period.p95) == 32
    assert round(rows["period of prey", "time units"].mean, 1) == 43.6
    # xu reports a lag of 20 % of the period.
    assert rows["lag of predator behind prey", "share of the period of prey"].mean == pytest.approx(0.21, abs=0.005)
    assert rows["lag of predator behind prey", "steps"].mean == pytest.approx(4.5, abs=0.1)


def test_the_share_of_the_course_at_rest(real):
    """8.3 % is the share whose two standard deviations are at most 2 % of their means in the last 20 steps."""
    used = next(row for row in exploration.rest_rows(real.values_NTV) if row.used)
    assert used.share == pytest.approx(0.083)
    assert used.series == (series.regimes(real) == "equilibrium").sum()


def test_the_states_of_the_course(real):
    states = {(row.state, row.variable): row for row in exploration.state_rows(real)}
    for name in real.variables:
        assert states["initial", name].min == pytest.approx(0.8, abs=0.001)
        assert states["initial", name].max == pytest.approx(1.2, abs=0.001)
    assert states["final", "prey"].max > 9 and exploration.example_ids(real.ids_N, robustness.regimes_of(real))[:2] == [
        0,
        1,
    ]
