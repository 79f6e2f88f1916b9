"""A bug to put into a file: hand-made, from the lists beside this module, or made by `automatic`."""

from __future__ import annotations

import ast
import functools
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LISTS = Path(__file__).parent / "listed"
TOP = "top"  # in place of a folder's name: the modules that lie in none


@dataclass(frozen=True)
class Mutant:
    """One bug: in `file`, `old` becomes `new`; `words` say what is then wrong.

    `at` is the place of `old` in the file's text; None means that `old` occurs only once. If `equivalent` is not empty, it
    is the reason why the change alters nothing that a test could see, and the mutant is not counted.
    """

    id: str
    file: str  # from the root of the repository, with "/"
    old: str
    new: str
    words: str
    at: int | None = None
    equivalent: str = ""

    @property
    def folder(self) -> str:
        """The folder of the library that it is in, or TOP."""
        _, *folders, _ = self.file.split("/")
        return folders[0] if folders else TOP

    def place(self, text: str) -> int:
        """Returns where `old` begins in the text of its file; raises ValueError if that is not clear."""
        if self.at is not None:
            if text[self.at : self.at + len(self.old)] != self.old:
                raise ValueError(f"{self.id}: {self.file} has changed")
            return self.at
        if text.count(self.old) != 1:
            raise ValueError(f"{self.id}: {self.old!r} occurs {text.count(self.old)} times in {self.file}")
        return text.index(self.old)

    def applied(self, text: str) -> str:
        """The text of its file with the bug in it."""
        at = self.place(text)
        return text[:at] + self.new + text[at + len(self.old) :]

    def lines(self, text: str) -> set[int]:
        """The lines (from 1) of the statements that the bug changes."""
        at, after = self.place(text), self.applied(text)
        same = next((i for i, (a, b) in enumerate(zip(text[at:], after[at:], strict=False)) if a != b), 0)
        first = 1 + text[: at + same].count("\n")
        last = 1 + text[: at + len(self.old)].count("\n")
        return set().union(*(statement(text, line) for line in range(first, max(first, last) + 1)))


def statement(text: str, line: int) -> set[int]:
    """The lines of the innermost statement that a line belongs to; of a compound one, its head."""
    return _statements(text).get(line, {line})


@functools.lru_cache(maxsize=256)
def _statements(text: str) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for node in ast.walk(ast.parse(text)):  # breadth first: inner statements come later and win
        if isinstance(node, ast.stmt) and node.end_lineno:
            body = getattr(node, "body", None)
            last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno
            lines = set(range(node.lineno, last + 1))
            found |= dict.fromkeys(lines, lines)
    return found


def listed(folder: Path = LISTS) -> list[Mutant]:
    """The hand-made mutants: a list for each folder of the library, in it a table for each file, {id: entry}."""
    found = []
    for path in sorted(folder.glob("*.toml")):
        for file, entries in tomllib.loads(path.read_text(encoding="utf-8")).items():
            place = f"jaxlv/{file}" if path.stem == TOP else f"jaxlv/{path.stem}/{file}"
            found += [Mutant(f"{path.stem}.{id}", place, **one) for id, one in entries.items()]
    return found


def misplaced(mutants: Sequence[Mutant], root: Path) -> list[str]:
    """Lists what is wrong with mutants that cannot be put into the files below `root`, one phrase each."""
    faults = []
    for one in mutants:
        try:
            text = (root / one.file).read_text(encoding="utf-8")
            changed = one.applied(text)
            if changed == text:
                faults.append(f"{one.id}: changes nothing")
            ast.parse(changed)
        except (OSError, ValueError, SyntaxError) as fault:
            faults.append(f"{one.id}: {fault}")
    return faults
