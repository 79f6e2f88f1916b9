"""What pages need that no result holds: a run's bill by kind of work, the forecasts of its evaluations, papers' measures.

Here files are opened, ledgers priced and curves computed, so that no page has to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxlv.analysis import anatomy
from jaxlv.config import RunConfig
from jaxlv.data.series import COURSE_SHA256, SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.forecasting.forecast import Forecast, read_csv
from jaxlv.forecasting.panels import panels
from jaxlv.lora import adapters
from jaxlv.published.protocols import matching
from jaxlv.results.anatomy import Training
from jaxlv.results.folders import Folder, Measured, PaperFigures, Run
from jaxlv.results.record import id_of
from jaxlv.results.runs import Priced, RunCost, RunDetails
from jaxlv.results.scores import MODELS
from jaxlv.results.sweeps import Logged
from jaxlv.runs import run, sources, sweep
from jaxlv.storage import tensors
from jaxlv.storage.door import is_there
from jaxlv.studies import scoring

Data = SeriesSet | None
Split = Mapping[str, Mapping[str, str]]
KINDS: Mapping[str, str] = {"train_step": "training", "validation": "validation", "generation": "forecasts"}
"""Events of a ledger, in words."""


def completed(folder: Folder, data: Data = None) -> Folder:
    """Returns the folder with all that its page shows; `data` are the series of its forecasts.

    Raises JaxlvError if one of its files is not what it was.
    """
    if folder.kind not in ("run", "evaluation"):
        return folder
    one = with_details(folder.runs[0]) if folder.kind == "run" else folder.runs[0]
    split = one.details.split if one.details else {}
    scale = run.read_config(one.folder).codec.scale if one.folder else ""
    return replace(folder, runs=[replace(one, evaluations=[with_forecasts(m, data, split, scale) for m in one.evaluations])])


def data_of(folder: Folder, given: SeriesSet | None = None) -> Data:
    """Returns the series of a folder's forecasts: those given, or the run's own if its file is at hand and unchanged."""
    if given is not None or folder.kind != "run":
        return given
    one = folder.runs[0]
    assert one.folder is not None
    if not any(any(measured.folder.glob("forecast_*.csv")) for measured in one.evaluations):
        return None
    try:
        return sources.load_series(run.read_config(one.folder), one.folder)
    except JaxlvError:
        return None


# -------------------------------------------------------------------------------------------------- the run


def with_details(one: Run) -> Run:
    """Returns a run with what its folder tells of it."""
    assert one.folder is not None
    config, manifest, reached = run.read_config(one.folder), run.read_manifest(one.folder), one.figures
    device = manifest.versions.get("device")
    cost = RunCost(reached.steps, reached.tokens, reached.seconds, trained_parameters(one.folder), device)
    details = RunDetails(
        manifest,
        run.read_split(one.folder),
        config.train.steps,
        (one.folder / run.ADAPTER).is_dir(),
        cost,
        tuple(bill_of(config, one.folder)),
        config.budget.flops or 0.0,
        curves_of(config, reached.history),
    )
    return replace(one, details=details)


def curves_of(config: RunConfig, history: Sequence[Logged]) -> Training | None:
    """Returns the curves of a run's training; None if no loss is logged."""
    logged = any("loss" in record for record in history)
    return anatomy.training_curves(history, config.optimizer.clip_norm) if logged else None


def trained_parameters(folder: Path) -> int | None:
    """Returns how many numbers the adapter of a run has; None if there is no adapter yet."""
    files = [folder / run.ADAPTER / name for name in (adapters.TENSORS, adapters.HEAD)]
    return sum(sum(map(math.prod, tensors.shapes(path).values())) for path in files if is_there(path)) or None


def bill_of(config: RunConfig, folder: Path) -> list[Priced]:
    """Returns FLOPs of a run by phase and kind of work under every convention of its ledger, and all together."""
    found = sweep.entries_of(config, folder)
    if found is None:
        return []
    terms, own = found
    rows = []
    for phase, kind in dict.fromkeys((entry.phase, entry.event.kind) for entry in own):
        chosen = [entry for entry in own if (entry.phase, entry.event.kind) == (phase, kind)]
        rows.append(Priced(f"{phase}: {KINDS[kind]}", sweep.priced(terms, chosen)))
    if any((repeated := sweep.priced(terms, own, "repeated")).values()):
        rows.append(Priced("of these repeated after interruptions", repeated))
    return [*rows, Priced("together", sweep.priced(terms, own))]


# ----------------------------------------------------------------------------------------------- evaluations


@dataclass(frozen=True)
class Drawn:
    """The forecasts of an evaluation by model, and their series; empty, with the reason, if either is not at hand."""

    forecasts: Mapping[str, Forecast]
    data: Data
    reason: str = ""


def with_forecasts(one: Measured, data: Data, split: Split, scale: str) -> Measured:
    """Returns an evaluation with the forecasts of the model that it is about, and what papers measured in the same way."""
    drawn, subject = forecasts_of(one, data), one.scores.subject
    shown = drawn.forecasts.get(subject.name) if subject else None
    found = tuple(panels(shown, drawn.data)) if shown and drawn.data else ()
    return replace(one, panels=found, reason=drawn.reason, papers=papers_of(one, drawn, split, scale))


def forecasts_of(one: Measured, data: Data) -> Drawn:
    """Returns what an evaluation's CSV files hold, if `data` are the series that it measured."""
    paths = {path.stem.partition("_")[2]: path for path in sorted(one.folder.glob("forecast_*.csv"))}
    if not paths:
        return Drawn({}, None)
    protocol = one.scores.protocol
    if data is None or data.source.get("sha256") != protocol.data_sha256:
        name = protocol.data or "the series"
        return Drawn({}, None, f"Forecasts are not drawn: {name} is not at hand (name it by --data).")
    try:
        found = {name: read_csv(path, data) for name, path in paths.items()}
    except JaxlvError as fault:
        return Drawn({}, None, f"Forecasts are not drawn: {fault}.")
    return Drawn({name: found[name] for name in (*MODELS, *found) if name in found}, data)


def papers_of(one: Measured, drawn: Drawn, split: Split, scale: str) -> list[PaperFigures]:
    """Returns the parts of papers that measured as an evaluation did: same data, split, series, context and horizon."""
    protocol = one.scores.protocol
    if protocol.data_sha256 != COURSE_SHA256 or not drawn.forecasts or drawn.data is None:
        return []
    ids = {share: {id_of(i) for i in marks} for share, marks in split.items()}
    series = protocol.series if isinstance(protocol.series, tuple) else ()
    pairs = matching(ids, series, protocol.context or 0, protocol.horizon or 0)
    chosen = drawn.data.select(next(iter(drawn.forecasts.values())).ids_N)
    return [scoring.paper_figures(paper, part, drawn.forecasts, chosen, scale) for paper, part in pairs]
