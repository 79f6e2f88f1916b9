"""The rule on jaxpr and HLO for what loops repeat and what primitives are lowered to, up to whole generations."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxlv.config import RunConfig, build_config
from jaxlv.flops.audit import _once
from jaxlv.flops.counting import again
from jaxlv.flops.counting.compared import SCALARS, Row, compared
from jaxlv.flops.counting.hlo import count_hlo
from jaxlv.flops.counting.jaxpr import count_closed
from jaxlv.flops.counting.lowerings import running
from jaxlv.flops.counting.operations import Tally, total
from jaxlv.flops.counting.xla import count_xla
from jaxlv.model.config import ModelConfig
from jaxlv.runs import audited
from jaxlv.steps import decode, generate
from tests.test_counting import shape


def rows(function, *arguments, trips=None, asked=None, place=lambda scope: "") -> list[Row]:
    """Applies the rule to a function's HLO and a jaxpr, by default its own."""
    made = jax.jit(function).trace(*arguments)
    wanted = asked or made.jaxpr
    executed = count_hlo(made.lower().compile().as_text(), trips)
    return compared(count_closed(wanted, trips).tallies, again.spared(wanted, trips), executed.tallies, place)


def marks(function, *arguments) -> dict[str, int]:
    found = total(again.spared(jax.make_jaxpr(function)(*arguments)).values())
    return {name: number for name, number in found.items() if number and "sin" in name}


# ------------------------------------------------------------------------------------------ what loops repeat


def in_a_scan(a, x):
    return lax.scan(lambda c, _: (c * jnp.sin(x), None), a, None, length=5)[0]


def handed_on(a, x):
    return lax.fori_loop(0, 5, lambda i, s: (s[0] * jnp.sin(s[1]), s[1]), (a, x))[0]


def in_a_loop_in_a_loop(a, x):
    def outer(c, one):
        return lax.scan(lambda d, _: (d * jnp.sin(x) + jnp.cos(one), None), c, None, length=3)[0], None

    return lax.scan(outer, a, jnp.stack([x] * 5))[0]


@pytest.mark.parametrize(
    ("function", "by_hand"),
    [
        (in_a_scan, {"sin again": 4 * 24}),
        (handed_on, {"sin again": 4 * 24}),
        (in_a_loop_in_a_loop, {"sin again": (14 + 10) * 24}),
        (lambda a, x: in_a_scan(a, x) + jnp.sin(x), {"sin again": 5 * 24}),
        (lambda a, x: lax.fori_loop(0, 5, lambda i, c: c * jnp.sin(x + c), a), {}),
        (lambda a, x: lax.scan(lambda c, y: (c * jnp.sin(y), None), a, jnp.stack([x] * 5))[0], {}),
    ],
)
def test_what_no_turn_changes_is_asked_for_again_in_each_but_the_first(function, by_hand):
    assert marks(function, shape(6, 4), shape(6, 4)) == by_hand
    assert all(row.holds for row in rows(function, shape(6, 4), shape(6, 4)))


LOOP = """HloModule m

%body (s: (s32[], f32[6,4], f32[6,4])) -> (s32[], f32[6,4], f32[6,4]) {
  %s = (s32[], f32[6,4], f32[6,4]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %a = f32[6,4] get-tuple-element(%s), index=1
  %x = f32[6,4] get-tuple-element(%s), index=2
  %e = f32[6,4] exponential(%x)
  %b = f32[6,4] multiply(%a, %e)
  ROOT %t = (s32[], f32[6,4], f32[6,4]) tuple(%i, %b, HANDED)
}

%cond (s: (s32[], f32[6,4], f32[6,4])) -> pred[] {
  %s = (s32[], f32[6,4], f32[6,4]) parameter(0)
  ROOT %p = pred[] constant(true)
}

ENTRY %main (y: f32[6,4]) -> f32[6,4] {
  %y = f32[6,4] parameter(0)
  %n = s32[] constant(0)
  %t = (s32[], f32[6,4], f32[6,4]) tuple(%n, %y, %y)
  %w = (s32[], f32[6,4], f32[6,4]) while(%t), condition=%cond, body=%body
  %z = f32[6,4] get-tuple-element(%w), index=2
  ROOT %e = f32[6,4] exponential(%z)
}
"""


def test_what_no_turn_changes_is_executed_again_in_each_but_the_first():
    """It stays the same after the loop, too."""
    found = count_hlo(LOOP.replace("HANDED", "%x"), 5).total()
    assert (found["exp"], found["exp repeated"], found["mul"], found["mul repeated"]) == (6 * 24, 5 * 24, 5 * 24, 0)
    changed = count_hlo(LOOP.replace("HANDED", "%b"), 5).total()
    assert (changed["exp"], changed["exp repeated"]) == (6 * 24, 0)


