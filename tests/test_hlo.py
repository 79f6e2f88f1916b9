"""The counter of compiled HLO: rules on hand-written texts, products in every disguise, and how far it may be from the
jaxpr.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxlv.errors import JaxlvError
from jaxlv.flops import programs
from jaxlv.flops.counting import again, hlo_text, opcodes
from jaxlv.flops.counting.compared import SCALARS, Row, compared
from jaxlv.flops.counting.hlo import count_hlo
from jaxlv.flops.counting.jaxpr import count_closed
from jaxlv.flops.counting.operations import Tally
from jaxlv.flops.counting.scopes import Scope
from jaxlv.flops.places import place
from jaxlv.flops.work import Work
from jaxlv.model import qwen2
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import Qwen2
from tests.test_counting import PRODUCTS, shape

ADD = """%sum (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %z = f32[] add(%x, %y)
}
"""


def module(*lines: str, regions: str = "", header: str = "") -> str:
    """Returns a module from the lines of its entry, the last of which is the root."""
    body = "\n".join(f"  {'ROOT ' if line is lines[-1] else ''}{line}" for line in lines)
    return f"HloModule m{header}\n\n{regions}\nENTRY %main () -> f32[] {{\n{body}\n}}\n"


def counted(*lines: str, **options: str) -> Tally:
    return count_hlo(module(*lines, **options)).total()


def operations(*lines: str, **options: str) -> dict[str, int]:
    """Returns what is counted, except bytes."""
    return {name: number for name, number in counted(*lines, **options).items() if number and name != "bytes"}


def compiled(function, *arguments) -> str:
    return jax.jit(function).lower(*arguments).compile().as_text()


# ------------------------------------------------------------------------------------------------- the text


def test_types_and_instructions_are_read():
    text = "(f32[2,<=3]{1,0:T(8,128)}, /*index=1*/pred[], c64[4]{0}, token[], s4[3])"
    assert [(a.dtype, a.sizes, a.bytes) for a in hlo_text.arrays(text)] == [
        ("f32", (2, 3), 24), ("pred", (), 1), ("c64", (4,), 32), ("token", (), 0), ("s4", (3,), 2)]  # fmt: skip
    read = hlo_text.parse(module("a.1 = f32[4]{0} parameter(0)", "b = f32[4]{0} add(f32[4]{0} a.1, a.1)"))
    assert read.computations["main"]["b"].operands == ("a.1", "a.1")  # without signs before the names
    assert hlo_text.parse(module("%a = f32[] parameter(0)", header=", replica_count=2, num_partitions=4")).devices == 8


@pytest.mark.parametrize(
    "text",
    [
        "", "HloModule m\n", "HloModule m\n\nENTRY %main () -> f32[] {\n}\n", module("%a = f32[] add(%b, %c)"),
        module("%a = f32[] add(%b"), module("%a = f32[2] parameter(0)", "%b = f32[2] fusion(%a), calls=%gone"),
        module("%a = f32[2] parameter(0)", "%b = f32[] reduce(%a, %a), dimensions={0}"),
        module("%a = f32[2] parameter(0)", "%b = f32[2] call(%a), to_apply=%main"),
    ],
)  # fmt: skip
def test_a_text_that_is_not_whole_is_refused_in_one_line(text):
    with pytest.raises(JaxlvError) as fault:
        count_hlo(text)
    assert fault.value.where.startswith("HLO text")


# ---------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize("opcode", sorted(opcodes.ELEMENTWISE))
def test_an_opcode_costs_what_its_primitive_costs(opcode):
    price = dict(opcodes.costs.ELEMENTWISE[opcodes.ELEMENTWISE[opcode]])
    found = operations("%a = f32[3,4] parameter(0)", f"%b = f32[3,4] {opcode}(%a, %a)")
    assert found == {name: 12 * number for name, number in price.items()}


def test_complex_numbers_cost_the_real_operations_that_they_stand_for():
    a = "%a = c64[5] parameter(0)"
    assert operations(a, "%b = c64[5] multiply(%a, %a)") == {"mul": 20, "add": 10}
    assert operations(a, "%b = f32[5] abs(%a)") == {"mul": 10, "add": 5, "sqrt": 5}


MAX = ADD.replace("%sum", "%most").replace("add(", "maximum(")
AT_LEAST = ADD.replace("%sum", "%ge").replace("f32[] add(%x, %y)", "pred[] compare(%x, %y), direction=GE").replace(
    "-> f32[] {", "-> pred[] {"
)  # fmt: skip
A = "%a = f32[6,4] parameter(0)"
B = "%b = f32[4,5] parameter(1)"
ZERO = "%zero = f32[] constant(0)"


@pytest.mark.parametrize(
    ("lines", "by_hand"),
    [
        ([A, B, "%c = f32[6,5] dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}"],
         {"dot": 2 * 6 * 4 * 5, "dot sheet": 30 * 7}),
        ([A, ZERO, "%c = f32[6] reduce(%a, %zero), dimensions={1}, to_apply=%sum"], {"add": 18}),
        ([A, ZERO, "%c = (f32[6], f32[6]) reduce(%a, %a, %zero, %zero), dimensions={1}, to_apply=%sum"], {"add": 18}),
        ([A, ZERO, "%c = f32[6,4] reduce-window(%a, %zero), window={size=1x3 pad=0_0x1_1}, to_apply=%sum"], {"add": 6 * 6}),
        ([A, ZERO, "%c = f32[6,2] reduce-window(%a, %zero), window={size=1x2 stride=1x2}, to_apply=%most"], {"compare": 12}),
        ([A, "%s = f32[6,2] parameter(1)", ZERO,
          "%c = f32[6,4] select-and-scatter(%a, %s, %zero), window={size=1x2 stride=1x2}, select=%ge, scatter=%sum"],
         {"integer": 12, "add": 12}),
        ([A, "%i = s32[3,1] parameter(1)", "%u = f32[3,4] parameter(2)", "%c = f32[6,4] scatter(%a, %i, %u), to_apply=%sum"],
         {"add": 12}),
        ([A, "%c = f32[6,4] sort(%a), dimensions={0}, to_apply=%ge"], {"integer": 24 * 3}),
        ([A, "%c = f32[6,4] map(%a, %a), dimensions={0,1}, to_apply=%sum"], {"add": 24}),
        ([A, "%c = (f32[6,2], s32[6,2]) topk(%a), k=2, largest=true"], {"compare": 24 * 2}),
        ([A, "%c = f32[6,4] all-reduce(%a), replica_groups={{0,1,2,3}}, to_apply=%sum"], {"add": 18}),
        ([A, "%c = f32[3,4] reduce-scatter(%a), replica_groups=[4,2]<=[8], dimensions={0}, to_apply=%sum"], {"add": 12}),
        ([A, "%s = f32[6,4] all-reduce-start(%a), replica_groups={{0,1}}, to_apply=%sum",
          "%c = f32[6,4] all-reduce-done(%s)"], {"add": 12}),
    ],
)  # fmt: skip
def test_rules_on_texts_by_hand(lines, by_hand):
    assert operations(*lines, regions=ADD + MAX + AT_LEAST) == by_hand


@pytest.mark.parametrize(
    ("lines", "by_hand", "doubt"),
    [
        (["%a = f32[8,4] parameter(0)", "%b = f32[3,4,5] parameter(1)", "%g = s32[3] parameter(2)",
          "%c = f32[8,5] ragged-dot(%a, %b, %g), lhs_contracting_dims={1}, rhs_contracting_dims={1}, lhs_ragged_dims={0}, "
          "rhs_group_dims={0}"], 2 * 8 * 4 * 5, "as if its groups covered every row"),
        (["%a = f32[8,4] parameter(0)", "%b = f32[4,5] parameter(1)", "%s = f32[8,1] parameter(2)",
          "%t = f32[] parameter(3)",
          "%c = f32[8,5] scaled-dot(%a, %b, %s, %t), lhs_contracting_dims={1}, rhs_contracting_dims={0}"], 2 * 8 * 4 * 5,
         ""),
        (["%a = f32[2,6,6] parameter(0)", "%b = f32[2,6,3] parameter(1)",
          "%c = f32[2,6,3] triangular-solve(%a, %b), left_side=true, lower=true"], 2 * 36 * 3, "by a formula"),
        (["%a = f32[2,6,6] parameter(0)", "%c = f32[2,6,6] cholesky(%a), lower=true"], 2 * 91, "by a formula"),
        (["%a = c64[3,8] parameter(0)", "%c = c64[3,8] fft(%a), fft_type=FFT, fft_length={8}"], 3 * 120, "by a formula"),
        (["%a = c64[3,5] parameter(0)", "%c = f32[3,8] fft(%a), fft_type=IRFFT, fft_length={8}"], 3 * 60, "by a formula"),
    ],
)  # fmt: skip
def test_products_that_are_no_dot(lines, by_hand, doubt):
    found = count_hlo(module(*lines))
    assert found.total().products() == by_hand
    assert [doubt in said for said in found.doubts] == [True] * bool(doubt)


def test_what_has_no_rule_is_a_doubt():
    assert count_hlo(module(A, "%c = f32[6,4] levitate(%a)")).doubts == ["opcode levitate: no rule"]
    region = ADD.replace("add(", "levitate(")
    assert count_hlo(module(A, ZERO, "%c = f32[6] reduce(%a, %zero), dimensions={1}, to_apply=%sum", regions=region)).doubts


def test_what_fills_a_row_up_to_be_summed_in_two_stages_is_the_compiler_s_own():
    """7 numbers as 3 rows of 3: the two zeros add two sums. Padding by the program itself was asked for."""
    row, zero, one = "%a = f32[5,7] parameter(0)", "%zero = f32[] constant(0)", "%one = f32[] constant(1)"
    split, summed = "%b = f32[5,3,3] bitcast(%p)", "%c = f32[5,3] reduce(%b, %zero), dimensions={2}, to_apply=%sum"

    def reduced(pad: str) -> dict[str, int]:
        return operations(row, zero, one, pad, split, summed, regions=ADD)

    filled = "%p = f32[5,9] pad(%a, %zero), padding=0_0x0_2"
    assert reduced(filled) == {"add": 30, "add added": 10}
    assert reduced(f'{filled}, metadata={{op_name="jit(f)/exp"}}') == {"add": 30, "add added": 10}
    assert reduced(f'{filled}, metadata={{op_name="jit(f)/pad"}}') == {"add": 30}
    assert reduced("%p = f32[5,9] pad(%a, %one), padding=0_0x0_2") == {"add": 30}


# ------------------------------------------------------------------------------------------------ custom calls


@pytest.mark.parametrize(
    "target", ["MyTopK", "TopKish", "SPMDThing", "notSharding", "__cublas$gemm2", "lapack_spotrf_ffi_of_mine", ""]
)
def test_custom_calls_are_known_by_their_whole_name(target):
    found = count_hlo(module(A, f'%c = f32[6,4] custom-call(%a), custom_call_target="{target}"'))
    assert found.doubts == [f"custom call {target or 'c'}: no rule"]


@pytest.mark.parametrize(
    ("target", "by_hand"),
    [("Sharding", {}), ("TopK", {"compare": 48}), ("__cub$DeviceRadixSort", {"compare": 48}), ("SPMDFullToShardShape", {})],
)
def test_custom_calls_with_a_rule(target, by_hand):
    assert operations(A, f'%c = f32[6,4] custom-call(%a), custom_call_target="{target}"') == by_hand


def test_random_bits_of_cuda_cost_a_block_for_two_words():
    """Twenty rounds of Threefry, whichever way a device generates bits; the last block may be half used."""
    call = '%c = (u32[3], u32[4]) custom-call(%k), custom_call_target="cu_threefry2x32_ffi"'
    assert operations("%k = u32[4] parameter(0)", call) == {"integer": 4 * 80, "add": 4 * 37}


CONV = 'window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, custom_call_target="TARGET"'
X, K, Y = "f32[2,6,5,3]", "f32[3,3,3,4]", "f32[2,6,5,4]"


@pytest.mark.parametrize(
    ("target", "sides", "made"),
    [
        ("__cudnn$convForward", (X, K), Y),
        ("__cudnn$convBackwardInput", (Y, K), X),
        ("__cudnn$convBackwardFilter", (X, Y), K),
    ],
)
def test_convolutions_of_cudnn_cost_what_the_forward_one_does(target, sides, made):
    """Each tap of the window on data once, whichever two of the three are given."""
    call = f"%c = ({made}, u8[0]) custom-call(%x, %y), {CONV.replace('TARGET', target)}"
    valid = (3 * 6 - 2) * (3 * 5 - 2)
    assert (
        counted(f"%x = {sides[0]} parameter(0)", f"%y = {sides[1]} parameter(1)", call).products() == 2 * 2 * 3 * 4 * valid
    )


def test_what_a_library_does_to_a_product_is_counted_beside_it():
    config = (
        '"gemm_backend_config":{"alpha_real":2,"beta":1,"epilogue":"BIAS_RELU","dot_dimension_numbers":'
        '{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}'
    )
    name = 'metadata={op_name="jit(f)/dot_general"}'
    call = f'%c = f32[6,5] custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", {name}, backend_config={{{config}}}'
    found = operations(A, B, call)
    assert found["dot"] == 240 and (found["mul"], found["add"], found["compare"]) == (30, 60, 30)
    assert (found["mul added"], found["add added"], found["compare added"]) == (30, 60, 30)


# --------------------------------------------------------------------------------------- products in every disguise

ELSEWHERE = {  # what a compiler executes for some of them
    "remat": PRODUCTS["remat"][2] * 3 // 4,  # one of two recomputed products is merged with the first
    "ragged_dot": 4 * PRODUCTS["ragged_dot"][2],  # a dense product for each group
    "ragged_dot, gradients": 4 * PRODUCTS["ragged_dot, gradients"][2],
    "Pallas": 0,  # interpreted: no product in it
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_compiled_products_are_those_worked_out_by_hand(name):
    function, arguments, by_hand = PRODUCTS[name]
    found = count_hlo(compiled(function, *arguments)).total()
    assert found.products() - found["dot repeated"] == ELSEWHERE.get(name, by_hand)


@pytest.mark.parametrize(
    ("function", "arguments", "flops"),
    [
        (jnp.vdot, (shape(64), shape(64)), 128),
        (lambda a, b: jnp.einsum("bi,bi->b", a, b), (shape(6, 8), shape(6, 8)), 96),
        (lambda a, b: a @ b, (shape(6, 8), shape(8)), 96),
        (lambda a, b: a @ b, (shape(1, 1), shape(1, 6)), 12),
        (jnp.outer, (shape(6), shape(8)), 0),  # a multiplication, as written
        (lambda a, b: (a * b).sum(-1), (shape(6, 8), shape(6, 8)), 0),
        (lambda a, b: jnp.dot(a, b) / 2, (shape(6, 1), shape(1, 8)), 96),
    ],
)
def test_products_that_the_compiler_turns_into_multiplications(function, arguments, flops):
    found = count_hlo(compiled(function, *arguments)).total()
    assert found.products() == flops
    asked = count_closed(jax.make_jaxpr(function)(*arguments)).total()
    assert found["dot sheet"] == asked["dot sheet"]
    assert found.elementwise() == asked.elementwise()  # its sums are part of the product, and there is nothing else


NAMELESS = [
    '%a = f32[6] parameter(0), metadata={op_name="a"}', "%x = f32[6,5] broadcast(%a), dimensions={0}",
    "%y = f32[6,5] parameter(1)", "%m = f32[6,5] multiply(%x, %y)",
]  # fmt: skip


def test_a_multiplication_without_a_name_is_a_product_unless_it_divides():
    user = 'metadata={op_name="jit(f)/softmax/mul"}'
    assert operations(*NAMELESS, f"%b = f32[6,5] multiply(%m, %y), {user}")["dot"] == 60
    assert "dot" not in operations(*NAMELESS, f"%b = f32[6,5] divide(%y, %m), {user}")
    assert "dot" not in operations(*NAMELESS[2:3], "%m = f32[6,5] multiply(%y, %y)", f"%b = f32[6,5] add(%m, %y), {user}")


def test_a_product_has_the_name_of_what_moves_it():
    name = 'metadata={op_name="jit(f)/layer/dot_general"}'
    lines = [A, B, "%c = f32[6,5] dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}"]
    found = count_hlo(module(*lines, f"%d = f32[30] reshape(%c), {name}"))
    assert found.tallies[Scope(("layer",))].products() == 240
    elsewhere = count_hlo(module(*lines, f"%d = f32[30] reshape(%c), {name.replace('dot_general', 'reshape')}"))
    assert elsewhere.tallies[Scope(("layer",))].products() == 0


# --------------------------------------------------------------------------------------------- repeated and added


def fused(name: str, *lines: str) -> str:
    return (
        f"%{name} (p: f32[6,4]) -> f32[6,4] {{\n  %p = f32[6,4] parameter(0)\n"
        + "\n".join(f"  {x}" for x in lines)
        + "\n}\n"
    )


EXP = "%e = f32[6,4] exponential(%p)"
TWICE = fused("one", EXP, "ROOT %r = f32[6,4] add(%e, %p)") + fused("two", EXP, "ROOT %r = f32[6,4] negate(%e)")


def test_what_a_fusion_repeats_is_marked():
    lines = [A, "%x = f32[6,4] fusion(%a), kind=kLoop, calls=%one", "%y = f32[6,4] fusion(%a), kind=kLoop, calls=%two"]
    assert operations(*lines, regions=TWICE) == {"exp": 48, "exp repeated": 24, "add": 48}
    other = [*lines[:2], "%y = f32[6,4] fusion(%x), kind=kLoop, calls=%two"]
    assert operations(*other, regions=TWICE) == {"exp": 48, "add": 48}  # of another value


def test_a_value_of_another_shape_or_layout_is_the_same():
    exp = 'metadata={op_name="jit(f)/exp"}'
    lines = [A, "%b = f32[24] bitcast(%a)", f"%x = f32[24] exponential(%b), {exp}", "%d = f32[4,6] reshape(%a)"]
    assert operations(*lines, "%y = f32[4,6] exponential(%d)")["exp repeated"] == 24
    columns = ["%c = f32[6,4]{0,1} copy(%a)", "%d = f32[4,6]{1,0} bitcast(%c)", "%y = f32[4,6]{1,0} exponential(%d)"]
    assert "exp repeated" not in operations(*lines[:3], *columns)
    spread = ["%r = f32[4] slice(%b), slice={[0:4]}", "%s = f32[4,6] broadcast(%r), dimensions={0}",
              f"%x = f32[4,6] exponential(%s), {exp}", "%c = f32[2,2] bitcast(%r)"]  # fmt: skip
    for sizes, dimensions, same in (("2,2,6", "0,1", True), ("2,6,2", "0,2", False), ("6,2,2", "1,2", False)):
        more = [f"%d = f32[{sizes}] broadcast(%c), dimensions={{{dimensions}}}", f"%y = f32[{sizes}] exponential(%d)"]
        assert ("exp repeated" in operations(A, lines[1], *spread, *more)) == same
    turned = [*lines[:3], "%d = f32[4,6] transpose(%a), dimensions={1,0}", "%y = f32[4,6] exponential(%d)"]
    assert "exp repeated" not in operations(*turned)


def test_branches_repeat_nothing_of_one_another():
    branch = "%pred = pred[] parameter(1)"
    lines = [A, branch, "%c = f32[6,4] conditional(%pred, %a, %a), true_computation=%one, false_computation=%two"]
    assert operations(*lines, regions=TWICE) == {"exp": 24, "add": 24}
    before = [*lines[:2], "%e = f32[6,4] exponential(%a)", lines[2]]
    assert operations(*before, regions=TWICE) == {"exp": 48, "exp repeated": 24, "add": 24}
    dearer = TWICE.replace("negate(%e)", "exponential(%e)")  # the more expensive second branch
    assert operations(*lines, regions=dearer) == {"exp": 48, "add": 24}


def test_a_reciprocal_stands_for_the_divisions():
    found = count_hlo(compiled(lambda a: jax.nn.softmax(a), shape(6, 50))).total()
    assert (found["div"], found["div added"], found["mul"]) == (6, 6, 300)
    own = count_hlo(compiled(lambda a: (1 / a.sum(-1, keepdims=True)) * a, shape(6, 50))).total()
    assert own["div"] == 6 and not own["div added"]


# -------------------------------------------------------------------------------------------------- loops, branches


def test_loops_of_unknown_length_are_a_doubt_unless_they_are_given():
    def run(a, n, m):
        with jax.named_scope("outer"):
            a = lax.fori_loop(0, n, lambda i, c: jnp.sin(c @ c), a)
        with jax.named_scope("inner"):
            return lax.while_loop(lambda s: (s[1] @ s[1]).sum() < m, lambda s: (s[0] + 1, s[1] * 2.0), (0, a))[1]

    whole = shape(dtype=jnp.int32)
    text, one = compiled(run, shape(8, 8), whole, shape()), 2 * 8**3
    found = count_hlo(text)
    assert found.total().products() == one + 2 * one  # an iteration of each loop, and the condition once more
    assert sum("the trip count is not known" in doubt for doubt in found.doubts) == 2
    given = count_hlo(text, {"outer": 5, "inner": 9})
    assert given.total().products() == 5 * one + 10 * one and not given.doubts
    assert sorted((str(loop.scope), loop.trips, loop.tally.products()) for loop in given.loops) == [
        ("inner", 9, 10 * one), ("outer", 5, 5 * one)]  # fmt: skip
    by_line = {f"test_hlo.py:{run.__code__.co_firstlineno + 2}": 5, "inner": 9}
    assert count_hlo(text, by_line).total().products() == given.total().products()
    assert count_hlo(text, 2).total().products() == 2 * one + 3 * one


def test_a_loop_in_a_loop_is_begun_in_each_turn():
    def run(a):
        return lax.scan(
            lambda c, _: (lax.scan(lambda d, _: (jnp.sin(d @ d), None), c, None, length=3)[0], None), a, None, length=4
        )[0]

    loops = {loop.trips: loop for loop in count_hlo(compiled(run, shape(8, 8))).loops}
    assert (loops[4].begun, loops[3].begun) == (1, 4)
    assert loops[4].tally.products() == loops[3].tally.products() == 12 * 2 * 8**3


def test_the_dearest_branch_counts_for_each_kind_of_work():
    def run(p, a):
        return lax.cond(p, lambda: jnp.exp(a @ a), lambda: lax.fori_loop(0, 9, lambda i, c: c * 1.5 + a, a))

    found = count_hlo(compiled(run, shape(dtype=bool), shape(8, 8)))
    total = found.total()
    assert (total.products(), total["exp"], total["mul"]) == (2 * 8**3, 64, 9 * 64)
    assert found.doubts == ["conditional: the dearest of 2 branches is counted, for each kind of work"]


def test_bytes_are_those_of_whole_fusions_and_of_the_parts_that_they_take():
    lines = [A, "%x = f32[6,4] fusion(%a), kind=kLoop, calls=%one", "%y = f32[6,4] fusion(%x), kind=kLoop, calls=%two"]
    assert counted(*lines, regions=TWICE).bytes() == 4 * 96
    part = "%s = f32[1,4] slice(%p), slice={[2:3], [0:4]}"
    sliced = fused("one", part, "ROOT %r = f32[1,4] negate(%s)")
    assert counted(A, "%x = f32[1,4] fusion(%a), kind=kLoop, calls=%one", regions=sliced).bytes() == 2 * 16
    row = ["%r = f32[1,4] parameter(1)", "%i = s32[] parameter(2)"]
    assert counted(A, *row, "%x = f32[6,4] dynamic-update-slice(%a, %r, %i, %i)").bytes() == 2 * 16
    text = compiled(lambda a: lax.scan(lambda c, x: (c + x, None), a[0], a)[0], shape(50, 8))
    assert count_hlo(text).total().bytes() < 50 * 8 * 4 * 8  # each iteration reads a row, not all rows


# ------------------------------------------------------------------------------------- as far as the rule allows

TINY = ModelConfig(97, 40, 56, 2, 4, 2, 10, tie_word_embeddings=True)
SMALL = ModelConfig(97, 40, 56, 1, 4, 2, 10, tie_word_embeddings=True)
THIN = ModelConfig(16, 1, 8, 1, 1, 1, 2, tie_word_embeddings=True)


def component(scope: Scope) -> tuple[str, bool]:
    found = place(scope)
    return found.component, found.phase == "backward"


def traced(program: programs.Program):
    function = program.function if hasattr(program.function, "trace") else jax.jit(program.function)
    return function.trace(*program.arguments)


def rows_of(program: programs.Program, asked=None, casts: bool = True) -> list[Row]:
    """Applies the rule to a program's HLO and a jaxpr, by default its own."""
    made = traced(program)
    wanted = asked or made.jaxpr
    executed = count_hlo(made.lower().compile().as_text())
    assert not executed.doubts
    return compared(count_closed(wanted).tallies, again.spared(wanted), executed.tallies, component, casts)


