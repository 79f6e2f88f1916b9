"""LoRA adapters as files in PEFT's format: written so that PEFT reads them, and read so that nothing in them is ignored.

A trained head's weight lies among the tensors as a module that was saved whole (`modules_to_save`). What the format cannot
hold lies in other files of the folder, which PEFT ignores: a trained bias of the head in head.safetensors, and how series
were written as text in codec.json.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxlv.config import CodecConfig, LoraConfig, build_config
from jaxlv.errors import JaxlvError, warn
from jaxlv.lora.adapter_config import CONFIG, MOST_RANK, TENSORS, AdapterConfig, no_adapter, read_config, scaling
from jaxlv.lora.overlay import PROJECTIONS
from jaxlv.model import weights
from jaxlv.model.qwen2 import Qwen2
from jaxlv.settings import single
from jaxlv.storage import foreign, holding, tensors
from jaxlv.storage.door import opened
from jaxlv.storage.files import new_folder, seal, write_json
from jaxlv.text.codec import Codec

HEAD, CODEC = "head.safetensors", "codec.json"
PREFIX = "base_model.model."
LM_HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
MATRIX = re.compile(r"(.+)\.lora_([AB])\.weight")
# What a file written by other means than PEFT's save_pretrained has in its names in addition.
ADAPTER_NAME = re.compile(r"(?<=\.lora_[AB])\.[^.]+(?=\.weight$)|\.modules_to_save(\.[^.]+)?(?=\.(weight|bias)$)")
# What tensors are that have no place in an adapter, by a part of their names.
KINDS = {
    ".lora_a": f"lora_a and lora_b are of an MLX adapter: {holding.HINTS['an MLX adapter']}",
    "lora_magnitude_vector": "DoRA is not supported",
    "lm_head.lora_": "LoRA on the LM head is not supported",
    "embed_tokens.lora_": "LoRA on the embedding is not supported",
}
NOT_READ = ("*.safetensors", "adapter_model*.bin")  # files that hold tensors

Tree = dict[str, Any]


# ------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class Origin:
    """Where an adapter comes from, as its files say: the base, its revision, and how its series were written."""

    base: str
    revision: str | None = None
    codec: Codec | None = None


def save_peft(folder: Path, lora: Mapping[str, Any], config: LoraConfig, origin: Origin) -> None:
    """Writes an overlay of the config's rank and scaling to `folder`, sealed, replacing an older one."""
    with new_folder(folder, replace=True) as work:
        write_peft(work, lora, config, origin)
        seal(work)


def write_peft(folder: Path, lora: Mapping[str, Any], config: LoraConfig, origin: Origin) -> None:
    """Writes the files of an adapter into an existing folder: adapter_config.json, adapter_model.safetensors,
    head.safetensors if the head has a bias, codec.json if the origin has a codec.
    """
    adapter: dict[str, Any] = {}
    head: dict[str, Any] = {}
    modules: dict[str, list[str]] = {}  # by projection
    for path, leaf in traverse_util.flatten_dict(dict(lora)).items():
        *module, kind = path
        name = ".".join(module)
        if kind in ("A", "B"):
            adapter[f"{PREFIX}{name}.lora_{kind}.weight"] = leaf
            modules.setdefault(name.rpartition(".")[2], []).append(name)
        elif name == "lm_head":
            place, prefix = (adapter, PREFIX) if kind == "weight" else (head, "")
            place[f"{prefix}{name}.{kind}"] = leaf
    everywhere = len({len(names) for names in modules.values()}) <= 1  # as many layers of each: short names suffice
    layers = sorted({int(name.split(".")[2]) for names in modules.values() for name in names})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": origin.base,
        "revision": origin.revision,
        "r": config.rank,
        "lora_alpha": config.alpha or config.rank,
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
        "target_modules": [name for name in PROJECTIONS if name in modules],
        "modules_to_save": ["lm_head"] if f"{PREFIX}{LM_HEAD}" in adapter else None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    if not everywhere or layers != list(range(len(layers))):
        settings["target_modules"] = sorted({name for names in modules.values() for name in names})
    write_json(folder / CONFIG, settings, indent=2)
    tensors.write(folder / TENSORS, adapter)
    if head:
        tensors.write(folder / HEAD, head)
    if origin.codec:
        write_json(folder / CODEC, dataclasses.asdict(origin.codec), indent=None)


# ------------------------------------------------------------------------------------------------- reading


