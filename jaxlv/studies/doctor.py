"""What this machine is, and whether the training step of a config fits in its memory."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlv.config import Kernel, RunConfig
from jaxlv.errors import JaxlvError
from jaxlv.flops.family import architecture
from jaxlv.lora import overlay
from jaxlv.memory import GIB, device_memory
from jaxlv.model import weights
from jaxlv.model.config import ModelConfig
from jaxlv.model.placement import Cuts
from jaxlv.model.qwen2 import Qwen2
from jaxlv.runs import billing, sources
from jaxlv.runs.devices import check_kernel, kept_programs
from jaxlv.steps import needs
from jaxlv.steps.footprint import Footprint, footprint
from jaxlv.steps.stack import how_of
from jaxlv.steps.train import init_state, make_optimizer, make_train_step, stacked
from jaxlv.text.tokens import Windows, load_alphabet
from jaxlv.versions import versions

UNTOLD = 0.03  # by which XLA's plans may exceed the formulas, as a share
SIZE = 2048  # of the square matrices whose product is timed
KERNELS = {
    "xla": "XLA's own kernels (jaxlv.model.attention.attend)",
    "blocked": "XLA's own kernels, block by block (training and prefill; decoding runs on xla)",
    "cudnn": "cuDNN's fused kernel (training and prefill; decoding runs on xla)",
}


@dataclass(frozen=True)
class Machine:
    """The versions of what is installed, the devices, and the memory of the first device in bytes."""

    versions: Mapping[str, str]
    devices: Sequence[str]
    memory: int
    memory_origin: str  # where that figure is from, in words
    programs: Mapping[str, Any]  # that are kept compiled: folder, number and bytes of jaxlv's and of XLA's

    @property
    def facts(self) -> dict[str, str]:
        """Returns versions, devices and memory in words, by name."""
        memory = f"{self.memory / GIB:.1f} GiB, {self.memory_origin}"
        return {**self.versions, "devices": ", ".join(self.devices), "memory": memory, "compiled programs": self._kept()}

    def _kept(self) -> str:
        """Returns in words what starts faster in this process than in the first one."""
        one = self.programs
        if not one["folder"]:
            return "none are kept (JAX_ENABLE_COMPILATION_CACHE=false)"
        own, others = (f"{one[name]} ({one[name + '_bytes'] / 1e6:.1f} MB)" for name in ("own", "xla"))
        return f"{own} of jaxlv, {others} of XLA, in {one['folder']}; delete it to compile anew"

    def tree(self) -> dict[str, object]:
        """Returns it as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a training step, as XLA plans it."""

    weights: int
    trained: int  # adapters and the optimiser's moments
    temporaries: int

    @property
    def total(self) -> int:
        """Returns the sum."""
        return self.weights + self.trained + self.temporaries


@dataclass(frozen=True)
class Fit:
    """What a training step takes: memory, FLOPs of its matrix products, and the rate at which products are computed."""

    attention: str
    memory: StepMemory
    flops: int  # by the convention `exact`
    rate: float  # FLOP/s

    @property
    def seconds(self) -> float:
        """Returns the least time of a step, that of its matrix products alone; small models take several times that."""
        return self.flops / self.rate

    def tree(self, here: Machine) -> dict[str, object]:
        """Returns it as JSON, with whether it fits a machine."""
        sizes = {"attention": self.attention, "step_bytes": asdict(self.memory), "step_flops": self.flops}
        pace = {"flops_per_second": self.rate, "least_seconds_per_step": self.seconds}
        return {**sizes, **pace, "fits": self.memory.total <= here.memory}


def machine() -> Machine:
    """Returns what this machine is."""
    devices = jax.devices()
    return Machine(versions(), [str(one) for one in devices], *device_memory(devices[0]), kept_programs()._asdict())


def fit(config: RunConfig) -> Fit:
    """Returns what a training step of a config takes here. Compiles it, and times a matrix product.

    Raises JaxlvError if its attention kernel cannot run here, or if it needs more memory than this machine can have.
    """
    check_kernel(config.model.attention)
    sources.check_fits([config])  # XLA would spend long on planning what cannot fit
    model = ModelConfig.from_folder(weights.base_of(config.model))
    flops, rate = billing.event_of(config).flops(model, "exact"), matmul_rate(config.model.dtype)
    return Fit(config.model.attention, step_memory(config), flops, rate)


def facts(config: RunConfig, fit: Fit, here: Machine) -> dict[str, str]:
    """Returns in words, by name, what a training step takes; "verdict" is there only if it fits this machine."""
    memory, minutes = fit.memory, fit.seconds * config.train.steps / 60
    parts = f"weights {memory.weights / GIB:.2f}, adapters, optimiser {memory.trained / GIB:.3f}"
    least = f"at least {fit.seconds:.2f} s a step, {minutes:.1f} minutes for {config.train.steps} steps"
    found = {
        "attention": KERNELS[config.model.attention],
        "training step": f"{memory.total / GIB:.2f} GiB: {parts}, temporaries {memory.temporaries / GIB:.2f}",
        "matrix products": f"{fit.rate / 1e9:,.0f} GFLOP/s measured ({config.model.dtype})",
        "time": f"{least} (matrix products alone; small models take several times that)",
    }
    fits = {"verdict": f"fits: {memory.total / here.memory:.0%} of the memory"} if memory.total <= here.memory else {}
    return {**found, **fits}


def refused(where: Any, fit: Fit, here: Machine) -> JaxlvError | None:
    """Returns the error of a config that does not fit this machine's memory; None if it fits."""
    if fit.memory.total <= here.memory:
        return None
    return JaxlvError(
        "the config does not fit",
        where=where,
        expected=f"at most {here.memory / GIB:.1f} GiB",
        found=f"{fit.memory.total / GIB:.1f} GiB",
        hint="lower train.batch_size (raise train.accumulate), windows.length, or use model.dtype bfloat16",
    )


