"""Checkpoints by themselves: which are kept, which is chosen, what is not begun without room."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlv.errors import JaxlvError
from jaxlv.results.runs import Facts, Mark
from jaxlv.runs import checkpoint
from jaxlv.runs.checkpoint import ROOM, Checkpoints

TREE = {"a": jnp.arange(6.0).reshape(2, 3), "key": jax.random.key(7), "step": jnp.int32(3)}


def saved(folder: Path, best_at: dict[int, int], **more: Any) -> Checkpoints:
    """Checkpoints of steps, saved one after the other; {step: the best step by then, 0 for none}."""
    checkpoints = Checkpoints(folder, **more)
    for step, best in best_at.items():
        checkpoints.save(step, TREE, Facts(tokens=10.0 * step, best=Mark(best, 1.0 / best) if best else None))
    checkpoints.wait()
    return checkpoints


@pytest.mark.parametrize(
    ("best_at", "keep", "kept"),
    [
        ({1: 0, 2: 0, 3: 0, 4: 0}, 2, [3, 4]),
        ({1: 1, 2: 1, 3: 1, 4: 1}, 2, [1, 3, 4]),  # the first is the best
        ({1: 1, 2: 2, 3: 2, 4: 2}, 2, [2, 3, 4]),
        ({1: 1, 2: 2, 3: 3, 4: 3}, 1, [3, 4]),
        ({1: 0, 2: 0, 3: 0, 4: 0}, 100, [1, 2, 3, 4]),
    ],
)
def test_the_newest_and_the_best_are_kept(best_at, keep, kept, tmp_path):
    with saved(tmp_path / "checkpoints", best_at, keep=keep) as checkpoints:
        assert checkpoints.steps() == kept
        best = max(best_at.values())
        assert checkpoints.best() == (Mark(best, 1.0 / best) if best else None)
        assert checkpoints.chosen() == (best or kept[-1], "")
        assert checkpoints.facts(kept[-1]).tokens == 10.0 * kept[-1]


def test_if_the_best_is_gone_the_newest_is_chosen_and_it_is_said(tmp_path):
    with saved(tmp_path, {1: 1, 2: 1, 3: 1}) as checkpoints:
        shutil.rmtree(tmp_path / "step_00000001")
        assert checkpoints.chosen() == (3, "the best checkpoint, of step 1, is lost (it is missing): taking that of step 3")


def test_a_tree_comes_back_as_it_was_and_a_step_keeps_what_it_has(tmp_path):
    other = {**TREE, "a": TREE["a"] + 1}
    with saved(tmp_path, {1: 0}) as checkpoints:
        checkpoints.save(1, other)
        found = checkpoints.restore(1, like=other)
    np.testing.assert_array_equal(found["a"], TREE["a"])
    assert found["step"] == 3 and jax.random.key_data(found["key"]).tolist() == jax.random.key_data(TREE["key"]).tolist()


def test_an_older_checkpoint_that_could_not_be_removed_goes_when_the_run_is_resumed(tmp_path, monkeypatch):
    """What is damaged stays, as its owner may restore it, and what still cannot be removed is told."""
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "remove_folder", lambda folder: None)
        saved(tmp_path, {1: 1, 2: 1, 3: 1, 4: 1, 5: 1}).close()
        (tmp_path / "step_00000003" / "facts.json").write_text("{}")
        with Checkpoints(tmp_path) as checkpoints:
            assert checkpoints.steps() == [1, 2, 4, 5] and checkpoints.tidy(5) == [2]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.tidy(5) == [] and checkpoints.steps() == [1, 4, 5] and [*checkpoints.damaged] == [3]
        assert checkpoints.tidy(1) == [] and checkpoints.steps() == [1, 4, 5]


def test_what_orbax_logs_beside_what_it_raises_is_not_printed(tmp_path, caplog):
    with saved(tmp_path, {1: 0}) as checkpoints:
        place = tmp_path / "step_00000001" / checkpoint.STATE
        (place / "_CHECKPOINT_METADATA").write_text("{")
        (place / "_METADATA").write_text("{")
        with pytest.raises(JaxlvError, match="unreadable checkpoint"):
            checkpoints.restore(1, TREE)
        with contextlib.suppress(Exception):
            checkpoints._orbax.metadata(place)  # it logs that the first file cannot be parsed
        assert [record for record in caplog.records if record.name == "absl"] == []
    logging.getLogger("absl").error("ours")
    assert caplog.messages[-1] == "ours"


@pytest.mark.parametrize("short", [0, 1])
def test_a_checkpoint_is_not_begun_without_room_for_its_arrays(short, tmp_path, monkeypatch):
    """Twice what they take, and a margin."""
    size = 6 * 4 + 2 * 4 + 4
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, ROOM + 2 * size - short))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, TREE)
    if short:
        with pytest.raises(JaxlvError, match="No space left on device"):
            checkpoints.wait()
    checkpoints.close()
    assert checkpoints.steps() == ([] if short else [1])
