"""General ability before and after tuning: answers to prompts in words, and the perplexity of a text.

An answer passes if it contains what is expected; this shows that a wrong answer is wrong, not that a right one is well
argued. A text is read in windows that overlap, and every token except the first is scored once, in the window that shows
most of the text before it (the sliding window of transformers' "Perplexity of fixed-length models").

Axes: M windows, L tokens of a window, N samples of a prompt, C new tokens.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from jaxlv.errors import JaxlvError, all_finite
from jaxlv.forecasting.likelihood import future
from jaxlv.forecasting.sampler import Sampler
from jaxlv.results.probe import Answer
from jaxlv.steps.prompts import Prompts, padded
from jaxlv.steps.train import window_loss
from jaxlv.storage.files import parse_json, read_text
from jaxlv.text.language import Language
from jaxlv.text.tokens import IGNORED, Windows, stack

KEYS = ("prompt", "expected")  # of a line of JSONL

# ------------------------------------------------------------------------------------------------- prompts


@dataclass(frozen=True)
class Prompt:
    """A user's message; `expected` is what a right answer contains, "" if nothing is checked.

    Between slashes it is a regular expression that is searched for; otherwise a text that the answer must contain as it is,
    but not inside a longer word or number. Case never matters.
    """

    text: str
    expected: str = ""
    note: str = ""

    @property
    def pattern(self) -> re.Pattern[str] | None:
        """What is searched for in an answer; raises JaxlvError if it is not a regular expression."""
        if not self.expected:
            return None
        if len(self.expected) > 2 and self.expected[0] == self.expected[-1] == "/":
            source = self.expected[1:-1]
        else:
            source = rf"(?<!\w)(?<!\d[.,]){re.escape(self.expected)}(?!\w|[.,]\d)"
        try:
            return re.compile(source, re.IGNORECASE)
        except re.error as fault:
            raise JaxlvError(f"not a regular expression ({fault})", where="expected", found=self.expected) from None

    def passed(self, answer: str) -> bool | None:
        """Returns whether an answer contains what is expected; None if nothing is expected."""
        pattern = self.pattern
        return None if pattern is None else pattern.search(answer) is not None


PROMPTS = (
    Prompt("How many r in strawberry?", r"/\b(3|three)\b/"),
    Prompt("what is the result of 1 + 1", r"/\b(2|two)\b/"),
    Prompt("what is the result of 0.12 + 3.24", "3.36"),
    Prompt("0, 1, 1, 2, 3, 5, 8,", "13"),
    Prompt("Write a poem that uses numbers as metaphors", note="the report prints no more of this prompt than these words"),
)
"""The five prompts of figure 16 of the report of Mao, each with its answer if it has one."""


def read_prompts(path: Path) -> list[Prompt]:
    """Returns the prompts of a file: in .jsonl one {"prompt": ..., "expected": ...} a line, in any other file one prompt a
    line.

    Empty lines are skipped. Raises JaxlvError, which names the line, if a line is not a prompt; also if a file has no
    prompts.
    """
    lines = [(number, line) for number, line in enumerate(read_text(path, "text").split("\n"), 1) if line.strip()]
    if not lines:
        raise JaxlvError("no prompts", where=path, expected="one a line")
    if path.suffix.lower() != ".jsonl":
        return [Prompt(line.strip()) for _, line in lines]
    return [_prompt(line, f"{path}, line {number}") for number, line in lines]


def _prompt(line: str, where: str) -> Prompt:
    expected = 'an object {"prompt": text, "expected": text}'
    try:
        tree = parse_json(line)
        json.dumps(tree, ensure_ascii=False).encode()  # an escape may spell half of a character, which no text holds
    except ValueError as fault:
        raise JaxlvError(f"not JSON ({fault})", where=where, expected=expected) from None
    if not isinstance(tree, dict) or not isinstance(tree.get("prompt"), str) or not tree["prompt"].strip():
        raise JaxlvError("not a prompt", where=where, expected=expected, found=line[:60])
    unknown = sorted(set(tree) - set(KEYS))
    if unknown:
        raise JaxlvError(f"unknown key {unknown[0]}", where=where, expected=" or ".join(KEYS))
    if not isinstance(tree.get("expected") or "", str):
        raise JaxlvError("the expected answer is not a text", where=where, found=json.dumps(tree["expected"])[:60])
    found = Prompt(tree["prompt"], tree.get("expected") or "")
    try:
        _ = found.pattern
    except JaxlvError as fault:
        raise JaxlvError(fault.what, where=where, found=fault.found) from None
    return found


# ------------------------------------------------------------------------------------------------- answers


def templated(language: Language, prompts: Sequence[Prompt], new_tokens: int, positions: int) -> list[str]:
    """Returns what the model reads for each prompt; raises JaxlvError if that and `new_tokens` exceed its positions."""
    texts = [language.chat(prompt.text) for prompt in prompts]
    longest = max(len(language.encode(text)) for text in texts)
    if longest + new_tokens > positions:
        raise JaxlvError(
            "prompt and answer are longer than the model's positions",
            expected=f"at most {positions} tokens",
            found=f"{longest} + {new_tokens}",
            hint="shorten the prompt, or lower --max-new-tokens",
        )
    return texts


def answers(
    forecaster: Sampler,
    language: Language,
    prompts: Sequence[Prompt],
    new_tokens: int,
    seed: int = 0,
    batch: int = 8,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[Answer]:
    """Returns an answer of at most `new_tokens` tokens to each prompt, drawn from the whole vocabulary as
    forecaster.sampling says.

    An answer does not depend on the batch that it is made in. With a meter each batch is reserved first. Calls
    `on_batch(done)` with the number of prompts that are answered. Raises JaxlvError if a prompt is longer than the model's
    positions.
    """
    texts = templated(language, prompts, new_tokens, forecaster.model.config.max_position_embeddings)
    ids = [language.encode(text) for text in texts]
    alphabet = replace(forecaster.alphabet, end_ids=language.end_ids)
    found: list[Answer] = []
    parts = np.array_split(np.arange(len(prompts)), -(-len(prompts) // batch))
    for part in parts:
        rows = np.resize(part, len(parts[0]))  # a shorter batch is filled, so that one shape is compiled
        asked = Prompts([ids[r] for r in rows], series=rows)
        drawn = forecaster.generated(asked, 1, new_tokens, alphabet=alphabet, seed=seed)
        for row, ids_NC, length_N in zip(part, drawn.ids_SNC, drawn.lengths_SN, strict=False):
            text, length = language.decode(ids_NC[0, : length_N[0]]), int(length_N[0])
            found.append(Answer(text, length, length < new_tokens, prompts[row].passed(text)))
        on_batch(len(found))
    return found


# ---------------------------------------------------------------------------------------- perplexity of a text


@dataclass(frozen=True)
class Text:
    """A text as windows, in which every token but the text's first has a label once."""

    windows: Windows
    tokens: int  # of the whole text
    scored_bytes: int  # UTF-8, of all tokens but the first


