"""`jaxlv sweep`: every combination once, run folders, the best by a rule, resuming, a search's trials, and the memory."""

from __future__ import annotations

import contextlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pandas as pd
import pytest

from jaxlv.config import RunConfig, load_config, to_toml
from jaxlv.errors import JaxlvError
from jaxlv.flops import ledger
from jaxlv.model.config import ModelConfig
from jaxlv.results.sweeps import Outcome, front
from jaxlv.runs import billing, run, search, sources, sweep, training, validation
from jaxlv.runs.records import MetricsLog
from jaxlv.steps.stack import Stack
from jaxlv.storage.files import ANEW
from jaxlv.studies import sweeping
from jaxlv.tools import cli
from tests.faults.conftest import unfinished
from tests.faults.instants import Instants
from tests.programs import files_of, full_disk, jaxlv
from tests.test_run import change, config, records  # noqa: F401

GRID = ("--grid", "lora.rank=2,4", "--grid", "optimizer.learning_rate=1e-3,1e-2")


def said_by(*arguments: Any) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        cli.main(["sweep", *map(str, arguments)])
    return out.getvalue()


@pytest.fixture(scope="module")
def file(config, tmp_path_factory) -> Path:  # noqa: F811
    path = tmp_path_factory.mktemp("config") / "waves.toml"
    path.write_text(to_toml(change(config, train={"steps": 3, "forecast_series": 0}, budget={"flops": 1e13})))
    return path


