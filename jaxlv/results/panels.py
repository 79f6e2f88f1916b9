"""A forecast of one series as charts draw it: context, truth, samples, their median and their bands.

Axes: C context steps, H forecast steps, T = C + H, S samples, V variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Band(NamedTuple):
    """The ends of a central band, each (H, V); NaN without samples."""

    low_HV: np.ndarray
    high_HV: np.ndarray


@dataclass(frozen=True)
class ForecastPanel:
    """One series and the samples that continue it, in raw units; NaN if a sample is invalid or cut.

    Median and bands are of the samples as they are scored. `bands` has them by their shares, widest first; shares whose
    bands are equal, as those of few samples are, have one together.
    """

    series_id: int | str
    variables: tuple[str, ...]
    time_T: np.ndarray
    context_CV: np.ndarray
    truth_HV: np.ndarray | None  # None: the future is unknown
    samples_SHV: np.ndarray
    median_HV: np.ndarray
    bands: Mapping[tuple[float, ...], Band]
    top: tuple[str, float] | None = None  # a level to be drawn, in words and raw units
    time_label: str = "time"
    ticks: Mapping[float, str] | None = None  # labels of some places on the time axis, if times are dates

    @property
    def time_H(self) -> np.ndarray:
        """The times of the forecast."""
        return self.time_T[len(self.context_CV) :]

    @property
    def observed_TV(self) -> np.ndarray:
        """Context and truth in one array."""
        return self.context_CV if self.truth_HV is None else np.concatenate([self.context_CV, self.truth_HV])

    @property
    def ceiling_V(self) -> np.ndarray:
        """Where an axis ends at the latest, whatever samples do: at three times the largest value observed."""
        return 3 * np.nanmax(np.abs(self.observed_TV), axis=0)

    @property
    def broken(self) -> int:
        """How many samples stopped early or did not parse."""
        return int((~np.isfinite(self.samples_SHV).all(axis=(1, 2))).sum())

    @property
    def is_cut(self) -> bool:
        """Whether the widest band leaves the axes."""
        return bool(np.any(next(iter(self.bands.values())).high_HV > self.ceiling_V))

    def band(self, share: float) -> Band:
        """Returns the band of that share."""
        return next(band for shares, band in self.bands.items() if share in shares)
