"""The project's own programs on abstract arguments: shapes and types, no weights.

A Subject is a program with what the formulas say of it, by component and phase: what an audit compares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlv.config import LoraConfig, OptimizerConfig
from jaxlv.flops.work import Update, Work
from jaxlv.lora import overlay
from jaxlv.model.attention import fuses
from jaxlv.model.qwen2 import Qwen2, Segment, features, project
from jaxlv.steps.decode import read
from jaxlv.steps.train import How, init_state, make_optimizer, make_train_step, stacked
from jaxlv.text.codec import SYMBOLS
from jaxlv.text.tokens import Windows

HEADS = {"adapters": "frozen", "bias": "bias", "head": "full", "full": "frozen"}  # what of the head the overlay holds


class Program(NamedTuple):
    """A function and its abstract arguments, as `jax.jit(function).lower(*arguments)` takes them."""

    name: str
    function: Callable
    arguments: tuple[Any, ...]


def shape(*sizes: int, dtype: Any = np.int32) -> jax.ShapeDtypeStruct:
    """Returns an abstract array."""
    return jax.ShapeDtypeStruct(sizes, dtype)


def variables_of(work: Work, model: Qwen2) -> dict[str, Any]:
    """Returns the abstract {"params": ..., "lora": ...} of a model with its adapters; without adapters there is no
    "lora".
    """
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))["params"]
    if not work.targets and work.train not in ("bias", "head"):
        return {"params": params}
    config = LoraConfig(
        rank=max(1, work.executed().rank),
        targets=work.targets,
        head=HEADS[work.train],  # type: ignore[arg-type]
        dropout=0.5 * work.dropout,
    )
    lora = jax.eval_shape(lambda params: overlay.init_lora(jax.random.key(0), params, config), params)
    return {"params": params, "lora": lora} if lora else {"params": params}


def output_ids(work: Work) -> np.ndarray | None:
    """Returns stand-ins for the token ids of the alphabet, if the head runs over it alone; None otherwise."""
    return np.arange(len(SYMBOLS), dtype=np.int32) if work.head == "alphabet" else None


def forward_program(work: Work, model: Qwen2) -> Program:
    """Builds the program that computes the logits of every position."""
    ids_A = output_ids(work)

    def forward(variables, ids_BS):
        found = features(model, variables, ids_BS)
        return project(found.x_BTD, found.head if ids_A is None else found.head.rows(jnp.asarray(ids_A)))

    return Program("forward", forward, (variables_of(work, model), shape(work.batch, work.length)))


def optimizer_of(update: Update) -> OptimizerConfig:
    """Returns settings that make an optimiser with the same operations."""
    return OptimizerConfig(
        update.name,
        schedule=update.schedule,
        warmup_steps=int(update.warmup),
        weight_decay=0.1 * update.decay,
        clip_norm=1.0 * update.clip,
    )


def how_of_work(work: Work) -> How:
    """Returns how a step of this work computes."""
    return How("right" if work.causal else "any", narrow=work.narrow, remat=work.remat)


def train_program(work: Work, model: Qwen2, optimizer: OptimizerConfig | None = None) -> Program:
    """Builds the step that `jaxlv train` runs."""
    settings = optimizer or optimizer_of(work.update)
    variables = variables_of(work, model)
    made = make_optimizer(settings, 1)
    mask = overlay.trainable(variables, base=work.train == "full")

    def begun(variables: Any) -> Any:
        state, frozen = init_state(variables, mask, made, 0)
        return stacked(state, settings), frozen

    state, frozen = jax.eval_shape(begun, variables)
    step = make_train_step(model, made, settings, 1, output_ids(work), work.update.skip, how_of_work(work))
    batch = Windows(*(shape(work.accumulate, work.batch, work.length) for _ in Windows._fields[:3]))
    return Program("train_step", step, (state, frozen, batch))


def decode_program(work: Work, model: Qwen2, new_tokens: int) -> Program:
    """Builds the program of one token in each row, as the loop of steps/generate.py runs it in its last stage: after prompts
    of `work.length` tokens and a tail of `new_tokens` slots.
    """
    c, ids_A = model.config, output_ids(work)

    def segment(slots: int) -> Segment:
        def parts(*sizes: int) -> Any:
            return (shape(work.batch, *sizes, dtype=model.dtype),) * c.num_hidden_layers

        positions: Any = shape(work.batch, slots)
        K, H = c.num_key_value_heads, c.head_dim
        if fuses(model.attention, model.dtype):
            return Segment(parts(slots, K, H), parts(slots, K, H), positions)
        return Segment(parts(K, H, slots), parts(K, slots, H), positions)

    def decode(variables, ids_B1, positions_B1, past):
        return read(model, variables, ids_B1, positions_B1, past, None if ids_A is None else jnp.asarray(ids_A))

    past = (segment(work.length), segment(new_tokens))
    return Program("decode_step", decode, (variables_of(work, model), shape(work.batch, 1), shape(work.batch, 1), past))
