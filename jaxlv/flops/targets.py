"""What a program is compiled for: this machine's CPU, its CUDA device, or an absent CUDA device.

Without a device XLA's CUDA compiler needs a description of one. It then compiles the same program as on the machine, except
for what needs a run: kernels are not timed against each other (autotuning). The compiler is an optional extra,
`jaxlv[cuda-compiler]`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.sharding import SingleDeviceSharding

from jaxlv.errors import JaxlvError

DRIVER = "12.9.0"  # versions of CUDA that an absent device is said to have: without them XLA captures fewer kernels


class Device(NamedTuple):
    """A CUDA device by its data sheet: dense FLOP/s in bfloat16 and TF32, bytes/s of its memory, and its sizes.

    Sources: NVIDIA H100 (SXM5) and H200 (SXM) Tensor Core GPU data sheets, whose figures with sparsity are twice the dense
    ones; NVIDIA A100 80GB (SXM) data sheet; sizes of an SM: CUDA C++ Programming Guide, compute capabilities 8.0 and 9.0.
    """

    words: str
    bfloat16: float
    tf32: float
    bandwidth: float
    memory: int
    capability: int
    cores: int
    clock_ghz: float
    l2: int
    shared: int  # bytes of shared memory of an SM; a block may have 1 KiB less
    fpus: int

    def description(self) -> str:
        """Returns the device in the fields of XLA's GpuTargetConfigProto."""
        return DESCRIPTION.format(**self._asdict(), driver=DRIVER, optin=self.shared - 1024, bytes_s=int(self.bandwidth))


DEVICES = {
    "h100": Device(
        "NVIDIA H100 80GB HBM3", 989.4e12, 494.7e12, 3.35232e12, 84942979072, 9, 132, 1.98, 50 << 20, 228 << 10, 128
    ),
    "h200": Device("NVIDIA H200", 989.4e12, 494.7e12, 4.8e12, 150754820096, 9, 132, 1.98, 50 << 20, 228 << 10, 128),
    "a100": Device("NVIDIA A100-SXM4-80GB", 312e12, 156e12, 2.039e12, 85094825984, 8, 108, 1.41, 40 << 20, 164 << 10, 64),
}
DESCRIPTION = """
gpu_device_info {{
  cuda_compute_capability {{ major: {capability} }}
  core_count: {cores}
  fpus_per_core: {fpus}
  clock_rate_ghz: {clock_ghz}
  device_memory_size: {memory}
  memory_bandwidth: {bytes_s}
  l2_cache_size: {l2}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: {shared}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {optin}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  driver_version: "{driver}"
  runtime_version: "{driver}"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{words}"
"""
# XLA merges products of one input into one, under one of their names; an audit by component keeps them apart.
APART: dict[str, bool | int | str] = {"xla_gpu_dot_merger_threshold_mb": 0}
# A step that is traced here, on a CPU, may leave out a pass of the compiler that CUDA needs (jaxlv/steps/train.py).
ABSENT: dict[str, bool | int | str] = {"xla_gpu_autotune_level": 0, "xla_disable_hlo_passes": ""}


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
        return absent(DEVICES["h100"], APART, "--backend cuda", ", or use --backend cpu")


def devices_of(target: Target, count: int) -> Sequence[jax.Device]:
    """Returns so many devices like a target's; raises JaxlvError if there are fewer here."""
    if target.present:
        found = jax.devices(target.platform)
        if len(found) < count:
            raise JaxlvError("fewer devices than the mesh has places", where="mesh", expected=str(count), found=len(found))
        return found[:count]
    from jax.experimental import topologies

    description = DEVICES["h100"].description()
    return topologies.get_topology_desc(platform="cuda", topology=f"1x1x{count}", target_config=description).devices


def absent(device: Device, options: dict[str, bool | int | str], where: str, instead: str = "") -> Target:
    """Returns a CUDA device that is not there, with compiler options; raises JaxlvError, which names `where` it is asked for
    and what to do `instead`, without the compiler.

    Kernels are not timed against each other. JAX's compilation cache is off from now on.
    """
    from jax.experimental import topologies

    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # that check would ask the driver for the device's version
    try:
        found = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=device.description()).devices[
            0
        ]
    except Exception as fault:  # NotImplementedError without the plugin, XlaRuntimeError if it cannot be loaded
        reason = " ".join(str(fault).split())[:160]
        raise JaxlvError(
            f"no CUDA device here, and no compiler for one ({reason})",
            where=where,
            hint=f'pip install "jaxlv[cuda-compiler]" and set JAX_PLATFORMS=cpu{instead}',
        ) from None
    jax.config.update("jax_enable_compilation_cache", False)  # what was compiled for an absent device cannot be read back
    name = getattr(found, "device_kind", "a CUDA device")
    words = f"{name}, which is not there"
    return Target(SingleDeviceSharding(found), {**options, **ABSENT}, words, "cuda", False)
