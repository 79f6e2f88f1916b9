"""`jaxlv configs`."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from jaxlv.config import built_in, find_config, with_extended
from jaxlv.errors import JaxlvError
from jaxlv.storage.files import make_folder, read_text, write_text
from jaxlv.tools.console import OPTION, Result, columns, start, verb

app = App(name="configs", help_format="plaintext", default_parameter=OPTION)


def show() -> Result:
    """List the configs that come with jaxlv; `jaxlv train NAME` and other verbs take their names.

    jaxlv configs
    """
    told = {name: _first_line(path) for name, path in built_in().items()}
    return Result(columns([["name", "what it is"], *map(list, told.items())], right=()), told)


def copy(name: str, folder: Path = Path(), /) -> Result:
    """Copy a config that comes with jaxlv, and those that it extends, to change them.

        jaxlv configs copy demo
        jaxlv configs copy xu/grid mine

    Parameters
    ----------
    name
        of a config, as `jaxlv configs` lists them
    folder
        where the copies go
    """
    files = with_extended(find_config(name))
    names = {path.resolve(): own for own, path in built_in().items()}
    places = {path: folder / f"{names[path]}.toml" for path in files if path in names}
    if not places:
        raise JaxlvError("is no config that comes with jaxlv", where=name, hint="jaxlv configs lists them")
    for place in places.values():
        if place.exists():
            raise JaxlvError("exists already", where=place, hint="choose another folder")
    for path, place in places.items():
        make_folder(place.parent)
        write_text(place, read_text(path))
    written = [str(place) for place in places.values()]
    return Result("\n".join(written), {"files": written})


def _first_line(path: Path) -> str:
    first = read_text(path).split("\n", 1)[0]
    return first.removeprefix("#").strip().removesuffix(".") if first.startswith("#") else ""


app.default(verb(show, prints=True).default_command)
app.command(verb(copy), name="copy")

if __name__ == "__main__":
    start(app)
