"""Run folders: what is in them, resuming bit for bit, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load_file

from jaxlv.config import RunConfig, build_config, load_config, to_toml
from jaxlv.data import loading, series
from jaxlv.errors import JaxlvError, JaxlvWarning
from jaxlv.lora import adapters, overlay
from jaxlv.lora.overlay import PROJECTIONS
from jaxlv.results.runs import Mark
from jaxlv.runs import run, sources, training
from jaxlv.runs.checkpoint import Checkpoints
from jaxlv.runs.member import Job
from jaxlv.storage.files import SEAL, seal

STEPS, EVERY = 5, 2  # a validation and a checkpoint after steps 2, 4 and 5
SPEED = {"seconds", "tokens_per_second", "total_seconds"}


class Interruption(Exception):
    """What a power cut is to a run."""


class Subject(NamedTuple):
    config: RunConfig
    folder: Path


@pytest.fixture(scope="module")
def config(tiny_base, waves, tmp_path_factory) -> RunConfig:
    """Twelve series in a file, a base of one layer, five steps."""
    path = tmp_path_factory.mktemp("data") / "waves.h5"
    series.save(path, waves(12, 24))
    tree = {
        "data": {"path": str(path), "fractions": (0.5, 0.25, 0.25)},
        "windows": {"length": 64, "stride": 60, "context_steps": (6, 10)},
        "model": {"path": str(tiny_base)},
        "optimizer": {"learning_rate": 3e-2},
        "train": {
            "steps": STEPS,
            "batch_size": 2,
            "log_every": 1,
            "validate_every": EVERY,
            "checkpoint_every": EVERY,
            "validation_windows": 3,
            "forecast_series": 1,
        },
        "evaluate": {"context": 6, "horizon": 2},
    }
    return build_config(RunConfig, tree)


def change(config: RunConfig, **sections: dict[str, Any]) -> RunConfig:
    """The config with some settings changed."""
    return replace(config, **{name: replace(getattr(config, name), **values) for name, values in sections.items()})


def train(config: RunConfig, folder: Path, resume: bool = False, on_step: Callable = lambda step, figures: None):
    inputs = sources.load_inputs(config, folder if resume else None)
    return training.train(config, folder, inputs, resume=resume, watch=training.Watch(on_step))


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> Subject:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(config, folder)
    return Subject(config, folder)


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    """The same folder, to do something bad to."""
    return Path(shutil.copytree(whole.folder, tmp_path / "copy"))


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def records(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the clock."""
    return [{k: v for k, v in r.items() if k not in SPEED} for r in run.read_metrics(folder / run.METRICS)]


def losses(folder: Path, key: str = "loss") -> list[float]:
    return [record[key] for record in records(folder) if key in record]


# --------------------------------------------------------------------------------------------- what is in a run


def test_the_folder_holds_everything_that_came_of_the_run(whole):
    names = {path.name for path in whole.folder.iterdir()}
    assert names == {run.CONFIG, run.MANIFEST, run.SPLIT, run.METRICS, run.ADAPTER, "checkpoints", SEAL}
    assert load_config(whole.folder / run.CONFIG) == whole.config
    assert {p.name for p in (whole.folder / run.ADAPTER).iterdir()} == {
        adapters.CONFIG, adapters.TENSORS, adapters.HEAD, adapters.CODEC, SEAL,
    }  # fmt: skip


def test_metrics_have_a_record_of_every_step_and_validation(whole):
    every_step = [record for record in records(whole.folder) if "loss" in record]
    assert [record["step"] for record in every_step] == [1, 2, 3, 4, 5]
    wanted = {"loss", "perplexity", "gradient_norm", "clipped_norm", "learning_rate", "tokens"}
    assert all(wanted <= set(record) and math.isfinite(record["loss"]) for record in every_step)
    validations = [record for record in records(whole.folder) if "validation_loss" in record]
    assert [record["step"] for record in validations] == [2, 4, 5]
    assert all(record["forecast_mae"] > 0 for record in validations)


