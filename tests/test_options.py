"""What is said on the command line is what the library is asked for: every option with a value that is not its default."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from jaxlv.config import load_config
from jaxlv.data.observations import Handling
from jaxlv.errors import JaxlvError
from jaxlv.flops.family import architecture
from jaxlv.forecasting import pool
from jaxlv.runs.search import Range
from jaxlv.studies import evaluate, explore, field, handover, init, probe, sweeping, train
from jaxlv.studies.forecast import Ahead
from jaxlv.studies.subjects import Asked, Bare
from jaxlv.tools import cli
from tests.programs import done, jaxlv

DATA, OUT = Path("series.csv"), Path("out")
PROTOCOL = "--context 11 --horizon 7 --samples 5 --seed 3"
SAMPLING = "--temperature 0.4 --top-k 6 --top-p 0.9 --repetition-penalty 1.2 --no-grammar"
BARE = "--adapter a --scale liu --decimals 4 --dtype bfloat16 --weights int8 --revision r"
READING = "--id site --time year --columns hare,lynx --separate --missing mark --negative error"
HANDLING = Handling("mark", "error")
ASKED: dict[str, Any] = {
    "sampling": {"temperature": 0.4, "top_k": 6, "top_p": 0.9, "repetition_penalty": 1.2, "grammar": False},
    "bare": Bare(Path("a"), "liu", 4, "bfloat16", "int8", "r"),
    "reading": {"id": "site", "time": "year", "columns": ("hare", "lynx"), "separate": True},
    "handling": HANDLING,
}
PLAIN: dict[str, Any] = {"sampling": {}, "bare": Bare(), "reading": {}, "handling": Handling()}
STEPS = {"context": 11, "horizon": 7, "samples": 5, "seed": 3}
SETTINGS = ("train.seed=5", "lora.rank=3")


def calls(target: str, command: str) -> dict[str, Any]:
    """What a function of the library is given by a command, by the names of its parameters; it does nothing."""
    module, _, name = target.rpartition(".")
    owner, found = importlib.import_module(f"jaxlv.{module}"), dict[str, Any]()
    signature = inspect.signature(getattr(owner, name))

    def called(*given: Any, **named: Any) -> Any:
        bound = signature.bind(*given, **named)
        bound.apply_defaults()
        found.update(bound.arguments)
        raise JaxlvError("far enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, called)
        outcome = jaxlv(*command.split())
    assert outcome.code == 2 and "far enough" in outcome.err, outcome.err
    return {key: value for key, value in found.items() if key not in ("begin", "say", "purpose")}


def asked(found: dict[str, Any]) -> Asked:
    """The request in what a function was given; that it has a purpose is all that is looked at there."""
    one = found.pop("asked")
    assert one.purpose
    return one


def expected(most: int | None = None, protocol: Any = (), **more: Any) -> Asked:
    """The request for DATA, two of its series, and all settings of a forecast."""
    return Asked("m", DATA, [3, 7], most, {**STEPS, **dict(protocol)}, **{**ASKED, **more})


def same(found: Asked, wanted: Asked) -> None:
    """Compares requests apart from their purpose."""
    assert replace(found, purpose="") == wanted


EVERY = f"--data series.csv --series 3,7 --overwrite {PROTOCOL}"


def test_forecast_is_asked_what_was_said():
    command = f"forecast m --out out {EVERY} {SAMPLING} {BARE} {READING} --holdout 9 --reach 2 --calibrate"
    found = calls("studies.forecast.forecast", command)
    same(asked(found), expected())
    assert found == {"out": OUT, "ahead": Ahead(9, 2, HANDLING, overwrite=True, method="calibrated")}
    for options, method in (("--method pool", "pool"), ("--method pool --calibrate", "pool"), ("", pool.MODEL)):
        found = calls("studies.forecast.forecast", f"forecast m --out out {options}")
        assert found["ahead"] == Ahead(method=method)


def test_evaluate_is_asked_what_was_said():
    own = "--choose-temperature --temperatures 0.6,1.1 --conformal --validation-series 8 --origins 2 --every 4 --pool"
    more = "--max-series 6 --batch-series 2 --unmasked-samples 1"
    command = f"evaluate m --out out {EVERY} {SAMPLING} {BARE} {READING} {own} {more}"
    found = calls("studies.evaluate.evaluate", command)
    protocol = {"batch_series": 2, "unmasked_samples": 1}
    same(asked(found), expected(most=6, protocol=protocol, origins=2, every=4, pooled=True))
    assert found == {"out": OUT, "fit": evaluate.Fit((0.6, 1.1), True, 8), "overwrite": True}
    found = calls("studies.evaluate.evaluate", "evaluate m --out out --temperatures 0.6,1.1")
    assert not found["fit"].temperatures and not found["fit"]  # none is chosen unless that is said


def test_stress_is_asked_what_was_said():
    found = calls("studies.stress.stress", f"stress m --out out {EVERY} --max-series 6 --groups noise,origin --pool")
    same(asked(found), expected(most=6, pooled=True, **PLAIN))
    assert found == {"out": OUT, "groups": ["noise", "origin"], "overwrite": True}


def test_analyse_is_asked_what_was_said():
    found = calls("studies.analyse.analyse", f"analyse m --out out {EVERY} --max-series 6 --headroom 0.25")
    same(asked(found), expected(most=6, **PLAIN))
    assert found == {"out": OUT, "headroom": 0.25, "overwrite": True}
    assert calls("studies.analyse.analyse", "analyse m")["out"] == Path("m/analyses")


def test_field_is_asked_what_was_said():
    command = (
        f"field a.csv b --out out --model m --every 4 --batch-series 6 --overwrite {PROTOCOL} {SAMPLING} {BARE} {READING}"
    )
    found = calls("studies.field.field", command)
    one = asked(found)
    assert (one.subject, one.data, one.series, one.most, one.protocol) == ("m", None, None, None, {})
    assert {key: getattr(one, key) for key in ASKED} == ASKED
    how = field.Windows(context=11, horizon=7, every=4, samples=5, seed=3, batch=6)
    assert found == {"places": (Path("a.csv"), Path("b")), "out": OUT, "how": how, "overwrite": True}


def test_init_is_asked_what_was_said():
    command = f"init series.csv --out out --model m --holdout 4 --steps 30 --overwrite {READING}"
    found = calls("studies.init.write", command)
    reading = vars(found.pop("reading"))
    assert reading == {**ASKED["reading"], "missing": "mark", "negative": "error"}
    assert found == {"data": DATA, "out": OUT, "wanted": init.Wanted("m", 4, 30), "overwrite": True}


def test_train_is_asked_what_was_said():
    settings = " ".join(f"--set {one}" for one in SETTINGS)
    more = f"--data series.csv --model m --steps 30 --epochs 2 --targets q,v --init-adapter a --resume {settings} {READING}"
    found = calls("studies.train.asked_for", f"train demo --out out {more}")
    reading = {**ASKED["reading"], "missing": "mark", "negative": "error"}
    wanted = train.Wanted(DATA, reading, "m", 30, 2, SETTINGS, ("q", "v"), Path("a"))
    assert found == {"config": "demo", "out": OUT, "wanted": wanted, "resume": True}


def test_sweep_is_asked_what_was_said():
    settings = " ".join(f"--set {one}" for one in SETTINGS)
    search = "--search lora.rank=2..8 --trials 6 --together 3 --storage sqlite:///s --study mine"
    rest = f"--choose forecast_mae --at-once 2 --shard 2/4 {settings}"
    found = calls("studies.sweeping.asked_for", f"sweep demo --out out {search} {rest}")
    found["config"] = found["config"].stem
    drawn = sweeping.Search([Range.of("lora.rank=2..8")], 6, 3, "sqlite:///s", "mine")
    shard = sweeping.Shard(2, 4)
    assert found == {
        "config": "demo", "overrides": SETTINGS, "axes": {}, "drawn": drawn, "rule": "forecast_mae", "at_once": 2,
        "shard": shard,
    }  # fmt: skip
    grid = "sweep demo --out out --grid lora.rank=2,4 --grid train.seed=1,2 --resume"
    found = calls("studies.sweeping.run_sweep", grid)
    plan = found.pop("asked").plan
    assert found == {"out": OUT, "resume": True} and plan.axes == {"lora.rank": [2, 4], "train.seed": [1, 2]}


def test_reproduce_is_asked_what_was_said():
    settings = " ".join(f"--set {one}" for one in SETTINGS)
    command = f"reproduce rai --data series.csv --out out --model m --scale full --stage grid,final {settings}"
    found = calls("studies.papers.open_paper", command)
    assert found == {"system": "rai", "scale": "full", "model": "m", "data": DATA, "out": OUT, "settings": SETTINGS}
    more = "reproduce rai --data series.csv --out out --stage grid --at-once 2 --resume"
    found = calls("studies.reproduce.reproduce", more)
    assert (found["data"], found["stages"], found["at_once"], found["resume"]) == (DATA, ["grid"], 2, True)
    found = calls("studies.papers.plan_of", "reproduce rai --benchmark b.json")
    assert found["benchmark"] == Path("b.json")
    found = calls("studies.reproduce.check_stages", "reproduce rai")
    assert found == {"names": ("baseline", "first", "grid", "context", "final")}


def test_probe_is_asked_what_was_said():
    more = "--text t.txt --window 64 --stride 16 --batch 4 --set sampling.top_k=3 --overwrite --out out --seed 3"
    command = f"probe m --prompts p.jsonl --max-new-tokens 9 --generation-defaults {more} --temperature 0.4"
    found = calls("studies.probe.probe", command)
    how: Any = {"max_new_tokens": 9, "sampling": {"temperature": 0.4}, "model_defaults": True}
    rest: Any = {
        "overrides": ("sampling.top_k=3",),
        "seed": 3,
        "text": Path("t.txt"),
        "window": 64,
        "stride": 16,
        "batch": 4,
    }
    assert found == {"asked": probe.Questions("m", Path("p.jsonl"), **how, **rest), "out": OUT, "overwrite": True}


def test_compare_is_asked_what_was_said():
    settings = " ".join(f"--set {one}" for one in SETTINGS)
    more = f"--config demo {settings} --protocols rai,liu --max-series 6 --tuned-only --pool"
    found = calls("studies.compare.compare", f"compare --data series.csv --out out {more} --resume")
    one = found.pop("asked")
    config = load_config(Path("configs/demo.toml").resolve(), ["data.path='series.csv'", *SETTINGS])
    assert (one.config, one.data, one.protocols, one.run, one.most) == (config, DATA, ["rai", "liu"], None, 6)
    assert one.tuned_only and one.pooled and found == {"out": OUT, "resume": True, "overwrite": False}
    found = calls("studies.compare.compare", "compare r --data series.csv --out out --overwrite --tuned-only")
    assert found["asked"].run == Path("r") and found["overwrite"] and found["asked"].tuned_only
    assert not found["asked"].pooled


def test_export_and_merge_are_asked_what_was_said():
    found = calls("studies.handover.export_run", "export r --to merged --out out --side-head")
    assert found == {"folder": Path("r"), "to": "merged", "out": OUT, "base": None, "side_head": True}
    found = calls("studies.handover.export_run", "export r --to peft --out out --base b")
    assert found == {"folder": Path("r"), "to": "peft", "out": OUT, "base": "b", "side_head": False}
    found = calls("studies.handover.export_base", "export r --to base --out out --weights nf4")
    assert found == {"subject": "r", "out": OUT, "bits": "nf4"}
    more = "--to peft --weights 0.7,-0.3 --revision r --dtype bfloat16 --side-head"
    found = calls("studies.handover.merge", f"merge a b --model m --out out {more}")
    base = handover.Base("m", "r", "bfloat16")
    wanted: dict[str, Any] = {"folders": (Path("a"), Path("b")), "base": base, "to": "peft", "out": OUT}
    assert found == {**wanted, "weights": (0.7, -0.3), "side_head": True}


def test_verbs_of_series_and_pages_are_asked_what_was_said():
    command = "explore series.csv --out out --series 3,7 --tokenizer embedded --context-lengths 64,96 --overwrite"
    found = calls("studies.explore.explore", command)
    assert found.pop("look") == explore.Look([3, 7], "embedded", (64, 96))
    assert found == {"data": DATA, "out": OUT, "handling": Handling(), "overwrite": True, "reading": {}}
    found = calls("studies.pages.write", "report a b --data series.csv --out out --overwrite")
    assert found == {"places": (Path("a"), Path("b")), "data": DATA, "out": OUT, "overwrite": True}
    simulate = "simulate --preset field --steps 9 --stop 8 --noise 0.5 --out s.csv --series 4 --seed 6"
    found = calls("data.dynamics.changed", simulate)
    assert found == {"preset": "field", "changes": {"steps": 9, "stop": 8, "noise": 0.5}}
    found = calls("data.dynamics.draw", simulate)
    assert (found["preset"].steps, found["n"], found["seed"]) == (9, 4, 6)
    found = calls("studies.demo.demo", "demo --out out --data series.csv --set train.seed=5")
    assert found == {"out": OUT, "data": DATA, "overrides": ("train.seed=5",)}


def test_verbs_of_prices_are_asked_what_was_said():
    found = calls("studies.doctor.shares", "doctor demo --set train.seed=5 --devices 4 --memory 40")
    assert (found["config"].train.seed, found["devices"], found["memory"]) == (5, 4, 40)
    plan = "flops plan demo --set train.seed=5 --budget 1e15 --benchmark b.json"
    found = calls("studies.prices.plan", plan)
    assert (found["config"].train.seed, found["budget"], found["benchmark"]) == (5, 1e15, Path("b.json"))
    work = "--model embedded --batch 3 --length 96 --rank 5 --targets k,o --head alphabet"
    found = calls("studies.prices.tables", f"flops table {work} --convention liu")
    own = found["work"]
    assert (own.batch, own.length, own.rank, own.targets, own.head) == (3, 96, 5, ("k_proj", "o_proj"), "alphabet")
    assert own.model == architecture("embedded") and found["convention"] == "liu"
    found = calls("studies.prices.draw", f"flops table {work} --convention liu --figures drawn")
    assert found["folder"] == Path("drawn") and [*found["conventions"]] == ["liu"]
    found = calls("studies.prices.audit_programs", f"flops audit {work} --train head --dtype bfloat16 --attention blocked")
    assert found["work"] == replace(own, train="head", dtype="bfloat16", kernel="blocked")
    assert (found["runs"], found["settings"], found["backend"]) == ((), (), "cpu")
    found = calls("studies.prices.audit_programs", "flops audit demo r --set train.seed=5 --backend cuda")
    assert found["work"] is None and found["runs"] == (Path("demo"), Path("r")) and found["backend"] == "cuda"
    assert found["settings"] == ("train.seed=5",)
    found = calls("studies.prices.counted", "flops count a:b --args f32[2] --grad --trips 7 --backend cpu")
    assert found == {"function": "a:b", "arguments": "f32[2]", "grad": True, "trips": "7", "backend": "cpu"}
    counted = SimpleNamespace(table=lambda depth: f"{depth} levels", explain=str, as_json=dict)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxlv.studies.prices.counted", lambda *given, **named: counted)
        assert "2 levels" in done("flops", "count", "a:b", "--depth", 2)
    found = calls("studies.spending.spending", "ledger show r --convention liu,exact")
    assert found == {"place": Path("r"), "conventions": ["liu", "exact"]}


# They change what is printed, or ask the harness: test_reproduce.py, test_harness.py.
APART = {"--plan", "--tasks", "--task-folder", "--limit"}


def test_every_option_of_every_verb_is_said_here():
    """A new option fails this until a command above says it."""
    said, lacking = Path(__file__).read_text("utf-8"), dict[str, set[str]]()
    for verb in cli.VERBS:
        module = importlib.import_module(f"jaxlv.tools.{verb}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if f"jaxlv {verb}" in (function.__doc__ or ""):  # an example
                lacking[name] = {one for one in {*options_of(function)} - APART if not re.search(rf"{one}[ ={{\"]", said)}
    assert {name: found for name, found in lacking.items() if found} == {} and len(lacking) >= len(cli.VERBS)


def options_of(function: Any) -> Iterator[str]:
    """Yields the options of a verb, those of its groups of options among them."""
    for name, one in inspect.signature(function, eval_str=True).parameters.items():
        kind = next((part for part in (*get_args(one.annotation), one.annotation) if is_dataclass(part)), None)
        if kind is not None:
            yield from (f"--{own.name.replace('_', '-')}" for own in fields(kind))
        elif one.kind is inspect.Parameter.KEYWORD_ONLY:
            yield f"--{name.replace('_', '-')}"
