"""Prompts are read once: those known from an earlier call not at all, and those that begin a longer one within it."""

from __future__ import annotations

import functools
import gc
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlv.config import SamplingConfig
from jaxlv.errors import JaxlvError
from jaxlv.flops import ledger as ledgers
from jaxlv.flops import table
from jaxlv.flops.audit import placed
from jaxlv.flops.counting.jaxpr import count_jaxpr
from jaxlv.flops.ledger import Event, Ledger, Meter, Terms
from jaxlv.flops.programs import shape, variables_of
from jaxlv.flops.work import Drawing, Work
from jaxlv.forecasting import origins
from jaxlv.forecasting.made import Made
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.sampler import Sampler
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import Qwen2
from jaxlv.steps import decode, generate
from jaxlv.steps import prompts as module
from jaxlv.steps.decode import Decoding, Loop
from jaxlv.steps.prefill import Nested, prefill
from jaxlv.steps.prompts import Part, Prefixes, Prompts, Reading, Texts, nested
from jaxlv.text.codec import Codec
from jaxlv.text.grammar import number_grammar
from jaxlv.text.tokens import load_alphabet

LONG = np.random.default_rng(0).integers(0, 32, 60).astype(np.int32)
OTHER = LONG[::-1].copy()
GRAMMAR = number_grammar(2, 2, 2)


@pytest.fixture(scope="module")
def subject(random_model, random_lora, tmp_path_factory):
    model, params = random_model(num_hidden_layers=1, vocab_size=32, max_position_embeddings=512)
    alphabet = load_alphabet(tmp_path_factory.mktemp("no tokenizer"), 32)
    return Sampler(model, {"params": params, "lora": random_lora(params)}, alphabet, Codec(), SamplingConfig())


# ----------------------------------------------------------------------------------------- which prompts are read


@pytest.mark.parametrize(
    ("prompts", "read"),
    [
        ([LONG[:20], LONG, LONG[:40], LONG[:1]], [1]),
        ([LONG, LONG, OTHER, OTHER[:9]], [0, 2]),
        ([LONG[:5], OTHER[:5], LONG, LONG[:7], OTHER, LONG[:2], LONG[1:], LONG[1:3]], [2, 4, 6, 6]),  # a power of two
        ([LONG, LONG[:30], OTHER], None),  # two of three are read: too few are saved
        ([LONG], None),
        ([np.array([0], np.int32), np.array([1], np.int32)], None),
    ],
)
def test_prompts_that_begin_others_are_read_within_them(prompts, read):
    found = nested(Texts.of(prompts))
    if read is None:
        assert found is None
        return
    starts = [prompts[found.read_U[place]][: len(one)] for one, place in zip(prompts, found.of_S, strict=True)]
    assert all((start == one).all() for start, one in zip(starts, prompts, strict=True))
    assert [prompts[row].tolist() for row in found.read_U] == [prompts[row].tolist() for row in read]


def plainly(prompts: list[np.ndarray]) -> Reading:
    """Each prompt by itself."""
    texts, rows = Texts.of(prompts), np.split(np.arange(len(prompts)), module.parallel_parts(len(prompts)))
    return Reading(texts, tuple(Part(one, texts.rows(one)) for one in rows), ())


