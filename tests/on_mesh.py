"""What a mesh of eight virtual devices computes, beside one device: `python -m tests.on_mesh CHECK ...` prints JSON.

A process of its own, because the number of devices is fixed when JAX begins.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

import jaxlv
from jaxlv.config import LoraConfig, MeshConfig, ModelSettings, OptimizerConfig, RunConfig, TrainConfig, WindowConfig
from jaxlv.data import dynamics
from jaxlv.flops import traffic
from jaxlv.flops.targets import cpu
from jaxlv.forecasting.likelihood import nats_per_value
from jaxlv.forecasting.request import Request
from jaxlv.model import placement, quantised
from jaxlv.model.bits import Bits
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import Qwen2
from jaxlv.model.weights import abstract_params, unflatten
from jaxlv.runs import audited
from jaxlv.steps.footprint import footprint
from jaxlv.steps.stack import Stack
from jaxlv.steps.train import steps
from jaxlv.text.tokens import Windows

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")

BATCH, LENGTH, VOCABULARY = 8, 24, 96
WIDTHS = {"14/2": (896, 64, 4864), "12/2": (1536, 128, 8960), "16/2": (2048, 128, 11008), "28/4": (3584, 128, 18944)}


def architecture(heads: str, true: bool = False, layers: int = 2) -> ModelConfig:
    """Layers of narrow heads, or as wide as the family's."""
    queries, keys = map(int, heads.split("/"))
    hidden, head, inner = WIDTHS[heads] if true else (64, 16, 128)
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "head_dim": head, "num_hidden_layers": layers}
    return ModelConfig(
        vocab_size=VOCABULARY, num_attention_heads=queries, num_key_value_heads=keys, tie_word_embeddings=True, **sizes
    )


