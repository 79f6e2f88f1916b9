"""Token ids of the 13 symbols, and windows in which every real token except the first is a label once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from tokenizers import Tokenizer, models

from jaxlv.config import WindowConfig
from jaxlv.data import loading
from jaxlv.errors import JaxlvError
from jaxlv.model.bases import EMBEDDED_BASE
from jaxlv.text import tokens
from jaxlv.text.codec import SYMBOLS, Codec
from jaxlv.text.tokens import IGNORED, NO_POSITION, Windows, load_alphabet, make_windows, stream_starts, window

QWEN_VOCABULARY = 151_936
SEMICOLON = 26


@pytest.fixture
def qwen(tmp_path):
    """Returns the alphabet of a folder without tokenizer files."""
    return load_alphabet(tmp_path, QWEN_VOCABULARY)


@pytest.fixture(scope="module")
def qwen_folder(shared) -> Path:
    return shared / "qwen2.5-0.5b-instruct"


@pytest.fixture(scope="module")
def goldens(shared):
    return json.loads((shared / "reference" / "goldens.json").read_text())


def write_tokenizer(folder: Path, vocabulary: dict[str, int], merges: list[tuple[str, str]] | None = None) -> Path:
    Tokenizer(models.BPE(vocab=vocabulary, merges=merges or [])).save(str(folder / "tokenizer.json"))
    return folder


OWN_IDS = {symbol: i for i, symbol in enumerate(reversed(SYMBOLS))}

# The alphabet


def test_ids_of_qwen_without_tokenizer_files(qwen):
    expected = [*range(15, 25), 13, 11, 26]  # 0 to 9, point, comma, semicolon
    assert qwen.ids_A.tolist() == expected
    assert qwen.end_ids == (151_643, 151_645)


def test_texts_of_tokens_are_the_tokenizer_s(tmp_path):
    assert tokens.token_texts(EMBEDDED_BASE, range(17)) == [
        *SYMBOLS, "<|endoftext|>", "<|im_end|>", "<|unknown|>", "",
    ]  # fmt: skip
    assert tokens.token_texts(tmp_path, [15, 13, 11, 26, 0, 151_643]) == ["0", ".", ",", ";", "", "<|endoftext|>"]


def test_texts_of_qwen_s_tokens_and_of_rows_without_one(qwen_folder):
    assert tokens.token_texts(qwen_folder, [24, 54_433, 1000, 151_665, 151_935]) == ["9", ";-", "atus", "", ""]


def test_qwen_s_own_tokenizer_gives_the_same_table(qwen, qwen_folder, goldens):
    alphabet = load_alphabet(qwen_folder, QWEN_VOCABULARY)
    np.testing.assert_array_equal(alphabet.ids_A, qwen.ids_A)
    assert alphabet.end_ids == qwen.end_ids
    assert dict(zip(SYMBOLS, alphabet.ids_A.tolist(), strict=True)) == goldens["tokenizer"]["alphabet"]


def test_qwen_s_own_tokenizer_merges_what_the_format_avoids(qwen_folder, goldens):
    encode = tokens.load_encoder(qwen_folder)
    known = {**goldens["tokenizer"]["merges_to_avoid"], **{t: goldens["tokenizer"][t] for t in ("1.23", "1 . 2 3")}}
    assert {text: list(encode(text)) for text in known} == {t: i if isinstance(i, list) else [i] for t, i in known.items()}


def test_ids_of_rai(qwen, goldens):
    example = goldens["rai_examples"][0]
    assert qwen.encode(example["text"]).tolist() == example["ids"]


@given(st.text(alphabet=SYMBOLS))
def test_decode_inverts_encode(text):
    alphabet = load_alphabet(Path("no such folder"), QWEN_VOCABULARY)
    ids = alphabet.encode(text)
    assert len(ids) == len(text) and alphabet.decode(ids) == text


def test_decode_ends_at_the_end_of_text_and_marks_foreign_tokens(qwen):
    assert qwen.decode([16, 13, 999, 17, 151_645, 16]) == "1.?2"


@pytest.mark.parametrize("text", ["1.2 ", "-1", "1é", "１", "1\n", "π"])
def test_other_characters_are_refused(qwen, text):
    with pytest.raises(JaxlvError, match="13 symbols"):
        qwen.encode(text)


def test_a_tokenizer_of_its_own(tmp_path):
    alphabet = load_alphabet(write_tokenizer(tmp_path, {**OWN_IDS, "<|endoftext|>": 13}), 14)
    assert alphabet.ids_A.tolist() == [OWN_IDS[symbol] for symbol in SYMBOLS]
    assert alphabet.decode(alphabet.encode("1.20,3;")) == "1.20,3;"


@pytest.mark.parametrize(
    ("vocabulary", "merges", "size", "named"),
    [
        ({**OWN_IDS, "1.": 13}, [("1", ".")], 14, "own token"),
        ({s: i for s, i in OWN_IDS.items() if s != "7"}, None, 14, "'7'"),
        (OWN_IDS, None, 12, "vocabulary"),
    ],
    ids=["merges", "lacks a symbol", "larger than the embedding"],
)
def test_tokenizers_that_do_not_fit(tmp_path, vocabulary, merges, size, named):
    with pytest.raises(JaxlvError, match=named) as caught:
        load_alphabet(write_tokenizer(tmp_path, vocabulary, merges), size)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_qwen_s_ids_need_qwen_s_vocabulary(tmp_path):
    with pytest.raises(JaxlvError, match="vocabulary"):
        load_alphabet(tmp_path, 20)


def test_an_unreadable_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text("not json")
    with pytest.raises(JaxlvError, match="unreadable tokenizer") as caught:
        load_alphabet(tmp_path, 14)
    assert "\n" not in str(caught.value)


# Windows


@given(st.integers(1, 30), st.integers(1, 20), st.sampled_from(["left", "right"]))
def test_every_real_token_but_the_first_is_a_label_once(count, length, side):
    stream = np.arange(100, 100 + count)
    ids, positions, labels = window(stream, length, side)
    real, kept = positions != NO_POSITION, min(count, length)
    assert len(ids) == len(positions) == len(labels) == length
    np.testing.assert_array_equal(ids[real], stream[:kept])
    np.testing.assert_array_equal(positions[real], np.arange(kept))
    np.testing.assert_array_equal(labels[labels != IGNORED], stream[1:kept])
    np.testing.assert_array_equal(labels[real], [*stream[1:kept], IGNORED])
    assert real[: kept if side == "right" else None][0 if side == "right" else -kept :].all()
    assert (labels[~real] == IGNORED).all()


def test_rows_of_windows():
    windows = Windows(*np.arange(36).reshape(3, 4, 3))
    assert windows.number == 4
    np.testing.assert_array_equal(windows.rows([2, 0]), np.arange(36).reshape(3, 4, 3)[:, [2, 0]])


LIU = {"codec": Codec("liu", decimals=3), "config": WindowConfig(length=512, stride=256, align="token", partial="pad")}


def test_windows_of_liu(qwen, shared, goldens):
    """scikit-learn's train_test_split(range(100, 1000), test_size=0.2, random_state=42) is this permutation."""
    values_NTV = loading.load(shared / "data" / "lotka_volterra_data.h5").values_NTV
    ids = 100 + np.random.RandomState(42).permutation(900)
    golden = goldens["windows"]["liu, 512"]
    train = make_windows(values_NTV[ids[180:]], alphabet=qwen, **LIU)
    validation = make_windows(values_NTV[ids[:180]], alphabet=qwen, stride=512, **LIU)
    assert validation.number == golden["validation_windows"]
    batches = [-(-windows.number // 4) for windows in (train, validation)]
    assert batches == [golden["train_batches_of_4"], golden["validation_batches_of_4"]]
    # scikit-learn's split leaves 3,609 windows: 903 batches of 4, the last with one window where the golden counts four
    assert train.number == 3609 and golden["train_windows"] == 4 * batches[0]


@pytest.mark.parametrize("partial", ["drop", "pad"])
@pytest.mark.parametrize("stride", [3, 7, 40, 100])
def test_aligned_windows_start_at_steps(qwen, partial, stride):
    ids = qwen.encode(Codec().encode(np.random.default_rng(0).uniform(0, 20, (30, 2)), np.ones(2)))
    starts = list(stream_starts(ids, 64, stride, partial, aligned_to=SEMICOLON))
    assert starts[0] == 0 and starts == sorted(set(starts))
    assert all(start == 0 or ids[start - 1] == SEMICOLON for start in starts)
    if partial == "drop":
        assert all(start + 64 <= len(ids) for start in starts)
    else:
        assert len(ids) - starts[-1] <= stride + 12 and starts[-1] <= len(ids) - 2


def test_unaligned_windows_start_at_every_stride():
    assert list(stream_starts(np.zeros(100), 40, 20, "drop")) == [0, 20, 40, 60]
    assert list(stream_starts(np.zeros(100), 40, 20, "pad")) == [0, 20, 40, 60, 80]
    assert list(stream_starts(np.zeros(30), 40, 20, "drop")) == []


def test_validation_without_overlap_reads_every_token_once(qwen):
    """With stride = length, the only tokens that are not labels are the first of each window."""
    values_NTV = np.random.default_rng(0).uniform(0, 4, (3, 40, 2))
    windows = make_windows(values_NTV, LIU["codec"], qwen, LIU["config"], stride=512)
    total = sum(len(LIU["codec"].encode(series_TV, np.full(2, 0.5), closed=False)) for series_TV in values_NTV)
    real = windows.positions_ML != NO_POSITION
    assert real.sum() == total
    assert (windows.labels_ML != IGNORED).sum() == total - windows.number


CONTEXT = WindowConfig(length=256, stride=60, context_steps=(10, 15))


def steps_of(qwen, windows: Windows, row: int) -> np.ndarray:
    real = windows.positions_ML[row] != NO_POSITION
    return Codec().decode(qwen.decode(windows.ids_ML[row][real]), np.ones(2)).values_TV


@pytest.mark.parametrize("partial", ["drop", "pad"])
def test_windows_are_scaled_by_their_own_context(qwen, partial):
    """Each window starts at a step of the series, and its scale leaves the headroom above a prefix of 10 to 15 steps."""
    values_NTV = np.random.default_rng(0).uniform(0.5, 4, (2, 40, 2))
    windows = make_windows(values_NTV, Codec(headroom=0.5), qwen, dataclasses.replace(CONTEXT, partial=partial))
    starts = range(0, 30, 6) if partial == "pad" else range(0, 15, 6)  # 25 steps fill a window
    assert windows.number == 2 * len(starts)
    for row in range(windows.number):
        written_TV, start = steps_of(qwen, windows, row), starts[row % len(starts)]
        raw_TV = values_NTV[row // len(starts), start : start + len(written_TV)]
        maxima = [written_TV[:cut].max(axis=0) for cut in range(10, min(15, len(written_TV)) + 1)]
        assert any(np.allclose(top_V, 5.0, atol=0.005) for top_V in maxima)
        np.testing.assert_allclose(written_TV / written_TV[0], raw_TV / raw_TV[0], rtol=0.05)


def test_windows_draw_one_of_several_head_rooms(qwen):
    values_NTV = np.random.default_rng(0).uniform(0.5, 4, (4, 40, 2))
    windows = make_windows(
        values_NTV, Codec(headrooms=(0.2, 0.6)), qwen, dataclasses.replace(CONTEXT, context_steps=(40, 40))
    )
    tops = [steps_of(qwen, windows, row).max() for row in range(windows.number)]
    near = [min((0.2, 0.6), key=lambda room: abs(top - 10 * (1 - room))) for top in tops]
    assert set(near) == {0.2, 0.6}


def test_the_future_never_changes_the_scale(qwen):
    """Values after the longest context leave the text before them unchanged."""
    values_NTV = np.random.default_rng(0).uniform(0.5, 4, (1, 40, 2))
    changed_NTV = values_NTV.copy()
    changed_NTV[:, 15:] *= 1.9
    first, second = (steps_of(qwen, make_windows(v, Codec(), qwen, CONTEXT), 0) for v in (values_NTV, changed_NTV))
    np.testing.assert_array_equal(first[:15], second[:15])
    shorter = min(len(first), len(second))
    assert shorter > 15 and not np.array_equal(first[:shorter], second[:shorter])


def test_contexts_follow_the_seed(qwen):
    values_NTV = np.random.default_rng(0).uniform(0.5, 4, (8, 40, 2))
    seeds = [(0, 1), (0, 1), (0, 2)]
    one, same, other = (make_windows(values_NTV, Codec(), qwen, CONTEXT, seed=seed).ids_ML for seed in seeds)
    np.testing.assert_array_equal(one, same)
    assert one.shape == other.shape and not np.array_equal(one, other)


def test_all_windows_are_int32_of_one_length(qwen):
    for scale in ("context", "liu"):
        windows = make_windows(np.random.default_rng(0).uniform(0.5, 4, (2, 40, 2)), Codec(scale), qwen, CONTEXT)
        assert {(array.dtype, array.shape[1]) for array in windows} == {(np.dtype("int32"), 256)}


def test_no_series_make_no_windows(qwen):
    windows = make_windows(np.zeros((0, 40, 2)), LIU["codec"], qwen, LIU["config"])
    assert windows.ids_ML.shape == (0, 512)


@pytest.mark.parametrize("positions", [[-1, 0, 1], [0, -1, 1], [0, 2, -1], [1, 2, -1], [0, 0, -1]])
def test_windows_that_are_said_to_be_padded_on_the_right_are(positions):
    """A program that relies on that is not told the positions."""
    good = [window(np.array([15, 16, 17]), 3), window(np.array([15]), 3)]
    assert tokens.stack(good, 3, "right").positions_ML.tolist() == [[0, 1, 2], [0, -1, -1]]
    bad = good[1]._replace(positions_ML=np.array(positions))
    assert tokens.stack([*good, bad], 3).number == 3
    with pytest.raises(JaxlvError, match="padding that is not on the right") as caught:
        tokens.stack([*good, bad], 3, "right")
    assert "window 2" in str(caught.value)
