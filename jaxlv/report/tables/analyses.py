"""Tables of the analyses of a run for its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from jaxlv.report.format import number
from jaxlv.report.table import Table, column, count, of, share, words
from jaxlv.results.quantities import Quantity

Tree = Mapping[str, Any]
NAME = words("name", " ")


def token_table(tokens: Tree) -> Table:
    """Tokens of each kind and window: count, nats and perplexity of each model, and the share of all its nats."""
    first, columns = next(iter(tokens.values())), [count("tokens")]
    parts = {"all": {model: {**costs, "share_of_nats": 1.0} for model, costs in tokens.items()}}
    for group in ("by_kind", "by_window"):
        parts |= {name: {model: costs[group][name] for model, costs in tokens.items()} for name in first[group]}
    rows = []
    for name, found in parts.items():
        row = {"name": name, "tokens": next(iter(found.values()))["tokens"]}
        for model, costs in found.items():
            row |= {f"{model} {softmax}": costs[softmax]["nats"] for softmax in ("vocabulary", "symbols")}
            row |= {f"{model} perplexity": costs["symbols"]["perplexity"], f"{model} share": costs["share_of_nats"]}
        rows.append(row)
    for model in tokens:
        columns += of([(f"{model} {key}", key) for key in ("vocabulary", "symbols")], model, "nats per token")
        columns += [column(f"{model} perplexity", "perplexity", model), share(f"{model} share", "share", model)]
    caption = (
        f"Cost of a token in nats, over {len(first['series'])} whole series, each token given all before it; padding never"
        " counts. Vocabulary: by the softmax over all tokens; symbols: over the 13 of the number format, as constrained"
        " decoding draws them; perplexity: e to the power of that; share: of all nats, by symbols."
    )
    return Table("Cost of tokens", caption, rows, [NAME, *columns])


def round_trip_table(trip: Tree) -> Table:
    """Differences after text and back under every head-room."""
    variables, keys = trip["variables"], {"mean": "mean", "greatest": "greatest", "half_unit": "half unit"}
    rows = [
        {
            "name": "scale" if one["headroom"] is None else f"{100 * one['headroom']:g} % head-room",
            **{key: one[key] for key in ("tokens", "mean_ratio_of_all", "greatest_ratio_of_all")},
            **{f"{variable} {key}": one[key][v] for v, variable in enumerate(variables) for key in keys},
        }
        for one in trip["variants"]
    ]
    columns = [count("tokens")]
    for variable in variables:
        columns += of([(f"{variable} {key}", head) for key, head in keys.items()], variable, "raw units")
    columns += of([("mean_ratio_of_all", "mean"), ("greatest_ratio_of_all", "greatest")], "all series", "half units")
    caption = (
        f"Series {trip['series']} as text and back: mean and greatest absolute difference in raw units, beside half a unit"
        f" of the last decimal. Last two columns: over all {trip['all_series']} series, in halves of a unit; rounding gives"
        " 0.5 on average and at most 1."
    )
    return Table("Text and back", caption, rows, [NAME, *columns])


def growth_table(growth: Tree) -> Table:
    """Errors of every method in the first and last steps, and how they grow."""
    edge = growth["edge"]
    rows = [{"name": name, **method} for name, method in growth["methods"].items()]
    columns = of([("first", f"first {edge}"), ("last", f"last {edge}")], "mean absolute error", "raw units")
    caption = (
        f"Mean absolute error over {growth['series']} series and the first, the last {edge} of {len(growth['step'])} steps,"
        " in raw units, and last over first."
    )
    return Table("Errors of the first and last steps", caption, rows, [NAME, *columns, column("growth", "growth")])


def signed_table(errors: Tree) -> Table:
    """Mean, deviation and sign of every method's errors, by variable."""
    rows = [
        {"name": name}
        | {f"{variable} {key}": value for variable, m in method["by_variable"].items() for key, value in m.items()}
        for name, method in errors["methods"].items()
    ]
    columns: list[Quantity] = []
    for variable in next(iter(errors["methods"].values()))["by_variable"]:
        columns += of([(f"{variable} mean", "mean"), (f"{variable} sd", "deviation")], variable, "raw units")
        columns.append(share(f"{variable} share_above", "too high", variable))
    caption = (
        "Forecast − truth in raw units, over all series and steps: mean (below zero: too low), standard deviation, and the"
        " share of forecasts that are too high."
    )
    return Table("Signed errors", caption, rows, [NAME, *columns])


