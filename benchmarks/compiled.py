"""Predicts the speed of the train step and of a turn of the decode loop on a CUDA device that is not there, from what XLA's
CUDA compiler makes of them.

    JAX_PLATFORMS=cpu python -m benchmarks.compiled [--device h100|h200|a100] [--json FILE]    # needs jaxlv[cuda-compiler]
    JAX_PLATFORMS=cpu python -m benchmarks.compiled --runs 9 --batch 1 --length 128 --programs train_step    # a sweep's step

The programs are those that `jaxlv train` and `jaxlv evaluate` run, on abstract arguments: Qwen2.5-0.5B in bfloat16 with
cuDNN attention, a batch of 4 x 512 tokens, rank 8 on q and v, a frozen head over the vocabulary; and forecasts of 8 series
with 20 samples each (160 rows) after 512 tokens, over the number grammar: the mean turn of all stages of the tail.

A kernel takes the longest of three times: its products at the peak, its operands and results at the memory's bandwidth, and
a launch. Peak and bandwidth are those of the data sheet, times what large kernels reach in practice (REACHED). MFU is the
model's FLOPs, without what a kernel computes again, by the data sheet's peak. Nothing is measured: caches, tile quantisation
and autotuned kernels are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from benchmarks import tables
from benchmarks.common import RESULTS, ROOT

REACHED = {"peak": 0.8, "bandwidth": 0.9}  # of the data sheet's: 790 TFLOP/s and 4.3 TB/s on an H200
NODES_US = (0.0, 1.2, 3.0)  # microseconds of a kernel that does nothing: none, in a CUDA graph, launched by itself
NODE_US = 1.2
TURNS = 2  # that each decode loop is said to have: enough to tell its body from its condition, which runs once more
SHAPE = {
    "model": "qwen2.5-0.5b",
    "batch": 4,
    "length": 512,
    "rank": 8,
    "runs": 1,
    "series": 8,
    "samples": 20,
    "context": 50,
    "horizon": 50,
}
WHERE = "benchmarks.compiled"
PROGRAMS = ("train_step", "decode_turn")


class Compiled(NamedTuple):
    """A compiled program: its text, the thunks that XLA runs it by, and the FLOPs that the model asks for."""

    text: str
    thunks: str
    model_flops: int = 0


# ------------------------------------------------------------------------------------------------ the programs


def subjects(shape: dict[str, Any], layers: int = 0) -> dict[str, Any]:
    """Returns the subjects (jaxlv.flops.subjects) of a run of this shape, with fewer layers if `layers` says so.

    Each comes with the FLOPs that the model asks for, 0 if those that are executed stand for them.
    """
    from dataclasses import replace

    from jaxlv.config import RunConfig, build_config
    from jaxlv.flops.family import FAMILY
    from jaxlv.runs import audited
    from jaxlv.runs.billing import event_of
    from jaxlv.steps import generate
    from jaxlv.steps.needs import MOST_LOGITS

    model = shape["model"] if not isinstance(shape["model"], str) else FAMILY[shape["model"]]
    model = replace(model, num_hidden_layers=layers) if layers else model
    settings = {
        "model": {"dtype": "bfloat16", "attention": "cudnn"},
        "lora": {"rank": shape["rank"], "alpha": 2.0 * shape["rank"], "head": "frozen"},
        "train": {"batch_size": shape["batch"], "validate_every": 0},
        "windows": {"length": shape["length"]},
        "evaluate": {
            "context": shape["context"], "horizon": shape["horizon"], "samples": shape["samples"],
            "batch_series": shape["series"], "unmasked_samples": 0,
        },
    }  # fmt: skip
    config = build_config(RunConfig, settings, where=WHERE)
    steps = shape["context"] + shape["horizon"]
    with mock.patch.object(generate, "GUESSING_ROWS", {}):  # a turn of single tokens, whatever pays on this machine
        found = audited.of_runs([config] * shape.get("runs", 1), model, shape["series"], steps, MOST_LOGITS)
    rows = f"generation, {shape['series'] * shape['samples']} x "
    turn = next(one for one in found if one.program.name.startswith(rows) and "rank" in one.program.name)
    asked = replace(event_of(config), kernel="xla").flops(model, "exact")  # the other kernels form scores again
    return {"train_step": (found[0], asked), "decode_turn": (turn, 0)}


@contextlib.contextmanager
def cudnn_without_device() -> Iterator[None]:
    """Lets cuDNN's attention be traced, although it asks a device for its kind and cuDNN's version."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    before = cudnn.check_cudnn_version, cudnn.check_compute_capability
    cudnn.check_cudnn_version, cudnn.check_compute_capability = lambda: 91_000, lambda *_: True
    try:
        yield
    finally:
        cudnn.check_cudnn_version, cudnn.check_compute_capability = before


