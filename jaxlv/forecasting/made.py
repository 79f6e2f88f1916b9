"""What a forecaster has made and may use again: its weights with the adapters merged, and the prompts that it has read."""

from __future__ import annotations

import threading
from typing import Any

from jaxlv.lora import overlay
from jaxlv.steps.prompts import Prefixes


class Made:
    """What forecasters of the same variables share."""

    def __init__(self) -> None:
        self.prefixes = Prefixes()
        self._merged: tuple[Any, Any] = None, None  # variables, and the same with the adapters in the weights
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Made], tuple[()]]:
        """A copy begins with nothing: arrays are not copied along, and a lock cannot be."""
        return Made, ()

    def merged(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Returns variables with the adapters in the weights if that loses nothing; they are merged once."""
        if "lora" not in variables:
            return variables
        with self._lock:
            if self._merged[0] is not variables:
                self._merged = variables, overlay.merged(variables) or variables
            return self._merged[1]
