"""FLOPs counted four ways: from formulas, from the jaxpr, from the compiled HLO, and by XLA itself."""

from jaxlv.flops.conventions import CONVENTIONS
from jaxlv.flops.table import count, decode, forward, generation, prefill
from jaxlv.flops.work import Work

__all__ = ["CONVENTIONS", "Work", "count", "decode", "forward", "generation", "prefill"]
