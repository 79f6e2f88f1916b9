"""Records of the field: which files and windows are measured, what field.json holds, and what the page shows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from known import known

from jaxlv.config import RunConfig
from jaxlv.errors import JaxlvError
from jaxlv.forecasting import pool
from jaxlv.report import field as view
from jaxlv.results import field as results
from jaxlv.results.field import Field, FieldProtocol, FieldRecord, FieldScore, summary
from jaxlv.studies import field as study
from jaxlv.studies.subjects import Asked, Subject

HOW = study.Windows(context=12, horizon=4, every=4, samples=4)


def counts(steps: int, seed: int = 0, **names: float) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    years = np.arange(1900, 1900 + steps)
    wave = 100 * np.exp(np.sin(2 * np.pi * np.arange(steps) / 9))
    return pd.DataFrame(
        {"year": years} | {n: (f * wave * random.lognormal(0, 0.1, steps)).round() for n, f in names.items()}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A long record of one species, a short one of two, one of five species, one that is too short, and a note."""
    folder = tmp_path_factory.mktemp("records")
    counts(25, lynx=1.0).to_csv(folder / "lynx.csv", index=False)
    counts(13, hare=10.0, lynx=1.0).to_csv(folder / "pair.csv", index=False)
    counts(16, **dict.fromkeys(["marten", "mink", "otter", "skunk", "wolf"], 2.0)).to_csv(folder / "furs.csv", index=False)
    counts(6, fox=1.0).to_csv(folder / "short.csv", index=False)
    (folder / "all-first.csv").write_bytes(b"\x89HDF\r\n")
    (folder / "README.md").write_text("counts of animals")
    return folder


@pytest.fixture(scope="module")
def measured(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Field, Path]:
    out = tmp_path_factory.mktemp("out") / "field"
    return study.field([folder], out, Asked("embedded"), HOW), out


def test_every_record_has_its_windows(measured):
    result, _ = measured
    found = {name: (one.windows, one.context, one.series) for name, one in result.records.items()}
    # lynx: origins at steps 21, 17 and 13; pair: 13 - 4 = 9 steps of context; furs: five series of one window
    assert found == {"lynx": (3, 12, 1), "pair": (1, 9, 1), "furs": (5, 12, 5)}
    assert list(result.left_out) == ["all-first.csv", "short.csv"]  # the first of all is no text
    assert "no series is long enough" in result.left_out["short.csv"]
    assert any("5 variables, each taken as a series of its own" in note for note in result.records["furs"].notes)


def test_field_json_holds_protocol_and_records(measured):
    result, out = measured
    tree = json.loads((out / study.RESULT).read_text())
    assert tree["protocol"]["context"] == 12 and tree["protocol"]["samples"] == 4 and tree["protocol"]["model"] == "embedded"
    rows = {row["name"]: row for row in tree["records"]["pair"]["rows"]}
    assert {"untuned", "untuned, as drawn", "pool", "last value", "VAR(3) on logs", "RM, fitted"} <= set(rows)
    for row in rows.values():
        assert {"name", "mae", "mase", "crps", "crps_scaled", "coverage"} <= set(row)
    assert set(rows["untuned"]["coverage"]) == {"50", "80", "95"} and rows["last value"]["coverage"] is None
    assert rows["last value"]["crps"] == rows["last value"]["mae"]
    assert Field.read(tree, "field.json") == result


def test_errors_are_those_of_the_windows_by_hand(measured, folder: Path):
    result, _ = measured
    values = pd.read_csv(folder / "lynx.csv")["lynx"].to_numpy()
    errors, scaled, mase = [], [], []
    for origin in (21, 17, 13):
        context, truth = values[origin - 12 : origin], values[origin : origin + 4]
        errors.append(np.abs(truth - context[-1]).mean())
        scaled.append(errors[-1] / context.mean())
        mase.append(errors[-1] / np.abs(np.diff(context)).mean())
    row = result.records["lynx"].row("last value")
    assert (row.mae, row.crps_scaled, row.mase) == pytest.approx((np.mean(errors), np.mean(scaled), np.mean(mase)))
    assert row.mae_ci95[0] < row.mae < row.mae_ci95[1]
    assert result.records["pair"].row("last value").mae_ci95 is None  # of one window


def test_weights_add_up_to_one(measured):
    result, _ = measured
    for record in result.records.values():
        assert sum(record.weights.values()) == pytest.approx(1)


