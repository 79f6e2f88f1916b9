"""How the four papers measured: their splits, contexts, horizons and units, and the figures that they printed.

Each protocol is run with a scale fitted on the context alone; if a paper counts errors in its own written units, they
are converted by that report's factor, which may look at the future: it is a unit of measurement here, not a model's input.

Axes: N series, S samples, H steps ahead, V variables (prey, predator).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from jaxlv.data import dynamics
from jaxlv.data.series import SeriesSet, from_arrays
from jaxlv.data.splits import REPORTED_SPLITS, Split
from jaxlv.errors import JaxlvError
from jaxlv.forecasting import metrics
from jaxlv.forecasting.request import Request
from jaxlv.results.papers import Statistic
from jaxlv.results.record import Id
from jaxlv.text.codec import TOP, Codec

MAO_ALPHA = 0.79296956  # mao's factor: the 99.7th percentile of all values goes to 10
SERIES = 1000  # of the course's data set, which the splits are defined on
TOKENS_PER_STEP = 10  # two values of one digit before the point and two behind it, with their delimiters
VARIABLES = ("prey", "predator")


# ------------------------------------------------------------------------------------------------- units


def _raw(values_NTV: np.ndarray) -> np.ndarray:
    return np.ones((len(values_NTV), 1, values_NTV.shape[2]))


def _mao_units(values_NTV: np.ndarray) -> np.ndarray:
    return MAO_ALPHA * _raw(values_NTV)


def _xu_units(values_NTV: np.ndarray) -> np.ndarray:
    codec = Codec(scale="xu")
    return np.stack([codec.fit(v_TV, v_TV) for v_TV in values_NTV])[:, None]


@dataclass(frozen=True)
class Unit:
    """A unit of measurement: how many raw units it has, (N, 1, V), from whole series."""

    words: str
    size: Callable[[np.ndarray], np.ndarray]


RAW = Unit("raw units", _raw)
MAO_UNITS = Unit("mao's units (0.793 raw)", _mao_units)
XU_UNITS = Unit("xu's units (a tenth of the series' 99th percentile)", _xu_units)


# ------------------------------------------------------------------------------------------------- measures


@dataclass(frozen=True)
class Measure:
    """One column of a protocol's table: a number per series, of the variables and steps named, and its unit."""

    key: str
    words: str
    kind: str  # "mae", "mse", "r2", "mse_sum"; of the samples: "above", "peak", "valid"
    unit: Unit = RAW
    variable: str = ""  # "" = the mean over both
    series: tuple[int, ...] = ()  # () = all of the part
    steps: int = 0  # the first so many; 0 = all

    @property
    def unit_words(self) -> str:
        """The unit in words."""
        if self.kind in ("r2", "peak"):
            return "1"
        if self.kind in ("above", "valid"):
            return "share of values" if self.kind == "above" else "share of samples"
        return self.unit.words + (" squared" if self.kind.startswith("mse") else "")

    def of(self, point_NHV: np.ndarray, truth_NHV: np.ndarray, size_N1V: np.ndarray, samples_NSHV: np.ndarray) -> np.ndarray:
        """Returns one number per series, (N,).

        Of the samples: the share of values above the top of the written scale; the highest value over the horizon, divided
        by that of the truth, mean over samples and variables; the share of samples without NaN.
        """
        if self.kind == "valid":
            return np.isfinite(samples_NSHV).all(axis=(2, 3)).mean(axis=1)
        if self.kind == "above":
            return (samples_NSHV > TOP * size_N1V[:, None]).mean(axis=(1, 2, 3))
        if self.kind == "peak":
            peak_NSV = np.fmax.reduce(samples_NSHV, axis=2) / truth_NHV.max(axis=1)[:, None]
            return np.nan_to_num(peak_NSV).mean(axis=(1, 2))
        steps = self.steps or truth_NHV.shape[1]
        point_NHV, truth_NHV = (a_NHV[:, :steps] / size_N1V for a_NHV in (point_NHV, truth_NHV))
        kind = "mse" if self.kind == "mse_sum" else self.kind
        by_variable_NV = {"mae": metrics.mae, "mse": metrics.mse, "r2": metrics.r2}[kind](point_NHV, truth_NHV)
        if self.variable:
            return by_variable_NV[:, VARIABLES.index(self.variable)]
        return by_variable_NV.sum(axis=1) if self.kind == "mse_sum" else by_variable_NV.mean(axis=1)


