"""Tables, CSV files and sentences of the analyses of a run, read back from records whose numbers all differ."""

from __future__ import annotations

from typing import Any

import pandas as pd
import records
from drawn import cells, check, seen, tables

from jaxlv.analysis.analyses import with_bands
from jaxlv.report import analyses as analyses_page
from jaxlv.report.format import number, percent
from jaxlv.report.page import Figure
from jaxlv.results.analyses import Analyses

FOUND = with_bands(records.read(Analyses, records.everything()))
SECTIONS = analyses_page.sections(FOUND)
TABLES = tables(SECTIONS)


def section_blocks() -> list[Figure]:
    return [block for section in SECTIONS for block in section.blocks if isinstance(block, Figure)]


def named(rows: dict[str, Any]) -> list[Any]:
    return [{"name": name, **row} for name, row in rows.items()]


def whole(value: float) -> str:
    return f"{value:,.0f}"


def test_costs_of_tokens():
    tokens = records.tokens()
    parts = {"all": {model: {**costs, "share_of_nats": 1.0} for model, costs in tokens.items()}}
    for group in ("by_kind", "by_window"):
        parts |= {name: {model: costs[group][name] for model, costs in tokens.items()} for name in tokens["tuned"][group]}
    shown = cells(TABLES["Cost of tokens"])
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
    shown = cells(TABLES["Text and back"])
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
    check(TABLES["Errors of the first and last steps"], named(growth["methods"]), expected)


def test_signed_errors():
    errors = records.errors()
    expected = {}
    for variable in records.VARIABLES:
        own = f"by_variable/{variable}"
        expected[f"{variable}: mean [raw units]"] = (f"{own}/mean", number)
        expected[f"{variable}: deviation [raw units]"] = (f"{own}/sd", number)
        expected[f"{variable}: too high [%]"] = (f"{own}/share_above", percent)
    check(TABLES["Signed errors"], named(errors["methods"]), expected)


def test_errors_of_single_series():
    series = records.series_errors()
    expected = {
        **{f"median log10 MSE: {v} [raw units²]": (f"median_log10_mse/{v}", number) for v in records.VARIABLES},
        "rank correlation": ("rank_correlation", number),
        "hare larger [%]": ("share_first_larger", percent),
    }
    check(TABLES["Errors of single series"], named(series["methods"]), expected)


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
    check(TABLES["The top of the scale"], named(ceiling), expected)


def test_symbols_of_the_head():
    head = records.head()
    expected = {"token id": ("id", whole), "value": ("value", number), "place": ("rank", whole)}
    check(TABLES["The 13 symbols"], named(head["symbols"]), expected)


def test_spectra_by_projection_and_over_all():
    spectra = records.spectra()
    table = pd.DataFrame(spectra["projections"])
    shown = cells(TABLES["Adapter spectra"])
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
        "next token: a digit [%]": ("digit", percent),
    }
    check(TABLES["Padding"], padding["cases"], expected)


def test_csv_files_hold_every_number_in_its_place():
    found = {name: pd.DataFrame(sheet.rows, columns=sheet.columns) for name, sheet in FOUND.sheets.items()}
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
    said = {section.title: section.text for section in SECTIONS}
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
    captions = [block.caption for block in section_blocks()]
    assert any(
        "31.0 % of the logged steps. The ratio is 0.250 at least and 0.620 in the median" in text for text in captions
    )


def test_forecasts_of_an_analysis_are_drawn_from_its_own_series():
    tree = records.everything()
    (section,) = (section for section in SECTIONS if section.title == "Forecasts against truth")
    for picture, one in zip(section.blocks, tree["extremes"]["picked"], strict=True):
        assert picture.drawings[0].label.startswith(f"Series {one['series']}") and number(one["mse"]) in picture.caption
        for v, ax in enumerate(seen(picture.drawings[0].chart).axes):
            ink = [line.get_ydata().tolist() for line in ax.lines if len(line.get_xdata()) == 7]
            assert ink == [[row[v] for row in (*one["context"], *one["truth"])]]


def test_mean_errors_are_drawn_beside_medians():
    means = next(one for one in section_blocks() if one.drawings[0].name == "mean_errors")
    drawn = sorted(line.get_ydata().tolist() for line in seen(means.drawings[0].chart).axes[0].lines)
    assert drawn == sorted(method["mean"] for method in records.growth()["methods"].values())
