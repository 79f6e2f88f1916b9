"""What the papers did wrong: each switch does it, by as much as the reference says, and is off by default."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from jaxlv.config import CodecConfig, DataConfig, RunConfig, WindowConfig, config_tree
from jaxlv.data import loading, series, splits
from jaxlv.published.systems import SYSTEMS
from jaxlv.runs import billing, run, sources, training, validation
from jaxlv.text.codec import Codec
from jaxlv.text.tokens import load_alphabet, make_windows
from tests.test_run import change, config  # noqa: F401


@pytest.fixture(scope="module")
def data(shared) -> series.SeriesSet:
    return loading.load(shared / "data" / "lotka_volterra_data.h5")


def fault(key: str):
    """A fault of that key, of whichever report has one."""
    return next(one for system in SYSTEMS.values() for one in system.faults if one.key == key)


def test_every_switch_is_off_by_default():
    tree = config_tree(RunConfig())
    for system in SYSTEMS.values():
        for one in system.faults:
            for dotted, value in one.settings.items():
                section, _, key = dotted.partition(".")
                assert tree[section][key] != value


@pytest.mark.parametrize(("length", "share"), [(128, 0.02), (512, 0.02), (768, 0.35)])
def test_padding_is_so_much_of_what_the_loss_counts(data, shared, length, share):
    """rai's validation share: 2, 2 and 35 % of all positions."""
    held = data.select(splits.REPORTED_SPLITS["rai"](data.ids_N).validation).values_NTV
    codec = Codec.for_data(CodecConfig(scale="rai"), data.values_NTV)
    settings = WindowConfig(length=length, stride=length, align="token", partial="pad")
    alphabet, counted = load_alphabet(shared / "qwen2.5-0.5b-instruct", 151_936), {}
    for pads in ("ignored", "counted"):
        windows = make_windows(held, codec, alphabet, replace(settings, pads=pads), length, (0, 0))
        counted[pads] = int((windows.labels_ML >= 0).sum())
    assert 1 - counted["ignored"] / counted["counted"] == pytest.approx(share, abs=0.006)


def test_means_over_examples_are_a_quarter(config):  # noqa: F811
    """Batches of four full windows: the sum of batch means by the number of windows."""
    settings = {"train": {"batch_size": 4, "validation_windows": 8, "forecast_series": 0}, "windows": {"partial": "drop"}}
    right = change(config, **settings, data={"fractions": (0.1, 0.8, 0.1)})
    wrong = change(right, train={"mean": "examples"})
    inputs = sources.load_inputs(right)
    losses = [validation.validated(one, inputs)["validation_loss"] for one in (wrong, right)]
    assert losses[0] == pytest.approx(losses[1] / 4, rel=1e-5)


def test_a_scale_that_sees_the_future_is_another(data):
    """rai's factor of the context alone is 0.84 to 1.62 times that of the whole series; what follows exceeds the 99.7th
    percentile of the context by up to 1.97 times.
    """
    codec = Codec(scale="rai")
    known = data.values_NTV[:, :50]
    changes = [codec.fit(c, v)[0] / codec.fit(c, c)[0] for c, v in zip(known, data.values_NTV, strict=True)]
    assert (min(changes), max(changes)) == pytest.approx((0.84, 1.62), abs=0.01)
    top_N = np.percentile(known.reshape(len(known), -1), 99.7, axis=1)
    assert (data.values_NTV[:, 50:].max(axis=(1, 2)) / top_N).max() == pytest.approx(1.97, abs=0.01)
    assert codec.rule.peeks_at and not Codec().rule.peeks_at


def test_one_lost_delimiter_shifts_the_rest_where_numbers_are_paired_by_position():
    text, alpha_V = "1.00,2.00;1.10;1.20,2.20;1.30,2.30;", np.ones(2)
    wrong = Codec(parsing="position").decode(text, alpha_V).values_TV
    right = Codec().decode(text, alpha_V).values_TV
    np.testing.assert_allclose(wrong[1:], [[1.10, 1.20], [2.20, 1.30]])  # prey and predator change places
    np.testing.assert_allclose(right, [[1.00, 2.00]])  # the step that lacks a number ends the sample
    fused = Codec(parsing="position").decode("1.00,2.00;1.101.20;1.30,2.30;", alpha_V).values_TV
    assert fused.max() > 2.3 or len(fused) < 3  # two numbers in one


def test_the_hidden_generation_defaults_are_qwens(shared):
    """They are in the model's own file, and are not used here unless they are asked for."""
    file = json.loads((shared / "qwen2.5-0.5b-instruct" / "generation_config.json").read_text())
    settings = fault("generation").settings
    assert settings["sampling.repetition_penalty"] == file["repetition_penalty"]
    assert settings["sampling.top_k"] == file["top_k"]


def test_one_step_more_costs_one_step_more():
    late = fault("steps").settings["train.steps"]
    event, model = billing.event_of(RunConfig()), sources.load_base(RunConfig())[1].config
    one = event.flops(model, "coursework")
    assert late == 10_001
    assert replace(event, count=late).flops(model, "coursework") - 10_000 * one == one


def test_a_tenth_of_the_data_is_a_tenth_of_the_training_series(config):  # noqa: F811
    whole = sources.load_inputs(config)
    part = sources.split_series(change(config, data={"train_share": 0.1}), whole.series)
    assert len(part.train) == max(1, round(0.1 * len(whole.split.train)))
    assert set(part.train) <= set(whole.split.train)
    np.testing.assert_array_equal(part.test, whole.split.test)


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_a_split_by_the_name_of_a_report_is_that_reports(data, name):
    settings = replace(RunConfig(), data=DataConfig(split=name))
    found, theirs = sources.split_series(settings, data), splits.REPORTED_SPLITS[name](data.ids_N)
    for own, reported in zip(found.parts().values(), theirs.parts().values(), strict=True):
        np.testing.assert_array_equal(own, reported)


def test_the_untrained_model_is_validated_as_a_run_of_no_effect_would_be(config, tmp_path):  # noqa: F811
    """B is zero before the first step: with a rate of nothing the overlay changes nothing."""
    still = change(config, optimizer={"learning_rate": 1e-30}, train={"steps": 1, "validate_every": 1})
    inputs = sources.load_inputs(still)
    training.train(still, tmp_path / "run", inputs)
    record = next(r for r in run.read_metrics(tmp_path / "run" / run.METRICS) if "validation_loss" in r)
    found = validation.validated(still, inputs)
    assert found["validation_loss"] == pytest.approx(record["validation_loss"], rel=1e-6)
    assert found["forecast_mae"] == pytest.approx(record["forecast_mae"], rel=1e-6)
