"""The audit is green for what the model does, and red, in the right component, for anything else that is put into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxlv.config import RunConfig, build_config
from jaxlv.errors import JaxlvError
from jaxlv.flops import audit
from jaxlv.flops.counting.compared import SCALARS
from jaxlv.flops.subjects import of_work
from jaxlv.flops.work import Work
from jaxlv.model import attention, qwen2
from jaxlv.model.config import ModelConfig
from jaxlv.runs import audited
from jaxlv.steps import decode, loss, train

SMALL = ModelConfig(37, 12, 22, 1, 4, 2, 6, tie_word_embeddings=True)
WORK = Work(SMALL, 2, 16, 3)


@pytest.fixture(autouse=True)
def nothing_is_remembered():
    """Clears JAX's caches, in which the trace of a function would also serve its patched successor."""
    jax.clear_caches()
    yield
    jax.clear_caches()


def red(found: list[audit.ProgramAudit]) -> set[str]:
    """Returns the components whose operations differ between formula and jaxpr."""
    return {row.component for one in found for row in one.every if row.verdict == audit.DIFFERS}


# ----------------------------------------------------------------------------------------------------- green


@pytest.mark.parametrize(
    "work",
    [
        WORK,
        Work(SMALL, 2, 16, 3, dtype="bfloat16"),
        Work(SMALL, 2, 16, 1),
        Work(SMALL, 2, 1, 3),
        Work(ModelConfig(37, 1, 22, 1, 4, 2, 6, tie_word_embeddings=True), 2, 5, 3),
        Work(SMALL, 1, 21, 2, ("k_proj", "o_proj", "down_proj"), "alphabet", "full", "blocked"),
        Work(SMALL, 2, 7, 0, (), train="head"),
        Work(SMALL, 2, 16, 3, ("q_proj", "down_proj"), dropout=True, dtype="bfloat16", remat=True),
        Work(SMALL, 2, 16, 3, ("v_proj", "up_proj"), dtype="bfloat16", remat=True, weights="int8"),
        Work(SMALL, 2, 16, 3, weights="nf4"),
    ],
    ids=[
        "float32",
        "bfloat16",
        "rank 1",
        "one token",
        "hidden size 1",
        "blocked, full",
        "head",
        "remat",
        "8 bits",
        "4 bits",
    ],
)
def test_every_gate_holds(work):
    for one in audit.audit(of_work(work)):
        assert one.passed, (one.name, one.gates, one.doubts)
        assert one.executed and one.every


def config(**sections: dict[str, Any]) -> RunConfig:
    base: dict[str, dict[str, Any]] = {
        "train": {"batch_size": 2, "validation_windows": 4, "steps": 10, "validate_every": 5, "forecast_series": 0},
        "windows": {"length": 32},
        "evaluate": {"context": 4, "horizon": 3, "samples": 2, "batch_series": 2, "unmasked_samples": 0},
        "codec": {"decimals": 1},
        "lora": {"targets": ["q", "down"]},
    }
    return build_config(RunConfig, {name: base.get(name, {}) | sections.get(name, {}) for name in {*base, *sections}})


def test_a_run_s_own_programs_are_audited():
    muon = config(
        optimizer={"name": "muon", "clip_norm": 1.0},
        lora={"head": "full"},
        train={"accumulate": 2},
        model={"dtype": "bfloat16"},
    )
    found = audit.audit(audited.of_runs([muon], SMALL, 4, 24))
    assert [one.name.partition(",")[0] for one in found] == [
        "train_step", "validation", "likelihood", "likelihood", "generation", "generation",
    ]  # fmt: skip
    assert all(one.passed for one in found), [(one.name, one.gates) for one in found if not one.passed]
    optimiser = next(row for row in found[0].rows if row.component == "optimiser")
    assert optimiser.analytic == optimiser.jaxpr > 0  # the products of Newton-Schulz
    assert len({one.name for one in found}) == len(found)


def test_runs_side_by_side_have_their_padding_in_rows_of_its_own():
    configs = [config(lora={"rank": rank}) for rank in (1, 3)]
    assert audited.groups(configs) == [configs]
    found = audit.audit(audited.of_runs(configs, SMALL, 4, 24)[:1])
    (one,) = found
    assert one.passed, one.gates
    padded = {(row.component, row.phase): row for row in one.rows if row.component.endswith(", padding")}
    assert {component.split()[0] for component, _ in padded} == {"q_proj", "down_proj"}
    row = padded["q_proj lora B, padding", "forward"]
    assert row.analytic == row.jaxpr == row.hlo == 2 * 2 * 32 * (3 - 1) * 24  # for the run of rank 1: two more rows of B
    assert {reason.partition(":")[0] for reason in one.reasons} == {"rope", "optimiser"}


def test_programs_of_one_shape_are_audited_once_and_one_run_alone_is_excused_of_nothing():
    """Of two runs that differ in their seed."""
    configs = [config(lora={"rank": 1}), config(lora={"rank": 1}, train={"seed": 5})]
    alone, both = (audited.of_runs(some, SMALL, 4, 24) for some in (configs[:1], configs))
    assert [one.program.name for one in both] == [one.program.name for one in alone] and len(alone) > 4
    assert not alone[0].inexact and set(both[0].inexact) == {"rope", "optimiser"}


