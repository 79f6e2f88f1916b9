"""Measures how soon a new process is of use: an import, a forecast, and the first training step of the embedded base.

    python -m benchmarks.startup [--turns 5] [--write]

Each case runs in processes of its own, first with an empty cache of compiled programs, then with the one that this leaves.
Times are from the start of the process to the end of the work; CPU seconds are those of the whole process. Of several warm
turns the best counts, as others may use the machine, whose load is told.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.common import RESULTS, ROOT

FORECAST = """
import numpy as np, jaxlv
values = np.sin(np.arange(120) / 6)[:, None] + 2
made = jaxlv.Forecaster().predict(values, horizon=12, samples=20)
print("done", float(made.median.sum()), flush=True)
"""
VERB = """
import sys
from jaxlv.tools.cli import main
words = ["--out", sys.argv[1] + "/forecast", "--quiet"]
sys.argv = ["jaxlv", "forecast", "embedded", "--data", "series.csv", "--horizon", "12", *words]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("done", flush=True)
"""
STEP = """
import os, sys
from pathlib import Path
import numpy as np, jaxlv
from jaxlv.config import RunConfig, with_settings
from jaxlv.runs import devices, sources, training
devices.compute_with_care()
devices.keep_compiled_programs()
config = with_settings(RunConfig(), ["train.steps=20", "windows.context_steps=[8,20]", "windows.length=256"])
values = np.cumsum(np.random.default_rng(0).normal(size=(16, 120, 2)), 1) + 50
inputs = sources.load_inputs(config, given=jaxlv.load_series(values))
def first(step, figures):
    print("done", figures["loss"], flush=True)
    os._exit(0)
training.train(config, Path(sys.argv[1]) / "run", inputs=inputs, watch=training.Watch(on_step=first))
"""
CASES = {
    "import jaxlv": "import jaxlv; print('done', flush=True)",
    "a forecast in Python": FORECAST,
    "jaxlv forecast": VERB,
    "the first training step": STEP,
}
GOALS = {"import jaxlv": 0.2, "a forecast in Python": 3.0, "jaxlv forecast": 3.0, "the first training step": 6.0}


def once(code: str, cache: Path) -> dict[str, Any]:
    """Runs a case in a process of its own; returns its wall seconds and CPU seconds, and what it has found."""
    with tempfile.TemporaryDirectory(prefix="jaxlv-start-") as work:
        lines = ["time,x", *(f"{i},{2 + (i % 7) / 3}" for i in range(60))]
        (Path(work) / "series.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        environment = os.environ | {"XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", code, work], cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout and process.stderr
        said = process.stdout.read().decode().strip()
        seconds = time.perf_counter() - began
        told = process.stderr.read().decode()
        _, _, used = os.wait4(process.pid, 0)
    if not said.startswith("done"):
        raise SystemExit(f"a case failed: {told[-2000:]}")
    return {"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime, "found": said.removeprefix("done").strip()}


def measured(name: str, turns: int) -> dict[str, Any]:
    """Returns a case's times with an empty cache and with a warm one."""
    with tempfile.TemporaryDirectory(prefix="jaxlv-cache-") as folder:
        cold = once(CASES[name], Path(folder))
        warm = [once(CASES[name], Path(folder)) for _ in range(turns)]
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    if {run["found"] for run in warm} != {cold["found"]}:
        raise SystemExit(f"{name}: another result with a warm cache")
    best = {key: min(run[key] for run in warm) for key in ("seconds", "cpu_seconds")}
    return {
        "case": name, "cold_seconds": cold["seconds"], "cold_cpu_seconds": cold["cpu_seconds"], **best,
        "all_seconds": [run["seconds"] for run in warm], "cache_bytes": size, "goal": GOALS[name],
        "load": os.getloadavg()[0],
    }  # fmt: skip


def markdown(result: dict[str, Any]) -> str:
    """Writes the result as a table."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    machine = f"{result['machine']['cpu']}, {result['machine']['cores']} cores; {versions}."
    head = (
        "from the start of a process",
        "s, warm (range)",
        "CPU s, warm",
        "s, empty cache",
        "CPU s",
        "cache MB",
        "goal s",
        "load",
    )
    rows = [
        [
            row["case"], f"{row['seconds']:.2f} ({min(row['all_seconds']):.2f}-{max(row['all_seconds']):.2f})",
            f"{row['cpu_seconds']:.2f}", f"{row['cold_seconds']:.2f}", f"{row['cold_cpu_seconds']:.2f}",
            f"{row['cache_bytes'] / 1e6:.1f}", f"{row['goal']:g}", f"{row['load']:.1f}",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    table = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    foot = "`load`: how many processes wanted a core meanwhile, those of the case included."
    return "\n".join([f"`{result['command']}`", "", machine, "", *table, "", foot])


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="processes with a warm cache (default 5)")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/startup-cpu.json and .md")
    options = parser.parse_args(argv)
    rows = []
    for name in CASES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows.append(measured(name, options.turns))
    words = [] if options.turns == 5 else ["--turns", str(options.turns)]
    result = {
        "program": "benchmarks.startup", "command": tables.command("benchmarks.startup", words),
        "machine": tables.machine(), "versions": tables.versions(ROOT), "rows": tables.rounded(rows),
    }  # fmt: skip
    print(markdown(result))
    if options.write:
        path = RESULTS / "startup-cpu.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(markdown(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
