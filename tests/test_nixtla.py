"""jaxlv as a model of Nixtla's statsforecast, and the loop over frames of its guides."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxlv
from jaxlv.errors import JaxlvError, JaxlvWarning
from jaxlv.integrations.nixtla import JaxlvModel

STEPS = np.arange(24)
SERIES = {"hare": 40 + 30 * np.sin(STEPS / 2), "lynx": 20 + 15 * np.cos(STEPS / 2)}


@pytest.fixture
def model(tiny_base) -> JaxlvModel:
    return JaxlvModel(str(tiny_base), samples=4, context=8)


@pytest.fixture
def frame() -> pd.DataFrame:
    months = pd.date_range("2001-01-31", periods=len(STEPS), freq="ME")
    parts = [pd.DataFrame({"unique_id": one, "ds": months, "y": values}) for one, values in SERIES.items()]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def statsforecast() -> Any:
    return pytest.importorskip("statsforecast", reason="needs jaxlv[nixtla]")


def test_a_forecast_is_the_median_of_the_samples_and_the_ends_of_their_bands(model):
    found = model.forecast(SERIES["hare"], h=3, level=[95, 50])
    assert list(found) == ["mean", "lo-95", "lo-50", "hi-50", "hi-95"]
    assert all(values.shape == (3,) for values in found.values())
    paths = model.simulate(h=3, n_paths=4, y=SERIES["hare"])
    np.testing.assert_array_equal(found["mean"], np.median(paths, axis=0))
    assert (found["lo-95"] <= found["lo-50"]).all() and (found["hi-50"] <= found["hi-95"]).all()
    assert (model.simulate(h=3, n_paths=4, y=SERIES["hare"], seed=1) != paths).any()


def test_fit_and_predict_are_forecast_and_a_copy_is_a_model_of_its_own(model):
    copy = model.new()
    fitted = copy.fit(SERIES["hare"])
    assert fitted is copy and repr(copy) == "jaxlv"
    known = model.forecast(SERIES["hare"], 2, level=[80])
    for found in (copy.predict(2, level=[80]), model.forward(y=SERIES["hare"], h=2, level=[80])):
        assert {name: values.tolist() for name, values in found.items()} == {k: v.tolist() for k, v in known.items()}
    with pytest.raises(JaxlvError, match="not fitted"):
        model.predict(2)


def test_missing_values_are_told_and_other_things_refused(model):
    gap = SERIES["hare"].copy()
    gap[20] = np.nan
    with pytest.warns(JaxlvWarning, match="1 missing value"):
        assert np.isfinite(model.forecast(gap, 2)["mean"]).all()
    for wrong, words in (({"level": [0]}, "not levels"), ({"fitted": True}, "no fitted values")):
        with pytest.raises(JaxlvError, match=words):
            model.forecast(SERIES["hare"], 2, **wrong)
    with pytest.raises(JaxlvError, match="0 throughout"):
        model.forecast(np.zeros(12), 2)


def test_no_two_series_are_drawn_with_the_same_random_numbers(model):
    doubled = model.simulate(h=4, n_paths=4, y=2 * SERIES["hare"])
    assert not np.allclose(doubled, 2 * model.simulate(h=4, n_paths=4, y=SERIES["hare"]))


def test_statsforecast_takes_it_beside_its_own_models(model, frame, statsforecast):
    from statsforecast.models import Naive

    loop = statsforecast.StatsForecast(models=[model, Naive()], freq="ME")
    found = loop.cross_validation(df=frame, h=2, n_windows=2, level=[80])
    assert len(found) == 2 * 2 * 2
    assert {"unique_id", "ds", "cutoff", "y", "jaxlv", "jaxlv-lo-80", "jaxlv-hi-80", "Naive"} <= set(found.columns)
    first = found[(found["unique_id"] == "lynx") & (found["cutoff"] == found["cutoff"].min())]
    known = model.forecast(SERIES["lynx"][:-3], 2, level=[80])
    np.testing.assert_allclose(first["jaxlv"], known["mean"])
    np.testing.assert_allclose(first["jaxlv-hi-80"], known["hi-80"])
    kept = statsforecast.StatsForecast(models=[model], freq="ME").cross_validation(df=frame, h=2, n_windows=2, refit=False)
    np.testing.assert_allclose(kept["jaxlv"], found["jaxlv"])


def test_statsforecast_fits_predicts_and_forecasts_with_it(model, frame, statsforecast):
    loop = statsforecast.StatsForecast(models=[model], freq="ME")
    found = loop.fit(frame).predict(h=2, level=[80])
    pd.testing.assert_frame_equal(found, loop.forecast(df=frame, h=2, level=[80]))
    np.testing.assert_allclose(found["jaxlv"][2:], model.forecast(SERIES["lynx"], 2)["mean"])
    assert found["ds"].min() == pd.Timestamp("2003-01-31")


def test_the_loop_over_frames_gives_the_columns_of_nixtla(tiny_base, frame):
    forecaster = jaxlv.Forecaster(str(tiny_base), progress=False)
    parts = []
    for cutoff in sorted(frame["ds"].unique())[-5:-1:2]:
        known, truth = frame[frame["ds"] <= cutoff], frame[frame["ds"] > cutoff]
        made = forecaster.predict(known, 2, samples=2, context=8).to_frame("nixtla")
        assert list(made.columns) == ["unique_id", "ds", "jaxlv", "jaxlv-lo-80", "jaxlv-hi-80"]
        parts.append(made.merge(truth, on=["unique_id", "ds"], how="left", validate="one_to_one").assign(cutoff=cutoff))
    found = pd.concat(parts)
    assert len(found) == 2 * 2 * 2 and found["y"].notna().all()


def test_jaxlv_loads_none_of_the_libraries_that_it_can_be_a_part_of():
    code = (
        "import sys, jaxlv; jaxlv.Forecaster; print([n for n in ('sktime', 'statsforecast', 'lm_eval') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