def test_the_split_covers_the_series_and_the_manifest_names_what_the_run_is_made_of(whole):
    split = json.loads((whole.folder / run.SPLIT).read_text())
    assert {name: len(marks) for name, marks in split.items()} == {"train": 6, "validation": 3, "test": 3}
    assert sorted(int(i) for marks in split.values() for i in marks) == list(range(12))
    made_of = json.loads((whole.folder / run.MANIFEST).read_text())
    assert made_of["data"]["sha256"] == loading.load(whole.config.data.path).source["sha256"]
    assert len(made_of["base"]["sha256"]) == 64


def test_nothing_of_the_base_is_in_the_checkpoints(whole):
    """The trained leaves, Adam's two moments of each, and scalars: none of the frozen ones."""
    lora = run.load_run(whole.folder).tuned.variables["lora"]
    trained = sum(leaf.size for leaf in jax.tree.leaves(lora) if leaf.ndim)
    for step in (whole.folder / "checkpoints").glob("step_*"):
        stored = jax.tree.leaves(ocp.StandardCheckpointer().metadata(step / "state").item_metadata.tree)
        assert 3 * trained <= sum(math.prod(array.shape) for array in stored) < 3 * trained + 10


def test_the_newest_two_checkpoints_and_the_best_are_kept(whole):
    with Checkpoints(whole.folder / "checkpoints") as checkpoints:
        assert set(checkpoints.steps()) == {4, 5, checkpoints.best().step}


def test_simulated_series_are_kept_with_the_run_which_resumes_on_them(config, tmp_path):
    simulated = change(
        config, data={"path": "", "simulate": 8}, train={"steps": 2, "forecast_series": 0}, windows={"stride": 500}
    )
    with pytest.raises(Interruption):
        train(simulated, tmp_path / "run", on_step=interrupt_at(1))
    kept = loading.load(tmp_path / "run" / run.DATA)
    np.testing.assert_array_equal(kept.values_NTV, sources.load_series(simulated).values_NTV)
    train(simulated, tmp_path / "run", resume=True)
    assert len(losses(tmp_path / "run")) == 2
    finished = run.load_run(tmp_path / "run")
    assert finished.manifest.data.sha256 == sources.load_series(simulated, tmp_path / "run").source["sha256"]


# ------------------------------------------------------------------------------------------------------- resume


def interrupt_at(when: int) -> Callable[[int, Any], None]:
    def on_step(step: int, figures: Any) -> None:
        if step == when:
            raise Interruption

    return on_step


@pytest.mark.parametrize("when", [2, 3, 4], ids=["before the first checkpoint", "between checkpoints", "at a checkpoint"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(when, whole, config, tmp_path):
    with pytest.raises(Interruption):
        train(config, tmp_path / "run", on_step=interrupt_at(when))
    assert len(losses(tmp_path / "run")) == when - 1
    train(config, tmp_path / "run", resume=True)
    assert records(tmp_path / "run") == records(whole.folder)
    ours, theirs = content(tmp_path / "run" / run.ADAPTER), content(whole.folder / run.ADAPTER)
    assert ours == theirs


def test_resuming_a_finished_run_changes_no_figure(config, whole, copy):
    train(config, copy, resume=True)
    assert records(copy) == records(whole.folder)
    assert content(copy / run.ADAPTER) == content(whole.folder / run.ADAPTER)


def test_a_torn_last_line_of_the_log_is_cut(config, whole, copy):
    with (copy / run.METRICS).open("a") as log:
        log.write('{"step": 5, "lo')
    train(config, copy, resume=True)
    assert records(copy) == records(whole.folder)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("sections", "difference"),
    [
        ({"lora": {"rank": 7}}, "lora.rank: 4 then, 7 now"),
        ({"train": {"seed": 1}, "codec": {"decimals": 3}}, "codec.decimals: 2 then, 3 now; train.seed: 0 then, 1 now"),
    ],
)
def test_another_config_is_refused_with_the_difference(sections, difference, config, copy):
    before = content(copy)
    with pytest.raises(JaxlvError, match=difference):
        run.check_folder(change(config, **sections), copy, resume=True)
    assert content(copy) == before


def reseal(folder: Path) -> None:
    """Seals anew, as a user does after a change on purpose."""
    seal(folder, [run.CONFIG, run.MANIFEST, run.SPLIT, run.DATA])


def refused_on_resume(config: RunConfig, folder: Path, message: str) -> None:
    """The same config file, but something it names has changed."""
    (folder / run.CONFIG).write_text(to_toml(config))
    reseal(folder)
    before = content(folder)
    with pytest.raises(JaxlvError, match=message):
        train(config, folder, resume=True)
    assert content(folder) == before


def test_other_data_are_refused(config, copy, tmp_path):
    data = loading.load(config.data.path)
    series.save(tmp_path / "other.h5", replace(data, values_NTV=1.01 * data.values_NTV))
    refused_on_resume(change(config, data={"path": str(tmp_path / "other.h5")}), copy, "the data is not what")


def test_another_base_is_refused_by_resuming_and_by_loading(config, copy, tmp_path):
    base = Path(shutil.copytree(config.model.path, tmp_path / "base"))
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(settings | {"rope_theta": 5000.0}))
    refused_on_resume(change(config, model={"path": str(base)}), copy, "the base is not what")
    with pytest.raises(JaxlvError, match="not the one that the run was trained on"):
        run.load_run(copy)


