"""Parity with transformers at the true shape of Qwen2.5-0.5B, on random weights (2 GB on disk, 3 GB of memory)."""

from __future__ import annotations

import gc
import json
import os
import shutil

import jax
import numpy as np
import pytest

import jaxlv
from jaxlv.config import SamplingConfig
from jaxlv.model.config import ModelConfig
from jaxlv.model.weights import count_params
from jaxlv.steps.generate import Decoding, generate
from jaxlv.steps.prompts import Prompts
from jaxlv.text.tokens import Alphabet

CONFIG = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}
PROMPT, STEPS = 24, 64


def test_the_shape_is_that_of_qwen(shared):
    raw = json.loads((shared / "qwen2.5-0.5b-instruct" / "config.json").read_text())
    assert ModelConfig.from_hf(raw) == ModelConfig.from_hf(CONFIG)


@pytest.fixture
def reference(random_hf, tmp_path):
    """(folder, ids, logits, greedy continuation) of a random model, which is saved and freed."""
    torch = pytest.importorskip("torch")
    hf = random_hf(head_dim=None, **{key: value for key, value in CONFIG.items() if key != "architectures"})
    assert hf.num_parameters() == 494_032_768
    ids_BT = np.random.default_rng(0).integers(0, CONFIG["vocab_size"], (2, PROMPT))
    torch.set_num_threads(os.cpu_count() or 1)
    with torch.no_grad():
        logits = hf(torch.as_tensor(ids_BT)).logits.numpy()
        mask = torch.ones(ids_BT.shape, dtype=torch.long)
        greedy = hf.generate(
            torch.as_tensor(ids_BT), attention_mask=mask, max_new_tokens=STEPS, do_sample=False, pad_token_id=0
        )
    torch.set_num_threads(1)
    hf.save_pretrained(tmp_path / "model")
    del hf
    gc.collect()
    yield tmp_path / "model", ids_BT, logits, greedy.numpy()
    shutil.rmtree(tmp_path / "model")


@pytest.mark.slow
def test_logits_and_greedy_tokens_at_the_true_shape(reference):
    folder, ids_BT, logits, greedy = reference
    model, params = jaxlv.load_pretrained(folder)
    assert count_params(model) == sum(leaf.size for leaf in jax.tree.leaves(params)) == 494_032_768
    ours = np.asarray(jax.jit(model.apply)({"params": params}, ids_BT))
    assert np.abs(ours - logits).max() <= 2e-4
    alphabet = Alphabet(np.arange(13, dtype=np.int32), (), "test")
    sampling = SamplingConfig(temperature=0.0, grammar=False)
    made = generate(model, {"params": params}, Prompts(list(ids_BT)), alphabet, Decoding(1, STEPS, sampling))
    np.testing.assert_array_equal(made.ids_SNC[:, 0], greedy[:, PROMPT:])
