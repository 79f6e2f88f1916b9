"""What a power cut leaves of a folder: states built from a log of operations (tests/faults/shim.c) by the rules of POSIX.

Bytes are on the disk once their file has been flushed; a name is there, or gone, once its folder has been flushed. Until
then any part may be missing: bytes wholly, in part, or as zeros in a file of the full length; names one by one.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from jaxlv.storage.files import SUFFIX
from tests.faults.shim import Kind

HEAD = struct.Struct("6q")  # of a line of the log
BLOCK = 512  # bytes that a disk writes as a whole


def is_unfinished(name: str) -> bool:
    """Is it what `jaxlv.storage.files` calls what is being written?"""
    return name.startswith(".") and name.endswith(SUFFIX)


class Operation(NamedTuple):
    """A line of the log. `file` is its number on the disk, `other` the new name of a rename, `offset` the place of `data`,
    or a file's new length.
    """

    kind: Kind
    file: int
    path: str
    other: str
    offset: int
    data: bytes


def read_log(path: Path) -> list[Operation]:
    """The operations of a log, in their order."""
    content, at, found = path.read_bytes(), 0, []
    while at < len(content):
        kind, file, *sizes, offset, size = HEAD.unpack_from(content, at)
        lengths = (*sizes, size if kind == Kind.WRITE else 0)
        ends = list(itertools.accumulate(lengths, initial=at + HEAD.size))
        here, other, data = (content[a:b] for a, b in itertools.pairwise(ends))
        names = (os.path.normpath(name.decode()) for name in (here, other))
        found.append(Operation(Kind(kind), file, *names, offset, data))
        at = ends[-1]
    return found


class Write(NamedTuple):
    """Bytes of a file at a place, or (`data` None) its new length."""

    node: int
    offset: int
    data: bytes | None


class Name(NamedTuple):
    """Names that change together: {(folder, name): file or folder, or None if the name is removed}."""

    changes: Mapping[tuple[int, str], int | None]


class _Names:
    """The names below a root as the process saw them: {(folder, name): file or folder}."""

    def __init__(self, root: Path):
        self.root = str(root.resolve())
        self.names: dict[tuple[int, str], int] = {}
        self.nodes = {root.stat().st_ino: 0}  # by the number on the disk
        self._count = itertools.count(1)

    def place(self, path: str) -> tuple[int, str]:
        """The folder and the name of a path."""
        parts, folder = Path(os.path.relpath(path, self.root)).parts, 0
        for part in parts[:-1]:
            folder = self.names[folder, part]
        return folder, parts[-1] if parts else ""

    def add(self, at: tuple[int, str], file: int) -> int:
        self.names[at] = self.nodes[file] = next(self._count)
        return self.names[at]

    def move(self, at: tuple[int, str], to: tuple[int, str]) -> Name:
        node = self.names.pop(at)
        self.names[to] = node
        return Name({at: None, to: node})


@dataclass
class History:
    """The operations below a root, which is number 0, as changes of numbered files and folders."""

    root: str
    operations: list[Operation] = field(default_factory=list)
    changes: list[Write | Name | None] = field(default_factory=list)  # what each of them does; None = a flush
    flushed_at: list[int | None] = field(default_factory=list)  # the operation that brings each to the disk
    folders: set[int] = field(default_factory=lambda: {0})

    @classmethod
    def of(cls, root: Path, operations: Collection[Operation]) -> History:
        """Builds a history from a log that began with an empty root."""
        self, known = cls(str(root.resolve())), _Names(root)
        for one in operations:
            at, node = known.place(one.path), known.nodes.get(one.file)
            if one.kind in (Kind.CREATE, Kind.MKDIR):
                node = known.add(at, one.file)
                self.folders |= {node} if one.kind == Kind.MKDIR else set()
                self._add(one, Name({at: node}))
            elif one.kind == Kind.RENAME:
                self._add(one, known.move(at, known.place(one.other)))
            elif one.kind == Kind.REMOVE:
                del known.names[at]
                self._add(one, Name({at: None}))
            elif node is not None:  # else a file that is open, and whose name is gone
                if node and known.names.get(at) != node:  # Rust's library renames without the C library
                    old = next(old for old, there in known.names.items() if there == node)
                    self._add(Operation(Kind.RENAME, one.file, "", one.path, 0, b""), known.move(old, at))
                if one.kind == Kind.SYNC:
                    self._flush(node)
                    self._add(one, None)
                else:
                    self._add(one, Write(node, one.offset, one.data if one.kind == Kind.WRITE else None))
        return self

    def _add(self, operation: Operation, change: Write | Name | None) -> None:
        self.operations.append(operation)
        self.changes.append(change)
        self.flushed_at.append(None)

    def _flush(self, node: int) -> None:
        for i, change in enumerate(self.changes):
            if self.flushed_at[i] is not None:
                continue
            if isinstance(change, Write):
                flushed = change.node == node
            else:
                flushed = change is not None and node in {folder for folder, _ in change.changes}
            if flushed:
                self.flushed_at[i] = len(self.changes)

    def states(self, cut: int) -> Iterator[State]:
        """Yields what the disk may hold if the power fails after `cut` operations: all losses of names, with all of bytes.

        Names and bytes in a folder that has not got its own name yet are all there or all lost.
        """
        lost = [i for i in range(cut) if (end := self.flushed_at[i]) is None or end >= cut]
        seen = self._seen(cut)
        names, writes = (
            [(i, change) for i in lost if isinstance(change := self.changes[i], kind)] for kind in (Name, Write)
        )
        some = [i for i, change in names if seen & {folder for folder, _ in change.changes}]
        ways = [(), [i for i, _ in names], *([one] for one in some), *(some[i:] for i in range(len(some)))]
        ways += [[one for one in some if one != kept] for kept in some]
        damages = DAMAGES if any(change.node in seen for _, change in writes) else DAMAGES[:1]
        for without in dict.fromkeys(frozenset(way) for way in ways):
            for damage in damages:
                yield self._state(cut, without, {i for i, _ in writes}, damage)

    def _seen(self, cut: int) -> set[int]:
        """The files and folders that the process saw under names of their own."""
        names: dict[tuple[int, str], int] = {}
        for change in self.changes[:cut]:
            if isinstance(change, Name):
                _rename(names, change)
        seen, count = {0}, 0
        while len(seen) > count:
            count = len(seen)
            seen |= {node for (folder, name), node in names.items() if folder in seen and not is_unfinished(name)}
        return seen

    def _state(self, cut: int, without: Collection[int], writes: Collection[int], damage: str) -> State:
        names: dict[tuple[int, str], int] = {}
        files: dict[int, bytearray] = {}
        for i, change in enumerate(self.changes[:cut]):
            if isinstance(change, Name) and i not in without:
                end = self.flushed_at[i]
                _rename(names, change, flushed=end is not None and end < cut)
            elif isinstance(change, Write):
                _write(files.setdefault(change.node, bytearray()), change, damage if i in writes else "")
        return State(dict(self._walk(names, files, 0, "")))

    def _walk(
        self, names: Mapping[tuple[int, str], int], files: Mapping[int, bytearray], folder: int, path: str
    ) -> Iterator[tuple[str, bytes | None]]:
        for (parent, name), node in sorted(names.items()):
            if parent == folder:
                inside = f"{path}{name}"
                is_folder = node in self.folders
                yield inside, None if is_folder else bytes(files.get(node, b""))
                if is_folder:
                    yield from self._walk(names, files, node, f"{inside}/")


def _rename(names: dict[tuple[int, str], int], change: Name, flushed: bool = False) -> None:
    """Names that were to move or go, but are not there as what made them was lost, stay away, unless they were `flushed`."""
    there = {node for at, gone in change.changes.items() if gone is None if (node := names.pop(at, None)) is not None}
    made = {at: node for at, node in change.changes.items() if node is not None}
    names |= {at: node for at, node in made.items() if flushed or len(change.changes) == 1 or node in there}


DAMAGES = ("", "lost", "zeros", "torn", "late")
"""What becomes of bytes that were not flushed: all, none, zeros, the first half, or the blocks behind the first."""


def _write(content: bytearray, change: Write, damage: str) -> None:
    if change.data is None:
        if damage != "lost":
            del content[change.offset :]
            content.extend(bytes(change.offset - len(content)))
        return
    data = change.data
    if damage == "torn":
        data = data[: len(data) // 2]
    elif damage == "late":  # blocks of the file, not of this write
        first = -change.offset % BLOCK or BLOCK
        data = bytes(min(first, len(data))) + data[first:]
    elif damage == "zeros":
        data = bytes(len(data))
    elif damage == "lost":
        return
    content.extend(bytes(max(0, change.offset - len(content))))
    content[change.offset : change.offset + len(data)] = data


class State(NamedTuple):
    """A folder's files with their bytes, and its folders (None), by path."""

    entries: dict[str, bytes | None]

    def mark(self) -> str:
        """A hash of what the state is; what is being written, in folders and files named *.tmp, counts by its name alone."""
        digest = hashlib.sha256()
        for path, content in self.entries.items():
            if not any(map(is_unfinished, Path(path).parts[:-1])):
                digest.update(f"{path}\0{content is None}\0".encode() + (content or b"") + b"\0")
        return digest.hexdigest()

    def write(self, folder: Path) -> None:
        """Make it in an empty folder."""
        for path, content in self.entries.items():
            if content is None:
                (folder / path).mkdir()
            else:
                (folder / path).write_bytes(content)
