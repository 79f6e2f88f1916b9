"""Charts of what a training step costs under each convention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jaxlv.flops.groups import GROUPS, by_group, waterfall_steps
from jaxlv.flops.table import count
from jaxlv.flops.work import Work
from jaxlv.report.charts import Axis, Chart, Note, Panel, Series, rows_of, single
from jaxlv.report.theme import INK, MODEL, MUTED, PALETTE

HUES = ("row-tuned", "species-1", "species-2", "row-2", "row-1", "row-untuned", "row-6", "row-5", "row-7", "row-3")
WIDTH = 560
TERA = 1e12
LENGTHS = (64, 128, 256, 512, 768, 1024, 2048, 4096)
STEP = "10¹² FLOPs a training step"


def hue(index: int) -> str:
    """Returns the colour of the group or convention of that number."""
    return PALETTE[HUES[index % len(HUES)]][0]


def waterfall_figure(work: Work, conventions: Sequence[str]) -> Chart:
    """From the products that are executed to what each convention counts, a panel for each."""
    every = [waterfall_steps(work, convention) for convention in conventions]
    greatest = max(float(np.cumsum([flops for _, flops in steps[:-1]]).max()) for steps in every) / TERA
    x, panels = Axis(unit=STEP, limits=(0, 1.14 * greatest)), []
    for steps in every:
        series, reached = [], 0.0
        for row, (_, flops) in enumerate(steps):
            total, size = row in (0, len(steps) - 1), flops / TERA
            colour = INK if total else MODEL if flops < 0 else PALETTE["row-2"][0]
            labels, base = [f"{size:.2f}" if total else f"{size:+.2f}"], [0 if total else reached]
            series.append(Series("", [row], [size], colour=colour, width=0.7, base=base, labels=labels))
            reached = base[0] + size
        panels.append(Panel(series, x, rows_of([name for name, _ in steps])))
    return Chart("waterfall", panels, (WIDTH, 40 + 92 * len(conventions)))


def components_figure(work: Work, conventions: Sequence[str]) -> Chart:
    """Forward and backward of each convention, stacked by group."""
    phases = {"forward": ("forward",), "backward": ("backward", "recomputed")}
    names = [f"{convention}, {label}" for convention in conventions for label in phases]
    sums = [by_group(count(work, convention), own) for convention in conventions for own in phases.values()]
    size_RG = np.array([list(one.values()) for one in sums]) / TERA
    base_RG = size_RG.cumsum(axis=1) - size_RG
    series = [
        Series(group, range(len(names)), size_RG[:, g], colour=hue(g), width=0.8, base=base_RG[:, g])
        for g, group in enumerate(GROUPS)
    ]
    return single("bars", series, Axis(unit=STEP), rows_of(names), 64 + 40 * len(conventions), width=WIDTH)


def budget_figure(work: Work, conventions: Sequence[str], budget: float) -> Chart:
    """What training costs against steps, and where each convention stops at the budget."""
    ends = {name: budget / count(work, name).total_train_step for name in conventions}
    series, notes = [Series("", y=[budget], mark="across", colour=MUTED, width=0.8)], []
    for i, (name, end) in enumerate(sorted(ends.items(), key=lambda item: item[1])):
        colour = hue(list(conventions).index(name))
        series.append(Series(name, [0, end], [0, budget], colour=colour, told=False))
        series.append(Series("", [end, end], [0, budget], colour=colour, dash=(0, (2, 3)), width=0.8, told=False))
        notes.append(Note(f"{name}: {int(end):,}", end, budget, (0, 4 + 10 * (i % 3)), "center", True, colour))
    x, y = Axis("train steps", limits=(0, None)), Axis("FLOPs", limits=(0, 1.22 * budget))
    return single("lines", series, x, y, 260, width=WIDTH, notes=notes, names="none")


def length_figure(work: Work, conventions: Sequence[str], lengths: Sequence[int] = LENGTHS) -> Chart:
    """FLOPs of a train step per token, against the length of a row."""
    series = []
    for i, name in enumerate(conventions):
        per_token = [count(replace(work, length=n), name).total_train_step / (work.batch * n) / 1e9 for n in lengths]
        series.append(Series(name, lengths, per_token, colour=hue(i), marker="."))
    x = Axis("tokens of a row", scale="log", ticks={n: str(n) for n in lengths})
    return single("lines", series, x, Axis(unit="10⁹ FLOPs per token", limits=(0, None)), 260, width=WIDTH)
