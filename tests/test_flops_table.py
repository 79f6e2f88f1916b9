"""The conventions: every integer and stated figure of the four papers, and what `exact` means."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jaxlv.errors import JaxlvError
from jaxlv.flops import table
from jaxlv.flops.conventions import CONVENTIONS
from jaxlv.flops.work import Update, Work, symbols
from jaxlv.model.config import ModelConfig
from jaxlv.steps.decode import Loop
from jaxlv.steps.generate import decoding, stage

QWEN = ModelConfig(151_936, 896, 4864, 24, 14, 2, 64, tie_word_embeddings=True)
BUDGET = 10**17


def work(length: int = 512, rank: int = 8, batch: int = 4, **more) -> Work:
    return Work(QWEN, batch, length, rank, **more)


def step(convention: str, *args, **more) -> int:
    return table.count(work(*args, **more), convention).total_train_step


def forward(convention: str, *args, **more) -> int:
    return table.count(work(*args, **more), convention).total_forward


# ------------------------------------------------------------------------------------- one step at four prices

STEPS = {  # (length, rank): step at batch 4 under xu, xu-text, rai, rai-table, mao, liu (1 row), liu (4), exact, with head
    (128, 2): (1.4306e12, 1.6397e12, 1.6372e12, 1.6394e12, 1.8960e12, 3.0899e11, 1.2346e12, 1.02778e12, 1.16718e12),
    (128, 4): (1.4311e12, 1.6402e12, 1.6377e12, 1.6399e12, 1.8962e12, 3.0945e11, 1.2350e12, 1.02819e12, 1.16759e12),
    (128, 8): (1.4322e12, 1.6413e12, 1.6387e12, 1.6409e12, 1.8965e12, 3.1037e11, 1.2359e12, 1.02902e12, 1.16842e12),
    (512, 2): (5.9347e12, 6.7711e12, 6.7539e12, 6.7699e12, 8.0002e12, 1.2896e12, 5.1572e12, 4.31265e12, 4.87026e12),
    (512, 4): (5.9368e12, 6.7732e12, 6.7560e12, 6.7720e12, 8.0009e12, 1.2901e12, 5.1577e12, 4.31430e12, 4.87191e12),
    (512, 8): (5.9411e12, 6.7775e12, 6.7603e12, 6.7762e12, 8.0023e12, 1.2910e12, 5.1586e12, 4.31759e12, 4.87520e12),
    (768, 2): (9.1145e12, 1.0369e13, 1.0336e13, 1.0367e13, 1.2416e13, 1.9893e12, 7.9560e12, 6.67051e12, 7.50692e12),
    (768, 4): (9.1177e12, 1.0372e13, 1.0339e13, 1.0370e13, 1.2418e13, 1.9898e12, 7.9564e12, 6.67298e12, 7.50939e12),
    (768, 8): (9.1240e12, 1.0379e13, 1.0346e13, 1.0377e13, 1.2420e13, 1.9907e12, 7.9573e12, 6.67791e12, 7.51433e12),
}


@pytest.mark.parametrize(("length", "rank"), STEPS)
def test_every_report_s_price_of_a_step(length, rank):
    *reports, liu_one, liu_four, exact, with_head = STEPS[length, rank]
    names = ("xu", "xu-text", "rai", "rai-table", "mao")
    for name, stated in zip(names, reports, strict=True):
        assert f"{step(name, length, rank):.4e}" == f"{stated:.4e}", name
    assert f"{step('liu', length, rank, batch=1):.4e}" == f"{liu_one:.4e}"
    assert f"{step('liu', length, rank):.4e}" == f"{liu_four:.4e}"
    assert f"{step('exact', length, rank):.5e}" == f"{exact:.5e}"
    assert f"{step('exact', length, rank, head='trained'):.5e}" == f"{with_head:.5e}"


def test_the_exact_integers():
    assert forward("exact") == 2_115_674_046_464
    assert step("exact") == 4_317_591_371_776
    assert step("exact", head="trained") == 4_875_198_922_752
    assert step("exact", train="full") == 6_347_022_139_392
    assert step("exact", rank=0, train="full") == 6_340_378_361_856


def test_the_assignment_s_rule_to_the_last_digit():
    assert forward("coursework") == 2_259_662_921_968
    assert step("coursework") == 6_778_988_765_904
    assert step("coursework", 128) == 1_641_436_539_600


def test_xu_s_logged_forward_passes():
    logged = [forward("xu", 128, 8), forward("xu", 128, 2), forward("xu", 512, 8), forward("xu", 768, 8)]
    assert logged == [477_384_013_824, 476_855_678_976, 1_980_352_684_032, 3_041_345_654_784]


def test_named_corrections_bring_the_reports_together():
    """Each paper with one correction: its own text, its own table, the model's head size, all four rows and a head."""
    liu = 4 * step("liu", rank=0, batch=1)
    adapters = step("liu", batch=1) - step("liu", rank=0, batch=1)
    head = table.price(row_of("coursework", "head"), without_adds("coursework"), symbols(work()))
    corrected = {
        "xu-text": step("xu-text"),
        "rai-table": step("rai-table"),
        "mao-hd64": step("mao-hd64"),
        "liu": liu + adapters + 3 * head,
    }
    assert corrected["mao-hd64"] == 6_784_361_899_404
    assert corrected["liu"] == 6_830_480_170_368
    spread = max(corrected.values()) / min(corrected.values()) - 1
    assert 0.0079 < spread < 0.0081


