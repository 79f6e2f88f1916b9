"""Exports: in transformers and PEFT they compute what the run computes, and nothing else gets a name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxlv.config import LoraConfig
from jaxlv.errors import JaxlvError
from jaxlv.lora import adapters, export, overlay
from jaxlv.lora.adapters import Origin, load_adapter, save_peft
from jaxlv.model import weights
from jaxlv.storage import tensors
from tests.programs import done, jaxlv
from tests.test_adapters import both, peft, theirs  # noqa: F401

IDS_BT = np.random.default_rng(0).integers(0, 61, (2, 9))
HEADS = ["frozen", "bias", "full"]


def made(random_lora, params, head, **settings):
    lora = random_lora(params, rank=3, alpha=5.0, head=head, **settings)
    if head == "full":
        lora["lm_head"]["weight"] = lora["lm_head"]["weight"] * 1.5
    return lora


# ----------------------------------------------------------------------------------------------- merged


@pytest.mark.parametrize("head", HEADS)
def test_transformers_reads_a_merged_checkpoint_as_the_tuned_model(both, random_lora, tmp_path, head):  # noqa: F811
    transformers = pytest.importorskip("transformers")
    _, model, params = both
    tuned = made(random_lora, params, head, targets=("q_proj", "o_proj", "down_proj"))
    found = export.export_merged(tmp_path / "merged", model, params, tuned, side_head=True)
    assert found.difference < 1e-4
    hf = transformers.Qwen2ForCausalLM.from_pretrained(tmp_path / "merged", attn_implementation="eager").eval()
    logits = theirs(hf)
    side = tmp_path / "merged" / adapters.HEAD
    assert side.is_file() == (head == "bias") and bool(found.notes) == (head != "frozen")
    bias = load_file(side)["lm_head.bias"] if head == "bias" else 0.0
    ours = model.apply({"params": params, "lora": tuned}, IDS_BT)
    np.testing.assert_allclose(ours, logits + bias, atol=2e-4)
    assert hf.config.tie_word_embeddings == (head != "full")  # tied weights stay tied
    names = set(load_file(tmp_path / "merged" / "model.safetensors"))
    assert ("lm_head.weight" in names) == (head == "full")


def test_a_head_goes_to_peft_in_its_own_slot(random_model, random_lora, tmp_path):
    model, params = random_model()
    for head in HEADS:
        config = LoraConfig(rank=3, alpha=5.0, head=head)
        tuned = made(random_lora, params, head)
        found = export.export_peft(tmp_path / head, model, params, tuned, config, Origin("base"))
        assert found.difference < 1e-6 and bool(found.notes) == (head == "bias")
        assert (tmp_path / head / adapters.HEAD).exists() == (head == "bias")
        saved = json.loads((tmp_path / head / adapters.CONFIG).read_text())["modules_to_save"]
        assert saved == (["lm_head"] if head == "full" else None)
        np.testing.assert_array_equal(
            model.apply({"params": params, "lora": load_adapter(tmp_path / head, model)}, IDS_BT),
            model.apply({"params": params, "lora": tuned}, IDS_BT),
        )


def test_42_a_bias_has_no_place_in_a_checkpoint(random_model, random_lora, tmp_path):
    model, params = random_model()
    with pytest.raises(JaxlvError, match=r"bias of the LM head trained.*--side-head"):
        export.export_merged(tmp_path / "merged", model, params, made(random_lora, params, "bias"))
    assert not list(tmp_path.iterdir())


def test_a_merged_checkpoint_in_bfloat16(random_model, random_lora, tmp_path):
    model, params = random_model(dtype="bfloat16")
    tuned = made(random_lora, params, "frozen")
    found = export.export_merged(tmp_path / "merged", model, params, tuned)
    again, read = weights.load_pretrained(tmp_path / "merged", "bfloat16")
    expected = overlay.merge(params, tuned)
    np.testing.assert_array_equal(again.apply({"params": read}, IDS_BT), model.apply({"params": expected}, IDS_BT))
    assert found.difference < export.TOLERANCE["bfloat16"]


def test_the_tokenizer_and_the_settings_of_the_base_go_with_it(random_model, random_lora, tmp_path):
    model, params = random_model()
    weights.save_pretrained(tmp_path / "base", model, params)
    raw = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps(raw | {"bos_token_id": 7}))
    for name in ("tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        (tmp_path / "base" / name).write_text("{}")
    export.export_merged(tmp_path / "m", model, params, made(random_lora, params, "frozen"), tmp_path / "base")
    assert {path.name for path in (tmp_path / "m").iterdir()} == {path.name for path in (tmp_path / "base").iterdir()}
    assert json.loads((tmp_path / "m" / "config.json").read_text())["bos_token_id"] == 7


@pytest.mark.parametrize("to", ["peft", "merged"])
def test_42_what_reads_back_as_another_model_gets_no_name(random_model, random_lora, tmp_path, monkeypatch, to):
    """A writer that loses something is caught before the folder gets its name."""
    model, params = random_model()
    tuned = made(random_lora, params, "frozen")
    write = export.tensors.write

    def lossy(path: Path, tensors):
        write(path, {name: value * 1.01 for name, value in tensors.items()})

    monkeypatch.setattr(export.tensors, "write", lossy)
    with pytest.raises(JaxlvError, match="not the model that was exported"):
        if to == "peft":
            export.export_peft(tmp_path / "x", model, params, tuned, LoraConfig(rank=3, alpha=5.0), Origin("base"))
        else:
            export.export_merged(tmp_path / "x", model, params, tuned)
    assert not list(tmp_path.iterdir())


def test_42_a_folder_that_is_there_is_left_alone(random_model, random_lora, tmp_path):
    model, params = random_model()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("precious")
    with pytest.raises(JaxlvError, match="exists already"):
        export.export_merged(tmp_path / "x", model, params, made(random_lora, params, "frozen"))
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "mine"]


# ---------------------------------------------------------------------------------------------- programs


def test_a_run_goes_to_peft_and_back(work, tmp_path):
    name = f"owner/{work.base.name}"
    said = done("export", work.run, "--to", "peft", "--out", tmp_path / "adapter", "--base", name)
    assert "read back" in said and adapters.HEAD in said
    assert json.loads((tmp_path / "adapter" / adapters.CONFIG).read_text())["base_model_name_or_path"] == name
    options = ["--data", work.data, "--series", "1,2", "--context", 8, "--horizon", 4, "--samples", 2, "--seed", 1]
    done("forecast", work.base, "--adapter", tmp_path / "adapter", *options, "--out", tmp_path / "a")
    done("forecast", work.run, *options, "--out", tmp_path / "b")
    assert (tmp_path / "a" / "forecast.csv").read_bytes() == (tmp_path / "b" / "forecast.csv").read_bytes()
    done("forecast", work.base, *options, "--out", tmp_path / "c")
    options = [*options, "--unmasked-samples", 0, "--batch-series", 2]
    done("evaluate", work.base, "--adapter", tmp_path / "adapter", *options, "--out", tmp_path / "e")
    assert [row["name"] for row in json.loads((tmp_path / "e" / "metrics.json").read_text())["rows"]][:2] == [
        "tuned",
        "untuned",
    ]
    rows = (tmp_path / name / file for name, file in (("a", "forecast.csv"), ("e", "forecast_tuned.csv")))
    assert len({path.read_bytes() for path in rows}) == 1


def test_a_run_begins_from_an_adapter(work, tmp_path):
    """It takes over rank and alpha; at a learning rate of almost 0 it stays what it was."""
    adapter = work.run / "adapter"
    change = ["--set", "train.steps=1", "--set", "optimizer.learning_rate=1e-30", "--set", "lora.rank=7"]
    said = done("train", work.config, *change, "--init-adapter", adapter, "--out", tmp_path / "run")
    assert "rank 2" in said and f"begun from {adapter}" in said
    model, _ = weights.load_pretrained(work.base)
    held = [load_adapter(folder / "adapter", model) for folder in (work.run, tmp_path / "run")]
    for path in ("A", "B", "scale"):
        ours, begun = (one["model.layers.0"]["self_attn"]["q_proj"][path] for one in held)
        np.testing.assert_allclose(begun, ours, atol=1e-12)
    refused = jaxlv(
        "train", work.config, "--set", f"lora.init={adapter}", "--set", "lora.rank=7", "--out", tmp_path / "other"
    )
    assert refused.code == 2 and "lora.rank is not the adapter's" in refused.err and "--init-adapter" in refused.err
    refused = jaxlv("train", work.config, "--targets", "q", "--init-adapter", adapter, "--out", tmp_path / "other")
    assert refused.code == 2 and "--targets: targets are the adapter's" in refused.err
    assert not (tmp_path / "other").exists()


def test_targets_are_an_option_of_train(work, tmp_path):
    said = done("train", work.config, "--set", "train.steps=1", "--targets", "all-linear", "--out", tmp_path / "run")
    assert "on q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj; head" in said
    assert len(json.loads((tmp_path / "run" / "adapter" / adapters.CONFIG).read_text())["target_modules"]) == 7
    refused = jaxlv("train", work.config, "--targets", "q,w", "--out", tmp_path / "other")
    assert refused.code == 2 and "unknown projection" in refused.err and "found w" in refused.err
    assert not (tmp_path / "other").exists()


def test_a_resume_notices_another_adapter_to_begin_from(work, tmp_path):
    adapter = Path(shutil.copytree(work.run / "adapter", tmp_path / "adapter"))
    train = ["train", work.config, "--init-adapter", adapter, "--out", tmp_path / "run"]
    done(*train, "--set", "train.steps=1")
    model, _ = weights.load_pretrained(work.base)
    twice = load_adapter(adapter, model)
    twice["lm_head"]["bias"] = twice["lm_head"]["bias"] + 1
    save_peft(adapter, twice, adapters.lora_config(adapter, twice), Origin("x"))
    outcome = jaxlv(*train, "--set", "train.steps=1", "--resume")
    assert outcome.code == 2 and "adapter in lora.init is not what the run began with" in outcome.err


def test_merge_adds_adapters(work, random_lora, tmp_path):
    model, params = weights.load_pretrained(work.base)
    loras = [random_lora(params, seed=seed, rank=seed, head="frozen") for seed in (1, 2)]
    folders = [tmp_path / f"a{seed}" for seed in (1, 2)]
    for lora_, folder in zip(loras, folders, strict=True):
        save_peft(folder, lora_, LoraConfig(rank=len(lora_["model.layers.0"]["self_attn"]["q_proj"]["A"])), Origin("base"))
    said = done("merge", *folders, "--weights", "0.5,2", "--model", work.base, "--to", "peft", "--out", tmp_path / "sum")
    assert "cosine" in said and "read back" in said
    total = load_adapter(tmp_path / "sum", model)
    told = json.loads(done("merge", tmp_path / "sum", "--model", work.base, "--out", tmp_path / "whole", "--json"))
    assert told["folder"] == str(tmp_path / "whole") and told["largest_relative_difference"] < 1e-4
    whole, merged = weights.load_pretrained(tmp_path / "whole")
    ids = IDS_BT % 32
    expected = model.apply({"params": params, "lora": total}, ids)
    np.testing.assert_allclose(whole.apply({"params": merged}, ids), expected, atol=1e-4)
    for arguments, message in (
        ([folders[0], "--weights", "1,2"], "as many weights"),
        ([folders[0], "--weights", "x"], "'x' is not a number from"),
        ([tmp_path / "gone"], "no adapter"),
    ):
        outcome = jaxlv("merge", *arguments, "--model", work.base, "--out", tmp_path / "no")
        assert outcome.code == 2 and message in outcome.err and outcome.err.count("\n") == 1
    assert not (tmp_path / "no").exists()


def test_an_adapter_is_for_a_bare_model(work, tmp_path):
    outcome = jaxlv("forecast", work.run, "--adapter", work.run / "adapter", "--out", tmp_path / "x")
    assert outcome.code == 2 and "a run has an adapter of its own" in outcome.err


def test_others_may_read_tensors_as_any_new_file(tmp_path):
    for name, umask in (("all", 0o022), ("own", 0o077)):
        before = os.umask(umask)
        try:
            tensors.write(tmp_path / name, {"w": np.ones(3, np.float32)})
        finally:
            os.umask(before)
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask
