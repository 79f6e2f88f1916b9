"""Sampled trajectories of series: as arrays, as a frame, and as a CSV file.

Axes: N series, S samples, C context steps, H steps ahead, V variables.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxlv.data.clock import Clock
from jaxlv.data.limits import MEMORY_CAP, clean_names
from jaxlv.data.series import NO_COLUMNS, Layout, SeriesSet
from jaxlv.errors import JaxlvError, printable
from jaxlv.forecasting import metrics
from jaxlv.storage import tables
from jaxlv.storage.door import opened

QUANTILES = (0.05, 0.10, 0.25, 0.75, 0.90, 0.95)
LONGEST_HEADER = 1000  # bytes
COLUMNS = ("series", "step", "time", "variable", "statistic", "value")


@dataclass(frozen=True)
class Forecast:
    """Trajectories of N series from step `start` (the first forecast step, counted from 0) on.

    `samples_NSHV` is in raw units; steps that a sample did not complete are NaN. `stops` counts why samples ended.
    """

    ids_N: np.ndarray
    start: int
    time_H: np.ndarray
    variables: tuple[str, ...]
    last_NV: np.ndarray  # the last step of the context
    samples_NSHV: np.ndarray
    stops: dict[str, int]
    clock: Clock  # step 0 is the first that is forecast
    first_N: np.ndarray  # where each series begins, in the steps that `start` counts
    shift_NV: np.ndarray  # what was added to the series, and to the samples
    layout: Layout = NO_COLUMNS

    @classmethod
    def of(
        cls, series: SeriesSet, start: int, samples_NSHV: np.ndarray, stops: Mapping[Any, int], context: int = 0
    ) -> Forecast:
        """Returns samples of the steps from `start` on as a forecast of the series; `context` steps were seen, by default
        all before `start`.
        """
        context = context or start
        step = float(series.time_T[1] - series.time_T[0]) if len(series.time_T) > 1 else 1.0
        ahead_H = np.arange(1 + start - context, 1 + start - context + samples_NSHV.shape[2])
        return cls(
            ids_N=series.ids_N,
            start=start,
            time_H=series.time_T[context - 1] + step * ahead_H,
            variables=series.variables,
            last_NV=series.values_NTV[:, context - 1],
            samples_NSHV=samples_NSHV,
            stops=dict(stops),
            clock=series.clock.moved(start),
            first_N=series.first_N,
            shift_NV=series.shift_NV,
            layout=series.layout,
        )

    @property
    def columns(self) -> list[str]:
        """The columns of `to_frame`: the caller's names of ids and times, if there were any."""
        own = {"series": self.layout.id, "time": self.layout.time, "variable": self.layout.kind}
        return [own.get(name) or name for name in COLUMNS]

    @property
    def labels_NH(self) -> np.ndarray:
        """The times of the forecast, as the caller has them, of each series."""
        steps_H = np.arange(self.samples_NSHV.shape[2])
        return np.array([self.clock.labels(row, steps_H) for row in range(len(self.ids_N))])

    @property
    def raw_NSHV(self) -> np.ndarray:
        """`samples_NSHV` in the caller's units: what was added to series below zero is taken off."""
        return self.samples_NSHV - self.shift_NV[:, None, None]

    @property
    def valid_share(self) -> float:
        """The share of samples that completed every step."""
        return float(np.isfinite(self.samples_NSHV).all(axis=(2, 3)).mean())

    def filled(self) -> np.ndarray:
        """Returns `samples_NSHV` as they are scored: see the function `filled`."""
        return filled(self.samples_NSHV, self.last_NV)

    def raw_filled(self) -> np.ndarray:
        """Returns `filled` in the caller's units, as `raw_NSHV`."""
        return self.filled() - self.shift_NV[:, None, None]

    def median(self) -> np.ndarray:
        """Returns the point forecast (N, H, V): the median over the filled samples at each step."""
        return np.median(self.filled(), axis=1)

    def to_frame(self) -> pd.DataFrame:
        """Returns rows of series, step, time, variable, statistic (median, mean, q05 ... q95, sample_0 ...) and raw value,
        under the caller's names of these columns.
        """
        filled = self.raw_filled()
        parts = {"median": np.median(filled, axis=1), "mean": filled.mean(axis=1)}
        for probability, value_NHV in zip(QUANTILES, metrics.quantiles(filled, QUANTILES), strict=True):
            parts[f"q{round(100 * probability):02d}"] = value_NHV
        parts |= {f"sample_{i}": self.raw_NSHV[:, i] for i in range(filled.shape[1])}
        N, _, H, V = self.samples_NSHV.shape
        grid = {
            "series": np.repeat(self.ids_N, H * V),
            "step": np.repeat((self.start - self.first_N)[:, None] + np.arange(H), V, axis=1).reshape(-1),
            "time": np.repeat(self.labels_NH, V, axis=1).reshape(-1),
            "variable": np.tile(np.array(self.variables, object), N * H),
        }
        frames = [pd.DataFrame({**grid, "statistic": name, "value": v.reshape(-1)}) for name, v in parts.items()]
        frame = pd.concat(frames, ignore_index=True)
        ids = self.ids_N.tolist() if self.ids_N.dtype.kind == "U" else sorted(self.ids_N.tolist())
        place = {one: i for i, one in enumerate(ids)}
        order = np.lexsort((frame["step"].to_numpy(), frame["series"].map(place).to_numpy()))
        return frame.iloc[order].set_axis(self.columns, axis=1).reset_index(drop=True)

    def write_csv(self, path: Path) -> None:
        """Writes `to_frame` as CSV (`tables.write_csv`); the steps that a sample did not complete are empty."""
        tables.write_csv(path, self.to_frame(), float_format="%.6g")


