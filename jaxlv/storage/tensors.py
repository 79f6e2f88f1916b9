"""Tensors in safetensors files: a file of another kind, or with unexpected content, is refused with its name."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from safetensors import SafetensorError, safe_open
from safetensors.flax import save_file

from jaxlv.errors import JaxlvError, warn
from jaxlv.storage import foreign
from jaxlv.storage.door import opened
from jaxlv.storage.files import system_error

FLOAT_TYPES = ("F32", "F16", "BF16")
DTYPES: Mapping[str, Any] = {
    "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "I8": np.int8, "U8": np.uint8, "I32": np.int32,
}  # fmt: skip
BLOCK = 1 << 20  # numbers that are read, converted and checked at once
HEAD = 8  # bytes that give the length of the header
# What torch.compile, DataParallel, FSDP and checkpoints of activations add to the path of a module.
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
MOST_HEADER = 4 << 20  # bytes; the header of 512 layers with seven adapters each has 1 MiB


def unwrapped(name: str) -> str:
    """Returns a tensor's name without what wrappers of its module add to it, such as _orig_mod."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def names(path: Path) -> list[str]:
    """Returns the names of the tensors in a file; raises JaxlvError if one occurs twice or the header is too long."""
    return list(_header(path))


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
        warn(told)
    return held


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the tensors in a file, by name."""
    return {name: held.shape for name, held in _header(path).items()}


def kinds(path: Path) -> set[str]:
    """Returns the types of the tensors in a file, as safetensors names them."""
    return {held.kind for held in _header(path).values()}


def read(path: Path, name: str, shape: Sequence[int], dtype: Any = None) -> jax.Array:
    """Returns a tensor in the type `dtype`, its own if None; errors as in `Tensors.read`."""
    with reading(path) as file:
        return file.read(name, shape, dtype)


class Stored(NamedTuple):
    """Where a tensor lies in its file, from which byte on, with its type as safetensors names it."""

    kind: str
    shape: tuple[int, ...]
    start: int


class Tensors:
    """The tensors of an opened file. A tensor, or a slice, is read by seek, and checked block by block: nothing of the file
    is held in addition.
    """

    def __init__(self, path: Path, file: BufferedReader, held: Mapping[str, Stored]):
        self.path, self.held, self._file = path, held, file

    def read(
        self,
        name: str,
        shape: Sequence[int],
        dtype: Any = None,
        place: Sharding | None = None,
        kinds: Iterable[str] = FLOAT_TYPES,
    ) -> jax.Array:
        """Returns a tensor in the type `dtype`, its own if None, on the default device, or sharded as `place` says: each
        device gets its slice, and slices that no device of this process needs are not read.

        Raises JaxlvError if it has another shape, is of none of these `kinds` (by default floats of 16 or 32 bits), or holds
        NaN or infinity, also after conversion.
        """
        self.check(name, shape, kinds)
        if place is None:  # checked on the host: on a device, each shape would be a program to compile
            return put(self.part(name, dtype=dtype))
        slices: dict[str, np.ndarray] = {}  # devices with a common slice share what was read

        def part(index: Any) -> np.ndarray:
            if (key := repr(index)) not in slices:
                slices[key] = self.part(name, index, dtype)
            return slices[key]

        kind = DTYPES[self.held[name].kind] if dtype is None else dtype
        made = jax.make_array_from_callback(tuple(shape), place, part, dtype=kind)
        slices.clear()
        return _released(made)

    def check(self, name: str, shape: Sequence[int], kinds: Iterable[str] = FLOAT_TYPES) -> None:
        """Raises JaxlvError if a tensor has another shape or none of these types."""
        kind, found, _ = self.held[name]
        if found != tuple(shape):
            raise JaxlvError(f"tensor {name} has the wrong shape", where=self.path, expected=tuple(shape), found=found)
        if kind not in kinds:
            expected = " or ".join(", ".join(kinds).rsplit(", ", 1))
            raise JaxlvError(f"tensor {name} has the type {kind}", where=self.path, expected=expected)

    def part(self, name: str, index: Sequence[slice] = (), dtype: Any = None) -> np.ndarray:
        """Returns a slice of a tensor, the whole of it by default, in the type `dtype`, its own if None.

        Raises JaxlvError if what is read holds NaN or infinity, also after conversion.
        """
        kind, shape, start = self.held[name]
        own = np.dtype(DTYPES[kind])
        index = tuple(index) or (slice(None),) * len(shape)
        sizes = [len(range(*one.indices(size))) for one, size in zip(index, shape, strict=True)]
        found = _empty(sizes, own if dtype is None else np.dtype(dtype))
        flat, done = found.reshape(-1), 0
        for first, count in _stretches(shape, index):
            self._file.seek(start + first * own.itemsize)
            for begin in range(0, count, BLOCK):
                block = flat[done : done + min(BLOCK, count - begin)]
                self._fill(name, block, own)
                done += len(block)
        return found

    def _fill(self, name: str, block: np.ndarray, own: np.dtype) -> None:
        """Reads the next numbers of the file into a block of another type, perhaps."""
        held = block if block.dtype == own else np.empty(block.shape, own)
        if self._file.readinto(held.view(np.uint8).data) != held.nbytes:
            raise JaxlvError("the file ends too early", where=self.path, hint="it was changed while it was read")
        with np.errstate(over="ignore"):  # told below
            block[:] = held
        if jnp.issubdtype(own, jnp.floating) and not np.isfinite(block).all():
            if np.isfinite(held).all():
                told, hint = f"overflows in {block.dtype}", "compute in float32"
                raise JaxlvError(f"tensor {name} {told}", where=self.path, hint=hint)
            hint = "the file is damaged: fetch it again"
            raise JaxlvError(f"tensor {name} holds NaN or infinity", where=self.path, hint=hint)


def put(value: np.ndarray, place: Sharding | None = None) -> jax.Array:
    """Returns an array of the host on the default device, or sharded as `place` says."""
    if place is None:
        return _released(jax.device_put(value))
    return _released(jax.make_array_from_callback(value.shape, place, lambda index: value[index], dtype=value.dtype))


def _released(made: jax.Array) -> jax.Array:
    """Returns an array once its devices hold it, and JAX has let go of the host's memory that it was copied from."""
    made.block_until_ready()
    gc.collect(0)  # which JAX takes as the time to do so
    return made


