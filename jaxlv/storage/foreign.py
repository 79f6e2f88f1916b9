"""Untrusted files: everything that is read or copied from the folder of a model or an adapter goes through here.

Such a folder may hold a link to any file of the reader's, a pipe or a device that never ends, or settings that fill the
memory. So a name leads either to a regular file inside its folder, no larger than LIMITS allows, or to one clear error. Only
files named in LIMITS are read, and only TAKEN_ALONG are copied. This does not protect against somebody who changes the
folder while it is read.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxlv.errors import JaxlvError, printable
from jaxlv.storage.door import check_regular, content, unreadable

MIB = 1 << 20
# What is read from a folder, and its largest size in bytes. Tensor files have no limit here: each tensor is read alone, in
# the size that the model's settings give, and headers have a limit of their own (jaxlv/storage/tensors.py).
LIMITS: Mapping[str, int] = {
    "config.json": MIB, "generation_config.json": MIB, "adapter_config.json": MIB, "codec.json": MIB, "SHA256SUMS": MIB,
    "training.json": MIB,
    "model.safetensors.index.json": 4 * MIB,
    "tokenizer.json": 32 * MIB, "vocab.json": 16 * MIB, "merges.txt": 16 * MIB,
    "tokenizer_config.json": 4 * MIB, "special_tokens_map.json": MIB, "added_tokens.json": MIB, "chat_template.jinja": MIB,
    "LICENSE": MIB, "LICENSE.txt": MIB, "LICENSE.md": MIB, "NOTICE": MIB, "NOTICE.txt": MIB,
}  # fmt: skip
TENSORS = ".safetensors"
# What a checkpoint made from another one takes over from it.
TAKEN_ALONG = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt",
)  # fmt: skip
LONGEST_NAME = 255  # bytes in the name of a file
DEEPEST = 64  # levels of nested JSON

# ------------------------------------------------------------------------------------------------------ files


def find(folder: str | Path, name: str) -> Path | None:
    """Returns the path of a file in a folder; None if nothing of that name exists.

    Raises JaxlvError if the name leads out of the folder, by itself or by a link, and if what is there is not a regular file
    or is larger than LIMITS allows.
    """
    folder = Path(folder)
    if name in ("", ".", "..") or "/" in name or "\0" in name or _bytes_of(name) > LONGEST_NAME:
        expected = "the name of a file in it"
        raise JaxlvError("a name that leads out of the folder", where=folder, expected=expected, found=ascii(name))
    path = folder / name
    if not os.path.lexists(path):
        return None
    confine(path, folder)
    try:
        found = os.stat(path)
    except OSError as fault:
        raise unreadable(fault, path) from None
    check_regular(found, path)
    most = math.inf if name.endswith(TENSORS) else LIMITS[name]
    if found.st_size > most:
        raise JaxlvError("too large", where=path, expected=f"at most {most} bytes", found=found.st_size)
    return path


def _bytes_of(name: str) -> float:
    try:
        return len(os.fsencode(name))
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can hold: no file has such a name
        return math.inf


def read(folder: str | Path, name: str) -> bytes | None:
    """Returns the content of a file that `find` finds; None if nothing of that name exists."""
    path = find(folder, name)
    return None if path is None else content(path, LIMITS[name])


def tensor_files(folder: str | Path) -> list[Path]:
    """Returns the safetensors files directly in a folder, sorted by name; errors as in `find`."""
    names = sorted(entry for entry in _entries(folder) if entry.endswith(TENSORS))
    return [path for name in names if (path := find(folder, name))]


def companions(folder: str | Path) -> list[str]:
    """Returns the names of those files in a folder that are copied into a checkpoint made from its model.

    Raises JaxlvError as `find` does, and for any link that leads out of the folder, whatever its name: whoever put it there
    may have wanted it to be followed.
    """
    for name in sorted(_entries(folder)):
        if os.path.islink(Path(folder) / name):
            confine(Path(folder) / name, folder)
    return [name for name in TAKEN_ALONG if find(folder, name)]


def _entries(folder: str | Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as fault:
        raise JaxlvError(f"not a readable folder ({fault.strerror})", where=folder) from None


def copy(folder: str | Path, name: str, to: Path) -> None:
    """Copies a file that `find` finds to another folder, under the same name; does nothing if it does not exist."""
    found = read(folder, name)
    if found is not None:
        (to / name).write_bytes(found)


@contextlib.contextmanager
def told(what: str, where: Any, hint: str | None = None) -> Iterator[None]:
    """Turns anything that a library raises in the body, whatever its class, into one JaxlvError."""
    try:
        yield
    except BaseException as fault:
        if isinstance(fault, JaxlvError) or not (isinstance(fault, Exception) or is_panic(fault)):
            raise
        raise JaxlvError(f"{what} ({type(fault).__name__}: {printable(fault)})", where=where, hint=hint) from None


def is_panic(fault: BaseException) -> bool:
    """Tells whether an exception is the panic of an extension written in Rust, which is not an Exception."""
    return type(fault).__name__ == "PanicException"


# ------------------------------------------------------------------------------------------------------ links


def hub_revision(folder: Path) -> str | None:
    """Returns the commit of a snapshot in the hub's cache, models--OWNER--NAME/snapshots/COMMIT; None for other folders."""
    is_snapshot = folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")
    return folder.name if is_snapshot else None


