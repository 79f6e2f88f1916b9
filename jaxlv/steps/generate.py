"""Generation: one prefill per series, shared by all its samples, then a compiled loop over single tokens.

The keys and values of a prompt are held once per series. Each sample adds a tail of its own, which grows in a few stages, so
that the first tokens do not attend to slots that only the last tokens fill. A row's random key depends only on the seed, the
series and the sample, so a forecast does not depend on the batch in which it is made.

Axes: S series, N samples of each, B = S * N rows, P prompt tokens, C new tokens at most, V vocabulary (or the 13 symbols),
K key/value heads, H head size.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlv.activity import compiling
from jaxlv.config import COUNT, EvaluateConfig, SamplingConfig
from jaxlv.errors import JaxlvError, NotFinite
from jaxlv.model.qwen2 import Qwen2, Segment, features, project
from jaxlv.settings import Statement, argument, settled
from jaxlv.steps import kept
from jaxlv.steps.needs import check_generation
from jaxlv.text.codec import SYMBOLS
from jaxlv.text.grammar import Grammar
from jaxlv.text.tokens import NO_POSITION, Alphabet, Array

PROMPT_MULTIPLE = 64  # prompts are padded on the left to a multiple, so that few shapes are compiled
STAGES, STAGE_MULTIPLE = 2, 64  # how often the tail grows at most, and a divisor of the slots by which it grows
FORBIDDEN = -1e30
BLOCK = 512  # tokens in a block of the two-stage draw from a whole vocabulary


@dataclass(frozen=True)
class Prompts:
    """S prompts as token ids (each 1-d). Each also has the series number on which its random numbers depend, by default its
    place, and a name for errors.
    """

    ids: Sequence[np.ndarray]
    series: Sequence[int] | np.ndarray | None = None
    names: Sequence[str] | None = None


@dataclass(frozen=True)
class Decoding:
    """How prompts are continued: `samples` times each, up to `steps` semicolons, an end-of-text token, or `new_tokens`
    tokens. Tokens are drawn as `sampling` says; temperature 0 is greedy. All this is a constant of the compiled program.
    """

    samples: int
    new_tokens: int
    sampling: SamplingConfig
    steps: int | None = None


class Generated(NamedTuple):
    """The new tokens of each sample (`ids_SNC`), -1 after its end, and how many there are (`lengths_SN`)."""

    ids_SNC: np.ndarray
    lengths_SN: np.ndarray
    iterations: int  # number of decode-loop iterations (one token per row each); the longest part's if rows were split


class DecodeState(NamedTuple):
    """What the decode loop carries from token to token."""

    drawn: jax.Array  # () tokens drawn so far
    ids_BC: jax.Array  # the tokens drawn, -1 in places that are still empty
    logits_BV: jax.Array  # for the next token
    tail: Segment  # keys and values of the tokens drawn, except the last; packed (see `_packed`), with slots for this stage
    fresh: Segment  # keys and values of the last token, which the next iteration writes to the tail before it reads the tail
    seen_BV: jax.Array  # tokens in prompt or sample, for the repetition penalty
    grammar_B: jax.Array  # state of the automaton
    steps_B: jax.Array  # time steps completed
    done_B: jax.Array
    broken_B: jax.Array  # the first token that was drawn from logits that are not finite; -1 if all were finite


def generate(
    model: Qwen2,
    variables: dict[str, Any],
    prompts: Prompts,
    alphabet: Alphabet,
    how: Decoding,
    seed: int = 0,
    grammar: Grammar | None = None,
) -> Generated:
    """Returns continuations of prompts.

    With a `grammar`, logits are formed over the 13 symbols and masked by the grammar; without, they are formed over the
    whole vocabulary. If a prompt ends within a time step, its samples complete that step first, and it counts as one of the
    steps. The random numbers of a row depend on `seed`, its series and its sample. Raises JaxlvError as `check_shape` does,
    and NotFinite, which names the prompt and the place, if a token would have to be drawn from logits that are not finite.
    """
    check_shape(model, prompts.ids, how, grammar)
    seed, samples, count = argument(EvaluateConfig, "seed", seed, "seed"), how.samples, len(prompts.ids)
    width = padded(max(map(len, prompts.ids)))
    ids_SP = np.zeros((count, width), np.int32)
    positions_SP = np.full((count, width), NO_POSITION, np.int32)
    for row, prompt in enumerate(prompts.ids):
        ids_SP[row, width - len(prompt) :] = prompt
        positions_SP[row, width - len(prompt) :] = np.arange(len(prompt))
    series = np.arange(count) if prompts.series is None else np.asarray(prompts.series)
    states_S = np.array([0 if grammar is None else state_after(grammar, alphabet, one) for one in prompts.ids], np.int32)
    tables = None if grammar is None else (np.asarray(grammar.allowed_QA), np.asarray(grammar.next_QA))
    constants = {"model": model, "how": how, "end_ids": alphabet.end_ids}

    def part(rows: np.ndarray) -> Drawn:
        begun = Rows(ids_SP[rows], positions_SP[rows], row_keys(seed, series[rows], samples), states_S[rows])
        drawn = kept.call(_generate, variables, begun, tables, np.asarray(alphabet.ids_A), **constants)
        of_prompts = len(rows), samples
        ids_SNC, broken_SN = (np.asarray(a).reshape(*of_prompts, *a.shape[1:]) for a in (drawn.ids_BC, drawn.broken_B))
        return Drawn(ids_SNC, broken_SN, int(drawn.iterations))

    parts = np.split(np.arange(count), parallel_parts(count))
    with compiling("the generation of texts", model, how, alphabet.end_ids, ids_SP.shape, grammar is None):
        if len(parts) == 1:
            results = [part(parts[0])]
        else:
            with ThreadPoolExecutor(len(parts)) as pool:
                results = list(pool.map(part, parts))
    ids_SNC, broken_SN = (np.concatenate([result[i] for result in results]) for i in range(2))
    _check_finite(ids_SNC, broken_SN, prompts.names, int(alphabet.ids_A[SYMBOLS.index(";")]))
    return Generated(ids_SNC, (ids_SNC >= 0).sum(-1), max(result.iterations for result in results))


def check_shape(model: Qwen2, prompts: Sequence[np.ndarray], how: Decoding, grammar: Grammar | None = None) -> None:
    """Raises JaxlvError if a prompt is empty, or the continuations exceed the model's positions or do not fit in memory."""
    new_tokens = how.new_tokens
    for name, value in (("samples", how.samples), ("new_tokens", new_tokens)):
        settled(value, Statement(int, "", COUNT), name)
    if not prompts or any(len(prompt) == 0 for prompt in prompts):
        raise JaxlvError("a prompt needs at least one token", where="generate")
    longest, positions = max(map(len, prompts)), model.config.max_position_embeddings
    if longest + new_tokens > positions:
        raise JaxlvError(
            "prompt and forecast are longer than the model's positions",
            where="generate",
            expected=f"at most {positions} tokens",
            found=f"{longest} + {new_tokens}",
            hint="shorten the context or the horizon",
        )
    check_generation(model, len(prompts), padded(longest), how.samples, new_tokens, grammar is not None)


