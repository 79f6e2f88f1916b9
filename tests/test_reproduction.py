"""The systems of papers as configs: stages, what is handed on, proportions, and plans that cost what the papers say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import jaxlv.configs
from jaxlv.config import BudgetConfig, RunConfig, load_config
from jaxlv.errors import JaxlvError
from jaxlv.flops.family import architecture
from jaxlv.published import reproduction
from jaxlv.published.protocols import PROTOCOLS
from jaxlv.published.systems import ALLOWANCE, SYSTEMS
from jaxlv.runs import billing, sweep
from jaxlv.steps.needs import planned

CONFIGS = Path(jaxlv.configs.__path__[0])
REAL = architecture("qwen2.5-0.5b")
RUNS = {  # in each stage
    "xu": {"baseline": 2, "grid": 18, "context": 3, "final": 1},
    "rai": {"baseline": 1, "first": 1, "grid": 6, "context": 3, "final": 1},
    "mao": {"baseline": 1, "first": 1, "grid": 9, "context": 3, "final": 1},
    "liu": {"baseline": 1, "first": 1, "grid": 9, "context": 3, "final": 1},
}


def stages_of(name: str, scale: str = "") -> list[reproduction.Stage]:
    own = CONFIGS / name / f"{scale}.toml"
    file = own if own.is_file() else CONFIGS / f"{scale}.toml"
    return reproduction.read_stages(CONFIGS / name, file if scale else None)


def test_changes_lie_over_the_scale_and_the_scale_over_the_stage(tmp_path):
    (tmp_path / "scale.toml").write_text("[train]\nsteps = 7\nbatch_size = 3\n")
    changed = reproduction.read_stages(CONFIGS / "xu", tmp_path / "scale.toml", {"train": {"steps": 9}})
    own = stages_of("xu")
    for stage, before in zip(changed, own, strict=True):
        assert (stage.config.train.steps, stage.config.train.batch_size) == (9, 3)
        assert stage.config.lora == before.config.lora


def plan_of(name: str, stages: list[reproduction.Stage]) -> list[reproduction.StagePlan]:
    most = stages[-1].config.evaluate.series or reproduction.test_share(name)
    return reproduction.plan(stages, [(part, most) for part in reproduction.parts_of(name)])


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_every_stage_and_every_cell_of_the_grid_is_there(name):
    assert {stage.name: len(stage.cells()) for stage in stages_of(name)} == RUNS[name]


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("xu", {"grid": 0.486 + 0.0293, "context": 0.164, "final": 0.35}),
        ("mao", {"final": 0.40, "grid": 0.36, "first": 0.08}),
    ],
)
def test_the_training_costs_what_the_report_says(name, share):
    """Shares of 1e17 FLOPs. xu's eighteen runs of 2.86e15 each are 51.5 %: its table rounds them to 2.7 %, 48.6 in all."""
    rows = {row.stage: row for row in plan_of(name, stages_of(name))}
    for stage, expected in share.items():
        assert rows[stage].training(REAL, SYSTEMS[name].convention) / ALLOWANCE == pytest.approx(expected, abs=0.005)


def test_rai_costs_what_its_table_says():
    """33.28 % before the final run, of which .285 and .169 % for forecasts of the untrained model; 62.25 % for that."""
    rows = {row.stage: row.training(REAL, "rai") / ALLOWANCE for row in plan_of("rai", stages_of("rai"))}
    assert rows["final"] == pytest.approx(0.6225, abs=0.003)
    assert rows["first"] + rows["grid"] + rows["context"] == pytest.approx(0.3328 - 0.0045, abs=0.015)


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_the_small_scale_has_a_twentieth_of_every_run_and_enough_series(name):
    for small, full in zip(stages_of(name, "small"), stages_of(name), strict=True):
        for few, all_of_them in zip(small.cells(), full.cells(), strict=True):
            assert few.settings == all_of_them.settings
            assert few.config.train.steps == math.ceil(all_of_them.config.train.steps / 20)
            assert few.config.evaluate.series >= 20
        assert 0 < small.config.train.validate_every <= small.config.train.steps


