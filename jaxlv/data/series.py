"""Sets of population series: checking and writing them, and what regimes they are in.

Axes: N series, T time steps, V variables.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np

from jaxlv.data.arrays import LARGEST, VARIABLES, as_float64, check_shape, shortened
from jaxlv.data.clock import Clock, Form
from jaxlv.data.limits import clean_names
from jaxlv.errors import JaxlvError
from jaxlv.storage.files import check_new_file, new_file

TIME_TOLERANCE = 1e-3
HDF5 = (".h5", ".hdf5")
COURSE_SHA256 = "adaf44d863b4ace7dc2fce1451b937e80cd0ecb243eb72250d1df3045f2b5632"  # of the course's file


@dataclass(frozen=True)
class Layout:
    """The columns that series came in, by the caller's names; None if there was none.

    A long table has a column of the variables' names, `kind`, and one of values.
    """

    id: str | None = None
    time: str | None = None
    kind: str | None = None
    value: str | None = None


NO_COLUMNS = Layout()


@dataclass(frozen=True)
class SeriesSet:
    """Complete series in equal steps, in raw units, aligned at their ends: what models forecast, are trained on and measured
    by.

    Series i has the steps from `first_N[i]` on; before them `values_NTV` is NaN. `time_T` are the times of all steps if the
    series share them and they are numbers, else the steps as numbers; `clock` has each series' own times. `ids_N` are whole
    numbers or texts. `shift_NV` was added to each variable of series that fall below zero, and is 0 for others.
    `source` says where they come from: "path" and "sha256" for a file, and "simulation" for simulated ones: a flat dict of
    settings, whose item "parameters" has one float64 array of N values per name. `missing_NTV` says which values were
    missing and have been filled in, if the text marks them as missing; else it is None.
    """

    values_NTV: np.ndarray
    time_T: np.ndarray
    variables: tuple[str, ...]
    ids_N: np.ndarray
    source: dict[str, Any]
    clock: Clock
    first_N: np.ndarray
    shift_NV: np.ndarray
    layout: Layout = NO_COLUMNS
    missing_NTV: np.ndarray | None = None

    @classmethod
    def observed(cls, values_NTV: np.ndarray, clock: Clock, variables: Sequence[str], ids: Any, **more: Any) -> SeriesSet:
        """Returns the set of series with these times; the other fields are 0 or empty unless they are given."""
        N, T, V = values_NTV.shape
        same = bool((clock.origin_N == clock.origin_N[0]).all()) and not clock.is_calendar
        time_T = (
            clock.labels(0, np.arange(T)).astype(float)
            if same
            else np.arange(T) * float(1 if clock.is_calendar else clock.step)
        )
        rest: dict[str, Any] = {"source": {}, "first_N": np.zeros(N, int), "shift_NV": np.zeros((N, V)), **more}
        time_T = rest.pop("time_T", time_T)
        return cls(values_NTV, time_T, tuple(variables), as_ids(ids), clock=clock, **rest)

    def __len__(self) -> int:
        return len(self.ids_N)

    @property
    def system(self) -> str:
        """The name in `dynamics.SYSTEMS` of the system that made the series; "" if their source does not say."""
        if self.source.get("sha256") == COURSE_SHA256:
            return "rosenzweig-macarthur"
        return str(self.source.get("simulation", {}).get("system", ""))

    @property
    def each(self) -> list[np.ndarray]:
        """The values (T, V) of each series, without what is before its first step."""
        return [values_TV[first:] for values_TV, first in zip(self.values_NTV, self.first_N, strict=True)]

    @property
    def written(self) -> list[np.ndarray]:
        """The same as `each` as they are written in texts: NaN if a missing value is marked."""
        if self.missing_NTV is None:
            return self.each
        marked_NTV = np.where(self.missing_NTV, np.nan, self.values_NTV)
        return [values_TV[first:] for values_TV, first in zip(marked_NTV, self.first_N, strict=True)]

    @property
    def raw_each(self) -> list[np.ndarray]:
        """The same in the units of the file: what was added to series below zero is taken off."""
        return [values_TV - shift_V for values_TV, shift_V in zip(self.each, self.shift_NV, strict=True)]

    @property
    def shortest(self) -> int:
        """The steps of the shortest series."""
        return self.values_NTV.shape[1] - int(self.first_N.max())

    def steps(self, start: int, stop: int) -> SeriesSet:
        """Returns the steps from `start` to `stop` of the common count; every series must have one of them."""
        part = slice(start, stop)
        first_N = np.maximum(self.first_N - start, 0)
        return replace(
            self,
            values_NTV=self.values_NTV[:, part],
            time_T=self.time_T[part],
            clock=self.clock.moved(start),
            first_N=first_N,
            missing_NTV=None if self.missing_NTV is None else self.missing_NTV[:, part],
        )

    def select(self, ids: Any) -> SeriesSet:
        """Returns the series with these ids, in the given order; raises JaxlvError, which names them, if ids are unknown."""
        wanted = as_ids(ids, self.ids_N)
        order = np.argsort(self.ids_N)
        same_kind = wanted.dtype.kind == self.ids_N.dtype.kind or not len(wanted)
        rows = order[np.searchsorted(self.ids_N, wanted, sorter=order).clip(max=len(self) - 1)] if same_kind else order[:0]
        unknown = wanted[self.ids_N[rows] != wanted].tolist() if same_kind else wanted.tolist()
        if unknown:
            known = (
                f"{self.ids_N.min()} to {self.ids_N.max()}"
                if self.ids_N.dtype.kind != "U"
                else shortened(self.ids_N.tolist())
            )
            raise JaxlvError(
                "unknown series",
                where=self.source.get("path"),
                expected=f"ids of its {len(self)} series, {known}",
                found=shortened(unknown),
            )
        if not len(wanted) or len(np.unique(wanted)) != len(wanted):
            raise JaxlvError(
                "wrong choice of series",
                where=self.source.get("path"),
                expected="one or more ids, each once",
                found=shortened(wanted.tolist()) or "none",
            )
        return self.rows(rows, wanted)

    def rows(self, rows: np.ndarray, ids: Any = None) -> SeriesSet:
        """Returns the series in some rows; a row may be there more than once if it gets other ids."""
        source = dict(self.source)
        if "simulation" in source:
            parameters = {name: np.asarray(p)[rows] for name, p in source["simulation"]["parameters"].items()}
            source["simulation"] = {**source["simulation"], "parameters": parameters}
        return replace(
            self, values_NTV=self.values_NTV[rows], ids_N=self.ids_N[rows] if ids is None else ids, source=source,
            clock=self.clock.select(rows), first_N=self.first_N[rows], shift_NV=self.shift_NV[rows],
            missing_NTV=None if self.missing_NTV is None else self.missing_NTV[rows],
        )  # fmt: skip


def from_arrays(
    values: Any,
    time: Any = None,
    variables: Sequence[str] | None = None,
    ids: Any = None,
    source: Mapping[str, Any] | None = None,
    where: Any = "series",
) -> SeriesSet:
    """Builds a SeriesSet of copied float64 arrays, after every check in this module.

    values (N, T, V) and time (T,), by default 0..T-1, are integers or floats of at most 64 bits, in either byte order.
    Without names the variables are prey and predator; otherwise there may be 1 to 100 names, each of at most 80 printable
    characters (`limits.clean_names`). Values must be finite and not negative, because the text format has no sign (zeros
    pass here, but have no logarithm). Time must grow in equal steps, each within TIME_TOLERANCE of the mean step. Raises
    JaxlvError otherwise; with `drop`, series with bad values are left out, and a JaxlvWarning says which.
    """
    values, time = np.asarray(values), None if time is None else np.asarray(time)
    names = VARIABLES if variables is None else clean_names(variables, where)
    check_shape(values.shape, None if time is None else time.shape, len(names), where)
    values_NTV = as_float64(values, f"{where}:trajectories")
    time_T = as_float64(np.arange(values.shape[1]) if time is None else time, f"{where}:time")
    check_time(time_T, f"{where}:time")
    ids_N = np.arange(len(values_NTV)) if ids is None else as_ids(ids)
    if len(ids_N) != len(values_NTV) or len(np.unique(ids_N)) != len(ids_N):
        raise JaxlvError(
            "series ids do not fit the series",
            where=where,
            expected=f"{len(values_NTV)} different ids",
            found=f"{len(ids_N)} ids, {len(np.unique(ids_N))} of them different",
        )
    found = SeriesSet.observed(
        values_NTV, _clock(time_T, len(values_NTV), time is None), names, ids_N, source=dict(source or {})
    )
    found = replace(found, time_T=time_T)
    _check_values(values_NTV, names, ids_N, f"{where}:trajectories")
    return found


def save(path: Any, series_set: SeriesSet, *, overwrite: bool = False) -> None:
    """Writes the series as HDF5 in the layout that `loading.load` reads, completely or not at all.

    Values are stored as float32, the course's format, and time as float64; series are renumbered from 0. For simulated sets
    `/simulation` has a float64 dataset per parameter, and the settings as attributes. Raises JaxlvError if the file exists
    and `overwrite` is false, if its suffix is not HDF5's, or if it cannot be written.
    """
    path = check_place(path, overwrite)
    with np.errstate(over="ignore"):
        stored = series_set.values_NTV.astype(np.float32)
    from_arrays(stored, series_set.time_T, series_set.variables, where=f"{path} (as float32)")
    content = io.BytesIO()  # written from memory, as the HDF5 library may crash on a full disk
    _write_hdf5(content, stored, series_set)
    try:
        with new_file(path) as place:
            place.write_bytes(content.getbuffer())
    except OSError as error:
        raise JaxlvError(f"cannot be written ({error.strerror or error})", where=path) from error


def check_place(path: Any, overwrite: bool = False, suffixes: Sequence[str] = HDF5) -> Path:
    """Returns the path of a file that `save` could write to; raises JaxlvError otherwise, before any work is done."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise JaxlvError("series are saved as HDF5", where=path, expected=f"a name that ends in {' or '.join(suffixes)}")
    check_new_file(path, overwrite)
    if not path.parent.is_dir():
        raise JaxlvError("cannot be written (no such folder)", where=path, hint=f"make the folder {path.parent}")
    return path


