"""How much memory a model takes on each device, by formula: parameters, what trains, activations, keys and values.

The formulas are those of XLA's plans for CUDA; tests and `python -m benchmarks.memory --plans` compare them. What a plan
holds at its peak, in bytes for each token, at 2 bytes a number:

    A = 4F + 10D + 4KH + 8N           of a layer, until its backward pass; + 6N C if XLA attends to C keys; + 2D if an
                                      adapter reads the MLP's input, + 2F if one reads the down projection's
    L A + max(6F, loss)               without remat; 6F are a layer's gradients, 4F if the down projection is adapted
    (L + 1) 2D + max(A + 6F, loss)    with remat
    A + 2F                            without remat, if the down projection is adapted and devices share a batch
    loss = 6 (logits held at once)    in float32, and their gradient in the model's type

In float32 every number takes twice as much, and the scores 8N C.

Axes: F intermediate size, D width, K key/value heads, N heads, H head size, L layers, C keys that XLA's scores have.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from jaxlv.config import RunConfig
from jaxlv.lora.overlay import normalise_targets
from jaxlv.model import placement
from jaxlv.model.attention import key_blocks
from jaxlv.model.qwen2 import Qwen2
from jaxlv.model.weights import abstract_params
from jaxlv.steps import needs
from jaxlv.steps.loss import chunks_of
from jaxlv.text.codec import SYMBOLS


@dataclass(frozen=True)
class Footprint:
    """Bytes on one device, for a train step and for forecasts."""

    parameters: int
    state: int  # adapters and the optimiser's moments
    batch: int
    activations: int  # everything that a step holds in addition
    cache: int  # keys and values of a forecast
    repeated: int = 0  # of the parameters, what every device that shares them has

    @property
    def training(self) -> int:
        """The bytes of a train step."""
        return self.parameters + self.state + self.batch + self.activations


def footprint(config: RunConfig, model: Qwen2, data: int = 1, split: int = 1, logits: int = 0) -> Footprint:
    """Returns what a config takes on each of data x split devices; its parameters, adapters and moments lie as the mesh
    places them (jaxlv.model.placement).

    Args:
        config: of a run; its remat and its batch count.
        model: its base, with the attention that computes it.
        data: devices that share the windows of a batch.
        split: devices that share the parameters. Activations, keys and values are taken as whole on each.
        logits: that the loss holds at once (jaxlv.steps.train.How).

    Returns:
        The bytes, by formula.
    """
    t, e = config.train, config.evaluate
    rows, length = -(-t.batch_size // data), config.windows.length
    c, size = model.config, jnp.dtype(model.dtype).itemsize
    token = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * size
    step, mesh = token_of_step(config), placement.abstract_mesh(data, split)
    base = placement.held(abstract_params(model), c, mesh, config.mesh.fsdp)
    tuned = placement.held(needs.trained_leaves(config.lora, model), c, mesh)
    return Footprint(
        base.all,
        tuned.all * needs.arrays(config.optimizer),
        3 * needs.NUMBER * t.accumulate * rows * length,
        activations(config, model, rows, logits, data > 1),
        token * step * (e.context + e.samples * e.horizon),
        base.repeated if split > 1 else 0,
    )


def token_of_step(config: RunConfig, variables: int = 2) -> int:
    """Returns the tokens of a time step of so many variables: digits, point and delimiter of each."""
    return variables * (config.codec.decimals + 3)


def activations(config: RunConfig, model: Qwen2, rows: int, logits: int = 0, several: bool = False) -> int:
    """Returns the bytes that a train step of `rows` windows holds in addition to parameters, state and batch; `several`
    devices share the windows of a batch.
    """
    c, length = model.config, config.windows.length
    F, D, L = c.intermediate_size, c.hidden_size, c.num_hidden_layers
    times = jnp.dtype(model.dtype).itemsize // 2
    targets = normalise_targets(config.lora.targets)
    down = "down_proj" in targets
    layer = times * (layer_bytes(model) + 2 * F * down + 2 * D * bool({"gate_proj", "up_proj"} & set(targets)))
    layer += scores_bytes(model, length)
    gradients = times * (4 if down else 6) * F
    outputs = len(SYMBOLS) if config.model.loss == "alphabet" else c.vocab_size
    held = rows * chunks_of(rows, length, outputs, logits).size * outputs
    loss = held * (needs.NUMBER + 2 * times) // (2 if config.narrow else 1)
    tokens = rows * length
    if config.model.remat:
        return tokens * (L + 1) * 2 * times * D + max(tokens * (layer + gradients), loss)
    layer += 2 * times * F * (down and several)
    return tokens * L * layer + max(tokens * gradients, loss)


def layer_bytes(model: Qwen2) -> int:
    """Returns what a layer holds for each token until its backward pass, at 2 bytes a number, without scores."""
    c = model.config
    heads = 4 * c.num_key_value_heads * c.head_dim + 8 * c.num_attention_heads
    return 4 * c.intermediate_size + 10 * c.hidden_size + heads


def scores_bytes(model: Qwen2, length: int) -> int:
    """Returns what a layer holds for each token of attention's scores: nothing if cuDNN attends."""
    if model.attention == "cudnn":
        return 0
    keys = sum(queries * seen for queries, seen in key_blocks(length, length, model.attention)) // length
    return (2 * needs.NUMBER if model.dtype == jnp.float32 else 6) * model.config.num_attention_heads * keys
