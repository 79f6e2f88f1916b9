"""Folders of strangers: nothing outside is read or taken along, nothing hangs, and nothing takes more memory than it may."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxlv.config import LoraConfig
from jaxlv.errors import JaxlvError
from jaxlv.lora import adapters
from jaxlv.lora.adapters import Origin, save_peft
from jaxlv.model import weights
from jaxlv.model.bases import EMBEDDED_BASE
from jaxlv.model.config import ModelConfig
from jaxlv.storage import files, foreign
from jaxlv.text import language, tokens
from jaxlv.text.codec import Codec
from tests.faults import hostile
from tests.faults.peak import peak

SECRET = "a secret of the reader's"


@pytest.fixture
def model(tiny_base, tmp_path) -> Path:
    """A base with a file of every kind that is read of one."""
    folder = Path(shutil.copytree(tiny_base, tmp_path / "model"))
    shutil.copy(EMBEDDED_BASE / "tokenizer.json", folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "generation_config.json"):
        (folder / name).write_text("{}")
    for name in ("LICENSE", "NOTICE.txt", "chat_template.jinja", "merges.txt", "vocab.json"):
        (folder / name).write_text("x")
    return folder


@pytest.fixture(scope="module")
def saved(tiny_base, random_lora, tmp_path_factory) -> Path:
    _, params = weights.load_pretrained(tiny_base)
    lora, config = random_lora(params, rank=2, head="bias"), LoraConfig(rank=2, head="bias")
    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    save_peft(folder, lora, config, Origin("base", codec=Codec()))
    return folder


@pytest.fixture
def adapter(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "adapter"))


@pytest.fixture
def sharded(tiny_base, tmp_path) -> Path:
    folder = Path(shutil.copytree(tiny_base, tmp_path / "sharded"))
    (folder / weights.SINGLE).rename(folder / "a.safetensors")
    names = load_file(folder / "a.safetensors")
    (folder / weights.INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "a.safetensors")}))
    return folder


def of_tiny(read: Callable[..., Any]) -> Callable[[Path], Any]:
    return lambda folder: read(folder, weights.load_pretrained(folder.parent / "tiny")[0])


# (fixture of the folder, name of the file) -> all that read it
READERS: dict[tuple[str, str], list[Callable[[Path], Any]]] = {
    ("model", "config.json"): [ModelConfig.from_folder, weights.load_pretrained, weights.fingerprint],
    ("model", "model.safetensors"): [weights.load_pretrained, weights.fingerprint],
    ("model", "more.safetensors"): [weights.fingerprint],
    ("model", "generation_config.json"): [language.generation_defaults, foreign.companions],
    ("model", "tokenizer.json"): [lambda folder: tokens.load_alphabet(folder, 32), foreign.companions],
    ("model", "tokenizer_config.json"): [lambda folder: tokens.load_encoder(folder), foreign.companions],
    ("model", "special_tokens_map.json"): [lambda folder: tokens.token_texts(folder, [1]), foreign.companions],
    ("model", "chat_template.jinja"): [lambda folder: language.load_language(folder, 32), foreign.companions],
    ("words", "vocab.json"): [lambda folder: tokens.load_alphabet(folder, 32), foreign.companions],
    ("words", "merges.txt"): [lambda folder: tokens.load_alphabet(folder, 32), foreign.companions],
    ("words", "added_tokens.json"): [lambda folder: tokens.load_alphabet(folder, 32), foreign.companions],
    ("model", "LICENSE"): [foreign.companions],
    ("model", "NOTICE.txt"): [foreign.companions],
    ("sharded", weights.INDEX): [weights.load_pretrained],
    ("sharded", "a.safetensors"): [weights.load_pretrained, weights.fingerprint],
    ("adapter", adapters.CONFIG): [adapters.read_config, adapters.fingerprint],
    ("adapter", adapters.TENSORS): [of_tiny(adapters.load_adapter), adapters.fingerprint],
    ("adapter", adapters.HEAD): [of_tiny(adapters.load_adapter), adapters.fingerprint],
    ("adapter", adapters.CODEC): [adapters.read_codec],
}


@pytest.fixture
def words(model) -> Path:
    """One whose tokenizer is a vocabulary and merges."""
    (model / "tokenizer.json").unlink()
    return model


def linked(to: str) -> Callable[[Path], None]:
    """A link; "{outside}" is a file beside the folder."""
    return lambda path: path.symlink_to(to.format(outside=path.parent.parent / "outside"))


def through(path: Path) -> None:
    """A link to a link that lies in the folder and leads out."""
    (path.parent / "between").symlink_to(path.parent.parent / "outside")
    path.symlink_to("between")


def by_a_folder(path: Path) -> None:
    """A link through a folder that is a link."""
    (path.parent / "below").symlink_to(path.parent.parent)
    path.symlink_to("below/outside")


def bound(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


OUT, IRREGULAR = "is a link to outside the folder", "is not a regular file; found"
ATTACKS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a link out": (linked("{outside}"), OUT),
    "a relative link out": (linked("../outside"), OUT),
    "a link to nowhere outside": (linked("/no/such/file"), OUT),
    "a link to an endless device": (linked("/dev/zero"), OUT),
    "a link to what the process has open": (linked("/proc/self/fd/0"), OUT),
    "a link through a link": (through, OUT),
    "a link through a folder": (by_a_folder, OUT),
    "a link to itself": (lambda path: path.symlink_to(path.name), "a link that leads nowhere"),
    "a named pipe": (os.mkfifo, f"{IRREGULAR} a named pipe"),
    "a folder": (Path.mkdir, f"{IRREGULAR} a folder"),
    "a socket": (bound, f"{IRREGULAR} a socket"),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(("kind", "name"), READERS)
def test_whatever_stands_for_a_file_is_refused(kind, name, attack, request, tiny_base):
    folder, (make, told) = request.getfixturevalue(kind), ATTACKS[attack]
    (folder.parent / "tiny").symlink_to(tiny_base)
    (folder.parent / "outside").write_text(SECRET)
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    for read in READERS[kind, name]:
        with pytest.raises(JaxlvError, match=told) as caught:
            read(folder)
        line = str(caught.value)
        assert "\n" not in line and SECRET not in line and str(folder) in line
        assert name in line or attack.startswith("a link through")


@pytest.mark.parametrize("make", [attack[0] for attack in ATTACKS.values()], ids=ATTACKS)
def test_a_seal_that_is_no_file_is_a_broken_one(make, adapter):
    assert files.broken(adapter) == []
    (adapter.parent / "outside").write_text(SECRET)
    (adapter / files.SEAL).unlink()
    make(adapter / files.SEAL)
    assert files.broken(adapter) == [f"{files.SEAL} is missing or unreadable"]


def test_a_sealed_file_that_became_a_pipe_is_missing(adapter):
    (adapter / adapters.CODEC).unlink()
    os.mkfifo(adapter / adapters.CODEC)
    assert files.broken(adapter) == [f"{adapters.CODEC} is missing"]


def test_links_inside_a_folder_are_followed(model):
    for name in ("config.json", "model.safetensors", "tokenizer.json", "LICENSE"):
        (model / name).rename(model / f"real-{name}")
        (model / name).symlink_to(f"real-{name}")
    weights.load_pretrained(model)
    assert tokens.load_alphabet(model, 32).source == "tokenizer.json"
    assert "LICENSE" in foreign.companions(model)


# ------------------------------------------------------------------------------------------- the hub's cache


def test_a_file_that_is_too_large_is_not_even_found(tmp_path):
    for name, most in (("config.json", foreign.LIMITS["config.json"]), ("LICENSE", foreign.LIMITS["LICENSE"])):
        with (tmp_path / name).open("wb") as file:
            file.truncate(most)
        assert foreign.find(tmp_path, name) == tmp_path / name
        with (tmp_path / name).open("wb") as file:
            file.truncate(most + 1)
        with pytest.raises(JaxlvError, match=f"too large; expected at most {most} bytes; found {most + 1}"):
            foreign.find(tmp_path, name)


@pytest.fixture
def snapshot(model, tmp_path) -> Path:
    """The hub's cache: every file of the snapshot is a link to ../../blobs/<hash>."""
    home = tmp_path / "models--owner--name"
    (home / "blobs").mkdir(parents=True)
    (home / "snapshots").mkdir()
    folder = model.rename(home / "snapshots" / "0123abc")
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(home / "blobs" / str(number))
        path.symlink_to(f"../../blobs/{number}")
    return folder