def _write_hdf5(content: io.BytesIO, stored_NTV: np.ndarray, series_set: SeriesSet) -> None:
    with h5py.File(content, "w") as file:
        trajectories = file.create_dataset("trajectories", data=stored_NTV)
        trajectories.attrs["variables"] = list(series_set.variables)
        file.create_dataset("time", data=series_set.time_T, dtype=np.float64)
        simulation = series_set.source.get("simulation")
        if simulation is not None:
            group = file.create_group("simulation")
            for name, values_N in simulation["parameters"].items():
                group.create_dataset(name, data=values_N, dtype=np.float64)
            group.attrs.update({name: value for name, value in simulation.items() if name != "parameters"})


def check_time(time_T: np.ndarray, where: Any) -> None:
    """Raises JaxlvError if time is not finite or does not grow in equal steps, each within TIME_TOLERANCE of their mean."""
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.diff(time_T)
    tests = {
        "is not finite": ~np.isfinite(time_T),
        "is too large": np.abs(time_T) > LARGEST,
        "does not increase": ~(steps > 0),
    }
    for name, fault in tests.items():
        if fault.any():
            first = int(np.argmax(fault))
            raise JaxlvError(f"time {name}", where=where, found=f"{time_T[first : first + 2]} from index {first}")
    mean = steps.mean()
    irregular = np.abs(steps - mean) > TIME_TOLERANCE * mean
    if irregular.any():
        first = int(np.argmax(irregular))
        raise JaxlvError(
            "time grid is irregular",
            where=where,
            expected=f"equal steps within {TIME_TOLERANCE:g} of their mean {mean:.6g}",
            found=f"{irregular.sum()} others, the first {steps[first]:.6g} after index {first}",
            hint="resample the series on a regular grid",
        )