def series_table(series: Tree) -> Table:
    """Median log10 MSE of every method by variable, and how the variables' errors go together."""
    variables = series["variables"]
    rows = [
        {"name": name, **method, **{f"median {variable}": value for variable, value in method["median_log10_mse"].items()}}
        for name, method in series["methods"].items()
    ]
    columns = of([(f"median {variable}", variable) for variable in variables], "median log10 MSE", "raw units²")
    caption = "Median over series of log10 of the mean squared error (raw units²)"
    if len(variables) > 1:
        columns += [
            column("rank_correlation", "rank correlation"),
            share("share_first_larger", f"{variables[0]} larger", ""),
        ]
        caption += (
            ", Spearman’s rank correlation of the errors of the first two variables over series, and the share of series"
            f" whose {variables[0]} has the larger error"
        )
    return Table("Errors of single series", f"{caption}.", rows, [NAME, *columns])


def ceiling_table(ceiling: Tree) -> Table:
    """How many samples end at or above the top of their scale, and how many truths lie above it."""
    rows = [{"name": model, **found} for model, found in ceiling.items()]
    peaks = {
        "near_top": "at the top", "above_top": "above it", "truth_above_top": "truth above", "followed": "both above",
    }  # fmt: skip
    columns = [
        count("samples"),
        *of(list(peaks.items()), "peaks of samples", "", "count"),
        column("median_forecast_over_true", "peak ratio"),
    ]
    caption = (
        "Peaks of samples, each sample and variable by itself: within 2 % of the top of the scale that it was written in;"
        " above it; with a truth that peaks above it; of these, with a sample that does too. Last: forecast peak over true"
        " peak, the median over futures that exceed their context."
    )
    return Table("The top of the scale", caption, rows, [NAME, *columns])


def head_table(head: Tree) -> Table:
    """The 13 symbols' own entries and their places among all."""
    rows = [{"symbol": symbol, **one} for symbol, one in head["symbols"].items()]
    columns = [count("id", "token id"), column("value", "value"), count("rank", "place")]
    caption = f"The entries of the 13 symbols, and their places among all {head['entries']:,}, the largest first."
    return Table("The 13 symbols", caption, rows, [words("symbol"), *columns])


def spectra_table(spectra: Tree) -> Table:
    """Median and range of the measures of rank and size, by projection and over all."""
    entries = pd.DataFrame(spectra["projections"])
    measures = {"effective_rank": "effective rank", "stable_rank": "stable rank", "first_share": "first"}
    spread = {"median": "median", "min": "least", "max": "greatest"}
    rows = []
    for name, chosen in [("all", entries), *entries.groupby("projection", sort=False)]:
        values = chosen[[*measures, "relative_norm"]].agg(list(spread))
        rows.append(
            {"name": name, "matrices": len(chosen)}
            | {f"{key} {of_all}": values.loc[of_all, key] for key in values for of_all in spread}
        )
    columns = [count("matrices")]
    for key, group in measures.items():
        heads = [(f"{key} {of_all}", head) for of_all, head in spread.items()]
        columns += of(heads, group, *(("%", "share") if key == "first_share" else ()))
    columns.append(share("relative_norm median", "median", "size"))
    caption = (
        f"The change scale × BA of each adapted weight, rank {spectra['rank']}: median and range over layers. Effective"
        " rank: e to the entropy of the singular values’ shares; stable rank: sum of squares over the largest square; first:"
        " share of the squared norm in the largest direction; size: norm of the change over that of the frozen weight."
    )
    return Table("Adapter spectra", caption, rows, [NAME, *columns])


def padding_table(padding: Tree) -> Table:
    """Differences of logits and of the next token under each way to pad."""
    columns = [
        column("difference", "difference", "logits", "natural log units"),
        column("within", "within", form="literal"),
        column("distance", "distance", "next token"),
        share("digit", "a digit", "next token"),
    ]
    lengths = " and ".join(map(str, padding["prompts"]))
    caption = (
        f"Prompts of {lengths} tokens, padded to {padding['padded_to']}, {padding['dtype']}. Difference: the largest of a"
        f" logit at a real token from the same without padding ({padding['logits_compared']:,} logits at each; the largest"
        f" logit is {number(padding['largest_logit'])}); within: at most {number(padding['bound'])}, what the order of"
        " summation may change. Next token: total variation distance of its distribution behind the prompt from that"
        " without padding, and the probability of a digit, which must come there."
    )
    return Table("Padding", caption, padding["cases"], [NAME, *columns])
