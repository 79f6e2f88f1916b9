"""What arrays of series must be, whatever file or program they come from.

Axes: N series, T time steps, V variables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np

from jaxlv.errors import JaxlvError

VARIABLES = ("prey", "predator")
_LAYOUT = "(series, steps, variables)"
_AXES = ("series", "steps", "variables")


def check_dtype(dtype: np.dtype, where: Any) -> None:
    """Raise JaxlvError unless the type is integer, or a float no wider than float64."""
    if dtype.kind not in "iuf" or not np.can_cast(dtype, np.float64, "safe"):
        raise JaxlvError("wrong type", where=where, expected="integers or floats of up to 64 bits", found=dtype)


def as_float64(values: np.ndarray, where: Any) -> np.ndarray:
    """A float64 copy that equals the integers or floats given; JaxlvError for what float64 cannot hold."""
    check_dtype(values.dtype, where)
    if values.dtype.kind in "iu" and values.size and max(int(values.max()), -int(values.min())) > 2**53:
        raise JaxlvError("integers too large", where=where, expected="at most 2**53, exact in float64")
    return np.array(values, dtype=np.float64, order="C")


def check_size(shapes: Sequence[tuple[int, ...]], memory_cap: int, where: Any) -> None:
    """Raise JaxlvError where arrays of these shapes, as float64, would take more than `memory_cap` bytes."""
    size = 8 * sum(math.prod(shape) for shape in shapes)
    if size > memory_cap:
        raise JaxlvError("declares too much data", where=where, expected=f"at most {memory_cap} bytes", found=size)


def check_shape(shape: tuple[int, ...], time_shape: tuple[int, ...] | None, variables: int, where: Any) -> None:
    """Raise JaxlvError, naming the axis, unless trajectories is (N, T, variables) and time (T,) or absent."""
    if len(shape) != 3:
        raise JaxlvError(f"trajectories has {len(shape)} axes", where=where, expected=_LAYOUT, found=f"shape {shape}")
    if time_shape is not None and len(time_shape) != 1:
        raise JaxlvError(f"time has {len(time_shape)} axes", where=where, expected="(steps,)", found=f"shape {time_shape}")
    wanted = (None, time_shape[0] if time_shape else None, variables)

    def fits(order: tuple[int, ...]) -> bool:
        return all(size in (None, shape[axis]) for size, axis in zip(wanted, order, strict=True))

    if not fits((0, 1, 2)):
        axis = next(axis for axis in range(3) if wanted[axis] not in (None, shape[axis]))
        orders = [order for order in permutations(range(3)) if fits(order)]
        raise JaxlvError(
            f"axis {axis} of trajectories, {_AXES[axis]}, has length {shape[axis]}",
            where=where,
            expected=f"{wanted[axis]}, as in {_LAYOUT}" + (" and time" if axis == 1 else ""),
            found=f"shape {shape}",
            hint=f"np.transpose(trajectories, {orders[0]}) would fit" if orders else None,
        )
    if shape[0] < 1 or shape[1] < 2:
        raise JaxlvError("no series", where=where, expected="one or more of two or more steps", found=shape)


def keys_of(group: Any) -> str:
    """The names in a file, in one line."""
    return shortened(sorted(group, key=str)) if len(group) else "no keys"


def shortened(items: Sequence[Any], limit: int = 10) -> str:
    """The first items in one line, and how many more there are."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(str(item) for item in items[:limit]) + more
