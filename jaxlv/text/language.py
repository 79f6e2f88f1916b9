"""A model's own language tokenizer, chat template and generation defaults, from the files in its folder.

Forecasts need none of this: their text consists of 13 symbols (jaxlv/text/tokens.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxlv.errors import JaxlvError
from jaxlv.storage import foreign
from jaxlv.text.tokenizer import Tokenizer, open_tokenizer
from jaxlv.text.tokens import QWEN_END

GENERATION = "generation_config.json"
PHRASE = "How many, and why?"  # any tokenizer for a language reproduces this exactly


@dataclass(frozen=True)
class Language:
    """Converts text to token ids and back, and knows the ids that end an answer."""

    tokenizer: Tokenizer
    end_ids: tuple[int, ...]

    def chat(self, prompt: str) -> str:
        """Returns what the model reads: the prompt as a user's message in the chat template, up to where its answer
        begins.
        """
        return self.tokenizer.chat(prompt)

    def encode(self, text: str) -> np.ndarray:
        """Returns the token ids (int32) of a text, with nothing added; special tokens that it spells out become those
        tokens.
        """
        return np.array(self.tokenizer.encode(text), np.int32)

    def first_bytes(self, text: str) -> int:
        """Returns how many bytes (UTF-8) of a text its first token covers."""
        return len(text[: self.tokenizer.first(text)].encode())

    def decode(self, ids: np.ndarray) -> str:
        """Returns the text of token ids, special tokens spelt out; ids without a token give nothing."""
        return self.tokenizer.decode(np.asarray(ids).tolist())


def load_language(folder: str | Path, vocab_size: int) -> Language:
    """Loads the language tokenizer of a model folder.

    Raises JaxlvError if the folder has no tokenizer files, if the tokenizer cannot write plain text (as the embedded base's)
    or has no chat template, or if ids are outside the vocabulary.
    """
    tokenizer = open_tokenizer(folder)
    if tokenizer is None:
        raise _no_language(folder, "no tokenizer files")
    facts = tokenizer.facts(PHRASE, tuple(QWEN_END))
    if facts["written"] != PHRASE:
        raise _no_language(folder, f"{facts['tokens']} tokens")
    if not facts["template"]:
        raise JaxlvError("the tokenizer has no chat template", where=folder, expected="tokenizer_config.json with one")
    if facts["largest"] >= vocab_size:
        expected = f"< {vocab_size}"
        raise JaxlvError("token ids outside the vocabulary", where=folder, expected=expected, found=facts["largest"])
    return Language(tokenizer, tuple(facts["ends"]))


def _no_language(folder: str | Path, found: str) -> JaxlvError:
    return JaxlvError(
        "the base has no language tokenizer: it cannot answer questions in words",
        where=folder,
        expected="a tokenizer that writes plain text, as Qwen2.5's own",
        found=found,
    )


def generation_defaults(folder: str | Path) -> dict[str, Any]:
    """Returns the sampling settings in a model's generation_config.json, by the names of `SamplingConfig`.

    `do_sample` false means temperature 0; missing settings restrict nothing. Raises JaxlvError if the file does not exist,
    or a value has another type.
    """
    where = Path(folder) / GENERATION
    given = foreign.settings(folder, GENERATION)
    if given is None:
        raise JaxlvError("no readable generation defaults", where=where, expected="a file of sampling settings")
    defaults = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    found = {name: foreign.typed(given, name, type(value), where, value) for name, value in defaults.items()}
    return found if foreign.typed(given, "do_sample", bool, where, False) else {**found, "temperature": 0.0}