@pytest.mark.parametrize(
    ("made", "work", "dtype"),
    [
        ("forward", Work(TINY, 2, 16, 3), "bfloat16"),
        ("train", Work(TINY, 2, 16, 3), "float32"),
        ("decode", Work(TINY, 2, 16, 3), "float32"),
        ("train", Work(SMALL, 3, 24, 2, ("k_proj", "o_proj", "down_proj"), "alphabet"), "bfloat16"),
        ("train", Work(SMALL, 2, 16, 1, train="full"), "float32"),
        ("forward", Work(SMALL, 2, 1, 3), "float32"),  # one token
        ("train", Work(THIN, 2, 1, 1), "float32"),
        ("decode", Work(THIN, 2, 16, 2), "float32"),  # hidden size 1
    ],
)
def test_the_compiled_programs_are_as_far_from_the_jaxpr_as_the_rule_allows(made, work, dtype):
    """To the operation, in every component; exactly, if nothing is asked for twice and nothing is constant."""
    model = Qwen2(work.model, jnp.dtype(dtype), work.kernel)
    more = [8] if made == "decode" else []
    rows = rows_of(getattr(programs, f"{made}_program")(work, model, *more), casts=dtype == "float32")
    assert not [row for row in rows if not row.holds]
    exact = [row for row in rows if not (row.again or row.either or row.folded or row.lowered)]
    assert len(exact) > 6 and all(abs(row.executed - row.repeated - row.added - row.asked) <= SCALARS for row in exact)


