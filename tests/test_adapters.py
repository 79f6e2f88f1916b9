"""Adapters in PEFT's format: the real library reads ours and we read its, and whatever is not plain LoRA is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from jaxlv.config import LoraConfig
from jaxlv.errors import JaxlvError, JaxlvWarning
from jaxlv.lora import adapter_config, adapters
from jaxlv.lora.adapters import CODEC, CONFIG, HEAD, TENSORS, Origin, load_adapter, read_codec, read_config, save_peft
from jaxlv.storage import foreign
from jaxlv.storage.files import SEAL
from jaxlv.text.codec import Codec

IDS_BT = np.random.default_rng(0).integers(0, 61, (2, 9))
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
KINDS = {
    "as in the reports": dict(rank=8),
    "other alpha": dict(rank=3, alpha=5.0, targets=("q_proj", "k_proj")),
    "rsLoRA": dict(rank=6, alpha=7.5, rslora=True, targets=("o_proj", "down_proj")),
    "all projections": dict(rank=2, alpha=1.0, targets=ALL),
    "rank 1": dict(rank=1, alpha=0.25, targets=("gate_proj",)),
    "rank 256": dict(rank=256, alpha=16.0, targets=("v_proj", "up_proj")),
}


def same(a: Any, b: Any) -> None:
    flat = [traverse_util.flatten_dict(tree, sep=".") for tree in (a, b)]
    assert set(flat[0]) == set(flat[1])
    for name, leaf in flat[0].items():
        np.testing.assert_array_equal(leaf, flat[1][name], err_msg=name)


def rewrite(folder: Path, settings: dict[str, Any] | None = None, tensors: dict[str, Any] | None = None) -> None:
    """Changes settings, or tensors (None: left out), of an adapter."""
    raw = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(raw | (settings or {})))
    if tensors:
        held = load_file(folder / TENSORS) | tensors
        save_file({name: value for name, value in held.items() if value is not None}, folder / TENSORS)


# ------------------------------------------------------------------------------------------ here and back


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", ["frozen", "bias", "full"])
def test_what_is_written_is_read_back(random_model, random_lora, tmp_path, kind, head):
    model, params = random_model()
    config = LoraConfig(**KINDS[kind], head=head)
    lora = random_lora(params, **KINDS[kind], head=head)
    codec = Codec("mao", decimals=3, dataset_alpha=0.8)
    save_peft(tmp_path / "adapter", lora, config, Origin("somewhere/base", "0123abc", codec))
    assert (tmp_path / "adapter" / HEAD).exists() == (head == "bias")
    assert ("base_model.model.lm_head.weight" in load_file(tmp_path / "adapter" / TENSORS)) == (head == "full")
    again = load_adapter(tmp_path / "adapter", model)
    same(again, lora)
    assert adapters.lora_config(tmp_path / "adapter", again).scaling == pytest.approx(config.scaling)
    found = read_config(tmp_path / "adapter")
    assert (found.base, found.revision) == ("somewhere/base", "0123abc")
    assert read_codec(tmp_path / "adapter") == codec


def test_the_settings_of_an_adapter_are_read_back(random_model, random_lora, tmp_path):
    """Alpha 0 means the rank; the base, its revision and dropout are recorded."""
    _, params = random_model()
    config = LoraConfig(rank=3, dropout=0.25, targets=("q_proj", "o_proj"))
    save_peft(tmp_path / "a", random_lora(params, rank=3, targets=config.targets), config, Origin("some/base", "abc"))
    found = read_config(tmp_path / "a")
    assert (found.rank, found.alpha, found.scaling, found.dropout) == (3, 3.0, 1.0, 0.25)
    assert (found.base, found.revision, found.targets, found.layers) == ("some/base", "abc", config.targets, None)
    assert read_codec(tmp_path / "a") is None


def test_the_fingerprint_of_an_adapter_is_of_its_settings_tensors_and_head(random_model, random_lora, tmp_path):
    _, params = random_model()
    lora = random_lora(params)
    save_peft(tmp_path / "a", lora, LoraConfig(), Origin("base"))
    before = adapters.fingerprint(tmp_path / "a")
    for name in (CONFIG, TENSORS, HEAD):
        content = (tmp_path / "a" / name).read_bytes()
        (tmp_path / "a" / name).write_bytes(content + b" ")
        assert adapters.fingerprint(tmp_path / "a") != before, name
        (tmp_path / "a" / name).write_bytes(content)
    assert adapters.fingerprint(tmp_path / "a") == before
    (tmp_path / "a" / HEAD).unlink()
    assert adapters.fingerprint(tmp_path / "a") != before


def test_an_adapter_of_some_layers_is_read_back(random_model, random_lora, tmp_path):
    model, params = random_model()
    lora = random_lora(params, rank=2, head="frozen")
    del lora["model.layers.0"]
    save_peft(tmp_path / "adapter", lora, LoraConfig(rank=2), Origin("base"))
    same(load_adapter(tmp_path / "adapter", model), lora)


def test_an_older_adapter_is_replaced_whole(random_model, random_lora, tmp_path):
    _, params = random_model()
    for head in ("bias", "frozen"):
        settings = {"head": head, "targets": ("q",) if head == "frozen" else ("k", "v")}
        save_peft(tmp_path / "adapter", random_lora(params, **settings), LoraConfig(**settings), Origin("base"))
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {CONFIG, TENSORS, SEAL}
    assert all("q_proj" in name for name in load_file(tmp_path / "adapter" / TENSORS))
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


# --------------------------------------------------------------------------------------------- PEFT's own


@pytest.fixture(scope="module")
def peft():
    pytest.importorskip("torch", reason="parity with PEFT needs PyTorch")
    return pytest.importorskip("peft", reason="parity with PEFT needs it")


@pytest.fixture(scope="module")
def both(random_hf, through_disk) -> tuple[Any, Any, Any]:
    """Returns (Hugging Face model, our model, params) of the same random weights."""
    hf = random_hf(7)
    return hf, *through_disk(hf)


def theirs(hf: Any) -> np.ndarray:
    import torch

    with torch.no_grad():
        return hf(torch.tensor(IDS_BT)).logits.numpy()


def fresh(hf: Any) -> Any:
    """Returns a copy of a model without adapters: PEFT changes the one that it is given."""
    import copy

    return copy.deepcopy(hf)


def assert_close(ours: Any, logits: np.ndarray, base: np.ndarray) -> None:
    np.testing.assert_allclose(ours, logits, atol=1e-4)
    assert np.abs(logits - base).max() > 0.01  # the adapter has an effect


@pytest.mark.parametrize("head", ["frozen", "bias", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_peft_reads_adapters_made_here(peft, both, random_lora, tmp_path, kind, head):
    """A head's bias has no slot in the format: the logits differ by exactly that."""
    hf, model, params = both
    lora = random_lora(params, **KINDS[kind], head=head)
    if head == "full":
        lora["lm_head"]["weight"] *= 1.5
    save_peft(tmp_path / "adapter", lora, LoraConfig(**KINDS[kind], head=head), Origin("base", codec=Codec()))
    tuned = peft.PeftModel.from_pretrained(fresh(hf), tmp_path / "adapter")
    bias = lora["lm_head"]["bias"] if head == "bias" else 0.0
    assert_close(model.apply({"params": params, "lora": lora}, IDS_BT), theirs(tuned) + bias, theirs(hf) + bias)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "settings",
    [
        dict(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]),
        dict(r=4, lora_alpha=4, target_modules=list(ALL), use_rslora=True),
        dict(r=1, lora_alpha=0.5, target_modules="all-linear"),
        dict(r=16, lora_alpha=8, target_modules=r".*self_attn\.(k|o)_proj"),
        dict(r=2, lora_alpha=3, target_modules=["self_attn.q_proj", "down_proj"], layers_to_transform=[1]),
        dict(r=3, lora_alpha=3, target_modules=["model.layers.1.mlp.up_proj"]),
    ],
    ids=lambda settings: str(settings["target_modules"]) + f" r{settings['r']}",
)
def test_adapters_made_by_peft_are_read_here(peft, both, tmp_path, settings, dtype):
    import torch
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    hf, model, params = both
    tuned = peft.get_peft_model(fresh(hf), peft.LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.1, **settings)).eval()
    torch.manual_seed(3)
    for name, weight in tuned.named_parameters():
        if ".lora_" in name:
            weight.data = (0.3 * torch.randn_like(weight)).to(getattr(torch, dtype)).to(torch.float32)
    tuned.save_pretrained(tmp_path)
    held = load_torch(tmp_path / TENSORS)
    save_torch({name: value.to(getattr(torch, dtype)) for name, value in held.items()}, tmp_path / TENSORS)
    lora = load_adapter(tmp_path, model)
    logits = theirs(tuned)
    tuned.disable_adapter_layers()
    assert_close(model.apply({"params": params, "lora": lora}, IDS_BT), logits, theirs(tuned))


