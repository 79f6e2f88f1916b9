"""Programs called in this process, and a folder in which a newcomer has begun to work with them."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import pkgutil
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from jaxlv import studies
from jaxlv.tools import cli

PROTOCOL = ["--context", "10", "--horizon", "3", "--samples", "2"]
CONFIG = """
[data]
path = "{data}"
fractions = [0.5, 0.25, 0.25]

[codec]
decimals = 3

[windows]
length = 64
context_steps = [8, 12]

[model]
path = "{base}"

[train]
steps = 100
batch_size = 2
validate_every = 2
validation_windows = 2
forecast_series = 1

[evaluate]
context = 10
horizon = 3
samples = 2
batch_series = 2
"""


def import_all() -> None:
    """Imports all that verbs import when they run, for processes that are forked from this one."""
    for module in pkgutil.iter_modules(studies.__path__, f"{studies.__name__}."):
        importlib.import_module(module.name)


def files_of(folder: Path, figures: str) -> dict[str, str]:
    """What --json tells beside the figures: where they lie, and their page."""
    return {"folder": str(folder), "figures": str(folder / figures), "report": str(folder / "report.html")}


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def jaxlv(*arguments: object) -> Outcome:
    """`jaxlv ARGUMENTS`, in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def done(*arguments: object) -> str:
    """The output of a call that must succeed."""
    outcome = jaxlv(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    return outcome.out


class Work(NamedTuple):
    """A folder in which a newcomer has simulated series and tuned a model on them."""

    folder: Path
    data: Path
    config: Path
    base: Path
    run: Path
    said: str


@pytest.fixture(scope="session")
def work(tiny_base, tmp_path_factory) -> Work:
    folder = tmp_path_factory.mktemp("work")
    data, config = folder / "series.h5", folder / "tiny.toml"
    done("simulate", "--preset", "course", "--series", 12, "--steps", 20, "--stop", 38, "--seed", 3, "--out", data)
    base = Path(shutil.copytree(tiny_base, folder / "base"))
    config.write_text(CONFIG.format(data=data, base=base))
    said = done("train", config, "--out", folder / "run", "--set", "train.steps=2", "--set", "lora.rank=2")
    return Work(folder, data, config, base, folder / "run", said)


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Makes every flush to the disk fail."""

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        yield


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
