"""Generation: a prefill (jaxlv.steps.prompts), shared by all samples of a series, then a compiled loop (jaxlv.steps.decode).

A row's random key depends only on the seed, the series and the sample, so a forecast does not depend on the batch in which
it is made, nor on whether tokens are guessed ahead.

Axes: S series, N samples of each, B = S * N rows, P prompt tokens, C new tokens at most.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlv.activity import compiling
from jaxlv.config import COUNT, EvaluateConfig
from jaxlv.errors import JaxlvError, NotFinite
from jaxlv.model import placement
from jaxlv.model.qwen2 import Qwen2
from jaxlv.settings import Statement, argument, settled
from jaxlv.steps import kept
from jaxlv.steps.decode import Automaton, Begun, Decoding, Drawn, Limits, Loop, Rows, decode
from jaxlv.steps.needs import check_generation
from jaxlv.steps.prefill import prefill
from jaxlv.steps.prompts import Part, Prompts, Read, Reading, padded
from jaxlv.text.codec import SYMBOLS
from jaxlv.text.grammar import Grammar, guesses, most_turns
from jaxlv.text.tokens import Alphabet

STAGE_MULTIPLE = 64  # a divisor of the slots by which a tail grows
STATE_MULTIPLE = 16  # a divisor of the states of a grammar on the device
LONG, STAGES = 512, {False: 2, True: 5}  # slots of a long tail; in how many stages a tail grows at most, if it is long
# In how many rows guesses pay, by backend. A turn with guesses reads twice the tokens, in 3/5 of the turns: that pays while
# a turn's time is its weights' bytes or its kernels' number. Measured on a CPU (python -m benchmarks.generate); for a GPU
# predicted from the compiled program.
GUESSING_ROWS = {"cpu": range(2, 17), "gpu": range(1, 257)}


class Generated(NamedTuple):
    """The new tokens of each sample (`ids_SNC`), -1 after its end, and how many there are (`lengths_SN`)."""

    ids_SNC: np.ndarray
    lengths_SN: np.ndarray
    iterations: int  # number of decode-loop iterations (one token per row each); the longest part's if rows were split


def generate(
    model: Qwen2,
    variables: dict[str, Any],
    prompts: Prompts,
    alphabet: Alphabet,
    how: Decoding,
    seed: int = 0,
    grammar: Grammar | None = None,
    loop: Loop | None = None,
) -> Generated:
    """Returns continuations of prompts.

    With a `grammar`, logits are formed over the 13 symbols and masked by the grammar; without, they are formed over the
    whole vocabulary. `loop` is the form of the loop, by default that of `loop_of`; the tokens do not depend on it. If a
    prompt ends within a time step, its samples complete that step first, and it counts as one of the steps. The random
    numbers of a row depend on `seed`, its series and its sample. Raises JaxlvError as `check_shape` does, and NotFinite,
    which names the prompt and the place, if a token would have to be drawn from logits that are not finite.
    """
    check_shape(model, prompts.ids, how, grammar)
    seed, samples, count = argument(EvaluateConfig, "seed", seed, "seed"), how.samples, len(prompts.ids)
    series = np.arange(count) if prompts.series is None else np.asarray(prompts.series)
    states_S = np.array([0 if grammar is None else state_after(grammar, alphabet, one) for one in prompts.ids], np.int32)
    automaton = None if grammar is None else automaton_of(grammar)
    symbols_A = np.asarray(alphabet.ids_A)
    asked_A = None if grammar is None else symbols_A
    reading = prompts.reading or Reading.of(model, variables, prompts, asked_A)
    loop = loop_of(how.new_tokens, count * samples, grammar) if loop is None else loop
    ends = tuple(map(np.int32, loop.ends(turns_of(loop, how.new_tokens, grammar))))
    limits = Limits(ends, np.int32(how.new_tokens), None if how.steps is None else np.int32(how.steps))
    constants = {"model": model, "how": how.form, "loop": loop, "end_ids": alphabet.end_ids}

    def drawn_of(part: Part) -> tuple[Read, Drawn]:
        texts, nested = part.asked
        keys_B = row_keys(seed, series[part.rows], samples)
        rows: Rows = placement.rows(Rows(*part.texts, keys_B, states_S[part.rows]), model.mesh)
        texts = placement.rows(texts, model.mesh)
        read = part.known or Read(*kept.call(prefill, variables, *texts, asked_A, nested, model=model))
        begun = Begun(*read, rows._replace(limits=limits))
        drawn = kept.call(decode, variables, begun, automaton, symbols_A, **constants)
        drawn = placement.everywhere(drawn, model.mesh)
        ids_SNC, broken_SN = (np.asarray(a).reshape(len(part.rows), samples, *a.shape[1:]) for a in drawn[:2])
        return read, Drawn(_without_gaps(ids_SNC, how.new_tokens), broken_SN, np.asarray(drawn.turns))

    with compiling("the generation of texts", model, how.form, loop, alphabet.end_ids, reading.shapes, grammar is None):
        if len(reading.parts) == 1:
            made = [drawn_of(reading.parts[0])]
        else:
            with ThreadPoolExecutor(len(reading.parts)) as pool:
                made = list(pool.map(drawn_of, reading.parts))
    reading.keep(variables, [read for read, _ in made])
    found = [drawn for _, drawn in made]
    ids_SNC, broken_SN = (np.concatenate([one[i] for one in found])[:count] for i in range(2))
    _check_finite(ids_SNC, broken_SN, prompts.names, int(alphabet.ids_A[SYMBOLS.index(";")]))
    return Generated(ids_SNC, (ids_SNC >= 0).sum(-1), max(int(one.turns) for one in found))


def _without_gaps(ids_SNC: np.ndarray, most: int) -> np.ndarray:
    """Returns at most `most` tokens of each sample, without the empty slots between them."""
    order_SNC = np.argsort(ids_SNC < 0, axis=-1, kind="stable")
    ids_SNC = np.take_along_axis(ids_SNC, order_SNC, axis=-1)[..., :most]
    return np.pad(ids_SNC, ((0, 0), (0, 0), (0, most - ids_SNC.shape[-1])), constant_values=-1)


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


def stage(slots: int) -> int:
    """Returns the number of slots by which a tail of so many slots grows when it is full.

    Each stage is a loop of its own, so more of them take longer to compile, which long texts repay.
    """
    return -(-slots // (STAGES[slots >= LONG] * STAGE_MULTIPLE)) * STAGE_MULTIPLE


def room(slots: int) -> int:
    """Returns the slots of a tail that holds so many: a multiple of STAGE_MULTIPLE with two binary digits beyond it.

    So texts of many lengths are drawn by few compiled programs. How many slots a turn attends to follows from the stages.
    """
    number = -(-slots // STAGE_MULTIPLE)
    unit = 1 << max(0, number.bit_length() - 2)
    return STAGE_MULTIPLE * unit * -(-number // unit)


def loop_of(new_tokens: int, rows: int, grammar: Grammar | None) -> Loop:
    """Returns the form of a loop that can draw `new_tokens` tokens in each row: with guesses if they pay."""
    if grammar is None or rows not in GUESSING_ROWS.get(jax.default_backend(), ()):
        slots = room(new_tokens)
        return Loop(slots, 0, stage(slots))
    slots = room(2 * most_turns(grammar, new_tokens))
    return Loop(slots // 2, 1, stage(slots))


def turns_of(loop: Loop, new_tokens: int, grammar: Grammar | None) -> int:
    """Returns how many turns a loop takes at most to draw `new_tokens` tokens in each row."""
    return new_tokens if grammar is None or not loop.ahead else most_turns(grammar, new_tokens)


def decoding(prompt: int, loop: Loop, turns: int) -> dict[str, Any]:
    """Returns what so many turns of a loop run after a padded prompt, by the names of a ledger's event (flops.events)."""
    return {"new_tokens": turns, "slots": prompt + loop.slots, "stage": loop.stage, "ahead": loop.ahead}


def automaton_of(grammar: Grammar) -> Automaton:
    """Returns a grammar's tables, with states that cannot be reached, so that few programs are compiled."""
    tables = (*grammar, guesses(grammar))
    more = -len(tables[0]) % STATE_MULTIPLE
    return Automaton(*(np.pad(table, ((0, more), *[(0, 0)] * (table.ndim - 1))) for table in tables))


def row_keys(seed: int, series: Sequence[int] | np.ndarray, samples: int) -> jax.Array:
    """Returns one key per row, (S * N,), from the seed, the series id and the sample number."""
    low = np.uint32(seed % 2**32)  # what jax.random.key takes of a seed
    return kept.call(_row_keys, low, np.asarray(series).astype(np.uint32), samples=samples)


@functools.partial(jax.jit, static_argnames="samples")
def _row_keys(seed: jax.Array, series_S: jax.Array, samples: int) -> jax.Array:
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    series_keys_S = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), series_S)
    return fold(series_keys_S, jnp.arange(samples, dtype=jnp.uint32)).reshape(-1)
