"""The configs that come with jaxlv: what each is, and copies to change."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from jaxlv.config import built_in, find_config, with_extended
from jaxlv.errors import JaxlvError
from jaxlv.storage.files import make_folder, read_text, write_text


class Described(NamedTuple):
    """A config and the comment that its file begins with."""

    name: str
    words: str


def described() -> list[Described]:
    """Returns every config that comes with jaxlv."""
    first = {name: read_text(path).split("\n", 1)[0] for name, path in built_in().items()}
    return [
        Described(name, line.removeprefix("#").strip().removesuffix(".") if line.startswith("#") else "")
        for name, line in first.items()
    ]


def copy_config(name: str, folder: Path) -> list[Path]:
    """Copies a config and those that it extends into a folder, and returns the copies.

    Raises JaxlvError if none of them comes with jaxlv, or if a copy exists already.
    """
    files = with_extended(find_config(name))
    names = {path.resolve(): own for own, path in built_in().items()}
    places = {path: folder / f"{names[path]}.toml" for path in files if path in names}
    if not places:
        raise JaxlvError("is not a config that comes with jaxlv", where=name, hint="jaxlv configs lists them")
    for place in places.values():
        if place.exists():
            raise JaxlvError("exists already", where=place, hint="choose another folder")
    for path, place in places.items():
        make_folder(place.parent)
        write_text(place, read_text(path))
    return list(places.values())