def test_a_table_that_is_too_large_to_print_is_the_same_in_a_loop_as_outside():
    """Another table of the same size beside it is another one, and so is a constant too large to be a table."""
    table = "%{} = f32[6,4] constant({{...}})"
    inside = LOOP.replace("HANDED", "%x").replace("  %e = f32[6,4] exp", f"  {table.format('q')}\n  %e = f32[6,4] exp")
    text = inside.replace("exponential(%x)", "exponential(%q)").replace("  %z =", f"  {table.format('v')}\n  %z =")
    text = text.replace("exponential(%z)", "exponential(%v)")

    def repeated(text: str) -> int:
        found = count_hlo(text, 5).total()
        assert found["exp"] % 6 == 0
        return 6 * found["exp repeated"] // found["exp"]

    assert repeated(text) == 5
    second = text.replace("  %v =", f"  {table.format('u')}\n  %v =")
    assert repeated(second) == 4
    assert repeated(text.replace("[6,4]", "[6,40]")) == 4


# --------------------------------------------------------------------------------- what primitives are lowered to

ROWS = shape(6, 13)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (lax.sort, (ROWS,)),
        (lambda a: jnp.sort(a, 1, descending=True), (shape(3, 70),)),
        (lambda a: jnp.argmax(a, 1), (ROWS,)),
        (lax.sort, (shape(6, 13, dtype=jnp.int32),)),
        (lambda a, b: lax.sort((a, b), num_keys=2), (ROWS, ROWS)),
        (lambda a, b: lax.sort((a, b), num_keys=2), (ROWS, shape(6, 13, dtype=jnp.int32))),
        (lambda a, b: lax.sort((a, b), num_keys=1), (ROWS, ROWS)),
        *[(lambda a: lax.cumsum(a, 1), (shape(3, length),)) for length in (2, 13, 16, 17, 200, 1000)],
        (lambda a: lax.cummax(a, 0, reverse=True), (shape(37, 3),)),
        (lambda a: lax.cumlogsumexp(a, axis=1), (ROWS,)),
    ],
)
def test_what_a_primitive_is_lowered_to_is_known_to_the_operation(function, arguments):
    found = rows(function, *arguments)
    assert found and all(row.executed - row.repeated - row.added == row.asked - row.again + row.lowered for row in found)


def test_running_sums_of_more_numbers_than_a_window_are_made_of_blocks():
    assert running(16) == 120 and running(17) == 2 * 120 + 1 + 2 * 16
    assert running(300) == 19 * 120 + running(19) + 19 * 16


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (lambda a, i: a.at[i].get(mode="fill", fill_value=0.0), (ROWS, shape(30, dtype=jnp.int32))),
        (lambda a: lax.top_k(a, 3), (ROWS,)),
        (lambda k, a: jax.random.categorical(jax.random.key(k), a), (shape(dtype=jnp.int32), ROWS)),
        (lambda a: lax.fori_loop(0, 7, lambda i, c: c + jnp.sin(a) * i, a), (ROWS,)),
    ],
)
def test_what_a_primitive_is_lowered_to_is_no_more_than_is_known(function, arguments):
    found = rows(function, *arguments)
    assert found and all(row.holds for row in found)


SORT = """HloModule m

%less (a: f32[], b: f32[], i: s32[], j: s32[]) -> pred[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  %i = s32[] parameter(2)
  %j = s32[] parameter(3)
  %x = f32[] negate(%a)
  %y = f32[] negate(%b)
  %less = pred[] compare(%x, %y), direction=LT
  %more = pred[] compare(%y, %x), direction=LT
  %both = pred[] compare(EQUAL), direction=EQ
  %before = pred[] compare(%i, %j), direction=LT
  ROOT %r = pred[] select(%both, %before, %less)
}

ENTRY %main (y: f32[16]) -> f32[16] {
  %y = f32[16] parameter(0)
  %n = s32[16] iota(), iota_dimension=0
  %s = (f32[16], s32[16]) sort(%y, PLACES), dimensions={0}, to_apply=%less
  ROOT %z = f32[16] get-tuple-element(%s), index=0
}
"""


def test_what_leaves_equal_numbers_in_their_order_is_added_to_a_sort():
    """Four of seven operations for each comparison; none if the places, or their order, are what was asked for."""
    text = SORT.replace("EQUAL", "%less, %more").replace("PLACES", "%n")
    assert ordered(text) == (4 * 16 * 7, 4 * 16 * 4)
    assert ordered(SORT.replace("EQUAL", "%a, %b").replace("PLACES", "%n")) == (4 * 16 * 7, 0)
    assert ordered(text.replace("%y, %n)", "%y, %k)").replace("%n = s32[16] iota()", "%k = s32[16] bitcast(%y)"))[1] == 0


def ordered(text: str) -> tuple[int, int]:
    """Returns all operations of a text, and those that are added."""
    found = count_hlo(text).total()
    return found.elementwise(), sum(number for name, number in found.items() if name.endswith(" added"))


def test_a_product_with_truth_values_is_a_choice():
    choice = jax.jit(lambda a, b: jnp.einsum("ij,ij->ij", a.astype(jnp.float32), b)).lower(
        shape(6, 4, dtype=bool), shape(6, 4)
    )
    text = choice.compile().as_text()
    assert "select(" in text and count_hlo(text).total().products() == 2 * 24
    assert count_hlo(text.replace("dot_general", "select_n")).total().products() == 0


