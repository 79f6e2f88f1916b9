"""Compiled programs that outlive their process: another process loads them from a folder and runs them at once, without
tracing, lowering or compiling.

JAX's own cache keeps what XLA compiles, but a process still traces and lowers each program, which takes longer than XLA's
part here. A program is found again by everything that it depends on: the source of jaxlv, the versions of what compiles it,
the device, XLA's and JAX's settings, the shapes of its arguments, and its constants. Like JAX's cache, the folder holds
machine code: files that another user could have written are not read.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import platform
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxlv.storage import door

FORMAT = 1
SUFFIX = ".program"
DIGEST = 32  # bytes of the hash before the content of a file
MOST = 2 << 30  # bytes in the folder: the programs that were used longest ago give way
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
# Settings of JAX that say where and when it caches, logs or checks, not what a program computes.
BESIDE = ("cache", "log", "debug_nans", "traceback", "explain", "profiler", "check", "transfer_guard", "dump", "pgle")

Program = Callable[..., Any]


class Kept(NamedTuple):
    """What a folder of programs holds."""

    folder: Path | None
    programs: int
    bytes: int


_folder: Path | None = None
_known: dict[str, Program] = {}
_lock = threading.Lock()


def keep_in(folder: Path | None) -> None:
    """Keeps programs in a folder from now on; None keeps none, which is the default."""
    global _folder
    _folder = folder


def kept() -> Kept:
    """Returns what is kept."""
    sizes = [path.stat().st_size for path in _folder.glob(f"*{SUFFIX}")] if _folder and _folder.is_dir() else []
    return Kept(_folder, len(sizes), sum(sizes))


def call(function: Any, *arguments: Any, **constants: Any) -> Any:
    """Calls a jitted function, whose static arguments are `constants`, by a program that was kept if there is one."""
    if not (_keeps() and _on_first(arguments)):
        return function(*arguments, **constants)
    return program(function, arguments, constants, constants)(*arguments)


def program(function: Any, arguments: tuple[Any, ...], said: Any, constants: Mapping[str, Any] | None = None) -> Program:
    """Returns a jitted function compiled for arguments of these shapes, from the folder if it has been kept there.

    `said` stands for everything that the function was made from, by its repr. If no programs are kept, the function itself
    is returned.
    """
    if not (_keeps() and _on_first(arguments)):
        return function
    key = _key(function, arguments, said)
    with _lock:  # parts of one forecast ask for the same program at once
        if key not in _known:
            assert _folder is not None
            path = _folder / (key + SUFFIX)
            _known[key] = _read(path) or _compiled(function, arguments, constants or {}, path)
        return _known[key]


def _keeps() -> bool:
    return _folder is not None and jax.process_count() == 1


def _on_first(arguments: tuple[Any, ...]) -> bool:
    """Tells whether a program's arguments lie on the first device: those of a mesh, or of another device, are not kept."""
    leaves = (leaf for leaf in jax.tree.leaves(arguments) if isinstance(leaf, jax.Array))
    return all(leaf.devices() == {jax.local_devices()[0]} for leaf in leaves)


def _compiled(function: Any, arguments: tuple[Any, ...], constants: Mapping[str, Any], path: Path) -> Program:
    from jax.experimental import serialize_executable

    lowered = function.lower(*arguments, **constants)
    with _without_cache():
        made = lowered.compile()
    try:
        content = pickle.dumps(serialize_executable.serialize(made))
        _write(path, content)
    except Exception:  # not every backend can write its programs, and a full disk is no reason to fail
        return made
    return made


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """Keeps JAX from its own cache: on a CPU, a program that was read from there cannot be written again."""
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def _read(path: Path) -> Program | None:
    """Returns the program in a file; None if there is none, or none that can be trusted or loaded here."""
    from jax.experimental import serialize_executable

    try:
        if not (_is_own(path.parent) and _is_own(path)):
            return None
        content = door.content(path, MOST)
        if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
            return None
        program, given, returned = pickle.loads(content[DIGEST:])
        first = jax.local_devices()[:1]  # else it would be loaded on all of them
        found = serialize_executable.deserialize_and_load(program, given, returned, execution_devices=first)
        os.utime(path)
    except Exception:  # absent, or made by what only seems to be the same version: it is compiled anew
        return None
    return found


def _is_own(path: Path) -> bool:
    """Tells whether only this user can have written a file or a folder."""
    found = path.lstat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not path.is_symlink()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(hashlib.sha256(content).digest() + content)
    os.replace(file.name, path)
    by_age = sorted(path.parent.glob(f"*{SUFFIX}"), key=lambda one: -one.stat().st_mtime)
    total = 0
    for one in by_age:
        total += one.stat().st_size
        if total > MOST:
            one.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------ what a program depends on


def _key(function: Any, arguments: tuple[Any, ...], said: Any) -> str:
    leaves, tree = jax.tree.flatten(arguments)
    shapes = [(leaf.shape, str(leaf.dtype), getattr(leaf, "weak_type", False)) for leaf in leaves]
    places = {device.id for leaf in leaves if isinstance(leaf, jax.Array) for device in leaf.devices()}
    name = getattr(function, "__qualname__", repr(function))
    told = (FORMAT, name, str(tree), shapes, sorted(places), repr(said), _surroundings())
    return hashlib.sha256(repr(told).encode()).hexdigest()


def _surroundings() -> str:
    """Returns what else a program depends on, as text."""
    settings = {name: value for name, value in jax.config.values.items() if not any(part in name for part in BESIDE)}
    flags = {name: value for name, value in os.environ.items() if name.startswith(("XLA_", "TF_", "CUDA_", "NVIDIA_"))}
    return repr((_machine(), sorted((name, repr(value)) for name, value in settings.items()), sorted(flags.items())))


@functools.cache
def _machine() -> str:
    """Returns what does not change within a process, as text: versions, the source, and the device."""
    device = jax.local_devices()[0]
    versions = [metadata.version(package) for package in PACKAGES]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    place = (device.platform, device.device_kind, device.client.platform_version, len(jax.devices()), cores)
    return repr((sys.version, versions, _source(), place, _processor()))


def _source(root: Path = Path(__file__).parents[1]) -> str:
    """Returns a hash of jaxlv's source, so that a change to it is a change of every program."""
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = door.content(path, MOST)
        found.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return found.hexdigest()


def _processor() -> str:
    """Returns the kind of processor and what it can do, which decides on the code that XLA makes for it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return platform.processor() + platform.machine()
