"""Every operation by formula: `exact-all` is the jaxpr of the project's programs, per component and phase, 0 apart."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlv.analysis.logits import _token_losses
from jaxlv.config import RunConfig, SamplingConfig, build_config
from jaxlv.flops import programs, table
from jaxlv.flops.conventions import CONVENTIONS
from jaxlv.flops.counting.jaxpr import count_jaxpr
from jaxlv.flops.counting.operations import PRIMITIVES
from jaxlv.flops.events import Event
from jaxlv.flops.family import FAMILY
from jaxlv.flops.places import placed
from jaxlv.flops.programs import Program, shape
from jaxlv.flops.work import Drawing, Update, Work
from jaxlv.forecasting.likelihood import token_nll
from jaxlv.lora import overlay
from jaxlv.lora.overlay import PROJECTIONS
from jaxlv.model import attention
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import Qwen2
from jaxlv.runs import billing
from jaxlv.steps import decode, generate, loss
from jaxlv.steps.decode import read
from jaxlv.steps.prefill import prefill as read_prompts
from jaxlv.steps.stack import Stack
from jaxlv.steps.train import make_validation_step
from jaxlv.text.tokens import Windows
from tests.test_flops_cuda import let_cudnn_trace

SMALL = ModelConfig(37, 12, 22, 2, 4, 2, 6, tie_word_embeddings=True)
ALPHABET = 13


def model_of(work: Work) -> Qwen2:
    return Qwen2(work.model, jnp.dtype(work.dtype), work.kernel, weights=work.weights)


def everything(program: Program) -> dict[tuple[str, str], int]:
    """{(component, phase): all operations of the jaxpr}, loops times their length."""
    found = placed(count_jaxpr(program.function, *program.arguments).tallies)
    return {tuple(where): tally.everything() for where, tally in found.items() if tally.everything()}


def formula(work: Work, program: table.Program) -> dict[tuple[str, str], int]:
    return table.count(work, "exact-all").by_component(program, merged=True)


def agree(work: Work) -> None:
    """The train step has the formula's operations in every component and phase, and none outside of them."""
    assert everything(programs.train_program(work, model_of(work))) == formula(work, "train step")


# ------------------------------------------------------------------------------------------- any train step

