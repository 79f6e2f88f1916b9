"""What a result says that it was made with."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jax
import pytest

import jaxlv
from jaxlv import versions


def git(folder: Path, *words: str) -> str:
    settings = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *settings, *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "jaxlv").mkdir()
    (tmp_path / "jaxlv" / "versions.py").write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    return tmp_path


def test_the_commit_is_that_of_the_checkout_and_says_if_files_have_changed(checkout):
    head = git(checkout, "rev-parse", "--short=12", "HEAD")
    assert versions.commit(checkout / "jaxlv" / "versions.py") == head
    (checkout / "jaxlv" / "versions.py").write_text("2")
    assert versions.commit(checkout / "jaxlv" / "versions.py") == f"{head}-dirty"


def test_a_repository_around_an_installed_package_says_nothing_about_it(checkout):
    installed = checkout / ".venv" / "lib" / "jaxlv" / "versions.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("1")
    assert versions.commit(installed) == "unknown"
    (checkout / ".gitignore").write_text(".venv\n")
    assert versions.commit(installed) == "unknown"


def test_without_a_repository_or_git_the_commit_is_unknown(checkout, tmp_path_factory, monkeypatch):
    assert versions.commit(tmp_path_factory.mktemp("bare") / "versions.py") == "unknown"
    monkeypatch.setenv("PATH", "")
    assert versions.commit(checkout / "jaxlv" / "versions.py") == "unknown"


def test_versions_are_of_what_is_installed():
    found = versions.versions()
    assert set(found) == {"python", "commit", "device", "cores", *versions.PACKAGES}
    assert found["jax"] == jax.__version__ and found["python"] == sys.version.split()[0]
    assert re.fullmatch(r"unknown|[0-9a-f]{12}(-dirty)?", found["commit"])
    assert found["device"] == "cpu"


def test_the_package_tells_its_version_and_its_public_names():
    assert jaxlv.__version__ == metadata.version("jaxlv")
    assert set(jaxlv.__all__) <= set(dir(jaxlv)) and not {"importlib", "HOMES", "Any"} & set(dir(jaxlv))
    assert all(getattr(jaxlv, name) is not None for name in jaxlv.__all__)
    assert (Path(jaxlv.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute nothing"):
        jaxlv.nothing  # noqa: B018
