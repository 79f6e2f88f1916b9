"""Programs compiled for CUDA, from texts that XLA's CUDA compiler wrote (tests/golden/make.py): no device is needed."""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxlv import flops
from jaxlv.errors import JaxlvError
from jaxlv.flops import audit, programs
from jaxlv.flops.counting import again, hlo_text
from jaxlv.flops.counting.compared import compared
from jaxlv.flops.counting.hlo import count_hlo
from jaxlv.flops.counting.jaxpr import count_closed
from jaxlv.flops.places import placed, products
from jaxlv.flops.subjects import of_work
from jaxlv.flops.table import count
from jaxlv.flops.work import Work
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import Qwen2
from tests.test_hlo_turns import sampled

GOLDEN = Path(__file__).parent / "golden"
SMALL = ModelConfig(512, 64, 160, 2, 4, 2, 16, tie_word_embeddings=True)
WIDE = ModelConfig(512, 256, 192, 2, 4, 2, 64, tie_word_embeddings=True)  # cuDNN needs head sizes that are multiples of 8


@dataclasses.dataclass(frozen=True)
class Case:
    """A program, the compiler's options, and the excess that it executes: {component, word: FLOPs}."""

    program: str
    work: Work
    dtype: str = "bfloat16"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    excess: frozenset[str] = frozenset()


CUBLAS = {"xla_gpu_enable_triton_gemm": False}
CASES = {
    "train-triton": Case(
        "train_step", Work(SMALL, 2, 64, 4),
        excess=frozenset(f"{name}_proj, padded for a kernel" for name in ("down", "gate", "up")),
    ),
    "train-cublas": Case(
        "train_step", Work(SMALL, 2, 64, 4), options=CUBLAS,
        excess=frozenset({f"{name}_proj lora {part}, padded for a kernel" for name in "qv" for part in "AB"}),
    ),
    "train-remat": Case(
        "train_step", Work(SMALL, 2, 64, 4, remat=True), options=CUBLAS,
        excess=frozenset({f"{name}_proj lora {part}, padded for a kernel" for name in "qv" for part in "AB"}),
    ),
    "train-cudnn": Case("train_step", Work(WIDE, 2, 64, 8, kernel="cudnn")),
    "forward-float32": Case("forward", Work(SMALL, 2, 64, 4), "float32"),
    "decode-1": Case("decode_step", Work(SMALL, 1, 64, 4), excess=frozenset({"q_proj lora B, repeated"})),
    "decode-2-cublas": Case("decode_step", Work(SMALL, 2, 64, 8), options=CUBLAS, excess=frozenset({"every"})),
}  # fmt: skip


def program_of(case: Case) -> programs.Program:
    """Returns the program on abstract arguments."""
    model = Qwen2(case.work.model, jnp.dtype(case.dtype), case.work.kernel)
    if case.program == "decode_step":
        return programs.decode_program(case.work, model, 64)
    return (programs.forward_program if case.program == "forward" else programs.train_program)(case.work, model)


def traced(program: programs.Program) -> Any:
    """Returns the jaxpr of a program."""
    function: Any = program.function if hasattr(program.function, "trace") else jax.jit(program.function)
    return function.trace(*program.arguments).jaxpr


def text_of(name: str) -> str:
    """Returns what the compiler has made of a program."""
    return gzip.decompress((GOLDEN / f"{name}.hlo.gz").read_bytes()).decode()


def formula_of(case: Case) -> dict[tuple[str, str], int]:
    """Returns the formula's rows."""
    work = case.work
    if case.program == "decode_step":
        work = dataclasses.replace(work, length=1, cache=128, last_only=True)
    return count(work, "exact").by_component("train step" if case.program == "train_step" else "forward")


