"""Qwen2.5 checkpoints in Hugging Face format: read strictly, one tensor at a time; written so that transformers reads them.

A parameter's path joined with dots is its key in the file, so there is no table of names: reading walks over the model's own
abstract parameters, and writing is its inverse.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import psutil
from flax import traverse_util

from jaxlv.activity import doing
from jaxlv.config import Kernel, ModelSettings
from jaxlv.errors import JaxlvError, JaxlvWarning, warn
from jaxlv.model import hub
from jaxlv.model.bases import BASE, EMBEDDED, adapters_in, added_by, added_to
from jaxlv.model.bits import SCHEMES, Bits
from jaxlv.model.config import CONFIG, ModelConfig, without_config
from jaxlv.model.packed import SETTINGS, Packing, own_settings, packing_of
from jaxlv.model.qwen2 import Qwen2
from jaxlv.model.source import Held, Placement, Source
from jaxlv.storage import foreign, holding, tensors
from jaxlv.storage.door import at_home, opened
from jaxlv.storage.files import new_folder, write_json

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
# Files that hold a model's weights, and others that hold tensors.
WEIGHTS, NOT_READ = ("model.safetensors", "model-*-of-*.safetensors"), ("*.safetensors", "pytorch_model*.bin")
UNTIED = "if the embedding is the head, set tie_word_embeddings to true in config.json"
ADAPTED = "it was saved with adapters inside: save what merge_and_unload() returns, or the adapter alone"
# What a checkpoint made from another one takes from its config.json, in addition to the architecture.
CARRIED = (
    "bos_token_id", "eos_token_id", "pad_token_id", "attention_dropout", "initializer_range", "max_window_layers",
    "sliding_window", "use_cache",
)  # fmt: skip


def load_pretrained(
    folder_or_hub_id: str | Path = "embedded",
    dtype: str = "float32",
    attention: str = "xla",
    revision: str | None = None,
    place: Placement | None = None,
    weights: str = "full",
) -> tuple[Qwen2, dict[str, Any]]:
    """Loads a Qwen2.5 checkpoint. Each tensor is converted and placed before the next is read, slice by slice.

    Args:
        folder_or_hub_id: a folder in Hugging Face's format, a hub id, or a base of jaxlv: "embedded" (the same as
            "embedded-cycles") or "embedded-field".
        dtype: "float32" or "bfloat16", of the weights in memory and of the matrix products.
        attention: "xla", "blocked" or "cudnn"; see docs/settings.md, model.attention.
        revision: commit, tag or branch of a hub id.
        place: the sharding of the parameter at a path, such as "model.norm.weight": each device gets its slice straight from
            the file. The default device if this is None, or what it returns is.
        weights: "full", or "int8" or "nf4": the layers' projections are held in 8 or 4 bits; see docs/settings.md,
            model.weights. Checkpoints of GPTQ and AWQ, and of 8 or 4 bits, are unpacked if "full".

    Returns:
        The model and its parameters, a tree whose paths are the checkpoint's keys. Token ids (B, T) of B texts of T tokens
        give logits (B, T, V) over the V tokens of the vocabulary: `model.apply({"params": params}, ids_BT)`.

    Raises:
        JaxlvError: for another architecture, missing, unexpected or duplicate keys, wrong shapes, types other than F32, F16
            and BF16, and values that are not finite.

    Example:
        >>> import jaxlv, numpy as np
        >>> model, params = jaxlv.load_pretrained("embedded")
        >>> model.apply({"params": params}, np.array([[1, 2, 3]])).shape
        (1, 3, 16)
    """
    if dtype not in ("float32", "bfloat16"):
        raise JaxlvError("unknown dtype", expected="float32 or bfloat16", found=repr(dtype))
    if attention not in get_args(Kernel):
        raise JaxlvError("unknown attention", expected=" or ".join(get_args(Kernel)), found=repr(attention))
    if weights not in SCHEMES:
        raise JaxlvError("unknown weights", expected=" or ".join(SCHEMES), found=repr(weights))
    folder = resolve(folder_or_hub_id, revision)
    model = Qwen2(ModelConfig.from_folder(folder), jnp.dtype(dtype), attention, str(folder), weights=weights)  # type: ignore[arg-type]
    with doing(f"loading the weights of {folder.name}"):
        return model, read_params(folder, model, place)


def base_of(settings: ModelSettings) -> Path:
    """Returns the local folder of the model that a config names."""
    return resolve(settings.path, settings.revision or None)


def resolve(folder_or_hub_id: str | Path, revision: str | None = None) -> Path:
    """Returns the local folder of a model; for a hub id ("owner/name"), downloads what is missing: settings and tensors, no
    code.

    Raises JaxlvError for a path that is not a folder, for what is neither a path nor a hub id (`hub.checked`), and for a
    `revision` of anything else than a hub id.
    """
    name = str(folder_or_hub_id)
    folder = str(EMBEDDED.get(name, at_home(folder_or_hub_id)))
    if os.path.isdir(folder):
        if revision:
            raise JaxlvError("a revision is of a hub id", where=name, expected="none", found=repr(revision))
        return Path(folder)
    if os.path.lexists(folder):
        raise JaxlvError("not a model folder", where=folder, expected="a folder or a hub id", found="a file")
    return hub.snapshot(hub.checked(name), revision)


def parameter_paths(model: Qwen2) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Returns {dotted key: (path in the tree, shape)} of a model whose weights are full; a module's name may itself contain
    dots ("model.layers.0").
    """
    return {".".join(path): (path, leaf.shape) for path, leaf in _abstract_paths(model.clone(weights="full")).items()}


