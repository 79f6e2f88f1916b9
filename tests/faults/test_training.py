"""Faults of training, cases 29 to 40 except those in test_kills.py: what is damaged is named, what was good stays."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxlv.config import RunConfig, TrainConfig, load_config
from jaxlv.errors import JaxlvError
from jaxlv.flops import ledger
from jaxlv.runs import run, sources, training, validation
from jaxlv.runs.checkpoint import Checkpoints
from jaxlv.runs.interrupts import Interrupted, Interrupts
from jaxlv.runs.member import Job
from jaxlv.runs.records import read_metrics
from jaxlv.storage import files, lines
from jaxlv.storage.chain import SUFFIX
from jaxlv.storage.files import Watched
from tests.faults.conftest import LONG, assert_same, outcome
from tests.programs import jaxlv

TRANSIENT = {run.LOCK, run.SAVE}


@pytest.fixture
def copy(subject, tmp_path) -> Path:
    return Path(shutil.copytree(subject.whole, tmp_path / "run"))


def files_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in TRANSIENT]


def noticed(folder: Path) -> str:
    """Returns what a reader of the run is told; "" if it reads everything."""
    try:
        run.read_manifest(folder)
        run.check_intact(folder)
        with Checkpoints(folder / run.CHECKPOINTS) as checkpoints:
            return checkpoints.chosen()[1] or checkpoints.told()
    except JaxlvError as fault:
        return str(fault)


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ (1 << bit % 8)]))


# ------------------------------------------------------------------------------------------- 32 flipped bits


def test_32_a_flipped_bit_anywhere_in_a_run_folder_is_noticed(copy):
    """One bit in each of some bytes of every file: the first, the last, and others at random (all, in the long mode).

    Of the two slots of a head file one may be torn, as by a power cut: the other one is taken (tests/test_ledger.py).
    """
    assert noticed(copy) == ""
    chance, flipped = random.Random(3), 0
    for path in (path for path in files_of(copy) if path.suffix != SUFFIX):
        size = path.stat().st_size
        places = range(size) if LONG else {0, size - 1, *(chance.randrange(size) for _ in range(3))}
        for place in places:
            bit = 8 * place + chance.randrange(8)
            flip(path, bit)
            told = noticed(copy)
            assert told and "\n" not in told, f"bit {bit} of {path.relative_to(copy)}"
            flip(path, bit)
            flipped += 1
    assert noticed(copy) == ""
    print(f"{flipped} bits flipped in {len(files_of(copy))} files")


@pytest.mark.parametrize("steps", [1, 2])
def test_32_a_damaged_checkpoint_falls_back_to_the_one_before(subject, copy, steps):
    """A line says so, and the run continues to the same bits; if no checkpoint is left it does not begin at step 0."""
    kept = sorted((copy / run.CHECKPOINTS).glob("step_*"))
    for place in kept[-steps:]:
        path = max((one for one in place.rglob("*") if one.is_file()), key=lambda one: one.stat().st_size)
        flip(path, 8 * (path.stat().st_size // 2))
    child = subject.train(copy, "--resume")
    code = child.end()
    assert f"step {int(kept[-1].name[5:])} is damaged (state/" in child.said
    if steps < len(kept):
        assert code == 0 and f"going on from step {int(kept[-1 - steps].name[5:])}" in child.said
        assert_same(copy, subject.whole)
    else:
        assert code == 2 and "no intact checkpoint" in child.said.splitlines()[-1] and "restore one" in child.said


def test_32_what_is_missing_is_noticed(copy):
    for path in files_of(copy):
        held = path.read_bytes()
        path.unlink()
        told = noticed(copy)
        # Without its records or a ledger a run is another run, not a damaged one.
        assert told or path.name in (run.METRICS, run.LEDGER), path
        path.write_bytes(held)


def test_the_seals_are_those_of_sha256sum(copy):
    """A user checks a run folder without this project."""
    for folder in (copy, copy / run.ADAPTER, *sorted((copy / run.CHECKPOINTS).glob("step_*"))):
        assert os.system(f"cd '{folder}' && sha256sum --check --quiet --strict {files.SEAL}") == 0


def test_what_a_killed_process_left_is_removed(subject, copy):
    for place in (
        copy / f".adapter.x{files.SUFFIX}" / "new",
        copy / run.CHECKPOINTS / f".step_00000001.x{files.SUFFIX}" / "new",
    ):
        place.mkdir(parents=True)
        (place / "half").write_bytes(bytes(1000))
    (copy / f".metrics.jsonl.1{files.SUFFIX}").write_text("half")
    assert subject.train(copy, "--resume").end() == 0
    assert not list(copy.rglob(f".*{files.SUFFIX}"))
    assert_same(copy, subject.whole)


# --------------------------------------------------------------------------------- 33 what is not finite


@pytest.fixture
def small(subject, tmp_path) -> Any:
    """The config of the subject, with another number of steps."""

    def make(*changes: str) -> Any:
        return load_config(subject.config, ["train.steps=12", "train.validate_every=4", "train.log_every=1", *changes])

    return make


def poisoned(monkeypatch: pytest.MonkeyPatch, *bad: int) -> None:
    """Makes the losses of these steps (counted from 0) not finite, by a mark in their windows."""
    from jaxlv.steps import train

    honest = train.window_loss

    def loss(model: Any, variables: Any, batch: Any, *more: Any, **named: Any) -> Any:
        total, tokens = honest(model, variables, batch, *more, **named)
        return total + jax.numpy.where((batch.ids_ML == MARK).any(), jax.numpy.nan, 0.0), tokens

    made = validation.Texts.batches.func

    def batches(self: Any) -> Any:
        whole = made(self)

        def batch(step: int) -> Any:
            found = whole(step)
            if step in bad:
                found.ids_ML[0, 0, 0] = MARK
            return found

        return batch

    monkeypatch.setattr(train, "window_loss", loss)
    monkeypatch.setattr(validation.Texts, "batches", property(batches))


MARK = 31  # a token that no text has


def trained(config: Any, folder: Path, **more: Any) -> list[str]:
    notes: list[str] = []
    training.train(config, folder, sources.load_inputs(config), watch=training.Watch(note=notes.append), **more)
    return notes


def test_33_a_loss_that_is_not_finite_stops_the_run(small, tmp_path, monkeypatch):
    poisoned(monkeypatch, 9)
    with pytest.raises(JaxlvError, match=r"not finite at step 10; found loss nan.*batch is in nonfinite/step_10\.npz"):
        trained(small(), tmp_path / "run")
    batch = np.load(tmp_path / "run" / run.NONFINITE / "step_10.npz")
    assert batch["ids_ML"][0, 0, 0] == MARK and batch["ids_ML"].shape == (1, 2, 48)
    with Checkpoints(tmp_path / "run" / run.CHECKPOINTS) as checkpoints:
        assert checkpoints.steps()[-1] < 10 and checkpoints.best().step in (4, 8)


def test_33_some_steps_may_be_skipped(small, tmp_path, monkeypatch):
    """They leave the adapters as they were; one more than may be ends the run, after a resume too."""
    poisoned(monkeypatch, 2, 9)
    notes = trained(small("train.skip_nonfinite=2"), tmp_path / "run")
    assert sum("is skipped (loss nan" in note for note in notes) == 2
    records = read_metrics(tmp_path / "run" / run.METRICS)
    assert [record["step"] for record in records if "skipped" in record] == [3, 10]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.load_run(tmp_path / "run").tuned.variables["lora"]))
    with pytest.raises(JaxlvError, match="not finite at step 10, after 1 that were skipped"):
        trained(small("train.skip_nonfinite=1"), tmp_path / "one")
    with pytest.raises(JaxlvError, match="not finite at step 10, after 1 that were skipped"):
        trained(small("train.skip_nonfinite=1"), tmp_path / "one", resume=True)


def test_33_a_skipped_step_changes_nothing_but_its_number(small, tmp_path, monkeypatch):
    """Adapters and moments after it are those before it, bit for bit."""
    poisoned(monkeypatch, 7)
    trained(
        small("train.skip_nonfinite=1", "train.checkpoint_every=1", "train.steps=8", "train.validate_every=0"),
        tmp_path / "run",
    )
    inputs = sources.load_inputs(small())
    job = Job(small("train.skip_nonfinite=1"), tmp_path / "none", inputs)
    like = training._Training([job], training.Watch()).stack.state
    with Checkpoints(tmp_path / "run" / run.CHECKPOINTS) as checkpoints:
        before, after = (checkpoints.restore(step, like) for step in (7, 8))
    assert (int(before.step), int(after.step)) == (7, 8)
    for name in ("trained", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(before, name), getattr(after, name))


def test_33_the_best_is_never_what_is_not_finite(small, tmp_path, monkeypatch):
    honest = validation.losses

    def losses(step: Any, trained_: Any, *more: Any) -> dict[str, float]:
        found = honest(step, trained_, *more)
        return {name: float("nan") for name in found} if len(seen) else (seen.append(1) or found)

    seen: list[int] = []
    monkeypatch.setattr(validation, "losses", losses)
    trained(small(), tmp_path / "run")
    with Checkpoints(tmp_path / "run" / run.CHECKPOINTS) as checkpoints:
        assert checkpoints.best().step == 4


def test_30_a_signal_before_the_first_step_leaves_a_run_to_resume(small, tmp_path):
    config, asked = small("train.steps=4"), Interrupts()
    asked.asked = signal.SIGTERM
    inputs = sources.load_inputs(config)
    run.make_folder(config, tmp_path / "run", inputs, {})
    with pytest.raises(Interrupted, match="SIGTERM: before the first step; go on with --resume"):
        training._Training([Job(config, tmp_path / "run", inputs)], training.Watch()).run(False, asked, Watched())
    trained(config, tmp_path / "run", resume=True)
    trained(config, tmp_path / "whole")
    ours, whole = (run.load_run(tmp_path / name).tuned.variables["lora"] for name in ("run", "whole"))
    jax.tree.map(np.testing.assert_array_equal, ours, whole)


# ------------------------------------------------------------------------------------------ 34 out of memory


def starved(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """A device that holds `most` windows."""
    make = training.Stack.step

    def step(self: Any, at_once: int = 0) -> Any:
        compiled = make(self, at_once)

        def run_it(state: Any, frozen: Any, batch: Any) -> Any:
            if batch.ids_ML.shape[-2] > most:
                jax.tree.map(lambda leaf: leaf.delete(), state)  # donated, and gone
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes")
            return compiled(state, frozen, batch)

        run_it.lower = compiled.lower  # type: ignore[attr-defined]
        return run_it

    monkeypatch.setattr(training.Stack, "step", step)


def test_34_out_of_memory_is_one_line_with_an_estimate(small, tmp_path, monkeypatch):
    starved(monkeypatch, 1)
    with pytest.raises(JaxlvError) as caught:
        trained(small(), tmp_path / "run")
    said = str(caught.value)
    assert "out of memory in the train step; found 2 windows of 48 tokens, about 0.00 GiB by XLA's plan" in said
    for setting in ("train.batch_size", "windows.length", "model.dtype", "train.halve_on_oom", "--resume"):
        assert setting in said
    assert "\n" not in said


def test_34_half_the_batch_twice_as_often_is_the_same_run(small, tmp_path, monkeypatch):
    trained(small(), tmp_path / "whole")
    starved(monkeypatch, 1)
    notes = trained(small("train.halve_on_oom=true"), tmp_path / "halved")
    assert "out of memory: 1 windows at a time from here on, 2 times a step" in notes
    losses = [
        [record["loss"] for record in read_metrics(tmp_path / name / run.METRICS) if "loss" in record]
        for name in ("whole", "halved")
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    with ledger.Ledger(tmp_path / "halved" / run.LEDGER) as book, ledger.Ledger(tmp_path / "whole" / run.LEDGER) as other:
        assert book.totals().effective == other.totals().effective
    with pytest.raises(JaxlvError, match="out of memory"):  # one window does not fit either
        starved(monkeypatch, 0)
        trained(small("train.halve_on_oom=true"), tmp_path / "none")


@pytest.mark.parametrize(("devices", "fits"), [(1, True), (2, False)])
def test_34_each_device_keeps_a_window(devices, fits, tmp_path):
    config = RunConfig(train=TrainConfig(batch_size=2, halve_on_oom=True))
    mesh = types.SimpleNamespace(shape={"data": devices})
    inputs: Any = types.SimpleNamespace(model=types.SimpleNamespace(mesh=mesh))
    job, fault = Job(config, tmp_path, inputs), training._OutOfMemory("out of memory")
    with contextlib.nullcontext() if fits else pytest.raises(training._OutOfMemory):
        (halved,) = training._halved([job], fault, training.Watch())
        assert halved.config.train.batch_size == 1 and halved.config.train.accumulate == 2


# --------------------------------------------------------------------------------- 35, 37 resuming, budgets


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("lora.rank=5", "lora.rank: 2 then, 5 now"),
        ('lora.targets=["k_proj"]', "lora.targets: "),
        ("data.seed=7", "data.seed: 42 then, 7 now"),
        ("data.fractions=[0.6,0.2,0.2]", "data.fractions: "),
        ("train.seed=9", "train.seed: 0 then, 9 now"),
    ],
)
def test_35_a_changed_config_is_refused_with_the_difference(subject, copy, change, words):
    before = {path: path.read_bytes() for path in files_of(copy)}
    said = jaxlv("train", subject.config, "--set", change, "--out", copy, "--resume")
    assert (
        said.code == 2 and f"the config differs from the run's ({words}" in said.err and "train in a new folder" in said.err
    )
    assert {path: path.read_bytes() for path in files_of(copy)} == before


def test_37_a_budget_that_buys_no_step_and_one_that_ends(subject, tmp_path):
    said = jaxlv("train", subject.config, "--set", "budget.flops=1000", "--out", tmp_path / "none")
    assert said.code == 2 and "the budget does not buy one train step" in said.err and not (tmp_path / "none").exists()
    with ledger.Ledger(subject.whole / run.LEDGER) as book:
        half = book.totals().executed // 2
    said = jaxlv("train", subject.config, "--set", f"budget.flops={half}", "--out", tmp_path / "half")
    assert said.code == 0 and "stopped by the budget after step" in said.out
    with ledger.Ledger(tmp_path / "half" / run.LEDGER) as book:
        assert book.totals().executed <= half and book.totals().uncertain == 0
    assert ledger.verify(tmp_path / "half" / run.LEDGER) == []


# ------------------------------------------------------------------------------------------- 38 devices


def test_38_no_other_device_than_the_one_asked_for(subject, tmp_path):
    said = jaxlv("train", subject.config, "--set", "model.attention=cudnn", "--out", tmp_path / "out")
    assert said.code == 2 and "cuDNN attention cannot run here; expected a CUDA GPU" in said.err
    if jax.default_backend() != "cpu":
        pytest.skip("there is a device")
    code = "import os; os.environ['JAX_PLATFORMS'] = 'cuda'; from jaxlv.tools.cli import main; main({!r})"
    arguments = ["train", str(subject.config), "--out", str(tmp_path / "out")]
    import subprocess

    done = subprocess.run([sys.executable, "-c", code.format(arguments)], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("jaxlv: no device of JAX_PLATFORMS=cuda")
    assert not (tmp_path / "out").exists()


def test_two_runs_of_one_seed_are_the_same_bits(subject, tmp_path):
    """On a CPU; what a GPU does is in docs/faults.md."""
    assert subject.train(tmp_path / "run").end() == 0
    ours, theirs = outcome(tmp_path / "run"), outcome(subject.whole)
    assert ours == theirs


# -------------------------------------------------------------------------------------------- 40 sinks


class Service(types.ModuleType):
    """A stand-in for a package of a sink."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch, **functions: Any):
        super().__init__(name)
        for key, function in functions.items():
            setattr(self, key, function)
        monkeypatch.setitem(sys.modules, name, self)


