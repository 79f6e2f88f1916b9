"""The counters on real programs: how they count a loop, a branch, a library call and an unknown operation, and that formula,
jaxpr and HLO agree.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlv.errors import JaxlvError
from jaxlv.flops import places, programs, table
from jaxlv.flops.conventions import ADDS_COUNTED, CONVENTIONS, SHEET
from jaxlv.flops.counting.hlo import count_hlo
from jaxlv.flops.counting.jaxpr import count_jaxpr
from jaxlv.flops.counting.scopes import of_stack
from jaxlv.flops.family import FAMILY, architecture
from jaxlv.flops.places import placed, products
from jaxlv.flops.work import Work
from jaxlv.lora.overlay import PROJECTIONS
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import Qwen2
from jaxlv.model.weights import abstract_params

SMALL = ModelConfig(97, 40, 56, 3, 4, 2, 10, tie_word_embeddings=True)
PRODUCT = 2 * 8 * 16 * 4


def shape(*sizes, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


A, B = shape(8, 16), shape(16, 4)


def dots(function, *arguments, **options) -> int:
    return count_jaxpr(function, *arguments, **options).total().products()


def compiled_dots(function, *arguments) -> int:
    found = count_hlo(jax.jit(function).lower(*arguments).compile().as_text())
    assert not found.doubts
    return found.total().products()


# ------------------------------------------------------------------------------------------------- the jaxpr


def test_products_at_both_prices():
    found = count_jaxpr(lambda a, b: a @ b, A, B).total()
    assert (found["dot"], found["dot sheet"]) == (PRODUCT, 8 * 4 * 31)
    assert found.everything() == PRODUCT
    batched = count_jaxpr(lambda a, b: jnp.einsum("zmn,znp->zmp", a, b), shape(5, 8, 16), shape(5, 16, 4)).total()
    assert batched["dot"] == 5 * PRODUCT


def test_a_scan_counts_its_body_times_its_length():
    def run(a, b):
        return jax.lax.scan(lambda c, _: (c + (a @ b).sum(), None), 0.0, None, length=7)[0]

    def nested(a, b):
        return jax.lax.scan(lambda c, _: (c + run(a, b), None), 0.0, None, length=3)[0]

    assert dots(run, A, B) == 7 * PRODUCT
    assert dots(nested, A, B) == 21 * PRODUCT
    assert dots(lambda a, b: jax.lax.fori_loop(0, 5, lambda i, c: c + (a @ b).sum(), 0.0), A, B) == 5 * PRODUCT


def test_a_while_loop_needs_a_trip_count():
    def run(a, b, n):
        return jax.lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, s[1] + (a @ b).sum()), (0, 0.0))[1]

    arguments = A, B, shape(dtype=jnp.int32)
    with pytest.raises(JaxlvError, match=r"test_flops_counters.py:\d+: a loop of unknown length"):
        dots(run, *arguments)
    assert dots(run, *arguments, trips=9) == 9 * PRODUCT


def test_a_conditional_counts_its_dearest_branch():
    def run(p, a, b):
        return jax.lax.cond(p, lambda: (a @ b).sum(), lambda: (a @ b).sum() + (a @ b).max() + (a[:2] @ b).sum())

    assert dots(run, shape(dtype=bool), A, B) == 2 * PRODUCT + PRODUCT // 4


def test_dead_code_counts_nothing():
    def run(a, b):
        _unused = a @ b
        return a.sum()

    assert dots(run, A, B) == 0
    assert dots(jax.jit(run), A, B) == 0


def test_jit_remat_and_custom_derivatives_are_entered():
    @jax.custom_vjp
    def multiply(a, b):
        return a @ b

    multiply.defvjp(lambda a, b: (a @ b, (a, b)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))
    assert dots(jax.jit(jax.checkpoint(lambda a, b: a @ b)), A, B) == PRODUCT
    assert dots(multiply, A, B) == PRODUCT
    assert dots(jax.grad(lambda a, b: (multiply(a, b) ** 2).sum(), argnums=(0, 1)), A, B) == 3 * PRODUCT
    assert dots(jax.vmap(lambda a: a @ jnp.ones((16, 4))), shape(6, 8, 16)) == 6 * PRODUCT


def test_frozen_sides_have_no_gradient():
    assert dots(jax.grad(lambda a, b: (a @ b).sum() ** 2), A, B) == 2 * PRODUCT  # forward, and the gradient of a only


def test_elementwise_prices():
    found = count_jaxpr(lambda a: jnp.exp(a) * jax.lax.rsqrt(a) + 1.0, A).total()
    assert found.everything() == 4 * 128
    assert found.price(SHEET, "dot sheet") == (10 + 11 + 1 + 1) * 128


@pytest.mark.parametrize(
    ("scope", "component", "phase"),
    [
        ("jvp(Qwen2.features)/model.layers.0/self_attn/q_proj/BTD,FD->BTF", "q_proj", "forward"),
        ("transpose(jvp(Qwen2.features))/model.layers.0/self_attn/v_proj/lora_B/x", "v_proj lora B", "backward"),
        ("jit(f)/Qwen2.features/model.layers.11/self_attn/softmax/scores/dot_general", "scores", "forward"),
        ("jit(f)/Qwen2.features/model.layers.11/self_attn/softmax/exp", "softmax", "forward"),
        ("transpose(jvp(X))/model.layers.1/mlp/jvp(X)/model.layers.1/mlp/rematted_computation/swiglu/mul", "activation",
         "recomputed"),
        ("jvp()/while/body/head/backward/dot_general", "head", "backward"),
        ("Qwen2.features/model.layers.3/add", "residuals", "forward"),
        ("Qwen2.features/model.layers.3/post_attention_layernorm/mul", "norms", "forward"),
        ("anything", "other", "forward"),
    ],
)  # fmt: skip
def test_scopes_name_components_and_phases(scope, component, phase):
    assert tuple(places.place(of_stack(scope))) == (component, phase)


# ------------------------------------------------------------------------------- formula, jaxpr and compiled HLO


def agree(work: Work) -> None:
    """Checks, per component and phase, that the products of the train step are those of the formula."""
    model = Qwen2(work.model, attention=work.kernel)
    program = programs.train_program(work, model)
    found = products(placed(count_jaxpr(program.function, *program.arguments).tallies))
    rows = table.count(work, "exact").by_component()
    assert found == rows


subsets = st.lists(st.sampled_from(PROJECTIONS), max_size=7, unique=True).map(tuple)


@given(
    st.sampled_from([*FAMILY, "small"]),
    st.integers(1, 8),
    st.sampled_from([128, 131, 256, 384, 500, 512, 768]),
    st.sampled_from([1, 2, 4, 8, 13, 64]),
    subsets.filter(bool),
    st.sampled_from(["adapters", "head", "full"]),
    st.sampled_from(["frozen", "alphabet"]),
    st.sampled_from(["xla", "blocked"]),
)
@settings(max_examples=16, deadline=None)
def test_formula_is_the_jaxpr(name, batch, length, rank, targets, train, head, kernel):
    """Every size of the family, cut to its first three layers: the others repeat the second."""
    config = SMALL if name == "small" else FAMILY[name]
    cut = config.__class__(**{**vars(config), "num_hidden_layers": 3})
    if train != "adapters":
        head = "frozen"
    agree(Work(cut, batch, length, rank, targets, head, train, kernel))


def test_a_loss_of_two_rows_of_320_tokens_is_padded_nowhere():
    """One step of the 0.5B model with adapters of rank 5, by formula and by jaxpr: its 640 tokens and no more."""
    work = Work(FAMILY["qwen2.5-0.5b"], 2, 320, 5)
    program = programs.train_program(work, Qwen2(work.model))
    assert table.count(work, "exact").total_train_step == 1_316_986_880_000
    assert dots(program.function, *program.arguments) == 1_316_986_880_000


@pytest.mark.parametrize("targets", [("q_proj",), ("v_proj",), ("o_proj",), ("gate_proj",), ("down_proj",), PROJECTIONS])
def test_only_reached_gradients_are_formed(targets):
    agree(Work(SMALL, 2, 12, 3, targets))


@pytest.mark.slow
def test_the_whole_half_billion_model():
    qwen = FAMILY["qwen2.5-0.5b"]
    forward = programs.forward_program(Work(qwen, 4, 512), Qwen2(qwen))
    assert dots(forward.function, *forward.arguments) == 2_115_674_046_464
    for train, expected in (("adapters", 4_317_591_371_776), ("head", 4_875_198_922_752), ("full", 6_347_022_139_392)):
        work = Work(qwen, 4, 512, train=train)
        step = programs.train_program(work, Qwen2(qwen))
        assert dots(step.function, *step.arguments) == expected
        agree(work)


@pytest.mark.parametrize(
    ("batch", "length", "rank", "targets", "train", "dtype"),
    [
        (2, 16, 3, ("q_proj", "v_proj"), "adapters", "float32"),
        (3, 24, 2, ("k_proj", "o_proj", "down_proj"), "adapters", "float32"),
        (1, 16, 4, PROJECTIONS, "adapters", "float32"),
        (2, 16, 3, ("q_proj", "v_proj"), "head", "float32"),
        (2, 16, 3, ("q_proj", "v_proj"), "full", "float32"),
        (2, 16, 3, ("q_proj", "v_proj"), "adapters", "bfloat16"),
    ],
)
def test_the_compiled_step_has_the_same_products(batch, length, rank, targets, train, dtype):
    work = Work(SMALL, batch, length, rank, targets, train=train)
    program = programs.train_program(work, Qwen2(SMALL, jnp.dtype(dtype)))
    found = count_hlo(program.function.lower(*program.arguments).compile().as_text())
    assert not found.doubts
    asked = count_jaxpr(program.function, *program.arguments)
    assert found.total().products() == asked.total().products()
    if batch > 1:  # with one row XLA drops the names of some products
        assert products(placed(found.tallies)) == products(placed(asked.tallies))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_compiled_decode_step_has_the_same_products_in_total(batch):
    """With one row XLA turns products into multiplications and sums, and drops some names."""
    work = Work(SMALL, batch, 24, 2)
    program = programs.decode_program(work, Qwen2(SMALL), 8)
    asked = dots(program.function, *program.arguments)
    assert asked == table.decode(work, 32, "exact")
    assert compiled_dots(program.function, *program.arguments) == asked


def test_the_forward_pass_at_the_assignment_s_prices():
    """Formula and jaxpr, both at the sheet's prices."""
    work = Work(FAMILY["qwen2.5-0.5b"], 4, 512)
    priced = CONVENTIONS["exact-all"]._replace(weights=SHEET, product=ADDS_COUNTED)
    values = table.symbols(work)
    formula = sum(table.price(row, priced, values) for row in priced.rows if row.when == "always")
    program = programs.forward_program(work, Qwen2(work.model))
    jaxpr = count_jaxpr(program.function, *program.arguments).total().price(SHEET, "dot sheet")
    assert formula == jaxpr


