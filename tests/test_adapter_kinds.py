"""Adapters as other tools write them: what PEFT computes is computed here, or one line says what was found."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxlv.config import LoraConfig
from jaxlv.errors import JaxlvError, JaxlvWarning
from jaxlv.lora import adapters
from jaxlv.lora.adapters import CONFIG, HEAD, TENSORS, Origin, load_adapter, save_peft
from jaxlv.model import weights
from jaxlv.runs import sources
from jaxlv.studies import handover
from tests.test_adapters import ALL, IDS_BT, assert_close, fresh, peft, rewrite, same, theirs  # noqa: F401

PREFIX = "base_model.model."
HEAD_SLOT, EMBEDDING = f"{PREFIX}lm_head.weight", f"{PREFIX}model.embed_tokens.weight"


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def either(request, random_hf, through_disk) -> tuple[Any, Any, Any]:
    """(Hugging Face model, our model, params) of the same random weights, with a tied head and with one of its own."""
    hf = random_hf(7, tie_word_embeddings=request.param)
    return hf, *through_disk(hf)


def made_by_peft(peft: Any, hf: Any, folder: Path, change: Any = None, saved: Any = None, **settings: Any) -> Any:  # noqa: F811
    """Saves an adapter of random numbers as PEFT does; returns the model with it. `change` is called before."""
    import torch

    settings = {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj"], **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = peft.get_peft_model(fresh(hf), peft.LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
        torch.manual_seed(3)
        with torch.no_grad():
            for name, weight in tuned.named_parameters():
                if ".lora_" in name:
                    weight.copy_(0.3 * torch.randn_like(weight))
                if ".modules_to_save." in name and "lm_head" in name:
                    weight.mul_(1.5)
            if change:
                change(tuned)
        tuned.save_pretrained(folder, **(saved or {}))
    return tuned


def read_again(peft: Any, hf: Any, folder: Path) -> np.ndarray:  # noqa: F811
    """Returns the logits of what PEFT makes of an adapter's files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return theirs(peft.PeftModel.from_pretrained(fresh(hf), folder))


# ---------------------------------------------------------------------------------- which modules are adapted

PLACES = {
    "a pattern for some layers": dict(target_modules=r"model\.layers\.1\..*(q|up)_proj"),
    "a pattern that shuts some out": dict(target_modules=r".*self_attn.*_proj", exclude_modules=r".*\.0\..*q_proj"),
    "names shut out": dict(target_modules=list(ALL), exclude_modules=["up_proj", "layers.0.self_attn.q_proj"]),
    "all linear but some": dict(target_modules="all-linear", exclude_modules=["k_proj"]),
    "one layer by its number": dict(target_modules=["q_proj", "down_proj"], layers_to_transform=1),
    "a whole path in another layer": dict(target_modules=["model.layers.0.mlp.up_proj", "q_proj"], layers_to_transform=[1]),
    "layers of a pattern's name": dict(target_modules=["q_proj"], layers_to_transform=[0], layers_pattern="layers"),
    "a name that the model lacks": dict(target_modules=["query_key_value", "v_proj"]),
    "ranks by name": dict(target_modules=["q_proj", "k_proj"], rank_pattern={"q_proj": 1, "layers.1.self_attn.k_proj": 6}),
    "ranks by a regular expression": dict(target_modules=list(ALL), rank_pattern={r"model\.layers\.(0|1)\.mlp.*": 2}),
    "alphas by name": dict(
        target_modules=list(ALL), use_rslora=True, alpha_pattern={"^model.layers.0.self_attn.q_proj": 9, "q_proj": 2}
    ),
    "ranks and alphas": dict(target_modules=list(ALL), rank_pattern={"mlp.up_proj": 1}, alpha_pattern={r"mlp\.up_proj": 16}),
}


