"""Files and folders that are either complete or absent, that hashes seal, and that stay where they were opened."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxlv.errors import JaxlvError
from jaxlv.storage import door, foreign

SUFFIX = ".tmp"  # of what is being written: ".NAME.RANDOM.tmp"
ANEW = "choose another folder with --out, go on with --resume, or remove this one to begin anew"
SEAL = "SHA256SUMS"  # as `sha256sum -c` reads it

# ------------------------------------------------------------------------------------------- complete or absent

_making: set[Path] = set()  # folders that `new_folder` has yielded and not renamed yet


@contextlib.contextmanager
def new_folder(folder: Path, replace: bool = False, parents: bool = True, made_by: str = "") -> Iterator[Path]:
    """Yields an empty temporary folder. It is flushed and renamed to `folder` if the body succeeds, and deleted if it
    raises.

    Raises JaxlvError if `folder` exists and is not empty, unless `replace` is set, which puts the new one in its place; with
    `made_by` only if the old one has a file of that name.
    Folders above it are made if `parents`. Remains of killed processes that wrote the same folder are removed first.
    """
    folder = Path(folder)
    place = check_free(folder, replace, made_by)
    if parents:
        make_folder(place.parent)
    with _beside(place, folder) as (temporary, check):
        work = temporary / "new"
        work.mkdir()
        _making.add(work)
        try:
            yield work
        except JaxlvError as fault:
            fault.rename(work, folder)
            raise
        finally:
            _making.discard(work)
        for path in [*work.rglob("*"), work]:
            to_disk(path)
        check()
        _put(work, place, temporary / "old" if replace else None)


def check_free(folder: Path, replace: bool = False, made_by: str = "") -> Path:
    """Returns the path that `folder` will have, with links resolved; raises JaxlvError if `new_folder` could not make it."""
    place = Path(os.path.realpath(folder))
    if not place.exists():
        return place
    if not replace and (not place.is_dir() or any(place.iterdir())):
        hint = "choose another folder" + (", or --overwrite" if (place / made_by).is_file() else "")
        raise JaxlvError("exists already", where=folder, hint=hint)
    if replace and made_by and not (place / made_by).is_file() and not (place.is_dir() and not any(place.iterdir())):
        hint = "choose another folder"
        raise JaxlvError("would be lost: jaxlv has not written it", where=folder, expected=made_by, hint=hint)
    if place.is_mount() or place.samefile("."):
        hint = f"choose a folder in it, such as {folder / 'out'}"
        raise JaxlvError("the folder you are in, and a mounted one, cannot be made as a whole", where=folder, hint=hint)
    return place


def check_new_file(path: Path, overwrite: bool = False) -> None:
    """Raises JaxlvError if `path` is a folder, or if something is there and `overwrite` is false."""
    if path.is_dir():
        raise JaxlvError("is a folder", where=path, hint="name a file in it")
    if os.path.lexists(path) and not overwrite:
        raise JaxlvError("exists already", where=path, hint="choose another file, or --overwrite")


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields a path to write a file to. If the body succeeds, it is flushed and renamed to `path`, replacing an older file;
    if it raises, the older file stays as it was. Inside a folder that `new_folder` is making, `path` itself is yielded, as
    that folder is complete or absent anyway.
    """
    path = Path(path)
    if any(folder in _making for folder in path.parents):
        yield path
        return
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file():
        raise JaxlvError("is not a regular file", where=path, hint="choose another file")
    with _beside(place, path) as (temporary, _):
        work = temporary / place.name
        yield work
        to_disk(work)
        _put(work, place, None)


def write_text(path: Path, text: str) -> None:
    """Writes a text file completely or not at all, replacing an older one."""
    with new_file(path) as place:
        place.write_text(text, encoding="utf-8")


def write_json(path: Path, tree: Any, **settings: Any) -> None:
    """Writes a JSON file completely or not at all, replacing an older one; `settings` are those of json.dumps."""
    write_text(path, json.dumps(tree, **{"indent": 1, **settings}) + "\n")


def read_text(path: Path, kind: str = "result") -> str:
    """Returns the text of a regular file, at most as large as `door.LIMITS` allows for its kind; raises JaxlvError if it is
    not such a file, or not UTF-8.
    """
    try:
        return door.content(path, door.LIMITS[kind]).decode()
    except UnicodeDecodeError as fault:
        raise JaxlvError("not a text", where=path, expected="UTF-8", found=f"byte {fault.start} is not") from None


def read_json(path: Path) -> Any:
    """Returns the value in a JSON file of ours; raises JaxlvError if it is damaged, or as `read_text` does."""
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as fault:
        raise JaxlvError(f"damaged ({fault})", where=path) from None


