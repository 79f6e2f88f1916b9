"""The embedded base matches its record and the config, and its training ranges are twice as wide as the real data's."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import tomllib
from pathlib import Path

import jax
import pytest

from jaxlv.config import build_config
from jaxlv.errors import JaxlvError
from jaxlv.forecasting import familiar
from jaxlv.model.weights import EMBEDDED_BASE, load_pretrained
from jaxlv.storage.files import write_json
from jaxlv.studies import base_windows, from_scratch
from jaxlv.studies.base_settings import BaseConfig
from jaxlv.studies.progress import Silent

ROOT = Path(__file__).parents[1]
OBSERVED = {  # fits to 36 series of the course's file
    "r": (0.10, 0.32), "K": (3.8, 13.7), "a": (0.20, 0.50), "h": (0.18, 0.71), "e": (0.32, 0.70), "m": (0.10, 0.30),
    "x0": (0.8, 1.2), "y0": (0.8, 1.2),
}  # fmt: skip


def record() -> dict:
    return json.loads((EMBEDDED_BASE / "training.json").read_text())


def test_the_config_is_that_which_made_the_base():
    assert tomllib.loads((ROOT / "configs/base.toml").read_text()) == record()["settings"]


def test_the_record_counts_the_base():
    found, settings = record(), record()["settings"]
    _, params = load_pretrained(EMBEDDED_BASE)
    leaves = jax.tree.leaves(params)
    assert found["parameters"] == sum(math.prod(leaf.shape) for leaf in leaves)
    starts = [0, *(phase["until"] for phase in settings["phases"])]
    steps = [end - start for start, end in itertools.pairwise(starts)]
    phases = zip(steps, settings["phases"], strict=True)
    assert found["tokens"] == sum(count * phase["length"] * phase["batch_size"] for count, phase in phases)
    assert found["curve"][-1]["step"] == settings["steps"] and found["flops"]["exact"] > 0
    assert sum(path.stat().st_size for path in EMBEDDED_BASE.iterdir()) <= 8e6


def test_ranges_are_twice_as_wide_as_what_the_data_shows():
    for name, (low, high) in record()["settings"]["series"]["ranges"].items():
        if name in OBSERVED:
            seen_low, seen_high = OBSERVED[name]
            assert high - low >= 2 * (seen_high - seen_low) and low < seen_low < seen_high < high, name


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict:
    """Settings of a base that trains in seconds: one layer, four steps, random cycles of one and two species."""
    for name, value in (("HELD_OUT", 16), ("VALIDATION_BATCHES", 2)):
        monkeypatch.setattr(base_windows, name, value)
    tree = tomllib.loads((ROOT / "configs/base-field.toml").read_text())
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    tree |= {"start": "", "steps": 4, "validate_every": 2}
    tree["architecture"] |= shape
    tree["phases"] = [{"until": 4, "length": 128, "batch_size": 2}]
    tree["series"] |= {"number": 8, "steps": 60, "shares": {"parasitoids": 0.5, "ricker": 0.5}, "unseen": 0.0}
    return tree


def test_a_base_is_trained_and_goes_on_and_its_limits_are_measured(
    small: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Steps 3 and 4 alone are left to the second attempt. Limits measured again are the same: they are nats of values in
    two decimals, whatever the base was trained on.
    """
    config = build_config(BaseConfig, small, where="test")
    first = dataclasses.replace(config, steps=2)
    from_scratch.train(first, tmp_path / "base.work", tmp_path / "series", 0, False, Silent("base", 2))
    said: list[int] = []

    class Heard(Silent):
        def step(self, step, figures):
            said.append(step)

    made = from_scratch.make_base(config, small, tmp_path / "base", tmp_path / "series", workers=0, resume=True, begin=Heard)
    assert said == [3, 4] and [point.step for point in made.curve] == [2, 4]
    assert set(made.familiar) == {"1", "2"} and all(nats > 0 for nats in made.familiar.values())
    assert json.loads((tmp_path / "base/training.json").read_text())["familiar"] == made.familiar
    assert familiar.limits_of(str(tmp_path / "base")) == made.familiar
    write_json(tmp_path / "base/training.json", dataclasses.replace(made, familiar={}).tree())
    written, windows = [], from_scratch.validation_windows
    monkeypatch.setattr(
        from_scratch, "validation_windows", lambda own, *given: written.append(own.text.decimals) or windows(own, *given)
    )
    assert from_scratch.add_limits(config, tmp_path / "base", tmp_path / "series") == made
    assert written == [(2,)]
    with pytest.raises(JaxlvError, match="exists already"):
        from_scratch.make_base(config, small, tmp_path / "base", workers=0)
