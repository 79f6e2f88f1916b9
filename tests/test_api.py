"""The library as a notebook uses it."""

from __future__ import annotations

import inspect

import numpy as np
import pandas as pd
import pytest
from known import known

import jaxlv
from jaxlv.api import OPENING, Options, as_series
from jaxlv.config import LoraConfig, SamplingConfig
from jaxlv.data import series
from jaxlv.errors import JaxlvError, JaxlvWarning
from jaxlv.forecasting import metrics
from jaxlv.forecasting.forecast import Forecast
from jaxlv.forecasting.request import Request
from jaxlv.lora.adapters import Origin, save_peft
from jaxlv.text.codec import Codec


@pytest.fixture(scope="module")
def values(waves) -> np.ndarray:
    return waves(count=2, steps=12).values_NTV


@pytest.fixture(scope="module")
def tidy(values) -> pd.DataFrame:
    """Series 9 before series 4, each from time 5 on, every third of a unit; predators stand before prey."""
    frame = pd.DataFrame(values.reshape(-1, 2), columns=["prey", "predator"])[["predator", "prey"]]
    return frame.assign(series=np.repeat([9, 4], 12), time=np.tile(5 + np.arange(12) / 3, 2))


# ------------------------------------------------------------------------------------------ what a forecast is made of


def test_the_frame_has_each_number_at_its_series_step_time_variable_and_statistic(tidy):
    model = known()
    frame = jaxlv.forecast(model, tidy, 3, 4, temperature=0.7, seed=6)
    drawn_NSHV = model.variables["draw"](model.asked[0].sampling, 2, 4, 3)
    assert list(frame.columns) == ["series", "step", "time", "variable", "statistic", "value"]
    assert sorted(frame["step"].unique()) == [12, 13, 14] and frame["series"].unique().tolist() == [4, 9]
    found = frame.set_index(["statistic", "series", "step", "variable"])
    filled = jaxlv.forecast(model, tidy, 3, 4, temperature=0.7, arrays=True).filled()
    expected = {"median": np.median(filled, axis=1), "mean": filled.mean(axis=1)}
    for name, p in {"q05": 0.05, "q10": 0.1, "q25": 0.25, "q75": 0.75, "q90": 0.9, "q95": 0.95}.items():
        expected[name] = metrics.quantiles(filled, [p])[0]
    expected |= {f"sample_{s}": drawn_NSHV[:, s] for s in range(4)}
    assert set(frame["statistic"]) == set(expected) and len(frame) == len(expected) * 2 * 3 * 2
    for statistic, values_NHV in expected.items():
        for (n, h, v), value in np.ndenumerate(values_NHV):
            row = found.loc[(statistic, (4, 9)[n], 12 + h, ("prey", "predator")[v])]
            assert row["value"] == pytest.approx(value, nan_ok=True)
            assert row["time"] == pytest.approx(5 + (12 + h) / 3)
    (asked, _) = model.asked
    assert asked.request == Request(12, 3, 4, 6)
    assert asked.sampling.temperature == 0.7 and asked.sampling.grammar


def test_a_model_sees_the_last_steps_of_its_context_and_says_so(tidy, values):
    model = known()
    found = jaxlv.forecast(model, tidy, 2, 3, context=5, arrays=True, batch_series=1)
    assert isinstance(found, Forecast) and found.samples_NSHV.shape == (2, 3, 2, 2)
    (asked,) = model.asked
    np.testing.assert_array_equal(asked.series.values_NTV, values[::-1, -5:])
    np.testing.assert_allclose(asked.series.time_T, 5 + np.arange(7, 12) / 3)
    np.testing.assert_allclose(found.time_H, 5 + np.arange(12, 14) / 3)
    assert asked.request == Request(5, 2, 3, batch=1) and found.ids_N.tolist() == [4, 9]


def test_no_more_steps_are_given_than_the_model_has_read(monkeypatch, values):
    monkeypatch.setattr("jaxlv.studies.given.LONGEST", 10 * 2 * 5)  # 10 steps of two variables
    with pytest.warns(JaxlvWarning, match=f"the last 8 of {len(values[0])} steps are the context"):
        found = jaxlv.forecast("embedded-cycles", values[0], 2, 2)
    assert found.equals(jaxlv.forecast("embedded-cycles", values[0], 2, 2, context=8))