def compiled(subject: Any, device: str, model_flops: int = 0) -> Compiled:
    """Compiles a program for an absent device."""
    import jax

    from jaxlv.flops.targets import DEVICES, absent
    from jaxlv.steps.train import CUDA_OPTIONS

    program = subject.program
    with tempfile.TemporaryDirectory() as folder:
        options = {**(CUDA_OPTIONS if program.name == "train_step" else {}), "xla_dump_to": folder}
        target = absent(DEVICES[device], {**options, "xla_dump_hlo_as_text": True}, WHERE)
        jitted: Any = program.function if hasattr(program.function, "trace") else jax.jit(program.function)
        arguments = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=target.sharding), program.arguments
        )
        text = jitted.lower(*arguments).compile(compiler_options=target.options).as_text()
        (thunks,) = Path(folder).glob("*thunk_sequence_after_thunk_passes.txt")
        return Compiled(text, thunks.read_text(), model_flops)


# ------------------------------------------------------------------------------------------------ the roofline


def seconds(kernel: Any, device: Any, node_us: float) -> float:
    """Returns the seconds of one execution of a kernel."""
    narrow, reached = kernel.flops - kernel.wide, REACHED["peak"]
    products = narrow / (reached * device.bfloat16) + kernel.wide / (reached * device.tf32)
    return max(products, kernel.bytes / (REACHED["bandwidth"] * device.bandwidth), 1e-6 * node_us)


def figures(kernels: Sequence[tuple[Any, float]], device: Any, model_flops: float = 0) -> dict[str, Any]:
    """Returns the roofline of kernels, each with how often it runs; MFU by `model_flops`, or by what is executed."""
    flops = sum(kernel.flops * times for kernel, times in kernels)
    ms = {node: 1e3 * sum(seconds(kernel, device, node) * times for kernel, times in kernels) for node in NODES_US}
    asked = model_flops or flops
    return {
        "kernels": _whole(sum(times for _, times in kernels)),
        "bytes": _whole(sum(kernel.bytes * times for kernel, times in kernels)),
        "flops": _whole(flops),
        "ms": ms[NODE_US],
        "mfu": asked / (device.bfloat16 * ms[NODE_US] / 1e3) if ms[NODE_US] else 0.0,
        "ms_by_node_us": {f"{node:g}": value for node, value in ms.items()},
    }


def _whole(number: float) -> float:
    """Returns a count to one decimal, as an int if that is 0: the mean of several loops need not be whole."""
    rounded = round(number, 1)
    return int(rounded) if rounded == int(rounded) else rounded


def roofline(kernels: Sequence[tuple[Any, float]], device: Any, model_flops: float = 0) -> dict[str, Any]:
    """Returns the figures of a program, and of each component in it, the longest first."""
    from jaxlv.flops.places import place

    parts: dict[str, list[tuple[Any, float]]] = {}
    for pair in kernels:
        parts.setdefault(place(pair[0].scope).component, []).append(pair)
    found = {name: figures(part, device) for name, part in parts.items()}
    components = dict(sorted(found.items(), key=lambda pair: -pair[1]["ms"]))
    return {**figures(kernels, device, model_flops), "components": components}


