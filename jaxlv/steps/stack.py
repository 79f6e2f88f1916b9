"""Several runs as one program: overlays on a leading axis over one frozen base.

Runs whose configs differ only in rank, alpha, dropout, learning rate, seed or the text that they train on take the same
step. Their overlays, optimiser states and batches are stacked, the learning rate is an argument, and ranks are padded with
zeros to the largest: zero rows of A meet zero columns of B, so neither ever gets a gradient.

Axes: G runs, A micro-batches, B windows, L tokens, R rank.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlv import processes
from jaxlv.activity import doing
from jaxlv.config import RunConfig, config_tree, laid_over
from jaxlv.errors import JaxlvError
from jaxlv.lora import overlay
from jaxlv.lora.overlay import Tree
from jaxlv.model import placement
from jaxlv.model.qwen2 import Qwen2
from jaxlv.steps import kept
from jaxlv.steps.train import (
    How,
    StepMetrics,
    TrainState,
    compiler_options,
    init_state,
    learning_rates,
    make_optimizer,
    make_train_step,
    results,
    stacked,
    step_function,
    unstacked,
)
from jaxlv.text.tokens import Windows

RANK_AXIS = {"A": -2, "B": -1}  # the rank's axis in a leaf, counted from the last


def program_of(config: RunConfig) -> str:
    """Returns what runs of one program have in common: equal texts for configs that can be stacked."""
    tree = config_tree(config)
    lora, optimizer, train = tree["lora"], tree["optimizer"], tree["train"]
    # Muon scales an update by the shape of its matrix, which padding would change.
    shape = {"rank": lora["rank"]} if optimizer["name"] == "muon" else {}
    del optimizer["learning_rate"], train["seed"]
    common = {
        "model": tree["model"],
        "length": tree["windows"]["length"],
        "side": tree["windows"]["side"],
        "lora": {"targets": lora["targets"], "head": lora["head"], "dropout": lora["dropout"] > 0, **shape},
        "optimizer": optimizer,
        "train": train,
    }
    return json.dumps(common, sort_keys=True)


def how_of(config: RunConfig, logits: int = 0) -> How:
    """Returns how a config's steps compute, with so many logits at once."""
    return How(config.windows.padding, logits, config.narrow, config.model.remat)