def test_the_hub_s_cache_is_followed_to_its_blobs(snapshot, tmp_path):
    weights.load_pretrained(snapshot)
    assert len(foreign.companions(snapshot)) == 10
    copy = tmp_path / "elsewhere" / "snapshots" / "0123abc"  # a folder of that name is not yet the hub's cache
    shutil.copytree(tmp_path / "models--owner--name" / "blobs", tmp_path / "elsewhere" / "blobs")
    shutil.copytree(snapshot, copy, symlinks=True)
    with pytest.raises(JaxlvError, match=OUT):
        weights.load_pretrained(copy)


@pytest.mark.parametrize(
    "to", ["{outside}", "below/file", "../refs", "{other}"], ids=["out", "below", "beside", "another model's"]
)
def test_a_blob_that_is_a_link_is_refused(to, snapshot, tmp_path):
    home = tmp_path / "models--owner--name"
    (tmp_path / "outside").write_text(SECRET)
    (home / "refs").write_text("{}")
    other = tmp_path / "models--owner--other" / "blobs" / "0"
    other.parent.mkdir(parents=True)
    other.write_text("{}")
    (home / "blobs" / "below").mkdir()
    (home / "blobs" / "below" / "file").write_text("{}")
    blob = (snapshot / "config.json").resolve()
    blob.unlink()
    blob.symlink_to(to.format(outside=tmp_path / "outside", other=other))
    with pytest.raises(JaxlvError, match=OUT):
        weights.load_pretrained(snapshot)


