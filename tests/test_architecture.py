"""The structure of the source: who imports whom, what is never imported, and that no setting is idle."""

from __future__ import annotations

import ast
import dataclasses
import graphlib
import re
import statistics
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxlv import config as settings
from jaxlv.config import RunConfig, build_config, load_config, read_tree, sections, to_toml
from jaxlv.model.config import ModelConfig
from jaxlv.studies.from_scratch import BaseConfig

ROOT = Path(__file__).resolve().parents[1]
LIBRARY, TOOLS, CONFIGS = ROOT / "jaxlv", ROOT / "tools", ROOT / "configs"

# The library's folders, and the files beside them, from the ground up: each imports only those before it.
ORDER = (
    "errors", "processes", "activity", "settings", "memory", "versions", "storage", "results", "config", "data", "text",
    "model", "lora", "steps", "flops", "forecasting", "runs", "published", "analysis", "report", "studies", "outcomes",
    "api", "front", "notebooks",
    "integrations", "__init__",
)  # fmt: skip
# The counters know no model of this project, nor any package except jax and numpy.
COUNTING = tuple(
    path.stem for path in sorted((LIBRARY / "flops" / "counting").glob("*.py")) if path.stem not in ("__init__", "count")
)
# What stands by itself: all that a module may import of the library.
NARROW: dict[str, set[str]] = {
    "activity": set(),
    "storage.door": {"errors"},
    "storage.foreign": {"errors", "storage.door"},
    "storage.apart": {"errors"},
    "storage.streams": {"errors"},
    "text.vocabulary": {"storage.foreign", "text.template"},
    "text.template": set(),
    "model.qwen2": {"model.attention", "model.bits", "model.config", "model.placement", "model.quantised"},
    "model.placement": {"errors", "model.config"},
    "model.attention": set(),
    "model.bits": set(),
    "model.quantised": {"model.bits"},
    "model.packed": {"errors", "model.bits", "storage.foreign"},
    "settings": {"errors"},
    "memory": {"errors"},
    "versions": set(),
    "lora.overlay": {"config", "errors", "model.quantised"},
    "flops.conventions": {"flops.executed", "flops.rows", "flops.counting.operations"},
    "flops.executed": {"flops.rows"},
    "flops.rows": set(),
    "flops.targets": {"errors"},
    "flops.counting.count": {"errors", "flops.targets", *(f"flops.counting.{name}" for name in COUNTING)},
    **{f"flops.counting.{name}": {"errors", *(f"flops.counting.{one}" for one in COUNTING)} for name in COUNTING},
    "forecasting.metrics": {"errors"},
    "forecasting.odefit": {"errors"},
    "runs.interrupts": set(),
    "runs.endings": {"errors", "runs.interrupts"},
    "published.systems": set(),
    "report.theme": set(),
    "report.charts": {"report.format", "report.theme"},
    "report.figures.render": {"report.charts", "report.theme"},
    "report.figures.svg": {"errors", "report.charts", "report.figures.render", "report.theme"},
}

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
    return next((found for end in range(len(parts), 0, -1) if (found := ".".join(parts[:end])) in MODULES), name)


IMPORTED = {
    module: {module_of(name) for name in imports(path) if name.startswith("jaxlv.")} - {module, "__init__"}
    for module, path in MODULES.items()
}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_what_stands_below_it(module):
    place = ORDER.index(module.partition(".")[0])
    assert not [name for name in IMPORTED[module] if ORDER.index(name.partition(".")[0]) > place]
    assert IMPORTED[module] <= NARROW.get(module, IMPORTED[module])


VIEWS = sorted(name for name in MODULES if name.startswith("report."))
BESIDE = {"report.page": {"storage.files"}}  # what a view imports besides: the page's writer


@pytest.mark.parametrize("module", VIEWS)
def test_a_view_is_given_finished_records(module):
    """It opens no file, prices nothing and computes no result: whoever could do that for it is not imported."""
    others = {name for name in IMPORTED[module] if name.partition(".")[0] not in ("report", "results", "errors")}
    assert others == BESIDE.get(module, set())
    assert not calls_that_open(MODULES[module]) and not packages(MODULES[module]) & {"jax", "flax", "scipy", "sklearn"}


def test_no_modules_import_each_other_and_every_folder_says_what_it_is():
    graphlib.TopologicalSorter(IMPORTED).prepare()
    assert {name.partition(".")[0] for name in MODULES} == set(ORDER) and set(NARROW) <= set(MODULES)
    assert all(ast.get_docstring(tree) for path, tree in FILES.items() if path.is_relative_to(LIBRARY))


