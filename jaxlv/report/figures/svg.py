"""Charts as files and as parts of a page: SVG for light and dark with values under the pointer, and PNG."""

from __future__ import annotations

import functools
import hashlib
import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from jaxlv.errors import warn
from jaxlv.report.charts import Chart
from jaxlv.report.figures.render import Drawing, Place, drawn
from jaxlv.report.theme import PALETTE, PAPER, STYLE, css_variables

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_VARIABLES = {light: "currentColor" if name == "ink" else f"var(--{name},{light})" for name, (light, _) in PALETTE.items()}
_COLOUR = re.compile("|".join(_VARIABLES))
_NUMBER = re.compile(r"-?\d+\.\d+")
_FAMILY = re.compile(r"font-family: [^;]*;\s*")
_NOT_XML = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # names of folders may hold such


TOLD, MOST = 1 / 3, 8000  # of a figure's size, and characters: what the words under the pointer add at most
REACH = 5.0  # pixels around a point in which the pointer finds it


def to_svg(chart: Chart, label: str) -> str:
    """Returns a chart as an <svg> element: sized, labelled, same bytes for the same chart, ids unique in a page.

    Ink becomes currentColor, other colours CSS variables with the light value as fall-back; text stays text. Over each value
    lies an outline that is not seen, whose <title> a browser shows under the pointer.
    """
    drawing, buffer = drawn(chart), io.StringIO()
    _save(drawing.figure, buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    raw = _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", buffer.getvalue())
    root = ET.fromstring(raw)
    _rewrite_ids(root, "f" + hashlib.sha256((label + raw).encode()).hexdigest()[:8] + "-")
    for node in root.iter():
        _rewrite_node(node)
    _, _, width, height = root.attrib["viewBox"].split()
    for node in [*root.findall(f"{_SVG}metadata"), *root.findall(f"{_SVG}defs[{_SVG}style]")]:
        root.remove(node)
    root.attrib = {"width": width, "height": height, "viewBox": f"0 0 {width} {height}"}
    root.attrib |= {"role": "img", "aria-label": label, "font-family": "sans-serif"}
    ET.register_namespace("", _SVG[1:-1])
    text = ET.tostring(root, encoding="unicode")
    return text.removesuffix("</svg>") + _values(drawing, float(height), min(TOLD * len(text), MOST)) + "</svg>"


def _values(drawing: Drawing, height: float, room: float) -> str:
    """Returns the outlines of values with their words; if all would take more than the room, every n-th of a series."""
    every = [[shape for place in of if (shape := _outline(place, height))] for of in drawing.places]
    n = 1
    while sum(len(shape) for of in every for shape in _thinned(of, n)) > room and n < max(map(len, every), default=0):
        n += 1
    shapes = "".join(shape for of in every for shape in _thinned(of, n))
    return f'<g class="values" fill="none" pointer-events="all">{shapes}</g>' if shapes else ""


def _thinned(shapes: Sequence[str], n: int) -> list[str]:
    """Returns every n-th, the first and the last among them."""
    last, count = len(shapes) - 1, -(-len(shapes) // n)
    return [shapes[round(i * last / max(count - 1, 1))] for i in range(count)]


def _outline(place: Place, height: float) -> str:
    """Returns a place in pixels from the top left, as SVG; empty if the axes do not show it."""
    (left, right), (low, high) = np.sort(place.axes.transData.transform(place.corners).T)
    box = place.axes.bbox
    if not (box.x0 - 1 <= left and right <= box.x1 + 1 and box.y0 - 1 <= high and low <= box.y1 + 1):
        return ""
    words = _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", escape(place.words))
    if (left, low) == (right, high):
        return f'<circle cx="{left:.1f}" cy="{height - low:.1f}" r="{REACH:g}"><title>{words}</title></circle>'
    low, high = max(low, box.y0), min(high, box.y1)
    left, low = left - max(0, REACH - (right - left)) / 2, low - max(0, REACH - (high - low)) / 2
    size = f'width="{max(right - left, REACH):.1f}" height="{max(high - low, REACH):.1f}"'
    return f'<rect x="{left:.1f}" y="{height - max(high, low + REACH):.1f}" {size}><title>{words}</title></rect>'


def stand_alone(svg: str) -> str:
    """Returns an element of `to_svg` as a file with its colours: on white, or on dark if a reader prefers that."""
    light, dark = (f"color:{PALETTE['ink'][k]};background:{PAPER[k]};{css_variables(bool(k))}" for k in (0, 1))
    rules = f":root{{color-scheme:light dark;{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    head, _, rest = svg.partition(">")
    return f"{head}><style>{rules}.values>:hover{{stroke:currentColor}}</style>{rest}\n"


def _rewrite_ids(root: ET.Element, prefix: str) -> None:
    """Keeps only the ids that something refers to, under `prefix`."""
    used = {node.attrib[_HREF][1:] for node in root.iter() if _HREF in node.attrib}
    used |= {match for node in root.iter() for match in re.findall(r"url\(#(\w+)\)", str(node.attrib))}
    for node in root.iter():
        identifier, target = node.attrib.pop("id", None), node.attrib.pop(_HREF, None)
        if identifier in used:
            node.attrib["id"] = f"{prefix}{identifier}"
        if target:
            node.attrib["href"] = f"#{prefix}{target[1:]}"
        for name, value in node.attrib.items():
            if "url(#" in value:
                node.attrib[name] = value.replace("url(#", f"url(#{prefix}")


def _rewrite_node(node: ET.Element) -> None:
    if node.tag != f"{_SVG}text":
        node.text = None
    node.tail = None
    for name, value in node.attrib.items():
        if name == "style":
            value = _FAMILY.sub("", value)
            value = _COLOUR.sub(lambda match: _VARIABLES[match[0]], value)
        elif name in ("d", "x", "y", "width", "height", "transform", "viewBox"):
            value = _NUMBER.sub(_rounded, value).replace("rotate(-0 ", "rotate(0 ")
        node.attrib[name] = re.sub(r"([:;]) ", r"\1", " ".join(value.split()))
    if node.get("transform", "").startswith("rotate(0 "):
        del node.attrib["transform"]


def _rounded(match: re.Match[str]) -> str:
    text = f"{float(match[0]):.1f}"
    return {"-0.0": "0"}.get(text, text.removesuffix(".0"))


def save_pair(chart: Chart, element: str, stem: Path) -> None:
    """Writes STEM.svg, of an element of `to_svg`, and STEM.png of its chart."""
    stem.with_name(f"{stem.name}.svg").write_text(stand_alone(element), encoding="utf-8")
    save_png(chart, stem.with_name(f"{stem.name}.png"))


def save_png(chart: Chart, path: str | Path, *, dpi: int = 144) -> None:
    """Writes a chart as a PNG on white, at `dpi` / 72 device pixels per unit. Warns once if the font lacks a character."""
    if _save(drawn(chart).figure, path, format="png", dpi=dpi, facecolor="white", metadata={"Software": None}):
        _warn_of_boxes()


def _save(figure: Figure, target: Any, **options: Any) -> bool:
    """Writes a figure with this module's settings. Returns whether matplotlib's font lacks a character of its texts."""
    with warnings.catch_warnings(record=True) as caught, matplotlib.rc_context(STYLE):
        warnings.simplefilter("always")
        figure.savefig(target, **options)
    figure.set_layout_engine("none")  # the layout stays as it is: it takes the most time
    lacking = [one for one in caught if "missing from font" in str(one.message)]
    for one in caught:
        if one not in lacking:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return bool(lacking)


@functools.cache
def _warn_of_boxes() -> None:
    text = "PNG figures show boxes for characters that their font, DejaVu Sans, lacks; SVG figures and pages have the text"
    warn(text)