# ------------------------------------------------------------------------------------------- what is taken along


def test_a_checkpoint_takes_what_is_known_and_nothing_else(model, random_model, tmp_path):
    (model / "notes.txt").write_text(SECRET)
    (model / "modeling_x.py").write_text(SECRET)
    (model / "client_secret.json").write_text(SECRET)
    os.mkfifo(model / "pipe.json")
    raw = json.loads((model / "config.json").read_text())
    given = raw | {"auto_map": {"AutoModel": "owner/name--x.Y"}, "bos_token_id": 7, "_name_or_path": "home"}
    (model / "config.json").write_text(json.dumps(given))
    built, params = weights.load_pretrained(model)
    weights.save_pretrained(tmp_path / "to", built, params, base=model)
    taken = {path.name for path in (tmp_path / "to").iterdir()}
    assert taken == {"config.json", "model.safetensors", *foreign.companions(model)}
    assert json.loads((tmp_path / "to" / "config.json").read_text()) == raw | {"bos_token_id": 7}


def test_a_file_too_large_to_take_is_refused_before_anything_is_written(model, random_model, tmp_path):
    hostile.sparse("LICENSE", foreign.LIMITS["LICENSE"] + 1)(model)
    with pytest.raises(JaxlvError, match=r"LICENSE: too large; expected at most 1048576 bytes; found 1048577"):
        weights.save_pretrained(tmp_path / "to", *random_model(), base=model)
    assert not (tmp_path / "to").exists()


# ------------------------------------------------------------------------------------------------------- JSON