@pytest.mark.parametrize("name", CASES)
def test_formula_jaxpr_and_cuda_text_agree(name, monkeypatch):
    """Per component and phase; what the compiler executes in addition is padding, or repeated by a fusion, in its own
    row.
    """
    case = CASES[name]
    executed = count_hlo(text_of(name))
    if case.work.kernel == "cudnn":
        let_cudnn_trace(monkeypatch)
    jaxpr = traced(program_of(case))
    found = count_closed(jaxpr).tallies
    asked = products(placed(found))
    rows = audit.compare(name, formula_of(case), asked, placed(executed.tallies))
    assert not executed.doubts
    own = {(row.component, row.phase): row for row in rows}
    assert {row.verdict for row in rows if row.jaxpr} == {audit.EQUAL}, rows
    beyond = {component for component, _ in own if component.endswith(tuple(audit.EXCESS.values()))}
    if case.excess == {"every"}:
        assert {f"{component}, padded for a kernel" for component, _ in asked} == beyond
    else:
        assert beyond == case.excess
    assert sum(row.hlo for row in rows) == sum(products(placed(executed.tallies)).values())
    elements = compared(found, again.spared(jaxpr), executed.tallies, audit._once, casts=case.dtype == "float32")
    assert len(elements) > 16 and not [row for row in elements if row.excess]


def test_windows_padded_on_the_right_are_attended_to_without_a_mask_in_memory():
    """cuDNN's own causal mask: neither a bias nor its gradient is an operand or a result."""
    computations = hlo_text.parse(text_of("train-cudnn")).computations.values()
    calls = [one for computation in computations for one in computation.values() if "fmha" in one.target]
    assert {one.config["cudnn_fmha_backend_config"]["mask_type"] for one in calls} == {"CAUSAL"}
    # Queries, keys, values; backward their gradients, from these, the sums, the result and its gradient; and work space.
    found = [(one.target, len(one.operands), len(one.arrays) - 1) for one in calls]
    layers = CASES["train-cudnn"].work.model.num_hidden_layers
    assert sorted(found) == sorted([("__cudnn$fmhaSoftmax", 3, 2), ("__cudnn$fmhaSoftmaxBackward", 6, 3)] * layers)


@pytest.mark.parametrize("guesses", [False, True])
def test_a_generation_executes_on_cuda_what_it_asks_for(guesses):
    """Including the sorts and running sums of its sampler, and the guesses that it reads and verifies."""
    subject = sampled(guesses)
    executed = count_hlo(text_of("generation-guesses" if guesses else "generation"), subject.trips)
    jaxpr = traced(subject.program)
    rows = compared(
        count_closed(jaxpr, subject.trips).tallies, again.spared(jaxpr, subject.trips), executed.tallies, audit._once
    )
    assert {row.place.component for row in rows} >= {"sampling", "mask", "norms"} and not [row for row in rows if row.excess]


def let_cudnn_trace(monkeypatch) -> None:
    """Allows tracing cuDNN's attention, which asks for a device of the right kind, without one."""
    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo", reason="jax keeps cuDNN attention elsewhere")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91_000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda *_: True)


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="needs jaxlv[cuda-compiler]")
def test_the_audit_compiles_for_a_device_that_is_not_there():
    from jaxlv.flops.targets import cuda

    if jax.default_backend() != "cpu":
        pytest.skip("there is a device")
    for found in audit.audit(of_work(Work(SMALL, 2, 64, 4, dtype="bfloat16")), target=cuda()):
        assert found.passed, found.gates


def test_any_function_is_counted_for_a_device_that_is_not_there():
    """Without a compiler for it, the error says so."""

    def loss(w, x):
        with jax.named_scope("layer"):
            return (jnp.tanh(x @ w) ** 2).sum()

    sides = jax.ShapeDtypeStruct((64, 64), jnp.bfloat16), jax.ShapeDtypeStruct((128, 64), jnp.bfloat16)
    if importlib.util.find_spec("jax_cuda12_plugin") is None and jax.default_backend() == "cpu":
        with pytest.raises(JaxlvError, match="no CUDA device here, and no compiler for one"):
            flops.count(loss, *sides, backend="cuda")
        return
    found = flops.count(jax.grad(loss), *sides, backend="cuda")
    assert found.jaxpr.products == found.hlo.at("layer").products == 2 * 2 * 128 * 64 * 64
    assert not found.hlo.doubts and found.target
