"""Figures of what a training step costs under each convention; jaxlv.report.figures.svg writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from jaxlv.flops.table import Table, count
from jaxlv.flops.work import Work
from jaxlv.report.figures.svg import INK, MUTED, PALETTE, styled

GROUPS: Mapping[str, tuple[str, ...]] = {
    "q, k, v": ("q_proj", "k_proj", "v_proj"),
    "attention": ("scores", "scale", "mask", "softmax", "weighted sum", "rope"),
    "o": ("o_proj",),
    "MLP": ("gate_proj", "up_proj", "down_proj", "activation"),
    "head": ("head", "padding", "loss"),
    "LoRA": (),  # every component with "lora" in its name
    "other": (),  # norms, residuals, embedding, optimiser
}
HUES = ("row-tuned", "species-1", "species-2", "row-2", "row-1", "row-untuned", "row-6", "row-5", "row-7", "row-3")
SMALL = 0.005  # of the exact step: what a waterfall puts together
WIDTH = 560
TERA = 1e12
LENGTHS = (64, 128, 256, 512, 768, 1024, 2048, 4096)


def group_of(component: str) -> str:
    """The group that a component is drawn in."""
    if "lora" in component:
        return "LoRA"
    return next((name for name, members in GROUPS.items() if component in members), "other")


def by_group(table: Table, phases: Sequence[str]) -> dict[str, int]:
    """FLOPs of each group in some phases."""
    sums = dict.fromkeys(GROUPS, 0)
    for (component, phase), flops in table.by_component().items():
        if phase in phases:
            sums[group_of(component)] += flops
    return sums


def hue(index: int) -> str:
    """The colour of the group or convention of that number."""
    return PALETTE[HUES[index % len(HUES)]][0]


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH / 72, height / 72), layout=ConstrainedLayoutEngine(w_pad=3 / 72, h_pad=3 / 72))


def waterfall_steps(work: Work, convention: str) -> list[tuple[str, int]]:
    """(name, FLOPs) from the exact step to a convention's whose backward pass is twice the forward pass; they add up."""
    exact, other = count(work, "exact"), count(work, convention)
    steps = [("exact", exact.total_train_step), ("backward = 2 x forward", 3 * exact.total_forward - exact.total_train_step)]
    ours = by_group(exact, ("forward",))
    ours["head"] = exact.by_component().get(("head", "forward"), 0)
    theirs = by_group(other, ("forward", "backward"))
    gaps = {name: theirs[name] - 3 * ours[name] for name in GROUPS}
    large = {name: gap for name, gap in gaps.items() if abs(gap) >= SMALL * exact.total_train_step}
    rest = sum(gaps.values()) - sum(large.values())
    return [*steps, *large.items(), ("all else", rest), (convention, other.total_train_step)]


@styled
def waterfall_figure(work: Work, conventions: Sequence[str]) -> Figure:
    """From the products that are executed to what each convention counts, a panel for each."""
    figure = _figure(40 + 92 * len(conventions))
    axes = figure.subplots(len(conventions), 1, sharex=True, squeeze=False)[:, 0]
    for ax, convention in zip(axes, conventions, strict=True):
        steps = waterfall_steps(work, convention)
        reached = 0.0
        for row, (_, flops) in enumerate(steps):
            total = row in (0, len(steps) - 1)
            start = 0 if total else reached
            colour = INK if total else PALETTE["row-tuned" if flops < 0 else "row-2"][0]
            ax.barh(row, flops / TERA, left=start / TERA, color=colour, height=0.7)
            end = start + flops
            text = f"{flops / TERA:.2f}" if total else f"{flops / TERA:+.2f}"
            ax.annotate(text, (max(start, end) / TERA, row), (3, 0), textcoords="offset points", va="center", fontsize=8)
            reached = end
        ax.set_yticks(range(len(steps)), [name for name, _ in steps])
        ax.invert_yaxis()
        ax.margins(x=0.12)
    axes[-1].set_xlabel("10¹² FLOPs a training step")
    return figure


@styled
def components_figure(work: Work, conventions: Sequence[str]) -> Figure:
    """Forward and backward of each convention, stacked by group."""
    figure = _figure(64 + 40 * len(conventions))
    ax = figure.subplots()
    names, row = [], 0
    for convention in conventions:
        table = count(work, convention)
        for label, phases in (("forward", ("forward",)), ("backward", ("backward", "recomputed"))):
            reached = 0.0
            for number, (group, flops) in enumerate(by_group(table, phases).items()):
                shown = group if row == 0 else None
                ax.barh(row, flops / TERA, left=reached / TERA, color=hue(number), height=0.8, label=shown)
                reached += flops
            names.append(f"{convention}, {label}")
            row += 1
    ax.set_yticks(range(row), names)
    ax.invert_yaxis()
    ax.set_xlabel("10¹² FLOPs a training step")
    figure.legend(loc="outside upper center", ncols=len(GROUPS), frameon=False, fontsize=8)
    return figure


@styled
def budget_figure(work: Work, conventions: Sequence[str], budget: float) -> Figure:
    """What training costs against steps, and where each convention stops at the budget."""
    figure = _figure(260)
    ax = figure.subplots()
    ends = {name: budget / count(work, name).total_train_step for name in conventions}
    for i, (name, end) in enumerate(sorted(ends.items(), key=lambda item: item[1])):
        colour = hue(list(conventions).index(name))
        ax.plot([0, end], [0, budget], color=colour)
        ax.plot([end, end], [0, budget], color=colour, linestyle=(0, (2, 3)), linewidth=0.8)
        ax.annotate(f"{name}: {int(end):,}", (end, budget), (0, 4 + 10 * (i % 3)), textcoords="offset points", ha="center",
                    fontsize=8, color=colour)  # fmt: skip
    ax.axhline(budget, color=MUTED, linewidth=0.8)
    ax.set_ylim(0, 1.22 * budget)
    ax.set_xlim(0)
    ax.set_xlabel("train steps")
    ax.set_ylabel("FLOPs")
    return figure


@styled
def length_figure(
    work: Work, conventions: Sequence[str], lengths: Sequence[int] = (64, 128, 256, 512, 768, 1024, 2048, 4096)
):
    """FLOPs of a train step per token, against the length of a row."""
    figure = _figure(260)
    ax = figure.subplots()
    for i, name in enumerate(conventions):
        per_token = [count(replace(work, length=n), name).total_train_step / (work.batch * n) / 1e9 for n in lengths]
        ax.plot(lengths, per_token, color=hue(i), marker=".", label=name)
    ax.set_xscale("log", base=2)
    ax.set_xticks(lengths, [str(n) for n in lengths])
    ax.set_ylim(0)
    ax.set_xlabel("tokens of a row")
    ax.set_ylabel("10⁹ FLOPs per token")
    figure.legend(loc="outside upper center", ncols=len(conventions), frameon=False, fontsize=8)
    return figure
