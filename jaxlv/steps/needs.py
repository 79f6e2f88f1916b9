"""How much memory training and generation need at least: a check by formula before anything is allocated.

It counts arrays that exist whatever XLA makes of a program: weights, an overlay and its moments, a batch, one array of
activations for each layer, the scores of one layer, the keys and values of every token. XLA's own plan needs more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxlv import memory, processes
from jaxlv.config import LoraConfig, OptimizerConfig, RunConfig
from jaxlv.lora.overlay import normalise_targets
from jaxlv.model.attention import QUERY_BLOCK
from jaxlv.model.qwen2 import Qwen2
from jaxlv.model.weights import bytes_of, projections
from jaxlv.steps.loss import CHUNK_LOGITS, chunks_of
from jaxlv.text.codec import SYMBOLS

MOMENTS = {"adam": 2, "adamw": 2, "muon": 1}  # arrays of a matrix's size that an optimiser keeps
MOST_LOGITS = 2**29  # 2 GiB in float32
NUMBER = 4  # bytes of a float32 or an int32

SHARE = 0.8  # of the free memory that a generation may plan for
MOST_SERIES = {"cpu": 8}  # series decoded together, by backend: 32 gain 8 % there, and an interruption loses a batch

SMALLER_MODEL = 'take a smaller model, or set model.dtype = "bfloat16"'
LOWER_RANK = "lower lora.rank, or name fewer lora.targets"
LOWER_BATCH = "lower train.batch_size (raise train.accumulate) or windows.length"
LOWER_STEP = "lower train.accumulate, train.batch_size or windows.length"
LOWER_SAMPLES = "lower the samples, the horizon, or the series of a batch"
LOWER_CONTEXT = "lower the context, or the series of a batch"


def check_weights(model: Qwen2, where: str) -> None:
    """Raises TooLarge if a model's weights do not fit in memory."""
    memory.check(where, device={SMALLER_MODEL: weights(model)})


def check_training(configs: Sequence[RunConfig], model: Qwen2, loaded: bool = True) -> None:
    """Raises TooLarge if one of several runs does not fit in memory when it trains; the base's weights may be `loaded`
    already.
    """
    for config in configs:
        needed = training(config, model)
        memory.check("training", device=needed if loaded else {**needed, SMALLER_MODEL: weights(model)})


def weights(model: Qwen2) -> int:
    """Returns the bytes of a model's weights."""
    return bytes_of(model)


def state(config: RunConfig, model: Qwen2) -> int:
    """Returns the bytes of an overlay and its optimiser's moments."""
    return NUMBER * trained(config.lora, model) * arrays(config.optimizer)


def arrays(optimizer: OptimizerConfig) -> int:
    """Returns how many arrays there are of what trains: itself, and the optimiser's moments."""
    return 1 + MOMENTS[optimizer.name]


def trained(lora: LoraConfig, model: Qwen2) -> int:
    """Returns how many numbers train."""
    return sum(math.prod(leaf.shape) for leaf in trained_leaves(lora, model).values())


