"""The pages of docs/, the examples in them and in docstrings, and the notebook run, and do what they say."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import jax
import pytest

import jaxlv
from jaxlv.config import RunConfig, config_tree
from jaxlv.errors import JaxlvError
from jaxlv.results.scores import Score
from jaxlv.tools import cli

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
TEXTS = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "tests" / "README.md", *sorted(DOCS.glob("*.md"))]


def test_the_example_runs(tmp_path):
    command = [sys.executable, str(DOCS / "example.py"), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "the same forecasts by the adapter alone: True" in done.stdout
    errors = [float(line.split(":")[1].split()[0]) for line in done.stdout.splitlines() if line.endswith("raw units")]
    assert errors[0] < errors[1]


def test_the_notebook_runs(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="notebooks need jaxlv[test]")
    nbclient = pytest.importorskip("nbclient", reason="notebooks need jaxlv[test]")
    notebook = nbformat.read(DOCS / "forecast.ipynb", as_version=4)
    kept = [output.output_type for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert kept == [output.output_type for output in outputs], "run it again: python docs/make.py pictures"
    assert "(2, 8, 30, 2)" in outputs[-1]["text"]


RUN = """
import contextlib, io, json, re, sys
scope, outputs = {"__name__": "docs"}, []
for block in re.findall(r"```python\\n(.*?)```", open(sys.argv[1]).read(), re.S):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(block, "counting.md", "exec"), scope)
    outputs.append(output.getvalue().rstrip())
