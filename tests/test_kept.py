"""Compiled programs that are kept on disk: found by all that they depend on, and not read if they cannot be trusted."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlv.config import RunConfig, SamplingConfig, with_settings
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import Qwen2
from jaxlv.runs import devices
from jaxlv.steps import kept
from jaxlv.steps.generate import Decoding, generate, row_keys
from jaxlv.steps.prompts import Prompts
from jaxlv.steps.stack import Stack
from jaxlv.text.codec import SYMBOLS
from jaxlv.text.grammar import number_grammar
from jaxlv.text.tokens import Alphabet


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where programs are kept; nothing is known yet."""
    monkeypatch.setattr(kept, "_folder", tmp_path / "programs")
    monkeypatch.setattr(kept, "_known", {})
    return tmp_path / "programs"


def another_process() -> None:
    """Forgets what this process has compiled or loaded."""
    kept._known.clear()
    jax.clear_caches()


class Traced:
    """A jitted function that counts how often it is traced."""

    def __init__(self, **how: Any):
        self.times = 0
        self.jitted = jax.jit(self.body, **how)

    def body(self, a: Any, by: int = 2) -> Any:
        self.times += 1
        return jnp.sort(a * by), a.sum()


def test_another_process_runs_a_kept_program_without_tracing_it(folder: Path) -> None:
    one, a = Traced(static_argnames="by"), np.arange(6, dtype=np.float32)[::-1].copy()
    first = kept.call(one.jitted, a, by=3)
    again = kept.call(one.jitted, a, by=3)
    (path,) = folder.glob("*.program")
    os.utime(path, (1000, 1000))
    another_process()
    other = kept.call(one.jitted, a, by=3)
    assert one.times == 1 and kept.kept()[1] == 1 and path.stat().st_mtime > 1000  # it counts as used
    for found in (first, again, other):
        np.testing.assert_array_equal(found[0], 3 * np.arange(6))
        assert float(found[1]) == 15


