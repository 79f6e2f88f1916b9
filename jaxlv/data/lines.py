"""Files of text, line by line: their encoding, what is packed in them, comments, quoted cells."""

from __future__ import annotations

import codecs
import collections
import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxlv.data.limits import Room
from jaxlv.errors import JaxlvError
from jaxlv.storage.door import opened

LINE = 1 << 16  # characters in a line
BLOCK = 1 << 16  # characters that are split at once: their cells take forty times as many bytes
DELIMITERS = (",", ";", "\t", "|", " ")
MOST_JOINED = 50  # lines that a quoted cell may go on for
COMMENTS = ("#", "%", "//", "!")
UNKNOWN = frozenset("\x81\x8d\x8f\x90\x9d")  # bytes that are no characters in Windows-1252
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class _Bounded(io.RawIOBase):
    """A stream of which at most so many bytes can be read: gzip unpacks to any size."""

    def __init__(self, stream: BinaryIO, room: Room):
        self.stream, self.room, self.taken = stream, room, 0

    def readable(self) -> bool:
        """Says that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer; raises JaxlvError if more is read than the memory holds."""
        block = self.stream.read(len(buffer))
        self.taken += len(block)
        if self.taken > self.room.most:
            expected = f"at most {self.room.most} bytes when unpacked"
            raise JaxlvError("declares too much data", where=self.room.where, expected=expected)
        buffer[: len(block)] = block
        return len(block)


class Text:
    """Opens a file as text; closes all that was opened."""

    def __init__(self, path: Path, encoding: str, room: Room, packed: bool):
        self.path, self.encoding, self.room, self.packed = path, encoding, room, packed

    def __enter__(self) -> io.TextIOWrapper:
        """Returns the text."""
        self.file = opened(self.path)
        binary: Any = self.file.__enter__()
        if self.packed:
            binary = io.BufferedReader(_Bounded(gzip.GzipFile(fileobj=binary, mode="rb"), self.room))  # type: ignore[arg-type]
        return io.TextIOWrapper(binary, encoding=self.encoding, newline=None)

    def __exit__(self, *fault: Any) -> None:
        """Closes the file."""
        self.file.__exit__(*fault)


class Ahead:
    """A stream of text of which many lines can be looked at before they are read."""

    def __init__(self, stream: Any):
        self.stream, self.number = stream, 0  # the lines that were read
        self._lines: collections.deque[str] = collections.deque()

    def many(self) -> list[str]:
        """Returns the next lines, which `skip` or `readline` read; none at the end of the stream."""
        if not self._lines and (text := self.stream.read(BLOCK)):
            rest = "" if text.endswith("\n") else self.stream.readline(LINE)
            self._lines.extend(io.StringIO(text + rest, newline="\n"))
        return list(self._lines)

    def skip(self) -> None:
        """Reads what `many` returned."""
        self.number += len(self._lines)
        self._lines.clear()

    def readline(self, limit: int) -> str:
        """Returns the next line; a part of it, if it is longer."""
        line = self._lines.popleft() if self._lines else self.stream.readline(limit)
        self.number += bool(line)
        return line


def lines_of(
    stream: Any, path: Path, delimiters: Sequence[str], comments: list[str] | None = None, number: int = 0
) -> Iterator[tuple[int, str]]:
    """Yields (number, line) for every line that is not empty and not a comment; the comments above the first are kept.

    A quoted cell may go on in the next line; the number is then that of its first line. `number` lines were read before.
    """
    while line := stream.readline(LINE):
        first = number = number + 1
        while line.count('"') % 2 and any(width_of(line, one) == 0 for one in delimiters) and len(line) < LINE:
            more = stream.readline(LINE)
            if not more or number - first == MOST_JOINED:
                break
            line, number = line + more, number + 1
        if len(line) >= LINE:
            raise JaxlvError("the line is too long", where=f"{path}:{first}", expected=f"fewer than {LINE} characters")
        if "\0" in line:
            raise JaxlvError("is not what its name says", where=f"{path}:{first}", expected="text", found="binary data")
        line = line.rstrip("\n")
        if line.lstrip().startswith(COMMENTS):
            if comments is not None:
                comments.append(line.lstrip().lstrip("#%/! "))
        elif line.strip(",;|\t\x1a ") != "":
            comments = None
            yield first, line


def cells_of(line: str, delimiter: str) -> list[str]:
    """Returns the cells of a line; raises csv.Error if its quotes do not match."""
    # Each line is parsed alone: a quoted cell that spans lines could become a row of any size.
    blank = delimiter == " "
    source = io.StringIO(line.strip() if blank else line, newline="")
    cells = next(csv.reader(source, delimiter=delimiter, skipinitialspace=True, strict=True), [])
    return [cell.strip() for cell in cells if cell or not blank]


def parted(line: str, delimiter: str) -> list[str]:
    """Returns the cells of a line; none if its quotes do not match."""
    try:
        return cells_of(line, delimiter)
    except csv.Error:
        return []


def width_of(line: str, delimiter: str) -> int:
    """Returns the number of cells of a line; 0 if its quotes say that the delimiter is another."""
    try:
        return len(cells_of(line, delimiter))
    except csv.Error:
        return 0


def encoding_of(head: bytes) -> str:
    """Returns the encoding that the first bytes of a file tell: by its mark, UTF-16 if every other byte is 0; "utf-8" if
    they tell none, and "" if they are no text.
    """
    marked = next((name for mark, name in BOMS if head.startswith(mark)), None)
    zeros = np.frombuffer(head, np.uint8) == 0
    if marked or not zeros.any():
        return marked or "utf-8"
    if len(head) > 3 and zeros[1::2].mean() > 0.8 and not zeros[::2].any():
        return "utf-16-le"
    return "utf-16-be" if len(head) > 3 and zeros[::2].mean() > 0.8 and not zeros[1::2].any() else ""


def encoding_within(path: Path, room: Room, packed: bool) -> str:
    """Returns the encoding of a file: what its first bytes tell, or Windows-1252 if it is not UTF-8 throughout."""
    with opened(path) as file:
        binary: Any = file
        if packed:
            binary = io.BufferedReader(_Bounded(gzip.GzipFile(fileobj=file, mode="rb"), room))  # type: ignore[arg-type]
        head = binary.read(4096)
        if not encoding_of(head):
            raise JaxlvError("is not what its name says", where=path, expected="text", found="unknown binary data")
        if (wide := encoding_of(head)) != "utf-8":
            return wide
        decoder = codecs.getincrementaldecoder("utf-8")()
        block = head
        while block:
            try:
                decoder.decode(block)
            except UnicodeDecodeError:
                return _single_bytes(path, room, packed)
            block = binary.read(1 << 20)
    return "utf-8"


def _single_bytes(path: Path, room: Room, packed: bool) -> str:
    """Returns the encoding of a file that is not UTF-8: Windows-1252; raises JaxlvError if it has bytes that this lacks."""
    with Text(path, "latin-1", room, packed) as stream:
        for number, line in enumerate(iter(lambda: stream.readline(LINE), ""), 1):
            if UNKNOWN.intersection(line):
                hint = "save it as UTF-8"
                raise JaxlvError("neither UTF-8 nor Windows-1252", where=f"{path}:{number}", expected="text", hint=hint)
    return "cp1252"
