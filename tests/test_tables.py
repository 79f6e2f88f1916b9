"""Tables of an evaluation, of protocols and of stress tests, read back: each heading's number is its own."""

from __future__ import annotations

from dataclasses import replace

import records
from drawn import at, bold, cells, check, interval, listing, tables, values

from jaxlv.report import evaluation, papers, stress, terminal
from jaxlv.report.format import MISSING, number, percent
from jaxlv.report.table import NAME, Table
from jaxlv.results.papers import Comparison, PartResult
from jaxlv.results.quantities import Quantity
from jaxlv.results.scores import Evaluation
from jaxlv.results.stress import Stress

# --------------------------------------------------------------------------------------------------------- evaluations


METRICS = records.evaluation()
ROWS = METRICS["rows"]
SCORES = Evaluation.read(METRICS, "metrics.json")


def test_every_heading_of_the_main_table_has_its_own_measure():
    table = evaluation.main_table(SCORES)
    check(
        table,
        ROWS,
        {
            "Absolute error: mean [hares]": ("mae", number),
            "Absolute error: 95 % interval [hares]": ("mae_ci95", interval),
            "Absolute error: median [hares]": ("mae_median", number),
            "Absolute error: first 5 [hares]": ("mae_first_5", number),
            "Squared error: mean [hares²]": ("mse", number),
            "Relative: R²": ("r2", number),
            "Relative: MASE": ("mase", number),
            "Scores: CRPS [hares]": ("crps", number),
            "Coverage of bands: 50 % [%]": ("coverage/50", percent),
            "Coverage of bands: 80 % [%]": ("coverage/80", percent),
            "Coverage of bands: 95 % [%]": ("coverage/95", percent),
            "Valid samples: masked [%]": ("valid_share", percent),
            "Valid samples: free [%]": ("valid_share_unmasked", percent),
        },
    )
    sorted_by = values(table)["tuned"]
    assert sorted_by["Absolute error: 95 % interval [hares]"] == ROWS[0]["mae_ci95"][0]
    best = {head: min(ROWS, key=lambda row, key=key: row[key])["name"] for head, key in (
        ("Absolute error: mean [hares]", "mae"), ("Absolute error: median [hares]", "mae_median"),
        ("Squared error: mean [hares²]", "mse"), ("Relative: MASE", "mase"))}  # fmt: skip
    best["Relative: R²"] = max(ROWS, key=lambda row: row["r2"])["name"]
    best["Coverage of bands: 80 % [%]"] = min(ROWS[:2], key=lambda row: abs(row["coverage"]["80"] - 0.8))["name"]
    assert {(name, head) for head, name in best.items()} <= bold(table)


def test_the_table_of_samples_and_that_of_adjusted_bands():
    band = lambda head, key, unit, form: {  # noqa: E731
        f"{head}: {level} % [{unit}]": (f"{key}/{level}", form) for level in (50, 80, 95)
    }
    check(
        evaluation.sample_table(SCORES),
        ROWS[:2],
        {
            "Scores: CRPS [hares]": ("crps", number),
            "Scores: energy [hares]": ("energy_score", number),
            "Scores: 95 % interval [hares]": ("energy_score_ci95", interval),
            **band("Coverage of bands", "coverage", "%", percent),
            **band("Width of bands", "interval_width", "hares", number),
            "Likelihood: mean [nats]": ("nats_per_value", number),
            "Likelihood: 95 % interval [nats]": ("nats_per_value_ci95", interval),
        },
    )
    check(
        evaluation.sample_table(SCORES, *evaluation.ADJUSTED),
        ROWS[:2],
        {
            **band("Coverage, adjusted", "coverage_conformal", "%", percent),
            **band("Width, adjusted", "interval_width_conformal", "hares", number),
        },
    )


def test_errors_by_variable_are_under_their_variable():
    expected = {
        f"{name}: {head}": (f"per_variable/{name}/{key}", number)
        for name in records.VARIABLES
        for key, head in (("mae", "MAE"), ("mse", "MSE"), ("r2", "R²"), ("mase", "MASE"))
    }
    check(evaluation.variable_table(SCORES), ROWS, expected)


