"""A tuned model for other tools: an adapter as PEFT reads it, or a whole checkpoint as transformers reads it.

An export gets its name only after it has been read back and its logits compared with those of the exported model.
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

# The largest difference of a logit from the model's own, as a share of the largest logit.
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}  # in bfloat16 a merged weight is rounded once more, to 8 bits
PROBED = 2, 48  # sequences, and tokens in each


@dataclass(frozen=True)
class Exported:
    """The result of an export: the largest difference of a logit, as a share of the largest logit, and what to know."""

    folder: Path
    difference: float
    notes: tuple[str, ...] = ()


def export_peft(
    folder: Path, model: Qwen2, params: Tree, lora: Tree, config: LoraConfig, origin: adapters.Origin
) -> Exported:
    """Writes an overlay of the config's rank and scaling as an adapter of the base that its origin names.

    A bias of the head goes to head.safetensors beside it, which PEFT does not read. Raises JaxlvError if `folder` exists, or
    if what was read back is another model.
    """
    with new_folder(folder) as work:
        adapters.write_peft(work, lora, config, origin)
        again = adapters.load_adapter(work, model)
        difference = _compared(model, {"params": params, "lora": lora}, model, {"params": params, "lora": again}, folder)
    bias = "bias" in lora.get("lm_head", {})
    notes = (f"the bias of the LM head trained: it is in {adapters.HEAD}, which PEFT does not read",) if bias else ()
    return Exported(folder, difference, notes)


def export_merged(
    folder: Path, model: Qwen2, params: Tree, lora: Tree, base: Path | None = None, side_head: bool = False
) -> Exported:
    """Writes a checkpoint with the adapters merged into its weights; `base` is the folder whose tokenizer goes with it.

    Tied embeddings stay tied, unless the weight of the head trained. The head's bias has no place in a checkpoint: with
    `side_head` it goes to head.safetensors beside it, without it a trained bias raises JaxlvError. So do an existing
    `folder`, a file in `base` that must not be copied (`foreign.companions`), and a model that differs when read back.
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
        again, read = load_pretrained(work, str(jnp.dtype(whole.dtype)), whole.attention)
        if side:
            tensors.write(work / adapters.HEAD, {"lm_head.bias": side["bias"]})
        beside = {"lora": {"lm_head": side}} if side else {}
        tuned = {"params": params, "lora": {**lora, **({"lm_head": head} if head else {})}}
        difference = _compared(model, tuned, again, {"params": read, **beside}, folder)
    return Exported(folder, difference, tuple(notes))


def export_bits(folder: Path, model: Qwen2, params: Tree, base: Path) -> Exported:
    """Writes a base whose projections are held in 8 or 4 bits, codes and scales, with the tokenizer of the folder `base`.

    Raises JaxlvError if `folder` exists, or if the logits of what was read back are not the same to the last bit.
    """
    with new_folder(folder) as work:
        write_pretrained(work, model, params, base)
        again, read = load_pretrained(work, str(jnp.dtype(model.dtype)), model.attention, weights=model.weights)
        difference = _compared(model, {"params": params}, again, {"params": read}, folder, most=0.0)
    return Exported(folder, difference)


def _compared(
    model: Qwen2,
    variables: Mapping[str, Any],
    other: Qwen2,
    read: Mapping[str, Any],
    where: Path,
    most: float | None = None,
) -> float:
    """Returns the largest difference of both models' logits on random tokens, as a share of the largest; raises JaxlvError
    if it is more than `most`, or if that is None, more than rounding can explain.
    """
    difference = apart((model, variables), (other, read), where)
    most = TOLERANCE[str(jnp.dtype(model.dtype))] if most is None else most
    if not difference <= most:
        raise JaxlvError(
            "what was read back is not the model that was exported: nothing is written",
            where=where,
            expected=f"logits that differ by at most {most:g} of the largest",
            found=f"{difference:.3g}",
            hint="report it with the config of the run",
        )
    return difference


def apart(one: tuple[Qwen2, Mapping[str, Any]], other: tuple[Qwen2, Mapping[str, Any]], where: Any) -> float:
    """Returns the largest difference of two models' logits on random tokens, as a share of the first one's largest.

    A model is given with its variables. Raises JaxlvError if its logits are not finite.
    """
    ids_BT = np.random.default_rng(0).integers(0, one[0].config.vocab_size, PROBED)
    ours_BTV, theirs_BTV = (_logits(model)(variables, ids_BT) for model, variables in (one, other))
    largest = all_finite(float(jnp.max(jnp.abs(ours_BTV))), "the model's logits", where)
    return float(jnp.max(jnp.abs(ours_BTV - theirs_BTV))) / largest


def _logits(model: Qwen2) -> Callable[[Mapping[str, Any], Any], jax.Array]:
    return jax.jit(lambda variables, ids_BT: model.apply(variables, ids_BT))
