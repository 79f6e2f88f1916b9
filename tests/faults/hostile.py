"""Folders of models and adapters that were made to do harm, and the readers that meet them.

`python -m tests.faults.hostile` measures each in a process of its own, and prints a table of peak memory.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxlv.errors import JaxlvError
from tests.faults.peak import table

GIB = 1 << 30
BASE = Path(__file__).parents[2] / "jaxlv" / "base"
Make = Callable[[Path], None]


def sparse(name: str, size: int = 3 * GIB, begins: bytes = b"") -> Make:
    """A file that says it is large, and takes no room on the disk."""

    def make(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.write(begins)
            file.truncate(size)

    return make


def text(name: str, content: str | Callable[[], str]) -> Make:
    return lambda folder: (folder / name).write_text(content if isinstance(content, str) else content()) and None


def tokenizer(**parts: Any) -> Make:
    """The embedded base's tokenizer with parts replaced."""
    return lambda folder: text("tokenizer.json", json.dumps(json.loads((BASE / "tokenizer.json").read_text()) | parts))(
        folder
    )


def chat(template: str) -> Make:
    """A tokenizer that writes any text, with a chat template."""

    def make(folder: Path) -> None:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        vocabulary = {symbol: id for id, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        made.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))

    return make


def header(length: int, content: bytes = b"") -> bytes:
    return struct.pack("<Q", length) + content


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def both(*makes: Make) -> Make:
    def make(folder: Path) -> None:
        for one in makes:
            one(folder)

    return make


