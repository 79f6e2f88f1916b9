"""The list of mutants fits the code, and what makes, places and counts them does what it says."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants import automatic, covering
from tests.mutants.mutant import Mutant, listed, misplaced

ROOT = Path(__file__).resolve().parents[1]


def test_every_listed_mutant_can_be_put_into_its_file():
    """After a change of the code: mend the entry in tests/mutants/listed, or delete it with what it was about."""
    mutants = listed()
    assert misplaced(mutants, ROOT) == []
    assert len({one.id for one in mutants}) == len(mutants) >= 240
    assert len({(one.file, one.old, one.new) for one in mutants}) == len(mutants)
    assert {one.folder for one in mutants} == {*automatic.FOLDERS, "studies"}
    assert all(one.words for one in mutants)
    assert sum(bool(one.equivalent) for one in mutants) <= len(mutants) // 50


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("x + 1", "x - 1", "occurs 2 times"),
        ("x + 3", "x - 3", "occurs 0 times"),
        ("x + 2", "x + 2", "changes nothing"),
        ("x + 2", "x +", "invalid syntax"),
    ],
)
def test_an_entry_that_does_not_fit_is_named(old, new, fault, tmp_path):
    (tmp_path / "a.py").write_text("a = x + 1\nb = x + 1\nc = x + 2\n")
    (found,) = misplaced([Mutant("runs.one", "a.py", old, new, "wrong")], tmp_path)
    assert found.startswith("runs.one: ") and fault in found
    assert misplaced([Mutant("runs.one", "b.py", old, new, "wrong")], tmp_path)[0].startswith("runs.one: ")


TEXT = '''"""Says 1 + 1."""
from typing import Literal

__all__ = ["f"]


def f(a: Literal[1, 2], b: int = 3) -> int:
    """Returns 4."""
    if a < b and not a:
        raise ValueError(f"{a + 5}")
    g(a, b, k=6)
    total = min(a, b) + max(
        a,
        b,
    )
    return total * 7
'''


def changes(text: str) -> set[str]:
    """The lines that rules make of a text, "old -> new", with only what differs."""
    found = set()
    for at, old, new, words in automatic._changes(text):
        changed = text[:at] + new + text[at + len(old) :]
        ast.parse(changed)
        assert text[at : at + len(old)] == old and changed != text and words
        line = text[:at].count("\n")
        found.add(f"{text.splitlines()[line].strip()} -> {changed.splitlines()[line].strip()}")
    return found


def test_rules_change_what_a_test_may_notice_and_nothing_else():
    found = changes(TEXT)
    assert {
        "if a < b and not a: -> if a <= b and not a:",
        "if a < b and not a: -> if a < b or not a:",
        "if a < b and not a: -> if a < b and a:",
        "if a < b and not a: -> if (not (a < b and not a)):",
        'raise ValueError(f"{a + 5}") -> pass',
        "g(a, b, k=6) -> pass",
        "g(a, b, k=6) -> g(b, a, k=6)",
        "g(a, b, k=6) -> g(a, b)",
        "g(a, b, k=6) -> g(a, b, k=7)",
        "total = min(a, b) + max( -> total = max(a, b) + max(",
        "return total * 7 -> return total / 7",
        "return total * 7 -> return total * 8",
        "return total * 7 -> return None",
        "def f(a: Literal[1, 2], b: int = 3) -> int: -> def f(a: Literal[1, 2], b: int = 4) -> int:",
    } <= found
    assert not any(
        "1 + 1" in one or "Returns" in one or "__all__" in one or "5" in one.partition(" -> ")[2] for one in found
    )


def test_a_sample_is_even_over_folders_and_the_same_for_a_seed():
    folders = ("storage", "text", "lora")
    one, again, other = (automatic.sample(ROOT, 12, seed, folders) for seed in (0, 0, 1))
    assert one == again != other
    assert [sum(mutant.folder == folder for mutant in one) for folder in folders] == [4] * 3
    assert misplaced(one, ROOT) == []


def test_a_mutant_knows_the_statement_that_it_is_in():
    assert Mutant("x", "a.py", "a,\n        b", "b,\n        a", "").lines(TEXT) == {12, 13, 14, 15}
    assert Mutant("x", "a.py", "a < b", "a > b", "").lines(TEXT) == {9}


def test_tests_are_taken_in_the_order_in_which_they_may_notice(tmp_path):
    """Those that run the line, quick ones first, those beside them, others of the file, within the limit; former killers
    before all.
    """
    seconds = {"a::quick": 0.1, "a::slow": 20.0, "a::traced": 0.3, "b::other": 0.2, "b::long": 70.0, "c::elsewhere": 0.1}
    tests = covering.Map(tmp_path, tmp_path)
    tests.tests = {name: covering.Test(name, took, lines=10) for name, took in seconds.items()}
    tests.by_line["f.py"][3] = {"a::quick", "a::slow"}
    tests.by_file["f.py"] = {"a::quick", "a::slow", "b::other", "b::long"}
    planned = tests.plan("f.py", {3}, 60)
    assert list(planned) == ["a::quick", "a::slow", "a::traced", "b::other"] and planned["a::slow"] == 20
    tests.killed("f.py", "a::slow")
    assert list(tests.plan("f.py", {3}, 60)) == ["a::slow", "a::quick", "a::traced", "b::other"]
    assert list(tests.plan("f.py", {3}, 60, known="b::long")) == ["b::long"]
    tests.broken |= {"a::slow", "b"}
    assert list(tests.plan("f.py", {3}, 60)) == ["a::quick", "a::traced"]
    assert tests.plan("g.py", {3}, 60) == {}
    tests.tests |= {name: covering.Test(name, 0.5, 10, {"slow": 30.0}) for name in ("test_f.py::a", "test_f.py::b")}
    tests.by_file["f.py"] |= {"test_f.py::a", "test_f.py::b"}
    first = list(tests.plan("f.py", {99}, 60))[:2]  # of no test's own: it runs when the module is imported
    assert first == ["test_f.py::a", "test_f.py::b"]


MODULE = """import os


