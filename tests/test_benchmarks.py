"""The benchmarks run at a toy shape, do the same work on both sides, and tell the truth about it."""

from __future__ import annotations

import functools
import importlib
import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from jaxlv.runs import verification

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.tables")


@pytest.fixture
def no_pytorch(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine without PyTorch."""
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')\n")
    return {"PYTHONPATH": str(tmp_path)}


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=300)


def smoke(program: str, out: Path, **environment: str) -> dict:
    done = run(f"benchmarks.{program}", "--shapes", "smoke", "--out", str(out), **environment)
    assert done.returncode == 0, done.stderr
    written = (out / f"{program}-cpu.json").read_text()
    assert str(out) not in written
    assert (out / f"{program}-cpu.md").read_text() == done.stdout
    return json.loads(written)


def needs_pytorch() -> None:
    for package in ("torch", "peft"):
        pytest.importorskip(package, reason=f"no {package} here: pip install 'jaxlv[parity]' (a CPU build will do)")


@pytest.mark.slow
def test_train_step_trains_the_same_on_both_sides(tmp_path: Path) -> None:
    needs_pytorch()
    (row,) = smoke("train_step", tmp_path / "out")["rows"]
    theirs, ours = row["sides"]["torch"], row["sides"]["jaxlv"]
    assert ours["trained"] == theirs["trained"] > 0
    assert ours["first_loss"] == pytest.approx(theirs["first_loss"], rel=1e-3)
    for side in row["sides"].values():
        assert side["tokens_per_second"] == pytest.approx(row["tokens"] / np.median(side["seconds"]), rel=1e-2)
        assert 0 < side["loaded_gib"] <= side["peak_gib"]
    other = row["sides"]["jaxlv, another loss: 13 symbols"]
    assert other["first_loss"] < ours["first_loss"]  # a choice among fewer symbols
    assert set(row["ratios"]) == set(row["sides"]) - {"torch"}


@pytest.mark.slow
def test_generate_draws_as_many_tokens_on_both_sides(tmp_path: Path) -> None:
    needs_pytorch()
    (row,) = smoke("generate", tmp_path / "out")["rows"]
    assert row["tokens"] == 8 * 8
    assert len(row["sides"]) == 4 and set(row["gains"]) == {"jaxlv, number grammar"}
    for name, ratio in row["ratios"].items():
        pairs = np.divide(row["sides"]["torch"]["seconds"], row["sides"][name]["seconds"])
        assert [ratio["min"], ratio["max"]] == pytest.approx([pairs.min(), pairs.max()], rel=1e-2)


@pytest.mark.slow
def test_without_pytorch_jaxlv_is_measured_alone_and_the_row_says_so(tmp_path: Path, no_pytorch: dict[str, str]) -> None:
    result = smoke("train_step", tmp_path / "out", **no_pytorch)
    assert result["weights"] == "jaxlv"
    (row,) = result["rows"]
    assert "torch" in row["sides"]["torch"]["unavailable"]
    assert row["sides"]["jaxlv"]["tokens_per_second"] > 0
    assert row["ratios"] == {}
    assert "not measured: No module named torch" in (tmp_path / "out" / "train_step-cpu.md").read_text()


def test_counters_are_asked_beside_the_count_by_hand(tmp_path: Path, no_pytorch: dict[str, str]) -> None:
    """A loop, devices, a refusal, what the compiler adds; and PyTorch's counters, which are not installed."""
    words = ["--only", "fori_loop, 24; shard_map on 8; Pallas without; sort of", "--out", str(tmp_path / "out")]
    done = run("benchmarks.counters", *words, **no_pytorch, XLA_FLAGS="")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "counters-cpu.json").read_text())
    said = {
        row["function"]: {name: cell and cell["verdict"] for name, cell in row["cells"].items()} for row in result["rows"]
    }
    assert {name: (cells["jaxlv jaxpr"], cells["jaxlv HLO"], cells["XLA lowered"]) for name, cells in said.items()} == {
        "fori_loop, 24 turns": ("right", "right", "wrong"),
        "Pallas without one": ("refused", "refused", "right"),
        "sort of 3 x 16": ("right", "right", "right"),
        "shard_map on 8": ("right", "right", "wrong"),
    }
    written = (tmp_path / "out" / "counters-cpu.md").read_text()
    assert written == done.stdout and "| fvcore | not installed |" in written
    assert "| jaxlv HLO | 4 | 3 | 1 | 0 | 0 | 0 |" in written


