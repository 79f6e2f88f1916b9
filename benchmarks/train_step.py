"""Runs one LoRA training step in jaxlv and in PyTorch (transformers + PEFT): tokens/s and peak memory.

    python -m benchmarks.train_step [--shapes full,tiny,micro] [--device cuda --dtype bfloat16]

A step is forward, backward and Adam update of the same adapters (q and v, rank 8) over the same frozen weights and the same
random text. jaxlv runs twice: with PyTorch's loss (cross-entropy over the vocabulary), and with the loss over the 13 symbols
of the number format, which is the likelihood under constrained decoding. That is another loss, so its ratio compares two
ways to train a forecaster, not two implementations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks import common, side
from benchmarks.common import Case
from benchmarks.side import Work

RANK, ALPHA, LEARNING_RATE = 8, 16, 1e-4
BATCHES = {"full": ((1, 128), (4, 128)), "tiny": ((4, 512),), "micro": ((8, 512),), "smoke": ((2, 32),)}
CASES = [
    Case(shape, f"{batch} x {length}", batch * length, {"batch": batch, "length": length})
    for shape, batches in BATCHES.items()
    for batch, length in batches
]


def jaxlv_step(settings: dict[str, Any], alphabet: bool) -> Work:
    """Prepares the step that `jaxlv train` runs, over the vocabulary or the alphabet."""
    device, model, params, facts = side.start_jax(settings)
    import jax
    import numpy as np

    from jaxlv.config import LoraConfig, OptimizerConfig
    from jaxlv.flops import table
    from jaxlv.flops import work as priced
    from jaxlv.lora import overlay
    from jaxlv.steps import train
    from jaxlv.text.tokens import Windows

    adapters = overlay.init_lora(jax.random.key(0), params, LoraConfig(rank=RANK, alpha=ALPHA, head="frozen"))
    variables = {"params": params, "lora": adapters}
    config = OptimizerConfig(learning_rate=LEARNING_RATE)
    optimizer = train.make_optimizer(config, steps=1)
    state, frozen = train.init_state(variables, overlay.trainable(variables), optimizer, seed=0)
    state = train.stacked(state, config)
    symbols_A = np.array(side.SYMBOL_IDS) % settings["vocabulary"] if alphabet else None
    step: Any = train.make_train_step(model, optimizer, config, 1, symbols_A)

    ids_1BL = side.random_ids(1, settings["batch"], settings["length"], vocabulary=settings["vocabulary"])
    positions_1BL = np.broadcast_to(np.arange(settings["length"], dtype=np.int32), ids_1BL.shape)
    labels_1BL = np.concatenate([ids_1BL[..., 1:], np.full_like(ids_1BL[..., :1], -1)], axis=-1)
    batch = Windows(ids_1BL, positions_1BL, labels_1BL)
    compiled, seconds = side.timed(lambda: step.lower(state, frozen, batch).compile())
    losses = []

    def run() -> None:
        nonlocal state
        state, metrics = compiled(state, frozen, batch)
        losses.append(float(metrics.loss_sum / metrics.tokens))
        jax.block_until_ready(state)

    head: Any = "alphabet" if alphabet else "frozen"
    work = priced.Work(model.config, settings["batch"], settings["length"], RANK, head=head)
    facts["flops"] = table.count(work, "exact").total_train_step
    temporary = compiled.memory_analysis()
    facts |= {"compile_seconds": seconds, "trained": sum(leaf.size for leaf in jax.tree.leaves(state.trained))}
    if temporary is not None:
        facts["temporary_bytes"] = temporary.temp_size_in_bytes
    return side.jax_work(device, run, facts, losses)


def torch_step(settings: dict[str, Any]) -> Work:
    """Prepares the same step by transformers, PEFT and torch.optim."""
    torch, base, facts = side.start_torch(settings)
    import peft

    adapters = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)
    model = peft.get_peft_model(base, adapters).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=LEARNING_RATE)
    ids_BL = side.random_ids(settings["batch"], settings["length"], vocabulary=settings["vocabulary"])
    ids_BL = torch.tensor(ids_BL, dtype=torch.int64, device=settings["device"])
    losses = []

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=ids_BL, labels=ids_BL, use_cache=False).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    facts["trained"] = sum(parameter.numel() for parameter in trained)
    return side.torch_work(torch, settings, run, facts, losses)


SIDES = {
    "torch": torch_step,
    "jaxlv": lambda settings: jaxlv_step(settings, alphabet=False),
    "jaxlv, another loss: 13 symbols": lambda settings: jaxlv_step(settings, alphabet=True),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program; see `--help`."""
    common.main("benchmarks.train_step", common.parser(str(__doc__), "full,tiny,micro"), SIDES, CASES, argv)


if __name__ == "__main__":
    main()
