"""Qwen2.5 checkpoints in Hugging Face format: read strictly, one tensor at a time; written so that transformers reads them.

A parameter's path joined with dots is its key in the file, so there is no table of names: reading is a walk over the
model's own abstract parameters, and writing is its inverse.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxlv.config import Kernel, ModelSettings
from jaxlv.errors import JaxlvError
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import Qwen2
from jaxlv.storage import tensors
from jaxlv.storage.files import confine, new_folder, parse_json, write_json

EMBEDDED_BASE = Path(__file__).parents[1] / "base"
LONGEST_NAME = 255  # of a file
INDEX = "model.safetensors.index.json"
HUB_FILES = (
    "config.json", "*.safetensors", INDEX, "*token*.json", "vocab.json", "merges.txt", "generation_config.json",
    "chat_template.jinja",
)  # fmt: skip


def load_pretrained(
    folder_or_hub_id: str | Path = "embedded", dtype: str = "float32", attention: str = "xla", revision: str | None = None
) -> tuple[Qwen2, dict[str, Any]]:
    """(model, params) of a Qwen2.5 checkpoint: a folder, a Hugging Face hub id, or "embedded" for the base shipped here.

    Call the model as `model.apply({"params": params}, ids_BT) -> logits_BTV`. `dtype` ("float32" or "bfloat16") is the
    type of the weights in memory and of the matrix products. Each tensor is converted and placed before the next is
    read. Raises JaxlvError for another architecture, missing, unexpected or duplicate keys, wrong shapes, types other
    than F32/F16/BF16, and values that are not finite.
    """
    if dtype not in ("float32", "bfloat16"):
        raise JaxlvError("unknown dtype", expected="float32 or bfloat16", found=repr(dtype))
    if attention not in get_args(Kernel):
        raise JaxlvError("unknown attention", expected=" or ".join(get_args(Kernel)), found=repr(attention))
    folder = resolve(folder_or_hub_id, revision)
    model = Qwen2(ModelConfig.from_folder(folder), jnp.dtype(dtype), attention)
    return model, read_params(folder, model)


def base_of(settings: ModelSettings) -> Path:
    """The local folder of the model that a config names."""
    return resolve(settings.path, settings.revision or None)


def resolve(folder_or_hub_id: str | Path, revision: str | None = None) -> Path:
    """The local folder of a model; a hub id ("owner/name") is downloaded: safetensors and JSON only, no remote code."""
    if str(folder_or_hub_id) == "embedded":
        return EMBEDDED_BASE
    folder = Path(folder_or_hub_id).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise JaxlvError("not a model folder", where=folder, expected="a folder or a hub id", found="a file")
    if str(folder_or_hub_id).count("/") != 1 or str(folder_or_hub_id).startswith((".", "/", "~")):
        raise JaxlvError("no such model folder", where=folder, hint='give a folder, a hub id "owner/name", or "embedded"')
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(folder_or_hub_id), revision=revision, allow_patterns=list(HUB_FILES)))
    except Exception as fault:  # the hub client's errors share no base class
        reason = " ".join(str(fault).split())[:200]
        raise JaxlvError(
            f"neither a folder nor to be had from the hub ({type(fault).__name__}: {reason})",
            where=folder_or_hub_id,
            hint="check the path, the network, or the access rights",
        ) from None


def parameter_paths(model: Qwen2) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """{dotted key: (path in the tree, shape)}; a module's name may itself hold dots ("model.layers.0")."""
    return {".".join(path): (path, leaf.shape) for path, leaf in _abstract_paths(model).items()}


def abstract_params(model: Qwen2) -> dict[str, jax.ShapeDtypeStruct]:
    """{dotted key: shape and type} of every parameter of the model; nothing is allocated."""
    return {".".join(path): leaf for path, leaf in _abstract_paths(model).items()}


@functools.lru_cache(maxsize=8)
def _abstract_paths(model: Qwen2) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return traverse_util.flatten_dict(jax.eval_shape(lambda ids: model.init(jax.random.key(0), ids), ids)["params"])


def count_params(model: Qwen2) -> int:
    """Number of parameters; a tied head counts once."""
    return sum(int(np.prod(x.shape)) for x in abstract_params(model).values())


