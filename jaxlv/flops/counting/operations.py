"""Operations by name, and what they cost as floating-point operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

PRODUCT = "dot"  # FLOPs of matrix products and convolutions: a multiplication and an addition for each pair
SHEET_PRODUCT = "dot sheet"  # the same products at m p (2 n - 1): the first addition is free
BYTES = "bytes"  # read and written
TRANSCENDENTAL = ("exp", "log", "sqrt", "rsqrt", "sin", "pow")
PLAIN = ("add", "mul", "div", "compare", "convert", "integer")
PRIMITIVES = (*PLAIN, *TRANSCENDENTAL)  # one operation on one element
# Marks, appended to the name of an operation. For what is executed: a product's sides padded with zeros; what was computed
# before; what nobody asked for, but serves what was asked for. For what is asked for: values that were asked for before;
# operations that constants decide; and the lowering of a primitive without operations.
PADDED, REPEATED, ADDED = " padded", " repeated", " added"
AGAIN, EITHER, FOLDED, LOWERED = " again", " either", " folded", " lowered"
FORMULA = "dot by formula"  # FLOPs in `dot` that a formula gives, not a count: a decomposition, an FFT, a stated estimate


class Tally(Counter[str]):
    """Operations by name: `dot` and `dot sheet` in FLOPs, those of PRIMITIVES by number, `bytes`, and marks of products
    ("dot padded", "dot repeated", "dot skipped by mask", "dot by formula"), which classify FLOPs that `dot` contains.
    """

    def products(self) -> int:
        """Returns the FLOPs of matrix products and convolutions."""
        return self[PRODUCT]

    def elementwise(self) -> int:
        """Returns the number of elementwise operations that are not transcendental: reductions, sorts, casts and integers
        included.
        """
        return sum(self[name] for name in PLAIN)

    def transcendental(self) -> int:
        """Returns the number of exponentials, logarithms, roots, powers, sines, ..."""
        return sum(self[name] for name in TRANSCENDENTAL)

    def bytes(self) -> int:
        """Returns the bytes read and written."""
        return self[BYTES]

    def price(self, weights: Mapping[str, int], products: str = PRODUCT) -> int:
        """Returns FLOPs at weights by primitive, with the products as `products` counts them."""
        return self[products] + sum(weight * self[name] for name, weight in weights.items())

    def everything(self) -> int:
        """Returns the FLOPs of the products plus every elementwise operation, each counted as 1, as XLA counts them."""
        return self[PRODUCT] + self.elementwise() + self.transcendental()

    def __add__(self, more: Mapping[str, int]) -> Tally:  # type: ignore[override]
        """Returns the sum; negative numbers and zeros are kept."""
        found = Tally(self)
        found.update(more)
        return found

    def times(self, count: int) -> Tally:
        """Returns the tally of `count` repetitions."""
        return Tally({name: count * number for name, number in self.items()})

    def of_kind(self, kind: str) -> Tally:
        """Returns the part that is of a kind of work: a key of KINDS."""
        return Tally({name: number for name, number in self.items() if kind_of(name) == kind})


KINDS = {
    "products": Tally.products, "elementwise": Tally.elementwise, "transcendental": Tally.transcendental,
    "bytes": Tally.bytes,
}  # fmt: skip


def kind_of(name: str) -> str:
    """Returns the kind of work of an operation, a key of KINDS; a mark ("exp repeated") is of the kind that it marks."""
    first = name.partition(" ")[0]
    if first == PRODUCT:
        return "products"
    return "bytes" if first == BYTES else "transcendental" if first in TRANSCENDENTAL else "elementwise"


def total(tallies: Iterable[Tally]) -> Tally:
    """Returns the sum of tallies."""
    result = Tally()
    for tally in tallies:
        result.update(tally)
    return result


def product(batch: int, m: int, n: int, p: int) -> Tally:
    """Returns the tally of `batch` matrix products (m, n) x (n, p)."""
    return Tally({PRODUCT: 2 * batch * m * n * p, SHEET_PRODUCT: batch * m * p * (2 * n - 1)})


def by_formula(flops: int) -> Tally:
    """Returns the tally of FLOPs that a formula gives."""
    return Tally({PRODUCT: flops, SHEET_PRODUCT: flops, FORMULA: flops})