def row_of(convention: str, component: str) -> table.Row:
    return next(row for row in CONVENTIONS[convention].rows if row.component == component)


def without_adds(convention: str):
    chosen = CONVENTIONS[convention]
    return chosen._replace(weights={**chosen.weights, "add": 0})


# ---------------------------------------------------------------------------------------------- stated figures


def test_xu_s_runs():
    assert f"{forward('xu'):.2e}" == "1.98e+12"
    assert f"{step('xu'):.2e}" == "5.94e+12"
    assert f"{1000 * step('xu', 128):.3e}" == "1.432e+15"
    assert f"{1000 * step('xu', 768):.3e}" == "9.124e+15"  # his paper says 9.10e15
    assert f"{1000 * step('xu'):.3e}" == "5.941e+15"
    assert f"{5892 * step('xu'):.3e}" == "3.500e+16"  # the logged steps; his paper says 5,500
    assert f"{5500 * step('xu'):.3e}" == "3.268e+16"


@pytest.mark.parametrize(
    ("steps", "length", "rank", "evaluated", "percent"),
    [
        (600, 512, 2, 300, "4.2212"),
        (600, 512, 4, 300, "4.22252"),
        (600, 512, 8, 300, "4.22516"),
        (600, 512, 2, 0, "4.0524"),
        (600, 512, 4, 0, "4.0536"),
        (600, 512, 8, 0, "4.0562"),
        (600, 128, 8, 300, "1.02421"),
        (600, 768, 8, 300, "6.46607"),
        (6000, 768, 8, 200, "62.247"),
    ],
)
def test_rai_s_percentages_with_exp_at_1(steps, length, rank, evaluated, percent):
    """Each run trains for so many steps and then evaluates whole sequences, each at the price of a forward pass."""
    spent = steps * step("rai", length, rank) + evaluated * forward("rai", length, rank, batch=1)
    digits = len(percent.partition(".")[2])
    assert f"{100 * spent / BUDGET:.{digits}f}" == percent


def test_rai_s_evaluations():
    assert f"{300 * forward('rai', 512, batch=1):.3e}" == "1.690e+14"
    assert f"{520 * forward('rai', 499, rank=0, batch=1):.3e}" == "2.848e+14"  # no cache, contrary to his text


