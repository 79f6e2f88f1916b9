"""Checkpoints of a run: one Orbax folder per step, the newest two and the best one kept; the base is never in them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxlv.errors import JaxlvError

PREFIX = "step_"
BEST = "best.json"


class Checkpoints:
    """The checkpoints in `folder`, saved in the background; `close` (or `with`) waits for the last one.

    A tree is any pytree of arrays and PRNG keys. Orbax writes to a temporary folder and renames, so that a step's folder
    is either whole or absent.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = Path(folder).absolute(), keep
        self._orbax = ocp.StandardCheckpointer()

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending."""
        names = (path.name.removeprefix(PREFIX) for path in self.folder.glob(f"{PREFIX}*"))
        return sorted(int(name) for name in names if name.isdigit())

    def save(self, step: int, tree: Any, best: dict[str, Any] | None = None) -> None:
        """Save `tree` as the checkpoint of `step`; `best` (its `value`, and other facts) marks it as the best so far."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._orbax.wait_until_finished()
        if step not in self.steps():
            self._orbax.save(self.folder / f"{PREFIX}{step:08d}", _plain(tree))
        if best is not None:
            self._orbax.wait_until_finished()
            temporary = self.folder / f".{BEST}"
            temporary.write_text(json.dumps({"step": step, **best}) + "\n", encoding="utf-8")
            os.replace(temporary, self.folder / BEST)
        marked = self.best()
        kept = {*self.steps()[-self.keep :], step, marked["step"] if marked else step}
        for old in set(self.steps()) - kept:
            shutil.rmtree(self.folder / f"{PREFIX}{old:08d}")

    def best(self) -> dict[str, Any] | None:
        """The facts of the best checkpoint, its step among them, or None."""
        path = self.folder / BEST
        if not path.is_file():
            return None
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            return {**facts, "step": int(facts["step"]), "value": float(facts["value"])}
        except (OSError, ValueError, KeyError, TypeError) as fault:
            reason = f"unreadable mark of the best checkpoint ({type(fault).__name__}: {fault})"
            raise JaxlvError(reason, where=path, hint="delete it to go on from the newest checkpoint") from None

    def restore(self, step: int, like: Any) -> Any:
        """The tree of `step`, with the structure, types and keys of `like`; JaxlvError where it cannot be read so."""
        path = self.folder / f"{PREFIX}{step:08d}"
        self._orbax.wait_until_finished()
        try:
            plain = self._orbax.restore(path, _abstract(like))
        except Exception as fault:  # orbax raises whatever the layer below raised
            reason = " ".join(str(fault).split())[:200]
            raise JaxlvError(f"unreadable checkpoint ({type(fault).__name__}: {reason})", where=path) from None
        return _like(plain, like)

    def close(self) -> None:
        """Wait for the last save and let the background threads go."""
        self._orbax.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(tree: Any) -> list[Any]:
    """Leaves as arrays, copied off any buffer that the next step may donate; keys as their data."""
    return [np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf) for leaf in jax.tree.leaves(tree)]


def _abstract(tree: Any) -> list[jax.ShapeDtypeStruct]:
    """The shapes of `_plain(tree)`; the tree may itself be abstract, or its buffers donated."""
    leaves = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
    return [jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf for leaf in leaves]


def _like(leaves: list[Any], like: Any) -> Any:
    wrapped = [
        jax.random.wrap_key_data(jax.numpy.asarray(leaf)) if _is_key(other) else jax.numpy.asarray(leaf)
        for leaf, other in zip(leaves, jax.tree.leaves(like), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), wrapped)
