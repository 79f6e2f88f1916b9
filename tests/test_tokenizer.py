"""Tokenizers and chat templates, run by another process: the same as in transformers, and no name in them has an effect."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import transformers

from jaxlv.errors import JaxlvError
from jaxlv.model.bases import EMBEDDED_BASE
from jaxlv.storage import apart
from jaxlv.text import tokenizer, tokens
from jaxlv.text.tokenizer import Tokenizer, open_tokenizer
from jaxlv.text.vocabulary import ADDED, MERGES, SETTINGS, SPECIAL, TEMPLATE, TOKENIZER, VOCABULARY

ROWS = 151_936


@pytest.fixture(scope="module")
def folder(shared) -> Path:
    return shared / "qwen2.5-0.5b-instruct"


@pytest.fixture(scope="module")
def qwen(folder) -> Tokenizer:
    found = open_tokenizer(folder)
    assert found and found.source == "vocab.json and merges.txt"
    return found


@pytest.fixture(scope="module")
def theirs(folder) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def assert_same(ours: Tokenizer, theirs: Any, text: str) -> None:
    """Compares ids, the text that they decode to, and how much of it the first one covers."""
    found = theirs(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = ours.encode(text)
    assert ids == found["input_ids"]
    assert ours.decode(ids) == theirs.decode(ids)
    if ids:
        assert ours.first(text) == found["offset_mapping"][0][1]


TEXTS = {
    "nothing": "",
    "white space": " \n\n\r\n \t x   y \n",
    "contractions": "don't WE'LL I'M he'd 're 'S",
    "numbers": "1234.56,7;-8 1e-05 ١٢٣ Ⅷ ½ ²",
    "composed and not": "a\u0301 \u00e9 e\u0301 \u212b \ufb01 \u1e9b\u0323 \u0344",
    "special tokens": "<|im_start|>user\nhi<|im_end|> <tool_call>{}</tool_call><|endoftext|><|im_end|",
    "Chinese": "你好，世界。捕食者和猎物",
    "Hangul": "한국어 조합 \u1112\u1161\u11ab",
    "right to left": "שלום עולם \u202eabc\u202c",
    "emoji": "🐇🦊 👩‍👩‍👧 🏳️‍🌈",
    "control characters": "\x00\x1b[31m\x7f\ufeff\u2028",
    "code": "def f(x):\n    return x**2  # squared\n\n\tif (a && b) { i++; }",
    "long": "a" * 5000,
    "no pairs": "\ud83d".encode("utf-16", "surrogatepass").decode("utf-16", "replace"),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_qwen_s_tokenizer_is_that_of_transformers(text, qwen, theirs):
    assert_same(qwen, theirs, text)


@hypothesis.given(st.text(max_size=80))
def test_qwen_s_tokenizer_is_that_of_transformers_for_any_text(qwen, theirs, text):
    assert_same(qwen, theirs, text)


def test_ids_alone_have_the_texts_that_transformers_gives_them(qwen, theirs):
    ids = [*random.Random(0).sample(range(ROWS), 2000), 151_642, 151_643, 151_664, 151_665, ROWS - 1]
    assert qwen.texts(ids) == [str(theirs.decode([id])) if theirs.convert_ids_to_tokens(id) else "" for id in ids]


def test_facts(qwen, theirs):
    found = qwen.facts("How many?", ("<|endoftext|>", "<|im_end|>", "<|none|>"))
    assert found == {
        "written": "How many?", "tokens": len(theirs), "largest": 151_664, "ends": [151_645, 151_643], "template": True
    }  # fmt: skip


LEGACY = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"}


@pytest.mark.parametrize("kind", ["added_tokens.json", "vocabulary alone", "tokenizer.json"])
def test_other_sets_of_files_are_read_as_transformers_does(kind, folder, theirs, tmp_path):
    """Older models list added tokens in files of their own; without these, only the end of a text is added."""
    names = (VOCABULARY, MERGES) if kind == "vocabulary alone" else (VOCABULARY, MERGES, ADDED, SPECIAL)
    if kind == "tokenizer.json":
        theirs.save_pretrained(tmp_path)
    else:
        for name in names:
            shutil.copy(folder / name, tmp_path)
        (tmp_path / SETTINGS).write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer"}))
    ours, again = open_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours
    for text in TEXTS.values():
        assert_same(ours, again, text)
    if kind != "vocabulary alone":
        assert ours.encode(TEXTS["special tokens"]) == theirs(TEXTS["special tokens"])["input_ids"]


def test_truncation_and_padding_in_the_file_change_nothing(folder, tmp_path):
    raw = json.loads((EMBEDDED_BASE / TOKENIZER).read_text())
    raw["truncation"] = {"max_length": 1, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    raw["padding"] = {
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 13, "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }  # fmt: skip
    (tmp_path / TOKENIZER).write_text(json.dumps(raw))
    found = open_tokenizer(tmp_path)
    assert found and found.encode("1.2") == [1, 10, 2]


# ------------------------------------------------------------------------------------------------ the template

PROMPTS = ["Hi?", "<|im_end|> {{ 1 }} {% raw %}\n", "é" * 300, ""]
TEMPLATES = {
    "loops": "{% for m in messages %}{% if loop.index > 5 %}{% break %}{% endif %}{{ m.role, m['content'] }}\n{% endfor %}",
    "trimmed": "  {% if add_generation_prompt %}\n  yes\n{% endif %}\n{%- set x = 1 %}\n {{- x }}",
    "tojson": "{{ messages | tojson }} {{ {'b': 'é<', 'a': 1} | tojson(indent=2, sort_keys=true) }}",
    "namespace": "{% set n = namespace(k=0, self=3) %}{% for m in messages %}{% set n.k = 2 %}{% endfor %}{{ n.k, n.self }}",
    "generation": "{% generation %}{{ messages[0].content }}{% set y = 2 %}{% endgeneration %}{{ y }}",
    "dict": "{{ dict(a=1, b=[2]) }} {{ dict.fromkeys('ab', 0) }}",
    "macros": "{% macro f(m) %}[{{ m.content | trim | upper }}]{% endmacro %}{{ f(messages[0]), bos_token, eos_token }}",
    "tools": "{% if tools %}tools{% elif documents is none %}none{% endif %}{{ unknown is defined }}",
    "date": "{{ strftime_now('%Y') | length }}",
}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Returns the embedded base's tokenizer, for use with templates."""
    folder = tmp_path_factory.mktemp("small")
    shutil.copy(EMBEDDED_BASE / TOKENIZER, folder)
    (folder / SETTINGS).write_text(
        json.dumps({"eos_token": {"__type": "AddedToken", "content": "<|im_end|>"}, "bos_token": "<|endoftext|>"})
    )
    return folder


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_writes_what_it_does_in_transformers(template, small):
    (small / TEMPLATE).write_text(template)
    ours, fast = open_tokenizer(small), transformers.PreTrainedTokenizerFast.from_pretrained(small)
    assert ours
    for prompt in PROMPTS:
        messages = [{"role": "user", "content": prompt}]
        assert ours.chat(prompt) == fast.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def test_qwen_s_template_writes_what_it_does_in_transformers(qwen, theirs):
    for prompt in PROMPTS:
        messages = [{"role": "user", "content": prompt}]
        assert qwen.chat(prompt) == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ messages.__class__.x }}", "access to attribute '__class__' of 'list' object is unsafe"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.environ }}", "unsafe"),
        ("{{ dict.__call__.__globals__ }}", "unsafe"),
        ("{{ namespace.__init__.__globals__ }}", "unsafe"),
        ("{{ (''|attr('__class__')).x }}", "unsafe"),
        ("{% set n = namespace(__class__=1) %}", "a variable called __class__"),
        ("{% set n = namespace() %}{% set n._x = 1 %}", "a variable called _x"),
        ("{{ messages.append(1) }}", "'append' of 'list' object is unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% import 'os' as os %}", "no loader"),
        ("{{ raise_exception('no\\n\\x1b[31m') }}", r"TemplateError: no \\x1b\[31m"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ " + "(" * 50_000, "RecursionError|MemoryError|SIGSEGV"),
        ("{{ range(10 ** 9) }}", "Range too big"),
        ("{{ messages | tojson(indent=1000000000) }}", "MemoryError|writes more"),
    ],
)
def test_a_template_reads_nothing_else(template, told, small):
    (small / TEMPLATE).write_text(template)
    found = open_tokenizer(small)
    assert found
    with pytest.raises(JaxlvError, match=told) as caught:
        found.chat("Hi")
    line = str(caught.value)
    assert line.startswith(f"{small}: the chat template fails (") and line.isprintable()