def load_adapter(folder: str | Path, model: Qwen2, base: str | Path | None = None) -> Tree:
    """Reads an adapter in PEFT's format as an overlay.

    Plain LoRA on any of the seven projections, rank 1 to 256, any positive alpha, both also by module (`rank_pattern`,
    `alpha_pattern`), rsLoRA, a trained LM head (`modules_to_save`), files of 16- or 32-bit floats. Which modules are adapted
    is read from the tensors' names, and must be what the settings say. JaxlvWarnings tell if the adapter was made for a base
    of another name, if names are not PEFT's own, if files beside it are not read, and if it repeats tensors of the base,
    which are dropped.

    Args:
        folder: the adapter: adapter_config.json and adapter_model.safetensors.
        model: the model that it is laid over, from `load_pretrained`.
        base: the model's name or folder, if it is known.

    Returns:
        The overlay in float32, a tree: of each adapted projection A (rank, fan_in), B (fan_out, rank) and the scale by which
        B A is multiplied. The logits (B, T, V) are `model.apply({"params": params, "lora": lora}, ids_BT)`.

    Raises:
        JaxlvError: if a tensor is missing, unexpected, of another shape than the base's or not finite, if one of the base's
            was changed that an overlay cannot hold (the embedding), if the adapter uses what is not implemented (DoRA, ...),
            or if it would change nothing.

    Example:
        >>> import jax, jaxlv, tempfile
        >>> from jaxlv.config import LoraConfig
        >>> from jaxlv.lora.adapters import Origin, save_peft
        >>> model, params = jaxlv.load_pretrained("embedded")
        >>> lora = jaxlv.init_lora(jax.random.key(0), params, LoraConfig(rank=2))
        >>> lora["lm_head"]["bias"] += 0.5  # as if it had been trained
        >>> folder = tempfile.mkdtemp() + "/adapter"
        >>> save_peft(folder, lora, LoraConfig(rank=2), Origin("embedded"))
        >>> jaxlv.load_adapter(folder, model)["lm_head"]["bias"].shape
        (16,)
    """
    folder = Path(folder)
    config = read_config(folder)
    path = foreign.find(folder, TENSORS)
    if path is None:
        raise no_adapter(folder)
    held = _held(path, config, model)
    flat = _matrices(path, config, held, model) | _head(folder, model)
    if (whole := _whole(path, config, held.whole, model, base)) is not None:
        if ("lm_head", "weight") in flat:
            found = f"{LM_HEAD} in {HEAD} and {held.whole[LM_HEAD]} in {TENSORS}"
            raise JaxlvError("two weights of the LM head", where=folder, found=found, hint=f"remove {HEAD} if it is older")
        flat[("lm_head", "weight")] = whole
    if not changes_anything(lora := traverse_util.unflatten_dict(flat)):
        raise JaxlvError("the adapter changes nothing: every B is zero", where=path, hint="was it saved before training?")
    if others := holding.unread(folder, (TENSORS, HEAD), NOT_READ):
        warn(f"{folder}: not read beside {TENSORS}: {', '.join(others)}")
    if base and config.base and Path(base).name != Path(config.base).name:
        warn(f"{folder} was made for {config.base}; it is laid over {base}")
    return lora


def read_codec(folder: Path) -> Codec | None:
    """Returns how the series were written on which an adapter was trained; None if the folder does not say. Raises
    JaxlvError if the file is wrong.
    """
    path, raw = Path(folder) / CODEC, foreign.settings(folder, CODEC)
    if raw is None:
        return None
    alpha = foreign.typed(raw, "dataset_alpha", float, path)
    config = build_config(CodecConfig, {name: value for name, value in raw.items() if name != "dataset_alpha"}, where=path)
    try:
        return Codec.of(config, alpha)
    except JaxlvError as fault:
        raise JaxlvError(fault.what, where=f"{path}, {fault.where}", found=fault.found) from None


def fingerprint(folder: Path) -> str:
    """Returns the sha256 over the files of an adapter: a run records it of the adapter that it began from."""
    digest = hashlib.sha256()
    for path in (foreign.find(folder, name) for name in (CONFIG, TENSORS, HEAD)):
        if path is None:
            digest.update(b"none")
            continue
        with opened(path) as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def changes_anything(lora: Mapping[str, Any]) -> bool:
    """Tells whether any product B A of an overlay, or its head, is not zero."""
    flat = traverse_util.flatten_dict(dict(lora))
    if any(path[-1] == "weight" or (path[-1] == "bias" and np.any(leaf)) for path, leaf in flat.items()):
        return True
    return any(np.any(leaf) and np.any(flat[(*path[:-1], "A")]) for path, leaf in flat.items() if path[-1] == "B")


