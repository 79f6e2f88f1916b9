"""Times `jaxlv ledger verify` for a run whose ledger has many events, and a reservation with its commit.

    python -m benchmarks.ledger [--events 100000] [--repeats 3] [--out DIR]

The run consists of lines only; nothing is computed. They are train steps one by one, a validation with a forecast after each
hundred, and an evaluation of a tenth of all events. The whole command is timed, including its start, by the clock and in
seconds of the processor (on which other processes have less influence), and so is the call of the library in a process that
has started.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.common import RESULTS, ROOT
from benchmarks.flops import timed

EVERY = 100  # steps between two validations
BUDGET = 1e24


def events(count: int, config: Any) -> Iterator[tuple[str, str, Any]]:
    """Yields (phase, purpose, event) of a run's work, in its order."""
    from jaxlv.flops.events import FINAL
    from jaxlv.runs.billing import event_of

    step, drawn = event_of(config), {"length": 320, "new_tokens": 300, "slots": 620, "stage": 80}
    read = step.of_kind("validation", count=4)
    draw = step.of_kind("generation", **drawn, batch=8, samples=1)
    kinds, done = [step] * EVERY + [read, draw], 0
    for number in range(count - count // 10):
        event = kinds[number % len(kinds)]
        yield "final", "", dataclasses.replace(event, step=done)
        done += event is step
    for _ in range(count // 10):
        yield FINAL, "evaluate", dataclasses.replace(draw, samples=20)


def make(folder: Path, count: int) -> None:
    """Makes a run folder with a ledger of `count` reservations, each committed."""
    from jaxlv.config import RunConfig, build_config, to_toml
    from jaxlv.flops.family import FAMILY
    from jaxlv.flops.ledger import VERSION, Terms
    from jaxlv.runs import records
    from jaxlv.runs.billing import LEDGER
    from jaxlv.storage import chain, lines

    model, steps = FAMILY["qwen2.5-0.5b"], (count - count // 10) // (EVERY + 2) * EVERY
    train = {"steps": count, "validate_every": EVERY, "validation_windows": 32, "batch_size": 8, "forecast_series": 8}
    config = build_config(RunConfig, {"train": train, "budget": {"flops": BUDGET, "held_back": BUDGET / 2}})
    folder.mkdir()
    (folder / records.CONFIG).write_text(to_toml(config), encoding="utf-8")
    made_of = {"run": folder.name, "data": {"sha256": ""}, "base": {"sha256": ""}, "dataset_alpha": None}
    made_of["model"] = dataclasses.asdict(model)
    (folder / records.MANIFEST).write_text(json.dumps(made_of), encoding="utf-8")
    told = []
    for step in range(1, steps + 1):
        told.append({"step": step, "loss": 1.0})
        if step % EVERY == 0:
            told.append({"step": step, "validation_loss": 1.0, "forecast_mae": 1.0})
    (folder / records.METRICS).write_bytes(b"".join(map(lines.encode, told)))
    path, terms = folder / LEDGER, Terms(int(BUDGET), "exact", model, int(BUDGET / 2))
    before, written = "", 0
    with path.open("wb") as file:
        for record in _ledger(VERSION, terms, events(count, config)):
            line = lines.encode(record, before)
            before, written = json.loads(line)[lines.CHAIN], written + 1
            file.write(line)
    chain.make_head(chain.head_of(path), chain.Head(written, before))


def _ledger(version: int, terms: Any, work: Iterator[tuple[str, str, Any]]) -> Iterator[dict[str, Any]]:
    yield {"ledger": version, **dataclasses.asdict(terms)}
    for number, (phase, purpose, event) in enumerate(work):
        told, tree = {"purpose": purpose} if purpose else {}, event.tree()
        flops = event.flops(terms.model, terms.convention)
        yield {"reserve": number, "run": "run", "attempt": 1, "phase": phase, **told, "event": tree, "flops": flops}
        yield {"commit": number, "event": tree, "flops": flops}


def measure(count: int, repeats: int) -> dict[str, Any]:
    """Returns the seconds of the command (by the clock and of the processor) and of the call, and the ledger's size."""
    from jaxlv.runs.verification import verify

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        make(folder, count)
        command = [sys.executable, "-m", "jaxlv.tools.cli", "ledger", "verify", str(folder)]
        found: dict[str, list[float]] = {"command": [], "processor": [], "call": []}
        for _ in range(repeats):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done, seconds = timed(lambda: subprocess.run(command, capture_output=True, text=True, cwd=ROOT))
            if done.returncode or not done.stdout.startswith(f"{count} entries"):
                raise SystemExit(f"not verified: {done.stdout[-500:]} {done.stderr[-500:]}")
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            found["command"].append(seconds)
            found["processor"].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            found["call"].append(timed(lambda: verify(folder))[1])
        size = (folder / "ledger.jsonl").stat().st_size
    return {"events": count, "bytes": size, "seconds": found}


def paid(times: int = 300) -> dict[str, float]:
    """Returns the seconds of one reservation and commit, both on disk: median and 95th percentile."""
    from jaxlv.flops.family import FAMILY
    from jaxlv.flops.ledger import Event, Ledger, Terms

    event = Event("train_step", 4, 512, rank=8, targets=("q_proj", "v_proj"))
    with tempfile.TemporaryDirectory() as folder:
        terms = Terms(10**20, "exact", FAMILY["qwen2.5-0.5b"])
        with Ledger(Path(folder) / "ledger.jsonl", terms) as ledger:
            seconds = [timed(lambda: ledger.commit(ledger.reserve(event, "final")))[1] for _ in range(times)]
    return {"median": statistics.median(seconds), "p95": statistics.quantiles(seconds, n=20)[-1]}


def markdown(result: dict[str, Any]) -> str:
    """Writes the result in words."""
    medians = {name: statistics.median(seconds) for name, seconds in result["seconds"].items()}
    spans = {name: f"{min(seconds):.2f} to {max(seconds):.2f}" for name, seconds in result["seconds"].items()}
    return (
        f"`{result['program_line']}`\n\n{result['setting']}\n\n"
        f"A ledger of {result['events']:,} events ({result['bytes'] / 1e6:.0f} MB) is verified in {medians['command']:.2f} s"
        f" ({spans['command']}) by the command, which takes {medians['processor']:.2f} s of the processor"
        f" ({spans['processor']}); {medians['call']:.2f} s ({spans['call']}) are not its start."
        f" One reservation and commit take {1e3 * result['paid']['median']:.2f} ms on disk (95th percentile"
        f" {1e3 * result['paid']['p95']:.2f} ms)."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default benchmarks/results)")
    options = parser.parse_args(argv)
    where, found, load = tables.machine(), tables.versions(ROOT), os.getloadavg()[0]
    told = ", ".join(f"{name} {one}" for name, one in found.items())
    result = {
        "program": "benchmarks.ledger",
        "program_line": "python -m benchmarks.ledger" + (f" --events {options.events}" if options.events != 100_000 else ""),
        "setting": f"{where['cpu']}, {where['cores']} cores with {load:.0f} processes at work; {told}",
        "machine": where,
        "versions": found,
        **measure(options.events, options.repeats),
        "paid": paid(),
    }
    print(markdown(result))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "ledger-cpu.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (options.out / "ledger-cpu.md").write_text(markdown(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