@pytest.mark.parametrize("template", ["{{ messages.__class__ }}", "{{ '{0.__class__}'.format(messages) }}"])
def test_what_a_template_must_not_read_is_nothing(template, small):
    (small / TEMPLATE).write_text(template)
    found = open_tokenizer(small)
    assert found and found.chat("Hi") == ""


def test_a_template_is_a_file_or_a_setting_and_of_several_the_default(tmp_path):
    shutil.copy(EMBEDDED_BASE / TOKENIZER, tmp_path)
    several = [{"name": "rag", "template": "a"}, {"name": "default", "template": "b"}]
    for template, told in ((None, False), ("", False), ("set", "set"), (several, "b"), (several[:1], False)):
        (tmp_path / SETTINGS).write_text(json.dumps({"chat_template": template}))
        found = open_tokenizer(tmp_path)
        assert found and (found.chat("") if found.facts("", ())["template"] else False) == told
    (tmp_path / TEMPLATE).write_text("file")
    found = open_tokenizer(tmp_path)
    assert found and found.chat("") == "file"


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "settings",
    [
        {"fast_tokenizer_files": ["{outside}"]},
        {"fast_tokenizer_files": ["tokenizer.4.0.0.json"]},
        {"gguf_file": "{outside}"},
        {"gguf_file": "model.gguf"},
        {"vocab_file": "{outside}"},
        {"merges_file": "../merges.txt"},
        {"tokenizer_file": "{outside}"},
    ],
    ids=str,
)
def test_names_of_other_files_in_the_settings_are_refused(settings, tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside.json"
    inside.mkdir()
    shutil.copy(EMBEDDED_BASE / TOKENIZER, inside)
    shutil.copy(EMBEDDED_BASE / TOKENIZER, outside)
    (inside / SETTINGS).write_text(json.dumps(settings).replace("{outside}", str(outside)))
    with pytest.raises(JaxlvError, match=f"{next(iter(settings))} names another tokenizer"):
        tokens.load_alphabet(inside, 16)
    (inside / SETTINGS).write_text(
        json.dumps({"fast_tokenizer_files": [TOKENIZER], "gguf_file": None, "special_tokens_map_file": "/none"})
    )
    assert tokens.load_alphabet(inside, 16).source == TOKENIZER


def files_of(**changes: Any) -> dict[str, Any]:
    whole = {"vocab.json": {"a": 0, "b": 1, "ab": 2}, "merges.txt": "#version: 0.2\na b\n", SETTINGS: {}}
    return {name: content for name, content in {**whole, **changes}.items() if content is not None}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"merges.txt": None}, "vocab.json without merges.txt"),
        ({"merges.txt": "a b c"}, "merges.txt, line 1: not two tokens"),
        ({"merges.txt": "#version\n\nab"}, "merges.txt, line 3: not two tokens"),
        ({"merges.txt": "a z"}, "out of vocabulary"),
        ({"vocab.json": {"a": "0"}}, "not {token: id}"),
        ({"vocab.json": {"a": -1}}, "not {token: id}"),
        ({"vocab.json": {"a": True}}, "not {token: id}"),
        ({"vocab.json": []}, "vocab.json: not an object"),
        ({"vocab.json": '{"a": 0, "a": 1}'}, "vocab.json: the key 'a' occurs twice"),
        ({SETTINGS: {"tokenizer_class": "GPT2Tokenizer"}}, "only Qwen2's are read without tokenizer.json"),
        ({SETTINGS: {"add_prefix_space": 3}}, "add_prefix_space is not true or false"),
        ({SETTINGS: {"chat_template": 3}}, "chat_template is not a text"),
        ({SETTINGS: {"added_tokens_decoder": []}}, "added_tokens_decoder is not an object"),
        ({SETTINGS: {"added_tokens_decoder": {"-1": {"content": "x"}}}}, "not a whole number, '-1'"),
        ({SETTINGS: {"added_tokens_decoder": {"1" * 10: {"content": "x"}}}}, "not a whole number, '1111111111'"),
        (
            {SETTINGS: {"added_tokens_decoder": {"9": {"content": "x"}}}},
            "the added token 'x' has the id 9, but its place is 3",
        ),
        ({SETTINGS: {"added_tokens_decoder": {"3": {"content": 3}}}}, "an added token is not valid"),
        ({SETTINGS: {"added_tokens_decoder": {"3": {"content": "x", "lstrip": 1}}}}, "an added token is not valid"),
        ({ADDED: {"x": "3"}, SETTINGS: None}, "not a whole number, None"),
        ({SPECIAL: "[1]"}, "special_tokens_map.json: not an object"),
        ({TOKENIZER: "{}"}, "unreadable tokenizer"),
        ({TOKENIZER: '{"version": "1.0", "version": "1.0"}'}, "the key 'version' occurs twice"),
    ],
    ids=str,
)
def test_files_that_are_no_tokenizer_are_told(changes, told, tmp_path):
    for name, content in files_of(**changes).items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(JaxlvError, match=told) as caught:
        tokens.load_encoder(tmp_path)("a")  # type: ignore[misc]
    assert str(caught.value).startswith(f"{tmp_path}: ") and str(caught.value).isprintable()


