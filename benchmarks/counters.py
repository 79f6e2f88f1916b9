"""Compares what counters of FLOPs say about functions of every kind with the count by hand.

    python -m benchmarks.counters [--only WORDS] [--out DIR]

Every function of `benchmarks.inputs` is given to jaxlv's counters and to other counters of FLOPs: XLA's cost analysis of the
lowered and of the compiled program, jax.experimental.roofline, Flax's tabulate, and, if they are installed, FlopCounterMode,
fvcore and calflops, which get the same network in PyTorch. `MEANING` says what each is asked, and what counts as right.
--only takes the functions whose name contains WORDS (several: "a; b"); then nothing is written without --out.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import tables
from benchmarks.common import RESULTS, ROOT

if TYPE_CHECKING:
    from benchmarks.inputs import Input

DEVICES = "--xla_force_host_platform_device_count=8"
JAXLV = ("jaxlv jaxpr", "jaxlv HLO")
PACKAGES = {"FlopCounterMode": "torch", "fvcore": "fvcore", "calflops": "calflops"}
VERDICTS = ("right", "refused", "doubted", "wrong", "silent zero")
LENIENT = 0.05  # relative error up to which the other counters are called right
MEANING = """\
"By hand" are the FLOPs of matrix products and convolutions: two for each pair that is multiplied and added, only taps on
data, complex numbers as real ones. In rows marked *, it is every operation. The formulas are in `benchmarks/inputs.py`.
jaxlv is right if its products (*: its operations) equal that exactly: those of the jaxpr are what a function asks for;
those of the HLO are what is executed, which is stated if it differs. The others may give either figure, be off by 5 %, and
include all other operations: XLA, roofline, tabulate and calflops do not separate these from products. fvcore's figure is
doubled, because it counts a multiplication and an addition as one. PyTorch's counters count taps on padding; XLA and
roofline give one device's share. Doubted: wrong, but it says what it does not know (jaxlv: a doubt; fvcore: an unsupported
operator). Refused: an error, or no figure. Empty: not asked (no such network; fvcore and calflops have no gradients).
tabulate's gradient includes the inputs', and is judged accordingly. For loops of unknown length, jaxlv is given the trips;
the others cannot be. Times are from function to figure, including tracing and compiling; "jaxlv HLO" is all four of
`jaxlv.flops.count`."""


# ------------------------------------------------------------------------------------------------ the counters


def ask_jaxlv(one: Input) -> dict[str, Any]:
    """Returns jaxlv's figures, and the range that other counters may be in: from the products to all operations."""
    from jaxlv.errors import JaxlvError
    from jaxlv.flops import count

    def asked(**how: Any) -> Any:
        return count(one.function, *one.arguments, trips=one.trips, **how)

    executed = one.by_hand if one.executed is None else one.executed
    bounds = (min(one.by_hand, executed), max(one.by_hand, executed))
    try:
        _, seconds = timed(lambda: asked(compile=False))
        found, all_seconds = timed(asked)
    except JaxlvError as refusal:
        cell = {"value": None, "verdict": "refused", "note": str(refusal)}
        return {"cells": dict.fromkeys(JAXLV, cell), "bounds": bounds}
    cells = {}
    for name, counts, right, took in (
        (JAXLV[0], found.jaxpr, one.by_hand, seconds), (JAXLV[1], found.hlo, executed, all_seconds),
    ):  # fmt: skip
        value = counts.everything if one.all_operations else counts.products
        cells[name] = judged(value, (right, right), 0.0, counts.doubts, took)
    if not one.all_operations:
        bounds = (bounds[0], max(bounds[1], found.jaxpr.everything, found.hlo.everything or 0))
    return {"cells": cells, "bounds": bounds}


def xla_lowered(one: Input) -> Any:
    """Asks XLA's cost analysis of the lowered program."""
    return _costs(one, _jitted(one).lower(*one.arguments))


def xla_compiled(one: Input) -> Any:
    """Asks XLA's cost analysis of the compiled program."""
    return _costs(one, _jitted(one).lower(*one.arguments).compile())


def _jitted(one: Input) -> Any:
    import jax

    return one.function if hasattr(one.function, "lower") else jax.jit(one.function)