@pytest.mark.parametrize(
    "change", ["constant", "shape", "type", "flag", "setting", "source", "function", "processor", "cores"]
)
def test_a_program_is_another_one_if_anything_that_it_depends_on_differs(
    change: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, a, by = Traced(static_argnames="by"), np.ones(6, np.float32), 3
    kept.call(one.jitted, a, by=by)
    another_process()
    kept._machine.cache_clear()
    if change == "constant":
        by = 4
    elif change == "shape":
        a = np.ones((6, 1), np.float32)
    elif change == "type":
        a = np.ones(6, np.int32)
    elif change == "flag":
        monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", "") + " --xla_cpu_enable_fast_math=false")
    elif change == "source":
        monkeypatch.setattr(kept, "_source", lambda: "changed")
    elif change == "processor":
        monkeypatch.setattr(kept, "_processor", lambda: "another")
    elif change == "cores":
        monkeypatch.setattr(kept.os, "sched_getaffinity", lambda process: range(4096))
    function = jax.jit(lambda a, by: one.body(a, by), static_argnames="by") if change == "function" else one.jitted
    with jax.default_matmul_precision("bfloat16" if change == "setting" else "highest"):
        if change == "setting":
            monkeypatch.setitem(jax.config.values, "jax_default_matmul_precision", "bfloat16")
        kept.call(function, a, by=by)
    kept._machine.cache_clear()
    assert one.times == 2 and kept.kept()[1] == 2


def test_the_source_is_hashed_with_the_names_of_its_files(tmp_path: Path) -> None:
    found = set()
    for name, text in (("a.py", "x = 1"), ("a.py", "x = 2"), ("b.py", "x = 2")):
        path = tmp_path / name
        path.write_text(text)
        found.add(kept._source(tmp_path))
        path.unlink()
    assert len(found) == 3 and kept._source() == kept._source()


class Loud:
    """What a pickle can do when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("fault", ["cut off", "written by others", "folder written by others", "a link", "another content"])
def test_a_program_that_cannot_be_trusted_is_compiled_anew(fault: str, folder: Path, tmp_path: Path) -> None:
    one, a = Traced(), np.ones(4, np.float32)
    kept.call(one.jitted, a)
    (path,) = folder.glob("*.program")
    content = pickle.dumps(Loud(tmp_path / "was read"))
    if fault == "cut off":
        path.write_bytes(path.read_bytes()[:-9])
    elif fault == "another content":  # whose hash is not right
        path.write_bytes(b"0" * 32 + content)
    else:
        path.write_bytes(hashlib.sha256(content).digest() + content)
    if fault == "written by others":
        path.chmod(0o666)
    elif fault == "folder written by others":
        folder.chmod(0o777)
    elif fault == "a link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    another_process()
    kept.call(one.jitted, a)
    assert one.times == 2 and not (tmp_path / "was read").exists()


def test_nothing_is_kept_without_a_folder_and_a_full_disk_is_no_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, a = Traced(), np.ones(4, np.float32)
    monkeypatch.setattr(kept, "_write", lambda path, content: (_ for _ in ()).throw(OSError(28, "no space")))
    assert float(kept.call(one.jitted, a)[1]) == 4
    assert not folder.exists()
    monkeypatch.setattr(kept, "_folder", None)
    assert kept.program(one.jitted, (a,), "") is one.jitted and kept.kept() == (None, 0, 0)


def test_programs_that_were_used_longest_ago_give_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    for age in range(4):
        path = folder / f"{age}.program"
        path.write_bytes(b"x" * 100)
        os.utime(path, (1000 - age, 1000 - age))
    monkeypatch.setattr(kept, "MOST", 350)
    kept._write(folder / "new.program", b"y" * 50)
    assert sorted(path.name for path in folder.iterdir()) == ["0.program", "1.program", "new.program"]


def test_a_kept_step_still_takes_over_what_it_was_given(folder: Path) -> None:
    """Donated arguments are donated by a program that was loaded, too."""
    step = jax.jit(lambda state, by: state + by, donate_argnums=0)
    for _ in range(2):
        state = jnp.arange(8.0)
        made = kept.program(step, (state, jnp.ones(())), "step")(state, jnp.ones(()))
        assert state.is_deleted() and float(made[-1]) == 8
        another_process()


def test_rows_are_the_same_by_a_kept_program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(16, 8, 12, 1, 2, 1, 4, tie_word_embeddings=True)
    model = Qwen2(config)
    params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    alphabet = Alphabet(np.arange(len(SYMBOLS), dtype=np.int32), (), "test")
    prompts, how = Prompts([np.arange(10, dtype=np.int32)] * 2), Decoding(2, 12, SamplingConfig(), 1)

    def rows() -> np.ndarray:
        return generate(model, {"params": params}, prompts, alphabet, how, 3, number_grammar(1, 1, 1)).ids_SNC

    first = rows()
    another_process()
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda *_, **__: pytest.fail("compiled again"))
    np.testing.assert_array_equal(rows(), first)
    monkeypatch.undo()
    assert kept._folder is None
    np.testing.assert_array_equal(rows(), first)


@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**32 - 1, 2**40 + 5])
def test_keys_are_those_of_jax_s_own_seeds(seed: int) -> None:
    """By the definition: the seed, then the series, then the sample are folded in."""
    found = jax.random.key_data(row_keys(seed, [3, 5], 2))
    by_hand = [jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), s), n) for s in (3, 5) for n in (0, 1)]
    np.testing.assert_array_equal(found, [jax.random.key_data(key) for key in by_hand])


def test_the_doctor_says_what_is_kept(folder: Path) -> None:
    assert devices.kept_programs()[1:] == (0, 0, 0, 0)
    kept.call(Traced().jitted, np.ones(4, np.float32))
    (folder.parent / "jit_f-0123-cache").write_bytes(b"x" * 7)
    found = devices.kept_programs()
    assert (
        found.folder == str(folder.parent) and (found.own, found.xla, found.xla_bytes) == (1, 1, 7) and found.own_bytes > 99
    )


def test_a_kept_step_is_told_everything_that_a_config_makes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting that changes the compiled step, also one that leaves its arguments' shapes as they are."""
    model = Qwen2(ModelConfig(16, 8, 12, 1, 2, 1, 4, tie_word_embeddings=True))
    params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    monkeypatch.setattr(kept, "program", lambda function, arguments, said: repr(said))
    empty: Any = None

    def said(*settings: str, model: Qwen2 = model, **how: Any) -> str:
        config = with_settings(RunConfig(), ["lora.rank=1", *settings])
        return Stack(model, params, [config], **how).kept_step(empty, empty)

    texts = [
        said(), said("windows.side=left"), said("optimizer.learning_rate=1e-3"), said("lora.alpha=3"), said(logits=64),
        said("optimizer.name=adamw"), said("optimizer.clip_norm=1"), said("train.steps=7"), said("model.remat=true"),
        said("train.skip_nonfinite=3"), said(alphabet_A=np.arange(3)), said(model=model.clone(attention="blocked")),
        said("model.dtype=bfloat16"),
        said("model.dtype=bfloat16", "model.logits=bfloat16"),
    ]  # fmt: skip
    assert len(set(texts)) == len(texts) and said() == texts[0] and said("train.seed=5") == texts[0]
