"""LoRA as an overlay: a second variable collection, `lora`, laid over a base that never changes.

The overlay is a tree with the base's own module names. For each adapted projection it holds A (R, in), B (out, R), the
scalar `scale`, and `dropout` if set; under `lm_head` it may hold `bias` (V,), added to the logits, or `weight` (V, D), which
replaces the head. `model.apply({"params": params, "lora": lora}, ids_BT)` uses it; without the collection the model is the
base, bit for bit. One boolean tree over {"params", "lora"} says what trains.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from jaxlv.config import LoraConfig
from jaxlv.errors import JaxlvError
from jaxlv.model.quantised import fans

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ALL_LINEAR = "all-linear"  # as PEFT calls it
TRAINED_LEAVES = ("A", "B", "bias", "weight")

Tree = dict[str, Any]


def init_lora(key: jax.Array, params: Mapping[str, Any], config: LoraConfig) -> Tree:
    """Makes a fresh overlay: A is normal with std 1 / sqrt(fan_in) (He et al. 2015 for a linear unit), B zero.

    As B is zero, the logits are the base's. The head's bias starts at zero, a trainable head at the base's own weights. With
    a tied embedding such a head becomes untied.

    Args:
        key: of the random numbers, from `jax.random.key`.
        params: the parameters of the base, from `load_pretrained`.
        config: rank, alpha, targets, dropout and head.

    Returns:
        The overlay in float32, a tree: of each target projection A (rank, fan_in), B (fan_out, rank) and the scale by which
        B A is multiplied; of the head, if it trains, its bias (V,) or weight (V, D).

    Raises:
        JaxlvError: for a target that is not one of the seven projections.

    Example:
        >>> import jax, jaxlv, numpy as np
        >>> from jaxlv.config import LoraConfig
        >>> model, params = jaxlv.load_pretrained("embedded")
        >>> lora = jaxlv.init_lora(jax.random.key(0), params, LoraConfig(rank=2))
        >>> ids = np.array([[1, 2, 3]])
        >>> with_overlay, base = (model.apply(one, ids) for one in ({"params": params, "lora": lora}, {"params": params}))
        >>> bool((with_overlay == base).all())
        True
    """
    targets = normalise_targets(config.targets)
    flat = traverse_util.flatten_dict(dict(params))
    overlay: dict[tuple[str, ...], jax.Array] = {}
    paths = {path[:-1]: fans(leaf) for path, leaf in flat.items() if path[-1] in ("weight", "codes") and path[-2] in targets}
    keys = jax.random.split(key, max(1, len(paths)))
    for (path, (fan_out, fan_in)), path_key in zip(sorted(paths.items()), keys, strict=False):
        overlay[(*path, "A")] = jax.random.normal(path_key, (config.rank, fan_in)) / fan_in**0.5
        overlay[(*path, "B")] = jnp.zeros((fan_out, config.rank))
        overlay[(*path, "scale")] = jnp.float32(config.scaling)
        if config.dropout:
            overlay[(*path, "dropout")] = jnp.float32(config.dropout)
    embedding, head = flat[("model.embed_tokens", "weight")], flat.get(("lm_head", "weight"))
    if config.head == "bias":
        overlay[("lm_head", "bias")] = jnp.zeros(embedding.shape[0])
    if config.head == "full":
        overlay[("lm_head", "weight")] = jnp.array(embedding if head is None else head, jnp.float32)
    return traverse_util.unflatten_dict(overlay)


def normalise_targets(targets: Iterable[str]) -> tuple[str, ...]:
    """Returns targets as projection names; the short forms "q", "gate", ... stand for them, "all-linear" for all."""
    names = {own: (name,) for name in PROJECTIONS for own in (name, name.removesuffix("_proj"))} | {ALL_LINEAR: PROJECTIONS}
    for target in targets:
        if target not in names:
            expected = ", ".join((*PROJECTIONS, ALL_LINEAR))
            raise JaxlvError("unknown projection", where="lora.targets", expected=expected, found=target)
    wanted = {name for target in targets for name in names[target]}
    return tuple(name for name in PROJECTIONS if name in wanted)


def trainable(variables: Mapping[str, Any], base: bool = False) -> Tree:
    """Returns the boolean tree: True for A, B and the head's leaves of the overlay, and for all of the base if `base`."""
    mask = {"params": jax.tree.map(lambda _: base, variables["params"])}
    if "lora" in variables:
        flat = traverse_util.flatten_dict(dict(variables["lora"]))
        marks = {path: path[-1] in TRAINED_LEAVES for path in flat}
        mask["lora"] = traverse_util.unflatten_dict(marks)
    return mask


