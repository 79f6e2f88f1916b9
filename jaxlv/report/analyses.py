"""The page of a look into a tuned run: forecasts and the text format here, the model itself in jaxlv.report.anatomy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxlv.report import anatomy
from jaxlv.report.evaluation import bill_pairs, settings_section
from jaxlv.report.figures import analyses as figures
from jaxlv.report.figures.evaluation import forecast_figure, step_error_figure
from jaxlv.report.format import count, number, percent
from jaxlv.report.page import Block, Page, Section, figure
from jaxlv.report.table import NAME, Table, column
from jaxlv.results import analyses as results
from jaxlv.results.runs import RunCost
from jaxlv.results.scores import Score

# ------------------------------------------------------------------------------------------ text and back


def _round_trip(part: results.RoundTrip) -> Section:
    one, scales = part.coarsest, len(part.variants)
    text = (
        f"Values written with {part.decimals} decimals, turned into tokens and read back, differ by"
        f" {'never' if part.within else 'in places'} more than half a unit of the last decimal, over {part.all_series}"
        f" series and {scales} scale{'s' if scales > 1 else ''}. Series {part.series} begins {one.text[:20]}…, tokens"
        f" {', '.join(map(str, one.ids[:10]))}, …"
    )
    scale = "" if one.headroom is None else f" under {100 * one.headroom:g} % head-room, the coarsest of the scales"
    caption = (
        f"Series {part.series}: absolute difference of each value after text and back, in raw units{scale}; dashed: half a"
        " unit of the last decimal, the most that rounding can change."
    )
    drawing = figures.round_trip_figure(part)
    picture = figure(drawing, "Differences after text and back, by step", caption, "side", name="round_trip")
    return Section("Text and back", [picture, _round_trip_table(part)], text)


def _round_trip_table(part: results.RoundTrip) -> Table:
    heads = {"mean": "mean", "greatest": "greatest", "half_unit": "half unit"}
    columns, rows = results.ReadBack.columns("tokens"), []
    for variable in part.variables:
        columns += [column(f"{variable} {key}", head, variable, "raw units") for key, head in heads.items()]
    for one in part.variants:
        name = "scale" if one.headroom is None else f"{100 * one.headroom:g} % head-room"
        own = {f"{variable} {key}": getattr(one, key)[v] for v, variable in enumerate(part.variables) for key in heads}
        rows.append({"name": name, **vars(one), **own})
    columns += results.ReadBack.columns("mean_ratio_of_all", "greatest_ratio_of_all")
    caption = (
        f"Series {part.series} as text and back: mean and greatest absolute difference in raw units, beside half a unit of"
        f" the last decimal. Last two columns: over all {part.all_series} series, in halves of a unit; rounding gives 0.5 on"
        " average and at most 1."
    )
    return Table("Text and back", caption, rows, [NAME, *columns])


# ------------------------------------------------------------------------------------------ errors of forecasts


def _growth(part: results.Growth, models: Sequence[str]) -> Section:
    first, edge, steps = part.methods[models[0]], part.edge, len(part.step)
    text = (
        f"The error of the {models[0]} model is {number(first.first)} raw units over the first {edge} steps and"
        f" {number(first.last)} over the last {edge} of {steps}: {number(first.growth)} times as much."
    )
    medians = (
        "Absolute error by step ahead, mean over variables: median over series, and from 10 to 90 % of them for the"
        f" {models[0]} model and the baseline of least mean error that does not know the equations; logarithmic."
    )
    means = "Mean absolute error by step ahead of every method, over series and variables; logarithmic."
    drawing = step_error_figure([Score(name=name, mae_by_step=one.mean) for name, one in part.methods.items()])
    caption = (
        f"Mean absolute error over {part.series} series and the first, the last {edge} of {steps} steps, in raw units, and"
        " last over first."
    )
    *ends, ratio = results.MethodGrowth.columns("first", "last", "growth")
    columns = [NAME, *(one.within(head=f"{one.words} {edge}") for one in ends), ratio]
    content: list[Block] = [
        figure(figures.growth_figure(part, models), "Median absolute error by step ahead", medians, name="error_growth"),
        figure(drawing, "Mean absolute error of each method by step ahead", means, name="mean_errors"),
        Table("Errors of the first and last steps", caption, part.methods, columns),
    ]
    return Section("Errors by step ahead", content, text)


def _errors(part: results.Errors) -> Section:
    name = next(iter(part.histograms))
    half, high, most = (number(part.absolute(name, share)) for share in (0.5, 0.9, 1.0))
    text = f"Half of the {name} model’s errors are below {half} raw units, nine tenths below {high}; the largest is {most}."
    sizes = "Share of absolute errors below each size, over all series, steps and variables."
    signed = (
        "Signed errors of the models, in % of all series and steps; below zero the forecast is too low. The axis holds 98 %"
        " of the larger errors."
    )
    caption = (
        "Forecast − truth in raw units, over all series and steps: mean (below zero: too low), standard deviation, and the"
        " share of forecasts that are too high."
    )
    own = results.SignedErrors.columns("mean", "sd", "share_above")
    variables = next(iter(part.methods.values())).by_variable
    columns = [one.within("by_variable", variable, group=variable) for variable in variables for one in own]
    content: list[Block] = [
        figure(figures.cumulative_figure(part), "Share of absolute errors below each size", sizes, name="absolute_errors"),
        figure(figures.histogram_figure(part), "Histograms of signed errors", signed, name="signed_errors"),
        Table("Signed errors", caption, part.methods, [NAME, *columns]),
    ]
    return Section("Distribution of errors", content, text)


def _series(part: results.SeriesErrors, models: Sequence[str]) -> Section:
    first, pair = part.methods[models[0]], part.variables[:2]
    text, drawing = f"{len(first.series)} series.", figures.sorted_figure(part, models)
    caption = (
        "log10 of the mean squared error (raw units²) of every series, in ascending order of the larger of its errors. Each"
        " panel has its own order; bars begin at the axis."
    )
    content = [figure(drawing, "log10 MSE of every series in ascending order", caption, name="series_errors")]
    median, *of_pair = results.MethodSeries.columns("median_log10_mse", "rank_correlation", "share_first_larger")
    columns = [replace(median, head=variable, path=(*median.path, variable)) for variable in part.variables]
    told = "Median over series of log10 of the mean squared error (raw units²)"
    if len(pair) > 1:
        drawing, label = figures.pair_figure(part, models), f"Errors of {pair[1]} against those of {pair[0]}"
        caption = (
            f"Mean squared error of {pair[1]} against that of {pair[0]}, a dot for each series, both axes logarithmic; below"
            f" the dashed line {pair[0]} has the larger error."
        )
        content.append(figure(drawing, label, caption, name="error_pairs"))
        columns += [of_pair[0], of_pair[1].within(head=f"{pair[0]} larger")]
        told += (
            ", Spearman’s rank correlation of the errors of the first two variables over series, and the share of series"
            f" whose {pair[0]} has the larger error"
        )
    if len(pair) > 1 and first.rank_correlation is not None:
        text += (
            f" The rank correlation of the {models[0]} model’s errors of {pair[0]} and {pair[1]} is"
            f" {number(first.rank_correlation)}; {percent(first.share_first_larger)} % of the series have the larger error"
            f" in {pair[0]}."
        )
    table = Table("Errors of single series", f"{told}.", part.methods, [NAME, *columns])
    return Section("Series by series", [*content, table], text)


def _extremes(part: results.Extremes) -> Section:
    content = []
    for one in part.picked:
        label = f"Series {one.series}: forecast with bands, the {one.which} of {part.of}"
        caption = (
            f"Series {one.series}, the {one.which} of {part.of} (larger mean squared error of its variables"
            f" {number(one.mse)} raw units²): context and truth in ink, the {part.model} model’s median in colour with its"
            f" 50, 80 and 95 % bands over {len(one.samples)} samples."
        )
        content.append(figure(forecast_figure(one.panel(part.variables)), label, caption, name=f"forecast_{one.which}"))
    return Section("Forecasts against truth", content, "The best, the median and the worst series by their larger error.")


# ------------------------------------------------------------------------------------------ the ceiling


def _ceiling(part: Mapping[str, results.Ceiling]) -> Section:
    (name, first), title = next(iter(part.items())), "The top of the scale"
    scale = "the top of the scale is 10 written units"
    if first.headrooms:
        scale += ", which is the context’s maximum / (1 − head-room): each head-room has a top of its own"
    text = (
        f"{first.futures_above_context} of {first.futures} futures (a series and a variable each) exceed their context’s"
        f" maximum; {scale}. {_above(first)}"
    )
    caption = (
        "Peaks of samples, each sample and variable by itself: within 2 % of the top of the scale that it was written in;"
        " above it; with a truth that peaks above it; of these, with a sample that does too. Last: forecast peak over true"
        " peak, the median over futures that exceed their context."
    )
    keys = ("samples", "near_top", "above_top", "truth_above_top", "followed", "median_forecast_over_true")
    table = Table(title, caption, part, [NAME, *results.Ceiling.columns(*keys)])
    if not first.points:
        return Section(title, [table], text)
    caption = (
        f"Futures that exceed their context’s maximum, by the {name} model: forecast peak over true peak, against the true"
        " peak over the top of the scale. On the dashed curve a forecast ends exactly at the top; left of the dotted line"
        " the scale has room for the truth."
    )
    drawing = figures.ceiling_figure(first)
    picture = figure(drawing, "Forecast peaks and the top of the scale", caption, "side", name="ceiling")
    return Section(title, [picture, table], text)


def _above(found: results.Ceiling) -> str:
    if found.truth_above_top:
        return (
            f"{count(found.truth_above_top)} of {count(found.samples)} samples had to pass the top to follow the truth, and"
            f" {count(found.followed)} did."
        )
    told = "" if found.highest is None else f" (the highest is at {percent(found.highest)} % of it)"
    return (
        f"None of the true peaks lies above the top{told}, so these series cannot show whether forecasts are held below it."
    )


# ------------------------------------------------------------------------------------------------- the page


def sections(found: results.Analyses, *keys: str) -> list[Section]:
    """Returns a section for each analysis that was made, or for those of `keys` alone."""

    def models(methods: Mapping[str, object]) -> list[str]:
        return [name for name in found.models if name in methods] or list(methods)[:1]

    makers: Mapping[str, Callable[[Any], Section]] = {
        "training": anatomy.training,
        "tokens": anatomy.tokens,
        "round_trip": _round_trip,
        "growth": lambda part: _growth(part, models(part.methods)),
        "errors": _errors,
        "series": lambda part: _series(part, models(part.methods)),
        "extremes": _extremes,
        "ceiling": _ceiling,
        "head": anatomy.head,
        "spectra": anatomy.spectra,
        "padding": anatomy.padding,
    }
    return [makers[key](part) for key in keys or makers if (part := getattr(found, key)) is not None]


def summary(found: results.Analyses) -> str:
    """Returns what the analyses found, in a few sentences: those of the sections that can be told in one."""
    asked, sentences = found.protocol, [one.text for one in sections(found, "tokens", "growth", "spectra")]
    if asked and asked.count:
        protocol = f"{asked.count} series of {asked.data}, {asked.context} steps of context, {asked.horizon} of forecast,"
        sentences.insert(0, f"{protocol} {asked.samples} samples.")
    return " ".join(sentences)


def page_of(found: results.Analyses, title: str) -> Page:
    """Returns the page of a look into a run; what was left out stands at its end, with the reason."""
    settings = found.protocol.known() if found.protocol else {}
    closing = settings_section(
        ("Left out", {name.replace("_", " "): reason for name, reason in found.left_out.items()}),
        ("Protocol", {key.replace("_", " "): value for key, value in settings.items() if not isinstance(value, Mapping)}),
        ("Versions", found.versions),
    )
    return Page(title, summary(found), bill_pairs(found.bill or RunCost()), [*sections(found), closing])
