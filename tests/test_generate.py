"""Generation against transformers, against its own definition, and the independence of its random numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlv.config import SamplingConfig
from jaxlv.errors import JaxlvError, NotFinite
from jaxlv.model import attention
from jaxlv.model.qwen2 import Qwen2
from jaxlv.steps import decode as programs
from jaxlv.steps import draw as drawing
from jaxlv.steps import generate as module
from jaxlv.steps.decode import Decoding, Loop
from jaxlv.steps.draw import FORBIDDEN, draw
from jaxlv.steps.generate import generate, row_keys
from jaxlv.steps.prompts import PROMPT_MULTIPLE, Prompts
from jaxlv.text.codec import SYMBOLS, Codec
from jaxlv.text.grammar import longest_step, most_turns, number_grammar
from jaxlv.text.tokens import Alphabet, load_alphabet

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
GREEDY = SamplingConfig(temperature=0.0, grammar=False)
STEPS = 3
FORM = (2, 2, 2)  # variables, decimals, integer digits
NEW = STEPS * longest_step(*FORM)


class Subject(NamedTuple):
    model: Qwen2
    variables: dict[str, Any]
    alphabet: Alphabet


@pytest.fixture(scope="module")
def subject(random_model, random_lora, tmp_path_factory) -> Subject:
    """A model under an overlay with a head bias; ids as in Qwen's vocabulary, no end of text."""
    model, params = random_model(**SIZES, max_position_embeddings=256)
    alphabet = load_alphabet(tmp_path_factory.mktemp("no tokenizer"), 32)
    return Subject(model, {"params": params, "lora": random_lora(params)}, alphabet)


@pytest.fixture(scope="module")
def endless(subject) -> np.ndarray:
    """48 tokens each of 8 samples over the whole vocabulary, one a row."""
    return free(subject).ids_SNC.reshape(8, -1)


def prompts_of(*lengths: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 32, length).astype(np.int32) for length in lengths]


# Three prompts and four samples nearly everywhere, so that few programs are compiled.
PROMPTS = prompts_of(20, 30, 40)


def continued(subject: Subject, prompts: Any, how: Decoding, series: Any = None, names: Any = None, **options: Any):
    return generate(*subject[:2], Prompts(prompts, series, names), subject.alphabet, how, **options)


def constrained(subject: Subject, sampling: SamplingConfig | None = None, prompts=PROMPTS, samples=4, **options):
    """Samples of three time steps under the grammar."""
    how = Decoding(samples, NEW, sampling or SamplingConfig(), STEPS)
    return continued(subject, prompts, how, grammar=number_grammar(*FORM), **options)


def free(subject: Subject, prompts=PROMPTS[:2], new_tokens=48, steps=None):
    """Samples over the whole vocabulary."""
    return continued(subject, prompts, Decoding(4, new_tokens, SamplingConfig(grammar=False), steps), seed=1)


# --------------------------------------------------------------------------------------------- greedy decoding


@pytest.mark.parametrize(("tied", "penalty"), [(True, 1.0), (False, 1.3)])
def test_greedy_tokens_are_those_of_transformers(tied, penalty, random_hf, through_disk):
    """64 tokens after prompts of several lengths, which share one batch on our side and stand alone on the other."""
    torch = pytest.importorskip("torch")
    sizes = {**SIZES, "num_hidden_layers": 2, "tie_word_embeddings": tied, "num_key_value_heads": 1 if tied else 2}
    hf = random_hf(**sizes)
    model, params = through_disk(hf)
    prompts = prompts_of(1, 9, 64, 70)
    sampling = SamplingConfig(temperature=0.0, repetition_penalty=penalty, grammar=False)
    alphabet = Alphabet(np.arange(13, dtype=np.int32), (), "test")
    ours = generate(model, {"params": params}, Prompts(prompts), alphabet, Decoding(2, 64, sampling))
    for prompt, ids_NC in zip(prompts, ours.ids_SNC, strict=True):
        ids = torch.as_tensor(prompt[None]).long()
        options = {"do_sample": False, "repetition_penalty": penalty, "pad_token_id": 0, "eos_token_id": None}
        theirs = hf.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, **options)
        expected = theirs[0, len(prompt) :].numpy()
        np.testing.assert_array_equal(ids_NC, np.stack([expected, expected]))


