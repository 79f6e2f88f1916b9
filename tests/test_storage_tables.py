"""CSV that a spreadsheet program shows and never runs."""

from __future__ import annotations

import csv

import numpy as np
import pandas as pd
import pytest

from jaxlv.storage.tables import guarded, unguarded, write_csv


@pytest.mark.parametrize("text", ["=SUM(A1)", "+1", "-x", "@x", "\tx", "\r", "'=x", "''-x"])
def test_text_that_would_be_a_formula_stands_behind_an_apostrophe(text):
    assert guarded(text) == f"'{text}" and unguarded(guarded(text)) == text


@pytest.mark.parametrize("value", ["", "x=1", " =1", "'x", "'", "a-b", "1", -1, -1.5, None, True, float("inf")])
def test_everything_else_is_as_it_was(value):
    assert guarded(value) is value and unguarded(value) is value


def test_heads_and_cells_are_guarded_and_numbers_are_not(tmp_path):
    table = pd.DataFrame({"=name": ["-x", "y"], "b": [-1.23456789, np.nan], "c": [-3, 4], "d": [-5, "+6"]})
    table.insert(4, "b", [None, True], allow_duplicates=True)
    write_csv(tmp_path / "a.csv", table, float_format="%.3g")
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["'=name", "b", "c", "d", "b"], ["'-x", "-1.23", "-3", "-5", ""], ["y", "", "4", "'+6", "True"]]
    assert table.iloc[0, 0] == "-x" and table.columns[0] == "=name"
