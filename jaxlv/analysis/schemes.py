"""Writes series as text as the papers and this project do: tokens, rounding errors, windows, and what a tokenizer merges.

Axes: N series, T time steps, C context steps, V variables, W windows of one series.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from jaxlv.analysis.exploration import summary
from jaxlv.config import CodecConfig, WindowConfig
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.memory import TooLarge
from jaxlv.published.protocols import PROTOCOLS, SERIES
from jaxlv.results.exploration import Merge, RoundTrip, Tokens, Windows, WrittenStep, WrittenText
from jaxlv.results.record import Id
from jaxlv.text.codec import SCALE_RULES, SYMBOLS, TOP, Codec
from jaxlv.text.tokens import NO_POSITION, QWEN_IDS, Alphabet, load_alphabet, load_encoder, make_windows, stream_starts

CONTEXT = 50  # steps that the rule `context` is fitted on
LENGTHS = (128, 512, 768)  # tokens of a window
WINDOWED = 1000  # series at most that windows are counted of, for each part

Encoder = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class Scheme:
    """A way to write series, and to cut their tokens into windows."""

    codec: CodecConfig
    top: str  # what is written as 10
    split: str  # the protocol whose split is used
    partial: Literal["drop", "pad"]  # what becomes of a window that is not full
    stride: int = 0  # tokens between training windows; 0 = half a window. Validation windows lie end to end
    closed: bool = False  # whether the last step has its ";"

    @property
    def looks_at(self) -> str:
        """What the scale is fitted on, in words."""
        seen = "the context alone" if self.codec.scale == "context" else "nothing: a constant"
        return SCALE_RULES[self.codec.scale].peeks_at or seen


OURS = "jaxlv"
SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {
        "xu, 2 decimals": Scheme(
            CodecConfig("xu", decimals=2), "the variable's 99th percentile over the series", "xu", "drop"
        ),
        "xu, 3 decimals": Scheme(
            CodecConfig("xu", decimals=3), "the variable's 99th percentile over the series", "xu", "drop"
        ),
        "rai": Scheme(
            CodecConfig("rai", decimals=2), "the larger of the variables' 95th percentiles over the series", "rai", "pad"
        ),
        "mao": Scheme(CodecConfig("mao", decimals=2), "the 99.7th percentile of all values", "mao", "drop", stride=256),
        "liu": Scheme(CodecConfig("liu", decimals=3), "5 raw units", "liu", "pad"),
        OURS: Scheme(CodecConfig(), "twice the variable's maximum over the context", "xu", "pad", closed=True),
    }
)
"""The schemes of the four papers, and the default of this project."""


# --------------------------------------------------------------------------------------------- tokenizer


def alphabet_of(folder: Path | None) -> tuple[Alphabet, Encoder | None]:
    """Returns the ids of the 13 symbols in a folder's tokenizer, and that tokenizer; only Qwen2.5's ids without a folder.

    Raises JaxlvError if the folder has no tokenizer, or if that does not give each symbol its own token.
    """
    if folder is None:
        return Alphabet(np.array([QWEN_IDS[symbol] for symbol in SYMBOLS], np.int32), (), "Qwen2.5's ids"), None
    encode = load_encoder(folder)
    if encode is None:
        expected = "a folder with tokenizer.json, or vocab.json and merges.txt"
        raise JaxlvError("no tokenizer", where=folder, expected=expected)
    return load_alphabet(folder, np.iinfo(np.int32).max), encode


STRANGE = ("-", " ")  # characters that the format does not have, and that models write
SAMPLES = ("1.23", "1 . 2 3", "-1.20", "1e-05", "NaN", "1.20, 1.31; ", "...", ";;;")


def merge_rows(encode: Encoder) -> list[Merge]:
    """Lists every pair of the 13 symbols, "-" and space that is one token, and how some longer texts are cut.

    The format can hold a text of the 13 symbols in which two delimiters never meet.
    """
    characters = [*SYMBOLS, *STRANGE]
    pairs = [a + b for a in characters for b in characters if len(encode(a + b)) == 1]
    rows = []
    for text in [*pairs, *SAMPLES]:
        ids, fits = encode(text), set(text) <= set(SYMBOLS) and not re.search("[.,;]{2}", text)
        rows.append(Merge(text, " ".join(map(str, ids)), len(ids), len(text), "pair" if text in pairs else "sample", fits))
    return rows


# --------------------------------------------------------------------------------------------------- text


@dataclass(frozen=True)
class Written:
    """Series in one scheme: scales, texts and what the texts decode to; without series that cannot be written."""

    name: str
    ids: tuple[Id, ...]
    alphas: tuple[np.ndarray, ...]  # (V,) each, raw units per written unit
    texts: tuple[str, ...]
    decoded: tuple[np.ndarray, ...]  # (T, V) each, raw units
    fault: str  # why the first series that is absent could not be written

    @property
    def scheme(self) -> Scheme:
        """The scheme that they are written in."""
        return SCHEMES[self.name]


def write(name: str, data: SeriesSet) -> Written:
    """Writes all series in a scheme. The rule `context` is fitted on the first CONTEXT steps, others as their papers do."""
    scheme = SCHEMES[name]
    codec = Codec.for_data(scheme.codec, data.values_NTV)
    written: list[tuple[Id, np.ndarray, str, np.ndarray]] = []
    fault = ""
    for i, series_TV in zip(data.ids_N.tolist(), data.values_NTV, strict=True):
        try:
            alpha_V = codec.fit(series_TV[:CONTEXT], series_TV, where=f"series {i}")
            text = codec.encode(series_TV, alpha_V, where=f"series {i}")
        except JaxlvError as reason:
            fault = fault or str(reason)
            continue
        written.append((i, alpha_V, text if scheme.closed else text[:-1], codec.decode(text, alpha_V).values_TV))
    ids, alphas, texts, decoded = zip(*written, strict=True) if written else ((), (), (), ())
    return Written(name, ids, alphas, texts, decoded, fault)


def token_rows(written: Sequence[Written], data: SeriesSet) -> list[Tokens]:
    """Counts for each scheme the tokens per series and step, and the shares of values written as 0 and as TOP or more.

    Every character is one token. Alpha is in raw units per written unit. The papers' texts leave the last step open; ours
    close it, which is one token more.
    """
    return [_token_row(one, data) for one in written]


def _token_row(one: Written, data: SeriesSet) -> Tokens:
    tokens_N = np.array([len(text) for text in one.texts])
    spread, (least, most) = summary(tokens_N.astype(float)), _extremes(one.alphas)
    scaled = [values_TV / alpha_V for values_TV, alpha_V in zip(one.decoded, one.alphas, strict=True)]
    return Tokens(
        scheme=one.name,
        top=one.scheme.top,
        decimals=one.scheme.codec.decimals,
        series=len(one.ids),
        absent=len(data) - len(one.ids),
        reason=one.fault,
        looks_at=one.scheme.looks_at,
        alpha_min=least,
        alpha_max=most,
        least=spread.min,
        median=spread.median,
        most=spread.max,
        per_step=tokens_N.mean() / data.values_NTV.shape[1] if len(tokens_N) else None,
        zero=np.mean([(a == 0).mean() for a in scaled]) if scaled else None,
        above=np.mean([(a >= TOP).mean() for a in scaled]) if scaled else None,
    )


def _extremes(arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    return (float(np.min(arrays)), float(np.max(arrays))) if len(arrays) else (np.nan, np.nan)


def round_trip_rows(written: Sequence[Written], data: SeriesSet) -> list[RoundTrip]:
    """Measures for each scheme the absolute error of the decoded text, and half a unit of the last decimal, in raw units."""
    row_of = {i: n for n, i in enumerate(data.ids_N.tolist())}
    rows = []
    for one in written:
        errors = [np.abs(d_TV - data.values_NTV[row_of[i]]) for i, d_TV in zip(one.ids, one.decoded, strict=True)]
        mae_NV = np.array([error_TV.mean(axis=0) for error_TV in errors]).reshape(-1, len(data.variables))
        spread = summary(mae_NV.mean(axis=1))
        by_variable = {v: mae_NV[:, k].mean() if errors else None for k, v in enumerate(data.variables)}
        largest = max((error_TV.max() for error_TV in errors), default=None)
        half = np.median(one.alphas) * 0.5 * 10.0**-one.scheme.codec.decimals if errors else None
        spreads = (spread.mean, spread.min, spread.median, spread.max)
        rows.append(RoundTrip(one.name, len(errors), *spreads, by_variable, largest, half))
    return rows


def text_rows(written: Sequence[Written], ids: Sequence[Id], alphabet: Alphabet) -> list[WrittenText]:
    """Returns the chosen series in every scheme: scales (raw units), the whole text, its token ids and their number."""
    rows = []
    for i in ids:
        for one in written:
            if i in one.ids:
                n = one.ids.index(i)
                alpha, text = " ".join(f"{a:.8g}" for a in one.alphas[n]), one.texts[n]
                token_ids = " ".join(map(str, alphabet.encode(text).tolist()))
                rows.append(WrittenText(i, one.name, alpha, len(text), text, token_ids))
    return rows


def step_rows(written: Sequence[Written], data: SeriesSet) -> list[WrittenStep]:
    """Returns the chosen series in every scheme step by step: value, what is written, what is read, and the difference."""
    rows = []
    for i, series_TV in zip(data.ids_N.tolist(), data.values_NTV, strict=True):
        for one in written:
            if i not in one.ids:
                continue
            n = one.ids.index(i)
            steps = [step.split(",") for step in one.texts[n].rstrip(";").split(";")]
            for t, time in enumerate(data.time_T):
                for v, name in enumerate(data.variables):
                    read, value = float(one.decoded[n][t, v]), float(series_TV[t, v])
                    rows.append(WrittenStep(i, one.name, t, time, name, value, steps[t][v], read, read - value))
    return rows


def disagreements(written: Sequence[Written], ids: Sequence[Id], alphabet: Alphabet, encode: Encoder) -> int:
    """Counts the whole texts of chosen series that the tokenizer does not cut into one token per character."""
    chosen = [text for one in written for i, text in zip(one.ids, one.texts, strict=True) if i in ids]
    return sum(list(encode(text)) != alphabet.encode(text).tolist() for text in chosen)


# ------------------------------------------------------------------------------------------------ windows


@dataclass(frozen=True)
class Cut:
    """What becomes of one series' tokens."""

    windows: int
    padding: int  # positions
    lost: int  # tokens that no window holds
    tail: bool  # whether the last token is one of them


