"""What a study is about: which model is opened how, which series it may be measured on, and in whose text they are written.
Nothing is loaded.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from known import known

from jaxlv.config import CodecConfig, DataConfig, ModelSettings, RunConfig
from jaxlv.data.loading import load_series
from jaxlv.data.observations import Handling
from jaxlv.errors import JaxlvError
from jaxlv.runs import run, sources
from jaxlv.studies import subjects
from jaxlv.studies.choice import ONE, Choice
from jaxlv.studies.subjects import Asked, Bare, Subject, open_subject

TEN = load_series(np.arange(1.0, 11)[:, None, None] + np.arange(6)[:, None] * [1, 2])
PAIR = ("prey", "predator")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings of the bases that are opened, and the names by which adapters are; neither is there."""
    found: list[Any] = []
    base = replace(known(), model=SimpleNamespace(folder="/base"), variables={"params": "params"})  # type: ignore[arg-type]
    monkeypatch.setattr(sources, "open_base", lambda settings: found.append(settings) or base)
    monkeypatch.setattr(subjects, "resolve", lambda name, revision: found.append((name, revision)))
    monkeypatch.setattr(subjects, "hub_revision", lambda place: "")
    monkeypatch.setattr(subjects, "load_adapter", lambda folder, model, name: found.append((folder, name)) or "lora")
    return found


def test_a_bare_model_is_opened_as_was_said(loaded):
    bare = Bare(scale="liu", decimals=4, dtype="bfloat16", weights="int8", revision="r")
    found = open_subject(Asked("m", TEN, bare=bare, handling=Handling("mark")))
    (name, settings) = loaded
    assert name == ("m", "r")
    assert settings == ModelSettings(path="m", dtype="bfloat16", weights="int8", revision="r")
    assert found.handling == Handling("mark") and found.choice == Choice(settings) and found.run is None
    codec = found.bare["untuned"].codec
    assert (codec.scale, codec.decimals, list(found.bare)) == ("liu", 4, ["untuned"])


@pytest.mark.parametrize(
    ("bare", "expected"),
    [
        ({}, ("mao", 3, 7.0)),
        ({"decimals": 1}, ("mao", 1, 7.0)),
        ({"scale": "context"}, ("context", 3, None)),
        ({"scale": "liu", "decimals": 2}, ("liu", 2, None)),
    ],
)
def test_series_are_written_as_the_adapter_was_trained_unless_something_else_is_said(loaded, monkeypatch, bare, expected):
    """The factor of a data set is that of the training, for the scale that it belongs to."""
    held = subjects.Codec("mao", decimals=3, dataset_alpha=7.0)
    monkeypatch.setattr(subjects, "read_codec", lambda folder: held)
    said: list[str] = []
    found = open_subject(Asked("m", TEN, bare=Bare(adapter=Path("a"), **bare)), said.append)
    tuned, untuned = found.bare["tuned"], found.bare["untuned"]
    assert list(found.bare) == ["tuned", "untuned"] and found.choice == ONE
    assert (tuned.codec.scale, tuned.codec.decimals, tuned.codec.dataset_alpha) == expected
    assert untuned.codec == tuned.codec and (Path("a"), "m") in loaded
    assert tuned.variables == {"params": "params", "lora": "lora"} and untuned.variables == {"params": "params"}
    assert "what the adapter was trained on is not in its files" in said[0]


def test_a_scale_of_the_data_set_is_of_the_series_that_are_asked_about_if_there_is_no_adapter(loaded):
    found = open_subject(Asked("m", TEN, bare=Bare(scale="mao")))
    assert found.bare["untuned"].codec.dataset_alpha == pytest.approx(np.percentile(TEN.padded(), 99.7) / 10)


