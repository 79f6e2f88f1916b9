"""Which of jaxlv's bases reads series under the name "embedded"."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from known import known

import jaxlv
from jaxlv import api
from jaxlv.config import DataConfig, LoraConfig, ModelSettings, RunConfig
from jaxlv.data.loading import load_series
from jaxlv.data.observations import Handling
from jaxlv.data.series import SeriesSet, from_arrays
from jaxlv.forecasting import evaluate as measures
from jaxlv.forecasting import familiar
from jaxlv.forecasting.familiar import nats_per_written_value
from jaxlv.forecasting.forecast import Forecast
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.sampler import Sampler
from jaxlv.lora import overlay
from jaxlv.lora.adapters import Origin, save_peft
from jaxlv.model.bases import EMBEDDED
from jaxlv.runs import sources
from jaxlv.studies import choice, evaluate, field, fitting, forecast, init, stress
from jaxlv.studies.choice import Choice
from jaxlv.studies.subjects import Asked, Bare, open_subject

EITHER = Choice(ModelSettings(path="embedded"))
CYCLES, FIELD = "embedded-cycles", "embedded-field"


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return api.open_model("embedded")


@pytest.fixture(scope="module")
def clean() -> SeriesSet:
    return jaxlv.simulate(series=3, steps=60, seed=1).ready().series


@pytest.fixture(scope="module")
def noisy(clean: SeriesSet) -> SeriesSet:
    noise_NTV = np.random.default_rng(0).standard_normal(clean.values_NTV.shape)
    return replace(clean, values_NTV=clean.values_NTV * np.exp(0.3 * noise_NTV))


def test_clean_cycles_and_noise_are_read_by_the_base_that_knows_them(sampler, clean, noisy):
    for series, name, other in ((clean, CYCLES, FIELD), (noisy, FIELD, CYCLES)):
        found = EITHER.reader(sampler, series, 50)
        assert found.name == name and found.nats_N is not None and found.nats_N.shape == (3,)
        assert f"read by {name}: a written value costs" in found.told and f"nats to {other}" not in found.told
        assert found.told.endswith(f" to {other}")
        alone = api.open_model(name)
        request = Request(50, 3, 2)
        np.testing.assert_array_equal(found.sampler(series, request).samples_NSHV, alone(series, request).samples_NSHV)


def test_a_base_that_alone_knows_so_many_variables_reads_them(sampler, clean):
    for V, told in ((1, "it alone has read series of 1 variable"), (5, "no base has read series of 5 variables")):
        series = jaxlv.load_series(np.resize(clean.values_NTV[0], (40, V)) + 0.1).ready().series
        found = EITHER.reader(sampler, series, 30)
        assert found.told == f"read by {FIELD}: {told}" and found.nats_N is None


def test_steps_that_tell_nothing_are_read_by_the_base_for_the_field(sampler, clean):
    found = EITHER.reader(sampler, clean.steps(0, 8), 6)
    assert found.told == f"read by {FIELD}: so few steps do not tell"


def test_the_typical_series_decides_and_only_the_first_are_judged(monkeypatch, sampler, clean):
    """One that is like nothing else changes nothing."""
    many = clean.rows(np.arange(20) % 3, np.arange(20))
    cost = {CYCLES: np.r_[[1.0] * 9, [99.0] * 7], FIELD: np.r_[[2.0] * 16]}

    def nats(one: Sampler, series: SeriesSet, context: int) -> np.ndarray:
        assert series.ids_N.tolist() == list(range(16)) and context == 50
        return cost[CYCLES if one.variables is sampler.variables else FIELD]

    monkeypatch.setattr(choice, "nats_per_written_value", nats)
    found = EITHER.reader(sampler, many, 50)
    assert found.told == f"read by {CYCLES}: a written value costs 1 nats, 2 to {FIELD}" and found.nats_N is None
    cost[CYCLES][0] = np.nan  # too short to tell, which the others are not
    assert EITHER.reader(sampler, many, 50).name == CYCLES
    cost[CYCLES][:9] = np.nan
    assert EITHER.reader(sampler, many, 50).name == FIELD


def test_what_is_to_be_forecast_has_no_say(sampler, clean, noisy):
    later_NTV = np.concatenate([clean.values_NTV[:, :40], noisy.values_NTV[:, 40:] * 9], axis=1)
    found = EITHER.reader(sampler, replace(clean, values_NTV=later_NTV), 40)
    assert found.name == CYCLES
    np.testing.assert_array_equal(found.nats_N, EITHER.reader(sampler, clean, 40).nats_N)


def test_values_that_were_filled_in_have_no_say(sampler, clean):
    """What stands in place of marked gaps is on straight lines here, which cost the base that is given them little."""
    noise_NTV = np.random.default_rng(0).standard_normal(clean.values_NTV.shape)
    gappy_NTV = clean.values_NTV * np.exp(noise_NTV)
    for first in range(8, 44, 9):
        gappy_NTV[:, first : first + 6] = np.nan
    marked = load_series(gappy_NTV).ready(Handling(missing="mark")).series
    found = EITHER.reader(sampler, marked, 50)
    assert found.name == FIELD and found.nats_N is not None
    lines = replace(marked, missing_NTV=None)
    cheap, fair = (np.median(nats_per_written_value(sampler, one, 50)) for one in (lines, marked))
    assert cheap < np.median(found.nats_N) < fair


def test_a_text_that_marks_its_gaps_has_no_values_there(monkeypatch, clean):
    """An empty step of two variables has one delimiter: places of values are those of texts without gaps alone."""
    monkeypatch.setattr(familiar, "known", lambda *given: pytest.fail("marked texts hold nothing that was filled in"))
    gappy_NTV = clean.values_NTV.copy()
    gappy_NTV[:, 20] = np.nan
    marked = load_series(gappy_NTV).ready(Handling(missing="mark")).series
    assert np.isfinite(nats_per_written_value(api.open_model(FIELD), marked, 50)).all()


def test_any_other_name_is_one_model(sampler, noisy):
    for other in (CYCLES, FIELD, "a/folder"):
        assert Choice(ModelSettings(path=other)).reader(sampler, noisy, 50) == choice.Reader(sampler)
    assert choice.ONE.reader(sampler, noisy, 50).told == ""


def test_sampling_and_the_form_of_texts_are_those_that_were_asked_for(sampler, noisy):
    own = replace(sampler.with_sampling(temperature=0.5), codec=replace(sampler.codec, headroom=0.3))
    found = EITHER.reader(own, noisy, 50).sampler
    assert found.sampling.temperature == 0.5 and found.codec.headroom == 0.3


def test_a_forecaster_says_which_base_made_its_forecast(clean, noisy):
    forecaster = jaxlv.Forecaster("embedded", progress=False)
    assert forecaster.predict(clean, 2, samples=2).base == CYCLES
    made = forecaster.predict(noisy, 2, samples=2)
    assert made.base == FIELD
    np.testing.assert_array_equal(made.samples, jaxlv.Forecaster(FIELD).predict(noisy, 2, samples=2).samples)
    assert jaxlv.Forecaster(FIELD).predict(noisy, 2, samples=2).base is None
    scores = forecaster.evaluate(noisy, 2, samples=2)
    assert scores.metrics.protocol.base == FIELD
    frame = jaxlv.forecast("embedded", noisy, 2, 2)
    assert frame.attrs == {"base": FIELD} and not jaxlv.forecast(FIELD, noisy, 2, 2).attrs
    assert frame.equals(jaxlv.forecast(FIELD, noisy, 2, 2)) and not frame.equals(jaxlv.forecast(CYCLES, noisy, 2, 2))


def test_either_base_is_opened_as_was_asked_for(monkeypatch):
    opened = []
    monkeypatch.setattr(sources, "open_base", opened.append)
    assert replace(EITHER, settings=ModelSettings(path="embedded", weights="int8"))._field is None
    assert opened == [ModelSettings(path=FIELD, weights="int8")]


def test_what_is_measured_and_drawn_is_what_the_base_that_is_told_says(monkeypatch):
    """The base that a name opens says 5; the one that knows the series better says 7."""

    def level(value: float) -> Any:
        return known(lambda sampling, count, samples, horizon: np.full((count, samples, horizon, 2), value))

    forecaster, series = jaxlv.Forecaster("embedded", progress=False), np.full((2, 12, 2), 7.0)
    forecaster.sampler = replace(level(5.0), model=forecaster.sampler.model)
    better = choice.Reader(replace(level(7.0), model=forecaster.sampler.model), "better", nats_N=np.zeros(2))
    monkeypatch.setattr(Choice, "reader", lambda *given: better)
    monkeypatch.setattr(measures, "likelihood_measures", lambda *given: {})
    scores = forecaster.evaluate(series, 2, samples=3, context=8)
    assert scores.metrics.rows[0].mae == 0 and scores.metrics.protocol.base == "better"
    made = forecaster.predict(series, 2, samples=3)
    assert (made.samples == 7).all() and made.base == "better"


def test_a_run_begins_from_the_base_that_knows_what_it_is_trained_on(clean, noisy):
    """The steps that are held out have no say."""
    both = {"clean": clean.values_NTV, "noisy": noisy.values_NTV}
    both["noisy at the end"] = np.concatenate([clean.values_NTV[:, :50], noisy.values_NTV[:, 50:] * 9], axis=1)
    said: list[str] = []
    paths = {
        name: fitting.fitted(load_series(values), holdout=10, say=said.append).model.path for name, values in both.items()
    }
    assert said[0].startswith("base: embedded: a written value costs ") and said[0].endswith(f" to {FIELD}")
    assert said[1].startswith(f"base: {FIELD}: a written value costs ") and said[1].endswith(f" to {CYCLES}")
    assert paths == {"clean": "embedded", "noisy": FIELD, "noisy at the end": "embedded"}
    named = fitting.fitted(load_series(both["noisy"]), CYCLES, holdout=10)
    assert named.model.path == CYCLES
    assert fitting.fitted(load_series(both["noisy"]), "embedded", holdout=10).model.path == FIELD


@pytest.fixture
def nothing_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samplers answer at once: what they draw is not looked at."""

    def drawn(self: Sampler, series: SeriesSet, request: Request, **how: Any) -> Forecast:
        samples_NSHV = np.ones((len(series), request.samples, request.horizon, len(series.variables)))
        return Forecast.of(series, request.start, samples_NSHV, {}, request.context)

    monkeypatch.setattr(Sampler, "__call__", drawn)
    monkeypatch.setattr(
        measures, "nats_per_value", lambda one, series, context, ahead, *rest: np.ones((len(series), ahead, 2))
    )


