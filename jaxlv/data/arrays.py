"""What arrays of series must be, whatever file or program they come from.

Axes: N series, T time steps, V variables.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxlv.errors import JaxlvError

VARIABLES = ("prey", "predator")
_LAYOUT = "(series, steps, variables)"
_AXES = ("series", "steps", "variables")
SHOWN = 10  # items of a list in an error
LARGEST = float(np.finfo(np.float32).max)
"""The largest value and time: data sets are stored, and models compute, in float32; larger values have squares beyond
float64.
"""


def check_dtype(dtype: np.dtype, where: Any) -> None:
    """Raises JaxlvError if the type is neither an integer nor a float of at most 64 bits."""
    if dtype.kind not in "iuf" or not np.can_cast(dtype, np.float64, "safe"):
        raise JaxlvError("wrong type", where=where, expected="integers or floats of up to 64 bits", found=dtype)


def check_fields(dtype: np.dtype, where: Any, objects: bool = False) -> None:
    """Raises JaxlvError unless every field of a record is a number of at most 64 bits, a text, a date, or, with `objects`,
    anything.
    """
    for name in dtype.names or ():
        if dtype[name].kind not in ("bUSMO" if objects else "bUSM"):
            check_dtype(dtype[name], f"{where}:{name}")


def of_records(records: np.ndarray) -> pd.DataFrame:
    """Returns an array with named fields as a table: a column for each field."""
    columns = {name: np.ma.filled(records[name].ravel()) for name in records.dtype.names or ()}
    return pd.DataFrame({
        name: pd.Series([_decoded(one) for one in values.tolist()] if values.dtype.kind in "SO" else values)
        for name, values in columns.items()
    })  # fmt: skip


def _decoded(cell: Any) -> Any:
    return cell.decode("utf-8", "surrogateescape") if isinstance(cell, bytes) else cell


def as_float64(values: np.ndarray, where: Any, own: bool = False) -> np.ndarray:
    """Returns a float64 copy that equals the given integers or floats, without -0.0; if the array is nobody else's (`own`),
    it may be the array itself. Raises JaxlvError if float64 cannot hold them.
    """
    check_dtype(values.dtype, where)
    if values.dtype.kind in "iu" and values.size and max(int(values.max()), -int(values.min())) > 2**53:
        raise JaxlvError("integers too large", where=where, expected="at most 2**53, exact in float64")
    copied = np.array(values, dtype=np.float64, order="C", copy=None if own and values.flags.writeable else True)
    copied += 0.0  # -0.0 becomes 0.0: the text format has no sign
    return copied


def check_shape(shape: tuple[int, ...], time_shape: tuple[int, ...] | None, variables: int, where: Any) -> None:
    """Raises JaxlvError, naming the axis, unless trajectories is (N, T, variables) and time is (T,) or absent."""
    if len(shape) != 3:
        raise JaxlvError(f"trajectories has {len(shape)} axes", where=where, expected=_LAYOUT, found=f"shape {shape}")
    if time_shape is not None and len(time_shape) != 1:
        raise JaxlvError(f"time has {len(time_shape)} axes", where=where, expected="(steps,)", found=f"shape {time_shape}")
    wanted = (None, time_shape[0] if time_shape else None, variables)

    def fits(order: tuple[int, ...]) -> bool:
        return all(size in (None, shape[axis]) for size, axis in zip(wanted, order, strict=True))

    if not fits((0, 1, 2)):
        axis = next(axis for axis in range(3) if wanted[axis] not in (None, shape[axis]))
        orders = [order for order in itertools.permutations(range(3)) if fits(order)]
        raise JaxlvError(
            f"axis {axis} of trajectories, {_AXES[axis]}, has length {shape[axis]}",
            where=where,
            expected=f"{wanted[axis]}, as in {_LAYOUT}" + (" and time" if axis == 1 else ""),
            found=f"shape {shape}",
            hint=f"np.transpose(trajectories, {orders[0]}) would fit" if orders else None,
        )
    if shape[0] < 1 or shape[1] < 2:
        raise JaxlvError("no series", where=where, expected="one or more of two or more steps", found=shape)


def keys_of(group: Collection[Any]) -> str:
    """Returns the first names in a file, in one line, and how many more there are."""
    return _listed(list(itertools.islice(group, SHOWN)), len(group)) or "no keys"


def shortened(items: Sequence[Any]) -> str:
    """Returns the first items in one line, and how many more there are."""
    return _listed(items[:SHOWN], len(items))


def _listed(first: Sequence[Any], count: int) -> str:
    more = f" and {count - len(first)} more" if count > len(first) else ""
    return ", ".join(map(str, first)) + more
