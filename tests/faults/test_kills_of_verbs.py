"""Verbs that are killed at random instants, half of them within a write: nothing is lost, and nothing blocks the repeat."""

from __future__ import annotations

import functools
import itertools
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxlv.flops import ledger
from jaxlv.runs import run
from jaxlv.studies.compare import RESULT as COMPARE
from tests import quick
from tests.faults.child import Child
from tests.faults.conftest import LONG, unfinished
from tests.test_compare import data, options  # noqa: F401

KILLS = 12  # of each verb
TABLE: list[str] = []
pytestmark = pytest.mark.skipif(not LONG, reason="minutes a verb: set JAXLV_FAULTS_LONG")


@dataclass
class Verb:
    """A call that leaves `out` in a folder of its own; `outcome` reads what must be the same however often it was killed.

    One with a `part` of its folder by which it is known again goes on with --resume.
    """

    name: str
    arguments: list[Any]
    out: str
    outcome: Callable[[Path], Any]
    part: str = ""
    setup: Callable[[], None] | None = None
    begun: Path | None = None  # what it needs in the folder beside `out`
    cache: Path = field(default_factory=Path)

    def start(self, folder: Path, log: Path) -> Child:
        """The call in a process, once more."""
        resume = ["--resume"] if self.part and (folder / self.out / self.part).is_dir() else []
        given = [folder / one[1:] if isinstance(one, str) and one.startswith("@") else one for one in self.arguments]
        return Child(self.name, *given, "--out", folder / self.out, *resume, out=log, cache=self.cache, setup=self.setup)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def measures(folder: Path) -> Any:
    tree = json.loads((folder / "metrics.json").read_text())
    return tree, {path.name: path.read_bytes() for path in folder.glob("*.csv")}


def comparison(folder: Path) -> Any:
    tree = json.loads((folder / COMPARE).read_text())
    for protocol in tree["protocols"].values():
        protocol["flops"] = protocol["flops"]["total"] - protocol["flops"]["repeated"]
    for path in folder.rglob(run.LEDGER):
        assert ledger.verify(path) == []
    return tree, {path.name: path.read_bytes() for path in folder.glob("*.csv")}


@pytest.fixture(scope="module")
def verbs(subject, data, options, random_model, tmp_path_factory) -> dict[str, Verb]:  # noqa: F811
    place = tmp_path_factory.mktemp("verbs")
    configs, base = quick.write_configs(place), quick.write_base(place / "base", random_model)
    measured, tuned = ["@run", "--context", 8, "--horizon", 4, "--samples", 4, "--unmasked-samples", 2], subject.whole
    of_quick = [quick.SYSTEM, "--model", base, "--data", data, "--set", "lora.dropout=0.0"]
    setup = functools.partial(quick.install, configs)
    found = [
        Verb("reproduce", of_quick, "out", quick.figures_of, "stages", setup),
        Verb("compare", [*options, "--protocols", "liu"], "out", comparison, "parts"),
        Verb("evaluate", measured, "out", measures, begun=tuned),
        Verb("report", ["@run"], "page.html", Path.read_bytes, begun=tuned),
        Verb("export", ["@run", "--to", "merged", "--side-head"], "out", content, begun=tuned),
    ]
    for verb in found:
        verb.cache = Path(jax.config.values["jax_compilation_cache_dir"])
    return {verb.name: verb for verb in found}


@pytest.fixture(scope="module", autouse=True)
def told() -> Iterator[None]:
    """Print the table in the end."""
    yield
    print("\n" + "\n".join(["verb        kills  in a write  runs  repeated FLOPs  lost", *TABLE]))


def kill(verb: Verb, child: Child, folder: Path, instant: float, in_a_write: bool) -> bool:
    """Kill a process that has had its time; if it shall be within a write, at the next one. Whether it was alive."""
    child.process.join(instant)
    while in_a_write and child.process.is_alive() and not unfinished(folder):
        time.sleep(0.0005)
    alive = child.process.is_alive()
    child.kill()
    return alive


@pytest.mark.parametrize("name", ["reproduce", "compare", "evaluate", "report", "export"])
def test_a_verb_that_is_killed_again_and_again_ends_as_if_it_had_not_been(verbs, name, tmp_path):
    verb, chance, logs = verbs[name], random.Random(name), (tmp_path / f"said-{n}" for n in itertools.count())

    def place(name: str) -> Path:
        (tmp_path / name).mkdir()
        if verb.begun:
            shutil.copytree(verb.begun, tmp_path / name / "run")
        return tmp_path / name

    for again in ("warm", "whole"):  # the first one fills the cache
        whole, began = place(again), time.monotonic()
        child = verb.start(whole, next(logs))
        assert child.end(1200) == 0, child.said
        took = time.monotonic() - began
    expected, kills, within, runs, repeated = verb.outcome(whole / verb.out), 0, 0, 0, 0
    while kills < KILLS:
        folder, runs, left = place(f"run-{runs}"), runs + 1, 0.0
        while True:
            child = verb.start(folder, next(logs))
            in_a_write = kills % 2 == 1
            if kills == KILLS or not kill(verb, child, folder, chance.uniform(0.1, 0.9) * took, in_a_write):
                assert child.end(1200) == 0, child.said
                break
            kills += 1
            within += bool(unfinished(folder))
            if not verb.part:
                assert not (folder / verb.out).exists()  # whole, or not there
            left += took
        assert verb.outcome(folder / verb.out) == expected
        assert not unfinished(folder / verb.out)
        for path in folder.rglob("*.jsonl"):
            if path.name in (run.LEDGER, "beside.jsonl"):
                assert ledger.verify(path) == []
                repeated += ledger.totals(ledger.read(path)[1]).repeated
    TABLE.append(f"{name:10}  {kills:5}  {within:10}  {runs:4}  {repeated:14.3g}  nothing")