@contextlib.contextmanager
def as_written(what: str, where: Any, files: str) -> Iterator[None]:
    """Turns errors of the body about content that is not as our programs write it into one JaxlvError, which says `what` and
    names the `files`. The body may only read, format and draw that content: an error of a computation would be misreported.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, StopIteration, ArithmeticError) as fault:
        found = f"{type(fault).__name__}: {fault}"
        hint = f"{files} may be damaged, or of another version; --debug shows where"
        raise JaxlvError(what, where=where, found=found, hint=hint) from fault


def make_folder(folder: Path) -> None:
    """Makes a folder, and those above it, if they do not exist. The names of new ones are flushed to the disk: otherwise a
    power cut could lose the folder with everything flushed in it. Raises JaxlvError if a file is in the way.
    """
    folder = Path(folder)
    if folder.is_dir():
        return
    make_folder(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise JaxlvError("is not a folder", where=folder, expected="a folder to write to") from None
    to_disk(folder.parent)


def remove_folder(folder: Path) -> None:
    """Removes a folder, which is complete or gone at every instant; `remove_unfinished` later takes what cannot be deleted
    now.
    """
    hidden = folder.with_name(f".{folder.name}.{os.getpid()}{SUFFIX}")
    with contextlib.suppress(OSError):
        os.replace(folder, hidden)
        to_disk(folder.parent)
    shutil.rmtree(hidden, ignore_errors=True)


@contextlib.contextmanager
def _beside(place: Path, name: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Yields a temporary folder beside `place`, locked by this process, and a check that raises JaxlvError if the folders
    above were removed or renamed. The folder is deleted in the end. An OSError of the body names `name`, not a file in the
    temporary folder.
    """
    remove_unfinished(place.parent, place.name)
    begins = place.with_name(f".{place.name}.")
    try:
        made = tempfile.TemporaryDirectory(SUFFIX, begins.name, place.parent, ignore_cleanup_errors=True)
        with made as temporary, _held(Path(temporary)) as handle, Watched() as watched:
            watched.add(Path(temporary), handle)
            try:
                yield Path(temporary), watched.check
            except Exception:
                watched.check()  # some libraries make missing folders anew
                raise
    except OSError as fault:
        if fault.filename is None or str(fault.filename).startswith(str(begins)):
            fault.filename, fault.filename2 = str(name), None
        raise


def _put(work: Path, place: Path, old: Path | None) -> None:
    """Renames `work` to `place`, after moving what is there to `old`, if given. A failure leaves `place` as it was, with one
    exception: a file whose folder could not be flushed afterwards may be the new one.
    """
    folder, before = work.is_dir(), place.exists()
    try:
        if old is not None and before:
            os.replace(place, old)
        try:
            os.replace(work, place)
        except OSError as fault:
            if fault.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR):  # another process was first
                raise JaxlvError("exists already", where=place, hint="choose another name") from None
            raise
        to_disk(place.parent)
    except BaseException:
        if not work.exists() and (folder or not before):
            os.replace(place, work)
        if old is not None and old.exists():
            os.replace(old, place)
        raise


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Removes what killed processes left half written in `folder`, under one name or any; what a living one writes stays.

    A folder that had been moved away to be replaced is put back.
    """
    for path in Path(folder).glob(f".{name if name == '*' else glob.escape(name)}.*{SUFFIX}"):
        with contextlib.suppress(OSError):  # another process may remove it too
            if path.is_dir() and not path.is_symlink():
                with _held(path):
                    final = path.with_name(path.name[1:].removesuffix(SUFFIX).rpartition(".")[0])
                    if (path / "old").exists() and not final.exists():
                        os.replace(path / "old", final)
                    shutil.rmtree(path)
            else:
                path.unlink()


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[int]:
    """Yields the handle of a folder that stays locked until the process ends; raises OSError if another process has the
    lock.
    """
    handle = door.handle_of(folder)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield handle
    finally:
        os.close(handle)


def to_disk(path: Path) -> None:
    """Flushes a file, or the entries of a folder, to the disk."""
    handle = door.handle_of(path)
    try:
        with naming(path):
            os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Makes an OSError of the body that names no file name `path`."""
    try:
        yield
    except OSError as fault:
        if fault.filename is None:
            fault.filename = str(path)
        raise


def system_error(fault: BaseException, path: Path) -> OSError:
    """Returns the OSError behind an exception that an extension raised while it wrote `path`, recognised by its text."""
    text = os.strerror(errno.ENOMEM) if isinstance(fault, MemoryError) else str(fault)
    code = next((code for code in errno.errorcode if os.strerror(code).lower() in text.lower()), 0)
    return OSError(code or errno.EIO, os.strerror(code) if code else f"{type(fault).__name__}: {text}", str(path))


