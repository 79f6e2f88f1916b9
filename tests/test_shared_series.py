"""The records and cases of the reference folder: what each is, to the value, the name, the id and the next time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from jaxlv.data.loading import load_series

NAN = float("nan")


class Case(NamedTuple):
    """What a file is: ids, variables, steps of each series, first row, last row of the first series, next time of each."""

    ids: list[Any]
    variables: tuple[str, ...]
    steps: list[int]
    first: list[float]
    last: list[float]
    later: list[Any]
    told: str
    notes: tuple[str, ...] = ()


PELTS = ([30, 4], [24.7, 8.6], [1921])
"""Thousands of pelts of hare and lynx, in 1900 and in 1920, and the next year."""
SIMULATED = ([31.007871427831425, 5.266909437696639], [23.203646563281115, 4.227521266246812])
ORDERED = "Hare is taken as prey and Lynx as its predator (columns= keeps an order)"
SPANS = {"yearly": "yearly 1900 to 1920"} | {word: f"{word} 1900 to 1920 in steps of 1" for word in ("time", "Time")}
FOUR = "4 series, variables prey and predator, time 0 to 47 in steps of 1, 48 steps"


def pelts(names: str = "hare lynx", span: str = "yearly", *notes: str) -> Case:
    first, second = names.split()
    told = f"1 series, variables {first} and {second}, {SPANS[span]}, 21 steps"
    return Case([0], (first, second), [21], *PELTS, told, notes)


def four(told: str = FOUR, *notes: str, **changes: Any) -> Case:
    return Case([0, 1, 2, 3], ("prey", "predator"), [48] * 4, *SIMULATED, [48.0] * 4, told, notes)._replace(**changes)


CASES: dict[str, Case] = {
    "year_hare_lynx.csv": pelts(),
    "comment_lines_predator_first.csv": pelts("Hare Lynx", "yearly", ORDERED),
    "semicolon_quoted.csv": pelts("Hare Lynx", "yearly", ORDERED),
    "row_names.csv": pelts("prey predator", "time", "column without a name (row numbers) is ignored"),
    "upper_case.csv": pelts("Prey Predator", "Time"),
    "no_series_column.csv": pelts("prey predator", "time"),
    "predator_first.csv": pelts("prey predator", "time"),
    "tidy_step_from_1.csv": pelts("prey predator", "time"),
    "missing_values.csv": pelts("hare lynx", "yearly", "3 missing values, the first year 1905, hare"),
    "missing_year.csv": pelts("hare lynx", "yearly", "2 missing values (1 whole step), the first year 1910, hare"),
    "extra_column.csv": Case(
        [0], ("prey", "predator", "temperature"), [21], [30, 4, 10.6], [24.7, 8.6, 9.5], [1921],
        "1 series, variables prey, predator and temperature, time 1900 to 1920 in steps of 1, 21 steps",
    ),
    "nixtla_long.csv": Case(
        ["hare", "lynx"], ("y",), [21, 21], [30], [24.7], [1921, 1921],
        "2 series, variable y, ds 1900 to 1920 in steps of 1, 21 steps",
    ),
    "rows_shuffled.csv": Case(
        [0, 1], ("prey", "predator"), [48, 48], [31.01, 5.27], [23.2, 4.23], [48, 48],
        "2 series, variables prey and predator, time 0 to 47 in steps of 1, 48 steps", ("rows are sorted by time",),
    ),
    "panel_text_ids_dates.csv": Case(
        ["north", "east", "south", "west"], ("prey", "predator"), [48] * 4, [31.01, 5.27], [23.2, 4.23], ["2019-01-01"] * 4,
        "4 series, variables prey and predator, monthly 2015-01-01 to 2018-12-01, 48 steps",
    ),
    "ragged.csv": Case(
        [0, 1, 2, 3], ("prey", "predator"), [48, 30, 41, 22], [31.01, 5.27], [23.2, 4.23], [48, 30, 41, 22],
        "4 series, variables prey and predator, time 0 to 47 in steps of 1, 22 to 48 steps",
    ),
    "one_species.csv": Case(
        [0], ("lynx",), [21], [4], [8.6], [1921], "1 series, variable lynx, yearly 1900 to 1920, 21 steps"
    ),
    "three_species.csv": Case(
        [0], ("grass", "vole", "weasel"), [48], [50, 31.01, 5.27], [50.83, 23.2, 4.23], [48],
        "1 series, variables grass, vole and weasel, time 0 to 47 in steps of 1, 48 steps",
    ),
    "negative.csv": Case(
        [0], ("anomaly",), [60], [0.142], [0.779], [2010], "1 series, variable anomaly, yearly 1950 to 2009, 60 steps"
    ),
    "names_swapped.h5": four(),
    "extinct_predator.h5": four(),
    "fill_value.h5": four(FOUR, "1 missing value, at series 1, time 5, prey"),
    "packed_scale_factor.h5": four(first=[31.01, 5.27], last=[23.2, 4.23]),
    "one_outlier.h5": four(
        FOUR, "series 0: one value of prey, 129002, is 1.54e+03 times the next: the others keep hardly a digit; is it right?"
    ),
    "names_as_bytes.h5": four(FOUR.replace("prey and predator", "hare and lynx"), variables=("hare", "lynx")),
    "one_variable.h5": four(
        FOUR.replace("variables prey and predator", "variable lynx"), variables=("lynx",), first=SIMULATED[0][1:],
        last=SIMULATED[1][1:],
    ),
    "two_series.h5": four(FOUR.replace("4", "2", 1), ids=[0, 1], steps=[48, 48], later=[48.0, 48.0]),
}  # fmt: skip
REGIONS = (
    "west", "mackenzie_river", "athabasca_basin", "west_central", "upper_saskatchewan", "winnipeg_basin", "north_central",
    "james_bay", "lakes", "gulf", "central",
)  # fmt: skip
FURS = ("marten", "otter", "raccoon", "skunk", "wolf", "wolverine")
FIELD: dict[str, Case] = {
    "hare_lynx.csv": pelts()._replace(first=[30000, 4000], last=[24700, 8600]),
    "lynx_mackenzie.csv": Case(
        [0], ("lynx",), [114], [269], [3396], [1935], "1 series, variable lynx, yearly 1821 to 1934, 114 steps"
    ),
    "lynx_regions.csv": Case(
        [0], REGIONS, [119], [NAN, 269, 62, 135, 276, 4059, 48, NAN, NAN, NAN, NAN],
        [NAN] * 6 + [37, 149, 194, 111, NAN], [1940],
        f"1 series, variables {', '.join(REGIONS[:6])} and 5 more, yearly 1821 to 1939, 119 steps",
        ("443 missing values, the first year 1821, west",),
    ),
    "foxes_labrador.csv": Case(
        ["Hebron", "Hopedale", "Nain", "Okak"], ("coloured_fox",), [92] * 4, [60], [344], [1926] * 4,
        "4 series, variable coloured_fox, yearly 1834 to 1925, 92 steps",
        ("3 missing values (3 whole steps), the first series Hebron, year 1852, coloured_fox",),
    ),
    "furs.csv": Case(
        [0], FURS, [62], [65051, 11080, 1338, 1262, 12088, 1424], [29338, 6532, 197, 1037, 2412, 902], [1912],
        "1 series, variables marten, otter, raccoon, skunk, wolf and wolverine, yearly 1850 to 1911, 62 steps",
    ),
}  # fmt: skip


def check(path: Any, case: Case) -> None:
    found = load_series(path)
    assert list(found.ids) == case.ids and found.variables == case.variables
    assert [len(values_TV) for values_TV in found.values] == case.steps
    np.testing.assert_allclose(found.values[0][[0, -1]], [case.first, case.last], rtol=1e-12)
    assert [found.clock.labels(i, [steps])[0] for i, steps in enumerate(case.steps)] == case.later
    assert found.lines() == [case.told, *case.notes]


@pytest.mark.parametrize("name", CASES)
def test_a_case(name, shared):
    check(shared / "cases" / "series" / name, CASES[name])


@pytest.mark.parametrize("name", FIELD)
def test_a_field_record(name, shared):
    check(shared / "data" / "field" / name, FIELD[name])


def test_every_case_and_record_is_looked_at(shared):
    assert {path.name for path in (shared / "cases" / "series").iterdir()} == set(CASES)
    assert {path.name for path in (shared / "data" / "field").iterdir()} == set(FIELD)


def series(shared: Any, name: str) -> np.ndarray:
    return np.stack(load_series(shared / "cases" / "series" / name).values)


def test_the_same_pelts_in_eight_files(shared):
    """In whatever order, case or delimiter; two files lack some of them, and say which."""
    pelts_TV = series(shared, "year_hare_lynx.csv")[0]
    for name, case in CASES.items():
        if case.first == PELTS[0] and name.endswith(".csv"):
            found_TV = series(shared, name)[0]
            there = np.isfinite(found_TV)
            np.testing.assert_array_equal(found_TV[there], pelts_TV[there])
            assert (~there).sum() == {"missing_values.csv": 3, "missing_year.csv": 2}.get(name, 0)
    np.testing.assert_array_equal(series(shared, "extra_column.csv")[0, :, :2], pelts_TV)
    np.testing.assert_array_equal(series(shared, "nixtla_long.csv")[..., 0].T, pelts_TV)
    np.testing.assert_array_equal(series(shared, "one_species.csv")[0, :, 0], pelts_TV[:, 1])


def test_the_same_simulations_in_five_files(shared):
    """Swapped and by name, packed as integers, with a cell filled, with text ids and dates, shuffled and ragged."""
    plain = series(shared, "names_swapped.h5")
    filled = series(shared, "fill_value.h5")
    assert np.argwhere(np.isnan(filled)).tolist() == [[1, 5, 0]]
    np.testing.assert_array_equal(np.nan_to_num(filled), np.where(np.isnan(filled), 0, plain))
    np.testing.assert_array_equal(series(shared, "names_as_bytes.h5"), plain)
    np.testing.assert_array_equal(series(shared, "two_series.h5"), plain[:2])
    packed = series(shared, "packed_scale_factor.h5")
    known = np.isfinite(packed)
    np.testing.assert_allclose(packed[known], plain[known], atol=0.0051)
    np.testing.assert_allclose(series(shared, "panel_text_ids_dates.csv"), plain, atol=0.0051)
    np.testing.assert_allclose(series(shared, "rows_shuffled.csv"), plain[:2], atol=0.0051)
    ragged = load_series(shared / "cases" / "series" / "ragged.csv")
    for values_TV, whole_TV in zip(ragged.values, plain, strict=True):
        np.testing.assert_allclose(values_TV, whole_TV[: len(values_TV)], atol=0.0051)


def test_one_bad_series_or_cell_stops_nothing(shared):
    folder = shared / "cases" / "series"
    extinct = load_series(folder / "extinct_predator.h5").ready()
    assert extinct.series.ids_N.tolist() == [0, 1, 2, 3] and (extinct.series.values_NTV[2, :, 1] == 0).all()
    missing = load_series(folder / "missing_year.csv").ready()
    assert np.isfinite(missing.series.values_NTV).all() and missing.notes == ("missing values: interpolated",)
    negative = load_series(folder / "negative.csv")
    ready = negative.ready()
    assert ready.notes == ("negative values: anomaly shifted above zero, and forecasts back",)
    np.testing.assert_allclose(ready.series.values_NTV[0] - ready.series.shift_NV[0], negative.values[0], atol=1e-12)
    assert ready.series.values_NTV.min() > 0 > negative.values[0].min()


def test_a_column_is_left_out_by_name(shared):
    found = load_series(shared / "cases" / "series" / "extra_column.csv", columns=["prey", "predator"])
    assert found.variables == ("prey", "predator") and found.notes == ("column temperature ignored",)


def test_the_gaps_of_the_field_records(shared):
    field = shared / "data" / "field"
    foxes = load_series(field / "foxes_labrador.csv")
    gone = [
        (one, 1834 + int(t)) for one, v in zip(foxes.ids, foxes.values, strict=True) for t in np.flatnonzero(np.isnan(v))
    ]
    assert gone == [("Hebron", 1852), ("Nain", 1852), ("Okak", 1852)]
    regions = load_series(field / "lynx_regions.csv", separate=True)
    assert regions.ids == REGIONS and regions.variables == ("value",)
    assert not np.isnan(np.concatenate([values_TV[[0, -1]] for values_TV in regions.values])).any()
    starts = [int(regions.clock.labels(i, [0])[0]) for i in range(len(regions))]
    ends = [int(regions.clock.labels(i, [len(v) - 1])[0]) for i, v in enumerate(regions.values)]
    assert starts == [1825, 1821, 1821, 1821, 1821, 1821, 1821, 1852, 1852, 1839, 1901]
    assert ends == [1934, 1934, 1934, 1934, 1898, 1934, 1939, 1939, 1939, 1939, 1910]
    assert [int(np.isnan(values_TV).sum()) for values_TV in regions.values] == [41, 0, 6, 6, 5, 16, 16, 22, 31, 41, 0]