@pytest.mark.parametrize(
    ("value", "slack", "doubts", "verdict"),
    [
        (100, 0.0, [], "right"),
        (110, 0.0, ["a doubt"], "right"),
        (99, 0.0, [], "wrong"),
        (111, 0.0, ["a doubt"], "doubted"),
        (96, 0.05, [], "right"),
        (94, 0.05, [], "wrong"),
        (116, 0.05, [], "wrong"),
        (0, 0.05, [], "silent zero"),
        (0, 0.05, ["a doubt"], "doubted"),
        (None, 0.05, [], "refused"),
    ],
)
def test_a_counter_s_figure_gets_the_verdict_that_it_earns(
    monkeypatch: pytest.MonkeyPatch, value: int | None, slack: float, doubts: list[str], verdict: str
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    counters = importlib.import_module("benchmarks.counters")
    assert counters.judged(value, (100, 110), slack, doubts, 0.0)["verdict"] == verdict


def test_of_all_functions_jaxlv_is_right_or_refuses_and_no_other_counter_is() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "counters-cpu.json").read_text())
    verdicts: dict[str, set[str]] = {}
    for row in result["rows"]:
        for name, cell in row["cells"].items():
            verdicts.setdefault(name, set()).update([cell["verdict"]] if cell else [])
    assert len(result["rows"]) >= 40 and not result["absent"]
    for name, found in verdicts.items():
        assert (found <= {"right", "refused"}) == name.startswith("jaxlv"), name


def test_an_unknown_shape_is_refused() -> None:
    done = run("benchmarks.generate", "--shapes", "gigantic")
    assert done.returncode == 2
    assert "gigantic" in done.stderr


def test_ratios_compare_repetitions_that_followed_each_other(tables: ModuleType) -> None:
    seconds = {"torch": [1.0, 2.0, 4.0], "jaxlv": [0.5, 0.5, 4.0]}  # the machine slowed down meanwhile
    cpu_seconds = {"torch": [6.0, 6.0, 6.0], "jaxlv": [2.0, 2.0, 2.0]}
    ratios = tables.ratios({name: {"seconds": seconds[name], "cpu_seconds": cpu_seconds[name]} for name in seconds})
    assert ratios == {"jaxlv": {"median": 2.0, "min": 1.0, "max": 4.0, "cpu": 3.0}}
    twins = {
        "a, without b": {"seconds": [3.0, 8.0], "cpu_seconds": [1.0, 1.0]},
        "a": {"seconds": [2.0, 4.0], "cpu_seconds": [1, 1]},
    }
    assert tables.gains(twins) == {"a": {"median": 1.75, "min": 1.5, "max": 2.0, "cpu": 1.0}}


@pytest.mark.parametrize(("ratio", "tie"), [(1.1, True), (0.9, True), (1.2, False), (0.8, False)])
def test_a_gap_within_the_noise_is_called_a_tie(tables: ModuleType, ratio: float, tie: bool) -> None:
    side = {"seconds": [1.0], "tokens_per_second": 10.0, "others": [0.0], "peak_gib": 1.0, "loaded_gib": 0.5}
    row = {"shape": "s", "work": "w", "sides": {"jaxlv": side}}
    row["ratios"] = {"jaxlv": {"median": ratio, "min": ratio, "max": ratio, "cpu": ratio}}
    made = {"command": "c", "settings": {"device": "cpu", "dtype": "float32", "threads": 2}, "versions": {}, "rows": [row]}
    made |= {"machine": {"cpu": "x", "cores": 2, "memory_gib": 1, "accelerator": "none"}, "weights": "w"}
    assert ("tie" in tables.markdown(made)) == tie