def test_series_that_are_not_trained_on_have_no_say(monkeypatch, clean, noisy):
    """The first series is one of the validation or the test, and looks like nothing that is trained on."""
    monkeypatch.setattr(fitting, "SHARES", (0.2, 0.4, 0.4))
    values_NTV = noisy.values_NTV[0] * np.linspace(1, 2, fitting.SEVERAL)[:, None, None]
    train = sources.split_series(RunConfig(data=DataConfig(fractions=fitting.SHARES)), from_arrays(values_NTV)).train
    assert 0 not in train
    values_NTV[train] = clean.values_NTV[0] * np.linspace(1, 2, len(train))[:, None, None]
    monkeypatch.setattr(choice, "JUDGED", 1)
    assert EITHER.reader(api.open_model("embedded"), from_arrays(values_NTV), 60).name == FIELD
    assert fitting.fitted(load_series(values_NTV)).model.path == "embedded"


def test_an_adapter_is_laid_over_the_base_that_it_was_made_for(tmp_path: Path, clean):
    lora = overlay.init_lora(jax.random.key(0), api.open_model(FIELD).variables["params"], LoraConfig(rank=2))
    lora = jax.tree.map(lambda leaf: leaf + 0.01, lora)
    for base, weight in ((FIELD, FIELD), ("embedded", CYCLES)):
        save_peft(tmp_path / base, lora, LoraConfig(rank=2), Origin(base))
        found = api.open_model("embedded", tmp_path / base)
        assert found.model.folder == str(EMBEDDED[weight])
        asked = Asked("embedded", jaxlv.load_series(clean), bare=Bare(adapter=tmp_path / base))
        assert open_subject(asked).bare["untuned"].model.folder == str(EMBEDDED[weight])


