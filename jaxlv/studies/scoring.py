"""A part of a paper's protocol: forecasts by models and baselines, their rows, and a figure.

Axes: N series, C context steps, H steps ahead, V variables, S samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlv.config import EvaluateConfig
from jaxlv.data.series import SeriesSet
from jaxlv.forecasting.baselines import baselines_for, in_turn
from jaxlv.forecasting.evaluate import score
from jaxlv.forecasting.forecast import Forecast
from jaxlv.forecasting.panels import panels
from jaxlv.forecasting.pool import pool_of
from jaxlv.forecasting.sampler import Sampler
from jaxlv.published.protocols import MAO_ALPHA, PaperProtocol, Part
from jaxlv.published.protocols import score as score_part
from jaxlv.report.figures import evaluation as figures
from jaxlv.report.figures import svg
from jaxlv.results.folders import PaperFigures
from jaxlv.results.papers import Measure, PartProtocol, PartResult, PartRow
from jaxlv.results.scores import POOL
from jaxlv.storage.files import new_file, read_text, write_text
from jaxlv.studies.progress import Begin, Silent
from jaxlv.text.codec import TOP

PARTS = "parts"  # the folder of the drawings


class Measured(NamedTuple):
    """A model's row of a part, as results have it, and the forecast that it follows from."""

    row: PartRow
    forecast: Forecast


def forecast_part(
    part: Part,
    chosen: SeriesSet,
    name: str,
    forecaster: Sampler,
    settings: EvaluateConfig,
    point: str = "median",
    begin: Begin = Silent,
) -> Measured:
    """Returns what a model called `name` forecasts for a part; `point` of the samples is scored, their median or mean."""
    with begin(f"{part.name} ({name})", len(chosen)) as bar:
        request = part.request(settings.seed, min(settings.batch_series, len(chosen)))
        if part.reach:
            forecast: Forecast = forecaster.rolling(chosen, request, part.reach, on_batch=bar.update)
        else:
            forecast = forecaster(chosen, request, on_batch=bar.update)
    context_NCV, truth_NHV = spans(part, chosen)
    point_NHV = forecast.median() if point == "median" else forecast.filled().mean(axis=1)
    row = score(name, point_NHV, truth_NHV, context_NCV, chosen, forecast.filled())
    figures_of = score_part(part, point_NHV, chosen, forecast.samples_NSHV)
    told: Any = {"valid_share": forecast.valid_share, "figures": figures_of}
    return Measured(PartRow(**vars(row) | told), forecast)


def pool_row(part: Part, chosen: SeriesSet, model: Sampler, forecast: Forecast, settings: EvaluateConfig) -> PartRow:
    """Returns the row of the pool of baselines and of a model that has forecast a part already."""
    request = part.request(settings.seed, min(settings.batch_series, len(chosen)))
    mixed_NSHV = pool_of(model, forecast, chosen, request).samples_NSHV
    context_NCV, truth_NHV = spans(part, chosen)
    point_NHV = np.median(mixed_NSHV, axis=1)
    row = score(POOL, point_NHV, truth_NHV, context_NCV, chosen, mixed_NSHV)
    return PartRow(**vars(row) | {"figures": score_part(part, point_NHV, chosen, mixed_NSHV)})


def baseline_rows(part: Part, chosen: SeriesSet) -> list[PartRow]:
    """Returns the baselines' rows of a part."""
    context_NCV, truth_NHV = spans(part, chosen)
    skipped, rows = int(part.shown > 0), []
    for name, baseline in in_turn(baselines_for(chosen)):
        # A baseline sees whole steps alone: if the cut shows part of one, it forecasts that step too.
        point_NHV = baseline(context_NCV, part.horizon + skipped)[:, skipped:]
        row = score(name, point_NHV, truth_NHV, context_NCV, chosen)
        rows.append(PartRow(**vars(row), figures=score_part(part, point_NHV, chosen)))
    return rows


