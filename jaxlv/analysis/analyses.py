"""What one set of forecasts tells about a run: how errors grow and spread, series by series, and at the top of the scale.

Errors are in raw units. All analyses read the same `Drawn`, so that forecasts are made once; only
`round_trip`, which checks the text format, needs none.

Axes: N series, S samples, C context steps, H steps ahead, T time steps, V variables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from jaxlv.config import EvaluateConfig
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.forecasting import metrics
from jaxlv.forecasting.baselines import baselines_for, in_turn
from jaxlv.forecasting.evaluate import truth_of
from jaxlv.forecasting.forecast import Forecast
from jaxlv.forecasting.panels import panel_of
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.sampler import Sampler
from jaxlv.results.analyses import (
    Analyses,
    Ceiling,
    Errors,
    Extremes,
    Growth,
    MethodErrors,
    MethodGrowth,
    MethodSeries,
    Peak,
    Picked,
    ReadBack,
    RoundTrip,
    SampleBand,
    SeriesErrors,
    SignedErrors,
)
from jaxlv.results.anatomy import Curve, Spread
from jaxlv.results.record import Id
from jaxlv.text.codec import TOP, Codec
from jaxlv.text.tokens import Alphabet

EDGE = 5  # first and last steps whose errors are compared; of fewer than ten, half of them
NEAR_TOP = 0.02  # share of the scale's top within which a peak counts as at the top


@dataclass(frozen=True)
class Drawn:
    """Forecasts of the same series by models (with samples) and baselines (points), and the truth behind the context."""

    series: SeriesSet
    context: int
    truth_NHV: np.ndarray
    forecasts: dict[str, Forecast]
    points: dict[str, np.ndarray]  # (N, H, V): the models' medians first, then the baselines

    @property
    def subject(self) -> str:
        """The model that single series are picked by: the first."""
        return next(iter(self.forecasts))


def draw(
    forecasters: Mapping[str, Sampler],
    series: SeriesSet,
    config: EvaluateConfig,
    on_batch: Callable[[str, int], None] = lambda name, done: None,
) -> Drawn:
    """Returns the forecasts of each forecaster and baseline under a protocol.

    Calls `on_batch(name, done)` with the number of series that a forecaster has finished. Raises JaxlvError if the series
    are too short for context and horizon.
    """
    context_NCV, truth_NHV = truth_of(series, config.context, config.horizon)
    forecasts = {}
    for name, forecaster in forecasters.items():

        def report(done: int, name: str = name) -> None:
            on_batch(name, done)

        forecasts[name] = forecaster(series, Request.of(config), on_batch=report)
    points = {name: forecast.median() for name, forecast in forecasts.items()}
    for name, baseline in in_turn(baselines_for(series)):
        points[name] = baseline(context_NCV, config.horizon)
    return Drawn(series, config.context, truth_NHV, forecasts, points)


# --------------------------------------------------------------------------------------------- the text format


def round_trip(series: SeriesSet, codec: Codec, alphabet: Alphabet, context: int, shown: Id) -> RoundTrip:
    """Writes series as text and token ids under each head-room, reads them back, and returns the absolute differences beside
    half a unit of the text: every step of the series `shown`, and the largest of all series. The scale is fitted on the
    first `context` steps. Raises JaxlvError if `shown` is not among the series or a text does not come back.
    """
    if shown not in series.ids_N.tolist():
        raise JaxlvError("unknown series", where="round trip", expected="one of the series given", found=shown)
    row = series.ids_N.tolist().index(shown)
    variants = tuple(_read_back(series, one, alphabet, context, row) for one in codec.variants)
    return RoundTrip(
        series=shown,
        all_series=len(series),
        variables=series.variables,
        decimals=codec.decimals,
        scale=codec.scale,
        context=context,
        within=all((one.greatest_ratio_of_all or 0) <= 1 + 1e-6 for one in variants),
        variants=variants,
    )


def _read_back(series: SeriesSet, codec: Codec, alphabet: Alphabet, context: int, row: int) -> ReadBack:
    """Returns the differences under one scale; steps, text and ids are those of the series in that row."""
    texts, differences, halves = [], [], []
    for i, values_TV in zip(series.ids_N, series.values_NTV, strict=True):
        alpha_V = codec.fit(values_TV[:context], values_TV, f"series {i}")
        texts.append(codec.encode(values_TV, alpha_V, where=f"series {i}"))
        again = alphabet.decode(alphabet.encode(texts[-1]))
        again_TV = codec.decode(again, alpha_V).values_TV
        if again != texts[-1] or again_TV.shape != values_TV.shape:
            raise JaxlvError("the text does not come back", where=f"series {i}", found=again[:40])
        differences.append(np.abs(again_TV - values_TV))
        halves.append(0.5 * alpha_V * 10.0**-codec.decimals)
    difference_NTV, half_NV = np.array(differences), np.array(halves)
    ratio_NTV = difference_NTV / half_NV[:, None]
    return ReadBack(
        headroom=codec.headroom if codec.scale == "context" else None,
        text=texts[row][:40],
        ids=alphabet.encode(texts[row][:40]).tolist(),
        tokens=len(texts[row]),
        half_unit=half_NV[row].tolist(),
        difference=difference_NTV[row].tolist(),
        greatest=difference_NTV[row].max(axis=0).tolist(),
        mean=difference_NTV[row].mean(axis=0).tolist(),
        greatest_ratio=ratio_NTV[row].max(axis=0).tolist(),
        greatest_ratio_of_all=ratio_NTV.max(),
        mean_ratio_of_all=ratio_NTV.mean(),
    )


# ------------------------------------------------------------------------------------------- errors by step


def error_growth(drawn: Drawn) -> Growth:
    """Returns absolute errors by step ahead: mean, median and 10-90 % over series, each the mean over variables."""
    edge = max(1, min(EDGE, drawn.truth_NHV.shape[1] // 2))
    methods = {}
    for name, point_NHV in drawn.points.items():
        by_variable_NHV = np.abs(point_NHV - drawn.truth_NHV)
        error_NH = by_variable_NHV.mean(axis=2)
        low_H, middle_H, high_H = np.quantile(error_NH, [0.1, 0.5, 0.9], axis=0).tolist()
        first, last = error_NH[:, :edge].mean(), error_NH[:, -edge:].mean()
        methods[name] = MethodGrowth(
            mean=error_NH.mean(axis=0).tolist(),
            median=middle_H,
            p10=low_H,
            p90=high_H,
            mean_by_variable=_by_variable(drawn, by_variable_NHV.mean(axis=0)),
            first=first,
            last=last,
            growth=last / first if first else None,
        )
    definitions = {
        "error": "|median of the samples - truth| (|forecast - truth| of a baseline), mean over variables",
        "first, last": f"mean over series and the first, the last {edge} steps",
        "growth": "last / first",
    }
    steps = tuple(range(1, drawn.truth_NHV.shape[1] + 1))
    return Growth(step=steps, edge=edge, series=len(drawn.series), methods=methods, definitions=definitions)


def _by_variable(drawn: Drawn, values_XV: np.ndarray) -> dict[str, Curve]:
    """Returns columns by the names of their variables."""
    return dict(zip(drawn.series.variables, values_XV.T.tolist(), strict=True))


# -------------------------------------------------------------------------------------- distribution of errors

PROBABILITIES = np.linspace(0, 1, 101)


def error_distribution(drawn: Drawn, bins: int = 41) -> Errors:
    """Returns signed and absolute errors over all series and steps: quantiles of every method, histograms of the models."""
    signed = {name: point_NHV - drawn.truth_NHV for name, point_NHV in drawn.points.items()}
    reach = max(np.quantile(np.abs(signed[name]), 0.98) for name in drawn.forecasts) or 1.0
    edges, variables = np.linspace(-reach, reach, bins + 1), drawn.series.variables
    methods = {
        name: MethodErrors(
            np.quantile(np.abs(error_NHV), PROBABILITIES).tolist(),
            {variable: _signed(error_NHV[..., v]) for v, variable in enumerate(variables)},
        )
        for name, error_NHV in signed.items()
    }
    histograms = {
        name: {
            variable: (np.histogram(signed[name][..., v], edges)[0] / signed[name][..., v].size).tolist()
            for v, variable in enumerate(variables)
        }
        for name in drawn.forecasts
    }
    return Errors(probabilities=PROBABILITIES.tolist(), edges=edges.tolist(), methods=methods, histograms=histograms)


def _signed(error_NH: np.ndarray) -> SignedErrors:
    """Returns mean, deviation, share above zero and quantiles of one variable's errors."""
    points = {f"p{p:02d}": np.quantile(error_NH, p / 100) for p in (5, 25, 50, 75, 95)}
    return SignedErrors(mean=error_NH.mean(), sd=error_NH.std(), share_above=(error_NH > 0).mean(), **points)


