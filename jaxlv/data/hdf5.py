"""Series in HDF5 files.

A file can be made so that the HDF5 library crashes, loops for ever, or fills the memory (with a heap of objects of size 0,
say, or a chunk that unpacks to any size), and nothing within Python stops it. So another process reads each file first.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5pl

from jaxlv.data.arrays import VARIABLES, check_dtype, check_shape, keys_of
from jaxlv.data.limits import MOST_VARIABLES, Room, check_count, clean_name, clean_names
from jaxlv.errors import JaxlvError, printable
from jaxlv.storage import apart

PATIENCE = 60.0  # seconds that a process may take to read a file, plus
SLOWEST = 10e6  # one second for this many bytes
MEMORY = 1 << 27  # bytes that it may map in addition to its code and the data
LONGEST_SETTING = 10_000  # characters
LARGEST_SETTING = 1000  # numbers in one setting
_ALONE = threading.Lock()  # one thread reads at a time, as h5py's own lock also demands


def read(path: Path, memory_cap: int) -> dict[str, Any]:
    """Returns the arrays of a file as arguments of `series.from_arrays`, after another process has read it to its end.

    Raises JaxlvError if that process crashes, hangs, or takes too much memory; OSError if it sees damage; and whatever h5py
    raises.
    """
    stat = path.stat()
    _survived(path.resolve(), memory_cap, stat.st_mtime_ns, stat.st_size, stat.st_ino)
    return _read(path, memory_cap)


@functools.lru_cache(maxsize=256)
def _survived(path: Path, memory_cap: int, *stat: int) -> None:
    """Raises an error if a process that reads the file does not finish by itself, or sees damage."""
    seconds = PATIENCE + path.stat().st_size / SLOWEST
    limits = apart.Limits(computing=seconds, seconds=seconds)
    try:
        damage = apart.call(rehearse, str(path), memory_cap, seconds, limits=limits)
    except apart.Failure as fault:
        what = "damaged: the HDF5 library does not finish reading it"
        raise JaxlvError(what, where=path, found=fault, hint="fetch it again") from None
    if damage:
        raise OSError(damage)


def rehearse(path: str, memory_cap: int, seconds: float) -> str:
    """Reads a file as a trial, in a process of its own; returns what h5py says about damage, "" if it is sound."""
    _limit(seconds)
    try:
        _read(Path(path), memory_cap, lambda size: _limit(seconds, size))
    except MemoryError:
        raise
    except JaxlvError:  # the asking process will see it too, before it reads any data
        return ""
    except Exception as fault:  # perhaps for lack of memory, which the asking process may have
        return printable(fault) or type(fault).__name__
    return ""


def _limit(seconds: float, size: int = 0) -> None:
    """Limits what this process may take: the memory it has now, what arrays of `size` bytes take, and MEMORY more.

    The sizes of unpacked chunks and of texts are unknown before they are read, so only this limit bounds them.
    """
    try:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not on Linux
        now = 1 << 30
    apart.limit(seconds, now + MEMORY + 2 * size)


def _read(path: Path, memory_cap: int, sized: Callable[[int], None] = lambda size: None) -> dict[str, Any]:
    """Returns the arrays of a file. `sized` is called with their total size in bytes before any is read."""
    room = Room(memory_cap, path)
    with _without_plugins(), h5py.File(path, "r") as file:
        for key in ("trajectories", "time"):
            if not _has_link(file, key):
                raise JaxlvError(f"has no dataset {key}", where=path, found=keys_of(file))
        values, time = (_own_dataset(file, key, path) for key in ("trajectories", "time"))
        simulation = _group(file, "simulation", path) if _has_link(file, "simulation") else None
        parameters = {} if simulation is None else _parameters(simulation, values.shape[:1], path, room)
        room.trajectories(values.shape)
        room.array(time.shape)
        # A chunk is always unpacked as a whole, however little of it the shape shows.
        chunk = 8 * max(math.prod(dataset.chunks or (0,)) for dataset in (values, time, *parameters.values()))
        room.passing(chunk)
        sized(room.taken + chunk)
        names = _names(values, path, room)
        variables = VARIABLES if names is None else clean_names(names, path)
        check_shape(values.shape, time.shape, len(variables), path)
        arrays: dict[str, Any] = {"values": values[()], "time": time[()], "variables": variables}
        if simulation is not None:
            drawn = {name: dataset[()].astype(np.float64) for name, dataset in parameters.items()}
            arrays["source"] = {"simulation": {**_settings(simulation, path, room), "parameters": drawn}}
    return arrays


@contextlib.contextmanager
def _without_plugins() -> Iterator[None]:
    """Empties the HDF5 library's search path for plugins while a file that may name some is open.

    A file says by number how its data, or the lists of its groups, are packed. For an unknown number the library would load
    each shared object in HDF5_PLUGIN_PATH, or in a system folder.
    """
    with _ALONE:
        paths = [h5pl.get(place) for place in range(h5pl.size())]
        for _ in paths:
            h5pl.remove(0)
        try:
            yield
        finally:
            for path in paths:
                h5pl.append(path)


def _has_link(group: h5py.Group, key: str) -> bool:
    # Unlike `key in group`, this does not follow the link, which may lead into another file.
    return group.id.links.exists(os.fsencode(key))


def _check_link(group: h5py.Group, key: str, where: Any) -> None:
    if group.id.links.get_info(os.fsencode(key)).type != h5py.h5l.TYPE_HARD:
        raise JaxlvError("is a soft or external link", where=where, expected="data inside the file")


def _own_dataset(group: h5py.Group, key: str, path: Path) -> h5py.Dataset:
    """Returns a dataset, if its bytes lie in this very file; raises JaxlvError otherwise."""
    where = f"{path}:{key}"
    _check_link(group, key, where)
    dataset = group[key]
    if not isinstance(dataset, h5py.Dataset):
        raise JaxlvError("is a group", where=where, expected="a dataset")
    if dataset.is_virtual or dataset.external:
        reach = "a virtual dataset" if dataset.is_virtual else "in external storage"
        raise JaxlvError(f"is {reach}", where=where, expected="data inside the file")
    if dataset.shape is None:
        raise JaxlvError("holds no data", where=where)
    check_dtype(dataset.dtype, where)
    return dataset


def _group(file: h5py.File, key: str, path: Path) -> h5py.Group:
    where = f"{path}:{key}"
    _check_link(file, key, where)
    group = file[key]
    if not isinstance(group, h5py.Group):
        raise JaxlvError("is a dataset", where=where, expected="a group with a dataset per parameter")
    return group


def _parameters(group: h5py.Group, shape: tuple[int, ...], path: Path, room: Room) -> dict[str, h5py.Dataset]:
    """Returns the datasets of a group, each with one value per series, by name, without reading them."""
    where, found = f"{path}:simulation", {}
    check_count(len(group), where, "parameter")
    for key in group:
        dataset = _own_dataset(group, key, path)
        if dataset.shape != shape:
            raise JaxlvError(f"{key} has a wrong shape", where=where, expected=shape, found=dataset.shape)
        room.array(shape)
        found[clean_name(key, where, "name of a parameter")] = dataset
    return found


def _settings(group: h5py.Group, path: Path, room: Room) -> dict[str, Any]:
    """Returns the attributes of a group; raises JaxlvError unless each is a text or numbers."""
    where, found = f"{path}:simulation", {}
    check_count(len(group.attrs), where, "setting")
    for key in group.attrs:
        value = _attribute(group, key, where, room, LARGEST_SETTING)
        value = value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
        if not _is_setting(value):
            raise JaxlvError(f"{key} is not a setting", where=where, expected="printable text or numbers", found=repr(value))
        found[clean_name(key, where, "name of a setting")] = value
    return found


def _is_setting(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_setting, value))
    if isinstance(value, str):
        return len(value) <= LONGEST_SETTING and value.isprintable()
    return isinstance(value, (int, float))


def _names(values: h5py.Dataset, path: Path, room: Room) -> Any:
    """Returns the attribute `variables`, None if it is missing; raises JaxlvError if it is not a list of texts."""
    if "variables" in values.attrs:
        declared = values.attrs.get_id("variables")
        is_text = h5py.check_string_dtype(declared.dtype) is not None and declared.shape is not None
        if not is_text or len(declared.shape) > 1:
            found = "nothing" if declared.shape is None else f"{declared.dtype} of shape {declared.shape}"
            raise JaxlvError("the attribute variables is not a list of texts", where=f"{path}:trajectories", found=found)
    return _attribute(values, "variables", path, room, MOST_VARIABLES)


def _attribute(holder: h5py.HLObject, key: str, where: Any, room: Room, most: int) -> Any:
    """Returns an attribute of at most `most` elements, or None if it is missing."""
    if key not in holder.attrs:
        return None
    declared = holder.attrs.get_id(key)
    count = math.prod(declared.shape or ())
    if count > most:
        raise JaxlvError(f"the attribute {key} is too long", where=where, expected=f"at most {most} elements", found=count)
    room.array((count,), declared.dtype.itemsize)
    return holder.attrs[key]
