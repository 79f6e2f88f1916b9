"""Tables that would be read wrongly without a word: columns that may be times under another name, and tables that lie on
their side.

Axes: R rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxlv.data.arrays import shortened
from jaxlv.data.moments import are_moments, parsed
from jaxlv.data.words import MONTHS, NUMBER, QUARTERS, key_of
from jaxlv.errors import JaxlvError

YEAR = re.compile(r"[A-Za-z_.]{0,2}(1[5-9]|20)\d\d( ?\[YR\d{4}\])?")  # the brackets are the World Bank's
FEWEST = 3  # columns that are not there by chance
TURN = "turn the table, so that each row is a time and each column a series (in pandas: frame.set_index(...).T)"
STACK = "stack them into rows, a column for the year, one for the part of it, and one for the value (in pandas: frame.melt)"


def refuse_sideways(names: Sequence[str], where: Any) -> None:
    """Raises JaxlvError if most columns of numbers are called as years, dates, months or quarters are: the table has a
    column for each time.
    """
    for word, found, hint in (
        ("years", [name for name in names if YEAR.fullmatch(name)], TURN),
        ("dates", _dates(names), TURN),
        ("months", [name for name in names if key_of(name).rstrip(".") in MONTHS], STACK),
        ("quarters", [name for name in names if key_of(name) in QUARTERS], STACK),
    ):
        if len(found) >= FEWEST and 2 * len(found) > len(names):
            raise JaxlvError(
                f"its columns are {word}", where=where, expected="a row for each time", found=shortened(found), hint=hint
            )


def _dates(names: Sequence[str]) -> list[str]:
    """Returns the names that are dates, if most names are written in one way, which is that of dates."""
    shapes = {name: re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", name)) for name in names}
    shape, _ = Counter(shapes.values()).most_common(1)[0] if names else ("", 0)
    alike = [name for name in names if shapes[name] == shape]
    if "9" not in shape or 2 * len(alike) <= len(names):
        return []
    if not all(map(NUMBER.fullmatch, alike)):
        return alike if are_moments(alike) else []
    whole = shape == "9" and all(len(name) in (6, 8) for name in alike)  # 201501, 20150131
    return alike if whole and isinstance(parsed(pd.Series(map(int, alike)), "", "")[0].values, pd.DatetimeIndex) else []


def refuse_counter(table: pd.DataFrame, numeric: Sequence[str], row_R: np.ndarray, where: Any) -> None:
    """Raises JaxlvError if one of several columns of numbers may be times, though it is not called so: within every series,
    row after row, it grows or falls by one and the same step.
    """
    for name in numeric if len(numeric) > 1 else []:
        values = table[name].to_numpy(float, na_value=np.nan)
        step = _step(values, row_R)
        if step:
            hint = f"--time {name} (time=), or --columns {','.join(numeric)} (columns=) if it is a variable"
            moves = "grows" if step > 0 else "falls"
            expected = "a name such as year"
            raise JaxlvError(f"{name} {moves} in equal steps: is it the time", where=where, expected=expected, hint=hint)


def _step(values: np.ndarray, row_R: np.ndarray) -> float:
    """Returns the step by which values move within every series; 0 if they move by others."""
    order = np.argsort(row_R, kind="stable")
    inner = np.diff(row_R[order]) == 0
    steps = np.diff(values[order])[inner]
    of_years = bool(((values > 1000) & (values < 2200)).all())
    longest = int(np.bincount(row_R).max(initial=1)) - 1
    if longest < (2 if of_years else 3) or not np.isfinite(steps).all():
        return 0.0
    return float(steps[0]) if np.allclose(steps, steps[0], rtol=1e-6, atol=0) else 0.0
