"""Files and folders are complete or absent, whichever call of the operating system fails, and whenever."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jaxlv.errors import JaxlvError
from jaxlv.runs.interrupts import Stopped
from jaxlv.storage import files

CALLS = ("open", "mkdir", "replace", "fsync")


def content(folder: Path) -> dict[str, str]:
    """Returns every file of a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def breaking(patch: pytest.MonkeyPatch, number: int, fault: Callable[[], BaseException]) -> list[str]:
    """Makes the call with a number fail, counted over all of CALLS; returns the list of calls made so far."""
    made: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(os, name)

        def call(*arguments: Any, **named: Any) -> Any:
            made.append(name)
            if len(made) == number:
                raise fault()
            return original(*arguments, **named)

        return call

    for name in CALLS:
        patch.setattr(os, name, counted(name))
    return made


def make_folder(folder: Path, replace: bool = False) -> None:
    with files.new_folder(folder / "out", replace=replace) as work:
        files.write_text(work / "a.txt", "new")
        (work / "inner").mkdir()
        files.write_json(work / "inner" / "b.json", {"b": 1})


def make_file(folder: Path) -> None:
    files.write_text(folder / "a.txt", "new")


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def stopped() -> Stopped:
    return Stopped(signal.SIGTERM)


CASES: dict[str, tuple[Callable[[Path], None], dict[str, str], dict[str, str]]] = {
    "a folder": (make_folder, {}, {"out/a.txt": "new", "out/inner/b.json": '{\n "b": 1\n}\n'}),
    "a folder in place of another": (
        lambda folder: make_folder(folder, replace=True),
        {"out/old.txt": "old"},
        {"out/a.txt": "new", "out/inner/b.json": '{\n "b": 1\n}\n'},
    ),
    "a file": (make_file, {}, {"a.txt": "new"}),
    "a file in place of another": (make_file, {"a.txt": "old"}, {"a.txt": "new"}),
}


@pytest.mark.parametrize("fault", [full, stopped], ids=["a full disk", "a signal"])
@pytest.mark.parametrize("case", CASES)
def test_whichever_call_fails_what_was_there_stays_and_the_next_try_succeeds(case, fault, tmp_path):
    make, before, after = CASES[case]
    failed = []
    for number in range(1, 100):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, text in before.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        with pytest.MonkeyPatch.context() as patch:
            made = breaking(patch, number, fault)
            try:
                make(folder)
                allowed = [after]
            except (OSError, Stopped):
                failed.append(made[number - 1])
                allowed = [before]
        if len(made) < number:
            break
        if fault is stopped or case == "a file in place of another":  # all that remained: removing, and flushing its folder
            allowed.append(after)
        found = {name: text for name, text in content(folder).items() if not name.startswith(".")}
        assert found in allowed, f"call {number}, {made[number - 1]}"
        if case != "a folder" or found != after:
            make(folder)
        files.remove_unfinished(folder)
        assert content(folder) == after and not list(folder.rglob(f".*{files.SUFFIX}"))
    assert {"replace", "fsync", "mkdir"} <= set(failed) and failed[-1] != failed[0]


