"""Forecasts series again, and windows of one series together: with what was read of their prompts before, and without it.
And a session of calls for several horizons and numbers of samples: how many programs are compiled.

    JAX_PLATFORMS=cpu python -m benchmarks.again [--turns 9] [--write]

Both ways run in one process, turn by turn (A B A B ...), after one of each that compiles; their samples must be equal. FLOPs
are those that a ledger is billed for (convention exact).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from unittest import mock

from benchmarks import tables
from benchmarks.common import RESULTS, ROOT

WHERE = "benchmarks.again"
TURNS, CONTEXT, HORIZON, SAMPLES = 9, 100, 5, 8
SESSION = ((3, 8), (4, 8), (5, 8), (8, 8), (10, 8), (10, 20), (12, 20), (15, 20), (20, 20))  # (horizon, samples) of calls


@dataclass
class Bill:
    """Pays for everything, and keeps what it cost."""

    template: Any
    events: list[Any] = field(default_factory=list)

    @contextlib.contextmanager
    def spend(self, kind: Any, **shape: Any) -> Iterator[dict[str, Any]]:
        """Notes the event of a piece of work, as far as it ran."""
        measured: dict[str, Any] = {}
        yield measured
        self.events.append(replace(self.template.of_kind(kind, **shape), **measured))


class Way(NamedTuple):
    """One of two ways to the same samples: what is done before the clock runs, and what is timed."""

    before: Callable[[], Any]
    run: Callable[[Any], Any]


def cases(context: int, horizon: int, samples: int) -> dict[str, tuple[Way, Way]]:
    """Returns for each case the way with what was read before, and the way without."""
    import jaxlv
    from jaxlv.forecasting import origins
    from jaxlv.forecasting.made import Made
    from jaxlv.steps import prompts
    from jaxlv.text.codec import Codec

    sampler = replace(jaxlv.open_model("embedded"), codec=Codec("liu"))
    series = jaxlv.simulate(series=4, steps=context, seed=0).ready().series
    request = jaxlv.Request(context, horizon, samples, batch=len(series))
    windows = origins.within(series.select(series.ids_N[:1]), context, horizon, 8)
    assert windows is not None

    def fresh() -> Any:
        return replace(sampler, made=Made())

    def again(more: Any) -> tuple[Way, Way]:
        def known() -> Any:
            one = fresh()
            one(series, request)
            return one

        return Way(known, lambda one: one(series, more)), Way(fresh, lambda one: one(series, more))

    def temperatures(one: Any) -> Any:
        return [one.with_sampling(temperature=t)(series, request) for t in (0.7, 0.9, 1.0)][-1]

    def apart(one: Any) -> Any:
        return [replace(one, made=Made()).with_sampling(temperature=t)(series, request) for t in (0.7, 0.9, 1.0)][-1]

    def rolled(one: Any) -> Any:
        return one(windows.windows, replace(windows.asked(request), batch=0))

    def unshared(one: Any) -> Any:
        with mock.patch.object(prompts, "nested", lambda texts: None):
            return rolled(one)

    return {
        f"{len(series)} series again, {2 * samples} samples": again(replace(request, samples=2 * samples)),
        f"{len(series)} series again, {2 * horizon} steps": again(replace(request, horizon=2 * horizon)),
        f"{len(series)} series at three temperatures": (Way(fresh, temperatures), Way(fresh, apart)),
        f"{len(windows.windows)} windows of one series": (Way(fresh, rolled), Way(fresh, unshared)),
    }


def measured(context: int, horizon: int, samples: int, turns: int) -> list[dict[str, Any]]:
    """Returns the times and FLOPs of every case both ways."""
    import numpy as np

    from jaxlv.config import RunConfig
    from jaxlv.model.bases import EMBEDDED_BASE
    from jaxlv.model.config import ModelConfig
    from jaxlv.runs.billing import event_of

    architecture, rows = ModelConfig.from_folder(EMBEDDED_BASE), []
    for name, ways in cases(context, horizon, samples).items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        found, bills = [], []
        for before, run in ways:
            bill = Bill(event_of(RunConfig(), "nothing"))
            found.append(run(replace(before(), meter=bill)).samples_NSHV)
            bills.append(bill.events)
        np.testing.assert_array_equal(*found)
        seconds: list[list[float]] = [[], []]
        for _ in range(turns):
            for spent, (before, run) in zip(seconds, ways, strict=True):
                one = before()
                began = time.perf_counter()
                run(one)
                spent.append(time.perf_counter() - began)
        gains = [slow / fast for fast, slow in zip(*seconds, strict=True)]
        rows.append({
            "case": name, "seconds": statistics.median(seconds[0]), "seconds_without": statistics.median(seconds[1]),
            "gain": statistics.median(gains), "gain_least": min(gains), "gain_greatest": max(gains),
            "flops": sum(event.flops(architecture, "exact") for event in bills[0]),
            "flops_without": sum(event.flops(architecture, "exact") for event in bills[1]),
            "read": sum(event.batch - event.known - event.nested for event in bills[0]),
            "read_without": sum(event.batch - event.known - event.nested for event in bills[1]), "load": os.getloadavg()[0],
        })  # fmt: skip
    return rows


def session(calls: Sequence[tuple[int, int]], context: int) -> dict[str, Any]:
    """Returns how many loops are compiled for calls, and the seconds of all calls by the clock and on the processor, with
    tails of few sizes and of every size; no program is kept on disk.
    """
    import jax

    import jaxlv
    from jaxlv.forecasting.made import Made
    from jaxlv.steps import decode, generate, kept

    loop: Any = decode.decode
    found: dict[str, Any] = {"calls": len(calls)}
    sampler = jaxlv.open_model("embedded")
    kept.keep_in(None)
    series = jaxlv.simulate(series=2, steps=context, seed=0).ready().series
    for name, room in (("", generate.room), ("_without", lambda slots: slots)):
        print(f"{len(calls)} calls{name.replace('_', ', ')} ...", file=sys.stderr, flush=True)
        jax.clear_caches()
        one, began = replace(sampler, made=Made()), (time.perf_counter(), time.process_time())
        with mock.patch.object(generate, "room", room):
            for horizon, samples in calls:
                one(series, jaxlv.Request(context, horizon, samples, batch=len(series)))
        clock, processor = time.perf_counter() - began[0], time.process_time() - began[1]
        found |= {f"programs{name}": loop._cache_size(), f"seconds{name}": clock, f"processor{name}": processor}
    return found


HEAD = ("forecast", "prompts read", "without", "GFLOP", "without", "s", "without", "x as fast (range)", "load")


def markdown(result: dict[str, Any]) -> str:
    """Writes the result as a table."""
    versions = ", ".join(f"{name} {result['versions'][name]}" for name in ("jax", "jaxlib", "jaxlv"))
    size = "{context} steps of context, {horizon} steps ahead, {samples} samples".format(**result["shape"])
    rows = [
        [
            row["case"], str(row["read"]), str(row["read_without"]), f"{row['flops'] / 1e9:.2f}",
            f"{row['flops_without'] / 1e9:.2f}", f"{row['seconds']:.2f}", f"{row['seconds_without']:.2f}",
            f"{row['gain']:.2f} ({row['gain_least']:.2f}-{row['gain_greatest']:.2f})", f"{row['load']:.1f}",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    machine = f"{result['machine']['cpu']}, {result['machine']['cores']} cores; {versions}; the embedded base, {size}."
    lines = ["| " + " | ".join(row) + " |" for row in (HEAD, ["---"] * len(HEAD), *rows)]
    told = (
        "{calls} calls for several horizons and numbers of samples, from nothing compiled: {programs} loops, "
        "{seconds:.0f} s, {processor:.0f} s on the processor. If each tail has room for its own tokens alone: "
        "{programs_without} loops, {seconds_without:.0f} s, {processor_without:.0f} s on the processor."
    ).format(**result["session"])
    return "\n".join([f"`{result['command']}`", "", machine, "", *lines, "", told])


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=TURNS, help=f"timed runs of each way (default {TURNS})")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/again-cpu.json and .md")
    options = parser.parse_args(argv)
    shape = {"context": CONTEXT, "horizon": HORIZON, "samples": SAMPLES}
    words = [] if options.turns == TURNS else ["--turns", str(options.turns)]
    result = {
        "program": WHERE, "command": tables.command(WHERE, words), "shape": shape, "machine": tables.machine(),
        "versions": tables.versions(ROOT), "rows": tables.rounded(measured(**shape, turns=options.turns)),
        "session": tables.rounded(session(SESSION, CONTEXT // 2)),
    }  # fmt: skip
    print(markdown(result))
    if options.write:
        path = RESULTS / "again-cpu.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(markdown(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