def _check_finite(ids_SNC: np.ndarray, broken_SN: np.ndarray, names: Sequence[str] | None, semicolon: int) -> None:
    """Raises NotFinite for the first sample that met logits that are not finite."""
    if (broken_SN < 0).all():
        return
    s, n = (int(place) for place in np.argwhere(broken_SN >= 0)[0])
    token = int(broken_SN[s, n])
    step = 1 + int((ids_SNC[s, n, :token] == semicolon).sum())
    name = names[s] if names else f"prompt {s}"
    raise NotFinite("the model's logits", f"{name}, sample {n}, token {token + 1} (step {step})")


def state_after(grammar: Grammar, alphabet: Alphabet, prompt: np.ndarray) -> int:
    """Returns the automaton's state after a prompt: 0 unless the prompt ends within a step."""
    symbol_of = {token: symbol for symbol, token in enumerate(alphabet.ids_A.tolist())}
    symbols = [symbol_of.get(token, -1) for token in np.asarray(prompt).tolist()]
    closed = [place for place, symbol in enumerate(symbols) if symbol == SYMBOLS.index(";")]
    state = 0
    for symbol in symbols[closed[-1] + 1 if closed else 0 :]:
        if symbol < 0 or not grammar.allowed_QA[state, symbol]:
            return 0
        state = int(grammar.next_QA[state, symbol])
    return state


def parallel_parts(series: int) -> int:
    """Returns in how many equal parts so many series are decoded side by side: on a CPU at most one per core, else 1.

    On a CPU, XLA runs the small products of a decode step on one core; an accelerator takes the whole batch.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = min(cores, series) if jax.default_backend() == "cpu" else 1
    return next(parts for parts in range(most, 0, -1) if series % parts == 0)


def padded(length: int) -> int:
    """Returns the length to which a prompt of this length is padded."""
    return -(-length // PROMPT_MULTIPLE) * PROMPT_MULTIPLE


def stage(new_tokens: int) -> int:
    """Returns the number of slots by which the tail grows when it is full."""
    return -(-new_tokens // (STAGES * STAGE_MULTIPLE)) * STAGE_MULTIPLE


def decoding(prompt: int, new_tokens: int) -> dict[str, Any]:
    """Returns what the loop runs at most after a padded prompt, by the names of a ledger's event (flops.ledger.Event)."""
    return {"new_tokens": new_tokens, "slots": prompt + new_tokens, "stage": stage(new_tokens)}


