"""Counts what the devices of a mesh send each other in a train step: by formula, and as XLA partitions the step.

    python -m benchmarks.collectives [--quick] [--write]

The formula (jaxlv.flops.traffic) is for 1 to 64 devices and all layers. It is compared with programs of two layers, as wide
as the family's, for 8 virtual devices of this machine (float32) and, if XLA's CUDA compiler is there, for 8 H100s that are
not (bfloat16). Bytes are those of the results of collectives on one device; in a ring an all-reduce sends almost twice as
many. Nothing runs, so nothing is said of time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from benchmarks import tables
from benchmarks.common import RESULTS, ROOT
from jaxlv.config import Dtype, LoraConfig, MeshConfig, ModelSettings, RunConfig, TrainConfig, WindowConfig
from jaxlv.errors import JaxlvError
from jaxlv.flops import targets, traffic
from jaxlv.flops.family import architecture
from jaxlv.flops.targets import Target
from jaxlv.flops.work import Work
from jaxlv.model import placement
from jaxlv.runs import audited

MODELS = ("qwen2.5-0.5b", "qwen2.5-7b")
DEVICES = (1, 2, 4, 8, 16, 32, 64)
SHOWN = (2, 8, 64)  # of these in a table
WIDE = (1, 2, 4)  # devices of the axis "model"
MESHES = ((8, 1), (4, 2), (2, 4), (1, 8))
LAYERS, BATCH, LENGTH, RANK = 2, 8, 512, 8
LIMIT = 0.01  # by which formula and program may differ


class Counted(NamedTuple):
    """Bytes on one device in a step of a model of so many layers, on data x model devices, by formula and by a program."""

    model: str
    layers: int
    data: int
    parts: int
    compiled_for: str
    formula: int
    program: int
    ring: int

    @property
    def off(self) -> float:
        """The difference, as a share."""
        return abs(self.program - self.formula) / max(self.program, self.formula, 1)


def work(model: str, data: int, parts: int, dtype: str = "bfloat16") -> Work:
    """Returns a train step of a model of the family, of BATCH windows for each device of the axis "data"."""
    targets = ("q_proj", "v_proj")
    return Work(
        architecture(model), BATCH * data, LENGTH, RANK, targets, train="bias", dtype=dtype, over_data=data, over_model=parts
    )


def by_formula() -> list[dict[str, Any]]:
    """Returns the bytes of a step in bfloat16 on a CUDA device, for each number of devices: 8 windows for each along
    "data".
    """
    found = []
    for model in MODELS:
        for parts in WIDE:
            for devices in (count for count in DEVICES if count >= parts):
                sent = traffic.traffic(work(model, devices // parts, parts), merged=True)
                found.append({"model": model, "devices": devices, "parts": parts, **sent, "total": sum(sent.values())})
    return found


def compiled(model: str, data: int, parts: int, target: Target) -> Counted:
    """Counts the step of two layers on a mesh of a target's devices, of BATCH windows in all."""
    whole = dataclasses.replace(architecture(model), num_hidden_layers=LAYERS)
    dtype: Dtype = "bfloat16" if target.platform == "cuda" else "float32"
    config = RunConfig(
        train=TrainConfig(batch_size=BATCH), windows=WindowConfig(length=LENGTH), lora=LoraConfig(rank=RANK),
        model=ModelSettings(dtype=dtype), mesh=MeshConfig(data=data, model=parts),
    )  # fmt: skip
    places = np.array(targets.devices_of(target, data * parts)).reshape(data, parts)
    mesh = Mesh(places, (placement.DATA, placement.MODEL), axis_types=(AxisType.Auto,) * 2)
    found = audited.on_mesh(config, whole, mesh, target)
    formula, program = found.traffic[-1].formula, found.traffic[-1].executed
    assert formula is not None and program is not None
    return Counted(model, LAYERS, data, parts, target.words, formula, program, found.ring)


