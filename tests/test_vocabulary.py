"""What the process that reads tokenizers does, by hand, within this process: ids, texts, facts and merges of small files."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from jaxlv.text.vocabulary import Reader


def reader(**settings: Any) -> Reader:
    """A tokenizer of two words, with an end that its post-processor puts around every text, and a token outside."""
    tokenizer = Tokenizer(models.WordLevel({"hare": 0, "lynx": 1, "<end>": 2}, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    tokenizer.add_tokens([AddedToken("fox", special=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<end> $A <end>", special_tokens=[("<end>", 2)])
    return Reader(("tokenizer.json", "tokenizer_config.json"), tokenizer.to_str().encode(), json.dumps(settings).encode())


def test_ids_have_nothing_added():
    assert reader().encode("hare lynx") == [0, 1]
    assert reader().encode("hare <end> fox") == [0, 2, 3]


def test_the_first_token_of_a_text_is_its_own():
    assert reader().first("lynx hare") == 4


def test_texts_of_ids_with_and_without_special_tokens():
    assert reader().decode([0, 2, 1]) == "hare <end> lynx"
    assert reader().words([0, 2, 1]) == "hare lynx"
    assert reader().texts([0, 2, 9]) == ["hare", "<end>", ""]


def test_facts_count_added_tokens_and_name_the_ends():
    assert reader(eos_token="fox").facts("hare fox", ("<end>", "nowhere")) == {
        "written": "hare fox", "tokens": 4, "largest": 3, "ends": [3, 2], "template": False,
    }  # fmt: skip


VOCABULARY = {"a": 0, "b": 1, "ab": 2, "#": 3, "<|endoftext|>": 4}


def from_merges(merges: str) -> Reader:
    return Reader(("vocab.json", "merges.txt"), json.dumps(VOCABULARY).encode(), merges.encode())


def test_merges_begin_with_a_version_or_without():
    for merges in ("#version: 0.2\na b\n", "a b\n", "a b", "a b\r\n\n"):
        assert from_merges(merges).encode("ab") == [2]


@pytest.mark.parametrize("line", ["ab", " b", "a ", "a b c", "a  b"])
def test_a_line_that_is_no_merge_is_named(line: str):
    with pytest.raises(ValueError, match=r"merges\.txt, line 2: not two tokens"):
        from_merges(f"a b\n{line}\n")
