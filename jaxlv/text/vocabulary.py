"""Runs a tokenizer and a chat template, which are programs by whoever made a model. Only `jaxlv.text.tokenizer` uses this
module, in another process with limited time and memory.

Nothing here opens a file, so a file name in the settings has no effect; settings that ask for another tokenizer are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxlv.storage import foreign

if TYPE_CHECKING:  # imported when used, so that a process starts fast
    from tokenizers import AddedToken, Tokenizer

TOKENIZER, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
SETTINGS, SPECIAL, ADDED, TEMPLATE = (
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"
)  # fmt: skip
# How Qwen2 splits text before its merges (transformers, models/qwen2/tokenization_qwen2.py).
PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CLASSES = (None, "Qwen2Tokenizer", "Qwen2TokenizerFast")  # the classes that split like that
END = "<|endoftext|>"
# Settings by which transformers would read another file than the usual one, with all values that are allowed here.
FILES: Mapping[str, tuple[Any, ...]] = {
    "fast_tokenizer_files": (None, [], [TOKENIZER]),
    "tokenizer_file": (None, TOKENIZER),
    "vocab_file": (None, VOCABULARY),
    "merges_file": (None, MERGES),
    "gguf_file": (None,),
}
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
MOST_WRITTEN = foreign.MIB  # characters that a template may write, in addition to four times the prompt


class Reader:
    """The tokenizer and the chat template in a model's files, given by their names and contents."""

    def __init__(self, names: Sequence[str], *contents: bytes):
        files = dict(zip(names, contents, strict=True))
        self.settings = _settings(files)
        self.template = _template(files, self.settings)
        self.tokenizer = _from_json(files) if TOKENIZER in files else _from_vocabulary(files, self.settings)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, with nothing added; special tokens that it spells out become those tokens."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def first(self, text: str) -> int:
        """Returns how many characters of a text its first token covers."""
        return int(self.tokenizer.encode(text, add_special_tokens=False).offsets[0][1])

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids, special tokens spelt out; ids without a token give nothing."""
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def words(self, ids: Sequence[int]) -> str:
        """Returns the text of ids without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def texts(self, ids: Sequence[int]) -> list[str]:
        """Returns the text of each id alone; "" if there is no such token."""
        return [self.decode([id]) if self.tokenizer.id_to_token(id) else "" for id in ids]

    def facts(self, phrase: str, ends: Sequence[str]) -> dict[str, Any]:
        """Returns a phrase after encoding and decoding ("written"), the number of "tokens", the "largest" id, the ids that
        end a text ("ends": its own, then those of `ends` that exist), and whether there is a "template".
        """
        own = _content(self.settings.get("eos_token"))
        found = [self.tokenizer.token_to_id(text) for text in (own, *ends) if text is not None]
        return {
            "written": self.decode(self.encode(phrase)),
            "tokens": self.tokenizer.get_vocab_size(with_added_tokens=True),
            "largest": max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1),
            "ends": list(dict.fromkeys(id for id in found if id is not None)),
            "template": self.template is not None,
        }

    def chat(self, prompt: str) -> str:
        """Returns a user's message as the template writes it, up to where the answer begins."""
        return self._rendered([{"role": "user", "content": prompt}], True, len(prompt))

    def conversation(self, messages: str, answer: bool) -> str:
        """Returns messages, JSON of objects with a role and a content, as the template writes them: up to where the answer
        begins, or else up to the end of the last content.
        """
        return self._rendered(foreign.parse(messages.encode()), answer, len(messages))

    def _rendered(self, messages: Sequence[Mapping[str, str]], answer: bool, length: int) -> str:
        from jaxlv.text.template import render

        names = {name: content for name in self.settings if name.endswith("_token")
                 if (content := _content(self.settings[name])) is not None}  # fmt: skip
        return render(self.template or "", messages, names, MOST_WRITTEN + 4 * length, answer)


# ---------------------------------------------------------------------------------------------------- settings


def _object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Returns the object in a file, an empty one if the file is missing; raises ValueError if it is not an object."""
    try:
        tree = foreign.parse(files.get(name, b"{}"))
    except ValueError as fault:
        raise ValueError(f"{name}: {fault}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{name}: not an object")
    return tree


def _settings(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Reads tokenizer_config.json; in older models the special tokens are in a file of their own."""
    settings = _object(files, SETTINGS)
    for name, allowed in FILES.items():
        if not any(type(settings.get(name)) is type(one) and settings.get(name) == one for one in allowed):
            raise ValueError(f"{SETTINGS}: {name} names another tokenizer, {settings[name]!r}")
    if "added_tokens_decoder" not in settings:
        settings |= _object(files, SPECIAL)
    return settings


