"""benchmarks.cuda, every part at a toy shape on the CPU; what it does with parts that fail; the page of its facts."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.cuda")


@pytest.fixture
def parts(cuda: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The parts, with short timings and few variations."""
    found = importlib.import_module("benchmarks.cuda_parts")
    for name, value in {"SECONDS": 0.01, "WAITED": 2, "QUEUED": 2, "STACKS": ((1, 0), (9, 0))}.items():
        monkeypatch.setattr(found, name, value)
    few = {"loss over the 13 symbols": (("model.loss=alphabet",), {}), "a setting of later": (("model.unknown=1",), {})}
    monkeypatch.setattr(found, "VARIATIONS", few)
    return found


def within(parts: ModuleType, job: Any, options: argparse.Namespace, limit: float) -> int:
    """Runs a part in this process."""
    return parts.run(argparse.Namespace(**{**vars(options), "inside": job.part, "case": job.case}))


def test_every_part_finds_its_facts(
    cuda: ModuleType, parts: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process; PyTorch's have a test of their own."""
    page = importlib.import_module("benchmarks.cuda_page")
    jobs = tuple(job for job in cuda.JOBS if job.part != "torch" and job.case in ("", "8"))
    monkeypatch.setattr(cuda, "JOBS", jobs)
    monkeypatch.setattr(cuda, "launched", lambda *of_job: within(parts, *of_job))
    assert cuda.main(["--shape", "smoke", "--device", "cpu", "--out", str(tmp_path)]) == 0
    lines = cuda.read(tmp_path)
    found = {(line["part"], line["fact"]): line for line in lines}
    assert {job.part for job in jobs} == {line["part"] for line in lines if line["fact"] == "ended" and line["code"] == 0}
    step = found["train", "step"]
    assert step["ms_dispatched"] <= step["ms_waited"][0] and step["tokens_s"] == pytest.approx(
        64e3 / step["ms_queued"], rel=1e-3
    )
    assert found["decode", "decode"]["tokens"] > 0 < found["decode", "decode"]["turns"]
    varied = [line for line in lines if line["fact"] == "variation"]
    assert [("absent" in line, line["name"]) for line in varied] == [
        (False, varied[0]["name"]),
        (True, "a setting of later"),
    ]
    assert varied[0]["loss_varied"] < varied[0]["loss"]
    assert [line["runs"] for line in lines if line["fact"] == "stack"] == [1, 9]
    assert found["profile", "all kernels"]["ms_a_step"] == pytest.approx(
        sum(line["ms_a_step"] for line in lines if line["fact"] == "kind"), rel=1e-3
    )
    assert [line["passed"] for line in lines if line["fact"] == "audit"] == [True] * 3
    text = page.page(lines)
    assert "| jaxlv |" in text and "Not measured" not in text
    assert f"{found['decode', 'decode']['turns']:,.4g}" in text


@pytest.mark.slow
def test_pytorch_takes_the_same_step_on_the_same_weights(cuda: ModuleType, parts: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="no peft here")
    options = argparse.Namespace(out=tmp_path, shape="smoke", device="cpu")
    for part, case in (("weights", ""), ("train", ""), ("torch", "sdpa")):
        assert within(parts, cuda.Job(part, case, 0), options, 0) == 0
    ours, theirs = (line for line in cuda.read(tmp_path) if line["fact"] == "step")
    assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4)


def test_a_part_that_fails_or_runs_over_its_time_leaves_the_others_alone(
    cuda: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real processes, by a stand-in for the program."""
    stand_in = tmp_path / "stand_in.py"
    stand_in.write_text(
        "import sys, time\n"
        "part = sys.argv[sys.argv.index('--inside') + 1]\n"
        "time.sleep(60 if part == 'decode' else 0)\n"
        "sys.exit('no such file: /some/where/else.txt' if part == 'weights' else 0)\n"
    )
    jobs = (cuda.Job("ceilings", "", 9), cuda.Job("weights", "", 9), cuda.Job("decode", "8", 1), cuda.Job("audit", "", 9))
    monkeypatch.setattr(cuda, "JOBS", jobs)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text(f'#!/bin/sh\nshift 2\nexec "{Path(sys.prefix)}/bin/python" "{stand_in}" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    out = tmp_path / "out"
    assert cuda.main(["--device", "cpu", "--out", str(out)]) == 1
    ended = {line["part"]: (line["code"], line.get("said")) for line in cuda.read(out)}
    assert ended == {
        "ceilings": (0, None), "weights": (1, "no such file: else.txt"), "decode": ("over its time", ""), "audit": (0, None),
    }  # fmt: skip
    assert "decode 8: ended with over its time" in capsys.readouterr().out
    page = importlib.import_module("benchmarks.cuda_page").page(cuda.read(out))
    assert page.endswith("weights (1: no such file: else.txt); decode 8 (over its time: ).")


def test_without_a_device_one_line_says_so(
    cuda: ModuleType, parts: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import jax

    if jax.default_backend() != "cpu":
        pytest.skip("there is a device")
    monkeypatch.setattr(cuda, "launched", lambda *of_job: within(parts, *of_job))
    assert cuda.main(["--out", str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert not told.out and told.err.count("\n") == 1 and "no CUDA device here" in told.err


def test_no_part_begins_without_time(cuda: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cuda.main(["--minutes", "0.1", "--out", str(tmp_path)]) == 1
    assert {line["fact"] for line in cuda.read(tmp_path)} == {"not begun"}


def test_facts_are_rendered_and_a_line_that_was_cut_off_is_left_out(
    cuda: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = importlib.import_module("benchmarks.cuda_page")
    facts = cuda.Facts(tmp_path, "train", "")
    step = {
        "ms_waited": [9.9, 10.4],
        "ms_queued": 9.5,
        "ms_dispatched": 1.5,
        "tokens_s": 215578.9,
        "loss": 12.0,
        "kernels": 1574,
    }
    facts.tell("step", **step, mfu_sheet=0.459)
    cuda.Facts(tmp_path, "torch", "sdpa").tell("step", **{**step, "ms_queued": 19.0})
    with (tmp_path / cuda.FACTS).open("a") as file:
        file.write('{"part": "train", "ca')
    monkeypatch.setattr(page, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    assert cuda.main(["--render", str(tmp_path)]) == 0
    text = (tmp_path / "results" / "cuda.md").read_text()
    assert "| jaxlv | 9.9 | 9.5 | 1.5 | 215,580 | 1.00 | 45.9% |  | 1,574 | 12 |" in text
    assert "| transformers, sdpa | 9.9 | 19 | 1.5 | 215,580 | 2.00 |" in text
    assert json.loads((tmp_path / "results" / "cuda.jsonl").read_text().splitlines()[0])["fact"] == "step"
    assert cuda.main(["--render", str(tmp_path / "nowhere")]) == 2


def test_kernels_are_told_apart_by_their_names(parts: ModuleType) -> None:
    names = {
        "nvjet_tst_128x256": "product", "cudnn_generated_fort_native_sdpa_sm90_flash_fprop": "attention",
        "loop_concatenate_fusion_3": "copy", "input_reduce_fusion": "reduction", "loop_multiply_fusion": "elementwise",
        "gemm_fusion_dot_54": "product", "MemcpyD2D": "copy",
    }  # fmt: skip
    assert {name: parts.kind_of(name) for name in names} == names
