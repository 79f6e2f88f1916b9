"""The example and the notebook of docs/ run, and do what they say."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxlv.errors import JaxlvError
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
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
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
