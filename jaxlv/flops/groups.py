"""Groups a model's components, and says by group how a convention's cost of a step differs from the exact one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from jaxlv.flops.conventions import CONVENTIONS
from jaxlv.flops.table import Table, count
from jaxlv.flops.work import Work
from jaxlv.results.costs import Difference, LengthCost, StepCost

GROUPS: Mapping[str, tuple[str, ...]] = {
    "q, k, v": ("q_proj", "k_proj", "v_proj"),
    "attention": ("scores", "scale", "mask", "softmax", "weighted sum", "rope"),
    "o": ("o_proj",),
    "MLP": ("gate_proj", "up_proj", "down_proj", "activation"),
    "head": ("head", "padding", "loss"),
    "LoRA": (),  # every component with "lora" in its name
    "other": (),  # norms, residuals, embedding, optimiser
}
LENGTHS = (64, 128, 256, 512, 768, 1024, 2048, 4096)  # tokens of a row
SMALL = 0.005  # of the exact step: what a waterfall puts together


def group_of(component: str) -> str:
    """Returns the group that a component is drawn in."""
    if "lora" in component:
        return "LoRA"
    product = component.removesuffix(" dequantised")
    return next((name for name, members in GROUPS.items() if product in members), "other")


def by_group(table: Table, phases: Sequence[str]) -> dict[str, int]:
    """Returns the FLOPs of each group in some phases."""
    sums = dict.fromkeys(GROUPS, 0)
    for (component, phase), flops in table.by_component().items():
        if phase in phases:
            sums[group_of(component)] += flops
    return sums


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


def costs_of(work: Work, conventions: Sequence[str], lengths: Sequence[int] = LENGTHS) -> list[StepCost]:
    """Returns what a training step costs under each convention, also in rows of other lengths."""
    found = []
    for name in conventions:
        table, twice = count(work, name), CONVENTIONS[name].backward == "twice"
        forward, backward = by_group(table, ("forward",)), by_group(table, ("backward", "recomputed"))
        prices = {n: count(replace(work, length=n), name).total_train_step / (work.batch * n) for n in lengths}
        by_length = tuple(LengthCost(n, flops) for n, flops in prices.items())
        steps = tuple(Difference(*step) for step in waterfall_steps(work, name)) if twice else ()
        found.append(StepCost(name, table.total_train_step, forward, backward, by_length, steps))
    return found
