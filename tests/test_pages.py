"""What pages and summaries say of sweeps, runs side by side, reproductions and probes: each number its own."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import records
from drawn import bold, cells, tables
from records import unlike

from jaxlv.data.series import from_arrays
from jaxlv.forecasting.forecast import Forecast
from jaxlv.forecasting.panels import panel_of
from jaxlv.published.protocols import PROTOCOLS
from jaxlv.report import evaluation, folders, probe, runs, side_by_side, sweeps
from jaxlv.report import reproduced as page_of_paper
from jaxlv.report.format import MISSING, duration, number, percent, shortened, text
from jaxlv.results.folders import Run
from jaxlv.results.papers import Reproduction
from jaxlv.results.probe import Probe
from jaxlv.results.runs import RunCost, RunDetails
from jaxlv.results.scores import Evaluation
from jaxlv.results.side_by_side import Entry
from jaxlv.results.sweeps import Outcome, Sweep, front, rule_words
from jaxlv.studies import scoring

# -------------------------------------------------------------------------------------------------- the run of a paper


def scores(tree: dict[str, Any]) -> Evaluation:
    return Evaluation.read(tree, "metrics.json")


def test_the_summary_says_each_figure_by_its_name():
    metrics = records.evaluation()
    tuned, untuned, analog, last = metrics["rows"]
    text = evaluation.summary(scores(metrics))
    assert text.startswith("Given 4 steps of context, the forecast of the next 3 steps by the tuned model is off by")
    assert f"is off by {number(tuned['mae'])} hares on average" in text
    assert f"95 % interval {number(tuned['mae_ci95'][0])} to {number(tuned['mae_ci95'][1])}" in text
    assert f"median over series {number(tuned['mae_median'])})" in text
    best = min((analog, last), key=lambda row: row["mae"])
    assert f"the best baseline, {best['name']} ({number(best['mae'])}" in text
    assert f"Its 80 % bands hold {percent(tuned['coverage']['80'])} % of the true values." in text
    nats = f"costs it {number(tuned['nats_per_value'])} nats per value ({number(untuned['nats_per_value'])} by the untuned"
    assert nats in text and f"Of its samples, {percent(tuned['valid_share'])} % are valid." in text


def test_captions_say_what_was_given_and_forecast_by_which_model():
    metrics = records.evaluation()
    text = evaluation.protocol_text(scores(metrics).protocol)
    assert text.startswith("3 series; 4 steps of context; 3 steps of forecast; 5 samples per series, their median scored.")
    panels = [
        panel_of(i, records.VARIABLES, np.arange(7.0), np.ones((4, 2)), np.ones((3, 2)), np.ones((5, 3, 2)))
        for i in (3, 8, 9)
    ]
    errors = metrics["rows"][0]["mae_by_series"]
    blocks = next(s for s in evaluation.result_sections(scores(metrics), panels) if s.title == "Forecasts").blocks
    for block, series in zip(blocks, sorted(errors, key=errors.get), strict=True):
        label, phase = (re.search('aria-label="([^"]*)"', drawing)[1] for drawing in block.svgs)
        assert label == f"Series {series}: forecast of hare and lynx by the tuned model"
        assert phase == f"Series {series}: phase plane, lynx against hare"
        assert block.caption.startswith(f"Series {series} (MAE {number(errors[series])} hares).")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (0.25, "2.0 times smaller than the error of the untuned model (0.500)"),
        (0.4, "20.0 % below the error of the untuned model (0.500)"),
        (0.6, "20.0 % above the error of the untuned model (0.500)"),
        (6.0, "12 times larger than the error of the untuned model (0.500)"),
        (0.5, "the same as the error of the untuned model (0.500; the intervals overlap)"),
    ],
)
def test_errors_are_compared_the_right_way_round(error, words):
    metrics = records.evaluation()
    metrics["rows"][0] |= {"mae": error, "mae_ci95": [0.99 * error, 1.01 * error]}
    metrics["rows"][1] |= {"mae": 0.5, "mae_ci95": [0.495, 0.505]}
    assert words in evaluation.summary(scores(metrics))


@pytest.mark.parametrize(
    ("ends", "overlap"), [([0.2, 0.5], True), ([0.2, 0.39], False), ([0.7, 0.9], False), ([0.5, 0.9], True)]
)
def test_intervals_overlap_where_they_share_a_value(ends, overlap):
    metrics = records.evaluation()
    metrics["rows"][0] |= {"mae": 0.3, "mae_ci95": ends}
    metrics["rows"][1] |= {"mae": 0.5, "mae_ci95": [0.4, 0.6]}
    told = evaluation.summary(scores(metrics)).partition("untuned model (0.500")[2]
    assert told.startswith("; the intervals overlap)") == overlap


def test_the_bill_names_its_figures():
    cost = RunCost(steps=1234, tokens=567_890, seconds=7390.0, trainable_parameters=24_576, peak_memory_bytes=3 * 2**30)
    assert evaluation.bill_pairs(replace(cost, device="CPU")) == [
        ("Training steps", "1,234"), ("Tokens trained on", "567,890"), ("Training time", "2 h 3 min"),
        ("Trainable parameters", "24,576"), ("Device", "CPU"), ("Peak memory", "3.00 GiB"),
    ]  # fmt: skip
    assert [duration(seconds) for seconds in (9.5, 61.0, 90.0, 3599.0, 3661.0)] == [
        "9.50 s",
        "1 min 1 s",
        "1 min 30 s",
        "1 h 0 min",
        "1 h 1 min",
    ]


def test_shares_are_never_rounded_up_to_all_and_zero_has_no_sign():
    assert [percent(share) for share in (0.5, 0.996, 0.9994, 0.99951, 1.0)] == ["50.0", "99.6", "99.9", "99.9", "100"]
    assert [text(value, "signed") for value in (0.25, 0.0, -0.25)] == ["+0.250", "0", "−0.250"]


def test_a_long_list_is_told_by_its_length_and_its_ends():
    assert shortened(list(range(5, 18))) == "13: 5, 6, 7, 8, …, 17" and shortened([5] * 12) == ", ".join(["5"] * 12)


def test_the_series_that_are_shown_are_at_the_ranks_that_their_words_say():
    metrics = records.evaluation()
    errors = dict(zip(map(str, range(50, 61)), unlike(9, 11), strict=True))
    metrics["rows"][0]["mae_by_series"] = errors
    ranked = sorted(errors, key=errors.get)
    panels = [
        panel_of(i, records.VARIABLES, np.arange(7.0), np.ones((4, 2)), None, np.ones((5, 3, 2))) for i in map(int, errors)
    ]
    section = next(s for s in evaluation.result_sections(scores(metrics), panels) if s.title == "Forecasts")
    for block, place, rank in zip(section.blocks, (1, 5, 9), (10, 50, 90), strict=True):
        words = f"MAE {number(errors[ranked[place]])} hares, the {rank}th percentile of 11 series"
        assert block.caption.startswith(f"Series {ranked[place]} ({words}).")


# -------------------------------------------------------------------------------------------------------------- sweeps


def one_run(name: str, seed: int, **settings: Any) -> dict[str, Any]:
    a = unlike(800 + seed, 6)
    return {
        "name": name, "settings": {f"lora.{key}": value for key, value in settings.items()}, "steps": 100 + seed,
        "tokens": 9000 + seed, "train_loss": a[0], "validation_loss": a[1], "validation_perplexity": 1 + a[2],
        "forecast_mae": a[3], "best_step": 50 + seed, "reported": 2 + a[4], "seconds": 30 + a[5], "history": [],
        "flops": {"coursework": 1e9 * (1 + seed), "exact": 7e9 * (1 + seed)},
    }  # fmt: skip


RUNS = [one_run("a", 1, rank=2), one_run("b", 2, rank=4), one_run("c", 3, rank=8)]


@pytest.mark.parametrize("rule", ["validation_loss", "forecast_mae"])
def test_a_sweep_shows_each_runs_figures_under_their_headings(rule):
    best = min(RUNS, key=lambda one: one[rule])
    result = {"config": "x.toml", "rule": rule, "best": best["name"], "runs": RUNS, "versions": {}}
    page = sweeps.page_of(Sweep.read(result, "sweep.json"))
    table = tables(page)["Runs"]
    head = {
        "validation_loss": "validation loss [nats per token]", "forecast_mae": "validation MAE [raw units]",
        "train_loss": "training loss [nats per token]", "validation_perplexity": "perplexity", "reported": "the paper's",
        "seconds": "time [s]",
    }  # fmt: skip
    for one in RUNS:
        row = cells(table)[one["name"]]
        assert row["settings: rank"] == str(one["settings"]["lora.rank"])
        assert {key: row[heading] for key, heading in head.items()} == {key: number(one[key]) for key in head}
        assert (row["steps"], row["tokens"], row["best step"]) == (
            f"{one['steps']}",
            f"{one['tokens']:,}",
            f"{one['best_step']}",
        )
        assert row["FLOPs"] == number(one["flops"]["coursework"])
    assert bold(table) == {(best["name"], head[rule])}
    assert page.summary.startswith(f"3 runs, 306 steps. Least {rule_words(rule)}: {number(best[rule])}, with")
    seconds = sum(one["seconds"] for one in RUNS)
    assert dict(page.bill) == {
        "runs": "3", "steps": "306", "training": f"{number(seconds)} s", "FLOPs": number(2e9 + 3e9 + 4e9),
    }  # fmt: skip
    blocks = next(section for section in page.sections if section.title == "Runs").blocks
    assert len(blocks) == 3  # the table, the effect of the rank, and error against FLOPs, which differ


def test_costs_that_hardly_differ_are_no_axis():
    alike = [{**one, "flops": {"coursework": 1e9 * (1 + n / 100)}} for n, one in enumerate(RUNS)]
    runs_of = [Outcome.read(one, "sweep.json") for one in alike]
    assert len(sweeps.sections(runs_of, "validation_loss", "a")[0].blocks) == 2


@pytest.mark.parametrize(
    ("points", "kept"),
    [([(1, 5), (2, 4), (3, 6), (4, 1)], [0, 1, 3]), ([(2, 1), (1, 1)], [1]), ([(1, 2), (1, 1)], [1]), ([], [])],
)
def test_the_front_is_what_no_other_beats_in_both(points, kept):
    assert front(points) == kept


# -------------------------------------------------------------------------------------------------------- side by side


def entry_of(one: dict[str, Any], *evaluations: Evaluation) -> Entry:
    return Entry(one["name"], one["name"], one["settings"], Outcome.read(one, "sweep.json"), evaluations)


def measured(error: float, ids: list[int], sha: str = "d") -> Evaluation:
    metrics = {
        "protocol": {"data_sha256": sha, "series": ids, "context": 4, "horizon": 3},
        "rows": [{"name": "untuned", "mae": 9.0}, {"name": "tuned", "mae": error}],
    }
    return scores(metrics)


def test_runs_side_by_side_have_their_own_errors_and_costs():
    entries = [
        entry_of(RUNS[0], measured(0.5, [1, 2]), measured(0.75, [3])),
        entry_of(RUNS[1], measured(0.6, [3]), measured(0.25, [2, 1])),
        entry_of(RUNS[2], measured(0.125, [1, 2], "another file")),
    ]
    table = side_by_side.table(entries)
    for one, error in zip(RUNS, ("0.500", "0.250", "0.125"), strict=True):
        row = cells(table)[one["name"]]
        assert row["validation: loss [nats per token]"] == number(one["validation_loss"])
        assert row["validation: MAE [raw units]"] == number(one["forecast_mae"])
        assert row["test: MAE [raw units]"] == error
        assert row["training and validation: coursework [FLOPs]"] == number(one["flops"]["coursework"])
        assert row["training and validation: exact [FLOPs]"] == number(one["flops"]["exact"])
        assert row["training: time [s]"] == number(one["seconds"])
        assert (row["training: steps"], row["training: tokens"]) == (f"{one['steps']}", f"{one['tokens']:,}")
    best = min(RUNS, key=lambda one: one["forecast_mae"])
    words = side_by_side.summary(entries)
    assert f"{best['name']} has the least validation MAE (raw units): {number(best['forecast_mae'])}." in words
    assert (
        "On the same 2 test series, 4 steps of context and 3 of forecast, b has the least mean absolute error: 0.250"
        in words
    )
    assert dict(folders.bill(entries)) == {
        "runs": "3", "steps": "306", "tokens": "27,006", "training": duration(sum(one["seconds"] for one in RUNS)),
        "FLOPs, coursework": number(9e9), "FLOPs, exact": number(63e9),
    }  # fmt: skip


def test_what_a_budget_buys_is_told_run_by_run():
    runs_of = [{**one, "forecast_mae": error} for one, error in zip(RUNS, (0.8, 0.6, 0.15), strict=True)]
    section = side_by_side.budget_section([entry_of(one) for one in runs_of], "forecast_mae", "coursework")
    (table,) = tables([section]).values()
    rows = cells(table)
    assert [row["less by [%]"] for row in rows.values()] == [MISSING, "25.0", "75.0"]
    assert [row["validation MAE: error [raw units]"] for row in rows.values()] == ["0.800", "0.600", "0.150"]
    assert [row["a budget of: coursework [FLOPs]"] for row in rows.values()] == ["2.00e9", "3.00e9", "4.00e9"]
    assert [row["no."] for row in rows.values()] == ["1", "2", "3"]


def test_a_run_says_its_best_validation():
    one = {**RUNS[0], "validation_perplexity": 1.5}
    words = runs.reached(Run("a", {}, Outcome.read(one, "sweep.json")))
    assert words == (
        f"101 steps, 9,001 tokens, {duration(one['seconds'])} of training. Best validation, at step 51: loss"
        f" {number(one['validation_loss'])} nats per token, a perplexity of 1.50, forecast MAE {number(one['forecast_mae'])}"
        " raw units."
    )
    planned = "The run has not ended: 400 steps are planned."
    for ended in (True, False):
        details = RunDetails(steps=400, ended=ended)
        assert (planned in runs.reached(Run("a", {}, Outcome.read(one, "sweep.json"), details=details))) is not ended
    split = RunDetails(split={"train": {"1": "", "2": ""}, "test": {"3": ""}})
    section = runs.settings(Run("a", {"lora.rank": 2}, Outcome.read(one, "sweep.json"), details=split))
    pairs = {name: text for block in section.blocks for name, text in block.pairs}
    assert (pairs["train series"], pairs["test series"], pairs["lora.rank"]) == ("2", "1", "2")


def test_a_step_that_a_context_shows_in_part_is_neither_context_nor_truth():
    data = from_arrays(np.random.default_rng(0).uniform(1, 2, (2, 30, 2)))
    parts = {part.name: part for part in PROTOCOLS["mao"].parts}
    for name, start in (("mao-128", 12), ("mao-128-cut", 13)):
        context, truth = scoring.spans(parts[name], data)
        np.testing.assert_array_equal(context, data.values_NTV[:, :12])
        np.testing.assert_array_equal(truth, data.values_NTV[:, start : start + parts[name].horizon])


def test_baselines_do_not_forecast_the_step_that_is_shown(monkeypatch):
    """One that goes on as a ramp does is exact, whether or not the text shows a part of the next step."""

    def ahead(context_NCV, horizon):
        return context_NCV[:, -1:] + np.arange(1.0, 1 + horizon)[:, None]

    monkeypatch.setattr(scoring, "in_turn", lambda baselines: [("ahead", ahead)])
    data = from_arrays(np.arange(1.0, 41)[None, :, None] * np.ones((1, 1, 2)))
    parts = {part.name: part for part in PROTOCOLS["mao"].parts}
    assert not parts["mao-128"].shown and parts["mao-128-cut"].shown
    for name in ("mao-128", "mao-128-cut"):
        (row,) = scoring.baseline_rows(replace(parts[name], horizon=3, measures=()), data)
        assert row.mae == 0


@pytest.mark.parametrize(("errors", "drawn"), [([5.0, 1.0, 3.0], 2), ([1.0, None, 0.5], 2), ([1.0, 2.0, 4.0], 1)])
def test_the_series_of_the_median_error_is_drawn(errors, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring.svg, "save_png", lambda figure, path: path.write_bytes(b"png"))
    monkeypatch.setattr(scoring.svg, "to_svg", lambda figure, label: "<svg/>")
    data = from_arrays(np.random.default_rng(0).uniform(1, 2, (3, 130, 2)))
    part = next(part for part in PROTOCOLS["rai"].parts if not part.drawn)
    forecast = Forecast.of(data, 100, data.values_NTV[:, None, 100:120], {})
    (tmp_path / scoring.PARTS).mkdir()
    words = scoring.draw(part, data, forecast, dict(zip("012", errors, strict=True)), tmp_path)
    assert words == f"Forecast of series {drawn}, the one of the median error"


def test_series_are_named_by_their_range_or_number():
    assert scoring.named_series([992, 990, 991]) == "series 990-992"
    assert scoring.named_series([9, 3, 7]) == "series 3, 7 and 9" and scoring.named_series([5]) == "series 5"
    assert scoring.named_series([5, 1, 9, 7, 3]) == "5 series, the paper's test share (1, 3, 5, 7, …)"


# ------------------------------------------------------------------------------------------------------- reproductions


def reproduced() -> dict[str, Any]:
    """A small reproduction: a stage of two runs, one of which is another's, and a final run."""
    part = records.protocol_part()
    for row, name in zip(part["rows"], ("untuned", "final", "analog", "RM, fitted (oracle)"), strict=True):
        row["name"] = name
    stage = {"rule": "validation_loss", "carried": {"lora.rank": 4}, "chosen": {"lora.rank": 2}}
    again = {**RUNS[2], "name": "grid-c", "same_as": "first"}
    return {
        "system": "rai", "model": "embedded", "scale": "small", "rule": "validation_loss", "figure": "validation loss",
        "stages": [
            {**stage, "name": "grid", "trains": True, "runs": [RUNS[0], RUNS[1], again], "best": "a"},
            {**stage, "name": "final", "trains": True, "runs": [RUNS[2]], "best": "c"},
            {**stage, "name": "baseline", "trains": False, "runs": [{**one_run("base", 7), "steps": 0}], "best": "base"},
        ],
        "parts": {"rai": part}, "data": "x.h5", "data_sha256": "d", "versions": {},
        "faults": [{"fault": "padding counted", "right": "real tokens", "measured": "loss", "reported_way": 0.25,
                    "right_way": 0.5, "unit": "nats"}],
        "plan": {
            "rows": [{"stage": "grid", "runs": 2, "steps": 203, "flops": 4e12}, {"stage": "final", "runs": 1, "steps": 103,
                     "flops": 6e12}],
            "allowance": 1e13, "convention": "rai", "hours": "2", "reported": {"flops": 1.2e17, "of_allowance": 1.2},
        },
        "bill": {"phases": {"grid": {"flops": 3e12, "exact": 1e12}, "final": {"flops": 5e12, "exact": 2e12}}},
        "beside": {"phases": {"faults": {"flops": 7e11, "exact": 3e11}}},
    }  # fmt: skip


