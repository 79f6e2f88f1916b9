"""Faults of weights and adapters, cases 16 to 28: named in one line, and never a model that is not what was asked for."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.errors
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxlv.errors import JaxlvError
from jaxlv.lora import adapters
from jaxlv.model import weights
from tests.programs import jaxlv

Q = "model.layers.0.self_attn.q_proj.weight"
WEIGHTS = "model.safetensors"


def put(content: bytes):
    return lambda folder: (folder / WEIGHTS).write_bytes(content)


def tensors(**changes: Any):
    """Tensors replaced, added, or (None) left out."""

    def change(folder: Path) -> None:
        held = load_file(folder / WEIGHTS) | {name.replace("__", "."): value for name, value in changes.items()}
        save_file({name: value for name, value in held.items() if value is not None}, folder / WEIGHTS)

    return change


def one(name: str, value: Any):
    return tensors(**{name.replace(".", "__"): value})


def header(change: Callable[[dict[str, Any]], Any], raw: Callable[[str], str] = lambda text: text):
    """The header of the file changed, as a tree and as text; the bytes behind it stay."""

    def write(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        tree = json.loads(data[8 : 8 + length])
        text = raw(json.dumps(change(tree) or tree)).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return write


def twice(text: str) -> str:
    entry = json.dumps({Q: json.loads(text)[Q]})[1:-1]
    return text[:-1] + ", " + entry + "}"


def index(**weight_map: str):
    """Two shards and an index, changed."""

    def write(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        names = sorted(held)
        shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
        for shard, own in shards.items():
            save_file({name: held[name] for name in own}, folder / shard)
        found = {name: shard for shard, own in shards.items() for name in own}
        found |= {name.replace("__", "."): shard for name, shard in weight_map.items()}
        (folder / weights.INDEX).write_text(json.dumps({"weight_map": found}))
        (folder / WEIGHTS).unlink()

    return write


def without_a_shard(folder: Path) -> None:
    index()(folder)
    (folder / "b.safetensors").unlink()


def in_two_shards(folder: Path) -> None:
    index()(folder)
    extra = load_file(folder / "a.safetensors")
    save_file(load_file(folder / "b.safetensors") | dict([next(iter(extra.items()))]), folder / "b.safetensors")


def linked_out(folder: Path) -> None:
    index()(folder)
    outside = folder.parent / "outside.safetensors"
    (folder / "b.safetensors").rename(outside)
    (folder / "b.safetensors").symlink_to(outside)


def linked_whole(folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    (folder / WEIGHTS).rename(outside)
    (folder / WEIGHTS).symlink_to(outside)


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")


def config(**changes: Any):
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def quarter(folder: Path) -> None:
    """A header that says F8, with bytes to match."""

    def change(tree: dict[str, Any]) -> None:
        begin, end = tree[Q]["data_offsets"]
        tree[Q] |= {"dtype": "F8_E4M3", "shape": [end - begin]}

    header(change)(folder)


CASES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "16 empty": (put(b""), ["not a safetensors file", "an empty file"]),
    "16 LFS pointer": (put(b"version https://git-lfs.github.com/spec/v1\n"), ["not a safetensors file", "git-LFS pointer"]),
    "16 a page": (put(b"<!DOCTYPE html><html>Not found</html>"), ["not a safetensors file", "HTML"]),
    "16 a zip": (put(b"PK\x03\x04" + bytes(60)), ["not a safetensors file", "a zip archive"]),
    "16 huge header": (put(struct.pack("<Q", 2**62) + b"{}"), ["not a safetensors file"]),
    "16 truncated": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-7]),
        ["not a safetensors file", "truncated or damaged"],
    ),
    "17 shard missing": (without_a_shard, ["shard b.safetensors is missing"]),
    "17 tensor in no shard": (index(lm_head__weight="a.safetensors"), ["not in the shard", "lm_head.weight"]),
    "17 tensor in two shards": (in_two_shards, ["occurs twice", "a.safetensors and b.safetensors"]),
    "17 tensor twice in a header": (header(lambda tree: None, twice), [f"tensor {Q} occurs twice"]),
    "18 shard above the folder": (index(lm_head__weight="../x.safetensors"), ["outside the folder", "../x.safetensors"]),
    "18 absolute shard": (index(lm_head__weight="/etc/passwd"), ["outside the folder", "/etc/passwd"]),
    "18 shard linked out": (linked_out, ["b.safetensors is a link to outside the folder"]),
    "18 weights linked out": (linked_whole, ["model.safetensors is a link to outside the folder"]),
    "19 missing": (one(Q, None), [f"missing tensor {Q}"]),
    "19 unexpected": (one("model.layers.7.x", np.ones(3, np.float32)), ["unexpected tensor model.layers.7.x"]),
    "19 wrong shape": (one(Q, np.ones((3, 5), np.float32)), [f"tensor {Q} has the wrong shape", "found (3, 5)"]),
    "20 NaN": (one(Q, np.full((32, 32), np.nan, np.float32)), [f"tensor {Q} holds NaN or infinity"]),
    "21 pickle": (pickled, ["only pickled weights (pytorch_model.bin)", "pickles can run code"]),
    "22 another architecture": (config(model_type="llama"), ['expected model_type "qwen2"', "'llama'"]),
    "22 hidden size": (config(hidden_size=64), ["wrong shape"]),
    "22 heads": (config(num_key_value_heads=3), ["num_attention_heads must be a multiple of num_key_value_heads"]),
    "22 untied": (config(tie_word_embeddings=False), ["missing tensor lm_head.weight", "to true in config.json"]),
    "22 sliding window": (config(use_sliding_window=True), ["sliding-window attention is not implemented"]),
    "22 scaled RoPE": (config(rope_scaling={"rope_type": "yarn", "factor": 4.0}), ["only the default rope type", "'yarn'"]),
    "22 quantised": (config(quantization_config={"bits": 4}), ["not implemented", "gptq of 4 or 8 bits"]),
    "27 8-bit floats": (quarter, ["wrong shape"]),
    "27 64-bit floats": (one(Q, np.ones((32, 32))), ["type F64", "expected F32, F16 or BF16"]),
    "27 integers": (one(Q, np.ones((32, 32), np.int8)), ["type I8", "expected F32, F16 or BF16"]),
}


@pytest.fixture
def base(tiny_base, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


@pytest.mark.parametrize("case", CASES)
def test_weights_that_cannot_be_used(case, base, work, tmp_path):
    change, parts = CASES[case]
    change(base)
    outcome = jaxlv("train", work.config, "--set", f"model.path={base}", "--out", tmp_path / "out")
    assert outcome.code == 2 and outcome.err.count("\n") == 1 and not (tmp_path / "out").exists()
    assert outcome.err.startswith(f"jaxlv: {base}")
    for part in parts:
        assert part in outcome.err


def test_19_ten_names_are_listed(base):
    extra = {f"extra.{i:02d}": np.ones(1, np.float32) for i in range(30)}
    save_file(load_file(base / WEIGHTS) | extra, base / WEIGHTS)
    with pytest.raises(JaxlvError, match=r"unexpected tensors extra\.00, .*extra\.09 and 20 more"):
        weights.load_pretrained(base)


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ({"1": 0, "2": 1}, "token"),  # most symbols are no token
        ({**{s: i for i, s in enumerate("0123456789.,;")}, "12": 13}, "merge"),
    ],
    ids=["a symbol without a token", "symbols that merge"],
)
def test_23_a_tokenizer_that_does_not_give_each_symbol_a_token(base, vocabulary, message):
    merges = [["1", "2"]] if "12" in vocabulary else []
    model = {"type": "BPE", "vocab": vocabulary, "merges": merges, "unk_token": None}
    (base / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    with pytest.raises(JaxlvError, match=r"token|symbol") as caught:
        from jaxlv.text.tokens import load_alphabet

        load_alphabet(base, 32)
    assert str(base) in str(caught.value) and "\n" not in str(caught.value)


ADAPTERS: dict[str, tuple[dict[str, Any], str]] = {
    "24 another peft_type": ({"peft_type": "PREFIX_TUNING"}, "peft_type is not supported; expected LORA"),
    "24 DoRA": ({"use_dora": True}, "use_dora is not supported"),
    "24 modules to save": ({"modules_to_save": ["lm_head"]}, "missing tensor base_model.model.lm_head.weight"),
    "24 rank pattern": ({"rank_pattern": {"q_proj": 3}}, "has the wrong shape"),
    "24 rank of the tensors": ({"r": 3}, "has the wrong shape"),
    "24 rsLoRA that is no switch": ({"use_rslora": 1}, "use_rslora is not supported; expected true or false"),
    "25 partly there": ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, "missing tensors"),
    "26 huge rank": ({"r": 2**40}, "r is not supported; expected a whole number from 1 to 256"),
    "26 infinite alpha": ({"lora_alpha": float("inf")}, "lora_alpha is Infinity, not a finite number"),
    "26 alpha 0": ({"lora_alpha": 0}, "lora_alpha is not supported; expected a positive number"),
    "26 negative alpha": ({"lora_alpha": -8}, "lora_alpha is not supported; expected a positive number"),
}


@pytest.mark.parametrize("case", ADAPTERS)
@pytest.mark.parametrize("verb", ["forecast", "train", "evaluate"])
def test_adapters_that_cannot_be_used(case, verb, work, tmp_path):
    """No adapter is dropped in silence, which would leave the base model: the result is an error, and no forecast."""
    settings, part = ADAPTERS[case]
    adapter = Path(shutil.copytree(work.run / "adapter", tmp_path / "adapter"))
    raw = json.loads((adapter / adapters.CONFIG).read_text())
    (adapter / adapters.CONFIG).write_text(json.dumps(raw | settings))
    if verb == "train":
        outcome = jaxlv("train", work.config, "--init-adapter", adapter, "--out", tmp_path / "out")
    else:
        outcome = jaxlv(verb, work.base, "--adapter", adapter, "--data", work.data, "--out", tmp_path / "out")
    assert outcome.code == 2 and outcome.err.count("\n") == 1 and not (tmp_path / "out").exists()
    assert f"jaxlv: {adapter}" in outcome.err and part in outcome.err


def test_24_shapes_of_another_base(work, random_model, tmp_path):
    weights.save_pretrained(tmp_path / "other", *random_model(vocab_size=32, hidden_size=64, head_dim=16))
    adapter = work.run / "adapter"
    outcome = jaxlv("forecast", tmp_path / "other", "--adapter", adapter, "--data", work.data, "--out", tmp_path / "out")
    assert outcome.code == 2 and "missing tensors" in outcome.err and "it was made for" in outcome.err


def test_24_another_base_and_copies_of_its_tensors_are_one_line_each(work, tmp_path):
    adapter = Path(shutil.copytree(work.run / "adapter", tmp_path / "adapter"))
    embedding = load_file(work.base / WEIGHTS)["model.embed_tokens.weight"]
    held = load_file(adapter / adapters.TENSORS)
    save_file(held | {"base_model.model.model.embed_tokens.weight": embedding}, adapter / adapters.TENSORS)
    raw = json.loads((adapter / adapters.CONFIG).read_text())
    (adapter / adapters.CONFIG).write_text(json.dumps(raw | {"base_model_name_or_path": "owner/another"}))
    given = ["--data", work.data, "--context", 8, "--horizon", 2, "--samples", 1]
    for call in (
        ["forecast", work.base, "--adapter", adapter, *given, "--series", "1", "--out", tmp_path / "forecast"],
        ["merge", adapter, "--model", work.base, "--to", "peft", "--out", tmp_path / "sum"],
        ["train", work.config, "--init-adapter", adapter, "--set", "train.steps=1", "--out", tmp_path / "run"],
    ):
        outcome = jaxlv(*call)
        assert outcome.code == 0
        copies = f"{adapter / adapters.TENSORS}: copies of the base's own tensors are dropped: model.embed_tokens.weight"
        named = f"{adapter} was made for owner/another; it is laid over {work.base}"
        assert outcome.err == f"jaxlv: note: {copies}\njaxlv: note: {named}\n"


def test_25_an_adapter_that_changes_nothing(work, tmp_path):
    adapter = Path(shutil.copytree(work.run / "adapter", tmp_path / "adapter"))
    (adapter / adapters.HEAD).unlink()
    held = load_file(adapter / adapters.TENSORS)
    zero = {name: value * 0 if "lora_B" in name else value for name, value in held.items()}
    save_file(zero, adapter / adapters.TENSORS)
    outcome = jaxlv("forecast", work.base, "--adapter", adapter, "--data", work.data, "--out", tmp_path / "out")
    assert outcome.code == 2 and "the adapter changes nothing: every B is zero" in outcome.err


@pytest.mark.parametrize("name", ["LICENSE.txt", "notes.json", "tokenizer_config.json", "anything"])
@pytest.mark.parametrize("verb", ["merge", "export"])
def test_nothing_from_outside_goes_into_a_checkpoint(verb, name, work, tmp_path):
    """The run's base gets a link out: it can still be loaded and tuned, but not given away."""
    (tmp_path / "outside").write_text("a secret of the reader's")
    link = work.base / name
    link.symlink_to(tmp_path / "outside")
    try:
        if verb == "merge":
            call = ["merge", work.run / "adapter", "--model", work.base, "--side-head", "--out", tmp_path / "given"]
        else:
            call = ["export", work.run, "--to", "merged", "--side-head", "--out", tmp_path / "given"]
        outcome = jaxlv(*call)
    finally:
        link.unlink()
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert f"{work.base}: {name} is a link to outside the folder" in outcome.err
    assert not (tmp_path / "given").exists()