def test_constrained_greedy_takes_the_best_allowed_symbol_at_every_token(subject):
    """Teacher forcing: logits of the whole text at once, masked by the grammar, have their maximum at each token drawn."""
    grammar = number_grammar(*FORM)
    result = constrained(subject, SamplingConfig(temperature=0.0))
    prompt, ids = PROMPTS[0], result.ids_SNC[0, 0, : result.lengths_SN[0, 0]]
    logits_TV = subject.model.apply(subject.variables, np.concatenate([prompt, ids])[None])[0]
    state = 0
    for logits_V, token in zip(logits_TV[len(prompt) - 1 :], ids, strict=False):
        best = np.where(grammar.allowed_QA[state], logits_V[subject.alphabet.ids_A], -np.inf).argmax()
        assert subject.alphabet.ids_A[best] == token
        state = grammar.next_QA[state, best]


# ------------------------------------------------------------------------------------------- samples, all kinds


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(),
        SamplingConfig(temperature=0.0),
        SamplingConfig(temperature=5.0, top_k=3, top_p=0.5, repetition_penalty=1.5),
    ],
    ids=["plain", "greedy", "everything"],
)
def test_constrained_samples_parse_and_have_exactly_the_steps_wanted(subject, sampling):
    result = constrained(subject, sampling)
    for ids_C, length in zip(result.ids_SNC.reshape(12, -1), result.lengths_SN.reshape(-1), strict=True):
        text = subject.alphabet.decode(ids_C[:length])
        decoded = Codec().decode(text, np.ones(2), max_steps=STEPS)
        assert (decoded.stop, decoded.at, decoded.steps) == ("complete", "", STEPS)
        assert (ids_C[length:] == -1).all()


@pytest.fixture(scope="module")
def alone(subject) -> np.ndarray:
    return constrained(subject, prompts=PROMPTS[:1], samples=2, series=[3]).ids_SNC[0]


@pytest.mark.parametrize("longest", [40, 100], ids=["as wide as alone", "wider than alone"])
def test_a_sample_does_not_depend_on_the_batch_it_is_made_in(longest, subject, alone):
    prompts = [PROMPTS[0], *prompts_of(30, longest)]
    together = constrained(subject, prompts=prompts, series=[3, 7, 9]).ids_SNC
    np.testing.assert_array_equal(alone, together[0, :2])


@pytest.mark.parametrize("stage", [64, 192], ids=["three stages", "one stage"])
def test_the_stages_of_the_tail_do_not_show(stage, subject):
    """150 greedy tokens with a tail that grows twice are those with a tail that has its length from the start."""
    how = Decoding(1, 150, GREEDY)
    expected, found = (continued(subject, PROMPTS[:1], how, loop=Loop(150, 0, slots)).ids_SNC for slots in (192, stage))
    np.testing.assert_array_equal(expected, found)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(temperature=0.0),
        SamplingConfig(temperature=5.0, top_k=9, top_p=0.95, repetition_penalty=1.5),
    ],
    ids=["greedy", "everything"],
)
def test_guesses_do_not_show_and_save_turns(sampling, subject):
    """Prompts that end within a step, too; at a high temperature many numbers have two digits before the point."""
    within = [np.concatenate([PROMPTS[0], subject.alphabet.encode(part)]) for part in (";1", ";1.25,3.0", ";")]
    turns = most_turns(number_grammar(*FORM), NEW)
    loops = Loop(NEW, 0, 64), Loop(turns, 1, 64)
    plain, guessed = (constrained(subject, sampling, prompts=within, loop=loop) for loop in loops)
    np.testing.assert_array_equal(plain.ids_SNC, guessed.ids_SNC)
    assert plain.iterations == plain.lengths_SN.max() and guessed.iterations <= 0.7 * plain.iterations