# ---------------------------------------------------------------------------------------------- the HLO text


def test_loops_in_compiled_text_count_their_trips():
    def run(a, b):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ b @ b.T), None), a, None, length=6)[0]

    assert compiled_dots(run, A, B) == 12 * PRODUCT


def test_a_loop_of_unknown_length_is_a_doubt():
    def run(a, b, n):
        return jax.lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, jnp.tanh(s[1] @ b @ b.T)), (0, a))[1]

    text = jax.jit(run).lower(A, B, shape(dtype=jnp.int32)).compile().as_text()
    found = count_hlo(text)
    assert found.total().products() == 2 * PRODUCT
    assert any("trip count is not known" in doubt for doubt in found.doubts)


GEMM = """HloModule m, entry_computation_layout={(f32[8,16]{1,0},f32[16,4]{1,0})->f32[8,4]{1,0}}

ENTRY %main.1 (a.1: f32[8,16], b.1: f32[16,4]) -> (f32[8,4], s8[1024]) {
  %a.1 = f32[8,16]{1,0} parameter(0)
  %b.1 = f32[16,4]{1,0} parameter(1)
  ROOT %gemm.1 = (f32[8,4]{1,0}, s8[1024]{0}) custom-call(f32[8,16]{1,0} %a.1, f32[16,4]{1,0} %b.1), custom_call_target="TARGET", metadata={op_name="jit(f)/q_proj/dot_general"}, backend_config={"operation_queue_id":"0","gemm_backend_config":{"alpha_real":1,"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]}}}
}
"""  # noqa: E501


