"""`jaxlv explore`: tables, figures and a page of any series, and of bad files at least what is wrong with them."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from test_report import Tree

import jaxlv as jaxlv_package
from jaxlv.analysis import drawn, exploration
from jaxlv.data import loading, series
from jaxlv.data.series import COURSE_SHA256
from jaxlv.errors import JaxlvError, JaxlvWarning
from jaxlv.report import exploration as report
from jaxlv.report.figures import exploration as figures
from jaxlv.report.figures import svg
from jaxlv.report.format import MISSING, text
from jaxlv.report.table import Table, marked, of, words
from jaxlv.results.exploration import Exploration, Silhouette
from tests.programs import Outcome, jaxlv

SVG = "{http://www.w3.org/2000/svg}"
TABLES = {
    "quality", "values", "mean", "states", "cycles", "peaks", "prominence", "rest", "regimes", "centres", "contingency",
    "feature sets", "silhouettes", "stability", "series", "tokens", "round trip", "texts", "steps", "windows",
}  # fmt: skip


def find(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """The only row with these values."""
    (row,) = (row for row in rows if row.items() >= wanted.items())
    return row


def said_by(*arguments: Any) -> Outcome:
    return jaxlv("explore", *arguments)


class Explored(NamedTuple):
    out: Path
    result: dict[str, Any]
    page: str
    said: str
    data: series.SeriesSet


@pytest.fixture(scope="module")
def explored(tmp_path_factory, waves) -> Explored:
    """24 series of 60 steps, one every two time units."""
    folder = tmp_path_factory.mktemp("explore")
    series.save(folder / "made.h5", waves(24, 60))
    out, options = folder / "out", ["--series", "5,2", "--tokenizer", "embedded", "--context-lengths", "64,300"]
    said = said_by(folder / "made.h5", "--out", out, *options)
    assert (said.code, said.err) == (0, "")
    result = json.loads((out / "exploration.json").read_text())
    return Explored(out, result, (out / "report.html").read_text(), said.out, loading.load(folder / "made.h5"))


def test_every_table_is_a_csv_file_with_the_numbers_of_the_json(explored):
    tables = explored.result["tables"]
    assert set(tables) == TABLES | {"merges"}
    for name, rows in tables.items():
        table = pd.read_csv(explored.out / f"{name.replace(' ', '_')}.csv")
        assert len(table) == len(rows) and list(table) == list(rows[0])
        for column in table.select_dtypes("float"):
            values = [np.nan if row[column] in (None, "") else row[column] for row in rows]
            np.testing.assert_allclose(table[column], np.array(values, float), rtol=1e-12)


def test_the_page_and_the_figures_can_be_made_again_from_the_json(explored):
    again = Exploration.read(explored.result, "exploration.json")
    assert again.tree() == explored.result
    for name, (chart, label) in figures.drawings(again).items():
        drawing = svg.stand_alone(svg.to_svg(chart, label))
        assert (explored.out / "figures" / f"{name}.svg").read_text() == drawing, name


def test_an_older_file_without_what_is_drawn_is_read(explored):
    tree = {key: value for key, value in explored.result.items() if key != "drawn"}
    older = Exploration.read(tree, "exploration.json")
    assert set(figures.drawings(older)) == {"mean", "tokens", "round_trip", "windows"}
    assert len(report.page_of(older).sections) == 8


def test_numbers_are_those_of_the_library(explored):
    found = exploration.cycles(explored.data.values_NTV)
    period = find(explored.result["tables"]["cycles"], quantity="period of prey", unit="steps")
    assert period["mean"] == pytest.approx(np.nanmean(found.period_NV[:, 0]))
    in_time = find(explored.result["tables"]["cycles"], quantity="period of prey", unit="time units")
    assert in_time["mean"] == pytest.approx(2 * period["mean"])
    per_series = pd.DataFrame(explored.result["tables"]["series"])
    assert per_series["series"].tolist() == explored.data.ids_N.tolist()
    sizes = {row["cluster"]: row["series"] for row in explored.result["tables"]["centres"]}
    assert per_series["cluster"].value_counts().to_dict() == sizes and sum(sizes.values()) == 24


def test_the_closing_table_has_the_key_facts(explored):
    period = find(explored.result["tables"]["cycles"], quantity="period of prey", unit="steps")["mean"]
    lines = dict(re.findall(r"^(\S.*?)  +(\S.*)$", explored.said, re.MULTILINE))
    assert lines["period of prey"].startswith(f"{period:.1f} steps = {2 * period:.1f} time units")
    assert lines["series"] == "24 of 60 steps, one every 2 time units"
    assert lines["checks"].startswith("no NaN") and "raw units per written unit" in lines["mao's factor"]
    assert {"tokens, jaxlv", "tokens, rai", "padding, rai", "lag of predator", "at rest", "four clusters"} <= set(lines)
    assert "64 / 300 tokens" in lines["padding, rai"]
    assert max(map(len, explored.said.splitlines())) <= 125


def test_the_chosen_series_are_shown_and_written(explored):
    assert [row["series"] for row in explored.result["examples"]] == [5, 2]
    assert {row["series"] for row in explored.result["tables"]["texts"]} == {5, 2}
    assert {path.stem for path in (explored.out / "figures").glob("series_*.svg")} == {"series_5", "series_2"}
    assert "Series as asked for." in explored.page and "series 5, mao" in explored.page
    assert "the embedded base, tokenizer.json; it cuts 12 of the 12 texts" in explored.page
    assert [row["length"] for row in explored.result["tables"]["windows"]][:2] == [64, 300]


def test_the_page_is_whole_and_needs_nothing_else(explored):
    tree = Tree(explored.page)
    assert set(re.findall(r"https?://[^\"'<> )]+", explored.page)) == {"http://www.w3.org/2000/svg"}
    heads = [text for tag, text in tree.texts if tag == "h2"]
    assert heads == [
        "The file", "Trajectories", "Periods and lags", "Regimes", "Other features", "As text", "Windows", "How it was made",
    ]  # fmt: skip
    visible = " ".join(text for tag, text in tree.texts if tag not in ("style", "script"))
    assert not re.search(r"\b(None|nan|NaN(?! values|,)|inf|True|False)\b", visible.replace("NaN 15", ""))
    drawings = [attrs for tag, attrs in tree.tags if tag == "svg"]
    assert len(drawings) == len(list((explored.out / "figures").glob("*.svg"))) == len({d["aria-label"] for d in drawings})
    assert tree.count("figure") == tree.count("figcaption")
    identifiers = re.findall(r'\sid="([^"]+)"', explored.page)
    assert len(identifiers) == len(set(identifiers))
    assert "the paper xu" not in explored.page  # its figures are of other series


def test_figures_stand_alone_in_light_and_dark(explored):
    for path in (explored.out / "figures").glob("*.svg"):
        text = path.read_text()
        root = ET.fromstring(text)
        style = root.find(f"{SVG}style").text
        assert "prefers-color-scheme:dark" in style and style.count("--species-1:") == 2
        used = set(re.findall(r"var\(--([\w-]+),", text))
        assert all(f"--{name}:" in style for name in used)
        assert not re.search(r"\bnan\b|\binf\b", text, re.IGNORECASE) and len(text) < 150_000
        assert path.with_suffix(".png").stat().st_size > 1000


def test_only_the_course_s_file_is_compared_with_the_report(shared):
    """Its hash is the one that the reports' data set has."""
    (row,) = [r for r in exploration.inspect(shared / "data" / "lotka_volterra_data.h5") if r.check == "sha256"]
    assert row.found == COURSE_SHA256


