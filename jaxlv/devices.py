"""What a device holds."""

from __future__ import annotations

import jax
import psutil


def device_memory(device: jax.Device) -> tuple[int, str]:
    """(bytes that a program may use on the device, where the number comes from)."""
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    if limit:
        return limit, "the device's limit"
    return psutil.virtual_memory().available, "available now on this machine"
