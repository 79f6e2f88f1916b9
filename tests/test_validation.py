"""What a run trains on and is validated on: marked series, of which each part sees its own, and losses added up by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from test_run import change, config  # noqa: F401 - `config` is a fixture

from jaxlv.config import RunConfig, TrainConfig
from jaxlv.data import series, splits
from jaxlv.data.series import SeriesSet, from_arrays
from jaxlv.errors import JaxlvError
from jaxlv.flops.ledger import Event, Ledger, Meter, Terms
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.sampler import Sampler
from jaxlv.lora import adapters, overlay
from jaxlv.model.config import ModelConfig
from jaxlv.runs import sources, training, validation
from jaxlv.runs.member import Job, Member, is_finite
from jaxlv.runs.sources import Inputs
from jaxlv.runs.validation import Texts, losses
from jaxlv.steps.stack import Stack
from jaxlv.text.codec import Codec
from jaxlv.text.tokens import IGNORED, NO_POSITION, Alphabet, Windows, load_alphabet, make_windows

STEPS = 24


def marked_series(count: int = 12) -> SeriesSet:
    """Series i is i + 1 throughout, in the written units of liu's rule: whoever reads its text knows which series it is."""
    values_N11 = 0.5 * (1.0 + np.arange(count))[:, None, None]
    return from_arrays(np.broadcast_to(values_N11, (count, STEPS, 2)))


@pytest.fixture(scope="module")
def marked(config, tmp_path_factory) -> RunConfig:  # noqa: F811
    """Twelve marked series: 6 for training, 3 for validation, 3 for the test."""
    path = tmp_path_factory.mktemp("data") / "marked.h5"
    series.save(path, marked_series())
    return change(config, data={"path": str(path)}, codec={"scale": "liu"})


def inputs_of(config: RunConfig, model: Any = None) -> Inputs:  # noqa: F811
    """Loads what a config names, without its base."""
    data = sources.load_series(config)
    alphabet = load_alphabet(Path("no tokenizer"), 32)
    codec = Codec.for_data(config.codec, data.values_NTV)
    return Inputs(data, sources.split_series(config, data), Path(), model, {}, alphabet, codec)


def ids_in(windows: Windows, alphabet: Alphabet) -> set[int]:
    """The series whose marks stand in some windows."""
    ids, positions = np.asarray(windows.ids_ML), np.asarray(windows.positions_ML)
    rows = zip(ids.reshape(-1, ids.shape[-1]), positions.reshape(-1, ids.shape[-1]), strict=True)
    texts = [alphabet.decode(ids_L[positions_L != NO_POSITION]) for ids_L, positions_L in rows]
    numbers = {float(number) for text in texts for step in text.split(";")[1:-1] for number in step.split(",")}
    return {round(number) - 1 for number in numbers}


# -------------------------------------------------------------------------------------------- who sees which series


def test_each_part_of_a_split_is_read_by_its_own_and_no_other(marked):
    inputs = inputs_of(marked)
    texts, split = Texts(marked, inputs), inputs.split
    read = set().union(*(ids_in(texts.batches(step), inputs.alphabet) for step in range(40)))
    assert read == set(split.train.tolist())
    whole = Texts(change(marked, train={"validation_windows": 1000}), inputs)
    assert ids_in(whole.validation_windows, inputs.alphabet) == set(split.validation.tolist())


def test_nothing_but_its_own_series_reaches_the_model_in_a_run(marked, tmp_path, monkeypatch):
    """A run trains; what is given to its train step, its validation step and its forecaster is read."""
    reached: dict[str, set[int]] = {"training": set(), "validation": set(), "forecast": set()}
    steps, of_losses, forecast = training.steps, validation.losses, Sampler.__call__
    inputs = sources.load_inputs(marked)

    def watched_steps(step, state, frozen, batches, last):
        def seen(number: int) -> Windows:
            reached["training"] |= ids_in(batches(number), inputs.alphabet)
            return batches(number)

        return steps(step, state, frozen, seen, last)

    def watched_losses(step, trained, frozen, windows, t):
        reached["validation"] |= ids_in(windows, inputs.alphabet)
        return of_losses(step, trained, frozen, windows, t)

    def watched_forecast(self, chosen, *arguments, **more):
        reached["forecast"] |= {round(2 * value) - 1 for value in chosen.values_NTV[:, 0, 0]}
        return forecast(self, chosen, *arguments, **more)

    monkeypatch.setattr(training, "steps", watched_steps)
    monkeypatch.setattr(validation, "losses", watched_losses)
    monkeypatch.setattr(Sampler, "__call__", watched_forecast)
    settings = {"select": "forecast", "forecast_series": 2, "validation_windows": 100}
    training.train(change(marked, train=settings), tmp_path / "run", inputs)
    split = inputs.split
    assert reached["training"] and reached["training"] <= set(split.train.tolist())
    assert reached["validation"] == set(split.validation.tolist())
    assert reached["forecast"] == set(split.validation[:2].tolist())


