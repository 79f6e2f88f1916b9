"""What a folder of results is, and what lies in it: a run, a sweep, a reproduction, a comparison or an evaluation.

Nothing here loads a model: figures come from the files that the programs left.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxlv.analysis.analyses import with_bands
from jaxlv.config import RunConfig, config_tree
from jaxlv.errors import JaxlvError, briefly
from jaxlv.published import reproduction
from jaxlv.results.analyses import Analyses
from jaxlv.results.folders import Folder, Kind, Measured, Run
from jaxlv.results.papers import Comparison, Reproduction, StageResult
from jaxlv.results.scores import Evaluation
from jaxlv.results.sweeps import Outcome, Sweep
from jaxlv.runs import run, sweep
from jaxlv.storage import shape
from jaxlv.storage.door import is_there
from jaxlv.storage.files import SEAL, as_written, read_json, read_text

RESULTS: Mapping[str, Kind] = {
    "reproduce.json": "reproduction", "sweep.json": "sweep", "compare.json": "comparison", run.CONFIG: "run",
    "metrics.json": "evaluation",
}  # fmt: skip
"""The file that tells what a folder is, the first that is there; a run that was evaluated has two."""
METRICS, ANALYSES = "metrics.json", "analyses.json"


def read(path: Path) -> Folder:
    """Reads what lies in a folder. Raises JaxlvError if it is none of these, or if a file of it is damaged."""
    if not path.is_dir():
        raise JaxlvError("no such folder" if not path.exists() else "not a folder", where=path)
    whole = path.resolve()
    for file, kind in RESULTS.items():
        if is_there(whole / file):
            with readable(path, kind):
                return replace(READERS[kind](whole, whole / file), path=path)
    there = sorted(entry.name for entry in whole.iterdir())
    known = ", ".join(f"{file} ({kind})" for file, kind in RESULTS.items())
    hint = "name a run folder in it" if (whole / sweep.RUNS).is_dir() else "name what a verb wrote to --out"
    if (whole / sweep.RUNS).is_dir():
        hint = f"not ended yet? go on with --resume, or name a run of {path / sweep.RUNS}"
    found = ", ".join([*there[:6], "…"] if len(there) > 6 else there) or "nothing"
    raise JaxlvError("no run, sweep or reproduction", where=path, expected=f"one of {known}", found=found, hint=hint)


def read_all(paths: Sequence[Path]) -> list[Folder]:
    """Reads several folders. Each has the name of its folder, with those above it if two have one name.

    Raises JaxlvError as `read` does, and if a folder is named twice.
    """
    found = [read(path) for path in paths]
    parts = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if max(Counter(names).values()) == 1:
            return [replace(folder, name=name) for folder, name in zip(found, names, strict=True)]
    raise JaxlvError("a folder is named twice", where=next(name for name, n in Counter(names).items() if n > 1))


@contextlib.contextmanager
def readable(path: Path, kind: Kind) -> Iterator[None]:
    """Raises one JaxlvError for whatever goes wrong with a tree that is not as its program wrote it."""
    file = next(file for file, of in RESULTS.items() if of == kind)
    with as_written(f"the {kind} does not read as one", path, file):
        yield


def read_tree(path: Path) -> dict[str, object]:
    """Reads a JSON file that holds an object. Raises JaxlvError if it does not."""
    try:
        return shape.check(read_json(path), {}, path)
    except JaxlvError as fault:
        raise JaxlvError(f"{path.name} does not read ({briefly(fault)})", where=path.parent) from None


def read_scores(path: Path) -> Evaluation:
    """Reads a metrics.json. Raises JaxlvError if it is not what was written."""
    return Evaluation.read(read_tree(path), path)


def read_analyses(path: Path) -> Analyses:
    """Reads an analyses.json. Raises JaxlvError if it is not what was written."""
    return with_bands(Analyses.read(read_tree(path), path))


def flat(config: RunConfig) -> dict[str, Any]:
    """Returns {"section.key": value} of a config; how series are simulated only if they are."""
    idle = {"data.preset", "data.simulate"} if config.data.path else set()
    found = {f"{name}.{key}": value for name, section in config_tree(config).items() for key, value in section.items()}
    return {name: value for name, value in found.items() if name not in idle}


# ------------------------------------------------------------------------------------------------- runs


def _beside(folder: Path, file: str) -> list[Path]:
    """Returns the files of that name in a folder, and in those inside."""
    return [path for path in (folder / file, *sorted(folder.glob(f"*/{file}"))) if is_there(path)]


def read_run(folder: Path, name: str, known: Outcome | None = None) -> Run:
    """Reads the run in a folder; `known` is what it reached, if a sweep has told that."""
    for file in (SEAL, run.LEDGER, run.METRICS):
        is_there(folder / file)  # raises, if something else is
    config = run.read_config(folder)
    figures = known or sweep.outcome(sweep.Cell(folder.name, {}, config), folder.parent, evaluations=False)
    evaluations = [
        Measured("" if path.parent == folder else path.parent.name, path.parent, read_scores(path))
        for path in _beside(folder, METRICS)
    ]
    analyses = {path.parent.name: read_analyses(path) for path in _beside(folder, ANALYSES)}
    return Run(name, flat(config), figures, folder, evaluations, analyses)


def _told(runs: Path, one: Outcome, evaluations: Sequence[Measured] = ()) -> Run:
    """Returns a run that a sweep tells of, with its folder if that is still there."""
    if is_there(runs / one.name / run.CONFIG):
        found = read_run(runs / one.name, one.name, one)
        return replace(found, figures=one, evaluations=[*evaluations, *found.evaluations])
    return Run(one.name, one.settings, one, evaluations=evaluations)


def _drawings(folder: Path) -> dict[str, str]:
    """Reads the drawings of a folder's parts by name."""
    return {path.stem: read_text(path) for path in sorted((folder / "parts").glob("*.svg"))}


