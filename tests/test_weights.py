"""Reads checkpoints strictly, refuses by name what is not one, and writes what transformers reads."""

from __future__ import annotations

import fnmatch
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.flax import load_file, save_file

import jaxlv
from jaxlv.errors import JaxlvError, JaxlvWarning
from jaxlv.flops.family import architecture
from jaxlv.model import weights
from jaxlv.model.config import ModelConfig
from jaxlv.storage import foreign

Q_BIAS = "model.layers.0.self_attn.q_proj.bias"
NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def saved(random_model, tmp_path_factory) -> tuple[Path, Any, dict[str, Any]]:
    """Returns (folder, model, params) of a checkpoint that must never be changed."""
    model, params = random_model(tie_word_embeddings=False)
    folder = tmp_path_factory.mktemp("saved") / "model"
    weights.save_pretrained(folder, model, params)
    return folder, model, params


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """Returns a copy of the checkpoint, to be damaged."""
    return Path(shutil.copytree(saved[0], tmp_path / "model"))


def tensors(folder: Path) -> dict[str, jax.Array]:
    return load_file(folder / "model.safetensors")


def rewrite(folder: Path, changes: dict[str, Any]) -> None:
    """Returns the checkpoint with tensors replaced, added, or (None) left out."""
    merged = {name: value for name, value in {**tensors(folder), **changes}.items() if value is not None}
    save_file(merged, folder / "model.safetensors", metadata={"format": "pt"})


def shard(folder: Path, shards: int = 3) -> dict[str, str]:
    """Cuts the checkpoint into shards with an index; returns the weight map."""
    flat = tensors(folder)
    (folder / "model.safetensors").unlink()
    weight_map = {name: f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors" for i, name in enumerate(sorted(flat))}
    for file in set(weight_map.values()):
        save_file({name: flat[name] for name in flat if weight_map[name] == file}, folder / file)
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / weights.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def assert_same(tree: dict[str, Any], other: dict[str, Any]) -> None:
    flat, others = (traverse_util.flatten_dict(t, sep=".") for t in (tree, other))
    assert flat.keys() == others.keys()
    for name in flat:
        np.testing.assert_array_equal(flat[name], others[name], err_msg=name)


def refused(folder: Any, *named: str) -> None:
    with pytest.raises(JaxlvError) as caught:
        jaxlv.load_pretrained(folder)
    text = str(caught.value)
    assert "\n" not in text
    for name in named:
        assert name in text, text


# What loads


def test_single_file_without_tokenizer(saved):
    folder, model, params = saved
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    loaded_model, loaded = jaxlv.load_pretrained(folder)
    assert loaded_model == model
    assert_same(loaded, params)


def test_shards_are_the_same_model(saved, folder):
    shard(folder)
    assert_same(jaxlv.load_pretrained(folder)[1], saved[2])


def test_shards_written_by_transformers(random_hf, tmp_path):
    hf = random_hf(tie_word_embeddings=False)
    hf.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model, params = jaxlv.load_pretrained(tmp_path)
    ids_BT = np.arange(12).reshape(2, 6)
    theirs = hf(hf.dummy_inputs["input_ids"].new_tensor(ids_BT)).logits.detach()
    np.testing.assert_allclose(jax.jit(model.apply)({"params": params}, ids_BT), theirs, rtol=0, atol=2e-4)


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_half_precision_files(saved, folder, stored, dtype):
    rewrite(folder, {name: value.astype(stored) for name, value in tensors(folder).items()})
    _, params = jaxlv.load_pretrained(folder, dtype)
    assert_same(params, jax.tree.map(lambda a: a.astype(stored).astype(dtype), saved[2]))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}


