"""The page of the analyses of a run: sections from their dictionary, for its own page or as a part of a larger one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from jaxlv.forecasting.panels import panel_of
from jaxlv.report import anatomy
from jaxlv.report.evaluation import bill_pairs
from jaxlv.report.figures import analyses as figures
from jaxlv.report.figures.evaluation import forecast_figure, step_error_figure
from jaxlv.report.format import number, percent, plain
from jaxlv.report.page import Page, Pairs, Section
from jaxlv.report.parts import Part, Picture, Tree, pictures
from jaxlv.report.table import Table
from jaxlv.report.tables import analyses as tables
from jaxlv.report.tables.frames import frames
from jaxlv.results.panels import ForecastPanel
from jaxlv.results.runs import RunCost
from jaxlv.results.scores import Score

__all__ = ["blocks", "frames", "page_of", "parts_of", "pictures", "summary"]


def parts_of(analyses: Tree) -> list[Part]:
    """A part for each analysis that is there."""
    return [make(analyses[key], analyses) for key, make in PARTS.items() if key in analyses]


def blocks(analyses: Tree) -> list[Section]:
    """The sections of a page; an analysis that is not there is left out."""
    return [part.section() for part in parts_of(analyses)]


# ------------------------------------------------------------------------------------------------- the parts


def _round_trip(part: Tree) -> Part:
    one = max(part["variants"], key=lambda variant: variant["headroom"] or 0)
    verdict = "never more than half" if part["within"] else "in places more than half"
    text = (
        f"Values written with {part['decimals']} decimals, turned into tokens and read back, differ by {verdict} a unit of"
        f" the last decimal, over {part['all_series']} series and {len(part['variants'])}"
        f" scale{'s' if len(part['variants']) > 1 else ''}. Series {part['series']} begins {one['text'][:20]}…, tokens"
        f" {', '.join(map(str, one['ids'][:10]))}, …"
    )
    scale = "" if one["headroom"] is None else f" under {100 * one['headroom']:g} % head-room, the coarsest of the scales"
    caption = (
        f"Series {part['series']}: absolute difference of each value after text and back, in raw units{scale}; dashed: half"
        " a unit of the last decimal, the most that rounding can change."
    )
    picture = Picture(
        "round_trip", figures.round_trip_figure(part), "Differences after text and back, by step", caption, "side"
    )
    return Part("Text and back", text, [picture, tables.round_trip_table(part)])


def _models(analyses: Tree) -> list[str]:
    """The names of the methods that are models: those whose errors have histograms, else the first."""
    histograms = analyses.get("errors", {}).get("histograms")
    return list(histograms or ["tuned"])


def _growth(part: Tree, analyses: Tree) -> Part:
    models = [name for name in _models(analyses) if name in part["methods"]] or list(part["methods"])[:1]
    first = part["methods"][models[0]]
    words = (
        f"The error of the {models[0]} model is {number(first['first'])} raw units over the first {part['edge']} steps and"
        f" {number(first['last'])} over the last {part['edge']} of {len(part['step'])}: {number(first['growth'])} times as"
        " much."
    )
    caption = (
        "Absolute error by step ahead, mean over variables: median over series, and from 10 to 90 % of them for the"
        f" {models[0]} model and the baseline of least mean error that does not know the equations; logarithmic."
    )
    rows = [Score(name=name, mae_by_step=method["mean"]) for name, method in part["methods"].items()]
    content = [
        Picture("error_growth", figures.growth_figure(part, models), "Median absolute error by step ahead", caption),
        Picture(
            "mean_errors", step_error_figure(rows), "Mean absolute error of each method by step ahead",
            "Mean absolute error by step ahead of every method, over series and variables; logarithmic.",
        ),
    ]  # fmt: skip
    return Part("Errors by step ahead", words, [*content, tables.growth_table(part)])


def _errors(part: Tree) -> Part:
    variables = list(next(iter(part["histograms"].values())))
    name = next(iter(part["histograms"]))
    sizes, of = part["methods"][name]["absolute_quantiles"], part["probabilities"]
    middle, high = (sizes[int(np.argmin(np.abs(np.array(of) - q)))] for q in (0.5, 0.9))
    words = (
        f"Half of the {name} model’s errors are below {number(middle)} raw units, nine tenths below {number(high)}; the"
        f" largest is {number(sizes[-1])}."
    )
    return Part(
        "Distribution of errors",
        words,
        [
            Picture(
                "absolute_errors", figures.cumulative_figure(part), "Share of absolute errors below each size",
                "Share of absolute errors below each size, over all series, steps and variables.",
            ),
            Picture(
                "signed_errors", figures.histogram_figure(part, variables), "Histograms of signed errors",
                "Signed errors of the models, in % of all series and steps; below zero the forecast is too low. The axis"
                " holds 98 % of the larger errors.",
            ),
            tables.signed_table(part),
        ],
    )  # fmt: skip


def _series(part: Tree, analyses: Tree) -> Part:
    models = [name for name in _models(analyses) if name in part["methods"]] or list(part["methods"])[:1]
    content: list[Picture | Table] = [
        Picture(
            "series_errors", figures.sorted_figure(part, models), "log10 MSE of every series in ascending order",
            "log10 of the mean squared error (raw units²) of every series, in ascending order of the larger of its errors."
            " Each panel has its own order; bars begin at the axis.",
        )
    ]  # fmt: skip
    first = part["methods"][models[0]]
    words = f"{len(first['series'])} series."
    if len(part["variables"]) > 1:
        prey, predator = part["variables"][:2]
        content.append(
            Picture(
                "error_pairs", figures.pair_figure(part, models), f"Errors of {predator} against those of {prey}",
                f"Mean squared error of {predator} against that of {prey}, a dot for each series, both axes logarithmic;"
                f" below the dashed line {prey} has the larger error.",
            )
        )  # fmt: skip
        if first["rank_correlation"] is not None:
            words += (
                f" The rank correlation of the {models[0]} model’s errors of {prey} and {predator} is"
                f" {number(first['rank_correlation'])}; {percent(first['share_first_larger'])} % of the series have the"
                f" larger error in {prey}."
            )
    content.append(tables.series_table(part))
    return Part("Series by series", words, content)


def _extremes(part: Tree) -> Part:
    content = [
        Picture(
            f"forecast_{one['which']}", forecast_figure(_panel(one, part["variables"])),
            f"Series {one['series']}: forecast with bands, the {one['which']} of {part['of']}",
            f"Series {one['series']}, the {one['which']} of {part['of']} (larger mean squared error of its variables"
            f" {number(one['mse'])} raw units²): context and truth in ink, the {part['model']} model’s median in colour with"
            f" its 50, 80 and 95 % bands over {len(one['samples'])} samples.",
        )
        for one in part["picked"]
    ]  # fmt: skip
    return Part("Forecasts against truth", "The best, the median and the worst series by their larger error.", content)


def _panel(one: Tree, variables: Sequence[str]) -> ForecastPanel:
    context, truth, samples = (np.array(one[key], float) for key in ("context", "truth", "samples"))
    return panel_of(one["series"], tuple(variables), np.array(one["time"]), context, truth, samples)


def _ceiling(part: Tree) -> Part:
    name, first = next(iter(part.items()))
    scale = "the top of the scale is 10 written units"
    if first["headrooms"]:
        scale += ", which is the context’s maximum / (1 − head-room): each head-room has a top of its own"
    words = (
        f"{first['futures_above_context']} of {first['futures']} futures (a series and a variable each) exceed their"
        f" context’s maximum; {scale}. {_above(first)}"
    )
    content: list[Picture | Table] = []
    if first["points"]:
        caption = (
            f"Futures that exceed their context’s maximum, by the {name} model: forecast peak over true peak, against the"
            " true peak over the top of the scale. On the dashed curve a forecast ends exactly at the top; left of the"
            " dotted line the scale has room for the truth."
        )
        drawing = figures.ceiling_figure(first)
        content.append(Picture("ceiling", drawing, "Forecast peaks and the top of the scale", caption, "side"))
    return Part("The top of the scale", words, [*content, tables.ceiling_table(part)])


def _above(found: Tree) -> str:
    if not found["truth_above_top"]:
        nearest = max((point["true_over_top"] for point in found["points"]), default=None)
        nearest_words = "" if nearest is None else f" (the highest is at {percent(nearest)} % of it)"
        return (
            f"None of the true peaks lies above the top{nearest_words}, so these series cannot show whether forecasts are"
            " held below it."
        )
    return (
        f"{found['truth_above_top']:,} of {found['samples']:,} samples had to pass the top to follow the truth, and"
        f" {found['followed']:,} did."
    )


PARTS: Mapping[str, Callable[[Tree, Tree], Part]] = MappingProxyType(
    {
        "training": lambda part, _: anatomy.training_part(part),
        "tokens": lambda part, _: anatomy.tokens_part(part),
        "round_trip": lambda part, _: _round_trip(part),
        "growth": _growth,
        "errors": lambda part, _: _errors(part),
        "series": _series,
        "extremes": lambda part, _: _extremes(part),
        "ceiling": lambda part, _: _ceiling(part),
        "head": lambda part, _: anatomy.head_part(part),
        "spectra": lambda part, _: anatomy.spectra_part(part),
        "padding": lambda part, _: anatomy.padding_part(part),
    }
)
"""By the key in analyses.json: (its dictionary, all of them) -> what a page shows of it, in this order."""


# ------------------------------------------------------------------------------------------------- the page


def summary(analyses: Tree) -> str:
    """What the analyses found, in a few sentences: those of the parts that can be told in one."""
    protocol = analyses.get("protocol", {})
    sentences = []
    if protocol.get("series"):
        sentences.append(
            f"{len(protocol['series'])} series of {protocol['data']}, {protocol['context']} steps of context,"
            f" {protocol['horizon']} of forecast, {protocol['samples']} samples."
        )
    told = ("tokens", "growth", "spectra")
    sentences += [PARTS[key](analyses[key], analyses).text for key in told if key in analyses]
    return " ".join(sentences)


def page_of(analyses: Tree, parts: Sequence[Part], title: str) -> Page:
    """The page of an analysis; what was left out stands at its end, with the reason."""
    left_out = [(name.replace("_", " "), str(reason)) for name, reason in analyses.get("left_out", {}).items()]
    settings = {key: value for key, value in analyses.get("protocol", {}).items() if not isinstance(value, Mapping)}
    lists = [
        ("Left out", left_out),
        ("Protocol", [(key.replace("_", " "), plain(value)) for key, value in settings.items()]),
        ("Versions", [(key, plain(value)) for key, value in analyses.get("versions", {}).items()]),
    ]
    closing = Section("Settings and versions", [Pairs(label, pairs) for label, pairs in lists if pairs])
    return Page(
        title, summary(analyses), bill_pairs(RunCost(**analyses.get("bill", {}))), [*(p.section() for p in parts), closing]
    )
