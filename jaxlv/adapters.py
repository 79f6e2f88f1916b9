"""LoRA overlays as files in PEFT's format, so that they can be used outside this project."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import traverse_util
from safetensors.flax import save_file

from jaxlv.config import LoraConfig
from jaxlv.lora import normalise_targets

CONFIG, TENSORS, HEAD = "adapter_config.json", "adapter_model.safetensors", "head.safetensors"
PREFIX = "base_model.model."


def save_peft(folder: Path, lora: Mapping[str, Any], config: LoraConfig, base: str, revision: str | None = None) -> None:
    """Write an overlay as PEFT reads it: adapter_config.json and adapter_model.safetensors, in place of an older one.

    A trained head has no slot in a LoRA adapter; it goes to head.safetensors beside it (`lm_head.bias` or
    `lm_head.weight`), which PEFT ignores.
    """
    folder = Path(folder)
    flat = {".".join(path): jnp.asarray(leaf) for path, leaf in traverse_util.flatten_dict(dict(lora)).items()}
    adapter, head = {}, {}
    for name, leaf in flat.items():
        module, _, kind = name.rpartition(".")
        if kind in ("A", "B"):
            adapter[f"{PREFIX}{module}.lora_{kind}.weight"] = leaf
        elif module == "lm_head":
            head[name] = leaf
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "r": config.rank,
        "lora_alpha": config.alpha or config.rank,
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
        "target_modules": list(normalise_targets(config.targets)),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        work = Path(temporary) / "new"
        work.mkdir()
        (work / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        save_file(adapter, work / TENSORS, metadata={"format": "pt"})
        if head:
            save_file(head, work / HEAD, metadata={"format": "pt"})
        if folder.exists():
            os.replace(folder, Path(temporary) / "old")
        os.replace(work, folder)
        shutil.rmtree(Path(temporary) / "old", ignore_errors=True)