# ------------------------------------------------------------------------------------------ series by series


def series_errors(drawn: Drawn) -> SeriesErrors:
    """Returns the mean squared error of each series and variable and its log10, series in order of the larger of their
    variables' errors, as in xu's figures 17 to 19; and the rank correlation of the first two variables' errors over series.
    """
    methods = {}
    for name, point_NHV in drawn.points.items():
        mse_NV = metrics.mse(point_NHV, drawn.truth_NHV)
        order_N = np.argsort(mse_NV.max(axis=1), kind="stable")
        with np.errstate(divide="ignore"):
            log_NV = np.log10(mse_NV)
        methods[name] = MethodSeries(
            series=drawn.series.ids_N[order_N].tolist(),
            mse=_by_variable(drawn, mse_NV[order_N]),
            log10_mse=_by_variable(drawn, log_NV[order_N]),
            median_log10_mse=dict(zip(drawn.series.variables, np.median(log_NV, axis=0).tolist(), strict=True)),
            rank_correlation=_rank_correlation(mse_NV),
            share_first_larger=(mse_NV[:, 0] > mse_NV[:, 1]).mean() if mse_NV.shape[1] > 1 else None,
        )
    return SeriesErrors(variables=drawn.series.variables, methods=methods)


def _rank_correlation(mse_NV: np.ndarray) -> float | None:
    if mse_NV.shape[1] < 2 or len(mse_NV) < 3:
        return None
    return float(pd.DataFrame(mse_NV[:, :2]).rank().corr().iloc[0, 1])