def cut(tokens: int, length: int, stride: int, partial: str) -> Cut:
    """Cuts a series of so many tokens into windows, as `tokens.stream_starts` sets them."""
    starts = list(stream_starts(range(tokens), length, stride, partial))  # type: ignore[arg-type]
    padding, held, end = 0, 0, 0
    for start in starts:
        stop = min(start + length, tokens)
        padding += start + length - stop
        held += stop - max(start, end)
        end = stop
    return Cut(len(starts), padding, tokens - held, end < tokens)


def parts_of(scheme: Scheme, ids_N: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the ids for training and validation: the paper's split if these are the course's 1000, otherwise all twice."""
    if not np.array_equal(np.sort(ids_N), np.arange(SERIES)):
        return {"training": ids_N, "validation": ids_N}
    split = PROTOCOLS[scheme.split].split(np.sort(ids_N))
    return {"training": split.train, "validation": split.validation}


def window_rows(
    written: Sequence[Written], data: SeriesSet, alphabet: Alphabet, lengths: Sequence[int] = LENGTHS
) -> list[Windows]:
    """Counts windows by scheme, part and length, the share of their positions that is padding, and what is left out.

    Validation windows lie end to end. Of ours, each window is written in a scale of its own, and so no token is the same in
    two of them: what is left out is not defined (None).
    """
    rows = []
    for one in written:
        tokens = dict(zip(one.ids, map(len, one.texts), strict=True))
        for part, ids in parts_of(one.scheme, data.ids_N).items():
            held = [i for i in ids.tolist() if i in tokens][:WINDOWED]
            for length in lengths:
                stride = length if part == "validation" else one.scheme.stride or length // 2
                kept = "full only" if one.scheme.partial == "drop" else "padded"
                row = Windows(one.name, part, length, stride, kept, len(held))
                if one.name == OURS:
                    rows.append(_own_windows(row, one, data, held, alphabet))
                else:
                    rows.append(_stream_windows(row, [tokens[i] for i in held], one.scheme.partial))
    return rows


def _stream_windows(row: Windows, tokens: Sequence[int], partial: str) -> Windows:
    """Returns the row with the windows over series of so many tokens."""
    cuts = [cut(count, row.length, row.stride, partial) for count in tokens]
    windows = sum(c.windows for c in cuts)
    padding = sum(c.padding for c in cuts) / (row.length * windows) if windows else None
    left_out = sum(c.lost for c in cuts) / sum(tokens) if tokens else None
    tail = sum(c.tail for c in cuts)
    return replace(row, windows=windows, padding=padding, left_out=left_out, without_tail=tail)


def _own_windows(row: Windows, one: Written, data: SeriesSet, ids: Sequence[Id], alphabet: Alphabet) -> Windows:
    """Returns the row with the windows that training makes of these series; without them if a context has no scale."""
    codec = Codec.for_data(one.scheme.codec, data.values_NTV)
    try:
        windows = make_windows(data.select(ids).each if ids else [], codec, alphabet, WindowConfig(row.length, row.stride))
    except TooLarge:
        raise
    except JaxlvError:  # a context within a series may be zero throughout, and has no scale
        return row
    padding = (windows.positions_ML == NO_POSITION).mean() if windows.number else None
    return replace(row, windows=windows.number, padding=padding)