def _costs(one: Input, stage: Any) -> tuple[int | None, tuple[str, ...]]:
    said = stage.cost_analysis() or {}
    flops = said.get("flops", 0.0)
    others = said.get("transcendentals", 0.0) if one.all_operations else 0.0
    return (None if min(flops, others) < 0 else round(flops + others)), ()


def roofline(one: Input) -> Any:
    """Asks jax.experimental.roofline for `unfused_flops`, because its `flops` leaves out convolutions."""
    from jax.experimental import roofline

    return int(roofline.roofline(one.function)(*one.arguments)[1].unfused_flops), ()


def tabulate(one: Input) -> Any:
    """Asks Flax's tabulate: the first row of its table is the whole module."""
    if one.module is None:
        return None
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    width = {"width": 400, "force_terminal": False, "no_color": True}
    ask = nn.tabulate(
        one.module, jax.random.key(0), depth=0, compute_flops=True, compute_vjp_flops=one.grad, console_kwargs=width
    )
    lines = [re.split(r"[│┃]", line) for line in ask(jnp.ones(one.arguments[1].shape)).splitlines()]
    head, first = (line for line in lines if len(line) > 5 and (line[1].strip() == "path" or line[2].strip()))
    column = [cell.strip() for cell in head].index("vjp_flops" if one.grad else "flops")
    return int(first[column].replace(",", "")), ()


def _twin(name: str) -> Callable[[Input], Any]:
    """Returns a counter of PyTorch, which is asked about the same network."""

    def ask(one: Input) -> Any:
        if not one.twin:
            return None
        twins = importlib.import_module("benchmarks.twins")
        with twins.quiet():
            return getattr(twins, name)(one.twin, one.grad)

    return ask


PEERS: dict[str, Callable[[Input], Any]] = {
    "XLA lowered": xla_lowered,
    "XLA compiled": xla_compiled,
    "roofline": roofline,
    "tabulate": tabulate,
    "FlopCounterMode": _twin("flop_counter_mode"),
    "fvcore": _twin("by_fvcore"),
    "calflops": _twin("by_calflops"),
}


# ------------------------------------------------------------------------------------------------ the verdicts


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Returns (result, seconds), after clearing JAX's caches."""
    import jax

    jax.clear_caches()
    began = time.perf_counter()
    return function(), time.perf_counter() - began


def judged(
    value: int | None, bounds: tuple[int, int], slack: float, doubts: Sequence[str], seconds: float
) -> dict[str, Any]:
    """Returns a figure with its verdict."""
    if value is None:
        verdict = "refused"
    elif bounds[0] * (1 - slack) <= value <= bounds[1] * (1 + slack):
        verdict = "right"
    else:
        verdict = "doubted" if doubts else "wrong" if value else "silent zero"
    return {"value": value, "verdict": verdict, "seconds": round(seconds, 4), "doubts": list(doubts)}