def test_what_was_trained_before_is_not_planned_twice():
    """rai's first run is a cell of its grid; the context study of 512 tokens is the grid's best run."""
    plan = plan_of("rai", stages_of("rai"))
    assert {row.stage: row.runs for row in plan} == {
        "baseline": 0, "first": 1, "grid": 5, "context": 2, "final": 1, "evaluation": 0,
    }  # fmt: skip
    assert plan[0].events and not any(event.targets or event.rank for event in plan[0].events)  # the base alone is read


def test_later_stages_take_what_the_grid_chose_but_keep_their_own():
    stages = {stage.name: stage for stage in stages_of("mao")}
    chosen = {"lora.rank": 2, "optimizer.learning_rate": 5e-5}
    context = stages["context"].cells(chosen)
    assert {cell.config.lora.rank for cell in context} == {2}
    assert [cell.config.windows.length for cell in context] == [128, 512, 768]
    assert [cell.config.train.forecast_context for cell in context] == [12, 51, 76]  # the whole steps of a window
    grid = stages["grid"].cells({"lora.rank": 32, "optimizer.learning_rate": 3.0})  # which are its own to go through
    assert {(cell.config.lora.rank, cell.config.optimizer.learning_rate) for cell in grid} == {
        (rank, rate) for rank in (2, 4, 8) for rate in (1e-5, 5e-5, 1e-4)
    }
    (final,) = stages["final"].cells({**chosen, "windows.length": 512})
    assert (final.config.lora.rank, final.config.windows.length, final.name) == (2, 512, "final")
    assert len({cell.name for stage in stages.values() for cell in stage.cells()}) == 15


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_the_budget_holds_the_plan_and_what_is_done_again(name):
    rows, convention = plan_of(name, stages_of(name)), SYSTEMS[name].convention
    budget = reproduction.budget_of(rows, REAL, convention)
    total = sum(row.flops(REAL, convention) for row in rows)
    assert budget.flops == pytest.approx((1 + reproduction.MARGIN) * total, rel=1e-6)
    assert sum(budget.phases.values()) + budget.held_back == pytest.approx(budget.flops)
    assert sum(budget.phases.values()) <= int(budget.flops)
    assert budget.flops >= 1.05 * total and "evaluation" not in budget.phases
    for row in rows[:-1]:
        assert budget.phases[row.stage] >= 1.05 * row.flops(REAL, convention)
    assert reproduction.allowance(rows, rows, REAL, convention) == pytest.approx(ALLOWANCE)


def test_a_stage_at_its_dearest_holds_any_choice():
    stages = {stage.name: stage for stage in stages_of("xu")}
    before = [stages["grid"], stages["context"]]
    dearest = reproduction.at_dearest(stages["final"], before, REAL, "xu").flops(REAL, "xu")
    for length, stride in ((128, 64), (512, 256), (768, 384)):
        chosen = {
            "windows.length": length,
            "windows.stride": stride,
            "lora.rank": 8,
            "lora.alpha": 16.0,
            "codec.decimals": 3,
        }
        (cell,) = stages["final"].cells(chosen)
        price = cell.config.train.steps * billing.event_of(cell.config).flops(REAL, "xu")
        assert price < dearest
    assert dearest == pytest.approx(price, rel=0.1)


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_what_stands_beside_holds_its_forecasts_whatever_the_grid_chooses(name):
    """More decimals make longer texts: the work beside must hold them, too, even if the first run of the grid has fewer."""
    system, stages, small = SYSTEMS[name], stages_of(name, "small"), architecture("embedded")
    part = (reproduction.parts_of(name)[0], 24)
    allowed, analyses = (row.flops(small, system.convention) for row in reproduction.beside(system, stages, part, small))
    one = {stage.name: stage for stage in stages}
    for cell in one["grid"].cells():
        fixed = [replace(stage, combinations=(cell.settings,)) if stage.name == "grid" else stage for stage in stages]
        faults, looks = (row.flops(small, system.convention) for row in reproduction.beside(system, fixed, part, small))
        assert faults <= allowed and looks <= analyses
    if name == "xu":
        assert {cell.config.codec.decimals for cell in one["grid"].cells()} == {2, 3}
        assert reproduction.beside(system, fixed, part, small)[0].events[-1].length == 640


