"""Probes of general ability: prompts, answers and a text's perplexity against transformers, the ledger, the page."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from test_report import Tree
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast, Qwen2ForCausalLM

from jaxlv.analysis import probe
from jaxlv.analysis.probe import Prompt, answers, read, read_prompts, text_windows
from jaxlv.config import RunConfig, SamplingConfig, build_config
from jaxlv.data import series
from jaxlv.errors import JaxlvError, NotFinite
from jaxlv.flops import ledger
from jaxlv.flops.ledger import Event, Ledger, Meter, Terms
from jaxlv.forecasting.sampler import Sampler
from jaxlv.model import weights
from jaxlv.model.bases import EMBEDDED_BASE
from jaxlv.report import probe as page
from jaxlv.report.page import write
from jaxlv.results.probe import Answer, Asked, Counts, Probe
from jaxlv.runs import run, sources, training
from jaxlv.steps.prompts import Prompts
from jaxlv.storage.door import LIMITS
from jaxlv.studies import probe as study
from jaxlv.text.codec import Codec
from jaxlv.text.language import Language, generation_defaults, load_language
from jaxlv.text.tokens import IGNORED, load_alphabet
from tests.forged import forge_all
from tests.programs import done, full_disk, jaxlv
from tests.test_run import reseal

QWEN, ROWS = "qwen2.5-0.5b-instruct", 151_936
ENDS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES: dict[str, Any] = {"hidden_size": 32, "head_dim": 8, "num_hidden_layers": 1, "max_position_embeddings": 256}
TEXT = "é Foxes 12 and hares 3.50;\nthe years go by, as in “waves” 🐇.\r\n" * 2
DEFAULTS = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1}
GREEDY = SamplingConfig(temperature=0.0, grammar=False)
WARM = SamplingConfig(temperature=1.0, grammar=False)
PROMPTS = [Prompt("How many?", "3"), Prompt("Say <b>more</b> of it, at a greater length"), Prompt("é", "/./")]


def save_tokenizer(folder: Path, template: str | None = CHATML) -> None:
    """A token for each of the 256 bytes, and three special ones."""
    vocabulary = {symbol: id for id, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.add_special_tokens({"additional_special_tokens": list(ENDS)})
    fast.chat_template = template
    fast.save_pretrained(folder)


@pytest.fixture(scope="module")
def base(random_model, tmp_path_factory) -> Path:
    """A random model whose tokens are bytes, with a chat template and generation defaults."""
    folder = tmp_path_factory.mktemp("bases") / "bytes"
    weights.save_pretrained(folder, *random_model(vocab_size=264, **SIZES))
    save_tokenizer(folder)
    (folder / "generation_config.json").write_text(json.dumps(DEFAULTS))
    return folder


@pytest.fixture(scope="module")
def language(base) -> Language:
    return load_language(base, 264)


@pytest.fixture(scope="module")
def qwen(shared, tmp_path_factory) -> tuple[Path, Language]:
    """A folder with the files of Qwen2.5's own tokenizer, and what is loaded from there."""
    folder = tmp_path_factory.mktemp("bases") / "qwen"
    shutil.copytree(shared / QWEN, folder, ignore=shutil.ignore_patterns("*config.json"))
    shutil.copyfile(shared / QWEN / "tokenizer_config.json", folder / "tokenizer_config.json")
    return folder, load_language(folder, ROWS)


@pytest.fixture(scope="module")
def forecaster(base) -> Sampler:
    model, params = weights.load_pretrained(base)
    return Sampler(model, {"params": params}, load_alphabet(base, 264), Codec(), GREEDY)


@pytest.fixture(scope="module")
def tuned(forecaster, random_lora) -> Sampler:
    params = forecaster.variables["params"]
    return replace(forecaster, variables={"params": params, "lora": random_lora(params, rank=2)})


def test_a_model_whose_logits_are_not_finite_is_not_asked_on(tuned, language):
    lora = {**tuned.variables["lora"], "lm_head": {"bias": tuned.variables["lora"]["lm_head"]["bias"].at[-1].set(jnp.nan)}}
    broken = replace(tuned, variables={**tuned.variables, "lora": lora})
    with pytest.raises(NotFinite, match=r"prompt 0, sample 0, token 1 \(step 1\): the model's logits are not finite"):
        answers(broken, language, PROMPTS[:1], 24)
    text = text_windows(language, TEXT, 32, 16, 256)
    with pytest.raises(NotFinite, match="windows 0 to 1 of the text: the model's likelihoods are not finite"):
        read(broken, text, 2)