def of_step(made: Compiled, device: Any) -> dict[str, Any]:
    """Returns the roofline of a whole program."""
    from jaxlv.flops.counting.launches import graphs, launches

    found = launches(made.text)
    whole, loops = graphs(made.thunks)
    pairs = [(kernel, kernel.times) for kernel in found.kernels]
    figures = roofline(pairs, device, made.model_flops)
    return {**figures, "graphs": whole._asdict(), "loops": [one._asdict() for one in loops], "doubts": found.doubts}


def of_turn(made: Compiled, device: Any) -> dict[str, Any]:
    """Returns the roofline of a mean turn of the loops of unknown length in a program, condition included."""
    from jaxlv.flops.counting.launches import graphs, launches

    found = launches(made.text, TURNS)
    stages = [number for number in found.unknown if number in found.outermost]
    pairs = [
        (kernel, kernel.times // TURNS / len(stages))
        for kernel in found.kernels
        if kernel.loops and kernel.loops[0] in stages
    ]
    _, loops = graphs(made.thunks)
    captured = [loops[found.outermost.index(number)]._asdict() for number in stages]
    mean = {name: _whole(sum(one[name] for one in captured) / len(captured)) for name in captured[0]}
    return {**roofline(pairs, device), "graphs": mean, "stages": len(stages), "doubts": found.doubts}


def measured(device: str, programs: Sequence[str], layers: int = 0, shape: dict[str, Any] | None = None) -> dict[str, Any]:
    """Compiles programs and returns their rooflines by name."""
    from jaxlv.flops.targets import DEVICES, absent

    found = {}
    absent(DEVICES[device], {}, WHERE)  # without the compiler, this says so first
    with cudnn_without_device():
        for name, (subject, model_flops) in subjects(shape or SHAPE, layers).items():
            if name in programs:
                print(f"compiling {subject.program.name} ...", file=sys.stderr, flush=True)
                made = compiled(subject, device, model_flops)
                found[name] = (of_step if name == "train_step" else of_turn)(made, DEVICES[device])
    return tables.rounded(found, 5)


# ------------------------------------------------------------------------------------------------ what is printed

HEAD = ("program", "kernels", "GB", "TFLOP", "ms at 0 / 1.2 / 3 us a kernel", "MFU", "CUDA graphs", "kernels outside them")
PART = ("component", "kernels", "GB", "TFLOP", "ms", "share")


def markdown(result: dict[str, Any], before: dict[str, Any] | None) -> str:
    """Writes the figures as tables, with the changes since `before`."""
    lines = [f"`{result['command']}`", "", result["setting"], "", *_table(HEAD, [_row(*one) for one in _programs(result)])]
    for name, one in _programs(result):
        rows = [_part(component, part, one["ms"]) for component, part in one["components"].items()]
        lines += ["", f"{name.replace('_', ' ').capitalize()}, at {NODE_US:g} us a kernel:", "", *_table(PART, rows)]
        lines += [f"\nDoubt: {doubt}" for doubt in one["doubts"]]
    if before:
        lines += ["", "Against the figures of the last commit:", "", *_changes(result, before)]
    return "\n".join(lines)


def _programs(result: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, result[name]) for name in PROGRAMS if name in result]


def _row(name: str, one: dict[str, Any]) -> list[str]:
    ms = " / ".join(f"{value:.2f}" for value in one["ms_by_node_us"].values())
    graphs, per = one["graphs"], " a turn" if name == "decode_turn" else ""
    captured = f"{graphs['graphs']:,}{per}, of {graphs['captured']:,} kernels"
    size = [f"{one['kernels']:,}", f"{one['bytes'] / 1e9:.2f}", f"{one['flops'] / 1e12:.3f}"]
    return [name.replace("_", " "), *size, ms, f"{100 * one['mfu']:.1f} %", captured, f"{graphs['alone']:,}"]