def extremes(drawn: Drawn) -> Extremes:
    """Returns context, truth and samples of the best, the median and the worst series of the first model, by the larger of
    their variables' squared errors.
    """
    forecast = drawn.forecasts[drawn.subject]
    worst_N = metrics.mse(drawn.points[drawn.subject], drawn.truth_NHV).max(axis=1)
    order_N = np.argsort(worst_N, kind="stable")
    picks = {"best": order_N[0], "median": order_N[(len(order_N) - 1) // 2], "worst": order_N[-1]}
    ids, picked = drawn.series.ids_N.tolist(), dict[int, str]()
    for word, row in picks.items():
        picked.setdefault(int(row), word)
    time = np.concatenate([drawn.series.time_T[: drawn.context], forecast.time_H]).tolist()
    return Extremes(
        model=drawn.subject,
        variables=drawn.series.variables,
        of=len(drawn.series),
        picked=tuple(
            _with_bands(
                Picked(
                    which=word,
                    series=ids[row],
                    mse=worst_N[row],
                    time=time,
                    context=drawn.series.values_NTV[row, : drawn.context].tolist(),
                    truth=drawn.truth_NHV[row].tolist(),
                    samples=forecast.samples_NSHV[row].tolist(),
                ),
                drawn.series.variables,
            )
            for row, word in picked.items()
        ),
    )


def _with_bands(one: Picked, variables: Sequence[str]) -> Picked:
    """Returns a series with the median and the bands of its samples."""
    time, context, truth, samples = (np.array(part, float) for part in (one.time, one.context, one.truth, one.samples))
    panel = panel_of(one.series, tuple(variables), time, context, truth, samples)
    bands = (SampleBand(shares, *(end_HV.tolist() for end_HV in ends)) for shares, ends in panel.bands.items())
    return replace(one, median=panel.median_HV.tolist(), bands=tuple(bands))


def with_bands(found: Analyses) -> Analyses:
    """Returns analyses that were read from a file, with the bands of the series that are picked; older files lack them."""
    part = found.extremes
    if part is None or all(one.bands for one in part.picked):
        return found
    return replace(found, extremes=replace(part, picked=tuple(_with_bands(one, part.variables) for one in part.picked)))


# ----------------------------------------------------------------------------------------------- the ceiling


def ceiling(drawn: Drawn, forecaster: Sampler, name: str) -> Ceiling:
    """Answers whether forecasts are held below the top of the written scale. For every future that exceeds its context's
    maximum: the peak of each sample beside the true peak and beside the top of the scale that this sample was written in.

    The top is TOP written units: by the rule `context` that is context maximum / (1 - head-room), and each head-room has its
    own. The format itself goes on above it, with two digits before the point.
    """
    samples_NSHV = drawn.forecasts[name].filled()
    variants = forecaster.codec.variants[: samples_NSHV.shape[1]]
    tops_RNV = np.array([TOP * replace(forecaster, codec=one).scales(drawn.series, drawn.context) for one in variants])
    variant_S = np.arange(samples_NSHV.shape[1]) % len(variants)
    top_NSV = tops_RNV[variant_S].swapaxes(0, 1)
    peak_NSV, true_NV = samples_NSHV.max(axis=2), drawn.truth_NHV.max(axis=1)
    context_NV = drawn.series.values_NTV[:, : drawn.context].max(axis=1)
    ids, rises_NV = drawn.series.ids_N.tolist(), true_NV > context_NV
    points = tuple(
        Peak(
            series=ids[n],
            variable=drawn.series.variables[v],
            headroom=variants[r].headroom if forecaster.codec.scale == "context" else None,
            true_over_context=true_NV[n, v] / context_NV[n, v],
            true_over_top=true_NV[n, v] / tops_RNV[r, n, v],
            forecast_over_true=np.median(peak_NSV[n, variant_S == r, v]) / true_NV[n, v],
        )
        for n, v in np.argwhere(rises_NV)
        for r in range(len(variants))
    )
    ratio_NSV = peak_NSV / top_NSV
    beyond_NSV = true_NV[:, None] > top_NSV
    middle = Spread.of([one.forecast_over_true for one in points])
    return Ceiling(
        model=name,
        scale=forecaster.codec.scale,
        headrooms=tuple(one.headroom for one in variants) if forecaster.codec.scale == "context" else None,
        futures=rises_NV.size,
        futures_above_context=int(rises_NV.sum()),
        samples=ratio_NSV.size,
        near_top=int((np.abs(ratio_NSV - 1) <= NEAR_TOP).sum()),
        above_top=int((ratio_NSV > 1).sum()),
        truth_above_top=int(beyond_NSV.sum()),
        followed=int((beyond_NSV & (ratio_NSV > 1)).sum()),
        median_forecast_over_true=middle.median if middle else None,
        points=points,
        definitions={
            "top": f"{TOP:g} written units, in raw units; of the rule context: context maximum / (1 - head-room)",
            "points": "one for each future that exceeds its context's maximum and each scale: its true peak, and the "
            "median over samples of the forecast peak",
            "near_top": f"samples whose peak is within {100 * NEAR_TOP:g} % of the top of their scale",
        },
    )