def _content(token: Any) -> str | None:
    """Returns the text of a special token, which is given as a text or as an object that holds it."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _template(files: Mapping[str, bytes], settings: Mapping[str, Any]) -> str | None:
    """Returns the chat template: a file of its own, or a setting; if there are several, the one named "default"."""
    if TEMPLATE in files:
        return files[TEMPLATE].decode()
    found = settings.get("chat_template")
    if isinstance(found, list):
        named = {str(one.get("name")): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    if found is not None and not isinstance(found, str):
        raise ValueError(f"{SETTINGS}: chat_template is not a text")
    return found or None


# -------------------------------------------------------------------------------------------------- tokenizers


def _from_json(files: Mapping[str, bytes]) -> Tokenizer:
    from tokenizers import Tokenizer

    _object(files, TOKENIZER)  # parsed strictly here, because the library would take the last of two equal keys
    return Tokenizer.from_str(files[TOKENIZER].decode())


def _from_vocabulary(files: Mapping[str, bytes], settings: Mapping[str, Any]) -> Tokenizer:
    """Builds Qwen2's tokenizer as transformers does from vocab.json, merges.txt and the added tokens of its settings."""
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    if settings.get("tokenizer_class") not in CLASSES:
        raise ValueError(f"{VOCABULARY} of a {settings['tokenizer_class']!r}: only Qwen2's are read without {TOKENIZER}")
    prefix = settings.get("add_prefix_space")
    if prefix not in (None, False, True):
        raise ValueError(f"{SETTINGS}: add_prefix_space is not true or false")
    tokenizer = Tokenizer(BPE(vocab=_vocabulary(files), merges=_merges(files)))
    tokenizer.normalizer = normalizers.NFC()
    cut = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=bool(prefix), use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    _add_tokens(tokenizer, files, settings)
    return tokenizer


def _vocabulary(files: Mapping[str, bytes]) -> dict[str, int]:
    found = _object(files, VOCABULARY)
    if not all(type(id) is int and 0 <= id < 2**31 for id in found.values()):
        raise ValueError(f"{VOCABULARY}: not {{token: id}}")
    return found


def _merges(files: Mapping[str, bytes]) -> list[tuple[str, str]]:
    if MERGES not in files:
        raise ValueError(f"{VOCABULARY} without {MERGES}")
    merges = []
    for number, line in enumerate(files[MERGES].decode().split("\n"), 1):
        if line and not (number == 1 and line.startswith("#version")):
            first, gap, second = line.removesuffix("\r").partition(" ")
            if not gap or not first or not second or " " in second:
                raise ValueError(f"{MERGES}, line {number}: not two tokens")
            merges.append((first, second))
    return merges


def _add_tokens(tokenizer: Tokenizer, files: Mapping[str, bytes], settings: Mapping[str, Any]) -> None:
    """Adds the tokens outside the vocabulary: those of the settings under their ids, then special tokens still missing."""
    from tokenizers import AddedToken

    listed = _listed(files, settings)
    tokenizer.add_tokens([token for _, token in sorted(listed.items())])
    for id, token in listed.items():
        if (found := tokenizer.token_to_id(token.content)) != id:
            raise ValueError(f"the added token {token.content!r} has the id {id}, but its place is {found}")
    missing = [name for name in _special(settings) if tokenizer.token_to_id(name) is None]
    tokenizer.add_tokens([AddedToken(name, special=True) for name in dict.fromkeys(missing)])


def _special(settings: Mapping[str, Any]) -> list[str]:
    """Lists the special tokens that the settings name; Qwen2's class has a default for those that they leave out."""
    named: list[Any] = [settings.get(name, END) for name in ("eos_token", "unk_token", "pad_token")]
    named += [settings.get("bos_token")]
    for name in ("additional_special_tokens", "extra_special_tokens"):
        more = settings.get(name)
        named += more if isinstance(more, list) else []
    return [content for one in named if (content := _content(one))]


def _listed(files: Mapping[str, bytes], settings: Mapping[str, Any]) -> dict[int, AddedToken]:
    from tokenizers import AddedToken

    if "added_tokens_decoder" not in settings:
        special, found = set(_special(settings)), _object(files, ADDED)
        return {
            _id(str(id) if type(id) is int else None): AddedToken(
                name, normalized=name not in special, special=name in special
            )
            for name, id in found.items()
        }
    found = settings["added_tokens_decoder"]
    if not isinstance(found, dict):
        raise ValueError(f"{SETTINGS}: added_tokens_decoder is not an object")
    return {_id(id): _token(token) for id, token in found.items()}


def _id(text: Any) -> int:
    if not isinstance(text, str) or not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"the id of an added token is not a whole number, {text!r}")
    return int(text)


def _token(given: Any) -> AddedToken:
    from tokenizers import AddedToken

    flags = {name: given[name] for name in FLAGS if name in given} if isinstance(given, dict) else {}
    content = _content(given)
    if content is None or not _all_bools(flags.values()):
        raise ValueError(f"{SETTINGS}: an added token is not valid, {given!r}")
    return AddedToken(content, **flags)


def _all_bools(values: Iterable[Any]) -> bool:
    return all(isinstance(value, bool) for value in values)