UNREADABLE = {
    '{"a": 1, "b": {"c": 1, "c": 1}}': "the key 'c' occurs twice",
    '{"a": NaN}': "a is NaN, not a finite number",
    '{"a": -Infinity}': "a is -Infinity, not a finite number",
    '{"a": {"b": 1e999}}': "b is 1e999, not a finite number",
    '{"a": [1, Infinity]}': "a value is Infinity, not a finite number",
    "NaN": "a value is NaN",
    "[" * 70 + "]" * 70: "nested too deeply",
    '{"a":' * 70 + "1" + "}" * 70: "nested too deeply",
    "[" * 100_000: "nested too deeply",
    "[1]": "not an object",
    "{": "Expecting",
    '{"a": ' + "9" * 5000 + "}": "digits",
    b'{"a": "\xff"}': "utf-8",
    b'\xef\xbb\xbf{"a": 1}': "BOM|Expecting",
    '{"a": 1}'.encode("utf-16"): "utf-8",
    '{"a": 1} x': "Extra data",
}


@pytest.mark.parametrize(("content", "told"), UNREADABLE.items(), ids=[str(text)[:20] for text in UNREADABLE])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("config.json", ModelConfig.from_folder),
        ("generation_config.json", language.generation_defaults),
        ("adapter_config.json", adapters.read_config),
        ("codec.json", adapters.read_codec),
        (weights.INDEX, lambda folder: weights.read_params(folder, weights.load_pretrained()[0])),
    ],
)
def test_json_of_strangers_is_read_strictly(name, read, content, told, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(JaxlvError, match=told) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / name}: unreadable settings (")


def test_names_within_a_message_are_printable(tmp_path):
    (tmp_path / "config.json").write_text('{"\\u001b[31m\\u202e": 1, "\\u001b[31m\\u202e": 2}')
    with pytest.raises(JaxlvError) as caught:
        ModelConfig.from_folder(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../x.safetensors", "/x.safetensors", "x\0.safetensors", "x" * 256])
def test_a_name_that_is_no_name_of_a_file_leads_nowhere(name, tmp_path):
    with pytest.raises(JaxlvError, match="a name that leads out of the folder"):
        foreign.find(tmp_path, name)


# --------------------------------------------------------------------------------------------- memory and time


@pytest.mark.parametrize("name", hostile.CASES)
def test_a_hostile_file_is_one_line_and_takes_no_more_memory_than_it_may(name, tmp_path):
    case = hostile.CASES[name]
    found = peak(hostile.spoilt(name, tmp_path / "model"))
    assert found.code == 2 and found.stderr.count("\n") == 1 and found.stderr[:-1].isprintable(), found.stderr[-2000:]
    assert re.search(case.told, found.stderr), found.stderr
    assert found.bytes < case.most * foreign.MIB


@pytest.mark.parametrize("name", [weights.SINGLE, adapters.TENSORS, adapters.HEAD])
def test_names_of_tensors_reach_a_terminal_as_escapes(name, model, adapter, tiny_base):
    folder = model if name == weights.SINGLE else adapter
    held = load_file(folder / name) | {"\x1b[31mred\x07\u202e": np.ones(2, np.float32)}
    save_file(held, folder / name)
    with pytest.raises(JaxlvError, match=r"unexpected tensor \\x1b\[31mred\\x07\\u202e") as caught:
        if name == weights.SINGLE:
            weights.load_pretrained(folder)
        else:
            adapters.load_adapter(folder, weights.load_pretrained(tiny_base)[0])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "changes",
    [
        {"base_model_name_or_path": "\x1b[31mred"},
        {"base_model_name_or_path": ["a"]},
        {"revision": "a\nb"},
        {"target_modules": ["\x1b[31m.q_proj"]},
        {"r": 2.0},
        {"r": True},
        {"lora_alpha": True},
        {"lora_alpha": "4"},
        {"use_rslora": None},
    ],
    ids=str,
)
def test_settings_of_an_adapter_are_of_their_very_types_and_print(changes, adapter):
    raw = json.loads((adapter / adapters.CONFIG).read_text())
    (adapter / adapters.CONFIG).write_text(json.dumps(raw | changes))
    with pytest.raises(JaxlvError, match=next(iter(changes))) as caught:
        adapters.read_config(adapter)
    assert str(caught.value).isprintable()