@pytest.fixture(scope="module")
def swept(file, tmp_path_factory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("sweeps") / "out"
    return out, said_by(file, *GRID, "--out", out)


def test_a_grid_has_every_combination_once_but_for_those_skipped():
    axes = {"lora.rank": [2, 4], "codec.decimals": [2, 3], "train.seed": [0]}
    found = list(sweep.grid(axes))
    assert len(found) == 4 and found[0] == {"lora.rank": 2, "codec.decimals": 2, "train.seed": 0}
    assert list(sweep.grid(axes, [{"lora.rank": 2, "codec.decimals": 3}])) == [found[0], *found[2:]]
    for wrong in ({"lora.rank": []}, {"lora.rank": 2}, {"lora.rank": [2, 2]}):
        with pytest.raises(JaxlvError, match=r"lora\.rank"):
            list(sweep.grid(wrong))


def test_names_say_what_is_a_runs_own(config):  # noqa: F811
    settings = {"lora.targets": ["q_proj", "k_proj"], "optimizer.learning_rate": 1e-4, "codec.scale": "a/b c"}
    assert sweep.name_of(settings) == "targets-q_proj+k_proj_learning_rate-0.0001_scale-a-b-c"
    with pytest.raises(JaxlvError, match="did you mean"):
        sweep.cells(config, [{"lora.rnak": 2}])


def test_a_sweep_leaves_an_ordinary_run_for_each_and_a_comparison(swept):
    out, said = swept
    result = json.loads((out / sweep.RESULT).read_text())
    assert len(result["runs"]) == 4 and "4 runs in 1 programs" in said
    best = min(result["runs"], key=lambda one: one["validation_loss"])
    assert result["best"] == best["name"] and best["name"] in said
    for one in result["runs"]:
        finished = run.load_run(out / sweep.RUNS / one["name"])
        assert finished.config.lora.rank == one["settings"]["lora.rank"]
        losses = [r["validation_loss"] for r in records(finished.folder) if "validation_loss" in r]
        assert one["validation_loss"] == min(losses) and one["steps"] == 3
    table = pd.read_csv(out / "sweep.csv")
    assert table["validation_loss"].tolist() == [one["validation_loss"] for one in result["runs"]]
    page = (out / "report.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "") and page.count("<svg") >= 3


def test_all_runs_are_billed_to_one_ledger(swept):
    out, _ = swept
    assert (out / run.LEDGER).is_file()
    for one in json.loads((out / sweep.RESULT).read_text())["runs"]:
        config = load_config(out / sweep.RUNS / one["name"] / run.CONFIG)  # noqa: F811
        price = billing.event_of(config).flops(sources.load_inputs(config).model.config, "exact")
        assert one["flops"]["exact"] > 3 * price


FIRST = "rank-2_learning_rate-0.001"  # of the runs of GRID


def test_a_sweep_goes_on_wherever_it_was_killed(file, swept, tmp_path):
    """In its first steps, thrice, between the folders, checkpoints and adapters of its runs, and between its results."""
    whole, _ = swept
    out, kills = tmp_path / "out", [f"after runs/{FIRST}", *["reserve final train_step"] * 3, f"step 1 of {FIRST}"]
    kills += [f"after runs/{FIRST}/checkpoints/step_00000002", "commit final validation", f"after runs/{FIRST}/adapter"]
    kills += ["before sweep.json", "after sweep.csv", "before report.html"]
    instants, arguments = Instants(out), ["sweep", str(file), *GRID, "--out", str(out)]
    for number, kill in enumerate(kills):
        code, said = instants.run(cli.main, [*arguments, *(["--resume"] if number else [])], kill)
        assert code == -9, (kill, said)
    code, said = instants.run(cli.main, [*arguments, "--resume"])
    assert code == 0 and "repeated after interruptions: " in said and "step 3" not in said  # nothing is trained twice
    found, expected = (json.loads((folder / sweep.RESULT).read_text()) for folder in (out, whole))
    for one, other in zip(found["runs"], expected["runs"], strict=True):
        assert one["flops"]["exact"] > other["flops"]["exact"]  # the repeats are on its bill
        assert all(one[name] == other[name] for name in one if name not in ("seconds", "flops", "history"))
        name = one["name"]
        assert records(out / sweep.RUNS / name) == records(whole / sweep.RUNS / name)
    assert ledger.verify(out / run.LEDGER) == [] and not unfinished(out)
    ended, undisturbed = (ledger.totals(ledger.read(folder / run.LEDGER)[1]) for folder in (out, whole))
    assert ended.executed - ended.repeated == undisturbed.executed and ended.effective == undisturbed.effective
    with full_disk():
        code, _ = instants.run(cli.main, [*arguments, "--resume"])
    assert code == 2 and (out / sweep.RESULT).is_file() and not unfinished(out)
    code, said = instants.run(cli.main, arguments)
    assert code == 2 and "exists already" in said and said.endswith(f"{ANEW}\n")


def test_shards_share_a_folder_and_a_ledger_and_the_last_compares_all(file, swept, tmp_path, capsys):
    """Two halves of a grid, trained at once, in any order and again, are the whole: runs, figures, and what was spent."""
    out, said = tmp_path / "out", list[str]()
    axes = dict(search.values_of(text, "--grid") for text in GRID[1::2])
    halves = [sweeping.asked_for(file, (), axes, shard=sweeping.Shard(one, 2)) for one in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(lambda half: sweeping.run_sweep(half, out, say=said.append), halves))
    assert sorted({len(part.runs) for part in parts}) in ([2, 4], [4]) and (out / sweep.RESULT).is_file()
    assert len(sweeping.run_sweep(halves[0], out).runs) == 4  # again
    assert sum("the shard that ends last" in one for one in said) <= 1
    parts, whole = (json.loads((one / sweep.RESULT).read_text()) for one in (out, swept[0]))
    names = [one["name"] for one in whole["runs"]]
    assert [one["name"] for one in parts["runs"]] == names and parts["best"] == whole["best"]
    for mine, theirs in zip(parts["runs"], whole["runs"], strict=True):
        assert mine["validation_loss"] == pytest.approx(theirs["validation_loss"], abs=1e-6)
        assert mine["flops"]["coursework"] == theirs["flops"]["coursework"]  # ranks are padded to those of a shard alone
    mine, theirs = (ledger.begun(one / run.LEDGER) for one in (out, swept[0]))
    assert mine and theirs and not ledger.verify(out / run.LEDGER)
    spent = [ledger.totals(one.entries, one.terms.model, "coursework") for one in (mine, theirs)]
    assert spent[0].executed == spent[1].executed and not spent[0].uncertain
    for wrong in ("3/2", "0/2", "2", "a/b", "5/5"):
        with pytest.raises(SystemExit):
            said_by(file, *GRID, "--out", tmp_path / "new", "--shard", wrong)
        assert "--shard" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_runs_that_do_not_fit_side_by_side_take_turns(config):  # noqa: F811
    configs = [change(config, train={"seed": seed}) for seed in range(4)]
    inputs = sources.load_inputs(config)
    stack = Stack(inputs.model, inputs.params, configs)
    texts = validation.Texts(config, inputs)
    batch = stack.batch([texts.batches(0)] * 4)
    plans = {
        width: stack.step(width).lower(stack.state, stack.frozen, batch).compile().memory_analysis() for width in (1, 4)
    }
    assert plans[1].temp_size_in_bytes < plans[4].temp_size_in_bytes
    between = (plans[1].temp_size_in_bytes + plans[4].temp_size_in_bytes) // 2 + plans[4].argument_size_in_bytes
    fitted = stack.fitted(batch, between).memory_analysis()
    assert fitted.temp_size_in_bytes < plans[4].temp_size_in_bytes
    with pytest.raises(JaxlvError, match="does not fit") as caught:
        stack.fitted(batch, 1000)
    assert "batch_size" in str(caught.value)


def test_a_group_that_runs_out_of_memory_is_halved(config, tmp_path, monkeypatch):  # noqa: F811
    small = change(config, train={"steps": 1, "forecast_series": 0})
    found = sweep.cells(small, [{"train.seed": seed} for seed in range(3)])
    together, sizes = training.train_together, []

    def limited(jobs: Any, **options: Any) -> Any:
        sizes.append(len(jobs))
        if len(jobs) > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return together(jobs, **options)

    monkeypatch.setattr(training, "train_together", limited)
    sweep.train(found, tmp_path)
    assert sizes == [3, 2, 1]
    assert all((tmp_path / cell.name / run.ADAPTER).is_dir() for cell in found)


def test_a_search_tells_its_study_and_draws_the_same_wherever_it_was_killed(file, tmp_path, monkeypatch):
    """While it draws, before there is a run of what it drew, within a run, and before the result; then it goes on."""
    optuna = pytest.importorskip("optuna", reason="a search needs Optuna")
    space = ["--search", "train.seed=0..99", "--search", "optimizer.learning_rate=1e-3..1e-1:log", "--together", "2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    said = said_by(file, *space, "--trials", 3, "--out", whole)
    assert "best by" in said
    instants, arguments = Instants(killed), ["sweep", str(file), *space, "--trials", "3", "--out", str(killed)]
    drawn, draw = [], search.Range.draw

    def cut(one: search.Range, trial: Any) -> Any:
        drawn.append(one)
        if len(drawn) == 4:  # one trial is drawn, and half of the second
            raise KeyboardInterrupt
        return draw(one, trial)

    with monkeypatch.context() as patch:
        patch.setattr(search.Range, "draw", cut)
        assert instants.run(cli.main, arguments)[0] == 130
    arguments.append("--resume")
    for kill in ("before runs/trial-00000", "step 2 of trial-00001", "before runs/trial-00002", "before sweep.json"):
        code, said = instants.run(cli.main, arguments, kill)
        assert code == -9, (kill, said)
    assert instants.run(cli.main, arguments)[0] == 0
    found, expected = (
        [(one["name"], one["settings"], one["validation_loss"]) for one in json.loads(result.read_text())["runs"]]
        for result in (killed / sweep.RESULT, whole / sweep.RESULT)
    )
    assert found == expected and [name for name, *_ in found] == [f"trial-0000{n}" for n in range(3)]
    assert all(settings["train.seed"] in range(100) for _, settings, _ in found)
    study = optuna.load_study(study_name="jaxlv", storage=f"sqlite:///{killed / 'study.db'}")
    assert [trial.value for trial in study.trials] == [loss for *_, loss in found]
    told = json.loads(said_by(file, *space, "--trials", 4, "--out", whole, "--resume", "--json"))
    written = json.loads((whole / sweep.RESULT).read_text())
    assert len(written["runs"]) == 4 and told == {**files_of(whole, sweep.RESULT), **written}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "a grid or a search"),
        (("--grid", "lora.rank"), "not a list of values"),
        (("--search", "lora.rank=4..2"), "not a range"),
        (("--search", "lora.rank=a..b"), "not a range"),
        (("--grid", "lora.rank=0"), "lora.rank"),
        (("--grid", "lora.size=1"), "unknown key"),
    ],
)
def test_a_wrong_sweep_is_one_line_and_writes_nothing(file, tmp_path, capsys, arguments, reason):
    with pytest.raises(SystemExit):
        cli.main(["sweep", str(file), "--out", str(tmp_path / "out"), *arguments])
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_front_is_what_nothing_beats():
    assert front([(1, 5), (2, 6), (2, 4), (3, 4), (4, 1)]) == [0, 2, 4]


