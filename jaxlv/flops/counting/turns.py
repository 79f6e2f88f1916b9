"""Finds how often a while loop runs if the program itself says so: if its condition depends only on literal numbers."""

from __future__ import annotations

from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval

MOST = 10_000_000  # iterations after which a loop is considered endless


def written(equation: Any) -> int | None:
    """Returns the iterations of a `while` equation, or None if they depend on more than scalar literals in the program.

    What the condition needs from the loop, and what that needs in turn, is cut out and run by itself.
    """
    params = equation.params
    condition, body = params["cond_jaxpr"], params["body_jaxpr"]
    for_condition, for_body = params["cond_nconsts"], params["body_nconsts"]
    outer = equation.invars
    carried = outer[for_condition + for_body :]
    test, used = _cut(condition, [True])
    tested, state = used[:for_condition], used[for_condition:]
    step, moved = _cut(body, state)
    while any(new and not old for new, old in zip(moved[for_body:], state, strict=True)):
        state = [new or old for new, old in zip(moved[for_body:], state, strict=True)]
        step, moved = _cut(body, state)
    kept = [i for i, needed in enumerate(state) if needed]
    of_condition = [v for v, needed in zip(outer[:for_condition], tested, strict=True) if needed]
    of_body = [
        v for v, needed in zip(outer[for_condition : for_condition + for_body], moved[:for_body], strict=True) if needed
    ]
    starts = [carried[i] for i in kept]
    if not all(_is_number(v) for v in (*of_condition, *of_body, *starts)):
        return None
    looked = [kept.index(i) for i, needed in enumerate(used[for_condition:]) if needed]
    read = [kept.index(i) for i, needed in enumerate(moved[for_body:]) if needed]
    fixed, changing = [v.val for v in of_condition], [v.val for v in of_body]

    def goes_on(turn: tuple[Any, list[Any]]) -> Any:
        count, values = turn
        return core.jaxpr_as_fun(test)(*fixed, *(values[i] for i in looked))[0] & (count < MOST)

    def turn(turn: tuple[Any, list[Any]]) -> tuple[Any, list[Any]]:
        count, values = turn
        return count + 1, core.jaxpr_as_fun(step)(*changing, *(values[i] for i in read))

    first = [jax.numpy.asarray(v.val, v.aval.dtype) for v in starts]
    count = int(jax.jit(lambda: jax.lax.while_loop(goes_on, turn, (0, first))[0])())
    return count if count < MOST else None


def _is_number(value: Any) -> bool:
    return isinstance(value, core.Literal) and getattr(value.aval, "shape", None) == ()


def _cut(closed: Any, outputs: list[bool]) -> tuple[Any, list[bool]]:
    """Returns (the part of a closed jaxpr that some outputs need, which inputs that part uses)."""
    whole = getattr(closed, "jaxpr", closed)
    live, used = partial_eval.dce_jaxpr(whole, outputs)
    # From jax 0.11 on, a jaxpr holds its constants itself.
    return live if whole is closed else core.ClosedJaxpr(live, closed.consts), list(used)