def figure(values_N: np.ndarray) -> Statistic:
    """Returns the mean over series, its 95 % bootstrap interval if there are two or more, and the median.

    Series without a value are left out and not counted.
    """
    held_N = values_N[np.isfinite(values_N)]
    if not len(held_N):
        return Statistic()
    ends = metrics.bootstrap_interval(held_N) if len(held_N) > 1 else None
    return Statistic(float(held_N.mean()), float(np.median(held_N)), ends, len(held_N))


# ------------------------------------------------------------------------------------------------- protocols


@dataclass(frozen=True)
class Part:
    """One set of forecasts of a protocol: from `context` steps (and `shown` characters of the next) over `horizon` steps."""

    name: str  # of its CSV file too
    words: str
    context: int
    horizon: int
    samples: int
    series: tuple[int, ...]  # () = the protocol's test series
    measures: tuple[Measure, ...]
    reported: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # {model: {measure's key: its figure}}
    shown: int = 0
    reach: int = 0  # steps forecast at a time; 0 = all at once
    scale: str = ""  # the scale rule that the model is tuned and forecasts with; "" = the config's
    drawn: Callable[[], SeriesSet] | None = None  # simulated series in place of the data set's

    def request(self, seed: int = 0, batch: int = 8) -> Request:
        """Returns what it asks of a forecaster."""
        return Request(self.context, self.horizon, self.samples, seed, batch, self.shown)


@dataclass(frozen=True)
class PaperProtocol:
    """A paper's split and parts, and the FLOPs that it says it spent on everything."""

    name: str
    split: Callable[[np.ndarray], Split]
    parts: tuple[Part, ...]
    flops: float
    flops_words: str = "as reported"


def _errors(scaled: Unit, steps: int = 0) -> tuple[Measure, ...]:
    """Returns MAE and MSE in raw units, then in a paper's written ones."""
    units = {"raw": ("", RAW), "scaled": (" as written", scaled)}
    return tuple(
        Measure(f"{kind}_{name}", f"{kind.upper()}{words}", kind, unit, steps=steps)
        for name, (words, unit) in units.items()
        for kind in ("mae", "mse")
    )


def _mao_part(tokens: int, reported: Mapping[str, tuple[float, float]], cut: bool) -> Part:
    steps, shown = divmod(tokens, TOKENS_PER_STEP)
    figures = {
        model: {
            f"{kind}_{unit}": value for kind, value in zip(("mae", "mse"), pair, strict=True) for unit in ("raw", "scaled")
        }
        for model, pair in reported.items()
    }
    where = f"cut after {tokens} tokens, within a step" if cut else f"the {steps} whole steps of {tokens} tokens"
    return Part(
        f"mao-{tokens}{'-cut' if cut else ''}",
        f"{where}; the next 5 steps",
        steps,
        5 if cut else min(20, 100 - steps),
        20,
        (),
        _errors(MAO_UNITS, steps=5),
        figures,
        shown if cut else 0,
    )


EXTRAPOLATED, CONTEXT = 200, 50


def rising(count: int = 16, seed: int = 200, growth: float = 1.25) -> SeriesSet:
    """Simulates series whose populations stay below the top of mao's scale within the context, and exceed it after.

    Rosenzweig-MacArthur series of the course's ranges in which both populations rise by more than the factor `growth`
    above what the context holds, times a factor each: the context's highest value is 9 in mao's written units.
    """
    course, steps = dynamics.PRESETS["course"], CONTEXT + EXTRAPOLATED
    longer = replace(course, stop=course.stop / (course.steps - 1) * (steps - 1), steps=steps)
    drawn = dynamics.draw(longer, 20 * count, seed, attempts=30)
    known_NV, ahead_NV = drawn.values_NTV[:, :CONTEXT].max(axis=1), drawn.values_NTV[:, CONTEXT:].max(axis=1)
    rows = np.flatnonzero((ahead_NV > growth * known_NV).all(axis=1))[:count]
    factor_N11 = 0.9 * TOP * MAO_ALPHA / known_NV[rows].max(axis=1)[:, None, None]
    source = {"simulation": {"system": course.system, "parameters": {}}}  # which holds in any unit of the populations
    return from_arrays(factor_N11 * drawn.values_NTV[rows], drawn.time_T, drawn.variables, source=source)


