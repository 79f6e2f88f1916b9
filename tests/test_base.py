"""The embedded base matches its record and the config, and its training ranges are twice as wide as the real data's."""

from __future__ import annotations

import itertools
import json
import math
import tomllib
from pathlib import Path

import jax

from jaxlv.model.weights import EMBEDDED_BASE, load_pretrained

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
