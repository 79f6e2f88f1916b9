"""The loop of a generation: turns over single tokens, or over pairs of them, after a prefill (jaxlv.steps.prefill).

The keys and values of a prompt are held once per series. Each sample adds a tail of its own, which grows in a few stages, so
that the first tokens do not attend to slots that only the last tokens fill.

A turn may read two tokens of a row: the one that was drawn, and a guess of the next one, which is what the number grammar
forces, or a point where a point may follow. The row then draws its next token from the logits behind the first, with the key
that this token has in any case. If it draws the guess, the turn has made two tokens; if not, the guess's slot stays empty.
So a row has the same tokens as without guesses (jump-forward decoding, as in SGLang; verified as in Leviathan et al. 2023).

Axes: S series, N samples of each, B = S * N rows, P prompt tokens, C slots of the tail, T tokens of a row that a turn reads,
V vocabulary (or the 13 symbols), K key/value heads, H head size.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlv.config import SamplingConfig
from jaxlv.model.attention import fuses
from jaxlv.model.qwen2 import Qwen2, Segment, features, project
from jaxlv.steps.draw import FORBIDDEN, draw
from jaxlv.steps.prefill import prefill
from jaxlv.text.codec import SYMBOLS
from jaxlv.text.tokens import NO_POSITION, Array

NO_GUESS = -1


@dataclass(frozen=True)
class Loop:
    """The form of a loop: at most `turns` turns, each of which reads a token and `ahead` (0 or 1) guesses in every row; the
    tail grows by `stage` slots.
    """

    turns: int
    ahead: int
    stage: int

    @property
    def slots(self) -> int:
        """The slots of the longest tail."""
        return self.turns * (1 + self.ahead)

    @property
    def stages(self) -> tuple[int, ...]:
        """The slots of the tail by stages."""
        return tuple(min(first + self.stage, self.slots) for first in range(0, self.slots, self.stage))

    def ends(self, turns: int) -> tuple[int, ...]:
        """Returns the turn before which each stage ends, if there are at most so many turns."""
        return tuple(min(slots // (1 + self.ahead), turns) for slots in self.stages)


@dataclass(frozen=True)
class Decoding:
    """How prompts are continued: `samples` times each, up to `steps` semicolons, an end-of-text token, or `new_tokens`
    tokens. Tokens are drawn as `sampling` says; temperature 0 is greedy. All this is a constant of the compiled program,
    except what `Limits` say.
    """

    samples: int
    new_tokens: int
    sampling: SamplingConfig
    steps: int | None = None

    @property
    def form(self) -> Decoding:
        """What is a constant if there are `Limits`."""
        return replace(self, new_tokens=0, steps=None if self.steps is None else 0)


class Limits(NamedTuple):
    """How far a program goes at most, as arguments: the turn before which each stage ends, the tokens of a sample, and its
    time steps, if they are limited.
    """

    ends: tuple[Any, ...]
    tokens: Any
    steps: Any


class Rows(NamedTuple):
    """What a program continues: padded prompts, the key of each row, and each prompt's state in the grammar; and how far, by
    default as far as its `Decoding` and `Loop` say.
    """

    ids_SP: Array
    positions_SP: Array
    keys_B: Array
    states_S: Array
    limits: Limits | None = None


class Begun(NamedTuple):
    """Prompts that have been read: the logits after them, their keys and values, and what is continued."""

    logits_SV: jax.Array
    prefix: Segment
    rows: Rows


class Automaton(NamedTuple):
    """A grammar on the device: what may follow a state, the state after it, and the guess of what follows (or NO_GUESS)."""

    allowed_QV: Array
    next_QV: Array
    guess_Q: Array


class Drawn(NamedTuple):
    """What a program has drawn: tokens by slot, -1 in empty slots and after a sample's end; `broken_B` as in DecodeState;
    the number of turns.
    """

    ids_BC: Array
    broken_B: Array
    turns: Array


class DecodeState(NamedTuple):
    """What the decode loop carries from turn to turn."""

    turn: jax.Array  # () turns so far
    drawn_B: jax.Array  # tokens drawn so far
    ids_BC: jax.Array  # the tokens drawn, -1 in slots that are empty
    logits_BV: jax.Array  # for the next token
    tail: Segment  # keys and values of the tokens drawn, except the last; as `Stored`, with slots for this stage
    fresh: Segment  # keys and values of the last turn, which the next turn writes to the tail before it reads the tail
    seen_BV: jax.Array  # tokens in prompt or sample, for the repetition penalty
    grammar_B: jax.Array  # state of the automaton
    steps_B: jax.Array  # time steps completed
    done_B: jax.Array
    broken_B: jax.Array  # the first token that was drawn from logits that are not finite; -1 if all were finite


def read(
    model: Qwen2,
    variables: dict[str, Any],
    ids_BT: jax.Array,
    positions_BT: jax.Array,
    past: Sequence[Segment],
    output_ids: jax.Array | None = None,
) -> tuple[jax.Array, Segment]:
    """Returns (logits (B, T, V) after these tokens, the tokens' keys and values) of a turn after `past`. With `output_ids`,
    only the logits of these token ids are formed.
    """
    x_BTD, head, segment = features(model, variables, ids_BT, positions_BT, past, padding="right")
    return project(x_BTD, head if output_ids is None else head.rows(output_ids)), segment


@functools.partial(jax.jit, static_argnames=("model", "how", "loop", "end_ids"))
def decode(
    variables: dict[str, Any],
    begun: Begun,
    grammar: Automaton | None,
    alphabet_A: jax.Array,
    *,
    model: Qwen2,
    how: Decoding,
    loop: Loop,
    end_ids: tuple[int, ...],
) -> Drawn:
    """Draws the continuations of prompts that `prefill` has read."""
    sampling, samples = how.sampling, how.samples
    first_SV, prefix, (ids_SP, positions_SP, keys_B, states_S, limits) = begun
    limits = limits or Limits(loop.ends(loop.turns), how.new_tokens, how.steps)
    output_ids_V = jnp.arange(model.config.vocab_size, dtype=jnp.int32) if grammar is None else alphabet_A
    ends_E, semicolon = jnp.array(end_ids or (-1,), jnp.int32), alphabet_A[SYMBOLS.index(";")]
    rules = _Rules(output_ids_V, grammar, ends_E, semicolon, limits.steps, limits.tokens if loop.ahead else None)
    asked = None if grammar is None else alphabet_A
    if loop.ahead and model.attention == "cudnn":
        model = replace(model, attention="xla")  # guesses leave gaps in the tail
    stored = Stored(fuses(model.attention, model.dtype))
    with jax.named_scope("sampling"):
        prefix = stored.prefix(prefix)
        length_B = jnp.repeat(positions_SP.max(axis=1) + 1, samples)
        seen_SV = _seen(ids_SP, positions_SP, output_ids_V, sampling)
        logits_BV, seen_BV, states_B = (jnp.repeat(a, samples, axis=0) for a in (first_SV, seen_SV, states_S))
        state = _begun(stored, prefix, logits_BV, seen_BV, states_B, loop)

    def body(state: DecodeState) -> DecodeState:
        chosen = _choose(state, keys_B, rules, sampling)
        with jax.named_scope("sampling"):
            place_B = length_B + state.drawn_B
            # The tail is written before it is read, so XLA updates it in place; otherwise it would copy it for every token.
            tail = stored.append(state.tail, state.fresh, jnp.maximum(state.turn - 1, 0) * (1 + loop.ahead))
        following = _advanced(state, chosen, rules, sampling)
        ids_BT, positions_BT = chosen.token_B[:, None], place_B[:, None]
        if loop.ahead:
            guess_B, ids_BT, positions_BT = _guessed(following, chosen, place_B, rules)
        logits_BTV, fresh = read(model, variables, ids_BT, positions_BT, (prefix, stored.read(tail)), asked)
        following = following._replace(logits_BV=logits_BTV[:, 0], tail=tail, fresh=stored.tail(fresh))
        shown_BT = chosen.shown_B[:, None]
        if loop.ahead:
            following, second_B = _verified(following, guess_B, logits_BTV[:, 1], keys_B, rules, sampling)
            shown_BT = jnp.stack([chosen.shown_B, second_B], axis=1)
        with jax.named_scope("sampling"):
            ids_BC = jax.lax.dynamic_update_slice(state.ids_BC, shown_BT, (0, state.turn * (1 + loop.ahead)))
            return following._replace(turn=state.turn + 1, ids_BC=ids_BC)

    @jax.named_scope("sampling")
    def unfinished(end: Any, state: DecodeState) -> jax.Array:
        return (state.turn < end) & ~state.done_B.all()

    for before, slots, end in zip((0, *loop.stages), loop.stages, limits.ends, strict=False):
        with jax.named_scope("sampling"):
            state = state._replace(tail=stored.grown(state.tail, slots - before))
        state = jax.lax.while_loop(functools.partial(unfinished, end), body, state)
    return Drawn(state.ids_BC, state.broken_B, state.turn)


def whole(
    variables: dict[str, Any],
    rows: Rows,
    grammar: Automaton | None,
    alphabet_A: jax.Array,
    *,
    model: Qwen2,
    how: Decoding,
    loop: Loop,
    end_ids: tuple[int, ...],
) -> Drawn:
    """Returns what `decode` returns after `prefill`, as one function, for audits: a generation runs the two by themselves,
    so that the parts of a prompt's samples share its prefill.
    """
    asked = None if grammar is None else alphabet_A
    logits_SV, prefix = prefill(variables, rows.ids_SP, rows.positions_SP, asked, model=model)
    begun = Begun(logits_SV, prefix, rows)
    return decode(variables, begun, grammar, alphabet_A, model=model, how=how, loop=loop, end_ids=end_ids)


class _Rules(NamedTuple):
    """What may be drawn, and when a sample is done."""

    output_ids_V: jax.Array
    grammar: Automaton | None
    ends_E: jax.Array
    semicolon: jax.Array
    steps: Any  # None if they are not limited
    most: Any  # tokens of a sample, None if its turns count them


class _Guessed(NamedTuple):
    """The symbol guessed after each row's token, NO_GUESS if there is none; the tokens of a turn and their places."""

    guess_B: jax.Array
    ids_BT: jax.Array
    positions_BT: jax.Array


class _Chosen(NamedTuple):
    """The next token of each row, and what follows from it."""

    choice_B: jax.Array
    token_B: jax.Array
    shown_B: jax.Array  # the token, -1 if the row is done, or ends with it
    breaks_B: jax.Array  # whether it is the first that was drawn from logits that are not finite
    steps_B: jax.Array
    ended_B: jax.Array


def _begun(
    stored: Stored, prefix: Segment, logits_BV: jax.Array, seen_BV: jax.Array, states_B: jax.Array, loop: Loop
) -> DecodeState:
    """Returns the state before the first token."""
    rows = len(logits_BV)
    tail, fresh = stored.empty(prefix, rows, 0), stored.empty(prefix, rows, 1 + loop.ahead)
    ids_BC, zeros_B = jnp.full((rows, loop.slots), -1, jnp.int32), jnp.zeros(rows, jnp.int32)
    done_B, broken_B = jnp.zeros(rows, bool), jnp.full(rows, -1, jnp.int32)
    return DecodeState(jnp.int32(0), zeros_B, ids_BC, logits_BV, tail, fresh, seen_BV, states_B, zeros_B, done_B, broken_B)


@jax.named_scope("sampling")
def _choose(state: DecodeState, keys_B: jax.Array, rules: _Rules, sampling: SamplingConfig) -> _Chosen:
    logits_BV = state.logits_BV
    breaks_B = ~jnp.isfinite(logits_BV).all(-1) & ~state.done_B & (state.broken_B < 0)
    if rules.grammar is not None:
        logits_BV = jnp.where(rules.grammar.allowed_QV[state.grammar_B], logits_BV, FORBIDDEN)
    if sampling.temperature:
        keys_B = jax.vmap(jax.random.fold_in)(keys_B, state.drawn_B)
    choice_B = draw(logits_BV, keys_B, sampling, state.seen_BV)
    token_B = rules.output_ids_V[choice_B]
    steps_B = state.steps_B + (token_B == rules.semicolon)
    ended_B = (token_B[:, None] == rules.ends_E).any(-1)
    return _Chosen(choice_B, token_B, jnp.where(state.done_B | ended_B, -1, token_B), breaks_B, steps_B, ended_B)


@jax.named_scope("sampling")
def _advanced(state: DecodeState, chosen: _Chosen, rules: _Rules, sampling: SamplingConfig) -> DecodeState:
    """Returns the state with one more token in each row that is not done; logits, keys and values are still the old ones."""
    seen_BV, grammar_B, drawn_B = state.seen_BV, state.grammar_B, state.drawn_B + 1
    if sampling.repetition_penalty != 1:
        seen_BV = seen_BV.at[jnp.arange(len(drawn_B)), chosen.choice_B].set(True)
    if rules.grammar is not None:
        grammar_B = rules.grammar.next_QV[grammar_B, chosen.choice_B]
    done_B = state.done_B | chosen.ended_B
    if rules.most is not None:
        done_B |= drawn_B >= rules.most
    return state._replace(
        drawn_B=drawn_B,
        seen_BV=seen_BV,
        grammar_B=grammar_B,
        steps_B=jnp.where(state.done_B, state.steps_B, chosen.steps_B),
        done_B=done_B if rules.steps is None else done_B | (chosen.steps_B >= rules.steps),
        broken_B=jnp.where(chosen.breaks_B, state.drawn_B, state.broken_B),
    )


@jax.named_scope("sampling")
def _guessed(state: DecodeState, chosen: _Chosen, place_B: jax.Array, rules: _Rules) -> _Guessed:
    """Returns what may follow the tokens chosen."""
    assert rules.grammar is not None
    guess_B = jnp.where(state.done_B, NO_GUESS, rules.grammar.guess_Q[state.grammar_B])
    second_B = rules.output_ids_V[jnp.maximum(guess_B, 0)]
    position_B = jnp.where(guess_B == NO_GUESS, NO_POSITION, place_B + 1)
    ids_BT = jnp.stack([chosen.token_B, second_B], axis=1)
    return _Guessed(guess_B, ids_BT, jnp.stack([place_B, position_B], axis=1))


@jax.named_scope("sampling")
def _verified(
    state: DecodeState, guess_B: jax.Array, logits_BV: jax.Array, keys_B: jax.Array, rules: _Rules, sampling: SamplingConfig
) -> tuple[DecodeState, jax.Array]:
    """Returns the state in which rows that draw their guess have advanced by it, to the logits behind it, and the tokens
    that they show; the guesses of the others are taken from their keys and values.
    """
    chosen = _choose(state, keys_B, rules, sampling)
    held_B = chosen.choice_B == guess_B
    advanced = _advanced(state, chosen, rules, sampling)._replace(logits_BV=logits_BV)
    per_row = {"drawn_B", "logits_BV", "seen_BV", "grammar_B", "steps_B", "done_B", "broken_B"}

    def of_rows(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(held_B.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    positions_BT = state.fresh.positions_SC.at[:, 1].set(jnp.where(held_B, state.fresh.positions_SC[:, 1], NO_POSITION))
    changed: dict[str, Any] = {name: of_rows(getattr(advanced, name), getattr(state, name)) for name in per_row}
    return state._replace(**changed, fresh=state.fresh._replace(positions_SC=positions_BT)), jnp.where(
        held_B, chosen.shown_B, -1
    )


def _seen(ids_SP: jax.Array, positions_SP: jax.Array, output_ids_V: jax.Array, sampling: SamplingConfig) -> jax.Array:
    if sampling.repetition_penalty == 1:
        return jnp.zeros((len(ids_SP), 1), bool)

    def one(ids_P: jax.Array, positions_P: jax.Array) -> jax.Array:
        real = jnp.where(positions_P >= 0, ids_P, -1)
        return jnp.isin(output_ids_V, real)

    return jax.vmap(one)(ids_SP, positions_SP)


class Stored(NamedTuple):
    """How keys and values are held: as the products of `attend` need them, or as a fused kernel does, (S, C, K, H).

    In the first form a tail has one axis for sequences and key/value heads: an axis of length 1 would make XLA copy it.
    """

    fused: bool

    @property
    def axes(self) -> tuple[int, int]:
        """The axes of a tail's slots, of keys and of values."""
        return (1, 1) if self.fused else (2, 1)

    def prefix(self, segment: Segment) -> Segment:
        """Returns the keys and values of prompts as they are held."""
        if not self.fused:
            return segment
        k, v = (a.transpose(0, 3, 1, 2) for a in segment.k), (a.swapaxes(1, 2) for a in segment.v)
        return segment._replace(k=tuple(k), v=tuple(v))

    def tail(self, segment: Segment) -> Segment:
        """Returns the keys and values of a turn as a tail holds them."""
        if self.fused:
            return self.prefix(segment)
        merged = [tuple(a.reshape(-1, *a.shape[2:]) for a in part) for part in segment[:2]]
        return segment._replace(k=merged[0], v=merged[1])

    def read(self, tail: Segment) -> Segment:
        """Returns a tail as the model reads it."""
        if self.fused:
            return tail
        rows = len(tail.positions_SC)
        parted = [tuple(a.reshape(rows, -1, *a.shape[1:]) for a in part) for part in tail[:2]]
        return tail._replace(k=parted[0], v=parted[1])

    def empty(self, prefix: Segment, rows: int, slots: int) -> Segment:
        """Returns a tail of empty slots."""

        def sizes(part: jax.Array, axis: int) -> tuple[int, ...]:
            if self.fused:
                return (rows, slots, *part.shape[2:])
            K, *inner = part.shape[1:]
            inner[axis - 1] = slots
            return (rows * K, *inner)

        k, v = (
            tuple(jnp.zeros(sizes(part, axis), part.dtype) for part in parts)
            for parts, axis in zip(prefix[:2], self.axes, strict=True)
        )
        return Segment(k, v, jnp.full((rows, slots), NO_POSITION, jnp.int32))

    def grown(self, tail: Segment, slots: int) -> Segment:
        """Returns a tail with so many more empty slots."""

        def more(part: jax.Array, axis: int) -> jax.Array:
            return jnp.pad(part, [(0, slots if i == axis else 0) for i in range(part.ndim)])

        k, v = (tuple(more(a, axis) for a in part) for part, axis in zip(tail[:2], self.axes, strict=True))
        positions_SC = jnp.pad(tail.positions_SC, ((0, 0), (0, slots)), constant_values=NO_POSITION)
        return Segment(k, v, positions_SC)

    def append(self, tail: Segment, fresh: Segment, index: jax.Array) -> Segment:
        """Returns a tail with a turn's keys, values and positions written from slot `index` on."""

        def write(slots: jax.Array, new: jax.Array, axis: int) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(slots, new, index, axis)

        k, v = (
            tuple(write(a, b, axis) for a, b in zip(part, new, strict=True))
            for part, new, axis in zip(tail[:2], fresh[:2], self.axes, strict=True)
        )
        return Segment(k, v, write(tail.positions_SC, fresh.positions_SC, 1))
