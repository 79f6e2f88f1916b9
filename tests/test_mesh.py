"""A mesh of devices: where arrays lie, and that eight virtual devices compute what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxlv.config import MeshConfig, RunConfig, build_config
from jaxlv.errors import JaxlvError
from jaxlv.flops import traffic
from jaxlv.flops.counting.opcodes import group_size
from jaxlv.flops.family import architecture
from jaxlv.flops.spread import copies
from jaxlv.flops.table import count
from jaxlv.flops.work import Work
from jaxlv.model import placement
from jaxlv.model.placement import Cuts
from tests.conftest import TINY

CLOSE = 5e-6  # of a loss: its last bits differ, as sums have another order


def computed(*checks: str) -> dict[str, Any]:
    """What tests.on_mesh prints."""
    told = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "tests.on_mesh", *checks]
    done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return computed("quick", "programs", "gathered", "held", "runs", "forecasts")


def test_losses_are_those_of_one_device(found):
    assert len(found["quick"]) == 2 and max(found["quick"].values()) < CLOSE


def test_over_data_the_trained_gradients_are_all_that_is_sent_and_they_are_summed_in_float32(found):
    told = found["programs"]
    assert told["kinds"] == ["all-reduce"] and told["narrow sums"] == 0
    assert told["bytes"] == told["trained"] + 8  # and the loss and its tokens


def test_what_devices_repeat_and_send_is_what_the_formulas_say(found):
    told = found["programs"]
    every = ("14/2 on 4x2", "16/2 on 2x4", "14/2 on 4x2, alphabet")
    assert told["audits"] == dict.fromkeys(every, True) and min(told["repeated"].values()) > 0
    for formula, executed in told["totals"].values():
        assert executed == pytest.approx(formula, rel=1e-3)


def test_weights_over_data_are_gathered_where_they_are_used(found):
    told = found["gathered"]
    assert max(told["difference"], told["in 8 bits"]) < CLOSE and told["spec"] == ["model", "data"]
    assert told["gathers"] >= 2 * 7  # seven projections of two layers; some versions of XLA gather them once, not twice


def test_with_remat_the_gradients_of_a_layer_are_formed_before_the_next_one_s(found):
    """Those of A and B in seven projections of two layers; otherwise XLA holds what they are formed of until the end."""
    several, kept, alone = found["gathered"]["barriers"]
    assert several - alone == 2 * 7 * 2 and kept <= alone  # remat has some of its own


def test_a_device_holds_what_the_doctor_tells_of_it(found):
    """By the placement that heads and codes allow, with weights over data and without."""
    assert len(found["held"]) == 4
    for parameters, state, *told in found["held"].values():
        assert [parameters, state] == told


def test_stacked_runs_lie_over_data_and_send_nothing(found):
    told = found["runs"]
    assert told["first"] == 0 and told["difference"] < CLOSE and told["bytes sent"] == 8 * 5 * 4  # the five figures of each


def test_forecasts_are_those_of_one_device(found):
    for equal, difference in found["forecasts"].values():
        assert equal and difference < 1e-3


@pytest.mark.slow
def test_losses_are_those_of_one_device_for_every_size_and_mesh():
    told = computed("every", "wide", "deep")
    assert len(told["every"]) == 20 and max(told["every"].values()) < CLOSE
    assert max(told["wide"].values()) < CLOSE
    for equal, difference in told["deep"].values():
        assert equal and difference < 1e-3


# ------------------------------------------------------------------------------------------------ where arrays lie


@pytest.mark.parametrize(
    ("heads", "devices", "cuts"),
    [
        ((14, 2), 2, (2, 2, 2)), ((14, 2), 4, (1, 1, 4)), ((16, 2), 4, (4, 1, 4)), ((28, 4), 4, (4, 4, 4)),
        ((28, 4), 8, (1, 1, 8)), ((40, 8), 8, (8, 8, 8)), ((12, 2), 4, (4, 1, 4)),
        ((12, 2), 3, (1, 1, 3)), ((12, 2), 6, (6, 1, 6)), ((14, 2), 7, (1, 1, 7)),
    ],
)  # fmt: skip
def test_heads_that_do_not_divide_stay_whole(heads, devices, cuts):
    config = SimpleNamespace(num_attention_heads=heads[0], num_key_value_heads=heads[1])
    assert tuple(Cuts.of(config, devices)) == cuts


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        ("model.embed_tokens.weight", (61, 24), P(None, None)),  # 61 tokens are not cut in two
        ("lm_head.bias", (64,), P("model")),
        ("model.layers.0.self_attn.q_proj.weight", (24, 24), P("model", None)),
        ("model.layers.0.self_attn.q_proj.A", (8, 24), P(None, None)),
        ("0.mu.lora.model.layers.self_attn.v_proj.B", (2, 12, 8), P(None, "model", None)),
        ("model.layers.0.self_attn.k_proj.bias", (12,), P("model")),
        ("model.layers.0.self_attn.o_proj.A", (8, 24), P(None, "model")),
        ("model.layers.0.mlp.down_proj.weight", (24, 40), P(None, "model")),
        ("model.layers.0.mlp.down_proj.B", (24, 8), P(None, None)),
        ("model.layers.0.input_layernorm.weight", (24,), P(None)),
        ("step", (), P()),
    ],
)
def test_the_table_says_where_a_leaf_lies(path, shape, spec):
    mesh: Any = SimpleNamespace(shape={"data": 4, "model": 2})
    assert placement.spec_of(path, shape, TINY, mesh) == spec
    if shape and not path.endswith("_proj.weight"):
        assert placement.spec_of(path, shape, TINY, mesh, fsdp=True) == spec
    stacked = placement.spec_of(path, (8, *shape), TINY, mesh, runs=True)
    assert stacked == P("data", *spec)


def test_keys_that_devices_do_not_divide_are_whole_beside_queries_that_they_cut():
    config: Any = SimpleNamespace(num_attention_heads=12, num_key_value_heads=2)
    mesh: Any = SimpleNamespace(shape={"data": 2, "model": 4})
    layer = "model.layers.0.self_attn"
    cut = [f"{layer}.q_proj.bias", f"{layer}.q_proj.scales", f"{layer}.q_proj.B", f"{layer}.q_proj.codes"]
    whole = [one.replace("q_proj", "k_proj") for one in cut] + [f"{layer}.o_proj.bias"]
    shapes = [(96,), (96,), (96, 8), (96, 48), (96,)]
    assert [placement.spec_of(*one, config, mesh)[0] for one in zip(cut, shapes, strict=False)] == ["model"] * 4
    assert not any(any(placement.spec_of(*one, config, mesh)) for one in zip(whole, shapes, strict=True))


def test_codes_and_scales_lie_as_the_weight_that_they_stand_for():
    """A scale of 8 bits is of an output, one of 4 bits of an output and a group of inputs."""
    mesh: Any = SimpleNamespace(shape={"data": 4, "model": 2})
    gate, down = "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.down_proj"

    def of(path: str, *shape: int, **how: bool) -> P:
        return placement.spec_of(path, shape, TINY, mesh, **how)

    assert of(f"{gate}.codes", 40, 24) == P("model", None) and of(f"{gate}.codes", 40, 24, fsdp=True) == P("model", "data")
    assert of(f"{gate}.scales", 40) == P("model") == of(f"{gate}.scales", 40, fsdp=True)
    assert of(f"{gate}.scales", 40, 3) == P("model", None) and of(f"{gate}.scales", 8, 40, runs=True) == P("data", "model")
    assert of(f"{down}.codes", 24, 20) == P(None, "model") == of(f"{down}.scales", 24, 4)
    assert of(f"{down}.scales", 24) == P(None) and of(f"{down}.scales", 24, 5) == P(None, None)


def test_rows_are_cut_along_their_own_axis():
    """By the sharding that JAX is asked for: of a mesh of one device."""
    mesh = placement.make_mesh(1, 1)
    for axis, spec in ((0, P("data")), (1, P(None, "data")), (2, P(None, None, "data"))):
        assert placement.rows(np.zeros((2, 3, 4)), mesh, axis).sharding.spec == spec


def test_runs_that_devices_do_not_divide_lie_on_all_of_them():
    mesh: Any = SimpleNamespace(shape={"data": 4, "model": 2})
    path = "model.layers.0.self_attn.q_proj.B"
    assert placement.spec_of(path, (6, 24, 8), TINY, mesh, runs=True) == P(None, "model", None)


def test_weights_over_data_are_cut_where_model_leaves_them_whole():
    mesh: Any = SimpleNamespace(shape={"data": 4, "model": 2})
    weight = ("model.layers.0.mlp.gate_proj.weight", (40, 24), TINY, mesh)
    assert placement.spec_of(*weight, fsdp=True) == P("model", "data")
    odd: Any = SimpleNamespace(num_attention_heads=3, num_key_value_heads=1)
    path = "model.layers.0.self_attn.q_proj.weight"
    assert placement.spec_of(path, (24, 28), odd, mesh, fsdp=True) == P("data", None)  # the first axis that it divides
    assert placement.spec_of(path, (26, 28), odd, mesh, fsdp=True) == P(None, "data")


@pytest.mark.parametrize(
    ("asked", "said"),
    [((2, 1, 1, 4), "fewer devices"), ((-1, 2, 1, 4), "fewer devices"), ((1, 1, 1, 4), None), ((-1, 1, 1, 0), None)],
)
def test_a_mesh_needs_its_devices(asked, said):
    if said is None:
        assert placement.mesh_of(*asked) is None
    else:
        with pytest.raises(JaxlvError, match=said):
            placement.mesh_of(*asked)


def test_a_mesh_divides_the_batch():
    with pytest.raises(JaxlvError, match="does not divide the windows"):
        placement.mesh_of(3, 1, 8, 4)
    with pytest.raises(JaxlvError, match=r"mesh\.data"):
        build_config(RunConfig, {"mesh": {"data": 0}}, where="mesh")
    assert MeshConfig().data == -1


def test_rows_are_filled_to_what_devices_divide():
    mesh: Any = SimpleNamespace(shape={"data": 4, "model": 1})
    assert placement.filled(5, mesh).tolist() == [0, 1, 2, 3, 4, 0, 1, 2] and placement.filled(3, None).tolist() == [0, 1, 2]


# ------------------------------------------------------------------------------------------------ work and traffic


def test_what_model_does_not_cut_is_billed_for_each_device():
    work = Work(architecture("qwen2.5-0.5b"), 8, 64, 8, ("q_proj", "v_proj"), over_data=2, over_model=4)
    assert [copies(name, work) for name in ("q_proj", "o_proj", "scores", "norms")] == [4] * 4  # 14 heads, four devices
    assert [copies(name, work) for name in ("gate_proj", "down_proj", "head")] == [1] * 3
    assert [copies(name, work) for name in ("gate_proj lora A", "down_proj lora A", "optimiser")] == [4, 1, 8]
    alone = Work(architecture("qwen2.5-0.5b"), 8, 64, 8, ("q_proj", "v_proj"))
    more, one = (count(each, "exact").by_component() for each in (work, alone))
    assert more["q_proj", "forward"] == 4 * one["q_proj", "forward"]
    assert more["gate_proj", "forward"] == one["gate_proj", "forward"]
    assert count(work, "coursework") == count(alone, "coursework")  # the sheet knows no devices


def test_each_component_is_billed_by_what_cuts_it():
    """Qwen2.5-1.5B on four devices: its 12 heads of queries are cut, its two of keys are not."""
    work = Work(architecture("qwen2.5-1.5b"), 8, 64, 8, ("q_proj", "k_proj", "o_proj", "gate_proj"), over_model=4)
    cut = ("q_proj", "q_proj lora B", "scores", "mask", "softmax", "weighted sum", "fused attention", "o_proj",
           "o_proj lora A", "gate_proj", "gate_proj lora B", "up_proj", "activation", "down_proj", "down_proj lora A",
           "head", "loss")  # fmt: skip
    whole = ("q_proj lora A", "k_proj", "k_proj lora A", "k_proj lora B", "v_proj", "rope", "o_proj lora B",
             "gate_proj lora A", "down_proj lora B", "norms", "embedding")  # fmt: skip
    assert {copies(name, work) for name in cut} == {1} and {copies(name, work) for name in whole} == {4}
    symbols = replace(work, head="alphabet")
    assert copies("head", symbols) == copies("loss", symbols) == 4
    odd = replace(work, model=replace(work.model, intermediate_size=8962, vocab_size=151_935))
    assert {copies(name, odd) for name in ("gate_proj", "down_proj lora A", "head", "loss")} == {4}


def test_traffic_by_hand():
    """Qwen2.5-0.5B on 4 x 2 devices, 8 x 512 tokens in bfloat16: u is what two rows of states take."""
    work = Work(architecture("qwen2.5-0.5b"), 8, 512, 8, ("q_proj", "v_proj"), dtype="bfloat16", over_data=4, over_model=2)
    found, u, L = traffic.traffic(work, merged=True), 2 * 512 * 896 * 2, 24
    # Embedding, head, its gradient and the labels' rows; after attention and MLP; before the MLP, and before q, k and v.
    assert found["activations"] == (3 + 2 * L + L + 3 * (L - 1)) * u
    assert found["adapters"] == 2 * L * 2 * 512 * 8 * 2
    assert found["loss"] == 3 * 2 * 512 * 4
    q, v = 8 * (896 + 896 // 2), 8 * (896 + 128 // 2)
    assert found["gradients"] == 4 * L * (q + v) + 8


def test_traffic_by_hand_where_devices_share_a_key():
    """Qwen2.5-3B on four devices, which each have four heads of queries, of one of the two heads of keys."""
    work = Work(architecture("qwen2.5-3b"), 8, 64, 8, ("q_proj", "v_proj"), over_model=4)
    found, u, L = traffic.traffic(work), 512 * 4, 36
    # As above, and of keys and values no sum before their projections; before the MLP twice, as on a CPU.
    assert found["activations"] == (3 + 2 * L + 2 * L + L - 1) * 2048 * u
    assert found["keys"] == (L + L - 1) * (128 + 256) * u  # of each one head is summed, and both are gathered
    assert found["adapters"] == L * 8 * u and found["gradients"] == 0


def test_traffic_of_a_head_that_trains_and_of_weights_over_data_by_hand():
    sizes = architecture("qwen2.5-0.5b")
    work = Work(sizes, 8, 512, 8, ("o_proj", "gate_proj"), dtype="bfloat16", over_data=4, over_model=2)
    o, gate = 8 * (896 // 2 + 896), 8 * (896 + 4864 // 2)
    bias = 151_936 // 2
    assert traffic.gradients(work) == 4 * 24 * (o + gate)
    assert traffic.gradients(replace(work, train="bias"), 3) == 4 * (24 * (o + gate) + 3 * bias)
    assert traffic.gradients(replace(work, train="head"), 2) == 4 * (24 * (o + gate) + 2 * bias * 896)
    projections = (2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864) // 2
    for remat in (False, True):
        found = traffic.traffic(replace(work, remat=remat), fsdp=True)
        assert found is not None and found["weights"] == 24 * projections * 2 * (1 + remat)
    alone = traffic.traffic(replace(work, over_data=1), fsdp=True)
    assert alone is not None and alone["gradients"] == 0 and "weights" not in alone


def test_an_audit_fails_if_products_or_bytes_are_others():
    """The program of a step on two devices, made up from the formulas."""
    work = Work(architecture("qwen2.5-0.5b"), 8, 64, 8, over_data=2)
    formula = count(work, "exact").by_component(merged=True)
    half = {where: flops // 2 for where, flops in formula.items()}
    parts = traffic.traffic(work)
    assert parts is not None

    def audited(executed: dict[tuple[str, str], int], share: float) -> traffic.Spread:
        number = round(share * sum(parts.values()) / 4)
        line = f"  %r = f32[{number}]{{0}} all-reduce(%x), replica_groups={{{{0,1}}}}, to_apply=%sum"
        return traffic.compared(work, executed, f"ENTRY %main (p: f32[8]) -> f32[8] {{\n{line}\n}}")

    found = audited(half, 1.0)
    assert found.passed and {row.verdict for row in found.rows} == {"equal"} and found.traffic[-1].verdict == "equal"
    assert audited(half, 1.009).passed and not audited(half, 1.02).passed and not audited(half, 0.98).passed
    one, two = [where for where, flops in half.items() if flops][:2]
    moved = audited({**half, one: half[one] + 8, two: half[two] - 8}, 1.0)
    assert moved.passed and {row.verdict for row in moved.rows} == {"equal", "equal in total"}
    more = audited({**half, one: half[one] + 8}, 1.0)
    assert not more.passed and sum(row.verdict == traffic.DIFFERS for row in more.rows) == 1


HLO = """
%sum (a: f32[], b: f32[]) -> f32[] {
}
%body (p: f32[8]) -> f32[8] {
  %r = f32[8,4]{1,0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%sum
}
ENTRY %main (p: f32[8]) -> f32[8] {
  %w = f32[8]{0} while(%p), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %g = (bf16[2,4]{1,0}, bf16[8,4]{1,0}) all-gather-start(%y), replica_groups=[2,4]<=[8], dimensions={0}
  %t = (f32[2]{0}, s32[]) all-reduce(%u, %v), replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, to_apply=%sum
}
"""


def test_collectives_of_a_program_by_hand():
    loop, gather, both = traffic.collectives(HLO)
    assert loop == ("all-reduce", 2, 128, 3) and loop.ring == 128
    assert gather == ("all-gather", 4, 64, 1) and gather.ring == 48
    assert both == ("all-reduce", 4, 12, 1) and both.ring == 18
    assert traffic.sent(HLO) == {("all-reduce", 2): 384, ("all-gather", 4): 64, ("all-reduce", 4): 12}


NESTED = """
%inner (p: f32[8]) -> f32[8] {
  %r = f32[2]{0} reduce-scatter(%x), replica_groups={{0,1,2,3}}, to_apply=%sum
}
%outer (p: f32[8]) -> f32[8] {
  %w = f32[8]{0} while(%p), condition=%c, body=%inner, backend_config={"known_trip_count":{"n":"5"}}
}
ENTRY %main (p: f32[8]) -> f32[8] {
  %w = f32[8]{0} while(%p), condition=%c, body=%outer, backend_config={"known_trip_count":{"n":"3"}}
}
"""


def test_a_loop_within_a_loop_runs_as_often_as_both_together():
    (found,) = traffic.collectives(NESTED)
    assert found == ("reduce-scatter", 4, 8, 15) and found.ring == 24  # of what is scattered, each device keeps a quarter


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("replica_groups={{0,4},{1,5}}", 2), ("replica_groups=[2,4]<=[4,2]T(1,0)", 4), ("", 2),
        ("replica_groups=mesh['a'=4,'b'=1,'c'=2] {'a','c'}, use", 8),
        ("replica_groups=mesh['a'=1,'b'=2], device_ids=([4,2]T(1,0)) {'b'}", 2),
    ],
)  # fmt: skip
def test_how_many_devices_a_collective_joins(text, size):
    assert group_size(text) == size


def test_one_device_is_placed_as_before():
    assert placement.rows({"a": np.zeros(3)}, None)["a"].shape == (3,) and placement.size(None) == 1
    assert placement.everywhere("as it is", None) == "as it is"
