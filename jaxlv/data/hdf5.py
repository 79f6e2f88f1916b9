"""Series in HDF5 files.

The HDF5 library can crash or go round for ever on a damaged file (in a heap whose objects have no size, say), which nothing
within Python stops. A file is therefore read by a process of its own first.
"""

from __future__ import annotations

import functools
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from jaxlv.data.arrays import VARIABLES, check_dtype, check_shape, check_size, keys_of
from jaxlv.errors import JaxlvError

PATIENCE = 60.0  # seconds that a process may read a file
SLOWEST = 10e6  # bytes of it that are read in a second more
MEMORY = 2 << 30  # bytes that it may map beside the data
NO_MEMORY = 3  # its exit status where that is not enough


def read(path: Path, memory_cap: int) -> dict[str, Any]:
    """The arrays of a file as arguments of `series.from_arrays`, once another process has come to an end with it.

    JaxlvError where that one crashes, hangs or takes too much memory; whatever h5py raises for other damage.
    """
    stat = path.stat()
    _survived(path.resolve(), memory_cap, stat.st_mtime_ns, stat.st_size, stat.st_ino)
    return _read(path, memory_cap)


@functools.lru_cache(maxsize=256)
def _survived(path: Path, memory_cap: int, *stat: int) -> None:
    """JaxlvError where a process that reads the file does not come to an end by itself."""
    if not sys.executable:  # Python within another program
        return
    program = f"import sys; sys.path[:] = {sys.path!r}; from jaxlv.data import hdf5; hdf5.rehearse(*sys.argv[1:])"
    command, seconds = [sys.executable, "-c", program, str(path), str(memory_cap)], PATIENCE + path.stat().st_size / SLOWEST
    try:
        code = subprocess.run(command, timeout=seconds, stdin=subprocess.DEVNULL, capture_output=True).returncode
    except subprocess.TimeoutExpired:
        raise _harmful(path, f"no end after {seconds:.0f} s") from None
    if code < 0:
        raise _harmful(path, signal.Signals(-code).name)
    if code == NO_MEMORY:
        raise _harmful(path, "more memory than its data need")


def _harmful(path: Path, found: str) -> JaxlvError:
    what = "damaged: the HDF5 library does not come to an end with it"
    return JaxlvError(what, where=path, found=found, hint="fetch it again")


def rehearse(path: str, memory_cap: str) -> None:
    """Read a file for nothing, as a process of its own."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = MEMORY + 3 * int(memory_cap)
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    try:
        _read(Path(path), int(memory_cap))
    except MemoryError:
        sys.exit(NO_MEMORY)
    except Exception:  # the process that asked will come to it too
        return


def _read(path: Path, memory_cap: int) -> dict[str, Any]:
    with h5py.File(path, "r") as file:
        for key in ("trajectories", "time"):
            if not _has_link(file, key):
                raise JaxlvError(f"has no dataset {key}", where=path, found=keys_of(file))
        values, time = (_own_dataset(file, key, path) for key in ("trajectories", "time"))
        names = values.attrs.get("variables")
        variables = VARIABLES if names is None else tuple(str(name) for name in np.atleast_1d(names))
        # A chunk is unpacked whole, however little of it the shape shows.
        check_size([values.shape, time.shape, values.chunks or (), time.chunks or ()], memory_cap, path)
        check_shape(values.shape, time.shape, len(variables), path)
        arrays: dict[str, Any] = {"values": values[()], "time": time[()], "variables": variables}
        if _has_link(file, "simulation"):
            arrays["source"] = {"simulation": _read_simulation(file, values.shape[0], path)}
    return arrays


def _has_link(group: h5py.Group, key: str) -> bool:
    # Unlike `key in group`, this does not follow the link, perhaps into another file.
    return group.id.links.exists(os.fsencode(key))


def _check_link(group: h5py.Group, key: str, where: Any) -> None:
    if group.id.links.get_info(os.fsencode(key)).type != h5py.h5l.TYPE_HARD:
        raise JaxlvError("is a soft or external link", where=where, expected="data inside the file")


def _own_dataset(group: h5py.Group, key: str, path: Path) -> h5py.Dataset:
    """The dataset, if its bytes lie in this very file."""
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


def _read_simulation(file: h5py.File, count: int, path: Path) -> dict[str, Any]:
    where = f"{path}:simulation"
    _check_link(file, "simulation", where)
    group = file["simulation"]
    if not isinstance(group, h5py.Group):
        raise JaxlvError("is a dataset", where=where, expected="a group with a dataset per parameter")
    parameters = {}
    for name in group:
        dataset = _own_dataset(group, name, path)
        if dataset.shape != (count,):
            raise JaxlvError(f"{name} has a wrong shape", where=where, expected=(count,), found=dataset.shape)
        parameters[name] = dataset[()].astype(np.float64)
    settings = {name: getattr(value, "tolist", lambda v=value: v)() for name, value in group.attrs.items()}
    return {**settings, "parameters": parameters}
