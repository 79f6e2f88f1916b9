"""What studies ask of a model, and what they tell of it, by models whose samples are known: nothing is computed."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from known import Known, known

from jaxlv.config import DataConfig, RunConfig
from jaxlv.data.loading import load_series
from jaxlv.data.observations import Observations
from jaxlv.forecasting import evaluate as measures
from jaxlv.forecasting import pool
from jaxlv.report.page import Page
from jaxlv.results.stress import AboveTop
from jaxlv.runs import run, sources
from jaxlv.studies import evaluate, forecast, stress
from jaxlv.studies.evaluate import Fit
from jaxlv.studies.forecast import Ahead
from jaxlv.studies.subjects import Asked, Subject

NAN = float("nan")


def owls(steps: int, *ids: Any, first: float = 1.0) -> Observations:
    """Series of one variable, 1 + n, 2 + n, ... of the n-th id, counted by years."""
    frames = [
        pd.DataFrame({"site": one, "year": range(1900, 1900 + steps), "owls": np.arange(steps) + first + n})
        for n, one in enumerate(ids)
    ]
    return load_series(pd.concat(frames))


def of_room(model: Known, positions: int = 4096) -> Known:
    """The model with so many positions."""
    return replace(model, model=SimpleNamespace(config=SimpleNamespace(max_position_embeddings=positions)))


def level(value: float, *others: float) -> Any:
    """Samples that are all at one value, or in turn at several, whatever is forecast; of one variable."""

    def draw(sampling: Any, count: int, samples: int, horizon: int) -> np.ndarray:
        values_S = np.resize([value, *others], samples)
        return np.broadcast_to(values_S[None, :, None, None], (count, samples, horizon, 1)).copy()

    return draw


def opened(monkeypatch: pytest.MonkeyPatch, module: Any, models: dict[str, Any], found: Observations, **more: Any) -> None:
    """Lets a study open these models on these series."""
    config = more.pop("config", RunConfig())
    subject = Subject("known", more.pop("run", None), config, found, models)
    monkeypatch.setattr(module, "open_subject", lambda asked, *say: replace(subject, handling=asked.handling))


# ------------------------------------------------------------------------------------------------------ forecast


@pytest.fixture(scope="module")
def ahead(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A forecast of the last three of twelve steps of two series, beside one that is too short; room for seven steps."""
    found = owls(12, 4, 9)
    values = [found.values[0].copy(), found.values[1].copy(), found.values[0][:4]]
    values[1][-1] = NAN
    found = replace(found, ids=(4, 9, 2), values=tuple(values), clock=owls(12, 4, 9, 2).clock)
    models = {"untuned": of_room(known(level(1000.0))), "tuned": of_room(known(level(13.0)), 50)}
    told, out = list[str](), tmp_path_factory.mktemp("ahead") / "out"
    asked = Asked("known", found, protocol={"samples": 4, "seed": 9}, sampling={"temperature": 0.6})
    with pytest.MonkeyPatch.context() as patch:
        opened(patch, forecast, models, found)
        done = forecast.forecast(asked, out, Ahead(holdout=3, method="calibrated"), say=told.append)
    return SimpleNamespace(models=models, done=done, told=told, out=out)


def test_a_forecast_tells_how_it_was_made(ahead):
    settings = ahead.done.settings
    found = (settings.context, settings.horizon, settings.samples, settings.seed, settings.holdout, settings.reach)
    assert found == (7, 3, 4, 9, 3, None) and settings.series == (4, 9) and settings.method == "calibrated"
    assert settings.sampling["temperature"] == 0.6 and settings.codec.decimals == 2
    assert json.loads((ahead.out / forecast.SETTINGS).read_text()) == settings.tree()


def test_the_tuned_model_is_asked_for_the_steps_behind_its_context(ahead):
    assert not ahead.models["untuned"].asked
    one, _ = ahead.models["tuned"].asked  # the second time from steps within the contexts
    assert (one.request.context, one.request.horizon, one.request.samples, one.request.seed) == (7, 3, 4, 9)
    np.testing.assert_array_equal(one.series.values_NTV[:, :7, 0], [np.arange(3, 10), np.arange(4, 11)])
    assert one.sampling.temperature == 0.6


def test_the_error_is_of_the_values_that_are_known_and_what_is_left_out_is_told(ahead):
    """13 for 10, 11 and 12 of the one series; for 11 and 12 of the other, whose last value is missing."""
    assert ahead.done.settings.mae == pytest.approx(np.mean([3, 2, 1, 2, 1]))
    notes = [line for line in ahead.told if line.startswith("note: ")]
    assert "note: the last 7 of 9 steps are the context: the model has read no longer texts" in notes
    assert any(line.startswith("note: series 2 have no more than 4 steps") for line in notes)
    assert ahead.done.figures == ["series_4.png", "series_9.png"]


