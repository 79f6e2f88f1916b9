"""Many lines of text read at once give what they give line by line: the same tables, and the same errors."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxlv.data import lines, texts
from jaxlv.data.limits import Room
from jaxlv.errors import JaxlvError

NUMBERS = ["1", "-2.5", "3e-2", "+.5", "4.", "0", "1E3", "007", "-0.0"]
ODD = [
    "", "NA", "-", ".", "1e", "e5", "+-1", "1_000", "inf", "nan", "north", "2015-01-31", "1d2", "١", "−3", " 7 ", "\u00a08",
    "12%", "1 000", "5*", "1,5", "x\x0by", "\u20289",
]  # fmt: skip


def read(path: Path, room: int = 10**9) -> Any:
    """What a file of text gives: its columns, the lines of its rows, and notes; or its error."""
    try:
        table = texts.read_table(path, Room(room, path), packed=False)
    except JaxlvError as fault:
        return str(fault)
    columns = [(name, column.dtype.kind, [repr(one) for one in column.tolist()]) for name, column in table.frame.items()]
    return columns, [table.origin.row(row) for row in range(len(table.frame))], table.notes, table.origin.room.taken


def both(path: Path, monkeypatch: pytest.MonkeyPatch, block: int = 40) -> tuple[Any, Any]:
    """What a file gives many lines at a time, and line by line."""
    monkeypatch.setattr(lines, "BLOCK", block)
    at_once = read(path)
    with monkeypatch.context() as patch:
        patch.setattr(texts, "_split", lambda *_: None)
        return at_once, read(path)


def a_table(draw: random.Random) -> str:
    """A table of numbers with a few other cells, lines and quotes."""
    delimiter, width, rows = draw.choice(",;\t"), draw.randint(2, 4), draw.randint(2, 25)
    names = draw.sample(["year", "hare", "lynx", "id", "site", "x"], width)
    odd, broken = draw.choice([0, 0, 0.05, 0.3]), draw.choice([0, 0, 0.1])
    kinds = [draw.choice([NUMBERS, NUMBERS[:5], ["north", "south"], ["2015-01-31", "2016-01-31"]]) for _ in names]
    made = [delimiter.join(names)]
    for _ in range(rows):
        cells = [draw.choice(ODD) if draw.random() < odd else draw.choice(kind) for kind in kinds]
        if draw.random() < broken:
            made.append(draw.choice(["", "# note", " # 1", delimiter * (width - 1), '"a' + "\n" + 'b"', "1", "// x", "! y"]))
        if draw.random() < broken:
            cells[0] = f'"{cells[0]}"'
        if draw.random() < broken / 3:
            cells.append(draw.choice(["", "9"]))
        made.append(delimiter.join(cells))
    return "\n".join(made) + draw.choice(["", "\n", "\n\n", "\r\n"])


@pytest.mark.parametrize("seed", range(60))
def test_lines_read_at_once_are_lines_read_one_by_one(seed, tmp_path, monkeypatch):
    draw, path = random.Random(seed), tmp_path / "a.csv"
    for _ in range(8):
        path.write_text(a_table(draw), "utf-8")
        at_once, by_line = both(path, monkeypatch, draw.choice([1, 17, 60, 10**6]))
        assert at_once == by_line, path.read_text("utf-8")


def test_a_table_of_numbers_is_never_looked_at_line_by_line(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("year,hare,place\n" + "".join(f"{1900 + t},{t / 3!r},north {t % 2}\n" for t in range(200)))
    whole = both(path, monkeypatch, 500)
    monkeypatch.setattr(texts, "_as_number", None)
    monkeypatch.setattr(texts, "_even", None)
    assert read(path) == whole[0] == whole[1]
    assert whole[0][1][3] == f"{path}:5" and float(whole[0][0][1][2][100]) == 100 / 3


def test_a_text_behind_numbers_that_were_read_makes_a_column_of_texts(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("id,hare\n" + "".join(f"{t},{t}\n" for t in range(40)) + "4 a,7\n")
    at_once, by_line = both(path, monkeypatch, 50)
    assert at_once == by_line and at_once[0][0][1:] == ("O", [*(repr(str(t)) for t in range(40)), "'4 a'"])
    path.write_text("hare,x\n" + "1,2\n" * 40 + "many,7\n")
    at_once, by_line = both(path, monkeypatch, 50)
    assert at_once == by_line and "hare is not a number" in at_once and f"{path}:42" in at_once


def test_long_lines_binary_data_and_memory_are_refused_in_every_block(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    for bad, said in (
        ("1," + "2" * lines.LINE, "the line is too long"),
        ("1,\0", "binary data"),
        ("1,2,3", "number of cells"),
    ):
        path.write_text("a,b\n" + "1,2\n" * 2000 + bad + "\n" + "1,2\n" * 300)
        at_once, by_line = both(path, monkeypatch, 100)
        assert at_once == by_line and said in at_once and f"{path}:2002" in at_once
    path.write_text("a,b\n" + "1,2\n" * 300)
    most = 300 * (texts.ROW + 2 * texts.NUMERIC)
    assert read(path, most)[3] == most
    assert "declares too much data" in read(path, most - 1)


def test_all_that_is_plain_is_a_number_as_the_careful_way_reads_it():
    draw = random.Random(0)
    form = texts.Form("utf-8", ",", False, "", 0)
    for _ in range(20_000):
        cell = "".join(draw.choice("0123456789.+-eE0001") for _ in range(draw.randint(1, 6)))
        found, known = texts._plain([cell]), texts.numeric(cell, form)
        assert (None if found is None else found[0]) == (None if known is None else float(known)), cell
    assert texts._plain(["1", "inf"]) is None and texts._plain(["1", ""]) is None
    assert not np.isnan(texts._plain(["1e999"])[0]) and re.fullmatch("inf", str(texts._plain(["1e999"])[0]))
