"""A look into a tuned run: training, tokens, text and back, errors of forecasts, LM head, adapters, padding.

The JSON of an `Analyses` is analyses.json. Errors are in raw units; a value is None if it is not finite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from jaxlv.results.anatomy import Analysis, Curve, Head, Padding, Spectra, TokenCosts, Training, told
from jaxlv.results.panels import Band, ForecastPanel
from jaxlv.results.quantities import RAW, quantity
from jaxlv.results.record import Id, Record, rare
from jaxlv.results.runs import RunCost
from jaxlv.results.scores import Protocol
from jaxlv.results.sheets import Line, Sheet, columns, records

Curves = Mapping[str, Curve]
"""Values by variable."""

# ----------------------------------------------------------------------------------------------------- the text format


@dataclass(frozen=True)
class ReadBack(Record):
    """A series after text and back under one scale; values by variable, of `difference` by step first."""

    text: str
    ids: tuple[int, ...]
    half_unit: tuple[float, ...]
    difference: tuple[Curve, ...]
    greatest: Curve
    mean: Curve
    greatest_ratio: Curve
    tokens: int = quantity("tokens", form="count")
    headroom: float | None = None
    mean_ratio_of_all: float | None = quantity("mean", "half units", group="all series")
    greatest_ratio_of_all: float | None = quantity("greatest", "half units", group="all series")


@dataclass(frozen=True, kw_only=True)
class RoundTrip(Analysis):
    """Series as text and back under each head-room."""

    series: Id  # the one that is shown
    all_series: int
    variables: tuple[str, ...]
    decimals: int
    within: bool  # no difference exceeds half a unit
    variants: tuple[ReadBack, ...]
    scale: str = "context"
    context: int | None = None
    units: Mapping[str, str] = told(
        {"difference, half_unit, greatest, mean": RAW, "ratio": "halves of a unit of the last decimal"}
    )
    definitions: Mapping[str, str] = told(
        {
            "difference": "|value read back - value| of each step and variable",
            "half_unit": "half of the last decimal in raw units: scale * 10^-decimals / 2, which rounding cannot exceed",
            "ratio": "difference / half_unit, over the series shown or over all",
        }
    )

    @property
    def coarsest(self) -> ReadBack:
        """The variant of the most head-room, whose unit is the largest."""
        return max(self.variants, key=lambda one: one.headroom or 0)

    @property
    def sheets(self) -> dict[str, Sheet]:
        """The differences of the series that is shown, by step and variable."""
        lines = [
            {"series": self.series, "headroom": one.headroom, "step": step, "variable": variable, "difference": row[v],
             "half_unit": one.half_unit[v]}
            for one in self.variants for step, row in enumerate(one.difference) for v, variable in enumerate(self.variables)
        ]  # fmt: skip
        return {"round_trip": Sheet.of(lines)}


# ------------------------------------------------------------------------------------------------- errors of forecasts


@dataclass(frozen=True)
class MethodGrowth(Record):
    """A method's absolute error by step ahead: mean and quantiles over series; `first` and `last` over steps at the ends."""

    mean: Curve
    median: Curve
    p10: Curve
    p90: Curve
    mean_by_variable: Curves
    first: float | None = quantity("first", RAW, group="mean absolute error")
    last: float | None = quantity("last", RAW, group="mean absolute error")
    growth: float | None = quantity("growth")


@dataclass(frozen=True, kw_only=True)
class Growth(Analysis):
    """How errors grow by step ahead."""

    step: tuple[int, ...]
    edge: int  # steps at either end over which `first` and `last` are
    series: int
    methods: Mapping[str, MethodGrowth]
    units: Mapping[str, str] = told({"mean, median, p10, p90, first, last": RAW, "growth": "1"})

    def best_baseline(self, models: Sequence[str]) -> str | None:
        """Returns the baseline with the least mean error; an oracle, which knows the equations, does not count."""
        fair = {name: one for name, one in self.methods.items() if name not in models and "oracle" not in name}
        return min(fair, key=lambda name: np.mean(np.array(fair[name].mean, float)), default=None)

    @property
    def sheets(self) -> dict[str, Sheet]:
        """The errors of each method by step ahead."""

        def of(one: MethodGrowth) -> Sheet:
            means = {f"mean {variable}": values for variable, values in one.mean_by_variable.items()}
            spread = {"mean": one.mean, "median": one.median, "p10": one.p10, "p90": one.p90}
            return columns({"step": self.step, **spread, **means})

        return {"error_growth": Sheet.joined("method", {name: of(one) for name, one in self.methods.items()})}


