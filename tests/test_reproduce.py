"""`jaxlv reproduce`: each paper's system from data to page at a tiny size, resumed, budgeted, planned."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jaxlv.config import load_config
from jaxlv.flops import ledger
from jaxlv.published import reproduction
from jaxlv.published.systems import SYSTEMS
from jaxlv.report.page import Page
from jaxlv.report.reproduced import TITLES
from jaxlv.results.analyses import Analyses
from jaxlv.results.papers import Reproduction
from jaxlv.runs import run, sweep
from jaxlv.storage.files import ANEW
from jaxlv.studies import pages, papers, scoring, sides
from jaxlv.studies.papers import CONFIGS
from jaxlv.studies.reproduce import RESULT
from jaxlv.tools import cli
from tests import quick
from tests.faults.conftest import LONG
from tests.faults.instants import Instants
from tests.programs import files_of
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
        cli.main(["reproduce", *map(str, arguments)])
    return out.getvalue()


class Subject(NamedTuple):
    """A system that is run, and the options that name it."""

    name: str
    options: list[Any]
    quick: bool


@pytest.fixture(scope="module")
def base(random_model, tmp_path_factory) -> Path:
    return quick.write_base(tmp_path_factory.mktemp("base") / "base", random_model)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in SYSTEMS]  # minutes each: run with `make test-slow`


@pytest.fixture(scope="module", params=["quick", *SLOW])
def subject(request, data, base, tmp_path_factory) -> Iterator[Subject]:  # noqa: F811
    """The systems at a share of their steps, one part of each protocol over 5 steps; and the quick one."""
    folder, is_quick = tmp_path_factory.mktemp("configs"), request.param == "quick"
    options = ["--model", base, "--data", data, "--set", "lora.dropout=0.0"]
    with pytest.MonkeyPatch.context() as patch:
        if is_quick:
            for change in quick.changes(quick.write_configs(folder)):
                patch.setattr(*change)
            patch.setattr(sides, "measured", lambda finished, models, *_: read_once(models["tuned"]))
            patch.setattr(sides, "write_analyses", write_analyses)
            yield Subject(quick.SYSTEM, options, True)
            return
        options += ["--set", "train.forecast_series=1", "--set", "train.forecast_horizon=5"]
        configs = folder / "configs"
        shutil.copytree(CONFIGS, configs, ignore=shutil.ignore_patterns("small.toml", "__pycache__"))
        (configs / "small.toml").write_text(TINY)
        patch.setattr(papers, "CONFIGS", configs)
        patch.setattr(reproduction, "parts_of", lambda name: [replace(p, horizon=5) for p in quick.PARTS_OF(name)[:1]])
        if request.param != ANALYSED:  # the analyses, which draw many figures, of one alone
            patch.setattr(sides, "analyse_final", lambda work, data: None)
        yield Subject(request.param, options, False)


def read_once(model: Any) -> Analyses:
    """Work that the ledger pays."""
    with model.spending("validation", batch=1, length=64, head="alphabet"):
        return Analyses()


def write_analyses(out: Path, result: Analyses, title: str) -> None:
    """As the program itself: a file, folders, and the page."""
    (out / "numbers.json").write_text(json.dumps(result.tree()))
    for name in ("tables", "figures"):
        (out / name).mkdir()
    (out / "report.html").write_text(title)


@pytest.fixture(scope="module")
def reproduced(subject, tmp_path_factory) -> tuple[str, Path, str]:
    """A system, run whole."""
    out = tmp_path_factory.mktemp("reproduce") / subject.name
    return subject.name, out, said_by(subject.name, *subject.options, "--out", out)


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
    lines = result_of(out)["faults"]
    assert {line["key"] for line in lines} == {fault.key for fault in papers.SYSTEMS[name].faults}
    assert ledger.verify(out / sides.FILE) == []
    terms, entries = ledger.read(out / sides.FILE)
    spent = sum(entry.flops for entry in entries if entry.phase == "faults")
    assert 0.95 < spent * (1 + reproduction.MARGIN) / terms.envelopes["faults"] <= 1  # what it costs was planned
    assert all(
        isinstance(line[way], (int, float)) and line["unit"] for line in lines for way in ("reported_way", "right_way")
    )
    for line in (line for line in lines if line["key"] == "mean"):  # batches of four, if not all quite full
        assert line["reported_way"] / line["right_way"] == pytest.approx(0.25, rel=0.15)
    late = next(line for line in lines if line["key"] == "steps")
    assert late["reported_way"] / late["right_way"] == pytest.approx(1.0001)


def test_the_page_has_everything(reproduced):
    _, out, _ = reproduced
    page, result = (out / "report.html").read_text(), result_of(out)
    titles = [TITLES[stage["name"]] for stage in result["stages"]]
    for title in (*titles, "FLOPs by stage", "Done both ways"):
        assert title in page
    for text in (page, (out / RESULT).read_text()):
        assert str(out.parent.parent) not in text  # no path of the machine
    if (out / "analyses" / "analyses.json").is_file():
        assert json.loads((out / "analyses" / "analyses.json").read_text())["left_out"] == {} and "Adapters" in page


# ------------------------------------------------------------------------------------------------- killed anywhere

FIRST_BLOCK = "reserve first train_step"
KILLS = (  # the instants of CI, in their order: in every stage, in its blocks, between its files
    "ledger ledger.jsonl", "reserve baseline validation", "before stages/baseline.json", "reserve evaluation generation",
    "after parts/rai-test-untuned.csv", "after parts/rai-untuned.json", "before runs/first", *[FIRST_BLOCK] * 10,
    "step 1 of first", "commit first train_step", "before runs/first/checkpoints/step_00000002",
    "after runs/first/checkpoints/step_00000002", "commit first validation", "before runs/first/adapter",
    "after runs/first/adapter", "after runs/grid-learning_rate-0.003_rank-2",
    "after runs/grid-learning_rate-0.003_rank-2/checkpoints/step_00000002",
    "after runs/grid-learning_rate-0.003_rank-2/adapter", "before stages/grid.json", "step 3 of context-length-64",
    "reserve final train_step", "step 5 of final", "after runs/final/adapter", "commit evaluation generation",
    "after rai-test.png", "before parts/rai-test-final.json", "commit faults train_step", "reserve faults generation",
    "after stages/fault-scale.json", "after stages/faults.json", "reserve analyses validation", "before analyses",
    "before reproduce.json", "after reproduce.json",
)  # fmt: skip


@pytest.fixture
def without_pictures(monkeypatch) -> None:
    """Drawing is most of a tiny reproduction's time, and is done once, by the one that is not interrupted."""
    monkeypatch.setattr(pages, "page_of", lambda folder: Page("a page", "", [], []))
    monkeypatch.setattr(scoring.svg, "save_png", lambda figure, path: path.write_bytes(b"png"))
    monkeypatch.setattr(scoring.svg, "to_svg", lambda figure, label: "<svg/>")