def unreachable(*_: Any, **__: Any) -> Any:
    raise ConnectionError("no route to host")


def hangs(*_: Any, **__: Any) -> Any:
    time.sleep(60)


@pytest.mark.parametrize(
    ("sink", "functions", "words"),
    [
        ("wandb", {"init": unreachable}, "ConnectionError: no route to host"),
        ("wandb", {"init": hangs}, "not done after 0.2 s"),
        ("mlflow", {"set_experiment": unreachable}, "ConnectionError: no route to host"),
        ("mlflow", {"set_experiment": hangs}, "not done after 0.2 s"),
    ],
    ids=["wandb is gone", "wandb hangs", "mlflow is gone", "mlflow hangs"],
)
def test_40_a_service_that_cannot_be_reached_stops_nothing(small, tmp_path, monkeypatch, sink, functions, words):
    Service(sink, monkeypatch, **functions)
    monkeypatch.setattr("jaxlv.runs.sinks.Sink.close.__defaults__", (0.2,))
    notes = trained(small(f'train.sinks=["{sink}"]'), tmp_path / "run")
    assert [note for note in notes if note.startswith(f"{sink} is left out from here on ({words})")] and len(notes) < 9
    assert [record["step"] for record in read_metrics(tmp_path / "run" / run.METRICS) if "loss" in record] == list(
        range(1, 13)
    )


