"""Each of the 42 cases has a test with its number, in the file that tests/README.md names."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
NUMBERED = re.compile(r"def test_(\d+)_|^ +\"(\d+) ", re.M)  # a test, or one of its parameters


def test_every_case_has_its_test():
    rows = re.findall(r"^\| `([\w/]+\.py)` \| ([\d, -]+):", (TESTS / "README.md").read_text(encoding="utf-8"), re.M)
    cases = set()
    for name, numbers in rows:
        told: set[int] = set()
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", numbers):
            told |= set(range(int(first), int(last or first) + 1))
        found = {int(a or b) for a, b in NUMBERED.findall((TESTS / name).read_text(encoding="utf-8"))}
        assert found == told, name
        cases |= told
    assert cases == set(range(1, 43))