def test_mao_s_most_steps_within_the_budget():
    stated = {
        (128, 2): 52_743, (128, 4): 52_738, (128, 8): 52_728,
        (512, 2): 12_500, (512, 4): 12_499, (512, 8): 12_496,
        (768, 2): 8_054, (768, 4): 8_053, (768, 8): 8_052,
    }  # fmt: skip
    assert {key: round(BUDGET / step("mao", *key)) for key in stated} == stated


def test_mao_s_phases():
    first = 1000 * step("mao", 512, 4)
    grid = 500 * sum(3 * step("mao", 512, rank) for rank in (2, 4, 8))
    contexts = 500 * sum(step("mao", length, 8) for length in (128, 512, 768))
    shares = [f"{100 * spent / BUDGET:.3f}" for spent in (first, grid, contexts)]
    assert shares == ["8.001", "36.005", "11.159"]
    assert int(0.4001 * BUDGET / step("mao", 768, 8)) == 3221  # his paper says about 3,000 steps


LIU_TABLE_4 = {  # (rank, length): stated. No convention gives it: one step of the base plus 5,000 steps of adapters
    (2, 128): 2.62e12,
    (4, 512): 5.91e12,
    (8, 768): 1.12e13,
}


@pytest.mark.parametrize(("rank", "length"), LIU_TABLE_4)
def test_liu_s_table_4_mixes_one_step_with_5000(rank, length):
    base = step("liu", length, rank=0, batch=1)
    adapters = step("liu", length, rank, batch=1) - base
    assert f"{base + 5000 * adapters:.2e}" == f"{LIU_TABLE_4[rank, length]:.2e}"
    assert step("liu", length, rank, batch=1) < LIU_TABLE_4[rank, length] / 4


# ------------------------------------------------------------------------------------------------- generation


def test_decoding_one_token():
    """Frozen projections and head 987,922,432; adapters 1,081,344; attention over all slots of a cache of 1024."""
    attention = 2 * 2 * 24 * 14 * 64 * 1024
    one = work(1, 8, batch=1)
    own = 2 * 2 * 24 * 14 * 64  # the new token sees itself
    assert table.decode(one, 1024, "exact") == 987_922_432 + 1_081_344 + attention + own
    assert f"{attention / 1e6:.1f}" == "88.1"


def test_a_token_of_the_cache_costs_the_sheet_s_price_of_a_key_and_a_value():
    """In each head of a layer: D products and D - 1 sums of a score, its scale, its mask, its share of the softmax at 10 + 1
    + 1, and D products and D sums of the weighted values.
    """
    one = work(1, 8, batch=1)
    each = (2 * 64 - 1) + 1 + 1 + 12 + 2 * 64
    assert table.decode(one, 11, "coursework") - table.decode(one, 10, "coursework") == 24 * 14 * each


def test_decoding_takes_the_same_products_under_the_fused_kernel_and_less_around_them():
    """What the kernel does by itself is not known; a type that it does not take is decoded as without it."""
    for dtype, sign in (("bfloat16", 1), ("float32", 0)):
        plain, fused = (work(1, 8, batch=2, kernel=kernel, dtype=dtype) for kernel in ("xla", "cudnn"))
        assert table.decode(fused, 100, "exact") == table.decode(plain, 100, "exact")
        assert np.sign(table.decode(plain, 100, "exact-all") - table.decode(fused, 100, "exact-all")) == sign


def test_the_fused_kernel_forms_its_scores_again_on_the_way_back():
    """Two products forward; backward the scores again, and the gradients of the weights, values, queries and keys."""
    plain, fused = (table.count(work(batch=1, train="full", kernel=kernel), "exact") for kernel in ("xla", "cudnn"))
    product = 2 * 24 * 14 * 512 * 512 * 64
    assert fused.total_forward == plain.total_forward
    assert fused.total_train_step - plain.total_train_step == product