# ------------------------------------------------------------------------------------------------------- red


def beside(change: Callable[[jax.Array], jax.Array]) -> Callable[[Any], Any]:
    """Returns a function whose result also depends on what `change` makes of it."""

    def patched(function: Any) -> Any:
        def wrapped(*given: Any, **named: Any) -> Any:
            made = function(*given, **named)
            return made + 1e-30 * change(made).astype(made.dtype)

        return wrapped

    return patched


def inside(name: str, change: Callable[[jax.Array], jax.Array]) -> Callable[[Any], Any]:
    """Returns such a function with the change in a named scope."""
    return beside(jax.named_scope(name)(change))


def many(x: jax.Array) -> jax.Array:
    return lax.fori_loop(0, 10**9, lambda _, c: c * 1.0000001 + x, x)


def sines(x: jax.Array) -> jax.Array:
    return lax.fori_loop(0, 10**5, lambda _, c: jnp.sin(c) * 1.01, x)


def nested(x: jax.Array) -> jax.Array:
    turn = lambda _, d: d + (x * d).sum()  # noqa: E731
    return lax.fori_loop(0, 1000, lambda _, c: lax.fori_loop(0, 1000, turn, c), x)


def axpys(x: jax.Array) -> jax.Array:
    w = jnp.ones((x.shape[-1], x.shape[-1]), x.dtype)
    return lax.scan(lambda c, i: (c + x[..., i, None] * w[i], None), jnp.zeros_like(x), jnp.arange(x.shape[-1]))[0]


def gram(x: jax.Array) -> jax.Array:
    g = (x[..., :, None, :] * x[..., None, :, :]).sum(-1)
    return (g[..., None] * x[..., None, :, :]).sum(-2)


def conditional(x: jax.Array) -> jax.Array:
    w = jnp.ones((x.shape[-1], x.shape[-1]), x.dtype)
    return lax.cond(x.sum() > 0, lambda y: y @ w, lambda y: sum((jnp.tanh(y) for _ in range(600)), y), x)


def product(x: jax.Array) -> jax.Array:
    return x @ jnp.ones((x.shape[-1], x.shape[-1]), x.dtype)


def convolution(x: jax.Array) -> jax.Array:
    w = jnp.ones((1, x.shape[-1], x.shape[-1]), x.dtype)
    return lax.conv_general_dilated(x, w, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))


MUTANTS: dict[str, tuple[Any, str, Callable[[Any], Any], str]] = {
    # of flops-open.md, section 1, in the MLP
    "a loop of 1e9 turns": (qwen2, "swiglu", inside("swiglu", many), "activation"),
    "sines, differentiated": (qwen2, "swiglu", inside("swiglu", sines), "activation"),
    "nested loops": (qwen2, "swiglu", inside("swiglu", nested), "activation"),
    "a product as a scan of axpys": (qwen2, "swiglu", inside("swiglu", axpys), "activation"),
    "a Gram product as multiplications": (qwen2, "swiglu", inside("swiglu", gram), "activation"),
    "a sort": (qwen2, "swiglu", inside("swiglu", lambda x: jnp.sort(x, axis=-1)), "activation"),
    "a product": (qwen2, "swiglu", inside("swiglu", product), "activation"),
    "a convolution": (qwen2, "swiglu", inside("swiglu", convolution), "activation"),
    "a product in a branch": (qwen2, "swiglu", inside("swiglu", conditional), "activation"),
    "a cumulative sum": (qwen2, "swiglu", inside("swiglu", lambda x: jnp.cumsum(x, axis=-1)), "activation"),
    "a scatter": (qwen2, "swiglu", inside("swiglu", lambda x: x.at[..., :3].add(x[..., 3:6])), "activation"),
    "a mapped product": (qwen2, "swiglu", inside("swiglu", lambda x: lax.map(lambda y: y @ y.T @ y, x)), "activation"),
    # others
    "forward alone": (qwen2, "swiglu", inside("swiglu", lambda x: lax.stop_gradient(jnp.exp(x))), "activation"),
    "one operation a number": (qwen2, "swiglu", inside("swiglu", lambda x: x * 3.0), "activation"),
    "in the scores": (attention, "_attend_to", lambda f: _of_first(f, "scores", jnp.tanh), "scores"),
    "in RoPE": (qwen2, "apply_rope", inside("rope", jnp.cos), "rope"),
    "in the norms": (qwen2, "rms_norm", inside("norm", jnp.square), "norms"),
    "in an adapter": (qwen2, "low_rank", inside("lora_B", lambda x: x - x.mean()), "q_proj lora B"),
    "in the head": (loss, "project", inside("head", lambda x: x / 2.0), "head"),
    "in the loss": (loss, "_chunk_losses", lambda f: _of_losses(f), "loss"),
    "in the optimiser": (train, "norm_of", lambda f: lambda tree: f(tree) + _sum(tree), "optimiser"),
    "outside of any scope": (train, "features", lambda f: _of_features(f), "other"),
}  # fmt: skip


