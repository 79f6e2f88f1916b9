"""Records as lines of JSON, each with its checksum: a file that only grows, of which a torn end is dropped and every other
change is noticed.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from jaxlv.errors import JaxlvError
from jaxlv.storage.files import parse_json

CRC = "crc32"


def encode(record: Mapping[str, Any]) -> bytes:
    """The line of a record. Numbers that are not finite become null, which is JSON."""
    finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()}
    body = json.dumps(finite, separators=(",", ":"), allow_nan=False)
    return f'{body[:-1]}{"," if finite else ""}"{CRC}":"{zlib.crc32(body.encode()):08x}"}}\n'.encode()


def decode(line: bytes) -> dict[str, Any]:
    """The record of a line, without its end; ValueError where it is not what was written."""
    record = parse_json(line)
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


def mend(file: BinaryIO, path: Path) -> list[dict[str, Any]]:
    """The records of a file that is open for reading and appending, from which a torn end is cut off first."""
    file.seek(0)
    content = file.read()
    records, size = _parsed(content, path)
    if size < len(content):
        file.truncate(size)
    file.seek(0, os.SEEK_END)
    if size and not content[:size].endswith(b"\n"):
        file.write(b"\n")
    return records


def _parsed(content: bytes, path: Path) -> tuple[list[dict[str, Any]], int]:
    """(records, the bytes that they take): what stands behind these was torn off while it was written."""
    *whole, rest = content.split(b"\n")
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
