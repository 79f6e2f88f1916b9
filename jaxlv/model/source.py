"""The opened files of a checkpoint: a parameter, or a projection in other bits, goes from there to its devices.

Axes: F outputs and D inputs of a projection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from jaxlv.errors import JaxlvError
from jaxlv.model import quantised
from jaxlv.model.bases import Added
from jaxlv.model.bits import Bits
from jaxlv.model.packed import Packing, check_sizes, unpacked
from jaxlv.storage import tensors

Placement = Callable[[str], Sharding | None]  # of the parameter at a path; None for the default device
KINDS: Mapping[Any, str] = {np.dtype(dtype): kind for kind, dtype in tensors.DTYPES.items()}


class Held(NamedTuple):
    """Where a tensor lies: its file, and its name in it."""

    path: Path
    name: str


class Source:
    """The opened files of a checkpoint, by path, and where what is read from them is placed."""

    def __init__(
        self, held: Mapping[str, Held], files: Mapping[Path, tensors.Tensors], place: Placement | None,
        added: Mapping[str, Added],
    ):  # fmt: skip
        self.held, self._files, self._place, self._added = held, files, place, added

    def array(self, name: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        """Returns a tensor on its devices, in the leaf's type; whole numbers must be stored in that."""
        if name in self._added:
            return self._put(name, self._part(name, leaf.shape, tensors.FLOAT_TYPES).astype(leaf.dtype))
        path, own = self.held[name]
        kinds = tensors.FLOAT_TYPES if jnp.issubdtype(leaf.dtype, jnp.floating) else (KINDS[leaf.dtype],)
        return self._files[path].read(own, leaf.shape, leaf.dtype, self._sharding(name), kinds)

    def full(self, module: str, fans: tuple[int, int], packing: Packing | Bits, dtype: Any) -> jax.Array:
        """Returns the weight (F, D) of a packed projection on its devices."""
        if isinstance(packing, Packing):
            where = f"{self.held[f'{module}.qweight'].path}, {module}"
            check_sizes(packing, *fans, where)
            shapes = packing.shapes(*fans)
            parts = {name: self._part(f"{module}.{name}", shapes[name], kinds) for name, kinds in packing.kinds.items()}
            return self._put(f"{module}.weight", unpacked(packing, parts, dtype, where))
        leaves = quantised.shapes(packing, *fans).items()
        parts = {name: self._part(f"{module}.{name}", leaf.shape, (KINDS[leaf.dtype],)) for name, leaf in leaves}
        return self._put(f"{module}.weight", quantised.restored(packing, **parts).astype(dtype))

    def quantised(self, module: str, fans: tuple[int, int], bits: Bits) -> dict[str, jax.Array]:
        """Returns codes and scales, by dotted key, of a projection whose weight is stored."""
        made = quantised.quantised(bits, self._part(f"{module}.weight", fans, tensors.FLOAT_TYPES))
        return {f"{module}.{name}": self._put(f"{module}.{name}", value) for name, value in made.items()}

    def check_zero(self, names: Iterable[str], where: Any) -> None:
        """Raises JaxlvError if a bias that the model does not have is not 0; some tools write such zeros."""
        for name in sorted(names):
            path, own = self.held[name]
            if self._files[path].part(own).any():
                raise JaxlvError(f"unexpected tensor {name}", where=where, expected="zeros, or none")

    def _part(self, name: str, shape: tuple[int, ...], kinds: Iterable[str]) -> np.ndarray:
        """Returns a whole tensor on the host; raises JaxlvError if it has another shape or none of these types."""
        path, own = self.held[name]
        self._files[path].check(own, shape, kinds)
        whole = self._files[path].part(own)
        return self._added[name].to(whole) if name in self._added else whole

    def _put(self, name: str, value: np.ndarray) -> jax.Array:
        """Returns an array of the host on its devices."""
        return tensors.put(value, self._sharding(name))

    def _sharding(self, name: str) -> Sharding | None:
        return self._place(name) if self._place else None
