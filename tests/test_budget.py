"""Runs under a budget: what they may spend, how they stop, and that the ledger knows everything that they did."""

from __future__ import annotations

import json
import shutil
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_run import Interruption, change, config, losses, train  # noqa: F401 - `config` is a fixture

import jaxlv
from jaxlv.config import BudgetConfig, RunConfig, load_config, to_toml
from jaxlv.errors import JaxlvError, JaxlvWarning
from jaxlv.flops import ledger, plan, table
from jaxlv.flops.family import FAMILY
from jaxlv.flops.ledger import BudgetExceeded, Event, Ledger
from jaxlv.flops.work import Update
from jaxlv.forecasting.request import Request
from jaxlv.model.config import ModelConfig
from jaxlv.runs import billing, run, sources, training
from jaxlv.runs.checkpoint import Checkpoints
from jaxlv.runs.member import Job, Member, reserve
from jaxlv.steps import train as stepping
from jaxlv.text.grammar import most_turns, number_grammar
from jaxlv.tools import cli
from tests.faults.instants import Instants

PLENTY = 10**12
FREE = {"validate_every": 0, "steps": 6}


def budgeted(config: RunConfig, flops: float, **more) -> RunConfig:  # noqa: F811
    return change(config, budget={"flops": float(flops), **more})


def spent(folder: Path) -> ledger.Totals:
    return ledger.totals(ledger.read(folder / run.LEDGER)[1])


