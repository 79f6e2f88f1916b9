"""Qwen2.5 checkpoints in Hugging Face format: read strictly, one tensor at a time; written so that transformers reads them.

A parameter's path joined with dots is its key in the file, so there is no table of names: reading is a walk over the
model's own abstract parameters, and writing is its inverse.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.flax import save_file

from jaxlv.config import Kernel, ModelConfig
from jaxlv.errors import JaxlvError
from jaxlv.model import Qwen2

EMBEDDED_BASE = Path(__file__).parent / "base"
INDEX = "model.safetensors.index.json"
FLOAT_TYPES = {"F32", "F16", "BF16"}
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


def hub_revision(folder: Path) -> str | None:
    """The commit of a hub snapshot (the name of its folder in the hub's cache), or None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" else None


def abstract_params(model: Qwen2) -> dict[str, jax.ShapeDtypeStruct]:
    """{dotted key: shape and type} of every parameter of the model; nothing is allocated."""
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    tree = jax.eval_shape(lambda ids: model.init(jax.random.key(0), ids), ids)["params"]
    return traverse_util.flatten_dict(tree, sep=".", is_leaf=lambda _, x: not isinstance(x, dict))


def count_params(model: Qwen2) -> int:
    """Number of parameters; a tied head counts once."""
    return sum(int(np.prod(x.shape)) for x in abstract_params(model).values())


def unflatten(flat: dict[str, Any], model: Qwen2) -> dict[str, Any]:
    """The parameter tree of dotted keys; a module name may itself hold dots ("model.layers.0")."""
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    tree = jax.eval_shape(lambda ids: model.init(jax.random.key(0), ids), ids)["params"]
    paths = traverse_util.flatten_dict(tree)
    return traverse_util.unflatten_dict({path: flat[".".join(path)] for path in paths})


def read_params(folder: Path, model: Qwen2) -> dict[str, Any]:
    """The parameters in `folder`, checked against the model key by key."""
    expected = abstract_params(model)
    files = _tensor_files(Path(folder))
    tied = model.config.tie_word_embeddings
    names = {name for name in files if not (tied and name == "lm_head.weight")}  # written by some tools, never used
    _same_keys("missing tensor", sorted(set(expected) - names), folder)
    _same_keys("unexpected tensor", sorted(names - set(expected)), folder)
    flat: dict[str, jax.Array] = {}
    by_file: dict[Path, list[str]] = {}
    for name in sorted(names):
        by_file.setdefault(files[name], []).append(name)
    for path, group in by_file.items():
        for name in group:
            with _open(path) as tensors:  # anew for each: an open file keeps the pages it has read mapped, a second copy
                flat[name] = _read_tensor(tensors, name, expected[name], path)
    return unflatten(flat, model)


def _same_keys(what: str, names: list[str], folder: Path) -> None:
    if names:
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        raise JaxlvError(f"{what}{'s' if len(names) > 1 else ''} {', '.join(names[:10])}{more}", where=folder)


def _read_tensor(tensors: Any, name: str, expected: jax.ShapeDtypeStruct, path: Path) -> jax.Array:
    view = tensors.get_slice(name)
    shape, kind = tuple(view.get_shape()), view.get_dtype()
    if shape != expected.shape:
        raise JaxlvError(f"tensor {name} has the wrong shape", where=path, expected=expected.shape, found=shape)
    if kind not in FLOAT_TYPES:
        raise JaxlvError(f"tensor {name} has the type {kind}", where=path, expected="F32, F16 or BF16")
    value = tensors.get_tensor(name).astype(expected.dtype)
    if not bool(jnp.isfinite(value).all()):
        raise JaxlvError(f"tensor {name} holds NaN or infinity", where=path, hint="the file is damaged: fetch it again")
    return value


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
        with _open(single) as tensors:
            return dict.fromkeys(tensors.keys(), single)
    weight_map = _read_index(index)
    files: dict[str, Path] = {}
    real = folder.resolve()
    homes = [real, real.parents[1] / "blobs"] if hub_revision(real) else [real]  # where the hub's cache keeps its files
    for shard in sorted(set(weight_map.values())):
        path = folder / shard
        if Path(shard).name != shard or shard == "..":
            raise JaxlvError("a shard outside the folder", where=index, expected="a plain file name", found=repr(shard))
        if not path.is_file():
            raise JaxlvError(f"shard {shard} is missing", where=folder)
        if not any(path.resolve().is_relative_to(home) for home in homes):
            raise JaxlvError(f"shard {shard} is a link to outside the folder", where=folder, found=path.resolve())
        with _open(path) as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                if name in files:
                    raise JaxlvError(f"tensor {name} stands twice", where=folder, found=f"{files[name].name} and {shard}")
                files[name] = path
    absent = sorted(name for name, shard in weight_map.items() if files.get(name) != folder / shard)
    _same_keys("index names a tensor that is not in its shard:", absent, folder)
    return files


def _read_index(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise JaxlvError(f"unreadable shard index ({type(fault).__name__}: {fault})", where=index) from None
    if not isinstance(weight_map, dict) or not all(isinstance(s, str) for s in weight_map.values()):
        raise JaxlvError("unreadable shard index", where=index, expected='"weight_map": {tensor: file}')
    return weight_map


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="flax") as tensors:
            yield tensors
    except (SafetensorError, OSError) as fault:
        raise JaxlvError(f"not a safetensors file ({fault})", where=path, found=_sniff(path)) from None


def _sniff(path: Path) -> str:
    """What a file that is no safetensors file seems to be."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as fault:
        return f"an unreadable file ({fault.strerror})"
    if not head:
        return "an empty file"
    for magic, kind in (
        (b"version https://git-lfs", "a git-LFS pointer: fetch the real file"),
        (b"PK\x03\x04", "a zip archive, perhaps a PyTorch pickle"),
        (b"\x80", "a pickle"),
        (b"<", "an HTML or XML page"),
        (b"\x89HDF", "an HDF5 file"),
    ):
        if head.startswith(magic):
            return kind
    return f"{path.stat().st_size} bytes, truncated or damaged"


def save_pretrained(folder: Path, model: Qwen2, params: dict[str, Any], tokenizer_files: Path | None = None) -> None:
    """Write config.json and model.safetensors (and copy tokenizer files), whole or not at all, over nothing."""
    folder = Path(folder)
    if folder.exists():
        raise JaxlvError("exists already", where=folder, hint="choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        work = Path(temporary) / folder.name
        work.mkdir()
        kind = {"torch_dtype": str(jnp.dtype(model.dtype))}
        (work / "config.json").write_text(json.dumps(model.config.to_hf() | kind, indent=2) + "\n", encoding="utf-8")
        flat = traverse_util.flatten_dict(params, sep=".")
        save_file({k: jnp.asarray(v) for k, v in flat.items()}, work / "model.safetensors", metadata={"format": "pt"})
        for path in sorted(tokenizer_files.iterdir()) if tokenizer_files else []:
            if path.suffix in (".json", ".txt") and path.name not in ("config.json", INDEX):
                shutil.copyfile(path, work / path.name)
        os.replace(work, folder)


def fingerprint(folder: Path) -> str:
    """sha256 over the weight files and the config of a model folder, in order of name: what a run records of its base."""
    digest = hashlib.sha256()
    for path in sorted([*Path(folder).glob("*.safetensors"), Path(folder) / "config.json"]):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()
