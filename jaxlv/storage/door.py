"""The one door through which files are opened that somebody names, or that lie in a folder that somebody names.

In place of any of them may lie a pipe that nobody writes to, a device that never ends, or a file that fills the memory. So
what is read is a regular file, which is known before it is opened and once more afterwards; it is opened without waiting,
is no larger than the table of its kind says (LIMITS here, `foreign.LIMITS` for models), and ends where it ended when it was
opened, however long a file of the system's own (/proc) goes on. tests/test_architecture.py holds that nothing is read past
this door.
"""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import stat
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

from jaxlv.errors import JaxlvError

MIB = 1 << 20
LIMITS: Mapping[str, int] = {
    "config": MIB,  # TOML
    "result": 64 * MIB,  # JSON and drawings of the folders that programs leave, and results of benchmarks
    "text": 8 * MIB,  # prompts, or a text whose perplexity is measured: a tokenizer takes some 250 times that
    "log": 1024 * MIB,  # metrics.jsonl and ledgers, which are read line by line
    "line": MIB,  # of a log
}
"""How large a file may be, in bytes, by its kind. Data files have a limit of their own (`memory_cap` of `series.load`)."""
KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip
_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


class Unreadable(JaxlvError):
    """The system cannot read a file that is there, such as one on a disk that fails: what it holds is not known."""


def is_there(path: Path) -> bool:
    """Tells whether a regular file is there; raises JaxlvError if something else is, such as a link that leads nowhere."""
    try:
        check_regular(os.stat(path), path)
    except ValueError:  # a null character
        return False
    except OSError as fault:
        if fault.errno in _NOTHING and not os.path.islink(path):
            return False
        raise unreadable(fault, path) from None
    return True


def is_folder(path: str | Path) -> bool:
    """Tells whether a folder is there; not under a name that no file can have."""
    try:
        return os.path.isdir(path)
    except ValueError:  # a null character, or half a character of UTF-16
        return False


@contextlib.contextmanager
def opened(path: Path, most: float = math.inf) -> Iterator[BufferedReader]:
    """Opens a regular file of at most so many bytes to read it, up to the end that it has now; raises JaxlvError, without
    waiting, if it is not such a file or is unreadable.
    """
    try:
        check_regular(os.stat(path), path)  # to open a device may do something
        with _Ending(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)) as raw, BufferedReader(raw) as file:
            check_regular(os.fstat(raw.fileno()), path)
            if raw.ends > most:
                raise JaxlvError("too large", where=path, expected=f"at most {most} bytes", found=raw.ends)
            if not raw.ends and os.read(raw.fileno(), 1):
                raise JaxlvError("is not a regular file", where=path, found="a file of no size that holds something")
            yield file  # type: ignore[misc]  # mypy takes it for another kind of stream
    except OSError as fault:
        raise unreadable(fault, path) from None


def content(path: Path, most: int) -> bytes:
    """Returns the bytes of a regular file; errors as in `opened`."""
    with opened(path, most) as file:
        return file.read()


def opened_to_add(path: Path) -> io.FileIO:
    """Opens a regular file, which is made if nothing is there, to read it and to add to its end; raises JaxlvError, without
    waiting, if something else is there, and OSError if the system does not open it.
    """
    is_there(path)
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    file = io.FileIO(handle, "a+b")
    try:
        check_regular(os.fstat(handle), path)
    except BaseException:
        file.close()
        raise
    return file


def handle_to_change(path: Path) -> int:
    """Returns the handle of a regular file that is there, to write over parts; its owner closes it. Errors as in
    `opened_to_add`.
    """
    is_there(path)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def handle_of(path: Path) -> int:
    """Returns the handle of a file or folder that is there, which waits for nothing; its owner closes it."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def at_home(path: str | Path) -> str:
    """Returns a path with the home of the user, or of one that it names, for a "~" at its beginning; as it is if the system
    does not know that user.
    """
    return os.path.expanduser(path)


class _Ending(io.FileIO):
    """A file that ends where it ended when it was opened. Reading what would have to be waited for raises OSError."""

    def __init__(self, handle: int):
        super().__init__(handle)
        self.ends = os.fstat(handle).st_size

    def readinto(self, buffer: Any, /) -> int:
        left = max(0, self.ends - self.tell())
        found: int | None = super().readinto(memoryview(buffer).cast("B")[:left])
        if found is None:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return found

    read = io.RawIOBase.read  # type: ignore[assignment]  # these read by `readinto`, those of FileIO do not
    readall = io.RawIOBase.readall  # type: ignore[assignment]


def unreadable(fault: OSError, path: Path) -> JaxlvError:
    """Returns the error for a file that the system does not read."""
    if os.path.islink(path) and fault.errno in _NOTHING:
        return JaxlvError("is not a regular file", where=path, found="a link that leads nowhere")
    if fault.errno == errno.ENOENT:
        return JaxlvError("no such file", where=path)
    kind = JaxlvError if fault.errno in (errno.ENOTDIR, errno.ELOOP) else Unreadable
    return kind(f"unreadable ({fault.strerror})", where=path)


def check_regular(found: os.stat_result, path: Path) -> None:
    """Raises JaxlvError if what is at a path is not a regular file."""
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise JaxlvError("is not a regular file", where=path, found=kind)
