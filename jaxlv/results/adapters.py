"""How far two adapters agree; their agreement by projection is in what `jaxlv merge --json` prints."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlv.results.quantities import quantity
from jaxlv.results.record import Record


@dataclass(frozen=True)
class Agreement(Record):
    """The updates of one projection in two adapters; what is not defined, as one of them is zero, is None."""

    layer: int = quantity("layer", form="literal")
    projection: str = quantity("projection", form="words")
    norm_a: float = quantity("norm a", "", "Frobenius norm of the first update, in weight units")
    norm_b: float = quantity("norm b", "", "that of the second")
    cosine: float | None = quantity("cosine", "", "between both updates as vectors")
    outputs: float | None = quantity("outputs", "", "overlap of the subspaces that they write, 0 to 1")
    inputs: float | None = quantity("inputs", "", "overlap of the subspaces that they read, 0 to 1")
