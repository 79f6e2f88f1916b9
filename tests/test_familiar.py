"""What a context costs a base for each written value, and the warning that it is like nothing the base has read."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import jaxlv
from jaxlv import api
from jaxlv.data.series import from_arrays
from jaxlv.forecasting import familiar
from jaxlv.forecasting.likelihood import nats_per_value
from jaxlv.model import bases
from jaxlv.model.bases import EMBEDDED_BASE
from jaxlv.studies import given
from jaxlv.studies.choice import Reader
from jaxlv.text.codec import SYMBOLS
from jaxlv.text.tokens import IGNORED, Alphabet, window

ALPHABET = Alphabet(np.arange(13, dtype=np.int32), (13,), "test")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded base, which says that its validation costs less than 5.5 nats for each value."""
    folder = tmp_path_factory.mktemp("base") / "base"
    shutil.copytree(EMBEDDED_BASE, folder)
    limit(folder, {"2": 5.5})
    return folder


def limit(folder: Path, familiar: dict[str, float]) -> None:
    """Writes what a base says of its limits."""
    record = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps({**record, "familiar": familiar}))


def wave(steps: int = 20) -> np.ndarray:
    time_T = np.arange(steps)
    return np.stack([2 + np.sin(time_T / 3), 1.5 + np.cos(time_T / 3)], axis=1)


def wild(steps: int = 20) -> np.ndarray:
    return np.random.default_rng(0).choice([0.01, 9.99, 5.0], (steps, 2))


def test_the_first_steps_and_gaps_do_not_count():
    text = "1.00;" * familiar.FIRST + "2.00;;3.00;"
    found = familiar.later(window(ALPHABET.encode(text), 64), ALPHABET)
    asked = "".join(SYMBOLS[i] for i in found.labels_ML if i != IGNORED)
    assert asked == "2.00;3.00;"


def test_values_that_were_filled_in_do_not_count():
    text = "1.00,4.00;2.00,5.00;3.00,6.00;"
    rows = window(ALPHABET.encode(text), 40)
    rows = type(rows)(*(array[None] for array in rows))
    filled_TV = np.array([[False, False], [True, False], [False, True]])
    found = familiar.known(rows, [filled_TV], ALPHABET)
    asked = "".join(SYMBOLS[i] for i in found.labels_ML[0] if i != IGNORED)
    assert asked == ".00,4.00;5.00;3.00,"  # nothing precedes the first token
    same = familiar.known(rows, [np.zeros((3, 2), bool)], ALPHABET)
    np.testing.assert_array_equal(same.labels_ML, rows.labels_ML)


def test_nats_are_shared_out_among_the_values():
    text = "1.00,1.00;" * familiar.FIRST + "2.00,3.00;"
    rows = familiar.later(window(ALPHABET.encode(text), 80), ALPHABET)
    rows = type(rows)(*(array[None] for array in rows))
    nll_ML = np.where(rows.labels_ML == IGNORED, 0.0, 0.5)
    assert familiar.by_value(nll_ML, rows, ALPHABET).tolist() == [0.5 * 10 / 2]


def test_nats_are_those_of_the_likelihood():
    """With a prefix of FIRST steps, the same values cost what `nats_per_value` says, without the density's unit."""
    sampler, series = api.open_model("embedded"), from_arrays(np.stack([wave(), wild()]))
    found_N = familiar.nats_per_written_value(sampler, series, 20)
    scales_NV = sampler.scales(series, 20)
    # the scale of both is that of the whole context
    given = from_arrays(np.concatenate([series.values_NTV], axis=0))
    nats_NHV = nats_per_value(sampler, given, familiar.FIRST, 20 - familiar.FIRST)
    own_NV = sampler.scales(given, familiar.FIRST)
    same_N = np.isclose(scales_NV, own_NV).all(axis=1)
    expected_NV = nats_NHV.mean(axis=1) - np.log(own_NV * 0.01)
    np.testing.assert_allclose(found_N[same_N], expected_NV.mean(axis=1)[same_N], rtol=1e-4)
    assert same_N[1] and found_N[1] > found_N[0] + 1


def test_a_context_that_is_too_short_costs_nothing_that_is_known():
    sampler = api.open_model("embedded")
    assert np.isnan(familiar.nats_per_written_value(sampler, from_arrays(wave(6)[None]), 6)).all()