@pytest.mark.parametrize("target", ["__cublas$gemm", "__cublas$lt$matmul", "__cublas$lt$matmul$f8"])
def test_cublas_calls_are_products(target):
    found = count_hlo(GEMM.replace("TARGET", target))
    assert products(placed(found.tallies)) == {("q_proj", "forward"): PRODUCT}
    assert not found.doubts


def test_an_unknown_custom_call_is_listed():
    found = count_hlo(GEMM.replace("TARGET", "my$kernel"))
    assert found.doubts == ["custom call my$kernel: no rule"]


ATTENTION = """HloModule m

ENTRY %main.1 (q.1: bf16[2,4,32,16]) -> (bf16[2,4,32,16], u8[0]) {
  %q.1 = bf16[2,4,32,16]{3,2,1,0} parameter(0)
  ROOT %fmha.1 = (bf16[2,4,32,16]{3,1,2,0}, u8[0]{0}) custom-call(%q.1, %q.1, %q.1), custom_call_target="TARGET", metadata={op_name="jit(f)/self_attn/scores"}, backend_config={"cudnn_fmha_backend_config":{"fmha_scale":1,"intermediate_tensor_shape":{"element_type":"BF16","dimensions":["2","4","32","64"]},"mask_type":"MASK"}}
}
"""  # noqa: E501