def _part(name: str, one: dict[str, Any], ms: float) -> list[str]:
    sizes = [f"{one['kernels']:,}", f"{one['bytes'] / 1e9:.3f}", f"{one['flops'] / 1e12:.4f}"]
    return [name, *sizes, f"{one['ms']:.3f}", f"{100 * one['ms'] / ms:.1f} %"]


def _changes(result: dict[str, Any], before: dict[str, Any]) -> list[str]:
    rows = []
    for name, one in _programs(result):
        old = before.get(name)
        for key, unit in (("kernels", 1.0), ("bytes", 1e9), ("flops", 1e12), ("ms", 1.0), ("mfu", 0.01)):
            if old:
                change = 100 * (one[key] / old[key] - 1)
                rows.append([name, key, f"{old[key] / unit:,.4g}", f"{one[key] / unit:,.4g}", f"{change:+.2f} %"])
    return _table(("program", "", "before", "after", "change"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


def _setting(device: Any, versions: dict[str, str]) -> str:
    peak, bandwidth = device.bfloat16 / 1e12, device.bandwidth / 1e12
    reached = f"{REACHED['peak'] * peak:.0f} of {peak:.0f} TFLOP/s in bfloat16 and "
    reached += f"{REACHED['bandwidth'] * bandwidth:.2f} of {bandwidth:.2f} TB/s"
    found = ", ".join(f"{name} {versions[name]}" for name in ("jax", "jaxlib", "jaxlv"))
    return f"Predicted, not measured: {device.words}, {reached}; {found}."


def committed(device: str) -> dict[str, Any] | None:
    """Returns the figures of the last commit, if it has any."""
    path = f"benchmarks/results/compiled-{device}.json"
    done = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("h100", "h200", "a100"), default="h200")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--programs", default=",".join(PROGRAMS), help="which, with a comma between (default both)")
    parser.add_argument("--layers", type=int, default=0, help="compile so many layers only: quicker, for a look at a change")
    for name, what in (
        ("runs", "that train side by side"),
        ("batch", "windows of a run"),
        ("length", "tokens of a window"),
    ):
        parser.add_argument(f"--{name}", type=int, default=SHAPE[name], help=f"{what} (default {SHAPE[name]})")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/compiled-DEVICE.json and .md")
    options = parser.parse_args(argv)
    from jaxlv.errors import JaxlvError
    from jaxlv.flops.targets import DEVICES

    changed = {name: getattr(options, name) for name in ("runs", "batch", "length") if getattr(options, name) != SHAPE[name]}
    try:
        found = measured(options.device, options.programs.split(","), options.layers, {**SHAPE, **changed})
    except JaxlvError as fault:
        print(fault, file=sys.stderr)
        return 2
    device, versions = DEVICES[options.device], tables.versions(ROOT)
    words = [
        *(["--device", options.device] if options.device != "h200" else []),
        *(["--layers", str(options.layers)] * bool(options.layers)),
        *(word for name, value in changed.items() for word in (f"--{name}", str(value))),
    ]
    result = {
        "program": WHERE,
        "command": tables.command(WHERE, words),
        "setting": _setting(device, versions),
        "shape": {**SHAPE, **changed, **({"layers": options.layers} if options.layers else {})},
        "versions": versions,
        **found,
    }  # fmt: skip
    before = None if options.layers or changed else committed(options.device)
    print(markdown(result, before))
    texts = {options.json: json.dumps(result, indent=1)} if options.json else {}
    if options.write:
        path = RESULTS / f"compiled-{options.device}.json"
        texts |= {path: json.dumps(result, indent=1), path.with_suffix(".md"): markdown(result, None)}
    for path, text in texts.items():
        path.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