def _sum(tree: Any) -> jax.Array:
    return sum(map(jnp.sum, jax.tree.leaves(tree)), jnp.zeros(()))


def _of_losses(function: Any) -> Any:
    return lambda *given: (lambda found: found._replace(loss_BL=found[0] + 1e-30 * jnp.log1p(found[0])))(function(*given))


def _of_features(function: Any) -> Any:
    def wrapped(*given: Any, **named: Any) -> Any:
        found = function(*given, **named)
        return found._replace(x_BTD=found.x_BTD + 1e-30 * (found.x_BTD * found.x_BTD))

    return wrapped


def _of_first(function: Any, name: str, change: Callable[[jax.Array], jax.Array]) -> Any:
    def wrapped(q: jax.Array, *given: Any) -> Any:
        with jax.named_scope(name):
            q = q + 1e-30 * change(q)
        return function(q, *given)

    return wrapped


def each(index: int, name: str, dtype: str) -> Any:
    """A mutant in a type, of which every other one is of the slow mode."""
    marks = pytest.mark.slow if (index % 2 == 0) == (dtype == "bfloat16") else ()
    return pytest.param(name, dtype, marks=marks, id=f"{name}-{dtype}")


@pytest.mark.parametrize(
    ("name", "dtype"), [each(*one, dtype) for one in enumerate(MUTANTS) for dtype in ("float32", "bfloat16")]
)
def test_what_is_put_into_the_model_is_found_where_it_is(name, dtype, monkeypatch):
    module, attribute, change, component = MUTANTS[name]
    monkeypatch.setattr(module, attribute, change(getattr(module, attribute)))
    subject = of_work(Work(SMALL, 2, 16, 3, dtype=dtype))[1]
    rows = traced(subject)
    assert component in {row.component for row in rows if row.verdict == audit.DIFFERS}, rows


def traced(subject: Any) -> list[audit.EveryRow]:
    """Compares only formula and jaxpr, without a compiler."""
    function = subject.program.function
    closed = (function if hasattr(function, "trace") else jax.jit(function)).trace(*subject.program.arguments).jaxpr
    return audit.everything(subject, audit.placed(audit.count_closed(closed, subject.trips).tallies))


def test_a_mutant_turns_the_whole_audit_red(monkeypatch):
    monkeypatch.setattr(qwen2, "swiglu", inside("swiglu", jnp.sin)(qwen2.swiglu))
    found = audit.audit(of_work(WORK))
    assert not any(one.passed for one in found) and red(found) == {"activation", "residuals"}  # the added work


def test_a_sampler_that_does_more_is_found(monkeypatch):
    draw = decode.draw

    def twice(logits: jax.Array, *given: Any) -> jax.Array:
        return draw(logits + 1e-30 * jnp.tanh(logits), *given)

    monkeypatch.setattr(decode, "draw", twice)
    subject = next(one for one in audited.of_runs([config()], SMALL, 4, 24) if one.program.name.startswith("generation"))
    assert {row.component for row in traced(subject) if row.verdict == audit.DIFFERS} == {"sampling"}


def test_a_compiler_that_does_more_is_found():
    """Operations that only the compiled program has: a text with one more multiplication."""
    subject = of_work(WORK)[0]
    (one,) = audit.audit([subject])
    assert one.passed
    place = next(row for row in one.executed if row.kind == "elementwise")
    one.executed[one.executed.index(place)] = place._replace(executed=place.executed + place.asked)
    assert [gate for gate, held in audit.gates(one).items() if not held] == [gate for gate in one.gates if "ask for" in gate]


def test_a_lowered_program_that_does_more_or_less_is_found():
    """By one operation more than the casts and folded operations that the jaxpr shows, in bfloat16."""
    (one,) = audit.audit([of_work(Work(SMALL, 2, 16, 3, dtype="bfloat16"))[1]])
    assert one.passed and one.lowered.flops is not None and one.lowered.flops < 2**24
    said = one.lowered.flops + one.lowered.transcendentals
    least, most = (int(said) - one.otherwise - SCALARS, int(said) + one.folded + SCALARS)
    for once, holds in ((least, True), (least - 1, False), (most, True), (most + 1, False)):
        one.everything_once = once
        assert all(held for gate, held in audit.gates(one).items() if "lowered" in gate) == holds


def test_a_callback_is_a_doubt_and_a_loop_of_unknown_length_an_error(monkeypatch):
    def called(x: jax.Array) -> jax.Array:
        return jax.pure_callback(lambda y: y, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    forward = of_work(WORK)[0]
    monkeypatch.setattr(qwen2, "swiglu", inside("swiglu", called)(qwen2.swiglu))
    (one,) = audit.audit([forward])
    assert not one.passed and any("callback" in doubt for doubt in one.doubts)
    jax.clear_caches()
    unknown = lambda x: lax.while_loop(lambda c: c.sum() < 1e9, lambda c: c * 2, x)  # noqa: E731
    monkeypatch.setattr(qwen2, "swiglu", inside("swiglu", unknown)(qwen2.swiglu))
    with pytest.raises(JaxlvError, match="trip"):
        audit.audit([of_work(WORK)[0]])