def programs(quick: bool) -> Iterator[Counted]:
    """Yields the counts of compiled programs."""
    places = [targets.cpu()]
    try:
        places.append(targets.cuda())
    except JaxlvError as fault:
        print(f"no CUDA plans: {fault}")
    for target in places:
        for model in MODELS[: 1 if quick else None]:
            for data, parts in MESHES[: 2 if quick else None]:
                yield compiled(model, data, parts, target)


def markdown(result: dict[str, Any]) -> str:
    """Writes the result as tables."""
    told = ", ".join(
        f"{name} {version}" for name, version in result["versions"].items() if name in ("jax", "jaxlib", "jaxlv")
    )
    formula = [
        "| model | devices | model axis | MB a step | activations | gradients |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in (row for row in result["formula"] if row["devices"] in SHOWN):
        sizes = (one["total"], one["activations"] + one["adapters"] + one["loss"], one["gradients"])
        shown = " | ".join(f"{size / 1e6:,.2f}" for size in sizes)
        formula.append(f"| {one['model']} | {one['devices']} | {one['parts']} | {shown} |")
    compared = ["| two layers of | mesh | compiled for | formula, bytes | program, bytes | ring, bytes |"]
    compared.append("| --- | --- | --- | --- | --- | --- |")
    for one in result["programs"]:
        mesh = f"{one['data']} x {one['parts']}"
        counts = " | ".join(f"{one[name]:,}" for name in ("formula", "program", "ring"))
        compared.append(f"| {one['model']} | {mesh} | {one['compiled_for']} | {counts} |")
    words = (
        f"Result bytes of collectives on one device in a train step; {told}. 8 windows of 512 tokens for each device of the"
    )
    words += ' axis "data", rank 8 on q and v, a trained bias of the head, bfloat16, CUDA:'
    again = "By formula and in compiled programs, 8 windows in all:"
    return "\n".join([f"`{result['command']}`", "", words, "", *formula, "", again, "", *compared])


def figure(result: dict[str, Any]) -> Any:
    """Returns the chart of the bytes against the number of devices, a panel for each model."""
    from jaxlv.report.charts import Axis, Chart, Panel, Series
    from jaxlv.report.theme import HUES

    panels = []
    for model in MODELS:
        lines = []
        for place, parts in enumerate(WIDE):
            own = [one for one in result["formula"] if (one["model"], one["parts"]) == (model, parts) and one["total"]]
            counts, sizes = [one["devices"] for one in own], [one["total"] / 1e6 for one in own]
            lines.append(Series(f"model = {parts}", counts, sizes, colour=HUES[place], marker="o"))
        panels.append(Panel(lines, Axis("devices", scale="log"), Axis("sent in a step", "MB", scale="log"), title=model))
    return Chart("lines", panels, (880, 260), columns=len(panels))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program; see `--help`. The exit code is 1 if a program differs from the formula by more than 1 %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two meshes of one model")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/collectives.* and the figure")
    options = parser.parse_args(argv)
    jax.config.update("jax_num_cpu_devices", 8)
    found = list(programs(options.quick))
    result = {
        "program": "benchmarks.collectives",
        "command": tables.command("benchmarks.collectives", ["--quick"] * options.quick),
        "machine": tables.machine(), "versions": tables.versions(ROOT), "formula": by_formula(),
        "programs": [one._asdict() for one in found],
    }  # fmt: skip
    print(markdown(result))
    if options.write:
        write(result)
    if any(one.off > LIMIT for one in found):
        raise SystemExit("a program differs from the formula by more than 1 %")


def write(result: dict[str, Any]) -> None:
    """Writes the tables and the figure of a result."""
    from jaxlv.report.figures import svg

    path = RESULTS / "collectives.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(result) + "\n", encoding="utf-8")
    drawn = svg.stand_alone(svg.to_svg(figure(result), "bytes that devices send in a train step"))
    (ROOT / "docs" / "pictures" / "collectives.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