def test_only_xu_and_liu_trained_more_than_was_allowed():
    trained = {
        name: sum(row.training(REAL, system.convention) for row in plan_of(name, stages_of(name)))
        for name, system in SYSTEMS.items()
    }
    assert {name for name, flops in trained.items() if flops > ALLOWANCE} == {"xu", "liu"}
    assert trained["xu"] == pytest.approx(PROTOCOLS["xu"].flops, rel=1e-3)


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_the_plan_of_the_small_scale_stands_to_its_allowance_as_the_full_one(name):
    small, full = plan_of(name, stages_of(name, "small")), plan_of(name, stages_of(name))
    convention, embedded = SYSTEMS[name].convention, architecture("embedded")
    allowed = reproduction.allowance(small, full, embedded, convention)
    shares = [sum(row.flops(model, convention) for row in rows) for rows, model in ((small, embedded), (full, REAL))]
    assert shares[0] / allowed == pytest.approx(shares[1] / ALLOWANCE)


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_the_reported_figures_belong_to_runs_that_there_are(name):
    system, found = SYSTEMS[name], []
    for stage in stages_of(name):
        for cell in stage.cells():
            value = system.of(stage.name, reproduction.telling(cell.config))
            found += [] if value is None else [(stage.name, value)]
    assert sorted(found) == sorted((one.stage, one.value) for one in system.reported)


REPORTED = {  # of the papers' tables: stage, rank, learning rate, length of windows
    ("rai", "baseline", None, None, None): 1.1926, ("rai", "grid", 4, 1e-4, None): 0.6551,
    ("rai", "grid", 4, 1e-5, None): 0.9555,
    ("rai", "grid", 8, 5e-5, None): 0.6788, ("rai", "context", None, None, 128): 0.7088,
    ("rai", "context", None, None, 512): 0.6147, ("rai", "final", None, None, None): 0.2878,
    ("mao", "grid", 2, 1e-5, None): 0.11567, ("mao", "grid", 8, 1e-4, None): 0.051754,
    ("mao", "grid", 4, 5e-5, None): 0.058066,
    ("mao", "context", None, None, 768): 0.034004, ("liu", "grid", 2, 1e-4, None): 0.136313,
    ("liu", "grid", 8, 1e-5, None): 0.157625, ("liu", "context", None, None, 512): 0.1502,
    ("rai", "grid", 2, 1e-4, None): None,
}  # fmt: skip


@pytest.mark.parametrize("place", REPORTED)
def test_a_reported_figure_is_that_of_its_settings(place):
    name, stage, rank, rate, length = place
    settings = {"lora.rank": rank, "optimizer.learning_rate": rate, "windows.length": length}
    assert SYSTEMS[name].of(stage, settings) == REPORTED[place]


def test_what_a_report_is_scored_and_chosen_by():
    assert {name: (s.point, s.rule, s.convention) for name, s in SYSTEMS.items()} == {
        "xu": ("median", "forecast_mae", "xu"), "rai": ("median", "validation_loss", "rai"),
        "mao": ("median", "forecast_mae", "mao"), "liu": ("mean", "validation_loss", "liu"),
    }  # fmt: skip
    generation = {fault.key: fault for fault in SYSTEMS["rai"].faults}["generation"].settings
    assert generation == {"sampling.repetition_penalty": 1.1, "sampling.top_k": 20, "sampling.grammar": False}
    assert ALLOWANCE == 1e17


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_every_model_forecasts_every_part_as_often_as_its_series_and_steps_need(name):
    """In calls of a batch of series, and of as many steps as a forecast reaches at a time."""
    stages = [stage for stage in stages_of(name) if stage.name in reproduction.MODELS]
    most = 20  # of a batch of eight: two whole calls and a part
    rows = reproduction.plan(stages_of(name), [(part, most) for part in reproduction.parts_of(name)])
    calls = sum(
        math.ceil(part.horizon / (part.reach or part.horizon))
        * planned(most, min(cell.config.evaluate.batch_series, most))[1]
        for stage in stages
        for cell in stage.cells()
        for part in reproduction.parts_of(name)
    )
    assert rows[-1].stage == "evaluation" and sum(event.count for event in rows[-1].events) == calls
    assert {event.samples for event in rows[-1].events} == {part.samples for part in reproduction.parts_of(name)}