def test_a_tied_checkpoint_may_repeat_its_head(random_model, tmp_path):
    model, params = random_model()
    weights.save_pretrained(tmp_path / "model", model, params)
    rewrite(tmp_path / "model", {"lm_head.weight": params["model.embed_tokens"]["weight"]})
    assert_same(jaxlv.load_pretrained(tmp_path / "model")[1], params)


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_the_head_of_a_tied_checkpoint_is_a_copy_or_refused(random_model, tmp_path, stored):
    """Also if it is stored in another type than the embedding; one that differs could be meant or left over."""
    folder, (model, params) = tmp_path / "model", random_model()
    weights.save_pretrained(folder, model, params)
    embedding = params["model.embed_tokens"]["weight"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rewrite(folder, {"lm_head.weight": embedding.astype(stored)})
        jaxlv.load_pretrained(folder)
    for other in (embedding * 1.01, embedding[::-1], embedding.at[60, 23].add(1)):
        rewrite(folder, {"lm_head.weight": other.astype(stored)})
        refused(folder, "lm_head.weight is not the embedding", "tie_word_embeddings is true", "to false in config.json")
    rewrite(folder, {"lm_head.weight": embedding[:-1]})
    refused(folder, "lm_head.weight has the wrong shape")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    rewrite(folder, {"lm_head.weight": embedding * 2})
    np.testing.assert_array_equal(jaxlv.load_pretrained(folder)[1]["lm_head"]["weight"], embedding * 2)


def test_two_sources_of_weights_are_refused_both_named(saved, folder):
    whole = (folder / weights.SINGLE).read_bytes()
    shard(folder)
    (folder / weights.SINGLE).write_bytes(whole)
    refused(folder, "two sources of weights", f"{weights.SINGLE}, and {weights.INDEX} with", "model-00001", "remove")
    (folder / weights.INDEX).unlink()
    refused(folder, "two sources of weights", f"{weights.SINGLE}, and model-00001", "beside it", "remove")
    write_index(folder, dict.fromkeys(tensors(folder), weights.SINGLE))
    refused(folder, "two sources of weights")
    for path in folder.glob("model-*"):
        path.unlink()
    assert_same(jaxlv.load_pretrained(folder)[1], saved[2])  # an index of the one file is no second source
    write_index(folder, dict.fromkeys(tensors(folder), "gone.safetensors"))
    refused(folder, "two sources of weights", "gone.safetensors")


def test_older_shards_beside_newer_ones_are_refused(saved, folder):
    shard(folder)
    save_file({"x": jnp.ones(2)}, folder / "model-00001-of-00009.safetensors")
    refused(folder, "two sources of weights", "model-00001-of-00009.safetensors beside them")


def test_other_tensors_in_the_folder_are_told_and_not_opened(saved, folder):
    for name in ("head.safetensors", "adapter_model.safetensors", "pytorch_model-00001-of-00002.bin", "training_args.bin"):
        (folder / name).write_bytes(b"no tensors")
    told = (
        r"not read beside model.safetensors: adapter_model.safetensors, head.safetensors, pytorch_model-00001-of-00002.bin$"
    )
    with pytest.warns(JaxlvWarning, match=told) as caught:
        assert_same(jaxlv.load_pretrained(folder)[1], saved[2])
    assert len([one for one in caught if one.category is JaxlvWarning]) == 1


@pytest.mark.parametrize(
    "renamed",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: name.replace("mlp.", "_fsdp_wrapped_module.mlp."),
    ],
    ids=["compiled", "in parallel", "both", "sharded"],
)
@pytest.mark.parametrize("sharded", [False, True])
def test_names_of_wrapped_modules_are_read_with_a_note(saved, folder, renamed, sharded):
    held = tensors(folder)
    (folder / weights.SINGLE).unlink()
    save_file({renamed(name): value for name, value in held.items()}, folder / weights.SINGLE)
    if sharded:
        shard(folder)
    with pytest.warns(JaxlvWarning, match=r" is read as "):
        assert_same(jaxlv.load_pretrained(folder)[1], saved[2])


def test_two_names_of_one_tensor_are_refused(saved, folder):
    name = "model.norm.weight"
    rewrite(folder, {f"_orig_mod.{name}": tensors(folder)[name]})
    refused(folder, f"two tensors for {name}", f"_orig_mod.{name} and {name}")


