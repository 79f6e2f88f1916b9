"""How a device computes."""

from __future__ import annotations

import os

import jax

from jaxlv.errors import JaxlvError

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def compute_deterministically() -> None:
    """Let XLA take deterministic kernels alone on a GPU; it must be asked before the first computation of the process."""
    flags = os.environ.get("XLA_FLAGS", "")
    if DETERMINISTIC not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {DETERMINISTIC}".strip()


def check_kernel(kernel: str) -> None:
    """JaxlvError for an attention kernel that the device does not have: another one is never taken in its place."""
    device = jax.devices()[0]
    if kernel == "cudnn" and device.platform != "gpu":
        raise JaxlvError(
            "cuDNN attention cannot run here",
            where="model.attention",
            expected="a CUDA GPU, Ampere or newer",
            found=device.platform,
            hint='set model.attention = "xla"',
        )