FAULTS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = MappingProxyType(
    {
        "NaN": np.isnan,
        "infinite": np.isinf,
        "negative": lambda values: values < 0,
        "too large": lambda values: (values > LARGEST) & np.isfinite(values),
    }
)
"""Tests for values that a series must not contain, by name; each marks them in an array."""


def first_place(fault_NTV: np.ndarray, names: Sequence[str], ids_N: np.ndarray) -> str:
    """Returns the place of the first fault in an array, in words."""
    n, t, v = np.unravel_index(int(np.argmax(fault_NTV)), fault_NTV.shape)
    return f"series {ids_N[n]}, step {t}, {names[int(v)]}"


def _check_values(values_NTV: np.ndarray, names: Sequence[str], ids_N: np.ndarray, where: Any) -> None:
    for name, test in FAULTS.items():
        fault = test(values_NTV)
        if fault.any():
            raise JaxlvError(
                f"{fault.sum()} {name} values",
                where=where,
                expected=f"finite values of at least 0 and at most {LARGEST:.7g}",
                found=f"{values_NTV.flat[np.argmax(fault)]:g} first, at {first_place(fault, names, ids_N)}",
                hint='repair them, or leave these series out: data.bad_series = "drop"',
            )


def _clock(time_T: np.ndarray, count: int, steps: bool) -> Clock:
    """Returns the clock of N series that share their times; they are regular."""
    if steps:
        return Clock.steps(count)
    step = float(time_T[-1] - time_T[0]) / (len(time_T) - 1)
    whole = bool((time_T == np.round(time_T)).all())
    return Clock("number", step, np.full(count, time_T[0]), Form("integer" if whole else "number"))


