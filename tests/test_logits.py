"""Costs of single tokens against the full logits, and padding that changes nothing unless positions are wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlv.analysis import logits
from jaxlv.config import SamplingConfig
from jaxlv.flops.ledger import Event, Ledger, Meter, Terms, read, verify
from jaxlv.forecasting.metrics import bootstrap_interval
from jaxlv.forecasting.sampler import Sampler
from jaxlv.model.weights import load_pretrained
from jaxlv.text.codec import Codec
from jaxlv.text.tokens import load_alphabet

CONTEXT = 8


@pytest.fixture(scope="module")
def forecaster(tiny_base, random_lora) -> Sampler:
    model, params = load_pretrained(tiny_base)
    variables = {"params": params, "lora": random_lora(params, rank=2)}
    return Sampler(model, variables, load_alphabet(tiny_base, 32), Codec(), SamplingConfig())


@pytest.fixture(scope="module")
def series(waves):
    """The last one has two digits before the point behind its context."""
    drawn = waves(3, 16)
    drawn.values_NTV[2, CONTEXT:] *= 3
    return drawn


@pytest.fixture(scope="module")
def expected(forecaster, series) -> list[tuple[int, int, str, float, float]]:
    """(series, time step, symbol, nats over the vocabulary, nats over the symbols) of every token but each first."""
    found, alphabet, apply = [], forecaster.alphabet, jax.jit(forecaster.model.apply)
    for n, (values_TV, alpha_V) in enumerate(zip(series.values_NTV, forecaster.scales(series, CONTEXT), strict=True)):
        text = forecaster.codec.encode(values_TV, alpha_V)
        ids = alphabet.encode(text)
        weights_TV = np.exp(np.asarray(apply(forecaster.variables, ids[None])[0], float))
        for place in range(1, len(text)):
            weight_V = weights_TV[place - 1]
            odds = [weight_V[ids[place]] / total for total in (weight_V.sum(), weight_V[alphabet.ids_A].sum())]
            found.append((n, text[:place].count(";"), text[place], -np.log(odds[0]), -np.log(odds[1])))
    return found


def test_kinds_of_characters():
    first, second = "first decimal", "second decimal"
    whole = "digit before the point"
    assert logits.token_kinds("1.20,10.31;0") == [
        whole, "point", first, second, "comma", whole, whole, "point", first, second, "semicolon", whole,
    ]  # fmt: skip
    assert logits.token_kinds("0.123456;")[-2] == "sixth decimal"


@pytest.fixture(scope="module")
def costs(forecaster, series) -> dict:
    return json.loads(json.dumps(logits.token_costs(forecaster, series, CONTEXT, 2).tree(), allow_nan=False))


def test_costs_are_those_of_the_full_logits(expected, costs):
    vocabulary, symbols = (np.array([row[column] for row in expected]) for column in (3, 4))
    assert costs["tokens"] == len(expected)
    assert costs["vocabulary"]["nats"] == pytest.approx(vocabulary.mean(), rel=1e-5)
    assert costs["symbols"]["nats"] == pytest.approx(symbols.mean(), rel=1e-5)
    assert costs["symbols"]["perplexity"] == pytest.approx(np.exp(symbols.mean()), rel=1e-5)
    assert costs["outside"] == pytest.approx((1 - np.exp(symbols - vocabulary)).mean(), rel=1e-4)
    for n, value in enumerate(costs["symbols"]["by_series"]):
        assert value == pytest.approx(np.mean([row[4] for row in expected if row[0] == n]), rel=1e-5)


def test_kinds_windows_and_steps_share_out_the_tokens(expected, costs):
    for parts in (costs["by_kind"].values(), costs["by_window"].values()):
        assert sum(part["tokens"] for part in parts) == costs["tokens"]
        assert sum(part["share_of_nats"] for part in parts) == pytest.approx(1)
        total = sum(part["tokens"] * part["symbols"]["nats"] for part in parts)
        assert total == pytest.approx(costs["tokens"] * costs["symbols"]["nats"])
    commas = [row[4] for row in expected if row[2] == ","]
    assert costs["by_kind"]["comma"]["symbols"]["nats"] == pytest.approx(np.mean(commas), rel=1e-5)
    behind = [row[3] for row in expected if row[1] >= CONTEXT]
    assert costs["by_window"]["steps behind it"]["vocabulary"]["nats"] == pytest.approx(np.mean(behind), rel=1e-5)
    fifth = [np.mean([row[4] for row in expected if row[:2] == (n, 5)]) for n in range(3)]
    assert costs["by_step"]["median"][5] == pytest.approx(np.median(fifth), rel=1e-5)
    assert costs["by_step"]["step"] == list(range(16))
    assert list(costs["by_kind"]) == [
        "digit before the point", "point", "first decimal", "second decimal", "comma", "semicolon",
    ]  # fmt: skip


def test_shares_intervals_and_spreads_are_those_of_the_symbols(expected, costs):
    """The interval is over series; a context ends behind its last semicolon."""
    total = sum(row[4] for row in expected)
    commas = [row for row in expected if row[2] == ","]
    assert costs["by_kind"]["comma"]["share_of_nats"] == pytest.approx(sum(row[4] for row in commas) / total, rel=1e-5)
    assert costs["by_kind"]["comma"]["tokens"] == len(commas)
    assert costs["by_kind"]["comma"]["vocabulary"]["perplexity"] == pytest.approx(
        np.exp(np.mean([row[3] for row in commas])), rel=1e-4
    )
    inside = [row[4] for row in expected if row[1] < CONTEXT]
    assert costs["by_window"]["steps of the context"]["tokens"] == len(inside)
    assert costs["by_window"]["steps of the context"]["symbols"]["nats"] == pytest.approx(np.mean(inside), rel=1e-5)
    for softmax, column in (("vocabulary", 3), ("symbols", 4)):
        by_series = np.array([np.mean([row[column] for row in expected if row[0] == n]) for n in range(3)])
        assert costs[softmax]["nats_ci95"] == pytest.approx(bootstrap_interval(by_series), rel=1e-5)
    fifth = [np.mean([row[4] for row in expected if row[:2] == (n, 5)]) for n in range(3)]
    spread = [costs["by_step"][key][5] for key in ("p10", "median", "p90")]
    assert spread == pytest.approx(np.quantile(fifth, [0.1, 0.5, 0.9]), rel=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch", [1, 8])
def test_padding_and_batches_do_not_count(forecaster, series, costs, side, batch):
    again = logits.token_costs(forecaster, series, CONTEXT, batch, side)
    assert again.tokens == costs["tokens"]
    assert again.symbols.nats == pytest.approx(costs["symbols"]["nats"], rel=1e-5)


def test_every_pass_is_reserved(forecaster, series, tmp_path):
    terms = Terms(10**12, "exact", forecaster.model.config, 0, {})
    with Ledger(tmp_path / "ledger.jsonl", terms, "run") as ledger:
        meter = Meter(ledger, "evaluation", Event("validation", 1, 1, rank=2, targets=("q_proj", "v_proj")))
        logits.token_costs(replace(forecaster, meter=meter), series, CONTEXT, 2)
        assert [(entry.event.batch, entry.event.length) for entry in read(tmp_path / "ledger.jsonl")[1]] == [(2, 192)] * 2
    assert verify(tmp_path / "ledger.jsonl") == []


# ------------------------------------------------------------------------------------------- padding sides


@pytest.fixture(scope="module")
def sides(forecaster, series) -> dict:
    found = json.loads(json.dumps(logits.padding_sides(forecaster, series, CONTEXT).tree(), allow_nan=False))
    return found | {"cases": {case["name"]: case for case in found["cases"]}}


@pytest.mark.parametrize("side", ["left", "right"])
def test_both_sides_give_the_logits_without_padding(sides, side):
    case = sides["cases"][side]
    assert case["within"] and 0 < case["difference"] <= sides["bound"] < 1e-3 * sides["largest_logit"]
    assert case["distance"] < 1e-5


def test_mistakes_with_padding_show(sides):
    seen = sides["cases"]["left, padding read as text"]
    assert not seen["within"] and seen["difference"] > 100 * sides["bound"] and seen["distance"] > 0.01
    behind = sides["cases"]["right, next token read behind the padding"]
    assert behind["within"] and behind["distance"] > 0.01  # the text itself sees nothing that comes after it


def test_a_shift_of_all_positions_is_no_mistake(sides):
    """Rotary positions are relative: what counts is that no padding is seen."""
    shifted = sides["cases"]["left, positions count the padding"]
    assert shifted["difference"] < 10 * sides["bound"] and shifted["distance"] < 1e-4


def test_prompts_differ_in_length_and_have_padding(sides):
    assert len(set(sides["prompts"])) == logits.PROMPTS and max(sides["prompts"]) < sides["padded_to"]


def test_a_model_that_sees_its_padding_is_found_out(forecaster, series, monkeypatch):
    """Were position -1 a position as any other, the sides would differ, and the check would say so."""
    features, compare = logits.features, logits._some_logits.__wrapped__

    def careless(model, variables, ids_BT, positions_BT):
        return features(model, variables, ids_BT, jnp.maximum(positions_BT, 0))

    monkeypatch.setattr(logits, "features", careless)
    monkeypatch.setattr(logits, "_some_logits", jax.jit(lambda *given: compare(*given), static_argnums=0))
    assert not logits.padding_sides(forecaster, series, CONTEXT).case("left").within
