"""A reproduction of every stage with few and small programs: of three runs' grid, two errors, and parts over two steps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxlv.flops import ledger
from jaxlv.model.bases import EMBEDDED_BASE
from jaxlv.model.weights import save_pretrained
from jaxlv.published import reproduction
from jaxlv.published.systems import SYSTEMS
from jaxlv.runs import run, training
from jaxlv.studies import papers, sides
from jaxlv.studies.papers import CONFIGS
from jaxlv.studies.reproduce import RESULT
from tests.faults.conftest import unfinished

PARTS_OF = reproduction.parts_of
SYSTEM = "rai"  # whose stages it has
STAGES = {
    "recipe": """
[data]
split = "rai"
[windows]
length = 48
stride = 500
context_steps = [6, 10]
[model]
attention = "blocked"
[lora]
rank = 2
[train]
steps = 4
batch_size = 1
log_every = 100
validate_every = 4
checkpoint_every = 2
validation_windows = 1
forecast_series = 0
[evaluate]
context = 6
horizon = 2
samples = 2
series = 1
batch_series = 1
""",
    "baseline": "[stage]\ntrain = false\n",
    "first": "[optimizer]\nlearning_rate = 1e-3\n",
    "grid": '[grid]\n"optimizer.learning_rate" = [1e-3, 3e-3, 1e-2]\n"lora.rank" = [2]\n',
    "context": '[grid]\n"windows.length" = [48, 64]\n',
    "final": "[train]\nsteps = 6\n",
}


def write_configs(folder: Path) -> Path:
    """The configs in a folder, in place of the project's own."""
    configs = folder / "configs"
    shutil.copytree(CONFIGS, configs, ignore=shutil.ignore_patterns("small.toml", "__pycache__"))
    (configs / "small.toml").touch()
    for stage, text in STAGES.items():
        above = "" if stage == "recipe" else 'extends = "recipe.toml"\n'
        (configs / SYSTEM / f"{stage}.toml").write_text(above + text)
    return configs


def write_base(folder: Path, random_model: Any) -> Path:
    """A base of one layer, with the embedded one's tokenizer: it has a token that pads."""
    sizes = {"hidden_size": 16, "head_dim": 4, "intermediate_size": 24, "num_hidden_layers": 1}
    save_pretrained(folder, *random_model(vocab_size=16, max_position_embeddings=2048, **sizes))
    for file in EMBEDDED_BASE.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


def short_parts(name: str) -> list[Any]:
    """Two parts of a protocol, 2 steps from 6."""
    return [replace(part, context=6, horizon=2) for part in PARTS_OF(name)[:2]]


def changes(configs: Path) -> Iterator[tuple[Any, str, Any]]:
    """(module, name, value) of what makes `jaxlv reproduce rai` the quick one."""
    system = SYSTEMS[SYSTEM]
    few = replace(system, faults=tuple(fault for fault in system.faults if fault.kind in ("training", "steps")))
    yield papers, "CONFIGS", configs
    yield papers, "SYSTEMS", {**SYSTEMS, SYSTEM: few}
    yield reproduction, "parts_of", short_parts
    yield training, "BLOCKS", 2


def install(configs: Path) -> None:
    """Make `jaxlv reproduce rai` of this process the quick one."""
    for module, name, value in changes(configs):
        setattr(module, name, value)


def figures_of(out: Path) -> dict[str, Any]:
    """Returns what must be the same however often a reproduction was killed: everything except the clock and the repeats."""
    result = json.loads((out / RESULT).read_text())
    result.pop("versions")  # of which one is the checkout's commit
    for stage in result["stages"]:
        for one in stage["runs"]:
            for name in ("seconds", "history", "flops"):
                one.pop(name, None)
    bills = []
    for file in (file for file in (run.LEDGER, sides.FILE) if (out / file).is_file()):  # the latter is of the last stage
        assert ledger.verify(out / file) == []
        counted = ledger.totals(ledger.read(out / file)[1])
        bills.append((counted.executed - counted.repeated, counted.effective))
    for bill in filter(None, (result.pop("bill"), result.pop("beside"))):
        bills.append({phase: one["flops"] - one["repeated"] for phase, one in bill["phases"].items()})
    adapters = {path.parent.name: path.read_bytes() for path in out.rglob("adapter_model.safetensors")}
    assert not unfinished(out)
    return {"result": result, "bills": bills, "adapters": adapters, "files": sorted(p.name for p in out.rglob("*.csv"))}