def test_a_function_fits_on_a_page():
    """At most 75 lines, the longest docstring included; half of all functions have at most nine."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [(path, node) for path, tree in FILES.items() for node in ast.walk(tree) if isinstance(node, kinds)]
    lines = {f"{path.name}: {node.name}": (node.end_lineno or 0) - node.lineno + 1 for path, node in nodes}
    assert not {name: count for name, count in lines.items() if count > 75}
    assert statistics.median(lines.values()) <= 9


def test_every_folder_is_installed():
    installed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in MODULES.values()}
    assert {*folders, "jaxlv.tools", "jaxlv.configs"} == set(installed)


@pytest.mark.parametrize("path", sorted(FILES), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_is_never_imported(path):
    """PyTorch and transformers are for tests and benchmarks; the library knows no program; what runs a stranger's tokenizer
    or template is imported by what another process runs, and by what makes a tokenizer.
    """
    never = {"torch", "transformers", "peft", "tests", "benchmarks", "tools"}
    if path.is_relative_to(LIBRARY):
        assert not [name for name in imports(path) if name.startswith("jaxlv.tools")]
    if path not in (LIBRARY / "text" / "vocabulary.py", LIBRARY / "studies" / "from_scratch.py"):
        never.add("tokenizers")
    if path.is_relative_to(LIBRARY / "text") and path.stem != "template":
        never.add("jinja2")
    assert not packages(path) & never


def test_the_counters_need_jax_and_numpy_alone():
    """Pandas is imported for a table of rows, if it is there."""
    found = {name: packages(MODULES[f"flops.counting.{name}"]) - sys.stdlib_module_names for name in (*COUNTING, "count")}
    assert found.pop("result") == {"jaxlv", "pandas"}
    assert set().union(*found.values()) == {"jaxlv", "jax", "numpy"}


def test_csv_is_written_in_one_place():
    """Which keeps a spreadsheet program from running what a name says; a writer of its own would not."""
    writing = {
        path for path, tree in FILES.items() for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("to_csv", "to_excel", "writerow", "writerows", "DictWriter")
    }  # fmt: skip
    assert writing == {LIBRARY / "storage" / "tables.py"}


def test_tables_for_a_terminal_are_written_in_one_place():
    """Any other text that pads columns would be a writer of its own; the counters know no package of this project."""
    padding = {
        path for path, tree in FILES.items() for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("ljust", "rjust")
    }  # fmt: skip
    writers = {LIBRARY / "report" / f"{name}.py" for name in ("terminal", "format")}
    assert padding - {LIBRARY / "storage" / "chain.py", LIBRARY / "flops" / "counting" / "words.py"} == writers


# ------------------------------------------------------------------------------------- what functions take and give

MOST_PARAMETERS = 8
BARE = {"steps.loss._nll_backward", "model.quantised._backward"}  # JAX wants a plain tuple: a gradient for each argument

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
NAMED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def functions(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, Function]]:
    """(dotted name, function) of all functions of a file, those within others and lambdas included."""
    for node in ast.iter_child_nodes(tree):
        name = f"{inside}.{node.name}" if isinstance(node, NAMED) else inside
        if isinstance(node, Function):
            yield name, node
        yield from functions(node, name)


def parameters(function: Function) -> int:
    """How many there are; `self` and `cls` are none, and what collects others is one."""
    given = function.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg) if one]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def returned(function: Function) -> Iterator[ast.AST]:
    """What the function itself returns or yields."""
    if isinstance(function, ast.Lambda):
        yield function.body
        return
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Return, ast.Yield)) and node.value:
            yield node.value
        waiting += [] if isinstance(node, (*NAMED, ast.Lambda)) else ast.iter_child_nodes(node)


def is_bare(node: ast.AST) -> bool:
    """Is it a tuple of three or more, or the type of one? `tuple[Any, ...]`, which does not say what it holds, is one."""
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "tuple":
        kinds = [ast.unparse(one) for one in getattr(node.slice, "elts", [])]
        return kinds == ["Any", "..."] or len(kinds) > 2
    return isinstance(node, ast.Tuple) and (len(node.elts) > 2 or any(isinstance(one, ast.Starred) for one in node.elts))


def returns_bare(function: Function) -> bool:
    """Does a function return three things or more that have no names? A sequence, `tuple[T, ...]`, is one thing."""
    kind = getattr(function, "returns", None)
    if kind is not None and any(is_bare(node) for node in ast.walk(kind) if isinstance(node, ast.Subscript)):
        return True
    sequence = kind is not None and ast.unparse(kind).startswith("tuple[") and ast.unparse(kind).endswith(", ...]")
    return not sequence and any(is_bare(value) for value in returned(function))


def test_no_function_has_more_than_eight_parameters_and_none_returns_three_things_without_names():
    found = [(f"{module}{name}", function) for module, path in MODULES.items() for name, function in functions(FILES[path])]
    assert [name for name, function in found if parameters(function) > MOST_PARAMETERS] == []
    assert {name for name, function in found if returns_bare(function)} == BARE


@pytest.mark.parametrize(
    ("text", "many", "bare"),
    [
        ("def f(self, a, b, /, c, d, *, e, f, g, h): ...", False, False),
        ("def f(a, b, c, d, e, f, g, *more, **others): ...", True, False),
        ("def f(): return 1, 2, 3", False, True),
        ("def f() -> tuple[int, ...]: return 1, 2, 3", False, False),
        ("def f() -> tuple[Any, ...]: return g()", False, True),
        ("def f() -> dict[str, tuple[int, int, str]]: ...", False, True),
        ("def f():\n  def g(): return 1, 2\n  yield (*a, 1)", False, True),
        ("def f(): return Pair(1, 2), [(1, 2, 3)]", False, False),
        ("f = lambda: (1, 2, 3)", False, True),
        ("def f() -> Literal[1, 2, 3]: ...", False, False),
    ],
)
def test_what_a_function_takes_and_gives_is_seen(text, many, bare):
    found = [function for _, function in functions(ast.parse(text))]
    assert any(parameters(function) > MOST_PARAMETERS for function in found) == many
    assert any(returns_bare(function) for function in found) == bare


def attributes_read() -> set[str]:
    """Names read as attributes anywhere, but for the checks that a config makes of its own values."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef) and node.name in ("__post_init__", "agree"):
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
    """Those of bases are for tools/make_base.py, the others are runs, or stages of a reported system."""
    tree = read_tree(path)
    if path.parent == CONFIGS and path.stem.startswith("base"):
        build_config(BaseConfig, tree, where=path)
        return
    config = build_config(RunConfig, sections(tree, path)[0], where=path)
    (tmp_path / "again.toml").write_text(to_toml(config))
    assert load_config(tmp_path / "again.toml") == config