def test_an_error_of_the_system_names_what_was_to_be_written(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, files.new_folder(tmp_path / "out"):
        raise full()
    assert caught.value.filename == str(tmp_path / "out")
    with pytest.raises(OSError, match="No such file") as caught, files.new_folder(tmp_path / "out") as work:
        (work / "none" / "a.txt").write_text("")
    assert caught.value.filename == str(tmp_path / "out")
    with pytest.raises(OSError, match="No such file") as caught:
        files.write_text(tmp_path / "none" / "a.txt", "")
    assert caught.value.filename == str(tmp_path / "none" / "a.txt")


@pytest.fixture
def inside(tmp_path, monkeypatch) -> Iterator[Path]:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "here"


def test_places_that_cannot_be_made_as_a_whole_are_refused(inside, tmp_path):
    with pytest.raises(JaxlvError, match="the folder you are in"), files.new_folder(Path(".")):
        pass
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(JaxlvError, match="not a regular file"):
        files.write_text(tmp_path / "pipe", "")  # a pipe, as a failure here would replace a device for everybody
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(JaxlvError, match="exists already"), files.new_folder(tmp_path / "full"):
        pass
    with pytest.raises(JaxlvError, match="is not a folder"), files.new_folder(tmp_path / "full" / "a" / "b"):
        pass


def test_an_empty_folder_and_a_link_to_one_are_filled(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    make_folder(tmp_path)
    assert (tmp_path / "real" / "a.txt").read_text() == "new" and (tmp_path / "out").is_symlink()


def test_what_another_process_makes_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(JaxlvError, match="exists already"), files.new_folder(tmp_path / "out"):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").touch()
    assert content(tmp_path) == {"out/theirs": ""}


def test_what_a_killed_process_left_is_removed_and_what_it_moved_away_is_put_back(tmp_path):
    left = tmp_path / f".out[1].abc{files.SUFFIX}"
    (left / "new").mkdir(parents=True)
    (left / "old").mkdir()
    (left / "old" / "kept.txt").write_text("old")
    files.remove_unfinished(tmp_path, "out[1]")
    assert content(tmp_path) == {"out[1]/kept.txt": "old"}
    with files.new_folder(tmp_path / "alive") as work:  # what a living process writes stays
        files.remove_unfinished(tmp_path)
        assert work.is_dir()


def test_a_place_that_is_watched_is_known_to_be_gone_renamed_or_replaced(tmp_path):
    place = tmp_path / "place"
    changes: list[Callable[[], object]] = [
        lambda: shutil.rmtree(place),
        lambda: (shutil.rmtree(place), place.mkdir()),  # perhaps under the same inode number
        lambda: place.rename(tmp_path / "elsewhere"),
        lambda: (shutil.rmtree(place), place.write_text("a file")),
    ]
    for change in changes:
        shutil.rmtree(place, ignore_errors=True)
        place.unlink(missing_ok=True) if place.is_file() else None
        place.mkdir()
        with files.Watched() as places:
            places.add(place)
            places.check()
            change()
            with pytest.raises(JaxlvError, match="was removed, renamed or replaced"):
                places.check()
    with files.Watched() as places, pytest.raises(JaxlvError, match="was removed"):
        places.add(tmp_path / "never there")


def test_what_is_made_in_a_folder_that_was_removed_and_made_anew_gets_no_name(tmp_path):
    """Some libraries make every missing folder."""
    place = tmp_path / "run"
    place.mkdir()
    with pytest.raises(JaxlvError, match="was removed, renamed or replaced"), files.new_folder(place / "out") as work:
        place.rename(tmp_path / "elsewhere")
        (work / "inner").mkdir(parents=True)
    assert not (place / "out").exists()


def test_a_folder_in_which_a_process_works_is_refused_to_the_next_with_the_number_of_the_first(tmp_path):
    refused = pytest.raises(JaxlvError, match=rf"another process works here \(pid {os.getpid()}\)")
    with files.only_process(tmp_path / "lock"), refused, files.only_process(tmp_path / "lock"):
        pass
    with files.only_process(tmp_path / "lock"):
        pass


def test_an_error_about_a_file_in_a_folder_that_is_being_made_names_where_it_would_be(tmp_path):
    with pytest.raises(JaxlvError) as caught, files.new_folder(tmp_path / "out") as work:
        raise JaxlvError("unreadable", where=work / "a.json")
    assert str(caught.value) == f"{tmp_path / 'out' / 'a.json'}: unreadable"
    assert caught.value.where == str(tmp_path / "out" / "a.json")


def test_the_lock_of_another_process_is_left_alone(tmp_path):
    with files.only_process(tmp_path / "lock"):
        (tmp_path / "lock").unlink()
        (tmp_path / "lock").write_text("theirs")
    assert (tmp_path / "lock").read_text() == "theirs"


def test_an_extension_s_fault_is_a_system_error_by_its_text():
    known = files.system_error(RuntimeError("write: No space left on device (28)"), Path("x"))
    unknown, memory = files.system_error(RuntimeError("odd"), Path("x")), files.system_error(MemoryError(), Path("x"))
    assert (known.errno, unknown.errno, memory.errno) == (errno.ENOSPC, errno.EIO, errno.ENOMEM)
    assert unknown.strerror == "RuntimeError: odd" and known.filename == "x"