def test_a_context_costs_the_same_beside_others_whatever_comes_after_it(monkeypatch: pytest.MonkeyPatch):
    """In batches of any size; of a series that begins later, too. Here a token costs what it is."""
    monkeypatch.setattr(
        familiar,
        "metered_nll",
        lambda sampler, rows: np.where(rows.labels_ML == IGNORED, 0, rows.labels_ML + rows.ids_ML / 9),
    )
    sampler = api.open_model("embedded")
    series = from_arrays(np.stack([wave(24), wild(24), np.exp(wave(24))]))
    series = replace(series, first_N=np.array([0, 4, 0]))
    behind_NTV = np.broadcast_to(1 + wild(4), (3, 4, 2))
    other = replace(series, values_NTV=np.concatenate([series.values_NTV[:, :20], behind_NTV], axis=1))
    found_N = familiar.nats_per_written_value(sampler, series, 20)
    for one, batch in ((series, 2), (other, 8)):
        np.testing.assert_allclose(familiar.nats_per_written_value(sampler, one, 20, batch), found_N, rtol=1e-5)
    alone = from_arrays(wild(24)[None, 4:])
    np.testing.assert_allclose(familiar.nats_per_written_value(sampler, alone, 16), found_N[1:2], rtol=1e-5)


def test_a_base_says_its_limits(base: Path, tmp_path: Path):
    assert bases.limits_of(str(base)) == {"2": 5.5}
    assert bases.limits_of(str(tmp_path)) == {} and bases.limits_of(None) == {}


def test_a_base_says_whether_it_has_read_gaps(base: Path, tmp_path: Path):
    """Of a model that says nothing, nothing is known that would speak against them."""
    assert not bases.may_read_gaps(base) and not bases.may_read_gaps(bases.EMBEDDED_BASE)
    assert bases.may_read_gaps(bases.FIELD_BASE) and bases.may_read_gaps(tmp_path) and bases.may_read_gaps(None)


def test_limits_are_the_99th_percentiles():
    nats, variables = np.concatenate([np.arange(101.0), np.arange(101.0) / 10]), np.repeat([1, 3], 101)
    assert familiar.limits(nats, variables) == {"1": 99.0, "3": 9.9}


def told(base: Path, values_TV: np.ndarray) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jaxlv.Forecaster(str(base)).predict(values_TV, horizon=2, samples=2)
    return [str(one.message) for one in caught if "the base has read" in str(one.message)]


def test_a_forecast_says_if_the_base_has_read_nothing_like_it(base: Path):
    assert told(base, wave()) == []
    (line,) = told(base, wild())
    assert "99 % below 5.5" in line and "the baselines end at" in line


def test_where_the_baselines_end_is_told_in_the_units_of_the_data(monkeypatch: pytest.MonkeyPatch):
    """Of what costs more than the limit, and of that alone."""
    monkeypatch.setattr(given, "limits_of", lambda folder: {"1": 5.0})
    monkeypatch.setattr(familiar, "nats_per_written_value", lambda *given: np.array([5.0, 5.1]))
    series = jaxlv.load_series([np.arange(1.0, 9), np.array([-1.0, -3.0] * 4)]).ready().series
    model: Any = SimpleNamespace(model=SimpleNamespace(folder="base"), variables={})
    (line,) = given.unfamiliar(series, Reader(model), 8, 1)
    assert line.startswith("series 1 looks like nothing") and line.endswith("the baselines end at value -3 to -1")


def test_a_forecast_says_if_the_base_has_read_no_series_of_so_many_variables(base: Path, tmp_path: Path):
    """That a variable can be a series of its own helps if the base has read such series."""
    four_TV = np.concatenate([wave(), wave()], axis=1)
    assert told(base, four_TV) == ["the base has read series of 2 variables, not of 4"]
    shutil.copytree(base, tmp_path / "base")
    limit(tmp_path / "base", {"1": 5.5, "2": 5.5})
    (line,) = told(tmp_path / "base", four_TV)
    assert line == "the base has read series of 1 to 2 variables, not of 4: separate makes each variable a series of its own"


def test_the_base_of_cycles_names_the_one_for_the_field():
    """Of a base of somebody else, nothing is known that would help."""
    cycles = Reader(api.open_model("embedded-cycles"))
    one, two = (jaxlv.load_series(wild()[:, :n]).ready().series for n in (1, 2))
    assert list(given.unfamiliar(one, cycles, 18, 2)) == [
        "the base has read series of 2 variables, not of 1; embedded-field has"
    ]
    *_, last = given.unfamiliar(two, cycles, 18, 2)
    assert last == "embedded-field has read noise, gaps, counts and more kinds of series"
    known = jaxlv.simulate(series=1, steps=60, seed=1).ready().series
    assert list(given.unfamiliar(known, cycles, 50, 10)) == []
    assert not any(
        "embedded-field" in line for line in given.unfamiliar(two, cycles._replace(name="embedded-cycles"), 18, 2)
    )


def test_what_a_choice_has_measured_is_not_measured_again(monkeypatch: pytest.MonkeyPatch):
    sampler, series = api.open_model("embedded-cycles"), jaxlv.load_series(wild()).ready().series
    monkeypatch.delattr(familiar, "nats_per_written_value")
    (line, *_) = given.unfamiliar(series, Reader(sampler, nats_N=np.array([12.0])), 18, 2)
    assert "12 nats for each written value" in line
