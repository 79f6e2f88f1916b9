"""Puts the committed tables into pages of docs/, between the marks that name them.

python -m benchmarks.pages
"""

from __future__ import annotations

import re

from benchmarks.common import RESULTS, ROOT

PAGES = tuple(ROOT / "docs" / f"{name}.md" for name in ("benchmarks", "scale", "base"))
MARKED = re.compile(r"<!-- ([\w./-]+\.md) -->\n.*?<!-- end -->", re.DOTALL)


def filled(page: str) -> str:
    """Returns a page with each marked table as its file has it; a file that is not there is an empty place."""

    def table(match: re.Match[str]) -> str:
        path = RESULTS / match[1]
        text = path.read_text(encoding="utf-8").strip() if path.is_file() else "Not measured yet."
        return f"<!-- {match[1]} -->\n\n{text}\n\n<!-- end -->"

    return MARKED.sub(table, page)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
