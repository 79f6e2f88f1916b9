"""Figures of costs: what they draw adds up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jaxlv.flops import groups
from jaxlv.flops.conventions import CONVENTIONS
from jaxlv.flops.family import FAMILY
from jaxlv.flops.table import count
from jaxlv.flops.work import Work
from jaxlv.report.figures import costs, svg

WORK = Work(FAMILY["qwen2.5-0.5b"], 4, 512)


@pytest.mark.parametrize("convention", [name for name, c in CONVENTIONS.items() if c.backward == "twice"])
def test_a_waterfall_leads_from_exact_to_the_convention(convention):
    steps = groups.waterfall_steps(WORK, convention)
    assert steps[0] == ("exact", 4_317_591_371_776)
    assert sum(flops for _, flops in steps[:-1]) == steps[-1][1] == count(WORK, convention).total_train_step


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_groups_cover_every_component(convention):
    table = count(WORK, convention)
    everything = groups.by_group(table, ("forward", "backward", "recomputed"))
    assert sum(everything.values()) == table.total_train_step


def test_forward_and_backward_are_the_whole_step_what_is_recomputed_among_them():
    (one,) = groups.costs_of(replace(WORK, remat=True), ["exact"], [64, 128])
    assert sum(one.forward.values()) + sum(one.backward.values()) == one.flops
    assert [cost.tokens for cost in one.lengths] == [64, 128]
    assert one.lengths[0].flops == count(replace(WORK, remat=True, length=64), "exact").total_train_step / (WORK.batch * 64)


def test_the_figures_can_be_drawn(tmp_path):
    every = groups.costs_of(WORK, ["exact", "coursework", "liu"])
    figures = [
        costs.waterfall_figure(every[1:]),
        costs.components_figure(every),
        costs.budget_figure(every, 1e17),
        costs.length_figure(every),
    ]
    for number, figure in enumerate(figures):
        svg.save_png(figure, tmp_path / f"{number}.png", dpi=50)
        assert "FLOPs" in svg.to_svg(figure, str(number))
