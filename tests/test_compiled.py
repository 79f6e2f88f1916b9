"""What a CUDA device launches for a compiled program, its roofline, and the figures of the project's own programs."""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import pytest

from jaxlv.errors import JaxlvError
from jaxlv.flops.counting.launches import Graphs, graphs, launches
from jaxlv.flops.targets import DEVICES
from jaxlv.model.config import ModelConfig

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
ALLOWED = 1.02  # kernels and bytes, as a multiple of the golden figures
SMALL = {
    "model": ModelConfig(512, 256, 192, 2, 4, 2, 64, tie_word_embeddings=True), "batch": 2, "length": 64, "rank": 8,
    "series": 2, "samples": 2, "context": 5, "horizon": 3,
}  # fmt: skip
needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None or jax.default_backend() != "cpu",
    reason="needs jaxlv[cuda-compiler], and no device",
)

STEP = """HloModule m

%product (a: bf16[8,16], b: bf16[16,4]) -> bf16[8,4] {
  %a = bf16[8,16] parameter(0)
  %b = bf16[16,4] parameter(1)
  ROOT %d = bf16[8,4] dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0} NAMED
}

%part (c: f32[10,4], i: s32[]) -> f32[1,4] {
  %c = f32[10,4] parameter(0)
  %i = s32[] parameter(1)
  %n = s32[] constant(0)
  ROOT %s = f32[1,4] dynamic-slice(%c, %i, %n), dynamic_slice_sizes={1,4}
}

%put (c: f32[10,4], u: f32[1,4], i: s32[]) -> f32[10,4] {
  %c = f32[10,4] parameter(0)
  %u = f32[1,4] parameter(1)
  %i = s32[] parameter(2)
  %n = s32[] constant(0)
  ROOT %w = f32[10,4] dynamic-update-slice(%c, %u, %i, %n)
}

%next (i: s32[]) -> s32[] {
  %i = s32[] parameter(0)
  %o = s32[] constant(1)
  ROOT %j = s32[] add(%i, %o)
}

%less (i: s32[]) -> pred[] {
  %i = s32[] parameter(0)
  %m = s32[] constant(7)
  ROOT %l = pred[] compare(%i, %m), direction=LT
}

%body (s: (s32[], f32[10,4])) -> (s32[], f32[10,4]) {
  %s = (s32[], f32[10,4]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %c = f32[10,4] get-tuple-element(%s), index=1
  %u = f32[1,4] fusion(%c, %i), kind=kLoop, calls=%part, metadata={op_name="jit(f)/while/body/sampling/slice"}
  %w = f32[10,4] fusion(%c, %u, %i), kind=kLoop, calls=%put
  %j = s32[] fusion(%i), kind=kLoop, calls=%next
  ROOT %t = (s32[], f32[10,4]) tuple(%j, %w)
}

%condition (s: (s32[], f32[10,4])) -> pred[] {
  %s = (s32[], f32[10,4]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  ROOT %l = pred[] fusion(%i), kind=kLoop, calls=%less
}

ENTRY %main (x: bf16[8,16], y: bf16[16,4], z: f32[10,4]) -> (bf16[8,4], f32[10,4]) {
  %x = bf16[8,16] parameter(0)
  %y = bf16[16,4] parameter(1)
  %z = f32[10,4] parameter(2)
  %q = bf16[8,4] fusion(%x, %y), kind=kCustom, calls=%product, metadata={op_name="jit(f)/q_proj/dot_general"}
  %b = bf16[32] bitcast(%q)
  %e = f32[10,4] copy(%z)
  %n = s32[] constant(0)
  %t = (s32[], f32[10,4]) tuple(%n, %e)
  %w = (s32[], f32[10,4]) while(%t), condition=%condition, body=%body KNOWN
  %r = f32[10,4] get-tuple-element(%w), index=1
  ROOT %o = (bf16[8,4], f32[10,4]) tuple(%q, %r)
}
"""
STEP = STEP.replace("NAMED", ', metadata={op_name="jit(f)/q_proj/dot_general"}')
KNOWN = ', backend_config={"known_trip_count":{"n":"7"}}'


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.compiled")


