"""`jaxlv configs`."""

from __future__ import annotations

from pathlib import Path

from jaxlv.tools.console import Result, group, shown


def show() -> Result:
    """List the configs that come with jaxlv; `jaxlv train NAME` and other verbs take their names.

    jaxlv configs
    """
    from jaxlv.report.table import words
    from jaxlv.studies import configs

    found = configs.described()
    return Result(shown(found, words("name"), words("words", "what it is")), dict(found))


def copy(name: str, folder: Path = Path(), /) -> Result:
    """Copy a config that comes with jaxlv, and those that it extends, to change them.

        jaxlv configs copy demo
        jaxlv configs copy xu/grid mine

    Args:
        name: name of a config, as `jaxlv configs` lists them
        folder: folder for the copies
    """
    from jaxlv.studies import configs

    written = [str(place) for place in configs.copy_config(name, folder)]
    return Result("\n".join(written), {"files": written})


app = group("configs", "", copy, default=show)