def weighed(q_SRKH, k_SCKH, v_SCKH, length_S):
    """What cuDNN's kernel returns, by plain products; of no keys at all NaN, as a kernel may."""
    score_SKRC = jnp.einsum("SRKH,SCKH->SKRC", q_SRKH, k_SCKH, preferred_element_type=jnp.float32) * q_SRKH.shape[-1] ** -0.5
    held_S11C = jnp.arange(k_SCKH.shape[1]) < length_S[:, None, None, None]
    score_SKRC = jnp.where(held_S11C, score_SKRC, -jnp.inf)
    weight_SKRC = jax.nn.softmax(score_SKRC, axis=-1).astype(v_SCKH.dtype)
    return jnp.einsum("SKRC,SCKH->SRKH", weight_SKRC, v_SCKH), jax.nn.logsumexp(score_SKRC, axis=-1)


def test_segments_that_a_fused_kernel_attends_to_are_joined_to_the_same_attention(monkeypatch):
    """Prompts of two lengths with three samples each, tails of unequal length, one of them empty."""
    monkeypatch.setattr(attention, "_weighed", weighed)
    random = np.random.default_rng(0)

    def normal(*sizes: int) -> jax.Array:
        return jnp.asarray(random.normal(size=sizes), jnp.float32)

    q_BTNH, own = normal(6, 1, 4, 8), (normal(6, 2, 8, 1), normal(6, 2, 1, 8), jnp.full((6, 1), 9))
    lengths = np.array([5, 2]), np.array([3, 1, 0, 3, 2, 1])
    stored = [
        (normal(len(some), 6, 2, 8), normal(len(some), 6, 2, 8), jnp.where(np.arange(6) < some[:, None], np.arange(6), -1))
        for some in lengths
    ]
    plain = [(k.transpose(0, 2, 3, 1), v.swapaxes(1, 2), positions) for k, v, positions in stored]
    expected = attention.attend(q_BTNH, own[2], [*plain, own])
    np.testing.assert_allclose(attention.attend(q_BTNH, own[2], [own], stored), expected, atol=1e-6)


def test_a_loop_whose_attention_is_fused_draws_the_same_tokens(subject, monkeypatch):
    """Of a model in bfloat16, greedily, as far as its rounding lets them be the same: most rows."""
    monkeypatch.setattr(attention, "_weighed", weighed)
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), subject.variables["params"])
    found = []
    for kernel in ("xla", "cudnn"):
        model = subject.model.clone(dtype=jnp.bfloat16, attention=kernel)
        prefilled = model.clone(attention="xla")
        monkeypatch.setattr(module, "prefill", lambda *given, own=prefilled, **_: programs.prefill(*given, model=own))
        own = subject._replace(model=model, variables={**subject.variables, "params": params})
        found.append(constrained(own, loop=Loop(NEW, 0, 64)).ids_SNC)
    first_S = [ids_SNC[..., :8] for ids_SNC in found]
    assert (first_S[0] == first_S[1]).all(-1).mean() > 0.9


