"""What several test files need: strict settings, the reference folder, small random models."""

from __future__ import annotations

import dataclasses
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlv.config import LoraConfig
from jaxlv.data.series import SeriesSet, from_arrays
from jaxlv.lora import overlay
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import Qwen2
from jaxlv.model.weights import abstract_params, load_pretrained, save_pretrained, unflatten
from jaxlv.steps import kept
from tests.programs import work as work

jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_legacy_prng_key", "error")
hypothesis.settings.register_profile("jaxlv", deadline=None, derandomize=True, database=None, max_examples=100)
hypothesis.settings.load_profile("jaxlv")

# Files that take longest, which would otherwise come last and leave a worker idle; the longest first.
LONG = (
    "test_mesh", "test_processes", "test_docs_run", "test_tools", "test_failures", "test_generate", "test_audit",
    "test_quantised", "test_kills", "test_model", "test_train", "test_sweep", "test_stack", "test_flops_counters",
    "test_verbs", "test_export", "test_flops_everything", "test_fuzz", "test_reproduce", "test_benchmarks", "test_training",
    "test_run", "test_prompts", "test_compare", "test_data_files", "test_budget", "test_cuda_benchmark",
)  # fmt: skip


def pytest_collection_finish() -> None:
    """Python looks for garbage less often, and not among what has been imported: tracing makes millions of objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


TINY = ModelConfig(
    vocab_size=61,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    tie_word_embeddings=True,
)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data and files, which is not part of the project."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("JAXLV_SHARED") or beside)
    if not folder.is_dir():
        pytest.skip(f"no reference folder at {folder}: set JAXLV_SHARED")
    return folder


@pytest.fixture(scope="session")
def random_model() -> Callable[..., tuple[Qwen2, dict[str, Any]]]:
    """(seed, dtype, **changes to TINY) -> (model, params) of random weights, norms and biases, activations of order 1."""

    def make(seed: int = 0, dtype: str = "float32", **changes: Any) -> tuple[Qwen2, dict[str, Any]]:
        model = Qwen2(dataclasses.replace(TINY, **changes), jnp.dtype(dtype))
        generator = np.random.default_rng(seed)

        def draw(name: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
            noise = generator.normal(size=leaf.shape)
            if name.endswith("bias") or "norm" in name:
                return jnp.asarray(("norm" in name) + 0.3 * noise, leaf.dtype)
            return jnp.asarray(noise / leaf.shape[-1] ** 0.5, leaf.dtype)

        return model, unflatten({name: draw(name, leaf) for name, leaf in abstract_params(model).items()}, model)

    return make


@pytest.fixture(scope="session")
def random_lora() -> Callable[..., dict[str, Any]]:
    """(params, seed, **settings) -> an overlay whose B and head bias are random too, so that it changes the base."""

    def make(params: dict[str, Any], seed: int = 0, **settings: Any) -> dict[str, Any]:
        lora = overlay.init_lora(jax.random.key(seed), params, LoraConfig(**settings))
        generator = np.random.default_rng(seed)

        def draw(path: Any, leaf: jax.Array) -> jax.Array:
            trained = path[-1].key in ("B", "bias")
            return jnp.asarray(generator.normal(size=leaf.shape) * 0.3, leaf.dtype) if trained else leaf

        return jax.tree_util.tree_map_with_path(draw, lora)

    return make


@pytest.fixture(scope="session")
def random_hf() -> Callable[..., Any]:
    """(seed, **settings) -> a float32 transformers.Qwen2ForCausalLM with random weights, norms and biases."""
    torch = pytest.importorskip("torch", reason="parity with transformers needs PyTorch")
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    torch.set_num_threads(1)  # threads that wait for each other, spinning, cost more than such models
    tiny = {**dataclasses.asdict(TINY), "eos_token_id": None, "pad_token_id": None, "bos_token_id": None}

    def make(seed: int = 0, **settings: Any) -> Any:
        torch.manual_seed(seed)
        given = {**tiny, "head_dim": None, **settings}
        config = transformers.Qwen2Config(**{key: value for key, value in given.items() if value is not None})
        config._attn_implementation = "eager"
        model = transformers.Qwen2ForCausalLM(config).to(torch.float32).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("bias") or "norm" in name:
                    weight.normal_(float("norm" in name), 0.3)
                else:
                    weight.normal_(0.0, weight.shape[-1] ** -0.5)
        return model

    return make


@pytest.fixture(scope="session")
def through_disk(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Qwen2, dict[str, Any]]]:
    """(Hugging Face model, dtype) -> our (model, params), by save_pretrained and load_pretrained."""

    def make(hf: Any, dtype: str = "float32") -> tuple[Qwen2, dict[str, Any]]:
        folder = tmp_path_factory.mktemp("hf")
        hf.save_pretrained(folder)
        return load_pretrained(folder, dtype)

    return make


@pytest.fixture(scope="session")
def tiny_base(random_model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Qwen2.5 of 32 tokens and one layer; no tokenizer files, so Qwen's own ids."""
    sizes = {"hidden_size": 32, "head_dim": 8, "num_hidden_layers": 1, "max_position_embeddings": 512}
    model, params = random_model(vocab_size=32, **sizes)
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    save_pretrained(folder, model, params)
    return folder


@pytest.fixture(scope="session")
def waves() -> Callable[..., SeriesSet]:
    """(count, steps) -> series of two species that rise and fall, each with a period and a height of its own."""

    def make(count: int = 12, steps: int = 24) -> SeriesSet:
        random, time = np.random.default_rng(7), 2.0 * np.arange(steps)
        period_N11, height_N1V = random.uniform(12, 30, (count, 1, 1)), random.uniform(0.3, 2.0, (count, 1, 2))
        lag_V = np.array([0.0, 0.25])
        values_NTV = height_N1V * (1.3 + np.sin(2 * np.pi * (time[:, None] / period_N11 - lag_V)))
        return from_arrays(values_NTV.astype(np.float32), time)

    return make


@pytest.fixture(scope="session", autouse=True)
def compile_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Equal programs are compiled once in a session, by whichever worker comes first or a process that it starts."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of all workers
    kept_in = {"compilation_cache_dir": str(folder / "compiled"), "persistent_cache_min_compile_time_secs": 0.2}
    for name, value in kept_in.items():
        jax.config.update(f"jax_{name}", value)
        os.environ[f"JAX_{name.upper()}"] = str(value)
    kept.keep_in = lambda folder: None  # a program that is kept does not know what a test has replaced
