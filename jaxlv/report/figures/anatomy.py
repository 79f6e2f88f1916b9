"""Charts of the analyses of a tuned model itself, from their dictionaries (jaxlv.analysis.anatomy, jaxlv.analysis.logits).

Axes: T time steps, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlv.report.charts import DASHED, WIDTH, Axis, Chart, Note, Panel, Series, numbers, plain_number, rows_of, single
from jaxlv.report.figures.evaluation import OWN, curve, row_styles
from jaxlv.report.theme import MODEL, MUTED, PALETTE

Tree = Mapping[str, Any]
MARKS = {".": "point", ",": "comma", ";": "semicolon"}  # too small to tell apart without their names
HUES = ("row-tuned", "species-1", "species-2", "row-2", "row-1", "row-untuned", "row-6")


# ---------------------------------------------------------------------------------------------- training


def norm_figure(training: Tree) -> Chart:
    """Gradient norm before and after clipping by step, logarithmic, and the ratio of the two."""
    steps, before = curve(training["records"], "gradient_norm")
    after = curve(training["records"], "clipped_norm")[1]
    series = [
        Series("before clipping", steps, before, colour=MUTED, width=1.2),
        Series("after clipping", steps, after, colour=MODEL, width=1.8),
    ]
    if training.get("clip_norm"):
        series.append(Series("clip norm", y=[training["clip_norm"]], mark="across", colour=MUTED, width=0.8, dash=DASHED))
    ratio = np.divide(after, before, out=np.ones_like(after), where=before > 0)
    x = Axis("training step", whole=True)
    below = Panel([Series("", steps, ratio, colour=MODEL)], x, Axis("ratio", limits=(0, 1.05), ticks=2))
    return Chart("lines", [Panel(series, x, Axis("gradient norm", scale="log"), height=2.2), below], (WIDTH, 300))


# ------------------------------------------------------------------------------------------ costs of tokens


def kind_figure(tokens: Tree) -> Chart:
    """Nats per token of each kind over the 13 symbols, a bar for each model."""
    kinds = list(next(iter(tokens.values()))["by_kind"])
    height, series = 0.8 / len(tokens), []
    for place, (name, look) in enumerate(row_styles(tokens).items()):
        values = numbers(tokens[name]["by_kind"][kind]["symbols"]["nats"] for kind in kinds)
        rows = np.arange(len(kinds)) + (place - (len(tokens) - 1) / 2) * height
        labels = [plain_number(float(f"{value:.2g}")) if value >= 5e-4 else "< 0.0005" for value in values]
        series.append(Series(name, rows, values, colour=look.colour, width=0.9 * height, labels=labels))
    greatest = max(float(np.nanmax(one.y, initial=0)) for one in series)
    x = Axis(unit="nats per token", limits=(0, 1.14 * greatest or 1.0))
    return single("bars", series, x, rows_of(kinds), 70 + (14 * len(tokens) + 12) * len(kinds))


def token_step_figure(tokens: Tree) -> Chart:
    """Nats per token by time step over the 13 symbols, logarithmic: median over series of each model, and 10-90 % of the
    first.
    """
    first, series = next(iter(tokens)), []
    for name, look in row_styles(tokens).items():
        found = tokens[name]["by_step"]
        ends = [found[key] if name == first else None for key in ("p10", "p90")]
        own: dict[str, Any] = {"colour": look.colour, "width": 1.8 if name == OWN else 1.4, "over": 2 + (name == first)}
        series.append(Series(name, np.array(found["step"]) + 1, found["median"], *ends, **own))
    border = tokens[first]["context"] + 0.5
    series.append(Series("", [border], mark="down", colour=MUTED, width=0.8, dash=DASHED))
    note = Note("scale fitted up to here", border, None, (-4, -2), "right")
    x = Axis("time step of the series", limits=(1, max(len(one["by_step"]["step"]) for one in tokens.values())), whole=True)
    return single("lines", series, x, Axis(unit="nats per token", scale="log"), 280, notes=[note])


# ----------------------------------------------------------------------------------------------- the head


def token_words(entry: Tree) -> str:
    """Returns a token as a label: its text if it is printable ASCII, escaped, else its id."""
    text = str(entry["text"])
    if not text:
        return f"id {entry['id']} (no text)"
    return repr(text) if text.isascii() else f"id {entry['id']}"


def _size_of(head: Tree) -> Axis:
    return Axis("bias (natural log of odds)" if head["kind"] == "bias" else "norm of the row's change")


def largest_figure(head: Tree) -> Chart:
    """The largest entries with their tokens' text; those of the 13 symbols in colour."""
    entries, known = head["largest"], {one["id"] for one in head["symbols"].values()}
    labels = [" ".join(filter(None, (MARKS.get(entry["text"]), token_words(entry)))) for entry in entries]
    series = [Series("", [0], mark="down", width=0.8)]
    for name, colour, symbol in (("one of the 13 symbols", MODEL, True), ("another token", MUTED, False)):
        rows = [row for row, entry in enumerate(entries) if (entry["id"] in known) == symbol]
        values = [entries[row]["value"] for row in rows]
        series.append(Series(name, rows, values, colour=colour, width=0.72))
    return single("bars", series, _size_of(head), rows_of(labels, 20), 56 + 16 * len(entries))