def as_ids(ids: Any, like: np.ndarray | None = None) -> np.ndarray:
    """Returns ids as whole numbers or as texts; numbers as texts if the ids that they are chosen from, `like`, are texts.

    Raises JaxlvError if they are something else.
    """
    array = np.asarray(ids)
    are_texts = bool(array.size) and (array.dtype.kind == "U" or all(isinstance(one, str) for one in array.ravel().tolist()))
    are_whole = not array.size or (array.dtype.kind in "iu" and array.max() <= np.iinfo(np.int64).max)
    if array.ndim != 1 or not (are_texts or are_whole):
        expected = "a list of whole numbers below 2**63, or of texts"
        raise JaxlvError("these are not series ids", expected=expected, found=f"{array.dtype} of shape {array.shape}")
    return array.astype(str if are_texts or (like is not None and like.dtype.kind == "U") else np.int64)


REST = 0.02  # standard deviation, as a share of the mean, of a series at rest


def at_rest(values_NTV: np.ndarray, window: int = 20, share: float = REST) -> np.ndarray:
    """Returns whether each series (N,) is at rest: in the last `window` steps, the standard deviation of every variable is
    at most `share` of its mean.
    """
    end_NWV = values_NTV[:, -window:]
    return (end_NWV.std(axis=1) <= share * end_NWV.mean(axis=1)).all(axis=1)


def regimes(series_set: SeriesSet, window: int = 20) -> np.ndarray:
    """Labels each series by the first of these rules that fits.

    "collapse": some variable stays below 5 % of its own maximum throughout the last `window` steps.
    "equilibrium": in these steps the standard deviation is at most 2 % of the mean, for every variable (`at_rest`).
    "oscillatory": the first variable has two peaks or more (above the step before, not below the next).
    "transient": anything else.
    Returns (N,) strings. Raises JaxlvError if the series are shorter than the window.
    """
    values_NTV = series_set.values_NTV
    if values_NTV.shape[1] < window:
        raise JaxlvError("series too short for regimes", expected=f"{window} steps", found=values_NTV.shape[1])
    end_NWV, first_NT = values_NTV[:, -window:], values_NTV[..., 0]
    inner_NT = first_NT[:, 1:-1]
    peaks_N = ((inner_NT > first_NT[:, :-2]) & (inner_NT >= first_NT[:, 2:])).sum(axis=1)
    rules = [
        (end_NWV.max(axis=1) <= 0.05 * values_NTV.max(axis=1)).any(axis=1),
        at_rest(values_NTV, window),
        peaks_N >= 2,
    ]
    return np.select(rules, ["collapse", "equilibrium", "oscillatory"], default="transient")
