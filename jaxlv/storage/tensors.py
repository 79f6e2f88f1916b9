"""Tensors in safetensors files: a file of another kind, or with unexpected content, is refused with its name."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.flax import save_file

from jaxlv.errors import JaxlvError, JaxlvWarning
from jaxlv.storage import foreign
from jaxlv.storage.door import opened
from jaxlv.storage.files import system_error

FLOAT_TYPES = {"F32", "F16", "BF16"}
HEAD = 8  # bytes that give the length of the header
# What torch.compile, DataParallel, FSDP and checkpoints of activations add to the path of a module.
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
MOST_HEADER = 4 << 20  # bytes; the header of 512 layers with seven adapters each has 1 MiB


def unwrapped(name: str) -> str:
    """Returns a tensor's name without what wrappers of its module add to it, such as _orig_mod."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def names(path: Path) -> list[str]:
    """Returns the names of the tensors in a file; raises JaxlvError if one occurs twice or the header is too long."""
    with _open(path) as tensors:
        found = list(tensors.keys())
    with opened(path) as file:
        header = file.read(_header_size(file.read(HEAD)))
    try:
        foreign.parse(header)
    except foreign.Twice as fault:  # the library silently takes the last of them
        raise JaxlvError(
            f"tensor {fault.key} occurs twice", where=path, hint="the file is damaged: fetch it again"
        ) from None
    except ValueError as fault:
        raise JaxlvError(f"not a safetensors file ({fault})", where=path, found=_sniff(path)) from None
    return found


def plainly(found: Iterable[str], where: Any, plain: Callable[[str], str] = unwrapped) -> dict[str, str]:
    """Returns {plain name: name in the file}, with a JaxlvWarning if they differ.

    Raises JaxlvError if two names are one plain name: which of the tensors is meant cannot be told.
    """
    held: dict[str, str] = {}
    for name in found:
        if (other := held.setdefault(plain(name), name)) != name:
            raise JaxlvError(f"two tensors for {plain(name)}", where=where, found=f"{other} and {name}")
    changed = sorted(name for name, own in held.items() if name != own)
    if changed:
        alike = f", and {len(changed) - 1} more alike" if len(changed) > 1 else ""
        told = f"{where}: {held[changed[0]]} is read as {changed[0]}{alike}"
        warnings.warn(told, JaxlvWarning, stacklevel=3)
    return held


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the tensors in a file, by name."""
    with _open(path) as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 - no dictionary


def read(path: Path, name: str, shape: Sequence[int], dtype: Any = None) -> jax.Array:
    """Returns a tensor in the type `dtype`, its own if None.

    Raises JaxlvError if it has another shape, is not a float of 16 or 32 bits, or holds NaN or infinity, also after
    conversion.
    """
    with _open(path) as tensors:  # opened for each tensor: an open file keeps the pages it has read, a second copy
        view = tensors.get_slice(name)
        found, kind = tuple(view.get_shape()), view.get_dtype()
        if found != tuple(shape):
            raise JaxlvError(f"tensor {name} has the wrong shape", where=path, expected=tuple(shape), found=found)
        if kind not in FLOAT_TYPES:
            raise JaxlvError(f"tensor {name} has the type {kind}", where=path, expected="F32, F16 or BF16")
        held = tensors.get_tensor(name)
    with np.errstate(over="ignore"):  # told below
        value = held if dtype is None else held.astype(dtype, copy=False)
    if not np.isfinite(value).all():
        if np.isfinite(held).all():
            raise JaxlvError(f"tensor {name} overflows in {jnp.dtype(dtype)}", where=path, hint="compute in float32")
        raise JaxlvError(f"tensor {name} holds NaN or infinity", where=path, hint="the file is damaged: fetch it again")
    return jax.device_put(value)  # checked on the host: on a device, each shape would be a program to compile


def write(path: Path, tensors: Mapping[str, Any]) -> None:
    """Writes tensors as PyTorch's tools read them. Raises OSError if the disk does not accept them."""
    try:
        save_file({name: jnp.asarray(value) for name, value in tensors.items()}, path, metadata={"format": "pt"})
    except (SafetensorError, OSError) as fault:
        raise system_error(fault, path) from None


def is_copy(tensor: jax.Array, of: jax.Array) -> bool:
    """Tells whether a tensor is another one, or is it rounded to its own type."""
    return tensor.shape == of.shape and bool(jnp.array_equal(tensor, of.astype(tensor.dtype)))


def same_names(found: Iterable[str], expected: Iterable[str], where: Any, hint: str | None = None) -> None:
    """Raises JaxlvError that names up to ten missing, or unexpected, names."""
    found, expected = set(found), set(expected)
    refuse("missing tensor", expected - found, where, hint)
    refuse("unexpected tensor", found - expected, where, hint)


def refuse(what: str, named: Iterable[str], where: Any, hint: str | None = None) -> None:
    """Raises JaxlvError that lists up to ten names; does nothing if there are no names."""
    listed = sorted(named)
    if listed:
        more = f" and {len(listed) - 10} more" if len(listed) > 10 else ""
        raise JaxlvError(f"{what}{'s' * (len(listed) > 1)} {', '.join(listed[:10])}{more}", where=where, hint=hint)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    with opened(path) as file:
        size, length = os.fstat(file.fileno()).st_size, _header_size(file.read(HEAD))
    if MOST_HEADER < length <= size:  # if it is longer than the file, the library refuses it and says what is wrong
        raise JaxlvError("the header is too long", where=path, expected=f"at most {MOST_HEADER} bytes", found=length)
    try:
        with safe_open(path, framework="numpy") as tensors:
            yield tensors
    except BaseException as fault:
        if not isinstance(fault, (SafetensorError, OSError)) and not foreign.is_panic(fault):
            raise
        raise JaxlvError(f"not a safetensors file ({fault})", where=path, found=_sniff(path)) from None


def _header_size(head: bytes) -> int:
    return int.from_bytes(head, "little")


def _sniff(path: Path) -> str:
    """Says what a file that is not a safetensors file seems to be."""
    with opened(path) as file:
        head = file.read(64)
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
