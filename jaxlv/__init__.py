"""jaxlv: Qwen2.5 in pure JAX, tuned by LoRA to forecast dynamical systems written as text."""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxlv.api import forecast, open_model
    from jaxlv.data.loading import load_series
    from jaxlv.errors import JaxlvError
    from jaxlv.forecasting.request import Request
    from jaxlv.front import Forecaster
    from jaxlv.lora.adapters import load_adapter
    from jaxlv.lora.overlay import init_lora
    from jaxlv.model.weights import load_pretrained
    from jaxlv.notebooks import explore, simulate

    __version__: str

__all__ = [
    "Forecaster", "JaxlvError", "Request", "__version__", "explore", "forecast", "init_lora", "load_adapter",
    "load_pretrained", "load_series", "open_model", "simulate",
]  # fmt: skip
HOMES = {
    "Forecaster": "front",
    "load_series": "data.loading",
    "JaxlvError": "errors",
    "Request": "forecasting.request",
    "explore": "notebooks",
    "forecast": "api",
    "init_lora": "lora.overlay",
    "load_adapter": "lora.adapters",
    "load_pretrained": "model.weights",
    "open_model": "api",
    "simulate": "notebooks",
}


def __getattr__(name: str) -> Any:
    """Imports the names above when they are used, so that a process which only reads series does not load JAX."""
    if name == "__version__":
        return metadata.version("jaxlv")
    if name not in HOMES:
        raise AttributeError(f"module jaxlv has no attribute {name}")
    return getattr(importlib.import_module(f"jaxlv.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Returns the public names, and those of the modules that are loaded."""
    return sorted([*__all__, *(name for name in globals() if f"jaxlv.{name}" in sys.modules)])
