"""How much memory every size of Qwen2.5 takes, by formula, and how far that is from XLA's plans.

    python -m benchmarks.memory [--plans]

Without options, prints the table in docs/scale.md: parameters, activations of a train step with adapters of rank 8 on q and
v, keys and values of a forecast, and the fewest devices (1, 2, 4, ...) on which a step with remat fits if they share the
parameters and each holds the activations of the whole batch. With --plans, compiles train steps of two to four layers for
an H100 that is not there (jaxlv[cuda-compiler]), and prints XLA's figures beside the formulas'.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxlv.config import RunConfig, build_config
from jaxlv.flops.family import FAMILY
from jaxlv.model.config import ModelConfig

GB = 1e9
SMALL, LARGE = (4, 512), (8, 2048)  # windows of a batch, and tokens of each
PROMPT, SAMPLES, NEW = 1024, 20, 512  # tokens of a forecast: its context, and those of each sample
DEVICES = (80, 141)  # GB of an H100 or A100, and of an H200
HEAD = (
    "size", "weights bf16", "int8", "nf4", "4 x 512: none", "remat", "8 x 2048: none", "xla", "remat", "KV of 20 samples",
    "devices of 80 GB", "141 GB",
)  # fmt: skip


class Case(NamedTuple):
    """A train step that is small enough to be compiled here; its figures are of one device."""

    size: str
    layers: int
    batch: tuple[int, int]
    vocabulary: int
    attention: str = "cudnn"
    remat: bool = False
    weights: str = "full"
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    dtype: str = "bfloat16"
    data: int = 1  # devices that share the batch


CASES = (
    Case("qwen2.5-0.5b", 4, (4, 512), 64), Case("qwen2.5-0.5b", 4, (4, 512), 32_768),
    Case("qwen2.5-0.5b", 4, (4, 512), 64, remat=True), Case("qwen2.5-0.5b", 2, (8, 512), 16_384, remat=True),
    Case("qwen2.5-0.5b", 4, (4, 512), 64, "xla"), Case("qwen2.5-0.5b", 2, (8, 2048), 64, "xla", remat=True),
    Case("qwen2.5-0.5b", 4, (4, 512), 64, "blocked"), Case("qwen2.5-0.5b", 4, (4, 512), 64, "xla", dtype="float32"),
    Case("qwen2.5-0.5b", 4, (4, 512), 64, targets=("all-linear",)), Case("qwen2.5-1.5b", 3, (4, 512), 64),
    Case("qwen2.5-7b", 2, (8, 2048), 64), Case("qwen2.5-7b", 2, (8, 2048), 64, remat=True),
    Case("qwen2.5-7b", 2, (8, 2048), 64, weights="int8"), Case("qwen2.5-7b", 2, (8, 2048), 64, weights="nf4"),
    Case("qwen2.5-14b", 3, (2, 512), 64), Case("qwen2.5-14b", 3, (2, 512), 64, remat=True),
    Case("qwen2.5-0.5b", 8, (8, 512), 64, remat=True, data=2),
    Case("qwen2.5-0.5b", 8, (8, 512), 64, remat=True, targets=("all-linear",), data=2),
    Case("qwen2.5-0.5b", 8, (8, 512), 64, targets=("all-linear",), data=2),
    Case("qwen2.5-7b", 2, (8, 2048), 64, remat=True, data=4),
)  # fmt: skip


TARGETS = ("q_proj", "v_proj")


def config_of(batch: tuple[int, int], remat: bool, targets: Sequence[str] = TARGETS, **model: Any) -> RunConfig:
    """Returns a config of adapters of rank 8."""
    tree = {
        "train": {"batch_size": batch[0]}, "windows": {"length": batch[1]},
        "lora": {"rank": 8, "targets": list(targets), "head": "frozen"},
        "model": {"dtype": "bfloat16", "remat": remat, **model},
    }  # fmt: skip
    return build_config(RunConfig, tree, where="benchmarks.memory")


def figures(name: str) -> list[str]:
    """Returns the row of a size."""
    import jax.numpy as jnp

    from jaxlv.model.qwen2 import Qwen2
    from jaxlv.model.weights import bytes_of
    from jaxlv.steps.footprint import footprint

    sizes = FAMILY[name]
    kinds = [bytes_of(Qwen2(sizes, jnp.dtype("bfloat16"), "cudnn", weights=kind)) for kind in ("full", "int8", "nf4")]

    def taken(batch: tuple[int, int], attention: str, remat: bool, split: int = 1) -> Any:
        model = Qwen2(sizes, jnp.dtype("bfloat16"), attention)
        return footprint(config_of(batch, remat, attention=attention), model, split=split)

    held = [
        taken(batch, attention, remat).activations
        for batch, attention, remat in (
            (SMALL, "cudnn", False), (SMALL, "cudnn", True), (LARGE, "cudnn", False), (LARGE, "xla", False),
            (LARGE, "cudnn", True),
        )
    ]  # fmt: skip
    fewest = [_fewest(most, lambda split: taken(LARGE, "cudnn", True, split).training) for most in DEVICES]
    cache = 4 * sizes.num_hidden_layers * sizes.num_key_value_heads * sizes.head_dim * (PROMPT + SAMPLES * NEW)
    return [name, *(_gb(one) for one in (*kinds, *held, cache)), *map(str, fewest)]


def _gb(size: int) -> str:
    """Returns bytes in GB, to three digits or as a whole number."""
    return f"{size / GB:.3g}" if size < 100 * GB else f"{size / GB:,.0f}"


def _fewest(most: int, taken: Callable[[int], int]) -> int:
    """Returns how many devices of `most` GB are enough, a power of two."""
    return next(split for split in (2**power for power in itertools.count()) if taken(split) < most * GB)


def markdown() -> str:
    """Returns the table of all sizes, in GB."""
    rows = [HEAD, ["---"] * len(HEAD), *(figures(name) for name in FAMILY)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


# ------------------------------------------------------------------------------------------------------ XLA's plans


def compared(case: Case) -> tuple[int, int]:
    """Returns the bytes of a train step by formula, and by XLA's plan for an H100 that is not there."""
    from dataclasses import replace

    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import AxisType, Mesh

    from benchmarks.compiled import cudnn_without_device
    from jaxlv.flops import programs
    from jaxlv.flops.audit import compiled_for
    from jaxlv.flops.targets import cuda, devices_of
    from jaxlv.flops.work import Work
    from jaxlv.model.placement import DATA, MODEL
    from jaxlv.model.qwen2 import Qwen2
    from jaxlv.runs.audited import compiled_on_mesh
    from jaxlv.steps.footprint import footprint
    from jaxlv.steps.stack import memory_of

    sizes: ModelConfig = replace(FAMILY[case.size], num_hidden_layers=case.layers, vocab_size=case.vocabulary)
    how: Any = {"weights": case.weights}
    model = Qwen2(sizes, jnp.dtype(case.dtype), case.attention, **how)
    config = config_of(case.batch, case.remat, case.targets, attention=case.attention, dtype=case.dtype, **how)
    work = Work(sizes, *case.batch, 8, case.targets, kernel=case.attention, dtype=case.dtype, remat=case.remat, **how)
    target = cuda()
    with cudnn_without_device():
        if case.data == 1:
            plan = memory_of(compiled_for(programs.train_program(work, model), target).compiled)
        else:
            places = np.array(devices_of(target, case.data)).reshape(case.data, 1)
            mesh = Mesh(places, (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)
            plan = memory_of(compiled_on_mesh(config, work, mesh, target))
    return footprint(config, model, case.data).training, plan


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", action="store_true", help="compare with XLA's plans; takes minutes")
    if not parser.parse_args(argv).plans:
        print(markdown())
        return
    for case in CASES:
        formula, plan = compared(case)
        told = f"{formula / 1e6:10,.1f} MB by formula, {plan / 1e6:10,.1f} by XLA: {formula / plan - 1:+.2%}"
        print(f"{told}  {' '.join(map(str, case))}", flush=True)


if __name__ == "__main__":
    main()