def _extrapolation(name: str, words: str, scale: str) -> Part:
    above = Measure("above_top", "above the top", "above", MAO_UNITS)
    measures = (Measure("mae_raw", "MAE", "mae"), above, Measure("peak", "highest value by the true one", "peak"))
    words = f"{EXTRAPOLATED} steps from {CONTEXT}, simulated series that rise above the top of mao's scale; {words}"
    return Part(name, words, CONTEXT, EXTRAPOLATED, 8, (), measures, reach=50, scale=scale, drawn=rising)


_MAO = {
    128: {"untuned": (0.3427, 0.5510), "first run": (0.1746, 0.1356), "final": (0.0726, 0.0263)},
    512: {"untuned": (0.1509, 0.1048), "first run": (0.0834, 0.0362), "final": (0.0240, 0.0028)},
    768: {"untuned": (0.1167, 0.0700), "first run": (0.0651, 0.0297), "final": (0.0191, 0.0020)},
}
_LAST_TEN = tuple(range(990, 1000))
_RAI_KINDS = (("mse", "MSE"), ("mae", "MAE"), ("r2", "R²"))


def _rai_part(name: str, words: str, series: tuple[int, ...], reported: Mapping[str, Sequence[float]]) -> Part:
    keys = [f"{kind}_{variable}" for variable in VARIABLES for kind, _ in _RAI_KINDS]
    measures = tuple(
        Measure(f"{kind}_{variable}", f"{head} {variable}", kind, RAW, variable)
        for variable in VARIABLES
        for kind, head in _RAI_KINDS
    )
    figures = {model: dict(zip(keys, values, strict=True)) for model, values in reported.items()}
    return Part(name, words, 50, 50, 20, series, measures, figures)


def _liu_part(name: str, words: str, series: tuple[int, ...]) -> Part:
    summed = Measure("mse_sum_raw", "sum of both species' MSE", "mse_sum")
    reported = {"untuned": {"mse_sum_series_1": 0.3478}, "first run": {"mse_sum_series_1": 0.01599}}
    reported |= {"context 512": {"mse_sum_series_1": 0.0091, "mse_sum_series_2": 0.0317}}
    of_one = tuple(Measure(f"mse_sum_series_{i}", f"sum of MSE, series {i}", "mse_sum", series=(i,)) for i in (1, 2))
    first = Measure("mse_sum_series_0_5", "sum of MSE, series 0-5", "mse_sum", series=tuple(range(6)))
    return Part(name, words, 80, 20, 10, series, (summed, first, *of_one), reported)