def test_a_generation_with_and_without_a_cache():
    prompt = work(600, 8, batch=1)
    assert f"{table.prefill(prompt, 'exact'):.2e}" == "4.61e+11"
    assert f"{forward('exact', 600, batch=1):.2e}" == "6.24e+11"
    with_cache = table.generation(prompt, 600, "exact", slots=1200)
    assert 1.0e12 < with_cache < 1.2e12
    without = table.generation(prompt, 600, "exact", cached=False)
    assert 4.2e14 < without < 4.4e14
    assert table.generation(prompt, 600, "exact") < with_cache


def test_a_cache_that_grows_in_stages():
    """Each token attends to the slots of its stage, also if the loop ends within one."""
    prompt = work(100, 8, batch=2)
    first, second, last = (table.decode(prompt, 100 + slots, "exact") for slots in (64, 128, 150))
    read = table.prefill(prompt, "exact")
    assert table.generation(prompt, 150, "exact", slots=250, stage=64) == read + 64 * first + 64 * second + 22 * last
    assert table.generation(prompt, 70, "exact", slots=250, stage=64) == read + 64 * first + 6 * second
    assert table.generation(prompt, 30, "exact", slots=250, stage=64) == read + 30 * first
    assert table.generation(prompt, 150, "exact", slots=250) == read + 150 * last


def test_each_token_attends_to_all_before_it():
    """Three tokens after ten: with a cache that grows by one, and by passes over the whole text."""
    prompt = work(10, 8, batch=2)
    grown = sum(table.decode(prompt, cache, "exact") for cache in (10, 11, 12))
    assert table.generation(prompt, 3, "exact") == table.prefill(prompt, "exact") + grown
    whole = sum(table.prefill(work(length, 8, batch=2), "exact") for length in (10, 11, 12))
    assert table.generation(prompt, 3, "exact", cached=False) == whole
    assert decoding(10, Loop(3, 0, stage(3)), 3) == {"new_tokens": 3, "slots": 13, "stage": stage(3), "ahead": 0}


def test_a_turn_with_a_guess_reads_two_tokens_and_has_logits_at_both():
    """Two prompts of 100 tokens with three rows each; 40 turns are 80 slots in stages of 64: 32 turns, then 8."""
    prompt = dataclasses.replace(work(100, 8, batch=2), ahead=1, kernel="cudnn", head="alphabet")
    turn = dataclasses.replace(prompt, batch=6, length=2, shared=100, samples=3, kernel="xla")  # guesses leave gaps
    first, second = (table.forward(dataclasses.replace(turn, cache=100 + slots), "exact") for slots in (64, 80))
    read = table.prefill(prompt, "exact")
    assert table.generation(prompt, 40, "exact", slots=180, stage=64, samples=3) == read + 32 * first + 8 * second
    assert table.generation(prompt, 40, "exact", slots=180, samples=3) == read + 40 * second
    assert [one.kernel for one, _ in table.passes(prompt, 40, 180, 64, 3)] == ["cudnn", "xla", "xla"]
    token = table.forward(dataclasses.replace(turn, length=1, last_only=True, cache=164), "exact")
    assert 2 * token < first < 2.1 * token  # two tokens, and what they attend to in each other


def test_samples_share_the_prompt():
    prompt = work(100, 8, batch=2)
    alone = table.generation(prompt, 10, "exact", slots=110)
    many = table.generation(prompt, 10, "exact", slots=110, samples=5)
    assert many - alone == 4 * (alone - table.prefill(prompt, "exact"))


# ------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_rows_add_up(convention):
    counted = table.count(work(128), convention)
    assert sum(row.count for row in counted.rows) == counted.total_train_step
    assert all(isinstance(row.count, int) and row.count >= 0 for row in counted.rows)


@pytest.mark.parametrize("convention", [name for name, c in CONVENTIONS.items() if c.backward == "twice"])
def test_backward_is_twice_forward(convention):
    counted = table.count(work(128), convention)
    forward = sum(row.count for row in counted.rows if row.phase == "forward")
    assert counted.total_train_step == 3 * forward


def test_hf_is_six_times_parameters_times_tokens():
    adapters = 24 * 8 * ((896 + 896) + (896 + 128))
    assert step("hf") == 6 * (494_032_768 - 136_134_656 + adapters) * 2048


