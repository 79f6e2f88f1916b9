"""The analyses of a run as frames, which are written as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

Tree = Mapping[str, Any]
Rows = list[dict[str, Any]]


def frames(analyses: Tree) -> dict[str, pd.DataFrame]:
    """{name of the file: frame} of every analysis that is there; the units are those of analyses.json."""
    found: dict[str, pd.DataFrame] = {}
    for key, tables in FRAMES.items():
        if key in analyses:
            found |= {name: pd.DataFrame(rows) for name, rows in tables(analyses[key])}
    return found


def _training(part: Tree) -> Iterator[tuple[str, Rows]]:
    yield "training", list(part["records"])


def _tokens(part: Tree) -> Iterator[tuple[str, Rows]]:
    kinds, steps = [], []
    for model, costs in part.items():
        for group in ("by_kind", "by_window"):
            for name, share in costs[group].items():
                nats = {f"nats_{softmax}": share[softmax]["nats"] for softmax in ("vocabulary", "symbols")}
                line = {"model": model, "part": name, "tokens": share["tokens"], **nats}
                kinds.append(line | {"perplexity_symbols": share["symbols"]["perplexity"], "share": share["share_of_nats"]})
        columns = costs["by_step"]
        steps += [{"model": model, **dict(zip(columns, row, strict=True))} for row in zip(*columns.values(), strict=True)]
    yield "token_costs", kinds
    yield "token_costs_by_step", steps


def _round_trip(part: Tree) -> Iterator[tuple[str, Rows]]:
    yield "round_trip", [
        {
            "series": part["series"], "headroom": one["headroom"], "step": step, "variable": variable,
            "difference": row[v], "half_unit": one["half_unit"][v],
        }
        for one in part["variants"]
        for step, row in enumerate(one["difference"])
        for v, variable in enumerate(part["variables"])
    ]  # fmt: skip


def _growth(part: Tree) -> Iterator[tuple[str, Rows]]:
    columns = ("mean", "median", "p10", "p90")
    yield (
        "error_growth",
        [
            {"method": name, "step": step, **{c: method[c][i] for c in columns}}
            | {f"mean {variable}": values[i] for variable, values in method["mean_by_variable"].items()}
            for name, method in part["methods"].items()
            for i, step in enumerate(part["step"])
        ],
    )


def _errors(part: Tree) -> Iterator[tuple[str, Rows]]:
    yield (
        "signed_errors",
        [
            {"method": name, "variable": variable, **figures}
            for name, method in part["methods"].items()
            for variable, figures in method["by_variable"].items()
        ],
    )
    yield (
        "absolute_error_quantiles",
        [
            {"probability": p} | {name: method["absolute_quantiles"][i] for name, method in part["methods"].items()}
            for i, p in enumerate(part["probabilities"])
        ],
    )


def _series(part: Tree) -> Iterator[tuple[str, Rows]]:
    keys = [(key, variable) for key in ("mse", "log10_mse") for variable in part["variables"]]
    yield (
        "series_errors",
        [
            {"method": name, "place": place + 1, "series": series}
            | {f"{key} {variable}": method[key][variable][place] for key, variable in keys}
            for name, method in part["methods"].items()
            for place, series in enumerate(method["series"])
        ],
    )


def _extremes(part: Tree) -> Iterator[tuple[str, Rows]]:
    rows: Rows = []
    for one in part["picked"]:
        context = len(one["context"])
        for step, time in enumerate(one["time"]):
            for v, variable in enumerate(part["variables"]):
                ahead = step - context
                line = {"series": one["series"], "which": one["which"], "step": step, "time": time, "variable": variable}
                truth = one["context"][step][v] if ahead < 0 else one["truth"][ahead][v]
                drawn = {} if ahead < 0 else {f"sample_{s}": sample[ahead][v] for s, sample in enumerate(one["samples"])}
                rows.append(line | {"truth": truth} | drawn)
    yield "picked_series", rows


def _ceiling(part: Tree) -> Iterator[tuple[str, Rows]]:
    yield "ceiling", [{"model": model, **point} for model, found in part.items() for point in found["points"]]


def _head(part: Tree) -> Iterator[tuple[str, Rows]]:
    if part["kind"] != "frozen":
        yield "head_largest", list(part["largest"])
        yield "head_positive", list(part["positive_tokens"])
        yield "head_symbols", [{"symbol": symbol, **entry} for symbol, entry in part["symbols"].items()]


def _spectra(part: Tree) -> Iterator[tuple[str, Rows]]:
    yield (
        "adapter_spectra",
        [
            {key: value for key, value in entry.items() if key != "singular_values"}
            | {f"s{i}": value for i, value in enumerate(entry["singular_values"], 1)}
            for entry in part["projections"]
        ],
    )


def _padding(part: Tree) -> Iterator[tuple[str, Rows]]:
    yield "padding", [{**case, "bound": part["bound"]} for case in part["cases"]]


FRAMES = {
    "training": _training, "tokens": _tokens, "round_trip": _round_trip, "growth": _growth, "errors": _errors,
    "series": _series, "extremes": _extremes, "ceiling": _ceiling, "head": _head, "spectra": _spectra, "padding": _padding,
}  # fmt: skip
