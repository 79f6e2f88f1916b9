"""`jaxlv.flops.count`: what it takes, what it returns, how that reads, and what it needs."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import nnx
from jax import lax
from jax.experimental import pallas as pl

from jaxlv import flops
from jaxlv.errors import JaxlvError
from jaxlv.flops.counting.xla import count_xla
from jaxlv.flops.family import FAMILY
from jaxlv.flops.work import Work

N = 8
ONE = 2 * N**3
SQUARE = jax.ShapeDtypeStruct((N, N), jnp.float32)


def rnn(w, x):
    """Runs twelve steps, then a product outside the loop."""
    with jax.named_scope("cell"):
        x = lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, length=12)[0]
    with jax.named_scope("out"):
        return x @ w


@pytest.fixture(scope="module")
def counted() -> flops.Result:
    return flops.count(rnn, SQUARE, SQUARE)


def test_four_counters_count_a_function(counted):
    assert (counted.jaxpr.products, counted.jaxpr.transcendental) == (13 * ONE, 12 * N * N)
    assert counted.hlo.products == 13 * ONE
    assert (counted.xla_lowered.products, counted.xla_lowered.elementwise) == (None, None)
    assert counted.xla_lowered.flops == pytest.approx(2 * ONE, abs=8)  # the body once, and the index
    assert not counted.jaxpr.doubts
    assert any("loop bodies are counted once" in doubt for doubt in counted.xla_compiled.doubts)
    assert counted.jaxpr.flops == counted.jaxpr.products + counted.jaxpr.elementwise
    assert counted.jaxpr.everything == counted.jaxpr.flops + counted.jaxpr.transcendental
    assert counted.jaxpr.bytes > 13 * 3 * 4 * N * N


def test_a_result_is_frozen(counted):
    for frozen in (counted, counted.jaxpr, counted.jaxpr.tree, counted.roofline(1.0, 1.0)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            frozen.devices = 3


def test_scopes_are_a_tree_of_the_author_s_names(counted):
    assert list(counted.jaxpr.tree.children) == ["cell", "out"]
    assert counted.jaxpr.at("cell").products == 12 * ONE
    assert counted.hlo.at("out").products == ONE
    with pytest.raises(JaxlvError, match="attic: no such scope; expected cell, out in the function"):
        counted.jaxpr.at("attic")


def test_loops_stand_with_their_trips(counted):
    (loop,) = counted.loops
    assert (loop.trips, loop.begun, str(loop.scope), loop.tally.products()) == (12, 1, "cell", 12 * ONE)
    assert loop.place == f"test_count.py:{rnn.__code__.co_firstlineno + 3}"


# ----------------------------------------------------------------------------------------------- how it reads


def test_a_table_shows_counters_scopes_loops_and_doubts(counted):
    text = counted.table()
    assert str(counted) == text
    rows = {line.strip().split("  ")[0]: line for line in reversed(text.splitlines())}
    assert rows["jaxpr"].split()[1] == f"{13 * ONE:,}" and rows["XLA, lowered"].split()[2:4] == ["-", "-"]
    assert rows["cell"].split()[1:3] == [f"{12 * ONE:,}"] * 2
    assert "rnn, compiled for this machine's CPU" in text and "12      1" in text
    assert "loop bodies are counted once, whatever their trip count (1 loop)" in text
    assert "cell" not in counted.table(depth=0).split("loop ")[0]
    assert counted._repr_html_() == f'<pre style="line-height: 1.3">{text.replace(chr(39), "&#x27;")}</pre>'


def test_an_explanation_names_what_the_counters_differ_by(counted):
    text = counted.explain()
    hidden = 11 * (ONE + 2 * N * N)
    assert "products: the HLO executes what the jaxpr asks for" in text
    assert f"of loops, whose bodies XLA counts once: {counted.loops[0].place} (12 trips)" in text
    said = [line for line in text.splitlines() if "are of loops" in line]
    assert all(abs(int(line.split()[0].replace(",", "")) - hidden) < 2 * 12 * N * N for line in said)
    plain = flops.count(lambda a: a @ a, SQUARE).explain()
    assert f"XLA, lowered: the same as the jaxpr, {ONE:,} operations" in plain


@pytest.mark.parametrize("unroll", [1, 2, 5, 12, 20])
def test_a_loop_that_is_unrolled_is_written_as_often_as_xla_counts_it(unroll):
    found = flops.count(lambda a: lax.scan(lambda c, _: (c @ c, None), a, None, 12, unroll=unroll)[0], SQUARE)
    assert found.jaxpr.products == 12 * ONE
    assert found.once.products == pytest.approx(found.xla_lowered.flops, abs=12)  # and the index


def test_an_explanation_names_a_product_that_the_compiler_merged():
    twice = flops.count(lambda a: (a @ a) * (a @ a).sum(), SQUARE)
    assert twice.jaxpr.products == 2 * ONE and twice.hlo.products == ONE
    assert f"products: the HLO executes {ONE:,} less than the jaxpr asks for" in twice.explain()
    assert f"without a scope, forward: {2 * ONE:,} in the jaxpr, {ONE:,} in the HLO" in twice.explain()


def test_a_frame_has_a_row_for_each_counter_scope_and_phase():
    found = flops.count(jax.grad(lambda w, x: rnn(w, x).sum()), SQUARE, SQUARE)
    frame = found.frame()
    sums = frame.groupby("counter")["products"].sum()
    assert sums["jaxpr"] == found.jaxpr.products and sums["hlo"] == found.hlo.products
    cell = frame[(frame.counter == "jaxpr") & (frame.scope == "cell")]
    assert dict(zip(cell.phase, cell.products, strict=True)) == {"forward": 12 * ONE, "backward": 24 * ONE}
    assert pd.isna(frame[frame.counter == "xla_lowered"].products).all()
    assert list(frame.counter.unique()) == ["jaxpr", "hlo", "xla_lowered", "xla_compiled"]


def test_a_frame_without_pandas_is_a_clear_error(counted, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(JaxlvError, match=r"frame\(\) needs pandas"):
        counted.frame()


def test_a_roofline_is_the_longer_of_two_times():
    found = flops.count(lambda a: a @ a, SQUARE, compile=False)
    line = found.roofline(100.0, 10.0)
    assert line.counter == "jaxpr" and line.whole.operations == ONE and line.whole.bytes == 3 * 4 * N * N
    assert (line.seconds, line.whole.bound) == (3 * 4 * N * N / 10, "memory")
    assert found.roofline(1.0, 10.0).seconds == ONE and found.roofline(1.0, 10.0).whole.bound == "compute"
    assert "compute" in str(found.roofline(1.0, 10.0)) and found.roofline(1.0, 10.0)._repr_html_().startswith("<pre")
    for rates in ((0, 1), (1, -1), (float("nan"), 1), (1, float("inf")), ("1", 1)):
        with pytest.raises(JaxlvError, match="is not a rate"):
            found.roofline(*rates)


def test_json_holds_all_figures(counted):
    read = json.loads(json.dumps(counted.as_json()))
    assert read["jaxpr"]["products"] == 13 * ONE and read["xla_lowered"]["products"] is None
    assert read["jaxpr"]["loops"][0]["trips"] == 12
    assert {scope["scope"] for scope in read["hlo"]["scopes"]} >= {"cell", "out"}


# ----------------------------------------------------------------------------------------------- what it takes


def quick(function, *args, **kwargs) -> int:
    return flops.count(function, *args, compile=False, **kwargs).jaxpr.products


def powers(a, n, *, how="left", more=None):
    for _ in range(n):
        a = a @ a if how == "left" else a
    return {"result": a, "how": how, "more": more}


def test_arguments_that_are_not_arrays_are_taken_as_they_are():
    assert quick(powers, SQUARE, 3) == 3 * ONE
    assert quick(powers, np.ones((N, N)), 3, how="right") == 0
    assert quick(functools.partial(powers, n=2), jnp.ones((N, N)), more={"x": None, "f": jnp.sin}) == 2 * ONE
    assert quick(lambda p, x: p["w"] @ x if p["train"] else x, {"w": SQUARE, "train": True}, SQUARE) == ONE


def test_static_arguments_stay_whole():
    def picked(a, index):
        return a @ a if int(index[0]) else a

    one = np.array([1])
    assert quick(picked, SQUARE, one, static_argnums=1) == ONE
    assert quick(picked, SQUARE, index=one, static_argnames="index") == ONE
    for wrong in ({"static_argnums": 2}, {"static_argnames": "other"}):
        with pytest.raises(JaxlvError, match="static arguments: no such argument"):
            quick(picked, SQUARE, one, **wrong)


def test_jitted_functions_are_traced_as_they_are_declared():
    jitted = jax.jit(lambda a, n: powers(a, n)["result"], static_argnums=1)
    assert quick(jitted, SQUARE, 2) == 2 * ONE
    with pytest.raises(JaxlvError, match="jitted already"):
        quick(jitted, SQUARE, 2, static_argnums=1)
    assert quick(nnx.jit(lambda a: a @ a), SQUARE) == ONE


def test_trips_reach_the_counters():
    def run(a, n):
        return lax.fori_loop(0, n, lambda i, c: c @ a, a)

    whole = jax.ShapeDtypeStruct((), jnp.int32)
    assert quick(run, SQUARE, whole, trips=7) == 7 * ONE
    place = f"test_count.py:{run.__code__.co_firstlineno + 1}"
    assert quick(run, SQUARE, whole, trips={place: 7}) == 7 * ONE
    assert quick(run, SQUARE, 7) == 7 * ONE  # a Python number does not make a loop of unknown length
    with pytest.raises(JaxlvError, match=r"test_count.py:\d+: a loop of unknown length"):
        flops.count(run, SQUARE, whole)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((3,), "not a function; expected a callable; found int"),
        (
            (Work(FAMILY["qwen2.5-0.5b"], 1, 1), "exact"),
            "found Work; to price a Work by formula, use jaxlv.flops.table.count",
        ),
    ],
)
def test_what_is_not_a_function_is_refused(arguments, words):
    with pytest.raises(JaxlvError, match=words):
        flops.count(*arguments)


def test_a_backend_that_does_not_exist_is_refused():
    with pytest.raises(JaxlvError, match="no such backend; expected cpu, cuda, gpu; found tpu"):
        flops.count(lambda a: a, SQUARE, backend="tpu")
    assert flops.count(lambda a: a @ a, SQUARE, backend="cpu").hlo.products == ONE


def test_errors_of_the_function_pass_through():
    with pytest.raises(TypeError, match="mine"):
        flops.count(lambda a: (_ for _ in ()).throw(TypeError("mine")), SQUARE)


def test_what_the_compiler_refuses_is_a_doubt():
    def double(x_ref, o_ref):
        o_ref[...] = x_ref[...] * 2

    estimate = pl.CostEstimate(flops=7, transcendentals=0, bytes_accessed=0)
    found = flops.count(lambda x: pl.pallas_call(double, out_shape=SQUARE, cost_estimate=estimate)(x), SQUARE)
    assert found.jaxpr.products == 7
    for counts in (found.hlo, found.xla_compiled):
        assert counts.products is None and counts.flops is None
        assert "Only interpret mode is supported on CPU backend" in counts.doubts[0]
    assert found.explain() and found.table()
    frame = found.frame()
    assert list(frame.counter) == ["jaxpr", "hlo", "xla_lowered", "xla_compiled"]
    assert list(frame.products.isna()) == [counts.products is None for counts in found.counters] != [True] * 4


# ------------------------------------------------------------------------------------------- names of libraries


class Block(nnx.Module):
    def __init__(self, rngs):
        self.attention, self.mlp = nnx.Linear(N, N, rngs=rngs), nnx.Linear(N, N, rngs=rngs)

    def __call__(self, x):
        return self.mlp(jax.nn.relu(self.attention(x)))


class Net(nnx.Module):
    def __init__(self, rngs):
        self.blocks, self.head = nnx.List([Block(rngs) for _ in range(2)]), nnx.Linear(N, 3, rngs=rngs)

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="classifier_head")(nn.relu(nn.Dense(N)(x)))


def test_flax_linen_names_its_scopes():
    model = Encoder()
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), SQUARE)
    found = flops.count(model.apply, variables, SQUARE, compile=False)
    assert found.function == "Encoder.apply"
    assert {n.path: n.products for n in found.jaxpr.tree.walk() if n.path} == {
        "Encoder": ONE + 6 * N * N, "Encoder/Dense_0": ONE, "Encoder/classifier_head": 6 * N * N,
    }  # fmt: skip


def test_flax_nnx_modules_are_named_by_their_place_in_another():
    net = Net(nnx.Rngs(0))
    calls = [kind.__call__ for kind in (Net, Block, nnx.Linear)]
    found = flops.count(net, SQUARE, compile=False)
    paths = [node.path for node in found.jaxpr.tree.walk()]
    assert paths[:5] == ["", "Net", "Net/blocks_0", "Net/blocks_0/attention", "Net/blocks_0/mlp"]
    assert paths[5:] == ["Net/blocks_1", "Net/blocks_1/attention", "Net/blocks_1/mlp", "Net/head"]
    assert found.jaxpr.at("Net/blocks_1").products == 2 * ONE
    assert [kind.__call__ for kind in (Net, Block, nnx.Linear)] == calls  # as they were
    graph, state = nnx.split(net)
    step = flops.count(jax.grad(lambda s, x: nnx.merge(graph, s)(x).sum()), state, SQUARE, compile=False)
    assert step.jaxpr.at("Net/blocks_1/mlp").tally("backward").products() == 2 * ONE


def test_equinox_names_its_layers():
    found = flops.count(jax.vmap(eqx.nn.MLP(N, 2, 4, 1, key=jax.random.key(0))), SQUARE, compile=False)
    assert found.jaxpr.at("eqx.nn.MLP/eqx.nn.Linear").products == 2 * N * (N * 4 + 4 * 2)


# ------------------------------------------------------------------------------------------------ XLA's figures


class Stage:
    """A stage of compilation that gives a prescribed analysis."""

    def __init__(self, costs):
        self.costs = costs

    def cost_analysis(self):
        if isinstance(self.costs, Exception):
            raise self.costs
        return self.costs


@pytest.mark.parametrize(
    ("costs", "text", "doubts"),
    [
        ({"flops": 5.0, "bytes accessed": 3.0}, "", []),
        ({"flops": -1.0, "bytes accessed": 3.0}, "", ["flops is -1: -1 stands for what XLA cannot price"]),
        ({"flops": float("nan"), "bytes accessed": 3.0}, "", ["flops is nan"]),
        ({"transcendentals": 3.0}, "", ['"flops" is absent, which XLA means as 0', '"bytes accessed" is absent']),
        ({"flops": 2.0**25, "bytes accessed": 3.0}, "", ["added in float32"]),
        ({"flops": 5.0, "bytes accessed": 3.0}, "stablehlo.while(%a)\nstablehlo.while(%b)", ["once, whatever .* (2 loops)"]),
        ({"flops": 5.0, "bytes accessed": 3.0}, '%c = conditional(%a)', ["a conditional counts its dearest branch"]),
        ({"flops": 5.0, "bytes accessed": 3.0}, 'custom-call(%a), custom_call_target="lapack_spotrf"',
         ["a custom call counts as -1 or as nothing (lapack_spotrf)"]),
        ({"flops": 5.0, "bytes accessed": 3.0}, "%a = c64[8,8] add(%b, %c)", ["complex numbers are counted as if they"]),
        (None, "", ["no analysis"]),
        (NotImplementedError(), "", ["no analysis"]),
    ],
)  # fmt: skip
def test_xla_s_figures_come_with_reasons_not_to_believe_them(costs, text, doubts):
    found = count_xla(Stage(costs), text).doubts
    assert len(found) == len(doubts)
    assert all(part.strip() in one for one, doubt in zip(found, doubts, strict=True) for part in doubt.split(" .* "))


# ------------------------------------------------------------------------------------------------ what it needs

ALONE = """
import sys, time
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"flax", "optax", "orbax", "pandas", "scipy", "sklearn", "h5py", "rich", "matplotlib",
                                      "equinox", "safetensors", "tokenizers", "jinja2", "huggingface_hub"}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import jax, numpy
import jax.numpy as jnp
began = time.process_time()
import jaxlv.flops
count = jaxlv.flops.count
seconds = time.process_time() - began
print(count(lambda a: a @ a, jnp.ones((8, 8))).jaxpr.products, seconds)
"""


def test_counting_needs_jax_and_numpy_alone_and_loads_in_half_a_second():
    """Half a second of CPU time, as others may be using the machine. Scipy is a dependency of JAX, not of the counters."""
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, env=os.environ, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    products, seconds = done.stdout.split()
    assert int(products) == ONE and float(seconds) < 0.5
