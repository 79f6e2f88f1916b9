"""Weights go slice by slice onto the devices that need them: the host holds no more than one tensor beside the shards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxlv
from jaxlv.errors import JaxlvError
from jaxlv.model import weights
from jaxlv.model.config import ModelConfig
from jaxlv.storage import tensors
from tests.conftest import TINY
from tests.loaded import written

ROOT = Path(__file__).resolve().parents[1]
SMALL = replace(TINY, vocab_size=64)


def loaded(folder: Path, **env: str) -> dict[str, Any]:
    """Returns what a process of 8 devices says that loads a folder."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu", **env}
    command = [sys.executable, "-m", "tests.loaded", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **flags}, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["devices"] == 8 and not found["wrong"]
    return found


def test_the_host_holds_the_slices_of_one_tensor_at_a_time(tmp_path):
    found = loaded(written(tmp_path / "model", SMALL), COUNTED="1")
    assert 0 < found["counted"] <= found["largest"] < found["whole"] / 4


@pytest.mark.slow
def test_two_gigabytes_take_the_shards_and_one_tensor(tmp_path):
    config = ModelConfig(32_000, 2048, 11_008, 12, 16, 2, 128, tie_word_embeddings=True)
    found = loaded(written(tmp_path / "model", config))
    assert found["whole"] > 1.9e9
    assert found["beyond"] <= found["largest"], found


@pytest.mark.parametrize("axis", [0, 1, None])
def test_a_slice_is_what_the_whole_tensor_has_there(tmp_path, axis, monkeypatch):
    """Also if blocks end within rows, and if the type changes on the way."""
    monkeypatch.setattr(tensors, "BLOCK", 7)
    folder = written(tmp_path / "model", SMALL)
    name = "model.layers.1.mlp.down_proj.weight"
    whole = np.asarray(weights.stored(folder, name), np.float32)
    index = [slice(None), slice(None)]
    if axis is not None:
        index[axis] = slice(3, 11)
    with tensors.reading(folder / weights.SINGLE) as file:
        for dtype in (np.float32, None):
            part = file.part(name, tuple(index), dtype)
            assert part.dtype == (dtype or jax.numpy.bfloat16)
            np.testing.assert_array_equal(part.astype(np.float32), whole[tuple(index)])


@pytest.mark.parametrize("placed", [True, False])
def test_a_number_that_is_not_finite_is_found_wherever_it_is(tmp_path, placed, monkeypatch):
    monkeypatch.setattr(tensors, "BLOCK", 5)
    folder = written(tmp_path / "model", SMALL)
    file = folder / weights.SINGLE
    content = bytearray(file.read_bytes())
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for place, bits in ((-2, 0x7FC0), (-60, 0x7F80), (-2, 0xFF80)):
        damaged = content.copy()
        damaged[place : place + 2 or None] = bits.to_bytes(2, "little")
        file.write_bytes(damaged)
        with pytest.raises(JaxlvError, match="holds NaN or infinity"):
            jaxlv.load_pretrained(folder, place=(lambda name: one) if placed else None)


def test_what_devices_must_hold_is_checked_before_anything_is_read(tmp_path, monkeypatch):
    folder = written(tmp_path / "model", SMALL)
    model = weights.Qwen2(SMALL)
    held = 4 * weights.count_params(model)
    assert weights.share_of_devices(model) == {jax.devices()[0]: held}
    monkeypatch.setattr(weights.psutil, "virtual_memory", lambda: type("Memory", (), {"total": held - 1}))
    with pytest.raises(JaxlvError, match="the model is larger than the memory"):
        jaxlv.load_pretrained(folder)
    jaxlv.load_pretrained(folder, "bfloat16")
