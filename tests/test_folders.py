"""Folders of results: what each is, what is damaged, figures true to the files, fronts, and runs beside one another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import make_metrics

from jaxlv.config import RunConfig, build_config, config_tree, load_config, to_toml
from jaxlv.data.series import SeriesSet, from_arrays
from jaxlv.errors import JaxlvError
from jaxlv.flops.ledger import FINAL, Event, Ledger, Terms
from jaxlv.forecasting import forecast
from jaxlv.forecasting.forecast import Forecast
from jaxlv.lora import adapters
from jaxlv.model.config import ModelConfig
from jaxlv.published import protocols
from jaxlv.report import page as pages
from jaxlv.report import runs
from jaxlv.report import side_by_side as shown
from jaxlv.report.table import Group, Table
from jaxlv.results import side_by_side
from jaxlv.results.folders import Measured
from jaxlv.results.scores import Evaluation, Protocol
from jaxlv.results.side_by_side import Entry
from jaxlv.results.sweeps import Sweep
from jaxlv.runs import run, sweep
from jaxlv.storage import lines, tensors
from jaxlv.studies import details, folders
from jaxlv.studies.pages import made
from jaxlv.tools import cli

MODEL = ModelConfig(
    vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
    head_dim=4, tie_word_embeddings=True,
)  # fmt: skip
VERSIONS = {"python": "3.12", "jax": "0.0", "device": "cpu: test"}


def write_run(folder: Path, settings: Mapping[str, Any] | None = None, *, loss: float = 0.5, **extra: Any) -> Path:
    """A run folder as a training leaves it, without a model: 4 steps, two validations; `extra` as below.

    `mae`: a validation MAE at the best step; `steps`: of the ledger's train steps; `metrics`: of an evaluation.
    """
    tree = config_tree(RunConfig())
    for dotted, value in {"data.path": "waves.h5", "train.steps": 4, **(settings or {})}.items():
        section, _, key = dotted.partition(".")
        tree[section][key] = value
    if "steps" in extra:
        tree["budget"] |= {"flops": 1e12, "convention": "coursework"}
    config = build_config(RunConfig, tree)
    folder.mkdir(parents=True)
    (folder / run.CONFIG).write_text(to_toml(config))
    manifest = {"versions": VERSIONS, "data": {"sha256": "d", "series": 10}, "base": {"sha256": "b"}, "dataset_alpha": None}
    (folder / run.MANIFEST).write_text(json.dumps(manifest))
    split = {"train": {"0": "a", "1": "b"}, "validation": {"2": "c"}, "test": {"3": "d"}}
    (folder / run.SPLIT).write_text(json.dumps(split))
    records = [
        {
            "step": step, "loss": loss + 0.4 / step, "gradient_norm": 2.0 / step, "clipped_norm": min(1.0, 2 / step),
            "learning_rate": 1e-3, "total_tokens": 100 * step, "total_seconds": 2.0 * step,
        }
        for step in range(1, 5)
    ]  # fmt: skip
    for step, value in ((2, loss + 0.1), (4, loss)):
        mae = {"forecast_mae": extra["mae"] * value / loss} if "mae" in extra else {}
        record = {"step": step, "validation_loss": value, "validation_perplexity": float(np.exp(value)), **mae}
        records.insert(records.index(next(r for r in records if r["step"] == step)) + 1, record)
    (folder / run.METRICS).write_bytes(b"".join(map(lines.encode, records)))
    (folder / run.ADAPTER).mkdir()
    if "steps" in extra:
        write_ledger(folder, config, extra["steps"])
    if "metrics" in extra:
        (folder / "evaluation").mkdir()
        (folder / "evaluation" / "metrics.json").write_text(json.dumps(extra["metrics"]))
    return folder


def write_ledger(folder: Path, config: RunConfig, steps: int) -> None:
    """Train steps under the run's name, and forecasts that are no part of the training."""
    with Ledger(folder / run.LEDGER, Terms(10**12, "coursework", MODEL), folder.name) as book:
        for step in range(1, steps + 1):
            book.commit(book.reserve(Event("train_step", 2, 64, step=step, rank=2, targets=("q_proj",)), "tuning"))
        book.commit(book.reserve(Event("generation", 1, 64, samples=2, new_tokens=8), FINAL))