def test_random_numbers_have_a_loop_with_a_counter():
    """Many small draws: each has casts of its own, however few numbers it gives."""

    def drawn(key):
        return sum(jax.random.bits(jax.random.fold_in(key, i), (3,)).sum() for i in range(6))

    found = rows(drawn, jax.eval_shape(lambda: jax.random.key(0)))
    assert all(row.holds for row in found)
    (casts,) = (row for row in found if row.kind == "casts")
    assert casts.executed - casts.repeated - casts.added > SCALARS > 0 == casts.asked


HALF = shape(6, 13, dtype=jnp.bfloat16)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("function", "arguments", "by_hand"),
    [
        (lambda a, b: lax.dot_general(a, b, (((1,), (1,)), ((), ()))), (ROWS, HALF), {"convert": 78}),
        (lambda a, b: lax.dot_general(a, b, (((1,), (1,)), ((), ()))), (HALF, HALF), {}),
        (lambda a, i: lax.pow(a, i), (ROWS, shape(6, 13, dtype=jnp.int32)), {"convert": 78}),
        (lambda a: lax.bitcast_convert_type(a, jnp.int32), (ROWS,), {"integer": 78}),
    ],
)
def test_what_jax_makes_of_a_primitive_is_what_xla_counts_of_the_lowered_program(function, arguments, by_hand, platform):
    traced = jax.jit(function).trace(*arguments)
    lowered = {name.removesuffix(" lowered"): n for name, n in once(traced.jaxpr).items() if n}
    assert lowered == by_hand
    assert more_than_asked(traced, platform) == sum(by_hand.values())


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
@pytest.mark.parametrize("shape_", [(24,), (2, 32, 12)])
def test_random_bits_are_lowered_to_their_places_and_a_counter(shape_, platform):
    """Only for a CPU are their rounds a loop."""
    traced = jax.jit(lambda key: jax.random.bits(key, shape_)).trace(jax.eval_shape(lambda: jax.random.key(0)))
    places = 2 * (len(shape_) - 1) * math.prod(shape_)
    assert once(traced.jaxpr).total() == places + 10
    assert places <= more_than_asked(traced, platform) <= places + 10


def once(jaxpr) -> Tally:
    return total(again.spared(jaxpr, loops_once=True).values())


def more_than_asked(traced, platform: str) -> float:
    """Returns the operations that XLA counts in a lowered program beyond those of the jaxpr."""
    lowered = traced.lower(lowering_platforms=(platform,))
    said = count_xla(lowered, lowered.as_text())
    asked = count_closed(traced.jaxpr, loops_once=True, rolled=platform == "cpu").total().everything()
    return (said.flops or 0) + said.transcendentals - asked


# ------------------------------------------------------------------------------------------------- generations

TINY = ModelConfig(17, 4, 6, 1, 1, 1, 2, tie_word_embeddings=True)
TABLES = {
    "train": {"batch_size": 2, "validation_windows": 4, "steps": 10, "validate_every": 5}, "windows": {"length": 32},
    "evaluate": {"context": 4, "horizon": 3, "samples": 2, "batch_series": 2}, "codec": {"decimals": 1},
    "sampling": {"top_k": 5, "top_p": 0.9},
}  # fmt: skip


def sampled(guesses: bool = False):
    """Returns the generation of a run's forecasts, with every way to choose a token."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(generate, "GUESSING_ROWS", {jax.default_backend(): range(4, 5)} if guesses else {})
        subjects = audited.of_runs([build_config(RunConfig, TABLES)], TINY, 2, 24)
    return next(one for one in subjects if one.program.name.startswith("generation, 4"))


@pytest.fixture(scope="module")
def untouched():
    one = sampled()
    return jax.jit(one.program.function).trace(*one.program.arguments).jaxpr


def generated(asked=None, guesses: bool = False) -> list[Row]:
    one = sampled(guesses)
    return rows(one.program.function, *one.program.arguments, trips=one.trips, asked=asked, place=_once)


@pytest.mark.parametrize("guesses", [False, True])
def test_a_generation_executes_what_it_asks_for(guesses):
    found = generated(guesses=guesses)
    assert not [row for row in found if not row.holds]
    assert {row.place.component for row in found} >= {"sampling", "mask", "rope", "norms", "activation"}


@pytest.mark.parametrize(
    "extra",
    [
        # More than XLA may need to choose the largest: it sorts for that, or, from jax 0.12 on, it does not.
        lambda logits, keys: 1e-9 * functools.reduce(lambda x, _: jnp.cumsum(x, -1), range(5), logits),
        lambda logits, keys: 1e-9 * jnp.sin(logits),
    ],
)
def test_more_work_in_the_turns_of_a_generation_is_found(extra, untouched, monkeypatch):
    plain = decode.draw
    monkeypatch.setattr(decode, "draw", lambda logits, keys, *rest: plain(logits + extra(logits, keys), keys, *rest))
    jax.clear_caches()  # the patched function has the name and the arguments of the plain one
    found = generated(untouched)
    jax.clear_caches()
    assert {row.place.component for row in found if row.excess} == {"sampling"}
