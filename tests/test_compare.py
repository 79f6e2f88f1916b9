"""`jaxlv compare`: the protocols run from data to page, figures that can be recomputed, and what a run has seen left out."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jaxlv.data import loading, series
from jaxlv.flops import ledger
from jaxlv.forecasting.baselines import BASELINES
from jaxlv.model.weights import save_pretrained
from jaxlv.report import papers
from jaxlv.report.format import number
from jaxlv.results.papers import Comparison, PartResult
from jaxlv.runs import run
from jaxlv.storage.files import ANEW
from jaxlv.studies.compare import RESULT as COMPARE
from jaxlv.tools import cli
from tests.faults.conftest import unfinished
from tests.faults.instants import Instants
from tests.programs import files_of, full_disk, jaxlv

SETTINGS = {
    "train.steps": 1, "train.batch_size": 1, "train.validation_windows": 1, "windows.length": 64, "windows.stride": 500,
    "windows.context_steps": "[8, 12]", "lora.rank": 2, "evaluate.batch_series": 2,
}  # fmt: skip


def said_by(*arguments: Any) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        cli.main(["compare", *map(str, arguments)])
    return out.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """1000 series of 100 steps, as the course's data set has."""
    path = tmp_path_factory.mktemp("data") / "waves.h5"
    random = np.random.default_rng(0)
    time_T, phase_N1V = np.linspace(0, 200, 100), random.uniform(0, 6, (1000, 1, 2))
    values_NTV = 1.2 + np.sin(time_T[:, None] * random.uniform(0.1, 0.3, (1000, 1, 1)) + phase_N1V)
    series.save(path, series.from_arrays(values_NTV.astype(np.float32), time_T))
    return path


@pytest.fixture(scope="module")
def options(data, random_model, tmp_path_factory) -> list[Any]:
    base = tmp_path_factory.mktemp("base") / "long"  # a context of 80 steps has 800 tokens
    save_pretrained(base, *random_model(vocab_size=32, num_hidden_layers=1, max_position_embeddings=2048))
    changes = {**SETTINGS, "model.path": repr(str(base))}
    return ["--data", data, "--max-series", 2, "--pool", *(p for k, v in changes.items() for p in ("--set", f"{k}={v}"))]


@pytest.fixture(scope="module")
def compared(tmp_path_factory, options) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("compare") / "out"
    return out, said_by(*options, "--out", out, "--protocols", "liu")


def test_a_comparison_leaves_forecasts_figures_and_a_page(compared):
    out, said = compared
    result = json.loads((out / COMPARE).read_text())
    part = result["protocols"]["liu"]["parts"]["liu"]
    assert [row["name"] for row in part["rows"]] == ["tuned", "untuned", "pool", *BASELINES]
    assert part["rows"][2]["coverage"] and {*part["rows"][2]["figures"]} == {*part["rows"][0]["figures"]}
    assert {path.name for path in out.iterdir()} >= {"liu.csv", "liu-untuned.csv", COMPARE, "report.html", "runs", "parts"}
    assert "paper: first run" in said and "sum of both species' MSE" in said
    found = Comparison.read(result, COMPARE)
    overview = papers.format_overview(found)
    assert overview in said and overview in (out / "compare.txt").read_text()
    rows = {row.what: row for row in found.headlines}
    row = rows["liu: sum of MSE, series 1, raw units squared"]
    assert row.report == 0.0091 and row.rival in BASELINES and "oracle" not in row.rival
    assert str(out.parent) not in (out / COMPARE).read_text()


def test_the_figures_follow_from_the_csv(compared, data):
    """The point forecast is the median of the samples; liu's error the sum of both species' MSE."""
    out, _ = compared
    part = json.loads((out / COMPARE).read_text())["protocols"]["liu"]["parts"]["liu"]
    table = pd.read_csv(out / "liu.csv")
    truth = loading.load(data)
    sums = []
    for i in part["protocol"]["series"]:
        rows = table[(table.series == i) & table.statistic.str.startswith("sample_")]
        median = rows.groupby(["variable", "step"]).value.median()
        errors = [
            median[name].to_numpy() - truth.select([i]).values_NTV[0, 80:, v] for v, name in enumerate(truth.variables)
        ]
        sums.append(sum((error**2).mean() for error in errors))
    tuned = part["rows"][0]["figures"]
    assert tuned["mse_sum_raw"]["mean"] == pytest.approx(np.mean(sums), rel=1e-4)
    assert tuned["mse_sum_series_1"]["mean"] == pytest.approx(sums[1], rel=1e-4)


def test_the_flops_are_those_of_the_ledger_within_the_budget(compared):
    out, said = compared
    flops = json.loads((out / COMPARE).read_text())["protocols"]["liu"]["flops"]
    assert flops["total"] == flops["tuning"] + flops["validation"] + flops["forecasts"] <= flops["budget"] == 10**15
    assert min(flops["tuning"], flops["validation"], flops["forecasts"]) > 0
    assert flops["convention"] == "coursework" and f"{number(float(flops['total']))} FLOPs" in said