def draw(part: Part, chosen: SeriesSet, forecast: Forecast, errors: Mapping[str, float | None], out: Path) -> str:
    """Draws one series with its forecast: PART.png, and parts/PART.svg for a page. Returns in words which one it is."""
    if part.drawn:  # by the truth alone, so that forecasts under several scales show the same series
        order, words = np.argsort(chosen.values_NTV.max(axis=(1, 2))), "the median highest value"
    else:
        order, words = np.argsort([errors[str(i)] or 0.0 for i in chosen.ids_N]), "the median error"
    panel = panels(forecast, chosen)[order[len(order) // 2]]
    if part.drawn:
        panel = replace(panel, top=("top of mao's scale", TOP * MAO_ALPHA))
    with new_file(out / f"{part.name}.png") as place:
        svg.save_png(figures.forecast_figure(panel), place)
    label = f"Forecast of series {panel.series_id}, the one of {words}"
    write_text(out / PARTS / f"{part.name}.svg", svg.to_svg(figures.forecast_figure(panel), label))
    return label


def drawings(folder: Path) -> dict[str, str]:
    """Returns {part: the <svg> element of its forecast} of what `draw` left in a folder."""
    return {path.stem: read_text(path) for path in folder.glob("*.svg")}


# --------------------------------------------------------------------------------------------- a part's entry


def spans(part: Part, chosen: SeriesSet) -> tuple[np.ndarray, np.ndarray]:
    """Returns (context, truth) of a part's series, raw units; a step of which the text shows a part is in neither."""
    start = part.context + int(part.shown > 0)
    return chosen.values_NTV[:, : part.context], chosen.values_NTV[:, start : start + part.horizon]


def part_result(
    part: Part,
    chosen: SeriesSet,
    rows: Sequence[PartRow],
    *,
    scale: str,
    seed: int,
    point: str = "median",
    drawing: str = "",
) -> PartResult:
    """Returns a part as results have it: its protocol, the paper's figures, the truth's, and the rows."""
    protocol = PartProtocol(
        words=part.words,
        context=part.context,
        shown_characters=part.shown,
        horizon=part.horizon,
        samples=part.samples,
        steps_at_a_time=part.reach or part.horizon,
        scale=scale,
        simulated=part.drawn is not None,
        series=tuple(chosen.ids_N.tolist()),
        variables=chosen.variables,
        seed=seed,
        point_forecast=f"{point} of the samples at each step",
        measures={m.key: Measure(m.words, m.unit_words, m.steps) for m in part.measures},
    )
    truth = score_part(part, spans(part, chosen)[1], chosen)
    return PartResult(part.name, protocol, tuple(rows), part.reported, truth, drawing)


def named_series(ids: Sequence[int]) -> str:
    """Names ids in words: "series 990-999", "series 3, 7 and 9", or how many there are and the first of them."""
    ordered = sorted(ids)
    if len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"series {ordered[0]}-{ordered[-1]}"
    words = [str(i) for i in ordered[:4]]
    if len(ordered) > 4:
        return f"{len(ordered)} series, the paper's test share ({', '.join(words)}, …)"
    return f"series {' and '.join(filter(None, [', '.join(words[:-1]), words[-1]]))}"


def paper_figures(
    paper: PaperProtocol, part: Part, forecasts: Mapping[str, Forecast], chosen: SeriesSet, scale: str
) -> PaperFigures:
    """Returns the paper's rows of a part and the models', from forecasts of the same series, context and horizon."""
    rows = [
        PartRow(name=name, figures=score_part(part, forecast.median(), chosen, forecast.samples_NSHV))
        for name, forecast in forecasts.items()
    ]
    samples = next(iter(forecasts.values())).samples_NSHV.shape[1]
    found = part_result(part, chosen, rows, scale=scale, seed=0)
    first = max(measure.steps for measure in part.measures)
    scored = f", of which the first {first} are scored" if first else ""
    words = (
        f"The paper {paper.name} and this run: the same split, {named_series(chosen.ids_N.tolist())},"
        f" {part.context} steps of context, {part.horizon} of forecast{scored}. The paper's model is another, tuned on a"
        f" budget of its own; this run drew {samples} samples of each series."
    )
    return PaperFigures(replace(found, protocol=replace(found.protocol, samples=samples)), words)