def test_a_checkpoint_with_adapters_inside_is_named(saved, folder):
    place = "model.layers.0.self_attn.q_proj"
    held = tensors(folder)
    held[f"{place}.base_layer.weight"] = held.pop(f"{place}.weight")
    held[f"{place}.lora_A.default.weight"] = jnp.ones((2, 24))
    save_file(held, folder / weights.SINGLE)
    refused(folder, f"missing tensor {place}.weight", "saved with adapters inside", "merge_and_unload")


def test_a_model_that_mlx_quantised_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization": {"group_size": 64, "bits": 4}}))
    refused(folder, "quantised weights are not implemented", "group_size")


def test_a_folder_without_a_model_is_named_by_what_it_holds(tmp_path):
    refused(tmp_path, "no config.json", "found nothing")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "config.json").write_text("{}")
    refused(tmp_path, "no config.json", "found a folder with a model in it (below)", f"give {tmp_path / 'below'}")
    shutil.rmtree(tmp_path / "below")
    for name, kind, hint in (
        ("notes.txt", "other files (notes.txt)", "give a Hugging Face folder"),
        ("qwen.gguf", "weights in GGUF (qwen.gguf)", "the safetensors that they were made from"),
        ("pytorch_model.bin", "only pickled weights (pytorch_model.bin)", "pickles can run code"),
        ("model.safetensors", "a whole model (model.safetensors)", "give a Hugging Face folder"),
        ("adapter_config.json", "a PEFT adapter (adapter_config.json)", "this folder as its adapter"),
        ("adapters.safetensors", "an MLX adapter (adapters.safetensors)", "mlx_lm.fuse"),
    ):
        (tmp_path / name).write_text("x")
        refused(tmp_path, "no config.json", f"found {kind}", hint)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transformers_reads_what_we_write(random_model, tmp_path, tied, dtype):
    torch = pytest.importorskip("torch", reason="parity with transformers needs PyTorch")
    transformers = pytest.importorskip("transformers")
    model, params = random_model(dtype=dtype, tie_word_embeddings=tied, head_dim=8, rope_theta=1e6)
    weights.save_pretrained(tmp_path / "model", model, params)
    hf, report = transformers.Qwen2ForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert hf.dtype == getattr(torch, dtype)
    ids_BT = np.arange(16).reshape(2, 8)
    exact = model.clone(dtype=jnp.dtype("float32"))
    ours = jax.jit(exact.apply)({"params": jax.tree.map(lambda a: a.astype(jnp.float32), params)}, ids_BT)
    with torch.no_grad():
        theirs = hf.float()(torch.as_tensor(ids_BT)).logits
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-4)


def test_tokenizer_files_are_copied_and_never_the_config(saved, tmp_path):
    _, model, params = saved
    (tmp_path / "from").mkdir()
    for name in ("tokenizer.json", "merges.txt", "config.json", "model.bin"):
        (tmp_path / "from" / name).write_text("{}")
    weights.save_pretrained(tmp_path / "to", model, params, base=tmp_path / "from")
    assert {path.name for path in (tmp_path / "to").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "merges.txt",
    }
    assert jaxlv.load_pretrained(tmp_path / "to")[0] == model


# What is refused


def test_an_existing_folder_is_never_written_over(saved, tmp_path):
    _, model, params = saved
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("precious")
    with pytest.raises(JaxlvError, match="mine"):
        weights.save_pretrained(tmp_path / "mine", model, params)
    assert (tmp_path / "mine" / "config.json").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_interrupted_save_leaves_nothing(saved, tmp_path, monkeypatch):
    _, model, params = saved
    monkeypatch.setattr(
        "jaxlv.storage.tensors.save_file", lambda *_, **__: (_ for _ in ()).throw(OSError("No space left on device"))
    )
    with pytest.raises(OSError, match="space"):
        weights.save_pretrained(tmp_path / "model", model, params)
    assert not list(tmp_path.iterdir())


def test_missing_tensor(folder):
    rewrite(folder, {Q_BIAS: None})
    refused(folder, "missing tensor", Q_BIAS, str(folder))


