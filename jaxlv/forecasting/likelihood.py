"""What the truth costs a model: negative log likelihood in nats per value, in the units of the series.

A value that is written with d decimals in the scale alpha stands for an interval of alpha 10^-d raw units. So a text of
probability p means a density of p / (alpha 10^-d), and the value costs -log p + log(alpha 10^-d) nats. This is comparable
between numbers of decimals and between scale rules, and negative if the density exceeds one per raw unit. It is the
continuous likelihood of LLMTIME (Gruver, Finzi, Qiu and Wilson 2023, "Large language models are zero-shot time series
forecasters", section 3). p is the probability of the value's digits, point and closing delimiter, given every token before
them, in a softmax over the 13 symbols at temperature 1. Samples are drawn from the same softmax, except that the number
grammar takes symbols away. Texts that are not numbers have a share of p too, so the density integrates to at most 1. A value
written as 0 stands for half an interval; its cost is log 2 too high.

Axes: N series, B rows of a batch, L tokens of a row, H steps ahead, V variables, A the 13 symbols.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlv.activity import compiling
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError, all_finite
from jaxlv.forecasting.sampler import Sampler
from jaxlv.model import placement
from jaxlv.model.qwen2 import Qwen2, features
from jaxlv.steps.loss import restrict, token_cross_entropy
from jaxlv.steps.prompts import padded
from jaxlv.text.codec import SYMBOLS
from jaxlv.text.tokens import IGNORED, Alphabet, Windows, stack, window


def nats_per_value(
    forecaster: Sampler,
    series: SeriesSet,
    context: int,
    horizon: int,
    batch_series: int = 8,
    side: str = "right",
    on_batch: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Returns the nats of each value of steps context .. context + horizon - 1, given all values before it: (N, H, V).

    The truth is fed to the model, `batch_series` rows in a forward pass, padded on `side`; a meter reserves each pass first.
    The nats are infinite for a series whose future the text format cannot hold. Raises JaxlvError if the series are shorter
    than context + horizon, or if their text is longer than the model's positions; NotFinite if the model's likelihood of a
    token is not finite. Calls `on_batch(series done)`.
    """
    codec, alphabet, V = forecaster.codec, forecaster.alphabet, len(series.variables)
    if not 1 <= context < context + horizon <= series.values_NTV.shape[1]:
        raise JaxlvError(
            "context and horizon do not fit the series",
            expected=f"at least 1 step each, {series.values_NTV.shape[1]} together",
            found=f"{context} + {horizon}",
        )
    scales_NV = forecaster.scales(series, context)
    texts: dict[int, tuple[np.ndarray, int]] = {}  # row -> (token ids, first token of the future)
    each = zip(series.values_NTV, forecaster.written(series), scales_NV, strict=True)
    for row, (values_TV, written_TV, alpha_V) in enumerate(each):
        given_TV = written_TV[: context - series.first_N[row]]
        prompt = codec.encode(given_TV, alpha_V, where=f"series {series.ids_N[row]}", gaps=True)
        with contextlib.suppress(JaxlvError):  # its future has numbers that the format does not write
            text = prompt + codec.encode(values_TV[context : context + horizon], alpha_V)
            texts[row] = alphabet.encode(text), len(prompt)
    nats_NHV = np.full((len(series), horizon, V), np.inf)
    longest, limit = max((len(ids) for ids, _ in texts.values()), default=1), forecaster.model.config.max_position_embeddings
    if longest > limit:
        raise JaxlvError("the text is longer than the model's positions", expected=f"at most {limit} tokens", found=longest)
    width = padded(longest)
    rows = np.array(sorted(texts), int)
    done = len(series) - len(rows)
    for part in np.split(rows, range(batch_series, len(rows), batch_series)) if len(rows) else []:
        filled = np.resize(part, batch_series)  # a short batch is filled, so that one shape is compiled
        windows = stack([future(*texts[row], width, side) for row in filled], width)
        nll_BL = metered_nll(forecaster, windows)
        for row, nll_L, labels_L in zip(part, nll_BL, windows.labels_ML, strict=False):
            all_finite(nll_L, "the model's likelihoods", f"series {series.ids_N[row]}")
            nats_NHV[row] = _by_value(nll_L, labels_L, alphabet).reshape(horizon, V)
        done += len(part)
        on_batch(done)
    return nats_NHV + np.log(scales_NV * 10.0**-codec.decimals)[:, None]


def future(ids: np.ndarray, begin: int, length: int, side: str = "right") -> Windows:
    """Returns the window of a text in which only the tokens from `begin` on have a loss."""
    whole = window(ids, length, side)
    return whole._replace(labels_ML=np.where(whole.positions_ML >= begin - 1, whole.labels_ML, IGNORED))


def metered_nll(forecaster: Sampler, windows: Windows) -> np.ndarray:
    """Returns what `token_nll` does, over the devices of the model's mesh; a meter reserves it first."""
    batch, length = windows.ids_ML.shape
    paid = forecaster.spending("validation", batch=batch, length=length, head="alphabet", loss="tokens")
    with paid, compiling("the likelihoods", forecaster.model, "lora" in forecaster.variables, batch, length):
        windows = placement.rows(windows, forecaster.model.mesh)
        nll_BL = token_nll(forecaster.model, forecaster.variables, windows, forecaster.alphabet.ids_A)
        return np.asarray(placement.everywhere(nll_BL, forecaster.model.mesh), float)


@functools.partial(jax.jit, static_argnums=0)
def token_nll(model: Qwen2, variables: dict[str, Any], windows: Windows, alphabet_A: jax.Array) -> jax.Array:
    """Returns -log p(label) of each token over the alphabet, in nats: float32 (B, L), 0 if the label is -1."""
    x_BLD, head, _ = features(model, variables, windows.ids_ML, windows.positions_ML)
    head, labels_BL = restrict(head, windows.labels_ML, jnp.asarray(alphabet_A))
    return token_cross_entropy(x_BLD, head, labels_BL)


def _by_value(nll_L: np.ndarray, labels_L: np.ndarray, alphabet: Alphabet) -> np.ndarray:
    """Returns the sums over the tokens of each value, which ends with its delimiter: (H * V,)."""
    real_L = labels_L != IGNORED
    nll, labels = nll_L[real_L], labels_L[real_L]
    closing = np.isin(labels, alphabet.ids_A[[SYMBOLS.index(","), SYMBOLS.index(";")]])
    return np.bincount(np.cumsum(closing) - closing, weights=nll)