@pytest.mark.parametrize(("dtype", "grammar"), [(jnp.float32, GRAMMAR), (jnp.bfloat16, None)])
def test_tokens_are_those_of_prompts_read_by_themselves(subject, grammar, dtype):
    """Logits, keys and values are the same up to rounding: products of another number of rows may be added up otherwise."""
    prompts = [LONG[:20], OTHER, LONG, LONG[:40], OTHER[:3], LONG[:21], LONG, LONG[:59]]
    model = subject.model.clone(dtype=dtype)
    variables = jax.tree.map(lambda a: a.astype(dtype), subject.variables)
    how = Decoding(2, 40, SamplingConfig(grammar=grammar is not None), 3)
    alone, found = (
        generate.generate(model, variables, Prompts(prompts, reading=reading), subject.alphabet, how, 1, grammar)
        for reading in (plainly(prompts), None)
    )
    np.testing.assert_array_equal(found.ids_SNC, alone.ids_SNC)
    part, own = Reading.of(model, variables, Prompts(prompts), None).parts[0], plainly(prompts).parts[0]
    assert part.within is not None and len(part.within.read_U) == 2
    asked = None if grammar is None else np.asarray(subject.alphabet.ids_A)
    texts, both = own.texts, []
    for one in (part, own):
        both.append(prefill(variables, *one.asked.texts, asked, one.asked.nested, model=model))
    for ours, theirs in zip(*map(jax.tree.leaves, both), strict=True):
        real = np.ones(ours.shape, bool)
        if ours.ndim == 4:  # keys and values: what is behind a prompt's end is masked by its positions
            axis = 3 if ours.shape[3] == texts.ids_SP.shape[1] else 2
            real &= np.expand_dims(texts.positions_SP >= 0, [n for n in (1, 2, 3) if n != axis])
        np.testing.assert_allclose(*(np.where(real, a, 0).astype(float) for a in (ours, theirs)), rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------- what is kept of them


@pytest.fixture
def reads(monkeypatch) -> list[int]:
    """How many prompts each prefill reads."""
    counts: list[int] = []

    def counted(variables, ids_UP, *more, **constants):
        counts.append(len(ids_UP))
        return prefill(variables, ids_UP, *more, **constants)

    monkeypatch.setattr(generate, "prefill", counted)
    return counts


def test_a_forecast_with_more_samples_or_steps_does_not_read_its_prompts_again(subject, waves, reads):
    """The draws are those of a forecaster that has read nothing; other settings of the sampler share what was read."""
    series = waves(3, 16).select([0, 2])
    request = Request(8, 2, 2, batch=2)
    first = subject(series, request)
    assert sum(reads) == 2
    more = replace(request, samples=3, horizon=3)
    found = subject(series, more)
    assert sum(reads) == 2
    alone = replace(subject, made=Made())(series, more)
    assert sum(reads) == 4
    np.testing.assert_array_equal(found.samples_NSHV, alone.samples_NSHV)
    np.testing.assert_array_equal(found.samples_NSHV[:, :2, :2], first.samples_NSHV)
    assert subject.with_sampling(temperature=0.5).made is subject.made
    subject(series, replace(request, context=9))  # another text
    assert sum(reads) == 6


def test_the_logits_of_other_symbols_are_others(subject):
    prompts, weights = Prompts([LONG]), subject.made.merged(subject.variables)
    how = Decoding(1, 8, SamplingConfig(), 1)
    reading = functools.partial(Reading.of, subject.model, weights, prompts, prefixes=subject.made.prefixes)
    symbols_A = np.asarray(subject.alphabet.ids_A)
    for saved in (0, 1):
        now = reading(symbols_A=symbols_A)
        assert now.saved["known"] == saved
        generate.generate(subject.model, weights, replace(prompts, reading=now), subject.alphabet, how, 0, GRAMMAR)
    assert reading(symbols_A=None).saved["known"] == reading(symbols_A=symbols_A[::-1]).saved["known"] == 0


def kept(prefixes: Prefixes, variables: Any, texts: Texts, said: tuple = ("model",)) -> Any:
    prefixes.keep(variables, said, texts, module.Read(jnp.ones(100), ()))  # type: ignore[arg-type]
    return prefixes.find(variables, said, texts)


def test_what_was_read_is_found_by_the_same_parameters_settings_and_tokens_alone():
    prefixes, variables, texts = Prefixes(), {"params": jnp.ones(3)}, Texts.of([LONG, OTHER])
    assert kept(prefixes, variables, texts) is prefixes.find({"params": variables["params"]}, ("model",), texts) is not None
    assert prefixes.find({"params": jnp.ones(3)}, ("model",), texts) is None
    assert prefixes.find(variables, ("another",), texts) is None
    for others in ([OTHER, LONG], [LONG], [LONG, OTHER[:59]], [LONG, np.append(OTHER, 0).astype(np.int32)]):
        assert prefixes.find(variables, ("model",), Texts.of(others)) is None
    assert kept(Prefixes(), {"params": np.ones(3)}, texts) is None  # which may change in place


def test_what_is_kept_is_bounded_and_gone_with_the_parameters(monkeypatch):
    prefixes, variables = Prefixes(), {"params": jnp.ones(3)}
    texts = [Texts.of([LONG[:n]]) for n in (5, 6, 7)]
    monkeypatch.setattr(module, "MOST_KEPT", 2 * 400)  # bytes of two
    for one in texts[:2]:
        assert kept(prefixes, variables, one) is not None
    assert prefixes.find(variables, ("model",), texts[0]) is not None  # so it was used last
    assert kept(prefixes, variables, texts[2]) is not None
    assert [prefixes.find(variables, ("model",), one) is None for one in texts] == [False, True, False]
    monkeypatch.setattr(module, "MOST_KEPT", 399)
    assert kept(prefixes, variables, texts[1]) is None and not prefixes._kept
    monkeypatch.undo()
    kept(prefixes, variables, texts[0])
    del variables
    gc.collect()
    kept(prefixes, {"params": jnp.zeros(3)}, texts[1])
    assert len(prefixes._kept) == 1


def test_what_is_kept_is_a_share_of_the_free_memory(monkeypatch):
    prefixes, variables, texts = Prefixes(), {"params": jnp.ones(3)}, Texts.of([LONG])
    for free, found in ((8 * 400, True), (8 * 400 - 8, False)):
        monkeypatch.setattr(module.memory, "free", lambda free=free: free)
        assert (kept(prefixes, variables, texts) is not None) == found


def test_several_processes_read_the_same_prompts(monkeypatch):
    prefixes, variables, texts = Prefixes(), {"params": jnp.ones(3)}, Texts.of([LONG])
    assert kept(prefixes, variables, texts) is not None
    monkeypatch.setattr(module.processes, "count", lambda: 2)
    assert prefixes.find(variables, ("model",), texts) is None


def test_parameters_at_the_place_of_others_are_not_taken_for_them():
    """As Python gives the place of an array that is gone to a new one."""
    prefixes, old, new, texts = Prefixes(), {"params": jnp.ones(3)}, {"params": jnp.zeros(3)}, Texts.of([LONG])
    assert kept(prefixes, old, texts) is not None
    (one,) = prefixes._kept.values()
    prefixes._kept = type(prefixes._kept)({module._Place.of(jax.tree.leaves(new), ("model",), texts): one})
    assert prefixes.find(new, ("model",), texts) is None


@pytest.mark.parametrize(("length", "padded"), [(1, 64), (63, 64), (64, 64), (65, 128)])
def test_prompts_are_padded_to_the_next_multiple(length, padded):
    assert module.padded(length) == padded


def test_an_accelerator_takes_the_whole_batch(monkeypatch):
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda process: range(4))
    assert [module.parallel_parts(series) for series in (1, 2, 6, 7, 8)] == [1, 2, 3, 1, 4]
    monkeypatch.setattr(module.jax, "default_backend", lambda: "gpu")
    assert module.parallel_parts(8) == 1