@pytest.mark.parametrize("kind", ["a run", "a file", "a folder with a file"])
def test_what_exists_is_left_alone(kind, config, copy, tmp_path):
    place = {"a run": copy, "a file": tmp_path / "file", "a folder with a file": tmp_path / "notes"}[kind]
    if kind == "a folder with a file":
        place.mkdir()
        (place / "note.txt").write_text("mine")
    elif kind == "a file":
        place.write_text("mine")
    before = content(tmp_path)
    with pytest.raises(JaxlvError, match="exists already"):
        run.check_folder(config, place, resume=False)
    assert content(tmp_path) == before


def test_an_empty_folder_is_taken_and_an_absent_one_is_not_resumed(config, tmp_path):
    (tmp_path / "empty").mkdir()
    run.check_folder(config, tmp_path / "empty", resume=False)
    run.check_folder(config, tmp_path / "absent", resume=False)
    with pytest.raises(JaxlvError, match="no run to resume"):
        run.check_folder(config, tmp_path / "absent", resume=True)
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("file", [run.MANIFEST, run.SPLIT, run.CONFIG])
@pytest.mark.parametrize("fault", ["missing", b"\xff\xfe{", b"[]", b"{}"])
def test_a_folder_that_is_no_run_is_refused_in_one_line(file, fault, copy):
    (copy / file).unlink()
    if fault != "missing":
        (copy / file).write_bytes(fault)
    with pytest.raises(JaxlvError, match=rf"{file}|run folder") as caught:
        run.load_run(copy)
    assert "\n" not in str(caught.value)


def test_a_run_without_a_checkpoint_says_so(copy):
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(JaxlvError, match="no checkpoint yet"):
        run.load_run(copy)