def test_unexpected_tensor(folder):
    rewrite(folder, {"model.layers.0.self_attn.o_proj.bias": jnp.zeros(24)})
    refused(folder, "unexpected tensor", "model.layers.0.self_attn.o_proj.bias")


def test_at_most_ten_keys_are_listed(folder):
    rewrite(folder, {f"extra.{i:02d}": jnp.zeros(1) for i in range(15)})
    refused(folder, "extra.09", "and 5 more")


def test_wrong_shape(folder):
    rewrite(folder, {NORM: jnp.ones(23)})
    refused(folder, NORM, "(24,)", "(23,)", "model.safetensors")


def test_config_of_another_size(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 41}))
    refused(folder, "mlp", "41", "40")


@pytest.mark.parametrize(
    ("dtype", "named"), [("float8_e4m3fn", "F8_E4M3"), ("int32", "I32"), ("uint8", "U8"), ("bool", "BOOL")]
)
def test_types_that_are_no_weights(folder, dtype, named):
    rewrite(folder, {NORM: jnp.ones(24, dtype)})
    refused(folder, NORM, named, "F32, F16 or BF16")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(folder, value):
    rewrite(folder, {NORM: jnp.ones(24).at[7].set(value)})
    refused(folder, NORM, "NaN or infinity")


FOREIGN_FILES = {
    "empty": (lambda good: b"", "an empty file"),
    "truncated": (lambda good: good[: len(good) // 2], "truncated or damaged"),
    "trailing byte": (lambda good: good + b"\0", "truncated or damaged"),
    "git-LFS pointer": (
        lambda good: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "git-LFS pointer",
    ),
    "HTML": (lambda good: b"<!DOCTYPE html><html><body>Not found</body></html>", "HTML"),
    "zip": (lambda good: b"PK\x03\x04" + bytes(60), "zip archive"),
    "pickle": (lambda good: b"\x80\x04\x95" + bytes(60), "a pickle"),
    "HDF5": (lambda good: b"\x89HDF\r\n\x1a\n" + bytes(60), "HDF5"),
    "text": (lambda good: "π ≈ 3".encode() * 20, "damaged"),
}


@pytest.mark.parametrize(("spoil", "named"), FOREIGN_FILES.values(), ids=FOREIGN_FILES)
@pytest.mark.parametrize("sharded", [False, True], ids=["single", "shard"])
def test_a_file_that_is_no_safetensors_file_is_named_for_what_it_is(folder, spoil, named, sharded):
    path = folder / (sorted(shard(folder).values())[0] if sharded else "model.safetensors")
    path.write_bytes(spoil(path.read_bytes()))
    refused(folder, path.name, named)


def test_pickled_weights_are_never_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "pickle", "model.safetensors")


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, str(folder), "no weights")


def test_a_missing_shard(folder):
    name = sorted(shard(folder).values())[-1]
    (folder / name).unlink()
    refused(folder, name, "missing")


def test_a_tensor_in_two_shards(folder):
    weight_map = shard(folder)
    first, second = sorted(set(weight_map.values()))[:2]
    save_file({**load_file(folder / second), **load_file(folder / first)}, folder / second)
    refused(folder, "twice", first, second)


def test_an_index_that_names_another_shard(folder):
    weight_map = shard(folder)
    other = next(file for file in weight_map.values() if file != weight_map[NORM])
    write_index(folder, {**weight_map, NORM: other})
    refused(folder, NORM)


@pytest.mark.parametrize("target", ["../outside.safetensors", "sub/../../outside.safetensors", "{absolute}", ".."])
def test_an_index_that_leads_outside(folder, target):
    outside = folder.parent / "outside.safetensors"
    weight_map = shard(folder)
    shutil.copy(folder / weight_map[NORM], outside)
    write_index(folder, {**weight_map, NORM: target.format(absolute=outside)})
    refused(folder, weights.INDEX, target.format(absolute=outside))


def test_a_shard_that_is_a_link_to_the_outside(folder):
    name = shard(folder)[NORM]
    (folder / name).rename(folder.parent / "outside.safetensors")
    (folder / name).symlink_to(folder.parent / "outside.safetensors")
    refused(folder, name, "outside the folder")