def test_a_long_forecast_is_planned_to_its_last_step_and_a_cut_prompt_with_the_step_that_it_lacks():
    stages, part = stages_of("xu"), reproduction.parts_of("xu")[0]

    def calls(**changed) -> list:
        return list(reproduction.plan(stages, [(replace(part, **changed), 4)])[-1].events)

    models = len(calls(horizon=7, reach=0))
    assert sum(event.count for event in calls(horizon=7, reach=3)) == 3 * models
    assert sum(event.count for event in calls(horizon=6, reach=3)) == 2 * models
    whole, cut = calls(context=11, horizon=8, shown=0), calls(context=10, horizon=7, shown=2)
    assert cut == whole != calls(context=10, horizon=7, shown=0)


def test_a_shortened_run_is_shorter_in_every_count_of_steps():
    whole = RunConfig()
    counts = {"steps": 41, "validate_every": 10, "checkpoint_every": 21}
    whole = replace(whole, train=replace(whole.train, **counts), optimizer=replace(whole.optimizer, warmup_steps=30))
    short = reproduction.shortened(whole, 0.05)
    assert {key: getattr(short.train, key) for key in counts} == {"steps": 3, "validate_every": 1, "checkpoint_every": 2}
    assert short.optimizer.warmup_steps == 2 and reproduction.shortened(whole, 1.0) == whole


def test_the_series_that_rai_left_out_are_measured_beside_those_that_it_chose():
    parts = {part.name: part for part in reproduction.parts_of("rai")}
    assert list(parts) == ["rai-test", "rai", "rai-972"]
    assert parts["rai-test"].series == () and parts["rai-test"].reported == {}
    assert parts["rai-test"].words == "the test series, 50 steps from 50"


def test_evaluation_series_are_never_trained_on():
    ids = np.arange(1000)
    for name in SYSTEMS:
        split = PROTOCOLS[name].split(ids)
        for part in reproduction.parts_of(name):
            assert not set(part.series) - set(split.test.tolist())


def test_a_stage_of_a_config_is_checked(tmp_path):
    (tmp_path / "grid.toml").write_text('[stage]\nskips = []\n[grid]\n"lora.rank" = [2]\n')
    with pytest.raises(JaxlvError, match=r"unknown key stage\.skips"):
        reproduction.read_stages(tmp_path)
    with pytest.raises(JaxlvError, match="no stages"):
        reproduction.read_stages(tmp_path / "nowhere")


def test_a_stage_is_no_run():
    with pytest.raises(JaxlvError, match="jaxlv reproduce"):
        load_config(CONFIGS / "rai" / "baseline.toml")
    assert load_config(CONFIGS / "rai" / "final.toml").windows.length == 768


def test_an_axis_may_set_several_settings():
    axes = {"lora.rank, lora.alpha": [[2, 4.0], [4, 8.0]], "train.seed": [0, 1]}
    assert next(iter(sweep.grid(axes))) == {"lora.rank": 2, "lora.alpha": 4.0, "train.seed": 0}
    assert len(list(sweep.grid(axes))) == 4
    with pytest.raises(JaxlvError, match="a value for each"):
        list(sweep.grid({"lora.rank, lora.alpha": [2, 4]}))


def test_runs_that_differ_in_who_pays_are_the_same():
    cell = stages_of("rai")[2].cells()[0]
    paid = reproduction.with_budget(cell.config, "grid", BudgetConfig(flops=1e12, ledger="../../x"))
    other = replace(cell, config=paid)
    assert reproduction.twin(other, [cell]) is cell
    assert reproduction.twin(replace(other, config=replace(other.config, windows=RunConfig().windows)), []) is None
    assert other.config.budget.phase == "grid" and billing.ledger_path(other.config, Path("a/runs/b")) == Path("a/x")
