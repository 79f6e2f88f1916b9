"""Files and folders that are whole or not there: written beside their place, flushed to the disk, and renamed; and links."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jaxlv.errors import JaxlvError

SUFFIX = ".tmp"  # of what is being written: ".NAME.RANDOM.tmp"


@contextlib.contextmanager
def new_folder(folder: Path, replace: bool = False) -> Iterator[Path]:
    """An empty folder to fill, which becomes `folder` when the body ends without an error; nothing of it stays otherwise.

    JaxlvError where `folder` exists, unless it is to be replaced: then it is, as a whole.
    """
    folder = Path(folder)
    if folder.exists() and not replace:
        raise JaxlvError("exists already", where=folder, hint="choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.", suffix=SUFFIX) as temporary:
        work = Path(temporary) / "new"
        work.mkdir()
        yield work
        for path in [*work.rglob("*"), work]:
            _to_disk(path)
        if folder.exists():
            os.replace(folder, Path(temporary) / "old")
        os.replace(work, folder)
        _to_disk(folder.parent)


def write_text(path: Path, text: str) -> None:
    """Write a file whole, in place of an older one."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=SUFFIX)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _to_disk(path.parent)


def hub_revision(folder: Path) -> str | None:
    """The commit of a hub snapshot (the name of its folder in the hub's cache), or None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" else None


def confine(path: Path, folder: Path) -> None:
    """JaxlvError for a link that leads out of a folder, but for those from the hub's cache to where it keeps its files."""
    home, real = Path(folder).resolve(), Path(path).resolve()
    homes = [home, home.parents[1] / "blobs"] if hub_revision(home) else [home]
    if not any(real.is_relative_to(one) for one in homes):
        raise JaxlvError(f"{path.name} is a link to outside the folder", where=folder, found=real)


def remove_unfinished(folder: Path) -> list[str]:
    """Remove what a killed process left half written in `folder`; the names. No other process may be writing there."""
    left = sorted(Path(folder).glob(f".*{SUFFIX}"))
    for path in left:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return [path.name for path in left]


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
