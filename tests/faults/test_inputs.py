"""Inputs at the edges of what numbers and files may be: each is refused in plain words, by its name, before any work."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from typing import Any

import h5py
import numpy as np
import pytest

from jaxlv.analysis import exploration
from jaxlv.config import LoraConfig, OptimizerConfig, RunConfig, build_config, override
from jaxlv.data import dynamics, loading, series
from jaxlv.errors import JaxlvError
from jaxlv.flops.events import Terms
from jaxlv.lora.adapters import read_config
from jaxlv.model.bases import EMBEDDED_BASE
from jaxlv.model.config import ModelConfig
from jaxlv.model.weights import resolve
from jaxlv.runs import sources
from jaxlv.settings import single
from jaxlv.studies.folders import read_tree
from jaxlv.tools import cli


def refused(action: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(JaxlvError) as caught:
        action(*arguments, **named)
    return str(caught.value)


def test_what_float32_does_not_hold_is_no_setting():
    assert single(0.9999999999999999) == 1 and single(5e-324) == single(1e-40) == 0 and single(1e39) == np.inf
    for name, value, in_single in (("b2", 0.9999999999999999, 1), ("eps", 5e-324, 0), ("learning_rate", 1e-40, 0)):
        line = refused(OptimizerConfig, **{name: value})
        assert line.startswith(f"optimizer.{name}: must be") and line.endswith(f"{value!r}, which is {in_single} in float32")
    assert "lora.alpha" in refused(LoraConfig, alpha=1e-320) and LoraConfig(alpha=1e-30).scaling


def test_an_adapter_whose_scale_is_zero_in_float32_is_refused(tmp_path):
    for alpha, rank in (("1e-320", 1), ("1e-37", 200)):
        (tmp_path / "adapter_config.json").write_text(f'{{"peft_type": "LORA", "r": {rank}, "lora_alpha": {alpha}}}')
        assert "lora_alpha is not supported; expected a number that is not 0 in float32" in refused(read_config, tmp_path)


def test_values_that_float32_cannot_hold_are_counted_and_refused(tmp_path):
    """Their squares would leave float64 as well, and no axis could show them."""
    values_NTV = np.arange(30.0).reshape(3, 5, 2)
    values_NTV[1, 2, 0] = 1.7e308
    np.save(tmp_path / "x.npy", values_NTV)
    line = refused(loading.load, tmp_path / "x.npy")
    assert "1 too large values; expected finite values of at most 3.402823e+38; found 1.7e+308 first" in line
    assert "at series 1, step 2, prey" in line
    (row,) = exploration.failed(exploration.inspect(tmp_path / "x.npy"))
    assert (row.check, row.found) == ("too large values", 1)
    assert len(loading.load(tmp_path / "x.npy", drop=True)) == 2
    assert "time is too large" in refused(series.check_time, np.array([-1.7e308, 0, 1.7e308]), "x")
    values_NTV[1, 2, 0] = np.finfo(np.float32).max
    np.save(tmp_path / "x.npy", values_NTV)
    assert loading.load(tmp_path / "x.npy").values_NTV.max() < np.inf


def test_where_series_are_written_is_looked_at_before_they_are_simulated(tmp_path, monkeypatch):
    monkeypatch.setattr(dynamics, "draw", None)
    (tmp_path / "there.h5").touch()
    for name, said in (
        ("x.doc", "a name that ends in .h5"),
        ("there.h5", "exists already"),
        ("gone/x.h5", "no such folder"),
    ):
        assert said in refused(series.check_place, tmp_path / name)
        with pytest.raises(SystemExit, match="2"):
            cli.main(["simulate", "--out", str(tmp_path / name)])


def test_a_budget_may_be_as_large_as_its_setting_says():
    budget = build_config(RunConfig, {"budget": {"flops": 1e30}}).budget
    assert Terms(int(budget.flops), "exact", ModelConfig.from_folder(EMBEDDED_BASE)).budget == int(1e30)


def test_a_csv_without_rows_is_refused_by_its_count_of_lines(tmp_path):
    for head, said in ((b"", "has no rows"), (b"series,time,prey,predator", "has no rows")):
        (tmp_path / "x.csv").write_bytes(head + b"\n" * 5_000_000)
        assert f"x.csv: {said}" in refused(loading.load, tmp_path / "x.csv")


def test_names_of_variables_in_hdf5_are_a_list_of_texts(tmp_path):
    compound = np.zeros(2, [("a", "i4"), ("b", "f4")])
    for name, value in (("null", h5py.Empty("f")), ("pair", compound), ("numbers", [1, 2]), ("table", [["a"], ["b"]])):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            dataset = file.create_dataset("trajectories", data=np.ones((2, 3, 2)))
            file.create_dataset("time", data=np.arange(3.0))
            dataset.attrs["variables"] = value
            if name == "numbers":
                dataset.attrs.create("variables", [dataset.ref, dataset.ref], dtype=h5py.ref_dtype)
        line = refused(loading.load, tmp_path / f"{name}.h5")
        assert "the attribute variables is not a list of texts" in line and f"{name}.h5:trajectories" in line


def test_texts_name_the_key_and_say_what_is_wrong(tmp_path):
    data = series.from_arrays(np.arange(40.0).reshape(4, 5, 2), np.arange(5.0))
    for tree, said in (
        ({"fractions": [0.5, 0.1, 0.1]}, "data.fractions: split fractions do not add up to 1"),
        (
            {"train_ids": [0], "test_ids": [7]},
            "data.train_ids, data.test_ids: the split names series that are not in the data",
        ),
        ({"train_ids": [0], "test_ids": [0]}, "data.train_ids, data.test_ids: the split names series twice; found 0"),
        ({"train_ids": ["north"], "test_ids": [1]}, "data.train_ids, data.test_ids: the split names series that are not"),
    ):
        assert refused(sources.split_series, build_config(RunConfig, {"data": tree}), data).startswith(said)
    assert refused(resolve, "").startswith("'': no such model folder")
    line = refused(override, {}, [f"train.steps={'1' * 5000}"])
    assert line.startswith("--set train.steps: the number has too many digits") and len(line) < 800
    for content, said in (
        ("", "not JSON: the file is empty"),
        ("{", "not JSON: line 1, column 2"),
        ("\n[1,]", "not JSON: line 2, column 4"),
    ):
        (tmp_path / "reproduce.json").write_text(content)
        assert f"reproduce.json does not read (damaged ({said}))" in refused(read_tree, tmp_path / "reproduce.json")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for name in ("trajectories.npy", "time.npy"):
            archive.writestr(name, b"x")
    content = bytearray((tmp_path / "x.npz").read_bytes())
    for signature, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        content[content.index(signature) + place] |= 1
    (tmp_path / "x.npz").write_bytes(content)
    assert "x.npz:trajectories: is encrypted" in refused(loading.load, tmp_path / "x.npz")


@pytest.mark.parametrize(("closed", "code"), [(">&-", 2), (">/dev/full", 2), ("2>&-", 0)])
def test_a_verb_that_only_prints_fails_if_nobody_can_read_it(closed, code, tmp_path):
    program = f"{sys.executable} -m jaxlv.tools.cli flops table --model qwen2.5-0.5b"
    found = subprocess.run(["bash", "-c", f"{program} {closed}"], capture_output=True, text=True, check=False)
    assert (found.returncode, bool(found.stderr)) == (code, code == 2), found.stderr
