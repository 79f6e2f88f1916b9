"""Text as token ids, and token ids as training windows.

Qwen's tokenizer gives one token per character of the number format, so a table of 13 ids is the whole encoder; the table is
read from the model's own tokenizer and tested against it.

Axes: M windows, L tokens of a window, N series, T steps, V variables.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxlv import memory
from jaxlv.config import WindowConfig
from jaxlv.errors import JaxlvError
from jaxlv.text.codec import SYMBOLS, Codec
from jaxlv.text.tokenizer import Tokenizer, open_tokenizer

QWEN_IDS = {**{str(d): 15 + d for d in range(10)}, ".": 13, ",": 11, ";": 26}
QWEN_END = {"<|endoftext|>": 151_643, "<|im_end|>": 151_645}
PROBE = "".join(f"{a}{b}{mark}" for mark in ".,;" for a in range(10) for b in range(10))  # all pairs in the format
NO_POSITION = -1
IGNORED = -1  # the label of a token without a loss
Array = Any  # NumPy's on the host, JAX's within a step


# --------------------------------------------------------------------------------------------- the alphabet


@dataclass(frozen=True)
class Alphabet:
    """The ids of the 13 symbols in a model's vocabulary, in the order of `SYMBOLS`, and its end-of-text ids."""

    ids_A: np.ndarray  # int32 (13,)
    end_ids: tuple[int, ...]
    source: str  # the file, or files, of the ids

    @functools.cached_property
    def _table(self) -> np.ndarray:
        table = np.full(256, -1, np.int32)
        table[np.frombuffer(SYMBOLS.encode(), np.uint8)] = self.ids_A
        return table

    def encode(self, text: str) -> np.ndarray:
        """Returns the token ids (int32) of a text over the 13 symbols; raises JaxlvError if it has another character."""
        try:
            ids = self._table[np.frombuffer(text.encode("latin-1"), np.uint8)]
        except UnicodeEncodeError:
            ids = np.array([-1])
        if (ids < 0).any():
            raise JaxlvError("a character outside the 13 symbols", where="text", expected=SYMBOLS, found=repr(text[:40]))
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text of token ids up to the first end-of-text; any other foreign token becomes "?"."""
        symbols = dict(zip(self.ids_A.tolist(), SYMBOLS, strict=True))
        text = []
        for token in np.asarray(ids).tolist():
            if token in self.end_ids:
                break
            text.append(symbols.get(token, "?"))
        return "".join(text)


def load_alphabet(folder: str | Path, vocab_size: int) -> Alphabet:
    """Loads the alphabet of the tokenizer in a model folder; Qwen2.5's own ids if the folder has no tokenizer files.

    Raises JaxlvError if a symbol is not exactly one token, if symbols merge, or if ids lie outside the vocabulary.
    """
    tokenizer = open_tokenizer(folder)
    if tokenizer is None:
        source, ids, ends = "no tokenizer files: Qwen2.5's own ids", QWEN_IDS, tuple(QWEN_END.values())
    else:
        source = tokenizer.source
        if tokenizer.digest not in _checked:  # the same files are checked once
            _checked[tokenizer.digest] = _checked_ids(tokenizer)
        ids, ends = _checked[tokenizer.digest]
    if max(ids.values()) >= vocab_size:
        raise JaxlvError(
            "token ids outside the vocabulary", where=folder, expected=f"< {vocab_size}", found=max(ids.values())
        )
    # An end token beyond the model's vocabulary cannot be drawn.
    return Alphabet(
        np.array([ids[symbol] for symbol in SYMBOLS], np.int32), tuple(id for id in ends if id < vocab_size), source
    )


_checked: dict[str, tuple[dict[str, int], tuple[int, ...]]] = {}  # by digest of the files: ids of symbols and of ends


def load_encoder(folder: str | Path) -> Callable[[str], Sequence[int]] | None:
    """Returns the function text -> ids of a folder's tokenizer, even if it does not suit the 13 symbols; None without
    tokenizer files.
    """
    tokenizer = open_tokenizer(folder)
    return tokenizer.encode if tokenizer else None


def token_texts(folder: str | Path, ids: Sequence[int] | np.ndarray) -> list[str]:
    """Returns the text of each token id by the tokenizer in a model folder; "" if an id has none.

    For a folder without tokenizer files, only the 13 symbols and the ends of a text are known, by Qwen2.5's own ids.
    """
    tokenizer = open_tokenizer(folder)
    if tokenizer:
        return tokenizer.texts(ids)
    own = {id: text for text, id in (QWEN_IDS | QWEN_END).items()}
    return [own.get(int(id), "") for id in ids]


def _checked_ids(tokenizer: Tokenizer) -> tuple[dict[str, int], tuple[int, ...]]:
    encode, folder = tokenizer.encode, tokenizer.folder
    ids: dict[str, int] = {}
    for symbol in SYMBOLS:
        found = encode(symbol)
        if len(found) != 1:
            raise JaxlvError(f"the tokenizer does not give {symbol!r} exactly one id", where=folder, found=found)
        ids[symbol] = found[0]
    written, alone = encode(PROBE), [ids[symbol] for symbol in PROBE]
    if len(set(ids.values())) != len(SYMBOLS) or written != alone:
        place = next((i for i, pair in enumerate(zip(written, alone, strict=False)) if pair[0] != pair[1]), 0)
        pair = f"{PROBE[place : place + 2]!r} as {written[place : place + 2]}"
        raise JaxlvError("the tokenizer does not give each character its own token", where=folder, found=pair)
    ends = {text: encode(text) for text in QWEN_END}
    tokenizer.close()
    if ends["<|endoftext|>"] == [QWEN_END["<|endoftext|>"]] and ids != QWEN_IDS:
        raise JaxlvError("Qwen's tokenizer with other ids for the 13 symbols", where=folder, expected=QWEN_IDS, found=ids)
    return ids, tuple(found[0] for found in ends.values() if len(found) == 1)


# -------------------------------------------------------------------------------------------------- windows


class Windows(NamedTuple):
    """Training windows: ids, positions (-1 = padding) and labels (-1 = no loss), each int32 (M, L)."""

    ids_ML: Array
    positions_ML: Array
    labels_ML: Array

    @property
    def number(self) -> int:
        """The number of windows, M."""
        return len(self.ids_ML)

    def rows(self, index: Any) -> Windows:
        """Returns the windows at an index, a list of indices, or a slice."""
        return Windows(*(array[index] for array in self))


def window(ids: np.ndarray, length: int, side: str = "right", counted: int | None = None) -> Windows:
    """Returns one window, without the axis M, of at most `length` tokens, padded on the given `side`.

    A token's label is the next token; the last real token and the padding have none. If `counted` is given, padding consists
    of that token and is seen and predicted like any other, as in two papers.
    """
    ids = ids[:length]
    if counted is not None:
        ids = np.pad(ids, (0, length - len(ids)), constant_values=counted)
    pad = length - len(ids)
    labels = np.append(ids[1:], IGNORED)
    if not pad:
        return Windows(ids, np.arange(length), labels)
    widths = (0, pad) if side == "right" else (pad, 0)
    return Windows(
        np.pad(ids, widths),
        np.pad(np.arange(len(ids)), widths, constant_values=NO_POSITION),
        np.pad(labels, widths, constant_values=IGNORED),
    )


def without_gaps(windows: Windows, alphabet: Alphabet) -> Windows:
    """Returns the windows without a loss where a value is missing, so that models read gaps but never write them: a
    delimiter behind a delimiter has no label.
    """
    ends = alphabet.ids_A[[SYMBOLS.index(mark) for mark in ",;"]]
    is_gap = np.isin(windows.ids_ML, ends) & np.isin(windows.labels_ML, ends)
    return windows._replace(labels_ML=np.where(is_gap, IGNORED, windows.labels_ML))


def stack(windows: Sequence[Windows], length: int, padding: Literal["any", "right"] = "any") -> Windows:
    """Returns windows as three int32 arrays (M, length).

    Raises JaxlvError if `padding` says that there is padding only on the right, on which a program relies that is not told
    the positions, and a row has its tokens elsewhere.
    """
    parts = zip(*windows, strict=True) if windows else ([], [], [])
    made = Windows(*(np.array(part, np.int32).reshape(-1, length) for part in parts))
    if padding == "right":
        slots_L = np.arange(length)
        expected_ML = np.where(slots_L < (made.positions_ML >= 0).sum(axis=1, keepdims=True), slots_L, NO_POSITION)
        wrong = np.flatnonzero((made.positions_ML != expected_ML).any(axis=1))
        if len(wrong):
            expected, found = "positions 0, 1, ... and then padding", made.positions_ML[wrong[0]].tolist()
            raise JaxlvError("padding that is not on the right", where=f"window {wrong[0]}", expected=expected, found=found)
    return made


def stream_starts(ids: np.ndarray, length: int, stride: int, partial: str, aligned_to: int | None = None) -> Iterator[int]:
    """Yields the starts of the windows over one series' tokens.

    partial "drop" keeps only full windows; "pad" also keeps shorter ones, so every multiple of the stride within the text
    starts one. `aligned_to` (the id of ";") moves a start forward to the next time step.
    """
    last = len(ids) - length if partial == "drop" else len(ids) - 2
    previous = -1
    for start in range(0, len(ids), stride):
        if aligned_to is not None and start > 0:
            ahead = np.flatnonzero(ids[start - 1 :] == aligned_to)
            start = start + int(ahead[0]) if len(ahead) else len(ids)
        if start > last:
            return
        if start > previous:  # with a stride shorter than a step, two starts may move to the same step
            yield start
        previous = start


def make_windows(
    series: Sequence[np.ndarray],
    codec: Codec,
    alphabet: Alphabet,
    config: WindowConfig,
    stride: int | None = None,
    seed: Sequence[int] = (0,),
) -> Windows:
    """Makes the windows of series, each (T, V) in raw units; `stride` (tokens) replaces the config's, as in validation.

    NaN is a missing value, which the text marks and no label asks for.

    With the rule `context`, each window shows what the model will see when it forecasts: a series from one of its time steps
    on, its scale fitted on a context of config.context_steps = (least, most) steps drawn by `seed`, with one of the codec's
    headrooms. The stride is then counted in steps of nominal length (one digit before the point). With the other rules a
    series is one stream of tokens in one scale, cut as the config says.
    """
    stride = stride or config.stride
    _check_memory(series, codec, config, stride)
    counted = _pad_id(alphabet) if config.pads == "counted" else None
    if codec.scale == "context":
        drawn = list(_context_windows(series, codec, alphabet, config, stride, seed, counted))
        return without_gaps(stack(drawn, config.length, config.padding), alphabet)
    semicolon = int(alphabet.ids_A[SYMBOLS.index(";")]) if config.align == "step" else None
    windows = []
    for series_TV in series:
        text = codec.encode(series_TV, codec.fit(series_TV, series_TV), closed=semicolon is not None, gaps=True)
        ids = alphabet.encode(text)
        for start in stream_starts(ids, config.length, stride, config.partial, semicolon):
            windows.append(window(ids[start:], config.length, config.side, counted))
    return without_gaps(stack(windows, config.length, config.padding), alphabet)


def _check_memory(series: Sequence[np.ndarray], codec: Codec, config: WindowConfig, stride: int) -> None:
    """Raises JaxlvError if even the smallest possible number of windows does not fit in memory."""
    count = sum(_least_windows(len(series_TV), series_TV.shape[1], codec, config, stride) for series_TV in series)
    # Finally ids, positions and labels take 4 bytes each; while the windows are in a list, positions and labels take 8.
    size = count * config.length * (3 * 4 + 4 + 2 * 8)
    memory.check("training windows", host={"lower windows.length, or raise windows.stride": size})


def _least_windows(steps: int, variables: int, codec: Codec, config: WindowConfig, stride: int) -> int:
    """Returns the smallest possible number of windows of a series."""
    step = variables * (codec.decimals + 3)  # tokens
    if config.partial == "drop":
        return int(codec.scale == "context")
    if codec.scale == "context":
        return len(range(0, max(1, steps - config.context_steps[0]), max(1, stride // step)))
    return max(1, min(steps - 1, (steps * step - 2) // stride))


def _pad_id(alphabet: Alphabet) -> int:
    if not alphabet.end_ids:
        raise JaxlvError("the vocabulary has no token for padding", where='windows.pads = "counted"', found=alphabet.source)
    return alphabet.end_ids[0]


def _scale(codec: Codec, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the scale of the first part of a series that has one: a variable may be 0 throughout a context. Raises
    JaxlvError if none has one.
    """
    *first, last = parts
    for part in first:
        with contextlib.suppress(JaxlvError):
            return codec.fit(part)
    return codec.fit(last)


def _context_windows(series, codec, alphabet, config, stride, seed, counted):
    generator, variants = np.random.default_rng(list(seed)), codec.variants
    least, most = config.context_steps
    V = series[0].shape[1] if len(series) else 1
    enough = config.length // (V * (codec.decimals + 3)) + 1  # steps, with one digit before the point, that fill a window
    stride_steps = max(1, stride // (V * (codec.decimals + 3)))
    for series_TV in series:
        for start in range(0, max(1, len(series_TV) - least), stride_steps):
            rest_TV = series_TV[start:]
            cut = int(generator.integers(min(least, len(rest_TV)), min(most, len(rest_TV)) + 1))
            one = variants[int(generator.integers(len(variants)))] if len(variants) > 1 else codec
            alpha_V = _scale(one, (rest_TV[:cut], rest_TV, series_TV))
            ids = alphabet.encode(codec.encode(rest_TV[: enough + np.isnan(rest_TV).sum()], alpha_V, gaps=True))
            if start and config.partial == "drop" and len(ids) < config.length:
                break
            yield window(ids, config.length, config.side, counted)
