"""Which columns are ids, and that ids come back as they were, from files and frames alike."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest

from jaxlv.data.loading import load_series

YEARS = list(range(1900, 1912))
COUNTS = [30.0, 47.25, 70.5, 77.4, 36.3, 20.6, 18.1, 21.4, 22.0, 25.4, 27.1, 30.0]


def read(frame: pd.DataFrame, as_file: bool, folder, decimals: str | None = None):
    if not as_file:
        return load_series(frame)
    frame.to_csv(folder / "x.csv", index=False, float_format=decimals)
    return load_series(folder / "x.csv")


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize(
    "ids",
    [
        ("900719925474099301", "900719925474099302"), ("1.1", "1.10"), ("1E5", "10E4"), ("001", "1"), ("+1", "1"),
        ("1_000", "1000"), ("0x1", "1"),
    ],
)  # fmt: skip
def test_ids_that_are_one_number_are_several_series(ids, as_file, tmp_path):
    table = pd.DataFrame({"id": np.repeat(ids, 6), "year": YEARS, "n": COUNTS})  # no year is there twice
    found = read(table.astype({"id": object}), as_file, tmp_path)
    assert found.ids == ids and [len(one) for one in found.values] == [6, 6]


@pytest.mark.parametrize("form", ["%.2f", None])
@pytest.mark.parametrize("name", ["population", "run", "Population (thousands)", "group"])
def test_a_count_that_is_called_as_ids_may_be_is_a_variable(name, form, tmp_path):
    table = pd.DataFrame({"year": YEARS, name: COUNTS, "lynx": COUNTS[::-1]})
    whole = table.assign(**{name: np.round(COUNTS).astype(int)})
    for one in (table, whole, table.astype(str), table[["year", name]]):
        for as_file in (False, True):
            found = read(one, as_file, tmp_path, form)
            assert found.ids == (0,) and name in found.variables and len(found.values[0]) == 12


@pytest.mark.parametrize("name", ["population", "run"])
def test_populations_that_are_numbered_are_series(name, tmp_path):
    table = pd.DataFrame({name: np.repeat([7, 9], 6), "year": YEARS[:6] * 2, "n": COUNTS})
    for one in (table, table.drop(columns="year"), table.astype({name: str}).assign(**{name: ["A"] * 6 + ["B"] * 6})):
        for as_file in (False, True):
            assert len(read(one, as_file, tmp_path)) == 2
    assert load_series(pd.read_csv(io.StringIO(table.to_csv(index=False)), dtype={name: str})).ids in ((7, 9), ("7", "9"))