def row_keys(seed: int, series: Sequence[int] | np.ndarray, samples: int) -> jax.Array:
    """Returns one key per row, (S * N,), from the seed, the series id and the sample number."""
    low = np.uint32(seed % 2**32)  # what jax.random.key takes of a seed
    return kept.call(_row_keys, low, np.asarray(series).astype(np.uint32), samples=samples)


@functools.partial(jax.jit, static_argnames="samples")
def _row_keys(seed: jax.Array, series_S: jax.Array, samples: int) -> jax.Array:
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    series_keys_S = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), series_S)
    return fold(series_keys_S, jnp.arange(samples, dtype=jnp.uint32)).reshape(-1)


def read(
    model: Qwen2,
    variables: dict[str, Any],
    ids_BT: jax.Array,
    positions_BT: jax.Array,
    past: Sequence[Segment] = (),
    output_ids: jax.Array | None = None,
) -> tuple[jax.Array, Segment]:
    """Returns (logits (B, V) after the last of these tokens, the tokens' keys and values): a prefill, or a decode step after
    `past`.

    With `output_ids`, only the logits of these token ids are formed.
    """
    x_BTD, head, segment = features(model, variables, ids_BT, positions_BT, past)
    return project(x_BTD[:, -1:], head if output_ids is None else head.rows(output_ids))[:, 0], segment


class Rows(NamedTuple):
    """What a program continues: padded prompts, the key of each row, and each prompt's state in the grammar."""

    ids_SP: Array
    positions_SP: Array
    keys_B: Array
    states_S: Array


class Drawn(NamedTuple):
    """What a program has drawn: tokens, -1 after a sample's end; `broken_B` as in DecodeState; the number of iterations."""

    ids_BC: Array
    broken_B: Array
    iterations: Array


@functools.partial(jax.jit, static_argnames=("model", "how", "end_ids"))
def _generate(
    variables: dict[str, Any],
    rows: Rows,
    grammar: tuple[jax.Array, jax.Array] | None,
    alphabet_A: jax.Array,
    *,
    model: Qwen2,
    how: Decoding,
    end_ids: tuple[int, ...],
) -> Drawn:
    sampling, samples, most = how.sampling, how.samples, how.new_tokens
    ids_SP, positions_SP, keys_B, states_S = rows
    output_ids_V = jnp.arange(model.config.vocab_size, dtype=jnp.int32) if grammar is None else alphabet_A
    ends_E, semicolon = jnp.array(end_ids or (-1,), jnp.int32), alphabet_A[SYMBOLS.index(";")]
    allowed_QA, next_QA = grammar or (None, None)
    rules = _Rules(output_ids_V, allowed_QA, next_QA, ends_E, semicolon, how.steps)
    asked = None if grammar is None else alphabet_A

    first_SV, prefix = read(model, variables, ids_SP, positions_SP, (), asked)
    with jax.named_scope("sampling"):
        length_B = jnp.repeat(positions_SP[:, -1] + 1, samples)
        seen_SV = _seen(ids_SP, positions_SP, output_ids_V, sampling)
        logits_BV, seen_BV, states_B = (jnp.repeat(a, samples, axis=0) for a in (first_SV, seen_SV, states_S))
        state = _begun(prefix, logits_BV, seen_BV, states_B, most)

    def body(state: DecodeState) -> DecodeState:
        chosen = _choose(state, keys_B, rules, sampling)
        with jax.named_scope("sampling"):
            position_B1 = (length_B + state.drawn)[:, None]
            # The tail is written before it is read, so XLA updates it in place; otherwise it would copy it for every token.
            tail = _append(state.tail, state.fresh, jnp.maximum(state.drawn - 1, 0))
        logits_BV, fresh = read(model, variables, chosen.token_B[:, None], position_B1, (prefix, _unpacked(tail)), asked)
        return _advanced(state, chosen, rules, sampling)._replace(logits_BV=logits_BV, tail=tail, fresh=_packed(fresh))

    @jax.named_scope("sampling")
    def unfinished(last: int, state: DecodeState) -> jax.Array:
        return (state.drawn < last) & ~state.done_B.all()

    for first in range(0, most, stage(most)):
        last = min(first + stage(most), most)
        with jax.named_scope("sampling"):
            state = state._replace(tail=_grown(state.tail, last - first))
        state = jax.lax.while_loop(functools.partial(unfinished, last), body, state)
    return Drawn(state.ids_BC, state.broken_B, state.drawn)