def test_links_within_the_folder_and_within_the_cache_of_the_hub_are_followed(saved, folder, tmp_path):
    """The hub's cache holds snapshots/<commit>/<file> as links to ../../blobs/<hash>."""
    weight_map = shard(folder)
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "0123abc"
    blobs = tmp_path / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True)
    snapshot.parent.mkdir()
    shutil.move(folder, snapshot)
    for i, name in enumerate(sorted(set(weight_map.values()))):
        target = blobs / str(i) if i else snapshot / "first"
        (snapshot / name).rename(target)
        (snapshot / name).symlink_to(target)
    assert_same(jaxlv.load_pretrained(snapshot)[1], saved[2])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_an_unreadable_index(folder, text):
    (folder / "model.safetensors").unlink()
    (folder / weights.INDEX).write_text(text)
    refused(folder, weights.INDEX)


@pytest.mark.parametrize("text", ["", "not json", "[]"])
def test_an_unreadable_config(folder, text):
    (folder / "config.json").write_text(text)
    refused(folder, "config.json")


def test_no_config(folder):
    (folder / "config.json").unlink()
    refused(folder, "config.json", str(folder))


def test_a_path_that_is_no_folder(folder, tmp_path):
    refused(folder / "config.json", "a file")
    refused(tmp_path / "absent", "absent", "no such model folder")
    refused("absent", "absent", "no such model folder")


def test_an_unknown_dtype(folder):
    with pytest.raises(JaxlvError, match="float16"):
        jaxlv.load_pretrained(folder, "float16")


# The hub


def test_download_asks_for_data_files_of_one_revision(saved, tmp_path, monkeypatch):
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "0123abc"
    shutil.copytree(saved[0], snapshot)
    asked: dict[str, Any] = {}

    def download(repo, **options):
        asked.update(options, repo=repo)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    _, params = jaxlv.load_pretrained("owner/name", revision="v1")
    assert_same(params, saved[2])
    assert (asked["repo"], asked["revision"]) == ("owner/name", "v1")
    assert foreign.hub_revision(snapshot) == "0123abc" and foreign.hub_revision(saved[0]) is None

    def taken(name):
        return any(fnmatch.fnmatch(name, pattern) for pattern in asked["allow_patterns"])

    data = ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", weights.INDEX, "tokenizer.json"]
    assert all(map(taken, [*data, "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json"]))
    assert all(map(taken, ["generation_config.json", "added_tokens.json", "chat_template.jinja", "LICENSE"]))
    code = ["modeling_x.py", "tokenizer.py", "tokenization_x.py", "tokenizer.bin", "pytorch_model.bin", "model.pt", "x.pkl"]
    below = ["sub/model.safetensors", "sub/config.json", "model-0/000-of-00001.safetensors", "a/b/tokenizer.json"]
    others = ["consolidated.safetensors", "token_secret.json", "my_token.json", "x.jinja", "tokenizer.json.bak", ".env"]
    assert not any(map(taken, [*code, *below, *others])) and asked["ignore_patterns"] == ["*/*"]


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """Makes the current folder one with `models/qwen`; any request to the hub fails the test."""
    (tmp_path / "models" / "qwen").mkdir(parents=True)
    (tmp_path / "models" / "a file").touch()
    monkeypatch.chdir(tmp_path)

    def asked(*names: Any, **__: Any) -> str:
        raise AssertionError(f"the hub was asked for {names}")

    for name in ("snapshot_download", "hf_hub_download"):
        monkeypatch.setattr(huggingface_hub, name, asked)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("models/qween", "did you mean models/qwen?"),
        ("models/something-else", "models is a folder here"),
        ("embeded", "did you mean embedded?"),
        ("configs/x.tmol", 'give a folder, a hub id "owner/name"'),
        ("runs/mine.toml", 'give a folder, a hub id "owner/name"'),
        ("C:\\models\\qwen", ""),
        ("C:/qwen", 'give a folder, a hub id "owner/name"'),
        ("models\\qwen", ""),
        ("\\\\server/qwen", 'give a folder, a hub id "owner/name"'),
        ("../qwen", ""),
        ("owner/..", 'give a folder, a hub id "owner/name"'),
        ("owner/a..b", 'give a folder, a hub id "owner/name"'),
        ("owner/a--b", 'give a folder, a hub id "owner/name"'),
        ("owner/name/more", 'give a folder, a hub id "owner/name"'),
        ("owner/", 'give a folder, a hub id "owner/name"'),
        ("owner/na me", 'give a folder, a hub id "owner/name"'),
        ("owner/n\x1b[31m", 'give a folder, a hub id "owner/name"'),
        ("~nobody-of-that-name/qwen", 'give a folder, a hub id "owner/name"'),
        ("owner/" + "x" * 300, 'give a folder, a hub id "owner/name"'),
        ("a\0b/c", 'give a folder, a hub id "owner/name"'),
    ],
)
def test_what_is_rather_a_path_never_goes_to_the_hub(name, hint, no_hub):
    for read in (jaxlv.load_pretrained, architecture):
        with pytest.raises(JaxlvError, match="no such model") as caught:
            read(name)
        assert hint in str(caught.value) or read is architecture
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("revision", ["../main", "a b", "-x", "a\nb", "x" * 300])
def test_a_revision_that_cannot_be_one_never_goes_to_the_hub(revision, no_hub):
    with pytest.raises(JaxlvError, match="not a revision"):
        jaxlv.load_pretrained("owner/name", revision=revision)