def patched(extra):
    return lambda gate, up: jax.nn.silu(gate) * up + extra(gate)


MUTANTS = {  # what a sceptic put into the MLP, each of at least a hundred operations
    "a long loop": lambda x: 1e-9 * lax.fori_loop(0, 10**9, lambda i, c: c * 1.0000001 + x, x),
    "a loop of sines": lambda x: 1e-9 * lax.fori_loop(0, 10**5, lambda i, c: jnp.sin(c) * 1.01, x),
    "nested loops": lambda x: lax.fori_loop(0, 9, lambda i, c: lax.fori_loop(0, 9, lambda j, d: d + (x * d).sum(), c), 0.0),
    "a product of axpys": lambda x: lax.scan(lambda c, i: (c + x * x[..., i, None], None), x, jnp.arange(40))[0],
    "a Gram product": lambda x: (x[:, :, None] * x[:, None, :]).sum(-1).mean(-1)[..., None],
    "a sort": lambda x: jnp.sort(x, axis=-1),
    "a cumulative sum": lambda x: jnp.cumsum(x, axis=-1),
    "one addition": lambda x: x,
}


@pytest.fixture(scope="module")
def unpatched():
    return traced(programs.forward_program(WORK, Qwen2(WORK.model))).jaxpr


WORK = Work(SMALL, 2, 16, 2)