def test_a_comparison_is_resumed_where_it_stopped_or_could_not_write(compared, options, capsys):
    out, _ = compared
    kept = (out / "liu.csv").stat().st_mtime_ns
    written = {name: (out / name).read_bytes() for name in (COMPARE, "compare.txt", "report.html")}
    (out / COMPARE).unlink()
    with full_disk(), pytest.raises(SystemExit):
        said_by(*options, "--out", out, "--protocols", "liu", "--resume")
    assert not (out / COMPARE).exists() and not list(out.rglob(".*.tmp"))
    told = json.loads(said_by(*options, "--out", out, "--protocols", "liu", "--resume", "--json"))
    assert {name: (out / name).read_bytes() for name in written} == written
    assert told == {**files_of(out, COMPARE), **json.loads(written[COMPARE])}
    assert (out / COMPARE).is_file() and (out / "liu.csv").stat().st_mtime_ns == kept
    with pytest.raises(SystemExit):
        said_by(*options, "--out", out, "--protocols", "liu")
    assert f"exists already; {ANEW}" in capsys.readouterr().err


def test_a_comparison_ends_wherever_it_was_killed(compared, options, tmp_path):
    whole, out = compared[0], tmp_path / "out"
    kills = ["before runs/liu", "reserve final train_step", "reserve final train_step", "after runs/liu/adapter"]
    kills += ["reserve evaluation generation", "after liu.csv", "before parts/liu.json", "after parts/liu.json"]
    kills += ["before compare.json", "before compare.txt"]
    instants, arguments = Instants(out), ["compare", *map(str, options), "--out", str(out), "--protocols", "liu"]
    for place, kill in enumerate(kills):
        code, said = instants.run(cli.main, [*arguments, *(["--resume"] if place else [])], kill)
        assert code == -9, (kill, said)
    code, said = instants.run(cli.main, [*arguments, "--resume"])
    assert code == 0 and "repeated after interruptions" in said, said
    found, expected = (json.loads((folder / COMPARE).read_text())["protocols"]["liu"] for folder in (out, whole))
    again = found["flops"].pop("repeated")
    assert again > 0 and expected["flops"].pop("repeated") == 0
    assert found.pop("flops")["total"] - again == expected.pop("flops")["total"] and found == expected
    assert ledger.verify(out / "runs" / "liu" / run.LEDGER) == [] and not unfinished(out)


def test_a_run_is_scored_only_where_it_has_not_seen_the_test_series(compared, data, tmp_path):
    """liu's run trained on most of what rai tests on; its own test series it has not seen."""
    out, _ = compared
    changes = ["--data", data, "--protocols", "rai,liu", "--max-series", 1, "--tuned-only"]
    said = said_by(out / "runs" / "liu", *changes, "--out", tmp_path / "out")
    assert "rai: not scored; the run has seen 1 of its 1 test series" in said
    result = json.loads((tmp_path / "out" / COMPARE).read_text())
    assert list(result["protocols"]["liu"]["parts"]) == ["liu"]
    assert [row["name"] for row in result["protocols"]["liu"]["parts"]["liu"]["rows"]] == ["tuned", *BASELINES]
    assert "rai" not in result["protocols"]["rai"]["parts"]
    (tmp_path / "out" / "older.txt").touch()
    said_by(out / "runs" / "liu", *changes, "--out", tmp_path / "out", "--overwrite")
    again = json.loads((tmp_path / "out" / COMPARE).read_text())
    assert again["protocols"]["liu"]["parts"] == result["protocols"]["liu"]["parts"]  # the run has paid twice
    assert not (tmp_path / "out" / "older.txt").exists()
    assert not unfinished(tmp_path / "out")


def test_a_comparison_that_scored_nothing_ends_with_exit_code_2(compared, data, tmp_path):
    run_folder, out = compared[0] / "runs" / "liu", tmp_path / "none"
    options = ["--data", data, "--protocols", "rai", "--max-series", 1, "--tuned-only", "--out", out]
    outcome = jaxlv("compare", run_folder, *options)
    assert outcome.code == 2 and "nothing was scored" in outcome.err
    assert json.loads((out / COMPARE).read_text())["protocols"]["rai"]["parts"] == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--resume", "--overwrite"], "goes on or begins anew, not both"),
        (["--protocols", "xu,zhu"], "unknown protocol"),
        (["--data", "few"], "defined on the course's data set"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(change, message, options, data, tmp_path, capsys):
    few = tmp_path / "few.h5"
    series.save(few, loading.load(data).select(range(10)))
    change = [str(few) if part == "few" else part for part in change]
    with pytest.raises(SystemExit):
        said_by(*options, "--out", tmp_path / "out", *change)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_page_marks_the_best_of_models_and_baselines_not_the_report(compared):
    part = json.loads((compared[0] / COMPARE).read_text())["protocols"]["liu"]["parts"]["liu"]
    table = papers.table_of(PartResult.read(part, "compare.json"))
    best = [[cell.best for cell in row] for row in table.cells]
    assert sum(row[1] for row in best) == 1
    assert not any(any(row) for row, line in zip(best, table.cells, strict=True) if line[0].text.startswith("report"))
