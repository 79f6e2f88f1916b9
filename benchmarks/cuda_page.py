"""Writes the facts of benchmarks.cuda as tables."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS
from benchmarks.cuda import FACTS, read

Lines = list[dict[str, Any]]


def write(folder: Path) -> int:
    """Writes benchmarks/results/cuda.md, and the facts beside it as cuda.jsonl; returns the exit code."""
    lines = read(folder)
    if not lines:
        print(f"benchmarks.cuda: no facts in {folder / FACTS}", file=sys.stderr)
        return 2
    shutil.copyfile(folder / FACTS, RESULTS / "cuda.jsonl")
    (RESULTS / "cuda.md").write_text(page(lines) + "\n", encoding="utf-8")
    return 0


def page(lines: Lines) -> str:
    """Returns all tables; a part without facts has none, and is named at the end."""
    parts = [part(lines) for part in (device, steps, variations, decodes, loops, stacks, kinds, audits, missing)]
    return "\n\n".join(filter(None, ["`python -m benchmarks.cuda`", *parts]))


def of(lines: Lines, part: str, fact: str) -> Lines:
    """Returns the facts of a part and name; of a repeated case the last."""
    keys = ("case", "name", "runs", "at_once", "program", "kernel")
    ours = [line for line in lines if (line["part"], line["fact"]) == (part, fact)]
    found = {tuple(line.get(key) for key in keys): line for line in ours}
    return list(found.values())


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: str = "") -> str:
    """Returns a table with a line above it; "" without rows."""
    if not rows:
        return ""
    made = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([words, "", *made] if words else made)


def number(value: Any, form: str = ",.4g") -> str:
    """Returns a number in words; "" if it is not known."""
    return "" if value is None else format(value, form)


def device(lines: Lines) -> str:
    """Says what was measured on, and what it reached."""
    told = {line["fact"]: line for line in lines if line["part"] == "ceilings"}
    if "device" not in told:
        return ""
    one = told["device"]
    versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
    words = f"{one['kind']}; {one['cpu']}, {one['cores']} cores; {versions}; {one['before'] or 'no nvidia-smi'}"
    rows = []
    for fact, name, key, sheet in (
        ("product", "product of {side} x {side}, bfloat16, TFLOP/s", "tflops", "sheet_tflops"),
        ("copy", "reading and writing {gib:.2g} GiB, TB/s", "tb_s", "sheet_tb_s"),
    ):
        if fact in told:
            rows.append([name.format(**told[fact]), number(told[fact][key]), number(one[sheet])])
    for fact, name in (("kernel", "a kernel that does nothing, us"), ("loop", "a turn of a loop of one kernel, us")):
        if fact in told:
            rows.append([name, number(1e3 * told[fact]["ms_queued"] / told[fact].get("turns", 1)), ""])
    return f"{words}.\n\n" + table(("", "measured, queued", "data sheet"), rows)


def steps(lines: Lines) -> str:
    """Compares the train steps of all sides."""
    ours = of(lines, "train", "step")
    sides = [("jaxlv", one) for one in ours] + [(f"transformers, {one['case']}", one) for one in of(lines, "torch", "step")]
    rows = [row] if ours and (row := predicted(lines)) else []
    for name, one in sides:
        ratio = f"{one['ms_queued'] / ours[0]['ms_queued']:.2f}" if ours else ""
        times = [number(one["ms_waited"][0]), number(one["ms_queued"]), number(one["ms_dispatched"])]
        mfu = [number(one.get(f"mfu_{peak}"), ".1%") for peak in ("sheet", "measured")]
        rows.append(
            [name, *times, number(one["tokens_s"], ",.0f"), ratio, *mfu, number(one.get("kernels")), number(one["loss"])]
        )
    of_time = ("ms waited", "ms queued", "ms dispatched", "tokens/s", "x jaxlv's time")
    head = ("train step", *of_time, "MFU, data sheet", "MFU, measured peak", "kernels", "first loss")
    return table(head, rows)


def predicted(lines: Lines) -> list[str]:
    """Returns a row of what benchmarks.compiled predicts for the device; [] if it has not been asked."""
    from jaxlv.flops.targets import DEVICES

    kind = next((one["kind"] for one in of(lines, "ceilings", "device")), "")
    name = next((name for name, one in DEVICES.items() if one.words == kind), "")
    path = RESULTS / f"compiled-{name}.json"
    if not name or not path.is_file():
        return []
    one = json.loads(path.read_text(encoding="utf-8"))["train_step"]
    mfu = number(one["mfu"], ".1%")
    return [
        "jaxlv, predicted by benchmarks.compiled",
        "",
        number(one["ms"]),
        "",
        "",
        "",
        mfu,
        "",
        number(one["kernels"]),
        "",
    ]


def variations(lines: Lines) -> str:
    """Compares the step with its variations, which took turns with it."""
    rows = []
    for one in of(lines, "variations", "variation"):
        if "absent" in one:
            rows.append([one["name"], f"not measured: {one['absent']}", "", "", "", ""])
            continue
        low, middle, high = one["ratios"][0], one["ratios"][len(one["ratios"]) // 2], one["ratios"][-1]
        kernels = f"{one['kernels']:,} / {one['kernels_varied']:,}"
        losses = f"{one['loss']:.4f} / {one['loss_varied']:.4f}"
        rows.append(
            [
                one["name"],
                number(one["ms"]),
                number(one["ms_varied"]),
                f"{middle:.3f} ({low:.3f}-{high:.3f})",
                kernels,
                losses,
            ]
        )
    head = ("variation", "ms as it is", "ms varied", "time, varied / as it is (range)", "kernels", "first loss")
    return table(head, rows)


def decodes(lines: Lines) -> str:
    """Says how long forecasts take."""
    first = {one["case"]: one for one in of(lines, "decode", "first")}
    rows = [
        [
            number(one["rows"], ","), number(one["turns"]), number(one["seconds"][0]), number(one["ms_a_turn"]),
            number(one["tokens_s"], ",.0f"), number(one["peak_gib"]), number(first[one["case"]]["seconds"]),
        ]
        for one in of(lines, "decode", "decode")
    ]  # fmt: skip
    return table(
        ("rows decoded together", "turns", "s, best of 3", "ms a turn", "tokens/s", "peak GiB", "s, first call"), rows
    )


def loops(lines: Lines) -> str:
    """Compares a run's steps with the step alone."""
    rows = [["the step alone", number(one["ms_queued"]), ""] for one in of(lines, "loop", "alone")]
    rows += [[f"a run, {one['name']}", number(one["ms"]), number(one["ms_median"])] for one in of(lines, "loop", "run")]
    return table(("a step within", "ms, mean", "ms, median"), rows)


