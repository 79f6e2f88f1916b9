"""Records as lines of JSON, each with its checksum: a file that only grows. A torn end is dropped; every other change is
detected.

The last key of a line is its checksum. "crc32" covers the rest of the line. "sha256", in chained lines, hashes the hash of
the previous line and the rest of this one: whoever changes a line must compute every later hash anew, and the last hash is
also kept outside the file (jaxlv.storage.chain).
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import hashlib
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from jaxlv.errors import JaxlvError
from jaxlv.storage import door
from jaxlv.storage.files import is_at, make_folder, naming, to_disk

CRC, CHAIN = "crc32", "sha256"
# The keys of checksums, what precedes one at the end of a line, and its number of digits.
ENDS = tuple((key, f'"{key}":"'.encode(), digits) for key, digits in ((CHAIN, 64), (CRC, 8)))


def encode(record: Mapping[str, Any], before: str | None = None) -> bytes:
    """Returns the line of a record, chained to the line whose hash is `before` ("" for the first line). Numbers that are not
    finite become null, as JSON requires.
    """
    finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()}
    body = json.dumps(finite, separators=(",", ":"), allow_nan=False)
    key, value = (CRC, f"{zlib.crc32(body.encode()):08x}") if before is None else (CHAIN, _linked(before, body.encode()))
    return f'{body[:-1]}{"," if finite else ""}"{key}":"{value}"}}\n'.encode()


def decode(line: bytes) -> dict[str, Any]:
    """Returns the record of an unchained line, without its newline; raises ValueError if it is not what was written."""
    return Content().take(line)


def _linked(before: str, body: bytes) -> str:
    return hashlib.sha256(before.encode() + body).hexdigest()


class _Line(NamedTuple):
    """A line: the record without its checksum, the checksum's key, and the checksum."""

    body: bytes
    key: str
    checksum: bytes


def _split(line: bytes) -> _Line:
    """Splits a line. Raises ValueError if it has no checksum."""
    for key, begins, digits in ENDS:
        cut = len(line) - len(begins) - digits - 2
        if cut > 0 and line.startswith(begins, cut) and line.endswith(b'"}'):
            if cut > 1 and line[cut - 1] != ord(","):
                break
            return _Line(line[: max(1, cut - 1)] + b"}", key, line[-digits - 2 : -2])
    raise ValueError("no checksum")


def _parse(body: bytes) -> dict[str, Any]:
    text = body.decode()
    try:
        record, end = _JSON.raw_decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if end != len(text) or not isinstance(record, dict):
        raise ValueError("not an object")
    return record


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(tree := dict(pairs)) < len(pairs):
        raise ValueError("a key occurs twice")
    return tree


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:40]} is not a finite number")
    return number


_JSON = json.JSONDecoder(object_pairs_hook=_once, parse_float=_finite, parse_constant=_finite)


