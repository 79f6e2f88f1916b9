"""The only way by which files are opened that a user names, or that lie in a folder that a user names.

Such a name may lead to a pipe that nobody writes to, a device that never ends, or a file that fills the memory. So only
regular files are read, which is checked before and again after opening; opening does not wait; a file may be no larger than
the limit of its kind (LIMITS here, `foreign.LIMITS` for models); and reading stops where the file ended when it was opened,
even if it keeps growing (as in /proc). tests/test_architecture.py checks that nothing is read in another way.
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
    "result": 64 * MIB,  # JSON and drawings in the folders that programs write, and results of benchmarks
    "text": 8 * MIB,  # prompts, or a text whose perplexity is measured: a tokenizer needs about 250 times as much memory
    "log": 1024 * MIB,  # metrics.jsonl and ledgers, which are read line by line
    "line": MIB,  # one line of a log
}
"""The largest size of a file, in bytes, by its kind. Data files have a limit of their own (`memory_cap` of `loading.load`).
"""
KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip
_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


class Unreadable(JaxlvError):
    """The file exists but the system cannot read it, for example because a disk fails: its content is unknown."""


def is_there(path: Path) -> bool:
    """Tells whether a regular file exists; raises JaxlvError if anything else is there, such as a dead link."""
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
    """Tells whether a folder exists; False for names that no file can have."""
    try:
        return os.path.isdir(path)
    except ValueError:  # a null character, or half a character of UTF-16
        return False


@contextlib.contextmanager
def opened(path: Path, most: float = math.inf) -> Iterator[BufferedReader]:
    """Opens a regular file of at most `most` bytes for reading, up to the end that it has now; raises JaxlvError, without
    waiting, if it is not such a file or cannot be read.
    """
    try:
        check_regular(os.stat(path), path)  # merely opening a device may have an effect
        with _Ending(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)) as raw, BufferedReader(raw) as file:
            check_regular(os.fstat(raw.fileno()), path)
            if raw.ends > most:
                raise JaxlvError("too large", where=path, expected=f"at most {most} bytes", found=raw.ends)
            if not raw.ends and os.read(raw.fileno(), 1):
                raise JaxlvError("is not a regular file", where=path, found="a file of no size that holds something")
            yield file  # type: ignore[misc]  # mypy sees another kind of stream
    except OSError as fault:
        raise unreadable(fault, path) from None


def content(path: Path, most: int) -> bytes:
    """Returns the bytes of a regular file; errors as in `opened`."""
    with opened(path, most) as file:
        return file.read()


def opened_to_add(path: Path) -> io.FileIO:
    """Opens a regular file, made if it does not exist, to read it and to append to it; raises JaxlvError, without waiting,
    if something else is there, and OSError if the system does not open it.
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
    """Returns a handle to overwrite parts of an existing regular file; the caller closes it. Errors as `opened_to_add`."""
    is_there(path)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def handle_of(path: Path) -> int:
    """Returns a handle of an existing file or folder, opened without waiting; the caller closes it."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def at_home(path: str | Path) -> str:
    """Returns a path with "~" or "~user" at its beginning replaced by that user's home; unchanged if the system does not
    know the user.
    """
    return os.path.expanduser(path)


class _Ending(io.FileIO):
    """A file that ends where it ended when it was opened. Raises OSError if reading would have to wait."""

    def __init__(self, handle: int):
        super().__init__(handle)
        self.ends = os.fstat(handle).st_size

    def readinto(self, buffer: Any, /) -> int:
        left = max(0, self.ends - self.tell())
        found: int | None = super().readinto(memoryview(buffer).cast("B")[:left])
        if found is None:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return found

    read = io.RawIOBase.read  # type: ignore[assignment]  # these call `readinto`; those of FileIO do not
    readall = io.RawIOBase.readall  # type: ignore[assignment]


def unreadable(fault: OSError, path: Path) -> JaxlvError:
    """Returns the error for a file that the system cannot read."""
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
