"""Qwen2's components, by the scopes that its modules have in a program, and counts by component and phase."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import NamedTuple

from jaxlv.flops.counting import operations
from jaxlv.flops.counting.operations import Tally
from jaxlv.flops.counting.scopes import Scope

OTHER = "other"

# Scopes as flax and jax.named_scope write them into the program, (pattern, component); the innermost match wins.
SCOPES = tuple(
    (re.compile(pattern), component)
    for pattern, component in (
        (r"(q|k|v|o|gate|up|down)_proj/(?:.*/)?lora_(A|B)", r"\1_proj lora \2"),
        (r"(q|k|v|o|gate|up|down)_proj/(?:.*/)?dequantised", r"\1_proj dequantised"),
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
        (r"dropout", "dropout"),
        (r"head", "head"),
        (r"loss", "loss"),
        (r"optimizer", "optimiser"),
        (r"sampling", "sampling"),
    )
)


class Place(NamedTuple):
    """Where in the model an operation belongs."""

    component: str
    phase: str  # forward, backward or recomputed

    def __str__(self) -> str:
        return f"{self.component}, {self.phase}"


Tallies = dict[Place, Tally]


@functools.lru_cache(maxsize=65536)
def place(scope: Scope) -> Place:
    """Returns the component of a scope. One called "backward", as in a hand-written derivative, is a backward pass."""
    path = str(scope)
    best, component = -1, OTHER
    for pattern, name in SCOPES:
        for match in pattern.finditer(path):
            if match.start() > best:
                best, component = match.start(), match.expand(name)
    return Place(component, "backward" if scope.phase == "forward" and "backward" in scope.path else scope.phase)


def placed(tallies: Mapping[Scope, Tally]) -> Tallies:
    """Returns counts by component and phase from counts by scope."""
    found: Tallies = {}
    for scope, tally in tallies.items():
        found.setdefault(place(scope), Tally()).update(tally)
    return found


def total(tallies: Tallies) -> Tally:
    """Returns the sum over all places."""
    return operations.total(tallies.values())


def products(tallies: Tallies) -> dict[tuple[str, str], int]:
    """Returns {(component, phase): FLOPs of matrix products}, without zeros."""
    return marked(tallies, operations.PRODUCT)


def marked(tallies: Tallies, mark: str) -> dict[tuple[str, str], int]:
    """Returns {(component, phase): FLOPs of the products with a mark, "dot padded" or "dot repeated"}, without zeros."""
    return {(where.component, where.phase): tally[mark] for where, tally in tallies.items() if tally[mark]}
