"""How a device computes."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import NamedTuple

import jax

from jaxlv.config import RunConfig
from jaxlv.errors import JaxlvError
from jaxlv.steps import kept

OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


class MeshSizes(NamedTuple):
    """How many devices share the rows of a batch, and how many the weights."""

    data: int
    model: int


def mesh_sizes(config: RunConfig) -> MeshSizes:
    """Returns the sizes of a config's mesh here, or as it states them, whether or not there are so many devices."""
    model, batch = config.mesh.model, config.train.batch_size
    if config.mesh.data > 0:
        return MeshSizes(config.mesh.data, model)
    found = len(jax.devices()) // model
    return MeshSizes(next(size for size in range(max(1, found), 0, -1) if batch % size == 0), model)


def compute_deterministically() -> None:
    """Makes XLA use only deterministic kernels on a GPU. Call it before the first computation of the process."""
    flags = os.environ.get("XLA_FLAGS", "")
    if DETERMINISTIC not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {DETERMINISTIC}".strip()


def allocations_fail() -> bool:
    """Tells whether the system refuses memory that does not exist, by `ulimit -v`, `ulimit -d` or strict accounting.
    Otherwise it grants what is asked for, and ends a process that uses too much.
    """
    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    strict = OVERCOMMIT.is_file() and OVERCOMMIT.read_text().strip() == "2"
    return strict or any(limit != resource.RLIM_INFINITY for limit in limits)


def compute_with_care() -> None:
    """Makes XLA's CPU backend multiply without oneDNN, at up to half the speed, if allocations can fail: oneDNN's matrix
    product goes on after a failed allocation, and what it returns is wrong (jaxlib 0.10). Call it before the first
    computation of the process.
    """
    if allocations_fail():
        os.environ.setdefault("TENSORFLOW_USE_CUSTOM_CONTRACTION_KERNEL", "false")


def keep_compiled_programs() -> None:
    """Lets XLA keep what it compiles on disk, and jaxlv its programs, so that a second run starts faster;
    JAX_COMPILATION_CACHE_DIR moves them.
    """
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(_cache()))
    keep_programs()


def keep_programs() -> None:
    """Lets jaxlv keep its own programs on disk, and leaves JAX's settings as they are. If JAX's cache has been disabled
    (JAX_ENABLE_COMPILATION_CACHE=false), nothing is kept.
    """
    folder = Path(jax.config.values["jax_compilation_cache_dir"] or _cache()) / "programs"
    kept.keep_in(folder if jax.config.values["jax_enable_compilation_cache"] else None)


class Programs(NamedTuple):
    """The folder of kept programs (None: nothing is kept), and the number and bytes of jaxlv's own and of XLA's in it."""

    folder: str | None
    own: int = 0
    own_bytes: int = 0
    xla: int = 0
    xla_bytes: int = 0


def kept_programs() -> Programs:
    """Returns what is kept on disk for processes to come."""
    own = kept.kept()
    if own.folder is None:
        return Programs(None)
    sizes = [path.stat().st_size for path in own.folder.parent.glob("*-cache") if path.is_file()]
    return Programs(str(own.folder.parent), own.programs, own.bytes, len(sizes), sum(sizes))


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxlv"


def check_kernel(kernel: str) -> None:
    """Raises JaxlvError if the device does not have an attention kernel. No other one is taken in its place."""
    device = jax.local_devices()[0]
    if kernel == "cudnn" and device.platform != "gpu":
        raise JaxlvError(
            "cuDNN attention cannot run here",
            where="model.attention",
            expected="a CUDA GPU, Ampere or newer",
            found=device.platform,
            hint='set model.attention = "xla"',
        )
