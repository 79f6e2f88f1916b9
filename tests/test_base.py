"""The embedded base matches its record and the config, and its training ranges are twice as wide as the real data's."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from flax import traverse_util

from jaxlv.config import build_config
from jaxlv.errors import JaxlvError
from jaxlv.flops.table import count
from jaxlv.flops.work import Work
from jaxlv.lora import overlay
from jaxlv.lora.adapters import load_adapter
from jaxlv.model import bases
from jaxlv.model.bases import EMBEDDED_BASE, FIELD_BASE
from jaxlv.model.qwen2 import Qwen2
from jaxlv.model.weights import load_pretrained, save_pretrained
from jaxlv.storage import tensors
from jaxlv.storage.files import write_json
from jaxlv.studies import base_windows, from_scratch
from jaxlv.studies.base_settings import BaseConfig
from jaxlv.studies.progress import Silent

ROOT = Path(__file__).parents[1]
OBSERVED = {  # fits to 36 series of the course's file
    "r": (0.10, 0.32), "K": (3.8, 13.7), "a": (0.20, 0.50), "h": (0.18, 0.71), "e": (0.32, 0.70), "m": (0.10, 0.30),
    "x0": (0.8, 1.2), "y0": (0.8, 1.2),
}  # fmt: skip


def record(folder: Path = EMBEDDED_BASE) -> dict:
    return json.loads((folder / "training.json").read_text())


@pytest.mark.parametrize(("folder", "config"), [(EMBEDDED_BASE, "base"), (FIELD_BASE, "base-field")])
def test_the_config_is_that_which_made_the_base(folder: Path, config: str):
    assert tomllib.loads((ROOT / f"configs/{config}.toml").read_text()) == record(folder)["settings"]


@pytest.mark.parametrize("folder", [EMBEDDED_BASE, FIELD_BASE])
def test_the_record_counts_the_base(folder: Path):
    found, settings = record(folder), record(folder)["settings"]
    _, params = load_pretrained(folder)
    leaves = jax.tree.leaves(params)
    assert found["parameters"] == sum(math.prod(leaf.shape) for leaf in leaves)
    if folder == FIELD_BASE:
        sides = tensors.shapes(folder / bases.TENSORS).values()
        assert found["adapters"] == sum(math.prod(shape) for shape in sides) > 0
        assert settings["rank"] in {length for shape in sides for length in shape}
    starts = [0, *(phase["until"] for phase in settings["phases"])]
    steps = [end - start for start, end in itertools.pairwise(starts)]
    phases = zip(steps, settings["phases"], strict=True)
    assert found["tokens"] == sum(count * phase["length"] * phase["batch_size"] for count, phase in phases)
    assert found["curve"][-1]["step"] == settings["steps"]
    cost = from_scratch.cost(build_config(BaseConfig, settings, where="test"))
    assert (cost.tokens, cost.flops) == (found["tokens"], found["flops"])


def test_the_bases_take_8_mb():
    sizes = {folder: sum(path.stat().st_size for path in folder.iterdir()) for folder in (EMBEDDED_BASE, FIELD_BASE)}
    assert sizes[EMBEDDED_BASE] <= 8e6 and sum(sizes.values()) <= 8 * 2**20


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
    tree |= {"start": "", "rank": 0, "steps": 4, "validate_every": 3}
    tree["architecture"] |= shape
    tree["phases"] = [{"until": 4, "length": 128, "batch_size": 2}]
    tree["series"] |= {"number": 8, "steps": 60, "shares": {"parasitoids": 0.5, "ricker": 0.5}, "unseen": 0.0}
    return tree


def test_the_steps_of_each_phase_are_paid_up_to_the_last_step(small: dict):
    """Two steps of 2 x 64 tokens, three of 3 x 32, and two of four of 1 x 128."""
    phases = ((2, 64, 2), (5, 32, 3), (9, 128, 1))
    small["phases"] = [dict(zip(("until", "length", "batch_size"), phase, strict=True)) for phase in phases]
    config = build_config(BaseConfig, small | {"steps": 7}, where="test")
    found, model = from_scratch.cost(config), from_scratch.architecture(config)
    assert found.tokens == 2 * 128 + 3 * 96 + 2 * 128
    work = [(times, Work(model, batch, length, 0, train="full", kernel=config.attention))
            for times, batch, length in ((2, 2, 64), (3, 3, 32), (2, 1, 128))]  # fmt: skip
    for name in ("exact", "coursework"):
        assert found.flops[name] == sum(times * count(one, name).total_train_step for times, one in work)


def test_new_weights_are_drawn_by_the_seed(small: dict):
    model: Any = SimpleNamespace(init=lambda key, ids: {"params": jax.random.key_data(key).tolist()})
    for seed in (1, 2):
        config = build_config(BaseConfig, small | {"seed": seed}, where="test")
        assert from_scratch._start(config, model) == jax.random.key_data(jax.random.key(seed)).tolist()


def test_nats_are_for_each_token_not_for_each_batch():
    """Batches of 10 tokens at 1 nat and of 30 at 2; and one of 40 at 4."""
    known = {"seen": [(10.0, 10), (60.0, 30)], "unseen": [(160.0, 40)]}
    windows = {name: [np.array([[pair]]) for pair in pairs] for name, pairs in known.items()}
    found = from_scratch._nats(lambda trained, frozen, batch: batch[0], None, None, windows)  # type: ignore[arg-type]
    assert found == {"seen": 1.75, "unseen": 4.0, "all": 230 / 80}


def test_a_base_is_trained_and_goes_on_and_its_limits_are_measured(
    small: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Steps 3 and 4 alone are left to the second attempt. Limits measured again are the same: they are nats of values in
    two decimals, whatever the base was trained on.
    """
    config = build_config(BaseConfig, small, where="test")
    first = dataclasses.replace(config, steps=2)
    from_scratch.train(first, tmp_path / "base.work", tmp_path / "series", 0, False, Silent("base", 2))
    curve = tmp_path / "base.work" / "curve.jsonl"  # its last point is of a checkpoint that is gone
    curve.write_text(curve.read_text() + json.dumps(json.loads(curve.read_text()) | {"step": 3}) + "\n")
    said: list[int] = []

    class Heard(Silent):
        def step(self, step, figures):
            said.append(step)

    made = from_scratch.make_base(config, small, tmp_path / "base", tmp_path / "series", workers=0, resume=True, begin=Heard)
    assert said == [3, 4] and [point.step for point in made.curve] == [2, 3, 4]
    assert set(made.familiar) == {"1", "2"} and all(nats > 0 for nats in made.familiar.values())
    assert json.loads((tmp_path / "base/training.json").read_text())["familiar"] == made.familiar
    assert bases.limits_of(str(tmp_path / "base")) == made.familiar
    write_json(tmp_path / "base/training.json", dataclasses.replace(made, familiar={}).tree())
    written, windows = [], from_scratch.validation_windows
    monkeypatch.setattr(
        from_scratch, "validation_windows", lambda own, *given: written.append(own.text.decimals) or windows(own, *given)
    )
    assert from_scratch.add_limits(config, tmp_path / "base", tmp_path / "series") == made
    assert written == [(2,)]
    with pytest.raises(JaxlvError, match="exists already"):
        from_scratch.make_base(config, small, tmp_path / "base", workers=0)


