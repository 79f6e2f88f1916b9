"""The training step: gradients of a chosen part of the variables, an optax optimiser, one jitted and donated update.

`variables` is {"params": base, "lora": overlay}; a boolean tree over it (lora/overlay.py) says what trains. It is split
before `grad`, so gradients, optimiser state, clipping and norms contain only trainable leaves, and the frozen half is an
argument of the step: never a constant of the program, never donated.

Axes: A micro-batches of one step, B windows of one micro-batch, L tokens of a window.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jax.sharding import NamedSharding, PartitionSpec

from jaxlv.activity import compiling
from jaxlv.config import OptimizerConfig
from jaxlv.errors import JaxlvError
from jaxlv.lora import overlay
from jaxlv.model import placement
from jaxlv.model.attention import Padding
from jaxlv.model.quantised import rounded
from jaxlv.model.qwen2 import Qwen2, features
from jaxlv.steps.loss import CHUNK_LOGITS, cross_entropy, restrict
from jaxlv.text.tokens import Windows

Tree = dict[str, Any]
MUON_RMS = 0.2  # root mean square of an AdamW update, to which Muon's are scaled


class TrainState(NamedTuple):
    """What a step changes: the trained half of the variables, the optimiser's state, the step number and the key."""

    step: jax.Array
    trained: Tree
    opt_state: Any
    key: jax.Array  # its words, uint32 (2,): JAX dispatches programs that return typed keys several times as slowly


class How(NamedTuple):
    """How a step computes: what it relies on, and what it holds at once.

    `padding` "right" relies on windows that have padding only there (jaxlv.text.tokens.stack). `logits` is the number that
    the loss holds at once (0: CHUNK_LOGITS), rounded to bfloat16 if `narrow`. With `remat` a layer is
    computed again in the backward pass, so that only its input is held until then.
    """

    padding: Padding = "any"
    logits: int = 0
    narrow: bool = False
    remat: bool = False


HOW = How()
# XLA merges the products of one input into one, whose parts it copies apart again: of q, k, v and what adapts them (each at
# most this many MB) that saves kernels, of gate and up it copies more than it saves.
CUDA_OPTIONS: dict[str, bool | int | str] = {"xla_gpu_dot_merger_threshold_mb": 16}
# On a CPU, XLA would drop the barriers between layers, hold the numbers of all codes at once, and not compute them again.
QUANTISED_CPU_OPTIONS: dict[str, bool | int | str] = {"xla_disable_hlo_passes": "cse_barrier_expander"}
METRICS = ("loss_sum", "tokens", "gradient_norm", "clipped_norm", "learning_rate")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepMetrics:
    """What one step says of itself, as one array (..., 5) of float32, which takes one transfer from a device.

    `loss_sum` / `tokens` is the mean cross-entropy in nats per real token; `gradient_norm` is that of the mean loss per
    token before clipping, `clipped_norm` after it; and `learning_rate`.
    """

    array: Any

    @classmethod
    def of(cls, *values: jax.Array) -> StepMetrics:
        """Returns the metrics of scalars in the order of METRICS."""
        return cls(jnp.stack([jnp.float32(value) for value in values]))

    def __getattr__(self, name: str) -> Any:
        if name not in METRICS:
            raise AttributeError(name)
        return self.array[..., METRICS.index(name)]

    def values(self) -> dict[str, np.ndarray]:
        """Waits for the step, and returns its metrics by name."""
        array = np.asarray(self.array, float)
        return {name: array[..., place] for place, name in enumerate(METRICS)}


def learning_rates(config: OptimizerConfig, steps: int, peak: Any = None) -> optax.Schedule:
    """Returns the learning rate by step: constant, linear warm-up and cosine, or one cycle (linear up and down).

    `peak` may be a traced scalar; by default it is the config's learning rate.
    """
    shape = _schedule_of_peak_one(config, steps)
    peak = config.learning_rate if peak is None else peak
    return lambda step: peak * shape(step)


