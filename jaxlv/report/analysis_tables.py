"""Tables of the analyses of a run for its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from jaxlv.report.page import Cell, Group, Table, number, percent

Tree = Mapping[str, Any]


def _number(value: float | None) -> Cell:
    return Cell(number(value), value)


def _percent(value: float | None) -> Cell:
    return Cell(percent(value), value)


def _count(value: int) -> Cell:
    return Cell(f"{value:,}", value)


def token_table(tokens: Tree) -> Table:
    """Tokens of each kind and window: count, nats and perplexity of each model, share of all nats of the first."""
    first = next(iter(tokens.values()))
    rows = []
    for group in ("by_kind", "by_window"):
        for kind, share in first[group].items():
            cells = [Cell(kind), _count(share["tokens"])]
            for costs in tokens.values():
                found = costs[group][kind]
                cells += [_number(found["vocabulary"]["nats"]), _number(found["symbols"]["nats"])]
                cells += [_number(found["symbols"]["perplexity"]), _percent(found["share_of_nats"])]
            rows.append(cells)
    overall = [Cell("all"), _count(first["tokens"])]
    for costs in tokens.values():
        overall += [_number(costs["vocabulary"]["nats"]), _number(costs["symbols"]["nats"])]
        overall += [_number(costs["symbols"]["perplexity"]), _percent(1.0)]
    caption = (
        f"Cost of a token in nats, over {len(first['series'])} whole series, each token given all before it; padding never"
        " counts. Vocabulary: by the softmax over all tokens; symbols: over the 13 of the number format, as constrained"
        " decoding draws them; perplexity: e to the power of that; share: of all nats, by symbols."
    )
    columns = ["", "tokens", *["vocabulary", "symbols", "perplexity", "share in %"] * len(tokens)]
    groups = [Group("", "", 2), *(Group(name, "nats per token", 4) for name in tokens)]
    return Table("Cost of tokens", caption, groups, columns, [overall, *rows])


def round_trip_table(trip: Tree) -> Table:
    """Differences after text and back under every head-room."""
    variables = trip["variables"]
    rows = []
    for one in trip["variants"]:
        cells = [
            Cell("scale" if one["headroom"] is None else f"{100 * one['headroom']:g} % head-room"),
            _count(one["tokens"]),
        ]
        for v in range(len(variables)):
            cells += [_number(one[key][v]) for key in ("mean", "greatest", "half_unit")]
        rows.append([*cells, _number(one["mean_ratio_of_all"]), _number(one["greatest_ratio_of_all"])])
    caption = (
        f"Series {trip['series']} as text and back: mean and greatest absolute difference in raw units, beside half a unit"
        f" of the last decimal. Last two columns: over all {trip['all_series']} series, in halves of a unit; rounding gives"
        " 0.5 on average and at most 1."
    )
    groups = [Group("", "", 2), *(Group(v, "raw units", 3) for v in variables), Group("all series", "half units", 2)]
    columns = ["", "tokens", *["mean", "greatest", "half unit"] * len(variables), "mean", "greatest"]
    return Table("Text and back", caption, groups, columns, rows)


def growth_table(growth: Tree) -> Table:
    """Errors of every method in the first and last steps, and how they grow."""
    rows = [
        [Cell(name), _number(m["first"]), _number(m["last"]), _number(m["growth"])] for name, m in growth["methods"].items()
    ]
    caption = (
        f"Mean absolute error over {growth['series']} series and the first, the last {growth['edge']} of"
        f" {len(growth['step'])} steps, in raw units, and last over first."
    )
    groups = [Group("", "", 1), Group("mean absolute error", "raw units", 2), Group("", "", 1)]
    columns = ["", f"first {growth['edge']}", f"last {growth['edge']}", "growth"]
    return Table("Errors of the first and last steps", caption, groups, columns, rows)


def signed_table(errors: Tree) -> Table:
    """Mean, deviation and sign of every method's errors, by variable."""
    variables = list(next(iter(errors["methods"].values()))["by_variable"])
    rows = [
        [Cell(name)]
        + [
            cell
            for v in variables
            for cell in (
                _number(m["by_variable"][v]["mean"]),
                _number(m["by_variable"][v]["sd"]),
                _percent(m["by_variable"][v]["share_above"]),
            )
        ]
        for name, m in errors["methods"].items()
    ]
    caption = (
        "Forecast − truth in raw units, over all series and steps: mean (below zero: too low), standard deviation, and the"
        " share of forecasts that are too high."
    )
    groups = [Group("", "", 1), *(Group(v, "raw units", 3) for v in variables)]
    return Table("Signed errors", caption, groups, ["", *["mean", "deviation", "too high, %"] * len(variables)], rows)


