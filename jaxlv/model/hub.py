"""The Hugging Face hub: which names may be sent there, and which files of a model are downloaded."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import re
from pathlib import Path

from jaxlv.errors import JaxlvError
from jaxlv.model.bases import EMBEDDED
from jaxlv.model.config import CONFIG
from jaxlv.storage import foreign
from jaxlv.storage.door import at_home

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,200}")
FILE_NAME = re.compile(r".*\.[A-Za-z]{2,}")  # after a point, models may have a version (Qwen2.5-0.5B), files letters
LOOKED_AT = 1000  # entries of a folder with which a mistyped name is compared
# Exactly these, and nothing in subfolders; "?" would match a slash.
DIGITS = "[0-9]" * 5
FILES = (
    CONFIG, "model.safetensors", f"model-{DIGITS}-of-{DIGITS}.safetensors", "model.safetensors.index.json",
    *foreign.TAKEN_ALONG,
)  # fmt: skip


def checked(name: str) -> str:
    """Returns a hub id "owner/name" unchanged.

    Raises JaxlvError if it cannot be one, or is more likely a mistyped path: if it begins with an existing folder, or ends
    like the name of a file. Such names are not sent anywhere.
    """
    owner, _, rest = name.partition("/")
    beside = bool(rest) and os.path.exists(at_home(owner))
    if ID.fullmatch(name) and not any(two in name for two in ("..", "--")) and not beside and not FILE_NAME.fullmatch(rest):
        return name
    near = _near(name)
    hint = f"did you mean {near}?" if near else 'give a folder, a hub id "owner/name", or "embedded"'
    if beside and not near:
        hint = f"{owner} is a folder here, so this is not taken for a hub id: download the model, and give its folder"
    raise JaxlvError("no such model folder", where=name, hint=hint)


def _near(name: str) -> str | None:
    """Returns a folder, or a base that comes with jaxlv, whose name resembles the given one; None if nothing does."""
    path = Path(name)
    try:
        entries = itertools.islice(os.scandir(at_home(path.parent)), LOOKED_AT)
        beside = [entry.name for entry in entries if entry.is_dir()]
    except (OSError, ValueError):
        return None
    known = [*beside, *EMBEDDED] if path.parent == Path() else beside
    found = difflib.get_close_matches(path.name, known, n=1)
    return str(path.parent / found[0]) if found else None


def snapshot(name: str, revision: str | None = None) -> Path:
    """Downloads what is missing of a model, FILES and nothing else; returns its folder in the hub's cache."""
    from huggingface_hub import snapshot_download

    if revision and (not REVISION.fullmatch(revision) or ".." in revision):
        raise JaxlvError("not a revision", where=name, expected="a commit, tag or branch", found=repr(revision))
    with _hub(name):
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=list(FILES), ignore_patterns=["*/*"])
        )  # fmt: skip


def config_of(name: str) -> Path:
    """Downloads the config.json of a model if it is missing; returns its folder in the hub's cache."""
    from huggingface_hub import hf_hub_download

    with _hub(name):
        return Path(hf_hub_download(name, CONFIG)).parent


def _hub(name: str) -> contextlib.AbstractContextManager[None]:
    hint = "check the path, the network, or the access rights"
    return foreign.told("not a folder, and not available from the hub", name, hint)