def trained_leaves(lora: LoraConfig, model: Qwen2) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns what trains, by path: A and B of every adapted projection, and the trained part of the head."""
    targets, c = normalise_targets(lora.targets), model.config
    shapes: dict[str, tuple[int, ...]] = {}
    for module, (outputs, inputs) in projections(model).items():
        if module.rpartition(".")[2] in targets:
            shapes |= {f"{module}.A": (lora.rank, inputs), f"{module}.B": (outputs, lora.rank)}
    if lora.head == "bias":
        shapes["lm_head.bias"] = (c.vocab_size,)
    if lora.head == "full":
        shapes["lm_head.weight"] = (c.vocab_size, c.hidden_size)
    return {path: jax.ShapeDtypeStruct(sizes, jnp.float32) for path, sizes in shapes.items()}


def training(config: RunConfig, model: Qwen2) -> dict[str, int]:
    """Returns the bytes of a train step in addition to the weights, by the hint that reduces them."""
    c, t, length = model.config, config.train, config.windows.length
    tokens, size = t.batch_size * length, jnp.dtype(model.dtype).itemsize
    kept = c.num_hidden_layers * tokens * c.hidden_size * size if config.lora.targets else 0  # for the backward pass
    queries = {"xla": length, "blocked": min(QUERY_BLOCK, length), "cudnn": 0}[model.attention]
    scores = t.batch_size * c.num_attention_heads * queries * length * NUMBER
    outputs = len(SYMBOLS) if config.model.loss == "alphabet" else c.vocab_size
    logits = t.batch_size * chunks_of(t.batch_size, length, outputs).size * outputs * NUMBER
    return {
        LOWER_RANK: state(config, model),
        LOWER_BATCH: kept + max(scores, logits),
        LOWER_STEP: 3 * NUMBER * t.accumulate * tokens,
    }


def logits(config: RunConfig, model: Qwen2, runs: int = 1) -> int:
    """Returns how many logits the loss holds at once on the first device; 0 for the number that suits a CPU's caches.

    A GPU computes them faster, the fewer chunks there are. They take at most a quarter of the memory that is left beside
    the weights and what training needs at least (float32, and their gradient, rounded to the model's type).
    """
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return 0
    return processes.agreed(logits_in(config, model, memory.device_memory(device)[0] - weights(model), runs))


def logits_in(config: RunConfig, model: Qwen2, free: int, runs: int = 1) -> int:
    """Returns how many logits the loss holds at once on a GPU that has so many bytes beside the weights."""
    size = NUMBER + jnp.dtype(model.dtype).itemsize
    left = free - runs * sum(training(config, model).values())
    return min(MOST_LOGITS, max(CHUNK_LOGITS, left // (4 * size * runs)))


def check_generation(model: Qwen2, prompts: int, length: int, samples: int, new_tokens: int, grammar: bool) -> None:
    """Raises TooLarge if `samples` continuations of each of `prompts` prompts of `length` tokens, with at most `new_tokens`
    tokens, do not fit in memory; with a grammar, logits are needed only for its symbols.
    """
    c, rows = model.config, prompts * samples
    outputs, size = len(SYMBOLS) if grammar else c.vocab_size, jnp.dtype(model.dtype).itemsize
    token = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * size  # its keys and values
    drawn = rows * (new_tokens * (token + NUMBER) + outputs * NUMBER)
    memory.check("generation", device={LOWER_SAMPLES: drawn, LOWER_CONTEXT: prompts * length * token})


def even(prompts: int, most: int) -> tuple[int, int]:
    """Returns (size, number) of the batches in which prompts are decoded, of equal size and at most `most` together:
    for no prompts (1, 0).
    """
    if not prompts:
        return 1, 0
    number = -(-prompts // most)
    return -(-prompts // number), number


def planned(series: int, stated: int) -> tuple[int, int]:
    """Returns (size, number) of the batches of a config that states so many series, or 0; if memory is large enough."""
    return (stated, -(-series // stated)) if stated else even(series, MOST_SERIES.get(jax.default_backend(), series))


def together(model: Qwen2, prompts: int, length: int, samples: int, new_tokens: int, grammar: bool) -> int:
    """Returns how many of `prompts` prompts of `length` tokens to decode together: on a device as many as fit in SHARE of
    its free memory, on a CPU only a few.

    What fits is rounded down to two binary digits: few shapes are compiled, whatever else is in memory.
    """
    backend = jax.default_backend()
    fits = int(SHARE * memory.free() // decoded(model, length, samples, new_tokens, grammar))
    rounded = fits >> max(0, fits.bit_length() - 2) << max(0, fits.bit_length() - 2)
    return processes.agreed(max(1, min(prompts, rounded, MOST_SERIES.get(backend, prompts))))


def decoded(model: Qwen2, length: int, samples: int, new_tokens: int, grammar: bool) -> int:
    """Returns the bytes that XLA plans for a prompt and its samples, in addition to the weights: the keys and values of all
    tokens, and the scores of one layer, of the prompt's own tokens or of every sample's next one.

    Keys and values are counted twice, for XLA may copy them where a loop begins, as are a decode step's float32 scores;
    those of a prefill are there once, and once or twice in the model's type. A tenth is added for the rest.
    """
    c, size = model.config, jnp.dtype(model.dtype).itemsize
    token = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * size
    outputs = len(SYMBOLS) if grammar else c.vocab_size
    states = (3 * c.intermediate_size + 4 * c.hidden_size) * size
    numbers = new_tokens + outputs + c.num_attention_heads * (length + new_tokens)
    row = 2 * new_tokens * token + 2 * numbers * NUMBER + states
    scores = 0 if model.attention == "cudnn" else c.num_attention_heads * length**2 * (NUMBER + 2 * size)
    return int(1.1 * (2 * length * token + max(samples * row, scores + length * states)))


def check_forecasts(series: int, samples: int, horizon: int, variables: int) -> None:
    """Raises TooLarge if the host cannot hold forecasts in float64, once as lists and once as an array."""
    size = 2 * 8 * series * samples * horizon * variables
    memory.check("forecasts", host={"lower the samples, the horizon or the series": size})
