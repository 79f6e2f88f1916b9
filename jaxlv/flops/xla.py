"""The names that jaxlv/flops/counting/xla.py has now."""

from __future__ import annotations

from jaxlv.flops.counting.xla import XlaCount, count_xla

__all__ = ["XlaCount", "count_xla"]
