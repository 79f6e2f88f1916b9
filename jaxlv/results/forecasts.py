"""Forecasts and how they were made; the JSON of a `ForecastSettings` is settings.json beside their table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxlv.results.quantities import RAW, quantity
from jaxlv.results.record import Interval, Number, Record, rare


@dataclass(frozen=True)
class TextFormat(Record):
    """How values were written as text."""

    scale: str
    decimals: int


@dataclass(frozen=True)
class ForecastSettings(Record):
    """Series, protocol, text format and sampling of forecasts, and how their samples ended."""

    data: str
    data_sha256: str | None
    series: tuple[int | str, ...]
    context: int
    horizon: int
    samples: int
    reach: int | None  # steps forecast at a time; None: all at once
    seed: int
    codec: TextFormat
    sampling: Mapping[str, Number | bool]
    valid_share: float | None
    stops: Mapping[str, int]
    versions: Mapping[str, str]
    holdout: int | None = None  # last steps that were not shown to the model
    method: str = rare(default="model")  # of jaxlv.forecasting.pool.METHODS
    base: str | None = rare()  # which of jaxlv's bases made them, if the model was "embedded"
    mae: float | None = quantity("MAE", RAW, "mean absolute error of the median over those steps, variables and series")


@dataclass(frozen=True)
class Next(Record):
    """A value that is forecast: the median and the 80 % band of its samples."""

    series: int | str
    time: str
    variable: str
    median: float | None = quantity("median", RAW)
    band: Interval | None = quantity("80 % band", RAW, form="interval")