def head_histogram_figure(head: Tree) -> Chart:
    """How many entries have each size, logarithmic, with the median and the 13 symbols marked."""
    counts, edges = np.array(head["histogram"]["counts"]), np.array(head["histogram"]["edges"])
    series = [
        Series("", edges, counts, colour=MUTED, width=0, shade=0.8),
        Series("median", [head["median"]], mark="down", width=1.0, dash=DASHED),
    ]
    if edges[0] < 0 < edges[-1]:
        series.append(Series("", [0], mark="down", colour=MUTED, width=0.8))
    for one in head["symbols"].values():
        stroke: dict[str, Any] = {"mark": "line", "colour": MODEL, "width": 1.6, "told": False}
        series.append(Series("the 13 symbols", [one["value"]] * 2, [0.5, 0.9], **stroke))
    y = Axis("entries", scale="log", limits=(0.5, 3 * max(counts.max(), 1)))
    return single("stairs", series, _size_of(head), y, 250)


# ------------------------------------------------------------------------------------------ adapter spectra


def heatmap_figure(spectra: Tree, key: str, scale: float = 1.0) -> Chart:
    """A number of each adapted projection, layer by layer, the darker the larger; `scale` divides it."""
    entries = spectra["projections"]
    layers = sorted({entry["layer"] for entry in entries})
    names = list(dict.fromkeys(entry["projection"] for entry in sorted(entries, key=lambda e: e["layer"])))
    values = [entry[key] / scale for entry in entries]
    least = min((value for value in values if value), default=1.0)
    decimals = min(max(1 - math.floor(math.log10(least)), 0), 4)  # two digits of the least
    cells = Series(
        "", [names.index(entry["projection"]) for entry in entries], [layers.index(entry["layer"]) for entry in entries],
        high=values, colour=MODEL, labels=[f"{value:.{decimals}f}" for value in values],
    )  # fmt: skip
    x = Axis(limits=(-0.5, len(names) - 0.5), ticks={i: name.removesuffix("_proj") for i, name in enumerate(names)})
    y = Axis("layer", limits=(len(layers) - 0.5, -0.5), ticks={i: str(layer) for i, layer in enumerate(layers)})
    return single("heatmap", [cells], x, y, 44 + 17 * len(layers))


def spectrum_figure(spectra: Tree) -> Chart:
    """Singular values over the first of each projection: every layer thin, their median thick, logarithmic."""
    names, series = list(dict.fromkeys(entry["projection"] for entry in spectra["projections"])), []
    for name, hue in zip(names, HUES, strict=False):
        rows = [np.array(e["singular_values"]) for e in spectra["projections"] if e["projection"] == name and e["norm"]]
        if not rows:
            continue
        colour, shares = PALETTE[hue][0], np.array([row / row[0] for row in rows])
        place = np.arange(1, shares.shape[1] + 1)
        series += [Series("", place, share, colour=colour, width=0.5, alpha=0.35, told=False) for share in shares]
        middle = np.median(shares, axis=0)
        series.append(Series(name.removesuffix("_proj"), place, middle, colour=colour, width=2.0, marker="."))
    least = min((float(np.min(one.y)) for one in series), default=0.1)
    x = Axis("direction", limits=(0.8, spectra["rank"] + 0.2), ticks=min(spectra["rank"], 8), whole=True)
    y = Axis("singular value / the first", scale="log", limits=(max(0.9 * least, 1e-6), 1.15))
    return single("lines", series, x, y, 290)
