"""FLOPs counted four ways: from formulas, from the jaxpr, from the compiled HLO, and by XLA itself.

`jaxlv.flops.count(function, *args)` counts any JAX function and needs only jax and numpy. The cost of this project's own
models by formula, and the ledger that bills it, are in jaxlv.flops.table and jaxlv.flops.ledger.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxlv.flops.counting.count import count
    from jaxlv.flops.counting.result import Counts, Result

__all__ = ["Counts", "Result", "count"]
HOMES = {"Counts": "result", "Result": "result", "count": "count"}


def __getattr__(name: str) -> Any:
    """Imports a name when it is used, so that the ledger and the formulas load without the counters."""
    if name not in HOMES:
        raise AttributeError(f"module jaxlv.flops has no attribute {name}")
    return getattr(importlib.import_module(f"jaxlv.flops.counting.{HOMES[name]}"), name)
