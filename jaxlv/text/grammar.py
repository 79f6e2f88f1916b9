"""The number grammar as a finite automaton over the 13 symbols: what may follow so that every sample can be parsed.

A value is one to `integer_digits` digits without a superfluous leading zero, a point, and a fixed number of decimals. ","
separates the variables of a time step, and ";" closes the step.

Axes: Q states, A the 13 symbols in the order of `SYMBOLS`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from jaxlv.text.codec import SYMBOLS

DIGITS = "0123456789"


class Grammar(NamedTuple):
    """An automaton: whether symbol a may follow in state q (`allowed_QA[q, a]`), and the state after it (`next_QA[q, a]`).
    A step begins in state 0.
    """

    allowed_QA: np.ndarray  # bool
    next_QA: np.ndarray  # int32


def number_grammar(variables: int, decimals: int, integer_digits: int) -> Grammar:
    """Builds the automaton of time steps of `variables` values each; a complete step can be reached from every state."""
    states: dict[tuple, int] = {}
    edges: list[tuple[tuple, str, tuple]] = []
    for v in range(variables):
        start, point = (v, "start"), (v, "decimals", 0)
        closing = ((v + 1) % variables, "start")
        edges.append((start, "0", (v, "zero")))
        edges += [(start, digit, (v, "integer", 1)) for digit in DIGITS[1:]]
        edges.append(((v, "zero"), ".", point))
        for i in range(1, integer_digits + 1):
            edges.append(((v, "integer", i), ".", point))
            if i < integer_digits:
                edges += [((v, "integer", i), digit, (v, "integer", i + 1)) for digit in DIGITS]
        for d in range(decimals):
            edges += [((v, "decimals", d), digit, (v, "decimals", d + 1)) for digit in DIGITS]
        edges.append(((v, "decimals", decimals), "," if v < variables - 1 else ";", closing))
    for source, _, target in edges:
        states.setdefault(source, len(states))
        states.setdefault(target, len(states))
    allowed_QA = np.zeros((len(states), len(SYMBOLS)), bool)
    next_QA = np.zeros((len(states), len(SYMBOLS)), np.int32)
    for source, symbol, target in edges:
        place = states[source], SYMBOLS.index(symbol)
        allowed_QA[place], next_QA[place] = True, states[target]
    return Grammar(allowed_QA, next_QA)


def guesses(grammar: Grammar) -> np.ndarray:
    """Returns the symbol to guess in each state: the only one allowed, or a point if it may follow; -1 in others (Q,)."""
    point = SYMBOLS.index(".")
    only_Q = np.where(grammar.allowed_QA.sum(axis=1) == 1, grammar.allowed_QA.argmax(axis=1), -1)
    return np.where(grammar.allowed_QA[:, point], point, only_Q).astype(np.int32)


def most_turns(grammar: Grammar, tokens: int) -> int:
    """Returns in how many turns, at most, `tokens` tokens are drawn if a turn draws one, and the guess after it if that is
    drawn next.

    Found from the last token to the first: `turns_nQ[n]` is the number from each state on with n tokens to go.
    """
    shape = grammar.allowed_QA.shape
    return _most_turns(shape, grammar.allowed_QA.tobytes(), grammar.next_QA.tobytes(), tokens)


@functools.lru_cache(maxsize=256)
def _most_turns(shape: tuple[int, int], allowed: bytes, following: bytes, tokens: int) -> int:
    grammar = Grammar(np.frombuffer(allowed, bool).reshape(shape), np.frombuffer(following, np.int32).reshape(shape))
    allowed_QA, next_QA, guess_Q = *grammar, guesses(grammar)
    states_Q = np.arange(len(guess_Q))
    behind_Q = next_QA[states_Q, np.maximum(guess_Q, 0)]
    other_QA = allowed_QA & (np.arange(allowed_QA.shape[1]) != guess_Q[:, None])
    zeros_Q = np.zeros(len(guess_Q), int)
    turns_nQ, others_nQ = [zeros_Q], [zeros_Q]  # `others`: if the first token is not the guess; 0 if there is no other
    for n in range(1, tokens + 1):
        held_Q = turns_nQ[n - 2][behind_Q] if n > 1 else zeros_Q
        after_Q = np.where(guess_Q < 0, turns_nQ[n - 1], np.maximum(held_Q, others_nQ[n - 1]))
        turns_QA = 1 + after_Q[next_QA]
        turns_nQ.append(np.where(allowed_QA, turns_QA, 0).max(axis=1))
        others_nQ.append(np.where(other_QA, turns_QA, 0).max(axis=1))
    return int(turns_nQ[tokens].max())


def longest_step(variables: int, decimals: int, integer_digits: int) -> int:
    """Returns the largest number of tokens that one time step can take."""
    return variables * (integer_digits + decimals + 2)
