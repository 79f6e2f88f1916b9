"""Counts of a jaxpr by component and phase of Qwen2: jaxlv/flops/counting/jaxpr.py, placed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxlv.flops.counting import jaxpr
from jaxlv.flops.places import Tallies, placed


def count_jaxpr(function: Callable, *arguments: Any, trips: int | None = None) -> Tallies:
    """The tallies of `function` on arguments (arrays or jax.ShapeDtypeStruct); nothing is computed."""
    return placed(jaxpr.count_jaxpr(function, *arguments, trips=trips).tallies)


def count_closed(closed: Any, trips: int | None = None, loops_once: bool = False) -> Tallies:
    """The tallies of a closed jaxpr."""
    return placed(jaxpr.count_closed(closed, trips, loops_once).tallies)
