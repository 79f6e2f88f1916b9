"""A run whose folder, or a file of it, is removed, renamed or replaced while it trains: it says so, and writes no more."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxlv.config import RunConfig, load_config
from jaxlv.errors import JaxlvError
from jaxlv.runs import run, sources, training
from jaxlv.runs.checkpoint import Checkpoints
from jaxlv.runs.sources import Inputs
from jaxlv.storage.chain import head_of

BLOCK, WHEN, STEPS = 4, 10, 60  # steps that are reserved at once; the step after which it happens


@pytest.fixture(scope="module")
def subject_inputs(subject) -> tuple[RunConfig, Inputs]:
    changes = [f"train.steps={STEPS}", f"train.log_every={BLOCK}", "train.validate_every=0", "train.checkpoint_every=1000"]
    config = load_config(subject.config, changes)
    return config, sources.load_inputs(config)


def another(path: Path) -> None:
    """Replaces what was there by a copy."""
    path.rename(path.with_name("elsewhere"))
    if path.with_name("elsewhere").is_dir():
        shutil.copytree(path.with_name("elsewhere"), path)
    else:
        shutil.copy(path.with_name("elsewhere"), path)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "the folder removed": (shutil.rmtree, ""),
    "the folder renamed": (lambda folder: folder.rename(folder.with_name("elsewhere")), ""),
    "the folder replaced": (another, ""),
    "an empty folder in its place": (lambda folder: (shutil.rmtree(folder), folder.mkdir()), ""),
    "the checkpoints removed": (lambda folder: shutil.rmtree(folder / run.CHECKPOINTS), run.CHECKPOINTS),
    "the lock removed": (lambda folder: (folder / run.LOCK).unlink(), run.LOCK),
    "the ledger removed": (lambda folder: (folder / run.LEDGER).unlink(), run.LEDGER),
    "the ledger replaced": (lambda folder: another(folder / run.LEDGER), run.LEDGER),
    "the ledger's head removed": (lambda folder: head_of(folder / run.LEDGER).unlink(), f"{run.LEDGER}.head"),
    "the ledger's head replaced": (lambda folder: another(head_of(folder / run.LEDGER)), f"{run.LEDGER}.head"),
    "the metrics removed": (lambda folder: (folder / run.METRICS).unlink(), run.METRICS),
}


@pytest.mark.parametrize("change", CHANGES)
def test_it_is_noticed_within_a_block_and_nothing_is_made_anew(change, subject_inputs, tmp_path):
    config, inputs = subject_inputs
    alter, what = CHANGES[change]
    folder, told, left = tmp_path / "run", [], set()

    def on_step(step: int, figures: dict[str, float]) -> None:
        told.append(step)
        if step == WHEN:
            alter(folder)
            left.update(folder.rglob("*"))

    with pytest.raises(JaxlvError, match="was removed") as caught:
        training.train(config, folder, inputs, watch=training.Watch(on_step))
    assert str(caught.value).startswith(f"{folder / what}: ")
    assert WHEN <= told[-1] <= WHEN + BLOCK + 1
    # Its own lock goes; nothing comes.
    assert set(folder.rglob("*")) <= left


def test_a_run_whose_folder_is_gone_ends_with_one_line_whatever_else_it_is_told(subject, tmp_path):
    """It does not say that it saved, and there is nothing to go on from."""
    child = subject.train(tmp_path / "run", "--set", "train.steps=100000")
    child.wait_for("step 15:")
    child.send(signal.SIGSTOP)  # it learns of both at once
    shutil.rmtree((tmp_path / "run").rename(tmp_path / "gone"))
    child.send(signal.SIGTERM)
    child.send(signal.SIGCONT)
    assert child.end() == 2
    last = child.said.strip().splitlines()[-1]
    assert "was removed, renamed or replaced" in last and "saved at step" not in child.said and "Traceback" not in child.said
    assert not (tmp_path / "run").exists()


def test_a_folder_that_goes_between_a_save_and_what_follows_it_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    with pytest.raises(JaxlvError, match="no such file"), Checkpoints(tmp_path / "run" / run.CHECKPOINTS) as checkpoints:
        prune = checkpoints._prune
        monkeypatch.setattr(checkpoints, "_prune", lambda step: (shutil.rmtree(tmp_path / "run"), prune(step)))
        checkpoints.save(1, [np.zeros(3)])
        checkpoints.wait()
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_is_being_saved_makes_no_folder_anew(tmp_path, monkeypatch):
    """Orbax makes every folder that it misses."""
    (tmp_path / "run").mkdir()
    with pytest.raises(JaxlvError, match="was removed"), Checkpoints(tmp_path / "run" / run.CHECKPOINTS) as checkpoints:
        checkpoints.save(1, [np.zeros(3)])
        checkpoints.wait()
        save = checkpoints._orbax.save
        gone = lambda *given: (shutil.rmtree(tmp_path / "run"), save(*given))  # noqa: E731
        monkeypatch.setattr(checkpoints._orbax, "save", gone)
        checkpoints.save(2, [np.zeros(3)])
    assert not (tmp_path / "run").exists()
