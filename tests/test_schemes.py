"""Series in the schemes of the papers: golden tokens, rounding errors and windows, and what a tokenizer merges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from jaxlv.analysis import schemes
from jaxlv.analysis.schemes import OURS, SCHEMES, Written, cut
from jaxlv.config import WindowConfig
from jaxlv.data import series
from jaxlv.errors import JaxlvError
from jaxlv.text.codec import Codec
from jaxlv.text.tokens import NO_POSITION, make_windows


@pytest.fixture(scope="module")
def goldens(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "reference" / "goldens.json").read_text())


@pytest.fixture(scope="module")
def real(shared: Path) -> series.SeriesSet:
    return series.load(shared / "data" / "lotka_volterra_data.h5")


@pytest.fixture(scope="module")
def written(real) -> dict[str, Written]:
    return {name: schemes.write(name, real) for name in SCHEMES}


@pytest.fixture(scope="module")
def alphabet():
    return schemes.alphabet_of(None)[0]


def by(rows: list[Any], *keys: str) -> dict[Any, Any]:
    return {tuple(getattr(row, key) for key in keys) if len(keys) > 1 else getattr(row, keys[0]): row for row in rows}


# The course's data set


def test_the_schemes_are_those_of_the_reports():
    found = {name: (s.codec.scale, s.codec.decimals, s.split, s.partial, s.stride, s.closed) for name, s in SCHEMES.items()}
    assert found == {
        "xu, 2 decimals": ("xu", 2, "xu", "drop", 0, False),
        "xu, 3 decimals": ("xu", 3, "xu", "drop", 0, False),
        "rai": ("rai", 2, "rai", "pad", 0, False),
        "mao": ("mao", 2, "mao", "drop", 256, False),
        "liu": ("liu", 3, "liu", "pad", 0, False),
        OURS: ("context", 2, "xu", "pad", 0, True),
    }


def test_tokens_of_the_course(real, written, goldens):
    rows = by(schemes.token_rows(list(written.values()), real), "scheme")
    for name, expected in goldens["tokens_per_series_min_median_max"].items():
        assert [rows[name].least, rows[name].median, rows[name].most] == expected, name
    assert [rows[OURS].least, rows[OURS].median, rows[OURS].most] == [1000, 1000, 1000]
    assert rows["mao"].alpha_min == rows["mao"].alpha_max == pytest.approx(0.79296956, rel=2e-8)
    assert rows["liu"].alpha_min == 0.5 and rows[OURS].above == 0
    assert rows[OURS].looks_at == "the context alone" and "test series" in rows["mao"].looks_at
    assert rows["mao"].above == pytest.approx(0.003, abs=2e-4)  # it is the 99.7th percentile
    assert all(row.absent == 0 and row.series == 1000 for row in rows.values())


def test_round_trips_of_the_course(real, written, goldens):
    rows = by(schemes.round_trip_rows(list(written.values()), real), "scheme")
    for name, expected in goldens["round_trip_mae_raw_units"].items():
        assert rows[name].mae == pytest.approx(expected, rel=0.01), name
    for name in ("mao", "liu"):  # of one alpha for all: rounding errors spread evenly up to half a unit
        assert rows[name].largest <= rows[name].bound * (1 + 1e-9)
        assert rows[name].mae == pytest.approx(rows[name].bound / 2, rel=0.01)


def test_texts_of_the_course(real, written, goldens, alphabet):
    rows = by(schemes.text_rows(list(written.values()), [0, 1], alphabet), "scheme", "series")
    assert len(rows) == 2 * len(SCHEMES)
    for key, prefix in goldens["dataset_text_prefix"].items():
        name, i = key.split(", series ")
        scheme = "xu, 3 decimals" if name == "xu" else name
        row = rows[scheme, int(i.split(",")[0])]
        assert row.text.startswith(prefix)
        assert row.tokens == len(row.text) == len(row.ids.split())
    assert rows["mao", 0].ids.startswith("16 13 17 15 11 16 13 18 16 26")


def test_the_steps_that_mao_printed(real, written):
    """Table 1 of that report: original, as written, recovered, difference."""
    rows = by(schemes.step_rows([written["mao"]], real.select([0])), "variable", "step")
    printed = {
        ("prey", 0): (0.949917, "1.20", 0.951563, 0.001646), ("prey", 9): (2.522882, "3.18", 2.521642, -0.001240),
        ("predator", 0): (1.040624, "1.31", 1.038790, -0.001834), ("predator", 6): (0.186162, "0.23", 0.182383, -0.003779),
    }  # fmt: skip
    for place, (value, text, read, difference) in printed.items():
        row = rows[place]
        assert row.written == text
        assert (row.value, row.read_as, row.difference) == pytest.approx((value, read, difference), abs=2e-6)


def test_windows_of_the_course(real, written, alphabet, goldens):
    """rai's validation windows, end to end, are padding to 2, 2 and 35 %; full windows lose the tail of every series."""
    reports = [one for name, one in written.items() if name != OURS]
    rows = by(schemes.window_rows(reports, real, alphabet), "scheme", "part", "length")
    shares = [rows["rai", "validation", length].padding for length in (128, 512, 768)]
    assert [round(100 * share) for share in shares] == [2, 2, 35]
    assert [rows["rai", part, 512].series for part in ("training", "validation")] == [700, 200]
    golden = goldens["windows"]["liu, 512"]
    assert rows["liu", "validation", 512].windows == golden["validation_windows"]
    assert -(-rows["liu", "training", 512].windows // 4) == golden["train_batches_of_4"]
    for name in ("xu, 2 decimals", "xu, 3 decimals", "mao"):
        for length in (128, 512, 768):
            row = rows[name, "training", length]
            assert row.padding == 0 and row.without_tail == row.series
    # Two windows of 512 at a stride of 256 reach to token 768 of 999 or more.
    assert rows["mao", "training", 512].left_out == pytest.approx(0.23, abs=0.005)
    assert rows["mao", "training", 128].left_out == pytest.approx(0.488, abs=0.002)  # gaps between windows


# Made-up series


def test_only_series_that_can_be_written_are(waves):
    values_NTV = waves(6, 20).values_NTV
    values_NTV[1], values_NTV[4] = 0.0, 1e7
    data = series.from_arrays(values_NTV, ids=[3, 5, 7, 9, 11, 13])
    liu, ours = schemes.write("liu", data), schemes.write(OURS, data)
    assert liu.ids == (3, 5, 7, 9, 13) and "series 11" in liu.fault and "6 digits" in liu.fault
    assert ours.ids == (3, 7, 9, 11, 13) and "series 5" in ours.fault
    row = schemes.token_rows([ours], data)[0]
    assert (row.series, row.absent, row.reason) == (5, 1, ours.fault)
    assert schemes.round_trip_rows([ours], data)[0].series == 5
    assert {r.series for r in schemes.step_rows([liu, ours], data.select([5, 11]))} == {5, 11}


def test_tokens_and_rounding_by_hand():
    """Under liu's scale of .5 with three decimals: values of 5 are written as 10, and units are .0005."""
    values_NTV = np.array(
        [
            [[0.0, 1.0002], [5.0, 0.0001], [0.5, 6.0]],
            [[1.0, 2.0], [3.0, 4.0], [4.5, 0.25]],
            [[0.0, 0.0003], [0.5, 1], [2, 3]],
        ]
    )
    data = series.from_arrays(values_NTV, ids=[4, 2, 9])
    one = schemes.write("liu", data)
    assert one.texts[0] == "0.000,2.000;10.000,0.000;1.000,12.000"
    (row,) = schemes.token_rows([one], data)
    lengths = [len(text) for text in one.texts]
    assert lengths == [37, 35, 35]
    assert [row.least, row.median, row.most] == [35, 35, 37]
    assert row.per_step == pytest.approx(107 / 9)
    assert (row.alpha_min, row.alpha_max) == (0.5, 0.5)
    assert row.zero == pytest.approx((2 + 0 + 1) / 18) and row.above == pytest.approx(2 / 18)
    (trip,) = schemes.round_trip_rows([one], data)
    by_series = [0.0003 / 6, 0, 0.0002 / 6]  # .0002 and .0001 of the first; .0003 of the last is read as .0005
    assert trip.mae == pytest.approx(np.mean(by_series)) and trip.largest == pytest.approx(0.0002)
    assert [trip.least, trip.median, trip.most] == pytest.approx(sorted(by_series), abs=1e-12)
    assert (trip.by_variable["prey"], trip.by_variable["predator"]) == pytest.approx((0, 0.0005 / 9), abs=1e-12)
    assert trip.bound == pytest.approx(0.00025)
    steps = {(r.series, r.step, r.variable): r for r in schemes.step_rows([one], data)}
    last = steps[9, 0, "predator"]
    assert (last.written, last.value, last.read_as) == ("0.001", 0.0003, pytest.approx(0.0005))
    assert last.difference == pytest.approx(0.0002) and steps[4, 2, "predator"].written == "12.000"


def test_the_scales_of_a_scheme_are_told_from_the_least_to_the_largest(waves):
    data = waves(5, 60)
    (row,) = schemes.token_rows([schemes.write("xu, 2 decimals", data)], data)
    scales = np.percentile(data.values_NTV, 99, axis=1) / 10
    assert (row.alpha_min, row.alpha_max) == pytest.approx((scales.min(), scales.max()))


def test_windows_of_the_course_are_of_the_shares_of_the_scheme_s_report():
    for name, parts in {"rai": (np.arange(700), np.arange(700, 900))}.items():
        found = schemes.parts_of(SCHEMES[name], np.arange(1000)[::-1])
        for part, ids in zip(("training", "validation"), parts, strict=True):
            np.testing.assert_array_equal(found[part], ids)


def test_what_windows_leave_out_is_a_share_of_the_tokens(waves, alphabet):
    """Series of 99 tokens in full windows of 40, every 20: three windows hold 80 tokens, and the last 19 are lost."""
    data = waves(3, 10)
    (row, _) = schemes.window_rows([schemes.write("xu, 2 decimals", data)], data, alphabet, [40])
    tokens = [len(text) for text in schemes.write("xu, 2 decimals", data).texts]
    held = [20 * ((count - 40) // 20 + 1) + 20 for count in tokens]
    assert row.left_out == pytest.approx(sum(a - b for a, b in zip(tokens, held, strict=True)) / sum(tokens))
    assert row.windows == sum((count - 40) // 20 + 1 for count in tokens) and row.without_tail == 3


def test_nothing_can_be_written_of_zeros(waves, alphabet):
    data = series.from_arrays(np.zeros((3, 12, 2)))
    nothing = [schemes.write(name, data) for name in ("mao", OURS)]
    assert [one.ids for one in nothing] == [(), ()]
    assert all(row.median is None for row in schemes.token_rows(nothing, data))
    assert all(row.mae is None and row.series == 0 for row in schemes.round_trip_rows(nothing, data))
    assert all(row.series == 0 for row in schemes.window_rows(nothing, data, alphabet, [64]))
    assert schemes.text_rows(nothing, [0], alphabet) == [] == schemes.step_rows(nothing, data)


def test_errors_are_within_half_a_unit_of_the_last_decimal(waves):
    data = waves(4, 30)
    for name in SCHEMES:
        one = schemes.write(name, data)
        for alpha_V, read_TV, value_TV in zip(one.alphas, one.decoded, data.values_NTV, strict=True):
            half_V = 0.5 * 10.0**-one.scheme.codec.decimals * alpha_V
            assert (np.abs(read_TV - value_TV) <= half_V * (1 + 1e-9)).all()
        assert all(text.endswith(";") == one.scheme.closed for text in one.texts)


def test_steps_add_up_to_the_round_trip(waves):
    data = waves(3, 25)
    written = [schemes.write(name, data) for name in SCHEMES]
    for row, one in zip(schemes.round_trip_rows(written, data), written, strict=True):
        differences = np.array([abs(r.difference) for r in schemes.step_rows([one], data)])
        assert (row.mae, row.largest) == pytest.approx((differences.mean(), differences.max()))
        assert row.by_variable["prey"] == pytest.approx(
            np.mean([abs(r.difference) for r in schemes.step_rows([one], data) if r.variable == "prey"])
        )


def test_windows_of_other_data_are_of_all_series(waves, alphabet):
    data = waves(5, 40)
    rows = schemes.window_rows([schemes.write("rai", data)], data, alphabet, [100])
    assert [(row.part, row.series, row.stride) for row in rows] == [("training", 5, 50), ("validation", 5, 100)]


def test_our_windows_are_those_of_training(waves, alphabet):
    data = waves(5, 40)
    row = schemes.window_rows([schemes.write(OURS, data)], data, alphabet, [300])[0]
    windows = make_windows(data.values_NTV, Codec(), alphabet, WindowConfig(300, 150))
    assert row.windows == windows.number
    assert row.padding == pytest.approx((windows.positions_ML == NO_POSITION).mean())
    assert row.left_out is None


# Windows by numbers


@given(st.integers(2, 900), st.integers(2, 400), st.integers(1, 400), st.sampled_from(["drop", "pad"]))
def test_cuts_account_for_every_token(tokens, length, stride, partial):
    found = cut(tokens, length, stride, partial)
    starts = [s for s in range(0, tokens, stride) if s <= (tokens - length if partial == "drop" else tokens - 2)]
    held = np.zeros(tokens, bool)
    for start in starts:
        held[start : start + length] = True
    assert (found.windows, found.lost, found.tail) == (len(starts), (~held).sum(), not held[-1])
    assert found.padding == sum(max(0, start + length - tokens) for start in starts)


@pytest.mark.parametrize(
    ("arguments", "windows", "padding", "lost"),
    [
        ((1004, 128, 128, "pad"), 8, 20, 0),
        ((1004, 768, 768, "pad"), 2, 532, 0),
        ((999, 512, 256, "drop"), 2, 0, 231),
        ((999, 128, 256, "drop"), 4, 0, 487),
        ((300, 512, 256, "drop"), 0, 0, 300),
    ],
)
def test_cuts_with_known_answers(arguments, windows, padding, lost):
    found = cut(*arguments)
    assert (found.windows, found.padding, found.lost) == (windows, padding, lost)


# Tokenizers


def test_what_qwen_merges_cannot_stand_in_the_format(shared, goldens):
    alphabet, encode = schemes.alphabet_of(shared / "qwen2.5-0.5b-instruct")
    assert encode is not None
    rows = by(schemes.merge_rows(encode), "text")
    known = goldens["tokenizer"]["merges_to_avoid"]
    assert {text: int(rows[text].ids) for text in known} == known
    assert rows["1 . 2 3"].ids == "16 659 220 17 220 18" and rows["1.23"].tokens == rows["1.23"].characters == 4
    assert [text for text, row in rows.items() if row.in_format] == ["1.23"]
    assert all(row.tokens == 1 for row in rows.values() if row.kind == "pair")
    data = series.from_arrays(np.random.default_rng(0).uniform(0.1, 30, (2, 20, 2)))
    written = [schemes.write(name, data) for name in SCHEMES]
    assert schemes.disagreements(written, [0, 1], alphabet, encode) == 0


def test_a_tokenizer_that_cuts_otherwise_is_counted(waves, alphabet):
    data = waves(2, 10)
    written = [schemes.write(name, data) for name in ("mao", "rai")]
    assert schemes.disagreements(written, [0], alphabet, lambda text: [0] * (len(text) - 1)) == 2
    assert schemes.disagreements(written, [0, 1], alphabet, lambda text: alphabet.encode(text).tolist()) == 0


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    assert schemes.alphabet_of(None)[1] is None
    with pytest.raises(JaxlvError, match="no tokenizer"):
        schemes.alphabet_of(tmp_path)
