"""The structure of the source: who imports whom, what is never imported, and that no setting is idle."""

from __future__ import annotations

import ast
import dataclasses
import graphlib
from pathlib import Path

import pytest

from jaxlv import config as settings
from jaxlv.config import GRID, STAGE, ModelConfig, RunConfig, build_config, load_config, read_tree, to_toml
from jaxlv_tools.make_base import BaseConfig

ROOT = Path(__file__).resolve().parents[1]
LIBRARY, TOOLS, CONFIGS = ROOT / "jaxlv", ROOT / "tools", ROOT / "configs"

# What each module of the library may import of it; a module stands behind all those that it imports.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "lines": {"errors", "files"},
    "sinks": {"errors"},
    "interrupts": set(),
    # text and numbers
    "config": {"errors", "files"},
    "readers": {"errors"},
    "series": {"errors", "readers"},
    "dynamics": {"errors", "series"},
    "codec": {"config", "errors"},
    "grammar": {"codec"},
    # the model
    "attention": set(),
    "model": {"attention", "config"},
    "tensors": {"errors"},
    "weights": {"config", "errors", "files", "model", "tensors"},
    "lora": {"config", "errors"},
    "adapters": {"codec", "config", "errors", "files", "lora", "model", "tensors", "weights"},
    "arithmetic": {"errors", "lora"},
    "export": {"adapters", "config", "errors", "files", "lora", "model", "tensors", "weights"},
    "loss": {"model"},
    "tokens": {"codec", "config", "errors", "loss"},
    "language": {"errors", "files", "tokens"},
    "checkpoint": {"errors", "files", "lines"},
    "train": {"config", "errors", "lora", "loss", "model", "tokens"},
    "stack": {"config", "errors", "lora", "model", "tokens", "train"},
    "records": {"files", "lines", "sinks"},
    "devices": {"errors"},
    "generate": {"codec", "config", "errors", "grammar", "model", "tokens"},
    # FLOPs and the budget
    "flops.conventions": set(),
    "flops.work": {"attention", "codec", "config", "errors", "lora", "loss"},
    "flops.table": {"errors", "flops.conventions", "flops.work"},
    "flops.__init__": {"flops.conventions", "flops.table", "flops.work"},
    "flops.tally": {"flops.conventions"},
    "flops.jaxpr": {"errors", "flops.tally"},
    "flops.hlo": {"errors", "flops.tally"},
    "flops.xla": set(),
    "flops.family": {"config", "errors", "weights"},
    "flops.programs": {"codec", "config", "flops.work", "generate", "lora", "model", "tokens", "train"},
    "flops.targets": {"errors"},
    "flops.audit": {
        "flops.hlo", "flops.jaxpr", "flops.programs", "flops.table", "flops.tally", "flops.targets", "flops.work",
        "flops.xla", "model",
    },
    "flops.plan": {"config", "generate", "grammar", "ledger"},
    "ledger": {"config", "errors", "flops.table", "flops.work", "lines"},
    # forecasts and their measures
    "metrics": {"errors"},
    "odefit": {"errors"},
    "baselines": {"errors", "odefit"},
    "forecaster": {"codec", "config", "errors", "generate", "grammar", "ledger", "metrics", "model", "series", "tokens"},
    "likelihood": {"codec", "errors", "forecaster", "generate", "loss", "model", "series", "tokens"},
    "conformal": {"errors", "metrics"},
    "evaluate": {
        "baselines", "config", "conformal", "errors", "forecaster", "ledger", "likelihood", "metrics", "series",
    },
    "probe": {"errors", "files", "forecaster", "generate", "language", "likelihood", "loss", "tokens", "train"},
    "analyses": {
        "baselines", "codec", "config", "errors", "evaluate", "forecaster", "metrics", "series", "tokens",
    },
    "anatomy": {"arithmetic", "codec", "errors", "evaluate", "tokens"},
    "logits": {"codec", "evaluate", "forecaster", "generate", "loss", "metrics", "model", "series", "tokens"},
    "protocols": {"codec", "dynamics", "errors", "metrics", "series"},
    "robustness": {"dynamics", "series"},
    # what data are like
    "exploration": {"errors", "readers", "series"},
    "clusters": {"exploration", "series"},
    "schemes": {"codec", "config", "errors", "exploration", "protocols", "series", "tokens"},
    # pages
    "report.__init__": set(),
    "report.svg": set(),
    "report.page": {"report.svg"},
    "report.tables": {"report.page"},
    "report.axes": {"report.svg"},
    "report.figures": {"report.axes", "report.svg"},
    "report.evaluation": {"report.figures", "report.page", "report.tables"},
    "report.comparison": {"report.figures", "report.page"},
    "report.parts": {"report.page"},
    "report.analysis_figures": {"report.axes", "report.figures", "report.svg"},
    "report.anatomy_figures": {"report.analysis_figures", "report.axes", "report.figures", "report.svg"},
    "report.analysis_frames": set(),
    "report.analysis_tables": {"report.columns", "report.page"},
    "report.anatomy": {
        "report.analysis_tables", "report.anatomy_figures", "report.figures", "report.page", "report.parts",
    },
    "report.analyses": {
        "report.analysis_figures", "report.analysis_frames", "report.analysis_tables", "report.anatomy",
        "report.evaluation", "report.figures", "report.page", "report.parts",
    },
    "report.stress": {"report.figures", "report.page"},
    "report.probe": {"report.page"},
    "report.columns": {"report.page"},
    "report.series_figures": {"report.axes", "report.svg"},
    "report.exploration_figures": {
        "clusters", "exploration", "report.axes", "report.series_figures", "report.svg", "series",
    },
    "report.exploration_text": {"report.columns", "report.page"},
    "report.exploration": {"report.columns", "report.exploration_text", "report.page"},
    "report.costs": {"flops.table", "flops.work", "report.svg"},
    # everything together
    "run": {
        "adapters", "checkpoint", "codec", "config", "devices", "dynamics", "errors", "files", "forecaster", "ledger",
        "lora", "model", "records", "series", "tokens", "train", "weights",
    },
    "validation": {"config", "ledger", "lora", "metrics", "model", "run", "tokens", "train"},
    "member": {"checkpoint", "config", "errors", "ledger", "records", "run", "sinks", "tokens", "train"},
    "training": {
        "adapters", "config", "errors", "files", "interrupts", "ledger", "lora", "member", "run", "series", "sinks", "stack",
        "tokens", "train", "validation",
    },
    "sweep": {"config", "devices", "errors", "ledger", "member", "records", "run", "stack", "training"},
    "search": {"errors"},
    # the reported systems
    "systems": set(),
    "reproduction": {
        "config", "errors", "flops.family", "flops.plan", "generate", "ledger", "protocols", "run", "sweep", "systems",
    },
    "report.sweeps": {"report.axes", "report.figures", "report.page", "report.svg"},
    "report.reproductions": {
        "report.analyses", "report.columns", "report.comparison", "report.page", "report.sweeps",
    },
    # the page of any folder
    "report.panels": {"forecaster", "report.figures", "series"},
    "report.reported": {"evaluate", "forecaster", "protocols", "report.comparison", "report.page", "series"},
    "report.folders": {"config", "errors", "files", "reproduction", "run", "sweep"},
    "report.runs": {
        "adapters", "anatomy", "errors", "forecaster", "protocols", "report.analyses", "report.anatomy", "report.columns",
        "report.evaluation", "report.folders", "report.page", "report.panels", "report.reported", "run", "series", "sweep",
    },
    "report.compared": {
        "report.axes", "report.columns", "report.evaluation", "report.figures", "report.folders", "report.page",
        "report.svg", "report.sweeps",
    },
    "report.dossier": {
        "errors", "report.compared", "report.comparison", "report.evaluation", "report.folders", "report.page",
        "report.reproductions", "report.runs", "report.sweeps", "run", "series",
    },
    "api": {"adapters", "codec", "config", "errors", "forecaster", "model", "run", "series", "tokens", "weights"},
    "__init__": {"adapters", "api", "errors", "lora", "weights"},
}  # fmt: skip

