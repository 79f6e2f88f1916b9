"""Parts of a page whose figures are also written as files."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

from jaxlv.report.charts import Chart
from jaxlv.report.page import Block, Figure, Section, svg
from jaxlv.report.table import Table

Tree = Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """A figure that is drawn once and written twice: into a page, and to files of that name."""

    name: str
    drawing: Chart
    label: str
    caption: str
    layout: Literal["cell", "full", "side"] = "cell"

    @functools.cached_property
    def svg(self) -> Markup:
        """The <svg> element, drawn once."""
        return svg(self.drawing, self.label)

    def block(self) -> Figure:
        """The figure for a page."""
        return Figure([self.svg], self.caption, self.layout)


@dataclass(frozen=True)
class Part:
    """One analysis as a page shows it."""

    title: str
    text: str
    content: Sequence[Picture | Table]

    def section(self) -> Section:
        """The part for a page."""
        found: list[Block] = [item.block() if isinstance(item, Picture) else item for item in self.content]
        return Section(self.title, found, self.text)


def pictures(parts: Sequence[Part]) -> list[Picture]:
    """All figures of the parts, in their order."""
    return [item for part in parts for item in part.content if isinstance(item, Picture)]