def split(tree: Tree, mask: Tree) -> tuple[Tree, Tree]:
    """Splits a tree into (trained, frozen), both of its structure, with None for leaves of the other part; each leaf is in
    one.
    """
    trained = jax.tree.map(lambda leaf, keep: leaf if keep else None, tree, mask)
    frozen = jax.tree.map(lambda leaf, keep: None if keep else leaf, tree, mask)
    return trained, frozen


def join(trained: Tree, frozen: Tree) -> Tree:
    """Joins what `split` returned; its inverse."""
    return jax.tree.map(lambda a, b: b if a is None else a, trained, frozen, is_leaf=lambda leaf: leaf is None)


def decayed(trained: Tree) -> Tree:
    """Returns the boolean tree of weight decay: matrices, not biases."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, trained)


LAYERS = "model.layers"  # before a layer's number in its name; and the name of what is stacked over all of them


def by_kind(tree: Any) -> Any:
    """Returns a tree of trained leaves, or of an optimiser's moments for them, in which A, and B, of one projection are one
    array for all layers, with a leading axis L.

    So casts, sums and updates of an optimiser take one kernel for each kind, and not one for each layer: the state in which
    a step trains. Overlays whose layers differ, and trees with other leaves in their layers, stay as they are.
    """
    return jax.tree.map(_layers_stacked, tree, is_leaf=_has_layers)


def by_layer(tree: Any) -> Any:
    """Returns a tree with its layers apart: the inverse of `by_kind`."""
    return jax.tree.map(_layers_apart, tree, is_leaf=_has_layers)


def joined(trained: Tree, frozen: Tree, dtype: Any) -> Tree:
    """Joins what `split` returned, and `by_kind` may have stacked, to variables for a model that computes in `dtype`.

    What is stacked is rounded to that type before it is taken apart, B after it is multiplied by the scale; then the
    overlay has no scale. Without a `dtype` nothing is rounded, and no overlay has a scale: gradients, which several devices
    sum, are then formed in the type of the overlay (jaxlv.model.qwen2.low_rank).
    """
    if LAYERS not in trained.get("lora", {}):
        together = join(trained, frozen)
        return together if dtype is not None or "lora" not in together else {**together, "lora": scaled(together["lora"])}
    stacked, given = traverse_util.flatten_dict(trained["lora"][LAYERS]), traverse_util.flatten_dict(frozen["lora"])
    ready, rest = dict(stacked), dict(given)
    for path in (path for path, leaf in stacked.items() if leaf is not None):
        leaf_L = stacked[path]
        with jax.named_scope(path[-2]), jax.named_scope(f"lora_{path[-1]}"):
            if path[-1] == "B":
                scale_L = jnp.stack([rest.pop((f"{LAYERS}.{i}", *path[:-1], "scale")) for i in range(len(leaf_L))])
                leaf_L = leaf_L * scale_L.reshape(-1, 1, 1)
            ready[path] = leaf_L if dtype is None else leaf_L.astype(dtype)
    for path in (path for path in stacked if path[-1] == "scale"):
        del ready[path]
    lora = _layers_apart({**trained["lora"], LAYERS: traverse_util.unflatten_dict(ready)})
    return join({**trained, "lora": lora}, {**frozen, "lora": traverse_util.unflatten_dict(rest)})


def scaled(lora: Tree) -> Tree:
    """Returns an overlay in which the scale is part of B."""
    flat = traverse_util.flatten_dict(lora)
    for path in [path[:-1] for path in flat if path[-1] == "scale"]:
        flat[(*path, "B")] = flat[(*path, "B")] * flat.pop((*path, "scale"))
    return traverse_util.unflatten_dict(flat)


def _has_layers(node: Any) -> bool:
    return isinstance(node, dict) and (LAYERS in node or f"{LAYERS}.0" in node)


def _layers_stacked(node: Any) -> Any:
    names = [name for name in node if name.startswith(f"{LAYERS}.")] if isinstance(node, dict) else []
    if not names or set(names) != {f"{LAYERS}.{i}" for i in range(len(names))}:
        return node
    flats = [traverse_util.flatten_dict(node[f"{LAYERS}.{i}"]) for i in range(len(names))]
    shapes = [{path: None if leaf is None else jnp.shape(leaf) for path, leaf in flat.items()} for flat in flats]
    held = {path[-1] for path, leaf in flats[0].items() if leaf is not None}
    if not held or not held <= {"A", "B"} or any(other != shapes[0] for other in shapes):
        return node
    stacked = {path: None if leaf is None else jnp.stack([flat[path] for flat in flats]) for path, leaf in flats[0].items()}
    return {**{name: node[name] for name in node if name not in names}, LAYERS: traverse_util.unflatten_dict(stacked)}


def _layers_apart(node: Any) -> Any:
    if not isinstance(node, dict) or LAYERS not in node:
        return node
    flat = traverse_util.flatten_dict(node[LAYERS])
    count = next(len(leaf) for leaf in flat.values() if leaf is not None)
    apart = {path: [None] * count if leaf is None else _apart(path, leaf) for path, leaf in flat.items()}
    layers = {
        f"{LAYERS}.{i}": traverse_util.unflatten_dict({path: leaves[i] for path, leaves in apart.items()})
        for i in range(count)
    }
    return {**{name: node[name] for name in node if name != LAYERS}, **layers}


def _apart(path: tuple[str, ...], leaf_L: jax.Array) -> list[jax.Array]:
    """Returns the parts of all layers. A split's gradient is one concatenation; that of indices would be L sums."""
    with jax.named_scope(path[-2]), jax.named_scope(f"lora_{path[-1]}"):
        return [part.reshape(part.shape[1:]) for part in jax.lax.split(leaf_L, (1,) * len(leaf_L))]