def larger(a, b):
    return a if a > b else b


def quits(n):
    if n > 1:
        os._exit(3)


quits(1 - 1)
"""
TESTS = """from pathlib import Path

from jaxlv.model.module import larger, quits


def test_larger():
    assert larger(1, 2) == 2 and larger(2, 1) == 2


def test_passes_once():
    marker = Path({marker!r})
    fresh = not marker.exists()
    marker.touch()
    assert fresh and larger(1, 0)


def test_ends_no_process():
    quits(1)
"""


def test_a_mutant_is_killed_by_tests_that_pass_without_it_or_by_the_end_of_the_process(tmp_path):
    root = tmp_path / "tree"
    texts = {"jaxlv/__init__.py": "", "jaxlv/model/__init__.py": "", "jaxlv/model/module.py": MODULE, "tools/none.py": ""}
    texts["tests/test_module.py"] = TESTS.format(marker=str(tmp_path / "marker"))
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "configs").mkdir()
    words = ["--sample", "19", "--workers", "1", "--root", str(root), "--results", str(tmp_path / "results")]
    done = subprocess.run([sys.executable, "-m", "tests.mutants", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((root / ".mutants/results/sample.json").read_text())["mutants"]
    by = {one["words"]: (one["state"], one["by"].partition("::")[2]) for one in found.values()}
    assert by == {
        "line 5: > -> >=": ("alive", ""),
        "line 5: returns None": ("killed", "test_larger"),
        "line 9: > -> >=": ("killed", "test_ends_no_process"),
        "line 9: 1 -> 2": ("alive", ""),
        "line 10: 3 -> 4": ("alive", ""),
        "line 10: os._exit(...) not called": ("alive", ""),
        "line 13: quits(...) not called": ("alive", ""),
        "line 13: - -> +": ("killed", ""),  # in the import of the tests
        "line 13: 1 -> 2": ("alive", ""),
    }
    page = (tmp_path / "results/sample.md").read_text()
    assert "| model | 10 | 3 | 30.0% |" in page and str(tmp_path) not in page
    assert (root / "jaxlv/model/module.py").read_text() == MODULE
