"""Reads figures and tables back as a reader sees them: lines, bands and bars by their names, cells by their headings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch

from jaxlv.report.charts import Chart
from jaxlv.report.figures.render import drawn as drawing_of
from jaxlv.report.format import MISSING, number
from jaxlv.report.page import Figure as PageFigure
from jaxlv.report.page import Page, Section
from jaxlv.report.table import Table


def seen(chart: Chart) -> Figure:
    """A chart as it is drawn."""
    return drawing_of(chart).figure


def colour(artist: Any) -> str:
    """The colour of a line, patch, text or collection, as #rrggbb."""
    for name in ("get_color", "get_facecolor", "get_edgecolor"):
        found = getattr(artist, name, lambda: None)()
        if found is not None and len(found):
            row = found[0] if np.ndim(found) == 2 else found
            if not (name == "get_facecolor" and np.ndim(row) and row[-1] == 0):  # a face that is not drawn
                return colors.to_hex(row)
    raise AssertionError(f"no colour: {artist}")


def text_of(axis: Any) -> tuple[str, str]:
    """(label, colour) of an axis."""
    return axis.label.get_text(), colour(axis.label)


def ticks(axis: Any) -> dict[float, str]:
    """{place: label} of the ticks that have labels of their own."""
    return {float(place): label.get_text() for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)}


def from_top(ax: Axes) -> list[str]:
    """The labels of the rows, as they are read down the page."""
    at = {label: ax.transData.transform((1, place))[1] for place, label in ticks(ax.yaxis).items()}
    return sorted(at, key=lambda label: -at[label])


def texts(ax: Axes) -> list[str]:
    """The words within the axes, annotations among them."""
    return [text.get_text() for text in ax.texts]


# ----------------------------------------------------------------------------------------------- legends and lines


def legend(figure: Figure) -> dict[str, Any]:
    """{entry: the artist beside it} of all legends of a figure, in order; fails if one stands twice in a legend."""
    found = {}
    for one in figure.legends:
        entries = [text.get_text() for text in one.texts]
        assert len(entries) == len(set(entries)), entries
        found |= {text.get_text(): handle for text, handle in zip(one.texts, one.legend_handles, strict=True)}
    return found


def look(line: Any) -> tuple[Any, ...]:
    """What tells a line from another: its colour, mark, dashes and whether there is a line at all."""
    if not isinstance(line, Line2D):
        return (colour(line),)
    dashes = line._unscaled_dash_pattern[1]
    stroke = line.get_linestyle() not in ("None", "", " ") and line.get_linewidth() > 0
    mark = line.get_marker()
    open_mark = mark not in ("None", None, "") and line.get_markerfacecolor() == "none"
    return colour(line), {None: "None", "": "None"}.get(mark, mark), tuple(dashes or ()) if stroke else "none", open_mark


class Drawn(NamedTuple):
    """A line of a figure: the name that a reader gives it, its points and its colour."""

    name: str
    x: np.ndarray
    y: np.ndarray
    colour: str
    width: float


def drawn(ax: Axes) -> list[Drawn]:
    """All lines in the axes. A name is the line's own, else that of the legend's one entry of its look, else of the text at
    its end in its colour; "" if a reader has no name for it.
    """
    entries, found = legend(ax.figure), []
    for line in ax.lines:
        own = str(line.get_label())
        alike = {name: handle for name, handle in entries.items() if look(handle) == look(line)}
        exact = [name for name, handle in alike.items() if handle.get_linewidth() == line.get_linewidth()]
        same = exact or list(alike)
        ends = [text.get_text() for text in ax.texts if colour(text) == colour(line)]
        name = own if own and not own.startswith("_") else same[0] if len(same) == 1 else ends[0] if len(ends) == 1 else ""
        x, y = (np.atleast_1d(np.asarray(values, float)) for values in line.get_data(orig=True))
        found.append(Drawn(name, x, y, colour(line), line.get_linewidth()))
    return found


def named(ax: Axes) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """{name: (x, y) of each line of that name}."""
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for one in drawn(ax):
        found.setdefault(one.name, []).append((one.x, one.y))
    return found