@pytest.mark.parametrize("kind", PLACES)
def test_what_is_adapted_is_read_from_the_file(peft, either, tmp_path, kind):  # noqa: F811
    hf, model, params = either
    logits = theirs(made_by_peft(peft, hf, tmp_path, **PLACES[kind]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lora = load_adapter(tmp_path, model)
    assert_close(model.apply({"params": params, "lora": lora}, IDS_BT), logits, theirs(hf))


def test_a_module_that_was_saved_whole_is_not_adapted(peft, either, tmp_path):  # noqa: F811
    hf, model, params = either
    logits = theirs(made_by_peft(peft, hf, tmp_path, target_modules=list(ALL), modules_to_save=["k_proj"]))
    assert not any("k_proj.lora" in name for name in load_file(tmp_path / TENSORS))
    with pytest.warns(JaxlvWarning, match=r"are dropped: model.layers.0.self_attn.k_proj.bias, .*k_proj.weight"):
        lora = load_adapter(tmp_path, model)
    assert_close(model.apply({"params": params, "lora": lora}, IDS_BT), logits, theirs(hf))


@pytest.mark.parametrize("targets", ["all-linear", ".*_proj"])
def test_what_contradicts_the_layers_is_refused(random_model, random_lora, tmp_path, targets):
    model, params = random_model()
    lora = random_lora(params, rank=2, targets=ALL, head="frozen")
    save_peft(tmp_path / "a", lora, LoraConfig(rank=2), Origin("base"))
    rewrite(tmp_path / "a", {"target_modules": targets, "layers_to_transform": [1]})
    with pytest.raises(JaxlvError, match=r"unexpected tensors base_model.model.model.layers.0"):
        load_adapter(tmp_path / "a", model)
    first = [name for name in load_file(tmp_path / "a" / TENSORS) if ".layers.0." in name]
    rewrite(tmp_path / "a", tensors=dict.fromkeys(first))
    same(load_adapter(tmp_path / "a", model), {"model.layers.1": lora["model.layers.1"]})


def test_an_alpha_of_a_whole_path_is_of_that_module_alone(random_model, random_lora, tmp_path):
    """The first name that fits counts, as in PEFT; a name that only ends alike does not."""
    model, params = random_model()
    lora = random_lora(params, rank=2, alpha=2.0, targets=("q_proj", "up_proj"), head="frozen")
    save_peft(tmp_path / "a", lora, LoraConfig(rank=2, targets=("q_proj", "up_proj")), Origin("base"))
    alphas = {"^layers.0.self_attn.q_proj": 100, "proj": 100, "model.layers.0.self_attn.q_proj": 8, "q_proj": 4}
    rewrite(tmp_path / "a", {"alpha_pattern": alphas})
    again = load_adapter(tmp_path / "a", model)
    scales = [float(again[f"model.layers.{i}"]["self_attn"]["q_proj"]["scale"]) for i in (0, 1)]
    assert scales == [4.0, 2.0] and float(again["model.layers.0"]["mlp"]["up_proj"]["scale"]) == 1.0


def test_an_adapter_of_several_ranks_is_written_as_a_sum_but_not_begun_from(random_model, random_lora, tmp_path):
    weights.save_pretrained(tmp_path / "base", *random_model())
    model, params = weights.load_pretrained(tmp_path / "base")
    parts = [random_lora(params, rank=r, targets=(t,), head="frozen") for r, t in ((2, "q_proj"), (3, "v_proj"))]
    both = {layer: {"self_attn": {**parts[0][layer]["self_attn"], **parts[1][layer]["self_attn"]}} for layer in parts[0]}
    save_peft(tmp_path / "a", both, LoraConfig(rank=2, alpha=2.0), Origin("base"))
    rewrite(tmp_path / "a", {"rank_pattern": {"v_proj": 3}, "alpha_pattern": {"v_proj": 3}})
    same(load_adapter(tmp_path / "a", model), both)
    handover.merge([tmp_path / "a"], handover.Base(str(tmp_path / "base")), "peft", tmp_path / "sum")
    ours, again = (
        model.apply({"params": params, "lora": load_adapter(tmp_path / name, model)}, IDS_BT) for name in ("a", "sum")
    )
    np.testing.assert_allclose(ours, again, atol=1e-5)
    assert adapters.read_config(tmp_path / "sum").rank == 3
    with pytest.raises(JaxlvError, match="modules of different rank or alpha"):
        adapters.lora_config(tmp_path / "a", both)


def test_a_run_begins_from_all_layers_or_from_none(random_model, random_lora, tmp_path):
    model, params = random_model()
    weights.save_pretrained(tmp_path / "base", model, params)
    lora = random_lora(params, rank=2, head="frozen")
    del lora["model.layers.0"]
    save_peft(tmp_path / "a", lora, LoraConfig(rank=2), Origin("base"))
    rewrite(tmp_path / "a", {"target_modules": r".*\.1\..*(q|v)_proj"})
    config = sources.RunConfig(model=sources.ModelSettings(path=str(tmp_path / "base")))
    with pytest.raises(JaxlvError, match=r"adapts only some layers; .*found 2 of 4 modules"):
        sources.begun_from(config, tmp_path / "a")


# ------------------------------------------------------------------------------------------------ the LM head


def test_a_head_saved_by_peft_is_read(peft, either, tmp_path):  # noqa: F811
    hf, model, params = either
    logits = theirs(made_by_peft(peft, hf, tmp_path, modules_to_save=["lm_head"]))
    lora = load_adapter(tmp_path, model)
    assert adapters.lora_config(tmp_path, lora).head == "full"
    assert_close(model.apply({"params": params, "lora": lora}, IDS_BT), logits, theirs(hf))


def test_a_head_trained_here_is_read_by_peft(peft, either, random_lora, tmp_path):  # noqa: F811
    hf, model, params = either
    lora = random_lora(params, rank=3, head="full")
    lora["lm_head"]["weight"] = lora["lm_head"]["weight"][::-1]
    save_peft(tmp_path / "adapter", lora, LoraConfig(rank=3, head="full"), Origin("base"))
    assert_close(
        model.apply({"params": params, "lora": lora}, IDS_BT), read_again(peft, hf, tmp_path / "adapter"), theirs(hf)
    )


def test_a_head_in_an_older_folder_is_still_read(random_model, random_lora, tmp_path):
    """Beside the adapter, as it was written before; with one in PEFT's slot too, it cannot be told which is meant."""
    model, params = random_model()
    lora = random_lora(params, rank=3, head="full")
    save_peft(tmp_path / "a", lora, LoraConfig(rank=3, head="full"), Origin("base"))
    held = load_file(tmp_path / "a" / TENSORS)
    save_file({"lm_head.weight": held[HEAD_SLOT]}, tmp_path / "a" / HEAD)
    with pytest.raises(JaxlvError, match=rf"two weights of the LM head.*{HEAD} and .*{re.escape(HEAD_SLOT)} in {TENSORS}"):
        load_adapter(tmp_path / "a", model)
    rewrite(tmp_path / "a", {"modules_to_save": None}, {HEAD_SLOT: None})
    same(load_adapter(tmp_path / "a", model), lora)


@pytest.mark.parametrize("bias", [False, True])
def test_a_head_and_a_bias_go_together(random_model, random_lora, tmp_path, bias):
    model, params = random_model()
    lora = random_lora(params, rank=3, head="full")
    if bias:
        lora["lm_head"]["bias"] = random_lora(params, head="bias")["lm_head"]["bias"]
    save_peft(tmp_path / "a", lora, LoraConfig(rank=3, head="full"), Origin("base"))
    same(load_adapter(tmp_path / "a", model), lora)


# --------------------------------------------------------------------------------- copies of the base's tensors


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_copies_of_the_base_are_dropped_with_a_note(peft, either, tmp_path, dtype):  # noqa: F811
    """Also copies in a narrower type than that of the base's file."""
    hf, model, params = either
    logits = theirs(made_by_peft(peft, hf, tmp_path, saved={"save_embedding_layers": True}))
    held = load_file(tmp_path / TENSORS)
    assert {HEAD_SLOT, EMBEDDING} <= set(held)
    save_file({n: v.astype(weights.jnp.dtype(dtype)) if "lora" not in n else v for n, v in held.items()}, tmp_path / TENSORS)
    with pytest.warns(
        JaxlvWarning, match="copies of the base's own tensors are dropped: lm_head.weight, model.embed_tokens"
    ):
        lora = load_adapter(tmp_path, model)
    assert "lm_head" not in lora
    assert_close(model.apply({"params": params, "lora": lora}, IDS_BT), logits, theirs(hf))


def test_a_copy_that_differs_is_what_peft_makes_of_it_or_refused(peft, either, tmp_path):  # noqa: F811
    """PEFT writes it over the base's own: an untied head is laid over; a tied one would change the embedding too."""
    hf, model, params = either
    made_by_peft(peft, hf, tmp_path, saved={"save_embedding_layers": True})
    rewrite(tmp_path, tensors={HEAD_SLOT: load_file(tmp_path / TENSORS)[HEAD_SLOT] * 1.25})
    if model.config.tie_word_embeddings:
        with pytest.raises(JaxlvError, match=r"lm_head.weight is not the base's.*merge_and_unload"):
            load_adapter(tmp_path, model)
    else:
        with pytest.warns(JaxlvWarning, match="are dropped: model.embed_tokens.weight$"):
            lora = load_adapter(tmp_path, model)
        assert_close(model.apply({"params": params, "lora": lora}, IDS_BT), read_again(peft, hf, tmp_path), theirs(hf))


@pytest.fixture
def here(random_model, random_lora, tmp_path) -> tuple[Path, Any, Any]:
    """(folder of an adapter, model read from a folder, params)."""
    weights.save_pretrained(tmp_path / "base", *random_model())
    model, params = weights.load_pretrained(tmp_path / "base")
    lora = random_lora(params, rank=4, head="frozen")
    save_peft(tmp_path / "adapter", lora, LoraConfig(rank=4), Origin("base"))
    return tmp_path / "adapter", model, params


def test_an_embedding_that_differs_is_refused(here):
    adapter, model, params = here
    embedding = np.array(params["model.embed_tokens"]["weight"])
    longer = np.concatenate([embedding, embedding[:2]])
    for changed, saved in ((embedding * 2, None), (embedding * 2, ["embed_tokens"]), (longer, None)):
        rewrite(adapter, {"modules_to_save": saved}, {EMBEDDING: changed})
        with pytest.raises(JaxlvError, match=r"model.embed_tokens.weight is not the base's.*merge_and_unload") as caught:
            load_adapter(adapter, model)
        assert str(adapter) in str(caught.value)


def test_a_copy_needs_a_base_to_be_compared_with(here):
    """A model made in memory does not know its folder; an untied head is right without one."""
    adapter, model, params = here
    rewrite(adapter, tensors={EMBEDDING: np.array(params["model.embed_tokens"]["weight"])})
    bare = model.clone(folder=None)
    with pytest.raises(
        JaxlvError, match=r"may be a copy of the base's model.embed_tokens.weight; give the folder of the base"
    ):
        load_adapter(adapter, bare)
    with pytest.warns(JaxlvWarning, match="are dropped: model.embed_tokens.weight"):
        same(load_adapter(adapter, bare, adapter.parent / "base"), load_adapter(adapter, model))
    rewrite(adapter, tensors={EMBEDDING: None, HEAD_SLOT: np.array(params["model.embed_tokens"]["weight"])})
    untied = weights.Qwen2(weights.dataclasses.replace(model.config, tie_word_embeddings=False))
    assert set(load_adapter(adapter, untied)["lm_head"]) == {"weight"}


def test_any_weight_of_the_base_may_be_repeated_but_not_changed(here):
    """As in a state that was saved whole, with the names that PEFT's modules have in memory."""
    adapter, model, params = here
    expected = load_adapter(adapter, model)
    q, norm = params["model.layers.0"]["self_attn"]["q_proj"]["weight"], params["model.norm"]["weight"]
    names = [f"{PREFIX}model.layers.0.self_attn.q_proj.base_layer.weight", f"{PREFIX}model.norm.weight"]
    rewrite(adapter, tensors=dict(zip(names, map(np.array, (q, norm)), strict=True)))
    with pytest.warns(JaxlvWarning, match="dropped: model.layers.0.self_attn.q_proj.weight, model.norm.weight"):
        same(load_adapter(adapter, model), expected)
    rewrite(adapter, tensors={names[1]: np.array(norm) + 1})
    with pytest.raises(JaxlvError, match=r"model.norm.weight is not the base's"):
        load_adapter(adapter, model)


# ---------------------------------------------------------------------------------------------- other names

RENAMED = {
    "compiled": lambda name: name.replace(PREFIX, f"{PREFIX}_orig_mod."),
    "compiled around PEFT": lambda name: f"_orig_mod.{name}",
    "layers compiled": lambda name: re.sub(r"(layers\.\d+)", r"\1._orig_mod", name),
    "in parallel": lambda name: f"module.{name}",
    "sharded": lambda name: name.replace("self_attn", "_fsdp_wrapped_module._checkpoint_wrapped_module.self_attn"),
    "the adapter's name": lambda name: re.sub(r"(lora_[AB])", r"\1.default", name),
    "the head's wrapper": lambda name: name.replace("lm_head.", "lm_head.modules_to_save.default."),
    "without PEFT's prefix": lambda name: name.removeprefix(PREFIX),
}


@pytest.mark.parametrize("kind", RENAMED)
def test_names_of_wrapped_modules_are_read_with_a_note(random_model, random_lora, tmp_path, kind):
    model, params = random_model()
    lora = random_lora(params, rank=3, head="full")
    save_peft(tmp_path / "a", lora, LoraConfig(rank=3, head="full"), Origin("base"))
    held = load_file(tmp_path / "a" / TENSORS)
    renamed = {RENAMED[kind](name): value for name, value in held.items()}
    assert set(renamed) != set(held)
    save_file(renamed, tmp_path / "a" / TENSORS)
    with pytest.warns(JaxlvWarning, match=rf"{TENSORS}: .* is read as {PREFIX}"):
        same(load_adapter(tmp_path / "a", model), lora)
    both = held | renamed
    save_file(both, tmp_path / "a" / TENSORS)
    with pytest.raises(JaxlvError, match=f"two tensors for {PREFIX}"):
        load_adapter(tmp_path / "a", model)


def mlx(folder: Path) -> None:
    for path in list(folder.iterdir()):
        path.unlink()
    names = ("model.layers.0.self_attn.q_proj.lora_a", "model.layers.0.self_attn.q_proj.lora_b")
    save_file({name: np.ones((2, 2), np.float32) for name in names}, folder / "adapters.safetensors")
    settings = {"fine_tune_type": "lora", "lora_parameters": {"rank": 2, "scale": 20.0}, "num_layers": 16}
    (folder / CONFIG).write_text(json.dumps(settings))


def mlx_without_settings(folder: Path) -> None:
    mlx(folder)
    (folder / CONFIG).unlink()


def mlx_beside_settings(folder: Path) -> None:
    settings = (folder / CONFIG).read_text()
    mlx(folder)
    (folder / CONFIG).write_text(settings)


def mlx_names(folder: Path) -> None:
    held = load_file(folder / TENSORS)
    save_file(
        {n.replace("lora_A.weight", "lora_a").replace("lora_B.weight", "lora_b"): v for n, v in held.items()},
        folder / TENSORS,
    )


def pickled(folder: Path) -> None:
    (folder / TENSORS).rename(folder / "adapter_model.bin")


def without_settings(folder: Path) -> None:
    (folder / CONFIG).unlink()


def whole(folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / "base", folder)


def whole_under_an_adapters_name(folder: Path) -> None:
    held = load_file(folder.parent / "base" / weights.SINGLE)
    save_file({PREFIX + name: value for name, value in held.items()}, folder / TENSORS)


def in_a_run(folder: Path) -> None:
    shutil.move(folder, folder.parent / "moved")
    folder.mkdir()
    shutil.move(folder.parent / "moved", folder / "checkpoint-7")


def other_base(folder: Path) -> None:
    """An adapter of the model without its head."""
    held = load_file(folder / TENSORS)
    save_file({name.replace("model.model.", "model."): value for name, value in held.items()}, folder / TENSORS)


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


def extra(*names: str) -> Any:
    def change(folder: Path) -> None:
        rewrite(folder, tensors={name: np.ones((2, 2), np.float32) for name in names})

    return change


Q0 = f"{PREFIX}model.layers.0.self_attn.q_proj"
FOUND: dict[str, tuple[Any, list[str]]] = {
    "MLX": (mlx, ["an MLX adapter", "fine_tune_type, lora_parameters", "mlx_lm.fuse"]),
    "MLX without settings": (mlx_without_settings, ["an MLX adapter (adapters.safetensors)", "mlx_lm.fuse"]),
    "MLX beside settings": (mlx_beside_settings, ["an MLX adapter (adapters.safetensors)", "mlx_lm.fuse"]),
    "MLX names": (mlx_names, ["lora_a and lora_b are of an MLX adapter", "mlx_lm.fuse"]),
    "pickled": (pickled, ["no adapter", "adapter_model.bin", "pickles can run code", "safetensors"]),
    "no settings": (without_settings, ["no adapter", "found a PEFT adapter (adapter_model.safetensors)", "belong together"]),
    "a whole model": (whole, ["no adapter", "a whole model (model.safetensors)", "give it as the model"]),
    "a whole model as an adapter": (whole_under_an_adapters_name, ["no LoRA matrices", "weights of a whole model"]),
    "the folder above": (in_a_run, ["no adapter", "a folder with an adapter in it (checkpoint-7)", "adapter/checkpoint-7"]),
    "another module's names": (other_base, ["modules that the base lacks", "layers.0.self_attn.q_proj", "made for base"]),
    "a file": (a_file, ["a file"]),
    "nothing": (shutil.rmtree, ["no adapter", "no such folder"]),
    "DoRA": (extra(f"{Q0}.lora_magnitude_vector"), ["unexpected tensor", "DoRA is not supported"]),
    "LoRA on the head": (extra(f"{PREFIX}lm_head.lora_A.weight"), ["LoRA on the LM head is not supported"]),
    "LoRA on the embedding": (
        extra(f"{PREFIX}model.embed_tokens.lora_embedding_A"), ["LoRA on the embedding is not supported"]
    ),
    "another thing": (extra("classifier.weight"), ["unexpected tensor classifier.weight"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOUND)
def test_what_is_no_adapter_of_peft_is_named(here, kind):
    adapter, model, _ = here
    change, parts = FOUND[kind]
    change(adapter)
    with pytest.raises(JaxlvError) as caught:
        load_adapter(adapter, model)
    said = str(caught.value)
    assert said.startswith(str(adapter)) and "\n" not in said
    for part in parts:
        assert part in said, said


def test_other_tensors_in_the_folder_are_told(here):
    adapter, model, _ = here
    for name in ("adapter_model.bin", "model.safetensors"):
        (adapter / name).write_bytes(b"x")
    with pytest.warns(
        JaxlvWarning, match=r"not read beside adapter_model.safetensors: adapter_model.bin, model.safetensors"
    ):
        load_adapter(adapter, model)


def test_an_adapter_given_as_the_model_is_named(here):
    adapter, *_ = here
    for read in (weights.load_pretrained, weights.fingerprint):
        with pytest.raises(JaxlvError) as caught:
            read(adapter)
        said = str(caught.value)
        assert "no config.json" in said and f"a PEFT adapter ({CONFIG}, {TENSORS})" in said
        assert "the model that it was made for (base), and this folder as its adapter" in said
    shutil.copy(adapter.parent / "base" / "config.json", adapter)
    with pytest.raises(JaxlvError, match=r"no weights; .* found a PEFT adapter .*made for \(base\)"):
        weights.load_pretrained(adapter)