def step_memory(config: RunConfig) -> StepMemory:
    """Returns the memory of a config's training step. Compiles the step; no weights are read."""
    base = weights.base_of(config.model)
    model = sources.architecture_of(config.model, base)
    t, length = config.train, config.windows.length
    shapes = weights.unflatten(weights.abstract_params(model), model)

    def start(params: Any) -> Any:
        variables = {"params": params, "lora": overlay.init_lora(jax.random.key(0), params, config.lora)}
        state, frozen = init_state(variables, overlay.trainable(variables), optimizer, 0)
        return stacked(state, config.optimizer), frozen

    optimizer = make_optimizer(config.optimizer, t.steps)
    state, frozen = jax.eval_shape(start, shapes)
    alphabet_A = load_alphabet(base, model.config.vocab_size).ids_A if config.model.loss == "alphabet" else None
    tokens: Any = jax.ShapeDtypeStruct((t.accumulate, t.batch_size, length), jnp.int32)
    batch = Windows(tokens, tokens, tokens)
    step: Any = make_train_step(
        model, optimizer, config.optimizer, t.steps, alphabet_A, how=how_of(config, needs.logits(config, model))
    )
    plan = step.lower(state, frozen, batch).compile().memory_analysis()

    def size(tree: Any) -> int:
        return sum(int(np.prod(leaf.shape)) * (leaf.dtype.itemsize if leaf.shape else 4) for leaf in jax.tree.leaves(tree))

    return StepMemory(size(frozen), size((state.trained, state.opt_state)), plan.temp_size_in_bytes)


@dataclass(frozen=True)
class Share:
    """What a config takes on each of `data` times `split` devices: the first share its windows, the second its
    parameters, as the mesh places them.
    """

    data: int
    split: int
    attention: str
    remat: bool
    bytes: Footprint
    memory: int

    @property
    def fits(self) -> bool:
        """Tells whether a train step, and a forecast, fit in a device's memory, even if the formulas tell too little."""
        return max(self.bytes.training, self.bytes.parameters + self.bytes.cache) <= (1 - UNTOLD) * self.memory

    @property
    def words(self) -> str:
        """Returns its parts in words."""
        b = self.bytes
        whole = f" ({b.repeated / 1e9:.3f} of them whole on all {self.split})" if self.split > 1 else ""
        parts = f"parameters {b.parameters / 1e9:.2f}{whole}, adapters and optimiser {b.state / 1e9:.3f}"
        rest = f"activations {b.activations / 1e9:.2f}; keys and values of a forecast {b.cache / 1e9:.2f}"
        return f"{b.training / 1e9:.2f} GB, {'fits' if self.fits else 'does not fit'}: {parts}, {rest}"

    @property
    def name(self) -> str:
        """Returns how it is shared and computed."""
        return f"{self.data} x {self.split}, {self.attention}{', remat' if self.remat else ''}"

    def tree(self) -> dict[str, object]:
        """Returns it as JSON."""
        return {**asdict(self), "fits": self.fits}


def shares(config: RunConfig, devices: int, memory: float) -> list[Share]:
    """Returns what a config takes on devices of so many GB each, by formula (jaxlv.steps.footprint): no device is asked.

    Its windows are shared by as many devices as divide its batch, and its parameters by the others; each way is told with
    XLA's attention and cuDNN's, without remat and with it.
    """
    settings, size = config.model, int(memory * 1e9)
    sizes = architecture(settings.path)
    kernels: tuple[Kernel, ...] = ("xla", "cudnn") if settings.dtype == "bfloat16" else ("xla",)
    ways = (one for one in range(1, devices + 1) if devices % one == 0)
    splits = [split for split in ways if config.train.batch_size % (devices // split) == 0]
    found = []
    for split, attention, remat in itertools.product(splits, kernels, (False, True)):
        if attention == "cudnn" and Cuts.of(sizes, split).shares_keys:
            continue  # jaxlv.model.placement.check_attention
        model = Qwen2(sizes, jnp.dtype(settings.dtype), attention, weights=settings.weights)
        asked = replace(config, model=replace(settings, attention=attention, remat=remat))
        data = devices // split
        held = footprint(asked, model, data, split).parameters
        taken = footprint(asked, model, data, split, needs.logits_in(asked, model, size - held))
        found.append(Share(data, split, attention, remat, taken, size))
    return found


def matmul_rate(dtype: str, size: int = SIZE) -> float:
    """Returns the measured FLOP/s of a product of two `size` x `size` matrices, the best of three."""
    a = jnp.ones((size, size), dtype)
    multiply = jax.jit(lambda x: x @ x)
    multiply(a).block_until_ready()
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        multiply(a).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)
