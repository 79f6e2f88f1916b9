"""`python -m tests.loaded FOLDER`: loads a checkpoint onto all devices, and prints what the host held meanwhile, as JSON.

`written` makes a checkpoint of random weights for it, tensor by tensor.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import weakref
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil

from jaxlv.model import weights
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import Qwen2
from jaxlv.storage import tensors

SPLIT = {"embed_tokens": 0, "gate_proj": 0, "up_proj": 0, "down_proj": 1, "o_proj": 1}  # which axis of a weight


def written(folder: Path, config: ModelConfig, seed: int = 0) -> Path:
    """Writes a checkpoint in bfloat16, of numbers from 0 to 1; only one tensor is held at a time."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_hf()))
    shapes = {name: leaf.shape for name, leaf in weights.abstract_params(Qwen2(config)).items()}
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text, generator = json.dumps(header).encode(), np.random.default_rng(seed)
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            file.write(generator.integers(0, 0x3F80, math.prod(shape), np.uint16).tobytes())
    return folder


def place(mesh: jax.sharding.Mesh, name: str) -> jax.sharding.Sharding | None:
    """Returns where a parameter lies: split over all devices, or copied to each; the last norm on the default device."""
    if name == "model.norm.weight":
        return None
    axis = next((axis for part, axis in SPLIT.items() if f"{part}.weight" in name), None)
    spec = () if axis is None else (None,) * axis + ("model",)
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))


class Counted:
    """Counts the host's memory for slices, which lies so that XLA copies it and does not take it over."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def empty(self, sizes: Any, dtype: np.dtype) -> np.ndarray:
        """Returns such memory; the count falls when nobody needs it any more."""
        size = math.prod(sizes) * dtype.itemsize
        room = np.empty(size + 128, np.uint8)
        at = -room.ctypes.data % 64 + dtype.itemsize
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(room, self.freed, size)
        return room[at : at + size].view(dtype).reshape(sizes)

    def freed(self, size: int) -> None:
        """Takes memory off the count."""
        self.now -= size


def main(folder: Path) -> None:
    """Loads `folder`, and compares what a device holds with the file, parameter by parameter."""
    mesh, counted = jax.make_mesh((jax.device_count(),), ("model",)), Counted()
    if os.environ.get("COUNTED"):
        tensors._empty = counted.empty
    jax.block_until_ready(jnp.zeros(1) + 1)
    before = psutil.Process().memory_info().rss
    model, params = weights.load_pretrained(folder, "bfloat16", place=lambda name: place(mesh, name))
    peak, most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, counted.most
    shards = [shard.data.nbytes for leaf in jax.tree.leaves(params) for shard in leaf.addressable_shards]
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(params)]
    wrong = []
    for name, (path, _) in weights.parameter_paths(model).items():
        leaf: Any = params
        for part in path:
            leaf = leaf[part]
        if not np.array_equal(np.asarray(leaf), np.asarray(weights.stored(folder, name))):
            wrong.append(name)
    told = {"shards": sum(shards), "largest": max(sizes), "whole": sum(sizes), "counted": most, "wrong": wrong}
    print(json.dumps({**told, "beyond": peak - before - sum(shards), "devices": jax.device_count()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