FILES = {path: ast.parse(path.read_text(encoding="utf-8")) for folder in (LIBRARY, TOOLS) for path in folder.rglob("*.py")}
MODULES = {".".join(path.relative_to(LIBRARY).with_suffix("").parts): path for path in LIBRARY.rglob("*.py")}


def imports(path: Path) -> set[str]:
    """Dotted names of everything that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(FILES[path]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def module_of(name: str) -> str:
    """The module of the library that a dotted name lies in: the longest part of it that is a file."""
    parts = name.split(".")[1:]
    return next(found for end in range(len(parts), 0, -1) if (found := ".".join(parts[:end])) in MODULES)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_those_before_it(module):
    own = {module_of(name) for name in imports(MODULES[module]) if name.startswith("jaxlv.")}
    assert own <= ALLOWED[module]


def test_the_table_has_an_order_and_names_only_what_there_is():
    order = list(graphlib.TopologicalSorter(ALLOWED).static_order())
    assert set(order) == set(MODULES)


@pytest.mark.parametrize("path", sorted(FILES), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_is_never_imported(path):
    """PyTorch is for tests and benchmarks; transformers gives tokenizers and chat template; the library knows no program."""
    never = {"torch", "peft", "tests", "benchmarks", "tools"}
    if path.is_relative_to(LIBRARY):
        never |= {"jaxlv_tools", "jaxlv_configs"}
    if path not in (LIBRARY / "tokens.py", LIBRARY / "language.py"):
        never.add("transformers")
    assert not packages(path) & never


def attributes_read() -> set[str]:
    """Names read as attributes anywhere, but for the checks that a config makes of its own values."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
            return
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            names.add(node.attr)
        for child in ast.iter_child_nodes(node):
            visit(child)

    for tree in FILES.values():
        visit(tree)
    return names


SECTIONS = {field.name: getattr(settings, str(field.type)) for field in dataclasses.fields(RunConfig)}


@pytest.mark.parametrize("section", [*SECTIONS.values(), ModelConfig, RunConfig], ids=lambda section: section.__name__)
def test_every_setting_is_read_somewhere(section):
    idle = {field.name for field in dataclasses.fields(section)} - attributes_read()
    assert not idle


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.toml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_the_configs_load_and_survive_being_written(path, tmp_path):
    """base.toml is that of tools/make_base.py, the others are runs, or stages of a reported system."""
    tree = read_tree(path)
    if path.stem == "base":
        build_config(BaseConfig, tree, where=path)
        return
    for section in (GRID, STAGE):
        tree.pop(section, None)
    config = build_config(RunConfig, tree, where=path)
    (tmp_path / "again.toml").write_text(to_toml(config))
    assert load_config(tmp_path / "again.toml") == config