def test_series_in_every_shape(values, tidy, tmp_path):
    data = as_series(values)
    assert data.ids_N.tolist() == [0, 1] and data.variables == ("prey", "predator")
    np.testing.assert_array_equal(data.time_T, np.arange(12))
    np.testing.assert_array_equal(as_series(values[1]).values_NTV, values[1:])
    series.save(tmp_path / "x.h5", data)
    for way in (data, tmp_path / "x.h5", str(tmp_path / "x.h5")):
        np.testing.assert_allclose(as_series(way).values_NTV, values)
    several = as_series(tidy)
    assert several.ids_N.tolist() == [4, 9] and several.variables == ("prey", "predator")
    np.testing.assert_array_equal(several.values_NTV, values[::-1])
    np.testing.assert_allclose(several.time_T, 5 + np.arange(12) / 3)
    one = as_series(tidy[["prey", "predator"]][12:])
    np.testing.assert_array_equal(one.values_NTV, values[1:])


# -------------------------------------------------------------------------------------------------- which model it is


def test_every_way_to_name_a_model_is_the_same_model(values):
    model, params = jaxlv.load_pretrained("embedded")
    ways = ["embedded-cycles", (model, params), model.bind({"params": params}), jaxlv.open_model("embedded")]
    found = [jaxlv.forecast(way, values, 2, 2, arrays=True, seed=3).samples_NSHV for way in ways]
    assert found[0].shape == (2, 2, 2, 2) and np.isfinite(found[0]).all()
    request = jaxlv.Request(values.shape[1], 2, 2, seed=3, batch=2)
    for other in (*found[1:], ways[-1](as_series(values), request).samples_NSHV):
        np.testing.assert_array_equal(other, found[0])


def test_a_model_that_is_held_has_the_codec_and_the_overlay_that_it_is_given(random_model, random_lora, tiny_base):
    model, params = random_model(vocab_size=32)
    lora, codec = random_lora(params, rank=2), Codec(decimals=3)
    found = jaxlv.open_model((model, params, lora), codec=codec, tokenizer=tiny_base)
    assert found.codec is codec and found.variables["lora"] is lora and found.variables["params"] is params
    assert jaxlv.open_model((model, params), tokenizer=tiny_base).codec == Codec()
    with pytest.raises(JaxlvError, match="has an adapter of its own"):
        jaxlv.open_model((model, params, lora), adapter="x", tokenizer=tiny_base)


def test_an_adapter_says_how_series_are_written_unless_told_otherwise(random_model, random_lora, tiny_base, tmp_path):
    model, params = random_model(vocab_size=32)
    lora, own = random_lora(params, rank=2), Codec(decimals=3, headroom=0.25)
    save_peft(tmp_path / "adapter", lora, LoraConfig(rank=2), Origin("base", codec=own))
    found = jaxlv.open_model((model, params), tmp_path / "adapter", tokenizer=tiny_base)
    assert found.codec == own and found.variables["lora"].keys() == lora.keys()
    other = Codec(decimals=1)
    assert jaxlv.open_model((model, params), tmp_path / "adapter", tokenizer=tiny_base, codec=other).codec == other


def test_a_forecast_takes_every_setting_of_sampling_and_of_opening_a_model():
    opening = [name for name in inspect.signature(jaxlv.open_model).parameters if name not in ("model", "settings")]
    assert sorted(OPENING) == sorted(opening)
    assert set(Options.__annotations__) == {*opening, "batch_series", *SamplingConfig.__dataclass_fields__}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: jaxlv.forecast("gone", v, 1), "no such model folder"),
        (lambda v: jaxlv.forecast("embedded", v, 1, temperatur=1), "unknown setting temperatur"),
        (lambda v: jaxlv.forecast("embedded", v, 1, context=99), "context does not fit"),
        (lambda v: jaxlv.forecast("embedded", v.transpose(0, 2, 1), 1), "axis 2"),
        (lambda v: jaxlv.forecast(("embedded",), v, 1), "no model"),
        (lambda v: jaxlv.forecast(jaxlv.load_pretrained("embedded")[0].bind({}), v, 1), "the model has no parameters"),
        (lambda v: jaxlv.forecast("embedded", pd.DataFrame({"time": [1.0, 2.0]}), 1), "no column of numbers to forecast"),
        (lambda v: jaxlv.forecast("embedded", v, 1, adapter="gone"), "no adapter"),
    ],
)
def test_what_does_not_fit_is_one_line(values, call, message):
    with pytest.raises(JaxlvError, match=message):
        call(values)


def test_tokens_of_a_model_without_a_folder(random_model, values):
    with pytest.raises(JaxlvError, match=r"a model of 61 tokens.*the meaning of its tokens is unknown"):
        jaxlv.forecast(random_model(), values, 1)
