"""Makes the site from README.md and docs/: what mkdocs calls (mkdocs.yml names this file)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
ABOVE = {"README.md": "index.md"} | {name: name for name in ("SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md")}
"""Texts beside docs/ that are pages of the site, and their names there."""
LINK = re.compile(r"(!?)\[((?:[^][]|\[[^][]*\])*)\]\(([^)\s:]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the texts from beside docs/ to the pages."""
    for source, name in ABOVE.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Points links at pages of the site. What is not on it, such as a file of the source, is named without a link."""
    folder = ROOT if page.file.src_uri in ABOVE.values() else ROOT / "docs"
    return LINK.sub(lambda found: _link(found, folder), markdown)


def _link(found: re.Match[str], folder: Path) -> str:
    mark, text, target = found.groups()
    name, hash_, part = target.partition("#")
    if not name:
        return found[0]
    inside = (folder / name).resolve().relative_to(ROOT).as_posix()
    inside = ABOVE.get(inside, inside.removeprefix("docs/") if inside.startswith("docs/") else "")
    return f"{mark}[{text}]({inside}{hash_}{part})" if inside else text