def test_the_bill_of_a_reproduction_by_stage():
    found = Reproduction.read(reproduced(), "reproduce.json")
    convention = "by rai's convention"
    head = {"planned": f"{convention}: planned [FLOPs]", "spent": f"{convention}: spent [FLOPs]",
            "executed": "as executed: spent [FLOPs]"}  # fmt: skip
    rows = {name: {key: row[h] for key, h in head.items()} for name, row in cells(page_of_paper.bill_table(found)).items()}
    assert rows == {
        "grid": {"planned": "4.00e12", "spent": "3.00e12", "executed": "1.00e12"},
        "final": {"planned": "6.00e12", "spent": "5.00e12", "executed": "2.00e12"},
        "together": {"planned": "1.00e13", "spent": "8.00e12", "executed": "3.00e12"},
        "errors and analyses, beside it": {"planned": MISSING, "spent": "7.00e11", "executed": "3.00e11"},
    }
    shares = [row["of the allowance [%]"] for row in cells(page_of_paper.bill_table(found)).values()]
    assert shares == ["30.0", "50.0", "80.0", "7.00"]
    lines = dict(page_of_paper.bill_lines(found))
    assert lines["of the allowance"] == "80.0 %" and lines["spent"] == "8.00e12 FLOPs"
    assert lines["runs"] == "3, 306 steps" and lines["the paper"] == "1.20e17 FLOPs, 120 % of 1e17, 20.0 % too much"


