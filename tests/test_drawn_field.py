"""Figures of field records, read back from scores that all differ."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jaxlv.report import field
from jaxlv.results.field import Field, FieldProtocol, FieldRecord, summary
from tests.test_field import RECORDS, score


def drawn(chart) -> list[tuple[str, list, list]]:
    """Every series of a chart's one panel: its name, places and values."""
    return [(one.name, list(one.x), list(one.y)) for one in chart.panels[0].series]


def test_the_figure_of_all_records_has_a_dot_for_each_record_and_their_mean():
    best, found = summary(RECORDS)
    chart = field.overall_figure(Field(FieldProtocol("m", 30, 8, 2, 20, 0, "interpolate"), RECORDS, best, found))
    names = [chart.panels[0].y.ticks[place] for place in range(4)]
    order = {"pool": 1.0, "b": 1.0, "untuned": 2.0, "a": 2.0}  # relative to b: the best on top
    assert sorted(names[:2]) == ["b", "pool"] and sorted(names[2:]) == ["a", "untuned"]
    by_record = {"pool": (0.25, 4.0), "b": (1.0, 1.0), "untuned": (0.5, 8.0), "a": (0.5, 8.0)}
    for place, (_, _, values) in enumerate(drawn(chart)[:2]):
        assert values == pytest.approx([by_record[name][place] for name in names])
    assert drawn(chart)[2][0] == "geometric mean" and drawn(chart)[2][2] == pytest.approx([order[name] for name in names])


def test_the_figure_of_a_record_shows_every_score_with_its_interval():
    rows = (score("pool", 3.0), replace(score("a", 1.5), crps_scaled_ci95=(1.25, 1.75)))
    chart = field.record_figure(FieldRecord(5, rows))
    first, second = chart.panels[0].series
    assert (first.y, first.low, first.high) == ([1.5], [1.25], [1.75]) and second.y == [3.0]
    assert chart.panels[0].y.ticks == {0: "a", 1: "pool"}
