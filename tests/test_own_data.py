"""The programs on a file of one's own: config, training, forecasts and scores of one series."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jaxlv.config import load_config
from jaxlv.runs import run
from tests.programs import jaxlv

STEPS = np.arange(30)
SMALL = ["--set", "lora.rank=2", "--set", "model.attention=xla", "--set", "train.checkpoint_every=2"]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("own") / "pelts.csv"
    frame = pd.DataFrame({"year": 1900 + STEPS, "lynx": 4 + np.sin(STEPS / 2), "hare": 5 + np.cos(STEPS / 2)})
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def trained(table, tiny_base) -> Path:
    out = table.parent / "run"
    done = jaxlv("train", "--data", table, "--model", tiny_base, "--steps", 2, *SMALL, "--out", out)
    assert done.code == 0, done.err
    return out


def test_a_config_is_written_that_trains_and_says_what_each_setting_means(table, tiny_base, tmp_path):
    path = tmp_path / "own.toml"
    done = jaxlv("init", table, "--model", tiny_base, "--steps", 3, "--out", path)
    assert done.code == 0 and "1 series, variables hare and lynx, yearly 1900 to 1929, 30 steps" in done.out
    assert "training: 3 steps, " in done.out and f"next: jaxlv train {path}" in done.out
    text, config = path.read_text(), load_config(path)
    assert config.train.steps == 3 and config.data.holdout == 6 and config.model.path == str(tiny_base)
    assert "# decimals = 2  # digits behind the point" in text and "holdout = 6  # last steps of every series" in text
    again = jaxlv("init", table, "--out", path)
    assert again.code == 2 and "exists already" in again.err and path.read_text() == text
    assert jaxlv("init", table, "--model", tiny_base, "--steps", 4, "--out", path, "--overwrite").code == 0
    assert load_config(path).train.steps == 4


def test_a_run_is_trained_from_a_file_and_resumed_by_its_folder_alone_with_more_steps(table, trained, tmp_path):
    held = run.load_run(trained)
    assert held.config.train.steps == 2 and held.variables == ("hare", "lynx") and held.config.data.holdout == 6
    refused = jaxlv("train", "--resume", trained, "--set", "lora.rank=3", "--data", table)
    assert refused.code == 2 and "a run keeps its settings" in refused.err and "--set, --data" in refused.err
    fewer = jaxlv("train", "--resume", trained, "--steps", 1)
    assert fewer.code == 2 and "fewer steps than planned" in fewer.err
    more = jaxlv("train", "--resume", trained, "--steps", 4)
    assert more.code == 0, more.err
    records = [json.loads(line) for line in (trained / run.METRICS).read_text().splitlines()]
    assert run.read_config(trained).train.steps == 4 and max(record["step"] for record in records) == 4
    assert jaxlv("train", "--out", tmp_path / "x").err.count("what is trained") == 1
    assert "no run folder" in jaxlv("train", "demo").err


def test_epochs_are_so_many_times_every_window(table, tiny_base, tmp_path):
    done = jaxlv("train", "--data", table, "--model", tiny_base, "--epochs", 2, *SMALL, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    config = run.read_config(tmp_path / "run")
    # Of 24 steps, windows start at 0 and 12: strides of 128 tokens, ten a step; a batch holds one.
    assert (config.windows.stride, config.train.batch_size, config.train.steps) == (128, 1, 2 * 2)


def test_the_last_steps_are_hidden_and_scored_and_an_older_folder_is_kept_unless_it_may_go(table, trained, tmp_path):
    out = tmp_path / "out"
    asked = ["forecast", trained, "--data", table, "--holdout", 4, "--samples", 2]
    done = jaxlv(*asked, "--out", out)
    assert done.code == 0, done.err
    settings, frame = json.loads((out / "settings.json").read_text()), pd.read_csv(out / "forecast.csv")
    assert (settings["horizon"], settings["context"], settings["holdout"]) == (4, 26, 4)
    median = frame[frame.statistic == "median"].pivot(index="year", columns="variable", values="value")
    truth = pd.read_csv(table).set_index("year").loc[1926:, ["hare", "lynx"]]
    assert median.index.tolist() == [1926, 1927, 1928, 1929]
    assert settings["mae"] == pytest.approx(np.abs(median[["hare", "lynx"]] - truth).to_numpy().mean(), rel=1e-4)
    assert (out / "report.html").is_file() and (out / "series_0.png").is_file()
    again = jaxlv(*asked, "--out", out)
    assert again.code == 2 and "exists already" in again.err and "--overwrite" in again.err
    assert jaxlv(*asked, "--overwrite", "--out", out).code == 0
    whole = jaxlv("analyse", trained, "--samples", 2)
    assert whole.code == 2 and "held out the last steps of its series, and no whole series" in whole.err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    lost = jaxlv(*asked, "--overwrite", "--out", tmp_path / "mine")
    assert lost.code == 2 and "would be lost" in lost.err and (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
    longer = jaxlv(*asked, "--horizon", 5, "--out", tmp_path / "x")
    assert longer.code == 2 and "longer than what is held out" in longer.err


def test_origins_roll_over_steps_that_a_run_has_not_seen(table, trained, tmp_path):
    small = ["--samples", 2, "--unmasked-samples", 0]
    done = jaxlv("evaluate", trained, *small, "--out", tmp_path / "held")
    protocol = json.loads((tmp_path / "held" / "metrics.json").read_text())["protocol"]
    assert done.code == 0 and protocol["series"] == ["from 1924"]
    assert (protocol["horizon"], protocol["origins"], protocol["every"]) == (6, 1, 6)
    done = jaxlv("evaluate", trained, "--horizon", 2, "--origins", 4, *small, "--out", tmp_path / "rolled")
    protocol = json.loads((tmp_path / "rolled" / "metrics.json").read_text())["protocol"]
    assert (
        protocol["series"] == ["from 1924", "from 1926", "from 1928"]
        and "1 of 4 windows are left out" in done.err + done.out
    )
    unsaid = jaxlv("evaluate", "embedded", "--data", table, "--out", tmp_path / "x")
    assert unsaid.code == 2 and "how many steps ahead; expected --horizon" in unsaid.err
