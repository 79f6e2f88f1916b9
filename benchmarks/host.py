"""Measures what the host does for each train step of a run: the batch, the dispatch, reading the figures, and the ledger.

    JAX_PLATFORMS=cpu python -m benchmarks.host [--steps 400] [--json FILE]

The run is an ordinary one (`jaxlv train` with a budget, logged every tenth step) of an overlay of rank 8 on q and v of 24
layers, as Qwen2.5-0.5B has them; but the step that it dispatches takes the same arrays and only counts, so that nothing is
waited for. Times are those of the main thread: by the clock, and on the processor, which other processes and the disk
influence less. In a checkout of an older version the same file measures that version.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

LAYERS, WIDTH = 24, 16
BATCH, LENGTH, RANK, LOGGED = 4, 512, 8, 10


class Spent(NamedTuple):
    """Milliseconds by the clock, and on the processor."""

    clock: float
    processor: float


class Watches:
    """Adds up what calls of some functions take."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def on(self, part: str, function: Callable) -> Callable:
        """Returns a function whose calls are counted as a part."""
        spent = self.seconds.setdefault(part, [0.0, 0.0])

        def timed(*values: Any, **more: Any) -> Any:
            began = time.perf_counter(), time.thread_time()
            try:
                return function(*values, **more)
            finally:
                spent[0] += time.perf_counter() - began[0]
                spent[1] += time.thread_time() - began[1]

        return timed


def make_inputs(folder: Path, steps: int) -> tuple[Any, Any]:
    """Returns (config, inputs) of a run over a base of 24 narrow layers with random weights."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxlv.config import RunConfig, build_config
    from jaxlv.data import series
    from jaxlv.model.config import ModelConfig
    from jaxlv.model.qwen2 import Qwen2
    from jaxlv.model.weights import resolve, save_pretrained
    from jaxlv.runs import sources

    shape = ModelConfig(16, WIDTH, WIDTH, LAYERS, 2, 1, WIDTH // 2, tie_word_embeddings=True, max_position_embeddings=4096)
    model = Qwen2(shape)
    params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    save_pretrained(folder / "base", model, params, resolve("embedded"))
    time_T = np.arange(100)
    waves_NTV = 2 + np.sin(time_T[None, :, None] / 5 + np.arange(32)[:, None, None] + np.arange(2))
    series.save(folder / "waves.h5", series.from_arrays(waves_NTV))
    settings = {
        "data": {"path": str(folder / "waves.h5")},
        "model": {"path": str(folder / "base")},
        "windows": {"length": LENGTH, "stride": LENGTH // 2, "context_steps": (6, 20)},
        "lora": {"rank": RANK, "alpha": 2.0 * RANK, "head": "frozen"},
        "train": {
            "steps": steps, "batch_size": BATCH, "log_every": LOGGED, "validate_every": 0, "checkpoint_every": steps,
        },
        "budget": {"flops": 1e18},
    }  # fmt: skip
    config = build_config(RunConfig, settings, where="benchmarks.host")
    return config, sources.load_inputs(config)


def counting_step(step: Any) -> Any:
    """Returns a jitted step of the same arguments and results as `step`, which only counts."""
    import jax
    import jax.numpy as jnp

    def only_count(state: Any, frozen: Any, batch: Any) -> Any:
        metrics = jax.eval_shape(step, state, frozen, batch)[1]
        return state._replace(step=state.step + 1), jax.tree.map(lambda a: jnp.ones(a.shape, a.dtype), metrics)

    return jax.jit(only_count, donate_argnums=0, keep_unused=True)


@contextlib.contextmanager
def watched(watches: Watches) -> Iterator[None]:
    """Replaces the step of runs by one that only counts, and times the parts of their loop."""
    from jaxlv.runs import member, training
    from jaxlv.steps import stack
    from jaxlv.steps.train import Step

    made, loop = stack.Stack.step, training.steps
    parts = (
        (stack.Stack, "step", lambda own, *given: counting_step(made(own, *given))),
        (training, "steps", lambda step, *given: loop(watches.on("dispatch", step), *given)),
        (training._Training, "_batch", watches.on("batch", training._Training._batch)),
        (Step, "figures", watches.on("reading figures", Step.figures)),
        (training, "reserve", watches.on("ledger", training.reserve)),
        (member.Member, "commit", watches.on("ledger", member.Member.commit)),
    )
    with contextlib.ExitStack() as replaced:
        for place, name, new in parts:
            replaced.enter_context(mock.patch.object(place, name, new))
        yield


def measure(steps: int) -> dict[str, Spent]:
    """Returns the milliseconds of a step by part, and in all, of the second half of a run."""
    from jaxlv.runs import training

    watches, marks = Watches(), {}

    def on_step(number: int, figures: dict[str, float]) -> None:
        if number in (steps // 2, steps - 1):
            parts = {part: tuple(spent) for part, spent in watches.seconds.items()}
            marks[number] = {**parts, "in all": (time.perf_counter(), time.thread_time())}

    with tempfile.TemporaryDirectory() as name, watched(watches):
        config, inputs = make_inputs(Path(name), steps)
        training.train(config, Path(name) / "run", inputs, watch=training.Watch(on_step))
    before, after = marks[steps // 2], marks[steps - 1]
    count = steps - 1 - steps // 2
    return {part: Spent(*(1e3 * (b - a) / count for a, b in zip(before[part], after[part], strict=True))) for part in after}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the milliseconds of a step by part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    found = measure(options.steps)
    print(f"{'ms a step':20}{'clock':>10}{'processor':>12}")
    for part, spent in found.items():
        print(f"{part:20}{spent.clock:10.3f}{spent.processor:12.3f}")
    if options.json:
        options.json.write_text(json.dumps({part: spent._asdict() for part, spent in found.items()}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
