"""Nats per value: the definition over full logits, the Jacobian, padding, and what a ledger is told."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlv.config import SamplingConfig
from jaxlv.data.series import from_arrays
from jaxlv.errors import JaxlvError
from jaxlv.flops.ledger import Event, Ledger, Meter, Terms, read, verify
from jaxlv.forecasting.likelihood import nats_per_value
from jaxlv.forecasting.sampler import Sampler
from jaxlv.model.weights import load_pretrained
from jaxlv.text.codec import SYMBOLS, Codec
from jaxlv.text.tokens import load_alphabet

CONTEXT, HORIZON = 8, 4


@pytest.fixture(scope="module")
def forecaster(tiny_base) -> Sampler:
    model, params = load_pretrained(tiny_base)
    return Sampler(model, {"params": params}, load_alphabet(tiny_base, 32), Codec(), SamplingConfig())


@pytest.fixture(scope="module")
def tuned(forecaster, random_lora) -> Sampler:
    return replace(
        forecaster, variables={**forecaster.variables, "lora": random_lora(forecaster.variables["params"], rank=2)}
    )


@pytest.fixture(scope="module")
def series(waves):
    """Series of different lengths as text: the last one grows past two digits before the point."""
    values = waves(3, 16).values_NTV.copy()
    values[2, CONTEXT:] *= 30
    return from_arrays(values, ids=[5, 1, 7])


apply = jax.jit(lambda model, variables, ids_BL: model.apply(variables, ids_BL), static_argnums=0)


def brute_force(forecaster: Sampler, values_TV: np.ndarray) -> np.ndarray:
    """(H, V), token by token, from the logits of the whole vocabulary."""
    codec, alphabet = forecaster.codec, forecaster.alphabet
    alpha_V = codec.fit(values_TV[:CONTEXT])
    prompt, text = codec.encode(values_TV[:CONTEXT], alpha_V), codec.encode(values_TV[: CONTEXT + HORIZON], alpha_V)
    ids = np.pad(alphabet.encode(text), (0, 256 - len(text)))  # one shape for all; what comes behind a token does not count
    logits_TV = np.asarray(apply(forecaster.model, forecaster.variables, ids[None])[0], np.float64)
    nats = [[]]
    for place in range(len(prompt), len(text)):
        p_A = np.exp(logits_TV[place - 1, alphabet.ids_A])
        nats[-1].append(-np.log(p_A[SYMBOLS.index(text[place])] / p_A.sum()))
        if text[place] in ",;":
            nats.append([])
    total = np.array([sum(value) for value in nats[:-1]]).reshape(HORIZON, -1)
    return total + np.log(alpha_V / 10**codec.decimals)


@pytest.mark.parametrize("decimals", [1, 3])
@pytest.mark.parametrize("which", ["forecaster", "tuned"])
def test_nats_are_those_of_the_full_logits(which, decimals, series, request):
    chosen = replace(request.getfixturevalue(which), codec=Codec(decimals=decimals))
    expected = [brute_force(chosen, values_TV[: CONTEXT + HORIZON]) for values_TV in series.values_NTV]
    np.testing.assert_allclose(nats_per_value(chosen, series, CONTEXT, HORIZON, 2), expected, rtol=2e-5)


@pytest.mark.parametrize("batch", [1, 2, 8])
@pytest.mark.parametrize("side", ["left", "right"])
def test_neither_padding_nor_batches_change_a_number(forecaster, series, side, batch):
    expected = nats_per_value(forecaster, series, CONTEXT, HORIZON, 3)
    np.testing.assert_allclose(nats_per_value(forecaster, series, CONTEXT, HORIZON, batch, side), expected, rtol=2e-5)


def test_a_scaled_series_costs_the_log_of_the_factor_more(forecaster, series):
    """The text is the same; the factor is a power of two, so that no rounding differs."""
    scaled = from_arrays(series.values_NTV * np.array([4.0, 0.25]), ids=series.ids_N)
    more = nats_per_value(forecaster, scaled, CONTEXT, HORIZON) - nats_per_value(forecaster, series, CONTEXT, HORIZON)
    np.testing.assert_allclose(more, np.broadcast_to(np.log([4.0, 0.25]), more.shape), atol=1e-12)


def test_a_decimal_that_is_pure_noise_costs_nothing(forecaster, series):
    """A model without a thought but digits, all alike: the tenth digit more is a tenth of the interval less.

    Its logits are 0 for digits and b for the three others, so a decimal more costs log(10 + 3 exp(b)) - log(10).
    """
    b = -8.0
    bias = np.full(32, 5.0)  # of tokens outside the alphabet, which must not matter
    bias[forecaster.alphabet.ids_A] = [b if symbol in ".,;" else 0.0 for symbol in SYMBOLS]
    blank = jax.tree.map(jnp.zeros_like, forecaster.variables["params"])
    dull = replace(forecaster, variables={"params": blank, "lora": {"lm_head": {"bias": jnp.asarray(bias)}}})
    two, three = (
        nats_per_value(replace(dull, codec=Codec(decimals=decimals)), series.select([5, 1]), CONTEXT, HORIZON)
        for decimals in (2, 3)
    )
    np.testing.assert_allclose(three - two, np.log(10 + 3 * np.exp(b)) - np.log(10), atol=1e-5)


def test_other_scale_rules_are_counted_in_raw_units_too(forecaster, series):
    """The density of a text is that of its interval: alpha 0.5 for `liu`, whatever the series."""
    chosen = replace(forecaster, codec=Codec("liu"))
    few = series.select([5])
    text = len(chosen.codec.encode(few.values_NTV[0, CONTEXT : CONTEXT + HORIZON], np.full(2, 0.5)))
    blank = replace(chosen, variables={"params": jax.tree.map(jnp.zeros_like, chosen.variables["params"])})
    nats = nats_per_value(blank, few, CONTEXT, HORIZON)
    assert nats.sum() == pytest.approx(text * np.log(13) + nats.size * np.log(0.5 / 100), rel=1e-6)


def test_sampling_settings_do_not_matter(forecaster, series):
    cold = forecaster.with_sampling(temperature=0.3, top_k=2, grammar=False)
    expected = nats_per_value(forecaster, series, CONTEXT, HORIZON)
    np.testing.assert_array_equal(nats_per_value(cold, series, CONTEXT, HORIZON), expected)


def test_a_future_that_cannot_be_written_costs_infinity(forecaster, series):
    values = series.values_NTV.copy()
    values[1, CONTEXT + 1] *= 1e8
    heard = []
    wild = from_arrays(values, ids=series.ids_N)
    nats = nats_per_value(forecaster, wild, CONTEXT, HORIZON, 1, on_batch=heard.append)
    assert np.isinf(nats).all(axis=(1, 2)).tolist() == [False, True, False]
    assert heard == [2, 3]


@pytest.mark.parametrize(("context", "horizon"), [(0, 4), (14, 3), (8, 0)])
def test_series_too_short_are_refused(forecaster, series, context, horizon):
    with pytest.raises(JaxlvError, match="context and horizon do not fit the series"):
        nats_per_value(forecaster, series, context, horizon)


def test_a_text_longer_than_the_positions_is_refused(forecaster, waves):
    with pytest.raises(JaxlvError, match="longer than the model's positions; expected at most 512 tokens; found 8"):
        nats_per_value(forecaster, waves(1, 80), 40, 40)


def test_each_pass_is_in_the_ledger(forecaster, series, tmp_path):
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, Terms(10**12, "exact", forecaster.model.config)) as ledger:
        metered = replace(forecaster, meter=Meter(ledger, "evaluation", Event("train_step", 1, 1, accumulate=4)))
        nats_per_value(metered, series, CONTEXT, HORIZON, 2)
    _, entries = read(path)
    assert [(e.event.kind, e.event.batch, e.event.length, e.event.head) for e in entries] == [
        ("validation", 2, 192, "alphabet")
    ] * 2
    assert all(entry.committed for entry in entries) and verify(path) == []
