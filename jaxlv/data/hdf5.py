"""Series in HDF5 files.

A file can be made so that the HDF5 library crashes, loops for ever, or fills the memory (with a heap of objects of size 0,
say, or a chunk that unpacks to any size), and nothing within Python stops it. So another process reads each file first.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from h5py import h5pl

from jaxlv.data.arrays import check_dtype, keys_of, of_records
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
    """Returns the arrays of a file by name, and what it says of its source, after another process has read it to its end.

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
        held = _datasets(file, path)
        simulation = _group(file, "simulation", path) if _has_link(file, "simulation") else None
        count = held["trajectories"].shape[:1] if "trajectories" in held else ()
        parameters = {} if simulation is None else _parameters(simulation, count, path, room)
        every = (*held.values(), *parameters.values())
        for dataset in held.values():
            fields = [dataset.dtype[name].itemsize for name in dataset.dtype.names or ()]
            (room.trajectories if len(dataset.shape) == 3 else room.array)(dataset.shape, sum(max(one, 8) for one in fields))
        # A chunk is always unpacked as a whole, however little of it the shape shows.
        chunk = 8 * max((math.prod(dataset.chunks or (0,)) for dataset in every), default=0)
        room.passing(chunk)
        sized(room.taken + chunk)
        arrays = {name: _array(dataset, path, room) for name, dataset in held.items()}
        for dataset in held.values():
            if len(dataset.shape) > 1 and (names := _names(dataset, path, room)) is not None:
                arrays["variables"] = np.array(clean_names(names, path), object)
        source = {}
        if simulation is not None:
            drawn = {name: dataset[()].astype(np.float64) for name, dataset in parameters.items()}
            source["simulation"] = {**_settings(simulation, path, room), "parameters": drawn}
    table = next((values for values in arrays.values() if values.dtype.names), None)
    return {"arrays": arrays, "source": source} if table is None else {"frame": of_records(table), "source": source}


def _datasets(file: h5py.File, path: Path) -> dict[str, h5py.Dataset]:
    """Returns the datasets at the top of a file with numbers or texts: "trajectories" and what belongs to it, or all; if
    none has, the one that holds records.

    Raises JaxlvError if there are none, or too many, and if one of them is not in the file itself.
    """
    if len(file) > MOST_DATASETS:
        raise JaxlvError("too many datasets", where=path, expected=f"at most {MOST_DATASETS}", found=len(file))
    found: dict[str, h5py.Dataset] = {}
    tables: dict[str, h5py.Dataset] = {}
    for key in file:
        if key.startswith("#") or key == "simulation":  # "#refs#" of MATLAB
            continue
        if key not in OWN and not _is_hard(file, key):
            raise JaxlvError("is a soft or external link", where=f"{path}:{key}", expected="data inside the file")
        if key not in OWN and _is_table(file[key]):
            tables[clean_name(key, path, "name of a dataset")] = _own_dataset(file, key, path)
        if key not in OWN and not (isinstance(file[key], h5py.Dataset) and _is_readable(file[key].dtype)):
            continue
        found[clean_name(key, path, "name of a dataset")] = _own_dataset(file, key, path)
    if "trajectories" in found:
        wanted = ("trajectories", "time", *NAMES_OF_ARRAYS)
        found = {name: dataset for name, dataset in found.items() if name in wanted}
    held = {name: one for name, one in found.items() if one.shape and (all(one.shape) or name in OWN) and not _is_scale(one)}
    if not held and len(tables) == 1:
        return tables
    if not held:
        raise JaxlvError("has no dataset trajectories", where=path, found=keys_of(file))
    return held


MOST_DATASETS = 200
OWN = ("trajectories", "time")
NAMES_OF_ARRAYS = ("variables", "names", "columns", "species", "ids", "series", "unique_id", "id", "site")
SINCE = re.compile(r"(years|months|days|hours|minutes|seconds) since (\d{4}-\d{1,2}-\d{1,2}.*)")
CALENDARS = ("", "standard", "gregorian", "proleptic_gregorian")
PACKING = (
    "scale_factor", "add_offset", "_FillValue", "missing_value", "valid_min", "valid_max", "valid_range", "units",
    "calendar", "MATLAB_class",
)  # fmt: skip


def _is_hard(group: h5py.Group, key: str) -> bool:
    return group.id.links.get_info(os.fsencode(key)).type == h5py.h5l.TYPE_HARD


def _is_readable(dtype: np.dtype) -> bool:
    """Tells whether a dataset holds numbers or texts; others, such as references of MATLAB's cells, are passed over."""
    return dtype.kind in "iufc" or h5py.check_string_dtype(dtype) is not None