def weights(model: Qwen2) -> dict[str, Any]:
    draw = np.random.default_rng(0)

    def one(name: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        noise = draw.normal(size=leaf.shape).astype(np.float32)
        if "norm" in name or name.endswith("bias"):
            return jnp.asarray(("norm" in name) + 0.3 * noise, leaf.dtype)
        return jnp.asarray(noise / leaf.shape[-1] ** 0.5, leaf.dtype)

    return unflatten({name: one(name, leaf) for name, leaf in abstract_params(model).items()}, model)


def in_bits(bits: Bits, params: Any) -> Any:
    """The weights with their projections as codes and scales."""
    found = {}
    for path, leaf in traverse_util.flatten_dict(params).items():
        coded = path[-1] == "weight" and path[-2].endswith("_proj")
        parts = quantised.quantised(bits, np.asarray(leaf)) if coded else {path[-1]: leaf}
        found |= {(*path[:-1], name): jnp.asarray(part) for name, part in parts.items()}
    return traverse_util.unflatten_dict(found)


def batch(step: int, micro: int = 2) -> Windows:
    ids = np.random.default_rng(step).integers(0, VOCABULARY, (micro, BATCH, LENGTH)).astype(np.int32)
    labels = np.concatenate([ids[..., 1:], np.full((micro, BATCH, 1), -1, np.int32)], -1)
    return Windows(ids, np.broadcast_to(np.arange(LENGTH, dtype=np.int32), ids.shape).copy(), labels)


def on(data: int, parts: int, model: Qwen2, params: Any, fsdp: bool = False) -> tuple[Qwen2, Any]:
    """The model and its weights on so many devices."""
    if data * parts == 1:
        return model, params
    mesh = placement.make_mesh(data, parts)
    where = placement.shardings(params, model.config, mesh, fsdp=fsdp)
    return model.clone(mesh=mesh, fsdp=fsdp), placement.placed(params, where)


def stack(data: int, parts: int, model: Qwen2, params: Any, runs: int = 1, **how: Any) -> Stack:
    config = RunConfig(
        train=TrainConfig(batch_size=BATCH, accumulate=2, steps=20),
        lora=LoraConfig(rank=4, dropout=how.get("dropout", 0.1), targets=("all-linear",)),
        optimizer=OptimizerConfig(learning_rate=how.get("rate", 1e-2), clip_norm=1.0),
        model=ModelSettings(remat=how.get("remat", False)),
    )
    seeds = (dataclasses.replace(config.train, seed=seed) for seed in range(runs))
    configs = [dataclasses.replace(config, train=train) for train in seeds]
    return Stack(*on(data, parts, model, params, how.get("fsdp", False)), configs)


def losses(made: Stack, number: int) -> np.ndarray:
    take, runs = made.step(), len(made)
    batches = lambda step: made.batch([batch(step * runs + run) for run in range(runs)])  # noqa: E731
    found = [one.figures()["loss"] for one in steps(take, made.state, made.frozen, batches, number)]
    assert take._cache_size() == 1, "a second step was compiled"
    return np.array(found)


def differences(
    heads: list[str], meshes: list[tuple[int, int]], number: int, true: bool = False, layers: int = 2, dropout: float = 0.1
) -> dict[str, float]:
    """The largest difference of losses from one device's, by heads and mesh."""
    found = {}
    rate = 1e-3 if true else 1e-2  # 1e-2 is too high for true widths: the last bit of the weights moves a loss by 5e-6
    for name in heads:
        model = Qwen2(architecture(name, true, layers))
        params = weights(model)
        one = losses(stack(1, 1, model, params, rate=rate, dropout=dropout), number)
        for mesh in meshes:
            other = losses(stack(*mesh, model, params, rate=rate, dropout=dropout), number)
            found[f"{name} on {mesh[0]}x{mesh[1]}"] = float(abs(other - one).max())
    return found


def quick() -> dict[str, float]:
    """Heads of queries that devices do not divide, in one layer, and such that they do, in two with dropout."""
    whole = differences(["14/2"], [(2, 4)], 3, layers=1, dropout=0.0)
    return whole | differences(["16/2"], [(2, 4)], 3)


def every() -> dict[str, float]:
    meshes = [(8, 1), (4, 2), (2, 4), (1, 8)]
    return differences(["14/2", "12/2", "16/2", "28/4", "40/8"], meshes, 20)


def wide() -> dict[str, float]:
    """As wide as the family: up to 7B."""
    return differences(["14/2", "12/2", "16/2"], [(4, 2), (2, 4)], 3, true=True)


def programs() -> dict[str, Any]:
    """What the compiled steps say: collectives of a step over data alone, in bfloat16, and audits."""
    model = Qwen2(architecture("14/2"), jnp.dtype("bfloat16"))
    made = stack(8, 1, model, weights(model), dropout=0.0)
    one = made.batch([batch(0, 1)])
    text = made.step().lower(made.state, made.frozen, one).compile().as_text()
    lines = [line for line in text.splitlines() if " all-reduce(" in line or "all-reduce-start(" in line]
    config = RunConfig(train=TrainConfig(batch_size=BATCH), windows=WindowConfig(length=32), lora=LoraConfig(rank=4))
    audits = {
        f"{heads} on {data}x{parts}": audited.on_mesh(config, architecture(heads), placement.make_mesh(data, parts), cpu())
        for heads, data, parts in (("14/2", 4, 2), ("16/2", 2, 4))
    }
    symbols = dataclasses.replace(config, model=ModelSettings(loss="alphabet"))
    one_layer = architecture("14/2", layers=1)
    audits["14/2 on 4x2, alphabet"] = audited.on_mesh(symbols, one_layer, placement.make_mesh(4, 2), cpu())
    return {
        "kinds": sorted({one.kind for one in traffic.collectives(text)}),
        "bytes": sum(one.bytes for one in traffic.collectives(text)),
        "trained": sum(leaf.nbytes for leaf in jax.tree.leaves(made.state.trained)),
        "narrow sums": sum("promoted" in line for line in lines),
        "audits": {name: one.passed for name, one in audits.items()},
        "repeated": {name: sum(row.repeated for row in one.rows) for name, one in audits.items()},
        "totals": {name: [one.traffic[-1].formula, one.traffic[-1].executed] for name, one in audits.items()},
    }


def gathered() -> dict[str, Any]:
    """Weights over data: losses, what is gathered, and where the weights lie."""
    model = Qwen2(architecture("16/2"))
    params = weights(model)
    flat = Qwen2(architecture("16/2", layers=1), weights="int8")
    codes = in_bits("int8", weights(flat.clone(weights="full")))
    coded = {data: stack(data, parts, flat, codes, dropout=0.0) for data, parts in ((1, 1), (2, 4))}
    made = stack(4, 2, model, params, fsdp=True, remat=True)
    text = made.step().lower(made.state, made.frozen, made.batch([batch(0)])).compile().as_text()
    of_one = batch(0)
    barriers = [
        one.step().lower(one.state, one.frozen, one.batch([of_one])).as_text().count("optimization_barrier")
        for one in (made, stack(4, 2, model, params), stack(1, 1, model, params, remat=True))
    ]
    gate = made.frozen["params"]["model.layers.0"]["mlp"]["gate_proj"]["weight"]
    return {
        "difference": float(abs(losses(made, 2) - losses(stack(1, 1, model, params), 2)).max()),
        "in 8 bits": float(abs(losses(coded[2], 2) - losses(coded[1], 2)).max()),
        "spec": list(gate.sharding.spec),
        "barriers": barriers,
        "gathers": sum(one.kind == "all-gather" for one in traffic.collectives(text)),
    }


def held() -> dict[str, Any]:
    """Bytes on the first device of parameters, and of what trains with its moments: by its arrays, and as they are told."""
    found = {}
    cases = (
        ("14/2", 2, 4, False, "full"),
        ("16/2", 2, 4, False, "nf4"),
        ("28/4", 4, 2, True, "full"),
        ("12/2", 4, 2, True, "int8"),
    )
    for heads, data, parts, fsdp, bits in cases:
        model = Qwen2(architecture(heads), weights=bits)
        params = weights(model.clone(weights="full"))
        made = stack(data, parts, model, params if bits == "full" else in_bits(bits, params), fsdp=fsdp)
        told = footprint(dataclasses.replace(made.configs[0], mesh=MeshConfig(fsdp=fsdp)), model, data, parts)
        trees = made.frozen["params"], (made.state.trained, made.state.opt_state)
        leaves = [[leaf for leaf in jax.tree.leaves(tree) if leaf.ndim] for tree in trees]
        own = [sum(leaf.addressable_shards[0].data.nbytes for leaf in tree) for tree in leaves]
        found[f"{heads} on {data}x{parts}"] = [*own, told.parameters, told.state]
    return found


def runs() -> dict[str, float]:
    """Stacked runs over data, one on each device."""
    model = Qwen2(architecture("14/2", layers=1))
    params = weights(model)
    made = stack(8, 1, model, params, 8, dropout=0.0)
    text = made.step().lower(made.state, made.frozen, made.batch([batch(run) for run in range(8)])).compile().as_text()
    one, several = losses(stack(1, 1, model, params, 8, dropout=0.0), 2), losses(made, 2)
    return {
        "first": float(abs(one - several)[0].max()),
        "difference": float(abs(one - several).max()),
        "bytes sent": sum(one.bytes for one in traffic.collectives(text)),
    }


def forecasts(layers: int = 1) -> dict[str, Any]:
    """Samples and likelihoods of the embedded base's first layers, of a number of series that the mesh does not divide."""
    sampler = jaxlv.Forecaster("embedded", progress=False).sampler
    cut = dataclasses.replace(sampler.model.config, num_hidden_layers=layers)
    sampler = dataclasses.replace(sampler, model=sampler.model.clone(config=cut))
    series, request = dynamics.draw("course", 3, 0), Request(30, 4, 4, batch=3)
    params, found = sampler.variables["params"], {}
    samples, nats = sampler(series, request).samples_NSHV, nats_per_value(sampler, series, 30, 4)
    for mesh in ((4, 2),):
        model, own = on(*mesh, sampler.model, params)
        other = dataclasses.replace(sampler, model=model, variables={"params": own})
        equal = np.array_equal(samples, other(series, request).samples_NSHV)
        found["x".join(map(str, mesh))] = [equal, float(abs(nats_per_value(other, series, 30, 4) - nats).max())]
    return found


def deep() -> dict[str, Any]:
    """The same of all its layers."""
    return forecasts(10)


CHECKS: dict[str, Callable[[], Any]] = {
    one.__name__: one for one in (quick, every, wide, programs, gathered, held, runs, forecasts, deep)
}

if __name__ == "__main__":
    print(json.dumps({name: CHECKS[name]() for name in sys.argv[1:]}))
