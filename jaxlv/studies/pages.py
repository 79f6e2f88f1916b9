"""The page of what verbs left in folders: of one folder, or of several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxlv.data import loading
from jaxlv.errors import JaxlvError
from jaxlv.report import dossier, folders, page

PAGE = "report.html"


class Written(NamedTuple):
    """A page that was written, and what it says first."""

    path: Path
    summary: str


def write(places: Sequence[Path], data: Path | None = None, out: Path | None = None) -> Written:
    """Writes one page of the results in folders, to `out`, else into the folder, or of several folders where you are.

    `data` is the series file of the forecasts; each run's own, if it is still there, if None. Raises JaxlvError if a folder
    holds no results, if a file in it is damaged, or if the page's folder is not there.
    """
    given = loading.load(data) if data else None
    found = [folders.read(path) for path in places]
    made = dossier.page_of(found, [dossier.data_of(folder, given) for folder in found])
    path = out or (Path(PAGE) if len(found) > 1 else places[0] / PAGE)
    if path.is_dir() or not path.parent.is_dir():
        raise JaxlvError("not a place for a page", where=path, expected="a file in a folder that is there")
    page.write(path, made)
    return Written(path, made.summary)