def damage(folder: Path, step: int) -> None:
    """Change one bit of the largest file of a checkpoint."""
    files = (one for one in (folder / "checkpoints" / f"step_{step:08d}" / "state").rglob("*") if one.is_file())
    path = max(files, key=lambda one: one.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(bytes(content))


def test_where_the_best_checkpoint_is_damaged_another_is_taken_and_it_is_said(config, copy, tmp_path):
    with Checkpoints(copy / "checkpoints") as checkpoints:
        *_, before, newest = checkpoints.steps()
    damage(copy, newest)
    said = (
        rf"best checkpoint may be lost \(step {newest} is damaged \(state/.* has changed\)\): taking that of step {before}"
    )
    with pytest.warns(JaxlvWarning, match=said):
        run.load_run(copy)
    train(change(config, optimizer={"learning_rate": 5.0}), tmp_path / "worse")
    with Checkpoints(tmp_path / "worse" / "checkpoints") as checkpoints:
        best, newest = checkpoints.best().step, checkpoints.steps()[-1]
    damage(tmp_path / "worse", best)
    said = rf"best checkpoint, of step {best}, is lost \(state/.* has changed\): taking that of step {newest}"
    with pytest.warns(JaxlvWarning, match=said):
        run.load_run(tmp_path / "worse")
    assert best < newest


def test_where_every_checkpoint_is_damaged_nothing_begins_anew(config, copy):
    with Checkpoints(copy / "checkpoints") as checkpoints:
        steps = checkpoints.steps()
    for step in steps:
        damage(copy, step)
    for act in (lambda: run.load_run(copy), lambda: train(config, copy, resume=True)):
        with pytest.raises(JaxlvError, match=rf"no intact checkpoint.*step {steps[0]} is damaged") as caught:
            act()
        assert "\n" not in str(caught.value)


def test_every_checkpoint_knows_the_best_so_far(config, tmp_path, monkeypatch):
    """So a process that is killed after saving leaves nothing else to be written."""
    monkeypatch.setattr(Checkpoints.__init__, "__defaults__", (100,))  # all are kept
    train(change(config, optimizer={"learning_rate": 5.0}), tmp_path / "run")
    validations = {r["step"]: r["validation_loss"] for r in records(tmp_path / "run") if "validation_loss" in r}
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        assert len(checkpoints.steps()) > 2
        for step in checkpoints.steps():
            known = {n: value for n, value in validations.items() if n <= step}
            best = min(known, key=lambda n: known[n]) if known else None
            assert checkpoints.facts(step).best == (Mark(best, known[best], "loss") if known else None)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"best": {"value": 1.0}}', '{"best": {"step": "x", "value": 1.0}}', '{"tokens": []}']
)
def test_facts_of_a_checkpoint_that_are_none_are_named(text, copy):
    newest = max((copy / "checkpoints").glob("step_*"))
    (newest / "facts.json").write_text(text)
    seal(newest)
    with pytest.raises(JaxlvError, match=r"facts\.json: unreadable facts of a checkpoint") as caught:
        run.load_run(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"evaluate": {"context": 24}}, "expected less than the series' 24 steps; found 24"),
        ({"data": {"fractions": (0.0, 0.5, 0.5)}}, "no training series"),
        ({"data": {"train_ids": (1,), "validation_ids": (1,), "test_ids": (2,)}}, "twice"),
        ({"model": {"path": "/nowhere/at/all"}}, "no such model folder"),
    ],
    ids=["context", "no training", "split", "model"],
)
def test_inputs_that_cannot_train_are_refused_before_there_is_a_folder(sections, message, config):
    with pytest.raises(JaxlvError, match=message):
        sources.load_inputs(change(config, **sections))


