"""A model's own language tokenizer, chat template and generation defaults, from the files of its folder.

Nothing of this is needed for forecasts, whose text is 13 symbols (jaxlv/text/tokens.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxlv.errors import JaxlvError
from jaxlv.storage.files import parse_json
from jaxlv.text.tokens import QWEN_END

PHRASE = "How many, and why?"  # what any tokenizer of a language gives back as it is


@dataclass(frozen=True)
class Language:
    """Text to token ids and back, and the ids that end an answer."""

    tokenizer: Any
    end_ids: tuple[int, ...]

    def chat(self, prompt: str) -> str:
        """What the model reads: the prompt as a user's message, by the chat template, up to where its answer begins."""
        messages = [{"role": "user", "content": prompt}]
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except Exception as fault:  # a template is a program of the model's, and may raise anything
            raise JaxlvError(f"the chat template fails ({' '.join(str(fault).split())[:200]})", where=repr(prompt)) from None

    def encode(self, text: str) -> np.ndarray:
        """Token ids (int32) of a text, with nothing added; special tokens that it spells out are read as such."""
        return np.array(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], np.int32)

    def first_bytes(self, text: str) -> int:
        """Bytes (UTF-8) of the part of a text that its first token stands for."""
        found = self.tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
        return len(text[: found["offset_mapping"][0][1]].encode())

    def decode(self, ids: np.ndarray) -> str:
        """The text of token ids, special tokens spelt out; ids that stand for nothing give nothing."""
        return str(self.tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=False))


def load_language(folder: Path, vocab_size: int) -> Language:
    """The language tokenizer in a model folder.

    Raises JaxlvError for a folder without tokenizer files, for a tokenizer that cannot write plain text (the embedded
    base's), for one without a chat template, and for ids outside the vocabulary.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise _no_language(folder, "no tokenizer files")
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        written = tokenizer.decode(tokenizer(PHRASE, add_special_tokens=False)["input_ids"])
    except Exception as fault:  # the tokenizer libraries raise bare Exception
        raise JaxlvError(f"unreadable tokenizer ({' '.join(str(fault).split())[:200]})", where=folder) from None
    if written != PHRASE:
        raise _no_language(folder, f"{len(tokenizer)} tokens")
    if not tokenizer.chat_template:
        raise JaxlvError("the tokenizer has no chat template", where=folder, expected="tokenizer_config.json with one")
    vocabulary = tokenizer.get_vocab()
    if max(vocabulary.values()) >= vocab_size:
        raise JaxlvError(
            "token ids outside the vocabulary", where=folder, expected=f"< {vocab_size}", found=max(vocabulary.values())
        )
    ends = [vocabulary[text] for text in (tokenizer.eos_token, *QWEN_END) if text in vocabulary]
    return Language(tokenizer, tuple(dict.fromkeys(ends)))


def _no_language(folder: Path, found: str) -> JaxlvError:
    return JaxlvError(
        "the base has no language tokenizer: it can be asked nothing in words",
        where=folder,
        expected="a tokenizer that writes plain text, as Qwen2.5's own",
        found=found,
    )


def generation_defaults(folder: Path) -> dict[str, Any]:
    """The sampling settings in a model's generation_config.json, by the names of `SamplingConfig`.

    `do_sample` false is temperature 0; what the file leaves out restricts nothing. JaxlvError without a readable file.
    """
    path = Path(folder) / "generation_config.json"
    try:
        given = parse_json(path.read_text(encoding="utf-8"))
        return {
            "temperature": float(given.get("temperature") or 1.0) if given.get("do_sample") else 0.0,
            "top_k": int(given.get("top_k") or 0),
            "top_p": float(given.get("top_p") or 1.0),
            "repetition_penalty": float(given.get("repetition_penalty") or 1.0),
        }
    except (OSError, ValueError, TypeError, AttributeError) as fault:
        detail = fault.strerror if isinstance(fault, OSError) else f"{type(fault).__name__}: {fault}"
        raise JaxlvError(f"no readable generation defaults ({detail})", where=path) from None
