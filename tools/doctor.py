"""Print versions, devices, memory, which attention would run, and whether a config fits, with memory and time estimates.

    jaxlv doctor [CONFIG.toml] [--set a.b=c ...]

The memory estimate is XLA's own, of the compiled training step at the config's shapes, plus weights; compiling it takes
as long as the first step of a run. The time estimate is a measured matrix-product rate times the step's products.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlv.config import RunConfig, load_config
from jaxlv.errors import JaxlvError
from jaxlv.lora import overlay
from jaxlv.memory import GIB, device_memory
from jaxlv.model import weights
from jaxlv.model.config import ModelConfig
from jaxlv.runs import billing, sources
from jaxlv.runs.devices import check_kernel
from jaxlv.steps.train import init_state, make_optimizer, make_train_step
from jaxlv.text.tokens import Windows, load_alphabet
from jaxlv.tools.console import describe, program
from jaxlv.versions import versions

KERNELS = {
    "xla": "XLA's own kernels (jaxlv.model.attention.attend)",
    "blocked": "XLA's own kernels, block by block (training and prefill; decoding runs on xla)",
    "cudnn": "cuDNN's fused kernel (training and prefill; decoding runs on xla)",
}


def arguments() -> argparse.ArgumentParser:
    parser = describe("doctor", __doc__)
    parser.add_argument("config", type=Path, nargs="?", help="run as TOML (default: versions and devices only)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override one setting; may be repeated")
    return parser


def step_memory(config: RunConfig) -> tuple[int, int, int]:
    """(bytes of weights, bytes of optimiser and adapters, bytes of temporaries) of the training step, as XLA plans it."""
    base = weights.base_of(config.model)
    model = sources.architecture_of(config.model, base)
    t, length = config.train, config.windows.length
    shapes = weights.unflatten(weights.abstract_params(model), model)

    def start(params):
        variables = {"params": params, "lora": overlay.init_lora(jax.random.key(0), params, config.lora)}
        return init_state(variables, overlay.trainable(variables), optimizer, 0)

    optimizer = make_optimizer(config.optimizer, t.steps)
    state, frozen = jax.eval_shape(start, shapes)
    alphabet_A = load_alphabet(base, model.config.vocab_size).ids_A if config.model.loss == "alphabet" else None
    tokens: Any = jax.ShapeDtypeStruct((t.accumulate, t.batch_size, length), jnp.int32)
    batch = Windows(tokens, tokens, tokens)
    step: Any = make_train_step(model, optimizer, config.optimizer, t.steps, alphabet_A)
    plan = step.lower(state, frozen, batch).compile().memory_analysis()

    def size(tree) -> int:
        return sum(int(np.prod(leaf.shape)) * (leaf.dtype.itemsize if leaf.shape else 4) for leaf in jax.tree.leaves(tree))

    return size(frozen), size((state.trained, state.opt_state)), plan.temp_size_in_bytes


def matmul_rate(dtype: str) -> float:
    """Measured FLOP/s of a 2048 x 2048 matrix product, the best of three."""
    a = jnp.ones((2048, 2048), dtype)
    multiply = jax.jit(lambda x: x @ x)
    multiply(a).block_until_ready()
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        multiply(a).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * 2048**3 / min(seconds)


def step_products(config: RunConfig, architecture: ModelConfig) -> int:
    """FLOPs of a step's matrix products, by the convention `exact`."""
    return billing.event_of(config).flops(architecture, "exact")


@program(arguments, prints=True)
def main(options: argparse.Namespace) -> None:
    for name, version in versions().items():
        print(f"{name:<18} {version}")
    device = jax.devices()[0]
    memory, origin = device_memory(device)
    print(f"{'devices':<18} {', '.join(str(d) for d in jax.devices())}")
    print(f"{'memory':<18} {memory / GIB:.1f} GiB, {origin}")
    if options.config is None:
        print(f"{'attention':<18} {KERNELS['xla']} (model.attention names another)")
        return
    config = load_config(options.config, options.set)
    check_kernel(config.model.attention)
    print(f"{'attention':<18} {KERNELS[config.model.attention]}")
    sources.check_fits([config])  # XLA would plan for long what cannot be
    held, trained, temporary = step_memory(config)
    total = held + trained + temporary
    print(
        f"{'training step':<18} {total / GIB:.2f} GiB: weights {held / GIB:.2f}, adapters, optimiser {trained / GIB:.3f}, "
        f"temporaries {temporary / GIB:.2f}"
    )
    architecture = ModelConfig.from_folder(weights.base_of(config.model))
    rate = matmul_rate(config.model.dtype)
    seconds = step_products(config, architecture) / rate
    print(f"{'matrix products':<18} {rate / 1e9:,.0f} GFLOP/s measured ({config.model.dtype})")
    print(
        f"{'time':<18} at least {seconds:.2f} s a step, {seconds * config.train.steps / 60:.1f} minutes for "
        f"{config.train.steps} steps (matrix products alone; small models take several times that)"
    )
    if total > memory:
        raise JaxlvError(
            "the config does not fit",
            where=options.config,
            expected=f"at most {memory / GIB:.1f} GiB",
            found=f"{total / GIB:.1f} GiB",
            hint="lower train.batch_size (raise train.accumulate), windows.length, or use model.dtype bfloat16",
        )
    print(f"{'verdict':<18} fits: {total / memory:.0%} of the memory")


if __name__ == "__main__":
    main()
