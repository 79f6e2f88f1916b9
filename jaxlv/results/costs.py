"""What a training step costs under a convention, as charts draw it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxlv.results.record import Record


@dataclass(frozen=True)
class Difference(Record):
    """FLOPs that a group of components has more or fewer, or of a whole step."""

    name: str
    flops: int


@dataclass(frozen=True)
class LengthCost(Record):
    """What a token costs in rows of a length."""

    tokens: int
    flops: float


@dataclass(frozen=True)
class StepCost(Record):
    """FLOPs of a train step by a convention: by group and phase, by length of a row, and how they differ from exact ones.

    `waterfall` leads from the exact step to this one, and adds up; it is empty unless the convention's backward pass is
    twice the forward pass.
    """

    convention: str
    flops: int
    forward: Mapping[str, int]
    backward: Mapping[str, int]
    lengths: tuple[LengthCost, ...] = ()
    waterfall: tuple[Difference, ...] = ()