def merge(params: Mapping[str, Any], lora: Mapping[str, Any]) -> Tree:
    """Returns the base with scale * B A added to each adapted weight, summed in float32 and rounded once to the weight's
    type.

    Raises JaxlvError if the overlay holds a head: a merged base has no place for a bias, and a head of its own would untie
    the embedding; and if the base is quantised, for the sum would have to be rounded to its few levels.
    """
    if any(path[-1] == "codes" for path in traverse_util.flatten_dict(dict(params))):
        hint = 'load the base with model.weights = "full", and merge into that'
        raise JaxlvError("nothing is merged into weights of 8 or 4 bits", where="merge", expected="a full base", hint=hint)
    if "lm_head" in lora:
        raise JaxlvError("the overlay trains the LM head, which a merged base cannot hold", where="merge")
    flat = traverse_util.flatten_dict(dict(params))
    overlay = traverse_util.flatten_dict(dict(lora))
    for path in [path[:-1] for path in overlay if path[-1] == "A"]:
        weight = flat[(*path, "weight")]
        update = overlay[(*path, "B")] @ overlay[(*path, "A")] * overlay[(*path, "scale")]
        flat[(*path, "weight")] = (weight.astype(jnp.float32) + update).astype(weight.dtype)
    return traverse_util.unflatten_dict(flat)


def merged(variables: Mapping[str, Any]) -> Tree | None:
    """Returns {"params": merged base}, and in addition the head's bias, if it trained, in an overlay of its own.

    Returns None if merging would lose something: for a base narrower than float32, or a head whose weight trained.
    """
    lora = dict(variables["lora"])
    head = lora.pop("lm_head", None)
    if (head and "weight" in head) or any(leaf.dtype != jnp.float32 for leaf in jax.tree.leaves(variables["params"])):
        return None
    params = merge(variables["params"], lora)
    return {"params": params, "lora": {"lm_head": head}} if head else {"params": params}


def count_trained(variables: Mapping[str, Any], mask: Mapping[str, Any]) -> int:
    """Returns the number of scalars that train."""
    pairs = zip(jax.tree.leaves(variables), jax.tree.leaves(mask), strict=True)
    return sum(leaf.size for leaf, keep in pairs if keep)