def ask_peer(name: str, one: Input, bounds: tuple[int, int]) -> dict[str, Any] | None:
    """Returns what another counter says; None if it is not asked."""
    if name == "tabulate" and one.grad and one.tabulated is not None:
        bounds = (one.tabulated, round(one.tabulated * bounds[1] / bounds[0]))
    try:
        said, seconds = timed(lambda: PEERS[name](one))
    except Exception as error:  # whatever another library raises: the reader is shown it
        return {"value": None, "verdict": "refused", "note": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    return None if said is None else judged(said[0], bounds, LENIENT, said[1], seconds)


def row(one: Input, absent: Sequence[str]) -> dict[str, Any]:
    """Returns what all counters say about a function."""
    found = ask_jaxlv(one)
    cells = found["cells"] | {name: ask_peer(name, one, found["bounds"]) for name in PEERS if name not in absent}
    return {
        "function": one.name, "report": one.report, "all_operations": one.all_operations, "by_hand": one.by_hand,
        "executed": one.executed, "why": one.why, "most": found["bounds"][1], "cells": cells,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ the tables


def summary(result: dict[str, Any]) -> list[str]:
    """Lists the verdicts by counter."""
    lines = [_line(["counter", "asked", *VERDICTS, "median time"]), _line(["---"] * (len(VERDICTS) + 3))]
    for name in (*JAXLV, *PEERS):
        if name in result["absent"]:
            lines.append(_line([name, "not installed", *[""] * (len(VERDICTS) + 1)]))
            continue
        cells = [cell for each in result["rows"] if (cell := each["cells"][name])]
        tally = collections.Counter(cell["verdict"] for cell in cells)
        times = [cell["seconds"] for cell in cells if "seconds" in cell]
        took = f"{1e3 * statistics.median(times):.0f} ms" if times else ""
        lines.append(_line([name, str(len(cells)), *[str(tally[verdict]) for verdict in VERDICTS], took]))
    return lines


def markdown(result: dict[str, Any]) -> str:
    """Writes the result: what is asked, verdicts by counter, all figures."""
    names = [name for name in (*JAXLV, *PEERS) if name not in result["absent"]]
    lines = [f"`{result['command']}`", "", result["setting"], "", MEANING, "", *summary(result), ""]
    lines += [_line(["function", "by hand", *names]), _line(["---"] * (2 + len(names)))]
    for each in result["rows"]:
        by_hand = f"{each['by_hand']:,}" + (
            "" if each["executed"] is None else f" (executed {each['executed']:,}: {each['why']})"
        )
        title = each["function"] + " *" * each["all_operations"] + (f" ({each['report']})" if each["report"] else "")
        lines.append(_line([title, by_hand, *[_cell(each["cells"][name], each["by_hand"]) for name in names]]))
    return "\n".join(lines)


def _cell(cell: dict[str, Any] | None, by_hand: int) -> str:
    if cell is None:
        return ""
    value = "" if cell["value"] is None or (cell["verdict"], cell["value"]) == ("right", by_hand) else f"{cell['value']:,} "
    verdict = cell["verdict"] if cell["verdict"] == "right" else f"**{cell['verdict']}**"
    return value + verdict + (f", {1e3 * cell['seconds']:.0f} ms" if "seconds" in cell else "")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


# ------------------------------------------------------------------------------------------------ the program


def eight_devices() -> None:
    """Asks XLA for eight CPU devices; call it before jax is imported."""
    if DEVICES not in (given := os.environ.get("XLA_FLAGS", "")):
        os.environ["XLA_FLAGS"] = f"{given} {DEVICES}".strip()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def installed() -> dict[str, str]:
    """Returns the versions of PyTorch's counters; "absent" if one cannot be imported."""
    found = {}
    for package in PACKAGES.values():
        try:
            importlib.import_module(package)
            found[package] = metadata.version(package)
        except ImportError:
            found[package] = "absent"
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="WORDS", help="the functions whose name contains this")
    parser.add_argument("--out", type=Path, help="folder of the results (default benchmarks/results)")
    options = parser.parse_args(argv)
    eight_devices()
    from benchmarks.inputs import inputs

    parts = [part.strip() for part in (options.only or "").split(";")]
    chosen = [one for one in inputs() if any(part in one.name for part in parts)]
    if not chosen:
        parser.error(f"no function's name contains {options.only!r}")
    where, found, peers = tables.machine(), tables.versions(ROOT), installed()
    absent = [name for name, package in PACKAGES.items() if "absent" in (peers[package], peers["torch"])]
    found |= peers
    row(chosen[0], absent)  # imports at the first use must not count as any counter's time
    words = ["--only", f'"{options.only}"'] if options.only else []
    result = {
        "program": "benchmarks.counters",
        "command": " ".join(["python", "-m", "benchmarks.counters", *words]),
        "setting": f"{where['cpu']}, {where['cores']} cores with {os.getloadavg()[0]:.0f} processes at work; "
        + "8 CPU devices of XLA; "
        + ", ".join(f"{name} {version}" for name, version in found.items()),
        "machine": where,
        "versions": found,
        "meaning": MEANING,
        "absent": absent,
        "rows": [row(one, absent) for one in chosen],
    }
    text = markdown(result)
    print(text)
    folder = options.out or (None if options.only else RESULTS)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "counters-cpu.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (folder / "counters-cpu.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
