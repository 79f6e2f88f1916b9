"""Training that is killed at random instants, within saves too, asked to stop, or left without a disk: nothing is lost."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time

import pytest

from jaxlv.runs import run
from jaxlv.runs.checkpoint import Checkpoints
from tests.faults.child import Child
from tests.faults.conftest import LONG, assert_same, fill, unfinished

KILLS = 100 if LONG else 4
DISKS = 12 if LONG else 3


def test_29_killed_at_random_instants(subject, tmp_path):
    """After every resume the run goes on as if nothing had happened; the last resume ends with the same bits."""
    chance, kills, within_a_save, runs = random.Random(1), 0, 0, 0
    child = subject.train(tmp_path / "timed")
    began = time.monotonic()
    child.wait_for("series:")
    first = time.monotonic() - began
    assert child.end() == 0
    whole = time.monotonic() - began
    while kills < KILLS:
        folder = tmp_path / f"run-{runs}"
        runs += 1
        while True:
            child = subject.train(folder, *(["--resume"] if (folder / run.CONFIG).is_file() else []))
            child.process.join(chance.uniform(first, whole) if kills < KILLS else None)
            if not child.process.is_alive():
                assert child.end() == 0, child.said
                break
            child.kill()
            kills += 1
            within_a_save += bool(unfinished(folder))
        assert_same(folder, subject.whole)
        assert not unfinished(folder)
    print(f"{kills} kills in {runs} runs, {within_a_save} of them within a save")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 0), (signal.SIGHUP, 129)]
)
def test_30_a_signal_saves_and_ends(subject, tmp_path, number, code):
    child = subject.train(tmp_path / "run", "--set", "train.steps=100000")
    child.wait_for("step 15:")
    child.send(number)
    if number == signal.SIGHUP:  # a terminal that closes sends it twice, and a service manager another signal beside it
        child.wait_for("SIGHUP: saving after this step")
        child.send(number)
        child.send(signal.SIGTERM)
    assert child.end() == code, child.said
    name = signal.Signals(number).name
    last = child.said.strip().splitlines()[-1]
    assert last.startswith(f"jaxlv: {name}: saved at step ") and last.endswith("go on with --resume")
    assert f"{name}: saving after this step; a second signal ends at once" in child.said
    step = int(last.split("saved at step ")[1].split()[0])
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        assert checkpoints.steps()[-1] == step


def test_30_a_run_that_was_asked_to_stop_goes_on_to_the_same_bits(subject, tmp_path):
    codes = []
    for wait in ("step 15:", "step 45:", "step 75:"):
        child = subject.train(tmp_path / "run", *(["--resume"] if codes else []))
        child.wait_for(wait)
        child.send(signal.SIGTERM)
        codes.append(child.end())
    child = subject.train(tmp_path / "run", "--resume")
    assert child.end() == 0, child.said
    assert 143 in codes
    more = assert_same(tmp_path / "run", subject.whole)
    assert more == 0  # what was asked to stop has nothing uncertain, and does nothing twice


def test_30_a_second_signal_ends_at_once(subject, tmp_path):
    """It does not wait for the step, nor for the save."""
    child = subject.train(tmp_path / "run", "--set", "train.steps=100000")
    child.wait_for("step 15:")
    child.send(signal.SIGSTOP)  # both come before it can do anything about the first
    child.send(signal.SIGINT)
    child.send(signal.SIGTERM)
    child.send(signal.SIGCONT)
    began = time.monotonic()
    assert child.end() in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert time.monotonic() - began < 2
    assert "saved at step" not in child.said


def test_a_file_asks_for_a_checkpoint(subject, tmp_path):
    folder = tmp_path / "run"
    child = subject.train(folder, "--set", "train.steps=100000", "--set", "train.checkpoint_every=100000")
    child.wait_for("step 15:")
    (folder / run.SAVE).touch()
    child.wait_for("as asked")
    assert not (folder / run.SAVE).exists()
    step = int(child.said.split("saved at step ")[1].split(",")[0])
    child.kill()
    with Checkpoints(folder / "checkpoints") as checkpoints:
        assert step in checkpoints.steps()


def test_36_a_second_process_in_a_run_folder_is_refused(subject, tmp_path):
    first = subject.train(tmp_path / "run", "--set", "train.steps=100000")
    first.wait_for("step 15:")
    second = subject.train(tmp_path / "run", "--set", "train.steps=100000", "--resume")
    assert second.end() == 2
    last = second.said.strip().splitlines()[-1]
    assert f"another process works here (pid {first.process.pid})" in last and str(tmp_path / "run") in last
    assert first.process.is_alive()
    first.kill()


# -------------------------------------------------------------------------------------------- a full disk


@pytest.mark.parametrize("seed", range(DISKS))
def test_31_a_disk_that_fills_up_while_training(subject, disk, seed):
    """Saves, logs and the ledger fail when the space is full; once it is free again, the run ends with the same bits."""
    chance, folder = random.Random(seed), disk / "run"
    child = subject.train(folder)
    child.wait_for(f"step {chance.choice([15, 30, 45, 60, 75, 90])}:")
    filler = fill(disk, chance.choice([0, 4096, 12_000, 40_000]))
    assert child.end() == 2, child.said
    last = child.said.strip().splitlines()[-1]
    assert last.startswith("jaxlv: ") and "o space left on" in last and "Traceback" not in child.said, child.said
    filler.unlink()
    child = subject.train(folder, "--resume")
    assert child.end() == 0, child.said
    assert_same(folder, subject.whole)
    assert not unfinished(folder)


def test_39_a_disk_that_may_only_be_read(subject, disk):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    child = subject.train(disk / "run")
    assert child.end() == 2
    assert "Read-only file system; choose another folder" in child.said.splitlines()[-1] and "Traceback" not in child.said


@pytest.mark.parametrize("to", ["peft", "merged"])
def test_31_an_export_to_a_full_disk_leaves_nothing(subject, disk, tmp_path, to):

    fill(disk, 6000)
    child = Child(
        "export", subject.whole, "--to", to, "--side-head", "--out", disk / "out", out=tmp_path / "said", cache=tmp_path
    )
    assert child.end() == 2
    last = child.said.strip().splitlines()[-1]
    assert "o space left on" in last and "Traceback" not in child.said, child.said
    assert {path.name for path in disk.iterdir()} == {"filler"}


def test_39_a_folder_that_cannot_be_written_to_is_named(subject, tmp_path):
    place = tmp_path / "file"
    place.write_text("not a folder")
    child = subject.train(place / "run")
    assert child.end() == 2
    assert f"{place}: is not a folder" in child.said.splitlines()[-1] and "Traceback" not in child.said


def test_39_a_run_folder_is_left_alone_by_a_new_run(subject, tmp_path):
    shutil.copytree(subject.whole, tmp_path / "run")
    child = subject.train(tmp_path / "run")
    assert child.end() == 2 and "exists already" in child.said and "--resume" in child.said
    assert_same(tmp_path / "run", subject.whole)