def test_windows_of_a_validation_do_not_overlap_and_are_spread_evenly(marked):
    inputs = inputs_of(marked)
    values_NTV = inputs.series.select(inputs.split.validation).values_NTV
    every = make_windows(values_NTV, inputs.codec, inputs.alphabet, marked.windows, marked.windows.length)
    assert every.number == 13
    for most, rows in ((1000, range(13)), (3, (0, 6, 12)), (2, (0, 12))):
        found = Texts(change(marked, train={"validation_windows": most}), inputs).validation_windows
        for ours, theirs in zip(found, every.rows(list(rows)), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_windows_and_their_order_follow_the_seed_and_the_epoch(config):  # noqa: F811
    """Under the rule `context` each epoch cuts its windows anew, and no epoch as the validation does."""
    inputs = inputs_of(config)
    texts = Texts(config, inputs)
    batches, size = texts.batches, config.train.batch_size
    steps = batches.per_epoch // size
    first, second = ([batches(epoch * steps + step).ids_ML for step in range(steps)] for epoch in (0, 1))
    rows = [np.sort(np.concatenate(of).reshape(-1, config.windows.length), axis=0) for of in (first, second)]
    assert not np.array_equal(*rows)  # not the same windows in another order
    again = Texts(config, inputs).batches
    np.testing.assert_array_equal(again(0).ids_ML, first[0])
    other = Texts(change(config, train={"seed": 1}), inputs)
    fixed = replace(config, codec=replace(config.codec, scale="liu"))  # whose windows are the same for every seed
    orders = [Texts(change(fixed, train={"seed": seed}), inputs_of(fixed)).batches for seed in (0, 1)]
    assert not all(np.array_equal(*(order(step).ids_ML for order in orders)) for step in range(3))
    assert not np.array_equal(other.validation_windows.ids_ML, texts.validation_windows.ids_ML)
    values_NTV = inputs.series.select(inputs.split.validation).values_NTV
    as_epoch = texts._windows(values_NTV, (config.train.seed, 0), config.windows.length)
    as_validation = texts._windows(values_NTV, (config.train.seed, validation.VALIDATION_SEED), config.windows.length)
    whole = Texts(change(config, train={"validation_windows": 1000}), inputs).validation_windows
    np.testing.assert_array_equal(whole.ids_ML, as_validation.ids_ML)
    assert not np.array_equal(as_epoch.ids_ML, as_validation.ids_ML)


def test_a_step_has_as_many_windows_as_its_micro_batches(config):  # noqa: F811
    batches = Texts(change(config, train={"batch_size": 2, "accumulate": 3}), inputs_of(config)).batches
    assert batches(0).ids_ML.shape == (3, 2, config.windows.length)


# ------------------------------------------------------------------------------------------------- losses by hand


def five_windows() -> Windows:
    """Five windows of 1 to 5 labels: that of window i costs 10 i + 1 nats a token."""
    labels_ML = np.full((5, 6), IGNORED)
    for row in range(5):
        labels_ML[row, : row + 1] = 10 * row + 1
    return Windows(labels_ML.copy(), np.zeros_like(labels_ML), labels_ML)


def adding(trained: Any, frozen: Any, batch: Windows) -> tuple[float, float]:
    """A validation step whose token loss is the label."""
    held = batch.labels_ML != IGNORED
    return float(batch.labels_ML[held].sum()), float(held.sum())


@pytest.mark.parametrize(
    ("mean", "expected"),
    [
        ("tokens", (1 * 1 + 2 * 11 + 3 * 21 + 4 * 31 + 5 * 41) / 15),
        ("examples", ((1 * 1 + 2 * 11) / 3 + (3 * 21 + 4 * 31) / 7 + 41) / 5),  # batches of 2, 2 and 1 over 5 windows
    ],
)
def test_a_validation_loss_counts_each_window_once_and_no_filling(mean, expected):
    windows = five_windows()
    found = losses(adding, None, None, windows, TrainConfig(batch_size=2, mean=mean))
    assert found["validation_loss"] == pytest.approx(expected, rel=1e-12)
    assert found["validation_perplexity"] == pytest.approx(math.exp(expected), rel=1e-12)
    np.testing.assert_array_equal(windows.labels_ML, five_windows().labels_ML)


def test_batches_of_a_validation_have_one_size():
    sizes = []
    losses(lambda trained, frozen, batch: (sizes.append(batch.number), adding(None, None, batch))[1], None, None,
           five_windows(), TrainConfig(batch_size=2))  # fmt: skip
    assert sizes == [2, 2, 2]


def test_the_loss_is_over_the_alphabet_only_if_the_config_says_so(config):  # noqa: F811
    inputs = inputs_of(config)
    assert validation.alphabet_of(config, inputs) is None
    restricted = change(config, model={"loss": "alphabet"})
    assert validation.alphabet_of(restricted, inputs) == tuple(inputs.alphabet.ids_A.tolist())


# --------------------------------------------------------------------------------------- forecasts of a validation


class Offset:
    """A forecaster that is off by 0.25 at every step, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def with_sampling(self, **changes: Any) -> Offset:
        self.asked |= changes
        return self

    def __call__(self, chosen: SeriesSet, request: Request) -> Offset:
        self.asked |= {"ids": chosen.ids_N.tolist(), "request": request}
        self.truth_NHV = chosen.values_NTV[:, request.context : request.context + request.horizon]
        return self

    def median(self) -> np.ndarray:
        return self.truth_NHV + 0.25


@pytest.mark.parametrize(
    ("train", "context", "horizon"),
    [
        ({}, 6, 2),  # the evaluation's
        ({"forecast_context": 10}, 10, 2),
        ({"forecast_horizon": 5}, 6, 5),
        ({"forecast_context": 20, "forecast_horizon": 9}, 20, 4),  # the series end
    ],
    ids=str,
)
def test_forecasts_of_a_validation_are_greedy_and_of_its_first_series(train, context, horizon, config, monkeypatch):  # noqa: F811
    chosen = change(config, train={"forecast_series": 2, **train})
    inputs, forecaster = inputs_of(chosen), Offset()
    monkeypatch.setattr(Inputs, "forecaster", lambda *_: forecaster)
    assert validation.forecast_error(chosen, inputs, {}, None) == pytest.approx(0.25, rel=1e-9)
    ids = inputs.split.validation[:2].tolist()
    assert forecaster.asked == {"temperature": 0.0, "ids": ids, "request": Request(context, horizon, 1, batch=2)}


def test_a_validation_is_billed_by_its_batches_with_a_short_last_one(config, tmp_path, monkeypatch):  # noqa: F811
    """Three windows in batches of two are two batches, whatever a train step accumulates."""
    model = ModelConfig(32, 16, 16, 1, 2, 1, 8, tie_word_embeddings=True)
    monkeypatch.setattr(validation, "_validation_step", lambda *_: adding)
    monkeypatch.setattr(Inputs, "forecaster", lambda *_: Offset())
    template = Event("train_step", 2, 64, accumulate=4)
    with Ledger(tmp_path / "ledger.jsonl", Terms(10**12, "exact", model)) as ledger:
        meter = Meter(ledger, "final", template)
        validation.measured(Texts(config, inputs_of(config)), None, {"params": {}, "lora": {}}, meter)
        assert [(e.event.kind, e.event.count, e.event.accumulate) for e in ledger.entries] == [("validation", 2, 1)]
        assert all(entry.committed for entry in ledger.entries)


# ----------------------------------------------------------------------------------------------- which state is best


def marks(config: RunConfig, select: str, tmp_path: Path, records: list[tuple[float, float]]) -> list[bool]:  # noqa: F811
    """Whether each of some validations (loss, error of forecasts) is marked as the best so far."""
    member = Member(Job(change(config, train={"select": select}), tmp_path, None), print)  # type: ignore[arg-type]
    return [member.mark(step, {"validation_loss": loss, "forecast_mae": mae}) for step, (loss, mae) in enumerate(records, 1)]


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("loss", [False, True, False, True, False]),  # NaN; the first number; equal; less; more
        ("forecast", [True, False, True, False, False]),
    ],
)
def test_the_best_state_is_of_the_least_figure_that_the_config_selects(select, expected, config, tmp_path):  # noqa: F811
    records = [(math.nan, 3.0), (2.0, 4.0), (2.0, 1.0), (1.0, 2.0), (3.0, 1.0)]
    assert marks(config, select, tmp_path, records) == expected


@pytest.mark.parametrize("figures", [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_a_step_is_finite_if_its_loss_and_its_gradient_are(figures):
    assert is_finite({"loss": 1.0, "gradient_norm": 2.0})
    assert not is_finite(dict(zip(("loss", "gradient_norm"), figures, strict=True)))


# ---------------------------------------------------------------------------------------------------------- the split


def split_of(config: RunConfig, **data: Any) -> splits.Split:  # noqa: F811
    chosen = change(config, data=data)
    return sources.split_series(chosen, sources.load_series(chosen))


def test_a_split_follows_its_seed_and_its_shares(config):  # noqa: F811
    ids = np.arange(12)
    for seed in (42, 7):
        expected = splits.split_fraction(ids, (0.5, 0.25, 0.25), seed)
        for ours, theirs in zip(split_of(config, seed=seed).parts().values(), expected.parts().values(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert split_of(config, seed=42).train.tolist() != split_of(config, seed=7).train.tolist()
    assert [len(part) for part in split_of(config, fractions=(0.25, 0.25, 0.5)).parts().values()] == [3, 3, 6]


def test_a_split_by_regimes_follows_its_seed(config, tmp_path):  # noqa: F811
    """Whole parts of each regime; which of its series they are depends on the seed."""
    values_NTV = 1.0 + np.random.default_rng(0).uniform(0, 1, (12, STEPS, 2))
    values_NTV[6:, -20:] = values_NTV[6:, -21:-20]  # at rest
    series.save(tmp_path / "regimes.h5", from_arrays(values_NTV))
    shares = {"path": str(tmp_path / "regimes.h5"), "stratify": True, "fractions": (0.5, 0.25, 0.25)}
    found = [split_of(config, **shares, seed=seed) for seed in (1, 2)]
    for split in found:
        assert abs((split.train < 6).sum() - 3) <= 1 and abs((split.train >= 6).sum() - 3) <= 1
    assert set(found[0].train.tolist()) != set(found[1].train.tolist())
    assert set(split_of(config, **{**shares, "stratify": False}, seed=1).train.tolist()) == set(
        splits.split_fraction(np.arange(12), (0.5, 0.25, 0.25), 1).train.tolist()
    )


@pytest.mark.parametrize(("share", "count"), [(1.0, 6), (0.6, 4), (0.45, 3), (0.25, 2), (0.3, 2), (0.01, 1)])
def test_a_share_of_the_training_series_is_rounded_and_takes_the_first(share, count, config):  # noqa: F811
    """For six series 3.6, 2.7, 1.5 and 1.8 are rounded to the nearest whole number (1.5 to the even one), never to 0."""
    whole, part = split_of(config), split_of(config, train_share=share)
    assert part.train.tolist() == whole.train[:count].tolist()
    assert part.validation.tolist() == whole.validation.tolist() and part.test.tolist() == whole.test.tolist()


def test_equal_series_in_two_parts_of_a_split_are_refused(config, tmp_path):  # noqa: F811
    values_NTV = np.random.default_rng(0).uniform(1, 2, (12, STEPS, 2))
    split = splits.split_fraction(np.arange(12), (0.5, 0.25, 0.25), config.data.seed)
    values_NTV[split.test[0]] = values_NTV[split.train[0]]
    series.save(tmp_path / "twice.h5", from_arrays(values_NTV))
    with pytest.raises(JaxlvError, match="has the same values as series"):
        split_of(config, path=str(tmp_path / "twice.h5"))


def test_the_factor_of_a_data_set_is_that_of_all_its_series(config):  # noqa: F811
    mao = change(config, codec={"scale": "mao"})
    inputs = sources.load_inputs(mao)
    assert inputs.codec.dataset_alpha == pytest.approx(np.percentile(inputs.series.values_NTV, 99.7) / 10)


def test_a_run_begins_from_the_adapter_that_its_config_names(config, random_lora, tmp_path):  # noqa: F811
    fresh = sources.load_inputs(config)
    assert fresh.start is None
    lora = random_lora(fresh.params, rank=config.lora.rank, targets=config.lora.targets)
    adapters.save_peft(tmp_path / "adapter", lora, config.lora, adapters.Origin(config.model.path))
    inputs = sources.load_inputs(change(config, lora={"init": str(tmp_path / "adapter")}))
    jax.tree.map(np.testing.assert_array_equal, inputs.start, lora)
    stack = Stack(inputs.model, inputs.params, [config], starts=[inputs.start])
    jax.tree.map(
        np.testing.assert_array_equal, overlay.join(stack.member(stack.state, 0).trained, stack.frozen)["lora"], lora
    )
    unlike = change(config, lora={"init": str(tmp_path / "adapter"), "rank": 2})
    with pytest.raises(JaxlvError, match=r"lora\.rank is not the adapter's"):
        sources.load_inputs(unlike)
