"""What a counter finds: operations per component and phase, and the names of both in a program's scopes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from jaxlv.flops.conventions import ONE, SHEET

OTHER = "other"

# Scopes as flax and jax.named_scope write them into the program, innermost match wins: (pattern, component).
SCOPES = tuple(
    (re.compile(pattern), component)
    for pattern, component in (
        (r"(q|k|v|o|gate|up|down)_proj/(?:.*/)?lora_(A|B)", r"\1_proj lora \2"),
        (r"(q|k|v|o|gate|up|down)_proj", r"\1_proj"),
        (r"norm|layernorm", "norms"),
        (r"rope", "rope"),
        (r"fused_attention", "fused attention"),
        (r"scores", "scores"),
        (r"mask", "mask"),
        (r"softmax", "softmax"),
        (r"weighted_sum", "weighted sum"),
        (r"swiglu", "activation"),
        (r"model\.layers\.\d+", "residuals"),
        (r"embed", "embedding"),
        (r"head", "head"),
        (r"loss", "loss"),
        (r"optimizer", "optimiser"),
        (r"sampling", "sampling"),
    )
)
BACKWARD = re.compile(r"transpose\(|(?:^|/)backward(?:/|$)")
RECOMPUTED = re.compile(r"rematted_computation")


class Place(NamedTuple):
    """Where in the model an operation stands."""

    component: str
    phase: str  # forward, backward or recomputed


def place(scope: str) -> Place:
    """The place that a scope ("transpose(jvp(...))/model.layers.0/self_attn/q_proj/lora_A/...") names."""
    phase = "recomputed" if RECOMPUTED.search(scope) else "backward" if BACKWARD.search(scope) else "forward"
    best, component = -1, OTHER
    for pattern, name in SCOPES:
        for match in pattern.finditer(scope):
            if match.start() > best:
                best, component = match.start(), match.expand(name)
    return Place(component, phase)


class Tally(Counter[str]):
    """Operations by name: `dot` in FLOPs at 2 m n p, `dot sheet` at m p (2 n - 1), the other primitives by number."""

    def products(self) -> int:
        """FLOPs of the matrix products."""
        return self["dot"]

    def price(self, weights: Mapping[str, int], dots: str = "dot") -> int:
        """FLOPs at a convention's weights."""
        return self[dots] + sum(weight * self[name] for name, weight in weights.items())

    def everything(self) -> int:
        """FLOPs as XLA counts them: each operation on each element once, transcendentals included."""
        return self.price(ONE)

    def at_sheet_prices(self) -> int:
        """FLOPs at the assignment's prices."""
        return self.price(SHEET, "dot sheet")


Tallies = dict[Place, Tally]


def total(tallies: Tallies) -> Tally:
    """The sum over all places."""
    result = Tally()
    for tally in tallies.values():
        result.update(tally)
    return result


def marked(tallies: Tallies, mark: str) -> dict[tuple[str, str], int]:
    """{(component, phase): FLOPs of the products with a mark, "dot padded" or "dot repeated"}, without zeros."""
    return {(where.component, where.phase): tally[mark] for where, tally in tallies.items() if tally[mark]}


def products(tallies: Tallies) -> dict[tuple[str, str], int]:
    """{(component, phase): FLOPs of matrix products}, without zeros."""
    return {(where.component, where.phase): tally.products() for where, tally in tallies.items() if tally.products()}
