"""Measures training and generation on a CUDA device, in parts, the most valuable first: one JSON line for each fact.

    python -m benchmarks.cuda --out FOLDER [--minutes 10] [--only train,decode]      # on the device
    python -m benchmarks.cuda --render FOLDER                                        # anywhere: benchmarks/results/cuda.md

Each part runs in a process of its own and is ended at its limit; what it has found until then stays in FOLDER/facts.jsonl,
and its output in FOLDER/PART.log. A part that fails leaves the others alone. Run it while nothing else uses the device.

The shape `full` is Qwen2.5-0.5B with random weights, in bfloat16 with cuDNN's attention; a step has 4 x 512 tokens and rank
8 on q and v. `--shape smoke --device cpu` runs every part at a toy shape, to see that it works: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import ROOT

FACTS = "facts.jsonl"
LEAST = 15  # seconds: no part begins with less
NO_DEVICE = 3  # exit code of a part that finds no device


class Job(NamedTuple):
    """A part with its case, and the seconds that it may take."""

    part: str
    case: str
    seconds: int


JOBS = (
    Job("ceilings", "", 60),
    Job("weights", "", 60),
    Job("train", "", 100),
    Job("decode", "8", 90),
    Job("decode", "150", 90),
    Job("torch", "sdpa", 60),
    Job("profile", "", 70),
    Job("torch", "compile", 120),
    Job("decode", "1", 60),
    Job("loop", "", 90),
    Job("stack", "", 100),
    Job("variations", "", 150),
    Job("audit", "", 90),
)


class Facts:
    """Where a part writes what it finds."""

    def __init__(self, folder: Path, part: str, case: str):
        self.path, self.head = folder / FACTS, {"part": part, "case": case}

    def tell(self, fact: str, **figures: Any) -> None:
        """Adds a line, which no later failure takes back."""
        from benchmarks.tables import rounded

        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**self.head, "fact": fact, **rounded(figures, 5)}) + "\n")


def forget(folder: Path, job: Job) -> None:
    """Removes what an earlier run of a part has found."""
    path = folder / FACTS
    kept = [line for line in read(folder) if (line["part"], line["case"]) != (job.part, job.case)]
    path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def read(folder: Path) -> list[dict[str, Any]]:
    """Returns all facts so far; a line that was cut off is left out."""
    found = []
    for line in (folder / FACTS).read_text(encoding="utf-8").splitlines() if (folder / FACTS).is_file() else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def launched(job: Job, options: argparse.Namespace, limit: float) -> int | str:
    """Runs a part in a process of its own; returns its exit code, or "over its time"."""
    words = ["--inside", job.part, "--case", job.case, "--out", str(options.out), "--shape", options.shape]
    command = [sys.executable, "-m", "benchmarks.cuda", *words, "--device", options.device]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "TRANSFORMERS_VERBOSITY": "error"}
    if options.device == "cpu":
        environment["JAX_PLATFORMS"] = "cpu"
    with log_of(options.out, job).open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            return process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            return "over its time"
        finally:
            with contextlib.suppress(ProcessLookupError):  # whatever the part has started ends with it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def measure(options: argparse.Namespace) -> int:
    """Runs the parts within the minutes given; returns the exit code: 0 if all ended well, 2 without a device."""
    options.out.mkdir(parents=True, exist_ok=True)
    only = options.only.split(",") if options.only else [job.part for job in JOBS]
    failed, ends = False, time.monotonic() + 60 * options.minutes
    for job in (job for job in JOBS if job.part in only):
        began, left = time.monotonic(), ends - time.monotonic()
        facts = Facts(options.out, job.part, job.case)
        forget(options.out, job)
        if left < LEAST:
            facts.tell("not begun", seconds_left=left)
            failed = True
            continue
        code = launched(job, options, min(job.seconds, left))
        if code == NO_DEVICE:
            print("benchmarks.cuda: no CUDA device here; --shape smoke --device cpu tries every part", file=sys.stderr)
            return 2
        seconds = time.monotonic() - began
        failed = failed or code != 0
        facts.tell("ended", code=code, seconds=seconds, **({"said": last_words(options.out, job)} if code else {}))
        print(f"{job.part} {job.case}: {'done' if code == 0 else f'ended with {code}'}, {seconds:.0f} s", flush=True)
    return int(failed)


def last_words(folder: Path, job: Job) -> str:
    """Returns the last line that a part has printed, without the folders in it."""
    lines = log_of(folder, job).read_text(encoding="utf-8", errors="replace").split("\n")
    told = [line.strip() for line in lines if line.strip()]
    return re.sub(r"(?<![\w.])/[^\s:]*/", "", told[-1])[:300] if told else ""


def log_of(folder: Path, job: Job) -> Path:
    """Returns where a part's output goes."""
    return folder / f"{job.part}{job.case and '-' + job.case}.log"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("cuda-facts"), help="folder of the facts (default cuda-facts)")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all parts together (default 10)")
    parser.add_argument(
        "--only", default="", help=f"parts, with commas between: {', '.join(dict.fromkeys(j.part for j in JOBS))}"
    )
    parser.add_argument("--shape", choices=("full", "tiny", "smoke"), default="full")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--render", type=Path, help="write the facts of a folder to benchmarks/results/cuda.md")
    parser.add_argument("--inside", help=argparse.SUPPRESS)  # how the program calls itself for one part
    parser.add_argument("--case", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.render:
        from benchmarks.cuda_page import write

        return write(options.render)
    if options.inside:
        from benchmarks.cuda_parts import run

        return run(options)
    return measure(options)


if __name__ == "__main__":
    sys.exit(main())