class _Rules(NamedTuple):
    """What may be drawn, and when a sample is done."""

    output_ids_V: jax.Array
    allowed_QA: jax.Array | None
    next_QA: jax.Array | None
    ends_E: jax.Array
    semicolon: jax.Array
    steps: int | None


class _Chosen(NamedTuple):
    """The next token of each row, and what follows from it."""

    choice_B: jax.Array
    token_B: jax.Array
    breaks_B: jax.Array  # whether it is the first that was drawn from logits that are not finite
    steps_B: jax.Array
    ended_B: jax.Array


def _begun(prefix: Segment, logits_BV: jax.Array, seen_BV: jax.Array, states_B: jax.Array, most: int) -> DecodeState:
    """Returns the state before the first of at most `most` tokens."""
    rows = len(logits_BV)
    tail, fresh = _empty(prefix, rows, 0), _empty(prefix, rows, 1)
    ids_BC, zeros_B = jnp.full((rows, most), -1, jnp.int32), jnp.zeros(rows, jnp.int32)
    done_B, broken_B = jnp.zeros(rows, bool), jnp.full(rows, -1, jnp.int32)
    return DecodeState(jnp.int32(0), ids_BC, logits_BV, tail, fresh, seen_BV, states_B, zeros_B, done_B, broken_B)


@jax.named_scope("sampling")
def _choose(state: DecodeState, keys_B: jax.Array, rules: _Rules, sampling: SamplingConfig) -> _Chosen:
    logits_BV = state.logits_BV
    breaks_B = ~jnp.isfinite(logits_BV).all(-1) & ~state.done_B & (state.broken_B < 0)
    if rules.allowed_QA is not None:
        logits_BV = jnp.where(rules.allowed_QA[state.grammar_B], logits_BV, FORBIDDEN)
    if sampling.temperature:
        keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, state.drawn)
    choice_B = draw(logits_BV, keys_B, sampling, state.seen_BV)
    token_B = rules.output_ids_V[choice_B]
    steps_B = state.steps_B + (token_B == rules.semicolon)
    return _Chosen(choice_B, token_B, breaks_B, steps_B, (token_B[:, None] == rules.ends_E).any(-1))


@jax.named_scope("sampling")
def _advanced(state: DecodeState, chosen: _Chosen, rules: _Rules, sampling: SamplingConfig) -> DecodeState:
    """Returns the state with one more token in each row that is not done; logits, keys and values are still the old ones."""
    choice_B, token_B, breaks_B, steps_B, ended_B = chosen
    seen_BV, grammar_B = state.seen_BV, state.grammar_B
    shown_B = jnp.where(state.done_B | ended_B, -1, token_B)
    if sampling.repetition_penalty != 1:
        seen_BV = seen_BV.at[jnp.arange(len(choice_B)), choice_B].set(True)
    if rules.next_QA is not None:
        grammar_B = rules.next_QA[grammar_B, choice_B]
    return state._replace(
        drawn=state.drawn + 1,
        ids_BC=jax.lax.dynamic_update_slice(state.ids_BC, shown_B[:, None], (0, state.drawn)),
        seen_BV=seen_BV,
        grammar_B=grammar_B,
        steps_B=jnp.where(state.done_B, state.steps_B, steps_B),
        done_B=state.done_B | ended_B | (False if rules.steps is None else steps_B >= rules.steps),
        broken_B=jnp.where(breaks_B, state.drawn, state.broken_B),
    )


def draw(logits_BV: jax.Array, keys_B: jax.Array, sampling: SamplingConfig, seen_BV: jax.Array) -> jax.Array:
    """Draws one index per row: repetition penalty, temperature, top-k, top-p in transformers' order; at temperature 0 the
    most probable index.
    """
    if sampling.repetition_penalty != 1:
        penalised_BV = jnp.where(
            logits_BV < 0, logits_BV * sampling.repetition_penalty, logits_BV / sampling.repetition_penalty
        )
        logits_BV = jnp.where(seen_BV & (logits_BV > FORBIDDEN), penalised_BV, logits_BV)
    if sampling.temperature == 0:
        return logits_BV.argmax(-1).astype(jnp.int32)
    logits_BV = jnp.where(logits_BV > FORBIDDEN, logits_BV / sampling.temperature, FORBIDDEN)
    if 0 < sampling.top_k < logits_BV.shape[-1]:
        least_B1 = jax.lax.top_k(logits_BV, sampling.top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV < least_B1, FORBIDDEN, logits_BV)
    if sampling.top_p < 1:
        sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
        p_BV = jax.nn.softmax(sorted_BV, axis=-1)
        inside_BV = jnp.cumsum(p_BV, axis=-1) - p_BV < sampling.top_p
        least_B1 = jnp.min(jnp.where(inside_BV, sorted_BV, jnp.inf), axis=-1, keepdims=True)
        logits_BV = jnp.where(logits_BV < least_B1, FORBIDDEN, logits_BV)
    return jax.vmap(categorical)(keys_B, logits_BV).astype(jnp.int32)


