"""A page as data (`Page` > `Section` > blocks) that page.html.j2 draws as one whole file."""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import jinja2
from markupsafe import Markup, escape

from jaxlv.report.charts import Chart
from jaxlv.report.figures.svg import save_pair, to_svg
from jaxlv.report.table import Table
from jaxlv.report.theme import css_variables
from jaxlv.storage.files import write_text

Layout = Literal["cell", "full", "side"]  # a cell of the grid, a full row, or a caption aside


@dataclass(frozen=True)
class Drawing:
    """A chart and its label; with a name it is also written to files."""

    chart: Chart
    label: str
    name: str = ""

    @functools.cached_property
    def svg(self) -> Markup:
        """The <svg> element, drawn once; matplotlib and ElementTree have escaped the text in it."""
        return Markup(to_svg(self.chart, self.label))


@dataclass(frozen=True)
class Figure:
    """One numbered figure of drawings, or of <svg> elements that were drawn before."""

    drawings: Sequence[Drawing | Markup]
    caption: str
    layout: Layout = "cell"
    kind: ClassVar[str] = "figure"

    @property
    def svgs(self) -> list[Markup]:
        """The <svg> elements."""
        return [one if isinstance(one, Markup) else one.svg for one in self.drawings]


@dataclass(frozen=True)
class Pairs:
    """Names and values that open on demand."""

    label: str
    pairs: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "pairs"


@dataclass(frozen=True)
class Passage:
    """A text that somebody wrote, its lines as they are: who, the text, a mark such as "pass", and a note."""

    name: str
    text: str
    mark: str = ""
    note: str = ""


@dataclass(frozen=True)
class Passages:
    """Texts side by side, or below each other on a narrow page, under a heading."""

    heading: str
    note: str
    passages: Sequence[Passage]
    kind: ClassVar[str] = "passages"


Block = Table | Figure | Pairs | Passages


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph and blocks; it does not appear without either of these.

    Neighbours of one `group` stand under a heading of that name.
    """

    title: str
    blocks: Sequence[Block]
    text: str = ""
    group: str = ""


@dataclass(frozen=True)
class Page:
    """A whole page: title, a paragraph in plain words, what it cost, and sections."""

    title: str
    summary: str
    bill: Sequence[tuple[str, str]] = ()
    sections: Sequence[Section] = ()


class OwnIds:
    """Keeps ids apart if the same figure stands on a page twice."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def __call__(self, svg: Markup) -> Markup:
        """Returns the figure, with other ids if it has been there before."""
        found = re.search(r'id="(f[0-9a-f]{8})-', svg)
        prefix = found[1] if found else ""
        before, self.seen[prefix] = self.seen[prefix], self.seen[prefix] + 1
        return Markup(str(svg).replace(f"{prefix}-", f"{prefix}_{before}-")) if prefix and before else svg


CONTENTS = 4  # sections from which on a page has a table of contents


@dataclass(frozen=True)
class Chapter:
    """Neighbouring sections of one group."""

    name: str
    sections: Sequence[Section]


# Classes of Unicode's rules for directions: what is read from right to left or says so, and what may stand within a name.
TURNS = frozenset(["R", "AL", "AN", "RLE", "RLO", "LRE", "LRO", "PDF", "RLI", "LRI", "FSI", "PDI"])
BETWEEN = frozenset(["WS", "EN", "ES", "NSM"])
_TURNED = re.compile("T(?:[T ]*T)?")
_NOT_HTML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, broken UTF-8


def isolated(text: str) -> Markup:
    """Returns `text` as HTML. Names that are read from right to left stand in <bdi>, so they turn nothing around them."""
    if text.isascii():
        return escape(text)
    classes = [unicodedata.bidirectional(one) for one in text]
    kinds = "".join("T" if one in TURNS else " " if one in BETWEEN else "L" for one in classes)
    parts, end = [], 0
    for match in _TURNED.finditer(kinds):
        parts += [escape(text[end : match.start()]), Markup("<bdi>"), escape(text[slice(*match.span())]), Markup("</bdi>")]
        end = match.end()
    return Markup("").join([*parts, escape(text[end:])])


def _finalized(value: Any) -> Any:
    """Returns what the template writes for a value; HTML, or what is escaped for an attribute, stays as it is."""
    return isolated(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def render(page: Page) -> str:
    """Returns `page` as one HTML document that needs nothing else."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_finalized,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["unbroken"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")
    environment.filters["own_ids"] = OwnIds()
    palette = {"light": Markup(css_variables()), "dark": Markup(css_variables(dark=True))}
    shown = [section for section in page.sections if section.blocks or section.text]
    chapters = [Chapter(name, list(own)) for name, own in itertools.groupby(shown, lambda section: section.group)]
    contents = len(shown) >= CONTENTS
    html = environment.get_template("page.html.j2").render(page=page, chapters=chapters, contents=contents, **palette)
    return _NOT_HTML.sub("\N{REPLACEMENT CHARACTER}", html) + "\n"


def write(path: Path, page: Page, figures: Path | None = None) -> None:
    """Writes `page` to a file, whole or not at all, and its drawings that have names into the folder `figures`."""
    for block in (block for section in page.sections for block in section.blocks if isinstance(block, Figure)):
        for one in block.drawings:
            if figures and isinstance(one, Drawing) and one.name:
                save_pair(one.chart, one.svg, figures / one.name)
    write_text(path, render(page))


def figure(chart: Chart, label: str, caption: str, layout: Layout = "cell", name: str = "") -> Figure:
    """Returns a figure of one chart."""
    return Figure([Drawing(chart, label, name)], caption, layout)