def test_the_page_shows_every_record_and_method(measured):
    result, out = measured
    text = (out / study.REPORT).read_text()
    assert text.count("the last window of the first series") == 3 and "1 window of" in text and "1 windows" not in text
    for word in (*result.records, "pool", "untuned", "VAR(3) on logs", "short.csv", "each taken as a series of its own"):
        assert word in text
    assert "All records:" in view.format_tables(result) and "pool" in view.format_tables(result)


def test_what_is_drawn_and_what_is_stretched_stand_in_rows_of_their_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of four variables, which are read together; the last window is drawn, and the seed reaches the pool and the model."""

    def draw(sampling, count, samples, horizon):
        return np.random.default_rng(0).lognormal(5, 1, (count, samples, horizon, 4))

    model = known(draw)
    subject = Subject("known", None, RunConfig(), None, {"untuned": model})  # type: ignore[arg-type]
    monkeypatch.setattr(study, "open_subject", lambda asked, say: subject)
    monkeypatch.setattr(study, "in_turn", lambda baselines: [])
    counts(17, seed=3, **dict.fromkeys("abcd", 2.0)).to_csv(tmp_path / "four.csv", index=False)
    seeds, drawn = [], {}

    def pooled(model, made, series, request, on_batch):
        seeds.append(request.seed)
        drawn.update(made=made.filled(), series=series)
        other = made.filled() + 1000
        return pool.Pooled(other + 1000, other, {pool.MODEL: np.ones(len(series))})

    monkeypatch.setattr(pool, "pool_of", pooled)
    shown = []
    monkeypatch.setattr(study, "page_of", lambda result, panels: shown.append(panels) or view.page_of(result, panels))
    how = replace(HOW, every=1, seed=11)
    record = study.field([tmp_path / "four.csv"], tmp_path / "out", Asked("known"), how).records["four"]
    assert record.variables == tuple("abcd") and record.series == 1 and record.windows == 2
    assert seeds == [one.request.seed for one in model.asked] == [11]
    truth = drawn["series"].values_NTV[:, 12:]
    for name, more in (("untuned", 1000), ("untuned, as drawn", 0), ("pool", 2000)):
        expected = np.abs(np.median(drawn["made"], axis=1) + more - truth).mean()
        assert record.row(name).mae == pytest.approx(expected)
    (panel,) = shown[0].values()
    np.testing.assert_allclose(panel.observed_TV, drawn["series"].values_NTV[-1])


def test_how_samples_are_drawn_is_as_asked(folder: Path, tmp_path: Path):
    greedy = Asked("embedded", sampling={"temperature": 0.0})
    result = study.field([folder / "pair.csv"], tmp_path / "out", greedy, HOW)
    row = result.records["pair"].row("untuned, as drawn")
    assert row.crps == pytest.approx(row.mae) and row.coverage["50"] == row.coverage["95"]  # all samples are one


def test_a_run_gets_its_variables_in_its_own_order(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(study.given, "in_order", lambda found, finished: found.ordered(("lynx", "hare")))
    result = study.field([folder / "pair.csv"], tmp_path / "out", Asked("embedded"), HOW)
    assert result.records["pair"].variables == ("lynx", "hare")


def test_files_of_one_stem_keep_their_whole_names(tmp_path: Path):
    for name in ("a.csv", "a.tsv", "b.csv"):
        (tmp_path / name).write_text("x")
    files = study.files_of([tmp_path, tmp_path / "b.csv"])
    assert [path.name for path in files] == ["a.csv", "a.tsv", "b.csv"]
    assert sorted(study._stems(files).values()) == ["a.csv", "a.tsv", "b"]


def test_nothing_to_measure_is_one_line_and_leaves_no_folder(tmp_path: Path, folder: Path):
    with pytest.raises(JaxlvError, match="no files of series"):
        study.field([tmp_path], tmp_path / "out", Asked("embedded"), HOW)
    with pytest.raises(JaxlvError, match="no record can be measured"):
        study.field([folder / "short.csv"], tmp_path / "out", Asked("embedded"), HOW)
    assert not (tmp_path / "out").exists()


def test_scores_of_several_variables_by_hand():
    """Errors of 1 and 20 of values of 10 and 100; in the second window of 3 and 20."""
    context = np.array([[10.0, 100], [10, 100]])[:, None].repeat(4, axis=1)
    context[:, ::2] += [[1, 2]]  # steps of 1 and of 2
    truth = context[:, :2] * 0 + 10
    point = truth + np.array([[1.0, 20], [3, 20]])[:, None]
    found = study._score(study._Method("x", point), truth, context, np.zeros((2, 2)))
    assert found.mae == 11 and found.crps_scaled == pytest.approx((2 / 10.5 + 20 / 101) / 2)
    assert found.mase == pytest.approx((1 + 3 + 10 + 10) / 4)


def test_each_level_is_the_share_within_its_own_band():
    samples = np.arange(39.0).reshape(1, 39, 1, 1).repeat(8, axis=2)  # the 80 % band is 3 to 35
    truth = np.array([19.0, 20, 18, 30, 8, 34, 4, 37]).reshape(1, 8, 1)
    found = study._score(study._sampled("x", samples), truth, np.ones((1, 3, 1)), np.zeros((1, 1)))
    assert found.coverage == {"50": 3 / 8, "80": 7 / 8, "95": 1.0}


def test_weights_are_means_over_the_windows():
    weights = {pool.MODEL: np.array([0.0, 0.1, 0.8]), "analog": np.array([1.0, 0.9, 0.2])}
    drawn = study._Drawn("tuned", None, pool.Pooled(np.zeros(0), np.zeros(0), weights))  # type: ignore[arg-type]
    assert drawn.weights == pytest.approx({"tuned": 0.3, "analog": 0.7})


# The summary over records


def score(name: str, scaled: float, inside: float | None = None) -> FieldScore:
    coverage = None if inside is None else {"50": 0.5, "80": inside, "95": 0.9}
    return FieldScore(name=name, mae=5 * scaled + 1, crps=3 * scaled + 2, crps_scaled=scaled, coverage=coverage)


RECORDS = {
    "one": FieldRecord(10, (score("pool", 1.0, 0.9), score("untuned", 2.0, 0.6), score("a", 2.0), score("b", 4.0))),
    "two": FieldRecord(30, (score("pool", 4.0, 0.7), score("untuned", 8.0, 0.8), score("a", 8.0), score("b", 1.0))),
}


def test_the_summary_by_hand():
    best, found = summary(RECORDS)
    rows = {one.name: one for one in found}
    assert best == "b"  # sqrt(4 x 1) = 2, and sqrt(2 x 8) = 4 for a
    assert rows["pool"].crps_relative == pytest.approx(1.0) and rows["untuned"].crps_relative == pytest.approx(2.0)
    assert rows["a"].crps_relative == pytest.approx(2.0) and rows["b"].crps_relative == pytest.approx(1.0)
    assert rows["pool"].coverage_80 == pytest.approx((10 * 0.9 + 30 * 0.7) / 40) and rows["pool"].least_coverage_80 == 0.7
    assert rows["a"].coverage_80 is None


def test_a_mean_over_records_is_geometric_and_there_is_none_of_what_is_not_above_zero():
    assert results._geometric([1.0, 8.0, 27.0]) == pytest.approx(6)
    assert results._geometric([1.0, None]) is None and results._geometric([1.0, 0.0]) is None


def test_a_method_that_a_record_lacks_is_not_summed_up():
    two = replace(RECORDS["two"], rows=RECORDS["two"].rows[:-1])
    best, found = summary({**RECORDS, "two": two})
    assert best == "a" and "b" not in {one.name for one in found}


def test_the_best_baseline_of_a_record_is_neither_model_nor_pool():
    assert RECORDS["one"].best_baseline.name == "a" and RECORDS["two"].best_baseline.name == "b"


def test_the_summary_says_how_model_and_pool_stand():
    best, found = summary(RECORDS)
    result = Field(FieldProtocol("m", 30, 8, 2, 20, 0, "interpolate"), RECORDS, best, found)
    text = view.summary(result)
    assert "2 records, 40 windows" in text and "The pool's CRPS is 1.00 times that of b" in text
    assert "The untuned model's CRPS is 2.00 times" in text and "hold 75.0 %" in text
    both = {name: replace(one, rows=(*one.rows, score("tuned", 6.0))) for name, one in RECORDS.items()}
    best, found = summary(both)
    text = view.summary(replace(result, records=both, summary=found))
    assert "The tuned model's CRPS is 3.00 times" in text and "untuned" not in text


def test_records_below_zero_are_measured_in_their_own_units(tmp_path: Path):
    frame = counts(14, lynx=1.0)
    frame["lynx"] -= 250.0
    frame.to_csv(tmp_path / "below.csv", index=False)
    row = study.field([tmp_path / "below.csv"], tmp_path / "out", Asked("embedded"), HOW).records["below"].row("last value")
    values = frame["lynx"].to_numpy()
    assert values[:10].min() < 0 and row.mae == pytest.approx(np.abs(values[10:] - values[9]).mean())
    assert row.crps_scaled == pytest.approx(row.mae / np.abs(values[:10]).mean())
