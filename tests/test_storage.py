"""Storage on a recording file system: what is on the disk, and in which order, before a name points to it."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from test_run import config  # noqa: F401 - a fixture

from jaxlv.data import series
from jaxlv.data.series import from_arrays
from jaxlv.errors import JaxlvError
from jaxlv.flops.ledger import Event, Ledger, Terms
from jaxlv.model.config import ModelConfig
from jaxlv.results.runs import Facts, Mark
from jaxlv.runs.checkpoint import Checkpoints
from jaxlv.runs.member import Job, Member
from jaxlv.runs.records import MetricsLog, read_metrics
from jaxlv.storage import chain, lines
from jaxlv.storage.chain import head_of
from jaxlv.storage.files import broken, new_folder, seal, write_text


class Call(NamedTuple):
    """A flush or a renaming: of what, to where, and the bytes of a file (or names in a folder) at that moment."""

    kind: str
    path: Path
    target: Path | None = None
    content: Any = None


class Recorder:
    """The calls of os.fsync and os.replace, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.calls: list[Call] = []
        fsync, replace, rename = os.fsync, os.replace, os.rename

        def flush(handle: Any) -> None:
            number = handle if isinstance(handle, int) else handle.fileno()
            path = Path(os.readlink(f"/proc/self/fd/{number}"))
            self.calls.append(Call("flush", path, None, contents(path)))
            fsync(handle)

        def renaming(real: Callable[..., None]) -> Callable[..., None]:
            def move(old: Any, new: Any, **more: Any) -> None:
                self.calls.append(Call("rename", Path(old).absolute(), Path(new).absolute(), contents(Path(old))))
                real(old, new, **more)

            return move

        monkeypatch.setattr(os, "fsync", flush)
        monkeypatch.setattr(os, "replace", renaming(replace))
        monkeypatch.setattr(os, "rename", renaming(rename))

    def renamed_to(self, target: Path) -> int:
        """Returns the place of the last call that gives something this name."""
        return max(i for i, call in enumerate(self.calls) if call.kind == "rename" and call.target == target)

    def flushed(self, first: int, last: int) -> dict[Path, Any]:
        """Returns {path: its content} for the flushes between two calls."""
        return {call.path: call.content for call in self.calls[first:last] if call.kind == "flush"}


def contents(path: Path) -> Any:
    """Returns a file's bytes, or a folder's names, as another process sees them."""
    return path.read_bytes() if path.is_file() else sorted(one.name for one in path.iterdir())


@pytest.fixture
def recorded(monkeypatch) -> Recorder:
    return Recorder(monkeypatch)


def assert_whole_before_its_name(recorded: Recorder, folder: Path) -> None:
    """Checks that each file and folder within was flushed in its final state, under its name of that time, before the folder
    got its own; and that the folder's own name was flushed afterwards.
    """
    place = recorded.renamed_to(folder)
    flushed = recorded.flushed(0, place)
    work = recorded.calls[place].path
    for path in [folder, *folder.rglob("*")]:
        own = work / path.relative_to(folder)
        assert own in flushed, f"{path.relative_to(folder)} was not flushed"
        assert flushed[own] == contents(path)
    after = recorded.flushed(place, len(recorded.calls))
    assert folder.name in after.get(folder.parent, []), "the name of the folder was not flushed"


# ------------------------------------------------------------------------------------------------- files and folders


def test_a_text_is_on_the_disk_before_it_takes_its_name_and_then_its_name_is(tmp_path, recorded):
    path = tmp_path / "a.json"
    path.write_text("old")
    write_text(path, "new")
    place = recorded.renamed_to(path)
    temporary = recorded.calls[place].path
    assert recorded.flushed(0, place) == {temporary: b"new"}
    after = recorded.flushed(place, len(recorded.calls))
    assert list(after) == [tmp_path] and "a.json" in after[tmp_path]
    assert path.read_text() == "new"


def test_a_new_folder_is_on_the_disk_before_it_takes_its_name(tmp_path, recorded):
    folder = tmp_path / "run"
    with new_folder(folder) as work:
        (work / "inner").mkdir()
        (work / "inner" / "a").write_bytes(b"1")
        (work / "b").write_bytes(b"22")
        assert not folder.exists()
    assert_whole_before_its_name(recorded, folder)
    assert os.listdir(tmp_path) == ["run"]