def _run(whole: Path, file: Path) -> Folder:
    run.read_manifest(whole)  # raises, if it is damaged
    return Folder(whole, whole.name, "run", None, [read_run(whole, whole.name)])


def _sweep(whole: Path, file: Path) -> Folder:
    result = Sweep.read(read_tree(file), file)
    return Folder(whole, whole.name, "sweep", result, [_told(whole / sweep.RUNS, one) for one in result.runs])


def _reproduction(whole: Path, file: Path) -> Folder:
    result, runs = Reproduction.read(read_tree(file), file), []
    for stage in result.stages:
        for one in stage.runs:
            if one.same_as is None:
                measured = _measured(result, stage, whole) if one is stage.runs[0] else []
                runs.append(_told(whole / sweep.RUNS, one, measured))
    path = whole / "analyses" / ANALYSES
    analyses = read_analyses(path) if is_there(path) else None
    return Folder(whole, whole.name, "reproduction", result, runs, _drawings(whole), analyses)


def _measured(result: Reproduction, stage: StageResult, folder: Path) -> list[Measured]:
    """Returns the forecasts of a stage's first model, a part each, as evaluations."""
    name = reproduction.MODELS.get(stage.name)
    return [
        Measured(part.part, folder, Evaluation(replace(part.protocol, data_sha256=result.data_sha256), (row,)))
        for part in result.parts.values()
        for row in part.rows
        if row.name == name and not part.protocol.simulated
    ]


def _comparison(whole: Path, file: Path) -> Folder:
    found = sorted(place.parent for place in (whole / sweep.RUNS).glob(f"*/{run.CONFIG}"))
    runs = [read_run(folder, folder.name) for folder in found]
    return Folder(whole, whole.name, "comparison", Comparison.read(read_tree(file), file), runs, _drawings(whole))


def _evaluation(whole: Path, file: Path) -> Folder:
    scores = read_scores(file)
    one = Run(whole.name, {}, Outcome(whole.name, {}), evaluations=[Measured("", whole, scores)])
    return Folder(whole, whole.name, "evaluation", scores, [one])


READERS: Mapping[Kind, Callable[[Path, Path], Folder]] = {
    "reproduction": _reproduction, "sweep": _sweep, "comparison": _comparison, "run": _run, "evaluation": _evaluation,
}  # fmt: skip