def test_the_forms_of_text_are_measured_alike(tiny_base, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    text = importlib.import_module("benchmarks.text")
    monkeypatch.setattr(text, "CONTEXT", 4)
    monkeypatch.setattr(text, "HORIZON", 2)
    only = "2 decimals, head-room 0.5; four head-rooms; rule of mao *"
    words = [
        str(tiny_base),
        "--series",
        "2",
        "--samples",
        "4",
        "--batch-series",
        "2",
        "--only",
        only,
        "--out",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", ["benchmarks.text", *words])
    text.main()
    rows = json.loads((tmp_path / "text-cpu.json").read_text())["rows"]
    assert list(rows) == only.split("; ") and len({row["mae"] for row in rows.values()}) == 3
    assert (tmp_path / "text-cpu.md").read_text().count("\n") == 2 + len(rows)
    assert rows["four head-rooms"]["nats_per_value"] is None


def test_a_ledger_is_verified_in_a_time_that_grows_as_its_events_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Eight times the events: seconds of the processor, the best of three, for others may be at work on it."""
    monkeypatch.syspath_prepend(str(ROOT))
    benchmark, best = importlib.import_module("benchmarks.ledger"), {}
    few, many = 1000, 8000
    for events in (few, many):
        benchmark.make(tmp_path / str(events), events)
    for _ in range(3):
        for events in (few, many):
            began = time.process_time()
            found = verification.verify(tmp_path / str(events))
            best[events] = min(best.get(events, math.inf), time.process_time() - began)
            assert len(found.book.entries) == events and not found.problems and not found.notes
        if best[many] < 2 * 8 * best[few]:
            return
    raise AssertionError(best)


def test_the_docs_show_the_committed_results() -> None:
    docs = "\n".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    results = ROOT / "benchmarks" / "results"
    committed = sorted([*results.rglob("*.md"), *results.glob("forecasts/*.txt")])
    if not committed:
        pytest.skip("no results are committed yet")
    for path in committed:
        assert path.read_text().strip() in docs, f"no page in docs/ shows {path.name}"


def test_the_docs_have_the_tables_that_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `python -m benchmarks.pages` puts them there."""
    monkeypatch.syspath_prepend(str(ROOT))
    pages = importlib.import_module("benchmarks.pages")
    for path in pages.PAGES:
        assert pages.filled(path.read_text()) == path.read_text() and "<!-- end -->" in path.read_text()
    assert (
        pages.filled("a\n<!-- none.md -->\nold\n<!-- end -->\nb")
        == "a\n<!-- none.md -->\n\nNot measured yet.\n\n<!-- end -->\nb"
    )


@pytest.mark.slow
def test_costs_stand_against_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A train step and a forecast at the smallest sizes; the bound is the longer time, and the figure shows every size."""
    monkeypatch.syspath_prepend(str(ROOT))
    curves = importlib.import_module("benchmarks.curves")
    monkeypatch.setattr(curves, "TURNS", 1)
    monkeypatch.setattr(curves, "PLAIN", {**curves.PLAIN, "length": 16, "batch": 1})
    monkeypatch.setattr(curves, "HORIZON", 1)
    monkeypatch.setattr(curves, "ceilings", lambda: curves.Ceilings(1e9, 1e6))
    result = curves.measured({"rank": (1,), "samples": (2,)})
    step, forecast = (curve[0] for curve in result["curves"].values())
    for one in (step, forecast):
        assert one["bound_seconds"] == max(one["flops"] / 1e9, one["read"] / 1e6) > 0 < one["seconds"]
        assert one["bytes"] > one["bound_bytes"] > 0
    told = {**result, "command": "c", "machine": {"cpu": "x", "cores": 2}, "versions": {}}
    assert curves.markdown(told).count("\n| ") == 4
    chart = curves.figure(told, "seconds", ("rank", "samples"))
    assert [panel.series[0].y for panel in chart.panels] == [[step["seconds"]], [forecast["seconds"]]]


def test_forecasts_again_are_told_with_what_was_read_and_billed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four prompts, of which one way knows three; the other samples are refused."""
    monkeypatch.syspath_prepend(str(ROOT))
    again = importlib.import_module("benchmarks.again")

    @dataclass(frozen=True)
    class Drawn:
        known: int
        samples_NSHV: float = 1.0
        meter: Any = None

        def __call__(self) -> Drawn:
            if self.meter:
                shape = {"length": 64, "new_tokens": 8, "slots": 72, "stage": 64, "head": "alphabet"}
                with self.meter.spend("generation", batch=4, known=self.known, **shape):
                    pass
            return self

    def cases(*sizes: int, other: float = 1.0) -> Any:
        one, two = Drawn(3), Drawn(0, other)
        return {"a": (again.Way(lambda: one, lambda way: way()), again.Way(lambda: two, lambda way: way()))}

    monkeypatch.setattr(again, "cases", cases)
    (row,) = again.measured(1, 1, 1, turns=3)
    assert (row["read"], row["read_without"]) == (1, 4) and 0 < row["flops"] < row["flops_without"]
    assert 0 < row["gain_least"] <= row["gain"] <= row["gain_greatest"]
    told = {"command": "c", "machine": {"cpu": "x", "cores": 2}, "rows": [row]}
    told |= {"versions": dict.fromkeys(("jax", "jaxlib", "jaxlv"), "1"), "shape": {"context": 1, "horizon": 1, "samples": 1}}
    told["session"] = {"calls": 9, "programs": 4, "seconds": 8.0, "processor": 7.0}
    told["session"] |= {"programs_without": 9, "seconds_without": 20.0, "processor_without": 19.0}
    text = again.markdown(told)
    assert "| a | 1 | 4 |" in text and "4 loops, 8 s, 7 s on" in text and "9 loops, 20 s, 19 s on" in text
    monkeypatch.setattr(again, "cases", functools.partial(cases, other=2.0))
    with pytest.raises(AssertionError, match="not equal"):
        again.measured(1, 1, 1, turns=1)


def test_start_up_is_told_with_its_goal_and_the_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    startup = importlib.import_module("benchmarks.startup")
    monkeypatch.setattr(startup, "CASES", {"import jaxlv": startup.CASES["import jaxlv"]})
    row = startup.measured("import jaxlv", 1)
    assert 0 < row["cpu_seconds"] <= 2 * row["seconds"] and row["goal"] == 0.2 and len(row["all_seconds"]) == 1
    monkeypatch.setattr(startup, "CASES", {"import jaxlv": "raise SystemExit('no')"})
    with pytest.raises(SystemExit, match="a case failed"):
        startup.measured("import jaxlv", 1)


def test_a_command_is_told_without_the_folders_of_a_machine(tables):
    words = ["--tokens", "5", "--work", "w", "--out=o", "--quick", "--out", "o"]
    assert tables.command("benchmarks.base", words) == "python -m benchmarks.base --tokens 5 --quick"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").rglob("*.*")), ids=lambda path: path.name)
def test_results_name_no_folder_of_a_machine(path):
    assert not re.search(r"(?<![\w.])/(root|tmp|home|work)/", path.read_text(encoding="utf-8"))