@pytest.mark.slow
def test_the_course_s_data_set(shared, tmp_path):
    said = said_by(shared / "data" / "lotka_volterra_data.h5", "--out", tmp_path / "out")
    assert "21.6 steps = 43.6 time units (5-95 %: 14.7-31.8 steps)" in said.out
    assert "24 series have fewer than two peaks" in said.out and "0.79296957 raw units" in said.out
    assert "1.91 / 1.91 / 34.6 % of validation positions in windows of 128 / 512 / 768 tokens" in said.out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Agreement with the paper xu" in page and "20–25 “time units”: these are steps" in page


# Files of any kind


def npz(path: Path, values_NTV: np.ndarray, **arrays: Any) -> Path:
    np.savez(path, **{"trajectories": values_NTV, "time": np.arange(values_NTV.shape[1]), **arrays})
    return path


@pytest.mark.parametrize(("count_", "steps", "names"), [(1, 2, "abc"), (18, 25, ("fox",))])
def test_any_number_of_series_steps_and_variables(tmp_path, monkeypatch, count_, steps, names):
    monkeypatch.setattr(svg, "save_png", lambda *_: None)  # saves time
    random = np.random.default_rng(0)
    phase = random.uniform(0, 6, (count_, 1, len(names)))
    path = npz(tmp_path / "x.npz", 2 + np.sin(np.arange(steps)[:, None] / 2 + phase), variables=np.array(list(names)))
    said = said_by(path, "--out", tmp_path / "out", "--context-lengths", "64", "--json")
    assert said.code == 0 and said.err.startswith("explore: reading")
    result = json.loads((tmp_path / "out" / "exploration.json").read_text())
    assert json.loads(said.out) == {"folder": str(tmp_path / "out"), **result}
    assert result["series"] == count_ and result["window"] == min(20, steps) and result["regimes"] is None
    page = (tmp_path / "out" / "report.html").read_text()
    Tree(page)
    assert "Regimes" not in page and ("phase" in page.lower()) == (len(names) > 1)