def test_the_terminal_shows_the_same_numbers():
    shown = listing(evaluation.format_table(SCORES, 200), len(ROWS))
    plain = lambda text: text.replace("–", "-").replace("−", "-").replace(" - ", "-")  # noqa: E731
    columns = {
        "MAE": ("mae", number), "95 % interval": ("mae_ci95", interval), "median": ("mae_median", number),
        "first 5": ("mae_first_5", number), "MSE": ("mse", number), "R^2": ("r2", number), "MASE": ("mase", number),
        "CRPS": ("crps", number), **{f"inside: {level} %": (f"coverage/{level}", percent) for level in (50, 80, 95)},
        "valid": ("valid_share", percent), "free": ("valid_share_unmasked", percent),
    }  # fmt: skip
    assert list(shown) == [row["name"] for row in ROWS] and list(shown["tuned"]) == list(columns)
    for row in ROWS[:2]:
        for head, (path, form) in columns.items():
            assert shown[row["name"]][head] == plain(form(at(row, path))), (row["name"], head)
    assert "CRPS in hares; MSE in hares^2" in " ".join(evaluation.format_table(SCORES, 200).split())
    text = listing(evaluation.format_samples(SCORES), 8)
    levels = lambda key, form: " / ".join(form(value) for value in key.values())  # noqa: E731
    with_ends = lambda row, key: f"{number(row[key])} ({number(row[f'{key}_ci95'][0])} to {number(row[f'{key}_ci95'][1])})"  # noqa: E731
    for row in ROWS[:2]:
        assert {name: own[row["name"]] for name, own in text.items()} == {
            "temperature": number(row["temperature"]),
            "CRPS (hares)": number(row["crps"]),
            "energy (hares)": with_ends(row, "energy_score"),
            "Coverage of bands, 50 / 80 / 95 % (%)": levels(row["coverage"], percent),
            "Width of bands, 50 / 80 / 95 % (hares)": levels(row["interval_width"], number),
            "likelihood (nats)": with_ends(row, "nats_per_value"),
            "Coverage, adjusted, 50 / 80 / 95 % (%)": levels(row["coverage_conformal"], percent),
            "Width, adjusted, 50 / 80 / 95 % (hares)": levels(row["interval_width_conformal"], number),
        }


def test_units_that_a_protocol_does_not_name_are_raw_ones():
    bare = Evaluation.read({"protocol": {}, "rows": []}, "metrics.json")
    units = [one.unit for one in bare.measures("mae", "mse", "nats_per_value", "crps")]
    assert units == ["raw units", "raw units²", "nats", "raw units"]


# ----------------------------------------------------------------------------------------------------------- protocols


PART = records.protocol_part()
RESULT = PartResult.read(PART, "compare.json")
WHOLE = Comparison.read(records.comparison(), "compare.json")
OURS = {row["name"]: row["figures"] for row in PART["rows"]}
MEASURES = {"mae_raw": "MAE", "r2_hare": "R² hare", "mse_scaled": "MSE as written"}
UNITS = {"mae_raw": " [raw units]", "r2_hare": "", "mse_scaled": " [xu's units squared]"}


def test_a_part_of_a_protocol_shows_the_reports_figures_and_ours_under_their_measures():
    shown, best = cells(papers.table_of(RESULT)), bold(papers.table_of(RESULT))
    assert list(shown) == ["paper: final", "paper: untuned", *OURS]
    for key, words in MEASURES.items():
        head = lambda what, words=words, key=key: f"{words}: {what}{UNITS[key]}"  # noqa: E731
        for model, of_model in PART["reported"].items():
            row = shown[f"paper: {model}"]
            assert row[head("mean")] == number(of_model.get(key)) and row[head("median")] == MISSING
        for name, own in OURS.items():
            f = own[key]
            wanted = [number(f["mean"]), number(f["median"]), interval(f["ci95"])]
            assert [shown[name][head(what)] for what in ("mean", "median", "95 % interval")] == wanted
        ahead = max if key == "r2_hare" else min
        assert (ahead(OURS, key=lambda name: OURS[name][key]["mean"]), head("mean")) in best
    assert len(best) == 3