@dataclass(frozen=True)
class Reading:
    """What a text costs a model: `nats` in all, over the tokens scored."""

    nats: float
    tokens: int
    bytes: int

    @property
    def nats_per_token(self) -> float:
        """The mean cost of a token, nats."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(nats per token)."""
        return math.exp(min(self.nats_per_token, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """The cost in bits over the bytes of the tokens scored: comparable between tokenizers."""
        return self.nats / math.log(2) / self.bytes


def text_windows(language: Language, text: str, length: int, stride: int, positions: int) -> Text:
    """Returns the windows of a text: `length` tokens each (the last one fewer), a new one every `stride` tokens.

    Raises JaxlvError if the text has fewer than two tokens, if the stride leaves a token without context (it is not below
    the length), or if windows are longer than the model's positions.
    """
    if not 1 <= stride < length:
        raise JaxlvError("not a stride", where="--stride", expected=f"1 to {length - 1} tokens", found=stride)
    if length > positions:
        expected = f"at most {positions} tokens"
        raise JaxlvError("longer than the model's positions", where="--window", expected=expected, found=length)
    ids = language.encode(text)
    if len(ids) < 2:
        raise JaxlvError("the text is too short to be scored", expected="at least 2 tokens", found=len(ids))
    width = min(length, padded(len(ids)))
    found, done = [], 0
    for start in range(0, len(ids), stride):
        found.append(future(ids[start : start + length], done - start, width))
        done = min(start + length, len(ids))
        if done == len(ids):
            break
    return Text(stack(found, width), len(ids), len(text.encode()) - language.first_bytes(text))


def read(forecaster: Sampler, text: Text, batch: int = 8, on_batch: Callable[[int], None] = lambda done: None) -> Reading:
    """Returns the cost of a text by the softmax over the whole vocabulary.

    Makes forward passes of `batch` windows; if the forecaster has a meter, each is reserved first. Calls `on_batch(done)`
    with the number of windows that are read.
    """
    windows, nats, tokens = text.windows, 0.0, 0
    size = min(batch, windows.number)
    for first in range(0, windows.number, size):
        rows = np.arange(first, min(first + size, windows.number))
        part = windows.rows(np.resize(rows, size))
        part.labels_ML[len(rows) :] = IGNORED  # a short batch is filled, and the filling is not counted
        with forecaster.spending("validation", batch=size, length=part.ids_ML.shape[1], head="frozen"):
            cost, count = _cost(forecaster.model, forecaster.variables, part)
            all_finite(float(cost), "the model's likelihoods", f"windows {first} to {rows[-1]} of the text")
            nats, tokens = nats + float(cost), tokens + int(count)
        on_batch(rows[-1] + 1)
    return Reading(nats, tokens, text.scored_bytes)


_cost = jax.jit(window_loss, static_argnums=0)