@dataclass(frozen=True)
class SignedErrors(Record):
    """Forecast - truth of one variable: mean, deviation, share above zero, and quantiles."""

    mean: float | None = quantity("mean", RAW)
    sd: float | None = quantity("deviation", RAW)
    share_above: float | None = quantity("too high", form="share")
    p05: float | None = None
    p25: float | None = None
    p50: float | None = None
    p75: float | None = None
    p95: float | None = None


@dataclass(frozen=True)
class MethodErrors(Record):
    """How a method's errors are distributed."""

    absolute_quantiles: Curve
    by_variable: Mapping[str, SignedErrors]


@dataclass(frozen=True, kw_only=True)
class Errors(Analysis):
    """Signed and absolute errors over all series and steps; of models also as histograms."""

    probabilities: tuple[float, ...]
    edges: tuple[float, ...]
    methods: Mapping[str, MethodErrors]
    histograms: Mapping[str, Curves]
    units: Mapping[str, str] = told({"errors, edges": RAW, "share_above, histograms": "share of all series and steps"})
    definitions: Mapping[str, str] = told(
        {
            "signed": "median of the samples (or a baseline's forecast) - truth: above zero where it is too high",
            "absolute_quantiles": "of |error| over series, steps and variables, at the probabilities given",
            "edges": "of the histograms: they hold 98 % of the worst model's errors, what lies beyond is not shown",
        }
    )

    def absolute(self, name: str, probability: float) -> float | None:
        """Returns the size below which so large a share of a method's errors lies, at the nearest probability there is."""
        nearest = min(range(len(self.probabilities)), key=lambda place: abs(self.probabilities[place] - probability))
        return self.methods[name].absolute_quantiles[nearest]

    @property
    def sheets(self) -> dict[str, Sheet]:
        """The errors of each method: signed by variable, and absolute by probability."""
        signed = [
            {"method": name, "variable": variable, **vars(own)}
            for name, one in self.methods.items()
            for variable, own in one.by_variable.items()
        ]
        absolute = {name: one.absolute_quantiles for name, one in self.methods.items()}
        quantiles = columns({"probability": self.probabilities, **absolute})
        return {"signed_errors": Sheet.of(signed), "absolute_error_quantiles": quantiles}


@dataclass(frozen=True)
class MethodSeries(Record):
    """A method's squared error of each series and variable, in ascending order of the larger of a series' errors."""

    series: tuple[Id, ...]
    mse: Curves
    log10_mse: Curves
    median_log10_mse: Mapping[str, float | None] = quantity("median", "raw units²", group="median log10 MSE")
    rank_correlation: float | None = quantity("rank correlation")
    share_first_larger: float | None = quantity("larger", form="share")


@dataclass(frozen=True, kw_only=True)
class SeriesErrors(Analysis):
    """Errors series by series."""

    variables: tuple[str, ...]
    methods: Mapping[str, MethodSeries]
    units: Mapping[str, str] = told({"mse": "raw units²", "log10_mse": "log10 of raw units²", "rank_correlation": "1"})
    definitions: Mapping[str, str] = told(
        {
            "mse": "mean over steps of the squared error of the median of the samples (or of a baseline)",
            "order": "by the larger of the variables' errors, least first",
            "rank_correlation": "Spearman's, of the first two variables' errors over series",
            "share_first_larger": "share of series whose first variable has the larger error",
        }
    )

    @property
    def sheets(self) -> dict[str, Sheet]:
        """The errors of each series under each method, in ascending order."""

        def of(one: MethodSeries) -> Sheet:
            errors = {
                f"{key} {variable}": values
                for key, own in (("mse", one.mse), ("log10_mse", one.log10_mse))
                for variable, values in own.items()
            }
            return columns({"place": tuple(range(1, len(one.series) + 1)), "series": one.series, **errors})

        return {"series_errors": Sheet.joined("method", {name: of(one) for name, one in self.methods.items()})}


@dataclass(frozen=True)
class SampleBand(Record):
    """The ends of a central band of samples, by step first; one for the shares whose bands are equal."""

    shares: tuple[float, ...]
    low: tuple[Curve, ...]
    high: tuple[Curve, ...]