@dataclass
class Content:
    """What is known of a file: the hash of each line, and how many lines precede the first chained one. The first `size`
    bytes are these lines; a process that died wrote the `torn` bytes after them. A head outside the file vouches for the
    first `marked` lines; when everything had been read, heads knew of `reached` lines (jaxlv.storage.chain).
    """

    hashes: list[str] = field(default_factory=list)
    unchained: int = 0
    size: int = 0
    torn: int = 0
    marked: int = 0
    reached: int = 0

    def take(self, line: bytes) -> dict[str, Any]:
        """Adds the next line, without its newline, and returns its record; raises ValueError if it is not as written."""
        body, key, given = _split(line)
        sha256 = _linked(self.hashes[-1] if self.hashes else "", body)
        if key == CHAIN and given != sha256.encode():
            raise ValueError(f"its hash does not follow from the line before: {sha256[:8]} would")
        if key == CRC and given != b"%08x" % zlib.crc32(body):
            raise ValueError("its checksum does not fit")
        if key == CRC and self.unchained < len(self.hashes):
            raise ValueError("not chained, although lines before it are")
        record = _parse(body)
        self.unchained += key == CRC
        self.hashes.append(sha256)
        return record

    def would_take(self, line: bytes) -> bool:
        """Tells whether this is the next line."""
        try:
            replace(self, hashes=self.hashes[:]).take(line)
        except ValueError:
            return False
        return True


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a file (an empty list if it does not exist); raises JaxlvError, with the line, if it is damaged
    before a torn end.
    """
    found: list[dict[str, Any]] = []
    scan(path, found.append)
    return found


def scan(path: Path, use: Callable[[dict[str, Any]], object]) -> Content:
    """Calls `use` with each record of a file, if it exists; raises JaxlvError as `read` does."""
    path = Path(path)
    if not door.is_there(path):
        return Content()
    with door.opened(path, door.LIMITS["log"]) as file:
        return parse(file, path, use)


class Busy(JaxlvError):
    """Another process has a file open for writing."""


class Journal:
    """A file of records to which one process adds more: each is on the disk when `add` returns. `use` is called with each
    record that is already there; a torn end is cut off. Raises Busy if another process has the file open, and JaxlvError if
    it is damaged before its end.
    """

    def __init__(self, path: Path, use: Callable[[dict[str, Any]], object] = lambda record: None):
        self.path = Path(path)
        make_folder(self.path.parent)
        self._file = door.opened_to_add(self.path)
        try:
            self._lock()
            with naming(self.path):
                self.found = self._mend(use)
            to_disk(self.path.parent)  # flushes its name: it may be new, or made by a process that died before it got here
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy("another process writes to it", where=self.path, hint="wait for it to end") from None

    def _mend(self, use: Callable[[dict[str, Any]], object]) -> Content:
        with door.opened(self.path, door.LIMITS["log"]) as file:
            found = parse(file, self.path, use)
            file.seek(max(0, found.size - 1))
            ended = not found.size or file.read(1) == b"\n"
        self._accept(found)
        self._size = found.size
        if os.fstat(self._file.fileno()).st_size > self._size:
            self._file.truncate(self._size)
        if not ended:
            self._append(b"\n")
        return found

    def _accept(self, found: Content) -> None:
        """Raises JaxlvError, before anything is changed, if the file must not be written to."""

    def add(self, record: Mapping[str, Any]) -> None:
        """Writes a record. Raises JaxlvError if the file is not what it was; if it raises OSError, nothing of the record
        stays.
        """
        self._add(encode(record))

    def _add(self, line: bytes) -> None:
        if not is_at(self.path, self._file.fileno()) or os.fstat(self._file.fileno()).st_size != self._size:
            raise JaxlvError("was removed, renamed or changed while a process wrote to it", where=self.path)
        if len(line) > door.LIMITS["line"] or self._size + len(line) > door.LIMITS["log"]:  # must be readable again
            expected = f"lines of at most {door.LIMITS['line']} bytes, {door.LIMITS['log']} together"
            raise JaxlvError("the file grows too large", where=self.path, expected=expected)
        with naming(self.path):
            self._append(line)

    def _append(self, line: bytes) -> None:
        try:
            rest = line
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            raise
        self._size += len(line)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Pauses Python's search for unreachable objects: it is slow with many records, which do not leave any."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@without_collection()
def parse(file: BinaryIO, path: Path, use: Callable[[dict[str, Any]], object]) -> Content:
    """Calls `use` with each record of an open file; raises JaxlvError, with the line, if it is damaged before a torn end."""
    found = Content()
    for line, is_last in pieces(file, path):
        # The last line may be torn before its end: blocks that were not written are zeros.
        if line.endswith(b"\n") and not (is_last and b"\0" in line):
            use(_taken(found, line[:-1], path))
        elif found.would_take(line[:-1]):  # only the newline is wrong: no torn line ends like that
            where = f"{path}, line {len(found.hashes) + 1}"
            raise JaxlvError("the end of a line is damaged", where=where, hint="restore the file")
        elif found.would_take(line):
            use(_taken(found, line, path))
        else:
            found.torn = len(line)
            break
        found.size += len(line)
    return found


def pieces(file: BinaryIO, path: Path) -> Iterator[tuple[bytes, bool]]:
    """Yields each line with its newline (the last may lack it) and whether it is the last; raises JaxlvError for a line
    longer than any that we write.
    """
    most, number, line = door.LIMITS["line"], 1, file.readline(door.LIMITS["line"] + 1)
    while line:
        if len(line) > most:
            where = f"{path}, line {number}"
            raise JaxlvError("the line is too long", where=where, expected=f"at most {most} bytes", hint="restore the file")
        following = file.readline(most + 1)
        yield line, not following
        line, number = following, number + 1


def _taken(found: Content, line: bytes, path: Path) -> dict[str, Any]:
    try:
        return found.take(line)
    except ValueError as fault:
        reason = " ".join(str(fault).split())[:120]
        where = f"{path}, line {len(found.hashes) + 1}"
        raise JaxlvError(f"damaged line ({reason})", where=where, hint="restore the file") from None