# ----------------------------------------------------------------------------------------------------- of a run


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A run that was tuned on lynx and hare, in this order, and has seen series 0, 2 and 4."""
    config = RunConfig(data=DataConfig(fractions=(0.5, 0.2, 0.3)))
    manifest = SimpleNamespace(data=SimpleNamespace(sha256="own"))
    made = SimpleNamespace(
        folder=tmp_path / "r", config=config, variables=("lynx", "hare"), manifest=manifest,
        seen=lambda series: np.array([one for one in series.ids_N.tolist() if one in (0, 2, 4)], int),
    )  # fmt: skip
    monkeypatch.setattr(subjects, "is_there", lambda place: True)
    monkeypatch.setattr(run, "load_run", lambda folder: made)
    return made


def test_a_run_reads_series_in_its_own_order_unless_columns_are_named(finished):
    named = replace(TEN, variables=("hare", "lynx"))
    asked = Asked("r", named, handling=Handling("mark"))
    found = open_subject(asked)
    assert isinstance(found.source, type(TEN)) and found.source.variables == ("lynx", "hare")
    np.testing.assert_array_equal(found.source.values[3], TEN.values[3][:, ::-1])
    assert found.handling == Handling("mark") and found.name == "r"
    kept = open_subject(replace(asked, reading={"columns": ("hare", "lynx")})).source
    assert isinstance(kept, type(TEN)) and kept.variables == ("hare", "lynx")


@pytest.mark.parametrize("bare", [{"scale": "context"}, {"decimals": 2}, {"adapter": Path("a")}])
def test_a_run_is_given_no_settings_of_a_bare_model(finished, bare):
    with pytest.raises(JaxlvError, match=r"a run (keeps the text format|has an adapter of its own)"):
        open_subject(Asked("r", TEN, bare=Bare(**bare)))


def test_a_run_is_measured_on_its_test_series_and_of_another_file_on_those_that_it_has_not_seen(finished):
    series = TEN.ready().series
    split = sources.split_series(finished.config, series)
    own, other = (replace(series, source={"sha256": sha}) for sha in ("own", "other"))
    of_run = Subject("r", finished, finished.config, own)
    assert of_run.held() == split.test.tolist()
    assert replace(of_run, source=other).held() == [1, 3, 5, 6, 7, 8, 9]
    assert replace(of_run, source=other).chosen(None, 2).ids_N.tolist() == [1, 3]
    assert replace(of_run, source=other).chosen([4, 1], 1).ids_N.tolist() == [4, 1]
    with pytest.raises(JaxlvError, match="the run has seen every series"):
        replace(of_run, source=other.select([0, 2])).held()


def test_a_bare_model_is_measured_on_all_series_of_a_file_and_of_simulated_ones_on_the_test_share():
    series, config = TEN.ready().series, RunConfig(data=DataConfig(fractions=(0.5, 0.2, 0.3)))
    assert Subject("m", None, config, TEN).held() == list(range(10))
    assert Subject("m", None, config, series).held() == sources.split_series(config, series).test.tolist()


def test_only_the_first_model_gives_way_to_what_knows_the_series_better():
    first, second, chosen = known(), known(), known()
    reader = SimpleNamespace(sampler=chosen)
    choice: Any = SimpleNamespace(reader=lambda sampler, series, context: reader if sampler is first else None)
    found = Subject("m", None, RunConfig(), TEN, choice=choice).reads({"a": first, "b": second}, TEN.ready().series, 4)
    assert found.models["a"] is chosen and found.models["b"] is second and list(found.models) == ["a", "b"]


def test_a_model_of_the_hub_is_named_with_its_commit_and_a_folder_by_its_last_part(monkeypatch):
    monkeypatch.setattr(subjects, "hub_revision", lambda place: "c0ffee" if place == Path("/hub") else "")
    monkeypatch.setattr(subjects, "base_of", lambda settings: Path("/hub" if "/" in settings.path else "/disk"))
    assert subjects.model_name("Qwen/small", Path("/hub")) == "Qwen/small@c0ffee"
    assert subjects.model_name("models/small", Path("/disk")) == "small"
    hub = ModelSettings(path="Qwen/small")
    assert "is taken at commit c0ffee; model.revision = 'c0ffee'" in subjects.pinned_note(hub)
    assert subjects.pinned_note(replace(hub, revision="c0ffee")) == subjects.pinned_note(replace(hub, path="own")) == ""
    assert subjects.pinned_note(replace(hub, revision="main"))


def test_series_are_called_by_their_file():
    series = TEN.ready().series
    assert subjects.data_name(replace(series, source={"path": "a/b.csv"})) == "b.csv"
    assert subjects.data_name(replace(series, source={})) == "simulated series" and CodecConfig().decimals == 2