def test_every_setting_of_peft_is_known(peft):
    """What the installed PEFT writes by default is plain LoRA; a setting that a later version adds must be looked at."""
    written = peft.LoraConfig().to_dict()
    known = {*adapter_config.PLAIN, *adapter_config.READ, *adapter_config.WITHOUT_EFFECT}
    assert all(name in known or value in adapter_config.OFF for name, value in written.items())


# ----------------------------------------------------------------------------------------------- refusals


@pytest.fixture
def adapter(random_model, random_lora, tmp_path) -> Path:
    _, params = random_model()
    lora = random_lora(params, rank=4, head="frozen")
    save_peft(tmp_path / "adapter", lora, LoraConfig(rank=4), Origin("owner/other-base"))
    return tmp_path / "adapter"


Q0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"peft_type": "IA3"}, ["peft_type", "LORA", "IA3"]),
        ({"use_dora": True}, ["use_dora"]),
        ({"rank_pattern": {"q_proj": 2}}, ["wrong shape", "q_proj", "(2, 24)", "(4, 24)"]),
        ({"rank_pattern": {"q_proj": 0}}, ["rank_pattern", "1 to 256"]),
        ({"rank_pattern": ["q_proj"]}, ["rank_pattern", "by the name of a module"]),
        ({"alpha_pattern": {"q_proj": 0}}, ["alpha_pattern", "positive"]),
        ({"alpha_pattern": {"q.*": 2}}, ["alpha_pattern", "names of modules", "q.*"]),
        ({"alpha_pattern": {"q_proj": 1e-45}}, ["q_proj is 0 in float32"]),
        ({"modules_to_save": ["lm_head"]}, ["missing tensor base_model.model.lm_head.weight"]),
        ({"modules_to_save": ["embed_tokens"]}, ["missing tensor base_model.model.model.embed_tokens.weight"]),
        ({"modules_to_save": "lm_head"}, ["modules_to_save", "lm_head"]),
        ({"modules_to_save": ["x"] * 101}, ["modules_to_save", "at most 100 names", "101"]),
        ({"exclude_modules": ["v_proj"]}, ["unexpected tensors", "v_proj"]),
        ({"exclude_modules": 3}, ["exclude_modules", "names"]),
        ({"target_modules": "nothing.*", "layers_to_transform": [2]}, ["layer that the base lacks", "2"]),
        ({"bias": "lora_only"}, ["bias", "none"]),
        ({"lora_bias": True}, ["lora_bias"]),
        ({"fan_in_fan_out": True}, ["fan_in_fan_out"]),
        ({"init_lora_weights": "pissa"}, ["init_lora_weights", "pissa"]),
        ({"layer_replication": [[0, 2]]}, ["layer_replication"]),
        ({"trainable_token_indices": [1]}, ["trainable_token_indices"]),
        ({"something_of_next_year": 3}, ["something_of_next_year"]),
        ({"task_type": "SEQ_CLS"}, ["task_type", "CAUSAL_LM"]),
        ({"r": 0}, ["r is", "1 to 256"]),
        ({"r": 10**12}, ["r is", "1 to 256"]),
        ({"r": "8"}, ["r is", "1 to 256"]),
        ({"lora_alpha": 0}, ["lora_alpha", "positive"]),
        ({"lora_alpha": -1}, ["lora_alpha", "positive"]),
        ({"lora_alpha": float("inf")}, ["lora_alpha is Infinity, not a finite number"]),
        ({"lora_alpha": 10**400}, ["lora_alpha", "positive"]),
        ({"lora_dropout": 2}, ["lora_dropout"]),
        ({"use_rslora": "yes"}, ["use_rslora"]),
        ({"target_modules": ["lm_head"]}, ["target_modules", "lm_head"]),
        ({"target_modules": []}, ["target_modules"]),
        ({"target_modules": ["q_proj", "k_proj", "v_proj"]}, ["missing tensors", "k_proj", "owner/other-base"]),
        ({"target_modules": ["q_proj"]}, ["unexpected tensors", "v_proj"]),
        ({"layers_to_transform": [0, 5]}, ["layer that the base lacks", "5"]),
        ({"layers_to_transform": "all"}, ["layers_to_transform"]),
        ({"r": 5}, ["wrong shape", "(5, 24)", "(4, 24)"]),
    ],
    ids=lambda value: " ".join(map(str, value.items()))[:50] if isinstance(value, dict) else "",
)
def test_a_setting_that_is_not_plain_lora_is_refused_by_name(adapter, random_model, settings, parts):
    rewrite(adapter, settings)
    with pytest.raises(JaxlvError) as caught:
        load_adapter(adapter, random_model()[0])
    for part in (str(adapter), *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "parts"),
    [
        ({Q0: None}, ["missing tensor", Q0]),
        ({Q0.replace("lora_A", "lora_C"): np.ones(3, np.float32)}, ["unexpected tensor", "lora_C"]),
        ({Q0: np.ones((24, 4), np.float32)}, ["wrong shape", Q0, "(4, 24)", "(24, 4)"]),
        ({Q0: np.full((4, 24), np.nan, np.float32)}, ["NaN", Q0]),
        ({Q0: np.ones((4, 24), np.int32)}, ["type I32", "F32"]),
        ({Q0: np.ones((4, 24), np.float64)}, ["type F64", "F32"]),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(adapter, random_model, tensors, parts):
    rewrite(adapter, tensors=tensors)
    with pytest.raises(JaxlvError) as caught:
        load_adapter(adapter, random_model()[0])
    for part in (str(adapter), *parts):
        assert part in str(caught.value)


def test_an_adapter_of_another_base_is_refused(adapter, random_model):
    for changes in ({"hidden_size": 32, "head_dim": 8}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}):
        with pytest.raises(JaxlvError, match=r"wrong shape|missing tensors|unexpected tensors"):
            load_adapter(adapter, random_model(**changes)[0])