def lora_config(folder: Path, lora: Mapping[str, Any], layers: int | None = None) -> LoraConfig:
    """Returns the settings of a run that would have such an overlay.

    Raises JaxlvError if its modules differ in rank or scale, and, for a model of that many `layers`, if it adapts only some.
    """
    config, where = read_config(folder), Path(folder) / CONFIG
    flat = traverse_util.flatten_dict(dict(lora))
    modules = sorted(".".join(path[:-1]) for path in flat if path[-1] == "A")
    targets = tuple(name for name in PROJECTIONS if any(module.endswith(f".{name}") for module in modules))
    if not is_uniform(lora):
        raise JaxlvError("modules of different rank or alpha", where=where, expected="one rank and one alpha for a run")
    if layers is not None and len(modules) != len(targets) * layers:
        found = f"{len(modules)} of {len(targets) * layers} modules"
        raise JaxlvError("adapts only some layers", where=where, expected="all of them for a run", found=found)
    kind = next(iter(lora.get("lm_head", {})), "frozen")
    head = {"weight": "full", "bias": "bias"}.get(kind, "frozen")
    rank = next((len(leaf) for path, leaf in flat.items() if path[-1] == "A"), config.rank)
    alpha = config.alphas.of(modules[0], config.alpha) if modules else config.alpha
    return LoraConfig(rank, alpha, targets, config.dropout, config.rslora, head)  # type: ignore[arg-type]


def is_uniform(lora: Mapping[str, Any]) -> bool:
    """Tells whether all modules of an overlay have one rank and one scale."""
    flat = traverse_util.flatten_dict(dict(lora))
    ranks = {len(leaf) for path, leaf in flat.items() if path[-1] == "A"}
    return len(ranks) <= 1 and len({float(leaf) for path, leaf in flat.items() if path[-1] == "scale"}) <= 1


class Held(NamedTuple):
    """The tensors of an adapter's file by what they are; the values are their names in it."""

    matrices: dict[str, str]  # by PEFT's own name
    whole: dict[str, str]  # parameters of the base, by their names in it


def _plain(name: str) -> str:
    """Returns a tensor's name as PEFT's save_pretrained writes it."""
    name = ADAPTER_NAME.sub("", tensors.unwrapped(name)).replace(".base_layer.", ".")
    return name if name.startswith(PREFIX) or not name.startswith(("model.", "lm_head.")) else PREFIX + name


def _held(path: Path, config: AdapterConfig, model: Qwen2) -> Held:
    """Returns what an adapter's file holds.

    Raises JaxlvError if it has no matrices, if one is missing or unexpected by what the settings say, and for anything else
    that is not a parameter of the base.
    """
    found = tensors.plainly(tensors.names(path), path, _plain)
    parameters = {*weights.parameter_paths(model), LM_HEAD}
    whole = {name: found[PREFIX + name] for name in parameters if PREFIX + name in found}
    taken = set(whole.values())
    matrices = {name: own for name, own in found.items() if own not in taken}
    adapted = {match[1].removeprefix(PREFIX) for name in matrices if (match := MATRIX.fullmatch(name))}
    if matrices and not adapted:
        what = _kind(matrices) or f"tensors such as {min(matrices)}"
        raise JaxlvError("no LoRA matrices", where=path, expected="lora_A.weight and lora_B.weight", found=what)
    if whole and not adapted and "lm_head" not in config.saved:
        hint = holding.HINTS["a whole model"]
        raise JaxlvError("no LoRA matrices", where=path, found=f"{len(whole)} weights of a whole model", hint=hint)
    _check_layers(config, model, path.parent)
    projections, made_for = _projections(model), f"it was made for {config.base}" if config.base else None
    if matrices and adapted.isdisjoint(projections):
        raise JaxlvError(
            "LoRA of modules that the base lacks", where=path, expected=f"modules such as {projections[0]}",
            found=min(adapted), hint=_kind(matrices) or made_for,
        )  # fmt: skip
    possible = {name for name in projections if config.adapts(name)}
    required = possible if config.lists_all else possible & adapted
    names = {f"{PREFIX}{module}.lora_{kind}.weight" for module in required for kind in "AB"}
    tensors.same_names(matrices, names, path, _kind(set(matrices) - names) or made_for)
    tensors.refuse("missing tensor", (f"{PREFIX}{name}" for name in _saved(config, model) if name not in whole), path)
    return Held(matrices, whole)


def _kind(names: Iterable[str]) -> str | None:
    """Says what tensors are that have no place in an adapter."""
    return next((words for part, words in KINDS.items() if any(part in name for name in names)), None)


def _projections(model: Qwen2) -> list[str]:
    """Returns the modules of a model that can be adapted."""
    names = (name.removesuffix(".weight") for name in weights.parameter_paths(model) if name.endswith(".weight"))
    return [name for name in names if name.rpartition(".")[2] in PROJECTIONS]


