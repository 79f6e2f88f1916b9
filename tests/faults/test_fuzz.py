"""Parsers under random damage: nothing but the project's own error escapes, no memory is taken, nothing else is read."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from jaxlv.model.weights import load_pretrained
from tests.faults.parsers import TARGETS, Reader, make

CASES = int(os.environ.get("JAXLV_FUZZ_CASES", "2200"))  # of all targets together
EACH = CASES / sum(target.share for target in TARGETS.values())
SETTINGS = hypothesis.settings(
    derandomize=CASES < 10_000,
    database=None,
    deadline=None,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],  # a case is small as it is
    suppress_health_check=list(hypothesis.HealthCheck),
)

WORDS = [
    b"", b"\0", b"\n", b",", b";", b'"', b"{", b"[" * 2000, b"../secret", b"/etc/passwd", b"NaN", b"Infinity", b"-1",
    b"1e400", b"9" * 5000, b"\xff\xfe", b"\xe2\x82", "\u0661".encode(), b"-0", b"0x10", b"true", b"null", b"1" * 64,
]  # fmt: skip
STRANGE: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e308, float("inf"), float("nan"),
    "", "x", "\0", "../secret", "/etc/passwd", "..", ".", "a/../../secret", "9" * 400, "F64", "F8_E4M3", "\ud800",
    [], {}, [[]], [0, 0], [0, 2**62], [-1, 4], [4, 0], [1] * 300, {"a": {}}, ["x"], {"": ""},
]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(STRANGE),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    ),
)
PLACE = st.integers(0, 10**6)
BYTES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "insert", "drop", "cut", "again", "swap"]),
        PLACE,
        st.one_of(st.sampled_from(WORDS), st.binary(max_size=12)),
        st.integers(0, 7),
    ),
    min_size=1,
    max_size=4,
)
KINDS = st.sampled_from(["replace", "drop", "add", "again"])
TREES = st.lists(st.tuples(KINDS, PLACE, VALUES, st.text(max_size=6)), min_size=1, max_size=3)
ANY = st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda text: text.encode(errors="replace")))


def damaged(content: bytes, changes: list[tuple[str, int, bytes, int]]) -> bytes:
    """Bytes flipped, inserted, left out, cut off, repeated, or exchanged."""
    for kind, number, word, bit in changes:
        place = number % (len(content) + 1)
        head, tail = content[:place], content[place:]
        span = 1 + len(word)
        content = {
            "flip": head + bytes([tail[0] ^ (1 << bit)]) + tail[1:] if tail else head,
            "insert": head + word + tail,
            "drop": head + tail[span:],
            "cut": head,
            "again": head + tail[: 8 * span] + tail,
            "swap": head + word + tail[span:],
        }[kind]
    return content


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values of a tree."""
    yield at
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*at, key))


def changed(trees: list[Any], changes: list[tuple[str, int, Any, str]]) -> list[Any]:
    """Values of trees replaced, left out, added, or repeated."""
    whole: Any = copy.deepcopy(trees)
    for kind, number, value, name in changes:
        paths = [path for path in places(whole) if path]
        if not paths:
            break
        *above, last = paths[number % len(paths)]
        node = whole
        for key in above:
            node = node[key]
        if kind == "drop":
            del node[last]
        elif kind == "replace":
            node[last] = copy.deepcopy(value)
        elif isinstance(node, dict):
            node[name if kind == "add" else f"{last}{name}"] = copy.deepcopy(value if kind == "add" else node[last])
        else:
            node.insert(last, copy.deepcopy(value if kind == "add" else node[last]))
    return whole


@pytest.fixture(scope="module")
def reader(tiny_base, random_lora, tmp_path_factory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("fuzz")
    _, params = load_pretrained(tiny_base)
    make(folder / "files", tiny_base, random_lora(params, rank=2, targets=("q_proj",), head="bias"))
    found = Reader(folder / "files", folder / "cache")
    yield found
    found.close()


def check(reader: Reader, name: str, content: bytes) -> None:
    path = reader.folder / TARGETS[name].file
    valid = path.read_bytes()
    path.write_bytes(content)
    try:
        told = reader.read(name)
    finally:
        path.write_bytes(valid)
    assert not told, f"{name}: {told}; the file: {content[:400]!r}"


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file_is_read_or_refused(reader, name):
    """Half of the cases damage bytes. If the file holds trees, the other half changes these, so as to get further."""
    target, seen = TARGETS[name], 0
    valid = (reader.folder / target.file).read_bytes()
    both = st.one_of(BYTES.map(lambda one: ("bytes", one)), TREES.map(lambda one: ("trees", one))) if target.trees else None

    @hypothesis.settings(SETTINGS, max_examples=math.ceil(EACH * target.share))
    @hypothesis.given(both if both is not None else BYTES.map(lambda one: ("bytes", one)))
    def run(change: Any) -> None:
        nonlocal seen
        seen += 1
        kind, changes = change
        if kind == "bytes":
            content = damaged(valid, changes)
        else:
            assert target.trees and target.build
            try:
                content = target.build(valid, changed(target.trees(valid), changes))
            except (ValueError, IndexError, AttributeError, TypeError):
                return  # what cannot be written as such a file
        check(reader, name, content)

    run()
    assert seen >= min(EACH * target.share, 20)


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_read_or_refused(reader, name):
    """Files that were never of the kind."""

    @hypothesis.settings(SETTINGS, max_examples=max(5, int(EACH * TARGETS[name].share) // 20))
    @hypothesis.given(ANY)
    def run(content: bytes) -> None:
        check(reader, name, content)

    run()


def test_what_escapes_hangs_or_crashes_is_found(reader, monkeypatch, tmp_path):
    """The harness itself: a parser that lets a foreign error through, reads elsewhere, takes memory, or dies."""
    from tests.faults import parsers

    def told(parse: Any, path: Path = tmp_path / "x") -> str:
        return parsers._outcome(parsers.Target("x", parse), path, tmp_path / "home")

    sys_hook = parsers._hear
    import sys

    sys.addaudithook(sys_hook)
    assert told(lambda path: int("x")).startswith("escaped: ValueError")
    assert told(lambda path: sys.exit(3)).startswith("escaped: SystemExit")
    (tmp_path / "elsewhere").write_text("secret")
    assert told(lambda path: (tmp_path / "elsewhere").read_text()).startswith("read outside of its folder")
    assert told(lambda path: None) == ""