def test_every_study_tells_which_base_it_measured(tmp_path: Path, noisy, nothing_drawn):
    path, told = tmp_path / "noisy.csv", list[str]()
    load_series(noisy.values_NTV[:2, :40]).frame().to_csv(path, index=False)
    asked = Asked("embedded", path, protocol={"samples": 2, "horizon": 3})
    say: Any = {"say": told.append}
    forecast.forecast(asked, tmp_path / "forecast", **say)
    evaluate.evaluate(replace(asked, origins=1), tmp_path / "evaluate", **say)
    field.field([path], tmp_path / "field", asked, field.Windows(30, 3, 9, 2), **say)
    assert [line.split(":")[1] for line in told if line.startswith("model: ")] == [f" read by {FIELD}"] * 3
    stress.stress(replace(asked, protocol={**asked.protocol, "context": 30}), tmp_path / "stress", ["noise", "amplitude"])
    found = {name: json.loads((tmp_path / name).read_text()) for name in (
        "forecast/settings.json", "evaluate/metrics.json", "field/field.json", "stress/stress.json"
    )}  # fmt: skip
    assert found["forecast/settings.json"]["base"] == found["evaluate/metrics.json"]["protocol"]["base"] == FIELD
    assert found["field/field.json"]["records"]["noisy"]["base"] == FIELD
    assert {one["base"] for one in found["stress/stress.json"]["conditions"]} == {FIELD}