def test_errors_of_a_report_are_shown_both_ways():
    (row,) = cells(page_of_paper.faults_table(Reproduction.read(reproduced(), "reproduce.json"))).values()
    assert row == {
        "here": "real tokens", "measured": "loss", "its way": "0.250", "the right way": "0.500", "ratio": "0.500",
        "unit": "nats",
    }  # fmt: skip


def test_runs_of_all_stages_are_priced_once():
    assert Reproduction.read(reproduced(), "reproduce.json").points == [
        (one["name"], one["flops"]["coursework"], one["validation_loss"]) for one in RUNS
    ]


def test_the_page_of_a_reproduction_says_what_came_of_it():
    found = reproduced()
    final, untuned = (found["parts"]["rai"]["rows"][n]["figures"]["mae_raw"]["mean"] for n in (1, 0))
    found = Reproduction.read(found, "reproduce.json")
    words = page_of_paper.summary(found)
    assert f"rai: MAE {number(final)} raw units ({number(untuned)} untrained)." in words
    assert "The grid chose rank 2." in words
    sections = {section.title: section for section in page_of_paper.page_of(found).sections}
    grid = sections["Grid"]
    assert grid.text.startswith("3 runs. Chosen before: lora.rank 4. Trained once: grid-c is first.")
    shown = cells(tables([grid])["Runs"])
    assert shown["b"]["validation loss [nats per token]"] == number(RUNS[1]["validation_loss"])
    assert {"Forecasts: rai", "Error against FLOPs", "FLOPs", "Final run"} <= set(sections)