def write_sweep(folder: Path, losses: Mapping[int, float]) -> Path:
    """A sweep over the rank, with a run folder for each; {rank: validation loss}."""
    outcomes = []
    for rank, loss in losses.items():
        place = write_run(folder / sweep.RUNS / f"rank-{rank}", {"lora.rank": rank}, loss=loss, steps=rank)
        cell = sweep.Cell(place.name, {"lora.rank": rank}, load_config(place / run.CONFIG))
        outcomes.append(sweep.outcome(cell, place.parent))
    best = sweep.choose(outcomes, "validation_loss").name
    result = Sweep("validation_loss", best, tuple(outcomes), "x.toml", VERSIONS)
    (folder / "sweep.json").write_text(json.dumps(result.tree()))
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with two runs, one of them evaluated, a sweep, and an evaluation of a bare model."""
    place = tmp_path_factory.mktemp("results")
    write_run(place / "first", {"lora.rank": 2}, mae=0.2, steps=2, metrics=make_metrics())
    write_run(place / "second", {"lora.rank": 4}, loss=0.4, mae=0.1, steps=4)
    write_sweep(place / "ranks", {2: 0.6, 4: 0.5, 8: 0.55})
    (place / "bare").mkdir()
    (place / "bare" / "metrics.json").write_text(json.dumps(make_metrics()))
    return place


def bill_of(folder: Path) -> dict[str, int]:
    """FLOPs as executed by work, as the page of a run has them."""
    one = details.completed(folders.read(folder)).runs[0]
    return {row.work: row.flops["exact"] for row in one.details.bill} if one.details else {}


def entries_of(*paths: Path) -> list[Entry]:
    return [entry for folder in folders.read_all(paths) for entry in folder.entries]


def texts(table: Table) -> list[dict[str, str]]:
    """The rows of a table, by the columns' heads."""
    heads = [f"{group.name} {head}".strip() for group, head in zip(spread(table), table.heads, strict=True)]
    return [dict(zip(heads, (cell.text.strip() for cell in row), strict=True)) for row in table.cells]


def spread(table: Table) -> list[Group]:
    return [group for group in table.groups for _ in range(group.span)]


# ------------------------------------------------------------------------------------------------- what a folder is


@pytest.mark.parametrize(("name", "kind", "count"), [("first", "run", 1), ("ranks", "sweep", 3), ("bare", "evaluation", 1)])
def test_a_folder_is_known_by_its_files(work, name, kind, count):
    folder = folders.read(work / name)
    assert (folder.kind, len(folder.runs)) == (kind, count)


def test_a_run_has_its_figures_settings_and_evaluation(work):
    one = folders.read(work / "first").runs[0]
    expected = {
        "steps": 4, "tokens": 400, "seconds": 8.0, "validation_loss": 0.5, "best_step": 4, "forecast_mae": 0.2,
    }  # fmt: skip
    assert {key: getattr(one.figures, key) for key in expected} == pytest.approx(expected)
    assert one.settings["lora.rank"] == 2
    assert "data.simulate" not in one.settings  # its series come from a file
    assert [measured.name for measured in one.evaluations] == ["evaluation"]


def test_training_is_priced_without_forecasts_and_under_any_name_of_the_folder(work, tmp_path):
    moved = shutil.copytree(work / "first", tmp_path / "moved")
    here, there = (folders.read(path).runs[0].figures.flops for path in (work / "first", moved))
    step = Event("train_step", 2, 64, rank=2, targets=("q_proj",))
    assert here == there == {name: 2 * step.flops(MODEL, name) for name in ("coursework", "exact")}
    rows = bill_of(moved)
    assert list(rows) == ["tuning: training", "evaluation: forecasts", "together"]
    assert rows["together"] == rows["tuning: training"] + rows["evaluation: forecasts"] > here["exact"]


