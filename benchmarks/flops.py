"""Counts the FLOPs of the same programs by formula, jaxpr, compiled HLO, XLA itself and PyTorch, and times each counter.

    python -m benchmarks.flops [--quick] [--device cuda] [--out DIR]

For a grid of shapes, ranks, targets, types and what trains, it gives the matrix products of the train step by every counter,
and their differences. If PyTorch is installed, its FlopCounterMode counts transformers' own Qwen2 with the same adapters,
from shapes alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.common import RESULTS, ROOT

COLUMNS = ("shape", "batch x length", "rank", "targets", "trains", "type", "formula", "jaxpr", "HLO", "XLA lowered",
           "XLA compiled", "torch", "s: formula", "jaxpr", "HLO")  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One program."""

    shape: str
    batch: int
    length: int
    rank: int
    targets: str
    train: str
    dtype: str = "float32"


SMALL = Cell("small", 2, 64, 4, "q,v", "adapters")
FULL = Cell("qwen2.5-0.5b", 4, 512, 8, "q,v", "adapters")
QUICK = (
    SMALL,
    Cell("small", 3, 50, 2, "k,o,down", "adapters"),
    Cell("small", 2, 64, 4, "q,v", "head"),
    Cell("small", 2, 64, 4, "q,v", "full"),
    Cell("small", 2, 64, 4, "q,v", "adapters", "bfloat16"),
)
GRID = (
    *QUICK,
    Cell("qwen2.5-0.5b", 4, 128, 2, "q,v", "adapters"),
    FULL,
    Cell("qwen2.5-0.5b", 4, 512, 8, "q,v", "head"),
    Cell("qwen2.5-0.5b", 4, 512, 8, "q,v", "full"),
    Cell("qwen2.5-0.5b", 4, 768, 4, "q,k,v,o,gate,up,down", "adapters"),
    Cell("qwen2.5-0.5b", 4, 512, 8, "q,v", "adapters", "bfloat16"),
)


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Returns (result, seconds)."""
    began = time.perf_counter()
    return function(), time.perf_counter() - began


def count(cell: Cell, device: str) -> dict[str, Any]:
    """Returns the counts of a cell's train step."""
    import jax
    import jax.numpy as jnp

    from jaxlv.flops import programs
    from jaxlv.flops.counting.hlo import count_hlo
    from jaxlv.flops.counting.jaxpr import count_closed
    from jaxlv.flops.counting.xla import count_xla
    from jaxlv.flops.family import FAMILY
    from jaxlv.flops.table import count as priced
    from jaxlv.flops.work import Work
    from jaxlv.model.config import ModelConfig
    from jaxlv.model.qwen2 import Qwen2

    small = ModelConfig(512, 64, 160, 3, 4, 2, 16, tie_word_embeddings=True)
    config = FAMILY.get(cell.shape, small)
    work = Work(config, cell.batch, cell.length, cell.rank, tuple(cell.targets.split(",")), train=cell.train)  # type: ignore[arg-type]
    program: Any = programs.train_program(work, Qwen2(config, jnp.dtype(cell.dtype)))
    table, formula_s = timed(lambda: priced(work, "exact"))
    with jax.default_device(jax.devices(device)[0]):
        traced, trace_s = timed(lambda: program.function.trace(*program.arguments))
        asked, walk_s = timed(lambda: count_closed(traced.jaxpr).total())
        lowered = traced.lower()
        compiled, compile_s = timed(lowered.compile)
    text = compiled.as_text()
    executed, read_s = timed(lambda: count_hlo(text))
    said = [count_xla(stage, hlo) for stage, hlo in ((lowered, lowered.as_text()), (compiled, text))]
    return {
        **vars(cell),
        "formula": table.total_train_step,
        "jaxpr": asked.products(),
        "hlo": executed.total().products(),
        "doubts": executed.doubts,
        "everything": asked.everything(),
        "xla_lowered": None if said[0].flops is None else int(said[0].flops + said[0].transcendentals),
        "xla_compiled": None if said[1].flops is None else int(said[1].flops + said[1].transcendentals),
        "torch": torch_count(cell, config) if cell.dtype == "float32" and device == "cpu" else None,
        "seconds": {"formula": formula_s, "trace": trace_s, "jaxpr": walk_s, "compile": compile_s, "hlo": read_s},
    }


