"""Dense linear algebra and Fourier transforms by formula: FLOPs that a textbook states, marked as such.

LAPACK's routines are not written in primitives, so nothing can be counted. The figures are those of Golub and Van Loan,
Matrix Computations, 4th edition (GVL), and of LAPACK Working Note 41, appendix C (LAWN 41); figures that are stated only to
leading order there are so here. Complex matrices cost four times as much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Estimate(NamedTuple):
    """FLOPs of one matrix, and the formula in words with its source."""

    flops: int
    words: str


def cholesky(n: int) -> Estimate:
    """Estimates the Cholesky factor of a positive definite n x n matrix, n roots included."""
    return Estimate(n * (n + 1) * (2 * n + 1) // 6, "n (n + 1) (2 n + 1) / 6 (LAWN 41)")


def lu(m: int, n: int) -> Estimate:
    """Estimates Gaussian elimination with partial pivoting."""
    flops = sum((m - i) + 2 * (m - i) * (n - i) for i in range(1, min(m, n) + 1))
    return Estimate(flops, "the sum of (m - i) + 2 (m - i) (n - i) over the columns i (GVL 3.2)")


def reflectors(m: int, n: int, k: int) -> Estimate:
    """Estimates how k Householder reflectors of an m x n matrix are found, or multiplied into one matrix."""
    flops = 4 * m * n * k - 2 * (m + n) * k * k + 4 * k**3 // 3
    return Estimate(flops, "4 m n k - 2 (m + n) k^2 + 4 k^3 / 3 (LAWN 41)")


def qr(m: int, n: int, columns: int) -> Estimate:
    """Estimates the R of an m x n matrix, and a Q of `columns` columns."""
    k = min(m, n)
    flops = reflectors(m, n, k).flops + reflectors(m, columns, k).flops
    return Estimate(flops, "reflectors found and multiplied out, 4 m n k - 2 (m + n) k^2 + 4 k^3 / 3 each (LAWN 41)")


def svd(m: int, n: int, vectors: str) -> Estimate:
    """Estimates singular values, and both bases too if `vectors` is "thin" or "full"."""
    m, n = max(m, n), min(m, n)
    if vectors == "full":
        return Estimate(4 * m * m * n + 8 * m * n * n + 9 * n**3, "4 m^2 n + 8 m n^2 + 9 n^3 (GVL 8.6)")
    if vectors == "thin":
        return Estimate(14 * m * n * n + 8 * n**3, "14 m n^2 + 8 n^3 (GVL 8.6)")
    return Estimate(4 * m * n * n - 4 * n**3 // 3, "4 m n^2 - 4 n^3 / 3 (GVL 8.6)")


def triangular(n: int, columns: int) -> Estimate:
    """Estimates how a triangular n x n system is solved for `columns` right-hand sides."""
    return Estimate(n * n * columns, "n^2 p (LAWN 41)")


def power(n: int, words: str, numerator: int, denominator: int = 1) -> Estimate:
    """Returns a multiple of n^3."""
    return Estimate(numerator * n**3 // denominator, words)


def transform(lengths: tuple[int, ...], real: bool) -> Estimate:
    """Estimates a Fourier transform over the last dimensions."""
    size = math.prod(lengths)
    flops = round((2.5 if real else 5) * size * math.log2(size)) if size else 0
    return Estimate(flops, f"{'2.5' if real else '5'} N log2 N (the convention of FFTW)")


def _square(shape: tuple[int, ...]) -> int:
    return shape[-1]


Rule = Callable[[list[tuple[int, ...]], list[tuple[int, ...]], Mapping[str, Any]], Estimate]


def _svd(ins: list, outs: list, params: Mapping[str, Any]) -> Estimate:
    vectors = "none" if not params["compute_uv"] else "full" if params["full_matrices"] else "thin"
    m, n = ins[0][-2:]
    return svd(m, n, vectors)


def _eigh(ins: list, outs: list, params: Mapping[str, Any]) -> Estimate:
    return power(_square(ins[0]), "9 n^3, values and vectors (GVL 8.3)", 9)


def _eig(ins: list, outs: list, params: Mapping[str, Any]) -> Estimate:
    if params.get("compute_left_eigenvectors") or params.get("compute_right_eigenvectors"):
        return power(_square(ins[0]), "25 n^3, values and vectors (GVL 7.5)", 25)
    return power(_square(ins[0]), "10 n^3, values alone (GVL 7.5)", 10)


def _schur(ins: list, outs: list, params: Mapping[str, Any]) -> Estimate:
    if params.get("compute_schur_vectors", True):
        return power(_square(ins[0]), "25 n^3, with the vectors (GVL 7.5)", 25)
    return power(_square(ins[0]), "10 n^3, without the vectors (GVL 7.5)", 10)


def _triangular_solve(ins: list, outs: list, params: Mapping[str, Any]) -> Estimate:
    return triangular(_square(ins[0]), ins[1][-1 if params["left_side"] else -2])


def _ormqr(ins: list, outs: list, params: Mapping[str, Any]) -> Estimate:
    (m, n), k = ins[2][-2:], ins[1][-1]
    other, along = (n, m) if params.get("left", True) else (m, n)
    return Estimate(4 * along * other * k - 2 * other * k * k, "4 m n k - 2 n k^2 (LAWN 41)")


def _reflectors(matrix: tuple[int, ...], k: int) -> Estimate:
    return reflectors(matrix[-2], matrix[-1], k)


def _tridiagonal_solve(ins: list, outs: list, params: Mapping[str, Any]) -> Estimate:
    n, columns = ins[3][-2:]
    return Estimate(3 * (n - 1) + (5 * n - 4) * columns, "3 (n - 1) + (5 n - 4) p, Thomas's algorithm (GVL 4.3)")


def _fft(ins: list, outs: list, params: Mapping[str, Any]) -> Estimate:
    kind = params["fft_type"]  # a string or jax.lax.FftType, in which 2 and 3 are real
    return transform(tuple(params["fft_lengths"]), "RFFT" in str(getattr(kind, "name", kind)).upper() or kind in (2, 3))


RULES: Mapping[str, Rule] = {
    "cholesky": lambda ins, outs, params: cholesky(_square(ins[0])),
    "cholesky_update": lambda ins, outs, params: Estimate(
        3 * _square(ins[0]) ** 2, "3 n^2, n rotations of two rows (GVL 6.5)"
    ),
    "lu": lambda ins, outs, params: lu(*ins[0][-2:]),
    "qr": lambda ins, outs, params: qr(ins[0][-2], ins[0][-1], outs[0][-1]),
    "geqrf": lambda ins, outs, params: _reflectors(ins[0], min(ins[0][-2:])),
    "geqp3": lambda ins, outs, params: _reflectors(ins[0], min(ins[0][-2:])),
    "householder_product": lambda ins, outs, params: _reflectors(ins[0], ins[1][-1]),
    "ormqr": _ormqr,
    "svd": _svd,
    "eigh": _eigh,
    "eig": _eig,
    "schur": _schur,
    "hessenberg": lambda ins, outs, params: power(_square(ins[0]), "10 n^3 / 3 (GVL 7.4)", 10, 3),
    "tridiagonal": lambda ins, outs, params: power(_square(ins[0]), "4 n^3 / 3 (GVL 8.3)", 4, 3),
    "triangular_solve": _triangular_solve,
    "tridiagonal_solve": _tridiagonal_solve,
    "symmetric_product": lambda ins, outs, params: Estimate(
        ins[0][-1] * ins[0][-2] * (ins[0][-2] + 1), "k n (n + 1) (LAWN 41)"
    ),
    "fft": _fft,
}  # fmt: skip
MATRIX: Mapping[str, int] = {"tridiagonal_solve": 3}  # the operand that is a batch of matrices, if it is not the first


def estimate(
    name: str, ins: list[tuple[int, ...]], outs: list[tuple[int, ...]], params: Mapping[str, Any], factor: int
) -> Estimate:
    """Returns the FLOPs of a primitive of RULES over all matrices of a batch, times `factor`, and the formula in words."""
    one = RULES[name](ins, outs, params)
    whole, own = ins[MATRIX.get(name, 0)], len(params["fft_lengths"]) if name == "fft" else 2
    batch = math.prod(whole[: len(whole) - own])
    return Estimate(batch * factor * one.flops, one.words)