def test_kinds_of_work_in_one_phase_are_priced_apart(tmp_path):
    settings = {"budget.flops": 1e12, "budget.convention": "coursework"}
    folder = write_run(tmp_path / "r", settings)
    shape = {"rank": 2, "targets": ("q_proj",)}
    trained, read = Event("train_step", 2, 64, step=1, **shape), Event("validation", 2, 64, **shape)
    with Ledger(folder / run.LEDGER, Terms(10**12, "coursework", MODEL), "r") as book:
        for event in (trained, read, trained):
            book.commit(book.reserve(event, "tuning"))
    rows = bill_of(folder)
    steps, reading = 2 * trained.flops(MODEL, "exact"), read.flops(MODEL, "exact")
    assert rows == {"tuning: training": steps, "tuning: validation": reading, "together": steps + reading}


def test_a_run_tells_what_it_repeated_what_was_planned_and_how_many_numbers_trained(tmp_path):
    """Steps 2 and 3 are done again after an interruption; nothing else is."""
    settings = {"budget.flops": 1e12, "budget.convention": "coursework", "optimizer.clip_norm": 0.5, "train.steps": 9}
    folder, shape = write_run(tmp_path / "r", settings), {"rank": 2, "targets": ("q_proj",)}
    step, draw = Event("train_step", 2, 64, step=1, count=3, **shape), Event("generation", 1, 64, samples=2, new_tokens=8)
    for begun in (step, replace(step, step=2, count=2)):
        with Ledger(folder / run.LEDGER, Terms(10**12, "coursework", MODEL), "r") as book:
            book.commit(book.reserve(begun, "tuning"))
    with Ledger(folder / run.LEDGER, Terms(10**12, "coursework", MODEL), "r") as book:
        book.commit(book.reserve(draw, FINAL))
    for name, size in ((adapters.TENSORS, 6), (adapters.HEAD, 5)):
        tensors.write(folder / run.ADAPTER / name, {"a": np.zeros((size, 2))})
    found = details.completed(folders.read(folder)).runs[0].details
    assert found and found.curves and found.cost
    *_, repeated, together = found.bill
    once = {name: replace(step, count=1).flops(MODEL, name) for name in ("coursework", "exact")}
    assert repeated.work == "of these repeated after interruptions" and together.work == "together"
    assert repeated.flops == {name: 2 * price for name, price in once.items()}
    assert together.flops == {name: 5 * price + draw.flops(MODEL, name) for name, price in once.items()}
    assert (found.budget, found.steps, found.cost.steps, found.curves.clip_norm) == (1e12, 9, 4, 0.5)
    assert found.cost.trainable_parameters == 2 * (6 + 5)


def damaged(work: Path, place: Path, name: str, file: str, content: str) -> Path:
    """A copy of a folder with one file that is not what it was."""
    copy = shutil.copytree(work / name, place / name)
    (copy / file).write_text(content)
    return copy