def _schedule_of_peak_one(config: OptimizerConfig, steps: int) -> optax.Schedule:
    warmup = config.warmup_steps
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, max(steps, warmup + 1), config.final_fraction)
    if config.schedule == "onecycle":
        share = (max(warmup, 1) + 0.5) / max(steps, 2)  # optax rounds share * steps down
        return optax.linear_onecycle_schedule(steps, 1.0, pct_start=share, pct_final=1.0)
    if warmup:
        return optax.join_schedules([optax.linear_schedule(0.0, 1.0, warmup), optax.constant_schedule(1.0)], [warmup])
    return optax.constant_schedule(1.0)


def make_optimizer(config: OptimizerConfig, steps: int, peak: Any = None) -> optax.GradientTransformation:
    """Returns Adam, AdamW or Muon with the config's schedule and clipping; weight decay is masked to matrices.

    `peak` (a scalar, which may be traced) replaces the config's learning rate.

    Muon (Jordan et al. 2024) orthogonalises the updates of matrices and leaves vectors to Adam; its updates are scaled to
    the size of AdamW's (Liu et al. 2025, "Muon is scalable for LLM training"), so that one learning rate serves both.
    """
    schedule = learning_rates(config, steps, peak)
    clip = [clip_by_norm(config.clip_norm)] if config.clip_norm else []
    if config.name == "muon":
        step = optax.contrib.muon(
            schedule,
            consistent_rms=MUON_RMS,
            adam_learning_rate=lambda step: config.vector_rate * schedule(step),
            weight_decay=config.weight_decay,
            adam_b1=config.b1,
            adam_b2=config.b2,
        )
    elif config.name == "adamw":
        step = optax.adamw(
            schedule, config.b1, config.b2, config.eps, weight_decay=config.weight_decay, mask=overlay.decayed
        )
    else:
        step = optax.adam(schedule, config.b1, config.b2, config.eps)
    return optax.chain(*clip, step)


