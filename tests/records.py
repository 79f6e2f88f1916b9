"""Records of analyses as their programs write them, made up so that no two numbers are alike: what a page shows of them can
be traced to one place.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from jaxlv.results.record import Record

Tree = dict[str, Any]
VARIABLES = ("hare", "lynx")
MODELS = ("tuned", "untuned")


def read(kind: type[Record], tree: Tree) -> Any:
    """The record that a file with that content holds."""
    return kind.read(json.loads(json.dumps(tree)), "a file")


def unlike(seed: int, *shape: int, low: float = 0.1, high: float = 1.0) -> Any:
    """Numbers of which no two are alike, as nested lists."""
    return np.random.default_rng(seed).uniform(low, high, shape).tolist()


def rising(seed: int, count: int, high: float = 1.0) -> list[float]:
    """Such numbers in ascending order."""
    return sorted(unlike(seed, count, high=high))


def training() -> Tree:
    return {
        "records": [
            {"step": 1, "loss": 2.5, "gradient_norm": 4.0, "clipped_norm": 1.0},
            {"step": 2, "loss": 2.1, "gradient_norm": 0.9, "clipped_norm": 0.9},
            {"step": 2, "validation_loss": 2.3},
            {"step": 5, "loss": 1.7, "gradient_norm": 1.6, "clipped_norm": 1.0},
        ],
        "first_loss": 2.5, "last_loss": 1.7, "best_validation_loss": 2.3, "best_validation_step": 2, "clip_norm": 1.25,
        "share_clipped": 0.31, "ratio": {"least": 0.25, "median": 0.62, "greatest": 1.0}, "logged_steps": 3,
    }  # fmt: skip


def costs(seed: int) -> Tree:
    """What a token costs a model: `seed` tells models apart."""
    a = iter(unlike(seed, 80))

    def share(tokens: int) -> Tree:
        return {
            "tokens": tokens, "vocabulary": {"nats": next(a), "perplexity": 1 + next(a)},
            "symbols": {"nats": next(a), "perplexity": 1 + next(a)}, "share_of_nats": next(a),
        }  # fmt: skip

    low, middle, high = np.sort(np.array(unlike(seed + 50, 3, 6)), axis=0).tolist()
    return {
        "series": [3, 8, 9], "context": 4, "headroom": 0.3, "tokens": 900 + seed,
        "vocabulary": {"nats": next(a), "perplexity": 1 + next(a), "nats_ci95": [next(a), 2 + next(a)]},
        "symbols": {"nats": next(a), "perplexity": 1 + next(a), "nats_ci95": [next(a), 2 + next(a)]},
        "by_kind": {kind: share(10 * n + seed) for n, kind in enumerate(("point", "first decimal", "comma"), 2)},
        "by_window": {kind: share(70 * n + seed) for n, kind in enumerate(("steps of the context", "steps behind it"), 2)},
        "by_step": {"step": list(range(6)), "p10": low, "median": middle, "p90": high},
    }  # fmt: skip


def tokens() -> Tree:
    return {"tuned": costs(1), "untuned": costs(2)}


def round_trip() -> Tree:
    def variant(headroom: float, seed: int) -> Tree:
        return {
            "headroom": headroom, "text": f"{seed}.23,4.56;7.89", "ids": list(range(seed, seed + 12)), "tokens": 400 + seed,
            "half_unit": unlike(seed, 2), "difference": unlike(seed + 1, 5, 2, low=0, high=0.1), "mean": unlike(seed + 2, 2),
            "greatest": unlike(seed + 3, 2), "greatest_ratio": unlike(seed + 4, 2), "mean_ratio_of_all": 0.49 + seed / 1e4,
            "greatest_ratio_of_all": 0.98 + seed / 1e4,
        }  # fmt: skip

    return {
        "series": 8, "all_series": 17, "variables": list(VARIABLES), "decimals": 2, "scale": "context", "context": 4,
        "within": True, "variants": [variant(0.2, 10), variant(0.6, 30), variant(0.4, 50)],
    }  # fmt: skip


METHODS = ("tuned", "untuned", "analog", "RM, fitted (oracle)", "last value")


def growth() -> Tree:
    """The oracle errs least, `analog` least of the baselines that may be beaten."""
    methods = {}
    for n, name in enumerate(METHODS):
        low, middle, high = np.sort(np.array(unlike(60 + n, 3, 4)), axis=0)
        size = {"RM, fitted (oracle)": 0.01, "analog": 0.5, "last value": 3.0}.get(name, 1.0)
        mean = np.array(unlike(70 + n, 4))
        methods[name] = {
            "mean": (size * mean).tolist(), "median": (size * middle).tolist(), "p10": (size * low).tolist(),
            "p90": (size * high).tolist(), "first": size * 0.11 + n / 100, "last": size * 0.7 + n / 100,
            "growth": 2.5 + n / 10,
            "mean_by_variable": dict(zip(VARIABLES, (size * np.array(unlike(80 + n, 2, 4))).tolist(), strict=True)),
        }  # fmt: skip
    return {"step": [1, 2, 3, 4], "edge": 2, "series": 6, "methods": methods}


def errors() -> Tree:
    def signed(seed: int) -> Tree:
        a, b, share = unlike(seed, 3)
        points = dict(zip(("p05", "p25", "p50", "p75", "p95"), rising(seed + 1, 5), strict=True))
        return {"mean": a - 0.5, "sd": b, "share_above": share, **points}

    return {
        "probabilities": [0.0, 0.5, 0.75, 0.9, 1.0],
        "edges": [-1.0, -0.25, 0.5, 1.0],
        "methods": {
            name: {
                "absolute_quantiles": rising(100 + n, 5, high=2.0),
                "by_variable": {variable: signed(110 + 10 * n + 3 * v) for v, variable in enumerate(VARIABLES)},
            }
            for n, name in enumerate(METHODS)
        },
        "histograms": {
            name: {variable: unlike(200 + 10 * n + v, 3) for v, variable in enumerate(VARIABLES)}
            for n, name in enumerate(MODELS)
        },
    }


def series_errors() -> Tree:
    """Series in another order under each method."""
    orders = ([8, 3, 9, 5], [5, 9, 3, 8], [3, 5, 8, 9], [9, 8, 5, 3], [8, 9, 3, 5])
    methods = {}
    for n, name in enumerate(METHODS):
        mse = {variable: unlike(300 + 10 * n + v, 4) for v, variable in enumerate(VARIABLES)}
        methods[name] = {
            "series": orders[n], "mse": mse, "log10_mse": {v: np.log10(values).tolist() for v, values in mse.items()},
            "median_log10_mse": {v: float(np.median(np.log10(values))) - n / 100 for v, values in mse.items()},
            "rank_correlation": 0.3 + n / 100, "share_first_larger": 0.62 + n / 100,
        }  # fmt: skip
    return {"variables": list(VARIABLES), "methods": methods}


def extremes() -> Tree:
    return {
        "model": "tuned", "variables": list(VARIABLES), "of": 6,
        "picked": [
            {
                "which": which, "series": series, "mse": 0.1 + n, "time": [1.5 * t for t in range(7)],
                "context": unlike(400 + n, 4, 2), "truth": unlike(410 + n, 3, 2), "samples": unlike(420 + n, 5, 3, 2),
            }
            for n, (which, series) in enumerate({"best": 8, "median": 3, "worst": 5}.items())
        ],
    }  # fmt: skip


def ceiling() -> Tree:
    def of(seed: int) -> Tree:
        points = [
            {
                "series": 3 + n, "variable": VARIABLES[n % 2], "headroom": (0.2, 0.6)[n % 2],
                "true_over_context": 1.0 + a, "true_over_top": 0.4 + b, "forecast_over_true": 0.5 + c,
            }
            for n, (a, b, c) in enumerate(unlike(seed, 6, 3))
        ]  # fmt: skip
        return {
            "headrooms": [0.2, 0.6], "futures": 40 + seed, "futures_above_context": 12, "samples": 700 + seed,
            "near_top": 31 + seed, "above_top": 52 + seed, "truth_above_top": 73 + seed, "followed": 24 + seed,
            "median_forecast_over_true": 0.8 + seed / 1e4, "points": points,
        }  # fmt: skip

    return {"tuned": of(1), "untuned": of(2)}


def head() -> Tree:
    """Two tokens of the alphabet and one other are among the largest entries."""
    symbols = {"3": {"id": 18, "value": 0.07, "rank": 1}, ".": {"id": 13, "value": 0.03, "rank": 3},
               ";": {"id": 26, "value": -0.04, "rank": 399}}  # fmt: skip
    largest = [{"id": 18, "text": "3", "value": 0.07}, {"id": 77, "text": " fox", "value": 0.05},
               {"id": 13, "text": ".", "value": 0.03}, {"id": 90, "text": "é", "value": 0.02}]  # fmt: skip
    return {
        "kind": "bias", "entries": 400, "moved": 390, "positive": 4, "negative": 386, "median": -0.011, "least": -0.05,
        "greatest": 0.07, "largest": largest, "positive_tokens": largest, "symbols": symbols,
        "histogram": {"edges": [-0.05, -0.02, 0.01, 0.07], "counts": [300, 95, 5]},
        "against_report": {"report": "mao", "positive": [".", ","], "median": -0.0005, "same": False, "both": ["."]},
    }  # fmt: skip


def spectra() -> Tree:
    """Two projections in three layers, the last of which did not train in one of them."""
    entries = []
    for layer in (0, 3, 7):
        for projection in ("q_proj", "v_proj"):
            n = len(entries)
            values = sorted(unlike(500 + n, 3), reverse=True) if n != 5 else [0.0, 0.0, 0.0]
            effective, stable, first, norm, weight = unlike(510 + n, 5)
            entries.append(
                {
                    "layer": layer, "projection": projection, "rank": 3, "singular_values": values,
                    "effective_rank": 1 + effective, "stable_rank": 1.5 + stable, "first_share": first,
                    "norm": norm if n != 5 else 0.0, "weight_norm": 10 * weight, "relative_norm": norm / (10 * weight),
                }
            )  # fmt: skip
    return {"rank": 3, "projections": entries, "sentence": "The rank is used."}


def padding() -> Tree:
    names = ("no padding", "right", "left", "left, positions count the padding", "left, padding read as text",
             "right, next token read behind the padding")  # fmt: skip
    cases = [
        {"name": name, "difference": 0.011 * n, "within": n < 3, "distance": 0.0123 * n, "digit": 0.9 - n / 8}
        for n, name in enumerate(names)
    ]
    return {
        "prompts": [31, 17], "padded_to": 64, "dtype": "float32", "logits_compared": 1037, "largest_logit": 21.5,
        "bound": 0.0345, "cases": cases,
    }  # fmt: skip


def everything() -> Tree:
    """All analyses of a run."""
    return {
        "training": training(), "tokens": tokens(), "round_trip": round_trip(), "growth": growth(), "errors": errors(),
        "series": series_errors(), "extremes": extremes(), "ceiling": ceiling(), "head": head(), "spectra": spectra(),
        "padding": padding(),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- evaluations


def scores(name: str, seed: int, model: bool = True) -> Tree:
    """A row of metrics.json; shares of bands ascend with their level."""
    a = iter(unlike(600 + seed, 60))

    def ends() -> list[float]:
        return sorted((next(a), next(a)))

    def by_level(levels: tuple[int, ...]) -> dict[str, float]:
        return dict(zip(map(str, levels), sorted(next(a) for _ in levels), strict=True))

    bands = (50, 80, 95)
    row: Tree = {
        "name": name, "mae": next(a), "mae_median": next(a), "mae_ci95": ends(), "mse": next(a), "rmse": next(a),
        "mae_first_5": next(a), "r2": next(a), "mase": next(a), "mae_by_step": [next(a) for _ in range(4)],
        "mae_by_series": {str(i): next(a) for i in (3, 8, 9)},
        "per_variable": {
            v: {key: next(a) for key in ("mae", "mae_median", "mse", "r2", "mase")} | {"mae_ci95": ends()} for v in VARIABLES
        },
    }  # fmt: skip
    if model:
        row |= {
            "crps": next(a), "energy_score": next(a), "energy_score_ci95": ends(), "coverage": by_level(bands),
            "interval_width": by_level(bands), "coverage_conformal": by_level(bands), "temperature": next(a),
            "interval_width_conformal": by_level(bands), "nats_per_value": next(a), "nats_per_value_ci95": ends(),
            "valid_share": next(a), "valid_share_unmasked": next(a),
        }  # fmt: skip
    return row


def evaluation() -> Tree:
    """Two models and two baselines."""
    return {
        "protocol": {"units": {"mae": "hares", "mse": "hares²", "nats_per_value": "nats"}, "context": 4, "horizon": 3,
                     "samples": 5, "series": [3, 8, 9], "scale": "context", "scale_peeks_at_future": False},
        "rows": [scores("tuned", 1), scores("untuned", 2), scores("analog", 3, False), scores("last value", 4, False)],
    }  # fmt: skip


def figure(seed: int, series: int = 3) -> Tree:
    """A figure of a protocol: the mean is not the median, nor in the middle of its interval."""
    mean, median, below, above = unlike(700 + seed, 4)
    return {"mean": mean, "median": median, "ci95": [mean - below / 20, mean + above / 10], "series": series}


def protocol_part() -> Tree:
    """A part of a protocol of three measures, one of which is better if larger; the oracle is the best in all."""
    measures = {
        "mae_raw": {"words": "MAE", "unit": "raw units"}, "r2_hare": {"words": "R² hare", "unit": "1"},
        "mse_scaled": {"words": "MSE as written", "unit": "xu's units squared"},
    }  # fmt: skip
    names = ("tuned", "untuned", "analog", "RM, fitted (oracle)")
    rows = [
        {"name": name, "figures": {key: figure(10 * n + k) for k, key in enumerate(measures)}, "mae_by_step": unlike(n, 3)}
        for n, name in enumerate(names, 1)
    ]
    oracle = rows[-1]["figures"]
    for key, best in {"mae_raw": 0.0012, "r2_hare": 0.9987, "mse_scaled": 0.0034}.items():
        oracle[key]["mean"] = best
    reported = {"final": {"mae_raw": 0.031, "r2_hare": 0.87, "mse_scaled": 0.012},
                "untuned": {"mae_raw": 0.42, "r2_hare": -0.6}}  # fmt: skip
    protocol = {"words": "3 steps from 4", "samples": 5, "series": [3, 8, 9], "scale": "context",
                "point forecast": "median of the samples at each step", "measures": measures}  # fmt: skip
    return {"part": "rai", "protocol": protocol, "reported": reported, "truth": {}, "rows": rows, "drawing": "series 8"}


def comparison() -> Tree:
    """Two protocols, one of them without a ledger."""
    spent = {"tuning": 4.1e13, "validation": 2.2e12, "forecasts": 3.3e11, "total": 4.353e13, "budget": 9e13,
             "convention": "coursework"}  # fmt: skip
    split = {"train": 700, "validation": 200, "test": 100}
    return {
        "protocols": {
            "rai": {"flops": spent, "reported_flops": {"total": 9.87e16, "words": "as reported"}, "split": split,
                    "parts": {"rai": protocol_part()}},
            "xu": {"flops": {**spent, "total": 5.5e12}, "reported_flops": {"total": 1.03e17, "words": "by its logs"},
                   "split": split, "parts": {}},
        }
    }  # fmt: skip


def stress() -> Tree:
    """Two conditions of a group, and one of another."""
    conditions = []
    for n, (group, level, value) in enumerate(
        (("amplitude", "x 1", 1.0), ("amplitude", "x 4", 4.0), ("noise", "5 %", 0.05))
    ):
        rows = [scores(name, 20 + 10 * n + k, k < 2) for k, name in enumerate(("tuned", "untuned", "analog"))]
        for k, row in enumerate(rows[:2]):
            row["above_top"] = dict(zip(("truth", "forecast"), unlike(40 + 10 * n + k, 2), strict=True))
        conditions.append(
            {"group": group, "level": level, "value": value, "horizon": 3, "samples": 9, "series": [3, 8, 9], "rows": rows}
        )
    return {"conditions": conditions, "data": "x.h5"}
