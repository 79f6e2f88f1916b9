"""Architectures by name: the Qwen2.5 family as in its config.json files, a folder, or a hub id. No weights are read."""

from __future__ import annotations

import os
from collections.abc import Mapping

from jaxlv.errors import JaxlvError
from jaxlv.model import hub
from jaxlv.model.bases import EMBEDDED
from jaxlv.model.config import ModelConfig
from jaxlv.storage.door import at_home


def _qwen(hidden: int, ff: int, layers: int, heads: int, kv_heads: int, vocabulary: int, tied: bool) -> ModelConfig:
    return ModelConfig(
        vocabulary, hidden, ff, layers, heads, kv_heads, hidden // heads, rope_theta=1e6, tie_word_embeddings=tied
    )


FAMILY: Mapping[str, ModelConfig] = {
    "qwen2.5-0.5b": _qwen(896, 4864, 24, 14, 2, 151_936, True),
    "qwen2.5-1.5b": _qwen(1536, 8960, 28, 12, 2, 151_936, True),
    "qwen2.5-3b": _qwen(2048, 11_008, 36, 16, 2, 151_936, True),
    "qwen2.5-7b": _qwen(3584, 18_944, 28, 28, 4, 152_064, False),
    "qwen2.5-14b": _qwen(5120, 13_824, 48, 40, 8, 152_064, False),
    "qwen2.5-32b": _qwen(5120, 27_648, 64, 40, 8, 152_064, False),
    "qwen2.5-72b": _qwen(8192, 29_568, 80, 64, 8, 152_064, False),
}


def architecture(name: str) -> ModelConfig:
    """Returns the architecture of a built-in name, a base of jaxlv, a model folder, or a hub id (from which config.json is
    fetched).
    """
    known = FAMILY.get(name.lower().removeprefix("qwen/").removesuffix("-instruct"))
    if known is not None:
        return known
    if name in EMBEDDED:
        return ModelConfig.from_folder(EMBEDDED[name])
    if os.path.isdir(folder := at_home(name)):
        return ModelConfig.from_folder(folder)
    if name.count("/") != 1:
        names = ", ".join((*EMBEDDED, *FAMILY))
        raise JaxlvError("no such model", where=name, expected=f"a folder, a hub id, or one of {names}")
    return ModelConfig.from_folder(hub.config_of(hub.checked(name)))
