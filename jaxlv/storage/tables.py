"""Tables as CSV that a spreadsheet program shows and never runs.

Text that begins with = + - @, a tab or a carriage return would be a formula there (CWE-1236), so an apostrophe is written
before it, which such a program does not show. Numbers are written as they are.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from jaxlv.storage.files import new_file

_FIRST = "'=+-@\t\r"
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""How text begins that gets an apostrophe: apostrophes before it count too, so that `unguarded` is an exact inverse."""


def guarded(value: Any) -> Any:
    """Returns a cell as it is written: with an apostrophe before text that a spreadsheet program would run, otherwise
    unchanged.
    """
    return f"'{value}" if isinstance(value, str) and value[:1] in _FIRST and _FORMULA.match(value) else value


def unguarded(value: Any) -> Any:
    """Returns what `guarded` was given."""
    return value[1:] if isinstance(value, str) and value.startswith("'") and _FORMULA.match(value) else value


def write_csv(path: Path, table: pd.DataFrame, float_format: str | None = None, guard: bool = True) -> None:
    """Writes a table as CSV without its index, completely or not at all; text in its header and cells is `guarded`, unless
    only jaxlv reads the file.
    """
    if not guard:
        with new_file(path) as work:
            table.to_csv(work, index=False, float_format=float_format)
        return
    text = [place for place, kind in enumerate(table.dtypes) if not pd.api.types.is_numeric_dtype(kind)]
    safe = table.copy(deep=False)
    for place in text:
        safe.isetitem(place, table.iloc[:, place].map(guarded))
    safe.columns = [guarded(name) for name in table.columns]
    with new_file(path) as work:
        safe.to_csv(work, index=False, float_format=float_format)