def series_table(series: Tree) -> Table:
    """Median log10 MSE of every method by variable, and how the variables' errors go together."""
    variables = series["variables"]
    rows = [
        [
            Cell(name), *(_number(m["median_log10_mse"][v]) for v in variables), _number(m["rank_correlation"]),
            _percent(m["share_first_larger"]),
        ]
        for name, m in series["methods"].items()
    ]  # fmt: skip
    caption = (
        "Median over series of log10 of the mean squared error (raw units²), Spearman’s rank correlation of the two"
        f" variables’ errors over series, and the share of series whose {variables[0]} has the larger error."
    )
    groups = [Group("", "", 1), Group("median log10 MSE", "raw units²", len(variables)), Group("", "", 2)]
    columns = ["", *variables, "rank correlation", f"{variables[0]} larger, %"]
    return Table("Errors of single series", caption, groups, columns, rows)


def ceiling_table(ceiling: Tree) -> Table:
    """How many samples end at or above the top of their scale, and how many truths lie above it."""
    rows = [
        [
            Cell(model), _count(c["samples"]), _count(c["near_top"]), _count(c["above_top"]), _count(c["truth_above_top"]),
            _count(c["followed"]), _number(c["median_forecast_over_true"]),
        ]
        for model, c in ceiling.items()
    ]  # fmt: skip
    caption = (
        "Peaks of samples, each sample and variable by itself: within 2 % of the top of the scale that it was written in;"
        " above it; with a truth that peaks above it; of these, with a sample that does too. Last: forecast peak over true"
        " peak, the median over futures that exceed their context."
    )
    groups = [Group("", "", 2), Group("peaks of samples", "", 4), Group("", "", 1)]
    columns = ["", "samples", "at the top", "above it", "truth above", "both above", "peak ratio"]
    return Table("The top of the scale", caption, groups, columns, rows)


def head_table(head: Tree) -> Table:
    """The 13 symbols' own entries and their places among all."""
    rows = [
        [Cell(symbol), _count(one["id"]), _number(one["value"]), _count(one["rank"])]
        for symbol, one in head["symbols"].items()
    ]
    caption = f"The entries of the 13 symbols, and their places among all {head['entries']:,}, the largest first."
    return Table("The 13 symbols", caption, [Group("", "", 4)], ["symbol", "token id", "value", "place"], rows)


def spectra_table(spectra: Tree) -> Table:
    """Median and range of the measures of rank and size, by projection and over all."""
    entries = spectra["projections"]
    names = list(dict.fromkeys(entry["projection"] for entry in entries))
    groups = {"all": entries, **{name: [e for e in entries if e["projection"] == name] for name in names}}
    rows = []
    for name, chosen in groups.items():
        cells = [Cell(name), _count(len(chosen))]
        for key, write in (("effective_rank", _number), ("stable_rank", _number), ("first_share", _percent)):
            cells += [write(_median(chosen, key)), write(min(e[key] for e in chosen)), write(max(e[key] for e in chosen))]
        rows.append([*cells, _percent(_median(chosen, "relative_norm"))])
    caption = (
        f"The change scale × BA of each adapted weight, rank {spectra['rank']}: median and range over layers. Effective"
        " rank: e to the entropy of the singular values’ shares; stable rank: sum of squares over the largest square; first:"
        " share of the squared norm in the largest direction; size: norm of the change over that of the frozen weight."
    )
    three = ["median", "least", "greatest"]
    heads = [Group("", "", 2), Group("effective rank", "", 3), Group("stable rank", "", 3), Group("first", "%", 3)]
    return Table("Adapter spectra", caption, [*heads, Group("size", "%", 1)], ["", "matrices", *three * 3, "median"], rows)


def _median(entries: Sequence[Tree], key: str) -> float:
    return float(pd.Series([entry[key] for entry in entries]).median())


def padding_table(padding: Tree) -> Table:
    """Differences of logits and of the next token under each way to pad."""
    rows = [
        [
            Cell(case["name"]), _number(case["difference"]),
            Cell("" if "within" not in case else "yes" if case["within"] else "no"),
            _number(case["distance"]), _percent(case["digit"]),
        ]
        for case in padding["cases"]
    ]  # fmt: skip
    lengths = ", ".join(map(str, padding["prompts"]))
    caption = (
        f"Prompts of {lengths} tokens, padded to {padding['padded_to']}, {padding['dtype']}. Difference: the largest of a"
        f" logit at a real token from the same without padding ({padding['logits_compared']:,} logits at each; the largest"
        f" logit is {number(padding['largest_logit'])}); within: at most {number(padding['bound'])}, what the order of"
        " summation may change. Next token: total variation distance of its distribution behind the prompt from that"
        " without padding, and the probability of a digit, which must come there."
    )
    groups = [Group("", "", 1), Group("logits", "natural log units", 2), Group("next token", "", 2)]
    return Table("Padding", caption, groups, ["", "difference", "within", "distance", "a digit, %"], rows)