def lines(ax: Axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{name: (x, y)} of the lines that have a name; fails if two have the same."""
    found = {name: own for name, own in named(ax).items() if name}
    assert all(len(own) == 1 for own in found.values()), {name: len(own) for name, own in found.items()}
    return {name: own[0] for name, own in found.items()}


def coloured(ax: Axes, hue: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(x, y) of the lines of a colour."""
    return [(one.x, one.y) for one in drawn(ax) if one.colour == hue]


def strokes(ax: Axes) -> dict[str, list[tuple[tuple[float, float], tuple[float, float]]]]:
    """{colour: ((x, y), (x, y)) of each stroke} of the collections of lines, as `vlines` draws them."""
    return {
        colour(one): [tuple(map(tuple, part)) for part in one.get_segments()]
        for one in ax.collections
        if isinstance(one, LineCollection)
    }


# ------------------------------------------------------------------------------------------------ areas and bars


class Band(NamedTuple):
    """An area between two lines."""

    x: np.ndarray
    low: np.ndarray
    high: np.ndarray
    colour: str
    alpha: float


def bands(ax: Axes) -> list[Band]:
    """All areas between two lines, in the order in which they were drawn."""
    found = []
    for one in ax.collections:
        if isinstance(one, PolyCollection):
            corners = np.concatenate([path.vertices for path in one.get_paths()])
            x = np.unique(corners[:, 0])
            ends = [(corners[corners[:, 0] == at, 1].min(), corners[corners[:, 0] == at, 1].max()) for at in x]
            low, high = np.array(ends).T
            found.append(Band(x, low, high, colour(one), float(one.get_alpha() or 1)))
    return found


def bars(ax: Axes) -> dict[str, list[tuple[float, float, float]]]:
    """{name: (place, from, to) of each bar}, upright or lying; a name is the bars' own, else that of the legend's one entry
    of their colour, else "".
    """
    entries = {colour(handle): name for name, handle in legend(ax.figure).items()}
    found: dict[str, list[tuple[float, float, float]]] = {}
    for group in ax.containers:
        name = str(group.get_label())
        for bar in group.patches:
            x, y, width, height = bar.get_x(), bar.get_y(), bar.get_width(), bar.get_height()
            place = (x + width / 2, y, y + height) if group.orientation == "vertical" else (y + height / 2, x, x + width)
            found.setdefault(entries.get(colour(bar), "") if name.startswith("_") else name, []).append(place)
    return found


def stairs(ax: Axes) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(colour, heights, edges) of the outlines of histograms, those that are not filled where there are any."""
    steps = [one for one in ax.patches if isinstance(one, StepPatch)]
    outlines = [one for one in steps if not one.get_fill()] or steps
    return [(colour(one), np.asarray(one.get_data().values), np.asarray(one.get_data().edges)) for one in outlines]


# ---------------------------------------------------------------------------------------------------------- tables


def heads(table: Table) -> list[str]:
    """The headings of the columns, each under its group's, with the group's unit in brackets."""
    groups = [group for group in table.groups for _ in range(group.span)]
    return [
        f"{group.name}: {head}".strip(": ") + (f" [{group.unit}]" if group.unit else "")
        for group, head in zip(groups, table.heads, strict=True)
    ]


def cells(table: Table) -> dict[str, dict[str, str]]:
    """{row: {heading: text}} of a table; rows are named by their first cell."""
    names = heads(table)
    assert len(set(names)) == len(names), names
    return {
        row[0].text.strip(): {head: _plain(cell.text) for head, cell in zip(names[1:], row[1:], strict=True)}
        for row in table.cells
    }


def bold(table: Table) -> set[tuple[str, str]]:
    """(row, heading) of the cells that are marked as the best."""
    names = heads(table)
    return {(row[0].text.strip(), head) for row in table.cells for head, cell in zip(names, row, strict=True) if cell.best}


def values(table: Table) -> dict[str, dict[str, float | None]]:
    """{row: {heading: what the cell sorts by}}."""
    names = heads(table)
    return {
        row[0].text.strip(): {head: cell.value for head, cell in zip(names[1:], row[1:], strict=True)} for row in table.cells
    }


def _plain(text: str) -> str:
    return text.translate({ord("\N{FIGURE SPACE}"): " ", ord("\N{PUNCTUATION SPACE}"): " "}).strip()


def listing(text: str, count: int) -> dict[str, dict[str, str]]:
    """{row: {heading: text}} of the first table of plain text: so many rows under a rule of "-", a gap between columns; a
    heading has that of its group before it, if there is a line of groups.
    """
    rows = text.splitlines()
    rule = next(i for i, row in enumerate(rows) if row and not row.strip("-"))
    head, body = rows[rule - 1], rows[rule + 1 : rule + 1 + count]
    width = max(map(len, [head, *body]))
    blank = np.array([all(row.ljust(width)[i] == " " for row in (head, *body)) for i in range(width)])
    starts = [0, *(i for i in range(2, width) if blank[i - 2] and blank[i - 1] and not blank[i])]
    columns = [[row[a:b].strip() for row in (head, *body)] for a, b in zip(starts, [*starts[1:], None], strict=True)]
    if rule > 1 and (spans := list(re.finditer(r"-+ (\S+) -+", rows[rule - 2]))):
        for column, start in zip(columns[1:], starts[1:], strict=True):
            column[0] = ": ".join([*(span[1] for span in spans if span.start() <= start < span.end()), column[0]])
    elif rule > 1 and rows[rule - 2]:
        ends = {match.end(): match[0] for match in re.finditer(r"\S+( \S+)*", rows[rule - 2])}
        for column, start in zip(columns[1:], starts[1:], strict=True):
            column[0] = f"{next(name for end, name in ends.items() if end > start)}: {column[0]}"
    return {name: {column[0]: column[i] for column in columns[1:]} for i, name in enumerate(columns[0]) if i}


def tables(sections: Page | Iterable[Section]) -> dict[str, Table]:
    """The tables of a page by their labels."""
    found = sections.sections if isinstance(sections, Page) else sections
    return {block.label: block for section in found for block in section.blocks if isinstance(block, Table)}


def captions(sections: Sequence[Section]) -> list[str]:
    """The captions of the figures of a page, in order."""
    return [block.caption for section in sections for block in section.blocks if isinstance(block, PageFigure)]


def at(tree: Any, path: str) -> Any:
    """The value at nested keys."""
    for key in path.split("/"):
        tree = tree[int(key) if isinstance(tree, list) else key]
    return tree


def interval(ends: Sequence[float]) -> str:
    return f"{number(ends[0])} – {number(ends[1])}"


def check(table: Table, rows: Sequence[Any], expected: dict[str, Any]) -> None:
    """Each row shows under each heading what is at its path: (path, form), forms being `number`, `percent` and so on."""
    shown = cells(table)
    assert list(shown) == [row["name"] for row in rows]
    assert heads(table)[1:] == list(expected)
    for row in rows:
        for head, (path, form) in expected.items():
            try:
                value = at(row, path)
            except (KeyError, TypeError):
                value = None
            assert shown[row["name"]][head] == (MISSING if value is None else form(value)), (row["name"], head)
