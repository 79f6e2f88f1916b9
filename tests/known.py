"""A forecaster without a model: its samples are known, and it notes what it is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlv.config import SamplingConfig
from jaxlv.data.series import SeriesSet
from jaxlv.forecasting.forecast import Forecast
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.sampler import Sampler
from jaxlv.text.codec import Codec
from jaxlv.text.tokens import load_alphabet

Draw = Callable[[SamplingConfig, int, int, int], np.ndarray]


class Asked(NamedTuple):
    """One call of a forecaster."""

    series: SeriesSet
    request: Request
    sampling: SamplingConfig
    scales_NV: np.ndarray | None


@dataclass(frozen=True)
class Known(Sampler):
    """A forecaster whose `variables` hold what it draws, and what it was asked."""

    def __call__(self, series, request, *, on_batch=lambda done: None, scales_NV=None):
        self.variables["asked"].append(Asked(series, request, self.sampling, scales_NV))
        context, horizon, samples, batch = request.context, request.horizon, request.samples, request.batch
        drawn_NSHV = self.variables["draw"](self.sampling, len(series), samples, horizon)
        batch = batch or len(series)
        for done in (*range(batch, len(series), batch), len(series)):
            on_batch(done)
        return Forecast.of(series, context, drawn_NSHV, {"stop": samples})

    def check_fits(self, series, request):
        """It takes no memory."""

    @property
    def asked(self) -> list[Asked]:
        return self.variables["asked"]


def skewed(sampling: SamplingConfig, count: int, samples: int, horizon: int) -> np.ndarray:
    """Samples whose mean is not their median, the wider the warmer; the first of series 0 breaks off after two steps, and
    without the grammar all of series 1 after one.
    """
    drawn_NSHV = np.random.default_rng(samples).lognormal(sigma=sampling.temperature, size=(count, samples, horizon, 2))
    drawn_NSHV[0, 0, 2:] = np.nan
    if not sampling.grammar:
        drawn_NSHV[1, :, 1:] = np.nan
    return drawn_NSHV


def known(draw: Draw = skewed, **sampling: Any) -> Known:
    """A forecaster that draws these samples, at a temperature of 1.3 unless said otherwise."""
    alphabet = load_alphabet(Path("no folder"), 151_936)
    held: dict[str, Any] = {"draw": draw, "asked": []}
    return Known(None, held, alphabet, Codec(), SamplingConfig(**{"temperature": 1.3, **sampling}))  # type: ignore[arg-type]