def figures(kind: str) -> dict[str, Any]:
    """Returns the golden figures of "texts" or "programs"."""
    return json.loads((GOLDEN / "compiled.json").read_text())[kind]


def text_of(name: str) -> str:
    return gzip.decompress((GOLDEN / f"{name}.hlo.gz").read_bytes()).decode()


def test_the_kernels_of_a_text_are_counted_as_by_hand() -> None:
    """A product, a copy, and a loop of seven turns that reads and writes a row of ten: only that row counts."""
    found = launches(STEP.replace(" KNOWN", KNOWN))
    assert not found.doubts and not found.unknown and found.outermost == [0]
    assert [(one.kind, one.times, one.flops, one.bytes) for one in found.kernels] == [
        ("product", 1, 2 * 8 * 16 * 4, 2 * (8 * 16 + 16 * 4 + 8 * 4)),
        ("copy", 1, 0, 2 * 4 * 40),
        ("fusion", 8, 0, 4 + 1),  # the condition
        ("fusion", 7, 0, 4 * (4 + 4) + 4),
        ("fusion", 7, 0, 4 * (4 + 4) + 4),
        ("fusion", 7, 0, 4 + 4),
    ]
    assert [str(one.scope) for one in found.kernels][::3] == ["q_proj", "sampling"]
    assert [one.loops for one in found.kernels] == [(), (), (0,), (0,), (0,), (0,)]


def test_a_loop_of_unknown_length_is_a_doubt_until_its_length_is_given() -> None:
    text = STEP.replace(" KNOWN", "")
    assert launches(text).unknown == [0] and "trip count" in launches(text).doubts[0]
    assert not launches(text, 3).doubts
    assert [one.times for one in launches(text, 3).kernels] == [1, 1, 4, 3, 3, 3]


def test_a_product_of_float32_is_told_apart() -> None:
    narrow, wide = (launches(text).kernels[0] for text in (STEP, STEP.replace("bf16", "f32")))
    assert (narrow.flops, narrow.wide, wide.flops, wide.wide) == (1024, 0, 1024, 1024)


THUNKS = """000: kCommandBuffer [source | next=001 (1)]
    001: kCopy         [source | sink] kCopy
    002: kCustomKernel [source | sink] loop_select_fusion
003: kWhile         [prev=000 (1) | next=000 (1)]
condition:
    004: kCustomKernel [source | sink] loop_compare_fusion
  body:
    005: kDynamicSliceFusion [source | next=000 (1)] params=1, results=1
        006: kCopy [source | sink] kCopy
    000: kCommandBuffer      [prev=005 (1) | sink        ]
        007: kGemm         [source | next=008 (1)] gemm
        008: kCuDnn        [source | next=009 (1)]
007: kCustomKernel [prev=003 (1) | sink        ] loop_add_fusion
"""


def test_graphs_are_counted_as_by_hand() -> None:
    assert graphs(THUNKS) == (Graphs(2, 4, 3), [Graphs(1, 2, 2)])


def test_a_kernel_takes_the_longest_of_its_times(compiled: ModuleType) -> None:
    device = DEVICES["h200"]._replace(bfloat16=1e12, tf32=5e11, bandwidth=1e10)
    kernel = launches(STEP).kernels[0]._replace(flops=int(4e6), wide=0, bytes=int(9e3))
    assert compiled.seconds(kernel, device, 0.0) == pytest.approx(4e6 / 0.8e12)
    assert compiled.seconds(kernel._replace(wide=int(4e6)), device, 0.0) == pytest.approx(4e6 / 0.4e12)
    assert compiled.seconds(kernel._replace(bytes=int(9e4)), device, 3.0) == pytest.approx(9e4 / 0.9e10)
    assert compiled.seconds(kernel, device, 30.0) == pytest.approx(30e-6)


