"""Results as records: their JSON in and out, files that are not what they were, and what every number says of itself."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import records
from test_pages import RUNS, reproduced
from test_pages_exploration import explored

from jaxlv.errors import JaxlvError
from jaxlv.report import evaluation, terminal
from jaxlv.report.table import Table, best_of, words
from jaxlv.results.analyses import Analyses
from jaxlv.results.exploration import Exploration
from jaxlv.results.papers import Comparison, Reproduction
from jaxlv.results.quantities import Quantity, interval, quantity
from jaxlv.results.record import Interval, Record, beside, plain, rare
from jaxlv.results.runs import RunCost
from jaxlv.results.scores import UNITS, Errors, Evaluation, Protocol, Score
from jaxlv.results.stress import AboveTop, Stress
from jaxlv.results.sweeps import Outcome, Sweep

STRANGE: list[Any] = [None, True, -1, 10**400, 0.5, "x", "\ud800", [], {}, [1], {"a": {}}]
SWEEP = {"config": "x.toml", "rule": "validation_loss", "best": "a", "runs": RUNS, "versions": {}}
FILES: dict[str, tuple[type[Record], dict[str, Any]]] = {
    "metrics.json": (Evaluation, records.evaluation()),
    "stress.json": (Stress, records.stress()),
    "sweep.json": (Sweep, SWEEP),
    "compare.json": (Comparison, records.comparison()),
    "reproduce.json": (Reproduction, reproduced()),
    "analyses.json": (Analyses, records.everything()),
    "exploration.json": (Exploration, explored()),
}
DESCRIBED = (Errors, Score, AboveTop, Outcome, RunCost)


def held(small: Any, large: Any) -> bool:
    """Whether all that a tree holds is in another one."""
    if isinstance(small, dict):
        return all(key in large and held(value, large[key]) for key, value in small.items())
    if isinstance(small, list):
        return len(small) == len(large) and all(map(held, small, large))
    return small == large


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values below the top."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in pairs:
        yield (*at, key)
        yield from places(value, (*at, key))


def slim(tree: Any) -> Any:
    """A tree with the first value alone of every list, which stands for the others."""
    if isinstance(tree, dict):
        return {key: slim(value) for key, value in tree.items()}
    return [slim(value) for value in tree[:1]] if isinstance(tree, list) else tree


def node_of(tree: Any, at: tuple[Any, ...]) -> Any:
    """The object or list of a tree that holds what stands at a path."""
    for key in at[:-1]:
        tree = tree[key]
    return tree


# ----------------------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_and_written_again_with_all_that_it_held(name):
    kind, tree = FILES[name]
    found = kind.read(json.loads(json.dumps(tree)), name)
    again = json.loads(json.dumps(found.tree(), allow_nan=False))
    assert held(json.loads(json.dumps(tree)), again)
    assert kind.read(again, name) == found


@pytest.mark.parametrize("name", FILES)
def test_whatever_a_file_holds_it_is_read_or_one_line_that_names_the_place(name):
    kind, tree = FILES[name][0], slim(FILES[name][1])
    refused = 0
    for at in list(places(tree)):
        if len(at) > 2 and isinstance(at[-1], str) and at[-2] in ("settings", "versions", "carried", "chosen", "history"):
            continue  # anything may stand there
        node, right = node_of(tree, at), node_of(tree, at)[at[-1]]
        for value in STRANGE:
            node[at[-1]] = value
            try:
                kind.read(tree, name)
            except JaxlvError as fault:
                refused += 1
                assert str(fault).startswith(f"{name}: ") and str(at[0]) in str(fault) and "\n" not in str(fault)
        node[at[-1]] = right
    assert refused > 100


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_an_older_version_lacks_what_came_later(name):
    """Each key of the first row alone is left out: what a record cannot do without is named."""
    kind, tree = FILES[name][0], slim(FILES[name][1])
    for at in list(places(tree)):
        if len(at) < 4 and isinstance(at[-1], str):
            node = node_of(tree, at)
            right = node.pop(at[-1])
            try:
                kind.read(tree, name)
            except JaxlvError as fault:
                assert f"{at[-1]} is not what was written; expected a value; found nothing" in str(fault)
            node[at[-1]] = right


def test_a_record_holds_plain_values_however_it_is_made():
    row = Score(
        name="a", mae=np.float32(0.5), mae_ci95=np.array([0.25, np.nan]), mae_by_step=np.arange(3), coverage={50: np.nan}
    )  # type: ignore[arg-type]
    assert (row.mae, row.mae_ci95, row.mae_by_step, row.coverage) == (0.5, None, (0.0, 1.0, 2.0), {"50": None})
    assert type(row.mae) is float and next(iter(row.tree())) == "name"
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.mae = 1.0  # type: ignore[misc]


@dataclasses.dataclass(frozen=True)
class Loose(Record):
    """A record with entries beside its fields."""

    name: str = quantity("name", form="words", key="its name")
    shares: Mapping[str, float] = beside("share of {} (%)", unit="%")
    others: Mapping[str, int] = beside("{}")
    last: tuple[int, ...] = rare("the last", ())


def test_entries_stand_beside_the_fields_of_a_record():
    tree = {"its name": "a", "share of b (%)": 0.5, "share of c": 7, "d": 8}
    found = Loose.read(tree, "x")
    assert (found.name, found.shares, found.others, found.last) == ("a", {"b": 0.5}, {"share of c": 7, "d": 8}, ())
    assert found.tree() == tree and Loose("a", last=(1,)).tree() == {"its name": "a", "the last": [1]}
    assert Loose.quantities()["shares"].named("b").of(found) == 0.5 and Loose.quantities()["shares"].unit == "%"
    with pytest.raises(JaxlvError, match=r"x: share of b \(%\) is not what was written"):
        Loose.read({"share of b (%)": "x"}, "x")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5), (np.int64(3), 3), (np.array([1.0, np.nan]), [1.0, None]), ("text", "text"), (None, None),
        ({1: np.inf, "b": (np.bool_(True),)}, {"1": None, "b": [True]}),
    ],
)  # fmt: skip
def test_values_as_json_holds_them(value, expected):
    assert plain(value) == expected
    json.dumps(plain(value), allow_nan=False)


def test_of_one_series_an_older_file_has_intervals_that_nothing_shows():
    tree = records.evaluation()
    tree["protocol"]["series"] = [3]
    found = Evaluation.read(tree, "metrics.json")
    for row in found.rows:
        assert row.mae is not None and row.mae_ci95 is row.energy_score_ci95 is None
        assert row.per_variable and all(own.mae_ci95 is None for own in row.per_variable.values())
    assert "interval" not in evaluation.summary(found)
    one = records.stress()
    one["conditions"][0]["series"] = [3]
    rows = Stress.read(one, "stress.json").conditions
    assert rows[0].rows[0].mae_ci95 is None and rows[1].rows[0].mae_ci95 is not None


# ----------------------------------------------------------------------------------------------------- quantities


@pytest.mark.parametrize("kind", DESCRIBED, ids=lambda kind: kind.__name__)
def test_every_number_of_a_result_says_what_it_is(kind):
    """Its name, and a unit where there is one; what it means stands with itself or with what it is of."""
    quantities = kind.quantities()
    # The MAE again, by what their keys say; and numbers that a training logs by their names.
    plainly = {"mae_by_step", "mae_by_step_per_variable", "mae_by_series", "history"}
    for name, hint in typing.get_type_hints(kind).items():
        numbers = any(part in str(hint) for part in ("float", "int")) and "Any" not in str(hint)
        if numbers and name not in plainly and name != "stops_unmasked":
            found = quantities[name]
            assert found.words and found.head and found.base in quantities, name
            assert found.form != "interval" or found.better == "", name


def test_units_and_definitions_of_a_result_file_come_from_its_quantities():
    assert {
        "mae": "raw units",
        "mse": "raw units²",
        "coverage": "share of steps",
        "mae_ci95": "raw units",
    }.items() <= UNITS.items()
    assert UNITS.keys() == Score.quantities().keys()


def test_a_new_measure_is_one_field():
    """It is read, written, shown with its unit and its interval, and its best is marked."""

    @dataclasses.dataclass(frozen=True)
    class Longer(Record):
        name: str
        pinball: float | None = quantity("pinball", "hares", "mean pinball loss", better="less", group="Quantiles")
        pinball_ci95: Interval | None = interval("pinball")

    globals()["Longer"] = Longer
    rows = [Longer.read({"name": n, "pinball": v, "pinball_ci95": [v, v + 1]}, "x") for n, v in (("a", 2), ("b", 0.5))]
    table = Table("", "", rows, [words("name", " "), *Longer.columns("pinball", "pinball_ci95")])
    assert [(g.name, g.unit, g.span) for g in table.groups] == [("", "", 1), ("Quantiles", "hares", 2)]
    assert [cell.best for line in table.cells for cell in line[1:]] == [False, False, True, False]
    assert terminal.table(table).splitlines() == [
        "   pinball  95 % interval", "-------------------------", "a    2.00       2.00-3.00", "b    0.500     0.500-1.50",
        "All in hares.",
    ]  # fmt: skip


def test_a_level_is_best_near_itself_and_a_path_leads_to_a_value():
    coverage, width = Score.columns("coverage/80", "interval_width/80")
    assert (coverage.head, coverage.better, coverage.shown_unit) == ("80 %", 0.8, "%")
    assert best_of(coverage, [0.95, 0.79, None]) == [False, True, False] and best_of(width, [1.0, 2.0]) == [False, False]
    row = {"prey": Score(name="a", coverage={"80": 0.5})}
    assert coverage.within("prey").of(row) == 0.5 and coverage.within("hare").of(row) is None
    assert Quantity("a.b", path=("settings", "a.b")).of({"settings": {"a.b": 3}}) == 3
    assert Quantity("a").of({"a": float("nan")}) is None


def test_what_is_in_raw_units_is_in_those_of_the_error_that_a_protocol_names():
    named = Evaluation(Protocol(units={"mae": "hares", "nats_per_value": "nats, of a density"}), ())
    units = [one.unit for one in named.measures("mae_ci95", "crps", "interval_width/80", "nats_per_value_ci95", "mse")]
    assert units == ["hares", "hares", "hares", "nats", "raw units²"]


# ------------------------------------------------------------------------------------------------------ terminals


def test_a_narrow_terminal_goes_without_the_columns_that_may_be_given_up():
    found = Evaluation.read(records.evaluation(), "metrics.json")
    wide = evaluation.format_table(found, 200)
    assert "Left out" not in wide
    for width in (90, 75, 60):
        text = evaluation.format_table(found, width)
        assert max(map(len, text.splitlines())) <= width and "Left out for width: MSE" in " ".join(text.split())


def test_bands_that_few_samples_make_the_same_are_named():
    """The band of a level reaches from the least sample to the greatest if it is above (S - 1) / (S + 1)."""
    same = {samples: Protocol(samples=samples).equal_levels for samples in (3, 8, 9, 10, 20, 40)}
    assert same == {3: ["50", "80", "95"], 8: ["80", "95"], 9: ["80", "95"], 10: [], 20: [], 40: []}
    found = dataclasses.replace(Evaluation.read(records.evaluation(), "metrics.json"), protocol=Protocol(samples=9))
    captions = [getattr(block, "caption", "") for one in evaluation.result_sections(found) for block in one.blocks]
    words = " With 9 samples the 80 and 95 % bands are the same: from the least sample to the greatest."
    assert any(words in caption for caption in captions)


@pytest.mark.parametrize(
    ("ends", "shown"), [([1.0, 2.0], [1.0, 2.0]), ([None, 2.0], None), ([1.0, None], None), (None, None)]
)
def test_an_interval_that_lacks_an_end_is_not_shown(ends, shown):
    assert Quantity("mae_ci95", form="interval").of({"mae_ci95": ends}) == shown
