"""What a model's logits say about held-out text: the cost of every token, and whether padding matters.

Axes: N series, L tokens of a text, B rows of a batch, T slots of a row or time steps, K token ids that are compared, V
vocabulary.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlv.data.series import SeriesSet
from jaxlv.errors import all_finite
from jaxlv.forecasting import metrics
from jaxlv.forecasting.sampler import Sampler
from jaxlv.model.qwen2 import Qwen2, features, project
from jaxlv.results.anatomy import Nats, NatsOver, PaddedCase, Padding, StepCosts, TokenCosts, TokenShare
from jaxlv.steps.loss import token_losses
from jaxlv.steps.prompts import padded
from jaxlv.text.codec import SYMBOLS
from jaxlv.text.tokens import IGNORED, NO_POSITION, Windows, stack, window

Variables = dict[str, Any]

# ------------------------------------------------------------------------------------------ costs of tokens

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
DELIMITERS = {".": "point", ",": "comma", ";": "semicolon"}
WHOLE = "digit before the point"
KINDS = (WHOLE, "point", *(f"{name} decimal" for name in ORDINALS), "comma", "semicolon")


def token_kinds(text: str) -> list[str]:
    """Returns which of KINDS each character of a text is."""
    kinds: list[str] = []
    decimals: int | None = None  # how many have been read; None before the point
    for symbol in text:
        if symbol in DELIMITERS:
            kinds.append(DELIMITERS[symbol])
            decimals = 0 if symbol == "." else None
        elif decimals is None:
            kinds.append(WHOLE)
        else:
            kinds.append(f"{ORDINALS[decimals]} decimal")
            decimals += 1
    return kinds


def token_costs(
    forecaster: Sampler,
    series: SeriesSet,
    context: int,
    batch_series: int = 8,
    side: str = "right",
    on_batch: Callable[[int], None] = lambda done: None,
) -> TokenCosts:
    """Returns cross-entropy and perplexity per real token of whole series, teacher forced: overall, by kind, by time step.

    A series is written in the scale of its first `context` steps under the codec's own head-room. The first token of a
    text has nothing before it and no cost; padding never counts; tokens behind the model's positions are left out.
    There are two softmaxes: over the whole vocabulary, and over the 13 symbols, from which constrained decoding samples.
    Calls `on_batch(done)` with the number of series that are finished. Raises JaxlvError if the text format cannot hold a
    series.
    """
    codec, scales_NV = forecaster.codec, forecaster.scales(series, context)
    rows = zip(series.ids_N, series.values_NTV, scales_NV, strict=True)
    limit = forecaster.model.config.max_position_embeddings
    texts = [codec.encode(v_TV, alpha_V, where=f"series {i}")[:limit] for i, v_TV, alpha_V in rows]
    losses = _losses_of(forecaster, texts, batch_series, side, on_batch)
    kinds = np.array([kind for text in texts for kind in token_kinds(text)[1:]])
    step = np.concatenate([np.cumsum([symbol == ";" for symbol in text[:-1]]) for text in texts])
    owner = np.repeat(np.arange(len(texts)), [len(text) - 1 for text in texts])
    vocabulary, symbols = (_cost(losses_L, owner) for losses_L in losses)
    return TokenCosts(
        series=tuple(series.ids_N.tolist()),
        context=context,
        headroom=codec.headroom if codec.scale == "context" else None,
        scale=codec.scale,
        tokens=losses.shape[1],
        vocabulary=vocabulary,
        symbols=symbols,
        outside=np.maximum(1 - np.exp(losses[1] - losses[0]), 0).mean(),
        by_kind={kind: _share(losses, kinds == kind) for kind in KINDS if kind in kinds},
        by_window={
            "steps of the context": _share(losses, step < context),
            "steps behind it": _share(losses, step >= context),
        },
        by_step=_by_step(losses, step, owner),
    )


def _losses_of(
    forecaster: Sampler, texts: Sequence[str], size: int, side: str, on_batch: Callable[[int], None]
) -> np.ndarray:
    """Returns the nats of every token except the first of each text, text after text, by both softmaxes: (2, all tokens)."""
    width, alphabet = padded(max(map(len, texts))), forecaster.alphabet
    found: list[np.ndarray] = []
    for first in range(0, len(texts), size):
        part = texts[first : first + size]
        filled = [*part, *[part[0]] * (size - len(part))]  # a short batch is filled, so that one shape is compiled
        windows = stack([window(alphabet.encode(text), width, side) for text in filled], width)
        with _spending(forecaster, size, width):
            losses_2BL = np.asarray(
                _token_losses(forecaster.model, forecaster.variables, windows, forecaster.alphabet.ids_A)
            )
        all_finite(losses_2BL, "the model's likelihoods", f"texts {first} to {first + len(part) - 1}")
        found += [losses_2BL[:, row][:, windows.labels_ML[row] != IGNORED] for row in range(len(part))]
        on_batch(min(first + size, len(texts)))
    return np.concatenate(found, axis=1).astype(float)


def _spending(forecaster: Sampler, batch: int, length: int) -> contextlib.AbstractContextManager[Any]:
    """Reserves a forward pass over the whole vocabulary if the forecaster has a meter."""
    meter = forecaster.meter
    shape: dict[str, Any] = {"batch": batch, "length": length, "head": "frozen", "loss": "both"}
    return meter.spend("validation", **shape) if meter else contextlib.nullcontext()


@functools.partial(jax.jit, static_argnums=0)
def _token_losses(model: Qwen2, variables: Variables, windows: Windows, alphabet_A: jax.Array) -> jax.Array:
    x_BTD, head, _ = features(model, variables, windows.ids_ML, windows.positions_ML)
    return jnp.stack(token_losses(x_BTD, head, jnp.asarray(windows.labels_ML), jnp.asarray(alphabet_A)))


def _cost(nats: np.ndarray, owner: np.ndarray) -> NatsOver:
    by_series_N = np.bincount(owner, weights=nats) / np.bincount(owner)
    return NatsOver(nats.mean(), math.exp(nats.mean()), metrics.bootstrap_interval(by_series_N), by_series_N.tolist())


def _share(losses: np.ndarray, chosen: np.ndarray) -> TokenShare:
    """Returns count, mean cost and perplexity of some tokens, and their share of all nats; None if there are none."""
    part = losses[:, chosen]
    vocabulary, symbols = (Nats(mean, np.exp(mean)) for mean in (part.mean(axis=1) if part.size else (math.nan, math.nan)))
    return TokenShare(vocabulary, symbols, part.shape[1], part[1].sum() / losses[1].sum())


def _by_step(losses: np.ndarray, step: np.ndarray, owner: np.ndarray) -> StepCosts:
    """Returns the cost per token of each time step over the 13 symbols: mean over tokens, then quantiles over series."""
    shape = owner.max() + 1, step.max() + 1
    sums_NT, counts_NT = np.zeros(shape), np.zeros(shape)
    np.add.at(sums_NT, (owner, step), losses[1])
    np.add.at(counts_NT, (owner, step), 1)
    mean_NT = np.divide(sums_NT, counts_NT, out=np.full(shape, np.nan), where=counts_NT > 0)
    low_T, middle_T, high_T = np.nanquantile(mean_NT, [0.1, 0.5, 0.9], axis=0)
    return StepCosts(tuple(range(shape[1])), low_T.tolist(), middle_T.tolist(), high_T.tolist())


# ------------------------------------------------------------------------------------------- padding sides

PROMPTS, COMPARED = 2, 1024  # prompts that are padded, and logits compared at each of their tokens
FROM_TEXT, FROM_START = "counted from the text", "counted from the row's start"


def padding_sides(forecaster: Sampler, series: SeriesSet, context: int) -> Padding:
    """Compares the logits of real tokens, and the next token behind prompts, without padding and with it on either side.

    Positions counted from the text, -1 at the padding, must give the same logits on both sides, up to the rounding of the
    model's type. The other cases are mistakes: positions that count the padding, padding that is read as text, and
    a next token that is read behind the padding on the right.
    """
    prompts = _prompts(forecaster, series, context)
    width = padded(max(map(len, prompts)) + 1)
    chosen_K = _compared(forecaster)
    alone = [_logits(forecaster, prompt[None], np.arange(len(prompt))[None], np.array([-1]), chosen_K) for prompt in prompts]
    wanted = [logits_1TK[0] for logits_1TK, _ in alone]
    next_BV = np.concatenate([next_1V for _, next_1V in alone])
    largest = max(float(np.abs(logits_TK).max()) for logits_TK in wanted)
    model = forecaster.model
    eps, depth = float(jnp.finfo(model.dtype).eps), model.config.num_hidden_layers
    bound = 2 * depth * model.config.hidden_size**0.5 * eps * largest
    digits = forecaster.alphabet.ids_A[[symbol.isdigit() for symbol in SYMBOLS]]
    cases = [PaddedCase("no padding", difference=0.0, distance=0.0, digit=next_BV[:, digits].sum(axis=1).mean())]
    for name, side, positions, seen, last in (
        ("right", "right", FROM_TEXT, False, "text"),
        ("left", "left", FROM_TEXT, False, "text"),
        ("left, positions count the padding", "left", FROM_START, False, "text"),
        ("left, padding read as text", "left", FROM_START, True, "text"),
        ("right, next token read behind the padding", "right", FROM_START, True, "row"),
    ):
        ids_BT, positions_BT, real_BT = _padded_rows(forecaster, prompts, width, side, positions, seen)
        ends_B = np.array([width - 1 if last == "row" else np.flatnonzero(real_T)[-1] for real_T in real_BT])
        logits_BTK, after_BV = _logits(forecaster, ids_BT, positions_BT, ends_B, chosen_K)
        pairs = zip(logits_BTK, real_BT, wanted, strict=True)
        difference = max(float(np.abs(logits_TK[real_T] - other).max()) for logits_TK, real_T, other in pairs)
        distance, digit = 0.5 * np.abs(after_BV - next_BV).sum(axis=1).max(), after_BV[:, digits].sum(axis=1).mean()
        cases.append(PaddedCase(name, difference, difference <= bound, distance, digit, side, positions, seen))
    return Padding(
        dtype=str(jnp.dtype(model.dtype)),
        prompts=tuple(len(prompt) for prompt in prompts),
        padded_to=width,
        logits_compared=len(chosen_K),
        largest_logit=largest,
        bound=bound,
        cases=tuple(cases),
    )


def _prompts(forecaster: Sampler, series: SeriesSet, context: int) -> list[np.ndarray]:
    """Returns the ids of prompts of different lengths, each from another series: the whole context, and its last half."""
    scales_NV = forecaster.scales(series, context)
    prompts = []
    for row in range(PROMPTS):
        n, steps = row % len(series), max(1, context * (PROMPTS - row) // PROMPTS)
        values_TV = series.values_NTV[n, context - steps : context]
        prompts.append(forecaster.alphabet.encode(forecaster.codec.encode(values_TV, scales_NV[n])))
    return prompts


def _compared(forecaster: Sampler) -> np.ndarray:
    """Returns the ids whose logits are compared: the 13 symbols, and some that are spread over a large vocabulary."""
    spread = np.linspace(0, forecaster.model.config.vocab_size - 1, COMPARED).astype(int)
    return np.unique([*forecaster.alphabet.ids_A, *spread])


class _Padded(NamedTuple):
    """Prompts of one width; `real_BT` says which slots are text."""

    ids_BT: np.ndarray
    positions_BT: np.ndarray
    real_BT: np.ndarray


def _padded_rows(
    forecaster: Sampler, prompts: Sequence[np.ndarray], width: int, side: str, positions: str, seen: bool
) -> _Padded:
    """Returns prompts padded with the end of a text, if the vocabulary has one."""
    filler = forecaster.alphabet.end_ids[0] if forecaster.alphabet.end_ids else 0
    ids_BT, positions_BT, _ = stack([window(prompt, width, side) for prompt in prompts], width)
    real_BT = positions_BT != NO_POSITION
    ids_BT = np.where(real_BT, ids_BT, filler)
    if positions == FROM_START:
        positions_BT = np.where(real_BT | seen, np.arange(width), NO_POSITION)
    return _Padded(ids_BT, positions_BT.astype(np.int32), real_BT)


def _logits(forecaster: Sampler, ids_BT, positions_BT, ends_B, chosen_K) -> tuple[np.ndarray, np.ndarray]:
    """Returns (logits of the chosen tokens at every slot, the next token's distribution behind the slots `ends_B`)."""
    with _spending(forecaster, *ids_BT.shape):
        found = _some_logits(forecaster.model, forecaster.variables, ids_BT, positions_BT.astype(np.int32), ends_B, chosen_K)
    logits_BTK, after_BV = (np.asarray(part, float) for part in found)
    return logits_BTK, all_finite(after_BV, "the model's logits", "behind the prompts")


@functools.partial(jax.jit, static_argnums=0)
def _some_logits(model: Qwen2, variables: Variables, ids_BT, positions_BT, ends_B, chosen_K) -> tuple[jax.Array, jax.Array]:
    x_BTD, head, _ = features(model, variables, ids_BT, positions_BT)
    rows_B, logits_BTK = jnp.arange(len(ends_B)), project(x_BTD, head.rows(chosen_K))
    every = len(chosen_K) == model.config.vocab_size  # then nothing is computed twice, nor more than is billed
    after_BV = logits_BTK[rows_B, ends_B] if every else project(x_BTD[rows_B, ends_B][:, None], head)[:, 0]
    return logits_BTK, jax.nn.softmax(after_BV, axis=-1)