def test_an_adapter_that_changes_nothing_is_refused(adapter, random_model):
    zero = {name: np.zeros_like(value) for name, value in load_file(adapter / TENSORS).items() if "lora_B" in name}
    rewrite(adapter, tensors=zero)
    with pytest.raises(JaxlvError, match="changes nothing: every B is zero"):
        load_adapter(adapter, random_model()[0])


def test_with_a_head_beside_it_an_adapter_changes_something(adapter, random_model):
    zero = {name: np.zeros_like(value) for name, value in load_file(adapter / TENSORS).items() if "lora_B" in name}
    rewrite(adapter, tensors=zero)
    save_file({"lm_head.bias": np.ones(61, np.float32)}, adapter / HEAD)
    model, params = random_model()
    logits = [model.apply(v, IDS_BT) for v in ({"params": params}, {"params": params, "lora": load_adapter(adapter, model)})]
    np.testing.assert_allclose(logits[1], logits[0] + 1, rtol=1e-6)
    for bad in ({"lm_head.bias": np.ones(60, np.float32)}, {"lm_head.gain": np.ones(61, np.float32)}):
        save_file(bad, adapter / HEAD)
        with pytest.raises(JaxlvError, match="lm_head"):
            load_adapter(adapter, model)


def test_files_that_are_no_adapter(adapter, random_model, tmp_path):
    model = random_model()[0]
    with pytest.raises(JaxlvError, match="no adapter"):
        load_adapter(tmp_path, model)
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(JaxlvError, match="pickles can run code"):
        load_adapter(tmp_path, model)
    whole = (adapter / CONFIG).read_text()
    for content in ("", "{", "[]", "[" * 100_000, '{"peft_type": "LORA"'):
        (adapter / CONFIG).write_text(content)
        with pytest.raises(JaxlvError, match="unreadable settings"):
            load_adapter(adapter, model)
    (adapter / CONFIG).write_text(" " * (foreign.LIMITS[CONFIG] + 1))
    with pytest.raises(JaxlvError, match="too large"):
        load_adapter(adapter, model)
    (adapter / CONFIG).write_text(whole)
    (adapter / TENSORS).write_bytes((adapter / TENSORS).read_bytes()[:-1])
    with pytest.raises(JaxlvError, match="not a safetensors file"):
        load_adapter(adapter, model)