def test_fewer_steps_than_are_held_out_may_be_forecast(monkeypatch, tmp_path):
    model = of_room(known(level(11.0)))
    opened(monkeypatch, forecast, {"untuned": model}, owls(12, "a"))
    asked = Asked("known", owls(12, "a"), protocol={"samples": 2, "horizon": 3})
    for horizon in (2, 3):
        one = replace(asked, protocol={"samples": 2, "horizon": horizon})
        found = forecast.forecast(one, tmp_path / str(horizon), Ahead(holdout=3)).settings
        assert (found.context, found.horizon, found.mae) == (9, horizon, np.mean([1, 0, 1][:horizon]))
        assert model.asked[-1].series.values_NTV.shape[1] == 12


# ------------------------------------------------------------------------------------------------------ evaluate

TEN = RunConfig(data=DataConfig(fractions=(0.4, 0.4, 0.2)))


@pytest.fixture
def nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """No likelihoods, no baselines, and a pool of one's own."""
    monkeypatch.setattr(measures, "likelihood_measures", lambda *given: {})
    monkeypatch.setattr(measures, "in_turn", lambda baselines: [])
    pooled = lambda model, made, series, request: pool.Pooled(made.filled() + 1, made.filled(), {})  # noqa: E731
    monkeypatch.setattr(measures, "pool_of", pooled)


def warm(best: float) -> Any:
    """Samples about 9, the truth, the nearer the closer the temperature is to the best one."""

    def draw(sampling: Any, count: int, samples: int, horizon: int) -> np.ndarray:
        off = abs(sampling.temperature - best)
        spread_S = np.resize([-1.0, 0.5, 2.0], samples) * (0.1 + off)
        return np.broadcast_to(9 + spread_S[None, :, None, None], (count, samples, horizon, 1)).copy()

    return draw


def test_temperatures_and_bands_are_settled_apart_from_each_other_and_from_what_is_measured(
    monkeypatch, tmp_path, nothing_else
):
    """Of four validation series one is measured, one is for the temperature, one for the bands; one is more than asked."""
    found = load_series(9 + np.arange(10)[:, None, None] / 100 + np.arange(8)[:, None] / 500)
    series = found.ready().series
    split = sources.split_series(TEN, series)
    validation, test = split.validation.tolist(), split.test.tolist()
    assert len(validation) == 4
    measured = [validation[1], test[0]]
    left = [one for one in series.select(validation).ids_N.tolist() if one != validation[1]]
    models = {"tuned": known(warm(0.5)), "untuned": known(warm(1.0))}
    opened(monkeypatch, evaluate, models, found, config=TEN)
    protocol = {"context": 5, "horizon": 2, "samples": 3, "unmasked_samples": 0}
    asked = Asked("known", found, measured, protocol=protocol, pooled=True)
    result = evaluate.evaluate(asked, tmp_path / "out", Fit((0.5, 1.0, 1.5), True, 1)).metrics
    told, bands = result.protocol.temperature_chosen_on, result.protocol.conformal
    assert result.protocol.series == tuple(measured) and told and bands
    assert told.validation == (left[0],) and bands.validation == (left[1],)
    assert told.chosen == {"tuned": 0.5, "untuned": 1.0} and set(told.crps["tuned"]) == {"0.5", "1", "1.5"}
    rows = {row.name: row for row in result.rows}
    assert [rows[name].temperature for name in ("tuned", "untuned")] == [0.5, 1.0] and list(rows)[2:] == ["pool"]
    assert {one.sampling.temperature for one in models["tuned"].asked[-1:]} == {0.5}
    assert bands.levels_with_too_few_series == (80, 95) and set(bands.mean_factor["tuned"]) == {"50"}
    fitted = measures.fit_conformal(
        models["tuned"].with_sampling(temperature=0.5), series.select(list(bands.validation)),
        replace(TEN.evaluate, **protocol),
    )  # fmt: skip
    assert bands.mean_factor["tuned"]["50"] == pytest.approx(fitted.factors[50].mean())


def test_half_of_the_validation_series_serve_either_purpose_and_all_one_alone():
    series = load_series(np.full((5, 8, 1), 9.0)).ready().series
    config = replace(TEN.evaluate, context=5, horizon=2, samples=3)
    found = evaluate.fit_on_validation({"untuned": known(warm(0.5))}, series, config, Fit((0.5, 1.0), True))
    assert found.temperature and found.temperature.validation == (0, 1)
    assert found.conformal and found.conformal.validation == (2, 3, 4)
    alone = evaluate.fit_on_validation({"untuned": known(warm(0.5))}, series, config, Fit(conformal=True))
    assert alone.conformal and alone.conformal.validation == (0, 1, 2, 3, 4) and alone.temperature is None


def test_a_series_that_is_measured_or_a_test_series_under_any_id_is_kept_from_validation(monkeypatch, tmp_path):
    """Series 0, 1 and 2 are for validation; the last series of all is a copy of 1, and series 2 is measured."""
    own = load_series(np.array([3.0, 4, 5, 6, 4])[:, None, None] + np.zeros((5, 6, 1))).ready().series
    marks = run.series_marks(own)
    split = {"validation": dict(zip("012", marks, strict=False)), "test": dict(zip("34", marks[3:], strict=True))}
    finished: Any = SimpleNamespace(folder=tmp_path, split=split)
    monkeypatch.setattr(sources, "load_series", lambda config, folder: own)
    subject = Subject("run", finished, RunConfig(), own)
    assert evaluate.validation_series(subject, own.select([2])).ids_N.tolist() == [0]