def abstract_params(model: Qwen2) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns {dotted key: shape and type} of every parameter that the model holds; nothing is allocated."""
    return {".".join(path): leaf for path, leaf in _abstract_paths(model).items()}


@functools.lru_cache(maxsize=8)
def _abstract_paths(model: Qwen2) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    """Returns {path in the tree: shape and type}. One layer is traced, as all are alike: 512 would take half a minute; and
    with XLA's attention, as cuDNN's is traced only if there is cuDNN. Raises JaxlvError if 4 bits cannot hold a projection.
    """
    c = model.config
    odd = [size for size in (c.hidden_size, c.num_attention_heads * c.head_dim, c.intermediate_size) if size % 2]
    if odd and model.weights == "nf4":
        raise JaxlvError("4 bits need an even number of inputs", where="model.weights", found=odd[0], hint="int8 takes any")
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    one = model.clone(config=dataclasses.replace(model.config, num_hidden_layers=1), attention="xla")
    flat = traverse_util.flatten_dict(jax.eval_shape(lambda ids: one.init(jax.random.key(0), ids), ids)["params"])
    layers = [f"model.layers.{layer}" for layer in range(model.config.num_hidden_layers)]
    return {
        (place, *path[1:]): leaf
        for path, leaf in flat.items()
        for place in (layers if path[0] == "model.layers.0" else path[:1])
    }


def count_params(model: Qwen2) -> int:
    """Returns the number of parameters; a tied head counts once."""
    return sum(math.prod(shape) for _, shape in parameter_paths(model).values())


def bytes_of(model: Qwen2) -> int:
    """Returns the bytes of the model's parameters as it holds them."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in abstract_params(model).values())


def unflatten(flat: dict[str, Any], model: Qwen2) -> dict[str, Any]:
    """Returns the parameter tree of dotted keys."""
    return traverse_util.unflatten_dict({path: flat[".".join(path)] for path in _abstract_paths(model)})


