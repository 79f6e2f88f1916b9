"""A program's folder at any instant: what a process that is killed there leaves, without a process of its own for each."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from jaxlv.flops.ledger import Ledger
from jaxlv.runs import checkpoint
from jaxlv.runs.member import Member
from jaxlv.storage import files


class Killed(BaseException):
    """What ends the process at an instant; the disk was copied before anything could be tidied up."""


class AtOnce:
    """An executor that does what it is given before it goes on: a save in the background is at no instant half done."""

    def __init__(self, *_: Any):
        pass

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Work, done already."""
        done: Future[Any] = Future()
        done.set_result(work(*arguments))
        return done

    def shutdown(self) -> None:
        """Does nothing, because nothing is left to end."""


class Instants:
    """The instants at which a process that works in `out` can be killed, by name: behind each line of a ledger, behind each
    step, before and behind each file and folder that gets its name. `seen` counts them.

    At the one named by `at` the folder is copied, and Killed is raised; what that tidies up is put back from the copy.
    """

    def __init__(self, out: Path):
        self.out, self.at, self.seen, self.aside = out, "", Counter(), out.with_name(f"{out.name}-aside")

    def reached(self, name: str) -> None:
        """The process is at this instant."""
        self.seen[name] += 1
        if name == self.at:
            shutil.copytree(self.out, self.aside, symlinks=True)
            raise Killed

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """The hooks, as long as the body runs."""
        write, put, log_step, instants = Ledger._write, files._put, Member.log_step, self

        def write_line(ledger: Ledger, record: dict[str, Any]) -> None:
            write(ledger, record)
            entry = ledger.entries[record["commit"]] if "commit" in record else None
            if "reserve" in record:
                instants.reached(f"reserve {record['phase']} {record['event']['kind']}")
            elif entry:
                instants.reached(f"commit {entry.phase} {entry.event.kind}")
            else:
                instants.reached(f"{next(iter(record))} {ledger.path.name}")

        def put_there(work: Path, place: Path, old: Path | None) -> None:
            name = place.relative_to(instants.out.resolve()) if place.is_relative_to(instants.out.resolve()) else place.name
            instants.reached(f"before {name}")
            put(work, place, old)
            instants.reached(f"after {name}")

        def log(member: Member, step: int, *figures: Any) -> None:
            log_step(member, step, *figures)
            instants.reached(f"step {step} of {member.folder.name}")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Ledger, "_write", write_line)
            patch.setattr(files, "_put", put_there)
            patch.setattr(Member, "log_step", log)
            patch.setattr(checkpoint, "ThreadPoolExecutor", AtOnce)
            yield

    def run(self, main: Callable[[list[str]], Any], arguments: list[str], at: str = "") -> tuple[int, str]:
        """(exit code, what was said) of a program that is killed at the instant of a name: -9, and its folder as it was."""
        self.at, said = at, io.StringIO()
        code: Any = 0
        with self.watched(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                main(arguments)
            except (SystemExit, Killed) as stop:
                code = stop.code if isinstance(stop, SystemExit) else -9
        if self.aside.exists():
            shutil.rmtree(self.out)
            self.aside.rename(self.out)
            code = -9
        return code, said.getvalue()