def test_a_base_of_another_name_is_a_warning(adapter, random_model):
    model = random_model()[0]
    with pytest.warns(JaxlvWarning, match=r"was made for owner/other-base; it is laid over models/this-base"):
        lora = load_adapter(adapter, model, base="models/this-base")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in (None, "owner/other-base", Path("elsewhere/other-base")):
            same(load_adapter(adapter, model, base=name), lora)


@pytest.mark.parametrize("file", [CONFIG, TENSORS, HEAD])
def test_a_link_out_of_the_folder_is_refused(adapter, random_model, tmp_path, file):
    outside = tmp_path / f"outside-{file}"
    if (adapter / file).exists():
        (adapter / file).rename(outside)
    else:
        save_file({"lm_head.bias": np.ones(61, np.float32)}, outside)
    (adapter / file).symlink_to(outside)
    with pytest.raises(JaxlvError, match="link to outside the folder"):
        load_adapter(adapter, random_model()[0])


def test_a_codec_that_is_none_is_refused(adapter):
    assert read_codec(adapter) is None
    for content in ('{"scale": "none"}', '{"decimals": 99}', '{"headrooms": [2]}', '{"dataset_alpha": -1}', "[1]", "{"):
        (adapter / CODEC).write_text(content)
        with pytest.raises(JaxlvError):
            read_codec(adapter)


def test_a_tensor_named_twice_in_a_header_is_refused(adapter, random_model):
    data = (adapter / TENSORS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].decode().rstrip()
    entry = json.loads(header)[Q0]
    header = header[:-1] + f', "{Q0}": {json.dumps(entry)}' + "}"
    (adapter / TENSORS).write_bytes(len(header).to_bytes(8, "little") + header.encode() + data[8 + length :])
    with pytest.raises(JaxlvError, match=f"{Q0} occurs twice"):
        load_adapter(adapter, random_model()[0])


def test_the_overlay_is_of_float32_in_jax(adapter, random_model):
    leaves = jax.tree.leaves(load_adapter(adapter, random_model(dtype="bfloat16")[0]))
    assert leaves and all(leaf.dtype == jnp.float32 for leaf in leaves)
