"""Splits of series into training, validation and test: by ids, by fractions, by strata, and as four papers have them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxlv.data.arrays import shortened
from jaxlv.data.series import SeriesSet, as_ids
from jaxlv.errors import JaxlvError


@dataclass(frozen=True)
class Split:
    """Ids of the series for training, validation and test; no id is in two parts."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def parts(self) -> dict[str, np.ndarray]:
        """Returns the three arrays by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def split_ids(ids: Any, train: Any, validation: Any, test: Any, where: Any = "train, validation, test") -> Split:
    """Returns the split with exactly these ids; raises JaxlvError if an id is unknown or given twice."""
    known = as_ids(ids)
    split = Split(*(as_ids(part, known) for part in (train, validation, test)))
    chosen = np.concatenate(list(split.parts().values()))
    unknown = np.setdiff1d(chosen, known) if chosen.dtype.kind == known.dtype.kind else chosen
    if len(unknown):
        raise JaxlvError("the split names series that are not in the data", where=where, found=shortened(unknown.tolist()))
    values, counts = np.unique(chosen, return_counts=True)
    if (counts > 1).any():
        raise JaxlvError("the split names series twice", where=where, found=shortened(values[counts > 1].tolist()))
    return split


def split_fraction(
    ids: Any, fractions: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 42, where: Any = "fractions"
) -> Split:
    """Splits ids in the order of NumPy's legacy `RandomState(seed).permutation`, cut at the cumulated fractions.

    With the defaults and 1000 series this is the split of the paper xu. Each part keeps the permuted order. Raises
    JaxlvError if the fractions are not shares of 1 or leave a wanted part empty.
    """
    ids_N = as_ids(ids)
    order = _random(seed).permutation(len(ids_N))
    cuts = np.round(_cumulated(fractions, where)[:2] * len(ids_N)).astype(int)
    return _not_empty(Split(*np.split(ids_N[order], cuts)), fractions, where)


def _random(seed: int) -> np.random.RandomState:
    if not 0 <= seed < 2**32:
        raise JaxlvError("the seed of a split is out of range", expected="0 to 2**32 - 1", found=seed)
    return np.random.RandomState(seed)


def _in_order(ids: np.ndarray) -> Split:
    """Splits in the order of the file: 70, 20 and 10 %."""
    first, second = _tenths(ids, 7), _tenths(ids, 9)
    return split_ids(ids, ids[:first], ids[first:second], ids[second:])


def _first_tenth_held(ids: np.ndarray) -> Split:
    """Takes the first tenth as the test, and splits the rest as scikit-learn's train_test_split(test_size=0.2,
    random_state=42).
    """
    rest = ids[_tenths(ids, 1) :]
    order = np.random.RandomState(42).permutation(len(rest))
    held = -(-len(rest) // 5)
    return split_ids(ids, rest[order[held:]], rest[order[:held]], ids[: _tenths(ids, 1)])


def _tenths(ids: np.ndarray, number: int) -> int:
    return max(1, round(number * len(ids) / 10))


REPORTED_SPLITS: Mapping[str, Callable[[np.ndarray], Split]] = MappingProxyType(
    {
        "xu": lambda ids: split_fraction(ids, (0.70, 0.15, 0.15)),
        "rai": _in_order,
        "mao": lambda ids: split_fraction(ids, (0.8, 0.1, 0.1)),  # the paper does not give its seed
        "liu": _first_tenth_held,
    }
)
"""How four papers split their series: the course's 1000 into 700, 150, 150; 700, 200, 100; 800, 100, 100; 720, 180, 100."""


def split_stratified(
    ids: Any, labels: Any, fractions: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 42, where: Any = "fractions"
) -> Split:
    """Splits so that each part holds each label in proportion to the fractions, to within one series per label.

    labels (N,), for instance from `regimes`. The shuffled series of a label are placed at (rank + u) / count, with one
    uniform u per label, and cut at the cumulated fractions: systematic sampling, in which a rare label may fall into any
    part. Raises JaxlvError as `split_fraction` does.
    """
    ids_N, labels_N = as_ids(ids), np.asarray(labels)
    if labels_N.shape != ids_N.shape:
        raise JaxlvError("one label per series is needed", expected=ids_N.shape, found=labels_N.shape)
    cuts = _cumulated(fractions, where)[:2]
    random = _random(seed)
    part_N = np.empty(len(ids_N), int)
    for label in np.unique(labels_N):
        rows = random.permutation(np.flatnonzero(labels_N == label))
        position = (np.arange(len(rows)) + random.uniform()) / len(rows)
        part_N[rows] = np.searchsorted(cuts, position, side="right")
    return _not_empty(Split(*(ids_N[part_N == part] for part in range(3))), fractions, where)


def _cumulated(fractions: Sequence[float], where: Any) -> np.ndarray:
    shares = np.asarray(fractions, dtype=float)
    if shares.shape != (3,) or not (shares >= 0).all() or not math.isclose(shares.sum(), 1, abs_tol=1e-9):
        raise JaxlvError(
            "split fractions do not add up to 1",
            where=where,
            expected="shares for train, validation and test",
            found=fractions,
        )
    return np.cumsum(shares)


def _not_empty(split: Split, fractions: Sequence[float], where: Any) -> Split:
    for (name, ids), fraction in zip(split.parts().items(), fractions, strict=True):
        if fraction > 0 and not len(ids):
            expected = "more series, or other fractions"
            raise JaxlvError(f"no series left for {name}", where=where, expected=expected, found=fractions)
    return split


def digest(values_TV: np.ndarray) -> bytes:
    """Returns a hash that is the same for series of equal values."""
    return hashlib.sha256((values_TV + 0.0).tobytes()).digest()  # adding 0 makes -0.0 and 0.0 the same bytes


def check_disjoint(series_set: SeriesSet, split: Split) -> None:
    """Raises JaxlvError if a series, by its id or by equal values, is in two parts of the split."""
    split_ids(series_set.ids_N, **split.parts())
    seen: dict[bytes, tuple[str, int]] = {}
    for part, ids in split.parts().items():
        own: dict[bytes, tuple[str, int]] = {}
        for i, values_TV in zip(ids, series_set.select(ids).values_NTV if len(ids) else (), strict=True):
            key = digest(values_TV)
            if key in seen:
                other_part, other = seen[key]
                raise JaxlvError(
                    f"series {i} of {part} has the same values as series {other} of {other_part}",
                    where=series_set.source.get("path"),
                    hint="drop duplicates before splitting",
                )
            own[key] = part, i.item()
        seen |= own
