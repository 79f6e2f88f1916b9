"""The example and the notebook of docs/ run, and do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


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
