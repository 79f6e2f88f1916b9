"""How much memory a reader takes at most: it runs in a process of its own, whose peak the kernel tells at its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
# The kernel gives a new process the peak of the one that started it, which may be pytest with much in its memory. So a
# small process stands between the two: it starts the reader, and tells its exit code and the peak of all that it waited for.
BETWEEN = """
import json, resource, subprocess, sys
seconds, *command = sys.argv[1:]
try:
    code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=float(seconds)).returncode
except subprocess.TimeoutExpired:
    code = None
print(json.dumps([code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))
"""


class Peak(NamedTuple):
    """How a reader ended: its exit code (None: it did not end in time), what it wrote to stderr, and its peak in bytes."""

    code: int | None
    stderr: str
    bytes: int


def peak(code: str, seconds: float = 120.0) -> Peak:
    """Runs Python source in another process and measures the most memory that it had in use at once (resident bytes).

    Processes that it started and waited for are measured too; the largest process counts, not their sum.
    """
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-S", "-c", BETWEEN, str(seconds), sys.executable, "-c", code]
    with tempfile.TemporaryFile() as stderr:
        told = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, env=environment, check=True).stdout
        stderr.seek(0)
        said = stderr.read().decode(errors="replace")
    exit_code, kilobytes = json.loads(told)
    return Peak(exit_code, said, kilobytes * 1024)


def table(readers: Iterable[tuple[str, str]], seconds: float = 120.0) -> str:
    """Measures each (name, source) and returns a table: a row with exit code, peak in MiB and the last line of stderr."""
    rows = [f"{'input':44} {'exit':>5} {'peak (MiB)':>10}  last line"]
    for name, code in readers:
        found = peak(code, seconds)
        last = found.stderr.strip().rpartition("\n")[2]
        rows.append(f"{name:44} {found.code!s:>5} {found.bytes / 2**20:10.0f}  {last[:120]}")
    return "\n".join(rows)