def test_40_services_get_what_is_logged(small, tmp_path, monkeypatch):
    got: dict[str, list[Any]] = {"wandb": [], "mlflow": [], "ended": []}
    board = types.SimpleNamespace(
        log=lambda values, step: got["wandb"].append((step, values)), finish=lambda: got["ended"].append("wandb")
    )
    Service("wandb", monkeypatch, init=lambda **settings: board)
    Service(
        "mlflow", monkeypatch, set_experiment=lambda name: None, start_run=lambda run_name: None,
        log_params=lambda values: None,
        log_metrics=lambda values, step: got["mlflow"].append((step, values)), end_run=lambda: got["ended"].append("mlflow"),
    )  # fmt: skip
    trained(small('train.sinks=["wandb","mlflow"]'), tmp_path / "run")
    records = read_metrics(tmp_path / "run" / run.METRICS)
    expected = [(record["step"], {key: value for key, value in record.items() if key != "step"}) for record in records]
    assert got["wandb"] == expected and got["mlflow"] == expected and sorted(got["ended"]) == ["mlflow", "wandb"]


def test_40_a_service_that_is_not_installed_is_said_before_anything_is_written(subject, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    said = jaxlv("train", subject.config, "--set", 'train.sinks=["wandb"]', "--out", tmp_path / "out")
    assert said.code == 2 and 'train.sinks: wandb is not installed; pip install "jaxlv[wandb]"' in said.err
    assert not (tmp_path / "out").exists()
    said = jaxlv("train", subject.config, "--set", 'train.sinks=["carrier pigeon"]', "--out", tmp_path / "out")
    assert said.code == 2 and "train.sinks[0]: must be 'tensorboard' or 'wandb' or 'mlflow'" in said.err


# ------------------------------------------------------------------------------------------- lines


def test_a_line_that_was_changed_is_told_from_one_that_was_torn(tmp_path):
    path = tmp_path / "x.jsonl"
    written = [{"step": n, "loss": 1 / n} for n in (1, 2, 3)]
    whole = b"".join(map(lines.encode, written))
    last = len(lines.encode(written[-1]))
    for cut in range(2, last + 1):
        path.write_bytes(whole[:-cut])
        assert lines.read(path) == written[:2]
    path.write_bytes(whole[:-1])  # the record is whole
    assert lines.read(path) == written
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(JaxlvError, match=r"x\.jsonl, line [123]: "):
            lines.read(path)


def test_numbers_that_are_not_finite_are_json(tmp_path):
    line = lines.encode({"step": 1, "loss": float("nan")})
    assert json.loads(line)["loss"] is None and lines.decode(line[:-1]) == {"step": 1, "loss": None}