def test_a_folder_that_is_replaced_is_there_until_the_new_one_is_on_the_disk(tmp_path, recorded):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "a").write_bytes(b"old")
    with new_folder(folder, replace=True) as work:
        (work / "a").write_bytes(b"new")
        assert (folder / "a").read_bytes() == b"old"
    assert_whole_before_its_name(recorded, folder)
    aside = next(i for i, call in enumerate(recorded.calls) if call.kind == "rename" and call.path == folder)
    assert {path.name for path in recorded.flushed(0, aside)} == {"a", "new"}
    assert (folder / "a").read_bytes() == b"new" and os.listdir(tmp_path) == ["adapter"]


@pytest.mark.parametrize("there", ["a file", "a folder with a file"])
def test_what_is_there_is_not_replaced_unless_asked(there, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir() if there == "a folder with a file" else folder.write_text("mine")
    if folder.is_dir():
        (folder / "a").write_text("mine")
    with pytest.raises(JaxlvError, match="exists already"), new_folder(folder) as work:
        (work / "a").write_text("new")
    assert (folder / "a" if folder.is_dir() else folder).read_text() == "mine"
    assert os.listdir(tmp_path) == ["run"]


def test_a_body_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "run") as work:
        (work / "a").write_text(str(1 / 0))
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_leaves_the_old_text_and_no_other_file(tmp_path, monkeypatch):
    def fails(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output"):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]


# ---------------------------------------------------------------------------------------------- what is written so


def test_a_checkpoint_is_on_the_disk_before_it_counts(tmp_path, recorded):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(3, {"a": jnp.arange(4.0)}, Facts(best=Mark(3, 1.0)))
        checkpoints.wait()
        folder = tmp_path / "checkpoints" / "step_00000003"
        assert_whole_before_its_name(recorded, folder)
        assert broken(folder) == []


def test_work_is_announced_on_the_disk_before_it_begins_and_paid_before_it_counts(tmp_path, recorded):
    path = tmp_path / "ledger.jsonl"
    event = Event("train_step", 2, 12)
    with Ledger(path, Terms(10**12, "exact", ModelConfig(32, 16, 16, 1, 2, 1, 8))) as ledger:
        paid = [path, head_of(path)]  # the head last: it knows only of lines that exist
        for act, files in (
            (lambda: ledger.reserve(event, "final"), [path]), (lambda: ledger.commit(ledger.entries[-1]), paid),
        ):  # fmt: skip
            before = len(recorded.calls)
            act()
            flushed = recorded.flushed(before, len(recorded.calls))
            assert list(flushed.items()) == [(file, file.read_bytes()) for file in files]
    assert path.read_bytes().count(b"\n") == 3


def test_metrics_are_on_the_disk_before_the_checkpoint_that_stands_behind_them(config, tmp_path, recorded):  # noqa: F811
    member = Member(Job(config, tmp_path, None), print)  # type: ignore[arg-type]
    member.checkpoints = Checkpoints(tmp_path / "checkpoints")
    member.log.add({"step": 2, "loss": 1.0})
    member.save(2, {"a": jnp.ones(2)})  # type: ignore[arg-type]
    member.checkpoints.close()
    place = recorded.renamed_to(tmp_path / "checkpoints" / "step_00000002")
    assert recorded.flushed(0, place)[tmp_path / "metrics.jsonl"] == (tmp_path / "metrics.jsonl").read_bytes() != b""


def test_a_file_of_series_is_on_the_disk_before_it_takes_its_name(tmp_path, recorded):
    path = tmp_path / "a.h5"
    series.save(path, from_arrays(np.ones((2, 5, 2))))
    place = recorded.renamed_to(path)
    assert recorded.flushed(0, place)[recorded.calls[place].path] == path.read_bytes()


# ------------------------------------------------------------------------------------------------------ records


def test_a_log_is_cut_behind_the_step_that_a_run_resumes_at(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, 2, 2, 3):
        log.add({"step": step, "loss": float(step)})
    log.keep(2)
    assert [record["step"] for record in read_metrics(log.path)] == [1, 2, 2]
    log.keep(0)
    assert read_metrics(log.path) == []


def test_a_record_that_lacks_its_line_end_is_kept_and_the_next_one_stands_on_its_own_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines.encode({"n": 1}) + lines.encode({"n": 2})[:-1])
    found: list[Any] = []
    journal = lines.Journal(path, found.append)
    assert found == [{"n": 1}, {"n": 2}]
    journal.add({"n": 3})
    journal.close()
    assert lines.read(path) == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_a_record_that_cannot_be_flushed_leaves_nothing_and_the_next_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    journal = lines.Journal(path)
    journal.add({"n": 1})

    def fail(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            journal.add({"n": 2})
    assert lines.read(path) == [{"n": 1}]
    journal.add({"n": 3})
    journal.close()
    assert lines.read(path) == [{"n": 1}, {"n": 3}]


def test_the_name_of_a_new_file_of_records_is_on_the_disk_before_the_first_record(tmp_path, recorded):
    lines.Journal(tmp_path / "a.jsonl").close()
    assert [(call.kind, call.path, call.content) for call in recorded.calls] == [("flush", tmp_path, ["a.jsonl"])]


def test_a_torn_end_is_cut_before_the_next_record(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines.encode({"n": 1}) + lines.encode({"n": 2})[:-4])
    found: list[Any] = []
    journal = lines.Journal(path, found.append)
    assert found == [{"n": 1}]
    journal.add({"n": 3})
    journal.close()
    assert lines.read(path) == [{"n": 1}, {"n": 3}]


@pytest.mark.parametrize(
    "change", [(b'"n":2', b'"n":3'), (b'"n":2', b'"n": 2'), (b'"crc32":"', b'"crc32":"0'), (b",", b";")], ids=str
)
def test_a_line_that_was_changed_is_named_by_its_number(change, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines.encode({"n": 1}) + lines.encode({"n": 2}).replace(*change) + lines.encode({"n": 4}))
    with pytest.raises(JaxlvError, match=r"line 2: damaged line"):
        lines.read(path)


# -------------------------------------------------------------------------------------------------------- seals


@pytest.fixture
def sealed(tmp_path) -> Path:
    folder = tmp_path / "sealed"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a").write_bytes(b"1")
    (folder / "b").write_bytes(b"2")
    seal(folder)
    assert broken(folder) == []
    return folder


def test_a_seal_tells_what_changed_what_is_missing_and_what_leads_elsewhere(sealed, tmp_path):
    (sealed / "inner" / "a").write_bytes(b"3")
    assert broken(sealed) == ["inner/a has changed"]
    (sealed / "inner" / "a").unlink()
    assert broken(sealed) == ["inner/a is missing"]
    (tmp_path / "outside").write_bytes(b"1")  # the very bytes that were sealed
    (sealed / "inner" / "a").symlink_to(tmp_path / "outside")
    assert broken(sealed) == ["inner/a is missing"]


def test_a_seal_that_is_torn_or_names_other_places_is_damaged(sealed):
    path = sealed / "SHA256SUMS"
    text = path.read_text()
    for damaged in (text[:-1], text.replace("  b", " b"), text.replace("  b", "  ../sealed/b"), text + "\n"):
        path.write_text(damaged)
        assert any("SHA256SUMS is damaged" in fault for fault in broken(sealed)), repr(damaged)
    path.write_text("")
    assert broken(sealed) == ["SHA256SUMS is missing or unreadable"]
    path.unlink()
    assert broken(sealed) == ["SHA256SUMS is missing or unreadable"]


def test_every_digit_of_a_hash_counts(sealed):
    path = sealed / "SHA256SUMS"
    first, *rest = path.read_text()
    for place in (0, 40, 63):
        digits = [first, *rest]
        digits[place] = "0" if digits[place] != "0" else "1"
        path.write_text("".join(digits))
        assert broken(sealed) == ["b has changed"]


@pytest.mark.parametrize("body", ['{"a":1,"a":1}', '{"a":{"b":1,"b":2}}', '{"a":1e999}', '{"a":-Infinity}', '{"a":NaN}'])
def test_a_line_whose_checksum_fits_is_still_held_to_what_is_written(body):
    """Each key once, and finite numbers."""
    line = f'{body[:-1]},"crc32":"{zlib.crc32(body.encode()):08x}"}}'.encode()
    with pytest.raises(ValueError, match=r"twice|not a finite number"):
        lines.decode(line)
    good = b'{"a":1}'
    assert lines.decode(good[:-1] + b',"crc32":"%08x"}' % zlib.crc32(good)) == {"a": 1}


def test_a_new_head_is_written_beside_the_newest_one(tmp_path):
    """If either is torn, the other is whole; the same holds after a process has begun anew."""
    path, heads = tmp_path / "head", [chain.Head(n, f"{n:064x}") for n in range(1, 6)]
    for begun in (heads[:3], heads[3:]):
        file = chain._HeadFile(path, begun[0])
        for head in begun:
            file.write(head)
            slots = chain._slots(path)
            assert head in slots and (head == heads[0] or heads[heads.index(head) - 1] in slots)
        file.close()
