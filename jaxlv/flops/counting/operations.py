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


class Tally(Counter[str]):
    """Operations by name: `dot` and `dot sheet` in FLOPs, those of PRIMITIVES by number, `bytes`, and marks of products
    ("dot padded", "dot repeated", "dot skipped by mask"), which say of FLOPs in `dot` what they are.
    """

    def products(self) -> int:
        """FLOPs of matrix products and convolutions."""
        return self[PRODUCT]

    def elementwise(self) -> int:
        """Operations on elements that are not transcendental, each counted as 1: reductions, sorts, casts and integers
        included.
        """
        return sum(self[name] for name in PLAIN)

    def transcendental(self) -> int:
        """Exponentials, logarithms, roots, powers, sines, ..., each counted as 1."""
        return sum(self[name] for name in TRANSCENDENTAL)

    def price(self, weights: Mapping[str, int], products: str = PRODUCT) -> int:
        """FLOPs at weights by primitive, and of the products as `products` counts them."""
        return self[products] + sum(weight * self[name] for name, weight in weights.items())

    def everything(self) -> int:
        """FLOPs of the products and every operation on an element, each counted as 1, as XLA counts them."""
        return self[PRODUCT] + self.elementwise() + self.transcendental()

    def times(self, count: int) -> Tally:
        """The tally of `count` repetitions."""
        return Tally({name: count * number for name, number in self.items()})


def total(tallies: Iterable[Tally]) -> Tally:
    """The sum of tallies."""
    result = Tally()
    for tally in tallies:
        result.update(tally)
    return result


def product(batch: int, m: int, n: int, p: int) -> Tally:
    """The tally of `batch` matrix products (m, n) x (n, p)."""
    return Tally({PRODUCT: 2 * batch * m * n * p, SHEET_PRODUCT: batch * m * p * (2 * n - 1)})
