"""The memory that there is, and the refusal of work that needs more.

What work needs is a lower bound by formula: arrays that it cannot do without. So nothing that would run is refused, and what
is refused, before anything is allocated, would have exhausted the machine.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from jaxlv.errors import JaxlvError

if TYPE_CHECKING:  # processes that read files of others do without JAX
    import jax

GIB = 2**30
GROUPS = Path("/sys/fs/cgroup")  # where Linux says what a container may take, in either of two forms
LIMITS = {"memory.max": "memory.current", "memory/memory.limit_in_bytes": "memory/memory.usage_in_bytes"}


class TooLarge(JaxlvError):
    """Work needs more memory than there is. It ends every program."""


def host_memory(swap: bool = False) -> int:
    """Bytes that this machine can still give, or that a container is allowed; with `swap` what is free of that, too."""
    free = [psutil.virtual_memory().available]
    for limit, used in LIMITS.items():
        try:
            most, taken = (int((GROUPS / name).read_text()) for name in (limit, used))
            lines = (line.split() for line in (GROUPS / limit).with_name("memory.stat").read_text().splitlines())
            files = {name: int(count) for name, count in lines if name.endswith("inactive_file")}
            free.append(most - taken + max(files.values(), default=0))  # what was read of files is dropped when needed
        except (OSError, ValueError):  # there is no such file, or it says "max"
            continue
    return max(0, min(free)) + (psutil.swap_memory().free if swap else 0)


def device_memory(device: jax.Device) -> tuple[int, str]:
    """(bytes that a program may use on the device, where the number comes from)."""
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    return (limit, "the device's limit") if limit else (host_memory(), "available now on this machine")


def check(what: str, *, host: Mapping[str, int] | None = None, device: Mapping[str, int] | None = None) -> None:
    """Raises TooLarge if work needs more memory than there is; a CPU has that of the host.

    `host` and `device` hold the bytes of its parts by what makes them less, such as {"lower lora.rank": 10**12}.
    """
    import jax

    first = jax.devices()[0] if device else None
    own = first is not None and first.platform != "cpu" and (first.memory_stats() or {}).get("bytes_limit")
    if own:
        _compare(what, dict(device or {}), own, "on the device")
        device = None
    parts = dict(host or {})
    for hint, size in (device or {}).items():
        parts[hint] = parts.get(hint, 0) + size
    _compare(what, parts, host_memory(swap=True), "on this machine")


def _compare(what: str, parts: Mapping[str, int], free: int, place: str) -> None:
    needed = sum(parts.values())
    if needed > free:
        figures = f"needs at least {gib(needed)} of memory, and there are {gib(free)} {place}"
        raise TooLarge(figures, where=what, hint=max(parts, key=lambda hint: parts[hint]))


def gib(count: int) -> str:
    """Bytes in words."""
    return f"{count / GIB:,.2f} GiB" if count < 1e6 * GIB else f"{count / GIB:.2e} GiB"


def peak_memory() -> int:
    """Returns the most memory that this process has held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