def settings(**changes: Any) -> Make:
    def make(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return make


BOMB = {"type": "Replace", "pattern": {"String": "0"}, "content": "0" * 20}
# Tried by hand: Oniguruma gives up after ten million steps, and `tokenizers` panics.
PANIC = {"type": "Split", "pattern": {"Regex": r"(?:[\d.,;]|[\d.,;])+(?!.|$)"}, "behavior": "Isolated", "invert": False}


class Hostile(NamedTuple):
    """How a copy of the embedded base is spoilt, what reads it, what the one line says, and the most it may take (MiB)."""

    make: Make
    reader: str
    told: str
    most: int


LIGHT, JAX = 100, 400  # MiB: a reader without JAX, and one with it and a base of 8 MB
CASES: dict[str, Hostile] = {
    "config.json of 3 GiB": Hostile(sparse("config.json"), "config", "too large; expected at most 1048576 bytes", LIGHT),
    "config.json of empty objects": Hostile(
        text("config.json", lambda: "[" + "{}," * 349_000 + "{}]"), "config", "not an object", LIGHT
    ),
    "config.json that is deep": Hostile(text("config.json", "[" * 1_000_000), "config", "nested too deeply", LIGHT),
    "generation_config.json of 3 GiB": Hostile(sparse("generation_config.json"), "generation", "too large", LIGHT),
    "adapter_config.json of 3 GiB": Hostile(sparse("adapter_config.json"), "adapter", "too large", JAX),
    "codec.json of 3 GiB": Hostile(sparse("codec.json"), "codec", "too large", JAX),
    "shard index of 3 GiB": Hostile(
        both(no_weights, sparse("model.safetensors.index.json")), "weights", "too large; expected at most 4194304", JAX
    ),
    "shard index of empty objects": Hostile(
        both(no_weights, text("model.safetensors.index.json", lambda: '{"weight_map": [' + "{}," * 1_390_000 + "{}]}")),
        "weights", "unreadable shard index", JAX,
    ),
    "safetensors of 3 GiB with a header of 90 MB": Hostile(
        sparse("model.safetensors", begins=header(90 << 20, b"{")), "weights", "the header is too long", JAX
    ),
    "a model of 1e12 parameters": Hostile(
        settings(vocab_size=1 << 22, hidden_size=1 << 16, intermediate_size=1 << 19, num_hidden_layers=512),
        "weights", "the model is too large", JAX,
    ),
    "a model larger than the memory": Hostile(
        settings(hidden_size=1 << 16, intermediate_size=1 << 19, num_hidden_layers=9),
        "weights", "the model is larger than the memory", JAX,
    ),
    "tokenizer.json of 3 GiB": Hostile(sparse("tokenizer.json"), "alphabet", "too large", LIGHT),
    "tokenizer.json of 32 MiB of empty lists": Hostile(
        text("tokenizer.json", lambda: "[" + "[]," * 11_000_000 + "[]]"), "alphabet", "MemoryError|not an object", 1100
    ),
    "tokenizer_config.json of 3 GiB": Hostile(sparse("tokenizer_config.json"), "alphabet", "too large", LIGHT),
    "merges.txt of 3 GiB": Hostile(
        both(lambda folder: (folder / "tokenizer.json").unlink(), text("vocab.json", "{}"), sparse("merges.txt")),
        "alphabet", "too large", LIGHT,
    ),
    "chat_template.jinja of 3 GiB": Hostile(sparse("chat_template.jinja"), "alphabet", "too large", LIGHT),
    "a regex that panics": Hostile(
        tokenizer(pre_tokenizer=PANIC), "alphabet", "does not work .PanicException: Onig: Regex search error", LIGHT
    ),
    "a normalizer that multiplies": Hostile(
        tokenizer(normalizer={"type": "Sequence", "normalizers": [BOMB] * 9}), "alphabet", "SIGABRT|no end after", 1100
    ),
    "a template of 3e9 characters": Hostile(chat("{{ 'x' * 3000000000 }}"), "chat", "template fails .MemoryError", LIGHT),
    "a template that repeats itself": Hostile(
        chat("{% for a in range(99999) %}{% for b in range(99999) %}{{ messages }}{% endfor %}{% endfor %}"),
        "chat", "template fails .it writes more than", LIGHT,
    ),
    "a template without end": Hostile(
        chat("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        "chat", "template fails .no end after 1 s of computing", LIGHT,
    ),
}  # fmt: skip


def read(reader: str, folder: str) -> None:
    """Reads a folder as a program would: an error is one line, and exit code 2."""
    try:
        READERS[reader](Path(folder))
    except JaxlvError as fault:
        print(f"jaxlv: {fault}", file=sys.stderr)
        sys.exit(2)


def _config(folder: Path) -> Any:
    from jaxlv.model.config import ModelConfig

    return ModelConfig.from_folder(folder)


def _generation(folder: Path) -> Any:
    from jaxlv.text.language import generation_defaults

    return generation_defaults(folder)


def _weights(folder: Path) -> Any:
    from jaxlv.model.weights import load_pretrained

    return load_pretrained(folder)


def _adapter(folder: Path) -> Any:
    from jaxlv.lora.adapters import read_config

    return read_config(folder)


def _codec(folder: Path) -> Any:
    from jaxlv.lora.adapters import read_codec

    return read_codec(folder)


def _alphabet(folder: Path) -> Any:
    from jaxlv.text.tokens import load_alphabet

    return load_alphabet(folder, 264)


def _chat(folder: Path) -> Any:
    from jaxlv.storage import apart
    from jaxlv.text import language, tokenizer

    tokenizer.LIMITS = apart.Limits(computing=1)
    return language.load_language(folder, 264).chat("Hi?")


READERS: dict[str, Callable[[Path], Any]] = {
    "config": _config, "generation": _generation, "weights": _weights, "adapter": _adapter, "codec": _codec,
    "alphabet": _alphabet, "chat": _chat,
}  # fmt: skip


def spoilt(name: str, folder: Path) -> str:
    """A copy of the embedded base, spoilt, and the program that reads it."""
    shutil.copytree(BASE, folder)
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)
    CASES[name].make(folder)
    return f"from tests.faults.hostile import read; read({CASES[name].reader!r}, {str(folder)!r})"


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as place:
        print(table((name, spoilt(name, Path(place) / str(number))) for number, name in enumerate(CASES)))


if __name__ == "__main__":
    main()
