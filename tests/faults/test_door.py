"""The one door: what stands in place of a file is refused in one line, at once, and takes no memory, whoever reads it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jaxlv.analysis import exploration, probe
from jaxlv.config import RunConfig, build_config, load_config
from jaxlv.data import loading
from jaxlv.errors import JaxlvError
from jaxlv.flops import ledger
from jaxlv.flops.plan import measured_rate
from jaxlv.model.config import ModelConfig
from jaxlv.runs import billing, checkpoint, run
from jaxlv.runs.records import MetricsLog, read_metrics
from jaxlv.storage import door, files, lines
from jaxlv.storage.chain import Chain
from jaxlv.studies import folders

GIB = 1 << 30


def socket_at(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as one:  # its name may have 107 bytes
        one.bind(path.name)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 3 * GIB)


STANDINS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a pipe": (os.mkfifo, "is not a regular file; found a named pipe"),
    "a socket": (socket_at, "is not a regular file; found a socket"),
    "zeros": (lambda path: path.symlink_to("/dev/zero"), "is not a regular file; found a device"),
    "a full device": (lambda path: path.symlink_to("/dev/full"), "is not a regular file; found a device"),
    "a folder": (Path.mkdir, "is not a regular file; found a folder"),
    "a link to nothing": (lambda path: path.symlink_to("gone"), "is not a regular file; found a link that leads nowhere"),
    "a file of the system": (
        lambda path: path.symlink_to("/proc/self/maps"),
        "is not a regular file; found a file of no size",
    ),
    "3 GiB": (sparse, ""),
}
"""How it is made, and what is said of it; of 3 GiB each reader says its own."""
TOO_LARGE = "too large; expected at most"
READERS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "text": ("x.txt", files.read_text, TOO_LARGE),
    "JSON": ("x.json", files.read_json, TOO_LARGE),
    "config": ("x.toml", load_config, TOO_LARGE),
    "prompts": ("x.jsonl", probe.read_prompts, TOO_LARGE),
    "log": ("x.jsonl", read_metrics, TOO_LARGE),
    "journal": ("x.jsonl", lines.Journal, TOO_LARGE),
    "log that is cut": ("x.jsonl", lambda path: MetricsLog(path).keep(3), TOO_LARGE),
    "ledger": ("x.jsonl", ledger.read_book, TOO_LARGE),
    "head": ("x.jsonl.head", lambda path: ledger.read_book(path.with_suffix("")), "a damaged head file"),
    "head to write": ("x.jsonl.head", lambda path: Chain(path.with_suffix("")), "a damaged head file"),
    "benchmark": ("x.json", lambda path: measured_rate(path, 1, True), "no result of benchmarks.train_step (too large"),
    "manifest": ("manifest.json", lambda path: run.read_manifest(path.parent), "no readable manifest.json (too large"),
    "split": ("split.json", lambda path: run.read_split(path.parent), "no readable split.json (too large"),
    "facts": ("facts.json", checkpoint.read_facts, TOO_LARGE),
    "series": ("x.csv", loading.load, "is not what .csv says"),
    "checks of series": ("x.csv", exploration.inspect, ""),
    **{file: (file, lambda path: folders.read(path.parent), "(too large") for file in folders.RESULTS if file != run.CONFIG},
}
"""A name that it reads, the reader, and what it says of 3 GiB ("" = it only reports)."""


@pytest.fixture(autouse=True)
def awake() -> Iterator[None]:
    """Fails a test that waits for ten seconds."""

    def late(*_: Any) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("reader", READERS)
def test_what_stands_for_a_file_is_refused(reader, tmp_path):
    name, read, of_3_gib = READERS[reader]
    for place, (kind, (make, said)) in enumerate(STANDINS.items()):
        path = tmp_path / str(place) / name
        path.parent.mkdir()
        make(path)
        if (reader, kind) == ("journal", "a file of the system"):
            continue  # which the system itself does not open to write
        if kind in ("3 GiB", "a file of the system") and not of_3_gib:
            read(path)
            continue
        with pytest.raises(JaxlvError) as caught:
            read(path)
        line = str(caught.value).replace("file: ", "file; found ")  # as part of another error
        assert (said or of_3_gib) in line and (name in line or str(path.parent) in line), (kind, line)


def test_a_file_of_a_run_that_is_none_is_refused_by_every_reader_of_its_folder(tmp_path):
    """It is refused by name, even if a page does not need it."""
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "manifest.json").write_text('{"data": {"sha256": ""}, "base": {"sha256": ""}, "dataset_alpha": null}')
    assert folders.read(tmp_path).kind == "run"
    for name in (files.SEAL, run.LEDGER, run.METRICS, "metrics.json", "ev/metrics.json", "ev/analyses.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.mkfifo(tmp_path / name)
        with pytest.raises(JaxlvError, match=rf"{name}: is not a regular file; found a named pipe"):
            folders.read(tmp_path)
        (tmp_path / name).unlink()
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(JaxlvError, match="lock: is not a regular file"), files.only_process(tmp_path / "lock"):
        pass


def test_files_of_gigabytes_take_no_memory(tmp_path):
    sparse(tmp_path / "x")

    tracemalloc.start()
    for read in (files.read_json, lines.read, lines.Journal, load_config):
        with pytest.raises(JaxlvError, match=TOO_LARGE):
            read(tmp_path / "x")
    os.truncate(tmp_path / "x", door.LIMITS["log"])  # no larger than a log may be, but one line
    for read in (lines.read, lines.Journal):
        with pytest.raises(JaxlvError, match="line 1: the line is too long; expected at most 1048576 bytes"):
            read(tmp_path / "x")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10 << 20


def test_a_log_is_read_to_where_it_ended_and_written_no_further_than_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "log"
    journal = lines.Journal(path)
    for step in range(3):
        journal.add({"step": step})
    with door.opened(path) as file:
        journal.add({"step": 3})
        assert len(file.read().splitlines()) == 3 and file.read() == b""
        file.seek(1)
        assert file.read(1) == b'"' and len(lines.read(path)) == 4
    with pytest.raises(JaxlvError, match="the file grows too large"):
        journal.add({"text": "x" * door.LIMITS["line"]})
    monkeypatch.setattr(door, "LIMITS", {**door.LIMITS, "log": path.stat().st_size + 10})
    with pytest.raises(JaxlvError, match="the file grows too large"):
        journal.add({"step": 4})
    journal.close()
    assert len(lines.read(path)) == 4


def test_the_ledger_of_a_new_run_is_looked_at_before_its_folder_is_made(tmp_path):
    model = type("Model", (), {"config": ModelConfig.from_folder(billing_base())})
    budget = {"flops": 1e12, "ledger": "../l.jsonl"}
    config: RunConfig = build_config(RunConfig, {"budget": budget})
    billing.check_begins(config, tmp_path / "run", model)
    assert not list(tmp_path.iterdir())
    with billing.ledger_of(config, tmp_path / "run", model):
        pass
    billing.check_begins(config, tmp_path / "run", model)
    other: RunConfig = build_config(RunConfig, {"budget": {**budget, "flops": 2e12}})
    below: RunConfig = build_config(RunConfig, {"budget": {**budget, "ledger": "../l.jsonl/x"}})
    full: RunConfig = build_config(RunConfig, {"budget": {**budget, "ledger": "/dev/full"}})
    for wrong, said in ((other, "the budget is not the one"), (below, "is not a folder"), (full, "is not a regular file")):
        with pytest.raises(JaxlvError, match=said):
            billing.check_begins(wrong, tmp_path / "run", model)


def billing_base() -> Path:
    from jaxlv.model.bases import EMBEDDED_BASE

    return EMBEDDED_BASE


def test_a_tilde_before_a_name_that_nobody_has_is_a_name():
    from jaxlv.flops.family import architecture
    from jaxlv.model.weights import resolve
    from jaxlv.runs.sources import check_fits

    assert door.at_home("~") == os.path.expanduser("~") != "~" and door.at_home("~nobodyx/y") == "~nobodyx/y"
    check_fits([build_config(RunConfig, {"model": {"path": "~nobodyx/y"}})])
    for read in (resolve, architecture):
        with pytest.raises(JaxlvError, match="no such model"):
            read("~nobodyx/y")


def test_a_file_of_just_the_limit_is_read_and_of_a_byte_more_refused(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"1234")
    assert door.content(path, 4) == b"1234"
    with pytest.raises(JaxlvError, match="x: too large; expected at most 3 bytes; found 4"):
        door.content(path, 3)
