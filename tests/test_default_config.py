"""The shipped configs do what they say: the default run of the real model starts, at its true shape, on random weights."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from test_parity_full import CONFIG

from jaxlv.config import load_config
from jaxlv.runs import run, sources, training

DEFAULT = Path(__file__).resolve().parents[1] / "configs" / "qwen2.5-0.5b.toml"


@pytest.mark.slow
def test_the_default_run_of_the_real_model_takes_its_first_steps(random_hf, tmp_path):
    hf = random_hf(head_dim=None, **{key: value for key, value in CONFIG.items() if key != "architectures"})
    hf.save_pretrained(tmp_path / "model")
    del hf
    settings = {
        "model.path": tmp_path / "model",
        "data.path": "",
        "data.simulate": 20,
        "train.steps": 2,
        "train.log_every": 1,
        "train.validation_windows": 4,
        "train.forecast_series": 0,
    }
    config = load_config(DEFAULT, [f"{key}={value}" for key, value in settings.items()])
    assert (config.model.dtype, config.train.batch_size, config.windows.length, config.lora.rank) == ("bfloat16", 4, 512, 8)
    inputs = sources.load_inputs(config)
    run.check_folder(config, tmp_path / "run", resume=False)
    lora = training.train(config, tmp_path / "run", inputs)
    records = run.read_metrics(tmp_path / "run" / run.METRICS)
    assert [r["step"] for r in records if "loss" in r] == [1, 2]
    assert all(math.isfinite(r["loss"]) for r in records if "loss" in r)
    assert all(math.isfinite(r["validation_loss"]) for r in records if "validation_loss" in r)
    q_proj = lora["model.layers.0"]["self_attn"]["q_proj"]
    assert q_proj["A"].shape == (8, 896) and q_proj["A"].dtype == "float32"