# ------------------------------------------------------------------------------------------------- the tokenizer


def test_a_prompt_is_read_through_the_template_and_text_comes_back_as_it_was(language):
    assert language.chat("Hi {{ 1 }}") == "<|im_start|>user\nHi {{ 1 }}<|im_end|>\n<|im_start|>assistant\n"
    np.testing.assert_array_equal(language.encode("<|im_start|>0")[1:], language.encode("0"))
    assert len(language.encode("<|im_start|>")) == 1
    assert language.decode(language.encode(TEXT)) == TEXT
    assert [language.decode([id]) for id in language.end_ids] == ["<|im_end|>", "<|endoftext|>"]


def test_qwen_s_own_tokenizer_speaks_its_own_template(qwen):
    language = qwen[1]
    assert language.end_ids == (151_645, 151_643)
    read = language.chat("How many r in strawberry?")
    assert read.startswith("<|im_start|>system\n")
    assert read.endswith("<|im_start|>user\nHow many r in strawberry?<|im_end|>\n<|im_start|>assistant\n")
    ids = language.encode(read)
    assert ids[0] == 151_644 and language.decode(ids) == read
    assert language.decode(np.array([ROWS - 1])) == ""  # the embedding has more rows than the tokenizer has tokens
    assert language.first_bytes("🐇 and") == 4


@pytest.mark.parametrize("kind", ["embedded", "no files", "no template", "damaged", "small vocabulary"])
def test_a_base_that_cannot_be_asked_is_refused_in_one_line(kind, tiny_base, base, tmp_path):
    folder, size = Path(shutil.copytree(base, tmp_path / "b")), 264
    if kind == "no template":
        save_tokenizer(Path(shutil.copytree(tiny_base, tmp_path / "c")), None)
        folder = tmp_path / "c"
    elif kind == "damaged":
        (folder / "tokenizer.json").write_text("not json")
    elif kind in ("embedded", "no files"):
        folder = EMBEDDED_BASE if kind == "embedded" else tiny_base
    else:
        size = 258
    named = {
        "embedded": "no language tokenizer.*found 16 tokens",
        "no files": "no language tokenizer.*found no tokenizer files",
        "no template": "no chat template",
        "damaged": "unreadable tokenizer",
        "small vocabulary": "outside the vocabulary; expected < 258; found 258",
    }
    with pytest.raises(JaxlvError, match=named[kind]) as caught:
        load_language(folder, size)
    assert "\n" not in str(caught.value)


def test_generation_defaults_are_those_of_the_file(base, tmp_path):
    assert generation_defaults(base) == {key: value for key, value in DEFAULTS.items() if key != "do_sample"}
    (tmp_path / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.7}')
    found = generation_defaults(tmp_path)
    assert SamplingConfig(**found) == SamplingConfig(temperature=0.0)
    with pytest.raises(JaxlvError, match="no readable generation defaults"):
        generation_defaults(tmp_path / "gone")


# ----------------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize(
    ("expected", "right", "wrong"),
    [
        ("3.36", ["is 3.36.", "3.36", "(3.36)", "**3.36**, as"], ["13.36", "3.365", "3,36", "3.36.5", "x3.36"]),
        ("two", ["Two.", "it is TWO"], ["twofold", "network"]),
        ("C++", ["in C++, say"], ["in C+"]),
        (r"/\b(3|three)\b/", ["Three r's", "3"], ["33", "threefold", "two"]),
        ("/", ["a / b"], ["ab"]),
    ],
)
def test_an_answer_passes_where_what_is_expected_stands_in_it(expected, right, wrong):
    prompt = Prompt("?", expected)
    assert [prompt.passed(answer) for answer in [*right, *wrong]] == [True] * len(right) + [False] * len(wrong)


def test_nothing_expected_is_nothing_passed():
    assert Prompt("?").passed("anything") is None


