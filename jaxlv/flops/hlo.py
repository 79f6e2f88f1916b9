"""Counts of a compiled module by component and phase of Qwen2: jaxlv/flops/counting/hlo.py, placed."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxlv.flops.counting import hlo
from jaxlv.flops.places import Tallies, placed


@dataclass
class HloCount:
    """The tallies of a module, and what makes them untrustworthy: each entry of `doubts` is one line."""

    tallies: Tallies = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)


def count_hlo(text: str) -> HloCount:
    """The tallies of a compiled module, from `compiled.as_text()`. Raises JaxlvError if the text is not HLO."""
    found = hlo.count_hlo(text)
    return HloCount(placed(found.tallies), found.doubts)
