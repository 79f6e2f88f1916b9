"""Work on a mesh of devices (jaxlv.model.placement): which of it several devices repeat."""

from __future__ import annotations

from jaxlv.flops.work import Work
from jaxlv.model.placement import Cuts

ATTENTION = (
    "scores", "mask", "softmax", "weighted sum", "fused attention", "o_proj", "o_proj lora A", "q_proj", "q_proj lora B",
)  # fmt: skip
KEYS = ("k_proj", "v_proj", "k_proj lora B", "v_proj lora B", "rope")
MLP = ("gate_proj", "up_proj", "gate_proj lora B", "up_proj lora B", "activation", "down_proj", "down_proj lora A")


def parts_of(component: str, work: Work) -> int:
    """Returns into how many parts the axis "model" cuts the work of a component; 1: each of its devices does all of it."""
    m = work.over_model
    cuts = Cuts.of(work.model, m)
    if component in ATTENTION:
        return cuts.q
    if component in KEYS:
        return cuts.kv
    if component in MLP:
        return m if work.model.intermediate_size % m == 0 else 1
    if component in ("head", "loss"):
        return m if work.head != "alphabet" and work.model.vocab_size % m == 0 else 1
    return 1


def copies(component: str, work: Work) -> int:
    """Returns on how many devices each operation of a component runs."""
    if component == "optimiser":  # of leaves that are cut less, but those are few
        return work.over_data * work.over_model
    return work.over_model // parts_of(component, work)
