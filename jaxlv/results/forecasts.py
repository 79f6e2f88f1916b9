"""How forecasts were made; the JSON of a `ForecastSettings` is settings.json beside their table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxlv.results.record import Record


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
    series: tuple[int, ...]
    context: int
    horizon: int
    samples: int
    reach: int | None  # steps forecast at a time; None: all at once
    seed: int
    codec: TextFormat
    sampling: Mapping[str, Any]
    valid_share: float | None
    stops: Mapping[str, int]
    versions: Mapping[str, str]