def read_params(folder: str | Path, model: Qwen2, place: Placement | None = None) -> dict[str, Any]:
    """Reads the parameters in `folder`, checked against the model key by key. The host holds one tensor at a time.

    Raises JaxlvError if the folder holds projections in other bits than the model's.
    """
    _check_size(model, folder, place)
    packing = _packing(folder)
    if packing != model.weights and model.weights != "full":
        check_full(folder, f"full weights, or {model.weights}", 'set model.weights = "full" to unpack them')
    adapters = adapters_in(Path(folder))
    held = _held(_weights_in(Path(folder)))
    added = added_by(adapters, projections(model)) if adapters else {}
    expected = _expected(model, packing)
    names = set(held)
    if model.config.tie_word_embeddings and HEAD in names:
        names.remove(HEAD)
        _check_tied(held, parameter_paths(model)[EMBEDDING][1], folder)
    adapted = any(part in name for name in names for part in (".base_layer.", ".lora_"))
    help_ = ADAPTED if adapted else UNTIED if expected - names == {HEAD} else None
    spare = {f"{module}.bias" for module in projections(model)} if isinstance(packing, Packing) else set()
    tensors.same_names(names - (spare - expected), expected, folder, help_)
    with contextlib.ExitStack() as stack:
        paths = sorted({one.path for one in held.values()})
        source = Source(held, {path: stack.enter_context(tensors.reading(path)) for path in paths}, place, added)
        source.check_zero((spare & names) - expected, folder)
        return unflatten(_read(source, model, packing, folder), model)


def _packing(folder: str | Path) -> Packing | Bits | None:
    return packing_of((foreign.settings(folder, CONFIG) or {}).get(SETTINGS), Path(folder) / CONFIG)


def check_full(folder: str | Path, expected: str = "full weights", hint: str | None = None) -> None:
    """Raises JaxlvError if the projections in a folder are in few bits."""
    if packing := _packing(folder):
        found = packing.method if isinstance(packing, Packing) else packing
        what = "weights that are quantised already would be rounded again"
        raise JaxlvError(what, where=folder, expected=expected, found=found, hint=hint)


def dtype_of(folder: Path) -> str:
    """Returns the type that holds all tensors of a checkpoint as they are: bfloat16 if they are in it, or else float32."""
    found = set().union(*(tensors.kinds(path) for path in set(_tensor_files(_weights_in(folder)).values())))
    return "bfloat16" if found == {"BF16"} else "float32"


def _read(source: Source, model: Qwen2, packing: Packing | Bits | None, folder: Any) -> dict[str, jax.Array]:
    """Returns the parameters by dotted key; projections are packed or unpacked on the host if the model's bits are not the
    folder's.
    """
    flat: dict[str, jax.Array] = {}
    changes = (packing or "full") != model.weights
    for module, fans in projections(model).items() if changes else ():
        if packing is None:
            flat |= source.quantised(module, fans, model.weights)  # type: ignore[arg-type]
        else:
            flat[f"{module}.weight"] = source.full(module, fans, packing, model.dtype)
    whole = {name: leaf for name, leaf in abstract_params(model).items() if name not in flat}
    for name in sorted(whole, key=lambda name: (str(source.held[name].path), name)):
        flat[name] = source.array(name, whole[name])
    return flat


def projections(model: Qwen2) -> dict[str, tuple[int, int]]:
    """Returns {module: (outputs, inputs)} of the layers' projections: what may be held in fewer bits."""
    found = ((name.removesuffix(".weight"), shape) for name, (_, shape) in parameter_paths(model).items())
    return {name: (shape[0], shape[1]) for name, shape in found if name.endswith("_proj")}


def _expected(model: Qwen2, packing: Packing | Bits | None) -> set[str]:
    """Returns the names of the tensors of a checkpoint that is packed so."""
    if not isinstance(packing, Packing):
        return set(abstract_params(model.clone(weights=packing or "full")))
    full, packed = set(parameter_paths(model)), projections(model)
    inside = {f"{module}.{name}" for module in packed for name in packing.kinds}
    return full - {f"{module}.weight" for module in packed} | inside


