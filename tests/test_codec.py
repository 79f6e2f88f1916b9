"""Numbers as text and back: golden strings, precision, and a decoder that never shifts what follows an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from jaxlv.config import CodecConfig
from jaxlv.data import loading
from jaxlv.errors import JaxlvError
from jaxlv.text.codec import SCALE_RULES, SYMBOLS, TOP, Codec

ONE_V = np.ones(2)  # alpha of text read in written units


@pytest.fixture(scope="module")
def goldens(shared) -> dict[str, Any]:
    return json.loads((shared / "reference" / "goldens.json").read_text())


@pytest.fixture(scope="module")
def values_NTV(shared: Path) -> np.ndarray:
    return loading.load(shared / "data" / "lotka_volterra_data.h5").values_NTV


def some_series(T: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.01, 8.0, (T, 2))


# Goldens

CODECS = {
    "mao": ("mao", 2),
    "rai": ("rai", 2),
    "liu": ("liu", 3),
    "xu, 2 decimals": ("xu", 2),
    "xu, 3 decimals": ("xu", 3),
}


def text_of(series_TV: np.ndarray, codec: Codec) -> str:
    return codec.encode(series_TV, codec.fit(series_TV, series_TV), closed=False)


def test_rai_examples(goldens):
    for example in goldens["rai_examples"]:
        values_TV = np.stack([example["prey"], example["predator"]], axis=1)
        codec = Codec("rai", decimals=2)
        np.testing.assert_allclose(codec.fit(values_TV, values_TV), example["alpha"], rtol=1e-9)
        assert text_of(values_TV, codec) == example["text"]


@pytest.mark.parametrize(("name", "row"), [("mao", 0), ("mao", 1), ("xu", 0), ("liu", 0)])
def test_prefixes_of_the_data_set(goldens, values_NTV, name, row):
    (prefix,) = (text for key, text in goldens["dataset_text_prefix"].items() if key.startswith(f"{name}, series {row}"))
    codec = Codec.for_data(CodecConfig(scale=name, decimals=2 if name == "mao" else 3), values_NTV)
    assert text_of(values_NTV[row], codec).startswith(prefix)


def test_factor_of_mao(values_NTV):
    assert Codec.for_data(CodecConfig(scale="mao"), values_NTV).dataset_alpha == pytest.approx(0.79296956, rel=1e-7)


@pytest.mark.parametrize("name", CODECS)
def test_lengths_and_round_trip_of_the_data_set(goldens, values_NTV, name):
    scale, decimals = CODECS[name]
    codec = Codec.for_data(CodecConfig(scale=scale, decimals=decimals), values_NTV)
    lengths, errors = [], []
    for series_TV in values_NTV:
        alpha_V = codec.fit(series_TV, series_TV)
        text = codec.encode(series_TV, alpha_V)
        lengths.append(len(text) - 1)  # the papers leave the last step open
        errors.append(np.abs(codec.decode(text, alpha_V).values_TV - series_TV).mean())
    assert [min(lengths), np.median(lengths), max(lengths)] == goldens["tokens_per_series_min_median_max"][name]
    assert np.mean(errors) == pytest.approx(goldens["round_trip_mae_raw_units"][name], rel=0.01)


# Encode and decode

nonnegative = hnp.arrays(np.float64, st.tuples(st.integers(1, 20), st.just(2)), elements=st.floats(0, 9e4))


@given(nonnegative, st.floats(0.1, 10.0), st.integers(1, 6))
def test_decode_inverts_encode_to_the_decimals_written(values_TV, alpha, decimals):
    codec, alpha_V = Codec(decimals=decimals), np.array([alpha, 1.0])
    text = codec.encode(values_TV, alpha_V)
    assert set(text) <= set(SYMBOLS) and text.endswith(";")
    decoded = codec.decode(text, alpha_V)
    assert (decoded.steps, decoded.stop, decoded.at) == (len(values_TV), "end of text", "")
    half_unit_V = 0.5 * 10.0**-decimals * alpha_V
    assert (np.abs(decoded.values_TV - values_TV) <= half_unit_V + 1e-12 * values_TV).all()
    assert codec.encode(decoded.values_TV, alpha_V) == text


@given(st.integers(0, 11), st.sampled_from(["insert", "delete", "replace"]), st.sampled_from(SYMBOLS + "?x"), st.data())
def test_one_wrong_character_never_shifts_another_step(step, edit, symbol, data):
    """Every step read, except the damaged one, holds the values that were in its place."""
    codec, values_TV = Codec(), some_series(12)
    steps = codec.encode(values_TV, ONE_V).split(";")[:-1]
    place = data.draw(st.integers(0, len(steps[step])))  # the last place is that of ";"
    closed = steps[step] + ";"
    cut = place + (edit != "insert")
    damaged = closed[:place] + ("" if edit == "delete" else symbol) + closed[cut:]
    text = "".join([*(s + ";" for s in steps[:step]), damaged, *(s + ";" for s in steps[step + 1 :])])
    decoded = codec.decode(text, ONE_V)
    assert decoded.steps >= step
    for n, read_V in enumerate(decoded.values_TV):
        if n != step:
            np.testing.assert_allclose(read_V, values_TV[n], atol=0.005 + 1e-9)


@pytest.mark.parametrize(
    ("text", "steps", "stop"),
    [
        ("1.2,3.4;5.6,7.8;", 2, "end of text"),
        ("1.2,3.4;5.6,7.8", 1, "end of text"),
        ("1.2,3.4;5.6,", 1, "end of text"),
        ("", 0, "end of text"),
        ("1.2,3.4;1.2.3,4.0;5.0,6.0;", 1, "not a number"),
        ("1.2,3.4;1..2,4.0;5.0,6.0;", 1, "not a number"),
        ("1.2,3.4;.5,4.0;", 1, "not a number"),
        ("1.2,3.4;5.,4.0;", 1, "not a number"),
        ("1.2,3.4;,;5.0,6.0;", 1, "not a number"),
        ("1.2,3.4;-1.0,4.0;", 1, "not a number"),
        ("1.2,3.4;1e3,4.0;", 1, "not a number"),
        ("1.2,3.4; 1.0,4.0;", 1, "not a number"),
        ("1.2,3.4;nan,inf;", 1, "not a number"),
        ("1.2,3.4;١.٢,3.0;", 1, "not a number"),
        ("1.2,3.4;１,２;", 1, "not a number"),
        ("1.2,3.4;" + 400 * "9" + ",1.0;", 1, "not a number"),
        ("1.2,3.4;1.0\n,4.0;", 1, "not a number"),
        ("1.2,3.4;5.67.8;9.0,1.0;", 1, "wrong number of values"),
        ("1.2,3.4;5.6;9.0,1.0;", 1, "wrong number of values"),
        ("1.2,3.4;5.6,7.8,9.0;1.0,2.0;", 1, "wrong number of values"),
        ("1.2,3.4;;5.6,7.8;", 1, "wrong number of values"),
        ("1.2,3.4,5.6,7.8;", 0, "wrong number of values"),
        ("Sure! Here it is: 1.2,3.4;", 0, "not a number"),
        ("The next values; 1.2,3.4;", 0, "wrong number of values"),
    ],
)
def test_reading_ends_at_the_first_step_that_is_none(text, steps, stop):
    decoded = Codec().decode(text, ONE_V)
    assert (decoded.steps, decoded.stop) == (steps, stop)
    np.testing.assert_array_equal(decoded.values_TV, np.array([[1.2, 3.4], [5.6, 7.8]])[:steps])


def test_the_place_where_reading_stopped_is_told():
    assert Codec().decode("1.2,3.4;x,1.0;5,6;", ONE_V).at == "x,1.0"
    assert Codec().decode("1.2,3.4;5.6", ONE_V).at == "5.6"
    assert len(Codec().decode("x" * 1000 + ";", ONE_V).at) <= 40


@pytest.mark.parametrize(("limit", "steps"), [(0, 0), (1, 1), (2, 2), (3, 2)])
def test_max_steps(limit, steps):
    decoded = Codec().decode("1,2;3,4;nonsense;", ONE_V, limit)
    assert (decoded.steps, decoded.stop) == (steps, "complete" if limit <= 2 else "wrong number of values")


@pytest.mark.parametrize("variables", [1, 3])
def test_any_number_of_variables(variables):
    values_TV = np.random.default_rng(0).uniform(0, 9, (5, variables))
    decoded = Codec().decode(Codec().encode(values_TV, np.ones(variables)), np.ones(variables))
    np.testing.assert_allclose(decoded.values_TV, values_TV, atol=0.005)


@pytest.mark.parametrize("bad", [-0.1, np.nan, np.inf])
def test_values_outside_the_format_are_refused(bad):
    values_TV = some_series()
    values_TV[3, 1] = bad
    with pytest.raises(JaxlvError, match="series 7") as caught:
        Codec().encode(values_TV, ONE_V, where="series 7")
    assert "\n" not in str(caught.value)


def test_seven_digits_are_refused():
    Codec().encode(np.array([[999_999.0, 1.0]]), ONE_V)
    with pytest.raises(JaxlvError, match="6 digits"):
        Codec().encode(np.array([[1e6, 1.0]]), ONE_V)


# Scale


@pytest.mark.parametrize("headroom", [0.0, 0.5])
def test_the_context_s_maximum_goes_below_the_headroom(headroom):
    context_CV = some_series()
    alpha_V = Codec(headroom=headroom).fit(context_CV)
    np.testing.assert_allclose((context_CV / alpha_V).max(axis=0), TOP * (1 - headroom))


@pytest.mark.parametrize("name", SCALE_RULES)
def test_only_rules_that_say_so_look_past_the_context(name):
    codec = Codec(name, dataset_alpha=0.5 if name == "mao" else None)
    series_TV = some_series()
    changed_TV = np.concatenate([series_TV[:20], 3 * series_TV[20:]])
    same = np.array_equal(codec.fit(series_TV[:20], series_TV), codec.fit(series_TV[:20], changed_TV))
    assert same == (name in ("context", "liu", "mao"))  # mao's factor was fitted before, on every series
    assert bool(codec.rule.peeks_at) == (name in ("xu", "rai", "mao"))


@pytest.mark.parametrize("name", ["xu", "rai"])
def test_a_rule_that_peeks_needs_the_whole_series(name):
    with pytest.raises(JaxlvError, match=name):
        Codec(name).fit(some_series())


def test_rules_of_the_reports():
    series_TV = some_series(100) * [1, 3]
    xu_V, rai_V, liu_V = (Codec(name).fit(series_TV[:50], series_TV) for name in ("xu", "rai", "liu"))
    np.testing.assert_allclose(np.percentile(series_TV / xu_V, 99, axis=0), TOP)
    np.testing.assert_allclose(np.percentile(series_TV / rai_V, 95, axis=0).max(), TOP)
    assert rai_V[0] == rai_V[1]
    np.testing.assert_array_equal(liu_V, 0.5)


def test_mao_without_its_factor_is_refused():
    with pytest.raises(JaxlvError, match="mao"):
        Codec("mao").fit(some_series())


def test_a_variable_that_is_zero_throughout_has_no_scale():
    with pytest.raises(JaxlvError, match="variable 1") as caught:
        Codec().fit(some_series() * [1, 0], where="series 12")
    assert "series 12" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"scale": "max"}, "codec.scale"), ({"headroom": 1.0}, "codec.headroom"), ({"decimals": 0}, "codec.decimals")],
    ids=str,
)
def test_settings_out_of_range_are_named(settings, named):
    with pytest.raises(JaxlvError, match=named):
        Codec(**settings)