def torch_count(cell: Cell, config: Any) -> int | str:
    """Returns the matrix products of a forward and backward pass by torch's FlopCounterMode, from shapes alone; or the
    reason why they are not counted.
    """
    try:
        import peft
        import torch
        import transformers
        from torch.utils.flop_counter import FlopCounterMode
    except ImportError as absent:
        return f"not counted: {absent}"
    from jaxlv.lora.overlay import normalise_targets

    hf = transformers.Qwen2Config(**{k: v for k, v in config.to_hf().items() if k not in ("architectures", "torch_dtype")})
    hf._attn_implementation = "eager"
    targets = list(normalise_targets(cell.targets.split(",")))
    with torch.device("meta"):  # shapes alone
        base = transformers.Qwen2ForCausalLM(hf)
        adapters = peft.LoraConfig(r=cell.rank, target_modules=targets, lora_dropout=0.0)
        model = peft.get_peft_model(base, adapters, low_cpu_mem_usage=True)
        if cell.train == "full":
            for parameter in model.parameters():
                parameter.requires_grad_(True)
        elif cell.train == "head":
            base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.detach().clone())
        ids = torch.zeros((cell.batch, cell.length), dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
            logits.sum().backward()
    return int(counter.get_total_flops())


def markdown(result: dict[str, Any]) -> str:
    """Writes the result as a table."""
    head = [f"`{result['command']}`", "", result["setting"], ""]
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in result["rows"]:
        exact = row["formula"]
        other = [_against(row[key], exact) for key in ("jaxpr", "hlo")]
        raw = [_against(row[key], row["everything"]) for key in ("xla_lowered", "xla_compiled")]
        torch = (
            "" if row["torch"] is None else row["torch"] if isinstance(row["torch"], str) else _against(row["torch"], exact)
        )
        seconds = [f"{row['seconds'][key]:.3f}" for key in ("formula", "jaxpr", "hlo")]
        cells = [
            row["shape"],
            f"{row['batch']} x {row['length']}",
            str(row["rank"]),
            row["targets"],
            row["train"],
            row["dtype"],
        ]
        lines.append("| " + " | ".join([*cells, f"{exact:,}", *other, *raw, torch, *seconds]) + " |")
    foot = [
        "",
        "jaxpr, HLO and torch: difference from the formula, matrix products. XLA: difference of its own figure from all "
        "operations of the jaxpr. `s`: seconds to count, without tracing and compiling.",
    ]
    return "\n".join([*head, *lines, *foot])


def _against(value: int | None, other: int) -> str:
    if value is None:
        return "none"
    return "0" if value == other else f"{value - other:+,} ({(value - other) / other:+.1e})"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small shapes only, and no file without --out")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="folder of the results (default benchmarks/results)")
    options = parser.parse_args(argv)
    import jax

    rows = []
    for cell in QUICK if options.quick else GRID:
        print(f"{cell} ...", flush=True)
        rows.append(count(cell, options.device))
    where, found = tables.machine(), tables.versions(ROOT)
    device = jax.devices(options.device)[0].device_kind
    words = ["--quick"] * options.quick + (["--device", options.device] if options.device != "cpu" else [])
    result = {
        "program": "benchmarks.flops",
        "command": " ".join(["python", "-m", "benchmarks.flops", *words]),
        "setting": f"{where['cpu']}, {where['cores']} cores; {device}; "
        + ", ".join(f"{name} {version}" for name, version in found.items()),
        "machine": where,
        "versions": found,
        "rows": rows,
    }
    text = markdown(result)
    print(text)
    folder = options.out or (None if options.quick else RESULTS)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"flops-{options.device}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (folder / f"flops-{options.device}.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
