"""The page of what verbs left in folders: of one folder, or of several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxlv.data import loading
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.report.folders import page_of, together
from jaxlv.report.page import Page
from jaxlv.report.page import write as write_page
from jaxlv.storage.files import check_new_file
from jaxlv.studies import folders
from jaxlv.studies.details import completed, data_of

PAGE = "report.html"


class Written(NamedTuple):
    """A page that was written, and what it says first."""

    path: Path
    summary: str


def write(places: Sequence[Path], data: Path | None = None, out: Path | None = None, overwrite: bool = False) -> Written:
    """Writes one page of the results in folders, to `out`, else into the folder, or of several folders where you are.

    The page that a folder has already is replaced, another file only with `overwrite`. `data` is the series file of the
    forecasts; each run's own, if it is still there, if None. Raises JaxlvError if a folder holds no results, if a file in it
    is damaged, if the page's folder is not there, or if the file exists and may not be replaced.
    """
    path = out or (Path(PAGE) if len(places) > 1 else places[0] / PAGE)
    own = [place.resolve() / PAGE for place in places]
    check_new_file(path, overwrite or path.resolve() in own)
    page = made(places, loading.load(data) if data else None)
    if not path.parent.is_dir():
        raise JaxlvError("not a place for a page", where=path, expected="a file in a folder that is there")
    write_page(path, page)
    return Written(path, page.summary)


def made(places: Sequence[Path], given: SeriesSet | None = None) -> Page:
    """Returns the page of a folder, or of several, with forecasts of the series given, else of each run's own."""
    found, pages = folders.read_all(places), []
    for folder in found:
        with folders.readable(folder.path, folder.kind):
            pages.append(page_of(completed(folder, data_of(folder, given))))
    return pages[0] if len(pages) == 1 else together(found, pages)