def test_a_file_with_faults_gets_its_quality_and_one_line(tmp_path, waves):
    values_NTV = waves(5, 30).values_NTV
    values_NTV[2, 4, 1], values_NTV[3] = np.inf, values_NTV[1]
    said = said_by(npz(tmp_path / "bad.npz", values_NTV), "--out", tmp_path / "out")
    assert said.code == 2 and len(said.err.splitlines()) == 1
    assert "1 infinite values" in said.err and "series 2, step 4, predator" in said.err and "quality.csv" in said.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["quality.csv"]
    table = pd.read_csv(tmp_path / "out" / "quality.csv").set_index("check")
    assert table.loc["infinite values", "found"] == "1"
    assert table.loc["duplicate series", "first"] == "series 3, the same as 1"
    assert table.loc[["negative values", "infinite values"], "ok"].tolist() == [True, False]


def test_a_file_of_another_kind_gets_its_quality_too(tmp_path):
    path = tmp_path / "x.h5"
    path.write_text("series\n")
    said = said_by(path, "--out", tmp_path / "out")
    assert said.code == 2 and "expected HDF5; found text" in said.err and (tmp_path / "out" / "quality.csv").is_file()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--series", "3,77"], "unknown series"),
        (["--tokenizer", "gone"], "no such folder"),
        (["--tokenizer", "."], "no tokenizer"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(tmp_path, waves, options, part):
    options = [str(tmp_path) if option == "." else option for option in options]
    said = said_by(npz(tmp_path / "x.npz", waves(5, 30).values_NTV), "--out", tmp_path / "out", *options)
    assert said.code == 2 and part in said.err and not (tmp_path / "out").exists()


def test_a_folder_with_files_is_left_alone(tmp_path, waves):
    said = said_by(npz(tmp_path / "x.npz", waves(5, 30).values_NTV), "--out", tmp_path)
    assert said.code == 2 and "exists already" in said.err and [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_an_older_exploration_is_replaced_by_a_complete_one_alone(tmp_path, waves):
    data, bad, out = npz(tmp_path / "x.npz", waves(5, 30).values_NTV), tmp_path / "bad.csv", tmp_path / "out"
    bad.write_text("nothing\n")
    assert said_by(bad, "--out", out).code == 2 and [path.name for path in out.iterdir()] == ["quality.csv"]
    assert said_by(data, "--out", out).code == 0  # what a refused file left is no exploration
    (out / "older.txt").touch()
    again = said_by(data, "--out", out)
    assert again.code == 2 and "exists already; choose another folder, or --overwrite" in again.err
    refused = said_by(bad, "--out", out, "--overwrite")
    assert refused.code == 2 and f"{out} is as it was" in refused.err and (out / "report.html").is_file()
    assert (out / "older.txt").is_file()
    assert said_by(data, "--out", out, "--overwrite").code == 0 and not (out / "older.txt").exists()


@pytest.mark.parametrize("text", ["", "12,x", "1", "64,64", "512,0"])
def test_window_lengths_are_checked(text, tmp_path):
    assert said_by("x.h5", "--out", tmp_path / "out", "--context-lengths", text).code == 2


# Tables and figures


def test_values_become_text_by_the_form_of_their_column():
    assert [text(v) for v in (1234.5, 0.00012345, None, float("nan"))] == ["1230", "1.23e−4", MISSING, MISSING]
    assert (text(1003.0, "count"), text(0.01234, "share"), text(True, "words")) == ("1,003", "1.23", "yes")
    assert (text(0.5, "signed"), text(-0.5, "signed"), text(1 / 3, "fine")) == ("+0.500", "−0.500", "0.333333")


def test_a_table_groups_neighbours_aligns_points_and_marks_rows():
    rows = [{"name": "one", "a": 1.5, "b": 10.25, "c": "x", "used": True}, {"name": "two", "a": 12.5, "b": None, "c": "y"}]
    columns = [words("name"), *of([("a", "A"), ("b", "B")], "both", "units"), words("c")]
    table = Table("label", "caption", rows, columns, marked("used"))
    assert [(g.name, g.unit, g.span) for g in table.groups] == [("", "", 1), ("both", "units", 2), ("", "", 1)]
    assert table.heads == ["name", "A", "B", "c"]
    first, second = table.cells
    assert [cell.best for cell in first] == [False, True, True, True] and not any(cell.best for cell in second)
    assert first[1].text.index(".") == second[1].text.index(".") and second[2].text.strip() == MISSING
    assert (first[2].value, second[2].value, first[3].words, first[1].words) == (10.25, None, True, False)


def test_at_most_so_many_dots_are_drawn():
    assert len(drawn.thinned(5)) == 5 and len(drawn.thinned(10**6)) == drawn.MOST
    assert drawn.thinned(10**6)[[0, -1]].tolist() == [0, 10**6 - 1]


def test_a_file_s_colours_are_those_of_the_page():
    root = ET.fromstring(svg.stand_alone(svg.to_svg(figures.silhouette_figure([Silhouette(2, 0.5)]), "x")))
    style = root.find(f"{SVG}style").text
    light, dark = svg.PAPER
    assert style.index(f"background:{light}") < style.index("prefers-color-scheme:dark") < style.index(f"background:{dark}")


# From Python


def test_a_frame_of_named_series_of_several_lengths_is_explored_under_its_names(tmp_path):
    """Ids that no file name can hold, dates, missing values, and values below zero, which stay as they are in the tables."""
    parts = []
    for name, steps in (("Lake A/1", 30), ("a b", 24), ("a.b", 22)):
        k = np.arange(steps)
        columns = {"month": pd.date_range("2015-01-31", periods=steps, freq="ME"), "hare": 3 + 2 * np.sin(k / 3)}
        parts.append(pd.DataFrame({"site": name, **columns, "lynx": 3 + 2 * np.cos(k / 3)}))
    frame = pd.concat(parts, ignore_index=True)
    frame.loc[29, "lynx"], frame.loc[28, "hare"] = -4.0, np.nan
    with pytest.warns(JaxlvWarning, match="the last 22 steps of each|shifted above zero|1 missing value"):
        found = jaxlv_package.explore(frame, tmp_path / "out", series=["a b", "Lake A/1"], tokenizer="embedded")
    assert (found.series, found.steps, found.data, found.data_sha256) == (3, 22, "frame", None)
    assert [one.series for one in found.examples] == ["a b", "Lake A/1"] and found.tables.values[2].min == -4.0
    assert {row.series for row in found.tables.texts} == {"a b", "Lake A/1"} and not found.tables.tokens[0].absent
    assert [row.series for row in found.tables.series] == ["Lake A/1", "a b", "a.b"]
    assert all(row.series == 3 for row in found.tables.windows)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("series Lake A/1: ") >= 2 and (tmp_path / "out" / "figures" / "phase_1_Lake-A-1.svg").is_file()
    read = Exploration.read(json.loads((tmp_path / "out" / "exploration.json").read_text()), "exploration.json")
    assert read == found


def test_a_file_of_named_series_is_explored_by_the_program(tmp_path):
    k = np.arange(25)
    values = {"prey": 2 + np.sin(k), "predator": 2 + np.cos(k)}
    frame = pd.concat([pd.DataFrame({"series": name, "time": k, **values}) for name in ("north", "south")])
    frame.to_csv(tmp_path / "named.csv", index=False)
    said = said_by(tmp_path / "named.csv", "--series", "south", "--out", tmp_path / "out")
    assert (said.code, said.err) == (0, "")
    assert [one["series"] for one in json.loads((tmp_path / "out" / "exploration.json").read_text())["examples"]] == [
        "south"
    ]


def test_simulated_series_come_as_observations_and_are_explored(tmp_path):
    made = jaxlv_package.simulate(series=3, steps=30, seed=5)
    again = jaxlv_package.simulate("course", 3, 30, seed=5, noise=0.2)
    assert (len(made), made.variables, made.values[0].shape) == (3, ("prey", "predator"), (30, 2))
    assert made.source["simulation"]["seed"] == 5 and again.source["simulation"]["noise"] == 0.2
    assert 0.02 < np.std(np.log(again.values[0] / made.values[0])) < 0.5
    found = jaxlv_package.explore(made, tmp_path / "out")
    assert (found.data, found.series, found.steps) == ("simulated series", 3, 30)
    with pytest.raises(JaxlvError, match="exists"):
        jaxlv_package.explore(made, tmp_path / "out")
    with pytest.raises(JaxlvError, match=r"unknown preset; expected course, .*; found foxes"):
        jaxlv_package.simulate("foxes")
    with pytest.raises(JaxlvError, match="1 missing value"):
        jaxlv_package.explore({"a": [1.0, np.nan, 2.0, 3.0]}, tmp_path / "gaps", missing="error")
    with pytest.raises(JaxlvError, match="unknown setting idd"):
        jaxlv_package.explore(made, tmp_path / "other", idd="x")