@pytest.mark.parametrize(("target", "products_of"), [("__cudnn$fmhaSoftmax", 2), ("__cudnn$fmhaSoftmaxBackward", 5)])
def test_fused_attention_is_two_products_and_five(target, products_of):
    one = 2 * 2 * 4 * 32 * 64 * 16
    found = count_hlo(ATTENTION.replace("TARGET", target).replace("MASK", "NO_MASK")).total()
    assert found["dot"] == products_of * one
    causal = count_hlo(ATTENTION.replace("TARGET", target).replace("MASK", "CAUSAL")).total()
    assert causal["dot skipped by mask"] == products_of * one // 2


@pytest.mark.parametrize("text", ["", "no HLO", "HloModule m\n%f (a: f32[2]) -> f32[2] {\n}\n"])
def test_text_that_is_no_module_is_refused(text):
    with pytest.raises(JaxlvError, match="not a compiled HLO module"):
        count_hlo(text)


# ------------------------------------------------------------------------------------------------- the family

PARAMETERS = {
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
}


@pytest.mark.parametrize("name", FAMILY)
def test_the_family_has_its_parameters(name):
    config = architecture(name)
    values = table.symbols(Work(config, 1, 1))
    assert values["P"] + config.vocab_size * config.hidden_size == PARAMETERS[name]
    shapes = abstract_params(Qwen2(config)).values()
    assert sum(int(np.prod(s.shape)) for s in shapes) == PARAMETERS[name]


def test_architectures_by_folder_and_unknown_names(tiny_base):
    assert architecture(str(tiny_base)).vocab_size == 32
    assert architecture("embedded").vocab_size == 16
    with pytest.raises(JaxlvError, match="no such model"):
        architecture("qwen9")
