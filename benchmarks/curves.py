"""Measures what a train step and a forecast cost as one size grows, each against its bound on this machine, as figures.

    python -m benchmarks.curves [--quick] [--write]

The model is the embedded base, on the CPU, in float32. Train steps grow in length (128 to 4096 tokens), batch (1 to 64) and
rank (1 to 64); forecasts in samples and series (1 to 1000). The bound of time is the longer of two: FLOPs by the formulas
at the rate of a large product, and the bytes that must be read at the rate of a copy of as many bytes as the weights have,
which stay in the processor's cache; both rates are measured first. The bound of memory is what the formulas of
jaxlv.steps.needs count: weights, state, and what the backward pass cannot do without. Memory is XLA's plan of the program.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks import tables
from benchmarks.common import RESULTS, ROOT

GROWS: dict[str, tuple[int, ...]] = {
    "length": (128, 256, 512, 1024, 2048, 4096),
    "batch": (1, 2, 4, 8, 16, 32, 64),
    "rank": (1, 2, 4, 8, 16, 32, 64),
    "samples": (1, 10, 100, 1000),
    "series": (1, 10, 100, 1000),
}
PLAIN = {"length": 256, "batch": 4, "rank": 8, "samples": 1, "series": 1}  # the sizes that do not grow
WORDS = {
    "length": "tokens of each of 4 windows", "batch": "windows of 256 tokens", "rank": "rank, 4 x 256 tokens",
    "samples": "samples of a series",
    "series": "series, one sample each",
}  # fmt: skip
TRAINED = ("length", "batch", "rank")
GROUPS = {"steps": TRAINED, "forecasts": ("samples", "series")}  # what stands in one figure
CONTEXT, HORIZON = 20, 8  # steps of two variables
TURNS, ENOUGH = 3, 20.0  # repetitions, and seconds after which no other begins
PASSES = 2  # over all sizes, some minutes apart: a shared machine may be slow for one of them


class Ceilings(NamedTuple):
    """FLOP/s of a large product and bytes/s of a large copy."""

    flops: float
    bytes: float


class Cost(NamedTuple):
    """What one size costs: seconds, the FLOPs and bytes read that bound them, and bytes of memory with their bound."""

    seconds: float
    flops: int
    read: int
    bytes: int
    bound_bytes: int

    def told(self, limits: Ceilings) -> dict[str, float]:
        """Returns it with the bound of its time."""
        return {**self._asdict(), "bound_seconds": max(self.flops / limits.flops, self.read / limits.bytes)}


def best(call: Callable[[], Any]) -> float:
    """Returns the least seconds of some calls, after one that warms up."""
    import jax

    jax.block_until_ready(call())
    found: list[float] = []
    begun = time.perf_counter()
    while len(found) < TURNS and (not found or time.perf_counter() - begun < ENOUGH):
        began = time.perf_counter()
        jax.block_until_ready(call())
        found.append(time.perf_counter() - began)
    return min(found)


def ceilings(side: int = 2048) -> Ceilings:
    """Measures this machine; the copy has as many bytes as the embedded base's weights."""
    import jax
    import jax.numpy as jnp

    from jaxlv.model.bases import EMBEDDED_BASE

    a = jnp.ones((side, side))
    product, big = jax.jit(jnp.matmul), jnp.zeros((EMBEDDED_BASE / "model.safetensors").stat().st_size // 4)
    copies = jax.jit(lambda x: jax.lax.fori_loop(0, 50, lambda i, x: jax.lax.optimization_barrier(x + 1), x))
    return Ceilings(2 * side**3 / best(lambda: product(a, a)), 50 * 2 * big.nbytes / best(lambda: copies(big)))


def of_step(sizes: dict[str, int]) -> Cost:
    """Returns the cost of a train step."""
    import jax
    import numpy as np

    import jaxlv
    from benchmarks.side import random_ids
    from jaxlv.config import RunConfig, build_config
    from jaxlv.runs.billing import event_of
    from jaxlv.steps import needs
    from jaxlv.steps.stack import Stack, memory_of
    from jaxlv.text.tokens import Windows

    tree = {
        "lora": {"rank": sizes["rank"], "head": "frozen"}, "train": {"batch_size": sizes["batch"]},
        "windows": {"length": sizes["length"]},
    }  # fmt: skip
    config = build_config(RunConfig, tree, where="benchmarks.curves")
    model, params = jaxlv.load_pretrained()
    stack = Stack(model, params, [config])
    ids = random_ids(1, sizes["batch"], sizes["length"], vocabulary=model.config.vocab_size)
    labels = np.concatenate([ids[..., 1:], np.full_like(ids[..., :1], -1)], -1)
    batch = Windows(ids, np.broadcast_to(np.arange(ids.shape[-1], dtype=np.int32), ids.shape), labels)
    step, state = stack.step().lower(stack.state, stack.frozen, batch).compile(), stack.state

    def call() -> Any:
        nonlocal state
        state, metrics = step(state, stack.frozen, batch)
        return metrics

    held = needs.weights(model) + sum(needs.training(config, model).values())
    found = Cost(best(call), event_of(config).flops(model.config, "exact"), held, memory_of(step), held)
    jax.clear_caches()
    return found


def of_forecast(sizes: dict[str, int]) -> Cost:
    """Returns the cost of forecasts, decoded together."""
    from dataclasses import replace

    import jax

    from jaxlv.config import RunConfig
    from jaxlv.flops import plan
    from jaxlv.forecasting import sampler as sampling
    from jaxlv.forecasting.made import Made
    from jaxlv.model.bases import EMBEDDED_BASE
    from jaxlv.model.config import ModelConfig
    from jaxlv.model.qwen2 import Qwen2
    from jaxlv.runs.audited import of_event
    from jaxlv.runs.billing import event_of
    from jaxlv.steps import needs
    from jaxlv.steps.stack import memory_of

    import jaxlv  # isort: skip

    architecture = ModelConfig.from_folder(EMBEDDED_BASE)
    model, config = Qwen2(architecture), RunConfig()
    event = replace(
        plan.drawing(config, event_of(config, held="nothing"), CONTEXT, HORIZON, sizes["samples"], sizes["series"])
    )
    program = of_event(event, config, model).program
    plans = jax.jit(program.function).lower(*program.arguments).compile()
    sampler = jaxlv.open_model("embedded")
    series = jaxlv.simulate(series=sizes["series"], steps=CONTEXT + HORIZON, seed=0).ready().series
    request = jaxlv.Request(CONTEXT, HORIZON, sizes["samples"], 0, sizes["series"])
    turns: list[int] = []
    plain = sampling.generate

    def noted(*arguments: Any, **named: Any) -> Any:
        made = plain(*arguments, **named)
        turns.append(made.iterations)
        return made

    sampling.generate = noted
    try:
        seconds = best(lambda: replace(sampler, made=Made())(series, request).samples_NSHV)  # each reads its prompts
    finally:
        sampling.generate = plain
    tail = (1 + event.ahead) * max(turns)
    event = replace(event, new_tokens=max(turns), slots=event.length + tail)  # what ran, not what could have
    rows, c = sizes["series"] * sizes["samples"], architecture
    token = 8 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim  # float32 keys and values
    drawn, held = event.new_tokens, needs.weights(model) + token * (sizes["series"] * event.length + rows * event.new_tokens)
    read = drawn * (needs.weights(model) + token * sizes["series"] * event.length)  # at least, turn by turn
    return Cost(seconds, event.flops(architecture, "exact"), read, memory_of(plans), held)


def measured(grows: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Returns all costs, by what grows and its size.

    The ceilings are the best that were measured before any curve, as others use the machine; the load is told for each size,
    as it was when that size was fastest.
    """
    costs: dict[tuple[str, int], tuple[Cost, float]] = {}
    limits = Ceilings(0.0, 0.0)
    for turn, (name, sizes) in itertools.product(range(PASSES), grows.items()):
        limits = Ceilings(*map(max, limits, ceilings()))
        for size in sizes:
            print(f"{turn + 1}/{PASSES}: {name} {size} ...", file=sys.stderr, flush=True)
            found = (of_step if name in TRAINED else of_forecast)({**PLAIN, name: size}), os.getloadavg()[0]
            costs[name, size] = min(costs.get((name, size), found), found, key=lambda one: one[0].seconds)
    curves = {
        name: [{"size": size, **costs[name, size][0].told(limits), "load": costs[name, size][1]} for size in sizes]
        for name, sizes in grows.items()
    }
    return {"ceilings": limits._asdict(), "curves": curves}


# ------------------------------------------------------------------------------------------------ tables and figures


def markdown(result: dict[str, Any]) -> str:
    """Writes the result as a table below its figures."""
    limits, versions = result["ceilings"], result["versions"]
    told = ", ".join(f"{name} {version}" for name, version in versions.items() if name in ("jax", "jaxlib", "jaxlv"))
    words = f"{result['machine']['cpu']}, {result['machine']['cores']} cores; {told}; a product of 2048 x 2048 at "
    words += f"{limits['flops'] / 1e9:,.0f} GFLOP/s and a copy in the cache at {limits['bytes'] / 1e9:,.1f} GB/s."
    words += " Best of at most six, in two passes; `load`: how many processes wanted a core meanwhile."
    head = ("grows", "size", "s", "bound s", "x bound", "MiB", "bound MiB", "load")
    rows = [
        [
            WORDS[name], f"{one['size']:,}", f"{one['seconds']:.4g}", f"{one['bound_seconds']:.4g}",
            f"{one['seconds'] / one['bound_seconds']:.1f}", f"{one['bytes'] / 2**20:,.1f}",
            f"{one['bound_bytes'] / 2**20:,.1f}", f"{one['load']:.1f}",
        ]
        for name, curve in result["curves"].items() for one in curve
    ]  # fmt: skip
    table = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([f"`{result['command']}`", "", words, "", *table])


def figure(result: dict[str, Any], what: str, grows: Sequence[str]) -> Any:
    """Returns the chart of "seconds" or "bytes": a panel for each of the sizes that grow, measured and bound."""
    from jaxlv.report.charts import Axis, Chart, Panel, Series
    from jaxlv.report.theme import INK, MUTED

    unit, scale = ("s", 1.0) if what == "seconds" else ("MiB", 2.0**20)
    panels = []
    for name in grows:
        curve = result["curves"][name]
        sizes = [one["size"] for one in curve]
        lines = [
            Series(words, sizes, [one[key] / scale for one in curve], colour=colour, dash=dash, marker=marker)
            for words, key, colour, dash, marker in (
                ("measured" if what == "seconds" else "XLA's plan", what, INK, "solid", "o"),
                ("bound", f"bound_{what}", MUTED, (0, (4, 3)), ""),
            )
        ]
        y = Axis("time" if what == "seconds" else "memory", unit, scale="log")
        panels.append(Panel(lines, Axis(WORDS[name], scale="log"), y))
    return Chart("lines", panels, (880, 240), columns=len(panels))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the two smallest sizes of each")
    parser.add_argument(
        "--write", action="store_true", help="write benchmarks/results/curves-cpu.* and the figures in docs/pictures"
    )
    options = parser.parse_args(argv)
    grows = {name: sizes[:2] if options.quick else sizes for name, sizes in GROWS.items()}
    result = {
        "program": "benchmarks.curves",
        "command": tables.command("benchmarks.curves", ["--quick"] * options.quick),
        "machine": tables.machine(), "versions": tables.versions(ROOT), **tables.rounded(measured(grows)),
    }  # fmt: skip
    print(markdown(result))
    if options.write:
        write(result)


def write(result: dict[str, Any]) -> None:
    """Writes the figures and tables of a result."""
    from jaxlv.report.figures import svg

    path = RESULTS / "curves-cpu.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(result) + "\n", encoding="utf-8")
    for what in ("seconds", "bytes"):
        for kind, grows in GROUPS.items():
            chart = figure(result, what, grows)
            drawn = svg.stand_alone(svg.to_svg(chart, f"{what} of {kind}"))
            (ROOT / "docs" / "pictures" / f"{what}_of_{kind}.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