PROTOCOLS: Mapping[str, PaperProtocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            PaperProtocol(
                "mao",
                REPORTED_SPLITS["mao"],
                (
                    *(_mao_part(tokens, reported, cut=False) for tokens, reported in _MAO.items()),
                    *(_mao_part(tokens, reported, cut=True) for tokens, reported in _MAO.items()),
                    _extrapolation("mao-200", "scale of the context with head-room", ""),
                    _extrapolation("mao-200-preset", "mao's scale, tuned and forecast", "mao"),
                ),
                9.579e16,
            ),
            PaperProtocol(
                "rai",
                REPORTED_SPLITS["rai"],
                (
                    _rai_part(
                        "rai",
                        "series 990-999, 50 steps from 50",
                        _LAST_TEN,
                        {"final": (0.1178, 0.1483, 0.8155, 0.0250, 0.0687, 0.7004)},
                    ),
                    _rai_part(
                        "rai-972",
                        "series 972, 50 steps from 50",
                        (972,),
                        {
                            "untuned": (0.1770, 0.2485, -0.2812, 0.2337, 0.2793, -1.6260),
                            "final": (0.0170, 0.0671, 0.8772, 0.0125, 0.0608, 0.8600),
                        },
                    ),
                ),
                9.866e16,
            ),
            PaperProtocol(
                "xu",
                REPORTED_SPLITS["xu"],
                (
                    Part(
                        "xu",
                        "50 steps from 50",
                        50,
                        50,
                        20,
                        (),
                        (*_errors(XU_UNITS), Measure("success", "complete samples", "valid")),
                        {
                            "untuned": {"mae_scaled": 357.2, "mse_scaled": 45244228.29, "success": 1.0},
                            "untuned, 3 decimals": {"mae_scaled": 3805.9, "mse_scaled": 25882364336.72, "success": 1.0},
                            "final": {"mae_scaled": 0.9742, "mse_scaled": 2.7430, "success": 1.0},
                        },
                    ),
                ),
                1.0303e17,
                "by its own logs; 1.0e17 as reported",
            ),
            PaperProtocol(
                "liu",
                REPORTED_SPLITS["liu"],
                (_liu_part("liu", "20 steps from 80", ()),),
                4.6e17,
                "by the assignment's rule; the paper adds none up",
            ),
        )
    }
)
"""By name of the paper."""


def test_series(protocol: PaperProtocol, part: Part, data: SeriesSet) -> SeriesSet:
    """Returns the series that a part measures: of the data set, or simulated.

    Raises JaxlvError if the data set is not the one that the splits are defined on.
    """
    ids = np.sort(data.ids_N)
    if not np.array_equal(ids, np.arange(SERIES)):
        raise JaxlvError(
            "the papers' splits are defined on the course's data set",
            where=data.source.get("path"),
            expected=f"series 0 to {SERIES - 1}",
            found=f"{len(ids)} series",
        )
    if part.drawn:
        return part.drawn()
    split = protocol.split(ids)
    chosen = np.array(part.series) if part.series else split.test
    if not np.isin(chosen, split.test).all():
        raise JaxlvError("series outside the protocol's test share", where=part.name, found=chosen.tolist())
    return data.select(chosen)


def score(
    part: Part, point_NHV: np.ndarray, chosen: SeriesSet, samples_NSHV: np.ndarray | None = None
) -> dict[str, Statistic]:
    """Returns {measure's key: figure} of a part's forecast in raw units; measures of series that are not here are None.

    Without `samples_NSHV`, which have NaN for the steps that a sample did not complete, the point forecast is the only
    sample.
    """
    drawn = samples_NSHV is not None
    samples_NSHV = point_NHV[:, None] if samples_NSHV is None else samples_NSHV
    start = part.request().start
    truth_NHV = chosen.values_NTV[:, start : start + point_NHV.shape[1]]
    figures = {}
    for measure in part.measures:
        rows = np.isin(chosen.ids_N, measure.series) if measure.series else np.ones(len(chosen), bool)
        rows &= drawn or measure.kind != "valid"
        size_N1V = measure.unit.size(chosen.values_NTV)
        figures[measure.key] = figure(measure.of(point_NHV, truth_NHV, size_N1V, samples_NSHV)[rows])
    return figures


def matching(
    split: Mapping[str, Collection[Id]], series: Collection[Id], context: int, horizon: int
) -> list[tuple[PaperProtocol, Part]]:
    """Returns the parts that forecasts of `series` measure, by a model of that split (ids by "train", "validation", "test").

    Never a part of simulated series, of a context that ends within a step, or of forecasts that go on from themselves.
    """
    found = []
    for protocol in PROTOCOLS.values():
        shares = protocol.split(np.arange(SERIES)).parts()
        if any(set(split.get(name, ())) != set(ids.tolist()) for name, ids in shares.items()):
            continue
        for part in protocol.parts:
            whole = part.drawn is None and not part.shown and not part.reach
            ids = part.series or shares["test"].tolist()
            if whole and (part.context, part.horizon) == (context, horizon) and set(ids) == set(series):
                found.append((protocol, part))
    return found
