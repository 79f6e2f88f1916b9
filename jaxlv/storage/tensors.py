"""Tensors in safetensors files: whatever is no such file, and whatever is not as expected in it, is refused by name."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from safetensors import SafetensorError, safe_open
from safetensors.flax import save_file

from jaxlv.errors import JaxlvError

FLOAT_TYPES = {"F32", "F16", "BF16"}


def names(path: Path) -> list[str]:
    """The names of the tensors in a file; JaxlvError where one stands in it twice."""
    with _open(path) as tensors:
        found = list(tensors.keys())
    twice = _named_twice(path)
    if twice:
        raise JaxlvError(f"tensor {twice} stands twice", where=path, hint="the file is damaged: fetch it again")
    return found


def read(path: Path, name: str, shape: Sequence[int], dtype: Any) -> jax.Array:
    """A tensor in the type wanted; JaxlvError for another shape, a type that is no float of 16 or 32 bits, NaN, infinity."""
    with _open(path) as tensors:  # anew for each: an open file keeps the pages it has read mapped, a second copy
        view = tensors.get_slice(name)
        found, kind = tuple(view.get_shape()), view.get_dtype()
        if found != tuple(shape):
            raise JaxlvError(f"tensor {name} has the wrong shape", where=path, expected=tuple(shape), found=found)
        if kind not in FLOAT_TYPES:
            raise JaxlvError(f"tensor {name} has the type {kind}", where=path, expected="F32, F16 or BF16")
        value = tensors.get_tensor(name).astype(dtype)
    if not bool(jnp.isfinite(value).all()):
        raise JaxlvError(f"tensor {name} holds NaN or infinity", where=path, hint="the file is damaged: fetch it again")
    return value


def write(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write tensors as PyTorch's tools read them; JaxlvError where the disk does not take them."""
    try:
        save_file({name: jnp.asarray(value) for name, value in tensors.items()}, path, metadata={"format": "pt"})
    except (SafetensorError, OSError) as fault:
        raise JaxlvError(f"not written ({fault})", where=path, hint="free some space, and do it again") from None


def same_names(found: Iterable[str], expected: Iterable[str], where: Any, hint: str | None = None) -> None:
    """JaxlvError that names what is missing, or what is not expected, up to ten of them."""
    found, expected = set(found), set(expected)
    refuse("missing tensor", expected - found, where, hint)
    refuse("unexpected tensor", found - expected, where, hint)


def refuse(what: str, named: Iterable[str], where: Any, hint: str | None = None) -> None:
    """JaxlvError that lists up to ten names; nothing where there is none."""
    listed = sorted(named)
    if listed:
        more = f" and {len(listed) - 10} more" if len(listed) > 10 else ""
        raise JaxlvError(f"{what}{'s' * (len(listed) > 1)} {', '.join(listed[:10])}{more}", where=where, hint=hint)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="flax") as tensors:
            yield tensors
    except (SafetensorError, OSError) as fault:
        raise JaxlvError(f"not a safetensors file ({fault})", where=path, found=_sniff(path)) from None


def _named_twice(path: Path) -> str | None:
    """A name that the header of a safetensors file has twice: the library takes the last of them without a word."""
    twice: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for name, value in items:
            if name in seen:
                twice.append(name)
            seen[name] = value
        return seen

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        json.loads(file.read(length), object_pairs_hook=pairs)
    return twice[0] if twice else None


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
