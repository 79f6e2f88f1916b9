"""The tokenizer of a model folder. Another process (`jaxlv.storage.apart`) reads and runs it, with the code in
`jaxlv.text.vocabulary`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxlv.errors import JaxlvError
from jaxlv.storage import apart, foreign
from jaxlv.text.vocabulary import ADDED, MERGES, SETTINGS, SPECIAL, TEMPLATE, TOKENIZER, VOCABULARY, Reader

LIMITS = apart.Limits()  # Qwen's own takes 1 s and 0.2 GiB
MOST_ID = 2**31 - 1  # ids are int32 in arrays


class Tokenizer:
    """A tokenizer in another process, which starts with the first question and ends with this object.

    Every method raises JaxlvError if that process crashes or exceeds LIMITS.
    """

    def __init__(self, folder: Path, files: Mapping[str, bytes]):
        self.folder, self._files = folder, files
        self.source = TOKENIZER if TOKENIZER in files else f"{VOCABULARY} and {MERGES}"
        digest = hashlib.sha256()
        for name, content in files.items():
            digest.update(f"{name} {len(content)} ".encode() + content)
        self.digest = digest.hexdigest()
        self._worker: apart.Apart | None = None

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, with nothing added; special tokens that it spells out become those tokens."""
        found = self._ask("encode", text)
        if not all(type(id) is int and 0 <= id <= MOST_ID for id in found):
            raise JaxlvError("the tokenizer gives ids that are too large", where=self.folder, expected=f"up to {MOST_ID}")
        return found

    def first(self, text: str) -> int:
        """Returns how many characters of a text its first token covers."""
        return int(self._ask("first", text))

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids, special tokens spelt out; ids without a token give nothing."""
        return str(self._ask("decode", [int(id) for id in ids]))

    def words(self, ids: Iterable[int]) -> str:
        """Returns the text of token ids without special tokens."""
        return str(self._ask("words", [int(id) for id in ids]))

    def texts(self, ids: Iterable[int]) -> list[str]:
        """Returns the text of each id alone; "" if there is no such token."""
        return [str(text) for text in self._ask("texts", [int(id) for id in ids])]

    def facts(self, phrase: str, ends: Sequence[str]) -> dict[str, Any]:
        """Returns what `vocabulary.Reader.facts` finds."""
        return self._ask("facts", phrase, list(ends))

    def chat(self, prompt: str) -> str:
        """Returns a user's message as the chat template writes it, up to where the answer begins."""
        return self._written("chat", prompt)

    def conversation(self, messages: Sequence[Mapping[str, str]], answer: bool = True) -> str:
        """Returns messages, each with a role and a content, as the chat template writes them: up to where the answer begins,
        or else up to the end of the last content.
        """
        return self._written("conversation", json.dumps([dict(one) for one in messages]), answer)

    def _written(self, method: str, *arguments: Any) -> str:
        try:
            return str(self._started().ask(method, *arguments))
        except apart.Failure as fault:
            raise JaxlvError(f"the chat template fails ({fault})", where=self.folder) from None

    def close(self) -> None:
        """Ends the other process; the next question starts a new one."""
        if self._worker is not None:
            self._worker.close()
        self._worker = None

    def _started(self) -> apart.Apart:
        if self._worker is None or not self._worker.alive:
            try:
                self._worker = apart.Apart(Reader, list(self._files), *self._files.values(), limits=LIMITS)
            except apart.Failure as fault:
                raise JaxlvError(f"unreadable tokenizer ({fault})", where=self.folder) from None
        return self._worker

    def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            return self._started().ask(method, *arguments)
        except apart.Failure as fault:
            raise JaxlvError(f"the tokenizer does not work ({fault})", where=self.folder) from None


def open_tokenizer(folder: str | Path) -> Tokenizer | None:
    """Returns the tokenizer of a model folder; None if it has no tokenizer files. Raises JaxlvError as `foreign.find`
    does.
    """
    folder = Path(folder)
    whole = foreign.read(folder, TOKENIZER)
    names = (SETTINGS, SPECIAL, TEMPLATE) if whole is not None else (VOCABULARY, MERGES, SETTINGS, SPECIAL, ADDED, TEMPLATE)
    files = {} if whole is None else {TOKENIZER: whole}
    files |= {name: content for name in names if (content := foreign.read(folder, name)) is not None}
    return Tokenizer(folder, files) if TOKENIZER in files or VOCABULARY in files else None
