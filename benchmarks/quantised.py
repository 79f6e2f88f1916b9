"""Measures what a base in 8 and 4 bits loses: of its logits, and of the embedded base's forecasts.

    python -m benchmarks.quantised [--quick] [--write]

Logits: random weights in the widths of Qwen2.5, two layers and a head of 4,096 tokens, in float32; random weights have no
large columns, and nothing to lose, so this tells the order of the error and not a loss of quality. Forecasts: the embedded
base on simulated predator-prey series that it was not trained on, by the same seeds; the difference of the MAE is taken
series by series, with the 95 % interval of its mean by bootstrap.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmarks import tables
from benchmarks.common import RESULTS, ROOT

if TYPE_CHECKING:
    from jaxlv.config import Weights

SIZES = ("qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b")
LAYERS, VOCABULARY, TOKENS = 2, 4096, (2, 64)
KINDS: tuple[Weights, ...] = ("full", "int8", "nf4")
SERIES, CONTEXT, HORIZON, SAMPLES, SEED = 120, 50, 50, 20, 1234


def of_logits(name: str) -> list[dict[str, Any]]:
    """Returns, for 8 and 4 bits, the root mean square of what the logits change by, as a share of theirs."""
    from dataclasses import replace

    import jax
    import numpy as np

    from jaxlv.flops.family import FAMILY
    from jaxlv.model import quantised, weights
    from jaxlv.model.bits import Bits
    from jaxlv.model.qwen2 import Qwen2

    config = replace(FAMILY[name], num_hidden_layers=LAYERS, vocab_size=VOCABULARY)
    model, generator = Qwen2(config), np.random.default_rng(0)

    def drawn(key: str, sizes: tuple[int, ...]) -> np.ndarray:
        if "norm" in key:
            return np.ones(sizes, np.float32)
        return generator.standard_normal(sizes, np.float32) / np.float32(sizes[-1] ** 0.5)

    flat = {key: drawn(key, leaf.shape) for key, leaf in weights.abstract_params(model).items()}
    ids_BT = generator.integers(0, VOCABULARY, TOKENS)

    def logits(model: Qwen2, flat: dict[str, Any]) -> np.ndarray:
        return np.asarray(jax.jit(model.apply)({"params": weights.unflatten(flat, model)}, ids_BT))

    whole, found = logits(model, flat), []
    bits: Bits
    for bits in ("int8", "nf4"):
        few = dict(flat)
        for module in weights.projections(model):
            made = quantised.quantised(bits, few.pop(f"{module}.weight"))
            few |= {f"{module}.{name}": value for name, value in made.items()}
        change = logits(model.clone(weights=bits), few) - whole
        found.append({"model": name, "weights": bits, "error": float(np.sqrt((change**2).mean() / (whole**2).mean()))})
    return found


def of_forecasts(count: int) -> list[dict[str, Any]]:
    """Returns the errors of the embedded base's forecasts in every kind of weights."""
    from dataclasses import replace

    import jax
    import numpy as np

    import jaxlv
    from jaxlv.config import EvaluateConfig, ModelSettings
    from jaxlv.forecasting.evaluate import likelihood_measures, score, truth_of
    from jaxlv.forecasting.request import Request
    from jaxlv.model.weights import bytes_of

    series = jaxlv.simulate(series=count, steps=CONTEXT + HORIZON, seed=SEED).ready().series
    opened = {kind: jaxlv.open_model("embedded", settings=ModelSettings(weights=kind)) for kind in KINDS}
    config = EvaluateConfig(context=CONTEXT, horizon=HORIZON, samples=SAMPLES)
    context_NCV, truth_NHV = truth_of(series, CONTEXT, HORIZON)
    forecasts = {kind: model(series, Request.of(config)) for kind, model in opened.items()}
    scores = {
        kind: replace(
            score(kind, made.median(), truth_NHV, context_NCV, series, made.filled()),
            **likelihood_measures(opened[kind], series, config),
        )
        for kind, made in forecasts.items()
    }
    error_N = {kind: np.abs(made.median() - truth_NHV).mean(axis=(1, 2)) for kind, made in forecasts.items()}
    draws = np.random.default_rng(0).integers(0, count, (10_000, count))
    rows = []
    for kind in KINDS:
        more_N = error_N[kind] - error_N["full"]
        low, high = np.quantile(more_N[draws].mean(axis=1), (0.025, 0.975))
        one, model = scores[kind], opened[kind].model
        rows.append({
            "weights": kind, "bytes": bytes_of(model), "mae": one.mae, "mae_ci95": one.mae_ci95,
            "mae_more": float(more_N.mean()), "mae_more_ci95": (float(low), float(high)), "crps": one.crps,
            "nats_per_value": one.nats_per_value,
        })  # fmt: skip
        jax.clear_caches()
    return rows


def markdown(result: dict[str, Any]) -> str:
    """Writes the result as two tables."""
    versions = result["versions"]
    told = ", ".join(f"{name} {version}" for name, version in versions.items() if name in ("jax", "jaxlib", "jaxlv"))
    words = f"{result['machine']['cpu']}, {result['machine']['cores']} cores; {told}."

    def between(pair: Sequence[float] | None) -> str:
        return "" if pair is None else f"{pair[0]:.4f} to {pair[1]:.4f}"

    logits = [[one["model"], one["weights"], f"{one['error']:.3f}"] for one in result["logits"]]
    forecasts = [
        [
            one["weights"], f"{one['bytes'] / 1e6:.2f}", f"{one['mae']:.4f}", between(one["mae_ci95"]),
            f"{one['mae_more']:+.4f}", between(one["mae_more_ci95"]), f"{one['crps']:.4f}", f"{one['nats_per_value']:.4f}",
        ]
        for one in result["forecasts"]
    ]  # fmt: skip
    heads = (
        ("widths of", "weights", "error of logits"),
        ("weights", "MB", "MAE", "95 %", "more than full", "95 %", "CRPS", "nats per value"),
    )
    text = [f"`{result['command']}`", "", words]
    for head, rows in zip(heads, (logits, forecasts), strict=True):
        text += ["", *("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))]
    return "\n".join(text)


def measured(sizes: Sequence[str], count: int) -> dict[str, Any]:
    """Returns both measurements."""
    return {"logits": [row for name in sizes for row in of_logits(name)], "forecasts": of_forecasts(count)}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest size, and eight series")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/quantised-cpu.*")
    options = parser.parse_args(argv)
    sizes, count = (SIZES[:1], 8) if options.quick else (SIZES, SERIES)
    result = {
        "program": "benchmarks.quantised",
        "command": tables.command("benchmarks.quantised", ["--quick"] * options.quick),
        "machine": tables.machine(), "versions": tables.versions(ROOT), **measured(sizes, count),
    }  # fmt: skip
    print(markdown(result))
    if options.write:
        path = RESULTS / "quantised-cpu.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(markdown(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