def test_series_are_forecast_from_their_last_steps_if_that_is_asked_for_or_nothing_else_fits():
    own, usual = owls(12, "a"), replace(RunConfig().evaluate, context=8, horizon=4)
    held = RunConfig(data=DataConfig(holdout=3))
    finished: Any = SimpleNamespace(config=held)
    of_run, bare = Subject("run", finished, held, own), Subject("bare", None, RunConfig(), own)
    for subject, asked, longer, rolls in (
        (of_run, Asked("run"), 0, True),
        (of_run, Asked("run", own), 0, False),
        (of_run, Asked("run", protocol={"context": 5}), 0, False),
        (of_run, Asked("run", own, origins=1), 0, True),
        (replace(of_run, config=RunConfig()), Asked("run"), 0, False),
        (bare, Asked("bare", own), 0, False),
        (bare, Asked("bare", own), 1, True),
        (bare, Asked("bare"), 1, False),
    ):
        assert evaluate._rolls(subject, asked, replace(usual, horizon=4 + longer)) is rolls


def test_steps_between_origins_are_told_and_the_series_are_those_picked(monkeypatch, tmp_path, nothing_else):
    """Errors of 5, 1, 4, 3 and 2: the least, the middle one and the greatest are drawn."""
    found = load_series(np.full((5, 9, 1), 9.0) + np.array([5.0, 1, 4, 3, 2])[:, None, None])
    opened(monkeypatch, evaluate, {"untuned": known(level(9.0))}, found)
    shown: list[Any] = []
    monkeypatch.setattr(evaluate, "page_of_evaluation", lambda one, title: shown.append(one) or Page(title, "", (), []))
    protocol = {"context": 6, "horizon": 2, "samples": 2, "unmasked_samples": 0}
    evaluate.evaluate(Asked("known", found, protocol=protocol), tmp_path / "out")
    assert [panel.series_id for panel in shown[0].panels] == [0, 1, 3]
    opened(monkeypatch, evaluate, {"untuned": of_room(known(level(9.0)))}, found)
    asked = Asked("known", found, protocol={**protocol, "context": 5}, origins=2, every=1)
    told = evaluate.evaluate(asked, tmp_path / "rolled").metrics.protocol
    assert (told.origins, told.every, told.horizon, told.context, told.count) == (2, 1, 2, 5, 10)


# -------------------------------------------------------------------------------------------------------- stress


def test_a_stress_test_is_of_the_series_samples_and_conditions_that_were_asked_for(monkeypatch, tmp_path):
    """The contexts' maxima are 5 and 6, so the tops of the scale are 10 and 12: of the truth, 4, 20, 5 and 21, half lies
    above, of samples at 3, 10 and 30 a third.
    """
    values = np.arange(1.0, 6)[None, :, None] + np.arange(4.0)[:, None, None]
    values = np.concatenate([values, values[:, :1] + 3, values[:, :1] + 19], axis=1)
    found, model = load_series(values), known(level(3.0, 10.0, 30.0))
    finished: Any = SimpleNamespace(
        config=RunConfig(), folder=tmp_path, tuned=model, seen=lambda series: series.ids_N[:1],
        metered=lambda purpose: contextlib.nullcontext({"tuned": model}),
    )  # fmt: skip
    opened(monkeypatch, stress, {}, found, run=finished)
    pooled = lambda model, made, series, request: pool.Pooled(made.filled() * 2, made.filled(), {})  # noqa: E731
    monkeypatch.setattr(stress, "pool_of", pooled)
    monkeypatch.setattr(
        stress, "baselines_for", lambda series: {"last value": lambda context, H: context[:, -1:].repeat(H, 1)}
    )
    asked = Asked("run", found, [0, 1, 2], 2, protocol={"context": 5, "horizon": 2, "samples": 3, "seed": 4}, pooled=True)
    result = stress.stress(asked, tmp_path / "out", ["amplitude", "noise"])
    assert result.seen_in_training == (0,) and len(result.conditions) == 8
    plain, larger, *_ = (one for one in result.conditions if one.group == "amplitude")
    assert (plain.series, plain.samples, plain.context, plain.horizon) == ((0, 1), 3, 5, 2)
    assert (plain.value, larger.value, larger.level) == (1, 1.5, "x 1.5")
    tuned, own, last = plain.rows
    assert tuned.above_top == AboveTop(0.5, 1 / 3) and (own.name, last.name) == ("pool", "last value")
    assert tuned.mae == pytest.approx(np.mean([6, 10, 5, 11])) and own.mae == pytest.approx(np.mean([16, 0, 15, 1]))
    assert last.mae == pytest.approx(np.mean([1, 15, 1, 15]))
    assert larger.rows[2].mae == pytest.approx(1.5 * last.mae)
    assert {(one.request.samples, one.request.seed, len(one.series)) for one in model.asked} == {(3, 4, 2)}
