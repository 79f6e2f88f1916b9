"""A tiny run with a budget, and its result if nothing interrupts it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from jaxlv.data import series
from jaxlv.flops import ledger
from jaxlv.runs import run
from jaxlv.runs.checkpoint import Checkpoints
from jaxlv.storage.files import SUFFIX
from tests.faults.child import Child
from tests.faults.shim import GONE, Failure, Shim, Unavailable

LONG = bool(os.environ.get("JAXLV_FAULTS_LONG"))  # the counts of tests/README.md
CLOCK = {"seconds", "total_seconds", "tokens_per_second"}
CONFIG = """
[data]
path = "{data}"
fractions = [0.5, 0.25, 0.25]
[windows]
length = 48
stride = 40
context_steps = [6, 10]
[model]
path = "{base}"
[lora]
rank = 2
[optimizer]
learning_rate = 1e-2
schedule = "cosine"
[train]
steps = {steps}
batch_size = 2
log_every = 4
validate_every = 15
validation_windows = 2
forecast_series = 0
checkpoint_every = 5
[budget]
flops = 1e12
"""


class Subject(NamedTuple):
    """A config, how to train as it says, and the run that nothing interrupted."""

    config: Path
    train: Callable[..., Child]
    whole: Path


@pytest.fixture(scope="session")
def subject(tiny_base, waves, tmp_path_factory) -> Subject:
    folder = tmp_path_factory.mktemp("subject")
    series.save(folder / "waves.h5", waves(12, 24))
    config = folder / "tiny.toml"
    config.write_text(CONFIG.format(data=folder / "waves.h5", base=tiny_base, steps=150))
    count = iter(range(10**9))

    def train(out: Path, *more: Any, config: Path = config) -> Child:
        return Child("train", config, "--out", out, *more, out=folder / f"said-{next(count)}", cache=folder / "cache")

    for name in ("warm", "whole"):  # the first one fills the cache
        child = train(folder / name)
        assert child.end() == 0, child.said
    return Subject(config, train, folder / "whole")


def unfinished(folder: Path) -> list[Path]:
    """Lists what a killed process has left half written in a folder."""
    return list(folder.rglob(f".*{SUFFIX}"))


def outcome(folder: Path) -> dict[str, Any]:
    """Returns what must be the same after any interruptions of a run: adapter, losses, best, and what its ledger counts."""
    records: dict[tuple[int, str], Any] = {}
    for record in run.read_metrics(folder / run.METRICS):
        kind = "validation" if "validation_loss" in record else "step"
        records[record["step"], kind] = {key: value for key, value in record.items() if key not in CLOCK}
    with ledger.Ledger(folder / run.LEDGER) as book:
        totals = book.totals()
    assert ledger.verify(folder / run.LEDGER) == []
    with Checkpoints(folder / run.CHECKPOINTS) as checkpoints:
        best = checkpoints.best()
    lora = run.load_run(folder).tuned.variables["lora"]
    return {
        "adapter": {path.name: path.read_bytes() for path in (folder / run.ADAPTER).iterdir()},
        "records": records,
        "best": best,
        "effective": totals.effective,
        "uncertain and repeated": totals.executed - totals.effective,
        "lora": [np.asarray(leaf).tobytes() for leaf in _leaves(lora)],
    }


def _leaves(tree: Any) -> list[Any]:
    import jax

    return jax.tree.leaves(tree)


def assert_same(folder: Path, whole: Path) -> int:
    """Asserts that a run has the result of an uninterrupted one; returns the FLOPs that it spent in addition."""
    found, expected = outcome(folder), outcome(whole)
    assert expected.pop("uncertain and repeated") == 0
    more = found.pop("uncertain and repeated")
    # The last step before an interruption may be logged beside those that are due.
    found["records"] = {key: value for key, value in found["records"].items() if key in expected["records"]}
    assert found == expected
    return more


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A file system of 8 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system of a fixed size: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Fills a disk, except for some bytes."""
    path, free = disk / "filler", os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        file.write(bytes(max(0, free - leave)))
    return path


# ------------------------------------------------------------------------------------ failures on purpose


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """The folder below which operations fail."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="session")
def shim(root, tmp_path_factory) -> Iterator[Shim]:
    folder = tmp_path_factory.mktemp("shim")
    try:
        shim = Shim(folder, root, Path(jax.config.values["jax_compilation_cache_dir"]))
    except Unavailable as why:
        pytest.skip(str(why))
    yield shim
    shim.close()


@pytest.fixture(scope="session")
def short(tiny_base, waves, tmp_path_factory) -> Path:
    """A config of twelve steps, with three checkpoints and two validations."""
    folder = tmp_path_factory.mktemp("short")
    series.save(folder / "waves.h5", waves(12, 24))
    config = CONFIG.format(data=folder / "waves.h5", base=tiny_base, steps=12)
    for name, value in (("log_every", 2), ("validate_every", 8), ("checkpoint_every", 4)):
        config = re.sub(f"^{name} = .*", f"{name} = {value}", config, flags=re.M)
    (folder / "short.toml").write_text(config)
    return folder / "short.toml"


@pytest.fixture(scope="session")
def done(shim, short, tmp_path_factory) -> Path:
    """The run of that config."""
    folder = tmp_path_factory.mktemp("done") / "run"
    ended = shim.call("train", short, "--out", folder, worker="goes on")
    assert ended.code == 0, ended
    return folder


@pytest.fixture(scope="session")
def interrupted(shim, short, root, tmp_path_factory) -> Path:
    """The same run, ended by a failure within the save of its last checkpoint."""
    kept, folder = tmp_path_factory.mktemp("interrupted") / "run", root / "interrupted"
    whole = shim.call("train", short, "--out", folder, worker="goes on").counted
    shutil.rmtree(folder)
    ended = shim.call("train", short, "--out", folder, failure=Failure(whole - 100, mode=GONE), worker="fails")
    assert ended.code == 2, ended
    shutil.move(folder, kept)
    return kept
