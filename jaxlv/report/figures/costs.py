"""Charts of what a training step costs under each convention."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxlv.report.charts import Axis, Chart, Note, Panel, Series, rows_of, single
from jaxlv.report.theme import INK, MODEL, MUTED, PALETTE
from jaxlv.results.costs import StepCost

HUES = ("row-tuned", "species-1", "species-2", "row-2", "row-1", "row-untuned", "row-6", "row-5", "row-7", "row-3")
WIDTH = 560
TERA = 1e12
STEP = "10¹² FLOPs a training step"


def hue(index: int) -> str:
    """Returns the colour of the group or convention of that number."""
    return PALETTE[HUES[index % len(HUES)]][0]


def waterfall_figure(costs: Sequence[StepCost]) -> Chart:
    """Draws from the products that are executed to what a convention counts, a panel for each that has a waterfall."""
    every = [one.waterfall for one in costs if one.waterfall]
    greatest = max(float(np.cumsum([step.flops for step in steps[:-1]]).max()) for steps in every) / TERA
    x, panels = Axis(unit=STEP, limits=(0, 1.14 * greatest)), []
    for steps in every:
        series, reached = [], 0.0
        for row, step in enumerate(steps):
            total, size = row in (0, len(steps) - 1), step.flops / TERA
            colour = INK if total else MODEL if size < 0 else PALETTE["row-2"][0]
            labels, base = [f"{size:.2f}" if total else f"{size:+.2f}"], [0 if total else reached]
            series.append(Series("", [row], [size], colour=colour, width=0.7, base=base, labels=labels))
            reached = base[0] + size
        panels.append(Panel(series, x, rows_of([step.name for step in steps])))
    return Chart("waterfall", panels, (WIDTH, 40 + 92 * len(panels)))


def components_figure(costs: Sequence[StepCost]) -> Chart:
    """Draws forward and backward of each convention, stacked by group."""
    names = [f"{one.convention}, {phase}" for one in costs for phase in ("forward", "backward")]
    size_RG = np.array([list(sums.values()) for one in costs for sums in (one.forward, one.backward)]) / TERA
    base_RG = size_RG.cumsum(axis=1) - size_RG
    series = [
        Series(group, range(len(names)), size_RG[:, g], colour=hue(g), width=0.8, base=base_RG[:, g])
        for g, group in enumerate(costs[0].forward)
    ]
    return single("bars", series, Axis(unit=STEP), rows_of(names), 64 + 40 * len(costs), width=WIDTH)


def budget_figure(costs: Sequence[StepCost], budget: float) -> Chart:
    """Draws what training costs against steps, and at which step each convention has spent the budget."""
    series, notes = [Series("", y=[budget], mark="across", colour=MUTED, width=0.8)], []
    colours = {one.convention: hue(i) for i, one in enumerate(costs)}
    for i, one in enumerate(sorted(costs, key=lambda one: budget / one.flops)):
        name, end, colour = one.convention, budget / one.flops, colours[one.convention]
        series.append(Series(name, [0, end], [0, budget], colour=colour, told=False))
        series.append(Series("", [end, end], [0, budget], colour=colour, dash=(0, (2, 3)), width=0.8, told=False))
        notes.append(Note(f"{name}: {int(end):,}", end, budget, (0, 4 + 10 * (i % 3)), "center", True, colour))
    x, y = Axis("train steps", limits=(0, None)), Axis("FLOPs", limits=(0, 1.22 * budget))
    return single("lines", series, x, y, 260, width=WIDTH, notes=notes, names="none")


def length_figure(costs: Sequence[StepCost]) -> Chart:
    """Draws FLOPs of a train step per token, against the length of a row."""
    lengths = [one.tokens for one in costs[0].lengths]
    series = [
        Series(one.convention, lengths, [cost.flops / 1e9 for cost in one.lengths], colour=hue(i), marker=".")
        for i, one in enumerate(costs)
    ]
    x = Axis("tokens of a row", scale="log", ticks={n: str(n) for n in lengths})
    return single("lines", series, x, Axis(unit="10⁹ FLOPs per token", limits=(0, None)), 260, width=WIDTH)
