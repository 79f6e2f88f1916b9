"""Forecasters that are opened once: other libraries copy and refit their estimators for every series and window.

Axes: N series, S samples, H steps ahead, V variables.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlv.front import Forecaster
from jaxlv.outcomes import Prediction

KEPT = 4  # forecasters that stay open


class File(NamedTuple):
    """A file by its path, the time of its last change in nanoseconds, and its size in bytes."""

    path: str
    changed: int
    size: int


Stamp = tuple[File, ...]


def opened(model: Any, adapter: Any = None, sampling: Mapping[str, Any] | None = None) -> Forecaster:
    """Returns `jaxlv.Forecaster(model, adapter=adapter, **sampling)` without progress bars.

    A forecaster that is named is opened once, and again only if a file of the model or of the adapter has changed. One that
    is already open is returned as it is. Raises JaxlvError as `jaxlv.Forecaster` does.
    """
    if isinstance(model, Forecaster):
        return model
    settings = dict(sampling or {})
    if not isinstance(model, (str, Path)):
        return Forecaster(model, adapter=adapter, progress=False, **settings)
    named = None if adapter is None else str(adapter)
    return _opened(str(model), named, tuple(sorted(settings.items())), (_stamp(str(model)), _stamp(named)))


@functools.lru_cache(maxsize=KEPT)
def _opened(
    model: str, adapter: str | None, sampling: tuple[tuple[str, Any], ...], stamps: tuple[Stamp, Stamp]
) -> Forecaster:
    return Forecaster(model, adapter=adapter, progress=False, **dict(sampling))


def _stamp(folder: str | None) -> Stamp:
    """Returns the names, times and sizes of the files below a folder; nothing if there is no such folder."""
    return tuple(sorted(_files(folder))) if folder and os.path.isdir(folder) else ()


def _files(folder: str) -> Iterator[File]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if os.path.isfile(path):
                found = os.stat(path)
                yield File(path, found.st_mtime_ns, found.st_size)


def trajectories(forecast: Prediction) -> np.ndarray:
    """Returns the samples (N, S, H, V) in the caller's units, as they are scored: one that broke off stays where it was."""
    return forecast.made.raw_filled()