def confine(path: Path, folder: str | Path) -> None:
    """Raises JaxlvError if `path` leads out of a folder. In the hub's cache it may lead to the cache's store of files."""
    home, real = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    in_cache = hub_revision(home) is not None and real.parent == home.parents[1] / "blobs"
    if not real.is_relative_to(home) and not in_cache:
        raise JaxlvError(f"{path.name} is a link to outside the folder", where=folder, found=real)


# ------------------------------------------------------------------------------------------------------- JSON


def settings(folder: str | Path, name: str) -> dict[str, Any] | None:
    """Returns the JSON object in a file that `find` finds, read strictly (`parse`); None if the file does not exist."""
    found = read(folder, name)
    if found is None:
        return None
    try:
        tree = parse(found)
        if not isinstance(tree, dict):
            raise ValueError("not an object")
    except ValueError as fault:
        raise JaxlvError(f"unreadable settings ({fault})", where=Path(folder) / name, expected="a JSON object") from None
    return tree


WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "printable text"}


def typed(tree: Mapping[str, Any], name: str, kind: type, where: Any, default: Any = None) -> Any:
    """Returns the value of a setting in exactly that type: bool, int, float (which accepts a whole number) or str.

    Returns `default` if it is missing or null. Raises JaxlvError if it is of another type, or text that does not print.
    """
    value = tree.get(name)
    if value is None:
        return default
    with contextlib.suppress(OverflowError):  # a whole number of hundreds of digits
        value = float(value) if kind is float and type(value) is int else value
    if type(value) is not kind or (isinstance(value, str) and not value.isprintable()):
        raise JaxlvError(f"{name} is not {WORDS[kind]}", where=where, found=repr(value))
    return value


class Twice(ValueError):
    """A key occurs twice in a JSON object: readers would differ in which value they take."""

    def __init__(self, key: str):
        super().__init__(f"the key {key[:100]!r} occurs twice")
        self.key = key


def parse(text: bytes) -> Any:
    """Returns the value of a JSON text in UTF-8.

    Raises ValueError if it is not JSON, if a key occurs twice in an object (Twice), if a number is not finite, or if it is
    nested more than DEEPEST levels deep.
    """
    try:
        tree = json.loads(text.decode(), object_pairs_hook=_once, parse_constant=_Endless, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level: list[Any] = [[tree]]
    for _ in range(DEEPEST):
        inside = [value for outer in level for value in (outer.values() if isinstance(outer, dict) else outer)]
        for value in inside:
            if isinstance(value, _Endless):
                raise value.fault("a value")
        level = [value for value in inside if isinstance(value, (dict, list))]
        if not level:
            return tree
    raise ValueError("nested too deeply")


class _Endless:
    """A number that is not finite, kept until its key is known."""

    def __init__(self, text: str):
        self.text = text

    def fault(self, key: str) -> ValueError:
        return ValueError(f"{key[:100]} is {self.text[:40]}, not a finite number")


def _finite(text: str) -> float | _Endless:
    return value if math.isfinite(value := float(text)) else _Endless(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        seen: set[str] = set()
        raise Twice(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    for key, value in pairs:
        if isinstance(value, _Endless):
            raise value.fault(key)
    return tree