def unflatten(flat: dict[str, Any], model: Qwen2) -> dict[str, Any]:
    """The parameter tree of dotted keys."""
    return traverse_util.unflatten_dict({path: flat[".".join(path)] for path in _abstract_paths(model)})


def read_params(folder: Path, model: Qwen2) -> dict[str, Any]:
    """The parameters in `folder`, checked against the model key by key."""
    expected = abstract_params(model)
    files = _tensor_files(Path(folder))
    tied = model.config.tie_word_embeddings
    names = {name for name in files if not (tied and name == "lm_head.weight")}  # written by some tools, never used
    tensors.same_names(names, expected, folder)
    by_file = sorted(names, key=lambda name: (str(files[name]), name))
    flat = {name: tensors.read(files[name], name, expected[name].shape, expected[name].dtype) for name in by_file}
    return unflatten(flat, model)


def _tensor_files(folder: Path) -> dict[str, Path]:
    """{tensor name: file}; shards are confined to the folder, and a tensor in two shards is an error."""
    index, single = folder / INDEX, folder / "model.safetensors"
    if not index.is_file() and not single.is_file():
        pickles = [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]
        if pickles:
            raise JaxlvError(
                f"only pickled weights ({pickles[0]})",
                where=folder,
                expected="model.safetensors",
                hint="pickles can run code and are never read: save with save_pretrained(safe_serialization=True)",
            )
        raise JaxlvError("no weights", where=folder, expected=f"model.safetensors or {INDEX}")
    if not index.is_file():
        confine(single, folder)
        return dict.fromkeys(tensors.names(single), single)
    weight_map = _read_index(index)
    files: dict[str, Path] = {}
    for shard in sorted(set(weight_map.values())):
        path = folder / shard
        if Path(shard).name != shard or shard == "..":
            raise JaxlvError("a shard outside the folder", where=index, expected="a plain file name", found=repr(shard))
        if len(shard) > LONGEST_NAME or not path.is_file():
            raise JaxlvError(f"shard {shard[:LONGEST_NAME]} is missing", where=folder)
        confine(path, folder)
        for name in tensors.names(path):
            if name in files:
                raise JaxlvError(f"tensor {name} stands twice", where=folder, found=f"{files[name].name} and {shard}")
            files[name] = path
    absent = {name for name, shard in weight_map.items() if files.get(name) != folder / shard}
    tensors.refuse("not in the shard that the index names: tensor", absent, folder)
    return files


def _read_index(index: Path) -> dict[str, str]:
    try:
        weight_map = parse_json(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise JaxlvError(f"unreadable shard index ({type(fault).__name__}: {fault})", where=index) from None
    if not isinstance(weight_map, dict) or not all(isinstance(s, str) for s in weight_map.values()):
        raise JaxlvError("unreadable shard index", where=index, expected='"weight_map": {tensor: file}')
    return weight_map


def save_pretrained(folder: Path, model: Qwen2, params: dict[str, Any], base: Path | None = None) -> None:
    """Write a checkpoint to a folder that is not there, whole or not at all; see `write_pretrained`."""
    with new_folder(folder) as work:
        write_pretrained(work, model, params, base)


def write_pretrained(folder: Path, model: Qwen2, params: dict[str, Any], base: Path | None = None) -> None:
    """config.json and model.safetensors in a folder that is there, and the tokenizer's files and further settings of the
    checkpoint in `base`.
    """
    raw = json.loads((base / "config.json").read_text(encoding="utf-8")) if base and (base / "config.json").is_file() else {}
    own = model.config.to_hf() | {"torch_dtype": str(jnp.dtype(model.dtype))}
    if "dtype" in raw:
        own["dtype"] = own["torch_dtype"]
    write_json(folder / "config.json", raw | own, indent=2)
    tensors.write(folder / "model.safetensors", traverse_util.flatten_dict(params, sep="."))
    for path in sorted(base.iterdir()) if base else []:
        if path.suffix in (".json", ".txt", ".jinja") and path.name not in ("config.json", INDEX):
            shutil.copyfile(path, folder / path.name)


def fingerprint(folder: Path) -> str:
    """sha256 over the weight files and the config of a model folder, in order of name: what a run records of its base."""
    digest = hashlib.sha256()
    for path in sorted([*Path(folder).glob("*.safetensors"), Path(folder) / "config.json"]):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()
