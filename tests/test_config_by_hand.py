"""Every setting of a run by hand: its default, its allowed values at the edges, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest

from jaxlv.config import RunConfig, StageConfig, build_config
from jaxlv.errors import JaxlvError

MOST = 2**31 - 1  # along an axis
INF, NAN = float("inf"), float("nan")


class Row(NamedTuple):
    """A setting's default, values that are accepted, and values that are not."""

    default: Any
    taken: tuple[Any, ...] = ()
    refused: tuple[Any, ...] = ()


def count(default: int, least: int = 1) -> Row:
    return Row(default, (least, MOST), (least - 1, MOST + 1, -1, 1.5))


def share(default: float, *, zero: bool = True, one: bool = True) -> Row:
    edges = ((0.0, zero), (1.0, one))
    taken = tuple(value for value, allowed in edges if allowed)
    refused = tuple(value for value, allowed in edges if not allowed)
    return Row(default, (0.5, *taken), (-0.001, 1.001, NAN, *refused))


def choice(*names: str) -> Row:
    return Row(names[0], names, ("other", ""))


SEED = ((0, 2**32 - 1), (-1, 2**32))
PATH = Row("", ("x", "x" * 4096), ("x" * 4097, "a\nb"))
NAME = Row("", ("x", "x" * 200), ("x" * 201, "a\nb"))
FLAG = Row(False, (True,), (1, "true"))
IDS = Row((), ([-(2**63)], [2**63 - 1], ["north", 7]), ([2**63], [-(2**63) - 1], [0.5], ["a\nb"], ["x" * 201], "north"))
FLOPS = ((0, 1e30), (-1, 1.01e30, INF, NAN))

SETTINGS: Mapping[str, Mapping[str, Row]] = {
    "data": {
        "path": PATH,
        "preset": Row("course", ("x",), ("a\nb", 1)),
        "simulate": count(1000),
        "seed": Row(42, *SEED),
        "split": choice("fractions", "xu", "rai", "mao", "liu"),
        "fractions": Row((0.7, 0.15, 0.15), ([1, 0, 0],), ([0.5, 0.5], [0.25] * 4, [1.1, 0, 0], [-0.1, 1, 0.1])),
        "id": NAME,
        "time": NAME,
        "columns": Row((), (["a", "b"],), ("a", [1], ["a\nb"])),
        "separate": FLAG,
        "missing": choice("interpolate", "drop", "error"),
        "negative": choice("shift", "error"),
        "bad_series": choice("error", "drop"),
        "holdout": count(0, 0),
        "train_share": share(1.0, zero=False),
        "stratify": FLAG,
        "train_ids": IDS,
        "validation_ids": IDS,
        "test_ids": IDS,
    },
    "codec": {
        "scale": choice("context", "xu", "rai", "mao", "liu"),
        "headroom": share(0.5, one=False),
        "headrooms": Row((), ([0.5], [0] * 1000), ([0] * 1001, [1.0], [-0.1])),
        "decimals": Row(2, (1, 6), (0, 7)),
        "parsing": choice("steps", "position"),
    },
    "windows": {
        "length": count(512, 2),
        "stride": count(256),
        "align": choice("step", "token"),
        "partial": Row("pad", ("drop",), ("other",)),
        "side": choice("right", "left"),
        "pads": choice("ignored", "counted"),
        "context_steps": Row((20, 80), ([1, 1], [3, 3], [1, MOST]), ([4, 3], [0, 3], [3], [1, 2, 3], [1, MOST + 1])),
    },
    "model": {
        "path": Row("embedded", *PATH[1:]),
        "revision": Row("", ("main",), ("a\nb",)),
        "dtype": choice("float32", "bfloat16"),
        "weights": choice("full", "int8", "nf4"),
        "attention": choice("xla", "blocked", "cudnn"),
        "loss": choice("vocabulary", "alphabet"),
        "logits": Row("float32", ("float32",), ("float16",)),
        "remat": FLAG,
        "deterministic": FLAG,
    },
    "lora": {
        "rank": Row(4, (1, 2**20), (0, 2**20 + 1, -4)),
        "alpha": Row(0.0, (0, 1e9), (-1, 1.1e9, NAN)),
        "targets": Row(("q_proj", "v_proj"), ([], ["q_proj"] * 100, ["x" * 20]), (["q"] * 101, ["x" * 21], "q_proj")),
        "dropout": share(0.0, one=False),
        "rslora": FLAG,
        "head": Row("bias", ("frozen", "full"), ("other",)),
        "init": PATH,
    },
    "optimizer": {
        "name": choice("adam", "adamw", "muon"),
        "learning_rate": Row(1e-5, (1e-30, 3.4e38), (0, -1e-5, 3.5e38, NAN)),
        "schedule": choice("constant", "cosine", "onecycle"),
        "warmup_steps": count(0, 0),
        "final_fraction": share(0.0),
        "weight_decay": Row(0.0, (0,), (-0.1, 1000.1, NAN)),
        "vector_rate": Row(1.0, (0, 1000), (-0.1, 1000.1)),
        "clip_norm": Row(0.0, (0, 1e9), (-0.1, 1.1e9)),
        "b1": share(0.9, one=False),
        "b2": share(0.999, one=False),
        "eps": share(1e-8, zero=False),
    },
    "train": {
        "steps": count(1000),
        "batch_size": count(4),
        "accumulate": count(1),
        "seed": Row(0, *SEED),
        "log_every": count(10),
        "validate_every": count(200, 0),
        "validation_windows": count(64),
        "forecast_series": count(8, 0),
        "forecast_context": count(0, 0),
        "forecast_horizon": count(0, 0),
        "mean": choice("tokens", "examples"),
        "checkpoint_every": count(200),
        "select": choice("loss", "forecast"),
        "sinks": Row((), (["wandb"], ["tensorboard", "wandb", "mlflow"]), (["other"], ["wandb"] * 4)),
        "skip_nonfinite": count(0, 0),
        "halve_on_oom": FLAG,
    },
    "sampling": {
        "temperature": Row(1.0, (0, 1e-6, 1e6), (1e-7, 1.1e6, -1, NAN)),
        "top_k": count(0, 0),
        "top_p": share(1.0, zero=False),
        "repetition_penalty": Row(1.0, (1e-3, 1e3), (0, 9e-4, 1001)),
        "grammar": Row(True, (False,), (0,)),
    },
    "evaluate": {
        "context": count(50),
        "horizon": count(50),
        "samples": count(20),
        "series": count(0, 0),
        "seed": Row(0, *SEED),
        "batch_series": count(0, 0),
        "unmasked_samples": count(4, 0),
    },
    "budget": {
        "flops": Row(None, *FLOPS),
        "convention": Row("exact", ("rai",), (1,)),
        "held_back": Row(0.0, *FLOPS),
        "phase": Row("final", ("x",), ("a\nb",)),
        "phases": Row({}, ({"a": 0}, {"a": 10**30}), ({"a": -1}, {"a": 1.1e30}, [1])),
        "repeats": choice("within", "beyond"),
        "several": FLAG,
        "ledger": PATH,
    },
    "mesh": {
        "data": Row(-1, (1, 2**20), (0, -2, 2**31, 1.5)),
        "model": count(1),
        "fsdp": FLAG,
        "patience": Row(1800.0, (0, 1e9), (-1, 1.1e9, NAN)),
    },
    "stage": {
        "train": Row(True, (False,), (0,)),
        "share": share(1.0, zero=False),
        "skip": Row((), ([{}] * 10_000,), ([{}] * 10_001, [1])),
    },
}


