"""A file of lines chained by hash, and its heads: small files that record how many lines it had and the hash of the last.

The invariant: for each head, the file has at least that many lines, and the last of them has that hash. A head is written
after its line is on the disk, so a process that dies in between leaves the head behind the file, never ahead. Lines after a
head are new. If a head exists, its file must exist.

A head file has two slots, each a line with its own checksum, that are written in turn: if a kill or a power cut tears one,
the other is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxlv.errors import JaxlvError
from jaxlv.storage import door, lines
from jaxlv.storage.files import is_at, naming, new_file
from jaxlv.storage.lines import Content

SUFFIX = ".head"
SLOT = 128  # bytes
HINT = "restore it from a copy"


class Head(NamedTuple):
    """The number of lines, and the hash of the last one."""

    lines: int
    sha256: str


def head_of(path: Path) -> Path:
    """Returns the head file beside a file of lines."""
    return path.with_name(path.name + SUFFIX)


def scan(path: Path, use: Callable[[dict[str, Any]], object], also: Iterable[Path] = ()) -> Content:
    """Calls `use` with each record of a file of lines; with none if neither the file nor a head exists.

    Raises JaxlvError, with the line, if the file is damaged before a torn end, and if it contradicts its own head file or
    one of the others in `also`.
    """
    places = [head_of(path), *also]
    known = read_heads(places)  # before the lines: a process that adds lines writes them first, then the heads
    found = lines.scan(path, use)
    _check(found, path, known)
    _check_marked(found, path)
    found.reached = max([found.reached, *(head.lines for head in read_heads(places).values())])  # it may have grown
    return found


def read_heads(paths: Iterable[Path]) -> dict[Path, Head]:
    """Returns the heads in those of the files that exist. Raises JaxlvError if both slots of one are damaged."""
    found = {}
    for path in filter(os.path.lexists, paths):
        if not (slots := list(filter(None, _slots(path)))):
            raise JaxlvError("a damaged head file", where=path, hint=HINT)
        found[path] = max(slots)
    return found


def _check(found: Content, path: Path, known: Mapping[Path, Head]) -> None:
    """Raises JaxlvError if a file lacks lines that the heads know of."""
    for place, head in known.items():
        told, there = f"at least {head.lines} lines, as {place} says", len(found.hashes)
        if not door.is_there(path):
            raise JaxlvError("is gone", where=path, expected=told, hint=HINT)
        if there < head.lines:
            raise JaxlvError("lines are missing from its end", where=path, expected=told, found=there, hint=HINT)
        if (sha256 := found.hashes[head.lines - 1]) != head.sha256:
            expected = f"the hash {head.sha256[:12]}..., as {place} says"
            what = f"the lines up to line {head.lines} are not those that were written"
            raise JaxlvError(what, where=path, expected=expected, found=f"{sha256[:12]}...", hint=HINT)
        found.marked = found.reached = max(found.marked, head.lines)


def _check_marked(found: Content, path: Path) -> None:
    """Raises JaxlvError if lines are chained but the head file is gone; it is always written before the second of them."""
    if len(found.hashes) - found.unchained > 1 and not os.path.lexists(head_of(path)):
        raise JaxlvError("its head file is gone", where=path, expected=head_of(path), hint=HINT)


class Chain(lines.Journal):
    """A journal whose lines are chained, and whose own head file exists before a second line is written.

    Raises JaxlvError as `scan` does, before anything is changed.
    """

    def __init__(self, path: Path, use: Callable[[dict[str, Any]], object] = lambda record: None, also: Iterable[Path] = ()):
        self._files: dict[Path, _HeadFile] = {}
        self._places = [head_of(path), *also]
        if not door.is_there(path):
            _check(Content(), path, read_heads(self._places))  # opening would create the file
        super().__init__(path, use)
        try:
            if self.found.hashes:  # no line is added before the head file exists
                self.mark(head_of(path))
        except BaseException:
            self.close()
            raise

    def expect(self, place: Path) -> None:
        """Raises JaxlvError if the file lacks lines that another head file knows of."""
        _check(self.found, self.path, read_heads([place]))

    def _accept(self, found: Content) -> None:
        _check(found, self.path, read_heads(self._places))
        _check_marked(found, self.path)

    @property
    def head(self) -> Head:
        """The number of lines, and the hash of the last one ("" without lines)."""
        hashes = self.found.hashes
        return Head(len(hashes), hashes[-1] if hashes else "")

    def add(self, record: Mapping[str, Any]) -> None:
        """Writes a record, as `Journal.add` does."""
        line = lines.encode(record, self.head.sha256)
        sha256 = json.loads(line)[lines.CHAIN]
        self._add(line)
        self.found.hashes.append(sha256)

    def mark(self, place: Path) -> None:
        """Writes the head into a head file, which is made if it does not exist; it is on the disk when this returns."""
        if place not in self._files:
            self._files[place] = _HeadFile(place, self.head)
        self._files[place].write(self.head)

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()
        super().close()


def make_head(path: Path, head: Head) -> None:
    """Writes a head file with both slots, completely or not at all."""
    with new_file(path) as place:
        place.write_bytes(2 * _slot(head))


class _HeadFile:
    """A head file, open for writing; made if it does not exist."""

    def __init__(self, path: Path, head: Head):
        self.path = path
        if not door.is_there(path):
            make_head(path, head)
        slots = _slots(path)
        self._written = max(filter(None, slots))
        self._next = SLOT * (1 - slots.index(self._written))
        self._handle = door.handle_to_change(path)

    def write(self, head: Head) -> None:
        """Overwrites the older slot. Raises JaxlvError if the file was removed, renamed or replaced."""
        if head == self._written:
            return
        if not is_at(self.path, self._handle):
            raise JaxlvError("was removed, renamed or replaced while a process wrote to it", where=self.path)
        with naming(self.path):
            rest, place = _slot(head), self._next
            while rest:
                done = os.pwrite(self._handle, rest, place)
                rest, place = rest[done:], place + done
            os.fsync(self._handle)
        self._written, self._next = head, SLOT - self._next

    def close(self) -> None:
        os.close(self._handle)


def _slot(head: Head) -> bytes:
    return lines.encode(head._asdict())[:-1].ljust(SLOT - 1) + b"\n"


def _slots(path: Path) -> list[Head | None]:
    """Returns the heads in the two slots of a file; None for a slot that is torn or damaged."""
    with door.opened(path) as file:
        content = file.read(2 * SLOT)
    return [_head_in(content[:SLOT]), _head_in(content[SLOT:])]


def _head_in(slot: bytes) -> Head | None:
    with contextlib.suppress(ValueError, KeyError):
        record = lines.decode(slot.rstrip())
        head = Head(record["lines"], record["sha256"])
        if type(head.lines) is int and head.lines > 0 and isinstance(head.sha256, str):
            return head
    return None