models = st.builds(
    lambda vocabulary, hidden, ff, layers, groups, heads, size, tied: ModelConfig(
        vocabulary, hidden, ff, layers, groups * heads, heads, size, tie_word_embeddings=tied
    ),
    st.sampled_from([37, 50]),
    st.sampled_from([1, 12, 20]),
    st.sampled_from([16, 22]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 2),
    st.sampled_from([4, 6]),
    st.booleans(),
)
updates = st.builds(
    Update,
    st.sampled_from(["adamw", "muon"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["constant", "cosine", "onecycle"]),
    st.booleans(),
)


def possible(work: Work) -> Work:
    """Returns the work with full weights if they train, or if a row cannot be cut into pairs for 4 bits."""
    impossible = work.train == "full" or work.model.hidden_size % 2
    return dataclasses.replace(work, weights="full") if impossible else work


works = st.builds(
    Work,
    models,
    st.integers(1, 3),
    st.sampled_from([1, 2, 7, 16, 21]),
    st.sampled_from([1, 2, 5, 40]),
    st.lists(st.sampled_from(PROJECTIONS), min_size=1, max_size=7, unique=True).map(tuple),
    st.sampled_from(["frozen", "alphabet"]),
    st.sampled_from(["adapters", "bias", "head", "full"]),
    st.sampled_from(["xla", "blocked"]),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    accumulate=st.integers(1, 2),
    dropout=st.booleans(),
    update=st.one_of(st.just(Update()), updates),
    stack_rank=st.sampled_from([0, 7]),
    narrow=st.booleans(),
    remat=st.booleans(),
    weights=st.sampled_from(["full", "int8", "nf4"]),
).map(possible)


@given(works, st.sampled_from([150, 2**26]))
@settings(max_examples=25, deadline=None)
def test_every_operation_of_a_train_step_is_in_the_formula(work, chunk_logits):
    """Whatever trains, in both types, with every optimiser, in chunks of a loss and blocks of attention."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(attention, "QUERY_BLOCK", 8)
        patched.setattr(loss, "CHUNK_LOGITS", chunk_logits)
        agree(work)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("targets", [(name,) for name in PROJECTIONS])
def test_only_reached_gradients_cost_anything(targets, dtype):
    """With a single layer: what lies before the first adapted projection has no gradient."""
    agree(Work(dataclasses.replace(SMALL, num_hidden_layers=1), 2, 5, 3, targets, dtype=dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("length", [8, 21])
def test_blocks_of_queries_look_at_no_more_keys_than_they_must(length, dtype, monkeypatch):
    """21 tokens are blocks of 8, 8 and 5; their gradients are added where they share keys and queries."""
    monkeypatch.setattr(attention, "QUERY_BLOCK", 8)
    work = Work(SMALL, 2, length, 3, ("k_proj", "down_proj"), kernel="blocked", dtype=dtype)
    agree(work)
    looked = table.count(work, "exact-all").by_component()["mask", "forward"]
    keys, pairs = {8: (8, 64), 21: (8 + 16 + 21, 64 + 128 + 105)}[length]
    assert looked == 2 * (2 * keys + 2 * 2 * pairs + 2 * 4 * pairs)  # layers x (keys, two comparisons, four heads' choice)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("targets", [("k_proj",), ("v_proj",), PROJECTIONS])
def test_what_stands_around_cudnn_s_attention_is_counted(targets, dtype, monkeypatch):
    let_cudnn_trace(monkeypatch)
    agree(Work(dataclasses.replace(SMALL, head_dim=8), 2, 16, 3, targets, kernel="cudnn", dtype=dtype))


@pytest.mark.parametrize("update", [Update(), Update("adamw", decay=True), Update("muon", clip=True)], ids=lambda u: u.name)
def test_each_kind_of_operation_is_counted_by_itself(update):
    """Additions, multiplications, exponentials, ...: not their sum alone."""
    train: Any = "adapters" if update.name == "adamw" else "bias"
    targets = ("q_proj", "k_proj", "up_proj")
    work = Work(SMALL, 2, 7, 3, targets, train=train, dtype="bfloat16", dropout=True, update=update, narrow=train != "bias")
    program = programs.train_program(work, model_of(work))
    found = placed(count_jaxpr(program.function, *program.arguments).tallies)
    values = table.symbols(work)
    for name in ("dot", *PRIMITIVES):
        alone = CONVENTIONS["exact-all"]._replace(
            weights={**dict.fromkeys(PRIMITIVES, 0), **({name: 1} if name != "dot" else {})}
        )
        sums: dict[tuple[str, str], int] = {}
        for row in (row for row in alone.rows if row.when not in table.GENERATION):
            own = row._replace(operations=tuple(one for one in row.operations if one[0] == name))
            where = row.component, row.phase
            sums[where] = sums.get(where, 0) + table.price(own, alone, values)
        assert {where: count for where, count in sums.items() if count} == {
            tuple(where): tally[name] for where, tally in found.items() if tally[name]
        }, name


# ------------------------------------------------------------------------------------------- other programs


def validation(work: Work) -> Program:
    variables = programs.variables_of(work, model_of(work))
    trained, frozen = overlay.split(variables, overlay.trainable(variables))
    windows = Windows(*(shape(work.batch, work.length) for _ in Windows._fields[:3]))
    step = make_validation_step(model_of(work), programs.output_ids(work), programs.how_of_work(work))
    return Program("validation", step, (trained, frozen, windows))


def likelihood(work: Work, function: Any) -> Program:
    windows = Windows(*(shape(work.batch, work.length) for _ in Windows._fields[:3]))
    model, variables = model_of(work), programs.variables_of(work, model_of(work))
    return Program("likelihood", lambda *given: function(model, *given), (variables, windows, shape(ALPHABET)))


def prefill(work: Work) -> Program:
    ids_A, model, prompts = programs.output_ids(work), model_of(work), shape(work.batch, work.length)

    def function(variables, ids_BT, positions_BT):
        return read_prompts(variables, ids_BT, positions_BT, None if ids_A is None else jnp.asarray(ids_A), model=model)

    return Program("prefill", function, (programs.variables_of(work, model), prompts, prompts))


readings = works.map(lambda work: dataclasses.replace(work, train="adapters", accumulate=1, dropout=False, update=Update()))


@given(readings, st.integers(1, 9))
@settings(max_examples=12, deadline=None)
def test_every_operation_of_a_forward_pass_is_in_the_formula(work, new_tokens):
    """The logits of all positions, a prompt's, one more token's behind it, a validation's loss, and both likelihoods."""
    alphabet = dataclasses.replace(work, head="alphabet", loss="tokens", narrow=False)
    vocabulary = dataclasses.replace(work, head="frozen", loss="both", narrow=False)
    shared = {"length": 1, "cache": work.length + new_tokens, "shared": work.length, "last_only": True}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(attention, "QUERY_BLOCK", 8)
        for program, counted, part in (
            (programs.forward_program(work, model_of(work)), work, "forward"),
            (prefill(work), dataclasses.replace(work, last_only=True), "forward"),
            (programs.decode_program(work, model_of(work), new_tokens), dataclasses.replace(work, **shared), "forward"),
            (validation(work), work, "loss"),
            (likelihood(alphabet, token_nll), alphabet, "loss"),
            (likelihood(vocabulary, _token_losses), vocabulary, "loss"),
        ):
            found = everything(program)
            last = found.pop(("sampling", "forward"), 0)  # where each prompt ends, which a generation's rows count
            assert last == (work.batch * (work.length - 1) if program.name == "prefill" else 0)
            assert found == formula(counted, part), program.name


def test_samples_look_at_their_prompt_once():
    """A decode step of three samples of two prompts: the prompts' slots are looked at twice, not six times."""
    work = Work(SMALL, 6, 1, 0, cache=16 + 4, shared=16, samples=3, last_only=True)
    model, c = model_of(work), work.model

    def segment(rows: int, slots: int) -> Any:
        parts = [(shape(rows, c.num_key_value_heads, *one, dtype=model.dtype),) * 2 for one in ((6, slots), (slots, 6))]
        return programs.Segment(*parts, shape(rows, slots))

    def function(variables, ids_B1, positions_B1, past):
        return read(model, variables, ids_B1, positions_B1, past)

    arguments = (programs.variables_of(work, model), shape(6, 1), shape(6, 1), (segment(2, 16), segment(6, 4)))
    found = everything(Program("decode", function, arguments))
    assert found == formula(work, "forward")
    assert found["mask", "forward"] == 2 * ((2 * 16 + 6 * 4 + 6) + 2 * 6 * 21 + 6 * 4 * 21)


@pytest.mark.parametrize(("series", "samples", "targets"), [(2, 3, ()), (3, 1, ("q_proj", "down_proj"))])
def test_a_decode_step_whose_prompt_and_tail_cudnn_attends_to(series, samples, targets, monkeypatch):
    """Its products, what counts the tokens, and what joins three parts of a softmax."""
    let_cudnn_trace(monkeypatch)
    config = dataclasses.replace(SMALL, head_dim=8)
    own = {"cache": 16 + 8, "shared": 16, "samples": samples, "last_only": True, "dtype": "bfloat16", "kernel": "cudnn"}
    work = Work(config, series * samples, 1, 3 if targets else 0, targets, **own)
    model, c = model_of(work), work.model

    def segment(rows: int, slots: int) -> Any:
        parts = (shape(rows, slots, c.num_key_value_heads, 8, dtype=model.dtype),) * c.num_hidden_layers
        return programs.Segment(parts, parts, shape(rows, slots))

    def function(variables, ids_B1, positions_B1, past):
        return read(model, variables, ids_B1, positions_B1, past)

    rows = shape(series * samples, 1)
    arguments = (programs.variables_of(work, model), rows, rows, (segment(series, 16), segment(series * samples, 8)))
    found = everything(Program("decode", function, arguments))
    assert found == formula(work, "forward")
    pairs = c.num_hidden_layers * c.num_attention_heads * series * samples * 24
    products = table.count(work, "exact").by_component("forward")["fused attention", "forward"]
    assert products == 2 * 2 * 8 * pairs


SAMPLERS = {
    "drawn": SamplingConfig(),
    "greedy": SamplingConfig(temperature=0.0),
    "top-k": SamplingConfig(top_k=5),
    "nucleus": SamplingConfig(top_p=0.9),
    "penalty": SamplingConfig(top_k=3, repetition_penalty=1.3),
}


@pytest.mark.parametrize(
    ("outputs", "ahead"),
    [(ALPHABET, 0), (ALPHABET, 1), (37, 0), (1100, 0)],
    ids=["grammar", "guesses", "vocabulary", "long vocabulary"],
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_generation_is_its_prefill_every_turn_of_its_stages_and_their_choices(sampler, outputs, ahead):
    """Three samples of two prompts of 64 tokens; 128 turns, each of a token, or of a token and a guess, in two stages."""
    sampling, constrained = SAMPLERS[sampler], outputs == ALPHABET
    config = dataclasses.replace(SMALL, vocab_size=max(37, outputs))
    work = Work(config, 2, 64, 3, head="alphabet" if constrained else "frozen", dtype="bfloat16")
    model, prompts, turns, tail = model_of(work), shape(2, 64), 128, 128 * (1 + ahead)
    keys = jax.eval_shape(lambda: generate.row_keys(0, range(2), 3))
    grammar = decode.Automaton(shape(5, ALPHABET, dtype=bool), shape(5, ALPHABET), shape(5)) if constrained else None
    rows = decode.Rows(prompts, prompts, keys, shape(2))
    given = (programs.variables_of(work, model), rows, grammar, shape(ALPHABET))
    how, loop = decode.Decoding(3, tail, sampling, steps=4), decode.Loop(turns, ahead, generate.stage(tail))
    function = functools.partial(decode.whole, model=model, how=how, loop=loop, end_ids=(1, 2))
    found = placed(count_jaxpr(function, *given, trips=turns // 2).tallies)

    expected = Counter(formula(dataclasses.replace(work, last_only=True), "forward"))
    step = dataclasses.replace(work, batch=6, length=1 + ahead, last_only=not ahead, shared=64, samples=3)
    for attended in (64 + tail // 2, 64 + tail):
        for where, count in formula(dataclasses.replace(step, cache=attended), "forward").items():
            expected[where] += 64 * count
    drawing = Drawing.of(sampling, outputs, 2, steps=True)
    choosing = table.choosing(dataclasses.replace(step, drawing=drawing, ahead=ahead), turns, 2, "exact-all")
    assert choosing > 0 == table.choosing(step, turns, 2, "exact-all")
    expected["sampling", "forward"] = choosing
    assert {tuple(where): tally.everything() for where, tally in found.items() if tally.everything()} == expected
    event = Event("generation", 2, 64, rank=3, targets=work.targets, head=work.head, dtype="bfloat16", samples=3,
                  drawing=drawing, **generate.decoding(64, loop, turns))  # fmt: skip
    assert event.flops(config, "exact-all") == sum(expected.values())


def test_runs_of_unequal_ranks_that_train_together_are_in_the_formula(random_model):
    """Padded to the largest rank; side by side they share RoPE's frequencies alone, and each has a learning rate's peak."""
    model, params = random_model(num_hidden_layers=2)
    sections = {"optimizer": {"name": "adamw", "clip_norm": 1.0}, "train": {"batch_size": 2}, "windows": {"length": 64}}
    configs = [
        build_config(RunConfig, {**sections, "lora": {"rank": rank, "targets": ["q", "down"], "head": "frozen"}})
        for rank in (2, 4, 7)
    ]
    stack, rows = Stack(model, params, configs), shape(3, 1, 2, 64)
    found = everything(Program("stack", stack.step(), (stack.state, stack.frozen, Windows(rows, rows, rows))))
    works = [billing.event_of(config, stack_rank=7).work(model.config) for config in configs]
    counted = [formula(work, "train step") for work in works]
    expected = {where: sum(one[where] for one in counted) for where in counted[0]}
    shared = 2 * 5 * model.config.head_dim // 2
    assert found.pop(("rope", "forward")) == expected.pop(("rope", "forward")) - shared
    assert found.pop(("optimiser", "forward")) == expected.pop(("optimiser", "forward")) + 3 * 3
    assert found == expected


# ------------------------------------------------------------------------------------------- by hand


def test_the_feed_forward_s_activation_by_hand():
    """SiLU(gate) * up of 2 x 7 tokens and 22 numbers in two layers: a sigmoid is 4 operations, then two products. Backward
    the sigmoid is formed again, 1 - sigmoid and two products more; the gradients take 5 products and an addition.
    """
    found = table.count(Work(SMALL, 2, 7, 3), "exact-all").by_component()
    numbers = 2 * 2 * 7 * 22
    assert found["activation", "forward"] == 6 * numbers
    assert found["activation", "recomputed"] == 7 * numbers
    assert found["activation", "backward"] == 6 * numbers


def test_muon_orthogonalises_matrices_by_five_iterations_of_three_products():
    """Two adapters of rank 3 on q, 12 to 24 numbers, in each of two layers: A is 3 x 12 and B 24 x 3."""
    work = Work(SMALL, 2, 7, 3, ("q_proj",))
    adam, muon = (table.count(dataclasses.replace(work, update=Update(name)), "exact") for name in ("adam", "muon"))
    products = {size: 2 * (2 * 3 * 3 * size + 3 * 3 * 3) for size in (12, 24)}  # X X^T and its use, and A A
    assert muon.total_train_step - adam.total_train_step == 2 * 5 * sum(products.values())
    assert muon.by_component()["optimiser", "forward"] == 2 * 5 * sum(products.values())


def test_an_optimiser_runs_once_for_all_micro_batches():
    work = Work(SMALL, 2, 7, 3, ("q_proj",), update=Update("muon"))
    once, thrice = (table.count(dataclasses.replace(work, accumulate=times), "exact") for times in (1, 3))
    muon = once.by_component()["optimiser", "forward"]
    assert thrice.total_train_step == 3 * (once.total_train_step - muon) + muon
    rule = [table.count(dataclasses.replace(work, accumulate=times), "coursework").total_train_step for times in (1, 3)]
    assert rule[1] == 3 * rule[0]


def test_types_matter_by_their_conversions_alone():
    """In bfloat16 the embedding, the residuals and the activation have what they have in float32; norms convert twice."""
    wide, narrow = (
        table.count(Work(SMALL, 2, 7, dtype=dtype), "exact-all").by_component() for dtype in ("float32", "bfloat16")
    )
    for component in ("embedding", "residuals", "activation"):
        assert wide[component, "forward"] == narrow[component, "forward"]
    assert narrow["norms", "forward"] - wide["norms", "forward"] == 5 * 2 * 2 * 7 * 12  # five norms of 14 x 12 numbers


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_operation_of_the_half_billion_model_is_in_the_formula(dtype):
    agree(Work(FAMILY["qwen2.5-0.5b"], 4, 512, 8, dtype=dtype))
