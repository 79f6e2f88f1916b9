"""jaxlv: Qwen2.5 in pure JAX, tuned by LoRA to forecast dynamical systems written as text."""

from jaxlv.errors import JaxlvError
from jaxlv.lora import init_lora
from jaxlv.weights import load_pretrained

__all__ = ["JaxlvError", "init_lora", "load_pretrained"]