def built(section: str, name: str = "", value: Any = None) -> Any:
    """Returns the settings of a section, one of which may be given."""
    given = {name: value, **({"flops": 1} if section == "budget" and name != "flops" else {})} if name else {}
    if section == "stage":
        return build_config(StageConfig, given)
    return getattr(build_config(RunConfig, {section: given} if given else {}), section)


def rows() -> Iterator[Any]:
    for section, settings in SETTINGS.items():
        for name, row in settings.items():
            yield pytest.param(section, name, row, id=f"{section}.{name}")


@pytest.mark.parametrize(("section", "name", "row"), list(rows()))
def test_a_setting_by_hand(section, name, row):
    default = getattr(built(section), name)
    assert default == row.default and type(default) is type(row.default)
    for value in row.taken:
        found = getattr(built(section, name, value), name)
        assert found == (tuple(value) if isinstance(value, list) else value)
    for value in row.refused:
        with pytest.raises(JaxlvError, match=rf"\b{name}\b"):
            built(section, name, value)


def test_every_setting_is_here():
    ours = {
        field.name: {inner.name for inner in dataclasses.fields(field.default_factory)}
        for field in dataclasses.fields(RunConfig)
    }
    ours["stage"] = {field.name for field in dataclasses.fields(StageConfig)}
    assert {section: set(settings) for section, settings in SETTINGS.items()} == ours


def test_settings_that_contradict_each_other_are_refused():
    for section, given, words in (
        ("windows", {"pads": "counted", "side": "left"}, 'needs windows.side = "right"'),
        ("windows", {"context_steps": [5, 4]}, "not a range"),
        ("optimizer", {"weight_decay": 0.1}, 'needs optimizer.name = "adamw" or "muon"'),
        ("model", {"logits": "bfloat16"}, 'needs model.dtype = "bfloat16"'),
        ("train", {"select": "forecast", "forecast_series": 0}, "needs train.forecast_series > 0"),
    ):
        with pytest.raises(JaxlvError, match=words) as caught:
            build_config(RunConfig, {section: given}, "my.toml")
        assert str(caught.value).startswith(f"my.toml, {section}.")
    for name in ("adamw", "muon"):
        assert build_config(RunConfig, {"optimizer": {"weight_decay": 1000, "name": name}}).optimizer.weight_decay == 1000
