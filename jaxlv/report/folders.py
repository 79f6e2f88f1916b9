"""What a folder of results is, and what lies in it: a run, a sweep, a reproduction, a comparison or an evaluation.

Nothing here loads a model: figures come from the files that the programs left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxlv.config import RunConfig, config_tree
from jaxlv.errors import JaxlvError, briefly
from jaxlv.published import reproduction
from jaxlv.runs import run, sweep
from jaxlv.storage.door import is_there
from jaxlv.storage.files import SEAL, as_written, read_json

Tree = Mapping[str, Any]
Kind = Literal["reproduction", "sweep", "comparison", "run", "evaluation"]
RESULTS: Mapping[str, Kind] = {
    "reproduce.json": "reproduction", "sweep.json": "sweep", "compare.json": "comparison", run.CONFIG: "run",
    "metrics.json": "evaluation",
}  # fmt: skip
"""The file that tells what a folder is, the first that is there; a run that was evaluated has two."""
METRICS, ANALYSES = "metrics.json", "analyses.json"
NEEDED: Mapping[Kind, tuple[str, ...]] = {
    "reproduction": ("system", "stages", "parts", "plan", "rule"), "sweep": ("runs", "rule", "best"),
    "comparison": ("protocols",), "evaluation": ("rows", "protocol"),
}  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """What `jaxlv evaluate` left in a folder; its name is the folder's, "" where that is the run's own."""

    name: str
    folder: Path
    metrics: Tree


@dataclass(frozen=True)
class Run:
    """A run: its settings by "section.key", its figures as `sweep.outcome` has them, and how it was measured."""

    name: str
    settings: Tree
    figures: Tree
    folder: Path | None = None  # None: no run folder, its figures alone are known
    config: RunConfig | None = None
    evaluations: Sequence[Evaluation] = ()
    analyses: Mapping[str, Tree] = field(default_factory=dict)  # by the folder's name


@dataclass(frozen=True)
class Folder:
    """A folder of results: what it is, the tree that says what came of it, and its runs, each once."""

    path: Path
    kind: Kind
    tree: Tree
    runs: Sequence[Run]


def read(path: Path) -> Folder:
    """What lies in a folder; JaxlvError, one line, where it is none of these or a file of it is damaged."""
    if not path.is_dir():
        raise JaxlvError("no such folder" if not path.exists() else "not a folder", where=path)
    whole = path.resolve()
    for file, kind in RESULTS.items():
        if is_there(whole / file):
            with readable(path, kind):
                return READERS[kind](path, whole, kind, file)
    there = sorted(entry.name for entry in whole.iterdir())
    known = ", ".join(f"{file} ({kind})" for file, kind in RESULTS.items())
    hint = "name a run folder in it" if (whole / sweep.RUNS).is_dir() else "name what a verb wrote to --out"
    if (whole / sweep.RUNS).is_dir():
        hint = f"not ended yet? go on with --resume, or name a run of {path / sweep.RUNS}"
    found = ", ".join([*there[:6], "…"] if len(there) > 6 else there) or "nothing"
    raise JaxlvError("no run, sweep or reproduction", where=path, expected=f"one of {known}", found=found, hint=hint)


@contextlib.contextmanager
def readable(path: Path, kind: Kind) -> Iterator[None]:
    """What goes wrong with a tree that is not as its program wrote it, as one JaxlvError."""
    file = next(file for file, of in RESULTS.items() if of == kind)
    with as_written(f"the {kind} does not read as one", path, file):
        yield


def read_tree(path: Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """A JSON file that holds an object with these keys; JaxlvError where it does not."""
    try:
        tree = read_json(path)
    except JaxlvError as fault:
        raise JaxlvError(f"{path.name} does not read ({briefly(fault)})", where=path.parent) from None
    missing = [key for key in needed if key not in tree] if isinstance(tree, dict) else list(needed)
    if missing or not isinstance(tree, dict):
        found = sorted(tree)[:8] if isinstance(tree, dict) else type(tree).__name__
        raise JaxlvError(f"{path.name} is not what it was", where=path.parent, expected=", ".join(needed), found=found)
    return tree


def flat(config: RunConfig) -> dict[str, Any]:
    """{"section.key": value} of a config; how series are simulated, only where they are."""
    idle = {"data.preset", "data.simulate"} if config.data.path else set()
    found = {f"{name}.{key}": value for name, section in config_tree(config).items() for key, value in section.items()}
    return {name: value for name, value in found.items() if name not in idle}


# ------------------------------------------------------------------------------------------------- runs


def _beside(folder: Path, file: str) -> list[Path]:
    """That file in a folder, and in the folders of it."""
    return [path for path in (folder / file, *sorted(folder.glob(f"*/{file}"))) if is_there(path)]


def read_run(folder: Path, name: str, known: Tree | None = None) -> Run:
    """The run in a folder; `known` are its figures where a sweep has told them."""
    for file in (SEAL, run.LEDGER, run.METRICS):
        is_there(folder / file)  # raises, if something else is
    config = run.read_config(folder)
    figures = known or sweep.outcome(sweep.Cell(folder.name, {}, config), folder.parent, evaluations=False)
    evaluations = [
        Evaluation("" if path.parent == folder else path.parent.name, path.parent, read_tree(path, NEEDED["evaluation"]))
        for path in _beside(folder, METRICS)
    ]
    analyses = {path.parent.name: read_tree(path) for path in _beside(folder, ANALYSES)}
    return Run(name, flat(config), figures, folder, config, evaluations, analyses)


def _told(runs: Path, one: Tree, evaluations: Sequence[Evaluation] = ()) -> Run:
    """A run that a sweep tells of, with its folder where that is still there."""
    if is_there(runs / one["name"] / run.CONFIG):
        found = read_run(runs / one["name"], one["name"], one)
        return Run(
            found.name, found.settings, one, found.folder, found.config, [*evaluations, *found.evaluations], found.analyses
        )
    return Run(one["name"], one["settings"], one, evaluations=evaluations)


def _run(path: Path, whole: Path, kind: Kind, file: str) -> Folder:
    return Folder(path, kind, run.read_manifest(whole), [read_run(whole, whole.name)])


def _sweep(path: Path, whole: Path, kind: Kind, file: str) -> Folder:
    tree = read_tree(whole / file, NEEDED[kind])
    return Folder(path, kind, tree, [_told(whole / sweep.RUNS, one) for one in tree["runs"]])


def _reproduction(path: Path, whole: Path, kind: Kind, file: str) -> Folder:
    tree, runs = read_tree(whole / file, NEEDED[kind]), []
    for stage in tree["stages"]:
        for one in stage["runs"]:
            if "same_as" not in one:
                measured = _measured(tree, stage, whole) if one is stage["runs"][0] else []
                runs.append(_told(whole / sweep.RUNS, one, measured))
    return Folder(path, kind, tree, runs)


def _measured(tree: Tree, stage: Tree, folder: Path) -> list[Evaluation]:
    """The forecasts of a stage's first model, a part each, as evaluations."""
    name = reproduction.MODELS.get(stage["name"])
    return [
        Evaluation(
            part["part"], folder, {"protocol": {**part["protocol"], "data_sha256": tree.get("data_sha256")}, "rows": [row]}
        )
        for part in tree["parts"].values()
        for row in part["rows"]
        if row["name"] == name and not part["protocol"].get("simulated")
    ]


def _comparison(path: Path, whole: Path, kind: Kind, file: str) -> Folder:
    tree = read_tree(whole / file, NEEDED[kind])
    found = sorted(place.parent for place in (whole / sweep.RUNS).glob(f"*/{run.CONFIG}"))
    return Folder(path, kind, tree, [read_run(folder, folder.name) for folder in found])


def _evaluation(path: Path, whole: Path, kind: Kind, file: str) -> Folder:
    tree = read_tree(whole / file, NEEDED[kind])
    return Folder(path, kind, tree, [Run(whole.name, {}, {}, evaluations=[Evaluation("", whole, tree)])])


READERS = {
    "reproduction": _reproduction, "sweep": _sweep, "comparison": _comparison, "run": _run, "evaluation": _evaluation,
}  # fmt: skip