# ------------------------------------------------------------------------------------------------ the one door

OPENING = re.compile(
    r"open|fdopen|open_code|\w+\.(os\.)?open|io\.FileIO|.*\.(fdopen|read_text|read_bytes|file_digest|expanduser|safe_open)|safe_open"
    r"|(np|numpy)\.(load|loadtxt|genfromtxt|fromfile|memmap)|(pd|pandas)\.read_\w+|h5py\.File|zipfile\.ZipFile|shutil\.copy\w*"
)
"""What opens a file by its name, as it is called here: the builtin, methods of a path, and the libraries that are used."""
PAST_THE_DOOR: dict[str, set[str]] = {
    "jaxlv/storage/door.py": {"os.open", "os.path.expanduser", "io.FileIO"},
    # Files of the system's own, by names that nobody chooses.
    "jaxlv/memory.py": {"(GROUPS / limit).with_name('memory.stat').read_text", "(GROUPS / name).read_text"},
    "jaxlv/runs/devices.py": {"OVERCOMMIT.read_text"},
    "jaxlv/steps/kept.py": {"Path('/proc/cpuinfo').read_text"},
    "jaxlv/storage/apart.py": {"os.fdopen", "os.open"},
    "jaxlv/storage/streams.py": {"os.open"},
    # What the door has opened is given to a library, or a library opens what the door has looked at.
    "jaxlv/storage/files.py": {"hashlib.file_digest"},
    "jaxlv/data/readers.py": {"zipfile.ZipFile", "archive.open", "pd.read_excel"},
    "jaxlv/forecasting/forecast.py": {"pd.read_csv"},
    "jaxlv/storage/tensors.py": {"safe_open"},
    "jaxlv/data/hdf5.py": {"h5py.File", "Path('/proc/self/statm').read_text"},
    # Content in memory; a method that opens what a run writes; arrays that the program itself has just written.
    "jaxlv/data/series.py": {"h5py.File"},
    "jaxlv/runs/training.py": {"member.open"},
    "jaxlv/studies/base_windows.py": {"np.load"},
    "jaxlv/processes.py": {"shutil.copytree", "shutil.copy"},  # a run's folder, which process 0 opens through the door
}  # fmt: skip
"""What does so, and may."""


def calls_that_open(path: Path) -> set[str]:
    """What a file calls that opens a file by its name, except by what it imports from this project."""
    ours = {name.rpartition(".")[2] for name in imports(path) if name.startswith("jaxlv.")}
    calls = (ast.unparse(node.func) for node in ast.walk(FILES[path]) if isinstance(node, ast.Call))
    return {call for call in calls if OPENING.fullmatch(call) and call.partition(".")[0] not in ours}


def test_every_file_is_read_through_the_door():
    """storage/door.py waits for no pipe, opens no device and fills no memory; a call that opens a file itself would."""
    found = {str(path.relative_to(ROOT)): calls for path in FILES if (calls := calls_that_open(path))}
    assert found == PAST_THE_DOOR