def stored(folder: str | Path, name: str) -> jax.Array:
    """Returns a tensor of a checkpoint as it lies in the file, in its own type, or with what adapters add to it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", JaxlvWarning)  # said when the model was read
        held = _held(_weights_in(Path(folder)))
    tensors.refuse("missing tensor", {name} - set(held), folder)
    path, own = held[name]
    tensor, adapters = tensors.read(path, own, tensors.shapes(path)[own]), adapters_in(Path(folder))
    if adapters and name.endswith("_proj.weight"):
        return jnp.asarray(added_to(name.removesuffix(".weight"), adapters).to(tensor))
    return tensor


def folder_of(model: Qwen2, base: str | Path | None = None) -> Path | None:
    """Returns the folder that a model's weights were read from, that of a base by its name if the model does not say; None
    if neither is a folder here.
    """
    if model.folder is None and base is not None and (str(base) in EMBEDDED or os.path.isdir(at_home(base))):
        return resolve(base)
    return None if model.folder is None else Path(model.folder)


def _weights_in(folder: Path) -> Path:
    """Returns the folder of a model's weights: that of the embedded base for one that is kept as adapters of it."""
    return EMBEDDED[BASE] if adapters_in(folder) else folder


def _held(folder: Path) -> dict[str, Held]:
    """Returns {tensor: where it lies}. A JaxlvWarning tells which other files of tensors in the folder are not read."""
    files = _tensor_files(folder)
    used = {path.name for path in files.values()}
    if left := holding.unread(folder, used, WEIGHTS):
        raise JaxlvError(
            "two sources of weights",
            where=folder,
            expected="one",
            found=f"{_listed(used)}, and {_listed(left)} beside {'them' if len(used) > 1 else 'it'}",
            hint="remove what is left over from before",
        )
    if others := holding.unread(folder, used, NOT_READ):
        warn(f"{folder}: not read beside {_listed(used)}: {_listed(others)}")
    return {plain: Held(files[own], own) for plain, own in tensors.plainly(files, folder).items()}


