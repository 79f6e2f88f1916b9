"""XLA's own `cost_analysis()`, with its doubts: loops, custom calls and absent keys make its figures wrong."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

FLOPS, TRANSCENDENTALS, ACCESSED = "flops", "transcendentals", "bytes accessed"
EXACT = 2**24  # float32, in which XLA adds, holds every whole number up to here
LOOP = re.compile(r"\bwhile\(|\bstablehlo\.while\b")
BRANCH = re.compile(r"\bconditional\(|\bstablehlo\.(?:case|if)\b")
COMPLEX = re.compile(r"\bc(?:64|128)\[|complex<f")
CALL = re.compile(r"custom_call_target=\"([^\"]*)\"|stablehlo\.custom_call @([\w$.\-]+)")


@dataclass
class XlaCount:
    """What XLA says about a program, and why it may be wrong. `flops` is None if it says nothing."""

    flops: float | None
    transcendentals: float
    doubts: list[str] = field(default_factory=list)
    bytes: float | None = None

    @property
    def has_custom_calls(self) -> bool:
        """Tells whether a part of the program is hidden from the analysis."""
        return any("custom call" in doubt for doubt in self.doubts)

    def factor(self, everything: int) -> float | None:
        """Returns how many times too low (above 1) or too high the figure is, compared with a count of all operations."""
        said = (self.flops or 0.0) + self.transcendentals
        return everything / said if said > 0 else None


def count_xla(stage: Any, text: str) -> XlaCount:
    """Returns the figures of a lowered or compiled program; `text` is its HLO or StableHLO, which shows loops and calls."""
    try:
        costs = stage.cost_analysis()
    except (NotImplementedError, RuntimeError):  # XLA's own errors are RuntimeErrors
        costs = None
    if isinstance(costs, (list, tuple)):  # jax before 0.4.38
        costs = costs[0] if costs else None
    if costs is None:
        return XlaCount(None, 0.0, ["no analysis: the platform has none for this stage"])
    figures = {key: float(costs.get(key, 0.0)) for key in (FLOPS, TRANSCENDENTALS, ACCESSED)}
    doubts = [f'the key "{key}" is absent, which XLA means as 0' for key in (FLOPS, ACCESSED) if key not in costs]
    for key, figure in figures.items():
        if figure < 0 or not math.isfinite(figure):
            doubts.append(f"{key} is {figure:g}: -1 stands for what XLA cannot price, and is added like a number")
    return XlaCount(figures[FLOPS], figures[TRANSCENDENTALS], [*doubts, *_seen(figures, text)], figures[ACCESSED])


def _seen(figures: dict[str, float], text: str) -> list[str]:
    """Returns the reasons, visible in the program's text, not to believe the figures."""
    doubts = []
    if loops := len(LOOP.findall(text)):
        doubts.append(f"loop bodies are counted once, whatever their trip count ({loops} loop{'s' * (loops > 1)})")
    if BRANCH.search(text):
        doubts.append("a conditional counts its dearest branch")
    if calls := sorted({one or other for one, other in CALL.findall(text)}):
        doubts.append(f"a custom call counts as -1 or as nothing ({', '.join(calls)})")
    if COMPLEX.search(text):
        doubts.append("operations on complex numbers are counted as if they were real")
    if max(figures.values()) > EXACT:
        doubts.append("added in float32: the last digits are lost")
    return doubts
