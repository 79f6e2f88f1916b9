"""Whether a base has read anything like a context: what the context costs it, in nats for each written value, beside what
its own validation series cost it.

Axes: N series, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxlv.data.series import SeriesSet
from jaxlv.forecasting.likelihood import metered_nll
from jaxlv.forecasting.sampler import Sampler
from jaxlv.steps.prompts import padded
from jaxlv.text.codec import SYMBOLS
from jaxlv.text.tokens import IGNORED, Alphabet, Windows, stack, window, without_gaps

FIRST = 6  # steps that do not count: nothing tells yet what the series is like
SHARE = 0.99  # of a base's own validation windows that cost it less than the limit


def nats_per_written_value(sampler: Sampler, series: SeriesSet, context: int, batch: int = 8) -> np.ndarray:
    """Returns what each context costs the model on average, in nats for each value as it is written, from step FIRST on:
    (N,); NaN for a context that has no more steps. Values that were filled in do not count, whether a text has them or not.
    """
    alphabet, scales_NV = sampler.alphabet, sampler.scales(series, context)
    ends_N = context - series.first_N
    texts = [
        sampler.codec.encode(written_TV[:end], alpha_V, gaps=True)
        for written_TV, end, alpha_V in zip(sampler.written(series), ends_N, scales_NV, strict=True)
    ]
    width = padded(max(map(len, texts)))
    rows = stack([window(alphabet.encode(text), width) for text in texts], width)
    if not sampler.reads_gaps:
        filled = [np.isnan(marked_TV[:end]) for marked_TV, end in zip(series.written, ends_N, strict=True)]
        rows = known(rows, filled, alphabet)
    found = []
    for part in np.split(np.arange(len(texts)), range(batch, len(texts), batch)):
        some = later(rows.rows(np.resize(part, batch)), alphabet)  # a short batch is filled, so that one shape is compiled
        found.append(by_value(metered_nll(sampler, some), some, alphabet)[: len(part)])
    return np.concatenate(found)


def later(windows: Windows, alphabet: Alphabet) -> Windows:
    """Returns the windows without a loss in their first FIRST steps, nor where a value is missing."""
    steps_ML = np.cumsum(windows.ids_ML == alphabet.ids_A[SYMBOLS.index(";")], axis=-1)
    kept = without_gaps(windows, alphabet)
    return kept._replace(labels_ML=np.where(steps_ML >= FIRST, kept.labels_ML, IGNORED))


def known(windows: Windows, filled: Sequence[np.ndarray], alphabet: Alphabet) -> Windows:
    """Returns windows of texts without gaps without a loss at values that were filled in: of each (T, V), which were."""
    ends = alphabet.ids_A[[SYMBOLS.index(mark) for mark in ",;"]]
    value_ML = np.cumsum(np.isin(windows.ids_ML, ends), axis=-1)  # to which a token's label belongs
    filled_ML = np.array([
        np.isin(value_L, np.flatnonzero(filled_TV)) for value_L, filled_TV in zip(value_ML, filled, strict=True)
    ])  # fmt: skip
    return windows._replace(labels_ML=np.where(filled_ML, IGNORED, windows.labels_ML))


def by_value(nll_ML: np.ndarray, windows: Windows, alphabet: Alphabet) -> np.ndarray:
    """Returns the nats of each window for each of the values whose delimiter has a label: (M,); NaN without any."""
    ends = alphabet.ids_A[[SYMBOLS.index(mark) for mark in ",;"]]
    count_M = np.isin(windows.labels_ML, ends).sum(axis=1)
    return np.where(count_M > 0, nll_ML.sum(axis=1) / np.maximum(count_M, 1), np.nan)


def limits(nats_M: np.ndarray, variables_M: np.ndarray) -> dict[str, float]:
    """Returns the limit of each number of variables, given the nats per written value of validation windows."""
    return {
        str(variables): round(float(np.quantile(nats_M[variables_M == variables], SHARE)), 4)
        for variables in np.unique(variables_M).tolist()
    }