@contextlib.contextmanager
def only_process(path: Path) -> Iterator[int]:
    """Yields the handle of a lock file, which exists while the process works in its folder; raises JaxlvError, with its
    number, if another process already does.
    """
    path = Path(path)
    while True:
        with io.TextIOWrapper(io.BufferedRandom(door.opened_to_add(path)), encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                pid = file.read(20).strip() or "unknown"
                what = f"another process works here (pid {pid})"
                raise JaxlvError(what, where=path.parent, hint="wait for it to end") from None
            if not is_at(path, file.fileno()):
                continue  # the process that held it removed it between our opening and locking
            with naming(path):
                file.truncate(0)
                file.write(f"{os.getpid()}\n")
                file.flush()
            try:
                yield file.fileno()
            finally:
                # A file that stays does not lock anything; another process's file, in another folder of that name, is left
                # alone.
                with contextlib.suppress(OSError):
                    if is_at(path, file.fileno()):
                        path.unlink()
            return


def is_at(path: Path, handle: int) -> bool:
    """Tells whether `path` still is the file or folder that is open as `handle`: it may have been removed, renamed or
    replaced.
    """
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except (FileNotFoundError, NotADirectoryError):
        return False


class Watched:
    """Files and folders that must stay where they are while a process works with them: use it in a `with` statement.

    They are held open, because as long as they are, the system gives their inode numbers to no other file.
    """

    def __init__(self) -> None:
        self._handles: dict[Path, int] = {}
        self._opened = contextlib.ExitStack()

    def add(self, path: Path, handle: int | None = None) -> None:
        """Watches a path, open as `handle` or opened here; raises JaxlvError if it is already gone."""
        if handle is None:
            try:
                handle = door.handle_of(path)
            except (FileNotFoundError, NotADirectoryError):
                raise _gone(path) from None
            self._opened.callback(os.close, handle)
        self._handles[Path(path)] = handle

    def check(self) -> None:
        """Raises JaxlvError for the first path that is not what it was."""
        for path, handle in self._handles.items():
            if not is_at(path, handle):
                raise _gone(path)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()


def _gone(path: Path) -> JaxlvError:
    hint = "nothing more is written there; if it was renamed, go on with its new name"
    return JaxlvError("was removed, renamed or replaced while a process worked with it", where=path, hint=hint)


# ----------------------------------------------------------------------------------------------------- sealed


def seal(folder: Path, names: Iterable[str] | None = None) -> None:
    """Writes SHA256SUMS: the hash of each file in `folder`, or of those in `names` that exist."""
    folder = Path(folder)
    if names is None:
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names if (folder / name).is_file()]
    write_text(folder / SEAL, "".join(lines))


def broken(folder: Path) -> list[str]:
    """Describes every change since the folder was sealed, one phrase per file. A missing or damaged seal counts as a change.
    Raises Unreadable if the system cannot read an existing file.
    """
    folder = Path(folder)
    try:
        content = (foreign.read(folder, SEAL) or b"").decode()
    except door.Unreadable:
        raise
    except (JaxlvError, ValueError):
        content = ""
    if not content:
        return [f"{SEAL} is missing or unreadable"]
    *lines, rest = content.split("\n")
    if rest or not lines:
        return [f"{SEAL} is damaged"]
    return [fault for line in lines if (fault := _fault(folder, line))]


def _fault(folder: Path, line: str) -> str:
    """Describes what is wrong with the file in one line of a seal; "" if it is unchanged."""
    digest, gap, name = line[:64], line[64:66], line[66:]
    if gap != "  " or not name or not name.isprintable() or Path(name).is_absolute() or ".." in Path(name).parts:
        return f"{SEAL} is damaged"
    try:
        foreign.confine(folder / name, folder)
        return "" if sha256(folder / name) == digest else f"{name} has changed"
    except door.Unreadable:
        raise
    except JaxlvError:
        return f"{name[:100]} is missing"


def parse_json(text: str | bytes) -> Any:
    """Returns the value of a JSON text; raises ValueError, in plain words, if it is not JSON or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as fault:
        place = f"line {fault.lineno}, column {fault.colno}" if text.strip() else "the file is empty"
        raise ValueError(f"not JSON: {place}") from None


def sha256(path: Path) -> str:
    """Returns the hash of a regular file in hexadecimal digits; raises JaxlvError if it is not one."""
    with door.opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def begun_folder(path: Path, part: str, resume: bool) -> bool:
    """Returns whether the work in a folder was begun before, and goes on; what killed processes left in it is then removed.

    Otherwise makes the folder, with an empty folder `part`, by which it is recognised later. Raises JaxlvError if it exists
    and is not to be resumed.
    """
    if resume and (path / part).is_dir():
        remove_unfinished(path)
        remove_unfinished(path / part)
        return True
    if not resume and (path / part).is_dir():
        raise JaxlvError("exists already", where=path, hint=ANEW)
    with new_folder(path) as work:
        (work / part).mkdir()
    return False
