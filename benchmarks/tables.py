"""The figures of a benchmark's sides, their ratios, the machine that they were measured on, and the table of all this."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "transformers", "peft", "numpy")
AGAINST = "torch"  # the side to which the others are compared
WITHOUT = ", without "  # in the name of a side that is another one without something
TIE = 1.15  # ratios closer to 1 than this are called ties
GIB = 2**30


PLACES = ("--out", "--work")  # options that name a folder of the machine


def command(module: str, words: Sequence[str]) -> str:
    """Returns the command line of a benchmark, without the options that name folders."""
    pairs = zip(["", *words], words, strict=False)
    kept = [word for before, word in pairs if before not in PLACES and word.partition("=")[0] not in PLACES]
    return " ".join(["python", "-m", module, *kept])


def figures(name: str, runs: Sequence[Mapping[str, float]], facts: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """Returns a side's row: bytes become GiB, and the time that the first run takes beyond the others is compilation."""
    rest = dict(facts)
    if not runs:
        return rest
    by_run = {key: [run[key] for run in runs] for key in runs[0]}
    median, first = statistics.median(by_run["seconds"]), rest.pop("first_seconds")
    if name != AGAINST:
        rest.setdefault("compile_seconds", max(first - median, 0.0))
    sizes = {key.replace("_bytes", "_gib"): rest.pop(key) / GIB for key in sorted(rest) if key.endswith("_bytes")}
    return rounded({**by_run, "tokens_per_second": tokens / median, **sizes, **rest})


def ratios(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns each side's speed over PyTorch's."""
    return _compared(figures, {name: AGAINST for name in figures if name != AGAINST})


def gains(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns the speed of each side over that of the side which is named the same, and is without something."""
    return _compared(figures, {name.partition(WITHOUT)[0]: name for name in figures if WITHOUT in name})


def _compared(figures: Mapping[str, Mapping[str, Any]], bases: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Returns each side's speed over its base's, repetition by repetition: median, least, greatest, and in CPU seconds."""

    def pairs(name: str, key: str) -> list[float]:
        return [theirs / ours for theirs, ours in zip(figures[bases[name]][key], figures[name][key], strict=True)]

    found = {}
    for name, base in bases.items():
        if "seconds" in figures.get(base, {}) and "seconds" in figures.get(name, {}):
            speed, cpu = pairs(name, "seconds"), pairs(name, "cpu_seconds")
            found[name] = {"median": statistics.median(speed), "min": min(speed), "max": max(speed)}
            found[name]["cpu"] = statistics.median(cpu)
    return rounded(found)


def rounded(tree: Any, digits: int = 4) -> Any:
    """Rounds floats to so many significant digits."""
    if isinstance(tree, float):
        return float(f"{tree:.{digits}g}")
    if isinstance(tree, Mapping):
        return {key: rounded(value, digits) for key, value in tree.items()}
    return [rounded(value, digits) for value in tree] if isinstance(tree, list) else tree


def machine() -> dict[str, Any]:
    """Returns the kind of machine."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions(checkout: Path) -> dict[str, str]:
    """Returns the versions of the libraries and the commit of this project; "+" marks later changes to jaxlv/."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()

    try:
        found["jaxlv"] = git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "jaxlv") else "")
    except (OSError, subprocess.CalledProcessError):
        found["jaxlv"] = "no git checkout"
    return found


def publish(result: Mapping[str, Any], folder: Path | None) -> None:
    """Prints the table; if a folder is given, writes it and the figures there as NAME-PLATFORM.md and .json."""
    text = markdown(result)
    print(text)
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    used = result["settings"]
    kind = used["device"] if used["dtype"] == "float32" else f"{used['device']}-{used['dtype']}"
    path = folder / f"{result['program'].rpartition('.')[2]}-{kind}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(text + "\n", encoding="utf-8")


def markdown(result: Mapping[str, Any]) -> str:
    """Writes the result as a table, with the command and the machine above it."""
    figures = ("tokens/s", "x PyTorch (range)", "in CPU s", "peak GiB", "after loading", "compile s", "others")
    head = ("shape", "work", "side", *figures)
    lines = [f"`{result['command']}`", "", _setting(result), "", _row(head), _row(["---"] * len(head))]
    for row in result["rows"]:
        for name, side in row["sides"].items():
            lines.append(_row([row["shape"], row["work"], *_cells(name, side, row["ratios"].get(name))]))
    return "\n".join([*lines, *_told(result["rows"])])


def _told(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns a line for each gain, turn by turn as the ratios to PyTorch."""
    lines = []
    for row in rows:
        for name, gain in row.get("gains", {}).items():
            what = next(other for other in row["sides"] if other.startswith(name + WITHOUT)).removeprefix(name + WITHOUT)
            speed = f"{gain['median']:.2f} x ({gain['min']:.2f}-{gain['max']:.2f}), in CPU s {gain['cpu']:.2f} x"
            lines += ["", f"{row['shape']}, {row['work']}, {name}: {speed} as fast as without {what}."]
    return lines


def _setting(result: Mapping[str, Any]) -> str:
    where, used = result["machine"], result["settings"]
    device = "" if where["accelerator"] == "none" else f", {where['accelerator']}"
    parts = [f"{where['cpu']}, {where['cores']} cores, {where['memory_gib']} GiB{device}"]
    parts.append(f"{used['device']}, {used['dtype']}, {used['threads']} threads a side")
    parts.append(", ".join(f"{name} {version}" for name, version in result["versions"].items()))
    parts.append(f"random weights by {result['weights']}")
    return "; ".join(parts) + '; "others": CPU that other processes took meanwhile, as a share of all cores.'


def _cells(name: str, side: Mapping[str, Any], ratio: Mapping[str, float] | None) -> list[str]:
    if "unavailable" in side:
        return [name, f"not measured: {side['unavailable']}", "", "", "", "", "", ""]
    speed = "" if ratio is None else f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})"
    if ratio and 1 / TIE < ratio["median"] < TIE:
        speed += " tie"
    return [
        name,
        f"{side['tokens_per_second']:,.0f}" if side["tokens_per_second"] >= 100 else f"{side['tokens_per_second']:.1f}",
        speed,
        "" if ratio is None else f"{ratio['cpu']:.2f}",
        f"{side.get('device_peak_gib', side['peak_gib']):.2f}",
        f"{side['loaded_gib']:.2f}",
        f"{side['compile_seconds']:.1f}" if "compile_seconds" in side else "",
        f"{100 * statistics.median(side['others']):.0f} %",
    ]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