def test_series_too_short_for_a_window_are_refused(config, tmp_path):
    long = change(config, codec={"scale": "liu"}, windows={"length": 2000, "partial": "drop"})
    with pytest.raises(JaxlvError, match=r"windows.length"):
        train(long, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ----------------------------------------------------------------------------------------- the best and the worst


def test_best_is_the_checkpoint_with_the_lowest_validation_loss(config, tmp_path):
    """The learning rate is far too high, so that the last validation is not the best; a checkpoint is due at the end."""
    folder = tmp_path / "run"
    returned = train(change(config, optimizer={"learning_rate": 5.0}, train={"checkpoint_every": 100}), folder)
    validations = {r["step"]: r["validation_loss"] for r in records(folder) if "validation_loss" in r}
    best = min(validations, key=lambda step: validations[step])
    assert best < STEPS
    with Checkpoints(folder / "checkpoints") as checkpoints:
        assert checkpoints.best() == Mark(best, validations[best], "loss")
        assert best in checkpoints.steps()
    loaded = run.load_run(folder).tuned.variables["lora"]
    jax.tree.map(np.testing.assert_array_equal, loaded, returned)
    tensors = load_file(folder / run.ADAPTER / adapters.TENSORS)
    projection = loaded["model.layers.0"]["self_attn"]["q_proj"]
    np.testing.assert_array_equal(tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"], projection["B"])


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_what_was_good(config, tmp_path):
    folder = tmp_path / "run"
    wild = change(config, optimizer={"learning_rate": 3e38}, train={"checkpoint_every": 1, "validate_every": 0})
    with pytest.raises(JaxlvError, match=r"not finite at step 2.*learning_rate") as caught:
        train(wild, folder)
    assert "\n" not in str(caught.value)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [1]
    leaves = jax.tree.leaves(run.load_run(folder).tuned.variables["lora"])
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert [record["step"] for record in records(folder)] == [1]


def test_the_loaded_run_is_what_training_returned(whole):
    finished = run.load_run(whole.folder)
    assert finished.tuned.sampling == whole.config.sampling
    assert "lora" not in finished.untuned.variables
    best = min(losses(whole.folder, "validation_loss"))
    job = Job(whole.config, whole.folder, sources.load_inputs(whole.config))
    again = training._Training([job], training.Watch())
    trained, _ = overlay.split(finished.tuned.variables, overlay.trainable(finished.tuned.variables))
    found = again._measures(again.members[0], 0, 0, again.stack.state._replace(trained=trained))
    assert found["validation_loss"] == pytest.approx(best, rel=1e-6)


def test_both_models_of_a_run_decode_by_one_program(whole):
    """The tuned one is merged and keeps its bias; the untuned one has a bias of zero, which changes nothing."""
    finished = run.load_run(whole.folder)
    with finished.metered() as found:
        tuned, untuned = (found[name].variables for name in ("tuned", "untuned"))
    assert jax.tree.structure(tuned) == jax.tree.structure(untuned) and set(tuned["lora"]) == {"lm_head"}
    np.testing.assert_array_equal(tuned["lora"]["lm_head"]["bias"], finished.tuned.variables["lora"]["lm_head"]["bias"])
    assert not np.any(untuned["lora"]["lm_head"]["bias"])
    jax.tree.map(np.testing.assert_array_equal, untuned["params"], finished.untuned.variables["params"])


def test_the_bill_adds_up(whole):
    bill = run.load_run(whole.folder).bill()
    steps = [record for record in run.read_metrics(whole.folder / run.METRICS) if "loss" in record]
    assert bill.steps == STEPS
    assert bill.tokens == sum(record["tokens"] for record in steps)
    assert bill.seconds == pytest.approx(sum(record["seconds"] for record in steps))
    assert bill.trainable_parameters == 32 + 4 * (32 + 32) + 4 * (32 + 16)  # head bias, q_proj, v_proj of rank 4


# ------------------------------------------------------------------------------------------------ what was seen


def test_series_seen_in_training_are_known_again_in_another_file_and_order(whole, tmp_path):
    data = loading.load(whole.config.data.path)
    order = np.random.default_rng(0).permutation(12)
    np.savez(tmp_path / "shuffled.npz", trajectories=data.values_NTV[order], time=data.time_T)
    other = loading.load(tmp_path / "shuffled.npz")
    finished = run.load_run(whole.folder)
    split = sources.split_series(whole.config, data)
    expected = {*split.train.tolist(), *split.validation.tolist()}
    assert {int(order[i]) for i in finished.seen(other)} == expected
    assert set(finished.seen(data).tolist()) == expected


# ------------------------------------------------------------------------------------------------- kinds of runs


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"loss": "alphabet"}, "lora": {"targets": PROJECTIONS}},
        {"model": {"dtype": "bfloat16"}, "train": {"accumulate": 2}},
        {"codec": {"scale": "mao"}, "lora": {"dropout": 0.1, "head": "frozen"}, "optimizer": {"name": "adamw"}},
    ],
    ids=["alphabet loss", "bfloat16", "dropout"],
)
def test_kinds_of_runs_learn(sections, config, whole, tmp_path):
    quiet = change(config, **{**sections, "train": {**sections.get("train", {}), "forecast_series": 0, "steps": 8}})
    lora = train(quiet, tmp_path / "run")
    assert {leaf.dtype for leaf in jax.tree.leaves(lora)} == {jnp.dtype("float32")}
    values = losses(tmp_path / "run", "validation_loss")
    assert min(values) < losses(tmp_path / "run")[0]
    if quiet.model.loss == "alphabet":  # 13 symbols to choose from rather than 32
        assert losses(tmp_path / "run")[0] < losses(whole.folder)[0]
    base = run.load_run(tmp_path / "run").untuned.variables["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(base)} == {jnp.dtype(quiet.model.dtype)}


def test_the_vocabulary_loss_learns(whole):
    assert min(losses(whole.folder, "validation_loss")) < losses(whole.folder)[0]


# ---------------------------------------------------------------------------------------------------------- PEFT