DAMAGE = {
    "torn sweep": ("ranks", "sweep.json", '{"runs": [', "sweep.json does not read"),
    "a list": ("ranks", "sweep.json", "[1]", "its content is not what was written"),
    "another sweep": (
        "ranks",
        "sweep.json",
        '{"runs": [{"name": "x"}], "rule": "validation_loss", "best": "x"}',
        "settings",
    ),
    "torn metrics": ("first", "evaluation/metrics.json", "{", "metrics.json does not read"),
    "no rows": ("bare", "metrics.json", '{"protocol": {}}', "rows is not what was written; expected a value"),
    "torn manifest": ("first", "manifest.json", "{", "manifest.json"),
    "torn split": ("first", "split.json", '{"train": {}', "split.json"),
    "wrong setting": ("first", "config.toml", "[lora]\nrankk = 3\n", "rankk"),
    "damaged ledger": ("first", "ledger.jsonl", '{"ledger":1}\n{}\n', "ledger.jsonl, line 1"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_one_line(work, tmp_path, capsys, case):
    name, file, content, said = DAMAGE[case]
    copy = damaged(work, tmp_path, name, file, content)
    with pytest.raises(SystemExit) as end:
        cli.main(["report", str(copy)])
    lines = capsys.readouterr().err.splitlines()
    assert (end.value.code, len(lines)) == (2, 1)
    assert said in lines[0] and str(copy) in lines[0]
    assert not (copy / "report.html").exists()


def test_what_is_no_folder_of_results_says_so(tmp_path):
    for path, said in ((tmp_path / "none", "no such folder"), (tmp_path, "no run, sweep or reproduction.*found nothing")):
        with pytest.raises(JaxlvError, match=said):
            folders.read(path)
    (tmp_path / "ranks" / sweep.RUNS).mkdir(parents=True)
    with pytest.raises(JaxlvError, match="--resume"):
        folders.read(tmp_path / "ranks")


def test_a_reproduction_has_each_run_once_and_the_forecasts_of_its_final_model(tmp_path):
    one = {"name": "grid-a", "settings": {"lora.rank": 2}, "steps": 3, "validation_loss": 0.5, "flops": {"coursework": 5}}
    final = {**one, "name": "final", "settings": {}}
    stages = [
        {"name": "grid", "runs": [one, {**one, "name": "grid-b", "same_as": "first"}]},
        {"name": "final", "runs": [final]},
    ]
    protocol = {"series": [3, 4], "context": 50, "horizon": 50}
    parts = {
        "rai": {
            "part": "rai",
            "protocol": protocol,
            "rows": [{"name": "untuned", "mae": 2.0}, {"name": "final", "mae": 1.0}],
        },
        "rising": {"part": "rising", "protocol": {**protocol, "simulated": True}, "rows": [{"name": "final", "mae": 7.0}]},
    }
    plan = {
        "rows": [],
        "convention": "rai",
        "allowance": 1e13,
        "hours": "2",
        "reported": {"flops": 1e17, "of_allowance": 1.0},
    }
    tree = {"system": "rai", "stages": stages, "parts": parts, "plan": plan, "rule": "validation_loss", "data_sha256": "d"}
    (tmp_path / "reproduce.json").write_text(json.dumps(tree))
    folder = folders.read(tmp_path)
    assert (folder.kind, [found.name for found in folder.runs]) == ("reproduction", ["grid-a", "final"])
    assert [[one.name for one in found.evaluations] for found in folder.runs] == [[], ["rai"]]  # none of simulated series
    rows = side_by_side.rows_of(entries_of(tmp_path))
    assert [row.tested for row in rows] == [None, side_by_side.Tested(1.0, "2 series, 50 + 50")]
    (tmp_path / "reproduce.json").write_text(json.dumps({**tree, "plan": {}}))
    with pytest.raises(JaxlvError, match=r"reproduce\.json: plan\.rows is not what was written"):
        folders.read(tmp_path)


# ------------------------------------------------------------------------------------------------ side by side


def test_two_runs_stand_in_one_table_with_units_and_the_settings_that_differ(work):
    entries = entries_of(work / "first", work / "second")
    table = shown.table(entries)
    first, second = texts(table)
    assert [first["run"], second["run"]] == ["first", "second"]
    assert [first["lora rank"], second["lora rank"]] == ["2", "4"]
    assert (first["validation loss"], second["validation loss"]) == ("0.500", "0.400")
    assert first["test MAE"] == f"{make_metrics()['rows'][0]['mae']:.4f}" and second["test MAE"] == "–"
    units = {f"{group.name} {head}".strip(): group.unit for group, head in zip(spread(table), table.heads, strict=True)}
    assert units["validation loss"] == "nats per token" and units["perplexity"] == ""
    assert units["validation MAE"] == units["test MAE"] == "raw units"
    assert units["training and validation exact"] == "FLOPs" and units["training time"] == "s"
    assert set(side_by_side.differing(entries)) == {"lora.rank"}


def test_many_settings_have_a_table_of_their_own(work, tmp_path):
    more = {"lora.alpha": 3.0, "optimizer.eps": 1e-7, "train.seed": 5, "windows.length": 99, "train.batch_size": 9}
    other = write_run(tmp_path / "other", {"lora.rank": 16, "optimizer.b1": 0.5, **more})
    entries = entries_of(work / "first", other)
    assert shown.settings_tables(entries_of(work / "first", work / "second")) == []
    tables = shown.settings_tables(entries)
    found = {head: text for table in tables for head, text in texts(table)[1].items()}
    assert found["train seed"] == "5" and set(side_by_side.differing(entries)) <= {
        head.replace(" ", ".", 1).replace(" ", "_") for head in found
    }
    assert not any("rank" in head for head in shown.table(entries).heads)


def test_the_front_holds_what_nothing_beats_cheapest_first(work):
    entries = entries_of(work / "ranks")
    kept = side_by_side.front_of(entries, "validation_loss", "coursework")
    assert [entry.name for entry in kept] == ["ranks/rank-2", "ranks/rank-4"]  # rank 8 costs more and errs more
    table = shown.budget_table({"": kept}, "validation_loss", "coursework")
    rows = texts(table)
    assert [row["validation loss error"] for row in rows] == ["0.600", "0.500"]
    assert rows[1]["less by"] == "16.7"  # 0.6 to 0.5
    costs = [row[3].value if len(row) > 3 else None for row in table.cells]
    assert costs == sorted(costs, key=lambda cost: cost or 0)
    bold = [row[1].best for row in shown.table(entries).cells]
    assert bold == [True, True, False]


def test_losses_of_other_texts_have_fronts_of_their_own_and_raw_errors_are_preferred(work, tmp_path):
    coarse = write_run(tmp_path / "coarse", {"codec.decimals": 3}, loss=0.9, mae=0.3, steps=3)
    entries = entries_of(work / "first", work / "second", coarse)
    assert side_by_side.axis_of(entries) == "forecast_mae"
    assert side_by_side.mixed(entries, "validation_loss") == {"codec.decimals": "decimals"}
    assert side_by_side.mixed(entries, "forecast_mae") == {}
    fronts = side_by_side.fronts_of(entries, "validation_loss", "coursework")
    assert [[entry.name for entry in kept] for kept in fronts.values()] == [["first", "second"], ["coarse"]]
    text = shown.sections(entries)[0].text
    assert "do not compare" in text and "decimals" in text
    assert "do not compare" not in shown.sections(entries[:2])[0].text
    without = write_run(tmp_path / "without", steps=3)
    assert side_by_side.axis_of(entries_of(work / "first", without)) == "validation_loss"


def test_the_page_of_several_tells_the_best_and_what_all_cost(work):
    page = made([work / name for name in ("second", "ranks")])
    assert page.title == "second and ranks"
    bill = dict(page.bill)
    assert (bill["runs"], bill["steps"], bill["tokens"]) == ("4", "16", "1,600")
    assert "second has the least validation loss (nats per token): 0.400" in page.summary
    assert page.sections[0].group == "Side by side"
    assert {"Run second", "Sweep ranks"} < {section.group for section in page.sections}
    rendered = pages.render(page)
    assert rendered.count("http") == rendered.count("http://www.w3.org")  # nothing from the network


def test_folders_of_one_name_are_told_apart(work, tmp_path):
    twin = write_run(tmp_path / "twin" / "first")
    names = [folder.name for folder in folders.read_all([work / "first", twin])]
    assert names == [f"{work.name}/first", "twin/first"]
    with pytest.raises(JaxlvError, match="named twice"):
        folders.read_all([twin, twin])


def test_the_program_says_where_the_page_lies(work, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(work / "ranks", tmp_path / "ranks")
    cli.main(["report", str(copy)])
    assert f"report:  {copy / 'report.html'}" in capsys.readouterr().out
    assert "What a budget buys" in (copy / "report.html").read_text()
    monkeypatch.chdir(tmp_path)
    cli.main(["report", str(work / "second"), str(write_run(tmp_path / "third"))])
    assert Path("report.html").is_file()
    with pytest.raises(SystemExit):
        cli.main(["report", str(copy), "--out", "nowhere/report.html"])


# ---------------------------------------------------------------------------------------- a paper's own figures


@pytest.fixture
def course(monkeypatch) -> SeriesSet:
    """1000 series of 100 steps that stand for the course's data set."""
    random, time_T = np.random.default_rng(0), np.linspace(0, 200, 100)
    phase_N1V = random.uniform(0, 6, (protocols.SERIES, 1, 2))
    data = from_arrays((1.2 + np.sin(time_T[:, None] / 8 + phase_N1V)).astype(np.float32), time_T)
    monkeypatch.setattr(details, "COURSE_SHA256", "course")
    return replace(data, source={"path": "course.h5", "sha256": "course"})


def evaluated(folder: Path, data: SeriesSet, ids: np.ndarray, context: int, horizon: int) -> tuple[Any, Forecast]:
    """(the evaluation, its forecast): samples off by 0.1 raw units, one of them cut."""
    chosen = data.select(np.sort(ids))
    samples = np.repeat(chosen.values_NTV[:, None, context : context + horizon], 3, axis=1) + 0.1
    samples[0, 1, 3:] = np.nan
    made = Forecast.of(chosen, context, samples, {})
    folder.mkdir()
    made.write_csv(folder / "forecast_tuned.csv")
    protocol = {"series": chosen.ids_N.tolist(), "context": context, "horizon": horizon, "data_sha256": "course"}
    return Measured("", folder, Evaluation.read({"protocol": protocol, "rows": []}, "metrics.json")), made


def reported(one: Any, data: SeriesSet, split: Mapping[str, Any]) -> list[pages.Section]:
    return list(map(runs.paper_section, details.papers_of(one, details.forecasts_of(one, data), split, "context")))


def test_a_forecast_comes_back_from_its_file(course, tmp_path):
    _, made = evaluated(tmp_path / "e", course, np.array([7, 3]), 50, 10)
    back = forecast.read_csv(tmp_path / "e" / "forecast_tuned.csv", course)
    assert (back.start, back.variables, back.ids_N.tolist()) == (50, made.variables, [3, 7])
    np.testing.assert_allclose(back.samples_NSHV, made.samples_NSHV, rtol=1e-5)
    np.testing.assert_allclose(back.median(), made.median(), rtol=1e-5)
    (tmp_path / "no.csv").write_text("series,step\n1,2\n")
    with pytest.raises(JaxlvError, match="not a forecast"):
        forecast.read_csv(tmp_path / "no.csv", course)


def test_a_reports_figures_stand_beside_ours_where_everything_matches(course, tmp_path):
    split = {
        share: {str(i): "" for i in ids} for share, ids in protocols.PROTOCOLS["rai"].split(course.ids_N).parts().items()
    }
    one, _ = evaluated(tmp_path / "rai", course, np.arange(990, 1000), 50, 50)
    (section,) = reported(one, course, split)
    assert section.title == "Beside the paper: rai" and "series 990-999" in section.text
    (table,) = section.blocks
    theirs, ours = texts(table)
    assert (theirs[""], ours[""]) == ("paper: final", "tuned")
    assert theirs["MAE prey mean"].strip() == "0.148"
    assert float(ours["MAE prey mean"]) == pytest.approx(0.1, rel=0.05)
    assert spread(table)[1].unit == "raw units squared"
    protocol: Protocol = one.scores.protocol
    for changed in (replace(protocol, data_sha256="another file"), replace(protocol, horizon=40)):
        other = replace(one, scores=replace(one.scores, protocol=changed))
        assert reported(other, replace(course, source={"sha256": changed.data_sha256}), split) == []
    assert reported(one, course, {**split, "train": {"0": ""}}) == []  # trained on another share
    fewer, _ = evaluated(tmp_path / "fewer", course, np.arange(990, 999), 50, 50)
    assert reported(fewer, course, split) == []


def test_without_its_series_a_forecast_is_not_drawn_and_the_page_says_why(course, tmp_path):
    one, _ = evaluated(tmp_path / "e", course, np.array([7, 3]), 50, 10)
    for data in (None, replace(course, source={"sha256": "another file"}), replace(course, source={})):
        drawn = details.forecasts_of(one, data)
        assert not drawn.forecasts and "--data" in drawn.reason


def test_series_that_are_given_take_the_place_of_a_runs_own(course, work):
    folder = folders.read(work / "first")
    assert details.data_of(folder, course) is course and details.data_of(folder) is None  # it has no forecasts to draw


def test_the_tuned_models_forecasts_come_first(course, tmp_path):
    one, _ = evaluated(tmp_path / "e", course, np.array([7, 3]), 50, 10)
    for name in ("untuned", "another"):
        shutil.copy(tmp_path / "e" / "forecast_tuned.csv", tmp_path / "e" / f"forecast_{name}.csv")
    assert list(details.forecasts_of(one, course).forecasts) == ["tuned", "untuned", "another"]