class Stack:
    """G runs over one base: their state before the first step, their common step, and the state of each.

    A and B are stacked over layers in the state of all, and not in that of each (jaxlv.steps.train.stacked).
    A single run is not stacked: its state lacks the leading axis, and its step is that of `make_train_step`. `starts` are
    overlays to begin from, None for a fresh overlay; the loss holds so many `logits` at once (jaxlv.steps.train.How).
    """

    def __init__(
        self,
        model: Qwen2,
        params: Tree,
        configs: Sequence[RunConfig],
        alphabet_A: np.ndarray | None = None,
        starts: Sequence[Tree | None] = (),
        logits: int = 0,
    ):
        if len({program_of(config) for config in configs}) != 1:
            raise JaxlvError("runs that do not share a program", where="stack", hint="group them by program_of")
        self.configs, self.model, self.alphabet_A = list(configs), model, alphabet_A
        self.rank = max(config.lora.rank for config in configs)
        self.skips = configs[0].train.skip_nonfinite > 0
        self.how = how_of(configs[0], logits)
        begun = zip(configs, starts or [None] * len(configs), strict=True)
        states, frozen = zip(*(self._start(params, *pair) for pair in begun), strict=True)
        self.state: TrainState = self.join(states)
        loras = [half["lora"] for half in frozen]
        lora = loras[0] if len(loras) == 1 else _stacked(loras)
        self.frozen: Tree = {"params": params, "lora": self._placed(lora)}

    def _start(self, params: Tree, config: RunConfig, start: Tree | None) -> tuple[TrainState, Tree]:
        lora = overlay.init_lora(jax.random.key(config.train.seed), params, config.lora)
        lora = laid_over(lora, start or {})
        variables = {"params": params, "lora": lora}
        return init_state(variables, overlay.trainable(variables), self._optimizer(config), config.train.seed)

    @staticmethod
    def _optimizer(config: RunConfig, peak: Any = None) -> Any:
        return make_optimizer(config.optimizer, config.train.steps, peak)

    def __len__(self) -> int:
        return len(self.configs)

    # ------------------------------------------------------------------------------------------- states

    def join(self, states: Sequence[TrainState]) -> TrainState:
        """Returns the state of all from the states of each, at their own ranks, on the devices of the mesh."""
        padded = [stacked(_at_rank(state, self.rank), self.configs[0].optimizer) for state in states]
        return self._placed(padded[0] if len(padded) == 1 else _stacked(padded))

    def _where(self, tree: Any) -> Any:
        """Returns where on the mesh the leaves of a state lie; stacked runs are apart from each other over "data"."""
        assert self.model.mesh is not None
        return placement.shardings(tree, self.model.config, self.model.mesh, runs=len(self) > 1)

    def _placed(self, tree: Any) -> Any:
        return tree if self.model.mesh is None else placement.placed(tree, self._where(tree))

    def member(self, state: TrainState, index: int, padded: bool = False) -> TrainState:
        """Returns the state of one run at its own rank or, if `padded`, at the largest, so that all have the same shapes."""
        own = placement.everywhere(unstacked(state if len(self) == 1 else _row(state, index)), self.model.mesh)
        return own if padded or len(self) == 1 else _at_rank(own, self.configs[index].lora.rank)

    def frozen_of(self, index: int) -> Tree:
        """Returns the frozen half of one run."""
        if len(self) == 1:
            return self.frozen
        return {"params": self.frozen["params"], "lora": _row(self.frozen["lora"], index)}

    def batch(self, batches: Sequence[Windows]) -> Windows:
        """Returns the batch (G, A, B, L) of all from the batches (A, B, L) of each: the runs over the mesh's axis "data", or
        if it does not divide them, the windows.
        """
        if len(batches) == 1:
            return placement.rows(batches[0], self.model.mesh, 1)
        every = Windows(*(np.stack(part) for part in zip(*batches, strict=True)))
        return placement.rows(every, self.model.mesh, 0 if len(self) % placement.size(self.model.mesh) == 0 else 2)

    # --------------------------------------------------------------------------------------------- step

    def step(self, at_once: int = 0) -> Any:
        """Returns the jitted step of all; `at_once` runs are computed side by side, group after group (0 = all at once)."""
        first = self.configs[0]
        settings, steps = first.optimizer, first.train.steps
        kept_there = None if self.model.mesh is None else self._where(self.state)
        if len(self) == 1:
            return make_train_step(
                self.model, self._optimizer(first), settings, steps, self.alphabet_A, self.skips, self.how, kept_there
            )
        peak_G = jnp.array([config.optimizer.learning_rate for config in self.configs])

        def of_one(state: TrainState, lora: Tree, batch: Windows, peak: jax.Array, params: Tree):
            schedule = learning_rates(settings, steps, peak)
            optimizer, clip = self._optimizer(first, peak), settings.clip_norm
            take = step_function(self.model, optimizer, schedule, clip, self.alphabet_A, self.skips, self.how)
            return take(state, {"params": params, "lora": lora}, batch)

        def of_all(state: TrainState, frozen: Tree, batch: Windows):
            parts = (state, frozen["lora"], batch, peak_G)
            if not at_once or at_once >= len(self):
                return jax.vmap(of_one, in_axes=(0, 0, 0, 0, None))(*parts, frozen["params"])
            return jax.lax.map(
                lambda part: of_one(part[0], part[1], part[2], part[3], frozen["params"]), parts, batch_size=at_once
            )

        return jax.jit(of_all, donate_argnums=0, compiler_options=compiler_options(self.model), **results(kept_there))

    def kept_step(self, state: TrainState, batch: Windows, at_once: int = 0) -> Any:
        """Returns the step of all as `step` does, as a program that an earlier process has kept, if there is one. Several
        processes get it compiled.
        """
        if processes.count() > 1:
            return self.step(at_once).lower(state, self.frozen, batch).compile()
        constants = [(program_of(one), one.optimizer.learning_rate, one.lora) for one in self.configs]
        symbols = None if self.alphabet_A is None else np.asarray(self.alphabet_A).tolist()
        said = (constants, symbols, self.model, self.how, self.skips, at_once)
        return kept.program(self.step(at_once), (state, self.frozen, batch), said)

    def fitted(
        self, batch: Windows, memory: int, at_once: int = 0
    ) -> Callable[[TrainState, Tree, Windows], tuple[TrainState, StepMetrics]]:
        """Returns the step of all, compiled for such batches, with as many runs side by side as fit in `memory` bytes.

        It begins with `at_once` (0 = all) and halves that until XLA's own figures fit. Raises JaxlvError if not even one run
        fits.
        """
        width = min(at_once or len(self), len(self))
        while True:
            with doing(f"compiling the train step of {width} runs (once per shape, then cached)"):
                compiled = self.step(width).lower(self.state, self.frozen, batch).compile()
            needed = memory_of(compiled)
            if needed <= memory:
                return compiled
            if width == 1:
                raise JaxlvError(
                    "the train step does not fit into the memory",
                    where=f"{len(self)} runs over one base",
                    expected=f"at most {memory / 2**30:.2f} GiB",
                    found=f"{needed / 2**30:.2f} GiB",
                    hint="lower train.batch_size (raise train.accumulate), windows.length, or use model.dtype bfloat16",
                )
            width = -(-width // 2)


def memory_of(compiled: Any) -> int:
    """Returns the bytes that a compiled program needs, as XLA plans it: arguments, results, and intermediates."""
    return room_of(compiled) + compiled.memory_analysis().argument_size_in_bytes


def room_of(compiled: Any) -> int:
    """Returns the bytes that a compiled program needs beside its arguments."""
    plan = compiled.memory_analysis()
    return plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.jit
def _row(tree: Any, index: int) -> Any:
    """Returns one run's part of a tree; compiled once for all runs."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


@functools.partial(jax.jit, static_argnums=1)
def _at_rank(tree: Any, rank: int) -> Any:
    """Returns a tree whose A and B, and the optimiser's moments for A and B, are cut or padded with zeros to a rank."""

    def fit(path: Any, leaf: Any) -> Any:
        axis = RANK_AXIS.get(getattr(path[-1], "key", "")) if path else None
        if axis is None or leaf.shape[axis] == rank:
            return leaf
        if leaf.shape[axis] > rank:
            return jax.lax.slice_in_dim(leaf, 0, rank, axis=leaf.ndim + axis)
        widths = [(0, 0)] * leaf.ndim
        widths[axis] = (0, rank - leaf.shape[axis])
        return jnp.pad(leaf, widths)

    return jax.tree_util.tree_map_with_path(fit, tree)
