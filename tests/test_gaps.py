"""Missing values are empty fields and empty steps of a context, read by models and never written by them."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import jaxlv
from jaxlv import api
from jaxlv.config import WindowConfig
from jaxlv.data.loading import load_series
from jaxlv.data.observations import Handling
from jaxlv.data.series import from_arrays
from jaxlv.errors import JaxlvError
from jaxlv.forecasting import robustness
from jaxlv.forecasting.likelihood import nats_per_value
from jaxlv.forecasting.origins import Origins, rolling
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.sampler import Sampler
from jaxlv.studies.choice import Reader
from jaxlv.studies.given import unfamiliar
from jaxlv.text.codec import SYMBOLS, Codec
from jaxlv.text.grammar import number_grammar
from jaxlv.text.tokens import IGNORED, QWEN_IDS, Alphabet, load_alphabet, load_encoder, make_windows, window, without_gaps

NAN = np.nan
ALPHABET = Alphabet(np.arange(13, dtype=np.int32), (13,), "test")
GOLDEN = {
    "one variable": ([[1.2], [NAN], [0.98]], "1.20;;0.98;"),
    "a value of two": ([[1.2, NAN], [NAN, 1.31], [0.93, 0.98]], "1.20,;,1.31;0.93,0.98;"),
    "a step of two": ([[1.2, 1.31], [NAN, NAN], [0.93, 0.98]], "1.20,1.31;;0.93,0.98;"),
    "values of four": ([[1, NAN, NAN, 4], [NAN] * 4, [NAN, 2, 3, NAN]], "1.00,,,4.00;;,2.00,3.00,;"),
    "a gap at the start": ([[NAN, NAN], [1, 2]], ";1.00,2.00;"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_gaps_as_text(name: str):
    values, text = GOLDEN[name]
    codec, alpha_V = Codec(), np.ones(len(values[0]))
    assert codec.encode(np.array(values), alpha_V, gaps=True) == text
    found = codec.decode(text, alpha_V, gaps=True)
    np.testing.assert_array_equal(found.values_TV, np.array(values, float))
    assert found.stop == "end of text" and not found.at


def test_a_gap_is_refused_unless_it_is_expected():
    codec = Codec()
    with pytest.raises(JaxlvError, match="non-negative finite numbers"):
        codec.encode(np.array([[1, NAN]]), np.ones(2))
    with pytest.raises(JaxlvError, match="non-negative finite numbers"):
        codec.encode(np.array([[1, np.inf]]), np.ones(2), gaps=True)
    assert codec.decode("1.00,;2.00,3.00;", np.ones(2)).stop == "not a number"
    assert codec.decode(";2.00,3.00;", np.ones(2)).stop == "wrong number of values"


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**31), st.floats(0, 0.9))
def test_round_trip_of_any_series_with_gaps(variables: int, decimals: int, seed: int, share: float):
    random = np.random.default_rng(seed)
    values_TV = random.uniform(0, 50, (random.integers(1, 12), variables)) * 10.0 ** random.integers(-3, 4, variables)
    values_TV[random.random(values_TV.shape) < share] = NAN
    values_TV[0] = np.where(np.isnan(values_TV[0]), 1.0, values_TV[0])  # a scale for each variable
    codec = Codec(decimals=decimals)
    alpha_V = codec.fit(values_TV)
    text = codec.encode(values_TV, alpha_V, gaps=True)
    found = codec.decode(text, alpha_V, gaps=True)
    assert found.steps == len(values_TV) and set(text) <= set(SYMBOLS)
    np.testing.assert_array_equal(np.isnan(found.values_TV), np.isnan(values_TV))
    assert (np.nan_to_num(np.abs(found.values_TV - values_TV)) <= 0.5001 * 10.0**-decimals * alpha_V).all()
    assert codec.encode(found.values_TV, alpha_V, gaps=True) == text


def test_the_scale_takes_no_notice_of_gaps():
    full = np.array([[1.0, 4.0], [2.0, 8.0], [1.5, 6.0]])
    gappy = np.array([[1.0, NAN], [2.0, 8.0], [NAN, NAN]])
    np.testing.assert_array_equal(Codec().fit(full), Codec().fit(gappy))


def test_qwen_reads_gaps_symbol_by_symbol(shared):
    folder = shared / "qwen2.5-0.5b-instruct"
    alphabet = load_alphabet(folder, 151_936)
    text = "1.20,;;,0.98;"
    ids = [16, 13, 17, 15, 11, 26, 26, 11, 15, 13, 24, 23, 26]
    assert alphabet.encode(text).tolist() == ids == [QWEN_IDS[symbol] for symbol in text]
    encode = load_encoder(folder)
    assert encode is not None and list(encode(text)) != ids  # its merges would join delimiters


def test_the_grammar_never_writes_a_gap():
    for variables in (1, 2, 3, 4):
        grammar = number_grammar(variables, 2, 2)
        ends = [SYMBOLS.index(mark) for mark in ",;"]
        after = {
            int(grammar.next_QA[q, a]) for q in range(len(grammar.allowed_QA)) for a in ends if grammar.allowed_QA[q, a]
        }
        assert after and not grammar.allowed_QA[np.ix_(sorted(after), ends)].any()


def test_no_label_asks_for_a_gap():
    ids = ALPHABET.encode("1.20,;;0.93,0.98;")
    found = without_gaps(window(ids, 20), ALPHABET)
    asked = "".join(SYMBOLS[i] for i in found.labels_ML if i != IGNORED)
    assert asked == ".20,0.93,0.98;"  # the empty field's ";" and the empty step's ";" are not asked for


def test_training_windows_mark_gaps():
    values_TV = np.array([[1.0], [2.0], [NAN], [4.0]])
    config = WindowConfig(length=32, stride=32, context_steps=(4, 4))
    found = make_windows([values_TV], Codec(headroom=0.6), ALPHABET, config)
    assert ALPHABET.decode(found.ids_ML[0][found.positions_ML[0] >= 0]) == "1.00;2.00;;4.00;"


# Sets of series


def gappy() -> dict[str, list[float]]:
    return {"year": list(range(1900, 1912)), "lynx": [1, 2, NAN, 4, 5, 4, NAN, NAN, 2, 1, 2, 3]}


def test_marked_values_are_filled_for_who_cannot_read_gaps():
    marked = load_series(gappy()).ready(Handling(missing="mark")).series
    filled = load_series(gappy()).ready(Handling(missing="interpolate")).series
    np.testing.assert_array_equal(marked.values_NTV, filled.values_NTV)
    assert filled.missing_NTV is None and filled.written[0] is not None
    assert np.flatnonzero(marked.missing_NTV[0, :, 0]).tolist() == [2, 6, 7]
    np.testing.assert_array_equal(marked.written[0].ravel(), gappy()["lynx"])


def test_marks_follow_steps_and_rows():
    marked = load_series(gappy()).ready(Handling(missing="mark")).series
    assert np.flatnonzero(marked.steps(5, 12).missing_NTV[0, :, 0]).tolist() == [1, 2]
    assert marked.rows(np.array([0, 0]), np.array([0, 1])).missing_NTV.shape == (2, 12, 1)


def test_windows_mark_the_gaps_of_their_contexts():
    found = rolling(load_series(gappy()).aligned(), Origins(2, 2, 2), Handling(missing="mark"))
    marks = [np.flatnonzero(row[:, 0]).tolist() for row in found.windows.missing_NTV]
    first = found.windows.first_N.tolist()
    assert [[at - begin for at in row] for row, begin in zip(marks, first, strict=True)] == [[2, 6, 7], [2, 6, 7]]


@pytest.fixture(scope="module")
def prompts() -> dict[str, list[str]]:
    """What a model that has read gaps is given, by how missing values are handled."""
    sampler, found = api.open_model("embedded-field"), {}
    for missing in ("mark", "interpolate"):
        series = load_series(gappy()).ready(Handling(missing=missing)).series
        request = Request(12, 2, 1)
        rows = sampler._rows(series, request, sampler.scales(series, 12))
        found[missing] = [sampler.alphabet.decode(ids) for ids in rows.prompts]
    return found


def test_a_prompt_marks_gaps(prompts):
    assert prompts["mark"] == ["1.00;2.00;;4.00;5.00;4.00;;;2.00;1.00;2.00;3.00;"]
    assert prompts["interpolate"] == ["1.00;2.00;3.00;4.00;5.00;4.00;3.33;2.67;2.00;1.00;2.00;3.00;"]


def test_a_base_that_has_read_no_gaps_is_given_what_stands_there(prompts):
    """Unless it was tuned on texts with gaps."""
    sampler, series = api.open_model("embedded-cycles"), load_series(gappy()).ready(Handling(missing="mark")).series

    def prompt(one: Sampler) -> list[str]:
        rows = one._rows(series, Request(12, 2, 1), one.scales(series, 12))
        return [one.alphabet.decode(ids) for ids in rows.prompts]

    assert prompt(sampler) == prompts["interpolate"] and not sampler.reads_gaps
    assert prompt(replace(sampler, gaps=True)) == prompts["mark"]
    (line, *_) = unfamiliar(series, Reader(sampler), 12, 2)
    assert line == "in the text, too, missing values are interpolated: the base that reads them has read no marks"


def test_a_forecast_that_goes_on_from_itself_keeps_the_marks(monkeypatch: pytest.MonkeyPatch):
    sampler = api.open_model("embedded")
    series = load_series(gappy()).ready(Handling(missing="mark")).series
    given, rows = [], type(sampler)._rows
    monkeypatch.setattr(
        type(sampler), "_rows", lambda self, chosen, *rest: given.append(chosen) or rows(self, chosen, *rest)
    )
    sampler.rolling(series, Request(12, 4, 2), reach=2)
    first, second = given
    assert np.flatnonzero(first.missing_NTV[0, :, 0]).tolist() == [2, 6, 7]
    assert np.flatnonzero(second.missing_NTV[0, :, 0]).tolist() == [0, 4, 5]


def test_forecasts_of_marked_series_are_whole():
    made = jaxlv.Forecaster("embedded").predict(gappy(), horizon=2, samples=2, missing="mark")
    assert np.isfinite(made.samples).all()


def test_stress_marks_the_same_steps_that_it_leaves_out():
    held = from_arrays(np.random.default_rng(0).uniform(1, 2, (3, 30, 2)))
    request = Request(20, 5, 2)
    left, marked = (list(group(held, 3, request)) for group in (robustness.gaps, robustness.marked))
    for out, mark in zip(left, marked, strict=True):
        known = [values[:20][~np.isnan(values[:20, 0])] for values in mark.given.written]
        np.testing.assert_array_equal(np.stack(known), out.given.values_NTV[:, : out.request.context])
        np.testing.assert_array_equal(mark.truth_NHV, out.truth_NHV)
        assert np.isfinite(mark.given.values_NTV).all()


def test_a_set_without_marks_writes_what_it_has():
    series = from_arrays(np.ones((1, 5, 2)))
    assert series.missing_NTV is None
    np.testing.assert_array_equal(series.written[0], series.each[0])
    marked = replace(series, missing_NTV=np.eye(5, 2, dtype=bool)[None])
    assert np.isnan(marked.written[0]).sum() == 2


def test_training_windows_ask_for_no_gap():
    values_TV = np.array([[1.0], [2.0], [NAN], [NAN], [4.0]])
    for align in ({}, {"align": "step"}):
        found = make_windows(
            [values_TV], Codec("liu" if align else "context"), ALPHABET, WindowConfig(length=40, stride=40, **align)
        )
        ids, asked = found.ids_ML[0][:-1], found.labels_ML[0][:-1]
        ends = [SYMBOLS.index(";"), SYMBOLS.index(",")]
        gap = np.isin(ids, ends) & np.isin(found.ids_ML[0][1:], ends) & (found.positions_ML[0][1:] >= 0)
        assert gap.sum() == 2 and (asked[gap] == IGNORED).all() and (asked[~gap] != IGNORED).any()


def test_likelihoods_read_the_marks():
    sampler, found = api.open_model("embedded-field"), {}
    for missing in ("mark", "interpolate"):
        series = load_series(gappy()).ready(Handling(missing=missing)).series
        found[missing] = nats_per_value(sampler, series, 10, 2)
    assert np.isfinite(found["mark"]).all() and (found["mark"] != found["interpolate"]).all()


def test_contexts_that_are_mostly_missing_are_no_windows():
    values = [1.0, NAN, NAN, NAN, NAN, NAN, NAN, 2.0, 3.0, 4.0, 5.0, 6.0]
    found = rolling(load_series({"lynx": values}).aligned(), Origins(2, 2, 2, context=6))
    assert found.windows.ids_N.tolist() == ["from 10"]  # the six steps before step 8 have five gaps
    assert any("too few known ones" in note for note in found.notes)