def test_seeds_reproduce_and_differ(subject):
    first, same, other = (constrained(subject, seed=seed).ids_SNC for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any(axis=-1).all()


def test_samples_and_series_have_random_numbers_of_their_own(subject):
    rows = constrained(subject, prompts=PROMPTS[:1] * 3).ids_SNC.reshape(12, -1)
    assert len(np.unique(rows, axis=0)) == 12


def test_no_key_is_used_twice():
    keys = [row_keys(seed, range(40), 25) for seed in (0, 1)]
    data = np.concatenate([jax.random.key_data(k) for k in keys])
    assert len(np.unique(data, axis=0)) == 2 * 40 * 25


def test_tokens_of_one_sample_have_keys_of_their_own(subject):
    """With all logits equal the tokens are the random numbers themselves: one key for all would repeat one token."""
    flat = subject._replace(variables=jax.tree.map(jnp.zeros_like, subject.variables))
    for ids_C in free(flat).ids_SNC.reshape(8, -1):
        assert np.bincount(ids_C).max() < 12  # of 48 tokens, 1.5 expected


# ------------------------------------------------------------------------------------------------- where it ends


def test_end_of_text_stops_a_sample_and_changes_nothing_before(subject, endless):
    end = int(endless[0, 20])
    ending = subject._replace(alphabet=Alphabet(subject.alphabet.ids_A, (end, 31), "test"))
    result = free(ending)
    for whole_C, ids_C in zip(endless, result.ids_SNC.reshape(8, -1), strict=True):
        length = next((place for place, token in enumerate(whole_C) if token in (end, 31)), len(whole_C))
        np.testing.assert_array_equal(ids_C, np.where(np.arange(48) < length, whole_C, -1))
    assert result.lengths_SN[0, 0] <= 20


def test_a_sample_ends_with_the_semicolon_of_its_last_step(subject, endless):
    semicolon = subject.alphabet.encode(";")[0]
    result = free(subject, steps=2)
    for whole_C, length in zip(endless, result.lengths_SN.reshape(-1), strict=True):
        closed = np.flatnonzero(whole_C == semicolon) + 1
        assert length == (closed[1] if len(closed) > 1 else len(whole_C))
    assert result.lengths_SN.min() < 48


def test_more_tokens_than_positions_are_refused(subject):
    with pytest.raises(JaxlvError, match=r"at most 256 tokens; found 200 \+ 57"):
        free(subject, prompts_of(10, 200), new_tokens=57)


@pytest.mark.parametrize("prompts", [[], [np.array([], np.int32)]], ids=["no prompt", "empty prompt"])
def test_nothing_to_go_on_from_is_refused(subject, prompts):
    with pytest.raises(JaxlvError, match="at least one token"):
        free(subject, prompts)


# ------------------------------------------------------------------------------------------- what is not finite

NINE = load_alphabet(Path("-"), 32).ids_A[SYMBOLS.index("9")]


def first_broken(result, breaks) -> tuple[int, int, int]:
    """(prompt, sample, index of the token) that is the first to be drawn behind a token for which `breaks` holds."""
    for (s, n), length in np.ndenumerate(result.lengths_SN):
        for place in range(1, length):
            if breaks(result.ids_SNC[s, n, place - 1], len(PROMPTS[s]) + place - 1):
                return s, n, place
    raise AssertionError("nothing breaks")


def poisoned(monkeypatch, breaks) -> None:
    """Let one logit behind such a token be infinite, in generations that are traced from here on."""
    honest = programs.read

    def read(model, variables, ids_BT, positions_BT, *more):
        logits_BTV, segment = honest(model, variables, ids_BT, positions_BT, *more)
        bad_BT1 = breaks(ids_BT, positions_BT)[..., None] if ids_BT.shape[1] < PROMPT_MULTIPLE else False
        return jnp.where(bad_BT1 & (jnp.arange(logits_BTV.shape[-1]) == 7), -jnp.inf, logits_BTV), segment

    monkeypatch.setattr(programs, "read", read)


def test_logits_that_are_not_finite_end_a_generation_and_are_placed(subject, monkeypatch):
    honest, breaks = constrained(subject), lambda token, position: token == NINE
    s, n, place = first_broken(honest, breaks)
    step = 1 + (honest.ids_SNC[s, n, :place] == subject.alphabet.ids_A[SYMBOLS.index(";")]).sum()
    poisoned(monkeypatch, breaks)
    with pytest.raises(NotFinite) as caught:
        constrained(subject, SamplingConfig(top_k=13), names=["fox", "hare", "owl"])  # of 13 symbols: nothing is cut
    assert f"{('fox', 'hare', 'owl')[s]}, sample {n}, token {place + 1} (step {step}): the model's logits" in str(
        caught.value
    )


def test_what_a_finished_sample_would_go_on_with_does_not_matter(subject, monkeypatch):
    """The loop goes on for the others; a sample that is done is drawn from whatever its logits are."""
    plain = Loop(NEW, 0, 64)
    honest = constrained(subject, seed=2, loop=plain)
    ends_SN = honest.lengths_SN + [[len(prompt)] for prompt in PROMPTS]
    latest = ends_SN.max() - 1  # the position of the last token of the sample that ends last
    assert len(PROMPTS[-1]) + honest.iterations - 2 >= latest  # a row that is done comes by it before the loop ends
    poisoned(monkeypatch, lambda token, position: position >= latest)
    again = constrained(subject, SamplingConfig(top_k=14), seed=2, loop=plain)
    np.testing.assert_array_equal(again.ids_SNC, honest.ids_SNC)


def test_a_prompt_whose_logits_are_not_finite_does_not_touch_the_others(subject):
    embedding = subject.variables["params"]["model.embed_tokens"]["weight"]
    alone = next(token for token in PROMPTS[1] if token not in [*PROMPTS[0], *PROMPTS[2], *subject.alphabet.ids_A])
    params = {**subject.variables["params"], "model.embed_tokens": {"weight": embedding.at[alone].set(jnp.inf)}}
    broken = subject._replace(variables={**subject.variables, "params": params})
    with pytest.raises(NotFinite, match=r"prompt 1, sample 0, token 1 \(step 1\)"):
        constrained(broken)


# ------------------------------------------------------------------------------------ the prompt, once per series


def walk_jaxpr(jaxpr, inside_loop=False):
    """Yields (equation, whether it is inside a while loop) of a jaxpr and of the jaxprs within it."""
    for equation in jaxpr.eqns:
        loop = inside_loop or equation.primitive.name == "while"
        yield equation, inside_loop
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from walk_jaxpr(inner, loop)


def equations_of(subject: Subject, samples: int, series: int = 2):
    width = PROMPT_MULTIPLE
    ids_SP, positions_SP = np.zeros((series, width), np.int32), np.tile(np.arange(width, dtype=np.int32), (series, 1))

    def call(variables, keys_B):
        rows = programs.Rows(ids_SP, positions_SP, keys_B, jnp.zeros(series, jnp.int32))
        how, alphabet_A = Decoding(samples, 4, SamplingConfig()), jnp.asarray(subject.alphabet.ids_A)
        form = {"model": subject.model, "how": how, "loop": Loop(4, 0, 64), "end_ids": ()}
        return programs.whole(variables, rows, None, alphabet_A, **form)

    jaxpr = jax.make_jaxpr(call)(subject.variables, row_keys(0, range(series), samples))
    return list(walk_jaxpr(jaxpr.jaxpr))


def products(equation) -> int:
    """Multiplications of a dot_general."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def test_the_prompt_is_computed_once_per_series_whatever_the_number_of_samples(subject):
    def prefill(samples, series=2):
        equations = equations_of(subject, samples, series)
        return sum(products(e) for e, loop in equations if not loop and e.primitive.name == "dot_general")

    assert prefill(1) == prefill(7) > 0
    assert prefill(7, series=4) == 2 * prefill(7)


def test_the_keys_of_the_prompt_are_never_repeated_per_sample(subject):
    """No array of the decode loop is as large as all prompts' keys for every sample."""
    series, samples = 2, 16
    c = subject.model.config
    largest = max(
        math.prod(variable.aval.shape)
        for equation, loop in equations_of(subject, samples, series)
        if loop
        for variable in equation.outvars
        if hasattr(variable.aval, "shape")
    )
    assert largest < series * samples * PROMPT_MULTIPLE * c.num_key_value_heads * c.head_dim


@pytest.mark.parametrize(
    ("prompt", "new", "slots", "stage"),
    [(64, 1, 64, 64), (64, 128, 128, 64), (128, 129, 192, 128), (128, 300, 384, 192), (64, 600, 768, 192)],
)
def test_a_decode_step_is_billed_for_the_slots_that_it_attends_to(prompt, new, slots, stage):
    """The prompt and all tokens that may come, reached in two stages of whole 64s, or in five if there are many."""
    expected = {"new_tokens": new, "slots": prompt + slots, "stage": stage, "ahead": 0}
    assert module.decoding(prompt, module.loop_of(new, 8, None), new) == expected


# ------------------------------------------------------------------------------------------------ one draw

LOGITS = np.random.default_rng(3).normal(size=32).astype(np.float32) * 2
SEEN = np.random.default_rng(4).random(32) < 0.3
SETTINGS = [
    {},
    {"temperature": 0.6},
    {"top_k": 7},
    {"top_p": 0.8},
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.6, "top_p": 0.9},
    {"temperature": 1.6, "top_k": 12, "top_p": 0.7, "repetition_penalty": 1.3},
    {"temperature": 0.3, "top_p": 0.05},
    {"top_k": 100},
]


