"""What is handed over to other tools: which adapters are added with which weights, and what the files say of their origin.
Nothing is loaded; tests/test_export.py reads the files back.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jaxlv.config import LoraConfig, ModelSettings
from jaxlv.lora import adapters, arithmetic, export
from jaxlv.lora.export import Exported
from jaxlv.runs import run
from jaxlv.studies import handover
from jaxlv.text.codec import Codec

PLACE, OUT = Path("/base"), Path("out")
CODECS = {"one": Codec(decimals=3), "other": Codec(decimals=4)}


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the functions that write, load and add are given, by name."""
    found: dict[str, Any] = {}

    def kept(name: str, answer: Any) -> Any:
        def called(*given: Any, **named: Any) -> Any:
            found[name] = (*given, *named.values())
            return answer(*given) if callable(answer) else answer

        return called

    for name in ("export_merged", "export_peft"):
        monkeypatch.setattr(export, name, kept(name, Exported(OUT, 0.0)))
    monkeypatch.setattr(handover, "resolve", kept("resolve", PLACE))
    monkeypatch.setattr(handover, "base_of", kept("base_of", PLACE))
    monkeypatch.setattr(handover, "companions", lambda place: ())
    monkeypatch.setattr(handover, "hub_revision", lambda place: "today" if place == PLACE else "")
    monkeypatch.setattr(handover, "load_pretrained", kept("load", ("full", "params")))
    monkeypatch.setattr(adapters, "load_adapter", lambda folder, model, base: f"{folder} over {base}")
    monkeypatch.setattr(adapters, "read_codec", lambda folder: CODECS.get(str(folder)))
    monkeypatch.setattr(adapters, "is_uniform", lambda lora: True)
    monkeypatch.setattr(adapters, "lora_config", lambda folder, lora: LoraConfig(7))
    monkeypatch.setattr(arithmetic, "add", kept("add", "sum"))
    monkeypatch.setattr(arithmetic, "updates", lambda lora: {"q": (None, [1] * 3, 1.0), "v": (None, [1] * 5, 1.0)})
    frame = SimpleNamespace(to_dict=lambda kind: [])
    monkeypatch.setattr(arithmetic, "compare", kept("compare", frame))
    return found


BASE = handover.Base("m", "r", "bfloat16")
ONE, OTHER = Path("one"), Path("other")


def test_a_sum_is_of_the_base_that_is_named_and_of_every_adapter_with_its_weight(said):
    made = handover.merge([ONE, OTHER], BASE, "merged", OUT, [0.7, -0.3], side_head=True)
    assert said["resolve"] == ("m", "r") and said["load"] == (PLACE, "bfloat16")
    assert said["add"] == (["one over m", "other over m"], [0.7, -0.3])
    assert said["compare"] == ("one over m", "other over m") and made.agreement == []
    assert said["export_merged"] == (OUT, "full", "params", "sum", PLACE, True)


def test_a_sum_as_an_adapter_is_ba_itself_written_as_the_first_one_was(said):
    made = handover.merge([ONE, OTHER, OTHER], BASE, "peft", OUT)
    assert made.agreement is None and "compare" not in said  # of three
    *rest, config, origin = said["export_peft"]
    assert rest == [OUT, "full", "params", "sum"] and origin == adapters.Origin("m", "today", CODECS["one"])
    assert (config.rank, config.alpha) == (5, 5.0)


def test_one_adapter_is_itself_unless_it_has_a_weight(said):
    handover.merge([OTHER], BASE, "peft", OUT)
    assert "add" not in said and said["export_peft"][3:] == (
        "other over m", LoraConfig(7), adapters.Origin("m", "today", CODECS["other"]),
    )  # fmt: skip
    handover.merge([OTHER], BASE, "merged", OUT, [0.5])
    assert said["add"] == (["other over m"], [0.5]) and said["export_merged"][3] == "sum"


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> Any:
    def of(**settings: Any) -> Any:
        model = SimpleNamespace(model="own", variables={"params": "packed", "lora": "lora"}, codec=CODECS["one"])
        config = SimpleNamespace(model=ModelSettings(path="m", **settings), lora=LoraConfig(3))
        monkeypatch.setattr(run, "load_run", lambda folder: SimpleNamespace(tuned=model, config=config))

    return of


def test_a_run_says_its_base_and_its_revision_and_another_base_has_none(said, finished):
    finished()
    for base, origin in ((None, ("m", "today")), ("b", ("b", None))):
        handover.export_run(Path("r"), "peft", OUT, base)
        told = adapters.Origin(*origin, CODECS["one"])
        assert said["export_peft"] == (OUT, "own", "packed", "lora", LoraConfig(3), told)
    handover.export_run(Path("r"), "merged", OUT, side_head=True)
    assert said["export_merged"] == (OUT, "own", "packed", "lora", PLACE, True) and "load" not in said


def test_a_run_in_few_bits_is_merged_into_the_full_base_as_the_run_computes(said, finished, monkeypatch):
    monkeypatch.setattr(export, "apart", lambda one, other, where: 0.25)
    finished(weights="int8", dtype="bfloat16", attention="blocked")
    made = handover.export_run(Path("r"), "merged", OUT)
    assert said["load"] == (PLACE, "bfloat16", "blocked") and said["export_merged"][1:4] == ("full", "params", "lora")
    assert made.notes == (
        "it was trained over the base in int8, and over full weights its logits are others: by 0.25 of the largest logit",
    )  # fmt: skip
    assert handover.export_run(Path("r"), "peft", OUT).notes[0].endswith("its logits are others")