@dataclass(frozen=True)
class Picked(Record):
    """A series with a model's samples, their median and their bands, by step first, then by variable."""

    which: str  # best, median or worst
    series: Id
    mse: float | None
    time: tuple[float, ...]
    context: tuple[Curve, ...]
    truth: tuple[Curve, ...]
    samples: tuple[tuple[Curve, ...], ...]
    median: tuple[Curve, ...] = rare(default=())  # older files lack this and the bands: `analysis.analyses.with_bands`
    bands: tuple[SampleBand, ...] = rare(default=())

    def panel(self, variables: Sequence[str]) -> ForecastPanel:
        """Returns it as charts draw it."""
        time_T, context_CV, truth_HV = (np.array(part, float) for part in (self.time, self.context, self.truth))
        samples_SHV, median_HV = np.array(self.samples, float), np.array(self.median, float)
        bands = {one.shares: Band(np.array(one.low, float), np.array(one.high, float)) for one in self.bands}
        known = (time_T, context_CV, truth_HV)
        return ForecastPanel(self.series, tuple(variables), *known, samples_SHV, median_HV, bands)


@dataclass(frozen=True, kw_only=True)
class Extremes(Analysis):
    """The best, the median and the worst series of a model."""

    model: str
    variables: tuple[str, ...]
    of: int  # series
    picked: tuple[Picked, ...]
    units: Mapping[str, str] = told(
        {"context, truth, samples": RAW, "time": "units of the data's time", "mse": "raw units²"}
    )
    definitions: Mapping[str, str] = told({"order": "by the larger of the variables' mean squared errors"})

    @property
    def sheets(self) -> dict[str, Sheet]:
        """The picked series by step and variable, with every sample."""
        lines: list[Line] = []
        for one in self.picked:
            values = [*one.context, *one.truth]
            for step, time in enumerate(one.time):
                ahead = step - len(one.context)
                for v, variable in enumerate(self.variables):
                    line: Line = {"series": one.series, "which": one.which, "step": step, "time": time, "variable": variable}
                    drawn = {f"sample_{s}": sample[ahead][v] for s, sample in enumerate(one.samples) if ahead >= 0}
                    lines.append({**line, "truth": values[step][v], **drawn})
        return {"picked_series": Sheet.of(lines)}


@dataclass(frozen=True)
class Peak(Record):
    """A future that exceeds its context's maximum, under one scale: its peak, and the median peak of the forecasts."""

    series: Id
    variable: str
    headroom: float | None
    true_over_context: float | None
    true_over_top: float | None
    forecast_over_true: float | None


@dataclass(frozen=True, kw_only=True)
class Ceiling(Analysis):
    """Whether a model's forecasts are held below the top of the written scale."""

    futures: int
    futures_above_context: int
    points: tuple[Peak, ...]
    samples: int = quantity("samples", form="count")
    near_top: int = quantity("at the top", group="peaks of samples", form="count")
    above_top: int = quantity("above it", of="near_top")
    truth_above_top: int = quantity("truth above", of="near_top")
    followed: int = quantity("both above", of="near_top")
    median_forecast_over_true: float | None = quantity("peak ratio")
    headrooms: tuple[float, ...] | None = None  # None: the scale has one top
    model: str = ""
    scale: str | None = None
    units: Mapping[str, str] = told({"ratios": "1"})

    @property
    def sheets(self) -> dict[str, Sheet]:
        """The futures that exceed their context's maximum."""
        return {"ceiling": records(self.points)}

    @property
    def highest(self) -> float | None:
        """The highest true peak over the top of its scale; None if no future exceeds its context's maximum."""
        return max((one.true_over_top for one in self.points if one.true_over_top is not None), default=None)


# ----------------------------------------------------------------------------------------------------------------- all


@dataclass(frozen=True)
class Analyses(Record):
    """What analyses.json holds: the analyses that were made, and why others were left out."""

    protocol: Protocol | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)  # {name: reason}
    training: Training | None = rare()
    tokens: Mapping[str, TokenCosts] | None = rare()  # by model
    round_trip: RoundTrip | None = rare()
    growth: Growth | None = rare()
    errors: Errors | None = rare()
    series: SeriesErrors | None = rare()
    extremes: Extremes | None = rare()
    ceiling: Mapping[str, Ceiling] | None = rare()  # by model
    head: Head | None = rare()
    spectra: Spectra | None = rare()
    padding: Padding | None = rare()
    bill: RunCost | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """The methods that are models: those whose errors have histograms, else the tuned one."""
        return list(self.errors.histograms if self.errors else ()) or ["tuned"]

    @property
    def sheets(self) -> dict[str, Sheet]:
        """The CSV files of all analyses by name."""
        found: dict[str, Sheet] = {}
        for part in vars(self).values():
            if isinstance(part, Analysis):
                found |= part.sheets
        for by_model in (self.tokens or {}, self.ceiling or {}):
            files = dict.fromkeys(name for one in by_model.values() for name in one.sheets)
            found |= {
                name: Sheet.joined("model", {model: one.sheets[name] for model, one in by_model.items()}) for name in files
            }
        return found