# --------------------------------------------------------------------------------------------------------------- probes


def asked() -> Probe:
    answers = [
        {"untuned": ("3", 7, True, True), "tuned": ("4", 24, False, False)},
        {"untuned": ("no", 5, True, False), "tuned": ("2", 9, True, True)},
        {"untuned": ("a", 2, True, True), "tuned": ("b", 1, True, True)},
        {"untuned": ("a poem", 24, False, None), "tuned": ("a poem", 24, False, None)},
    ]
    costs = {"untuned": (1.25, 3.49, 0.51), "tuned": (1.1, 3.0, 0.62)}
    keys, named = ("text", "tokens", "ended", "passed"), ("nats_per_token", "perplexity", "bits_per_byte")
    tree = {
        "prompts": [
            {"prompt": f"prompt {n}", "expected": "x", "note": None, "read": "read",
             "answers": {model: dict(zip(keys, one, strict=True)) for model, one in own.items()}}
            for n, own in enumerate(answers)
        ],
        "text": {"file": "t.txt", "bytes": 20, "tokens": 9, "window": 64, "stride": 32,
                 "models": {m: {**dict(zip(named, one, strict=True)), "tokens_scored": 8} for m, one in costs.items()}},
        "max_new_tokens": 24,
    }  # fmt: skip
    return Probe.read(json.loads(json.dumps(tree)), "probe.json")


def test_answers_are_counted_by_model():
    shown = cells(probe.count_table(asked()))
    assert shown == {
        "untuned": {"Answers: passed": "2 of 3", "Answers: ended": "3 of 4", "Answers: tokens, mean": "9.50"},
        "tuned": {"Answers: passed": "2 of 3", "Answers: ended": "2 of 4", "Answers: tokens, mean": "14.5"},
    }
    block = probe.answer_block(asked().prompts[0], 1)
    assert [(p.name, p.text, p.mark, p.note) for p in block.passages] == [
        ("untuned", "3", "pass", "7 tokens, ended"), ("tuned", "4", "fail", "24 tokens, cut off at the limit"),
    ]  # fmt: skip


def test_the_cost_of_a_text_by_model_with_the_least_marked():
    table = probe.text_table(asked().text)
    assert cells(table) == {
        "untuned": {"Per token: nats": "1.25", "Per token: perplexity": "3.49", "Per byte: bits": "0.510"},
        "tuned": {"Per token: nats": "1.10", "Per token: perplexity": "3.00", "Per byte: bits": "0.620"},
    }
    assert bold(table) == {("tuned", "Per token: nats"), ("tuned", "Per token: perplexity"), ("untuned", "Per byte: bits")}