@pytest.mark.parametrize(("select", "best"), [("loss", 4), ("forecast", 2)])
def test_what_a_run_reached_is_of_its_best_step_by_its_own_measure(select, best, config, tmp_path):  # noqa: F811
    """Losses 0.6, 0.4 and 0.5 after steps 2, 4 and 6, errors of forecasts 1, 3 and 2."""
    log = MetricsLog(tmp_path / "a" / run.METRICS)
    (tmp_path / "a").mkdir()
    for step in range(1, 7):
        log.add({"step": step, "loss": 1.0 / step, "total_tokens": 10.0 * step, "total_seconds": 0.5 * step})
        if step in (2, 4, 6):
            loss, mae = {2: (0.6, 1.0), 4: (0.4, 3.0), 6: (0.5, 2.0)}[step]
            log.add({"step": step, "validation_loss": loss, "validation_perplexity": 2 * loss, "forecast_mae": mae})
    cell = sweep.Cell("a", {"lora.rank": 4}, change(config, train={"select": select}))
    found = sweep.outcome(cell, tmp_path)
    loss, mae = {4: (0.4, 3.0), 2: (0.6, 1.0)}[best]
    expected = {
        "name": "a", "settings": {"lora.rank": 4}, "steps": 6, "tokens": 60, "seconds": 3.0, "train_loss": 1 / 6,
        "validation_loss": loss, "validation_perplexity": 2 * loss, "forecast_mae": mae, "best_step": best, "flops": None,
    }  # fmt: skip
    assert {key: getattr(found, key) for key in expected} == expected and len(found.history) == 9