def test_only_what_trains_costs_a_backward_pass():
    """2 P + 3 A + 3 R, with the trained head's product once more, minus what layer 0 never forms."""
    counted = table.count(work(), "exact").by_component()
    linear = ("k_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    layers = 23 / 24
    assert counted["k_proj", "backward"] == layers * counted["k_proj", "forward"]
    for name in linear[1:]:
        assert counted[name, "backward"] == counted[name, "forward"]
    assert counted["head", "backward"] == counted["head", "forward"]
    assert table.count(work(head="trained"), "exact").by_component()["head", "backward"] == 2 * counted["head", "forward"]


def test_a_head_over_the_alphabet_has_13_columns():
    assert forward("exact") - forward("exact", head="alphabet") == 2 * 2048 * 896 * (151_936 - 13)


@pytest.mark.parametrize(("batch", "length"), [(4, 512), (3, 131), (2, 320)])
def test_the_loss_runs_the_head_once_for_each_token(batch, length):
    counted = table.count(work(length, batch=batch), "exact").by_component()
    assert counted["head", "forward"] == counted["head", "backward"] == 2 * batch * length * 896 * 151_936
    assert not any(component.endswith(table.PADDING) for component, _ in counted)


def test_muon_s_products_are_billed():
    """Batch 4 x 512, rank 8, the head trained too: half as much again as the model's own products."""
    assert step("exact", train="head", update=Update("muon")) == 7_322_012_188_672
    assert step("exact", train="head") == step("exact", train="head", update=Update("adamw", clip=True)) == 4_875_198_922_752
    assert step("coursework", update=Update("muon")) == step("coursework")


STACKS = {  # (ranks, targets): (own, executed) of a step of all
    ((2, 4, 64), ("q", "v")): (14_479_360, 20_413_440),
    ((1, 256), ("q", "v")): (19_883_520, 32_286_720),
    ((2, 8), ("q", "v", "down")): (8_238_080, 8_751_104),
}


@pytest.mark.parametrize(("ranks", "targets"), STACKS)
def test_ranks_of_a_stack_are_billed_as_padded_to_the_largest(ranks, targets):
    """Padding has rows of its own; other conventions price the rank that a run has."""
    model, largest = ModelConfig(97, 40, 56, 2, 4, 2, 10, tie_word_embeddings=True), max(ranks)
    works = [Work(model, 2, 16, rank, targets, stack_rank=largest) for rank in ranks]
    counted = [table.count(one, "exact") for one in works]
    own, executed = STACKS[ranks, targets]
    assert sum(one.total_train_step for one in counted) == executed
    assert sum(one.padding for one in counted) == executed - own
    alone = [dataclasses.replace(one, stack_rank=0) for one in works]
    assert sum(table.count(one, "exact").total_train_step for one in alone) == own
    padded = {component for component, _ in counted[0].by_component() if component.endswith(table.PADDING)}
    assert padded == {f"{name}_proj lora {part}{table.PADDING}" for name in targets for part in "AB"}
    assert counted[0].by_component(merged=True) == table.count(works[0].executed(), "exact").by_component()
    assert [step_of(one, "coursework") for one in works] == [step_of(one, "coursework") for one in alone]


def step_of(work: Work, convention: str) -> int:
    return table.count(work, convention).total_train_step


def test_unknown_names_and_sizes_are_refused():
    with pytest.raises(JaxlvError, match="unknown convention"):
        table.count(work(), "gpt")
    with pytest.raises(JaxlvError, match="unknown projection"):
        work(targets=("x_proj",))
    with pytest.raises(JaxlvError, match="batch must be at least 1"):
        work(batch=0)


def test_every_formula_names_known_symbols_only():
    known = symbols(dataclasses.replace(work(), cache=3))
    for convention in CONVENTIONS.values():
        for row in convention.rows:
            assert table.price(row, convention, known) >= 0
