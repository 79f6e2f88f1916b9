"""Kinds of input that slipped through once: zeros with a sign, names of half characters, numbers that float32 has not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

import jaxlv
from jaxlv.api import as_series, open_model
from jaxlv.data.series import from_arrays
from jaxlv.errors import JaxlvError
from jaxlv.lora.adapters import read_codec
from jaxlv.model.config import ModelConfig
from jaxlv.model.weights import INDEX, load_pretrained
from jaxlv.storage import door
from jaxlv.text.codec import Codec


@pytest.fixture
def base(tiny_base, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def test_a_zero_with_a_sign_is_the_other_zero_in_series_and_in_text():
    values = np.array([[[1.0, 2.0], [-0.0, 3.0]]])
    assert not np.signbit(from_arrays(values).values_NTV).any()
    codec = Codec(decimals=2)
    assert codec.encode(values[0], np.array([1.0, 1.0])) == "1.00,2.00;0.00,3.00;"


@pytest.mark.parametrize("name", ["\ud800.safetensors", "\udcff.safetensors", "\0.safetensors", "x" * 300 + ".safetensors"])
def test_a_shard_of_a_name_that_no_file_has_is_one_line(name, base):
    (base / "model.safetensors").rename(base / "a.safetensors")
    (base / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    with pytest.raises(JaxlvError, match=r"a name that leads out of the folder|is missing") as caught:
        load_pretrained(base)
    assert str(caught.value).isprintable()


def test_what_float32_has_not_is_refused_in_settings_of_a_model_and_a_codec(base, tmp_path):
    settings = json.loads((base / "config.json").read_text())
    for eps in (1e-50, 1e-46, 10**400):
        (base / "config.json").write_text(json.dumps(settings | {"rms_norm_eps": eps}))
        with pytest.raises(JaxlvError, match=r"config\.json: rms_norm_eps"):
            ModelConfig.from_folder(base)
    for alpha in (1e-320, -1.0, 3.5e38, 10**400, True, "x"):
        (tmp_path / "codec.json").write_text(json.dumps({"scale": "mao", "dataset_alpha": alpha}))
        with pytest.raises(JaxlvError, match=r"codec.json.*dataset_alpha"):
            read_codec(tmp_path)
        with pytest.raises(JaxlvError, match="dataset_alpha: must be a number"):
            Codec("mao", dataset_alpha=alpha)  # type: ignore[arg-type]
    assert Codec("mao", dataset_alpha=np.float64(0.25)).dataset_alpha == 0.25  # type: ignore[arg-type]


def test_a_key_of_a_codec_that_nobody_knows_is_refused(tmp_path):
    (tmp_path / "codec.json").write_text(json.dumps({"scale": "liu", "decimal": 3}))
    with pytest.raises(JaxlvError, match=r"codec\.json: unknown key decimal; did you mean decimals"):
        read_codec(tmp_path)


def test_weights_that_overflow_in_the_type_that_computes_are_not_called_damaged(base):
    held = load_file(base / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    held[name] = held[name].copy()
    held[name][0, 0] = 3.4028e38
    save_file(held, base / "model.safetensors")
    with pytest.raises(JaxlvError, match=f"tensor {name} overflows in bfloat16; compute in float32"):
        load_pretrained(base, "bfloat16")
    _, params = load_pretrained(base)
    assert max(float(jnp.max(leaf)) for leaf in jax.tree.leaves(params)) == pytest.approx(3.4028e38)


def test_arguments_of_another_type_are_one_line(tiny_base, tmp_path):
    for named, told in (
        ({"adapter": 5}, "adapter: wrong type; expected a folder; found int"),
        ({"tokenizer": 5}, "tokenizer: wrong type"),
        ({"codec": "x"}, "codec: wrong type; expected a Codec; found str"),
        ({"tokenizer": tmp_path / "nowhere"}, "no such folder; expected a folder with a tokenizer"),
        ({"tokenizer": "a\0"}, "no such folder"),
        ({"tokenizer": "\ud800"}, "no such folder"),
    ):
        with pytest.raises(JaxlvError, match=told):
            open_model(tiny_base, **named)
    for model in (None, 5, {}, (1, 2)):
        with pytest.raises(JaxlvError, match="no model"):
            jaxlv.forecast(model, np.ones((5, 2)), 1)
    twice = pd.DataFrame([[1.0, 2.0, 1, 1]] * 5, columns=["prey", "predator", "series", "series"])
    for series, told in ((twice, "two columns have one name"), ([[1, 2], ["x"]], "series 1:values: wrong type")):
        with pytest.raises(JaxlvError, match=told):
            as_series(series)
    assert door.is_folder(tmp_path) and not door.is_folder(tmp_path / "x")


def test_what_is_printed_cannot_change_what_a_terminal_shows():
    program = (
        "from jaxlv.storage import streams; streams.protect(); import sys; "
        "print('a\\x1b[31m\\u202eb\\tc–'); bare = streams.Bare(sys.stdout); bare.write('\\x1b[0m'); print(bare.isatty())"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=True)
    assert told.stdout.decode() == "a\\x1b[31m\\u202eb\tc–\n\x1b[0mFalse\n"
