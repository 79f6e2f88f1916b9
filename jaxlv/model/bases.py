"""The bases that come with jaxlv: one that has read clean cycles of two species, and one for the field. The second is kept
as adapters of the first: a folder with config.json, tokenizer and, in place of weights, low-rank matrices in PEFT's format.
Its projections are W + scale B A. "embedded" names both, and the weights of the first.

Axes: R rank, F outputs and D inputs of a projection.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxlv.errors import JaxlvError
from jaxlv.results.base import BaseTraining
from jaxlv.storage import foreign, tensors

EMBEDDED_BASE, FIELD_BASE = (Path(__file__).parents[1] / name for name in ("base", "base_field"))
BASE, CYCLES, FIELD = "embedded", "embedded-cycles", "embedded-field"
EMBEDDED = {BASE: EMBEDDED_BASE, CYCLES: EMBEDDED_BASE, FIELD: FIELD_BASE}
RECORD = "training.json"  # in a base's folder: how it came about
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")  # of a model that has its own
PREFIX = "base_model.model."
MOST_RANK, MOST_ALPHA = 256, 1e9
# The settings of plain LoRA that are read, or change nothing here; any other must be off.
READ = (
    "peft_type", "task_type", "base_model_name_or_path", "revision", "r", "lora_alpha", "lora_dropout", "target_modules",
    "bias", "inference_mode",
)  # fmt: skip
OFF: tuple[object, ...] = (None, False, "", [], {})


def training_of(folder: str | Path | None) -> BaseTraining | None:
    """Returns how a base came about, by its folder; None of a model that is not such a base."""
    tree = foreign.settings(folder, RECORD) if folder else None
    return BaseTraining.read(tree, RECORD) if tree and "familiar" in tree else None


def limits_of(folder: str | Path | None) -> Mapping[str, float]:
    """Returns the nats per written value below which most of a base's validation windows lie, by number of variables; {}
    for a model that is not such a base.
    """
    training = training_of(folder)
    return training.familiar if training else {}


def may_read_gaps(folder: str | Path | None) -> bool:
    """Tells whether a model can be given texts with gaps: a base that has read none cannot."""
    training = training_of(folder)
    return training is None or training.has_read_gaps


class Added(NamedTuple):
    """What is added to the weight (F, D) of a projection: A (R, D), B (F, R) and scale, in the file of the adapters."""

    path: Path
    module: str
    rank: int
    scale: float

    def to(self, weight_FD: ArrayLike) -> np.ndarray:
        """Returns the projection's weight in float32."""
        own_FD = np.asarray(weight_FD, np.float64)
        fan_out, fan_in = own_FD.shape
        sides = (("A", (self.rank, fan_in)), ("B", (fan_out, self.rank)))
        with tensors.reading(self.path) as file:
            low = {}
            for side, shape in sides:
                name = f"{PREFIX}{self.module}.lora_{side}.weight"
                file.check(name, shape)
                low[side] = file.part(name).astype(np.float64)  # so that the sum is rounded once, the same on any machine
        with np.errstate(over="ignore"):
            made_FD = (own_FD + self.scale * (low["B"] @ low["A"])).astype(np.float32)
        if not np.isfinite(made_FD).all():
            raise JaxlvError(f"the weight of {self.module} is not finite with what is added to it", where=self.path)
        return made_FD


def adapters_in(folder: Path) -> Path | None:
    """Returns the adapters of the embedded base that a model folder holds in place of weights; None if it holds others."""
    if any(foreign.find(folder, name) for name in WEIGHTS):
        return None
    settings = foreign.settings(folder, CONFIG) or {}
    return foreign.find(folder, TENSORS) if settings.get("base_model_name_or_path") == BASE else None


def base_of_adapter(adapter: Path) -> str:
    """Returns the name of that one of jaxlv's bases for which an adapter says that it was made; BASE if it names none."""
    name = (foreign.settings(adapter, CONFIG) or {}).get("base_model_name_or_path")
    return name if isinstance(name, str) and name in EMBEDDED else BASE


def added_by(path: Path, modules: Collection[str]) -> dict[str, Added]:
    """Returns {weight: what the adapters in a file add to it}, given the modules that are projections of the base.

    Raises JaxlvError if the file holds anything else, or if a projection is left out.
    """
    names = {f"{PREFIX}{module}.lora_{side}.weight" for module in modules for side in "AB"}
    tensors.same_names(tensors.names(path), names, path)
    return {f"{module}.weight": added_to(module, path) for module in modules}


def added_to(module: str, path: Path) -> Added:
    """Returns what the adapters in a file add to the weight of a projection."""
    where = path.with_name(CONFIG)
    settings = foreign.settings(path.parent, CONFIG) or {}
    rank, alpha = (foreign.typed(settings, name, kind, where) for name, kind in (("r", int), ("lora_alpha", float)))
    if not (rank and alpha and 0 < rank <= MOST_RANK and 0 < alpha <= MOST_ALPHA):
        expected = f"r of 1 to {MOST_RANK}, and lora_alpha above 0"
        raise JaxlvError("no rank or alpha", where=where, expected=expected, found=f"{rank}, {alpha}")
    if unread := sorted(name for name, value in settings.items() if name not in READ and value not in OFF):
        found = ", ".join(unread[:4])
        raise JaxlvError("adapters in place of weights are plain LoRA alone", where=where, found=found)
    return Added(path, module, rank, alpha / rank)
