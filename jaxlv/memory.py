"""Finds how much memory is free, and refuses work that needs more.

What work needs is a lower bound by formula: the arrays that it cannot do without. So work that fits is never refused, and
refused work, which would have exhausted the machine, has not allocated anything yet.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from jaxlv.errors import JaxlvError

if TYPE_CHECKING:  # processes that only read untrusted files run without JAX
    import jax

GIB = 2**30
GROUPS = Path("/sys/fs/cgroup")  # where Linux gives a container's limits (cgroups of version 2 or 1)
LIMITS = {"memory.max": "memory.current", "memory/memory.limit_in_bytes": "memory/memory.usage_in_bytes"}


class TooLarge(JaxlvError):
    """Work needs more memory than is free. It ends every program."""


def host_memory(swap: bool = False) -> int:
    """Returns the bytes of memory still free on this machine or under its container's limit; `swap` adds free swap space."""
    free = [psutil.virtual_memory().available]
    for limit, used in LIMITS.items():
        try:
            most, taken = (int((GROUPS / name).read_text()) for name in (limit, used))
            lines = (line.split() for line in (GROUPS / limit).with_name("memory.stat").read_text().splitlines())
            files = {name: int(count) for name, count in lines if name.endswith("inactive_file")}
            free.append(most - taken + max(files.values(), default=0))  # the system drops cached files if needed
        except (OSError, ValueError):  # no such file, or it says "max"
            continue
    return max(0, min(free)) + (psutil.swap_memory().free if swap else 0)


def device_memory(device: jax.Device) -> tuple[int, str]:
    """Returns (bytes that a program may use on the device, where the number comes from)."""
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    return (limit, "the device's limit") if limit else (host_memory(), "available now on this machine")


def free() -> int:
    """Returns the bytes that are still free on the first device."""
    import jax

    first = jax.local_devices()[0]
    stats = (first.memory_stats() or {}) if first.platform != "cpu" else {}
    limit = stats.get("bytes_limit")
    return limit - stats.get("bytes_in_use", 0) if limit else host_memory()


def check(what: str, *, host: Mapping[str, int] | None = None, device: Mapping[str, int] | None = None) -> None:
    """Raises TooLarge if work needs more memory than is free; on a CPU, the device's memory is the host's.

    `host` and `device` give bytes by the hint that reduces them, such as {"lower lora.rank": 10**12}.
    """
    import jax

    first = jax.local_devices()[0] if device else None
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
    """Returns a number of bytes in words."""
    return f"{count / GIB:,.2f} GiB" if count < 1e6 * GIB else f"{count / GIB:.2e} GiB"


def peak_memory() -> int:
    """Returns the most memory that this process has held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
