"""What a program is compiled for: this machine's CPU, its CUDA device, or an absent CUDA device.

Without a device XLA's CUDA compiler needs a description of one. It then compiles the same program as on the machine, except
for what needs a run: kernels are not timed against each other (autotuning). The compiler is an optional extra,
`jaxlv[cuda-compiler]`.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import jax
from jax.sharding import SingleDeviceSharding

from jaxlv.errors import JaxlvError

# An H100 SXM as in its data sheet, in the fields of XLA's GpuTargetConfigProto.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# XLA merges products of one input into one, under one of their names; an audit by component keeps them apart.
APART: dict[str, bool | int | str] = {"xla_gpu_dot_merger_threshold_mb": 0}


class Target(NamedTuple):
    """A place for a program's arguments, the compiler's options, and a description in words."""

    sharding: SingleDeviceSharding
    options: dict[str, bool | int | str]
    words: str
    platform: str = "cpu"
    present: bool = True


def cpu() -> Target:
    """Returns this machine's CPU."""
    return Target(SingleDeviceSharding(jax.devices("cpu")[0]), {}, "this machine's CPU")


def cuda() -> Target:
    """Returns the first CUDA device, or an absent H100; raises JaxlvError if there is neither a device nor the compiler."""
    try:
        device = jax.devices("cuda")[0]
        return Target(SingleDeviceSharding(device), APART, device.device_kind, "cuda")
    except RuntimeError:
        pass
    from jax.experimental import topologies

    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # that check would ask the driver for the device's version
    try:
        absent = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=H100).devices[0]
    except Exception as fault:  # NotImplementedError without the plugin, XlaRuntimeError if it cannot be loaded
        reason = " ".join(str(fault).split())[:160]
        raise JaxlvError(
            f"no CUDA device here, and no compiler for one ({reason})",
            where="--backend cuda",
            hint='pip install "jaxlv[cuda-compiler]" and set JAX_PLATFORMS=cpu, or use --backend cpu',
        ) from None
    jax.config.update("jax_enable_compilation_cache", False)  # what was compiled for an absent device cannot be read back
    options = {**APART, "xla_gpu_autotune_level": 0}
    name = getattr(absent, "device_kind", "a CUDA device")
    return Target(SingleDeviceSharding(absent), options, f"{name}, which is not there", "cuda", False)
