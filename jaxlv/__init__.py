"""jaxlv: Qwen2.5 in pure JAX, tuned by LoRA to forecast dynamical systems written as text."""

from jaxlv.api import forecast, open_model
from jaxlv.errors import JaxlvError
from jaxlv.lora.adapters import load_adapter
from jaxlv.lora.overlay import init_lora
from jaxlv.model.weights import load_pretrained

__all__ = ["JaxlvError", "forecast", "init_lora", "load_adapter", "load_pretrained", "open_model"]