def test_the_terminal_has_a_part_with_means_and_medians():
    text = papers.format_part(RESULT)
    lines = [line.split() for line in text.splitlines()]
    for name, own in OURS.items():
        (found,) = (line for line in lines if " ".join(line).startswith(name + " "))
        pairs = [number(own[key][what]) for key in MEASURES for what in ("mean", "median")]
        assert found[-6:] == [pair.replace("−", "-") for pair in pairs]
    assert "MAE in raw units; MSE as written in xu's units squared" in text


def test_the_overview_sets_the_reports_best_beside_ours_the_best_rival_and_the_oracle():
    rows = cells(papers.overview(WHOLE))
    assert list(rows) == ["rai: MAE, raw units", "rai: R² hare", "rai: MSE as written"]
    for (key, theirs), row in zip(
        {"mae_raw": 0.031, "r2_hare": 0.87, "mse_scaled": 0.012}.items(), rows.values(), strict=True
    ):
        tuned = OURS["tuned"][key]
        assert row["paper"] == number(theirs) and row["tuned"] == number(tuned["mean"])
        assert row["median"] == number(tuned["median"]) and row["95 % interval"] == interval(tuned["ci95"])
        assert row["untuned"] == number(OURS["untuned"][key]["mean"])
        assert row["best baseline"] == number(OURS["analog"][key]["mean"])
        assert row["oracle"] == number(OURS["RM, fitted (oracle)"][key]["mean"])
    assert [row.rival for row in WHOLE.headlines] == ["analog"] * 3
    assert papers.units_of(WHOLE) == ["rai: MSE as written in xu's units squared."]
    summary = papers.summary(WHOLE)
    assert summary == f"rai: MAE {number(OURS['tuned']['mae_raw']['mean'])} raw units, against 0.0310 in the paper."


def test_what_was_not_measured_is_not_told():
    result = records.comparison()
    for row in result["protocols"]["rai"]["parts"]["rai"]["rows"]:
        row["figures"]["mae_raw"] = {"mean": None, "median": None, "ci95": None, "series": 0}
    found = Comparison.read(result, "compare.json")
    assert papers.summary(found) == "Nothing was measured."
    assert [row.what for row in found.headlines] == ["rai: R² hare", "rai: MSE as written"]


def test_the_best_rival_of_a_measure_that_is_better_if_larger_is_the_largest():
    part = records.protocol_part()
    part["rows"].append({"name": "last value", "figures": {k: records.figure(90 + i) for i, k in enumerate(MEASURES)}})
    by_name = {row["name"]: row["figures"] for row in part["rows"]}
    whole = records.comparison()
    whole["protocols"]["rai"]["parts"] = {"rai": part}
    rows = Comparison.read(whole, "compare.json").headlines
    for key, row in zip(MEASURES, rows, strict=True):
        ahead = max if key == "r2_hare" else min
        best = ahead(("analog", "last value"), key=lambda name: by_name[name][key]["mean"])
        assert (row.best, row.rival) == (by_name[best][key]["mean"], best)


def test_the_bill_of_a_comparison():
    result = WHOLE
    shown = cells(papers.bill_table(result))
    assert shown["rai"] == {
        "ours: tuning [FLOPs]": "4.10e13", "ours: validation [FLOPs]": "2.20e12", "ours: forecasts [FLOPs]": "3.30e11",
        "ours: together [FLOPs]": "4.35e13", "ours: budget [FLOPs]": "9.00e13", "the paper: all [FLOPs]": "9.87e16",
        "the paper [FLOPs]": "as reported",
    }  # fmt: skip
    lines = dict(papers.bill_lines(result))
    assert lines["rai"] == "4.35e13 FLOPs; the paper 9.87e16"
    assert lines["together"].startswith("4.90e13 FLOPs")
    assert "rai: 4.35e13 FLOPs; the paper 9.87e16 (tuning 4.10e13, validation 2.20e12, forecasts 3.30e11)" in (
        papers.format_bill(result)
    )