def test_the_parts_of_a_program_add_up(compiled: ModuleType) -> None:
    """In the text of a train step; a turn of a generation is the mean of its stages, whose conditions run once each."""
    device = DEVICES["h200"]
    step = compiled.of_step(compiled.Compiled(text_of("train-cudnn"), THUNKS, 10**9), device)
    for key in ("kernels", "bytes", "flops"):
        assert sum(part[key] for part in step["components"].values()) == step[key] > 0
    assert step["mfu"] == pytest.approx(1e9 / (989.4e12 * step["ms"] / 1e3))
    assert step["ms_by_node_us"]["0"] < step["ms"] == step["ms_by_node_us"]["1.2"] < step["ms_by_node_us"]["3"]
    text = text_of("generation")
    loops = [number for number in launches(text).unknown if number in launches(text).outermost]
    thunks = "\n".join(["000: kWhile", "    001: kCopy"] * len(launches(text).outermost))
    turn = compiled.of_turn(compiled.Compiled(text, thunks, 0), device)
    once = [sum(kernel.times for kernel in launches(text, 1).kernels if kernel.loops[:1] == (loop,)) for loop in loops]
    conditions = [sum(k.times - 1 for k in launches(text, 1).kernels if k.loops == (loop,)) for loop in loops]
    assert turn["stages"] == len(loops) >= 1
    assert turn["kernels"] == sum(once[i] - conditions[i] for i in range(len(loops))) / len(loops)


def worse(found: dict[str, Any], golden: dict[str, Any]) -> list[str]:
    """Returns what is more than allowed, in words."""
    pairs = [(name, key) for name, one in golden.items() for key in one]
    return [f"{n} {k}: {found[n][k]} > {golden[n][k]}" for n, k in pairs if found[n][k] > ALLOWED * golden[n][k]]


def test_the_committed_texts_have_no_more_kernels_and_bytes_than_their_figures() -> None:
    found = {}
    for name in figures("texts"):
        kernels = launches(text_of(name), 1).kernels
        found[name] = {
            "kernels": sum(one.times for one in kernels),
            "bytes": sum(one.bytes * one.times for one in kernels),
        }
    assert not worse(found, figures("texts"))
    assert worse({name: {k: 1.03 * v for k, v in one.items()} for name, one in found.items()}, figures("texts"))


@needs_compiler
def test_the_programs_compile_to_no_more_kernels_and_bytes_than_before(compiled: ModuleType) -> None:
    """A regression of more than 2 % fails; tests/golden/make.py writes the figures anew if a change is worth it. What XLA
    launches, by its own list, is what the text says.
    """
    found = compiled.measured("h200", compiled.PROGRAMS, shape=SMALL)
    assert not worse(found, figures("programs")), "see tests/golden/make.py"
    for one in found.values():
        assert not one["doubts"] and one["graphs"]["graphs"] >= 1
    turn = found["decode_turn"]
    assert turn["graphs"]["captured"] + turn["graphs"]["alone"] == turn["kernels"]


def test_without_the_compiler_one_line_says_what_is_missing(
    compiled: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from jax.experimental import topologies

    def nothing(**_: Any) -> None:
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(topologies, "get_topology_desc", nothing)
    assert compiled.main(["--layers", "1"]) == 2
    told = capsys.readouterr()
    assert not told.out and told.err.count("\n") == 1 and "cuda-compiler" in told.err


def test_the_figures_of_the_last_commit_are_what_the_program_writes(compiled: ModuleType) -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "compiled-h200.json").read_text())
    for name in compiled.PROGRAMS:
        assert {"kernels", "bytes", "flops", "ms", "mfu"} <= set(result[name])
    text = (ROOT / "benchmarks" / "results" / "compiled-h200.md").read_text()
    assert text == compiled.markdown(result, None) + "\n"
    changed = compiled.markdown(result, {**result, "train_step": {**result["train_step"], "kernels": 1}})
    assert "| train_step | kernels | 1 |" in changed


def test_devices_are_described_with_their_versions() -> None:
    for device in DEVICES.values():
        text = device.description()
        assert "driver_version" in text and "runtime_version" in text and f"core_count: {device.cores}" in text
    with pytest.raises(JaxlvError):
        launches("no module")
