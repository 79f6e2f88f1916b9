"""Files and folders that are whole or not there, that are sealed by their hashes, and that lie where they seem to."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxlv.errors import JaxlvError

SUFFIX = ".tmp"  # of what is being written: ".NAME.RANDOM.tmp"
SEAL = "SHA256SUMS"  # as `sha256sum -c` reads it

# ------------------------------------------------------------------------------------------- whole or not there


@contextlib.contextmanager
def new_folder(folder: Path, replace: bool = False) -> Iterator[Path]:
    """An empty folder to fill, which becomes `folder` when the body ends without an error; nothing of it stays otherwise.

    It is flushed to the disk before it gets its name. JaxlvError where `folder` is there and not empty, unless it is to be
    replaced: then it is, as a whole. What killed processes left of the same folder is removed first.
    """
    folder = Path(folder)
    if not replace and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise JaxlvError("exists already", where=folder, hint="choose another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise JaxlvError("is no folder", where=folder.parent, expected="a folder to write to") from None
    remove_unfinished(folder.parent, folder.name)
    made = tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.", suffix=SUFFIX)
    with made as temporary, _held(Path(temporary)):
        work = Path(temporary) / "new"
        work.mkdir()
        yield work
        for path in [*work.rglob("*"), work]:
            to_disk(path)
        if replace and folder.exists():
            os.replace(folder, Path(temporary) / "old")
        try:
            os.replace(work, folder)
        except OSError:  # another process was first
            raise JaxlvError("exists already", where=folder, hint="choose another folder") from None
        to_disk(folder.parent)


def write_text(path: Path, text: str) -> None:
    """Write a file whole, in place of an older one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    to_disk(path.parent)


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left half written in `folder`, of one name or of any; what a live one writes stays."""
    for path in Path(folder).glob(f".{name}.*{SUFFIX}"):
        with contextlib.suppress(OSError):  # another process removes it too
            if path.is_dir() and not path.is_symlink():
                with _held(path):
                    shutil.rmtree(path)
            else:
                path.unlink()


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """A lock on a folder that ends with the process; OSError where another holds it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def to_disk(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def only_process(path: Path) -> Iterator[None]:
    """A lock file, there while the process works in its folder; JaxlvError, with its number, where another one does."""
    path = Path(path)
    while True:
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                pid = file.read(20).strip() or "unknown"
                what = f"another process works here (pid {pid})"
                raise JaxlvError(what, where=path.parent, hint="wait for it to end") from None
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                continue  # removed by the process that held it, between opening and locking
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


# ----------------------------------------------------------------------------------------------------- sealed


def seal(folder: Path, names: Iterable[str] | None = None) -> None:
    """Write SHA256SUMS: the hash of each file of `folder`, or of those named; a name that is not there is left out."""
    folder = Path(folder)
    if names is None:
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names if (folder / name).is_file()]
    write_text(folder / SEAL, "".join(lines))


def broken(folder: Path) -> list[str]:
    """What is not as it was when a folder was sealed, one phrase each; a seal that is missing or damaged is one, too."""
    folder = Path(folder)
    try:
        *lines, rest = (folder / SEAL).read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError):
        return [f"{SEAL} is missing or unreadable"]
    if rest or not lines:
        return [f"{SEAL} is damaged"]
    return [fault for line in lines if (fault := _fault(folder, line))]


def _fault(folder: Path, line: str) -> str:
    """What is wrong with a file by its line of a seal; "" where nothing is."""
    digest, gap, name = line[:64], line[64:66], line[66:]
    if gap != "  " or not name or not name.isprintable() or Path(name).is_absolute() or ".." in Path(name).parts:
        return f"{SEAL} is damaged"
    try:
        confine(folder / name, folder)
        return "" if sha256(folder / name) == digest else f"{name} has changed"
    except (OSError, JaxlvError):
        return f"{name[:100]} is missing"


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; ValueError where it is none, or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def sha256(path: Path) -> str:
    """The hash of a file, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------------------ links


def hub_revision(folder: Path) -> str | None:
    """The commit of a hub snapshot (the name of its folder in the hub's cache), or None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" else None


def confine(path: Path, folder: Path) -> None:
    """JaxlvError for a link that leads out of a folder, but for those from the hub's cache to where it keeps its files."""
    home, real = Path(folder).resolve(), Path(path).resolve()
    homes = [home, home.parents[1] / "blobs"] if hub_revision(home) else [home]
    if not any(real.is_relative_to(one) for one in homes):
        raise JaxlvError(f"{path.name} is a link to outside the folder", where=folder, found=real)
