"""Tables of an evaluation, of protocols, stress tests and analyses, read back: each heading's number is its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest
import records
from drawn import bold, cells, heads, listing, tables, values

from jaxlv.report import analyses as analyses_page
from jaxlv.report import comparison, evaluation, stress
from jaxlv.report.page import MISSING, Table, number, percent
from jaxlv.report.tables import analyses
from jaxlv.report.tables import metrics as tables_of
from jaxlv.report.tables.frames import frames


def at(tree: Any, path: str) -> Any:
    """The value at nested keys."""
    for key in path.split("/"):
        tree = tree[int(key) if isinstance(tree, list) else key]
    return tree


def interval(ends: Sequence[float]) -> str:
    return f"{number(ends[0])} – {number(ends[1])}"


def check(table: Table, rows: Sequence[Any], expected: dict[str, Any]) -> None:
    """Each row shows under each heading what is at its path: (path, form), forms being `number`, `percent` and so on."""
    shown = cells(table)
    assert list(shown) == [row["name"] for row in rows]
    assert heads(table)[1:] == list(expected)
    for row in rows:
        for head, (path, form) in expected.items():
            try:
                value = at(row, path)
            except (KeyError, TypeError):
                value = None
            assert shown[row["name"]][head] == (MISSING if value is None else form(value)), (row["name"], head)


# --------------------------------------------------------------------------------------------------------- evaluations


METRICS = records.evaluation()
ROWS = METRICS["rows"]


def test_every_heading_of_the_main_table_has_its_own_measure():
    table = tables_of.table("Errors", "", METRICS, tables_of.measures(METRICS))
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
            "Bands: CRPS [hares]": ("crps", number),
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
    models = {**METRICS, "rows": ROWS[:2]}
    band = lambda head, key, unit, form: {  # noqa: E731
        f"{head}: {level} % [{unit}]": (f"{key}/{level}", form) for level in (50, 80, 95)
    }
    check(
        tables_of.table("Samples", "", models, tables_of.sample_measures(models)),
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
        tables_of.table("Adjusted", "", models, tables_of.conformal_measures(models)),
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
    check(tables_of.table("By variable", "", METRICS, tables_of.variable_measures(METRICS)), ROWS, expected)


def test_the_terminal_shows_the_same_numbers():
    shown = listing(evaluation.format_table(METRICS, 200), len(ROWS))
    plain = lambda text: text.replace("–", "-").replace("−", "-").replace(" - ", "-")  # noqa: E731
    columns = {
        "MAE": ("mae", number), "95% interval": ("mae_ci95", interval), "median": ("mae_median", number),
        "first 5": ("mae_first_5", number), "MSE": ("mse", number), "R2": ("r2", number), "MASE": ("mase", number),
        "CRPS": ("crps", number), "50%": ("coverage/50", lambda v: f"{100 * v:.0f}"),
        "80%": ("coverage/80", lambda v: f"{100 * v:.0f}"), "95%": ("coverage/95", lambda v: f"{100 * v:.0f}"),
        "valid": ("valid_share", percent), "free": ("valid_share_unmasked", percent),
    }  # fmt: skip
    assert list(shown) == [row["name"] for row in ROWS] and list(shown["tuned"]) == list(columns)
    for row in ROWS[:2]:
        for head, (path, form) in columns.items():
            assert shown[row["name"]][head] == plain(form(at(row, path))), (row["name"], head)
    assert "in hares, MSE in hares^2" in " ".join(evaluation.format_table(METRICS, 200).split())
    text = listing(evaluation.format_samples(METRICS), 8)
    levels = lambda key, form: " / ".join(form(value) for value in key.values())  # noqa: E731
    with_ends = lambda row, key: f"{number(row[key])} ({number(row[f'{key}_ci95'][0])} to {number(row[f'{key}_ci95'][1])})"  # noqa: E731
    for row in ROWS[:2]:
        assert {name: own[row["name"]] for name, own in text.items()} == {
            "temperature": number(row["temperature"]),
            "CRPS, hares": number(row["crps"]),
            "energy score, hares": with_ends(row, "energy_score"),
            "inside 50 / 80 / 95 % bands, %": levels(row["coverage"], percent),
            "width of these, hares": levels(row["interval_width"], number),
            "inside, adjusted (conformal), %": levels(row["coverage_conformal"], percent),
            "width, adjusted, hares": levels(row["interval_width_conformal"], number),
            "nats per value": with_ends(row, "nats_per_value"),
        }


def test_units_that_a_protocol_does_not_name_are_raw_ones():
    bare = {"rows": []}
    assert [tables_of.unit_of(bare, key) for key in ("mae", "mse", "nats_per_value")] == ["raw units", "raw units²", "nats"]


# ----------------------------------------------------------------------------------------------------------- protocols


PART = records.protocol_part()
OURS = {row["name"]: row["figures"] for row in PART["rows"]}
MEASURES = {"mae_raw": "MAE", "r2_hare": "R² hare", "mse_scaled": "MSE as written"}
UNITS = {"mae_raw": " [raw units]", "r2_hare": " [1]", "mse_scaled": " [xu's units squared]"}


def test_a_part_of_a_protocol_shows_the_reports_figures_and_ours_under_their_measures():
    shown, best = cells(comparison.table_of(PART)), bold(comparison.table_of(PART))
    assert list(shown) == ["report: final", "report: untuned", *OURS]
    for key, words in MEASURES.items():
        head = lambda what, words=words, key=key: f"{words}: {what}{UNITS[key]}"  # noqa: E731
        for model, of_model in PART["reported"].items():
            row = shown[f"report: {model}"]
            assert row[head("mean")] == number(of_model.get(key)) and row[head("median")] == MISSING
        for name, own in OURS.items():
            f = own[key]
            wanted = [number(f["mean"]), number(f["median"]), interval(f["ci95"])]
            assert [shown[name][head(what)] for what in ("mean", "median", "95 % interval")] == wanted
        ahead = max if key == "r2_hare" else min
        assert (ahead(OURS, key=lambda name: OURS[name][key]["mean"]), head("mean")) in best  # noqa: B023
    assert len(best) == 3


def test_the_terminal_has_a_part_with_means_and_medians():
    text = comparison.format_part(PART)
    lines = [line.split() for line in text.splitlines()]
    for name, own in OURS.items():
        (found,) = (line for line in lines if " ".join(line).startswith(name + " "))
        pairs = [number(own[key][what]) for key in MEASURES for what in ("mean", "median")]
        assert found[-6:] == [pair.replace("−", "-") for pair in pairs]
    assert "MAE in raw units; MSE as written in xu's units squared" in text


def test_the_overview_sets_the_reports_best_beside_ours_the_best_rival_and_the_oracle():
    rows = {
        row[0]: dict(zip(comparison.OVERVIEW, row, strict=True)) for row in comparison.overview_rows(records.comparison())
    }
    assert list(rows) == ["rai: MAE, raw units", "rai: R² hare", "rai: MSE as written"]
    for (key, theirs), row in zip(
        {"mae_raw": 0.031, "r2_hare": 0.87, "mse_scaled": 0.012}.items(), rows.values(), strict=True
    ):
        tuned = OURS["tuned"][key]
        assert row["report"] == number(theirs) and row["tuned"] == number(tuned["mean"])
        assert row["median"] == number(tuned["median"]) and row["95 % interval"] == interval(tuned["ci95"])
        assert row["untuned"] == number(OURS["untuned"][key]["mean"])
        assert row["best baseline"] == number(OURS["analog"][key]["mean"])
        assert row["oracle"] == number(OURS["RM, fitted (oracle)"][key]["mean"])
    names = [row[7] for row in comparison.overview_rows(records.comparison())]
    assert names == ["analog"] * 3
    assert comparison.units_of(records.comparison()) == ["rai: MSE as written in xu's units squared."]
    summary = comparison.summary(records.comparison())
    assert summary == f"rai: MAE {number(OURS['tuned']['mae_raw']['mean'])} raw units, against 0.0310 in the report."


def test_the_best_rival_of_a_measure_that_is_better_if_larger_is_the_largest():
    part = records.protocol_part()
    part["rows"].append({"name": "last value", "figures": {k: records.figure(90 + i) for i, k in enumerate(MEASURES)}})
    by_name = {row["name"]: row["figures"] for row in part["rows"]}
    rows = comparison.overview_rows({"protocols": {"rai": {"parts": {"rai": part}}}})
    for key, row in zip(MEASURES, rows, strict=True):
        ahead = max if key == "r2_hare" else min
        best = ahead(("analog", "last value"), key=lambda name: by_name[name][key]["mean"])  # noqa: B023
        assert (row[6], row[7]) == (number(by_name[best][key]["mean"]), best)


def test_the_bill_of_a_comparison():
    result = records.comparison()
    shown = cells(comparison.bill_table(result))
    assert shown["rai"] == {
        "ours: tuning [FLOPs]": "4.1e+13", "ours: validation [FLOPs]": "2.2e+12", "ours: forecasts [FLOPs]": "3.3e+11",
        "ours: together [FLOPs]": "4.35e+13", "ours: budget [FLOPs]": "9e+13", "the report: all [FLOPs]": "9.87e+16",
        "the report [FLOPs]": "as reported",
    }  # fmt: skip
    lines = dict(comparison.bill_lines(result))
    assert lines["rai"] == "4.35e+13 FLOPs; the report 9.87e+16"
    assert lines["together"].startswith("4.9e+13 FLOPs")
    assert "rai: 4.35e+13 FLOPs; the report 9.87e+16 (tuning 4.1e+13, validation 2.2e+12, forecasts 3.3e+11)" in (
        comparison.format_bill(result)
    )


# -------------------------------------------------------------------------------------------------------------- stress


def test_a_stress_test_shows_each_method_under_each_condition():
    page = stress.page_of(records.stress())
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
    assert "9 samples can cover at most 80.0 %" in shown["Coverage by noise"].caption
    above = cells(shown["Above the scale's top"])
    for level in ("x 1", "x 4"):
        for name in ("tuned", "untuned"):
            own = conditions[level][name]["above_top"]
            wanted = {
                "above the top: truth [%]": percent(own["truth"]),
                "above the top: forecast [%]": percent(own["forecast"]),
            }
            assert above[f"{name}, {level}"] == wanted
    text = listing(stress.format_tables(records.stress()), 5)
    for level, own in ((level, conditions[level]) for level in ("x 1", "x 4")):
        for name, row in own.items():
            assert text[name][level] == f"{number(row['mae'])} ({number(row['mae_median'])})"
        for name in ("tuned", "untuned"):
            assert text[f"{name}: inside 80 %"][level] == f"{percent(own[name]['coverage']['80'])} %"


# ------------------------------------------------------------------------------------------------------------ analyses


def named(rows: dict[str, Any]) -> list[Any]:
    return [{"name": name, **row} for name, row in rows.items()]


def whole(value: float) -> str:
    return f"{value:,.0f}"


def test_costs_of_tokens():
    tokens = records.tokens()
    parts = {"all": {model: {**costs, "share_of_nats": 1.0} for model, costs in tokens.items()}}
    for group in ("by_kind", "by_window"):
        parts |= {name: {model: costs[group][name] for model, costs in tokens.items()} for name in tokens["tuned"][group]}
    shown = cells(analyses.token_table(tokens))
    assert list(shown) == list(parts)
    for name, models in parts.items():
        assert shown[name]["tokens"] == whole(models["tuned"]["tokens"])
        for model, costs in models.items():
            own = {head: text for head, text in shown[name].items() if head.startswith(f"{model}: ")}
            assert own == {
                f"{model}: vocabulary [nats per token]": number(costs["vocabulary"]["nats"]),
                f"{model}: symbols [nats per token]": number(costs["symbols"]["nats"]),
                f"{model}: perplexity": number(costs["symbols"]["perplexity"]),
                f"{model}: share [%]": percent(costs["share_of_nats"]),
            }


def test_text_and_back():
    trip = records.round_trip()
    shown = cells(analyses.round_trip_table(trip))
    assert list(shown) == [f"{100 * one['headroom']:g} % head-room" for one in trip["variants"]]
    for one, row in zip(trip["variants"], shown.values(), strict=True):
        expected = {"tokens": whole(one["tokens"])}
        for v, variable in enumerate(records.VARIABLES):
            for key, head in (("mean", "mean"), ("greatest", "greatest"), ("half_unit", "half unit")):
                expected[f"{variable}: {head} [raw units]"] = number(one[key][v])
        for key, head in (("mean_ratio_of_all", "mean"), ("greatest_ratio_of_all", "greatest")):
            expected[f"all series: {head} [half units]"] = number(one[key])
        assert row == expected


def test_errors_of_the_first_and_last_steps():
    growth = records.growth()
    expected = {
        "mean absolute error: first 2 [raw units]": ("first", number),
        "mean absolute error: last 2 [raw units]": ("last", number),
        "growth": ("growth", number),
    }
    check(analyses.growth_table(growth), named(growth["methods"]), expected)


def test_signed_errors():
    errors = records.errors()
    expected = {}
    for variable in records.VARIABLES:
        own = f"by_variable/{variable}"
        expected[f"{variable}: mean [raw units]"] = (f"{own}/mean", number)
        expected[f"{variable}: deviation [raw units]"] = (f"{own}/sd", number)
        expected[f"{variable}: too high [%]"] = (f"{own}/share_above", percent)
    check(analyses.signed_table(errors), named(errors["methods"]), expected)


def test_errors_of_single_series():
    series = records.series_errors()
    expected = {
        **{f"median log10 MSE: {v} [raw units²]": (f"median_log10_mse/{v}", number) for v in records.VARIABLES},
        "rank correlation": ("rank_correlation", number),
        "hare larger [%]": ("share_first_larger", percent),
    }
    check(analyses.series_table(series), named(series["methods"]), expected)


def test_peaks_at_the_top_of_the_scale():
    ceiling = records.ceiling()
    expected = {
        "samples": ("samples", whole),
        "peaks of samples: at the top": ("near_top", whole),
        "peaks of samples: above it": ("above_top", whole),
        "peaks of samples: truth above": ("truth_above_top", whole),
        "peaks of samples: both above": ("followed", whole),
        "peak ratio": ("median_forecast_over_true", number),
    }
    check(analyses.ceiling_table(ceiling), named(ceiling), expected)


def test_symbols_of_the_head():
    head = records.head()
    expected = {"token id": ("id", whole), "value": ("value", number), "place": ("rank", whole)}
    check(analyses.head_table(head), named(head["symbols"]), expected)


def test_spectra_by_projection_and_over_all():
    spectra = records.spectra()
    table = pd.DataFrame(spectra["projections"])
    shown = cells(analyses.spectra_table(spectra))
    parts = {"all": table, "q_proj": table.iloc[::2], "v_proj": table.iloc[1::2]}
    assert list(shown) == list(parts)
    for name, part in parts.items():
        expected = {"matrices": str(len(part))}
        for key, head, form, unit in (
            ("effective_rank", "effective rank", number, ""), ("stable_rank", "stable rank", number, ""),
            ("first_share", "first", percent, " [%]"),
        ):  # fmt: skip
            spread = {"median": part[key].median(), "least": part[key].min(), "greatest": part[key].max()}
            expected |= {f"{head}: {what}{unit}": form(value) for what, value in spread.items()}
        assert shown[name] == {**expected, "size: median [%]": percent(part["relative_norm"].median())}


def test_ways_to_pad():
    padding = records.padding()
    expected = {
        "logits: difference [natural log units]": ("difference", number),
        "within": ("within", lambda value: "yes" if value else "no"),
        "next token: distance": ("distance", number),
        "next token: a digit, %": ("digit", percent),
    }
    check(analyses.padding_table(padding), padding["cases"], expected)


def test_frames_hold_every_number_in_its_place():
    found = frames(records.everything())
    growth, errors, series = records.growth(), records.errors(), records.series_errors()
    for row in found["error_growth"].to_dict("records"):
        method, i = growth["methods"][row["method"]], growth["step"].index(row["step"])
        assert {key: row[key] for key in ("mean", "median", "p10", "p90")} == {
            key: method[key][i] for key in ("mean", "median", "p10", "p90")
        }
        assert all(row[f"mean {v}"] == method["mean_by_variable"][v][i] for v in records.VARIABLES)
    for row in found["signed_errors"].to_dict("records"):
        own = errors["methods"][row.pop("method")]["by_variable"][row.pop("variable")]
        assert row == own
    for row in found["absolute_error_quantiles"].to_dict("records"):
        i = errors["probabilities"].index(row.pop("probability"))
        assert row == {name: method["absolute_quantiles"][i] for name, method in errors["methods"].items()}
    for row in found["series_errors"].to_dict("records"):
        method, place = series["methods"][row["method"]], row["place"] - 1
        assert method["series"][place] == row["series"]
        for key in ("mse", "log10_mse"):
            assert all(row[f"{key} {v}"] == method[key][v][place] for v in records.VARIABLES)
    picked = {one["series"]: one for one in records.extremes()["picked"]}
    for row in found["picked_series"].to_dict("records"):
        one, step, v = picked[row["series"]], row["step"], records.VARIABLES.index(row["variable"])
        assert (row["which"], row["time"]) == (one["which"], one["time"][step])
        assert row["truth"] == [*one["context"], *one["truth"]][step][v]
        drawn = [row[f"sample_{s}"] for s in range(5)]
        assert all(value != value for value in drawn) if step < 4 else drawn == [s[step - 4][v] for s in one["samples"]]
    trip = {one["headroom"]: one for one in records.round_trip()["variants"]}
    for row in found["round_trip"].to_dict("records"):
        one, v = trip[row["headroom"]], records.VARIABLES.index(row["variable"])
        assert (row["series"], row["difference"]) == (8, one["difference"][row["step"]][v])
        assert row["half_unit"] == one["half_unit"][v]
    for row in found["token_costs"].to_dict("records"):
        own = records.tokens()[row["model"]]
        costs = {**own["by_kind"], **own["by_window"]}[row["part"]]
        assert (row["tokens"], row["share"]) == (costs["tokens"], costs["share_of_nats"])
        assert (row["nats_vocabulary"], row["nats_symbols"]) == (costs["vocabulary"]["nats"], costs["symbols"]["nats"])
        assert row["perplexity_symbols"] == costs["symbols"]["perplexity"]
    for row in found["token_costs_by_step"].to_dict("records"):
        by_step = records.tokens()[row["model"]]["by_step"]
        assert all(row[key] == by_step[key][row["step"]] for key in ("p10", "median", "p90"))
    for row, entry in zip(found["adapter_spectra"].to_dict("records"), records.spectra()["projections"], strict=True):
        values = entry.pop("singular_values")
        assert row == {**entry, **{f"s{i}": value for i, value in enumerate(values, 1)}}
    symbols = found["head_symbols"].set_index("symbol").to_dict("index")
    assert symbols == records.head()["symbols"]
    assert found["ceiling"].to_dict("records")[6] == {"model": "untuned", **records.ceiling()["untuned"]["points"][0]}
    assert (found["padding"]["bound"] == 0.0345).all() and len(found["training"]) == 4


# ------------------------------------------------------------------------------------------------- words of the analyses


def test_sentences_of_the_analyses_say_their_numbers():
    tree = records.everything()
    said = {part.title: part.text for part in analyses_page.parts_of(tree)}
    growth = tree["growth"]["methods"]["tuned"]
    assert (
        f"The error of the tuned model is {number(growth['first'])} raw units over the first 2 steps and"
        f" {number(growth['last'])} over the last 2 of 4: {number(growth['growth'])} times as much."
    ) == said["Errors by step ahead"]
    sizes = tree["errors"]["methods"]["tuned"]["absolute_quantiles"]
    assert (
        f"Half of the tuned model’s errors are below {number(sizes[1])} raw units, nine tenths below {number(sizes[3])}; the"
        f" largest is {number(sizes[4])}."
    ) == said["Distribution of errors"]
    assert (
        "The rank correlation of the tuned model’s errors of hare and lynx is 0.300; 62.0 % of the series have the larger"
        in (said["Series by series"])
    )
    assert said["Training"].startswith("The loss of the first logged step is 2.50 nats per token, of the last 1.70.")
    assert "the least is 2.30, at step 2." in said["Training"]
    costs = tree["tokens"]
    dearest = max(costs["tuned"]["by_kind"], key=lambda kind: costs["tuned"]["by_kind"][kind]["share_of_nats"])
    share = costs["tuned"]["by_kind"][dearest]["share_of_nats"]
    assert f"Of all nats {percent(share)} % are spent on the {dearest}." in said["Cost of a token"]
    for model in records.MODELS:
        own = costs[model]["symbols"]
        assert number(own["nats"]) in said["Cost of a token"]
        assert f"{number(own['nats_ci95'][0])} to {number(own['nats_ci95'][1])}" in said["Cost of a token"]
    assert "74 of 701 samples had to pass the top to follow the truth, and 25 did." in said["The top of the scale"]
    assert "12 of 41 futures" in said["The top of the scale"]
    assert "4 are positive and 386 negative; the median is −0.0110." in said["LM head"]
    assert "gives digits 27.5 % of its probability instead of 90.0 %" in said["Padding"]
    assert "differ by more than rounding" not in said["Padding"] and "at most 0.0220 apart" in said["Padding"]
    assert said["Text and back"].endswith(
        "Series 8 begins 30.23,4.56;7.89…, tokens 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, …"
    )
    captions = [item.caption for part in analyses_page.parts_of(tree) for item in part.content if hasattr(item, "drawing")]
    assert any(
        "31.0 % of the logged steps. The ratio is 0.250 at least and 0.620 in the median" in text for text in captions
    )


def test_forecasts_of_an_analysis_are_drawn_from_its_own_series():
    tree = records.everything()
    (part,) = (part for part in analyses_page.parts_of(tree) if part.title == "Forecasts against truth")
    for picture, one in zip(part.content, tree["extremes"]["picked"], strict=True):
        assert picture.label.startswith(f"Series {one['series']}") and number(one["mse"]) in picture.caption
        for v, ax in enumerate(picture.drawing.axes):
            ink = [line.get_ydata().tolist() for line in ax.lines if len(line.get_xdata()) == 7]
            assert ink == [[row[v] for row in (*one["context"], *one["truth"])]]


def test_mean_errors_are_drawn_beside_medians():
    (part,) = (part for part in analyses_page.parts_of(records.everything()) if part.title == "Errors by step ahead")
    means = next(item for item in part.content if getattr(item, "name", "") == "mean_errors")
    drawn = sorted(line.get_ydata().tolist() for line in means.drawing.axes[0].lines)
    assert drawn == sorted(method["mean"] for method in records.growth()["methods"].values())
