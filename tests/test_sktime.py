"""jaxlv as a forecaster of sktime: sktime's own checks, and forecasts under the caller's index."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pandas as pd
import pytest

import jaxlv
from jaxlv.errors import JaxlvError, JaxlvWarning

pytest.importorskip("sktime", reason="needs jaxlv[sktime]")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

from sktime.forecasting.base import ForecastingHorizon  # noqa: E402
from sktime.utils.estimator_checks import check_estimator  # noqa: E402

from jaxlv.integrations import opening  # noqa: E402
from jaxlv.integrations.sktime import JaxlvForecaster  # noqa: E402

STEPS = np.arange(20)
HARE, LYNX = 40 + 30 * np.sin(STEPS / 2), 20 + 15 * np.cos(STEPS / 2)


@pytest.fixture
def forecaster(tiny_base) -> JaxlvForecaster:
    return JaxlvForecaster(str(tiny_base), samples=3, context=8)


@pytest.fixture
def direct(tiny_base) -> jaxlv.Forecaster:
    return jaxlv.Forecaster(str(tiny_base), progress=False)


def months(values, start: str = "2001-01", name: str = "y") -> pd.Series:
    return pd.Series(values, pd.period_range(start, periods=len(values), freq="M"), name=name)


@pytest.mark.slow
def test_every_check_of_sktime_passes():
    results = check_estimator(JaxlvForecaster, verbose=False)
    assert {name: found for name, found in results.items() if not isinstance(found, str) or found != "PASSED"} == {}
    assert len(results) > 800 and any("pretrain" in name for name in results)


def test_forecasts_are_those_of_jaxlv_forecaster(forecaster, direct):
    known = direct.predict(HARE, horizon=5, samples=3, context=8)
    forecaster.fit(months(HARE))
    found = forecaster.predict(fh=[1, 2, 5])
    assert found.name == "y" and [str(one) for one in found.index] == ["2002-09", "2002-10", "2003-01"]
    np.testing.assert_array_equal(found, known.median[0, [0, 1, 4], 0])
    bands = forecaster.predict_interval(fh=[1, 2, 5], coverage=[0.5, 0.8])
    np.testing.assert_allclose(bands["y", 0.8, "lower"], known.quantiles([0.1])["0.1"].to_numpy()[[0, 1, 4]])
    np.testing.assert_allclose(forecaster.predict_var(fh=[2])["y"], known.samples[0, :, 1, 0].var())


def test_variables_go_by_name_and_come_back_in_the_callers_order(forecaster, direct):
    frame = pd.DataFrame({"lynx": LYNX, "hare": HARE})
    found = forecaster.fit(frame).predict(fh=[1, 2])
    known = direct.predict(frame[["hare", "lynx"]], horizon=2, samples=3, context=8)
    assert list(found.columns) == ["lynx", "hare"] and list(found.index) == [20, 21]
    np.testing.assert_array_equal(found[["hare", "lynx"]], known.median[0])


def test_a_panel_keeps_its_ids_and_each_series_goes_on_from_its_own_end(forecaster):
    parts = {"north": months(HARE), "south": months(LYNX[:12], "2003-05"), "west": months(np.zeros(20))}
    panel = pd.concat({one: part.to_frame() for one, part in parts.items()}, names=["site", "month"])
    with pytest.warns(JaxlvWarning, match="series 2 is left out"):
        found = forecaster.fit(panel).predict(fh=[1])
    assert found.index.names == ["site", "month"]
    assert [(one, str(month)) for one, month in found.index] == [
        ("north", "2002-09"),
        ("south", "2004-05"),
        ("west", "2002-09"),
    ]
    assert found["y"].notna().tolist() == [True, True, False]


def test_a_series_that_cannot_be_forecast_says_why(forecaster):
    with pytest.raises(JaxlvError, match="0 throughout its context"):
        forecaster.fit(months(np.zeros(20))).predict(fh=[1])


@pytest.mark.parametrize(
    "index",
    [
        pd.period_range("2001-01", periods=20, freq="M"),
        pd.date_range("2001-01-01", periods=20, freq="D"),
        pd.date_range("2001-01-31", periods=20, freq="ME"),
        pd.RangeIndex(1900, 1920),
        pd.RangeIndex(1900, 1940, 2),
    ],
    ids=["periods", "days", "ends of months", "years", "every second year"],
)
def test_gaps_in_an_index_and_empty_cells_are_the_same(forecaster, index):
    whole = pd.Series(HARE, index)
    whole.iloc[[3, 16]] = np.nan
    step = int(np.diff(index[:2])[0]) if isinstance(index, pd.RangeIndex) else 1
    with pytest.warns(JaxlvWarning, match="2 missing values"):
        known = forecaster.fit(whole).predict(fh=[step, 3 * step])
    with pytest.warns(JaxlvWarning, match=r"2 missing values \(2 whole steps\)"):
        found = forecaster.fit(whole.dropna()).predict(fh=[step, 3 * step])
    pd.testing.assert_series_equal(found, known, check_freq=False)
    with pytest.warns(JaxlvWarning):
        freq = getattr(index, "freqstr", None)  # which sktime itself does not find in dates with gaps
        again = forecaster.predict(fh=ForecastingHorizon(known.index, is_relative=False, freq=freq))
    pd.testing.assert_series_equal(again, known, check_freq=False)


def test_a_time_that_is_no_step_is_refused(forecaster):
    forecaster.fit(pd.Series(HARE, pd.RangeIndex(1900, 1940, 2)))
    with pytest.raises(JaxlvError, match="no step of the series"):
        forecaster.predict(fh=[1])
    odd = pd.date_range("2001-01-01", periods=20, freq="MS").to_list()
    odd[4] += pd.Timedelta("3D")
    with pytest.raises(JaxlvError, match="irregular"):
        forecaster.fit(pd.Series(HARE, pd.DatetimeIndex(odd))).predict(fh=[1])


def test_an_update_moves_the_context(forecaster):
    known = forecaster.clone().fit(months(HARE)).predict(fh=[1])
    moved = forecaster.fit(months(HARE[:15])).update(months(HARE[15:], "2002-04"), update_params=False)
    pd.testing.assert_series_equal(moved.predict(fh=[1]), known)


def test_a_fitted_forecaster_is_small_and_opens_its_model_again_only_if_its_files_change(forecaster, tiny_base):
    forecaster.fit(months(HARE))
    assert len(pickle.dumps(forecaster)) < 20_000
    first = opening.opened(str(tiny_base))
    assert opening.opened(str(tiny_base)) is first and opening.opened(first) is first
    weights = tiny_base / "model.safetensors"
    os.utime(weights, ns=(weights.stat().st_atime_ns, weights.stat().st_mtime_ns + 1_000_000))
    assert opening.opened(str(tiny_base)) is not first


def test_pretraining_tunes_and_a_second_time_goes_on(tiny_base, tmp_path):
    settings = ("windows.length=64", "train.batch_size=1", "lora.rank=2", "optimizer.warmup_steps=0")
    forecaster = JaxlvForecaster(str(tiny_base), samples=2, context=8, fit_options={"steps": 2, "settings": settings})
    panel = pd.concat({one: months(HARE + one).to_frame() for one in (1, 2)}, names=["site", "month"])
    before = forecaster.clone().fit(months(HARE)).predict_quantiles(fh=[1, 2], alpha=[0.25])
    forecaster.pretrain(panel)
    first = forecaster.run_
    tuned = forecaster.fit(months(HARE)).predict_quantiles(fh=[1, 2], alpha=[0.25])
    assert forecaster.clone().run_ == first and not tuned.equals(before)
    run = jaxlv.Forecaster(first, progress=False).run
    assert run is not None and len(run.split["train"]) == 2
    forecaster.pretrain(panel)
    again = jaxlv.Forecaster(forecaster.run_, progress=False).run
    assert again is not None and again.config.lora.init.startswith(first)