@pytest.fixture(scope="module")
def price(config) -> int:  # noqa: F811
    """Returns the price of one train step."""
    inputs = sources.load_inputs(config)
    return billing.event_of(config).flops(inputs.model.config, "exact")


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> Path:  # noqa: F811
    """A run that its budget holds."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(budgeted(config, PLENTY), folder)
    return folder


def test_everything_that_a_run_does_is_in_its_ledger(whole, price):
    terms, entries = ledger.read(whole / run.LEDGER)
    assert terms.budget == PLENTY
    kinds = [(entry.event.kind, entry.event.step, entry.event.count) for entry in entries]
    assert kinds == [
        ("train_step", 0, 1), ("train_step", 1, 1), ("validation", 2, 2), ("generation", 2, 1),
        ("train_step", 2, 1), ("train_step", 3, 1), ("validation", 4, 2), ("generation", 4, 1),
        ("train_step", 4, 1), ("validation", 5, 2), ("generation", 5, 1),
    ]  # fmt: skip
    assert all(entry.committed for entry in entries)
    assert sum(entry.flops for entry in entries if entry.event.kind == "train_step") == 5 * price
    assert ledger.verify(whole / run.LEDGER) == []


def test_the_plan_of_a_run_is_what_it_reserves(whole, config):  # noqa: F811
    """Every step, every validation, the last one too, and every forecast at its longest."""
    model, reserved = sources.load_inputs(config).model.config, Counter()
    for entry in ledger.read(whole / run.LEDGER)[1]:
        reserved[entry.event.kind] += entry.asked
    planned: Counter[str] = Counter()
    for part in plan.training(config, billing.event_of(config), 24):
        for event in part.events:
            planned[event.kind] += event.flops(model, "exact")
    assert planned == reserved
    assert plan.training(change(config, train={"steps": 4}), billing.event_of(config), 24)[1].name == "2 validations"


def of_kind(events: list[Event]) -> dict[str, int]:
    """{kind: how many of its steps, batches or generations}."""
    found: dict[str, int] = {}
    for event in events:
        found[event.kind] = found.get(event.kind, 0) + event.count
    return found


@pytest.mark.parametrize("settings", [{}, {"validate_every": 5}, {"forecast_series": 0}, {"validate_every": 0}], ids=str)
def test_a_plan_is_what_the_run_does(settings, config, whole, tmp_path):  # noqa: F811
    """A validation of the last step included, though it is not due; its three windows are two batches."""
    planned_config = change(config, train=settings)
    folder = whole if not settings else tmp_path / "r"
    if settings:
        train(budgeted(planned_config, PLENTY), folder)
    terms, entries = ledger.read(folder / run.LEDGER)
    done = [entry.event for entry in entries]
    planned = [e for phase in plan.training(planned_config, billing.event_of(planned_config), 24) for e in phase.events]
    assert of_kind([e for e in planned if e.count]) == of_kind(done)
    for kind in ("train_step", "validation"):
        ours, theirs = (
            sum(event.flops(terms.model, "exact") for event in events if event.kind == kind) for events in (planned, done)
        )
        assert ours == theirs
    drawn = [replace(event, count=1, step=0) for event in planned if event.kind == "generation" and event.count]
    assert all(event.new_tokens <= drawn[0].new_tokens for event in done if event.kind == "generation")
    assert {replace(e, step=0, new_tokens=drawn[0].new_tokens) for e in done if e.kind == "generation"} == set(drawn)


def test_a_plan_of_an_evaluation_by_hand(config):  # noqa: F811
    """Five series in batches of two, from 7 steps (70 tokens, a prompt of 128) over 4: 48 tokens at most, drawn in 33 turns
    of a token and a guess, which have room in 128 slots.
    """
    chosen = change(config, evaluate={"context": 7, "horizon": 4, "batch_series": 2, "samples": 3, "unmasked_samples": 2})
    event = billing.event_of(chosen)
    found = {phase.name.partition(" of ")[0].partition(",")[0]: phase.events for phase in plan.phases(chosen, event, 5, 24)}
    drawn, bare = found["evaluation"]
    shape = {"batch": 2, "length": 128, "count": 3, "samples": 3, "new_tokens": 33, "slots": 256, "stage": 64, "ahead": 1}
    assert {name: getattr(drawn, name) for name in shape} == shape
    assert (drawn.head, drawn.rank, bare.rank, bare.targets) == ("alphabet", 4, 0, ())
    assert replace(bare, rank=drawn.rank, targets=drawn.targets) == drawn
    free, free_bare = found["the same"]
    assert (free.samples, free.head, free_bare.rank, free.new_tokens, free.ahead) == (2, "frozen", 0, 48, 0)
    read, read_bare = found["likelihood"]
    assert (read.kind, read.length, read.count, read.new_tokens, read_bare.rank) == ("validation", 128, 3, 0, 0)
    slow = found["the evaluation without a cache (not run)"]
    assert [(event.cached, event.new_tokens, event.ahead) for event in slow] == [(False, 48, 0)] * 2


def test_forecasts_of_a_validation_are_planned_from_its_own_context(config):  # noqa: F811
    own = change(config, train={"forecast_context": 13, "forecast_horizon": 20, "forecast_series": 3})
    _, drawn = plan.validation(own, billing.event_of(own), 24)
    assert (drawn.batch, drawn.length, drawn.samples) == (3, 192, 1)
    assert drawn.new_tokens == most_turns(number_grammar(2, 2, 2), 11 * 2 * 6)  # the series end


SMALL = ModelConfig(32, 16, 16, 1, 2, 1, 8)


@pytest.mark.parametrize("convention", ["exact", "coursework"])
def test_the_price_of_an_event_by_its_parts(convention):
    """Steps of micro-batches; a validation is a forward pass and its loss; a generation reads each prompt once."""
    step = Event("train_step", 2, 12, rank=3, targets=("q_proj",))
    one = table.count(step.work(SMALL), convention)
    assert step.flops(SMALL, convention) == one.total_train_step
    assert replace(step, count=5, accumulate=3, step=7).flops(SMALL, convention) == 15 * one.total_train_step
    validation = step.of_kind("validation", count=4).flops(SMALL, convention)
    assert (
        validation == 4 * one.total_loss == 4 * one.total_forward < 4 * one.total_train_step
    )  # by these rules a loss is free
    draw = replace(step, kind="generation", samples=3, new_tokens=10, slots=22, stage=8)
    work = draw.work(SMALL)
    read, rows = table.prefill(work, convention), replace(work, batch=6)
    decoded = 8 * table.decode(rows, 12 + 8, convention) + 2 * table.decode(rows, 22, convention)
    assert draw.flops(SMALL, convention) == read + decoded  # two stages, of which the second ends at all slots
    growing = sum(table.prefill(replace(rows, length=12 + i), convention) for i in range(10))
    assert replace(draw, cached=False).flops(SMALL, convention) == growing


def test_an_event_of_an_older_version_is_priced_as_it_was():
    """2 x 320 tokens at rank 5: its loss ran the head at 768 of them, forward and for the gradient of its input."""
    qwen = FAMILY["qwen2.5-0.5b"]
    tree = {"kind": "train_step", "batch": 2, "length": 320, "rank": 5, "targets": ["q_proj", "v_proj"]}
    old, new = Event.from_tree(tree), Event.from_tree({**tree, "loss": "summed"})
    assert old.flops(qwen, "exact") == 1_386_687_823_872
    assert new.flops(qwen, "exact") == 1_316_986_880_000
    assert old.padding(qwen, "exact") == 2 * 2 * 128 * 896 * 151_936 and new.padding(qwen, "exact") == 0
    assert old.flops(qwen, "coursework") == new.flops(qwen, "coursework")
    assert replace(old, kind="generation", new_tokens=1).padding(qwen, "exact") == 0
    assert old.tree() == tree | {"targets": ("q_proj", "v_proj")} and new.tree() == old.tree() | {"loss": "summed"}


def test_what_an_event_says_comes_back_from_its_file():
    update = Update("muon", True, True, True, "cosine", True)
    event = Event("train_step", 2, 12, 3, 4, 5, ("q_proj",), "alphabet", "bias", "blocked", 6, dtype="bfloat16",
                  dropout=True, update=update, stack_rank=7)  # fmt: skip
    assert Event.from_tree(json.loads(json.dumps(event.tree()))) == event
    assert "update" not in replace(event, update=Update()).tree()
    assert replace(event, update=Update("adamw", clip=True)).tree()["update"] == {"name": "adamw", "clip": True}
    with pytest.raises(JaxlvError, match="name"):
        Event.from_tree(event.tree() | {"update": {"name": "sgd"}})
    drawn = Event("generation", 2, 64, samples=3, new_tokens=32, slots=128, stage=64, loss="flat")
    assert "ahead" not in drawn.tree() and Event.from_tree(drawn.tree() | {"ahead": 1}) == replace(drawn, ahead=1)
    with pytest.raises(JaxlvError, match="impossible sizes"):
        Event.from_tree(drawn.tree() | {"ahead": 2})  # no turn reads so many guesses
    with pytest.raises(JaxlvError, match="impossible sizes"):
        Event.from_tree(drawn.tree() | {"new_tokens": 2**39, "slots": 2**39, "stage": 1})  # each stage would be priced


def test_work_is_paid_as_far_as_it_ran(tmp_path):
    """What a generation did not need is free again, for other work of the same phase too."""
    draw = Event("generation", 2, 16, samples=3, new_tokens=10, slots=26)
    most, four = (replace(draw, new_tokens=count).flops(SMALL, "exact") for count in (10, 4))
    with ledger.Ledger(tmp_path / "ledger.jsonl", ledger.Terms(2 * most, "exact", SMALL)) as book:
        meter = ledger.Meter(book, "final", replace(draw, kind="train_step", new_tokens=0), run="other")
        with meter.spend("generation", new_tokens=10) as measured:
            assert book.left("final") == most
            measured["new_tokens"] = 4
        assert book.left("final") == 2 * most - four
        (entry,) = book.entries
        assert (entry.run, entry.event.new_tokens, entry.flops, entry.committed) == ("other", 4, four, True)
    assert ledger.read(tmp_path / "ledger.jsonl")[1] == [entry]


def test_a_block_of_steps_that_is_broken_off_is_paid_as_far_as_it_went(config, tmp_path):  # noqa: F811
    """Steps after step 4 are reserved together; those up to the given step are paid, and a second time nothing."""
    event = billing.event_of(config)
    one = event.flops(SMALL, "exact")
    with ledger.Ledger(tmp_path / "ledger.jsonl", ledger.Terms(9 * one, "exact", SMALL)) as book:
        member = Member(Job(config, tmp_path, None), print)  # type: ignore[arg-type]
        member.meter = ledger.Meter(book, "final", event)
        assert reserve([member], 4, 5)
        assert book.left("final") == 4 * one
        assert [step for step in range(12) if member.is_paid(step)] == list(range(10))
        member.commit(7)  # within the block
        assert not book.entries[0].committed
        assert reserve([member], 9, 2)  # the next one, while the last step of this one runs
        assert [step for step in range(14) if member.is_paid(step)] == list(range(12))
        member.commit(7, ended=True)
        assert (book.entries[0].event.step, book.entries[0].event.count) == (4, 3)
        assert (book.entries[1].event.step, book.entries[1].event.count) == (9, 0)
        assert book.left("final") == 6 * one and not member.blocks
        member.commit(9, ended=True)
        assert book.left("final") == 6 * one and not member.is_paid(8)
    assert ledger.verify(book.path) == []


def test_runs_that_share_a_purse_reserve_what_it_holds_for_all(config, tmp_path):  # noqa: F811
    """Seven steps are three for each of two runs; of another phase, two are left to the third."""
    event = billing.event_of(config)
    one = event.flops(SMALL, "exact")
    terms = ledger.Terms(12 * one, "exact", SMALL, envelopes={"grid": 7 * one, "final": 2 * one})
    with ledger.Ledger(tmp_path / "ledger.jsonl", terms) as book:
        members = [Member(Job(config, tmp_path / name, None), print) for name in "abc"]  # type: ignore[arg-type]
        for member, phase in zip(members, ("grid", "grid", "final"), strict=True):
            (tmp_path / member.folder.name).mkdir()
            member.meter = ledger.Meter(book, phase, event, member.folder.name)
        assert reserve(members[:2], 0, 5)
        assert [(e.run, e.event.count) for e in book.entries] == [("a", 3), ("b", 3)]
        assert reserve(members[2:], 0, 5)
        assert book.entries[-1].event.count == 2
        assert not reserve(members[1:], 3, 1) and len(book.entries) == 3


def test_totals_by_hand(tmp_path):
    """Three steps and their repeat behind step 1 are four steps; what is open counts as spent, and by its own price."""
    step = Event("train_step", 2, 12)
    draw = Event("generation", 2, 16, samples=3, new_tokens=10, slots=26)
    one, other = (event.flops(SMALL, "exact") for event in (step, draw))
    assert one != other
    with ledger.Ledger(tmp_path / "ledger.jsonl", ledger.Terms(10**9, "exact", SMALL)) as book:
        book.commit(book.reserve(replace(step, count=3), "final"))
        assert book.totals() == ledger.Totals(3 * one, 3 * one, 0)
        book.reserve(draw, "final")
        assert book.totals() == ledger.Totals(3 * one + other, 3 * one, other)
    with ledger.Ledger(tmp_path / "ledger.jsonl") as book:
        book.commit(book.reserve(replace(step, step=1, count=3), "final"))
        assert book.totals() == ledger.Totals(6 * one + other, 4 * one, other, 2 * one)


def test_a_budget_buys_whole_steps():
    event = Event("train_step", 2, 12)
    one = event.flops(SMALL, "exact")
    for budget, steps in ((one - 1, 0), (one, 1), (3 * one - 1, 2), (3 * one, 3)):
        assert plan.steps_bought(event, SMALL, ["exact"], budget) == {"exact": steps}


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, {"head": "frozen", "rank": 4, "train": "bias", "accumulate": 1, "kernel": "xla", "dtype": "float32",
              "dropout": False, "update": Update(), "stack_rank": 0, "loss": "summed"}),
        ({"model": {"loss": "alphabet", "dtype": "bfloat16"}}, {"head": "alphabet", "dtype": "bfloat16"}),
        ({"lora": {"head": "frozen", "dropout": 0.1}}, {"train": "adapters", "dropout": True}),
        ({"optimizer": {"name": "muon", "clip_norm": 1.0, "weight_decay": 0.1, "schedule": "cosine", "warmup_steps": 3},
          "train": {"skip_nonfinite": 2}}, {"update": Update("muon", True, True, True, "cosine", True)}),
        ({"train": {"accumulate": 3}, "model": {"attention": "blocked"}}, {"accumulate": 3, "kernel": "blocked"}),
        ({"lora": {"head": "full", "rank": 2}}, {"train": "head", "rank": 2}),
    ],
    ids=str,
)  # fmt: skip
def test_a_step_is_billed_as_its_config_has_it(sections, expected, config):  # noqa: F811
    chosen = change(config, **sections)
    event, bare = billing.event_of(chosen), billing.event_of(chosen, "nothing")
    assert {name: getattr(event, name) for name in expected} == expected
    assert (event.kind, event.batch, event.length, event.targets) == ("train_step", 2, 64, ("q_proj", "v_proj"))
    assert (bare.rank, bare.targets, bare.train, bare.dropout) == (0, (), "adapters", False)
    merged = billing.event_of(chosen, "bias")
    assert (merged.rank, merged.targets, merged.train) == (0, (), "bias" if chosen.lora.head == "bias" else "adapters")
    read = event.of_kind("validation", count=3)
    assert (read.kind, read.count, read.rank, read.dtype) == ("validation", 3, event.rank, event.dtype)
    assert (read.accumulate, read.dropout, read.update) == (1, False, Update())  # which a train step alone has


def test_a_ledger_that_cannot_be_read_when_the_work_is_done_is_told_and_ends_nothing(config, tmp_path):  # noqa: F811
    paid = budgeted(config, 1e12)
    (tmp_path / billing.LEDGER).write_text("no ledger\n")
    assert "whether work was repeated cannot be told: " in billing.repeats_of(paid, tmp_path)


def test_what_is_held_back_does_not_buy_the_first_step(config, price):  # noqa: F811
    inputs = sources.load_inputs(config)
    billing.check_budget(budgeted(config, 2 * price, held_back=float(price)), inputs.model)
    for short in ({"held_back": float(price) + 1}, {"phases": {"final": price - 1.0}}):
        with pytest.raises(BudgetExceeded, match="does not buy one train step"):
            billing.check_budget(budgeted(config, 2 * price, **short), inputs.model)


def test_a_step_of_runs_that_train_together_costs_what_the_largest_rank_makes_of_it(config, price):  # noqa: F811
    inputs, rank = sources.load_inputs(config), config.lora.rank
    enough = budgeted(config, price)
    billing.check_budget(enough, inputs.model, rank)
    with pytest.raises(BudgetExceeded, match="does not buy one train step"):
        billing.check_budget(enough, inputs.model, rank + 1)


def test_a_budget_changes_no_number(whole, config, tmp_path):  # noqa: F811
    train(config, tmp_path / "free")
    assert losses(whole) == losses(tmp_path / "free")


@pytest.mark.parametrize(("blocks", "expected"), [(1, [(0, 3), (3, 2)]), (2, [(0, 2), (2, 1), (3, 2)]), (100, None)])
def test_blocks_of_steps_are_reserved_at_once(config, tmp_path, monkeypatch, blocks, expected):  # noqa: F811
    """Up to the next step that is due, and of a run of five steps at most half, or else one at a time."""
    monkeypatch.setattr(training, "BLOCKS", blocks)
    train(
        change(budgeted(config, PLENTY), train={"log_every": 10, "validate_every": 0, "checkpoint_every": 3}), tmp_path / "r"
    )
    _, entries = ledger.read(tmp_path / "r" / run.LEDGER)
    assert [(entry.event.step, entry.event.count) for entry in entries] == (expected or [(n, 1) for n in range(5)])


def test_the_next_block_is_reserved_while_the_last_step_of_this_one_runs(config, tmp_path, monkeypatch):  # noqa: F811
    """A block is committed after the step behind it was dispatched; but what is saved (step 2) is paid for first."""
    order, fresh, plain = [], Ledger.reserve, stepping.steps

    def dispatch(train_step, state, frozen, batches, last):
        for step in plain(train_step, state, frozen, batches, last):
            order.append(f"dispatch {step.number}")
            yield step

    def reserve(book, event, *more):
        order.append(f"reserve {event.step + 1}")
        return fresh(book, event, *more)

    def commit(book, entry, measured=None, plain=Ledger.commit):
        order.append(f"commit {entry.event.step + 1}")
        plain(book, entry, measured)

    for place, name, new in ((training, "steps", dispatch), (Ledger, "reserve", reserve), (Ledger, "commit", commit)):
        monkeypatch.setattr(place, name, new)
    limited = change(
        budgeted(config, PLENTY), train={"log_every": 1, "validate_every": 0, "checkpoint_every": 2, "steps": 4}
    )
    train(limited, tmp_path / "r")
    assert order == [
        "reserve 1", "dispatch 1", "reserve 2", "dispatch 2", "commit 1", "commit 2", "reserve 3", "dispatch 3",
        "reserve 4", "dispatch 4", "commit 3", "commit 4",
    ]  # fmt: skip


def test_a_run_stops_before_it_overspends(config, price, tmp_path):  # noqa: F811
    notes: list[str] = []
    limited = change(budgeted(config, 3.5 * price), train={"validate_every": 0, "log_every": 10})
    training.train(limited, tmp_path / "r", sources.load_inputs(limited), watch=training.Watch(note=notes.append))
    assert spent(tmp_path / "r").executed == 3 * price
    assert any("stopped by the budget after step 3 of 5" in note for note in notes)
    with Checkpoints(tmp_path / "r" / "checkpoints") as checkpoints:
        assert checkpoints.steps()[-1] == 3
    assert run.load_run(tmp_path / "r").bill().steps == 3
    train(limited, tmp_path / "r", resume=True)  # nothing is left, and nothing is spent
    assert spent(tmp_path / "r").executed == 3 * price


def test_a_budget_too_small_for_a_step_leaves_no_folder(config, price, tmp_path):  # noqa: F811
    with pytest.raises(BudgetExceeded, match="does not buy one train step"):
        train(budgeted(config, price - 1), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_validation_that_does_not_fit_is_left_out(config, price, tmp_path):  # noqa: F811
    notes: list[str] = []
    limited = budgeted(config, 2.2 * price)
    training.train(limited, tmp_path / "r", sources.load_inputs(limited), watch=training.Watch(note=notes.append))
    assert losses(tmp_path / "r", "validation_loss") == []
    assert any("step 2: not validated" in note for note in notes)
    assert spent(tmp_path / "r").executed == 2 * price


def test_an_interrupted_run_goes_on_with_what_is_left(config, price, tmp_path):  # noqa: F811
    limited = change(budgeted(config, PLENTY), train={"validate_every": 0, "log_every": 1})

    def cut(step, figures):
        if step == 3:
            raise Interruption

    with pytest.raises(Interruption):
        train(limited, tmp_path / "r", on_step=cut)
    train(limited, tmp_path / "r", resume=True)
    found = spent(tmp_path / "r")
    assert found.effective == 5 * price
    assert 5 * price < found.executed <= 7 * price
    assert ledger.verify(tmp_path / "r" / run.LEDGER) == []


def test_runs_may_share_a_ledger(config, price, tmp_path):  # noqa: F811
    shared = budgeted(config, 12 * price, ledger=str(tmp_path / "shared.jsonl"), phase="grid")
    shared = change(shared, train={"validate_every": 0})
    for name in ("a", "b", "c"):
        train(replace(shared, lora=replace(shared.lora, alpha=1.0 + len(name))), tmp_path / name)
    _, entries = ledger.read(tmp_path / "shared.jsonl")
    steps = {name: sum(entry.event.count for entry in entries if entry.run == name) for name in ("a", "b", "c")}
    assert steps == {"a": 5, "b": 5, "c": 2}


def test_what_is_held_back_pays_the_evaluation_and_its_repeats(config, price, tmp_path, capsys):  # noqa: F811
    """A budget that holds five of six steps and one evaluation, to the FLOP: killed in its work, after it, in its result."""
    rich, place = change(budgeted(config, 5.5 * price + 1e10, held_back=1e10), train=FREE), tmp_path / "place"
    settings = ["--samples", "2", "--unmasked-samples", "0", "--out"]
    train(rich, tmp_path / "rich")
    assert spent(tmp_path / "rich").executed == 5 * price
    cli.main(["evaluate", str(tmp_path / "rich"), *settings, str(tmp_path / "e")])
    entries = [entry for entry in ledger.read(tmp_path / "rich" / run.LEDGER)[1] if entry.phase == "evaluation"]
    assert {entry.event.kind for entry in entries} == {"generation", "validation"}  # samples, and the truth's likelihood
    assert {entry.event.rank for entry in entries} == {0}  # the adapters are merged
    held = max(sum(one.flops for one in entries[:n]) + entries[n].asked for n in range(len(entries)))
    tight = change(budgeted(config, 5 * price + held, held_back=float(held)), train=FREE)
    train(tight, place / "run")
    instants, arguments = Instants(place), ["evaluate", str(place / "run"), *settings, str(place / "e")]
    for kill in ("reserve evaluation generation", "commit evaluation validation", "before e"):
        assert instants.run(cli.main, arguments, kill)[0] == -9
        assert not (place / "e").exists()
    code, said = instants.run(cli.main, arguments)
    assert code == 0 and "repeated after interruptions: " in said and "more than the budget were executed" in said
    rows = [json.loads((folder / "metrics.json").read_text())["rows"] for folder in (place / "e", tmp_path / "e")]
    assert rows[0] == rows[1]
    assert ledger.verify(place / "run" / run.LEDGER) == []
    counted = spent(place / "run")
    assert counted.executed - counted.repeated == 5 * price + sum(one.flops for one in entries) <= tight.budget.flops
    capsys.readouterr()
    cli.main(["ledger", "show", str(place / "run"), "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert sum(row["repeated"] for row in shown["rows"]) == shown["totals"]["repeated"] == counted.repeated > 0
    for verb in ("show", "verify"):
        cli.main(["ledger", verb, str(place / "run")])
        line = f"repeated after interruptions: {counted.repeated:,} FLOPs of {counted.executed:,}; with them"
        assert f"{line} {counted.executed - tight.budget.flops:,.0f} FLOPs more than" in capsys.readouterr().out
    code, said = instants.run(cli.main, [*arguments[:-1], str(place / "again")])
    assert code == 2 and "the budget does not hold 1 generation" in said  # its result was kept: this is more work


def test_a_forecast_that_does_not_fit_is_refused_in_one_line(config, price, tmp_path, capsys):  # noqa: F811
    train(change(budgeted(config, 5.01 * price), train={"validate_every": 0}), tmp_path / "r")
    with pytest.raises(SystemExit) as stop:
        cli.main(["forecast", str(tmp_path / "r"), "--samples", "4", "--out", str(tmp_path / "f")])
    assert stop.value.code == 2
    line = capsys.readouterr().err.strip()
    assert "the budget does not hold 1 generation" in line
    assert "\n" not in line


def test_the_ledger_is_shown_and_verified(whole, capsys):
    cli.main(["ledger", "show", str(whole), "--convention", "coursework"])
    shown = capsys.readouterr().out
    assert "FLOPs (exact)" in shown
    assert "FLOPs (coursework)" in shown
    cli.main(["ledger", "show", str(whole), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert sum(row["flops"]["exact"] for row in found["rows"]) == found["totals"]["executed"] == spent(whole).executed
    cli.main(["ledger", "verify", str(whole), "--json"])
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_the_budget_is_part_of_the_config(config, tmp_path):  # noqa: F811
    made = replace(config, budget=BudgetConfig(1e15, "coursework", 1e14, "grid", {"grid": 5e14}))
    (tmp_path / "c.toml").write_text(to_toml(made))
    assert load_config(tmp_path / "c.toml") == made


# ---------------------------------------------------------------------------------------------- from Python


def test_a_forecast_in_python_is_paid_from_the_run_s_ledger(whole, waves, tmp_path):
    """As the program's is: reserved at its longest, paid as far as it ran, refused if it does not fit."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    series, before = waves(count=2, steps=12), spent(folder).executed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = jaxlv.forecast(str(folder), series, 3, 2, arrays=True)
    paid = spent(folder).executed - before
    entry = ledger.read(folder / run.LEDGER)[1][-1]
    assert (entry.phase, entry.event.kind, entry.event.batch, entry.event.samples) == ("evaluation", "generation", 2, 2)
    assert paid == entry.flops > 0 and ledger.verify(folder / run.LEDGER) == []
    with pytest.warns(JaxlvWarning, match="is not paid from the run's budget"):
        again = jaxlv.forecast(str(folder), series, 3, 2, arrays=True, pays=False)
    np.testing.assert_array_equal(first.samples_NSHV, again.samples_NSHV)
    assert spent(folder).executed == before + paid
    held = jaxlv.open_model(str(folder))
    held(series, Request(12, 3, 2))
    assert spent(folder).executed > before + paid