def read_csv(path: Path, series: SeriesSet) -> Forecast:
    """Reads what `write_csv` wrote, to six digits; `series` provides the contexts. The file does not say why samples ended.

    Raises JaxlvError if the file is not a forecast, is a forecast of other series, or is larger than `limits.MEMORY_CAP` / 8
    (a row takes about eight times as much memory as it has bytes).
    """
    most = MEMORY_CAP // 8
    try:
        with opened(path) as stream:
            if (size := stream.seek(0, io.SEEK_END)) > most:
                raise JaxlvError("too large", where=path, expected=f"at most {most} bytes", found=size)
            stream.seek(0)
            if stream.readline(LONGEST_HEADER).strip().decode().count(",") != len(COLUMNS) - 1:  # of more pandas would
                raise ValueError("it has other columns")  # make an index
            frame = pd.read_csv(stream, names=list(COLUMNS), index_col=False)
        return _from_frame(frame, series, path)
    except JaxlvError:
        raise
    except Exception as fault:  # pandas raises whatever the layer below raised
        raise JaxlvError(f"not a forecast ({type(fault).__name__}: {printable(fault, 200)})", where=path) from None


def _from_frame(frame: pd.DataFrame, series: SeriesSet, path: Path) -> Forecast:
    drawn = frame[frame["statistic"].str.startswith("sample_")].copy()
    if not pd.api.types.is_numeric_dtype(drawn["series"].dtype):
        drawn["series"] = drawn["series"].map(tables.unguarded)
    keys = ["series", "step", "variable", "statistic"]
    chosen = series.select(drawn["series"].unique())
    first_of = dict(zip(chosen.ids_N.tolist(), chosen.first_N.tolist(), strict=True))
    drawn["step"] += drawn["series"].map(first_of)
    ids_N, steps_H, variables, names = (drawn[key].unique() for key in keys)
    # The grid itself may not fit in any memory, even if each of its axes does.
    size = math.prod(map(len, (ids_N, steps_H, variables, names)))
    if not len(drawn) or len(drawn) != size or drawn.duplicated(keys).any():
        raise ValueError("steps are missing")
    chosen, steps_H = chosen.select(np.sort(chosen.ids_N)), np.sort(steps_H)
    wide = drawn.pivot(index=keys[:3], columns="statistic", values="value")[list(names)]
    grid = pd.MultiIndex.from_product([chosen.ids_N.tolist(), steps_H, variables])
    samples_NHVS = wide.reindex(grid).to_numpy(float).reshape(len(ids_N), len(steps_H), len(variables), len(names))
    start = int(steps_H[0])
    if not 1 <= start <= series.values_NTV.shape[1]:
        raise ValueError(f"it begins at step {start}")
    samples_NSHV = np.moveaxis(samples_NHVS, 3, 1) + chosen.shift_NV[:, None, None]
    found = Forecast.of(chosen, start, samples_NSHV, {})
    return replace(found, variables=clean_names([tables.unguarded(name) for name in variables], path))


def filled(samples_NSHV: np.ndarray, last_NV: np.ndarray) -> np.ndarray:
    """Returns samples without NaN (N, S, H, V): an incomplete one stays at its last complete step, or at the context's last.

    This is how invalid samples are scored, drawn and written. They count, because a user would be left with them.
    """
    N, S, _, V = samples_NSHV.shape
    last_NS1V = np.broadcast_to(last_NV[:, None, None], (N, S, 1, V))
    return forward_filled(np.concatenate([last_NS1V, samples_NSHV], axis=2))[:, :, 1:]


def forward_filled(values_NSTV: np.ndarray) -> np.ndarray:
    """Replaces NaN by the last finite value before it along the steps; the first step must not have NaN."""
    finite_NSTV = np.isfinite(values_NSTV)
    steps_T = np.arange(values_NSTV.shape[2])[:, None]
    index_NSTV = np.maximum.accumulate(np.where(finite_NSTV, steps_T, 0), axis=2)
    return np.take_along_axis(values_NSTV, index_NSTV, axis=2)