print(json.dumps(outputs))
"""


def test_the_examples_of_counting_print_what_the_page_shows():
    """To the letter under the version of JAX that the page names; under others they run."""
    page = (DOCS / "counting.md").read_text(encoding="utf-8")
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", RUN, str(DOCS / "counting.md")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    shown = re.findall(r"```python\n.*?```\n(?:\n```text\n(.*?)\n```)?", page, re.S)
    printed = json.loads(done.stdout)
    assert len(printed) == len(shown) == 6 and all(printed[1:])
    if f"jax {jax.__version__} " in page:
        assert printed == shown


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE = load_script("make")


@pytest.mark.parametrize("name", MAKE.PAGES)
def test_a_reference_says_what_the_source_says(name):
    assert MAKE.PAGES[name]() == (DOCS / name).read_text("utf-8"), "write it again: python docs/make.py"


def test_the_references_have_every_setting_public_name_and_option():
    settings, api, verbs = ((DOCS / name).read_text("utf-8") for name in ("settings.md", "api.md", "verbs.md"))
    for section, values in config_tree(RunConfig()).items():
        rows = settings.split(f"## [{section}]\n")[1].split("\n## ")[0]
        assert re.findall(r"^\| `(\w+)` \|", rows, re.M) == list(values)
    assert {f"jaxlv.{name}" for name in jaxlv.__all__ if name[0] != "_"} == set(re.findall(r"^## (jaxlv\.\w+)$", api, re.M))
    assert {"Forecaster.fit", "Prediction.to_frame", "Scores.page"} <= set(re.findall(r"^###+ (\w+\.\w+)$", api, re.M))
    assert "- `--holdout`: last steps of every series that are not shown to the model" in verbs


def test_the_reference_of_results_has_every_figure_of_a_record():
    page = (DOCS / "results.md").read_text("utf-8")
    rows = page.split("## Score\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", rows, re.M) == list(Score.quantities())
    assert "| `crps` | CRPS | Scores: CRPS | raw units | number | less | fair continuous ranked probability score" in rows


def test_the_tutorial_prints_what_it_shows():
    """To the letter on a CPU under the version of JAX that the page names; elsewhere samples may differ, but no words."""
    page = (DOCS / "tutorial.md").read_text("utf-8")
    code, shown = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)\n```", page, re.S)[0]
    assert len(code.strip().splitlines()) == 10
    (printed,) = MAKE.outputs(page)
    words = [re.sub(r"\d+\.\d+|NaN", "", text).split() for text in (shown, printed)]
    assert words[0] == words[1] and len(words[0]) > 50
    if f"jax {jax.__version__} " in page and jax.default_backend() == "cpu":
        assert printed == shown, "write it again: python docs/make.py"


@pytest.mark.slow
def test_the_tutorial_tunes_and_the_pictures_are_drawn(tmp_path, capsys):
    page = (DOCS / "tutorial.md").read_text("utf-8")
    (table,) = MAKE.outputs(re.sub(r"```python(.*?)```(.*?)```py\n", r"```python\1", page, flags=re.S))
    assert re.findall(r"^(tuned|untuned) ", table, re.M) == ["untuned", "tuned", "untuned"]
    MAKE.pictures(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (DOCS / "pictures").iterdir()}
    assert "of 20 values in the 80 % band" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in jaxlv.__all__ if name != "__version__"])
def test_the_examples_of_the_python_names_print_what_they_say(name):
    thing = getattr(jaxlv, name)
    ran = 0
    for examples in doctest.DocTestFinder(exclude_empty=True).find(thing, name, globs={}):
        found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples)
        assert not found.failed, examples.name
        ran += found.attempted
    assert ran >= 2
    sections = {"Args:": True, "Returns:": not isinstance(thing, type), "Raises:": thing is not JaxlvError, "Example:": True}
    missing = [heading for heading, needed in sections.items() if needed and f"\n{heading}\n" not in inspect.getdoc(thing)]
    assert not missing
    given = set(inspect.signature(thing).parameters) - {"self"}
    told = set(
        re.findall(r"^    \*{0,2}(\w+): ", inspect.getdoc(thing).partition("\nArgs:\n")[2].partition("\n\n")[0], re.M)
    )
    assert told == given


def test_the_site_takes_only_pages_and_links_that_are_there():
    """What `make docs` checks too, for machines without mkdocs: every page has its place, and no address is elsewhere."""
    config = (ROOT / "mkdocs.yml").read_text("utf-8")
    placed = re.findall(r"[\w-]+\.md", config.partition("\nnav:")[2])
    beside = {"index.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"}
    assert len(placed) == len(set(placed)) and set(placed) == beside | {path.name for path in DOCS.glob("*.md")}
    assert "font: false" in config and "http" not in config


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_what_a_text_names_is_there(path):
    """Modules and their attributes in its Python, files of the project in backquotes, and links."""
    text = path.read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        tree, modules = ast.parse(block), {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules |= {alias.name: importlib.import_module(alias.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules |= {alias.name: importlib.import_module(f"{node.module}.{alias.name}") for alias in node.names}
        used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
        for node in used:
            assert node.value.id not in modules or hasattr(modules[node.value.id], node.attr), ast.unparse(node)
    for name in re.findall(r"`((?:jaxlv|tools|tests|configs|benchmarks|docs)/[a-z0-9_./-]*\.[a-z0-9]+)`", text):
        assert (ROOT / name).exists(), name
    file = ""
    for named, test in re.findall(r"`(tests/[a-z0-9_/]+\.py)?::(test_[a-z0-9_]+)`", text):
        file = named or file  # "::test" is of the file before it
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"
    for name in re.findall(r"\]\(([^):]+?)(?:#[^)]*)?\)", text):
        assert (path.parent / name).exists(), name


def commands() -> list[str]:
    """Returns what follows `jaxlv` in the blocks of the texts and in the help of the verbs, optional parts included."""
    blocks = [block for path in TEXTS for block in re.findall(r"^```\w*\n(.*?)^```", path.read_text("utf-8"), re.M | re.S)]
    helps = [path.read_text("utf-8") for path in sorted((ROOT / "tools").glob("*.py"))]
    found = re.findall(r"^ *(?:\$ )?jaxlv ([a-z].*)$", "\n".join([*blocks, *helps]).replace("\\\n", " "), re.M)
    return sorted({re.sub(r"\[(-[^]]*)\]", r"\1", line) for line in found})


@pytest.mark.parametrize("command", commands())
def test_a_command_that_a_text_shows_is_understood(command, monkeypatch):
    """It is parsed, not run. A config of the reader's own need not be there."""
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(command, comments=True)
    try:
        cli.app_of(arguments).parse_args(arguments, exit_on_error=False, print_error=False)
    except JaxlvError as fault:
        assert "no such config" in str(fault)


def test_the_commands_of_the_texts_are_found():
    assert {line.split()[0] for line in commands()} == set(cli.VERBS)
