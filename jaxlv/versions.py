"""What a result was made with: versions of the packages, the commit of this checkout, and the kind of machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("jaxlv", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "safetensors", "tokenizers", "diffrax")
UNKNOWN = "unknown"


def versions() -> dict[str, str]:
    """Returns {"python", "commit", each of PACKAGES, "device", "cores"}; no names of machines or users."""
    found = {"python": platform.python_version(), "commit": commit(Path(__file__))}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    import jax

    device = jax.local_devices()[0]
    kind = "" if device.device_kind == device.platform else f": {device.device_kind}"
    return found | {"device": f"{device.platform}{kind}", "cores": str(os.cpu_count())}


def commit(source: Path) -> str:
    """Returns the commit of the checkout that tracks a source file, marked "-dirty" if files have changed since.

    Returns "unknown" for a file that no repository tracks: a repository that happens to surround an installed package says
    nothing about it.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(source.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", source.name)
        return git("describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
