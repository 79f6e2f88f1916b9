"""Where arrays lie on several devices: a mesh of two axes, and one table from the paths of parameters to them.

Axis "data" cuts what a batch has many of (windows, series, stacked runs); axis "model" cuts weights by heads, by features of
the MLP, and by tokens of the vocabulary, as Megatron does (Shoeybi et al. 2019). The axes are JAX's automatic ones: XLA
partitions each program by where its arguments lie, so the programs are those of one device (Xu et al. 2021, GSPMD).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlv.errors import JaxlvError
from jaxlv.model.config import ModelConfig

DATA, MODEL = "data", "model"
# Of the last axes of a parameter whose path ends so: "model" cuts them, if it divides the heads of queries (q), those of
# keys and values too (kv), or the axis itself (m). Any other leaf is the same on every device of that axis.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"(embed_tokens|lm_head)\.weight", ("m", None)),
    (r"lm_head\.bias", ("m",)),
    (r"q_proj\.(weight|codes|scales|B)", ("q", None)),
    (r"q_proj\.bias", ("q",)),
    (r"[kv]_proj\.(weight|codes|scales|B)", ("kv", None)),
    (r"[kv]_proj\.bias", ("kv",)),
    (r"(gate|up)_proj\.(weight|codes|scales|B)", ("m", None)),
    (r"o_proj\.(weight|codes|scales|A)", (None, "q")),
    (r"down_proj\.(weight|codes|scales|A)", (None, "m")),
)


class Cuts(NamedTuple):
    """How many parts the axis "model" makes of the heads of queries, of those of keys and values, and of anything else."""

    q: int
    kv: int
    m: int

    @classmethod
    def of(cls, config: ModelConfig, model: int) -> Cuts:
        """Returns the cuts for an axis of so many devices. Heads that it does not divide stay whole: cut within a head, the
        scores would be summed over devices, which sends more than attention costs. So do heads of queries of which a device
        would have some that share a key, and not all of them, and others that share another one.
        """
        heads, keys = config.num_attention_heads, config.num_key_value_heads
        q = model if heads % model == 0 and (keys % model == 0 or model % keys == 0) else 1
        return cls(q, q if keys % q == 0 else 1, model)

    @property
    def shares_keys(self) -> bool:
        """Tells whether heads of queries are cut, and those of keys and values whole on each device."""
        return self.q > 1 and self.kv == 1


def mesh_of(data: int, model: int, devices: int, batch: int = 0, where: str = "mesh") -> Mesh | None:
    """Returns the mesh of the first `data` x `model` of so many devices; None if that is one device.

    `data` = -1 takes as many as there are, and as divide a `batch` (0: any). Raises JaxlvError if the devices are too few,
    or if `data` does not divide the batch.
    """
    if model > devices or (data > 0 and data * model > devices):
        asked = f"{max(data, 1)} x {model}"
        raise JaxlvError(
            "fewer devices than the mesh has places", where=f"{where}.data, {where}.model", expected=asked, found=devices,
            hint=f"lower {where}.model, or set {where}.data = -1",
        )  # fmt: skip
    if data > 0 and batch % data:
        hint = f"a multiple of {data}, or {where}.data = -1"
        raise JaxlvError(
            "does not divide the windows of a batch", where=f"{where}.data", found=f"{data} of {batch}", hint=hint
        )
    if data < 0:
        data = next(size for size in range(devices // model, 0, -1) if batch % size == 0)
    if data * model == 1:
        return None
    return make_mesh(data, model)


@functools.lru_cache(maxsize=8)
def make_mesh(data: int, model: int) -> Mesh:
    """Returns the mesh of the first devices; its axes are automatic ones."""
    return jax.make_mesh(
        (data, model), (DATA, MODEL), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[: data * model]
    )


def abstract_mesh(data: int, model: int) -> AbstractMesh:
    """Returns a mesh whose devices need not be here."""
    return AbstractMesh((data, model), (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)


def check_attention(kernel: str, config: ModelConfig, model: int) -> None:
    """Raises JaxlvError if a kernel cannot attend on an axis "model" of so many devices: cuDNN's takes queries that are cut
    only with keys that are cut alike.
    """
    if kernel == "cudnn" and Cuts.of(config, model).shares_keys:
        heads = f"{config.num_attention_heads} heads of queries, {config.num_key_value_heads} of keys"
        raise JaxlvError(
            "cuDNN cannot share a head of keys among devices", where="mesh.model", found=f"{model} devices; {heads}",
            hint='set model.attention = "xla", or mesh.model to a divisor of the heads of keys',
        )  # fmt: skip


def size(mesh: Mesh | None, axis: str = DATA) -> int:
    """Returns how many devices lie along an axis; 1 without a mesh."""
    return 1 if mesh is None else mesh.shape[axis]


def spec_of(
    path: str,
    shape: tuple[int, ...],
    config: ModelConfig,
    mesh: Mesh | AbstractMesh,
    runs: bool = False,
    fsdp: bool = False,
) -> P:
    """Returns how a leaf is cut, by its path with dots; a leaf that is stacked over `runs` along its first axis, too.

    With `fsdp` a projection's weight is also cut by "data", along the first axis that "model" leaves whole.
    """
    cuts = Cuts.of(config, mesh.shape[MODEL])._asdict()
    rule = next((axes for pattern, axes in RULES if re.search(rf"(^|\.){pattern}$", path)), ())
    if path.endswith(".scales"):  # of each output, or of groups of its inputs
        rule = rule[: len(shape) - runs]
    lead = len(shape) - len(rule)
    axes: list[str | None] = [None] * lead
    for axis, n in zip(rule, shape[lead:], strict=True):
        axes.append(MODEL if axis and cuts[axis] > 1 and n % cuts[axis] == 0 else None)
    if runs and shape and shape[0] % mesh.shape[DATA] == 0:
        axes[0] = DATA
    elif fsdp and path.endswith(("_proj.weight", "_proj.codes")):
        free = [place for place, axis in enumerate(axes) if axis is None and shape[place] % mesh.shape[DATA] == 0]
        if free:
            axes[free[0]] = DATA
    return P(*axes)


def shardings(tree: Any, config: ModelConfig, mesh: Mesh, runs: bool = False, fsdp: bool = False) -> Any:
    """Returns where each leaf of a tree lies (jax.sharding.NamedSharding): of parameters, an overlay, or the state of
    training, whose paths end with the names of the model's parameters.
    """

    def of_leaf(path: Any, leaf: Any) -> NamedSharding:
        name = ".".join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))
        return NamedSharding(mesh, spec_of(name, np.shape(leaf), config, mesh, runs, fsdp))

    return jax.tree_util.tree_map_with_path(of_leaf, tree)


def places(leaves: Mapping[str, Any], config: ModelConfig, mesh: Mesh, fsdp: bool = False) -> Callable[[str], NamedSharding]:
    """Returns what says where the parameter at a path lies, given all of them by path."""
    return {
        path: NamedSharding(mesh, spec_of(path, leaf.shape, config, mesh, fsdp=fsdp)) for path, leaf in leaves.items()
    }.__getitem__


class Held(NamedTuple):
    """The bytes of parameters on one device, and how many of them every device of the axis "model" has."""

    all: int
    repeated: int


def held(leaves: Mapping[str, Any], config: ModelConfig, mesh: AbstractMesh, fsdp: bool = False) -> Held:
    """Returns what each device holds of leaves that are given by path, with shapes and types."""
    every = repeated = 0
    for path, leaf in leaves.items():
        where = NamedSharding(mesh, spec_of(path, leaf.shape, config, mesh, fsdp=fsdp))
        part = math.prod(where.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        every += part
        repeated += part * (MODEL not in where.spec)
    return Held(every, repeated)


def whole_over_data(config: ModelConfig, mesh: Mesh | None) -> Callable[[Any], Any]:
    """Returns what gathers the weights of a layer over "data"; "model" still cuts them."""
    assert mesh is not None

    def gathered(tree: Any) -> Any:
        return jax.tree.map(jax.lax.with_sharding_constraint, tree, shardings(tree, config, mesh))

    return gathered


def whole_keys(config: ModelConfig, mesh: Mesh | None, *arrays_BKxx: jax.Array) -> tuple[jax.Array, ...]:
    """Returns keys and values that are whole on each device of "model" if it cuts the heads of queries, but not theirs. XLA
    would cut them among some of these devices, for some of their products.
    """
    if mesh is None or not Cuts.of(config, mesh.shape[MODEL]).shares_keys:
        return arrays_BKxx
    where = NamedSharding(mesh, P(P.UNCONSTRAINED, None, None, None))
    return tuple(jax.lax.with_sharding_constraint(array, where) for array in arrays_BKxx)


def placed(tree: Any, where: Any) -> Any:
    """Returns a tree whose leaves lie where a tree of shardings says; a process places its own parts alone."""
    return jax.tree.map(put, tree, where)


def put(array: Any, where: NamedSharding) -> jax.Array:
    """Returns an array, which every process holds as a whole, where a sharding says."""
    if jax.process_count() == 1:
        return jax.device_put(array, where)
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(put(jax.random.key_data(array), where))
    whole = np.asarray(array)
    return jax.make_array_from_callback(whole.shape, where, lambda index: whole[index])


def rows(tree: Any, mesh: Mesh | None, axis: int = 0) -> Any:
    """Returns a batch with its rows, along an axis of every array, over "data"; as it is without a mesh.

    Rows that "data" does not divide lie on every device.
    """
    if mesh is None:
        return tree

    def of_array(array: Any) -> jax.Array:
        cut = np.shape(array)[axis] % mesh.shape[DATA] == 0
        return put(array, NamedSharding(mesh, P(*[None] * axis, DATA) if cut else P()))

    return jax.tree.map(of_array, tree)


def everywhere(tree: Any, mesh: Mesh | None) -> Any:
    """Returns a tree whose leaves are whole on every device; as it is without a mesh."""
    if mesh is None:
        return tree
    return _replicated(mesh)(tree)


@functools.lru_cache(maxsize=8)
def _replicated(mesh: Mesh) -> Callable[[Any], Any]:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, P()))


def filled(count: int, mesh: Mesh | None) -> np.ndarray:
    """Returns the places of so many rows, of which some stand again at the end until "data" divides their number."""
    parts = size(mesh)
    return np.resize(np.arange(count), -(-count // parts) * parts)
