"""A tuned model for other tools: an adapter as PEFT reads it, or a whole checkpoint as transformers reads it.

Nothing gets its name before it has been read back and its logits compared with those of the model that was exported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxlv.config import LoraConfig
from jaxlv.errors import JaxlvError, all_finite
from jaxlv.lora import adapters
from jaxlv.lora.overlay import Tree, merge
from jaxlv.model.qwen2 import Qwen2
from jaxlv.model.weights import load_pretrained, write_pretrained
from jaxlv.storage import foreign, tensors
from jaxlv.storage.files import new_folder

# Largest difference of a logit from the model's own, as a share of the largest logit.
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}  # a merged weight is rounded once more in bfloat16, to 8 bits
PROBED = 2, 48  # sequences and tokens of each


@dataclass(frozen=True)
class Exported:
    """What an export has come to: the largest difference of a logit, as a share of the largest logit, and what to know."""

    folder: Path
    difference: float
    notes: tuple[str, ...] = ()


def export_peft(
    folder: Path, model: Qwen2, params: Tree, lora: Tree, config: LoraConfig, origin: adapters.Origin
) -> Exported:
    """Write an overlay of the config's rank and scaling as an adapter of the base that its origin names.

    A trained head goes to head.safetensors beside it, which PEFT does not read. JaxlvError where `folder` is there, and
    where what was read back is another model.
    """
    with new_folder(folder) as work:
        adapters.write_peft(work, lora, config, origin)
        again = adapters.load_adapter(work, model)
        difference = _compared(model, {"params": params, "lora": lora}, model, {"params": params, "lora": again}, folder)
    notes = (f"the LM head trained: it lies in {adapters.HEAD}, which PEFT does not read",) if "lm_head" in lora else ()
    return Exported(folder, difference, notes)


def export_merged(
    folder: Path, model: Qwen2, params: Tree, lora: Tree, base: Path | None = None, side_head: bool = False
) -> Exported:
    """Write a checkpoint with the adapters in its weights; `base` is the folder whose tokenizer goes with it.

    Tied embeddings stay tied. A head whose weight trained makes them two. Its bias has no place in a checkpoint: with
    `side_head` it goes to head.safetensors beside it. Raises JaxlvError without, and if `folder` is there, if `base` holds a
    file that must not go with it (`foreign.companions`), or if what was read back is another model.
    """
    if base:
        foreign.companions(base)
    lora, notes = dict(lora), []
    head = lora.pop("lm_head", {})
    if "bias" in head and not side_head:
        raise JaxlvError(
            "the bias of the LM head trained, which a Qwen2.5 checkpoint cannot hold",
            where="export",
            hint=f"--side-head writes it to {adapters.HEAD} beside the checkpoint, which other tools do not read; "
            'or train with lora.head = "frozen"',
        )
    whole, merged = model, merge(params, lora)
    if "weight" in head:
        whole = replace(model, config=replace(model.config, tie_word_embeddings=False))
        flat = traverse_util.flatten_dict(merged) | {("lm_head", "weight"): head["weight"].astype(model.dtype)}
        merged = traverse_util.unflatten_dict(flat)
        if model.config.tie_word_embeddings:
            notes.append("the weight of the LM head trained: the checkpoint is untied")
    side = {"bias": head["bias"]} if "bias" in head else {}
    if side:
        notes.append(f"the bias of the LM head is in {adapters.HEAD} alone: the logits of other tools lack it")
    with new_folder(folder) as work:
        write_pretrained(work, whole, merged, base)
        if side:
            tensors.write(work / adapters.HEAD, {"lm_head.bias": side["bias"]})
        again, read = load_pretrained(work, str(jnp.dtype(whole.dtype)), whole.attention)
        beside = {"lora": {"lm_head": side}} if side else {}
        tuned = {"params": params, "lora": {**lora, **({"lm_head": head} if head else {})}}
        difference = _compared(model, tuned, again, {"params": read, **beside}, folder)
    return Exported(folder, difference, tuple(notes))


def _compared(model: Qwen2, variables: Mapping[str, Any], other: Qwen2, read: Mapping[str, Any], where: Path) -> float:
    """The largest difference of both models' logits on random tokens, as a share of the largest; JaxlvError above what
    rounding explains.
    """
    ids_BT = np.random.default_rng(0).integers(0, model.config.vocab_size, PROBED)
    ours_BTV, theirs_BTV = (_logits(one)(tree, ids_BT) for one, tree in ((model, variables), (other, read)))
    largest = all_finite(float(jnp.max(jnp.abs(ours_BTV))), "the model's logits", where)
    difference = float(jnp.max(jnp.abs(ours_BTV - theirs_BTV))) / largest
    most = TOLERANCE[str(jnp.dtype(model.dtype))]
    if not difference <= most:
        raise JaxlvError(
            "what was read back is not the model that was exported: nothing is written",
            where=where,
            expected=f"logits that differ by at most {most:g} of the largest",
            found=f"{difference:.3g}",
            hint="report it with the config of the run",
        )
    return difference


def _logits(model: Qwen2) -> Callable[[Mapping[str, Any], Any], jax.Array]:
    return jax.jit(lambda variables, ids_BT: model.apply(variables, ids_BT))