def categorical(key: jax.Array, logits_V: jax.Array) -> jax.Array:
    """Draws an index with the probabilities softmax(logits_V).

    If the vocabulary is long, a block is drawn first, by its share of the probability, and then an index within the block.
    The distribution is the same, without a random number per token, which would cost more than the logits of a small model.
    """
    if len(logits_V) <= BLOCK:
        return jax.random.categorical(key, logits_V)
    logits_nL = jnp.pad(logits_V, (0, -len(logits_V) % BLOCK), constant_values=-jnp.inf).reshape(-1, BLOCK)
    block_key, key = jax.random.split(key)
    most_n = jnp.max(logits_nL, axis=-1)
    shift_n = jnp.where(jnp.isfinite(most_n), most_n, 0.0)  # a block may be forbidden as a whole
    mass_n = jnp.log(jnp.exp(logits_nL - shift_n[:, None]).sum(axis=-1)) + shift_n
    block = jax.random.categorical(block_key, mass_n)
    return block * BLOCK + jax.random.categorical(key, logits_nL[block])


def _seen(ids_SP: jax.Array, positions_SP: jax.Array, output_ids_V: jax.Array, sampling: SamplingConfig) -> jax.Array:
    if sampling.repetition_penalty == 1:
        return jnp.zeros((len(ids_SP), 1), bool)

    def one(ids_P: jax.Array, positions_P: jax.Array) -> jax.Array:
        real = jnp.where(positions_P >= 0, ids_P, -1)
        return jnp.isin(output_ids_V, real)

    return jax.vmap(one)(ids_SP, positions_SP)


def _packed(segment: Segment) -> Segment:
    """Merges the axes of sequences and key/value heads of `segment`: an axis of length 1 would make XLA copy them."""
    return segment._replace(k=tuple(map(_merged, segment.k)), v=tuple(map(_merged, segment.v)))


def _merged(a: jax.Array) -> jax.Array:
    return a.reshape(-1, *a.shape[2:])


def _unpacked(segment: Segment) -> Segment:
    def parted(a: jax.Array) -> jax.Array:
        return a.reshape(len(segment.positions_SC), -1, *a.shape[1:])

    return segment._replace(k=tuple(map(parted, segment.k)), v=tuple(map(parted, segment.v)))


def _empty(like: Segment, rows: int, slots: int) -> Segment:
    """Returns an empty, packed segment: (B K, H, slots) and (B K, slots, H) per layer."""
    k = tuple(jnp.zeros((rows * part.shape[1], part.shape[2], slots), part.dtype) for part in like.k)
    v = tuple(jnp.zeros((rows * part.shape[1], slots, part.shape[3]), part.dtype) for part in like.v)
    return Segment(k, v, jnp.full((rows, slots), NO_POSITION, jnp.int32))


def _grown(tail: Segment, slots: int) -> Segment:
    """Returns `tail` with so many more empty slots."""

    def more(part: jax.Array, axis: int) -> jax.Array:
        return jnp.pad(part, [(0, slots if i == axis else 0) for i in range(part.ndim)])

    positions_SC = jnp.pad(tail.positions_SC, ((0, 0), (0, slots)), constant_values=NO_POSITION)
    return Segment(tuple(more(part, 2) for part in tail.k), tuple(more(part, 1) for part in tail.v), positions_SC)


def _append(tail: Segment, fresh: Segment, index: jax.Array) -> Segment:
    """Returns `tail` with one token's keys, values and position written to slot `index`; both are packed."""

    def write(slots: jax.Array, one: jax.Array, axis: int) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(slots, one, index, axis)

    k = tuple(write(slots, one, 2) for slots, one in zip(tail.k, fresh.k, strict=True))
    v = tuple(write(slots, one, 1) for slots, one in zip(tail.v, fresh.v, strict=True))
    return Segment(k, v, write(tail.positions_SC, fresh.positions_SC, 1))
