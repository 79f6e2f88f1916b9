"""What a folder of weights holds, by the names of its files: errors say it, and what to do with such a folder instead."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from jaxlv.errors import JaxlvError
from jaxlv.storage import foreign

# The kinds of folders, and the files that tell them, the most telling first; what else belongs to a kind is shown with them.
KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("an MLX adapter", ("adapters.safetensors", "[0-9]*_adapters.safetensors")),
    ("a PEFT adapter", ("adapter_model.safetensors",)),
    ("a pickled adapter", ("adapter_model.bin",)),
    ("a PEFT adapter", ("adapter_config.json",)),
    ("a whole model", ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")),
    ("only pickled weights", ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")),
    ("weights in GGUF", ("*.gguf",)),
)
BESIDE = {"a PEFT adapter": ("adapter_config.json",)}
PICKLES = "pickles can run code and are never read: save "
HINTS = {
    "a whole model": "give it as the model: it is not an adapter",
    "a pickled adapter": f"{PICKLES}it as safetensors",
    "only pickled weights": f"{PICKLES}with save_pretrained(safe_serialization=True)",
    "an MLX adapter": "join it with its model (mlx_lm.fuse), and give the whole as the model",
    "weights in GGUF": "give the safetensors that they were made from",
}
SHOWN = 4  # names of files
LOOKED_AT = 1000  # entries of a folder that may be folders themselves


class Holding(NamedTuple):
    """What a folder seems to be, with the files that tell it ("nothing" if it is empty), and what to do with it."""

    kind: str
    files: tuple[str, ...]
    hint: str | None = None

    def __str__(self) -> str:
        if not self.files:
            return self.kind
        more = f" and {len(self.files) - SHOWN} more" if len(self.files) > SHOWN else ""
        return f"{self.kind} ({', '.join(self.files[:SHOWN])}{more})"


def of_folder(folder: str | Path) -> Holding:
    """Returns what a folder holds; nothing in it is opened, except the name of the base in adapter_config.json."""
    if not os.path.isdir(folder):
        there = os.path.lexists(folder)
        hint = "give the folder that it lies in" if there else "give a folder of this machine"
        return Holding("a file" if there else "no such folder", (), hint)
    names = sorted(_names(folder))
    for kind, patterns in KINDS:
        own = tuple(name for name in names if matches(name, patterns))
        if own:
            own = tuple(sorted({*own, *(name for name in names if name in BESIDE.get(kind, ()))}))
            return Holding(kind, own, _for_its_base(folder) if kind == "a PEFT adapter" else HINTS[kind])
    for what, file in (("an adapter", "adapter_config.json"), ("a model", "config.json")):
        if below := tuple(name for name in names[:LOOKED_AT] if os.path.lexists(Path(folder) / name / file)):
            return Holding(f"a folder with {what} in it", below, f"give {Path(folder) / below[0]}")
    return Holding("other files" if names else "nothing", tuple(names))


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Tells whether the name of a file is like one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def unread(folder: str | Path, used: Iterable[str], alike: Iterable[str]) -> list[str]:
    """Returns the names of the files that are like `alike` and not in `used`, sorted."""
    return sorted(name for name in {*_names(folder)} - {*used} if matches(name, alike))


def _for_its_base(folder: str | Path) -> str:
    base = None
    with contextlib.suppress(JaxlvError):
        raw = foreign.settings(folder, "adapter_config.json") or {}
        base = foreign.typed(raw, "base_model_name_or_path", str, folder)
    named = f" ({base})" if base else ""
    return f"give the model that it was made for{named}, and this folder as its adapter"


def _names(folder: str | Path) -> Iterator[str]:
    with contextlib.suppress(OSError):
        yield from os.listdir(folder)
