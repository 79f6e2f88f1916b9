"""Checkpoints of a run: a sealed folder for each step. The newest two and the best one are kept; none holds the base.

Each one says which was the best so far. So a process that is killed leaves neither a mark without its checkpoint nor a best
checkpoint without its mark.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import shutil
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlv import processes
from jaxlv.errors import JaxlvError, briefly
from jaxlv.results.runs import Facts, Mark
from jaxlv.runs.records import STEP, saved_steps
from jaxlv.storage.door import Unreadable
from jaxlv.storage.files import (
    broken,
    make_folder,
    new_folder,
    parse_json,
    read_text,
    remove_folder,
    remove_unfinished,
    seal,
    system_error,
    write_json,
)  # fmt: skip

NO_FACTS = Facts()
STATE, FACTS = "state", "facts.json"  # in the folder of a step
ROOM = 1 << 18  # bytes of a checkpoint beside its arrays

_copies: dict[Path, dict[int, list[Any]]] = {}  # the states of a process that is not the first, by folder and step


class Checkpoints:
    """The checkpoints in `folder`, saved in the background; `close` (or `with`) waits for the last one.

    A tree is any pytree of arrays and PRNG keys. A step's folder is complete or absent, and sealed by the hashes of its
    files. A checkpoint with a changed file is in `damaged` ({step: what is wrong}) and counts as absent.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = Path(folder).absolute(), keep
        _quieten()
        self._worker = ThreadPoolExecutor(1, "checkpoint")
        self._saving: Future[None] | None = None
        self._begun = False
        found = {step: self._broken(step) for step in self._on_disk()}
        self.damaged = {step: faults[0] for step, faults in found.items() if faults}

    @functools.cached_property
    def _orbax(self) -> Any:
        import orbax.checkpoint as ocp  # here, as it takes a fifth of a second

        index = jax.process_index()  # each process saves by itself (jaxlv.processes): what it saves is whole in each
        alone: Any = {"primary_host": index, "active_processes": {index}, "barrier_sync_key_prefix": f"process {index}"}
        options = ocp.options.MultiprocessingOptions(**alone) if jax.process_count() > 1 else None
        return ocp.Checkpointer(
            ocp.StandardCheckpointHandler(**({"multiprocessing_options": options} if options else {})),
            **({"multiprocessing_options": options} if options else {}),
        )

    def _broken(self, step: int) -> list[str]:
        try:
            return broken(self._place(step))
        except Unreadable as fault:
            hint = "try again; without the folder of that step the one before is taken"
            raise JaxlvError(fault.what, where=fault.where, hint=hint) from None

    def _place(self, step: int) -> Path:
        return self.folder / f"{STEP}{step:08d}"

    def _on_disk(self) -> list[int]:
        return saved_steps(self.folder)

    def wait(self) -> None:
        """Waits for what is being saved. Raises JaxlvError if it was not saved."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def steps(self) -> list[int]:
        """Returns the steps that have an intact checkpoint, ascending."""
        self.wait()
        return [step for step in self._on_disk() if step not in self.damaged]

    def save(self, step: int, tree: Any, facts: Facts = NO_FACTS) -> None:
        """Saves `tree` as the checkpoint of `step` in the background, with `facts` beside it. A step that has an intact
        checkpoint keeps it. Raises JaxlvError if the one before was not saved.
        """
        self.wait()
        if not self._begun:  # later a folder that is gone stays so
            make_folder(self.folder)
            self._begun = True
        leaves = _plain(tree)  # now: the next step may donate its buffers
        self._saving = self._worker.submit(self._save, step, leaves, facts)

    def _save(self, step: int, leaves: list[Any], facts: Facts) -> None:
        place = self._place(step)
        try:
            if step in self.damaged or not place.exists():
                self._check_space(leaves)
                with new_folder(place, replace=True, parents=False) as work:
                    if processes.index():  # the copy of a process that is not the first, for which Orbax writes nothing
                        _copies.setdefault(self.folder, {})[step] = leaves
                    else:
                        self._orbax.save(work / STATE, leaves)
                    write_json(work / FACTS, facts.tree(), indent=None)
                    seal(work)
                self.damaged.pop(step, None)
        except Exception as fault:  # orbax raises whatever the layer below raised
            if isinstance(fault, JaxlvError) and not isinstance(fault, Unreadable):
                for empty in (self.folder, self.folder.parent):  # the run folder is gone, and Orbax has made one anew
                    with contextlib.suppress(OSError):
                        empty.rmdir()
                raise
            raise JaxlvError(
                f"the checkpoint of step {step} was not saved ({system_error(fault, place).strerror})",
                where=self.folder,
                hint="earlier ones are intact: free some space, and go on with --resume",
            ) from None
        self._prune(step)

    def _check_space(self, leaves: list[Any]) -> None:
        """Raises OSError if the disk lacks room, before anything is written."""
        if shutil.disk_usage(self.folder).free < ROOM + 2 * sum(leaf.nbytes for leaf in leaves):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _prune(self, step: int) -> None:
        for old in set(self._on_disk()) - self._kept(step):
            remove_folder(self._place(old))
            _copies.get(self.folder, {}).pop(old, None)

    def _kept(self, step: int) -> set[int]:
        """Returns the steps whose checkpoints stay beside that of `step`: the newest intact ones, and the best."""
        intact = [one for one in self._on_disk() if one not in self.damaged]
        newest = intact[-1:]  # none if the folder is gone
        marked = {best.step if (best := self._facts(one).best) else one for one in {step, *newest}}
        return {*intact[-self.keep :], step, *marked}

    def tidy(self, step: int) -> list[int]:
        """Removes the intact checkpoints that should have gone when that of `step` or a newer one was saved, but could not
        be removed then. Returns the steps of those that still cannot be.
        """
        for old in set(self.steps()) - (kept := self._kept(step)):
            remove_folder(self._place(old))
        return sorted(set(self.steps()) - kept)

    def best(self) -> Mark | None:
        """Returns the mark of the best checkpoint as the newest intact one has it; the best itself may be lost."""
        steps = self.steps()
        return self._facts(steps[-1]).best if steps else None

    def chosen(self) -> tuple[int, str]:
        """Returns the step of the best checkpoint, or else of the newest intact one, and why it is not the best ("" if it
        is).

        Raises JaxlvError if no checkpoint is intact.
        """
        steps, marked = self.steps(), self.best()
        if not steps:
            raise JaxlvError("no intact checkpoint", where=self.folder, found=self.told() or "none")
        step = marked.step if marked and marked.step in steps else steps[-1]
        if marked and step != marked.step:
            why = self.damaged.get(marked.step, "it is missing")
            return step, f"the best checkpoint, of step {marked.step}, is lost ({why}): taking that of step {step}"
        if max(self.damaged, default=0) > steps[-1]:
            return step, f"the best checkpoint may be lost ({self.told()}): taking that of step {step}"
        return step, ""

    def told(self) -> str:
        """Returns in words what is damaged; "" if nothing is."""
        return "; ".join(f"step {step} is damaged ({why})" for step, why in sorted(self.damaged.items()))

    def facts(self, step: int) -> Facts:
        """Returns what was saved beside the checkpoint of a step."""
        self.wait()
        return self._facts(step)

    def _facts(self, step: int) -> Facts:
        return read_facts(self._place(step) / FACTS)

    def restore(self, step: int, like: Any) -> Any:
        """Returns the tree of `step`, with the structure, types and keys of `like`. Raises JaxlvError if it cannot be read
        as such.
        """
        self.wait()
        path = self._place(step)
        if step in self.damaged:
            raise JaxlvError(f"damaged checkpoint ({self.damaged[step]})", where=path)
        try:
            import orbax.checkpoint as ocp

            if step in (copies := _copies.get(self.folder, {})):
                return _like(copies[step], like)
            plain = self._orbax.restore(path / STATE, args=ocp.args.StandardRestore(_abstract(like)))
        except Exception as fault:  # orbax raises whatever the layer below raised
            reason = " ".join(str(fault).split())[:200]
            raise JaxlvError(f"unreadable checkpoint ({type(fault).__name__}: {reason})", where=path) from None
        return _like(plain, like)

    def remove_unfinished(self) -> None:
        """Removes what killed processes left half written."""
        remove_unfinished(self.folder)

    def close(self) -> None:
        """Waits for the last save, and ends the background thread."""
        try:
            self.wait()
        finally:
            self._worker.shutdown()
            if "_orbax" in vars(self):
                self._orbax.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self.close()
        if kind is None:  # else the run may go on from them
            _copies.pop(self.folder, None)


def read_facts(path: Path) -> Facts:
    """Returns what a checkpoint's facts.json says. Raises JaxlvError if it is not such a file."""
    text = read_text(path)
    try:
        return Facts.read(parse_json(text), path)
    except (ValueError, JaxlvError) as fault:
        raise JaxlvError(f"unreadable facts of a checkpoint ({briefly(fault)})", where=path) from None


@functools.cache
def _quieten() -> None:
    """Silences what Orbax logs beside what it raises, and what TensorStore's threads report to closed event loops."""
    hook = sys.unraisablehook

    def others(unraisable: sys.UnraisableHookArgs) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    sys.unraisablehook = others
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in Path(record.pathname).parts)
    # Of several writes that fail, one is raised.
    logging.getLogger("asyncio").addFilter(lambda record: "orbax" not in record.getMessage())


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(tree: Any) -> list[Any]:
    """Returns the leaves as arrays of the host, and keys as their data."""
    return [np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf) for leaf in jax.tree.leaves(tree)]


def _abstract(tree: Any) -> list[jax.ShapeDtypeStruct]:
    """Returns the shapes of `_plain(tree)`. The tree may be abstract, and its buffers may be donated."""
    leaves = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
    return [jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf for leaf in leaves]


def _like(leaves: list[Any], like: Any) -> Any:
    wrapped = [
        jax.random.wrap_key_data(jax.numpy.asarray(leaf)) if _is_key(other) else jax.numpy.asarray(leaf)
        for leaf, other in zip(leaves, jax.tree.leaves(like), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), wrapped)