def frequencies(logits_V: np.ndarray, settings: dict[str, Any], draws: int = 40_000) -> np.ndarray:
    """Share of each index among so many draws."""
    keys = jax.random.split(jax.random.key(0), draws)
    shape = (draws, len(logits_V))
    seen_BV = jnp.broadcast_to(SEEN, shape)
    index_B = draw(jnp.broadcast_to(logits_V, shape), keys, SamplingConfig(**settings), seen_BV)
    return np.bincount(np.asarray(index_B), minlength=len(logits_V)) / draws


def assert_frequencies(found_V: np.ndarray, p_V: np.ndarray, draws: int = 40_000) -> None:
    """Asserts that frequencies are 0 if p is 0, and otherwise within five standard errors."""
    assert (found_V[p_V == 0] == 0).all()
    np.testing.assert_array_less(np.abs(found_V - p_V), 5 * np.sqrt(p_V * (1 - p_V) / draws) + 1e-9)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_have_the_frequencies_of_softmax(temperature):
    p_V = np.asarray(jax.nn.softmax(LOGITS / temperature))
    assert_frequencies(frequencies(LOGITS, {"temperature": temperature}), p_V)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: ", ".join(f"{k} {v}" for k, v in s.items()) or "plain")
def test_draws_have_the_frequencies_of_transformers_processors(settings):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    s = SamplingConfig(**settings)
    scores = torch.as_tensor(LOGITS)[None]
    seen = torch.as_tensor(np.flatnonzero(SEEN))[None]
    processors = [
        transformers.RepetitionPenaltyLogitsProcessor(s.repetition_penalty),
        transformers.TemperatureLogitsWarper(s.temperature),
        *([transformers.TopKLogitsWarper(s.top_k)] if s.top_k else []),
        transformers.TopPLogitsWarper(s.top_p),
    ]
    for processor in processors:
        scores = processor(seen, scores)
    assert_frequencies(frequencies(LOGITS, settings), torch.softmax(scores, -1)[0].numpy())


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 0.0}, {"temperature": 1e-4}])
def test_the_narrowest_settings_are_greedy(settings):
    assert frequencies(LOGITS, settings, 200)[LOGITS.argmax()] == 1