def test_each_condition_of_a_stress_test_is_read_by_the_base_that_knows_it(tmp_path: Path, clean, nothing_drawn):
    path = tmp_path / "clean.csv"
    load_series(clean.values_NTV).frame().to_csv(path, index=False)
    asked = Asked("embedded", path, protocol={"samples": 2, "horizon": 3, "context": 30})
    found = stress.stress(asked, tmp_path / "out", ["amplitude"])
    assert {one.base for one in found.conditions} == {CYCLES}
    adapted = replace(asked, subject=FIELD)
    assert stress.stress(adapted, tmp_path / "field", ["amplitude"]).conditions[0].base is None


def test_an_evaluation_with_fitted_bands_tells_its_base_too(tmp_path: Path, noisy, nothing_drawn):
    many_NTV = noisy.values_NTV[0, :40] * np.linspace(1, 2, 20)[:, None, None]
    asked = Asked("embedded", load_series(many_NTV), [0], protocol={"samples": 2, "horizon": 3, "context": 30})
    found = evaluate.evaluate(asked, tmp_path / "out", evaluate.Fit(conformal=True))
    assert found.metrics.protocol.base == FIELD and found.metrics.protocol.conformal is not None


def test_a_tuned_forecaster_has_nothing_to_choose(monkeypatch, tmp_path: Path, clean):
    """Otherwise the untuned base for the field would read what looks noisy."""
    forecaster = jaxlv.Forecaster("embedded", progress=False)
    monkeypatch.setattr("jaxlv.studies.train.train", lambda *given, **named: None)
    monkeypatch.setattr("jaxlv.runs.run.load_run", lambda folder: None)
    monkeypatch.setattr(api, "open_model", lambda *given, **named: forecaster.sampler)
    assert forecaster._choice.is_open
    assert not forecaster.fit(clean, holdout=10, out=tmp_path / "run")._choice.is_open


def test_whoever_prepares_a_training_is_told_its_base_and_what_is_left_out(monkeypatch, tmp_path, capsys, noisy):
    frame = load_series(noisy.values_NTV[:2]).frame()
    frame.columns = ["series", "step", "prey", "predator"]
    frame.loc[frame.series == 1, "predator"] = 0
    frame.to_csv(tmp_path / "noisy.csv", index=False)
    lines = init.write(tmp_path / "noisy.csv", tmp_path / "noisy.toml", init.Wanted()).lines
    assert any(line.startswith(f"base: {FIELD}: a written value costs ") for line in lines)
    assert "series 1 is left out of the training: predator is 0 throughout" in lines
    monkeypatch.setattr(sources, "load_inputs", lambda *given, **named: None)
    monkeypatch.setattr("jaxlv.studies.train.train", lambda *given, **named: 1 / 0)
    for progress in (True, False):
        with pytest.raises(ZeroDivisionError):
            jaxlv.Forecaster("embedded", progress=progress).fit(noisy.values_NTV, holdout=5, out=tmp_path / "run")
        assert (f"jaxlv: base: {FIELD}: a written value costs " in capsys.readouterr().err) == progress


def test_an_evaluation_tells_that_its_model_has_read_no_marks(nothing_drawn, tmp_path, clean):
    values_NTV = clean.values_NTV.copy()
    values_NTV[:, 7, 0] = np.nan
    said = {}
    for name in (CYCLES, FIELD):
        protocol = {"context": 20, "horizon": 2, "samples": 2, "unmasked_samples": 0}
        asked = Asked(name, load_series(values_NTV), protocol=protocol, handling=Handling("mark"))
        said[name] = list[str]()
        evaluate.evaluate(asked, tmp_path / name, say=said[name].append)
    note = "note: in the text, too, missing values are interpolated: the base that reads them has read no marks"
    assert note in said[CYCLES] and note not in said[FIELD]
