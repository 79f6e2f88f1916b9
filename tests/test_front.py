"""Three lines for a notebook: `jaxlv.Forecaster`."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from known import known

import jaxlv
from jaxlv.config import RunConfig, WindowConfig
from jaxlv.errors import JaxlvError, JaxlvWarning
from jaxlv.forecasting.forecast import Forecast
from jaxlv.forecasting.origins import Origins, rolling
from jaxlv.model.bases import EMBEDDED_BASE
from jaxlv.runs import run
from jaxlv.studies import given
from jaxlv.studies.fitting import fitted
from jaxlv.studies.forecast import _error, _next
from jaxlv.text.codec import Codec
from jaxlv.text.tokens import load_alphabet, make_windows

POSITIONS = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=4096))


def forecaster_of(draw, **sampling) -> jaxlv.Forecaster:
    """A forecaster whose samples are known."""
    return jaxlv.Forecaster(replace(known(draw, **sampling), model=POSITIONS), progress=False)


def asked_of(forecaster: jaxlv.Forecaster):
    return forecaster.sampler.variables["asked"][-1]


def ramp(sampling, count, samples, horizon) -> np.ndarray:
    """Sample s of series n at step h of variable v: 100 n + 10 s + h, and 1000 more for variable 1."""
    n, s, h, v = np.indices((count, samples, horizon, 2)).astype(float)
    return 100 * n + 10 * s + h + 1000 * v


def one(sampling, count, samples, horizon) -> np.ndarray:
    return ramp(sampling, count, samples, horizon)[..., :1]


YEARS = pd.DataFrame({"year": range(1900, 1908), "hare": np.arange(1.0, 9), "lynx": np.arange(11.0, 19)})


def test_forecasts_come_back_under_the_callers_names_and_times():
    found = forecaster_of(ramp).predict(YEARS, horizon=2, samples=3)
    assert found.samples.shape == (1, 3, 2, 2) and found.notes == ()
    assert found.frame.columns.tolist() == ["year", "variable", "median", "low_80", "high_80"]
    assert found.frame[["year", "variable", "median"]].values.tolist() == [
        [1908, "hare", 10.0], [1908, "lynx", 1010.0], [1909, "hare", 11.0], [1909, "lynx", 1011.0],
    ]  # fmt: skip
    assert found.frame[["low_80", "high_80"]].values.tolist()[0] == [0.0, 20.0]
    middle = found.quantiles([0.25, 0.5])
    assert middle.columns.tolist() == ["year", "variable", "0.25", "0.5"] and middle["0.25"].tolist() == [0, 1000, 1, 1001]
    wide = found.to_frame("wide")
    assert wide.values.tolist() == [[1908, 10.0, 1010.0], [1909, 11.0, 1011.0]] and list(wide) == ["year", "hare", "lynx"]
    tidy = found.to_frame()
    assert tidy[tidy.statistic == "sample_2"].value.tolist() == [20.0, 1020.0, 21.0, 1021.0]
    with pytest.raises(JaxlvError, match="between 0 and 1"):
        found.quantiles([50])
    with pytest.raises(JaxlvError, match="unknown form"):
        found.to_frame("long")


def test_what_is_asked_is_what_the_model_is_asked(monkeypatch):
    monkeypatch.setattr("jaxlv.forecasting.evaluate.likelihood_measures", lambda *given: {})
    forecaster = forecaster_of(one)
    forecaster.predict(np.ones((3, 6, 1)), 2, samples=4, seed=7, batch_series=2)
    request = asked_of(forecaster).request
    assert (request.context, request.horizon, request.samples, request.seed, request.batch) == (6, 2, 4, 7, 2)
    scores = forecaster.evaluate(np.ones((2, 12, 1)), 2, origins=3, every=1, context=5, samples=4, seed=9)
    request, series = asked_of(forecaster).request, asked_of(forecaster).series
    assert (request.context, request.horizon, request.samples, request.seed) == (5, 2, 4, 9)
    assert series.ids_N.tolist() == [f"{one} from {step}" for one in (0, 1) for step in (8, 9, 10)]
    row = scores.table().loc["untuned"]
    assert row["mae_low"] < row["mae"] < row["mae_high"]


def test_every_band_of_80_percent_is_that_of_the_quantiles():
    found = forecaster_of(one).predict(np.arange(1.0, 9), horizon=2, samples=29)
    low, high = found.quantiles([0.1, 0.9])[["0.1", "0.9"]].to_numpy().T.tolist()
    assert low == pytest.approx([20, 21]) and high == pytest.approx([260, 261])  # of 0, 10, ..., 280
    np.testing.assert_allclose(found.frame[["low_80", "high_80"]].to_numpy().T, [low, high])
    np.testing.assert_allclose(found.to_frame("nixtla")[["jaxlv-lo-80", "jaxlv-hi-80"]].to_numpy().T, [low, high])
    for probability in (0, 1):
        with pytest.raises(JaxlvError, match="between 0 and 1"):
            found.quantiles([probability])


def test_the_series_that_is_named_is_drawn():
    found = forecaster_of(one).predict(YEARS, horizon=2, samples=1, separate=True)
    ids = found.made.ids_N.tolist()
    assert len(ids) == 2
    tops = [max(line.get_ydata()[-1] for line in found.plot(series=one).axes[0].lines) for one in ids]
    assert tops == [8, 101]  # what is known ends at 8; a forecast at 101


def test_a_seed_and_the_bits_are_those_of_the_run_that_is_tuned(monkeypatch, tmp_path):
    held = []

    def train(config, folder, **more):
        held.append(config)
        raise JaxlvError("far enough")

    monkeypatch.setattr("jaxlv.studies.train.train", train)
    forecaster = jaxlv.Forecaster("embedded", weights="int8", progress=False, temperature=0.7)
    with pytest.raises(JaxlvError, match="far enough"):
        forecaster.fit(np.sin(np.arange(40.0)) + 2, steps=1, seed=5, out=tmp_path / "run")
    (config,) = held
    assert (config.train.seed, config.model.weights, config.sampling.temperature) == (5, "int8", 0.7)


def test_a_tuned_forecaster_draws_and_pays_as_it_did_before(monkeypatch, tmp_path):
    forecaster, asked = jaxlv.Forecaster("embedded", pays=False, progress=False, temperature=0.7), {}
    monkeypatch.setattr("jaxlv.studies.train.train", lambda *given, **named: None)
    monkeypatch.setattr("jaxlv.runs.run.load_run", lambda folder: None)
    monkeypatch.setattr(jaxlv.api, "open_model", lambda *given, **named: asked.update(named) or known(one))
    forecaster.fit(np.sin(np.arange(40.0)) + 2, out=tmp_path / "run")
    assert asked == {"pays": False} and forecaster.sampler.sampling.temperature == 0.7


def test_the_model_sees_prey_first_and_the_caller_gets_names_back():
    turned = YEARS[["year", "lynx", "hare"]]
    forecaster = forecaster_of(ramp)
    with pytest.warns(JaxlvWarning, match="hare is taken as prey and lynx as its predator"):
        found = forecaster.predict(turned, horizon=1, samples=1)
    np.testing.assert_array_equal(asked_of(forecaster).series.values_NTV[0], YEARS[["hare", "lynx"]])
    assert found.frame["median"].tolist() == [0.0, 1000.0] and found.frame["variable"].tolist() == ["hare", "lynx"]
    kept = forecaster.predict(turned, horizon=1, samples=1, columns=["lynx", "hare"])
    assert kept.frame["variable"].tolist() == ["lynx", "hare"]


def test_nixtlas_form_goes_in_and_comes_out():
    long = pd.DataFrame({
        "unique_id": ["b"] * 6 + ["a"] * 5,
        "ds": [*pd.date_range("2020-01-31", periods=6, freq="ME"), *pd.date_range("2020-02-29", periods=5, freq="ME")],
        "y": np.arange(11.0) + 1,
    })  # fmt: skip
    forecaster = forecaster_of(one)
    found = forecaster.predict(long, horizon=2, samples=1)
    frame = found.to_frame("nixtla")
    assert frame.columns.tolist() == ["unique_id", "ds", "jaxlv", "jaxlv-lo-80", "jaxlv-hi-80"]
    assert frame.unique_id.tolist() == ["b", "b", "a", "a"] and frame.jaxlv.tolist() == [0, 1, 100, 101]
    assert frame.ds.tolist() == [pd.Timestamp(day) for day in ("2020-07-31", "2020-08-31") * 2]
    given = asked_of(forecaster).series
    assert given.first_N.tolist() == [0, 1] and [v_TV[:, 0].tolist() for v_TV in given.each] == [
        [1, 2, 3, 4, 5, 6],
        [7, 8, 9, 10, 11],
    ]
    assert found.frame.columns.tolist()[:3] == ["unique_id", "ds", "variable"]


def test_a_series_that_cannot_be_written_stops_nobody_else():
    values = np.ones((3, 6, 2)) * np.array([1.0, 2.0, 3.0])[:, None, None]
    values[1, :, 1] = 0
    forecaster = forecaster_of(ramp)
    with pytest.warns(JaxlvWarning, match="series 1 is left out: predator is 0 throughout its context; columns = the other"):
        found = forecaster.predict(values, horizon=1, samples=1)
    assert found.made.ids_N.tolist() == [0, 2] and asked_of(forecaster).series.values_NTV[1, 0, 0] == 3
    with pytest.raises(JaxlvError, match="no series can be forecast; found predator is 0"):
        forecaster.predict(values[1], horizon=1)


def test_missing_values_are_filled_dropped_or_refused_as_asked():
    frame = YEARS.copy()
    frame.loc[3, "hare"] = np.nan
    forecaster = forecaster_of(ramp)
    with pytest.warns(JaxlvWarning, match="1 missing value, at year 1903, hare"):
        forecaster.predict(frame, horizon=1, samples=1)
    np.testing.assert_array_equal(asked_of(forecaster).series.values_NTV[0], YEARS[["hare", "lynx"]])
    with pytest.warns(JaxlvWarning, match="the steps before the last gap are not used"):
        forecaster.predict(frame, horizon=1, samples=1, missing="drop")
    assert asked_of(forecaster).series.values_NTV[0, :, 0].tolist() == [5, 6, 7, 8]
    with pytest.raises(JaxlvError, match=r"1 missing value, at year 1903, hare.*interpolate"):
        forecaster.predict(frame, horizon=1, missing="error")
    with pytest.raises(JaxlvError, match="missing: unknown choice"):
        forecaster.predict(frame, horizon=1, missing="zero")


def test_what_is_below_zero_is_shifted_for_the_model_and_back_for_the_caller():
    values = np.array([-2.0, 0, 2, 1, -1, 0])
    forecaster = forecaster_of(one)
    with pytest.warns(JaxlvWarning, match="value shifted above zero"):
        found = forecaster.predict(values, horizon=2, samples=1)
    given = asked_of(forecaster).series
    np.testing.assert_array_equal(given.values_NTV[0, :, 0], values + 4)  # the least lies half of the range above zero
    assert found.median.ravel().tolist() == [-4, -3] and found.frame["median"].tolist() == [-4, -3]
    with pytest.raises(JaxlvError, match=r'2 negative values.*negative = "shift"'):
        forecaster.predict(values, horizon=1, negative="error")


def test_the_context_is_what_the_model_has_read_or_what_is_asked():
    values = np.arange(1.0, 2001)
    forecaster = forecaster_of(one)
    with pytest.warns(JaxlvWarning, match="the last 809 of 2000 steps are the context"):
        forecaster.predict(values, horizon=10, samples=1)
    assert asked_of(forecaster).request.context == 4096 // 5 - 10 == 809
    assert forecaster.predict(values[:809], horizon=10, samples=1).notes == ()  # all steps are the context
    forecaster.predict(values, horizon=10, samples=1, context=7)
    given = asked_of(forecaster).series
    assert given.values_NTV[0, :, 0].tolist() == list(range(1994, 2001)) and asked_of(forecaster).request.context == 7


def test_an_unknown_setting_and_an_unknown_series_are_one_line():
    with pytest.raises(JaxlvError, match="unknown setting temperatur"):
        jaxlv.Forecaster("embedded", temperatur=1)
    found = forecaster_of(ramp).predict(YEARS, horizon=1, samples=1)
    with pytest.raises(JaxlvError, match="unknown series; expected 0; found lynx"):
        found.plot(series="lynx")


# ------------------------------------------------------------------------------------------------- with a model


@pytest.mark.parametrize("wrong", [0, -3, 2.5, "5"])
@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("predict", "horizon"), ("predict", "context"), ("predict", "samples"), ("evaluate", "horizon"),
        ("evaluate", "context"), ("evaluate", "origins"), ("evaluate", "every"), ("evaluate", "samples"),
    ],
)  # fmt: skip
def test_what_is_no_count_is_one_line(verb, name, wrong):
    ask = getattr(forecaster_of(ramp), verb)
    with pytest.raises(JaxlvError, match=rf"^(evaluate\.)?{name}: must be a whole number from 1 to .*; found {wrong!r}$"):
        ask(np.arange(1.0, 30), **{"horizon": 3, name: wrong})


@pytest.mark.parametrize("wrong", [-1, 2.5, "x"])
def test_what_cannot_be_held_out_is_one_line(wrong):
    with pytest.raises(JaxlvError, match=r"^holdout: must be a whole number from 0"):
        jaxlv.Forecaster("embedded", progress=False).fit(np.arange(1.0, 30), holdout=wrong)


def test_quantiles_are_asked_for_by_probabilities():
    forecast = forecaster_of(one).predict(np.arange(1.0, 30), horizon=2, samples=4)
    assert forecast.quantiles(0.5)["0.5"].tolist() == forecast.quantiles([0.5])["0.5"].tolist()
    for wrong in ([], "a", [0, 1], 1.5, None, [[]]):
        with pytest.raises(JaxlvError, match="not probabilities"):
            forecast.quantiles(wrong)


def test_the_last_steps_are_measured_from_several_origins(tiny_base, tmp_path):
    """Of 1, 2, 3, ... the last value is off by 1 and 2; the errors of the two series are in their own units."""
    frame = pd.DataFrame({
        "site": ["north"] * 12 + ["south"] * 10, "year": [*range(1900, 1912), *range(1902, 1912)],
        "owls": [*np.arange(1.0, 13), *(10 * np.arange(1.0, 11))],
    })  # fmt: skip
    forecaster = jaxlv.Forecaster(tiny_base, progress=False)
    scores = forecaster.evaluate(frame, 2, origins=2, samples=3)
    table = scores.table()
    assert table.loc["last value", "mae"] == np.mean([1.5, 1.5, 15, 15]) and table.loc["last value", "mase"] == 1.5
    assert table.loc["context mean", "mae"] == pytest.approx(np.mean([5, 6, 40, 50]))
    assert scores.windows.ids_N.tolist() == [f"{site} from {year}" for site in ("north", "south") for year in (1908, 1910)]
    assert scores.windows.first_N.tolist() == [2, 0, 4, 2] and np.isfinite(table.loc["untuned", "crps"])
    assert "untuned" in str(scores) and scores.page(tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(JaxlvError, match="no series is long enough"):
        forecaster.evaluate(frame, 8)
    with pytest.raises(JaxlvError, match="how many steps ahead"):
        forecaster.evaluate(frame)


def test_a_tuned_series_is_measured_on_the_steps_that_were_held_out_alone(tiny_base, tmp_path):
    steps = np.arange(30)
    frame = pd.DataFrame({"year": 1900 + steps, "Lynx": 4 + np.sin(steps / 2), "Hare": 5 + np.cos(steps / 2)})
    forecaster = jaxlv.Forecaster(tiny_base, progress=False)
    with pytest.warns(JaxlvWarning, match="Hare is taken as prey"):
        tuned = forecaster.fit(frame, holdout=4, steps=2, out=tmp_path / "run", settings=["lora.rank=2"])
    assert tuned is forecaster and forecaster.run is not None and forecaster.run.variables == ("Hare", "Lynx")
    kept = pd.read_csv(tmp_path / "run" / "series.csv")
    pd.testing.assert_frame_equal(kept, frame[["year", "Hare", "Lynx"]])
    held = run.load_run(tmp_path / "run")
    assert held.config.lora.rank == 2 and held.manifest.data.lengths == (26,)
    assert list(held.split["train"]) == ["0"] and held.split["test"] == {}
    scores = forecaster.evaluate(frame, samples=2)
    assert scores.table().index[:2].tolist() == ["tuned", "untuned"] and scores.windows.ids_N.tolist() == ["from 1926"]
    with pytest.warns(JaxlvWarning, match="2 of 4 windows are left out: the run was trained on their steps"):
        assert forecaster.evaluate(frame, 2, origins=4, samples=2).windows.ids_N.tolist() == ["from 1926", "from 1928"]
    with pytest.raises(JaxlvError, match="trained on every step to be forecast"):
        forecaster.evaluate(frame[:26], 2)
    other = frame.rename(columns={"Hare": "vole", "Lynx": "weasel"})
    with pytest.warns(JaxlvWarning, match="the run was tuned on Hare and Lynx, not on vole and weasel"):
        assert forecaster.predict(other, 1, samples=1).base is None  # a tuned model gives way to no base
    with pytest.raises(JaxlvError, match="tuned from a model by its name"):
        forecaster.fit(frame)


def test_a_series_without_a_scale_is_left_out_of_the_training_by_its_name(tiny_base, tmp_path):
    steps = np.arange(20)
    values = np.stack([np.stack([4 + np.sin(steps / 2), 5 + np.cos(steps / 2)], axis=1) + i for i in range(2)])
    frame = pd.DataFrame(values.reshape(-1, 2), columns=["prey", "predator"])
    frame = frame.assign(site=np.repeat(["north", "south"], 20), year=np.tile(steps + 1900, 2))
    frame.loc[frame.site == "south", "predator"] = 0
    forecaster = jaxlv.Forecaster(tiny_base, progress=False)
    with pytest.warns(JaxlvWarning, match="series south is left out of the training: predator is 0 throughout"):
        forecaster.fit(frame, holdout=3, steps=1, out=tmp_path / "run")
    assert list(run.load_run(tmp_path / "run").split["train"]) == ["north"]


def test_what_is_told_of_series_is_told_once_where_the_caller_called(tiny_base, tmp_path):
    steps = np.arange(30)
    frame = pd.DataFrame({"year": steps + 1900, "prey": 4 + np.sin(steps / 2), "predator": np.cos(steps / 2)})
    frame.loc[5, "prey"] = np.nan
    forecaster = jaxlv.Forecaster(tiny_base, progress=False)
    with pytest.warns(JaxlvWarning) as told:
        forecaster.fit(frame, holdout=3, steps=1, out=tmp_path / "run")
    lines = [str(one.message).partition(": ")[2] for one in told if one.category is JaxlvWarning]
    gap = "1 missing value, at year 1905, prey"
    assert lines == [gap, "missing values: interpolated", "negative values: predator shifted above zero, and forecasts back"]
    assert {one.filename for one in told} == {__file__}


def test_a_context_of_zeros_within_a_series_takes_the_scale_of_the_rest():
    series_TV = np.array([[0.0], [0], [0], [0], [2], [4]])
    alphabet = load_alphabet(EMBEDDED_BASE, 16)
    windows = make_windows([series_TV], Codec(), alphabet, WindowConfig(64, context_steps=(2, 3)))
    assert alphabet.decode(windows.ids_ML[0][windows.positions_ML[0] >= 0]) == "0.00;0.00;0.00;0.00;2.50;5.00;"


def test_training_series_shorter_than_the_shortest_context_are_told(tiny_base, tmp_path):
    forecaster = jaxlv.Forecaster(tiny_base, progress=False)
    settings = ["windows.context_steps=[20, 80]"]
    with pytest.warns(
        JaxlvWarning, match=r"context_steps = \[20, 80\]: 1 of 1 training series have fewer than 20 steps, 12"
    ):
        forecaster.fit(np.arange(1.0, 13), holdout=0, steps=1, out=tmp_path / "run", settings=settings)


# ------------------------------------------------------------------------------------------------ nothing of the future


def test_a_window_is_shifted_by_its_context_alone():
    values = np.array([3.0, -1, 1, 0, 2, 3, -50, 7])
    found = rolling(jaxlv.load_series(values).aligned(), Origins(2)).windows
    assert found.shift_NV.tolist() == [[1 + 0.5 * 4]]
    np.testing.assert_array_equal(found.values_NTV[0, :, 0], values + 3)


def test_what_is_held_out_fills_no_gap_before_it_and_shifts_nothing():
    values = np.array([1.0, 2, 3, np.nan, 99, np.nan, -7])
    made = jaxlv.load_series(values).ready(held=3).series
    np.testing.assert_array_equal(made.values_NTV[0, :, 0], [1, 2, 3, 3, 99, np.nan, -7])
    assert made.shift_NV.tolist() == [[0.0]]


def test_a_window_is_left_out_just_if_its_first_step_was_trained_on():
    """Of series that begin in different years: the run has seen 6 steps of the one, 5 of the other."""
    known, each = np.arange(1.0, 9), {"a": 6, "b": 5}
    frame = pd.DataFrame({"site": ["a"] * 8 + ["b"] * 7, "year": [*range(1900, 1908), *range(1901, 1908)],
                          "owls": [*known, *known[1:]]})  # fmt: skip
    series = jaxlv.load_series(frame).aligned()
    seen: Any = SimpleNamespace(seen_steps=lambda values_TV: each["a" if len(values_TV) == 8 else "b"])
    made = rolling(series, Origins(1, 3, 1))
    windows = dict(zip(made.windows.ids_N.tolist(), given._seen(series, made, seen).tolist(), strict=True))
    assert windows == {f"{site} from {year}": year < 1906 for site in "ab" for year in range(1905 + (site == "b"), 1908)}


def test_the_error_of_a_forecast_is_that_of_the_steps_it_forecasts():
    series = jaxlv.load_series(np.arange(10.0) ** 2).aligned()
    made = Forecast.of(series, 7, np.array([49.0, 64, 81]).reshape(1, 1, 3, 1) + 0.5, {})
    assert _error(made, series) == 0.5
    skewed = Forecast.of(series, 7, np.array([49.0, 64, 84]).reshape(1, 1, 3, 1), {})
    assert _error(skewed, series) == 1  # the mean
    assert _error(Forecast.of(series, 8, np.ones((1, 1, 3, 1)), {}), series) is None  # the series ends before


def test_the_next_steps_are_told_with_their_80_percent_band_in_the_callers_units():
    """Of 19 samples, twentieths lie between them; the series lies below zero, and is shifted for the model."""
    table = pd.DataFrame({"year": range(1900, 1910), "owls": np.arange(10.0) - 3})
    series = jaxlv.load_series(table).ready().series
    assert series.shift_NV[0, 0] > 3
    (one,) = _next(Forecast.of(series, 10, np.arange(19.0).reshape(1, 19, 1, 1) + series.shift_NV[0, 0], {}))
    assert (one.time, one.variable) == ("1910", "owls")
    assert (one.median, *one.band) == pytest.approx((9, 1, 17))


def test_a_config_is_fitted_to_the_steps_that_are_trained_on():
    config = fitted(jaxlv.load_series(np.arange(1.0, 21)), holdout=10)
    assert config.model.path == "embedded-field"  # the other base has read two variables alone
    assert fitted(jaxlv.load_series(np.ones((20, 2))), holdout=10).model.path == "embedded"
    assert fitted(jaxlv.load_series(np.ones((20, 3))), "owner/name", holdout=10).model.path == "owner/name"
    assert (config.windows.length, config.windows.context_steps) == (80, (4, 8))  # ten steps of five tokens, and some
    assert (config.data.holdout, config.evaluate.context, config.evaluate.horizon) == (10, 10, 10)
    with pytest.raises(JaxlvError, match="too short to train on; expected at least 8 steps besides the 13"):
        fitted(jaxlv.load_series(np.arange(1.0, 21)), holdout=13)


def test_few_series_lose_a_fifth_of_the_shortest_and_ten_are_split_whole():
    def of(*lengths: int) -> RunConfig:
        return fitted(jaxlv.load_series([np.arange(1.0, 1 + length) for length in lengths]))

    few, ten = of(40, *[60] * 8), of(40, *[60] * 9)
    assert (few.data.holdout, few.data.fractions, few.train.validate_every) == (8, (1.0, 0.0, 0.0), 0)
    assert (few.evaluate.context, few.evaluate.horizon) == (52, 8)  # all steps before those of the longest
    assert (ten.data.holdout, ten.data.fractions, ten.train.validate_every) == (0, (0.7, 0.15, 0.15), 50)
    assert of(*[400] * 3).evaluate.context == 320


def test_half_of_the_steps_may_be_missing():
    values = np.array([1.0, np.nan, 2, np.nan, 3, np.nan])
    assert jaxlv.load_series(values).ready().series.values_NTV[0, :, 0].tolist() == [1, 1.5, 2, 2.5, 3, 3]
    with pytest.raises(JaxlvError, match="more than half of its steps are missing"):
        jaxlv.load_series(np.append(values, np.nan)).ready()
    windows = rolling(jaxlv.load_series(np.append(values, 4.0)).aligned(), Origins(1))
    assert windows.windows.ids_N.tolist() == ["from 6"]


def test_variables_come_in_the_order_that_is_asked_for():
    """An order that is not its own inverse."""
    found = jaxlv.load_series({"a": [1.0, 2], "b": [3.0, 4], "c": [5.0, 6]}).ordered(["B", "C", "A"])
    assert found.variables == ("b", "c", "a") and found.values[0].tolist() == [[3, 5, 1], [4, 6, 2]]


def test_a_variable_that_begins_later_keeps_its_times():
    frame = {"year": [1900, 1901, 1902, 1903], "voles": [1.0, 2, 3, 4], "owls": [np.nan, np.nan, 7, 8]}
    found = jaxlv.load_series(frame, separate=True)
    assert found.ids == ("voles", "owls") and found.values[1].tolist() == [[7], [8]]
    assert [found.clock.labels(row, 0).item() for row in (0, 1)] == [1900, 1902]
    aligned = found.aligned()  # at the ends
    assert aligned.first_N.tolist() == [0, 2] and aligned.clock.labels(1, [2, 3]).tolist() == [1902, 1903]


def test_codes_of_missing_values_are_far_below_everything_else():
    def decoded(*values: float) -> list[float]:
        return jaxlv.load_series(np.array(values)).decoded().values[0][:, 0].tolist()

    assert decoded(3, -99, 5)[1] != decoded(3, -99, 5)[1]  # NaN: nothing else is below zero
    assert decoded(3, -99, 5, -10)[1] == -99 and decoded(3, -999, 5, -10)[1] != -999
    assert decoded(3, -999, 5, -210)[1] == -999


def test_a_series_needs_two_steps_besides_those_that_are_held_out():
    found = jaxlv.load_series([np.arange(1.0, 6), np.arange(1.0, 5)])
    kept = found.until(3)
    assert kept.ids == (0,) and kept.values[0].ravel().tolist() == [1, 2]
    with pytest.raises(JaxlvError, match="no series is long enough; expected more than 5 steps; found 5"):
        found.until(4)


def test_values_that_are_repeated_beyond_the_known_ones_are_counted():
    gone = np.nan
    found = jaxlv.load_series(np.array([gone, 1, 2, gone, 3, 4, gone, gone])).ready()
    assert "3 of them before the first or behind the last known value, which is repeated there" in found.notes


def test_chosen_series_keep_the_parameters_that_they_were_simulated_by():
    found = jaxlv.load_series([np.arange(3.0) + i for i in range(3)])
    simulated = {"simulation": {"system": "x", "parameters": {"r": np.array([1.0, 2.0, 3.0])}}}
    chosen = replace(found, source=simulated).select([2, 0])
    assert chosen.source["simulation"]["parameters"]["r"].tolist() == [3, 1]
    assert [values_TV[0, 0] for values_TV in chosen.values] == [2, 0]


def test_one_value_far_above_the_next_is_told():
    assert jaxlv.load_series(np.array([1.0, 300, 500])).flattened() == []
    assert jaxlv.load_series(np.array([1.0, 2.5, 500])).flattened() == []  # 200 times the next is not beyond it
    (line,) = jaxlv.load_series(np.array([1.0, -2.0, 500])).flattened()
    assert line.startswith("series 0: one value of value, 500, is 250 times the next")