def test_a_long_vocabulary_is_drawn_by_its_probabilities():
    """Two and a half blocks: a likely token among unlikely ones, many tokens of equal chance, and a last block cut short, in
    which another token is likely.
    """
    size = 2 * drawing.BLOCK + drawing.BLOCK // 2
    logits_V = np.full(size, -4.0, np.float32)
    logits_V[7] = 5.0  # the largest of all, yet its block has less of the probability than the next
    logits_V[drawing.BLOCK : 2 * drawing.BLOCK] = 0.0
    logits_V[2 * drawing.BLOCK :] = np.linspace(-2, 1, drawing.BLOCK // 2)
    logits_V[2 * drawing.BLOCK + 5] = 4.5
    p_V = np.asarray(jax.nn.softmax(logits_V), float)
    draws = 20_000
    keys = jax.random.split(jax.random.key(0), draws)
    found_B = np.asarray(jax.jit(jax.vmap(drawing.categorical, (0, None)))(keys, logits_V))
    assert found_B.min() >= 0 and found_B.max() < size

    def assert_shares(group_V: np.ndarray, names: str) -> None:
        """The groups' shares of the draws are their probabilities, within five standard errors."""
        share_G = np.bincount(group_V[found_B], minlength=group_V.max() + 1) / draws
        p_G = np.bincount(group_V, weights=p_V)
        np.testing.assert_array_less(np.abs(share_G - p_G), 5 * np.sqrt(p_G * (1 - p_G) / draws) + 1e-9, names)

    place_V = np.arange(size)
    assert_shares(place_V // drawing.BLOCK, "blocks")
    assert_shares(place_V // 32, "runs of tokens")
    for likely in (7, 2 * drawing.BLOCK + 5):
        assert_shares(np.where(place_V == likely, 1, 0), f"token {likely}")


def test_a_block_and_the_token_within_it_are_drawn_by_keys_of_their_own():
    """With one key, the noise that chose block b would favour its token b: of 4096 equal tokens these eight, eight times."""
    keys, draws = jax.random.split(jax.random.key(1), 8000), 8000
    flat_V = np.zeros(8 * drawing.BLOCK, np.float32)
    found_B = np.asarray(jax.jit(jax.vmap(drawing.categorical, (0, None)))(keys, flat_V))
    share = (found_B // drawing.BLOCK == found_B % drawing.BLOCK).mean()
    assert abs(share - 1 / drawing.BLOCK) < 5 * (1 / drawing.BLOCK / draws) ** 0.5
    assert_frequencies(np.bincount(found_B // drawing.BLOCK, minlength=8) / draws, np.full(8, 1 / 8), draws)


def test_seen_are_the_tokens_of_a_prompt_and_never_its_padding():
    ids_SP = np.array([[0, 0, 5, 3], [4, 0, 5, 5]])
    positions_SP = np.array([[-1, -1, 0, 1], [0, 1, 2, 3]])
    output_ids_V = jnp.array([0, 3, 4, 5, 9])
    found = programs._seen(ids_SP, positions_SP, output_ids_V, SamplingConfig(repetition_penalty=1.3))
    assert found.tolist() == [[False, True, False, True, False], [True, False, True, True, False]]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_forbidden_index_is_never_drawn(settings):
    masked = np.where(np.arange(32) < 3, LOGITS, FORBIDDEN).astype(np.float32)
    assert frequencies(masked, settings, 2000)[3:].sum() == 0


def test_the_grammar_goes_on_within_a_step(subject):
    grammar = number_grammar(2, 2, 2)
    encode = subject.alphabet.encode
    assert module.state_after(grammar, subject.alphabet, encode("1.20,1.31;")) == 0
    state = module.state_after(grammar, subject.alphabet, encode("1.20,1.31;0.9"))
    assert grammar.allowed_QA[state].tolist() == [symbol in "0123456789" for symbol in SYMBOLS]
    assert module.state_after(grammar, subject.alphabet, encode("1.20,1.31;00")) == 0


def test_texts_of_many_lengths_are_drawn_by_few_programs(subject):
    """Of two and three steps, by the grammar of two and of three digits: one program; no text goes on beyond its steps."""
    before = programs.decode._cache_size()
    for form, steps in ((FORM, 2), (FORM, 3), ((2, 2, 3), 2)):
        how = Decoding(4, steps * longest_step(*form), SamplingConfig(), steps)
        found = continued(subject, PROMPTS, how, grammar=number_grammar(*form), seed=3)
        semicolons = (found.ids_SNC == subject.alphabet.encode(";")[0]).sum(-1)
        assert (semicolons == steps).all() and found.ids_SNC.shape[-1] == how.new_tokens
        assert (found.lengths_SN <= how.new_tokens).all()
    assert programs.decode._cache_size() - before <= 1
    rooms = [module.room(slots) for slots in (1, 64, 65, 192, 193, 256, 257, 385, 513, 769, 1025)]
    assert rooms == [64, 64, 128, 192, 256, 256, 384, 512, 768, 1024, 1536]


def test_a_sample_ends_with_its_last_token_although_there_is_room_for_more(subject):
    """41 tokens over the whole vocabulary are the first of 48, in a tail of 64 slots."""
    short, long = (free(subject, new_tokens=count) for count in (41, 48))
    np.testing.assert_array_equal(short.ids_SNC, long.ids_SNC[..., :41])
    assert short.iterations == 41
