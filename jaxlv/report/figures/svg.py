"""How every figure looks, and its way into a page: palette, settings, SVG for light and dark, PNG."""

from __future__ import annotations

import functools
import hashlib
import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from jaxlv.errors import JaxlvWarning

# name -> colour on white, colour on dark. The first is drawn; SVG names both by the CSS variable --name.
# After Okabe & Ito (2008), darkened or lightened until the contrast with the page is at least 4.5.
PALETTE: dict[str, tuple[str, str]] = {
    "ink": ("#1b1f24", "#e4e7ea"),
    "muted": ("#5b656f", "#9ba5af"),
    "rule": ("#dce0e4", "#343a41"),
    "species-1": ("#0072b2", "#56b4e9"),
    "species-2": ("#c85200", "#f0904a"),
    "species-3": ("#6d7500", "#c3c94f"),
    "row-tuned": ("#007a5a", "#2fc99b"),
    "row-untuned": ("#a8457f", "#e58fc0"),
    "row-1": ("#8a6100", "#e0b040"),
    "row-2": ("#6152b3", "#a99ff0"),
    "row-3": ("#68707a", "#a4acb5"),
    "row-4": ("#69717b", "#a5adb6"),
    "row-5": ("#8c3b12", "#e0946a"),
    "row-6": ("#1f6a7a", "#74c3d6"),
    "row-7": ("#4d5a00", "#b4c24a"),
}
INK, MUTED, RULE = (PALETTE[name][0] for name in ("ink", "muted", "rule"))
PAPER = ("#ffffff", "#15181b")  # of the page, light and dark

STYLE: Any = {  # rcParams
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so the layout is the same everywhere
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "text.color": INK,
    "text.parse_math": False,  # names come from data; a "$" in them is a dollar sign
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.5,
    "lines.solid_joinstyle": "round",
    "path.simplify": True,
    "path.simplify_threshold": 0.2,
    "svg.fonttype": "none",
    "svg.hashsalt": "jaxlv",
    "figure.dpi": 72,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """`draw` under this module's matplotlib settings, which leave the process's own as they were."""

    @functools.wraps(draw)
    def wrapper(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_VARIABLES = {light: "currentColor" if name == "ink" else f"var(--{name},{light})" for name, (light, _) in PALETTE.items()}
_COLOUR = re.compile("|".join(_VARIABLES))
_NUMBER = re.compile(r"-?\d+\.\d+")
_FAMILY = re.compile(r"font-family: [^;]*;\s*")
_NOT_XML = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # names of folders may hold such


def css_variables(dark: bool = False) -> str:
    """The palette as CSS declarations, for the page that SVG of this module is put into."""
    return ";".join(f"--{name}:{colours[dark]}" for name, colours in PALETTE.items())


def to_svg(figure: Figure, label: str) -> str:
    """`figure` as an <svg> element: sized, labelled, same bytes for the same figure, ids unique in a page.

    Ink becomes currentColor, other colours CSS variables with the light value as fall-back; text stays text.
    """
    buffer = io.StringIO()
    _save(figure, buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    raw = _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", buffer.getvalue())
    root = ET.fromstring(raw)
    _rewrite_ids(root, "f" + hashlib.sha256((label + raw).encode()).hexdigest()[:8] + "-")
    for node in root.iter():
        _rewrite_node(node)
    _, _, width, height = root.attrib["viewBox"].split()
    for node in [*root.findall(f"{_SVG}metadata"), *root.findall(f"{_SVG}defs[{_SVG}style]")]:
        root.remove(node)
    root.attrib = {
        "width": width,
        "height": height,
        "viewBox": f"0 0 {width} {height}",
        "role": "img",
        "aria-label": label,
        "font-family": "sans-serif",
    }
    ET.register_namespace("", _SVG[1:-1])
    return ET.tostring(root, encoding="unicode")


def stand_alone(svg: str) -> str:
    """An element of `to_svg` as a file that brings its colours along: on white, or on dark for a reader who prefers that."""
    light, dark = (f"color:{PALETTE['ink'][k]};background:{PAPER[k]};{css_variables(bool(k))}" for k in (0, 1))
    style = f"<style>:root{{color-scheme:light dark;{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    head, _, rest = svg.partition(">")
    return f"{head}>{style}{rest}\n"


def _rewrite_ids(root: ET.Element, prefix: str) -> None:
    """Only the ids that something refers to stay, under `prefix`."""
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


def save_pair(figure: Figure, element: str, stem: Path) -> None:
    """STEM.svg of an element of `to_svg` and STEM.png of its figure, which keeps the layout: that takes the most time."""
    stem.with_name(f"{stem.name}.svg").write_text(stand_alone(element), encoding="utf-8")
    figure.set_layout_engine("none")
    save_png(figure, stem.with_name(f"{stem.name}.png"))


def save_png(figure: Figure, path: str | Path, *, dpi: int = 144) -> None:
    """`figure` as a PNG on white, at `dpi` / 72 device pixels per unit. Warns once if the font lacks a character."""
    if _save(figure, path, format="png", dpi=dpi, facecolor="white", metadata={"Software": None}):
        _warn_of_boxes()


def _save(figure: Figure, target: Any, **options: Any) -> bool:
    """Writes a figure with this module's settings. Returns whether matplotlib's font lacks a character of its texts."""
    with warnings.catch_warnings(record=True) as caught, matplotlib.rc_context(STYLE):
        warnings.simplefilter("always")
        figure.savefig(target, **options)
    lacking = [one for one in caught if "missing from font" in str(one.message)]
    for one in caught:
        if one not in lacking:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return bool(lacking)


@functools.cache
def _warn_of_boxes() -> None:
    text = "PNG figures show boxes for characters that their font, DejaVu Sans, lacks; SVG figures and pages have the text"
    warnings.warn(text, JaxlvWarning, stacklevel=3)