def _empty(sizes: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Returns memory of the host for a slice."""
    return np.empty(sizes, dtype)


def _stretches(shape: Sequence[int], index: Sequence[slice]) -> Iterator[tuple[int, int]]:
    """Yields (first number, how many) of every stretch of neighbours in a slice of a tensor that is stored row by row."""
    bounds = [range(*one.indices(size)) for one, size in zip(index, shape, strict=True)] or [range(1)]
    cut = max((axis for axis, taken in enumerate(bounds) if len(taken) < (*shape, 1)[axis]), default=0)
    inside = math.prod(shape[cut + 1 :])
    for outside in itertools.product(*bounds[:cut]):
        first = 0
        for place, size in zip((*outside, bounds[cut].start), (*shape, 1), strict=False):
            first = first * size + place
        yield first * inside, len(bounds[cut]) * inside


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Tensors]:
    """Opens a file of tensors. Raises JaxlvError if it is not one, if a name occurs twice or if the header is too long."""
    held = _header(path)
    with opened(path) as file:
        yield Tensors(path, file, held)


def write(path: Path, tensors: Mapping[str, Any]) -> None:
    """Writes tensors as PyTorch's tools read them. Others may read the file as any new one: safetensors allows that to its
    owner alone. Raises OSError if the disk does not accept them.
    """
    try:
        path.touch()
        mode = path.stat().st_mode
        save_file({name: jnp.asarray(value) for name, value in tensors.items()}, path, metadata={"format": "pt"})
        path.chmod(mode)
    except (SafetensorError, OSError) as fault:
        raise system_error(fault, path) from None


def same(one: tuple[Path, str], other: tuple[Path, str], shape: Sequence[int]) -> bool:
    """Tells whether a stored tensor is another one, or is it rounded to its own type; read block by block.

    Raises JaxlvError if either has another shape, as `Tensors.check` does.
    """
    with reading(one[0]) as a, reading(other[0]) as b:
        a.check(one[1], shape)
        b.check(other[1], shape)
        rows = max(1, BLOCK // math.prod(shape[1:]))
        for first in range(0, shape[0], rows):
            index = (slice(first, first + rows), *(slice(None),) * (len(shape) - 1))
            ours, theirs = a.part(one[1], index), b.part(other[1], index)
            if not np.array_equal(ours, theirs.astype(ours.dtype)):
                return False
        return True


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


def _header(path: Path) -> dict[str, Stored]:
    """Returns where each tensor of a file lies; the safetensors library checks that they fill it."""
    with _open(path):
        pass
    with opened(path) as file:
        length = _header_size(file.read(HEAD))
        header = file.read(length)
    try:
        told = foreign.parse(header)
    except foreign.Twice as fault:  # the library silently takes the last of them
        raise JaxlvError(
            f"tensor {fault.key} occurs twice", where=path, hint="the file is damaged: fetch it again"
        ) from None
    except ValueError as fault:
        raise JaxlvError(f"not a safetensors file ({fault})", where=path, found=_sniff(path)) from None
    return {
        name: Stored(one["dtype"], tuple(one["shape"]), HEAD + length + one["data_offsets"][0])
        for name, one in told.items()
        if name != "__metadata__"
    }


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
