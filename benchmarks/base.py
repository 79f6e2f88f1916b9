"""Compares variations of a base's config, each trained for the same number of tokens.

    python -m benchmarks.base [--only NAMES] [--tokens 25e6] [--at-once 1] [--work DIR]

Each variation is one run of tools/make_base.py over the same simulated series, judged by the same 256 windows of series
that are in no training set. The learning rate falls until the end of a run, so the curve of a longer run does not continue
that of a shorter one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import tables

ROOT = Path(__file__).resolve().parents[1]
LENGTH, SHORT = 1024, 256  # tokens of a window: in general, and while short windows come first
ROWS = 32  # windows of LENGTH in a batch


def shape(hidden: int, layers: int, heads: int, kv_heads: int, ff: int) -> list[str]:
    """Returns the settings of an architecture."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    sizes = (hidden, layers, heads, kv_heads, ff)
    return [f"architecture.{name}={size}" for name, size in zip(names, sizes, strict=True)]


RATE = "optimizer.learning_rate=9e-3"
WIDE = [*shape(192, 6, 3, 1, 384), RATE]
VARIATIONS: dict[str, list[str]] = {
    "192 x 6": WIDE,
    "128 x 4": [*shape(128, 4, 4, 2, 384), RATE],
    "128 x 4, FLOPs of 192 x 6": [*shape(128, 4, 4, 2, 384), RATE, "tokens=2.32"],
    "128 x 10": [*shape(128, 10, 2, 1, 384), RATE],
    "256 x 3": [*shape(256, 3, 4, 1, 640), RATE],
    "192 x 6, twice the learning rate": [*WIDE, "optimizer.learning_rate=1.8e-2"],
    "192 x 6, half the learning rate": [*WIDE, "optimizer.learning_rate=4.5e-3"],
    "192 x 6, AdamW": [*WIDE, 'optimizer.name="adamw"', "optimizer.learning_rate=3e-3"],
    "192 x 6, a quarter in short windows first": [*WIDE, "short=0.25"],
    "192 x 6, half the batch": [*WIDE, "rows=16"],
    "192 x 6, float16": [*WIDE, 'dtype="float16"'],
}
"""Settings of tools/make_base.py, and of this program: `tokens` (a factor), the share of `short` windows, `rows` a batch."""


def settings(variation: list[str], tokens: float) -> list[str]:
    """Returns a variation's settings as tools/make_base.py takes them, with steps and phases for so many tokens."""
    own = dict(setting.split("=", 1) for setting in variation)
    rows, short = int(own.pop("rows", ROWS)), float(own.pop("short", 0))
    steps = round(tokens * float(own.pop("tokens", 1)) / (rows * LENGTH))
    first = {"until": round(steps * short), "length": SHORT, "batch_size": rows * LENGTH // SHORT}
    phases = [first] * (short > 0) + [{"until": steps, "length": LENGTH, "batch_size": rows}]
    text = ", ".join("{" + ", ".join(f"{key} = {value}" for key, value in phase.items()) + "}" for phase in phases)
    every = f"validate_every={max(1, steps // 8)}"
    return [*(f"{key}={value}" for key, value in own.items()), f"phases=[{text}]", f"steps={steps}", every]


def train(name: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Trains one run in a process of its own, and returns the record that it leaves."""
    out = work / name.replace(" ", "_").replace(",", "")
    if not (out / "training.json").is_file():
        command = [sys.executable, str(ROOT / "tools/make_base.py"), str(options.config), "--out", str(out)]
        command += ["--series", str(work / "series"), "--workers", str(options.workers)]
        for setting in settings([*options.set, *VARIATIONS[name]], options.tokens):
            command += ["--set", setting]
        with (work / f"{out.name}.log").open("w") as log:
            subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=True)
    return json.loads((out / "training.json").read_text(encoding="utf-8"))


def row(name: str, record: dict[str, Any]) -> list[str]:
    """Returns name, parameters, tokens, PFLOPs (exact), and validation nats half way and at the end."""
    curve = [f"{point['validation_nats_per_token']:.4f}" for point in record["curve"]]
    cost = f"{record['flops']['exact'] / 1e15:.2f}"
    return [name, f"{record['parameters']:,}", f"{record['tokens'] / 1e6:.1f}", cost, curve[len(curve) // 2 - 1], curve[-1]]


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.base", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs/base.toml")
    parser.add_argument("--only", help=f"some of: {'; '.join(VARIATIONS)}")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="a setting of all runs")
    parser.add_argument("--tokens", type=float, default=25e6, help="per run")
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side")
    parser.add_argument("--workers", type=int, default=0, help="processes that make the windows, per run")
    parser.add_argument("--work", type=Path, help="folder of the runs; runs that it holds are not repeated")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results", help="folder of base-DEVICE.json and .md")
    options = parser.parse_args()
    names = [name.strip() for name in options.only.split(";")] if options.only else list(VARIATIONS)
    unknown = sorted(set(names) - set(VARIATIONS))
    if unknown:
        parser.error(f"unknown variation {unknown[0]!r}")
    work = options.work or Path(tempfile.mkdtemp(prefix="bases"))
    work.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "tools/make_base.py"), str(options.config), "--series", str(work / "series")]
    subprocess.run(command, cwd=ROOT, check=True)
    with ThreadPoolExecutor(options.at_once) as pool:
        records = dict(zip(names, pool.map(lambda name: train(name, options, work), names), strict=True))
    head = ["variation", "parameters", "million tokens", "PFLOPs", "nats per token, half way", "at the end"]
    rows = [row(name, records[name]) for name in names]
    device = next(iter(records.values()))["versions"]["device"].split(":")[0]
    lines = [" | ".join(cells) for cells in [head, ["---", *["---:"] * 5], *rows]]
    text = "\n".join(f"| {line} |" for line in lines) + "\n"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"base-{device}.md").write_text(text, encoding="utf-8")
    result = {"command": tables.command("benchmarks.base", sys.argv[1:]), "machine": tables.machine(), "runs": records}
    (options.out / f"base-{device}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