def test_the_five_prompts_of_the_report_and_their_answers():
    said = ["There are three.", "It is 2.", "3.36", "The next one is 13.", ""]
    assert [prompt.passed(answer) for prompt, answer in zip(probe.PROMPTS, said, strict=True)] == [True] * 4 + [None]
    wrong = ["It stands for red.", "It is 3.", "3.26", "An arithmetic sequence."]
    assert not any(prompt.passed(answer) for prompt, answer in zip(probe.PROMPTS, wrong, strict=False))
    assert "no more of this prompt" in probe.PROMPTS[-1].note


def test_prompts_are_read_from_lines_and_from_jsonl(tmp_path):
    lines, objects = tmp_path / "p.txt", tmp_path / "p.jsonl"
    lines.write_text("one\r\n\n  two \n{}\n", newline="")
    assert read_prompts(lines) == [Prompt("one"), Prompt("two"), Prompt("{}")]
    objects.write_text(
        '{"prompt": "a\\nb", "expected": "/x|y/"}\n\n{"prompt": "\u2028"}\n{"prompt": "c", "expected": null}\n'
    )
    with pytest.raises(JaxlvError, match="line 3: not a prompt"):
        read_prompts(objects)
    objects.write_text(
        '{"prompt": "a\\nb", "expected": "/x|y/"}\n\n{"prompt": "\u2028d"}\n{"prompt": "c", "expected": null}\n'
    )
    assert read_prompts(objects) == [Prompt("a\nb", "/x|y/"), Prompt("\u2028d"), Prompt("c")]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "no prompts"),
        ("how many\n", "line 1: not JSON"),
        ('{"prompt": "a"}\n["b"]\n', "line 2: not a prompt"),
        ('{"prompt": 3}\n', "line 1: not a prompt"),
        ('{"prompt": "a", "expect": "b"}\n', "unknown key expect; expected prompt or expected"),
        ('{"prompt": "a", "expected": 3}\n', "expected answer is not a text; found 3"),
        ('{"prompt": "a", "expected": "/(/"}\n', "line 1: not a regular expression"),
        ('{"prompt": "\\ud800"}\n', "line 1: not JSON"),
        (b"\xff\xfe", "not a text; expected UTF-8"),
        (b" " * (LIMITS["text"] + 1), "too large; expected at most 8388608 bytes"),
        (None, "no such file"),
    ],
)
def test_prompts_that_are_none_are_named_with_their_line(content, named, tmp_path):
    path = tmp_path / "p.jsonl"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(JaxlvError, match=named) as caught:
        read_prompts(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


# ----------------------------------------------------------------------------------------------------- answers


def theirs(hf: Any, folder: Path, prompt: str, new_tokens: int, end_ids: tuple[int, ...]) -> str:
    """The greedy answer by transformers alone: its tokenizer, its template, its generate."""
    torch = pytest.importorskip("torch")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": prompt}]
    batch = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": list(end_ids)}
    with torch.no_grad():
        ids = hf.generate(**batch, max_new_tokens=new_tokens, **options)[0, batch["input_ids"].shape[1] :].tolist()
    return tokenizer.decode(ids[:-1] if ids[-1] in end_ids else ids)


@pytest.fixture(scope="module")
def twin(base) -> Any:
    """The model of that base in transformers."""
    pytest.importorskip("torch").set_num_threads(1)
    hf = Qwen2ForCausalLM.from_pretrained(base, attn_implementation="eager")
    hf.generation_config = GenerationConfig()
    return hf


def test_qwen_s_template_ids_answer_and_text_are_those_of_transformers(random_hf, qwen, forecaster):
    """Qwen's own tokenizer and its 151,936 rows: the whole path, except for the size of the layers."""
    folder, language = qwen
    hf = random_hf(**{**SIZES, "hidden_size": 16, "vocab_size": ROWS})
    hf.save_pretrained(folder)
    model, params = weights.load_pretrained(folder)
    speaker = replace(forecaster, model=model, variables={"params": params})
    found = answers(speaker, language, PROMPTS[:1], 24)[0]
    assert found.text == theirs(hf, folder, PROMPTS[0].text, 24, language.end_ids)
    assert (found.tokens, found.ended) == (24, False)


@pytest.mark.parametrize("early", [False, True])
def test_answers_are_those_of_transformers_and_end_where_theirs_do(early, base, forecaster, language, twin):
    """A token that comes up on the way is made an end: the answer stops before it."""
    prompt = PROMPTS[0]
    if early:
        alphabet = replace(forecaster.alphabet, end_ids=language.end_ids)
        asked = Prompts([language.encode(language.chat(prompt.text))])
        ids_C = forecaster.generated(asked, 1, 24, alphabet=alphabet).ids_SNC[0, 0]
        language = replace(language, end_ids=(*language.end_ids, int(ids_C[9])))
    found = answers(forecaster, language, [prompt], 24)[0]
    assert found.text == theirs(twin, base, prompt.text, 24, language.end_ids)
    assert (found.ended, found.tokens <= 9) == ((True, True) if early else (False, False))


@pytest.mark.parametrize("end", [0, 1], ids=["im_end", "endoftext"])
def test_an_answer_ends_at_either_end_token(end, tuned, language):
    """A head that thinks of nothing but the end."""
    bias_V = np.zeros(264, np.float32)
    bias_V[language.end_ids[end]] = 1e4
    lora = tuned.variables["lora"]
    lora = {**lora, "lm_head": {**lora["lm_head"], "bias": jax.numpy.asarray(bias_V)}}
    silent = replace(tuned, variables={**tuned.variables, "lora": lora})
    found = answers(silent, language, PROMPTS[:1], 24)[0]
    assert (found.text, found.tokens, found.ended, found.passed) == ("", 0, True, False)


@pytest.fixture(scope="module")
def warm(forecaster, language) -> list[Answer]:
    heard: list[int] = []
    found = answers(replace(forecaster, sampling=WARM), language, PROMPTS, 24, seed=4, batch=1, on_batch=heard.append)
    assert heard == [1, 2, 3]
    return found


def test_an_answer_does_not_depend_on_its_batch(forecaster, language, warm):
    assert answers(replace(forecaster, sampling=WARM), language, PROMPTS, 24, seed=4, batch=8) == warm


def test_seeds_differ_and_answers_are_checked(forecaster, language, warm):
    other = answers(replace(forecaster, sampling=WARM), language, PROMPTS, 24, seed=5, batch=1)
    assert all(a.text != b.text for a, b in zip(warm, other, strict=True))
    assert [answer.passed for answer in warm] == [PROMPTS[0].passed(warm[0].text), None, True]


def test_the_overlay_answers_otherwise(tuned, forecaster, language):
    one, other = (answers(f, language, PROMPTS[:1], 24)[0] for f in (tuned, forecaster))
    assert one.text != other.text


def test_a_prompt_longer_than_the_positions_is_refused(forecaster, language):
    with pytest.raises(JaxlvError, match=r"at most 256 tokens; found 245 \+ 24.*--max-new-tokens"):
        answers(forecaster, language, [Prompt("x" * 226)], 24)


# ------------------------------------------------------------------------------------------- perplexity of a text


def as_in_the_docs(hf: Any, ids: np.ndarray, length: int, stride: int) -> tuple[float, int]:
    """(nats, tokens scored) by the loop of "Perplexity of fixed-length models" in transformers' documentation."""
    torch = pytest.importorskip("torch")
    ids_1T, nats, tokens, previous = torch.as_tensor(ids[None]).long(), 0.0, 0, 0
    for begin in range(0, ids_1T.shape[1], stride):
        end = min(begin + length, ids_1T.shape[1])
        inputs = ids_1T[:, begin:end]
        targets = inputs.clone()
        targets[:, : -(end - previous)] = -100
        valid = int((targets[:, 1:] != -100).sum())  # the first token of an input has no prediction
        with torch.no_grad():
            nats += float(hf(inputs, labels=targets).loss) * valid
        tokens, previous = tokens + valid, end
        if end == ids_1T.shape[1]:
            return nats, tokens
    raise AssertionError


@pytest.mark.parametrize(("length", "stride", "batch"), [(64, 32, 2), (64, 63, 2), (50, 7, 3)])
def test_nats_are_those_of_the_loop_in_transformers_documentation(length, stride, batch, forecaster, language, twin):
    heard: list[int] = []
    text = text_windows(language, TEXT, length, stride, 256)
    found = read(forecaster, text, batch, heard.append)
    nats, tokens = as_in_the_docs(twin, language.encode(TEXT), length, stride)
    assert found.tokens == tokens == text.tokens - 1
    assert found.nats == pytest.approx(nats, rel=1e-5)
    assert heard[-1] == text.windows.number


def test_one_window_is_the_whole_text_at_once(tuned, language):
    ids = language.encode(TEXT)
    logits_TV = np.asarray(jax.jit(tuned.model.apply)(tuned.variables, ids[None])[0], np.float64)
    log_p_TV = logits_TV - np.log(np.exp(logits_TV).sum(-1, keepdims=True))
    expected = -log_p_TV[np.arange(len(ids) - 1), ids[1:]].sum()
    found = read(tuned, text_windows(language, TEXT, 256, 128, 256))
    assert found.nats == pytest.approx(expected, rel=1e-5)
    assert found.nats_per_token == found.nats / (len(ids) - 1)
    assert found.perplexity == pytest.approx(math.exp(expected / (len(ids) - 1)), rel=1e-4)
    # One token is one byte here, so a token's nats and a byte's bits differ by log 2 alone; "é" is two bytes, and the
    # offset of its first is that of the whole character.
    assert found.bytes == len(TEXT.encode()) - 2
    assert found.bits_per_byte == pytest.approx(found.nats / math.log(2) / found.bytes)


def test_the_cost_of_a_text_by_hand():
    """Eight tokens of 24 bytes at 12 nats: 1.5 a token, a perplexity of e^1.5, 12 / ln 2 bits over 24 bytes."""
    reading = probe.Reading(12.0, 8, 24)
    assert reading.nats_per_token == 1.5 and reading.perplexity == pytest.approx(math.exp(1.5))
    assert reading.bits_per_byte == pytest.approx(0.5 / math.log(2))


@pytest.mark.parametrize(("length", "stride"), [(64, 32), (64, 63), (50, 7), (9, 1)])
def test_every_token_but_the_first_is_scored_once_behind_most_of_its_context(length, stride, language):
    ids = language.encode(TEXT)
    windows = text_windows(language, TEXT, length, stride, 256).windows
    scored = []
    for row in range(windows.number):
        part = windows.rows(row)
        for place in np.flatnonzero(part.labels_ML != IGNORED):
            target = row * stride + place + 1
            assert part.labels_ML[place] == ids[target]
            assert row == 0 or place + 1 >= length - stride  # with more before it than any later window shows
            scored.append(target)
    assert scored == list(range(1, len(ids)))


@pytest.mark.parametrize(
    ("text", "length", "stride", "named"),
    [
        ("a", 64, 32, "too short to be scored; expected at least 2 tokens; found 1"),
        ("", 64, 32, "found 0"),
        (TEXT, 64, 64, "--stride: not a stride; expected 1 to 63 tokens; found 64"),
        (TEXT, 257, 32, "--window: longer than the model's positions; expected at most 256 tokens"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused(text, length, stride, named, language):
    with pytest.raises(JaxlvError, match=named):
        text_windows(language, text, length, stride, 256)


def test_both_are_reserved_at_the_price_of_the_whole_vocabulary(forecaster, language, tmp_path):
    """Even in a run that was trained over the 13 symbols alone."""
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, Terms(10**12, "exact", forecaster.model.config)) as opened:
        meter = Meter(opened, "evaluation", Event("train_step", 1, 1, head="alphabet", accumulate=4))
        metered = replace(forecaster, meter=meter)
        answers(metered, language, PROMPTS, 24, batch=2)
        read(metered, text_windows(language, TEXT, 64, 32, 256), batch=2)
    _, entries = ledger.read(path)
    shapes = [(e.event.kind, e.event.batch, e.event.length, e.event.new_tokens, e.event.head) for e in entries]
    assert shapes[:2] == [("generation", 2, 64, 24, "frozen")] * 2
    assert set(shapes[2:]) == {("validation", 2, 64, 0, "frozen")} and len(shapes) > 3
    assert all(entry.committed for entry in entries) and ledger.verify(path) == []


# -------------------------------------------------------------------------------------------------- the program


@pytest.fixture(scope="module")
def trained(base, waves, tmp_path_factory) -> Path:
    """A run of two steps on that base, under a budget."""
    folder = tmp_path_factory.mktemp("runs")
    series.save(folder / "waves.h5", waves(12, 24))
    tree = {
        "data": {"path": str(folder / "waves.h5"), "fractions": (0.5, 0.25, 0.25)},
        "windows": {"length": 64, "context_steps": (6, 10)},
        "model": {"path": str(base)},
        "lora": {"rank": 2},
        "optimizer": {"learning_rate": 0.3},
        "train": {"steps": 2, "batch_size": 2, "validate_every": 0},
        "evaluate": {"context": 6, "horizon": 2},
        "budget": {"flops": 1e12},
    }
    config = build_config(RunConfig, tree)
    training.train(config, folder / "run", sources.load_inputs(config))
    return folder / "run"


@pytest.fixture(scope="module")
def probed(trained) -> tuple[dict, str, Path]:
    """(probe.json, what was said, the folder) of a run that was asked three prompts and read a text."""
    out, prompts, text = (trained.parent / name for name in ("probed", "p.jsonl", "t.txt"))
    prompts.write_text("\n".join(json.dumps({"prompt": p.text, "expected": p.expected}) for p in PROMPTS))
    text.write_bytes(TEXT.encode())
    more = ["--prompts", prompts, "--text", text, "--window", 64, "--max-new-tokens", 24, "--batch", 2, "--out", out]
    said = done("probe", trained, *more)
    return json.loads((out / "probe.json").read_text()), said, out


def test_a_run_is_asked_before_and_after_tuning(probed, trained, language):
    result, said, out = probed
    finished = run.load_run(trained)
    for name in ("untuned", "tuned"):
        plain = replace(getattr(finished, name), sampling=GREEDY)
        found = answers(plain, language, PROMPTS, 24, batch=2)
        assert [entry["answers"][name]["text"] for entry in result["prompts"]] == [answer.text for answer in found]
        reading = read(plain, text_windows(language, TEXT, 64, 32, 256), batch=2)
        assert result["text"]["models"][name]["nats"] == pytest.approx(reading.nats, rel=1e-4)
    assert result["sampling"] == {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    assert result["prompts"][0]["read"] == language.chat("How many?")
    assert (result["text"]["file"], result["text"]["bytes"]) == ("t.txt", len(TEXT.encode()))
    assert "sampling: temperature 0 (greedy), top-k off, top-p 1 (off), repetition penalty 1; at most 24 tokens" in said
    assert "answers (tuned): 3/3" in said and "text (untuned): " in said and "t.txt, tuned: perplexity" in said
    table = pd.read_csv(out / "probe.csv", keep_default_na=False)
    assert list(table) == ["prompt", "expected", "model", "answer", "tokens", "ended", "passed"]
    assert list(table.model) == ["untuned", "tuned"] * 3
    assert list(table.prompt[::2]) == [prompt.text for prompt in PROMPTS]


def test_the_budget_pays_for_everything(probed, trained):
    result = probed[0]
    _, entries = ledger.read(trained / run.LEDGER)
    spent = [entry for entry in entries if entry.phase == "evaluation"]
    assert [entry.event.kind for entry in spent[:4]] == ["generation"] * 4  # two batches of each model
    assert {entry.event.rank for entry in spent} == {0}  # adapters are merged into the weights, beside a trained bias too
    assert result["flops"]["spent"] == sum(entry.flops for entry in spent) > 0
    assert ledger.verify(trained / run.LEDGER) == []


def test_what_the_budget_does_not_hold_is_not_done(trained, tmp_path):
    poor = Path(shutil.copytree(trained, tmp_path / "poor"))
    terms, entries = ledger.read(poor / run.LEDGER)
    left = str(int(sum(entry.flops for entry in entries if entry.event.kind == "train_step")) + 10)
    forge_all(poor / run.LEDGER, lambda all: [all[0] | {"budget": int(left)}])
    text = (poor / run.CONFIG).read_text()
    (poor / run.CONFIG).write_text(text.replace("flops = 1000000000000.0", f"flops = {left}.0"))
    reseal(poor)
    outcome = jaxlv("probe", poor, "--max-new-tokens", 256 - 100, "--batch", 5)
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "the budget does not hold 1 generation of 5 x " in outcome.err
    assert terms.budget == 10**12


def test_a_bare_model_is_asked_the_five_prompts(base, tmp_path):
    command = ["probe", base, "--batch", 1, "--max-new-tokens", 24, "--seed", 3, "--out", tmp_path / "o"]
    with full_disk():
        assert "No space left" in jaxlv(*command).err and not list(tmp_path.iterdir())
    (tmp_path / "o").mkdir()
    for name in ("probe.json", "older.csv"):
        (tmp_path / "o" / name).touch()
    assert "exists already; choose another folder, or --overwrite" in jaxlv(*command).err
    said = done(*command, "--overwrite")
    assert not (tmp_path / "o" / "older.csv").exists()
    result = json.loads((tmp_path / "o" / "probe.json").read_text())
    assert [entry["prompt"] for entry in result["prompts"]] == [prompt.text for prompt in probe.PROMPTS]
    assert all(list(entry["answers"]) == ["untuned"] for entry in result["prompts"])
    assert (result["text"], result["flops"], result["seed"]) == (None, None, 3)
    assert "no more of this prompt than these words" in said
    assert "no more of this prompt than these words" in (tmp_path / "o" / "report.html").read_text()


@pytest.mark.parametrize(
    ("more", "changes"),
    [
        ([], {}),
        (["--temperature", "0.4"], {"temperature": 0.4}),
        (["--generation-defaults"], {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1}),
        (
            ["--generation-defaults", "--set", "sampling.top_k=5", "--set", "sampling.top_p=0.6", "--top-p", "0.5"],
            {"temperature": 0.7, "top_k": 5, "top_p": 0.5, "repetition_penalty": 1.1},
        ),
    ],
)
def test_options_go_before_set_and_set_before_the_model_s_own(more, changes, base, monkeypatch):
    asked: list[study.Questions] = []

    def probe(questions: study.Questions, *_: Any, **__: Any) -> None:
        asked.append(questions)
        raise JaxlvError("asked")

    monkeypatch.setattr(study, "probe", probe)
    assert jaxlv("probe", base, *more).err == "jaxlv: asked\n"
    config, sampling = study.settings(*asked)
    assert sampling == replace(GREEDY, **changes)
    assert config.model.path == str(base)


def test_without_a_folder_the_answers_are_shown_all_the_same(base, tmp_path, probed):
    (tmp_path / "p.txt").write_text(f"{PROMPTS[0].text}\n\n{PROMPTS[1].text}\n")
    said = done("probe", base, "--max-new-tokens", 24, "--prompts", tmp_path / "p.txt")
    given = [entry["answers"]["untuned"]["text"] for entry in probed[0]["prompts"][:2]]
    assert all(page.printable(text).split("\n")[0].split(" ")[0] in said for text in given)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--prompts", "gone.txt"], "gone.txt: no such file"),
        (["--text", "gone.txt"], "gone.txt: no such file"),
        (["--max-new-tokens", 250], "longer than the model's positions"),
        (["--text", "{text}", "--window", 999], "--window: longer than the model's positions"),
        (["--text", "{text}", "--stride", 512], "--stride: not a stride; expected 1 to 511 tokens; found 512"),
        (["--top-p", 2], "for --top-p: '2' is not"),
        (["--set", "sampling.top_q=2"], "not a setting of a probe"),
        (["--set", "train.steps=2"], "--set train.steps: not a setting of a probe"),
        (["--set", "model.path=x"], "--set model.path: not a setting of a probe"),
        (["--set", "sampling=2"], "not a setting of a probe"),
        (["--out", "{base}"], "exists already"),
    ],
)
def test_bad_input_is_one_line(more, named, base, tmp_path):
    (tmp_path / "t.txt").write_text(TEXT)
    places = {"{text}": tmp_path / "t.txt", "{base}": base}
    more = [places.get(part, part) for part in more]
    options = more if "--out" in more else [*more, "--out", tmp_path / "new"]
    outcome = jaxlv("probe", base, *options)
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert named in outcome.err
    assert not (tmp_path / "new").exists()


def test_a_run_keeps_its_model(trained):
    outcome = jaxlv("probe", trained, "--set", "model.dtype=bfloat16")
    assert outcome.code == 2 and "--set model.dtype: not a setting of a probe" in outcome.err


# ------------------------------------------------------------------------------------------------------ the page


def result_of(prompts: list[Prompt], said: list[str]) -> dict[str, Any]:
    """A probe.json of two models that said the same."""
    given = [
        {"text": text, "tokens": 5, "ended": True, "passed": p.passed(text)} for p, text in zip(prompts, said, strict=True)
    ]
    costs = {"nats": 10.0, "tokens_scored": 8, "nats_per_token": 1.25, "perplexity": 3.49, "bits_per_byte": 0.5}
    return {
        "subject": "a <run>",
        "base": "a <base>",
        "prompts_from": "<file>",
        "sampling": {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0},
        "max_new_tokens": 24,
        "seed": 0,
        "prompts": [
            {"prompt": p.text, "expected": p.expected, "note": None, "read": p.text, "answers": dict.fromkeys(MODELS, a)}
            for p, a in zip(prompts, given, strict=True)
        ],
        "text": {
            "file": "<t>", "sha256": "0", "bytes": 20, "tokens": 9, "window": 64, "stride": 32,
            "models": {"untuned": costs, "tuned": {**costs, "perplexity": 3.0}},
        },
        "flops": {"convention": "exact", "spent": 12_345_678, "left": 10},
        "versions": {"python": "3.11"},
    }  # fmt: skip


MODELS = ("untuned", "tuned")
HOSTILE = "<script>alert(1)</script></blockquote> & \x1b[31mred\x07 \x00 \u202eevil\r\nnext  line"


def test_what_prompts_and_answers_say_is_text_on_the_page(tmp_path):
    result = result_of([Prompt(HOSTILE, "next")], [HOSTILE])
    write(tmp_path / "r.html", page.page_of(Probe.read(result, "probe.json")))
    html = (tmp_path / "r.html").read_text()
    tree = Tree(html)
    assert tree.count("script") == 1 and not {"\x1b", "\x07", "\x00"} & set(html)
    assert ("script", "alert(1)") not in tree.texts
    quoted = [text for tag, text in tree.texts if tag == "blockquote"]
    assert len(quoted) == 3 and all(text.endswith("evil\nnext  line") for text in quoted)
    assert [text for tag, text in tree.texts if tag == "h4"] == ["untuned", "tuned"]
    assert [text for tag, text in tree.texts if tag == "span" and text in ("pass", "fail")] == ["pass", "pass"]
    assert not any(name in attributes for _, attributes in tree.tags for name in ("src", "onclick"))


def test_the_summary_counts(tmp_path):
    result = result_of(PROMPTS, ["There are 3.", "no", ""])
    result["prompts"][0]["answers"]["tuned"] = {"text": "4", "tokens": 24, "ended": False, "passed": False}
    assert page.summary(Probe.read(result, "probe.json")) == (
        "3 prompts (<file>) through the chat template of a <base>. Passed, of 2 with an expected answer: 1 untuned, 0 tuned."
        " The same word for word: 2 of 3 answers. Perplexity per token of <t>: 3.49 untuned, 3.00 tuned."
    )
    assert Probe.read(result, "probe.json").counts("tuned") == Counts(passed=0, checked=2, ended=2, tokens=34, answers=3)


def test_the_listing_keeps_lines_and_width_and_obeys_no_control_character():
    result = result_of([Prompt(HOSTILE), Prompt("long", "no")], ["one\n\n" + "word " * 60 + "\x1b[2J", "no"])
    listing = page.format_answers(Probe.read(result, "probe.json"))
    assert max(map(len, listing.splitlines())) <= 110 and "\x1b" not in listing
    assert "   untuned        one\n" in listing and "   tuned    pass  no" in listing
    assert "(expected: no)" in listing


@pytest.mark.parametrize(("said", "seen"), [("", "–"), ("\n\t\n", "(nothing but white space)"), ("\n a", "a")])
def test_an_answer_that_cannot_be_seen_is_described(said, seen, tmp_path):
    result = result_of([Prompt("?")], [said])
    write(tmp_path / "r.html", page.page_of(Probe.read(result, "probe.json")))
    assert [text for tag, text in Tree((tmp_path / "r.html").read_text()).texts if tag == "blockquote"][:2] == [seen] * 2
    assert seen in page.format_answers(Probe.read(result, "probe.json"))


def test_a_prompt_s_answers_stand_under_what_is_expected_and_noted():
    answer = Answer(text="Paris", tokens=1, ended=True, passed=True)

    def told(**more: Any) -> str:
        return page.answer_block(Asked("Capital?", {"untuned": answer}, **more), 2).note

    assert told(expected="Paris", note="easy") == "Expected: Paris; easy"
    assert (told(expected="Paris"), told(note="easy"), told()) == ("Expected: Paris", "easy", "")
