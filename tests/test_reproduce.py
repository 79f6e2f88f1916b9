"""`jaxlv reproduce`: each reported system from data to page at a tiny size, resumed, budgeted, planned."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jaxlv.config import load_config
from jaxlv.flops import ledger
from jaxlv.model.weights import EMBEDDED_BASE, save_pretrained
from jaxlv.published import reproduction
from jaxlv.published.systems import SYSTEMS
from jaxlv.report import reproductions
from jaxlv.runs import run, sweep
from jaxlv_tools import beside, reproduce
from jaxlv_tools.reproduce import CONFIGS, RESULT
from tests.test_compare import data  # noqa: F401

TINY = """
[stage]
share = 0.0005
[model]
attention = "blocked"
[train]
batch_size = 1
validation_windows = 4
log_every = 1000
[evaluate]
series = 1
batch_series = 1
"""


ANALYSED = "liu"  # one of those that take their time


def said_by(*arguments: Any) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        reproduce.main([str(argument) for argument in arguments])
    return out.getvalue()


@pytest.fixture(scope="module")
def options(data, random_model, tmp_path_factory) -> list[Any]:  # noqa: F811
    """The tiny scale in place of the small one, one part of a protocol over 5 steps; a base of one layer."""
    folder = tmp_path_factory.mktemp("tiny")
    sizes = {"vocab_size": 16, "num_hidden_layers": 1, "max_position_embeddings": 2048}
    save_pretrained(folder / "base", *random_model(**sizes))
    for file in EMBEDDED_BASE.glob("tokenizer*"):  # for a token that pads
        shutil.copy(file, folder / "base")
    shutil.copytree(CONFIGS, folder / "configs", ignore=shutil.ignore_patterns("small.toml", "__pycache__"))
    (folder / "configs" / "small.toml").write_text(TINY)
    reproduce.CONFIGS, whole = folder / "configs", reproduction.parts_of
    reproduction.parts_of = lambda name: [replace(part, horizon=5) for part in whole(name)[:1]]
    changes = {"train.forecast_series": 1, "train.forecast_horizon": 5, "lora.dropout": 0.0}
    yield ["--model", folder / "base", "--data", data, *(p for k, v in changes.items() for p in ("--set", f"{k}={v}"))]
    reproduce.CONFIGS, reproduction.parts_of = CONFIGS, whole


QUICK = "rai"  # the system of the fewest runs; the others are minutes each, and run with `make test-slow`


@pytest.fixture(scope="module", params=[pytest.param(n, marks=[pytest.mark.slow] * (n != QUICK)) for n in SYSTEMS])
def reproduced(request, options, tmp_path_factory) -> tuple[str, Path, str]:
    """A system, run whole; the errors of all but the quick one, the analyses, which draw many figures, of one alone."""
    out = tmp_path_factory.mktemp("reproduce") / request.param
    with pytest.MonkeyPatch.context() as patch:
        if request.param != ANALYSED:
            patch.setattr(beside, "analyse_final", lambda work, data: None)
        if request.param == QUICK:
            patch.setattr(beside, "measure_faults", lambda work, data: None)
        return request.param, out, said_by(request.param, *options, "--out", out)


def result_of(out: Path) -> dict[str, Any]:
    return json.loads((out / RESULT).read_text())


def test_every_stage_runs_and_hands_on_what_it_chose(reproduced):
    name, out, said = reproduced
    stages = {stage["name"]: stage for stage in result_of(out)["stages"]}
    assert list(stages) == [n for n in ("baseline", "first", "grid", "context", "final") if name != "xu" or n != "first"]
    for stage in stages.values():
        rule = SYSTEMS[name].rule
        assert stage["best"] == min(stage["runs"], key=lambda one: one[rule])["name"]
        assert f"{stage['name']}: {len(stage['runs'])} run" in said
    best = next(one for one in stages["grid"]["runs"] if one["name"] == stages["grid"]["best"])
    length = next(one for one in stages["context"]["runs"] if one["name"] == stages["context"]["best"])
    final = load_config(out / "runs" / "final" / run.CONFIG)
    assert final.lora.rank == best["settings"]["lora.rank"]
    assert final.optimizer.learning_rate == best["settings"]["optimizer.learning_rate"]
    assert final.windows.length == length["settings"]["windows.length"]
    assert all(one["steps"] for stage in stages.values() if stage["trains"] for one in stage["runs"])


def test_one_ledger_pays_every_stage_within_its_envelope(reproduced):
    name, out, _ = reproduced
    result, (terms, entries) = result_of(out), ledger.read(out / run.LEDGER)
    assert terms.convention == name and ledger.verify(out / run.LEDGER) == []
    spent = {phase: sum(e.flops for e in entries if e.phase == phase) for phase in {e.phase for e in entries}}
    assert set(spent) == {stage["name"] for stage in result["stages"]} | {"evaluation"}
    assert {phase: one["flops"] for phase, one in result["bill"]["phases"].items()} == spent
    trained = {entry.run for entry in entries if entry.event.kind == "train_step"}
    runs = [one for stage in result["stages"] if stage["trains"] for one in stage["runs"] if "same_as" not in one]
    assert trained == {one["name"] for one in runs}
    for one in runs:
        own = sum(e.flops for e in entries if e.run == one["name"] and e.phase != "evaluation")
        assert one["flops"][name] == own or one["name"] in ("first", "final")  # these forecast, too


def test_the_models_the_report_and_the_baselines_stand_in_one_table(reproduced):
    name, out, said = reproduced
    for part in result_of(out)["parts"].values():
        names = [row["name"] for row in part["rows"]]
        assert names[0] == "untuned" and "final" in names and "last value" in names
        assert ("first run" in names) == (name != "xu")
        assert part["part"] in said
        assert (out / "parts" / f"{part['part']}-final.csv").is_file()


def test_each_error_is_done_both_ways(reproduced):
    name, out, _ = reproduced
    if name == QUICK:
        pytest.skip("its errors were not done")
    lines = result_of(out)["faults"]
    assert {line["key"] for line in lines} == {fault.key for fault in SYSTEMS[name].faults}
    terms, entries = ledger.read(out / beside.FILE)
    assert sum(entry.flops for entry in entries) <= terms.budget
    assert all(
        isinstance(line[way], (int, float)) and line["unit"] for line in lines for way in ("reported_way", "right_way")
    )
    for line in (line for line in lines if line["key"] == "mean"):  # batches of four, if not all quite full
        assert line["reported_way"] / line["right_way"] == pytest.approx(0.25, rel=0.15)
    late = next(line for line in lines if line["key"] == "steps")
    assert late["reported_way"] / late["right_way"] == pytest.approx(1.0001)


def test_the_page_has_everything(reproduced):
    name, out, _ = reproduced
    page, result = (out / "report.html").read_text(), result_of(out)
    titles = [reproductions.TITLES[stage["name"]] for stage in result["stages"]]
    for title in (*titles, "FLOPs by stage", *(["Done both ways"] if name != QUICK else [])):
        assert title in page
    for text in (page, (out / RESULT).read_text()):
        assert str(out.parent.parent) not in text  # no path of the machine
    if name == ANALYSED:
        assert json.loads((out / "analyses" / "analyses.json").read_text())["left_out"] == {} and "Adapters" in page


def test_what_is_done_is_kept_on_resuming(reproduced, options):
    name, out, _ = reproduced
    if name != ANALYSED:
        pytest.skip("its analyses were not made")
    kept = [(out / file).read_bytes() for file in (run.LEDGER, beside.FILE)]
    (out / RESULT).unlink()
    said_by(name, *options, "--out", out, "--resume")
    assert [(out / file).read_bytes() for file in (run.LEDGER, beside.FILE)] == kept
    assert (out / RESULT).is_file()


def test_an_interrupted_stage_goes_on(reproduced, options, tmp_path, monkeypatch):
    name, whole, _ = reproduced
    if name != ANALYSED:
        pytest.skip("one system will do")
    train, begun = reproduce.train, []

    def cut(found: Any, folder: Path, *more: Any) -> Any:
        if begun:
            raise KeyboardInterrupt
        begun.append(found)
        return train(found, folder, *more)

    monkeypatch.setattr(reproduce, "train", cut)
    with pytest.raises(SystemExit):
        said_by(name, *options, "--out", tmp_path / "out")
    assert {path.stem for path in (tmp_path / "out" / "stages").glob("*.json")} == {"baseline", "first"}
    monkeypatch.setattr(reproduce, "train", train)
    said_by(name, *options, "--out", tmp_path / "out", "--resume")
    results = [result_of(folder) for folder in (whole, tmp_path / "out")]
    figures = [
        [(one["name"], one["validation_loss"], one["forecast_mae"]) for stage in result["stages"] for one in stage["runs"]]
        for result in results
    ]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_the_full_plan_prints_for_the_true_shape_without_weights(name):
    said = said_by(name, "--scale", "full", "--model", "qwen2.5-0.5b", "--plan")
    assert "hours" in said and "the report spent" in said and "together" in said
    assert ("MORE than allowed" in said) == (name in ("xu", "liu"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--stage", "grid,last"], "unknown stage"),
        (["--out", ""], "exists already"),
        (["--data", "nothing.h5"], "nothing.h5"),
    ],
)
def test_what_is_wrong_is_one_line(options, change, message, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    change = [tmp_path / "full" if part == "" else part for part in change]
    with pytest.raises(SystemExit):
        said_by("rai", *options, "--out", tmp_path / "out", *change)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_stages_may_be_run_one_at_a_time(options, tmp_path):
    said_by("rai", *options, "--out", tmp_path / "out", "--stage", "context")
    result = result_of(tmp_path / "out")
    assert [stage["name"] for stage in result["stages"]] == ["context"] and not result["faults"]
    assert result["stages"][0]["carried"] == {}  # the report's own choice, as the configs have it
    assert sweep.RUNS in {path.name for path in (tmp_path / "out").iterdir()}
