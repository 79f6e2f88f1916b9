"""A config from files and from settings on the command line: what overrides what, and where the limits are."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxlv.config import DEEPEST, MOST_EXTENDED, built_in, find_config, load_config, override, read_tree, to_toml
from jaxlv.errors import JaxlvError
from jaxlv.storage.door import LIMITS


def test_a_config_lies_over_the_one_beside_it_that_it_extends_section_by_section(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "own.toml").write_text('extends = "below/middle.toml"\n[lora]\nrank = 5\n')
    (tmp_path / "below/middle.toml").write_text('extends = "last.toml"\n[lora]\nrank = 6\nalpha = 7.0\n[train]\nsteps = 8\n')
    (tmp_path / "below/last.toml").write_text("[lora]\nalpha = 9.0\n[train]\nsteps = 10\nseed = 11\n")
    expected = {"lora": {"rank": 5, "alpha": 7.0}, "train": {"steps": 8, "seed": 11}}
    assert read_tree(tmp_path / "own.toml") == expected
    found = load_config(tmp_path / "own.toml", ["train.seed=1"])
    assert (found.lora.rank, found.lora.alpha, found.train.steps, found.train.seed) == (5, 7.0, 8, 1)


@pytest.mark.parametrize("name", ["own.toml", "../here/own.toml"])
def test_a_config_that_extends_itself_is_refused_under_each_of_its_names(name, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/own.toml").write_text(f'extends = "{name}"\n')
    with pytest.raises(JaxlvError, match="extends itself"):
        read_tree(tmp_path / "here/own.toml")


def chain(folder, count):
    for i in range(count):
        (folder / f"{i}.toml").write_text(f'extends = "{i + 1}.toml"\n' if i < count - 1 else "[lora]\nrank = 3\n")
    return folder / "0.toml"


def filled(folder, size):
    (folder / "full.toml").write_bytes(b"#" * size)
    return folder / "full.toml"


def nested(folder, levels):
    (folder / "nested.toml").write_text("a = " + "[" * (levels - 1) + "]" * (levels - 1))  # the file is a level, too
    return folder / "nested.toml"


@pytest.mark.parametrize(("make", "most"), [(chain, MOST_EXTENDED), (filled, LIMITS["config"]), (nested, DEEPEST)])
def test_what_is_at_a_limit_is_read_and_what_is_beyond_is_refused(make, most, tmp_path):
    read_tree(make(tmp_path, most))
    with pytest.raises(JaxlvError, match=r"too (many|large|deep)"):
        read_tree(make(tmp_path, most + 1))


def test_all_linear_stands_alone(tmp_path):
    (tmp_path / "c.toml").write_text('[lora]\ntargets = "all-linear"\n')
    found = load_config(tmp_path / "c.toml")
    assert found.lora.targets == ("all-linear",) and load_config(tmp_path / "c.toml", ["lora.targets=all-linear"]) == found
    (tmp_path / "again.toml").write_text(to_toml(found))
    assert load_config(tmp_path / "again.toml") == found


def test_settings_lie_over_sections_that_stay_as_they_are():
    given = {"lora": {"rank": 2}, "data": {"path": "a.h5"}}
    found = override(given, ["lora.rank=3", "train.validate_every = 5", "data.path=b c.h5", "lora.targets=['q', 'v']"])
    assert found == {
        "lora": {"rank": 3, "targets": ["q", "v"]},
        "data": {"path": "b c.h5"},
        "train": {"validate_every": 5},
    }
    assert given == {"lora": {"rank": 2}, "data": {"path": "a.h5"}}


@pytest.mark.parametrize(("section", "verb"), [("grid", "jaxlv sweep"), ("stage", "jaxlv reproduce")])
def test_what_is_no_single_run_is_for_another_program(section, verb, tmp_path):
    (tmp_path / "own.toml").write_text(f"[{section}]\n")
    with pytest.raises(JaxlvError, match=verb):
        load_config(tmp_path / "own.toml")


def test_a_name_is_a_file_if_there_is_one_and_else_a_config_that_comes_with_jaxlv(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = built_in()
    assert find_config("demo") == known["demo"] and find_config("xu/grid") == known["xu/grid"]
    (tmp_path / "compare").mkdir()
    assert find_config("compare") == known["compare"]
    (tmp_path / "demo").write_text("[train]\nsteps = 7\n")
    assert find_config("demo") == Path("demo") and load_config("demo").train.steps == 7
    with pytest.raises(JaxlvError, match=r"demoo: no such config; expected a TOML file, or one of .*; demo\?"):
        find_config("demoo")
