"""Figures of sweeps, of runs side by side and of costs, read back; and that every figure is read back somewhere."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn import colour, coloured, drawn, legend, lines, named, seen, text_of, texts, ticks

import jaxlv.report
import jaxlv.report.figures
from jaxlv.flops import groups
from jaxlv.flops.family import FAMILY
from jaxlv.flops.table import count
from jaxlv.flops.work import Work
from jaxlv.report import sweeps
from jaxlv.report.charts import Chart
from jaxlv.report.figures import costs
from jaxlv.report.theme import MUTED
from jaxlv.results.side_by_side import Entry
from jaxlv.results.sweeps import Outcome, Point, effects_of, points_of

WORK = Work(FAMILY["qwen2.5-0.5b"], 4, 512)


def test_every_figure_is_read_back():
    """Whatever makes a chart is called in a file of tests that reads figures back, and says that it is one."""
    modules = [
        importlib.import_module(f"{package.__name__}.{one.name}")
        for package in (jaxlv.report, jaxlv.report.figures)
        for one in pkgutil.iter_modules(package.__path__)
    ]
    figures = {
        f"{module.__name__.rpartition('.')[2]}.{name}": name
        for module in modules
        for name, function in vars(module).items()
        if name.endswith("_figure") and function.__module__ == module.__name__
    }
    assert {
        vars(module)[name].__annotations__["return"]
        for module in modules
        for name in figures.values()
        if name in vars(module)
    } == {"Chart"}
    read = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_drawn_*.py"))
    assert len(figures) > 35
    assert [place for place, name in figures.items() if f".{name}(" not in read] == []


# -------------------------------------------------------------------------------------------------------------- sweeps


def runs() -> list[Outcome]:
    """Two ranks by two rates, one run without its error; nothing is in order."""
    table = {
        (8, 1e-4): ("b", 0.31, 5e9, 0.42), (2, 1e-4): ("d", 0.62, 3e9, 0.77), (8, 1e-3): ("a", 0.23, 9e9, 0.36),
        (2, 1e-3): ("c", 0.54, 4e9, 0.81), (4, 1e-3): ("e", None, 6e9, 0.5),
    }  # fmt: skip
    found = [
        {
            "name": name, "settings": {"lora.rank": rank, "optimizer.learning_rate": rate}, "validation_loss": loss,
            "steps": int(10 * cost / 1e9), "flops": {"coursework": cost, "exact": 3 * cost},
            "history": [
                {"step": 1, "loss": train + 1}, {"step": 4, "loss": train}, {"step": 2, "validation_loss": train + 2},
                {"step": 4, "validation_loss": loss or 9},
            ],
        }
        for (rank, rate), (name, loss, cost, train) in table.items()
    ]  # fmt: skip
    return [Outcome.read(one, "sweep.json") for one in found]


def effect(found: list[Outcome], name: str) -> Chart:
    return sweeps.effect_figure(name, effects_of(found, "validation_loss")[name], "validation_loss")


def test_the_effect_of_a_setting_joins_runs_that_differ_in_it_alone():
    (ax,) = seen(effect(runs(), "lora.rank")).axes
    assert ticks(ax.xaxis) == {0.0: "8", 1.0: "2", 2.0: "4"}  # as they appear
    joined = sorted([y.tolist() for x, y in coloured(ax, MUTED) if x.tolist() == [0, 1]])
    assert joined == [[0.23, 0.54], [0.31, 0.62]]  # at the rate 1e-3, and at 1e-4
    x, y = lines(ax)["mean"]
    np.testing.assert_allclose((x, y), ([0, 1], [0.27, 0.58]))
    assert (text_of(ax.xaxis)[0], text_of(ax.yaxis)[0]) == ("rank", "validation loss (nats per token)")


def test_the_mean_effect_is_no_median():
    skewed = [
        Outcome(str(seed), {"lora.rank": 2, "train.seed": seed}, validation_loss=loss)
        for seed, loss in enumerate((0.1, 0.2, 0.9))
    ]
    other = Outcome("other", {"lora.rank": 4, "train.seed": 0}, validation_loss=0.5)
    (ax,) = seen(effect([*skewed, other], "lora.rank")).axes
    assert lines(ax)["mean"][1] == pytest.approx([0.4, 0.5])


def test_losses_of_all_runs_with_the_best_in_colour():
    (ax,) = seen(sweeps.losses_figure(runs(), "a")).axes
    x, y = named(ax)["a"][0]
    np.testing.assert_allclose((x, y), ([1, 4], [1.36, 0.36]))
    hue = next(one.colour for one in drawn(ax) if one.name == "a")
    dots = [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in ax.lines if line.get_marker() == "o"]
    of_best = [line for line in ax.lines if colour(line) == hue and line.get_marker() == "o"]
    assert ([2, 4], [2.42, 0.31]) in dots and len(dots) == 5
    assert [line.get_ydata().tolist() for line in of_best] == [[2.36, 0.23]]
    assert len(coloured(ax, MUTED)) == 2 * 4 and text_of(ax.yaxis)[0] == "loss (nats per token)"


def test_the_front_of_error_against_cost_is_numbered_by_cost():
    entries = points_of(runs()[:4], "validation_loss")
    (ax,) = seen(sweeps.pareto_figure(entries, "FLOPs", "error")).axes
    assert (text_of(ax.xaxis)[0], text_of(ax.yaxis)[0]) == ("FLOPs", "error")
    (points,), (front,) = ([line.get_data() for line in ax.lines if line.get_marker() == mark] for mark in "o.")
    np.testing.assert_array_equal(points, [[5e9, 3e9, 9e9, 4e9], [0.31, 0.62, 0.23, 0.54]])
    np.testing.assert_array_equal(front, [[3e9, 4e9, 5e9, 9e9], [0.62, 0.54, 0.31, 0.23]])
    numbers = {text.get_text(): tuple(text.xy) for text in ax.texts}
    assert numbers["1"] == (3e9, 0.62) and numbers["4"] == (9e9, 0.23)


def test_neighbours_on_a_front_have_one_number_together():
    entries = [Point(*one) for one in [("a", 1e9, 0.5), ("b", 1.01e9, 0.499), ("c", 1.02e9, 0.498), ("d", 9e9, 0.2)]]
    (ax,) = seen(sweeps.pareto_figure(entries, "FLOPs", "error")).axes
    assert {text.get_text(): tuple(text.xy) for text in ax.texts} == {"1-3": (1.02e9, 0.498), "4": (9e9, 0.2)}


def test_each_group_has_a_front_and_a_colour_of_its_own():
    entries = [
        Point(*one) for one in [("a", 1e9, 0.5), ("b", 2e9, 0.4), ("c", 3e9, 0.45), ("d", 1.5e9, 0.9), ("e", 4e9, 0.8)]
    ]
    (ax,) = seen(sweeps.pareto_figure(entries, "FLOPs", "error", ["A", "A", "A", "B", "B"])).axes
    found = lines(ax)
    np.testing.assert_array_equal(found["A"], ([1e9, 2e9], [0.5, 0.4]))
    np.testing.assert_array_equal(found["B"], ([1.5e9, 4e9], [0.9, 0.8]))
    for name, hue in {one.name: one.colour for one in drawn(ax) if one.name}.items():
        dots = next(x.tolist() for x, _ in coloured(ax, hue))
        assert dots == {"A": [1e9, 2e9, 3e9], "B": [1.5e9, 4e9]}[name]


def test_losses_of_runs_side_by_side_are_under_their_own_names():
    entries = [Entry(f"folder/{one.name}", one.name, one.settings, one) for one in runs()[:3]]
    named_runs = [replace(entry.figures, name=entry.name) for entry in entries]
    (ax,) = seen(sweeps.grouped_losses_figure(named_runs, [entry.name for entry in entries])).axes
    found = named(ax)
    for entry in entries:
        trained = [(r["step"], r["loss"]) for r in entry.get("history") if "loss" in r]
        held = [(r["step"], r["validation_loss"]) for r in entry.get("history") if "validation_loss" in r]
        np.testing.assert_array_equal(np.transpose(found[entry.name][0]), trained)
        hue = next(one.colour for one in drawn(ax) if one.name == entry.name)
        (dots,) = (line for line in ax.lines if colour(line) == hue and line.get_marker() == "o")
        np.testing.assert_array_equal(np.transpose(dots.get_data()), held)


# --------------------------------------------------------------------------------------------------- what a step costs


def test_a_waterfall_begins_each_bar_where_the_last_one_ended():
    conventions = ["coursework", "liu"]
    figure = seen(costs.waterfall_figure(groups.costs_of(WORK, conventions)))
    for convention, ax in zip(conventions, figure.axes, strict=True):
        steps = groups.waterfall_steps(WORK, convention)
        assert list(ticks(ax.yaxis).values()) == [name for name, _ in steps]
        spans = [(bar.get_x(), bar.get_x() + bar.get_width()) for group in ax.containers for bar in group.patches]
        flops = [flops / 1e12 for _, flops in steps]
        reached = np.cumsum(flops[:-1])
        assert spans[0] == (0, pytest.approx(flops[0])) and spans[-1] == (0, pytest.approx(flops[-1]))
        np.testing.assert_allclose(spans[1:-1], np.stack([reached[:-1], reached[1:]], axis=1))
        signed = [f"{value:+.2f}" for value in flops[1:-1]]
        assert texts(ax) == [f"{flops[0]:.2f}", *signed, f"{flops[-1]:.2f}"]
        assert reached[-1] == pytest.approx(flops[-1])
    assert text_of(ax.xaxis)[0] == "10¹² FLOPs a training step"


def test_a_waterfall_names_what_is_half_a_percent_more_or_less():
    named_steps = {name: [step for step, _ in groups.waterfall_steps(WORK, name)] for name in ("mao", "liu")}
    first, last = ["exact", "backward = 2 x forward"], ["all else"]
    assert named_steps == {
        "mao": [*first, "q, k, v", "attention", "o", *last, "mao"],
        "liu": [*first, "q, k, v", "attention", "head", *last, "liu"],
    }  # fmt: skip


def test_the_products_of_each_group_stand_behind_one_another():
    names = ["exact", "coursework", "exact-all"]  # by the last, activations are computed again
    assert groups.by_group(count(WORK, "exact-all"), ("recomputed",))["MLP"] > 0
    figure = seen(costs.components_figure(groups.costs_of(WORK, names)))
    (ax,) = figure.axes
    hues = {colour(handle): name for name, handle in legend(figure).items()}
    rows = {name: place for place, name in ticks(ax.yaxis).items()}
    for convention in names:
        table = count(WORK, convention)
        for label, phases in (("forward", ("forward",)), ("backward", ("backward", "recomputed"))):
            place, reached = rows[f"{convention}, {label}"], 0.0
            own = [bar for group in ax.containers for bar in group.patches if bar.get_y() + bar.get_height() / 2 == place]
            expected = groups.by_group(table, phases)
            for bar in own:
                assert (bar.get_x(), bar.get_width()) == pytest.approx((reached, expected[hues[colour(bar)]] / 1e12))
                reached += bar.get_width()
            total = sum(flops for (_, phase), flops in table.by_component().items() if phase in phases)
            assert reached == pytest.approx(total / 1e12) and len(own) == len(expected)
    assert (
        groups.group_of("o_proj") == "o" and groups.group_of("q_proj lora") == "LoRA" and groups.group_of("norm") == "other"
    )


def test_steps_that_a_budget_buys_under_each_convention():
    names, budget = ["exact", "coursework", "liu"], 1e17
    (ax,) = seen(costs.budget_figure(groups.costs_of(WORK, names), budget)).axes
    ends = {name: budget / count(WORK, name).total_train_step for name in names}
    for text in ax.texts:
        name, _, steps = text.get_text().partition(": ")
        assert steps == f"{int(ends[name]):,}" and text.xy == (ends[name], budget)
        slope, drop = coloured(ax, colour(text))
        np.testing.assert_array_equal(slope, ([0, ends[name]], [0, budget]))
        np.testing.assert_array_equal(drop, ([ends[name]] * 2, [0, budget]))
    assert len(ax.texts) == 3 and (text_of(ax.xaxis)[0], text_of(ax.yaxis)[0]) == ("train steps", "FLOPs")


def test_costs_of_a_token_by_the_length_of_its_row():
    names = ["exact", "coursework"]
    (ax,) = seen(costs.length_figure(groups.costs_of(WORK, names, (64, 256)))).axes
    for name, (x, y) in lines(ax).items():
        per_token = [count(Work(WORK.model, 4, n), name).total_train_step / (4 * n) / 1e9 for n in (64, 256)]
        np.testing.assert_allclose((x, y), ([64, 256], per_token))
    assert set(lines(ax)) == set(names) and text_of(ax.yaxis)[0] == "10⁹ FLOPs per token"
