"""XLA's own `cost_analysis()`, taken for what it is: a figure that loops, custom calls and absent keys make wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class XlaCount:
    """What XLA says of a program, and why it may not be believed. `flops` is None where it says nothing."""

    flops: float | None
    transcendentals: float
    doubts: list[str] = field(default_factory=list)

    @property
    def has_custom_calls(self) -> bool:
        """Is a part of the program hidden from the analysis?"""
        return any("custom call" in doubt for doubt in self.doubts)

    def factor(self, everything: int) -> float | None:
        """How many times too low (above 1) or too high the figure is, against a count of all operations."""
        said = (self.flops or 0.0) + self.transcendentals
        return everything / said if said > 0 else None


def count_xla(stage: Any, text: str) -> XlaCount:
    """The figures of a lowered or compiled program; `text` is its HLO, or StableHLO, in which loops and calls are seen."""
    try:
        costs = stage.cost_analysis()
    except NotImplementedError:
        costs = None
    if isinstance(costs, (list, tuple)):  # jax before 0.4.38
        costs = costs[0] if costs else None
    if costs is None:
        return XlaCount(None, 0.0, ["no analysis: the platform has none for this stage"])
    found = XlaCount(costs.get("flops"), float(costs.get("transcendentals", 0.0)))
    if found.flops is None:
        found.doubts.append('the key "flops" is absent, which XLA means as 0')
        found.flops = 0.0
    if "while(" in text or "stablehlo.while" in text:
        found.doubts.append("loop bodies are counted once, whatever their trip count")
    if "custom-call(" in text or "stablehlo.custom_call" in text:
        found.doubts.append("a custom call counts as -1 or as nothing")
    return found