def stacks(lines: Lines) -> str:
    """Compares several runs as one program with one."""
    found = of(lines, "stack", "stack")
    rows = [
        [
            number(one["runs"]), str(one["at_once"] or "all"), number(one["ms_queued"]),
            f"{one['ms_queued'] / found[0]['ms_queued']:.2f}", number(one["peak_gib"]),
        ]
        for one in found
    ]  # fmt: skip
    return table(("runs in a step", "side by side", "ms a step", "x one run", "peak GiB"), rows)


def kinds(lines: Lines) -> str:
    """Says what kinds of kernels a step's time goes to."""
    whole = of(lines, "profile", "all kernels")
    groups = (("kind", "by kind"), ("kernel", "by name, the longest"))
    made = []
    for fact, words in groups:
        rows = [
            [one["name"].replace("|", " "), number(one["number"], ",.1f"), number(one["ms_a_step"]),
             f"{one['ms_a_step'] / whole[0]['ms_a_step']:.1%}" if whole else ""]
            for one in of(lines, "profile", fact)[:15]
        ]  # fmt: skip
        made.append(table((words, "kernels a step", "ms a step", "share"), rows))
    return "\n\n".join(filter(None, made))


def audits(lines: Lines) -> str:
    """Says whether formulas and compiled programs agree."""
    rows = [
        [one["kernel"], one["program"], "holds" if one["passed"] else "FAILS: " + "; ".join(one["failed"])]
        for one in of(lines, "audit", "audit")
    ]
    return table(("attention", "program", "audit"), rows)


def missing(lines: Lines) -> str:
    """Names the parts that failed, ran over their time, or did not begin."""

    def told(one: dict[str, Any]) -> str:
        return f"{one['part']} {one['case']}".strip()

    ended = {(one["part"], one["case"]): one for one in lines if one["fact"] in ("ended", "not begun")}.values()
    rows = [f"{told(one)} ({one['code']}: {one.get('said', '')})" for one in ended if one["fact"] == "ended" and one["code"]]
    rows += [f"{told(one)} (no time left)" for one in ended if one["fact"] == "not begun"]
    rows += [f"{told(one)} ({one['reason']})" for one in lines if one["fact"] == "absent"]
    return "Not measured, or not to the end: " + "; ".join(rows) + "." if rows else ""