class Drawn:
    """A trial that says what it was asked for."""

    def __getattr__(self, kind: str) -> Any:
        return lambda *arguments, **more: (kind, arguments, more)


@pytest.mark.parametrize(
    ("space", "asked"),
    [
        (search.Range("a.b", 1, 8), ("suggest_int", ("a.b", 1, 8), {"log": False})),
        (search.Range("a.b", 1, 8, log=True), ("suggest_int", ("a.b", 1, 8), {"log": True})),
        (search.Range("a.b", 0.5, 8), ("suggest_float", ("a.b", 0.5, 8.0), {"log": False})),
        (search.Range("a.b", 1e-5, 1e-3, log=True), ("suggest_float", ("a.b", 1e-5, 1e-3), {"log": True})),
        (search.Range("a.b", values=("x", "y")), ("suggest_categorical", ("a.b", ["x", "y"]), {})),
    ],
    ids=str,
)
def test_a_range_asks_for_what_it_says(space, asked):
    assert space.draw(Drawn()) == asked


def test_settings_trials_and_searches_are_drawn_each_from_a_seed_of_its_own(tmp_path, monkeypatch):
    optuna = pytest.importorskip("optuna", reason="a search needs Optuna")
    seeds: list[int] = []

    def sampler(seed: int, **more: Any) -> Any:
        seeds.append(seed)
        return made(seed=seed, **more)

    made = optuna.samplers.TPESampler
    space = [search.Range("a.b", 0.5, 8), search.Range("a.c", 0.5, 8)]
    studies = [search.Study(tmp_path / f"{seed}.db", "one", space, seed) for seed in (0, 1)]
    monkeypatch.setattr(optuna.samplers, "TPESampler", sampler)
    for study in studies:
        study.ask(2)
    assert len(seeds) == len(set(seeds)) == 2 * 2 * 2


@pytest.mark.parametrize("wrong", [(2.0, 2.0, False), (3.0, 2.0, False), (0.0, 1.0, True), (-1.0, 1.0, True)])
def test_a_range_that_is_none_is_refused(wrong):
    low, high, log = wrong
    with pytest.raises(JaxlvError, match="not a range"):
        search.Range("a.b", low, high, log)


def test_the_price_of_a_training_is_without_its_evaluation(config, tmp_path):  # noqa: F811
    """Entries of the run alone, if a ledger is shared."""
    model, event = ModelConfig(32, 16, 16, 1, 2, 1, 8), billing.event_of(config)
    one = event.flops(model, "exact")
    with ledger.Ledger(tmp_path / "ledger.jsonl", ledger.Terms(100 * one, "exact", model), "a") as book:
        for phase, name, count in (("grid", "a", 3), (ledger.FINAL, "a", 2), ("grid", "b", 7)):
            book.commit(book.reserve(replace(event, count=count), phase, name))
    shared = change(config, budget={"flops": 1.0, "ledger": "../ledger.jsonl"})
    prices = [sweep.spent_by(shared, tmp_path / "a", evaluations) for evaluations in (True, False)]
    assert [price["exact"] for price in prices if price] == [5 * one, 3 * one]
    assert prices[0]["coursework"] == 5 * event.flops(model, "coursework")
    assert sweep.spent_by(config, tmp_path / "a") is None


def test_a_sweep_whose_runs_are_never_validated_is_refused_before_anything_is_trained(file, tmp_path):
    for setting in ("data.holdout=5", "train.validate_every=0"):
        told = jaxlv("sweep", file, *GRID, "--set", setting, "--out", tmp_path / "out")
        assert told.code == 2 and "no run has the figure to choose by" in told.err and not (tmp_path / "out").exists()


def test_the_choice_needs_the_figure_that_it_goes_by():
    runs = [Outcome("a", {}, validation_loss=0.2), Outcome("b", {}, validation_loss=0.1), Outcome("c", {})]
    assert sweep.choose(runs, "validation_loss").name == "b"
    with pytest.raises(JaxlvError, match="forecast_series"):
        sweep.choose(runs, "forecast_mae")


def test_programs_keep_their_order(config):  # noqa: F811
    cells = sweep.cells(config, list(sweep.grid({"windows.length": [64, 48], "lora.rank": [1, 2]})))
    assert [[c.config.windows.length for c in group] for group in sweep.groups(cells)] == [[64, 64], [48, 48]]
    assert isinstance(replace(cells[0], name="x").config, RunConfig)