# -------------------------------------------------------------------------------------------------------------- stress


def test_a_stress_test_shows_each_method_under_each_condition():
    result = Stress.read(records.stress(), "stress.json")
    page = stress.page_of(result)
    shown = tables(page)
    conditions = {entry["level"]: {row["name"]: row for row in entry["rows"]} for entry in records.stress()["conditions"]}
    for group, levels in {"amplitude": ("x 1", "x 4"), "noise": ("5 %",)}.items():
        table = shown[f"Errors by {group}"]
        for level in levels:
            for name, row in conditions[level].items():
                wanted = [number(row["mae"]), number(row["mae_median"]), interval(row["mae_ci95"])]
                heads_of = [f"{level}: {what}" for what in ("mean", "median", "95 % interval")]
                assert [cells(table)[name][head] for head in heads_of] == wanted
            best = min(conditions[level].values(), key=lambda row: row["mae"])["name"]
            assert (best, f"{level}: mean") in bold(table)
        assert len(bold(table)) == len(levels)
        covered = cells(shown[f"Coverage by {group}"])
        assert list(covered) == ["tuned", "untuned"]
        for level in levels:
            for name, own in covered.items():
                (text,) = (text for head, text in own.items() if head.endswith(f"{level} [%]"))
                assert text == percent(conditions[level][name]["coverage"]["80"])
    assert "9 samples of a model can cover at most 80.0 %" in shown["Coverage by noise"].caption
    above = cells(shown["Above the scale's top"])
    for level in ("x 1", "x 4"):
        for name in ("tuned", "untuned"):
            own = conditions[level][name]["above_top"]
            wanted = {
                "above the top: truth [%]": percent(own["truth"]),
                "above the top: forecast [%]": percent(own["forecast"]),
            }
            assert above[f"{name}, {level}"] == wanted
    for place, levels in ((0, ("x 1", "x 4")), (2, ("5 %",))):
        errors, inside = (listing(part, n) for part, n in zip(blocks_of(result)[place : place + 2], (3, 2), strict=True))
        for level in levels:
            own, group = conditions[level], f"{level}: " * (len(levels) > 1)
            for name, row in own.items():
                wanted = {f"{group}MAE": number(row["mae"]), f"{group}median": number(row["mae_median"])}
                assert wanted.items() <= errors[name].items()
            shares = {name: percent(own[name]["coverage"]["80"]) for name in ("tuned", "untuned")}
            assert {name: found[level] for name, found in inside.items()} == shares


def test_errors_of_conditions_with_fewer_series_say_how_few():
    one = Stress.read(records.stress(), "stress.json").conditions[0]
    fewer, many = (replace(one, series=tuple(range(count))) for count in (3, 5))
    for entries, told in (((many, fewer), "over 3 to 5 series"), ((many, many), "over 5 series")):
        assert told in stress.error_tables("noise", entries)[0].caption


def test_a_name_is_cut_if_it_is_longer_than_the_longest():
    rows = {"a" * terminal.NAME: {"mae": 1.0}, "b" * (terminal.NAME + 1): {"mae": 2.0}}
    *_, whole, cut = terminal.table(Table("", "", rows, [NAME, Quantity("mae")])).splitlines()
    assert whole.split()[0] == "a" * terminal.NAME and cut.split()[0] == "b" * (terminal.NAME - 1) + "."


def blocks_of(result: Stress) -> list[str]:
    """The tables of a stress test for a terminal, those of errors and those of coverage in turn."""
    return [block for block in stress.format_tables(result).split("\n\n") if "---" in block]
