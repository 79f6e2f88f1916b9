"""Records as lines of JSON, each with its checksum: a file that only grows, of which a torn end is dropped and every other
change is noticed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxlv.errors import JaxlvError
from jaxlv.storage.files import is_at, make_folder, naming, parse_json, to_disk

CRC = "crc32"


def encode(record: Mapping[str, Any]) -> bytes:
    """The line of a record. Numbers that are not finite become null, which is JSON."""
    finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()}
    body = json.dumps(finite, separators=(",", ":"), allow_nan=False)
    return f'{body[:-1]}{"," if finite else ""}"{CRC}":"{zlib.crc32(body.encode()):08x}"}}\n'.encode()


def decode(line: bytes) -> dict[str, Any]:
    """The record of a line, without its end; ValueError where it is not what was written."""
    record = parse_json(line.decode())
    if not isinstance(record, dict) or CRC not in record:
        raise ValueError("no checksum")
    given = record.pop(CRC)
    if encode(record)[:-1] != line:  # the very bytes: spelling and order, too
        raise ValueError(f"its checksum is not {str(given)[:8]}")
    return record


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file, none where there is no file; JaxlvError, with the line, for damage before a torn end."""
    path = Path(path)
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as fault:
        raise JaxlvError(f"unreadable ({fault.strerror})", where=path) from None
    return _parsed(content, path)[0]


class Journal:
    """A file of records to which one process adds more: each is on the disk when `add` returns.

    `records` are those that were there when it was opened; a torn end is cut off. Raises JaxlvError if another process has
    it open, and if it is damaged before its end.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        make_folder(self.path.parent)
        self._file = self.path.open("a+b", buffering=0)
        try:
            self._lock()
            with naming(self.path):
                self.records = self._mend()
            to_disk(self.path.parent)  # its name: it may be new, or of a process that died before this
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JaxlvError("another process writes it", where=self.path, hint="wait for it to end") from None

    def _mend(self) -> list[dict[str, Any]]:
        self._file.seek(0)
        content = self._file.read()
        records, self._size = _parsed(content, self.path)
        if self._size < len(content):
            self._file.truncate(self._size)
        if self._size and not content[: self._size].endswith(b"\n"):
            self._append(b"\n")
        return records

    def add(self, record: Mapping[str, Any]) -> None:
        """Write a record. Raises JaxlvError if the file is not what it was; an OSError leaves nothing of the record."""
        if not is_at(self.path, self._file.fileno()) or os.fstat(self._file.fileno()).st_size != self._size:
            raise JaxlvError("was removed, renamed or changed while a process wrote it", where=self.path)
        with naming(self.path):
            self._append(encode(record))

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
        """Let go of the file."""
        self._file.close()


def _parsed(content: bytes, path: Path) -> tuple[list[dict[str, Any]], int]:
    """(records, the bytes that they take): what stands behind these was torn off while it was written."""
    *whole, rest = content.split(b"\n")
    if whole and not rest and b"\0" in whole[-1]:  # the last line was torn before its end: blocks not written are zeros
        rest = whole.pop() + b"\n"
    records = [_at(path, number, line) for number, line in enumerate(whole, 1)]
    # A record is written with its end: one that is whole but for that was not torn.
    if rest and _is_record(rest[:-1]):
        raise JaxlvError("the end of a line is damaged", where=f"{path}, line {len(whole) + 1}", hint="restore the file")
    if _is_record(rest):
        return [*records, decode(rest)], len(content)
    return records, len(content) - len(rest)


def _at(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        return decode(line)
    except ValueError as fault:
        reason = " ".join(str(fault).split())[:120]
        raise JaxlvError(f"damaged line ({reason})", where=f"{path}, line {number}", hint="restore the file") from None


def _is_record(line: bytes) -> bool:
    try:
        decode(line)
    except ValueError:
        return False
    return True
