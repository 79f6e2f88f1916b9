"""The number grammar: whatever it allows can be parsed, and whatever can be parsed within its digits it allows."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlv.text.codec import SYMBOLS, Codec
from jaxlv.text.grammar import Grammar, guesses, longest_step, most_turns, number_grammar

FORMATS = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))  # variables, decimals, integer digits
ALL_FORMATS = [(v, d, i) for v in (1, 2, 3) for d in (1, 2, 3) for i in (1, 2, 3)]


def walk(grammar: Grammar, steps: int, choose) -> str:
    """Returns a text of some time steps; `choose(n)` picks one of n allowed symbols."""
    state, text = 0, ""
    while text.count(";") < steps:
        allowed = np.flatnonzero(grammar.allowed_QA[state])
        symbol = allowed[choose(len(allowed))]
        text, state = text + SYMBOLS[symbol], grammar.next_QA[state, symbol]
    return text


def end_state(grammar: Grammar, text: str) -> int | None:
    """Returns the state after `text`, None if a symbol was not allowed."""
    state = 0
    for symbol in map(SYMBOLS.index, text):
        if not grammar.allowed_QA[state, symbol]:
            return None
        state = grammar.next_QA[state, symbol]
    return state


@given(FORMATS, st.integers(1, 5), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_every_walk_parses_to_its_very_numbers(form, steps, random):
    variables, decimals, _ = form
    text = walk(number_grammar(*form), steps, random.randrange)
    decoded = Codec(decimals=decimals).decode(text, np.ones(variables), max_steps=steps)
    assert (decoded.stop, decoded.at) == ("complete", "")
    assert Codec(decimals=decimals).encode(decoded.values_TV, np.ones(variables)) == text


@given(st.data(), FORMATS)
@settings(max_examples=150, deadline=None)
def test_every_text_of_the_format_is_accepted(data, form):
    variables, decimals, integer_digits = form
    largest = 10**integer_digits - 10.0**-decimals
    step = st.lists(st.floats(0, largest), min_size=variables, max_size=variables)
    values_TV = np.array(data.draw(st.lists(step, min_size=1, max_size=4)))
    text = Codec(decimals=decimals).encode(values_TV, np.ones(variables))
    assert end_state(number_grammar(*form), text) == 0


@pytest.mark.parametrize(
    "text", ["01.00,", "00.00,", ".50,", "1,", "1.0,", "1.000,", "1.00;", "1.00,1.00,", "123.00,", ";", "1.."]
)
def test_texts_outside_the_format_are_refused(text):
    assert end_state(number_grammar(2, 2, 2), text) is None


@pytest.mark.parametrize("form", ALL_FORMATS)
def test_no_state_is_a_dead_end_and_none_is_useless(form):
    grammar = number_grammar(*form)
    count = len(grammar.allowed_QA)
    reach_QQ = np.zeros((count, count), bool)
    for state, symbol in np.argwhere(grammar.allowed_QA):
        reach_QQ[state, grammar.next_QA[state, symbol]] = True
    for middle in range(count):
        reach_QQ |= reach_QQ[:, middle : middle + 1] & reach_QQ[middle]
    assert reach_QQ.all()  # from every state to every state, including the start of a step


@given(FORMATS, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_numbers_have_no_superfluous_zeros_in_front(form, random):
    text = walk(number_grammar(*form), 4, random.randrange)
    assert all(re.fullmatch(r"(0|[1-9][0-9]*)\.[0-9]+", number) for number in re.split("[,;]", text.removesuffix(";")))


@pytest.mark.parametrize("form", ALL_FORMATS)
def test_longest_step_is_the_length_of_the_longest_walk(form):
    grammar, lengths = number_grammar(*form), []
    frontier = {0}
    while frontier:  # one symbol at a time; a walk leaves the frontier when its step closes
        edges = [(s, a) for s in frontier for a in np.flatnonzero(grammar.allowed_QA[s])]
        lengths.append(any(SYMBOLS[a] == ";" for _, a in edges))
        frontier = {int(grammar.next_QA[s, a]) for s, a in edges if SYMBOLS[a] != ";"}
    assert len(lengths) == longest_step(*form)
    assert lengths[-1]


def turns(grammar: Grammar, text: str) -> int:
    """Returns in how many turns a text is drawn, each of which draws a token, and the guess after it if that comes next."""
    state, place, count, guess_Q = 0, 0, 0, guesses(grammar)
    symbols = [SYMBOLS.index(symbol) for symbol in text]
    while place < len(symbols):
        state, place, count = grammar.next_QA[state, symbols[place]], place + 1, count + 1
        if place < len(symbols) and symbols[place] == guess_Q[state]:
            state, place = grammar.next_QA[state, symbols[place]], place + 1
    return count


@pytest.mark.parametrize(("text", "count"), [("0.12,9.80;", 6), ("10.12,99.80;", 8), ("0.12,10.80", 7)])
def test_points_and_delimiters_ride_with_the_digit_before_them(text, count):
    """[0.][1][2,][9.][8][0;], and [1][0.] if there are two digits before the point."""
    assert turns(number_grammar(2, 2, 2), text) == count


@given(FORMATS, st.integers(1, 40), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_no_text_takes_more_turns_than_the_most(form, tokens, random):
    grammar = number_grammar(*form)
    text = walk(grammar, tokens, random.randrange)[:tokens]
    assert turns(grammar, text) <= most_turns(grammar, tokens) <= tokens


@pytest.mark.parametrize("form", [(1, 1, 1), (2, 2, 2), (1, 3, 3)])
def test_the_most_turns_are_those_of_the_longest_numbers(form):
    """A value of i digits, a point, d decimals and a delimiter takes i + d turns; the last may be cut short."""
    _, decimals, digits = form
    grammar, length = number_grammar(*form), decimals + digits + 2
    for values in (1, 3):
        whole = most_turns(grammar, values * length)
        assert values * (digits + decimals) <= whole <= values * (digits + decimals) + 1
