"""The number grammar as a finite automaton over the 13 symbols: what may follow so that every sample can be parsed.

A value is one to `integer_digits` digits without a superfluous leading zero, a point, and a fixed number of decimals. ","
separates the variables of a time step, and ";" closes the step.

Axes: Q states, A the 13 symbols in the order of `SYMBOLS`.
"""

from __future__ import annotations

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


def longest_step(variables: int, decimals: int, integer_digits: int) -> int:
    """Returns the largest number of tokens that one time step can take."""
    return variables * (integer_digits + decimals + 2)
