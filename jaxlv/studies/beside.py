"""The figures of a report beside those of a run that was measured as the report measured: a part's entry, and its section.

Axes: N series, C context steps, H steps ahead, V variables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from jaxlv.data.series import SeriesSet
from jaxlv.forecasting.forecaster import Forecast
from jaxlv.published.protocols import Part, Protocol
from jaxlv.published.protocols import score as score_part
from jaxlv.results.folders import Beside
from jaxlv.results.papers import Measure, PartProtocol, PartResult, PartRow


def spans(part: Part, chosen: SeriesSet) -> tuple[np.ndarray, np.ndarray]:
    """(context, truth) of a part's series, raw units; a step of which the text shows some characters is in neither."""
    start = part.context + int(part.shown > 0)
    return chosen.values_NTV[:, : part.context], chosen.values_NTV[:, start : start + part.horizon]


def entry(
    part: Part,
    chosen: SeriesSet,
    rows: Sequence[PartRow],
    *,
    scale: str,
    seed: int,
    point: str = "median",
    drawing: str = "",
) -> PartResult:
    """A part as results have it: its protocol, the report's figures, the truth's, and the rows."""
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
    """Ids in words: "series 990-999", "series 3, 7 and 9", or how many there are and the first of them."""
    ordered = sorted(ids)
    if len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"series {ordered[0]}-{ordered[-1]}"
    words = [str(i) for i in ordered[:4]]
    if len(ordered) > 4:
        return f"{len(ordered)} series, the report's test share ({', '.join(words)}, …)"
    return f"series {' and '.join(filter(None, [', '.join(words[:-1]), words[-1]]))}"


def beside(paper: Protocol, part: Part, forecasts: Mapping[str, Forecast], chosen: SeriesSet, scale: str) -> Beside:
    """The report's rows of a part and the models', from forecasts of the same series, context and horizon."""
    rows = [
        PartRow(name=name, figures=score_part(part, forecast.median(), chosen, forecast.samples_NSHV))
        for name, forecast in forecasts.items()
    ]
    samples = next(iter(forecasts.values())).samples_NSHV.shape[1]
    found = entry(part, chosen, rows, scale=scale, seed=0)
    first = max(measure.steps for measure in part.measures)
    scored = f", of which the first {first} are scored" if first else ""
    words = (
        f"The report {paper.name} and this run: the same split, {named_series(chosen.ids_N.tolist())},"
        f" {part.context} steps of context, {part.horizon} of forecast{scored}. The report's model is another, tuned on a"
        f" budget of its own; this run drew {samples} samples of each series."
    )
    return Beside(replace(found, protocol=replace(found.protocol, samples=samples)), words)