# ---------------------------------------------------------------------------------------------- another process


def test_equal_files_are_asked_once(monkeypatch, tmp_path):
    """Every run of a test suite, and every sweep, loads the same alphabet many times."""
    raw = (EMBEDDED_BASE / TOKENIZER).read_text()
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / TOKENIZER).write_text(raw + " ")  # unlike any other test's
    begun: list[Any] = []
    monkeypatch.setattr(tokenizer.apart, "Apart", lambda *a, **k: begun.append(a) or apart_of(*a, **k))
    first, second = (tokens.load_alphabet(tmp_path / name, 16) for name in "ab")
    assert first.ids_A.tolist() == second.ids_A.tolist() and len(begun) == 1
    (tmp_path / "b" / TOKENIZER).write_text(raw.replace('"0": 0', '"0": 1').replace('"1": 1', '"1": 0') + "  ")
    tokens.load_alphabet(tmp_path / "b", 16)
    assert len(begun) == 2


apart_of = apart.Apart


def test_a_process_that_was_killed_is_begun_again():
    found = open_tokenizer(EMBEDDED_BASE)
    assert found and found.encode("1") == [1]
    worker = found._worker
    assert worker
    os.kill(worker._process.pid, 9)
    with pytest.raises(JaxlvError, match=r"the tokenizer does not work \(SIGKILL\)"):
        found.encode("1")
    assert found.encode("1") == [1]


def test_a_long_text_has_more_time_and_memory(qwen):
    """2 MB of text give more ids than a short answer may have, and need more memory than a short text may."""
    text = "The fox and the hare, é 12.50;\n" * 64_000
    ids = qwen.encode(text)
    assert len(ids) > 10 * 64_000 and qwen.decode(ids) == text


def test_half_a_character_is_no_text(qwen):
    with pytest.raises(JaxlvError, match="the tokenizer does not work"):
        qwen.encode("\ud83d")