def norm_of(tree: Any) -> jax.Array:
    """Returns the Euclidean norm of all numbers in a tree of real arrays."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def clip_by_norm(most: float) -> optax.GradientTransformation:
    """Clips real gradients like `optax.clip_by_global_norm`, to a norm of at most `most`. (Optax squares their imaginary
    parts.)
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        norm = norm_of(updates)
        small = norm < most
        return jax.tree.map(lambda g: jax.lax.select(small, g, (g / norm) * most), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def init_state(variables: Tree, mask: Tree, optimizer: optax.GradientTransformation, seed: int) -> tuple[TrainState, Tree]:
    """Returns (state before the first step, frozen half of the variables).

    The trained leaves are copied: the step donates them, and a donated buffer must not be the caller's.
    """
    trained, frozen = overlay.split(variables, mask)
    trained = jax.tree.map(jnp.copy, trained)
    return TrainState(jnp.int32(0), trained, optimizer.init(trained), jax.random.key_data(jax.random.key(seed))), frozen


def stacked(state: TrainState, config: OptimizerConfig) -> TrainState:
    """Returns the state with A and B stacked over layers (overlay.by_kind), as a step is fast. `unstacked` is its inverse.

    Muon's state stays as it is: Muon orthogonalises each matrix by itself.
    """
    return state if config.name == "muon" else _by_kind(state)


def unstacked(state: TrainState) -> TrainState:
    """Returns the state as checkpoints and overlays have it, each layer by itself."""
    return _by_layer(state)


_by_kind, _by_layer = jax.jit(overlay.by_kind), jax.jit(overlay.by_layer)


def window_loss(
    model: Qwen2,
    variables: Tree,
    batch: Windows,
    alphabet_A: np.ndarray | None = None,
    key: jax.Array | None = None,
    how: How = HOW,
) -> tuple[jax.Array, jax.Array]:
    """Returns (sum of token losses in nats, number of real tokens) of windows (B, L).

    With `alphabet_A` the softmax is only over these token ids, as under constrained decoding. `key` turns dropout on.
    Parameters in a wider type than the model's are rounded to the model's type here; the optimiser continues with the wider
    ones.
    """
    variables = {**variables, "params": rounded(variables["params"], model.dtype)}
    x_BTD, head, _ = features(model, variables, batch.ids_ML, batch.positions_ML, (), key, how.padding, how.remat)
    labels_BL: jax.Array = batch.labels_ML
    if alphabet_A is not None:
        head, labels_BL = restrict(head, labels_BL, jnp.asarray(alphabet_A))
    logits = how.logits
    if model.mesh is not None:  # each device holds those of its own rows
        logits = (how.logits or CHUNK_LOGITS) * placement.size(model.mesh)
    return cross_entropy(x_BTD, head, labels_BL, logits, how.narrow)


def make_train_step(
    model: Qwen2,
    optimizer: optax.GradientTransformation,
    config: OptimizerConfig,
    steps: int,
    alphabet_A: np.ndarray | None = None,
    skips: bool = False,
    how: How = HOW,
    where: Any = None,
) -> Callable[[TrainState, Tree, Windows], tuple[TrainState, StepMetrics]]:
    """Returns the jitted step (state, frozen, batch) -> (state, metrics); a batch has axes (A, B, L), and state is
    donated. On a mesh, `where` says where the state lies.
    """
    schedule = learning_rates(config, steps)
    step = step_function(model, optimizer, schedule, config.clip_norm, alphabet_A, skips, how)
    return jax.jit(step, donate_argnums=0, compiler_options=compiler_options(model), **results(where))


def results(where: Any) -> dict[str, Any]:
    """Returns what tells `jax.jit` where the results of a step lie: the state as before, the metrics on every device."""
    if where is None:
        return {}
    mesh = jax.tree.leaves(where)[0].mesh
    return {"out_shardings": (where, NamedSharding(mesh, PartitionSpec()))}


def compiler_options(model: Qwen2) -> dict[str, bool | int | str] | None:
    """Returns the options with which a train step of a model is compiled here."""
    if jax.default_backend() == "gpu":
        return CUDA_OPTIONS
    return QUANTISED_CPU_OPTIONS if model.weights != "full" and jax.default_backend() == "cpu" else None


def step_function(
    model: Qwen2,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    clip_norm: float,
    alphabet_A: np.ndarray | None = None,
    skips: bool = False,
    how: How = HOW,
) -> Callable[[TrainState, Tree, Windows], tuple[TrainState, StepMetrics]]:
    """Returns the step (state, frozen, batch) -> (state, metrics) without jit; a batch has axes (A, B, L).

    Losses and gradients are summed over the micro-batches and divided once by the number of real tokens, so that A
    micro-batches of B windows give the step of one batch of A * B. `schedule` and `clip_norm` are those of the optimiser. If
    `skips`, a loss or gradient that is not finite leaves everything unchanged except the step number. The state may
    be `stacked`.
    """

    def loss(trained: Tree, frozen: Tree, micro: Windows, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        several = placement.size(model.mesh) > 1 or (model.mesh is not None and how.remat)
        variables = overlay.joined(trained, frozen, None if several else model.dtype)
        return window_loss(model, variables, micro, alphabet_A, key, how)

    def train_step(state: TrainState, frozen: Tree, batch: Windows) -> tuple[TrainState, StepMetrics]:
        with jax.named_scope("dropout"):
            step_key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

        def add(total, inputs):
            micro, index = inputs
            with jax.named_scope("dropout"):
                key = jax.random.fold_in(step_key, index)
            pair, gradients = jax.value_and_grad(loss, has_aux=True)(state.trained, frozen, micro, key)
            with jax.named_scope("optimizer"):
                return jax.tree.map(jnp.add, total, (pair, gradients)), None

        count = len(batch.ids_ML)
        if count == 1:
            first = jax.tree.map(lambda a: a[0], batch)
            with jax.named_scope("dropout"):
                key = jax.random.fold_in(step_key, 0)
            (loss_sum, tokens), gradients = jax.value_and_grad(loss, has_aux=True)(state.trained, frozen, first, key)
        else:
            zero = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, state.trained))
            ((loss_sum, tokens), gradients), _ = jax.lax.scan(add, zero, (batch, jnp.arange(count)))
        with jax.named_scope("optimizer"):
            real = jnp.maximum(tokens, 1.0)
            gradients = jax.tree.map(lambda g: g / real, gradients)
            norm = norm_of(gradients)
            clipped = jnp.minimum(norm, clip_norm) if clip_norm else norm
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.trained)
            trained = optax.apply_updates(state.trained, updates)
            if skips:
                finite, kept = jnp.isfinite(loss_sum) & jnp.isfinite(norm), (state.trained, state.opt_state)
                trained, opt_state = jax.tree.map(functools.partial(jnp.where, finite), (trained, opt_state), kept)
            metrics = StepMetrics.of(loss_sum, tokens, norm, clipped, schedule(state.step))
            return TrainState(state.step + 1, trained, opt_state, state.key), metrics

    return train_step


