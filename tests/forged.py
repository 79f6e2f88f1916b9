"""Ledgers as changed by somebody who knows how lines are chained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxlv.storage import chain, lines
from jaxlv.storage.chain import Head, head_of

Records = list[dict[str, Any]]


def chained(records: Records) -> list[bytes]:
    """Returns the lines of records, each with the hash that follows from the previous line."""
    found: list[bytes] = []
    for record in records:
        found.append(lines.encode(record, json.loads(found[-1])[lines.CHAIN] if found else ""))
    return found


def forge(path: Path, edit: Callable[[Records], Records | None], *heads: Path) -> None:
    """Changes the records of a ledger and computes every hash anew; `heads` are head files that are made to match."""
    records = lines.read(path)
    records = edit(records) or records
    whole = chained(records)
    path.write_bytes(b"".join(whole))
    for place in heads:
        chain.make_head(place, Head(len(whole), json.loads(whole[-1])[lines.CHAIN]))


def forge_all(path: Path, edit: Callable[[Records], Records | None]) -> None:
    """Forges a ledger together with its own head."""
    forge(path, edit, head_of(path))