def _listed(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")


def _check_tied(held: Mapping[str, Held], shape: tuple[int, ...], where: Any) -> None:
    """Raises JaxlvError if a head beside a tied embedding is another one. Versions of transformers differ in which they
    take; some tools write a copy.
    """
    if EMBEDDING in held and not tensors.same(held[HEAD], held[EMBEDDING], shape):
        raise JaxlvError(
            f"{HEAD} is not the embedding",
            where=where,
            expected=f"a copy of {EMBEDDING}, as tie_word_embeddings is true, or none",
            hint="if the head was trained, set tie_word_embeddings to false in config.json; otherwise remove that tensor",
        )


def _check_size(model: Qwen2, where: Any, place: Placement | None = None) -> None:
    """Raises JaxlvError if the parameters exceed the whole memory of a device or, on a CPU, of the machine."""
    sizes = share_of_devices(model, place)
    device = max(sizes, key=lambda one: sizes[one])
    own = (device.memory_stats() or {}).get("bytes_limit")
    size, most = (sizes[device], own) if own else (sum(sizes.values()), psutil.virtual_memory().total)
    if size > most:
        expected, found = f"at most {most:,} bytes, all the memory", f"{size:,} bytes of parameters"
        raise JaxlvError("the model is larger than the memory", where=where, expected=expected, found=found)


def share_of_devices(model: Qwen2, place: Placement | None = None) -> dict[jax.Device, int]:
    """Returns the bytes of a model's parameters on each device of this process that `place` puts some on."""
    sizes: Counter[jax.Device] = Counter()
    for name, leaf in abstract_params(model).items():
        sharding = place(name) if place else None
        devices = sharding.addressable_devices if sharding else [jax.devices()[0]]
        shape = sharding.shard_shape(leaf.shape) if sharding else leaf.shape
        sizes.update(dict.fromkeys(devices, math.prod(shape) * leaf.dtype.itemsize))
    return dict(sizes)


def _tensor_files(folder: Path) -> dict[str, Path]:
    """Returns {tensor name: file}; raises JaxlvError if a tensor is in two shards, or not in the one that the index
    names.
    """
    index, single = foreign.settings(folder, INDEX), foreign.find(folder, SINGLE)
    if index is None and single is None:
        found = holding.of_folder(folder)
        raise JaxlvError("no weights", where=folder, expected=f"{SINGLE} or {INDEX}", found=found, hint=found.hint)
    if index is None:
        assert single is not None
        return dict.fromkeys(tensors.names(single), single)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise JaxlvError("unreadable shard index", where=folder / INDEX, expected='"weight_map": {tensor: file}')
    shards = sorted(set(weight_map.values()))
    if single is not None and SINGLE not in shards:
        raise JaxlvError(
            "two sources of weights", where=folder, found=f"{SINGLE}, and {INDEX} with {_listed(shards)}",
            hint="remove what is left over from before",
        )  # fmt: skip
    files: dict[str, Path] = {}
    for shard in shards:
        for name in tensors.names(path := _shard(folder, shard)):
            if name in files:
                raise JaxlvError(f"tensor {name} occurs twice", where=folder, found=f"{files[name].name} and {shard}")
            files[name] = path
    absent = {name for name, shard in weight_map.items() if files.get(name) != folder / shard}
    tensors.refuse("not in the shard that the index names: tensor", absent, folder)
    return files


def _shard(folder: Path, name: str) -> Path:
    if not name.endswith(foreign.TENSORS) or Path(name).name != name:
        expected = f"the name of a {foreign.TENSORS} file in it"
        raise JaxlvError("a shard outside the folder", where=folder / INDEX, expected=expected, found=repr(name))
    path = foreign.find(folder, name)
    if path is None:
        raise JaxlvError(f"shard {name} is missing", where=folder)
    return path


def save_pretrained(folder: Path, model: Qwen2, params: dict[str, Any], base: Path | None = None) -> None:
    """Writes a checkpoint to a new folder, completely or not at all; see `write_pretrained`."""
    with new_folder(folder) as work:
        write_pretrained(work, model, params, base)


def write_pretrained(folder: Path, model: Qwen2, params: dict[str, Any], base: Path | None = None) -> None:
    """Writes config.json and model.safetensors into an existing folder. From the checkpoint in `base` it takes the files
    that `foreign.companions` names and the settings of config.json that are CARRIED.

    Raises JaxlvError, before anything is written, if one of these files must not be taken.
    """
    taken = foreign.companions(base) if base else []
    raw = (foreign.settings(base, CONFIG) if base else None) or {}
    own = model.config.to_hf() | {"torch_dtype": str(jnp.dtype(model.dtype))}
    if model.weights != "full":
        own[SETTINGS] = own_settings(model.weights)
    if "dtype" in raw:
        own["dtype"] = own["torch_dtype"]
    carried = {name: raw[name] for name in CARRIED if name in raw}
    write_json(folder / CONFIG, carried | own, indent=2)
    tensors.write(folder / SINGLE, traverse_util.flatten_dict(params, sep="."))
    for name in taken:
        foreign.copy(base or folder, name, folder)


def fingerprint(folder: str | Path) -> str:
    """Returns the sha256 over the weight files and the config of a model folder, in order of name, behind the weights that
    it adapts: a run records it of its base.
    """
    digest = hashlib.sha256()
    config = foreign.find(folder, CONFIG)
    if config is None:
        raise without_config(folder)
    below = foreign.tensor_files(EMBEDDED[BASE]) if adapters_in(Path(folder)) else []
    for path in [*below, *sorted([*foreign.tensor_files(folder), config])]:
        digest.update(path.name.encode())
        with opened(path) as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()
