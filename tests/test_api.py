"""The library as a notebook uses it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import jaxlv
from jaxlv.data import series
from jaxlv.errors import JaxlvError
from jaxlv.forecasting.forecaster import Forecast


@pytest.fixture(scope="module")
def values(waves) -> np.ndarray:
    return waves(count=2, steps=12).values_NTV


def test_a_forecast_is_a_frame_of_what_follows(values):
    frame = jaxlv.forecast("embedded", values, 3, 4, temperature=0.7)
    assert list(frame.columns) == ["series", "step", "time", "variable", "statistic", "value"]
    assert sorted(frame["step"].unique()) == [12, 13, 14] and set(frame["variable"]) == {"prey", "predator"}
    assert {f"sample_{i}" for i in range(4)} | {"median", "mean", "q05", "q95"} <= set(frame["statistic"])
    assert np.isfinite(frame["value"]).all()


def test_arrays_are_the_samples(values):
    found = jaxlv.forecast("embedded", values[0], 3, 4, arrays=True, seed=3)
    assert isinstance(found, Forecast) and found.samples_NSHV.shape == (1, 4, 3, 2)
    again = jaxlv.forecast("embedded", values[0], 3, 4, arrays=True, seed=3)
    np.testing.assert_array_equal(found.samples_NSHV, again.samples_NSHV)


def test_every_way_to_name_a_model_is_the_same_model(values):
    model, params = jaxlv.load_pretrained("embedded")
    ways = ["embedded", (model, params), model.bind({"params": params}), jaxlv.open_model("embedded")]
    found = [jaxlv.forecast(way, values, 2, 2, arrays=True).samples_NSHV for way in ways]
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_an_adapter_by_its_folder_or_as_an_overlay(work):
    data = series.load(work.data)
    model, params = jaxlv.load_pretrained(work.base)
    lora = jaxlv.load_adapter(work.run / "adapter", model)
    given = data.values_NTV[:2]
    options = dict(arrays=True, context=8, temperature=0.9)
    by_run = jaxlv.forecast(work.run, given, 3, 2, **options)
    by_folder = jaxlv.forecast(work.base, given, 3, 2, adapter=work.run / "adapter", **options)
    codec = jaxlv.open_model(work.run).codec
    by_hand = jaxlv.forecast((model, params, lora), given, 3, 2, codec=codec, tokenizer=work.base, **options)
    np.testing.assert_array_equal(by_folder.samples_NSHV, by_run.samples_NSHV)
    np.testing.assert_array_equal(by_hand.samples_NSHV, by_run.samples_NSHV)


def test_series_in_every_shape(values, work, tmp_path):
    data = series.load(work.data)
    tidy = pd.DataFrame(values.reshape(-1, 2), columns=["prey", "predator"])
    several = tidy.assign(series=np.repeat([4, 9], 12), time=np.tile(2.0 * np.arange(12), 2))
    found = jaxlv.forecast("embedded", several, 2, 1)
    assert set(found["series"]) == {4, 9} and set(found["time"]) == {24.0, 26.0}
    one = jaxlv.forecast("embedded", tidy[:12], 2, 1, arrays=True)
    np.testing.assert_array_equal(one.samples_NSHV, jaxlv.forecast("embedded", values[0], 2, 1, arrays=True).samples_NSHV)
    for way in (data, work.data, str(work.data)):
        assert len(jaxlv.forecast("embedded", way, 1, 1, arrays=True, context=5).ids_N) == len(data)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: jaxlv.forecast("gone", v, 1), "no such model folder"),
        (lambda v: jaxlv.forecast("embedded", v, 1, temperatur=1), "unknown setting temperatur"),
        (lambda v: jaxlv.forecast("embedded", v, 1, context=99), "context does not fit"),
        (lambda v: jaxlv.forecast("embedded", v[..., :1], 1), "axis 2"),
        (lambda v: jaxlv.forecast(("embedded",), v, 1), "no model"),
        (lambda v: jaxlv.forecast(jaxlv.load_pretrained("embedded")[0].bind({}), v, 1), "without its parameters"),
        (lambda v: jaxlv.forecast("embedded", pd.DataFrame({"time": [1.0, 2.0]}), 1), "a frame of series"),
        (lambda v: jaxlv.forecast("embedded", v, 1, adapter="gone"), "no adapter"),
    ],
)
def test_what_does_not_fit_is_one_line(values, call, message):
    with pytest.raises(JaxlvError, match=message):
        call(values)


def test_tokens_of_a_model_without_a_folder(random_model, values):
    with pytest.raises(JaxlvError, match=r"whose tokens.*a model of 61 tokens|a model of 61 tokens.*whose tokens"):
        jaxlv.forecast(random_model(), values, 1)
