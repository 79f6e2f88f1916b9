"""LoRA adapters as files in PEFT's format: written so that PEFT reads them, and read so that nothing in them is ignored.

What the format cannot hold lies in other files of the folder, which PEFT ignores: a trained head in head.safetensors
(`lm_head.bias` or `lm_head.weight`), and how series were written as text in codec.json.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxlv.config import CodecConfig, LoraConfig, build_config
from jaxlv.errors import JaxlvError, JaxlvWarning
from jaxlv.lora.overlay import PROJECTIONS
from jaxlv.model.qwen2 import Qwen2
from jaxlv.model.weights import parameter_paths
from jaxlv.settings import single
from jaxlv.storage import foreign, tensors
from jaxlv.storage.door import opened
from jaxlv.storage.files import new_folder, seal, write_json
from jaxlv.text.codec import Codec

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
HEAD, CODEC = "head.safetensors", "codec.json"
PREFIX = "base_model.model."
MOST_RANK = 256
MOST_ALPHA = 1e9
# The values that these settings may have if the adapter is plain LoRA; any other setting must be off.
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "task_type": (None, "CAUSAL_LM"),
    "bias": ("none",),
    "layers_pattern": (None, [], "layers", ["layers"]),
    # Other initialisations change the base too.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}
READ = ("peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "layers_to_transform", "lora_dropout")
WITHOUT_EFFECT = (
    "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version", "megatron_core",
    "qalora_group_size", "eva_config", "ensure_weight_tying", "runtime_config",
)  # fmt: skip
OFF: tuple[Any, ...] = (None, False, "", [], {})

Tree = dict[str, Any]


@dataclass(frozen=True)
class AdapterConfig:
    """What adapter_config.json says about a plain LoRA adapter. `targets` is None if they are a pattern: then the tensors
    tell.
    """

    rank: int
    alpha: float
    rslora: bool
    dropout: float
    targets: tuple[str, ...] | None
    layers: tuple[int, ...] | None  # None = all
    base: str | None
    revision: str | None

    @property
    def scaling(self) -> float:
        """The factor on B A x."""
        return self.alpha / self.rank**0.5 if self.rslora else self.alpha / self.rank


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
    head.safetensors if the head trained, codec.json if the origin has a codec.
    """
    adapter, head = {}, {}
    modules: dict[str, list[str]] = {}  # by projection
    for path, leaf in traverse_util.flatten_dict(dict(lora)).items():
        *module, kind = path
        name = ".".join(module)
        if kind in ("A", "B"):
            adapter[f"{PREFIX}{name}.lora_{kind}.weight"] = leaf
            modules.setdefault(name.rpartition(".")[2], []).append(name)
        elif name == "lm_head":
            head[f"{name}.{kind}"] = leaf
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
    """Reads an adapter in PEFT's format as a float32 overlay: `model.apply({"params": params, "lora": lora}, ids_BT)`.

    Plain LoRA on any of the seven projections, rank 1 to 256, any positive alpha, rsLoRA, files of 16- or 32-bit floats.
    `base` is the model's name; a JaxlvWarning tells if the adapter was made for a base of another name. Raises JaxlvError if
    a tensor is missing, unexpected, of another shape than the base's or not finite, if the adapter uses what is not
    implemented (DoRA, patterns of ranks, modules to save, ...), or if it would change nothing.
    """
    folder = Path(folder)
    config = read_config(folder)
    path = foreign.find(folder, TENSORS)
    if path is None:
        raise _no_adapter(folder)
    found = tensors.names(path)
    paths = parameter_paths(model)
    adapted = _adapted(config, [name for name in found if name.startswith(PREFIX)], paths, folder)
    made_for = f"it was made for {config.base}" if config.base else None
    tensors.same_names(found, (f"{PREFIX}{m}.lora_{kind}.weight" for m in adapted for kind in "AB"), path, made_for)
    flat: dict[tuple[str, ...], Any] = {}
    for module in adapted:
        (*place, _), (fan_out, fan_in) = paths[f"{module}.weight"]
        for kind, shape in (("A", (config.rank, fan_in)), ("B", (fan_out, config.rank))):
            name = f"{PREFIX}{module}.lora_{kind}.weight"
            flat[(*place, kind)] = tensors.read(path, name, shape, jnp.float32)
        flat[(*place, "scale")] = jnp.float32(config.scaling)
    flat |= _head(folder, model)
    if not changes_anything(lora := traverse_util.unflatten_dict(flat)):
        raise JaxlvError("the adapter changes nothing: every B is zero", where=path, hint="was it saved before training?")
    if base and config.base and Path(base).name != Path(config.base).name:
        warnings.warn(f"{folder} was made for {config.base}; it is laid over {base}", JaxlvWarning, stacklevel=2)
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