def test_killed_at_any_instants_it_ends_with_the_same_figures(reproduced, subject, tmp_path, without_pictures):
    """One folder, killed many times, ten times in the same block: as if nothing had happened, except for the repeats."""
    if not subject.quick:
        pytest.skip("the quick one will do")
    name, whole, _ = reproduced
    arguments = ["reproduce", name, *map(str, subject.options), "--out", str(tmp_path / "out")]
    instants, kills = Instants(tmp_path / "out"), KILLS
    if LONG:
        with contextlib.redirect_stdout(io.StringIO()):
            every = Instants(tmp_path / "every")
            every.run(cli.main, ["reproduce", name, *map(str, subject.options), "--out", str(tmp_path / "every")])
        kills = [kill for kill in every.seen if kill != "before ." for _ in range(10 if kill == FIRST_BLOCK else 1)]
    for number, kill in enumerate(kills):
        code, said = instants.run(cli.main, [*arguments, *(["--resume"] if number else [])], kill)
        assert code == -9, (kill, said)
    code, said = instants.run(cli.main, arguments)
    assert code == 2 and said.endswith(f"exists already; {ANEW}\n")
    code, said = instants.run(cli.main, [*arguments, "--resume"])
    assert code == 0 and "repeated after interruptions: " in said, said
    assert quick.figures_of(tmp_path / "out") == quick.figures_of(whole)
    counted = ledger.totals([e for e in ledger.read(tmp_path / "out" / run.LEDGER)[1] if e.phase == "first"])
    assert counted.repeated > 2 * counted.effective  # far more than the margin, and none of it hidden
    found = Reproduction.read(result_of(tmp_path / "out"), RESULT)
    rows = {row.stage: row for row in found.spending}
    assert rows["first"].repeated == counted.repeated < rows["together"].repeated
    print(f"{len(kills)} kills; ledger: {ledger.read_book(tmp_path / 'out' / run.LEDGER).account.told_repeats()}")


def test_what_is_done_is_kept_on_resuming(reproduced, subject, without_pictures):
    name, out, _ = reproduced
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / RESULT).unlink()
    told = said_by(name, *subject.options, "--out", out, "--resume", "--json")
    assert json.loads(told) == {**files_of(out, "reproduce.json"), **result_of(out)}
    after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {path.name for path in before if before[path] != after.get(path)} <= {"report.html"}
    (out / "report.html").write_bytes(before[out / "report.html"])


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_the_full_plan_prints_for_the_true_shape_without_weights(name, monkeypatch):
    monkeypatch.setattr(papers, "CONFIGS", CONFIGS)
    monkeypatch.setattr(reproduction, "parts_of", quick.PARTS_OF)
    said = said_by(name, "--scale", "full", "--model", "qwen2.5-0.5b", "--plan")
    assert "hours" in said and "the paper spent" in said and "together" in said
    assert ("MORE than allowed" in said) == (name in ("xu", "liu"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--stage", "grid,last"], "unknown stage"),
        (["--out", ""], "exists already"),
        (["--data", "nothing.h5"], "nothing.h5"),
    ],
)
def test_what_is_wrong_is_one_line(subject, change, message, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    change = [tmp_path / "full" if part == "" else part for part in change]
    with pytest.raises(SystemExit):
        said_by(subject.name, *subject.options, "--out", tmp_path / "out", *change)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_stages_may_be_run_one_at_a_time(subject, tmp_path, without_pictures):
    if not subject.quick:
        pytest.skip("the quick one will do")
    said_by(subject.name, *subject.options, "--out", tmp_path / "out", "--stage", "context")
    result = result_of(tmp_path / "out")
    assert [stage["name"] for stage in result["stages"]] == ["context"] and not result["faults"]
    assert result["stages"][0]["carried"] == {}  # the paper's own choice, as the configs have it
    assert sweep.RUNS in {path.name for path in (tmp_path / "out").iterdir()}