@pytest.mark.parametrize(
    "fault",
    [
        huggingface_hub.errors.LocalEntryNotFoundError("offline and not in the cache"),
        huggingface_hub.errors.OfflineModeIsEnabled("offline mode"),
        ConnectionError("interrupted"),
        PermissionError("401 Client Error: gated repo"),
    ],
    ids=["not in the cache", "offline", "interrupted", "gated"],
)
def test_28_a_model_that_the_hub_does_not_give(monkeypatch, work, tmp_path, fault):
    def download(*_: Any, **__: Any) -> str:
        raise fault

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    outcome = jaxlv("train", work.config, "--set", "model.path=owner/name", "--out", tmp_path / "out")
    assert outcome.code == 2 and outcome.err.count("\n") == 1 and not (tmp_path / "out").exists()
    assert "owner/name: not a folder, and not available from the hub" in outcome.err and str(fault) in outcome.err
    assert "check the path, the network, or the access rights" in outcome.err


def test_28_a_model_that_is_not_pinned_is_named_with_its_commit(monkeypatch, work, base, tmp_path):
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "0123abc"
    shutil.copytree(base, snapshot)
    asked = []

    def download(*_: Any, revision: str | None = None, **__: Any) -> str:
        asked.append(revision)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    train = ["train", work.config, "--set", "model.path=owner/name", "--set", "train.steps=1"]
    outcome = jaxlv(*train, "--out", tmp_path / "a")
    assert outcome.code == 0 and "taken at commit 0123abc; model.revision = '0123abc' would keep it there" in outcome.out
    made_of = json.loads((tmp_path / "a" / "manifest.json").read_text())["base"]
    assert (made_of["name"], made_of["revision"]) == ("owner/name", "0123abc")
    assert json.loads((tmp_path / "a" / "adapter" / adapters.CONFIG).read_text())["revision"] == "0123abc"
    outcome = jaxlv(*train, "--set", "model.revision=0123abc", "--out", tmp_path / "b")
    assert outcome.code == 0 and "would keep it" not in outcome.out
    assert asked[-1] == "0123abc" and asked[0] is None
