"""Forecasts measured against the truth: the scores of each method, and the protocol that they were measured under.

The JSON of an `Evaluation` is metrics.json. A new measure is a field of `Score`, and its key in the columns that show it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from jaxlv.results.quantities import RAW, Quantity, interval, quantity
from jaxlv.results.record import Id, Interval, Number, Record, id_of, rare

MODELS = ("tuned", "untuned")
"""The names of rows that are the model's; the others are baselines, except the pool."""
POOL = "pool"
"""The name of the row that is the weighted pool of the first model and some baselines."""
LEVELS = ("50", "80", "95")
"""Central bands, in percent."""
Levels = Mapping[str, float | None]
"""A number for each level, which is in percent."""
SQUARED = f"{RAW}²"
BANDS = "share of steps"


@dataclass(frozen=True, kw_only=True)
class Errors(Record):
    """Errors of a point forecast, over all variables or of one."""

    mae: float | None = quantity(
        "MAE", RAW, "mean absolute error over steps and variables of a series, then mean (or median) over series",
        better="less", head="mean", group="Absolute error",
    )  # fmt: skip
    mae_median: float | None = quantity("median", of="mae")
    mae_ci95: Interval | None = interval("mae")
    mse: float | None = quantity(
        "MSE", SQUARED, "mean squared error over steps and variables of a series, then mean over series",
        better="less", head="mean", group="Squared error",
    )  # fmt: skip
    r2: float | None = quantity(
        "R²", "1", "1 - sum of squared errors / sum of squared deviations from each series' own mean, over all series; "
        "mean over variables", better="more", form="of one", group="Relative",
    )  # fmt: skip
    mase: float | None = quantity(
        "MASE", "1", "MAE / mean |first difference| of the context, per series and variable; mean over both",
        better="less", group="Relative",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Score(Errors):
    """How one method's forecasts compare with the truth; what needs samples is None without them."""

    name: str
    rmse: float | None = quantity("RMSE", RAW, "root of the mean squared error", better="less")
    mae_first_5: float | None = quantity("first 5", meaning="mean over the first five steps", of="mae")
    crps: float | None = quantity(
        "CRPS", RAW, "fair continuous ranked probability score of each variable alone, mean as of the MAE",
        better="less", group="Scores",
    )  # fmt: skip
    crps_ci95: Interval | None = interval("crps")
    coverage: Levels | None = quantity(
        "coverage", BANDS, "share of steps inside the central interval of the samples; S samples can cover at most"
        " (S - 1) / (S + 1)", better="level", form="share", group="Coverage of bands",
    )  # fmt: skip
    energy_score: float | None = quantity(
        "energy", RAW, "of the variables together at each step, in raw units, fair; mean over steps, then over series",
        better="less", group="Scores",
    )  # fmt: skip
    energy_score_ci95: Interval | None = interval("energy_score")
    interval_width: Levels | None = quantity(
        "width", RAW, "mean width of the central interval of each level, over steps, variables and series",
        group="Width of bands",
    )  # fmt: skip
    calibration: Levels | None = quantity(
        "calibration", BANDS, "coverage at the levels within calibration_ceiling, (S - 1) / (S + 1)", form="share"
    )
    calibration_ci95: Mapping[str, Interval | None] | None = quantity(
        "95 % interval", meaning="percentile bootstrap over series", of="calibration"
    )
    calibration_ceiling: float | None = quantity("ceiling", meaning="the most that S samples can cover", of="calibration")
    calibration_as_intervals: Levels | None = quantity(
        "as intervals", meaning="calibration of samples read as what their text stands for, an interval of one unit of the "
        "last decimal: a number drawn from it uniformly in the place of its middle", of="calibration",
    )  # fmt: skip
    nats_per_value: float | None = quantity(
        "likelihood", "nats, of a density per raw unit", "-log of the density of each true value given all before it, at"
        " temperature 1, over the 13 symbols: -log p(its text) + log(scale * 10^-decimals); mean over steps and variables,"
        " then over series; may be negative", better="less", head="mean", group="Likelihood",
    )  # fmt: skip
    nats_per_value_ci95: Interval | None = interval("nats_per_value")
    nats_per_value_per_variable: Levels | None = quantity("by variable", of="nats_per_value")
    temperature: float | None = quantity("temperature", "1", "that the samples were drawn at")
    valid_share: float | None = quantity(
        "valid", "share of samples", "samples that parse, drawn with the number grammar", better="more", form="share",
        group="Valid samples", head="masked",
    )  # fmt: skip
    valid_share_unmasked: float | None = quantity("free", meaning="the same, drawn without it", of="valid_share")
    stops_unmasked: Mapping[str, int] | None = None  # why samples ended that were drawn without the grammar
    coverage_conformal: Levels | None = quantity(
        meaning="of the intervals stretched about the median by split-conformal factors, found on validation series per"
        " step and variable", of="coverage", group="Coverage, adjusted",
    )  # fmt: skip
    interval_width_conformal: Levels | None = quantity(
        meaning="of the same intervals", of="interval_width", group="Width, adjusted"
    )
    per_variable: Mapping[str, Errors] | None = None
    mae_by_step: tuple[float | None, ...] = ()
    mae_by_step_per_variable: Mapping[str, tuple[float | None, ...]] | None = None
    mae_by_series: Levels | None = None  # by id

    @property
    def is_model(self) -> bool:
        """Whether the method is the model, tuned or not."""
        return self.name in MODELS

    @property
    def knows_the_equations(self) -> bool:
        """Whether the method is fitted with the equations that made the data: a bound, not a rival."""
        return "oracle" in self.name

    @property
    def is_rival(self) -> bool:
        """Whether the method is a baseline that the model should beat."""
        return not self.is_model and not self.knows_the_equations and self.name != POOL

    def without_intervals(self) -> Score:
        """Returns the score without what one series alone cannot tell."""
        of_variables = {v: replace(one, mae_ci95=None) for v, one in (self.per_variable or {}).items()}
        ends: Any = {key: None for key in Score.quantities() if key.endswith("_ci95")}
        return replace(self, per_variable=of_variables or None, **ends)


UNITS = {key: found.unit for key, found in Score.quantities().items()}
"""Units of the measures by key."""
DEFINITIONS = {
    "point forecast": "median of the samples at each step",
    "ci95": "percentile bootstrap of the mean over series; none over a single one",
    "fitted": "equations fitted to each context and solved beyond it: Lotka-Volterra (LV), the same with logistic prey, "
    "Rosenzweig-MacArthur (RM); an oracle if the source of the data says that these made them",
    "invalid samples": "stay at their last complete step",
    **{key: found.meaning for key, found in Score.quantities().items() if found.meaning},
}


@dataclass(frozen=True)
class ChosenTemperature(Record):
    """What each model's temperature was chosen on: validation series, the CRPS of every candidate, the choice."""

    validation: tuple[Id, ...]
    crps: Mapping[str, Levels]
    chosen: Mapping[str, float]


@dataclass(frozen=True)
class Adjusted(Record):
    """What bands were adjusted on: validation series, the mean factor of each level by model, levels without one."""

    validation: tuple[Id, ...]
    mean_factor: Mapping[str, Levels]
    levels_with_too_few_series: tuple[int, ...]


@dataclass(frozen=True)
class Protocol(Record):
    """Every setting that an evaluation's figures depend on, with units and definitions; what does not apply is None."""

    data: str | None = None
    data_sha256: str | None = None
    series: tuple[Id, ...] | int | None = None  # ids, or how many
    variables: tuple[str, ...] | None = None
    context: int | None = None
    horizon: int | None = None
    samples: int | None = None
    unmasked_samples: int | None = None
    seed: int | None = None
    scale: str | None = None
    scale_peeks_at_future: bool | None = None
    scale_peeks_at: str | None = None
    headroom: float | None = None
    headrooms: tuple[float, ...] | None = None
    decimals: int | None = None
    sampling: Mapping[str, Number | bool] | None = None
    units: Mapping[str, str] | None = None
    definitions: Mapping[str, str] | None = None
    temperature_chosen_on: ChosenTemperature | None = None
    conformal: Adjusted | None = None
    seen_in_training: tuple[Id, ...] | None = None
    origins: int | None = rare()  # how many forecasts of each series, of which `series` then names every one
    every: int | None = rare()  # steps between them
    base: str | None = rare()  # which of jaxlv's bases was measured, if the model was "embedded"

    @property
    def count(self) -> int | None:
        """How many series were measured, None if unknown."""
        return len(self.series) if isinstance(self.series, tuple) else self.series

    @property
    def equal_levels(self) -> list[str]:
        """The bands that are the same, as so few samples are all in them; empty if there are not two."""
        S = self.samples
        same = [level for level in LEVELS if S and int(level) * (S + 1) >= 100 * (S - 1)]
        return same if len(same) > 1 else []

    def unit(self, of: Quantity) -> str:
        """Returns a quantity's unit; what is in raw units is in that of the MAE, if the protocol names no other."""
        units = self.units or {}
        told = units.get(of.base) or (units.get("mae") if of.unit == RAW else None) or of.unit
        return told.partition(",")[0]


class Picked(NamedTuple):
    """A series that stands for others: its error, and at which percentile of how many series that lies."""

    series: Id
    mae: float | None = None
    percentile: int = 0
    of: int = 0


@dataclass(frozen=True)
class Evaluation(Record):
    """What metrics.json holds: the scores of each method on the same series, in the same units."""

    protocol: Protocol
    rows: tuple[Score, ...]

    def __post_init__(self) -> None:
        """Makes every value plain; of a single series there are no intervals, whatever an older file says."""
        super().__post_init__()
        if self.protocol.count == 1:
            object.__setattr__(self, "rows", tuple(row.without_intervals() for row in self.rows))

    def row(self, name: str) -> Score | None:
        """Returns the scores of a method, None if it was not measured."""
        return next((row for row in self.rows if row.name == name), None)

    @property
    def subject(self) -> Score | None:
        """The row that a page is about: the tuned model, else the untuned one, else the first."""
        return self.row("tuned") or self.row("untuned") or next(iter(self.rows), None)

    @property
    def rivals(self) -> Sequence[Score]:
        """The baselines with an error that do not know the equations, except the subject."""
        return [row for row in self.rows if row.is_rival and row is not self.subject and row.mae is not None]

    def picked(self, ids: Iterable[Id] | None = None, quantiles: Sequence[float] = (0.1, 0.5, 0.9)) -> list[Picked]:
        """Returns the series at `quantiles` of the subject's MAE among all, or those of `ids`; the first ids if unknown."""
        by_series = (self.subject.mae_by_series if self.subject else None) or {}
        errors = {id_of(key): mae for key, mae in by_series.items()}
        kept = sorted(errors if ids is None else set(ids), key=lambda one: (isinstance(one, str), one))
        ranked = sorted(((mae, i) for i in kept if (mae := errors.get(i)) is not None), key=lambda pair: pair[0])
        if not ranked:
            return [Picked(i) for i in kept[: len(quantiles)]]
        places = {round(q * (len(ranked) - 1)): round(100 * q) for q in reversed(quantiles)}
        return [Picked(ranked[at][1], ranked[at][0], places[at], len(ranked)) for at in sorted(places)]

    def measures(self, *paths: str) -> list[Quantity]:
        """Returns `Score.columns` in the protocol's units."""
        return [replace(one, unit=self.protocol.unit(one)) for one in Score.columns(*paths)]