def _is_table(one: Any) -> bool:
    """Tells whether something in a file is a list of records, whose fields are numbers or texts."""
    if not isinstance(one, h5py.Dataset) or len(one.shape or ()) != 1:
        return False
    return bool(one.dtype.names) and all(_is_readable(one.dtype[name]) for name in one.dtype.names)


def _is_scale(dataset: h5py.Dataset) -> bool:
    """Tells whether a dataset is a dimension of NetCDF without values of its own."""
    if "NAME" not in dataset.attrs or dataset.attrs.get_id("NAME").dtype.kind != "S":
        return False
    return bytes(dataset.attrs["NAME"]).startswith(b"This is a netCDF dimension but not a netCDF variable")


def _array(dataset: h5py.Dataset, path: Path, room: Room) -> np.ndarray:
    """Returns the values of a dataset as its attributes say: unpacked, missing ones masked, days since a date as dates, and
    the axes of MATLAB in their order.
    """
    text = h5py.check_string_dtype(dataset.dtype)
    where = f"{path}:{dataset.name}"
    said = {key: _attribute(dataset, key, where, room, MOST_VARIABLES) for key in PACKING}
    matlab = _word(said["MATLAB_class"])
    values = dataset.asstr("utf-8", errors="surrogateescape")[()] if text else dataset[()]
    if matlab:
        values = values.T
    if matlab == "char":
        return np.array(["".join(map(chr, row)).strip() for row in np.atleast_2d(values)], object)
    if text or values.dtype.kind not in "iuf":
        return values
    mask = _missing(values, said, where)
    if said["scale_factor"] is not None or said["add_offset"] is not None:
        values = values * _one(said["scale_factor"], 1.0, where) + _one(said["add_offset"], 0.0, where)
    since = SINCE.match(_word(said["units"]))
    if since and values.ndim == 1 and not mask.any():
        if (calendar := _word(said["calendar"])) not in CALENDARS:
            expected = "the standard calendar, or times as plain numbers"
            raise JaxlvError(
                f"the calendar {calendar} is not supported", where=where, expected=expected, found=_word(said["units"])
            )
        return _moments(values, since[1], since[2], where)
    return np.ma.array(values, mask=mask) if mask.any() else values


def _missing(values: np.ndarray, said: dict[str, Any], where: str) -> np.ndarray:
    mask = np.zeros(values.shape, bool)
    for key in ("_FillValue", "missing_value"):
        if said[key] is not None:
            for one in np.atleast_1d(said[key]).tolist():
                if not isinstance(one, (int, float)):
                    raise JaxlvError(f"the attribute {key} is not a number", where=where, found=repr(one))
                mask |= values == np.asarray(one).astype(values.dtype) if one == one else np.isnan(values)
    low, high = (said["valid_min"], said["valid_max"])
    if said["valid_range"] is not None and np.size(said["valid_range"]) == 2:
        low, high = np.asarray(said["valid_range"]).tolist()
    with np.errstate(invalid="ignore"):
        if low is not None:
            mask |= values < _one(low, 0.0, where)
        if high is not None:
            mask |= values > _one(high, 0.0, where)
    return mask


def _one(value: Any, default: float, where: str) -> float:
    """Returns the number in an attribute."""
    found = [default] if value is None else np.atleast_1d(value).tolist()
    if len(found) != 1 or not isinstance(found[0], (int, float)) or not math.isfinite(found[0]):
        raise JaxlvError("an attribute is not a single number", where=where, found=repr(value))
    return float(found[0])


def _word(value: Any) -> str:
    """Returns the text in an attribute; "" if there is none."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def _moments(values: np.ndarray, unit: str, since: str, where: str) -> np.ndarray:
    """Returns numbers of days (hours, ...) since a date, as CF has them, as dates."""
    try:
        origin = np.datetime64(pd.Timestamp(since.strip().removesuffix("UTC").strip()).tz_localize(None), "ns")
        if unit in ("years", "months") and (values == np.round(values)).all():
            months = values.astype(np.int64) * (12 if unit == "years" else 1)
            return np.array([np.datetime64(pd.Timestamp(origin) + pd.DateOffset(months=int(one))) for one in months])
        size = {
            "years": 365.2425 * 86_400,
            "months": 365.2425 / 12 * 86_400,
            "days": 86_400,
            "hours": 3600,
            "minutes": 60,
            "seconds": 1,
        }[unit]
        return origin + np.round(values.astype(np.float64) * size * 1e9).astype("timedelta64[ns]")
    except (ValueError, OverflowError) as fault:
        raise JaxlvError("units of time that do not read", where=where, found=f"{unit} since {since} ({fault})") from None


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
    if dataset.dtype.names is None and h5py.check_string_dtype(dataset.dtype) is None:
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
