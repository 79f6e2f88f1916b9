"""What several test files need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data and files, which is no part of the project."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("JAXLV_SHARED") or beside)
    if not folder.is_dir():
        pytest.skip(f"no reference folder at {folder}: set JAXLV_SHARED")
    return folder
