"""Counts as text: tables for a terminal or a notebook, and the reasons why counters differ.

The arguments (`result`, `found`) are of the classes in jaxlv/flops/counting/result.py, which use this module.
"""

from __future__ import annotations

import html as escapes
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from jaxlv.flops.counting.found import Loop
from jaxlv.flops.counting.operations import ADDED, PRIMITIVES, PRODUCT, REPEATED

NAMES = {"jaxpr": "jaxpr", "hlo": "HLO", "xla_lowered": "XLA, lowered", "xla_compiled": "XLA, compiled"}
UNSPLIT = "XLA does not tell products from other operations"
REWRITES = {
    "xla_lowered": "products with 1 and the like, which XLA folds",
    "xla_compiled": "casts, fusions and rewrites of the compiler",
}
SAME = 2e-5  # relative: what sums in float32, and constants that XLA folds, leave between two equal counts
SCALARS = 256  # and operations on scalars, which XLA folds, however small the function is
MARKS = {
    "dot padded": "operands padded to what a kernel takes",
    "dot repeated": "products that several fusions repeat",
    "dot skipped by mask": "products that a causal kernel may leave out",
    "dot by formula": "FLOPs by a formula",
}


def columns(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Returns rows as aligned lines; the first `left` columns are aligned left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def number(figure: float | None) -> str:
    """Returns a whole number with separators, or "-" for an unknown one."""
    return "-" if figure is None else f"{figure:,}" if isinstance(figure, int) else f"{figure:,.1f}"


def table(result: Any, depth: int | None = None) -> str:
    """Returns counters, scopes, loops and doubts as text."""
    devices = f", {result.devices} devices: figures of all together" if result.devices > 1 else ""
    lines = [f"{result.function}, compiled for {result.target}{devices}" if result.target else result.function, ""]
    rows: list[tuple[str, ...]] = [("counter", "products", "elementwise", "both", "transcendental", "bytes", "doubts")]
    for c in result.counters:
        figures = (c.products, c.elementwise, c.flops, c.transcendental, c.bytes)
        rows.append((NAMES[c.counter], *map(number, figures), str(len(c.doubts) or "")))
    lines += columns(rows)
    if len(result.jaxpr.scopes) > 1:
        lines += ["", *_scopes(result, depth)]
    if result.loops:
        lines += ["", *_loops(result.loops)]
    for c in result.counters:
        if c.doubts:
            lines += ["", f"{NAMES[c.counter]}: doubts", *(f"  {doubt}" for doubt in c.doubts)]
    return "\n".join(lines)


def _scopes(result: Any, depth: int | None) -> list[str]:
    """Returns the tree of scopes: products of the jaxpr by phase and of the HLO, the other work of the jaxpr."""
    root, compiled = result.jaxpr.tree, result.hlo.tree
    executed = {node.path: node.products for node in compiled.walk()}
    phases = [phase for phase in root.phases() if root.tally(phase).products()]
    by_phase = phases if len(phases) > 1 else []
    known = result.hlo.products is not None
    rows = [("scope", "products", *by_phase, *(["in HLO"] if known else []), "elementwise", "transcendental", "bytes")]
    for node in root.walk(depth):
        level = node.path.count("/") + 1 if node.path else 0
        split = [number(node.tally(phase).products()) for phase in by_phase]
        hlo = [number(executed.get(node.path, 0))] if known else []
        rest = (node.elementwise, node.transcendental, node.bytes)
        rows.append(("  " * level + (node.name or "all"), number(node.products), *split, *hlo, *map(number, rest)))
    return columns(rows)


def _loops(loops: Iterable[Loop]) -> list[str]:
    rows: list[tuple[str, ...]] = [("loop", "in", "trips", "begun", "products", "all operations")]
    for loop in loops:
        trips = "unknown" if loop.trips is None else number(loop.trips)
        work = (number(loop.tally.products()), number(loop.tally.everything()))
        rows.append((loop.place or "?", str(loop.scope) or "-", trips, number(loop.begun), *work))
    return columns(rows, left=2)


def roofline(found: Any) -> str:
    """Returns the least time of a function and of its scopes as text."""
    ridge = found.flops_per_s / found.bytes_per_s
    rows = [("scope", "operations", "bytes", "operations a byte", "s at least", "bound by")]
    for part in (found.whole, *found.parts):
        figures = (f"{part.operations:.4g}", f"{part.bytes:.4g}", f"{part.intensity:.3g}", f"{part.seconds:.3g}")
        rows.append((part.scope, *figures, part.bound))
    head = f"one device, {NAMES[found.counter]}: {found.flops_per_s:.4g} operations/s and {found.bytes_per_s:.4g} bytes/s"
    return "\n".join([f"{head}, even at {ridge:.3g} operations a byte", "", *columns(rows)])


def html(text: str) -> str:
    """Returns text for a notebook, as it appears in a terminal."""
    return f'<pre style="line-height: 1.3">{escapes.escape(text)}</pre>'


# ------------------------------------------------------------------------------------------- why counters differ


def explain(result: Any) -> list[str]:
    """Returns a line for each reason, with its size."""
    lines = _products(result.jaxpr, result.hlo) if result.hlo.products is not None else []
    lines += _elementwise(result.jaxpr, result.hlo) if result.hlo.elementwise else []
    lines += _xla(result, result.xla_lowered) + _xla(result, result.xla_compiled)
    doubts = [f"{NAMES[c.counter]}: {doubt}" for c in result.counters for doubt in c.doubts if doubt != UNSPLIT]
    return [*(lines or ["the counters agree"]), *doubts]


def _products(asked: Any, executed: Any) -> list[str]:
    """Compares the products of the jaxpr with those of the HLO, scope by scope."""
    apart = (executed.products or 0) - (asked.products or 0)
    if not apart:
        return ["products: the HLO executes what the jaxpr asks for"] if asked.products else []
    lines = [f"products: the HLO executes {number(abs(apart))} {'more' if apart > 0 else 'less'} than the jaxpr asks for"]
    scopes = dict.fromkeys((*asked.scopes, *executed.scopes))
    for scope in scopes:
        two = [counts.scopes[scope][PRODUCT] if scope in counts.scopes else 0 for counts in (asked, executed)]
        if two[0] != two[1]:
            why = "; merged with the forward pass" if scope.phase == "recomputed" and two[1] < two[0] else ""
            named = f"{str(scope) or 'without a scope'}, {scope.phase}"
            lines.append(f"  {named}: {number(two[0])} in the jaxpr, {number(two[1])} in the HLO{why}")
    for mark, meaning in MARKS.items():
        if marked := sum(tally[mark] for tally in executed.scopes.values()):
            lines.append(f"  of the HLO's, {number(marked)} are {meaning}")
    return lines


def _elementwise(asked: Any, executed: Any) -> list[str]:
    """Compares the other operations by name, the largest difference first."""
    sums = [Counter[str](), Counter[str]()]
    for found, counts in zip(sums, (asked, executed), strict=True):
        for tally in counts.scopes.values():
            found.update({name: tally[name] for name in PRIMITIVES})
    apart = {name: sums[1][name] - sums[0][name] for name in PRIMITIVES if sums[1][name] != sums[0][name]}
    ordered = sorted(apart, key=lambda name: -abs(apart[name]))
    if not ordered:
        return []
    lines = ["other operations, HLO - jaxpr: " + ", ".join(f"{name} {apart[name]:+,}" for name in ordered)]
    for mark, meaning in ((REPEATED, "computed once more instead of kept"), (ADDED, "the compiler's own: indices, casts")):
        marked = sum(tally[name + mark] for tally in executed.scopes.values() for name in PRIMITIVES)
        if marked:
            lines.append(f"  of the HLO's, {number(marked)} are {meaning}")
    return lines


def _xla(result: Any, said: Any) -> list[str]:
    """Compares XLA's figure with all operations of the jaxpr: what its loops hide, and what remains."""
    if said.everything is None or not (everything := result.jaxpr.everything):
        return []
    name, once = NAMES[said.counter], result.once.everything or 0
    if abs(said.everything - everything) <= SAME * everything + SCALARS:
        return [f"{name}: the same as the jaxpr, {number(said.everything)} operations"]
    lines = [f"{name}: says {number(said.everything)} of {number(everything)} operations"]
    if hidden := everything - once:
        loops = [f"{loop.place or str(loop.scope)} ({number(loop.trips)} trips)" for loop in result.loops]
        lines.append(f"  {number(hidden)} are of loops, whose bodies XLA counts once: {', '.join(dict.fromkeys(loops))}")
    rest = said.everything - once
    if abs(rest) > SAME * once + SCALARS:
        doubts = [doubt for doubt in said.doubts if doubt != UNSPLIT and "loop" not in doubt and "float32" not in doubt]
        why = "; ".join(doubts) or REWRITES[said.counter]
        lines.append(f"  {rest:+,} remain: {why}")
    return lines
