"""Forecasts of records of the field, from rolling origins; the JSON of a `Field` is field.json."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxlv.results.quantities import quantity
from jaxlv.results.record import Interval, Record
from jaxlv.results.scores import BANDS, MODELS, POOL, Levels

DRAWN = ", as drawn"
"""The end of the name of a row whose samples are as a model drew them; a model's own row has them stretched."""


def is_baseline(name: str) -> bool:
    """Returns whether a row is neither a model nor the pool."""
    return name.removesuffix(DRAWN) not in (*MODELS, POOL)


@dataclass(frozen=True, kw_only=True)
class FieldScore(Record):
    """How one method forecasts a record: means over all windows, steps and variables, with intervals over windows."""

    name: str
    mae: float | None = quantity(
        "MAE", "units of the record", "mean absolute error of the median over steps, variables and windows", better="less",
        group="Absolute error",
    )  # fmt: skip
    mae_ci95: Interval | None = quantity("95 % interval", of="mae", form="interval", better="")
    mase: float | None = quantity(
        "MASE", "1", "MAE / mean |first difference| of the context, mean over variables and windows", better="less",
        group="Relative",
    )  # fmt: skip
    crps: float | None = quantity(
        "CRPS", "units of the record", "fair continuous ranked probability score, mean as of the MAE; of a method without"
        " samples its absolute error", better="less", group="Scores",
    )  # fmt: skip
    crps_ci95: Interval | None = quantity("95 % interval", of="crps", form="interval", better="")
    crps_scaled: float | None = quantity(
        "scaled CRPS", "1", "CRPS / mean absolute value of the context, of each variable and window, then the mean",
        better="less", group="Scaled CRPS", head="mean",
    )  # fmt: skip
    crps_scaled_ci95: Interval | None = quantity("95 % interval", of="crps_scaled", form="interval", better="")
    coverage: Levels | None = quantity(
        "coverage", BANDS, "share of the truth inside the central interval of the samples", better="level", form="share",
        group="Coverage of bands",
    )  # fmt: skip

    @property
    def is_baseline(self) -> bool:
        """Whether the method is neither a model nor the pool."""
        return is_baseline(self.name)


@dataclass(frozen=True)
class FieldRecord(Record):
    """One record: what it has, the steps of context that its windows have, and the scores of each method."""

    windows: int
    rows: tuple[FieldScore, ...]
    file: str = ""
    series: int | None = None
    variables: tuple[str, ...] = ()
    context: int | None = None
    data_sha256: str | None = None
    weights: Mapping[str, float] = field(default_factory=dict)  # mean over the windows, of the pool's members
    base: str | None = None  # which of jaxlv's bases was measured, if the model was "embedded"
    notes: tuple[str, ...] = ()

    def row(self, name: str) -> FieldScore | None:
        """Returns the scores of a method, None if it was not measured."""
        return next((row for row in self.rows if row.name == name), None)

    @property
    def best_baseline(self) -> FieldScore | None:
        """The baseline with the least scaled CRPS here."""
        held = [row for row in self.rows if row.is_baseline and row.crps_scaled is not None]
        return min(held, key=lambda row: row.crps_scaled or math.inf, default=None)


@dataclass(frozen=True)
class Relative(Record):
    """A method over all records: its scaled CRPS relative to the best single baseline, which is chosen afterwards as the one
    with the least geometric mean over records, and its pooled coverage.
    """

    name: str
    crps_relative: float | None = quantity(
        "relative", "1", "geometric mean over records of the scaled CRPS / that of the best single baseline",
        better="less", group="Scaled CRPS", head="relative",
    )  # fmt: skip
    coverage_80: float | None = quantity(
        "all windows", BANDS, "share inside the 80 % band, mean over all windows of all records", better=0.8, form="share",
        group="Inside the 80 % band", head="all windows",
    )  # fmt: skip
    least_coverage_80: float | None = quantity(
        "worst record", BANDS, "the same, of the record with the least", form="share",
        group="Inside the 80 % band", head="worst record",
    )  # fmt: skip


@dataclass(frozen=True)
class FieldProtocol(Record):
    """The settings that the figures depend on."""

    model: str
    context: int
    horizon: int
    every: int
    samples: int
    seed: int
    missing: str
    scale: str | None = None
    headroom: float | None = None
    decimals: int | None = None
    pool_samples: int | None = None
    definitions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Field(Record):
    """What field.json holds."""

    protocol: FieldProtocol
    records: Mapping[str, FieldRecord]
    best_baseline: str | None = None
    summary: tuple[Relative, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)  # files, and why
    versions: Mapping[str, Any] = field(default_factory=dict)


def summary(records: Mapping[str, FieldRecord]) -> tuple[str | None, tuple[Relative, ...]]:
    """Returns the best single baseline by the geometric mean of its scaled CRPS, and every method that all records have
    relative to it.
    """
    if not records:
        return None, ()
    shared = [row.name for row in next(iter(records.values())).rows if all(one.row(row.name) for one in records.values())]
    scaled = {name: [_scaled(one, name) for one in records.values()] for name in shared}
    means = {name: _geometric(values) for name, values in scaled.items()}
    baselines = {name: mean for name in shared if is_baseline(name) and (mean := means[name]) is not None}
    best = min(baselines, key=lambda name: baselines[name], default=None)
    found = []
    for name in shared:
        inside = [(one.windows, _inside(one, name)) for one in records.values()]
        held = [(count, share) for count, share in inside if share is not None]
        mean = means[name]
        found.append(
            Relative(
                name,
                None if mean is None or best is None else mean / baselines[best],
                sum(c * s for c, s in held) / sum(c for c, _ in held) if held else None,
                min((s for _, s in held), default=None),
            )
        )
    return best, tuple(found)


def _scaled(record: FieldRecord, name: str) -> float | None:
    row = record.row(name)
    return row.crps_scaled if row else None


def _inside(record: FieldRecord, name: str) -> float | None:
    row = record.row(name)
    return (row.coverage or {}).get("80") if row else None


def _geometric(values: Iterable[float | None]) -> float | None:
    held = list(values)
    if any(value is None or value <= 0 for value in held):
        return None
    return math.exp(sum(math.log(value or 1) for value in held) / len(held))
