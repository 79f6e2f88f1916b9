"""The names that jaxlv/flops/places.py and jaxlv/flops/counting/ have now."""

from __future__ import annotations

from jaxlv.flops import places
from jaxlv.flops.counting.operations import Tally
from jaxlv.flops.counting.scopes import of_stack
from jaxlv.flops.places import OTHER, Place, Tallies, marked, products, total

__all__ = ["OTHER", "Place", "Tallies", "Tally", "marked", "place", "products", "total"]


def place(scope: str) -> Place:
    """The place that a scope as text names."""
    return places.place(of_stack(scope))