def test_a_base_of_adapters_is_trained_over_the_embedded_one(small: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small |= {"start": "embedded", "rank": 2, "alpha": 6.0}
    config = build_config(BaseConfig, small, where="test")
    model = Qwen2(from_scratch.architecture(config))
    base = model.init(jax.random.key(3), np.zeros((1, 1), np.int32))["params"]
    save_pretrained(tmp_path / "embedded", model, base, EMBEDDED_BASE)
    monkeypatch.setitem(bases.EMBEDDED, "embedded", tmp_path / "embedded")
    made = from_scratch.make_base(config, small, tmp_path / "base", tmp_path / "series", workers=0)
    full, paid = (from_scratch.cost(dataclasses.replace(config, rank=rank)) for rank in (0, 2))
    assert paid.tokens == made.tokens == full.tokens == 4 * 128 * 2 and made.flops == paid.flops != full.flops
    lora = load_adapter(tmp_path / "base", model)
    sides = {path[-1]: leaf for path, leaf in traverse_util.flatten_dict(lora).items()}
    assert made.adapters == sum(leaf.size for leaf in jax.tree.leaves(lora) if leaf.ndim) == 2 * 7 * 2 * 16
    assert sides["scale"] == 3.0 and np.any(sides["B"])
    merged, own = overlay.merge(base, lora), load_pretrained(tmp_path / "base")[1]
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.allclose(a, b, atol=1e-6)), merged, own)))
    assert bases.limits_of(str(tmp_path / "base")) == made.familiar


@pytest.mark.parametrize(("start", "rank"), [("", 2), ("another", 2)])
def test_adapters_are_of_the_embedded_base_alone(small: dict, start: str, rank: int):
    with pytest.raises(JaxlvError, match="adapters of another base"):
        build_config(BaseConfig, small | {"start": start, "rank": rank}, where="test")
