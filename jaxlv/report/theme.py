"""How pages and charts look: the palette, on white and on dark, and matplotlib's settings."""

from __future__ import annotations

from typing import Any

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
MODEL = PALETTE["row-tuned"][0]
SPECIES = [colours[0] for name, colours in PALETTE.items() if name.startswith("species")]
HUES = [PALETTE[name][0] for name in ("row-tuned", "row-2", "row-untuned", "row-1", "row-6", "row-5", "row-7", "row-3")]
"""Colours of things that have none of their own, in the order in which they are given."""

_SIZES = {"font": 11, "axes.title": 11, "axes.label": 11, "xtick.label": 10, "ytick.label": 10, "legend.font": 10}
_INK = ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor")
_MUTED = ("axes.edgecolor", "xtick.color", "ytick.color")
_NONE = ("axes.facecolor", "figure.facecolor", "savefig.facecolor")
_OFF = ("legend.frameon", "axes.spines.top", "axes.spines.right")
STYLE: Any = {  # rcParams
    **{f"{name}.size" if name == "font" else f"{name}size": size for name, size in _SIZES.items()},
    **dict.fromkeys(_INK, INK),
    **dict.fromkeys(_MUTED, MUTED),
    **dict.fromkeys(_NONE, "none"),
    **dict.fromkeys(_OFF, False),
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so the layout is the same everywhere
    "text.parse_math": False,  # names come from data; a "$" in them is a dollar sign
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.solid_joinstyle": "round",
    "path.simplify_threshold": 0.2,
    "svg.fonttype": "none",
    "svg.hashsalt": "jaxlv",
    "figure.dpi": 72,
}


def species(v: int) -> str:
    """Returns the colour of variable `v`."""
    return SPECIES[v % len(SPECIES)]


def css_variables(dark: bool = False) -> str:
    """Returns the palette as CSS declarations, for the page that SVG of this module is put into."""
    return ";".join(f"--{name}:{colours[dark]}" for name, colours in PALETTE.items())