def make_validation_step(
    model: Qwen2, alphabet_A: np.ndarray | None = None, how: How = HOW
) -> Callable[[Tree, Tree, Windows], tuple[jax.Array, jax.Array]]:
    """Returns the jitted (trained, frozen, windows (B, L)) -> (sum of losses, number of real tokens), without dropout."""

    def validation_step(trained: Tree, frozen: Tree, batch: Windows) -> tuple[jax.Array, jax.Array]:
        return window_loss(model, overlay.join(trained, frozen), batch, alphabet_A, how=how)

    return jax.jit(validation_step)


# ------------------------------------------------------------------------------------------------ steps


class Batches:
    """The batch of any step: windows drawn without replacement, epoch after epoch, as a function of the step alone.

    `epoch(k)` makes epoch k's windows, the same number in every epoch, so a run that resumes at step n sees the same windows
    as if it had never stopped.
    """

    def __init__(self, epoch: Callable[[int], Windows], batch_size: int, accumulate: int = 1, seed: int = 0):
        self._windows = functools.lru_cache(maxsize=2)(epoch)
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)
        self.shape, self.seed, self.per_epoch = (accumulate, batch_size), seed, epoch(0).number
        if not self.per_epoch:
            raise JaxlvError(
                "no series gives a window", where="windows", hint='lower windows.length, or set windows.partial = "pad"'
            )

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.per_epoch)

    def __call__(self, step: int) -> Windows:
        """Returns the batch (A, B, L) of a step, counted from 0."""
        size = self.shape[0] * self.shape[1]
        epoch_M, place_M = np.divmod(np.arange(step * size, (step + 1) * size), self.per_epoch)
        parts = [
            self._windows(epoch).rows(self._order(epoch)[place_M[epoch_M == epoch]]) for epoch in np.unique(epoch_M).tolist()
        ]
        return Windows(*(np.concatenate(arrays).reshape(*self.shape, -1) for arrays in zip(*parts, strict=True)))


@dataclass
class Step:
    """A step that is dispatched: its number, counted from 1, and the state after it, whose buffers the next step reuses."""

    number: int
    state: TrainState
    metrics: StepMetrics
    lap: Callable[[], float]  # returns the seconds since its last call
    known: bool = False  # whether its figures were read, so that it is done

    def figures(self) -> dict[str, Any]:
        """Waits for the step. Returns its loss (nats per token), perplexity, tokens, gradient_norm, clipped_norm,
        learning_rate, seconds and tokens_per_second; if the step is that of several runs, arrays of one value each.
        """
        figures = self.metrics.values()
        self.known, elapsed = True, self.lap()
        loss = figures.pop("loss_sum") / np.maximum(figures["tokens"], 1.0)
        seconds = np.full_like(loss, elapsed / loss.size)  # for each run
        speed = {"seconds": seconds, "tokens_per_second": figures["tokens"] / seconds}
        every = {"loss": loss, "perplexity": np.exp(np.minimum(loss, 700.0)), **figures, **speed}
        return {name: value if value.ndim else float(value) for name, value in every.items()}


def steps(
    train_step: Callable[[TrainState, Tree, Windows], tuple[TrainState, StepMetrics]],
    state: TrainState,
    frozen: Tree,
    batches: Callable[[int], Windows],
    last: int,
) -> Iterator[Step]:
    """Dispatches the steps from the state's own number up to `last`, and yields each before it dispatches the next.

    To keep the device busy, read the figures of a step only after the next step is dispatched. The state of a step is valid
    until then: copy what must be kept.
    """
    known = time.perf_counter()

    def lap() -> float:
        nonlocal known
        before, known = known, time.perf_counter()
        return known - before

    for number in range(int(np.min(state.step)), last):
        with compiling("the train step", id(train_step)):
            state, metrics = train_step(state, frozen, batches(number))
        step = Step(number + 1, state, metrics, lap)
        yield step
        if step.known:
            lap()  # the device was idle since then, and that time is not part of a step
