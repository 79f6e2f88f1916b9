"""Everything that reads a file from elsewhere, each with a valid file to be damaged, and a process in which it reads.

The process has limited memory, and is told about every file that Python opens. If it crashes or hangs, the tests go on.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import resource
import shutil
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from jaxlv import config
from jaxlv.data import hdf5, loading
from jaxlv.errors import JaxlvError
from jaxlv.flops import ledger
from jaxlv.forecasting import forecast
from jaxlv.lora import adapters
from jaxlv.model import weights
from jaxlv.model.bases import EMBEDDED_BASE
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import Qwen2
from jaxlv.runs import checkpoint, records, run
from jaxlv.storage import files, lines
from jaxlv.storage.chain import head_of
from jaxlv.text import language, tokens
from jaxlv.text.codec import Codec
from tests.faults import hostile

MEMORY = 1 << 30  # bytes that a parser may take
CAP = 1 << 26  # bytes of series that the readers may load
PATIENCE = 60.0  # seconds for one file
hdf5.PATIENCE = 10.0  # of these for the HDF5 library
Tree = Any


class Target(NamedTuple):
    """The file to be damaged in a folder, what reads it, how its trees are taken out and put in if it holds some, and its
    share of all cases beside that of the others: less if every case begins a process.
    """

    file: str
    parse: Callable[[Path], Any]
    trees: Callable[[bytes], list[Tree]] | None = None
    build: Callable[[bytes, list[Tree]], bytes] | None = None
    share: float = 1.0


def _json(content: bytes) -> list[Tree]:
    return [json.loads(content)]


def _as_json(content: bytes, trees: list[Tree]) -> bytes:
    return json.dumps(trees[0]).encode()


def _header(content: bytes) -> list[Tree]:
    (length,) = struct.unpack("<Q", content[:8])
    return [json.loads(content[8 : 8 + length])]


def _with_header(content: bytes, trees: list[Tree]) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    header = json.dumps(trees[0]).encode()
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def _records(content: bytes) -> list[Tree]:
    return [lines.decode(line) for line in content.splitlines()]


def _as_records(content: bytes, trees: list[Tree]) -> bytes:
    """Writes lines with right checksums, for those trees that are records."""
    return b"".join(lines.encode(one) if isinstance(one, dict) else json.dumps(one).encode() + b"\n" for one in trees)


def _linked(content: bytes) -> list[Tree]:
    found: list[Tree] = []
    lines.parse(io.BytesIO(content), Path("ledger"), found.append)
    return found


def _as_linked(content: bytes, trees: list[Tree]) -> bytes:
    """Writes lines with chained hashes, for those trees that are records."""
    found, before = b"", ""
    for one in trees:
        found += lines.encode(one, before) if isinstance(one, dict) else json.dumps(one).encode() + b"\n"
        before = json.loads(found.splitlines()[-1])[lines.CHAIN] if isinstance(one, dict) else before
    return found


def _toml(content: bytes) -> list[Tree]:
    import tomllib

    return [tomllib.loads(content.decode())]


def _as_toml(content: bytes, trees: list[Tree]) -> bytes:
    """Writes JSON within TOML, which is enough to put any value in any place."""
    found = []
    for section, values in trees[0].items() if isinstance(trees[0], dict) else []:
        if isinstance(values, dict):
            found += [f"[{json.dumps(section)}]", *(f"{json.dumps(key)} = {json.dumps(one)}" for key, one in values.items())]
        else:
            found.insert(0, f"{json.dumps(section)} = {json.dumps(values)}")
    return "\n".join(found).encode(errors="replace")


def _model(path: Path) -> Any:
    return weights.load_pretrained(path.parent)


def _adapter(path: Path) -> Any:
    model = Qwen2(ModelConfig.from_folder(path.parent.parent / "base"))
    adapters.read_codec(path.parent)
    return adapters.load_adapter(path.parent, model)


def _series(path: Path) -> Any:
    return loading.load(path, memory_cap=CAP)


def _forecast(path: Path) -> Any:
    return forecast.read_csv(path, loading.load(path.parent / "series.h5"))


def _ledger(path: Path) -> Any:
    head_of(path).unlink(missing_ok=True)  # it would see any change first
    ledger.verify(path)
    with ledger.Ledger(path) as book:
        return book.totals()


def _alphabet(path: Path) -> Any:
    return tokens.load_alphabet(path.parent, 264)


def _generation(path: Path) -> Any:
    return language.generation_defaults(path.parent)


def _language(path: Path) -> Any:
    return language.load_language(path.parent, 264).chat("Hi?")


def _text(path: Path) -> Any:
    text = path.read_bytes().decode("utf-8", "replace")
    for codec in (Codec(), Codec(parsing="position")):
        for most in (None, 3):
            found = codec.decode(text, np.array([0.7, 1.3]), most).values_TV
            assert found.ndim == 2 and found.shape[1] == 2 and np.isfinite(found).all()


def _setting(path: Path) -> Any:
    tree = config.override({}, path.read_bytes().decode("utf-8", "replace").split("\n"))
    return config.build_config(config.RunConfig, tree)


TARGETS: Mapping[str, Target] = {
    "safetensors": Target("base/model.safetensors", _model, _header, _with_header),
    "shard index": Target("shards/model.safetensors.index.json", _model, _json, _as_json),
    "model config": Target("base/config.json", _model, _json, _as_json),
    "adapter config": Target("adapter/adapter_config.json", _adapter, _json, _as_json),
    "adapter tensors": Target("adapter/adapter_model.safetensors", _adapter, _header, _with_header),
    "adapter head": Target("adapter/head.safetensors", _adapter, _header, _with_header),
    "adapter codec": Target("adapter/codec.json", _adapter, _json, _as_json),
    "tokenizer": Target("tokenizer/tokenizer.json", _alphabet, _json, _as_json, 0.5),
    "tokenizer settings": Target("words/tokenizer_config.json", _language, _json, _as_json, 0.5),
    "generation settings": Target("words/generation_config.json", _generation, _json, _as_json),
    "HDF5": Target("data/series.h5", _series, share=0.5),
    "CSV": Target("data/series.csv", _series),
    "npy": Target("data/series.npy", _series),
    "npz": Target("data/series.npz", _series),
    "TOML": Target("run/config.toml", config.load_config, _toml, _as_toml),
    "settings": Target("run/settings", _setting),
    "ledger": Target("run/ledger.jsonl", _ledger, _linked, _as_linked),
    "older ledger": Target("run/older.jsonl", _ledger, _records, _as_records),
    "head of a ledger": Target("run/headed.jsonl.head", lambda path: ledger.verify(path.with_suffix(""))),
    "metrics": Target("run/metrics.jsonl", records.read_metrics, _records, _as_records),
    "facts of a checkpoint": Target("run/facts.json", checkpoint.read_facts, _json, _as_json),
    "manifest": Target("run/manifest.json", lambda path: run.read_manifest(path.parent), _json, _as_json),
    "seal": Target("run/SHA256SUMS", lambda path: files.broken(path.parent)),
    "forecast table": Target("data/forecast.csv", _forecast),
    "forecast text": Target("data/text", _text),
}


def make(folder: Path, base: Path, adapter: dict[str, Any]) -> None:
    """A valid file of each kind; `base` is a model of 32 tokens, `adapter` an overlay of it."""
    shutil.copytree(base, folder / "base")
    shutil.copytree(base, folder / "shards")
    held = load_file(base / "model.safetensors")
    names = sorted(held)
    (folder / "shards" / "model.safetensors").unlink()
    for shard, own in (("a.safetensors", names[::2]), ("b.safetensors", names[1::2])):
        save_file({name: held[name] for name in own}, folder / "shards" / shard)
    weight_map = {name: "ab"[place % 2] + ".safetensors" for place, name in enumerate(names)}
    (folder / "shards" / weights.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    settings = config.LoraConfig(rank=2, targets=("q_proj",), head="bias")
    adapters.save_peft(folder / "adapter", adapter, settings, adapters.Origin("base", codec=Codec()))
    (folder / "tokenizer").mkdir()
    shutil.copy(EMBEDDED_BASE / "tokenizer.json", folder / "tokenizer")
    (folder / "words").mkdir()
    hostile.chat("{{ messages[0].content }}{{ eos_token }}")(folder / "words")
    (folder / "words" / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.7, "top_k": 20}')
    (folder / "data").mkdir()
    values = 1.0 + np.random.default_rng(0).random((3, 8, 2)).astype(np.float32)
    with h5py.File(folder / "data" / "series.h5", "w") as file:
        file.create_dataset("trajectories", data=values, chunks=(1, 8, 2), compression="gzip")
        file.create_dataset("time", data=2.0 * np.arange(8))
        file["trajectories"].attrs["variables"] = ["prey", "predator"]
        file["simulation/r"] = values[:, 0, 0]
        file["simulation"].attrs.update({"preset": "course", "seed": 3})
    rows = [f"{n},{2 * t},{a:.3f},{b:.3f}" for n, one in enumerate(values) for t, (a, b) in enumerate(one)]
    (folder / "data" / "series.csv").write_text("\n".join(["series,time,prey,predator", *rows]) + "\n")
    np.save(folder / "data" / "series.npy", values)
    np.savez(folder / "data" / "series.npz", trajectories=values, time=2.0 * np.arange(8), variables=["prey", "predator"])
    (folder / "data" / "text").write_text("1.20,1.31;0.93,0.98;0.71,0.80;")
    found = loading.load(folder / "data" / "series.h5")
    drawn = np.random.default_rng(1).random((3, 2, 2, 2))
    forecast.Forecast.of(found, 6, drawn, {}).write_csv(folder / "data" / "forecast.csv")
    (folder / "run").mkdir()
    whole = config.build_config(config.RunConfig, {"budget": {"flops": 1e9, "phases": {"final": 1e9}}})
    (folder / "run" / "config.toml").write_text(config.to_toml(whole))
    (folder / "run" / "settings").write_text('train.steps=3\nlora.targets=["q_proj"]\nmodel.path=x')
    model = ModelConfig.from_folder(base)
    with ledger.Ledger(folder / "run" / "ledger.jsonl", ledger.Terms(10**12, "exact", model, 10, {"final": 10**9})) as book:
        event = ledger.Event("train_step", 2, 16, rank=2, targets=("q_proj",), count=3)
        book.commit(book.reserve(event, "final"))
        book.reserve(event, "final")
    for name in ("headed.jsonl", "headed.jsonl.head"):
        shutil.copy(folder / "run" / name.replace("headed", "ledger"), folder / "run" / name)
    older = b"".join(map(lines.encode, _linked((folder / "run" / "ledger.jsonl").read_bytes())))
    (folder / "run" / "older.jsonl").write_bytes(older)
    log = records.MetricsLog(folder / "run" / "metrics.jsonl")
    for step in (1, 2, 3):
        log.add({"step": step, "loss": 1 / step, "total_tokens": 10.0 * step})
    facts = {"tokens": 9.0, "best": {"step": 3, "value": 0.5, "measure": "loss"}}
    (folder / "run" / "facts.json").write_text(json.dumps(facts))
    manifest = {"data": {"sha256": "d"}, "base": {"sha256": "b"}, "dataset_alpha": None, "versions": {}}
    (folder / "run" / "manifest.json").write_text(json.dumps(manifest))
    files.seal(folder / "run", ["config.toml", "manifest.json"])
    (folder.parent / "secret").write_text("1" * 64)


# ------------------------------------------------------------------------------------------------ the process

_opened: list[str] | None = None
INSTALLED = [place for place in sys.path if place]
PLACES = (*INSTALLED, sys.prefix, sys.base_prefix, Path(__file__).parents[2], "/usr", "/proc", "/dev", "/sys")
ALLOWED = tuple({str(Path(place).resolve()) for place in PLACES})


def _hear(event: str, arguments: Any) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], (str, bytes)):
        _opened.append(os.fsdecode(arguments[0]))


def _serve(pipe: Any, folder: str, cache: str) -> None:
    """Parses file after file: the answer is "" if it went well, otherwise what was wrong."""
    global _opened
    jax.config.update("jax_compilation_cache_dir", cache)
    sys.addaudithook(_hear)
    home = Path(folder).resolve()
    warm = {name: _outcome(target, home / target.file, home) for name, target in TARGETS.items()}
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    pipe.send({name: told for name, told in warm.items() if told})
    while (name := pipe.recv()) is not None:
        pipe.send(_outcome(TARGETS[name], home / TARGETS[name].file, home))


def _outcome(target: Target, path: Path, home: Path) -> str:
    global _opened
    _opened = []
    try:
        target.parse(path)
    except JaxlvError as fault:
        if not str(fault) or not str(fault).isprintable():
            return f"an error that is not one line that prints: {str(fault)!r}"
    except BaseException as fault:
        return f"escaped: {type(fault).__name__}: {str(fault)[:300]}"
    finally:
        opened, _opened = _opened, None
    # A TOML may name another in `extends`: a config is a program of the user's own (SECURITY.md).
    inside = (str(home), *ALLOWED)
    outside = [] if path.suffix == ".toml" else [one for one in map(_real, opened) if not one.startswith(inside)]
    return f"read outside of its folder: {outside[0]}" if outside else ""


def _real(path: str) -> str:
    try:
        return str(Path(path).resolve())
    except (OSError, ValueError, RuntimeError):
        return path


class Reader:
    """The process; it is begun again after a crash."""

    def __init__(self, folder: Path, cache: Path):
        self.folder, self.cache = folder, cache
        self._begin()

    def _begin(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.faults.child", "tests.faults.parsers"])
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, str(self.folder), str(self.cache)), daemon=True)
        self.process.start()
        theirs.close()
        valid = self.pipe.recv()
        assert not valid, f"what is valid is refused: {valid}"

    def read(self, name: str) -> str:
        """Returns what is wrong with how a target reads its file; "" if nothing is."""
        self.pipe.send(name)
        try:
            if self.pipe.poll(PATIENCE):
                return self.pipe.recv()
            told = f"no answer within {PATIENCE:g} s"
        except EOFError:
            self.process.join()
            told = f"the process ended with {self.process.exitcode}"
        self.close()
        self._begin()
        return told

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()
