"""Rows of formulas, from which conventions are made."""

from __future__ import annotations

from typing import Literal, NamedTuple

Phase = Literal["forward", "backward", "recomputed"]
When = Literal["always", "loss", "gradient", "step", "token", "generation"]


class Row(NamedTuple):
    """A component's operations: primitives with their number, or one batch of matrix products, "batch | m, n, p". `times`
    and every number are formulas over the symbols of jaxlv/flops/work.py.

    `when` says where the row occurs: in every forward pass, in one with a loss (training and validation), in one with
    gradients (training), in an optimiser's step (once, whatever the number of its micro-batches), in each iteration of a
    generation's loop, or once in a generation.
    """

    component: str
    times: str
    operations: tuple[tuple[str, str], ...]
    phase: Phase = "forward"
    when: When = "always"


def row(component: str, times: str = "1", phase: Phase = "forward", when: When = "always", **operations: str) -> Row:
    """Builds a row from operations by name, `dot` for matrix products. A phase other than forward needs gradients."""
    return Row(component, times, tuple(operations.items()), phase, when if phase == "forward" else "gradient")


FANS = {  # (in, out) of the projections if every head had its own keys and values: GQA priced as multi-head attention
    "q": ("H", "N * D"),
    "k": ("H", "N * D"),
    "v": ("H", "N * D"),
    "o": ("N * D", "H"),
    "gate": ("H", "I"),
    "up": ("H", "I"),
    "down": ("I", "H"),
}
GROUPED = FANS | {"k": ("H", "K * D"), "v": ("H", "K * D")}