def test_a_failed_download_is_one_line(monkeypatch):
    def download(*_, **__):
        raise OSError("offline\nand more lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    refused("owner/name", "owner/name", "offline", "OSError")


def test_a_panic_of_an_extension_is_one_line(monkeypatch):
    """A panic is not an Exception: what downloads, and what reads tensors, is written in Rust."""
    panic = type("PanicException", (BaseException,), {})

    def download(*_, **__):
        raise panic("called `Option::unwrap()`\non a `None` value")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    refused("owner/name", "PanicException", "unwrap")


# Facts about a checkpoint


def test_fingerprint_sees_every_bit(folder):
    first = weights.fingerprint(folder)
    assert weights.fingerprint(folder) == first
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    assert weights.fingerprint(folder) != first


@pytest.mark.parametrize("tied", [True, False])
def test_count_params_is_the_number_of_scalars(random_model, tied):
    model, params = random_model(tie_word_embeddings=tied)
    assert weights.count_params(model) == sum(leaf.size for leaf in jax.tree.leaves(params)) == model.config.parameters


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_of_one_traced_layer_stand_for_all(random_model, tied):
    model, _ = random_model(num_hidden_layers=3, num_key_value_heads=1, tie_word_embeddings=tied)
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    whole = jax.eval_shape(lambda ids: model.init(jax.random.key(0), ids), ids)["params"]
    assert weights.unflatten(weights.abstract_params(model), model) == whole


def test_fingerprint_sees_which_file_holds_what(tmp_path, random_model):
    """If two shards exchange names, or bytes move from one to the other, it is another model folder."""
    model, params = random_model()
    weights.save_pretrained(tmp_path / "m", model, params)
    folder = tmp_path / "m"
    found = set()
    for first, second in ((b"12", b"3"), (b"3", b"12"), (b"1", b"23")):
        (folder / "a.safetensors").write_bytes(first)
        (folder / "b.safetensors").write_bytes(second)
        found.add(weights.fingerprint(folder))
    assert len(found) == 3


def test_what_a_config_does_not_say_is_what_transformers_takes():
    """Defaults of Qwen2: as many key/value heads as heads, a head of its own, 1e-6, and 32,768 positions."""
    raw = {"model_type": "qwen2", "vocab_size": 32, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1}
    found = ModelConfig.from_hf({**raw, "num_attention_heads": 4})
    assert (found.num_key_value_heads, found.head_dim, found.tie_word_embeddings) == (4, 6, False)
    assert (found.rms_norm_eps, found.max_position_embeddings) == (1e-6, 32_768)