# ------------------------------------------------------------------------------------------------ what they cost


@pytest.fixture
def metered(subject, tmp_path):
    """The forecaster under a budget in FLOPs, and its ledger."""
    bare = replace(subject, variables={"params": subject.variables["params"]}, made=Made())
    with Ledger(tmp_path / "ledger.jsonl", Terms(10**12, "exact", subject.model.config)) as ledger:
        yield replace(bare, meter=Meter(ledger, "evaluation", Event("train_step", 1, 1))), ledger


def test_prompts_that_are_not_read_are_not_paid(metered):
    forecaster, ledger = metered
    prompts = Prompts([LONG, OTHER, LONG[:30], LONG[:20], LONG[:10], OTHER[:20], OTHER[:10], OTHER[:9]])
    for seed in range(2):
        forecaster.generated(prompts, 1, 12, steps=1, grammar=GRAMMAR, seed=seed)
    first, again = ledger.entries
    parts = module.parallel_parts(8)
    assert (first.reserved.known, first.reserved.nested) == (0, 8 - 2 * parts)
    assert (again.reserved.known, again.reserved.nested) == (8, 0)
    whole = replace(again.reserved, known=0)
    model = forecaster.model.config
    read = table.prefill(whole.work(model), "exact")
    assert whole.flops(model, "exact") - again.asked == read
    head = 2 * model.hidden_size * 13
    assert first.asked - again.asked == 2 * parts * read // 8 + (8 - 2 * parts) * head  # logits behind every prompt
    assert not ledgers.verify(ledger.path)


