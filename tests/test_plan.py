"""What work will cost, and how it was asked for, in exact small numbers: paces, hours, steps of epochs."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import pytest

from jaxlv.config import RunConfig
from jaxlv.flops import plan
from jaxlv.flops.family import FAMILY
from jaxlv.flops.plan import Pace, measured_rate
from jaxlv.model.qwen2 import Qwen2
from jaxlv.model.weights import bytes_of
from jaxlv.runs import endings, run
from jaxlv.runs.billing import event_of
from jaxlv.runs.records import Logged
from jaxlv.steps.footprint import Footprint
from jaxlv.studies import doctor, papers, train
from jaxlv.studies.train import Wanted


@pytest.fixture
def benchmark(tmp_path: Path) -> Any:
    """A result of two sizes, each with two losses, of three repetitions."""

    def write(device: str = "cpu") -> Path:
        sides = {"vocabulary": {"seconds": [4, 2, 9]}, "13 symbols": {"seconds": [1, 2, 30]}, "peft": {"seconds": [5]}}
        rows = [
            {"shape": name, "work": "w", "sides": {
                kind: one if kind == "peft" else {**one, "flops": flops * (1 + (kind == "vocabulary"))}
                for kind, one in sides.items()
            }}
            for name, flops in (("small", 100), ("large", 1000))
        ]  # fmt: skip
        machine, settings = {"cpu": "a CPU", "accelerator": "a GPU"}, {"dtype": "float32", "device": device}
        path = tmp_path / f"{device}.json"
        path.write_text(json.dumps({"rows": rows, "machine": machine, "settings": settings}))
        return path

    return write


def test_the_pace_is_that_of_the_step_that_is_nearest_in_its_ratio(benchmark):
    """400 is four times 100, and less than half of 1000; half of three repetitions took no longer than two seconds."""
    assert measured_rate(benchmark(), 400, alphabet=True) == Pace(1000 / 2, "a CPU (large w, float32)")
    assert measured_rate(benchmark(), 250, alphabet=True).rate == 100 / 2
    assert measured_rate(benchmark("gpu"), 400, alphabet=False) == Pace(200 / 4, "a GPU (small w, float32)")


def test_an_evaluation_reads_every_series_and_draws_as_many_samples_as_it_says():
    """Nine series, four read together: three readings; five samples with the grammar, three without."""
    config = train.fitting.changed(
        RunConfig(), evaluate={"context": 8, "horizon": 4, "samples": 5, "unmasked_samples": 3, "batch_series": 4}
    )
    found = {one.name: one.events for one in plan.phases(config, event_of(config), 9, 20)}
    assert [one.count for one in found["likelihood of 9 series, tuned and untuned"]] == [3, 3]
    drawn = found["evaluation, 9 series x 5 samples, tuned and untuned"]
    free = found["the same, 3 samples without the grammar"]
    assert [one.samples for one in (*drawn, *free)] == [5, 5, 3, 3] and {one.head for one in free} == {"frozen"}


def test_each_size_of_the_family_has_the_parameters_of_its_checkpoint():
    """Of bfloat16 checkpoints: bytes of the tensors, over two; a tied head counts once."""
    assert {name: bytes_of(Qwen2(one, jnp.bfloat16)) // 2 for name, one in FAMILY.items()} == {
        "qwen2.5-0.5b": 494_032_768, "qwen2.5-1.5b": 1_543_714_304, "qwen2.5-3b": 3_085_938_688,
        "qwen2.5-7b": 7_615_616_512, "qwen2.5-14b": 14_770_033_664, "qwen2.5-32b": 32_763_876_352,
        "qwen2.5-72b": 72_706_203_648,
    }  # fmt: skip


def test_hours_are_of_the_work_that_is_executed_and_the_papers_share_of_the_whole_allowance(monkeypatch, tmp_path):
    row: Any = SimpleNamespace(
        stage="grid", runs=3, steps=7, flops=lambda model, name: {"exact": 7200, "liu": 90}[name],
        training=lambda model, name: 60,
    )  # fmt: skip
    work: Any = SimpleNamespace(
        planned=[row, row], model=None, system=SimpleNamespace(name="liu", convention="liu"), allowance=500.0, scale="small",
        budget=SimpleNamespace(flops=200),
    )  # fmt: skip
    asked: list[Any] = []
    monkeypatch.setattr(papers, "rate_of", lambda work, benchmark: asked.append(benchmark) or Pace(2.0, "here"))
    found = papers.plan_of(work, tmp_path / "b.json")
    assert asked == [tmp_path / "b.json"] and found.hours == "here"
    assert [(one.hours, one.flops, one.exact, one.training) for one in found.rows] == [(1.0, 90, 7200, 60)] * 2
    assert (found.total, found.budget, found.allowance) == (180, 200, 500)
    assert found.reported.of_allowance == papers.PROTOCOLS["liu"].flops / 1e17


def test_a_device_must_hold_a_train_step_and_a_forecast_each_by_itself():
    """Of 100 bytes, 3 are left for what the formulas do not tell: 50 + 45 fit for a step, 50 + 47 for a forecast."""
    for activations, cache, fits in ((45, 47, True), (48, 10, False), (10, 48, False)):
        held = Footprint(parameters=50, state=0, batch=0, activations=activations, cache=cache)
        assert doctor.Share(1, 1, "xla", False, held, 100).fits is fits


def test_parts_have_as_many_samples_as_the_last_stage_draws(tmp_path):
    config = train.fitting.changed(RunConfig(), evaluate={"samples": 3})
    stages: Any = [SimpleNamespace(config=RunConfig()), SimpleNamespace(config=config)]
    work = papers.Reproduction(papers.SYSTEMS["rai"], "small", "embedded", stages, stages, tmp_path)
    assert {part.samples for part in work.parts} == {3}


def test_a_pace_is_that_of_the_benchmark_that_is_given_or_unknown(monkeypatch, tmp_path, benchmark):
    config = RunConfig()
    event = SimpleNamespace(flops=lambda model, name: 400)
    monkeypatch.setattr(papers.billing, "event_of", lambda config: event)
    monkeypatch.setattr(papers, "RESULTS", tmp_path / "none")
    work: Any = SimpleNamespace(scale="small", model=None, stages=[SimpleNamespace(config=config)])
    assert papers.rate_of(work, None).rate == 0 and "not estimated" in papers.rate_of(work, None).origin
    alphabet = config.model.loss == "alphabet"
    assert papers.rate_of(work, benchmark()).rate == measured_rate(benchmark(), 400, alphabet).rate > 0


# -------------------------------------------------------------------------------------------------- a run that is asked for


def test_what_is_said_beside_a_config_is_laid_over_it():
    wanted = Wanted(Path("a.csv"), {"id": "site", "missing": "mark"}, "m", 30)
    found = train.planned(RunConfig(), wanted)
    assert (found.data.path, found.data.id, found.data.missing) == ("a.csv", "site", "mark")
    assert (found.model.path, found.train.steps) == ("m", 30)
    assert train.planned(RunConfig(), Wanted()) == RunConfig()


def test_a_config_that_fits_a_file_keeps_how_it_is_read(monkeypatch):
    asked: dict[str, Any] = {}
    monkeypatch.setattr(train, "load_series", lambda data, **how: asked.update(read=(data, how)) or "found")
    monkeypatch.setattr(train.fitting, "fitted", lambda *given, **named: asked.update(fitted=(given, named)) or RunConfig())
    train.planned(None, Wanted(Path("a.csv"), {"id": "site", "missing": "mark"}, steps=30))
    assert asked["read"] == (Path("a.csv"), {"id": "site"})
    given, named = asked["fitted"]
    assert given == ("found", None) and named.pop("say")
    assert named == {"steps": 30, "path": "a.csv", "id": "site", "missing": "mark"}


def test_an_epoch_sees_every_window_once_whatever_is_accumulated(monkeypatch):
    """Of 25 windows, 2 x 3 in a step: 3 epochs take 13 steps."""
    monkeypatch.setattr(train, "Texts", lambda config, inputs: SimpleNamespace(batches=SimpleNamespace(per_epoch=25)))
    config = train.fitting.changed(RunConfig(), train={"batch_size": 2, "accumulate": 3})
    assert [train.for_epochs(config, None, epochs).train.steps for epochs in (1, 3)] == [5, 13]  # type: ignore[arg-type]


def test_the_last_figures_are_the_newest_of_each(monkeypatch, tmp_path):
    records = [Logged(step=1, loss=3.0), Logged(step=1, validation_loss=2.5), Logged(step=2, loss=2.0)]
    monkeypatch.setattr(run, "read_metrics", lambda path: records)
    assert train.last_figures(tmp_path) == {"step": 2, "loss": 2.0, "validation_loss": 2.5}


def test_what_the_system_refuses_can_be_mended_by_the_user():
    ending = endings.ending_of(OSError(errno.ENOSPC, "No space left on device", "a/b"))
    assert ending == endings.Ending(2, "a/b: No space left on device; free some space")
    assert endings.ending_of(ZeroDivisionError("x")).code == 1 and endings.ending_of(MemoryError()).code == 2
