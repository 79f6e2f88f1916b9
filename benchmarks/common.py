"""What the benchmarks share: shapes, weights, one subprocess per side, interleaved repetitions, results as files.

A side is one library doing one piece of work in a process of its own, so that thread pools, allocators and peak memory do
not mix. All sides of a case are loaded and warmed up first. Then they take turns (A B C A B C ...), so that whatever slows
the machine down for a while slows all sides; ratios are taken turn by turn.

The parent imports neither jax nor torch: a child's ru_maxrss starts at its parent's size.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.side import Sides, make_weights, serve

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Shape:
    """A Qwen2.5 architecture with a tied head."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ff: int
    vocabulary: int = 151_936
    repeats: int = 7  # timed repetitions

    def config(self) -> dict[str, Any]:
        """Returns the fields of config.json."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.ff,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32_768,
        }


SHAPES = {
    "full": Shape(896, 24, 14, 2, 4864, repeats=3),  # Qwen2.5-0.5B: 494,032,768 parameters
    "tiny": Shape(256, 6, 4, 2, 1024),
    "micro": Shape(128, 4, 4, 2, 384),
    "smoke": Shape(32, 2, 4, 2, 64, vocabulary=64, repeats=2),  # for the tests: its figures mean nothing
}


@dataclass(frozen=True)
class Case:
    """One row of work: a shape and what is done with it; a repetition trains on `tokens`, or generates so many."""

    shape: str
    work: str
    tokens: int
    settings: Mapping[str, int]


# ------------------------------------------------------------------------------------------------ the parent


class Side:
    """The parent's end of a side's process. When the constructor returns, the side is loaded and has run once."""

    def __init__(self, module: str, settings: Mapping[str, Any]):
        self.name: str = settings["side"]
        self.runs: list[dict[str, float]] = []
        environment = os.environ | {
            "JAX_PLATFORMS": settings["device"],
            "JAX_ENABLE_COMPILATION_CACHE": "false",  # compile times are those of a first run
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # two processes share the accelerator
            "OMP_NUM_THREADS": str(settings["threads"]),
            "TRANSFORMERS_VERBOSITY": "error",
        }
        command = [sys.executable, "-m", module, "--side", json.dumps(settings)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True)
        self.facts = self._answer()

    def run(self, timed: bool = True) -> None:
        """Runs one repetition; its figures are kept if `timed`."""
        self._say("run")
        answer = self._answer()
        if timed:
            self.runs.append(answer)

    def finish(self) -> None:
        """Ends the process; its facts then include its peak memory."""
        if "unavailable" not in self.facts:
            self._say("end")
            self.facts |= self._answer()
        self.close()

    def close(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _say(self, word: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._process.kill()
            raise SystemExit(f"{self.name} ended before its work was done (see above)")
        return json.loads(line)


def measure(module: str, case: Case, sides: Sequence[str], options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Returns one row: every side's figures on one case, and the ratios of jaxlv's sides to PyTorch."""
    shape = SHAPES[case.shape]
    settings = {**case.settings, "shape": case.shape, "vocabulary": shape.vocabulary, "folder": str(folder)}
    settings |= {name: getattr(options, name) for name in ("device", "dtype", "threads", "attention")}
    running: list[Side] = []
    try:
        for name in sides:
            running.append(Side(module, settings | {"side": name}))
        able = [side for side in running if "unavailable" not in side.facts]
        for turn in range(1 + (options.repeats or shape.repeats)):  # the first turn warms up, as each side's first run did
            for side in able:
                side.run(timed=turn > 0)
        for side in running:
            side.finish()
    finally:
        for side in running:
            side.close()
    figures = {side.name: tables.figures(side.name, side.runs, side.facts, case.tokens) for side in running}
    return {
        "shape": case.shape,
        "work": case.work,
        "tokens": case.tokens,
        "sides": figures,
        "ratios": tables.ratios(figures),
        "gains": tables.gains(figures),
    }


# ------------------------------------------------------------------------------------------ the whole program


def parser(description: str, defaults: str) -> argparse.ArgumentParser:
    """Returns a parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Shapes: {'; '.join(f'{name} = {_spelt(shape)}' for name, shape in SHAPES.items())}.",
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    made.add_argument("--shapes", default=defaults, help=f"which, with commas between (default {defaults})")
    made.add_argument("--repeats", type=int, help="timed repetitions of each side (default 7; full shape 3)")
    made.add_argument("--quick", action="store_true", help="2 repetitions, no full shape, and no file without --out")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of weights and products")
    made.add_argument("--attention", choices=("xla", "cudnn"), default="xla", help="jaxlv's (cudnn: bfloat16 on cuda)")
    made.add_argument("--threads", type=int, default=cores, help="CPU threads of each side (default: all cores)")
    made.add_argument("--out", type=Path, help="folder of the results (default benchmarks/results)")
    made.add_argument("--side", help=argparse.SUPPRESS)  # how the program calls itself for one side
    return made


def _spelt(shape: Shape) -> str:
    heads = f"{shape.heads} heads, {shape.kv_heads} KV"
    return f"hidden {shape.hidden}, {shape.layers} layers, {heads}, ff {shape.ff}, vocabulary {shape.vocabulary} tied"


def main(
    module: str, made: argparse.ArgumentParser, sides: Sides, cases: Sequence[Case], argv: Sequence[str] | None = None
) -> None:
    """Runs the benchmark `module` ("benchmarks.train_step") over the cases of the chosen shapes; writes and prints."""
    options = made.parse_args(argv)
    if options.side:
        serve({**sides, "weights": make_weights}, options.side)
        return
    if options.quick:
        options.shapes = ",".join(s for s in options.shapes.split(",") if s != "full")
        options.repeats = options.repeats or 2
    names = options.shapes.split(",")
    for name in names:
        if name not in SHAPES:
            made.error(f"--shapes {name}: no such shape; there are {', '.join(SHAPES)}")
    result: dict[str, Any] = {
        "program": module,
        "command": tables.command(module, sys.argv[1:] if argv is None else argv),
        "settings": {key: getattr(options, key) for key in ("device", "dtype", "attention", "threads")},
        "machine": tables.machine(),
        "versions": tables.versions(ROOT),
    }
    rows: list[dict[str, Any]] = []
    for name in names:
        folder = Path(tempfile.mkdtemp(prefix="jaxlv-bench-"))
        try:
            result["weights"] = _write_weights(module, SHAPES[name], folder / "model", options)
            for case in (case for case in cases if case.shape == name):
                print(f"{case.shape} {case.work} ...", file=sys.stderr, flush=True)
                rows.append(measure(module, case, list(sides), options, folder / "model"))
        finally:
            shutil.rmtree(folder)
    found = {f["accelerator"] for row in rows for f in row["sides"].values() if "accelerator" in f}
    result["machine"]["accelerator"] = ", ".join(sorted(found)) or "none"
    result["rows"] = rows
    write = options.out or not options.quick
    tables.publish(result, (options.out or RESULTS) if write else None)


def _write_weights(module: str, shape: Shape, folder: Path, options: argparse.Namespace) -> str:
    settings = {"side": "weights", "device": "cpu", "threads": options.threads, "folder": str(folder)}
    side = Side(module, settings | {"config": shape.config()})
    side.finish()
    if "unavailable" in side.facts:
        raise SystemExit(f"no weights: {side.facts['unavailable']}")
    return side.facts["weights"]