def _check_layers(config: AdapterConfig, model: Qwen2, folder: Path) -> None:
    if config.layers and config.layers[-1] >= (count := model.config.num_hidden_layers):
        expected = f"below {count}"
        raise JaxlvError(
            "adapts a layer that the base lacks", where=folder / CONFIG, expected=expected, found=config.layers[-1]
        )


def _saved(config: AdapterConfig, model: Qwen2) -> list[str]:
    """Returns the parameters of the modules that the settings say were saved whole."""
    parameters = {*weights.parameter_paths(model), LM_HEAD}
    return [name for name in parameters if any(f".{name}".rpartition(".")[0].endswith(f".{one}") for one in config.saved)]


def _matrices(path: Path, config: AdapterConfig, held: Held, model: Qwen2) -> dict[tuple[str, ...], Any]:
    """Reads A, B and the scale of every adapted module."""
    paths, shapes = weights.parameter_paths(model), tensors.shapes(path)
    flat: dict[tuple[str, ...], Any] = {}
    for name in held.matrices:
        if not name.endswith(".lora_A.weight"):
            continue
        module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        (*place, _), (fan_out, fan_in) = paths[f"{module}.weight"]
        rank = config.ranks.of(module, config.rank)
        if not config.ranks.plain:  # the tensors tell
            rank = min(next(iter(shapes[held.matrices[name]]), 0), MOST_RANK) or rank
        for kind, shape in (("A", (rank, fan_in)), ("B", (fan_out, rank))):
            own = held.matrices[f"{PREFIX}{module}.lora_{kind}.weight"]
            flat[(*place, kind)] = tensors.read(path, own, shape, jnp.float32)
        scale = scaling(rank, config.alphas.of(module, config.alpha), config.rslora)
        if not single(scale):
            raise JaxlvError(f"the scale of {module} is 0 in float32", where=path.parent / CONFIG, found=scale)
        flat[(*place, "scale")] = jnp.float32(scale)
    return flat


def _whole(path: Path, config: AdapterConfig, whole: Mapping[str, str], model: Qwen2, base: str | Path | None) -> Any | None:
    """Returns the LM head's weight if the adapter replaces it: it was saved as a trained module, or it differs from the
    base's own, which PEFT then overwrites.

    Drops, with a JaxlvWarning, what is the base's own. Raises JaxlvError for any other parameter that differs, and for a
    tied head that differs without having been saved as a module of its own: PEFT would change the embedding too.
    """
    head, copies = None, []
    for name, own in sorted(whole.items()):
        trained, tied = name == LM_HEAD and "lm_head" in config.saved, model.config.tie_word_embeddings
        original = EMBEDDING if name == LM_HEAD and tied else name
        if not trained and _is_copy(path, own, original, model, base):
            copies.append(name)
        elif name == LM_HEAD and (trained or not tied):
            head = tensors.read(path, own, (model.config.vocab_size, model.config.hidden_size), jnp.float32)
        else:
            hint = "only A, B and the LM head can be laid over a base: join both with PEFT (merge_and_unload), and give that"
            raise JaxlvError(f"{name} is not the base's", where=path, expected="a copy of it, or none", found=own, hint=hint)
    if copies:
        told = f"{path}: copies of the base's own tensors are dropped: {', '.join(copies[:5])}"
        more = f" and {len(copies) - 5} more" if len(copies) > 5 else ""
        warn(told + more)
    return head


def _is_copy(path: Path, own: str, original: str, model: Qwen2, base: str | Path | None) -> bool:
    """Tells whether a tensor is the base's, as that lies in its file. An untied LM head is not one if the base is not known:
    laid over, it is right in any case.
    """
    folder = weights.folder_of(model, base)
    if folder is None and original == LM_HEAD:
        return False
    if folder is None:
        hint = "give the folder of the base (base=), so that they can be compared"
        raise JaxlvError(f"{own} may be a copy of the base's {original}", where=path, hint=hint)
    shape = weights.parameter_paths(model)[original][1]
    if tensors.shapes(path)[own] != shape:
        return False
    return tensors.is_copy(tensors.read(path, own, shape), weights.stored(folder, original))


def _head(folder: Path, model: Qwen2) -> dict[tuple[str, ...], Any]:
    """Returns what lies beside the adapter of a trained head."""
    path = foreign.find(folder, HEAD)
    if path is None:
        return {}
    vocabulary, width = model.config.vocab_size, model.config.hidden_size
    shapes = {"lm_head.bias": (vocabulary,), "lm_head.weight": (vocabulary, width)}
    found = tensors.names(path)
    tensors.refuse("unexpected tensor", set(found) - set(shapes), path)
    return {("lm_head", name.rpartition(".")[2]): tensors.read(path, name, shapes[name], jnp.float32) for name in found}