def lora_config(folder: Path, lora: Mapping[str, Any]) -> LoraConfig:
    """Returns the settings of a run that would have such an overlay; raises JaxlvError if it adapts only some layers."""
    config = read_config(folder)
    modules = [".".join(path[:-1]) for path in traverse_util.flatten_dict(dict(lora)) if path[-1] == "A"]
    targets = tuple(name for name in PROJECTIONS if any(module.endswith(f".{name}") for module in modules))
    if config.layers is not None:
        raise JaxlvError(
            "adapts only some layers", where=Path(folder) / CONFIG, found=f"layers_to_transform {config.layers}"
        )
    kind = next(iter(lora.get("lm_head", {})), "frozen")
    head = {"weight": "full", "bias": "bias"}.get(kind, "frozen")
    return LoraConfig(config.rank, config.alpha, targets, config.dropout, config.rslora, head)  # type: ignore[arg-type]


def read_config(folder: Path) -> AdapterConfig:
    """Reads and checks adapter_config.json; raises JaxlvError, naming the setting, for whatever goes beyond plain LoRA."""
    path, raw = Path(folder) / CONFIG, foreign.settings(folder, CONFIG)
    if raw is None:
        raise _no_adapter(folder)

    def wrong(name: str, expected: str, found: Any = None) -> JaxlvError:
        shown = repr(raw.get(name) if found is None else found)
        return JaxlvError(f"{name} is not supported", where=path, expected=expected, found=shown)

    if raw.get("peft_type") != "LORA":
        raise wrong("peft_type", "LORA")
    for name, value in raw.items():
        if name in PLAIN and not _one_of(value, PLAIN[name]):
            raise wrong(name, " or ".join(map(repr, PLAIN[name])))
        if name not in (*PLAIN, *READ, *WITHOUT_EFFECT) and not _one_of(value, OFF):
            raise wrong(name, "plain LoRA, without it")
    rank, alpha, dropout = (raw.get(name, default) for name, default in (("r", 0), ("lora_alpha", 0), ("lora_dropout", 0)))
    if type(rank) is not int or not 1 <= rank <= MOST_RANK:
        raise wrong("r", f"a whole number from 1 to {MOST_RANK}")
    if type(alpha) not in (int, float) or not 0 < alpha <= MOST_ALPHA:
        raise wrong("lora_alpha", "a positive number")
    if not single(alpha / rank):
        raise wrong("lora_alpha", "a number that is not 0 in float32, divided by r")
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise wrong("lora_dropout", "a number in [0, 1)")
    if not isinstance(raw.get("use_rslora", False), bool):
        raise wrong("use_rslora", "true or false")
    base, revision = (foreign.typed(raw, name, str, path) or None for name in ("base_model_name_or_path", "revision"))
    return AdapterConfig(
        rank, float(alpha), raw.get("use_rslora", False), float(dropout), _targets(raw.get("target_modules"), wrong),
        _layers(raw.get("layers_to_transform"), wrong), base, revision,
    )  # fmt: skip


def _no_adapter(folder: str | Path) -> JaxlvError:
    pickled = os.path.lexists(Path(folder) / "adapter_model.bin")
    hint = "pickles can run code and are never read: save it as safetensors" if pickled else None
    return JaxlvError("no adapter", where=folder, expected=f"{CONFIG} and {TENSORS}", hint=hint)


def _one_of(value: Any, allowed: Iterable[Any]) -> bool:
    return any(type(value) is type(one) and value == one for one in allowed)


def _targets(value: Any, wrong: Any) -> tuple[str, ...] | None:
    if value == "all-linear":
        return PROJECTIONS
    if value is None or isinstance(value, str):  # a pattern may take any time to match, so the tensors tell
        return None
    if not isinstance(value, list) or not value or not all(isinstance(one, str) and one.isprintable() for one in value):
        raise wrong("target_modules", f"names such as {', '.join(PROJECTIONS[:2])}")
    for name in value:
        if name.rpartition(".")[2] not in PROJECTIONS:
            raise wrong("target_modules", f"among {', '.join(PROJECTIONS)}", name)
    return tuple(value)


def _layers(value: Any, wrong: Any) -> tuple[int, ...] | None:
    layers = [value] if isinstance(value, int) and not isinstance(value, bool) else value
    if layers in (None, []):
        return None
    if not isinstance(layers, list) or not all(type(one) is int and one >= 0 for one in layers):
        raise wrong("layers_to_transform", "numbers of layers")
    return tuple(sorted(set(layers)))


def _adapted(config: AdapterConfig, found: list[str], paths: Mapping[str, Any], folder: Path) -> list[str]:
    """Returns the modules of the base that must be adapted, by PEFT's rule for names; for a pattern, those of the
    projections in the file, in all layers.
    """
    of_base = [name.removesuffix(".weight") for name in paths if name.rpartition(".")[0].endswith(PROJECTIONS)]
    of_base = sorted({name.removesuffix(".bias") for name in of_base})
    targets = config.targets
    if targets is None:
        targets = tuple(one for one in PROJECTIONS if any(f".{one}.lora_" in name for name in found))
    if config.layers and config.layers[-1] >= (count := len({name.split(".")[2] for name in of_base})):
        raise JaxlvError(
            "adapts a layer that the base lacks", where=folder / CONFIG, expected=f"below {count}", found=config.layers[-1]
        )
    return [
        name
        for name in of_base
        if any(name == target or name.endswith(f".{target}") for target in targets)
        and (config.layers is None or int(name.split(".")[2]) in config.layers)
    ]


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