@pytest.mark.parametrize("name", MUTANTS)
def test_work_that_nobody_asked_for_is_found_where_it_stands(name, unpatched, monkeypatch):
    monkeypatch.setattr(qwen2, "swiglu", jax.named_scope("swiglu")(patched(MUTANTS[name])))
    rows = rows_of(programs.forward_program(WORK, Qwen2(WORK.model)), asked=unpatched)
    assert {row.place[0] for row in rows if row.excess} == {"activation"}


def test_work_that_is_not_executed_is_missed(unpatched, monkeypatch):
    monkeypatch.setattr(qwen2, "swiglu", jax.named_scope("swiglu")(lambda gate, up: gate * up))
    rows = rows_of(programs.forward_program(WORK, Qwen2(WORK.model)), asked=unpatched)
    assert {(row.place[0], row.kind) for row in rows if row.missing} == {
        ("activation", kind) for kind in ("elementwise", "transcendental")
    }


@pytest.mark.parametrize(
    ("function", "marks"),
    [
        (lambda a: jnp.sin(a) + jnp.sin(a), {"sin again": 24}),
        (lambda a: jnp.sin(a.reshape(-1)) + jnp.sin(a).reshape(-1), {"sin again": 24}),
        (lambda a: a + jnp.sin(jnp.ones(4)), {"sin folded": 4}),
        (lambda a: (a * 1.0 + 0.0) / 1.0, {"mul folded": 24, "add folded": 24, "div folded": 24}),
        (lambda a: (a * 3.0) / 7.0, {"div folded": 24}),
        (lambda a: jnp.argmax(a, 1), {"integer lowered": 7 * 18, "compare lowered": 18}),
        (
            lambda a: lax.scan(lambda c, x: (c + jnp.cos(x) + jnp.cos(x), None), jnp.zeros(4), a)[0],
            {"sin again": 24, "add lowered": 12, "integer lowered": 13, "compare lowered": 6},  # its counter
        ),
        (  # what the last carry holds never changes: of six turns one would do
            lambda a: lax.scan(lambda c, x: ((c[0] + jnp.cos(c[1]), c[1]), None), (a[0], a[1]), a)[0][0],
            {"sin again": 20, "add lowered": 12, "integer lowered": 13, "compare lowered": 6},
        ),
        (lambda a: jnp.sin(a) + jnp.sin(a.T).T, {}),
        (lambda a: lax.cond(a[0, 0] > 0, lambda: jnp.sin(a), lambda: jnp.sin(a) * a), {}),
    ],
)
def test_what_a_program_could_be_spared(function, marks):
    found: Tally = Tally()
    for tally in again.spared(jax.make_jaxpr(function)(shape(6, 4))).values():
        found.update(tally)
    assert {name: number for name, number in found.items() if number} == marks