def test_windows_of_one_series_are_read_within_the_longest(metered, waves, monkeypatch):
    """At one scale; the forecasts are those of windows that are read by themselves."""
    forecaster, ledger = metered
    fixed = replace(forecaster, codec=Codec("liu"))
    windows = origins.within(waves(1, 40), 40, 2, 4)
    assert windows is not None and len(windows.windows) == 4
    request = windows.asked(Request(40, 2, 2))
    found = fixed(windows.windows, request)
    (entry,) = ledger.entries
    assert entry.reserved.nested == 4 - module.parallel_parts(4)
    monkeypatch.setattr(module, "nested", lambda texts: None)
    alone = replace(fixed, made=Made())(windows.windows, request)
    assert ledger.entries[1].reserved.nested == 0
    np.testing.assert_array_equal(found.samples_NSHV, alone.samples_NSHV)


def test_a_ledger_in_which_more_prompts_are_spared_than_there_are_is_refused():
    tree = Event("generation", 4, 64, new_tokens=8, slots=72, known=1, nested=2, loss="flat").tree()
    assert Event.from_tree(tree).nested == 2
    for known, nested_ in ((5, 0), (0, 4), (2, 2)):  # those that others lie within are read
        with pytest.raises(JaxlvError, match="impossible sizes"):
            Event.from_tree(tree | {"known": known, "nested": nested_})
    assert Event.from_tree(tree | {"known": 4, "nested": 0}).known == 4


SMALL = ModelConfig(37, 16, 22, 2, 4, 2, 6, tie_word_embeddings=True)


@pytest.mark.parametrize(("known", "within"), [(0, 3), (4, 0)], ids=["within others", "known"])
def test_every_operation_of_a_generation_that_reads_fewer_prompts_is_in_the_formula(known, within):
    """Four prompts of 64 tokens, of which one or none is read, with two samples of 64 tokens."""
    work = Work(SMALL, 4, 64, 3, head="alphabet", dtype="bfloat16", known=known, nested=within,
                drawing=Drawing("drawn", steps=True))  # fmt: skip
    model, rows = Qwen2(SMALL, jnp.bfloat16), shape(4, 64)
    keys = jax.eval_shape(lambda: generate.row_keys(0, range(4), 2))
    how, loop = Decoding(2, 64, SamplingConfig(), steps=4), Loop(64, 0, 64)
    grammar = decode.Automaton(shape(5, 13, dtype=bool), shape(5, 13), shape(5))
    variables, asked = variables_of(work, model), shape(13)
    read = jax.eval_shape(functools.partial(prefill, model=model), variables, rows, rows, asked)
    form = {"model": model, "how": how, "loop": loop, "end_ids": (1,)}

    def program(variables, read, texts, keys, grammar, asked, of_S, rows):
        if not known:
            read = prefill(variables, texts, texts, asked, Nested(of_S, rows), model=model)
        begun = decode.Begun(*read, decode.Rows(rows, rows, keys, of_S))
        return decode.decode(variables, begun, grammar, asked, **form)

    given = (variables, read, shape(1, 64), keys, grammar, asked, shape(4), rows)
    found = placed(count_jaxpr(program, *given, trips=64).tallies)
    expected = table.generation_by_component(work, 64, "exact-all", 128, 64, 2)
    assert {tuple(where): tally.everything() for where, tally in found.items() if tally.everything()} == expected
