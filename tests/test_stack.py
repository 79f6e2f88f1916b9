"""Several runs as one program give what each gives alone: losses, norms, adapters, checkpoints, and entries in a ledger."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from jaxlv.config import RunConfig
from jaxlv.errors import JaxlvError
from jaxlv.flops import ledger
from jaxlv.lora import overlay
from jaxlv.model import attention
from jaxlv.runs import billing, run, sources, training, validation
from jaxlv.runs.member import Job
from jaxlv.steps.stack import Stack, memory_of, program_of
from jaxlv.tools import cli
from tests.test_run import Interruption, change, config, interrupt_at, records  # noqa: F401

VARIED: dict[str, dict[str, dict[str, Any]]] = {
    "small": {"lora": {"rank": 2, "alpha": 4.0}, "optimizer": {"learning_rate": 1e-2}},
    "large": {"lora": {"rank": 5, "alpha": 1.0, "rslora": True}, "optimizer": {"learning_rate": 3e-2}},
    "other": {"lora": {"rank": 3}, "optimizer": {"learning_rate": 2e-2}, "train": {"seed": 7}, "codec": {"decimals": 3}},
}
ADAMW, COSINE = "adamw, one cycle, dropout, clipped", "cosine, two micro-batches"
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "adam, constant": {},
    ADAMW: {
        "lora": {"dropout": 0.3},
        "optimizer": {"name": "adamw", "weight_decay": 0.1, "clip_norm": 0.5, "schedule": "onecycle", "warmup_steps": 2},
    },
    COSINE: {"optimizer": {"schedule": "cosine", "warmup_steps": 1}, "train": {"accumulate": 2}},
}


def varied(config: RunConfig, recipe: str = "adam, constant", **more: Any) -> dict[str, RunConfig]:  # noqa: F811
    """{name: config} of runs that differ in everything that may differ within a program."""
    common = change(change(config, **RECIPES[recipe]), **more)
    common = change(common, train={"forecast_series": 0})
    return {name: change(common, **sections) for name, sections in VARIED.items()}


def jobs(configs: dict[str, RunConfig], folder: Any) -> list[Job]:
    return [Job(one, folder / name, sources.load_inputs(one)) for name, one in configs.items()]


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):  # noqa: F811
    """The folder of three runs that were trained together, uninterrupted."""
    folder = tmp_path_factory.mktemp("whole")
    training.train_together(jobs(varied(config), folder))
    return folder


@pytest.mark.parametrize(("recipe", "at_once"), [(ADAMW, 0), (COSINE, 2)])
def test_runs_that_train_together_are_the_runs_one_by_one(config, tmp_path, recipe, at_once):  # noqa: F811
    configs = varied(config, recipe)
    together = training.train_together(jobs(configs, tmp_path / "together"), at_once=at_once)
    for job, lora in zip(jobs(configs, tmp_path / "alone"), together, strict=True):
        alone = training.train(job.config, job.folder, job.inputs)
        ours, theirs = records(tmp_path / "together" / job.folder.name), records(job.folder)
        assert [r["step"] for r in ours] == [r["step"] for r in theirs]
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.keys() == other.keys()
            for key, value in other.items():
                assert mine[key] == pytest.approx(value, rel=1e-5, abs=1e-6), (key, mine["step"])
        assert jax.tree.map(np.shape, lora) == jax.tree.map(np.shape, alone)  # each at its own rank
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), lora, alone)


def test_every_run_begins_from_its_own_seed(config):  # noqa: F811
    """A of the adapters; B is zero whatever the seed."""
    configs = [change(config, train={"seed": seed}) for seed in (3, 4)]
    inputs = sources.load_inputs(configs[0])
    stack = Stack(inputs.model, inputs.params, configs)
    for index, one in enumerate(configs):
        own = overlay.init_lora(jax.random.key(one.train.seed), inputs.params, one.lora)
        begun = overlay.join(stack.member(stack.state, index).trained, stack.frozen_of(index))["lora"]
        jax.tree.map(np.testing.assert_array_equal, begun, own)


def test_the_padding_of_ranks_stays_zero(config):  # noqa: F811
    configs = list(varied(config, ADAMW).values())
    inputs = sources.load_inputs(configs[0])
    stack = Stack(inputs.model, inputs.params, configs)
    assert stack.rank == 5
    windows = [validation.Texts(one, inputs).batches for one in configs]
    state, step = stack.state, stack.step()
    for number in range(3):
        state, _ = step(state, stack.frozen, stack.batch([batches(number) for batches in windows]))
    cut = [stack.member(state, index) for index in range(3)]
    for name in ("trained", "opt_state"):
        padded, own = getattr(state, name), getattr(stack.join(cut), name)
        jax.tree.map(np.testing.assert_array_equal, padded, own)


def test_each_run_of_a_stack_is_an_ordinary_run(config, whole):  # noqa: F811
    for name, one in varied(config).items():
        finished = run.load_run(whole / name)
        assert finished.config == one
        ranks = {leaf.shape[0] for path, leaf in jax.tree_util.tree_leaves_with_path(finished.tuned.variables["lora"])
                 if path[-1].key == "A"}  # fmt: skip
        assert ranks == {one.lora.rank}
        assert finished.bill().trainable_parameters == overlay.count_trained(
            finished.tuned.variables, overlay.trainable(finished.tuned.variables)
        )


@pytest.mark.parametrize("when", [2, 5])
def test_an_interrupted_stack_goes_on_as_if_it_had_not_been(config, whole, tmp_path, when):  # noqa: F811
    """It goes on from the newest step that all its runs have: one run lacks its last checkpoint."""
    configs = varied(config)
    with pytest.raises(Interruption):
        training.train_together(jobs(configs, tmp_path / "cut"), watch=training.Watch(interrupt_at(when)))
    if when == 5:
        shutil.rmtree(tmp_path / "cut" / "other" / "checkpoints" / "step_00000004")
    training.train_together(jobs(configs, tmp_path / "cut"), resume=True)
    for name in configs:
        assert records(tmp_path / "cut" / name) == records(whole / name)


def test_a_stack_resumes_where_one_of_its_runs_was_not_yet_begun(config, whole, tmp_path):  # noqa: F811
    configs = varied(config)
    with pytest.raises(Interruption):
        training.train_together(jobs(configs, tmp_path / "cut"), watch=training.Watch(interrupt_at(4)))
    shutil.rmtree(tmp_path / "cut" / "other")
    training.train_together(jobs(configs, tmp_path / "cut"), resume=True)
    for name in configs:
        assert records(tmp_path / "cut" / name) == records(whole / name)


def test_runs_of_a_stack_are_billed_one_by_one_to_a_ledger_that_they_share(config, tmp_path, capsys):  # noqa: F811
    book = tmp_path / "ledger.jsonl"
    configs = varied(config, budget={"flops": 1e12, "ledger": str(book)})
    training.train_together(jobs(configs, tmp_path / "runs"))
    terms, entries = ledger.read(book)
    assert not ledger.verify(book)
    largest = max(one.lora.rank for one in configs.values())
    for name, one in configs.items():
        steps = [entry for entry in entries if entry.run == name and entry.event.kind == "train_step"]
        assert sum(entry.event.count for entry in steps) == one.train.steps
        assert {entry.event.rank for entry in steps} == {one.lora.rank}
        alone, executed = (billing.event_of(change(one, lora={"rank": rank})) for rank in (one.lora.rank, largest))
        prices = {name: [event.flops(terms.model, name) for event in (alone, executed)] for name in ("exact", "coursework")}
        assert sum(entry.flops for entry in steps) == one.train.steps * prices["exact"][1]  # padded to the largest rank
        event = steps[0].event
        assert event.padding(terms.model, "exact") == event.count * (prices["exact"][1] - prices["exact"][0])
        assert event.flops(terms.model, "coursework") == event.count * prices["coursework"][0]
        padded = largest if one.lora.rank < largest else 0
        assert {entry.event.stack_rank for entry in entries if entry.run == name} == {padded}  # of validations too

    cli.main(["ledger", "show", str(book), "--convention", "coursework"])
    (told,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("padding"))
    assert [cell for cell in told.split()[1:] if cell != "-"] == [f"{ledger.padding(entries, terms.model, 'exact'):,}", "0"]


def test_a_shared_budget_stops_all_runs_of_a_stack_at_the_same_step(config, tmp_path):  # noqa: F811
    largest = max(one.lora.rank for one in varied(config).values())
    events = [(billing.event_of(one, stack_rank=largest), one) for one in varied(config).values()]
    prices = [event.flops(sources.load_inputs(one).model.config, "exact") for event, one in events]
    book = tmp_path / "ledger.jsonl"
    configs = varied(change(config, train={"validate_every": 0}), budget={"flops": 3.5 * sum(prices), "ledger": str(book)})
    notes: list[str] = []
    training.train_together(jobs(configs, tmp_path / "runs"), watch=training.Watch(note=notes.append))
    assert any("stopped by the budget after step 3 of 5" in note for note in notes)
    assert {max(r["step"] for r in records(tmp_path / "runs" / name)) for name in configs} == {3}
    assert ledger.read(book)[0].budget >= sum(entry.flops for entry in ledger.read(book)[1]) == 3 * sum(prices)


def test_a_loss_that_is_not_finite_names_its_run(config, tmp_path):  # noqa: F811
    configs = varied(config)
    configs["large"] = change(configs["large"], optimizer={"learning_rate": 3e38})
    with pytest.raises(JaxlvError, match="not finite") as caught:
        training.train_together(jobs(configs, tmp_path))
    assert str(tmp_path / "large") in str(caught.value)


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize(("side", "relied_on"), [("right", "right"), ("left", "any")])
def test_a_step_relies_on_the_padding_of_the_config_s_windows(config, monkeypatch, runs, side, relied_on):  # noqa: F811
    asked = []
    kernel = attention.KERNELS["xla"]
    monkeypatch.setitem(attention.KERNELS, "xla", lambda *given: asked.append(given[-1]) or kernel(*given))
    one = change(config, windows={"side": side})
    inputs = sources.load_inputs(one)
    stack = Stack(inputs.model, inputs.params, [change(one, train={"seed": seed}) for seed in range(runs)])
    batch = stack.batch([validation.Texts(one, inputs).batches(0)] * runs)
    jax.eval_shape(stack.step(), stack.state, stack.frozen, batch)
    assert set(asked) == {relied_on}
    assert change(one, model={"attention": "cudnn"}).causal == (side == "right") and not one.causal


def test_what_may_differ_within_a_program(config):  # noqa: F811
    assert len({program_of(one) for one in varied(config).values()}) == 1
    different = [
        change(config, lora={"targets": ("q_proj",)}), change(config, lora={"dropout": 0.1}),
        change(config, lora={"head": "frozen"}), change(config, optimizer={"b1": 0.8}), change(config, train={"steps": 6}),
        change(config, windows={"length": 32}), change(config, windows={"side": "left"}),
        change(config, model={"loss": "alphabet"}),
    ]  # fmt: skip
    assert len({program_of(one) for one in [config, *different]}) == 1 + len(different)
    muon = change(config, optimizer={"name": "muon"})
    assert program_of(muon) != program_of(change(muon, lora={"rank": 2}))
    with pytest.raises(JaxlvError, match="do not share a program"):
        inputs = sources.load_inputs(config)
        Stack(inputs.model, inputs.params, [config, different[0]])


def test_a_program_needs_its_arguments_results_and_what_lies_between_but_for_what_is_reused():
    plan = SimpleNamespace(
        temp_size_in_bytes=100, argument_size_in_bytes=20, output_size_in_bytes=7, alias_size_in_bytes=3,
        generated_code_size_in_bytes=1000,
    )  # fmt: skip
    assert memory_of(SimpleNamespace(memory_analysis=lambda: plan)) == 124
